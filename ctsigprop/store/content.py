"""The content of a result: what may be kept, how its attributes are written, its checksums."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from xarray import Dataset, DataTree, Variable

__all__ = ["checksums", "decode", "encode", "from_json", "groups", "to_json"]

_JSON = "json:"
_TUPLE = "__tuple__"
_AWKWARD = re.compile("^json:|[\0\ud800-\udfff]")
_KINDS = {"b": "bool", "i": "int", "u": "unsigned int", "f": "float32 or float64", "U": "str"}


def groups(tree: DataTree) -> dict[str, Dataset]:
    """Return the dataset of every group by its path below ``tree``, once all may be kept.

    Attributes become Python's own values: NumPy scalars become numbers, and arrays lists.

    Raises
    ------
    TypeError
        If a dtype or the type of an attribute cannot be kept.
    ValueError
        If a variable has the same dimension twice.
    """
    found = {}
    for relative, node in tree.subtree_with_keys:
        path = "/" if relative == "." else f"/{relative}"
        dataset = node.to_dataset(inherit=node is tree).copy()
        dataset.attrs = _plain_attrs(dataset.attrs, path)
        for name, variable in dataset.variables.items():
            where = f"{path.rstrip('/')}/{name}"
            _check_variable(variable, where)
            variable.attrs = _plain_attrs(variable.attrs, where)
        found[path] = dataset.load()
    return found


def _check_variable(variable: Variable, where: str) -> None:
    repeated = sorted({str(dim) for dim in variable.dims if variable.dims.count(dim) > 1})
    if repeated:
        raise ValueError(
            f"variable '{where}' has dimension {repeated[0]!r} twice, dims={variable.dims}; "
            "give each axis its own name, as (post, pre) for weights"
        )
    dtype = variable.dtype
    if dtype.kind == "c":
        raise TypeError(
            f"variable '{where}' is {dtype}, which netCDF cannot hold; store the two parts along "
            "a dimension part=(re, im)"
        )
    if dtype.kind not in _KINDS or (dtype.kind == "f" and dtype.itemsize not in (4, 8)):
        advice = "; make names of it with .astype(str)" if dtype.kind in "OTS" else ""
        raise TypeError(
            f"variable '{where}' has dtype {dtype}; accepted: {', '.join(_KINDS.values())}{advice}"
        )


def _plain_attrs(attrs: Mapping[Any, Any], where: str) -> dict[str, Any]:
    for name in attrs:
        if not isinstance(name, str) or not name:
            raise TypeError(f"attribute {name!r} of '{where}': the name must be a string")
    return {name: plain(value, f"attribute {name!r} of '{where}'") for name, value in attrs.items()}


def plain(value: Any, what: str) -> Any:
    """Return ``value`` as Python's own None, bool, int, float, str, list, tuple and dict.

    >>> plain({"shape": np.array([2, 3]), "seed": np.int64(7)}, "state")
    {'shape': [2, 3], 'seed': 7}
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = [plain(item, what) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == _TUPLE:
                raise TypeError(f"{what}: key {key!r} is not accepted; keys must be strings")
        return {key: plain(item, what) for key, item in value.items()}
    raise TypeError(
        f"{what} is a {type(value).__name__}; accepted: None, bool, int, float, str, and "
        "lists, tuples and dicts of them"
    )


def to_json(value: Any) -> str:
    """Write a plain value as JSON that tells tuples from lists.

    >>> to_json({"shape": (8, 8), "seed": None})
    '{"shape": {"__tuple__": [8, 8]}, "seed": null}'
    """

    def tagged(item: Any) -> Any:
        if isinstance(item, tuple):
            return {_TUPLE: [tagged(part) for part in item]}
        if isinstance(item, list):
            return [tagged(part) for part in item]
        if isinstance(item, dict):
            return {key: tagged(part) for key, part in item.items()}
        return item

    return json.dumps(tagged(value))


def from_json(text: str) -> Any:
    """Read what `to_json` wrote.

    >>> from_json(to_json({"shape": (8, 8), "seed": None}))
    {'shape': (8, 8), 'seed': None}
    """
    return json.loads(
        text, object_hook=lambda found: tuple(found[_TUPLE]) if _TUPLE in found else found
    )


def encode(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Write as JSON what not every format keeps, and leave the rest as it is.

    >>> encode({"units": "ms", "seed": None, "shape": (8, 8)})
    {'units': 'ms', 'seed': 'json:null', 'shape': 'json:{"__tuple__": [8, 8]}'}
    """
    return {
        name: value if _is_native(value) else _JSON + to_json(value)
        for name, value in attrs.items()
    }


def _is_native(value: Any) -> bool:
    """Whether netCDF and Zarr both give this value back as the same type."""
    if isinstance(value, list):  # netCDF gives a list of one number back as that number
        return (
            len(value) > 1
            and {type(item) for item in value} in ({int}, {float})
            and all(map(_is_native, value))
        )
    if isinstance(value, str):
        return not _AWKWARD.search(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def decode(attrs: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Undo `encode`.

    >>> decode({"units": "ms", "shape": 'json:{"__tuple__": [8, 8]}', "range": np.array([0, 1])})
    {'units': 'ms', 'shape': (8, 8), 'range': [0, 1]}
    """
    found = {}
    for name, value in attrs.items():
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        if isinstance(value, str) and value.startswith(_JSON):
            value = from_json(value.removeprefix(_JSON))
        found[str(name)] = value
    return found


def checksums(content: Mapping[str, Dataset]) -> dict[str, str]:
    """Return a SHA-256 for the attributes of every group, and one for every variable.

    The sum of a variable covers its dimensions, dtype, shape, values and attributes, and
    whether it is a coordinate. Byte order and the width of strings are not content.
    """
    found = {}
    for path, dataset in content.items():
        found[path] = hashlib.sha256(_canonical(dataset.attrs)).hexdigest()
        for name, variable in dataset.variables.items():
            is_text = variable.dtype.kind == "U"
            values = variable.values
            header = {
                "dims": list(variable.dims),
                "dtype": "str" if is_text else variable.dtype.name,
                "shape": list(variable.shape),
                "coordinate": name in dataset.coords,
                "attrs": variable.attrs,
            }
            digest = hashlib.sha256(_canonical(header))
            if is_text:
                digest.update(_canonical(values.tolist()))
            else:
                little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
                digest.update(little.reshape(-1).view(np.uint8).data)
            found[f"{path.rstrip('/')}/{name}"] = digest.hexdigest()
    return found


def _canonical(value: Any) -> bytes:
    return json.dumps(json.loads(to_json(value)), sort_keys=True).encode()
