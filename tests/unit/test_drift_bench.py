"""A short form of `python -m tests.bench drift`: the simulator, one seed, a small model, no timing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench import drift_figures as figures
from tests.bench.drift import one_stream, parse, settings_of
from tests.bench.quiet import quiet
from tests.bench.runner import Run
from tests.bench.simulator import simulate
from tests.bench.streams import STREAMS

SMALL = [
    *("--before", "9000", "--after", "4096", "--seeds", "0", "--items", "300", "--variants", "online,policy"),
    *(
        "--change",
        "model.dim=8",
        "--change",
        "model.heads=1",
        "--change",
        "model.layers=1",
        "--change",
        "model.proposals=20",
    ),
    *(
        "--change",
        "learning.rehearsal_windows=16",
        "--change",
        "drift.warm_up_events=4000",
        "--change",
        "model.context=8",
    ),
]


@pytest.fixture(scope="module")
def abrupt():
    options = parse(["--stream", "b", *SMALL])
    options.data = None
    return one_stream(options, "b", 0, {})


def test_an_abrupt_change_is_seen_at_once_and_not_before(abrupt):
    assert abrupt["alarms_before"] == []
    assert abrupt["delay"] <= figures.DELAYS["b"]
    assert any("short_half_lives" in alarm["action"] for alarm in abrupt["alarms"])


def test_the_policy_loses_fewer_hits_than_learning_alone(abrupt):
    policy, online = abrupt["variants"]["policy"], abrupt["variants"]["online"]
    assert policy["deficit"] < online["deficit"]
    assert policy["hr@10"] >= online["hr@10"]


def test_where_nothing_changes_nothing_is_detected():
    options = parse(["--stream", "a", *SMALL, "--quiet-warm-up", "6000", "--quiet-recorded", "6144"])
    options.quiet_events = 16_384
    result = quiet(options, settings_of(options, 0))
    assert result["events"] >= 10 * 16_384
    assert result["alarms"] == []


def test_a_branch_goes_on_as_the_run_that_it_branched_from():
    options = parse(SMALL)
    log = simulate(1500, 3, items=300)
    run = Run(settings_of(options, 0))
    run.go(log[:1000])
    branch = run.branch()
    assert np.array_equal(run.go(log[1000:]).arrays()[0][-500:], branch.go(log[1000:]).arrays()[0])


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "h"])
def test_a_stream_is_the_log_up_to_the_change_and_another_after_it(name):
    log = simulate(6000, 1, items=300)
    stream = STREAMS[name](log, 3000, 1)
    assert stream.change == 3000
    assert np.array_equal(stream.log.item[:3000], log.item[:3000])
    after = stream.log[3000:]
    assert not np.array_equal(after.item[after.genuine][:1000], log.item[3000:4000]) or name == "f"
    assert (~after.genuine).any() == (name == "f")
