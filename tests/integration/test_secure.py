"""The worker's doors over TLS with a login: nothing of the stream in clear text, nothing without the right password."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from consumer.clock import SystemClock
from consumer.kafka_io import KafkaSink, KafkaSource, KafkaWriter, create_topics
from consumer.ports import Output, PollLimits
from consumer.settings import Settings
from deploy.broker import LocalBroker
from tests.integration.conftest import make_tls_files

USERS = {"admin": "a secret, with = and ;"}
TOPICS = {"events": 1, "predictions": 1, "dead-letters": 1, "drift": 1, "journal": 1}


def options(address: str, cafile, password: str = USERS["admin"], **more) -> dict:
    login = {"sasl_mechanism": "PLAIN", "sasl_username": "admin", "sasl_password": password}
    kafka = {
        "bootstrap_servers": address,
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(cafile),
        "broker_wait_s": 8.0,
        **login,
        **more,
    }
    return {"kafka": kafka}


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    certificate, pem = make_tls_files(tmp_path_factory.mktemp("tls"))
    with LocalBroker(tls_pem=pem, sasl_users=USERS) as broker:
        config = Settings.model_validate(options(broker.bootstrap_servers, certificate))
        create_topics(config, TOPICS)
        yield broker.bootstrap_servers, certificate


def test_a_record_goes_through_over_tls_with_a_password(secure):
    config = Settings.model_validate(options(*secure))
    clock = SystemClock()
    writer = KafkaWriter(config, "events")
    writer.write(b"user", b"{}", 1_000)
    writer.flush()
    writer.close()
    source = KafkaSource(config, clock, until_end=True)
    sink = KafkaSink(config, clock, source)
    try:
        deadline = clock.monotonic() + 30.0
        while not (batch := source.poll(PollLimits(10, 0.2))).records:
            assert clock.monotonic() < deadline
        sink.commit([Output("predictions", b"user", b"{}")], batch)
        assert [record.key for record in batch.records] == [b"user"]
    finally:
        source.close()
        sink.close()


OPEN = """
import sys
from consumer.clock import SystemClock
from consumer.errors import TidemillError
from consumer.kafka_io import KafkaSource
from consumer.settings import Settings
try:
    KafkaSource(Settings.model_validate_json(sys.stdin.read()), SystemClock())
except TidemillError as error:
    print(type(error).__name__, error)
"""


def refusal(config: dict) -> str:
    """In a process of its own: the client leaves sockets that were refused to the garbage collector."""
    ran = subprocess.run(
        [sys.executable, "-c", OPEN], input=json.dumps(config), check=True, capture_output=True, text=True, timeout=60
    )
    return ran.stdout


def test_a_wrong_password_is_refused(secure):
    told = refusal(options(*secure, password="wrong one"))
    assert "AccessError" in told
    assert "wrong one" not in told


def test_an_unknown_certificate_is_not_trusted(secure, tmp_path):
    other, _ = make_tls_files(tmp_path)
    told = refusal(options(secure[0], other, broker_wait_s=3.0))
    assert told.startswith(("AccessError", "BrokerUnavailable"))
    assert "certificate" in told.lower()
