"""The steady state against integration, roots, finite differences and autograd through sweeps."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctsigprop as ct
from ctsigprop.analyses.stability import fixed_points
from ctsigprop.errors import ConvergenceError
from ctsigprop.solvers import adjoint
from ctsigprop.solvers.adjoint import gmres

F64 = torch.float64
TIGHT = ct.Steady(tol=1e-14, max_sweeps=5000)


def network(rho="tanh", form="loop", strength=2.0, sizes=(4, 6, 5, 3), **options):
    return ct.sigprop_network(sizes, rho=rho, form=form, strength=strength, **options)


def numbers(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def inputs(batch=(5,), **changed):
    return {"x": numbers(*batch, 4), "c": numbers(*batch, 3, seed=1), **changed}


@pytest.mark.parametrize("t", [0.0, 2000.0])
@pytest.mark.parametrize("form", ["loop", "label"])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)], ids=str)
def test_it_is_where_integration_ends(batch, form, t):
    system = network(form=form, strength=0.6, rule="differential", eta=0.0, onset=1000.0)
    rest = ct.steady_state(system, inputs=inputs(batch), t=t)
    run = ct.solve(system, t=[t, t + 400.0], solver=ct.Euler(dt=0.5), inputs=inputs(batch))
    for name, value in rest.states.items():
        assert value.shape == run[name][-1].shape
        torch.testing.assert_close(value, run[name][-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_the_residual_is_the_derivative_there(dtype):
    system = network().to(dtype)
    held = {name: value.to(dtype) for name, value in inputs().items()}
    rest = ct.steady_state(system, inputs=held)
    slopes = system(
        torch.tensor(0.0), rest.states, inputs={k: ct.Constant(v) for k, v in held.items()}
    )
    largest = max(float(slopes[n].abs().max()) for n in ("s_h1", "s_h2", "s_y"))
    assert rest.residual == pytest.approx(largest, rel=1e-4, abs=1e-6 if dtype != F64 else 1e-15)
    assert rest.residual < (1e-9 if dtype == F64 else 1e-4)
    assert rest["s_y"].dtype == dtype


def test_fixed_points_finds_it_too():
    W = torch.tensor([[0.0, -2.0], [1.5, 0.0]], dtype=F64)
    system = ct.System(
        ct.Source("u", 2, torch.tensor([0.3, -0.2], dtype=F64)),
        ct.rate("m", 2, rho="tanh", tau=3.0),
        ct.Input("u", "m"),
        ct.Synapse("m", "m", W),
    )
    found = fixed_points(system, {"s_m[0]": (-2, 2), "s_m[1]": (-2, 2)})
    rest = ct.steady_state(system)
    torch.testing.assert_close(
        rest["s_m"], torch.as_tensor(found["s_m"].values[0]), rtol=0, atol=1e-9
    )


def test_it_comes_as_labelled_data_with_its_certificate():
    rest = ct.steady_state(network(), inputs=inputs())
    tree = rest.to_xarray()
    assert tree["s_h1"].dims == ("sample", "h1")
    assert tree["W_h1_x"].dims == ("h1", "x")
    assert tree["residual"].item() == rest.residual
    assert tree["residual"].attrs["units"] == "1/(1)"
    assert tree["sweeps"].item() == rest.sweeps
    assert tree.attrs["time"] == 0.0
    with pytest.raises(KeyError, match="unknown variable 's_z'"):
        rest["s_z"]


def weights_of(system):
    return {n: v for n, v in system.initial_state().items() if n[0] == "W"}


@pytest.mark.parametrize("t", [0.0, 10.0], ids=["free", "nudged"])
@pytest.mark.parametrize("form", ["loop", "label"])
@pytest.mark.parametrize("rho", ["tanh", "logistic", "softplus"])
def test_gradients_are_finite_differences(rho, form, t):
    system = network(rho, form, strength=0.6, sizes=(2, 3, 2))
    weights = weights_of(system)
    c, x = (numbers(2, 2, seed=k).requires_grad_() for k in (0, 1))

    def ends(x, c, *values):
        start = dict(zip(weights, values, strict=True))
        rest = ct.steady_state(system, start, inputs={"x": x, "c": c}, t=t, method=TIGHT)
        return rest["s_y"], rest["s_h1"]

    leaves = [value.clone().requires_grad_() for value in weights.values()]
    assert torch.autograd.gradcheck(ends, (x, c, *leaves), atol=1e-6)


def hopfield(seed, size=5, gain=0.15):
    generator = torch.Generator().manual_seed(seed)
    W = gain * torch.randn(size, size, generator=generator, dtype=F64)
    cell = ct.hopfield("m", size, beta=ct.Parameter(1.5, lower=0.0), bias=0.1)
    system = ct.System(
        ct.Source("u", size), cell, ct.Synapse("m", "m", W, name="W"), ct.Input("u", "m")
    )
    return system.learn("m.beta", "m.bias", "W.weight")


def unrolled(system, u, sweeps=1000):
    """Return the steady state by as many steps u <- I(u), with a tape."""
    neuron, synapse = system.neurons[0], system.currents[0]
    state = torch.zeros_like(u)
    for _ in range(sweeps):
        new = torch.tanh(neuron.beta * state) @ synapse.weight.T + u + neuron.bias
        state = 0.5 * (state + new)
    return state


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_gradients_are_those_of_a_tape(seed):
    system = hopfield(seed)
    u = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=F64)
    u.requires_grad_()
    leaves = [u, *(p for p in system.parameters() if p.requires_grad)]
    rest = ct.steady_state(system, inputs={"u": u}, method=TIGHT)
    far = unrolled(system, u)
    torch.testing.assert_close(rest["u_m"], far, rtol=0, atol=1e-9)
    one = torch.autograd.grad(rest["u_m"].square().sum(), leaves)
    other = torch.autograd.grad(far.square().sum(), leaves)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_gradients_go_on_through_what_parameters_were_made_of():
    system, base = network(), torch.tensor(0.7, dtype=F64, requires_grad=True)
    x = inputs()["x"]
    value = ct.steady_state(system, inputs=inputs(x=base.square() * x))["s_y"].sum()
    value.backward()
    h = 1e-6
    ends = [
        float(
            ct.steady_state(system, inputs=inputs(x=(0.7 + d) ** 2 * x), method=TIGHT)["s_y"].sum()
        )
        for d in (h, -h)
    ]
    assert float(base.grad) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)


def keep(kept, value):
    kept.append(value)
    return value


def test_no_tape_of_the_sweeps_is_kept():
    counts = []
    for tol in (1e-2, 1e-13):
        kept = []
        system = network(strength=3.0)
        x = inputs()["x"].requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(partial(keep, kept), lambda v: v):
            rest = ct.steady_state(
                system, inputs=inputs(x=x), method=ct.Steady(tol=tol, max_sweeps=1000)
            )
        counts.append((len(kept), rest.sweeps))
    assert counts[0][0] == counts[1][0] <= 2
    assert counts[1][1] > counts[0][1]


def test_nothing_is_differentiated_unasked():
    assert not ct.steady_state(network(), inputs=inputs())["s_y"].requires_grad
    x = inputs()["x"].requires_grad_()
    with torch.no_grad():
        assert not ct.steady_state(network(), inputs=inputs(x=x))["s_y"].requires_grad
    assert not ct.steady_state(network(), inputs=inputs(x=x), differentiable=False)[
        "s_y"
    ].requires_grad
    with pytest.raises(ValueError, match="differentiable=True, but nothing"):
        ct.steady_state(network(), inputs=inputs(), differentiable=True)


def test_a_tensor_that_a_function_hides_is_refused():
    hidden = torch.tensor(2.0, dtype=F64, requires_grad=True)
    system = ct.System(ct.VectorField(lambda _t, y: 1.0 - hidden * y, size=2))
    with pytest.raises(ValueError, match="a function of the system depends"):
        ct.steady_state(system)
    rest = ct.steady_state(system, differentiable=False)
    torch.testing.assert_close(rest["y"], torch.full((2,), 0.5, dtype=F64))


def test_a_second_derivative_and_a_changed_parameter_are_errors():
    x = inputs()["x"].requires_grad_()
    value = ct.steady_state(network(), inputs=inputs(x=x))["s_y"].sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(value, x, create_graph=True)
    system = hopfield(0)
    value = ct.steady_state(system, inputs={"u": numbers(2, 5)})["u_m"].sum()
    with torch.no_grad():
        system.currents[0].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("w", [1.0, 1.0 - 1e-14])
def test_where_the_jacobian_is_singular_there_is_no_gradient(w):
    system = ct.System(
        ct.Source("u", 1), ct.rate("m", 1, rho="tanh"), ct.Input("u", "m"),
        ct.Synapse("m", "m", torch.tensor([[w]], dtype=F64)),
    )  # fmt: skip
    u = torch.zeros(2, 1, dtype=F64, requires_grad=True)
    rest = ct.steady_state(system, inputs={"u": u})
    with pytest.raises(ConvergenceError, match="Jacobian there is singular"):
        rest["s_m"].sum().backward()


@pytest.mark.parametrize("n", [1, 5, 80])
def test_gmres_solves_each_row_and_says_what_it_cannot(n, monkeypatch):
    generator = torch.Generator().manual_seed(n)
    A = (
        torch.eye(n, dtype=F64)
        + 0.4 * torch.randn(3, n, n, generator=generator, dtype=F64) / n**0.5
    )
    v = torch.randn(3, n, generator=generator, dtype=F64)
    v[1] = 0.0

    def product(x):
        return (A @ x.unsqueeze(-1)).squeeze(-1)

    x, left = gmres(product, v)
    assert left is None
    torch.testing.assert_close(x, torch.linalg.solve(A, v), rtol=1e-7, atol=1e-8)
    A[2, :, 0] = 0.0  # singular, and v is not in its range
    x, left = gmres(product, v)
    assert left is not None
    if n == 80:
        A[2, :, 0] = 1.0
        monkeypatch.setattr(adjoint, "RESTARTS", 1)
        monkeypatch.setattr(adjoint, "DEPTH", 3)
        assert gmres(product, v)[1] is not None


def test_refusals():
    for options, error, match in (
        ({"system": "x"}, TypeError, "system must be a System; got str"),
        ({"system": ct.System(ct.fitzhugh_nagumo())}, ValueError, "it has v, w; fixed_points"),
        (
            {"system": network(), "inputs": {"x": numbers(4)}},
            ValueError,
            "source 'c' has no signal",
        ),
        (
            {"system": network(), "inputs": inputs(), "method": ct.Euler(dt=1.0)},
            TypeError,
            "method",
        ),
        (
            {"system": network(), "inputs": inputs(), "y0": {"s": 1.0}},
            ValueError,
            "no variable 's'",
        ),
    ):
        with pytest.raises(error, match=match):
            ct.steady_state(**options)
    with pytest.raises(ConvergenceError, match="a sweep still changes it"):
        ct.steady_state(network(strength=40.0), inputs=inputs(), method=ct.Steady(1e-12, 3))
