"""The workers of a scenario: real processes that run `tidemill run`, started again when they end, as an orchestrator does.

By default they are forked from a server process that has the libraries loaded, so that a start takes a tenth of a
second; `whole` starts each as `python -m tests.faults.worker`, with everything that a start costs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.faults.worker import Orders, work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.cluster import Cluster
    from tests.faults.hooks import Hook

ROOT = Path(__file__).parents[2]
END_S = 30.0
ENDS_FOR_GOOD = {0, 64, 65, 77, 78}
"""Exit codes after which starting again cannot help."""


def fork_context() -> Any:
    """Return the context of the server process that has everything loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "consumer.run",
            "consumer.cli",
            "tests.faults.worker",
            *(f"tests.faults.{name}" for name in ("hooks", "mutants", "disturbances")),
        ]
    )
    return context


class WorkerProcess:
    """One process of one instance."""

    def __init__(self, orders: Orders, *, whole: bool) -> None:
        self.orders = orders
        self.started_at = time.monotonic()
        self._popen: subprocess.Popen[bytes] | None = None
        self._process: Any = None
        if whole:
            command = [sys.executable, "-m", "tests.faults.worker", *orders.arguments()]
            self._popen = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        else:
            self._process = fork_context().Process(target=work, args=(orders,), daemon=True)
            self._process.start()

    @property
    def pid(self) -> int:
        return int(self._popen.pid if self._popen is not None else self._process.pid)

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._popen.poll() if self._popen is not None else self._process.exitcode

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.code is None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float = END_S) -> int | None:
        """Wait for its end; returns the exit code, None where it did not end."""
        deadline = time.monotonic() + timeout_s
        while self.code is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.code


class Workers:
    """All processes of a scenario, by the number of their instance."""

    def __init__(self, cluster: Cluster, *, whole: bool = False, mutant: str = "", disturbance: str = "") -> None:
        self._cluster, self._whole, self._mutant, self._disturbance = cluster, whole, mutant, disturbance
        self.running: dict[int, WorkerProcess] = {}
        self.all: list[WorkerProcess] = []
        self.unwanted: list[str] = []
        self.restarts = 0
        self.numbers: set[int] = set()

    @property
    def hits(self) -> list[str]:
        """Points at which a hook has struck, in order."""
        file = self._cluster.folder / "hits"
        return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []

    def start(self, number: int, *, hooks: Sequence[Hook] = ()) -> WorkerProcess:
        """Start an instance; one that runs already keeps running beside it, as a twin."""
        log = self._cluster.folder / f"w{number}.log"
        config = self._cluster.write_config(number)
        hits = self._cluster.folder / "hits"
        texts = tuple(hook.text() for hook in hooks)
        orders = Orders(str(config), str(log), str(hits), texts, self._mutant, self._disturbance)
        process = WorkerProcess(orders, whole=self._whole)
        self.running[number] = process
        self.all.append(process)
        self.numbers.add(number)
        return process

    def tend(self) -> None:
        """Start again what has ended by itself."""
        for number, process in list(self.running.items()):
            code = process.code
            if code is None:
                continue
            del self.running[number]
            if code in ENDS_FOR_GOOD:
                self.unwanted.append(f"w{number} ended with {code}")
            else:
                self.restarts += 1
                self.start(number)

    def memory_bytes(self, number: int) -> int:
        """Return the resident memory of an instance; 0 where it does not run."""
        process = self.running.get(number)
        if process is None or process.code is not None:
            return 0
        return int(psutil.Process(process.pid).memory_info().rss)

    def kill(self, number: int) -> int | None:
        """Kill -9, and wait until it is gone; it is not started again by itself."""
        process = self.running.pop(number)
        process.signal(signal.SIGKILL)
        return process.wait()

    def stop(self, number: int) -> int | None:
        """SIGTERM, and wait until it has ended."""
        process = self.running.pop(number)
        process.signal(signal.SIGTERM)
        return process.wait()

    def stop_all(self) -> list[int | None]:
        """SIGTERM to all; returns their exit codes."""
        for process in self.running.values():
            process.signal(signal.SIGTERM)
        codes = [process.wait() for process in self.running.values()]
        self.running = {}
        return codes

    def end(self) -> None:
        """Leave nothing behind."""
        for process in self.all:
            process.signal(signal.SIGKILL)
            process.wait()
