"""Synapses, inputs and the learning signal: shapes, Dale's law, masks, bounds, delays, filters."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

import ctsigprop as ct
from ctsigprop.errors import IntegrationError

f64 = torch.float64


def driven(synapse: ct.Synapse, n_pre: int = 3, n_post: int = 2, **source) -> ct.System:  # type: ignore[no-untyped-def]
    signal = source.get("signal", torch.ones(n_pre, dtype=f64))
    return ct.System(ct.Source("x", n_pre, signal), ct.leaky_integrator("y", n_post), synapse)


def test_current_is_w_x_for_every_batch() -> None:
    w = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]], dtype=f64)
    x = torch.randn(4, 5, 3, dtype=f64)
    system = driven(ct.Synapse("x", "y", w), signal=x)
    field = system(torch.tensor(0.0), system.initial_state((4, 5)))["s_y"]
    torch.testing.assert_close(field, torch.einsum("ij,abj->abi", w, x))


def test_dims_are_post_and_pre_and_never_the_same_twice() -> None:
    own = ct.System(ct.leaky_integrator("y", 3), ct.Synapse("y", "y", 0.1, plasticity=ct.hebb(0.1)))
    assert own.variables["W_y_y"].dims == {"y": 3, "y_pre": 3}
    between = driven(ct.Synapse("x", "y", 0.1, plasticity=ct.hebb(0.1)))
    assert between.variables["W_y_x"].dims == {"y": 2, "x": 3}


def test_the_weight_has_the_unit_that_its_current_needs() -> None:
    text = "dv/dt = (E - v + R*I)/tau : mV\nE : mV\nR : Mohm\nI : nA"
    cell = ct.TextNeuron(text, "y", tau=ct.Parameter(20.0, "ms"), E=-70.0, R=10.0)
    system = ct.System(
        ct.Source("x", 1, 1.0, unit="Hz"), cell, ct.Synapse("x", "y", 0.1, plasticity=ct.hebb(0.1))
    )
    unit = system.variables["W_y_x"].unit
    from ctsigprop.units import parse_unit

    assert parse_unit(unit).dimension == parse_unit("nA/Hz").dimension


@pytest.mark.parametrize("solver", [ct.Euler(dt=0.01), ct.Tsit5(), ct.SciPy("LSODA")])
def test_dales_law_holds_over_ten_thousand_steps(solver: ct.Tsit5) -> None:
    sign = torch.tensor([1, -1, 1])
    start = torch.tensor([[0.5, -0.4, 0.1], [0.2, -0.1, 0.7]], dtype=f64)
    x = ct.Noise(3, scale=1.0, dt=0.5, duration=100.0, seed=3)
    push = ct.TextPlasticity("dw/dt = eta*x*y - decay*w", eta=0.5, decay=0.2)

    def network(**options) -> ct.System:  # type: ignore[no-untyped-def]
        synapse = ct.Synapse("x", "y", start, plasticity=push, **options)
        return ct.System(ct.Source("x", 3, x), ct.rate("y", 2, rho="tanh"), synapse)

    system = network(sign=sign)
    if isinstance(solver, ct.SciPy):
        run = ct.solve(system, t=torch.linspace(0, 20, 201), solver=solver)
    else:
        run = ct.solve(system, t=torch.linspace(0, 100, 1001), solver=solver)
    w = run["W_y_x"]
    assert bool((w * sign >= 0).all())
    unconstrained = ct.solve(network(), t=torch.linspace(0, 20, 201))["W_y_x"]
    assert not bool((unconstrained * sign >= 0).all()), "the test must be able to fail"
    if isinstance(solver, ct.Euler):
        assert run.statistics.steps >= 10_000


@pytest.mark.parametrize(
    ("seed", "kept"),
    [(s, {"sign": torch.tensor([1, -1, 1])}) for s in range(3, 8)] + [(6, {"bounds": (-0.3, 0.3)})],
    ids=str,
)
def test_a_corrector_crosses_onto_a_bound(seed: int, kept: dict[str, Any]) -> None:
    """LSODA's found no step across the jump of the derivative, and stood still before it."""
    x = ct.Noise(3, scale=1.0, dt=0.5, duration=20.0, seed=seed)
    push = ct.TextPlasticity("dw/dt = eta*x*y - decay*w", eta=0.5, decay=0.2)
    start = torch.tensor([[0.25, -0.2, 0.1], [0.2, -0.1, 0.28]], dtype=f64)
    synapse = ct.Synapse("x", "y", start, plasticity=push, **kept)
    system = ct.System(ct.Source("x", 3, x), ct.rate("y", 2, rho="tanh"), synapse)
    times = torch.linspace(0, 20, 201)
    run = ct.solve(system, t=times, solver=ct.SciPy("LSODA", max_steps=3000))
    exact = ct.solve(system, t=times, rtol=1e-9)["W_y_x"]
    assert bool(((exact == 0) if "sign" in kept else (exact.abs() == 0.3)).any())
    torch.testing.assert_close(run["W_y_x"], exact, rtol=0, atol=1e-5)


