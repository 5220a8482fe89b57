"""Spike-timing-dependent plasticity for given trains of spikes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pair_stdp_change"]


def pair_stdp_change(
    pre_times: Tensor,
    post_times: Tensor,
    *,
    A_plus: float | Tensor = 0.005,
    A_minus: float | Tensor = 0.00525,
    tau_plus: float | Tensor = 20.0,
    tau_minus: float | Tensor = 20.0,
) -> Tensor:
    """Return the exact change of a weight by additive STDP over all pairs of spikes.

        Δw = Σ_{D > 0} A_plus exp(−D/tau_plus) − Σ_{D < 0} A_minus exp(D/tau_minus),
        D = t_post − t_pre

    Spikes at exactly one time, D = 0, contribute nothing. Differentiable in all arguments.

    Parameters
    ----------
    pre_times, post_times : Tensor
        Spike times, ``(..., m)`` and ``(..., n)``, in any order.
    A_plus, A_minus, tau_plus, tau_minus : float or Tensor
        Amplitudes, and time constants in the unit of the times; one for each element of the
        leading axes where they are tensors.

    Returns
    -------
    Tensor
        Of the leading axes.

    Raises
    ------
    ValueError
        A time constant that is not positive.

    References
    ----------
    Song, Miller & Abbott 2000, Nat. Neurosci. 3:919-926, eq. 1; all-to-all pairing as in
    Morrison, Diesmann & Gerstner 2008, Biol. Cybern. 98:459-478, sect. 4.1.

    Examples
    --------
    >>> pre, post = torch.tensor([0.0]), torch.tensor([10.0])
    >>> round(pair_stdp_change(pre, post, A_plus=0.01).item(), 6)
    0.006065
    """
    for name, tau in (("tau_plus", tau_plus), ("tau_minus", tau_minus)):
        if not bool((torch.as_tensor(tau) > 0).all()):
            raise ValueError(f"{name} must be > 0, got {torch.as_tensor(tau).tolist()}")
    lag = post_times.unsqueeze(-2) - pre_times.unsqueeze(-1)
    given = (A_plus, A_minus, tau_plus, tau_minus)
    up, down, rise, fall = (
        torch.as_tensor(value, dtype=lag.dtype, device=lag.device)[..., None, None]
        for value in given
    )
    change = up * torch.exp(-lag.abs() / rise) * (lag > 0)
    return (change - down * torch.exp(-lag.abs() / fall) * (lag < 0)).sum((-2, -1))
