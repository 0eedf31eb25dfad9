"""deploy/tidemill.example.toml names every setting at its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from consumer.load_settings import load_settings
from consumer.settings import Settings

EXAMPLE = Path(__file__).parents[3] / "deploy" / "tidemill.example.toml"
TEXT = EXAMPLE.read_text(encoding="utf-8")
BY_FILE_OR_ENVIRONMENT_ONLY = {"kafka.sasl_password"}


def uncommented() -> dict[str, dict[str, object]]:
    return tomllib.loads(re.sub(r"^#(?=\w+ = )", "", TEXT, flags=re.MULTILINE))


def test_as_it_is_it_changes_nothing() -> None:
    assert load_settings(EXAMPLE, {}, []) == Settings()


def test_it_names_every_setting_and_no_other() -> None:
    named = {f"{section}.{key}" for section, keys in uncommented().items() for key in keys}
    known = {
        f"{section}.{key}" for section, field in Settings.model_fields.items() for key in field.annotation.model_fields
    }
    assert named == known - BY_FILE_OR_ENVIRONMENT_ONLY


def test_its_values_are_the_defaults() -> None:
    defaults = Settings().model_dump(mode="json")
    for section, keys in uncommented().items():
        for key, value in keys.items():
            if defaults[section][key] is not None:
                assert value == defaults[section][key], f"{section}.{key}"


def test_it_says_which_settings_are_part_of_the_identity() -> None:
    for section, field in Settings.model_fields.items():
        part = TEXT.partition(f"[{section}]\n")[2].partition("\n[")[0]
        for key, setting in field.annotation.model_fields.items():
            if f"{section}.{key}" in BY_FILE_OR_ENVIRONMENT_ONLY:
                continue
            comment = re.search(rf"((?:^# .*\n)*)^#{key} = ", part, re.MULTILINE)[1]
            assert ("(identity)" in comment) is (setting.json_schema_extra["change"] == "identity"), f"{section}.{key}"