def test_a_weight_stopped_at_zero_comes_back() -> None:
    x = ct.Held([0.0, 5.0], torch.tensor([[1.0], [1.0]], dtype=f64))
    turn = ct.Held([0.0, 5.0], torch.tensor([-1.0, 1.0]))
    rule = ct.TextPlasticity("dw/dt = m*x", modulator=turn)
    system = driven(ct.Synapse("x", "y", 0.5, plasticity=rule, sign=1), 1, 1, signal=x)
    w = ct.solve(system, t=[0.0, 2.0, 5.0, 6.0])["W_y_x"].flatten()
    torch.testing.assert_close(w, torch.tensor([0.5, 0.0, 0.0, 1.0], dtype=f64), atol=1e-3, rtol=0)


def test_masked_connections_stay_away() -> None:
    mask = torch.tensor([[1, 0, 1], [0, 1, 1]])
    system = driven(ct.Synapse("x", "y", 0.3, plasticity=ct.hebb(0.2), mask=mask))
    w = ct.solve(system, t=[0.0, 1.0, 3.0])["W_y_x"]
    assert bool((w[:, mask == 0] == 0).all())
    assert bool((w[-1][mask == 1] > 0.3).all())
    fixed = driven(ct.Synapse("x", "y", 0.3, mask=mask))
    field = fixed(torch.tensor(0.0), fixed.initial_state())["s_y"]
    torch.testing.assert_close(field, torch.tensor([0.6, 0.6], dtype=f64))


def test_bounds_hold_what_hebb_would_run_away_with() -> None:
    system = driven(ct.Synapse("x", "y", 0.3, plasticity=ct.hebb(1.0), bounds=(0.0, 0.8)))
    w = ct.solve(system, t=torch.linspace(0, 20, 41))["W_y_x"]
    assert float(w.max()) <= 0.8
    assert float(w[-1].min()) == pytest.approx(0.8, abs=1e-9)


def test_a_gamma_chain_is_a_gamma_filter() -> None:
    # response to a step through k stages of rate k/tau: regularised incomplete gamma function
    order, tau = 3, 2.0
    step = ct.Held([0.0], torch.ones(1, 1, dtype=f64))
    system = driven(ct.Synapse("x", "y", 1.0, filter=(order, tau)), 1, 1, signal=step)
    t = torch.linspace(0, 6, 7, dtype=f64)
    z = ct.solve(system, t=t, rtol=1e-10, atol=1e-12)["z_W_y_x"][:, -1, 0]
    together = ct.solve(system, {"s_y": torch.zeros(2, 1, dtype=f64)}, t, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(together["z_W_y_x"][:, 1, -1, 0], z)
    exact = torch.special.gammainc(torch.tensor(float(order), dtype=f64), order / tau * t)
    torch.testing.assert_close(z, exact, rtol=1e-8, atol=1e-10)


def linear_delay(t: torch.Tensor) -> torch.Tensor:
    """Solve s' = -s(t - 1), s = 1 before 0, by the method of steps, up to t = 3."""
    first = 1 - t
    second = first + (t - 1) ** 2 / 2
    third = second - (t - 2) ** 3 / 6
    return torch.where(t <= 1, first, torch.where(t <= 2, second, third))


def delayed() -> ct.System:
    own = ct.TextNeuron("ds/dt = I : 1\nI : 1", "y")
    return ct.System(own, ct.Synapse("y", "y", -1.0, delay=1.0))


@pytest.mark.parametrize(("solver", "order"), [(ct.Euler, 1), (ct.Heun, 2), (ct.RK4, 3)])
def test_a_delayed_synapse_follows_the_method_of_steps(solver: type, order: int) -> None:
    t = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0], dtype=f64)
    errors = []
    for dt in (0.1, 0.05, 0.025):
        s = ct.solve(delayed(), {"s_y": 1.0}, t, solver=solver(dt=dt))["s_y"][:, 0]
        errors.append(float((s - linear_delay(t)).abs().max()))
    if solver is ct.RK4:  # the solution is piecewise cubic: the method is exact
        assert max(errors) < 1e-12
    else:
        slopes = [math.log2(a / b) for a, b in pairwise(errors)]
        assert min(slopes) > order - 0.15


