"""A short form of `python -m tests.bench drift`: the simulator, one seed, a small model, no timing."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import same_state, small_settings

from consumer.replay import ReplayOptions, replay
from tests.bench import drift_figures as figures
from tests.bench.drift import Prefixes, advanced, bench, main, merged, one_stream, parse, settings_of
from tests.bench.keep import Keep
from tests.bench.quiet import quiet
from tests.bench.runner import Run
from tests.bench.simulator import simulate
from tests.bench.streams import STREAMS, read

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


@pytest.mark.parametrize("name", [name for name in STREAMS if name not in "ah"])
def test_a_stream_is_the_log_up_to_the_change_and_another_after_it(name):
    log = simulate(6000, 1, items=300)
    stream = STREAMS[name](log, 3000, 1)
    assert stream.change == 3000
    assert np.array_equal(stream.log.item[:3000], log.item[:3000])
    after = stream.log[3000:]
    assert not np.array_equal(after.item[after.genuine][:1000], log.item[3000:4000]) or name == "f"
    assert (~after.genuine).any() == (name == "f")


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(figures, "WINDOW", 128)
    monkeypatch.setattr(figures, "LEVEL_EVENTS", 256)


def write(log, path):
    """Write a log as the event logs of the bench are written, with items named by strings."""
    columns = {"user_id": log.user, "item_id": [f"item {item}" for item in log.item], "event_type": log.kind.tolist()}
    path.parent.mkdir()
    pq.write_table(pa.table(columns | {"timestamp": (log.time * 1000).astype(np.int64)}), path)


@pytest.mark.usefixtures("small_windows")
def test_every_stream_comes_to_all_of_its_targets(tmp_path):
    """On logs of which so little is run that the figures mean nothing: only that they are there."""
    for seed, name in enumerate(("ml1m_pos", "globo_news_head", "online_retail_uci")):
        write(simulate(800, seed, items=300), tmp_path / name / "events.parquet")
    sizes = ["--before", "256", "--after", "512", "--variants", "frozen,no_adaptation,online,policy,oracle"]
    quiet_sizes = {"warm-up": 512, "recorded": 512, "learned": 384, "events": 512}
    sizes += [f"--quiet-{name}={size}" for name, size in quiet_sizes.items()]
    found = bench(parse([*SMALL, *sizes, "--oracle", "short_half_lives", "--data", str(tmp_path)]))
    assert set(found["streams"]) == set(STREAMS)
    assert {name: set(stream["targets"]) for name, stream in found["streams"].items()} == {
        name: set(targets) for name, targets in figures.TARGETS.items()
    }
    assert found["missing"] == []
    assert list(found)[-1] == "holds"
    for name in "bcdefg":
        (row,) = found["streams"][name]["seeds"]
        assert set(row["variants"]) == {"frozen", "no_adaptation", "online", "policy", "oracle:short_half_lives"}
        assert {len(variant["window_hits"]) for variant in row["variants"].values()} == {5 if name == "f" else 4}
        assert {"hr@10", "deficit", "quarantined", "recovered_after"} <= row["variants"]["frozen"].keys()
    (row,) = found["streams"]["c"]["seeds"]
    hits = [tuple(variant["window_hits"]) for name, variant in row["variants"].items() if name != "policy"]
    assert len(set(hits)) == len(hits)
    (row,) = found["streams"]["a"]["seeds"]
    assert {name: len(variant["window_hits"]) for name, variant in row["variants"].items()} == {
        "online": 3,
        "policy": 3,
    }
    (row,) = found["streams"]["h"]["seeds"]
    assert set(row["globo_news_head"]) == set(row["online_retail_uci"]) == set(row["quarantined"]["globo_news_head"])


@pytest.mark.usefixtures("small_windows")
def test_a_piece_lacks_the_targets_of_what_it_does_not_run(monkeypatch):
    monkeypatch.delenv("TIDEMILL_BENCH_DATA", raising=False)
    sizes = ["--before", "256", "--after", "512", "--variants", "frozen"]
    found = bench(parse([*SMALL, *sizes, "--stream", "b", "--stream", "e", "--stream", "f", "--stream", "h"]))
    assert found["streams"]["h"] == {"skipped": "needs --data"}
    assert len(found["missing"]) == sum(map(len, figures.TARGETS.values()))
    assert found["holds"] is False


@pytest.mark.usefixtures("small_windows")
def test_what_was_kept_is_taken_and_pieces_are_joined_to_the_same_object(tmp_path, monkeypatch):
    """Two pieces, each of one seed, give what one run of both seeds gives; a piece that is run again runs nothing."""
    monkeypatch.delenv("TIDEMILL_BENCH_DATA", raising=False)
    size = ["--stream", "b", *SMALL, "--before", "512", "--after", "512", "--variants", "no_adaptation,online,policy"]
    whole = bench(parse([*size, "--seeds", "0,1", "--keep", str(tmp_path / "whole")]))
    files = []
    for seed in ("1", "0", "0"):
        options = parse([*size, "--seeds", seed, "--keep", str(tmp_path / "pieces")])
        files.append(tmp_path / f"{len(files)}.json")
        steps = []
        monkeypatch.setattr(Run, "step", counted(Run.step, steps))
        files[-1].write_text(json.dumps(bench(options)))
    assert steps == []
    both = merged(files)
    assert both["streams"] == json.loads(json.dumps(whole["streams"]))
    assert both["holds"] == whole["holds"]
    assert {row["seed"] for row in both["streams"]["b"]["seeds"]} == {0, 1}


def counted(step, steps):
    """Return a step that leaves a note each time."""

    def noted(*arguments, **named):
        steps.append(1)
        return step(*arguments, **named)

    return noted


def test_a_kept_run_goes_on_as_the_run_itself(tmp_path):
    options = parse(SMALL)
    log, settings = simulate(1500, 3, items=300), settings_of(options, 0)
    run = Keep(tmp_path).run(settings, log[:1000], lambda: advanced(Run(settings), log[:1000]))
    kept = Keep(tmp_path).run(settings, log[:1000], lambda: None)
    assert kept.trace.arrays()[0].tolist() == run.trace.arrays()[0].tolist()
    for one in (run, kept):
        one.go(log[1000:])
    assert same_state(run.parts.state(), kept.parts.state())


def test_the_unchanged_log_is_kept_for_its_own_place_of_the_change(tmp_path):
    log = simulate(1000, 3, items=300)
    for before, after in ((400, 600), (600, 400)):
        options = parse([*SMALL, "--before", str(before), "--after", str(after), "--keep", str(tmp_path)])
        assert len(Prefixes(options, log, 0).unchanged().arrays()[0]) == after


def test_streams_can_be_written_and_replayed(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TIDEMILL_BENCH_DATA", raising=False)  # the simulator's log
    sizes = ["--before", "300", "--after", "200", "--items", "40"]
    assert main(["--stream", "b", "--stream", "h", "--seeds", "0,1", *sizes, "--write", str(tmp_path), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["written"]
    assert [file.rpartition("/")[2] for file in files] == ["b-0.parquet", "b-1.parquet"]
    log = STREAMS["b"](simulate(500, 1, items=40), 300, 1).log
    back = read(files[1])
    for column in ("user", "item", "kind"):
        assert (getattr(back, column) == getattr(log, column)).all()
    assert back.time == pytest.approx(log.time, abs=1e-3)
    summary = replay(small_settings(), ReplayOptions(files[0]))
    assert summary["events"] == 500
