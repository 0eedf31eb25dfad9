"""What a run leaves behind, as the checker needs it: read by an independent client, or from the log in memory."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from tests.faults.reader import OFFSETS_TOPIC, GroupLog, answer_of, group_log, read_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.cluster import Cluster
    from tests.faults.reader import Answer, Seen, Source

OUTPUT_KINDS = ("predictions", "dead_letters", "journal", "drift")
Entries = list[tuple[int, list[tuple[int, int, int]]]]
"""Number of each micro-batch and its ranges: partition, from, to."""


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
class Evidence:
    """Everything that was read when the run had ended, and what was read while it went on (`live`).

    `committed_places` are the places of all outputs that a new reader sees, `unstable` says which partitions end in an
    open transaction. `stopped_early`: the workers were right to stop with work left.
    """

    inputs: dict[Source, Seen]
    answers: list[Answer]
    journal: dict[str, Entries]
    group: GroupLog
    committed_places: dict[tuple[str, int, int], bytes | None]
    journal_topic: str
    unstable: list[str] = field(default_factory=list)
    live: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    stopped_early: bool = False


def gather(cluster: Cluster, live: list[Seen], faults: list[Fault]) -> Evidence:
    """Read all topics with new consumers."""
    topics = [cluster.topic(kind) for kind in ("events", "predictions", "dead_letters", "journal")]
    found = read_all(cluster, topics)
    events, predictions, letters, journal = (found[topic] for topic in topics)
    everything = {seen.place: seen for seen in [*journal, *(s for s in live if s.topic == topics[3])]}
    offsets = read_all(cluster, [OFFSETS_TOPIC])[OFFSETS_TOPIC]
    return Evidence(
        {(seen.partition, seen.offset): seen for seen in events},
        [
            *(answer_of(seen, "predictions") for seen in predictions),
            *(answer_of(seen, "dead_letters") for seen in letters),
        ],
        entries(everything.values()),
        group_log(offsets, cluster.name, cluster.topic("events")),
        {seen.place: seen.value for seen in [*predictions, *letters, *journal]},
        cluster.topic("journal"),
        open_transactions(cluster),
        live,
        faults,
    )


def entries(records: Iterable[Seen]) -> dict[str, Entries]:
    """Read the journal; by lineage."""
    found: dict[str, Entries] = defaultdict(list)
    for seen in sorted(records, key=lambda seen: seen.place):
        body = orjson.loads(seen.value or b"{}")
        found[body["lineage"]].append((body["batch"], [(p, start, stop) for _, p, start, stop in body["ranges"]]))
    return found


def open_transactions(cluster: Cluster) -> list[str]:
    """Partitions whose committed records end before their last record: somebody's transaction was left open."""
    problems = []
    for kind in OUTPUT_KINDS:
        stable = cluster.ends(kind, stable=True)
        ends = cluster.ends(kind, stable=False)
        problems += [f"{kind}-{p}: {stable[p]} of {ends[p]}" for p in ends if stable[p] < ends[p]]
    return problems
