"""Quantities: the variables and the parameters of a system, with their units and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["Bounded", "Parameter", "Variable"]


@dataclass(frozen=True)
class Variable:
    """A state variable: the one place where its name, dims, unit and time scale are said.

    Parameters
    ----------
    name : str
        Its name in the state, and in the dataset.
    dims : mapping of str to int
        Name and size of each of its own axes, in order; a batch comes before them.
    unit : str
        UDUNITS symbol, "1" for none.
    tau : float, optional
        Nominal time constant, in the system's time unit.
    initial : Tensor or float
        Where it starts unless `y0` says otherwise.
    shared : bool
        One value for the whole batch: a weight that learns from every presentation at once.

    Examples
    --------
    >>> Variable("v", {"neuron": 3}, unit="mV", tau=20.0).shape
    (3,)
    """

    name: str
    dims: Mapping[str, int] = field(default_factory=dict)
    unit: str = "1"
    tau: float | None = None
    initial: Tensor | float = 0.0
    shared: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a variable's name must be an identifier; got {self.name!r}")
        if self.name in self.dims:
            raise ValueError(f"variable '{self.name}' and one of its dims have the same name")
        for dim, size in self.dims.items():
            if not isinstance(size, int) or size < 0:
                raise ValueError(f"dim '{dim}' of '{self.name}' must have a size >= 0; got {size}")
        if self.tau is not None and not self.tau > 0:
            raise ValueError(f"tau of '{self.name}' must be > 0; got {self.tau}")
        if self.unit != "1":
            from ctsigprop.units import parse_unit

            parse_unit(self.unit, of=self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its own axes."""
        return tuple(self.dims.values())


@dataclass(frozen=True)
class Parameter:
    """A number that a term depends on, with its unit and its bounds.

    Parameters
    ----------
    value : Tensor or float
        A number, or one for each unit of the population (heterogeneous).
    unit : str, optional
        UDUNITS symbol; None leaves it to the equation that uses it.
    lower, upper : float, optional
        Bounds, kept by a smooth transform when the parameter is learned.
    learn : bool
        Whether it is learned from the start.

    Examples
    --------
    >>> Parameter(20.0, unit="ms", lower=0.0).unit
    'ms'
    """

    value: Tensor | float
    unit: str | None = None
    lower: float | None = None
    upper: float | None = None
    learn: bool = False

    def __post_init__(self) -> None:
        low = -torch.inf if self.lower is None else self.lower
        high = torch.inf if self.upper is None else self.upper
        if low >= high:
            raise ValueError(f"lower={self.lower} must be below upper={self.upper}")


class Bounded(nn.Module):
    """The smooth map from the real line onto the open interval (lower, upper).

    Both bounds: lower + (upper − lower)·σ(z); one bound: lower + log(1 + e^z), or upper less that.
    """

    def __init__(self, lower: float | None, upper: float | None) -> None:
        super().__init__()
        self.lower, self.upper = lower, upper

    def forward(self, z: Tensor) -> Tensor:
        """Return the bounded value of z."""
        if self.lower is not None and self.upper is not None:
            return self.lower + (self.upper - self.lower) * torch.sigmoid(z)
        if self.lower is not None:
            return self.lower + nn.functional.softplus(z, threshold=50.0)
        return (self.upper or 0.0) - nn.functional.softplus(z, threshold=50.0)

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the z of a value inside the bounds."""
        if self.lower is not None and self.upper is not None:
            return torch.logit((value - self.lower) / (self.upper - self.lower))
        gap = value - self.lower if self.lower is not None else (self.upper or 0.0) - value
        return gap + torch.log(-torch.expm1(-gap))
