from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.learning.local_losses import LocalLosses, similarity_matrix

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
UNIT = partial(torch.optim.SGD, lr=1.0)
KINDS = ["pred", "sim", "predsim"]


def dense(rho="tanh", seed=1):
    return ct.Layers.dense([16, 8, 7, CLASSES], rho=rho, seed=seed).double()


def conv():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return ct.Layers(
            nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.Tanh()),
            nn.Sequential(nn.Conv2d(4, 3, 2), nn.Softplus(), nn.Flatten()),
            nn.Linear(27, CLASSES),
            inputs=16,
        ).double()


def drawn(rule):
    """Give the classifiers other weights than zero."""
    for part in rule.own.modules():
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.weight, -1, 1, generator=torch.Generator().manual_seed(3))
    return rule


def recorded(rule):
    """Return the gradients that one presentation hands to each layer."""
    handed = {}
    rule.step = handed.__setitem__
    rule.present(X, LABELS)
    return handed


def alike(h):
    """S of the docstring, pair by pair: the correlation of two samples over their units."""
    return torch.stack(
        [torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for b in h]) for a in h]
    )


def local_loss(rule, k, h):
    """L_k of the docstring, written out."""
    parts, pred, sim = rule.own[k], 0.0, 0.0
    if rule.loss != "sim":
        logits = parts["classifier"](h)
        pred = (logits.logsumexp(1) - logits[range(len(X)), LABELS]).mean()
    if rule.loss != "pred":
        mapped = parts["map"](h)
        if h.dim() == 4:
            mapped = mapped.flatten(2).std(2)
        targets = torch.eye(CLASSES, dtype=h.dtype)[LABELS]
        sim = (alike(mapped) - alike(targets)).square().mean()
    return {"pred": pred, "sim": sim, "predsim": 0.01 * pred + 0.99 * sim}[rule.loss]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [dense, conv])
def test_each_layer_descends_its_own_loss_and_nothing_flows_between_layers(make, kind):
    rule = drawn(LocalLosses(make(), UNIT, loss=kind, seed=5))
    found, h = recorded(rule), X
    assert list(found) == [0, 1, 2]
    for k in range(3):
        before, h = h, rule.network.layers[k](h)
        assert not before.requires_grad
        value = nn.functional.cross_entropy(h, LABELS) if k == 2 else local_loss(rule, k, h)
        expected = torch.autograd.grad(value, rule.parameters_of(k))
        h = h.detach()
        for ours, theirs in zip(found[k], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
            assert ours.abs().max() > 1e-6


def test_a_layer_has_stepped_before_the_next_one_is_reached():
    order = []
    rule = LocalLosses(dense())
    honest = rule.step

    def step(k, gradients):
        order.append(f"step {k}")
        honest(k, gradients)

    def observer(k, h):
        order.append(f"pass {k}")
        return h

    rule.step, rule.observer = step, observer
    expected = rule.network(X)
    torch.testing.assert_close(rule.present(X, LABELS), expected.detach())
    assert order == [f"{what} {k}" for k in range(3) for what in ("pass", "step")]


@pytest.mark.parametrize("kind", KINDS)
def test_no_graph_reaches_across_layers(kind):
    rule, graphs = LocalLosses(dense(), loss=kind), []
    for layer in rule.network.layers:
        layer.register_forward_pre_hook(lambda _, given: graphs.append(given[0].requires_grad))
    rule.present(X, LABELS)
    assert graphs == [False] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_no_layer_depends_on_those_above(kind):
    networks = [dense(), dense()]
    networks[1].layers[2][0].weight.data.mul_(-3.0)
    a, b = (recorded(drawn(LocalLosses(network, loss=kind))) for network in networks)
    for k in (0, 1):
        assert all(torch.equal(p, q) for p, q in zip(a[k], b[k], strict=True))
    assert not torch.equal(a[2][0], b[2][0])


def test_beta_goes_from_pred_to_sim():
    found = {
        name: recorded(drawn(LocalLosses(dense(), seed=5, **options)))[0][0]
        for name, options in {
            "pred": {"loss": "pred"},
            "sim": {"loss": "sim"},
            "0": {"beta": 0.0},
            "1": {"beta": 1.0},
        }.items()
    }
    torch.testing.assert_close(found["0"], found["pred"])
    torch.testing.assert_close(found["1"], found["sim"])


def test_similarity_is_the_correlation_of_samples():
    h = torch.randn(6, 9, generator=GENERATOR, dtype=torch.float64)
    torch.testing.assert_close(similarity_matrix(h), alike(h))
    torch.testing.assert_close(similarity_matrix(3 * h + 2), similarity_matrix(h))
    image = torch.randn(6, 5, 3, 4, generator=GENERATOR, dtype=torch.float64)
    torch.testing.assert_close(similarity_matrix(image), alike(image.flatten(2).std(2)))
    few = image[:, :3]
    torch.testing.assert_close(similarity_matrix(few), alike(few.flatten(1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [dense, conv])
def test_silent_layers_have_finite_gradients(make, kind):
    network = make()
    with torch.no_grad():
        for weight in network.weights.values():
            weight.zero_()
    handed = recorded(LocalLosses(network, loss=kind))
    assert all(g.isfinite().all() for layer in handed.values() for g in layer)


def test_silent_convolutions_behind_relu_have_finite_gradients():
    network = ct.Layers(
        nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 5, 3), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(20, CLASSES)),
        inputs=16,
    ).double()
    network.layers[0][1].weight.data.fill_(-1.0)
    handed = recorded(LocalLosses(network))
    assert all(g.isfinite().all() for layer in handed.values() for g in layer)


def test_classifiers_of_images_see_them_averaged_down():
    network = ct.Layers(
        nn.Sequential(nn.Unflatten(1, (1, 6, 8)), nn.Conv2d(1, 4, 1), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)),
        inputs=48,
    )
    sizes = {
        pooled: LocalLosses(network, pooled=pooled).own[0]["classifier"][-1].in_features
        for pooled in (4096, 192, 191, 48, 1)
    }
    assert sizes == {4096: 192, 192: 192, 191: 96, 48: 48, 1: 4}


