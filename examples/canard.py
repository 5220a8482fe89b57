"""How a neuron begins to fire: the canard explosion of FitzHugh and Nagumo's equations.

Between rest and spikes the cycles grow through canards, which follow the middle branch of the
nullcline, while the current changes by less than a part in a million.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import bifurcation_diagram, findings
from ctsigprop.analyses.plots import plot_bifurcations, plot_cycles


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tree = bifurcation_diagram(
        ct.System(ct.fitzhugh_nagumo()),
        "I",
        (0.0, 0.875),  # to the middle of its symmetry
        ranges={"v": (-3, 3), "w": (-3, 3)},
        title="FitzHugh-Nagumo",
    )
    print(findings(tree))
    orbits = tree["cycles"].to_dataset()
    near = orbits.isel(orbit=abs(orbits.I - 0.324178).values < 2e-6)
    grown = (near.v_max - near.v_min).values
    print(f"I = 0.324178 ± 2e-6 holds cycles of height {grown.min():.2f} to {grown.max():.2f}")
    ct.save(tree, folder / "canard.zarr", overwrite=True)
    plot_bifurcations(tree).savefig(folder / "canard_diagram.png")
    plot_cycles(tree, "v", "w", 16).savefig(folder / "canard.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
