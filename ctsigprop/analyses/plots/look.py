"""The look that all figures share: colours, labels, and the refusal of a wrong tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALETTE",
    "PURPLE",
    "SKY",
    "VERMILION",
    "derivative",
    "label",
    "math_name",
    "need",
    "style",
    "written_unit",
]

# the palette of Okabe and Ito, which colour-blind readers can tell apart
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#8C8C8C"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)

GREEK = (
    *("alpha", "beta", "gamma", "delta", "eta", "theta", "lambda", "mu", "nu", "rho", "sigma"),
    *("tau", "phi", "psi", "omega"),
)

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@contextmanager
def style() -> Iterator[None]:
    """Set the look that all figures share.

    >>> from matplotlib.figure import Figure
    >>> with style():
    ...     figure = Figure()
    >>> figure.get_dpi()
    150.0
    """
    import matplotlib as mpl
    from cycler import cycler

    look: Any = {
        "figure.dpi": 150,
        "savefig.dpi": 150,
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=PALETTE),
        "lines.linewidth": 1.6,
        "legend.frameon": False,
        "svg.hashsalt": "ctsigprop",
    }
    with mpl.rc_context(look):
        yield


def need(tree: DataTree, group: str, source: str) -> None:
    """Refuse a tree without a group, and say what makes one that has it."""
    if group not in tree.children:
        raise ValueError(
            f"this tree has no group '{group}'; it should come from {source}. "
            f"Its groups: {', '.join(map(str, tree.children)) or '-'}"
        )


def label(array: DataArray, name: str = "") -> str:
    """Return the label of an axis: a name, and the unit that its data carries."""
    unit = array.attrs.get("units", "1")
    return (name or math_name(str(array.name))) + (
        f" ({written_unit(unit)})" if unit != "1" else ""
    )


def written_unit(unit: str) -> str:
    """Return a unit as it is printed.

    >>> written_unit("uA/cm**2"), written_unit("mV")
    ('μA/cm²', 'mV')
    """
    raised = re.sub(r"\*\*(-?\d)", lambda m: m[1].translate(SUPERSCRIPTS), unit)
    return re.sub(r"(?<![A-Za-z])u(?=[A-Za-z])", "μ", raised)


def math_name(name: str) -> str:
    r"""Return a name as mathematics: single letters in italics, suffixes as subscripts.

    >>> math_name("W_y_x"), math_name("v"), math_name("theta"), math_name("eigenvalue")
    ('$W_\\mathrm{y,x}$', '$v$', '$\\theta$', '$\\mathrm{eigenvalue}$')
    """
    base, _, suffix = name.partition("_")
    shown = rf"\{base}" if base in GREEK else base if len(base) == 1 else rf"\mathrm{{{base}}}"
    return f"${shown}" + (rf"_\mathrm{{{suffix.replace('_', ',')}}}$" if suffix else "$")


def derivative(name: str) -> str:
    r"""Return dx/dt for a name.

    >>> derivative("v")
    '$\\mathrm{d}v/\\mathrm{d}t$'
    """
    return rf"$\mathrm{{d}}{math_name(name).strip('$')}/\mathrm{{d}}t$"
