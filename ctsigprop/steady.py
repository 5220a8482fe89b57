"""The steady state of a system, straight, with a certificate and a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.checks import check_inputs, check_state_and_times
from ctsigprop.errors import unknown
from ctsigprop.models.neurons import VectorField
from ctsigprop.signals import Signal
from ctsigprop.solvers.adjoint import attach
from ctsigprop.solvers.base import State
from ctsigprop.solvers.relaxation import Relaxation, Steady
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["SteadyState", "steady_state"]


@dataclass
class SteadyState:
    """Where a system rests while inputs are held and weights rest.

    Attributes
    ----------
    system : System
        What rests.
    states : State
        Every variable, each ``(*batch, *dims)``; weights as they were given.
    residual : float
        The largest |dy/dt| of any neuron, measured at this state.
    change : float
        The largest change by which one more sweep would move a neuron.
    sweeps : int
        How many led here.
    time : float
        At which gates and inputs were read.
    batch : tuple of int
        The leading axes.
    """

    system: System
    states: State
    residual: float
    change: float
    sweeps: int
    time: float
    batch: tuple[int, ...] = field(default=())

    def __getitem__(self, name: str) -> Tensor:
        """Return one variable, ``(*batch, *dims)``."""
        if name not in self.states:
            raise KeyError(unknown("variable", name, self.states))
        return self.states[name]

    def to_xarray(self) -> Dataset:
        """Return the state as labelled data, with ``residual``, ``change`` and ``sweeps``."""
        import numpy as np
        import xarray as xr

        axes = tuple(f"batch_{i}" for i in range(len(self.batch)))
        lead = ("sample",) if len(axes) == 1 else axes
        found = {}
        for name, value in self.states.items():
            variable = self.system.variables[name]
            dims = (*(() if variable.shared else lead), *variable.dims)
            array = value.detach().cpu().numpy()
            coords = {
                dim: (dim, np.arange(size), {"units": "1"})
                for dim, size in zip(dims, array.shape, strict=True)
            }
            found[name] = xr.DataArray(array, coords, dims, attrs={"units": variable.unit})
        dataset = xr.Dataset(found)
        for name, number, meaning in (
            ("residual", self.residual, "the largest derivative of a neuron, measured here"),
            ("change", self.change, "the largest change by one more sweep"),
            ("sweeps", self.sweeps, "sweeps that led here"),
        ):
            dataset[name] = ((), number, {"units": "1", "long_name": meaning})
        dataset["residual"].attrs["units"] = f"1/({self.system.time_unit})"
        dataset.attrs = {"time": self.time}
        return dataset


def steady_state(
    system: System,
    y0: Mapping[str, Tensor | float] | None = None,
    *,
    inputs: Mapping[str, Signal | Tensor | float] | None = None,
    t: float = 0.0,
    method: Steady | None = None,
    differentiable: bool | None = None,
) -> SteadyState:
    """Return the steady state f(y*) = 0 of the neurons, while inputs are held and weights rest.

    Population after population is set to where it rests with what it receives (`Steady`): a
    network without loops is there after one sweep in the order of its forward path. It is the state
    to which the sweeps lead from y0, stable or not, and it is certified by |dy/dt| measured there.
    `fixed_points` finds all of them in a range, of any system, where it is small.

    The state is differentiable in parameters, weights and inputs that require a gradient,

        dy*/dp = −J⁻¹ ∂f/∂p,    J = ∂f/∂y,

    by one linear system on the way back (GMRES), whose residual is checked as well. No tape of the
    sweeps is kept. The start y0 of the neurons has no gradient. There are no second derivatives.

    Parameters
    ----------
    system : System
        Neurons of one variable each; synapses without delays and filters.
    y0 : mapping of str to Tensor or float, optional
        Where the sweeps start, and the weights; as in `solve`.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources by name.
    t : float
        The time at which gates and inputs are read.
    method : Steady, optional
        Tolerance and sweeps; by default a tolerance of 1e-10, or 1e-5 in float32.
    differentiable : bool, optional
        Keep the graph for gradients. By default if anything that goes in requires a gradient.

    Returns
    -------
    SteadyState
        Every variable, the residual, and how many sweeps led there.

    Raises
    ------
    ValueError, TypeError
        Names, shapes or values that do not fit; a system that does not relax in this way.
    ConvergenceError, NonFiniteError
        No rest is found; from the backward pass, the Jacobian is singular there.

    References
    ----------
    Almeida 1987, Proc. IEEE First Int. Conf. Neural Networks 2:609-618, and Pineda 1987, Phys.
    Rev. Lett. 59:2229, for the gradient; Bai, Kolter & Koltun 2019, arXiv 1909.01377.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> network = ct.sigprop_network([4, 8, 2], rho="tanh")
    >>> x = torch.rand(5, 4, dtype=torch.float64)
    >>> rest = ct.steady_state(network, inputs={"x": x, "c": torch.zeros(5, 2)})
    >>> rest["s_y"].shape, rest.residual < 1e-9
    (torch.Size([5, 2]), True)
    """
    if not isinstance(system, System):
        raise TypeError(f"system must be a System; got {type(system).__name__}")
    if not isinstance(method, Steady | None):
        raise TypeError(f"method must be Steady(...); got {method!r}")
    signals = check_inputs(system, inputs)
    state, batch, times = check_state_and_times(system, y0, [t], signals)
    own = {v.name for neuron in system.neurons for v in neuron.variables}
    weights = {name: value for name, value in system.project(state).items() if name not in own}
    try:
        relaxation = Relaxation(system, weights, float(times[0]), signals)
    except ValueError as error:
        raise ValueError(f"{error}; fixed_points finds where any system rests") from None
    if method is None:
        single = next(iter(state.values())).dtype == torch.float32
        method = Steady(tol=1e-5 if single else 1e-10)
    start = {name: state[name].detach() for name in state if name in own}
    rest = relaxation.settle(start, method)
    found = rest.state
    tensors = _wanted(system, weights, signals, relaxation, found, differentiable)
    if tensors:
        found = attach(relaxation, rest, tensors)
    whole = {name: found.get(name, weights.get(name, state[name])) for name in state}
    return SteadyState(
        system, whole, rest.residual, rest.change, rest.sweeps, float(times[0]), batch
    )


def _wanted(
    system: System,
    weights: State,
    signals: Mapping[str, Signal],
    relaxation: Relaxation,
    found: State,
    differentiable: bool | None,
) -> list[Tensor]:
    """Return what a gradient is wanted of; refuse where it would be lost."""
    if differentiable is False:
        return []
    held = [s for s in (signals.get(p.name, p.signal) for p in system.sources) if s is not None]
    every = [*system.parameters(), *system.buffers(), *weights.values()]
    every += [tensor for signal in held for tensor in (*signal.parameters(), *signal.buffers())]
    tensors = list({id(tensor): tensor for tensor in every if tensor.requires_grad}.values())
    if differentiable and not (tensors and torch.is_grad_enabled()):
        raise ValueError(
            "differentiable=True, but nothing that goes in requires a gradient, or it is inside "
            "torch.no_grad(): use system.learn('name'), or requires_grad on weights or an input"
        )
    if not torch.is_grad_enabled():
        return []
    functions = not tensors and any(isinstance(neuron, VectorField) for neuron in system.neurons)
    if functions and any(slope.requires_grad for slope in relaxation.slopes(found).values()):
        raise ValueError(
            "a function of the system depends on tensors that require a gradient, which it does "
            "not show: make it a torch.nn.Module with parameters, or pass differentiable=False"
        )
    return tensors
