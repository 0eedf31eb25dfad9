"""Rules of the protocol, switched off one at a time: the checker has to see each of them.

Production code has no switch: methods are replaced from outside, before the command starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consumer.journal import Journal
from consumer.kafka_io.client import KafkaProducer
from consumer.kafka_io.sink import KafkaSink
from consumer.parts import Parts
from consumer.pipeline import Pipeline
from consumer.recovery import Recovery
from consumer.snapshots import Snapshot
from tests.faults.hooks import POINTS

Undo = Callable[[], None]


def _replace(owner: type, name: str, method: Callable[..., Any]) -> Undo:
    old = getattr(owner, name)
    setattr(owner, name, method)
    return lambda: setattr(owner, name, old)


def _unchecked_futures() -> Undo:
    """Commit without a look at what became of each record."""
    return _replace(KafkaSink, "_check", lambda _sink, _futures: None)


def _offsets_outside() -> Undo:
    """Commit the outputs in the transaction, and the offsets after it, by themselves."""
    commit = KafkaSink.commit

    def outside(sink: Any, outputs: Any, batch: Any) -> None:
        commit(sink, outputs, batch)
        _KILL_BETWEEN.passed()
        sink._source.commit(batch)

    undo = (
        _replace(KafkaProducer, "send_offsets_to_transaction", lambda *_: None),
        _replace(KafkaSink, "commit", outside),
    )
    return lambda: [one() for one in undo][-1]


class _Point:
    """A place of the mutants' own, to which a hook can be tied."""

    def passed(self) -> None:
        """Nothing happens here unless a hook replaces it."""


_KILL_BETWEEN = _Point()
POINTS["before_offsets_outside"] = (_Point, "passed", None)


def _no_redo() -> Undo:
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

    return _replace(Recovery, "redo", pretend)


def _journal_of(recovery: Any, past: Any) -> Any:
    journal = Journal(past, recovery._journal_partition, recovery._parts.lineage)
    return journal.after(recovery._parts.batch, recovery.journal_offset)


def _no_hash_check() -> Undo:
    """Believe whatever stands in a snapshot's files."""
    return _replace(Snapshot, "_file", lambda snapshot, name: snapshot.store.read(f"{snapshot.name}/{name}"))


def _keep_before_commit() -> Undo:
    """Let the events become history before it is known that they are committed."""
    outputs, keep = Pipeline._outputs, Parts.keep

    def eager(pipeline: Any, considered: Any) -> Any:
        keep(pipeline.parts, considered)
        return outputs(pipeline, considered)

    return _replace(Pipeline, "_outputs", eager)


def _no_journal() -> Undo:
    """Commit outputs and offsets without the journal entry."""
    outputs = Pipeline._outputs

    def without(pipeline: Any, considered: Any) -> Any:
        topic = pipeline.settings.topics.journal
        return [output for output in outputs(pipeline, considered) if output.topic != topic]

    return _replace(Pipeline, "_outputs", without)


MUTANTS: dict[str, Callable[[], Undo]] = {
    "unchecked_futures": _unchecked_futures,
    "offsets_outside": _offsets_outside,
    "no_redo": _no_redo,
    "no_hash_check": _no_hash_check,
    "keep_before_commit": _keep_before_commit,
    "no_journal": _no_journal,
}
"""Name → switches one rule of the protocol off, and returns what switches it on again."""
