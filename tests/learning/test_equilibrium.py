from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.errors import ConvergenceError, IntegrationError
from ctsigprop.learning.equilibrium import ContinualEquilibriumPropagation, EquilibriumPropagation
from ctsigprop.learning.relaxing import SLOPES, RelaxingRule

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
TARGET = torch.eye(CLASSES, dtype=torch.float64)[LABELS]
UNIT = partial(torch.optim.SGD, lr=1.0)
RULES = [EquilibriumPropagation, ContinualEquilibriumPropagation]
FUNCTIONS = {
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "softplus": nn.functional.softplus,
    "hard": lambda s: s.clamp(0, 1),
    "relu": torch.relu,
    "identity": lambda s: s,
}


def dense(rho="tanh", output=None, bias=True, seed=1, scale=0.5):
    """Return a small network whose free phase comes to rest quickly."""
    sizes = [16, 8, 7, CLASSES]
    network = ct.Layers.dense(sizes, rho=rho, output=output or rho, bias=bias, seed=seed).double()
    generator = torch.Generator().manual_seed(7)
    for name, weight in network.weights.items():
        if name[0] == "W":
            weight.data.mul_(scale)
        else:
            weight.data.copy_(0.3 * torch.rand(weight.shape, generator=generator))
    return network


def change(rule, x=X, labels=LABELS):
    before = {name: value.clone() for name, value in rule.weights.items()}
    rule.present(x, labels)
    return {name: value - before[name] for name, value in rule.weights.items()}


def same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


def energy(weights, rho, states):
    """Return E, summed over the batch, written out."""
    sent = [X, *(rho(s) for s in states)]
    value = sum(s.square().sum() for s in states) / 2
    for pre, post, (matrix, bias) in zip(sent, sent[1:], by_layer(weights), strict=False):
        value = value - (post * (pre @ weights[matrix].T)).sum() - (post * weights[bias]).sum()
    return value


def by_layer(weights):
    names = list(weights)
    return list(zip(names[::2], names[1::2], strict=True))


def relaxed(weights, rho, states, steps, dt, beta=0.0, bounds=None):
    """Return the states after Euler steps down the gradient of E + beta C by autograd."""
    for _ in range(steps):
        leaves = [s.detach().requires_grad_() for s in states]
        value = energy(weights, rho, leaves) + beta * (leaves[-1] - TARGET).square().sum() / 2
        slopes = torch.autograd.grad(value, leaves)
        states = [(s - dt * g).detach() for s, g in zip(leaves, slopes, strict=True)]
        if bounds:
            states = [s.clamp(*bounds) for s in states]
    return states


def rest():
    return [torch.zeros(12, n, dtype=torch.float64) for n in (8, 7, CLASSES)]


def slopes_by_weights(weights, rho, states):
    """Return −∂E/∂W, the mean over the batch."""
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    value = -energy(leaves, rho, states) / len(X)
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))


@pytest.mark.parametrize("form", ["one_sided", "random_sign", "centred"])
@pytest.mark.parametrize("rho", FUNCTIONS)
def test_the_update_is_the_slope_of_the_energy_between_the_phases(rho, form):
    rule = EquilibriumPropagation(dense(rho), UNIT, form=form, beta=0.4, free=30, seed=2)
    signs = torch.Generator().manual_seed(2)
    sign = 1 if form != "random_sign" else 1 - 2 * int(torch.randint(2, (1,), generator=signs))
    weights = {name: w.clone() for name, w in rule.weights.items()}
    clips = {"hard": (0.0, 1.0), "relu": (0.0, None), "identity": None}
    bounds, function = clips.get(rho), FUNCTIONS[rho]
    inside = (lambda s: s) if rho in clips else function  # slope 1 at the bounds as well
    free = relaxed(weights, inside, rest(), 30, 0.5, bounds=bounds)
    plus = relaxed(weights, inside, free, 4, 0.5, sign * 0.4, bounds)
    minus, span = free, sign * 0.4
    if form == "centred":
        minus, span = relaxed(weights, inside, free, 4, 0.5, -0.4, bounds), 0.8
    ends = [slopes_by_weights(weights, inside, states) for states in (plus, minus)]
    expected = {name: (ends[0][name] - ends[1][name]) / span for name in weights}
    torch.testing.assert_close(rule.respond(X), free[-1], rtol=1e-10, atol=1e-12)
    assert torch.equal(rule.respond(X), rule.settle(X)[-1])
    same(change(rule), expected, rtol=1e-10, atol=1e-12)
    assert all(value.abs().max() > 1e-6 for value in expected.values())


