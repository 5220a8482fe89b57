"""How neurons that have no feedback connections still receive a global learning signal.

Three layers learn one association. The error of the output enters the first layer as one more
forward input; the second layer, which nothing leads back to, feels it through the first. What
every synapse learns, once the circuit has learned for a while, is set beside the gradient that
backpropagation would send backwards through it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.alignment import alignment, descent
from ctsigprop.analyses.circuit import connections, currents
from ctsigprop.analyses.plots import plot_changes, plot_circuit

SIZES = [4, 16, 12, 3]


def presentation(
    learner: ct.ContinuousSigprop, x: torch.Tensor, labels: torch.Tensor
) -> ct.Solution:
    """Run one presentation: free until t = 8.4, with the target at the output from then on."""
    context = torch.nn.functional.one_hot(labels, SIZES[-1]).float()
    zeros = {f"s_{n.name}": torch.zeros(len(x), n.size) for n in learner.network.neurons}
    inputs, times = {"x": x, "c": context}, np.linspace(0, 20, 201)
    return ct.solve(learner.network, zeros | learner.weights, times, inputs=inputs)


def learned(x: torch.Tensor, labels: torch.Tensor) -> tuple[xr.Dataset, ct.ContinuousSigprop]:
    """Let the circuit learn, and compare its next step with that of backpropagation."""
    network = ct.sigprop_network(SIZES, rho="tanh", eta=0.05, seed=0)
    learner = ct.ContinuousSigprop(network, update="delta")
    angles = [alignment(learner, x, labels).angle]
    for _ in range(300):
        learner.present(x, labels)
    angles.append(alignment(learner, x, labels).angle)
    gradient, before = descent(learner, x, labels), dict(learner.weights)
    learner.present(x, labels)
    names = [name for name in gradient if not name.endswith("_one")]
    ours = torch.cat([(learner.weights[n] - before[n]).flatten() / 0.05 for n in names])
    theirs = torch.cat([gradient[n].flatten() for n in names])
    units, owners = {"units": "1"}, [n for n in names for _ in range(gradient[n].numel())]
    stages = xr.Variable("stage", ["before", "after"])
    found = xr.Dataset(
        {
            "learned": ("synapse", ours, units | {"long_name": "signal propagation"}),
            "gradient": ("synapse", theirs, units | {"long_name": "backpropagation"}),
            "weight": ("synapse", owners),
            "angle": xr.concat(angles, stages),
        },
        coords={"synapse": ("synapse", range(len(owners)), units)},
    )
    print("angles by layer, before and after:", found.angle.values.round().tolist())
    return found, learner


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    x = torch.rand(6, SIZES[0], generator=torch.Generator().manual_seed(3))
    labels = torch.arange(6) % SIZES[-1]
    changes, learner = learned(x, labels)
    run = presentation(learner, x, labels)
    tree = run.to_xarray("A learning signal that travels only forward")
    tree["connections"], tree["currents"] = connections(run.system), currents(run)
    tree["changes"] = changes
    ct.save(tree, folder / "signal_without_feedback.zarr", overwrite=True)
    plot_circuit(tree).savefig(folder / "signal_without_feedback.png")
    plot_changes(tree).savefig(folder / "signal_without_feedback_changes.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
