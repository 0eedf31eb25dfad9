"""What is done to the state folder and to the input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from tests.faults.damage import flipped
from tests.faults.hooks import Hook
from tests.faults.run import Scenario
from tests.faults.traffic import T0, Shape

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.run import Run


def snapshots_damaged(run: Run) -> None:
    """The newest snapshot is damaged in every way there is while the worker is away: an older one serves."""
    ways = (
        truncated,
        emptied,
        bit_flipped,
        of_another_version,
        without_manifest,
        without_a_part,
        manifest_truncated,
        gone,
    )
    for way, share in zip(ways, run.shares(len(ways)), strict=True):
        run.until(share)
        run.wait(lambda: len(run.snapshots(0)) >= 2, "two snapshots")
        run.kill(0, again=False)
        with run.fault(f"newest snapshot {way.__name__}"):
            way(run.snapshots(0)[-1], run.draw)
        run.workers.start(0)
        run.more(30)


def _part(snapshot: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(snapshot.glob("*.safetensors")))


def truncated(snapshot: Path, draw: random.Random) -> None:
    part = _part(snapshot, draw)
    os.truncate(part, part.stat().st_size // 2)


def emptied(snapshot: Path, draw: random.Random) -> None:
    os.truncate(_part(snapshot, draw), 0)


def bit_flipped(snapshot: Path, draw: random.Random) -> None:
    flip(snapshot / "worker.safetensors", draw)


def flip(part: Path, draw: random.Random) -> None:
    """Flip one bit of a weight."""
    part.write_bytes(flipped(part.read_bytes(), draw))


def of_another_version(snapshot: Path, _draw: random.Random) -> None:
    manifest = snapshot / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 1_000_000}))


def without_manifest(snapshot: Path, _draw: random.Random) -> None:
    (snapshot / "manifest.json").unlink()


def without_a_part(snapshot: Path, draw: random.Random) -> None:
    _part(snapshot, draw).unlink()


def manifest_truncated(snapshot: Path, _draw: random.Random) -> None:
    manifest = snapshot / "manifest.json"
    os.truncate(manifest, manifest.stat().st_size // 2)


def gone(snapshot: Path, _draw: random.Random) -> None:
    shutil.rmtree(snapshot)


def all_state_gone(run: Run) -> None:
    """The whole state folder is lost: the journal is whole, so everything is learned again."""
    for share in run.shares(run.rounds(3)):
        run.until(share)
        run.kill(0, again=False)
        with run.fault("the state folder is gone"):
            shutil.rmtree(run.cluster.state_dir)
        run.workers.start(0)
        run.more(30)


def disk_full(run: Run) -> None:
    """The state folder's disk is full: the worker goes on with the snapshots that it has; one that starts ends with 78."""
    ballast = run.cluster.state_dir / "ballast"
    _no_room(run, partial(fill_up, ballast), ballast.unlink)


def read_only(run: Run) -> None:
    """The state folder becomes read-only: the worker goes on; one that starts then says so and ends with 78."""
    folder = run.cluster.state_dir
    _no_room(run, partial(remount, folder, "ro"), partial(remount, folder, "rw"))


def _no_room(run: Run, begin: Callable[[], None], end: Callable[[], None]) -> None:
    for share in run.shares(run.rounds(3)):
        run.until(share)
        run.wait(lambda: len(run.snapshots(0)) >= 1, "a snapshot")
        failures = run.log(0).count("snapshot failed")
        with run.fault("no snapshot can be written") as fault:
            try:
                begin()
                run.wait(lambda before=failures: run.log(0).count("snapshot failed") > before, "a snapshot fails")
                run.more(50)
                run.kill(0, again=False)
                fault.struck = run.workers.start(0).wait() == 78
            finally:
                run.workers.running.pop(0, None)
                end()
        run.workers.start(0)
        run.more(50)


