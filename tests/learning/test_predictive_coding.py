from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.errors import ConvergenceError, NonFiniteError
from ctsigprop.learning.backprop import LOSSES, Backpropagation, cost
from ctsigprop.learning.predictive_coding import PredictiveCoding

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
UNIT = partial(torch.optim.SGD, lr=1.0)
FUNCTIONS = {"tanh": torch.tanh, "softplus": nn.functional.softplus, "relu": torch.relu}


def dense(rho="tanh", output="identity", bias=True, seed=1):
    sizes = [16, 8, 7, CLASSES]
    network = ct.Layers.dense(sizes, rho=rho, output=output, bias=bias, seed=seed).double()
    for name, value in network.weights.items():
        if name[0] == "b":
            value.data += 0.1
    return network


def change(rule, x=X, labels=LABELS):
    before = {name: value.clone() for name, value in rule.weights.items()}
    rule.present(x, labels)
    return {name: before[name] - value for name, value in rule.weights.items()}


def gradient(network, loss="squared_error"):
    weights = network.weights
    value = cost(network(X), LABELS, loss)
    return dict(zip(weights, torch.autograd.grad(value, list(weights.values())), strict=True))


def same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


def furthest(found, expected):
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def energy(weights, rho, z, loss, beta):
    """Return F, summed over the batch, written out."""
    h, value = X, 0.0
    for k, potential in enumerate(z, 1):
        predicted = h @ weights[f"W_h{k}_{'x' if k == 1 else f'h{k - 1}'}"].T + weights[f"b_h{k}"]
        value = value + (potential - predicted).square().sum() / 2
        h = rho(potential)
    y = h @ weights["W_y_h2"].T + weights["b_y"]
    return value + beta * cost(y, LABELS, loss) * len(X)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rho", FUNCTIONS)
def test_the_update_is_the_slope_of_the_energy_where_its_descent_ends(rho, loss):
    function, steps, dt, beta = FUNCTIONS[rho], 9, 0.3, 0.7
    rule = PredictiveCoding(dense(rho), UNIT, loss=loss, beta=beta, steps=steps, dt=dt)
    weights = {name: w.clone().requires_grad_() for name, w in rule.weights.items()}
    z1 = X @ weights["W_h1_x"].T + weights["b_h1"]
    z = [z1.detach(), (function(z1) @ weights["W_h2_h1"].T + weights["b_h2"]).detach()]
    for _ in range(steps):
        leaves = [potential.clone().requires_grad_() for potential in z]
        slopes = torch.autograd.grad(energy(weights, function, leaves, loss, beta), leaves)
        z = [(a - dt * g).detach() for a, g in zip(leaves, slopes, strict=True)]
    value = energy(weights, function, z, loss, beta) / (beta * len(X))
    found = torch.autograd.grad(value, list(weights.values()))
    same(change(rule), dict(zip(weights, found, strict=True)), rtol=1e-10, atol=1e-13)
    assert furthest(gradient(dense(rho), loss), dict(zip(weights, found, strict=True))) > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("rho", "output"), [("tanh", "identity"), ("relu", "logistic")])
@pytest.mark.parametrize(
    "options",
    [
        {"inference": "zero_divergence"},
        {"inference": "zero_divergence", "beta": 0.3},
        {"inference": "fixed_prediction", "dt": 1.0, "steps": 2},
        {"inference": "fixed_prediction", "dt": 0.4, "steps": 120},
    ],
)
def test_in_two_settings_it_is_backpropagation(options, rho, output, loss):
    rule = PredictiveCoding(dense(rho, output), UNIT, loss=loss, **options)
    same(change(rule), gradient(dense(rho, output), loss), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dt", [1.0, 0.25])
def test_predictions_that_stay_need_a_step_for_each_hidden_layer(dt):
    expected = gradient(dense())
    rule = PredictiveCoding(dense(), UNIT, inference="fixed_prediction", dt=dt, steps=1)
    found = change(rule)
    torch.testing.assert_close(found["W_h2_h1"], dt * expected["W_h2_h1"], rtol=1e-10, atol=1e-13)
    assert not found["W_h1_x"].any()


def test_with_a_weak_hold_it_becomes_backpropagation_to_first_order():
    expected = gradient(dense())
    errors = [
        furthest(change(PredictiveCoding(dense(), UNIT, beta=beta, steps=400, dt=0.3)), expected)
        for beta in (1e-2, 1e-3, 1e-4)
    ]
    assert errors[0] < 0.1
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.2)
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.2)


