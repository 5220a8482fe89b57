"""What a learning rule needs of a brain: measured by interventions on the rule as it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ctsigprop.analyses.clamped import INPUT, Clamped, Course, Edit, clamp, edits, moved, noisy
from ctsigprop.analyses.flags import flags
from ctsigprop.analyses.plausibility import SCOPES
from ctsigprop.learning.learner import Learner

if TYPE_CHECKING:
    from xarray import Dataset, Variable

__all__ = ["ANSWERS", "CRITERIA", "READS", "needs", "side_by_side", "summary", "verdict"]

ANSWERS = ("no", "yes", "in_front")
"""Whether a layer needs it; "in_front" where only layer 1 does, as one more of its inputs."""

CRITERIA: Mapping[str, str] = {
    "forward_pass": "a whole forward pass before what it brings comes back",
    "feedback": "connections from layers above",
    "second_computation": "signals between layers that inference does not have",
    "symmetry": "feedback through the weights of the way forward",
    "bidirectional": "units that send both up and down",
    "transport": "weights of other layers, read by the update",
    "stored_activity": "activities kept for later",
    "reverse_order": "updates from the last layer to the first",
    "forward_lock": "waiting for the layer below to begin",
    "update_lock": "waiting for layers above to be computed before learning",
}
"""What a rule may need, in the order of section 4 of the list that backpropagation meets whole."""

READS: Mapping[str, str] = {
    "pre": "synapse",
    "post": "synapse",
    "other_pre": "neuron",
    "other_weight": "neuron",
    "other_post": "layer",
    "layer_weight": "layer",
    "other_sample": "batch",
    "other_layer": "network",
    "signal": "synapse",
}
"""What the update of a synapse may read, and how far away that is.

