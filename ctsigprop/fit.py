"""Fitting: a system's learnable parameters follow the gradient until it predicts recorded data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parametrize

from ctsigprop.errors import unknown
from ctsigprop.quantities import Parameter
from ctsigprop.solution import root_attributes
from ctsigprop.system import System
from ctsigprop.terms import Term

if TYPE_CHECKING:
    from xarray import DataArray, Dataset, DataTree

__all__ = ["STATUS", "fit"]

STATUS = ("converged", "limit", "stuck")
"""How a start ended: at a minimum, out of iterations, or with a line search that found nothing."""

Vector = NDArray[np.float64]


def fit(
    system: System,
    predict: Callable[[], Tensor],
    observed: Dataset,
    value: str,
    parameters: Sequence[str],
    *,
    error: str | None = None,
    starts: int = 5,
    spread: float = 1.0,
    seed: int = 0,
    max_iterations: int = 200,
    title: str = "ctsigprop fit",
) -> DataTree:
    """Fit parameters of a system to data, from several starts.

        loss = mean over the data of ((observed − predicted)/error)²

    is minimised by L-BFGS-B with the gradient of autograd. Parameters with bounds move on the real
    line, from which their bounds are out of reach.

    Parameters
    ----------
    system : System
        Its parameters are left at the best that was found, switched on to learn.
    predict : callable
        Returns what the system predicts as it stands: differentiable, in the shape of the data.
    observed : xarray.Dataset
        The data.
    value : str
        Its variable that holds the observed numbers.
    parameters : sequence of str
        Names as `System.learn` takes them.
    error : str, optional
        The variable that holds the standard errors; 1 by default.
    starts : int
        How many; the first is at the present values.
    spread : float
        How far from it the others are drawn: the standard deviation of a parameter's logit between
        two bounds, of the logarithm of its distance from a single one, or else of the parameter in
        units of its present value.
    seed : int
        Of the starts.
    max_iterations : int
        Of each start.
    title : str
        Of the tree.

    Returns
    -------
    xarray.DataTree
        /fit: for every ``start``, best first, its ``loss``, ``status`` (a flag) and
        ``evaluations``, and each parameter with what it started from, ``<parameter>_initial``;
        /observed_data; /predicted, at the best start.

    Raises
    ------
    ValueError
        Unknown names, data that are not finite or do not fit the prediction, a parameter that sits
        on its bound, or one that the prediction does not depend on.
    ArithmeticError
        A loss or a gradient that is not finite, with the parameters at which it was met.

    References
    ----------
    Byrd, Lu, Nocedal & Zhu 1995, SIAM J. Sci. Comput. 16:1190-1208.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> import xarray as xr
    >>> decay = ct.System(ct.TextNeuron("dx/dt = -x/tau : 1", tau=ct.Parameter(1.0, lower=0.0)))
    >>> data = xr.Dataset({"x": ("time", [0.5, 0.25], {"units": "1"})}, {"time": [1.0, 2.0]})
    >>> def predict():
    ...     return ct.solve(decay, {"x": 1.0}, [0.0, 1.0, 2.0], rtol=1e-9)["x"][1:, 0]
    >>> tree = fit(decay, predict, data, "x", ["tau"], starts=2)
    >>> tree["fit"]["tau"].values.round(4).tolist()
    [1.4427, 1.4427]
    """
    import xarray as xr
    from scipy.optimize import minimize

    target = _numbers(observed, value)
    scale = torch.ones_like(target) if error is None else _numbers(observed, error)
    if not bool((scale > 0).all()):
        raise ValueError(f"standard errors must be > 0; '{error}' has {float(scale.min()):g}")
    if starts < 1 or max_iterations < 1 or not spread >= 0:
        raise ValueError(
            "fit takes starts >= 1, max_iterations >= 1 and spread >= 0; "
            f"got {starts}, {max_iterations}, {spread}"
        )
    learned = _Learned(system, parameters)

    def evaluate(z: Vector) -> tuple[float, Vector]:
        learned.place(z)
        with torch.enable_grad():
            predicted = predict()
            if predicted.shape != target.shape:
                raise ValueError(
                    f"predict() must return the shape of '{value}', {tuple(target.shape)}; "
                    f"got {tuple(predicted.shape)}"
                )
            misses = target.to(predicted.device) - predicted
            loss = (misses / scale.to(predicted.device)).square().mean()
            return float(loss.detach()), learned.gradient(loss)

    runs: list[_Run] = []
    for z in learned.starts(starts, spread, seed):
        learned.place(z)
        initial = learned.values()
        end = minimize(
            evaluate, z, jac=True, method="L-BFGS-B", options={"maxiter": max_iterations}
        )
        learned.place(end.x)
        runs.append(_Run(end.x, float(end.fun), end.status, end.nfev, initial, learned.values()))
    runs.sort(key=lambda run: run.loss)
    learned.place(runs[0].z)
    with torch.no_grad():
        best = predict().double().cpu().numpy()
    tree = xr.DataTree.from_dict(
        {
            "/fit": _waterfall(runs, learned.units),
            "/observed_data": observed,
            "/predicted": _like(observed[value], best).to_dataset(name=value),
        }
    )
    settings = {"starts": starts, "spread": spread, "seed": seed, "max_iterations": max_iterations}
    tree.attrs = root_attributes(title) | {"settings": settings}
    return tree


@dataclass(frozen=True)
class _Run:
    """One start: where it ended, on the real line and as parameters."""

    z: Vector
    loss: float
    status: int
    evaluations: int
    initial: Mapping[str, Tensor]
    estimate: Mapping[str, Tensor]


class _Learned:
    """Parameters of a system as one vector; bounded ones by their place on the real line."""

    def __init__(self, system: System, names: Sequence[str]) -> None:
        system.learn(*names)
        self.owners: dict[str, tuple[Term, str]] = {}
        for given in names:
            owner, _, name = given.rpartition(".")
            for term in system.every_term():
                of = getattr(term, "name", "")
                if name in term.specs and owner in ("", of):
                    self.owners[f"{name}_{of}".rstrip("_")] = (term, name)
        self.units = {label: t.units[name] or "1" for label, (t, name) in self.owners.items()}

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that gradients are taken of."""
        return [
            term.parametrizations[name].original
            if parametrize.is_parametrized(term, name)
            else getattr(term, name)
            for term, name in self.owners.values()
        ]

    def values(self) -> dict[str, Tensor]:
        """Return the parameters as they stand."""
        return {label: getattr(t, n).detach().clone() for label, (t, n) in self.owners.items()}

    def vector(self) -> Vector:
        """Return the place on the real line."""
        flat = torch.cat([leaf.detach().reshape(-1) for leaf in self.leaves])
        return flat.double().cpu().numpy().copy()

    def place(self, z: Vector) -> None:
        """Move the parameters."""
        leaves = self.leaves
        ends = np.cumsum([leaf.numel() for leaf in leaves])
        with torch.no_grad():
            for leaf, part in zip(leaves, np.split(z, ends[:-1]), strict=True):
                leaf.copy_(torch.from_numpy(part).reshape(leaf.shape))

    def starts(self, count: int, spread: float, seed: int) -> Iterator[Vector]:
        """Give the present place, and others around it."""
        generator = torch.Generator().manual_seed(seed)
        centre, present = self.vector(), self.values()
        yield centre
        for _ in range(count - 1):
            self.place(centre)
            for label, (term, name) in self.owners.items():
                noise = torch.randn(present[label].shape, generator=generator, dtype=torch.float64)
                drawn = _scattered(present[label].double(), term.specs[name], spread * noise)
                with torch.no_grad():
                    if parametrize.is_parametrized(term, name):
                        setattr(term, name, drawn)
                    else:
                        getattr(term, name).copy_(drawn)
            yield self.vector()

    def gradient(self, loss: Tensor) -> Vector:
        """Return the gradient; refuse parameters that the loss does not see, and NaN."""
        if not loss.requires_grad:
            raise ValueError("the prediction does not depend on any of the parameters")
        gradients = torch.autograd.grad(loss, self.leaves, allow_unused=True)
        seen: list[Tensor] = []
        for label, gradient in zip(self.owners, gradients, strict=True):
            if gradient is None:
                raise ValueError(f"the prediction does not depend on '{label}'")
            seen.append(gradient.reshape(-1).double())
        flat = torch.cat(seen)
        if not bool(torch.isfinite(loss) & torch.isfinite(flat).all()):
            at = {label: value.tolist() for label, value in self.values().items()}
            raise ArithmeticError(f"the loss or its gradient is not finite at {at}")
        return flat.cpu().numpy()


