from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ctsigprop as ct
from ctsigprop.analyses.cost import cost, cost_by, slope
from ctsigprop.analyses.plots import plot_cost
from ctsigprop.learning.backprop import ContinuousBackpropagation
from ctsigprop.learning.catalogue import build
from ctsigprop.learning.learner import Learner
from ctsigprop.learning.losses import Hebbian

X = torch.rand(10, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10) % 4
SIZES = [16, 12, 12, 4]


class Scripted(ct.Backpropagation):
    """Holds a known number of bytes for a while, and makes a known product."""

    def __init__(self, held):
        super().__init__(ct.Layers.dense([16, 4]))
        self.held = held

    def learn(self, x, labels):
        del labels
        kept = [torch.zeros(1000) for _ in range(self.held)]  # 4 kB each, all at once
        for _ in range(5):
            torch.zeros(500)  # never two at once
        view = kept[0].view(10, 100)  # the same memory once more
        del kept, view
        return x @ torch.ones(16, 4)


@pytest.mark.parametrize("held", [1, 3, 7])
def test_memory_and_operations_are_counted_exactly(held):
    found = cost(Scripted(held), X, Y, repeats=1)
    assert int(found.memory) == 4000 * held + 2000
    assert int(found.tensors) == max(held + 1, 5)  # checks of the labels make five small ones
    assert int(found.operations) == 2 * 10 * 16 * 4
    assert float(found.seconds) > 0
    assert found.memory.attrs["units"] == "byte"


def from_the_allocator(learner):
    """The same peak from what torch's allocator says it gave and took back."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        learner.present(X, Y)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max()


@pytest.mark.parametrize("rule", ["backpropagation", "sigprop", "sigprop-ode", "pepita", "bptt"])
def test_counts_agree_with_those_of_torch(rule):
    learner = bptt(24) if rule == "bptt" else build(rule, SIZES)
    found = cost(learner, X, Y, repeats=1)
    assert int(found.memory) == pytest.approx(from_the_allocator(learner), rel=0.05)
    with FlopCounterMode(display=False) as counted:  # which makes a graph hold more while it counts
        learner.present(X, Y)
    assert int(found.operations) == counted.get_total_flops()


def deep(rule, **options):
    return lambda depth: rule(ct.Layers.dense([16] * int(depth) + [4], rho="tanh"), **options)


def test_memory_of_signal_propagation_is_flat_in_depth():
    rules = {
        "sigprop": deep(ct.Sigprop),
        "hebbian": deep(ct.Sigprop, loss=Hebbian()),
        "local": deep(ct.LocalLosses),
        "backpropagation": deep(ct.Backpropagation),
        "feedback": deep(ct.FeedbackAlignment),
    }
    table = cost_by("depth", [8, 16, 32, 64], rules, X, Y, repeats=1)
    memory = table.memory
    for rule in ("sigprop", "hebbian", "local"):
        assert len(np.unique(memory.sel(rule=rule))) == 1, rule
        assert len(np.unique(table.tensors.sel(rule=rule))) == 1, rule
    for rule in ("backpropagation", "feedback"):
        one_activity_a_layer = memory.sel(rule=rule).diff("depth").values / [8, 16, 32]
        np.testing.assert_array_equal(one_activity_a_layer, 10 * 16 * 4)
        more = table.tensors.sel(rule=rule).diff("depth").values / [8, 16, 32]
        np.testing.assert_array_equal(more, 1)
    exponents = slope(table, "depth", "operations")
    assert all(0.9 < exponent < 1.2 for exponent in exponents.values())


def sigprop(update):
    return lambda steps: ct.ContinuousSigprop(
        ct.sigprop_network(SIZES, eta=0.1), update=update, solver=ct.Euler(dt=14.4 / steps)
    )


def bptt(steps):
    network = ct.Layers.dense(SIZES, rho="hard")
    return ContinuousBackpropagation(network, end=14.4, solver=ct.Euler(dt=14.4 / steps))


def test_memory_of_signal_propagation_is_flat_in_duration():
    rules = {"ode": sigprop("integrated"), "delta": sigprop("delta"), "bptt": bptt}
    table = cost_by("steps", [16, 32, 64], rules, X, Y, repeats=1)
    assert len(np.unique(table.memory.sel(rule="ode"))) == 1
    assert len(np.unique(table.memory.sel(rule="delta"))) == 1
    growth = table.memory.sel(rule="bptt").diff("steps").values / [16, 32]
    np.testing.assert_allclose(growth, growth[0])
    assert growth[0] >= 10 * (12 + 12 + 4) * 4


@pytest.mark.slow
def test_memory_is_flat_to_ten_thousand_steps():
    rules = {"ode": sigprop("integrated"), "delta": sigprop("delta")}
    table = cost_by("steps", [20, 10_000], rules, X, Y, repeats=1)
    for rule in rules:
        assert len(np.unique(table.memory.sel(rule=rule))) == 1


class Hoarder(ct.Sigprop):
    """Signal propagation that keeps what it has seen of each layer, as it says it need not."""

    def observed(self, k, activity):
        self.kept = [*getattr(self, "kept", [])[: 16 * k], activity.detach().clone()]
        return super().observed(k, activity)


def test_a_planted_store_is_seen():
    table = cost_by("depth", [4, 8], {"hoarder": deep(Hoarder)}, X, Y, repeats=1)
    assert float(table.memory[0, 1] - table.memory[0, 0]) >= 4 * 10 * 16 * 4


def test_convolutions_are_counted():
    network = ct.Layers(
        nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(48, 4)),
        inputs=16,
    )
    forward = 2 * 10 * (16 * 9 * 3 + 48 * 4)
    found = int(cost(ct.Backpropagation(network), X, Y, repeats=1).operations)
    assert 2 * forward < found <= 3 * forward


def test_rules_that_are_not_followed_to_the_end():
    rules = {"one": deep(ct.Sigprop), "other": deep(ct.Backpropagation)}
    table = cost_by("depth", [2, 4, 8], rules, X, Y, repeats=1, most={"other": 4})
    assert table.memory.isnull().values.tolist() == [[False] * 3, [False, False, True]]
    assert "NaN" in table.memory.attrs["missing"]
    tree = xr.DataTree.from_dict({"/depth": table})
    tree.attrs = {"title": "cost"}
    axes = plot_cost(tree).axes
    assert [len(line.get_xdata()) for line in axes[0].lines] == [3, 2]
    np.testing.assert_allclose(axes[0].lines[0].get_ydata() * 1024, table.memory.sel(rule="one"))
    assert axes[0].get_xlabel() == "depth"


def test_refusals():
    with pytest.raises(ValueError, match="repeats must be at least 1; got 0"):
        cost(Scripted(1), X, Y, repeats=0)
    with pytest.raises(ValueError, match="must have 16 channels; got 3"):
        cost(Scripted(1), X[:, :3], Y)
    with pytest.raises(ValueError, match="no costs by rule"):
        plot_cost(xr.DataTree())
    assert issubclass(ct.Sigprop, Learner)
