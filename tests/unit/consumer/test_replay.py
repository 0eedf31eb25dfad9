from __future__ import annotations

import copy

import numpy as np
import orjson
import pytest
from jsonschema import Draft202012Validator
from support import Stream, random_events, record_value, same_state, small_settings

from consumer.errors import ConfigError, StateError, UsageError
from consumer.replay import ReplayOptions, replay
from consumer.summary import SUMMARY_SCHEMA

SMALL = small_settings(worker={"batch_events": 32})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """300 events as JSON lines, two of them bad."""
    return write(tmp_path_factory.mktemp("data") / "events.jsonl", random_events(300, items=20, users=12))


def write(path, events, bad=(7, 100)):
    lines = [
        {"user_id": e.user_id, "item_id": e.item_id, "event_type": e.event_type, "event_time": e.event_time}
        if n not in bad
        else {"user_id": 1.5}
        for n, e in enumerate(events)
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\n")
    return path


def run(file, settings=SMALL, **options):
    return replay(settings, ReplayOptions(str(file), **options))


def comparable(summary):
    """Without what the machine decides."""
    rest = copy.deepcopy(summary)
    del rest["speed"], rest["peak_rss_bytes"]
    return rest


@pytest.fixture(scope="module")
def summary(file):
    return run(file)


def test_the_summary_is_of_version_one(summary):
    Draft202012Validator(SUMMARY_SCHEMA).validate(summary)
    assert orjson.loads(orjson.dumps(summary)) == summary
    assert (summary["events"], summary["users"], summary["items"], summary["scored"]) == (298, 12, 20, 286)
    assert sum(summary["rejected"].values()) == 2
    assert set(summary["heads"]) == {"event_type", "next_event_s"}
    assert sum(window["events"] for window in summary["windows"]) == 286


def test_two_replays_with_one_seed_print_the_same(file, summary):
    assert comparable(run(file)) == comparable(summary)


def test_another_seed_prints_something_else(file, summary):
    other = run(file, small_settings(worker={"batch_events": 32, "seed": 2}))
    assert other["metrics"]["tidemill"] != summary["metrics"]["tidemill"]
    assert other["metrics"]["popularity"] == summary["metrics"]["popularity"]


@pytest.mark.parametrize("limit", [1, 31, 32, 33, 64, 150, 300, 999])
def test_the_limit_cuts_exactly(file, limit):
    limited = run(file, limit=limit)
    assert limited["events"] + sum(limited["rejected"].values()) == min(limit, 300)


@pytest.mark.parametrize("limit", [1, 33, 64])
def test_the_limit_cuts_a_source_that_knows_none(monkeypatch, limit):
    """A topic's past has no limit of its own, as a file has."""
    stream = Stream()
    stream.put_events(random_events(100))
    monkeypatch.setattr("consumer.replay._source", lambda *_: stream.source)
    assert run("topic:events", limit=limit)["events"] == limit


def test_a_limited_replay_is_the_beginning_of_the_whole(file, tmp_path):
    """Also where the limit falls into a micro-batch."""
    half = write(tmp_path / "events.jsonl", random_events(150, items=20, users=12))
    assert comparable(run(file, limit=150)) == comparable(run(half))


def test_after_freezing_nothing_is_learned(file, tmp_path):
    run(file, freeze_after=96, save=tmp_path / "frozen")
    run(file, limit=96, save=tmp_path / "short")
    frozen, short = (worker_of(tmp_path / name) for name in ("frozen", "short"))
    assert frozen.values["learner"]["batch"] == 10
    assert short.values["learner"]["batch"] == 3
    for state in (frozen, short):
        del state.values["learner"]["batch"]
    assert same_state(frozen.take("learner"), short.take("learner"))


def test_freezing_at_once_learns_nothing(file, tmp_path):
    frozen = run(file, freeze_after=0, save=tmp_path)
    assert frozen["items"] == 0
    assert frozen["metrics"]["tidemill"]["recall@20"] == 0.0
    assert frozen["events"] == 298
    Draft202012Validator(SUMMARY_SCHEMA).validate(frozen)


def worker_of(folder):
    from consumer.snapshots import Snapshots
    from consumer.state_store import FolderStore

    snapshots = Snapshots(FolderStore(folder), "tidemill-0", {}, 3)
    return snapshots.open(snapshots.names()[-1]).worker()


def test_what_was_saved_can_be_begun_from(file, summary, tmp_path):
    again = run(file, save=tmp_path)
    assert comparable(again) == comparable(summary)
    before = worker_of(tmp_path)
    other = write(tmp_path / "more.jsonl", random_events(64, seed=9, items=20, users=12))
    warm, cold = run(other, init=tmp_path), run(other)
    assert warm["metrics"]["tidemill"]["recall@20"] == 1.0  # all items are known from the first event on
    assert cold["metrics"]["tidemill"]["recall@20"] < 0.9
    assert same_state(before, worker_of(tmp_path))  # what was begun from stays


def test_beginning_from_a_state_and_learning_nothing_keeps_it(file, tmp_path):
    run(file, save=tmp_path / "one")
    other = write(tmp_path / "more.jsonl", random_events(64, seed=9, items=20, users=12), bad=())
    run(other, init=tmp_path / "one", freeze_after=0, save=tmp_path / "two")
    one, two = worker_of(tmp_path / "one"), worker_of(tmp_path / "two")
    assert two.values["learner"].pop("batch") == 2  # a new lineage counts from 1
    del one.values["learner"]["batch"]
    assert same_state(one.take("learner"), two.take("learner"))


def test_a_state_of_another_model_is_refused_by_name(file, tmp_path):
    run(file, limit=32, save=tmp_path)
    with pytest.raises(StateError, match=r"model\.dim"):
        run(file, small_settings(model={"dim": 16}), init=tmp_path)


def test_there_must_be_something_to_begin_from(file, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        run(file, init=tmp_path / "gone")
    with pytest.raises(UsageError, match="no snapshot"):
        run(file, init=tmp_path)


@pytest.mark.parametrize("save", ["state", "state/../state", "file://{}/state"])
def test_the_live_workers_state_folder_is_not_written_to(file, tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    settings = small_settings(snapshot={"dir": tmp_path / "state"})
    with pytest.raises(UsageError, match=r"snapshot\.dir"):
        run(file, settings, save=save.format(tmp_path))
    assert not (tmp_path / "state").exists()


def test_a_state_that_cannot_be_saved_is_said_before_the_replay(file, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        run(file, save=tmp_path / "file" / "below")


def test_a_state_that_was_not_saved_in_the_end_is_an_error(file, tmp_path, monkeypatch):
    def full(*_):
        raise StateError("no space left")

    monkeypatch.setattr("consumer.snapshots.Snapshots.save", full)
    with pytest.raises(StateError):
        run(file, limit=32, save=tmp_path)


def test_offsets_and_times_are_for_topics(file):
    for bound in ("from_offset", "to_offset", "from_datetime", "to_datetime"):
        with pytest.raises(UsageError, match="topic:NAME"):
            run(file, **{bound: 5})


def test_a_report_that_cannot_be_written_is_said_before_the_replay(file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("consumer.replay.open_source", None)
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="report cannot be written"):
            run(file, report=place)


def test_what_was_flagged_is_counted(tmp_path):
    lines = [record_value(user_id="u", item_id=n, event_id="same" if n < 3 else str(n)) for n in range(8)]
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines))
    assert run(tmp_path / "events.jsonl")["flagged"] == {"repeated": 2}


def test_a_report_is_one_page(file, tmp_path):
    pytest.importorskip("matplotlib")
    run(file, limit=64, report=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_shuffled_ties_are_seeded(tmp_path):
    events = random_events(200, items=20, timed=False)
    path = tmp_path / "ties.jsonl"
    path.write_bytes(
        b"\n".join(
            orjson.dumps({"user_id": e.user_id, "item_id": e.item_id, "event_time": 1.7e9 + n // 20})
            for n, e in enumerate(events)
        )
    )
    plain, one, again = run(path), run(path, shuffle_ties=True), run(path, shuffle_ties=True)
    assert comparable(one) == comparable(again)
    assert one["metrics"] != plain["metrics"]
    assert one["events"] == plain["events"]


def test_a_file_without_events_is_a_summary_too(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"")
    nothing = run(empty)
    assert (nothing["events"], nothing["scored"], nothing["metrics"]) == (0, 0, {})
    Draft202012Validator(SUMMARY_SCHEMA).validate(nothing)


def test_a_file_of_bad_records_alone_is_a_summary_too(tmp_path):
    bad = write(tmp_path / "bad.jsonl", random_events(40), bad=range(40))
    summary = run(bad)
    assert (summary["events"], sum(summary["rejected"].values())) == (0, 40)
    Draft202012Validator(SUMMARY_SCHEMA).validate(summary)


def test_a_replay_is_what_the_worker_would_have_done(tmp_path):
    """The same pipeline: a log in memory, drained in the same micro-batches, holds the same state in the end."""
    events = random_events(200, items=20)
    path = write(tmp_path / "events.jsonl", events, bad=())
    run(path, save=tmp_path / "state")
    stream = Stream(SMALL)
    stream.put_events(events)
    stream.drain()
    assert same_state(worker_of(tmp_path / "state").take("learner"), stream.parts.state().take("learner"))


def test_the_batch_size_changes_what_is_known_when(file, summary):
    small = run(file, small_settings(worker={"batch_events": 4}))
    assert small["events"] == summary["events"]
    assert small["metrics"]["tidemill"] != summary["metrics"]["tidemill"]
    assert small["metrics"]["popularity"]["hr@10"] == pytest.approx(summary["metrics"]["popularity"]["hr@10"])
    assert np.isfinite(small["metrics"]["tidemill"]["log_loss"])
