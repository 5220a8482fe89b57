"""How a thing was built, as plain data, and the thing built again from it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

__all__ = ["Recorded", "build", "describe"]

PACKAGE = "ctsigprop."


class Recorded(nn.Module):
    """A module that remembers the arguments that it was built with."""

    arguments: dict[str, Any]

    if TYPE_CHECKING:  # parameters and buffers are registered by name

        def __getattr__(self, name: str) -> Any: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the constructor's arguments."""
        self = super().__new__(cls)
        try:
            bound = _signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:  # __init__ itself will say what is wrong; copy brings its own
            return self
        object.__setattr__(self, "arguments", _plain(bound))
        return self


@lru_cache(maxsize=1024)
def _signature(constructor: Callable[..., None]) -> inspect.Signature:
    return inspect.signature(constructor)


def describe(thing: Any, arrays: dict[str, Tensor]) -> Any:
    """Return `thing` as data that JSON can hold; its tensors go into `arrays`.

    Parameters
    ----------
    thing : object
        A number, a string, a tensor or array, a list or mapping of such, a dataclass of this
        package (a solver, a parameter) or one of its recorded modules (a term, a signal, a system).
    arrays : dict of str to Tensor
        Receives the tensors.

    Raises
    ------
    TypeError
        For what cannot be built again from data: a function, a class from elsewhere.

    Examples
    --------
    >>> from ctsigprop.signals import Pulse
    >>> describe(Pulse(1.0, offset=2.0), {})
    {'type': 'ctsigprop.signals.Pulse', 'arguments': {'onset': 1.0, 'offset': 2.0}}
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, np.ndarray | np.generic):
        thing = torch.as_tensor(thing)
    if isinstance(thing, Tensor):
        key = f"a{len(arrays)}"
        arrays[key] = thing.detach().clone()
        return {"array": key}
    if isinstance(thing, list | tuple):
        items = [describe(item, arrays) for item in thing]
        return {"tuple": items} if isinstance(thing, tuple) else items
    if isinstance(thing, Mapping):
        return {"mapping": [[str(k), describe(v, arrays)] for k, v in thing.items()]}
    own = type_before_parametrizations(thing) if isinstance(thing, nn.Module) else type(thing)
    kind = f"{own.__module__}.{own.__qualname__}"
    if kind.startswith(PACKAGE) and dataclasses.is_dataclass(thing):
        fields = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if f.init}
        return {"type": kind, "arguments": {k: describe(v, arrays) for k, v in fields.items()}}
    if kind.startswith(PACKAGE) and isinstance(thing, Recorded):
        return {
            "type": kind,
            "arguments": {k: describe(v, arrays) for k, v in thing.arguments.items()},
        }
    raise TypeError(f"a {kind} cannot be described as data")


def build(data: Any, arrays: Mapping[str, Tensor]) -> Any:
    """Return the thing that `describe` described; only classes of this package are built.

    Examples
    --------
    >>> from ctsigprop.signals import Pulse
    >>> build(describe(Pulse(1.0, offset=2.0), {}), {}).offset
    2.0
    """
    if isinstance(data, list):
        return [build(item, arrays) for item in data]
    if not isinstance(data, Mapping):
        return data
    if "array" in data:
        return arrays[data["array"]]
    if "tuple" in data:
        return tuple(build(item, arrays) for item in data["tuple"])
    if "mapping" in data:
        return {key: build(value, arrays) for key, value in data["mapping"]}
    arguments = {name: build(value, arrays) for name, value in data["arguments"].items()}
    positional = arguments.pop("*", [])
    return _class(data["type"])(*positional, **arguments)


def _class(path: str) -> type:
    if not path.startswith(PACKAGE):
        raise ValueError(f"'{path}' is not a class of this package")
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    if not (
        isinstance(found, type) and (issubclass(found, Recorded) or dataclasses.is_dataclass(found))
    ):
        raise ValueError(f"'{path}' is nothing that a stored run may build")
    return found


def _plain(bound: inspect.BoundArguments) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if name == "self":
            continue
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            arguments["*"] = list(value)
        else:
            arguments[name] = value.clone() if isinstance(value, torch.Tensor) else value
    return arguments
