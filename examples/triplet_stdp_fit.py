"""The triplet rule of STDP fitted to visual cortex: sixty pairings at five frequencies.

    pre:  w -= o1 (A2m + A3m r2)        post:  w += r1 (A2p + A3p o2)

Amplitudes and a time constant are found by gradient, through the solver and every spike.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import xarray as xr
from matplotlib.figure import Figure

import ctsigprop as ct
from ctsigprop.analyses.plots import style
from ctsigprop.data import visual_cortex_pairing
from ctsigprop.fit import fit
from ctsigprop.learning.stdp import weight_change
from ctsigprop.models.triplet import PUBLISHED, pairing_protocol, triplet_stdp

LAGS = torch.tensor([10.0, -10.0], dtype=torch.float64)
FREQUENCIES = torch.linspace(0.1, 55.0, 28, dtype=torch.float64)


def draw(tree: xr.DataTree) -> Figure:
    data, curves = tree["observed_data"].to_dataset(), tree["curves"]["dw"]
    with style():
        figure = Figure(figsize=(6.4, 4.4))
        ax = figure.add_subplot()
        handles = []
        for lag, c, fmt, who in ((10, "#0072B2", "o", "pre"), (-10, "#D55E00", "s", "post")):
            of, told = data.sel(row=data.dt == lag), f", {who} leads by 10 ms"
            bars = {"capsize": 3, "mfc": c if lag > 0 else "w", "label": "data" + told}
            handles.append(ax.errorbar(of.frequency, of.dw, of.dw_sem, fmt=fmt, c=c, **bars))
            for model, line in (("fitted", "-"), ("published", ":")):
                curve = curves.sel(model=model, dt=lag)
                handles += ax.plot(curve.frequency, curve, line, c=c, label=model + told)
        ax.axhline(0.0, color="#8C8C8C", lw=0.8, zorder=0)
        ax.set(xlabel="frequency of the pairings (Hz)", ylabel="relative change of the weight")
        ax.set_title(tree.attrs["title"])
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = visual_cortex_pairing()
    shown = pairing_protocol(torch.tensor(data.dt.values), torch.tensor(data.frequency.values))
    rule = triplet_stdp(A3p=0.01, A2m=0.01, tau_y=50.0)
    title = "Triplet STDP in visual cortex: ten points, three parameters"
    names = ["A3p", "A2m", "tau_y"]
    tree = fit(
        rule, lambda: weight_change(rule, *shown), data, "dw", names,
        error="dw_sem", starts=3, title=title,
    )  # fmt: skip
    best = tree["fit"].isel(start=0)
    published = triplet_stdp(**PUBLISHED["visual cortex, all-to-all, minimal"])
    grid = pairing_protocol(LAGS[:, None], FREQUENCIES)
    with torch.no_grad():
        curves = [weight_change(model, *grid).numpy() for model in (rule, published)]
        misfit = (data.dw.values - weight_change(published, *shown).numpy()) / data.dw_sem.values
    print(f"error E: {float(best['loss']):.3f} fitted, {(misfit**2).mean():.3f} published")
    tree["curves"] = xr.Dataset(
        {"dw": (("model", "dt", "frequency"), curves, {"units": "1"})},
        {
            "model": ["fitted", "published"],
            "dt": ("dt", LAGS.numpy(), {"units": "ms"}),
            "frequency": ("frequency", FREQUENCIES.numpy(), {"units": "Hz"}),
        },
    )
    ct.save(tree, folder / "triplet_stdp_fit.zarr", overwrite=True)
    draw(tree).savefig(folder / "triplet_stdp_fit.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
