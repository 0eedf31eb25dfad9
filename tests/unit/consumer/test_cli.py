from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass, make_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from consumer import cli
from consumer.cli_options import Shared
from consumer.cli_values import duration_s, epoch_ms, pairs
from consumer.clock import SystemClock
from consumer.errors import (
    AccessError,
    BrokerUnavailable,
    ConfigError,
    StateError,
    TidemillError,
    TooManyBadEvents,
    UsageError,
)

SUMMARY = {
    "schema": 1,
    "events": 1200,
    "users": 30,
    "items": 40,
    "scored": 1170,
    "metrics": {"tidemill": {"hr@10": 0.25, "log_loss": 3.5}, "markov": {"hr@10": 0.125}},
    "heads": {},
    "calibration": {},
    "speed": {"events_per_s": 1500.0, "total_s": 0.8},
    "emitted": {"tidemill": {"hr@10": 0.2, "ndcg@10": 0.1}},
    "rejected": {"not_json": 2},
    "flagged": {"late": 5},
}

Options = make_dataclass(
    "Options",
    [
        "source",
        "limit",
        "from_offset",
        "to_offset",
        "from_datetime",
        "to_datetime",
        "freeze_after",
        "shuffle_ties",
        "save",
        "init",
        "report",
        "progress",
    ],
    frozen=True,
)


class Calls(list[tuple[str, Any, dict[str, Any]]]):
    """What the commands asked others to do; `error` is raised instead when it is set."""

    error: BaseException | None = None

    def note(self, name: str, first: Any, **named: Any) -> None:
        self.append((name, first, named))
        if self.error is not None:
            raise self.error


@dataclass(frozen=True)
class DemoStandIn:
    file: Path | None
    settings: Any
    events: int
    report: Path
    json: Path | None


@dataclass(frozen=True)
class RunStandIn:
    init: Path | None = None
    max_events: int | None = None
    until_end: bool = False
    report: Path | None = None


