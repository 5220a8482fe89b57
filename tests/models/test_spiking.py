from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ctsigprop as ct
from ctsigprop.models.spiking import SpikingNetwork, simulate
from ctsigprop.models.stdp import pair_stdp_change

CASES = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "oracles" / "cases.json").read_text())[
        "cases"
    ]
}


def expected(case, start):
    return next(row for row in CASES[case]["expected"] if row["name"].startswith(start))["value"]


# a neuron that fires on its own: its spikes do not depend on the weights
DRIVEN = SpikingNetwork(inputs=40, rate=40.0, drive=20.0, g_max=0.0, w_min=-10.0, w_max=10.0)


def train(tree, population, unit):
    spikes = tree["spikes"]
    own = (spikes["population"] == population) & (spikes["unit"] == unit)
    return torch.from_numpy(spikes["time"].values[own.values])


def pairings(count, period, lag):
    pre = torch.arange(count, dtype=torch.float64) * period
    change = pair_stdp_change(pre, pre + lag, A_plus=0.01, A_minus=0.0105)
    return change.item()


@pytest.mark.parametrize(
    ("name", "count", "period", "lag"),
    [
        ("N=60,T=1000 ms,d=+10", 60, 1000.0, 10.0),
        ("N=60,T=50,d=+10", 60, 50.0, 10.0),
        ("N=60,T=20,d=-10", 60, 20.0, -10.0),
    ],
)
def test_pairings_add_up_to_the_closed_sum(name, count, period, lag):
    assert pairings(count, period, lag) == pytest.approx(expected("PL-PAIR-STDP", name), rel=1e-9)


def test_single_pairs_and_simultaneous_spikes():
    single = [pairings(1, 1.0, lag) for lag in (10.0, -10.0)]
    assert single == pytest.approx(expected("PL-PAIR-STDP", "single"), rel=1e-12)
    assert pairings(1, 1.0, 0.0) == 0.0


def test_independent_trains_drift_as_the_integral_of_the_window_says():
    step = 0.01
    lags = (torch.arange(-100_000, 100_000, dtype=torch.float64) + 0.5) * step
    one = torch.zeros(1, dtype=torch.float64)
    area = pair_stdp_change(one, lags, A_plus=0.01, A_minus=0.0105).item() * step * 1e-3
    assert 10 * 20 * area == pytest.approx(expected("PL-PAIR-STDP", "mean drift"), rel=1e-6)


def test_pair_changes_are_differentiable_and_batched():
    pre = torch.tensor([[0.0, 12.0], [3.0, 40.0]], dtype=torch.float64, requires_grad=True)
    post = torch.tensor([[5.0, 12.5, 31.0], [1.0, 2.0, 500.0]], dtype=torch.float64)
    A = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    tau = torch.tensor([5.0, 20.0], dtype=torch.float64, requires_grad=True)

    def change(pre, A, tau):
        return pair_stdp_change(pre, post, A_plus=A, tau_minus=tau)

    assert torch.autograd.gradcheck(change, (pre, A, tau))
    alone = pair_stdp_change(pre[1], post[1], A_plus=0.2, tau_minus=20.0)
    assert torch.equal(change(pre, A, tau)[1], alone)
    assert pair_stdp_change(torch.zeros(0), torch.zeros(3)).item() == 0.0
    far = torch.tensor([1e5]), torch.tensor([0.0], requires_grad=True)
    pair_stdp_change(*far).backward()
    assert torch.isfinite(far[1].grad).all()
    with pytest.raises(ValueError, match="tau_plus must be > 0"):
        pair_stdp_change(pre, post, tau_plus=0.0)


def test_brian2_measures_the_window_of_the_exact_sum():
    # one spike of the neuron at about 32 ms, and inputs that spike once somewhere around it
    network = replace(DRIVEN, inputs=300, rate=15.0, t_ref=1000.0)
    tree = simulate(network, 80.0, seed=1)
    (fired,) = train(tree, 1, 0)
    change = np.diff(tree["weights/w"].isel(post=0), axis=0).sum(0)
    once = [j for j in range(300) if len(train(tree, 0, j)) == 1]
    lags = fired - torch.cat([train(tree, 0, j) for j in once])
    assert len(once) > 80
    assert lags.min() < -25 < 25 < lags.max()
    window = torch.where(
        lags > 0, 0.005 * torch.exp(-lags / 20), -0.00525 * torch.exp(lags / 20)
    ) * (lags != 0)
    np.testing.assert_allclose(change[once], window, rtol=0, atol=1e-14)


def test_every_weight_changes_by_the_exact_sum():
    tree = simulate(replace(DRIVEN, size=2), 600.0, every=600.0)
    w = tree["weights/w"].values
    together = 0
    for i in range(2):
        post = train(tree, 1, i)
        for j in range(DRIVEN.inputs):
            pre = train(tree, 0, j)
            together += len(np.intersect1d(pre, post))
            assert pair_stdp_change(pre, post).item() == pytest.approx(
                w[-1, i, j] - w[0, i, j], abs=1e-13
            )
    assert together > 0


