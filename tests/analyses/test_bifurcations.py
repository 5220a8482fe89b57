from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, fsolve

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import (
    CRITICALITIES,
    ENDS,
    KINDS,
    bifurcation_diagram,
    findings,
)
from ctsigprop.analyses.codimension_two import (
    CODIMENSION_TWO,
    CURVES,
    bifurcation_curves,
    special_findings,
)
from ctsigprop.analyses.continuation.curve import StepControl
from ctsigprop.analyses.continuation.defining import Equilibria
from ctsigprop.analyses.continuation.equilibria import Region, trace
from ctsigprop.analyses.cycles import limit_cycle
from ctsigprop.analyses.parametric import ParametricField, with_parameters
from ctsigprop.analyses.stability import STABILITIES, jacobian

Ranges = Mapping[str, tuple[float, float]]
Start = dict[str, float]

LINE: Ranges = {"x": (-3.0, 3.0)}
PLANE: Ranges = {**LINE, "y": (-3.0, 3.0)}
SPACE: Ranges = {**PLANE, "z": (-3.0, 3.0)}
SPIRAL = "dx/dt = g*x - y : 1\ndy/dt = x + g*y : 1\nq = x**2 + y**2 : 1\n"
CIRCLE = """
    dx/dt = x*(1 - q) - y*w : 1
    dy/dt = y*(1 - q) + x*w : 1
    q = x**2 + y**2 : 1
"""
LORENZ = "dx/dt = 10*(y - x) : 1\ndy/dt = x*(r - z) - y : 1\ndz/dt = x*y - 8/3*z : 1"
ROESSLER = "dx/dt = -y - z : 1\ndy/dt = x + 0.2*y : 1\ndz/dt = 0.2 + z*(x - c) : 1"
VAN_DER_POL = "dx/dt = y : 1\ndy/dt = mu*(1 - x**2)*y - x : 1"


def text(*lines: str, **parameters: Any) -> ct.System:
    return ct.System(ct.TextNeuron("\n".join(lines), **parameters))


@dataclass(frozen=True)
class Family:
    """A system with a parameter, and what is known to happen in a range of it."""

    system: ct.System
    parameter: str
    bounds: tuple[float, float]
    ranges: Ranges
    known: tuple[tuple[str, float], ...] = ()
    cycle: Start | None = None  # where to look for a cycle to begin with
    accuracy: float = 1e-8
    options: dict[str, Any] = field(default_factory=dict)

    def diagram(self) -> xr.DataTree:
        options = dict(self.options)
        if self.cycle is not None:
            options["cycles"] = [limit_cycle(self.system, self.cycle)]
        return bifurcation_diagram(
            self.system, self.parameter, self.bounds, ranges=self.ranges, **options
        )


def one(
    lines: str, bounds: tuple[float, float], ranges: Ranges, *known: Any, **options: Any
) -> Family:
    """Return a family under p."""
    value = options.pop("p", 0.5 * (bounds[0] + bounds[1]))
    return Family(text(lines, p=value), "p", bounds, ranges, known, **options)


def listed(tree: xr.DataTree) -> list[tuple[str, float]]:
    """Return what was found: kinds, with their criticality where they have one, and where."""
    found = tree["bifurcations"].to_dataset()
    verdicts = [CRITICALITIES[k] for k in found["criticality"].values]
    names = [
        KINDS[k] if verdict == "none" else f"{KINDS[k]} {verdict}"
        for k, verdict in zip(found["kind"].values, verdicts, strict=True)
    ]
    return list(zip(names, found[tree.attrs["parameter"]].values.tolist(), strict=True))


def modes(found: xr.Dataset, name: str) -> np.ndarray:
    parts = found[name].transpose(..., "part").values
    return parts[..., 0] + 1j * parts[..., 1]


def homoclinic_of_bogdanov_takens() -> float:
    """Return p at which the manifolds of the saddle of y' = p − x + x² − xy meet, by shooting."""

    def gap(p: float) -> float:
        saddle = (1 + math.sqrt(1 - 4 * p)) / 2
        J = np.array([[0.0, 1.0], [2 * saddle - 1, -saddle]])
        values, vectors = np.linalg.eig(J)
        heights = []
        for sign in (1, -1):
            v = vectors[:, (sign * values.real).argmax()].real
            y0 = np.array([saddle, 0.0]) - 1e-7 * v * np.sign(v[0])

            def rate(_t: float, y: np.ndarray, sign: int = sign) -> list[float]:
                return [sign * y[1], sign * (p - y[0] + y[0] ** 2 - y[0] * y[1])]

            def axis(_t: float, y: np.ndarray) -> float:
                return float(y[1])

            axis.terminal = True  # type: ignore[attr-defined]
            run = solve_ivp(rate, (0, 100), y0, "DOP853", events=axis, rtol=1e-12, atol=1e-14)
            heights.append(run.y[0, -1])
        return float(heights[0] - heights[1])

    return float(brentq(gap, -0.23, -0.2, xtol=1e-12))


def folds_of_the_wave() -> tuple[tuple[str, float], ...]:
    """Return where the derivative of x + 2 sin 3x vanishes."""
    top = math.acos(-1 / 6)
    x = [(s * top + 2 * math.pi * k) / 3 for s in (1, -1) for k in range(-3, 4)]
    p = sorted(v + 2 * math.sin(3 * v) for v in x)
    return tuple(("fold", v) for v in p if abs(v) < 4)


def selkov() -> tuple[tuple[str, float], ...]:
    """Return the Hopf points b² = (1 − 2a ∓ √(1 − 8a))/2 (Strogatz 1994, section 7.3), a = 0.1."""
    b = [math.sqrt((0.8 - s * math.sqrt(0.2)) / 2) for s in (1, -1)]
    return tuple(("hopf supercritical", v) for v in b)


def neuron(system: ct.TextNeuron, bounds: tuple[float, float], *known: Any, **more: Any) -> Family:
    box = {"v": (-100.0, 60.0)}
    return Family(ct.System(system), "I", bounds, box, known, **more)


LOOP = homoclinic_of_bogdanov_takens()
WC_BOX = {"E": (-0.2, 1.0), "I": (-0.2, 1.0)}

