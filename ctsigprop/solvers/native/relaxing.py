"""Leaky neurons that relax: all of a step of Euler's method beside products, in one pass."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
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

NEAR = 2**16
"""Numbers of a block of samples: what its units hear stays near until they move."""

SOURCE = """
def move(s, r, b, v, spans, numbers, block, units):
    for unit in range(units):
        row = 3 * (block * units + unit)
        begin, end, straight = spans[row], spans[row + 1], spans[row + 2]
        low, high = numbers[4 * unit], numbers[4 * unit + 1]
        height, share = numbers[4 * unit + 2], numbers[4 * unit + 3]
        for k in range(begin, end):
            u = r[k] + b[k]
            u = low if u < low else u
            u = high if u > high else u
            u = height * u + v[k] if straight else u
            s[k] += share * (u - s[k])
    return 0
"""
"""s += share·(height·clip(r + b, low, high) + v − s), for a block of samples of all units."""


@cache
def _kernel(letter: str) -> Kernel:
    return compiled(SOURCE, "move", f"{letter * 4}q{letter}ii")


@final
@dataclass(frozen=True)
class _Move:
    """What writes r before a step of a unit, block after block, and the numbers of the step."""

    entering: list[Operations]
    straight: bool  # whether anything enters beside the bend, or its height is not one
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
        self._begins = [*accumulate(sizes[:-1], initial=0)]
        self._known: dict[str, tuple[tuple[int, int], _Move]] = {}

    @staticmethod
    def accepts(s: Tensor) -> bool:
        """Tell if there is a kernel for such numbers."""
        return s.device.type == "cpu" and s.dtype in LETTERS and available()

    def steps(self, units: list[Unit], h: float, steps: int) -> list[Operations] | None:
        """Return a step by products and the kernel; None where it has no such form, or pay.

        It has a part for each block of samples, which do not wait for each other. It holds until
        the next is asked for.
        """
        if steps < LEAST:
            return None
        s = self._buffers[0]
        rows, apart = units[0].s.shape[0], all(one.apart for unit in units for one in unit.sums)
        count = max(1, min(rows, -(-s.numel() // NEAR))) if apart else 1
        blocks = [*pairwise(rows * k // count for k in range(count + 1))]
        moves = [self._move(k, unit, blocks) for k, unit in enumerate(units)]
        found = [move for move in moves if move is not None]
        if len(found) < len(units):
            return None
        spans = [
            (begin + low * unit.s.shape[1], begin + high * unit.s.shape[1], move.straight)
            for low, high in blocks
            for begin, unit, move in zip(self._begins, units, found, strict=True)
        ]
        numbers = [(move.low, move.high, move.height, h * move.decay) for move in found]
        self._tables = torch.tensor(spans), torch.tensor(numbers, dtype=s.dtype)
        unused = ctypes.byref(ctypes.c_int64()), ctypes.byref(ctypes.c_void_p())
        addresses = (part.data_ptr() for part in (*self._buffers, *self._tables))
        call = partial(_kernel(LETTERS[s.dtype]).call, *unused, *addresses)
        return [
            [*(one for move in found for one in move.entering[k]), partial(call, k, len(units))]
            for k in range(len(blocks))
        ]

    def _move(self, k: int, unit: Unit, blocks: list[tuple[int, int]]) -> _Move | None:
        """Return what is known of a unit since it was connected, unless what it hears coasts."""
        key = unit.connected, len(blocks)
        before, known = self._known.get(unit.name, (None, None))
        if before != key:
            b, v = (split[k].view_as(unit.s) for split in (self._bases, self._straights))
            parts = [slice(*block) for block in blocks] if len(blocks) > 1 else [None]
            known = _move(unit, b, v, parts)
            if known is not None and not any(one.coasting for one in unit.sums):
                self._known[unit.name] = key, known
        return known


def _move(unit: Unit, b: Tensor, v: Tensor, parts: Sequence[slice | None]) -> _Move | None:
    """Return the step of a unit; None if it has no such form. What is held goes into b and v."""
    bend, height, decay = unit.bend, unit.height, unit.decay if unit.leak is not None else None
    if not (isinstance(decay, float) and isinstance(height, float)):
        return None
    through, low, high, straight = unit.straight, -math.inf, math.inf, False
    if bend is not None:
        if bend.kind != "clip" or not unit.straight.still:
            return None
        through, low, high = unit.bent, bend.low, bend.high
        straight = not unit.straight.empty or height != 1.0
    if straight:
        _hold(v, unit.straight.base)
    entering = [through.entering(unit.buffer, rows=part) for part in parts]
    if not entering[0]:
        unit.buffer.zero_()
    _hold(b, through.base)
    if through.coasting:  # it moves, where the kernel reads it
        through.base = b
    return _Move(entering, straight, low, high, height, decay)


def _hold(buffer: Tensor, value: Tensor | None) -> None:
    if value is None:
        buffer.zero_()
    else:
        buffer.copy_(value)
