"""Dimensional analysis of a text: every equation agrees, and is written for declared units."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import cast

from ctsigprop.equations.language import (
    Quantity,
    Reader,
    Statement,
    check_name,
    is_builtin,
    name_node,
    names_in,
    quoting,
    rescaled,
)
from ctsigprop.errors import UnitError
from ctsigprop.units import Unit, parse_unit

__all__ = ["analyse", "known_units"]

_Units = Mapping[str, str | None]


def known_units(
    statements: Sequence[Statement], outside: _Units, units_optional: bool
) -> dict[str, str | None]:
    """Return the unit of every symbol; the text wins over what is given from outside."""
    for name, unit in outside.items():
        check_name(name)
        if unit is not None:
            parse_unit(unit, of=name)
    known = dict(outside)
    for statement in statements:
        known[statement.name] = statement.unit or known.get(statement.name)
        if units_optional and statement.tree is not None:
            for name in names_in(statement.tree):
                if not is_builtin(name):
                    known.setdefault(name, None)
    return known


def analyse(
    statements: Sequence[Statement], units: _Units, time_unit: str | None
) -> tuple[str, dict[str, Quantity], dict[str, ast.expr]]:
    """Check the dimensions of every equation.

    Parameters
    ----------
    statements : sequence of Statement
        The text.
    units : mapping of str to str or None
        The unit of every symbol.
    time_unit : str or None
        Unit of time, where the caller names one.

    Returns
    -------
    time_unit : str
        "1" where the equations are dimensionless in time, else the one that was given, or "ms".
    symbols : dict of str to Quantity
        What every name stands for.
    codes : dict of str to ast.expr
        Code for each subexpression, in its unit, in an order in which each uses earlier ones only;
        then for each derivative, in its variable's unit / time unit.
    """
    ordered = _ordered(statements)
    _, values = _read(ordered, units, None)  # the time is a wildcard until its unit is known
    time = _time_unit(ordered, units, values, time_unit)
    symbols, values = _read(ordered, units, time)
    codes: dict[str, ast.expr] = {}
    for statement in ordered:
        unit = _unit(units[statement.name])
        if unit is not None and statement.kind == "differential":
            unit /= parse_unit(time)
        with quoting(statement.source):
            codes[statement.name] = _expressed(values[statement.name], unit)
    return time, symbols, codes


def _ordered(statements: Sequence[Statement]) -> list[Statement]:
    subs = {s.name: s for s in statements if s.kind == "subexpression"}
    graph = {name: sorted(names_in(_tree(s)) & set(subs)) for name, s in subs.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ValueError(f"subexpressions refer to each other in a circle: {circle}") from None
    return [*(subs[name] for name in order), *(s for s in statements if s.kind == "differential")]


def _tree(statement: Statement) -> ast.expr:
    return cast(ast.expr, statement.tree)


def _read(
    statements: Sequence[Statement], units: _Units, time: str | None
) -> tuple[dict[str, Quantity], dict[str, Quantity]]:
    """Return what the symbols are, and what each statement's expression is."""
    symbols = {name: Quantity(name_node(name), _unit(unit)) for name, unit in units.items()}
    symbols["t"] = Quantity(name_node("t"), _unit(time))
    values: dict[str, Quantity] = {}
    for statement in statements:
        with quoting(statement.source):
            value = values[statement.name] = Reader(symbols).read(_tree(statement))
            if statement.kind == "subexpression" and not names_in(value.code):
                unit = _unit(units[statement.name])  # a constant: written out where it is used
                symbols[statement.name] = Quantity(_expressed(value, unit), unit)
    return symbols, values


def _expressed(value: Quantity, unit: Unit | None) -> ast.expr:
    if value.unit is None or unit is None:
        return value.code
    if value.unit.dimension != unit.dimension:
        raise UnitError(f"the right side is in {value.unit.symbol}, the left in {unit.symbol}")
    return rescaled(value.code, value.unit.scale / unit.scale)


def _time_unit(
    statements: Sequence[Statement],
    units: _Units,
    values: Mapping[str, Quantity],
    given: str | None,
) -> str:
    second, one = parse_unit("s"), parse_unit("1")
    if given is not None and parse_unit(given).dimension not in (second.dimension, one.dimension):
        raise UnitError(f"time_unit is a unit of time or '1', got '{given}'")
    timed: list[Statement] = []
    plain: list[Statement] = []
    for statement in statements:
        unit, found = _unit(units[statement.name]), values[statement.name].unit
        if statement.kind != "differential" or unit is None or found is None:
            continue
        if found.dimension == (unit / second).dimension:
            timed.append(statement)
        elif found.dimension == unit.dimension:
            plain.append(statement)
        else:
            raise UnitError(
                f"{statement.source} — the right side is in {found.symbol}, "
                f"d{statement.name}/dt is in {unit.symbol} per time"
            )
    if timed and plain:
        odd, others = sorted((timed, plain), key=len)
        kinds = ("dimensionless in time", "in units per time")
        this, that = kinds if odd is plain else reversed(kinds)
        raise UnitError(f"{odd[0].source} — is {this}, '{others[0].source}' is {that}")
    if timed and given is not None and parse_unit(given).dimensionless:
        raise UnitError(f"{timed[0].source} — is in units per time, but time_unit is '{given}'")
    if timed:
        return given or "ms"
    return "1" if plain or given is None else given


def _unit(text: str | None) -> Unit | None:
    return None if text is None else parse_unit(text)
