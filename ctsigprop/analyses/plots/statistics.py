"""Statistics of weights and activities as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.plots.look import PALETTE, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import Dataset

__all__ = ["plot_statistics"]

PANELS = {
    "one sign (fraction of neurons)": {"dale": "weights", "dale_by_chance": "by chance"},
    "size of weights": {"sd": "sd", "spectral_norm": "largest singular value"},
    "shape of the distribution": {"skewness": "skewness", "kurtosis": "excess kurtosis"},
    "distance to a log-normal": {"log_normal_distance": ""},
    "activity": {"mean": "mean", "silent": "fraction silent"},
    "sparseness": {"population_sparseness": "population", "lifetime_sparseness": "lifetime"},
    "inhibition": {"inhibition": "part of excitation", "balance": "correlation with it"},
}


def plot_statistics(table: Dataset) -> Figure:
    """Draw the statistics of every matrix of weights, or of the activity of every layer.

    Parameters
    ----------
    table : Dataset
        From `weight_statistics` or `activity_statistics`.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.analyses.statistics import weight_statistics
    >>> figure = plot_statistics(weight_statistics(ct.Sigprop(ct.Layers.dense([4, 8, 2]))))
    >>> [ax.get_title() for ax in figure.axes][:2]
    ['one sign (fraction of neurons)', 'size of weights']
    """
    from matplotlib.figure import Figure

    shown = {title: names for title, names in PANELS.items() if set(names) <= {*table.data_vars}}
    if not shown:
        raise ValueError(
            "this table has no statistics; they come from weight_statistics or "
            f"activity_statistics. Its variables: {', '.join(map(str, table.data_vars)) or '-'}"
        )
    (dim,) = table[next(iter(next(iter(shown.values()))))].dims
    places = np.arange(table.sizes[dim])
    with style():
        figure = Figure(figsize=(1.2 + 2.4 * len(shown), 1.4 + 0.45 * max(len(places), 4)))
        axes = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
        for ax, (title, names) in zip(axes, shown.items(), strict=True):
            height = 0.8 / len(names)
            for k, (name, text) in enumerate(names.items()):
                at = places + height * (k - (len(names) - 1) / 2)
                ax.barh(at, table[name].values, 0.9 * height, color=PALETTE[k], label=text)
            ax.axvline(0, color="k", lw=0.6)
            if "fraction" in title:
                ax.set_xlim(0, 1)
            ax.set_title(title)
            ax.grid(axis="x", color="#E5E5E5", lw=0.6)
            ax.set_axisbelow(True)
            if len(names) > 1:
                ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8)
        axes[0].set_yticks(places, [str(value) for value in table[dim].values])
        axes[0].invert_yaxis()
    return figure
