"""Fixed points, cycles and spikes of single neurons, from fields, solutions and their events."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from ode import end, start, text

import ctsigprop as ct
from ctsigprop.analyses.stability import STABILITIES, TYPES, fixed_points, jacobian

TIGHT = ct.Tsit5(rtol=1e-11, atol=1e-13)
FAST = ct.SciPy("DOP853", rtol=1e-7, atol=1e-9)
IZHIKEVICH = "dv/dt = 0.04*v**2 + 5*v + 140 - u + I : 1\ndu/dt = a*(b*v - u) : 1"
ADEX = """
    dV/dt = (gL*(EL - V) + gL*DeltaT*exp((V - VT)/DeltaT) - w + I)/C : 1
    dw/dt = (a*(V - EL) - w)/tau_w : 1
"""


def crossings(run, name):
    return np.array([float(e.time) for e in run.events if e.name == name])


def eigenvalues(system, state):
    """Return the eigenvalues of the Jacobian, sorted by real part."""
    found = np.linalg.eigvals(jacobian(system, state).values)
    return found[np.lexsort((found.imag, found.real))]


def fitzhugh_nagumo(case, **options):
    return ct.System(ct.fitzhugh_nagumo(**{**case["parameters"], **options}))


def measure_fhn_rest(case):
    box = {"v": (-3.0, 3.0), "w": (-3.0, 3.0)}
    rest, driven = (fixed_points(fitzhugh_nagumo(case, I=drive), box) for drive in (0.0, 0.5))
    kind = f"{STABILITIES[int(rest.stability[0])]} {TYPES[int(rest.type[0])].split('_')[1]}"
    assert rest.sizes["fp"] == driven.sizes["fp"] == 1
    return [
        [rest.v.item(), rest.w.item()],
        rest.eigenvalue.values[0, 1],
        kind,
        [driven.v.item(), *driven.eigenvalue.values[0, 1]],
    ]


def measure_fhn_cycle(case):
    system = fitzhugh_nagumo(case)

    def slope(t, y):
        return system(t, y)["v"].squeeze(-1)

    top, bottom = (ct.Event(slope, direction=d, name=str(d)) for d in (-1, 1))
    y0 = start(system, case["initial_state"])
    run = ct.solve(system, y0, case["span"], solver=FAST, events=[top, bottom])
    last = {event.name: event.state["v"].item() for event in run.events}
    return [np.diff(crossings(run, "-1"))[-1], last["-1"], last["1"]]


def measure_hh_rest(case):
    leak, rest = case["parameters"]["EL"], -65.0  # the case counts from the resting potential
    gate = {"E_Na": rest + 115.0, "E_K": rest - 12.0, "E_L": rest + leak}
    system = ct.System(ct.hodgkin_huxley(I=case["parameters"]["I"], **gate))
    box = {"v": (rest - 10, rest + 10), "m": (0.0, 1.0), "h": (0.0, 1.0), "n": (0.0, 1.0)}
    found = fixed_points(system, box)
    assert found.sizes["fp"] == 1
    values = found.eigenvalue.values[0]
    state = [found.v.item() - rest, *(found[name].item() for name in "mhn")]
    return [state, values[:, 0], values[:, 1].max()]


def measure_van_der_pol(case):
    mu = float(case["parameters"]["mu"])
    system = text("dx/dt = y : 1\ndy/dt = mu*(1 - x**2)*y - x : 1", mu=mu)
    tops = ct.Event(lambda _t, y: y["y"].squeeze(-1), direction=-1, name="top")
    y0 = start(system, case["initial_state"])
    run = ct.solve(system, y0, [0.0, 100.0], solver=FAST, events=tops)
    last = run.events[-1]
    return [np.diff(crossings(run, "top"))[-1], last.state["x"].item()]


def measure_lotka_volterra(case):
    system = text("dx/dt = 1.5*x - x*y : 1\ndy/dt = -3*y + x*y : 1")
    x, y = end(system, case["initial_state"], case["span"], TIGHT)
    return [[x, y], x - 3 * np.log(x) + y - 1.5 * np.log(y)]


def measure_hindmarsh_rose(case):
    box = {"x": (-3.0, 3.0), "y": (-30.0, 5.0), "z": (-10.0, 20.0)}
    found = []
    for drive in (0.0, 2.0, 3.25):
        points = fixed_points(ct.System(ct.hindmarsh_rose(I=drive, **case["parameters"])), box)
        assert points.sizes["fp"] == 1
        found.append(points.x.item())
    return found


def measure_two_oscillators(case):
    adler = "dphi/dt = dw - K*sin(phi) : 1"
    locked = text(adler, **{name: float(value) for name, value in case["parameters"].items()})
    phi = end(locked, case["initial_state"], case["span"], TIGHT)[0]
    beating = text(adler, dw=2.0, K=1.0)
    turns = ct.Event(
        lambda _t, y: torch.sin(y["phi"].squeeze(-1) / 2), direction=0, name="a whole turn"
    )
    run = ct.solve(beating, {"phi": 0.1}, [0.0, 20.0], solver=TIGHT, events=turns)
    for dw, count in ((0.99, 2), (1.01, 0)):  # fixed points where it locks, none where it drifts
        points = fixed_points(text(adler, dw=dw, K=1.0), {"phi": (0.0, 2 * np.pi)})
        assert points.sizes["fp"] == count
    return [phi, np.diff(crossings(run, "a whole turn"))[-1]]


def spikes(system, y0, span, threshold, variable, reset, solver):
    at = ct.Event(
        lambda _t, y: y[variable].squeeze(-1) - threshold, direction=1, reset=reset, name="spike"
    )
    run = ct.solve(system, start(system, y0), span, solver=solver, events=at)
    return crossings(run, "spike")


def measure_izhikevich(solver, case):
    p = {name: float(value) for name, value in case["parameters"].items()}
    system = text(IZHIKEVICH, a=p["a"], b=p["b"], I=p["I"])
    times = spikes(
        system,
        case["initial_state"],
        case["span"],
        30.0,
        "v",
        lambda _t, y: {"v": torch.full_like(y["v"], p["c"]), "u": y["u"] + p["d"]},
        solver,
    )
    return [times[:4], len(times), np.diff(times)[-1]]


def adaptive_exponential(case):
    p = {name: float(value) for name, value in case["parameters"].items()}
    return text(ADEX, **{name: p[name] for name in p.keys() - {"b", "Vr"}})


def adaptive_spikes(solver, case):
    p = {name: float(value) for name, value in case["parameters"].items()}
    return spikes(
        adaptive_exponential(case),
        case["initial_state"],
        case["span"],
        0.0,
        "V",
        lambda _t, y: {"V": torch.full_like(y["V"], p["Vr"]), "w": y["w"] + p["b"]},
        solver,
    )


def measure_bursts(solver, case):
    times = adaptive_spikes(solver, case)
    return [times[:3], len(times)]


def measure_theta(case):
    drive = case["parameters"]["I"]
    turns = ct.Event(lambda _t, y: torch.cos(y["theta"].squeeze(-1) / 2), name="spike")
    run = ct.solve(
        ct.System(ct.theta(I=drive)), {"theta": 0.0}, [0.0, 30.0], solver=TIGHT, events=turns
    )
    bounded = ct.Event(
        lambda _t, y: y["v"].squeeze(-1) - 10.0,
        direction=1,
        reset=lambda _t, y: {"v": torch.full_like(y["v"], -10.0)},
        name="spike",
    )
    cut = ct.solve(
        ct.System(ct.qif(I=drive)), {"v": 0.0}, [0.0, 20.0], solver=TIGHT, events=bounded
    )
    still = fixed_points(ct.System(ct.qif(I=-drive)), {"v": (-2.0, 2.0)})
    mean_field = text(
        "dr/dt = Delta/pi + 2*r*v : 1\ndv/dt = v**2 + eta + J*r - (pi*r)**2 : 1",
        Delta=1.0,
        eta=1.0,
        J=0.0,
    )
    rates = fixed_points(mean_field, {"r": (0.01, 2.0), "v": (-3.0, 3.0)})
    return [
        np.diff(crossings(run, "spike"))[-1],
        np.diff(crossings(cut, "spike"))[-1],
        np.stack([still.v.values[:, 0], still.eigenvalue.values[:, 0, 0]], -1).reshape(-1),
        rates.r.item(),
    ]


def integrate_and_fire(p, drive, span, **options):
    """Return the spikes of a leaky neuron with a refractory time: two events, one clock."""
    system = text(
        "dV/dt = (1 - rest)*(RI - V)/tau : 1\ndrest/dt = 0 : 1\ndclock/dt = rest : 1",
        RI=drive,
        tau=float(p["tau"]),
    )
    fires = ct.Event(
        lambda _t, y: y["V"].squeeze(-1) - p["theta"],
        direction=1,
        reset=lambda _t, y: {
            "V": torch.full_like(y["V"], p["Vr"]),
            "rest": torch.ones_like(y["V"]),
            "clock": torch.zeros_like(y["V"]),
        },
        name="spike",
    )
    wakes = ct.Event(
        lambda _t, y: y["clock"].squeeze(-1) - p["tref"],
        direction=1,
        reset=lambda _t, y: {"rest": torch.zeros_like(y["V"]), "clock": torch.zeros_like(y["V"])},
        name="end of the refractory time",
    )
    run = ct.solve(system, {}, span, solver=TIGHT, events=[fires, wakes], **options)
    return crossings(run, "spike")


def measure_lif(case):
    p = case["parameters"]
    trains = [integrate_and_fire(p, drive, [0.0, 400.0]) for drive in (21.0, 25.0, 40.0)]
    rates = [1e3 / np.diff(train)[-1] for train in trains]
    silent = integrate_and_fire(p, float(p["theta"]), [0.0, 400.0])
    return [rates, trains[1][0], np.diff(trains[1])[-1], len(silent)]


def measure_psp(case):
    p, y0 = case["parameters"], case["initial_state"]
    equations = "dV/dt = (-V + g)/tau_m : 1\ndg/dt = -g/tau_s : 1\ndarea/dt = V : 1"
    system = text(equations, **{name: float(value) for name, value in p.items()})
    peak = ct.Event(lambda _t, y: (y["g"] - y["V"]).squeeze(-1), direction=-1, limit=1, name="peak")
    run = ct.solve(system, start(system, [*y0, 0.0]), [0, 10, 1000], solver=TIGHT, events=peak)
    equal = text(equations, tau_m=10.0, tau_s=10.0)
    alpha = end(equal, [*y0, 0.0], [0, 10], TIGHT)[0]
    return [
        float(run.events[0].time),
        run.events[0].state["V"].item(),
        run["V"][1].item(),
        run["area"][-1].item(),
        alpha,
    ]


CASES = {
    "DYN-FHN-REST": measure_fhn_rest,
    "DYN-FHN-CYCLE-I0.5": measure_fhn_cycle,
    "DYN-HH-REST": measure_hh_rest,
    "DYN-VDP-PERIOD-MU0.1": measure_van_der_pol,
    "DYN-VDP-PERIOD-MU1": measure_van_der_pol,
    "DYN-VDP-PERIOD-MU10": measure_van_der_pol,
    "DYN-LOTKA-VOLTERRA": measure_lotka_volterra,
    "DYN-HR-FIXED": measure_hindmarsh_rose,
    "DYN-KURAMOTO-2": measure_two_oscillators,
    "SPK-IZH-RS": partial(measure_izhikevich, ct.Tsit5(rtol=1e-7)),
    "SPK-IZH-IB": partial(measure_izhikevich, FAST),
    "SPK-IZH-FS": partial(measure_izhikevich, FAST),
    "SPK-IZH-TC": partial(measure_izhikevich, FAST),
    "SPK-ADEX-DELAYED_REGULAR_BURSTING": partial(measure_bursts, FAST),
    "SPK-THETA-QIF": measure_theta,
    "SPK-LIF-FI": measure_lif,
    "SPK-LIF-PSP": measure_psp,
}
CASES = {name: {"": measure} for name, measure in CASES.items()}
