"""Plasticity: averaged flows, weights that move with their neurons, and the timing of spikes."""

from __future__ import annotations

from ast import literal_eval
from functools import partial

import numpy as np
import torch
from dynamics import eigenvalues
from ode import F64, end, start, text

import ctsigprop as ct
from ctsigprop.analyses.stability import STABILITIES, fixed_points
from ctsigprop.data import visual_cortex_pairing
from ctsigprop.learning.stdp import weight_change
from ctsigprop.models.averaged import AveragedBCM, AveragedOja, AveragedSanger
from ctsigprop.models.stdp import pair_stdp_change
from ctsigprop.models.triplet import pairing_protocol, poisson_drift, triplet_stdp

TIGHT = ct.Tsit5(rtol=1e-11, atol=1e-13)


def tensor(values):
    return torch.tensor(values, dtype=F64)


def up_to_sign(found, like):
    return found * np.sign(np.dot(found, like))


# Averaged flows


def measure_oja_flow(case):
    C = tensor(case["parameters"]["C"])
    flow, (first, last) = ct.System(AveragedOja(C)), case["span"]
    y0 = start(flow, case["initial_state"])
    times = [first, 0.5, last, 5.0, 6.0, 12.0, 13.0, 30.0]
    run = ct.solve(flow, y0, times, solver=TIGHT)
    w = run["w"].numpy()
    top = case["expected"][3]["value"]
    values = np.linalg.eigvalsh(C.numpy())
    rest = up_to_sign(w[-1], top)
    away = w / np.linalg.norm(w, axis=1, keepdims=True) - rest
    # along the principal component itself only the length is off
    long = ct.solve(flow, {"w": 1.1 * tensor(top)}, [0.0, 0.5, 1.0], solver=TIGHT)["w"].norm(dim=1)
    rates = [
        np.log(np.linalg.norm(away[5]) / np.linalg.norm(away[6])),
        float(torch.log((long[1] - 1) / (long[2] - 1))) / 0.5,
    ]
    return [w[1], w[2], np.linalg.norm(w[-1]), rest, values, rates]


def measure_sanger(case):
    y0 = tensor(case["initial_state"])
    flow = ct.System(AveragedSanger(tensor(case["parameters"]["C"]), len(y0)))
    rows = ct.solve(flow, {"w": y0}, case["span"], solver=TIGHT).final["w"].numpy()
    wanted = [expected["value"] for expected in case["expected"]]
    return [up_to_sign(*pair) for pair in zip(rows, wanted, strict=True)]


def measure_bcm(case):
    patterns = tensor(case["parameters"]["patterns"])
    flow = ct.System(AveragedBCM(patterns))
    found = fixed_points(flow, {"w[0]": (-3.0, 3.0), "w[1]": (-3.0, 3.0)})
    responses = found.w.values @ patterns.numpy().T
    words = case["expected"][0]["value"]
    everywhere = {tuple(np.round(y, 9) + 0.0) for y in responses}
    stable = [STABILITIES[k] == "stable" for k in found["stability"].values]
    selective = {
        tuple(y): w
        for y, w in zip(responses[stable].round(6) + 0.0, found.w.values[stable], strict=True)
    }
    assert set(selective) == {(2.0, 0.0), (0.0, 2.0)}
    reached = end(flow, case["initial_state"], case["span"], TIGHT)
    return [
        words if everywhere == set(literal_eval(words)) else str(everywhere),
        (reached @ patterns.numpy().T).round(9) + 0.0,  # 0 has no relative tolerance
        selective[2.0, 0.0],
        selective[0.0, 2.0],
        reached,
    ]


# Weights that move with their neurons


def network(case, plasticity, **cell):
    """Return linear neurons s' = -s + W x with weights that learn, and their initial state."""
    x = tensor(case["parameters"]["x"])
    y0 = case["initial_state"]
    size = len(y0["s"])
    neurons = ct.TextNeuron("ds/dt = -s + I : 1\nI : 1", "y", size, **cell)
    synapse = ct.Synapse("x", "y", 0.0, plasticity=plasticity, name="W")
    system = ct.System(ct.Source("x", len(x), x), neurons, synapse)
    return system, {"s_y": tensor(y0["s"]), "W": tensor(y0["W"])}