KNOWN = {
    "fold": one("dx/dt = p - x**2 : 1", (-1, 1), LINE, ("fold", 0)),
    "cubic": one("dx/dt = p - 3*x + x**3 : 1", (-3, 3), LINE, ("fold", -2), ("fold", 2)),
    "isola": one("dx/dt = 1 - x**2 - p**2 : 1", (-2, 2), LINE, ("fold", -1), ("fold", 1)),
    "wave": one("dx/dt = p - x - 2*sin(3*x) : 1", (-4, 4), {"x": (-9, 9)}, *folds_of_the_wave()),
    "imperfect pitchfork": one(
        "dx/dt = 0.1 + p*x - x**3 : 1", (-1, 2), LINE, ("fold", 3 * 0.05 ** (2 / 3))
    ),
    "all but a pitchfork": one(
        "dx/dt = 1e-6 + p*x - x**3 : 1", (-1, 1), LINE, ("fold", 3 * 5e-7 ** (2 / 3))
    ),
    "pitchfork": one("dx/dt = p*x - x**3 : 1", (-1, 1), LINE, ("pitchfork supercritical", 0)),
    "pitchfork, inverted": one(
        "dx/dt = p*x + x**3 : 1", (-1, 1), LINE, ("pitchfork subcritical", 0)
    ),
    "pitchfork, from its sides": one(
        "dx/dt = x*(-p - x**2) : 1", (-1, 1), LINE, ("pitchfork supercritical", 0)
    ),
    "pitchfork, sheared": one(
        "dx/dt = (x + y)*(p - (x + y)**2) - s : 1\ndy/dt = -s : 1\ns = y - 0.3*p : 1",
        *((-1, 1), PLANE, ("pitchfork supercritical", 0)),
    ),
    "pitchfork with folds": one(
        "dx/dt = p*x + x**3 - x**5 : 1",
        *((-1, 1), LINE, ("fold", -0.25), ("fold", -0.25), ("pitchfork subcritical", 0)),
    ),
    "transcritical": one("dx/dt = p*x - x**2 : 1", (-1, 1), LINE, ("transcritical", 0)),
    "transcritical, oblique": one(
        "dx/dt = (x + p - 0.2)*(p + 0.4 - 2*x) : 1", (-1, 1), LINE, ("transcritical", 0)
    ),
    "all but symmetric": one(
        "dx/dt = p*x + 1e-3*x**2 - x**3 : 1",
        *((-1, 1), LINE, ("fold", -2.5e-7), ("transcritical", 0)),
    ),
    "epidemic": one(  # R₀ = p / 0.6
        "dS/dt = 0.1 - p*S*J - 0.1*S : 1\ndJ/dt = p*S*J - 0.6*J : 1",
        *((0.3, 2), {"S": (-1, 2), "J": (-1, 1)}, ("transcritical", 0.6)),
    ),
    "toggle switch": one(
        "dx/dt = p/(1 + y**2) - x : 1\ndy/dt = p/(1 + x**2) - y : 1",
        *((0.5, 5), {"x": (0, 10), "y": (0, 10)}, ("pitchfork supercritical", 2)),
    ),
    "two Hopfield units": Family(
        ct.System(
            ct.hopfield("a", 2, beta=2.0), ct.Synapse("a", "a", torch.eye(2).flip(0).double())
        ),
        *(
            "beta",
            (0.5, 3.0),
            {"u_a[0]": (-2, 2), "u_a[1]": (-2, 2)},
            (("pitchfork supercritical", 1.0),),
        ),
    ),
    "Hopf": one(f"{SPIRAL}g = p - q : 1", (-1, 1), PLANE, ("hopf supercritical", 0)),
    "Hopf, inverted": one(f"{SPIRAL}g = p + q : 1", (-1, 1), PLANE, ("hopf subcritical", 0)),
    "Hopf, linear": one(f"{SPIRAL}g = p : 1", (-1, 1), PLANE, ("hopf degenerate", 0)),
    "Hopf, beside a neutral saddle": one(
        f"{SPIRAL}g = p - q : 1\ndu/dt = v : 1\ndv/dt = u + (p - 0.004)*v : 1",
        *((-1, 1), {**PLANE, "u": (-3, 3), "v": (-3, 3)}, ("hopf supercritical", 0)),
    ),
    "Bautin": one(
        f"{SPIRAL}g = p + q - q**2 : 1",
        *((-1, 1), PLANE, ("cycle_fold", -0.25), ("hopf subcritical", 0)),
    ),
    "Bogdanov-Takens": one(
        "dx/dt = y : 1\ndy/dt = p - x + x**2 - x*y : 1",
        *((-1, 1), PLANE, ("homoclinic", LOOP), ("hopf supercritical", 0), ("fold", 0.25)),
    ),
    "Brusselator": one(
        "dx/dt = 1.5 - (p + 1)*x + x**2*y : 1\ndy/dt = p*x - x**2*y : 1",
        *((1, 5), {"x": (0, 10), "y": (0, 10)}, ("hopf supercritical", 1 + 1.5**2)),
    ),
    "Selkov": one(
        "dx/dt = -x + 0.1*y + x**2*y : 1\ndy/dt = p - 0.1*y - x**2*y : 1",
        *((0.1, 1.2), {"x": (0, 10), "y": (0, 15)}, *selkov()),
    ),
    "Lorenz": Family(
        text(LORENZ, r=28.0),
        "r",
        (0, 30),
        {"x": (-30, 30), "y": (-30, 30), "z": (-5, 60)},
        (
            ("pitchfork supercritical", 1),
            *[("homoclinic", 13.926557407545)] * 2,
            *[("hopf subcritical", 470 / 19)] * 2,
        ),
    ),
    "theta": Family(ct.System(ct.theta(I=-0.5)), "I", (-1, 1), {"theta": (-3, 3)}, (("fold", 0),)),
    "quadratic neuron": neuron(ct.qif(I=-0.5), (-1, 1), ("fold", 0)),
    "circle": one(
        f"{CIRCLE}w = 1 - x + (1 + x)*p : 1",
        *((-0.5, 1), PLANE, ("fold", 0), ("snic", 0)),
        cycle={"x": 0.3},
    ),
    "doubling": one(  # what turns half round while the cycle goes once grows like exp(p t)
        f"""{CIRCLE}w = 2 : 1
        du/dt = (p - 1)/2*u + (p + 1)/2*(x*u + y*v) - v - u*(u**2 + v**2) : 1
        dv/dt = (p - 1)/2*v + (p + 1)/2*(y*u - x*v) + u - v*(u**2 + v**2) : 1""",
        *((-0.6, 0.5), PLANE, ("period_doubling", 0)),
        cycle={"x": 0.5, "u": 0.1},
        p=-0.3,
    ),
    "torus": one(  # the radius and z of the cycle are at a Hopf point where z = p = 1
        "dx/dt = x*(z - p) - 2*y : 1\ndy/dt = 2*x + y*(z - p) : 1\n"
        "dz/dt = 0.6 + z - z**3/3 - x**2 - y**2 : 1",
        *((0.5, 1.5), SPACE, ("torus", 1)),
        cycle={"x": 1.0, "z": 1.0},
        p=1.2,
    ),
    "pitchfork of cycles": one(
        f"{SPIRAL}g = 1 - q : 1\ndz/dt = p*z - z**3 : 1",
        *((-1, 1), SPACE, ("cycle_branch_point", 0), ("pitchfork supercritical", 0)),
        cycle={"x": 0.5, "z": 0.1},
        p=-0.5,
    ),
    "Roessler": Family(
        text(ROESSLER, c=2.5),
        *("c", (2, 4), {"x": (-10, 10), "y": (-10, 10), "z": (-1, 20)}),
        (("period_doubling", 2.832),),
        {"x": 1.0},
        1e-3,
        {"doublings": 0},
    ),
    "Wilson-Cowan": Family(
        ct.System(ct.wilson_cowan()),
        *("P", (0, 4), WC_BOX),
        (("fold", 0.9087), ("homoclinic", 1.068), ("fold", 1.0873), ("hopf supercritical", 1.8793)),
        None,
        1e-3,
    ),
    "Morris-Lecar": neuron(  # Rinzel and Ermentrout 1998
        ct.morris_lecar(),
        (0, 300),
        *(("cycle_fold", 88.29), ("hopf subcritical", 93.86)),
        *(("hopf subcritical", 212.02), ("cycle_fold", 216.9)),
        accuracy=1e-4,
    ),
    "Morris-Lecar, class I": neuron(
        ct.morris_lecar(V_3=12.0, V_4=17.4, phi=1 / 15, g_Ca=4.0),
        (-20, 130),
        *(("fold", -9.95), ("fold", 39.963), ("snic", 39.963)),
        *(("hopf subcritical", 97.79), ("cycle_fold", 116.1)),
        accuracy=1e-4,
    ),
    # Guckenheimer and Oliva 2002 with a leak of 10.599 mV, here 10.613: I + g E is one number.
    # A simulation with the current lowered slowly spikes down to 6.26034, where they have 6.2607.
    "Hodgkin-Huxley": neuron(
        ct.hodgkin_huxley(),
        (5, 12),
        *(("cycle_fold", 6.26033), ("cycle_fold", 7.84654 - 0.0042)),
        *(("period_doubling", 7.845337), ("period_doubling", 7.92197 - 0.0042)),
        ("cycle_fold", 7.92198 - 0.0042),
        ("hopf subcritical", 9.77544),
        accuracy=2e-6,
        options={"doublings": 0},
    ),
}


