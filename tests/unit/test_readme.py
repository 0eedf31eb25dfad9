"""What the README promises: its commands, settings, options, metrics and its example exist."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from support import Stream, random_events
from typer.main import get_command

from consumer.cli import app
from consumer.describe_settings import KNOWN
from consumer.load_settings import load_settings
from consumer.metrics import COUNTERS, GAUGES, HISTOGRAMS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip()
    for kind, block in BLOCKS
    if kind == "console"
    for line in block.splitlines()
    if line.startswith("tidemill ")
]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make (\w+)", TEXT))
    assert {"demo", "test"} <= targets
    for target in targets - {"nothing"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[1:]
    group = get_command(app)
    context = group.make_context("tidemill", list(words), resilient_parsing=True)
    name, found, rest = group.resolve_command(context, words)
    assert found is not None, name
    parser = found.make_parser(found.make_context(name, [], resilient_parsing=True))
    _, left, _ = parser.parse_args(args=list(rest))
    assert all(not word.startswith("-") for word in left)


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 5


def test_settings_exist():
    table = re.search(r"\| setting \| default .*?\n\n", TEXT, re.DOTALL)[0]
    named = re.findall(r"`([a-z]+\.[a-z_*]+)`", table)
    assert len(named) > 20
    for name in named:
        assert any(re.fullmatch(name.replace(".", r"\.").replace("*", ".*"), known) for known in KNOWN), name


def test_the_settings_file_loads(tmp_path):
    (toml,) = [block for kind, block in BLOCKS if kind == "toml"]
    assert tomllib.loads(toml)["topics"]["events"] == "clicks"
    file = tmp_path / "t.toml"
    file.write_text(toml)
    assert load_settings(file, {}, []).input.map == {"user_id": "uid", "item_id": "product.id"}


def test_metrics_exist():
    known = {*(f"{name}_total" for name in COUNTERS), *GAUGES, *HISTOGRAMS}
    listed = re.search(r"Metrics begin with `tidemill_`: (.*?) and more", TEXT, re.DOTALL)[1]
    for name in re.findall(r"`(\w+)", listed):
        assert name in known, name


def test_the_prediction_shown_has_the_fields_of_a_real_one():
    (block,) = [block for kind, block in BLOCKS if kind == "json"]
    shown = json.loads(block)
    stream = Stream()
    stream.put_events(random_events(200))
    stream.drain()
    real = stream.bodies()[-1]
    assert shown.keys() == real.keys()
    assert shown["items"][0].keys() == real["items"][0].keys()
    assert shown["source"].keys() == real["source"].keys()
    assert shown["next_event_s"].keys() == real["next_event_s"].keys()


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_every_exit_code_is_told():
    from consumer import errors

    told = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert codes <= told
