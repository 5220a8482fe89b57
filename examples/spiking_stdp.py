"""A spiking neuron whose input synapses compete: pair STDP drives their weights apart.

A hundred Poisson inputs at 15 Hz excite one leaky integrate-and-fire neuron. Spikes that come just
before its own strengthen their synapse, spikes that come after weaken it, and the weights end up
near one bound or the other (Song, Miller & Abbott 2000).

Run: python examples/spiking_stdp.py [folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from xarray import DataTree

import ctsigprop as ct
from ctsigprop.models.spiking import SpikingNetwork, simulate

NETWORK = SpikingNetwork(inputs=100, rate=15.0, g_max=0.15, t_ref=2.0, A_plus=0.015, A_minus=0.0157)
DURATION, WINDOW = 30_000.0, 200.0  # ms


def draw(tree: DataTree) -> Figure:
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    (raster, weights), (voltage, histogram) = figure.subplots(2, 2)

    spikes, v = tree["spikes"].dataset, tree["simulation/v"].isel(neuron=0)
    start = tree.attrs["duration"] - WINDOW
    v = v.isel(time=np.flatnonzero(v.time > start))
    spikes = spikes.isel(spike=np.flatnonzero(spikes.time > start))
    entered = spikes.isel(spike=np.flatnonzero(spikes.population == 0))
    fired = spikes.time[spikes.population == 1]
    raster.plot(entered.time - start, entered.unit, ".", ms=3, color="0.3")
    raster.set(title="Inputs, at the end of the run", ylabel="input channel")
    voltage.plot(v.time - start, v, lw=1, label="voltage")
    voltage.plot(fired - start, np.full(fired.size, -53.0), "v", color="C3", ms=5, label="spike")
    voltage.set(title="The neuron", ylabel=f"voltage ({v.units})", ylim=(-61, -51))
    voltage.legend(loc="upper right", ncols=2)
    for panel in (raster, voltage):
        panel.set(xlabel=f"time after {start / 1e3:g} s ({v.time.units})", xlim=(0, WINDOW))

    w = tree["weights/w"].isel(post=0)
    order = np.argsort(w[-1].values)
    image = weights.pcolormesh(
        w.time / 1e3, np.arange(w.sizes["pre"]), w.values[:, order].T, shading="nearest"
    )
    figure.colorbar(image, ax=weights, label="weight (1)")
    weights.set(title="Learning weights", xlabel="time (s)", ylabel="input, by final weight")

    bins = np.linspace(0, 1, 21)
    for row, label in ((0, "start"), (-1, "end")):
        histogram.hist(w[row], bins, histtype="step", lw=2, label=label)
    histogram.set(title="Distribution of the weights", xlabel="weight (1)", ylabel="synapses")
    histogram.legend()
    return figure


def main(folder: Path) -> None:
    tree = simulate(NETWORK, DURATION, dt=0.5, every=500.0, seed=0)
    path = ct.save(tree, folder / "spiking_stdp.zarr", overwrite=True)
    draw(ct.open(path)).savefig(folder / "spiking_stdp.png", dpi=130)
    final = tree["weights/w"].isel(time=-1)
    print(f"weights below 0.2: {int((final < 0.2).sum())}, above 0.8: {int((final > 0.8).sum())}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