def test_in_discrete_time_the_units_take_what_they_receive():
    rule = EquilibriumPropagation(
        dense("tanh"), UNIT, form="one_sided", dynamics="prototypical", free=25, nudged=3, beta=0.3
    )
    w = {name: value.clone() for name, value in rule.weights.items()}

    def settled(states, steps, beta):
        for _ in range(steps):
            s1, s2, y = states
            states = [
                torch.tanh(X @ w["W_h1_x"].T + w["b_h1"] + s2 @ w["W_h2_h1"]),
                torch.tanh(s1 @ w["W_h2_h1"].T + w["b_h2"] + y @ w["W_y_h2"]),
                torch.tanh(s2 @ w["W_y_h2"].T + w["b_y"]) + beta * (TARGET - y),
            ]
        return states

    free = settled(rest(), 25, 0.0)
    held = settled(free, 3, 0.3)
    expected = {}
    for (matrix, bias), k in zip(by_layer(w), range(3), strict=True):
        products = [s[k].T @ (s[k - 1] if k else X) for s in (held, free)]
        expected[matrix] = (products[0] - products[1]) / 0.3 / 12
        expected[bias] = (held[k] - free[k]).mean(0) / 0.3
    same(change(rule), expected, rtol=1e-10, atol=1e-12)


def increments(network, beta, **options):
    """Return what each step of the nudged phase adds to the update, the weights at rest."""
    rule = ContinualEquilibriumPropagation(network, form="one_sided", beta=beta, **options)
    found = []
    rule.step = lambda _, gradients: found.append([-g for g in gradients])
    rule.present(X, LABELS)
    depth = network.depth
    return [found[i : i + depth] for i in range(0, len(found), depth)]


def through_time(network, move, state, steps):
    """Return the gradients of C after some steps from a state, by the weights of each step."""
    copies = [
        [
            [p.detach().clone().requires_grad_() for p in layer.parameters()]
            for layer in network.layers
        ]
        for _ in range(steps)
    ]
    for weights in copies:
        state = move(weights, state)
    loss = (state[-1] - TARGET).square().sum() / 2 / len(X)
    flat = [p for weights in copies for layer in weights for p in layer]
    return iter(torch.autograd.grad(loss, flat, materialize_grads=True))


def euler(rho, dt, weights, states):
    """One step down the energy by autograd, with a graph."""
    named = {}
    for name, (matrix, bias) in zip(("h1", "h2", "y"), weights, strict=True):
        named |= {f"W_{name}": matrix, f"b_{name}": bias}
    states = [s if s.requires_grad else s.requires_grad_() for s in states]
    slopes = torch.autograd.grad(energy(named, rho, states), states, create_graph=True)
    return [s - dt * g for s, g in zip(states, slopes, strict=True)]


def map_of_hard(weights, states):
    """One step in discrete time with rho = clip(0, 1)."""
    (w1, b1), (w2, b2), (w3, b3) = weights
    s1, s2, y = states
    return [
        (X @ w1.T + b1 + s2 @ w2).clamp(0, 1),
        (s1 @ w2.T + b2 + y @ w3).clamp(0, 1),
        (s2 @ w3.T + b3).clamp(0, 1),
    ]


@pytest.mark.parametrize(
    ("rho", "dynamics", "dt"),
    [
        ("tanh", "energy", 0.5),
        ("logistic", "energy", 0.8),
        ("identity", "energy", 1.0),
        ("hard", "prototypical", 1.0),
    ],
)
def test_step_by_step_the_update_is_the_gradient_of_backpropagation_through_time(rho, dynamics, dt):
    network = dense(rho, scale=0.4)
    if rho == "hard":
        for name, weight in network.weights.items():
            weight.data.mul_(0.5) if name[0] == "W" else weight.data.fill_(0.4)
    steps, options = 6, {"free": 400, "nudged": 6, "dynamics": dynamics, "dt": dt}
    state = EquilibriumPropagation(network, **options).settle(X)
    state = [s.detach().clone() for s in state]
    if rho == "hard":  # where rho has slope 1, and Ernoult's theorem holds without a remainder
        assert all(float(s.min()) > 0.02 and float(s.max()) < 0.98 for s in state)
    move = map_of_hard if rho == "hard" else partial(euler, FUNCTIONS[rho], dt)
    gradients = through_time(network, move, state, steps)
    expected = [[[next(gradients) for _ in range(2)] for _ in range(3)] for _ in range(steps)]
    coarse, fine = (increments(network, beta, **options) for beta in (2e-4, 1e-4))
    scale = max(float(g.abs().max()) for step in expected for layer in step for g in layer)
    for t in range(steps):
        for k in range(3):
            for one, two, wanted in zip(
                coarse[t][k], fine[t][k], expected[steps - 1 - t][k], strict=True
            ):
                limit = 2 * two - one  # of beta -> 0, but for the second order
                torch.testing.assert_close(limit, -wanted, rtol=1e-5, atol=1e-7 * scale)
    first = max(float(step[0][0].abs().max()) for step in expected)
    assert first > 1e-4 * scale  # the error has come to the first layer


