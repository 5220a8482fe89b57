"""The circuit of a system: what connects to what, and what flows there during a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ctsigprop.analyses.flags import flags
from ctsigprop.models.inputs import LearningSignal
from ctsigprop.models.synapses import Synapse
from ctsigprop.solution import Solution
from ctsigprop.system import System
from ctsigprop.terms import Current, Moment, Neuron

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["KINDS", "connections", "currents"]

KINDS = ("input", "synapse", "plastic_synapse", "learning_signal")
"""What a connection is: a fixed input, a fixed synapse, one that learns, the learning signal."""


def connections(system: System) -> Dataset:
    """Return the graph of a system: its populations, and every current between two of them.

    Parameters
    ----------
    system : System
        Any.

    Returns
    -------
    xarray.Dataset
        ``size``, ``column`` and ``neurons`` (population): how many units, how many connections
        away from the input, and whether they are neurons or a source; ``pre``, ``post`` and
        ``kind`` (connection), one of `KINDS`; ``backward`` (connection): whether it leads to a
        population from itself or from one that comes later in the system.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> graph = connections(ct.sigprop_network([3, 4, 2]))
    >>> graph.connection.values[graph.backward.values == 1].tolist()
    ['B_h1_y']
    """
    import numpy as np
    import xarray as xr

    order = [*(s.name for s in system.sources), *(n.name for n in system.neurons)]
    edges = [
        (pre, current) for current in system.currents for pre in dict.fromkeys(current.reads())
    ]
    columns: dict[str, int] = {}
    for neuron in system.neurons:
        before = [columns.get(pre, 0) for pre, current in edges if current.post == neuron.name]
        columns[neuron.name] = 1 + max(before, default=0)
    for source in system.sources:
        heard = [columns[current.post] for pre, current in edges if pre == source.name]
        columns[source.name] = min(heard, default=1) - 1
    populations = [system.populations[name] for name in order]
    backward = [order.index(pre) >= order.index(current.post) for pre, current in edges]
    names = [
        current.name if len(set(current.reads())) == 1 else f"{current.name}({pre})"
        for pre, current in edges
    ]
    return xr.Dataset(
        {
            "size": ("population", [p.size for p in populations], {"units": "1"}),
            "column": ("population", [columns[name] for name in order], {"units": "1"}),
            "neurons": (
                "population",
                np.array([isinstance(p, Neuron) for p in populations], dtype=np.int8),
                flags(("source", "neurons")),
            ),
            "pre": ("connection", [pre for pre, _ in edges]),
            "post": ("connection", [current.post for _, current in edges]),
            "kind": (
                "connection",
                np.array([KINDS.index(_kind(current)) for _, current in edges], dtype=np.int8),
                flags(KINDS),
            ),
            "backward": (
                "connection",
                np.array(backward, dtype=np.int8),
                flags(("no", "yes")),
            ),
        },
        coords={"population": ("population", order), "connection": ("connection", names)},
    )


@torch.no_grad()
def currents(run: Solution) -> Dataset:
    """Return every current of a run at its output times.

    Parameters
    ----------
    run : Solution
        With one list of times for all samples, and no delayed synapses.

    Returns
    -------
    xarray.Dataset
        A variable for each current, (time, sample, unit of the population that it enters), in the
        unit of the port where it enters.

    Raises
    ------
    ValueError
        Times of their own for each sample, or delays.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> system = ct.System(ct.Source("x", 1, 2.0), ct.leaky_integrator("y"), ct.Input("x", "y"))
    >>> currents(ct.solve(system, t=[0.0, 1.0])).I_y_x.values.ravel().tolist()
    [2.0, 2.0]
    """
    import numpy as np
    import xarray as xr

    if run.t.dim() > 1:
        raise ValueError("currents need one list of times for all samples")
    late = [current.name for current in run.system.currents if current.delay]
    if late:
        raise ValueError(f"currents of delayed synapses are not known from a run: {late}")
    times = run.t.detach()[: next(iter(run.states.values())).shape[0]]
    found: dict[str, list[torch.Tensor]] = {current.name: [] for current in run.system.currents}
    for k, t in enumerate(times):
        state = {name: values[k] for name, values in run.states.items()}
        moment = Moment(t, state, run.system.populations, run.inputs)
        for current in run.system.currents:
            size = run.system.populations[current.post].size
            found[current.name].append(current.forward(moment).expand(*run.batch, size))
    lead = [f"batch_{k}" for k in range(len(run.batch))] if len(run.batch) > 1 else ["sample"]
    variables = {}
    for current in run.system.currents:
        post = run.system.populations[current.post]
        unit = post.ports[current.port] if isinstance(post, Neuron) else "1"
        dims = ("time", *(lead if run.batch else ()), post.dim)
        values = torch.stack(found[current.name]).cpu().numpy()
        attrs = {"units": unit, "long_name": f"current into {current.post}, port {current.port}"}
        variables[current.name] = xr.DataArray(
            values,
            dims=dims,
            attrs=attrs,
            coords={
                dim: (dim, np.arange(n), {"units": "1"})
                for dim, n in zip(dims[1:], values.shape[1:], strict=True)
            },
        )
    unit_of_time = {"units": run.system.time_unit, "long_name": "time"}
    return xr.Dataset(variables).assign_coords(time=("time", times.cpu().numpy(), unit_of_time))


def _kind(current: Current) -> str:
    if isinstance(current, LearningSignal):
        return "learning_signal"
    if isinstance(current, Synapse):
        return "plastic_synapse" if current.plasticity else "synapse"
    return "input"
