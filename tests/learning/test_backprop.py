from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.learning.backprop import (
    LOSSES,
    Backpropagation,
    ContinuousBackpropagation,
    cost,
)

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
UNIT = partial(torch.optim.SGD, lr=1.0)


def dense(rho="tanh", output="identity", seed=1):
    return ct.Layers.dense([16, 8, 7, CLASSES], rho=rho, output=output, seed=seed).double()


def conv():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return ct.Layers(
            nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.Tanh()),
            nn.Sequential(nn.Conv2d(4, 5, 2), nn.Softplus(), nn.MaxPool2d(2, 1)),
            nn.Sequential(nn.Flatten(), nn.Linear(20, CLASSES)),
            inputs=16,
        ).double()


def plain():
    """Return a network whose first and second layers have nothing to learn."""
    return ct.Layers(
        nn.Unflatten(1, (4, 4)),
        nn.Flatten(),
        nn.Linear(16, CLASSES, dtype=torch.float64),
        inputs=16,
    )


def change(rule, x=X, labels=LABELS):
    before = {name: value.clone() for name, value in rule.weights.items()}
    rule.present(x, labels)
    return {name: before[name] - value for name, value in rule.weights.items()}


def gradient(network, loss="cross_entropy"):
    weights = network.weights
    value = cost(network(X), LABELS, loss)
    return dict(zip(weights, torch.autograd.grad(value, list(weights.values())), strict=True))


def same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("make", [dense, partial(dense, output="logistic"), conv, plain])
def test_the_update_is_the_gradient(make, loss):
    network = make()
    expected = gradient(network, loss)
    found = change(Backpropagation(network, UNIT, loss=loss))
    same(found, expected, rtol=1e-10, atol=1e-13)


def test_the_update_is_the_slope_by_finite_differences():
    network = dense()
    network.requires_grad_(False)
    slopes = {}
    for name, weight in network.weights.items():
        slopes[name] = torch.zeros_like(weight)
        for index in range(weight.numel()):
            flat, values = weight.view(-1), []
            for side in (1e-5, -1e-5):
                flat[index] += side
                values.append(cost(network(X), LABELS, "squared_error"))
                flat[index] -= side
            slopes[name].view(-1)[index] = (values[0] - values[1]) / 2e-5
    network.requires_grad_(True)
    found = change(Backpropagation(network, UNIT, loss="squared_error"))
    same(found, slopes, rtol=1e-6, atol=1e-9)


def test_costs_written_out():
    output = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    chances = output.exp() / output.exp().sum(1, keepdim=True)
    expected = -(chances[0, 1].log() + chances[1, 0].log()) / 2
    torch.testing.assert_close(cost(output, labels, "cross_entropy"), expected)
    squares = (1 + 1 + 1 + 1 + 0.25 + 9) / 4
    assert cost(output, labels, "squared_error").item() == pytest.approx(squares)
    targets = torch.eye(3, dtype=torch.float64)[labels]
    for loss in LOSSES:
        torch.testing.assert_close(cost(output, targets, loss), cost(output, labels, loss))


def test_layers_step_as_the_error_leaves_them():
    rule, steps = Backpropagation(dense()), []
    rule.step = lambda k, gradients: steps.append((k, len(gradients)))
    rule.present(X, LABELS)
    assert steps == [(2, 2), (1, 2), (0, 2)]


def test_an_observer_may_put_another_activity_in_the_place_of_one():
    network = dense()
    rule = Backpropagation(network, UNIT)
    rule.observer = lambda k, h: torch.zeros_like(h) if k == 1 else h
    found = change(rule)
    bias = network.weights["b_y"] + found["b_y"]
    torch.testing.assert_close(rule.learn(X, LABELS), network.weights["b_y"].expand(12, -1))
    expected = (torch.softmax(bias, 0) - torch.eye(3, dtype=torch.float64)[LABELS]).mean(0)
    torch.testing.assert_close(found["b_y"], expected)
    assert not found["W_h1_x"].any()
    assert not found["W_y_h2"].any()


@pytest.mark.parametrize(("make", "loss"), [(dense, "cross_entropy"), (conv, "squared_error")])
@pytest.mark.parametrize(
    "solver",
    [
        ct.Euler(dt=0.5),
        ct.RK4(dt=0.5),
        ct.Tsit5(rtol=1e-8, atol=1e-10),
        ct.TorchDiffEq(rtol=1e-8, atol=1e-10),
        ct.TorchDiffEq(rtol=1e-7, atol=1e-8, adjoint=True),
    ],
    ids=["euler", "rk4", "tsit5", "torchdiffeq", "adjoint"],
)
def test_through_a_long_relaxation_the_update_is_that_of_backpropagation(make, loss, solver):
    network = make()
    expected = gradient(network, loss)
    rule = ContinuousBackpropagation(network, UNIT, end=30.0, solver=solver, loss=loss)
    torch.testing.assert_close(rule.respond(X), network(X).detach(), rtol=0, atol=1e-6)
    same(change(rule), expected, rtol=0, atol=1e-6)


