"""`python -m tests.faults --scenario NAME|all --seed S [--long]`: faults on real Kafka, and what the checker says."""

from __future__ import annotations

import argparse
import sys
import time

from tests.faults.catalogue import SCENARIOS
from tests.faults.mutants import MUTANTS
from tests.faults.run import run_scenario


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
    for name in names:
        begin = time.monotonic()
        scenario = SCENARIOS[name]
        with scenario.broker() as broker:
            verdict = run_scenario(
                scenario, broker, given.seed, long=given.long, whole=given.whole, mutant=given.mutant, keep=given.keep
            )
        say(f"{name} (seed {given.seed}, {time.monotonic() - begin:.0f} s)", *verdict.lines())
        broken += [] if verdict.ok else [name]
    say(
        f"{len(names) - len(broken)} of {len(names)} scenarios as they must be", *(f"broken: {name}" for name in broken)
    )
    return 1 if broken else 0


def say(*lines: str) -> None:
    """Print lines at once: a soak is watched while it runs."""
    print(*lines, sep="\n", flush=True)  # noqa: T201 - the answer to the command


if __name__ == "__main__":
    sys.exit(main())
