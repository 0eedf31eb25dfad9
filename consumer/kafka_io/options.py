"""Settings become options of kafka-python. The numbers were measured on a real broker."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from consumer.errors import ConfigError
from consumer.kafka_io.client import (
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    RangePartitionAssignor,
    RoundRobinPartitionAssignor,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from consumer.settings import KafkaSettings

_OWNED = frozenset(
    {
        "acks",
        "allow_auto_create_topics",
        "api_version",
        "auto_commit_interval_ms",
        "auto_offset_reset",
        "bootstrap_servers",
        "bootstrap_timeout_ms",
        "client_id",
        "consumer_timeout_ms",
        "default_offset_commit_callback",
        "enable_auto_commit",
        "enable_idempotence",
        "group_id",
        "group_instance_id",
        "isolation_level",
        "kafka_client",
        "key_deserializer",
        "key_serializer",
        "metric_reporters",
        "partition_assignment_strategy",
        "partitioner",
        "request_timeout_ms",
        "sasl_mechanism",
        "sasl_oauth_token_provider",
        "sasl_plain_password",
        "sasl_plain_username",
        "security_protocol",
        "selector",
        "session_timeout_ms",
        "socket_options",
        "ssl_cafile",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_context",
        "ssl_keyfile",
        "transaction_timeout_ms",
        "transactional_id",
        "value_deserializer",
        "value_serializer",
    }
)
"""Options that another setting gives, that the delivery guarantee rests on, or that a plain value cannot express."""

_INSTANCE = re.compile(r"[A-Za-z0-9._-]{1,200}")


def connection_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Return what every client needs to connect. Raises ConfigError; no message ever holds a secret."""
    return {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap_servers.split(",") if server.strip()],
        "client_id": kafka.instance,
        "request_timeout_ms": kafka.request_timeout_ms,
        "reconnect_backoff_max_ms": 500,
        "retry_backoff_ms": 10,  # the default of 100 ms costs every transaction as much
        "metadata_max_age_ms": 5_000,
        "security_protocol": kafka.security_protocol,
        **_sasl_options(kafka),
        **_ssl_options(kafka),
    }


def group_consumer_options(kafka: KafkaSettings) -> dict[str, Any]:
    """A static member that reads committed raw bytes and never commits or moves by itself."""
    if not _INSTANCE.fullmatch(kafka.instance):
        raise ConfigError("kafka.instance may hold letters, digits, '.', '_' and '-' only, at most 200 of them")
    return _with_properties(
        {
            **_reader_options(kafka),
            "group_id": kafka.group,
            "group_instance_id": kafka.instance,
            "session_timeout_ms": kafka.session_timeout_ms,
            "heartbeat_interval_ms": 1_000,
            "partition_assignment_strategy": [RangePartitionAssignor, RoundRobinPartitionAssignor],
        },
        kafka,
        KafkaConsumer,
    )


def range_consumer_options(kafka: KafkaSettings) -> dict[str, Any]:
    """A reader of history without a group, in small fetches: what one brings is kept, and it waits for no news."""
    small = {"fetch_max_wait_ms": 20, "max_partition_fetch_bytes": 262_144, "fetch_max_bytes": 16_777_216}
    return _with_properties({**_reader_options(kafka), **small}, kafka, KafkaConsumer)


def _reader_options(kafka: KafkaSettings) -> dict[str, Any]:
    return {
        **connection_options(kafka),
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "metrics_enabled": False,
        "max_poll_records": 2_000,
    }


def producer_options(kafka: KafkaSettings) -> dict[str, Any]:
    """A producer whose every record is acknowledged by all in-sync replicas, in order and once."""
    return _with_properties(
        {
            **connection_options(kafka),
            "acks": "all",
            "enable_idempotence": True,
            "metrics_enabled": False,
            "compression_type": "lz4",
            "linger_ms": 5,
            "batch_size": 131_072,
            "delivery_timeout_ms": 2 * kafka.request_timeout_ms,
            "max_block_ms": 2 * kafka.request_timeout_ms,
        },
        kafka,
        KafkaProducer,
    )


