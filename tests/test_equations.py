from __future__ import annotations

import copy
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from ctsigprop.equations import Differential, Equations
from ctsigprop.equations.generate import _native_functions
from ctsigprop.errors import UnitError

FITZHUGH_NAGUMO = """
dv/dt = v - v**3/3 - w + I : 1      # the fast variable
dw/dt = 0.08*(v + 0.7 - 0.8*w) : 1
I : 1
"""

HODGKIN_HUXLEY = """
dv/dt = (I - I_Na - I_K - gL*(v - EL))/C : mV
dm/dt = alpha_m*(1 - m) - beta_m*m : 1
dh/dt = alpha_h*(1 - h) - beta_h*h : 1
dn/dt = alpha_n*(1 - n) - beta_n*n : 1
I_Na = gNa*m**3*h*(v - ENa) : uA/cm**2
I_K = gK*n**4*(v - EK) : uA/cm^2
alpha_m = 1.0/exprel(-(v + 40*mV)/(10*mV))/ms : 1/ms
beta_m = 4*exp(-(v + 65*mV)/(18*mV))/ms : 1/ms
alpha_h = 0.07*exp(-(v + 65*mV)/(20*mV))/ms : 1/ms
beta_h = 1/(1 + exp(-(v + 35*mV)/(10*mV)))/ms : 1/ms
alpha_n = 0.1/exprel(-(v + 55*mV)/(10*mV))/ms : 1/ms
beta_n = 0.125*exp(-(v + 65*mV)/(80*mV))/ms : 1/ms
gNa : mS/cm^2
gK : mS/cm^2
gL : mS/cm^2
ENa : mV
EK : mV
EL : mV
C : uF/cm^2
I : uA/cm^2
"""

MORRIS_LECAR = """
dv/dt = (I - gCa*m_inf*(v - ECa) - gK*n*(v - EK) - gL*(v - EL))/C : mV
dn/dt = phi*(n_inf - n)*cosh((v - V3)/(2*V4))/ms : 1
m_inf = 0.5*(1 + tanh((v - V1)/V2)) : 1
n_inf = 0.5*(1 + tanh((v - V3)/V4)) : 1
"""
MORRIS_LECAR_UNITS = {
    **dict.fromkeys(("gCa", "gK", "gL"), "mS/cm^2"),
    **dict.fromkeys(("ECa", "EK", "EL", "V1", "V2", "V3", "V4"), "mV"),
    **{"I": "uA/cm^2", "C": "uF/cm^2", "phi": "1"},
}

# the units differ on purpose: volt, pA, Mohm and seconds meet in one sum
LEAKY = """
dv/dt = (E - v
         + R*I*int(t > t_on and not v > top)) / tau : mV
E : volt
R : Mohm
I : pA
tau : s
t_on : ms
top = -0.03*volt : mV
"""

WILSON_COWAN = """
tau : 1
dE/dt = (-E + (1 - E)*rate_E)/tau : 1
dI/dt = (-I + clip(1 - I, 0, 1)*rate_I)/tau : 1
rate_E = 1/(1 + exp(-(c1*E - c2*I + P))) : 1
rate_I = 1/(1 + exp(-(c3*E - c4*I))) : 1
"""

PLASTICITY = """
dw/dt = eta*x*y*(y - theta)
dtheta/dt = (y**2 - theta)/tau_theta : 1 (post)
dtrace/dt = -trace/tau_pre + x : 1 (pre)
"""


def exprel(x):
    return np.where(np.abs(x) < 1e-9, 1 + x / 2, np.expm1(x) / np.where(x == 0, 1, x))


def fitzhugh_nagumo(s):
    return {"v": s.v - s.v**3 / 3 - s.w + s.I, "w": 0.08 * (s.v + 0.7 - 0.8 * s.w)}


def hodgkin_huxley(s):
    v, m, h, n = s.v, s.m, s.h, s.n
    currents = s.gNa * m**3 * h * (v - s.ENa) + s.gK * n**4 * (v - s.EK) + s.gL * (v - s.EL)
    alpha_m, beta_m = 1.0 / exprel(-(v + 40) / 10), 4 * np.exp(-(v + 65) / 18)
    alpha_h, beta_h = 0.07 * np.exp(-(v + 65) / 20), 1 / (1 + np.exp(-(v + 35) / 10))
    alpha_n, beta_n = 0.1 / exprel(-(v + 55) / 10), 0.125 * np.exp(-(v + 65) / 80)
    return {
        "v": (s.I - currents) / s.C,
        "m": alpha_m * (1 - m) - beta_m * m,
        "h": alpha_h * (1 - h) - beta_h * h,
        "n": alpha_n * (1 - n) - beta_n * n,
    }


def morris_lecar(s):
    m_inf, n_inf = (0.5 * (1 + np.tanh((s.v - a) / b)) for a, b in ((s.V1, s.V2), (s.V3, s.V4)))
    total = s.gCa * m_inf * (s.v - s.ECa) + s.gK * s.n * (s.v - s.EK) + s.gL * (s.v - s.EL)
    rate_n = s.phi * (n_inf - s.n) * np.cosh((s.v - s.V3) / (2 * s.V4))
    return {"v": (s.I - total) / s.C, "n": rate_n}


def leaky(s):
    gate = np.where((s.t > s.t_on) & ~(s.v > -30.0), 1.0, 0.0)
    return {"v": (1e3 * s.E - s.v + 1e-3 * s.R * s.I * gate) / (1e3 * s.tau)}


