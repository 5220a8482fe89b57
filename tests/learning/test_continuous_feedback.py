from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.models.layers import ACTIVATIONS
from ctsigprop.models.networks import SLOPES
from ctsigprop.terms import State

SIZES = [6, 8, 7, 3]
ONSET = 8.4
BOTH = pytest.mark.parametrize("direct", [True, False], ids=["direct", "layer by layer"])


def network(**options: Any) -> ct.System:
    return ct.feedback_network(SIZES, **{"seed": 3, **options})


def batch(size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size, SIZES[0], generator=generator), torch.arange(size) % SIZES[-1]


def signals() -> dict[str, ct.Signal]:
    x, labels = batch()
    c = nn.functional.one_hot(labels, SIZES[-1])
    return {"x": ct.Constant(x.double()), "c": ct.Constant(c.double())}


def rested(system: ct.System, end: float) -> tuple[State, State]:
    """Every variable after a long while, and its derivative."""
    zeros = {v.name: torch.zeros(5, *v.shape).double() for n in system.neurons for v in n.variables}
    run = ct.solve(
        system, zeros, [0.0, end], solver=ct.Tsit5(rtol=1e-10, atol=1e-13), inputs=signals()
    )
    return run.final, system(torch.tensor(end).double(), run.final, inputs=signals())


@BOTH
@pytest.mark.parametrize("rho", SLOPES)
def test_at_rest_it_is_the_discrete_rule(direct: bool, rho: str) -> None:
    """dW/dt = ΔW/tau_w, from another implementation that has the same W and B."""
    system = network(direct=direct, rho=rho, tau_w=1e9)
    state, slope = rested(system, 60.0)
    layers = ct.Layers.dense(SIZES, rho=rho).double()
    with torch.no_grad():
        for name, value in layers.weights.items():
            source = state[name] if name[0] == "W" else state[f"W_{name[2:]}_one"][:, 0]
            value.copy_(source)
    kind = ct.DirectFeedbackAlignment if direct else ct.FeedbackAlignment
    rule = kind(layers, partial(torch.optim.SGD, lr=1.0), loss="squared_error")
    for current in system.currents:
        if current.name[:2] == "B_":
            own = current.name if direct else "B_{2}_{1}".format(*current.name.split("_"))
            getattr(rule, own).copy_(current.weight if direct else current.weight.T)
    before = {name: value.clone() for name, value in rule.weights.items()}
    x, labels = batch()
    rule.present(x.double(), labels)
    for name, value in rule.weights.items():
        full = name if name[0] == "W" else f"W_{name[2:]}_one"
        found = slope[full] * 1e9
        want = (value - before[name]).reshape(found.shape)
        assert float((found - want).norm()) < 1e-6 * float(want.norm()), name


@BOTH
def test_until_the_target_comes_nothing_errs(direct: bool) -> None:
    state, slope = rested(network(direct=direct), ONSET - 0.1)
    for name, value in slope.items():
        if name[:4] == "s_e_":
            assert not state[name].any()
        if name[:4] == "s_e_" or name[:2] == "W_":
            assert not value.any()


