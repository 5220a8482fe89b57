from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.learning.forward_forward import wrong_labels
from ctsigprop.learning.losses import Goodness
from ctsigprop.learning.predictive_forward_forward import PredictiveForwardForward
from ctsigprop.train import accuracy

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
UNIT = partial(torch.optim.SGD, lr=1.0)
QUIET = {"noise": 0.0, "generative_noise": 0.0, "group": 4, "latents": 5, "threshold": 0.4}


def dense(seed=1, hidden=(12, 8)):
    return ct.Layers.dense([16, *hidden, CLASSES], seed=seed).double()


def unit(z):
    return z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)


class Through(torch.autograd.Function):
    """ReLU with slope 1 everywhere, as the authors have it."""

    @staticmethod
    def forward(_, a):
        return a.relu()

    @staticmethod
    def backward(_, upstream):
        return upstream


def parameters(rule):
    return {name: p for name, p in rule.named_parameters() if "Identity" not in name}


def written_out(rule, x, c, steps):
    """Take the steps of both circuits with gradients of autograd; return the parameters."""
    w = {n: p.detach().clone().requires_grad_() for n, p in parameters(rule).items()}
    relu, keep, last = Through.apply, rule.keep, rule.network.depth - 1

    def affine(k, h):
        stem = f"network.layers.{k}.0"
        return h @ w[f"{stem}.weight"].T + w[f"{stem}.bias"]

    def lateral(k, size):
        blocks = w[f"own.{k}.lateral"].relu()
        full = torch.block_diag(*blocks.unbind())
        return full - 2 * torch.diag(full.diagonal()).reshape(size, size)

    z, h = [], x
    for k in range(last):
        h = affine(k, unit(h)).relu()
        z.append(h.detach())
    u = x.new_zeros(len(x), rule.latents)
    for _ in range(steps):
        new, loss = [], 0.0
        for k, before in enumerate(z):
            above = unit(z[k + 1]) if k + 1 < last else rule.strength * c
            a = affine(k, unit(z[k - 1] if k else x)) + above @ w[f"own.{k}.feedback"].T
            a = a - before @ lateral(k, before.shape[1]).T
            s = keep * before + (1 - keep) * relu(a)
            goodness = Goodness(1.0, rule.threshold / s.shape[1], "sum")  # that of sigprop
            pairs = torch.stack(s.chunk(2), 1)
            own = torch.tensor([1.0, 0.0]).expand(len(pairs), 2)
            loss = loss + goodness(goodness.scores(pairs, pairs), own) / 2
            new.append(s.detach())
        y = affine(last, unit(z[-1]))
        loss = loss + functional.cross_entropy(y[: len(x) // 2], c[: len(x) // 2].argmax(1))
        states = [x, *new]
        for k in range(last + 1):
            upper = states[k + 1] if k < last else u.relu()
            predicted = unit(upper) @ w[f"own.{k}.generative"].T
            predicted = predicted.clamp(0, 1) if k == 0 else relu(predicted)
            loss = loss + (predicted - states[k]).square().sum(1).mean() / 2
        top = w[f"own.{last}.generative"].detach()
        u = u - rule.beta * ((unit(u.relu()) @ top.T).relu() - new[-1]) @ top
        z = new
        gradients = torch.autograd.grad(loss, list(w.values()))
        with torch.no_grad():
            for value, gradient in zip(w.values(), gradients, strict=True):
                value -= gradient
    return w


@pytest.mark.parametrize("hidden", [(12, 8), (12,), (8, 8, 4)])
def test_the_updates_are_the_gradients_of_the_local_losses_step_by_step(hidden):
    rule = PredictiveForwardForward(dense(hidden=hidden), UNIT, steps=3, beta=0.3, **QUIET)
    drawn = torch.Generator()
    drawn.set_state(rule.generator.get_state())
    other = wrong_labels(torch.zeros(12, CLASSES), LABELS, drawn)
    c = torch.eye(CLASSES, dtype=X.dtype)[torch.cat([LABELS, other])]
    before = {name: p.detach().clone() for name, p in parameters(rule).items()}
    expected = written_out(rule, torch.cat([X, X]), c, steps=3)
    rule.present(X, LABELS)
    for name, p in parameters(rule).items():
        assert (p - before[name]).abs().max() > 1e-5, name
        torch.testing.assert_close(p.detach(), expected[name].detach(), rtol=1e-9, atol=1e-11)


def test_goodness_is_that_of_the_two_steps_in_the_middle():
    rule = PredictiveForwardForward(dense(), steps=6, **QUIET)
    seen = []
    rule.observer = lambda _, h: seen.append(h) or h
    output = rule.respond(X)
    expected = sum(h.square().sum(1) for h in seen[-4:]) / 2
    assert len(seen) == 3 + 4 * 2  # the forward pass, and 4 steps of 2 layers
    torch.testing.assert_close(output, expected.reshape(12, CLASSES))


def test_units_inhibit_their_group_and_excite_themselves():
    options = {**QUIET, "keep": 0.0, "steps": 2}
    network = ct.Layers.dense([16, 8, CLASSES], seed=2).double()
    for parameter in network.parameters():
        parameter.data.zero_()
    network.weights["b_h1"].data += 1.0
    rule = PredictiveForwardForward(network, **options)
    own = rule.own[0]
    own.feedback.data.zero_()
    own.lateral.data.fill_(0.1)
    own.lateral.data[1] = -0.1  # of no effect
    seen = []
    rule.observer = lambda k, h: seen.append((k, h)) or h
    rule.respond(X[:1])
    after = [h[0] for k, h in seen if k == 0][1]
    torch.testing.assert_close(after[:4], torch.full((4,), 1 + 0.1 - 3 * 0.1, dtype=X.dtype))
    torch.testing.assert_close(after[4:], torch.ones(4, dtype=X.dtype))


def generative_only(parameters):
    return torch.optim.Adam(list(parameters)[-1:], lr=0.05)


def test_the_generative_circuit_predicts_as_well_as_its_states_allow():
    rule = PredictiveForwardForward(dense(hidden=(8,)), generative_only, **QUIET)
    rule.own[0].feedback.data.zero_()  # so that a wrong label makes no other state
    seen = []
    rule.observer = lambda _, h: seen.append(h) or h
    rule.reconstruct(X, LABELS)
    rule.observer = None
    states = unit(seen[-1])
    for _ in range(90):
        rule.present(X, LABELS)
    best = torch.linalg.pinv(states) @ X  # a silent unit leaves out a rank
    possible = (states @ best - X).square().sum()
    found = (rule.reconstruct(X, LABELS) - X).square().sum()
    assert found < 1.1 * possible < 0.5 * (X - X.mean(0)).square().sum()


def test_what_is_predicted_does_not_change_what_predicts():
    adam, weights = partial(torch.optim.Adam, lr=0.01), []
    for spread in (1.0, 3.0):
        rule = PredictiveForwardForward(dense(), adam, steps=4, **QUIET)
        for own in rule.own:
            own.generative.data *= spread
        for _ in range(5):
            rule.present(X, LABELS)
        weights.append(rule.weights)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-12, atol=1e-14)


def test_every_layer_steps_at_every_step_without_autograd():
    rule, order = PredictiveForwardForward(dense(), steps=2, predict="readout", **QUIET), []
    rule.step = lambda k, gradients: order.append((k, len(gradients)))
    rule.observer = lambda _, h: h if not h.requires_grad else pytest.fail("a graph")
    rule.present(X, LABELS)
    assert order == [(0, 5), (1, 5), (2, 3)] * 2


@pytest.mark.parametrize("predict", ["goodness", "readout"])
def test_the_answer_is_what_it_was_before_learning(predict):
    rule = PredictiveForwardForward(dense(), predict=predict, **QUIET)
    expected = rule.respond(X)
    assert torch.equal(rule.present(X, LABELS), expected)
    assert not torch.equal(rule.respond(X), expected)
    if predict == "readout":
        h = rule.network.layers[1](unit(rule.network.layers[0](unit(X))))
        expected = rule.network.layers[2](unit(h)).detach()
        torch.testing.assert_close(rule.respond(X), expected)


def test_digits_are_learned_and_better_than_with_frozen_hidden_layers():
    adam, still = partial(torch.optim.Adam, lr=6e-3), partial(torch.optim.SGD, lr=0.0)
    errors = {}
    for seed in range(2):
        task = digits(seed=seed)
        for name, optimizers, answer in (
            ("whole", adam, "goodness"),
            ("frozen", [still, still, adam], "readout"),  # goodness does not see the output
        ):
            network = ct.Layers.dense([64, 50, 50, 10], seed=seed)
            rule = PredictiveForwardForward(network, optimizers, steps=6, predict="readout")
            ct.train(rule, task, epochs=6, batch=40, noise=0.1, seed=seed)
            rule.predict = answer
            errors[name, seed] = 1 - accuracy(rule, task.test)
    assert max(errors["whole", seed] for seed in range(2)) < 0.12
    for seed in range(2):
        assert errors["whole", seed] < 0.5 * errors["frozen", seed]


def test_a_run_goes_on_from_a_snapshot_bit_for_bit():
    options = {**QUIET, "noise": 0.1, "generative_noise": 0.1}
    rule = PredictiveForwardForward(dense(), **options)
    rule.present(X, LABELS)
    kept = rule.snapshot()
    rule.present(X, LABELS)
    other = PredictiveForwardForward(dense(seed=5), **options, seed=7)
    other.restore(kept)
    other.present(X, LABELS)
    for name, value in parameters(rule).items():
        assert torch.equal(value, parameters(other)[name]), name


def test_settings_say_what_decides():
    rule = PredictiveForwardForward(dense(), steps=5, keep=0.2, group=2, latents=4)
    assert rule.settings.items() >= {"steps": 5, "keep": 0.2, "group": 2, "latents": 4}.items()


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (dense(), {"group": 5}, "layer h1 has 12 units, not whole groups of 5"),
        (dense(), {"steps": 1}, "steps must be 2 or more"),
        (dense(), {"keep": 1.0}, "keep must be from 0 to below 1; got 1.0"),
        (dense(), {"beta": 0.0}, "beta must be > 0"),
        (dense(), {"noise": -0.1}, "noise must be >= 0; got -0.1"),
        (dense(), {"predict": "goodnes"}, "did you mean 'goodness'"),
        (ct.Layers.dense([16, CLASSES]), {}, "needs a hidden layer"),
        (ct.Layers.dense([16, 8, CLASSES], rho="tanh"), {"group": 4}, "torch.nn.ReLU behind it"),
        (ct.Layers.dense([16, 8, 3], output="relu"), {"group": 4}, "without a nonlinearity"),
    ],
)
def test_bad_options_are_refused(network, options, message):
    with pytest.raises(ValueError, match=message):
        PredictiveForwardForward(network, **options)
