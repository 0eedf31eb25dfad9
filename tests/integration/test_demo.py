"""The demo, with few events."""

from __future__ import annotations

import json

import pytest

from deploy.demo import DemoFailed, DemoOptions, run_demo
from deploy.demo_check import Findings
from tests.integration.worker_bench import SMALL


def settings(**more):
    from consumer.settings import Settings

    return Settings.model_validate({**SMALL, "evaluation": {"baselines": True}, **more})


@pytest.fixture
def on_broker(broker, monkeypatch):
    monkeypatch.setenv("TIDEMILL_TEST_BROKER", broker.bootstrap_servers)


@pytest.mark.usefixtures("on_broker")
def test_the_demo_ends_with_a_report_and_one_prediction_per_event(tmp_path, capsys):
    summary = run_demo(DemoOptions(settings=settings(), events=2000, report=tmp_path))
    assert summary["events"] == 2000
    page = (tmp_path / "report.html").read_text()
    assert "tidemill" in page
    assert json.loads((tmp_path / "summary.json").read_text())["events"] == 2000
    told = capsys.readouterr().out
    assert "2,000 predictions read back" in told
    assert "events per second" in told


@pytest.mark.usefixtures("on_broker")
def test_the_demo_runs_on_ones_own_log(tmp_path):
    log = tmp_path / "log.csv"
    rows = [f"{number % 9},thing {number % 20},{1_700_000_000 + number}" for number in range(300)]
    log.write_text("\n".join(["who,what,ts", *rows]) + "\n")
    config = settings(input={"map": {"user_id": "who", "item_id": "what"}})
    summary = run_demo(DemoOptions(file=log, settings=config, report=tmp_path / "report"))
    assert summary["events"] == 300


@pytest.mark.usefixtures("on_broker")
def test_the_demo_fails_when_a_prediction_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.demo.check_predictions", lambda *_: Findings(predictions=499))
    with pytest.raises(DemoFailed, match="499 predictions"):
        run_demo(DemoOptions(settings=settings(), events=500, report=tmp_path))
