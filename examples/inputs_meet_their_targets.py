"""The sigprop network moves inputs and their targets together, layer by layer.

Samples and the contexts of their classes go forward through the same layers. Each layer brings a
sample nearer to the context of its own class and away from the others, and hands both on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.plots import plot_propagation
from ctsigprop.analyses.propagation import propagation
from ctsigprop.data import digits
from ctsigprop.solution import root_attributes

EPOCHS = 6


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    task = digits()
    x, labels = (torch.as_tensor(task.test[name].values) for name in ("input", "label"))
    learner = ct.Sigprop(ct.Layers.dense([64, 100, 100, 100, 10], seed=0))
    measured = [propagation(learner, x, labels)]
    for epoch in range(EPOCHS):
        run = ct.train(learner, task, epochs=1, decay="none", noise=0.1, seed=epoch)
        measured.append(propagation(learner, x, labels))
    print(f"test accuracy {run.test_accuracy[-1]:.1%}")
    print("correlation with the own context, by layer:", measured[-1].own.values.round(2))
    epochs = xr.Variable("epoch", range(EPOCHS + 1), {"units": "1"})
    varying = xr.concat([m.drop_vars("label") for m in measured], epochs)
    tree = xr.DataTree.from_dict({"propagation": varying.assign(label=measured[0].label)})
    tree.attrs = root_attributes("Digits and their targets on their way through the layers")
    ct.save(tree, folder / "inputs_meet_their_targets.zarr", overwrite=True)
    plot_propagation(tree).savefig(folder / "inputs_meet_their_targets.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
