"""The contract of `solve`: what goes in, what comes out, whatever the solver."""

from __future__ import annotations

import itertools
import math
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.errors import BlowUpError, NonFiniteError, StepLimitError, StiffnessError

F64 = torch.float64
PRECISE = ct.Tsit5(rtol=1e-12, atol=1e-14)


def tensor(values, **options):
    return torch.tensor(values, dtype=F64, **options)


def decay(**parameters):
    return ct.System(ct.TextNeuron("dx/dt = -a*x : 1", **({"a": 1.0} | parameters)))


def hebbian(dtype=F64, held=None):
    """Two populations and a loop; the weights learn; the input is held, and jumps."""
    draw = torch.Generator().manual_seed(3)

    def weights(*shape):
        return torch.rand(*shape, generator=draw, dtype=F64) - 0.3

    held = tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5], [0.3, 0.3, 1.0]]) if held is None else held
    system = ct.System(
        ct.Source("x", 3, ct.Held([0.0, 0.73, 1.91], held)),
        ct.rate("h", 2, tau=0.7),
        ct.leaky_integrator("y", 2, tau=tensor([1.0, 1.5])),
        ct.Synapse("x", "h", weights(2, 3), plasticity=ct.oja(0.2), name="W"),
        ct.Synapse(
            "h", "y", weights(2, 2), plasticity=[ct.hebb(0.3), ct.weight_decay(0.1)], name="V"
        ),
        ct.Synapse("y", "h", 0.5 * weights(2, 2), name="B"),
    )
    return system.to(dtype)


MODELS = {
    "FitzHugh-Nagumo": lambda: ct.System(ct.fitzhugh_nagumo(size=2, I=tensor([0.5, 0.2]))),
    "Wilson-Cowan": lambda: ct.System(ct.wilson_cowan()),
    "Hebbian network": hebbian,
}
# every solver, with the largest error that it may make on the models above over 4 units of time
SOLVERS = {
    "Tsit5": (ct.Tsit5(rtol=1e-8, atol=1e-10), 2e-7),
    "Dopri5": (ct.Dopri5(rtol=1e-8, atol=1e-10), 2e-7),
    "BogackiShampine": (ct.BogackiShampine(rtol=1e-6, atol=1e-8), 2e-5),
    "RK4": (ct.RK4(dt=0.02), 1e-7),
    "Heun": (ct.Heun(dt=0.01), 1e-4),
    "Midpoint": (ct.Midpoint(dt=0.01), 1e-4),
    "Euler": (ct.Euler(dt=0.005), 1e-2),
    "ExponentialEuler": (ct.ExponentialEuler(dt=0.005), 2e-2),
    "torchdiffeq dopri5": (ct.TorchDiffEq("dopri5", rtol=1e-8, atol=1e-10), 2e-7),
    "torchdiffeq dopri8": (ct.TorchDiffEq("dopri8", rtol=1e-8, atol=1e-10), 2e-7),
    "torchdiffeq rk4": (ct.TorchDiffEq("rk4", dt=0.02), 1e-7),
    "torchdiffeq Adams": (ct.TorchDiffEq("implicit_adams", dt=0.02), 1e-5),
    "SciPy LSODA": (ct.SciPy("LSODA", rtol=1e-9, atol=1e-11), 2e-7),
    "SciPy Radau": (ct.SciPy("Radau", rtol=1e-8, atol=1e-10), 2e-7),
    "SciPy BDF": (ct.SciPy("BDF", rtol=1e-8, atol=1e-10), 2e-6),
    "SciPy DOP853": (ct.SciPy("DOP853", rtol=1e-8, atol=1e-10), 2e-7),
    "Brian2 rk4": (ct.Brian2("rk4", dt=0.01), 1e-7),
}
LOOSER = {("Hebbian network", "Brian2 rk4"): 2e-2}  # which holds what crosses populations: order 1
TIMES = [0.0, 0.5, 1.3, 2.0, 4.0]


@pytest.fixture(scope="module")
def references():
    return {name: ct.solve(build(), t=TIMES, solver=PRECISE) for name, build in MODELS.items()}


@pytest.mark.parametrize("label", SOLVERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_back_end_gives_the_same_numbers(references, model, label):
    solver, tolerance = SOLVERS[label]
    tolerance = LOOSER.get((model, label), tolerance)
    run, true = ct.solve(MODELS[model](), t=TIMES, solver=solver), references[model]
    assert (run.status, run.t.tolist(), run.batch) == ("complete", TIMES, ())
    assert run.solver is solver
    assert list(run.states) == list(true.states)
    assert run.lengths.tolist() == [len(TIMES)]
    for name, values in true.states.items():
        assert run[name].dtype == F64
        assert not run[name].requires_grad
        assert float((run[name] - values).abs().max()) < tolerance, name
    cost = run.statistics
    assert cost.evaluations >= cost.steps > 0
    assert cost.seconds > 0


@pytest.mark.parametrize("label", SOLVERS)
def test_backward_in_time_returns_to_the_start(label):
    solver, tolerance = SOLVERS[label]
    system = MODELS["Wilson-Cowan"]()
    there = ct.solve(system, t=[0.0, 1.0, 2.0], solver=solver)
    back = ct.solve(system, there.final, [2.0, 1.0, 0.0], solver=solver)
    assert back.t.tolist() == [2.0, 1.0, 0.0]
    for name in there.states:
        assert float((back[name][-1] - there[name][0]).abs().max()) < 100 * tolerance


# Types


@pytest.mark.parametrize(
    "solver",
    [
        ct.Tsit5(rtol=1e-5, atol=1e-6),
        ct.RK4(dt=0.05),
        ct.ExponentialEuler(dt=0.01),
        ct.TorchDiffEq("dopri5", rtol=1e-5, atol=1e-6),
        ct.TorchDiffEq("rk4", dt=0.05),
        ct.SciPy("LSODA", rtol=1e-5, atol=1e-6),
    ],
    ids=repr,
)
def test_float32(references, solver):
    run = ct.solve(hebbian(torch.float32), t=TIMES, solver=solver)  # no y0: the system's own type
    assert run.t.dtype == F64
    for name, values in references["Hebbian network"].states.items():
        assert run[name].dtype == torch.float32
        assert float((run[name] - values).abs().max()) < (0.02 if "Exp" in repr(solver) else 1e-4)


def test_mixed_types_are_refused():
    with pytest.raises(TypeError, match=r"'terms.2.tau' is torch.float64 and the state is torch.f"):
        ct.solve(hebbian(), {"s_h": torch.zeros(2)})
    with pytest.raises(TypeError, match=r"one dtype; got .*float32.*float64"):
        ct.solve(hebbian(), {"s_h": torch.zeros(2), "s_y": tensor([0.0, 0.0])})


def test_numbers_keep_their_digits():
    run = ct.solve(decay(), {"x": 0.1}, [0.0, 0.1, 1 / 3])
    assert run.t.tolist() == [0.0, 0.1, 1 / 3]
    assert run["x"][0].item() == 0.1
    text = "dv/dt = -v/tau : mV\ntau : ms"
    slow = ct.System(ct.TextNeuron(text, tau=ct.Parameter(0.0103, "s")))
    assert abs(slow.neurons[0].tau.item() - 10.3) < 1e-14


def test_parameters_are_float64_until_the_system_is_moved():
    cell = ct.leaky_integrator("y", 2, tau=torch.tensor([1.0, 2.0]))
    synapse = ct.Synapse("x", "y", torch.rand(2, 3), plasticity=ct.hebb(0.1))
    system = ct.System(ct.Source("x", 3, torch.rand(3)), cell, synapse)
    assert system.dtype == F64
    assert {values.dtype for values in ct.solve(system).states.values()} == {F64}
    assert system.float().dtype == torch.float32
    assert {values.dtype for values in ct.solve(system).states.values()} == {torch.float32}
    assert system.initial_state()["s_y"].dtype == torch.float32


# Gradients


def learnable():
    """Return a Hebbian network, all that goes in as leaves, and a loss of all that comes out."""
    held = tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5], [0.3, 0.3, 1.0]], requires_grad=True)
    plastic = ct.TextPlasticity(
        "dw/dt = eta*(x*y - y**2*w)", eta=ct.Parameter(0.2, lower=0.0, upper=1.0)
    )
    system = ct.System(
        ct.Source("x", 3),
        ct.rate("h", 2, tau=ct.Parameter(0.7, lower=0.1)),
        ct.leaky_integrator("y", 2, bias=ct.Parameter(tensor([0.1, -0.2]), upper=2.0)),
        ct.Synapse("x", "h", 0.3, plasticity=plastic, name="W"),
        ct.Synapse("h", "y", tensor([[0.4, -0.1], [0.2, 0.6]]), name="V"),
    ).learn("h.tau", "y.bias", "eta", "V.weight")
    start = tensor([[0.3, -0.1, 0.2], [0.5, 0.1, -0.4]], requires_grad=True)
    times = tensor([0.0, 0.9, 1.6], requires_grad=True)
    leaves = {
        "y0": start,
        "t": times,
        "input": held,
        **{name: p for name, p in system.named_parameters() if p.requires_grad},
    }

    def loss(solver):
        inputs = {"x": ct.Held([0.0, 0.5, 1.2], held)}
        run = ct.solve(system, {"W": start}, times, solver=solver, inputs=inputs)
        return (run["s_y"] ** 2).sum() + (run["W"][1:] * run["s_h"][1:, :, None]).sum()

    return leaves, loss


