"""Plasticity written as text, on the tape of a network: factors, or entry by entry."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, final

from ctsigprop.equations import Equations
from ctsigprop.equations.language import names_in
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.synapses import Synapse, rule_variable
from ctsigprop.signals import Signal
from ctsigprop.solvers.native import machine as ops
from ctsigprop.solvers.native.tape import RATE, STATE, Names, Value

if TYPE_CHECKING:
    from ctsigprop.solvers.native.networks import Network
    from ctsigprop.solvers.native.weights import Weights

__all__ = ["Rule"]

AT_ONCE = 1 << 18
"""Synapses up to which an equation that reads nothing else takes them all at once."""


@final
class Rule:
    """One rule of one synapse."""

    def __init__(
        self, network: Network, synapse: Synapse, rule: TextPlasticity, post: int, pre: int
    ) -> None:
        self.network, self.tape = network, network.tape
        self.synapse, self.rule, self.post, self.pre = synapse, rule, post, pre
        self.samples = network.samples
        self.equations: Equations = rule.equations
        self.sides = {
            v.name: next(iter(v.flags), "synapse")
            for v in self.equations.variables
            if v.name != "w"
        }

    def factors(self, lazy: Weights) -> list[Value]:
        """Enter the outer products of the rule; return its decays."""
        structure = self.rule.structure
        assert structure is not None
        for post, pre in structure.outer:
            for moving, staying in self._columns(*self._product("w", post, pre), lazy.by_row):
                for s in range(self.samples):
                    pair = _part(moving, s, lazy.moving), _part(staying, s, lazy.staying)
                    (lazy.held if staying.held else lazy.new).append(pair)
        side = "post" if lazy.by_row else "pre"
        found = [structure.decay_scalar, structure.decay_post, structure.decay_pre]
        return [self._decay("w", decay.code, side) for decay in found if decay is not None]

    def _columns(self, p: Value, q: Value, by_row: bool) -> Iterator[tuple[Value, Value]]:
        """Yield the moving and the staying factors of an outer product, of parts that are held."""
        if not by_row:
            yield q, p
            return
        if not q.parts:
            yield p, q
        for number, part in q.parts:
            yield self.tape.entrywise(ops.MUL, p, self.tape.spread(number, 1, p.n)), part

    def entries(self, short: str = "w") -> None:
        """Enter an equation of every synapse: as outer products and decays, or entry by entry."""
        structure, tape = self.rule.structures.get(short), self.tape
        if structure is None:
            self._grid(short)
            return
        place = self.network.places[self._full(short)].place
        rate, state, rows, n = RATE + place, STATE + place, self.post, self.pre
        for post, pre in structure.outer:
            p, q = self._product(short, post, pre)
            for s in range(self.samples):
                a, b = p.place + s * rows, q.place + s * n
                tape.write(ops.ADD_SCALED, rate, a, b, n, rows, n, 1, 0)
        for decay in (structure.decay_scalar, structure.decay_post):
            if decay is not None:
                by = self._decay(short, decay.code, "post").place
                tape.write(ops.ADD_SCALED, rate, by, state, n, rows, n, 1, n)
        if structure.decay_pre is not None:
            by = self._decay(short, structure.decay_pre.code, "pre").place
            tape.write(ops.ADD_MUL, rate, by, state, n, rows, n, 0, n)

    def own(self) -> None:
        """Enter the equations of the rule's own variables."""
        for short, side in self.sides.items():
            variable = self.network.places[self._full(short)]
            if side == "synapse":
                self.tape.write(ops.FILL, RATE + variable.place, 0, 0, variable.n)
                self.entries(short)
                continue
            size = self.post if side == "post" else self.pre
            code = self.equations.code(f"d{short}/dt")
            speed = self.tape.expression(code, self._names(side), self.samples * size)
            speed = self._gated(short, speed)
            if variable.n == size:
                speed = self.tape.mean(speed, self.samples)
            self.tape.write(ops.COPY, RATE + variable.place, speed.place, 0, variable.n)

    def _full(self, short: str) -> str:
        return self.synapse.name if short == "w" else rule_variable(short, self.synapse.name)

    def _gated(self, short: str, value: Value) -> Value:
        """Return what the gate lets through: all or nothing for the rule's own variables."""
        if self.rule.gate is None:
            return value
        gate = self.network.gate(self.rule.gate, value.n, open_=short != "w")
        return self.tape.entrywise(ops.MUL, value, gate)

    def _product(self, short: str, post: Any, pre: Any) -> tuple[Value, Value]:
        """Return the factors of an outer product; gate and mean are with the first."""
        tape, n = self.tape, self.samples * self.post
        p = tape.constant(1.0, n)
        if post is not None:
            p = tape.expression(post.code, self._names("post"), n)
        if self.samples > 1:
            p = tape.entrywise(ops.DIV, p, tape.constant(float(self.samples), n))
        p = self._gated(short, p)
        q = tape.constant(1.0, self.samples * self.pre)
        if pre is not None:
            q = tape.expression(pre.code, self._names("pre"), q.n)
        return p, q

    def _decay(self, short: str, code: ast.expr, side: str) -> Value:
        size = self.post if side == "post" else self.pre
        n = self.samples * size
        decay = self.tape.mean(self.tape.expression(code, self._names(side), n), self.samples)
        return self._gated(short, decay)

    def _names(self, side: str) -> Names:
        """Return what the symbols mean on one side, for all of its units and samples."""
        size = self.post if side == "post" else self.pre
        n = self.samples * size

        def name_of(name: str) -> Value:
            if name in ("x", "y"):
                return self._wide(name)
            if name in ("dx", "dy"):
                population = self.synapse.pre if name == "dx" else self.synapse.post
                return self.network.rate(population)
            if name in self.sides:
                return self._sided(name)
            if name == "m":
                return self._modulator(size, self.samples)
            if name in self.equations.subexpressions:
                return self.tape.expression(self.equations.code(name), name_of, n)
            if name == "t":
                return self.tape.clock(n)
            return self.network.parameter(self.rule, name, self.samples, size, scalar=True)

        return name_of

    def _wide(self, name: str) -> Value:
        if name == "x":
            return self.network.arriving(self.synapse)
        return self.network.activity(self.synapse.post)

    def _sided(self, name: str) -> Value:
        own = self.network.state(self._full(name))
        size = self.post if self.sides[name] == "post" else self.pre
        return own if own.n == self.samples * size else self.tape.repeat(own, self.samples)

    def _modulator(self, size: int, samples: int) -> Value:
        modulator = self.rule.modulator
        if isinstance(modulator, Signal):
            return self.network.gate(modulator, samples * size)
        assert modulator is not None
        value = self.network.activity(modulator)
        if value.n == self.samples and size > 1:
            return self.tape.spread(value, self.samples, size)
        return value

    def _grid(self, short: str) -> None:
        """Enter an equation of every synapse, row by row for each sample, or all at once."""
        tape, pre = self.tape, self.pre
        lifted: dict[str, Value] = {}
        matrices = {"w", *(s for s, side in self.sides.items() if side == "synapse")}
        held = isinstance(self.rule.modulator, Signal)
        on_post = {"y", "dy", *(s for s, side in self.sides.items() if side == "post")}
        on_pre = {"x", "dx", *(s for s, side in self.sides.items() if side == "pre")}
        if not held:
            on_post.add("m")
        code = self.equations.code(f"d{short}/dt")
        symbols = self._symbols(code)
        outside = {s: self._names("post")(s) for s in sorted(symbols & on_post)}
        outside |= {s: self._names("pre")(s) for s in sorted(symbols & on_pre)}
        samples, rows, n = self.samples, self.post, pre
        if not outside:  # all samples would say the same
            samples = 1
            if rows * pre <= AT_ONCE:
                rows, n = 1, rows * pre
        first = len(tape.stage)
        tape.write(ops.LOOP, 0, 0, 0, 0)

        def lift(symbol: str, place: int, by_row: int, by_sample: int, step: int) -> Value:
            if symbol not in lifted:
                lifted[symbol] = Value(tape.space(n), n)
                d = lifted[symbol].place
                tape.write(ops.LIFT, d, place, 0, n, 1, 0, by_row, by_sample, step)
            return lifted[symbol]

        def name_of(symbol: str) -> Value:
            if symbol in matrices:
                return lift(symbol, self.network.state(self._full(symbol)).place, n, 0, 1)
            if symbol in on_post:
                return lift(symbol, outside[symbol].place, 1, self.post, 0)
            if symbol in on_pre:
                return lift(symbol, outside[symbol].place, 0, pre, 1)
            if symbol == "m":
                return self._modulator(n, samples=1)
            if symbol in self.equations.subexpressions:
                return tape.expression(self.equations.code(symbol), name_of, n)
            if symbol == "t":
                return tape.clock(n)
            return self.network.parameter(self.rule, symbol, 1, n, scalar=True)

        result = self._gated(short, tape.expression(code, name_of, n))
        if samples > 1:
            result = tape.entrywise(ops.DIV, result, tape.constant(float(samples), n))
        place = self.network.places[self._full(short)].place
        tape.write(ops.LOWER, RATE + place, result.place, 0, n, 1, n)
        length = (len(tape.stage) - first) * ops.WIDTH
        tape.write(ops.AGAIN, 0, 0, 0, length, rows, 0, 0, 0, samples)

    def _symbols(self, code: ast.expr) -> set[str]:
        """Return the symbols that code needs, those of its subexpressions included."""
        found = names_in(code)
        for name in reversed(tuple(self.equations.subexpressions)):
            if name in found:
                found |= names_in(self.equations.code(name))
        return found


def _part(value: Value, sample: int, n: int) -> Value:
    return Value(value.place + sample * n, n, value.held)