def test_rates_follow_the_closed_form():
    dt = 0.1
    membrane = {"E_L": 0.0, "v_r": 0.0, "v_th": 20.0, "t_ref": 2.0, "g_max": 0.0}
    rates = expected("SPK-LIF-FI", "rate Hz")
    for drive, rate in zip((21.0, 25.0, 40.0), rates, strict=True):
        network = SpikingNetwork(inputs=1, rate=0.0, drive=drive, **membrane)
        intervals = train(simulate(network, 220.0, dt=dt), 1, 0).diff()
        assert abs(intervals.mean().item() - 1e3 / rate) <= dt
    network = SpikingNetwork(inputs=1, rate=0.0, drive=25.0, **membrane)
    first = train(simulate(network, 50.0, dt=dt), 1, 0)[0].item()
    assert abs(first - expected("SPK-LIF-FI", "first spike time")) <= dt
    silent = simulate(replace(network, drive=20.0), 200.0, dt=dt)
    assert len(train(silent, 1, 0)) == expected("SPK-LIF-FI", "RI=20")


def test_poisson_inputs_have_their_rate():
    network = SpikingNetwork(inputs=2000, rate=25.0)
    spikes = simulate(network, 100.0, dt=1.0)["spikes"]
    count = int((spikes["population"] == 0).sum())
    mean = 2000 * 25.0 * 0.1
    assert abs(count - mean * (1 - 0.025 / 2)) < 4 * mean**0.5  # one spike in a step at most


LEARNING = SpikingNetwork(
    size=2, inputs=30, rate=30.0, g_max=0.4, A_plus=0.2, A_minus=0.2, w_min=0.1, w_max=0.6
)


@pytest.fixture(scope="module")
def tree():
    return simulate(LEARNING, 300.0, every=10.0, record=[1])


def test_weights_stay_within_their_bounds(tree):
    w = tree["weights/w"]
    assert float(w.min()) == 0.1
    assert float(w.max()) == 0.6
    assert w.dims == ("time", "post", "pre")
    np.testing.assert_allclose(w.time, np.arange(31) * 10.0)


def test_the_tree_is_valid_and_survives_the_disk(tree, tmp_path):
    assert ct.validate(tree) == []
    for name in ("run.zarr", "run.nc"):
        assert ct.open(ct.save(tree, tmp_path / name)).identical(tree)
    assert SpikingNetwork(**tree.attrs["network"]) == LEARNING
    assert tree["simulation/v"].attrs["units"] == "mV"
    assert tree["simulation/neuron"].values.tolist() == [1]
    assert np.all(np.diff(tree["spikes/time"]) >= 0)


def test_a_seed_gives_the_same_numbers(tree):
    state = np.random.get_state()[1].copy()
    again = simulate(LEARNING, 300.0, every=10.0, record=[1])
    assert all(
        again[path].to_dataset().identical(tree[path].to_dataset()) for path in tree.children
    )
    other = simulate(LEARNING, 50.0, seed=1)
    assert not np.array_equal(other["weights/w"][0], tree["weights/w"][0])
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": -5.0}, "rate must be >= 0 Hz, got -5 Hz"),
        ({"tau_plus": 0.0}, "tau_plus must be > 0, got 0 ms"),
        ({"tau_m": -1.0}, "tau_m must be > 0, got -1 ms"),
        ({"w_min": 1.0, "w_max": 0.0}, "w_min=1 > w_max=0"),
        ({"w_min": -1.0}, "w_min must be >= 0"),
        ({"t_ref": -1.0}, "t_ref must be >= 0 ms, got -1 ms"),
        ({"v_r": -50.0}, "v_r=-50 must be below v_th=-54"),
        ({"inputs": 0}, "inputs must be an integer >= 1, got 0"),
        ({"drive": float("nan")}, "drive must be finite, got nan"),
    ],
)
def test_networks_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SpikingNetwork(**options)


@pytest.mark.parametrize(
    ("duration", "options", "message"),
    [
        (0.0, {}, "0 < dt <= duration"),
        (10.0, {"dt": -0.1}, "0 < dt <= duration"),
        (10.0, {"every": 0.01}, "every must be at least dt=0.1 ms"),
        (10.0, {"record": [1]}, "record takes neurons 0 to 0"),
        (10.0, {"record": []}, "record takes neurons 0 to 0"),
        (10.0, {"codegen": "numpi"}, "did you mean 'numpy'"),
    ],
)
def test_runs_are_checked(duration, options, message):
    with pytest.raises(ValueError, match=message):
        simulate(SpikingNetwork(), duration, **options)
