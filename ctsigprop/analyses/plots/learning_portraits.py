"""Phase portraits of learning: averaged weights, presented ones, and bifurcations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.analyses.plots.branches import (
    draw_bifurcations,
    draw_branches,
    draw_cycles,
    heights_of,
    name_bifurcations,
)
from ctsigprop.analyses.plots.look import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    label,
    math_name,
    need,
    style,
)
from ctsigprop.analyses.plots.portraits import component, draw_portrait

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataTree

__all__ = ["plot_learning_portraits"]

RATES = (SKY, ORANGE, PURPLE, VERMILION)


def plot_learning_portraits(tree: DataTree) -> Figure:
    """Draw portraits of learning, a row for each tree.

    Of `learning_portrait`: the portrait of the averaged weights with the presented ones over it,
    in a colour for each learning rate; their distance over time; and the largest against the rate.
    Of `portraits_along`: a portrait for each value of the parameter, and the bifurcations between.

    Parameters
    ----------
    tree : xarray.DataTree
        From `learning_portrait` or `portraits_along`, or read back from a store; or a tree of
        such trees.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> from ctsigprop.analyses.learning_portraits import portraits_along
    >>> rules = [ct.hebb(1.0), ct.weight_decay(0.5)]
    >>> weight = ct.AveragedLearning(torch.ones(1, 1), rules, context=torch.ones(1, 1), rho="tanh")
    >>> tree = portraits_along(ct.System(weight), "strength", [0.1, 0.9], {"w": (-3, 3)})
    >>> len(plot_learning_portraits(tree).axes)
    3
    """
    from matplotlib.figure import Figure

    rows = [child for child in tree.children.values() if _drawable(child)]
    if not rows:
        if not _drawable(tree):
            need(tree, "full", "learning_portrait, or from portraits_along")
        rows = [tree]
    widest = max(len(_portraits(row)) + ("diagram" in row.children) for row in rows)
    columns = max([3] * any("full" in row.children for row in rows) + [widest])
    with style():
        figure = Figure(figsize=(4.1 * columns + 0.2, 3.9 * len(rows) + 0.7))
        shown: dict[str, Any] = {}
        for axes, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
            if "full" in row.children:
                _draw_averaging(axes, row)
                used = 3
            else:
                used = _draw_along(axes, row)
            for ax in axes[used:]:
                ax.set_axis_off()
            for ax in axes[:used]:
                if ax.get_legend() is None:
                    handles, labels = ax.get_legend_handles_labels()
                    shown |= {
                        _plain(text, handle): handle
                        for text, handle in zip(labels, handles, strict=True)
                    }
        figure.legend(
            shown.values(),
            shown.keys(),
            loc="outside lower center",
            ncols=min(len(shown), 2 * columns),
            fontsize=8,
        )
    return figure


def _plain(text: str, handle: Any) -> str:
    """Return one name for the nullclines of all portraits."""
    if not text.endswith("= 0"):
        return text
    return f"the {'first' if handle.get_color() == BLUE else 'second'} weight is at rest"


def _drawable(tree: DataTree) -> bool:
    return "full" in tree.children or bool(_portraits(tree))


def _portraits(tree: DataTree) -> list[DataTree]:
    return [child for name, child in tree.children.items() if name.startswith("portrait_")]


def _draw_averaging(axes: Any, tree: DataTree) -> None:
    plane, over_time, over_rate = axes[:3]
    draw_portrait(plane, tree)
    names = list(tree.attrs["followed"])
    averaged, full = tree["averaged"].to_dataset(), tree["full"].to_dataset()
    distance = tree["distance"].to_dataset()
    rates = distance["rate"].values
    order = np.argsort(-rates)
    colours = dict(zip(order, RATES * math.ceil(len(order) / len(RATES)), strict=False))
    mean = [component(averaged, name, "time", "sample") for name in names]
    if len(names) == 1:
        mean = [averaged["time"].values, *mean]
    for k in order:
        paths = [component(full, name, "rate", "time", "sample")[k] for name in names]
        plane.plot(*paths, color=colours[k], lw=1.5, zorder=4.5)
        over_time.plot(
            distance["time"],
            distance["distance"][k].max("sample"),
            color=colours[k],
            lw=1.2,
            label=f"learning rate {rates[k]:g}",
        )
    plane.plot(*mean, color=BLACK, lw=1.0, ls=(0, (3, 1.5)), zorder=4.6, label="averaged")
    plane.plot(*(path[0] for path in mean), "o", color=BLACK, ms=3, zorder=5)
    over_time.set_xlabel(label(distance["time"], "slow time, rate × time"))
    over_time.set_ylabel(label(distance["distance"], "distance to the average"))
    over_time.set_xlim(0, float(distance["time"][-1]))
    over_time.set_ylim(bottom=0)
    over_time.legend(fontsize=8)
    largest = distance["largest"].mean("sample").values
    for k in order:
        over_rate.plot(rates[k], largest[k], "o", color=colours[k], ms=6)
    middle = int(np.argsort(rates)[len(rates) // 2])
    over_rate.plot(
        np.sort(rates),
        largest[middle] * np.sort(rates) / rates[middle],
        color=GREY,
        ls="--",
        lw=1.0,
        zorder=0,
        label="proportional to the rate",
    )
    over_rate.set_xscale("log")
    over_rate.set_yscale("log")
    over_rate.set_xticks(rates, [f"{rate:g}" for rate in rates])
    over_rate.minorticks_off()
    ticks = _ticks(largest)
    over_rate.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    over_rate.set_xlabel("learning rate")
    over_rate.set_ylabel(label(distance["largest"], "largest distance, mean over starts"))
    if math.isfinite(tree.attrs["order"]):
        over_rate.set_title(f"order {tree.attrs['order']:.2f}")
    over_rate.legend(fontsize=8, loc="upper left")


def _ticks(values: Any) -> list[float]:
    """Return 1, 2 and 5 times powers of ten about some values."""
    low, high = values.min() / 1.5, values.max() * 1.5
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def _draw_along(axes: Any, tree: DataTree) -> int:
    panels = _portraits(tree)
    for ax, panel in zip(axes, panels, strict=False):
        draw_portrait(ax, panel)
    if tree.attrs["title"]:
        axes[0].set_title(f"{tree.attrs['title']}\n{axes[0].get_title()}")
    if "diagram" not in tree.children:
        return len(panels)
    values = [panel.attrs["value"] for panel in panels]
    _draw_diagram(axes[len(panels)], tree.children["diagram"], values)
    return len(panels) + 1


def _draw_diagram(ax: Axes, tree: DataTree, values: list[float]) -> None:
    """Draw the first component of all equilibria against the parameter."""
    p, name = str(tree.attrs["parameter"]), tree.attrs["components"][0]
    branches, points = tree["branches"].to_dataset(), tree["bifurcations"].to_dataset()
    rings = tree["cycles"].to_dataset() if "cycles" in tree.children else None
    draw_branches(ax, branches, p, name)
    if rings is not None:
        draw_cycles(ax, rings, p, name)
    draw_bifurcations(ax, points, p, heights_of(points, rings, p, name))
    for value in values:
        ax.axvline(value, color=GREY, lw=0.8, ls=":", zorder=0)
    ax.set_xlim(*tree.attrs["bounds"])
    ax.margins(y=0.08)
    ax.set_xlabel(label(branches[p], math_name(p) if len(p) == 1 else p.replace("_", " ")))
    ax.set_ylabel(label(branches[name.partition("[")[0]], math_name(tree.attrs["axes"][0])))
    name_bifurcations(ax, points, p)