def _scattered(value: Tensor, spec: Parameter, noise: Tensor) -> Tensor:
    low, high = spec.lower, spec.upper
    if low is not None and high is not None:
        return low + (high - low) * torch.sigmoid(torch.logit((value - low) / (high - low)) + noise)
    if low is not None:
        return low + (value - low) * noise.exp()
    if high is not None:
        return high - (high - value) * noise.exp()
    return value + noise * torch.where(value == 0, 1.0, value.abs())


def _numbers(observed: Dataset, name: str) -> Tensor:
    if name not in observed.data_vars:
        raise ValueError(unknown("variable of the data", name, map(str, observed.data_vars)))
    numbers = torch.from_numpy(observed[name].values.astype(np.float64))
    if not bool(torch.isfinite(numbers).all()):
        raise ValueError(f"'{name}' of the data must be finite; got NaN or an infinity")
    return numbers


def _like(observed: DataArray, values: Vector) -> DataArray:
    predicted = observed.copy(data=values)
    predicted.attrs = {"units": observed.attrs.get("units", "1"), "long_name": "prediction"}
    return predicted


def _waterfall(runs: Sequence[_Run], units: Mapping[str, str]) -> Dataset:
    import xarray as xr

    status = {
        "flag_values": np.arange(len(STATUS), dtype=np.int8),
        "flag_meanings": " ".join(STATUS),
    }
    variables: dict[str, Any] = {
        "loss": ("start", [run.loss for run in runs], {"units": "1"}),
        "status": ("start", np.array([run.status for run in runs], dtype=np.int8), status),
        "evaluations": ("start", [run.evaluations for run in runs], {"units": "1"}),
    }
    coords: dict[str, Any] = {"start": ("start", np.arange(len(runs)), {"units": "1"})}
    for label, unit in units.items():
        for name, values in (
            (label, [run.estimate[label] for run in runs]),
            (f"{label}_initial", [run.initial[label] for run in runs]),
        ):
            array = torch.stack(values).cpu().numpy()
            dims = [f"{label}_{k}" for k in range(array.ndim - 1)]
            variables[name] = (("start", *dims), array, {"units": unit})
            coords |= {
                dim: (dim, np.arange(size), {"units": "1"})
                for dim, size in zip(dims, array.shape[1:], strict=True)
            }
    return xr.Dataset(variables, coords=coords)