def oscillator(lines: str, bounds: tuple[float, float], ranges: Ranges, **more: Any) -> Family:
    return one(lines, bounds, ranges, cycle={"x": 0.5}, **more)


PREY = {"x": (-1, 8), "y": (-1, 5)}
QUIET = {
    "decay": one("dx/dt = p - x : 1", (-1, 1), LINE),
    "slow": one("dx/dt = 1e-6*(p - x) : 1", (-1, 1), LINE),
    "fast": one("dx/dt = 1e9*(p - x - x**3) : 1", (-1, 1), LINE),
    "small": one("dx/dt = p - x : 1", (1e-9, 4e-9), {"x": (-1e-8, 1e-8)}),
    "steeper and steeper": one("dx/dt = p - sinh(x) : 1", (-5, 5), LINE),
    "saturating": one("dx/dt = p - x/(1 + x) : 1", (0.1, 0.7), {"x": (0, 5)}),
    "exponential": one("dx/dt = p - exp(x) : 1", (0.5, 4), LINE),
    "almost folded": one("dx/dt = p - x**3 - 0.01*x : 1", (-2, 2), LINE),
    "all but folded": one("dx/dt = p - x**3 - 1e-4*x : 1", (-2, 2), LINE),
    "flat": one("dx/dt = p - x**3 : 1", (-1.1, 1), LINE),
    "away from the flat place": one("dx/dt = p - x**3 : 1", (0.5, 2), LINE),
    "below the fold": one("dx/dt = 0.1 + p*x - x**3 : 1", (-1, 0.3), LINE),
    "turning faster": one("dx/dt = -x - p*y + 1 : 1\ndy/dt = p*x - y : 1", (-2, 2), PLANE),
    "node to focus": one("dx/dt = -x + y : 1\ndy/dt = -p*x - y + 0.3 : 1", (-0.5, 1), PLANE),
    "improper node": one("dx/dt = -x + p*y : 1\ndy/dt = -y : 1", (-1, 1), PLANE),
    "rates that cross": one("dx/dt = -x : 1\ndy/dt = -p*y : 1", (0.5, 2), PLANE),
    "three at a time": one("dx/dt = x - x**3 : 1\ndy/dt = -p*y : 1", (0.5, 4), PLANE),
    "double well": one("dx/dt = y : 1\ndy/dt = x - x**3 - p*y : 1", (0.1, 4), PLANE),
    "neutral saddle": one("dx/dt = p*x + y : 1\ndy/dt = x : 1", (-1, 1), PLANE),
    "neutral saddle of a well": one(
        "dx/dt = y : 1\ndy/dt = x - x**3 + p*y : 1", (-1, 1), {"x": (-0.5, 0.5), "y": (-1, 1)}
    ),
    "neutral saddle in space": one(
        "dx/dt = p*x + y : 1\ndy/dt = x : 1\ndz/dt = x - 2*z : 1", (-1, 1), SPACE
    ),
    "almost Hopf": one(f"{SPIRAL}g = -p**2 - 1e-3 - q : 1", (-1, 1), PLANE),
    "touching the axis": one(f"{SPIRAL}g = -p**2 - q : 1", (-1, 1), PLANE),
    "centre": one("dx/dt = p*y : 1\ndy/dt = -p*x : 1", (0.5, 2), PLANE),
    "moving centre": one("dx/dt = y : 1\ndy/dt = p - x : 1", (-1, 1), PLANE),
    "pendulum": one("dx/dt = y : 1\ndy/dt = -p*sin(x) : 1", (0.5, 2), {"x": (-4, 4), "y": (-1, 1)}),
    "Lotka-Volterra, prey": one("dx/dt = p*x - x*y : 1\ndy/dt = -3*y + x*y : 1", (0.5, 2.5), PREY),
    "Lotka-Volterra, predators": one(
        "dx/dt = 1.5*x - x*y : 1\ndy/dt = -p*y + x*y : 1", (0.5, 2.5), PREY
    ),
    "Henon-Heiles": one(
        "dx/dt = u : 1\ndy/dt = v : 1\ndu/dt = -x - 2*x*y : 1\ndv/dt = -p*y - x**2 + y**2 : 1",
        *((1.2, 3), dict.fromkeys("xyuv", (-0.4, 0.4))),
    ),
    "resonance": one(
        "dx/dt = u : 1\ndy/dt = v : 1\ndu/dt = -x - 0.1*y : 1\ndv/dt = -p*y - 0.1*x : 1",
        *((0.5, 3), dict.fromkeys("xyuv", (-1, 1))),
    ),
    "weak coupling": one(
        "dx/dt = -x + p*tanh(y) : 1\ndy/dt = -y + p*tanh(x) : 1", (-0.95, 0.95), PLANE
    ),
    "slack loop of three": one(
        "dx/dt = -x + p/(1 + y) : 1\ndy/dt = -y + p/(1 + z) : 1\ndz/dt = -z + p/(1 + x) : 1",
        *((0.5, 20), dict.fromkeys("xyz", (0, 20))),
    ),
    "Lorenz, convection": Family(
        text(LORENZ, r=5.0), "r", (2, 10), {"x": (-30, 30), "y": (-30, 30), "z": (-5, 40)}
    ),
    "theta at rest": Family(ct.System(ct.theta(I=-0.5)), "I", (-1, -0.1), {"theta": (-3, 3)}),
    "axon at rest": neuron(ct.hodgkin_huxley(), (-5, 5)),
    "van der Pol": Family(
        text(VAN_DER_POL, mu=1.0), "mu", (0.5, 3), {"x": (-4, 4), "y": (-8, 8)}, cycle={"x": 1.0}
    ),
    "growing circle": oscillator(f"{SPIRAL}g = p - q : 1", (0.5, 2), PLANE),
    "shear": Family(ct.System(ct.stuart_landau(omega=3.0)), "c", (-1, 1), PLANE, cycle={"x": 0.3}),
    "uneven circle": oscillator(f"{CIRCLE}w = 1 - x + (1 + x)*p : 1", (0.1, 1), PLANE),
    "follower": oscillator(
        f"{SPIRAL}g = 1 - q : 1\ndz/dt = p*x - z + x*y : 1", (-1, 1), SPACE, p=0.5
    ),
    "multipliers that meet": oscillator(
        f"{SPIRAL}g = 1 - q : 1\ndz/dt = -0.1*z - p*u : 1\ndu/dt = -0.2*u + z : 1",
        *((-0.01, 0.5), {**SPACE, "u": (-3, 3)}),
        p=0.2,
    ),
}


