from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import ctsigprop as ct
from ctsigprop.data import visual_cortex_pairing
from ctsigprop.learning.stdp import weight_change
from ctsigprop.models.triplet import (
    PUBLISHED,
    pairing_protocol,
    poisson_drift,
    spikes,
    triplet_stdp,
)

ORACLES = json.loads((Path(__file__).parents[1] / "oracles" / "cases.json").read_text())["cases"]
CASES = {case["id"]: [e["value"] for e in case["expected"]] for case in ORACLES}
FREQUENCIES = torch.tensor([0.1, 10.0, 20.0, 40.0, 50.0], dtype=torch.float64)
GENERAL = {
    "A2p": 4e-3, "A3p": 7e-3, "A2m": 5e-3, "A3m": 2e-3,
    "tau_plus": 15.0, "tau_minus": 30.0, "tau_x": 90.0, "tau_y": 110.0,
}  # fmt: skip


def trains(count, seed=0, span=400.0):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(2, *count, generator=generator, dtype=torch.float64) * span
    return draws.sort(dim=-1).values.unbind()


def by_sums(pre, post, *, nearest, A2p, A3p, A2m, A3m, tau_plus, tau_minus, tau_x, tau_y):
    """The rule as sums over pairs and triplets of spikes, without traces."""

    def trace(now, others, tau):
        lags = [now - other for other in others if other < now]
        return sum(math.exp(-lag / tau) for lag in ([min(lags)] if nearest and lags else lags))

    up = sum(trace(t, pre, tau_plus) * (A2p + A3p * trace(t, post, tau_y)) for t in post)
    down = sum(trace(t, post, tau_minus) * (A2m + A3m * trace(t, pre, tau_x)) for t in pre)
    return up - down


def test_visual_cortex_is_the_published_rule_at_every_frequency():
    rule = triplet_stdp(**PUBLISHED["visual cortex, all-to-all, minimal"])
    leading, trailing, _ = CASES["PL-TRIPLET-VISUAL_ALL_MIN"]
    for lag, expected in ((10.0, leading), (-10.0, trailing)):
        change = weight_change(rule, *pairing_protocol(lag, FREQUENCIES))
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(change, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("visual cortex, all-to-all", 0.342),
        ("visual cortex, all-to-all, minimal", 0.356),
        ("visual cortex, nearest, minimal", 0.348),
    ],
)
def test_published_sets_have_their_errors_on_the_ten_points(name, error):
    data = visual_cortex_pairing()
    protocol = pairing_protocol(torch.tensor(data.dt.values), torch.tensor(data.frequency.values))
    change = weight_change(triplet_stdp(**PUBLISHED[name]), *protocol).numpy()
    misfit = ((data.dw.values - change) / data.dw_sem.values) ** 2
    assert misfit.mean() == pytest.approx(error, abs=5e-4)


@pytest.mark.parametrize("interaction", ["all-to-all", "nearest"])
def test_traces_give_the_sums_over_spikes_in_every_sample(interaction):
    pre, post = trains((3, 12))
    change = weight_change(triplet_stdp(interaction=interaction, **GENERAL), pre, post)
    expected = [
        by_sums(x, y, nearest=interaction == "nearest", **GENERAL)
        for x, y in zip(pre.tolist(), post.tolist(), strict=True)
    ]
    assert change.tolist() == pytest.approx(expected, rel=1e-12)


def test_common_spikes_and_any_other_solver_give_the_same():
    pre, post = trains((12,), seed=1)
    rule = triplet_stdp(**GENERAL)
    exact = weight_change(rule, pre, post).item()
    run = ct.solve(rule, t=[0.0, 400.0], rtol=1e-10, atol=1e-12, impulses=spikes(rule, pre, post))
    assert run["w"][-1].item() - 1 == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("interaction", ["all-to-all", "nearest"])
