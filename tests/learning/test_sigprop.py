from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ctsigprop.data import digits
from ctsigprop.learning.context import Loop, Overlay, TargetInput, TargetOnly
from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.learning.losses import ArgMax, Goodness, Hebbian, MaxAll, TopK, similarity
from ctsigprop.learning.sigprop import Sigprop
from ctsigprop.models.layers import Layers
from ctsigprop.models.networks import sigprop_network
from ctsigprop.solvers.relaxation import Steady
from ctsigprop.train import train

CLASSES = 3
UNIT = partial(torch.optim.SGD, lr=1.0)
ADAM = partial(torch.optim.Adam, lr=3e-3)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
CODES = torch.randn(CLASSES, 4, generator=GENERATOR, dtype=torch.float64)


def dense(inputs: int = 16, rho: str = "tanh", seed: int = 1) -> Layers:
    return Layers.dense([inputs, 8, 7, 6, CLASSES], rho=rho, seed=seed).double()


def conv() -> Layers:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Layers(
            nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.Tanh()),
            nn.Sequential(nn.Conv2d(4, 5, 2), nn.Softplus(), nn.MaxPool2d(2, 1)),
            nn.Sequential(nn.Flatten(), nn.Linear(20, CLASSES)),
            inputs=16,
        ).double()


def row_norm() -> Layers:
    """Return layers with nothing to learn first, and a normalisation of each sample inside."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Layers(
            nn.Tanh(),
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8, bias=False), nn.ReLU()),
            nn.Linear(8, CLASSES),
            inputs=16,
        ).double()


Make = Callable[[], Sigprop]
RULES: dict[str, Make] = {
    "direct": lambda: Sigprop(dense(), UNIT),
    "direct, nearest": lambda: Sigprop(dense(), UNIT, predict="nearest"),
    "direct, early": lambda: Sigprop(dense(), UNIT, predict="early"),
    "max-all, codes": lambda: Sigprop(dense(), UNIT, loss=MaxAll(), contexts=CODES),
    "argmax, nearest": lambda: Sigprop(dense(), UNIT, loss=ArgMax(), predict="nearest"),
    "top-k": lambda: Sigprop(dense(), UNIT, loss=TopK(k=2)),
    "convolutions": lambda: Sigprop(conv(), UNIT),
    "nothing first": lambda: Sigprop(row_norm(), UNIT, loss=TopK()),
    "target-input": lambda: Sigprop(dense(), UNIT, transform=TargetInput),
    "target-input, projected": lambda: Sigprop(
        dense(9), UNIT, transform=partial(TargetInput, inputs=16)
    ),
    "loop": lambda: Sigprop(dense(), UNIT, transform=Loop, loss=MaxAll()),
    "loop, gated, learned": lambda: Sigprop(
        dense(), UNIT, transform=partial(Loop, signal="gated", learned=True), loss=TopK()
    ),
    "overlay": lambda: Sigprop(dense(19), UNIT, transform=Overlay),
    "goodness": lambda: Sigprop(
        dense(19), UNIT, transform=Overlay, loss=Goodness(), predict="nearest"
    ),
    "hebbian": lambda: Sigprop(dense(), UNIT, loss=Hebbian()),
    "hebbian, nearest": lambda: Sigprop(dense(), UNIT, loss=Hebbian("input"), predict="nearest"),
    "hebbian, target-input": lambda: Sigprop(dense(), UNIT, loss=Hebbian(), transform=TargetInput),
    "hebbian, loop": lambda: Sigprop(dense(), UNIT, loss=Hebbian("input"), transform=Loop),
}
EVERY = pytest.mark.parametrize("name", RULES)


def parameters(rule: Sigprop) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in rule.named_parameters()}


def watched(rule: Sigprop, x: Tensor = X, labels: Tensor = LABELS) -> list[Tensor]:
    """Return the activity of each layer, h above t, as one presentation shows it."""
    seen: list[Tensor] = []

    def watch(k: int, activity: Tensor) -> Tensor:
        if k >= 0:
            seen.append(activity)
        return activity

    rule.observer = watch
    rule.present(x, labels)
    rule.observer = None
    return seen


def leaves(activity: Tensor) -> set[int]:
    """The parameters that the graph of a tensor reaches."""
    found, todo, seen = set(), [activity.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        todo.extend(parent for parent, _ in node.next_functions)
    return found


@EVERY
def test_the_graph_of_a_layer_reaches_its_own_parameters_only(name: str) -> None:
    rule = RULES[name]()
    seen = watched(rule)
    assert len(seen) == rule.network.depth
    for k, activity in enumerate(seen):
        own = {id(p) for p in rule.parameters_of(k)}
        if isinstance(rule.loss, Hebbian):
            assert not activity.requires_grad
        else:
            assert leaves(activity) == own


def test_the_hebbian_rule_needs_no_autograd_at_all() -> None:
    plain, quiet = RULES["hebbian"](), RULES["hebbian"]()
    plain.present(X.clone().requires_grad_(), LABELS)
    with torch.no_grad():
        quiet.present(X, LABELS)
    for a, b in zip(plain.parameters(), quiet.parameters(), strict=True):
        assert torch.equal(a, b)


@EVERY
def test_a_pass_together_is_two_passes(name: str) -> None:
    rule, again = RULES[name](), RULES[name]()
    seen, size = watched(rule), len(X)
    h, t = again.transform.front(X), seen[0][size:].detach()
    for k, activity in enumerate(seen):
        h = again.network.layers[k](h)
        torch.testing.assert_close(activity[:size], h, rtol=0, atol=1e-12)
        if k:
            t = again.network.layers[k](t)
        if len(activity) > size:
            torch.testing.assert_close(activity[size:], t, rtol=0, atol=1e-12)


def correlation_loss(h: Tensor, t: Tensor) -> Tensor:
    """Direct's, written out: cross-entropy of sqrt(n) times the correlation coefficients."""
    h, t = h.flatten(1), t.flatten(1)
    r = torch.corrcoef(torch.cat([h, t]))[: len(h), len(h) :]
    return functional.cross_entropy(r * h.shape[1] ** 0.5, LABELS)


