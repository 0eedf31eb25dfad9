"""`tidemill dead-letters replay`: records that were rejected, back to the topic they came from.

For the time after the cause is corrected: an `input.map` that did not fit, a `max_record_bytes` that was too small. Each
goes back with its key, value and headers as they were, to its own partition, in the order in which they were rejected,
with the time of its rejection; what this program had added is taken off, and `tidemill-replayed-from` says where the
dead letter is. A letter that was emptied because of its size has nothing to send.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from consumer.clock import SystemClock
from consumer.dead_letters import ERROR_HEADER, SHA256_HEADER, SIZE_HEADER
from consumer.decode import REASONS
from consumer.errors import UsageError
from consumer.ports import PollLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consumer.ports import Clock, Headers, Record, Source
    from consumer.settings import Settings

REPLAYED_FROM = "tidemill-replayed-from"
AT_ONCE = 500
"""Records read, and acknowledged, together: a dead letter can be large."""

NOT_OURS = "without the headers of a dead letter"
EMPTIED = "emptied because of their size: nothing is left to send"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters go back: from an offset on, at most so many, of one reason, to topics other than the input.

    The offset is that of all partitions, or one for each; those that are not named begin at their beginning.
    """

    from_offset: int | Mapping[int, int] | None = None
    limit: int | None = None
    reason: str | None = None
    any_topic: bool = False
    dry_run: bool = False


class Letter(NamedTuple):
    """A dead letter, read: where the record was, why it was rejected, and the record as it was."""

    topic: str
    partition: int
    reason: str
    is_emptied: bool
    key: bytes | None
    value: bytes | None
    headers: Headers


class Writer(Protocol):
    """What the letters are sent with; `KafkaWriter` is one."""

    partitions: int

    def write(
        self,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
        partition: int | None = None,
        headers: Headers = (),
    ) -> None:
        """Send one record."""

    def flush(self) -> None:
        """Wait until all are acknowledged."""

    def close(self) -> None:
        """Release the connection."""


@dataclass(slots=True)
class Tally:
    """What has become of the dead letters so far; only what is acknowledged counts as sent."""

    sent: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    next_offsets: dict[int, int] = field(default_factory=dict)
    dry_run: bool = False

    def add(self, other: Tally) -> None:
        """Take over what has become of some more."""
        self.sent += other.sent
        self.left += other.left
        self.next_offsets |= other.next_offsets

    def render(self) -> str:
        """Lines for the person at the terminal."""
        doing = "would be sent" if self.dry_run else "sent"
        lines = [f"{doing}: {self.sent.total():,}"]
        lines += [f"  {reason}: {count:,}" for reason, count in self.sent.most_common()]
        lines += [f"left there: {count:,}, {why}" for why, count in self.left.most_common()]
        if not self.dry_run:
            read = " ".join(f"--from-offset {partition}:{at}" for partition, at in sorted(self.next_offsets.items()))
            lines.append(f"what comes later: {read}" if read else "read: nothing, there are no dead letters there")
        return "\n".join(lines)


def replay_dead_letters(settings: Settings, wanted: Wanted, tally: Tally, clock: Clock | None = None) -> None:
    """Send the dead letters of the settings' topic back; `tally` is kept up to date, also where an error ends it."""
    from consumer.kafka_io import KafkaRangeSource, KafkaWriter  # noqa: PLC0415 - rules and tests need no Kafka client

    clock = clock or SystemClock()
    check_reason(wanted.reason)
    source = KafkaRangeSource(settings, settings.topics.dead_letters, start=wanted.from_offset, clock=clock)
    try:
        send_back(source, lambda topic: KafkaWriter(settings, topic, clock=clock), settings, wanted, tally)
    finally:
        source.close()


def check_reason(reason: str | None) -> None:
    """Raise UsageError for a reason that no record is rejected for."""
    if reason is not None and reason not in REASONS:
        raise UsageError(f"--reason {reason!r}: there is no such reason; there are {', '.join(sorted(REASONS))}")


def send_back(
    source: Source, open_writer: Callable[[str], Writer], settings: Settings, wanted: Wanted, tally: Tally
) -> None:
    """Read to the end of `source` and send what is wanted, batch by batch."""
    tally.dry_run = wanted.dry_run
    with ExitStack() as opened:
        writers: dict[str, Writer] = {}

        def writer_of(topic: str) -> Writer:
            if topic not in writers:
                writers[topic] = open_writer(topic)
                opened.callback(writers[topic].close)
            return writers[topic]

        while not source.drained and (wanted.limit is None or tally.sent.total() < wanted.limit):
            records = source.poll(PollLimits(AT_ONCE, 1.0)).records
            left = None if wanted.limit is None else wanted.limit - tally.sent.total()
            some = _send_some(records, writer_of, settings, wanted, left)
            for writer in writers.values():
                writer.flush()
            tally.add(some)


def _send_some(
    records: Sequence[Record],
    writer_of: Callable[[str], Writer],
    settings: Settings,
    wanted: Wanted,
    limit: int | None,
) -> Tally:
    some = Tally()
    for record in records:
        if limit is not None and some.sent.total() >= limit:
            break
        some.next_offsets[record.partition] = record.offset + 1
        letter = letter_of(record)
        why = _why_not(letter, settings.topics.events, wanted)
        if letter is None or why is not None:
            some.left[why or NOT_OURS] += 1
            continue
        if not wanted.dry_run:
            _send(letter, record, writer_of(letter.topic))
        some.sent[letter.reason] += 1
    return some


def _why_not(letter: Letter | None, events: str, wanted: Wanted) -> str | None:
    if letter is None:
        return NOT_OURS
    if wanted.reason is not None and letter.reason != wanted.reason:
        return "of another reason"
    if letter.topic != events and not wanted.any_topic:
        return f"from topic {letter.topic!r}, which is not topics.events ({events!r}): --any-topic sends them there"
    return EMPTIED if letter.is_emptied else None


def _send(letter: Letter, record: Record, writer: Writer) -> None:
    where = f"{record.topic}-{record.partition}-{record.offset}".encode()
    partition = letter.partition if letter.partition < writer.partitions else None
    stamp = record.timestamp_ms if record.timestamp_ms >= 0 else None
    writer.write(letter.key, letter.value, stamp, partition, (*letter.headers, (REPLAYED_FROM, where)))


def letter_of(record: Record) -> Letter | None:
    """Read a dead letter; None where the headers do not say where the record was.

    Of headers of one name the last is the one that was added when the record was rejected: those before it came with
    the record.
    """
    last = {name: index for index, (name, _) in enumerate(record.headers)}
    errors = {name: last.get(ERROR_HEADER + name) for name in ("topic", "partition", "offset", "exception", "message")}
    said = {
        name: (record.headers[at][1] or b"").decode(errors="replace") for name, at in errors.items() if at is not None
    }
    if not said.get("topic") or not said.get("partition", "").isdecimal():
        return None
    is_emptied = not record.value and [name for name, _ in record.headers[-2:]] == [SIZE_HEADER, SHA256_HEADER]
    added = {at for at in errors.values() if at is not None}
    headers = tuple(
        header for at, header in enumerate(record.headers) if at not in added and header[0] != REPLAYED_FROM
    )
    reason = said.get("message", "").partition(":")[0] or "unknown"
    return Letter(said["topic"], int(said["partition"]), reason, is_emptied, record.key, record.value, headers)