def wilson_cowan(s):
    rate_E = 1 / (1 + np.exp(-(s.c1 * s.E - s.c2 * s.I + s.P)))
    rate_I = 1 / (1 + np.exp(-(s.c3 * s.E - s.c4 * s.I)))
    return {
        "E": (-s.E + (1 - s.E) * rate_E) / s.tau,
        "I": (-s.I + np.clip(1 - s.I, 0, 1) * rate_I) / s.tau,
    }


def plasticity(s):
    return {
        "w": s.eta * s.x * s.y * (s.y - s.theta),
        "theta": (s.y**2 - s.theta) / s.tau_theta,
        "trace": -s.trace / s.tau_pre + s.x,
    }


HH = {"gNa": 120.0, "gK": 36.0, "gL": 0.3, "ENa": 50.0, "EK": -77.0, "EL": -54.4, "C": 1.0}
ML = {"gCa": 4.4, "gK": 8.0, "gL": 2.0, "ECa": 120.0, "EK": -84.0, "EL": -60.0, "C": 20.0}
FORMS = {"V1": -1.2, "V2": 18.0, "V3": 2.0, "V4": 30.0, "phi": 0.04}

# text, options, hand-written right-hand side, values; a pair is the range of a random sample
MODELS = {
    "fitzhugh_nagumo": (
        FITZHUGH_NAGUMO,
        {},
        fitzhugh_nagumo,
        {"v": (-2, 2), "w": (-1, 2), "I": 0.5},
    ),
    "hodgkin_huxley": (
        HODGKIN_HUXLEY,
        {},
        hodgkin_huxley,
        {"v": (-80, 40), "m": (0, 1), "h": (0, 1), "n": (0, 1), "I": 10.0, **HH},
    ),
    "morris_lecar": (
        MORRIS_LECAR,
        {"units": MORRIS_LECAR_UNITS},
        morris_lecar,
        {"v": (-60, 40), "n": (0, 1), "I": (80, 120), **ML, **FORMS},
    ),
    "leaky": (
        LEAKY,
        {},
        leaky,
        {"v": (-80, -20), "E": -0.07, "R": 100.0, "I": (0, 300), "tau": 0.02, "t_on": 1.0},
    ),
    "wilson_cowan": (
        WILSON_COWAN,
        {"units": dict.fromkeys(("c1", "c2", "c3", "c4")), "inputs": {"P": "1"}},
        wilson_cowan,
        {"E": (0, 1), "I": (-0.5, 1.5), "tau": 2.0, "c1": 16.0, "c2": 12.0, "c3": 15.0, "c4": 3.0}
        | {"P": 1.25},
    ),
    "plasticity": (
        PLASTICITY,
        {"units_optional": True},
        plasticity,
        {"w": (-1, 1), "theta": (0, 2), "trace": (0, 2), "x": (0, 2), "y": (0, 2)}
        | {"eta": 0.1, "tau_theta": 3.0, "tau_pre": 5.0},
    ),
}
T = 2.5


def build(name):
    text, options, reference, ranges = MODELS[name]
    rng = np.random.default_rng(7)
    values = {
        key: rng.uniform(*value, 20) if isinstance(value, tuple) else np.float64(value)
        for key, value in ranges.items()
    }
    expected = reference(SimpleNamespace(t=T, **values))
    return Equations(text, **options), expected, values


def tensors(values, dtype=torch.float64):
    return {name: torch.as_tensor(value, dtype=dtype) for name, value in values.items()}


def time(dtype=torch.float64):
    return torch.tensor(T, dtype=dtype)


@pytest.mark.parametrize("name", MODELS)
def test_torch_agrees_with_numpy(name):
    equations, expected, values = build(name)
    found = equations.torch()(time(), tensors(values))
    assert list(found) == list(expected) == [v.name for v in equations.variables]
    for variable, rate in found.items():
        assert rate.dtype == torch.float64
        np.testing.assert_allclose(
            rate, expected[variable], rtol=1e-14, atol=1e-14 * np.abs(expected[variable]).max()
        )


