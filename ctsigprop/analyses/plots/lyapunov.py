"""Lyapunov exponents as their average converges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.plots.look import GREY, PALETTE, label, need, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataArray, Dataset, DataTree

__all__ = ["plot_lyapunov"]

LINES = 6  # exponents whose course is drawn one by one


def plot_lyapunov(tree: DataTree) -> Figure:
    r"""Draw the finite-time exponents over the time of averaging, and the spectrum with its errors.

    Parameters
    ----------
    tree : xarray.DataTree
        With a group "lyapunov" from `lyapunov_spectrum`.

    Examples
    --------
    >>> import ctsigprop as ct, xarray as xr
    >>> from ctsigprop.analyses.lyapunov import lyapunov_spectrum
    >>> decay = ct.System(ct.TextNeuron("dx/dt = -x : 1"))
    >>> found = lyapunov_spectrum(decay, 5.0, ensemble=2)
    >>> plot_lyapunov(xr.DataTree.from_dict({"lyapunov": found})).axes[0].get_ylabel()
    '$\\lambda$'
    """
    from matplotlib.figure import Figure

    need(tree, "lyapunov", "lyapunov_spectrum")
    found = tree["lyapunov"].to_dataset()
    with style():
        figure = Figure(figsize=(6.4, 3.4))
        course, spectrum = figure.subplots(1, 2, width_ratios=(1.7, 1))
        _draw_course(course, found)
        _draw_spectrum(spectrum, found)
        title = str(tree.attrs.get("title", ""))
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def _draw_course(ax: Axes, found: Dataset) -> None:
    shown = found["finite_time_exponent"].isel(order=slice(LINES))
    for k, (order, line) in enumerate(shown.groupby("order")):
        values = line.squeeze("order")
        ax.plot(found["time"], values, color=PALETTE[k], label=rf"$\lambda_{order}$")
    ax.axhline(0.0, color=GREY, lw=0.8, zorder=0)
    apart = _range(shown)
    if apart[0] < -10 * max(apart[1], 0.1):  # a strong contraction hides the others
        ax.set_yscale("symlog", linthresh=1.0)
    ax.set_xlabel(label(found["time"], "time of averaging"))
    ax.set_ylabel(label(shown, r"$\lambda$"))
    ax.set_title("convergence")
    ax.legend(ncols=2)


def _draw_spectrum(ax: Axes, found: Dataset) -> None:
    order = found["order"].values
    error = np.nan_to_num(found["standard_error"].values)
    colours = [PALETTE[min(k, len(PALETTE) - 1)] for k in range(len(order))]
    ax.axhline(0.0, color=GREY, lw=0.8, zorder=0)
    ax.bar(order, found["exponent"], yerr=2 * error, color=colours, width=0.6, capsize=3)
    for k, value, spread in zip(order, found["exponent"].values, error, strict=True):
        if len(order) <= 4:
            above = value >= 0
            ax.annotate(
                f"{value:.3f}" + (f"\n± {2 * spread:.3f}" if spread else ""),
                (k, value),
                (0, 6 if above else -6),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=7.5,
            )
    apart = _range(found["exponent"])
    if apart[0] < -10 * max(apart[1], 0.1):
        ax.set_yscale("symlog", linthresh=1.0)
    ax.margins(y=0.25)
    ax.set_xticks(order if len(order) <= 12 else order[:: len(order) // 10])
    ax.set_xlabel("order (± two standard errors)")
    ax.set_ylabel(label(found["exponent"], r"$\lambda$"))
    dimension = found["kaplan_yorke"].item()
    if np.isfinite(dimension):
        ax.set_title(f"Kaplan-Yorke dimension {dimension:.3f}", fontsize=9)


def _range(values: DataArray) -> tuple[float, float]:
    return float(values.min()), float(values.max())
