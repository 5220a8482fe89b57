"""Predictive Forward-Forward: two circuits, one that tells labels apart and one that predicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctsigprop.errors import unknown
from ctsigprop.learning.forward_forward import wrong_labels
from ctsigprop.learning.layerwise import LayerRule, Optimizer, evaluating
from ctsigprop.learning.relaxing import check_count, one_hot
from ctsigprop.models.layers import Layers
from ctsigprop.solvers.options import check_positive

__all__ = ["PredictiveForwardForward"]

Prediction = Literal["goodness", "readout"]

_SLOW: Optimizer = partial(torch.optim.Adam, lr=2.5e-4)


class PredictiveForwardForward(LayerRule):
    """Forward-Forward in a recurrent circuit, with a second circuit that predicts its activities.

    The circuit of representation, for k = 1 … N − 1, z_0 = x and a softmax y on top:

        a_k = W_k n(z_{k−1}) + V_k n(z_{k+1}) − M_k z_k + b_k + noise,    V_{N−1} hears the label c
        z_k <- keep z_k + (1 − keep) relu(a_k),    y = softmax(W_N n(z_{N−1}) + b_N)
        M_ij = relu(L_ij) between units i ≠ j of a group, −relu(L_ii) of a unit with itself
        L_k = −log sigma(±(Σ_j z_kj² − threshold)),  + for the own label, − for a wrong one

    with n(z) = z/|z|. The generative circuit, with a latent u_N = u of its own on top:

        μ_{k−1} = relu(G_k n(u_k)),  u_k = relu(z_k + noise),    μ_0 = clip(G_1 n(u_1), 0, 1)
        e_k = μ_k − z_k,    ΔG_k ∝ −e_{k−1} ⊗ n(u_k),    Δu = −beta G_Nᵀ e_{N−1}

    Both begin at the forward pass without V and M, u at 0, and take `steps` steps, units of all
    layers at once. At every step each layer learns from its own L_k: W_k, V_k, L_k, b_k by
    δ_k = ∂L_k/∂z_k times what they carry, relu' taken as 1; W_N by (c − y) ⊗ n(z_{N−1}) with the
    own label only. What is predicted does not change the circuit of representation.

    As signal propagation: L_k is the loss `Goodness` of sample and context gone forward together;
    but the context enters from above, at layer N − 1, and comes down a layer with each step.

    Parameters
    ----------
    network : Layers
        W_k, b_k: dense, "relu" but for the last, which has a unit for each class and no
        nonlinearity.
    optimizer : callable or sequence of callable
        Of each layer with its V_k, L_k and G_k; Adam at rate 0.00025 by default.
    steps : int
        For each batch, and so for how often weights move, 2 or more.
    keep : float
        The share of its activity that a unit keeps in a step.
    threshold : float
        Of goodness, Σ_j z_kj².
    strength : float
        What stands for the class in the label c.
    group : int
        Units that inhibit each other; hidden layers are made of whole groups.
    latents : int
        Units of u.
    beta : float
        How fast u moves.
    noise, generative_noise : float
        Standard deviation, while learning.
    predict : {"goodness", "readout"}
        The answer: the goodness of all hidden layers, for each class as the label, at the two steps
        in the middle; or the input of the softmax after the forward pass. It may be set again at
        any time; learning is faster for "readout".
    seed : int
        Of wrong labels and noise; of V_k, normal with variance 1/units; of L_k and G_k, uniform
        from 0 to 0.05.

    Raises
    ------
    ValueError
        Layers of another kind, hidden layers not made of groups, an option out of its range.

    References
    ----------
    Ororbia & Mali 2023, The predictive forward-forward algorithm, arXiv 2301.01452, and the
    authors' code, from which the defaults are. In that code it is the own label whose goodness is
    to be low, gradients are clipped to ±1, and Δu goes through the slope of n as well.

    Examples
    --------
    >>> rule = PredictiveForwardForward(Layers.dense([4, 20, 20, 2]), latents=5)
    >>> x = torch.rand(5, 4)
    >>> rule.present(x, torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    >>> rule.reconstruct(x, torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = _SLOW,
        *,
        steps: int = 12,
        keep: float = 0.3,
        threshold: float = 10.0,
        strength: float = 5.0,
        group: int = 10,
        latents: int = 20,
        beta: float = 0.025,
        noise: float = 0.01,
        generative_noise: float = 0.025,
        predict: Prediction = "goodness",
        seed: int = 0,
    ) -> None:
        if not isinstance(network, Layers):
            raise TypeError(f"network must be Layers; got {type(network).__name__}")
        check_count("steps", steps)
        check_count("group", group)
        check_count("latents", latents)
        if steps < 2:
            raise ValueError(f"steps must be 2 or more, for goodness in the middle; got {steps}")
        if not 0 <= keep < 1:
            raise ValueError(f"keep must be from 0 to below 1; got {keep}")
        for name, value in (("threshold", threshold), ("strength", strength), ("beta", beta)):
            check_positive(name, value)
        for name, value in (("noise", noise), ("generative_noise", generative_noise)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be >= 0; got {value}")
        if predict not in get_args(Prediction):
            raise ValueError(unknown("prediction", predict, get_args(Prediction)))
        _check_layers(network, group)
        generator = torch.Generator().manual_seed(seed)
        super().__init__(network, optimizer, seed, _circuits(network, group, latents, generator))
        self.generator.set_state(generator.get_state())
        self.steps, self.keep, self.threshold, self.strength = steps, keep, threshold, strength
        self.group, self.latents, self.beta = group, latents, beta
        self.noise, self.generative_noise, self.predict = noise, generative_noise, predict

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        names = (
            "steps",
            "keep",
            "threshold",
            "strength",
            "group",
            "latents",
            "beta",
            "noise",
            "generative_noise",
            "predict",
        )
        return super().settings | {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before."""
        before = self.respond(x)
        own = one_hot(labels, self.classes, x)
        other = wrong_labels(torch.zeros_like(own), labels, self.generator)
        c = torch.cat([own, one_hot(other, self.classes, x)])
        sign = torch.ones_like(c[:, :1])
        sign[len(x) :] = -1
        x = torch.cat([x, x])
        z, u = self._forward(x)[:-1], x.new_zeros(len(x), self.latents)
        for _ in range(self.steps):
            z, u = self._step(x, c, sign, z, u)
        return before

    @torch.no_grad()
    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs, ``(batch, classes)``: goodness, or the softmax's input."""
        self.check_input(x)
        with evaluating(self):
            return self._forward(x)[-1] if self.predict == "readout" else self._compare(x)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return what the generative circuit makes of z_{N−1} after the last step: μ_0 downward."""
        self.check_presentation(x, labels)
        for z in self._states(x, one_hot(labels, self.classes, x), self.steps):
            h = z[-1]
        for k in reversed(range(1, len(z))):
            h = self._predicted(k, _unit(h)).relu()
        return self._predicted(0, _unit(h)).clamp(0, 1)

    def _compare(self, x: Tensor) -> Tensor:
        """Return the goodness for each class, a mean over the two steps in the middle."""
        classes = torch.eye(self.classes, dtype=x.dtype, device=x.device).repeat(len(x), 1)
        shown = x.repeat_interleave(self.classes, 0)
        *_, first, second = self._states(shown, classes, self.steps // 2 + 1)
        goodness = torch.stack([z.square().sum(1) for z in (*first, *second)])
        return goodness.sum(0).reshape(-1, self.classes) / 2

    def _states(self, x: Tensor, c: Tensor, steps: int) -> Iterator[list[Tensor]]:
        """Give the hidden states after each step, without noise and learning."""
        z = self._forward(x)[:-1]
        for _ in range(steps):
            sent = [_unit(h) for h in (x, *z)]
            z = [self._moved(k, h, sent, c, 0.0) for k, h in enumerate(z)]
            yield z

    def _forward(self, x: Tensor) -> list[Tensor]:
        """Return z_1 … z_{N−1}, and the input of the softmax, without V and M."""
        found: list[Tensor] = []
        for k in range(self.network.depth):
            found.append(self.activity(k, _unit(found[-1] if k else x)))
        return found

    def _step(
        self, x: Tensor, c: Tensor, sign: Tensor, z: list[Tensor], u: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Return z and u after one step of both circuits, in which every layer has learned."""
        sent, new, share = [_unit(h) for h in (x, *z)], [x], 1 / len(x)
        for k, before in enumerate(z):
            s = self._moved(k, before, sent, c, self.noise)
            excess = s.square().sum(1, keepdim=True) - self.threshold
            wanted = 2 * (1 - self.keep) * sign * torch.sigmoid(-sign * excess) * s
            upper = _unit((s + self._noise(s, self.generative_noise)).relu())
            own = {
                "feedback": -share * wanted.T @ self._above(k, sent, c),
                "lateral": self._lateral_gradient(k, share * wanted, before),
                "generative": share * self._error(k, upper, new[k]).T @ upper,
            }
            self._step_along(k, -share * wanted, sent[k], own)
            new.append(s)

        top = len(z)
        y = self.observed(top, self._linear(top)(sent[top])).softmax(1)
        wrong = 2 * share * (y - c) * (sign > 0)  # half of the rows have the own label
        upper = _unit(u.relu())
        error = self._error(top, upper, new[top])
        u = u - self.beta * error @ self._circuit(top).generative
        self._step_along(top, wrong, sent[top], {"generative": share * error.T @ upper})
        return new[1:], u

    def _moved(self, k: int, z: Tensor, sent: list[Tensor], c: Tensor, noise: float) -> Tensor:
        """Return z_k after a step from what the layers sent."""
        circuit = self._circuit(k)
        inhibition = torch.einsum("gij,bgj->bgi", _signed(circuit.lateral), self._grouped(z))
        a = self._linear(k)(sent[k]) - inhibition.flatten(1) + self._noise(z, noise)
        a += functional.linear(self._above(k, sent, c), circuit.feedback)
        return self.observed(k, torch.lerp(a.relu(), z, self.keep))

    def _error(self, k: int, upper: Tensor, lower: Tensor) -> Tensor:
        """Return e_{k−1} times the slope of what predicts."""
        predicted = self._predicted(k, upper)
        if k:
            return predicted.relu() - lower
        return (predicted.clamp(0, 1) - lower) * ((predicted >= 0) & (predicted <= 1))

    def _predicted(self, k: int, upper: Tensor) -> Tensor:
        return functional.linear(upper, self._circuit(k).generative)

    def _lateral_gradient(self, k: int, wanted: Tensor, z: Tensor) -> Tensor:
        pairs = torch.einsum("bgi,bgj->gij", self._grouped(wanted), self._grouped(z))
        lateral = self._circuit(k).lateral
        return pairs * (_signed(torch.ones_like(lateral)) * (lateral > 0))

    def _step_along(self, k: int, delta: Tensor, before: Tensor, own: dict[str, Tensor]) -> None:
        gradients = {"weight": delta.T @ before, "bias": delta.sum(0)}
        linear = [gradients[name] for name, _ in self._linear(k).named_parameters()]
        self.step(k, [*linear, *(own[name] for name, _ in self._circuit(k).named_parameters())])

    def _above(self, k: int, sent: list[Tensor], c: Tensor) -> Tensor:
        return sent[k + 2] if k + 2 < len(sent) else self.strength * c

    def _grouped(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), -1, self.group)

    def _noise(self, like: Tensor, deviation: float) -> Tensor:
        if not deviation:
            return like.new_zeros(())
        return deviation * torch.randn(like.shape, generator=self.generator).to(like)

    def _linear(self, k: int) -> nn.Linear:
        layer = self.network.layers[k]
        return cast(nn.Linear, layer[0] if isinstance(layer, nn.Sequential) else layer)

    def _circuit(self, k: int) -> _Circuit:
        return cast(_Circuit, self.own[k])


class _Circuit(nn.Module):
    """What a layer learns beside W_k and b_k."""

    generative: nn.Parameter
    feedback: nn.Parameter
    lateral: nn.Parameter

    def __init__(self, **weights: Tensor) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight))


