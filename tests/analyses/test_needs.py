from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.analyses.clamped import clamp, moved, noisy
from ctsigprop.analyses.needs import ANSWERS, CRITERIA, READS, needs, verdict
from ctsigprop.analyses.plausibility import SCOPES
from ctsigprop.data import digits
from ctsigprop.learning.backprop import ContinuousBackpropagation
from ctsigprop.learning.catalogue import RULES, build
from ctsigprop.learning.context import Loop
from ctsigprop.learning.layerwise import LayerRule
from ctsigprop.learning.losses import Hebbian, MaxAll
from ctsigprop.learning.relaxing import RelaxingRule, one_hot

X = torch.rand(4, 12, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3])
SIZES = [12, 10, 9, 8, 4]

# by rule: what it needs, but for the locks, which are below; and the widest scope of hidden layers
EXPECTED = {
    "backpropagation": (
        "forward_pass feedback second_computation symmetry bidirectional transport "
        "stored_activity reverse_order",
        "network",
    ),
    "feedback-alignment": (
        "forward_pass feedback second_computation bidirectional stored_activity reverse_order",
        "network",
    ),
    "direct-feedback-alignment": (
        "forward_pass feedback second_computation stored_activity",
        "network",
    ),
    "local-pred": ("", "layer"),
    "local-sim": ("", "batch"),
    "local-predsim": ("", "batch"),
    "sigprop": ("", "batch"),
    "sigprop-hebbian": ("", "synapse"),
    "sigprop-ode": ("forward_pass feedback:in_front", "synapse"),
    "error-forward-propagation": ("forward_pass feedback:in_front", "synapse"),
    "sigprop-rhythm": ("forward_pass feedback:in_front", "synapse"),
    "sigprop-loop": ("forward_pass feedback:in_front stored_activity", "synapse"),
    "sigprop-label": ("stored_activity", "synapse"),
    "forward-forward": ("", "layer"),
    "predictive-forward-forward": ("feedback bidirectional", "layer"),
    "pepita": ("forward_pass feedback:in_front stored_activity", "synapse"),
    "equilibrium-propagation": (
        "forward_pass feedback symmetry bidirectional stored_activity",
        "synapse",
    ),
    "continual-equilibrium-propagation": (
        "forward_pass feedback symmetry bidirectional",
        "synapse",
    ),
    "predictive-coding": (
        "forward_pass feedback second_computation symmetry bidirectional",
        "synapse",
    ),
}


def answers(measured):
    found = {}
    for name in CRITERIA:
        answer = ANSWERS[int(measured.needed.sel(criterion=name))]
        if answer != "no":
            found[name] = answer
    return found


def learned(rule, sizes=SIZES):
    """A rule that has learned a little, so that no local classifier is still zero."""
    learner = build(rule, sizes, 0)
    learner.present(X, Y)
    return learner


@pytest.mark.parametrize("rule", EXPECTED)
def test_rules_of_the_catalogue(rule):
    wanted, scope = EXPECTED[rule]
    measured = needs(learned(rule), X, Y)
    expected = {}
    for word in wanted.split():
        name, _, answer = word.partition(":")
        expected[name] = answer or "yes"
    found = {k: v for k, v in answers(measured).items() if not k.endswith("_lock")}
    assert found == expected
    hidden = measured.scope.values[:-1]
    assert SCOPES[int(hidden.max())] == scope


def test_every_rule_of_the_catalogue_is_expected_here_or_named():
    elsewhere = {"frozen", "deep-feedback-control"}
    elsewhere |= {"feedback-alignment-ode", "direct-feedback-alignment-ode"}
    assert EXPECTED.keys() | elsewhere == RULES.keys()


def test_negatives_chosen_by_what_the_network_takes_them_for_come_back_in_front():
    task = digits()
    learner = build("forward-forward", [64, 20, 20, 20, 10], 0)
    ct.train(learner, task, epochs=2, batch=20)
    x, labels = (torch.as_tensor(task.train[name].values[:10]) for name in ("input", "label"))
    found = answers(needs(learner, x, labels))
    assert found["feedback"] == "in_front"
    assert not {"second_computation", "transport", "reverse_order"} & found.keys()


