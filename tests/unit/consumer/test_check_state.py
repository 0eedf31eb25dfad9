from __future__ import annotations

import pytest
from support import Stream, random_events, small_settings

from consumer.check_state import look_at_state
from consumer.describe_settings import identity
from consumer.errors import ConfigError, StateError
from consumer.snapshots import Snapshots
from consumer.state_store import open_store


def settings_at(place, **sections):
    return small_settings(snapshot={"dir": str(place)}, **sections)


@pytest.fixture
def saved(tmp_path):
    """A folder with two snapshots."""
    stream = Stream()
    stream.put_events(random_events(32))
    snapshots = Snapshots(open_store(tmp_path), "tidemill-0", identity(stream.settings), 3)
    for _ in range(2):
        stream.pipeline.step()
        snapshots.save(stream.parts.image(0))
    return tmp_path, snapshots


def test_a_missing_folder_is_not_made(tmp_path):
    assert look_at_state(settings_at(tmp_path / "a" / "b")).text == f"state: {tmp_path}/a/b will be made"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot be made.*snapshot\.dir"):
        look_at_state(settings_at(tmp_path / "file" / "below"))


def test_a_store_without_a_snapshot_is_well(tmp_path):
    assert "can be written, and has no snapshot of 'tidemill-0' yet" in look_at_state(settings_at(tmp_path)).text
    assert "can be written" in look_at_state(settings_at(f"memory://{tmp_path.name}")).text
    assert list(tmp_path.iterdir()) == []


def test_the_newest_snapshot_is_named_and_what_is_damaged_too(saved):
    folder, snapshots = saved
    look = look_at_state(settings_at(folder))
    assert look.text.endswith("newest snapshot of 'tidemill-0' is of micro-batch 2")
    assert list(look.learned.values()) == [32]
    newest = snapshots.names()[-1]
    (folder / newest / "worker.json").write_bytes(b"{}")
    look = look_at_state(settings_at(folder))
    assert "is of micro-batch 1; damaged: " in look.text
    assert f"{newest}/worker.json" in look.text
    assert list(look.learned.values()) == [16]


def test_a_changed_identity_setting_is_told_before_the_run(saved):
    with pytest.raises(StateError, match=r"was made with other settings of worker\.seed"):
        look_at_state(settings_at(saved[0], worker={"batch_events": 16, "seed": 2}))


def test_a_url_that_cannot_be_used_is_told():
    with pytest.raises(ConfigError, match="Protocol not known"):
        look_at_state(settings_at("nope://x"))
