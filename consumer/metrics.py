"""What the worker tells Prometheus. The only door to prometheus_client.

All metrics are declared in the three tables below: name without prefix and counter suffix, help text, labels. Labels
are bounded: by their type, by the assignment (topic, partition), or by `MAX_LABELS`, after which values become
`other`. Never a user or an item id.
"""

from __future__ import annotations

import platform
from threading import Lock
from typing import TYPE_CHECKING, Literal

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    import numpy.typing as npt

    from consumer.ports import Clock, TopicPartition

__all__ = ["CONTENT_TYPE", "COUNTERS", "GAUGES", "HISTOGRAMS", "Metrics"]

PREFIX = "tidemill_"
MAX_LABELS = 64
OTHER = "other"

Declared = tuple[str, tuple[str, ...]]

COUNTERS: Mapping[str, Declared] = {
    "events": ("Input records read, by what became of them.", ("outcome",)),
    "predictions": ("Predictions committed.", ()),
    "dead_letters": ("Records that could not become events, by reason.", ("reason",)),
    "transactions": ("Transactions, by result.", ("result",)),
    "rebalances": ("Changes of the assigned partitions.", ()),
    "learn_steps": ("Learning steps, by result.", ("result",)),
    "drift_detected": ("Drift detections, by signal.", ("signal",)),
    "drift_detected_in_segment": ("Drift detections in a segment, by its value of drift.segment.", ("segment",)),
    "adaptations": ("Actions of the policy on drift, by action.", ("action",)),
    "quarantined_events": ("Events that were not learned because their user was in quarantine.", ()),
    "items_admitted": ("Items admitted to the vocabulary.", ()),
    "items_evicted": ("Items evicted from the vocabulary.", ()),
    "snapshots": ("Snapshots, by result.", ("result",)),
    "recovery_batches": ("Micro-batches that were redone from the journal.", ()),
    "recoveries": ("Recoveries, the one at the start included.", ()),
}
"""Exported with the suffix `_total`."""

GAUGES: Mapping[str, Declared] = {
    "assigned_partitions": ("Partitions assigned to this worker.", ()),
    "consumer_lag_records": ("Records that wait in a partition, as of the last poll.", ("topic", "partition")),
    "consumer_lag_seconds": (
        "Age of the last record read from a partition, by its broker timestamp; 0 where none waits.",
        ("topic", "partition"),
    ),
    "learning_rate": ("Learning rate of the last learning step.", ()),
    "prequential_hit_rate": ("Share of scored events whose item was in a method's first k.", ("k", "method")),
    "prequential_ndcg": ("Mean NDCG of a method's first k.", ("k", "method")),
    "prequential_log_loss": ("Mean log loss of a method in nats.", ("head", "method")),
    "mixture_weight": ("Weight of a component in the mixture.", ("component",)),
    "adaptation_active": ("Whether a lasting action of the policy is under way.", ("action",)),
    "degraded": ("1 from an alarm on the log loss until it is back, or its new level is the usual one; else 0.", ()),
    "users": ("Users with a retained history.", ()),
    "items": ("Items in the vocabulary.", ()),
    "watchdog_age_seconds": ("Time since the loop last showed that it moves.", ()),
    "snapshot_age_seconds": ("Time since the last snapshot was saved, or since the start where none was.", ()),
    "snapshot_size_bytes": ("Size of the last snapshot.", ()),
}

_STAGES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86_400.0)
_RECOVERIES = (2500.0, 5000.0, 10_000.0, 25_000.0, 50_000.0, 100_000.0, 200_000.0)
_SAVES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

HISTOGRAMS: Mapping[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "step_duration_seconds": ("Duration of one stage of a micro-batch.", ("stage",), _STAGES),
    "event_to_prediction_seconds": ("From an event's own time to the commit of its prediction.", (), _LATENCIES),
    "record_to_prediction_seconds": ("From a record's broker timestamp to the commit.", (), _LATENCIES),
    "drift_recovery_events": ("Events from an alarm on the log loss until the model was back.", (), _RECOVERIES),
    "drift_recovery_seconds": ("Time from an alarm in this process until the model was back.", (), _LATENCIES),
    "snapshot_duration_seconds": ("Time to write a snapshot.", (), _SAVES),
}

EventOutcome = Literal["accepted", "late", "repeated", "rejected"]
TransactionResult = Literal["committed", "aborted", "unknown"]
LearnResult = Literal["learned", "skipped", "nonfinite"]


