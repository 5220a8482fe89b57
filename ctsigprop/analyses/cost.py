"""What a learning rule costs: memory, operations and time of one presentation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ctsigprop.analyses.counting import Counting
from ctsigprop.learning.learner import Learner

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["cost", "cost_by", "slope"]


def cost(learner: Learner, x: Tensor, labels: Tensor, *, repeats: int = 3) -> Dataset:
    """Measure what one presentation to a learner takes.

    Memory is that of all tensors that the presentation makes and that are alive at the same time,
    counted exactly as they come and go: activities, errors, traces, what a gradient waits for. The
    weights, their optimisers' state and the batch itself are there before, and not counted; nor is
    what a single operation of torch takes while it runs.
    Operations are those of matrix products and convolutions, two for each multiplication and sum.

    Parameters
    ----------
    learner : Learner
        It learns: hand it over in the state in which its cost matters.
    x, labels : Tensor
        The batch: ``(batch, channels)`` and ``(batch,)``.
    repeats : int
        Presentations, of which the median time is taken, after one that is not timed.

    Returns
    -------
    xarray.Dataset
        ``memory`` in bytes, ``tensors``, how many are alive at once, ``operations``, ``seconds`` of
        the process; each a number.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> batch = torch.rand(8, 32), torch.arange(8) % 4
    >>> shallow, deep = ([32] * 4 + [4], [32] * 32 + [4])
    >>> rules = [ct.Sigprop(ct.Layers.dense(sizes)) for sizes in (shallow, deep)]
    >>> few, many = (int(cost(rule, *batch, repeats=1).memory) for rule in rules)
    >>> few == many
    True
    """
    import numpy as np
    import xarray as xr

    if repeats < 1:
        raise ValueError(f"repeats must be at least 1; got {repeats}")
    learner.check_presentation(x, labels)
    learner.present(x, labels)  # what is made once, such as the state of an optimiser
    with Counting() as counted:
        learner.present(x, labels)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        learner.present(x, labels)
        seconds.append(time.process_time() - start)
    return xr.Dataset(
        {
            "memory": (
                (),
                counted.peak,
                {"units": "byte", "long_name": "most memory that a presentation holds at once"},
            ),
            "tensors": (
                (),
                counted.most,
                {"units": "1", "long_name": "most tensors that a presentation holds at once"},
            ),
            "operations": (
                (),
                counted.operations,
                {"units": "1", "long_name": "operations of one presentation"},
            ),
            "seconds": (
                (),
                float(np.median(seconds)),
                {"units": "s", "long_name": "processor time of one presentation"},
            ),
        }
    )


def cost_by(
    name: str,
    values: Sequence[float],
    rules: Mapping[str, Callable[[Any], Learner]],
    x: Tensor,
    labels: Tensor,
    *,
    repeats: int = 3,
    most: Mapping[str, float] | None = None,
) -> Dataset:
    """Measure the cost of rules as something grows: depth, duration, width.

    Parameters
    ----------
    name : str
        What grows; a dimension of the result.
    values : sequence of float
        Its values.
    rules : mapping of str to callable
        Makes a learner from a value.
    x, labels : Tensor
        The batch.
    repeats : int
        As in `cost`.
    most : mapping of str to float, optional
        The largest value to which some rules are followed; NaN beyond.

    Returns
    -------
    xarray.Dataset
        The variables of `cost` with the dimensions rule and `name`.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> def rule(depth):
    ...     return ct.Backpropagation(ct.Layers.dense([8] * depth + [4]))
    >>> batch = torch.rand(8, 8), torch.arange(8) % 4
    >>> found = cost_by("depth", [2, 4, 8], {"backpropagation": rule}, *batch, repeats=1)
    >>> bool((found.memory.diff("depth") > 0).all())
    True
    """
    import numpy as np
    import xarray as xr

    limits = {} if most is None else dict(most)
    coordinate = xr.Variable(name, np.asarray(values), {"units": "1"})
    by_rule = []
    for rule, make in rules.items():
        row = []
        for value in values:
            found = cost(make(value), x, labels, repeats=repeats).astype(float)
            row.append(found)
            if value >= limits.get(rule, np.inf):
                break
        known = coordinate[: len(row)]
        by_rule.append(xr.concat(row, known).reindex({name: coordinate.values}))
    table = xr.concat(by_rule, xr.Variable("rule", list(rules)))
    table[name].attrs = {"units": "1"}
    for values_of in table.data_vars.values():
        if bool(values_of.isnull().any()):
            values_of.attrs["missing"] = "NaN where a rule was not followed further"
    return table


def slope(table: Dataset, name: str, variable: str = "memory") -> dict[str, float]:
    """Return for each rule the exponent p of cost ∝ value**p, over the upper half of the values.

    0 is flat, 1 grows in proportion.

    Parameters
    ----------
    table : Dataset
        From `cost_by`.
    name : str
        What grew.
    variable : str
        Of the table.

    Examples
    --------
    >>> import xarray as xr
    >>> grown = xr.Dataset({"memory": (("rule", "depth"), [[5.0, 5.0, 5.0], [2.0, 4.0, 8.0]])})
    >>> grown = grown.assign_coords(rule=["flat", "linear"], depth=[1.0, 2.0, 4.0])
    >>> slope(grown, "depth")
    {'flat': 0.0, 'linear': 1.0}
    """
    import numpy as np

    found = {}
    for rule in table["rule"].values:
        row = table[variable].sel(rule=rule).dropna(name)
        half = row.isel({name: slice((row.sizes[name] - 1) // 2, None)})
        exponent = np.polyfit(np.log(half[name].values), np.log(half.values), 1)[0]
        found[str(rule)] = float(np.round(exponent, 12)) + 0.0
    return found