@functools.cache
def diagram(name: str) -> xr.DataTree:
    return (KNOWN | QUIET)[name].diagram()


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_is_found(name: str) -> None:
    family, found = KNOWN[name], listed(diagram(name))
    known = sorted(family.known, key=lambda item: (round(item[1], 5), item[0]))
    found = sorted(found, key=lambda item: (round(item[1], 5), item[0]))
    assert sorted(k for k, _ in found) == sorted(k for k, _ in known)
    for kind, where in known:
        same = [p for k, p in found if k == kind]
        gap = min(abs(p - where) for p in same)
        near = 5e-6 if kind == "homoclinic" else 0  # its period is infinite
        assert gap <= max(family.accuracy * max(abs(where), 1), near), (kind, where, same)
    assert diagram(name).attrs["not_followed"] == []


@pytest.mark.parametrize("name", QUIET)
def test_nothing_is_found_where_nothing_happens(name: str) -> None:
    tree = diagram(name)
    assert listed(tree) == []
    assert tree.attrs["not_followed"] == []
    if QUIET[name].cycle is not None:  # both ends of the range are reached
        assert {ENDS[k] for k in tree["cycles/end"].values.ravel()} == {"range"}
        assert {*tree["cycles/stability"].values} == {0}


@pytest.mark.parametrize("name", KNOWN | QUIET)
def test_invariants(name: str) -> None:
    family, tree = (KNOWN | QUIET)[name], diagram(name)
    assert ct.validate(tree) == []
    found, branches = tree["bifurcations"].to_dataset(), tree["branches"].to_dataset()
    p = tree.attrs["parameter"]
    speed = np.abs(modes(branches, "eigenvalue")).max()
    assert (found["residual"] <= 1e-8 * max(speed, 1)).all()
    assert (np.abs(found["test"]) <= 1e-7 * max(speed, 1)).all()
    low, high = family.bounds
    assert ((branches[p] >= low - 1e-9) & (branches[p] <= high + 1e-9)).all()
    variables = [n for n in family.system.variables if n in branches]
    for k in np.linspace(0, branches.sizes["point"] - 1, 4).astype(int):
        here = branches.isel(point=k)
        moved = with_parameters(family.system, {family.parameter: here[p].item()})
        state = {n: torch.as_tensor(here[n].values.copy()) for n in variables}
        J = jacobian(moved, state)
        exact = np.linalg.eigvals(J.values)
        own = modes(here, "eigenvalue")
        for value in exact:
            assert np.abs(own - value).min() <= 1e-7 * np.abs(exact).max()
        rates = moved(torch.tensor(0.0, dtype=torch.float64), state)
        assert max(float(r.abs().max()) for r in rates.values()) <= 1e-8 * max(speed, 1)
    if "cycles" not in tree.children:
        return
    cycles = tree["cycles"].to_dataset()
    values = modes(cycles, "multiplier")
    alone = np.abs(values[:, 1:] - 1).min(1) > 0.1  # a double one is as good as a square root
    alone &= cycles["period"].values < 5 * cycles["period"].values.min()
    largest = np.maximum(np.abs(values).max(1), 1)
    assert (np.abs(values[:, 0] - 1) <= 1e-8 * largest)[alone].all()
    assert (cycles["residual"] < 1e-7).all()
    assert (cycles["period"] > 0).all()
    for n in variables:
        profile = cycles[n].transpose("orbit", "phase", ...).values
        width = np.ptp(profile, axis=1) + 1e-6
        np.testing.assert_allclose(profile[:, 0], profile[:, -1], rtol=1e-9, atol=1e-9)
        assert (cycles[f"{n}_max"].values >= profile.max(1) - 1e-3 * width).all()
        assert (cycles[f"{n}_min"].values <= profile.min(1) + 1e-3 * width).all()