class Metrics:
    """The metrics of one worker, in a registry of its own; methods are named after what happened. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._registry = CollectorRegistry()
        self._clock = clock
        self._counters = {
            name: Counter(PREFIX + name, text, labels, registry=self._registry)
            for name, (text, labels) in COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(PREFIX + name, text, labels, registry=self._registry) for name, (text, labels) in GAUGES.items()
        }
        self._histograms = {name: Histogram(PREFIX + name, *declared) for name, declared in HISTOGRAMS.items()}
        for histogram in self._histograms.values():
            self._registry.register(histogram)
        self._info = Info(PREFIX + "build", "Versions of what runs.", registry=self._registry)
        self._labels = _BoundedLabels(MAX_LABELS)
        self._partitions: frozenset[TopicPartition] = frozenset()
        self._worse: tuple[int, float] | None = None  # event and time of the latest alarm that recovery is counted from
        self._saved_at = clock.monotonic()
        self._gauges["snapshot_age_seconds"].set_function(lambda: clock.monotonic() - self._saved_at)
        ProcessCollector(registry=self._registry)
        self.begin_at_zero("events", ("accepted", "late", "repeated", "rejected"))
        self.begin_at_zero("transactions", ("committed", "aborted", "unknown"))
        self.begin_at_zero("learn_steps", ("learned", "skipped", "nonfinite"))
        self.begin_at_zero("snapshots", ("saved", "failed"))

    def begin_at_zero(self, counter: str, values: Iterable[str]) -> None:
        """Export the series of these values from now on, so that `increase()` sees the first time each is counted."""
        (label,) = COUNTERS[counter][1]
        for value in values:
            self._counters[counter].labels(self._labels.admit(label, value))

    def render(self) -> bytes:
        """Return everything in the Prometheus text format, whose media type is CONTENT_TYPE."""
        return generate_latest(_WithoutCreated(self._registry))

    # --- the stream

    def events(self, outcome: EventOutcome, n: int) -> None:
        """`n` input records were read and became this; each record counts under one outcome."""
        self._counters["events"].labels(outcome).inc(n)

    def dead_letter(self, reason: str, n: int = 1) -> None:
        """`n` records could not become events."""
        self._counters["dead_letters"].labels(self._labels.admit("reason", reason)).inc(n)

    def committed(self, predictions: int) -> None:
        """A transaction was committed, with so many predictions."""
        self._counters["transactions"].labels("committed").inc()
        self._counters["predictions"].inc(predictions)

    def not_committed(self, result: Literal["aborted", "unknown"]) -> None:
        """A transaction was aborted, or nobody knows."""
        self._counters["transactions"].labels(result).inc()

    def observe_step(self, stage: str, seconds: float) -> None:
        """One stage of a micro-batch (poll, decode, predict, commit, learn, …) took so long."""
        self._histograms["step_duration_seconds"].observe(seconds, self._labels.admit("stage", stage))

    def latency(self, event_s: npt.NDArray[np.float64], record_s: npt.NDArray[np.float64]) -> None:
        """Seconds from event time and from broker timestamp to the commit; NaN where unknown, negative counts as 0."""
        self._histograms["event_to_prediction_seconds"].observe(event_s)
        self._histograms["record_to_prediction_seconds"].observe(record_s)

    def assigned(self, partitions: AbstractSet[TopicPartition]) -> None:
        """These partitions are assigned now. A change counts as a rebalance; the lag of revoked ones disappears."""
        if partitions == self._partitions:
            return
        for revoked in self._partitions - partitions:
            self._gauges["consumer_lag_records"].remove(revoked.topic, str(revoked.partition))
            self._gauges["consumer_lag_seconds"].remove(revoked.topic, str(revoked.partition))
        self._partitions = frozenset(partitions)
        self._counters["rebalances"].inc()
        self._gauges["assigned_partitions"].set(len(partitions))

    def lag(self, records: Mapping[TopicPartition, int], seconds: Mapping[TopicPartition, float] | None = None) -> None:
        """So many records wait, and the last one read is so old. Partitions that are not assigned are left out."""
        for gauge, values in (("consumer_lag_records", records), ("consumer_lag_seconds", seconds or {})):
            for partition in self._partitions.intersection(values):
                self._gauges[gauge].labels(partition.topic, str(partition.partition)).set(values[partition])

    # --- learning

    def learned(self, result: LearnResult, learning_rate: float | None = None) -> None:
        """A learning step ended like this."""
        self._counters["learn_steps"].labels(result).inc()
        if learning_rate is not None:
            self._gauges["learning_rate"].set(learning_rate)

    def prequential(
        self, method: str, hit_rate: Mapping[int, float], ndcg: Mapping[int, float], log_loss: float
    ) -> None:
        """Where a method stands on the next item; `hit_rate` and `ndcg` by k."""
        label = self._labels.admit("method", method)
        for k, value in hit_rate.items():
            self._gauges["prequential_hit_rate"].labels(str(k), label).set(value)
        for k, value in ndcg.items():
            self._gauges["prequential_ndcg"].labels(str(k), label).set(value)
        self.prequential_head("item", method, log_loss)

    def prequential_head(self, head: str, method: str, log_loss: float) -> None:
        """Where a method stands on another head, such as the event type."""
        labels = self._labels.admit("head", head), self._labels.admit("method", method)
        self._gauges["prequential_log_loss"].labels(*labels).set(log_loss)

    def mixture(self, weights: Mapping[str, float]) -> None:
        """The weight of each component."""
        for component, weight in weights.items():
            self._gauges["mixture_weight"].labels(self._labels.admit("component", component)).set(weight)

    def drift(self, signal: str, segment: str = "") -> None:
        """A detector went off; `segment` is empty where it is about the whole stream."""
        self._counters["drift_detected"].labels(self._labels.admit("signal", signal)).inc()
        if segment:
            self._counters["drift_detected_in_segment"].labels(self._labels.admit("segment", segment)).inc()

    def adapted(self, actions: Iterable[str], active: Mapping[str, bool], quarantined: int) -> None:
        """These actions began with a micro-batch, these are under way, and so many of its events were left out."""
        for action in actions:
            self._counters["adaptations"].labels(self._labels.admit("action", action)).inc()
        for action, on in active.items():
            self._gauges["adaptation_active"].labels(self._labels.admit("action", action)).set(on)
        self._counters["quarantined_events"].inc(quarantined)

    def watch_degraded(self, is_degraded: Callable[[], bool]) -> None:
        """Ask at every scrape whether the model is worse than before an alarm: a restored state knows before any step."""
        self._gauges["degraded"].set_function(is_degraded)

    def worse_since(self, event: int) -> None:
        """An alarm of this moment, at this event, says that the model is worse than before."""
        self._worse = event, self._clock.monotonic()

    def recovered_from_drift(self, since: int, events: int) -> None:
        """The model is back where it was, so many events after the alarm at event `since`."""
        self._histograms["drift_recovery_events"].observe(float(events))
        if self._worse is not None and self._worse[0] == since:  # else the alarm was before this process, or in a redo
            self._histograms["drift_recovery_seconds"].observe(self._clock.monotonic() - self._worse[1])

    # --- state

    def histories(self, users: int) -> None:
        """So many users have a history."""
        self._gauges["users"].set(users)

    def vocabulary(self, items: int, admitted: int, evicted: int) -> None:
        """The vocabulary holds so many items; so many came and went since the last call."""
        self._gauges["items"].set(items)
        self._counters["items_admitted"].inc(admitted)
        self._counters["items_evicted"].inc(evicted)

    def snapshot(self, seconds: float, size_bytes: int) -> None:
        """A snapshot was saved."""
        self._saved_at = self._clock.monotonic()
        self._counters["snapshots"].labels("saved").inc()
        self._gauges["snapshot_size_bytes"].set(size_bytes)
        self._histograms["snapshot_duration_seconds"].observe(seconds)

    def recovered(self, batches: int) -> None:
        """A recovery has ended; so many micro-batches were redone."""
        self._counters["recoveries"].inc()
        self._counters["recovery_batches"].inc(batches)

    def watch(self, age_s: Callable[[], float]) -> None:
        """Ask the watchdog for its age at every scrape."""
        self._gauges["watchdog_age_seconds"].set_function(age_s)

    def snapshot_failed(self) -> None:
        """A snapshot could not be saved."""
        self._counters["snapshots"].labels("failed").inc()

    def build_info(self, versions: Mapping[str, str]) -> None:
        """Versions by package name (`tidemill`, `torch`, …); Python's is added."""
        info = {"python": platform.python_version(), **versions}
        self._info.info({name.replace("-", "_"): version for name, version in info.items()})


