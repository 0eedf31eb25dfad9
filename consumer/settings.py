"""All settings of the worker: one frozen, typed tree. A file, the environment and flags fill it, in this order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from incremental.settings import DriftSettings, EvaluationSettings, LearningSettings, PolicySettings
from model.settings import IDENTITY, OPERATIONAL, Count, ModelSettings, Positive, PredictionSettings, Section, Share


class KafkaSettings(Section):
    """The connection. Binds to nothing: the worker only connects."""

    bootstrap_servers: str = Field("127.0.0.1:9092", json_schema_extra=OPERATIONAL)
    """Comma-separated host:port list."""
    group: str = Field("tidemill", json_schema_extra=IDENTITY)
    """Consumer group: workers of one group share the partitions of the input topic."""
    instance: str = Field("tidemill-0", json_schema_extra=IDENTITY)
    """Name of this worker in the group, stable over restarts: static member and transactional id."""
    delivery: Literal["exactly_once", "at_least_once"] = Field("exactly_once", json_schema_extra=OPERATIONAL)
    """Outputs and progress in one transaction, or outputs first and progress after."""
    auto_offset_reset: Literal["earliest", "latest"] = Field("earliest", json_schema_extra=OPERATIONAL)
    """Where a group without committed offsets begins."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", json_schema_extra=OPERATIONAL
    )
    """How to talk to the broker: in the clear or over TLS, with a login or without."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, json_schema_extra=OPERATIONAL
    )
    """How to log in; needed with SASL_PLAINTEXT and SASL_SSL."""
    sasl_username: str | None = Field(None, json_schema_extra=OPERATIONAL)
    """The name to log in with."""
    sasl_password: SecretStr | None = Field(None, json_schema_extra=OPERATIONAL)
    """The password to log in with; never shown. Better given by the environment or by `sasl_password_file`."""
    sasl_password_file: Path | None = Field(None, json_schema_extra=OPERATIONAL)
    """A file that holds the password, as a mounted secret."""
    ssl_cafile: Path | None = Field(None, json_schema_extra=OPERATIONAL)
    """Certificates (PEM) that vouch for the broker; without it, those of the system."""
    ssl_certfile: Path | None = Field(None, json_schema_extra=OPERATIONAL)
    """The worker's own certificate (PEM), where the broker asks for one."""
    ssl_keyfile: Path | None = Field(None, json_schema_extra=OPERATIONAL)
    """The private key (PEM) of `ssl_certfile`."""
    ssl_check_hostname: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Whether the broker's certificate must name the host that was connected to."""
    session_timeout_ms: Annotated[int, Field(ge=6000)] = Field(10_000, json_schema_extra=OPERATIONAL)
    """A worker that is silent for this long loses its partitions."""
    request_timeout_ms: Annotated[int, Field(ge=1000)] = Field(3_000, json_schema_extra=OPERATIONAL)
    """How long one request waits for its answer."""
    transaction_timeout_ms: Annotated[int, Field(ge=1000)] = Field(15_000, json_schema_extra=OPERATIONAL)
    """The broker aborts a transaction that is open for this long."""
    broker_wait_s: Positive = Field(300.0, json_schema_extra=OPERATIONAL)
    """How long a starting worker waits for a broker before it gives up (exit 75)."""
    properties: dict[str, str | int | float | bool] = Field(default_factory=dict, json_schema_extra=OPERATIONAL)
    """Further kafka-python options, as `-X name=value` gives them."""


class TopicSettings(Section):
    """Names of the topics."""

    events: str = Field("events", json_schema_extra=IDENTITY)
    """Where events are read from."""
    predictions: str = Field("predictions", json_schema_extra=OPERATIONAL)
    """Where predictions are written, keyed like their events."""
    dead_letters: str = Field("dead-letters", json_schema_extra=OPERATIONAL)
    """Where records go that cannot become events, as they were."""
    drift: str = Field("drift", json_schema_extra=OPERATIONAL)
    """Changes that were noticed, and what was done about them."""
    journal: str = Field("journal", json_schema_extra=IDENTITY)
    """One small record per micro-batch, from which a worker's state can be redone."""
    journal_partition: Annotated[int, Field(ge=0)] = Field(0, json_schema_extra=IDENTITY)
    """The partition of the journal that belongs to this worker alone."""


class InputSettings(Section):
    """How a record becomes an event."""

    preset: Literal["plain", "segment", "ga4", "snowplow", "cloudevents"] = Field("plain", json_schema_extra=IDENTITY)
    """The envelope; its field paths can be overridden one by one in `map`."""
    map: dict[str, str] = Field(default_factory=dict, json_schema_extra=IDENTITY)
    """Event field = dotted path in the record, e.g. item_id = "properties.product_id"."""
    time_unit: Literal["auto", "s", "ms", "us", "rfc3339"] = Field("auto", json_schema_extra=IDENTITY)
    """Unit of numeric times. `auto`: by the magnitude of the first one, once."""
    late_after_s: Positive = Field(86_400.0, json_schema_extra=IDENTITY)
    """An event is late when its time is so far before its record's timestamp."""
    on_late: Literal["keep", "skip"] = Field("keep", json_schema_extra=IDENTITY)
    """Late events are flagged and counted; `skip` also keeps them out of the histories and of learning."""
    future_after_s: Positive = Field(300.0, json_schema_extra=IDENTITY)
    """An event so far after its record's timestamp is flagged, and takes the record's time."""
    session_gap_s: Positive = Field(1800.0, json_schema_extra=IDENTITY)
    """Without a session_id, a pause this long opens a new session."""
    repeat_window: Annotated[int, Field(ge=0, le=64)] = Field(8, json_schema_extra=IDENTITY)
    """Where event_id is mapped: an id among the user's latest so many is a repetition; predicted for, not learned."""
    max_bad_share: Share = Field(0.5, json_schema_extra=OPERATIONAL)
    """Stop when more than this share of the latest `bad_window` records was rejected."""
    bad_window: Count = Field(1000, json_schema_extra=OPERATIONAL)
    """Records over which `max_bad_share` is judged."""
    max_bad_run: Count = Field(500, json_schema_extra=OPERATIONAL)
    """Stop when so many records in a row were rejected."""
    max_record_bytes: Count = Field(1_000_000, json_schema_extra=IDENTITY)
    """A larger record becomes an empty dead letter with its size and hash in the headers."""


