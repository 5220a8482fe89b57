"""One model on every back end, and the difference between them.

FitzHugh-Nagumo, integrated by our own methods in torch, by torchdiffeq, by SciPy and by Brian2;
each is compared with Dormand and Prince's eighth order method at a tolerance of 1e-12.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

import ctsigprop as ct
from ctsigprop.solution import root_attributes

SOLVERS = {
    "Tsit5": ct.Tsit5(rtol=1e-8, atol=1e-10),
    "Dopri5": ct.Dopri5(rtol=1e-8, atol=1e-10),
    "RK4": ct.RK4(dt=0.01),
    "torchdiffeq dopri5": ct.TorchDiffEq("dopri5", rtol=1e-8, atol=1e-10),
    "torchdiffeq dopri8": ct.TorchDiffEq("dopri8", rtol=1e-8, atol=1e-10),
    "SciPy LSODA": ct.SciPy("LSODA", rtol=1e-8, atol=1e-10),
    "SciPy Radau": ct.SciPy("Radau", rtol=1e-8, atol=1e-10),
    "Brian2 rk4": ct.Brian2("rk4", dt=0.01),
}


def main(out: Path) -> None:
    model = ct.System(ct.fitzhugh_nagumo(I=0.5))
    t = torch.linspace(0, 100, 201, dtype=torch.float64)
    reference = ct.solve(model, t=t, solver=ct.SciPy("DOP853", rtol=1e-12, atol=1e-12))
    rows = [ct.solve(model, t=t, solver=solver)["v"][:, 0].numpy() for solver in SOLVERS.values()]
    truth = reference["v"][:, 0].numpy()
    tree = reference.to_xarray("FitzHugh-Nagumo on every back end")
    tree["difference"] = xr.Dataset(
        {"v_difference": (("solver", "time"), np.array(rows) - truth, {"units": "1"})},
        coords={"solver": list(SOLVERS), "time": tree["simulation"]["time"]},
    )
    tree.attrs = root_attributes("FitzHugh-Nagumo on every back end") | tree.attrs
    out.mkdir(parents=True, exist_ok=True)
    ct.save(tree, out / "all_back_ends.zarr", overwrite=True)
    draw(tree).savefig(out / "all_back_ends.png", dpi=150)


def draw(tree: xr.DataTree) -> Figure:
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    above.plot(tree["simulation"]["time"], tree["simulation"]["v"], color="black")
    above.set(ylabel="v", title=tree.attrs["title"])
    for solver in tree["difference"]["solver"].values:
        gap = abs(tree["difference"]["v_difference"].sel(solver=solver))
        print(f"{solver:20s} largest difference {float(gap.max()):.1e}")
        below.semilogy(gap["time"], np.maximum(gap, 1e-16), label=f"{solver} ({gap.max():.0e})")
    below.set(xlabel="time (time units)", ylabel="|v − reference|", ylim=(1e-14, 1e-2))
    below.legend(ncols=2, fontsize=8, loc="lower right")
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
