"""A small system as text over single numbers: what its derivative is, and of what.

The text reads the state ``y0, y1, …`` in the order of the layout, the time ``t``, the numbers
``a0, a1, …`` that signals hold between their jumps, and the parameters ``p0, p1, …``. It is the
same for systems that differ in the values of their parameters and signals.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ctsigprop.equations.language import names_in
from ctsigprop.signals import Constant, Signal
from ctsigprop.solvers.base import Layout
from ctsigprop.terms import Source

__all__ = ["LARGEST", "MOST_CHANNELS", "NotScalarError", "Scalars"]

LARGEST = 32
"""The most state variables of a sample."""

MOST_CHANNELS = 64
"""The most numbers that signals hold."""

_INLINED = {"fermi", "holds", "power"}


class NotScalarError(ValueError):
    """A system that cannot be written over single numbers, with the reason."""


@dataclass(frozen=True)
class Scalars:
    """The text of a derivative.

    Attributes
    ----------
    lines : tuple of str
        Assignments.
    results : tuple of str
        The derivative of every state variable.
    parameters : Tensor
        The values of ``p0, p1, …``.
    channels : tuple of (Signal, Source or None, int)
        What ``a0, a1, …`` are: a signal, the source that it is the activity of, and the channel.
    """

    lines: tuple[str, ...]
    results: tuple[str, ...]
    parameters: Tensor
    channels: tuple[tuple[Signal, Source | None, int], ...]

    @property
    def timed(self) -> bool:
        """Whether the time itself is read."""
        return any(re.search(r"\bt\b", text) for text in (*self.lines, *self.results))

    @cached_property
    def split(self) -> tuple[list[str], list[str]]:
        """The assignments that only parameters enter, and the others."""
        constant: list[str] = []
        moving: list[str] = []
        known: set[str] = set()
        for line in self.lines:
            name, _, text = line.partition(" = ")
            names = names_in(ast.parse(text, mode="eval").body) - _INLINED
            if all(one in known or re.fullmatch(r"p\d+", one) for one in names):
                known.add(name)
                constant.append(line)
            else:
                moving.append(line)
        return constant, moving

    def held(self, t: Tensor, layout: Layout) -> Tensor:
        """Return the numbers that hold from some times on, ``(stops, samples, channels)``.

        `t` is ``(stops,)`` or ``(samples, stops)``; axes along which nothing changes have length 1.
        """
        still = all(isinstance(signal, Constant) for signal, _, _ in self.channels)
        count = 1 if still else t.shape[-1]
        own = t.dim() > 1
        rows = []
        for stop in range(count):
            clock = t[:, stop].reshape(layout.batch) if own else t[stop]
            columns = []
            for signal, source, channel in self.channels:
                value = signal(clock) if source is None else source.values(signal, clock)
                if source is not None:
                    value = value[..., channel]
                columns.append(value.to(torch.float64).reshape(-1))
            widest = max((len(column) for column in columns), default=1)
            columns = [column.expand(widest) for column in columns]
            rows.append(torch.stack(columns, 1) if columns else t.new_zeros(1, 0))
        return torch.stack(rows).contiguous()
