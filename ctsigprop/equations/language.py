"""The language of equations: statements, and expressions checked node by node."""

from __future__ import annotations

import ast
import copy
import keyword
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

from ctsigprop.errors import UnitError, unknown
from ctsigprop.units import UNIT_LITERALS, Unit, parse_unit

__all__ = [
    "EXPREL_PRIME",
    "FLAGS",
    "FUNCTIONS",
    "TRANSCENDENTAL",
    "Quantity",
    "Reader",
    "Statement",
    "check_name",
    "is_builtin",
    "name_node",
    "names_in",
    "parse_expression",
    "parse_statements",
    "quoting",
    "rescaled",
]

TRANSCENDENTAL = ("exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arctan", "exprel")
FUNCTIONS = (*TRANSCENDENTAL, "sqrt", "abs", "sign", "clip", "int")
"""Functions of the language: ``clip(x, low, high)``, ``exprel(x) = (exp(x) - 1)/x``."""

EXPREL_PRIME = "exprel_prime"
"""The derivative of exprel: in the derivatives of a text, never in the text."""

FLAGS = ("post", "pre")
"""Flags of a differential equation: the variable lives on the post- or presynaptic side."""

_CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf}
_RESERVED = {*FUNCTIONS, EXPREL_PRIME, "t", "pi", "inf"}
_NAME = r"[A-Za-z]\w*"
_STATEMENT = re.compile(
    rf"(?:d(?P<differential>{_NAME})\s*/\s*dt\s*=|(?P<subexpression>{_NAME})\s*="
    rf"|(?P<declared>{_NAME})\s*:)(?P<rest>.*)",
    re.ASCII,
)


@dataclass(frozen=True)
class Statement:
    """One statement of a text: its kind, the name that it defines, and what it says of it."""

    kind: str
    name: str
    tree: ast.expr | None
    unit: str | None
    flags: frozenset[str]
    source: str


def parse_statements(text: str, units_optional: bool) -> list[Statement]:
    """Return the statements of a text; every name is defined once."""
    statements: dict[str, Statement] = {}
    for source in _split(text):
        with quoting(source):
            statement = _parse_statement(source, units_optional)
            if statement.name in statements:
                raise ValueError(f"'{statement.name}' is defined twice")
            statements[statement.name] = statement
    if not any(statement.kind == "differential" for statement in statements.values()):
        raise ValueError(f"no differential equation such as 'dv/dt = -v/tau : 1' in {text!r}")
    return list(statements.values())