@pytest.mark.parametrize(
    ("rule", "forward", "update"),
    [
        ("backpropagation", "yes", "yes"),
        ("sigprop", "yes", "no"),
        ("forward-forward", "yes", "no"),
        ("sigprop-ode", "no", "yes"),
        ("sigprop-label", "no", "no"),
        ("equilibrium-propagation", "no", "yes"),
    ],
)
def test_locks(rule, forward, update):
    measured = needs(learned(rule), X, Y)
    flags = [int(measured.needed.sel(criterion=f"{name}_lock")) for name in ("forward", "update")]
    assert [ANSWERS[flag] for flag in flags] == [forward, update]


def test_deep_feedback_control():
    x, rule = torch.rand(4, 12), build("deep-feedback-control", [12, 30, 30, 4], 0)
    found = answers(needs(rule, x / 2, Y))
    assert found.keys() == {"forward_pass", "feedback", "second_computation", "forward_lock"} | {
        "update_lock"
    }


@pytest.mark.parametrize("loss", [Hebbian(), Hebbian("input")])
def test_off_scope_is_exactly_zero_for_the_hebbian_form(loss):
    rule = ct.Sigprop(ct.Layers.dense(SIZES, rho="tanh"), loss=loss)
    measured = needs(rule, X, Y).sel(layer=["h1", "h2", "h3"])
    far = [name for name, scope in READS.items() if scope != "synapse"]
    assert (measured.reads.sel(argument=far).values == 0).all()
    assert (measured.reads.sel(argument=["pre", "post"]).values > 0).all()


def test_pairs_within_the_batch_couple_its_samples():
    rule = ct.Sigprop(ct.Layers.dense(SIZES, rho="tanh"), loss=MaxAll())
    measured = needs(rule, X, Y)
    assert float(measured.reads.sel(layer="h2", argument="other_sample")) > 0.01
    assert float(measured.reads.sel(layer="h2", argument="other_post")) > 0.01
    assert float(measured.reads.sel(layer="h2", argument="other_layer")) == 0


def test_states_kept_over_two_nudged_phases():
    network = ct.Layers.dense(SIZES, rho="tanh", output="tanh")
    rule = ct.EquilibriumPropagation(network, form="centred", free=30, nudged=10)
    found = needs(rule, X, Y)
    assert answers(found)["stored_activity"] == "yes"


def test_the_loop_in_discrete_time_enters_in_front():
    rule = ct.Sigprop(ct.Layers.dense(SIZES, rho="tanh"), transform=Loop, loss=Hebbian())
    found = answers(needs(rule, X, Y))
    assert found["feedback"] == "in_front"
    assert not {"transport", "second_computation", "symmetry", "reverse_order"} & found.keys()


def test_backpropagation_through_time_stores_the_trajectory():
    network = ct.Layers.dense([12, 10, 9, 4], rho="tanh")
    found = answers(needs(ContinuousBackpropagation(network, end=5.0), X, Y))
    assert {"stored_activity", "transport", "feedback"} <= found.keys()


def test_convolutions():
    network = ct.Layers(
        nn.Sequential(nn.Unflatten(1, (1, 6, 6)), nn.Conv2d(1, 3, 3, padding=1), nn.Tanh()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh()),
        nn.Linear(8, 4),
        inputs=36,
    )
    x = torch.rand(4, 36, generator=torch.Generator().manual_seed(1))
    for rule, transported in ((ct.Backpropagation, True), (ct.FeedbackAlignment, False)):
        assert ("transport" in answers(needs(rule(network), x, Y))) is transported
    measured = needs(ct.Sigprop(network), x, Y)
    assert answers(measured).keys() == {"forward_lock"}


class Planted(RelaxingRule):
    """Hebbian, (target − h) ⊗ h_{k−1} with a fixed random target, but for one violation."""

    def __init__(self, violation, network):
        super().__init__(network)
        self.violation = violation

    @torch.no_grad()
    def learn(self, x, labels):
        h, pre = x, []
        target = one_hot(labels, self.classes, x)
        copies = [self.network.layers[k][0].weight.clone() for k in range(self.network.depth)]
        for k in range(self.network.depth):
            pre.append(h)
            h = self.activity(k, h)
            if k + 1 < self.network.depth:
                self.hidden(k, h, pre, copies)
        if self.violation in ("feedback", "label"):
            for k in range(self.network.depth - 1):
                error = h - target if self.violation == "feedback" else target
                self.change(k, error[:, :1] * torch.ones(len(pre[k + 1][0])), pre[k])
        self.change(self.network.depth - 1, target - h, pre[-1])
        return h

    def hidden(self, k, h, pre, copies):
        code = torch.linspace(-1, 1, h.shape[1])
        error = code - h
        if self.violation == "transport" and k + 2 < self.network.depth:
            error = error + copies[k + 1].T.sum(1)  # a copy made before is read all the same
        if self.violation == "layer":
            error = error - h.mean(1, keepdim=True)
        if self.violation == "batch":
            error = error * h.mean(0)
        if self.violation == "neuron":
            error = error * copies[k].norm(dim=1)
        if self.violation == "skip" and k > 1:
            error = error + pre[1].sum(1, keepdim=True)
        if self.violation == "late" and k == self.network.depth - 2:
            self.change(0, pre[1], pre[0])
        if self.violation != "late" or k:
            self.change(k, error, pre[k])

    def change(self, k, error, pre):
        self.move(k, error.T @ pre / len(pre), error.mean(0))


