"""A circuit as a graph, and the currents that flow in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.plots.look import BLACK, BLUE, GREY, PALETTE, VERMILION, label, need, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import Dataset, DataTree

__all__ = ["plot_changes", "plot_circuit"]

COLOURS = {"input": GREY, "synapse": BLACK, "plastic_synapse": BLUE, "learning_signal": VERMILION}


def plot_circuit(tree: DataTree, *, sample: int = 0, unit: int = 0) -> Figure:
    """Draw the graph of a circuit, and beside it the currents into one unit of each population.

    Parameters
    ----------
    tree : xarray.DataTree
        With the groups ``connections`` and ``currents``, from the functions of that name.
    sample, unit : int
        Whose currents are shown, where there are several.

    Examples
    --------
    >>> import ctsigprop as ct, xarray as xr
    >>> from ctsigprop.analyses.circuit import connections, currents
    >>> system = ct.System(ct.Source("x", 1, 2.0), ct.leaky_integrator("y"), ct.Input("x", "y"))
    >>> groups = {"connections": connections(system), "currents": currents(ct.solve(system))}
    >>> plot_circuit(xr.DataTree.from_dict(groups)).axes[1].get_xlabel()
    'time'
    """
    from matplotlib.figure import Figure

    need(tree, "connections", "ctsigprop.analyses.circuit.connections")
    need(tree, "currents", "ctsigprop.analyses.circuit.currents")
    graph, flows = tree["connections"].to_dataset(), tree["currents"].to_dataset()
    posts = [str(p) for p in graph["population"].values[graph["neurons"].values == 1]]
    with style():
        figure = Figure(figsize=(9.5, 1.2 + 1.35 * max(len(posts), 2)))
        grid = figure.add_gridspec(len(posts), 2, width_ratios=(1.15, 1.0))
        _graph(figure.add_subplot(grid[:, 0]), graph)
        for k, post in enumerate(posts):
            ax = figure.add_subplot(grid[k, 1])
            entering = graph.where(graph["post"] == post, drop=True)["connection"].values
            names = dict.fromkeys(str(name).partition("(")[0] for name in entering)
            for name, colour in zip(names, PALETTE, strict=False):
                flow = flows[name]
                if "sample" in flow.dims:
                    flow = flow.isel(sample=sample)
                inner = [dim for dim in flow.dims if dim != "time"]
                flow = flow.isel({dim: min(unit, flow.sizes[dim] - 1) for dim in inner})
                ax.plot(flows["time"], flow, color=colour, label=name)
            ax.set_ylabel(f"into {post}")
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
            if k < len(posts) - 1:
                ax.tick_params(labelbottom=False)
        ax.set_xlabel(label(flows["time"], "time"))
        if "title" in tree.attrs:
            figure.suptitle(tree.attrs["title"], fontsize=10)
    return figure


def plot_changes(tree: DataTree) -> Figure:
    """Draw what every synapse learned against what another rule would have it learn.

    Parameters
    ----------
    tree : xarray.DataTree
        With the group ``changes``: ``learned``, ``gradient`` and ``weight`` (synapse), the last
        being the name of the weights that a synapse is one of.

    Examples
    --------
    >>> import xarray as xr
    >>> changes = xr.Dataset({
    ...     "learned": ("synapse", [1.0, 2.0], {"units": "1", "long_name": "one"}),
    ...     "gradient": ("synapse", [1.0, 3.0], {"units": "1", "long_name": "other"}),
    ...     "weight": ("synapse", ["W", "W"]),
    ... })
    >>> plot_changes(xr.DataTree.from_dict({"changes": changes})).axes[0].get_ylabel()
    'one'
    """
    from matplotlib.figure import Figure

    need(tree, "changes", "a comparison of two updates")
    data = tree["changes"].to_dataset()
    names = list(dict.fromkeys(data["weight"].values.tolist()))
    with style():
        figure = Figure(figsize=(2.9 * len(names) + 0.4, 3.3))
        for k, name in enumerate(names):
            ax = figure.add_subplot(1, len(names), k + 1)
            here = data.isel(synapse=(data["weight"] == name).values)
            x, y = here["gradient"].values, here["learned"].values
            ax.axhline(0, color=GREY, lw=0.6)
            ax.axvline(0, color=GREY, lw=0.6)
            ax.plot(x, y, "o", ms=3, color=BLUE, alpha=0.6)
            norms = np.linalg.norm(x) * np.linalg.norm(y)
            angle = np.degrees(np.arccos(np.clip(x @ y / norms, -1, 1))) if norms else np.nan
            ax.set_title(f"{name}: {angle:.0f}° apart")
            ax.set_xlabel(data["gradient"].attrs["long_name"])
            if k == 0:
                ax.set_ylabel(data["learned"].attrs["long_name"])
            ax.locator_params(nbins=4)
            ax.ticklabel_format(scilimits=(-2, 2))
        figure.suptitle("change of every synapse, per unit of the learning rate", fontsize=10)
    return figure


def _graph(ax: Axes, graph: Dataset) -> None:
    """Draw populations in columns, and arrows between them: dashed where they lead backward."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    places = _places(graph)
    meanings = graph["kind"].attrs["flag_meanings"].split()
    used = set()
    for pre, post, kind, backward in zip(
        graph["pre"].values,
        graph["post"].values,
        graph["kind"].values,
        graph["backward"].values,
        strict=True,
    ):
        name = meanings[kind]
        used.add(name)
        (x0, y0), (x1, y1) = places[pre], places[post]
        arrow = FancyArrowPatch(
            (x0, y0), (x1, y1),
            arrowstyle="-|>", mutation_scale=11, shrinkA=15, shrinkB=15, lw=1.5,
            color=COLOURS[name], linestyle="--" if backward else "-",
            connectionstyle="arc3,rad=0.45" if backward else "arc3,rad=0.0",
        )  # fmt: skip
        ax.add_patch(arrow)
    for population, size, neurons in zip(
        graph["population"].values, graph["size"].values, graph["neurons"].values, strict=True
    ):
        x, y = places[population]
        ax.plot(
            [x], [y], "o" if neurons else "s", ms=26,
            mfc="white", mec=BLACK if neurons else GREY, mew=1.4, zorder=3,
        )  # fmt: skip
        words = f"{population}\n({size})"
        ax.text(x, y, words, ha="center", va="center", fontsize=7, zorder=4)
    xs, ys = zip(*places.values(), strict=True)
    ax.set_xlim(min(xs) - 0.5, max(xs) + 0.6)
    ax.set_ylim(min(ys) - 0.9, max(ys) + 0.6)
    ax.set_axis_off()
    handles = [
        Line2D([], [], color=COLOURS[name], label=name.replace("_", " "))
        for name in meanings
        if name in used
    ]
    if bool((graph["backward"].values == 1).any()):
        handles.append(Line2D([], [], color=GREY, ls="--", label="leads backward"))
    ax.legend(handles=handles, loc="lower center", ncols=3, fontsize=7, bbox_to_anchor=(0.5, -0.06))


def _places(graph: Dataset) -> dict[str, tuple[float, float]]:
    """Return where populations stand: neurons on one line, sources above and below their column."""
    columns = dict(zip(graph["population"].values, graph["column"].values, strict=True))
    neurons = dict(zip(graph["population"].values, graph["neurons"].values, strict=True))
    places = {name: (float(columns[name]), 0.0) for name in columns if neurons[name]}
    taken: dict[int, int] = {}
    for name in columns:
        if not neurons[name]:
            column = int(columns[name])
            free = column in {int(x) for x, _ in places.values()}
            turn = taken.get(column, int(free))
            taken[column] = turn + 1
            places[name] = (float(column), float(np.ceil(turn / 2) * (1 if turn % 2 else -1)))
    return places
