from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.learning.backprop import LOSSES, Backpropagation, cost
from ctsigprop.learning.feedback_alignment import DirectFeedbackAlignment, FeedbackAlignment

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
UNIT = partial(torch.optim.SGD, lr=1.0)
RULES = [FeedbackAlignment, DirectFeedbackAlignment]


def dense(rho="tanh", output="identity", bias=True, seed=1):
    return ct.Layers.dense(
        [16, 8, 7, CLASSES], rho=rho, output=output, bias=bias, seed=seed
    ).double()


def conv(dtype=torch.float64):
    """Return two convolutions and a linear map, with pooling, and a nonlinearity in place."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return ct.Layers(
            nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.Tanh()),
            nn.Sequential(nn.Conv2d(4, 5, 2, bias=False), nn.LeakyReLU(inplace=True)),
            nn.Sequential(nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(20, CLASSES)),
            inputs=16,
        ).to(dtype)


def change(rule, x=X, labels=LABELS):
    before = {name: value.clone() for name, value in rule.weights.items()}
    rule.present(x, labels)
    return {name: before[name] - value for name, value in rule.weights.items()}


def same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


def errors(rule, weights, rho):
    """Return δ_1 … δ_3 of a dense network by the equations of the rule, the mean in δ_3."""
    w = {name: value.clone() for name, value in weights.items()}
    a1 = X @ w["W_h1_x"].T + w["b_h1"]
    a2 = rho(a1) @ w["W_h2_h1"].T + w["b_h2"]
    y = rho(a2) @ w["W_y_h2"].T + w["b_y"]
    slopes = [torch.func.vmap(torch.func.vmap(torch.func.grad(rho)))(a) for a in (a1, a2)]
    last = (torch.softmax(y, 1) - torch.eye(CLASSES, dtype=y.dtype)[LABELS]) / len(X)
    if isinstance(rule, FeedbackAlignment):
        second = (last @ rule.B_y_h2) * slopes[1]
        first = (second @ rule.B_h2_h1) * slopes[0]
    else:
        second = (last @ rule.B_h2_y.T) * slopes[1]
        first = (last @ rule.B_h1_y.T) * slopes[0]
    return {"h1": (first, X), "h2": (second, rho(a1)), "y": (last, rho(a2))}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("rho", "function"), [("tanh", torch.tanh), ("softplus", nn.functional.softplus)]
)
def test_the_update_of_a_dense_network_is_that_of_the_equations(rule, rho, function):
    learner = rule(dense(rho), UNIT, seed=3)
    expected = {}
    for name, (delta, before) in errors(learner, learner.weights, function).items():
        matrix = next(n for n in learner.weights if n.startswith(f"W_{name}"))
        expected[matrix] = delta.T @ before
        expected[f"b_{name}"] = delta.sum(0)
    same(change(learner), expected, rtol=1e-10, atol=1e-13)


def test_the_update_of_convolutions_is_that_of_the_equations():
    rule = FeedbackAlignment(conv(), UNIT, seed=3)
    one, two, three = rule.network.layers
    with torch.no_grad():
        h1 = one(X)
        a2 = nn.functional.conv2d(h1, two[0].weight)
        h2 = nn.functional.leaky_relu(a2)
        pooled = nn.functional.avg_pool2d(h2, 2, 1).flatten(1)
        y = pooled @ three[2].weight.T + three[2].bias
    e3 = (torch.softmax(y, 1) - torch.eye(CLASSES, dtype=y.dtype)[LABELS]) / len(X)
    spread = torch.zeros_like(h2)  # what averages 2 by 2 gives a quarter back to each
    for row in range(2):
        for column in range(2):
            spread[:, :, row : row + 2, column : column + 2] += (e3 @ rule.B_y_h2).reshape(
                -1, 5, 2, 2
            )[:, :, row, column, None, None] / 4
    e2 = spread * torch.where(a2 > 0, torch.ones_like(a2), 0.01)
    e1 = nn.functional.conv_transpose2d(e2, rule.B_h2_h1) * (1 - h1**2)
    expected = {
        "W_h1_x": torch.nn.grad.conv2d_weight(X.reshape(-1, 1, 4, 4), (4, 1, 3, 3), e1, padding=1),
        "b_h1": e1.sum((0, 2, 3)),
        "W_h2_h1": torch.nn.grad.conv2d_weight(h1, (5, 4, 2, 2), e2),
        "W_y_h2": e3.T @ pooled,
        "b_y": e3.sum(0),
    }
    same(change(rule), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make",
    [
        dense,
        partial(dense, bias=False, output="logistic"),
        conv,
        lambda: conv().to(memory_format=torch.channels_last),
    ],
    ids=["dense", "no bias", "conv", "channels last"],
)
def test_with_the_weights_for_feedback_it_is_backpropagation(make, dtype, loss):
    networks = [make().to(dtype) for _ in range(2)]
    rule = FeedbackAlignment(networks[0], UNIT, loss=loss)
    for weight, feedback in (("W_y_h2", rule.B_y_h2), ("W_h2_h1", rule.B_h2_h1)):
        feedback.copy_(rule.weights[weight])
    expected = change(Backpropagation(networks[1], UNIT, loss=loss), X.to(dtype))
    same(change(rule, X.to(dtype)), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [dense, conv])
def test_direct_feedback_replaces_the_error_of_what_a_layer_gives(make):
    rule = DirectFeedbackAlignment(make(), UNIT, loss="squared_error", seed=4)
    y = rule.respond(X)
    e = (y - torch.eye(CLASSES, dtype=y.dtype)[LABELS]) / len(X)
    expected, h = {}, X
    for k, name in enumerate(rule.network.names):
        before, h = h.detach(), rule.network.layers[k](h.detach())
        sent = e if name == "y" else (e @ getattr(rule, f"B_{name}_y").T).reshape(h.shape)
        weights = rule.network.weights_of(k)
        assert not before.requires_grad
        slopes = torch.autograd.grad((h * sent).sum(), list(weights.values()))
        expected |= dict(zip(weights, slopes, strict=True))
    same(change(rule), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [dense, conv])
def test_the_output_layer_learns_as_by_backpropagation_and_feedback_rests(rule, make):
    learner = rule(make(), UNIT)
    feedback = {name: value.clone() for name, value in learner.named_buffers()}
    assert feedback
    network = make()
    weights = network.weights_of(2)
    value = cost(network(X), LABELS, "cross_entropy")
    expected = torch.autograd.grad(value, list(weights.values()))
    found = change(learner)
    for name, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-13)
    for name, now in learner.named_buffers():
        assert torch.equal(now, feedback[name])


@pytest.mark.parametrize("rule", [*RULES, Backpropagation])
def test_weights_exchanged_before_the_way_back_change_nothing_but_backpropagation(rule):
    found = []
    for exchange in (False, True):
        learner, handed = rule(dense()), {}

        def observer(k, h, network=learner.network, exchange=exchange):
            if k == 2 and exchange:
                for layer in list(network.layers)[1:]:
                    layer[0].weight.data.mul_(-3.0)
            return h

        learner.observer, learner.step = observer, handed.__setitem__
        learner.present(X, LABELS)
        found.append(handed)
    for k in (0, 1):
        equal = [torch.equal(a, b) for a, b in zip(found[0][k], found[1][k], strict=True)]
        assert all(equal) if rule in RULES else not any(equal)


def test_by_direct_feedback_no_graph_reaches_across_layers():
    rule, graphs = DirectFeedbackAlignment(dense()), []
    for layer in rule.network.layers:
        layer.register_forward_pre_hook(lambda _, given: graphs.append(given[0].requires_grad))
    rule.present(X, LABELS)
    assert graphs == [False] * 3


def test_the_order_of_the_steps():
    steps = {}
    for rule in RULES:
        learner, seen = rule(dense()), steps.setdefault(rule, [])
        learner.step = lambda k, _, seen=seen: seen.append(k)
        learner.present(X, LABELS)
    assert steps == {FeedbackAlignment: [2, 1, 0], DirectFeedbackAlignment: [2, 0, 1]}


def test_feedback_is_drawn_from_the_seed_within_its_bounds():
    for rule in RULES:
        drawn = [
            dict(rule(dense(), seed=s, gain=g).named_buffers())
            for s, g in ((0, 1.0), (0, 1.0), (1, 1.0), (0, 2.0))
        ]
        for name, value in drawn[0].items():
            assert torch.equal(value, drawn[1][name])
            assert not torch.equal(value, drawn[2][name])
            torch.testing.assert_close(2 * value, drawn[3][name])
            bound = (6 / sum(value.shape)) ** 0.5
            assert 0.8 * bound < value.abs().max() <= bound
    network = dense().float()
    assert {b.dtype for b in FeedbackAlignment(network).buffers()} == {torch.float32}


def test_weights_come_to_point_along_the_feedback():
    rule = FeedbackAlignment(ct.Layers.dense([64, 32, 10], rho="tanh"))

    def angle():
        pair = (rule.weights["W_y_h1"].flatten(), rule.B_y_h1.flatten())
        return torch.cosine_similarity(*pair, dim=0).acos().rad2deg().item()

    before = angle()
    ct.train(rule, digits(), epochs=3)
    assert before > 75
    assert angle() < before - 20


@pytest.mark.parametrize("rule", RULES)
def test_digits_are_learned_and_better_than_by_the_output_alone(rule):
    sgd, still = partial(torch.optim.SGD, lr=0.5), partial(torch.optim.SGD, lr=0.0)
    reached = [
        ct.train(
            rule(ct.Layers.dense([64, 32, 32, 10], rho="tanh", seed=seed), optimizer, seed=seed),
            digits(),
            epochs=12,
            batch=50,
            seed=seed,
        ).test_accuracy[-1]
        for optimizer in (sgd, [still, still, sgd])
        for seed in range(2)
    ]
    assert min(reached[:2]) > 0.92
    assert min(reached[:2]) > max(reached[2:]) + 0.05


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [dense, conv])
def test_a_run_goes_on_from_a_snapshot_bit_for_bit(rule, make):
    adam = partial(torch.optim.Adam, lr=1e-2)
    learner = rule(make(), adam)
    learner.present(X, LABELS)
    kept = learner.snapshot()
    learner.present(X, LABELS)
    other = rule(make(), adam, seed=9)  # its feedback is that of the snapshot then
    other.restore(kept)
    other.present(X, LABELS)
    assert all(torch.equal(w, other.weights[name]) for name, w in learner.weights.items())


def test_settings_say_what_decides():
    for rule in RULES:
        settings = rule(dense(), gain=2.0, loss="squared_error", seed=7).settings
        assert (settings["gain"], settings["loss"], settings["rule_seed"]) == (
            2.0,
            "squared_error",
            7,
        )


def two_maps():
    return ct.Layers(
        nn.Linear(16, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), inputs=16
    )


def recurrent():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(3, 8))

        def forward(self, h):
            return h @ self.matrix.T

    return ct.Layers(nn.Linear(16, 8), Cell(), inputs=16)


@pytest.mark.parametrize("make", [two_maps, recurrent])
def test_layers_through_which_the_error_cannot_pass_are_refused(make):
    with pytest.raises(ValueError, match="layer y must hold one linear map or convolution"):
        FeedbackAlignment(make())
    DirectFeedbackAlignment(make())  # goes past them


def test_a_layer_that_works_with_a_copy_of_its_weight_is_refused_before_it_learns():
    rule = FeedbackAlignment(dense().float())
    before = {name: value.clone() for name, value in rule.weights.items()}
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match="layer h2 works with a copy of its weight"),
    ):
        rule.learn(X.float(), LABELS)
    assert all(torch.equal(value, before[name]) for name, value in rule.weights.items())


@pytest.mark.parametrize("rule", RULES)
def test_bad_options_are_refused(rule):
    with pytest.raises(ValueError, match="gain must be positive"):
        rule(dense(), gain=0.0)
    with pytest.raises(ValueError, match="did you mean 'cross_entropy'"):
        rule(dense(), loss="crossentropy")