@dataclass
class Report:
    exit_code: int = 0

    def render(self) -> str:
        return "the report"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replaces what the commands delegate to, and logging, which is process-wide."""
    noted = Calls()

    def replay(settings: Any, options: Any) -> dict[str, Any]:
        noted.note("replay", settings, options=options)
        return SUMMARY

    def run(settings: Any, options: Any) -> dict[str, Any]:
        noted.note("run", settings, options=options)
        return SUMMARY

    def check(settings: Any, sample: int, *, create: bool) -> Report:
        noted.note("check", settings, sample=sample, create=create)
        return Report(exit_code=0 if sample else 77)

    modules = {
        "consumer.run": {"RunOptions": RunStandIn, "run_worker": run},
        "consumer.replay": {"ReplayOptions": Options, "replay": replay},
        "consumer.check": {"check": check},
        "deploy.demo": {
            "EVENTS": 7,
            "DemoOptions": DemoStandIn,
            "run_demo": lambda options: noted.note("demo", options),
        },
    }
    for name, functions in modules.items():
        module = ModuleType(name)
        module.__dict__.update(functions)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("consumer.cli_options.start_logging", lambda _settings, **_: None)
    for variable in [name for name in os.environ if name.startswith("TIDEMILL_")]:
        monkeypatch.delenv(variable)
    return noted


@pytest.fixture
def log(tmp_path: Path) -> str:
    file = tmp_path / "events.jsonl"
    file.write_text("{}\n", encoding="utf-8")
    return str(file)


# --- plumbing


def test_run_passes_settings_and_limits_on(calls: Calls, tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[kafka]\ngroup = "file"\n[model]\nlayers = 3\n', encoding="utf-8")
    argv = f"run -c {file} -b b:1 -t clicks -g mine -X a=1 -X b=c --set model.dim=32 --map user_id=u,item_id=a.b"
    assert cli.main([*argv.split(), "--max-events", "9", "--until-end", "--init", str(tmp_path)]) == 0
    ((name, settings, named),) = calls
    assert name == "run"
    assert named == {"options": RunStandIn(str(tmp_path), 9, until_end=True)}
    assert (settings.kafka.bootstrap_servers, settings.topics.events, settings.kafka.group) == ("b:1", "clicks", "mine")
    assert settings.kafka.properties == {"a": 1, "b": "c"}
    assert (settings.model.dim, settings.model.layers) == (32, 3)
    assert settings.input.map == {"user_id": "u", "item_id": "a.b"}


def test_run_without_options_has_the_defaults(calls: Calls) -> None:
    assert cli.main(["run"]) == 0
    assert calls[0][2] == {"options": RunStandIn()}


def test_from_beginning_is_where_a_new_group_begins(calls: Calls) -> None:
    assert cli.main(["run", "--set", "kafka.auto_offset_reset=latest", "--from-beginning"]) == 0
    assert calls[0][1].kafka.auto_offset_reset == "earliest"


def test_the_environment_is_read(calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("[model]\nlayers = 3\n", encoding="utf-8")
    monkeypatch.setenv("TIDEMILL_CONFIG", str(tmp_path / "t.toml"))
    monkeypatch.setenv("TIDEMILL_KAFKA__GROUP", "env")
    assert cli.main(["run"]) == 0
    assert (calls[0][1].kafka.group, calls[0][1].model.layers) == ("env", 3)


def test_replay_passes_its_options_on(calls: Calls, tmp_path: Path) -> None:
    argv = (
        "replay topic:clicks --limit 5 --from-offset 0 --to-offset 9 --to-datetime 2026-01-02T00:00:00+01:00 "
        f"--freeze-after 0 --shuffle-ties --seed 7 --report {tmp_path}/r --save {tmp_path}/s --init {tmp_path}/i"
    )
    assert cli.main(argv.split()) == 0
    ((_, settings, named),) = calls
    assert settings.worker.seed == 7
    assert named["options"] == Options(
        source="topic:clicks",
        limit=5,
        from_offset=0,
        to_offset=9,
        from_datetime=None,
        to_datetime=1767308400000,
        freeze_after=0,
        shuffle_ties=True,
        save=str(tmp_path / "s"),
        init=str(tmp_path / "i"),
        report=tmp_path / "r",
        progress=sys.stderr.isatty(),
    )


def test_a_duration_counts_back_from_now(calls: Calls) -> None:
    before = SystemClock().now()
    assert cli.main(["replay", "topic:t", "--by-duration", "7d"]) == 0
    begin = calls[0][2]["options"].from_datetime
    assert before * 1000 - 1 <= begin + 7 * 86_400_000 <= SystemClock().now() * 1000 + 1


def test_times_beyond_all_records_select_everything(calls: Calls) -> None:
    assert cli.main(["replay", "topic:t", "--by-duration", "1000000d"]) == 0
    argv = "replay topic:t --from-datetime 0001-01-01T00:00:00+14:00 --to-datetime 9999-12-31T23:59:59-10:00"
    assert cli.main(argv.split()) == 0
    (_, _, one), (_, _, two) = calls
    assert one["options"].from_datetime == two["options"].from_datetime == 0
    assert datetime.fromtimestamp(two["options"].to_datetime / 1000, UTC).year == 9999


@pytest.mark.usefixtures("calls")
def test_the_summary_is_text_for_people(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", log]) == 0
    out = capsys.readouterr().out
    assert "1,200 events, 30 users, 40 items, 1,170 scored" in out
    assert "rejected: not_json 2" in out
    assert "flagged: late 5" in out
    assert "as published: hr@10 0.2000, ndcg@10 0.1000" in out


@pytest.mark.usefixtures("calls")
def test_a_source_most_of_which_was_rejected_is_an_error_after_all_is_told(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too short for the limits on bad records to have stopped it."""
    monkeypatch.setitem(SUMMARY, "events", 1)
    assert cli.main(["replay", log, "--json", str(tmp_path / "s.json")]) == 65
    told = capsys.readouterr()
    assert "rejected: not_json 2" in told.out
    assert "2 of 3 records were rejected, mostly not_json (2): compare input.preset and input.map" in told.err
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == SUMMARY
    assert cli.main(["replay", log, "--set", "input.max_bad_share=0.7"]) == 0


