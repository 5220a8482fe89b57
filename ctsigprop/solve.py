"""The one way to integrate: every common check before and after, for any system and solver."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctsigprop.checks import (
    check_abilities,
    check_all,
    check_finite,
    check_gradients,
    check_inputs,
    check_state_and_times,
    probe,
    with_options,
)
from ctsigprop.errors import IntegrationError
from ctsigprop.provenance import build
from ctsigprop.signals import Signal
from ctsigprop.solution import Solution
from ctsigprop.solvers.base import Layout, Problem, Recorder, Solver, State, unheard
from ctsigprop.solvers.events import Event
from ctsigprop.solvers.explicit.adaptive import Embedded, Tsit5
from ctsigprop.solvers.explicit.fixed import FixedRungeKutta
from ctsigprop.solvers.history import History
from ctsigprop.solvers.impulses import Impulse, integrate_between
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["rerun", "solve"]

Progress = Callable[[float], None]


def solve(
    system: System,
    y0: Mapping[str, Tensor | float] | None = None,
    t: Tensor | Sequence[float] = (0.0, 1.0),
    *,
    solver: Solver | None = None,
    inputs: Mapping[str, Signal | Tensor | float] | None = None,
    events: Event | Sequence[Event] = (),
    impulses: Impulse | Sequence[Impulse] = (),
    dense: bool = False,
    differentiable: bool | None = None,
    past: Callable[[Tensor], State] | None = None,
    progress: bool | Progress = False,
    **options: Any,
) -> Solution:
    """Integrate a system: dy/dt = system(t, y), y(t[0]) = y0.

    Parameters
    ----------
    system : System
        What to integrate.
    y0 : mapping of str to Tensor or float, optional
        Initial values, each ``(*batch, *dims)``; variables left out start at their own initial
        value. Shared variables have no batch axes.
    t : Tensor or sequence of float
        Output times, strictly increasing or decreasing, the first one the start: ``(n,)``, or
        ``(*batch, n)`` for times of their own for each sample. One time returns y0.
    solver : Solver, optional
        `Tsit5` by default.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources by name; they replace those that the sources were built with.
    events : Event or sequence of Event
        Zero crossings to find, with their consequences.
    impulses : Impulse or sequence of Impulse
        Jumps of the state at known times.
    dense : bool
        Keep an interpolant of the whole run: ``solution(times)``.
    differentiable : bool, optional
        Keep the graph for gradients. By default if anything that goes in requires a gradient.
    past : callable, optional
        ``past(t) -> state`` before the start, for synapses with delays; y0 by default.
    progress : bool or callable
        A progress bar, or a function that is given the fraction done.
    **options
        Options of the solver, such as ``rtol=1e-9``.

    Returns
    -------
    Solution
        Every time that was asked for, all of it finite; or, with status "terminated" or
        "interrupted", every time that was reached.

    Raises
    ------
    ValueError, TypeError
        Before any work starts: names, shapes, types, times or options that do not fit.
    IntegrationError
        When the numerics fail, with the time, the variable, the component, the likely cause, and
        what was reached in ``error.partial``.

    Notes
    -----
    At known jumps of signals a step ends, and the next one starts from the other side.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> decay = ct.System(ct.TextNeuron("dx/dt = -x/tau : 1", tau=2.0))
    >>> run = ct.solve(decay, {"x": 1.0}, [0.0, 2.0])
    >>> round(run["x"][-1].item(), 6)
    0.367879
    """
    if not isinstance(system, System):
        raise TypeError(f"system must be a System; got {type(system).__name__}")
    solver = with_options(Tsit5() if solver is None else solver, options)
    signals = check_inputs(system, inputs)
    watched = check_all("events", events, Event)
    kicks = check_all("impulses", impulses, Impulse)
    state, batch, times = check_state_and_times(system, y0, t, signals)
    check_abilities(solver, system, times, watched, dense)
    if dense and kicks:
        raise ValueError("dense=True and impulses exclude each other: the state jumps")
    if system.delay and kicks:
        raise ValueError("delays and impulses exclude each other: the past would jump")
    if past is not None and not system.delay:
        raise ValueError("past is for synapses with delays, and this system has none")
    wanted = check_gradients(system, state, times, signals, solver, differentiable, watched, kicks)
    layout = Layout(state, {k: v.shape for k, v in system.variables.items()}, batch)
    if layout.coupled and times.dim() > 1:
        raise ValueError("a batch that shares a variable has one clock; t must be (n,)")
    recorder = Recorder(layout, times.shape[-1])
    first, last = _span(times)
    with torch.set_grad_enabled(wanted), _reporting(progress) as report:
        state = system.project(state)
        recorder.row(0, state)
        jumps = system.jumps(min(first, last), max(first, last), signals)
        history = History(system, state, times, jumps, past) if system.delay else None
        if history is not None:
            jumps = history.breaks[1:]
        started = time.perf_counter()

        def field(at: Tensor, y: State) -> State:
            return system.forward(at, y, inputs=signals, history=history)

        probe(system, field, times, state, layout, signals)
        problem = Problem(
            field=field,
            linear=lambda at, y: system.linear(at, y, inputs=signals, history=history),
            y0=state,
            layout=layout,
            t=times,
            jumps=torch.tensor(jumps, dtype=torch.float64),
            system=system,
            inputs=signals,
            recorder=recorder,
            events=watched,
            accepted=_on_step(first, last, report, history),
            dense=dense,
        )
        interpolant = None
        status, message = "complete", "every output time was reached"
        failure: IntegrationError | None = None
        try:
            if not dense and layout.samples * layout.size == 0:
                for row in range(times.shape[-1]):
                    recorder.row(row, state)
            elif kicks:
                integrate_between(solver, problem, kicks)
            elif times.shape[-1] > 1:
                interpolant = solver.integrate(problem)
        except KeyboardInterrupt:
            reached = float(times[..., int(recorder.lengths.min()) - 1].detach().max())
            status, message = "interrupted", f"stopped by the user after t={reached:g}"
        except IntegrationError as error:
            status, message, failure = "failed", str(error), error
        recorder.statistics.seconds = time.perf_counter() - started
        states = dict(recorder.states().items())
        projected = system.project(states)
    lengths = recorder.lengths
    if status == "complete" and bool((lengths < times.shape[-1]).any()):
        status, message = "terminated", _terminated(recorder)
    rows = next(iter(projected.values())).shape[0]
    run = Solution(
        system=system,
        t=times[..., :rows],
        states=projected,
        status=status,
        message=message,
        statistics=recorder.statistics,
        solver=solver,
        asked=times,
        inputs=signals,
        events=recorder.events,
        lengths=lengths,
        interpolant=interpolant,
        batch=batch,
        functions=tuple(
            name
            for name, given in (("events", watched), ("impulses", kicks), ("past", past))
            if given
        ),
        differentiable=wanted,
    )
    if failure is not None:
        failure.partial = run
        raise failure
    if status == "complete":
        check_finite(run)
    return run


def rerun(tree: DataTree, system: System | None = None) -> Solution:
    """Run a stored simulation again: the same numbers, bit for bit, on the same machine.

    One that was interrupted goes on to its end.

    Parameters
    ----------
    tree : xarray.DataTree
        What `Solution.to_xarray` returned, or what was read back from a store.
    system : System, optional
        Needed only where the stored system holds code that is not part of this package.

    Raises
    ------
    ValueError
        Where the tree holds no run, or something in it cannot be built from data.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> run = ct.solve(ct.System(ct.fitzhugh_nagumo(I=0.5)), t=[0.0, 5.0])
    >>> torch.equal(ct.rerun(run.to_xarray())["v"], run["v"])
    True
    """
    if "recipe" not in tree.attrs or "provenance" not in tree.children:
        raise ValueError("this tree holds no recipe of a simulation; nothing to run again")
    recipe = json.loads(tree.attrs["recipe"])
    for reason in recipe["opaque"]:
        if system is None or not reason.startswith(("system:", "parameters:")):
            raise ValueError(f"this run cannot be repeated from its data alone: {reason}")
    arrays = {
        str(name): torch.as_tensor(array.values.copy())
        for name, array in tree["provenance"].data_vars.items()
    }
    again: System = build(recipe["system"], arrays) if system is None else system
    if system is None:
        terms = again.every_term()
        for i, name in recipe["learned"]:
            terms[i].learn(name)
        again.load_state_dict(
            {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")},
            assign=True,  # the types too, of a system that was moved
        )
    solver = given = build(recipe["solver"], arrays)
    native = tree.attrs["statistics"].get("native", False)
    if isinstance(solver, Embedded | FixedRungeKutta) and not native:
        solver = solver.with_options(native=False)  # as it was, perhaps where numba was missing
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe["threads"])
    try:
        differentiable = recipe.get("differentiable", False)  # its steps may be taken otherwise
        y0 = build(recipe["y0"], arrays)
        with torch.set_grad_enabled(differentiable):
            run = solve(
                again,
                {name: value.requires_grad_(differentiable) for name, value in y0.items()},
                build(recipe["t"], arrays),
                solver=solver,
                inputs=build(recipe["inputs"], arrays),
            )
    finally:
        torch.set_num_threads(threads)
    run.states = {name: value.detach() for name, value in run.states.items()}
    run.solver = given
    return run


def _span(times: Tensor) -> tuple[float, float]:
    """Return the times between which all samples lie, in the direction in which they go."""
    start, stop = times[..., 0].detach(), times[..., -1].detach()
    if times.dim() == 1:
        return float(start), float(stop)
    if bool((stop < start).any()):
        return float(start.max()), float(stop.min())
    return float(start.min()), float(stop.max())


def _on_step(
    first: float, last: float, report: Progress | None, history: History | None
) -> Callable[[Tensor, State, State | None], None]:
    if report is None and history is None:
        return unheard

    def accepted(t: Tensor, state: State, derivative: State | None) -> None:
        if history is not None:
            history.append(t, state, derivative)
        if report is not None:
            report((float(t.detach().mean()) - first) / ((last - first) or 1.0))

    return accepted


@contextmanager
def _reporting(progress: bool | Progress) -> Iterator[Progress | None]:
    if callable(progress):
        yield progress
    elif progress:
        from tqdm import tqdm

        form = "{l_bar}{bar}| {elapsed}<{remaining}"
        with tqdm(total=1.0, bar_format=form, leave=False) as bar:

            def report(fraction: float) -> None:
                bar.update(fraction - bar.n)

            yield report
    else:
        yield None


def _terminated(recorder: Recorder) -> str:
    last = recorder.events[-1]
    return f"event '{last.name}' ended the run at t={float(last.time.detach()):g}"