@pytest.mark.parametrize("make", [dense, conv])
def test_each_layer_steps_down_its_own_loss(make: Callable[[], Layers]) -> None:
    wide = partial(TargetOnly, spread=1.0)
    rule, network = Sigprop(make(), UNIT, transform=wide), make()
    code = Sigprop(make(), transform=wide).transform
    assert isinstance(code, TargetOnly)
    h, t = X, code(torch.eye(CLASSES, dtype=torch.float64), X, X)
    rule.present(X, LABELS)
    for k, layer in enumerate(network.layers):
        ours = [*layer.parameters(), *([*code.parameters()] if k == 0 else [])]
        h = layer(h.detach())
        t = t if k == 0 else layer(t.detach())
        last = k == network.depth - 1
        loss = functional.cross_entropy(h, LABELS) if last else correlation_loss(h, t)
        gradients = torch.autograd.grad(loss, ours)
        for now, start, slope in zip(rule.parameters_of(k), ours, gradients, strict=True):
            assert slope.abs().max() > 1e-6
            torch.testing.assert_close(now, start - slope, rtol=1e-9, atol=1e-10)


def test_the_step_is_the_slope_by_finite_differences() -> None:
    start, rule = RULES["direct"](), RULES["direct"]()
    h, t = (a.detach() for a in watched(start)[0].tensor_split([len(X)]))
    layer = RULES["direct"]().network.layers[1]
    assert isinstance(layer, nn.Sequential)
    before = layer[0].weight.detach().clone()
    rule.present(X, LABELS)
    change = rule.network.weights["W_h2_h1"].detach() - before
    for i, j in ((0, 0), (3, 5), (6, 7)):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                layer[0].weight.copy_(before)
                layer[0].weight[i, j] += step
                values.append(float(correlation_loss(layer(h), layer(t))))
        slope = (values[0] - values[1]) / 2e-5
        assert -float(change[i, j]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("pre", ["context", "input"])
def test_the_hebbian_step_is_that_of_its_equation(pre: Any) -> None:
    rule, network = Sigprop(dense(), UNIT, loss=Hebbian(pre)), dense()
    t = [c.detach() for c in Sigprop(dense()).transform(torch.eye(CLASSES).double(), X, X)]
    rule.present(X, LABELS)
    h, size = X, len(X)
    for k, (layer, name) in enumerate(zip(network.layers, network.names, strict=True)):
        assert isinstance(layer, nn.Sequential)
        aims = torch.stack([t[c] for c in LABELS])
        own = h if k == 0 or pre == "input" or name == "y" else aims
        above = layer(h).detach()
        codes = [layer(c).detach() for c in t] if k else t
        error = torch.stack([codes[c] for c in LABELS]) - above
        if name == "y":
            error = torch.eye(CLASSES).double()[LABELS] - above.softmax(1)
        width = own.shape[1]
        weight = layer[0].weight + error.T @ own / size / width
        bias = layer[0].bias + error.mean(0) / width
        mine = [*rule.network.layers[k].parameters()]
        torch.testing.assert_close(mine[0], weight, rtol=0, atol=1e-12)
        torch.testing.assert_close(mine[1], bias, rtol=0, atol=1e-12)
        h, t = above, codes


@pytest.mark.parametrize("strength", [0.1, 0.01])
def test_error_forward_propagation_is_the_loop_in_discrete_and_continuous_time(
    strength: float,
) -> None:
    """In a loop as weak as this the error comes to the front once, and not again."""
    sizes, x, label = [16, 8, 7, CLASSES], X[:1].float(), LABELS[1:2]
    layers = Layers.dense(sizes, rho="tanh", seed=3)
    start = {name: w.detach().clone() for name, w in layers.weights.items()}
    h2, y = (h.detach() for h in layers.activities(x)[1:])
    loop = partial(Loop, strength=strength)
    discrete = Sigprop(layers, UNIT, transform=loop, loss=Hebbian("input"))
    network = sigprop_network(sizes, rho="tanh", eta=1.0, beta=1.0)
    (back,) = (current for current in network.currents if current.name == "B_h1_y")
    back.weight.data = (start["W_h1_x"] @ discrete.transform.B).to(back.weight)  # type: ignore[operator]
    continuous = ContinuousSigprop(network, update="delta", solver=Steady(tol=1e-7))
    # the same hidden states and the same output, softmax in one and tanh in the other, when free
    rest = y.softmax(1)
    biases = {"W_h1_one": -back.weight.float() @ rest.T}
    biases["W_y_one"] = (rest.atanh() - h2 @ start["W_y_h2"].T).T
    continuous.weights |= {n: w for n, w in start.items() if n[0] == "W"} | biases
    discrete.present(x, label)
    torch.testing.assert_close(continuous.present(x, label), rest)
    for inputs, name in zip(sizes, ("W_h1_x", "W_h2_h1", "W_y_h2"), strict=False):
        one = inputs * (discrete.weights[name] - start[name])
        other = 2 * (continuous.weights[name] - start[name])  # beta = 1 goes half the way
        assert one.norm() > 0.3 * strength
        assert (one - other).norm() < 0.5 * strength * one.norm()


@EVERY
def test_the_update_knows_nothing_of_the_layers_above(name: str) -> None:
    rule, other = RULES[name](), RULES[name]()
    last = rule.network.depth - 1
    with torch.no_grad():
        for p in other.network.layers[last].parameters():
            p.mul_(2.0).add_(0.1)
    rule.present(X, LABELS)
    other.present(X, LABELS)
    same = [
        torch.equal(a, b)
        for k in range(last)
        for a, b in zip(rule.parameters_of(k), other.parameters_of(k), strict=True)
    ]
    if rule.transform.loops:  # the error enters in front, and says how the output was
        assert not any(same[:2])
    else:
        assert all(same)


def test_pairs_do_not_fade_with_depth() -> None:
    labels = torch.arange(30) % CLASSES
    found = []

    class Spy(MaxAll):
        def __call__(self, scores: Tensor, agreement: Tensor) -> Tensor:
            found.append(agreement > 1 - 1e-9)
            return super().__call__(scores, agreement)

    network = Layers.dense([16, *[12] * 15, CLASSES], seed=3).double()
    rule = Sigprop(network, ADAM, loss=Spy(), contexts=CODES)
    rule.present(torch.rand(30, 16).double(), labels)
    assert len(found) == 15
    assert all(torch.equal(pairs, labels[:, None] == labels) for pairs in found)


@EVERY
def test_the_outputs_are_those_from_before(name: str) -> None:
    rule = RULES[name]()
    answer = rule.respond(X)
    outputs = rule.present(X, LABELS)
    assert outputs.shape == (12, CLASSES)
    assert not outputs.requires_grad
    if rule.predict != "early":
        torch.testing.assert_close(outputs, answer, rtol=0, atol=1e-12)
    assert not torch.equal(rule.respond(X), answer)


@EVERY
def test_an_observer_may_replace_what_goes_on(name: str) -> None:
    rule = RULES[name]()
    seen: list[Tensor] = []

    def silence(k: int, activity: Tensor) -> Tensor:
        if k >= 0:
            seen.append(activity)
        return activity * 0 if k == 0 else activity

    rule.observer = silence
    rule.present(X, LABELS)
    bias = RULES[name]().network.layers[1](torch.zeros_like(seen[0][:1]))
    torch.testing.assert_close(seen[1], bias.expand_as(seen[1]))


@EVERY
def test_a_snapshot_goes_on_bit_for_bit(name: str) -> None:
    rule, other = RULES[name](), RULES[name]()
    rule.present(X, LABELS)
    kept = rule.snapshot()
    outputs = [rule.present(X, LABELS) for _ in range(2)]
    other.restore(kept)
    for output in outputs:
        assert torch.equal(other.present(X, LABELS), output)
    assert all(
        torch.equal(a, b) for a, b in zip(rule.parameters(), other.parameters(), strict=True)
    )


def test_dropout_is_for_learning_alone() -> None:
    network = Layers(nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.5)), nn.Linear(8, 3), inputs=16)
    rule = Sigprop(network)
    x = X.float()
    rule.present(x, LABELS)
    assert torch.equal(rule.respond(x), rule.respond(x))
    assert network.training


