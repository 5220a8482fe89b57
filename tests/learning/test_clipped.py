"""States in buffers against the rule as it is written, and that nothing is kept on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctsigprop as ct
from ctsigprop.learning import clipped

F64 = torch.float64
RHO = ["hard", "relu", "identity"]


def rule(sizes, rho, output, dt, *, bias=True, form="one_sided", seed=0):
    network = ct.Layers.dense(sizes, rho=rho, output=output, bias=bias, seed=seed).double()
    with torch.no_grad():
        for name, weight in network.weights.items():
            if name[0] == "W":
                weight.mul_(0.4)
            else:
                weight.copy_(torch.linspace(-0.2, 0.2, len(weight)))
    return ct.EquilibriumPropagation(network, form=form, free=7, nudged=4, dt=dt, beta=0.3)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_both_ways_take_the_same_steps(data):
    depth = data.draw(st.integers(1, 6))
    sizes = [4, *data.draw(st.lists(st.integers(2, 5), min_size=depth, max_size=depth))]
    rho, output = data.draw(st.sampled_from(RHO)), data.draw(st.sampled_from(RHO))
    dt = data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    batch, few = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([0, 128]))
    form = data.draw(st.sampled_from(["one_sided", "centred", "random_sign"]))
    bias = data.draw(st.booleans())
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    x, labels = torch.rand(batch, 4, dtype=F64), torch.randint(sizes[-1], (batch,))
    found = []
    for watched in (False, True):
        one = rule(sizes, rho, output, dt, bias=bias, form=form)
        if watched:  # which takes the rule as it is written
            one.observer = lambda _k, s: s
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clipped, "FEW", few)
            states = one.settle(x)
            target = torch.nn.functional.one_hot(labels, sizes[-1]).to(x)
            nudged = one.nudge(x, states, 0.3, target)
            one.present(x, labels)
        found.append([*states, *nudged, *one.weights.values()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("free", [1, 2, 3])
def test_a_phase_may_be_short(free):
    x = torch.rand(3, 4, dtype=F64)
    ends = []
    for watched in (False, True):
        one = rule([4, 5, 3, 2], "hard", "hard", 0.5)
        one.free = free
        if watched:
            one.observer = lambda _k, s: s
        ends.append(one.settle(x)[-1])
    torch.testing.assert_close(*ends, rtol=0, atol=1e-14)


NETWORK = {"onset": 2.0, "eta": 0.05}
LEARNERS = {
    "two points": lambda: ct.ContinuousSigprop(
        ct.sigprop_network([6, 8, 3], **NETWORK), update="delta"
    ),
    "contrastive": lambda: ct.ContinuousSigprop(
        ct.sigprop_network([6, 8, 3], **NETWORK), update="contrastive", solver=ct.Steady()
    ),
    "straight": lambda: ct.ContinuousSigprop(
        ct.sigprop_network([6, 8, 3], form="label", **NETWORK), update="delta", solver=ct.Steady()
    ),
    "in the ODE": lambda: ct.ContinuousSigprop(ct.sigprop_network([6, 8, 3], **NETWORK)),
    "adaptive": lambda: ct.ContinuousSigprop(
        ct.sigprop_network([6, 8, 3], **NETWORK), update="delta", solver=ct.Tsit5(rtol=1e-5)
    ),
    "equilibrium": lambda: ct.EquilibriumPropagation(ct.Layers.dense([6, 8, 3], rho="hard")),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_forward_only_update_keeps_no_tape(name):
    learner = LEARNERS[name]()
    kept, x, labels = [], torch.rand(5, 6), torch.tensor([0, 1, 2, 0, 1])
    before = {n: w.clone() for n, w in learner.weights.items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        assert torch.is_grad_enabled()
        output = learner.present(x, labels)
        x.requires_grad_()
        learner.present(x, labels)  # nor where somebody else wants a gradient of the input
    assert kept == []
    assert not output.requires_grad
    after = learner.weights
    assert any(not torch.equal(after[n], before[n]) for n in before)
    assert not any(w.requires_grad or w.grad_fn is not None for w in after.values())


def test_backpropagation_keeps_one():
    learner = ct.ContinuousBackpropagation(ct.Layers.dense([6, 8, 3]))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        learner.present(torch.rand(5, 6), torch.tensor([0, 1, 2, 0, 1]))
    assert len(kept) > 20
