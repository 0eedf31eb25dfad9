"""The command `tidemill snapshot`: what is in a state folder, whether it is whole, and whether two are the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer import cli_options as options
from consumer.errors import StateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer.settings import Settings
    from consumer.snapshots import Snapshot, Snapshots

DIFFERENT = 1
snapshot_app = typer.Typer(help="Look at the snapshots of a worker, compare two, or leave out a micro-batch.")

Dir = Annotated[
    str | None,
    typer.Option("--dir", metavar="DIR", help="The state folder, or its URL, where it is not that of the settings."),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="lineage/snapshot-…, as ls prints it, or a path to such a folder.")
]


@snapshot_app.command("ls")
def ls(*, config: options.Config = None, sets: options.Sets = None, folder: Dir = None) -> int:
    """List all snapshots with what they hold, and say which are damaged (exit code 65)."""
    settings = _settings(config, sets)
    place = _place(settings, folder)
    snapshots = _snapshots(settings, place)
    names = snapshots.names(everyone=True)
    if not names:
        print(f"there is no snapshot in {place}")
    damaged = 0
    for name in names:
        snapshot = _whole(snapshots, name)
        if isinstance(snapshot, StateError):
            damaged += 1
            print(f"{name}  DAMAGED  {snapshot}")
            continue
        size = f"{snapshot.size_bytes():,} bytes"
        print(f"{name}  whole  {size}, {_age(snapshot)} old, micro-batch {snapshot.batch}, {_positions(snapshot)}")
    return StateError.exit_code if damaged else 0


@snapshot_app.command("show")
def show(name: Name, *, config: options.Config = None, sets: options.Sets = None, folder: Dir = None) -> None:
    """Show a snapshot's manifest, its settings of identity, and the arrays of its parts."""
    snapshot = _open(name, _settings(config, sets), folder)
    print(f"{snapshot.name}: micro-batch {snapshot.batch} of {snapshot.lineage}, {_positions(snapshot)}")
    print(f"journal offset: {snapshot.journal_offset}\nSHA-256 of the manifest: {snapshot.manifest_sha256}")
    print("identity settings:")
    for setting, value in sorted(snapshot.identity.items()):
        print(f"  {setting} = {value!r}")
    print("files:")
    for file, about in sorted(snapshot.files.items()):
        print(f"  {file}  {about['bytes']:,} bytes  {about['sha256']}")
    for part, state in snapshot.parts():
        print(f"{part}:")
        for array, values in sorted(state.arrays.items()):
            print(f"  {part}.{array}  {values.dtype} {list(values.shape)}  {values.nbytes:,} bytes")


@snapshot_app.command("verify")
def verify(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Without a name: all in the folder.")] = None,
    *,
    config: options.Config = None,
    sets: options.Sets = None,
    folder: Dir = None,
) -> int:
    """Check every file's hash; exit code 65 where one is damaged, or where there is no snapshot."""
    settings = _settings(config, sets)
    if name is not None:
        snapshot = _open(name, settings, folder)
        snapshot.verify()
        print(f"{snapshot.name}: whole, {len(snapshot.files)} files")
        return 0
    place = _place(settings, folder)
    snapshots = _snapshots(settings, place)
    looked_at = {each: _whole(snapshots, each) for each in snapshots.names(everyone=True)}
    if not looked_at:
        raise StateError(f"there is no snapshot in {place}")
    for each, found in looked_at.items():
        print(f"{each}: {f'DAMAGED, {found}' if isinstance(found, StateError) else f'whole, {len(found.files)} files'}")
    return StateError.exit_code if any(isinstance(found, StateError) for found in looked_at.values()) else 0


@snapshot_app.command("diff")
def diff(
    left: Name, right: Name, *, config: options.Config = None, sets: options.Sets = None, folder: Dir = None
) -> int:
    """Compare what two snapshots know, byte by byte; exit code 1 where anything differs."""
    from consumer.snapshot_diff import differences

    settings = _settings(config, sets)
    first, second = _open(left, settings, folder), _open(right, settings, folder)
    found = list(differences(first, second))
    if not found:
        print(f"the same, to the byte: micro-batch {first.batch}, {len(first.files)} files")
        return 0
    print("\n".join(found))
    return DIFFERENT


@snapshot_app.command("skip")
def skip(
    batch: Annotated[int, typer.Argument(metavar="BATCH", min=1, help="The number of the micro-batch.")],
    *,
    config: options.Config = None,
    sets: options.Sets = None,
    folder: Dir = None,
) -> None:
    """Let the next start leave out a micro-batch whose redo ends the process: its events become history, unlearned.

    What was published for it stays. The worker must be stopped; a recovery that comes to its end forgets the order.
    """
    from consumer.redo_marker import skip_in_next_recovery
    from consumer.state_store import open_store

    settings = _settings(config, sets)
    place, lineage = _place(settings, folder), settings.kafka.instance
    snapshots = _snapshots(settings, place)
    newest = max((snapshot.batch for snapshot in _own(snapshots)), default=0)
    if batch <= newest:
        raise UsageError(f"micro-batch {batch} is in the snapshot of micro-batch {newest} and will not be redone")
    skip_in_next_recovery(open_store(place), lineage, batch)
    print(f"micro-batch {batch} of {lineage} will be skipped at the next start, if the journal goes that far")


def _settings(config: Path | None, sets: list[str] | None) -> Settings:
    return options.Shared(config, sets=sets).settings()


def _place(settings: Settings, folder: str | None) -> str:
    from consumer.state_store import folder_of, is_url

    place = folder or settings.snapshot.dir
    if not is_url(place) and not folder_of(place).is_dir():
        raise UsageError(f"{place}: there is no such folder; name one with --dir")
    return place


def _snapshots(settings: Settings, place: str) -> Snapshots:
    from consumer.describe_settings import identity
    from consumer.snapshots import Snapshots
    from consumer.state_store import open_store

    store = open_store(place, read_only=True)
    return Snapshots(store, settings.kafka.instance, identity(settings), settings.snapshot.keep)


def _open(name: str, settings: Settings, folder: str | None) -> Snapshot:
    """Open by path or URL, or by name in the state folder. Raises UsageError where there is none of that name."""
    from consumer.state_store import is_url

    path = Path(name).resolve()
    if is_url(name):
        place, lineage, last = name.rstrip("/").rsplit("/", 2)
        name = f"{lineage}/{last}"
    elif path.is_dir():
        place, name = str(path.parent.parent), f"{path.parent.name}/{path.name}"
    else:
        place, name = _place(settings, folder), name.rstrip("/")
    snapshots = _snapshots(settings, place)
    if name not in snapshots.names(everyone=True):
        raise UsageError(f"{place} has no snapshot {name!r}; `tidemill snapshot ls --dir {place}` lists what there is")
    return snapshots.open(name)


def _whole(snapshots: Snapshots, name: str) -> Snapshot | StateError:
    try:
        snapshot = snapshots.open(name)
        snapshot.verify()
    except StateError as error:
        return error
    return snapshot


def _own(snapshots: Snapshots) -> Iterator[Snapshot]:
    found = (_whole(snapshots, name) for name in snapshots.names())
    return (snapshot for snapshot in found if not isinstance(snapshot, StateError))


def _age(snapshot: Snapshot) -> str:
    """Since the manifest was written, as the store says."""
    from consumer.ages import age_text
    from consumer.clock import SystemClock

    return age_text(SystemClock().now() - snapshot.written_at())


def _positions(snapshot: Snapshot) -> str:
    return ", ".join(
        f"{partition.topic}-{partition.partition} up to {position.next_offset}"
        for partition, position in sorted(snapshot.positions.items())
    )
