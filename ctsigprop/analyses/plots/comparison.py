"""Learning rules side by side, as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.plots.look import GREY, PALETTE, need, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

__all__ = ["plot_comparison"]


def plot_comparison(tree: DataTree) -> Figure:
    """Draw the test error of every rule at the end, each seed a dot, and over the epochs.

    Parameters
    ----------
    tree : xarray.DataTree
        From `Comparison.to_xarray`.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.compare import compare
    >>> from ctsigprop.data import digits
    >>> rule = lambda seed: ct.Backpropagation(ct.Layers.dense([64, 16, 10], seed=seed))
    >>> tree = compare({"backpropagation": rule}, digits, seeds=[0, 1], epochs=1).to_xarray()
    >>> plot_comparison(tree).axes[0].get_xlabel()
    'test error (%)'
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

    need(tree, "comparison", "compare")
    data = tree["comparison"].to_dataset()
    errors = 100 * (1 - data["test_accuracy"])
    last = errors.isel(epoch=-1)
    order = np.argsort(last.mean("seed").fillna(np.inf).values)[::-1]
    names = [str(data["rule"].values[k]) for k in order]
    with style():
        figure = Figure(figsize=(9.0, 1.4 + 0.34 * max(len(names), 6)))
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1.0))
        for place, k in enumerate(order):
            colour, line = _look(place)
            values = last.isel(rule=k).values
            mean = float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
            left.plot(values, np.full(len(values), place), "o", color=colour, ms=4, alpha=0.8)
            left.plot([mean], [place], "|", color=colour, ms=16, mew=2)
            if np.isfinite(mean):
                left.annotate(
                    f"{mean:.2f}", (np.nanmax(values), place), (8, 0),
                    textcoords="offset points", va="center", fontsize=8,
                )  # fmt: skip
            curve = errors.isel(rule=k).mean("seed")
            if len(curve) > 1:
                right.plot(data["epoch"], curve, line, color=colour, lw=1.3, label=names[place])
            else:
                right.plot(data["epoch"], curve, "o", color=colour, label=names[place])
        left.set_yticks(range(len(names)), names)
        left.set(xlabel="test error (%)", title=f"at the end: {len(data['seed'])} seeds, | mean")
        left.set_xscale("log")
        right.set_yscale("log")
        for axis in (left.xaxis, right.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
        left.margins(x=0.28)
        left.set_ylim(-0.6, len(names) - 0.4)
        left.grid(axis="x", color="#E5E5E5", lw=0.6)
        right.set(xlabel="epoch", ylabel="test error (%), mean", title="while learning")
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.grid(axis="y", color="#E5E5E5", lw=0.6)
        handles, labels = right.get_legend_handles_labels()
        right.legend(
            handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8
        )
        if tree.attrs.get("status") == "interrupted":
            figure.text(0.99, 0.01, "interrupted", ha="right", color=GREY)
        figure.suptitle(tree.attrs["title"], fontsize=10)
    return figure


def _look(place: int) -> tuple[str, str]:
    """Return a colour and a line style, together different for each rule."""
    return PALETTE[place % len(PALETTE)], ("-", "--", ":")[place // len(PALETTE) % 3]
