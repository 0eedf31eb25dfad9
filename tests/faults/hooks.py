"""What is done to a worker from inside its own process, at named points of the protocol: mostly, it dies there.

Production code has no hook: methods are replaced from outside, before the command starts.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consumer.kafka_io.client import KafkaProducer, errors
from consumer.kafka_io.sink import KafkaSink
from consumer.parts import Parts
from consumer.recovery import Recovery
from consumer.snapshots import MANIFEST
from consumer.state_store import FolderStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Hook:
    """At the `nth` time that `point` is passed, send a signal to `pid` (0: to itself).

    Instead of a signal: ABORT is a known abort, NAN makes one weight of the model no number.
    """

    point: str
    nth: int
    signal: str = "KILL"
    pid: int = 0

    def text(self) -> str:
        return f"{self.point}:{self.nth}:{self.signal}:{self.pid}"

    @classmethod
    def read(cls, text: str) -> Hook:
        point, nth, name, pid = text.split(":")
        return cls(point, int(nth), name, int(pid))


class _Armed:
    """Counts how often its point is passed; says so in a file before it acts, so that the checker knows."""

    def __init__(self, hook: Hook, hits: Path) -> None:
        self._hook, self._hits, self._count = hook, hits, 0

    def passed(self, owner: Any) -> None:
        self._count += 1
        if self._count != self._hook.nth:
            return
        with self._hits.open("a", encoding="utf-8") as file:
            file.write(f"{self._hook.point} {os.getpid()}\n")
            file.flush()
            os.fsync(file.fileno())
        if self._hook.signal == "ABORT":
            raise errors.TransactionAbortableError("injected")
        if self._hook.signal == "NAN":
            owner.model.transformer.table.weight[1, 0] = float("nan")
            return
        os.kill(self._hook.pid or os.getpid(), getattr(signal, f"SIG{self._hook.signal}"))


def arm(hook: Hook, hits: Path) -> None:
    """Put a hook in place."""
    intercept(hook.point, *POINTS[hook.point], _Armed(hook, hits).passed)


def intercept(
    point: str, owner: type, name: str, when: Callable[..., bool] | None, act: Callable[[Any], None]
) -> Callable[[], None]:
    """Act at every passing of a point, before or after the call as its name says; returns what ends that."""
    original = getattr(owner, name)

    def before(*args: Any, **options: Any) -> Any:
        if when is None or when(*args, **options):
            act(args[0])
        return original(*args, **options)

    def after(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        if when is None or when(*args, **options):
            act(args[0])
        return result

    setattr(owner, name, before if point.startswith("before") else after)
    return lambda: setattr(owner, name, original)


def _is_manifest(_store: Any, name: str, _data: bytes) -> bool:
    return name.endswith(MANIFEST)


def _is_snapshot_file(_store: Any, name: str, _data: bytes) -> bool:
    return "/snapshot-" in name and not name.endswith(MANIFEST)


POINTS: dict[str, tuple[type, str, Callable[..., bool] | None]] = {
    "before_send": (KafkaSink, "_send", None),
    "before_flush": (KafkaSink, "_flush", None),
    "after_flush": (KafkaSink, "_flush", None),
    "before_check": (KafkaSink, "_check", None),
    "after_offsets": (KafkaProducer, "send_offsets_to_transaction", None),
    "before_commit": (KafkaProducer, "commit_transaction", None),
    "after_commit": (KafkaSink, "commit", None),
    "before_learn": (Parts, "learn", None),
    "after_snapshot_file": (FolderStore, "write", _is_snapshot_file),
    "before_manifest": (FolderStore, "write", _is_manifest),
    "after_manifest": (FolderStore, "write", _is_manifest),
    "before_redo": (Recovery, "_redo_one", None),
    "after_redo": (Recovery, "_redo_one", None),
    "before_take_over": (Recovery, "_take_over", None),
}
"""Name → class, method, and (optional) which calls of it count. The name says whether before or after the call."""
