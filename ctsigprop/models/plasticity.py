"""Plasticity: rules written as text, and those that read the weights of other neurons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ctsigprop.equations import Equations, Structure
from ctsigprop.equations.language import names_in
from ctsigprop.errors import did_you_mean
from ctsigprop.lowrank import Factors, LowRank
from ctsigprop.models.neurons import Value
from ctsigprop.quantities import Variable
from ctsigprop.signals import Signal
from ctsigprop.terms import Local, Plasticity, State

__all__ = [
    "OjaSubspace",
    "Sanger",
    "TextPlasticity",
]

POST = frozenset({"y", "dy"})
PRE = frozenset({"x", "dx"})


class TextPlasticity(Plasticity):
    """A local rule written as text: dw/dt from what one synapse can see.

    Symbols: ``w`` the weight, ``x`` and ``y`` presynaptic and postsynaptic activity, ``dx`` and
    ``dy`` their time derivatives, ``m`` the modulator, the rule's own variables and its parameters.
    A rule's own variable belongs to the synapse, or to one side with the flag ``(post)`` or
    ``(pre)`` after its unit.

    Parameters
    ----------
    text : str
        ``dw/dt = …``, and an equation for each variable of the rule's own.
    modulator : str or Signal, optional
        The third factor ``m``: a signal, or a population of one channel, or of one for each
        postsynaptic unit.
    gate : Signal, optional
        Multiplies dw/dt; while it is zero, nothing is computed.
    initial : float
        Initial value of the rule's own variables.
    **parameters : Parameter, Tensor or float
        Values of the other symbols.

    Notes
    -----
    The structure is found when the rule is built: dw/dt = Σ_k post_k ⊗ pre_k + decay·w with a
    decay that is a scalar or depends on one side only; otherwise the rule is evaluated entry by
    entry. For weights shared by a batch, dw/dt is the mean over the batch.

    Raises
    ------
    ValueError
        No equation for w, a symbol without a value, or a value without a symbol.

    Examples
    --------
    >>> rule = TextPlasticity("dw/dt = eta*(x*y - y**2*w)", eta=0.1)
    >>> len(rule.structure.outer), rule.structure.decay_post is not None
    (1, True)
    """

    def __init__(
        self,
        text: str,
        *,
        modulator: str | Signal | None = None,
        gate: Signal | None = None,
        initial: float = 0.0,
        **parameters: Value,
    ) -> None:
        super().__init__(modulator, gate)
        self.text, self.initial = text, initial
        self.add_parameters(parameters)
        seen = ["x", "y", "dx", "dy", *(["m"] if modulator is not None else [])]
        self.equations = Equations(
            text, units={**dict.fromkeys(seen), **self.units}, units_optional=True
        )
        shorts = [v.name for v in self.equations.variables]
        if "w" not in shorts:
            raise ValueError(f"a plasticity rule needs an equation dw/dt; got {text!r}")
        used = {*self.equations.external, *self.equations.declared}
        free = used - set(seen)
        for symbol in self.specs:
            if symbol not in free:
                raise ValueError(
                    f"the rule has no parameter '{symbol}'{did_you_mean(symbol, free)}; "
                    f"it uses: {', '.join(sorted(free)) or '-'}"
                )
        for symbol in free - set(self.specs):
            raise ValueError(f"'{symbol}' has no value: pass {symbol}=...")
        self._side = {
            v.name: next(iter(v.flags), "synapse")
            for v in self.equations.variables
            if v.name != "w"
        }
        post = POST | {name for name, side in self._side.items() if side == "post"}
        pre = PRE | {name for name, side in self._side.items() if side == "pre"}
        for name, side in self._side.items():
            if side != "synapse":
                self._refuse_reading(name, side, pre if side == "post" else post)
        on_synapse = ["w", *(name for name, side in self._side.items() if side == "synapse")]
        self.structures = {
            name: self.equations.separate(name, post, pre, name)
            for name in on_synapse
            if not self._depends(name, [other for other in on_synapse if other != name])
        }
        self._dense_names = [name for name in on_synapse if self.structures.get(name) is None]
        self._reads_dx, self._reads_dy = "dx" in used, "dy" in used

    def variables(self, weight: Variable, post: str, pre: str) -> tuple[Variable, ...]:
        """Return the rule's own variables, named after the weight."""
        sides = {"post": [post], "pre": [pre], "synapse": [post, pre]}
        return tuple(
            Variable(
                f"{v.name}_{weight.name}",
                {dim: weight.dims[dim] for dim in sides[self._side[v.name]]},
                v.unit or "1",
                initial=self.initial,
                shared=weight.shared,
            )
            for v in self.equations.variables
            if v.name != "w"
        )

    @property
    def autonomous(self) -> bool:
        """Whether no equation has the time in it."""
        return type(self) is TextPlasticity and self.equations.autonomous

    @property
    def structure(self) -> Structure | None:
        """dw/dt as outer products and a decay, where it has that form."""
        return self.structures.get("w")

    @property
    def products(self) -> tuple[int, str] | None:
        """How many outer products dw/dt is, and its decay; None where it has another form."""
        structure = self.structure
        if structure is None or "synapse" in self._side.values():
            return None
        if structure.decay_post is not None and structure.decay_pre is not None:
            return None
        scalar = structure.decay_scalar
        if isinstance(self.modulator, str) and scalar is not None and "m" in names_in(scalar.code):
            return None  # a population may modulate every postsynaptic unit by a number of its own
        sides = {"row": structure.decay_post, "column": structure.decay_pre}
        side = next((side for side, decay in sides.items() if decay is not None), "")
        return len(structure.outer), side

    def forward(self, local: Local) -> State:
        """Return dw/dt and the derivatives of the rule's own variables."""
        values = self._values(local)
        change: dict[str, Any] = {
            name: self._factors(structure, values, local)
            if isinstance(values[name], LowRank)
            else self._structured(structure, values[name], values, local)
            for name, structure in self.structures.items()
            if structure is not None
        }
        if self._dense_names:
            grid = {name: self._on_grid(name, value) for name, value in values.items()}
            dense = self.equations.torch(*self._dense_names)(_clock(local), grid)
            change |= self._averaged(dense, local)
        sided = [name for name, side in self._side.items() if side != "synapse"]
        if sided:
            change |= self._averaged(self.equations.torch(*sided)(_clock(local), values), local)
        return change

    def _refuse_reading(self, name: str, side: str, other_side: frozenset[str]) -> None:
        far = {"w", *(n for n, s in self._side.items() if s == "synapse"), *other_side}
        for symbol in sorted(far & set(self.equations.arguments)):
            if self.equations.differentiate(f"d{name}/dt", symbol) != 0:
                raise ValueError(
                    f"'{name}' belongs to the {side}synaptic neuron, and cannot read '{symbol}'; "
                    "leave out its flag to keep one in every synapse"
                )

    def _depends(self, name: str, others: list[str]) -> bool:
        order = [v.name for v in self.equations.variables]
        row = self.equations.jacobian_symbolic[order.index(name), :]
        return any(row[order.index(other)] != 0 for other in others)

    def _structured(self, structure: Structure, own: Tensor, values: State, local: Local) -> Tensor:
        t = _clock(local)
        total: Tensor | None = None
        for p, q in _outer_sides(structure, values, local, t):
            part = _outer(p, q, local.shared)
            total = part if total is None else total + part
        for factor, axis in (
            (structure.decay_scalar, None),
            (structure.decay_post, -1),
            (structure.decay_pre, -2),
        ):
            if factor is None:
                continue
            decay = factor(t, values)
            if axis is None:
                decay = decay if decay.dim() == 0 else decay.unsqueeze(-1)
            else:
                decay = _wide(decay, local.y if axis == -1 else local.x).unsqueeze(axis)
            if local.shared and decay.dim() > 2:
                decay = decay.flatten(0, -3).mean(0)
            total = decay * own if total is None else torch.addcmul(total, decay, own)
        return torch.zeros_like(own) if total is None else total

    def _factors(self, structure: Structure, values: State, local: Local) -> Factors:
        """Return dw/dt as columns: those of each sample of a batch, over its size, for shared."""
        t = _clock(local)
        outer: list[tuple[Tensor, Tensor]] = []
        for p, q in _outer_sides(structure, values, local, t):
            if p.dim() == q.dim() == 1:
                outer.append((p[:, None], q[:, None]))
                continue
            batch = p.shape[:-1] if p.dim() >= q.dim() else q.shape[:-1]
            rows, columns = (v.expand(*batch, v.shape[-1]).flatten(0, -2) for v in (p, q))
            outer.append((rows.T / len(rows), columns.T))
        total: Tensor | None = None
        for factor, like in (
            (structure.decay_scalar, None),
            (structure.decay_post, local.y),
            (structure.decay_pre, local.x),
        ):
            if factor is None:
                continue
            decay = factor(t, values)
            if like is None:
                decay = decay.mean() if decay.dim() else decay
            else:
                decay = _wide(decay, like)
                decay = decay.flatten(0, -2).mean(0) if decay.dim() > 1 else decay
            total = decay if total is None else total + decay
        return Factors(tuple(outer), total)

    def _averaged(self, change: State, local: Local) -> State:
        if not local.shared:
            return change
        ranks = {name: 2 if side == "synapse" else 1 for name, side in self._side.items()}
        return {
            name: value.flatten(0, -rank - 1).mean(0) if value.dim() > rank else value
            for name, value in change.items()
            for rank in [ranks.get(name, 2)]
        }

    def _values(self, local: Local) -> State:
        values: State = {"w": local.w, "x": local.x, "y": local.y, **local.own}
        if self._reads_dx:
            values["dx"] = local.dx()
        if self._reads_dy:
            values["dy"] = local.dy()
        if local.modulator is not None:
            values["m"] = local.modulator()
        for symbol in self.specs:
            values[symbol] = getattr(self, symbol)
        return values

    def _on_grid(self, name: str, value: Tensor) -> Tensor:
        side = self._side.get(name, "")
        if name in POST or side == "post":
            return value.unsqueeze(-1)
        if name in PRE or side == "pre":
            return value.unsqueeze(-2)
        if name == "m" and value.dim():
            return value.unsqueeze(-1)
        return value