@pytest.mark.parametrize(
    "solver",
    [
        ct.Tsit5(rtol=1e-11, atol=1e-13),
        ct.RK4(dt=0.047),  # as many steps before as after a small change of the times
        ct.TorchDiffEq("dopri8", rtol=1e-11, atol=1e-13),
        ct.TorchDiffEq("dopri8", rtol=1e-11, atol=1e-13, adjoint=True),
    ],
    ids=["Tsit5", "RK4", "TorchDiffEq", "adjoint"],
)
def test_gradients_against_finite_differences(solver):
    leaves, loss = learnable()
    assert len(leaves) == 7
    gradients = torch.autograd.grad(loss(solver), list(leaves.values()))
    step = 1e-4
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        flat = leaf.detach().reshape(-1)  # a view: writing to it moves the leaf
        for i in {0, len(flat) - 1}:
            ends = []
            for way in (1, -1):
                flat[i] += way * step
                with torch.no_grad():
                    ends.append(float(loss(solver)))
                flat[i] -= way * step
            slope = (ends[0] - ends[1]) / (2 * step)
            found = float(gradient.reshape(-1)[i])
            assert abs(found - slope) < 1e-6 * max(1.0, abs(slope)), (name, i)


def test_bounded_parameters_learn_inside_their_bounds():
    system = decay(a=ct.Parameter(0.2, lower=0.1, upper=0.3)).learn("a")
    free = next(p for p in system.parameters() if p.requires_grad)
    optimizer = torch.optim.SGD([free], lr=20.0)
    for _ in range(3):
        loss = ct.solve(system, {"x": 1.0}, [0.0, 2.0])["x"][-1].sum()
        optimizer.zero_grad()
        loss.backward()
        assert float(free.grad.abs()) > 0
        optimizer.step()
        assert 0.1 <= system.neurons[0].a.item() <= 0.3


def gate_gradient():
    strength = tensor(0.5, requires_grad=True)
    gate = ct.Constant(strength)
    synapse = ct.Synapse("x", "y", 0.1, plasticity=ct.hebb(0.1, gate=gate), name="W")
    system = ct.System(ct.Source("x", 1, tensor([1.0])), ct.leaky_integrator("y"), synapse)
    return strength, ct.solve(system, t=[0.0, 1.0])["W"][-1]


def closure_gradient():
    rate = tensor([0.7], requires_grad=True)
    system = ct.System(ct.VectorField(lambda _t, y: -rate * y, 1))
    return rate, ct.solve(system, {"y": tensor([1.0])})["y"][-1]


def module_gradient():
    linear = nn.Linear(2, 2, dtype=F64)
    system = ct.System(ct.VectorField(lambda _t, y: linear(y), 2))
    return linear.weight, ct.solve(system, {"y": tensor([1.0, 2.0])})["y"][-1]


def threshold_gradient():
    threshold = tensor(0.5, requires_grad=True)
    event = ct.Event(lambda _t, y: y["x"].squeeze(-1) - threshold, terminal=True)
    return threshold, ct.solve(decay(), {"x": 1.0}, [0.0, 3.0], events=event).events[0].time


def listed_time_gradient():
    end = tensor(2.0, requires_grad=True)
    return end, ct.solve(decay(), {"x": 1.0}, [0.0, end])["x"][-1]


def impulse_time_gradient():
    times = tensor([0.5], requires_grad=True)
    kick = ct.Impulse(times, lambda _t, y: {"x": y["x"] + 1})
    return times, ct.solve(decay(), {"x": 1.0}, [0.0, 2.0], impulses=kick)["x"][-1]


@pytest.mark.parametrize(
    "build",
    [
        gate_gradient,
        closure_gradient,
        module_gradient,
        threshold_gradient,
        listed_time_gradient,
        impulse_time_gradient,
    ],
)
def test_no_gradient_is_lost(build):
    leaf, result = build()
    assert torch.autograd.grad(result.sum(), leaf)[0].abs().max() > 1e-3


