"""Backpropagation, the rule that the others are measured against: at once, and through time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctsigprop.errors import unknown
from ctsigprop.learning.layerwise import SGD, LayerRule, Optimizer, evaluating
from ctsigprop.models.layers import Drive, Layers
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver
from ctsigprop.solvers.explicit.fixed import Euler

__all__ = ["LOSSES", "Backpropagation", "ContinuousBackpropagation", "Loss", "cost", "send_back"]

Loss = Literal["cross_entropy", "squared_error"]

#: The costs of an output.
LOSSES: tuple[Loss, ...] = ("cross_entropy", "squared_error")


class Backpropagation(LayerRule):
    """Backpropagation of the output's error through the transposed weights.

        δ_N = ∂C/∂a_N,    δ_k = W_{k+1}ᵀ δ_{k+1} ∘ f'(a_k),    ΔW_k ∝ −δ_k h_{k−1}ᵀ

    with a_k the input of layer k's nonlinearity f. Each layer steps as soon as the error, on its
    way back, has left it.

    Parameters
    ----------
    network : Layers
        What learns.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    loss : {"cross_entropy", "squared_error"}
        C, the mean over the batch: of the softmax of the output, or ½|y − c|².

    References
    ----------
    Rumelhart, Hinton & Williams 1986, Nature 323:533-536, eqs. 4 to 7.

    Examples
    --------
    >>> rule = Backpropagation(Layers.dense([4, 8, 2]))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        loss: Loss = "cross_entropy",
    ) -> None:
        super().__init__(network, optimizer)
        check_loss(loss)
        self.loss = loss

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        return {**super().settings, "loss": self.loss}

    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before."""
        activities: list[Tensor] = []
        for k in range(self.network.depth):
            activities.append(self.activity(k, activities[-1] if k else x))
        send_back(self, activities, labels, self.loss)
        return activities[-1]


class ContinuousBackpropagation(LayerRule):
    """Backpropagation through the relaxation of a network in continuous time.

        tau dh_k/dt = −h_k + f_k(h_{k−1}),  h_k(0) = 0,    ΔW_k ∝ −∂C(h_N(end))/∂W_k

    The gradient goes back through every step of the solver; or, with
    ``TorchDiffEq(adjoint=True)``, it is integrated backward in time. Where `end` is long after the
    network has settled, it is the gradient of `Backpropagation`. Every layer waits for the whole
    way back through time before it steps.

    Parameters
    ----------
    network : Layers
        What learns.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    tau : float
        Time constant of every unit.
    end : float
        When the output is read, x held from time 0.
    solver : Solver
        One that has gradients; steps of tau/2 by Euler's method by default.
    loss : {"cross_entropy", "squared_error"}
        C, as in `Backpropagation`.

    Raises
    ------
    TypeError, ValueError
        No solver, or one without gradients; a time that is not positive; an unknown loss.

    References
    ----------
    Chen, Rubanova, Bettencourt & Duvenaud 2018, Neural ordinary differential equations, NeurIPS,
    for the adjoint.

    Examples
    --------
    >>> rule = ContinuousBackpropagation(Layers.dense([4, 8, 2]), end=20.0)
    >>> x = torch.rand(5, 4)
    >>> rule.present(x, torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    >>> torch.allclose(rule.respond(x), rule.network(x), atol=1e-6)
    True
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        tau: float = 1.0,
        end: float = 10.0,
        solver: Solver | None = None,
        loss: Loss = "cross_entropy",
    ) -> None:
        super().__init__(network, optimizer)
        check_loss(loss)
        for what, time in (("tau", tau), ("end", end)):
            if not 0 < time < math.inf:
                raise ValueError(f"{what} must be positive and finite; got {time}")
        self.solver = Euler(dt=tau / 2) if solver is None else solver
        if not isinstance(self.solver, Solver):
            raise TypeError(f"solver must be a solver; got {type(solver).__name__}")
        if not self.solver.gradients:
            raise ValueError(
                f"solver {type(solver).__name__} has no gradients: take Euler, Tsit5 or TorchDiffEq"
            )
        self.tau, self.end, self.loss = tau, end, loss

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        own = {"tau": self.tau, "end": self.end, "solver": repr(self.solver), "loss": self.loss}
        return {**super().settings, **own}

    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before."""
        output = self._relaxed(x)
        groups = [self.parameters_of(k) for k in range(self.network.depth)]
        flat = [parameter for group in groups for parameter in group]
        gradients = list(
            torch.autograd.grad(cost(output, labels, self.loss), flat, allow_unused=True)
        )
        for k in reversed(range(self.network.depth)):
            cut = len(gradients) - len(groups[k])
            self.step(k, gradients[cut:])
            del gradients[cut:]
        return output

    @torch.no_grad()
    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs at `end`, ``(batch, classes)``."""
        self.check_input(x)
        with evaluating(self):
            return self._relaxed(x)

    def _relaxed(self, x: Tensor) -> Tensor:
        system = self.network.system(self.tau)
        for k, drive in enumerate(system.currents):
            if isinstance(drive, Drive):  # one a layer, in their order
                drive.module = _Observed(drive.module, self.observed, k)
        rest = {name: x.new_zeros(len(x), *v.shape) for name, v in system.variables.items()}
        run = solve(system, rest, [0.0, self.end], solver=self.solver, inputs={"x": x})
        if run.status == "interrupted":  # solve() keeps what it reached, which is no output
            raise KeyboardInterrupt
        return run["s_y"][-1]


class _Observed(nn.Module):
    """A layer whose every activity is shown to the observer of a rule."""

    def __init__(self, layer: nn.Module, observed: Callable[[int, Tensor], Tensor], k: int) -> None:
        super().__init__()
        self.layer, self.observed, self.k = layer, observed, k

    def forward(self, h: Tensor) -> Tensor:
        return self.observed(self.k, self.layer(h))


def check_loss(loss: str) -> None:
    """Refuse the name of a cost that is none."""
    if loss not in LOSSES:
        raise ValueError(unknown("loss", loss, LOSSES))


def cost(output: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Return the mean cost of a batch of outputs.

    Parameters
    ----------
    output : Tensor
        ``(batch, classes)``.
    labels : Tensor
        Whole numbers, ``(batch,)``; or targets, ``(batch, classes)``, of a floating-point type.
    loss : {"cross_entropy", "squared_error"}
        Of the softmax of the output, or ½|y − c|².

    Examples
    --------
    >>> cost(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), "squared_error")
    tensor(1.)
    """
    if loss == "cross_entropy":
        return functional.cross_entropy(output, labels)
    if not labels.is_floating_point():
        labels = functional.one_hot(labels.long(), output.shape[-1]).to(output)
    return (output - labels).square().sum(-1).mean() / 2


def send_back(rule: LayerRule, activities: Sequence[Tensor], labels: Tensor, loss: Loss) -> None:
    """Send the error of the output back through the graph of the activities h_1 … h_N.

    Each layer of the rule steps when the error has left it.
    """
    output = activities[-1]
    error = torch.autograd.grad(cost(output, labels, loss), output, retain_graph=True)[0]
    for k in reversed(range(len(activities))):
        below = [h for h in activities[:k][-1:] if h.requires_grad]
        wanted = [*rule.parameters_of(k), *below]
        if not wanted:
            return
        gradients = list(torch.autograd.grad(activities[k], wanted, error, allow_unused=True))
        if below:
            error = gradients.pop()
        rule.step(k, gradients)
        if not below:
            return
