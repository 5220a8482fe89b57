"""Slow learning: the averaged run beside the full one, and what each costs.

    tau ds/dt = -s + W x(t)        dW/dt = eps (s x - s² W)

Weights are a thousand times slower than neurons, and the input has a period: averaging follows the
mean of dW/dt over the periodic motion of the neurons, in macro steps of many periods.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch
import xarray as xr

import ctsigprop as ct

mpl.use("Agg")
import matplotlib.pyplot as plt

EPS, PERIOD, INPUTS, NEURONS = 1e-3, 2.0, 6, 3


def network() -> ct.System:
    generator = torch.Generator().manual_seed(4)
    a, b, w = (torch.rand(n, INPUTS, generator=generator).double() for n in (1, 1, NEURONS))
    signal = ct.Rhythm(a[0], 1 / PERIOD, offset=b[0])
    return ct.System(
        ct.Source("x", INPUTS, signal),
        ct.leaky_integrator("y", NEURONS, tau=1.0),
        ct.Synapse("x", "y", w - 0.4, plasticity=ct.oja(EPS)),
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    times = torch.linspace(0.0, 2000.0, 51, dtype=torch.float64)
    solvers = {"full": ct.Tsit5(rtol=1e-5), "averaged": ct.Averaging(period=PERIOD)}
    runs, seconds = {}, {}
    for name, solver in solvers.items():
        start = time.process_time()
        runs[name] = ct.solve(network(), t=times, solver=solver)
        seconds[name] = time.process_time() - start
    estimate = runs["averaged"].statistics.estimates["total"]
    full, averaged = (runs[name]["W_y_x"] for name in solvers)
    size = full.square().mean((1, 2)).sqrt().max()
    error = (averaged - full).square().mean((1, 2)).sqrt() / size
    print(f"full {seconds['full']:.2f} s, averaged {seconds['averaged']:.3f} s of processor time")
    print(f"error {float(error.max()):.1e}, estimated {estimate:.1e}")
    tree = runs["averaged"].to_xarray(title="Slow weights, averaged over fast neurons")
    kept = tree["weights"].to_dataset()
    full_run = xr.zeros_like(kept["W_y_x"]) + full.numpy()
    full_run.attrs = kept["W_y_x"].attrs
    apart = ("time", error.numpy(), {"units": "1", "long_name": "error of the averaged weights"})
    tree["weights"] = xr.DataTree(kept.assign(W_y_x_full=full_run, error=apart))
    ct.save(tree, folder / "slow_learning.zarr", overwrite=True)

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colours = plt.get_cmap("viridis")(torch.linspace(0, 0.9, INPUTS).numpy())
    for j, colour in enumerate(colours):
        left.plot(times, full[:, 0, j], color=colour, lw=3, alpha=0.4)
        left.plot(times, averaged[:, 0, j], color=colour, lw=1, ls="--")
    left.set(xlabel="time / τ", ylabel="weights of one neuron", title="full (wide), averaged (--)")
    right.semilogy(times[1:], error[1:], label="error")
    right.axhline(estimate, color="C3", ls=":", label="estimate")
    right.set(xlabel="time / τ", ylabel="relative error of W", title=f"ε = {EPS:g}")
    right.legend(frameon=False)
    figure.savefig(folder / "slow_learning.png", dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
