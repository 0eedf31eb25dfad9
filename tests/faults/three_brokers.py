"""A cluster of three brokers on this machine; each can be ended, and comes back with what it had."""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka.admin import AdminClient

from deploy.broker import LocalBroker, prepare
from deploy.broker_config import Ports
from deploy.kafka_runtime import new_uuid, write_properties

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NODES = (1, 2, 3)
IN_SYNC_S = 60.0
ADMIN_S = 30.0


class ThreeBrokers:
    """All three are broker and controller; offsets and transactions have three replicas, two of which must be there."""

    def __init__(self, folder: Path) -> None:
        ports = {node: Ports.free() for node in NODES}
        voters = ",".join(f"{node}@127.0.0.1:{ports[node].controller}" for node in NODES)
        cluster, runtime = new_uuid(), prepare()
        self.nodes: dict[int, LocalBroker] = {}
        for node in NODES:
            storage = folder / str(node) / "storage"
            storage.mkdir(parents=True)
            (storage / "bootstrap.checkpoint").write_bytes(runtime.start_records.read_bytes())
            meta = {"version": "1", "cluster.id": cluster, "directory.id": new_uuid(), "node.id": str(node)}
            write_properties(storage / "meta.properties", meta)
            properties = _properties(node, ports[node], voters)
            self.nodes[node] = LocalBroker(folder / str(node), properties, port=ports[node].client, runtime=runtime)

    @property
    def bootstrap_servers(self) -> str:
        """All three."""
        return ",".join(node.bootstrap_servers for node in self.nodes.values())

    @property
    def log_path(self) -> Path:
        """The log of the first."""
        return self.nodes[NODES[0]].log_path

    def start(self) -> None:
        """Start all at once: one alone has no majority."""
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(LocalBroker.start, self.nodes.values()))

    def close(self) -> None:
        """End all."""
        for node in self.nodes.values():
            node.kill()  # in order takes long where the majority is gone already
            node.close()

    def leader(self, topic: str, partition: int) -> int:
        """Return the node that leads a partition now."""
        return int(self._admin().list_topics(topic, timeout=ADMIN_S).topics[topic].partitions[partition].leader)

    def wait_in_sync(self, topics: Sequence[str]) -> None:
        """Wait until every partition of these topics has all its replicas. Raises TimeoutError."""
        deadline, admin = time.monotonic() + IN_SYNC_S, self._admin()
        while time.monotonic() < deadline:
            known = admin.list_topics(timeout=ADMIN_S).topics
            partitions = [one for topic in topics if topic in known for one in known[topic].partitions.values()]
            if partitions and all(len(one.isrs) == len(one.replicas) for one in partitions):
                return
            time.sleep(0.1)
        raise TimeoutError(f"not all replicas are in sync after {IN_SYNC_S:g} s")

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})


def _properties(node: int, ports: Ports, voters: str) -> dict[str, str]:
    internal = {f"{name}.replication.factor": "3" for name in ("offsets.topic", "transaction.state.log")}
    return {
        "node.id": str(node),
        "controller.quorum.voters": voters,
        "listeners": (
            f"CLIENT://127.0.0.1:{ports.client},INTERNAL://127.0.0.1:{ports.internal},"
            f"CONTROLLER://127.0.0.1:{ports.controller}"
        ),
        **internal,
        "controlled.shutdown.enable": "true",  # here there is somebody to hand partitions over to
        "transaction.state.log.min.isr": "2",
        "broker.session.timeout.ms": "4000",  # three of them share this machine with everything else
    }


@contextmanager
def three_brokers() -> Iterator[ThreeBrokers]:
    """Yield a running cluster."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-brokers-"))
    cluster = ThreeBrokers(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