def test_a_delay_asks_for_fixed_steps_and_is_seen_in_the_past() -> None:
    with pytest.raises(ValueError, match="longest delay is 1"):
        ct.solve(delayed(), {"s_y": 1.0}, [0.0, 1.0])
    before = ct.solve(
        delayed(), {"s_y": 0.0}, [0.0, 1.0], solver=ct.RK4(dt=0.05),
        past=lambda t: {"s_y": (t + 1).reshape(1)},
    )  # fmt: skip
    assert float(before["s_y"][-1]) == pytest.approx(-0.5, abs=1e-9)


def test_a_delayed_source_jumps_later() -> None:
    step = ct.Pulse(1.0)
    system = ct.System(
        ct.Source("x", 1, step), ct.leaky_integrator("y"), ct.Synapse("x", "y", 1.0, delay=0.73)
    )
    s = ct.solve(system, t=[0.0, 1.73, 3.0], solver=ct.RK4(dt=0.1))["s_y"][:, 0]
    assert float(s[1]) == 0.0
    assert float(s[2]) == pytest.approx(1 - math.exp(-(3 - 1.73)), abs=1e-6)


def test_the_learning_signal_is_one_more_forward_current() -> None:
    S = torch.tensor([[1.0, 0.5], [0.0, -1.0], [2.0, 0.0]], dtype=f64)
    c = torch.tensor([1.0, 0.0], dtype=f64)
    rate = ct.rate("h", 3, rho="tanh")
    with_signal = ct.System(
        ct.Source("c", 2, c), rate, ct.LearningSignal("c", "h", S, gate=ct.Pulse(1.0))
    )
    alone = ct.System(ct.rate("h", 3, rho="tanh"))
    s0 = {"s_h": torch.tensor([0.3, -0.2, 0.9], dtype=f64)}
    on, off = (with_signal(torch.tensor(x), s0)["s_h"] for x in (2.0, 0.5))
    torch.testing.assert_close(off, alone(torch.tensor(0.5), s0)["s_h"], rtol=0, atol=1e-12)
    torch.testing.assert_close(on, -s0["s_h"] + torch.tanh(S @ c))


def test_a_nudge_is_what_the_context_lacks() -> None:
    c = torch.tensor([1.0, 0.0], dtype=f64)
    system = ct.System(
        ct.Source("c", 2, c),
        ct.leaky_integrator("y", 2),
        ct.LearningSignal("c", "y", gate=0.5, error=True),
    )
    y = torch.tensor([0.4, 0.3], dtype=f64)
    field = system(torch.tensor(0.0), {"s_y": y})["s_y"]
    torch.testing.assert_close(field, -y + 0.5 * (c - y))


def test_inputs_take_gains_of_their_own() -> None:
    system = ct.System(
        ct.Source("u", 1, 2.0),
        ct.leaky_integrator("y", 2),
        ct.Input("u", "y", gain=torch.tensor([1.0, -3.0], dtype=f64)),
    )
    field = system(torch.tensor(0.0), system.initial_state())["s_y"]
    assert field.tolist() == [2.0, -6.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bounds": (1.0, 0.0)}, "1.0 > 0.0"),
        ({"delay": -1.0}, "delay must be >= 0"),
        ({"filter": (0, 1.0)}, "filter takes"),
        ({"sign": 2}, r"sign must be \+1 or -1"),
        ({"sign": -1}, "outside their signs or bounds"),
        ({"mask": torch.ones(2, 2)}, "mask must have shape"),
        ({"port": "J"}, "unknown port 'J'"),
        ({"weight": torch.ones(3, 2)}, r"shape \(post, pre\) = \(2, 3\)"),
        ({"weight": float("nan")}, "finite"),
        ({"pre": "z"}, "unknown population 'z'"),
        ({"post": "z"}, "unknown postsynaptic population 'z'"),
    ],
)
def test_refusals(options: dict, words: str) -> None:
    given = {"pre": "x", "post": "y", "weight": 0.5, "plasticity": ct.hebb(0.1)} | options
    with pytest.raises(ValueError, match=words):
        driven(ct.Synapse(given.pop("pre"), given.pop("post"), given.pop("weight"), **given))


def test_hebb_alone_runs_away_and_says_so() -> None:
    system = driven(ct.Synapse("x", "y", 0.5, plasticity=ct.hebb(50.0)), 1, 1)
    with pytest.raises(IntegrationError) as caught:
        ct.solve(system, t=[0.0, 200.0])
    assert caught.value.partial is not None
    assert caught.value.variable in ("s_y", "W_y_x")
