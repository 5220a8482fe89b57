from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctsigprop.learning.context import Loop, Overlay, TargetInput, TargetOnly
from ctsigprop.learning.losses import MaxAll
from ctsigprop.learning.rows import all_rows, learning_rows, unit_contexts
from ctsigprop.learning.sigprop import Sigprop
from ctsigprop.models.layers import ACTIVATIONS, Layers

C, NONE = torch.eye(3, dtype=torch.float64), torch.empty(0)


def network(inputs: int = 5) -> Layers:
    return Layers.dense([inputs, 6, 3], seed=1).double()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize("rho", ACTIVATIONS)
def test_target_only_is_a_code_through_the_nonlinearity(rho: str) -> None:
    transform = TargetOnly(network(), 3, generator(), rho=rho)
    nn.init.normal_(transform.S.bias)
    f = nn.Hardtanh(0, 1) if rho == "hard" else ACTIVATIONS[rho]()
    want = f(transform.S.weight.T + transform.S.bias)
    torch.testing.assert_close(transform(C, NONE, NONE), want, rtol=0, atol=1e-15)


def test_target_only_has_the_shape_of_any_first_layer() -> None:
    layers = Layers(
        nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(3, 2)),
        inputs=16,
    )
    assert TargetOnly(layers, 2, generator())(torch.eye(2), NONE, NONE).shape == (2, 3, 1, 1)


def test_target_input_projects_the_context_and_on_demand_the_sample() -> None:
    x = torch.rand(4, 5, dtype=torch.float64)
    plain = TargetInput(network(), 3, generator())
    assert plain.front(x) is x
    torch.testing.assert_close(plain(C, NONE, NONE), plain.S.weight.T)
    both = TargetInput(network(), 3, generator(), inputs=9)
    assert both.inputs == 9
    assert both.front(torch.rand(4, 9, dtype=torch.float64)).shape == (4, 5)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("signal", ["error", "gated"])
def test_the_loop_brings_the_error_to_the_front(signal: Any, learned: bool) -> None:
    transform = Loop(network(), 3, generator(), signal=signal, learned=learned, strength=0.5)
    x, y = torch.rand(3, 5).double(), torch.rand(3, 3).double().softmax(1)
    error = C - y if signal == "error" else y * (C - y)
    torch.testing.assert_close(transform(C, x, y), x + error @ transform.B.T)
    torch.testing.assert_close(transform(C, x, C), x)  # no error, no difference
    assert len(list(transform.parameters())) == learned


def test_overlay_puts_the_context_beside_the_sample() -> None:
    transform = Overlay(network(), 3, generator(), strength=2.0)
    assert transform.inputs == 2
    x = torch.rand(3, 2, dtype=torch.float64)
    torch.testing.assert_close(transform(C, x, NONE), torch.cat([x, 2 * C], 1))
    torch.testing.assert_close(transform.front(x)[:, 2:], torch.full_like(C, 2 / 3))
    over = Overlay(network(), 3, generator(), strength=2.0, place="overlay")
    assert over.inputs == 5
    x = torch.rand(3, 5, dtype=torch.float64)
    torch.testing.assert_close(over(C, x, NONE), torch.cat([2 * C, x[:, 3:]], 1))
    torch.testing.assert_close(over.front(x)[:, :3], torch.full_like(C, 2 / 3))


def test_the_error_of_the_loop_is_that_of_the_network() -> None:
    net, seen = network(), []
    x, labels = torch.rand(4, 5).double(), torch.tensor([0, 1, 2, 0])

    def watch(k: int, h: Tensor) -> Tensor:
        if k >= 0:
            seen.append(h.detach().clone())
        return h

    rule = Sigprop(net, transform=Loop, loss=MaxAll())
    error = C[labels] - net(x).softmax(1)
    shown = torch.cat([x, x + error @ rule.transform.B.T])  # type: ignore[operator, union-attr]
    want = net.layers[0](shown)
    rule.observer = watch
    rule.present(x, labels)
    torch.testing.assert_close(seen[0], want, rtol=0, atol=1e-12)


def test_rows_pair_by_label() -> None:
    labels = torch.tensor([2, 0, 2, 1])
    codes = unit_contexts(3, torch.randn(3, 4, generator=generator()))
    same = labels[:, None] == labels
    for kind in ("classes", "batch"):
        rows = learning_rows(kind, "batch", codes, labels, generator())  # type: ignore[arg-type]
        assert torch.equal(rows.agreement > 1 - 1e-6, same)
        assert torch.equal(rows.c[rows.own], codes[labels])
        assert torch.equal(rows.c[rows.pairs], codes[labels])
    rows = learning_rows("classes", "classes", codes, labels, generator())
    assert torch.equal(rows.agreement.argmax(1), labels)
    for seed in range(20):
        drawn = torch.Generator().manual_seed(seed)
        rows = learning_rows("candidates", "batch", codes, labels, drawn)
        assert torch.equal(rows.agreement.argmax(1), torch.zeros(4, dtype=torch.long))
        assert torch.equal(rows.c[rows.own], codes[labels])
        assert not (rows.c[rows.pairs[:, 1]] == codes[labels]).all(1).any()
        assert rows.sample is not None
        assert rows.sample.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    answer = all_rows("candidates", codes, 2)
    assert torch.equal(answer.c[answer.pairs], codes.expand(2, 3, 4))


@pytest.mark.parametrize("make", [TargetOnly, TargetInput, Loop])
def test_the_seed_decides_what_is_drawn(make: Any) -> None:
    loss = MaxAll()
    a, b, other = (
        Sigprop(network(), transform=make, loss=loss, seed=s).own[0].state_dict() for s in (3, 3, 4)
    )
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert any(not torch.equal(a[n], other[n]) for n in a)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(TargetOnly, rho="rleu"), "did you mean 'relu'"),
        (partial(TargetOnly, spread=0.0), "spread must be > 0; got 0.0"),
        (partial(TargetInput, inputs=0), "inputs must be a whole number >= 1; got 0"),
        (partial(Loop, signal="gate"), "did you mean 'gated'"),
        (partial(Loop, strength=-1.0), "strength must be > 0; got -1.0"),
        (partial(Overlay, strength=float("nan")), "strength must be > 0; got nan"),
        (partial(Overlay, place="apend"), "did you mean 'append'"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(network(), 3, generator())


def test_transforms_refuse_networks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"3 units; contexts have 4 channels"):
        Loop(network(), 4, generator())
    with pytest.raises(ValueError, match=r"layer 1 takes 3 inputs"):
        Overlay(network(3), 3, generator())
    for contexts in (torch.zeros(3, 2), torch.ones(2, 2), torch.ones(3)):
        with pytest.raises(ValueError, match=r"contexts must be \(3, channels\)"):
            unit_contexts(3, contexts)
    with pytest.raises(ValueError, match="classes must be a whole number >= 2; got 1"):
        unit_contexts(1)
