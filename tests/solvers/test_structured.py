"""Weights stepped by their factors: the numbers of the dense path, for systems of every kind."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctsigprop as ct
from ctsigprop.solvers.explicit import structured
from ctsigprop.solvers.native import paths

F64 = torch.float64
RULES = {
    "hebb": lambda: ct.hebb(0.02),
    "hebb with decay": lambda: [ct.hebb(0.05), ct.TextPlasticity("dw/dt = -k*w", k=0.1)],
    "oja": lambda: ct.oja(0.1),
    "decay alone": lambda: ct.TextPlasticity("dw/dt = -w"),
    "column decay": lambda: ct.TextPlasticity("dw/dt = eta*(x*y - x**2*w)", eta=0.1),
    "two products": lambda: ct.TextPlasticity(
        "dw/dt = eta*(x*y - y**2*w) + mu*y*(1 - x)", eta=0.1, mu=0.02
    ),
    "bcm": lambda: ct.bcm(0.05, tau_theta=5.0),
    "differential": lambda: ct.differential_hebb(0.05),
    "three factors": lambda: ct.TextPlasticity(
        "dw/dt = eta*m*x*y - k*w", eta=0.05, k=0.1, modulator=ct.Pulse(2.0, 4.0)
    ),
}
SOLVERS = [
    ct.Tsit5(rtol=1e-6),
    ct.Dopri5(rtol=1e-9, atol=1e-11),
    ct.BogackiShampine(rtol=1e-4),
    ct.RK4(dt=0.1),
    ct.Heun(dt=0.05),
    ct.Euler(dt=0.05),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Take the path for weights of any size."""
    monkeypatch.setattr(structured, "SMALLEST", 1)
    monkeypatch.setattr(paths, "PATHS", ())  # and the path over torch


def network(rule, pre=60, post=50, seed=0, batch=0, dtype=F64, signal=ct.Held):
    generator = torch.Generator().manual_seed(seed)
    w = 0.5 * torch.randn(post, pre, generator=generator, dtype=F64) / pre**0.5
    shown = [
        torch.rand(*([batch] * (batch > 0)), pre, generator=generator, dtype=F64) for _ in "ab"
    ]
    shown = signal([0.0, 3.0], torch.stack(shown))
    synapse = ct.Synapse("x", "y", w, plasticity=rule, shared=batch > 0)
    lateral = ct.Synapse("y", "y", 0.1 * torch.eye(post, dtype=F64), name="lateral")
    return ct.System(ct.Source("x", pre, shown), ct.rate("y", post), synapse, lateral).to(dtype)


def both(system, t, solver, **options):
    runs = [
        ct.solve(system, {}, t, solver=solver.with_options(low_rank=flag), **options)
        for flag in (False, True)
    ]
    dense, lazy = runs
    assert dense.statistics.low_rank == ()
    assert lazy.statistics.low_rank == ("W_y_x",)
    # rounding decides where an error is close to 1, and the steps may differ by a few
    assert abs(dense.statistics.steps - lazy.statistics.steps) <= 3
    return dense, lazy


@pytest.mark.parametrize(
    ("batch", "signal"),
    [(0, ct.Held), (2, ct.Held), (0, ct.Sampled)],
    ids=["held", "shared by a batch", "moving"],
)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", RULES)
def test_equal_to_the_dense_path(name, solver, batch, signal):
    system = network(RULES[name](), batch=batch, signal=signal)
    dense, lazy = both(system, [0.0, 0.7, 3.0, 3.1, 8.0], solver)  # the input jumps at 3
    for variable in system.variables:
        scale = dense[variable].abs().max()
        tolerance = 100 * getattr(solver, "rtol", 1e-13)
        assert (dense[variable] - lazy[variable]).abs().max() < tolerance * scale
    assert (dense["W_y_x"][-1] - dense["W_y_x"][0]).abs().max() > 1e-3  # it has learned


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(40, 70), st.integers(40, 70)),
    eta=st.floats(-0.2, 0.2),
    decay=st.floats(0.0, 0.5),
    side=st.sampled_from(["y**2", "x**2", "1"]),
    end=st.floats(0.5, 6.0),
    signal=st.sampled_from([ct.Held, ct.Sampled]),
)
def test_random_systems(seed, shape, eta, decay, side, end, signal):
    rule = ct.TextPlasticity(f"dw/dt = eta*x*y - decay*{side}*w", eta=eta, decay=decay)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structured, "SMALLEST", 1)
        system = network(rule, *shape, seed=seed, signal=signal)
        for solver, tolerance in ((ct.RK4(dt=0.1), 1e-11), (ct.Tsit5(rtol=1e-7), 1e-5)):
            # the steps of the second may differ: rounding decides where an error is close to 1
            runs = [
                ct.solve(system, {}, [0.0, end], solver=solver.with_options(low_rank=flag))
                for flag in (False, True)
            ]
            assert runs[1].statistics.low_rank == ("W_y_x",)
            for variable in system.variables:
                dense, lazy = (run[variable][-1] for run in runs)
                assert (dense - lazy).abs().max() < tolerance * dense.abs().max()


