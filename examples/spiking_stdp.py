"""A spiking neuron whose input synapses compete: pair STDP drives their weights apart.

Two hundred Poisson inputs at 10 Hz excite one leaky integrate-and-fire neuron. Inputs that happen
to fire before it are strengthened, the others weakened (Song, Miller & Abbott 2000).

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

NETWORK = SpikingNetwork(inputs=200, rate=10.0, g_max=0.08, t_ref=2.0, A_plus=0.02, A_minus=0.0206)
DURATION, WINDOW = 30_000.0, 200.0  # ms


def draw(tree: DataTree) -> Figure:
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    (raster, weights), (voltage, histogram) = figure.subplots(2, 2)

    spikes, v = tree["spikes"].dataset, tree["simulation/v"].isel(neuron=0)
    end = float(v.time[-1])
    spikes = spikes.isel(spike=np.flatnonzero(spikes.time > end - WINDOW))
    fired = spikes.time[spikes.population == 1]
    entered = spikes.isel(spike=np.flatnonzero(spikes.population == 0))
    raster.plot(entered.time / 1e3, entered.unit, ".", ms=3, color="0.3")
    raster.set(title="Input spikes, end of the run", xlabel="time (s)", ylabel="input channel")

    last = v.isel(time=np.flatnonzero(v.time > end - WINDOW))
    voltage.plot(last.time / 1e3, last, lw=1, label="voltage")
    voltage.plot(fired / 1e3, np.full(fired.size, -52.0), "v", color="C3", ms=5, label="spike")
    voltage.set(title="The neuron", xlabel="time (s)", ylabel=f"voltage ({v.units})")
    voltage.legend(loc="lower right", ncols=2)
    raster.set_xlim(voltage.get_xlim())

    w = tree["weights/w"].isel(post=0)
    order = np.argsort(w.isel(time=-1).values)
    image = weights.pcolormesh(
        w.time / 1e3, np.arange(w.sizes["pre"]), w.values[:, order].T, shading="nearest"
    )
    figure.colorbar(image, ax=weights, label=f"weight ({w.units})")
    weights.set(title="Weights while it learns", xlabel="time (s)", ylabel="input, by final weight")

    bins = np.linspace(0, 1, 21)
    for row, label in ((0, "start"), (-1, "end")):
        histogram.hist(w.isel(time=row), bins, histtype="step", lw=2, label=label)
    histogram.set(title="Distribution", xlabel=f"weight ({w.units})", ylabel="synapses (count)")
    histogram.legend()
    return figure


def main(folder: Path) -> None:
    tree = simulate(NETWORK, DURATION, dt=0.5, every=500.0, seed=1)
    path = ct.save(tree, folder / "spiking_stdp.zarr", overwrite=True)
    draw(ct.open(path)).savefig(folder / "spiking_stdp.png", dpi=130)
    final = tree["weights/w"].isel(time=-1)
    print(f"weights below 0.2: {int((final < 0.2).sum())}, above 0.8: {int((final > 0.8).sum())}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
