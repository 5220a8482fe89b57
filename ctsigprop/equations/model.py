"""Equations: the differential equations of one text, and the functions made from them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from types import MappingProxyType
from typing import Any, TypeVar, cast

from torch import Tensor

from ctsigprop.equations.dimensions import analyse, known_units
from ctsigprop.equations.generate import (
    brian2_text,
    native_function,
    scalar_text,
    share,
    torch_function,
)
from ctsigprop.equations.language import (
    Quantity,
    Reader,
    names_in,
    parse_expression,
    parse_statements,
    quoting,
)
from ctsigprop.equations.leak import LeakFactors, leak_terms
from ctsigprop.equations.structure import Factor, Structure, take_apart
from ctsigprop.equations.symbolic import from_symbolic, linear_coefficient, symbol, to_symbolic
from ctsigprop.errors import unknown
from ctsigprop.units import parse_unit

__all__ = ["Differential", "Equations"]

_T = TypeVar("_T")
_Values = Mapping[str, Tensor]
_Units = Mapping[str, str | None]
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Differential:
    """One differential equation: its variable, that variable's unit, its flags and its line."""

    name: str
    unit: str | None
    flags: frozenset[str]
    source: str


class Equations:
    """A system of differential equations read from a text; immutable.

    Every generated function takes numbers in the declared unit of each symbol and the time in
    `time_unit`, and returns derivatives in declared unit / `time_unit`. A symbol whose unit is
    unknown (None) stands for a number in the unit of whatever it meets.

    Parameters
    ----------
    text : str
        The equations, in the language that `ctsigprop.equations` describes.
    units, inputs : mapping of str to str or None
        Units of the parameters and of the inputs that the text does not declare.
    time_unit : str, optional
        Unit of time of equations with dimensions; "ms" unless given.
    units_optional : bool
        Accept statements without a unit, and symbols that nothing declares, as of unknown unit.

    Attributes
    ----------
    variables : tuple of Differential
        The differential equations, in the order of the text.
    subexpressions, declared : mapping of str to str or None
        Units of the named subexpressions, and of the declared parameters and inputs.
    external : frozenset of str
        Symbols in use that the text does not define.
    time_unit : str
        "1" where the equations are dimensionless in time, as in ``dv/dt = v - w : 1``.
    arguments : tuple of str
        What functions take after ``t``: variables, declared names, external names sorted.

    Raises
    ------
    UnitError
        If a unit is unknown, or the dimensions of an equation disagree.
    ValueError
        If a statement is not in the language, uses an unknown name or defines a name twice.

    Examples
    --------
    >>> import torch
    >>> leak = Equations("dv/dt = (E - v + R*I)/tau : mV", units={"E": "mV", "R": "Mohm"},
    ...                  inputs={"I": "pA", "tau": "ms"})
    >>> values = {"v": -65.0, "E": -70.0, "R": 100.0, "I": 60.0, "tau": 20.0}
    >>> rates = leak.torch()
    >>> rates(torch.tensor(0.0), {name: torch.tensor(value) for name, value in values.items()})
    {'v': tensor(0.0500)}

    References
    ----------
    M. Stimberg, R. Brette, D. F. M. Goodman, Brian 2, eLife 8:e47314 (2019).
    """

    text: str
    variables: tuple[Differential, ...]
    subexpressions: Mapping[str, str | None]
    declared: Mapping[str, str | None]
    external: frozenset[str]
    time_unit: str
    arguments: tuple[str, ...]
    _given: tuple[Any, ...]
    _symbols: Mapping[str, Quantity]
    _codes: Mapping[str, ast.expr]
    _compiled: dict[Hashable, Any]

    def __init__(
        self,
        text: str,
        *,
        units: _Units = _NONE,
        inputs: _Units = _NONE,
        time_unit: str | None = None,
        units_optional: bool = False,
    ) -> None:
        if not isinstance(text, str):
            raise TypeError(f"text is a str with one equation a line, got {text!r}")
        for name in sorted(set(units) & set(inputs)):
            raise ValueError(f"'{name}' is in units and in inputs: a symbol is in one of them")
        statements = parse_statements(text, units_optional)
        known = known_units(statements, {**units, **inputs}, units_optional)
        time, symbols, codes = analyse(statements, known, time_unit)
        variables = tuple(
            Differential(s.name, known[s.name], s.flags, s.source)
            for s in statements
            if s.kind == "differential"
        )
        names = [variable.name for variable in variables]
        declared = {s.name: known[s.name] for s in statements if s.kind == "declared"}
        used = {name for s in statements if s.tree for name in names_in(s.tree)}
        external = (used & set(known)) - {s.name for s in statements}
        self.__dict__.update(
            text=text,
            variables=variables,
            subexpressions=MappingProxyType({n: known[n] for n in codes if n not in names}),
            declared=MappingProxyType(declared),
            external=frozenset(external),
            time_unit=time,
            arguments=(*names, *declared, *sorted(external)),
            _given=(text, dict(units), dict(inputs), time_unit, units_optional),
            _symbols=symbols,
            _codes=codes,
            _compiled={},
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Equations are immutable: cannot set '{name}'")

    def __repr__(self) -> str:
        return f"Equations({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equations) and self._given == other._given

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self) -> tuple[Callable[..., Equations], tuple[str]]:
        text, units, inputs, time_unit, optional = self._given
        options = {"units": units, "inputs": inputs, "time_unit": time_unit}
        return partial(Equations, units_optional=optional, **options), (text,)

    @cached_property
    def autonomous(self) -> bool:
        """Whether no equation has the time in it."""
        return not any("t" in names_in(code) for code in self._codes.values())

    def torch(self, *names: str) -> Callable[[Tensor, _Values], dict[str, Tensor]]:
        """Return ``f(t, values) -> {variable: derivative}`` over torch operations.

        Values broadcast against each other; a derivative has at least its variable's shape.
        Names choose some of the variables; without any, it is all of them.
        """
        chosen = tuple(map(self._variable, names)) or tuple(v.name for v in self.variables)
        return self._cached(
            ("torch", chosen),
            lambda: self._mapping({name: (self._codes[name], name) for name in chosen}),
        )

    def torch_of(self, expression: str) -> Callable[[Tensor, _Values], Tensor]:
        """Return ``f(t, values) -> Tensor`` for a name, a derivative or a new expression.

        The expression (``"I_Na"``, ``"dv/dt"``, ``"g*(v - E)"``) is checked as the text was; the
        result is in `unit_of` it.
        """
        code = self._quantity(expression).code
        return self._cached(
            ("torch_of", expression), lambda: self._single(code, self.variables[0].name)
        )

    def code(self, expression: str, by: str = "") -> ast.expr:
        """Return the checked code of a name, a derivative or a new expression.

        Named subexpressions stand in it by name. With `by`, it is the code of its derivative by
        that symbol, in which they are written out.

        Examples
        --------
        >>> ast.unparse(Equations("dx/dt = -x**2/tau : 1", inputs={"tau": "1"}).code("dx/dt"))
        '-x ** 2 / tau'
        """
        if by:
            return from_symbolic(self.differentiate(expression, by), self._symbols)
        if expression in self.subexpressions:
            return self._codes[expression]
        return self._quantity(expression).code

    def unit_of(self, expression: str) -> str | None:
        """Return the unit in which `torch_of` gives an expression, None where it is unknown."""
        unit = self._quantity(expression).unit
        return None if unit is None else unit.symbol

    def linear(self) -> Callable[[Tensor, _Values], dict[str, Tensor]]:
        """Return ``f(t, values) -> {variable: a}`` with ``d(variable)/dt = a · variable + rest``.

        ``a`` is the coefficient of the variable's first power in the expanded right-hand side,
        free of the variable: ``-1/tau`` in ``(x_inf - x)/tau``, -2 in ``sin(y) - 2*y``.
        """

        def coefficient(name: str) -> ast.expr:
            free = {s for s in self.subexpressions if name not in self._needs(self._codes[s])}
            rate = to_symbolic(self._codes[name], self._written_out(keep=free))
            return from_symbolic(linear_coefficient(rate, symbol(name)), self._symbols)

        return self._cached(
            "linear",
            lambda: self._mapping({v.name: (coefficient(v.name), v.name) for v in self.variables}),
        )

    def jacobian(self) -> Callable[[Tensor, _Values], dict[tuple[str, str], Tensor]]:
        """Return ``f(t, values) -> {(row, column): entry}``, the derivatives of `torch`.

        An entry is the elementwise derivative of the row's equation with respect to the column's
        variable; entries that are zero are there too.
        """
        names = [variable.name for variable in self.variables]

        def entries() -> dict[tuple[str, str], tuple[ast.expr, str]]:
            matrix, pairs = self.jacobian_symbolic, list(product(names, names))
            return {
                (row, column): (from_symbolic(entry, self._symbols), row)
                for (row, column), entry in zip(pairs, matrix, strict=True)
            }

        return self._cached("jacobian", lambda: self._mapping(entries()))

    @cached_property
    def jacobian_symbolic(self) -> Any:
        """The Jacobian as a sympy Matrix, rows and columns in the order of `variables`."""
        import sympy

        known = self._written_out()
        rates = [to_symbolic(self._codes[v.name], known) for v in self.variables]
        return sympy.Matrix([[rate.diff(symbol(v.name)) for v in self.variables] for rate in rates])

    def differentiate(self, expression: str, by: str) -> Any:
        """Return the sympy derivative of a name, a derivative or an expression by a symbol.

        Numbers are in declared units, so ``differentiate("I_Na", "v")`` is in unit / unit of v.
        """
        if by not in (accepted := (*self.arguments, "t")):
            raise ValueError(unknown("symbol", by, accepted))
        return to_symbolic(self._quantity(expression).code, self._written_out()).diff(symbol(by))

    def gradient(self, expression: str) -> Callable[[Tensor, _Values], dict[str, Tensor]]:
        """Return ``f(t, values) -> {variable: d expression / d variable}``, elementwise."""

        def entries() -> dict[str, tuple[ast.expr, str]]:
            names = [variable.name for variable in self.variables]
            slopes = {name: self.differentiate(expression, name) for name in names}
            return {name: (from_symbolic(d, self._symbols), name) for name, d in slopes.items()}

        return self._cached(("gradient", expression), lambda: self._mapping(entries()))

    def numba(self) -> Callable[..., None]:
        """Return a compiled ``f(t, y, p, out)`` that writes the derivatives into ``out``.

        ``y`` and ``out`` have shape (variables, n), ``p`` has shape (other arguments, n), all
        float64 and in the order of `arguments`.

        Raises
        ------
        ImportError
            If numba is not installed.
        """
        codes = [self._codes[variable.name] for variable in self.variables]
        return self._cached("numba", lambda: native_function(*self._lower(codes), self.arguments))

    def scalars(
        self, rename: Mapping[str, str], prefix: str, *expressions: str
    ) -> tuple[list[str], list[str]]:
        """Return assignments, and one result for each expression, as text over single numbers.

        Parameters
        ----------
        rename : mapping of str to str
            What to write for the time and for each argument.
        prefix : str
            Begins the names of what the assignments define.
        *expressions : str
            Names, derivatives or new expressions; by default the derivative of every variable.

        Examples
        --------
        >>> decay = Equations("dx/dt = -x**2/tau : 1", inputs={"tau": "1"})
        >>> decay.scalars({"x": "y0", "tau": "p0"}, "u")
        ([], ['-(y0 * y0) / p0'])
        """
        chosen = expressions or tuple(f"d{v.name}/dt" for v in self.variables)
        _, lines, results = self._cached(
            ("lowered", *chosen),
            lambda: self._lower([self._quantity(one).code for one in chosen]),
        )
        made = [line.partition(" = ")[0] for line in lines]
        names = {**rename, **{name: f"{prefix}{k}" for k, name in enumerate(made)}}
        return (
            [scalar_text(line, names) for line in lines],
            [scalar_text(result, names) for result in results],
        )

    def brian2(self, rename: Mapping[str, str] = _NONE) -> str:
        """Return Brian2 equations for the same numbers: one time unit is one Brian2 second.

        Parameters
        ----------
        rename : mapping of str to str
            New names of variables, subexpressions, parameters and inputs.

        Returns
        -------
        str
            Text in which everything is dimensionless; declared and external symbols are plain
            names that Brian2 finds in its namespace.
        """
        for name in rename:
            if name not in (accepted := (*self.arguments, *self.subexpressions)):
                raise ValueError(unknown("symbol", name, accepted))
        texts = {name: brian2_text(code, rename) for name, code in self._codes.items()}
        lines = [f"{rename.get(sub, sub)} = {texts[sub]} : 1" for sub in self.subexpressions]
        for variable in self.variables:
            name = rename.get(variable.name, variable.name)
            lines.append(f"d{name}/dt = ({texts[variable.name]})/second : 1")
        return "\n".join(lines)

    def brian2_of(self, expression: str, rename: Mapping[str, str] = _NONE) -> str:
        """Return a named quantity (``dv/dt``, too) or a new expression as `brian2` writes it."""
        return brian2_text(self._quantity(expression).code, rename)

    def separate(
        self, name: str, post: Collection[str], pre: Collection[str], weight: str
    ) -> Structure | None:
        """Return a weight's derivative as outer products and a decay, None where it has others.

        Parameters
        ----------
        name : str
            The variable whose derivative is taken apart.
        post, pre : collection of str
            Symbols of the postsynaptic and of the presynaptic side; all others are scalars.
        weight : str
            The symbol of the weight.

        Examples
        --------
        >>> oja = Equations("dw/dt = eta*(x*y - y**2*w)", units_optional=True)
        >>> structure = oja.separate("w", post=["y"], pre=["x"], weight="w")
        >>> len(structure.outer), structure.decay_post is not None, structure.decay_pre
        (1, True, None)
        """
        rate = to_symbolic(self._codes[self._variable(name)], self._written_out())
        parts = take_apart(rate, post, pre, weight)
        if parts is None:
            return None

        def compiled(factor: Any, absent: int) -> Factor | None:
            if factor == absent:
                return None
            code = from_symbolic(factor, self._symbols)
            return Factor(self._single(code, weight), code)

        products, decays = parts
        return Structure(
            tuple((compiled(p, 1), compiled(q, 1)) for p, q in products),
            *(compiled(decay, 0) for decay in decays),
        )

    def leak(self, name: str, ports: Collection[str]) -> LeakFactors | None:
        """Return a variable's derivative as a leak and what enters, None where it is no such thing.

        ``decay·s + rest + Σ gain·port + height·φ(port + shift)``, with factors of parameters alone.
        """

        def build() -> LeakFactors | None:
            rate = to_symbolic(self._codes[self._variable(name)], self._written_out())
            terms = leak_terms(rate, name, ports)
            return None if terms is None else LeakFactors.compiled(terms, compiled)

        def compiled(factor: Any) -> Callable[[Tensor, _Values], Tensor]:
            return self._single(from_symbolic(factor, self._symbols), name)

        return self._cached(("leak", name, *ports), build)

    def _variable(self, name: str) -> str:
        names = [variable.name for variable in self.variables]
        if name not in names:
            raise ValueError(unknown("variable", name, names))
        return name

    def _cached(self, key: Hashable, build: Callable[[], _T]) -> _T:
        if key not in self._compiled:
            self._compiled[key] = build()
        return cast(_T, self._compiled[key])

    def _quantity(self, expression: str) -> Quantity:
        for variable in self.variables:
            if re.fullmatch(rf"\s*d{variable.name}\s*/\s*dt\s*", expression):
                unit = variable.unit and parse_unit(variable.unit) / parse_unit(self.time_unit)
                return Quantity(self._codes[variable.name], unit or None)
        with quoting(expression):
            return Reader(self._symbols).read(parse_expression(expression))

    def _needs(self, code: ast.expr) -> set[str]:
        """Return the names that code needs, those behind its subexpressions included."""
        names = names_in(code)
        for sub in reversed(tuple(self.subexpressions)):
            if sub in names:
                names |= names_in(self._codes[sub])
        return names

    def _written_out(self, keep: Collection[str] = ()) -> dict[str, Any]:
        """Return every subexpression in symbols, those to keep standing as names."""
        known: dict[str, Any] = {}
        for sub in self.subexpressions:
            if sub not in keep:
                known[sub] = to_symbolic(self._codes[sub], known)
        return known

    def _lower(self, outputs: Sequence[ast.expr]) -> tuple[list[str], list[str], list[str]]:
        """Return the symbols to load, the assignments, and the outputs."""
        needed = set[str]().union(*map(self._needs, outputs))
        subs = [sub for sub in self.subexpressions if sub in needed]
        lines, results = share([*(self._codes[sub] for sub in subs), *outputs], subs)
        return [name for name in self.arguments if name in needed], lines, results

    def _mapping(self, outputs: Mapping[Any, tuple[ast.expr, str]]) -> Callable[..., Any]:
        """Compile (code, variable) to a function that returns a dict of the variables' shapes."""
        names, lines, results = self._lower([code for code, _ in outputs.values()])
        parts = []
        for key, (code, like), result in zip(outputs, outputs.values(), results, strict=True):
            if like not in self._needs(code):
                names, result = [*names, like], f"_spread({result}, {like})"
            elif result.isidentifier():  # no two results, and no value, share their memory
                result += ".clone()"
            parts.append(f"{key!r}: {result}")
        return torch_function(names, lines, f"{{{', '.join(parts)}}}")

    def _single(self, code: ast.expr, like: str) -> Callable[[Tensor, _Values], Tensor]:
        """Compile code to a function that returns a tensor, of no dimension for a constant."""
        names, lines, (result,) = self._lower([code])
        if not self._needs(code):
            names, result = [like], f"{like}.new_full((), {result})"
        return torch_function(names, lines, result)
