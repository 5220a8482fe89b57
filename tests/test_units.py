from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsigprop.errors import UnitError
from ctsigprop.units import (
    COMMON_UNITS,
    UNIT_LITERALS,
    conversion,
    divide_units,
    multiply_units,
    parse_unit,
    power_unit,
)

LENGTH, MASS, TIME, CURRENT, SUBSTANCE = 0, 1, 2, 3, 5
VOLTAGE = {LENGTH: 2, MASS: 1, TIME: -3, CURRENT: -1}
CONDUCTANCE = {LENGTH: -2, MASS: -1, TIME: 3, CURRENT: 2}


@pytest.mark.parametrize(
    ("text", "symbol", "scale", "exponents"),
    [
        ("1", "1", 1, {}),
        ("radian", "rad", 1, {}),
        ("mV", "mV", Fraction(1, 1000), VOLTAGE),
        ("volt", "V", 1, VOLTAGE),
        ("mvolt", "mV", Fraction(1, 1000), VOLTAGE),
        ("µV", "uV", Fraction(1, 10**6), VOLTAGE),
        ("nA*ohm", "nA*ohm", Fraction(1, 10**9), VOLTAGE),
        ("siemens", "S", 1, CONDUCTANCE),
        ("nS", "nS", Fraction(1, 10**9), CONDUCTANCE),
        ("Mohm", "Mohm", 10**6, {key: -power for key, power in CONDUCTANCE.items()}),
        ("amp", "A", 1, {CURRENT: 1}),
        ("pA", "pA", Fraction(1, 10**12), {CURRENT: 1}),
        ("meter", "m", 1, {LENGTH: 1}),
        ("second", "s", 1, {TIME: 1}),
        ("kHz", "kHz", 1000, {TIME: -1}),
        ("1/ms", "1/ms", 1000, {TIME: -1}),
        ("ms-1", "1/ms", 1000, {TIME: -1}),
        ("mV/ms", "mV/ms", 1, {**VOLTAGE, TIME: -4}),
        ("mV ms-1", "mV/ms", 1, {**VOLTAGE, TIME: -4}),
        ("mV^2", "mV^2", Fraction(1, 10**6), {key: 2 * power for key, power in VOLTAGE.items()}),
        ("uF/cm**2", "uF/cm^2", Fraction(1, 100), {LENGTH: -4, MASS: -1, TIME: 4, CURRENT: 2}),
        ("mS/cm^2", "mS/cm^2", 10, {**CONDUCTANCE, LENGTH: -4}),
        ("mS/(cm**2*ms)", "mS/cm^2/ms", 10000, {**CONDUCTANCE, LENGTH: -4, TIME: 2}),
        ("mM", "mM", 1, {LENGTH: -3, SUBSTANCE: 1}),
    ],
)
def test_parse(text, symbol, scale, exponents):
    unit = parse_unit(text)
    assert unit.symbol == symbol
    assert unit.scale == scale
    assert unit.dimension == tuple(exponents.get(i, 0) for i in range(7))
    assert unit.dimensionless == (not exponents)
    assert parse_unit(symbol) == unit


@pytest.mark.parametrize("text", [*COMMON_UNITS, *sorted(UNIT_LITERALS)])
def test_common_units_and_literals_are_known(text):
    unit = parse_unit(text)
    assert parse_unit(unit.symbol) == unit


def test_literals_leave_single_letters_to_the_model():
    assert all(len(name) > 1 for name in UNIT_LITERALS)
    assert {"mV", "ms", "nS", "Hz", "Mohm", "cm", "volt", "mvolt"} <= UNIT_LITERALS


@pytest.mark.parametrize(
    "text",
    ["", "mw", "mV +", "mV + ms", "2*mV", "degC", "dB", "pixel", "os.system", "mV**x", "f(mV)",
     "mV**(1/0)", "as", "[mV]"],
)  # fmt: skip
def test_refusal(text):
    with pytest.raises(UnitError, match=r"unknown unit '.*' for v.*common: 1, mV"):
        parse_unit(text, of="v")


@pytest.mark.parametrize(("text", "nearest"), [("mw", "mV"), ("mv", "mV"), ("khz", "kHz")])
def test_nearest(text, nearest):
    with pytest.raises(UnitError, match=rf"did you mean '{nearest}'\?"):
        parse_unit(text)


def test_unit_is_text():
    with pytest.raises(TypeError, match="text such as 'mV', got 3 for v"):
        parse_unit(3, of="v")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "target", "factor"),
    [("mV", "V", 1e-3), ("V", "mV", 1000.0), ("nA*Mohm", "mV", 1.0), ("kHz", "1/ms", 1.0),
     ("uA/cm^2", "nA/mm^2", 10.0), ("radian", "1", 1.0)],
)  # fmt: skip
def test_conversion(source, target, factor):
    assert conversion(source, target) == factor


def test_conversion_refuses_other_dimensions():
    with pytest.raises(UnitError, match="cannot convert mV to pA"):
        conversion("mV", "pA")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (multiply_units("mV", "mV"), "mV^2"),
        (multiply_units("nS", "mV"), "nS*mV"),
        (multiply_units("mV", "1"), "mV"),
        (multiply_units("1/ms", "ms"), "1"),
        (divide_units("mV", "ms"), "mV/ms"),
        (divide_units("1", "ms"), "1/ms"),
        (divide_units("mV", "mV"), "1"),
        (divide_units("mV/ms", "ms"), "mV/ms^2"),
        (power_unit("mV/ms", 2), "mV^2/ms^2"),
        (power_unit("mV", 0), "1"),
        (power_unit("mV^2", Fraction(1, 2)), "mV"),
        (power_unit("ms", Fraction(-1, 2)), "1/ms^(1/2)"),
    ],
)
def test_products(result, expected):
    assert result == expected
    assert parse_unit(result).symbol == expected


def test_roots_are_exact_where_they_can_be():
    assert (parse_unit("mV^2") ** Fraction(1, 2)).scale == Fraction(1, 1000)
    assert (parse_unit("cm") ** Fraction(3, 2)).scale == Fraction(1, 1000)
    assert float((parse_unit("ms") ** Fraction(1, 2)).scale) == 1e-3**0.5


units = st.sampled_from(COMMON_UNITS)


@given(units, units, st.integers(-3, 3))
def test_products_agree_with_scales_and_dimensions(a, b, n):
    one, two = parse_unit(a), parse_unit(b)
    product, quotient, power = one * two, one / two, one**n
    assert product.scale == one.scale * two.scale
    assert quotient.scale == one.scale / two.scale
    assert power.scale == one.scale**n
    assert product.dimension == tuple(
        x + y for x, y in zip(one.dimension, two.dimension, strict=True)
    )
    assert power.dimension == tuple(n * x for x in one.dimension)
    assert (product / two).dimension == one.dimension
    for unit in (product, quotient, power):
        assert parse_unit(unit.symbol) == unit
