"""Cuts from the lock file the packages that one installation needs, hashes included.

Usage: select_lock.py LOCK [--without PATTERN …] < NAMES. Reads `name` or `name==version` lines, writes the lock's
entries for them; PATTERN is a shell pattern of names to leave out. A name or version that the lock does not hold is
an error. Standard library only: the image runs it before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:==([^\s;\\]+))?")


def entries(lock: str) -> dict[str, list[str]]:
    """Return the entries by normalised name; a name may have several, each for other Python versions."""
    found: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()):
        if match := _PIN.match(entry):
            found.setdefault(_normal(match[1]), []).append(entry.rstrip())
    return found


def select(lock: str, wanted: Iterable[str], without: Iterable[str] = ()) -> str:
    """Return the lock's entries for `wanted`. Raises KeyError for what the lock does not hold."""
    locked = entries(lock)
    chosen: list[str] = []
    for line in wanted:
        match = _PIN.match(line.strip())
        if match is None or any(fnmatch(_normal(match[1]), pattern) for pattern in without):
            continue
        name, version = _normal(match[1]), match[2]
        if name not in locked or (version and not any(f"=={version} " in f"{entry} " for entry in locked[name])):
            raise KeyError(f"{name} {version or ''}".rstrip())
        chosen += locked[name]
    return "\n".join(chosen) + "\n"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(arguments: list[str] | None = None) -> None:
    """Select as the command line says."""
    parser = argparse.ArgumentParser(description="Cut packages from the lock file.")
    parser.add_argument("lock", type=Path)
    parser.add_argument("--without", action="append", default=[], metavar="PATTERN")
    given = parser.parse_args(arguments)
    try:
        sys.stdout.write(select(given.lock.read_text(encoding="utf-8"), sys.stdin, given.without))
    except KeyError as error:
        sys.exit(f"not in {given.lock}: {error.args[0]}")


if __name__ == "__main__":
    main()
