from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from support import Stream, random_events, small_settings

from consumer import cli
from consumer.clock import SystemClock
from consumer.describe_settings import identity
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two snapshots of one worker, micro-batches 1 and 3."""
    place = tmp_path_factory.mktemp("state")
    settings = small_settings()
    stream = Stream(settings)
    snapshots = Snapshots(FolderStore(place), "tidemill-0", identity(settings), 9)
    stream.put_events(random_events(48))
    stream.pipeline.step()
    snapshots.save(stream.parts.image(0))
    stream.drain()
    snapshots.save(stream.parts.image(6))
    return place


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def run(capsys, *argv):
    capsys.readouterr()
    code = cli.main(["snapshot", *argv])
    return code, capsys.readouterr().out


ONE, THREE = "tidemill-0/snapshot-000000000001", "tidemill-0/snapshot-000000000003"


def damage(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_ls_lists_what_is_there_and_whether_it_is_whole(folder, copy, capsys):
    code, out = run(capsys, "ls", "--dir", str(folder))
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [[ONE, "whole"], [THREE, "whole"]]
    assert "micro-batch 1, events-0 up to 16" in out
    assert "micro-batch 3, events-0 up to 48" in out
    (copy / ONE / "worker.json").write_bytes(b"{}")
    two_days_ago = SystemClock().now() - 49 * 3600
    os.utime(copy / THREE / "manifest.json", (two_days_ago, two_days_ago))
    code, out = run(capsys, "ls", "--dir", str(copy))
    assert code == 65
    assert f"{ONE}  DAMAGED  {ONE}/worker.json does not have the SHA-256" in out
    assert "2 days old" in out


def test_ls_of_nothing_says_so_and_makes_no_folder(tmp_path, capsys):
    assert run(capsys, "ls", "--dir", str(tmp_path)) == (0, f"there is no snapshot in {tmp_path}\n")
    assert run(capsys, "ls", "--dir", str(tmp_path / "none"))[0] == 64
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_that_of_the_settings_where_none_is_given(folder, capsys):
    assert run(capsys, "ls", "--set", f"snapshot.dir={folder}")[1].count("whole") == 2


def test_show_names_manifest_settings_and_arrays(folder, capsys):
    code, out = run(capsys, "show", THREE, "--dir", str(folder))
    assert code == 0
    assert f"{THREE}: micro-batch 3 of tidemill-0, events-0 up to 48\njournal offset: 6\n" in out
    assert "  model.dim = 8\n" in out
    assert "  worker.learner.model.transformer.table.weight  float32" in out
    assert "  events-0.users  int64 [8]  64 bytes" in out
    assert "  histories-0.safetensors  " in out


def test_verify_says_which_file_is_damaged(copy, capsys):
    assert run(capsys, "verify", THREE, "--dir", str(copy)) == (0, f"{THREE}: whole, 4 files\n")
    damage(copy / THREE / "worker.safetensors")
    assert cli.main(["snapshot", "verify", THREE, "--dir", str(copy)]) == 65
    assert "worker.safetensors" in capsys.readouterr().err


def test_verify_without_a_name_looks_at_all(copy, tmp_path, capsys):
    code, out = run(capsys, "verify", "--dir", str(copy))
    assert (code, out) == (0, f"{ONE}: whole, 4 files\n{THREE}: whole, 4 files\n")
    damage(copy / ONE / "histories-0.json")
    code, out = run(capsys, "verify", "--dir", str(copy))
    assert code == 65
    assert f"{ONE}: DAMAGED, {ONE}/histories-0.json" in out
    assert f"{THREE}: whole" in out
    (tmp_path / "empty").mkdir()
    assert run(capsys, "verify", "--dir", str(tmp_path / "empty"))[0] == 65


@pytest.mark.parametrize("bad", [b"", b"{}", b'{"format": 99}', b"\xff"])
def test_a_manifest_that_cannot_be_read_is_damage(copy, capsys, bad):
    (copy / ONE / "manifest.json").write_bytes(bad)
    code, out = run(capsys, "verify", "--dir", str(copy))
    assert code == 65
    assert f"{ONE}: DAMAGED" in out
    assert run(capsys, "diff", ONE, THREE, "--dir", str(copy))[0] == 65


def test_diff_compares_to_the_byte(folder, copy, capsys):
    code, out = run(capsys, "diff", str(folder / THREE), str(copy / THREE))
    assert (code, out) == (0, "the same, to the byte: micro-batch 3, 4 files\n")
    code, out = run(capsys, "diff", ONE, THREE, "--dir", str(folder))
    assert code == 1
    lines = out.splitlines()
    assert lines[:2] == ["micro-batch 1 and 3", "events-0: up to offset 16 and 48"]
    assert any(line.startswith("worker.learner.model.transformer.table.weight: float32 [") for line in lines)
    assert any(line.startswith("worker.") and line.endswith(": another value") for line in lines)
    assert lines[-1].endswith(" more values")


def saved_again(folder, place, change):
    """A snapshot like THREE, with its worker changed."""
    snapshots = Snapshots(FolderStore(folder), "tidemill-0", identity(small_settings()), 9)
    old = snapshots.open(THREE)
    stream = Stream(small_settings())
    stream.parts.restore(old)
    image = stream.parts.image(0)
    change(image.worker)
    Snapshots(FolderStore(place), "tidemill-0", identity(small_settings()), 9).save(image)
    return place / THREE


def float_array(state):
    return next(
        name for name, array in state.arrays.items() if name.endswith("table.weight") and array.dtype == np.float32
    )


def test_diff_says_by_how_much(folder, tmp_path, capsys):
    same = saved_again(folder, tmp_path / "same", lambda _: None)
    assert run(capsys, "diff", str(folder / THREE), str(same))[0] == 0

    def nudge(state):
        array = state.arrays[float_array(state)].copy()
        array.flat[0] += 0.5
        array.flat[1] += 0.25
        state.arrays[float_array(state)] = array

    other = saved_again(folder, tmp_path / "other", nudge)
    code, out = run(capsys, "diff", str(folder / THREE), str(other))
    assert code == 1
    lines = out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("worker: 1 of ")
    assert "table.weight: 2 of " in lines[1]
    assert lines[1].endswith(" differ, by at most 0.5")


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "1 of .* differ, NaN on one side"), (-0.0, "other bytes of equal numbers")]
)
def test_diff_knows_nan_and_negative_zero(folder, tmp_path, capsys, value, said):
    import re

    def put(state, first):
        array = state.arrays[float_array(state)].copy()
        array.flat[0] = first
        state.arrays[float_array(state)] = array

    one = saved_again(folder, tmp_path / "one", lambda state: put(state, 0.0))
    other = saved_again(folder, tmp_path / "other", lambda state: put(state, value))
    code, out = run(capsys, "diff", str(one), str(other))
    assert code == 1
    assert re.search(said, out)
    again = saved_again(folder, tmp_path / "again", lambda state: put(state, value))
    assert run(capsys, "diff", str(other), str(again))[0] == 0


def test_diff_names_values_that_differ_and_shows_none(folder, tmp_path, capsys):
    def change(state):
        state.values["events"] = "secret"

    other = saved_again(folder, tmp_path / "other", change)
    code, out = run(capsys, "diff", str(folder / THREE), str(other))
    assert (code, out) == (1, "worker.events: another value\n")


def test_names_and_folders_that_are_not_there_are_a_wrong_command_line(folder, tmp_path, capsys):
    assert run(capsys, "ls", "--dir", str(tmp_path / "none"))[0] == 64
    for command in (["show", "nothing"], ["verify", "nothing"], ["diff", ONE, "nothing"], ["skip", "0"], ["skip", "x"]):
        assert run(capsys, *command, "--dir", str(folder))[0] == 64


def test_skip_leaves_the_order_for_the_next_recovery(copy, capsys):
    code, out = run(capsys, "skip", "5", "--dir", str(copy))
    assert (code, out) == (
        0,
        "micro-batch 5 of tidemill-0 will be skipped at the next start, if the journal goes that far\n",
    )
    assert run(capsys, "skip", "4", "--dir", str(copy))[0] == 0
    assert json.loads((copy / "tidemill-0" / "redo.json").read_bytes())["deaths"] == {"5": 2, "4": 2}


def test_skip_of_what_is_in_a_snapshot_is_refused(copy, capsys):
    code = cli.main(["snapshot", "skip", "3", "--dir", str(copy)])
    assert code == 64
    assert "micro-batch 3 is in the snapshot of micro-batch 3" in capsys.readouterr().err
    damage(copy / THREE / "worker.safetensors")
    assert run(capsys, "skip", "3", "--dir", str(copy))[0] == 0
    assert run(capsys, "skip", "1", "--dir", str(copy))[0] == 64