class OjaSubspace(Plasticity):
    """Oja's subspace rule: dW/dt = eta (y xᵀ − y yᵀ W), y the postsynaptic activity.

    The rows of W come to span the principal subspace. The second term reads the weights of the
    other neurons: the rule is not local to a synapse.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate, in 1/(time unit).

    References
    ----------
    Oja 1989, Int. J. Neural Syst. 1:61-68.

    Examples
    --------
    >>> OjaSubspace(0.1).eta.item()
    0.1
    """

    def __init__(self, eta: Value) -> None:
        super().__init__()
        self.add_parameters({"eta": eta})

    def forward(self, local: Local) -> State:
        """Return eta · y ⊗ (x − Wᵀ y)."""
        back = _matvec(local.w.transpose(-1, -2), local.y)
        return {"w": self.eta * _outer(local.y, local.x - back, local.shared)}


class Sanger(Plasticity):
    """Sanger's generalised Hebbian rule: dW/dt = eta (y xᵀ − LT[y yᵀ] W).

    LT keeps the lower triangle, so the rows of W become the principal components in order. Each
    neuron reads the weights of those before it.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate, in 1/(time unit).

    References
    ----------
    Sanger 1989, Neural Networks 2:459-473, eq. 3.

    Examples
    --------
    >>> Sanger(0.1).eta.item()
    0.1
    """

    def __init__(self, eta: Value) -> None:
        super().__init__()
        self.add_parameters({"eta": eta})

    def forward(self, local: Local) -> State:
        """Return eta (y xᵀ − LT[y yᵀ] W)."""
        lower = torch.tril(_outer(local.y, local.y, local.shared))
        return {"w": self.eta * (_outer(local.y, local.x, local.shared) - lower @ local.w)}


