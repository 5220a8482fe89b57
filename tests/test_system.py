"""Systems: terms put together, checked, and described as data."""

from __future__ import annotations

import copy

import pytest
import torch

import ctsigprop as ct
from ctsigprop.provenance import build, describe

f64 = torch.float64


def network() -> ct.System:
    return ct.System(
        ct.Source("x", 3),
        ct.rate("h", 4, rho="tanh", tau=2.0),
        ct.leaky_integrator("y", 2),
        ct.Synapse("x", "h", torch.full((4, 3), 0.1, dtype=f64), plasticity=ct.oja(0.1)),
        ct.Synapse("h", "y", torch.full((2, 4), 0.2, dtype=f64)),
        ct.Synapse("h", "h", 0.05, mask=~torch.eye(4, dtype=torch.bool)),
    )


def test_state_has_every_variable_with_its_dims() -> None:
    system = network()
    dims = {name: dict(v.dims) for name, v in system.variables.items()}
    assert dims == {"s_h": {"h": 4}, "s_y": {"y": 2}, "W_h_x": {"h": 4, "x": 3}}
    state = system.initial_state((5,))
    assert {k: tuple(v.shape) for k, v in state.items()} == {
        "s_h": (5, 4), "s_y": (5, 2), "W_h_x": (5, 4, 3),
    }  # fmt: skip


def test_derivative_is_the_sum_of_terms() -> None:
    system = network()
    x = torch.tensor([1.0, -2.0, 0.5], dtype=f64)
    state = system.initial_state() | {"s_h": torch.linspace(-1, 1, 4, dtype=f64)}
    field = system(torch.tensor(0.0), state, inputs={"x": ct.Constant(x)})
    recurrent = 0.05 * (torch.ones(4, 4, dtype=f64) - torch.eye(4, dtype=f64))
    drive = state["W_h_x"] @ x + recurrent @ state["s_h"]
    torch.testing.assert_close(field["s_h"], (-state["s_h"] + torch.tanh(drive)) / 2)
    torch.testing.assert_close(
        field["s_y"], -state["s_y"] + torch.full((2, 4), 0.2, dtype=f64) @ state["s_h"]
    )
    y = state["s_h"]
    oja = 0.1 * (torch.outer(y, x) - y[:, None] ** 2 * state["W_h_x"])
    torch.testing.assert_close(field["W_h_x"], oja)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (lambda: [], "at least one population"),
        (lambda: [ct.leaky_integrator("a"), ct.leaky_integrator("a")], "two populations"),
        (lambda: [ct.Source("x"), ct.leaky_integrator("a")], "nothing reads source 'x'"),
        (
            lambda: [
                ct.leaky_integrator("a"),
                ct.Synapse("a", "a", 1.0),
                ct.Synapse("a", "a", 1.0),
            ],
            "two currents are named 'W_a_a'",
        ),
        (lambda: [ct.leaky_integrator("a"), ct.Synapse("b", "a", 1.0)], "did you mean|'b'"),
        (
            lambda: [
                ct.TextNeuron("dv/dt = -v/tau : 1", "a", tau=ct.Parameter(1.0, "ms")),
                ct.leaky_integrator("b"),
            ],
            "different units of time",
        ),
        (
            lambda: [ct.Source("u", 3), ct.leaky_integrator("a", 2), ct.Input("u", "a")],
            "1 or 2 channels; got 3",
        ),
        (
            lambda: [
                ct.Source("c", 3),
                ct.leaky_integrator("a", 2),
                ct.LearningSignal("c", "a", torch.ones(2, 2)),
            ],
            r"weight of shape \(2, 3\)",
        ),
    ],
)
def test_refusals(terms, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        ct.System(*terms())


def test_what_is_no_term_is_refused() -> None:
    with pytest.raises(TypeError, match="neurons, sources and currents"):
        ct.System(ct.hebb(0.1))  # type: ignore[arg-type]


def test_learn_names_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="did you mean 'tau'"):
        network().learn("tua")
    system = network().learn("h.tau")
    assert [n for n, p in system.named_parameters() if p.requires_grad] == ["terms.1.tau"]


def test_parameters_have_no_gradient_until_asked() -> None:
    assert not any(p.requires_grad for p in network().parameters())


def test_a_copy_is_independent_and_equal() -> None:
    system = network()
    twin = copy.deepcopy(system)
    x = {"x": ct.Constant(torch.ones(3, dtype=f64))}
    state = system.initial_state()
    a, b = (s(torch.tensor(0.0), state, inputs=x) for s in (system, twin))
    assert all(torch.equal(a[k], b[k]) for k in a)
    twin.neurons[0].tau.fill_(7.0)
    assert system.neurons[0].tau.item() == 2.0


def test_description_builds_the_same_system() -> None:
    arrays: dict[str, torch.Tensor] = {}
    system = network()
    again = build(describe(system, arrays), arrays)
    x = {"x": ct.Constant(torch.ones(3, dtype=f64))}
    state = system.initial_state()
    a, b = (s(torch.tensor(0.0), state, inputs=x) for s in (system, again))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("path", ["os.system", "ctsigprop.store.save", "builtins.eval"])
def test_nothing_but_this_package_is_built_from_data(path: str) -> None:
    with pytest.raises(ValueError, match=path.replace(".", r"\.")):
        build({"type": path, "arguments": {"command": "true"}}, {})


def test_functions_are_not_described() -> None:
    with pytest.raises(TypeError, match="cannot be described"):
        describe(ct.VectorField(lambda _t, y: -y), {})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ct.Variable("a b"), "identifier"),
        (lambda: ct.Variable("v", {"v": 3}), "same name"),
        (lambda: ct.Variable("v", {"n": -1}), "size >= 0"),
        (lambda: ct.Variable("v", tau=0.0), "tau of 'v' must be > 0"),
        (lambda: ct.Variable("v", unit="furlong"), "unknown unit 'furlong' for v"),
    ],
)
def test_variables_refuse(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()