# what is known of whole branches


def test_radius_of_every_cycle_of_normal_forms() -> None:
    cycles = diagram("Hopf")["cycles"]
    p = cycles["p"].values
    for name in ("x_max", "y_max"):
        np.testing.assert_allclose(cycles[name].values[:, 0], np.sqrt(p), rtol=1e-6)
    np.testing.assert_allclose(cycles["period"], 2 * math.pi, rtol=1e-9)
    np.testing.assert_allclose(
        modes(cycles.to_dataset(), "multiplier")[:, 1].real, np.exp(-4 * math.pi * p), rtol=1e-6
    )
    cycles = diagram("Bautin")["cycles"]
    square = cycles["x_max"].values[:, 0] ** 2
    np.testing.assert_allclose(cycles["p"], square**2 - square, atol=1e-6)
    stable = cycles["stability"].values == 0
    assert (square[stable] > 0.5 - 1e-6).all()
    assert (square[~stable] < 0.5 + 1e-6).all()


def test_period_of_every_cycle_that_passes_near_a_saddle_node() -> None:
    cycles = diagram("circle")["cycles"]
    drive = cycles["p"].values
    np.testing.assert_allclose(cycles["period"], math.pi / np.sqrt(drive), rtol=1e-5)
    assert cycles["period"].max() > 300


def test_branches_of_a_fold() -> None:
    branches = diagram("fold")["branches"]
    x, p = branches["x"].values[:, 0], branches["p"].values
    np.testing.assert_allclose(x**2, p, atol=1e-9)
    np.testing.assert_allclose(branches["eigenvalue"].values[:, 0, 0], -2 * x, atol=1e-9)
    names = np.array(STABILITIES)[branches["stability"].values]
    assert (names[x > 1e-6] == "stable").all()
    assert (names[x < -1e-6] == "unstable").all()
    assert (np.diff(x) != 0).all()  # no point twice
    assert p.max() == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_pitchfork_is_seen_from_any_of_its_branches(sign: int) -> None:
    family = ParametricField(text("dx/dt = x*(p - x**2) : 1", p=0.5), ["p"])
    curve = Equilibria(family, np.array([6.0]), np.array([2.0]))
    region = Region(-1.0, 1.0, np.array([-3.0]), np.array([3.0]))
    for x in (0.0, sign * math.sqrt(0.7)):
        branch = trace(curve, np.array([x, 0.7]), region, StepControl(largest=0.02))
        assert [found.kind for found in branch.located] == ["pitchfork"]
        np.testing.assert_allclose(branch.located[0].u, 0, atol=1e-9)
        assert branch.located[0].coefficient == pytest.approx(-1)


def test_wilson_and_cowan_by_other_means() -> None:
    def net(y: np.ndarray, P: float) -> list[float]:
        def s(u: float, a: float, theta: float) -> float:
            return 1 / (1 + math.exp(-a * (u - theta))) - 1 / (1 + math.exp(a * theta))

        top = [1 - 1 / (1 + math.exp(a * theta)) for a, theta in ((1.3, 4.0), (2.0, 3.7))]
        return [
            -y[0] + (top[0] - y[0]) * s(16 * y[0] - 12 * y[1] + P, 1.3, 4.0),
            -y[1] + (top[1] - y[1]) * s(15 * y[0] - 3 * y[1], 2.0, 3.7),
        ]

    def slope(y: np.ndarray, P: float) -> np.ndarray:
        h = 1e-6
        columns = [
            (np.array(net(y + h * e, P)) - np.array(net(y - h * e, P))) / (2 * h) for e in np.eye(2)
        ]
        return np.stack(columns, -1)

    tree = diagram("Wilson-Cowan")
    found = tree["bifurcations"].to_dataset()
    tests = {"fold": np.linalg.det, "hopf": np.trace}
    for k in range(found.sizes["bifurcation"]):
        kind = KINDS[int(found["kind"][k])]
        if kind not in tests:
            continue
        here = [found[n].values[k].item() for n in ("E", "I", "P")]

        def defining(z: np.ndarray, test: Callable[..., Any] = tests[kind]) -> list[float]:
            return [*net(z[:2], z[2]), float(test(slope(z[:2], z[2])))]

        exact = fsolve(defining, np.array(here) + 1e-3, xtol=1e-10)
        np.testing.assert_allclose(here, exact, rtol=1e-7)


