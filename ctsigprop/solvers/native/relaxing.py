"""Leaky neurons that relax: all of a step of Euler's method beside products, in one pass."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from ctsigprop.solvers.native.compiled import LETTERS, Kernel, available, compiled

if TYPE_CHECKING:
    from ctsigprop.solvers.inplace import Unit
    from ctsigprop.solvers.sums import Operations

__all__ = ["Moves"]

LEAST = 8
"""Steps from which the kernel is worth its call."""

TOGETHER = 2**16
"""Numbers up to which all units move together: they are still near when the last has heard."""

PLAIN, BASE, BOTH, HELD = range(4)

SOURCE = """
def move(s, r, b, v, whole, numbers, first, last):
    for unit in range(first, last):
        begin, end, kind = whole[3 * unit], whole[3 * unit + 1], whole[3 * unit + 2]
        low, high = numbers[4 * unit], numbers[4 * unit + 1]
        height, share = numbers[4 * unit + 2], numbers[4 * unit + 3]
        if kind == 0:
            for k0 in range(begin, end):
                u = r[k0]
                u = low if u < low else u
                u = high if u > high else u
                s[k0] += share * (u - s[k0])
        elif kind == 1:
            for k1 in range(begin, end):
                u = r[k1] + b[k1]
                u = low if u < low else u
                u = high if u > high else u
                s[k1] += share * (u - s[k1])
        elif kind == 2:
            for k2 in range(begin, end):
                u = r[k2] + b[k2]
                u = low if u < low else u
                u = high if u > high else u
                s[k2] += share * (height * u + v[k2] - s[k2])
        else:
            for k3 in range(begin, end):
                u = b[k3]
                u = low if u < low else u
                u = high if u > high else u
                s[k3] += share * (u - s[k3])
    return 0
"""
"""s += share·(height·clip(r + b, low, high) + v − s), for some of the units."""


@cache
def _kernel(letter: str) -> Kernel:
    return compiled(SOURCE, "move", f"{letter * 4}q{letter}ii")


@final
@dataclass(frozen=True)
class _Move:
    """What writes r before a step of a unit, and the numbers of the step."""

    entering: Operations
    kind: int
    low: float
    high: float
    height: float
    decay: float


@final
class Moves:
    """Steps of the units of a net by the kernel, in buffers beside those of the net.

    Parameters
    ----------
    s, r : Tensor
        The buffers of the net.
    sizes : list of int
        How many numbers each unit has there.
    """

    def __init__(self, s: Tensor, r: Tensor, sizes: list[int]) -> None:
        with torch.inference_mode(False):  # they may outlive it
            self._buffers = s, r, torch.empty_like(r), torch.empty_like(r)
        self._bases, self._straights = (torch.split(one, sizes) for one in self._buffers[2:])
        self._spans = [*pairwise(accumulate(sizes, initial=0))]
        self._known: dict[str, tuple[int, _Move]] = {}

    @staticmethod
    def accepts(s: Tensor) -> bool:
        """Tell if there is a kernel for such numbers."""
        return s.device.type == "cpu" and s.dtype in LETTERS and available()

    def steps(self, units: list[Unit], h: float, steps: int) -> Operations | None:
        """Return a step by products and the kernel; None where it has no such form, or pay.

        It holds until the next is asked for.
        """
        if steps < LEAST:
            return None
        moves = [self._move(k, unit) for k, unit in enumerate(units)]
        found = [move for move in moves if move is not None]
        if len(found) < len(units):
            return None
        s = self._buffers[0]
        whole = [(*span, move.kind) for span, move in zip(self._spans, found, strict=True)]
        numbers = [(move.low, move.high, move.height, h * move.decay) for move in found]
        self._tables = torch.tensor(whole), torch.tensor(numbers, dtype=s.dtype)
        unused = ctypes.byref(ctypes.c_int64()), ctypes.byref(ctypes.c_void_p())
        addresses = (part.data_ptr() for part in (*self._buffers, *self._tables))
        call = partial(_kernel(LETTERS[s.dtype]).call, *unused, *addresses)
        if s.numel() <= TOGETHER:
            entering = [one for move in found for one in move.entering]
            return [*entering, partial(call, 0, len(units))]
        return _in_turn(units, found, [partial(call, k, k + 1) for k in range(len(units))])

    def _move(self, k: int, unit: Unit) -> _Move | None:
        """Return what is known of a unit since it was connected, unless what it hears coasts."""
        connected, known = self._known.get(unit.name, (-1, None))
        if connected != unit.connected:
            b, v = (split[k].view_as(unit.s) for split in (self._bases, self._straights))
            known = _move(unit, b, v)
            if known is not None and not any(one.coasting for one in unit.sums):
                self._known[unit.name] = unit.connected, known
        return known


def _in_turn(units: list[Unit], moves: list[_Move], calls: Operations) -> Operations:
    """Return a step in which each unit moves as soon as all that hear it have heard.

    The last unit hears first, and what enters a unit is still near when it moves.
    """
    operations: Operations = []
    waiting = list(zip(units, moves, calls, strict=True))[::-1]
    heard: list[tuple[Unit, Callable[[], object]]] = []
    while waiting:
        unit, move, call = waiting.pop(0)
        operations += move.entering
        heard.append((unit, call))
        needed = {pre.name for other, _, _ in waiting for pre in other.pres}
        operations += [call for one, call in heard if one.name not in needed]
        heard = [(one, call) for one, call in heard if one.name in needed]
    return operations


def _move(unit: Unit, b: Tensor, v: Tensor) -> _Move | None:
    """Return the step of a unit; None if it has no such form. What is held goes into b and v."""
    bend, height, decay = unit.bend, unit.height, unit.decay if unit.leak is not None else None
    if not (isinstance(decay, float) and isinstance(height, float)):
        return None
    through, low, high, kind = unit.straight, -math.inf, math.inf, BASE
    if bend is not None:
        if bend.kind != "clip" or not unit.straight.still:
            return None
        through, low, high = unit.bent, bend.low, bend.high
        if not unit.straight.empty or height != 1.0:
            kind = BOTH
            _hold(v, unit.straight.base)
    entering = through.entering(unit.buffer)
    if not entering and kind == BOTH:
        unit.buffer.zero_()
    elif not entering:
        kind = HELD
    elif through.base is None and kind == BASE:
        return _Move(entering, PLAIN, low, high, height, decay)
    _hold(b, through.base)
    if through.coasting:  # it moves, where the kernel reads it
        through.base = b
    return _Move(entering, kind, low, high, height, decay)


def _hold(buffer: Tensor, value: Tensor | None) -> None:
    if value is None:
        buffer.zero_()
    else:
        buffer.copy_(value)
