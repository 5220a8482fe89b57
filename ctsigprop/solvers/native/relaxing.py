"""Leaky neurons that relax: all of a step of Euler's method beside products, in one pass."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from ctsigprop.solvers.native.compiled import LETTERS, Kernel, available, compiled

if TYPE_CHECKING:
    from ctsigprop.solvers.inplace import Net, Unit
    from ctsigprop.solvers.sums import Operations

__all__ = ["native_steps"]

LEAST = 8
"""Steps from which the kernel is worth its call."""

TOGETHER = 2**16
"""Numbers up to which all units move together: they are still near when the last has heard."""

PLAIN, BASE, BOTH = 0, 1, 2

SOURCE = """
def move(s, r, b, v, c, n, kind):
    low, high, height, share = c[0], c[1], c[2], c[3]
    if kind == 0:
        for k0 in range(n):
            u = r[k0]
            u = low if u < low else u
            u = high if u > high else u
            s[k0] += share * (u - s[k0])
    elif kind == 1:
        for k1 in range(n):
            u = r[k1] + b[k1]
            u = low if u < low else u
            u = high if u > high else u
            s[k1] += share * (u - s[k1])
    else:
        for k2 in range(n):
            u = r[k2] + b[k2]
            u = low if u < low else u
            u = high if u > high else u
            s[k2] += share * (height * u + v[k2] - s[k2])
    return 0
"""
"""s += share·(height·clip(r + b, low, high) + v − s), of n numbers."""


@cache
def _kernel(letter: str) -> Kernel:
    return compiled(SOURCE, "move", f"{letter * 5}ii")


@dataclass
class _Move:
    """A step of some numbers, what writes r before it, and how it is taken; None is zero."""

    entering: Operations
    s: Tensor
    r: Tensor
    base: Tensor | None
    straight: Tensor | None
    numbers: tuple[float, float, float, float]  # low, high, height, share
    live: bool = False  # whether the base moves

    def joins(self, first: _Move, buffer: Tensor) -> bool:
        """Tell whether it can be one with others, in buffers that lie side by side."""
        alone = self.live or self.straight is not None or self.r is not buffer
        return not alone and self.numbers == first.numbers

    def operation(self) -> Callable[[], object]:
        """Return what takes it."""
        kind = PLAIN if self.base is None else BASE
        b, v = self.base, self.straight
        if v is not None or self.numbers[2] != 1.0:
            kind = BOTH
            b, v = (torch.zeros_like(self.r) if one is None else one for one in (b, v))
        c = self.s.new_tensor(self.numbers)
        parts = (self.s, self.r, self.r if b is None else b, self.r if v is None else v, c)
        return _Call(_kernel(LETTERS[self.s.dtype]), parts, self.s.numel(), kind)


@final
class _Call:
    """The kernel with what it works on, which it keeps."""

    def __init__(self, kernel: Kernel, parts: tuple[Tensor, ...], n: int, kind: int) -> None:
        self.parts, self.call = parts, kernel.call
        unused = ctypes.byref(ctypes.c_int64()), ctypes.byref(ctypes.c_void_p())
        self.arguments = (*unused, *(part.data_ptr() for part in parts), n, kind)

    def __call__(self) -> None:
        """Take the step."""
        self.call(*self.arguments)


def native_steps(net: Net, h: float, steps: int) -> Operations | None:
    """Return a step of a net by products and the kernel; None where it has no such form, or pay."""
    like = net.s
    known = like.device.type == "cpu" and like.dtype in LETTERS
    if not (net.native and known and steps >= LEAST and available()):
        return None
    moves: list[_Move] = []
    for unit in net.units:
        move = _move(unit, h)
        if move is None:
            return None
        moves.append(move)
    joined = all(m.joins(moves[0], unit.buffer) for m, unit in zip(moves, net.units, strict=True))
    if joined and like.numel() <= TOGETHER:
        base = None
        if any(move.base is not None for move in moves):
            parts = [torch.zeros_like(m.r) if m.base is None else m.base for m in moves]
            base = torch.cat([part.view(-1) for part in parts])
        whole = _Move([], net.s, net.r, base, None, moves[0].numbers)
        return [*(one for move in moves for one in move.entering), whole.operation()]
    return _in_turn(net.units, moves)


def _in_turn(units: list[Unit], moves: list[_Move]) -> Operations:
    """Return a step in which each unit moves as soon as all that hear it have heard.

    The last unit hears first, and what enters a unit is still near when it moves.
    """
    operations: Operations = []
    waiting = list(zip(units, moves, strict=True))[::-1]
    heard: list[tuple[Unit, _Move]] = []
    while waiting:
        unit, move = waiting.pop(0)
        operations += move.entering
        heard.append((unit, move))
        needed = {pre.name for other, _ in waiting for pre in other.pres}
        operations += [m.operation() for one, m in heard if one.name not in needed]
        heard = [(one, m) for one, m in heard if one.name in needed]
    return operations


def _move(unit: Unit, h: float) -> _Move | None:
    """Return the step of a unit; None where it has no such form."""
    bend, straight = unit.bend, None
    height = None if bend is None else unit.height
    if unit.leak is None or unit.decay.dim() or (height is not None and height.dim()):
        return None
    through, low, high = unit.straight, -math.inf, math.inf
    if bend is not None:
        if bend.kind != "clip" or not unit.straight.still:
            return None
        through, low, high = unit.bent, bend.low, bend.high
        straight = _whole(unit.straight.base, unit)
    entering, base = through.entering(unit.buffer), _whole(through.base, unit)
    r = unit.buffer
    if not entering:
        r, base = torch.zeros_like(r) if base is None else base, None
    numbers = low, high, 1.0 if height is None else float(height), h * float(unit.decay)
    return _Move(entering, unit.s, r, base, straight, numbers, through.coasting)


def _whole(value: Tensor | None, unit: Unit) -> Tensor | None:
    """Return what is held for every unit of every sample."""
    return None if value is None else value.expand_as(unit.s).contiguous()
