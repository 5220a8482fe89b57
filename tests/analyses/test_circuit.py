from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.circuit import KINDS, connections, currents
from ctsigprop.analyses.plots import plot_changes, plot_circuit

F64 = torch.float64


def table(system):
    graph = connections(system)
    kinds = [KINDS[k] for k in graph.kind.values]
    rows = zip(
        graph.connection.values, graph.pre.values, graph.post.values, kinds,
        graph.backward.values.astype(bool).tolist(), strict=True,
    )  # fmt: skip
    return {str(name): (str(a), str(b), kind, back) for name, a, b, kind, back in rows}


def test_the_loop_is_the_only_way_back():
    found = table(ct.sigprop_network([3, 5, 4, 2]))
    assert found["B_h1_y"] == ("y", "h1", "synapse", True)
    assert found["W_h2_h1"] == ("h1", "h2", "plastic_synapse", False)
    assert found["L_y_c"] == ("c", "y", "learning_signal", False)
    assert [name for name, row in found.items() if row[3]] == ["B_h1_y"]
    label = table(ct.sigprop_network([3, 5, 4, 2], form="label"))
    assert label["S_h1_c"] == ("c", "h1", "learning_signal", False)
    assert not any(row[3] for row in label.values())
    graph = connections(ct.sigprop_network([3, 5, 4, 2]))
    columns = dict(zip(graph.population.values, graph.column.values, strict=True))
    assert columns == {"x": 0, "c": 2, "one": 0, "h1": 1, "h2": 2, "y": 3}
    assert dict(zip(graph.population.values, graph["size"].values, strict=True))["h2"] == 4


def test_recurrence_and_modulators_are_connections():
    system = ct.System(
        ct.Source("x", 2, torch.ones(2)),
        ct.Source("reward", 1, 1.0),
        ct.rate("h", 3),
        ct.Synapse("x", "h", 0.1, plasticity=ct.eligibility(0.1, tau_e=1.0, modulator="reward")),
        ct.Synapse("h", "h", 0.0),
        ct.Source("d", 3, 1.0),
        ct.Input("d", "h"),
    )
    found = table(system)
    assert found["W_h_h"] == ("h", "h", "synapse", True)
    assert found["W_h_x(reward)"] == ("reward", "h", "plastic_synapse", False)
    assert found["I_h_d"] == ("d", "h", "input", False)


def test_currents_are_those_that_move_the_neurons():
    system = ct.sigprop_network([3, 4, 2], rho="tanh", seed=1)
    x, c = torch.rand(5, 3, dtype=F64), torch.eye(2, dtype=F64)[[0, 1, 0, 1, 1]]
    zeros = {f"s_{n.name}": torch.zeros(5, n.size, dtype=F64) for n in system.neurons}
    run = ct.solve(system, zeros, np.linspace(0, 12, 25), inputs={"x": x, "c": c})
    flows = currents(run)
    assert flows.W_h1_x.dims == ("time", "sample", "h1")
    for k in (0, 7, 24):
        state = {name: values[k] for name, values in run.states.items()}
        derivative = system(run.t[k], state, inputs=run.inputs)
        at = flows.isel(time=k)
        net = at.W_h1_x + at.W_h1_one + at.B_h1_y
        ours = np.tanh(net.values) - state["s_h1"].numpy()
        np.testing.assert_allclose(ours, derivative["s_h1"].numpy(), atol=1e-14)
        ours = np.tanh((at.W_y_h1 + at.W_y_one).values) + at.L_y_c.values - state["s_y"].numpy()
        np.testing.assert_allclose(ours, derivative["s_y"].numpy(), atol=1e-14)
    assert float(abs(flows.L_y_c.sel(time=slice(0, 8))).max()) == 0  # before the onset
    assert float(abs(flows.L_y_c.sel(time=slice(9, 12))).max()) > 0.1


def test_what_has_no_currents_is_refused():
    synapse = ct.Synapse("x", "y", 1.0, delay=0.2)
    system = ct.System(ct.Source("x", 1, 1.0), ct.leaky_integrator("y"), synapse)
    run = ct.solve(system, solver=ct.Euler(dt=0.1))
    with pytest.raises(ValueError, match=r"delayed synapses are not known .*W_y_x"):
        currents(run)
    decay = ct.System(ct.leaky_integrator("y"))
    ragged = ct.solve(decay, {"s_y": torch.ones(2, 1)}, torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    with pytest.raises(ValueError, match="one list of times"):
        currents(ragged)


def test_the_figure_shows_every_population_and_current():
    system = ct.sigprop_network([3, 4, 2])
    run = ct.solve(system, inputs={"x": torch.rand(3), "c": torch.eye(2)[0]}, t=[0.0, 9.0, 12.0])
    tree = xr.DataTree.from_dict({"connections": connections(system), "currents": currents(run)})
    graph, *panels = plot_circuit(tree).axes
    words = {text.get_text() for text in graph.texts}
    assert words == {"x\n(3)", "c\n(2)", "one\n(1)", "h1\n(4)", "y\n(2)"}
    assert len(graph.patches) == len(tree["connections/pre"])
    assert [ax.get_ylabel() for ax in panels] == ["into h1", "into y"]
    shown = [text.get_text() for text in panels[0].get_legend().get_texts()]
    assert shown == ["W_h1_x", "W_h1_one", "B_h1_y"]
    for line, name in zip(panels[0].lines, shown, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), tree["currents"][name].values[:, 0])
    with pytest.raises(ValueError, match="no group 'connections'"):
        plot_circuit(xr.DataTree())


def test_changes_are_drawn_with_their_angle():
    units = {"units": "1", "long_name": "ours"}
    data = xr.Dataset(
        {
            "learned": ("synapse", [1.0, 1.0, 2.0], units),
            "gradient": ("synapse", [1.0, 0.0, 2.0], units),
            "weight": ("synapse", ["A", "A", "B"]),
        }
    )
    first, second = plot_changes(xr.DataTree.from_dict({"changes": data})).axes
    assert first.get_title() == "A: 45° apart"
    assert second.get_title() == "B: 0° apart"
