"""Synapses: weights between populations, with or without plasticity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ctsigprop.affine import Affine
from ctsigprop.lowrank import Factors, LowRank
from ctsigprop.quantities import Variable
from ctsigprop.signals import Signal, as_values, closed
from ctsigprop.terms import Current, Local, Moment, Plasticity, Population, State

__all__ = ["Synapse", "rule_variable"]


class Synapse(Current):
    """Weights from one population to another: I_i = Σ_j W_ij x_j(t − delay).

    With plasticity, W is a state variable and its derivative is the sum of the rules,

        dW_ij/dt = Σ_rules rule(x_j, y_i, W_ij),

    stopped at the bounds and the signs that the synapse keeps. Without, W is a parameter.

    Parameters
    ----------
    pre, post : str
        Populations; weights have the dims ``(post, pre)``.
    weight : Tensor or float
        Initial weights, ``(size of post, size of pre)``, or one number for all.
    plasticity : Plasticity or sequence of Plasticity
        Rules that add up.
    name : str, optional
        Of the weights; ``W_<post>_<pre>`` by default.
    port : str
        Where the current enters; the population's first port by default.
    shared : bool
        One set of weights for the whole batch; their derivative is the mean over the batch.
    mask : Tensor, optional
        True where a connection exists, ``(post, pre)``; the others stay zero.
    sign : Tensor or int, optional
        Dale's law: +1 or -1 for each presynaptic unit, or for all; weights never change sign.
    bounds : tuple of float, optional
        Smallest and largest weight.
    delay : float
        Conduction delay; needs a fixed-step solver.
    filter : tuple of (int, float), optional
        A gamma chain of that order with that mean delay tau: x passes through `order` stages
        dz_k/dt = (order/tau)·(z_{k-1} − z_k), z_0 = x; order 1 is an exponential synapse.

    Raises
    ------
    ValueError
        Shapes that do not fit the populations, bounds upside down, weights against their sign.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> cell = ct.leaky_integrator("y", tau=1.0)
    >>> hebb = ct.Synapse("x", "y", [[0.1, 0.2]], plasticity=ct.hebb(0.05))
    >>> system = ct.System(ct.Source("x", 2, torch.ones(2)), cell, hebb)
    >>> system.variables["W_y_x"].dims
    {'y': 1, 'x': 2}
    """

    weight: Tensor
    initial: Tensor
    mask: Tensor | None
    sign: Tensor | None

    def __init__(
        self,
        pre: str,
        post: str,
        weight: Tensor | Sequence[Sequence[float]] | float,
        *,
        plasticity: Plasticity | Sequence[Plasticity] = (),
        name: str = "",
        port: str = "",
        shared: bool = False,
        mask: Tensor | None = None,
        sign: Tensor | int | None = None,
        bounds: tuple[float, float] | None = None,
        delay: float = 0.0,
        filter: tuple[int, float] | None = None,
    ) -> None:
        super().__init__()
        self.pre, self.post, self.port = pre, post, port
        self.name = name or "_".join(["W", *(part for part in (post, pre) if part)])
        rules = [plasticity] if isinstance(plasticity, Plasticity) else list(plasticity)
        for rule in rules:
            if not isinstance(rule, Plasticity):
                raise TypeError(f"{self.name}: plasticity takes rules; got {type(rule).__name__}")
        self.plasticity = tuple(rules)
        self.rules = nn.ModuleList(rules)
        self.shared = shared
        if bounds is not None and not bounds[0] <= bounds[1]:
            raise ValueError(f"{self.name}: bounds upside down: {bounds[0]} > {bounds[1]}")
        self.bounds = bounds
        if not (delay >= 0 and math.isfinite(delay)):
            raise ValueError(f"{self.name}: delay must be >= 0; got {delay}")
        self.delay = float(delay)
        if filter is not None and not (filter[0] >= 1 and filter[1] > 0):
            raise ValueError(f"{self.name}: filter takes (order >= 1, tau > 0); got {filter}")
        self.filter = filter
        start = as_values(weight, self.name).clone()
        if self.plasticity:
            self.register_buffer("initial", start)
        else:
            self.add_parameters({"weight": start})
        self.register_buffer("mask", None if mask is None else torch.as_tensor(mask).bool())
        self.register_buffer("sign", None if sign is None else _signs(sign, self.name))

    def reads(self) -> tuple[str, ...]:
        """Return the presynaptic population, and the modulators of the rules."""
        modulators = [rule.modulator for rule in self.plasticity if isinstance(rule.modulator, str)]
        return (self.pre, *modulators)

    def hears(self) -> tuple[str, ...]:
        """Return the presynaptic population."""
        return (self.pre,)

    def signals(self) -> tuple[Signal, ...]:
        """Return the gates and modulators of the rules."""
        pairs = [(rule.gate, rule.modulator) for rule in self.plasticity]
        return tuple(s for pair in pairs for s in pair if isinstance(s, Signal))

    def gates(self) -> tuple[Signal, ...]:
        """Return none: those that it holds are of the rules."""
        return ()

    def connect(self, populations: Mapping[str, Population]) -> None:
        """Check the shapes against the populations and declare the variables."""
        pre, post = populations[self.pre], populations[self.post]
        shape = (post.size, pre.size)
        given = self.initial if self.plasticity else self.weight
        if given.dim() == 0:
            given = given.detach().expand(shape).clone()
        if tuple(given.shape[-2:]) != shape:
            raise ValueError(
                f"{self.name} must have shape (post, pre) = {shape}; got {tuple(given.shape)}"
            )
        for label, tensor in (("mask", self.mask), ("sign", self.sign)):
            want = shape if label == "mask" else (pre.size,)
            if tensor is not None and tensor.dim() and tuple(tensor.shape) != want:
                raise ValueError(
                    f"{self.name}: {label} must have shape {want}; got {tuple(tensor.shape)}"
                )
        if self.mask is not None:
            given = torch.where(self.mask, given, torch.zeros_like(given))
        if not torch.equal(self._constrained(given), given):
            raise ValueError(f"{self.name}: initial weights lie outside their signs or bounds")
        pre_dim = pre.dim if self.pre != self.post else f"{pre.dim}_pre"
        variables: list[Variable] = []
        if self.plasticity:
            self.initial = given
            weight = Variable(
                self.name, {post.dim: post.size, pre_dim: pre.size}, _ratio(post, self.port, pre),
                initial=given, shared=self.shared,
            )  # fmt: skip
            variables.append(weight)
            for rule in self.plasticity:
                variables += rule.variables(weight, post.dim, pre_dim)
        elif self.weight.dim() == 0:
            self.weight = nn.Parameter(given, requires_grad=self.weight.requires_grad)
        if self.filter is not None:
            dims = {f"stage_{self.name}": self.filter[0], pre.dim: pre.size}
            variables.append(Variable(f"z_{self.name}", dims, pre.unit, tau=self.filter[1]))
        self.variables = tuple(variables)

    @property
    def autonomous(self) -> bool:
        """Whether all its rules read the time through signals alone."""
        return type(self) is Synapse and all(rule.autonomous for rule in self.plasticity)

    @property
    def products(self) -> tuple[int, str] | None:
        """The outer products of all rules together; None where signs or bounds stop them."""
        free = self.mask is None and self.sign is None and self.bounds is None
        rules = [rule.products for rule in self.plasticity]
        if not (free and rules):
            return None
        count, sides = 0, set()
        for one in rules:
            if one is None:
                return None
            count += one[0]
            sides.add(one[1])
        sides.discard("")
        return None if len(sides) > 1 else (count, next(iter(sides), ""))

    def weights(self, state: State) -> Tensor:
        """Return the weights as the current uses them."""
        w = state[self.name] if self.plasticity else self.weight
        if self.mask is not None and not self.plasticity:
            w = w * self.mask
        return self._constrained(w)

    def arriving(self, moment: Moment) -> Tensor:
        """Return the presynaptic activity that arrives now, ``(*batch, pre)``."""
        if self.filter is not None:
            return moment.state[f"z_{self.name}"][..., -1, :]
        return moment.activity(self.pre, self.delay)

    def forward(self, moment: Moment) -> Tensor:
        """Return W x."""
        x, w = self.arriving(moment), self.weights(moment.state)
        if isinstance(w, LowRank):  # as the solver has it that knows what plasticity makes
            return w.apply(x)
        return x @ w.T if w.dim() == 2 else (w @ x.unsqueeze(-1)).squeeze(-1)

    def affine(self, moment: Moment) -> Affine | None:
        """Return the weights, where what arrives is what the presynaptic population does now."""
        if self.filter is not None or self.delay:
            return None
        w = self.weights(moment.state)
        return Affine(self.pre, w) if isinstance(w, Tensor) else None

    def contributions(self, moment: Moment) -> list[tuple[Plasticity, State]]:
        """Return what each rule adds to the derivatives, before signs and bounds stop it."""
        local = None
        parts: list[tuple[Plasticity, State]] = []
        for rule in self.plasticity:
            factor: Tensor | None = None
            if rule.gate is not None:
                factor = rule.gate(moment.t)
                if closed(factor):
                    parts.append((rule, {}))
                    continue
            local = self.local(moment, rule)
            change = rule.forward(local)
            if factor is not None:
                w = change["w"]
                if isinstance(w, Factors):
                    change["w"] = w.scaled(factor.to(local.w.dtype))
                else:
                    factor = factor.to(w.dtype)
                    change["w"] = w * (factor if factor.dim() == 0 else factor[..., None, None])
            parts.append((rule, change))
        return parts

    def derivative(self, moment: Moment) -> State:
        """Return dW/dt and the derivatives of traces and thresholds."""
        result: State = {}
        total: Tensor | None = None
        for rule, change in self.contributions(moment):
            for short, value in change.items():
                if short == "w":
                    total = value if total is None else total + value
                else:
                    result[rule_variable(short, self.name)] = value
            del rule
        if total is not None:
            result[self.name] = self._stopped(total, moment.state[self.name])
        if self.filter is not None:
            order, tau = self.filter
            z = moment.state[f"z_{self.name}"]
            x = moment.activity(self.pre, self.delay).unsqueeze(-2)
            above = torch.cat([x.expand_as(z[..., :1, :]), z[..., :-1, :]], dim=-2)
            result[f"z_{self.name}"] = (above - z) * (order / tau)
        return result

    def linear(self, moment: Moment) -> State:
        """Return the decay rate of the filter's stages."""
        if self.filter is None:
            return {}
        z = moment.state[f"z_{self.name}"]
        return {f"z_{self.name}": torch.full_like(z, -self.filter[0] / self.filter[1])}

    def project(self, state: State) -> State:
        """Return the weights inside their signs and bounds."""
        if not self.plasticity or (self.sign is None and self.bounds is None):
            return {}
        return {self.name: self._constrained(state[self.name])}

    def local(self, moment: Moment, rule: Plasticity) -> Local:
        """Return what a rule of this synapse may read."""
        own = {
            name.removesuffix(f"_{self.name}"): moment.state[name]
            for name in (v.name for v in self.variables[1:])
            if name.endswith(f"_{self.name}")
        }
        return Local(
            t=moment.t,
            w=moment.state[self.name],
            x=self.arriving(moment),
            y=moment.activity(self.post),
            dx=lambda: moment.rate(self.pre),
            dy=lambda: moment.rate(self.post),
            modulator=_modulator(moment, rule.modulator),
            own=own,
            shared=self.shared,
        )

    def _constrained(self, w: Tensor) -> Tensor:
        if self.sign is not None:
            w = torch.where(w * self.sign >= 0, w, torch.zeros_like(w))
        if self.bounds is not None:
            w = w.clamp(*self.bounds)
        return w

    def _stopped(self, change: Tensor, w: Tensor) -> Tensor:
        if self.mask is not None:
            change = change * self.mask
        if self.sign is not None:
            outward = (w * self.sign <= 0) & (change * self.sign < 0)
            change = torch.where(outward, torch.zeros_like(change), change)
        if self.bounds is not None:
            low, high = self.bounds
            outward = ((w <= low) & (change < 0)) | ((w >= high) & (change > 0))
            change = torch.where(outward, torch.zeros_like(change), change)
        return change


def rule_variable(short: str, weight: str) -> str:
    """Return the full name of a rule's auxiliary variable."""
    return f"{short}_{weight}"


def _modulator(moment: Moment, modulator: str | Signal | None):  # type: ignore[no-untyped-def]
    if modulator is None:
        return None
    if isinstance(modulator, str):
        return lambda: moment.activity(modulator)
    return lambda: _column(modulator(moment.t), moment)


def _column(value: Tensor, moment: Moment) -> Tensor:
    dtype = next(iter(moment.state.values())).dtype
    value = value.to(dtype)
    return value.unsqueeze(-1) if value.dim() else value


def _signs(sign: Tensor | int, name: str) -> Tensor:
    signs = torch.as_tensor(sign)
    if not bool(((signs == 1) | (signs == -1)).all()):
        raise ValueError(f"{name}: sign must be +1 or -1; got {signs.tolist()}")
    return signs.to(torch.float64)


def _ratio(post: Population, port: str, pre: Population) -> str:
    current = getattr(post, "ports", {}).get(port, "1")
    if current == pre.unit:
        return "1"
    from ctsigprop.units import divide_units

    return divide_units(current, pre.unit)
