"""The instructions of whole steps: the stages of a network's tape, one after another.

A step of s stages begins with the derivative that the one before has ended with. Weights of low
rank have columns that are held, and a block of columns for each stage since W_0 was written; a
`phase` says how many steps ago that was.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ctsigprop.solvers.explicit.structured import COLUMNS
from ctsigprop.solvers.explicit.tableaus import Tableau
from ctsigprop.solvers.native import machine as ops
from ctsigprop.solvers.native.columns import Columns, Places, Range
from ctsigprop.solvers.native.networks import Network
from ctsigprop.solvers.native.tape import CLOCK, RTOL, placed
from ctsigprop.solvers.native.weights import Lazy

__all__ = ["REFOLD", "Norm", "Phase", "Range", "Schedule"]

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


class Schedule(Columns):
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
        super().__init__(network, measured)
        self.tableau = tableau
        self.stages = tableau.stages
        if not measured and tableau.b[-1] == 0.0:
            self.stages -= 1
        tape = network.tape
        self.full = network.layout.size * network.layout.samples
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
        self.code: NDArray[np.int64] = np.concatenate(self.pieces_of_code)

    # places

    def _count_columns(self) -> None:
        s = self.stages
        self.weights = [Places(w) for w in self.network.weights]
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

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        """What stands in the table, for a step of one."""
        s, tableau = self.stages, self.tableau
        table = np.zeros((s + 2, s))
        for i in range(s):
            table[i, :i] = tableau.a[i]
        table[s] = tableau.b[:s]
        if self.measured and tableau.error is not None:
            table[s + 1] = tableau.error
        return table.reshape(-1)

    # instructions

    def _write_all(self) -> None:
        tape = self.network.tape
        self.rows += tape.held
        for w in self.weights:
            self.refresh(w)
        self.settle = self.close()
        self.norms: list[Norm] = []
        self.exact: dict[int, Range] = {}
        self.begin = self.trial = (0, 0)
        self.phases = []
        if self.measured:
            self._field(self.now, self.slope(0), 0, self.stages)
            for w, cell in zip(self.weights, self.sizes, strict=True):
                self.square(w, self.now, self.active(w, 0), cell)
            self.begin = self.close()
            self._trial()
        for phase in range(self.steps):
            start = phase * self.between
            self.phases.append(self._phase(phase, start))
        self.refold = (0, 0)
        if self.measured and not self.folds:
            # the columns suffice, and yet W_0 is written now and then
            self._enter_folded(self._last())
            self.refold = self.close()
        for cells, (place, y, active) in self.squared.items():
            # the state that a step begins with is zero in the columns that are free
            self.unfold(place, self.out, y, place.columns if y == self.now else active)
            n = place.w.post * place.w.pre
            self.emit(ops.DOT, cells, self.out, self.out, n)
            self.emit(ops.FILL, cells + 1, 0, 0, 2)
            self.exact[cells] = self.close()

    def _last(self) -> int:
        """Return the block of the last stage of the last step before W_0 is written."""
        return self.steps * self.between

    def _combine(self, d: int, y: int, weights: int, count: int, blocks: int) -> None:
        """Write y + Σ weights_i k_i, without y where it is negative."""
        for at, n in self.segments(blocks):
            if y < 0:
                self.emit(ops.FILL, d + at, 0, 0, n)
            elif y != d:
                self.emit(ops.COPY, d + at, y + at, 0, n)
            slopes = self.slopes + at
            self.emit(ops.ADD_SCALED, d + at, weights, slopes, n, count, 0, 1, self.size)

    def _field(self, y: int, k: int, block: int, blocks: int) -> None:
        """Write a stage whose new columns are those of a block; `blocks` are in use in all."""
        first = len(self.rows)
        for item in self.network.tape.stage:
            if not isinstance(item, Lazy):
                self.rows.append(item)
                continue
            place = next(w for w in self.weights if w.w is item.weights)
            if item.x is None:
                self.factors(place, y, k, block, blocks)
            else:
                self.product(place, item, y, self.active(place, block))
        self.rows[first:] = placed(self.rows[first:], y, k).tolist()

    def _trial(self) -> None:
        """Write the trial of the first step, and the norms of the state, slope and difference."""
        state, slope = (
            self._norm(values, self.now, self.now, self.sizes, self.sizes, blocks)
            for values, blocks in ((self.now, 0), (self.slope(0), 1))
        )
        self.weigh = self.close()
        self._combine(self.end, self.now, self.ahead, 1, 1)
        self._field(self.end, self.slope(1), 1, 2)
        for at, n in self.segments(2):
            self.emit(ops.SUB, self.errors + at, self.slope(1) + at, self.slope(0) + at, n)
        difference = self._norm(self.errors, self.now, self.now, self.sizes, self.sizes, 2)
        self.first_norms = state, slope, difference
        self.trial = self.close()

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
                self.emit(
                    ops.NORM, values + at, y + at, end + at, v.n, 1, self.atol + i, RTOL, 0, cell
                )
                plain.append(cell)
                continue
            cells = space(3)
            for k, source in enumerate((values, y, end)):
                at = source + v.place
                self.emit(ops.DOT, cells + k, at, at, v.n)
            matrices.append((cells, cells + 1, cells + 2, v.n, self.atol + i))
        for i, w in enumerate(self.weights):
            cells = space(3)
            self.square(w, values, self.active(w, blocks), cells)
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
            self.fold(self._last())
            return Phase(enter, step, (0, 0), end, now, (0, 0), self.close())
        for i in range(1, s):
            block = start + i
            self._combine(self.end, self.now, self.rows_of_a[i], i, block)
            if self.network.tape.timed:
                self.emit(ops.COPY, CLOCK, self.times + i, 0, 1)
            self._field(self.end, self.slope(i), block, start + s)
        self._combine(self.errors, -1, self.e, s, start + s)
        for w, cell in zip(self.weights, self.sizes_after[phase], strict=True):
            self.square(w, self.end, self.active(w, start + s - 1), cell)
        norm = self._norm(
            self.errors, self.now, self.end, self.sizes, self.sizes_after[phase], start + s
        )
        self.norms.append(norm)
        step = self.close()
        self._combine(self.inside, self.now, self.weights_inside, s, start + s)
        self._write_state(self.inside, start + s)
        inside = self.close()
        end = self._write(self.end, start + s - 1)
        now = self._write(self.now, start)
        slope = self._write(self.slope(0), start + 1)
        self.copy(self.now, self.end, start + s - 1)
        self.fold(start + s - 1)
        return Phase(enter, step, inside, end, now, slope, self.close())

    def _equal_step(self, start: int) -> Range:
        s = self.stages
        for i in range(s):
            block, y = start + i, self.now
            if i:
                y = self.end
                self._combine(y, self.now, self.rows_of_a[i], i, block)
            if self.network.tape.timed:
                self.emit(ops.COPY, CLOCK, self.times + i, 0, 1)
            self._field(y, self.slope(i), block, start + s)
        self._combine(self.now, self.now, self.b, s, start + s)
        return self.close()

    def _write(self, y: int, blocks: int) -> Range:
        self._write_state(y, blocks)
        return self.close()

    def _write_state(self, y: int, blocks: int) -> None:
        slices = self.network.layout.slices
        for v in self.network.variables:
            if v.n:
                self.emit(ops.COPY, self.out + slices[v.name].start, y + v.place, 0, v.n)
        for place in self.weights:
            self.unfold(place, self.out + place.full, y, self.active(place, blocks))

    def _enter(self, phase: int, start: int) -> Range:
        """Write what leads from the end of the step before to this one."""
        if not self.measured:
            if phase == 0 and self.weights:
                self.fold(self._last())
                for w in self.weights:
                    self.refresh(w)
            return self.close()
        last = self.slope(self.stages - 1)
        if phase or not self.folds:
            self.copy(self.now, self.end, start if phase else 0)
            self.copy(self.slope(0), last, start + 1)
            for w in self.weights:
                before, after = self.active(w, start + 1), self.active(w, start + self.stages)
                if after > before:
                    at = self.slope(0) + w.m + before * w.w.moving
                    self.emit(ops.FILL, at, 0, 0, (after - before) * w.w.moving)
            self._keep_sizes(phase - 1)
        else:
            self._enter_folded(self._last())
        return self.close()

    def _keep_sizes(self, phase: int) -> None:
        for before, after in zip(self.sizes, self.sizes_after[phase], strict=True):
            self.emit(ops.COPY, before, after, 0, 3)

    def _enter_folded(self, blocks: int) -> None:
        self.copy(self.now, self.end, blocks)
        self.fold(blocks)
        last, slope = self.slope(self.stages - 1), self.slope(0)
        self.emit(ops.COPY, slope, last, 0, self.network.rest)
        for place in self.weights:
            w = place.w
            self.refresh(place)
            if w.decay is None:
                self.emit(ops.FILL, slope + place.d, 0, 0, w.moving)
            else:
                self.emit(ops.COPY, slope + place.d, w.decay.place, 0, w.moving)
            self.emit(ops.FILL, slope + place.m, 0, 0, place.columns * w.moving)
            for i, (moved, _) in enumerate(w.held):
                at = slope + place.m + i * w.moving
                self.emit(ops.COPY, at, moved.place, 0, w.moving)
            for i, (moved, stays) in enumerate(w.new):
                column = place.held + i
                at = slope + place.m + column * w.moving
                self.emit(ops.COPY, at, moved.place, 0, w.moving)
                self.emit(ops.COPY, place.f + column * w.staying, stays.place, 0, w.staying)
                if self.measured:
                    self.tables(place, column)
        self._keep_sizes(-1)
