"""Oja's rule in full: a neuron and its weights move together, and find the principal component.

    tau dy/dt = -y + w·x(t)        dw/dt = eta (y x - y² w)

Inputs are drawn from a covariance and held, one after another.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.plots import plot_time_courses

COUNT, HOLD = 1200, 1.0


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    covariance = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]]).double()
    draws = torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = draws @ torch.linalg.cholesky(covariance).T
    system = ct.System(
        ct.Source("x", 3, ct.Held([k * HOLD for k in range(COUNT)], inputs)),
        ct.leaky_integrator("y", tau=0.2),
        ct.Synapse("x", "y", [[0.1, -0.2, 0.3]], plasticity=ct.oja(0.005)),
    )
    times = torch.linspace(0.0, COUNT * HOLD, 601, dtype=torch.float64)
    tree = ct.solve(system, t=times, solver=ct.RK4(dt=0.2)).to_xarray(
        title="Oja's rule turns the weights to the first principal component"
    )
    # of the inputs that were shown, whose covariance is that of the sample
    principal = torch.linalg.eigh(inputs.T @ inputs / COUNT).eigenvectors[:, -1].numpy()
    weights = tree["weights"].to_dataset()
    w = weights["W_y_x"].values[:, 0]
    length = np.linalg.norm(w, axis=1)
    angle = np.degrees(np.arccos(np.clip(np.abs(w @ principal) / length, 0.0, 1.0)))
    tree["weights"] = xr.DataTree(
        weights.assign(
            angle=("time", angle, {"units": "deg"}), length=("time", length, {"units": "1"})
        )
    )
    print(f"angle to the principal component: {angle[0]:.1f}° at first, {angle[-1]:.1f}° at last")
    print(f"length of the weights: {length[-1]:.3f}")
    ct.save(tree, folder / "oja_principal_component.zarr", overwrite=True)
    figure = plot_time_courses(tree, ["W_y_x", "length", "angle"])
    figure.savefig(folder / "oja_principal_component.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