def test_the_adjoint_agrees_with_the_gradient_through_the_steps_long_before_rest():
    found = []
    for adjoint in (False, True):
        solver = ct.TorchDiffEq(rtol=1e-10, atol=1e-12, adjoint=adjoint)
        found.append(change(ContinuousBackpropagation(dense(), UNIT, end=1.5, solver=solver)))
    same(found[1], found[0], rtol=1e-6, atol=1e-9)
    settled = gradient(dense())
    assert (found[0]["W_h1_x"] - settled["W_h1_x"]).norm() > 0.2 * settled["W_h1_x"].norm()


def test_as_many_steps_of_tau_as_layers_are_one_pass():
    network = dense()
    expected = gradient(network)
    rule = ContinuousBackpropagation(network, UNIT, tau=2.0, end=6.0, solver=ct.Euler(dt=2.0))
    same(change(rule), expected, rtol=1e-12, atol=1e-14)


def test_the_gradient_before_rest_is_the_slope_of_what_the_rule_answers():
    network = dense()
    rule = ContinuousBackpropagation(network, UNIT, end=2.0, solver=ct.Heun(dt=0.25))
    weight, values = network.weights["W_h1_x"].data, []
    for side in (1e-5, -1e-5):
        weight[0, 3] += side
        values.append(cost(rule.respond(X), LABELS, "cross_entropy"))
        weight[0, 3] -= side
    slope = (values[0] - values[1]).item() / 2e-5
    assert change(rule)["W_h1_x"][0, 3].item() == pytest.approx(slope, rel=1e-6)


def test_an_observer_sees_and_changes_every_layer_on_the_way():
    rule, seen = ContinuousBackpropagation(dense(), UNIT, end=20.0), []

    def observer(k, h):
        seen.append((k, h.shape[-1]))
        return torch.zeros_like(h) if k == 1 else h

    rule.observer = observer
    output = rule.present(X, LABELS)
    torch.testing.assert_close(output, torch.zeros_like(output), rtol=0, atol=1e-6)
    assert set(seen) == {(0, 8), (1, 7), (2, CLASSES)}


def short(network, *args, **options):
    return ContinuousBackpropagation(network, *args, end=4.0, solver=ct.Euler(dt=1.0), **options)


@pytest.mark.parametrize("make", [Backpropagation, short])
def test_a_run_goes_on_from_a_snapshot_bit_for_bit(make):
    adam = partial(torch.optim.Adam, lr=1e-2)
    rule = make(dense(), adam)
    rule.present(X, LABELS)
    kept = rule.snapshot()
    rule.present(X, LABELS)
    other = make(dense(seed=5), adam)
    other.restore(kept)
    other.present(X, LABELS)
    assert all(torch.equal(w, other.weights[name]) for name, w in rule.weights.items())


@pytest.mark.parametrize(("make", "seeds", "above"), [(Backpropagation, 2, 0.95), (short, 1, 0.9)])
def test_digits_are_learned_and_better_than_by_the_output_alone(make, seeds, above):
    sgd, still = partial(torch.optim.SGD, lr=0.5), partial(torch.optim.SGD, lr=0.0)
    reached = [
        ct.train(
            make(ct.Layers.dense([64, 32, 32, 10], rho="tanh", seed=seed), optimizer),
            digits(),
            epochs=12 if make is Backpropagation else 4,
            batch=50,
            seed=seed,
        ).test_accuracy[-1]
        for optimizer in (sgd, [still, still, sgd])
        for seed in range(seeds)
    ]
    assert min(reached[:seeds]) > above
    assert min(reached[:seeds]) > max(reached[seeds:]) + 0.02


def test_settings_say_what_decides():
    settings = [
        Backpropagation(dense(), loss="squared_error").settings,
        ContinuousBackpropagation(dense(), tau=2.0, end=7.0).settings,
    ]
    assert settings[0]["loss"] == "squared_error"
    assert settings[1]["tau"] == 2.0
    assert settings[1]["end"] == 7.0
    assert settings[1]["solver"] == repr(ct.Euler(dt=1.0))


@pytest.mark.parametrize(
    ("rule", "options", "error", "message"),
    [
        (Backpropagation, {"loss": "squared"}, ValueError, "did you mean 'squared_error'"),
        (ContinuousBackpropagation, {"loss": "hinge"}, ValueError, "unknown loss 'hinge'"),
        (ContinuousBackpropagation, {"end": 0.0}, ValueError, "end must be positive"),
        (ContinuousBackpropagation, {"tau": float("inf")}, ValueError, "tau must be positive"),
        (ContinuousBackpropagation, {"solver": "rk4"}, TypeError, "solver must be a solver"),
        (ContinuousBackpropagation, {"solver": ct.SciPy()}, ValueError, "SciPy has no gradients"),
    ],
)
def test_bad_options_are_refused(rule, options, error, message):
    with pytest.raises(error, match=message):
        rule(dense(), **options)
