from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.learning.context import Overlay
from ctsigprop.learning.forward_forward import ForwardForward, wrong_labels
from ctsigprop.learning.losses import Goodness
from ctsigprop.learning.sigprop import Sigprop
from ctsigprop.train import accuracy

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
UNIT = partial(torch.optim.SGD, lr=1.0)


def dense(inputs=16, seed=1, bias=True):
    return ct.Layers.dense([inputs, 8, 7, 6], output="relu", bias=bias, seed=seed).double()


def conv():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return ct.Layers(
            nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(4, 5, 2), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(45, 6), nn.ReLU()),
            inputs=16,
        ).double()


def change(rule, x=X, labels=LABELS):
    before = {name: value.clone() for name, value in rule.weights.items()}
    rule.present(x, labels)
    return {name: before[name] - value for name, value in rule.weights.items()}


def shown(x, labels, place, strength):
    own = strength * torch.eye(CLASSES, dtype=x.dtype)[labels]
    return torch.cat([own, x[:, CLASSES:]] if place == "overlay" else [x, own], 1)


@pytest.mark.parametrize("goodness", ["sum", "mean"])
@pytest.mark.parametrize("place", ["overlay", "append"])
def test_the_update_is_the_closed_form_of_the_logistic_loss(place, goodness):
    network = dense(16 if place == "overlay" else 16 + CLASSES)
    options = {"classes": CLASSES, "place": place, "strength": 2.0, "threshold": 0.4}
    rule = ForwardForward(network, UNIT, goodness=goodness, negatives="random", **options, seed=3)
    w = {name: value.clone() for name, value in rule.weights.items()}
    drawn = torch.Generator().manual_seed(3)
    other = wrong_labels(torch.zeros(12, CLASSES), LABELS, drawn)
    found = change(rule)
    for labels, sign in ((LABELS, 1), (other, -1)):
        h = shown(X, labels, place, 2.0)
        for k, name in enumerate(("h1_x", "h2_h1", "y_h2")):
            before = h / h.square().mean(1, keepdim=True).sqrt()
            h = torch.relu(before @ w[f"W_{name}"].T + w[f"b_{name.split('_')[0]}"])
            scale = 1 if goodness == "sum" else h.shape[1]
            excess = (h.square() - 0.4).sum(1, keepdim=True) / scale
            delta = -sign * torch.sigmoid(-sign * excess) * 2 * h / scale / 12
            found[f"W_{name}"] -= delta.T @ before
            found[f"b_{name.split('_')[0]}"] -= delta.sum(0)
            assert delta.abs().max() > 1e-4, k
    for value in found.values():
        torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", ["overlay", "append"])
@pytest.mark.parametrize("goodness", ["sum", "mean"])
def test_it_is_signal_propagation_with_overlay_and_goodness(place, goodness, monkeypatch):
    inputs = 16 + CLASSES * (place == "append")
    normed = ct.Layers(
        *(
            nn.Sequential(nn.RMSNorm(layer[0].in_features, elementwise_affine=False), *layer)
            for layer in dense(inputs).layers
        ),
        inputs=inputs,
    )
    options = {"place": place, "strength": 3.0}
    rule = ForwardForward(
        dense(inputs), UNIT, classes=CLASSES, goodness=goodness, threshold=0.4, **options
    )
    same = Sigprop(
        normed,
        UNIT,
        transform=partial(Overlay, **options),
        loss=Goodness(temperature=1.0, threshold=0.4, pooled=goodness),
        predict="nearest",
        classes=CLASSES,
    )
    assert isinstance(rule.transform, Overlay)
    assert rule.loss == same.loss
    # the same wrong labels for both
    drawn = torch.randint(1, CLASSES, (12,), generator=torch.Generator().manual_seed(0))
    other = (LABELS + drawn) % CLASSES
    monkeypatch.setattr("ctsigprop.learning.forward_forward.wrong_labels", lambda *_: other)
    for a, b in zip(change(rule).values(), change(same).values(), strict=True):
        assert b.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_an_update_leaves_the_normed_activity_of_its_own_input_as_it_was():
    # Hinton 2022: the change of a unit's input is proportional to its activity
    network = dense(bias=False)
    rule = ForwardForward(network, UNIT, classes=CLASSES, threshold=40.0)  # sigma(−G(n)) = 1
    h = shown(X[:1], LABELS[:1], "overlay", 1.0)
    before = network.layers[0](functional.rms_norm(h, (16,)))
    rule.present(X[:1], LABELS[:1])
    after = network.layers[0](functional.rms_norm(h, (16,)))
    torch.testing.assert_close(
        functional.normalize(after), functional.normalize(before), rtol=1e-9, atol=1e-12
    )
    assert after.norm() > 1.5 * before.norm()


