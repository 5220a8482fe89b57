"""The memory in which the kernel steps a network: its state, parameters, signals and factors."""

from __future__ import annotations

import ctypes
import math
import sys
from functools import cache
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import torch

from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Constant, Rhythm
from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.native import machine
from ctsigprop.solvers.native.compiled import LETTERS, Kernel, compiled
from ctsigprop.solvers.native.schedule import Range, Schedule
from ctsigprop.solvers.native.tape import UnfitError

__all__ = ["Memory"]

_LEAST = sys.float_info.min


@cache
def _kernel(letter: str) -> Kernel:
    source = Path(str(machine.__file__)).read_text(encoding="utf-8")
    source = source.replace("from __future__ import annotations\n", "")
    return compiled(source, "run", f"{letter}qiii", ("contract", "reassoc"))


@final
class Memory:
    """The memory in which samples are stepped, one after another, and what calls the kernel on it.

    Parameters
    ----------
    problem : Problem
        Whose states, parameters and signals it holds.
    schedule : Schedule
        The instructions.
    """

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem, self.schedule = problem, schedule
        self.network = network = schedule.network
        dtype = next(iter(problem.y0.values())).dtype
        self.dtype = torch.finfo(dtype)
        kind = np.float64 if dtype == torch.float64 else np.float32
        self.m = np.zeros(schedule.memory, dtype=kind)
        self.cell: Any = memoryview(cast(Any, self.m))
        self._result, self._error = ctypes.c_int64(), ctypes.c_void_p()
        self._call = _kernel(LETTERS[dtype]).call
        self._where = (
            ctypes.byref(self._result),
            ctypes.byref(self._error),
            self.m.ctypes.data,
            schedule.code.ctypes.data,
        )
        tape = network.tape
        for value, number in tape.constants:
            self.m[value.place : value.place + value.n] = number
        for place, samples, width, term, name in network.parameters:
            given = getattr(term, name).detach().numpy()
            self.m[place : place + samples * width].reshape(samples, width)[:] = given
        for place, term in network.matrices:
            w = term.weights({}) if isinstance(term, Synapse) else term.weight
            if w.dim() != 2:
                raise UnfitError(f"'{term.name}' has weights for each sample of a batch")
            self.m[place : place + w.numel()] = w.detach().numpy().reshape(-1)
        self._bounds()
        samples = problem.layout.samples
        self._sample = 0
        self._fresh: Any = None
        self._starts = {
            name: value.detach().reshape(samples, -1).numpy() for name, value in problem.y0.items()
        }

    def load(self, sample: int) -> None:
        """Write the start of a sample, beside what stood in the memory before the first."""
        if self._fresh is not None:
            self.m[:] = self._fresh
        elif self.problem.layout.samples > 1:
            self._fresh = self.m.copy()
        self._sample, schedule = sample, self.schedule
        for place in schedule.weights:
            start = self._starts[place.w.name][sample]
            self.m[place.matrix : place.matrix + start.size] = start
            at = schedule.now + place.d
            self.m[at : at + place.w.moving] = 1.0
        for v in self.network.variables:
            at = schedule.now + v.place
            self.m[at : at + v.n] = self._starts[v.name][sample]

    def call(self, part: Range, times: int = 1) -> None:
        """Run a part of the instructions.

        What has decayed below the least normal number counts as zero: many processors need a
        hundred times as long to compute with it.
        """
        if part[0] < part[1]:
            flushed = _LEAST * 0.5 == 0.0
            torch.set_flush_denormal(True)
            try:
                self._call(*self._where, part[0], part[1], times)
            finally:
                torch.set_flush_denormal(flushed)

    def hold(self, t: float) -> None:
        """Read the signals at a time, and take what depends on them alone."""
        at = torch.tensor(t, dtype=torch.float64)
        given = self.problem.inputs
        for place, samples, width, source, part in self.network.sources:
            signal = given.get(source.name, source.signal)
            assert signal is not None
            held = Constant(getattr(signal, part)) if part else signal
            value = source.values(held, at).detach().numpy()
            if value.ndim > 1:
                value = value.reshape(-1, samples, width)[self._sample]
            self.m[place : place + samples * width].reshape(samples, width)[:] = value
        for speed, phase, source in self.network.rhythms:
            rhythm = given.get(source.name, source.signal)
            assert isinstance(rhythm, Rhythm)
            self.m[speed], self.m[phase] = rhythm.angular, rhythm.phase
        for place, n, signal, only_open in self.network.gates:
            value = signal(at)
            if value.dim():
                raise UnfitError("a gate has one value for each sample")
            level = float(value)
            self.m[place : place + n] = float(level != 0.0) if only_open else level
        self.call(self.schedule.settle)

    def row(self, part: Range) -> torch.Tensor:
        """Return the whole state that a part writes, packed."""
        self.call(part)
        out = self.schedule.out
        return torch.from_numpy(self.m[out : out + self.schedule.full].copy()).reshape(1, -1)

    def _bounds(self) -> None:
        for place, n, synapse in self.network.masks:
            assert synapse.mask is not None
            self.m[place : place + n] = synapse.mask.numpy().reshape(-1)
        for place, n, synapse in self.network.bounds:
            low, high = self.m[place : place + n], self.m[place + n : place + 2 * n]
            low[:], high[:] = synapse.bounds or (-math.inf, math.inf)
            if synapse.sign is not None:
                pre = synapse.initial.shape[-1]
                positive = np.broadcast_to(synapse.sign.numpy() > 0, (n // pre, pre)).reshape(-1)
                np.maximum(low, 0.0, out=low, where=positive)
                np.minimum(high, 0.0, out=high, where=~positive)