@pytest.mark.parametrize(
    ("violation", "criteria", "scope"),
    [
        ("none", {"forward_lock"}, "synapse"),
        ("transport", {"forward_lock", "transport", "symmetry"}, "network"),
        ("feedback", {"forward_lock", "feedback", "second_computation", "forward_pass",
                      "update_lock", "stored_activity"}, "network"),
        ("label", {"forward_lock", "stored_activity"}, "synapse"),
        ("layer", {"forward_lock"}, "layer"),
        ("batch", {"forward_lock"}, "batch"),
        ("neuron", {"forward_lock"}, "neuron"),
        ("skip", {"forward_lock", "second_computation"}, "network"),
        ("late", {"forward_lock", "stored_activity"}, "synapse"),
    ],
)  # fmt: skip
def test_planted_violations_are_caught(violation, criteria, scope):
    measured = needs(Planted(violation, ct.Layers.dense(SIZES, rho="tanh")), X, Y)
    assert answers(measured).keys() == criteria
    assert SCOPES[int(measured.scope.values[:-1].max())] == scope
    signal = measured.reads.sel(argument="signal").values[:-1]
    assert (signal > 0).any() == (violation in ("feedback", "label"))


def test_what_is_measured_is_left_as_it_was():
    for rule in ("sigprop", "backpropagation", "sigprop-loop", "equilibrium-propagation"):
        learner = learned(rule)
        before = {k: v.clone() for k, v in learner.snapshot().items()}
        needs(learner, X, Y)
        after = learner.snapshot()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        if isinstance(learner, LayerRule):
            assert learner.observer is None
            hooks = [m for m in learner.modules() if m._forward_hooks]
            assert not hooks


def test_holding_everything_changes_nothing():
    with clamp(learned("backpropagation"), X, Y) as held:
        for name, change in held.update().items():
            assert torch.equal(change, held.base.updates(held.matrices)[name])
        drive = held.drive({"h1": noisy})
        assert moved(drive["h2"], held.drive()["h2"]) > 0.1
        assert moved(drive["h3"], held.drive()["h3"]) == 0


def test_the_dataset_and_its_verdict():
    measured = needs(learned("feedback-alignment"), X, Y)
    assert measured.need.dims == ("criterion", "layer")
    assert list(measured.need.attrs["flag_meanings"].split()) == list(ANSWERS)
    lines = verdict(measured)
    assert lines[1].startswith("feedback: yes; connections from layers above; evidence h1 ")
    assert lines[-1].startswith("h3 looks as far as the network: reads pre, ")
    assert len(lines) == len(CRITERIA) + 3


def test_frozen_layers_read_nothing():
    measured = needs(build("frozen", SIZES, 0), X, Y)
    assert np.isnan(measured.reads.sel(layer="h1")).all()
    assert float(measured.reads.sel(layer="y", argument="pre")) > 0


class Restless(Planted):
    def learn(self, x, labels):
        return super().learn(x + torch.rand(x.shape), labels)


def test_refusals():
    network = ct.Layers.dense(SIZES, rho="tanh")
    with pytest.raises(ValueError, match=r"needs\(\) asks for two hidden layers or more.*h1, y"):
        needs(ct.Backpropagation(ct.Layers.dense([12, 5, 4])), X, Y)
    with pytest.raises(ValueError, match=r"labels must hold two classes or more; got \[2\]"):
        needs(ct.Backpropagation(network), X, torch.full((4,), 2))
    with pytest.raises(ValueError, match="two different updates"):
        needs(Restless("none", network), X, Y)
    with pytest.raises(ValueError, match="the update of 'h1' is zero"):
        needs(build("local-pred", SIZES, 0), X, Y)
    with pytest.raises(ValueError, match="must have 12 channels; got 5"):
        needs(ct.Backpropagation(network), X[:, :5], Y)
