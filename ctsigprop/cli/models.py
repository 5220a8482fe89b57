"""Models, parameters and ranges as the command line takes them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from ctsigprop.errors import unknown
from ctsigprop.models.catalogue import NEURONS, WINDOWS
from ctsigprop.models.neurons import TextNeuron

__all__ = ["Model", "Parameters", "Ranges", "intervals", "neuron", "pairs", "window"]

Model = Annotated[str, typer.Argument(help="A shipped neuron, or a file with equations.")]
Parameters = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE of a parameter; repeat it.")
]
Ranges = Annotated[
    list[str] | None, typer.Option("--range", help="NAME=LOW:HIGH of a variable; repeat it.")
]


def pairs(given: list[str] | None) -> dict[str, float]:
    """Return the numbers of an option NAME=NUMBER that may be repeated."""
    found: dict[str, float] = {}
    for item in given or []:
        name, _, value = item.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ValueError(f"'{item}' must be NAME=NUMBER") from None
    return found


def intervals(given: list[str] | None) -> dict[str, tuple[float, float]]:
    """Return the ranges of an option NAME=LOW:HIGH that may be repeated."""
    found: dict[str, tuple[float, float]] = {}
    for item in given or []:
        name, _, value = item.partition("=")
        low, _, high = value.partition(":")
        try:
            found[name.strip()] = float(low), float(high)
        except ValueError:
            raise ValueError(f"'{item}' must be NAME=LOW:HIGH") from None
    return found


def neuron(model: str, parameters: dict[str, float]) -> TextNeuron:
    """Return a shipped neuron, or one from a file."""
    if Path(model).is_file():
        values: dict[str, Any] = dict(parameters)
        return TextNeuron(Path(model).read_text(), **values)
    if model not in NEURONS:
        raise ValueError(f"{unknown('model', model, NEURONS)}; or a file with equations")
    accepted = set(inspect.signature(NEURONS[model]).parameters) - {"name", "size"}
    for name in parameters:
        if name not in accepted:
            raise ValueError(unknown(f"parameter of {model}", name, accepted))
    return NEURONS[model](**parameters)


def window(model: str, given: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Return the ranges that were given, before those that a shipped model has."""
    usual = {} if Path(model).is_file() else dict(WINDOWS[model])
    return given | {name: bounds for name, bounds in usual.items() if name not in given}
