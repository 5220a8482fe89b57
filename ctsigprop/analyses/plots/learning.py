"""What training did: accuracies, and the weights as images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.plots.look import BLUE, VERMILION, label, math_name, need, style
from ctsigprop.errors import unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

__all__ = ["plot_learning", "plot_weights"]

MOST_FIELDS = 64


def plot_learning(tree: DataTree) -> Figure:
    """Draw accuracies over epochs, with those of the frozen control where the tree has them.

    Parameters
    ----------
    tree : xarray.DataTree
        From `Training.to_xarray`.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.data import digits
    >>> learner = ct.ContinuousSigprop(ct.sigprop_network([64, 4, 10]))
    >>> run = ct.train(learner, digits(), epochs=1, batch=500)
    >>> plot_learning(run.to_xarray()).axes[0].get_ylabel()
    'accuracy (%)'
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    need(tree, "learning", "train")
    runs = [("learning", "", BLUE)]
    if "control" in tree.children:
        runs = [("learning", "all layers, ", BLUE), ("control", "hidden frozen, ", VERMILION)]
    with style():
        figure = Figure(figsize=(6.0, 4.0))
        ax = figure.add_subplot()
        for group, who, colour in runs:
            learning = tree[group].to_dataset()
            for name, line in (("test_accuracy", "-"), ("train_accuracy", ":")):
                values = 100 * learning[name]
                marker = "o" if len(values) <= 30 else ""
                text = f"{who}{name.partition('_')[0]}"
                if len(values):
                    text += f" ({float(values[-1]):.1f} %)"
                ax.plot(
                    learning["epoch"], values, line, color=colour, marker=marker, ms=3, label=text
                )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="epoch", ylabel="accuracy (%)", title=tree.attrs["title"])
        ax.grid(axis="y", color="#E5E5E5", lw=0.6)
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def plot_weights(
    tree: DataTree,
    variable: str | None = None,
    *,
    stage: str = "final",
    shape: tuple[int, int] | None = None,
) -> Figure:
    """Draw the weights of each unit of a layer as an image: its receptive field.

    Parameters
    ----------
    tree : xarray.DataTree
        From `Training.to_xarray` or `Solution.to_xarray`.
    variable : str, optional
        Which weights; by default the first that have more than one input.
    stage : str
        "initial" or "final", for both kinds of tree.
    shape : tuple of int, optional
        Height and width of the input; by default it is a square. The first 64 units are drawn.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.data import digits
    >>> learner = ct.ContinuousSigprop(ct.sigprop_network([64, 4, 10]))
    >>> run = ct.train(learner, digits(), epochs=1, batch=500)
    >>> plot_weights(run.to_xarray(), stage="initial").axes[1].get_ylabel()
    'weight'
    """
    from matplotlib.figure import Figure

    need(tree, "weights", "train or solve")
    if stage not in ("initial", "final"):
        raise ValueError(f"stage must be 'initial' or 'final'; got {stage!r}")
    weights = {str(k): v for k, v in tree["weights"].to_dataset().data_vars.items()}
    matrices = [name for name, w in weights.items() if w.ndim == 3 and w.shape[-1] > 1]
    name = variable or next(iter(matrices), "")
    if name not in matrices:
        raise ValueError(unknown("weights", name, matrices))
    w = weights[name][0 if stage == "initial" else -1]
    fields = w.values
    side = math.isqrt(fields.shape[1])
    height, width = shape or (side, side)
    if height * width != fields.shape[1]:
        raise ValueError(
            f"shape must have {fields.shape[1]} pixels, as '{name}' has inputs; "
            f"got {shape or 'none, and that is no square'}"
        )
    count = min(len(fields), MOST_FIELDS)
    columns = math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    tiles = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for k, image in enumerate(fields[:count].reshape(-1, height, width)):
        i, j = divmod(k, columns)
        top, left = i * (height + 1), j * (width + 1)
        tiles[top : top + height, left : left + width] = image
    limit = float(np.abs(fields[:count]).max()) or 1.0
    with style():
        figure = Figure(figsize=(5.6, 1.0 + 4.6 * tiles.shape[0] / tiles.shape[1]))
        ax = figure.add_subplot()
        drawn = ax.imshow(tiles, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_axis_off()
        units = f"{count} of {len(fields)} units" if count < len(fields) else f"{count} units"
        ax.set_title(f"{math_name(name)}, {stage}: inputs of {units}")
        figure.colorbar(drawn, ax=ax, label=label(w, "weight"), shrink=0.8)
    return figure
