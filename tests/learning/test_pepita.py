from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.learning.pepita import Pepita

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
TARGETS = torch.eye(CLASSES, dtype=torch.float64)[LABELS]
UNIT = partial(torch.optim.SGD, lr=1.0)
FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh, "identity": lambda a: a}


def dense(rho="relu", bias=True, seed=1, sizes=(16, 8, 7, CLASSES)):
    network = ct.Layers.dense(list(sizes), rho=rho, bias=bias, seed=seed).double()
    for name, value in network.weights.items():
        if name[0] == "b":
            value.data += 0.1
    return network


def change(rule, x=X, labels=LABELS):
    before = {name: value.clone() for name, value in rule.weights.items()}
    rule.present(x, labels)
    return {name: before[name] - value for name, value in rule.weights.items()}


def written_out(network, F, rho, loss, masks=(1.0, 1.0)):
    """Return the update as algorithm 1 of the paper has it, sample by sample."""
    w = {name: value.detach().clone() for name, value in network.weights.items()}
    found = {name: torch.zeros_like(value) for name, value in w.items()}

    def forward(x, n):
        h1 = rho(w["W_h1_x"] @ x + w["b_h1"]) * _of(masks[0], n)
        h2 = rho(w["W_h2_h1"] @ h1 + w["b_h2"]) * _of(masks[1], n)
        return h1, h2, w["W_y_h2"] @ h2 + w["b_y"]

    def error(y, c):
        return (y.exp() / y.exp().sum() if loss == "cross_entropy" else y) - c

    for n, (x, c) in enumerate(zip(X, TARGETS, strict=True)):
        h1, h2, y = forward(x, n)
        shown = x + F @ error(y, c)
        g1, g2, again = forward(shown, n)
        for name, post, pre in (
            ("h1_x", h1 - g1, shown),
            ("h2_h1", h2 - g2, g1),
            ("y_h2", error(again, c), g2),
        ):
            found[f"W_{name}"] += torch.outer(post, pre) / len(X)
            found[f"b_{name.split('_')[0]}"] += post / len(X)
    return found


def _of(mask, n):
    return mask[n] if isinstance(mask, torch.Tensor) else mask


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("rho", FUNCTIONS)
def test_the_update_is_that_of_the_paper(rho, loss):
    network = dense(rho)
    rule = Pepita(network, UNIT, loss=loss, gain=0.7)
    expected = written_out(network, rule.F.clone(), FUNCTIONS[rho], loss)
    found = change(rule)
    assert found["W_h1_x"].abs().max() > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-13)


def test_silent_units_are_the_same_in_both_passes():
    network = dense()
    rule = Pepita(network, UNIT, gain=0.7, dropout=0.4, seed=3)
    drawn = torch.Generator().manual_seed(3)
    masks = [(torch.rand(12, n, generator=drawn) >= 0.4).double() / 0.6 for n in (8, 7)]
    expected = written_out(network, rule.F.clone(), torch.relu, "cross_entropy", masks)
    for name, value in change(rule).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(rule.respond(X), network(X).detach())


def test_in_a_linear_network_hidden_layers_learn_from_the_error_carried_through_the_input():
    # h_k − g_k = −W_k … W_1 F e: feedback alignment with the forward weights in the feedback
    network = dense("identity")
    w1, w2 = (network.weights[n].detach().clone() for n in ("W_h1_x", "W_h2_h1"))
    error = network(X).detach() - TARGETS
    rule = Pepita(network, UNIT, loss="squared_error")
    F = rule.F.clone()
    found = change(rule)
    torch.testing.assert_close(found["b_h1"], -(w1 @ F @ error.T).mean(1))
    torch.testing.assert_close(found["b_h2"], -(w2 @ w1 @ F @ error.T).mean(1))


def test_the_fixed_matrix_has_the_published_scale_and_never_moves():
    rule = Pepita(ct.Layers.dense([600, 20, 10]), gain=0.05, seed=4)
    bound = 0.05 * math.sqrt(6 / 600)
    assert rule.F.shape == (600, 10)
    assert rule.F.abs().max() <= bound
    assert rule.F.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert abs(rule.F.mean().item()) < 0.05 * bound
    kept = rule.F.clone()
    rule.present(torch.rand(5, 600, generator=GENERATOR), torch.arange(5))
    assert torch.equal(rule.F, kept)
    assert not torch.equal(rule.F, Pepita(ct.Layers.dense([600, 20, 10]), seed=5).F)


def test_a_layer_steps_as_the_second_pass_reaches_it_and_without_autograd():
    rule, order = Pepita(dense()), []
    rule.observer = lambda k, h: order.append(("seen", k, h.requires_grad)) or h
    rule.step = lambda k, gradients: order.append(("step", k, gradients[0].requires_grad))
    rule.present(X, LABELS)
    assert order == [
        *(("seen", k, False) for k in (0, 1, 2, -1)),
        *(event for k in range(3) for event in (("seen", k, False), ("step", k, False))),
    ]


def test_an_observer_may_put_another_activity_in_the_place_of_one():
    network = dense()
    rule = Pepita(network, UNIT)
    rule.observer = lambda k, h: torch.zeros_like(h) if k == 0 else h
    found = change(rule)
    assert not found["W_h1_x"].any()
    assert not found["W_h2_h1"].any()
    assert found["W_y_h2"].any()


def test_digits_are_learned_and_the_forward_weights_turn_against_the_fixed_matrix():
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    still = partial(torch.optim.SGD, lr=0.0)
    reached, angles = [], []
    for optimizers in ([sgd, sgd], [still, sgd]):
        for seed in range(2):
            network = ct.Layers.dense([64, 32, 10], bias=False, seed=seed)
            rule = Pepita(network, optimizers, gain=0.3, seed=seed)
            reached.append(ct.train(rule, digits(), epochs=15, batch=32, seed=seed).test_accuracy)
            through = network.weights["W_y_h1"] @ network.weights["W_h1_x"]
            angles.append(torch.cosine_similarity(through.flatten(), rule.F.T.flatten(), 0).item())
    last = [accuracies[-1] for accuracies in reached]
    assert min(last[:2]) > 0.9
    assert min(last[:2]) > max(last[2:]) + 0.03
    assert max(angles[:2]) < -0.25 < min(angles[2:])


def test_a_run_goes_on_from_a_snapshot_bit_for_bit():
    momentum = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    rule = Pepita(dense(), momentum, dropout=0.3)
    rule.present(X, LABELS)
    kept = rule.snapshot()
    rule.present(X, LABELS)
    other = Pepita(dense(seed=5), momentum, dropout=0.3, seed=9)
    other.restore(kept)
    other.present(X, LABELS)
    assert all(torch.equal(w, other.weights[name]) for name, w in rule.weights.items())


def test_settings_say_what_decides():
    settings = Pepita(dense(), loss="squared_error", gain=0.2, dropout=0.1, seed=7).settings
    expected = {"loss": "squared_error", "gain": 0.2, "dropout": 0.1, "rule_seed": 7}
    assert settings.items() >= expected.items()


def conv():
    return ct.Layers(
        nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(8, CLASSES)),
        inputs=16,
    )


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (conv, {}, "Pepita takes dense layers"),
        (dense, {"loss": "squared"}, "did you mean 'squared_error'"),
        (dense, {"gain": 0.0}, "gain must be > 0"),
        (dense, {"dropout": 1.0}, "dropout must be from 0 to below 1; got 1.0"),
    ],
)
def test_bad_options_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        Pepita(make(), **options)
