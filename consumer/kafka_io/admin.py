"""Looking at topics, rights and progress, and making topics."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from consumer.clock import SystemClock
from consumer.errors import AccessError, ConfigError
from consumer.kafka_io.client import (
    ConfigResource,
    ConfigResourceType,
    HeartbeatRequest,
    IsolationLevel,
    KafkaAdminClient,
    KafkaPartition,
    OffsetSpec,
)
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.connect import connect, retry
from consumer.kafka_io.errors import translate
from consumer.kafka_io.options import admin_options, transactional_id
from consumer.ports import TopicInfo, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from consumer.ports import Clock
    from consumer.settings import KafkaSettings, Settings

_LOOKUP_S = 30.0


def require_topics(
    kafka: KafkaSettings, names: Sequence[str], clock: Clock, rights: Mapping[str, Sequence[str]] | None = None
) -> dict[str, TopicInfo]:
    """Return what the broker says of the topics. Raises ConfigError that names every missing one and what to do.

    Raises AccessError where this user has not a right, in Kafka's words such as WRITE, to one of its topics: better at once
    than with the first record for it, which may be days later. Where the broker does not tell rights nothing is refused.
    """
    with admin_client(kafka, clock) as admin:
        found = _describe(admin, names, clock)
    missing = [name for name in dict.fromkeys(names) if name not in found]
    if missing:
        listed = ", ".join(map(repr, missing))
        raise ConfigError(
            f"no such topic: {listed}. Correct the name in the section topics of the settings, or create it with"
            f" `tidemill check --create` or:\n" + "\n".join(create_command(kafka, name) for name in missing)
        )
    for right, topics in (rights or {}).items():
        refused = [name for name in topics if right not in (_rights(found[name]) or {right})]
        if refused:
            raise AccessError(f"this user has no right to {right.lower()} topic {', '.join(map(repr, refused))}")
    return {name: TopicInfo(name, len(topic["partitions"])) for name, topic in found.items()}


def create_command(kafka: KafkaSettings, name: str) -> str:
    """The command of the Kafka distribution that creates a topic."""
    return f"  kafka-topics.sh --bootstrap-server {kafka.bootstrap_servers} --create --topic {name}"


def no_such_journal_partition(settings: Settings, partitions: int) -> str:
    """Say that the journal topic has too few partitions for this worker, and what to do."""
    topics, servers = settings.topics, settings.kafka.bootstrap_servers
    return (
        f"topic {topics.journal!r} has {partitions} partitions, but topics.journal_partition is"
        f" {topics.journal_partition}: choose another that is free, or add some with `tidemill check --create` or"
        f" kafka-topics.sh --bootstrap-server {servers} --alter --topic {topics.journal}"
        f" --partitions {topics.journal_partition + 1}"
    )


def topic_info(settings: Settings, names: Sequence[str], *, clock: Clock | None = None) -> dict[str, TopicInfo]:
    """Return partitions and configuration of those topics that exist. Raises AccessError where they cannot be seen."""
    clock = clock or SystemClock()
    with admin_client(settings.kafka, clock) as admin:
        found = _describe(admin, names, clock)
        configs = _configs(admin, list(found), clock) if found else {}
    return {name: TopicInfo(name, len(t["partitions"]), configs.get(name, {})) for name, t in found.items()}


def topic_rights(settings: Settings, names: Sequence[str], *, clock: Clock | None = None) -> dict[str, frozenset[str]]:
    """What this user may do with each existing topic, e.g. READ and WRITE, in Kafka's words."""
    clock = clock or SystemClock()
    with admin_client(settings.kafka, clock) as admin:
        found = _describe(admin, names, clock)
    return {name: _rights(topic) for name, topic in found.items()}


def _rights(topic: Mapping[str, Any]) -> frozenset[str]:
    """What this user may do with a topic; empty where the broker does not tell."""
    return frozenset(topic.get("authorized_operations") or ())


