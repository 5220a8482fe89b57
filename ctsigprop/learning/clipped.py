"""The states of equilibrium propagation in buffers, where every nonlinearity clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor

__all__ = ["ClippedStates"]

FEW = 128
"""With fewer samples two steps share a product, which costs less than one for each."""

Operations = list[Callable[[], object]]
Bounds = tuple[float, float]


@final
class ClippedStates:
    """Units that descend E, held where their nonlinearity does not clip.

        s_k <- clip_k(s_k + dt (W_k s_{k−1} + b_k + W_{k+1}ᵀ s_{k+1} − s_k)),  + dt beta (c − s_N)

    The output lies beside the layer two below it: what both exchange with the layer between is one
    product each way. Where there are but these two groups, each hears only the other, and one may
    be a step ahead: a product then serves two steps. The steps are the same.

    Parameters
    ----------
    drive : Tensor
        W_1 x + b_1, ``(batch, units)``; it is held.
    weights : sequence of Tensor
        W_2 … W_N.
    biases : sequence of Tensor or None
        b_2 … b_N.
    bounds : sequence of (float, float)
        Of each layer.
    dt : float
        Length of a step, in units of tau.
    """

    def __init__(
        self,
        drive: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        bounds: Sequence[Bounds],
        dt: float,
    ) -> None:
        last = len(weights)
        sizes = [drive.shape[1], *(w.shape[0] for w in weights)]
        order = [[k] for k in range(last + 1)]
        if last >= 2:
            order = [*order[: last - 2], [last - 2, last], [last - 1]]
        self.groups = [
            _Group([sizes[k] for k in layers], [bounds[k] for k in layers], drive, dt)
            for layers in order
        ]
        self.places = {
            k: (group, i)
            for group, layers in zip(self.groups, order, strict=True)
            for i, k in enumerate(layers)
        }
        for k, bias in enumerate([drive, *biases]):
            group, i = self.places[k]
            if bias is not None:
                group.part(group.base, i).copy_(bias)
        self._products = self._coupled(weights)

    def _coupled(self, weights: Sequence[Tensor]) -> Operations:
        """Return the products of a step; the first to write a buffer begins with what is held."""
        last = len(weights)
        terms: list[tuple[_Group, int | None, _Group, int | None, Tensor]] = []
        if last:
            a, b = self.groups[-2:]
            both = [weights[last - 2], weights[last - 1].T] if last >= 2 else [weights[0]]
            self.between = torch.cat(both, 1)  # to the last group from the one before
            terms += [(b, None, a, None, self.between.T), (a, None, b, None, self.between)]
        for k in range(last - 2):
            (a, m), (b, n) = self.places[k], self.places[k + 1]
            terms += [(a, m, b, n, weights[k]), (b, n, a, m, weights[k].T)]
        begun: set[int] = set()
        products: Operations = []
        for group, place, other, j, weight in terms:
            u, base, s = (
                group.part(group.u[1], place),
                group.part(group.base, place),
                other.part(other.s[1], j),
            )
            held = u if id(group) in begun else base
            products.append(partial(torch.addmm, held, s, weight, out=u))
            begun.add(id(group))
        if not terms:  # one layer
            products.append(partial(self.groups[0].u[1].copy_, self.groups[0].base))
        return products

    @property
    def s(self) -> list[Tensor]:
        """The states s_1 … s_N where they are."""
        places = [self.places[k] for k in range(len(self.places))]
        return [group.part(group.s[1], i) for group, i in places]

    def put(self, states: Sequence[Tensor]) -> None:
        """Go to other states."""
        for s, state in zip(self.s, states, strict=True):
            s.copy_(state)

    def states(self) -> list[Tensor]:
        """Return copies of s_1 … s_N."""
        return [s.clone(memory_format=torch.contiguous_format) for s in self.s]

    def run(self, steps: int, beta: float = 0.0, target: Tensor | None = None) -> None:
        """Take steps, all units at once; with a target, the output is nudged towards it."""
        output, i = self.places[len(self.places) - 1]
        held = output.part(output.base, i)
        before = held.clone()
        if target is not None:
            held.add_(target, alpha=beta)
            output.beta = beta
        pairs = steps // 2 if len(self.groups) == 2 and len(held) < FEW else 0
        single = [*self._products, *(move for g in self.groups for move in g.moves(1, 1, 1))]
        for _ in range(steps - 2 * pairs):
            _do(single)
        if pairs:
            self._run_pairs(pairs)
        held.copy_(before)
        output.beta = 0.0

    def _run_pairs(self, count: int) -> None:
        """Take two steps at a time, the first group one step ahead of the second."""
        ahead, behind = self.groups
        for group in self.groups:
            group.bases[0].copy_(group.base)
        first = partial(torch.addmm, ahead.base, behind.s[1], self.between, out=ahead.u[0])
        last = partial(torch.addmm, ahead.base, behind.s[0], self.between, out=ahead.u[0])
        follow = [
            behind.hears(ahead, self.between.T),
            *behind.moves(0, 1, 0),
            *behind.moves(1, 0, 1),
        ]
        lead = [ahead.hears(behind, self.between), *ahead.moves(0, 1, 0), *ahead.moves(1, 0, 1)]
        _do([first, partial(ahead.s[0].copy_, ahead.s[1]), *ahead.moves(0, 0, 1)])
        for _ in range(count - 1):
            _do(follow)
            _do(lead)
        _do([*follow, last, *ahead.moves(0, 1, 1)])


@final
class _Group:
    """Layers side by side, at two times: the states s, what enters them u, and what is held."""

    def __init__(
        self, sizes: Sequence[int], bounds: Sequence[Bounds], like: Tensor, dt: float
    ) -> None:
        self.sizes, self.bounds, self.dt = list(sizes), bounds, dt
        self.s, self.u, self.bases = (like.new_zeros(2, len(like), sum(sizes)) for _ in range(3))
        self.base = self.bases[1]
        self.beta = 0.0  # of the nudge of its last layer

    def part(self, whole: Tensor, i: int | None) -> Tensor:
        """Return the columns of one of its layers; None are all."""
        return whole if i is None or len(self.sizes) == 1 else torch.split(whole, self.sizes, 1)[i]

    def hears(self, other: _Group, weight: Tensor) -> Callable[[], object]:
        """Return what takes in another group at both times."""
        base, s, u = (x.view(-1, x.shape[-1]) for x in (self.bases, other.s, self.u))
        return partial(torch.addmm, base, s, weight, out=u)

    def moves(self, u: int, old: int, new: int) -> Operations:
        """Return what takes a step from one place to another, with what entered."""
        entered, s, end = self.u[u], self.s[old], self.s[new]
        operations: Operations = []
        if self.beta:
            last = len(self.sizes) - 1
            nudged, y = self.part(entered, last), self.part(s, last)
            operations.append(partial(nudged.sub_, y, alpha=self.beta))
        operations.append(partial(torch.lerp, s, entered, self.dt, out=end))
        alike = len(set(self.bounds)) == 1
        for i, (low, high) in enumerate(self.bounds[:1] if alike else self.bounds):
            if (low, high) != (-torch.inf, torch.inf):
                operations.append(partial(self.part(end, None if alike else i).clamp_, low, high))
        return operations


def _do(operations: Sequence[Callable[[], object]]) -> None:
    for operation in operations:
        operation()