def fill_up(ballast: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def just_run(run: Run) -> None:
    """Nothing happens but what the input brings, and three kills."""
    for share in (0.3, 0.6, 0.9):
        run.until(share)
        run.kill(0)
        run.more(50)


def weight_is_no_number(run: Run) -> None:
    """A weight in memory becomes NaN: the worker ends before it says or saves anything, and recovers."""
    run.until(0.1)
    for count in range(1, run.rounds(3) + 1):
        run.kill(0, again=False)
        process = run.workers.start(0, hooks=[Hook("before_learn", 6, "NAN")])
        run.hit(process, "before_learn", count=count, code=70)
        run.workers.running.pop(0, None)
        run.workers.start(0)
        run.more(50)


def gradients_are_no_numbers(run: Run) -> None:
    """Steps with gradients that are NaN change nothing; kills in between, whose redo meets the same steps."""
    for share in run.shares(run.rounds(3)):
        run.until(share)
        run.kill(0)
        run.more(50)


def all_poison(run: Run) -> None:
    """From some moment on every record is bad: the worker stops with 65, and nothing of that batch is committed."""
    run.until(0.1)
    with run.fault("only poison") as fault:
        run.traffic.shape.poison = 1.0
        fault.before = run.reader.progress
        run.wait(lambda: bool(run.workers.unwanted), "the worker stops")
        fault.struck = run.workers.unwanted == ["w0 ended with 65"]


def big(_draw: random.Random, event: dict[str, object]) -> bytes:
    """A record of 2 MB."""
    return json.dumps({**event, "padding": "x" * 2_000_000}).encode()


def not_a_number(draw: random.Random, event: dict[str, object]) -> bytes:
    """A value that is no number, in the ways that JSON writers have."""
    return json.dumps({**event, "value": draw.choice((float("nan"), float("inf"), "NaN", "1e999"))}).encode()


def strange_time(draw: random.Random, event: dict[str, object]) -> bytes:
    """An event of 1970, of 2100, or of a clock that jumped an hour."""
    time_ = draw.choice((1, 4_102_444_800, T0 - 3600, T0 + 400_000))
    return json.dumps({**event, "event_time": time_}).encode()


def _shape(**wanted: object) -> Callable[[], Shape]:
    return lambda: Shape(**wanted)  # type: ignore[arg-type]


LARGE = {"worker": {"batch_events": 256}, "history": {"max_users": 2000}}
"""Large micro-batches; and of many users only some are remembered."""
OWN_DISK = {
    "events": 4000,
    "sections": {"snapshot": {"every_s": 0.3}},
    "shape": _shape(at_least_s=30.0),
    "disk_bytes": 256 << 20,
}
STATE_SCENARIOS = (
    Scenario("snapshots-damaged", snapshots_damaged, events=4000, sections={"snapshot": {"every_s": 0.3}}),
    Scenario("state-gone", all_state_gone),
    Scenario("poison-rare", just_run, shape=_shape(poison=0.001)),
    Scenario("poison", just_run, shape=_shape(poison=0.05)),
    Scenario("poison-all", all_poison, may_stop=True),
    Scenario("disk-full", disk_full, **OWN_DISK),
    Scenario("read-only", read_only, **OWN_DISK),
    Scenario(
        "big-records", just_run, events=1500, shape=_shape(strange=0.01, make_strange=big, strange_is_poison=True)
    ),
    Scenario(
        "one-user", just_run, events=6000, long_events=1_000_000, sections=LARGE, shape=_shape(users=1, keep_ahead=2000)
    ),
    Scenario(
        "many-users",
        just_run,
        events=6000,
        long_events=1_000_000,
        sections=LARGE,
        shape=_shape(users=0, keep_ahead=2000),
    ),
    Scenario("nan-weight", weight_is_no_number),
    Scenario("nan-gradient", gradients_are_no_numbers, disturbance="nan_gradients"),
    Scenario("nan-value", just_run, shape=_shape(strange=0.05, make_strange=not_a_number, strange_is_poison=True)),
    Scenario("clock-jumps", just_run, disturbance="clock_jumps"),
    Scenario("strange-times", just_run, shape=_shape(strange=0.1, make_strange=strange_time)),
)