def test_layers_step_as_the_passes_reach_them_on_graphs_of_their_own():
    rule, order = ForwardForward(dense(), classes=CLASSES, predict="readout"), []
    rule.observer = lambda k, h: order.append(("seen", k, len(h))) or h
    rule.step = lambda k, gradients: order.append(("step", k, len(gradients)))
    rule.present(X, LABELS)
    assert order[:3] == [("seen", k, 12) for k in range(3)]
    assert order[3:] == [
        ("seen", -1, 24),
        ("seen", 0, 24),
        ("step", 0, 2),
        ("seen", 1, 24),
        ("step", 1, 2),
        ("seen", 2, 24),
        ("step", 2, 4),
    ]


def test_an_observer_may_put_another_activity_in_the_place_of_one():
    rule = ForwardForward(dense(), UNIT, classes=CLASSES)
    rule.observer = lambda k, h: torch.zeros_like(h) if k == 0 else h
    found = change(rule)
    assert not found["W_h1_x"].any()
    assert not found["W_h2_h1"].any()  # nothing comes in
    assert not rule.respond(X).diff(dim=1).any()


def test_wrong_labels_follow_the_probabilities_without_the_own_class():
    outputs = torch.tensor([[9.0, 0.0, 1.0, -2.0]], dtype=torch.float64).repeat(20000, 1)
    labels = torch.zeros(20000, dtype=torch.int64)
    drawn = wrong_labels(outputs, labels, torch.Generator().manual_seed(1))
    expected = torch.softmax(outputs[0, 1:], 0)
    found = torch.bincount(drawn, minlength=4) / 20000
    assert found[0] == 0
    torch.testing.assert_close(found[1:].double(), expected, rtol=0, atol=0.01)


def test_hard_negatives_are_those_of_the_readout():
    rule, seen = ForwardForward(dense(), classes=CLASSES, predict="readout"), []
    rule.own[-1].bias.data[2] = 50.0
    rule.observer = lambda _, h: seen.append(h) or h
    rule.present(X, LABELS)
    sure = LABELS != 2
    wrong = shown(X[sure], torch.full((int(sure.sum()),), 2), "overlay", 1.0)
    expected = dense().layers[0](functional.rms_norm(wrong, (16,)))
    torch.testing.assert_close(seen[3][1::2][sure], wrong)  # the input, layer −1
    torch.testing.assert_close(seen[4][1::2][sure], expected)


@pytest.mark.parametrize("make", [dense, conv])
def test_the_answer_is_what_it_was_before_learning(make):
    for predict in ("goodness", "readout"):
        rule = ForwardForward(make(), classes=CLASSES, predict=predict)
        rule.present(X, LABELS)
        expected = rule.respond(X)
        assert torch.equal(rule.present(X, LABELS), expected)
        assert not torch.equal(rule.respond(X), expected)


def test_goodness_is_summed_over_all_layers_but_the_first():
    network = dense()
    rule = ForwardForward(network, classes=CLASSES, threshold=0.3)
    for label in range(CLASSES):
        h, total = shown(X, torch.full((12,), label), "overlay", 1.0), 0.0
        for k, layer in enumerate(network.layers):
            h = layer(functional.rms_norm(h, h.shape[1:]))
            total = total + (h.square() - 0.3).sum(1) * (k > 0)
        torch.testing.assert_close(rule.respond(X)[:, label], total.detach())


