"""What learning rules need, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.needs import ANSWERS, CRITERIA
from ctsigprop.analyses.plausibility import SCOPES
from ctsigprop.analyses.plots.look import BLUE, GREY, VERMILION, need, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from xarray import Dataset, DataTree

__all__ = ["plot_needs"]

COLOURS = {"no": "#FFFFFF", "yes": "#F3C7AE", "in_front": "#CFE3F1"}
SIGNS = {"no": "–", "yes": "needed", "in_front": "in front"}
SCOPE_SHADES = {"synapse": "#FFFFFF", "neuron": "#F4F4F4", "layer": "#E8E8E8", "batch": "#DADADA",
                "network": "#CACACA"}  # fmt: skip


def plot_needs(tree: DataTree) -> Figure:
    """Draw what every rule needs of a brain: one row a rule, one column a criterion.

    The last columns are the widest scope of a hidden layer's update, and the angles between the
    updates of the hidden layers and those of backpropagation, where the tree has them. Of several
    seeds, the answer is that of most.

    Parameters
    ----------
    tree : xarray.DataTree
        From `report`, with measures of `needs` put `side_by_side` by rule.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> import torch
    >>> from ctsigprop.analyses.needs import needs, side_by_side
    >>> from ctsigprop.analyses.plausibility import report
    >>> rule = ct.Sigprop(ct.Layers.dense([6, 8, 8, 4]))
    >>> found = needs(rule, torch.eye(4, 6), torch.tensor([0, 1, 2, 3]))
    >>> figure = plot_needs(report(side_by_side({"sigprop": found}, "rule")))
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['sigprop']
    """
    from matplotlib.figure import Figure

    need(tree, "plausibility", "report")
    table = tree["plausibility"].to_dataset()
    if "needed" not in table or "rule" not in table["needed"].dims:
        raise ValueError("the tree has no measures of needs() by rule: put them side_by_side first")
    columns = _columns(table)
    rules = [str(name) for name in table["rule"].values]
    with style():
        figure = Figure(figsize=(2.6 + 0.82 * len(columns), 1.5 + 0.28 * len(rules)))
        ax = figure.add_subplot()
        for x, (_, cells) in enumerate(columns):
            for y, (text, colour, ink) in enumerate(cells):
                ax.add_patch(_cell(x, y, colour))
                ax.text(x, y, text, ha="center", va="center", fontsize=7.5, color=ink)
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.set_ylim(len(rules) - 0.5, -0.5)
        ax.set_xticks(range(len(columns)), [name for name, _ in columns], fontsize=8)
        ax.xaxis.tick_top()
        ax.set_yticks(range(len(rules)), rules)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        figure.suptitle(tree.attrs.get("title", ""), fontsize=10)
    return figure


def _columns(table: Dataset) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the title of each column, and text, background and ink of its cells."""
    columns = []
    for name in CRITERIA:
        cells = []
        for value in _majority(table["needed"].sel(criterion=name).transpose("rule", ...).values):
            answer = ANSWERS[value] if value >= 0 else ""
            ink = {"yes": VERMILION, "in_front": BLUE}.get(answer, GREY)
            cells.append((SIGNS.get(answer, ""), COLOURS.get(answer, "#FFFFFF"), ink))
        columns.append((name.replace("_", "\n"), cells))
    hidden = table["layer"].values[:-1]
    widest = table["scope"].sel(layer=hidden).max("layer").transpose("rule", ...).values
    scopes = [SCOPES[value] if value >= 0 else "" for value in _majority(widest)]
    columns.append(
        ("scope", [(scope, SCOPE_SHADES.get(scope, "#FFFFFF"), "k") for scope in scopes])
    )
    if "angle" in table:
        angle = table["angle"].sel(layer=hidden)
        others = [dim for dim in angle.dims if dim not in ("rule", "layer")]
        for layer in hidden:
            one = angle.sel(layer=layer).mean(others).values
            cells = [(f"{v:.0f}°" if np.isfinite(v) else "", "#FFFFFF", "k") for v in one]
            columns.append((f"angle to\nBP, {layer}", cells))
    return columns


def _majority(values: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> list[int]:
    """Return for each row the flag that most seeds have."""
    rows = values.reshape(len(values), -1)
    return [int(np.bincount(row[row >= 0]).argmax()) if (row >= 0).any() else -1 for row in rows]


def _cell(x: int, y: int, colour: str) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, edgecolor="none")