def test_period_doubling_of_hodgkin_and_huxley_by_simulation() -> None:
    """One turn of the cycle found, and of its neighbours, integrated: one multiplier is −1."""
    tree = diagram("Hodgkin-Huxley")
    found = tree["bifurcations"].to_dataset()
    cycles = tree["cycles"].to_dataset()
    p = found["I"].values[found["kind"].values == KINDS.index("period_doubling")][0]
    orbit = cycles.isel(orbit=int(np.abs(cycles["I"].values - p).argmin()))
    system = with_parameters(KNOWN["Hodgkin-Huxley"].system, {"I": float(p)})
    y0 = np.array([orbit[n].transpose("phase", ...).values[0, 0] for n in "vmhn"])
    moves = np.diag([1e-6, 1e-8, 1e-8, 1e-8])
    rows = torch.as_tensor(np.stack([y0, *(y0 + moves), *(y0 - moves)]))
    state = {n: rows[:, k : k + 1] for k, n in enumerate("vmhn")}
    period = float(orbit["period"])
    run = ct.solve(system, state, [0.0, period], solver=ct.Tsit5(rtol=1e-12, atol=1e-14))
    ends = np.concatenate([run[n][-1].numpy() for n in "vmhn"], -1)
    np.testing.assert_allclose(ends[0], y0, rtol=1e-4, atol=1e-3)
    monodromy = (ends[1:5] - ends[5:]).T / (2 * moves.sum(0))
    values = np.linalg.eigvals(monodromy)
    assert np.abs(values + 1).min() < 1e-3
    assert np.abs(values - 1).min() < 1e-3


# limit cycles


@pytest.mark.parametrize(("mu", "period"), [(1.0, 6.663286859323129), (10.0, 19.078369566935876)])
def test_period_of_van_der_pol(mu: float, period: float) -> None:
    found = limit_cycle(text(VAN_DER_POL, mu=mu), {"x": 1.0})
    assert found["period"].item() == pytest.approx(period, rel=3e-11)
    assert found["x_max"].item() == pytest.approx({1.0: 2.0086198622, 10.0: 2.0142853609}[mu])
    assert found["stability"].item() == 0
    assert found["error"].item() < 1e-9


