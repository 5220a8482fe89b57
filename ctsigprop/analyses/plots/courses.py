"""Time courses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.plots.look import BLUE, PALETTE, label, style
from ctsigprop.errors import unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataArray, DataTree

__all__ = ["plot_time_courses"]

MOST_LINES = 60


def plot_time_courses(tree: DataTree, variables: Sequence[str] | None = None) -> Figure:
    """Draw variables over time, one panel for each.

    Parameters
    ----------
    tree : xarray.DataTree
        From `Solution.to_xarray`.
    variables : sequence of str, optional
        From /simulation, /weights and /signal; all of the first two by default. Of more than 60
        components every k-th is drawn, and the panel says so.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> run = ct.solve(ct.System(ct.fitzhugh_nagumo(I=0.5)), t=[0.0, 1.0, 2.0])
    >>> len(plot_time_courses(run.to_xarray()).axes)
    2
    """
    from matplotlib.figure import Figure

    found: dict[str, DataArray] = {}
    usual: list[str] = []
    for group in ("simulation", "weights", "signal"):
        if group in tree.children:
            arrays = tree[group].to_dataset().data_vars.items()
            found |= {str(name): array for name, array in arrays if "time" in array.dims}
        if group != "signal":
            usual = list(found)
    if not usual:
        raise ValueError("this tree holds no time courses; it should come from a Solution")
    names = list(variables or usual)
    for name in names:
        if name not in found:
            raise ValueError(unknown("variable", name, found))
    with style():
        figure = Figure(figsize=(6.4, 0.9 + 1.5 * len(names)))
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for ax, name in zip(panels, names, strict=True):
            _draw_courses(ax, found[name])
        panels[-1].set_xlabel(label(found[names[0]]["time"], "time"))
        figure.align_ylabels(panels)
        panels[0].set_title(tree.attrs.get("title", ""))
    return figure


def _draw_courses(ax: Axes, array: DataArray) -> None:
    lines = array.transpose("time", ...)
    own = [str(dim) for dim in lines.dims[1:] if lines.sizes[dim] > 1]
    flat = lines.values.reshape(lines.sizes["time"], -1)
    step = math.ceil(flat.shape[1] / MOST_LINES) or 1
    labels = [""]
    for dim in own:
        values = lines[dim].values if dim in lines.coords else np.arange(lines.sizes[dim])
        labels = [f"{label}{', ' if label else ''}{dim} {v}" for label in labels for v in values]
    few = 1 < flat.shape[1] <= len(PALETTE)
    for k in range(0, flat.shape[1], step):
        colour = PALETTE[k % len(PALETTE)] if few or flat.shape[1] == 1 else BLUE
        ax.plot(
            lines["time"],
            flat[:, k],
            color=colour,
            lw=1.4 if few or flat.shape[1] == 1 else 0.6,
            alpha=1.0 if few or flat.shape[1] == 1 else 0.5,
            label=labels[k],
        )
    ax.margins(x=0.0)
    ax.set_ylabel(label(array))
    if few:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, handlelength=1.2)
    elif step > 1:
        drawn = len(range(0, flat.shape[1], step))
        ax.text(
            1.0,
            1.0,
            f"{drawn} of {flat.shape[1]}",
            transform=ax.transAxes,
            ha="right",
            va="bottom",
            fontsize=7,
        )
