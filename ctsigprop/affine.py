"""What is linear: currents in the activity that they carry, leaky neurons in their state.

While weights rest and inputs are held, a layered network of leaky neurons is

    ds/dt = decay·s + height·φ(W r + b) + Σ gain·(W r + b),    r the activities that it hears

and a step costs its products W r, and a few operations in place. What is one number, for all units
and samples, is a float; what is one for each unit, a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import final

import torch
from torch import Tensor

__all__ = ["Affine", "Bend", "Leak", "Target", "plain"]


@final
@dataclass(frozen=True)
class Affine:
    """A current that is I = W r + b in the activity r of one population.

    Attributes
    ----------
    pre : str
        The population.
    weight : Tensor or float
        W, ``(*batch, post, pre)``; or a number, which multiplies every unit.
    offset : Tensor or None
        b, ``(*batch, post)`` or ``(post,)``; None is zero.
    """

    pre: str
    weight: Tensor | float
    offset: Tensor | None = None

    @property
    def silent(self) -> bool:
        """Whether nothing comes of it."""
        weight = self.weight
        return self.offset is None and not (weight if isinstance(weight, float) else weight.any())


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
    shift, height : Tensor or float
        What is added to I, and what multiplies φ in the derivative.
    low, high : float
        Bounds of "clip".
    """

    port: str
    kind: str
    shift: Tensor | float
    height: Tensor | float
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
    rate : Tensor or float
        Zero nowhere.
    rest, shift, height : Tensor or float
    gains : mapping of str to Tensor or float
    """

    rate: Tensor | float
    rest: Tensor | float
    gains: Mapping[str, Tensor | float]
    shift: Tensor | float
    height: Tensor | float


@final
@dataclass(frozen=True)
class Leak:
    """A population of leaky neurons: ds/dt = decay·s + rest + Σ gain_p I_p + height·φ(I_q + shift).

    Attributes
    ----------
    decay, rest : Tensor or float
    gains : mapping of str to Tensor or float
        Of the ports that enter as they are.
    bend : Bend or None
        The one that does not.
    """

    decay: Tensor | float
    rest: Tensor | float
    gains: Mapping[str, Tensor | float]
    bend: Bend | None

    @cached_property
    def target(self) -> Target | None:
        """Where they go by themselves; None where one does not leak."""
        return self.target_of(self.decay)

    def target_of(self, decay: Tensor | float) -> Target | None:
        """Return where they go if their leak is another."""
        if not (decay if isinstance(decay, float) else bool(decay.all())):
            return None
        rate, bend = -decay, self.bend
        gains = {port: plain(gain / rate) for port, gain in self.gains.items()}
        shift, height = (0.0, 1.0) if bend is None else (bend.shift, plain(bend.height / rate))
        return Target(rate, plain(self.rest / rate), gains, shift, height)


def plain(value: Tensor | float) -> Tensor | float:
    """Return as a float what is the same number throughout."""
    if isinstance(value, float) or not value.numel():
        return value
    first = float(value.reshape(-1)[0])
    return first if value.dim() == 0 or bool((value == first).all()) else value
