"""One scenario's place on a broker: topics, group and state folder of its own, and the settings of its workers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from confluent_kafka import IsolationLevel
from confluent_kafka import TopicPartition as Theirs
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

from consumer.load_settings import show
from consumer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.broker import LocalBroker

KINDS = ("events", "predictions", "dead_letters", "drift", "journal")
OUTPUT_PARTITIONS = 3
JOURNALS = 16
ADMIN_S = 30.0
BROKER_WAIT_S = 60.0
"""A worker that has waited so long for a broker ends, and is started again."""

SMALL: dict[str, dict[str, Any]] = {
    "history": {"length": 12},
    "model": {"dim": 8, "layers": 1, "heads": 1, "context": 8, "max_items": 1000, "proposals": 20},
    "prediction": {"top_k": 3},
    "learning": {"negatives": 64, "rehearsal_windows": 16, "rehearsal_capacity": 64, "rehearsal_length": 8},
    "evaluation": {"baselines": False},
    "worker": {"batch_events": 32, "poll_wait_s": 0.05},
    "kafka": {"session_timeout_ms": 6000, "request_timeout_ms": 2000, "broker_wait_s": BROKER_WAIT_S},
    "snapshot": {"every_s": 1.0, "keep": 1000},
    "recovery": {"journal_keep": "all"},
    "watchdog": {"commit_s": 8.0, "step_s": 30.0},
    "metrics": {"enabled": False},
}
"""Everything small and fast; all snapshots and the whole journal are kept, so that a replay can begin cold."""


@dataclass(slots=True)
class Cluster:
    """Topics `<name>-<kind>` on a broker. `sections` are laid over the settings of every worker, these over `base`."""

    broker: LocalBroker
    folder: Path
    name: str
    partitions: int
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    bootstrap: str = ""
    base: dict[str, dict[str, Any]] = field(default_factory=lambda: SMALL)

    def __post_init__(self) -> None:
        self.bootstrap = self.bootstrap or self.broker.bootstrap_servers

    def topic(self, kind: str) -> str:
        return f"{self.name}-{kind}"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def settings(self, worker: int) -> Settings:
        """Return the settings of one worker: its own instance and journal partition, the group's state folder."""
        own: dict[str, dict[str, Any]] = {
            "kafka": {"bootstrap_servers": self.bootstrap, "group": self.name, "instance": f"w{worker}"},
            "topics": {**{kind: self.topic(kind) for kind in KINDS}, "journal_partition": worker},
            "snapshot": {"dir": self.state_dir},
        }
        names = self.base.keys() | self.sections.keys() | own.keys()
        layers = (self.base, own, self.sections)
        merged = {name: {k: v for layer in layers for k, v in layer.get(name, {}).items()} for name in names}
        return Settings.model_validate(merged)

    def write_config(self, worker: int) -> Path:
        """Write the settings of one worker as the file that `tidemill run -c` reads."""
        path = self.folder / f"w{worker}.toml"
        path.write_text(show(self.settings(worker)), encoding="utf-8")
        return path

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.broker.bootstrap_servers, "log_level": 0})

    def create(self, config: dict[str, dict[str, str]] | None = None, replicas: dict[str, int] | None = None) -> None:
        """Create the topics; `config` and the number of `replicas` by kind."""
        counts = {"events": self.partitions, "predictions": OUTPUT_PARTITIONS, "journal": JOURNALS}
        topics = [
            NewTopic(
                self.topic(kind),
                num_partitions=counts.get(kind, 1),
                replication_factor=(replicas or {}).get(kind, 1),
                config={"retention.ms": "-1", "max.message.bytes": "5000000", **(config or {}).get(kind, {})},
            )
            for kind in KINDS
        ]
        admin = self.admin()  # it must live until the answer is there
        for created in admin.create_topics(topics, operation_timeout=ADMIN_S).values():
            created.result(ADMIN_S)
        deadline = time.monotonic() + ADMIN_S
        while not {topic.topic for topic in topics} <= admin.list_topics(timeout=ADMIN_S).topics.keys():
            if time.monotonic() > deadline:
                raise TimeoutError("the topics were created and are not known")
            time.sleep(0.05)  # the broker's own metadata comes a moment later

    def add_partitions(self, count: int) -> None:
        """Let the input topic have `count` partitions from now on."""
        topic = self.topic("events")
        admin = self.admin()
        admin.create_partitions([NewPartitions(topic, count)])[topic].result(ADMIN_S)
        self.partitions = count

    def truncate(self, partition: int, before: int) -> None:
        """Delete the input's records before an offset."""
        at = Theirs(self.topic("events"), partition, before)
        admin = self.admin()
        for deleted in admin.delete_records([at]).values():
            deleted.result(ADMIN_S)

    def ends(self, kind: str, *, stable: bool) -> dict[int, int]:
        """Return the end of each partition of a topic: of what is committed (`stable`), or of everything."""
        level = IsolationLevel.READ_COMMITTED if stable else IsolationLevel.READ_UNCOMMITTED
        admin = self.admin()
        known = admin.list_topics(self.topic(kind), timeout=ADMIN_S).topics[self.topic(kind)].partitions
        wanted = {Theirs(self.topic(kind), partition): OffsetSpec.latest() for partition in known}
        found = admin.list_offsets(wanted, isolation_level=level)
        return {at.partition: result.result(ADMIN_S).offset for at, result in found.items()}
