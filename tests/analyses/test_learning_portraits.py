"""Learning as a flow: fixed points, thresholds and bifurcations in closed form; averaging."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import CRITICALITIES, KINDS, bifurcation_diagram
from ctsigprop.analyses.codimension_two import bifurcation_curves
from ctsigprop.analyses.learning_portraits import averaging, learning_portrait, portraits_along
from ctsigprop.analyses.plots import plot_learning_portraits
from ctsigprop.analyses.stability import STABILITIES, TYPES, fixed_points
from ctsigprop.models.averaged import correlated, patterns_of
from ctsigprop.models.presented import Paced

ONE = torch.eye(2, dtype=torch.float64)
COVARIANCE = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
SCALAR = torch.ones(1, 1, dtype=torch.float64)
STARTS = {"w[0,0]": [0.6, 0.4, -0.6], "w[0,1]": [0.3, 0.8, 0.3]}


def box(low: float, high: float) -> dict[str, tuple[float, float]]:
    return {"w[0,0]": (low, high), "w[0,1]": (low, high)}


def learning(patterns: torch.Tensor, *rules: Any, **settings: Any) -> ct.System:
    return ct.System(ct.AveragedLearning(patterns, rules, **settings))


def located(tree: Any, kind: str) -> Any:
    found = tree["bifurcations"].to_dataset()
    return found.isel(bifurcation=found["kind"].values == KINDS.index(kind))


# The averaged equations


def test_oja_and_bcm_are_the_written_averages() -> None:
    w = torch.randn(6, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    t = torch.tensor(0.0)
    oja = learning(patterns_of(COVARIANCE), ct.oja(1.0))(t, {"w": w})["w"]
    written = ct.System(ct.AveragedOja(COVARIANCE))(t, {"w": w[:, 0]})["w"]
    torch.testing.assert_close(oja[:, 0], written, rtol=1e-12, atol=1e-12)
    patterns = torch.tensor([[1.0, 0.2], [0.3, 1.0]]).double()
    theta = ((w @ patterns.T) ** 2).mean(-1)
    bcm = learning(patterns, ct.bcm(1.0, tau_theta=1.0))(t, {"w": w, "theta_w": theta})
    written = ct.System(ct.AveragedBCM(patterns))(t, {"w": w[:, 0]})["w"]
    torch.testing.assert_close(bcm["w"][:, 0], written, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bcm["theta_w"], torch.zeros_like(theta), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_correlation_is_that_of_the_inputs(n: int) -> None:
    x = correlated(patterns_of(torch.eye(n)), 0.3)
    expected = 0.7 * torch.eye(n).double() + 0.3
    torch.testing.assert_close(x.T @ x / n, expected)


def test_averages_keep_a_batch_and_have_gradients() -> None:
    system = learning(
        patterns_of(COVARIANCE), ct.bcm(0.7, tau_theta=0.4), ct.weight_decay(0.1), units=3
    )
    state = {
        "w": torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1)).double(),
        "theta_w": torch.rand(4, 3, generator=torch.Generator().manual_seed(2)).double(),
    }
    together = system(torch.tensor(0.0), state)
    for k in range(4):
        alone = system(torch.tensor(0.0), {name: v[k] for name, v in state.items()})
        torch.testing.assert_close(alone["w"], together["w"][k])
        torch.testing.assert_close(alone["theta_w"], together["theta_w"][k])
    w = state["w"].requires_grad_()
    assert torch.autograd.gradcheck(lambda w: system(torch.tensor(0.0), state | {"w": w})["w"], w)
    run = ct.solve(system, {k: v.detach() for k, v in state.items()}, [0.0, 0.5])
    assert torch.equal(ct.rerun(run.to_xarray())["w"], run["w"])


# Equilibria and bifurcations in closed form


def test_oja_has_saddles_along_the_second_component() -> None:
    found = fixed_points(learning(patterns_of(COVARIANCE), ct.oja(1.0)), box(-1.5, 1.5))
    rates, axes = torch.linalg.eigh(COVARIANCE)
    kinds = [TYPES[k] for k in found["type"].values]
    assert sorted(kinds) == ["saddle", "saddle", "stable_node", "stable_node", "unstable_node"]
    for w, kind, modes in zip(
        found["w"].values[:, 0], kinds, found["eigenvalue"].values[..., 0], strict=True
    ):
        if kind == "unstable_node":
            continue
        k = 1 if kind == "stable_node" else 0
        assert abs(abs(axes[:, k].numpy() @ w) - 1) < 1e-10
        expected = sorted([-2 * float(rates[k]), float(rates[1 - k] - rates[k])])
        np.testing.assert_allclose(sorted(modes), expected, rtol=1e-8)


@pytest.mark.parametrize("overlap", [0.0, 0.6])
def test_bcm_oscillates_beyond_the_hopf_point_of_its_threshold(overlap: float) -> None:
    # J at y = (2, 0) of patterns with overlap g: a Hopf point at eta tau_theta = 1/(1 - g²),
    # of frequency eta √(1 - g²); and one of the saddle (1, 1) at eta tau_theta = 2/(1 + g)
    eta = 2.0
    system = learning(ONE, ct.bcm(eta, tau_theta=0.2), correlation=overlap)
    found = fixed_points(system, box(-3, 3) | {"theta_w": (-1, 4)}, starts=400)
    x = correlated(ONE, overlap).numpy()
    responses = (found["w"].values[:, 0] @ x.T).round(6) + 0.0
    stable = found["stability"].values == STABILITIES.index("stable")
    assert {tuple(y) for y in responses} == {(0, 0), (1, 1), (2, 0), (0, 2)}
    assert {tuple(y) for y in responses[stable]} == {(2, 0), (0, 2)}
    tree = bifurcation_diagram(
        system, "tau_theta", (0.2, 1.5), ranges=box(-3, 4) | {"theta_w": (-1, 5)}, cycles=False
    )
    hopf = located(tree, "hopf")
    sin2 = 1 - overlap**2
    both = hopf["w"].values[:, 0] @ x.T > 0.5
    selective = hopf.isel(bifurcation=~both.all(1))
    assert selective.sizes["bifurcation"] == 2
    np.testing.assert_allclose(selective["tau_theta"], 1 / (eta * sin2), rtol=1e-8)
    np.testing.assert_allclose(selective["angular_frequency"], eta * math.sqrt(sin2), rtol=1e-8)
    saddle = hopf.isel(bifurcation=both.all(1))
    np.testing.assert_allclose(saddle["tau_theta"], [2 / (eta * (1 + overlap))], rtol=1e-8)


def test_the_hopf_curve_of_bcm_under_two_parameters() -> None:
    system = learning(ONE, ct.bcm(1.0, tau_theta=1.0), correlation=0.3)
    tree = bifurcation_curves(
        system,
        {"tau_theta": (0.8, 2.0), "correlation": (0.0, 0.6)},
        ranges={"w[0,0]": (1.3, 3.0), "w[0,1]": (-2, 0.5), "theta_w": (1.5, 2.5)},
        starts=16,
        largest=0.1,
    )
    curves = tree["curves"].to_dataset()
    tau, g = curves["tau_theta"].values, curves["correlation"].values
    assert np.ptp(g) > 0.5
    np.testing.assert_allclose(tau, 1 / (1 - g**2), rtol=1e-7)


def test_hebb_with_decay_runs_away_where_it_learns_faster_than_it_forgets() -> None:
    # eta λ_max = decay, λ_max = 1 + c
    for decay, kind in ((1.31, "stable_node"), (1.29, "saddle")):
        system = learning(patterns_of(ONE), ct.hebb(1.0), ct.weight_decay(decay), correlation=0.3)
        found = fixed_points(system, box(-1, 1))
        assert [TYPES[k] for k in found["type"].values] == [kind]
        np.testing.assert_allclose(
            found["eigenvalue"].values[0, :, 0], [0.7 - decay, 1.3 - decay], rtol=1e-9
        )


def test_saturating_neurons_turn_the_runaway_into_a_pitchfork() -> None:
    rule = ct.TextPlasticity("dw/dt = eta*x*y - decay*w", eta=1.5, decay=1.0)
    system = learning(patterns_of(ONE), rule, correlation=0.4, rho="tanh")
    tree = bifurcation_diagram(system, "decay", (1.5, 2.5), ranges=box(-3, 3))
    fork = located(tree, "pitchfork")
    np.testing.assert_allclose(fork["decay"], [1.5 * 1.4], rtol=1e-9)
    assert CRITICALITIES[int(fork["criticality"][0])] == "supercritical"


def test_two_synapses_share_or_compete() -> None:
    eta, decay = 2.0, 0.15
    system = learning(patterns_of(ONE), ct.subtractive_hebb(eta, decay=decay), modulator="mean")
    tree = portraits_along(system, "correlation", [0.1, 0.9], box(0, 1), points=8, orbits=4)
    fork = located(tree["diagram"], "pitchfork")
    np.testing.assert_allclose(fork["correlation"], [1 - 4 * decay / eta], rtol=1e-8)
    assert CRITICALITIES[int(fork["criticality"][0])] == "supercritical"
    found = tree["portrait_0/fixed_points"].to_dataset()
    half = math.sqrt(1 - 4 * decay / (eta * 0.9)) / 2
    np.testing.assert_allclose(
        sorted(found["w"].values[:, 0, 0]), [0.5 - half, 0.5, 0.5 + half], rtol=1e-9
    )
    assert len(tree["portrait_1/fixed_points/fp"]) == 1
    assert ct.validate(tree) == []


def test_a_learning_signal_rewrites_a_memory_beyond_the_fold() -> None:
    # decay (u - S) = eta tanh u, folds at cosh² u = g = eta/decay: S = g √(1 - 1/g) - arcosh √g
    eta, decay = 1.2, 0.5
    g = eta / decay
    fold = g * math.sqrt(1 - 1 / g) - math.acosh(math.sqrt(g))
    rules = [ct.hebb(eta), ct.weight_decay(decay)]
    weight = learning(SCALAR, *rules, context=SCALAR, rho="tanh")
    tree = bifurcation_diagram(weight, "strength", (-1.5, 1.5), ranges={"w": (-4, 4)})
    np.testing.assert_allclose(located(tree, "fold")["strength"], [-fold, fold], rtol=1e-9)
    # the neuron and its weight together, the label a source: the same equilibria
    neuron = ct.presented(
        *(SCALAR, rules), context=SCALAR, rho="tanh", rate=0.05, duration=1.0, settle=0.0
    )
    tree = bifurcation_diagram(neuron, "c", (-1.5, 1.5), ranges={"s_y": (-2, 2), "w": (-4, 4)})
    np.testing.assert_allclose(located(tree, "fold")["c"], [-fold, fold], rtol=1e-9)
    # no memory where it decays faster than it is learned
    faded = learning(SCALAR, ct.hebb(0.4), ct.weight_decay(0.5), context=SCALAR, rho="tanh")
    tree = bifurcation_diagram(faded, "strength", (-1.5, 1.5), ranges={"w": (-4, 4)})
    assert tree["bifurcations"].sizes["bifurcation"] == 0


def test_a_linear_neuron_under_a_signal_learns_until_decay_is_reached() -> None:
    # dw/dt = eta x (w x + S) - decay w = 0 at w = eta x S/(decay - eta x²)
    x = 0.8
    for strength in (0.3, 1.0):
        system = learning(
            x * SCALAR, ct.hebb(0.5), ct.weight_decay(0.6), context=SCALAR, strength=strength
        )
        found = fixed_points(system, {"w": (-20, 20)})
        expected = 0.5 * x * strength / (0.6 - 0.5 * x**2)
        np.testing.assert_allclose(found["w"].values.reshape(-1), [expected], rtol=1e-9)


def test_the_two_phases_of_sigprop_have_one_equilibrium() -> None:
    # what the signal adds, less what is there without: (eta/2)(tanh(w + S) - tanh w) = decay w
    eta, decay, strength = 1.0, 0.05, 0.7
    rule = ct.TextPlasticity("dw/dt = eta*m*x*y - decay*w", modulator="m", eta=eta, decay=decay)
    system = learning(
        SCALAR.repeat(2, 1),
        rule,
        context=torch.tensor([[0.0], [1.0]]),
        strength=strength,
        rho="tanh",
        modulator=torch.tensor([-1.0, 1.0]),
    )
    found = fixed_points(system, {"w": (-6, 6)})
    expected = brentq(
        lambda w: eta / 2 * (math.tanh(w + strength) - math.tanh(w)) - decay * w, 0, 5
    )
    np.testing.assert_allclose(found["w"].values.reshape(-1), [expected], rtol=1e-9)
    assert found["stability"].values.tolist() == [STABILITIES.index("stable")]


# Averaged and presented


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (ct.oja(1.0), {}),
        (ct.bcm(1.0, tau_theta=0.5), {}),
        (ct.subtractive_hebb(1.0, decay=0.1), {"modulator": "mean"}),
    ],
    ids=["oja", "bcm", "competition"],
)
def test_presented_weights_stray_by_the_order_of_the_rate(rule: Any, settings: Any) -> None:
    patterns = patterns_of(torch.tensor([[1.0, 0.4], [0.4, 0.6]]))
    full = {
        rate: ct.presented(patterns, rule, rate=rate, duration=2 / rate, **settings)
        for rate in (0.04, 0.02, 0.01)
    }
    tree = averaging(learning(patterns, rule, **settings), full, STARTS, 2.0, solver=ct.RK4(dt=0.1))
    assert 0.9 < tree.attrs["order"] < 1.1
    assert float(tree["distance/largest"].max()) < 0.1
    assert ct.validate(tree) == []


def test_a_portrait_with_what_is_presented_over_it() -> None:
    rule = ct.oja(1.0)
    full = {rate: ct.presented(ONE, rule, rate=rate, duration=1 / rate) for rate in (0.2, 0.1)}
    tree = learning_portrait(learning(ONE, rule), box(-1.5, 1.5), full, STARTS, 1.0, points=8)
    assert tree.attrs["followed"] == ["w[0,0]", "w[0,1]"]
    assert tree["full/w"].dims == ("rate", "time", "sample", "post", "pre")
    assert ct.validate(tree) == []
    figure = plot_learning_portraits(tree)
    assert len(figure.axes) == 3
    assert "learning rate 0.1" in [t.get_text() for t in figure.axes[1].get_legend().get_texts()]


def test_plots_say_what_they_lack() -> None:
    import xarray as xr

    with pytest.raises(ValueError, match="no group 'full'"):
        plot_learning_portraits(xr.DataTree())


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learning(ONE, ct.hebb(1.0, gate=ct.Pulse(1.0))), "no gate"),
        (lambda: learning(ONE, ct.delta_rule(1.0, error="e")), "modulator 'e'"),
        (lambda: learning(ONE, ct.hebb(1.0), correlation=1.5), r"correlation must lie in"),
        (lambda: learning(ONE, ct.hebb(1.0), context=SCALAR), "a row for each of 2"),
        (lambda: learning(ONE, ct.hebb(1.0), modulator="median"), '"mean"'),
        (lambda: learning(ONE, ct.hebb(1.0), modulator=torch.ones(3)), "each of 2 patterns"),
        (lambda: learning(torch.ones(3), ct.hebb(1.0)), "one a row"),
        (lambda: learning(SCALAR, ct.hebb(1.0), correlation=0.1), "one input has no"),
        (lambda: learning(ONE, ct.hebb(1.0), rho="sine"), "unknown nonlinearity"),
        (lambda: patterns_of(torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "no negative eigenvalue"),
        (
            lambda: learning(ONE, ct.differential_hebb(1.0))(
                torch.tensor(0.0), {"w": torch.ones(1, 2).double()}
            ),
            "derivative of an activity",
        ),
        (lambda: ct.presented(ONE, ct.hebb(1.0), rate=0.0, duration=1.0), "rate must be > 0"),
        (
            lambda: ct.presented(ONE, ct.hebb(1.0), rate=0.1, duration=1.0, settle=1.0),
            "settle must lie",
        ),
        (
            lambda: ct.presented(ONE, ct.delta_rule(1.0, error="e"), rate=0.1, duration=1.0),
            "have modulators",
        ),
        (lambda: Paced(ct.hebb(1.0, gate=ct.Pulse(1.0)), ct.Pulse(0.0)), "gate of its own"),
        (lambda: averaging(learning(ONE, ct.oja(1.0)), {}, STARTS, 1.0), "full must hold"),
        (
            lambda: averaging(learning(ONE, ct.oja(1.0)), {0.1: learning(ONE, ct.oja(1.0))}, {}, 1),
            "starts must hold",
        ),
        (
            lambda: averaging(
                learning(ONE, ct.bcm(1.0, tau_theta=1.0)),
                {0.1: ct.presented(ONE, ct.oja(1.0), rate=0.1, duration=1.0)},
                STARTS,
                1.0,
            ),
            "no variable 'theta_w'",
        ),
        (
            lambda: portraits_along(learning(ONE, ct.oja(1.0)), "eta", [1.0], box(-1, 1)),
            "two or more",
        ),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
