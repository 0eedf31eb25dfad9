"""A broker with logins and rights: what is refused, how it is told, and one that stops answering."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from kafka_support import CLOCK, T0, make_settings, make_topics, read, wait_until

from consumer.check import check
from consumer.errors import AccessError, UnknownOutcome
from consumer.kafka_io import (
    KafkaSink,
    KafkaSource,
    KafkaWriter,
    check_group,
    committed_lag,
    read_last,
    topic_rights,
)
from consumer.ports import Output
from deploy.broker import LocalBroker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer.settings import Settings

ADMIN, USER = "admin", "worker"
PASSWORDS = {ADMIN: "admin-secret", USER: "worker-secret"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[LocalBroker]:
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{ADMIN}",
    }
    with LocalBroker(properties=authorizer, sasl_users=PASSWORDS) as broker:
        yield broker


def login(user: str, password: str | None = None) -> dict[str, object]:
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_username": user,
        "sasl_password": password or PASSWORDS[user],
    }


def admin_of(broker: LocalBroker) -> AdminClient:
    return AdminClient(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanisms": "PLAIN",
            "sasl.username": ADMIN,
            "sasl.password": PASSWORDS[ADMIN],
        }
    )


def binding(kind: ResourceType, name: str, operation: AclOperation) -> tuple[object, ...]:
    return kind, name, ResourcePatternType.LITERAL, f"User:{USER}", "*", operation, AclPermissionType.ALLOW


def allow(broker: LocalBroker, kind: ResourceType, name: str, operation: AclOperation) -> None:
    admin = admin_of(broker)
    for future in admin.create_acls([AclBinding(*binding(kind, name, operation))]).values():
        future.result(30)
    wait_for_right(broker, kind, name, operation, there=True)


def take_back(broker: LocalBroker, kind: ResourceType, name: str, operation: AclOperation) -> None:
    admin = admin_of(broker)
    for future in admin.delete_acls([AclBindingFilter(*binding(kind, name, operation))]).values():
        assert len(future.result(30)) == 1
    wait_for_right(broker, kind, name, operation, there=False)


def wait_for_right(broker: LocalBroker, kind: ResourceType, name: str, operation: AclOperation, *, there: bool) -> None:
    """The broker follows its own log of rights: a moment later than the answer."""
    if kind == ResourceType.TOPIC:
        settings = make_settings(broker.bootstrap_servers, lambda _what: name, **login(USER))
        wait_until(lambda: (operation.name in rights_to(settings, name)) is there)


def rights_to(settings: Settings, name: str) -> frozenset[str]:
    try:
        return topic_rights(settings, [name]).get(name, frozenset())
    except AccessError:
        return frozenset()


def test_a_wrong_password_is_told_before_the_deadline_and_never_shown(guarded, unique_name):
    wrong = "wrong-secret"
    settings = make_settings(guarded.bootstrap_servers, unique_name, **login(USER, wrong))
    for make in (KafkaSource, KafkaSink):
        with pytest.raises(AccessError, match="user name or the password") as caught:
            make(settings, CLOCK)
        assert wrong not in str(caught.value)


def check_group_of(settings):
    """Whether the group may be used, as `tidemill check` tells it."""
    try:
        check_group(settings)
    except AccessError as error:
        assert "this user may not use the consumer group" in str(error)  # noqa: PT017
        return False
    return True


def test_each_missing_right_is_an_access_error(guarded, unique_name):
    as_admin = make_settings(guarded.bootstrap_servers, unique_name, **login(ADMIN))
    make_topics(as_admin)
    settings = make_settings(guarded.bootstrap_servers, unique_name, **login(USER))
    topics = settings.topics
    with closing(KafkaWriter(as_admin, topics.events)) as writer:
        writer.write(b"k", b"v", T0)
        writer.flush()
    with pytest.raises(AccessError, match=topics.events):
        KafkaSource(settings, CLOCK)

    assert topics.events in check(settings).render()
    allow(guarded, ResourceType.TOPIC, topics.events, AclOperation.DESCRIBE)
    assert check_group_of(settings) is False
    allow(guarded, ResourceType.GROUP, settings.kafka.group, AclOperation.DESCRIBE)
    assert check_group_of(settings) is False
    allow(guarded, ResourceType.GROUP, settings.kafka.group, AclOperation.READ)
    assert check_group_of(settings) is True
    with closing(KafkaSource(settings, CLOCK)) as source, pytest.raises(AccessError, match=topics.events):
        read(source, 1)
    allow(guarded, ResourceType.TOPIC, topics.events, AclOperation.READ)

    for name in (topics.predictions, topics.dead_letters, topics.drift, topics.journal):
        allow(guarded, ResourceType.TOPIC, name, AclOperation.DESCRIBE)
    report = check(settings)
    assert f"'{topics.predictions}': this user has no right to write" in report.render()
    assert f"transactional id {settings.kafka.group}-{settings.kafka.instance}" in report.render()
    assert PASSWORDS[USER] not in report.render()
    for name in (topics.predictions, topics.dead_letters, topics.journal):
        with pytest.raises(AccessError, match=f"no right to write topic .*'{name}'"):
            KafkaSink(settings, CLOCK)
        allow(guarded, ResourceType.TOPIC, name, AclOperation.WRITE)
    with pytest.raises(AccessError, match=f"no right to write topic '{topics.drift}'$"):  # before there is any drift
        KafkaSink(settings, CLOCK)
    allow(guarded, ResourceType.TOPIC, topics.drift, AclOperation.WRITE)
    with pytest.raises(AccessError, match="TransactionalIdAuthorization"):
        KafkaSink(settings, CLOCK)
    transactional_id = f"{settings.kafka.group}-{settings.kafka.instance}"
    allow(guarded, ResourceType.TRANSACTIONAL_ID, transactional_id, AclOperation.WRITE)
    with closing(KafkaSource(settings, CLOCK)) as source:
        batch = read(source, 1)[0]
        with closing(KafkaSink(settings, CLOCK)) as sink:
            take_back(guarded, ResourceType.TOPIC, topics.predictions, AclOperation.WRITE)
            with pytest.raises(AccessError, match=topics.predictions):
                sink.commit([Output(topics.predictions, b"k", b"v")], batch)
            with pytest.raises(UnknownOutcome, match="failed before"):
                sink.commit([], batch)
        allow(guarded, ResourceType.TOPIC, topics.predictions, AclOperation.WRITE)
        with closing(KafkaSink(settings, CLOCK)) as sink:
            sink.commit([Output(topics.predictions, b"k", b"v")], batch)
    wait_until(lambda: set(committed_lag(as_admin).values()) == {0})


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_broker_that_stops_answering_leaves_the_outcome_unknown(guarded, unique_name, delivery):
    quick = {"request_timeout_ms": 1000, "transaction_timeout_ms": 10_000, "delivery": delivery}
    settings = make_settings(guarded.bootstrap_servers, unique_name, **login(ADMIN), **quick)
    make_topics(settings)
    outputs = [Output(settings.topics.predictions, b"k", b"first")]
    with closing(KafkaWriter(settings, settings.topics.events)) as writer:
        writer.write(b"k", b"v", T0)
        writer.flush()
    source = KafkaSource(settings, CLOCK)
    sink = KafkaSink(settings, CLOCK, source)
    sink.commit(outputs, read(source, 1)[0])
    with closing(KafkaWriter(settings, settings.topics.events)) as writer:
        writer.write(b"k", b"w", T0)
        writer.flush()
    batch = read(source, 1)[0]
    guarded.pause()
    try:
        with pytest.raises(UnknownOutcome):
            sink.commit(outputs, batch)
        with pytest.raises(UnknownOutcome):
            sink.commit(outputs, batch)
        sink.close()
        sink.close()
    finally:
        guarded.resume()
    source.close()

    with closing(KafkaSource(settings, CLOCK)) as source, closing(KafkaSink(settings, CLOCK, source)) as sink:
        again = read(source, 1)[0]
        assert [r.value for r in again.records] == [b"w"]
        sink.commit(outputs, again)
    wait_until(lambda: len(read_last(settings, settings.topics.predictions, 10)) >= 2)
    assert delivery == "at_least_once" or len(read_last(settings, settings.topics.predictions, 10)) == 2
