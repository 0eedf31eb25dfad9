"""Benches on event logs that are not part of the repository: `python -m tests.bench accuracy --help`."""

from __future__ import annotations

import sys

from tests.bench import accuracy

BENCHES = {"accuracy": accuracy.main}


def main() -> int:
    """Run the bench that is named first."""
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHES:
        sys.stderr.write(f"usage: python -m tests.bench {{{','.join(BENCHES)}}} ...\n")
        return 64
    return BENCHES[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
