"""``python -m benchmarks [W1 … W5]``, or ``learning``, ``step``, ``dynamics``: a table each."""

from __future__ import annotations

import sys

from benchmarks import dynamics, learning, step, works

TABLES = {"learning": learning.main, "step": step.main, "dynamics": dynamics.main}

if __name__ == "__main__":
    table = TABLES.get(sys.argv[1]) if len(sys.argv) > 1 else None
    sys.exit(table(sys.argv[2:]) if table else works.main(sys.argv[1:]))
