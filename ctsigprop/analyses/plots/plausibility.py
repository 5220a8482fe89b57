"""Plausibility: what rules read as a table, and the angles of their updates."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.plausibility import ARGUMENTS, SCOPES
from ctsigprop.analyses.plots.look import GREY, PALETTE, need, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

__all__ = ["plot_alignment", "plot_locality"]


def plot_locality(tree: DataTree) -> Figure:
    """Draw what each rule reads: one row a rule, one column an argument, ordered by how far it is.

    Parameters
    ----------
    tree : xarray.DataTree
        From `report`, with the measures of `locality`.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.analyses.plausibility import locality, report
    >>> synapse = ct.Synapse("x", "y", 0.1, plasticity=ct.oja(0.1))
    >>> system = ct.System(ct.Source("x", 3), ct.leaky_integrator("y", 2), synapse)
    >>> figure = plot_locality(report(locality(system, "W_y_x")))
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['dw/dt = eta*(y*x - y**2*w)']
    """
    from matplotlib.figure import Figure

    need(tree, "plausibility", "report")
    table = tree["plausibility"].to_dataset()
    values = table["sensitivity"].transpose("rule", "argument").values
    arguments = [str(name) for name in table["argument"].values]
    rules = [str(name) for name in table["rule"].values]
    shade = np.where(values > 0, 0.25 + 0.5 * values / (values.max() or 1.0), 0.0)
    with style():
        figure = Figure(figsize=(8.6, 1.7 + 0.36 * len(rules)))
        ax = figure.add_subplot()
        ax.imshow(shade, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            text = f"{value:.2g}" if value else "0"
            ax.text(column, row, text, ha="center", va="center", color="k" if value else GREY)
        ax.set_xticks(
            range(len(arguments)), [name.replace("_", "\n") for name in arguments], fontsize=8
        )
        ax.set_yticks(range(len(rules)), rules)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        start = -0.5
        for scope, group in groupby(arguments, ARGUMENTS.__getitem__):
            width = len(list(group))
            ax.text(start + width / 2, -0.65, scope, ha="center", va="bottom", fontweight="bold")
            start += width
            ax.axvline(start, color="k", lw=0.8)
        for row, scope in enumerate(table["scope"].values):
            ax.text(start + 0.15, row, SCOPES[int(scope)], va="center")
        ax.text(start + 0.15, -0.65, "scope", va="bottom", fontweight="bold")
        ax.set_title(table["sensitivity"].attrs["long_name"].capitalize(), pad=24)
    return figure


def plot_alignment(tree: DataTree, over: str = "epoch") -> Figure:
    """Draw the angle between the updates of each layer and those of backpropagation.

    Parameters
    ----------
    tree : xarray.DataTree
        From `report`, with measures of `alignment` put together along `over`.
    over : str
        The dimension to draw it over; along all others but the layer there is a line for each.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> import torch
    >>> import xarray as xr
    >>> from ctsigprop.analyses.alignment import alignment
    >>> from ctsigprop.analyses.plausibility import report
    >>> learner = ct.ContinuousSigprop(ct.sigprop_network([4, 8, 2], rho="tanh"))
    >>> measured = alignment(learner, torch.eye(4), torch.tensor([0, 1, 0, 1]))
    >>> epochs = xr.Variable("epoch", [0, 1], {"units": "1"})
    >>> tree = report(xr.concat([measured, measured], "epoch").assign_coords(epoch=epochs))
    >>> plot_alignment(tree).axes[0].get_ylabel()
    'angle to backpropagation (°)'
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    need(tree, "plausibility", "report")
    angle = tree["plausibility"].to_dataset()["angle"]
    if over not in angle.dims:
        raise ValueError(
            f"the angles have no dimension '{over}'; they have {', '.join(map(str, angle.dims))}"
        )
    with style():
        figure = Figure(figsize=(6.0, 4.0))
        ax = figure.add_subplot()
        for k, layer in enumerate(angle["layer"].values):
            one = angle.sel(layer=layer)
            lines = one.transpose(over, ...).values.reshape(one.sizes[over], -1)
            drawn = ax.plot(angle[over], lines, color=PALETTE[k % len(PALETTE)], marker="o", ms=3)
            drawn[0].set_label(str(layer))
        ax.axhline(90, color=GREY, lw=1, ls="--")
        ax.text(0.01, 91, "90°: no better than chance", color=GREY, fontsize=8,
                transform=ax.get_yaxis_transform())  # fmt: skip
        ax.set(
            xlabel=over,
            ylabel="angle to backpropagation (°)",
            ylim=(0, max(105.0, 1.05 * float(angle.max()))),
        )
        ax.set_yticks(range(0, 181, 30)[: 4 if float(angle.max()) < 100 else 7])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_title(tree.attrs.get("title", ""))
        figure.legend(loc="outside lower center", ncols=8, title="layer")
    return figure
