"""Problems built without the front `solve`."""

from __future__ import annotations

import torch

from ctsigprop.solvers.base import Layout, Problem, Recorder


def make(field, y0, t, *, dims=None, batch=None, jumps=(), **options):
    y0 = {name: torch.as_tensor(value) for name, value in y0.items()}
    if dims is None:
        batch = () if batch is None else tuple(batch)
        dims = {name: tuple(value.shape[len(batch) :]) for name, value in y0.items()}
    t = torch.as_tensor(t, dtype=torch.float64)
    layout = Layout(y0, dims, batch or ())
    return Problem(
        field=field,
        y0=y0,
        layout=layout,
        t=t,
        jumps=torch.as_tensor(list(jumps), dtype=torch.float64),
        system=None,
        recorder=Recorder(layout, t.shape[-1]),
        **options,
    )


def run(solver, field, y0, t, **options):
    problem = make(field, y0, t, **options)
    interpolant = solver.integrate(problem)
    return problem.recorder.states(), problem, interpolant
