"""Problems with known solutions, and the orders of the methods."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

import ctsigprop as ct

F64 = torch.float64


def text(equations, **parameters):
    return ct.System(ct.TextNeuron(equations, **parameters))


def field(function, size):
    return ct.System(ct.VectorField(function, size))


def start(system, values):
    """Return the initial state: one vector, or the variables in order."""
    values = torch.tensor(values, dtype=F64)
    names = list(system.variables)
    if len(names) == 1:
        return {names[0]: values}
    return {name: value.reshape(1) for name, value in zip(names, values, strict=True)}


def end(system, y0, span, solver):
    """Return the state at the end of the span, as one vector."""
    run = ct.solve(system, start(system, y0), span, solver=solver)
    return torch.cat([run[name][-1] for name in system.variables]).numpy()


# Problems. The masses, means and shapes that the file tells in words are said here.


def pleiades(_case):
    mass = torch.arange(1, 8, dtype=F64)

    def rates(_t, y):
        place, velocity = y[..., :14].unflatten(-1, (2, 7)), y[..., 14:]
        apart = place.unsqueeze(-2) - place.unsqueeze(-1)
        distance = apart.square().sum(-3) + torch.eye(7, dtype=F64)
        pull = (mass * apart / distance.unsqueeze(-3) ** 1.5).sum(-1)
        return torch.cat([velocity, pull.flatten(-2)], dim=-1)

    return field(rates, 28)


def arenstorf(case):
    return text(
        """
        dx/dt = u : 1
        dy/dt = v : 1
        du/dt = x + 2*v - (1 - mu)*(x + mu)/D - mu*(x - 1 + mu)/d : 1
        dv/dt = y - 2*u - (1 - mu)*y/D - mu*y/d : 1
        D = ((x + mu)**2 + y**2)**1.5 : 1
        d = ((x - 1 + mu)**2 + y**2)**1.5 : 1
        """,
        **case["parameters"],
    )


def van_der_pol(case):
    mu = case["parameters"].get("mu", 1.0)
    return text("dx/dt = y : 1\ndy/dt = mu*(1 - x**2)*y - x : 1", mu=float(mu))


def robertson(_case):
    return text("""
        da/dt = -0.04*a + 1e4*b*c : 1
        db/dt = 0.04*a - 1e4*b*c - 3e7*b**2 : 1
        dc/dt = 3e7*b**2 : 1
    """)


def brusselator(_case):
    return text("dx/dt = 1 + x**2*y - 4*x : 1\ndy/dt = 3*x - x**2*y : 1")


def decay_chain(_case):
    def rates(_t, y):
        inner = torch.cat([-y[..., :1], y[..., :-2] - y[..., 1:-1]], dim=-1)
        return torch.cat([inner, y[..., -2:-1]], dim=-1)

    return field(rates, 10)


def parabolic(case):
    n = len(case["initial_state"])
    ones = torch.ones(n - 1, dtype=F64)
    laplacian = torch.diag(ones, 1) + torch.diag(ones, -1) - 2 * torch.eye(n, dtype=F64)
    return field(lambda _t, y: y @ laplacian, n)


def kepler(_case):
    def rates(_t, y):
        place, velocity = y[..., :2], y[..., 2:]
        return torch.cat([velocity, -place / place.norm(dim=-1, keepdim=True) ** 3], dim=-1)

    return field(rates, 4)


def chemistry(_case):
    return text("da/dt = -a + b : 1\ndb/dt = a - 2*b + c : 1\ndc/dt = b - c : 1")


def rational(_case):
    return text("dx/dt = y/t : 1\ndy/dt = y*(x + 2*y - 1)/(t*(x - 1)) : 1")


PROBLEMS = {
    "ODE-PLEIADES": pleiades,
    "ODE-ARENSTORF-4LOOP": arenstorf,
    "ODE-VDPOL-MU1000": van_der_pol,
    "ODE-BRUSSELATOR-20": brusselator,
    "ODE-DETEST-A1": lambda _case: text("dy/dt = -y : 1"),
    "ODE-DETEST-A3": lambda _case: text("dy/dt = y*cos(t) : 1"),
    "ODE-DETEST-A5": lambda _case: text("dy/dt = (y - t)/(y + t) : 1"),
    "ODE-DETEST-B1": lambda _case: text("da/dt = 2*(a - a*b) : 1\ndb/dt = -(b - a*b) : 1"),
    "ODE-DETEST-B2": chemistry,
    "ODE-DETEST-B3": lambda _case: text("da/dt = -a : 1\ndb/dt = a - b**2 : 1\ndc/dt = b**2 : 1"),
    "ODE-DETEST-C1": decay_chain,
    "ODE-DETEST-C3": parabolic,
    "ODE-DETEST-C4": parabolic,
    "ODE-DETEST-D1": kepler,
    "ODE-DETEST-D2": kepler,
    "ODE-DETEST-D4": kepler,
    "ODE-DETEST-E2": van_der_pol,
    "ODE-DETEST-E4": lambda _case: text("dy/dt = v : 1\ndv/dt = 0.032 - 0.4*v**2 : 1"),
    "ODE-SCIPY-LINEAR": lambda _case: text("da/dt = -a - 5*b : 1\ndb/dt = a + b : 1"),
}


def tight(rtol, atol):
    return {
        "Tsit5": ct.Tsit5(rtol=rtol, atol=atol),
        "DOP853": ct.SciPy("DOP853", rtol=rtol, atol=atol),
        "dopri8": ct.TorchDiffEq("dopri8", rtol=rtol, atol=atol),
    }


STIFF = {
    "Radau": ct.SciPy("Radau", rtol=1e-8, atol=1e-11),
    "BDF": ct.SciPy("BDF", rtol=1e-9, atol=1e-12),
    "LSODA": ct.SciPy("LSODA", rtol=1e-10, atol=1e-13),
}
MORE = {
    "Dopri5": ct.Dopri5(rtol=1e-10, atol=1e-12),
    "dopri5": ct.TorchDiffEq("dopri5", rtol=1e-10, atol=1e-12),
}
SOLVERS = {name: tight(1e-10, 1e-12) | MORE for name in PROBLEMS} | {
    "ODE-PLEIADES": tight(1e-11, 1e-13),
    "ODE-ARENSTORF-4LOOP": tight(1e-13, 1e-13),
    "ODE-BRUSSELATOR-20": tight(3e-13, 1e-14),
    "ODE-VDPOL-MU1000": STIFF,
}


def measure_end(name, solver, case):
    system = PROBLEMS[name](case)
    return [end(system, case["initial_state"], case["span"], solver)]


def measure_robertson(solver, case):
    y = end(robertson(case), case["initial_state"], case["span"], solver)
    return [y, y.sum()]


def measure_rational(solver, loose, case):
    system, y0, (first, last) = rational(case), case["initial_state"], case["span"]
    forward, backward = (end(system, y0, [first, t], solver) for t in (last, 1.0))
    run = ct.solve(
        system,
        start(system, y0),
        np.linspace(first, last, 20),
        solver=loose,
        dense=loose.interpolates,
    )
    times = torch.linspace(first, last, 101, dtype=F64) if loose.interpolates else run.t
    found = run(times) if loose.interpolates else run.states
    exact = {"x": times / (times + 10), "y": 10 * times / (times + 10) ** 2}
    ratios = [
        (found[name].squeeze(-1) - value) / (loose.atol + loose.rtol * value.abs())
        for name, value in exact.items()
    ]
    return [forward, backward, float(torch.stack(ratios).square().mean(0).sqrt().max())]


# Orders of the methods of fixed step.

METHODS = {
    "ODE-ORDER-EULER": {
        "Euler": lambda dt: ct.Euler(dt=dt),
        "torchdiffeq": lambda dt: ct.TorchDiffEq("euler", dt=dt),
        "Brian2": lambda dt: ct.Brian2("euler", dt=dt),
    },
    "ODE-ORDER-MIDPOINT": {
        "Midpoint": lambda dt: ct.Midpoint(dt=dt),
        "torchdiffeq": lambda dt: ct.TorchDiffEq("midpoint", dt=dt),
    },
    "ODE-ORDER-RK4": {
        "RK4": lambda dt: ct.RK4(dt=dt),
        "Brian2": lambda dt: ct.Brian2("rk4", dt=dt),
    },
    "ODE-ORDER-DOPRI5": {"Dopri5": lambda dt: ct.Dopri5(dt=dt)},
}
PRECISE = ct.Tsit5(rtol=1e-13, atol=1e-15)


def halvings(errors):
    return np.log2(np.asarray(errors)[:-1] / np.asarray(errors)[1:])


def measure_order(method, case):
    pendulum = text("dx/dt = y : 1\ndy/dt = -sin(x) + 0.3*cos(1.1*t) : 1")
    y0, span, counts = case["initial_state"], case["span"], case["parameters"]["n"]
    true = end(pendulum, y0, span, PRECISE)
    found = [end(pendulum, y0, span, method((span[1] - span[0]) / n)) for n in counts]
    errors = [np.linalg.norm(y - true) for y in found]
    degree = len(case["expected"][4]["value"]) - 1
    one_step = end(text("dy/dt = -y : 1"), [1.0], [0.0, 0.5], method(0.5))
    return [
        true,
        halvings(errors)[-1],
        errors,
        found[counts.index(40)],
        stability_polynomial(method, degree),
        one_step[0],
    ]


def stability_polynomial(method, degree):
    """Return the coefficients of R(z), from one step at roots of unity z."""
    count = degree + 1
    z = np.exp(2j * np.pi * np.arange(count) / count)
    real, imaginary = torch.tensor(z.real), torch.tensor(z.imag)
    rotation = text("dx/dt = a*x - b*y : 1\ndy/dt = b*x + a*y : 1", size=count, a=real, b=imaginary)
    run = ct.solve(rotation, {"x": 1.0, "y": 0.0}, [0.0, 1.0], solver=method(1.0))
    values = run["x"][-1].numpy() + 1j * run["y"][-1].numpy()
    return (np.fft.fft(values) / count).real


def measure_exponential_euler(case):
    forced = text("dy/dt = -2*y + sin(y) + cos(t) : 1")
    y0, span = case["initial_state"], case["span"]
    true = end(forced, y0, span, PRECISE)[0]
    found = [
        end(forced, y0, span, ct.ExponentialEuler(dt=(span[1] - span[0]) / n))[0]
        for n in (20, 40, 80, 160)
    ]
    constant = end(text("dy/dt = -2*y + 3 : 1"), [1.0], [0.0, 0.5], ct.ExponentialEuler(dt=0.5))
    order = halvings(np.abs(np.array(found) - true))[-1]
    return [true, found, order, constant[0]]


def measure_random_linear(case):
    torch.manual_seed(0)
    a = 0.5 * torch.randn(10, 10, dtype=F64)
    y0 = torch.randn(10, dtype=F64)
    system, span = field(lambda _t, y: y @ a.T, 10), case["span"]
    true = torch.linalg.matrix_exp(a * (span[1] - span[0])) @ y0
    orders = {ct.Euler: 1, ct.Midpoint: 2, ct.Heun: 2, ct.BogackiShampine: 3, ct.RK4: 4}
    orders |= {ct.Dopri5: 5, ct.Tsit5: 5}
    worst = 0.0
    for method, order in orders.items():
        errors = []
        for k in range(13):
            found = end(system, y0.tolist(), span, method(dt=2.0**-k))
            errors.append(np.abs(found - true.numpy()).sum())
            if errors[-1] < 2.0**-28:  # from here on, rounding
                break
        slope = -np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0]
        worst = max(worst, abs(slope - order))
    return [worst]


CASES = {
    name: {label: partial(measure_end, name, solver) for label, solver in SOLVERS[name].items()}
    for name in PROBLEMS
}
CASES |= {
    name: {label: partial(measure_order, method) for label, method in methods.items()}
    for name, methods in METHODS.items()
}
CASES |= {
    "ODE-ROBER-1E11": {
        name: partial(measure_robertson, ct.SciPy(name, rtol=1e-8, atol=1e-18))
        for name in ("Radau", "BDF", "LSODA")
    },
    "ODE-SCIPY-RATIONAL": {
        name: partial(measure_rational, solver, solver.with_options(rtol=1e-3, atol=1e-6))
        for name, solver in tight(1e-10, 1e-12).items()
    },
    "ODE-ORDER-EXPEULER": {"": measure_exponential_euler},
    "ODE-DIFFRAX-ORDER": {"": measure_random_linear},
}
