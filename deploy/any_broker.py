"""Which broker tests and demo use: a given one, one in Docker, or a local one, in this order."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from deploy.broker import LocalBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ADDRESS_VARIABLE = "TIDEMILL_TEST_BROKER"
Kind = Literal["given", "docker", "local"]
_DEFAULT_ENGINE = "unix:///var/run/docker.sock"
_PROBE_TIMEOUT_S = 3
_START_TIMEOUT_S = 120
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BrokerHandle:
    """An address for clients, and where it came from."""

    bootstrap_servers: str
    kind: Kind


def docker_answers() -> bool:
    """Whether testcontainers is installed and a Docker engine answers it."""
    if find_spec("docker") is None or find_spec("testcontainers") is None:
        return False
    if not _socket_answers(os.environ.get("DOCKER_HOST") or _DEFAULT_ENGINE):
        return False
    docker = import_module("docker")  # brought by testcontainers, which is a development package
    failures = (docker.errors.DockerException, OSError)
    try:
        client = docker.from_env(timeout=_PROBE_TIMEOUT_S)
    except failures:
        return False
    try:
        return bool(client.ping())
    except failures:
        return False
    finally:
        client.close()


def _socket_answers(engine: str) -> bool:
    """Whether a local engine accepts connections; the client library leaks its socket where none does."""
    if not engine.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        return probe.connect_ex(engine.removeprefix("unix://")) == 0


def choose_kind(environ: Mapping[str, str], engine_answers: Callable[[], bool]) -> Kind:
    """Decide; Docker is only asked where no address is given."""
    if environ.get(ADDRESS_VARIABLE):
        return "given"
    return "docker" if engine_answers() else "local"


@contextmanager
def any_broker(
    environ: Mapping[str, str] | None = None, engine_answers: Callable[[], bool] = docker_answers
) -> Iterator[BrokerHandle]:
    """Yield a broker that answers clients without login; ends it if it was started here."""
    environ = os.environ if environ is None else environ
    kind = choose_kind(environ, engine_answers)
    _LOG.info("using a %s broker", kind)
    if kind == "given":
        yield BrokerHandle(environ[ADDRESS_VARIABLE], kind)
        return
    with _docker_broker() if kind == "docker" else _local_broker() as address:
        yield BrokerHandle(address, kind)


@contextmanager
def _local_broker() -> Iterator[str]:
    with LocalBroker() as broker:
        yield broker.bootstrap_servers


@contextmanager
def _docker_broker() -> Iterator[str]:
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - a development package

    container = KafkaContainer().with_kraft()
    for name in ("REPLICATION_FACTOR", "MIN_ISR", "NUM_PARTITIONS"):  # the default of three needs three brokers
        container.with_env(f"KAFKA_TRANSACTION_STATE_LOG_{name}", "1")
    container.with_env("KAFKA_LOG_RETENTION_MS", "-1")  # replayed records carry the timestamps of their time
    container.start(timeout=_START_TIMEOUT_S)
    try:
        yield container.get_bootstrap_server()
    finally:
        container.stop()
