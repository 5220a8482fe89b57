"""What is linear: currents in the activity that they carry, leaky neurons in their state.

While weights rest and inputs are held, a layered network of leaky neurons is

    ds/dt = decay·s + height·φ(W r + b) + Σ gain·(W r + b),    r the activities that it hears

and a step costs its products W r, and a few operations in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import final

import torch
from torch import Tensor

__all__ = ["Affine", "Bend", "Leak", "Target"]


@final
@dataclass(frozen=True)
class Affine:
    """A current that is I = W r + b in the activity r of one population.

    Attributes
    ----------
    pre : str
        The population.
    weight : Tensor
        W, ``(*batch, post, pre)``; or a number, which multiplies every unit.
    offset : Tensor or None
        b, ``(*batch, post)`` or ``(post,)``; None is zero.
    """

    pre: str
    weight: Tensor
    offset: Tensor | None = None


@final
@dataclass(frozen=True)
class Bend:
    """A function of one port, applied unit by unit: φ(I + shift).

    Attributes
    ----------
    port : str
        I.
    kind : {"clip", "tanh", "logistic", ""}
        φ; "" is any `function` of I, its shift and its height included.
    shift, height : Tensor
        What is added to I, and what multiplies φ in the derivative.
    low, high : float
        Bounds of "clip".
    """

    port: str
    kind: str
    shift: Tensor
    height: Tensor
    low: float = -torch.inf
    high: float = torch.inf
    function: Callable[[Tensor], Tensor] | None = None

    def like(self, other: Bend) -> bool:
        """Tell whether φ is the same known function."""
        mine, its = ((b.kind, b.low, b.high) for b in (self, other))
        return self.kind != "" and mine == its

    def into(self, u: Tensor, out: Tensor) -> Callable[[], object]:
        """Return what writes φ(u) into a buffer, which may be u itself."""
        if self.kind == "clip":
            return partial(torch.clamp, u, self.low, self.high, out=out)
        if self.kind in ("tanh", "logistic"):
            return partial(torch.tanh if self.kind == "tanh" else torch.sigmoid, u, out=out)
        function = self.function
        assert function is not None
        return lambda: out.copy_(function(u))


@final
@dataclass(frozen=True)
class Target:
    """Where leaky neurons go: ds/dt = rate·(r − s).

        r = rest + Σ gain_p I_p + height·φ(I_q + shift)

    Attributes
    ----------
    rate : Tensor
        A number, or one for each unit; none is zero.
    rest, shift, height : Tensor or None
        None is zero, zero and one.
    gains : mapping of str to Tensor or float
        Numbers are floats.
    """

    rate: Tensor
    rest: Tensor | None
    gains: Mapping[str, Tensor | float]
    shift: Tensor | None
    height: Tensor | None


@final
@dataclass(frozen=True)
class Leak:
    """A population of leaky neurons: ds/dt = decay·s + rest + Σ gain_p I_p + height·φ(I_q + shift).

    Attributes
    ----------
    decay, rest : Tensor
        Numbers, or one for each unit.
    gains : mapping of str to Tensor
        Of the ports that enter as they are.
    bend : Bend or None
        The one that does not.
    """

    decay: Tensor
    rest: Tensor
    gains: Mapping[str, Tensor]
    bend: Bend | None

    @cached_property
    def target(self) -> Target | None:
        """Where they go by themselves; None where one does not leak."""
        return self.target_of(-self.decay) if bool(self.decay.all()) else None

    def target_of(self, rate: Tensor) -> Target:
        """Return where they go if their leak is another."""
        bend, rest = self.bend, self.rest / rate
        gains = {port: gain / rate for port, gain in self.gains.items()}
        shift = height = None
        if bend is not None:
            shift = bend.shift if bool(bend.shift.any()) else None
            height = bend.height / rate
            height = None if bool((height == 1).all()) else height
        return Target(
            rate,
            rest if bool(rest.any()) else None,
            {port: float(g) if g.dim() == 0 else g for port, g in gains.items()},
            shift,
            height,
        )
