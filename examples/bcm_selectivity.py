"""The BCM rule: shown two patterns in turn, a neuron comes to answer one of them alone.

    tau dy/dt = -y + w·x(t)     dw/dt = eta x y (y - theta)     tau_theta dtheta/dt = y² - theta

The threshold slides: it rises with the response, and what stays below it is weakened.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.plots import plot_time_courses

COUNT, HOLD = 700, 2.0


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    patterns = torch.tensor([[1.0, 0.2], [0.3, 1.0]], dtype=torch.float64)
    system = ct.System(
        ct.Source(
            "x", 2, ct.Held([k * HOLD for k in range(COUNT)], patterns.repeat(COUNT // 2, 1))
        ),
        ct.leaky_integrator("y", tau=0.2),
        ct.Synapse("x", "y", [[0.6, 0.3]], plasticity=ct.bcm(0.02, tau_theta=20.0)),
    )
    times = torch.linspace(0.0, COUNT * HOLD, 501, dtype=torch.float64)
    tree = ct.solve(system, t=times, solver=ct.RK4(dt=0.2)).to_xarray(
        title="BCM: selectivity for one of two patterns"
    )
    weights = tree["weights"].to_dataset()
    response = weights["W_y_x"].values[:, 0] @ patterns.T.numpy()
    tree["weights"] = xr.DataTree(
        weights.assign(response=(("time", "pattern"), response, {"units": "1"})).assign_coords(
            pattern=("pattern", np.arange(2), {"units": "1"})
        )
    )
    for k in range(2):
        print(
            f"response to pattern {k}: {response[0, k]:.2f} at first, {response[-1, k]:.2f} at last"
        )
    ct.save(tree, folder / "bcm_selectivity.zarr", overwrite=True)
    figure = plot_time_courses(tree, ["response", "theta_W_y_x", "W_y_x"])
    figure.savefig(folder / "bcm_selectivity.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
