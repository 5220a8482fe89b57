"""What learning rules read, and where the updates of signal propagation point.

The locality of four rules is measured from their Jacobians; and while small networks learn digits,
the angle between the updates of signal propagation and those of backpropagation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.alignment import alignment
from ctsigprop.analyses.plausibility import SCOPES, locality, report
from ctsigprop.analyses.plots import plot_alignment, plot_locality
from ctsigprop.data import digits

EPOCHS, SEEDS = 6, 3


def compare_rules() -> xr.Dataset:
    rules = {
        "Hebb": ct.hebb(0.1),
        "Oja": ct.oja(0.1),
        "Oja's subspace": ct.OjaSubspace(0.1),
        "Sanger": ct.Sanger(0.1),
    }
    measured = []
    for name, rule in rules.items():
        synapse = ct.Synapse("x", "y", 0.1, plasticity=rule)
        system = ct.System(ct.Source("x", 5), ct.leaky_integrator("y", 4), synapse)
        measured.append(locality(system, "W_y_x").assign_coords(rule=[name]))
        print(f"{name}: {SCOPES[int(measured[-1].scope[0])]}")
    return xr.concat(measured, "rule")


def follow_learning(seed: int) -> xr.Dataset:
    task = digits()
    x, labels = (torch.as_tensor(task.train[name].values[:200]) for name in ("input", "label"))
    learner = ct.ContinuousSigprop(ct.sigprop_network([64, 48, 48, 10], eta=0.3, seed=seed))
    angles = [alignment(learner, x, labels)]
    for epoch in range(EPOCHS):
        run = ct.train(learner, task, epochs=1, decay="none", seed=epoch)
        angles.append(alignment(learner, x, labels))
    print(f"seed {seed}: test accuracy {run.test_accuracy[-1]:.1%}")
    return xr.concat(angles, xr.Variable("epoch", range(EPOCHS + 1), {"units": "1"}))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    seeds = xr.Variable("seed", range(SEEDS), {"units": "1"})
    tree = report(
        compare_rules(),
        xr.concat([follow_learning(seed) for seed in range(SEEDS)], seeds),
        title=f"Signal propagation on digits, {SEEDS} networks",
    )
    ct.save(tree, folder / "locality.zarr", overwrite=True)
    plot_locality(tree).savefig(folder / "locality.png")
    plot_alignment(tree).savefig(folder / "alignment.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
