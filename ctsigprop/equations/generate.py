"""Functions generated from checked code: torch, numba and Brian2's text."""

from __future__ import annotations

import ast
import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ctsigprop.equations.language import EXPREL_PRIME, TRANSCENDENTAL, name_node, names_in

__all__ = ["brian2_text", "native_function", "scalar_text", "share", "torch_function"]


def share(codes: Sequence[ast.expr], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return assignments and results in which parts that occur twice are computed once.

    The first codes are assigned to the names, the others are the results.
    """
    codes = [_TypedInt().visit(copy.deepcopy(code)) for code in codes]
    counts = Counter(
        ast.dump(node)
        for code in codes
        for node in ast.walk(code)
        if isinstance(node, ast.BinOp | ast.Call) and names_in(node)
    )
    lines: list[str] = []
    shared: dict[str, str] = {}

    class Sharing(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            key = ast.dump(node) if isinstance(node, ast.BinOp | ast.Call) else ""
            if counts[key] < 2:
                return self.generic_visit(node)
            if key not in shared:
                code = ast.unparse(self.generic_visit(node))
                shared[key] = f"_{len(shared)}"
                lines.append(f"{shared[key]} = {code}")
            return name_node(shared[key])

    for name, code in zip(names, codes, strict=False):
        written = ast.unparse(Sharing().visit(code))
        lines.append(f"{name} = {written}")
    return lines, [ast.unparse(Sharing().visit(code)) for code in codes[len(names) :]]


class _TypedInt(ast.NodeTransformer):
    """Give int(condition) the quantities whose floating type its result takes."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "int":
            names = names_in(node)
            node.args += [name_node(name) for name in sorted(names - {"t"} or names)]
        return node


def torch_function(
    names: Sequence[str], lines: Sequence[str], result: str
) -> Callable[[Tensor, Mapping[str, Tensor]], Any]:
    """Define ``f(t, values)``; its docstring is its source."""
    loads = [f"{name} = _values[{name!r}]" for name in dict.fromkeys(names) if name != "t"]
    source = "\n    ".join(["def f(t, _values):", *loads, *lines, f"return {result}"])
    function: Callable[[Tensor, Mapping[str, Tensor]], Any] = _define(source, _TORCH)
    function.__doc__ = source
    return function


def native_function(
    names: Sequence[str], lines: Sequence[str], results: Sequence[str], arguments: Sequence[str]
) -> Callable[..., None]:
    """Define and compile ``f(t, y, p, out)`` with one result for each row of ``y`` and ``out``."""
    functions = _native_functions()
    count = len(results)
    rows = [f"_y[{i}, _k]" for i in range(count)]
    rows += [f"_p[{i}, _k]" for i in range(len(arguments) - count)]
    where = dict(zip(arguments, rows, strict=True))
    body = [f"{name} = {where[name]}" for name in names if name != "t"]
    body += [*lines, *(f"_out[{i}, _k] = {result}" for i, result in enumerate(results))]
    loop = "def f(t, _y, _p, _out):\n    for _k in range(_y.shape[1]):\n        "
    compiled: Callable[..., None] = functions["_jit"](
        _define(loop + "\n        ".join(body), functions)
    )
    return compiled


def scalar_text(text: str, rename: Mapping[str, str]) -> str:
    """Write a line or a result of `share` for single numbers, under other names.

    Conditions become ``holds(...)``, powers products, roots, or ``power(x, y)``, and
    1/(1 + exp(x)) becomes ``fermi(x)``.
    """
    return ast.unparse(_Scalar(rename).visit(ast.parse(text)))


class _Scalar(ast.NodeTransformer):
    def __init__(self, rename: Mapping[str, str]) -> None:
        self.rename = rename

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.parse(self.rename.get(node.id, node.id), mode="eval").body

    def visit_Call(self, node: ast.Call) -> ast.expr:
        function = node.func
        if not isinstance(function, ast.Name):
            raise TypeError(f"'{ast.unparse(node)}' is not in the language of equations")
        arguments = [self.visit(argument) for argument in node.args]
        if function.id == "int":
            return ast.Call(name_node("holds"), arguments[:1], [])
        return ast.Call(name_node(function.id), arguments, [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.BinOp(
                ast.Constant(1),
                ast.Div(),
                ast.BinOp(ast.Constant(1), ast.Add(), ast.Call(ast.Name("exp"), arguments)),
            ):
                return ast.Call(name_node("fermi"), arguments, [])
        if not isinstance(node.op, ast.Pow):
            return node
        exponent = _constant(node.right)
        if exponent == 0.5:
            return ast.Call(name_node("sqrt"), [node.left], [])
        if exponent is None or exponent != int(exponent) or not 1 <= abs(exponent) <= LONGEST:
            return ast.Call(name_node("power"), [node.left, node.right], [])
        product = node.left
        for _ in range(int(abs(exponent)) - 1):
            product = ast.BinOp(product, ast.Mult(), node.left)
        return product if exponent > 0 else ast.BinOp(ast.Constant(1.0), ast.Div(), product)


LONGEST = 8  # a product that is written out


def _constant(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _constant(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    return None


def brian2_text(code: ast.expr, rename: Mapping[str, str]) -> str:
    """Write checked code as a Brian2 expression of plain numbers."""
    return ast.unparse(_Brian2(rename).visit(copy.deepcopy(code)))


class _Brian2(ast.NodeTransformer):
    def __init__(self, rename: Mapping[str, str]) -> None:
        self.rename = rename

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id == "t":
            return ast.BinOp(node, ast.Div(), name_node("second"))
        return name_node(self.rename.get(node.id, node.id))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            op = ast.And() if isinstance(node.op, ast.BitAnd) else ast.Or()
            return ast.BoolOp(op, [node.left, node.right])
        return node


def _define(source: str, functions: Mapping[str, Any]) -> Any:
    # torch imports some of its own modules late, from whatever frame first needs them
    builtins = {"range": range, "__import__": __import__}
    namespace = {**functions, "__builtins__": builtins}
    exec(compile(source, "<equations>", "exec"), namespace)
    return namespace["f"]


def _exprel(x: Tensor) -> Tensor:
    return _near_zero(x, 0.02, _EXPREL, lambda far: torch.expm1(far) / far)


def _exprel_prime(x: Tensor) -> Tensor:
    return _near_zero(x, 0.1, _EXPREL_PRIME, lambda far: (far.exp() - torch.expm1(far) / far) / far)


_EXPREL = [1 / math.factorial(k + 1) for k in range(8)]
_EXPREL_PRIME = [(k + 1) / math.factorial(k + 2) for k in range(11)]


def _near_zero(
    x: Tensor, radius: float, series: Sequence[float], outside: Callable[[Tensor], Tensor]
) -> Tensor:
    """Evaluate by a series near zero; the branch not taken stays finite, for the gradient."""
    small = torch.abs(x) < radius
    near, far = torch.where(small, x, 0.0), torch.where(small, 1.0, x)
    total = series[-1] * near + series[-2]
    for coefficient in reversed(series[:-2]):
        total = total * near + coefficient
    return torch.where(small, total, outside(far))


def _clip(x: Tensor, low: Any, high: Any) -> Tensor:
    return torch.clamp(torch.clamp(x, min=low), max=high)


def _spread(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value + torch.zeros_like(like)
    return torch.full_like(like, value)


_TORCH: dict[str, Any] = {
    **{name: getattr(torch, name) for name in (*TRANSCENDENTAL[:-1], "sqrt", "abs", "sign")},
    "exprel": _exprel,
    EXPREL_PRIME: _exprel_prime,
    "clip": _clip,
    "int": lambda condition, *like: condition.to(max(like, key=Tensor.dim).dtype),
    "_spread": _spread,
}


@lru_cache(maxsize=1)
def _native_functions() -> dict[str, Any]:
    try:
        from numba import njit
    except ImportError:
        raise ImportError("compiled equations need numba: pip install ctsigprop[native]") from None

    return {
        **{name: getattr(math, name) for name in (*TRANSCENDENTAL[:-2], "sqrt")},
        "arctan": math.atan,
        "abs": abs,
        "exprel": njit(lambda x: math.expm1(x) / x if x != 0 else 1.0),
        "sign": njit(lambda x: 1.0 if x > 0 else -1.0 if x < 0 else x),
        "clip": njit(lambda x, low, high: min(max(x, low), high)),
        "int": njit(lambda condition, *_: 1.0 if condition else 0.0),
        "_jit": njit(error_model="numpy"),
    }
