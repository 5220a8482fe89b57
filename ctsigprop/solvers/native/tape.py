"""Tapes: what a network does at each stage of a step, as operations on vectors."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctsigprop.solvers.native import machine as ops

__all__ = [
    "CLOCK",
    "RATE",
    "RTOL",
    "STATE",
    "Names",
    "Row",
    "Tape",
    "UnfitError",
    "Value",
    "instruction",
    "placed",
]

STATE, RATE = 1 << 40, 1 << 41
"""Added to a place: it counts from the state of the stage, or from its derivative."""

CLOCK, RTOL = 0, 1
"""Where the time of a stage and the relative tolerance lie."""

CELLS = 2

Row = list[int]
Names = Callable[[str], "Value"]

_UNARY = {
    "exp": ops.EXP,
    "log": ops.LOG,
    "sin": ops.SIN,
    "cos": ops.COS,
    "tan": ops.TAN,
    "sinh": ops.SINH,
    "cosh": ops.COSH,
    "tanh": ops.TANH,
    "arctan": ops.ARCTAN,
    "exprel": ops.EXPREL,
    "sqrt": ops.SQRT,
    "abs": ops.ABS,
    "sign": ops.SIGN,
}
_BINARY: dict[type[ast.operator], int] = {
    ast.Add: ops.ADD,
    ast.Sub: ops.SUB,
    ast.Mult: ops.MUL,
    ast.Div: ops.DIV,
    ast.BitAnd: ops.MUL,
}
_COMPARED: dict[type[ast.cmpop], tuple[int, bool]] = {
    ast.Lt: (ops.LESS, False),
    ast.LtE: (ops.LESS_OR_EQUAL, False),
    ast.Gt: (ops.LESS, True),
    ast.GtE: (ops.LESS_OR_EQUAL, True),
    ast.Eq: (ops.EQUAL, False),
    ast.NotEq: (ops.UNEQUAL, False),
}


class UnfitError(Exception):
    """Why a network cannot be put on a tape."""


@dataclass(frozen=True)
class Value:
    """A vector: where it lies, its length, and whether it is held between jumps.

    One that moves along vectors that are held has `parts`: numbers, and what each is times.
    """

    place: int
    n: int
    held: bool = False
    parts: tuple[tuple[Value, Value], ...] = ()


def instruction(*numbers: int) -> Row:
    """Return an instruction; what is left out is one row, and zeros."""
    row = list(numbers)
    return [*row, *(1, 0, 0, 0, 0)[len(row) - 5 :]]


def placed(rows: Sequence[Row], state: int, rate: int) -> NDArray[np.int64]:
    """Return instructions for a state and a derivative that lie at these places."""
    code = np.array(rows, dtype=np.int64).reshape(-1, ops.WIDTH)
    code = np.where(code >= RATE, code - RATE + rate, code)
    placed: NDArray[np.int64] = np.where(code >= STATE, code - STATE + state, code)
    return placed


class Tape:
    """Instructions in the making, and the memory that they need.

    Attributes
    ----------
    held : list of Row
        What is computed once between jumps.
    stage : list
        What is computed at every stage; things other than rows are expanded for each stage.
    constants : list of (Value, float)
        Numbers that never change.
    """

    def __init__(self) -> None:
        self.size = CELLS
        self.held: list[Row] = []
        self.stage: list[Any] = []
        self.constants: list[tuple[Value, float]] = []
        self.timed = False
        self._known: dict[tuple[Any, ...], Value] = {}

    def space(self, n: int) -> int:
        """Return the place of `n` new numbers."""
        self.size += n
        return self.size - n

    def constant(self, value: float, n: int) -> Value:
        """Return a number as a vector."""
        key = ("constant", value, n)
        if key not in self._known:
            self._known[key] = Value(self.space(n), n, held=True)
            self.constants.append((self._known[key], value))
        return self._known[key]

    def write(
        self, op: int, d: int, a: int, b: int, n: int, *rest: int, held: bool = False
    ) -> None:
        """Add an instruction: rows, steps from row to row and x may follow."""
        (self.held if held else self.stage).append(instruction(op, d, a, b, n, *rest))

    def entrywise(self, op: int, a: Value, b: Value | None = None, x: int = 0) -> Value:
        """Return the result of an operation entry by entry, computed once."""
        if b is not None and a.n != b.n:
            raise UnfitError("values of two sizes meet")
        key = (op, a, b, x)
        if key not in self._known:
            held = a.held and (b is None or b.held)
            found = Value(self.space(a.n), a.n, held)
            second = 0 if b is None else b.place
            self.write(op, found.place, a.place, second, a.n, 1, 0, 0, 0, x, held=held)
            self._known[key] = found
        return self._known[key]

    def spread(self, a: Value, samples: int, n: int) -> Value:
        """Return one number for each sample, given to all of its units."""
        key = ("spread", a, n)
        if key not in self._known:
            found = Value(self.space(samples * n), samples * n, a.held)
            ones = self.constant(1.0, n).place
            self.write(ops.FILL, found.place, 0, 0, found.n, held=a.held)
            self.write(ops.ADD_SCALED, found.place, a.place, ones, n, samples, n, 1, 0, held=a.held)
            self._known[key] = found
        return self._known[key]

    def repeat(self, a: Value, samples: int) -> Value:
        """Return the same units for each sample."""
        if samples == 1:
            return a
        found = Value(self.space(samples * a.n), samples * a.n, a.held)
        for s in range(samples):
            self.write(ops.COPY, found.place + s * a.n, a.place, 0, a.n, held=a.held)
        return found

    def mean(self, a: Value, samples: int) -> Value:
        """Return the mean over the samples."""
        if samples == 1:
            return a
        n = a.n // samples
        found = Value(self.space(n), n, a.held)
        share = self.constant(1.0 / samples, 1).place
        self.write(ops.FILL, found.place, 0, 0, n, held=a.held)
        self.write(ops.ADD_SCALED, found.place, share, a.place, n, samples, 0, 0, n, held=a.held)
        return found

    def expression(self, node: ast.expr, names: Names, n: int) -> Value:
        """Return what checked code of the equations stands for, as a vector of length `n`."""

        def of(part: ast.expr) -> Value:
            return self.expression(part, names, n)

        match node:
            case ast.Constant(value=int() | float() as number):
                return self.constant(float(number), n)
            case ast.Name(id=name):
                value = names(name)
                if value.n != n:
                    raise UnfitError(f"'{name}' is of another size than what it meets")
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return self.constant(-float(number), n)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return self.entrywise(ops.MUL, self.constant(-1.0, n), of(inner))
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return self._power(of(left), right, of)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self.entrywise(ops.BINARY, of(left), of(right), ops.EITHER)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self.entrywise(_BINARY[type(op)], of(left), of(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                kind, swapped = _COMPARED[type(op)]
                a, b = of(left), of(right)
                return self.entrywise(ops.BINARY, *((b, a) if swapped else (a, b)), kind)
            case ast.Call(func=ast.Name(id="int"), args=[condition, *_]):
                return of(condition)
            case ast.Call(func=ast.Name(id="clip"), args=[x, low, high]):
                inside = self.entrywise(ops.BINARY, of(x), of(low), ops.FROM_BELOW)
                return self.entrywise(ops.BINARY, inside, of(high), ops.FROM_ABOVE)
            case ast.Call(func=ast.Name(id=name), args=[x]) if name in _UNARY:
                return self.entrywise(ops.UNARY, of(x), None, _UNARY[name])
        raise UnfitError(f"'{ast.unparse(node)}' has no native form")

    def sum(self, parts: Sequence[tuple[Value, Value]]) -> Value:
        """Return the sum of vectors, each times a number."""
        n = parts[0][1].n
        found = Value(self.space(n), n, parts=tuple(parts))
        self.write(ops.FILL, found.place, 0, 0, n)
        for number, vector in parts:
            self.write(ops.ADD_SCALED, found.place, number.place, vector.place, n)
        return found

    def clock(self, n: int) -> Value:
        """Return the time of the stage as a vector."""
        self.timed = True
        return self.spread(Value(CLOCK, 1), 1, n)

    def _power(self, base: Value, right: ast.expr, of: Callable[[ast.expr], Value]) -> Value:
        exponent = _number(right)
        if exponent == 0.5:
            return self.entrywise(ops.UNARY, base, None, ops.SQRT)
        if exponent is None or exponent not in (1, 2, 3, 4, -1, -2):
            return self.entrywise(ops.BINARY, base, of(right), ops.POWER)
        product = base
        for _ in range(int(abs(exponent)) - 1):
            product = self.entrywise(ops.MUL, product, base)
        if exponent > 0:
            return product
        return self.entrywise(ops.DIV, self.constant(1.0, base.n), product)


def _number(node: ast.expr) -> float | None:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number) if math.isfinite(number) else None
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            found = _number(inner)
            return None if found is None else -found
    return None