class HistorySettings(Section):
    """The bounded memory of each user."""

    length: Annotated[int, Field(ge=2, le=4096)] = Field(128, json_schema_extra=IDENTITY)
    """Events kept per user."""
    max_users: Count = Field(1_000_000, json_schema_extra=IDENTITY)
    """Users kept per partition; the one unseen for longest is dropped."""


class WorkerSettings(Section):
    """The loop."""

    batch_events: Annotated[int, Field(ge=1, le=65536)] = Field(256, json_schema_extra=OPERATIONAL)
    """Records in a micro-batch: exactly, in a replay; at most, in a run."""
    poll_wait_s: Positive = Field(0.2, json_schema_extra=OPERATIONAL)
    """How long a poll waits for the first record."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(1, json_schema_extra=IDENTITY)
    """Of everything random."""
    stop_after_s: Positive = Field(10.0, json_schema_extra=OPERATIONAL)
    """A stop signal ends the process within this time."""


def _place(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


class SnapshotSettings(Section):
    """Where the worker's state is kept."""

    dir: Annotated[str, BeforeValidator(_place)] = Field("tidemill-state", json_schema_extra=OPERATIONAL)
    """A folder, made when it is missing; or a URL such as s3://bucket/prefix, for workers on several hosts."""
    keep: Count = Field(3, json_schema_extra=OPERATIONAL)
    """Newest snapshots kept."""
    redo_s: Positive = Field(1.5, json_schema_extra=OPERATIONAL)
    """Save, in the background, when redoing what came after the last snapshot would take this long; but not so often
    that saving takes more than a tenth of the time."""
    every_s: Positive = Field(30.0, json_schema_extra=OPERATIONAL)
    """Save at least this often where there is something new; a snapshot that failed is tried again after this time."""


class RecoverySettings(Section):
    """What to do where state and input do not join."""

    on_rewind: Literal["stop", "emit_only"] = Field("stop", json_schema_extra=OPERATIONAL)
    """Committed offsets behind what was learned (someone reset them): stop, or predict again without learning."""
    on_truncation: Literal["stop", "earliest", "fresh"] = Field("stop", json_schema_extra=OPERATIONAL)
    """The input no longer holds what must be read or redone: stop, go on without it, or do that and begin a new lineage
    (older snapshots and the journal go, so that `--as-run` can come to the same bytes again)."""
    journal_keep: Literal["snapshots", "all"] = Field("snapshots", json_schema_extra=OPERATIONAL)
    """The journal is kept from the oldest snapshot kept on, or whole."""
    slice_s: Positive = Field(1.0, json_schema_extra=OPERATIONAL)
    """Recovery looks after the group membership this often."""
    max_fold_events: Count = Field(1_000_000, json_schema_extra=IDENTITY)
    """Events of a gained partition that are read again, at most, where no snapshot has its histories."""
    attempts: Count = Field(5, json_schema_extra=OPERATIONAL)
    """Recoveries in a row, without a commit between them, before the process ends (exit 75)."""


class WatchdogSettings(Section):
    """Ends a process that hangs: no transaction call of the client has a timeout of its own."""

    enabled: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Whether a hang ends the process."""
    commit_s: Positive = Field(12.0, json_schema_extra=OPERATIONAL)
    """Longest time for one commit; more than twice `kafka.request_timeout_ms`."""
    step_s: Positive = Field(120.0, json_schema_extra=OPERATIONAL)
    """Longest time for any other part of a step, or for a slice of recovery."""


class MetricsSettings(Section):
    """The HTTP port for /metrics, /livez and /readyz."""

    enabled: bool = Field(True, json_schema_extra=OPERATIONAL)
    """Whether the port is opened."""
    host: str = Field("127.0.0.1", json_schema_extra=OPERATIONAL)
    """The address to listen on, and no other; 0.0.0.0 or :: for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = Field(9464, json_schema_extra=OPERATIONAL)
    """0: any free port, which the log names."""
    live_after_s: Positive = Field(60.0, json_schema_extra=OPERATIONAL)
    """/livez fails when the loop has not moved for this long."""


class LogSettings(Section):
    """What is said on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", json_schema_extra=OPERATIONAL)
    """The least that is said."""
    format: Literal["auto", "console", "json"] = Field("auto", json_schema_extra=OPERATIONAL)
    """`auto`: console on a terminal, JSON lines elsewhere."""


class Settings(Section):
    """The whole tree; one section per concern."""

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    input: InputSettings = InputSettings()
    history: HistorySettings = HistorySettings()
    model: ModelSettings = ModelSettings()
    prediction: PredictionSettings = PredictionSettings()
    learning: LearningSettings = LearningSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    drift: DriftSettings = DriftSettings()
    policy: PolicySettings = PolicySettings()
    worker: WorkerSettings = WorkerSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    recovery: RecoverySettings = RecoverySettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
