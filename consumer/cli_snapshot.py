"""The command `tidemill snapshot`: what is in a state folder, whether it is whole, and whether two are the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer import cli_options as options
from consumer.errors import StateError, UsageError

if TYPE_CHECKING:
    from consumer.snapshots import Snapshot, Snapshots

DIFFERENT = 1
snapshot_app = typer.Typer(help="Look at the snapshots of a worker, or compare two.")

Dir = Annotated[
    Path | None, typer.Option("--dir", metavar="DIR", help="The state folder, where it is not that of the settings.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="lineage/snapshot-…, or a path to such a folder.")]


@snapshot_app.command("ls")
def ls(*, config: options.Config = None, sets: options.Sets = None, folder: Dir = None) -> int:
    """List all snapshots with what they hold, and say which are damaged (exit code 65)."""
    snapshots = _snapshots(config, sets, folder)
    damaged = 0
    for name in snapshots.names(everyone=True):
        try:
            snapshot = snapshots.open(name)
            snapshot.verify()
        except StateError as error:
            damaged += 1
            print(f"{name}  DAMAGED  {error}")
            continue
        print(f"{name}  whole  {snapshot.size_bytes():,} bytes  {_positions(snapshot)}")
    return StateError.exit_code if damaged else 0


@snapshot_app.command("show")
def show(name: Name, *, config: options.Config = None, sets: options.Sets = None, folder: Dir = None) -> None:
    """Show a snapshot's batch, positions, settings of identity, and the arrays of its parts."""
    snapshot = _open(name, config, sets, folder)
    print(f"{snapshot.name}: micro-batch {snapshot.batch} of {snapshot.lineage}, {_positions(snapshot)}")
    for setting, value in sorted(snapshot.identity.items()):
        print(f"  {setting} = {value!r}")
    for part, state in snapshot.parts():
        for array, values in sorted(state.arrays.items()):
            print(f"{part}.{array}  {values.dtype} {list(values.shape)}  {values.nbytes:,} bytes")


@snapshot_app.command("verify")
def verify(name: Name, *, config: options.Config = None, sets: options.Sets = None, folder: Dir = None) -> None:
    """Check every file's hash; exit code 65 where one is damaged."""
    snapshot = _open(name, config, sets, folder)
    snapshot.verify()
    print(f"{snapshot.name}: whole, {len(snapshot.files)} files")


@snapshot_app.command("diff")
def diff(
    left: Name, right: Name, *, config: options.Config = None, sets: options.Sets = None, folder: Dir = None
) -> int:
    """Compare two snapshots byte by byte; exit code 1 where anything that a worker knows differs."""
    first, second = (dict(_open(name, config, sets, folder).parts()) for name in (left, right))
    different = [f"{part}: only in one" for part in sorted(first.keys() ^ second.keys())]
    for part in sorted(first.keys() & second.keys()):
        arrays, others = first[part].arrays, second[part].arrays
        for array in sorted(arrays.keys() | others.keys()):
            one, other = arrays.get(array), others.get(array)
            if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
                different.append(f"{part}.{array}: another shape or type")
            elif one.tobytes() != other.tobytes():
                different.append(f"{part}.{array}: other bytes")
        if first[part].values != second[part].values:
            different.append(f"{part}: other values")
    print("\n".join(different) or "the same, to the byte")
    return DIFFERENT if different else 0


def _snapshots(config: Path | None, sets: list[str] | None, folder: Path | None) -> Snapshots:
    from consumer.describe_settings import identity
    from consumer.snapshots import Snapshots
    from consumer.state_store import FolderStore

    settings = options.Shared(config, sets=sets).settings()
    place = folder or settings.snapshot.dir
    if not place.is_dir():
        raise UsageError(f"{place}: there is no such folder; name one with --dir")
    return Snapshots(FolderStore(place), settings.kafka.instance, identity(settings), settings.snapshot.keep)


def _open(name: str, config: Path | None, sets: list[str] | None, folder: Path | None) -> Snapshot:
    path = Path(name)
    if path.is_dir():
        return _snapshots(config, sets, path.parent.parent).open(f"{path.parent.name}/{path.name}")
    return _snapshots(config, sets, folder).open(name.rstrip("/"))


def _positions(snapshot: Snapshot) -> str:
    return ", ".join(
        f"{partition.topic}-{partition.partition} up to {position.next_offset}"
        for partition, position in sorted(snapshot.positions.items())
    )