def narrowed(rule: Sigprop) -> np.ndarray:
    """Early prediction sample by sample."""
    t = rule.transform(rule.contexts, X, X)
    found = np.zeros((len(X), CLASSES))
    for i, h in enumerate(X):
        alive, context = list(range(CLASSES)), t
        for k, layer in enumerate(rule.network.layers):
            h = layer(h[None])[0]
            context = layer(context) if k else context
            r = similarity(h[None], context)[0].tolist()
            best = max(r[j] for j in alive)
            for j in alive:
                found[i, j] = k + (r[j] >= best - rule.margin) + (1 + r[j]) / 2
            alive = [j for j in alive if r[j] >= best - rule.margin]
            if len(alive) == 1:
                break
    return found


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.6])
def test_early_prediction_narrows_the_classes_down(margin: float) -> None:
    rule = Sigprop(dense(seed=3), UNIT, predict="early", margin=margin)
    with torch.no_grad():
        want = narrowed(rule)
    np.testing.assert_allclose(rule.respond(X), want, rtol=0, atol=2e-6)
    layers = rule.respond(X).amax(1).floor()
    assert (layers == 1).all() if margin == 0 else len(layers.unique()) > 1


def test_with_the_widest_margin_early_is_nearest() -> None:
    early, nearest = (
        Sigprop(dense(seed=3), UNIT, predict=p, margin=2.0)  # type: ignore[arg-type]
        for p in ("early", "nearest")
    )
    assert torch.equal(early.respond(X).argmax(1), nearest.respond(X).argmax(1))


