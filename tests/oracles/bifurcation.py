"""Branches of fixed points and of cycles, and where they begin, fold and end."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from dynamics import FAST, IZHIKEVICH, TIGHT, adaptive_exponential, adaptive_spikes
from exponents import LORENZ, stuart_landau_exponents
from ode import end, text

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import CRITICALITIES, KINDS, bifurcation_diagram
from ctsigprop.analyses.cycles import limit_cycle
from ctsigprop.analyses.stability import fixed_points

SIGNS = {"subcritical": 1, "supercritical": -1}


def of_kind(tree, kind):
    """Return the bifurcations of one kind, sorted by the parameter."""
    found = tree["bifurcations"].to_dataset()
    return found.isel(bifurcation=found["kind"].values == KINDS.index(kind))


def signs(found):
    return [SIGNS[CRITICALITIES[k]] for k in found["criticality"].values]


def numbers(case):
    return {name: float(value) for name, value in case["parameters"].items()}


def measure_fitzhugh_nagumo(case):
    system = ct.System(ct.fitzhugh_nagumo(**case["parameters"]))
    tree = bifurcation_diagram(system, "I", (0.0, 2.0), ranges={"v": (-3, 3)}, cycles=False)
    hopf = of_kind(tree, "hopf")
    assert tree["bifurcations"].sizes["bifurcation"] == 2
    omega, v = hopf["angular_frequency"].values, np.abs(hopf["v"].values[:, 0])
    np.testing.assert_allclose(omega, omega[0], rtol=1e-9)
    np.testing.assert_allclose(v, v[0], rtol=1e-9)
    verdicts = signs(hopf)
    assert verdicts[0] == verdicts[1]
    lower, upper = hopf["I"].values
    return [lower, upper, omega[0], v[0], lower + upper, verdicts[0]]


def morris_lecar(case, bounds, cycles=False, **changed):
    p = numbers(case) | changed
    names = {"gCa": "g_Ca", "gK": "g_K", "gL": "g_L", "EK": "V_K", "EL": "V_L", "ECa": "V_Ca"}
    names |= {f"V{k}": f"V_{k}" for k in range(1, 5)}
    system = ct.System(ct.morris_lecar(**{names.get(name, name): p[name] for name in p}))
    box = {"v": (-80.0, 60.0), "w": (0.0, 1.0)}
    return bifurcation_diagram(system, "I", bounds, ranges=box, cycles=cycles)


def measure_morris_lecar(case):
    hopf = of_kind(morris_lecar(case, (0.0, 300.0)), "hopf")
    v = hopf["v"].values[:, 0]
    return [*hopf["I"].values, hopf["angular_frequency"].values, v, signs(hopf)]


def measure_snic(case):
    tree = morris_lecar(case, (-20.0, 130.0), cycles=True)
    (snic,) = of_kind(tree, "snic")["I"].values
    folds = of_kind(tree, "fold")
    (other, fold), v = folds["I"].values, folds["v"].values[:, 0]
    assert abs(snic - fold) < 1e-9 * fold
    (hopf,) = of_kind(tree, "hopf")["I"].values
    (slower,) = of_kind(morris_lecar(case, (80.0, 120.0), phi=0.066), "hopf")["I"].values
    return [snic, v[1], [other, v[0]], hopf, slower]


def measure_hodgkin_huxley(case):
    rest, found = -65.0, []  # the case counts from the resting potential
    for leak in (case["parameters"]["EL"], 10.6, 10.599):
        neuron = ct.hodgkin_huxley(E_Na=rest + 115.0, E_K=rest - 12.0, E_L=rest + leak)
        tree = bifurcation_diagram(
            ct.System(neuron), "I", (0.0, 200.0), ranges={"v": (-100, 60)}, cycles=False
        )
        found.append(of_kind(tree, "hopf"))
    lower, upper = np.array([hopf["I"].values for hopf in found]).T
    return [lower, upper, found[0]["angular_frequency"].values, signs(found[0])]


def measure_izhikevich(case):
    system, box = text(IZHIKEVICH, I=0.0, **case["parameters"]), {"v": (-90, -30), "u": (-20, 0)}
    points = fixed_points(system, box)
    rest, saddle = points["v"].values[:, 0]
    tree = bifurcation_diagram(system, "I", (0.0, 10.0), ranges=box, cycles=False)
    fold, hopf = (of_kind(tree, kind) for kind in ("fold", "hopf"))
    assert signs(hopf) == [1]
    return [
        [rest, points["u"].values[0, 0]],
        saddle,
        points["eigenvalue"].values[0, :, 0],
        fold["I"].values,
        fold["v"].values,
        hopf["I"].values,
        hopf["v"].values,
    ]


def diagram(equations, box, bounds=(-1.0, 1.0), **options):
    return bifurcation_diagram(text(equations, p=0.5), "p", bounds, ranges=box, **options)


def measure_normal_forms(_case):
    line, plane = {"x": (-3.0, 3.0)}, {"x": (-3.0, 3.0), "y": (-3.0, 3.0)}
    spiral = "dx/dt = g*x - y : 1\ndy/dt = x + g*y : 1\nq = x**2 + y**2 : 1\n"
    saddle_node = diagram("dx/dt = p + x**2 : 1", line)
    trees = {
        "fold": saddle_node,
        "transcritical": diagram("dx/dt = p*x - x**2 : 1", line),
        "pitchfork": diagram("dx/dt = p*x - x**3 : 1", line),
        "hopf": diagram(f"{spiral}g = p - q : 1", plane),
    }
    bautin = diagram(f"{spiral}g = p + q - q**2 : 1", plane)
    where = [of_kind(tree, kind)["p"].item() for kind, tree in trees.items()]
    where.append(of_kind(bautin, "hopf")["p"].item())
    assert signs(of_kind(trees["pitchfork"], "pitchfork")) == [-1]
    assert signs(of_kind(diagram("dx/dt = p*x + x**3 : 1", line), "pitchfork")) == [1]
    assert signs(of_kind(trees["hopf"], "hopf")) == [-1]
    assert signs(of_kind(bautin, "hopf")) == [1]
    (fold,) = of_kind(bautin, "cycle_fold")["p"].values
    cycles = bautin["cycles"]
    radius = cycles["x_max"].values[np.abs(cycles["p"].values - fold).argmin(), 0]
    branch = saddle_node["branches"]
    ends = np.flatnonzero(branch["p"].values == -1.0)
    x, growth = branch["x"].values[ends, 0], branch["eigenvalue"].values[ends, 0, 0]
    np.testing.assert_allclose(growth, 2 * x, atol=1e-9)
    passing = text("dx/dt = p + x**2 : 1", p=1e-4)
    top = ct.Event(lambda _t, y: y["x"].squeeze(-1) - 100.0, terminal=True, name="top")
    run = ct.solve(passing, {"x": -100.0}, [0.0, 400.0], solver=TIGHT, events=top)
    return [where, fold, radius, np.sort(x), float(run.events[0].time)]


def measure_lorenz(case):
    system, box = text(LORENZ, **numbers(case)), {"x": (-30, 30), "y": (-30, 30), "z": (-10, 60)}
    points = fixed_points(system, box)
    modes = points["eigenvalue"].values
    tree = bifurcation_diagram(system, "r", (0.0, 30.0), ranges=box)
    (pitchfork,) = of_kind(tree, "pitchfork")["r"].values
    hopf, homoclinic = (of_kind(tree, kind) for kind in ("hopf", "homoclinic"))
    assert signs(hopf) == [1, 1]  # one on either side
    np.testing.assert_allclose(hopf["r"].values, hopf["r"].values[0], rtol=1e-10)
    loops = homoclinic["r"].values
    np.testing.assert_allclose(loops, loops[0], rtol=1e-8)
    turning = np.abs(modes[2, :, 1]).argmax()
    return [
        [points[name].values[2, 0] for name in "xyz"],
        modes[1, :, 0],
        [modes[2, 0, 0], modes[2, turning, 0], abs(modes[2, turning, 1])],
        hopf["r"].values[0],
        pitchfork,
        loops[0],
    ]


def measure_stuart_landau(case):
    p = numbers(case)
    system = ct.System(ct.stuart_landau(mu=p["mu"], omega=p["w"], c=p["c"]))
    z = end(system, case["initial_state"], [0.0, 3.0], TIGHT)
    cycle = limit_cycle(system, {"x": 0.1})
    return [
        z,
        math.hypot(*z),
        cycle["period"].item(),
        cycle["multiplier"].values[1, 0],
        stuart_landau_exponents(case),
    ]


def measure_rheobase(kind, case):
    times = adaptive_spikes(FAST, case)
    system, box = adaptive_exponential(case), {"V": (-80.0, -40.0)}
    tree = bifurcation_diagram(system, "I", (0.0, 500.0), ranges=box, cycles=False)
    found = tree["bifurcations"].isel(bifurcation=0)  # where rest loses its stability
    assert KINDS[int(found["kind"])] == kind
    return [times[:3], len(times), np.diff(times)[-1], found["I"].item(), found["V"].item()]


CASES = {
    "DYN-FHN-HOPF": measure_fitzhugh_nagumo,
    "DYN-ML-HOPF": measure_morris_lecar,
    "DYN-ML-SNIC": measure_snic,
    "DYN-HH-HOPF": measure_hodgkin_huxley,
    "DYN-IZH-FIXED": measure_izhikevich,
    "DYN-NORMALFORMS": measure_normal_forms,
    "DYN-LORENZ-FIXED": measure_lorenz,
    "DYN-STUART-LANDAU": measure_stuart_landau,
    "SPK-ADEX-TONIC": partial(measure_rheobase, "fold"),
    "SPK-ADEX-ADAPTATION": partial(measure_rheobase, "hopf"),
}
CASES = {name: {"": measure} for name, measure in CASES.items()}