class Histogram(Collector):
    """A histogram with at most one label that takes whole arrays. Unlike the library's, 256 values cost 20 µs."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._bounds = np.asarray(bounds)
        self._names = [*map(floatToGoString, bounds), "+Inf"]
        self._counts: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._lock = Lock()
        if not labels:
            self.observe(np.empty(0))

    def observe(self, values: npt.ArrayLike, *labels: str) -> None:
        """Count values. NaN and infinite ones are left out; a negative one counts as 0, so that the sum only grows."""
        seconds = np.atleast_1d(np.asarray(values, dtype=np.float64))
        seconds = np.maximum(seconds[np.isfinite(seconds)], 0.0)
        slots = np.searchsorted(self._bounds, seconds, side="left")  # bucket i holds values <= bounds[i]
        counts = np.bincount(slots, minlength=len(self._names))
        with self._lock:
            self._counts[labels] = self._counts.get(labels, 0) + counts
            self._sums[labels] = self._sums.get(labels, 0.0) + float(seconds.sum())

    def describe(self) -> Iterable[Metric]:
        """The names this collector takes."""
        return [HistogramMetricFamily(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """One family with all its series."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        with self._lock:
            series = [(labels, counts.cumsum(), self._sums[labels]) for labels, counts in self._counts.items()]
        for labels, counts, total in series:
            buckets = [(name, float(count)) for name, count in zip(self._names, counts, strict=True)]
            family.add_metric(labels, buckets, total)
        return [family]


class _BoundedLabels:
    """Remembers the values that each label has had; past the limit a new one becomes `other`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[str, set[str]] = {}

    def admit(self, label: str, value: str) -> str:
        seen = self._seen.setdefault(label, set())
        if value not in seen and len(seen) >= self._limit:
            return OTHER
        seen.add(value)
        return value


class _WithoutCreated(Collector):
    """Leaves out the `_created` series: nothing reads them, and they double the number of series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