def create_topics(
    settings: Settings,
    topics: Mapping[str, int],
    config: Mapping[str, str] | None = None,
    *,
    replication: int = -1,
    clock: Clock | None = None,
) -> list[str]:
    """Create topics with so many partitions each and return the names of those that did not exist before.

    Returns when every partition has a leader. `replication` -1 leaves it to the broker.
    """
    clock = clock or SystemClock()
    with admin_client(settings.kafka, clock) as admin:
        existing = _describe(admin, list(topics), clock)
        wanted = {name: partitions for name, partitions in topics.items() if name not in existing}
        for name, partitions in wanted.items():
            _create(
                admin, name, {"num_partitions": partitions, "replication_factor": replication, "configs": config or {}}
            )
        retry(lambda: admin.wait_for_topics(list(wanted)), "creating topics", clock, within_s=_LOOKUP_S)
    return list(wanted)


def add_partitions(settings: Settings, topic: str, total: int, *, clock: Clock | None = None) -> None:
    """Let an existing topic have `total` partitions, which are more than it has. Raises AccessError."""
    clock = clock or SystemClock()
    with admin_client(settings.kafka, clock) as admin:
        retry(
            lambda: admin.create_partitions({topic: total}), f"adding partitions to {topic}", clock, within_s=_LOOKUP_S
        )
        retry(lambda: admin.wait_for_topics([topic]), "adding partitions", clock, within_s=_LOOKUP_S)


class Progress(NamedTuple):
    """Of a partition of the input topic: the group's position, None where it has none; the offsets [first, end) held."""

    committed: int | None
    first: int
    end: int


def group_progress(settings: Settings, *, clock: Clock | None = None) -> dict[TopicPartition, Progress]:
    """Return where the group is in each partition of the input topic; `end` is the last stable offset."""
    clock = clock or SystemClock()
    kafka, topic = settings.kafka, settings.topics.events
    with admin_client(kafka, clock) as admin:
        found = _describe(admin, [topic], clock).get(topic)
        tps = [KafkaPartition(topic, p) for p in range(len(found["partitions"]) if found else 0)]
        groups = retry(lambda: admin.list_group_offsets([kafka.group]), "listing offsets", clock, within_s=_LOOKUP_S)
        first = _offsets(admin, tps, OffsetSpec.EARLIEST, clock)
        last = _offsets(admin, tps, OffsetSpec.LATEST, clock)
    committed = {tp: at.offset for tp, at in groups.get(kafka.group, {}).items()}
    return {TopicPartition(*tp): Progress(committed.get(tp), first[tp], last[tp]) for tp in tps}


def committed_lag(settings: Settings, *, clock: Clock | None = None) -> dict[TopicPartition, int]:
    """Offsets between the group's committed position and the last stable offset, per partition of the input topic.

    A partition without a committed position counts from its beginning.
    """
    found = group_progress(settings, clock=clock)
    return {tp: max(at.end - (at.first if at.committed is None else at.committed), 0) for tp, at in found.items()}


def delete_before(settings: Settings, partition: TopicPartition, offset: int, clock: Clock) -> None:
    """Delete the records of a partition before an offset. Raises TransientError or AccessError."""
    doing = f"deleting records of {partition.topic}-{partition.partition}"
    with admin_client(settings.kafka, clock) as admin:
        retry(lambda: admin.delete_records({KafkaPartition(*partition): offset}), doing, clock, within_s=_LOOKUP_S)


class _GroupAdmin(KafkaAdminClient):  # type: ignore[misc]  # the base is untyped
    """The admin client with a question of its own about a group."""

    def ask_as_nobody(self, group: str) -> None:
        """Send the heartbeat of a member that is not there: refused for that reason, or for a missing right."""
        self._manager.run(self._ask, group)

    async def _ask(self, group: str) -> None:
        (coordinator,) = (await self._find_coordinator_ids([group])).values()
        request = HeartbeatRequest(group_id=group, generation_id=0, member_id="nobody", group_instance_id=None)
        response = await self._manager.send(request, node_id=coordinator)
        error = k.for_code(response.error_code)
        if error not in (k.NoError, k.UnknownMemberIdError, k.IllegalGenerationError):
            raise error