def along(found: xr.Dataset, values: np.ndarray) -> float:
    """Return the integral over one period, by Boole's rule in each interval of the mesh."""
    phase = found["phase"].values
    weights = np.array([7, 32, 12, 32, 7]) / 90
    total = sum(
        (phase[4 * k + 4] - phase[4 * k]) * weights @ values[4 * k : 4 * k + 5]
        for k in range((len(phase) - 1) // 4)
    )
    return float(total * found["period"].item())


def test_product_of_the_multipliers_is_the_change_of_volume() -> None:
    found = limit_cycle(text(ROESSLER, c=2.5), {"x": 1.0})
    x = found["x"].values[:, 0]
    volume = math.exp(along(found, 0.2 + x - 2.5))
    product = modes(found, "multiplier").prod()
    assert product.real == pytest.approx(volume, rel=1e-6)
    assert abs(modes(found, "multiplier")[0] - 1) < 1e-9
    ring = limit_cycle(KNOWN["torus"].system, {"x": 1.0, "z": 1.0})
    z = ring["z"].values[:, 0]
    assert modes(ring, "multiplier").prod().real == pytest.approx(
        math.exp(along(ring, 2 * (z - 1.2) + 1 - z**2)), rel=1e-8
    )


def test_stuart_landau_in_closed_form() -> None:
    found = limit_cycle(ct.System(ct.stuart_landau(mu=0.7, omega=2.0, c=0.5)), {"x": 0.1})
    period = 2 * math.pi / (2 - 0.5 * 0.7)
    assert found["period"].item() == pytest.approx(period, rel=1e-10)
    np.testing.assert_allclose(
        modes(found, "multiplier"), [1, math.exp(-1.4 * period)], rtol=1e-8, atol=1e-12
    )
    radius = np.hypot(found["x"].values, found["y"].values)
    np.testing.assert_allclose(radius, math.sqrt(0.7), rtol=1e-9)


def test_what_stands_still_does_not_hide_a_cycle() -> None:
    found = limit_cycle(text(f"{SPIRAL}g = 1 - q : 1", "dz/dt = -z : 1"), {"x": 0.5})
    assert found["period"].item() == pytest.approx(2 * math.pi)


SWING = text("dx/dt = y : 1", "dy/dt = -x : 1")
NO_CYCLE = [
    (ct.System(ct.fitzhugh_nagumo()), {"v": 1.0}, "comes to rest at .*-1.199408"),
    (text("dx/dt = 1 - x : 1"), {}, "comes to rest at"),
    (text("dx/dt = y : 1", "dy/dt = -x - 0.02*y : 1"), {"x": 2.0}, "comes to rest"),
    (text(LORENZ, r=10.0), {"x": 1.0}, "comes to rest at"),
    (text(LORENZ, r=28.0), {"x": 1.0}, "does not tend to a cycle.*chaotic|come back.*chaotic"),
    (SWING, {"x": 2.0, "y": 1.0}, "not isolated"),
    (text("dx/dt = 1.5*x - x*y : 1", "dy/dt = -3*y + x*y : 1"), {"x": 2.0, "y": 1.0}, "isolated"),
    (ct.System(ct.qif(I=1.0)), {"v": 0.0}, "goes to infinity"),
]


@pytest.mark.parametrize(("system", "begin", "message"), NO_CYCLE, ids=range(len(NO_CYCLE)))
def test_orbits_that_tend_to_no_cycle(system: ct.System, begin: Start, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        limit_cycle(system, begin)


# which parameter


def places(tree: xr.DataTree, kind: str) -> list[float]:
    return [where for name, where in listed(tree) if name.startswith(kind)]


def test_a_parameter_of_one_term_or_of_all() -> None:
    system = ct.System(
        ct.TextNeuron("dx/dt = p - x**2 : 1", name="a", p=0.5),
        ct.TextNeuron("dy/dt = p - y : 1", name="b", p=0.25),
    )
    box = {"x_a": (-3, 3), "y_b": (-3, 3)}
    every = bifurcation_diagram(system, "p", (-1, 1), ranges=box)
    own = bifurcation_diagram(system, "a.p", (-1, 1), ranges=box)
    other = bifurcation_diagram(system, "b.p", (-1, 1), ranges=box)
    assert places(every, "fold") == places(own, "fold") == pytest.approx([0], abs=1e-9)
    assert listed(other) == []
    np.testing.assert_allclose(every["branches/y_b"].values[:, 0], every["branches/p"], atol=1e-9)
    np.testing.assert_allclose(own["branches/y_b"], 0.25, atol=1e-9)
    assert own.attrs["parameter"] == "a_p"
    assert "a_p" in own["branches"]
    np.testing.assert_allclose(np.abs(other["branches/x_a"]), math.sqrt(0.5), atol=1e-9)


def test_a_parameter_of_one_unit() -> None:
    drive = torch.tensor([0.5, 0.49]).double()
    system = ct.System(ct.TextNeuron("dx/dt = p - x**2 : 1", size=2, p=drive))
    tree = bifurcation_diagram(system, "p[0]", (-1, 1), ranges={"x[0]": (-3, 3), "x[1]": (-3, 3)})
    assert places(tree, "fold") == pytest.approx([0, 0], abs=1e-9)
    np.testing.assert_allclose(np.abs(tree["branches/x"].values[:, 1]), 0.7, atol=1e-9)
    with pytest.raises(ValueError, match=r"2 values that differ.*p\[0\]"):
        bifurcation_diagram(system, "p", (-1, 1), ranges={"x[0]": (-3, 3), "x[1]": (-3, 3)})


def test_the_level_of_an_input() -> None:
    system = ct.System(
        ct.Source("drive"),
        ct.rate("r"),
        ct.Synapse("drive", "r", 1.0),
        ct.Synapse("r", "r", 2.0),
    )
    tree = bifurcation_diagram(system, "drive", (-2, 2), ranges={"s_r": (-3, 3)})
    edge = math.sqrt(2) - math.atanh(1 / math.sqrt(2))
    assert places(tree, "fold") == pytest.approx([-edge, edge], abs=1e-9)
    given = ct.System(
        ct.Source("drive", 1, torch.tensor([5.0]).double()), *[*system.every_term()][1:]
    )
    again = bifurcation_diagram(given, "drive", (-2, 2), ranges={"s_r": (-3, 3)})
    assert places(again, "fold") == pytest.approx([-edge, edge], abs=1e-9)


def test_variables_are_held() -> None:
    system = ct.System(ct.hindmarsh_rose(I=2.0))
    options: dict[str, Any] = {"ranges": {"x": (-3, 3), "y": (-40, 5)}, "cycles": False}
    tree = bifurcation_diagram(system, "I", (-1, 3), at={"z": 1.0}, **options)
    assert places(tree, "fold") == pytest.approx([0, 32 / 27], abs=1e-9)
    x = 1 - math.sqrt(2 / 3)
    assert places(tree, "hopf") == pytest.approx([x**3 + 2 * x**2], abs=1e-9)
    assert tree.attrs["held"] == {"z[0]": 1.0}
    assert "z" not in tree["branches"]
    slow = bifurcation_diagram(system, "z", (0, 4), **options)
    assert places(slow, "fold") == pytest.approx([3 - 32 / 27, 3], abs=1e-9)


def test_nothing_has_to_be_bounded() -> None:
    tree = bifurcation_diagram(ct.System(ct.fitzhugh_nagumo()), "I", (0.0, 2.0), cycles=False)
    assert places(tree, "hopf") == pytest.approx([0.3312813374547, 1.4187186625453])


# refusals


def refused(parameter: str, bounds: tuple[float, float], **options: Any) -> Callable[[], Any]:
    return lambda: bifurcation_diagram(
        ct.System(ct.fitzhugh_nagumo()), parameter, bounds, **options
    )


def lines_of(*lines: str, **options: Any) -> Callable[[], Any]:
    return lambda: bifurcation_diagram(
        text(*lines, p=0.7), "p", (0.5, 1), ranges=options.pop("ranges", LINE), **options
    )


REFUSED = [
    (refused("II", (0, 1)), "unknown parameter 'II'.*did you mean 'I'"),
    (refused("I", (1, 0)), "low < high"),
    (refused("I", (0, math.nan)), "finite"),
    (refused("tau", (-1, 10)), r"tau must lie in \[0, inf\]"),
    (refused("I[3]", (0, 1)), "does not fit the shape"),
    (refused("I[x]", (0, 1)), "whole numbers"),
    (refused("I", (0, 1), ranges={"u": (0, 1)}), "no component 'u'"),
    (refused("I", (0, 1), at={"u": 1.0}), "'u'"),
    (refused("I", (0, 1), starts=0), "starts"),
    (refused("I", (0, 1), steps=0), "steps"),
    (refused("I", (0, 1), largest=2.0), "largest"),
    (refused("I", (0, 1), doublings=-1), "doublings"),
    (lines_of("dx/dt = 1 + x**2 + p**2 : 1"), "no equilibrium was found"),
    (lines_of("dx/dt = log(x) - p : 1", ranges={"x": (-3, -2)}), "no equilibrium was found"),
    (lines_of("dx/dt = y : 1", "dy/dt = -p*y : 1", ranges=PLANE), "not isolated"),
    (lines_of("dx/dt = p*(y - x) : 1", "dy/dt = x - y : 1", ranges=PLANE), "not isolated"),
    (lambda: limit_cycle(SWING, duration=0.0), "duration > 0"),
    (lambda: limit_cycle(SWING, {"z": 1.0}), "'z'"),
    (lambda: bifurcation_curves(SWING, {"p": (0, 1)}), "two parameters"),
    (
        lambda: bifurcation_curves(text("dx/dt = p*q - x : 1", p=1.0, q=1.0), SQUARE),
        "no fold and no Hopf point",
    ),
]
SQUARE = {"p": (-1.0, 1.0), "q": (-1.0, 1.0)}


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_saved_opened_and_told(tmp_path: Path) -> None:
    tree = diagram("Bautin")
    ct.save(tree, tmp_path / "bautin.zarr")
    opened = ct.open(tmp_path / "bautin.zarr")
    for group in ("branches", "bifurcations", "cycles"):
        xr.testing.assert_equal(opened[group].to_dataset().load(), tree[group].to_dataset())
    assert ct.validate(opened) == []
    assert findings(opened) == findings(tree)
    assert findings(tree).splitlines() == [
        "p from -1 to 1: 1 branch of equilibria, 1 of cycles, 2 bifurcations",
        "  p = -0.25  fold of cycles: two cycles of period 6.283 meet",
        "  p = 0  Hopf, subcritical: unstable cycles of period 6.283 are born",
    ]


# two parameters


def curves_of(lines: str, ranges: Ranges, bounds: Ranges = SQUARE, **values: float) -> xr.DataTree:
    system = text(lines, **values)
    tree = bifurcation_curves(system, bounds, ranges=ranges, largest=0.1)
    assert ct.validate(tree) == []
    assert (tree["curves/residual"] < 1e-7).all()
    return tree


def special(tree: xr.DataTree) -> list[tuple[str, float, float]]:
    found = tree["codimension_two"].to_dataset()
    a, b = tree.attrs["parameters"]
    rows = zip(found["kind"].values, found[a].values, found[b].values, strict=True)
    return sorted((CODIMENSION_TWO[k], float(x), float(y)) for k, x, y in rows)


def of_curve(tree: xr.DataTree, kind: str) -> xr.Dataset:
    points = tree["curves"].to_dataset()
    return points.isel(point=points["kind"].values == CURVES.index(kind))


def test_folds_meet_at_a_cusp() -> None:
    tree = curves_of("dx/dt = p + q*x - x**3 : 1", LINE, p=0.0, q=0.5)
    points = tree["curves"].to_dataset()
    a, b, x = points["p"].values, points["q"].values, points["x"].values[:, 0]
    assert {*points["kind"].values} == {CURVES.index("fold")}
    np.testing.assert_allclose(27 * a**2, 4 * b**3, atol=1e-9)
    np.testing.assert_allclose(b, 3 * x**2, atol=1e-9)
    assert b.max() == pytest.approx(1.0)
    assert special(tree) == [("cusp", pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))]
    assert "cusp" in special_findings(tree)


def test_bogdanov_and_takens() -> None:
    tree = curves_of("dx/dt = y : 1\ndy/dt = p + q*x + x**2 - x*y : 1", PLANE, p=-0.2, q=-0.7)
    fold, hopf, neutral = (of_curve(tree, kind) for kind in CURVES)
    np.testing.assert_allclose(4 * fold["p"], fold["q"] ** 2, atol=1e-9)
    np.testing.assert_allclose(hopf["p"], 0, atol=1e-9)
    np.testing.assert_allclose(hopf["angular_frequency"] ** 2, -hopf["q"], atol=1e-9)
    np.testing.assert_allclose(neutral["p"], 0, atol=1e-9)
    assert (hopf["q"] < 1e-9).all()
    assert (neutral["q"] > -1e-9).all()
    assert hopf["q"].min() == pytest.approx(-1)
    assert {name for name, _, _ in special(tree)} == {"bogdanov_takens"}
    for _, p, q in special(tree):
        assert (p, q) == pytest.approx((0, 0), abs=1e-6)


def test_bautin() -> None:
    tree = curves_of(
        f"{SPIRAL}g = p + r*q - q**2 : 1", PLANE, {"p": (-1, 1), "r": (-1, 1)}, p=0.1, r=0.5
    )
    hopf = of_curve(tree, "hopf")
    np.testing.assert_allclose(hopf["p"], 0, atol=1e-9)
    assert (np.sign(hopf["coefficient"]) == np.sign(hopf["r"]))[np.abs(hopf["r"]) > 1e-6].all()
    assert special(tree) == [("bautin", pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-8))]