def _circuits(
    network: Layers, group: int, latents: int, generator: torch.Generator
) -> list[_Circuit]:
    like = next(network.parameters())
    sizes = [network.inputs, *(n for (n,) in network.shapes)]

    def uniform(*shape: int) -> Tensor:
        return 0.05 * torch.rand(shape, generator=generator, dtype=torch.float64)

    circuits = []
    for below, size, above in zip(sizes, sizes[1:-1], sizes[2:], strict=False):
        drawn = torch.randn(size, above, generator=generator, dtype=torch.float64)
        circuits.append(
            _Circuit(
                feedback=drawn / math.sqrt(size),
                lateral=uniform(size // group, group, group),
                generative=uniform(below, size),
            ).to(like)
        )
    return [*circuits, _Circuit(generative=uniform(sizes[-2], latents)).to(like)]


def _check_layers(network: Layers, group: int) -> None:
    for name, layer, shape in zip(network.names, network.layers, network.shapes, strict=True):
        hidden, parts = name != "y", list(layer) if isinstance(layer, nn.Sequential) else [layer]
        rho = nn.ReLU if hidden else nn.Identity
        if not isinstance(parts[0], nn.Linear) or [type(part) for part in parts[1:]] not in (
            [[rho]] if hidden else [[rho], []]
        ):
            raise ValueError(
                f"layer {name} is {layer}; PredictiveForwardForward takes a torch.nn.Linear with "
                "torch.nn.ReLU behind it, and last one without a nonlinearity"
            )
        if hidden and shape[0] % group:
            raise ValueError(f"layer {name} has {shape[0]} units, not whole groups of {group}")
    if network.depth < 2:
        raise ValueError("PredictiveForwardForward needs a hidden layer before the output")


def _signed(lateral: Tensor) -> Tensor:
    """Return M: relu(L) between units, for inhibition, −relu(L) of a unit with itself."""
    own = torch.eye(lateral.shape[-1], dtype=lateral.dtype, device=lateral.device)
    return lateral.relu() * (1 - 2 * own)


def _unit(z: Tensor) -> Tensor:
    return functional.normalize(z, dim=1)