def test_in_a_linear_network_the_output_error_is_shared_by_all_layers():
    # at rest e_k = W_{k+1}ᵀ … W_Nᵀ e_N, and together they make up for what is wrong
    network = ct.Layers.dense([16, 8, CLASSES], rho="identity", seed=3).double()
    w = network.weights["W_y_h1"].detach().clone()
    wrong = torch.eye(CLASSES, dtype=w.dtype)[LABELS] - network(X).detach()
    last = torch.linalg.solve(torch.eye(CLASSES, dtype=w.dtype) + w @ w.T, wrong.T).T
    found = change(PredictiveCoding(network, UNIT, steps=400, dt=0.3))
    torch.testing.assert_close(found["b_y"], -last.mean(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["b_h1"], -(last @ w).mean(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["W_h1_x"], -(last @ w).T @ X / 12, rtol=1e-9, atol=1e-12)


def test_layers_learn_together_or_as_the_error_arrives():
    orders = {}
    for inference in ("relaxed", "fixed_prediction", "zero_divergence"):
        rule, seen = PredictiveCoding(dense(), inference=inference), []
        rule.step = lambda k, _, seen=seen: seen.append(k)
        rule.present(X, LABELS)
        orders[inference] = seen
    assert orders == {
        "relaxed": [0, 1, 2],
        "fixed_prediction": [0, 1, 2],
        "zero_divergence": [2, 1, 0],
    }


def test_the_output_is_that_of_the_forward_pass():
    rule = PredictiveCoding(dense(output="logistic"))
    expected = rule.network(X).detach()
    torch.testing.assert_close(rule.present(X, LABELS), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(rule.respond(X), rule.network(X).detach())


@pytest.mark.parametrize("inference", ["relaxed", "zero_divergence", "fixed_prediction"])
def test_an_observer_sees_and_changes_every_state(inference):
    network, seen = dense(bias=False), set()
    rule = PredictiveCoding(network, UNIT, inference=inference, steps=3)

    def observer(k, z):
        seen.add((k, z.shape[1], z.requires_grad))
        return torch.zeros_like(z) if k == 1 else z

    rule.observer = observer
    found = change(rule)
    assert seen == {(0, 8, False), (1, 7, False), (2, CLASSES, False)}
    assert not found["W_y_h2"].any()  # nothing comes in
    if inference != "fixed_prediction":  # layer 2 is wrong about a 0, and no more than that
        assert found["W_h2_h1"].any()


def test_types_are_kept():
    rule = PredictiveCoding(dense().float())
    assert rule.present(X.float(), LABELS).dtype == torch.float32


@pytest.mark.parametrize("inference", ["relaxed", "zero_divergence"])
def test_a_run_goes_on_from_a_snapshot_bit_for_bit(inference):
    adam = partial(torch.optim.Adam, lr=1e-2)
    rule = PredictiveCoding(dense(), adam, inference=inference)
    rule.present(X, LABELS)
    kept = rule.snapshot()
    rule.present(X, LABELS)
    other = PredictiveCoding(dense(seed=5), adam, inference=inference)
    other.restore(kept)
    other.present(X, LABELS)
    assert all(torch.equal(w, other.weights[name]) for name, w in rule.weights.items())


def test_digits_are_learned_and_better_than_by_the_output_alone():
    adam, still = partial(torch.optim.Adam, lr=5e-3), partial(torch.optim.SGD, lr=0.0)
    reached = [
        ct.train(
            PredictiveCoding(
                ct.Layers.dense([64, 32, 32, 10], rho="tanh", seed=seed), maker, steps=8
            ),
            digits(),
            epochs=5,
            batch=20,
            seed=seed,
        ).test_accuracy[-1]
        for maker in (adam, [still, still, adam])
        for seed in range(2)
    ]
    assert min(reached[:2]) > 0.93
    assert min(reached[:2]) > max(reached[2:]) + 0.02


@pytest.mark.parametrize(
    ("scale", "steps", "error"), [(8.0, 5, ConvergenceError), (1e4, 50, NonFiniteError)]
)
def test_a_relaxation_that_climbs_is_refused(scale, steps, error):
    network = dense("identity")
    for weight in network.parameters():
        weight.data *= scale
    rule = PredictiveCoding(network, steps=steps, dt=0.5)
    before = {name: w.clone() for name, w in rule.weights.items()}
    with pytest.raises(error, match="smaller dt"):
        rule.present(X, LABELS)
    assert all(torch.equal(w, before[name]) for name, w in rule.weights.items())


def test_settings_say_what_decides():
    settings = PredictiveCoding(dense(), inference="fixed_prediction", beta=0.5, dt=0.1).settings
    expected = {"inference": "fixed_prediction", "beta": 0.5, "steps": 20, "dt": 0.1}
    assert {name: settings[name] for name in expected} == expected
    assert settings["loss"] == "squared_error"
    assert settings["rule"] == "PredictiveCoding"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inference": "relax"}, "did you mean 'relaxed'"),
        ({"loss": "squared"}, "did you mean 'squared_error'"),
        ({"beta": -1.0}, "beta must be > 0"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"dt": 2.0}, r"dt must lie in \(0, 1\]"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PredictiveCoding(dense(), **options)


def test_layers_that_are_not_dense_are_refused():
    network = ct.Layers(nn.Sequential(nn.Linear(16, CLASSES), nn.Dropout()), inputs=16)
    with pytest.raises(ValueError, match=r"(?s)layer y is .*PredictiveCoding takes dense layers"):
        PredictiveCoding(network)


def test_one_layer_learns_by_the_delta_rule():
    for inference in ("relaxed", "zero_divergence", "fixed_prediction"):
        networks = [ct.Layers.dense([16, CLASSES], seed=2).double() for _ in range(2)]
        expected = change(Backpropagation(networks[0], UNIT, loss="squared_error"))
        found = change(PredictiveCoding(networks[1], UNIT, inference=inference))
        same(found, expected, rtol=1e-10, atol=1e-13)
