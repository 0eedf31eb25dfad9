from __future__ import annotations

import socket

import pytest

from deploy import any_broker as module
from deploy.any_broker import ADDRESS_VARIABLE, BrokerHandle, any_broker, choose_kind, docker_answers


def must_not_be_asked() -> bool:
    pytest.fail("the engine was asked although an address is given")


def test_a_given_address_comes_first() -> None:
    assert choose_kind({ADDRESS_VARIABLE: "host:9092"}, must_not_be_asked) == "given"


def test_docker_comes_before_the_local_broker() -> None:
    assert choose_kind({}, lambda: True) == "docker"
    assert choose_kind({ADDRESS_VARIABLE: ""}, lambda: True) == "docker"


def test_without_an_engine_it_is_the_local_broker() -> None:
    assert choose_kind({}, lambda: False) == "local"


def test_a_given_broker_is_used_and_nothing_is_started() -> None:
    with any_broker({ADDRESS_VARIABLE: "a:1,b:2"}, must_not_be_asked) as handle:
        assert handle == BrokerHandle("a:1,b:2", "given")


def test_an_engine_that_does_not_listen_is_no_engine(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/missing.sock")
    assert docker_answers() is False


def test_an_engine_that_listens_but_says_nothing_is_no_engine(monkeypatch) -> None:
    monkeypatch.setattr(module, "_PROBE_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        assert docker_answers() is False


def test_the_container_class_is_where_it_is_imported_from() -> None:
    from testcontainers.community.kafka import KafkaContainer

    assert callable(KafkaContainer.with_kraft)
    assert callable(KafkaContainer.get_bootstrap_server)
