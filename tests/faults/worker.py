"""A worker's process: the command `tidemill run`, with hooks, a mutant or a disturbance where the scenario asks for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple


class Orders(NamedTuple):
    """What a worker's process is told."""

    config: str
    log: str
    hits: str
    hooks: tuple[str, ...] = ()
    mutant: str = ""
    disturbance: str = ""

    def arguments(self) -> list[str]:
        """As arguments of a command."""
        return [self.config, self.log, self.hits, ",".join(self.hooks), self.mutant, self.disturbance]

    @classmethod
    def read(cls, arguments: list[str]) -> Orders:
        """From arguments of a command."""
        config, log, hits, hooks, mutant, disturbance = arguments
        return cls(config, log, hits, tuple(hook for hook in hooks.split(",") if hook), mutant, disturbance)


def work(orders: Orders) -> None:
    """Run the command; its output goes to the log file. Never returns."""
    log = os.open(orders.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from consumer.cli import main

    if orders.hooks or orders.mutant or orders.disturbance:
        _change(orders)
    code = main(["run", "-c", orders.config])
    sys.stdout.write(f"exit code {code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a client that hangs do not keep the process


def _change(orders: Orders) -> None:
    """Make it another build. What this imports is what the command would load."""
    from consumer.loading import loading

    with loading():
        from tests.faults.disturbances import DISTURBANCES
        from tests.faults.hooks import Hook, arm
        from tests.faults.mutants import MUTANTS

    if orders.disturbance:
        DISTURBANCES[orders.disturbance]()
    if orders.mutant:
        MUTANTS[orders.mutant]()
    for text in orders.hooks:
        arm(Hook.read(text), Path(orders.hits))


if __name__ == "__main__":
    work(Orders.read(sys.argv[1:]))