def test_what_the_rule_brings_is_drawn_from_the_seed():
    rules = [LocalLosses(dense().float(), seed=seed) for seed in (0, 0, 1)]
    maps = [rule.own[0]["map"].weight for rule in rules]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])
    assert 0.8 * 8**-0.5 < maps[0].abs().max() <= 8**-0.5
    assert not rules[0].own[0]["classifier"][-1].weight.any()
    assert {p.dtype for p in rules[0].parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_digits_are_learned_and_better_than_by_the_output_alone(kind):
    adam, still = partial(torch.optim.Adam, lr=2e-2), partial(torch.optim.Adam, lr=0.0)
    reached = [
        ct.train(
            LocalLosses(
                ct.Layers.dense([64, 32, 32, 10], rho="tanh", seed=seed),
                optimizer,
                loss=kind,
                seed=seed,
            ),
            digits(),
            epochs=8,
            batch=50,
            seed=seed,
        ).test_accuracy[-1]
        for optimizer in (adam, [still, still, adam])
        for seed in range(2)
    ]
    assert min(reached[:2]) > 0.93
    assert min(reached[:2]) > max(reached[2:]) + 0.05


@pytest.mark.parametrize("make", [dense, conv])
def test_a_run_goes_on_from_a_snapshot_bit_for_bit(make):
    adam = partial(torch.optim.Adam, lr=1e-2)
    rule = LocalLosses(make(), adam)
    rule.present(X, LABELS)
    kept = rule.snapshot()
    rule.present(X, LABELS)
    other = LocalLosses(make(), adam, seed=9)
    other.restore(kept)
    other.present(X, LABELS)
    assert all(torch.equal(w, other.weights[name]) for name, w in rule.weights.items())
    assert all(
        torch.equal(p, q) for p, q in zip(rule.parameters(), other.parameters(), strict=True)
    )


def test_settings_say_what_decides():
    settings = LocalLosses(dense(), loss="sim", beta=0.5, pooled=7, seed=2).settings
    expected = {"loss": "sim", "beta": 0.5, "pooled": 7, "rule_seed": 2, "rule": "LocalLosses"}
    assert expected.items() <= settings.items()


@pytest.mark.parametrize(
    ("network", "options", "error", "message"),
    [
        (dense(), {"loss": "predsin"}, ValueError, "did you mean 'predsim'"),
        (dense(), {"beta": 1.5}, ValueError, "beta must be from 0 to 1; got 1.5"),
        (dense(), {"pooled": 0}, ValueError, "pooled must be a whole number"),
        (nn.Linear(2, 2), {}, TypeError, "network must be Layers"),
        (
            ct.Layers(nn.Unflatten(1, (4, 4)), nn.Sequential(nn.Flatten()), inputs=16),
            {},
            ValueError,
            "layer h1 must give a vector, or channels of rows and columns",
        ),
    ],
)
def test_bad_options_are_refused(network, options, error, message):
    with pytest.raises(error, match=message):
        LocalLosses(network, **options)
