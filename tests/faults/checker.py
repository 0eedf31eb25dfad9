"""The checker: recomputes from the input alone what must be there, and compares. Knows nothing of how a worker works."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.faults.traffic import POISON

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.evidence import Evidence
    from tests.faults.reader import Seen, Source

INVARIANTS = (
    "lost",
    "duplicate",
    "torn",
    "aborted-read",
    "order",
    "state≠replay",
    "open-transaction",
    "offset-regression",
    "fault-missed",
)


@dataclass(slots=True)
class Verdict:
    """The count of each invariant, with a few examples, and what else is worth saying."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(INVARIANTS, 0))
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    facts: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def count(self, invariant: str, what: Sequence[str]) -> None:
        self.counts[invariant] += len(what)
        self.examples[invariant] += what[:5]

    @property
    def ok(self) -> bool:
        return not any(self.counts.values()) and not self.complaints

    @property
    def counted(self) -> str:
        """All invariants with their counts, in one line."""
        return " ".join(f"{name} {self.counts[name]}" for name in INVARIANTS)

    def lines(self) -> list[str]:
        """One line each, then examples of what is wrong, facts, and the verdict."""
        lines = [f"{name} {self.counts[name]}" for name in INVARIANTS]
        lines += [f"    {name}: {text}" for name in INVARIANTS for text in self.examples.get(name, ())]
        lines += [f"  {fact}" for fact in self.facts]
        lines += [f"  complaint: {text}" for text in self.complaints]
        return [*lines, f"verdict: {'as it must be' if self.ok else 'BROKEN'}: {self.counted}"]


def check(evidence: Evidence, compare: Callable[[], tuple[int, list[str]]] | None = None) -> Verdict:
    """Judge every invariant; `compare` replays the journals, and returns how many parts it compared and what differs."""
    verdict = Verdict()
    verdict.count("lost", lost(evidence))
    verdict.count("duplicate", duplicate(evidence))
    verdict.count("torn", torn(evidence))
    verdict.count("aborted-read", aborted_read(evidence))
    verdict.count("order", order(evidence))
    verdict.count("open-transaction", evidence.unstable)
    verdict.count("offset-regression", offset_regressions(evidence))
    verdict.count("fault-missed", [fault.name for fault in evidence.faults if fault.missed])
    if compare is not None:
        compared, differing = compare()
        verdict.count("state≠replay", differing)
        verdict.facts.append(f"compared with as-run: {compared} parts of {len(evidence.journal)} lineages")
    batches = sum(len(entries) for entries in evidence.journal.values())
    kinds = Counter(answer.kind for answer in evidence.answers)
    verdict.facts.append(
        f"{len(evidence.inputs)} records in, {kinds['predictions']} predictions, {kinds['dead_letters']} dead letters,"
        f" {batches} micro-batches, {len(evidence.faults)} faults"
    )
    return verdict


def expected(evidence: Evidence) -> dict[Source, tuple[str, bytes | None]]:
    """From the input alone: each record has one dead letter where it is poison, else one prediction, keyed like it."""
    return {
        source: ("dead_letters" if seen.header(POISON) else "predictions", seen.key)
        for source, seen in evidence.inputs.items()
    }


def lost(evidence: Evidence) -> list[str]:
    """Input records without their answer; where the worker was right to stop, only those before its offsets count."""
    found = {(a.source, a.kind, a.key) for a in evidence.answers}
    missing = [source for source, (kind, key) in expected(evidence).items() if (source, kind, key) not in found]
    if evidence.stopped_early:
        ends: dict[int, int] = {}
        for commit in evidence.group.commits:
            ends[commit.partition] = commit.offset
        missing = [source for source in missing if source[1] < ends.get(source[0], 0)]
    return [f"input {source} has no answer" for source in missing]


def duplicate(evidence: Evidence) -> list[str]:
    """Input records with more than one answer."""
    times = Counter(answer.source for answer in evidence.answers)
    return [f"input {source} has {count} answers" for source, count in times.items() for _ in range(count - 1)]


def torn(evidence: Evidence) -> list[str]:
    """Outputs without their offsets or journal entry, or the reverse: a transaction of which only a part is there."""
    wanted = expected(evidence)
    by_batch: dict[tuple[str, int], set[Source]] = defaultdict(set)
    for answer in evidence.answers:
        if answer.kind == "predictions":
            by_batch[answer.lineage, answer.batch].add(answer.source)
    problems = []
    first = _first_offsets(evidence)
    for lineage, entries in evidence.journal.items():
        for batch, ranges in entries:
            there = by_batch.pop((lineage, batch), set())
            meant = {
                (p, o)
                for p, start, stop in ranges
                for o in range(start, stop)
                if wanted.get((p, o), ("",))[0] == "predictions"
            }
            there = {source for source in there if source[1] >= first.get(source[0], 0)}  # the rest is deleted
            if there != meant:
                problems.append(f"{lineage}@{batch}: {len(there - meant)} too many, {len(meant - there)} missing")
    problems += [f"{lineage}@{batch}: no journal entry" for lineage, batch in by_batch]
    journalled = {(p, stop) for e in evidence.journal.values() for _, ranges in e for p, _, stop in ranges}
    committed = {(commit.partition, commit.offset) for commit in evidence.group.commits}
    problems += [f"offset {at} journalled, not committed" for at in journalled - committed]
    problems += [f"offset {at} committed, not journalled" for at in committed - journalled]
    return problems


def aborted_read(evidence: Evidence) -> list[str]:
    """Records that a reader of committed records saw and that are not committed; answers to what is no committed input."""
    ghosts = [
        f"{seen.place} was read during the run"
        for seen in evidence.live
        if evidence.committed_places.get(seen.place, b"-") != seen.value and not _deleted(seen, evidence)
    ]
    first = _first_offsets(evidence)
    strange = [
        f"an answer to input {answer.source}, which is not there"
        for answer in evidence.answers
        if answer.source not in evidence.inputs and answer.source[1] >= first.get(answer.source[0], 0)
    ]
    return ghosts + strange


def _first_offsets(evidence: Evidence) -> dict[int, int]:
    """By partition of the input, the first offset that is still there."""
    first: dict[int, int] = {}
    for partition, offset in evidence.inputs:
        first[partition] = min(offset, first.get(partition, offset))
    return first


def _deleted(seen: Seen, evidence: Evidence) -> bool:
    """Whether a journal record was trimmed since it was read."""
    if seen.topic != evidence.journal_topic:
        return False
    places = [place for place in evidence.committed_places if place[:2] == seen.place[:2]]
    return not places or seen.offset < min(place[2] for place in places)


def order(evidence: Evidence) -> list[str]:
    """Answers of one user that do not stand in the order of the input."""
    latest: dict[tuple[str, int, bytes | None], int] = {}
    problems = []
    for answer in sorted(evidence.answers, key=lambda answer: answer.seen.place):
        if answer.kind != "predictions":
            continue
        place = (answer.seen.topic, answer.seen.partition, answer.key)
        if answer.source[1] < latest.get(place, -1):
            problems.append(f"input {answer.source} is answered after {latest[place]}")
        latest[place] = answer.source[1]
    return problems


def offset_regressions(evidence: Evidence) -> list[str]:
    """Committed offsets that went back."""
    last: dict[int, int] = {}
    problems = []
    for partition, offset in evidence.group.commits:
        if offset < last.get(partition, -1):
            problems.append(f"partition {partition}: {offset} after {last[partition]}")
        last[partition] = offset
    return problems
