"""The one way to integrate: every common check before and after, for any system and solver."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctsigprop.checks import (
    check_abilities,
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
from ctsigprop.solvers.adaptive import Tsit5
from ctsigprop.solvers.base import Layout, Problem, Recorder, Solver, State
from ctsigprop.solvers.events import Event
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
    watched = (events,) if isinstance(events, Event) else tuple(events)
    kicks = (impulses,) if isinstance(impulses, Impulse) else tuple(impulses)
    state, batch, times = check_state_and_times(system, y0, t, signals)
    check_abilities(solver, system, times, watched, dense)
    if dense and kicks:
        raise ValueError("dense=True and impulses exclude each other: the state jumps")
    wanted = check_gradients(system, state, times, signals, solver, differentiable)
    layout = Layout(state, {k: v.shape for k, v in system.variables.items()}, batch)
    recorder = Recorder(layout, times.shape[-1])
    with torch.set_grad_enabled(wanted):
        state = system.project(state)
        recorder.row(0, state)
        jumps = _jumps(system, times, signals)
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
            accepted=_on_step(times, progress, history),
            dense=dense,
        )
        interpolant = None
        status, message = "complete", "every output time was reached"
        failure: IntegrationError | None = None
        try:
            if kicks:
                integrate_between(solver, problem, kicks)
            elif times.shape[-1] > 1:
                interpolant = solver.integrate(problem)
        except KeyboardInterrupt:
            reached = float(times[..., int(recorder.lengths.min()) - 1].max())
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
    )
    if failure is not None:
        failure.partial = run
        raise failure
    if status == "complete":
        check_finite(run)
    return run


def rerun(tree: DataTree, system: System | None = None) -> Solution:
    """Run a stored simulation again: the same numbers, bit for bit, on the same machine.

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
        if not (system is not None and reason.startswith("system:")):
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
            {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe["threads"])
    try:
        with torch.no_grad():
            return solve(
                again,
                build(recipe["y0"], arrays),
                build(recipe["t"], arrays),
                solver=build(recipe["solver"], arrays),
                inputs=build(recipe["inputs"], arrays),
            )
    finally:
        torch.set_num_threads(threads)


def _jumps(system: System, times: Tensor, signals: Mapping[str, Signal]) -> list[float]:
    start, stop = float(times[..., 0].min()), float(times[..., -1].max())
    if times.shape[-1] and bool((times[..., -1] < times[..., 0]).any()):
        start, stop = float(times[..., -1].min()), float(times[..., 0].max())
    return system.jumps(start, stop, signals)


def _on_step(
    times: Tensor, progress: bool | Progress, history: History | None
) -> Callable[[Tensor, State, State | None], None]:
    first, last = float(times[..., 0].min()), float(times[..., -1].max())
    if bool((times[..., -1] < times[..., 0]).any()):
        first, last = float(times[..., 0].max()), float(times[..., -1].min())
    report: Progress | None = None
    if callable(progress):
        report = progress
    elif progress:
        report = _bar()

    def accepted(t: Tensor, state: State, derivative: State | None) -> None:
        if history is not None:
            history.append(t, state, derivative)
        if report is not None:
            report((float(t.detach().min()) - first) / ((last - first) or 1.0))

    return accepted


def _bar() -> Progress:
    from tqdm import tqdm

    bar = tqdm(total=1.0, bar_format="{l_bar}{bar}| {elapsed}<{remaining}", leave=False)

    def report(fraction: float) -> None:
        bar.update(fraction - bar.n)
        if fraction >= 1.0:
            bar.close()

    return report


def _terminated(recorder: Recorder) -> str:
    last = recorder.events[-1]
    return f"event '{last.name}' ended the run at t={float(last.time.detach()):g}"
