"""Checked code as exact sympy expressions, and back."""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ctsigprop.equations.language import (
    EXPREL_PRIME,
    FUNCTIONS,
    TRANSCENDENTAL,
    Quantity,
    Reader,
    name_node,
    names_in,
    parse_expression,
)

__all__ = ["from_symbolic", "linear_coefficient", "symbol", "to_symbolic"]


def symbol(name: str) -> Any:
    """Return the sympy symbol of a name."""
    import sympy

    return sympy.Symbol(name, real=True)


def to_symbolic(code: ast.expr, known: Mapping[str, Any]) -> Any:
    """Return checked code as a sympy expression, the known names written out."""
    names = {name: known.get(name, symbol(name)) for name in names_in(code)}
    tree = ast.fix_missing_locations(ast.Expression(_Exact().visit(copy.deepcopy(code))))
    functions = {"__builtins__": {}, **_functions()}
    return eval(compile(tree, "<equations>", "eval"), functions, names)


def from_symbolic(expression: Any, symbols: Mapping[str, Quantity]) -> ast.expr:
    """Return a sympy expression as checked code."""
    unitless = {name: Quantity(quantity.code, None) for name, quantity in symbols.items()}
    tree = parse_expression(_printer().doprint(expression))
    return Reader(unitless, (*FUNCTIONS, EXPREL_PRIME)).read(tree).code


def linear_coefficient(expression: Any, x: Any) -> Any:
    """Return the coefficient of x in the expanded expression, without terms that hold x again."""
    import sympy

    expanded = expression.expand(power_exp=False, power_base=False, log=False)
    terms = (term / x for term in sympy.Add.make_args(expanded))
    return sympy.Add(*(term for term in terms if not term.has(x)))


class _Exact(ast.NodeTransformer):
    """Make numbers exact and equalities symbolic."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Call(name_node("_exact"), [ast.Constant(repr(node.value))], [])

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        relation = {ast.Eq: "_Eq", ast.NotEq: "_Ne"}.get(type(node.ops[0]))
        if relation is None:
            return node
        return ast.Call(name_node(relation), [node.left, *node.comparators], [])


@lru_cache(maxsize=1)
def _functions() -> dict[str, Any]:
    import sympy
    from sympy import Function, Integer

    class Int(Function):  # type: ignore[misc]
        is_real = True

        @classmethod
        def eval(cls, condition: Any) -> Any:
            if condition in (sympy.true, sympy.false):
                return Integer(condition == sympy.true)
            return None

        def _eval_derivative(self, _: Any) -> Any:
            return Integer(0)

    class Sign(Function):  # type: ignore[misc]
        is_real = True

        def fdiff(self, _: int = 1) -> Any:
            return Integer(0)

    class Abs(Function):  # type: ignore[misc]
        is_real = True

        def fdiff(self, _: int = 1) -> Any:
            return Sign(self.args[0])

    class Clip(Function):  # type: ignore[misc]
        is_real = True

        def fdiff(self, argindex: int = 1) -> Any:
            x, low, high = self.args
            return Int(((x >= low) & (x <= high), x < low, x > high)[argindex - 1])

    class ExprelPrime(Function):  # type: ignore[misc]
        is_real = True

        def fdiff(self, _: int = 1) -> Any:
            raise ValueError("exprel has one symbolic derivative; torch gives the higher ones")

    class Exprel(Function):  # type: ignore[misc]
        is_real = True

        def fdiff(self, _: int = 1) -> Any:
            return ExprelPrime(self.args[0])

    return {
        **{name: getattr(sympy, name) for name in (*TRANSCENDENTAL[:-2], "sqrt")},
        "arctan": sympy.atan,
        "exprel": Exprel,
        EXPREL_PRIME: ExprelPrime,
        "abs": Abs,
        "sign": Sign,
        "clip": Clip,
        "int": Int,
        "_exact": lambda text: sympy.oo if text == "inf" else sympy.Rational(text),
        "_Eq": sympy.Eq,
        "_Ne": sympy.Ne,
    }


@lru_cache(maxsize=1)
def _printer() -> Any:
    import sympy
    from sympy.printing.str import StrPrinter

    names = {function: name for name, function in _functions().items()}
    names |= {sympy.Abs: "abs", sympy.sign: "sign"}

    class Printer(StrPrinter):  # type: ignore[misc]
        """Write sympy in the language of equations."""

        def _print_Exp1(self, _: Any) -> str:
            return repr(math.e)

        def _print_Infinity(self, _: Any) -> str:
            return "inf"

        def _print_Relational(self, relation: Any) -> str:
            left, right = (self._print(side) for side in relation.args)
            return f"({left}) {relation.rel_op} ({right})"

        def _print_And(self, condition: Any) -> str:
            return " and ".join(f"({self._print(part)})" for part in condition.args)

        def _print_Or(self, condition: Any) -> str:
            return " or ".join(f"({self._print(part)})" for part in condition.args)

        def _print_Function(self, call: Any) -> str:
            return f"{names[call.func]}({', '.join(map(self._print, call.args))})"

    return Printer()