def measure_hebb(case):
    p = case["parameters"]
    rules = [ct.hebb(p["eps"]), ct.weight_decay(p["lam"])]
    system, y0 = network(case, rules)
    run = ct.solve(system, y0, case["span"], solver=TIGHT)
    drive = float(np.square(p["x"]).sum())
    values = eigenvalues(system, {name: 0 * value for name, value in y0.items()})
    modes = [v for v in values if not np.isclose(v.real, -p["lam"], atol=1e-9)]
    grows = [
        eigenvalues(network(case, [ct.hebb(p["eps"]), ct.weight_decay(lam)])[0], {"W": 0.0})[
            -1
        ].real
        > 1e-9
        for lam in (1.01 * p["eps"] * drive, 0.99 * p["eps"] * drive)
    ]
    assert len(modes) == 4  # a pair for each neuron
    return [
        run.final["s_y"],
        run.final["W"],
        np.sort(np.real(modes))[[0, -1]],
        grows == [False, True] and bool(p["eps"] * drive > p["lam"]),
    ]


def measure_delta(case):
    p = case["parameters"]
    x, eps = tensor(p["x"]), p["eps"]

    # what synapses and rules see of a neuron is what it lacks
    def build(eps):
        neurons = ct.TextNeuron(
            "ds/dt = -s + I : 1\nI : 1\ny : 1", "y", 2, output="y - s", y=tensor(p["y"])
        )
        synapse = ct.Synapse("x", "y", 0.0, plasticity=ct.hebb(eps), name="W")
        return ct.System(ct.Source("x", 3, x), neurons, synapse)

    y0 = {"s_y": tensor(case["initial_state"]["s"]), "W": tensor(case["initial_state"]["W"])}
    first, last = case["span"]
    run = ct.solve(build(eps), y0, [first, last, 400.0], solver=TIGHT)
    critical = 0.25 / float(x @ x)
    turning = [
        any(abs(eigenvalues(build(factor * critical), {}).imag) > 1e-6) for factor in (0.99, 1.01)
    ]
    assert turning == [False, True]
    return [run["s_y"][1], run["W"][1], run["s_y"][-1]]


def measure_sigprop(case):
    p, y0 = case["parameters"], case["initial_state"]
    x, c, V, W2, U = (tensor(p[name]) for name in ("x", "c", "V", "W2", "U"))
    system = ct.System(
        ct.Source("x", 3, x),
        ct.Source("c", 2, c),
        ct.leaky_integrator("h", 2),
        ct.leaky_integrator("y", 2),
        ct.Synapse(
            "x", "h", 0.0, plasticity=[ct.hebb(p["eps"]), ct.weight_decay(p["lam"])], name="W1"
        ),
        ct.Synapse("h", "y", W2),
        ct.LearningSignal("c", "h", V),
        ct.LearningSignal("c", "y", U),
    )
    state = {"s_h": tensor(y0["s1"]), "s_y": tensor(y0["s2"]), "W1": tensor(y0["W1"])}
    final = ct.solve(system, state, case["span"], solver=TIGHT).final
    return [final["s_h"], final["s_y"], final["W1"]]


def measure_coupled_oja(case):
    p = case["parameters"]
    s, *w = case["initial_state"]
    told = {"parameters": p, "initial_state": {"s": [s], "W": [w]}}
    system, y0 = network(told, ct.oja(p["eps"]))
    final = ct.solve(system, y0, case["span"], solver=TIGHT).final
    values = eigenvalues(system, final)
    pair = [v for v in values if abs(v.imag) > 1e-9]
    real = [v.real for v in values if abs(v.imag) <= 1e-9]
    assert len(real) == len(w) - 1
    np.testing.assert_allclose(real, real[0], rtol=1e-7)
    # two real parts, the imaginary part, and the eigenvalue that is repeated
    return [
        final["W"][0],
        final["s_y"].item(),
        [pair[0].real, pair[1].real, abs(pair[0].imag), real[0]],
    ]


def measure_deep_linear(case):
    p = case["parameters"]
    system = text(
        "da/dt = b*(s - a*b)/tau : 1\ndb/dt = a*(s - a*b)/tau : 1",
        s=float(p["s"]),
        tau=float(p["tau"]),
    )
    times = [case["span"][0], 0.5, 1.0, 1.5]
    run = ct.solve(system, start(system, case["initial_state"]), times, solver=TIGHT)
    u = (run["a"] * run["b"]).squeeze(-1)
    a, b = end(system, [0.3, 0.1], case["span"], TIGHT)
    return [u[1:], a**2 - b**2]


