"""`python -m tests.faults --scenario NAME|all --seed S [--long]`: faults on real Kafka, and what the checker says."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from tests.faults.catalogue import SCENARIOS
from tests.faults.mutants import MUTANTS
from tests.faults.run import run_scenario

if TYPE_CHECKING:
    from tests.faults.run import Scenario


def main() -> int:
    """Run scenarios; exit code 1 where an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--scenario", default="all", help=f"all, or some of: {', '.join(SCENARIOS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--long", action="store_true", help="20,000 events and more faults each")
    parser.add_argument("--whole", action="store_true", help="start each worker as a command, libraries and all")
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS], help="switch a rule off in the workers")
    parser.add_argument("--keep", action="store_true", help="keep logs and state also where all is well")
    given = parser.parse_args()
    names = list(SCENARIOS) if given.scenario == "all" else given.scenario.split(",")
    broken = []
    with Brokers() as brokers:
        for name in names:
            begin = time.monotonic()
            scenario = SCENARIOS[name]
            broker = brokers.of(scenario)
            verdict = run_scenario(
                scenario, broker, given.seed, long=given.long, whole=given.whole, mutant=given.mutant, keep=given.keep
            )
            say(f"{name} (seed {given.seed}, {time.monotonic() - begin:.0f} s)", *verdict.lines())
            if not verdict.ok:
                broken.append(name)
                brokers.end()
    say(
        f"{len(names) - len(broken)} of {len(names)} scenarios as they must be", *(f"broken: {name}" for name in broken)
    )
    return 1 if broken else 0


class Brokers:
    """One broker for scenarios in a row that want the same kind; a new one after a scenario that went wrong."""

    def __init__(self) -> None:
        self._kind: Any = None
        self._broker: Any = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def of(self, scenario: Scenario) -> Any:
        """Return a running broker of the kind that a scenario wants."""
        if scenario.broker is not self._kind:
            self.end()
            self._kind, self._broker = scenario.broker, self._open.enter_context(scenario.broker())
        return self._broker

    def end(self) -> None:
        """End the one that runs."""
        self._open.close()
        self._kind = None


def say(*lines: str) -> None:
    """Print lines at once: a soak is watched while it runs."""
    print(*lines, sep="\n", flush=True)  # noqa: T201 - the answer to the command


if __name__ == "__main__":
    sys.exit(main())
