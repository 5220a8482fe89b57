"""What `solve` refuses before it starts, and what it checks when it is done."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ctsigprop.errors import NonFiniteError, unknown
from ctsigprop.models.neurons import VectorField
from ctsigprop.quantities import Variable
from ctsigprop.signals import Signal, as_signal
from ctsigprop.solution import Solution
from ctsigprop.solvers.base import Field, Layout, Solver, State
from ctsigprop.solvers.events import Event
from ctsigprop.solvers.impulses import Impulse
from ctsigprop.system import System

__all__ = [
    "check_abilities",
    "check_all",
    "check_finite",
    "check_gradients",
    "check_inputs",
    "check_state_and_times",
    "probe",
    "with_options",
]

Given = TypeVar("Given")

FEW = 100
"""Times that are looked at one by one: up to here that is faster."""


def with_options(solver: Solver, options: Mapping[str, Any]) -> Solver:
    """Return the solver with its options changed; refuse names that it does not have."""
    if not isinstance(solver, Solver):
        given = f"the class {solver.__name__}" if isinstance(solver, type) else repr(solver)
        raise TypeError(f"solver must be a solver such as Tsit5(rtol=1e-6); got {given}")
    accepted = [f.name for f in dataclasses.fields(solver)]
    for name in options:
        if name not in accepted:
            raise TypeError(unknown(f"option of {type(solver).__name__}", name, accepted))
    return solver.with_options(**options) if options else solver


def check_inputs(
    system: System, inputs: Mapping[str, Signal | Tensor | float] | None
) -> dict[str, Signal]:
    """Return the signals of sources by name; refuse unknown names and wrong channels."""
    sources = {source.name: source for source in system.sources}
    signals: dict[str, Signal] = {}
    for name, given in (inputs or {}).items():
        if name not in sources:
            raise ValueError(unknown("source", name, sources))
        signals[name] = as_signal(given)
        if signals[name].size not in (0, sources[name].size):
            raise ValueError(
                f"the signal of source '{name}' must have {sources[name].size} channels; "
                f"got {signals[name].size}"
            )
    for name, source in sources.items():
        if source.signal is None and name not in signals:
            raise ValueError(f"source '{name}' has no signal: pass inputs={{'{name}': ...}}")
    return signals


def check_state_and_times(
    system: System,
    y0: Mapping[str, Tensor | float] | None,
    t: Tensor | Sequence[float],
    signals: Mapping[str, Signal],
) -> tuple[State, tuple[int, ...], Tensor]:
    """Return a complete initial state, its batch axes and float64 times; refuse what misfits."""
    if not isinstance(y0, Mapping | None):
        raise TypeError(f"y0 must map names of variables to values; got {type(y0).__name__}")
    system.check_state(y0 or {})
    given = {name: _real(name, value) for name, value in (y0 or {}).items()}
    dtypes = {v.dtype for v in (y0 or {}).values() if isinstance(v, Tensor) and v.dim()}
    if len(dtypes) > 1:
        raise TypeError(f"all variables must have one dtype; got {sorted(map(str, dtypes))}")
    dtype = dtypes.pop() if dtypes else system.dtype
    parameters, buffers = system.numbers()
    if any(p.dim() and p.dtype != dtype for p in parameters):
        for name, parameter in system.named_parameters():
            if not parameter.dim() or parameter.dtype == dtype:
                continue
            raise TypeError(
                f"parameter '{name}' is {parameter.dtype} and the state is {dtype}: "
                f"use system.to({dtype})"
            )
    times = _check_times(t)
    batch = _batch(system, given, times, signals)
    placed = bool(parameters or buffers)  # without numbers, a system is where it begins
    device = None if placed else next((value.device for value in given.values()), None)
    state = system.initial_state(batch, dtype, device)
    for name, value in given.items():
        if not bool(torch.isfinite(value.detach()).all()):
            bad = ~torch.isfinite(value.detach())
            raise ValueError(
                f"initial state '{name}' contains {int(bad.sum())} non-finite value(s), the first "
                f"at index {torch.nonzero(bad)[0].tolist()}; refusing to integrate"
            )
        want, own = tuple(state[name].shape), system.variables[name].shape
        if value.dim() and tuple(value.shape) not in (want, own):
            raise ValueError(
                f"initial state '{name}' must have shape {want}, "
                f"{_axes(system.variables[name])}; got {tuple(value.shape)}"
            )
        state[name] = value.to(state[name].device, dtype).expand(want).contiguous()
    return state, batch, times


def _real(name: str, value: Tensor | float) -> Tensor:
    if not isinstance(value, Tensor):
        return _numbers(f"initial state '{name}'", value)
    if value.is_complex():
        raise ValueError(f"the state must be real; '{name}' has dtype {value.dtype}")
    if not value.is_floating_point():
        raise TypeError(
            f"the state must be floating point; '{name}' has dtype {value.dtype}: "
            "use .double() or .float()"
        )
    return value


def _numbers(what: str, value: Any) -> Tensor:
    """Return numbers that are no tensor as one of float64."""
    array = np.asarray(value)
    if array.dtype.kind == "c":
        raise ValueError(f"{what} must be real; got dtype {array.dtype}")
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{what} must be numbers; got {value!r}")
    return torch.tensor(array.astype(np.float64, order="C"))


def _axes(variable: Variable) -> str:
    own = ", ".join(f"{dim}={size}" for dim, size in variable.dims.items())
    return f"(*batch, {own})" if own else "(*batch,)"


def _check_times(t: Tensor | Sequence[float]) -> Tensor:
    if isinstance(t, list | tuple) and any(isinstance(time, Tensor) for time in t):
        t = torch.stack([torch.as_tensor(time, dtype=torch.float64) for time in t])
    times = t if isinstance(t, Tensor) else _numbers("t", t)
    if times.is_complex() or times.dtype == torch.bool:
        raise ValueError(f"t must be real numbers; got dtype {times.dtype}")
    times = times.to(torch.float64)
    if times.dim() == 0 or times.shape[-1] == 0:
        raise ValueError(f"t must be a list of at least one time; got shape {tuple(times.shape)}")
    if times.dim() == 1 and len(times) <= FEW and _in_order(times.tolist()):
        return times
    if not bool(torch.isfinite(times.detach()).all()):
        raise ValueError("t must be finite; got NaN or an infinity")
    steps = times.detach().diff(dim=-1)
    if steps.numel() == 0:
        return times
    direction = 1.0 if bool((times[..., -1] >= times[..., 0]).all()) else -1.0
    bad = torch.nonzero(steps * direction <= 0)
    if bad.numel():
        *lead, i = bad[0].tolist()
        row = times[tuple(lead)] if lead else times
        a, b = float(row[i]), float(row[i + 1])
        if a == b:
            raise ValueError(f"output times must differ: duplicate time {a:g} at index {i},{i + 1}")
        word = "increasing" if direction > 0 else "decreasing"
        sign = "<" if direction > 0 else ">"
        raise ValueError(
            f"output times must be strictly {word}: t[{i + 1}]={b:g} {sign} t[{i}]={a:g}"
        )
    return times


def _in_order(times: Sequence[float]) -> bool:
    """Tell whether times are finite, and strictly increase or decrease."""
    if not all(map(math.isfinite, times)):
        return False
    sign = 1.0 if times[-1] >= times[0] else -1.0
    return all((b - a) * sign > 0 for a, b in pairwise(times))


def _batch(
    system: System,
    given: Mapping[str, Tensor],
    times: Tensor,
    signals: Mapping[str, Signal],
) -> tuple[int, ...]:
    found: dict[tuple[int, ...], str] = {}
    for name, value in given.items():
        variable = system.variables[name]
        rank = len(variable.shape)
        if value.dim() and not variable.shared:
            if value.dim() < rank or tuple(value.shape[value.dim() - rank :]) != variable.shape:
                raise ValueError(
                    f"initial state '{name}' must have shape {_axes(variable)}; "
                    f"got {tuple(value.shape)}"
                )
            found.setdefault(tuple(value.shape[: value.dim() - rank]), name)
    if times.dim() > 1:
        found.setdefault(tuple(times.shape[:-1]), "t")
    for source in system.sources:
        signal = signals.get(source.name, source.signal)
        if signal is not None and signal.size:
            with torch.no_grad():
                value = signal(times.reshape(-1)[0])
            found.setdefault(tuple(value.shape[:-1]), f"input {source.name}")
    batches = {shape: name for shape, name in found.items() if shape}
    if len(batches) > 1:
        pairs = ", ".join(f"{name}: {shape}" for shape, name in batches.items())
        raise ValueError(f"the batch axes do not agree: {pairs}")
    return next(iter(batches), ())


def check_all(name: str, given: Any, kind: type[Given]) -> tuple[Given, ...]:
    """Return one thing, or a sequence of things, of a kind as a tuple; refuse any other."""
    things = given if isinstance(given, list | tuple) else (given,)
    for thing in things:
        if not isinstance(thing, kind):
            raise TypeError(f"{name} takes {kind.__name__} objects; got {type(thing).__name__}")
    return tuple(things)


def check_abilities(
    solver: Solver, system: System, times: Tensor, events: Sequence[Event], dense: bool
) -> None:
    """Refuse what the solver cannot do, and name those that can."""
    name = type(solver).__name__
    if events and not solver.events:
        raise ValueError(f"{name} has no events; Tsit5, RK4 and SciPy have")
    if times.dim() > 1 and not solver.ragged:
        raise ValueError(f"{name} takes one list of times for all samples; Tsit5 takes more")
    if dense and not solver.interpolates:
        raise ValueError(f"{name} has no dense output; Tsit5, Dopri5 and SciPy have")
    if system.delay and (times.requires_grad or bool((times[..., -1] < times[..., 0]).any())):
        raise ValueError("a system with delays only goes forward, and t can have no gradient")
    if system.delay and any(event.reset for event in events):
        raise ValueError("delays and events that reset exclude each other: the past would jump")
    if system.delay and times.dim() > 1:
        raise ValueError("a system with delays takes one list of times for all samples")
    if system.delay and not solver.delays:
        raise ValueError(
            f"{name} cannot look back, and the longest delay is {system.delay:g}; "
            "use fixed steps: RK4(dt), Heun(dt), Euler(dt)"
        )


def check_gradients(
    system: System,
    state: State,
    times: Tensor,
    signals: Mapping[str, Signal],
    solver: Solver,
    differentiable: bool | None,
    events: Sequence[Event] = (),
    impulses: Sequence[Impulse] = (),
) -> bool:
    """Tell whether gradients are wanted; refuse where they would be lost."""
    if differentiable is False:
        return False
    parameters, buffers = system.numbers()
    tensors = [*parameters, *buffers, *state.values(), times]
    tensors += [tensor for s in signals.values() for tensor in (*s.parameters(), *s.buffers())]
    tensors += [impulse.times for impulse in impulses]
    found = any(tensor.requires_grad for tensor in tensors)
    if torch.is_grad_enabled() and not found:
        found = _functions_need_gradient(system, state, times, signals, events)
    if differentiable and not (found or events or impulses):
        raise ValueError(
            "differentiable=True, but nothing that goes in requires a gradient: use "
            "system.learn('name'), or requires_grad on y0, t or an input"
        )
    if differentiable and not torch.is_grad_enabled():
        raise ValueError("differentiable=True inside torch.no_grad(): the graph would be lost")
    wanted = bool(differentiable) or (found and torch.is_grad_enabled())
    if wanted and not solver.gradients:
        raise ValueError(
            f"{type(solver).__name__} has no gradients, and something that goes in requires one: "
            "use Tsit5 or TorchDiffEq, or pass differentiable=False"
        )
    return wanted


def _functions_need_gradient(
    system: System,
    state: State,
    times: Tensor,
    signals: Mapping[str, Signal],
    events: Sequence[Event],
) -> bool:
    """Tell whether functions of the user's own depend on tensors that require a gradient."""
    start = times[..., 0] if times.dim() > 1 else times[0]
    values = [event.condition(start, state) for event in events]
    if any(isinstance(neuron, VectorField) for neuron in system.neurons):
        rates = system.forward(start, state, inputs=signals, history=lambda _t: state)
        values += rates.values()
    return any(isinstance(value, Tensor) and value.requires_grad for value in values)