def test_the_steps_add_up_to_the_update_of_the_two_phases():
    options = {"form": "one_sided", "beta": 0.4, "nudged": 5}
    network = dense()
    total = [
        sum(parts)
        for parts in zip(
            *([g for layer in step for g in layer] for step in increments(network, 0.4, nudged=5)),
            strict=True,
        )
    ]
    found = change(EquilibriumPropagation(network, UNIT, **options))
    for value, expected in zip(found.values(), total, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-13)


def test_weights_that_move_on_the_way_do_as_the_two_phases_at_small_rates():
    options = {"form": "one_sided", "beta": 0.4, "nudged": 5}
    expected = change(EquilibriumPropagation(dense(), UNIT, **options))
    errors = []
    for rate in (1e-2, 1e-3, 1e-4):
        rule = ContinualEquilibriumPropagation(
            dense(), partial(torch.optim.SGD, lr=rate), **options
        )
        found = change(rule)
        errors.append(max(float((found[n] / rate - expected[n]).abs().max()) for n in found))
    assert errors[0] > 1e-5  # they do hear each other
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.1)


def test_the_bias_is_of_first_order_in_beta_and_of_second_if_centred():
    network, options = dense(), {"free": 300, "nudged": 300}
    state = [s.detach().clone() for s in EquilibriumPropagation(network, **options).settle(X)]
    gradients = list(through_time(network, partial(euler, torch.tanh, 0.5), state, 150))
    expected = [-sum(gradients[i::6]) for i in range(6)]

    def error(form, beta):
        rule = EquilibriumPropagation(network, form=form, beta=beta, **options)
        kept = []
        rule.step = lambda _, found: kept.extend(-g for g in found)
        rule.present(X, LABELS)
        return max(float((a - b).abs().max()) for a, b in zip(kept, expected, strict=True))

    assert error("one_sided", 0.02) / error("one_sided", 0.01) == pytest.approx(2, rel=0.1)
    assert error("centred", 0.08) / error("centred", 0.04) == pytest.approx(4, rel=0.1)
    assert error("centred", 0.01) < 0.1 * error("one_sided", 0.01)


def test_signs_are_drawn_and_both():
    rule = EquilibriumPropagation(dense(), seed=3)
    signs = [rule.signed() for _ in range(40)]
    assert set(signs) == {0.5, -0.5}
    assert {EquilibriumPropagation(dense(), form="one_sided").signed() for _ in range(20)} == {0.5}


@pytest.mark.parametrize("rule", RULES)
def test_an_observer_sees_and_changes_every_state(rule):
    learner, seen = rule(dense(bias=False), free=60, nudged=2, form="one_sided"), []

    def observer(k, s):
        seen.append((k, s.shape[1]))
        return torch.zeros_like(s) if k == 1 else s

    learner.observer = observer
    found = change(learner)
    assert seen == [(0, 8), (1, 7), (2, CLASSES)] * 62
    assert not found["W_h2_h1"].any()
    assert not found["W_y_h2"].any()
    assert found["W_h1_x"].abs().max() < 1e-12  # nothing reaches it but through layer 2


@pytest.mark.parametrize("rule", RULES)
def test_no_graph_is_built_and_types_are_kept(rule):
    learner, seen = rule(dense().float()), []
    learner.observer = lambda _, s: (seen.append((s.requires_grad, s.dtype)), s)[1]
    assert learner.present(X.float(), LABELS).dtype == torch.float32
    assert set(seen) == {(False, torch.float32)}


@pytest.mark.parametrize("rule", RULES)
def test_a_run_goes_on_from_a_snapshot_bit_for_bit(rule):
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    learner = rule(dense(), make)
    learner.present(X, LABELS)
    kept = learner.snapshot()
    other = rule(dense(seed=5), make, seed=9)
    other.restore(kept)
    for _ in range(6):  # with the same signs
        learner.present(X, LABELS)
        other.present(X, LABELS)
    assert all(torch.equal(w, other.weights[name]) for name, w in learner.weights.items())