def parse_expression(text: str) -> ast.expr:
    """Return the syntax tree of an expression, not yet checked."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"not an expression ({error.msg}): '{text.strip()}'") from None


@contextmanager
def quoting(source: str) -> Iterator[None]:
    """Let the errors inside quote the statement that they are about."""
    try:
        yield
    except RecursionError:
        raise ValueError(f"{source} — the expression is nested too deeply") from None
    except ValueError as error:
        raise type(error)(f"{source} — {error}") from None


def check_name(name: str) -> None:
    """Refuse a name that a quantity cannot have."""
    if name in _RESERVED or keyword.iskeyword(name) or not re.fullmatch(_NAME, name, re.ASCII):
        raise ValueError(f"'{name}' cannot name a quantity: it is reserved, or not a plain name")


def is_builtin(name: str) -> bool:
    """Return whether a name means something, or is refused, where the text does not define it."""
    return name in _CONSTANTS or name in UNIT_LITERALS or name == "t" or name.startswith("_")


def names_in(node: ast.expr) -> set[str]:
    """Return the names of an expression, functions left out."""
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names - {*FUNCTIONS, EXPREL_PRIME}


def name_node(name: str) -> ast.Name:
    """Return the code that reads a name."""
    return ast.Name(name, ast.Load())


def _split(text: str) -> Iterator[str]:
    statement = ""
    for line in text.splitlines():
        statement = f"{statement} {line.partition('#')[0].strip()}".strip()
        if statement and statement.count("(") <= statement.count(")"):
            yield statement
            statement = ""
    if statement:
        yield statement


def _parse_statement(source: str, units_optional: bool) -> Statement:
    match = _STATEMENT.fullmatch(source)
    if match is None:
        raise ValueError("expected 'dv/dt = … : unit', 'name = … : unit' or 'name : unit'")
    kind = next(k for k in ("differential", "subexpression", "declared") if match[k])
    name, expression, tail = match[kind], None, match["rest"]
    check_name(name)
    if kind != "declared":
        before, colon, after = tail.rpartition(":")
        expression, tail = (before, after) if colon else (tail, "")
    tail = tail.strip()
    flagged = re.search(r"(?:^|\s)\(([\w\s,]*)\)$", tail)
    flags = frozenset(re.findall(r"\w+", flagged[1])) if flagged else frozenset[str]()
    accepted = FLAGS if kind == "differential" else ()
    for flag in sorted(flags - set(accepted)):
        raise ValueError(unknown("flag", flag, accepted))
    unit = tail[: flagged.start()].strip() if flagged else tail
    if unit:
        parse_unit(unit, of=name)
    elif not units_optional:
        raise ValueError(f"'{name}' has no unit: write ': 1' where it is dimensionless")
    tree = None if expression is None else parse_expression(expression)
    return Statement(kind, name, tree, unit or None, flags, source)


@dataclass(frozen=True)
class Quantity:
    """A checked expression: code for its number, and the unit in which the number is.

    Where the unit is unknown (None) the number is in the unit of whatever it meets.
    """

    code: ast.expr
    unit: Unit | None


def rescaled(code: ast.expr, factor: Fraction) -> ast.expr:
    """Return code for ``factor`` times a number; plain numbers are multiplied exactly."""
    if factor == 1:
        return code
    if isinstance(code, ast.Constant):
        return _number(float(Fraction(repr(code.value)) * factor))
    if isinstance(code, ast.UnaryOp):
        return ast.UnaryOp(code.op, rescaled(code.operand, factor))
    if factor.numerator == 1:
        return ast.BinOp(code, ast.Div(), _number(float(factor.denominator)))
    return ast.BinOp(code, ast.Mult(), _number(float(factor)))


def _number(value: float) -> ast.expr:
    if math.isnan(value):
        raise ValueError("a constant part of the expression is not a number")
    return ast.UnaryOp(ast.USub(), ast.Constant(-value)) if value < 0 else ast.Constant(value)


def _value(code: ast.expr) -> float:
    """Return the number for which a checked code without names stands."""
    tree = ast.fix_missing_locations(ast.Expression(copy.deepcopy(code)))
    try:
        return float(eval(compile(tree, "<number>", "eval"), {"__builtins__": {}}, _SCALAR))
    except (ArithmeticError, TypeError, ValueError):
        raise ValueError(f"'{ast.unparse(code)}' is not a finite real number") from None


_SCALAR: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in (*TRANSCENDENTAL[:-2], "sqrt")},
    "arctan": math.atan,
    "exprel": lambda x: math.expm1(x) / x if x else 1.0,
    "abs": abs,
    "sign": lambda x: (x > 0) - (x < 0),
    "clip": lambda x, low, high: min(max(x, low), high),
    "int": int,
}

_UNITY = ast.dump(ast.Constant(1))
_NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


class Reader:
    """Check a syntax tree node by node, and write it anew for numbers in the declared units.

    Parameters
    ----------
    symbols : mapping of str to Quantity
        What every name stands for.
    functions : collection of str
        The functions that may be called.
    """

    def __init__(
        self, symbols: Mapping[str, Quantity], functions: Collection[str] = FUNCTIONS
    ) -> None:
        self.symbols = symbols
        self.functions = functions

    def read(self, node: ast.expr) -> Quantity:
        """Return the quantity that an expression stands for; refuse all that is not language."""
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                code = node if abs(value) < 2**53 else _number(float(value))
                return Quantity(code, None if value in (0, math.inf) else parse_unit("1"))
            case ast.Name(id=name):
                return self._name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.read(operand)
                return Quantity(ast.UnaryOp(ast.USub(), inner.code), inner.unit)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.read(operand)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
                (a, b), unit = self._in_one_unit([left, right], "add", node)
                return Quantity(ast.BinOp(a, op, b), unit)
            case ast.BinOp(op=ast.Mult() | ast.Div()):
                return self._product(node)
            case ast.BinOp(op=ast.Pow()):
                return self._power(node)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._call(name, args, node)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                raise ValueError(f"a condition stands inside int(...): '{ast.unparse(node)}'")
        raise ValueError(f"'{ast.unparse(node)}' is not in the language of equations")

    def _name(self, name: str) -> Quantity:
        if name in self.symbols:
            return self.symbols[name]
        if name in _CONSTANTS:
            unit = None if name == "inf" else parse_unit("1")
            return Quantity(ast.Constant(_CONSTANTS[name]), unit)
        if name in UNIT_LITERALS:
            return Quantity(ast.Constant(1), parse_unit(name))
        raise ValueError(unknown("symbol", name, self.symbols))

    def _product(self, node: ast.BinOp) -> Quantity:
        a, b, times = self.read(node.left), self.read(node.right), isinstance(node.op, ast.Mult)
        unit = None
        if a.unit is not None and b.unit is not None:
            unit = a.unit * b.unit if times else a.unit / b.unit
        if not times and not names_in(b.code) and _value(b.code) == 0:
            raise ValueError(f"division by zero: '{ast.unparse(node)}'")
        if ast.dump(b.code) == _UNITY:
            return Quantity(a.code, unit)
        if times and ast.dump(a.code) == _UNITY:
            return Quantity(b.code, unit)
        return Quantity(ast.BinOp(a.code, node.op, b.code), unit)

    def _power(self, node: ast.BinOp) -> Quantity:
        base, exponent = self.read(node.left), self._plain(node.right, "an exponent")
        unit, one = base.unit, parse_unit("1")
        if unit is not None and unit.dimensionless:
            base, unit = Quantity(rescaled(base.code, unit.scale), one), one
        elif unit is not None:
            power = None if names_in(exponent) else Fraction(_value(exponent))
            if power is None or abs(power) > 100:
                raise UnitError(
                    f"the exponent of a quantity in {unit.symbol} is a number up to 100, "
                    f"not '{ast.unparse(node.right)}'"
                )
            unit **= power.limit_denominator(1000)
        if names_in(base.code) or names_in(exponent):
            return Quantity(ast.BinOp(base.code, ast.Pow(), exponent), unit)
        number = ast.BinOp(_number(_value(base.code)), ast.Pow(), exponent)  # floats: no huge ints
        return Quantity(_number(_value(number)), unit)

    def _call(self, name: str, args: list[ast.expr], node: ast.expr) -> Quantity:
        if name not in self.functions:
            raise ValueError(unknown("function", name, FUNCTIONS))
        expected = 3 if name == "clip" else 1
        if len(args) != expected:
            raise ValueError(f"{name} takes {expected} argument(s): '{ast.unparse(node)}'")
        unit: Unit | None = parse_unit("1")
        if name == "int":
            codes = [self._condition(args[0])]
        elif name == "clip":
            codes, unit = self._in_one_unit(args, "compare", node)
            if not names_in(codes[0]) and any(map(names_in, codes)):
                raise ValueError(f"clip takes a quantity, then its bounds: '{ast.unparse(node)}'")
        elif name in ("sqrt", "abs", "sign"):
            inner = self.read(args[0])
            codes = [inner.code]
            if name != "sign":
                unit = inner.unit
            if name == "sqrt" and unit is not None:
                unit **= Fraction(1, 2)
        else:
            codes = [self._plain(args[0], name)]
        code: ast.expr = ast.Call(name_node(name), codes, [])
        return Quantity(code if names_in(code) else _number(_value(code)), unit)

    def _plain(self, node: ast.expr, what: str) -> ast.expr:
        value = self.read(node)
        if value.unit is None:
            return value.code
        if not value.unit.dimensionless:
            raise UnitError(
                f"{what} takes a dimensionless number, "
                f"'{ast.unparse(node)}' is in {value.unit.symbol}"
            )
        return rescaled(value.code, value.unit.scale)

    def _in_one_unit(
        self, nodes: Sequence[ast.expr], verb: str, whole: ast.expr
    ) -> tuple[list[ast.expr], Unit | None]:
        """Return codes in one unit: that of the first quantity that is more than a number."""
        values = [self.read(node) for node in nodes]
        known = [(value.code, value.unit) for value in values if value.unit is not None]
        if not known:
            return [value.code for value in values], None
        unit = next((unit for code, unit in known if names_in(code)), known[0][1])
        for _, other in known:
            if other.dimension != known[0][1].dimension:
                a, b = known[0][1].symbol, other.symbol
                raise UnitError(f"cannot {verb} {a} and {b} in '{ast.unparse(whole)}'")
        codes = [rescaled(v.code, v.unit.scale / unit.scale) if v.unit else v.code for v in values]
        return codes, unit

    def _condition(self, node: ast.expr, negated: bool = False) -> ast.expr:
        """Write a condition with ``&`` and ``|``, which tensors and sympy understand."""
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._condition(operand, not negated)
            case ast.BoolOp(op=op, values=values):
                parts = [self._condition(value, negated) for value in values]
                conjunction = isinstance(op, ast.And)
            case ast.Compare(left=left, ops=ops, comparators=right):
                pairs = zip(ops, [left, *right], right, strict=False)
                parts = [self._comparison(*pair, negated, node) for pair in pairs]
                conjunction = True
            case _:
                raise ValueError(f"int takes a condition such as 'v > 0': '{ast.unparse(node)}'")
        join = ast.BitAnd() if conjunction != negated else ast.BitOr()
        return reduce(lambda a, b: ast.BinOp(a, join, b), parts)

    def _comparison(
        self, op: ast.cmpop, left: ast.expr, right: ast.expr, negated: bool, whole: ast.expr
    ) -> ast.expr:
        if type(op) not in _NEGATED:
            raise ValueError(f"'{ast.unparse(whole)}' is not a comparison of numbers")
        (a, b), _ = self._in_one_unit([left, right], "compare", whole)
        kind = _NEGATED[type(op)] if negated else type(op)
        return ast.Compare(a, [kind()], [b])
