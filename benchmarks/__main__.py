"""``python -m benchmarks learning``, ``step``, ``dynamics``, ``W1``: a command for each table."""

from __future__ import annotations

import sys

from benchmarks import dynamics, learning, step, works

TABLES = {"learning": learning.main, "step": step.main, "dynamics": dynamics.main, "W1": works.main}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TABLES:
        sys.exit(f"usage: python -m benchmarks {{{','.join(TABLES)}}} [options]")
    sys.exit(TABLES[sys.argv[1]](sys.argv[2:]))
