from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import ctsigprop as ct
from ctsigprop.analyses.alignment import alignment, descent
from ctsigprop.analyses.plausibility import report

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
