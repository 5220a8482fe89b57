"""What a trained network computes with: the fixed point that each presented digit leads it to.

A network of one hidden layer learns digits by sigprop. Then its weights are held, and for every
presented image the minima of its speed are looked for from the states that it goes through.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.plots import plot_reduced_flow
from ctsigprop.analyses.reduced import reduced_flow
from ctsigprop.analyses.slow_points import KINDS, slow_points
from ctsigprop.analyses.stability import STABILITIES
from ctsigprop.data import digits

SHOWN = 2  # images of each class
SIZES = [64, 64, 10]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    task = digits()
    learner = ct.ContinuousSigprop(ct.sigprop_network(SIZES, eta=[0.25, 0.1]))
    run = ct.train(learner, task, epochs=3)
    print(f"test accuracy {run.test_accuracy[-1]:.1%}")

    network = ct.sigprop_network(SIZES)
    held = {k: w.double() * (k[0] == "W") for k, w in learner.weights.items()}  # no tags
    pixels, labels = task.test["input"].values, task.test["label"].values
    chosen = np.concatenate([np.flatnonzero(labels == k)[:SHOWN] for k in range(10)])
    images = torch.as_tensor(pixels[chosen]).double()
    rest = {name: torch.zeros(len(chosen), n).double() for name, n in (("s_h1", 64), ("s_y", 10))}
    silent = torch.zeros(10).double()
    flow = ct.solve(
        network,
        rest | held,
        torch.linspace(0, 8, 81),
        inputs={"x": images, "c": silent.expand(len(chosen), -1)},
    )
    found = []
    for k, image in enumerate(images):
        starts = {name: flow[name][:, k] for name in rest}
        points = slow_points(network, starts, count=24, at=held, inputs={"x": image, "c": silent})
        found.append(points.drop_vars(held).drop_vars("point"))
    points = xr.concat(found, "point", data_vars="minimal", coords="minimal", join="exact")
    points["label"] = ("point", np.repeat(labels[chosen], [p.sizes["point"] for p in found]))
    points["label"].attrs["units"] = "1"
    points = points.assign_coords(point=("point", np.arange(points.sizes["point"]), {"units": "1"}))
    fixed = points["kind"].values == KINDS.index("fixed_point")
    stable = points["stability"].values == STABILITIES.index("stable")
    right = points["s_y"].values.argmax(-1) == points["label"].values
    slowest = points["eigenvalue"].values[:, -1, 0]
    print(f"{len(images)} images, {fixed.sum()} fixed points, {(fixed & stable).sum()} stable")
    print(f"their largest output is the presented class: {right[fixed].mean():.0%}")
    print(f"slowest mode: {slowest.min():.3f} to {slowest.max():.3f} per time constant")

    tree = reduced_flow(
        flow,
        at=held,
        t=0.0,
        inputs={"x": images[0], "c": silent},
        title=f"a trained network, its flow while a {labels[chosen[0]]} is shown",
    )
    tree["slow_points"] = xr.DataTree(points)
    ct.save(tree, folder / "trained_network_fixed_points.zarr", overwrite=True)
    plot_reduced_flow(tree).savefig(folder / "trained_network_fixed_points.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
