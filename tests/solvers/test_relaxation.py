from __future__ import annotations

import re

import pytest
import torch

import ctsigprop as ct
from ctsigprop.errors import ConvergenceError, NonFiniteError
from ctsigprop.signals import Constant
from ctsigprop.solvers.inplace import Unit
from ctsigprop.solvers.relaxation import Relaxation, Steady

F64 = torch.float64
X = torch.rand(5, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
C = torch.eye(3, dtype=F64)[[0, 1, 2, 0, 1]]


def network(rho="tanh", strength=0.3, form="loop", **options):
    return ct.sigprop_network([6, 8, 7, 3], rho=rho, strength=strength, form=form, **options)


def parts(system, t=0.0):
    weights = {n: v for n, v in system.initial_state().items() if n[:2] != "s_"}
    state = {n: torch.zeros(5, v.size, dtype=F64) for n, v in _neurons(system).items()}
    return Relaxation(system, weights, t, {"x": Constant(X), "c": Constant(C)}), state


def _neurons(system):
    return {neuron.variables[0].name: neuron for neuron in system.neurons}


@pytest.mark.parametrize("form", ["loop", "label"])
@pytest.mark.parametrize("rho", ["hard", "tanh", "softplus"])
def test_marching_is_eulers_method(rho, form):
    system = network(rho, form=form, rule="differential", eta=0.0)
    relaxation, state = parts(system)
    free = relaxation.march(state, 0.6, 8.4)
    relaxation.move(10.0)
    held = relaxation.march(free, 0.6, 6.0)
    run = ct.solve(
        system, state, [0.0, 8.4, 14.4], solver=ct.Euler(dt=0.6), inputs={"x": X, "c": C}
    )
    for name in state:
        for k, found in ((1, free), (2, held)):
            torch.testing.assert_close(found[name], run[name][k], rtol=0, atol=1e-13)


@pytest.mark.parametrize("t", [0.0, 10.0], ids=["free", "nudged"])
@pytest.mark.parametrize("form", ["loop", "label"])
def test_steady_states_are_where_integration_ends(form, t):
    relaxation, state = parts(network(form=form), t)
    rest = relaxation.settle(state, Steady(tol=1e-13)).state
    far = relaxation.march(state, 0.1, 80.0)
    for name in state:
        torch.testing.assert_close(rest[name], far[name], rtol=0, atol=1e-11)
    loose = relaxation.settle(state, Steady(tol=1e-3)).state
    assert max(float((loose[n] - rest[n]).abs().max()) for n in state) < 2e-3


def test_layers_rest_at_their_instantaneous_answer():
    layers = ct.Layers.dense([6, 8, 7, 3], rho="tanh", seed=1).double()
    relaxation = Relaxation(layers.system(tau=2.0), {}, 0.0, {"x": Constant(X)})
    state = {
        name: torch.zeros(5, n.size, dtype=F64) for name, n in _neurons(layers.system()).items()
    }
    rest = relaxation.settle(
        state, Steady(max_sweeps=1)
    ).state  # no loop: one sweep is all it takes
    for name, activity in zip(rest, layers.activities(X), strict=True):
        torch.testing.assert_close(rest[name], activity, rtol=0, atol=1e-14)


def test_only_what_hears_something_new_is_evaluated_again(monkeypatch):
    seen = []
    hear = Unit.hear
    monkeypatch.setattr(Unit, "hear", lambda u: seen.append(u.receiver.neuron.name) or hear(u))
    relaxation, state = parts(network())
    rest = relaxation.settle(state, Steady(tol=1e-6))
    # each sweep, and where the loop enters once more, for the certificate
    assert seen == [*["h1", "h2", "y"] * rest.sweeps, "h1"]
    seen.clear()
    relaxation, state = parts(network(strength=3.0))
    rest = relaxation.settle(state, Steady(tol=1e-6))
    # and before each sweep, once what it hears there is extrapolated
    assert re.fullmatch("(12y)+1(12y1)+", "".join(name[-1] for name in seen))
    assert seen.count("h2") == seen.count("y") == rest.sweeps


@pytest.mark.parametrize("form", ["loop", "label"])
@pytest.mark.parametrize("rho", ["hard", "softplus"])
def test_a_certificate_is_the_derivative_at_the_state(rho, form):
    relaxation, state = parts(network(rho, form=form), t=10.0)
    rest = relaxation.settle(state, Steady(tol=1e-7))
    measured = max(float(slope.abs().max()) for slope in relaxation.slopes(rest.state).values())
    assert measured == pytest.approx(rest.residual, rel=1e-6, abs=1e-14)
    assert rest.residual <= 2.0 * 1e-7  # a nudge of strength 1 doubles the leak


@pytest.mark.parametrize("strength", [0.3, 3.0, 10.0])
def test_strong_loops_settle_by_extrapolation(strength):
    relaxation, state = parts(network("tanh", strength=strength))
    rest = relaxation.settle(state, Steady(tol=1e-10, max_sweeps=1000)).state
    again = relaxation.sweep(rest)
    assert max(float((again[n] - rest[n]).abs().max()) for n in rest) < 1e-8


def test_a_loop_that_amplifies_is_an_error_and_never_a_number():
    relaxation, state = parts(network("tanh", strength=40.0))
    with pytest.raises(ConvergenceError, match=r"a sweep still changes it by .* after 3 sweeps"):
        relaxation.settle(state, Steady(tol=1e-9, max_sweeps=3))
    relaxation, state = parts(network("identity", strength=40.0))
    with pytest.raises(NonFiniteError, match=r"not finite in 's_\w+' at index"):
        relaxation.march(state, 0.6, 10000.0)


def test_what_does_not_relax_is_refused():
    for options, match in (
        ({"delay": 1.0}, "W_h_x has a delay or a filter"),
        ({"filter": (2, 1.0), "plasticity": ct.hebb(0.1)}, "W_h_x has a delay or a filter"),
    ):
        synapse = ct.Synapse("x", "h", torch.ones(2, 6), **options)
        system = ct.System(ct.Source("x", 6), ct.rate("h", 2), synapse)
        with pytest.raises(ValueError, match=match):
            Relaxation(system, {}, 0.0, {"x": Constant(X)})
    with pytest.raises(ValueError, match="must have one variable to relax; it has v, w"):
        Relaxation(ct.System(ct.fitzhugh_nagumo()), {}, 0.0, {})
    with pytest.raises(ValueError, match="tol"):
        Steady(tol=0.0)
    with pytest.raises(ValueError, match="max_steps"):
        Steady(max_sweeps=0)


@pytest.mark.parametrize("seed", range(6))
def test_units_that_come_to_their_bounds_and_leave_them_settle(seed):
    """Where an extrapolation may go round in circles, it begins anew."""
    system = ct.sigprop_network([30, 40, 40, 10], rho="hard", strength=2.0, form="loop", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(20, 30, dtype=F64, generator=generator)
    weights = {n: v for n, v in system.initial_state().items() if n[:2] != "s_"}
    start = {n: torch.zeros(20, v.size, dtype=F64) for n, v in _neurons(system).items()}
    inputs = {"x": Constant(x), "c": Constant(torch.eye(10, dtype=F64)[torch.arange(20) % 10])}
    relaxation = Relaxation(system, weights, 0.0, inputs)
    rest = relaxation.settle(start, Steady(tol=1e-9, max_sweeps=200))
    again = relaxation.sweep(rest.state)
    assert max(float((again[n] - rest.state[n]).abs().max()) for n in again) < 1e-9