def probe(
    system: System,
    field: Field,
    times: Tensor,
    state: State,
    layout: Layout,
    signals: Mapping[str, Signal],
) -> None:
    """Evaluate the field once where it is new, and refuse wrong names, shapes, types or values."""
    key = (
        tuple(layout.shapes.items()),
        next(iter(state.values())).dtype if state else None,
        tuple(signals),
    )
    if key in system._probed:
        return
    start = times[..., 0].detach().to(next((y.device for y in state.values()), times.device))
    with torch.no_grad():
        derivative = field(start if times.dim() > 1 else start.reshape(()), state)
    for name, value in derivative.items():
        if name not in state:
            raise ValueError(f"the dynamics returned '{name}', which is no variable of the system")
        if not isinstance(value, Tensor):
            raise TypeError(f"the dynamics returned {type(value).__name__} for '{name}'")
        if value.shape != state[name].shape:
            raise ValueError(
                f"the dynamics returned shape {tuple(value.shape)} for '{name}', "
                f"the state has shape {tuple(state[name].shape)}"
            )
        if value.dtype != state[name].dtype:
            raise TypeError(
                f"the dynamics returned {value.dtype} for '{name}', the state is "
                f"{state[name].dtype}: use system.to({state[name].dtype})"
            )
        bad = torch.nonzero(~torch.isfinite(value))
        if bad.numel():
            raise NonFiniteError(
                time=float(start.reshape(-1)[0]),
                variable=name,
                component=tuple(bad[0].tolist()),
                cause="the derivative of the initial state is NaN or infinite; look for a division "
                "by zero, an exponential or a root out of its range",
            )
    system._probed.add(key)


def check_finite(run: Solution) -> None:
    """Raise `NonFiniteError` where a complete run holds NaN or an infinity."""
    for name, values in run.states.items():
        if math.isfinite(float(values.detach().sum())):  # cheaper, and enough
            continue
        bad = ~torch.isfinite(values.detach())
        if bool(bad.any()):
            row, *index = torch.nonzero(bad)[0].tolist()
            error = NonFiniteError(
                time=float(run.t.reshape(-1, run.t.shape[-1])[0, row]),
                variable=name,
                component=tuple(index),
                cause="the state became NaN or infinite; take smaller steps or an adaptive solver",
            )
            error.partial = run
            raise error
