"""The schema of a run: how its groups, dimensions, units and verdicts are written."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.errors import UnitError

if TYPE_CHECKING:
    from xarray import Dataset, DataTree, Variable

__all__ = ["CONVENTIONS", "validate"]

CONVENTIONS = "CF-1.11 ctsigprop-1"
"""The ``Conventions`` attribute of every run: CF, and the version of this schema."""

_GROUP = re.compile(r"[a-z][a-z0-9_]*")
_LONG_TIMES = re.compile(r"\b((?:milli|micro|nano)?seconds?|minutes?|hours?|days?)\b")


def validate(tree: DataTree) -> list[str]:
    """Say in words where a run departs from the schema ``ctsigprop-1``; empty if nowhere.

    - The root has ``Conventions``, ``title``, ``created_at`` (ISO 8601), ``creation_library`` and
      ``creation_library_version``.
    - Groups are lower-case identifiers. Every dimension has a coordinate, and no other variable
      has its name. No variable has a dimension twice; weights are ``(post, pre)``.
    - Numbers have ``units`` that are symbols, except flags, strings and booleans.
    - ``time`` is strictly monotonic. Values are finite; NaN is for what ``missing`` explains.
    - Eigenvalues have a dimension ``part`` = (re, im); nothing is complex.
    - Verdicts are CF flags: a meaning for each of ``flag_values``, and no other value.

    Parameters
    ----------
    tree : xarray.DataTree
        A run.

    Examples
    --------
    >>> import xarray as xr
    >>> validate(xr.DataTree())[0]
    "/: attribute 'Conventions' must be 'CF-1.11 ctsigprop-1', got None"
    """
    import xarray as xr

    if not isinstance(tree, xr.DataTree):
        raise TypeError(f"tree must be an xarray.DataTree, got {type(tree).__name__}")
    problems = [f"/: {problem}" for problem in _root_problems(tree.attrs)]
    for relative, node in tree.subtree_with_keys:
        path = "/" if relative == "." else f"/{relative}"
        if node is not tree and not _GROUP.fullmatch(node.name or ""):
            problems.append(f"{path}: the name of a group must be a lower-case identifier")
        own, seen = node.to_dataset(inherit=node is tree), node.to_dataset()
        problems += [f"{path}: {problem}" for problem in _dimension_problems(own, seen)]
        for name, variable in own.variables.items():
            problems += [
                f"{path.rstrip('/')}/{name}: {problem}"
                for problem in _variable_problems(path, str(name), variable, seen)
            ]
    return problems


def _root_problems(attrs: Mapping[Any, Any]) -> Iterator[str]:
    if attrs.get("Conventions") != CONVENTIONS:
        yield f"attribute 'Conventions' must be '{CONVENTIONS}', got {attrs.get('Conventions')!r}"
    for name in ("title", "creation_library", "creation_library_version"):
        if not isinstance(attrs.get(name), str) or not attrs[name].strip():
            yield f"attribute '{name}' must be a text, got {attrs.get(name)!r}"
    try:
        datetime.fromisoformat(attrs.get("created_at", ""))
    except (TypeError, ValueError):
        yield f"attribute 'created_at' must be an ISO 8601 time, got {attrs.get('created_at')!r}"


def _dimension_problems(own: Dataset, seen: Dataset) -> Iterator[str]:
    for dim, size in own.sizes.items():
        if size > 0 and dim not in seen.coords:
            yield f"dimension '{dim}' has no coordinate"


def _variable_problems(path: str, name: str, variable: Variable, seen: Dataset) -> Iterator[str]:
    dims = variable.dims
    if name in seen.dims and dims != (name,):
        yield f"has the name of a dimension, but is not its coordinate, dims={_written(dims)}"
    if len(set(dims)) < len(dims):
        yield f"has a dimension twice, dims={_written(dims)}"
    is_weight = path.split("/")[1] == "weights" and {"post", "pre"} <= set(dims)
    if is_weight and dims.index("pre") != dims.index("post") + 1:
        yield f"weights must be (post, pre), got dims={_written(dims)}"
    if variable.dtype.kind == "c":
        yield "is complex; store the parts along a dimension part=(re, im)"
        return
    if variable.dtype.kind not in "biufU":
        yield f"dtype {variable.dtype} is not part of the schema"
        return
    if name.lower().rstrip("s").endswith("eigenvalue") and "part" not in dims:
        yield f"eigenvalues need a dimension 'part', got dims={_written(dims)}"
    if name == "part" and variable.values.tolist() != ["re", "im"]:
        yield f"must be ['re', 'im'], got {variable.values.tolist()}"
    yield from _unit_problems(variable)
    yield from _flag_problems(variable)
    yield from _value_problems(name, variable)


def _unit_problems(variable: Variable) -> Iterator[str]:
    from ctsigprop.units import parse_unit

    units = variable.attrs.get("units")
    if units is None:
        if variable.dtype.kind in "iuf" and "flag_values" not in variable.attrs:
            yield "has no units ('1' if it has no dimension)"
        return
    if isinstance(units, str) and (long := _LONG_TIMES.search(units.lower())):
        yield f"units '{units}': write the symbol of '{long[0]}' (xarray decodes the long names)"
        return
    try:
        parse_unit(units)
    except (UnitError, TypeError) as error:
        yield f"units {units!r}: {error}"


def _flag_problems(variable: Variable) -> Iterator[str]:
    meanings = str(variable.attrs.get("flag_meanings", "")).split()
    if "flag_values" not in variable.attrs:
        if meanings:
            yield "has flag_meanings but no flag_values"
        return
    flags = np.atleast_1d(variable.attrs["flag_values"])
    if len(meanings) != len(flags):
        yield f"has {len(flags)} flag_values but {len(meanings)} flag_meanings"
    others = np.setdiff1d(variable.values, flags)
    if others.size:
        yield f"has values {others.tolist()[:5]}, not among its flag_values {flags.tolist()}"


def _value_problems(name: str, variable: Variable) -> Iterator[str]:
    values = variable.values
    if variable.dtype.kind == "f":
        if np.isinf(values).any():
            yield "has infinite values"
        if np.isnan(values).any() and not str(variable.attrs.get("missing", "")).strip():
            yield "has NaN, and no attribute 'missing' that explains it"
    if name == "time" and variable.dims == ("time",) and variable.dtype.kind in "iuf":
        steps = np.sign(values[1:].astype(float) - values[:-1].astype(float))
        if steps.size and (steps[0] == 0 or (steps != steps[0]).any()):
            yield "must be strictly monotonic"


def _written(dims: tuple[Hashable, ...]) -> str:
    return f"({', '.join(map(str, dims))})"
