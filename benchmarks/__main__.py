"""``python -m benchmarks learning``, ``step``: one command for each table of figures."""

from __future__ import annotations

import sys

from benchmarks import learning, step

TABLES = {"learning": learning.main, "step": step.main}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TABLES:
        sys.exit(f"usage: python -m benchmarks {{{','.join(TABLES)}}} [options]")
    sys.exit(TABLES[sys.argv[1]](sys.argv[2:]))
