"""The worker's HTTP port: /metrics for Prometheus, /livez and /readyz for the orchestrator. GET and HEAD only."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import BoundedSemaphore, Lock, Thread
from typing import TYPE_CHECKING, Any

from consumer.errors import ConfigError
from consumer.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consumer.metrics import Metrics
    from consumer.ports import Clock
    from consumer.settings import MetricsSettings

MAX_CONNECTIONS = 16
CLIENT_TIMEOUT_S = 5.0
SHUTDOWN_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a probe: what was checked, and what to say of it. It holds when every check holds."""

    checks: Mapping[str, bool]
    reason: str

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(self.checks.values())

    def body(self) -> bytes:
        """The JSON object that a probe is answered with."""
        return json.dumps({"ok": self.ok, "reason": self.reason, "checks": dict(self.checks)}).encode() + b"\n"


class HealthState:
    """What the loop tells of itself, and what the probes make of it. Thread-safe.

    The loop calls `beat` at each step and at each slice of a restore; the others when the state changes. Before its
    first beat, and while it connects again, it may take `start_s` longer: a worker that waits for its broker must not be
    restarted for it.
    """

    def __init__(self, clock: Clock, live_after_s: float, start_s: float = 0.0) -> None:
        self._clock = clock
        self._live_after_s = live_after_s
        self._start_s = start_s
        self._begun = False
        self._lock = Lock()
        self._moved_at = clock.monotonic()
        self._broker_seen = False
        self._assigned = False
        self._restored = False

    def beat(self) -> None:
        """The loop has moved."""
        with self._lock:
            self._begun = True
            self._moved_at = self._clock.monotonic()

    def connecting(self) -> None:
        """The loop waits for a broker again: until its next beat it may take as long as at the start."""
        with self._lock:
            self._begun = self._broker_seen = False
            self._moved_at = self._clock.monotonic()

    def broker_seen(self) -> None:
        """A broker has answered."""
        with self._lock:
            self._broker_seen = True

    def assigned(self, *, is_assigned: bool = True) -> None:
        """The group has told this worker its partitions (which may be none), or has taken them away."""
        with self._lock:
            self._assigned = is_assigned

    def restored(self, *, is_restored: bool = True) -> None:
        """The state of the assigned partitions is complete, or has to be restored."""
        with self._lock:
            self._restored = is_restored

    def live(self) -> Verdict:
        """Whether the loop has moved lately; the process should be restarted when it has not."""
        with self._lock:
            still_s = self._clock.monotonic() - self._moved_at
            allowed_s = self._live_after_s if self._begun else self._live_after_s + self._start_s
        moves = still_s <= allowed_s
        reason = "the loop moves" if moves else f"the loop has not moved for {still_s:.0f} s"
        return Verdict({"loop": moves}, reason)

    def ready(self) -> Verdict:
        """Whether the worker does its work: alive, a broker was seen, partitions are assigned and restored."""
        live = self.live()
        with self._lock:
            own = {"broker": self._broker_seen, "assigned": self._assigned, "restored": self._restored}
        reasons = [] if live.ok else [live.reason]
        reasons += [_NOT_YET[name] for name, holds in own.items() if not holds]
        return Verdict({**live.checks, **own}, "; ".join(reasons) or "ready")


_NOT_YET = {
    "broker": "no broker has answered yet",
    "assigned": "no partitions are assigned",
    "restored": "the state is not restored",
}


class HealthServer:
    """Serves the probes and the metrics from a thread of its own until it is closed.

    Raises ConfigError, which names the setting, when the address cannot be bound. `port` is the port that was bound,
    also where the settings say 0.
    """

    def __init__(self, settings: MetricsSettings, health: HealthState, metrics: Metrics) -> None:
        self._server = _bind(settings, _Pages(health, metrics))
        self.port = int(self._server.server_address[1])
        self._thread = Thread(target=self._server.serve_forever, args=(SHUTDOWN_POLL_S,), name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port; safe to call twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class _Page:
    status: HTTPStatus
    content_type: str
    body: bytes


class _Pages:
    """What each path is answered with."""

    def __init__(self, health: HealthState, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics

    def get(self, path: str) -> _Page:
        match path:
            case "/metrics":
                return _Page(HTTPStatus.OK, CONTENT_TYPE, self._metrics.render())
            case "/livez":
                return _probe(self._health.live())
            case "/readyz":
                return _probe(self._health.ready())
        body = b'{"ok": false, "reason": "there are /metrics, /livez and /readyz"}\n'
        return _Page(HTTPStatus.NOT_FOUND, "application/json", body)


def _probe(verdict: Verdict) -> _Page:
    status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return _Page(status, "application/json", verdict.body())


class _Server(ThreadingHTTPServer):
    """At most MAX_CONNECTIONS at a time: a client that says nothing cannot keep a probe from its answer."""

    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], pages: _Pages) -> None:
        self.pages = pages
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the look-up of the host's name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or hang up where there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Free the place afterwards."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no event."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; the base class answers 501 to everything else."""

    server: _Server
    server_version = "tidemill"
    sys_version = ""
    timeout = CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        """Answer with the page."""
        self.wfile.write(self._head())

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._head()

    def _head(self) -> bytes:
        page = self.server.pages.get(self.path.partition("?")[0])
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        return page.body

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: a probe every few seconds is no news."""


def _bind(settings: MetricsSettings, pages: _Pages) -> _Server:
    try:
        return _Server((settings.host, settings.port), pages)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"metrics.host = {settings.host!r}, metrics.port = {settings.port}: cannot listen there: {reason};"
            " choose another port (0 takes any free one) or set metrics.enabled = false"
        ) from error
