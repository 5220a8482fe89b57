"""The way to chaos: period doublings of Rössler's equations, and Feigenbaum's ratio between them.

Each branch of cycles leaves the one before at a period doubling; the intervals between these shrink
by a factor that tends to 4.669.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import KINDS, bifurcation_diagram, findings
from ctsigprop.analyses.cycles import limit_cycle
from ctsigprop.analyses.plots import plot_bifurcations

EQUATIONS = "dx/dt = -y - z : 1\ndy/dt = x + a*y : 1\ndz/dt = a + z*(x - c) : 1"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    system = ct.System(ct.TextNeuron(EQUATIONS, a=0.2, c=2.5))
    tree = bifurcation_diagram(
        system,
        "c",
        (2.0, 4.5),
        ranges={"x": (-15, 15), "y": (-15, 15), "z": (-1, 40)},
        cycles=[limit_cycle(system, {"x": 1.0})],
        doublings=4,
        title="Rössler's equations, a = b = 0.2",
    )
    print(findings(tree))
    found = tree["bifurcations"].to_dataset()
    doublings = found.c.values[found.kind.values == KINDS.index("period_doubling")]
    gaps = np.diff(doublings)
    print(f"ratios of the intervals: {(gaps[:-1] / gaps[1:]).round(3).tolist()}")
    ct.save(tree, folder / "roessler_cascade.zarr", overwrite=True)
    plot_bifurcations(tree, "x").savefig(folder / "roessler_cascade.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