def check_group(settings: Settings, *, clock: Clock | None = None) -> None:
    """Ask the broker whether this user may be a member of the group; no member notices. Raises AccessError."""
    clock = clock or SystemClock()
    doing = f"looking at the group {settings.kafka.group}"
    with admin_client(settings.kafka, clock, _GroupAdmin) as admin:
        retry(lambda: admin.ask_as_nobody(settings.kafka.group), doing, clock, within_s=_LOOKUP_S)


def check_transactions(settings: Settings, *, clock: Clock | None = None) -> None:
    """Ask the broker about the worker's transactional id; changes nothing. Raises AccessError where it may not be used."""
    name = transactional_id(settings.kafka)
    doing = f"looking at the transactional id {name}"

    def describe(admin: Any) -> None:
        try:
            admin.describe_transactions([name])
        except k.TransactionalIdNotFoundError:
            return  # never used, but not refused

    clock = clock or SystemClock()
    with admin_client(settings.kafka, clock) as admin:
        retry(lambda: describe(admin), doing, clock, within_s=_LOOKUP_S)


@contextmanager
def admin_client(kafka: KafkaSettings, clock: Clock, kind: type[Any] = KafkaAdminClient) -> Iterator[Any]:
    """An open admin client. Raises BrokerUnavailable, AccessError, ConfigError."""
    admin = connect(kind, admin_options(kafka), kafka, clock)
    try:
        yield admin
    finally:
        admin.close()


def _describe(admin: Any, names: Sequence[str], clock: Clock) -> dict[str, Any]:
    """Metadata of those topics that exist; a new one that has no leader yet is asked for again."""

    def describe() -> dict[str, Any]:
        found, failed = {}, {}
        for topic in admin.describe_topics(list(names)):
            error = k.for_code(topic["error_code"])
            if error is k.NoError:
                found[topic["name"]] = topic
            elif error is not k.UnknownTopicOrPartitionError:
                failed[topic["name"]] = error
        _raise_first(failed, names)
        return found

    return retry(describe, "looking at topics", clock, within_s=_LOOKUP_S)


def _raise_first(failed: Mapping[str, type[Exception]], names: Sequence[str]) -> None:
    """Raise the error of the first name that has one, for every name that has the same; brokers answer in any order."""
    first = next((failed[name] for name in names if name in failed), None)
    if first is not None:
        raise first(", ".join(name for name in dict.fromkeys(names) if failed.get(name) is first))


def _configs(admin: Any, names: list[str], clock: Clock) -> dict[str, dict[str, str]]:
    """The topics' configuration; empty where this user may not see it, which is a right that the worker can do without."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    try:
        described = retry(
            lambda: admin.describe_configs(resources, config_filter="all"), "reading configs", clock, within_s=_LOOKUP_S
        )
    except AccessError:
        return {}
    topics = described.get("topic", {})
    return {name: {key: str(entry["value"]) for key, entry in topics.get(name, {}).items()} for name in names}


def _create(admin: Any, name: str, options: Mapping[str, Any]) -> None:
    try:
        admin.create_topics({name: options})
    except k.TopicAlreadyExistsError:
        return  # somebody was faster; the wait below sees it
    except k.KafkaError as error:
        raise translate(error, f"creating topic {name}") from error


def _offsets(admin: Any, tps: list[Any], spec: Any, clock: Clock) -> dict[Any, int]:
    found = retry(
        lambda: admin.list_partition_offsets(dict.fromkeys(tps, spec), isolation_level=IsolationLevel.READ_COMMITTED),
        "listing offsets",
        clock,
        within_s=_LOOKUP_S,
    )
    return {tp: at.offset for tp, at in found.items()}
