"""A real Kafka broker on this machine, without Docker and without an installed Java.

`with LocalBroker() as broker: broker.bootstrap_servers`, or `python -m deploy.broker [--data DIR] [--port N]`.
One node in KRaft mode on 127.0.0.1, from the jars and the Java runtime that the extra `broker` brings. For tests and
trials: data is not replicated, nothing expires (old record timestamps stay), and the process ends with its owner,
however that dies (see `deploy/broker_guard.py`).
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from consumer.clock import SystemClock
from consumer.errors import BrokerUnavailable, TidemillError
from deploy import broker_guard
from deploy.broker_config import Ports, client_protocol, server_properties
from deploy.kafka_runtime import (
    KafkaRuntime,
    cache_dir,
    find_runtime,
    format_folder,
    locked,
    make_start_records,
    write_properties,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LOG = logging.getLogger(__name__)
_STARTED = b"Kafka Server started"
_PORT_TAKEN = "Address already in use"
_ATTEMPTS = 3
_SHOWN_LINES = 25
_STOP_TIMEOUT_S = 30.0


class LocalBroker:
    """One broker; a second one may run beside it.

    `data_dir`: kept and used again; None: a temporary folder, removed at the end. `properties`: further lines of
    server.properties, which win. `port`: 0 takes a free one. `sasl_users` (name → password) makes clients log in with
    PLAIN; SCRAM-SHA-256 and -512 are switched on beside it for users added through an admin client. `tls_pem`: a file
    with private key (PKCS #8) and certificate chain makes clients use TLS. Kafka's own traffic has ports of its own.

    Rights: `properties={"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS;User:admin"}`; ANONYMOUS is the broker itself.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        properties: Mapping[str, str] | None = None,
        *,
        port: int = 0,
        sasl_users: Mapping[str, str] | None = None,
        tls_pem: Path | None = None,
        start_timeout_s: float = 90.0,
        runtime: KafkaRuntime | None = None,
        jvm_options: Iterable[str] | None = None,
    ) -> None:
        self._given_dir = data_dir
        self._properties = dict(properties or {})
        self._fixed_port = port
        self._sasl_users = sasl_users
        self._tls_pem = tls_pem
        self._start_timeout_s = start_timeout_s
        self._runtime = runtime
        self._jvm_options = None if jvm_options is None else tuple(jvm_options)
        self._clock = SystemClock()
        self._dir: Path | None = None
        self._ports: Ports | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._exit_code = 0

    @property
    def bootstrap_servers(self) -> str:
        """`host:port` for clients; the same over restarts."""
        if self._ports is None:
            raise BrokerUnavailable("the local broker was not started")
        return f"127.0.0.1:{self._ports.client}"

    @property
    def security_protocol(self) -> str:
        """What clients must set: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
        return client_protocol(sasl=bool(self._sasl_users), tls=self._tls_pem is not None)

    @property
    def data_dir(self) -> Path:
        """The folder with `server.properties`, `server.log` and Kafka's storage; made when first asked for."""
        if self._dir is None:
            self._dir = self._given_dir or Path(tempfile.mkdtemp(prefix="tidemill-broker-"))
            self._dir.mkdir(parents=True, exist_ok=True)
        return self._dir

    @property
    def log_path(self) -> Path:
        """Kafka's log."""
        return self.data_dir / "server.log"

    @property
    def pid(self) -> int:
        """Process id of the broker's Java process."""
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the process is there; a paused one is."""
        return self._guard is not None and self._guard.poll() is None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start and wait until clients are served. Raises BrokerUnavailable with the last lines of Kafka's log."""
        if self.running:
            return self
        runtime = self._runtime = self._runtime or prepare()
        format_folder(runtime, self.data_dir / "storage")
        options = self._jvm_options
        if options is None:
            options = (f"-XX:AOTCache={runtime.class_cache}",) if runtime.has_class_cache else ()
        first = self._ports is None
        for attempt in range(_ATTEMPTS):
            if first:
                self._ports = Ports.free(self._fixed_port)
            failure = self._try_start(runtime, options)
            if failure is None:
                return self
            last = attempt == _ATTEMPTS - 1
            if last or not (self._port_was_taken(failure, first=first) or self._crashed(options)):
                raise BrokerUnavailable(failure)
            options = ()
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """End it in order; the data stays until `close`."""
        self._end(signal.SIGCONT, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a power cut would; the data stays until `close`."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End it in order if it runs, and start it on the same data and port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove a temporary folder; safe to call twice."""
        self.stop()
        if self._given_dir is None and self._dir is not None:
            shutil.rmtree(self._dir, ignore_errors=True)
            self._dir = None

    def wait(self) -> int:
        """Wait until the process ends by itself; return its exit code."""
        return self._guard.wait() if self._guard is not None else 0

    def _try_start(self, runtime: KafkaRuntime, options: tuple[str, ...]) -> str | None:
        """Start once; return what went wrong."""
        assert self._ports is not None  # noqa: S101 - start() has set it
        config = self.data_dir / "server.properties"
        properties = server_properties(
            self._ports, self.data_dir / "storage", sasl_users=self._sasl_users, tls_pem=self._tls_pem
        )
        write_properties(config, properties | self._properties)
        scratch = self.data_dir / "tmp"
        scratch.mkdir(exist_ok=True)
        options = (*options, "-Xlog:disable", "-Xlog:all=error:stderr", f"-Djava.io.tmpdir={scratch}")
        options = (*options, f"-XX:ErrorFile={self.data_dir / 'crash.log'}")
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._launch(runtime.command("kafka.Kafka", str(config), options=options))
        return self._await_started(log_start)

    def _launch(self, command: list[str]) -> None:
        remove = "" if self._given_dir else str(self.data_dir)
        self._guard = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [sys.executable, "-I", str(Path(broker_guard.__file__)), str(self.log_path), remove, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the owner, which then ends the broker in order
        )
        assert self._guard.stdout is not None  # noqa: S101 - a pipe was asked for
        line = self._guard.stdout.readline()
        if not line:
            self._end()
            raise BrokerUnavailable("the guard process of the local broker did not start")
        self._pid = int(line)

    def _await_started(self, log_start: int) -> str | None:
        deadline = self._clock.monotonic() + self._start_timeout_s
        while self._clock.monotonic() < deadline:
            ended = not self.running  # asked before the log is read, so that its last line is seen
            with self.log_path.open("rb") as log:
                log.seek(log_start)
                new = log.read()
            if _STARTED in new:
                return None
            if ended:
                self._end()
                return self._failure("ended while it started", new)
            self._clock.sleep(0.02)
        self.kill()
        return self._failure(f"did not start in {self._start_timeout_s:g} s", new)

    def _failure(self, what: str, log: bytes) -> str:
        lines = log.decode(errors="replace").splitlines()
        errors = [at for at, line in enumerate(lines) if " ERROR " in line]
        shown = lines[errors[0] :][:_SHOWN_LINES] if errors else lines[-_SHOWN_LINES:]
        return "\n".join((f"the local broker {what}; its log ({self.log_path}) says:", *shown))

    def _port_was_taken(self, failure: str, *, first: bool) -> bool:
        """Whether another process took one of the free ports between our look and Kafka's bind."""
        return first and not self._fixed_port and _PORT_TAKEN in failure

    def _crashed(self, options: tuple[str, ...]) -> bool:
        """Whether the Java runtime itself died, which a damaged class cache could cause; a retry goes without."""
        codes = {128 + signal.SIGABRT, 128 + signal.SIGSEGV}
        return bool(options) and self._jvm_options is None and self._exit_code in codes

    def _signal(self, *numbers: signal.Signals) -> None:
        """Let the guard pass signals on; returns when it has, or when the broker has ended."""
        guard = self._guard
        if guard is None or guard.stdin is None or guard.stdout is None or guard.poll() is not None:
            return
        try:
            for number in numbers:
                guard.stdin.write(bytes([number]))
                guard.stdin.flush()
                guard.stdout.readline()
        except BrokenPipeError:
            _LOG.debug("the broker had ended already")

    def _end(self, *numbers: signal.Signals) -> None:
        guard = self._guard
        if guard is None:
            return
        self._signal(*numbers)
        try:
            guard.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            guard.wait(_STOP_TIMEOUT_S)
        for pipe in (guard.stdin, guard.stdout):
            if pipe is not None:
                pipe.close()
        self._exit_code = guard.returncode
        self._guard = None


def prepare() -> KafkaRuntime:
    """Fetch Kafka and make the caches where they are missing: half a minute the first time, then half a second."""
    folder = cache_dir()
    with locked(folder):
        runtime = find_runtime(folder)
        if not runtime.start_records.exists():
            make_start_records(runtime)
        if not runtime.class_cache.exists():
            _make_class_cache(runtime, folder)
    return runtime


def _make_class_cache(runtime: KafkaRuntime, folder: Path) -> None:
    """Start a broker once and let the JVM write down what it loaded (JEP 514); starts without it just take longer."""
    for old in folder.glob("classes-*"):
        old.unlink()
    new = runtime.class_cache.with_suffix(".new")
    try:
        broker = LocalBroker(runtime=runtime, jvm_options=[f"-XX:AOTCacheOutput={new}"])
        with broker:
            broker.stop()
        new.replace(runtime.class_cache)
    except (OSError, TidemillError) as error:
        _LOG.warning("no class cache for the local broker, it will start slower: %s", error)
        runtime.class_cache.touch()


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a broker until SIGTERM or SIGINT; prints its address on standard output."""
    parser = argparse.ArgumentParser(prog="python -m deploy.broker", description="Run a local Kafka broker.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the data there (default: a temporary folder)")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--prepare", action="store_true", help="only fetch Kafka and make the caches")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        if given.prepare:
            prepare()
            sys.exit(0)
        with LocalBroker(given.data, port=given.port) as broker:
            print(broker.bootstrap_servers, flush=True)  # noqa: T201 - the answer to the command
            code = broker.wait()
            sys.exit(f"the broker ended with code {code}; see {broker.log_path}")
    except TidemillError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer to the command
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