@pytest.mark.parametrize("solver", [ct.RK4(dt=0.1), ct.Tsit5(rtol=1e-9)], ids=lambda s: str(s)[:3])
def test_presentations_that_return(solver):
    generator = torch.Generator().manual_seed(3)
    patterns = torch.rand(5, 60, generator=generator, dtype=F64)
    order = torch.randint(5, (40,), generator=generator)
    shown = ct.Held(0.25 * torch.arange(40, dtype=F64), patterns[order])
    w = torch.randn(50, 60, generator=generator, dtype=F64) / 8
    synapse = ct.Synapse("x", "y", w, plasticity=ct.oja(0.1))
    system = ct.System(ct.Source("x", 60, shown), ct.rate("y", 50), synapse)
    dense, lazy = both(system, [0.0, 10.0], solver)
    torch.testing.assert_close(dense["W_y_x"], lazy["W_y_x"], rtol=1e-7, atol=1e-9)


def test_a_stage_that_is_rejected_leaves_nothing_behind():
    """A step that is too long meets an infinite presynaptic factor, and is repeated."""
    x = ct.Sampled([0.0, 1.0, 1.5, 9.0], torch.tensor([0.1, 0.1, 0.9, 0.5]).expand(60, 4).T)
    rule = ct.TextPlasticity("dw/dt = eta*y*log(z) - w\ndz/dt = -3*x*z : 1 (pre)", eta=0.1)
    system = ct.System(
        ct.Source("x", 60, x),
        ct.rate("y", 50),
        ct.Synapse("x", "y", torch.full((50, 60), 0.01, dtype=F64), plasticity=rule),
    )
    start = {"z_W_y_x": torch.ones(60, dtype=F64)}
    runs = [
        ct.solve(system, start, [0.0, 3.0], solver=ct.Tsit5(first_step=2.9, low_rank=flag))
        for flag in (False, True)
    ]
    assert all(run.statistics.rejections for run in runs)
    torch.testing.assert_close(runs[0]["W_y_x"], runs[1]["W_y_x"], rtol=1e-5, atol=1e-7)


def test_layers_learn_side_by_side():
    generator = torch.Generator().manual_seed(1)
    sizes = [50, 45, 40]
    weights = [
        torch.randn(b, a, generator=generator, dtype=F64) / a**0.5
        for a, b in itertools.pairwise(sizes)
    ]
    system = ct.System(
        ct.Source("x", 50, torch.rand(50, generator=generator, dtype=F64)),
        ct.rate("h", 45),
        ct.rate("y", 40),
        ct.Synapse("x", "h", weights[0], plasticity=ct.oja(0.1)),
        ct.Synapse("h", "y", weights[1], plasticity=RULES["two products"]()),
    )
    runs = [
        ct.solve(system, {}, [0.0, 5.0], solver=ct.Tsit5(rtol=1e-7, low_rank=flag))
        for flag in (False, True)
    ]
    assert runs[1].statistics.low_rank == ("W_h_x", "W_y_h")
    for name in system.variables:
        torch.testing.assert_close(runs[0][name], runs[1][name], rtol=1e-5, atol=1e-7)


def test_single_precision():
    system = network(ct.oja(0.1), dtype=torch.float32)
    t = [0.0, 5.0]
    runs = [
        ct.solve(system, {}, t, solver=ct.Tsit5(rtol=1e-4, atol=1e-6, low_rank=flag))
        for flag in (False, True)
    ]
    assert runs[1].statistics.low_rank == ("W_y_x",)
    assert runs[1]["W_y_x"].dtype == torch.float32
    torch.testing.assert_close(runs[0]["W_y_x"], runs[1]["W_y_x"], rtol=1e-2, atol=1e-3)


