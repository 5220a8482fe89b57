"""What torch runs, counted operation by operation: arithmetic, traffic, tensors that are alive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from weakref import finalize

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["Counting"]


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is run in its context, on the way back of a gradient too.

    Attributes
    ----------
    operations : int
        Of matrix products and convolutions, two for each multiplication and sum: torch's formulas.
    moved : int
        Bytes of the tensors that operations took and gave; a view moves nothing.
    peak : int
        Bytes of the tensors made here that were alive at the same time, at most; one operation's
        own scratch is not seen. Views share the memory of what they show.
    most : int
        How many there were, at most.

    Examples
    --------
    >>> import torch
    >>> with Counting() as counted:
    ...     y = (torch.ones(2, 3) @ torch.ones(3, 4)).sum()
    >>> counted.operations, counted.moved, counted.peak
    (48, 212, 104)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.moved = 0, 0
        self.now, self.peak, self.most = 0, 0, 0
        self._alive = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((*args, *kwargs.values())))
        before = {_key(tensor) for tensor in given}
        result = func(*args, **kwargs)
        made = list(_tensors((result,)))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += int(formula(*args, **kwargs, out_val=result))
        if not func.is_view:
            self.moved += sum(t.numel() * t.element_size() for t in (*given, *made))
        for tensor in made:
            if _key(tensor) not in before:
                self._follow(tensor)
        return result

    def _follow(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self._alive:
            return
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self._alive.add(key)
        self.now += size
        self.peak, self.most = max(self.peak, self.now), max(self.most, len(self._alive))
        finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
