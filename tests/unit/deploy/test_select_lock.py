from __future__ import annotations

import io
from pathlib import Path

import pytest

from deploy.select_lock import entries, main, select

LOCK = """\
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aa \\
    --hash=sha256:ab
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:ba
nvidia-cublas==13.4.1.3 \\
    --hash=sha256:ca
typing-extensions==4.16.0 \\
    --hash=sha256:da
"""
ROOT = Path(__file__).parents[3]


def test_an_entry_comes_with_its_hashes_and_its_siblings() -> None:
    assert select(LOCK, ["numpy==2.4.6"]) == LOCK.partition("nvidia")[0]


def test_names_are_normalised() -> None:
    assert select(LOCK, ["Typing_Extensions"]).startswith("typing-extensions==4.16.0 \\\n    --hash=sha256:da")


def test_names_can_be_left_out() -> None:
    assert "nvidia" not in select(LOCK, ["nvidia-cublas==13.4.1.3", "numpy"], ["nvidia-*"])


@pytest.mark.parametrize("wanted", ["missing", "numpy==9.9", "typing-extensions==4.16"])
def test_what_is_not_locked_is_an_error(wanted) -> None:
    with pytest.raises(KeyError, match=wanted.partition("==")[0]):
        select(LOCK, [wanted])


def test_every_entry_of_our_lock_has_a_hash() -> None:
    locked = entries((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert len(locked) > 50
    assert all("--hash=sha256:" in entry for found in locked.values() for entry in found)


def test_the_command_ends_with_the_name_that_is_missing(tmp_path, monkeypatch, capsys) -> None:
    lock = tmp_path / "lock"
    lock.write_text(LOCK)
    monkeypatch.setattr("sys.stdin", io.StringIO("numpy\n\nnvidia-cublas\n"))
    main([str(lock), "--without", "nvidia-*"])
    assert capsys.readouterr().out == LOCK.partition("nvidia")[0]
    monkeypatch.setattr("sys.stdin", io.StringIO("nothere\n"))
    with pytest.raises(SystemExit, match="nothere"):
        main([str(lock)])
