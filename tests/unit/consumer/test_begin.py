from __future__ import annotations

import pytest
from support import Stream, random_events, record_value, same_state, small_settings

from consumer.begin import begin_from
from consumer.describe_settings import identity
from consumer.errors import StateError, UsageError
from consumer.health import HealthState
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore

SETTINGS = small_settings()
MINE = small_settings(kafka={"instance": "mine"})


@pytest.fixture(scope="module")
def learned():
    """A worker that has learned three micro-batches."""
    stream = Stream(SETTINGS)
    stream.put_events(random_events(48))
    stream.drain()
    return stream


@pytest.fixture
def folder(learned, tmp_path):
    save(tmp_path, learned, "other", learned.parts.image(0))
    return tmp_path


def save(folder, stream, lineage, image):
    Snapshots(FolderStore(folder), lineage, identity(stream.settings), 9).save(image)


def parts(learned, settings=MINE):
    return Parts(settings, Metrics(learned.clock), HealthState(learned.clock, 60.0))


def test_what_was_learned_is_taken_over_and_histories_and_numbers_are_not(learned, folder):
    begun = parts(learned)
    sha256 = begin_from(begun, folder, MINE)
    assert same_state(begun.model.state(), learned.parts.model.state())
    assert begun.batch == 0
    assert begun.histories.partitions == {}
    assert begun.next_offsets == {}
    snapshots = Snapshots(FolderStore(folder), "other", {}, 9)
    assert sha256 == snapshots.open(snapshots.names()[0]).manifest_sha256


def test_the_unit_of_times_is_that_of_the_new_input(tmp_path):
    """A file in microseconds, a topic in milliseconds."""
    file, live = Stream(SETTINGS), Stream(MINE)
    file.put(*(record_value(user_id="u", item_id=n, event_time=1_700_000_000_000_000 + n) for n in range(16)))
    file.drain()
    assert file.parts.decoder.time_unit == "us"
    save(tmp_path, file, "other", file.parts.image(0))
    begin_from(live.parts, tmp_path, MINE)
    live.put(record_value(user_id="u", item_id=1, event_time=1_700_000_000_000))
    live.drain()
    assert live.bodies()[-1]["event_time"] == 1_700_000_000.0


def test_the_furthest_snapshot_of_whoever_wrote_it_is_the_one(learned, folder):
    far = Stream(SETTINGS)
    far.put_events(random_events(96, seed=1))
    far.drain()
    save(folder, far, "another", far.parts.image(0))
    begun = parts(learned)
    begin_from(begun, folder, MINE)
    assert same_state(begun.model.state(), far.parts.model.state())


def test_a_wrong_folder_is_a_wrong_command_line(learned, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        begin_from(parts(learned), tmp_path / "none", MINE)
    with pytest.raises(UsageError, match="no snapshot in it"):
        begin_from(parts(learned), tmp_path, MINE)


@pytest.mark.parametrize(
    "changed", [{"model": {"dim": 16}}, {"history": {"length": 14}}, {"learning": {"negatives": 65}}]
)
def test_another_model_is_refused_with_the_setting(learned, folder, changed):
    settings = small_settings(**{name: SETTINGS.model_dump()[name] | values for name, values in changed.items()})
    (section,) = changed
    (key,) = changed[section]
    with pytest.raises(StateError, match=rf"{section}\.{key}"):
        begin_from(parts(learned, settings), folder, settings)


def test_another_group_topic_or_mapping_is_no_hindrance(learned, folder):
    settings = small_settings(
        kafka={"instance": "mine", "group": "g"}, topics={"events": "clicks"}, input={"map": {"item_id": "i"}}
    )
    begun = parts(learned, settings)
    begin_from(begun, folder, settings)
    assert same_state(begun.model.state(), learned.parts.model.state())


def test_a_damaged_one_is_refused_and_nothing_is_taken_over(learned, folder):
    for file in folder.rglob("worker.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    begun = parts(learned)
    fresh = parts(learned)
    with pytest.raises(StateError, match="damaged"):
        begin_from(begun, folder, MINE)
    assert same_state(begun.state(), fresh.state())
