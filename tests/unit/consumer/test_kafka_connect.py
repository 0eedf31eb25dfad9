from __future__ import annotations

import socket
from importlib import import_module

import pytest

from consumer.kafka_io.connect import data_before_end


@pytest.mark.parametrize("name", ["KafkaTCPTransport", "KafkaSSLTransport"])
def test_a_refusal_that_arrives_with_the_end_is_read(name):
    transports = import_module("kafka.net.transport")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport = transports.KafkaTCPTransport(None, ours)
    transport.__class__ = getattr(transports, name)  # as it is after the handshake, without one
    with ours:
        theirs.sendall(b"wrong password")
        theirs.close()
        data_before_end(transport)
        assert transport._sock_recv() == (b"wrong password", None)
        data, error = transport._sock_recv()
    assert data == b""
    assert error is not None
