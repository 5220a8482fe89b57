"""Measures of learners as pictures: similarity of layers, robustness, energy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.plots.look import PALETTE, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import Dataset

__all__ = ["plot_energy", "plot_robustness", "plot_similarity"]


def plot_similarity(table: Dataset) -> Figure:
    """Draw how alike the layers of two networks are, by every measure of `similarity`.

    Examples
    --------
    >>> import torch
    >>> from ctsigprop.analyses.similarity import similarity
    >>> one = {"h1": torch.rand(9, 3), "y": torch.rand(9, 2)}
    >>> [ax.get_title() for ax in plot_similarity(similarity(one, one)).axes[:3]]
    ['cka', 'cka debiased', 'procrustes']
    """
    from matplotlib.figure import Figure

    names = [str(name) for name in table.data_vars]
    rows, columns = (table.sizes[dim] for dim in ("layer_a", "layer_b"))
    with style():
        width = 1.6 + max(2.0, 0.55 * columns)
        figure = Figure(figsize=(width * len(names), 1.2 + max(1.6, 0.5 * rows)))
        for ax, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
            values = table[name].transpose("layer_a", "layer_b").values
            image = ax.imshow(values, cmap="cividis", vmin=min(0.0, float(np.nanmin(values))))
            for (row, column), value in np.ndenumerate(values):
                dark = image.norm(value) < 0.5
                ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                        color="w" if dark else "k")  # fmt: skip
            ax.set_xticks(range(columns), [str(v) for v in table["layer_b"].values])
            ax.set_yticks(range(rows), [str(v) for v in table["layer_a"].values])
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title(name.replace("_", " "))
    return figure


def plot_robustness(table: Dataset) -> Figure:
    """Draw the accuracy over the strength of a perturbation: the mean, and the range of draws.

    Parameters
    ----------
    table : Dataset
        From `robustness`, or several of one perturbation put together along ``rule``.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> import torch
    >>> from ctsigprop.analyses.robustness import robustness
    >>> rule = ct.Sigprop(ct.Layers.dense([4, 8, 2]))
    >>> found = robustness(rule, torch.rand(20, 4), torch.arange(20) % 2, "noise", draws=2)
    >>> plot_robustness(found).axes[0].get_xlabel()
    'standard deviation of noise on the inputs'
    """
    from matplotlib.figure import Figure

    accuracy = 100 * table["accuracy"]
    rows = accuracy if "rule" in accuracy.dims else accuracy.expand_dims(rule=[""])
    with style():
        figure = Figure(figsize=(5.4, 3.6))
        ax = figure.add_subplot()
        for k, rule in enumerate(rows["rule"].values):
            one, colour = rows.sel(rule=rule), PALETTE[k % len(PALETTE)]
            ax.plot(table["level"], one.mean("draw"), "o-", color=colour, ms=3, label=str(rule))
            ax.fill_between(
                table["level"], one.min("draw"), one.max("draw"), color=colour, alpha=0.15, lw=0
            )
        ax.set(xlabel=table["level"].attrs["long_name"], ylabel="accuracy (%)")
        if table["accuracy"].attrs.get("perturbation") == "bits":
            ax.invert_xaxis()
        if "rule" in accuracy.dims:
            figure.legend(loc="outside lower center", ncols=4)
    return figure


def plot_energy(table: Dataset) -> Figure:
    """Draw the estimated energy of a sample by hardware, a bar from the low to the high price.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> import torch
    >>> from ctsigprop.analyses.energy import energy
    >>> rule = ct.Sigprop(ct.Layers.dense([4, 8, 2]))
    >>> figure = plot_energy(energy(rule, torch.rand(6, 4), torch.arange(6) % 2))
    >>> figure.axes[0].get_xlabel()
    'energy for a sample (J), low to high'
    """
    from matplotlib.figure import Figure

    hardware = [str(name) for name in table["hardware"].values]
    with style():
        figure = Figure(figsize=(6.4, 1.4 + 0.42 * len(hardware)))
        ax = figure.add_subplot()
        for k, phase in enumerate(table["phase"].values):
            low, high = (
                table["energy"].sel(phase=phase, bound=bound).values for bound in ("low", "high")
            )
            places = np.arange(len(hardware)) + 0.36 * (k - 0.5)
            ax.barh(places, high - low, left=low, height=0.3, color=PALETTE[k], label=str(phase))
        joule = table["energy"].values[table["energy"].values > 0]
        ax.set(xscale="log", xlim=(joule.min() / 2, 2 * joule.max()) if joule.size else None)
        ax.set_yticks(range(len(hardware)), hardware)
        ax.invert_yaxis()
        ax.set_xlabel("energy for a sample (J), low to high")
        ax.grid(axis="x", color="#E5E5E5", lw=0.6)
        ax.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=2)
    return figure
