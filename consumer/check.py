"""`tidemill check`: would a run with these settings work? Connects and looks; changes nothing unless told to create."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from consumer.ages import age_text
from consumer.check_state import look_at_state
from consumer.clock import SystemClock
from consumer.decode import Decoder
from consumer.errors import AccessError, BadEvent, ConfigError, StateError, TidemillError
from consumer.events import segment_of
from consumer.journal import decode as decode_entry
from consumer.kafka_io import (
    KafkaPast,
    add_partitions,
    check_group,
    check_transactions,
    create_command,
    create_topics,
    group_progress,
    no_such_journal_partition,
    read_last,
    topic_info,
    topic_rights,
)
from consumer.mapping import feature_hint
from consumer.ports import OffsetRange, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from consumer.events import Event
    from consumer.ports import Clock, Record, TopicInfo
    from consumer.settings import Settings, TopicSettings

Outcome = Literal["ok", "note", "failed"]
_MARKS = {"ok": "ok    ", "note": "note  ", "failed": "FAILED"}
_WAIT_S = 15.0
KEPT = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""Of the journal topic: records stay until the worker deletes those that no snapshot needs."""
_LAST_OFFSETS = 20
"""Of the journal, in which the last entry is looked for: markers of transactions take offsets too."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    outcome: Outcome
    text: str
    exit_code: int = ConfigError.exit_code
    """Of a failure: what `tidemill run` would end with."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found, in the order it was looked at."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(finding.outcome != "failed" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0, or that of the first failure."""
        return next((finding.exit_code for finding in self.findings if finding.outcome == "failed"), 0)

    def render(self) -> str:
        """Lines for the person at the terminal; they show a few records and are not for a log."""
        lines = [f"{_MARKS[finding.outcome]}  {finding.text}" for finding in self.findings]
        return "\n".join([*lines, "ready to run" if self.ok else "not ready to run"])


def check(settings: Settings, sample: int = 5, *, create: bool = False, clock: Clock | None = None) -> CheckReport:
    """Look at the broker, the topics, the rights and the last `sample` records of the input.

    With `create`, missing topics are made first: output topics with as many partitions as the input, all but the
    journal with the broker's defaults; the journal so that it keeps its records.
    Raises nothing that the worker expects: errors become findings.
    """
    return _Check(settings, clock or SystemClock()).run(sample, create=create)


class _Check:
    """The steps; the first that fails with an error ends the check, for the later ones build on it."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        wait_s = min(settings.kafka.broker_wait_s, _WAIT_S)
        kafka = settings.kafka.model_copy(update={"broker_wait_s": wait_s})
        self._settings = settings.model_copy(update={"kafka": kafka})
        self._clock = clock
        self._found: dict[str, TopicInfo] = {}
        self._findings: list[Finding] = []

    def run(self, sample: int, *, create: bool) -> CheckReport:
        steps: tuple[Callable[[], None], ...] = (
            self._broker,
            *((self._create,) if create else ()),
            self._topics,
            self._journal,
            self._rights,
            self._group,
            self._transactions,
            self._journal_position,
            self._state,
            lambda: self._sample(sample),
        )
        try:
            for step in steps:
                step()
        except TidemillError as error:
            self._fail(str(error), error.exit_code)
        return CheckReport(tuple(self._findings))

    @property
    def _names(self) -> list[str]:
        topics = self._settings.topics
        return list(dict.fromkeys((topics.events, *_outputs(topics), topics.journal)))

    def _note(self, outcome: Outcome, text: str) -> None:
        self._findings.append(Finding(outcome, text))

    def _fail(self, text: str, exit_code: int) -> None:
        self._findings.append(Finding("failed", text, exit_code))

    def _broker(self) -> None:
        self._found = topic_info(self._settings, self._names, clock=self._clock)
        self._note("ok", f"broker: {self._settings.kafka.bootstrap_servers} answers")

    def _create(self) -> None:
        events = self._found.get(self._settings.topics.events)
        partitions = events.partitions if events else -1
        topics = self._settings.topics
        names = (*_outputs(topics), topics.events)
        made = create_topics(self._settings, dict.fromkeys(names, partitions), clock=self._clock)
        places = max(topics.journal_partition + 1, partitions)  # one for each worker that can have something to do
        made += create_topics(self._settings, {topics.journal: places}, KEPT, clock=self._clock)
        for name in made:
            self._note("note", f"topic {name!r}: created")
        journal = self._found.get(topics.journal)
        if journal is not None and journal.partitions <= topics.journal_partition:
            add_partitions(self._settings, topics.journal, topics.journal_partition + 1, clock=self._clock)
            self._note("note", f"topic {topics.journal!r}: {topics.journal_partition + 1} partitions now")
        self._found = topic_info(self._settings, self._names, clock=self._clock)

    def _topics(self) -> None:
        for name in self._names:
            info = self._found.get(name)
            if info is not None:
                self._note("ok", f"topic {name!r}: {info.partitions} partitions")
            else:
                command = create_command(self._settings.kafka, name).strip()
                self._note("failed", f"topic {name!r} does not exist: `tidemill check --create`, or {command}")

    def _state(self) -> None:
        try:
            state = look_at_state(self._settings)
            self._note("ok", state.text)
            self._places(state.learned)
        except (ConfigError, StateError) as error:
            self._note("failed", f"state: {error}")

    def _places(self, learned: Mapping[TopicPartition, int]) -> None:
        """Whether the group's committed offsets are where the worker can go on from."""
        for partition, at in group_progress(self._settings, clock=self._clock).items():
            if at.committed is None:
                continue
            where = f"the committed offset of {partition.topic}-{partition.partition} is {at.committed}"
            if at.committed > at.end:
                self._fail(f"{where}, but the topic ends at {at.end}", StateError.exit_code)
            elif at.committed < at.first and self._settings.recovery.on_truncation == "stop":
                self._fail(
                    f"{where}, but the topic begins at {at.first} now: see recovery.on_truncation", StateError.exit_code
                )
            elif at.committed < learned.get(partition, 0) and self._stops_where_set_back:
                self._fail(
                    f"{where}, but events up to {learned[partition]} were learned: see recovery.on_rewind",
                    StateError.exit_code,
                )

    @property
    def _stops_where_set_back(self) -> bool:
        return self._settings.recovery.on_rewind == "stop" and self._settings.kafka.delivery == "exactly_once"

    def _journal(self) -> None:
        """The journal must keep what it is given until the worker trims it, and have a partition for this worker."""
        topics = self._settings.topics
        info = self._found.get(topics.journal)
        if info is None:
            return
        if info.partitions <= topics.journal_partition:
            self._note(
                "failed",
                no_such_journal_partition(self._settings, info.partitions),
            )
        if not info.config:
            self._note("note", f"topic {topics.journal!r}: the broker does not tell its configuration to this user")
        for name, wanted in KEPT.items():
            found = info.config.get(name)
            if found is not None and found != wanted:
                self._note(
                    "failed",
                    f"topic {topics.journal!r} has {name}={found}, a journal needs {wanted}: kafka-configs.sh"
                    f" --bootstrap-server {self._settings.kafka.bootstrap_servers} --alter --topic {topics.journal}"
                    f" --add-config {name}={wanted}",
                )

    def _rights(self) -> None:
        rights = topic_rights(self._settings, list(self._found), clock=self._clock)
        for name in self._found:
            if not rights[name]:
                self._note("note", f"topic {name!r}: the broker does not tell the rights of this user")
                continue
            for needed in self._needed(name):
                if needed not in rights[name]:
                    self._fail(f"topic {name!r}: this user has no right to {needed.lower()}", AccessError.exit_code)
            if name == self._settings.topics.journal and "DELETE" not in rights[name]:
                self._note("note", f"topic {name!r}: this user may not delete records, so the journal will only grow")

    def _needed(self, name: str) -> tuple[str, ...]:
        topics = self._settings.topics
        if name == topics.drift and not self._settings.drift.enabled:
            return ()
        return {topics.events: ("READ",), topics.journal: ("READ", "WRITE")}.get(name, ("WRITE",))

    def _group(self) -> None:
        check_group(self._settings, clock=self._clock)
        self._note("ok", f"group {self._settings.kafka.group!r}: allowed")

    def _transactions(self) -> None:
        if self._settings.kafka.delivery == "exactly_once":
            check_transactions(self._settings, clock=self._clock)
            self._note("ok", "transactions: allowed")

    def _journal_position(self) -> None:
        """What the journal's partition holds, and whether that is this worker's."""
        topics, lineage = self._settings.topics, self._settings.kafka.instance
        info = self._found.get(topics.journal)
        if info is None or info.partitions <= topics.journal_partition:
            return
        where = f"journal {topics.journal}-{topics.journal_partition}"
        record = last_record(self._settings, self._clock)
        if record is None:
            self._note("note", f"{where}: empty; a worker that has no snapshot begins a new lineage {lineage!r}")
            return
        entry = decode_entry(record.value)
        if entry.lineage != lineage:
            self._note(
                "failed",
                f"{where} holds the journal of {entry.lineage!r}, not of {lineage!r}: every worker needs a partition of"
                " its own (topics.journal_partition)",
            )
            return
        written = age_text(self._clock.now() - record.timestamp_ms / 1000)
        self._note("note", f"{where}: of {lineage!r}, micro-batch {entry.batch} was written {written} ago")

    def _sample(self, count: int) -> None:
        topic = self._settings.topics.events
        if not count or topic not in self._found:
            return
        records = read_last(self._settings, topic, count, clock=self._clock)
        if not records:
            self._note("note", f"topic {topic!r} is empty: nothing to decode")
            return
        decoder = Decoder(self._settings.input)
        decoded = [(record, decoder.decode(record)) for record in records]
        bad = sum(isinstance(event, BadEvent) for _, event in decoded)
        self._note("failed" if bad == len(decoded) else "note" if bad else "ok", _share(len(decoded), bad))
        for record, event in decoded:
            self._note("note", _show(record, event))
        self._segment([event for _, event in decoded if not isinstance(event, BadEvent)])

    def _segment(self, events: list[Event]) -> None:
        """Whether one of the events shown has the feature that segments are made by."""
        feature = self._settings.drift.segment
        if feature and events and not any(segment_of(event, feature) for event in events):
            self._note(
                "note", f"drift.segment: none of these events has one by {feature!r}; {feature_hint(feature, events)}"
            )


def last_record(settings: Settings, clock: Clock) -> Record | None:
    """Return the last record of this worker's journal partition, None where it is empty."""
    partition = TopicPartition(settings.topics.journal, settings.topics.journal_partition)
    with closing(KafkaPast(settings, clock)) as past:
        start, end = past.bounds(partition)
        records = past.read(OffsetRange(partition, max(start, end - _LAST_OFFSETS), end)) if start < end else ()
    return records[-1] if records else None


def _outputs(topics: TopicSettings) -> tuple[str, ...]:
    return topics.predictions, topics.dead_letters, topics.drift


def _share(count: int, bad: int) -> str:
    if bad:
        return f"input: {bad} of the last {count} records cannot be decoded; see `input.preset` and `input.map`"
    return f"input: the last {count} records decode"


def _show(record: Record, event: Event | BadEvent) -> str:
    where = f"{record.topic}-{record.partition}@{record.offset}"
    if isinstance(event, BadEvent):
        return f"{where}: rejected, {event}"
    fields = f"user_id={event.user_id!r} item_id={event.item_id!r} event_type={event.event_type!r}"
    flags = "".join(f" {flag}" for flag in ("late", "future") if getattr(event, flag))
    return f"{where}: {fields} event_time={event.event_time:.3f}{flags}"
