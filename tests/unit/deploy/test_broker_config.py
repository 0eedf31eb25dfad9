from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.broker_config import Ports, client_protocol, server_properties

PORTS = Ports(1, 2, 3)


def test_free_ports_are_free_and_differ() -> None:
    ports = Ports.free()
    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_wanted_port_is_kept() -> None:
    assert Ports.free(29092).client == 29092


def test_it_listens_on_loopback_only() -> None:
    addresses = server_properties(PORTS, Path("/data"))["listeners"].split(",")
    assert [address.partition("://")[2] for address in addresses] == ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]


@pytest.mark.parametrize(
    ("sasl", "tls", "protocol"),
    [
        (False, False, "PLAINTEXT"),
        (False, True, "SSL"),
        (True, False, "SASL_PLAINTEXT"),
        (True, True, "SASL_SSL"),
    ],
)
def test_security_concerns_the_clients_listener_alone(sasl, tls, protocol) -> None:
    properties = server_properties(
        PORTS, Path("/data"), sasl_users={"a": "b"} if sasl else None, tls_pem=Path("/pem") if tls else None
    )
    assert client_protocol(sasl=sasl, tls=tls) == protocol
    assert properties["listener.security.protocol.map"] == (
        f"CLIENT:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
    )
    assert ("listener.name.client.plain.sasl.jaas.config" in properties) is sasl
    assert ("listener.name.client.ssl.keystore.location" in properties) is tls


def test_a_password_cannot_leave_its_quotes() -> None:
    properties = server_properties(PORTS, Path("/data"), sasl_users={"ada": 'a"; user_eve="x\\'})
    assert properties["listener.name.client.plain.sasl.jaas.config"].endswith(
        'required user_ada="a\\"; user_eve=\\"x\\\\";'
    )


def test_record_sizes_are_kafkas_own() -> None:
    assert "message.max.bytes" not in server_properties(PORTS, Path("/data"))
