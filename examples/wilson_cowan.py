"""Wilson and Cowan's pair of populations: a switch with a separatrix, and a rhythm.

The same equations with the two sets of couplings of the paper. With strong excitation a saddle lies
between rest and activity, and its stable manifold parts what returns from what switches on; with
the other set every orbit ends on a cycle.
"""

from __future__ import annotations

import sys
from pathlib import Path

import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.manifolds import ENDS, MANIFOLDS
from ctsigprop.analyses.phase import portrait
from ctsigprop.analyses.plots import plot_portrait
from ctsigprop.analyses.stability import TYPES
from ctsigprop.solution import root_attributes

SWITCH = {"c_1": 12.0, "c_2": 4.0, "c_3": 13.0, "c_4": 11.0}
SWITCH |= {"a_e": 1.2, "theta_e": 2.8, "a_i": 1.0, "theta_i": 4.0, "P": 0.0}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    panels = {
        "switch": portrait(
            ct.System(ct.wilson_cowan(**SWITCH)),
            {"E": (-0.05, 0.5), "I": (-0.05, 0.4)},
            title="two states, and the saddle between them",
        ),
        "rhythm": portrait(
            ct.System(ct.wilson_cowan()),
            {"E": (-0.05, 0.5), "I": (-0.05, 0.5)},
            orbits=9,
            title="a cycle",
        ),
    }
    for name, panel in panels.items():
        found = panel["fixed_points"]
        for k in found["fp"].values:
            e, i = found["E"].values[k, 0], found["I"].values[k, 0]
            kind = TYPES[found["type"].values[k]].replace("_", " ")
            radius = found["radius"].values[k]
            print(f"{name}: {kind} at E = {e:.6f}, I = {i:.6f}, alone within {radius:.2g}")
    curves = panels["switch"]["manifolds"]
    for k in curves["branch"].values:
        kind, ended = MANIFOLDS[curves["manifold"].values[k]], ENDS[curves["ended"].values[k]]
        print(f"switch: {kind} manifold ends by '{ended}' at point {curves['end'].values[k]}")
    tree = xr.DataTree(children=panels)
    tree.attrs = root_attributes("Wilson and Cowan 1972: a switch and a rhythm")
    ct.save(tree, folder / "wilson_cowan.zarr", overwrite=True)
    plot_portrait(tree).savefig(folder / "wilson_cowan.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
