"""The result of a run: times, states, events, statistics and provenance, ready to be labelled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from ctsigprop.errors import unknown
from ctsigprop.provenance import describe
from ctsigprop.signals import Signal
from ctsigprop.solvers.base import Solver, State, Statistics
from ctsigprop.solvers.events import EventRecord
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import DataArray, Dataset, DataTree

__all__ = ["Solution", "provenance", "root_attributes"]


@dataclass
class Solution:
    """What `solve` returns.

    Attributes
    ----------
    system : System
        What was integrated.
    t : Tensor
        float64 times, ``(n,)`` or ``(*batch, n)``.
    states : State
        Every variable at every time, ``(n, *batch, *dims)``.
    status : str
        "complete"; "terminated" by an event; "interrupted" by the user; "failed" for the partial
        solution of an error.
    message : str
        The same in words.
    statistics : Statistics
        Evaluations, steps, rejections, seconds.
    events : list of EventRecord
        Crossings in the order in which they were found.
    lengths : Tensor
        How many rows each sample has; rows after that are NaN, where a sample ended before its
        neighbours.
    asked : Tensor
        The output times that were asked for; `t` is as many of them as were reached.
    functions : tuple of str
        Which arguments of `solve` were functions, and cannot be stored as data.
    differentiable : bool
        Whether gradients were wanted: some steps are taken otherwise where they are not.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> run = ct.solve(ct.System(ct.fitzhugh_nagumo(I=0.5)), t=torch.linspace(0, 10, 3))
    >>> run["v"].shape, run.status
    (torch.Size([3, 1]), 'complete')
    """

    system: System
    t: Tensor
    states: State
    status: str
    message: str
    statistics: Statistics
    solver: Solver
    asked: Tensor
    inputs: Mapping[str, Signal] = field(default_factory=dict)
    events: list[EventRecord] = field(default_factory=list)
    lengths: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    interpolant: Callable[[Tensor], State] | None = None
    batch: tuple[int, ...] = ()
    functions: tuple[str, ...] = ()
    differentiable: bool = False

    def __post_init__(self) -> None:
        self._versions = _versions(self.system)

    def __getitem__(self, name: str) -> Tensor:
        """Return one variable at every time, ``(n, *batch, *dims)``."""
        if name not in self.states:
            raise KeyError(unknown("variable", name, self.states))
        return self.states[name]

    def __call__(self, t: Tensor | float) -> State:
        """Return the state at any times inside the span, ``(k, *batch, *dims)``.

        Raises
        ------
        ValueError
            Without ``dense=True`` in `solve`, or for times outside the span.
        """
        if self.interpolant is None:
            raise ValueError("no dense output was kept: pass dense=True to solve()")
        times = torch.as_tensor(t, dtype=torch.float64)
        values = self.interpolant(times.reshape(1) if times.dim() == 0 else times)
        values = self.system.project(values)
        return {k: v[0] for k, v in values.items()} if times.dim() == 0 else values

    @property
    def final(self) -> State:
        """The state at the last output time that each sample has reached."""
        if len(set(self.lengths.tolist())) < 2:
            return {name: values[-1] for name, values in self.states.items()}
        last, sample = self.lengths - 1, torch.arange(len(self.lengths))
        return {
            name: values.flatten(1, len(self.batch))[last, sample].reshape(values.shape[1:])
            for name, values in self.states.items()
        }

    def to_xarray(self, title: str = "ctsigprop simulation") -> DataTree:
        """Return the run as a labelled tree: /simulation, /weights, /signal and its provenance.

        Returns
        -------
        xarray.DataTree
            Dims are ``time``, the batch axes and those of the variables, each with a coordinate;
            units come from the variables.
        """
        import xarray as xr

        ragged = self.t.dim() > 1
        rows = "step" if ragged else "time"
        simulation: dict[str, Any] = {}
        weights: dict[str, Any] = {}
        own = {v.name for neuron in self.system.neurons for v in neuron.variables}
        for name, values in self.states.items():
            array = self._labelled(name, values, rows)
            (simulation if name in own else weights)[name] = array
        signal = {} if ragged else self._signals(rows)
        groups: dict[str, Dataset] = {"/simulation": xr.Dataset(simulation)}
        if weights:
            groups["/weights"] = xr.Dataset(weights)
        if signal:
            groups["/signal"] = xr.Dataset(signal)
        if self.events:
            groups["/events"] = self._events()
        for path, group in groups.items():
            if path != "/events":
                groups[path] = group.assign_coords(self._time(rows))
        recipe, arrays = provenance(self)
        groups["/provenance"] = _arrays(arrays)
        tree = xr.DataTree.from_dict(groups)
        tree.attrs = root_attributes(title) | {
            "status": self.status,
            "message": self.message,
            "statistics": asdict(self.statistics),
            "recipe": json.dumps(recipe),
        }
        return tree

    def _time(self, rows: str) -> dict[str, Any]:
        unit = {"units": self.system.time_unit, "long_name": "time"}
        n = next(iter(self.states.values())).shape[0]
        if rows == "time":
            return {"time": ("time", self.t.detach().cpu().numpy()[:n], unit)}
        order = (self.t.dim() - 1, *range(self.t.dim() - 1))
        times = self.t.detach().cpu().permute(order).numpy()[:n]
        return {
            "step": ("step", range(n), {"units": "1"}),
            "time": (("step", *_batch_dims(self.batch)), times, unit),
        }

    def _labelled(self, name: str, values: Tensor, rows: str) -> DataArray:
        import numpy as np
        import xarray as xr

        variable = self.system.variables[name]
        lead = () if variable.shared else _batch_dims(self.batch)
        dims = (rows, *lead, *variable.dims)
        attrs: dict[str, Any] = {"units": variable.unit}
        if variable.tau is not None:
            attrs["time_constant"] = variable.tau
        array = values.detach().cpu().numpy()
        if np.isnan(array).any():
            attrs["missing"] = "NaN after the last time that a sample reached"
        coords = {
            dim: (dim, np.arange(size), {"units": "1"})
            for dim, size in zip(dims[1:], array.shape[1:], strict=True)
        }
        return xr.DataArray(array, dims=dims, coords=coords, attrs=attrs)

    def _signals(self, rows: str) -> dict[str, DataArray]:
        import numpy as np
        import xarray as xr

        signals: dict[str, DataArray] = {}
        n = next(iter(self.states.values())).shape[0]
        for source in self.system.sources:
            signal = self.inputs.get(source.name, source.signal)
            if signal is None:
                continue
            name = source.name
            with torch.no_grad():
                values = torch.stack([source.values(signal, t) for t in self.t[:n].detach()])
            lead = _batch_dims(tuple(values.shape[1:-1]))
            dims = (rows, *lead, f"{name}_channel")
            array = values.cpu().numpy()
            coords = {
                dim: (dim, np.arange(size), {"units": "1"})
                for dim, size in zip(dims[1:], array.shape[1:], strict=True)
            }
            signals[name] = xr.DataArray(
                array, dims=dims, coords=coords, attrs={"units": source.unit}
            )
        return signals

    def _events(self) -> Dataset:
        import numpy as np
        import xarray as xr

        unit = {"units": self.system.time_unit}
        times = np.array([float(event.time.detach()) for event in self.events])
        return xr.Dataset(
            {
                "event_time": ("event", times, unit),
                "sample": ("event", np.array([e.sample for e in self.events]), {"units": "1"}),
                "event_name": ("event", np.array([e.name for e in self.events])),
            },
            coords={"event": ("event", np.arange(len(self.events)), {"units": "1"})},
        )


def provenance(run: Solution) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return all that is needed to run it again: data that JSON can hold, and its tensors.

    What cannot be described (a function, a class from elsewhere) is said under "opaque".
    """
    arrays: dict[str, Tensor] = {}
    recipe: dict[str, Any] = {
        "versions": {
            name: version(name)
            for name in ("ctsigprop", "torch", "numpy", "scipy", "torchdiffeq", "brian2")
        },
        "threads": torch.get_num_threads(),
        "differentiable": run.differentiable,
        "opaque": [],
    }
    parts = {
        "system": run.system,
        "inputs": dict(run.inputs),
        "solver": run.solver,
        "t": run.asked,
        "y0": {name: values[0] for name, values in run.states.items()},
    }
    for name, part in parts.items():
        before = dict(arrays)
        try:
            recipe[name] = describe(part, arrays)
        except TypeError as error:
            arrays.clear()
            arrays.update(before)
            recipe["opaque"].append(f"{name}: {error}")
    if run._versions != _versions(run.system):
        recipe["opaque"].append("parameters: changed since; call to_xarray() before they are")
    for name in run.functions:
        recipe["opaque"].append(f"{name}: functions cannot be described as data")
    recipe["learned"] = [
        [i, name]
        for i, term in enumerate(run.system.every_term())
        for name in term.specs
        if is_parametrized(term, name) or getattr(term, name).requires_grad
    ]
    for key, value in run.system.state_dict().items():
        arrays[f"state.{key}"] = value.detach().clone()
    return recipe, arrays