@pytest.mark.parametrize("name", MODELS)
def test_float32_stays_float32(name):
    equations, reference, values = build(name)
    found = equations.torch()(time(torch.float32), tensors(values, torch.float32))
    for variable, rate in found.items():
        assert rate.dtype == torch.float32
        expected = reference[variable]
        np.testing.assert_allclose(rate, expected, rtol=2e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_results_are_on_the_device_of_the_state(name):
    equations, _, values = build(name)
    state = {key: value.to("meta") for key, value in tensors(values).items()}
    for function in (equations.torch(), equations.linear(), equations.jacobian()):
        rates = function(time().to("meta"), state)
        assert all(rate.device.type == "meta" for rate in rates.values())


@pytest.mark.parametrize("name", MODELS)
def test_jacobian_agrees_with_autodiff(name):
    equations, _, values = build(name)
    state, rates, entries = tensors(values), equations.torch(), equations.jacobian()
    names = [v.name for v in equations.variables]
    symbolic = entries(time(), state)
    assert set(symbolic) == {(row, column) for row in names for column in names}
    columns = {name: state[name] for name in names}
    automatic = torch.func.jacrev(lambda part: rates(time(), {**state, **part}))(columns)
    for (row, column), entry in symbolic.items():
        assert entry.shape == state[row].shape
        expected = automatic[row][column].diagonal()
        torch.testing.assert_close(entry, expected, rtol=1e-10, atol=1e-12)
    assert equations.jacobian_symbolic.shape == (len(names), len(names))


@pytest.mark.parametrize(
    ("name", "affine"),
    [
        ("fitzhugh_nagumo", "w"),
        ("hodgkin_huxley", "v m h n"),
        ("morris_lecar", "n"),
        ("plasticity", "w theta trace"),
    ],
)
def test_linear_is_exact_where_the_equation_is_affine(name, affine):
    equations, _, values = build(name)
    state, rates, slopes = tensors(values), equations.torch(), equations.linear()
    for variable in affine.split():
        other = {**state, variable: state[variable] + 0.5}
        change = rates(time(), other)[variable] - rates(time(), state)[variable]
        slope = slopes(time(), state)[variable]
        torch.testing.assert_close(slope, slopes(time(), other)[variable], rtol=0, atol=0)
        torch.testing.assert_close(0.5 * slope, change, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("text", "coefficient"),
    [
        ("dy/dt = -2*y + sin(y) + cos(t) : 1", "-2"),
        ("dy/dt = y - y**3/3 - a : 1", "1"),
        ("dy/dt = (1 - y)*a - y*exp(v) : 1", "-a - exp(v)"),
        ("dy/dt = (r - y)/s : 1\nr = tanh(v) : 1\ns = a + v**2 : 1", "-1/(a + v**2)"),
        ("dy/dt = -a*(y - v)*(y + 1) : 1", "a*v - a"),
        ("dy/dt = s*a : 1\ns = 3*y + v : 1", "3*a"),
        ("dy/dt = y/(1 + y) : 1", "0"),
        ("dy/dt = clip(y, 0, 1)*y : 1", "0"),
        ("dy/dt = a : 1", "0"),
    ],
)
def test_linear_table(text, coefficient):
    equations = Equations(text, units={"a": "1", "v": "1"})
    values = tensors({"y": [0.3, -2.0], "a": 0.7, "v": [0.1, 0.4]})
    found = equations.linear()(time(), values)["y"]
    expected = eval(coefficient, {"exp": torch.exp, **values}) + torch.zeros(2).double()
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["hodgkin_huxley", "leaky", "wilson_cowan"])
def test_numba_agrees_with_torch(name):
    pytest.importorskip("numba")
    equations, _, values = build(name)
    expected = equations.torch()(time(), tensors(values))
    count = len(equations.variables)
    rows = [np.broadcast_to(values[argument], 20) for argument in equations.arguments]
    out = np.empty((count, 20))
    equations.numba()(T, np.array(rows[:count]), np.array(rows[count:]), out)
    for row, variable in zip(out, equations.variables, strict=True):
        np.testing.assert_allclose(row, expected[variable.name], rtol=1e-13, atol=1e-13)


def test_every_function_in_every_back_end():
    text = """
    dx/dt = exp(-x) + log(1 + x**2) + sin(x) + cos(x) + tan(x/3) + sinh(x) + cosh(x) + tanh(x) : 1
    dy/dt = arctan(y) + sqrt(abs(y)) + sign(y) + clip(y, -a, 0.5) + exprel(y) + int(y <= x) : 1
    dz/dt = int(x < y < 1) + 2*int(x == x or z != z) + e + pi*int(t >= 2) + clip(z, 0, inf) : 1
    """
    equations = Equations(text, units={"a": "1"})
    values = {"x": np.linspace(-2, 2, 9), "y": np.linspace(2, -1, 9), "z": np.full(9, 0.3)}
    x, y, z = values.values()
    expected = {
        "x": np.exp(-x) + np.log1p(x**2) + np.sin(x) + np.cos(x) + np.tan(x / 3) + np.sinh(x)
        + np.cosh(x) + np.tanh(x),
        "y": np.arctan(y) + np.sqrt(np.abs(y)) + np.sign(y) + np.clip(y, -0.4, 0.5) + exprel(y)
        + (y <= x),
        "z": 1.0 * ((x < y) & (y < 1)) + 2 + np.e + np.pi + z,
    }  # fmt: skip
    found = equations.torch()(time(), tensors({**values, "a": 0.4}))
    out = np.empty((3, 9))
    equations.numba()(T, np.array([x, y, z]), np.full((1, 9), 0.4), out)
    for row, name in zip(out, "xyz", strict=True):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-13)
        np.testing.assert_allclose(row, expected[name], rtol=1e-13)
    columns = tensors(values)
    automatic = torch.func.jacrev(
        lambda part: equations.torch()(time(), {**part, **tensors({"a": 0.4})})
    )(columns)
    symbolic = equations.jacobian()(time(), tensors({**values, "a": 0.4}))
    moving = (y != 0) & (x != 0)
    for (row, column), entry in symbolic.items():
        expected_entry = automatic[row][column].diagonal()
        torch.testing.assert_close(entry[moving], expected_entry[moving], rtol=1e-10, atol=1e-12)


def test_clip_has_the_derivatives_of_its_bounds():
    equations = Equations("dx/dt = clip(x, y, z) : 1\ndy/dt = y : 1\ndz/dt = z : 1")
    values = tensors({"x": [-2.0, 0.3, 4.0], "y": [-1.0, -1.0, -1.0], "z": [1.0, 1.0, 1.0]})
    entries = equations.jacobian()(time(), values)
    assert [entries["x", name].tolist() for name in "xyz"] == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def brian2_solution(equations, values, initial, duration, dt):
    import brian2

    before = brian2.prefs.codegen.target
    brian2.prefs.codegen.target = "numpy"
    try:
        text = equations.brian2({"w": "recovery"})
        assert "second" in text
        parsed = brian2.Equations(text)
        assert parsed.diff_eq_names == {"v", "recovery"}
        group = brian2.NeuronGroup(
            1, parsed, method="rk4", dt=dt * brian2.second, namespace=dict(values), name="cells"
        )
        group.v, group.recovery = initial
        brian2.Network(group).run(duration * brian2.second, namespace=dict(values))
        return float(group.v[0]), float(group.recovery[0])
    finally:
        brian2.prefs.codegen.target = before


