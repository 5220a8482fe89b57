"""Every shipped neuron, by one table: fields against hand-written ones, and the contract of all."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import ctsigprop as ct
from ctsigprop.errors import UnitError
from ctsigprop.models.catalogue import NEURONS
from ctsigprop.provenance import build, describe
from ctsigprop.terms import Moment

exp, tanh, cosh = np.exp, np.tanh, np.cosh


def hodgkin_huxley(v, m, h, n, I=0.0):  # noqa: E741
    V = v + 65
    am, bm = 0.1 * (25 - V) / (exp((25 - V) / 10) - 1), 4 * exp(-V / 18)
    ah, bh = 0.07 * exp(-V / 20), 1 / (exp((30 - V) / 10) + 1)
    an, bn = 0.01 * (10 - V) / (exp((10 - V) / 10) - 1), 0.125 * exp(-V / 80)
    ionic = 120 * m**3 * h * (v - 50) + 36 * n**4 * (v + 77) + 0.3 * (v + 54.387)
    return I - ionic, am * (1 - m) - bm * m, ah * (1 - h) - bh * h, an * (1 - n) - bn * n


def morris_lecar(v, w, I=0.0):  # noqa: E741
    m, w_inf = 0.5 * (1 + tanh((v + 1.2) / 18)), 0.5 * (1 + tanh((v - 2) / 30))
    current = I - 4.4 * m * (v - 120) - 8 * w * (v + 84) - 2 * (v + 60)
    return current / 20, 0.04 * (w_inf - w) * cosh((v - 2) / 60)


def wilson_cowan(E, I):  # noqa: E741
    def s(u, a, theta):
        return 1 / (1 + exp(-a * (u - theta))) - 1 / (1 + exp(a * theta))

    k_e, k_i = 1 - 1 / (1 + exp(1.3 * 4)), 1 - 1 / (1 + exp(2 * 3.7))
    return (
        -E + (k_e - E) * s(16 * E - 12 * I + 1.25, 1.3, 4),
        -I + (k_i - I) * s(15 * E - 3 * I, 2, 3.7),
    )


def stuart_landau(x, y, mu=1.0, omega=1.0, c=0.5):
    z = x + 1j * y
    dz = (mu + 1j * omega) * z - (1 + 1j * c) * abs(z) ** 2 * z
    return dz.real, dz.imag


# name -> (options, point, field written by hand)
BY_HAND = {
    "leaky-integrator": ({"tau": 2.0, "bias": 0.3}, [0.7], lambda s: ((-s + 0.3) / 2.0,)),
    "rate": (
        {"rho": "logistic", "tau": 0.5, "bias": -0.2},
        [0.7],
        lambda s: ((-s + 1 / (1 + exp(0.2))) / 0.5,),
    ),
    "hopfield": ({"bias": 0.4, "tau": 3.0}, [0.7], lambda u: ((-u + 0.4) / 3.0,)),
    "fitzhugh-nagumo": (
        {"I": 0.5},
        [-1.2, 0.4],
        lambda v, w: (v - v**3 / 3 - w + 0.5, (v + 0.7 - 0.8 * w) / 12.5),
    ),
    "morris-lecar": ({"I": 90.0}, [-20.0, 0.1], lambda v, w: morris_lecar(v, w, 90.0)),
    "hodgkin-huxley": (
        {"I": 10.0},
        [-51.3, 0.2, 0.4, 0.35],
        lambda v, m, h, n: hodgkin_huxley(v, m, h, n, 10.0),
    ),
    "wilson-cowan": ({}, [0.2, 0.1], wilson_cowan),
    "hindmarsh-rose": (
        {"I": 2.0},
        [0.3, -1.0, 0.5],
        lambda x, y, z: (
            y + 3 * x**2 - x**3 - z + 2.0,
            1 - 5 * x**2 - y,
            0.006 * (4 * (x + 1.6) - z),
        ),
    ),
    "stuart-landau": ({"c": 0.5}, [0.3, -0.8], stuart_landau),
    "theta": ({"I": 0.25}, [1.1], lambda a: (1 - np.cos(a) + (1 + np.cos(a)) * 0.25,)),
    "qif": ({"I": 0.25}, [1.1], lambda v: (v**2 + 0.25,)),
}


def test_every_shipped_neuron_is_in_the_table() -> None:
    assert set(BY_HAND) == set(NEURONS)


def state_at(neuron: ct.TextNeuron, point: list[float], batch: tuple[int, ...] = ()) -> dict:
    return {
        v.name: torch.full((*batch, *v.shape), x, dtype=torch.float64)
        for v, x in zip(neuron.variables, point, strict=True)
    }


@pytest.mark.parametrize("name", NEURONS)
def test_field_is_the_published_one(name: str) -> None:
    options, point, by_hand = BY_HAND[name]
    neuron = NEURONS[name](**options)
    field = ct.System(neuron)(torch.tensor(0.0), state_at(neuron, point))
    values = [float(field[v.name]) for v in neuron.variables]
    np.testing.assert_allclose(values, by_hand(*point), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NEURONS)
def test_contract_of_every_neuron(name: str) -> None:
    options, point, _ = BY_HAND[name]
    single = ct.System(NEURONS[name](**options))
    one = single(torch.tensor(0.0), state_at(single.neurons[0], point))
    neuron = NEURONS[name]("cell", 3, **options)
    system = ct.System(neuron)
    state = state_at(neuron, point, batch=(2, 4))
    field = system(torch.tensor(0.0), state)
    for v, w in zip(neuron.variables, single.neurons[0].variables, strict=True):
        assert v.name == f"{w.name}_cell"
        assert v.dims == {"cell": 3}
        assert field[v.name].shape == (2, 4, 3)
        torch.testing.assert_close(field[v.name], one[w.name].expand(2, 4, 3))
    half = copy.deepcopy(system).float()
    low = half(torch.tensor(0.0), {k: v.float() for k, v in state.items()})
    assert {v.dtype for v in low.values()} == {torch.float32}
    again = build(describe(system, arrays := {}), arrays)
    for name_, value in again(torch.tensor(0.0), state).items():
        assert torch.equal(value, field[name_])


@pytest.mark.parametrize("name", NEURONS)
def test_field_has_the_right_gradient_in_state_and_parameters(name: str) -> None:
    options, point, _ = BY_HAND[name]
    system = ct.System(NEURONS[name](**options))
    parameters = {k: p.detach().clone() for k, p in system.named_parameters()}
    names = [v.name for v in system.neurons[0].variables]

    def field(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state = dict(zip(names, tensors, strict=False))
        chosen = dict(zip(parameters, tensors[len(names) :], strict=True))
        done = torch.func.functional_call(system, chosen, (torch.tensor(0.0), state))
        return tuple(done[n] for n in names)

    inputs = [torch.tensor([x], dtype=torch.float64) for x in point] + list(parameters.values())
    assert torch.autograd.gradcheck(field, [x.requires_grad_() for x in inputs], atol=1e-6)


@pytest.mark.parametrize("name", NEURONS)
def test_activity_rate_is_the_derivative_of_activity_along_the_flow(name: str) -> None:
    options, point, _ = BY_HAND[name]
    neuron = NEURONS[name](**options)
    state = state_at(neuron, point)
    field = ct.System(neuron)(torch.tensor(0.0), state)
    h = 1e-6
    ahead = neuron.activity({k: v + h * field[k] for k, v in state.items()})
    behind = neuron.activity({k: v - h * field[k] for k, v in state.items()})
    rate = neuron.activity_rate(state, field)
    torch.testing.assert_close(rate, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NEURONS)
def test_linear_part_leaves_a_rest_without_its_first_power(name: str) -> None:
    options, point, _ = BY_HAND[name]
    neuron = NEURONS[name](**options)
    state = state_at(neuron, point)
    rates = neuron.linear(torch.tensor(0.0), state, {})
    assert set(rates) == {v.name for v in neuron.variables}
    assert all(bool(torch.isfinite(a).all()) for a in rates.values())
    if name == "hodgkin-huxley":  # conditionally linear: the rest does not depend on the variable
        system = ct.System(neuron)
        for v in ("v", "m", "h", "n"):
            moved = {**state, v: state[v] + (1.0 if v == "v" else 0.1)}
            rest0 = system(torch.tensor(0.0), state)[v] - rates[v] * state[v]
            if v != "v":  # the gates' rates depend on v, not on the gate
                rest1 = system(torch.tensor(0.0), moved)[v] - rates[v] * moved[v]
                torch.testing.assert_close(rest0, rest1)


def test_currents_enter_every_port() -> None:
    for name, builder in NEURONS.items():
        neuron = builder("cell", 2)
        state = state_at(neuron, BY_HAND[name][1])
        without = neuron(torch.tensor(0.0), state, {})
        for port in neuron.ports:
            driven = neuron(torch.tensor(0.0), state, {port: torch.tensor([0.3, -0.1])})
            assert any(not torch.equal(driven[k], without[k]) for k in driven), (name, port)


def test_heterogeneous_parameters_act_unit_by_unit() -> None:
    taus = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    system = ct.System(ct.leaky_integrator(size=3, tau=taus))
    run = ct.solve(system, {"s": 1.0}, [0.0, 2.0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(run["s"][-1], torch.exp(-2.0 / taus), rtol=1e-8, atol=0)


def test_units_of_parameters_are_converted_to_those_of_the_text() -> None:
    text = "dv/dt = (E - v + R*I)/tau : mV\nE : mV\nR : Mohm\nI : nA"
    ms = ct.TextNeuron(text, tau=ct.Parameter(20.0, "ms"), E=-70.0, R=10.0, I=1.0)
    s = ct.TextNeuron(
        text,
        tau=ct.Parameter(0.02, "s"),
        E=ct.Parameter(-0.07, "volt"),
        R=ct.Parameter(0.01, "Gohm"),
        I=ct.Parameter(1000.0, "pA"),
    )
    values = [ct.solve(ct.System(n), {"v": -65.0}, [0.0, 30.0])["v"][-1] for n in (ms, s)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
    exact = -60 + (-65 + 60) * np.exp(-30 / 20)
    assert float(values[0]) == pytest.approx(exact, rel=1e-7)
    assert ct.System(ms).time_unit == "ms"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ct.leaky_integrator(tau=-20.0), ValueError, "tau must be > 0, got -20"),
        (lambda: ct.leaky_integrator(tau=0.0), ValueError, "tau must be > 0, got 0"),
        (
            lambda: ct.TextNeuron("dv/dt = -v/tau_m : 1", tau_m=ct.Parameter(-20.0, "ms")),
            ValueError,
            "tau_m must be > 0, got -20 ms",
        ),
        (lambda: ct.TextNeuron("dv/dt = -v/tau : 1", tua=2.0), ValueError, "tau"),
        (lambda: ct.TextNeuron("dv/dt = -v : 1", x=2.0), ValueError, "no parameter 'x'"),
        (lambda: ct.TextNeuron("dv/dt = -v : mw"), UnitError, "did you mean 'mV'"),
        (
            lambda: ct.TextNeuron("dv/dt = (v - I)/tau : mV\nI : pA", tau=ct.Parameter(1.0, "ms")),
            UnitError,
            "dv/dt",
        ),
        (lambda: ct.TextNeuron("dv/dt = -v : 1", initial={"u": 1.0}), ValueError, "'u'"),
        (lambda: ct.fitzhugh_nagumo("a b"), ValueError, "identifier"),
        (lambda: ct.fitzhugh_nagumo(size=-1), ValueError, "size"),
        (lambda: ct.fitzhugh_nagumo(size=3, a=torch.ones(2)), ValueError, "each of the 3 units"),
        (lambda: ct.fitzhugh_nagumo(a=float("nan")), ValueError, "finite"),
        (lambda: ct.rate(rho="rellu"), ValueError, "did you mean 'relu'"),
        (lambda: ct.Parameter(1.0, lower=2.0, upper=1.0), ValueError, "lower=2.0"),
        (lambda: ct.leaky_integrator(bias=ct.Parameter(3.0, upper=2.0)), ValueError, "bias"),
    ],
)
def test_refusals(make, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("value", [0.3, 2.0, 7.9])
@pytest.mark.parametrize(("lower", "upper"), [(0.0, None), (None, 8.0), (0.0, 8.0)])
def test_bounded_parameters_keep_their_value_and_their_bounds(value, lower, upper) -> None:  # type: ignore[no-untyped-def]
    cell = ct.leaky_integrator(tau=ct.Parameter(value, lower=lower, upper=upper))
    cell.learn("tau")
    assert float(cell.tau.detach()) == pytest.approx(value, rel=1e-12)
    raw = cell.parametrizations["tau"].original
    for far in (-40.0, 40.0):
        with torch.no_grad():
            raw.fill_(far)
        assert lower is None or float(cell.tau.detach()) >= lower
        assert upper is None or float(cell.tau.detach()) <= upper
    with torch.no_grad():
        raw.fill_(0.3)
    ct.solve(ct.System(cell), {"s": 1.0}, [0.0, 1.0])["s"][-1].sum().backward()
    assert raw.grad is not None
    assert float(raw.grad.abs()) > 0


def test_a_learned_field_learns_a_rotation() -> None:
    field = ct.NeuralField(2, hidden=(24,), seed=0).learn()
    system = ct.System(field)
    angle = torch.linspace(0, 2 * torch.pi, 9, dtype=torch.float64)[:-1]
    start = torch.stack([angle.cos(), angle.sin()], dim=-1)
    turned = torch.stack([(angle + 0.5).cos(), (angle + 0.5).sin()], dim=-1)
    optimiser = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        end = ct.solve(system, {"s": start}, [0.0, 0.5], solver=ct.RK4(dt=0.25))["s"][-1]
        loss = (end - turned).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


def test_size_zero_population_works() -> None:
    run = ct.solve(ct.System(ct.fitzhugh_nagumo(size=0)), t=[0.0, 1.0])
    assert run["v"].shape == (2, 0)


def test_the_moment_names_a_source_without_a_signal() -> None:
    system = ct.System(ct.Source("u", 2), ct.leaky_integrator("y", 2), ct.Input("u", "y"))
    moment = Moment(torch.tensor(0.0), system.initial_state(), system.populations, {})
    with pytest.raises(ValueError, match="source 'u' has no signal"):
        moment.activity("u")
