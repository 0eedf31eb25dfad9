"""The broker that the other tests stand on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from consumer.errors import BrokerUnavailable
from deploy.broker import LocalBroker, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.any_broker import BrokerHandle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def local() -> Iterator[LocalBroker]:
    with LocalBroker() as broker:
        yield broker


def client(address: str, **settings: object) -> dict[str, object]:
    return {"bootstrap.servers": address, "log_level": 0, **{key.replace("_", "."): settings[key] for key in settings}}


def nodes(address: str, timeout_s: float = 10, **settings: object) -> int:
    return len(AdminClient(client(address, **settings)).list_topics(timeout=timeout_s).brokers)


def create_topic(address: str, name: str, **settings: object) -> None:
    admin = AdminClient(client(address, **settings))
    admin.create_topics([NewTopic(name, 1)])[name].result(20)


def produce(address: str, topic: str, value: bytes) -> None:
    producer = Producer(client(address))
    producer.produce(topic, value)
    assert producer.flush(20) == 0


def first_value(address: str, topic: str) -> bytes | None:
    consumer = Consumer(client(address, group_id="reader"))
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(1, timeout=20)
        return messages[0].value() if messages else None
    finally:
        consumer.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_session_broker_stores_a_record(broker: BrokerHandle, make_topic: Callable[..., str]) -> None:
    topic = make_topic("events")
    produce(broker.bootstrap_servers, topic, b"one")
    assert first_value(broker.bootstrap_servers, topic) == b"one"


def test_two_run_beside_each_other() -> None:
    brokers = [LocalBroker(), LocalBroker()]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(LocalBroker.start, brokers))
        one, two = brokers
        assert one.bootstrap_servers != two.bootstrap_servers
        create_topic(one.bootstrap_servers, "only-here")
        assert "only-here" not in AdminClient(client(two.bootstrap_servers)).list_topics(timeout=10).topics
    finally:
        for broker in brokers:
            broker.close()


@pytest.mark.parametrize("end", [LocalBroker.stop, LocalBroker.kill], ids=["stop", "kill"])
def test_a_restart_keeps_data_and_address(local: LocalBroker, end: Callable[[LocalBroker], None]) -> None:
    topic = f"kept-{end.__name__}"
    before = local.bootstrap_servers, local.pid
    produce(local.bootstrap_servers, topic, b"kept")
    end(local)
    assert not local.running
    assert not psutil.pid_exists(local.pid)
    local.restart()
    assert local.bootstrap_servers == before[0]
    assert local.pid != before[1]
    assert first_value(local.bootstrap_servers, topic) == b"kept"


def test_a_paused_broker_is_silent_until_it_resumes(local: LocalBroker) -> None:
    local.pause()
    try:
        assert wait_until(lambda: psutil.Process(local.pid).status() == psutil.STATUS_STOPPED)
        with pytest.raises(KafkaException):
            nodes(local.bootstrap_servers, timeout_s=0.5)
    finally:
        local.resume()
    assert nodes(local.bootstrap_servers) == 1


def test_a_given_folder_is_used_again(tmp_path: Path) -> None:
    with LocalBroker(tmp_path) as broker:
        produce(broker.bootstrap_servers, "kept", b"kept")
    with LocalBroker(tmp_path) as broker:
        assert first_value(broker.bootstrap_servers, "kept") == b"kept"


def test_a_temporary_folder_is_removed() -> None:
    with LocalBroker() as broker:
        folder = broker.data_dir
        assert broker.log_path.is_file()
    assert not folder.exists()


def test_it_ends_when_its_owner_is_killed() -> None:
    owner_code = (
        "from deploy.broker import LocalBroker\n"
        "broker = LocalBroker().start()\n"
        "print(broker.pid, broker.data_dir, flush=True)\n"
        "broker.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", owner_code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        pid, folder = owner.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        owner.kill()
    assert wait_until(lambda: not psutil.pid_exists(int(pid)))
    assert wait_until(lambda: not Path(folder).exists())


@pytest.mark.skipif(sys.platform != "linux", reason="only the Linux kernel ends a process with its parent")
def test_it_ends_when_its_guard_is_killed() -> None:
    with LocalBroker() as broker:
        psutil.Process(broker.pid).parent().kill()
        assert wait_until(lambda: not psutil.pid_exists(broker.pid))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_its_address_and_ends_at_a_signal(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "deploy.broker"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        assert nodes(address) == 1
        java = [child for child in psutil.Process(process.pid).children(recursive=True) if "java" in child.name()]
        process.send_signal(number)
        assert process.wait(30) == 0
    assert java
    assert not any(child.is_running() for child in java)


def test_a_failed_start_shows_kafkas_own_words(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match=r"min.insync.replicas") as raised:
        LocalBroker(tmp_path, {"min.insync.replicas": "none"}).start()
    assert str(tmp_path / "server.log") in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no class cache"], ids=["empty", "damaged"])
def test_it_starts_without_a_usable_class_cache(tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "classes.aot"
    cache.write_bytes(content)
    with LocalBroker(runtime=replace(prepare(), class_cache=cache)) as broker:
        assert nodes(broker.bootstrap_servers) == 1


def test_a_taken_port_is_told() -> None:
    with LocalBroker() as first:
        port = int(first.bootstrap_servers.rpartition(":")[2])
        with pytest.raises(BrokerUnavailable, match="Address already in use"), LocalBroker(port=port):
            pytest.fail("two brokers on one port")


def sasl(mechanism: str, name: str, password: str) -> dict[str, str]:
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_username": name,
        "sasl_password": password,
    }


def test_clients_must_log_in() -> None:
    password = 'p\\a"s=s; wörd'
    with LocalBroker(sasl_users={"ada": password, "bob": "b"}) as broker:
        address = broker.bootstrap_servers
        assert broker.security_protocol == "SASL_PLAINTEXT"
        assert nodes(address, **sasl("PLAIN", "ada", password)) == 1
        assert nodes(address, **sasl("PLAIN", "bob", "b")) == 1
        for wrong in (sasl("PLAIN", "ada", "b"), {}):
            with pytest.raises(KafkaException):
                nodes(address, timeout_s=2, **wrong)


def test_clients_may_log_in_with_scram() -> None:
    from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

    with LocalBroker(sasl_users={"admin": "a"}) as broker:
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        admin = AdminClient(client(broker.bootstrap_servers, **sasl("PLAIN", "admin", "a")))
        change = UserScramCredentialUpsertion("eve", info, b"secret")
        admin.alter_user_scram_credentials([change])["eve"].result(20)
        assert nodes(broker.bootstrap_servers, **sasl("SCRAM-SHA-256", "eve", "secret")) == 1


def test_rights_can_be_checked() -> None:
    rights = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
    }
    with LocalBroker(properties=rights, sasl_users={"admin": "a", "eve": "e"}) as broker:
        address = broker.bootstrap_servers
        create_topic(address, "allowed", **sasl("PLAIN", "admin", "a"))
        with pytest.raises(KafkaException, match=r"(?i)authoriz"):
            create_topic(address, "forbidden", **sasl("PLAIN", "eve", "e"))


def test_clients_may_use_tls(tls_files: tuple[Path, Path]) -> None:
    certificate, pem = tls_files
    with LocalBroker(tls_pem=pem) as broker:
        assert broker.security_protocol == "SSL"
        settings = {"security_protocol": "SSL", "ssl_ca_location": str(certificate)}
        assert nodes(broker.bootstrap_servers, **settings) == 1
        with pytest.raises(KafkaException):
            nodes(broker.bootstrap_servers, timeout_s=2)