@pytest.mark.filterwarnings("ignore::pyparsing.warnings.PyparsingDeprecationWarning")
def test_brian2_reproduces_the_model():
    bump = "bump = 0.2*sin(t)*int(v < 9 and not w > 9) + int(v > 9 and w < 9) : 1"
    text = FITZHUGH_NAGUMO + bump
    equations = Equations(text.replace("w + I", "w + I + bump"))

    def field(t, y):
        v, w = y
        return [v - v**3 / 3 - w + 0.5 + 0.2 * np.sin(t), 0.08 * (v + 0.7 - 0.8 * w)]

    found = brian2_solution(equations, {"I": 0.5}, (-0.9, -0.5), 3.0, 0.005)
    exact = solve_ivp(field, (0, 3.0), [-0.9, -0.5], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found, exact.y[:, -1], atol=1e-6)


def test_generated_code_is_what_one_writes_by_hand():
    equations = Equations("dx/dt = -0.5*x + 0.08*(y - 0.7) : 1\ny : 1")
    values = tensors({"x": np.linspace(-3, 3, 101), "y": np.linspace(5, -2, 101)})
    x, y = values.values()
    assert torch.equal(equations.torch()(time(), values)["x"], -0.5 * x + 0.08 * (y - 0.7))


def test_repeated_parts_are_computed_once():
    source = Equations("dx/dt = exp(-x)/(1 + exp(-x)) : 1\ndy/dt = exp(-x) - y : 1").torch().__doc__
    assert source.count("exp(") == 1


def test_units_cancel_without_rounding():
    equations = Equations(
        "dv/dt = R*I/tau : mV", units={"R": "Mohm", "I": "nA", "tau": "ms"}, time_unit="ms"
    )
    assert "return {'v': R * I / tau" in equations.torch().__doc__.replace("_spread(", "")


@pytest.mark.parametrize(
    ("time_unit", "factor"), [(None, 1.0), ("ms", 1.0), ("s", 1000.0), ("us", 1e-3)]
)
def test_time_unit(time_unit, factor):
    equations = Equations("dv/dt = -v/tau + E*sin(2*pi*t/tau)/tau : mV",
                          units={"tau": "ms", "E": "mV"}, time_unit=time_unit)  # fmt: skip
    assert equations.time_unit == (time_unit or "ms")
    values = tensors({"v": [1.0, 2.0], "tau": 20.0, "E": 3.0})
    t = 7.0 / factor
    expected = (-values["v"] / 20 + 3 * np.sin(2 * np.pi * 7.0 / 20) / 20) * factor
    found = equations.torch()(torch.tensor(t, dtype=torch.float64), values)["v"]
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("dv/dt = v - w : 1\ndw/dt = v : 1", None, "1"),
        ("dv/dt = v - w : 1\ndw/dt = v : 1", "ms", "1"),
        ("dv/dt = -v/tau : 1\ntau : s", None, "ms"),
        ("dv/dt = -v/tau : 1\ntau : s", "s", "s"),
        ("dv/dt = a*v : 1", None, "1"),
        ("dv/dt = a*v : 1", "ms", "ms"),
        ("dv/dt = -v + sin(t) : 1", None, "1"),
        ("dx/dt = 0.3*t/ms**2 : 1", "ms", "ms"),
    ],
)
def test_time_unit_is_found(text, given, expected):
    assert Equations(text, units={"a": None}, time_unit=given).time_unit == expected


def test_interface():
    equations, _, _ = build("leaky")
    assert equations.variables == (
        Differential(
            "v",
            "mV",
            frozenset(),
            "dv/dt = (E - v + R*I*int(t > t_on and not v > top)) / tau : mV",
        ),
    )
    assert dict(equations.declared) == {
        "E": "volt",
        "R": "Mohm",
        "I": "pA",
        "tau": "s",
        "t_on": "ms",
    }
    assert dict(equations.subexpressions) == {"top": "mV"}
    assert equations.external == frozenset()
    assert equations.arguments == ("v", "E", "R", "I", "tau", "t_on")
    other = Equations("dv/dt = (b*v + a*s)*c : 1\ns = v : 1\nc : 1", units={"a": "1", "b": "1",
                      "unused": "1"})  # fmt: skip
    assert other.arguments == ("v", "c", "a", "b")
    assert other.external == {"a", "b"}


def test_flags_and_unknown_units():
    equations, _, _ = build("plasticity")
    assert [(v.name, v.unit, set(v.flags)) for v in equations.variables] == [
        ("w", None, set()),
        ("theta", "1", {"post"}),
        ("trace", "1", {"pre"}),
    ]
    assert equations.external == {"eta", "x", "y", "tau_theta", "tau_pre"}
    unitless = Equations("dk/dt = -k : (post)", units_optional=True)
    assert (unitless.variables[0].unit, unitless.variables[0].flags) == (None, {"post"})


def test_text_wins_over_units_from_outside():
    equations = Equations("dv/dt = -v/tau : mV\ntau : s", units={"tau": "ms", "v": None})
    assert equations.declared["tau"] == "s"


def test_some_of_the_derivatives():
    equations, expected, values = build("plasticity")
    found = equations.torch("trace", "w")(time(), tensors(values))
    assert list(found) == ["trace", "w"]
    for name, rate in found.items():
        np.testing.assert_allclose(rate, expected[name], rtol=1e-13)
    values.pop("x")  # not needed for theta alone
    assert list(equations.torch("theta")(time(), tensors(values))) == ["theta"]
    with pytest.raises(ValueError, match=r"unknown variable 'thet' \(did you mean 'theta'"):
        equations.torch("thet")


