"""Names, topics and certificates for the tests on a real broker."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from kafka_support import make_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumer.settings import Settings
    from deploy.any_broker import BrokerHandle

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def unique_name(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Returns names for topics, groups and transactional ids that no other test uses."""
    test = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:60]
    suffix = uuid4().hex[:8]
    return lambda what: f"{what}-{test}-{suffix}"


@pytest.fixture
def settings(broker: BrokerHandle, unique_name: Callable[[str], str]) -> Settings:
    """Settings for the broker, with topics and a group that no other test uses; the topics are not made."""
    return make_settings(broker.bootstrap_servers, unique_name)


@pytest.fixture
def make_topic(broker: BrokerHandle, unique_name: Callable[[str], str]) -> Callable[..., str]:
    """make_topic("events", partitions=3, config={…}) creates a topic of a unique name and returns that name."""
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})

    def make(what: str, partitions: int = 1, config: dict[str, str] | None = None) -> str:
        name = unique_name(what)
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config or {})
        admin.create_topics([topic], operation_timeout=30)[name].result(timeout=30)
        return name

    return make


@pytest.fixture
def tls_files(tmp_path: Path) -> tuple[Path, Path]:
    """(certificate, certificate with private key) for 127.0.0.1 and localhost, signed by itself."""
    return make_tls_files(tmp_path)


def make_tls_files(folder: Path) -> tuple[Path, Path]:
    """Make a certificate, and a file with its private key too, in a folder."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    request = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    request += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(request, check=True, capture_output=True, timeout=60)
    both.write_text(key.read_text() + certificate.read_text())
    return certificate, both