def test_gradients_only_where_they_are_wanted():
    y0 = {"x": tensor([1.0], requires_grad=True)}
    assert ct.solve(decay(), y0)["x"].requires_grad
    assert ct.solve(decay(), y0, differentiable=True)["x"].requires_grad
    assert not ct.solve(decay(), y0, differentiable=False)["x"].requires_grad
    assert not ct.solve(decay(), {"x": 1.0})["x"].requires_grad
    with torch.no_grad():
        assert not ct.solve(decay(), y0)["x"].requires_grad
        with pytest.raises(ValueError, match="the graph would be lost"):
            ct.solve(decay(), y0, differentiable=True)
    with pytest.raises(ValueError, match="nothing that goes in requires a gradient"):
        ct.solve(decay(), {"x": 1.0}, differentiable=True)
    for solver in (ct.SciPy(), ct.Brian2(dt=0.1)):
        with pytest.raises(ValueError, match=r"has no gradients.*differentiable=False"):
            ct.solve(decay(), y0, solver=solver)
        assert not ct.solve(decay(), y0, solver=solver, differentiable=False)["x"].requires_grad


# Batches


SEPARATE = [
    ct.Tsit5(),
    ct.Dopri5(),
    ct.RK4(dt=0.05),
    ct.ExponentialEuler(dt=0.05),
    ct.TorchDiffEq("rk4", dt=0.05),
    ct.SciPy("LSODA"),
    ct.Brian2(dt=0.05),
]


@pytest.mark.parametrize("solver", SEPARATE, ids=repr)
def test_samples_do_not_feel_their_neighbours(solver):
    # one at rest, one that spikes, one with weights of its own far from the others
    v = tensor([[-1.2, 0.0], [2.0, -2.0], [0.3, 0.1]]).reshape(3, 1, 2)
    system = MODELS["FitzHugh-Nagumo"]()
    times = [0.0, 1.0, 3.0]
    in_torch = [solver.with_options(native=False)] if hasattr(solver, "native") else []
    for path in (solver, *in_torch):
        whole = ct.solve(system, {"v": v}, times, solver=path)
        assert whole.batch == (3, 1)
        assert whole["w"].shape == (3, 3, 1, 2)
        for k in range(3):
            alone = ct.solve(system, {"v": v[k, 0]}, times, solver=path)
            for name in "vw":
                assert float((whole[name][:, k, 0] - alone[name]).abs().max()) < 1e-12


