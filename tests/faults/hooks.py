"""What is done to a worker from inside its own process: points at which it dies, and rules that are switched off.

Production code has no hook: both replace methods from outside, before the command starts.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consumer.journal import Journal
from consumer.kafka_io.client import KafkaProducer, errors
from consumer.kafka_io.sink import KafkaSink
from consumer.parts import Parts
from consumer.pipeline import Pipeline
from consumer.recovery import Recovery
from consumer.snapshots import MANIFEST, Snapshot
from consumer.state_store import FolderStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Hook:
    """At the `nth` time that `point` is passed, send a signal to `pid` (0: to itself). ABORT: a known abort instead."""

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

    def passed(self) -> None:
        self._count += 1
        if self._count != self._hook.nth:
            return
        with self._hits.open("a", encoding="utf-8") as file:
            file.write(f"{self._hook.point} {os.getpid()}\n")
            file.flush()
            os.fsync(file.fileno())
        if self._hook.signal == "ABORT":
            raise errors.TransactionAbortableError("injected")
        os.kill(self._hook.pid or os.getpid(), getattr(signal, f"SIG{self._hook.signal}"))


def arm(hook: Hook, hits: Path) -> None:
    """Put a hook in place."""
    owner, name, when = POINTS[hook.point]
    armed, original = _Armed(hook, hits), getattr(owner, name)

    def before(*args: Any, **options: Any) -> Any:
        if when is None or when(*args, **options):
            armed.passed()
        return original(*args, **options)

    def after(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        if when is None or when(*args, **options):
            armed.passed()
        return result

    setattr(owner, name, before if hook.point.startswith("before") else after)


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


def _replace(owner: type, name: str, method: Callable[..., Any]) -> None:
    setattr(owner, name, method)


def _unchecked_futures() -> None:
    """Commit without a look at what became of the records."""
    _replace(KafkaSink, "_flush", lambda _sink: None)
    _replace(KafkaSink, "_check", lambda _sink, _futures: None)


def _offsets_outside() -> None:
    """Commit the outputs in the transaction, and the offsets after it, by themselves."""
    commit = KafkaSink.commit

    def outside(sink: Any, outputs: Any, batch: Any) -> None:
        commit(sink, outputs, batch)
        _KILL_BETWEEN.passed()
        sink._source.commit(batch)

    _replace(KafkaProducer, "send_offsets_to_transaction", lambda *_: None)
    _replace(KafkaSink, "commit", outside)


class _Point:
    """A place of the mutants' own, to which a hook can be tied."""

    def passed(self) -> None:
        """Nothing happens here unless a hook replaces it."""


_KILL_BETWEEN = _Point()
POINTS["before_offsets_outside"] = (_Point, "passed", None)


def _no_redo() -> None:
    """Go on from the committed offsets and forget what was learned since the snapshot."""

    def pretend(recovery: Any, _source: Any, past: Any, _moved: Any) -> int:
        last = recovery._parts.batch
        for journaled in _journal_of(recovery, past):
            last = journaled.entry.batch
            for span in journaled.entry.ranges:
                recovery._parts.begin(span.partition, None)
                recovery._parts.next_offsets[span.partition] = span.stop
        recovery._parts.learner.batch = last
        return 0

    _replace(Recovery, "redo", pretend)


def _journal_of(recovery: Any, past: Any) -> Any:
    journal = Journal(past, recovery._journal_partition, recovery._parts.lineage)
    return journal.after(recovery._parts.batch, recovery.journal_offset)


def _no_hash_check() -> None:
    """Believe whatever stands in a snapshot's files."""
    _replace(Snapshot, "_file", lambda snapshot, name: snapshot.store.read(f"{snapshot.name}/{name}"))


def _keep_before_commit() -> None:
    """Let the events become history before it is known that they are committed."""
    judge, keep = Pipeline._judge, Parts.keep

    def eager(pipeline: Any, batch: Any, considered: Any) -> None:
        judge(pipeline, batch, considered)
        keep(pipeline.parts, considered)

    _replace(Pipeline, "_judge", eager)


def _no_journal() -> None:
    """Commit outputs and offsets without the journal entry."""
    outputs = Pipeline._outputs

    def without(pipeline: Any, considered: Any) -> Any:
        topic = pipeline.settings.topics.journal
        return [output for output in outputs(pipeline, considered) if output.topic != topic]

    _replace(Pipeline, "_outputs", without)


MUTANTS: dict[str, Callable[[], None]] = {
    "unchecked_futures": _unchecked_futures,
    "offsets_outside": _offsets_outside,
    "no_redo": _no_redo,
    "no_hash_check": _no_hash_check,
    "keep_before_commit": _keep_before_commit,
    "no_journal": _no_journal,
}
"""One rule of the protocol each, switched off."""
