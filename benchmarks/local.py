"""W5-local: an update of a learned field that goes only forward, beside gradients of the same.

The field of W5, its orbits, its targets. The orbits are followed to their end with nothing kept;
there the learning signal moves each end towards its target, y′ = y + beta (c − y), and goes through
the layers as the orbit does. Each layer learns from what it then does otherwise, by sigprop's
Hebbian rule

    ΔW_k = mean over the orbits of (t_k − h_k) ⊗ h_{k−1}

with h_k from y and t_k from y′, through the same weights. It is no gradient: how far it is from
one is not an error, and none is told.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contestants import Run
from benchmarks.gradients import adjoint, diffrax, followed, reference, torchdiffeq

__all__ = ["adjoint", "ctsigprop", "diffrax", "reference", "torchdiffeq"]

BETA = 0.5


def ctsigprop(
    batch: int = 128, hidden: tuple[int, ...] = (64, 64), end: float = 10.0, **options: Any
) -> Run:
    import torch

    field, target, ends = followed(batch, hidden, end, False, **options)

    @torch.no_grad()
    def run() -> dict[str, Any]:
        y, changes = ends(), {}
        signal = y + BETA * (target - y)
        for k, layer in enumerate(field.network):
            if not isinstance(layer, torch.nn.Linear):
                continue
            rho = torch.tanh if k + 1 < len(field.network) else torch.nn.Identity()
            h, t = rho(layer(y)), rho(layer(signal))
            changes[f"change of network.{k}.weight"] = (t - h).T @ y / batch
            changes[f"change of network.{k}.bias"] = (t - h).mean(0)
            y, signal = h, t
        return changes

    return run
