"""Cost of learning as something grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.plots.look import PALETTE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import Dataset, DataTree

__all__ = ["plot_cost"]


def plot_cost(tree: DataTree) -> Figure:
    """Draw memory and time of a presentation over what grows: a row for each group, in logs.

    Parameters
    ----------
    tree : xarray.DataTree
        Its groups with a variable ``memory`` and dimension ``rule`` are drawn, as `cost_by` gives
        them.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> import torch
    >>> import xarray as xr
    >>> from ctsigprop.analyses.cost import cost_by
    >>> rule = lambda depth: ct.Sigprop(ct.Layers.dense([8] * depth + [4]))
    >>> batch = torch.rand(8, 8), torch.arange(8) % 4
    >>> table = cost_by("depth", [2, 4], {"sigprop": rule}, *batch, repeats=1)
    >>> figure = plot_cost(xr.DataTree.from_dict({"/depth": table}))
    >>> [ax.get_ylabel() for ax in figure.axes]
    ['memory (KiB)', 'time (ms)']
    """
    from matplotlib.figure import Figure

    tables = {
        name: group.to_dataset()
        for name, group in tree.children.items()
        if "memory" in group.data_vars and "rule" in group.dims
    }
    if not tables:
        raise ValueError(
            "this tree has no costs by rule; they come from cost_by. Its groups: "
            f"{', '.join(map(str, tree.children)) or '-'}"
        )
    rules = list(dict.fromkeys(str(r) for table in tables.values() for r in table["rule"].values))
    with style():
        figure = Figure(figsize=(8.2, 0.9 + 2.7 * len(tables)))
        panels = figure.subplots(len(tables), 2, squeeze=False)
        for (left, right), table in zip(panels, tables.values(), strict=True):
            _draw(left, table, "memory", 1 / 1024, "memory (KiB)", rules)
            _draw(right, table, "seconds", 1e3, "time (ms)", rules)
        handles, labels = [], []
        for ax in panels[:, 0]:
            for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
                if text not in labels:
                    handles.append(handle)
                    labels.append(text)
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
        figure.suptitle(tree.attrs.get("title", "cost of one presentation"), fontsize=10)
    return figure


def _draw(ax: Axes, table: Dataset, name: str, factor: float, label: str, rules: list[str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    (over,) = (dim for dim in table[name].dims if dim != "rule")
    for rule in table["rule"].values:
        row = table[name].sel(rule=rule).dropna(over)
        colour = PALETTE[rules.index(str(rule)) % len(PALETTE)]
        dash = ("-", "--")[rules.index(str(rule)) // len(PALETTE) % 2]
        ax.plot(
            row[over], factor * row.values, dash, color=colour, marker="o", ms=3, label=str(rule)
        )
    ax.set(xscale="log", yscale="log", xlabel=over, ylabel=label)
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(color="#E5E5E5", lw=0.6)
    ticks = np.unique(table[over].values)
    if len(ticks) < 8:
        ax.set_xticks(ticks, [f"{v:g}" for v in ticks])
        ax.minorticks_off()
