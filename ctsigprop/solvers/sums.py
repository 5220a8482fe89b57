"""What enters a population while inputs are held and weights rest: b + Σ W r, in a buffer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeGuard, final

import torch
from torch import Tensor

from ctsigprop.solvers.products import Ordered, Product

__all__ = ["Operations", "Sender", "Sum", "is_one", "times"]

Operations = list[Callable[[], object]]

COASTING = 4
"""A march of fewer steps takes the products of senders that hear nothing new, too."""

SMALL = 2**15
"""What is held for every sample alike is spread out where a product is no larger than this."""


class Sender(Protocol):
    """A population as those see it that hear it."""

    s: Tensor
    r: Tensor
    decay: Tensor | float
    direct: bool

    @property
    def coasts(self) -> bool:
        """Whether it goes to r all by itself, ds/dt = decay·(r − s)."""

    def activity(self) -> Tensor:
        """Return its activity, ``(samples, units)``; `direct`: it is the state s itself."""


Image = tuple[Sender, Tensor | float, float]
"""A population that is heard, the weights W, and the factor alpha."""


@final
class Sum:
    """b + Σ alpha W r: all that enters a population by one way.

    Parameters
    ----------
    like : Tensor
        ``(samples, units)``, whose shape and type the sum has.
    ordered : Ordered
        Matrices as products take them.
    """

    def __init__(self, like: Tensor, ordered: Ordered) -> None:
        self.like, self.ordered = like, ordered
        self.base: Tensor | None = None
        self.images: list[Image] = []
        self.others: list[Callable[[], Tensor]] = []
        self._kept: tuple[Tensor | None, list[Image]] | None = None
        self._aim, self._share = like, 0.0

    @property
    def still(self) -> bool:
        """Whether nothing enters but what is held."""
        return not (self.images or self.others or self._kept)

    @property
    def empty(self) -> bool:
        """Whether nothing enters at all."""
        return self.still and self.base is None

    @property
    def apart(self) -> bool:
        """Whether what enters one sample is of that sample alone, with the weights of all."""
        products = all(pre.direct and _matrix(weight) for pre, weight, _ in self.images)
        return products and not self.others

    @property
    def coasting(self) -> bool:
        """Whether what is held moves, as an image that goes by itself."""
        return self._kept is not None

    def add(self, value: Tensor) -> None:
        """Add what is held: a number, one for each unit, or for each unit of every sample."""
        if bool(value.any()):
            self.base = value if self.base is None else self.base + value

    def enter(self, pre: Sender, weight: Tensor | float, gain: Tensor | float) -> None:
        """Add the image of an activity under W, ``(*samples, post, pre)``, or a number."""
        if isinstance(gain, Tensor):
            matrix = isinstance(weight, Tensor) and weight.dim() > 1
            weight, gain = weight * (gain[:, None] if matrix else gain), 1.0
        self.images.append((pre, weight, gain))

    def into(self, out: Tensor) -> tuple[Operations, Tensor]:
        """Return what writes the sum into a buffer, and where it is then; only a buffer is written.

        What is held is where it is, and nothing writes it.
        """
        total = self.base
        if total is not None and out.numel() <= SMALL:
            total = total.expand_as(out).contiguous()
        operations = self.entering(out, total)
        if operations:
            return operations, out
        return operations, torch.zeros_like(self.like) if total is None else total.expand_as(out)

    def entering(
        self, out: Tensor, total: Tensor | None = None, rows: slice | None = None
    ) -> Operations:
        """Return what writes a total and all that enters into a buffer; nothing where none does.

        Of what is `apart`, for some of the samples, if told so.
        """
        operations: Operations = []
        if rows is not None:
            out = out[rows]
        for pre, weight, alpha in self.images:
            operations.append(self._product(total, weight, pre, alpha, out, rows))
            total = out
        for other in self.others:
            operations.append(partial(_addition, total, other, out))
            total = out
        return operations

    def coast(self, h: float, steps: int) -> bool:
        """Let an image move by itself, without products, where its sender does; tell if one does.

        W s obeys the leak of s, towards W r.
        """
        for k, (pre, weight, alpha) in enumerate(self.images):
            if pre.coasts and _matrix(weight) and steps >= COASTING:
                self._kept = self.base, list(self.images)
                base = torch.zeros_like(self.like) if self.base is None else self.base
                self._aim = torch.addmm(base, pre.r, weight.T, alpha=alpha)
                self.base = torch.addmm(base, pre.s, weight.T, alpha=alpha)
                self._share = h * float(pre.decay)
                del self.images[k]
                return True
        return False

    def follow(self) -> Operations:
        """Return what lets the image take the step that its sender took."""
        assert self.base is not None
        return [partial(self.base.lerp_, self._aim, self._share)]

    def land(self) -> None:
        """Take products again."""
        if self._kept is not None:
            self.base, self.images = self._kept
            self._kept = None

    def _product(
        self,
        total: Tensor | None,
        weight: Tensor | float,
        pre: Sender,
        alpha: float,
        out: Tensor,
        rows: slice | None = None,
    ) -> Callable[[], object]:
        """Return what writes total + alpha W r into a buffer, which may be the total."""
        if pre.direct and _matrix(weight):
            s = pre.s if rows is None else pre.s[rows]
            if Product.accepts(s, weight):
                return Product(total, weight, alpha, s, out, self.ordered)
            matrix = self.ordered.transposed(weight, s.shape[0])
            if total is None and alpha == 1:
                return partial(torch.mm, s, matrix, out=out)
            whole, beta = (out, 0) if total is None else (total, 1)
            return partial(torch.addmm, whole, s, matrix, beta=beta, alpha=alpha, out=out)

        def write() -> None:
            r = pre.activity()
            if isinstance(weight, float) or weight.dim() <= 1:
                change = r * (weight * alpha)
            elif weight.dim() == 2:
                change = torch.mm(r, weight.T).mul_(alpha)
            else:
                change = torch.bmm(weight, r.unsqueeze(-1)).squeeze(-1).mul_(alpha)
            _addition(total, lambda: change, out)

        return write


def _matrix(weight: Tensor | float) -> TypeGuard[Tensor]:
    """Whether weights are one matrix for all samples."""
    return isinstance(weight, Tensor) and weight.dim() == 2


def times(value: Tensor, gain: Tensor | float) -> Tensor:
    """Return a value times a gain."""
    return value if is_one(gain) else value * gain


def is_one(gain: Tensor | float) -> bool:
    """Tell whether a gain changes nothing."""
    return isinstance(gain, float) and gain == 1.0


def _addition(total: Tensor | None, other: Callable[[], Tensor], out: Tensor) -> None:
    """Write total + other into a buffer, which may be the total."""
    if total is None:
        out.copy_(other())
    else:
        torch.add(total, other(), out=out)
