"""A device for machines without a GPU: tensors that lie in the processor's memory, yet elsewhere.

What a GPU refuses is refused: tensors of two places in one operation, random numbers of a generator
that is elsewhere, and reading them as an array of NumPy. All else is done by the processor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

__all__ = ["another_device"]

NAME = "elsewhere"

ATEN = torch.ops.aten
MOVES = {ATEN.copy_, ATEN._to_copy, ATEN._copy_from}
INDEXES = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}
"""What takes indices from the processor, too."""
STRICT = {ATEN.cat, ATEN.stack, ATEN.mm, ATEN.addmm, ATEN.bmm, ATEN.dot, ATEN.mv, ATEN.gather}
"""What does not take a single number from the processor, as others do."""
FACTORIES = ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "randperm")
LEFT_OUT = ("device", "layout", "pin_memory", "memory_format")


class Elsewhere(Tensor):
    """A tensor on the device; `held` is what it is here."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        options = {"dtype": held.dtype, "device": f"{NAME}:0", "requires_grad": held.requires_grad}
        places = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return Tensor._make_wrapper_subclass(cls, held.shape, **places, **options)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        return run(operation, arguments, options or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(held: dict[str, Tensor], *_: Any) -> Elsewhere:
        return Elsewhere(held["held"])

    def tolist(self) -> Any:
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"a tensor on {NAME} is no array: use Tensor.cpu() first")

    __array__ = numpy


def run(operation: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """Let the processor do it, if a GPU would have done it."""
    flat, form = tree_flatten((arguments, options))
    there = [x for x in flat if isinstance(x, Elsewhere)]
    here = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, Elsewhere)]
    kind = operation.overloadpacket
    asked = options.get("device")
    goes = bool(there) if asked is None else torch.device(asked).type == NAME
    if kind is ATEN.copy_:
        goes = isinstance(arguments[0], Elsewhere)
    if there and here and kind not in MOVES:
        single, index = kind not in STRICT, kind in INDEXES
        fit = [(single and not x.dim()) or (index and not x.is_floating_point()) for x in here]
        if not all(fit):
            shapes = [[tuple(x.shape) for x in tensors] for tensors in (there, here)]
            raise RuntimeError(f"{operation}: of shapes {shapes[0]} {NAME}, and {shapes[1]} here")
    if goes and any(isinstance(x, torch.Generator) for x in flat):
        raise RuntimeError(f"{operation}: random numbers {NAME} from a generator here")
    flat = [x.held if isinstance(x, Elsewhere) else x for x in flat]
    flat = [torch.device("cpu") if isinstance(x, torch.device) else x for x in flat]
    inside, own = tree_unflatten(flat, form)
    found = operation(*inside, **own)
    if goes:
        found = tree_map_only(
            Tensor, lambda x: x if isinstance(x, Elsewhere) else Elsewhere(x), found
        )
        if any(value.alias_info is not None for value in operation._schema.returns):
            found = return_and_correct_aliasing(operation, arguments, options, found)
    return found


def made(operation: Callable[..., Tensor]) -> Callable[..., Elsewhere]:
    """Return what makes a tensor there."""

    def make(*arguments: Any, generator: Any = None, **options: Any) -> Elsewhere:
        if generator is not None:
            raise RuntimeError(f"random numbers {NAME} from a generator here")
        own = {name: value for name, value in options.items() if name not in LEFT_OUT}
        return Elsewhere(operation(*arguments, **own))

    return make


def copied(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy from one place to another."""
    held = [x.held if isinstance(x, Elsewhere) else x for x in (source, target)]
    held[1].copy_(held[0], non_blocking)
    return target


@cache
def another_device() -> tuple[torch.device, Sequence[Any]]:
    """Return a GPU, or the device that stands for one; and what to keep as long as it is used."""
    if torch.cuda.is_available():
        return torch.device("cuda"), ()
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    kernels: dict[str, Callable[..., Any]] = {
        "empty_strided": made(torch.empty_strided),
        "empty.memory_format": made(torch.empty),
        "_copy_from": copied,
    }
    for name in FACTORIES:
        base, _, overload = name.partition(".")
        kernels[name] = made(getattr(getattr(ATEN, base), overload or "default"))
    for name, kernel in kernels.items():
        library.impl(name, kernel, "PrivateUse1")
    return torch.device(NAME), (library,)


def no_inference(mode: bool = True) -> contextlib.AbstractContextManager[None]:
    """Stand for torch's inference mode, in which no tensor of a class of its own can be made."""
    return torch.no_grad() if mode else contextlib.nullcontext()  # type: ignore[return-value]
