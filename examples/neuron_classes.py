"""Hodgkin's two classes of neurons, by how firing begins: Morris and Lecar's equations.

Class I fires as slowly as one likes: its cycle is born on a saddle-node. Class II starts at a
finite rate: a Hopf point, with a cycle that waits beside the resting state.
"""

from __future__ import annotations

import sys
from pathlib import Path

import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import bifurcation_diagram, findings
from ctsigprop.analyses.plots import plot_bifurcations, plot_frequencies

CLASSES = {
    "class I": {"g_Ca": 4.0, "V_3": 12.0, "V_4": 17.4, "phi": 1 / 15},
    "class II": {"g_Ca": 4.4, "V_3": 2.0, "V_4": 30.0, "phi": 0.04},
}
"""Rinzel and Ermentrout (1998), in Koch and Segev, Methods in Neuronal Modeling, chapter 7."""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    trees = {}
    for name, parameters in CLASSES.items():
        trees[name] = bifurcation_diagram(
            ct.System(ct.morris_lecar(**parameters)),
            "I",
            (0.0, 250.0),
            ranges={"v": (-90, 70), "w": (-0.5, 1.5)},
            title=f"Morris-Lecar, {name}",
        )
        print(f"{name}: {findings(trees[name])}")
        picture = f"neuron_{name.replace(' ', '_')}.png"
        plot_bifurcations(trees[name]).savefig(folder / picture)
    both = xr.DataTree.from_dict(dict(zip(("class_1", "class_2"), trees.values(), strict=True)))
    both.attrs = trees["class I"].attrs | {"title": "Morris-Lecar neurons of class I and II"}
    ct.save(both, folder / "neuron_classes.zarr", overwrite=True)
    plot_frequencies(trees).savefig(folder / "neuron_classes.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