def test_gradients_of_all_parameters_are_those_of_finite_differences(interaction):
    pre, post = trains((2, 5), seed=2)
    rule = triplet_stdp(interaction=interaction, **GENERAL).learn(*GENERAL)
    leaves = [rule.neurons[0].parametrizations[name].original for name in GENERAL]
    weights = torch.tensor([1.0, -0.7], dtype=torch.float64)

    def loss():
        return (weights * weight_change(rule, pre, post)).sum()

    gradients = torch.autograd.grad(loss(), leaves)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        sides = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                leaf += step
                sides.append(loss().item())
                leaf -= step
        assert gradient.item() == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=1e-5)


def test_gradients_are_finite_where_one_protocol_ends_before_the_others():
    rule = triplet_stdp().learn("tau_y", "A3p")
    change = weight_change(rule, *pairing_protocol(10.0, FREQUENCIES, pairings=3))
    leaves = [p for p in rule.parameters() if p.requires_grad]
    assert all(torch.isfinite(g) for g in torch.autograd.grad(change.sum(), leaves))


def test_poisson_drift_and_its_bcm_threshold():
    drift, threshold = CASES["PL-TRIPLET-POISSON"]
    rule = triplet_stdp()
    assert poisson_drift(rule, 10.0, 20.0).item() == pytest.approx(drift, rel=1e-9)
    around = poisson_drift(rule, 10.0, torch.tensor([threshold - 1e-6, threshold + 1e-6]).double())
    assert around[0] < 0 < around[1]


@pytest.mark.parametrize("part", [{"A2m": 0.0, "A3m": 0.0}, {"A2p": 0.0, "A3p": 0.0}])
def test_poisson_drift_is_the_mean_over_random_trains(part):
    rule = triplet_stdp(**GENERAL | {"tau_x": 40.0, "tau_y": 50.0} | part)
    span, rates = 1e4, (10.0, 20.0)
    generator = torch.Generator().manual_seed(0)
    pre, post = (
        (torch.rand(40, int(rate * span / 1e3), generator=generator).double() * span)
        .sort(-1)
        .values
        for rate in rates
    )
    drift = weight_change(rule, pre, post) / (span / 1e3)
    error = drift.std() / len(drift) ** 0.5
    assert abs(drift.mean() - poisson_drift(rule, *rates)) < 3 * error
    assert error < 0.05 * abs(drift.mean())


def test_amplitudes_and_time_constants_stay_within_their_bounds():
    rule = triplet_stdp(A3p=0.01, tau_y=50.0).learn("A3p", "tau_y")
    synapse = rule.neurons[0]
    with torch.no_grad():
        synapse.parametrizations.A3p.original.fill_(-40.0)
        synapse.parametrizations.tau_y.original.fill_(30.0)
    assert 0 <= synapse.A3p < 1e-15
    assert synapse.tau_y <= 1e4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: triplet_stdp(interaction="nearst"), "did you mean 'nearest'"),
        (lambda: triplet_stdp(A2m=-0.1), r"A2m must lie in \[0.0, 1.0\]"),
        (lambda: triplet_stdp(tau_y=0.0), "tau_y must be > 0"),
        (lambda: triplet_stdp(A2p=0.0).learn("A2p"), "strictly inside"),
        (lambda: pairing_protocol(0.0, 10.0), "neither 0 nor a whole number of periods"),
        (lambda: pairing_protocol(50.0, 20.0), "neither 0 nor a whole number of periods"),
        (lambda: pairing_protocol(10.0, 0.0), "frequency must be > 0"),
        (lambda: pairing_protocol(float("nan"), 1.0), "dt must be finite"),
        (lambda: pairing_protocol(10.0, 1.0, pairings=0), "pairings"),
        (lambda: poisson_drift(triplet_stdp(interaction="nearest"), 1.0, 1.0), "all-to-all"),
        (lambda: spikes(ct.System(ct.fitzhugh_nagumo()), *pairing_protocol(1.0, 1.0)), "triplet"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build()
