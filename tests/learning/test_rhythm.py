"""The phase-free form of continuous sigprop: input and signal together, the signal on a rhythm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.learning.coupled import rate_of

SIZES = [6, 8, 7, 3]
ONSET, PERIOD = 8.4, 12.0
WEIGHTS = ["W_h1_x", "W_h1_one", "W_h2_h1", "W_h2_one", "W_y_h2", "W_y_one"]
STAGES = {"loop": {"h1": 2, "h2": 3, "y": 1}, "label": {"h1": 1, "h2": 2, "y": 1}}


def network(**options: Any) -> ct.System:
    return ct.sigprop_network(SIZES, **{"rho": "tanh", "rule": "rhythmic", "seed": 3, **options})


def batch(size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size, SIZES[0], generator=generator), torch.arange(size) % SIZES[-1]


def zeros() -> dict[str, Tensor]:
    sizes = zip(("h1", "h2", "y"), SIZES[1:], strict=True)
    return {f"s_{n}": torch.zeros(5, size).double() for n, size in sizes}


def change(learner: ct.ContinuousSigprop, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a presentation did, in units of the rate, with what the tags still hold."""
    found = {}
    for synapse in learner.synapses:
        name, rate = synapse.name, rate_of(synapse)
        tag = weights.get(f"e_{name}", torch.zeros(()))
        found[name] = (weights[name] - learner.weights[name]) / rate + tag
    return found


@pytest.mark.parametrize("form", ["loop", "label"])
@pytest.mark.parametrize("t", [3.0, 11.0, 20.0])
def test_the_field_is_that_of_the_docstring(form: Any, t: float) -> None:
    beta, tau, eta = 0.7, 1.3, [0.5, 0.3, 0.2]
    system = network(form=form, beta=beta, tau=tau, eta=eta)
    generator = torch.Generator().manual_seed(5)
    state = {
        name: torch.randn(*(() if v.shared else (5,)), *v.shape, generator=generator).double()
        for name, v in system.variables.items()
    }
    x, labels = batch()
    c = np.eye(SIZES[-1])[labels]
    inputs = {"x": ct.Constant(x.double()), "c": ct.Constant(torch.as_tensor(c))}
    found = system(torch.tensor(t).double(), state, inputs=inputs)
    s = {name: value.numpy() for name, value in state.items()}
    first = next(k for k in system.currents if k.name in ("B_h1_y", "S_h1_c")).weight.numpy()
    g = (1 + math.cos(2 * math.pi * t / PERIOD)) / 2 * (t >= ONSET)
    signal = s["s_y"] @ first.T if form == "loop" else g * c @ first.T
    u1 = x.double().numpy() @ s["W_h1_x"].T + s["W_h1_one"].T + signal
    u2 = s["s_h1"] @ s["W_h2_h1"].T + s["W_h2_one"].T
    u3 = s["s_h2"] @ s["W_y_h2"].T + s["W_y_one"].T
    slopes = {
        "h1": (np.tanh(u1) - s["s_h1"]) / tau,
        "h2": (np.tanh(u2) - s["s_h2"]) / tau,
        "y": (np.tanh(u3) - s["s_y"] + beta * g * (c - s["s_y"])) / tau,
    }
    for name, slope in slopes.items():
        np.testing.assert_allclose(found[f"s_{name}"], slope, rtol=0, atol=1e-12)
    pres = {"x": x.double().numpy(), "one": np.ones((5, 1)), "h1": s["s_h1"], "h2": s["s_h2"]}
    phi = math.atan(2 * math.pi / PERIOD * tau)
    for name in WEIGHTS:
        _, post, pre = name.split("_")
        n = STAGES[form][post]
        m = -2 / math.pi * math.sin(2 * math.pi * t / PERIOD - n * phi) / math.cos(phi) ** n
        tag = s[f"e_{name}"]
        hebb = (t >= 2 * ONSET) * m * slopes[post].T @ pres[pre] / 5
        np.testing.assert_allclose(found[f"e_{name}"], hebb - tag / PERIOD, rtol=0, atol=1e-12)
        rate = eta[["h1", "h2", "y"].index(post)] / beta
        np.testing.assert_allclose(found[name], rate * tag / PERIOD, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["loop", "label"])