def measure_scaling(case):
    p, told = case["parameters"], case["initial_state"]["scalar"]
    one = text(
        "dw/dt = k*w*(ystar - y) : 1\ny = w*x : 1",
        k=p["k"],
        ystar=p["ystar"],
        x=float(told["x"]),
    )
    w = end(one, [told["w0"]], case["span"], TIGHT)[0]
    late = end(one, [told["w0"]], [0.0, 60.0], TIGHT)[0]
    rule = ct.homeostatic_scaling(p["k"], target=p["ystar"])
    synapse = ct.Synapse("x", "y", [[0.3, 0.1, 0.4]], plasticity=rule, name="W")
    lagged = ct.System(
        ct.Source("x", 3, tensor([1.0, 2.0, 0.5])), ct.leaky_integrator("y"), synapse
    )
    run = ct.solve(lagged, {}, [0.0, 3.0], solver=TIGHT)
    ratio = (run["W"][-1] / run["W"][0]).squeeze(0)
    assert float(ratio[0]) > 1.1  # it did move
    return [w, float((ratio / ratio[0]).mean()), late * told["x"]]


# The timing of spikes


def measure_pairs(case):
    p = case["parameters"]
    options = {"A_plus": p["Aplus"], "A_minus": p["Aminus"]}
    options |= {name: p[name] for name in ("tau_plus", "tau_minus")}

    def train(lag, period, pairings=60):
        pre = period * torch.arange(pairings, dtype=F64)
        return float(pair_stdp_change(pre, pre + lag, **options))

    # independent trains: every lag is as likely as any other
    lags = tensor(np.polynomial.laguerre.laggauss(20)[0] * p["tau_plus"])
    weights = tensor(np.polynomial.laguerre.laggauss(20)[1] * p["tau_plus"])
    zero = torch.zeros(len(lags), 1, dtype=F64)
    window = sum(
        pair_stdp_change(zero, sign * lags[:, None], **options) * torch.exp(lags / p["tau_plus"])
        for sign in (1, -1)
    )
    drift = 10e-3 * 20e-3 * float((weights * window).sum()) * 1e3  # a second, of ms
    assert train(0.0, 1000.0, pairings=1) == 0.0
    return [
        train(10.0, 1000.0),
        train(10.0, 50.0),
        train(-10.0, 20.0),
        [train(10.0, 1.0, 1), train(-10.0, 1.0, 1)],
        drift,
        None,
    ]


def triplet(parameters):
    p = {name: value for name, value in parameters.items() if name != "interaction"}
    return triplet_stdp(**{name: float(value) for name, value in p.items()})


def measure_triplets(case):
    rule = triplet(case["parameters"])
    frequency = tensor([0.1, 10.0, 20.0, 40.0, 50.0])
    found = [weight_change(rule, *pairing_protocol(lag, frequency)) for lag in (10.0, -10.0)]
    data = visual_cortex_pairing()
    order = np.lexsort((data.frequency.values, -data.dt.values))
    apart = (torch.cat(found).detach().numpy() - data.dw.values[order]) / data.dw_sem.values[order]
    return [*found, np.mean(apart**2)]


def measure_triplet_drift(minimal, case):
    p, rule = case["parameters"], triplet(minimal["parameters"])

    def drift(rate_post):
        return float(poisson_drift(rule, float(p["rate_pre"]), rate_post))

    # dw/dt = c y (y - threshold): a parabola through the origin
    at_one, at_two = drift(10.0) / 10.0, drift(20.0) / 20.0
    return [drift(float(p["rate_post"])), 10.0 + 10.0 * at_one / (at_one - at_two)]


def cases(file):
    """Return the measurements; one case is told as another one of the file."""
    measures = {
        "PL-OJA-FLOW": measure_oja_flow,
        "PL-SANGER": measure_sanger,
        "PL-BCM-SELECTIVITY": measure_bcm,
        "PL-COUPLED-HEBB-DECAY-GROW": measure_hebb,
        "PL-COUPLED-DELTA-OVER": measure_delta,
        "PL-SIGPROP-LINEAR": measure_sigprop,
        "PL-COUPLED-OJA": measure_coupled_oja,
        "PL-SAXE-DEEPLINEAR": measure_deep_linear,
        "PL-HOMEOSTATIC-SCALING": measure_scaling,
        "PL-PAIR-STDP": measure_pairs,
        "PL-TRIPLET-VISUAL_ALL_MIN": measure_triplets,
        "PL-TRIPLET-POISSON": partial(measure_triplet_drift, file["PL-TRIPLET-VISUAL_ALL_MIN"]),
    }
    return {name: {"": measure} for name, measure in measures.items()}