def test_learning_weights_do_not_feel_their_neighbours():
    inputs = torch.rand(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    system = hebbian()
    whole = ct.solve(system, t=TIMES, inputs={"x": inputs}, native=False)
    assert whole["W"].shape == (5, 4, 2, 3)
    for k in range(4):
        alone = ct.solve(system, t=TIMES, inputs={"x": inputs[k]}, native=False)
        for name in alone.states:
            assert float((whole[name][:, k] - alone[name]).abs().max()) < 1e-12


@pytest.mark.parametrize("solver", [ct.Tsit5(), ct.RK4(dt=0.05), ct.SciPy()], ids=repr)
def test_shared_weights_move_by_the_mean(solver):
    inputs = tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])

    def system(shared):
        synapse = ct.Synapse("x", "y", 0.0, plasticity=ct.hebb(0.1), name="W", shared=shared)
        return ct.System(ct.Source("x", 2), ct.leaky_integrator("y"), synapse)

    start, options = {"s_y": tensor([[1.0], [1.0], [1.0]])}, {"inputs": {"x": inputs}}
    run = ct.solve(system(True), start, [0.0, 1e-3], solver=solver, **options)
    assert run["W"].shape == (2, 1, 2)
    own = ct.solve(system(False), start, [0.0, 1e-3], solver=solver, **options)["W"][-1]
    torch.testing.assert_close(run["W"][-1], own.mean(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "solver", [ct.Tsit5(), ct.RK4(dt=0.05), ct.ExponentialEuler(dt=0.05), ct.SciPy()], ids=repr
)
@pytest.mark.parametrize("backward", [False, True])
def test_times_of_their_own(solver, backward):
    times = tensor([[0.0, 0.5, 2.0], [1.0, 1.1, 1.2], [-1.0, 3.0, 3.5]])
    if backward:
        times = times.flip(-1)
    y0 = {"E": tensor([[0.1], [0.3], [0.2]])}
    system = MODELS["Wilson-Cowan"]()
    whole = ct.solve(system, y0, times, solver=solver)
    assert whole.t.shape == (3, 3)
    for k in range(3):
        alone = ct.solve(system, {"E": y0["E"][k]}, times[k], solver=solver)
        for name in alone.states:
            assert float((whole[name][:, k] - alone[name]).abs().max()) < 1e-12
    tree = whole.to_xarray()
    assert ct.validate(tree) == []
    assert tree["simulation/time"].dims == ("step", "sample")


SIGNALS = {
    "number": ct.Constant(1.5),
    "vector": ct.Constant(tensor([1.0, 2.0])),
    "held": ct.Held([0.0, 0.5, 1.7], tensor([[1.0, 2.0], [0.0, 1.0], [2.0, -1.0]])),
    "held number": ct.Held([0.0, 0.5, 1.7], tensor([1.0, 0.0, 2.0])),
    "pulse": ct.Pulse(0.3, 1.2),
    "rhythm": ct.Rhythm(tensor([1.0, 2.0]), 0.3),
    "rhythm about a vector": ct.Rhythm(1.0, 0.3, offset=tensor([1.0, 2.0])),
    "trace": ct.Sampled([0.0, 1.0, 4.0], tensor([[1.0, 2.0], [0.0, 1.0], [2.0, -1.0]])),
    "trace of a number": ct.Sampled([0.0, 1.0, 4.0], tensor([1.0, 0.0, 2.0])),
    "noise": ct.Noise(2, scale=1.0, dt=0.2, duration=3.0),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_on_clocks_of_their_own(name):
    # as many samples as channels: a wrong axis would pass
    times = tensor([[0.1, 1.0], [0.0, 2.0]])
    cell = ct.leaky_integrator("y", 2)
    system = ct.System(ct.Source("u", 2, SIGNALS[name]), cell, ct.Input("u", "y"))
    whole = ct.solve(system, {"s_y": torch.zeros(2, 2, dtype=F64)}, times)["s_y"]
    for k in range(2):
        alone = ct.solve(system, t=times[k])["s_y"]
        assert float((whole[:, k] - alone).abs().max()) < 1e-12


def test_functions_on_clocks_of_their_own():
    system = ct.System(ct.VectorField(lambda t, y: torch.cos(t) + 0 * y, 2))
    times = tensor([[0.0, 1.0], [0.0, 2.0]])
    for solver in (ct.Tsit5(rtol=1e-9), ct.RK4(dt=0.02), ct.SciPy("DOP853", rtol=1e-9)):
        run = ct.solve(system, {"y": torch.zeros(2, 2, dtype=F64)}, times, solver=solver)
        exact = torch.sin(times[:, 1:]).expand(2, 2)
        torch.testing.assert_close(run["y"][-1], exact, rtol=0, atol=1e-7)


RULES = {
    "gated": lambda: ct.hebb(0.3, gate=ct.Pulse(0.4, 1.1)),
    "bcm": lambda: ct.bcm(0.1, tau_theta=0.5),
    "covariance": lambda: ct.covariance(0.2, tau=0.7),
    "differential": lambda: ct.differential_hebb(0.2, gate=ct.Rhythm(1.0, 0.3)),
    "eligibility": lambda: ct.eligibility(0.3, tau_e=1.0, modulator="m"),
    "held reward": lambda: ct.eligibility(
        0.3, tau_e=1.0, modulator=ct.Held([0.0, 0.6], tensor([0.5, -1.0]))
    ),
    "Sanger": lambda: ct.Sanger(0.2),
    "several": lambda: [ct.oja(0.1), ct.weight_decay(0.2), ct.homeostatic_scaling(0.1, target=1.0)],
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("options", [{}, {"filter": (2, 0.5), "bounds": (0.0, 2.0)}], ids=str)
def test_rules_on_clocks_of_their_own(name, options):
    held = ct.Held([0.0, 0.5], tensor([[1.0, 0.2, 0.5], [0.0, 1.0, 0.3]]))
    system = ct.System(
        ct.Source("x", 3, held),
        ct.Source("m", 1, ct.Rhythm(1.0, 0.4)),
        ct.rate("h", 2),
        ct.Synapse("x", "h", 0.4, plasticity=RULES[name](), name="W", **options),
        ct.LearningSignal("m", "h", tensor([[0.3], [0.2]]), gate=ct.Pulse(0.3, 1.3), port="J"),
    )
    times, s = tensor([[0.1, 1.0], [0.0, 2.0]]), tensor([[0.3, -0.2], [0.1, 0.8]])
    # from a tiny first step, rounding would choose the next ones
    whole = ct.solve(system, {"s_h": s}, times, first_step=0.05)
    for k in range(2):
        alone = ct.solve(system, {"s_h": s[k]}, times[k], first_step=0.05)
        for variable in alone.states:
            assert float((whole[variable][:, k] - alone[variable]).abs().max()) < 1e-12
    fixed = ct.solve(system, {"s_h": s}, [0.0, 1.5], solver=ct.RK4(dt=0.02))
    free = ct.solve(system, {"s_h": s}, [0.0, 1.5], solver=ct.TorchDiffEq(rtol=1e-9, atol=1e-11))
    for variable in free.states:
        assert float((fixed[variable] - free[variable]).abs().max()) < 1e-6


def test_solvers_with_one_clock_say_so():
    shared = ct.Synapse("x", "y", 0.1, plasticity=ct.hebb(0.1), shared=True)
    system = ct.System(ct.Source("x", 1, tensor([1.0])), ct.leaky_integrator("y"), shared)
    with pytest.raises(ValueError, match="a batch that shares a variable has one clock"):
        ct.solve(system, {"s_y": tensor([[1.0], [1.0]])}, tensor([[0.0, 1.0], [0.0, 2.0]]))
    times = tensor([[0.0, 1.0], [0.0, 2.0]])
    for solver in (ct.TorchDiffEq(), ct.Brian2(dt=0.1)):
        with pytest.raises(ValueError, match="takes one list of times for all samples; Tsit5"):
            ct.solve(decay(), {"x": tensor([[1.0], [1.0]])}, times, solver=solver)


# Dense output


@pytest.mark.parametrize("solver", [
    ct.Tsit5(rtol=1e-9, atol=1e-11),
    ct.Dopri5(rtol=1e-9, atol=1e-11),
    ct.RK4(dt=0.005),
    ct.SciPy("DOP853", rtol=1e-9, atol=1e-11),
    ct.SciPy("Radau", rtol=1e-9, atol=1e-11),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("span", [[0.0, 1.5], [1.5, 0.0]], ids=["forward", "backward"])
def test_dense_output(solver, span):
    system = MODELS["Wilson-Cowan"]()
    y0 = {"E": tensor([[0.1], [0.4]])}
    run = ct.solve(system, y0, span, solver=solver, dense=True)
    times = torch.linspace(0, 1.5, 41, dtype=F64)
    true = ct.solve(system, y0, times if span[0] == 0 else times.flip(0), solver=PRECISE)
    found = run(true.t)
    for name in "EI":
        assert found[name].shape == (41, 2, 1)
        assert float((found[name] - true[name]).abs().max()) < 1e-6
        assert torch.equal(run(span[0])[name], run[name][0])
        assert float((run(span[1])[name] - run[name][-1]).abs().max()) < 1e-14
    with pytest.raises(ValueError, match=r"t=3\.5"):
        run(3.5)


def test_dense_output_is_differentiable():
    y0 = {"x": tensor([1.0], requires_grad=True)}
    run = ct.solve(decay(), y0, [0.0, 2.0], solver=ct.Tsit5(rtol=1e-9), dense=True)
    t = tensor(1.3, requires_grad=True)
    by_t, by_y0 = torch.autograd.grad(run(t)["x"].sum(), (t, y0["x"]))
    assert abs(float(by_t) + math.exp(-1.3)) < 1e-6
    assert abs(float(by_y0) - math.exp(-1.3)) < 1e-6


def test_dense_output_keeps_hard_bounds():
    synapse = ct.Synapse("x", "y", 0.0, plasticity=ct.hebb(1.0), bounds=(-1.0, 0.35), name="W")
    system = ct.System(
        ct.Source("x", 1, tensor([1.0])), ct.leaky_integrator("y", bias=1.0), synapse
    )
    run = ct.solve(system, t=[0.0, 0.5, 3.0], dense=True)
    times = torch.linspace(0, 3, 400, dtype=F64)
    assert float(run(times)["W"].max()) == 0.35
    assert float(run["W"].max()) == 0.35


def test_solvers_without_dense_output_say_so():
    for solver in (ct.TorchDiffEq(), ct.Brian2(dt=0.1)):
        with pytest.raises(ValueError, match="has no dense output; Tsit5"):
            ct.solve(decay(), solver=solver, dense=True)


# Events and impulses


WATCHING = [
    ct.Tsit5(rtol=1e-10, atol=1e-12),
    ct.RK4(dt=0.02),
    ct.SciPy("DOP853", rtol=1e-10, atol=1e-12),
    ct.SciPy("Radau", rtol=1e-9, atol=1e-11),
]


def falls_to(level, **options):
    return ct.Event(lambda _t, y: y["x"].squeeze(-1) - level, direction=-1, **options)


@pytest.mark.parametrize("solver", WATCHING, ids=repr)
def test_terminal_events_end_each_sample_at_its_own_time(solver):
    x = tensor([[1.0], [3.0], [0.2]])
    times = [0.0, 0.5, 1.0, 2.0]
    event = falls_to(0.5, terminal=True, name="half")
    run = ct.solve(decay(), {"x": x}, times, solver=solver, events=event)
    assert run.status == "terminated"
    assert "event 'half' ended the run at t=" in run.message
    assert sorted(e.sample for e in run.events) == [0, 1]  # the last one began below
    for record in run.events:
        true = math.log(float(x[record.sample]) / 0.5)
        assert abs(float(record.time) - true) < 1e-8
        assert abs(float(record.state["x"]) - 0.5) < 1e-8
    assert run.lengths.tolist() == [2, 3, 4]
    reached = torch.isfinite(run["x"]).squeeze(-1)
    assert reached.sum(0).tolist() == [2, 3, 4]
    tree = run.to_xarray()
    assert ct.validate(tree) == []
    assert tree["events/event_time"].sizes == {"event": 2}
    assert json_status(tree) == "terminated"


def json_status(tree):
    return tree.attrs["status"]


@pytest.mark.parametrize("solver", WATCHING, ids=repr)
def test_events_that_reset(solver):
    double = falls_to(0.5, reset=lambda _t, y: {"x": 2 * y["x"]}, name="double")
    run = ct.solve(decay(), {"x": 1.0}, [0.0, 5.0], solver=solver, events=double)
    expected = math.log(2.0) * np.arange(1, 8)
    np.testing.assert_allclose([float(e.time) for e in run.events], expected, atol=1e-7)
    assert abs(run["x"][-1].item() - math.exp(7 * math.log(2.0) - 5)) < 1e-7
    assert run.status == "complete"
    limited = falls_to(0.5, reset=lambda _t, y: {"x": 2 * y["x"]}, limit=2)
    run = ct.solve(decay(), {"x": 1.0}, [0.0, 5.0], solver=solver, events=limited)
    assert len(run.events) == 2


@pytest.mark.parametrize("solver", WATCHING[:2], ids=repr)
def test_the_time_of_an_event_is_differentiable(solver):
    system = decay(a=0.7).learn("a")
    x = tensor([1.0], requires_grad=True)
    run = ct.solve(system, {"x": x}, [0.0, 3.0], solver=solver, events=falls_to(0.5))
    a = system.neurons[0].a
    by_a, by_x = torch.autograd.grad(run.events[0].time, (a, x))
    assert abs(float(by_a) + math.log(2) / 0.7**2) < 1e-6
    assert abs(float(by_x) - 1 / 0.7) < 1e-6


@pytest.mark.parametrize(
    "solver",
    [*WATCHING, ct.TorchDiffEq(rtol=1e-10, atol=1e-12), ct.ExponentialEuler(dt=0.5),
     ct.Brian2(dt=0.02)],
    ids=repr,
)  # fmt: skip
def test_impulses_against_the_exact_trace(solver):
    kick = ct.Impulse(tensor([0.0, 0.7, 2.0, 9.0]), lambda _t, y: {"x": y["x"] + 1})
    times = [0.0, 0.5, 1.0, 2.0, 3.0]
    run = ct.solve(decay(), {"x": 0.0}, times, solver=solver, impulses=kick)

    # the first row comes before an impulse at the start, the others after those at their time
    def trace(t):
        return sum(math.exp(-(t - s)) for s in (0.0, 0.7, 2.0) if s <= t)

    expected = [0.0, *map(trace, times[1:])]
    np.testing.assert_allclose(run["x"].squeeze(-1).numpy(), expected, atol=1e-7)


def test_impulses_of_each_sample():
    times = tensor([[0.2, 0.5], [0.3, 1.9]])
    kick = ct.Impulse(times, lambda _t, y: {"x": y["x"] + 1})
    run = ct.solve(decay(), {"x": tensor([[0.0], [0.0]])}, [0.0, 2.0], impulses=kick)
    expected = torch.exp(-(2.0 - times)).sum(-1)
    torch.testing.assert_close(run["x"][-1, :, 0], expected, rtol=0, atol=1e-6)


def test_impulses_and_terminal_events():
    kick = ct.Impulse(tensor([1.0]), lambda _t, y: {"x": y["x"] + 1})
    event = falls_to(0.5, terminal=True)
    run = ct.solve(decay(), {"x": 1.0}, [0.0, 0.5, 1.5, 3.0], impulses=kick, events=event)
    assert run.status == "terminated"  # before the impulse, which then never comes
    assert len(run.t) == 2
    with pytest.raises(ValueError, match="impulses exclude events with a limit"):
        ct.solve(decay(), {"x": 1.0}, impulses=kick, events=falls_to(0.5, limit=1))


WRONG_CHANGES = {
    "unknown variable 'z'": lambda _t, y: {"z": y["x"]},
    r"'x' must have shape \(1,\); got \(3,\)": lambda _t, _y: {"x": torch.zeros(3, dtype=F64)},
}


@pytest.mark.parametrize("words", WRONG_CHANGES)
def test_changes_that_misfit_are_refused(words):
    change = WRONG_CHANGES[words]
    with pytest.raises(ValueError, match=f"impulse.*{words}"):
        ct.solve(decay(), {"x": 1.0}, impulses=ct.Impulse(tensor([0.5]), change))
    for solver in WATCHING:
        event = falls_to(0.5, reset=change, name="half")
        with pytest.raises(ValueError, match=f"reset of event 'half'.*{words}"):
            ct.solve(decay(), {"x": 1.0}, solver=solver, events=event)


# Inputs that jump, and the past


def held_neuron(values):
    return ct.System(
        ct.Source("u", 1, ct.Held([0.0, 0.37, 1.41, 2.2], values.reshape(-1, 1))),
        ct.leaky_integrator("y"),
        ct.Input("u", "y"),
    )


def held_exactly(values, end):
    s, edges = 0.0, [0.0, 0.37, 1.41, 2.2, end]
    for u, a, b in zip(values.tolist(), edges[:-1], edges[1:], strict=True):
        s = u + (s - u) * math.exp(-(b - a))
    return s


@pytest.mark.parametrize(
    "solver",
    [ct.Tsit5(), ct.TorchDiffEq("dopri5"), ct.SciPy("RK45"), ct.SciPy("LSODA"), ct.RK4(dt=0.1)],
    ids=repr,
)
def test_jumps_of_inputs_are_found_and_cost_nothing(solver):
    values = tensor([1.0, -2.0, 3.0, 0.5])
    exact = held_exactly(values, 3.0)
    known = ct.solve(held_neuron(values), t=[0.0, 3.0], solver=solver)
    edges = tensor([0.37, 1.41, 2.2])

    def hidden(t, y):
        return values[torch.searchsorted(edges, t, right=True)] - y

    unknown = ct.solve(ct.System(ct.VectorField(hidden, 1)), t=[0.0, 3.0], solver=solver)
    error = abs(known["s_y"][-1].item() - exact)
    other = abs(unknown["y"][-1].item() - exact)
    assert error < min(1e-5, other)
    if not isinstance(solver, ct.RK4):
        assert known.statistics.evaluations < unknown.statistics.evaluations


def test_order_four_with_inputs_that_jump_off_the_grid():
    values = tensor([1.0, -2.0, 3.0, 0.5])
    exact = held_exactly(values, 3.0)
    errors = [
        abs(ct.solve(held_neuron(values), t=[0, 3], solver=ct.RK4(dt=dt))["s_y"][-1].item() - exact)
        for dt in (0.2, 0.1, 0.05, 0.025)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.abs(orders - 4).max() < 0.35


def delayed(delay, rate=1.0, leak=0.0):
    """x'(t) = -leak x(t) - rate x(t - delay)."""
    neuron = ct.TextNeuron("dx/dt = -leak*x + I : 1\nI : 1", "n", leak=leak)
    return ct.System(neuron, ct.Synapse("n", "n", -rate, delay=delay))


@pytest.mark.parametrize("dt", [0.25, 0.1, 0.03])
def test_delays_against_the_method_of_steps(dt):
    # x' = -x(t - 1), x = 1 before 0: a polynomial of order k + 1 on [k, k + 1]
    def exact(t):
        return sum((-1) ** k * (t - (k - 1)) ** k / math.factorial(k) for k in range(int(t) + 2))

    times = [0.0, 0.6, 1.0, 1.5, 2.9]
    run = ct.solve(delayed(1.0), {"x_n": 1.0}, times, solver=ct.RK4(dt=dt))
    np.testing.assert_allclose(
        run["x_n"].squeeze(-1).numpy(), [exact(t) for t in times], rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("delay", [1.0, 0.9375], ids=["on the grid", "off it"])
def test_order_four_with_delays(delay):
    # a delayed rotation: x' = -x(t - delay), on the history cos(omega t), omega = pi/(2 delay),
    # scaled: the exact solution is the history itself
    omega = math.pi / (2 * delay)
    system = delayed(delay, rate=omega)
    errors = []
    for n in (32, 64, 128):
        run = ct.solve(
            system,
            {"x_n": 1.0},
            [0.0, 3.0],
            solver=ct.RK4(dt=1 / n),
            past=lambda t: {"x_n": torch.cos(omega * t).reshape(1)},
        )
        errors.append(abs(run["x_n"][-1].item() - math.cos(3 * omega)))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.abs(orders - 4).max() < 0.4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": ct.Tsit5()}, r"cannot look back, and the longest delay is 1; .*RK4\(dt\)"),
        ({"solver": ct.SciPy()}, "cannot look back"),
        ({"t": [1.0, 0.0]}, "only goes forward"),
        ({"t": tensor([0.0, 1.0], requires_grad=True)}, "t can have no gradient"),
        ({"impulses": ct.Impulse([0.5], lambda _t, _y: {})}, "delays and impulses exclude"),
        ({"events": ct.Event(lambda t, _y: t, reset=lambda _t, y: y)}, "the past would jump"),
        ({"t": tensor([[0.0, 1.0], [0.0, 2.0]])}, "one list of times"),
    ],
)
def test_what_delays_cannot_do(options, words):
    with pytest.raises(ValueError, match=words):
        ct.solve(delayed(1.0), **({"solver": ct.RK4(dt=0.1)} | options))


def test_a_past_without_delays_is_refused():
    with pytest.raises(ValueError, match="past is for synapses with delays"):
        ct.solve(decay(), past=lambda _t: {"x": tensor([1.0])})


@pytest.mark.parametrize("order", [1, 2, 5])
def test_gamma_chain_against_its_closed_form(order):
    tau = 1.7
    synapse = ct.Synapse("x", "y", 1.0, filter=(order, tau), name="W")
    system = ct.System(ct.Source("x", 1, tensor([1.0])), ct.leaky_integrator("y"), synapse)
    times = [0.0, 0.5, 1.0, 3.0, 9.0]
    run = ct.solve(system, t=times, solver=PRECISE)
    for stage in range(order):
        # a chain of k stages answers a step with the distribution of a sum of k waiting times
        exact = torch.special.gammainc(tensor(stage + 1.0), order * tensor(times) / tau)
        torch.testing.assert_close(run["z_W"][:, stage, 0], exact, rtol=0, atol=1e-10)


# What goes wrong


ADAPTIVE = [
    ct.Tsit5(),
    ct.Dopri5(),
    ct.BogackiShampine(),
    ct.TorchDiffEq("dopri5"),
    ct.TorchDiffEq("dopri8"),
    ct.TorchDiffEq("bosh3"),
    ct.SciPy("RK45"),
    ct.SciPy("DOP853"),
]
IMPLICIT = [ct.SciPy("LSODA"), ct.SciPy("Radau"), ct.SciPy("BDF")]
FIXED = [ct.RK4(dt=0.01), ct.Euler(dt=0.01), ct.TorchDiffEq("rk4", dt=0.01), ct.Brian2(dt=0.01)]


def two(first, second, **parameters):
    """Return two units of which only the second one fails."""
    return ct.System(
        ct.TextNeuron(f"da/dt = {first} : 1\ndb/dt = {second} : 1", size=2, **parameters)
    )


def fails(system, y0, times, solver):
    started = time.process_time()
    with pytest.raises(ct.IntegrationError) as caught:
        ct.solve(system, y0, times, solver=solver)
    assert time.process_time() - started < 10
    error = caught.value
    kept = error.partial
    assert kept.status == "failed"
    assert kept.message == str(error)
    assert len(kept.t) == len(kept["b"])
    assert all(bool(torch.isfinite(values).all()) for values in kept.states.values())
    assert kept.t.tolist() == times[: len(kept.t)]
    assert f"t={error.time:.6g}" in str(error)
    assert error.cause in str(error)
    return error


@pytest.mark.parametrize("solver", [*ADAPTIVE, *IMPLICIT, *FIXED], ids=repr)
def test_a_blow_up_is_named(solver):
    # b = k/(1 - k t): the second unit of b has its pole at 1
    system = two("-a", "b**2")
    y0 = {"a": 1.0, "b": tensor([0.3, 1.0])}
    error = fails(system, y0, [0.0, 0.4, 0.8, 1.6], solver)
    assert type(error) is BlowUpError
    assert (error.variable, error.component) == ("b", (1,))
    low, high = (0.999, 1.0) if solver in ADAPTIVE + IMPLICIT else (0.9, 1.2)
    assert low < error.time < high
    assert len(error.partial.t) == 3


@pytest.mark.parametrize("solver", [*ADAPTIVE, *IMPLICIT, *FIXED], ids=repr)
def test_nan_in_one_component_is_named(solver):
    system = two("-a", "-b + 1e-9*sqrt(end - t)", end=tensor([10.0, 0.5]))
    error = fails(system, {"a": 1.0, "b": 1.0}, [0.0, 0.2, 0.4, 0.6], solver)
    assert type(error) is NonFiniteError
    assert (error.variable, error.component) == ("b", (1,))
    assert 0.4 <= error.time < 0.52
    assert len(error.partial.t) == 3


@pytest.mark.parametrize("solver", [*ADAPTIVE, *IMPLICIT], ids=repr)
def test_the_step_limit_is_named(solver):
    system = two("b", "-a")
    error = fails(system, {"a": 1.0, "b": 0.0}, [0.0, 1e-6, 1e3], solver.with_options(max_steps=30))
    assert type(error) is StepLimitError
    assert error.variable in ("a", "b")
    assert len(error.component) == 1
    assert 0 < error.time < 1e3
    assert "30 steps" in error.cause
    assert "max_steps" in error.cause


@pytest.mark.parametrize("solver", FIXED, ids=repr)
def test_too_many_fixed_steps_are_refused_at_once(solver):
    started = time.process_time()
    with pytest.raises(StepLimitError, match=r"max_steps.* 100000.*dt|dt.*max_steps.* 100000"):
        ct.solve(decay(), t=[0.0, 1e6], solver=solver)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("solver", ADAPTIVE, ids=repr)
def test_stiffness_is_named_early(solver):
    system = two("-a", "-lam*(b - cos(t))", lam=tensor([1.0, 1e9]))
    error = fails(system, {"a": 1.0, "b": 1.0}, [0.0, 0.5, 1.0], solver)
    assert type(error) is StiffnessError
    assert (error.variable, error.component) == ("b", (1,))
    assert "use an implicit method: SciPy(" in error.cause


@pytest.mark.parametrize("solver", IMPLICIT, ids=repr)
def test_implicit_methods_solve_it(solver):
    system = two("-a", "-lam*(b - cos(t))", lam=tensor([1.0, 1e9]))
    run = ct.solve(system, {"a": 1.0, "b": 1.0}, [0.0, 1.0], solver=solver)
    assert abs(run["b"][-1, 1].item() - math.cos(1.0)) < 1e-6


@pytest.mark.parametrize("solver", [*ADAPTIVE[:3], *IMPLICIT], ids=repr)
def test_a_failure_names_its_sample(solver):
    y0 = {"x": tensor([[-1.0], [1.0], [0.2]])}
    system = ct.System(ct.TextNeuron("dx/dt = x**2 : 1"))
    with pytest.raises(BlowUpError) as caught:
        ct.solve(system, y0, [0.0, 0.5, 2.0], solver=solver)
    assert caught.value.component == (1, 0)
    kept = caught.value.partial
    assert kept.lengths[1] == 2
    assert abs(float(kept["x"][1, 1]) - 2.0) < 1e-4
    assert ct.validate(kept.to_xarray()) == []


def test_a_field_that_is_not_finite_at_the_start():
    system = ct.System(ct.TextNeuron("dx/dt = 1/x : 1"))
    with pytest.raises(NonFiniteError, match=r"in 'x' at index \[0\] at t=0.*division by zero"):
        ct.solve(system, {"x": 0.0})


@pytest.mark.parametrize("solver", [*ADAPTIVE[:4], *IMPLICIT, *FIXED], ids=repr)
def test_interrupting_a_batch_keeps_what_was_reached(solver):
    system = MODELS["FitzHugh-Nagumo"]()
    times = np.linspace(0, 8, 33)
    reports = []

    def progress(fraction):
        reports.append(fraction)
        if fraction > 0.5:
            signal.raise_signal(signal.SIGINT)

    v = tensor([[0.1, 0.2], [2.0, -2.0]])
    run = ct.solve(system, {"v": v}, times, solver=solver, progress=progress)
    assert run.status == "interrupted"
    assert all(0 <= a <= b <= 1 for a, b in itertools.pairwise(reports))
    assert 0 < int(run.lengths.min()) < 33
    assert len(run.t) == int(run.lengths.max()) == len(run["v"])
    whole = ct.solve(system, {"v": v}, times, solver=solver)
    for k in range(2):
        n = int(run.lengths[k])
        assert float((run["v"][:n, k] - whole["v"][:n, k]).abs().max()) < 1e-5
        assert not torch.isfinite(run["v"][n:, k]).any()
    assert ct.validate(run.to_xarray()) == []


def test_progress_reaches_the_end():
    for t in ([0.0, 2.0], [2.0, 0.0]):
        reports = []
        ct.solve(decay(), {"x": 1.0}, t, progress=reports.append)
        assert reports[-1] == 1.0
        assert sorted(reports) == reports
    assert ct.solve(decay(), {"x": 1.0}, progress=True).status == "complete"


REFUSED = {
    "unknown option of RK4 'rtol'; accepted: dt, low_rank, max_steps, native, tape": {
        "solver": ct.RK4(dt=0.1), "rtol": 1e-3,
    },
    r"unknown option of Tsit5 'rtoll' \(did you mean 'rtol'\?\)": {"rtoll": 1e-3},
    "got the class RK4": {"solver": ct.RK4},
    "solver must be .* got 'rk4'": {"solver": "rk4"},
    "events takes Event objects; got function": {"events": lambda t, _y: t},
    "impulses takes Impulse objects; got int": {"impulses": [3]},
    r"no variable 'X' \(did you mean 'x'\?\); variables: x": {"y0": {"X": 1.0}},
    "unknown source 'u'": {"inputs": {"u": 1.0}},
    "initial state 'x' must be numbers; got None": {"y0": {"x": None}},
    "y0 must map names": {"y0": tensor([1.0])},
    "t must be numbers; got 'abc'": {"t": "abc"},
    "t must be finite": {"t": [0.0, math.inf]},
    "at least one time": {"t": []},
    "must have shape": {"y0": {"x": torch.zeros(2, dtype=F64)}},
    "RK4.* no|TorchDiffEq has no events": {
        "solver": ct.TorchDiffEq(), "events": ct.Event(lambda t, _y: t),
    },
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises((ValueError, TypeError), match=words):
        ct.solve(decay(), **REFUSED[words])


def test_batches_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match=r"batch axes do not agree: s_h: \(2,\), s_y: \(3,\)"):
        ct.solve(hebbian(torch.float32), {"s_h": torch.zeros(2, 2), "s_y": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match="signal of source 'x' must have 3 channels; got 2"):
        ct.solve(hebbian(), inputs={"x": torch.zeros(2)})


# The same again


def learned():
    parameters = {
        "a": ct.Parameter(0.7, lower=0.0, upper=1.0),
        "tau": ct.Parameter(tensor([12.5, 9.0]), lower=1.0),
    }
    system = ct.System(ct.fitzhugh_nagumo("n", 2, I=0.5, **parameters)).learn("tau")
    with torch.no_grad():
        for parameter in system.parameters():
            if parameter.requires_grad:
                parameter += 0.123  # as after a step of learning
    return system


AGAIN = {
    "Hebbian": hebbian,
    "float32": lambda: hebbian(torch.float32),
    "learned": learned,
    "from arrays": lambda: ct.System(
        ct.Source("x", 2, np.array([1.0, 0.5])),
        ct.leaky_integrator("y"),
        ct.Synapse("x", "y", np.array([[0.1, 0.2]]), plasticity=ct.hebb(0.1), bounds=(0.0, 0.2)),
    ),
    "sigprop": lambda: ct.sigprop_network([3, 4, 2]).float(),
}


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
@pytest.mark.parametrize("label", ["Tsit5", "RK4", "torchdiffeq dopri5", "SciPy LSODA"])
@pytest.mark.parametrize("name", AGAIN)
def test_a_stored_run_is_repeated_bit_for_bit(tmp_path, name, label, suffix):
    system, solver = AGAIN[name](), SOLVERS[label][0]
    if system.dtype == torch.float32 and label != "RK4":
        solver = solver.with_options(rtol=1e-4, atol=1e-5)
    inputs = {}
    if name == "sigprop":
        draw = torch.Generator().manual_seed(0)
        inputs = {k: torch.rand(5, n, generator=draw) for k, n in (("x", 3), ("c", 2))}
    options = {} if label.startswith("SciPy") else {"differentiable": None}
    if label.startswith("SciPy"):
        options = {"differentiable": False}
    run = ct.solve(system, t=TIMES, solver=solver, inputs=inputs, **options)
    path = ct.save(run.to_xarray(), tmp_path / f"run.{suffix}")
    again = ct.rerun(ct.open(path))
    assert again.solver == solver
    assert again.t.tolist() == run.t.tolist()
    for key, values in run.states.items():
        assert again[key].dtype == values.dtype
        assert torch.equal(again[key], values), key


@pytest.mark.parametrize("learned", [True, False])
def test_a_run_is_repeated_on_the_path_that_it_took(learned):
    """Without gradients Euler's steps are taken in buffers: the same but for rounding."""
    draw = torch.Generator().manual_seed(0)
    w, x = (torch.rand(*shape, generator=draw, dtype=F64) for shape in ((30, 40), (5, 40)))
    y = ct.rate("y", 30, tau=1.3)
    system = ct.System(ct.Source("x", 40, x), y, ct.Synapse("x", "y", w))
    start = {"s_y": torch.zeros(5, 30, dtype=F64, requires_grad=learned)}
    run = ct.solve(system, start, [0.0, 6.0, 8.0], solver=ct.Euler(dt=0.3, native=False))
    assert run.differentiable == learned
    assert bool(run.statistics.hoisted) != learned
    again = ct.rerun(run.to_xarray())
    for key, values in run.states.items():
        assert torch.equal(again[key], values), key
        assert not again[key].requires_grad


def test_a_run_of_a_system_that_has_changed_since_says_so():
    system = decay().learn("a")
    run = ct.solve(system, {"x": 1.0})
    before = run.to_xarray()
    with torch.no_grad():
        next(system.parameters()).add_(0.1)  # the next step of learning
    with pytest.raises(ValueError, match=r"parameters: changed since; call to_xarray\(\) before"):
        ct.rerun(run.to_xarray())
    assert torch.equal(ct.rerun(before)["x"], run["x"])
    assert not torch.equal(ct.rerun(run.to_xarray(), system)["x"], run["x"])


@pytest.mark.parametrize("native", [None, False])
@pytest.mark.parametrize("label", ["Tsit5", "RK4"])
def test_an_interrupted_run_is_repeated_to_its_end(label, native):
    system, times = MODELS["Wilson-Cowan"](), np.linspace(0, 4, 17)

    def progress(fraction):
        if fraction > 0.5:
            raise KeyboardInterrupt

    start = {"E": tensor([[0.1], [0.3]])}
    solver = SOLVERS[label][0].with_options(native=native)
    part = ct.solve(system, start, times, solver=solver, progress=progress)
    whole = ct.rerun(part.to_xarray())
    assert (part.status, whole.status, len(whole.t)) == ("interrupted", "complete", 17)
    lengths = part.lengths.expand(2).tolist()
    assert 16 < sum(lengths) < 26
    last = 16 if native is False else 17  # by the kernel one sample ends before the next begins
    for k, n in enumerate(lengths):
        assert 0 < n <= last
        assert torch.equal(whole["E"][:n, k], part["E"][:n, k])


def test_final_is_the_last_state_of_each_sample():
    x = tensor([[[1.0], [3.0]], [[0.2], [0.6]]])
    event = falls_to(0.5, terminal=True)
    run = ct.solve(decay(), {"x": x}, [0.0, 0.5, 1.0, 2.0], events=event)
    assert run.lengths.tolist() == [2, 3, 4, 1]
    reached = tensor([[0.5, 1.0], [2.0, 0.0]])
    exact = x * torch.exp(-reached).unsqueeze(-1)
    torch.testing.assert_close(run.final["x"], exact, rtol=1e-5, atol=0)


def test_runs_with_functions_say_that_they_cannot_be_repeated():
    event = falls_to(0.5)
    tree = ct.solve(decay(), {"x": 1.0}, events=event).to_xarray()
    with pytest.raises(ValueError, match="events: functions cannot be described as data"):
        ct.rerun(tree)
    field = ct.System(ct.VectorField(lambda _t, y: -y, 1))
    run = ct.solve(field, {"y": 1.0})
    with pytest.raises(ValueError, match=r"system: .*function"):
        ct.rerun(run.to_xarray())
    assert torch.equal(ct.rerun(run.to_xarray(), system=field)["y"], run["y"])


@pytest.mark.parametrize(
    "solver",
    [
        ct.RK4(dt=0.03),
        ct.Euler(dt=0.03),
        ct.ExponentialEuler(dt=0.03),
        ct.TorchDiffEq("rk4", dt=0.03),
    ],
    ids=repr,
)
def test_half_and_half_is_one_run(tmp_path, solver):
    system, times = hebbian(), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    whole = ct.solve(system, t=times, solver=solver)
    first = ct.solve(system, t=times[:3], solver=solver)
    path = ct.save(first.to_xarray(), tmp_path / "half.zarr")
    stored = ct.open(path)
    state = {
        name: torch.tensor(stored[group][name].values[-1])
        for group in ("simulation", "weights")
        for name in stored[group].data_vars
    }
    second = ct.solve(system, state, times[2:], solver=solver)
    for name in whole.states:
        assert torch.equal(second[name], whole[name][2:]), name
