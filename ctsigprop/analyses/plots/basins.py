"""Basins of attraction, and which part of the starts goes where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.analyses.plots.look import BLACK, BLUE, GREY, label, need, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import Dataset, DataTree

__all__ = ["plot_basins"]

UNDECIDED, DIVERGED = "#FFFFFF", "#404040"
ROWS = 20  # outcomes whose fractions are drawn, the largest first
PALE = ("#73AFD2", "#E8A573", "#73C8AF", "#E2B1CC", "#F1C973", "#A1D5F2")  # the palette in white


def plot_basins(tree: DataTree) -> Figure:
    r"""Draw which attractor the starts go to: a map of two axes, a line of one, or fractions.

    Parameters
    ----------
    tree : xarray.DataTree
        With a group "basins", from `basins` (the plane through the middle, where there are three
        axes) or from `basin_fractions`.

    Examples
    --------
    >>> import ctsigprop as ct, xarray as xr
    >>> from ctsigprop.analyses.basins import basins
    >>> well = ct.System(ct.TextNeuron("dx/dt = x - x**3 : 1"))
    >>> found = basins(well, {"x": (-2, 2)}, 30.0)
    >>> plot_basins(xr.DataTree.from_dict({"basins": found})).axes[0].get_xlabel()
    '$x$'
    """
    from matplotlib.figure import Figure

    need(tree, "basins", "basins or basin_fractions")
    found = tree["basins"].to_dataset()
    with style():
        line = "fraction" not in found and np.size(found.attrs["axes"]) == 1
        figure = Figure(figsize=(5.2, 1.9 if line else 4.6))
        ax = figure.add_subplot()
        if "fraction" in found:
            _draw_fractions(ax, found)
        else:
            _draw_map(figure, ax, found)
        ax.set_title(str(tree.attrs.get("title", "")))
    return figure


def _draw_fractions(ax: Axes, found: Dataset) -> None:
    order = np.argsort(-found["count"].values, kind="stable")
    order = order[found["count"].values[order] > 0]
    shown = found.isel(outcome=order[:ROWS])
    names = [str(name) for name in shown["outcome"].values]
    rows = np.arange(len(names))[::-1]
    share = shown["fraction"].values
    below, above = share - shown["fraction_low"].values, shown["fraction_high"].values - share
    special = {"diverged": DIVERGED, "undecided": UNDECIDED}
    colours = [special.get(name, BLUE) for name in names]
    ax.barh(
        rows,
        100 * share,
        xerr=100 * np.maximum(np.stack([below, above]), 0),
        color=colours,
        edgecolor=GREY,
        linewidth=0.6,
        height=0.7,
        capsize=2.5,
        error_kw={"lw": 1.0},
    )
    ax.set_yticks(rows, [name.replace("_", " ") for name in names])
    ax.set_xlim(left=0)
    if len(order) > ROWS:
        ax.text(0.98, 0.02, f"{ROWS} of {len(order)}", transform=ax.transAxes, ha="right")
    confidence = float(found.attrs.get("confidence", 0.95))
    ax.set_xlabel(f"starts (%), with intervals of {100 * confidence:g} %")


def _draw_map(figure: Figure, ax: Axes, found: Dataset) -> None:
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    axes = [str(name) for name in np.atleast_1d(found.attrs["axes"])]
    basin = found["basin"]
    flags = np.atleast_1d(basin.attrs["flag_values"])
    meanings = basin.attrs["flag_meanings"].split()
    for extra in axes[2:]:
        basin = basin.isel({extra: basin.sizes[extra] // 2})
    plane = basin.transpose(*reversed(axes[:2])).values.reshape(-1, basin.sizes[axes[0]])
    colours = [_colour(int(flag)) for flag in flags]
    edges = np.append(flags, flags[-1] + 1) - 0.5
    x = found[axes[0]]
    y = found[axes[1]] if len(axes) > 1 else None
    ax.pcolormesh(
        _edges(x.values),
        _edges(y.values) if y is not None else np.array([0.0, 1.0]),
        plane,
        cmap=ListedColormap(colours),
        norm=BoundaryNorm(edges, len(colours)),
        linewidth=0,
        rasterized=True,
    )
    if y is not None:
        _draw_attractors(ax, found, axes)
        ax.set_ylabel(label(y))
        ax.set_ylim(y.values[0], y.values[-1])
    else:
        ax.set_yticks([])
    ax.set_xlabel(label(x))
    ax.set_xlim(x.values[0], x.values[-1])
    counts = dict(zip(flags.tolist(), found["count"].values.tolist(), strict=True))
    total = sum(counts.values())
    handles = [
        Patch(
            facecolor=colour,
            edgecolor=GREY,
            label=f"{name.replace('_', ' ')} ({100 * counts[int(flag)] / total:.1f} %)",
        )
        for flag, name, colour in zip(flags, meanings, colours, strict=True)
        if counts[int(flag)]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))


def _draw_attractors(ax: Axes, found: Dataset, axes: list[str]) -> None:
    """Mark fixed points at their place, and the extent of what moves by a box."""
    from matplotlib.patches import Rectangle

    kinds = found["kind"].attrs["flag_meanings"].split()
    places: dict[str, list[Any]] = {}
    for suffix in ("mean", "low", "high"):
        places[suffix] = [_of(found, axis, suffix) for axis in axes[:2]]
    if any(part is None for parts in places.values() for part in parts):
        return
    for k, kind in enumerate(found["kind"].values):
        x, y = (part[k] for part in places["mean"])
        if kinds[int(kind)] == "fixed_point":
            ax.plot(x, y, "o", color=BLACK, ms=6, zorder=5, clip_on=False)
            continue
        low, high = ([part[k] for part in places[end]] for end in ("low", "high"))
        size = (high[0] - low[0], high[1] - low[1])
        ax.add_patch(
            Rectangle((low[0], low[1]), *size, fill=False, edgecolor=BLACK, lw=1.2, ls="--")
        )
        ax.annotate(
            f"extent of {kinds[int(kind)]} {k}" if kinds[int(kind)] != "other" else f"{k}",
            (x, high[1]),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
        )


def _of(found: Dataset, axis: str, suffix: str) -> Any:
    """Return a component of the attractors: ``v_mean``, or that of ``w_0_1``."""
    for name in found.data_vars:
        text = str(name)
        if not text.endswith(f"_{suffix}") or found[text].dims[:1] != ("attractor",):
            continue
        short = text.removesuffix(f"_{suffix}")
        values = found[text].values
        rest = values.shape[1:]
        if axis == short and int(np.prod(rest, dtype=int)) == 1:
            return values.reshape(len(values))
        if (
            axis.startswith(f"{short}_")
            and axis.removeprefix(f"{short}_").replace("_", "").isdigit()
        ):
            index = tuple(map(int, axis.removeprefix(f"{short}_").split("_")))
            if len(index) == len(rest):
                return found[text].isel(dict(zip(found[text].dims[1:], index, strict=True))).values
    return None


def _colour(flag: int) -> str:
    if flag == -2:
        return DIVERGED
    return UNDECIDED if flag == -1 else PALE[flag % len(PALE)]


def _edges(centres: Any) -> Any:
    middle = (centres[1:] + centres[:-1]) / 2
    first, last = 2 * centres[0] - middle[0], 2 * centres[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])
