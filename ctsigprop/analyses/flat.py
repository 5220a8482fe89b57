"""A system as a field on a flat vector: what Newton, contours and eigenvalues work on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.checks import check_inputs, check_state_and_times
from ctsigprop.errors import did_you_mean
from ctsigprop.signals import Signal
from ctsigprop.system import System
from ctsigprop.terms import State
from ctsigprop.units import divide_units

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["FlatField", "check_ranges"]

At = Mapping[str, Tensor | float]
Inputs = Mapping[str, Signal | Tensor | float]
Ranges = Mapping[str, tuple[float, float]]


class FlatField:
    """dy/dt = f(y) of a system at one time, y the vector of its free components.

    A component is called ``v[0]``, or ``w[2,0]`` for weights; a variable that has only one may be
    called by its own name.

    Parameters
    ----------
    system : System
        With variables of ``(*dims)``, float64.
    free : sequence of str, optional
        The components of y, in this order; all those that `at` does not hold by default.
    at : mapping of str to Tensor or float, optional
        Values of variables or components that are held; initial values for those that are neither
        free nor here.
    t : float
        The time at which the field stands still.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Attributes
    ----------
    names : tuple of str
        Component names.
    symbols : tuple of str
        The same as identifiers, for datasets: ``v`` where it is the variable's only one, ``y_0``.
    units, rate_units : tuple of str
        Of y, and of its derivative.
    initial : Tensor
        The initial value of y, ``(n,)``.
    held : dict of str to float
        Value of every component that is not free.
    variables : tuple of str
        The variables of which some component is free.

    Raises
    ------
    ValueError
        Unknown names, a component that is both free and held, a system with delays, inputs with
        batch axes.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> field = FlatField(ct.System(ct.fitzhugh_nagumo(I=0.5)))
    >>> field.names, field(torch.zeros(2).double()).tolist()
    (('v[0]', 'w[0]'), [0.5, 0.055999999999999994])
    """

    def __init__(
        self,
        system: System,
        *,
        free: Sequence[str] | None = None,
        at: At | None = None,
        t: float = 0.0,
        inputs: Inputs | None = None,
    ) -> None:
        if not isinstance(system, System):
            raise TypeError(f"system must be a System; got {type(system).__name__}")
        if system.delay:
            raise ValueError(
                f"the field of a system with delays (the longest is {system.delay:g}) depends on "
                "its past, and is no function of the state"
            )
        self.system = system
        self.inputs = check_inputs(system, inputs)
        self._variables = system.variables
        self._slices, every = _components(system)
        self._every = every
        given = dict(at or {})
        whole = {name: value for name, value in given.items() if name not in every}
        state, batch, times = check_state_and_times(system, whole, [t], self.inputs)
        if batch:
            raise ValueError(f"the inputs must have no batch axes here; got batch {batch}")
        if any(value.dtype != torch.float64 for value in state.values()):
            raise TypeError("equilibria need float64: use system.double()")
        self.t = times[0]
        base = torch.cat([state[name].detach().reshape(-1) for name in self._slices])
        for name in given.keys() - whole.keys():
            base[every[name]] = float(given[name])
        if not bool(torch.isfinite(base).all()):
            raise ValueError(f"values to hold must be finite; got {given}")
        held = {every[n] for n in given.keys() & every.keys()}
        for name in whole:
            held |= set(range(len(base))[self._slices[name]])
        labels = list(every)
        if free is None:
            index = [i for i in range(len(base)) if i not in held]
        else:
            index = [self._find(name) for name in free]
            for i in held & set(index):
                raise ValueError(f"'{labels[i]}' is free and held at the same time")
        if not index or len(set(index)) < len(index):
            raise ValueError(f"free must name different components, at least one; got {free}")
        chosen = set(index)
        rest = [i for i in range(len(base)) if i not in chosen]
        self.initial = base[index]
        self.held = {labels[i]: float(base[i]) for i in rest}
        self.names = tuple(labels[i] for i in index)
        self.symbols = tuple(self._symbol(name) for name in self.names)
        self.units = tuple(self._variables[name.partition("[")[0]].unit for name in self.names)
        self.rate_units = tuple(divide_units(unit, system.time_unit) for unit in self.units)
        self._index = index
        moving = {name.partition("[")[0] for name in self.names}
        self.variables = tuple(name for name in self._slices if name in moving)
        self._shared = any(self._variables[name].shared for name in moving)
        own = [i for name in self.variables for i in range(len(base))[self._slices[name]]]
        partly = [i for i in own if i not in chosen]
        self._partly = base[partly]
        self._order = torch.tensor(np.argsort([*index, *partly]), device=base.device)
        place = {i: k for k, i in enumerate(own)}
        self._chosen = [place[i] for i in index]
        self._still = {
            name: base[part].reshape(self._variables[name].shape)
            for name, part in self._slices.items()
            if name not in moving
        }
        # shared variables that are held need no copy for each point
        self._alone = {k: v for k, v in self._still.items() if self._variables[k].shared}

    def __call__(self, y: Tensor) -> Tensor:
        """Return the derivative of y at many points at once, each ``(..., n)``."""
        if self._shared and y.dim() > 1:
            flat = torch.func.vmap(self._rate)(y.reshape(-1, y.shape[-1]))
            return flat.reshape(y.shape)
        return self._rate(y)

    def jacobian(self, y: Tensor) -> Tensor:
        """Return the exact ∂f_i/∂y_j at many points at once, ``(..., n, n)``."""
        # plain autograd: torch.func would load for a second when it is first used
        with torch.enable_grad():
            point = y.detach().clone().requires_grad_()
            f = self(point)
            if not f.requires_grad:
                return torch.zeros(*y.shape, y.shape[-1], dtype=y.dtype, device=y.device)
            rows = [
                torch.autograd.grad(
                    f[..., i].sum(), point, retain_graph=True, materialize_grads=True
                )[0]
                for i in range(y.shape[-1])
            ]
        return torch.stack(rows, dim=-2)

    def state(self, y: Tensor) -> State:
        """Return the whole state, free and held, each ``(..., *dims)``."""
        lead = y.shape[:-1]
        full = torch.cat([y, self._partly.expand(*lead, -1)], dim=-1)[..., self._order]
        state: State = {}
        start = 0
        for name, part in self._slices.items():
            shape = (*lead, *self._variables[name].shape)
            if name in self._still:
                state[name] = self._still[name].expand(shape)
                continue
            end = start + part.stop - part.start
            state[name] = full[..., start:end].reshape(shape)
            start = end
        return state

    def select(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return y of whole states, ``(..., n)``."""
        parts = []
        for name in self._slices:
            rank = len(self._variables[name].shape)
            value = state[name]
            lead = value.shape[: value.dim() - rank]
            parts.append(value.reshape(*lead, math.prod(self._variables[name].shape)))
        return torch.cat(parts, dim=-1)[..., self._index]

    def vector(self, state: Mapping[str, Tensor | float]) -> Tensor:
        """Return y of one state, ``(n,)``; variables left out have their initial values."""
        full, batch, _ = check_state_and_times(self.system, state, [0.0], self.inputs)
        if batch:
            raise ValueError(f"one state is needed; got a batch {batch}")
        return self.select(full)

    def to_xarray(self, y: Tensor, *dims: str, held: bool = True) -> Dataset:
        """Return states ``(*lead, n)`` with their dims, labels and units along leading `dims`.

        Without `held`, only the variables of which some component is free.
        """
        import xarray as xr

        variables: dict[str, Any] = {}
        coords: dict[str, Any] = {
            dim: (dim, np.arange(n), {"units": "1"})
            for dim, n in zip(dims, y.shape[:-1], strict=True)
        }
        for name, value in self.state(y).items():
            if not (held or name in self.variables):
                continue
            own = self._variables[name]
            variables[name] = ((*dims, *own.dims), value.cpu().numpy(), {"units": own.unit})
            coords |= {d: (d, np.arange(n), {"units": "1"}) for d, n in own.dims.items()}
        return xr.Dataset(variables, coords=coords)

    def _rate(self, y: Tensor) -> Tensor:
        state = self.state(y) | self._alone
        derivative = self.system(self.t, state, inputs=self.inputs)
        for name, rate in derivative.items():
            if rate.shape != state[name].shape:
                raise ValueError(
                    f"the dynamics returned shape {tuple(rate.shape)} for '{name}', "
                    f"the state has shape {tuple(state[name].shape)}"
                )
        parts = []
        for name in self.variables:
            rate = derivative.get(name, torch.zeros_like(state[name]))
            parts.append(rate.reshape(*y.shape[:-1], math.prod(self._variables[name].shape)))
        return torch.cat(parts, dim=-1)[..., self._chosen]

    def _find(self, name: str) -> int:
        if name in self._every:
            return self._every[name]
        if name in self._slices:
            part = self._slices[name]
            if part.stop - part.start == 1:
                return int(part.start)
            own = list(self._every)[part]
            raise ValueError(
                f"'{name}' has {len(own)} components; name one: {', '.join(own[:6])}"
                + (" …" if len(own) > 6 else "")
            )
        known = [*self._slices, *self._every]
        raise ValueError(
            f"the system has no component '{name}'{did_you_mean(name, known)}; "
            f"variables: {', '.join(self._slices)}"
        )

    def _symbol(self, name: str) -> str:
        variable = name.partition("[")[0]
        if math.prod(self._variables[variable].shape) == 1:
            return variable
        return name.replace("[", "_").replace(",", "_").rstrip("]")


def check_ranges(ranges: Ranges, most: int | None = None) -> NDArray[np.float64]:
    """Return the bounds, ``(n, 2)``; refuse what is not finite or upside down."""
    if not ranges or (most is not None and len(ranges) > most):
        count = "at least one variable" if most is None else f"1 to {most} variables"
        raise ValueError(f"ranges must be given for {count}; got {list(ranges)}")
    for name, bounds in ranges.items():
        try:
            low, high = (float(bound) for bound in bounds)
        except (TypeError, ValueError):
            raise ValueError(f"range of '{name}' must be (low, high); got {bounds!r}") from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"range of '{name}' must be finite with low < high; got {bounds!r}")
    return np.array([[float(low), float(high)] for low, high in ranges.values()])


def _components(system: System) -> tuple[dict[str, slice], dict[str, int]]:
    """Return where each variable lies in the vector of all, and the position of each component."""
    slices: dict[str, slice] = {}
    names: dict[str, int] = {}
    for name, variable in system.variables.items():
        start = len(names)
        for index in product(*map(range, variable.shape)):
            label = f"{name}[{','.join(map(str, index))}]" if index else name
            names[label] = len(names)
        slices[name] = slice(start, len(names))
    return slices, names
