"""A Hopfield network as a memory: which part of random starts each memory draws to itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.basins import basin_fractions
from ctsigprop.analyses.plots import plot_basins, style
from ctsigprop.solution import root_attributes

N, MEMORIES, GAIN = 48, 6, 4.0


def energy(v: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return −½ VᵀWV + Σ ∫ artanh(V)/beta dV, which never rises (Hopfield 1984, eq. 7)."""
    v = v.clamp(-1 + 1e-12, 1 - 1e-12)
    integral = (v * torch.atanh(v) + (1 - v**2).log() / 2) / GAIN
    return integral.sum(-1) - ((v @ weights) * v).sum(-1) / 2


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    memories = torch.randint(0, 2, (MEMORIES, N), generator=generator).double() * 2 - 1
    weights = (memories.T @ memories) / N * (1 - torch.eye(N, dtype=torch.float64))
    network = ct.System(ct.hopfield("m", N, beta=GAIN), ct.Synapse("m", "m", weights))
    found = basin_fractions(network, {"u_m": (-1.0, 1.0)}, 60.0, samples=1000, most=64)

    ends = torch.as_tensor(np.sign(found["u_m_mean"].values))
    overlap = (ends @ memories.T / N).numpy()
    closest = np.abs(overlap).argmax(1)
    sign = np.sign(overlap[np.arange(len(ends)), closest])
    exact = np.abs(overlap).max(1) > 0.95
    kinds = np.where(exact, np.where(sign > 0, 0, 1), 2).astype(np.int8)
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "memory mirror_image spurious"}
    one = {"units": "1"}
    found = found.assign(recalled=("attractor", kinds, flags), overlap=("attractor", sign, one))
    found["overlap"].values[:] = overlap[np.arange(len(ends)), closest]
    number = {0: "memory_", 1: "mirror_of_", 2: "spurious_"}
    pairs = zip(kinds, closest, strict=True)
    names = [f"{number[k]}{c if k < 2 else i}" for i, (k, c) in enumerate(pairs)]
    found = found.assign_coords(outcome=["diverged", "undecided", *names])
    for k, kind in enumerate(("memories", "mirror images", "spurious states")):
        share = found["fraction"].values[2:][kinds == k].sum()
        print(f"{kind}: {(kinds == k).sum()} attractors, {share:.1%} of the starts")
    print(f"undecided: {found.attrs['undecided']} of {found.attrs['starts']}")

    start = {"u_m": torch.as_tensor(found["u_m_start"].values[:50])}
    run = ct.solve(network, start, torch.linspace(0, 60, 121, dtype=torch.float64))
    course = energy(torch.tanh(GAIN * run["u_m"]), weights)
    print(f"largest rise of the energy in a step: {course.diff(dim=0).max().item():.1e}")
    shape, axes = ("time", "sample"), {"time": ("time", run.t.numpy(), one)}
    falling = xr.Dataset({"energy": (shape, course.numpy(), one)}, axes)
    falling = falling.assign_coords(sample=("sample", np.arange(50), one))
    tree = xr.DataTree.from_dict({"/basins": found, "/energy": falling})
    tree.attrs = root_attributes(f"{MEMORIES} memories in {N} Hopfield neurons")
    ct.save(tree, folder / "hopfield_memories.zarr", overwrite=True)
    figure = plot_basins(tree)
    figure.set_size_inches(8.4, 4.8)
    left, right = figure.add_gridspec(1, 2)
    figure.axes[0].set_subplotspec(left)
    with style():
        ax = figure.add_subplot(right, xlabel="time", ylabel="energy", title="50 of the starts")
        ax.plot(falling["time"], falling["energy"], color="#0072B2", lw=0.6)
        ax.set_xlim(0, 20)
    figure.savefig(folder / "hopfield_memories.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