The activities at its two ends; those of its neuron's other synapses, and their weights; of the
layer's other neurons; other samples of the batch, and what goes with them; activities and weights
of layers at neither end. "signal": the label, by another way than an activity.
"""

COUPLED = 1e-4  # of single effects: less is rounding
ROUNDING = 1e-5  # of the update


def needs(learner: Learner, x: Tensor, labels: Tensor) -> Dataset:
    """Measure what a rule needs, layer by layer, from interventions on one presentation.

    One thing is changed at a time and everything else is held at what it was, bit for bit: the
    activity of a layer, its weights, one unit, one sample, the labels. What an update or an
    activity does not read then leaves it exactly as it was. Let a ~> b say that b changed:

    ==================  ===========================================================================
    feedback            h_j ~> h_k or ΔW_k for a layer j above k
    transport           W_j ~> ΔW_k for j ≠ k
    symmetry            W_j ~> ΔW_k or h_k for j above k
    second_computation  h_j ~> ΔW_k for j neither k nor k − 1; or h_j ~> h_k, but not in inference
    bidirectional       h_k ~> h_{k+1}, and h_k ~> h_i or ΔW_i for i below k
    stored_activity     a past activity ~> ΔW: the layer has another by then, or the pass has gone
                        beyond the layer that learns from it; two steps ago where units relax
    reverse_order       all layers above k ~> ΔW_k, and the weights of k + 1 move before those of k
    update_lock         activities above k are computed before W_k moves, and ~> … ~> ΔW_k
    forward_pass        the same for all of them, and the output ~> … ~> ΔW_k
    forward_lock        the first activity of k − 1 ~> the first of k
    ==================  ===========================================================================

    Where the only way from above is one from the output to the activity of layer 1, the signal
    enters in front, where inputs do, and that is the answer.

    Parameters
    ----------
    learner : LayerRule or ContinuousSigprop
        With two hidden layers or more; it is left as it was.
    x : Tensor
        Inputs, ``(batch, channels)``; a few samples of different classes are best.
    labels : Tensor
        Integers, ``(batch,)``.

    Returns
    -------
    xarray.Dataset
        ``need`` (criterion, layer), flags of `ANSWERS`, and ``needed`` (criterion) for the hidden
        layers together; ``evidence`` (criterion, layer), the relative change that decided, or a
        count; ``reads`` (layer, argument), relative changes by the arguments of `READS`; ``scope``
        (layer), the widest of `SCOPES` among them; ``factors`` (layer), how many of pre, post and
        signal there are; ``passes`` and ``rows`` (layer): how often an activity is computed, and
        how many rows of it a sample takes.

    Raises
    ------
    TypeError
        A learner of another kind.
    ValueError
        Fewer than two hidden layers, fewer than two classes among the labels, a rule that does not
        do the same twice.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> batch = torch.eye(4, 6), torch.tensor([0, 1, 2, 3])
    >>> rule = ct.Backpropagation(ct.Layers.dense([6, 8, 8, 4], rho="tanh"))
    >>> found = needs(rule, *batch).needed
    >>> ANSWERS[int(found.sel(criterion="transport"))]
    'yes'
    >>> found = needs(ct.Sigprop(rule.network), *batch).needed
    >>> ANSWERS[int(found.sel(criterion="transport"))]
    'no'
    """
    import numpy as np
    import xarray as xr

    if len(set(labels.tolist())) < 2:
        raise ValueError(
            f"labels must hold two classes or more; got {sorted(set(labels.tolist()))}"
        )
    with clamp(learner, x, labels) as held:
        if len(held.layers) < 3:
            raise ValueError(
                f"needs() asks for two hidden layers or more, to tell what goes from one to the "
                f"other; got the layers {', '.join(held.layers)}"
            )
        paths = _Paths(held)
        _check_learning(held)
        course, learned = held.course(), held.learned
        reads = {layer: dict(_reads(held, paths, layer)) for layer in held.layers}
    answers = {
        layer: _answers(paths, course, k, layer in learned) for k, layer in enumerate(paths.layers)
    }
    layers, names = list(paths.layers), list(CRITERIA)
    need = np.array([[answers[layer][name][0] for layer in layers] for name in names], np.int8)
    evidence = np.array([[answers[layer][name][1] for layer in layers] for name in names])
    values = np.array([[reads[layer][name] for name in READS] for layer in layers])
    ring = np.array([SCOPES.index(scope) for scope in READS.values()])
    reached = np.where(np.nan_to_num(values) > 0, ring, 0).max(axis=1)
    factors = (values[:, [*map([*READS].index, ("pre", "post", "signal"))]] > 0).sum(axis=1)
    missing = {"missing": "NaN where a layer has no weights that learn"}
    return xr.Dataset(
        {
            "need": (("criterion", "layer"), need, flags(ANSWERS, "whether the layer needs it")),
            "needed": (
                "criterion",
                np.array([_together(need[i, :-1], name) for i, name in enumerate(names)], np.int8),
                flags(ANSWERS, "whether the hidden layers need it"),
            ),
            "evidence": (
                ("criterion", "layer"),
                evidence,
                {"units": "1", "long_name": "largest relative change, or count, that decides"},
            ),
            "reads": (
                ("layer", "argument"),
                values,
                {"units": "1", "long_name": "relative change of the update by each argument"}
                | (missing if np.isnan(values).any() else {}),
            ),
            "scope": ("layer", reached.astype(np.int8), flags(SCOPES, "how far the update looks")),
            "factors": (
                "layer",
                factors.astype(np.int8),
                {"units": "1", "long_name": "pre, post and signal, as far as they are read"},
            ),
            "passes": (
                "layer",
                np.array([course[layer].passes for layer in layers]),
                {"units": "1", "long_name": "times that the activity is computed"},
            ),
            "rows": (
                "layer",
                np.array([course[layer].rows for layer in layers], dtype=float),
                {"units": "1", "long_name": "rows of activity for each sample"},
            ),
        },
        coords={
            "criterion": ("criterion", names),
            "layer": ("layer", layers),
            "argument": ("argument", list(READS)),
        },
    )


def _check_learning(held: Clamped) -> None:
    for layer, change in held.update().items():
        if not bool(change.any()):
            raise ValueError(
                f"the update of '{layer}' is zero, which tells nothing of what it reads: let the "
                "rule learn for a while first, or give other samples"
            )


def verdict(measured: Dataset) -> list[str]:
    """Return a line for each criterion: the answer, what it is about, and the evidence.

    Parameters
    ----------
    measured : Dataset
        From `needs`, of one rule.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> rule = ct.Sigprop(ct.Layers.dense([6, 8, 8, 4]))
    >>> batch = torch.eye(4, 6), torch.tensor([0, 1, 2, 3])
    >>> verdict(needs(rule, *batch))[1]
    'feedback: no; connections from layers above; evidence h1 0, h2 0'
    """
    lines = []
    hidden = [str(name) for name in measured["layer"].values[:-1]]
    for name, meaning in CRITERIA.items():
        answer = ANSWERS[int(measured["needed"].sel(criterion=name))].replace("_", " ")
        found = measured["evidence"].sel(criterion=name)
        evidence = ", ".join(f"{layer} {float(found.sel(layer=layer)):.2g}" for layer in hidden)
        lines.append(f"{name.replace('_', ' ')}: {answer}; {meaning}; evidence {evidence}")
    for layer in hidden:
        row = measured.sel(layer=layer)
        read = [str(a) for a in row["argument"].values if float(row["reads"].sel(argument=a)) > 0]
        lines.append(
            f"{layer} looks as far as the {SCOPES[int(row['scope'])]}: reads {', '.join(read)}"
        )
    return lines


def summary(measured: Dataset) -> str:
    """Return what `needs` found for one rule in one line.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> rule = ct.Sigprop(ct.Layers.dense([6, 8, 8, 4]))
    >>> summary(needs(rule, torch.eye(4, 6), torch.tensor([0, 1, 2, 3])))
    'needs forward lock; looks as far as the batch'
    """
    found = []
    for name in CRITERIA:
        answer = int(measured["needed"].sel(criterion=name))
        if answer > 0:
            found.append(name.replace("_", " ") + (" (in front)" if answer == 2 else ""))
    widest = SCOPES[int(measured["scope"].values[:-1].max())]
    return f"needs {', '.join(found) or 'nothing of the list'}; looks as far as the {widest}"


def side_by_side(measured: Mapping[Any, Dataset], dim: str | Variable) -> Dataset:
    """Return what was measured of several rules, or seeds, as one table.

    Parameters
    ----------
    measured : mapping of str to Dataset
        From `needs`, `alignment`, or both merged, by name along the new dimension.
    dim : str or xarray.Variable
        "rule", or a variable with the seeds.

    Returns
    -------
    xarray.Dataset
        With the further dimension. Layers that a rule lacks are −1 where there are flags or
        counts, and NaN elsewhere.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> sizes = {"two": [6, 8, 8, 4], "three": [6, 5, 5, 5, 4]}
    >>> rules = {name: ct.Sigprop(ct.Layers.dense(of)) for name, of in sizes.items()}
    >>> batch = torch.eye(4, 6), torch.tensor([0, 1, 2, 3])
    >>> table = side_by_side({name: needs(rule, *batch) for name, rule in rules.items()}, "rule")
    >>> table.need.sel(rule="two", criterion="feedback").values.tolist()
    [0, 0, -1, 0]
    """
    import numpy as np
    import xarray as xr

    layers = sorted(
        {str(name) for found in measured.values() for name in found["layer"].values},
        key=lambda name: (name == "y", len(name), name),
    )
    parts = [
        found.reindex(
            layer=layers,
            fill_value={
                name: -1 if np.issubdtype(values.dtype, np.integer) else math.nan
                for name, values in found.data_vars.items()
            },
        )
        for found in measured.values()
    ]
    table = xr.concat(
        parts, dim if not isinstance(dim, str) else xr.Variable(dim, [*measured]), join="outer"
    )
    for values in table.data_vars.values():
        if np.issubdtype(values.dtype, np.floating) and bool(values.isnull().any()):
            values.attrs["missing"] = "NaN where a rule has no such layer, or it does not learn"
        elif "flag_values" in values.attrs and bool((values == -1).any()):
            flags, meanings = values.attrs["flag_values"], values.attrs["flag_meanings"]
            values.attrs["flag_values"] = np.insert(flags, 0, -1)
            values.attrs["flag_meanings"] = f"no_such_layer {meanings}"
        elif "layer" in values.dims and bool((values == -1).any()):
            values.attrs["missing"] = "-1 where a rule has no such layer"
    return table


class _Paths:
    """Which layer moves which, by how much of itself, all others held."""

    def __init__(self, held: Clamped) -> None:
        self.layers = held.layers
        base, busy, idle = held.update(), held.drive(), held.drive(learning=False)
        self.updates: dict[tuple[str, str], float] = {}
        self.drives: dict[tuple[str, str], float] = {}
        self.inference: dict[tuple[str, str], float] = {}
        self.weights_to_updates: dict[tuple[str, str], float] = {}
        self.weights_to_drives: dict[tuple[str, str], float] = {}
        for source in self.layers:
            one: Mapping[str, Edit] = {source: noisy}
            self._note(self.updates, source, held.update(one, inside=True), base)
            self._note(self.drives, source, held.drive(one), busy)
            self._note(self.inference, source, held.drive(one, learning=False), idle)
            if source in held.learned:
                found = held.update(weights=one)
                self._note(self.weights_to_updates, source, found, base)
                self._note(self.weights_to_drives, source, held.drive(weights=one), busy)

    @staticmethod
    def _note(
        table: dict[tuple[str, str], float],
        source: str,
        found: Mapping[str, Tensor],
        base: Mapping[str, Tensor],
    ) -> None:
        for target, value in found.items():
            table[source, target] = moved(value, base[target])

    def reaches(self, source: str, target: str) -> bool:
        """Say whether a layer's activity moves another's update, on whatever way."""
        active, waiting = {source}, [source]
        while waiting:
            here = waiting.pop()
            heard = [b for b in self.layers if self.drives.get((here, b))]
            if self.drives.get((here, INPUT)):
                heard.append(self.layers[0])
            following = [b for b in heard if b not in active]
            active.update(following)
            waiting += following
        return target in active or any(self.updates.get((a, target)) for a in active)


def _answers(
    paths: _Paths, course: Mapping[str, Course], k: int, learns: bool
) -> dict[str, tuple[int, float]]:
    """Return for each criterion the flag of a layer and the evidence."""
    layers, here = paths.layers, paths.layers[k]
    output, above, below = layers[-1], layers[k + 1 :], layers[:k]
    others = [name for name in layers if name not in layers[max(k - 1, 0) : k + 1]]

    def most(table: Mapping[tuple[str, str], float], sources: tuple[str, ...] | list[str]) -> float:
        return max((table.get((source, here), 0.0) for source in sources), default=0.0)

    between = [name for name in above if name != output]
    entry = 0.0
    if k == 0:
        entry = max(paths.drives.get((name, INPUT), 0.0) for name in above)
        entry = max(entry, paths.drives.get((output, here), 0.0))
    only_front = entry > 0 and not (most(paths.updates, above) or most(paths.drives, between))
    feedback = max(most(paths.updates, above), most(paths.drives, above), entry)
    second = most(paths.updates, others)
    for name in others:
        in_front = only_front and name == output
        if not in_front and not paths.inference.get((name, here)):
            second = max(second, paths.drives.get((name, here), 0.0))
    down = max(
        (max(paths.drives.get((here, b), 0.0), paths.updates.get((here, b), 0.0)) for b in below),
        default=0.0,
    )
    up = above and paths.drives.get((here, above[0]), 0.0)
    event = course[here]
    waits = learns and event.waited > 0 and any(paths.reaches(name, here) for name in above)
    chain = min((paths.updates.get((name, here), 0.0) for name in above), default=0.0)
    transport = most(paths.weights_to_updates, [name for name in layers if name != here])
    symmetry = max(most(paths.weights_to_updates, above), most(paths.weights_to_drives, above))
    whole = learns and event.waited == len(above) > 0 and paths.reaches(output, here)
    return {
        "forward_pass": (int(whole), float(event.waited)),
        "feedback": (2 if only_front else int(feedback > 0), feedback),
        "second_computation": (int(second > 0), second),
        "symmetry": (int(symmetry > 0), symmetry),
        "bidirectional": (int(bool(up) and down > 0), min(float(up or 0.0), down)),
        "transport": (int(transport > 0), transport),
        "stored_activity": (int(event.stored > 0), float(event.stored)),
        "reverse_order": (int(event.after_next and chain > 0), chain * event.after_next),
        "forward_lock": (int(event.in_turn), float(event.in_turn)),
        "update_lock": (int(waits), float(event.waited)),
    }


def _together(hidden: object, name: str) -> int:
    """Return the answer of the hidden layers together."""
    import numpy as np

    found = np.asarray(hidden)
    if name == "reverse_order":  # the first layer's chain is the longest
        return int(found[0])
    return 1 if (found == 1).any() else int(found.max())


def _reads(held: Clamped, paths: _Paths, layer: str) -> Iterator[tuple[str, float]]:
    """Give what the update of a layer reads, from the same update with one argument changed."""
    if layer not in held.learned:
        yield from ((name, math.nan) for name in READS)
        return
    k = held.layers.index(layer)
    pre = held.layers[k - 1] if k else INPUT
    base = held.update()[layer]
    post_unit, pre_unit = _strongest(base)
    row, column = (post_unit,), (slice(None), pre_unit)
    one, rest = edits.unit(post_unit, base.dim()), edits.others(post_unit, base.dim())

    def change(part: tuple[slice | int, ...], found: Mapping[str, Tensor]) -> float:
        return moved(found[layer][part], base[part])

    yield "pre", change(column, held.update({pre: edits.unit(pre_unit, base.dim())}))
    yield "post", change(row, held.update({layer: one}))
    yield "other_pre", change(column, held.update({pre: edits.others(pre_unit, base.dim())}))
    yield (
        "other_weight",
        change(
            (post_unit, pre_unit), held.update(weights={layer: edits.neuron(post_unit, pre_unit)})
        ),
    )
    yield "other_post", change(row, held.update({layer: rest}))
    yield "layer_weight", change(row, held.update(weights={layer: edits.layer(post_unit)}))
    yield "other_sample", _coupling(held, layer, pre)
    others = [name for name in held.layers if name != layer]
    yield (
        "other_layer",
        max(
            *(paths.updates.get((name, layer), 0.0) for name in others if name != pre),
            *(paths.weights_to_updates.get((name, layer), 0.0) for name in others),
        ),
    )
    yield "signal", moved(held.update(relabel=True)[layer], base)


def _coupling(held: Clamped, layer: str, pre: str) -> float:
    """Return how far the update by two rows of activity is from the sum of theirs.

        |Δ(a, b) − Δ(a) − Δ(b) + Δ| / min(|Δ(a) − Δ|, |Δ(b) − Δ|)

    for a the first row of the activities at both ends changed, b any other. One row that depends on
    the same sample, or on none, may be the sample's own signal: only a second one counts, or one of
    another sample.
    """

    def changed(*rows: int) -> Tensor:
        return held.update(dict.fromkeys((pre, layer), edits.rows(rows)))[layer].double()

    base, first = held.update()[layer].double(), changed(0)
    others, beside = [0.0], [0.0, 0.0]
    for row in range(1, len(held.owners)):
        second = changed(row)
        scale = min(float((first - base).norm()), float((second - base).norm()))
        mixed = float((changed(0, row) - first - second + base).norm())
        if mixed > COUPLED * scale + ROUNDING * float(first.norm()):
            own = held.owners[row] in (None, held.owners[0])
            (beside if own else others).append(mixed / scale)
    return max(max(others), sorted(beside)[-2])


def _strongest(update: Tensor) -> tuple[int, int]:
    """Return the neuron whose synapses move most, and the one of these that does."""
    rows = update.detach().abs().flatten(1).sum(1)
    post = int(rows.argmax())
    return post, int(update[post].detach().abs().flatten(1).sum(1).argmax()) if (
        update.dim() > 2
    ) else int(update[post].detach().abs().argmax())
