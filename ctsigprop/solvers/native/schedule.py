"""The instructions of whole steps: the stages of a network's tape, one after another.

A step of s stages begins with the derivative that the one before has ended with. Weights of low
rank have columns that are held, and a block of columns for each stage since W_0 was written; a
`phase` says how many steps ago that was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsigprop.solvers.explicit.structured import COLUMNS
from ctsigprop.solvers.explicit.tableaus import Tableau
from ctsigprop.solvers.native import machine as ops
from ctsigprop.solvers.native.networks import Lazy, Network, Weights
from ctsigprop.solvers.native.tape import CLOCK, RTOL, Row, instruction, placed

__all__ = ["REFOLD", "Norm", "Phase", "Range", "Schedule"]

Range = tuple[int, int]

REFOLD = 64
"""Accepted steps after which W_0 is written anew, come what may."""


@dataclass(frozen=True)
class Norm:
    """Where the parts of a norm are found: one entry for each variable.

    ``plain`` are places with mean squares of ratios; ``matrices`` those with sums of squares of the
    value, the state and the end; ``weights`` those with the three parts of such a sum, of the value
    of the state and of the end.
    """

    plain: tuple[int, ...]
    matrices: tuple[tuple[int, int, int, int, int], ...]  # value, state, end, length, atol
    weights: tuple[tuple[int, int, int, int, int], ...]  # value, state, end, length, atol


@dataclass
class Phase:
    """The instructions of a step, so many steps after W_0 was written."""

    enter: Range  # from the step before
    step: Range
    inside: Range  # writes a row inside the step
    end: Range  # writes its end
    now: Range  # writes the state that it begins with
    slope: Range  # writes its derivative
    land: Range  # from its end, with W_0 written


@dataclass
class _Places:
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


class Schedule:
    """Instructions and places for one method.

    Parameters
    ----------
    network : Network
        What a stage does.
    tableau : Tableau
        The method: closed, for steps that are controlled.
    measured : bool
        Whether the steps are controlled by norms.

    Attributes
    ----------
    code : array of int64
        All instructions.
    begin, trial, settle, refold : Range
        The derivative at the start; the trial of the first step; what is held between jumps; what
        enters a step with W_0 written anew although there are columns left.
    phases : list of Phase
        Steps by the number of steps since W_0 was written.
    memory, scalars : int
        How many numbers the memory has, and how many scalars.
    """

    def __init__(self, network: Network, tableau: Tableau, measured: bool) -> None:
        self.network, self.tableau, self.measured = network, tableau, measured
        self.stages = tableau.stages
        if not measured and tableau.b[-1] == 0.0:
            self.stages -= 1
        tape = network.tape
        self.full = network.layout.size * network.layout.samples
        self._rows: list[Row] = []
        self.pieces = 0
        self._count_columns()
        self.size = self._place_coordinates()
        self.now, self.end = tape.space(self.size), tape.space(self.size)
        self.slopes = tape.space(self.size * self.stages)
        self.errors, self.inside = tape.space(self.size), tape.space(self.size)
        self.out = tape.space(self.full)
        for w in self.weights:
            c = w.columns
            length = c * w.w.staying + c * w.w.moving + c * c + w.w.moving
            w.f = tape.space(length + w.w.post * w.w.pre)
            w.matrix = w.f + length
            w.coefficients, w.products = tape.space(c), tape.space(c * c)
            w.squared = tape.space(w.w.moving)
        self._place_scalars()
        self._write_all()
        self.memory = tape.size
        self.code: NDArray[np.int64] = np.concatenate(self._code)

    # places

    def _count_columns(self) -> None:
        s = self.stages
        self.weights = [_Places(w) for w in self.network.weights]
        ranks = [len(w.new) for w in self.network.weights if w.new]
        between = s - 1 if self.measured else s
        first = 1 if self.measured else 0
        steps = [max(1, (COLUMNS // rank - first) // between) for rank in ranks]
        self.steps = min(steps, default=1)
        self.between = between
        for place in self.weights:
            place.held, place.rank = len(place.w.held), len(place.w.new)
            place.columns = place.held + place.rank * (first + self.steps * between)
        self.folds = bool(ranks)  # whether the columns ever are full

    def _place_coordinates(self) -> int:
        at = self.network.rest
        slices = self.network.layout.slices
        for place in self.weights:
            place.d, place.m = at, at + place.w.moving
            at += place.w.moving * (1 + place.columns)
            place.full = slices[place.w.name].start
        return at

    def _place_scalars(self) -> None:
        """Place the coefficients times the size of the step, tolerances and times."""
        s, tape = self.stages, self.network.tape
        self.table = tape.space((s + 2) * s)  # a, b and the error
        self.rows_of_a = [self.table + i * s for i in range(s)]
        self.b, self.e = self.table + s * s, self.table + s * s + s
        self.weights_inside = tape.space(s)
        self.ahead = tape.space(1)
        self.atol = tape.space(len(self.network.variables))
        self.atol_of_weights = tape.space(len(self.weights))
        self.times = tape.space(s)
        self.sizes = [tape.space(3) for _ in self.weights]
        self.sizes_after = [[tape.space(3) for _ in self.weights] for _ in range(self.steps)]

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """What stands in the table, for a step of one."""
        s, tableau = self.stages, self.tableau
        table = np.zeros((s + 2, s))
        for i in range(s):
            table[i, :i] = tableau.a[i]
        table[s] = tableau.b[:s]
        if tableau.error is not None:
            table[s + 1] = tableau.error
        return table.reshape(-1)

    # instructions

    def _emit(self, op: int, d: int, a: int, b: int, n: int, *rest: int) -> None:
        self._rows.append(instruction(op, d, a, b, n, *rest))

    def _close(self) -> Range:
        """Return the place of what was written since the last call."""
        first = self.pieces
        block = placed(self._rows, self.now, self.slopes).reshape(-1)
        self._code.append(block)
        self.pieces += len(block)
        self._rows = []
        return first, self.pieces

    def _write_all(self) -> None:
        self._code: list[NDArray[np.int64]] = []
        tape = self.network.tape
        self._rows += tape.held
        for w in self.weights:
            self._refresh(w)
        self.settle = self._close()
        self.norms: list[Norm] = []
        self.exact: dict[int, Range] = {}
        self._squared: dict[int, tuple[_Places, int, int]] = {}
        self.begin = self.trial = (0, 0)
        self.phases = []
        if self.measured:
            self._field(self.now, self._slope(0), 0, self.stages)
            for w, cell in zip(self.weights, self.sizes, strict=True):
                self._square(w, self.now, self._active(w, 0), cell)
            self.begin = self._close()
            self._trial()
        for phase in range(self.steps):
            start = phase * self.between
            self.phases.append(self._phase(phase, start))
        self.refold = (0, 0)
        if self.measured and not self.folds:
            # the columns suffice, and yet W_0 is written now and then
            self._enter_folded(self._last())
            self.refold = self._close()
        for cells, (place, y, active) in self._squared.items():
            # the state that a step begins with is zero in the columns that are free
            self._unfold(place, self.out, y, place.columns if y == self.now else active)
            n = place.w.post * place.w.pre
            self._emit(ops.DOT, cells, self.out, self.out, n)
            self._emit(ops.FILL, cells + 1, 0, 0, 2)
            self.exact[cells] = self._close()

    def _last(self) -> int:
        """Return the block of the last stage of the last step before W_0 is written."""
        return self.steps * self.between

    def _slope(self, stage: int) -> int:
        return self.slopes + stage * self.size

    def _active(self, w: _Places, blocks: int) -> int:
        return min(w.held + w.rank * blocks, w.columns)

    def _segments(self, blocks: int) -> Iterator[tuple[int, int]]:
        """Yield the stretches of the state that are in use while so many blocks are."""
        at, n = 0, self.network.rest
        for w in self.weights:
            if w.d != at + n:
                yield at, n
                at, n = w.d, 0
            n += w.w.moving * (1 + self._active(w, blocks))
        yield at, n

    def _copy(self, d: int, a: int, blocks: int) -> None:
        for at, n in self._segments(blocks):
            self._emit(ops.COPY, d + at, a + at, 0, n)

    def _combine(self, d: int, y: int, weights: int, count: int, blocks: int) -> None:
        """Write y + Σ weights_i k_i, without y where it is negative."""
        for at, n in self._segments(blocks):
            if y < 0:
                self._emit(ops.FILL, d + at, 0, 0, n)
            elif y != d:
                self._emit(ops.COPY, d + at, y + at, 0, n)
            slopes = self.slopes + at
            self._emit(ops.ADD_SCALED, d + at, weights, slopes, n, count, 0, 1, self.size)

    def _field(self, y: int, k: int, block: int, blocks: int) -> None:
        """Write a stage whose new columns are those of a block; `blocks` are in use in all."""
        first = len(self._rows)
        for item in self.network.tape.stage:
            if not isinstance(item, Lazy):
                self._rows.append(item)
                continue
            place = next(w for w in self.weights if w.w is item.weights)
            if item.x is None:
                self._factors(place, y, k, block, blocks)
            else:
                self._product(place, item, y, self._active(place, block))
        self._rows[first:] = placed(self._rows[first:], y, k).tolist()

    def _product(self, place: _Places, item: Lazy, y: int, active: int) -> None:
        """Write W x for the factors at `y`."""
        w, x = place.w, item.x
        assert x is not None
        f, m, coefficients = place.f, y + place.m, place.coefficients
        for s in range(self.network.samples):
            at, d = x.place + s * w.pre, item.d + s * w.post
            if w.by_row:
                u = item.u + s * w.post
                if not x.held:
                    self._matvec(u, place.matrix, at, w.post, w.pre)
                self._emit(ops.MUL, d, y + place.d, u, w.post)
            else:
                u = item.u + s * w.pre
                self._emit(ops.MUL, u, y + place.d, at, w.pre)
                self._matvec(d, place.matrix, u, w.post, w.pre)
            if active:
                left, right = (f, m) if w.by_row else (m, f)
                self._matvec(coefficients, left, at, active, w.pre)
                self._emit(ops.ADD_SCALED, d, coefficients, right, w.post, active, 0, 1, w.post)

    def _matvec(self, d: int, matrix: int, x: int, rows: int, columns: int) -> None:
        self._emit(ops.DOT, d, matrix, x, columns, rows, 1, columns, 0)

    def _factors(self, place: _Places, y: int, k: int, block: int, blocks: int) -> None:
        """Write dd/dt and dM/dt, and the new columns of F."""
        w = place.w
        moving, active, all_ = w.moving, self._active(place, block), self._active(place, blocks)
        d, m = place.d, place.m
        used = 0
        if w.decay is None:
            self._emit(ops.FILL, k + d, 0, 0, moving)
        else:
            self._emit(ops.MUL, k + d, w.decay.place, y + d, moving)
            if active:
                used = active
                self._emit(ops.MUL, k + m, y + m, w.decay.place, moving, active, moving, moving, 0)
        if all_ > used:
            self._emit(ops.FILL, k + m + used * moving, 0, 0, (all_ - used) * moving)
        for i, (moved, _) in enumerate(w.held):
            at = k + m + i * moving
            self._emit(ops.ADD, at, at, moved.place, moving)
        for i, (moved, stays) in enumerate(w.new):
            column = place.held + place.rank * block + i
            self._emit(ops.COPY, k + m + column * moving, moved.place, 0, moving)
            self._emit(ops.COPY, place.f + column * w.staying, stays.place, 0, w.staying)
            if self.measured:
                known = None if w.known is None else w.known.place + i * moving
                self._tables(place, column, known)

    def _tables(self, place: _Places, column: int, known: int | None = None) -> None:
        """Write the products of a column of F with W_0 and with the columns before it."""
        w = place.w
        at, d = place.f + column * w.staying, place.through + column * w.moving
        if known is not None:
            self._emit(ops.COPY, d, known, 0, w.moving)
        elif w.by_row:
            self._matvec(d, place.matrix, at, w.post, w.pre)
        else:
            self._emit(ops.FILL, d, 0, 0, w.moving)
            self._emit(ops.ADD_SCALED, d, at, place.matrix, w.pre, w.post, 0, 1, w.pre)
        row = place.gram + column * place.columns
        self._matvec(row, place.f, at, column + 1, w.staying)
        if column:  # those beside the diagonal stand for two
            twos = self.network.tape.constant(2.0, place.columns).place
            self._emit(ops.MUL, row, row, twos, column)

    def _square(self, place: _Places, y: int, active: int, cells: int) -> None:
        """Write the three parts of the sum of squares of a matrix."""
        moving, c = place.w.moving, place.columns
        d, m, t, products = y + place.d, y + place.m, place.squared, place.products
        self._emit(ops.MUL, t, d, d, moving)
        self._emit(ops.DOT, cells, t, place.squares, moving)
        self._emit(ops.FILL, cells + 1, 0, 0, 2)
        if active:
            self._emit(ops.FILL, t, 0, 0, moving)
            through = place.through
            self._emit(ops.ADD_MUL, t, m, through, moving, active, 0, moving, moving)
            self._emit(ops.DOT, cells + 1, d, t, moving)
            for k in range(active):
                self._matvec(products + k * c, m, m + k * moving, k + 1, moving)
            self._emit(ops.DOT, cells + 2, products, place.gram, active * c)
        self._squared[cells] = place, y, active

    def _refresh(self, place: _Places) -> None:
        """Write what depends on W_0 and on what is held."""
        w = place.w
        for i, (_, stays) in enumerate(w.held):
            self._emit(ops.COPY, place.f + i * w.staying, stays.place, 0, w.staying)
            if self.measured:
                self._tables(place, i)
        if self.measured:
            squares, matrix, n = place.squares, place.matrix, w.pre
            if w.by_row:
                self._emit(ops.DOT, squares, matrix, matrix, n, w.post, 1, n, n)
            else:
                self._emit(ops.FILL, squares, 0, 0, n)
                self._emit(ops.ADD_MUL, squares, matrix, matrix, n, w.post, 0, n, n)
        for x, u in w.drives:
            for s in range(self.network.samples):
                self._matvec(u + s * w.post, place.matrix, x.place + s * w.pre, w.post, w.pre)

    def _fold(self, blocks: int) -> None:
        """Write W_0 anew from the state that a step begins with."""
        for place in self.weights:
            self._unfold(place, place.matrix, self.now, self._active(place, blocks))
            at = self.now + place.d
            self._emit(ops.FILL, at, 0, 0, place.w.moving, 1, 0, 0, 0, 1)
            self._emit(ops.FILL, self.now + place.m, 0, 0, place.columns * place.w.moving)

    def _unfold(self, place: _Places, d: int, y: int, active: int) -> None:
        """Write the matrix for factors, or for derivatives of factors; it may be W_0 itself."""
        w, matrix, scale = place.w, place.matrix, y + place.d
        rows, n = w.post, w.pre
        if not w.by_row:
            self._emit(ops.MUL, d, scale, matrix, n, rows, n, 0, n)
        else:
            if d == matrix:
                ones = self.network.tape.constant(1.0, rows).place
                self._emit(ops.SUB, place.squared, scale, ones, rows)
                scale = place.squared
            else:
                self._emit(ops.FILL, d, 0, 0, rows * n)
            self._emit(ops.ADD_SCALED, d, scale, matrix, n, rows, n, 1, n)
        for k in range(active):
            a, b = y + place.m + k * w.moving, place.f + k * w.staying
            a, b = (a, b) if w.by_row else (b, a)
            self._emit(ops.ADD_SCALED, d, a, b, n, rows, n, 1, 0)

    def _trial(self) -> None:
        """Write the trial of the first step, and the norms of the state, slope and difference."""
        state, slope = (
            self._norm(values, self.now, self.now, self.sizes, self.sizes, blocks)
            for values, blocks in ((self.now, 0), (self._slope(0), 1))
        )
        self.weigh = self._close()
        self._combine(self.end, self.now, self.ahead, 1, 1)
        self._field(self.end, self._slope(1), 1, 2)
        for at, n in self._segments(2):
            self._emit(ops.SUB, self.errors + at, self._slope(1) + at, self._slope(0) + at, n)
        difference = self._norm(self.errors, self.now, self.now, self.sizes, self.sizes, 2)
        self.first_norms = state, slope, difference
        self.trial = self._close()

    def _norm(
        self, values: int, y: int, end: int, of_y: list[int], of_end: list[int], blocks: int
    ) -> Norm:
        plain, matrices, weights = [], [], []
        space = self.network.tape.space
        for i, v in enumerate(self.network.variables):
            if v.n == 0:
                continue
            if not v.matrix:
                cell, at = space(1), v.place
                self._emit(
                    ops.NORM, values + at, y + at, end + at, v.n, 1, self.atol + i, RTOL, 0, cell
                )
                plain.append(cell)
                continue
            cells = space(3)
            for k, source in enumerate((values, y, end)):
                at = source + v.place
                self._emit(ops.DOT, cells + k, at, at, v.n)
            matrices.append((cells, cells + 1, cells + 2, v.n, self.atol + i))
        for i, w in enumerate(self.weights):
            cells = space(3)
            self._square(w, values, self._active(w, blocks), cells)
            n = w.w.post * w.w.pre
            weights.append((cells, of_y[i], of_end[i], n, self.atol_of_weights + i))
        return Norm(tuple(plain), tuple(matrices), tuple(weights))

    def _phase(self, phase: int, start: int) -> Phase:
        s = self.stages
        enter = self._enter(phase, start)
        if not self.measured:
            step = self._equal_step(start)
            end = self._write(self.now, start + self.between)
            now = self._write(self.now, start)
            self._fold(self._last())
            return Phase(enter, step, (0, 0), end, now, (0, 0), self._close())
        for i in range(1, s):
            block = start + i
            self._combine(self.end, self.now, self.rows_of_a[i], i, block)
            if self.network.tape.timed:
                self._emit(ops.COPY, CLOCK, self.times + i, 0, 1)
            self._field(self.end, self._slope(i), block, start + s)
        self._combine(self.errors, -1, self.e, s, start + s)
        for w, cell in zip(self.weights, self.sizes_after[phase], strict=True):
            self._square(w, self.end, self._active(w, start + s - 1), cell)
        norm = self._norm(
            self.errors, self.now, self.end, self.sizes, self.sizes_after[phase], start + s
        )
        self.norms.append(norm)
        step = self._close()
        self._combine(self.inside, self.now, self.weights_inside, s, start + s)
        self._write_state(self.inside, start + s)
        inside = self._close()
        end = self._write(self.end, start + s - 1)
        now = self._write(self.now, start)
        slope = self._write(self._slope(0), start + 1)
        self._copy(self.now, self.end, start + s - 1)
        self._fold(start + s - 1)
        return Phase(enter, step, inside, end, now, slope, self._close())

    def _equal_step(self, start: int) -> Range:
        s = self.stages
        for i in range(s):
            block, y = start + i, self.now
            if i:
                y = self.end
                self._combine(y, self.now, self.rows_of_a[i], i, block)
            if self.network.tape.timed:
                self._emit(ops.COPY, CLOCK, self.times + i, 0, 1)
            self._field(y, self._slope(i), block, start + s)
        self._combine(self.now, self.now, self.b, s, start + s)
        return self._close()

    def _write(self, y: int, blocks: int) -> Range:
        self._write_state(y, blocks)
        return self._close()

    def _write_state(self, y: int, blocks: int) -> None:
        slices = self.network.layout.slices
        for v in self.network.variables:
            if v.n:
                self._emit(ops.COPY, self.out + slices[v.name].start, y + v.place, 0, v.n)
        for place in self.weights:
            self._unfold(place, self.out + place.full, y, self._active(place, blocks))

    def _enter(self, phase: int, start: int) -> Range:
        """Write what leads from the end of the step before to this one."""
        if not self.measured:
            if phase == 0 and self.weights:
                self._fold(self._last())
                for w in self.weights:
                    self._refresh(w)
            return self._close()
        last = self._slope(self.stages - 1)
        if phase or not self.folds:
            self._copy(self.now, self.end, start if phase else 0)
            self._copy(self._slope(0), last, start + 1)
            for w in self.weights:
                before, after = self._active(w, start + 1), self._active(w, start + self.stages)
                if after > before:
                    at = self._slope(0) + w.m + before * w.w.moving
                    self._emit(ops.FILL, at, 0, 0, (after - before) * w.w.moving)
            self._keep_sizes(phase - 1)
        else:
            self._enter_folded(self._last())
        return self._close()

    def _keep_sizes(self, phase: int) -> None:
        for before, after in zip(self.sizes, self.sizes_after[phase], strict=True):
            self._emit(ops.COPY, before, after, 0, 3)

    def _enter_folded(self, blocks: int) -> None:
        self._copy(self.now, self.end, blocks)
        self._fold(blocks)
        last, slope = self._slope(self.stages - 1), self._slope(0)
        self._emit(ops.COPY, slope, last, 0, self.network.rest)
        for place in self.weights:
            w = place.w
            self._refresh(place)
            if w.decay is None:
                self._emit(ops.FILL, slope + place.d, 0, 0, w.moving)
            else:
                self._emit(ops.COPY, slope + place.d, w.decay.place, 0, w.moving)
            self._emit(ops.FILL, slope + place.m, 0, 0, place.columns * w.moving)
            for i, (moved, _) in enumerate(w.held):
                at = slope + place.m + i * w.moving
                self._emit(ops.COPY, at, moved.place, 0, w.moving)
            for i, (moved, stays) in enumerate(w.new):
                column = place.held + i
                at = slope + place.m + column * w.moving
                self._emit(ops.COPY, at, moved.place, 0, w.moving)
                self._emit(ops.COPY, place.f + column * w.staying, stays.place, 0, w.staying)
                if self.measured:
                    self._tables(place, column)
        self._keep_sizes(-1)
