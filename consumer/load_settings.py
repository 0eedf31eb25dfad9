"""Fill the settings: a TOML file, then the environment, then flags; the later one wins, and nothing is ignored.

A setting is named `section.key` in a file or a flag and `TIDEMILL_SECTION__KEY` in the environment. Every problem of
all three sources is reported in one ConfigError, so that one round of corrections is enough.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import SecretStr, ValidationError

from consumer.describe_settings import (
    HIDDEN,
    KNOWN,
    SECTIONS,
    identity,
    is_secret,
    is_table,
    kinds,
    leaf,
    settings_schema,
    show,
)
from consumer.errors import ConfigError
from consumer.settings import Settings
from consumer.settings_rules import broken_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["identity", "load_settings", "settings_schema", "show"]

ENVIRONMENT_PREFIX = "TIDEMILL_"
MAX_SECRET_BYTES = 65_536


class Given(NamedTuple):
    """One value as it was found, and where."""

    name: str
    value: Any
    origin: str


def load_settings(file: Path | None, environ: Mapping[str, str], overrides: Sequence[str]) -> Settings:
    """Return the settings from a TOML file, the environment and `section.key=value` flags, in this order.

    A password file is read into `sasl_password`. Raises ConfigError that lists every problem found.
    """
    problems: list[str] = []
    given = [*_from_file(file, problems), *_from_environment(environ, problems), *_from_flags(overrides, problems)]
    tree, origins = _merge(given, problems)
    settings = _validate(tree, origins, problems)
    if settings is not None:
        problems += broken_rules(settings)
        _try_password_file(settings, problems)
    if problems or settings is None:
        raise ConfigError(_report(problems))
    return settings


# --- where values come from


def _from_file(file: Path | None, problems: list[str]) -> Iterator[Given]:
    if file is None:
        return
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{file}: is not TOML: {error}")
        return
    for section, table in data.items():
        if isinstance(table, dict):
            yield from (Given(f"{section}.{key}", value, str(file)) for key, value in table.items())
        else:
            yield Given(section, table, str(file))


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[Given]:
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if "__" in name:
            dotted = name.replace("__", ".")
            yield Given(dotted, _parse(dotted, environ[variable]), variable)
        else:
            _suspect(variable, name, environ[variable], problems)


def _suspect(variable: str, name: str, value: str, problems: list[str]) -> None:
    """A variable with one underscore too few is a mistake, unless an orchestrator made it for a service of ours."""
    meant = next((known for known in KNOWN if known.replace(".", "_") == name), None)
    if meant is not None and "://" not in value:
        right = ENVIRONMENT_PREFIX + meant.replace(".", "__").upper()
        problems.append(f"{variable}: no such setting; for {meant} write {right}")


def _from_flags(overrides: Sequence[str], problems: list[str]) -> Iterator[Given]:
    for flag in overrides:
        name, equals, text = flag.partition("=")
        name = name.strip()
        if equals:
            yield Given(name, _parse(name, text), "flag")
        else:
            problems.append(f"{name} (flag): has no value; write section.key=value")


def _parse(name: str, text: str) -> Any:
    """Read the text of a variable or a flag: as TOML where the setting can be other than text, else as it stands.

    An entry of `input.map` is a path, in which quotes have their own meaning.
    """
    section, key, *entry = [*name.split(".", 2), ""]
    if (section, key) == ("input", "map") and len(entry) > 1:
        return text
    field = KNOWN.get(f"{section}.{key}")
    admitted = kinds(field.annotation) if field else set()
    if SecretStr in admitted:
        return text
    if len(entry) > 1:
        admitted.discard(dict)
    value = _toml_value(text)
    if isinstance(value, str) or (value is not None and admitted & {int, float, bool, dict}):
        return value
    return text


def _toml_value(text: str) -> Any:
    """Return the one TOML value that `text` is, or None."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return None
    return parsed["value"] if len(parsed) == 1 else None


# --- one tree out of all sources


def _merge(given: Sequence[Given], problems: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the nested values and the origin of each dotted name; the later value wins, tables are merged."""
    tree: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for item in given:
        section, key, entry, *_ = [*item.name.split(".", 2), "", ""]
        known = KNOWN.get(f"{section}.{key}")
        if known is None or (entry and not is_table(known)):
            problems.append(_unknown(item))
            continue
        values = tree.setdefault(section, {})
        value = {entry: item.value} if entry else item.value
        before = values.get(key)
        values[key] = before | value if isinstance(before, dict) and isinstance(value, dict) else value
        origins[item.name] = item.origin
    return tree, origins


def _unknown(item: Given) -> str:
    section, _, key = item.name.partition(".")
    same_key = [known for known in KNOWN if known.split(".")[1] == key]
    near = difflib.get_close_matches(item.name, KNOWN, n=1, cutoff=0.6) or same_key
    if near:
        hint = f"did you mean {near[0]}?"
    elif section in SECTIONS:
        hint = f"[{section}] has {', '.join(name.split('.')[1] for name in KNOWN if name.startswith(section + '.'))}"
    else:
        hint = f"the sections are {', '.join(SECTIONS)}"
    return f"{item.name} ({item.origin}): no such setting; {hint}"


# --- checking


def _validate(tree: dict[str, Any], origins: Mapping[str, str], problems: list[str]) -> Settings | None:
    """Check each value by its type and range. JSON mode: no text for numbers, no true for 1, but text for paths."""
    endless = [name for name in KNOWN if _not_finite(leaf(tree, name))]
    if endless:
        problems += [f"{name}{_where(name, origins)}: must be a finite number" for name in endless]
        return None
    try:
        return Settings.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        problems += _wrong_values(error, origins)
        return None


def _wrong_values(error: ValidationError, origins: Mapping[str, str]) -> list[str]:
    """One line for each wrong setting; a union reports once for each member, which become one line."""
    found: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_context=False):
        section, key, *rest = (str(part) for part in detail["loc"])
        name = f"{section}.{key}"
        if rest and is_table(KNOWN[name]):
            name = f"{name}.{rest[0]}"
        found.setdefault(name, []).append(detail["msg"].replace("Input should be", "must be"))
        shown[name] = _printable(name, detail["input"])
    return [f"{name} = {shown[name]}{_where(name, origins)}: {', or '.join(found[name])}" for name in found]


def _where(name: str, origins: Mapping[str, str]) -> str:
    origin = origins.get(name) or origins.get(name.rpartition(".")[0])
    return f" ({origin})" if origin else ""


def _printable(name: str, value: Any) -> str:
    text = HIDDEN if is_secret(name) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _not_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_not_finite(part) for part in value.values())
    return isinstance(value, float) and not math.isfinite(value)


def _report(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} problems in the settings:", *(f"  {problem}" for problem in problems)])


# --- secrets


def _try_password_file(settings: Settings, problems: list[str]) -> None:
    """Tell what would keep a connection from reading the password; it is read then, and is in no settings."""
    file = settings.kafka.sasl_password_file
    if file is None:
        return
    try:
        with file.open(encoding="utf-8") as opened:
            password = opened.read(MAX_SECRET_BYTES).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        problems.append(f"kafka.sasl_password_file = {str(file)!r}: cannot be read: {reason}")
        return
    if not password:
        problems.append(f"kafka.sasl_password_file = {str(file)!r}: the file is empty")
