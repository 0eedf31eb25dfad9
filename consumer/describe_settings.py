"""What settings there are, and how they are shown: names, schema, identity, TOML text without secrets."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import SecretStr

from consumer.settings import Settings
from model.settings import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

HIDDEN = "***"

_SECRET_NAME = re.compile(r"passw|secret|token|credential|jaas", re.IGNORECASE)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def _known() -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for section, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= {f"{section}.{key}": leaf for key, leaf in field.annotation.model_fields.items()}
    return found


KNOWN = _known()
"""Every setting by its dotted name."""

SECTIONS = tuple(Settings.model_fields)


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of the settings file; `change` tells identity from operational settings."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}


def show(settings: Settings) -> str:
    """Return the settings as TOML that `load_settings` reads back; secrets as ***, unset ones as comments."""
    return "\n".join(_section_text(name, getattr(settings, name)) for name in SECTIONS)


def identity(settings: Settings) -> dict[str, Any]:
    """Return the identity settings by dotted name as JSON values: what a lineage must not change."""
    tree = settings.model_dump(mode="json")
    return {name: leaf(tree, name) for name, field in sorted(KNOWN.items()) if _is_identity(field)}


def kinds(annotation: Any) -> set[Any]:
    """All types that an annotation is made of."""
    return {get_origin(annotation) or annotation}.union(*(kinds(part) for part in get_args(annotation)))


def is_table(field: FieldInfo) -> bool:
    """Whether the setting is a table of free names."""
    return dict in kinds(field.annotation)


def is_secret(name: str) -> bool:
    """Whether the value of a setting is never shown; client options are judged by their names."""
    field = KNOWN.get(name)
    if field is None:
        return bool(_SECRET_NAME.search(name))
    return SecretStr in kinds(field.annotation) or name == "kafka.properties"


def leaf(tree: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name in nested values, or None."""
    section, key = name.split(".")
    return tree.get(section, {}).get(key)


def _is_identity(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("change") == "identity"


def _section_text(name: str, section: Section) -> str:
    values = {key: getattr(section, key) for key in type(section).model_fields}
    lines = [f"[{name}]"]
    lines += [_line(f"{name}.{key}", key, value) for key, value in values.items() if not isinstance(value, dict)]
    for key, table in values.items():
        if isinstance(table, dict) and table:
            lines += ["", f"[{name}.{key}]"]
            lines += [_line(f"{name}.{key}.{entry}", entry, value) for entry, value in table.items()]
    return "\n".join([*lines, ""])


def _line(name: str, key: str, value: Any) -> str:
    key = key if _BARE_KEY.fullmatch(key) else _quoted(key)
    if value is None:
        return f"# {key} is not set"
    return f"{key} = {_quoted(HIDDEN) if is_secret(name) else _toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else _quoted(str(value))


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes and one more character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
