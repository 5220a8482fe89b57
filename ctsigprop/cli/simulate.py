"""``ctsigprop simulate``: a shipped model, or one from a file, integrated and drawn."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ctsigprop.cli.models import Model, Parameters, neuron, pairs
from ctsigprop.cli.run import AsJson, Out, Overwrite, new_folder, refusals, say, write
from ctsigprop.errors import unknown
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver
from ctsigprop.solvers.explicit.adaptive import BogackiShampine, Dopri5, Tsit5
from ctsigprop.solvers.explicit.fixed import RK4, Euler, ExponentialEuler, Heun, Midpoint
from ctsigprop.solvers.scipy_ import SciPy
from ctsigprop.system import System

__all__ = ["simulate"]

SOLVERS: dict[str, tuple[type[Solver], dict[str, Any]]] = {
    "tsit5": (Tsit5, {}),
    "dopri5": (Dopri5, {}),
    "bogacki-shampine": (BogackiShampine, {}),
    "euler": (Euler, {"dt": 0.01}),
    "midpoint": (Midpoint, {"dt": 0.01}),
    "heun": (Heun, {"dt": 0.01}),
    "rk4": (RK4, {"dt": 0.01}),
    "exponential-euler": (ExponentialEuler, {"dt": 0.01}),
    "radau": (SciPy, {"method": "Radau"}),
    "bdf": (SciPy, {"method": "BDF"}),
    "lsoda": (SciPy, {"method": "LSODA"}),
}


def simulate(
    model: Model,
    parameters: Parameters = None,
    initial: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of a variable at the start; repeat it.")
    ] = None,
    duration: Annotated[float, typer.Option(help="In the model's unit of time.")] = 100.0,
    points: Annotated[int, typer.Option(min=2, help="Output times.")] = 1001,
    solver: Annotated[str, typer.Option(help=f"One of: {', '.join(SOLVERS)}.")] = "tsit5",
    dt: Annotated[float | None, typer.Option(help="Take fixed steps of this size.")] = None,
    rtol: Annotated[
        float | None, typer.Option(help="Relative tolerance of the adaptive solvers.")
    ] = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Integrate a model, and draw its time courses."""
    with refusals():
        if not 0 < duration < math.inf:
            raise ValueError(f"--duration must be > 0 and finite; got {duration}")
        if dt is not None and rtol is not None:
            raise ValueError("--dt and --rtol exclude each other: fixed steps have no tolerance")
        system = System(neuron(model, pairs(parameters)))
        start, method = pairs(initial), _solver(solver, dt, rtol)
        system.check_state(start)
        times = torch.linspace(0, duration, points, dtype=torch.float64)
        with new_folder(out, "simulate", overwrite) as folder:
            run = solve(system, start, times, solver=method, progress=not as_json)
            tree = run.to_xarray(title=f"{Path(model).stem}, {solver}")
            cost = run.statistics
            final = {name: value.flatten().tolist() for name, value in run.final.items()}
            lines = [
                tree.attrs["title"],
                f"t = 0 to {float(run.t[-1]):g} {_unit(system)}: {run.message}",
                f"{cost.steps} steps, {cost.rejections} rejected, {cost.evaluations} evaluations, "
                f"{cost.seconds:.2f} s",
                *(f"{name} ends at {_listed(ends)}" for name, ends in final.items()),
            ]
            write(folder, tree, lines)
            numbers = {
                "final": final,
                "status": run.status,
                "steps": cost.steps,
                "out": str(folder),
            }
            say(lines, folder, numbers if as_json else None)
    if run.status == "interrupted":
        raise typer.Exit(130)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _unit(system: System) -> str:
    return "time units" if system.time_unit == "1" else system.time_unit


def _solver(name: str, dt: float | None, rtol: float | None) -> Solver:
    if name not in SOLVERS:
        raise ValueError(unknown("solver", name, SOLVERS))
    kind, options = SOLVERS[name]
    given = {k: v for k, v in (("dt", dt), ("rtol", rtol)) if v is not None}
    for option in given:
        if option not in inspect.signature(kind).parameters:
            raise ValueError(f"--{option} does not go with the solver '{name}'")
    return kind(**{**options, **given})