def test_against_an_exact_solution():
    """Hebb with decay on a held input: W(t) as `PL-COUPLED-HEBB-DECAY` has it."""
    n, eps, lam = 64, 0.05, 0.02
    x = torch.linspace(-1, 1, n, dtype=F64)
    w0 = torch.randn(n, n, generator=torch.Generator().manual_seed(2), dtype=F64) / n
    rule = ct.TextPlasticity("dw/dt = eps*x*y - lam*w", eps=eps, lam=lam)
    system = ct.System(
        ct.Source("x", n, x),
        ct.leaky_integrator("y", n),
        ct.Synapse("x", "y", w0, plasticity=rule),
    )
    run = ct.solve(system, {}, [0.0, 5.0], solver=ct.Tsit5(rtol=1e-11, atol=1e-13))
    assert run.statistics.low_rank == ("W_y_x",)
    square = float(x @ x)
    u0 = w0 @ x
    step = torch.linalg.matrix_exp(
        5.0 * torch.tensor([[-1.0, 1.0], [eps * square, -lam]], dtype=F64)
    )
    u = step[1, 1] * u0  # s(0) = 0
    parallel = torch.outer(u - math.exp(-lam * 5.0) * u0, x) / square
    torch.testing.assert_close(
        run["W_y_x"][-1], math.exp(-lam * 5.0) * w0 + parallel, rtol=1e-9, atol=1e-11
    )


DENSE = {
    "bounds": lambda: network_with(bounds=(-5.0, 5.0)),
    "sign": lambda: network_with(weight=torch.rand(50, 60, dtype=F64), sign=1),
    "mask": lambda: network_with(mask=torch.rand(50, 60) > 0.5),
    "an opaque rule": lambda: network(ct.Sanger(0.01)),
    "both decays": lambda: network(ct.TextPlasticity("dw/dt = x*y - (x**2 + y**2)*w")),
    "a decay of each unit": lambda: network(ct.TextPlasticity("dw/dt = x*y - m*w", modulator="y")),
    "a trace in every synapse": lambda: network(ct.eligibility(0.1, tau_e=5.0, modulator=one())),
}


def one():
    return ct.Constant(1.0)


def network_with(**options):
    weight = options.pop("weight", torch.zeros(50, 60, dtype=F64))
    synapse = ct.Synapse("x", "y", weight, plasticity=ct.hebb(0.01), **options)
    return ct.System(ct.Source("x", 60, torch.ones(60, dtype=F64)), ct.rate("y", 50), synapse)


@pytest.mark.parametrize("why", DENSE)
def test_what_has_no_factors_is_stepped_as_it_is(why):
    assert ct.solve(DENSE[why](), {}, [0.0, 0.5]).statistics.low_rank == ()


def test_what_asks_for_the_weights_inside_a_step_is_stepped_as_it_is():
    system = network(ct.oja(0.1))
    top = ct.Event(lambda _t, y: y["W_y_x"].amax() - 100.0, name="top")
    for options in ({"events": top}, {"dense": True}):
        run = ct.solve(system, {}, [0.0, 0.5], **options)
        assert run.statistics.low_rank == (), options
    start = torch.zeros(50, dtype=F64, requires_grad=True)
    assert ct.solve(system, {"s_y": start}, [0.0, 0.5]).statistics.low_rank == ()
    assert ct.solve(system, {}, [0.0, 0.5]).statistics.low_rank == ("W_y_x",)


def test_small_weights_are_stepped_as_they_are(monkeypatch):
    monkeypatch.setattr(structured, "SMALLEST", 3001)
    assert ct.solve(network(ct.oja(0.1)), {}, [0.0, 0.5]).statistics.low_rank == ()


def test_a_failure_names_the_weights():
    system = ct.System(  # runs away
        ct.Source("x", 60, torch.ones(60, dtype=F64)),
        ct.leaky_integrator("y", 50),
        ct.Synapse("x", "y", torch.full((50, 60), 0.01, dtype=F64), plasticity=ct.hebb(5.0)),
    )
    errors = []
    for flag in (False, True):
        with pytest.raises(ct.IntegrationError) as error:
            ct.solve(system, {}, [0.0, 500.0], solver=ct.Tsit5(rtol=1e-4, low_rank=flag))
        errors.append(error.value)
    assert all(error.variable in system.variables for error in errors)
    # also where squares of weights are beyond all numbers
    assert all(isinstance(error, ct.errors.BlowUpError) for error in errors)
    assert errors[1].time == pytest.approx(errors[0].time, rel=1e-3)
    assert errors[1].partial["W_y_x"].shape[1:] == (50, 60)
