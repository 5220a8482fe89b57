"""Physical units as text: their dimensions, exact scales and products."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

from ctsigprop.errors import UnitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pint

__all__ = [
    "COMMON_UNITS",
    "UNIT_LITERALS",
    "Unit",
    "conversion",
    "divide_units",
    "multiply_units",
    "parse_unit",
    "power_unit",
]

COMMON_UNITS = (
    *("1", "mV", "V", "ms", "s", "us", "Hz", "kHz", "nA", "pA", "uA", "A", "nS", "uS", "mS", "S"),
    *("ohm", "kohm", "Mohm", "Gohm", "pF", "nF", "uF", "F", "mM", "uM", "cm", "mm", "um", "m"),
    *("mV/ms", "1/ms", "uA/cm^2", "mS/cm^2", "uF/cm^2"),
)
"""Units of the field, for messages: every unit of the SI, and what is used with it, is accepted."""

_PREFIXES = ("", "f", "p", "n", "u", "m", "k", "M", "G")
_SHORT = ("V", "A", "S", "F", "s", "Hz", "ohm", "m", "mol", "M", "C", "J", "W")
_LONG = ("volt", "amp", "ampere", "siemens", "farad", "second", "hertz", "meter", "metre", "molar")
UNIT_LITERALS = frozenset(
    {"cm", "radian", *(f"{prefix}{unit}" for prefix, unit in product(_PREFIXES, _SHORT + _LONG))}
    - set(_SHORT)
    | {"Hz", "ohm", "mol"}
)
"""Names that stand for a unit inside an equation; single letters are left to the model."""

_BASE = ("length", "mass", "time", "current", "temperature", "substance", "luminosity")


@dataclass(frozen=True)
class Unit:
    """A unit: its symbol, the exponents of its SI base dimensions, and its size in SI.

    ``1 symbol = scale · m^a kg^b s^c A^d K^e mol^f cd^g`` with ``dimension = (a, b, …, g)``.
    Units multiply, divide and take powers.

    Parameters
    ----------
    symbol : str
        UDUNITS symbol that `parse_unit` reads back, such as ``"uF/cm^2"``.
    dimension : tuple of Fraction
        Exponents of length, mass, time, current, temperature, substance and luminosity.
    scale : Fraction
        Exact factor to the SI base unit.

    Examples
    --------
    >>> (parse_unit("nA") * parse_unit("Mohm") / parse_unit("mV")).scale
    Fraction(1, 1)
    """

    symbol: str
    dimension: tuple[Fraction, ...]
    scale: Fraction

    def __mul__(self, other: Unit) -> Unit:
        return _combine(self, other, Fraction(1))

    def __truediv__(self, other: Unit) -> Unit:
        return _combine(self, other, Fraction(-1))

    def __pow__(self, exponent: Fraction | int) -> Unit:
        factors = {name: power * exponent for name, power in _factors(self.symbol, "").items()}
        return _unit(factors)

    @property
    def dimensionless(self) -> bool:
        """Whether every exponent is zero, as for ``"1"``, ``"radian"`` and ``"mV/V"``."""
        return not any(self.dimension)


def parse_unit(text: str, of: str = "") -> Unit:
    """Return the unit that a text names, in the spelling of UDUNITS, Brian2 or pint.

    Parameters
    ----------
    text : str
        ``"1"``, ``"mV"``, ``"uF/cm**2"``, ``"uF cm-2"``, ``"nA*ohm"``, ``"volt"`` …
    of : str
        Name of the quantity, for the message.

    Raises
    ------
    UnitError
        If the text is no unit, or one with an offset or a logarithm (degC, dB).

    Examples
    --------
    >>> parse_unit("volt").symbol, parse_unit("mS/cm**2").symbol
    ('V', 'mS/cm^2')
    >>> parse_unit("mw", of="v")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ctsigprop.errors.UnitError: unknown unit 'mw' for v (did you mean 'mV'?); ...
    """
    if not isinstance(text, str):
        raise TypeError(f"a unit is a text such as 'mV', got {text!r}{_of(of)}")
    return _parse(text, of)


def conversion(source: str, target: str) -> float:
    """Return the factor that turns a number in ``source`` into one in ``target``.

    Raises
    ------
    UnitError
        If the dimensions differ.

    Examples
    --------
    >>> conversion("nA*Mohm", "mV")
    1.0
    """
    given, wanted = parse_unit(source), parse_unit(target)
    if given.dimension != wanted.dimension:
        raise UnitError(f"cannot convert {source} to {target}: the dimensions differ")
    return float(given.scale / wanted.scale)


def multiply_units(a: str, b: str) -> str:
    """Return the symbol of the product of two units.

    >>> multiply_units("mV", "mV"), multiply_units("nS", "mV")
    ('mV^2', 'nS*mV')
    """
    return (parse_unit(a) * parse_unit(b)).symbol


def divide_units(a: str, b: str) -> str:
    """Return the symbol of the quotient of two units.

    >>> divide_units("mV", "ms"), divide_units("1", "ms"), divide_units("mV", "mV")
    ('mV/ms', '1/ms', '1')
    """
    return (parse_unit(a) / parse_unit(b)).symbol


def power_unit(a: str, n: Fraction | int) -> str:
    """Return the symbol of a unit to the power ``n``.

    >>> power_unit("mV/ms", 2)
    'mV^2/ms^2'
    """
    return (parse_unit(a) ** n).symbol


@lru_cache(maxsize=4096)
def _parse(text: str, of: str) -> Unit:
    return _unit(_factors(text, of))


@lru_cache(maxsize=4096)
def _combine(a: Unit, b: Unit, sign: Fraction) -> Unit:
    return _unit(_merge(_factors(a.symbol, ""), _factors(b.symbol, ""), sign))


def _merge(
    a: Mapping[str, Fraction], b: Mapping[str, Fraction], sign: Fraction
) -> dict[str, Fraction]:
    total = dict(a)
    for name, power in b.items():
        total[name] = total.get(name, Fraction(0)) + sign * power
    return {name: power for name, power in total.items() if power}


def _unit(factors: Mapping[str, Fraction]) -> Unit:
    dimension, scale = [Fraction(0)] * len(_BASE), Fraction(1)
    for name, power in factors.items():
        atom = _atom(name)
        if atom is None:
            raise UnitError(f"unknown unit '{name}'")
        dimension = [d + power * a for d, a in zip(dimension, atom.dimension, strict=True)]
        scale *= _rational_power(atom.scale, power)
    return Unit(_symbol(factors), tuple(dimension), scale)


def _symbol(factors: Mapping[str, Fraction]) -> str:
    def part(name: str, power: Fraction) -> str:
        shown = str(power) if power.denominator == 1 else f"({power})"
        return name if power == 1 else f"{name}^{shown}"

    above = "*".join(part(name, power) for name, power in factors.items() if power > 0) or "1"
    return above + "".join(f"/{part(n, -power)}" for n, power in factors.items() if power < 0)


def _rational_power(scale: Fraction, power: Fraction) -> Fraction:
    if power.denominator == 1:
        return scale**power.numerator
    root = [round(part ** (1 / power.denominator)) for part in scale.as_integer_ratio()]
    exact = Fraction(root[0], max(root[1], 1))
    if exact**power.denominator == scale:
        return exact**power.numerator
    return Fraction(math.pow(scale, power))


@lru_cache(maxsize=4096)
def _factors(text: str, of: str) -> Mapping[str, Fraction]:
    """Read a unit text as a product of powers of named units."""
    plain = text.strip().replace("µ", "u").replace("μ", "u").replace("Ω", "ohm").replace("^", "**")
    plain = re.sub(r"([A-Za-z])(-?\d+)", r"\1**\2", plain)  # UDUNITS: cm-2
    plain = re.sub(r"(?<=[\w)])\s+(?=[A-Za-z(])", "*", plain)
    try:
        tree = ast.parse(plain, mode="eval").body
    except SyntaxError:
        raise _unknown(text, of) from None
    return _read(tree, of)


def _read(node: ast.expr, of: str) -> dict[str, Fraction]:
    match node:
        case ast.Constant(value=1) | ast.Name(id="dimensionless"):
            return {}
        case ast.Name(id=name):
            atom = _atom(name)
            if atom is None:
                raise _unknown(name, of)
            return {atom.symbol: Fraction(1)}
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _merge(_read(left, of), _read(right, of), Fraction(1))
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _merge(_read(left, of), _read(right, of), Fraction(-1))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            power = _number(right)
            if power is not None:
                return {name: p * power for name, p in _read(left, of).items() if power}
    raise _unknown(ast.unparse(node), of)


def _number(node: ast.expr) -> Fraction | None:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(repr(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _number(operand)
            return None if inner is None else -inner
        case ast.BinOp(left=ast.Constant(value=int(a)), op=ast.Div(), right=ast.Constant(int(b))):
            return Fraction(a, b) if b else None
    return None


@lru_cache(maxsize=4096)
def _atom(name: str) -> Unit | None:
    """Look one named unit up in pint; None where it has none, or one that is not a pure scale."""
    import pint

    registry = _registry()
    try:
        found = registry.parse_units(name)
        symbol = registry.get_symbol(name).replace("µ", "u").replace("Ω", "ohm")
    except (pint.errors.PintError, AttributeError, ValueError):
        return None
    scale = Fraction(str(registry.get_base_units(found, check_nonmult=False)[0]))
    dimensions = {key.strip("[]"): str(power) for key, power in found.dimensionality.items()}
    if any(unit in _customary() for _, unit, _ in registry.parse_unit_name(name)):
        return None
    multiplicative = all(registry._units[part].is_multiplicative for part in found._units)
    if not multiplicative or set(dimensions) - set(_BASE):
        return None
    exponents = tuple(Fraction(dimensions.get(base, 0)) for base in _BASE)
    return Unit(symbol if symbol.isidentifier() else name, exponents, scale)


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry[Fraction]:
    import pint

    return pint.UnitRegistry(non_int_type=Fraction)


@lru_cache(maxsize=1)
def _customary() -> frozenset[str]:
    """Name the units that pint knows beyond the SI and what is used with it: feet, furlongs."""
    registry = _registry()
    groups = set(registry._groups) - {"root", "international"}
    return frozenset(
        name for group in groups for name in registry.get_group(group).non_inherited_unit_names
    )


def _unknown(text: str, of: str) -> UnitError:
    def likeness(unit: str) -> tuple[bool, float]:
        ratio = SequenceMatcher(None, text.lower(), unit.lower()).ratio()
        return len(unit) == len(text), ratio

    nearest = max(COMMON_UNITS, key=likeness)
    hint = f" (did you mean '{nearest}'?)" if likeness(nearest)[1] >= 0.5 else ""
    return UnitError(f"unknown unit '{text}'{_of(of)}{hint}; common: {', '.join(COMMON_UNITS)}")


def _of(name: str) -> str:
    return f" for {name}" if name else ""
