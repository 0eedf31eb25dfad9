from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from consumer.clock import SystemClock
from consumer.load_settings import load_settings, show
from consumer.ports import Record
from consumer.settings import Settings
from deploy import demo
from deploy.demo import DemoFailed, DemoOptions
from deploy.demo_check import Findings


def summary(events: int, **rejected: int) -> dict:
    return {"events": events, "rejected": rejected}


def test_one_prediction_per_accepted_event_is_what_is_wanted() -> None:
    demo._judge(Findings(predictions=95), summary(95, bad_json=3, missing=2), 100)


@pytest.mark.parametrize(
    ("findings", "told", "produced"),
    [
        (Findings(predictions=94), summary(95, bad_json=5), 100),
        (Findings(predictions=96), summary(95, bad_json=5), 100),
        (Findings(predictions=95), summary(95, bad_json=4), 100),
        (Findings(predictions=95, duplicates=1), summary(95, bad_json=5), 100),
        (Findings(predictions=95, out_of_order=1), summary(95, bad_json=5), 100),
        (Findings(predictions=95, malformed=1), summary(95, bad_json=5), 100),
    ],
)
def test_anything_else_fails_and_says_what_was_counted(findings: Findings, told: dict, produced: int) -> None:
    with pytest.raises(DemoFailed, match=f"{findings.predictions} predictions were read back") as failed:
        demo._judge(findings, told, produced)
    assert failed.value.exit_code == 70


def test_every_run_has_names_of_its_own(tmp_path: Path) -> None:
    options = DemoOptions(report=tmp_path)
    one, other = (demo._settings(options, "host:1") for _ in range(2))
    names = [name for run in (one, other) for name in run.topics.model_dump().values() if isinstance(name, str)]
    assert len(set(names)) == len(names) == 10
    assert one.kafka.bootstrap_servers == "host:1"
    assert one.kafka.group != other.kafka.group
    assert Path(one.snapshot.dir).is_relative_to(tmp_path)
    assert one.snapshot.dir != other.snapshot.dir


def test_the_workers_file_says_what_the_demo_was_given(tmp_path: Path) -> None:
    given = Settings.model_validate({"model": {"dim": 16}, "input": {"map": {"user_id": "who"}}})
    settings = demo._settings(DemoOptions(settings=given, report=tmp_path), "host:1")
    file = tmp_path / "demo.toml"
    file.write_text(show(settings), encoding="utf-8")
    assert load_settings(file, {}, []) == settings


def test_settings_of_somebody_elses_run_do_not_reach_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_KAFKA__GROUP", "another")
    monkeypatch.setenv("UNRELATED", "1")
    environment = demo._environment()
    assert environment["UNRELATED"] == "1"
    assert not any(name.startswith("TIDEMILL_") for name in environment)


def test_a_log_without_keys_is_keyed_by_user() -> None:
    settings = Settings.model_validate({"input": {"map": {"user_id": "who"}}})
    value = orjson.dumps({"who": 7, "item_id": "a"})
    assert demo._key(Record("log", 0, 0, -1, None, value), settings) == b"7"
    assert demo._key(Record("log", 0, 0, -1, b"own", value), settings) == b"own"
    assert demo._key(Record("log", 0, 0, -1, None, b"no event"), settings) is None


def test_the_events_of_a_file_keep_their_times_and_their_number(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"user_id": n % 3, "item_id": n, "event_time": 1_700_000_000 + n} for n in range(10)]
    log.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    sent = list(demo._events(DemoOptions(file=log, events=4)))
    assert [key for key, _, _ in sent] == [b"0", b"1", b"2", b"0"]
    assert [orjson.loads(value)["item_id"] for _, value, _ in sent] == [0, 1, 2, 3]
    assert [time for _, _, time in sent] == [(1_700_000_000 + n) * 1000 for n in range(4)]


def test_a_worker_that_fails_fails_the_demo_with_its_last_line(tmp_path: Path) -> None:
    from rich.console import Console

    options = DemoOptions(report=tmp_path)
    settings = demo._settings(options, "host:1")
    config = settings.model_copy(update={"snapshot": settings.snapshot.model_copy(update={"dir": "/dev/null/x"})})
    with pytest.raises(DemoFailed, match=r"exit code 78: tidemill: the state folder .* cannot be written"):
        demo._work(options, config, Console(quiet=True), SystemClock())
