"""Deep feedback control: a controller drives the output to its target through every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ctsigprop.errors import ConvergenceError, unknown
from ctsigprop.learning.backprop import Loss, check_loss
from ctsigprop.learning.layerwise import SGD, Optimizer
from ctsigprop.learning.relaxing import RelaxingRule, check_count, one_hot, output_error
from ctsigprop.models.layers import Layers
from ctsigprop.solvers.options import check_positive

__all__ = ["DeepFeedbackControl"]

Feedback = Literal["weight_product", "random", "jacobian"]
Difference = Literal["rates", "potentials"]


class DeepFeedbackControl(RelaxingRule):
    """Deep feedback control: the output is driven to a target, and layers learn to need no drive.

        tau_v dv_k/dt = −v_k + W_k h_{k−1} + b_k + Q_k u,    h_k = rho_k(v_k),  h_0 = x
        u = i + gain e,    tau_u di/dt = e − leak i
        e = c* − h_N,      c* = y − target_step ∂C/∂y
        ΔW_k ∝ (rho_k(v_k) − rho_k(a_k)) ⊗ h_{k−1} / target_step,    a_k = W_k h_{k−1} + b_k

    at the end of the relaxation, which begins with the forward pass and its output y. A step of the
    solver takes the layers in their order, each with what the one before gives now; with dt = tau_v
    they follow u at once. The prediction is the forward pass.

    The controller is stable where the eigenvalues of Σ J_k Q_k + leak, J_k = ∂h_N/∂v_k, have
    positive real parts. The layers that learn come to fit their fixed feedback; hidden layers that
    do not learn are left behind by those above, and random feedback needs a leak to begin with.

    With Q_k = J_kᵀ, small target steps, and the difference of "potentials", the update is that of
    backpropagation where control is weak (leak much above |JJᵀ|, gain 0), and the smallest change
    of the v_k that brings the output to its target, as by Gauss and Newton, where it is strong
    (leak 0).

    Parameters
    ----------
    network : Layers
        W_k, b_k, rho_k; dense.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    feedback : {"weight_product", "random", "jacobian"}
        Q_k. Fixed, Q_N the identity, and the others W_{k+1}ᵀ … W_Nᵀ of the initial network, which
        is J_kᵀ without nonlinearities; or normal numbers of variance 2/(units + classes). Or
        J_kᵀ of each sample at its forward pass, which no fixed weights can have: the ideal.
    difference : {"rates", "potentials"}
        Whether ΔW_k has the difference of the rates, or v_k − a_k.
    loss : {"cross_entropy", "squared_error"}
        C of a sample: of the softmax of y, or ½|y − c|².
    target_step : float
        How far the target lies down the slope of C.
    gain, leak : float
        Of the controller, >= 0.
    steps : int
        Of the relaxation.
    dt, tau_v, tau_u : float
        Length of a step, at most tau_v; time constants of the units and of the controller.
    seed : int
        Of random feedback.

    Raises
    ------
    ValueError
        A layer that is not dense, an option out of its range.
    ConvergenceError, NonFiniteError
        From `present`: the controller drives the output away from its target.

    References
    ----------
    Meulemans, Tristany Farinha, García Ordóñez, Vilimelis Aceituno, Sacramento & Grewe 2021, Credit
    assignment in neural networks through deep feedback control, NeurIPS.

    Examples
    --------
    >>> rule = DeepFeedbackControl(Layers.dense([4, 8, 2], rho="tanh"))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    >>> rule.Q_h1.shape
    torch.Size([8, 2])
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        feedback: Feedback = "weight_product",
        difference: Difference = "rates",
        loss: Loss = "cross_entropy",
        target_step: float = 0.1,
        gain: float = 0.0,
        leak: float = 0.0,
        steps: int = 30,
        dt: float = 0.05,
        tau_v: float = 0.05,
        tau_u: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed)
        if feedback not in get_args(Feedback):
            raise ValueError(unknown("feedback", feedback, get_args(Feedback)))
        if difference not in get_args(Difference):
            raise ValueError(unknown("difference", difference, get_args(Difference)))
        check_loss(loss)
        times = {"target_step": target_step, "dt": dt, "tau_v": tau_v, "tau_u": tau_u}
        for name, value in times.items():
            check_positive(name, value)
        check_count("steps", steps)
        if dt > tau_v:
            raise ValueError(f"dt must be at most tau_v, {tau_v}; got {dt}")
        for name, value in (("gain", gain), ("leak", leak)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be >= 0 and finite; got {value}")
        self.feedback, self.difference, self.loss = feedback, difference, loss
        self.target_step, self.gain, self.leak = target_step, gain, leak
        self.steps, self.dt, self.tau_v, self.tau_u = steps, dt, tau_v, tau_u
        if feedback != "jacobian":
            self._draw(seed)

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        names = ("feedback", "difference", "loss", "target_step", "gain", "leak", "steps")
        times = ("dt", "tau_v", "tau_u")
        return super().settings | {name: getattr(self, name) for name in (*names, *times)}

    @torch.no_grad()
    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs of the forward pass."""
        v: list[Tensor] = []
        rates = [x]
        for k in range(self.network.depth):
            v.append(self.observed(k, self.affine(k, rates[k])))
            rates.append(self.rho(k, v[k]))
        output = rates[-1]
        slope = output_error(output, one_hot(labels, self.classes, x), self.loss)
        v, rates = self._controlled(v, rates, output - self.target_step * slope)
        share = 1 / (self.target_step * len(x))
        for k, h in enumerate(rates[:-1]):
            alone = self.affine(k, h)
            change = (
                rates[k + 1] - self.rho(k, alone) if self.difference == "rates" else v[k] - alone
            )
            self.move(k, share * change.T @ h, share * change.sum(0))
        return output

    def _controlled(
        self, v: list[Tensor], rates: list[Tensor], target: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return v_1 … v_N, and x, h_1 … h_N, under control for `steps` from the forward pass."""
        v, rates = list(v), list(rates)
        slopes = [self.slope(k, h) for k, h in enumerate(rates[1:])]
        drive, error = self.affine(0, rates[0]), target - rates[-1]
        integral, before = torch.zeros_like(error), float(error.norm())
        for _ in range(self.steps):
            sent = self._sent(torch.add(integral, error, alpha=self.gain), slopes)
            for k, q in enumerate(sent):
                a = self.affine(k, rates[k]) if k else drive
                v[k] = self.observed(k, torch.lerp(v[k], a + q, self.dt / self.tau_v))
                rates[k + 1] = self.rho(k, v[k])
            error = target - rates[-1]
            integral = integral + self.dt / self.tau_u * (error - self.leak * integral)
        self.check_finite(v, self.steps * self.dt)
        after = float(error.norm())
        if self.unobserved and not after <= before:
            raise ConvergenceError(
                time=self.steps * self.dt,
                variable=self.network.names[-1],
                cause=f"the controller drove the output from {before:.3g} to {after:.3g} away from "
                "its target: take a smaller dt or gain, a larger leak or tau_u, or other feedback",
            )
        return v, rates

    def _sent(self, u: Tensor, slopes: Sequence[Tensor]) -> list[Tensor]:
        """Return Q_1 u … Q_N u."""
        last = self.network.depth - 1
        if self.feedback != "jacobian":
            names = self.network.names[:-1]
            return [*(u @ getattr(self, f"Q_{name}").T for name in names), u]
        sent = [u * slopes[last]]
        for k in reversed(range(last)):
            sent.insert(0, self.back(k + 1, sent[0]) * slopes[k])
        return sent

    @torch.no_grad()
    def _draw(self, seed: int) -> None:
        """Make the fixed feedback weights Q_1 … Q_{N−1}."""
        generator = torch.Generator().manual_seed(seed)
        like = next(self.network.parameters())
        product = torch.eye(self.classes).to(like)
        for k in reversed(range(self.network.depth - 1)):
            product = self.back(k + 1, product)
            q = product.T.clone()
            if self.feedback == "random":
                drawn = torch.empty(q.shape, dtype=torch.float64)
                q.copy_(nn.init.xavier_normal_(drawn, generator=generator))
            self.register_buffer(f"Q_{self.network.names[k]}", q)
