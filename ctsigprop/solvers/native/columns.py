"""The instructions for weights that are stepped by their factors: columns, norms, W_0 anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsigprop.solvers.native import machine as ops
from ctsigprop.solvers.native.networks import Network
from ctsigprop.solvers.native.tape import Row, instruction, placed
from ctsigprop.solvers.native.weights import Lazy, Weights

__all__ = ["Columns", "Places", "Range"]

Range = tuple[int, int]


@dataclass
class Places:
    """Where the factors of one matrix of weights lie: F and its tables, then W_0."""

    w: Weights
    d: int = 0  # from the start of the state
    m: int = 0
    columns: int = 0
    held: int = 0
    rank: int = 0
    f: int = 0
    matrix: int = 0
    full: int = 0
    coefficients: int = 0
    products: int = 0  # of the columns of M
    squared: int = 0  # of the length of d

    @property
    def through(self) -> int:
        """Where W_0 F lies."""
        return self.f + self.columns * self.w.staying

    @property
    def gram(self) -> int:
        """Where Fᵀ F lies."""
        return self.through + self.columns * self.w.moving

    @property
    def squares(self) -> int:
        """Where the squares of the rows, or columns, of W_0 lie."""
        return self.gram + self.columns**2


class Columns:
    """Instructions in the making, of states with weights that have columns.

    Attributes
    ----------
    network : Network
        What a stage does.
    measured : bool
        Whether norms are asked for.
    weights : list of Places
        Where the factors lie.
    """

    network: Network
    measured: bool
    weights: list[Places]
    now: int  # where the state lies that a step begins with
    slopes: int  # and the derivatives of its stages
    size: int

    def __init__(self, network: Network, measured: bool) -> None:
        self.network, self.measured = network, measured
        self.rows: list[Row] = []
        self.pieces = 0
        self.pieces_of_code: list[NDArray[np.int64]] = []
        self.squared: dict[int, tuple[Places, int, int]] = {}

    def emit(self, op: int, d: int, a: int, b: int, n: int, *rest: int) -> None:
        """Add an instruction."""
        self.rows.append(instruction(op, d, a, b, n, *rest))

    def close(self) -> Range:
        """Return the place of what was written since the last call."""
        first = self.pieces
        block = placed(self.rows, self.now, self.slopes).reshape(-1)
        self.pieces_of_code.append(block)
        self.pieces += len(block)
        self.rows = []
        return first, self.pieces

    def slope(self, stage: int) -> int:
        """Return where the derivative of a stage lies."""
        return self.slopes + stage * self.size

    def active(self, w: Places, blocks: int) -> int:
        """Return how many columns are in use while so many blocks are."""
        return min(w.held + w.rank * blocks, w.columns)

    def segments(self, blocks: int) -> Iterator[tuple[int, int]]:
        """Yield the stretches of the state that are in use while so many blocks are."""
        at, n = 0, self.network.rest
        for w in self.weights:
            if w.d != at + n:
                yield at, n
                at, n = w.d, 0
            n += w.w.moving * (1 + self.active(w, blocks))
        yield at, n

    def copy(self, d: int, a: int, blocks: int) -> None:
        """Copy a state, as far as it is in use."""
        for at, n in self.segments(blocks):
            self.emit(ops.COPY, d + at, a + at, 0, n)

    def product(self, place: Places, item: Lazy, y: int, active: int) -> None:
        """Write W x for the factors at `y`."""
        w, x = place.w, item.x
        assert x is not None
        f, m, coefficients = place.f, y + place.m, place.coefficients
        for s in range(self.network.samples):
            at, d = x.place + s * w.pre, item.d + s * w.post
            if w.by_row:
                u = item.u + s * w.post
                if not x.held:
                    self.matvec(u, place.matrix, at, w.post, w.pre)
                self.emit(ops.MUL, d, y + place.d, u, w.post)
            else:
                u = item.u + s * w.pre
                self.emit(ops.MUL, u, y + place.d, at, w.pre)
                self.matvec(d, place.matrix, u, w.post, w.pre)
            if active:
                left, right = (f, m) if w.by_row else (m, f)
                self.matvec(coefficients, left, at, active, w.pre)
                self.emit(ops.ADD_SCALED, d, coefficients, right, w.post, active, 0, 1, w.post)

    def matvec(self, d: int, matrix: int, x: int, rows: int, columns: int) -> None:
        """Write the product of a matrix and a vector."""
        self.emit(ops.DOT, d, matrix, x, columns, rows, 1, columns, 0)

    def factors(self, place: Places, y: int, k: int, block: int, blocks: int) -> None:
        """Write dd/dt and dM/dt, and the new columns of F."""
        w = place.w
        moving, active, all_ = w.moving, self.active(place, block), self.active(place, blocks)
        d, m = place.d, place.m
        used = 0
        if w.decay is None:
            self.emit(ops.FILL, k + d, 0, 0, moving)
        else:
            self.emit(ops.MUL, k + d, w.decay.place, y + d, moving)
            if active:
                used = active
                self.emit(ops.MUL, k + m, y + m, w.decay.place, moving, active, moving, moving, 0)
        if all_ > used:
            self.emit(ops.FILL, k + m + used * moving, 0, 0, (all_ - used) * moving)
        for i, (moved, _) in enumerate(w.held):
            at = k + m + i * moving
            self.emit(ops.ADD, at, at, moved.place, moving)
        for i, (moved, stays) in enumerate(w.new):
            column = place.held + place.rank * block + i
            self.emit(ops.COPY, k + m + column * moving, moved.place, 0, moving)
            self.emit(ops.COPY, place.f + column * w.staying, stays.place, 0, w.staying)
            if self.measured:
                known = None if w.known is None else w.known.place + i * moving
                self.tables(place, column, known)

    def tables(self, place: Places, column: int, known: int | None = None) -> None:
        """Write the products of a column of F with W_0 and with the columns before it."""
        w = place.w
        at, d = place.f + column * w.staying, place.through + column * w.moving
        if known is not None:
            self.emit(ops.COPY, d, known, 0, w.moving)
        elif w.by_row:
            self.matvec(d, place.matrix, at, w.post, w.pre)
        else:
            self.emit(ops.FILL, d, 0, 0, w.moving)
            self.emit(ops.ADD_SCALED, d, at, place.matrix, w.pre, w.post, 0, 1, w.pre)
        row = place.gram + column * place.columns
        self.matvec(row, place.f, at, column + 1, w.staying)
        if column:  # those beside the diagonal stand for two
            twos = self.network.tape.constant(2.0, place.columns).place
            self.emit(ops.MUL, row, row, twos, column)

    def square(self, place: Places, y: int, active: int, cells: int) -> None:
        """Write the three parts of the sum of squares of a matrix."""
        moving, c = place.w.moving, place.columns
        d, m, t, products = y + place.d, y + place.m, place.squared, place.products
        self.emit(ops.MUL, t, d, d, moving)
        self.emit(ops.DOT, cells, t, place.squares, moving)
        self.emit(ops.FILL, cells + 1, 0, 0, 2)
        if active:
            self.emit(ops.FILL, t, 0, 0, moving)
            through = place.through
            self.emit(ops.ADD_MUL, t, m, through, moving, active, 0, moving, moving)
            self.emit(ops.DOT, cells + 1, d, t, moving)
            for k in range(active):
                self.matvec(products + k * c, m, m + k * moving, k + 1, moving)
            self.emit(ops.DOT, cells + 2, products, place.gram, active * c)
        self.squared[cells] = place, y, active

    def refresh(self, place: Places) -> None:
        """Write what depends on W_0 and on what is held."""
        w = place.w
        for i, (_, stays) in enumerate(w.held):
            self.emit(ops.COPY, place.f + i * w.staying, stays.place, 0, w.staying)
            if self.measured:
                self.tables(place, i)
        if self.measured:
            squares, matrix, n = place.squares, place.matrix, w.pre
            if w.by_row:
                self.emit(ops.DOT, squares, matrix, matrix, n, w.post, 1, n, n)
            else:
                self.emit(ops.FILL, squares, 0, 0, n)
                self.emit(ops.ADD_MUL, squares, matrix, matrix, n, w.post, 0, n, n)
        for x, u in w.drives:
            for s in range(self.network.samples):
                self.matvec(u + s * w.post, place.matrix, x.place + s * w.pre, w.post, w.pre)

    def fold(self, blocks: int) -> None:
        """Write W_0 anew from the state that a step begins with."""
        for place in self.weights:
            self.unfold(place, place.matrix, self.now, self.active(place, blocks))
            at = self.now + place.d
            self.emit(ops.FILL, at, 0, 0, place.w.moving, 1, 0, 0, 0, 1)
            self.emit(ops.FILL, self.now + place.m, 0, 0, place.columns * place.w.moving)

    def unfold(self, place: Places, d: int, y: int, active: int) -> None:
        """Write the matrix for factors, or for derivatives of factors; it may be W_0 itself."""
        w, matrix, scale = place.w, place.matrix, y + place.d
        rows, n = w.post, w.pre
        if not w.by_row:
            self.emit(ops.MUL, d, scale, matrix, n, rows, n, 0, n)
        else:
            if d == matrix:
                ones = self.network.tape.constant(1.0, rows).place
                self.emit(ops.SUB, place.squared, scale, ones, rows)
                scale = place.squared
            else:
                self.emit(ops.FILL, d, 0, 0, rows * n)
            self.emit(ops.ADD_SCALED, d, scale, matrix, n, rows, n, 1, n)
        for k in range(active):
            a, b = y + place.m + k * w.moving, place.f + k * w.staying
            a, b = (a, b) if w.by_row else (b, a)
            self.emit(ops.ADD_SCALED, d, a, b, n, rows, n, 1, 0)
