"""The runbook names what there is: exit codes, alerts, messages, commands and settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from consumer import errors
from consumer.cli import DEFECT, INTERRUPTED, app
from consumer.cli_snapshot import DIFFERENT
from consumer.describe_settings import KNOWN

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "deploy" / "RUNBOOK.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.*)$", TEXT, re.MULTILINE)
MESSAGES = [message for heading in HEADINGS for message in re.findall(r'"([^"]+)"', heading)]
CLIENTS_OWN = {"ProducerFencedError", "FencedInstanceIdError"}


def source() -> str:
    """All text of the package, with the pieces of a broken string joined."""
    files = (ROOT / "consumer").rglob("*.py")
    return "".join(re.sub(r"[\"']\s*\n\s*f?[\"']", "", file.read_text(encoding="utf-8")) for file in files)


def test_every_exit_code_is_told() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.TidemillError)]
    codes = {cls.exit_code for cls in classes} | {0, DIFFERENT, DEFECT, INTERRUPTED}
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    assert codes <= told


def test_every_alert_has_an_entry() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert {heading for heading in HEADINGS if not heading.startswith('"')} == alerts


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_is_one_that_is_said(message) -> None:
    assert message in source() or message in CLIENTS_OWN


CASES = {
    "offsets were set back": "the offsets back",
    "deleted and made again": "the topic was made anew",
    "offsets were set forward": "the committed offset is ahead of what was learned here",
    "passed by what must be redone": "Retention was shorter than the time since the last snapshot",
    "passed by what was not read yet": "the topic no longer holds",
    "an identity setting was changed": "was made with other settings of",
    "in a group that has learned": "a new lineage begins with what its group has learned",
    "begun with `--init`": "this lineage has no snapshot of its own yet, and began",
    "its former owner is gone": "partition gained",
    "no shared store": "partition gained, and no snapshot holds its histories",
}


def test_every_case_of_moved_ground_is_told_with_its_message_and_what_to_do() -> None:
    rows = dict(re.findall(r'^\| (.+?) \| "([^"]+)" \| .+ \|$', TEXT, re.MULTILINE))
    assert len(rows) == len(CASES)
    for case, message in CASES.items():
        assert [said for row, said in rows.items() if case in row] == [message]
        (section,) = re.findall(rf'^### "{re.escape(message)}"\n((?:.+\n?)+)', TEXT, re.MULTILINE)
        assert len(section.split()) > 10


def test_every_setting_that_is_named_exists() -> None:
    sections = {name.split(".")[0] for name in KNOWN}
    named = {name for name in re.findall(r"\b([a-z]+\.[a-z_]+)\b", TEXT) if name.split(".")[0] in sections}
    assert len(named) > 15
    assert named <= set(KNOWN)


def test_every_command_that_is_named_exists() -> None:
    commands = get_command(app).commands
    named = set(re.findall(r"tidemill ([a-z-]+)(?: ([a-z]+))?", TEXT))
    for command, sub in named:
        assert command in commands
        if hasattr(commands[command], "commands"):
            assert sub in commands[command].commands
