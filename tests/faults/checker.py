"""The checker: recomputes from the input alone what must be there, and compares. Knows nothing of how a worker works."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from consumer.as_run import AsRun, replay_as_run
from consumer.clock import SystemClock
from consumer.describe_settings import identity
from consumer.errors import TidemillError
from consumer.health import HealthState
from consumer.kafka_io import KafkaPast
from consumer.metrics import Metrics
from consumer.parts import Parts
from consumer.ports import TopicPartition
from consumer.snapshots import Snapshots
from consumer.state_store import FolderStore
from model.state import same
from tests.faults.reader import OFFSETS_TOPIC, answer_of, group_log, read_all
from tests.faults.traffic import POISON

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consumer.settings import Settings
    from model.state import State
    from tests.faults.cluster import Cluster
    from tests.faults.reader import Answer, GroupLog, Seen, Source

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
class Fault:
    """One injected fault: how much was answered before it, and how much when the run had ended."""

    name: str
    before: int
    at: float
    after: int = 0
    struck: bool = True

    @property
    def missed(self) -> bool:
        return not self.struck or not 0 < self.before < self.after


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

    def lines(self) -> list[str]:
        lines = [f"  {name} {self.counts[name]}" for name in INVARIANTS]
        lines += [f"    {name}: {text}" for name in INVARIANTS for text in self.examples.get(name, ())]
        lines += [f"  {fact}" for fact in self.facts]
        lines += [f"  complaint: {text}" for text in self.complaints]
        return [*lines, "verdict: " + ("as it must be" if self.ok else "BROKEN")]


@dataclass(slots=True)
class Evidence:
    """Everything that was read when the run had ended, and what was read while it went on."""

    cluster: Cluster
    inputs: dict[Source, Seen]
    answers: list[Answer]
    journal: dict[str, list[tuple[int, list[tuple[int, int, int]]]]]
    group: GroupLog
    committed_places: dict[tuple[str, int, int], bytes | None]
    live: list[Seen]
    faults: list[Fault]
    stopped_early: bool = False


def gather(cluster: Cluster, live: list[Seen], faults: list[Fault]) -> Evidence:
    """Read all topics with new consumers."""
    topics = [cluster.topic(kind) for kind in ("events", "predictions", "dead_letters", "journal")]
    found = read_all(cluster, topics)
    events, predictions, letters, journal = (found[topic] for topic in topics)
    inputs = {(seen.partition, seen.offset): seen for seen in events}
    answers = [answer_of(seen, "predictions") for seen in predictions]
    answers += [answer_of(seen, "dead_letters") for seen in letters]
    everything = {seen.place: seen for seen in [*journal, *(s for s in live if s.topic == topics[3])]}
    offsets = read_all(cluster, [OFFSETS_TOPIC])[OFFSETS_TOPIC]
    places = {seen.place: seen.value for seen in [*predictions, *letters, *journal]}
    return Evidence(
        cluster,
        inputs,
        answers,
        _journal(everything.values()),
        group_log(offsets, cluster.name, cluster.topic("events")),
        places,
        live,
        faults,
    )


def _journal(records: Iterable[Seen]) -> dict[str, list[tuple[int, list[tuple[int, int, int]]]]]:
    """By lineage: number and ranges of each micro-batch."""
    found: dict[str, list[tuple[int, list[tuple[int, int, int]]]]] = defaultdict(list)
    for seen in sorted(records, key=lambda seen: seen.place):
        body = orjson.loads(seen.value or b"{}")
        found[body["lineage"]].append((body["batch"], [(p, start, stop) for _, p, start, stop in body["ranges"]]))
    return found


def check(evidence: Evidence, *, replay: bool = True) -> Verdict:
    """Judge every invariant."""
    verdict = Verdict()
    verdict.count("lost", lost(evidence))
    verdict.count("duplicate", duplicate(evidence))
    verdict.count("torn", torn(evidence))
    verdict.count("aborted-read", aborted_read(evidence))
    verdict.count("order", order(evidence))
    verdict.count("open-transaction", open_transactions(evidence))
    verdict.count("offset-regression", offset_regressions(evidence))
    verdict.count("fault-missed", [fault.name for fault in evidence.faults if fault.missed])
    if replay:
        compared, differing = state_differs(evidence)
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
    first = {partition: min(o for p, o in evidence.inputs if p == partition) for partition, _ in evidence.inputs}
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
    first = {partition: min(o for p, o in evidence.inputs if p == partition) for partition, _ in evidence.inputs}
    strange = [
        f"an answer to input {answer.source}, which is not there"
        for answer in evidence.answers
        if answer.source not in evidence.inputs and answer.source[1] >= first.get(answer.source[0], 0)
    ]
    return ghosts + strange


def _deleted(seen: Seen, evidence: Evidence) -> bool:
    """Whether a journal record was trimmed since it was read."""
    if seen.topic != evidence.cluster.topic("journal"):
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


def open_transactions(evidence: Evidence) -> list[str]:
    """Partitions whose committed records end before their last record: somebody's transaction was left open."""
    problems = []
    for kind in ("predictions", "dead_letters", "journal", "drift"):
        stable = evidence.cluster.ends(kind, stable=True)
        ends = evidence.cluster.ends(kind, stable=False)
        problems += [f"{kind}-{p}: {stable[p]} of {ends[p]}" for p in ends if stable[p] < ends[p]]
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