def test_errors_are_filtered_and_weights_decay() -> None:
    system = network(tau=0.7, tau_e=2.0, tau_w=[50.0, 40.0, 30.0], tau_d=500.0)
    generator = torch.Generator().manual_seed(5)
    state = {
        name: torch.randn(*(() if v.shared else (5,)), *v.shape, generator=generator).double()
        for name, v in system.variables.items()
    }
    found = system(torch.tensor(9.0).double(), state, inputs=signals())
    s, inputs = {k: v.numpy() for k, v in state.items()}, signals()
    x, c = inputs["x"].value.numpy(), inputs["c"].value.numpy()
    back = next(k for k in system.currents if k.name == "B_h1_y").weight.numpy()
    e_y = (c - s["s_y"] - s["s_e_y"]) / 2
    e_h1 = (-s["s_e_h1"] + (1 - s["s_h1"] ** 2) * (s["s_e_y"] @ back.T)) / 2
    h1 = (-s["s_h1"] + np.tanh(x @ s["W_h1_x"].T + s["W_h1_one"].T)) / 0.7
    w = s["s_e_h1"].T @ x / 5 / 50 - s["W_h1_x"] / 500
    for name, want in {"s_e_y": e_y, "s_e_h1": e_h1, "s_h1": h1, "W_h1_x": w}.items():
        np.testing.assert_allclose(found[name], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rho", SLOPES)
def test_slopes_are_those_of_the_nonlinearities(rho: str) -> None:
    u = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    h = ACTIVATIONS[rho]()(u)
    want = torch.autograd.grad(h.sum(), u)[0]
    names = {"h": h.detach().numpy(), "exp": np.exp}
    np.testing.assert_allclose(eval(SLOPES[rho], names) * np.ones(9), want, rtol=0, atol=1e-12)


@BOTH
def test_a_presentation_answers_then_learns(direct: bool) -> None:
    x, labels = batch()
    learner = ct.ContinuousFeedbackAlignment(network(direct=direct), duration=9.0, delay=3.0)
    w = {name: value.clone() for name, value in learner.weights.items()}
    h1 = torch.tanh(x @ w["W_h1_x"].T + w["W_h1_one"].T)
    h2 = torch.tanh(h1 @ w["W_h2_h1"].T + w["W_h2_one"].T)
    output = h2 @ w["W_y_h2"].T + w["W_y_one"].T
    torch.testing.assert_close(learner.present(x, labels), output, rtol=0, atol=1e-6)
    zeros = {k: torch.zeros_like(v).double() for k, v in learner._zeros(x).items()}
    run = ct.solve(
        network(direct=direct), zeros, [ONSET - 3, ONSET + 6], solver=ct.Euler(0.6),
        inputs=signals(),
    )  # fmt: skip
    for name, value in learner.weights.items():
        assert value.any()
        torch.testing.assert_close(value.double(), run.final[name], rtol=0, atol=1e-6)
    assert not torch.equal(learner.respond(x), output)
    kept = learner.snapshot()
    learner.present(x, labels)
    after = learner.weights
    learner.restore(kept)
    learner.present(x, labels)
    assert all(torch.equal(value, after[name]) for name, value in learner.weights.items())
    learner.scale_rates(0.0)
    learner.present(x, labels)
    assert all(torch.equal(value, after[name]) for name, value in learner.weights.items())


@BOTH
def test_hidden_layers_learn_digits(direct: bool) -> None:
    accuracies = {}
    for learning in ("all", "output"):
        system = ct.feedback_network(
            [64, 40, 20, 10], direct=direct, tau_w=[20.0, 20.0, 50.0], learning=learning
        )
        learner = ct.ContinuousFeedbackAlignment(system)
        accuracies[learning] = ct.train(learner, digits(), epochs=2).test_accuracy[-1]
    assert accuracies["all"] > 0.8
    assert accuracies["all"] > accuracies["output"] + 0.05


def test_plasticity_that_is_fast_against_the_errors_is_unstable() -> None:
    """One output that learns one bias: stable while 1/tau_w < 1/tau + 1/tau_e."""
    for tau_w, grows in ((0.6, False), (0.4, True)):
        system = ct.feedback_network([1, 1, 1], tau_w=tau_w, onset=1.0, learning="output")
        inputs = {"x": torch.zeros(1), "c": torch.ones(1)}
        run = ct.solve(system, t=[0.0, 41.0, 81.0], inputs=inputs)
        early, late = (abs(1 - float(run["s_y"][k])) for k in (1, 2))
        assert (late > early) is grows


def test_settings_tell_learners_apart() -> None:
    def settings(**options: Any) -> dict[str, Any]:
        return ct.ContinuousFeedbackAlignment(network(**options)).settings

    prints = [settings(), settings(direct=False), settings(gain=0.5), settings(tau_e=2.0)]
    assert len({p["network"] for p in prints}) == 4
    assert settings() == prints[0]
    assert (prints[0]["duration"], prints[0]["delay"], prints[0]["onset"]) == (12.0, 0.0, ONSET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [6, 3]}, r"an input, a hidden layer and an output, each >= 1; got \[6, 3\]"),
        ({"rho": "relu"}, "unknown nonlinearity 'relu'"),
        ({"learning": "al"}, r"unknown learning 'al' \(did you mean 'all'\?\)"),
        ({"gain": 0.0}, "gain must be > 0; got 0.0"),
        ({"onset": math.inf}, "onset must be > 0; got inf"),
        ({"tau_w": [1.0, 2.0]}, r"one time > 0 for each of 3 layers; got \[1.0, 2.0\]"),
        ({"tau_w": -1.0}, "one time > 0"),
        ({"tau_d": 0.0}, "tau_d must be > 0; got 0.0"),
        ({"tau_e": 0.0}, "tau_e must be > 0"),
    ],
)
def test_feedback_network_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ct.feedback_network(**{"sizes": SIZES, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "net"}, TypeError, "network must be a System; got str"),
        ({"network": ct.sigprop_network(SIZES)}, ValueError, "must be one of feedback_network"),
        ({"solver": ct.Steady()}, TypeError, "solver must be a solver; got Steady"),
        ({"delay": 12.0}, ValueError, "between 0 and the duration, 12.0; got 12.0"),
        ({"delay": -1.0}, ValueError, "got -1.0"),
        ({"weights": {"W_h1_y": torch.zeros(1)}}, ValueError, "did you mean 'W_h1_"),
    ],
)
def test_the_learner_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ct.ContinuousFeedbackAlignment(**{"network": network(), **options})
