from __future__ import annotations

import pytest
import structlog

from consumer.clock import ManualClock
from consumer.errors import (
    Aborted,
    AccessError,
    ConfigError,
    Fenced,
    LostPartitions,
    StateError,
    TransientError,
    UnknownOutcome,
)
from consumer.kafka_io import connection_options
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.connect import retry
from consumer.kafka_io.errors import after_the_end, before_the_end, translate
from consumer.kafka_io.options import group_consumer_options, producer_options, transactional_options
from consumer.settings import KafkaSettings

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    ("error", "expected", "aborts"),
    [
        (k.MessageSizeTooLargeError(), Aborted, True),
        (k.RecordListTooLargeError(), Aborted, True),
        (k.TransactionAbortableError(), Aborted, True),
        (k.InvalidTopicError(), Aborted, True),
        (k.ProducerFencedError(), Fenced, False),
        (k.InvalidProducerEpochError(), Fenced, False),
        (k.FencedInstanceIdError(), Fenced, True),
        (k.CommitFailedError(), LostPartitions, True),
        (k.UnknownMemberIdError(), LostPartitions, True),
        (k.TopicAuthorizationFailedError(), AccessError, True),
        (k.TransactionalIdAuthorizationFailedError(), AccessError, False),
        (k.SaslAuthenticationFailedError(), AccessError, False),
        (k.KafkaTimeoutError(), UnknownOutcome, False),
        (k.NotEnoughReplicasError(), UnknownOutcome, False),
        (k.OutOfOrderSequenceNumberError(), UnknownOutcome, False),
        (k.KafkaError("anything"), UnknownOutcome, False),
    ],
)
def test_before_the_end_of_a_transaction(error, expected, aborts):
    assert before_the_end(error) == (expected, aborts)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (k.ProducerFencedError(), Fenced),
        (k.TransactionalIdAuthorizationFailedError(), AccessError),
        (k.KafkaTimeoutError(), UnknownOutcome),
        (k.KafkaError("in an error state"), UnknownOutcome),
        (k.CommitFailedError(), UnknownOutcome),
    ],
)
def test_after_the_end_only_a_fence_is_a_clear_no(error, expected):
    assert after_the_end(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (k.GroupAuthorizationFailedError(), AccessError),
        (k.FencedInstanceIdError(), Fenced),
        (k.IllegalGenerationError(), LostPartitions),
        (k.OffsetOutOfRangeError(), StateError),
        (k.LogTruncationError({}), StateError),
        (k.UnsupportedCodecError("Libraries for zstd compression codec not found"), ConfigError),
        (k.InvalidSessionTimeoutError(), ConfigError),
        (k.NotCoordinatorError(), TransientError),
    ],
)
def test_an_error_of_the_client_becomes_one_of_ours(error, expected):
    translated = translate(error, "reading")
    assert type(translated) is expected
    assert str(translated).startswith("reading: ")


def test_an_error_that_nobody_foresaw_stays_itself():
    error = k.InvalidReceiveError("odd")
    assert translate(error, "reading") is error


def test_a_missing_codec_is_explained():
    assert "Python package is missing" in str(translate(k.UnsupportedCodecError("x"), "reading"))


def test_retry_goes_on_until_it_works():
    clock, answers = ManualClock(), [k.NotCoordinatorError(), k.KafkaTimeoutError(), 7]

    def call():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retry(call, "asking", clock, within_s=10) == 7
    assert clock.monotonic() > 0


def test_retry_ends_at_its_deadline_or_at_once():
    clock, calls = ManualClock(), []

    def call(error):
        calls.append(error)
        raise error

    with pytest.raises(TransientError, match="asking, for 5 s"):
        retry(lambda: call(k.NotCoordinatorError()), "asking", clock, within_s=5)
    assert 5 <= clock.monotonic() <= 6.1
    assert len(calls) < 15
    calls.clear()
    with pytest.raises(AccessError):
        retry(lambda: call(k.GroupAuthorizationFailedError()), "asking", clock, within_s=5)
    assert len(calls) == 1