def transactional_id(kafka: KafkaSettings) -> str:
    """Return the name under which a worker's transactions fence those of its former processes."""
    return f"{kafka.group}-{kafka.instance}"


def transactional_options(kafka: KafkaSettings) -> dict[str, Any]:
    """The same, in transactions under a name that stays over restarts, so that a successor fences and aborts at once."""
    return {
        **producer_options(kafka),
        "transactional_id": transactional_id(kafka),
        "transaction_timeout_ms": kafka.transaction_timeout_ms,
    }


def admin_options(kafka: KafkaSettings) -> dict[str, Any]:
    """For looking at topics and making them."""
    return _with_properties(connection_options(kafka), kafka, KafkaAdminClient)


def _sasl_options(kafka: KafkaSettings) -> dict[str, Any]:
    if not kafka.security_protocol.startswith("SASL"):
        return {}
    password = _password(kafka)
    if kafka.sasl_mechanism is None or kafka.sasl_username is None or password is None:
        raise ConfigError(
            f"kafka.security_protocol {kafka.security_protocol} needs kafka.sasl_mechanism, kafka.sasl_username and"
            " kafka.sasl_password or kafka.sasl_password_file"
        )
    return {
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": password,
    }


def _password(kafka: KafkaSettings) -> str | None:
    if kafka.sasl_password is not None and kafka.sasl_password_file is not None:
        raise ConfigError("set kafka.sasl_password or kafka.sasl_password_file, not both")
    if kafka.sasl_password_file is not None:
        return _readable(kafka.sasl_password_file, "kafka.sasl_password_file").rstrip("\r\n")
    return None if kafka.sasl_password is None else kafka.sasl_password.get_secret_value()


def _ssl_options(kafka: KafkaSettings) -> dict[str, Any]:
    if not kafka.security_protocol.endswith("SSL"):
        return {}
    files = {name: getattr(kafka, name) for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")}
    for name, path in files.items():
        if path is not None:
            _readable(path, f"kafka.{name}")
    given = {name: str(path) for name, path in files.items() if path is not None}
    return {**given, "ssl_check_hostname": kafka.ssl_check_hostname}


def _readable(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting}: cannot read {path}: {type(error).__name__}") from error


def _with_properties(options: dict[str, Any], kafka: KafkaSettings, client: Any) -> dict[str, Any]:
    """Add the user's properties that this client knows. Raises ConfigError for one that no client knows."""
    defaults: dict[str, Any] = {}
    for each in (KafkaAdminClient, KafkaProducer, KafkaConsumer):
        defaults |= each.DEFAULT_CONFIG
    for given, value in kafka.properties.items():
        name = given.replace(".", "_")
        _check_property(given, name, defaults)
        typed = _typed(given, value, defaults[name])
        if name in client.DEFAULT_CONFIG:
            options[name] = typed
    return options


def _check_property(given: str, name: str, known: Mapping[str, Any]) -> None:
    if name in _OWNED:
        raise ConfigError(f"kafka.properties: {given!r} is fixed, or has a setting of its own in the section kafka")
    if name not in known:
        nearest = difflib.get_close_matches(name, known.keys() - _OWNED, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ConfigError(f"kafka.properties: there is no option {given!r}{hint}")


def _typed(given: str, value: str | float, default: object) -> object:
    """Return the value as the type of the option's default: the command line only knows strings."""
    if not isinstance(value, str) or default is None or isinstance(default, str):
        return value
    if isinstance(default, bool):
        if value.lower() not in {"true", "false"}:
            raise ConfigError(f"kafka.properties: {given!r} must be true or false")
        return value.lower() == "true"
    try:
        return int(value) if isinstance(default, int) else float(value)
    except ValueError as error:
        raise ConfigError(f"kafka.properties: {given!r} must be a number") from error
