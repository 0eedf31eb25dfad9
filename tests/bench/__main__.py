"""Benches on event logs and on a simulator: `python -m tests.bench accuracy|drift --help`."""

from __future__ import annotations

import sys

from tests.bench import accuracy, drift

BENCHES = {"accuracy": accuracy.main, "drift": drift.main}


def main() -> int:
    """Run the bench that is named first."""
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHES:
        sys.stderr.write(f"usage: python -m tests.bench {{{','.join(BENCHES)}}} ...\n")
        return 64
    return BENCHES[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