@pytest.mark.usefixtures("calls")
def test_json_on_standard_output_is_alone_there(log: str, capsysbinary: Any) -> None:
    assert cli.main(["replay", log, "--json", "-"]) == 0
    assert json.loads(capsysbinary.readouterr().out) == SUMMARY


@pytest.mark.usefixtures("calls")
def test_json_in_a_file(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", log, "--json", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == SUMMARY
    assert "1,200 events" in capsys.readouterr().out


def test_a_json_file_that_cannot_be_is_told_before_the_work(calls: Calls, log: str, tmp_path: Path) -> None:
    assert cli.main(["replay", log, "--json", str(tmp_path / "none" / "s.json")]) == 64
    assert cli.main(["replay", log, "--json", str(tmp_path)]) == 64
    assert cli.main(["replay", log, "--json", str(tmp_path / ("s" * 300))]) == 64
    assert not calls
    assert list(tmp_path.glob("s*")) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full here")
@pytest.mark.usefixtures("calls")
def test_a_json_file_that_could_not_be_written_in_the_end_costs_no_table(
    log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["replay", log, "--json", "/dev/full"]) == 78
    told = capsys.readouterr()
    assert "1,200 events" in told.out
    assert "could not be written: No space left" in told.err


def test_dry_run_shows_and_does_nothing(calls: Calls, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", log, "--dry-run", "--limit", "5", "--map", "item_id=product.id"]) == 0
    out = capsys.readouterr().out
    assert "limit: 5" in out
    assert "size: 3 bytes" in out
    assert "item_id: from product.id" in out
    assert cli.main(["replay", "topic:t", "--dry-run", "-b", "b:1"]) == 0
    assert "brokers: b:1" in capsys.readouterr().out
    assert not calls


def test_check_prints_its_report_and_its_verdict_is_the_exit_code(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", "--sample", "3"]) == 0
    assert capsys.readouterr().out == "the report\n"
    assert cli.main(["check", "--sample", "0", "--create"]) == 77
    assert [named for _, _, named in calls] == [{"sample": 3, "create": False}, {"sample": 0, "create": True}]


def test_demo_passes_its_options_on(calls: Calls, log: str) -> None:
    assert (
        cli.main(["demo", "--file", log, "--events", "100", "--report", "r", "--json", "s.json", "--map", "user_id=u"])
        == 0
    )
    options = calls[0][1]
    assert (options.file, options.events, options.report, options.json) == (Path(log), 100, Path("r"), Path("s.json"))
    assert options.settings.input.map == {"user_id": "u"}


@pytest.mark.usefixtures("calls")
def test_config_show_is_toml_with_the_given_settings(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--set", "model.dim=32", "-X", "ssl_password=hunter2"]
    assert cli.main(["config", "show", *argv]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert shown["model"]["dim"] == 32
    assert shown["kafka"]["properties"] == {"ssl_password": "***"}


def test_config_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "schema"]) == 0
    assert "kafka" in json.loads(capsys.readouterr().out)["properties"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tidemill {version('tidemill')}\n"


def test_the_stand_ins_take_what_the_real_ones_take() -> None:
    import inspect
    from dataclasses import fields

    from consumer.check import check
    from consumer.replay import ReplayOptions
    from consumer.run import RunOptions
    from deploy.demo import DemoOptions

    assert [field.name for field in fields(ReplayOptions)] == [field.name for field in fields(Options)]
    assert [field.name for field in fields(RunOptions)] == [field.name for field in fields(RunStandIn)]
    assert [field.name for field in fields(DemoOptions)] == [field.name for field in fields(DemoStandIn)]
    assert {"sample", "create"} <= set(inspect.signature(check).parameters)


# --- exit codes


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["config"],
        ["nothing"],
        ["run", "--nothing"],
        ["run", "--max-events", "x"],
        ["run", "-X", "a"],
        ["run", "--map", "user_id"],
        ["replay"],
        ["replay", "no-such-file.csv"],
        ["replay", "topic:"],
        ["replay", "topic:t", "--from-offset", "3", "--by-duration", "7d"],
        ["replay", "topic:t", "--from-beginning", "--from-offset", "3"],
        ["replay", "topic:t", "--from-datetime", "2026-01-01", "--by-duration", "7d"],
        ["replay", "topic:t", "--from-datetime", "yesterday"],
        ["replay", "topic:t", "--to-datetime", "tomorrow"],
        ["replay", "topic:t", "--by-duration", "long"],
        ["demo", "--file", "no-such-file.csv"],
    ],
)
def test_a_wrong_command_line_is_64_and_one_line(
    calls: Calls, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert cli.main(argv) == 64
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tidemill: ")
    assert captured.err.count("\n") == 1
    assert not calls


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 64),
        (StateError("x"), 65),
        (TooManyBadEvents("x"), 65),
        (BrokerUnavailable("x"), 75),
        (AccessError("x"), 77),
        (ConfigError("x"), 78),
        (TidemillError("x"), 70),
    ],
)
def test_an_expected_error_is_its_exit_code_and_one_line(
    calls: Calls, capsys: pytest.CaptureFixture[str], error: TidemillError, code: int
) -> None:
    calls.error = error
    assert cli.main(["run"]) == code
    assert capsys.readouterr().err == "tidemill: x\n"


