"""Fast variables under a slow one: branches, drifts, distances and jumps in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import KINDS, bifurcation_diagram
from ctsigprop.analyses.fast_slow import BRANCHES, PLACES, fast_slow
from ctsigprop.analyses.parametric import ParametricField, with_parameters
from ctsigprop.analyses.plots import plot_fast_slow

LIENARD = "dx/dt = (z + x - x**3/3)/eps : 1\ndz/dt = -x : 1"
AIRY = 2.338107410  # the first zero of Ai(-x)


def oscillator(eps: float) -> ct.System:
    return ct.System(ct.TextNeuron(LIENARD, eps=eps, initial={"x": 2.0}))


def relaxation(eps: float, end: float = 1.6, count: int = 8001) -> Any:
    system = oscillator(eps)
    times = torch.linspace(0.0, end, count, dtype=torch.float64)
    run = ct.solve(system, t=times, solver=ct.SciPy("Radau"), rtol=1e-9, atol=1e-11)
    return fast_slow(system, "z", run)


@pytest.fixture(scope="module")
def relaxed() -> Any:
    return relaxation(1e-3)


def test_a_relaxation_oscillator_keeps_to_its_branches(relaxed: Any) -> None:
    # z = x³/3 - x; to first order x - x_0(z) = eps x_0/(x_0² - 1)²
    path = relaxed["trajectory"].to_dataset()
    on = path["place"].values == PLACES.index("equilibrium")
    x = path["x"].values[:, 0]
    assert on.mean() > 0.9
    creeping = on & (np.abs(x) > 1.3) & (np.abs(x) < 1.95) & (path["time"].values > 0.05)
    x0 = np.abs(x[creeping])
    gap = path["distance"].values[creeping] * np.ptp(x)
    close = np.isclose(gap, 1e-3 * x0 / (x0**2 - 1) ** 2, rtol=0.02)
    assert close.mean() > 0.999  # but for the moments of landing
    stable = path["stability"].values[on] == BRANCHES.index("stable")
    assert stable.all()


def test_the_distance_is_of_the_order_of_the_slowness(relaxed: Any) -> None:
    gaps = []
    for tree in (relaxed, relaxation(5e-4)):
        path = tree["trajectory"].to_dataset()
        x = path["x"].values[:, 0]
        chosen = (np.abs(np.abs(x) - 1.6) < 0.05) & (path["place"].values == 1)
        gaps.append(path["distance"].values[chosen].mean())
    assert abs(math.log2(gaps[0] / gaps[1]) - 1) < 0.02


def test_it_jumps_past_the_folds(relaxed: Any) -> None:
    # Riccati: at a fold z goes Ω eps^(2/3) too far, Ω the first zero of an Airy function, less
    # what is of the order of eps log eps
    found = relaxed["bifurcations"].to_dataset()
    assert [KINDS[k] for k in found["kind"].values] == ["fold", "fold"]
    np.testing.assert_allclose(found["z"], [-2 / 3, 2 / 3], rtol=1e-10)
    jumps = relaxed["jumps"].to_dataset()
    assert jumps.sizes["jump"] == 2
    np.testing.assert_allclose(np.abs(jumps["z_bifurcation"]), 2 / 3, rtol=1e-10)
    ratio = [float(jumps["beyond"].mean()) / (AIRY * 1e-3 ** (2 / 3))]
    finer = relaxation(1e-4)["jumps"].to_dataset()
    ratio.append(float(finer["beyond"].mean()) / (AIRY * 1e-4 ** (2 / 3)))
    assert 0.85 < ratio[0] < ratio[1] < 1
    np.testing.assert_allclose(jumps["left"], [0.45, 1.29], atol=0.03)


def test_the_drift_is_that_of_the_whole_system(relaxed: Any) -> None:
    branches = relaxed["branches"].to_dataset()
    np.testing.assert_allclose(branches["drift"], -branches["x"].values[:, 0], rtol=1e-12)
    assert ct.validate(relaxed) == []


def test_a_burster_of_hindmarsh_and_rose() -> None:
    # z = 1 + I - 2x² - x³: folds at x = 0 and x = -4/3; a Hopf point at 3x² - 6x + 1 = 0
    system = ct.System(ct.hindmarsh_rose(r=0.0015))
    tree = bifurcation_diagram(
        system, "z", (1.5, 4.5), ranges={"x": (-3, 3), "y": (-20, 3)}, cycles=False
    )
    found = tree["bifurcations"].to_dataset()
    x = 1 - math.sqrt(6) / 3
    expected = [4.25 - 32 / 27, 4.25 - 2 * x**2 - x**3, 4.25]
    np.testing.assert_allclose(found["z"], expected, rtol=1e-9)
    assert [KINDS[k] for k in found["kind"].values] == ["fold", "hopf", "fold"]
    start = {"x": -1.5, "y": -10.25, "z": 3.25}
    times = torch.linspace(0.0, 420.0, 2101, dtype=torch.float64)
    run = ct.solve(system, start, times, rtol=1e-6, atol=1e-8)
    burst = fast_slow(system, "z", run, (2.8, 3.5), near=0.1)
    ends = burst["bifurcations"].to_dataset()
    homoclinic = ends.isel(bifurcation=ends["kind"].values == KINDS.index("homoclinic"))
    assert homoclinic.sizes["bifurcation"] == 1
    # the burst goes on as long as there are cycles, with a drift upwards along them
    place = burst["trajectory/place"].values
    z = burst["trajectory/z"].values
    cycling = place == PLACES.index("cycle")
    assert cycling.sum() > 500
    assert abs(z[cycling].max() - float(homoclinic["z"][0])) < 0.02
    rings = burst["cycles"].to_dataset()
    assert (rings["drift"].values[(rings["z"] > 2.8) & (rings["z"] < 3.3)] > 0).all()
    jumps = burst["jumps"].to_dataset().isel(jump=0)
    assert abs(float(jumps["z_bifurcation"]) - expected[0]) < 1e-8
    assert PLACES[int(jumps["into"])] == "cycle"
    assert ct.validate(burst) == []


def test_a_memory_in_a_hebbian_self_weight_ends_at_a_fold() -> None:
    # s = tanh(w s + b): a fold where w (1 - s²) = 1, b = artanh(s) - s/(1 - s²)
    bias = -0.1
    system = ct.System(
        ct.rate("y", rho="tanh", bias=bias),
        ct.Synapse("y", "y", 4.0, plasticity=[ct.hebb(0.002), ct.weight_decay(0.004)], name="w"),
    )
    times = torch.linspace(0.0, 700.0, 701, dtype=torch.float64)
    run = ct.solve(system, {"s_y": torch.ones(1).double()}, times)
    tree = fast_slow(system, "w", run, (0.1, 4.0))
    s = brentq(lambda s: math.atanh(s) - s / (1 - s**2) - bias, 0.1, 0.9)
    found = tree["bifurcations"].to_dataset()
    assert [KINDS[k] for k in found["kind"].values] == ["fold"]
    np.testing.assert_allclose(found["w"], [1 / (1 - s**2)], rtol=1e-9)
    jumps = tree["jumps"].to_dataset()
    assert jumps.sizes["jump"] == 1
    assert PLACES[int(jumps["into"][0])] == "equilibrium"
    path = tree["trajectory"].to_dataset()
    before = path["time"].values < float(jumps["left"][0])
    assert (path["s_y"].values[before] > 0.5).all()
    assert float(path["s_y"][-1, 0]) < 0
    # along the branch, dw/dt = eta s² - decay w
    branches = tree["branches"].to_dataset()
    expected = 0.002 * branches["s_y"].values[:, 0] ** 2 - 0.004 * branches["w"].values
    np.testing.assert_allclose(branches["drift"], expected, rtol=1e-9, atol=1e-12)


def test_a_component_of_the_state_is_a_parameter() -> None:
    text = "dx/dt = a*z*x - x**3 : 1\ndz/dt = x : 1"
    system = ct.System(ct.TextNeuron(text, size=2, a=2.0, initial={"z": 0.5}))
    family = ParametricField(system, ["z[1]", "a"], at={"z": torch.tensor([0.3, 0.4]).double()})
    assert family.field.names == ("x[0]", "x[1]")
    assert family.initial.tolist() == pytest.approx([0.4, 2.0])
    assert list(family.held) == ["z[0]"]
    y, p = torch.tensor([0.5, 0.7]).double(), torch.tensor([0.9, 3.0]).double()
    expected = [3 * 0.3 * 0.5 - 0.125, 3 * 0.9 * 0.7 - 0.343]
    torch.testing.assert_close(family(y, p), torch.tensor(expected).double(), rtol=1e-6, atol=0)
    f, J, Jp = family.linear(y[None], p[None])
    torch.testing.assert_close(
        Jp[0], torch.tensor([[0, 0.15], [2.1, 0.63]]).double(), rtol=1e-6, atol=1e-9
    )
    assert f.shape == (1, 2)
    assert J.shape == (1, 2, 2)
    one = ParametricField(ct.System(ct.hindmarsh_rose()), ["z"])
    assert one.field.names == ("x[0]", "y[0]")
    assert one.units == ("1",)


def test_a_copy_with_other_parameters() -> None:
    system = ct.System(ct.fitzhugh_nagumo("n", 2, I=torch.tensor([0.1, 0.2], dtype=torch.float64)))
    other = with_parameters(system, {"I[1]": 0.5, "n.tau": 10.0})
    assert other.populations["n"].I.tolist() == [0.1, 0.5]
    assert system.populations["n"].I.tolist() == [0.1, 0.2]
    assert other.populations["n"].tau.item() == 10.0


def test_the_figure() -> None:
    system = oscillator(0.05)
    run = ct.solve(system, t=torch.linspace(0.0, 2.0, 201).double())
    tree = fast_slow(system, "z", run, title="relaxation")
    figure = plot_fast_slow(tree)
    assert [ax.get_ylabel() for ax in figure.axes] == ["$x$", "$x$", "$z$"]
    assert figure.axes[0].get_title() == "relaxation"
    with pytest.raises(ValueError, match="no group 'jumps'"):
        plot_fast_slow(tree["branches"])


@pytest.mark.parametrize(
    ("slow", "start", "options", "message"),
    [
        ("eps", {}, {}, "component of the state"),
        ("zz", {}, {}, "did you mean 'z'"),
        ("z", {"x": 0.0}, {}, "does not move"),
        ("z", {"x": torch.ones(2, 1)}, {}, "one sample"),
        ("z", {}, {"at": {"z": 0.3}}, "not held"),
    ],
)
def test_refusals(slow: str, start: Any, options: Any, message: str) -> None:
    system = oscillator(0.1)
    run = ct.solve(system, start, [0.0, 0.1])
    with pytest.raises(ValueError, match=message):
        fast_slow(system, slow, run, **options)
    with pytest.raises(ValueError, match="no parameter of a term"):
        with_parameters(system, {"z": 1.0})