def state_differs(evidence: Evidence) -> tuple[int, list[str]]:
    """Replay each lineage's journal as it ran; returns how many parts were compared and which differ from its newest snapshot."""
    compared, problems = 0, []
    for number in range(16):
        settings = evidence.cluster.settings(number)
        if settings.kafka.instance not in evidence.journal:
            newest = _snapshots(settings).newest()
            if newest is not None and newest.batch:
                problems.append(f"{settings.kafka.instance}: a snapshot of micro-batch {newest.batch}, but no journal")
            continue
        try:
            count, differing = _compare(settings)
        except TidemillError as error:
            problems.append(f"{settings.kafka.instance}: {type(error).__name__}: {error}")
            continue
        compared += count
        problems += differing
        if not count and not differing:
            problems.append(f"{settings.kafka.instance}: there was nothing to compare")
    return compared, problems


def _snapshots(settings: Settings) -> Snapshots:
    store = FolderStore(settings.snapshot.dir)
    return Snapshots(store, settings.kafka.instance, identity(settings), settings.snapshot.keep)


def _compare(settings: Settings) -> tuple[int, list[str]]:
    clock, snapshots, lineage = SystemClock(), _snapshots(settings), settings.kafka.instance
    newest = snapshots.newest()
    if newest is None:
        return 0, []
    parts = Parts(settings, Metrics(clock), HealthState(clock, 60.0))
    past = KafkaPast(settings, clock)
    try:
        replay_as_run(settings, parts, snapshots, past, AsRun(to_batch=newest.batch))
    finally:
        past.close()
    if parts.batch != newest.batch:
        return 0, [f"{lineage}: the journal ends at {parts.batch}, the newest snapshot is of {newest.batch}"]
    differing = _differences(f"{lineage}@{newest.batch} worker", newest.worker(), parts.state())
    compared = 1
    for partition, position in newest.positions.items():
        mine = parts.histories.partitions.get(TopicPartition(*partition))
        if mine is not None and parts.next_offsets.get(partition) == position.next_offset:
            compared += 1
            name = f"{lineage}@{newest.batch} histories of {partition.partition}"
            differing += _differences(name, newest.histories(partition), mine.state())
    return compared, differing


def _differences(name: str, left: State, right: State) -> list[str]:
    problems = []
    if not same(left.arrays, right.arrays):
        names = [k for k in left.arrays if k not in right.arrays or not same({k: left.arrays[k]}, {k: right.arrays[k]})]
        problems.append(f"{name}: {len(names)} arrays differ, e.g. {names[:3]}")
    if orjson.dumps(left.values, option=orjson.OPT_SORT_KEYS) != orjson.dumps(
        right.values, option=orjson.OPT_SORT_KEYS
    ):
        problems.append(f"{name}: values differ")
    return problems
