"""Fixed points of known systems: none missed, none spurious, each of the right type.

What is expected comes from closed forms, or from roots of polynomials and of functions of one
variable, never from the search itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from scipy.optimize import brentq

import ctsigprop as ct
from ctsigprop.analyses.stability import TYPES, fixed_points, index

Points = list[tuple[tuple[float, ...], str]]

PI = np.pi
NODE, FOCUS, SADDLE = "stable_node", "stable_focus", "saddle"
REPELLER, SPIRAL = "unstable_node", "unstable_focus"


@dataclass
class Case:
    """A system by its equations, where to look, and what there is."""

    name: str
    equations: str
    box: dict[str, tuple[float, float]]
    points: Points
    numbers: dict[str, float] = field(default_factory=dict)
    build: Callable[[], ct.System] | None = None

    def system(self) -> ct.System:
        if self.build is not None:
            return self.build()
        lines = [line.strip() for line in self.equations.split(";")]
        rates = [f"d{line.replace(' = ', '/dt = ', 1)} : 1" for line in lines]
        return ct.System(ct.TextNeuron("\n".join(rates), **self.numbers))


def square(half: float, names: str = "xy") -> dict[str, tuple[float, float]]:
    return dict.fromkeys(names, (-half, half))


def real_roots(*coefficients: float) -> list[float]:
    roots = np.roots(coefficients)
    return sorted(float(r.real) for r in roots if abs(r.imag) < 1e-9)


def zeros(f: Callable[[float], float], low: float, high: float, count: int = 4000) -> list[float]:
    """Return all zeros of a function of one variable that changes sign there."""
    x = np.linspace(low, high, count)
    y = np.array([f(value) for value in x])
    pairs = np.flatnonzero(y[:-1] * y[1:] < 0)
    return [brentq(f, x[k], x[k + 1], xtol=1e-14, rtol=1e-14) for k in pairs]


def nine() -> Points:
    kinds = {0: "unstable_star", 1: SADDLE, 2: "stable_star"}
    return [((x, y), kinds[abs(x) + abs(y)]) for x in (-1, 0, 1) for y in (-1, 0, 1)]


def toggle(a: float) -> Points:
    """u (1 + v²) = a and v (1 + u²) = a: u = v, or u v = 1 and u² − a u + 1 = 0."""
    u, v = real_roots(1, -a, 1)
    middle = real_roots(1, 0, 1, -a)[0]
    return [((u, v), NODE), ((middle, middle), SADDLE), ((v, u), NODE)]


def wilson_cowan() -> Points:
    """E = (k − E) S(12 E − 4 I) solved for I, put into the equation of I."""

    def sigmoid(u: float, a: float, theta: float) -> float:
        return 1 / (1 + np.exp(-a * (u - theta))) - 1 / (1 + np.exp(a * theta))

    k_e, k_i = (1 / (1 + np.exp(-a * theta)) for a, theta in ((1.2, 2.8), (1.0, 4.0)))

    def inhibition(E: float) -> float:
        s = E / (k_e - E) + 1 - k_e
        return float((12 * E - 2.8 + np.log(1 / s - 1) / 1.2) / 4)

    def rest(E: float) -> float:
        i = inhibition(E)
        return float(-i + (k_i - i) * sigmoid(13 * E - 11 * i, 1.0, 4.0))

    points: Points = []
    for E in zeros(rest, -0.02, 0.4745, 40_000):
        i = inhibition(E)
        s_e, s_i = sigmoid(12 * E - 4 * i, 1.2, 2.8), sigmoid(13 * E - 11 * i, 1.0, 4.0)
        p, q = s_e + 1 - k_e, s_i + 1 - k_i
        slope_e, slope_i = 1.2 * p * (1 - p) * (k_e - E), q * (1 - q) * (k_i - i)
        a, b = -1 - s_e + 12 * slope_e, -4 * slope_e
        c, d = 13 * slope_i, -1 - s_i - 11 * slope_i
        points.append(((E, i), kind_of(a + d, a * d - b * c)))
    assert len(points) == 3
    return points


def kind_of(trace: float, det: float) -> str:
    """Return the type of a point in the plane that is neither degenerate, a centre nor a star."""
    if det < 0:
        return SADDLE
    turns = trace * trace < 4 * det
    return (FOCUS if turns else NODE) if trace < 0 else SPIRAL if turns else REPELLER


def morris_lecar() -> Points:
    """w = w∞(v), put into the equation of v (class I, I = 36)."""

    def w(v: float) -> float:
        return float((1 + np.tanh((v - 12) / 17.4)) / 2)

    def current(v: float) -> float:
        m = (1 + np.tanh((v + 1.2) / 18)) / 2
        return float(36 - 4 * m * (v - 120) - 8 * w(v) * (v + 84) - 2 * (v + 60))

    found = zeros(current, -80, 60)
    return [((v, w(v)), kind) for v, kind in zip(found, (NODE, SADDLE, SPIRAL), strict=True)]


def hindmarsh_rose(drive: float) -> Points:
    """y = 1 − 5 x², z = 4 (x + 1.6), and x³ + 2 x² + 4 x + 5.4 = I."""
    (x,) = real_roots(1, 2, 4, 5.4 - drive)
    J = np.array([[6 * x - 3 * x * x, 1, -1], [-10 * x, -1, 0], [0.024, 0, -0.006]])
    values = np.linalg.eigvals(J)
    turns = np.abs(values.imag).max() > 0
    grows = (values.real > 0).sum()
    kind = (FOCUS if turns else NODE) if not grows else "saddle_focus" if turns else SADDLE
    return [((x, 1 - 5 * x * x, 4 * (x + 1.6)), kind)]


def lorenz(r: float) -> Points:
    a = np.sqrt(8 / 3 * (r - 1))
    outer = "saddle_focus" if r > 10 * (10 + 8 / 3 + 3) / (10 - 8 / 3 - 1) else FOCUS
    return [((-a, -a, r - 1), outer), ((0, 0, 0), SADDLE), ((a, a, r - 1), outer)]


def roessler(a: float, b: float, c: float) -> Points:
    z = [(c + sign * np.sqrt(c * c - 4 * a * b)) / 2 / a for sign in (-1, 1)]
    return [((a * height, -height, height), "saddle_focus") for height in z]


def hopfield() -> Points:
    (u,) = zeros(lambda u: u - 2 * np.tanh(u), 0.1, 3)
    return [((-u, u), NODE), ((0, 0), SADDLE), ((u, -u), NODE)]


def may_leonard(a: float, b: float) -> Points:
    inner = (1 / (1 + a + b),) * 3
    corners = [tuple(np.eye(3)[k]) for k in (2, 1, 0)]
    return [((0, 0, 0), REPELLER), (inner, "saddle_focus"), *((c, SADDLE) for c in corners)]


def chebyshev() -> Points:
    roots = sorted(np.cos((2 * k + 1) * PI / 10) for k in range(5))
    return [((x,), (REPELLER, NODE)[k % 2]) for k, x in enumerate(roots)]


CASES = [
    # one variable
    Case("logistic", "x = x*(1 - x)", square(2, "x"), [((0,), REPELLER), ((1,), NODE)]),
    Case(
        "three of a cubic",
        "x = -x**3 + 3*x - 1",
        square(3, "x"),
        [((x,), k) for x, k in zip(real_roots(-1, 0, 3, -1), (NODE, REPELLER, NODE), strict=True)],
    ),
    Case("Chebyshev", "x = 16*x**5 - 20*x**3 + 5*x", square(1.2, "x"), chebyshev()),
    Case("semi-stable", "x = (x - 0.25)**2", square(1, "x"), [((0.25,), "degenerate")]),
    Case(
        "phase difference",
        "x = w - sin(x)",
        square(3, "x"),
        [((np.arcsin(0.5),), NODE), ((PI - np.arcsin(0.5),), REPELLER)],
        {"w": 0.5},
    ),
    Case(
        "QIF",
        "",
        {"v": (-3.0, 3.0)},
        [((-1,), NODE), ((1,), REPELLER)],
        build=lambda: ct.System(ct.qif(I=-1.0)),
    ),
    Case(
        "theta",
        "",
        {"theta": (-3.0, 3.0)},
        [((-np.arccos(1 / 3),), NODE), ((np.arccos(1 / 3),), REPELLER)],
        build=lambda: ct.System(ct.theta(I=-0.5)),
    ),
    # linear, and where the linear flow does not decide
    Case("star", "x = -x; y = -y", square(1), [((0, 0), "stable_star")]),
    Case("improper node", "x = x + y; y = y", square(1), [((0, 0), "unstable_improper_node")]),
    Case("oscillator", "x = y; y = -x", square(1), [((0, 0), "centre")]),
    Case("damped oscillator", "x = y; y = -x - y/5", square(1), [((0, 0), FOCUS)]),
    Case("saddle-node", "x = x**2; y = -y", square(1), [((0, 0), "degenerate")]),
    Case("monkey", "x = x**2 - y**2; y = -2*x*y", square(1), [((0, 0), "degenerate")]),
    Case("before the fold", "x = 0.25 + x**2; y = -y", square(2), []),
    Case(
        "after the fold",
        "x = x**2 - 0.25; y = -3*y",
        square(2),
        [((-0.5, 0), NODE), ((0.5, 0), SADDLE)],
    ),
    Case("marginal", "x = -y; y = x; z = -z", square(1, "xyz"), [((0, 0, 0), "marginal")]),
    Case(
        "saddle-focus",
        "x = -x - 3*y; y = 3*x - y; z = 2*z",
        square(1, "xyz"),
        [((0, 0, 0), "saddle_focus")],
    ),
    # mechanics and lattices
    Case("nine", "x = x - x**3; y = y - y**3", square(2), nine()),
    Case(
        "row",
        "x = sin(x); y = -y",
        {"x": (-7.0, 7.0), "y": (-1.0, 1.0)},
        [((k * PI, 0), (SADDLE, "stable_star")[k % 2]) for k in range(-2, 3)],
    ),
    Case(
        "pendulum",
        "x = y; y = -sin(x)",
        {"x": (-4.0, 4.0), "y": (-3.0, 3.0)},
        [((-PI, 0), SADDLE), ((0, 0), "centre"), ((PI, 0), SADDLE)],
    ),
    Case(
        "damped pendulum",
        "x = y; y = -sin(x) - y/4",
        {"x": (-4.0, 4.0), "y": (-3.0, 3.0)},
        [((-PI, 0), SADDLE), ((0, 0), FOCUS), ((PI, 0), SADDLE)],
    ),
    Case(
        "Duffing",
        "x = y; y = x - x**3 - y/10",
        square(2),
        [((-1, 0), FOCUS), ((0, 0), SADDLE), ((1, 0), FOCUS)],
    ),
    Case(
        "Duffing without damping",
        "x = y; y = x - x**3",
        square(2),
        [((-1, 0), "centre"), ((0, 0), SADDLE), ((1, 0), "centre")],
    ),
    # populations
    Case(
        "Lotka and Volterra",
        "x = 1.5*x - x*y; y = -3*y + x*y",
        {"x": (-1.0, 8.0), "y": (-1.0, 5.0)},
        [((0, 0), SADDLE), ((3, 1.5), "centre")],
    ),
    Case(
        "rabbits and sheep",
        "x = x*(3 - x - 2*y); y = y*(2 - x - y)",
        square(4),
        [((0, 0), REPELLER), ((0, 2), NODE), ((1, 1), SADDLE), ((3, 0), NODE)],
    ),
    Case(
        "Rosenzweig and MacArthur",
        "x = x*(1 - x/4) - x*y/(1 + x); y = y*(x/(1 + x) - 0.5)",
        {"x": (-0.5, 5.0), "y": (-0.5, 3.0)},
        [((0, 0), SADDLE), ((1, 1.5), SPIRAL), ((4, 0), SADDLE)],
    ),
    Case(
        "May and Leonard",
        "x = x*(1 - x - a*y - b*z); y = y*(1 - y - a*z - b*x); z = z*(1 - z - a*x - b*y)",
        dict.fromkeys("xyz", (-0.5, 1.5)),
        may_leonard(0.8, 1.3),
        {"a": 0.8, "b": 1.3},
    ),
    Case(
        "SIR with births",
        "x = 0.5 - 3*x*y - 0.5*x; y = 3*x*y - 1.5*y",
        {"x": (-0.5, 1.5), "y": (-0.5, 1.0)},
        [((0.5, 1 / 6), FOCUS), ((1, 0), SADDLE)],
    ),
    # chemistry and genes
    Case(
        "Selkov",
        "x = -x + a*y + x**2*y; y = b - a*y - x**2*y",
        {"x": (0.0, 3.0), "y": (0.0, 4.0)},
        [((0.6, 0.6 / (0.08 + 0.36)), SPIRAL)],
        {"a": 0.08, "b": 0.6},
    ),
    Case(
        "Brusselator",
        "x = 1 - 4*x + x**2*y; y = 3*x - x**2*y",
        {"x": (0.0, 4.0), "y": (0.0, 6.0)},
        [((1, 3), SPIRAL)],
    ),
    Case(
        "Schnakenberg",
        "x = 0.1 - x + x**2*y; y = 1.4 - x**2*y",
        {"x": (0.0, 4.0), "y": (0.0, 4.0)},
        [((1.5, 1.4 / 2.25), FOCUS)],
    ),
    Case(
        "Lengyel and Epstein",
        "x = 10 - x - 4*x*y/(1 + x**2); y = 4*x*(1 - y/(1 + x**2))",
        {"x": (0.0, 8.0), "y": (0.0, 12.0)},
        [((2, 5), FOCUS)],
    ),
    Case(
        "toggle switch",
        "x = a/(1 + y**2) - x; y = a/(1 + x**2) - y",
        dict.fromkeys("xy", (0.0, 4.0)),
        toggle(3.0),
        {"a": 3.0},
    ),
    # oscillators, chaos
    Case("van der Pol", "x = y; y = (1 - x**2)*y - x", square(3), [((0, 0), SPIRAL)]),
    Case("stiff van der Pol", "x = y; y = 3*(1 - x**2)*y - x", square(3), [((0, 0), REPELLER)]),
    Case(
        "Stuart and Landau",
        "x = x - 2*y - x*(x**2 + y**2); y = 2*x + y - y*(x**2 + y**2)",
        square(2),
        [((0, 0), SPIRAL)],
    ),
    Case(
        "Lorenz",
        "x = 10*(y - x); y = x*(28 - z) - y; z = x*y - 8/3*z",
        {"x": (-30.0, 30.0), "y": (-30.0, 30.0), "z": (-10.0, 50.0)},
        lorenz(28.0),
    ),
    Case(
        "Lorenz at r = 10",
        "x = 10*(y - x); y = x*(10 - z) - y; z = x*y - 8/3*z",
        {"x": (-30.0, 30.0), "y": (-30.0, 30.0), "z": (-10.0, 50.0)},
        lorenz(10.0),
    ),
    Case(
        "Roessler",
        "x = -y - z; y = x + y/5; z = 0.2 + z*(x - 5.7)",
        {"x": (-10.0, 20.0), "y": (-40.0, 20.0), "z": (-10.0, 40.0)},
        roessler(0.2, 0.2, 5.7),
    ),
    # neurons, populations of them, and what they learn
    Case(
        "FitzHugh and Nagumo at rest",
        "",
        {"v": (-3.0, 3.0), "w": (-3.0, 3.0)},
        [((v, (v + 0.7) / 0.8), FOCUS) for v in real_roots(-1 / 3, 0, 1 - 1 / 0.8, -0.7 / 0.8)],
        build=lambda: ct.System(ct.fitzhugh_nagumo()),
    ),
    Case(
        "FitzHugh and Nagumo, bistable",
        "v = v - v**3/3 - w; w = 0.08*(v - 2*w)",
        {"v": (-2.5, 2.5), "w": (-2.0, 2.0)},
        [
            ((-(1.5**0.5), -(1.5**0.5) / 2), FOCUS),
            ((0, 0), SADDLE),
            ((1.5**0.5, 1.5**0.5 / 2), FOCUS),
        ],
    ),
    Case(
        "Morris and Lecar, class I",
        "",
        {"v": (-80.0, 60.0), "w": (-0.1, 0.9)},
        morris_lecar(),
        build=lambda: ct.System(ct.morris_lecar(I=36.0, g_Ca=4.0, V_3=12.0, V_4=17.4, phi=1 / 15)),
    ),
    *(
        Case(
            f"Hindmarsh and Rose, I = {drive}",
            "",
            {"x": (-3.0, 3.0), "y": (-30.0, 2.0), "z": (-5.0, 15.0)},
            hindmarsh_rose(drive),
            build=partial(lambda i: ct.System(ct.hindmarsh_rose(I=i)), drive),
        )
        for drive in (0.0, 2.0, 6.0)
    ),
    Case(
        "Wilson and Cowan, three",
        "",
        {"E": (-0.02, 0.48), "I": (-0.1, 0.5)},
        wilson_cowan(),
        build=lambda: ct.System(
            ct.wilson_cowan(
                c_1=12.0,
                c_2=4.0,
                c_3=13.0,
                c_4=11.0,
                a_e=1.2,
                theta_e=2.8,
                a_i=1.0,
                theta_i=4.0,
                P=0.0,
            )
        ),
    ),
    Case(
        "Hopfield, two units",
        "x = -x - 2*tanh(y); y = -y - 2*tanh(x)",
        square(3),
        hopfield(),
    ),
    Case(
        "Oja",
        "x = 2*x - (2*x**2 + y**2)*x; y = y - (2*x**2 + y**2)*y",
        square(1.5),
        [((-1, 0), NODE), ((0, -1), SADDLE), ((0, 0), REPELLER), ((0, 1), SADDLE), ((1, 0), NODE)],
    ),
    Case(
        "BCM, responses to two inputs",
        "x = x*(x - (x**2 + y**2)/2); y = y*(y - (x**2 + y**2)/2)",
        {"x": (-0.7, 3.0), "y": (-0.7, 3.0)},
        [
            ((0, 0), "degenerate"),
            ((0, 2), "stable_star"),
            ((1, 1), SADDLE),
            ((2, 0), "stable_star"),
        ],
    ),
]


def test_there_are_many() -> None:
    assert len(CASES) >= 30
    assert {kind for case in CASES for _, kind in case.points} >= {
        *(NODE, FOCUS, SADDLE, REPELLER, SPIRAL, "saddle_focus", "centre", "degenerate"),
        *("marginal", "stable_star", "unstable_star", "unstable_improper_node"),
    }


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_all_fixed_points(case: Case) -> None:
    found = fixed_points(case.system(), case.box)
    where = np.stack([found[name].values[:, 0] for name in case.box], -1)
    kinds = [TYPES[k] for k in found["type"].values]
    expected = np.array([point for point, _ in case.points], float).reshape(-1, len(case.box))
    assert len(where) == len(expected)
    # one to one: the nearest of each
    match = [int(np.abs(expected - row).max(-1).argmin()) for row in where]
    assert sorted(match) == list(range(len(expected)))
    widths = np.array([high - low for low, high in case.box.values()])
    for k, own in enumerate(match):
        kind = case.points[own][1]
        assert kinds[k] == kind
        off = np.abs((where[k] - expected[own]) / widths).max()
        h, radius = found["certificate"].values[k], found["radius"].values[k]
        if kind == "degenerate":
            assert off < 1e-5
            assert np.isnan([h, radius]).all()
            continue
        assert off < 1e-11
        # certified: a zero is there, and no other one within the radius
        assert 0 <= h < 1e-3
        others = np.abs((np.delete(expected, own, 0) - where[k]) / widths).max(-1)
        assert off < radius < others.min(initial=np.inf)
    if len(case.box) == 2:
        assert found["index"].values.sum() == found.attrs["boundary_index"]
        assert index(case.system(), case.box) == found.attrs["boundary_index"]


@pytest.mark.parametrize("gap", [1e-1, 1e-3, 1e-6, 1e-9, 1e-12])
def test_a_certificate_keeps_the_other_root_out(gap: float) -> None:
    case = Case("fold", "x = x**2 - e", square(2, "x"), [], {"e": gap})
    found = fixed_points(case.system(), case.box)
    assert found.sizes["fp"] == 2
    apart = 2 * gap**0.5 / 4
    assert (found["certificate"] < 1e-9).all()
    assert ((found["radius"] > apart / 4) & (found["radius"] < apart)).all()


def test_what_is_not_certified_is_said() -> None:
    double = Case("double", "x = -(x - 0.3)**3", square(2, "x"), [])
    found = fixed_points(double.system(), double.box)
    assert np.isnan(found["certificate"]).all()
    assert "not certified" in found["certificate"].attrs["missing"]
    large = ct.System(ct.rate("h", 13, rho="tanh"))
    found = fixed_points(large, {f"s_h[{k}]": (-1.0, 1.0) for k in range(13)}, starts=8)
    assert np.isnan(found["radius"]).all()
    assert "index" not in found


def test_index_of_boundaries() -> None:
    monkey = Case("monkey", "x = x**2 - y**2; y = -2*x*y", square(1), []).system()
    assert index(monkey, square(1)) == -2
    assert fixed_points(monkey, square(1))["index"].values.tolist() == [-2]
    lattice = Case("nine", "x = x - x**3; y = y - y**3", square(2), []).system()
    assert index(lattice, {"x": (0.5, 2.0), "y": (-0.5, 0.5)}) == -1
    assert index(lattice, {"x": (0.2, 0.5), "y": (-0.5, 0.5)}) == 0
    edge = fixed_points(lattice, {"x": (0.0, 2.0), "y": (-0.5, 0.5)})
    assert "boundary_index" not in edge.attrs
    with pytest.raises(ValueError, match="vanishes, jumps or is not finite on the boundary"):
        index(lattice, {"x": (0.0, 2.0), "y": (-0.5, 0.5)})
    with pytest.raises(ValueError, match="two ranges"):
        index(lattice, {"x": (0.0, 2.0)})
