"""Fast neurons under a slow variable: what they creep along, and where they jump.

Frozen, the slow variable is a parameter of the fast ones. The whole system keeps to their stable
equilibria and cycles, and leaves them at folds and homoclinic points: a relaxation oscillator, a
burster, and a neuron that holds a memory by a Hebbian weight onto itself until the weight, which
decays, passes the fold at which the memory ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import findings
from ctsigprop.analyses.fast_slow import fast_slow
from ctsigprop.analyses.plots import plot_fast_slow


def frozen(title, system, slow, start, end, bounds, **options) -> xr.DataTree:
    times = torch.linspace(0.0, end, 4001, dtype=torch.float64)
    run = ct.solve(system, start, times, rtol=1e-5, atol=1e-7)
    tree = fast_slow(system, slow, run, bounds, title=title, **options)
    print(title, findings(tree), sep=": ")
    for k in tree["jumps/jump"].values:
        jump = tree["jumps"].to_dataset().isel(jump=k)
        print(
            f"  leaves at {slow} = {float(jump[slow]):.4f}, {float(jump.beyond):+.4f} past at most"
        )
    return tree


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "dx/dt = (z + x - x**3/3)/eps : 1\ndz/dt = -x : 1"
    oscillator = ct.System(ct.TextNeuron(text, eps=0.02))
    burster = ct.System(ct.hindmarsh_rose(r=0.0015))
    memory = ct.System(
        ct.rate("y", rho="tanh", bias=-0.1),
        ct.Synapse("y", "y", 4.0, plasticity=[ct.hebb(0.002), ct.weight_decay(0.004)], name="w"),
    )
    rest = {"x": -1.5, "y": -10.25, "z": 3.25}
    trees = {
        "oscillator": frozen("Relaxation oscillator", oscillator, "z", {"x": 2.0}, 4.0, (-1, 1)),
        "burster": frozen("Hindmarsh-Rose", burster, "z", rest, 600.0, (2.75, 3.65), near=0.1),
        "memory": frozen("Hebbian self-weight", memory, "w", {"s_y": 1.0}, 1000.0, (0, 4)),
    }
    tree = xr.DataTree(children=trees)
    tree.attrs = trees["burster"].attrs | {"title": "fast neurons under slow variables"}
    ct.save(tree, folder / "fast_slow.zarr", overwrite=True)
    plot_fast_slow(tree).savefig(folder / "fast_slow.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
