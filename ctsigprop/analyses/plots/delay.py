"""The strength of learning against the delay of its signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctsigprop.analyses.plots.look import GREY, PALETTE, need, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

__all__ = ["plot_delay"]


def plot_delay(tree: DataTree) -> Figure:
    """Draw what each rule learns against the delay: every seed, the mean with its spread, the line.

    Parameters
    ----------
    tree : xarray.DataTree
        With the group ``delay`` from `ctsigprop.analyses.delay.delay_law`.

    Examples
    --------
    >>> import ctsigprop as ct, torch, xarray as xr
    >>> from ctsigprop.analyses.delay import delay_law
    >>> def rule(seed):
    ...     return ct.ContinuousFeedbackAlignment(ct.feedback_network([4, 8, 2], seed=seed))
    >>> batch = torch.eye(4), torch.tensor([0, 1, 0, 1])
    >>> found = delay_law({"dfa": rule}, *batch, duration=20.0, delays=[0.0, 20.0])
    >>> plot_delay(xr.DataTree.from_dict({"delay": found})).axes[0].get_title()
    'dfa'
    """
    from matplotlib.figure import Figure

    need(tree, "delay", "ctsigprop.analyses.delay.delay_law")
    data = tree["delay"].to_dataset()
    rules = data["rule"].values.tolist()
    share, unit = data["share"].values, data["delay"].attrs["units"]
    duration = f"{data.attrs['duration']:g}" + (f" {unit}" if unit != "1" else "")
    with style():
        figure = Figure(figsize=(2.7 * len(rules) + 0.7, 3.3))
        axes = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
        for rule, axis, colour in zip(rules, axes, PALETTE, strict=False):
            here = data.sel(rule=rule)
            axis.plot([0, 1], [1, 0], ":", color=GREY, lw=1.2, label="1 − delay/duration")
            axis.plot(share, here["fit"], "-", color=colour, lw=1.2, label="linear fit")
            axis.plot(share, here["strength"].T, ".", color=GREY, ms=3)
            axis.errorbar(
                share, here["mean"], here["spread"], fmt="o", ms=4, color=colour, capsize=2,
                label="mean ± s.d. over seeds",
            )  # fmt: skip
            slope, intercept, fitted = (
                float(here[name]) for name in ("slope", "intercept", "r_squared")
            )
            axis.text(
                0.97, 0.97,
                f"slope ${slope:.2f}$\nintercept ${intercept:.2f}$\n$R^2 = {fitted:.3f}$",
                ha="right", va="top", transform=axis.transAxes, fontsize=8,
            )  # fmt: skip
            axis.set(title=rule, ylim=(-0.1, 1.15))
            axis.set_xlabel(f"delay/duration (T = {duration})")
        axes[0].set_ylabel("learning strength")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        if "title" in tree.attrs:
            figure.suptitle(tree.attrs["title"], fontsize=10)
    return figure
