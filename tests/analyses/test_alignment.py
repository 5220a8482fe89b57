from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.analyses.alignment import alignment, descent
from ctsigprop.analyses.plausibility import report
from ctsigprop.data import digits
from ctsigprop.learning.backprop import Backpropagation, ContinuousBackpropagation
from ctsigprop.learning.feedback_alignment import DirectFeedbackAlignment, FeedbackAlignment
from ctsigprop.learning.local_losses import LocalLosses

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(24, 5, generator=GENERATOR)
LABELS = torch.arange(24) % CLASSES


def make(form="loop", rho="tanh", update="integrated", **options):
    onset = options.pop("onset", 8.4)
    network = ct.sigprop_network(
        [5, 8, 7, CLASSES], form=form, rho=rho, eta=0.2, seed=1, onset=onset
    )
    return ct.ContinuousSigprop(network, update=update, **options)


def loss(learner):
    context = torch.nn.functional.one_hot(LABELS, CLASSES)
    return float((learner.respond(X).double() - context).square().sum(-1).mean() / 2)


def step(learner, direction, size):
    weights = {name: learner.weights[name] + size * d for name, d in direction.items()}
    return ct.ContinuousSigprop(
        learner.network, update=learner.update, weights=learner.weights | weights
    )


def test_descent_is_that_of_the_feedforward_map_where_a_network_has_settled():
    learner = make("label", onset=30.0, end=36.0, solver=ct.RK4(dt=0.5))
    layers = ["h1", "h2", "y"]
    leaves = {}
    value = X
    for pre, post in zip(["x", *layers], layers, strict=False):
        for source in (pre, "one"):
            name = f"W_{post}_{source}"
            leaves[name] = learner.weights[name].clone().requires_grad_()
        value = torch.tanh(value @ leaves[f"W_{post}_{pre}"].T + leaves[f"W_{post}_one"].T)
    context = torch.nn.functional.one_hot(LABELS, CLASSES)
    error = (value - context).square().sum(-1).mean() / 2
    gradients = dict(zip(leaves, torch.autograd.grad(error, list(leaves.values())), strict=True))
    found = descent(learner, X, LABELS)
    assert set(found) == set(leaves)
    for name, update in found.items():
        torch.testing.assert_close(update, -gradients[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("form", ["loop", "label"])
def test_descent_is_minus_the_slope_of_the_loss(form):
    learner = make(form)
    direction = descent(learner, X, LABELS)
    squared = sum(float(d.square().sum()) for d in direction.values())
    size = 0.02 / math.sqrt(squared)
    slope = (loss(step(learner, direction, size)) - loss(step(learner, direction, -size))) / (
        2 * size
    )
    assert slope == pytest.approx(-squared, rel=1e-2)


def test_the_angle_is_the_one_that_was_made():
    learner = make()
    reference = descent(learner, X, LABELS)
    names = {"h1": "W_h1_x", "h2": "W_h2_h1", "y": "W_y_h2"}
    for degrees in (0.0, 30.0, 90.0, 180.0):
        update = {name: torch.zeros_like(w) for name, w in reference.items()}
        for layer, name in names.items():
            whole = torch.cat([reference[name].flatten(), reference[f"W_{layer}_one"].flatten()])
            aside = torch.randn(len(whole), generator=torch.Generator().manual_seed(3))
            aside -= (aside @ whole) / (whole @ whole) * whole
            radians = math.radians(degrees)
            turned = math.cos(radians) * whole / whole.norm()
            turned += math.sin(radians) * aside / aside.norm()
            if degrees == 0.0:
                turned = whole
            count = reference[name].numel()
            update[name] = turned[:count].reshape(reference[name].shape)
            update[f"W_{layer}_one"] = turned[count:].reshape(-1, 1)
        found = alignment(learner, X, LABELS, update=update).angle
        np.testing.assert_allclose(found, degrees, atol=0.0 if degrees == 0.0 else 1e-2)
    assert found.layer.values.tolist() == list(names)
    assert found.attrs["units"] == "degree"


@pytest.mark.parametrize("update", ["integrated", "delta", "contrastive"])
def test_sigprop_points_downhill_and_the_learner_is_left_as_it_was(update):
    learner = make("loop", update=update)
    before = learner.weights
    kept = {name: w.clone() for name, w in before.items()}
    measured = alignment(learner, X, LABELS)
    assert learner.weights is before
    assert all(torch.equal(kept[name], w) for name, w in before.items())
    assert (measured.angle < 90).all()
    assert float(measured.angle.sel(layer="y")) < 30


def test_the_update_is_the_change_of_the_weights_by_a_presentation():
    learner = make("loop", update="delta")
    measured = alignment(learner, X, LABELS)
    before = dict(learner.weights)
    learner.present(X, LABELS)
    change = {name: learner.weights[name] - before[name] for name in descent(learner, X, LABELS)}
    learner.weights = before
    np.testing.assert_array_equal(
        alignment(learner, X, LABELS, update=change).angle, measured.angle
    )


def test_tags_are_counted_with_the_presentation_that_left_them():
    fresh = make("loop")
    used = make("loop")
    used.present(X.flip(0), LABELS)
    tags = {name: value for name, value in used.weights.items() if name.startswith("e_")}
    assert any(bool(tag.any()) for tag in tags.values())
    used.weights = fresh.weights | tags
    angles = [alignment(learner, X, LABELS).angle for learner in (fresh, used)]
    np.testing.assert_array_equal(*angles)


def test_an_update_of_nothing_has_no_angle_and_says_so():
    learner = make()
    nothing = {name: torch.zeros_like(w) for name, w in descent(learner, X, LABELS).items()}
    measured = alignment(learner, X, LABELS, update=nothing)
    assert measured.angle.isnull().all()
    assert ct.validate(report(measured)) == []


def test_an_update_must_have_all_the_weights():
    learner = make()
    update = descent(learner, X, LABELS)
    update.pop("W_y_one")
    with pytest.raises(ValueError, match="update must have the weights that learn"):
        alignment(learner, X, LABELS, update=update)


ADAM = partial(torch.optim.Adam, lr=0.01)


def layered(rule, *args, **options):
    return rule(ct.Layers.dense([5, 8, 7, CLASSES], rho="tanh", seed=1).double(), *args, **options)


def angles(learner, **options):
    return alignment(learner, X.double(), LABELS, **options).angle


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_the_updates_of_backpropagation_have_no_angle(loss):
    at_once = angles(layered(Backpropagation, ADAM, loss=loss))
    assert at_once.layer.values.tolist() == ["h1", "h2", "y"]
    assert at_once.attrs["reference"] == f"gradient of the {loss.replace('_', ' ')} of the outputs"
    np.testing.assert_allclose(at_once, 0, atol=1e-10)
    relaxed = angles(layered(ContinuousBackpropagation, end=30.0, loss=loss))
    np.testing.assert_allclose(relaxed, 0, atol=1e-4)
    early = angles(layered(ContinuousBackpropagation, end=1.5, loss=loss))
    assert (early > 1).all()


def test_the_slope_of_a_layered_network_is_minus_its_descent():
    learner = layered(Backpropagation, loss="squared_error")
    direction = descent(learner, X.double(), LABELS)
    squared, losses = sum(float(d.square().sum()) for d in direction.values()), []
    for size in (1e-4, -1e-4):
        for name, weight in learner.network.weights.items():
            weight.data += size * direction[name]
        context = torch.nn.functional.one_hot(LABELS, CLASSES)
        error = learner.respond(X.double()) - context
        losses.append(float(error.square().sum(-1).mean() / 2))
        for name, weight in learner.network.weights.items():
            weight.data -= size * direction[name]
    assert (losses[0] - losses[1]) / 2e-4 == pytest.approx(-squared, rel=1e-4)


@pytest.mark.parametrize("rule", [FeedbackAlignment, DirectFeedbackAlignment, LocalLosses])
def test_the_update_of_a_rule_is_what_gradient_descent_would_do(rule):
    measured = angles(layered(rule, ADAM))
    assert measured.sel(layer="y") < 1e-10
    assert (measured.sel(layer=["h1", "h2"]) > 1).all()
    learner = layered(rule, partial(torch.optim.SGD, lr=1.0))
    before = {name: value.clone() for name, value in learner.weights.items()}
    learner.present(X.double(), LABELS)
    change = {name: value - before[name] for name, value in learner.weights.items()}
    np.testing.assert_allclose(angles(layered(rule), update=change), measured, atol=1e-5)


def test_random_feedback_is_square_to_the_gradient_at_first_and_then_is_not():
    rules = [FeedbackAlignment(ct.Layers.dense([64, 64, 10], seed=s), seed=s) for s in range(3)]
    images = digits().train.isel(sample=slice(100))
    batch = [torch.from_numpy(images[name].values.copy()) for name in ("input", "label")]
    first = [float(alignment(rule, *batch).angle.sel(layer="h1")) for rule in rules]
    for rule in rules:
        ct.train(rule, digits(), epochs=2)
    last = [float(alignment(rule, *batch).angle.sel(layer="h1")) for rule in rules]
    assert np.mean(first) == pytest.approx(90, abs=15)
    assert max(last) < min(first) - 10


def test_a_rule_is_left_as_it_was_with_its_optimisers_and_normalisation():
    layers = [nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh()]
    network = ct.Layers(nn.Sequential(*layers), nn.Linear(8, CLASSES), inputs=5)
    learner = DirectFeedbackAlignment(network.double(), ADAM)
    learner.present(X.double(), LABELS)
    kept = {name: value.clone() for name, value in learner.snapshot().items()}
    measured = angles(learner)
    now = learner.snapshot()
    assert now.keys() == kept.keys()
    assert any("running_mean" in name for name in kept)
    assert any("exp_avg" in name for name in kept)
    assert all(torch.equal(now[name], value) for name, value in kept.items())
    np.testing.assert_array_equal(angles(learner), measured)
    learner.present(X.double(), LABELS)
    assert not torch.equal(learner.weights["W_h1_x"], kept["module.network.layers.0.0.weight"])


def test_going_straight_to_the_steady_state_changes_no_angle_by_much():
    steps = make("label", update="delta", onset=30.0, end=60.0)
    straight = make("label", update="delta", onset=30.0, end=60.0, solver=ct.Steady(tol=1e-6))
    pair = [alignment(learner, X, LABELS).angle for learner in (steps, straight)]
    np.testing.assert_allclose(*pair, atol=0.1)
