"""A TCP proxy in front of a broker: it loses answers to chosen requests, holds requests back, ends connections.

Every request of the Kafka protocol begins with its length, the number of its API, a version and a correlation id; an
answer begins with its length and the same id.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from deploy.broker import LocalBroker
from deploy.broker_config import Ports

if TYPE_CHECKING:
    from collections.abc import Iterator

PRODUCE = 0
TXN_OFFSET_COMMIT = 28
END_TXN = 26
WORKER = b"w"
"""What the client ids of workers begin with; only their requests are tampered with."""


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to `target`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.target = 0
        self.dropped = 0
        self._api = -1
        self._cut = False
        self._slow: dict[int, float] = {}
        self.delayed = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def drop(self, api: int, *, cut: bool) -> None:
        """Swallow the next answer to a request of this API; with `cut` the connection ends with it."""
        with self._lock:
            self._api, self._cut = api, cut

    def delay(self, api: int, seconds: float) -> None:
        """Hold every request of this API back for so long; 0 ends that."""
        self._slow[api] = seconds

    def has_delayed(self, count: int) -> bool:
        """Whether so many requests were held back so far."""
        return self.delayed >= count

    def cut(self) -> int:
        """End all connections that are open now; new ones are let in. Returns how many."""
        doomed = list(self._open)
        for one in doomed:
            _shut(one)
        return len(doomed)

    def has_dropped(self, count: int) -> bool:
        """Whether so many answers were swallowed so far."""
        return self.dropped >= count

    def close(self) -> None:
        """End all connections."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                self._open |= {client, broker}
                doomed: set[int] = set()
                threading.Thread(target=self._requests, args=(client, broker, doomed), daemon=True).start()
                threading.Thread(target=self._answers, args=(broker, client, doomed), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket, doomed: set[int]) -> None:
        with suppress(OSError):
            while (frame := _frame(client)) is not None:
                api, _, correlation, length = struct.unpack_from(">hhih", frame, 4)
                if frame[14 : 14 + max(length, 0)].startswith(WORKER):
                    self._tamper(api, correlation, doomed)
                broker.sendall(frame)
        self._end(client, broker)

    def _tamper(self, api: int, correlation: int, doomed: set[int]) -> None:
        """Mark a request whose answer is to be lost; hold back one that is to be slow, and all behind it."""
        with self._lock:
            if api == self._api:
                self._api = -1
                doomed.add(correlation)
            pause_s = self._slow.get(api, 0.0)
            self.delayed += pause_s > 0
        time.sleep(pause_s)

    def _answers(self, broker: socket.socket, client: socket.socket, doomed: set[int]) -> None:
        with suppress(OSError):
            while (frame := _frame(broker)) is not None:
                if struct.unpack_from(">i", frame, 4)[0] in doomed:
                    self.dropped += 1
                    if self._cut:
                        break
                    continue
                client.sendall(frame)
        self._end(client, broker)

    def _end(self, *both: socket.socket) -> None:
        for one in both:
            _shut(one)
            self._open.discard(one)


def _frame(source: socket.socket) -> bytes | None:
    """Read one message, its length included; None at the end of the connection."""
    head = _exactly(source, 4)
    if head is None:
        return None
    body = _exactly(source, struct.unpack(">i", head)[0])
    return None if body is None else head + body


def _exactly(source: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = source.recv(size - len(data))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


class ProxiedBroker(LocalBroker):
    """A broker whose clients are all sent through the proxy."""

    proxy: Proxy


@contextmanager
def proxied_broker() -> Iterator[LocalBroker]:
    """Yield a broker behind a proxy."""
    proxy = Proxy()
    ports = Ports.free()
    proxy.target = ports.client
    inner = f"INTERNAL://127.0.0.1:{ports.internal}"
    properties = {
        "listeners": f"CLIENT://127.0.0.1:{ports.client},{inner},CONTROLLER://127.0.0.1:{ports.controller}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{proxy.port},{inner}",
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
    }
    try:
        with ProxiedBroker(properties=properties, port=ports.client) as broker:
            broker.proxy = proxy
            yield broker
    finally:
        proxy.close()
