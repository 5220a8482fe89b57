"""``python -m benchmarks [W1 … W5]``, or the name of another table."""

from __future__ import annotations

import sys

from benchmarks import accuracy, dynamics, learning, scaling, step, works

TABLES = {
    "learning": learning.main,
    "accuracy": accuracy.main,
    "step": step.main,
    "dynamics": dynamics.main,
    "scaling": scaling.main,
}

if __name__ == "__main__":
    table = TABLES.get(sys.argv[1]) if len(sys.argv) > 1 else None
    sys.exit(table(sys.argv[2:]) if table else works.main(sys.argv[1:]))
