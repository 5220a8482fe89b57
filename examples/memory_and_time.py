"""What one presentation costs as the network gets deeper, and as it takes longer.

Signal propagation learns on its way forward and keeps nothing: its memory is the same at any depth
and for any duration. Backpropagation keeps every layer, and, through a solver, every step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.cost import cost_by, slope
from ctsigprop.analyses.plots import plot_cost
from ctsigprop.learning.backprop import ContinuousBackpropagation
from ctsigprop.learning.losses import Hebbian
from ctsigprop.solution import root_attributes

DEPTHS, STEPS = [4, 8, 16, 32, 64], [10, 30, 100, 300, 10_000]
UNITS, CLASSES, SIZES = 32, 10, [32, 16, 16, 10]


def deep(rule: type, **options: object) -> Callable[[float], ct.Learner]:
    """Return what makes a learner of a depth."""
    return lambda depth: rule(
        ct.Layers.dense([UNITS] * int(depth) + [CLASSES], rho="tanh"), **options
    )


def forward(update: str) -> Callable[[float], ct.Learner]:
    """Return what makes continuous sigprop with a number of steps."""
    return lambda steps: ct.ContinuousSigprop(
        ct.sigprop_network(SIZES, eta=0.1), update=update, solver=ct.Euler(dt=14.4 / steps)
    )


def backward(steps: float) -> ct.Learner:
    """Return backpropagation through as many steps of the same solver."""
    network = ct.Layers.dense(SIZES, rho="hard")
    return ContinuousBackpropagation(network, end=14.4, solver=ct.Euler(dt=14.4 / steps))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    batch = torch.rand(20, UNITS), torch.arange(20) % CLASSES
    depth = {
        "sigprop": deep(ct.Sigprop),
        "sigprop, Hebbian": deep(ct.Sigprop, loss=Hebbian()),
        "backpropagation": deep(ct.Backpropagation),
    }
    steps = {
        "sigprop, ODE": forward("integrated"),
        "sigprop, two-point": forward("delta"),
        "backpropagation through the solver": backward,
    }
    by_depth = cost_by("depth", DEPTHS, depth, *batch)
    last = {"backpropagation through the solver": 300, "sigprop, ODE": 300}
    by_steps = cost_by("steps", STEPS, steps, *batch, repeats=1, most=last)
    for table, name in ((by_depth, "depth"), (by_steps, "steps")):
        for rule, exponent in slope(table, name).items():
            print(f"memory ~ {name}^{exponent:.2f}: {rule}")
    times = by_steps.seconds.sel(steps=300)
    for rule in list(steps)[:2]:
        ratio = float(times.sel(rule=rule) / times.sel(rule="backpropagation through the solver"))
        print(f"time of backpropagation through the solver x {ratio:.2f}: {rule}")
    tree = xr.DataTree.from_dict({"/depth": by_depth, "/steps": by_steps})
    tree.attrs = root_attributes("What one presentation of 20 samples costs")
    ct.save(tree, folder / "memory_and_time.zarr", overwrite=True)
    plot_cost(tree).savefig(folder / "memory_and_time.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