def _versions(system: System) -> list[tuple[int, int]]:
    """Return what changes when a parameter or a buffer does."""
    parameters, buffers = system.numbers()
    return [(id(x), x._version) for x in (*parameters, *buffers)]


def root_attributes(title: str) -> dict[str, Any]:
    """Return the attributes that every tree carries at its root."""
    return {
        "Conventions": "CF-1.11 ctsigprop-1",
        "title": title,
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "ctsigprop",
        "creation_library_version": version("ctsigprop"),
        "creation_library_language": "Python",
    }


def _batch_dims(batch: tuple[int, ...]) -> tuple[str, ...]:
    return ("sample",) if len(batch) == 1 else tuple(f"batch_{i}" for i in range(len(batch)))


def _arrays(arrays: Mapping[str, Tensor]) -> Dataset:
    import numpy as np
    import xarray as xr

    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for key, value in arrays.items():
        seen: dict[int, int] = {}
        dims = []
        for size in value.shape:
            seen[size] = seen.get(size, 0) + 1
            dims.append(f"axis_{size}" if seen[size] == 1 else f"axis_{size}_{seen[size]}")
            coords[dims[-1]] = (dims[-1], np.arange(size), {"units": "1"})
        variables[key] = (dims, value.detach().cpu().numpy(), {"units": "1"})
    return xr.Dataset(variables, coords=coords)