def _clock(local: Local) -> Tensor:
    t = local.t.to(local.w.dtype)
    return t.unsqueeze(-1) if t.dim() else t


def _wide(value: Tensor, like: Tensor) -> Tensor:
    """Return a value for every unit; a trace may have batch axes where the activity has none."""
    if value.shape == like.shape:
        return value
    shape = torch.broadcast_shapes(value.shape, like.shape)  # type: ignore[no-untyped-call]
    return value.expand(shape)


def _outer_sides(
    structure: Structure, values: State, local: Local, t: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the post- and the presynaptic side of every outer product."""
    for post, pre in structure.outer:
        p = torch.ones_like(local.y) if post is None else _wide(post(t, values), local.y)
        q = torch.ones_like(local.x) if pre is None else _wide(pre(t, values), local.x)
        yield p, q


def _outer(post: Tensor, pre: Tensor, shared: bool) -> Tensor:
    """Return post ⊗ pre for each sample, or its mean over the batch for shared weights."""
    if post.dim() == pre.dim() == 1:
        return torch.outer(post, pre)
    if post.shape[:-1] != pre.shape[:-1]:
        batch = post.shape[:-1] if post.dim() >= pre.dim() else pre.shape[:-1]
        post, pre = post.expand(*batch, post.shape[-1]), pre.expand(*batch, pre.shape[-1])
    if shared:
        rows = post.flatten(0, -2)
        return (rows / rows.shape[0]).T @ pre.flatten(0, -2)
    return post.unsqueeze(-1) * pre.unsqueeze(-2)


def _matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    return vector @ matrix.T if matrix.dim() == 2 else (matrix @ vector.unsqueeze(-1)).squeeze(-1)