@pytest.mark.parametrize("rule", RULES)
def test_digits_are_learned_and_better_than_by_the_output_alone(rule):
    def reached(rates, seed):
        network = ct.Layers.dense([64, 32, 10], rho="hard", output="hard", seed=seed)
        for weight in network.parameters():
            weight.data *= 0.5  # so that no output unit is silent from the beginning
        makers = [partial(torch.optim.SGD, lr=rate) for rate in rates]
        learner = rule(network, makers, form="one_sided", free=12, seed=seed)
        return ct.train(learner, digits(), epochs=4, batch=10, seed=seed).test_accuracy[-1]

    taught = [reached((0.2, 0.1), seed) for seed in range(2)]
    alone = reached((0.0, 0.1), 0)
    assert min(taught) > 0.92
    assert min(taught) > alone + 0.02


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("scale", "free"), [(50.0, 30), (1e20, 40)])
def test_a_free_phase_that_runs_away_is_refused(rule, scale, free):
    learner = rule(dense("identity", scale=scale), free=free)
    before = {name: w.clone() for name, w in learner.weights.items()}
    with pytest.raises(IntegrationError, match="smaller dt") as caught:
        learner.present(X, LABELS)
    assert isinstance(caught.value, ConvergenceError) == (scale == 50.0)
    assert all(torch.equal(w, before[name]) for name, w in learner.weights.items())


def test_slopes_are_derivatives():
    a = torch.linspace(-3, 3, 41, dtype=torch.float64) + 0.01
    modules = [nn.Identity(), nn.ReLU(), nn.Hardtanh(-0.5, 2.0), nn.Tanh(), nn.Sigmoid()]
    for module in [*modules, nn.Softplus(), nn.Softplus(beta=2.0)]:
        leaf = a.clone().requires_grad_()
        h = module(leaf)
        expected = torch.autograd.grad(h.sum(), leaf)[0]
        found = SLOPES[type(module)](module, h.detach())
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert {type(module) for module in modules} | {nn.Softplus} == set(SLOPES)


def test_settings_say_what_decides():
    settings = EquilibriumPropagation(dense(), form="centred", beta=0.3, free=7, dt=0.25).settings
    expected = {"form": "centred", "beta": 0.3, "free": 7, "nudged": 4, "dt": 0.25}
    assert {name: settings[name] for name in expected} == expected
    assert settings["dynamics"] == "energy"


def nets():
    linear = nn.Linear(16, CLASSES)
    return {
        "conv": ct.Layers(
            nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.Tanh()),
            nn.Sequential(nn.Flatten(), nn.Linear(8, CLASSES)),
            inputs=16,
        ),
        "in place": ct.Layers(nn.Sequential(linear, nn.ReLU(inplace=True)), inputs=16),
        "other rho": ct.Layers(nn.Sequential(linear, nn.GELU()), inputs=16),
        "normalised": ct.Layers(nn.Sequential(linear, nn.Tanh(), nn.LayerNorm(CLASSES)), inputs=16),
        "empty": ct.Layers(nn.Sequential(), inputs=16),
    }


@pytest.mark.parametrize("name", nets())
def test_layers_that_are_not_dense_are_refused(name):
    with pytest.raises(ValueError, match=r"(?s)layer (h1|y) is .*RelaxingRule takes dense layers"):
        RelaxingRule(nets()[name])


def test_a_linear_map_alone_is_a_layer():
    network = ct.Layers(nn.Linear(16, CLASSES, dtype=torch.float64), inputs=16)
    rule = EquilibriumPropagation(network, free=60)
    torch.testing.assert_close(rule.respond(X), network(X).detach())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "one_side"}, "did you mean 'one_sided'"),
        ({"dynamics": "energetic"}, "did you mean 'energy'"),
        ({"beta": 0.0}, "beta must be > 0"),
        ({"free": 0}, "free must be a whole number"),
        ({"nudged": 1.5}, "nudged must be a whole number"),
        ({"dt": 1.5}, r"dt must lie in \(0, 1\]"),
    ],
)
def test_bad_options_are_refused(rule, options, message):
    with pytest.raises(ValueError, match=message):
        rule(dense(), **options)


def test_the_centred_form_is_not_for_weights_that_move_on_the_way():
    with pytest.raises(ValueError, match="unknown form 'centred'"):
        ContinualEquilibriumPropagation(dense(), form="centred")
