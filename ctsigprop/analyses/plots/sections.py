"""Poincaré sections with their return maps, and power spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.analyses.plots.look import BLACK, BLUE, GREY, PALETTE, label, math_name, need, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import Dataset, DataTree

__all__ = ["plot_section", "plot_spectrum"]

LINES = 8  # densities that are drawn one by one


def plot_section(tree: DataTree, x: str = "", y: str = "") -> Figure:
    r"""Draw the points of a Poincaré section, and beside them the return map where there is one.

    Parameters
    ----------
    tree : xarray.DataTree
        With a group "section" from `poincare_section`, and perhaps "return_map".
    x, y : str
        The variables on the axes (their first component); by default the first two that vary.

    Examples
    --------
    >>> import ctsigprop as ct, xarray as xr
    >>> from ctsigprop.analyses.sections import poincare_section
    >>> spiral = ct.System(ct.TextNeuron("dx/dt = -y - 0.1*x : 1\ndy/dt = x - 0.1*y : 1"))
    >>> found = poincare_section(spiral, {"y": 0.0}, 20.0, start={"x": 1.0})
    >>> plot_section(xr.DataTree.from_dict({"section": found})).axes[0].get_xlabel()
    '$x$'
    """
    from matplotlib.figure import Figure

    need(tree, "section", "poincare_section")
    section = tree["section"].to_dataset()
    mapped = "return_map" in tree.children
    with style():
        figure = Figure(figsize=(7.4 if mapped else 4.2, 3.8))
        axes = figure.subplots(1, 2 if mapped else 1, squeeze=False)[0]
        _draw_points(axes[0], section, x, y)
        if mapped:
            _draw_map(axes[1], tree["return_map"].to_dataset())
        title = str(tree.attrs.get("title", ""))
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def plot_spectrum(tree: DataTree) -> Figure:
    r"""Draw power spectral densities over frequency, both logarithmic, with the highest peak.

    Parameters
    ----------
    tree : xarray.DataTree
        With a group "spectrum" from `power_spectrum`.

    Examples
    --------
    >>> import xarray as xr
    >>> from ctsigprop.analyses.sections import poincare_section
    >>> from ctsigprop.analyses.spectra import power_spectrum
    >>> time = np.arange(500) * 0.1
    >>> found = power_spectrum(xr.DataArray(np.sin(time), {"time": time}, name="x"))
    >>> plot_spectrum(xr.DataTree.from_dict({"spectrum": found})).axes[0].get_xlabel()
    'frequency'
    """
    from matplotlib.figure import Figure

    need(tree, "spectrum", "power_spectrum")
    found = tree["spectrum"].to_dataset()
    density = found["density"].transpose("frequency", ...).isel(frequency=slice(1, None))
    curves = density.values.reshape(density.sizes["frequency"], -1)
    frequency = density["frequency"].values
    with style():
        figure = Figure(figsize=(5.2, 3.6))
        ax = figure.add_subplot()
        for k in range(min(curves.shape[1], LINES)):
            name = f"component {k}" if curves.shape[1] > 1 else None
            ax.loglog(frequency, curves[:, k], color=PALETTE[k % len(PALETTE)], lw=1.2, label=name)
        peak = float(found["peak_frequency"].values.reshape(-1)[0])
        ax.axvline(peak, color=GREY, lw=0.9, ls="--", zorder=0)
        unit = found["frequency"].attrs["units"]
        ax.annotate(
            f"peak {peak:.3g}" + (f" {unit}" if unit != "1" else ""),
            (peak, 1.0),
            (4, -3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=8,
        )
        top = curves[np.isfinite(curves)].max() if curves.size else 1.0
        if top > 0:
            ax.set_ylim(max(top * 1e-10, curves[curves > 0].min() / 2), top * 4)
        ax.set_xlabel(label(found["frequency"], "frequency"))
        ax.set_ylabel(label(density, "power density"))
        ax.set_title(str(tree.attrs.get("title", "")))
        if curves.shape[1] > 1:
            ax.legend(ncols=2)
            if curves.shape[1] > LINES:
                ax.text(
                    0.99, 0.02, f"{LINES} of {curves.shape[1]}", transform=ax.transAxes, ha="right"
                )
    return figure


def _draw_points(ax: Axes, section: Dataset, x: str, y: str) -> None:
    own = [
        str(name)
        for name in section.data_vars
        if section[name].dims[:1] == ("crossing",)
        and name not in ("crossing_time", "sample", "since_last")
    ]
    for name in filter(None, (x, y)):
        if name not in own:
            raise ValueError(f"the section has no variable '{name}'; it has {', '.join(own)}")
    spread = {
        name: float(np.ptp(_first(section, name))) if section.sizes["crossing"] else 0.0
        for name in own
    }
    size = max(spread.values(), default=0.0)
    moving = [name for name in own if spread[name] > 1e-6 * size] or own
    first = x or moving[0]
    second = y or next((name for name in moving if name != first), "")
    horizontal = _first(section, first)
    if second:
        vertical, text = _first(section, second), label(section[second])
    else:
        vertical, text = np.arange(len(horizontal)), "crossing"
    ax.plot(horizontal, vertical, ".", color=BLUE, ms=3, rasterized=True)
    ax.set_xlabel(label(section[first]))
    ax.set_ylabel(text)
    where = str(section.attrs.get("section", ""))
    ax.set_title(
        f"{len(horizontal)} crossings" + (f", {where}" if "=" in where else ""), fontsize=9
    )


def _draw_map(ax: Axes, found: Dataset) -> None:
    current, after = found["current"].values, found["next"].values
    if len(current):
        low, high = min(current.min(), after.min()), max(current.max(), after.max())
        ax.plot([low, high], [low, high], color=GREY, lw=0.9, zorder=0)
        ax.annotate(
            "next = current",
            (high, high),
            (-14, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=7.5,
            color=GREY,
        )
    ax.plot(current, after, ".", color=BLACK, ms=3, rasterized=True)
    name = math_name(str(found.attrs.get("variable", "x"))).strip("$")
    ax.set_xlabel(label(found["current"], f"${name}_n$"))
    ax.set_ylabel(label(found["next"], f"${name}_{{n+1}}$"))
    ax.set_title("return map", fontsize=9)


def _first(section: Dataset, name: str) -> Any:
    return section[name].values.reshape(section.sizes["crossing"], -1)[:, 0]