def test_a_slow_rhythm_learns_what_the_delta_form_does(form: Any) -> None:
    """In direction and in size: the smaller ω tau, the nearer."""
    x, labels = batch()
    beta, eta, onset = 0.01, 1e-6, 40.0
    options: dict[str, Any] = {"form": form, "beta": beta, "onset": onset}
    options["strength"] = 0.3 if form == "loop" else beta  # S c, too, is to be weak
    inputs = {"x": x.double(), "c": torch.nn.functional.one_hot(labels, SIZES[-1]).double()}
    states = ct.solve(
        network(rule="tagged", eta=0.0, **options), zeros(), [0.0, onset, 2 * onset],
        solver=ct.Tsit5(rtol=1e-10, atol=1e-12), inputs=inputs,
    ).states  # fmt: skip
    free = {"s_x": x.double(), "s_one": torch.ones(5, 1).double()}
    free |= {name: value[1] for name, value in states.items()}
    delta = {}
    for name in WEIGHTS:
        _, post, pre = name.split("_")
        moved = states[f"s_{post}"][2] - free[f"s_{post}"]
        delta[name] = moved.T @ free[f"s_{pre}"] / 5
    gaps = []
    for period in (12.0, 30.0, 75.0):
        run = ct.solve(
            network(eta=eta * beta, period=period, **options), zeros(),
            [onset, 2 * onset + period], solver=ct.RK4(dt=1.0), inputs=inputs,
        )  # fmt: skip
        found = {n: (run[n][-1] - run[n][0]) / eta + run[f"e_{n}"][-1] for n in WEIGHTS}
        gaps.append(max(float((found[n] - d).norm() / d.norm()) for n, d in delta.items()))
    assert gaps[-1] < 0.03
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


def test_a_presentation_is_one_run_from_the_onset() -> None:
    x, labels = batch()
    learner = ct.ContinuousSigprop(network(eta=0.3))
    assert (learner.onset, learner.end, learner.rhythmic) == (ONSET, 2 * ONSET + PERIOD, True)
    c = torch.nn.functional.one_hot(labels, SIZES[-1]).double()
    inputs = {"x": x.double(), "c": c}
    run = ct.solve(
        network(eta=0.3), zeros(), [ONSET, learner.end], solver=ct.Euler(0.6), inputs=inputs
    )
    free = learner.respond(x)
    assert torch.equal(learner.present(x, labels), free)  # the labels are not in it
    for name in WEIGHTS:
        for full in (name, f"e_{name}"):
            got = learner.weights[full].double()
            torch.testing.assert_close(got, run.final[full], rtol=0, atol=1e-6)
        assert learner.weights[f"e_{name}"].any()
    again = ct.ContinuousSigprop(network(eta=0.3))
    again.present(x, labels.flip(0))
    assert not torch.equal(again.weights["W_h1_x"], learner.weights["W_h1_x"])


def test_what_the_input_stirs_up_teaches_nothing() -> None:
    """A target that the output has reached by itself leaves the weights where they are."""
    x, labels = batch()
    learner = ct.ContinuousSigprop(network(eta=0.01, onset=20.0))
    taught = change(learner, learner.integrated(x, labels, 20.0, learner.end))
    inputs = {"x": x, "c": learner.respond(x)}
    run = ct.solve(
        learner.network, {**learner._zeros(x), **learner.weights}, [20.0, learner.end],
        solver=learner.solver, inputs=inputs,
    )  # fmt: skip
    for name, left in change(learner, run.final).items():
        assert float(left.norm()) < 1e-3 * float(taught[name].norm())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: network(period=0.0), "period must be > 0; got 0.0"),
        (lambda: ct.ContinuousSigprop(network(), update="delta"), "needs update='integrated'"),
        (
            lambda: ct.ContinuousSigprop(network(), end=16.8),
            "end must be later than the onset, 16.8",
        ),
    ],
)
def test_refusals(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def error(system: ct.System, seed: int = 0, **options: Any) -> float:
    learner = ct.ContinuousSigprop(system)
    run = ct.train(learner, digits(seed=seed), noise=0.1, seed=seed, **options)
    return 1 - run.test_accuracy[-1]


def test_hidden_layers_learn_without_phases() -> None:
    sizes = [64, 30, 10]
    learned = error(ct.sigprop_network(sizes, rule="rhythmic", eta=0.5), epochs=2)
    frozen = error(ct.sigprop_network(sizes, eta=0.5, learning="output"), epochs=2)
    assert learned < 0.12
    assert learned < frozen - 0.06


@pytest.mark.slow
def test_it_is_within_one_point_of_the_two_interval_form() -> None:
    means = []
    for rule in ("rhythmic", "tagged"):
        found = [
            error(
                ct.sigprop_network([64, 100, 100, 10], rule=rule, eta=0.5, seed=seed),
                seed, epochs=10,
            )
            for seed in range(3)
        ]  # fmt: skip
        means.append(np.mean(found))
    assert means[0] < 0.05
    assert means[0] <= means[1] + 0.01
