"""A variable's derivative taken apart: a leak, what enters as it is, and what bends."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from ctsigprop.equations.symbolic import symbol

__all__ = ["Bent", "LeakFactors", "LeakTerms", "leak_terms"]


@dataclass(frozen=True)
class Bent:
    """height·φ(port + shift) in symbols; without a kind, `whole` is all of it."""

    port: str
    kind: str
    shift: Any
    height: Any
    low: float
    high: float
    whole: Any


@dataclass
class LeakTerms:
    """decay·s + rest + Σ gains·ports + bent, in symbols of parameters."""

    decay: Any
    rest: Any
    gains: dict[str, Any] = field(default_factory=dict)
    bent: Bent | None = None


def leak_terms(rate: Any, variable: str, ports: Collection[str]) -> LeakTerms | None:
    """Return a sympy rate as a leak and its inputs, or None where it has no such form."""
    import sympy

    s = symbol(variable)
    decay = rate.diff(s)
    names = {free.name for free in decay.free_symbols}
    if rate.has(symbol("t")) or names & {variable, *ports}:
        return None
    found = LeakTerms(decay, sympy.Integer(0))
    bent: list[tuple[Any, Any]] = []
    for term in _terms(rate.subs(s, 0)):
        height, core = sympy.Integer(1), sympy.Integer(1)
        for factor in sympy.Mul.make_args(term):
            if {free.name for free in factor.free_symbols} & set(ports):
                core = core * factor
            else:
                height = height * factor
        if core == 1:
            found.rest = found.rest + height
        elif core.is_Symbol:
            found.gains[core.name] = found.gains.get(core.name, 0) + height
        else:
            bent.append((height, core))
    if not bent:
        return found
    whole = sum(height * core for height, core in bent)
    heard = {free.name for free in whole.free_symbols} & set(ports)
    if len(heard) != 1:
        return None
    port = heard.pop()
    if len(bent) == 1:
        found.bent = _named(port, *bent[0], whole)
    if found.bent is None:
        found.bent = Bent(port, "", sympy.Integer(0), sympy.Integer(1), 0.0, 0.0, whole)
    return found


def _terms(whole: Any) -> list[Any]:
    """Return what adds up to an expression; denominators stay as they are."""
    if whole.is_Add:
        return [term for part in whole.args for term in _terms(part)]
    if whole.is_Mul:
        for k, factor in enumerate(whole.args):
            if factor.is_Add:
                beside = whole.func(*whole.args[:k], *whole.args[k + 1 :])
                return [term for part in factor.args for term in _terms(beside * part)]
    return [whole]


def _named(port: str, height: Any, core: Any, whole: Any) -> Bent | None:
    """Return a nonlinearity that is known by its name."""
    import sympy

    kind, inner, low, high = "", None, -float("inf"), float("inf")
    if core.func.__name__ == "Clip" and all(bound.is_number for bound in core.args[1:]):
        kind, inner = "clip", core.args[0]
        low, high = (float(bound) for bound in core.args[1:])
    elif core.func is sympy.tanh:
        kind, inner = "tanh", core.args[0]
    elif core.is_Pow and core.exp == -1 and isinstance(core.base - 1, sympy.exp):
        kind, inner = "logistic", -(core.base - 1).args[0]
    if inner is None:
        return None
    shift = sympy.expand(inner - symbol(port))
    if shift.has(symbol(port)):
        return None
    return Bent(port, kind, shift, height, low, high, whole)


@dataclass(frozen=True)
class LeakFactors:
    """The parts of `LeakTerms` as functions of ``(t, values)``; `bent` has functions, too."""

    decay: Any
    rest: Any
    gains: dict[str, Any]
    bent: Bent | None

    @classmethod
    def compiled(cls, terms: LeakTerms, compile: Callable[[Any], Any]) -> LeakFactors:
        """Return every part compiled."""
        bent = terms.bent
        if bent is not None:
            parts = {name: compile(getattr(bent, name)) for name in ("shift", "height", "whole")}
            bent = replace(bent, **parts)
        gains = {port: compile(gain) for port, gain in terms.gains.items()}
        return cls(compile(terms.decay), compile(terms.rest), gains, bent)
