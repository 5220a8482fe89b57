"""Equilibrium propagation: a network that relaxes twice, and learns from the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ctsigprop.errors import ConvergenceError, unknown
from ctsigprop.learning.clipped import ClippedStates
from ctsigprop.learning.layerwise import SGD, Optimizer
from ctsigprop.learning.relaxing import RelaxingRule, check_count, one_hot
from ctsigprop.models.layers import Layers
from ctsigprop.solvers.options import check_positive

__all__ = [
    "ContinualEquilibriumPropagation",
    "EquilibriumPropagation",
]

Dynamics = Literal["energy", "prototypical"]
Form = Literal["one_sided", "random_sign", "centred"]


class _EnergyRule(RelaxingRule):
    """What settles in the energy of equilibrium propagation, freely and nudged."""

    forms: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        form: Form = "random_sign",
        beta: float = 0.5,
        dynamics: Dynamics = "energy",
        free: int = 20,
        nudged: int = 4,
        dt: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed)
        if form not in self.forms:
            raise ValueError(unknown("form", form, self.forms))
        if dynamics not in get_args(Dynamics):
            raise ValueError(unknown("dynamics", dynamics, get_args(Dynamics)))
        check_positive("beta", beta)
        check_count("free", free)
        check_count("nudged", nudged)
        if not 0 < dt <= 1:
            raise ValueError(f"dt must lie in (0, 1], in units of tau; got {dt}")
        self.form, self.beta, self.dynamics = form, beta, dynamics
        self.free, self.nudged, self.dt = free, nudged, dt

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        names = ("form", "beta", "dynamics", "free", "nudged", "dt")
        return super().settings | {name: getattr(self, name) for name in names}

    def respond(self, x: Tensor) -> Tensor:
        """Return the states of the output at the end of the free phase, ``(batch, classes)``."""
        self.check_input(x)
        return self.settle(x)[-1]

    @torch.no_grad()
    def settle(self, x: Tensor) -> list[Tensor]:
        """Return the states s_1 … s_N at the end of the free phase, which begins at 0."""
        return self._settled(x, self._clipped(x))

    def _settled(self, x: Tensor, clipped: ClippedStates | None) -> list[Tensor]:
        states = [x.new_zeros(len(x), *shape) for shape in self.network.shapes]
        changes: list[float] = []
        if clipped is not None:
            stretches = [1, self.free - 2, 1] if self.free > 1 else [1]
            for steps in stretches:
                before = clipped.states() if steps == 1 else []
                clipped.run(steps)
                pairs = list(zip(clipped.s, before, strict=False))
                changes += [sum(float((m - s).norm()) for m, s in pairs)] if pairs else []
            states = clipped.states()
        else:
            drive = self.affine(0, x)
            for step in range(self.free):
                moved = self._moved(states, drive)
                if step in (0, self.free - 1):
                    pairs = list(zip(moved, states, strict=True))
                    changes.append(sum(float((m - s).norm()) for m, s in pairs))
                states = [self.observed(k, s) for k, s in enumerate(moved)]
        self.check_finite(states, self.free * self.dt)
        if self.unobserved and changes[-1] > 2 * changes[0]:
            raise ConvergenceError(
                time=self.free * self.dt,
                cause=f"the first step of the free phase changed the states by {changes[0]:.3g}, "
                f"the last by {changes[-1]:.3g}: take a smaller dt, a bounded nonlinearity, or "
                "lower learning rates",
            )
        return states

    def nudge(
        self, x: Tensor, states: Sequence[Tensor], beta: float, target: Tensor
    ) -> list[Tensor]:
        """Return the states after a nudged phase of strength beta that begins at others."""
        return self._nudged(x, states, beta, target, self._clipped(x))

    @torch.no_grad()
    def _nudged(
        self,
        x: Tensor,
        states: Sequence[Tensor],
        beta: float,
        target: Tensor,
        clipped: ClippedStates | None,
    ) -> list[Tensor]:
        states = list(states)
        if clipped is not None:
            clipped.put(states)
            clipped.run(self.nudged, beta, target)
            states = clipped.states()
        else:
            drive = self.affine(0, x)
            for _ in range(self.nudged):
                states = self.advance(states, drive, beta, target)
        self.check_finite(states, (self.free + self.nudged) * self.dt)
        return states

    @torch.no_grad()
    def _clipped(self, x: Tensor) -> ClippedStates | None:
        """Return the units in buffers, at 0, where all of them clip and nobody watches."""
        layers = range(self.network.depth)
        if not (
            self.dynamics == "energy" and self.unobserved and all(self._clips(k) for k in layers)
        ):
            return None
        linear = [self._parts(k)[0] for k in layers]
        rhos = [self._parts(k)[1] for k in layers]
        bounds = [
            (rho.min_val, rho.max_val)
            if isinstance(rho, nn.Hardtanh)
            else (0.0 if isinstance(rho, nn.ReLU) else -torch.inf, torch.inf)
            for rho in rhos
        ]
        weights, biases = ([getattr(one, n) for one in linear[1:]] for n in ("weight", "bias"))
        return ClippedStates(self.affine(0, x), weights, biases, bounds, self.dt)

    def advance(
        self, states: Sequence[Tensor], drive: Tensor, beta: float, target: Tensor
    ) -> list[Tensor]:
        """Return the states after one nudged step, given W_1 x + b_1 as `drive`."""
        moved = self._moved(states, drive, beta, target)
        return [self.observed(k, s) for k, s in enumerate(moved)]

    def move_by(
        self, x: Tensor, after: Sequence[Tensor], before: Sequence[Tensor], beta: float
    ) -> None:
        """Let every layer step along (r_k ⊗ r_{k−1} after − before)/beta, a mean over the batch."""
        share, post0, post1 = -1 / (beta * len(x)), self._sent(before), self._sent(after)
        for k, (h0, h1) in enumerate(zip(post0, post1, strict=True)):
            pre0, pre1 = (post0[k - 1], post1[k - 1]) if k else (x, x)
            change = share * (h1 - h0)
            gradient = change.T @ pre1
            if k:
                gradient.addmm_(h0.T, pre1 - pre0, alpha=share)
            bias = self._parts(k)[0].bias
            self.step(k, [gradient] if bias is None else [gradient, change.sum(0)])

    def signed(self) -> float:
        """Return beta, or −beta in half of the calls where the sign is random."""
        if self.form != "random_sign":
            return self.beta
        return self.beta * (1 - 2 * int(torch.randint(2, (1,), generator=self.generator)))

    def _moved(
        self,
        states: Sequence[Tensor],
        drive: Tensor,
        beta: float = 0.0,
        target: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the states after one step, all of them from what the others were."""
        rates, moved = self._sent(states), []
        for k, (s, h) in enumerate(zip(states, rates, strict=True)):
            total = drive if k == 0 else self.affine(k, rates[k - 1])
            if k + 1 < len(rates):
                total = total + self.back(k + 1, rates[k + 1])
            nudge = beta * (target - s) if target is not None and k + 1 == len(rates) else 0.0
            if self.dynamics == "prototypical":
                moved.append(self.rho(k, total) + nudge)
            elif self._clips(k):
                moved.append(self.rho(k, torch.lerp(s, total + nudge, self.dt)))
            else:
                moved.append(torch.lerp(s, self.slope(k, h) * total + nudge, self.dt))
        return moved

    def _sent(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Return what the units send: rho(s), which is s itself where states stay in range."""
        if self.dynamics == "prototypical":
            return list(states)
        return [s if self._clips(k) else self.rho(k, s) for k, s in enumerate(states)]

    def _clips(self, k: int) -> bool:
        """Say whether rho_k is s within bounds, to which the states are then held, rho' = 1."""
        return isinstance(self._parts(k)[1], nn.Identity | nn.ReLU | nn.Hardtanh)


class EquilibriumPropagation(_EnergyRule):
    """Equilibrium propagation: the units relax freely, then nudged; weights learn the difference.

        E = ½ Σ s_k² − Σ r_kᵀ W_k r_{k−1} − Σ b_kᵀ r_k,    r_k = rho_k(s_k),  r_0 = x
        tau ds_k/dt = −∂E/∂s_k − beta ∂C/∂s_k,             C = ½ |s_N − c|²
                    = −s_k + rho_k'(s_k) ∘ (W_k r_{k−1} + b_k + W_{k+1}ᵀ r_{k+1}),  + beta (c − s_N)
        ΔW_k ∝ (r_k ⊗ r_{k−1} nudged − r_k ⊗ r_{k−1} free) / beta

    The free phase, beta = 0, begins at 0; the nudged one where the free phase ends. Every weight
    works in both directions. The prediction is the output of the free phase. States of a
    nonlinearity that clips ("hard", "relu", "identity") are held where it does not, with slope 1.

    Where the dynamics are "prototypical", time is discrete and there is no energy,

        s_k <- rho_k(W_k s_{k−1} + b_k + W_{k+1}ᵀ s_{k+1}),  + beta (c − s_N),    r_k = s_k

    The changes that one step after the other adds to the update equal, for small beta and a free
    phase that came to rest, those of backpropagation through time, from its last step to its first:
    for "energy" with any dt, for "prototypical" as far as rho has slope 1.

    Parameters
    ----------
    network : Layers
        W_k, b_k, rho_k; dense.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    form : {"random_sign", "one_sided", "centred"}
        Of the update: from beta, of a sign drawn for each batch; from beta; or, with half the
        difference over two nudged phases, at beta and −beta, which is exact to the second order.
    beta : float
        Strength of the nudge.
    dynamics : {"energy", "prototypical"}
        How the units move.
    free, nudged : int
        Steps of each phase.
    dt : float
        Length of a step, in units of tau, up to 1; of no effect on "prototypical".
    seed : int
        Of the signs.

    Raises
    ------
    ValueError
        A layer that is not dense, an option out of its range.
    ConvergenceError, NonFiniteError
        From `present` and `respond`: the free phase runs away.

    References
    ----------
    Scellier & Bengio 2017, Equilibrium propagation, Frontiers in Computational Neuroscience 11:24.
    Ernoult, Grollier, Querlioz, Bengio & Scellier 2019, Updates of equilibrium prop match gradients
    of backprop through time in an RNN with static input, NeurIPS, for discrete time. Laborieux,
    Ernoult, Scellier, Bengio, Grollier & Querlioz 2021, Scaling equilibrium propagation to deep
    ConvNets by drastically reducing its gradient estimator bias, Frontiers in Neuroscience 15, for
    the centred form.

    Examples
    --------
    >>> rule = EquilibriumPropagation(Layers.dense([4, 8, 2], rho="hard", output="hard"))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    forms = ("random_sign", "one_sided", "centred")

    @torch.no_grad()
    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the free outputs."""
        target = one_hot(labels, self.classes, x)
        units = self._clipped(x)
        free, beta = self._settled(x, units), self.signed()
        after = self._nudged(x, free, beta, target, units)
        if self.form == "centred":
            self.move_by(x, after, self._nudged(x, free, -beta, target, units), 2 * beta)
        else:
            self.move_by(x, after, free, beta)
        return free[-1]


class ContinualEquilibriumPropagation(_EnergyRule):
    """Equilibrium propagation whose weights move all through the nudged phase.

        dW_k/dt ∝ (1/beta) d/dt (r_k ⊗ r_{k−1})

    with the units of `EquilibriumPropagation`, which hear the weights as they are at each step: no
    state is kept from one phase to the other, and the weights step once a step of the nudged phase.
    At small rates the steps add up to the update of `EquilibriumPropagation`. Take plain gradient
    descent: an optimiser that scales each step on its own undoes the sum.

    Parameters
    ----------
    network : Layers
        W_k, b_k, rho_k; dense.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    form : {"random_sign", "one_sided"}
        Whether beta has a sign drawn for each batch.
    beta, dynamics, free, nudged, dt, seed
        As in `EquilibriumPropagation`.

    Raises
    ------
    ValueError, ConvergenceError, NonFiniteError
        As in `EquilibriumPropagation`.

    References
    ----------
    Ernoult, Grollier, Querlioz, Bengio & Scellier 2020, Equilibrium propagation with continual
    weight updates, arXiv 2005.04168.

    Examples
    --------
    >>> rule = ContinualEquilibriumPropagation(Layers.dense([4, 8, 2], rho="hard", output="hard"))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    forms = ("random_sign", "one_sided")

    @torch.no_grad()
    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch, step by step; return the free outputs."""
        target = one_hot(labels, self.classes, x)
        free, beta = self.settle(x), self.signed()
        before = free
        for _ in range(self.nudged):
            after = self.advance(before, self.affine(0, x), beta, target)
            self.check_finite(after, (self.free + self.nudged) * self.dt)
            self.move_by(x, after, before, beta)
            before = after
        return free[-1]