def test_a_wrong_setting_is_78_before_any_work(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--set", "metrics.prot=1"]) == 78
    assert capsys.readouterr().err == "tidemill: metrics.prot (flag): no such setting; did you mean metrics.port?\n"
    assert not calls


def test_a_defect_is_70_with_its_traceback(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.error = ZeroDivisionError("oops")
    assert cli.main(["run"]) == 70
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("ZeroDivisionError: oops\n")


def test_an_interruption_is_130(calls: Calls) -> None:
    calls.error = KeyboardInterrupt()
    assert cli.main(["run"]) == 130


# --- what people write


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("12h", 43_200),
        ("1.5m", 90),
        ("30s", 30),
        ("3600", 3600),
        ("P7D", 604_800),
        ("P1DT12H", 129_600),
        ("PT1H30M0.5S", 5400.5),
        ("p2w", 1_209_600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text, "--by-duration") == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "d", "7x", "-7d", "0s", "7d12h", "P1M"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="--by-duration"):
        duration_s(text, "--by-duration")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-02", 86_400_000),
        ("1970-01-01T00:00:01.5Z", 1500),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01 00:00:01", 1000),
    ],
)
def test_datetimes_without_an_offset_are_utc(text: str, ms: int) -> None:
    assert epoch_ms(text, "--from-datetime") == ms


def test_pairs_keep_commas_inside_a_path() -> None:
    assert pairs('user_id=a|b, item_id="x,y".z,features.p=q', "--map") == [
        "user_id=a|b",
        'item_id="x,y".z',
        "features.p=q",
    ]


def test_an_option_of_its_own_beats_set() -> None:
    overrides = Shared(sets=["kafka.group=a"], group="b", more=("worker.seed=1",)).overrides()
    assert overrides == ["kafka.group=a", "kafka.group=b", "worker.seed=1"]


# --- speed


def test_help_and_config_load_nothing_heavy() -> None:
    code = (
        "import sys; from consumer.cli import main; main(['--help']); main(['config', 'show']);"
        "heavy = {'torch', 'kafka', 'river', 'pyarrow', 'matplotlib', 'prometheus_client', 'structlog', 'numpy'};"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
