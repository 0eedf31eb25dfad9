from __future__ import annotations

import shutil

import pytest
from support import Stream, random_events, small_settings

from consumer import cli
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
    snapshots.save(stream.parts.image(0))
    return place


def run(capsys, *argv):
    code = cli.main(["snapshot", *argv])
    return code, capsys.readouterr().out


ONE, THREE = "tidemill-0/snapshot-000000000001", "tidemill-0/snapshot-000000000003"


def test_ls_lists_what_is_there_and_whether_it_is_whole(folder, tmp_path, capsys):
    code, out = run(capsys, "ls", "--dir", str(folder))
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [[ONE, "whole"], [THREE, "whole"]]
    assert "events-0 up to 48" in out
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / ONE / "worker.json").write_bytes(b"{}")
    code, out = run(capsys, "ls", "--dir", str(tmp_path / "copy"))
    assert code == 65
    assert f"{ONE}  DAMAGED" in out


def test_show_names_settings_and_arrays(folder, capsys):
    code, out = run(capsys, "show", THREE, "--dir", str(folder))
    assert code == 0
    assert "micro-batch 3 of tidemill-0" in out
    assert "  model.dim = " in out
    assert "worker.learner.model.transformer.table.weight  float32" in out


def test_verify_says_which_file_is_damaged(folder, tmp_path, capsys):
    assert run(capsys, "verify", THREE, "--dir", str(folder))[0] == 0
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / THREE / "worker.safetensors").write_bytes(b"")
    code = cli.main(["snapshot", "verify", THREE, "--dir", str(tmp_path / "copy")])
    assert code == 65
    assert "worker.safetensors" in capsys.readouterr().err


def test_diff_compares_to_the_byte(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "copy")
    code, out = run(capsys, "diff", str(folder / THREE), str(tmp_path / "copy" / THREE))
    assert (code, out) == (0, "the same, to the byte\n")
    code, out = run(capsys, "diff", ONE, THREE, "--dir", str(folder))
    assert code == 1
    assert "worker.learner.model.transformer.table.weight" in out
    assert "worker: other values" in out


def test_a_folder_that_is_not_there_is_a_wrong_command_line(tmp_path, capsys):
    assert run(capsys, "ls", "--dir", str(tmp_path / "none"))[0] == 64
