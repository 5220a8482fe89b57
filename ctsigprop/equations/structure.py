"""A weight's derivative taken apart: outer products of the two sides, and a decay."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ctsigprop.equations.symbolic import symbol

__all__ = ["Factor", "Structure", "take_apart"]

_Term = tuple[Any, Any, Any]
_SCALAR, _POST, _PRE = range(3)


@dataclass(frozen=True)
class Factor:
    """A part of a derivative: a function of ``(t, values)``, and the code that it was made from."""

    function: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    code: ast.expr

    def __call__(self, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Return its value."""
        return self.function(t, values)


@dataclass(frozen=True)
class Structure:
    """A weight's derivative as outer products and a decay.

    ``dw/dt = sum_k post_k ⊗ pre_k + (decay_scalar + decay_post + decay_pre) · w``. Every factor
    is a function of ``(t, values)``, or None where it is absent: 1 in a product, 0 in the decay.
    Coefficients are part of ``post_k``; a decay that shrinks the weight is negative.
    """

    outer: tuple[tuple[Factor | None, Factor | None], ...]
    decay_scalar: Factor | None
    decay_post: Factor | None
    decay_pre: Factor | None


def take_apart(
    rate: Any, post: Collection[str], pre: Collection[str], weight: str
) -> tuple[list[tuple[Any, Any]], list[Any]] | None:
    """Return the (post, pre) factors and the scalar, post and pre decay of a sympy rate.

    None where the rate has no such form. The number of products is the least found by collecting
    terms on either side and by factoring.
    """
    import sympy

    w = symbol(weight)
    slope, rest = rate.diff(w), rate.subs(w, 0)
    if slope.has(w) or sympy.expand(rate - rest - slope * w) != 0:
        return None
    drives, decays = _terms(rest, post, pre), _terms(slope, post, pre)
    if drives is None or decays is None or any(p != 1 and q != 1 for _, p, q in decays):
        return None
    candidates = [_collect(_collect(drives, _PRE), _POST), _collect(_collect(drives, _POST), _PRE)]
    if min(map(len, candidates)) > 1:
        candidates.append(_terms(sympy.factor(rest), post, pre) or drives)
    pairs = [(c * p, q) for c, p, q in min(candidates, key=len)]
    sides = {_SCALAR: sympy.Integer(0), _POST: sympy.Integer(0), _PRE: sympy.Integer(0)}
    for c, p, q in decays:
        sides[_POST if p != 1 else _PRE if q != 1 else _SCALAR] += c * p * q
    return pairs, list(sides.values())


def _terms(expression: Any, post: Collection[str], pre: Collection[str]) -> list[_Term] | None:
    """Return terms (scalar, post factor, pre factor) that add up to the expression."""
    from sympy import Add, expand

    terms: list[_Term] = []
    for whole in Add.make_args(expression):
        split = _split(whole, post, pre)
        parts = [split] if split else [_split(p, post, pre) for p in Add.make_args(expand(whole))]
        for part in parts:
            if part is None:
                return None
            terms.append(part)
    return [term for term in terms if term[_SCALAR] != 0]


def _split(term: Any, post: Collection[str], pre: Collection[str]) -> _Term | None:
    from sympy import Integer, Mul

    factors = [Integer(1)] * 3
    for factor in Mul.make_args(term):
        names = {free.name for free in factor.free_symbols}
        on_post, on_pre = not names.isdisjoint(post), not names.isdisjoint(pre)
        if on_post and on_pre:
            return None
        side = _POST if on_post else _PRE if on_pre else _SCALAR
        factors[side] = factors[side] * factor
    return factors[_SCALAR], factors[_POST], factors[_PRE]


def _collect(terms: Sequence[_Term], by: int) -> list[_Term]:
    """Add up the terms that share their factor on one side."""
    sums: dict[Any, Any] = {}
    for term in terms:
        sums[term[by]] = sums.get(term[by], 0) + term[_SCALAR] * term[_POST + _PRE - by]
    collected: list[_Term] = []
    for key, total in sums.items():
        sign = -1 if total.could_extract_minus_sign() else 1  # x - y and y - x are one factor
        if total != 0:
            pair = (key, sign * total) if by == _POST else (sign * total, key)
            collected.append((sign, *pair))
    return collected