def test_what_is_tried_again_for_long_is_said():
    def call():
        raise k.NotCoordinatorError

    with structlog.testing.capture_logs() as logs, pytest.raises(TransientError):
        retry(call, "asking", ManualClock(), within_s=35)
    assert [line["event"] for line in logs] == ["still trying"] * 3
    assert [line["doing"] for line in logs] == ["asking"] * 3
    assert [10 * (n + 1) <= line["for_s"] <= 10 * (n + 1) + 5 for n, line in enumerate(logs)] == [True] * 3


def test_the_consumer_never_commits_moves_or_decodes_by_itself():
    options = group_consumer_options(KafkaSettings(group="g", instance="g-1"))
    assert options["enable_auto_commit"] is False
    assert options["auto_offset_reset"] == "none"
    assert options["isolation_level"] == "read_committed"
    assert (options["group_id"], options["group_instance_id"]) == ("g", "g-1")
    assert not [name for name in options if "serializer" in name]


def test_the_transactional_id_is_stable():
    options = transactional_options(KafkaSettings(group="g", instance="g-1"))
    assert options["transactional_id"] == "g-g-1"
    assert options["retry_backoff_ms"] <= 10
    assert options["delivery_timeout_ms"] < options["transaction_timeout_ms"]


def test_properties_reach_the_clients_that_know_them():
    kafka = KafkaSettings(properties={"linger.ms": "7", "fetch_max_bytes": 1_000_000, "check_crcs": "false"})
    assert producer_options(kafka)["linger_ms"] == 7
    assert "fetch_max_bytes" not in producer_options(kafka)
    consumer = group_consumer_options(kafka)
    assert (consumer["fetch_max_bytes"], consumer["check_crcs"]) == (1_000_000, False)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ligner_ms", 5, "did you mean 'linger_ms'"),
        ("qqqqqqqq", 5, "there is no option 'qqqqqqqq'$"),
        ("enable_auto_commit", True, "is fixed"),
        ("sasl_plain_password", SECRET, "has a setting of its own"),
        ("linger_ms", SECRET, "must be a number"),
        ("check_crcs", SECRET, "must be true or false"),
    ],
)
def test_a_property_that_cannot_be_is_refused_without_its_value(name, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        group_consumer_options(KafkaSettings(properties={name: value}))
    assert SECRET not in str(caught.value)


def test_sasl_takes_the_password_from_the_settings_or_a_file(tmp_path):
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    sasl = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "u"}
    for given in ({"sasl_password": SECRET}, {"sasl_password_file": file}):
        options = connection_options(KafkaSettings(**sasl, **given))
        assert options["sasl_plain_password"] == SECRET
        assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    with pytest.raises(ConfigError, match="not both") as caught:
        connection_options(KafkaSettings(**sasl, sasl_password=SECRET, sasl_password_file=file))
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="sasl_password_file"):
        connection_options(KafkaSettings(**sasl))
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        connection_options(KafkaSettings(**sasl, sasl_password_file=tmp_path / "none"))


def test_no_secret_goes_to_a_client_that_needs_none():
    options = connection_options(KafkaSettings(sasl_username="u", sasl_password=SECRET))
    assert not [name for name in options if name.startswith(("sasl_", "ssl_"))]


def test_tls_files_must_be_there(tmp_path):
    ca = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r"kafka\.ssl_cafile"):
        connection_options(KafkaSettings(security_protocol="SSL", ssl_cafile=ca))
    ca.write_text("pem")
    options = connection_options(KafkaSettings(security_protocol="SSL", ssl_cafile=ca, ssl_check_hostname=False))
    assert (options["ssl_cafile"], options["ssl_check_hostname"]) == (str(ca), False)


def test_an_instance_name_that_the_broker_refuses_is_refused_first():
    with pytest.raises(ConfigError, match=r"kafka\.instance"):
        group_consumer_options(KafkaSettings(instance="worker 1"))