def test_a_fold_meets_a_hopf_point() -> None:
    lines = "dx/dt = (r + z)*x - y : 1\ndy/dt = x + (r + z)*y : 1\ndz/dt = p + z**2 - h : 1"
    lines += "\nh = x**2 + y**2 : 1"
    tree = curves_of(lines, SPACE, {"p": (-1, 1), "r": (-0.9, 0.9)}, p=-0.3, r=0.3)
    np.testing.assert_allclose(of_curve(tree, "fold")["p"], 0, atol=1e-9)
    hopf = of_curve(tree, "hopf")
    np.testing.assert_allclose(hopf["p"], -(hopf["r"] ** 2), atol=1e-9)
    assert {name for name, _, _ in special(tree)} == {"fold_hopf"}
    for _, p, r in special(tree):
        assert (p, r) == pytest.approx((0, 0), abs=1e-6)


def test_two_oscillations_at_once() -> None:
    lines = f"""{SPIRAL}g = p - q : 1
    du/dt = k*u - 1.7*v : 1
    dv/dt = 1.7*u + k*v : 1
    k = p + r - u**2 - v**2 : 1"""
    box = {**PLANE, "u": (-3, 3), "v": (-3, 3)}
    tree = curves_of(lines, box, {"p": (-1, 1), "r": (-0.5, 0.6)}, p=-0.3, r=0.3)
    hopf = of_curve(tree, "hopf")
    fast = np.abs(hopf["angular_frequency"] - 1.7) < 1e-6
    np.testing.assert_allclose(hopf["angular_frequency"], np.where(fast, 1.7, 1.0), atol=1e-8)
    np.testing.assert_allclose(hopf["p"], np.where(fast, -hopf["r"], 0), atol=1e-9)
    assert {name for name, _, _ in special(tree)} == {"double_hopf"}


def test_hopf_curve_of_fitzhugh_and_nagumo() -> None:
    a, b = 0.7, 0.8
    system = ct.System(ct.fitzhugh_nagumo(a=a, b=b))
    box = {"I": (0, 2), "tau": (2, 20)}
    tree = bifurcation_curves(system, box, ranges={"v": (-3, 3)}, largest=0.1)
    hopf = of_curve(tree, "hopf")
    assert hopf.sizes["point"] == tree["curves"].sizes["point"]
    tau, v = hopf["tau"].values, hopf["v"].values[:, 0]
    np.testing.assert_allclose(v**2, 1 - b / tau, rtol=1e-8)
    np.testing.assert_allclose(hopf["I"], (v + a) / b - v + v**3 / 3, atol=1e-8)
    np.testing.assert_allclose(
        hopf["angular_frequency"], np.sqrt(1 / tau - (b / tau) ** 2), rtol=1e-7
    )
    assert (tau.min(), tau.max()) == pytest.approx((2, 20), rel=1e-6)
    assert {int(c) for c in hopf["curve"].values} == {0, 1}
