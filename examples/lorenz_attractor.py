"""The Lorenz attractor: a section through it, the tent of its maxima, exponents and dimension."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

import ctsigprop as ct
from ctsigprop.analyses.lyapunov import lyapunov_spectrum
from ctsigprop.analyses.plots import style
from ctsigprop.analyses.sections import poincare_section, return_map
from ctsigprop.solution import root_attributes

TEXT = "dx/dt = s*(y - x) : 1\ndy/dt = x*(r - z) - y : 1\ndz/dt = x*y - b*z : 1"


def draw(tree: xr.DataTree) -> Figure:
    course, points = tree["trajectory"], tree["section"]
    tent, exponents = tree["return_map"], tree["lyapunov"]
    with style():
        figure = Figure(figsize=(9.6, 3.4))
        attractor, maxima, convergence = figure.subplots(1, 3)
        attractor.plot(course["x"][:, 0], course["z"][:, 0], lw=0.4)
        attractor.plot(points["x"][:, 0], points["z"][:, 0], ".", ms=2, color="#D55E00")
        attractor.set(xlabel="$x$", ylabel="$z$", title="attractor, and the maxima of $z$")
        ends = [tent["current"].min(), tent["current"].max()]
        maxima.plot(ends, ends, color="#8C8C8C", lw=0.9)
        maxima.plot(tent["current"], tent["next"], "k.", ms=2)
        maxima.set(xlabel="maximum of $z$", ylabel="next maximum", title="return map")
        for order in (1, 2):
            values = exponents["finite_time_exponent"].sel(order=order)
            final = exponents["exponent"].sel(order=order).item()
            label = rf"$\lambda_{order}$ = {final:.3f}"
            convergence.plot(exponents["time"], values, label=label)
        last = exponents["exponent"].sel(order=3).item()
        convergence.plot([], [], " ", label=rf"$\lambda_3$ = {last:.3f}")
        convergence.plot([], [], " ", label=f"dimension {exponents['kaplan_yorke'].item():.3f}")
        convergence.set(xlabel="time of averaging", ylabel=r"$\lambda$", title="exponents")
        convergence.legend(loc="center right")
    return figure


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    system = ct.System(ct.TextNeuron(TEXT, s=10.0, r=28.0, b=8 / 3))
    noise = np.random.default_rng(0).normal(size=(2, 32, 1))
    starts = {name: torch.as_tensor(5 + k) for name, k in zip("xy", noise, strict=True)}
    starts["z"] = torch.full((32, 1), 25.0, dtype=torch.float64)
    first = {name: float(values[0]) for name, values in starts.items()}
    run = ct.solve(system, first, torch.linspace(0, 50, 5001, dtype=torch.float64))

    def rise(t: torch.Tensor, y: dict[str, torch.Tensor]) -> torch.Tensor:
        return system(t, y)["z"].squeeze(-1)

    options = {"direction": -1, "transient": 5.0, "rtol": 1e-7}
    section = poincare_section(system, rise, 15.0, start=starts, **options)
    exponents = lyapunov_spectrum(system, 8.0, start=first, transient=10.0, ensemble=400, rtol=1e-5)
    values, errors = exponents["exponent"].values, exponents["standard_error"].values
    for k, (value, error) in enumerate(zip(values, errors, strict=True), start=1):
        print(f"exponent {k}: {value:.4f} ± {2 * error:.4f}")
    total, divergence = exponents["exponent_sum"].item(), exponents["divergence"].item()
    print(f"their sum {total:.5f}, mean divergence {divergence:.5f}")
    groups = {"trajectory": run.to_xarray()["simulation"].to_dataset(), "section": section}
    groups |= {"return_map": return_map(section, "z"), "lyapunov": exponents}
    tree = xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
    tree.attrs = root_attributes("the Lorenz attractor")
    ct.save(tree, folder / "lorenz_attractor.zarr", overwrite=True)
    draw(tree).savefig(folder / "lorenz_attractor.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