def test_torch_of():
    equations, _, values = build("hodgkin_huxley")
    state = tensors(values)
    v, m, h = state["v"], state["m"], state["h"]
    current = 120 * m**3 * h * (v - 50)
    for expression, expected, unit in [
        ("I_Na", current, "uA/cm^2"),
        ("v", v, "mV"),
        ("gNa*m**3*h*(v - ENa)", current, "mS*mV/cm^2"),
        ("int(v > -50*mV)", (v > -50).double(), "1"),
        ("dv/dt", equations.torch()(time(), state)["v"], "mV/ms"),
        ("v + 0.01*volt", v + 10, "mV"),
        ("0.3", torch.tensor(0.3, dtype=torch.float64), "1"),
    ]:
        found = equations.torch_of(expression)(time(), state)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-13)
        assert equations.unit_of(expression) == unit
    with pytest.raises(UnitError, match=r"v \+ m — cannot add mV and 1 in 'v \+ m'"):
        equations.torch_of("v + m")
    with pytest.raises(ValueError, match=r"unknown symbol 'I_na' \(did you mean 'I_Na'"):
        equations.torch_of("I_na")


def test_differentiate():
    equations, _, _ = build("hodgkin_huxley")
    assert str(equations.differentiate("I_Na", "v")) == "gNa*h*m**3"
    assert equations.differentiate("dv/dt", "m") == equations.jacobian_symbolic[0, 1]
    with pytest.raises(ValueError, match="unknown symbol 'w'"):
        equations.differentiate("I_Na", "w")


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("dx/dt = 0.3 : 1", {}),
        ("dx/dt = a : 1", {"a": 2.0}),
        ("dx/dt = sin(t) : 1", {}),
        ("dx/dt = 0 : 1", {}),
        ("dx/dt = c*a : 1\nc = exp(0.5) + 1/3 : 1", {"a": 1.0}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_derivative_has_the_shape_of_its_variable(text, parameters, dtype, shape):
    equations = Equations(text, units=dict.fromkeys(parameters, "1"))
    values = {"x": torch.ones(shape, dtype=dtype), **tensors(parameters, dtype)}
    for function in (equations.torch(), equations.linear()):
        rate = function(time(dtype), values)["x"]
        assert (rate.shape, rate.dtype) == (shape, dtype)
        assert rate.is_contiguous()


def test_results_share_no_memory():
    equations = Equations("dx/dt = x : 1\ndy/dt = 3*y*z : 1\ndz/dt = 3*y*z : 1")
    values = tensors({"x": [1.0], "y": [2.0], "z": [4.0]})
    rates = equations.torch()(time(), values)
    for rate in rates.values():
        rate -= 1
    assert [values[name].item() for name in "xyz"] == [1.0, 2.0, 4.0]
    assert [rate.item() for rate in rates.values()] == [0.0, 23.0, 23.0]


def test_subexpressions_in_any_order():
    equations = Equations("p = 2*q : 1\ndx/dt = p : 1\nq = r + 1 : 1\nr = x**2 + a : 1\na : 1")
    assert list(equations.subexpressions) == ["r", "q", "p"]
    values = tensors({"x": [1.0, 2.0], "a": 0.5})
    expected = 2 * (values["x"] ** 2 + 1.5)
    torch.testing.assert_close(equations.torch()(time(), values)["x"], expected)
    torch.testing.assert_close(equations.torch_of("p")(time(), values), expected)
    entries = equations.jacobian()(time(), values)
    torch.testing.assert_close(entries["x", "x"], 4 * values["x"])


def test_numbers_beyond_integers():
    rates = Equations("dx/dt = 123456789012345678901*x + 1e30*x : 1").torch()
    assert rates(time(), tensors({"x": 2.0}))["x"].item() == 2 * (123456789012345678901 + 1e30)


def test_text_is_text():
    with pytest.raises(TypeError, match="text is a str with one equation a line, got 3"):
        Equations(3)


def test_values_broadcast():
    equations = Equations("dx/dt = -x + a + b : 1", units={"a": "1", "b": "1"})
    values = {"x": torch.zeros(3), "a": torch.ones(5, 1, 3), "b": torch.ones(4, 1)}
    assert equations.torch()(time(), values)["x"].shape == (5, 4, 3)


def test_gradient_through_parameters():
    equations, _, values = build("hodgkin_huxley")
    names = list(equations.arguments)
    inputs = [t.clone().requires_grad_() for t in map(tensors(values).get, names)]
    rates = equations.torch()

    def field(*parts):
        return tuple(rates(time(), dict(zip(names, parts, strict=True))).values())

    assert torch.autograd.gradcheck(field, inputs)


@pytest.mark.parametrize("function", ["exprel(x)", "1/exprel(-x)"])
def test_exprel_is_smooth_at_zero(function):
    equations = Equations(f"dx/dt = {function} : 1")
    near = np.array([0, 1e-12, -1e-7, 1e-3, 0.0199, 0.0201, -0.0201, 0.1, -0.5, 3.0, -40.0])
    x = torch.tensor(near, requires_grad=True)
    rates = equations.torch()
    assert torch.autograd.gradcheck(lambda x: rates(time(), {"x": x})["x"], [x])
    assert torch.autograd.gradgradcheck(lambda x: rates(time(), {"x": x})["x"], [x])
    first = torch.func.vmap(torch.func.grad(lambda x: rates(time(), {"x": x})["x"]))(x.detach())
    symbolic = equations.jacobian()(time(), {"x": x.detach()})["x", "x"]
    torch.testing.assert_close(first, symbolic, rtol=1e-11, atol=0)
    exact = {"exprel(x)": (1.0, 0.5, 1 / 3), "1/exprel(-x)": (1.0, 0.5, 1 / 6)}[function]
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = rates(time(), {"x": zero})["x"]
    (slope,) = torch.autograd.grad(value, zero, create_graph=True)
    (bend,) = torch.autograd.grad(slope, zero)
    np.testing.assert_allclose([value.item(), slope.item(), bend.item()], exact, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms():
    equations, _, values = build("wilson_cowan")
    state, rates = tensors(values), equations.torch()
    expected = rates(time(), state)
    split = {name: 0 if value.dim() else None for name, value in state.items()}
    mapped = torch.func.vmap(rates, in_dims=(None, split))(time(), state)
    tangents = {name: torch.ones_like(value) for name, value in state.items()}
    _, forward = torch.func.jvp(lambda s: rates(time(), s), (state,), (tangents,))
    _, pull = torch.func.vjp(lambda s: rates(time(), s)["E"].sum(), state)
    backward = pull(torch.ones((), dtype=torch.float64))[0]
    total = sum(gradient.sum() for gradient in backward.values())
    torch.testing.assert_close(total, forward["E"].sum())
    for name, rate in expected.items():
        torch.testing.assert_close(mapped[name], rate, rtol=1e-14, atol=0)


def test_int_of_a_condition_keeps_the_state_type():
    equations = Equations("dx/dt = int(x > a) : 1", units={"a": "1"})
    values = {"x": torch.tensor([0.0, 2.0]), "a": torch.tensor(1.0, dtype=torch.float64)}
    rate = equations.torch()(time(), values)["x"]
    assert rate.dtype == torch.float32
    assert rate.tolist() == [0.0, 1.0]


def test_equality_copy_and_pickle():
    equations, _, values = build("hodgkin_huxley")
    rates = equations.torch()
    assert equations.torch() is rates
    equations.linear()
    equations.jacobian()
    for twin in (copy.deepcopy(equations), pickle.loads(pickle.dumps(equations))):
        assert twin == equations
        assert hash(twin) == hash(equations)
        found = twin.torch()(time(), tensors(values))
        for name, rate in rates(time(), tensors(values)).items():
            assert torch.equal(found[name], rate)
    assert equations != Equations(FITZHUGH_NAGUMO)
    assert equations != Equations(HODGKIN_HUXLEY, time_unit="s")
    with pytest.raises(AttributeError, match="immutable"):
        equations.text = ""


def test_native_code_names_its_extra(monkeypatch):
    _native_functions.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match=r"pip install ctsigprop\[native\]"):
        Equations("dx/dt = -x : 1").numba()


def test_brian2_text():
    equations = Equations("dv/dt = s*sin(t)*int(0 < v < a or v == 3) : 1\ns = a*v : 1\na : 1")
    condition = "0 < u and u < k or u == 3"
    text = f"s = k * u : 1\ndu/dt = (s * sin(t / second) * int({condition}))/second : 1"
    assert equations.brian2({"v": "u", "a": "k"}) == text
    assert equations.brian2_of("s + v", {"v": "u"}) == "s + u"


def test_brian2_refuses_to_rename_what_is_not_there():
    with pytest.raises(ValueError, match=r"unknown symbol 'V' \(did you mean 'v'"):
        Equations(FITZHUGH_NAGUMO).brian2({"V": "u"})


MV = {"units": {"I": "pA", "tau": "ms", "E": "mV", "f": "1"}}

REFUSED = {
    "unknown unit": ("dv/dt = -v : mw", {}, r"unknown unit 'mw' for v \(did you mean 'mV'\?\)"),
    "unknown outside unit": ("dv/dt = -v : 1", {"units": {"a": "mw"}}, "unknown unit 'mw' for a"),
    "sum": ("dv/dt = (v - I)/tau : mV", MV,
            r"dv/dt = \(v - I\)/tau : mV — cannot add mV and pA in 'v - I'"),
    "sum of products": ("dv/dt = (E*E - v)/tau : mV", MV, r"cannot add mV\^2 and mV in"),
    "comparison": ("dv/dt = v*int(v > tau)/tau : mV", MV, "cannot compare mV and ms in 'v > tau'"),
    "clip": ("dv/dt = clip(v, 1, E)/tau : mV", MV, "cannot compare mV and 1"),
    "sides": ("dv/dt = v*v/tau : mV", MV, r"the right side is in mV\^2/ms, dv/dt is in mV per"),
    "subexpression": ("dv/dt = s/tau : mV\ns = v/tau : mV", MV, "s = v/tau : mV — the right side"),
    "exp": ("dv/dt = exp(v)/tau : mV", MV, "exp takes a dimensionless number, 'v' is in mV"),
    "exponent unit": ("dv/dt = 2**v/tau : mV", MV, "an exponent takes a dimensionless number"),
    "base": ("dv/dt = v**f/tau : mV", MV, "in mV is a number up to 100, not 'f'"),
    "mixed time": ("dv/dt = v/tau : mV\ndw/dt = -w : 1\ndu/dt = -u/tau : 1", MV,
                   "dw/dt = -w : 1 — is dimensionless in time, 'dv/dt = v/tau : mV' is in units"),
    "time unit": ("dv/dt = v/tau : mV", MV | {"time_unit": "mV"}, "time_unit is a unit of time"),
    "no time": ("dv/dt = v/tau : mV", MV | {"time_unit": "1"}, "but time_unit is '1'"),
    "missing unit": ("dv/dt = -v", {}, "'v' has no unit: write ': 1'"),
    "undefined": ("dvolt/dt = -vlot : 1", {},
                  r"dvolt/dt = -vlot : 1 — unknown symbol 'vlot' \(did you mean 'volt'\?\)"),
    "cycle": ("dv/dt = p : 1\np = q : 1\nq = r : 1\nr = p : 1", {}, "in a circle: "),
    "self": ("dv/dt = p : 1\np = p + 1 : 1", {}, "in a circle: p -> p"),
    "syntax": ("dv/dt = -v + : 1", {}, r"dv/dt = -v \+ : 1 — not an expression"),
    "open": ("dv/dt = (-v : 1\ndw/dt = 1 : 1", {}, "not an expression"),
    "statement": ("dv/dt = -v : 1\nv -= 3", {}, "v -= 3 — expected 'dv/dt"),
    "no equation": ("a : 1", {}, "no differential equation"),
    "empty": ("# nothing", {}, "no differential equation"),
    "import": ("dv/dt = __import__('os').system('true') : 1", {}, "not in the language"),
    "dunder": ("dv/dt = __import__(v) : 1", {}, "unknown function '__import__'"),
    "optional dunder": ("dv/dt = __v", {"units_optional": True}, "unknown symbol '__v'"),
    "attribute": ("dv/dt = v.data : 1", {}, "'v.data' is not in the language of equations"),
    "lambda": ("dv/dt = (lambda: v)() : 1", {}, "not in the language"),
    "comprehension": ("dv/dt = [v for v in v] : 1", {}, "not in the language"),
    "walrus": ("dv/dt = (a := v) : 1", {}, "not "),
    "text": ("dv/dt = 'v' : 1", {}, "not in the language"),
    "complex": ("dv/dt = 1j*v : 1", {}, "not in the language"),
    "bool": ("dv/dt = True : 1", {}, "not in the language"),
    "floor": ("dv/dt = v // 2 : 1", {}, "not in the language"),
    "keyword": ("dv/dt = clip(v, lo=0, hi=1) : 1", {}, "not in the language"),
    "random": ("dv/dt = -v + rand() : 1", {}, "unknown function 'rand'"),
    "function": ("dv/dt = tanhh(v) : 1", {}, r"unknown function 'tanhh' \(did you mean 'tanh'\?\)"),
    "hidden function": ("dv/dt = exprel_prime(v) : 1", {}, "unknown function"),
    "arguments": ("dv/dt = clip(v, 1) : 1", {}, r"clip takes 3 argument\(s\)"),
    "clip of a number": ("dv/dt = clip(1, 0, v) : 1", {}, "clip takes a quantity"),
    "condition": ("dv/dt = v > 1 : 1", {}, r"a condition stands inside int\(...\)"),
    "int": ("dv/dt = int(v) : 1", {}, "int takes a condition"),
    "membership": ("dv/dt = int(v in v) : 1", {}, "not a comparison of numbers"),
    "flag": ("dv/dt = -v : 1 (pots)", {}, r"unknown flag 'pots' \(did you mean 'post'\?\)"),
    "flag on a subexpression": ("dv/dt = s : 1\ns = v : 1 (post)", {}, "unknown flag 'post'"),
    "twice": ("dv/dt = -v : 1\nv : 1", {}, "'v' is defined twice"),
    "reserved": ("dexp/dt = 1 : 1", {}, "'exp' cannot name a quantity"),
    "reserved time": ("dv/dt = 1 : 1", {"units": {"t": "ms"}}, "'t' cannot name a quantity"),
    "private": ("d_v/dt = 1 : 1", {}, "expected 'dv/dt"),
    "greek": ("dv/dt = τ : 1\nτ : 1", {}, "expected 'dv/dt"),
    "zero": ("dv/dt = v/(1 - 1) : 1", {}, "division by zero"),
    "domain": ("dv/dt = v*log(-1) : 1", {}, "not a finite real number"),
    "root": ("dv/dt = v**((-8)**0.5) : mV", {"units_optional": True}, "not a finite real number"),
    "deep": ("dv/dt = " + "-" * 3000 + "v : 1", {}, "nested too deeply"),
    "huge": ("dv/dt = 9**999999999*v : 1", {}, "not a finite real number"),
    "huge exponent": ("dv/dt = v**(10**12)/ms : mV", {}, "is a number up to 100"),
    "two units": ("dv/dt = a : 1", {"units": {"a": "1"}, "inputs": {"a": "1"}},
                  "'a' is in units and in inputs"),
    "overflow": ("dv/dt = exp(1e9) : 1", {}, "not a finite real number"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusal(case):
    text, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        Equations(text, **options)


numbers = st.floats(-2, 2).map(lambda x: round(x, 3))


@st.composite
def polynomials(draw):
    """Return a polynomial in x, y and t as text."""
    terms = []
    for _ in range(draw(st.integers(1, 5))):
        factors = [repr(draw(numbers))]
        for name in draw(st.lists(st.sampled_from("xyt"), max_size=3)):
            power = draw(st.integers(1, 3))
            factors.append(name if power == 1 else f"{name}**{power}")
        terms.append("*".join(factors))
    text = " + ".join(terms)
    return draw(st.sampled_from([text, f"-({text})*x", f"({text})/(1 + y**2) - x"]))


@settings(max_examples=50, deadline=None)
@given(polynomials(), numbers, numbers)
def test_polynomials_equal_direct_evaluation(text, x, y):
    equations = Equations(f"dx/dt = {text} : 1\ndy/dt = x : 1")
    values = tensors({"x": x, "y": y})
    direct = eval(text, {"x": values["x"], "y": values["y"], "t": time()})
    torch.testing.assert_close(
        equations.torch()(time(), values)["x"],
        torch.as_tensor(direct, dtype=torch.float64) + 0 * values["x"],
        rtol=1e-13,
        atol=1e-12,
    )


@settings(max_examples=25, deadline=None)
@given(polynomials(), numbers, numbers)
def test_polynomials_have_the_jacobian_of_autodiff(text, x, y):
    equations = Equations(f"dx/dt = {text} : 1\ndy/dt = x*y : 1")
    values = tensors({"x": x, "y": y})
    automatic = torch.func.jacrev(lambda state: equations.torch()(time(), state))(values)
    for (row, column), entry in equations.jacobian()(time(), values).items():
        torch.testing.assert_close(entry, automatic[row][column], rtol=1e-9, atol=1e-9)


POST, PRE = ("y", "ybar", "theta", "dy"), ("x", "xbar", "dx")

# text of dw/dt, number of outer products, decays present (scalar, post, pre)
SEPARABLE = {
    "hebb": ("eta*x*y", 1, ""),
    "anti-hebb with a number": ("-0.01*x*y", 1, ""),
    "covariance": ("eta*(y - ybar)*(x - xbar)", 1, ""),
    "covariance, written out": ("eta*(x*y - x*ybar - xbar*y + xbar*ybar)", 1, ""),
    "covariance and more": ("eta*(x*y - x*ybar - xbar*y + xbar*ybar) + a*dx*dy", 2, ""),
    "thresholds": ("eta*(a*y - b)*(c*x - d)", 1, ""),
    "thresholds, written out": ("a*c*x*y - a*d*y - b*c*x + b*d", 1, ""),
    "oja": ("eta*(x*y - y**2*w)", 1, "post"),
    "oja, factored": ("eta*y*(x - y*w)", 1, "post"),
    "bcm": ("eta*x*y*(y - theta)", 1, ""),
    "bcm, written out": ("eta*x*y**2 - eta*x*y*theta", 1, ""),
    "timing": ("a*y*xbar - b*ybar*x", 2, ""),
    "timing on one side": ("a*y*xbar - b*y*x", 1, ""),
    "differential": ("eta*x*dy + eta*dx*y", 2, ""),
    "decay": ("eta*x*y - lam*w", 1, "scalar"),
    "numeric decay": ("eta*x*y - 0.1*w", 1, "scalar"),
    "heterosynaptic": ("eta*x*y - lam*y*w", 1, "post"),
    "presynaptic decay": ("eta*x*y - lam*x**2*w", 1, "pre"),
    "all decays": ("y - w*(1 + x**2 + y**2)", 1, "scalar post pre"),
    "one side each": ("x + y + c", 2, ""),
    "gated": ("tanh(x)*int(y > theta)*exp(-y)", 1, ""),
    "equality": ("int(y != 9)*x + c*int(y == 9)", 2, ""),
    "modulated": ("m*x*y", 1, ""),
    "sum in the exponent": ("exp(x + y)", 1, ""),
    "timed": ("cos(t)*x*y", 1, ""),
    "constant": ("0.3", 1, ""),
    "nothing": ("0*w", 0, ""),
    "subexpression": ("drive*x\ndrive = eta*(y - theta) + 0", 1, ""),
}


def plastic_values(equations):
    rng = np.random.default_rng(3)
    sizes = {**dict.fromkeys(POST, (4,)), **dict.fromkeys(PRE, (3,)), "w": (4, 3)}
    names = sorted({*equations.external, "w"})
    return tensors({name: rng.uniform(0.2, 2.0, sizes.get(name, ())) for name in names})


@pytest.mark.parametrize("name", SEPARABLE)
def test_separate(name):
    text, products, decays = SEPARABLE[name]
    equations = Equations(f"dw/dt = {text}", units_optional=True)
    structure = equations.separate("w", post=POST, pre=PRE, weight="w")
    assert len(structure.outer) == products
    present = {"scalar": structure.decay_scalar, "post": structure.decay_post,
               "pre": structure.decay_pre}  # fmt: skip
    assert [key for key, decay in present.items() if decay is not None] == decays.split()

    values = plastic_values(equations)
    grid = {
        name: value[:, None] if name in POST else value[None, :] if name in PRE else value
        for name, value in values.items()
    }
    expected = equations.torch()(time(), grid)["w"]

    def factor(function, names, absent, shape):
        if function is None:
            return torch.full(shape, absent, dtype=torch.float64)
        seen = {key: value for key, value in values.items() if key not in names}
        return function(time(), seen).expand(shape)

    total = torch.zeros(4, 3, dtype=torch.float64)
    for post, pre in structure.outer:
        total += torch.outer(factor(post, PRE, 1.0, (4,)), factor(pre, POST, 1.0, (3,)))
    rate = factor(structure.decay_scalar, (*POST, *PRE), 0.0, ())
    rate = rate + factor(structure.decay_post, PRE, 0.0, (4,))[:, None]
    rate = rate + factor(structure.decay_pre, POST, 0.0, (3,))
    torch.testing.assert_close(total + rate * values["w"], expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "text",
    ["w*x*y", "w**2", "clip(w, 0, 1)", "int(w > 0)*x*y", "sign(w)*x", "abs(w)", "tanh(x*y)",
     "eta*int(x > y)", "x*y*(1 - w)", "sqrt(x + y)", "1/w"],
)  # fmt: skip
def test_what_does_not_separate(text):
    equations = Equations(f"dw/dt = {text}", units_optional=True)
    assert equations.separate("w", post=POST, pre=PRE, weight="w") is None


def test_separate_wants_a_variable():
    equations = Equations("dw/dt = x*y", units_optional=True)
    with pytest.raises(ValueError, match="unknown variable 'W'"):
        equations.separate("W", post=POST, pre=PRE, weight="w")
