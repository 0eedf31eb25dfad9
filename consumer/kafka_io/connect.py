"""Opening a client: wait for a broker inside one deadline, and say clearly why it did not work."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from consumer.errors import AccessError, BrokerUnavailable, ConfigError, TransientError
from consumer.kafka_io.client import KafkaConnectionManager, KafkaNetClient, NetworkSelector
from consumer.kafka_io.client import errors as k
from consumer.kafka_io.codecs import provide_snappy
from consumer.kafka_io.errors import describe, translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumer.ports import Clock
    from consumer.settings import KafkaSettings

T = TypeVar("T")

_ATTEMPT_S = 5.0
_SAY_AFTER_S = 10.0

log = structlog.get_logger(__name__)


def connect(make: Callable[..., Any], options: dict[str, Any], kafka: KafkaSettings, clock: Clock) -> Any:
    """Return an open client made by `make`. Raises BrokerUnavailable after `broker_wait_s`, AccessError, ConfigError."""
    provide_snappy()
    _keep_records_out_of_the_log()
    deadline = clock.monotonic() + kafka.broker_wait_s
    while True:
        left = deadline - clock.monotonic()
        try:
            return _open(make, options, min(max(left, 0.1), _ATTEMPT_S))
        except k.RetriableError as error:
            if clock.monotonic() >= deadline:
                raise BrokerUnavailable(
                    f"no broker at {kafka.bootstrap_servers} answered for {kafka.broker_wait_s:g} s"
                    f" ({kafka.security_protocol}): {error}"
                ) from error
            log.warning("waiting for a broker", bootstrap_servers=kafka.bootstrap_servers, left_s=round(left))
        except k.KafkaError as error:
            raise translate(error, f"connecting to {kafka.bootstrap_servers}") from error
        except ValueError as error:
            raise ConfigError(f"kafka.bootstrap_servers cannot be read: {kafka.bootstrap_servers!r}") from error


def retry(call: Callable[[], T], doing: str, clock: Clock, *, within_s: float, pause_s: float = 0.05) -> T:
    """Return what `call` returns, tried again while the client says that it may help. Raises TransientError at the end."""
    begin = said = clock.monotonic()
    while True:
        try:
            return call()
        except k.KafkaError as error:
            if not error.retriable:
                raise translate(error, doing) from error
            now = clock.monotonic()
            if now >= begin + within_s:
                raise TransientError(describe(error, f"{doing}, for {within_s:g} s")) from error
            if now >= said + _SAY_AFTER_S:
                said = now
                log.warning("still trying", doing=doing, reason=describe(error, doing), for_s=round(now - begin))
        clock.sleep(pause_s)
        pause_s = min(2 * pause_s, 1.0)


def _open(make: Callable[..., Any], options: dict[str, Any], timeout_s: float) -> Any:
    """Make the client; one that cannot connect leaves no thread and no socket behind."""
    made: list[Any] = []
    first: list[_FirstContact] = []

    def keep(**config: Any) -> Any:
        net = NetworkSelector(**config)
        first.append(_FirstContact(net, **config))
        made.append(KafkaNetClient(net, first[-1], **config))
        return made[-1]

    try:
        return make(**options, kafka_client=keep, bootstrap_timeout_ms=int(timeout_s * 1000))
    except BaseException as error:
        for client in made:
            client.close()
        if isinstance(error, k.KafkaTimeoutError) and first and first[0].last is not None:
            raise k.KafkaTimeoutError(str(first[0].last)) from error
        raise


class _FirstContact(KafkaConnectionManager):  # type: ignore[misc]  # the base is untyped
    """The client's connections; it gives up at once when a bootstrap server refuses the login, and notes the last error.

    The client itself would go on until its timeout, and only write why to its log. Nor does it hand on to its metadata
    that no topic is to be made by looking at it: one that was deleted would come back, as the broker makes them.
    """

    last: Exception | None = None
    _refusal: Exception | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cluster.config["allow_auto_create_topics"] = False

    def get_connection(self, node_id: Any, *args: Any, **options: Any) -> Any:
        if self._refusal is not None:
            raise self._refusal
        connection = super().get_connection(node_id, *args, **options)
        if self.cluster.is_bootstrap(node_id):
            connection.init_future.add_errback(self._note)
        return connection

    async def _build_transport(self, *args: Any, **options: Any) -> Any:
        return data_before_end(await super()._build_transport(*args, **options))

    def _note(self, error: Exception) -> None:
        self.last = error
        if isinstance(translate(error, "login"), AccessError):
            self._refusal = error


def data_before_end(transport: Any) -> Any:
    """Make a transport hand over what it received before it says that the peer has gone.

    The client drops what arrives together with the end, and so the broker's reason for refusing a login.
    """
    receive = transport._sock_recv  # noqa: SLF001 - there is no public way in

    def data_first() -> tuple[bytes, Exception | None]:
        data, error = receive()
        return data, None if data else error  # the end is still there at the next call

    transport._sock_recv = data_first  # noqa: SLF001
    return transport


def _keep_records_out_of_the_log() -> None:
    """The client's debug log prints keys and values."""
    logger = logging.getLogger("kafka")
    if logger.level < logging.WARNING:
        logger.setLevel(logging.WARNING)