SEQUENCE = torch.rand(12, 5, 16, generator=GENERATOR, dtype=torch.float64)


def test_a_sequence_of_one_is_a_presentation() -> None:
    one, other = RULES["direct"](), RULES["direct"]()
    torch.testing.assert_close(one.learn_sequence(X[:, None], LABELS), other.present(X, LABELS))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("transform", [TargetOnly, TargetInput])
@pytest.mark.parametrize("predict", ["readout", "nearest"])
def test_states_leak_towards_the_drive(predict: Any, transform: Any) -> None:
    leak = 0.3
    still = partial(torch.optim.SGD, lr=0.0)
    rule = Sigprop(dense(), still, predict=predict, transform=transform)
    h = t = None
    with torch.no_grad():
        codes = rule.transform(rule.contexts, X, X)
        states: list[tuple[Tensor, Tensor]] = []
        for now in SEQUENCE.unbind(1):
            h, t = now, codes
            for k, layer in enumerate(rule.network.layers):
                h = layer(h)
                t = layer(t) if k or rule.transform.through else t
                if len(states) > k:
                    h = (1 - leak) * states[k][0] + leak * h
                    t = (1 - leak) * states[k][1] + leak * t
                    states[k] = h, t
                else:
                    states.append((h, t))
        want = h if predict == "readout" else rule.loss.scores(h, t)  # type: ignore[arg-type]
    for found in (
        rule.respond_sequence(SEQUENCE, leak=leak),
        rule.learn_sequence(SEQUENCE, LABELS, leak=leak),
    ):
        torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


