"""server.properties of the local broker: one node that is broker and controller, on loopback."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SASL_MECHANISMS = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
_ONE_NODE = {
    # A broker that is told to stop while it alone holds the partitions may leave out a transaction's markers after its
    # leaders were taken away: the transaction hangs for ever. Handing leaders over has no use on one node.
    "controlled.shutdown.enable": "false",
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INTERNAL",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    # Back in two seconds after a kill: the controller forgets the old registration sooner.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # Replayed records carry the timestamps of their time: by default they would be deleted at once.
    "log.retention.ms": "-1",
    # The default takes 128 MiB of heap.
    "log.cleaner.dedupe.buffer.size": str(4 << 20),
    "num.network.threads": "2",
    "num.io.threads": "4",
}


class Ports(NamedTuple):
    """Loopback ports of the listeners for clients, for the broker itself, and for the controller."""

    client: int
    internal: int
    controller: int

    @classmethod
    def free(cls, client: int = 0) -> Self:
        """Return ports that are free now; `client` is kept where it is not 0."""
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            first, internal, controller = (one.getsockname()[1] for one in sockets)
        return cls(client or first, internal, controller)


def client_protocol(*, sasl: bool, tls: bool) -> str:
    """Return Kafka's name for what clients must speak."""
    return ("SASL_" if sasl else "") + ("SSL" if tls else "PLAINTEXT")


def server_properties(
    ports: Ports, storage: Path, *, sasl_users: Mapping[str, str] | None = None, tls_pem: Path | None = None
) -> dict[str, str]:
    """Return all properties. Clients have a listener of their own, so that its security concerns only them."""
    protocol = client_protocol(sasl=bool(sasl_users), tls=tls_pem is not None)
    properties = _ONE_NODE | {
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
        "listeners": (
            f"CLIENT://127.0.0.1:{ports.client},INTERNAL://127.0.0.1:{ports.internal},"
            f"CONTROLLER://127.0.0.1:{ports.controller}"
        ),
        "listener.security.protocol.map": f"CLIENT:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(storage),
    }
    if sasl_users:
        properties |= _sasl(sasl_users)
    if tls_pem:
        properties |= {
            "listener.name.client.ssl.keystore.type": "PEM",
            "listener.name.client.ssl.keystore.location": str(tls_pem),
        }
    return properties


def _sasl(users: Mapping[str, str]) -> dict[str, str]:
    entries = " ".join(f"user_{name}={_quoted(password)}" for name, password in users.items())
    security = "org.apache.kafka.common.security"
    scram = f"{security}.scram.ScramLoginModule required;"
    return {
        "listener.name.client.sasl.enabled.mechanisms": _SASL_MECHANISMS,
        "listener.name.client.plain.sasl.jaas.config": f"{security}.plain.PlainLoginModule required {entries};",
        "listener.name.client.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.client.scram-sha-512.sasl.jaas.config": scram,
    }


def _quoted(text: str) -> str:
    """Quote a value for Java's login configuration."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
