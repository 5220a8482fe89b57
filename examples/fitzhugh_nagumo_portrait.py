"""The phase plane of a FitzHugh-Nagumo neuron that fires: nullclines, fixed point, orbits."""

from __future__ import annotations

import sys
from pathlib import Path

import ctsigprop as ct
from ctsigprop.analyses.phase import portrait
from ctsigprop.analyses.plots import plot_portrait
from ctsigprop.analyses.stability import TYPES


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    neuron = ct.System(ct.fitzhugh_nagumo(I=0.5))
    tree = portrait(
        neuron, {"v": (-2.5, 2.5), "w": (-1.0, 2.0)}, title="FitzHugh-Nagumo neuron, I = 0.5"
    )
    found = tree["fixed_points"]
    for k in found["fp"].values:
        v, w = found["v"].values[k, 0], found["w"].values[k, 0]
        print(f"{TYPES[found['type'].values[k]].replace('_', ' ')} at v = {v:.6f}, w = {w:.6f}")
    ct.save(tree, folder / "fitzhugh_nagumo_portrait.zarr", overwrite=True)
    plot_portrait(tree).savefig(folder / "fitzhugh_nagumo_portrait.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