def test_nothing_goes_back_in_time() -> None:
    rule, sizes = RULES["direct"](), []

    def watch(k: int, activity: Tensor) -> Tensor:
        if k < 0:
            return activity
        assert leaves(activity) == {id(p) for p in rule.parameters_of(k)}
        todo, seen = [activity.grad_fn], set()
        while todo:
            node = todo.pop()
            if node is not None and node not in seen:
                seen.add(node)
                todo.extend(parent for parent, _ in node.next_functions)
        sizes.append(len(seen))
        return activity

    rule.observer = watch
    before = parameters(rule)
    rule.learn_sequence(SEQUENCE, LABELS)
    depth = rule.network.depth
    assert len(sizes) == 5 * depth
    assert sizes[depth : 2 * depth] == sizes[-depth:]
    assert all(not torch.equal(before[n], p) for n, p in rule.named_parameters())


@pytest.fixture(scope="module")
def samples() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    task = digits()
    return tuple(  # type: ignore[return-value]
        torch.tensor(part[name].values)
        for part in (task.train, task.test)
        for name in ("input", "label")
    )


def test_memory_of_states_reads_digits_row_by_row(
    samples: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    x, labels, x_test, labels_test = samples
    mask = torch.eye(8).repeat_interleave(8, 1)  # one row of eight pixels at a time
    accuracy = {}
    for leak in (0.4, 1.0):
        rule = Sigprop(relu(64, readout=False), ADAM, predict="nearest", classes=10)
        for _ in range(4):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
            for chosen in order.split(50):
                rule.learn_sequence(x[chosen, None] * mask, labels[chosen], leak=leak)
        answers = rule.respond_sequence(x_test[:, None] * mask, leak=leak).argmax(1)
        accuracy[leak] = (answers == labels_test).float().mean()
    assert accuracy[0.4] > 0.8
    assert accuracy[1.0] < 0.6  # the last row alone


def relu(inputs: int, *, readout: bool) -> Layers:
    sizes = [inputs, 64, 64, 10] if readout else [inputs, 64, 64]
    return Layers.dense(sizes, output="identity" if readout else "relu", seed=2)


def normed(inputs: int) -> Layers:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        second = nn.Sequential(nn.RMSNorm(64, elementwise_affine=False), nn.Linear(64, 64))
        return Layers(
            nn.Sequential(nn.Linear(inputs, 64), nn.ReLU()),
            second.append(nn.ReLU()),
            inputs=inputs,
        )


def hard(hidden: int, *, readout: bool = True) -> Layers:
    sizes = [64, *[64] * hidden, *([10] if readout else [])]
    return Layers.dense(sizes, rho="hard", output="identity" if readout else "hard", seed=2)


CODED = partial(TargetOnly, rho="hard", spread=1.0)
RATES = [partial(torch.optim.SGD, lr=rate) for rate in (5.0, 5.0, 5.0, 60.0)]
NEAREST: dict[str, Any] = {"predict": "nearest", "classes": 10}
# what learns, epochs, the accuracy that it must pass
DIGITS: dict[str, tuple[Callable[[int], Sigprop], int, float]] = {
    "direct": (lambda s: Sigprop(relu(64, readout=True), ADAM, seed=s), 12, 0.92),
    "direct, nearest": (
        lambda s: Sigprop(relu(64, readout=False), ADAM, **NEAREST, seed=s),
        6,
        0.92,
    ),
    "direct, early": (
        lambda s: Sigprop(relu(64, readout=False), ADAM, predict="early", classes=10, seed=s),
        6,
        0.92,
    ),
    **{
        repr(loss): (
            lambda s, loss=loss: Sigprop(relu(64, readout=True), ADAM, loss=loss, seed=s),
            12,
            0.92,
        )
        for loss in (MaxAll(), ArgMax(), TopK())
    },
    "codes": (
        lambda s: Sigprop(
            relu(64, readout=True), ADAM, seed=s, loss=TopK(),
            contexts=torch.randn(10, 20, generator=torch.Generator().manual_seed(s)),
        ),
        12,
        0.91,
    ),
    "target-input": (
        lambda s: Sigprop(relu(64, readout=True), ADAM, transform=TargetInput, seed=s),
        12,
        0.92,
    ),
    "loop": (
        lambda s: Sigprop(relu(64, readout=True), ADAM, transform=Loop, loss=MaxAll(), seed=s),
        12,
        0.92,
    ),
    "overlay": (
        lambda s: Sigprop(relu(74, readout=False), ADAM, transform=Overlay, **NEAREST, seed=s),
        12,
        0.92,
    ),
    "goodness": (
        lambda s: Sigprop(
            normed(74), ADAM, transform=Overlay, loss=Goodness(), **NEAREST, seed=s
        ),
        15,
        0.85,
    ),
    "hebbian, input": (
        lambda s: Sigprop(
            hard(3), RATES, loss=Hebbian("input"), transform=CODED, seed=s
        ),
        10,
        0.91,
    ),
    "hebbian, context": (
        lambda s: Sigprop(hard(2), RATES[1:], loss=Hebbian(), transform=CODED, seed=s),
        10,
        0.90,
    ),
    "hebbian, nearest": (
        lambda s: Sigprop(
            hard(2, readout=False), RATES[:2], loss=Hebbian("input"), transform=CODED,
            **NEAREST, seed=s,
        ),
        10,
        0.89,
    ),
}  # fmt: skip


def accuracy(rule: Sigprop, epochs: int) -> float:
    batch = 20 if isinstance(rule.loss, Hebbian) else 50
    return train(rule, digits(), epochs=epochs, batch=batch, noise=0.1).test_accuracy[-1]


@pytest.mark.parametrize("name", DIGITS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_digits(name: str, seed: int) -> None:
    make, epochs, least = DIGITS[name]
    assert accuracy(make(seed), epochs) > least


@pytest.mark.parametrize("seed", [0, 1])
def test_with_frozen_hidden_layers_it_learns_less(seed: int) -> None:
    still = partial(torch.optim.SGD, lr=0.0)
    frozen = Sigprop(relu(64, readout=True), [still, still, ADAM], seed=seed)
    assert accuracy(frozen, 12) < 0.85
    local = Sigprop(hard(2), [still, still, RATES[-1]], loss=Hebbian(), seed=seed)
    assert accuracy(local, 10) < 0.88


def plain(**options: Any) -> Sigprop:
    return Sigprop(dense(), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sigprop(nn.Linear(3, 2)), "network must be Layers; got Linear"),
        (lambda: plain(predict="nearst"), "did you mean 'nearest'"),
        (lambda: plain(loss="direct"), "loss must be a LayerLoss or Hebbian; got 'direct'"),
        (lambda: plain(margin=3.0), "from 0 to 2; got 3.0"),
        (lambda: plain(classes=4), "needs a layer before it and 4 units; got 4 layers, the last"),
        (lambda: Sigprop(Layers.dense([4, 2])), "needs a layer before it"),
        (lambda: plain(transform=Loop), "Direct needs a context for each class; Loop"),
        (lambda: plain(transform=Loop, loss=MaxAll(), predict="nearest"), "feeds back the output"),
        (lambda: plain(transform=Overlay, predict="early"), "'early' compares contexts"),
        (lambda: plain(loss=Goodness()), "Goodness needs the transform Overlay"),
        (lambda: Sigprop(conv(), loss=Hebbian()), "(?s)layer 1 is .*Hebbian takes dense layers"),
        (lambda: plain().present(X[:, :5], LABELS), "'x' must have 16 channels; got 5"),
        (lambda: plain().learn_sequence(X, LABELS), r"must be \(batch, time, inputs\)"),
        (lambda: plain().learn_sequence(SEQUENCE[:, :0], LABELS), "must be .batch, time, inputs"),
        (lambda: plain().respond_sequence(SEQUENCE, leak=0.0), "leak must lie in .0, 1.; got 0.0"),
        (
            lambda: plain(predict="early").learn_sequence(SEQUENCE, LABELS),
            "'readout' or 'nearest'; got 'early'",
        ),
        (
            lambda: RULES["loop"]().learn_sequence(SEQUENCE, LABELS),
            "the same for every sample; Loop has not",
        ),
    ],
)
def test_refusals(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_settings_tell_rules_apart() -> None:
    found = [RULES[name]().settings for name in RULES]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    assert RULES["top-k"]().settings == RULES["top-k"]().settings


def test_float32_stays_float32() -> None:
    for make in RULES.values():
        rule = make().float()
        assert rule.present(X.float(), LABELS).dtype == torch.float32
        assert rule.respond(X.float()).dtype == torch.float32
