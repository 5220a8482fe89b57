from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.data import digits
from ctsigprop.errors import ConvergenceError, NonFiniteError
from ctsigprop.learning.backprop import LOSSES, cost
from ctsigprop.learning.feedback_control import DeepFeedbackControl

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(12, 16, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % CLASSES
UNIT = partial(torch.optim.SGD, lr=1.0)
FEEDBACK = ["weight_product", "random", "jacobian"]


def dense(rho="tanh", output="identity", bias=True, seed=1):
    sizes = [16, 8, 7, CLASSES]
    return ct.Layers.dense(sizes, rho=rho, output=output, bias=bias, seed=seed).double()


def change(rule, x=X, labels=LABELS):
    before = {name: value.clone() for name, value in rule.weights.items()}
    rule.present(x, labels)
    return {name: before[name] - value for name, value in rule.weights.items()}


def gradient(network, loss="cross_entropy"):
    weights = network.weights
    value = cost(network(X), LABELS, loss)
    return dict(zip(weights, torch.autograd.grad(value, list(weights.values())), strict=True))


def same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


def from_hidden(w, v1, v2):
    """Return y of one sample from what is added to the potentials."""
    return torch.tanh(torch.tanh(v1) @ w["W_h2_h1"].T + w["b_h2"] + v2) @ w["W_y_h2"].T + w["b_y"]


def jacobians(w):
    """Return ∂y/∂v_1 and ∂y/∂v_2 of each sample by autograd, at the forward pass."""
    v1 = X @ w["W_h1_x"].T + w["b_h1"]
    both = torch.func.jacrev(partial(from_hidden, w), argnums=(0, 1))
    return torch.func.vmap(both)(v1, torch.zeros(len(X), 7, dtype=X.dtype))


@pytest.mark.parametrize("difference", ["rates", "potentials"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_the_update_is_that_of_the_equations(feedback, loss, difference):
    options = {"target_step": 0.2, "gain": 0.3, "leak": 0.1, "dt": 0.05, "tau_v": 0.2, "tau_u": 0.8}
    rule = DeepFeedbackControl(
        dense(), UNIT, feedback=feedback, difference=difference, loss=loss, steps=15, **options
    )
    w = {name: value.clone() for name, value in rule.weights.items()}
    eye = torch.eye(CLASSES, dtype=X.dtype)
    y = rule.respond(X)
    target = y - 0.2 * ((torch.softmax(y, 1) if loss == "cross_entropy" else y) - eye[LABELS])
    if feedback == "jacobian":
        q1, q2 = (jacobian.mT for jacobian in jacobians(w))
    elif feedback == "random":
        q1, q2 = rule.Q_h1.expand(12, -1, -1), rule.Q_h2.expand(12, -1, -1)
    else:
        q1 = (w["W_y_h2"] @ w["W_h2_h1"]).T.expand(12, -1, -1)
        q2 = w["W_y_h2"].T.expand(12, -1, -1)
    a1 = X @ w["W_h1_x"].T + w["b_h1"]
    a2 = torch.tanh(a1) @ w["W_h2_h1"].T + w["b_h2"]
    v1, v2, v3, i = a1, a2, y, torch.zeros_like(y)
    for _ in range(15):
        u = i + 0.3 * (target - v3)
        v1 = v1 + 0.25 * (-v1 + a1 + torch.einsum("bij,bj->bi", q1, u))
        v2 = v2 + 0.25 * (
            -v2 + torch.tanh(v1) @ w["W_h2_h1"].T + w["b_h2"] + torch.einsum("bij,bj->bi", q2, u)
        )
        v3 = v3 + 0.25 * (-v3 + torch.tanh(v2) @ w["W_y_h2"].T + w["b_y"] + u)
        i = i + 0.0625 * (target - v3 - 0.1 * i)
    expected, pre = {}, X
    for (matrix, bias), v in zip(
        (("W_h1_x", "b_h1"), ("W_h2_h1", "b_h2"), ("W_y_h2", "b_y")), (v1, v2, v3), strict=True
    ):
        a = pre @ w[matrix].T + w[bias]
        told = v - a if difference == "potentials" or bias == "b_y" else v.tanh() - a.tanh()
        expected[matrix], expected[bias] = -told.T @ pre / 12 / 0.2, -told.mean(0) / 0.2
        pre = v.tanh()
    same(change(rule), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_weak_control_through_the_jacobian_is_backpropagation(loss):
    # the rest of u is e/leak, so that every layer has 1/leak times its error, to first order
    expected, errors = gradient(dense(), loss), []
    for leak in (1e2, 1e3, 1e4):
        rule = DeepFeedbackControl(
            dense(),
            UNIT,
            feedback="jacobian",
            difference="potentials",
            loss=loss,
            target_step=1e-3,
            leak=leak,
            steps=60,
            dt=0.5,
            tau_v=1.0,
            tau_u=leak,
        )
        found = change(rule)
        errors.append(max(float((leak * found[n] - expected[n]).abs().max()) for n in expected))
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.1)
    assert errors[2] < 1e-3


def test_strong_control_through_the_jacobian_is_the_step_of_gauss_and_newton():
    options = {"target_step": 1e-5, "loss": "squared_error", "difference": "potentials"}
    rule = DeepFeedbackControl(
        dense(), UNIT, feedback="jacobian", steps=3000, dt=0.1, tau_v=0.1, **options
    )
    w = {name: value.clone() for name, value in rule.weights.items()}
    j1, j2 = jacobians(w)
    j = torch.cat([j1, j2, torch.eye(CLASSES, dtype=X.dtype).expand(12, -1, -1)], 2)
    wrong = torch.eye(CLASSES, dtype=X.dtype)[LABELS] - rule.respond(X)
    steps = torch.einsum("bij,bj->bi", torch.linalg.pinv(j), wrong)
    expected = [-part.mean(0) for part in steps.split([8, 7, CLASSES], 1)]
    found = change(rule)
    for name, value in zip(("b_h1", "b_h2", "b_y"), expected, strict=True):
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-4 * float(value.abs().max()))
    weak = [gradient(dense(), "squared_error")[name] for name in ("b_h1", "b_h2", "b_y")]
    assert all((a - b).norm() > 0.1 * b.norm() for a, b in zip(expected, weak, strict=True))


def test_the_output_comes_to_its_target_where_the_controller_does_not_leak():
    reached = []
    for leak in (0.0, 1.0):
        rule, seen = DeepFeedbackControl(dense(), leak=leak, target_step=0.5, steps=400), []
        rule.observer = lambda k, v, seen=seen: (seen.append(v) if k == 2 else None, v)[1]
        rule.present(X, LABELS)
        y = seen[0]
        target = y - 0.5 * (y.softmax(1) - torch.eye(CLASSES, dtype=X.dtype)[LABELS])
        reached.append(float((seen[-1] - target).norm() / (y - target).norm()))
    assert reached[0] < 1e-4
    assert 0.1 < reached[1] < 0.6


def test_fixed_feedback_rests_while_weights_learn():
    for feedback in FEEDBACK[:2]:
        rule = DeepFeedbackControl(dense(), UNIT, feedback=feedback, leak=5.0)
        before = {name: value.clone() for name, value in rule.named_buffers()}
        assert {name: tuple(q.shape) for name, q in before.items()} == {
            "Q_h1": (8, CLASSES),
            "Q_h2": (7, CLASSES),
        }
        assert change(rule)["W_h1_x"].any()
        assert all(torch.equal(q, before[name]) for name, q in rule.named_buffers())
    drawn = [DeepFeedbackControl(dense(), feedback="random", seed=s).Q_h1 for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    big = DeepFeedbackControl(ct.Layers.dense([4, 400, 100]), feedback="random").Q_h1
    assert float(big.var()) == pytest.approx(2 / 500, rel=0.03)


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_an_observer_sees_and_changes_every_state(feedback):
    rule, seen = DeepFeedbackControl(dense(bias=False), UNIT, feedback=feedback, steps=4), []

    def observer(k, v):
        seen.append((k, v.shape[1], v.requires_grad))
        return torch.zeros_like(v) if k == 1 else v

    rule.observer = observer
    found = change(rule)
    assert seen == [(0, 8, False), (1, 7, False), (2, CLASSES, False)] * 5
    assert not found["W_y_h2"].any()
    assert found["W_h1_x"].any()


def test_the_output_is_that_of_the_forward_pass_in_its_type():
    rule = DeepFeedbackControl(dense(output="logistic").float())
    expected = rule.network(X.float()).detach()
    found = rule.present(X.float(), LABELS)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_run_goes_on_from_a_snapshot_bit_for_bit():
    adam = partial(torch.optim.Adam, lr=1e-2)
    rule = DeepFeedbackControl(dense(), adam, feedback="random", leak=5.0)
    rule.present(X, LABELS)
    kept = rule.snapshot()
    rule.present(X, LABELS)
    other = DeepFeedbackControl(dense(seed=5), adam, feedback="random", leak=5.0, seed=8)
    other.restore(kept)
    other.present(X, LABELS)
    assert all(torch.equal(w, other.weights[name]) for name, w in rule.weights.items())


def test_digits_are_learned_and_better_than_by_the_output_alone():
    fast, slow = (partial(torch.optim.Adam, lr=rate) for rate in (5e-3, 2e-3))
    still = partial(torch.optim.SGD, lr=0.0)
    reached = [
        ct.train(
            DeepFeedbackControl(
                ct.Layers.dense([64, 32, 32, 10], rho="tanh", seed=seed), maker, steps=12
            ),
            digits(),
            epochs=5,
            batch=20,
            seed=seed,
        ).test_accuracy[-1]
        for maker in (fast, [still, still, slow])
        for seed in range(2)
    ]
    assert min(reached[:2]) > 0.92
    assert min(reached[:2]) > max(reached[2:]) + 0.02


def test_feedback_that_hidden_weights_do_not_come_to_fit_is_refused_in_time():
    still, fast = partial(torch.optim.SGD, lr=0.0), partial(torch.optim.Adam, lr=5e-3)
    network = ct.Layers.dense([64, 32, 32, 10], rho="tanh", seed=1)
    rule = DeepFeedbackControl(network, [still, still, fast], steps=12)
    with pytest.raises(ConvergenceError, match="other feedback"):
        ct.train(rule, digits(), epochs=6, batch=20, seed=1)


@pytest.mark.parametrize("options", [{"steps": 30}, {"steps": 3000}])
def test_feedback_of_the_wrong_sign_is_refused(options):
    rule = DeepFeedbackControl(dense("identity"), **options)
    rule.Q_h1.mul_(-5.0)
    rule.Q_h2.mul_(-5.0)
    before = {name: w.clone() for name, w in rule.weights.items()}
    error = ConvergenceError if options["steps"] == 30 else NonFiniteError
    with pytest.raises(error, match="take a smaller dt"):
        rule.present(X, LABELS)
    assert all(torch.equal(w, before[name]) for name, w in rule.weights.items())


def test_a_controller_that_is_too_fast_for_the_units_is_refused():
    with pytest.raises(ConvergenceError, match="larger leak or tau_u") as caught:
        DeepFeedbackControl(dense("identity"), tau_v=1.0, tau_u=0.02, steps=200).present(X, LABELS)
    assert caught.value.variable == "y"


def test_settings_say_what_decides():
    expected = {"feedback": "random", "gain": 0.5, "leak": 0.2, "tau_v": 0.3, "target_step": 0.05}
    settings = DeepFeedbackControl(dense(), **expected).settings
    assert {name: settings[name] for name in expected} == expected
    assert settings["difference"] == "rates"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feedback": "jacobean"}, "did you mean 'jacobian'"),
        ({"difference": "rate"}, "did you mean 'rates'"),
        ({"loss": "entropy"}, "did you mean 'cross_entropy'"),
        ({"target_step": 0.0}, "target_step must be > 0"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"dt": 0.5}, "dt must be at most tau_v"),
        ({"tau_u": -1.0}, "tau_u must be > 0"),
        ({"gain": -1.0}, "gain must be >= 0"),
        ({"leak": float("inf")}, "leak must be >= 0 and finite"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DeepFeedbackControl(dense(), **options)


def test_layers_that_are_not_dense_are_refused():
    network = ct.Layers(nn.Sequential(nn.Linear(16, CLASSES), nn.ELU()), inputs=16)
    with pytest.raises(ValueError, match=r"(?s)layer y is .*DeepFeedbackControl takes dense"):
        DeepFeedbackControl(network)