def test_goodness_parts_own_from_wrong_labels_in_every_layer():
    network = ct.Layers.dense([16, 40, 40, 40], output="relu", seed=1).double()
    rule = ForwardForward(network, partial(torch.optim.Adam, lr=0.01), classes=CLASSES)
    for _ in range(200):
        rule.present(X, LABELS)
    grown = []
    rule.observer = lambda _, h: grown.append(h.square().mean(1).detach()) or h
    rule.respond(X)
    own = torch.arange(12) * CLASSES + LABELS
    for goodness in grown:
        wrong = torch.ones(len(goodness), dtype=torch.bool)
        wrong[own] = False
        assert goodness[own].mean() > 1.0 > goodness[wrong].mean()
    assert (rule.respond(X).argmax(1) == LABELS).all()


def readout_only(parameters):
    return torch.optim.Adam(list(parameters)[2:], lr=0.01)


def test_digits_are_learned_and_better_than_by_random_layers():
    adam, still = partial(torch.optim.Adam, lr=0.01), partial(torch.optim.SGD, lr=0.0)
    read, compared = [], []
    for optimizers in ([adam, adam], [still, readout_only]):
        for seed in range(2):
            network = ct.Layers.dense([74, 64, 48], output="relu", seed=seed)
            options = {"classes": 10, "place": "append", "strength": 2.0, "seed": seed}
            rule = ForwardForward(network, optimizers, predict="readout", **options)
            read.append(ct.train(rule, digits(), epochs=12, batch=50, seed=seed).test_accuracy[-1])
            rule.predict = "goodness"
            compared.append(accuracy(rule, digits().test))
    assert min(read[:2]) > 0.9
    assert min(read[:2]) > max(read[2:]) + 0.02
    assert min(compared[:2]) > 0.88
    assert max(compared[2:]) < 0.3


@pytest.mark.parametrize("make", [dense, conv])
def test_a_run_goes_on_from_a_snapshot_bit_for_bit(make):
    rule = ForwardForward(make(), classes=CLASSES)
    rule.present(X, LABELS)
    kept = rule.snapshot()
    rule.present(X, LABELS)
    other = ForwardForward(make(), classes=CLASSES, seed=5)
    other.restore(kept)
    other.present(X, LABELS)
    assert all(torch.equal(w, other.weights[name]) for name, w in rule.weights.items())
    assert torch.equal(rule.own[-1].weight, other.own[-1].weight)


def test_settings_say_what_decides():
    rule = ForwardForward(dense(19), classes=CLASSES, place="append", threshold=0.5)
    assert rule.inputs == 16
    assert "channels=3, strength=1.0, place='append'" in rule.settings["transform"]
    assert "threshold=0.5, pooled='sum'" in rule.settings["loss"]
    assert rule.settings.items() >= {"negatives": "hard", "predict": "goodness"}.items()


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([16, 8], {"classes": 3}, "two layers or more"),
        ([16, 8, 7], {"classes": 1}, "classes must be a whole number >= 2; got 1"),
        ([16, 8, 7], {"classes": 17}, "layer 1 takes 16 inputs; Overlay needs more"),
        ([16, 8, 7], {"classes": 16, "place": "append"}, "Overlay needs more than the 16 channels"),
        ([16, 8, 7], {"classes": 3, "place": "apend"}, "did you mean 'append'"),
        ([16, 8, 7], {"classes": 3, "goodness": "max"}, "unknown goodness 'max'"),
        ([16, 8, 7], {"classes": 3, "negatives": "soft"}, "unknown negatives 'soft'"),
        ([16, 8, 7], {"classes": 3, "predict": "read"}, "did you mean 'readout'"),
        ([16, 8, 7], {"classes": 3, "strength": -1.0}, "strength must be > 0"),
        ([16, 8, 7], {"classes": 3, "threshold": 0.0}, "threshold must be > 0"),
    ],
)
def test_bad_options_are_refused(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        ForwardForward(ct.Layers.dense(sizes, output="relu"), **options)
