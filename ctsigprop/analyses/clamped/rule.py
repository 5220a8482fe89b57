"""A rule over `Layers` held still: by its observer, and by hooks on its network's modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ctsigprop.analyses.clamped.base import (
    INPUT,
    NO_EDITS,
    Clamped,
    Course,
    Edit,
    Updates,
    moved,
    noisy,
)
from ctsigprop.learning.layerwise import LayerRule
from ctsigprop.terms import State

__all__ = ["ClampedRule"]

VERSIONS = 8
"""How many of a layer's activities are looked at one by one, where there are more."""


@final
class ClampedRule(Clamped):
    """Every activity that the rule shows, or a layer gives, is held at what it was."""

    def __init__(self, rule: LayerRule, x: Tensor, labels: Tensor) -> None:
        self.rule, self.x, self.labels = rule, x, labels
        self.kept = rule.snapshot()
        self.layers = rule.network.names
        self.matrices = {
            name: next(p for p in rule.network.weights_of(k).values() if p.dim() > 1)
            for k, name in enumerate(self.layers)
            if any(p.dim() > 1 for p in rule.network.weights_of(k).values())
        }
        self.learned = tuple(self.matrices)
        self.leaves = [
            [m for m in layer.modules() if not [*m.children()]] for layer in rule.network.layers
        ]
        self.given: dict[nn.Module, list[Tensor]] = {}
        self.seen: dict[bool, dict[int, list[Tensor]]] = {}
        self.base = self._learn(self._recorder(True), self._keep)
        self._check_repeatable()
        self._answer(self._recorder(False))
        self.owners = self._owners()

    def update(
        self,
        activities: Mapping[str, Edit] = NO_EDITS,
        weights: Mapping[str, Edit] = NO_EDITS,
        *,
        inside: bool = False,
        relabel: bool = False,
    ) -> Updates:
        """Return the updates of every layer's matrix."""
        hold, _ = self._holder(activities, True)
        modules = self._module_holder(activities.keys(), inside)
        run = self._learn(hold, modules, activities, weights, relabel)
        return run.updates(self.matrices)

    def drive(
        self,
        activities: Mapping[str, Edit] = NO_EDITS,
        weights: Mapping[str, Edit] = NO_EDITS,
        *,
        learning: bool = True,
    ) -> State:
        """Return every activity that each layer gives, from the first pass to the last."""
        hold, found = self._holder(activities, learning)
        if learning:
            self._learn(hold, None, activities, weights)
        else:
            self._answer(hold, activities, weights)
        return {
            self.layers[k] if k >= 0 else INPUT: torch.cat(values) for k, values in found.items()
        }

    def course(self) -> dict[str, Course]:
        """Return what happened to each layer, from the order of events and from interventions."""
        run, dynamic = self.base, self._with_memory()
        stored = self._read_late(dynamic)
        found = {}
        for k, name in enumerate(self.layers):
            step = run.step_of(k)
            above = {j for what, j in run.events[:step] if what == "activity" and j > k}
            shown = [
                rows
                for event, rows in zip(run.events, run.rows, strict=True)
                if event == ("activity", k) and rows
            ]
            found[name] = Course(
                passes=len(shown),
                rows=sum(shown) / len(self.x),
                stored=stored[k],
                waited=len(above),
                after_next=("step", k + 1) in run.events[:step],
                in_turn=k > 0 and self._waits_for_first(k),
            )
        return found

    def _with_memory(self) -> set[int]:
        """Return the layers that hear themselves, or one above, from before: a dynamics."""
        base, found = self.drive(), set()
        for source in range(len(self.layers)):
            edited = self.drive({self.layers[source]: noisy})
            for k in range(source + 1):
                again = len(self.seen[True].get(k, ())) > 1
                if again and moved(edited[self.layers[k]], base[self.layers[k]]):
                    found.add(k)
        return found

    def _waits_for_first(self, k: int) -> bool:
        """Say whether the first activity of a layer depends on the first of the one below."""
        shown = [
            rows
            for event, rows in zip(self.base.events, self.base.rows, strict=True)
            if event == ("activity", k - 1)
        ]
        whole = next(version for version, rows in enumerate(shown) if rows)
        first = len(self.seen[True][k][0])
        edited = self.drive({self.layers[k - 1]: _only(whole, noisy)})[self.layers[k]]
        return moved(edited[:first], self.drive()[self.layers[k]][:first]) > 0

    def _read_late(self, dynamic: set[int]) -> list[int]:
        """Return how many of each layer's activities an update reads when they are past."""
        hold, _ = self._holder({}, True)
        base = self._learn(hold, self._module_holder(()))
        counts = []
        for k, name in enumerate(self.layers):
            late = 0
            for version in self._versions(k):
                hold, _ = self._holder({name: _only(version, noisy)}, True)
                run = self._learn(hold, self._module_holder([name]))
                late += any(
                    before.layer == after.layer
                    and self._past(base, k, version, before.at, before.layer, k in dynamic)
                    for before, after in zip(base.steps, run.steps, strict=True)
                    if before.differs(after)
                )
            counts.append(late)
        return counts

    def _versions(self, k: int) -> list[int]:
        """Return which of a layer's activities to look at: all, or some, and the end of phases."""
        count = len(self.seen[True].get(k, ()))
        if count <= VERSIONS:
            return [*range(count)]
        spaced = torch.linspace(0, count - 4, 4).long().tolist()
        ends = {self._before_labels() - 1, *self._jumps()}
        return sorted({*spaced, *(v for v in ends if 0 <= v < count), *range(count - 3, count)})

    def _jumps(self) -> list[int]:
        """Return the activities of the output after which it changes most: where a phase ends."""
        shown = self.seen[True][len(self.layers) - 1]
        if any(value.shape != shown[0].shape for value in shown):
            return []
        changes = torch.stack([(b - a).norm() for a, b in pairwise(shown)])
        return changes.topk(min(4, len(changes))).indices.tolist()

    def _before_labels(self) -> int:
        """Return how many activities of the output come before the labels have a say in them."""
        shown: list[Tensor] = []

        def listen(k: int, activity: Tensor) -> Tensor:
            if k == len(self.layers) - 1:
                shown.append(activity.detach().clone())
            return activity

        self._learn(listen, None, relabel=True)
        before = self.seen[True][len(self.layers) - 1]
        same = [torch.equal(a, b) for a, b in zip(shown, before, strict=False)]
        return same.index(False) if False in same else len(same)

    def _past(self, run: _Run, k: int, version: int, at: int, layer: int, dynamic: bool) -> bool:
        """Say whether an activity is past when an update reads it.

        That of a unit in a dynamics is past two steps later, as one step is what its rate of
        change takes; any other's when the unit has another, or the pass has gone beyond the layer
        that learns from it.
        """
        events = run.events[:at]
        own = [i for i, event in enumerate(events) if event == ("activity", k)]
        newer = len(own) - 1 - version
        if newer < 0:
            return False
        if dynamic:
            return newer >= 2
        beyond = any(what == "activity" and j > layer for what, j in events[own[version] :])
        return newer >= 1 or beyond

    def _owners(self) -> tuple[int | None, ...]:
        """Return whose input each row of the first layer's last activity depends on."""
        base = self.seen[True][0][-1]
        owners: list[int | None] = [None] * len(base)
        for sample in range(len(self.x)):
            shown: list[Tensor] = []

            def listen(k: int, activity: Tensor, shown: list[Tensor] = shown) -> Tensor:
                if k == 0:
                    shown.append(activity.detach().clone())
                return activity

            self._learn(listen, None, {INPUT: _row(sample)})
            for row in (shown[-1] != base).flatten(1).any(1).nonzero().flatten().tolist():
                if owners[row] is None:
                    owners[row] = sample
        return tuple(owners)

    def _check_repeatable(self) -> None:
        again = self._learn(lambda k, activity: activity, None)  # noqa: ARG005
        one, two = (run.updates(self.matrices) for run in (self.base, again))
        if any(not torch.equal(one[name], two[name]) for name in one):
            raise ValueError(
                "the same presentation gave two different updates: draw all random numbers of the "
                "rule from its generator"
            )

    def _keep(self, module: nn.Module, k: int, value: Tensor) -> Tensor:
        del k
        self.given.setdefault(module, []).append(value.detach().clone())
        return value

    def _recorder(self, learning: bool) -> Callable[[int, Tensor], Tensor]:
        found = self.seen[learning] = {}

        def record(k: int, activity: Tensor) -> Tensor:
            found.setdefault(k, []).append(activity.detach().clone())
            return activity

        return record

    def _holder(
        self, edits: Mapping[str, Edit], learning: bool
    ) -> tuple[Callable[[int, Tensor], Tensor], dict[int, list[Tensor]]]:
        """Return an observer that holds what was recorded, and the list of what it is shown."""
        shown: dict[int, list[Tensor]] = {}
        names = {INPUT: -1, **{name: k for k, name in enumerate(self.layers)}}
        by_layer = {names[name]: edit for name, edit in edits.items()}

        def hold(k: int, activity: Tensor) -> Tensor:
            before = shown.setdefault(k, [])
            known = self.seen[learning][k][len(before)]
            before.append(activity.detach().clone())
            return _held(activity, by_layer[k](known) if k in by_layer else known)

        return hold, shown

    def _module_holder(
        self, edited: Collection[str], inside: bool = False
    ) -> Callable[[nn.Module, int, Tensor], Tensor]:
        """Return what holds all that the modules of the network give.

        An edited layer is free to apply its nonlinearity to what is edited; and `inside`, to do all
        that it does anew, with noise on what its first module gives.
        """
        calls: dict[nn.Module, int] = {}

        def hold(module: nn.Module, k: int, value: Tensor) -> Tensor:
            call = calls[module] = calls.get(module, -1) + 1
            if self.layers[k] in edited:
                if inside:
                    return noisy(value) if module is self.leaves[k][0] else value
                if not [*module.parameters()]:
                    return value
            return _held(value, self.given[module][call])

        return hold

    def _learn(
        self,
        observe: Callable[[int, Tensor], Tensor],
        inside: Callable[[nn.Module, int, Tensor], Tensor] | None,
        activities: Mapping[str, Edit] = NO_EDITS,
        weights: Mapping[str, Edit] = NO_EDITS,
        relabel: bool = False,
    ) -> _Run:
        """Let the rule learn from the batch, and return what it would have its weights do."""
        rule, run = self.rule, _Run()
        names = {id(p): name for name, p in self.matrices.items()}

        def record(k: int, gradients: Sequence[Tensor | None]) -> None:
            run.note("step", k, 0)
            for parameter, gradient in zip(rule.parameters_of(k), gradients, strict=True):
                if gradient is not None and id(parameter) in names:
                    change = -gradient.detach().clone()
                    run.steps.append(_Step(len(run.events), k, names[id(parameter)], change))

        def listen(k: int, activity: Tensor) -> Tensor:
            run.note("activity", k, len(activity))
            return observe(k, activity)

        labels = (self.labels + 1) % rule.classes if relabel else self.labels
        self._restore(weights)
        vars(rule)["step"] = record  # before the method of the class, until it is deleted
        try:
            with self._inside(inside), self._listening(listen, run):
                rule.learn(activities.get(INPUT, _same)(self.x), labels)
        finally:
            del vars(rule)["step"]
        return run

    def _answer(
        self,
        observe: Callable[[int, Tensor], Tensor],
        activities: Mapping[str, Edit] = NO_EDITS,
        weights: Mapping[str, Edit] = NO_EDITS,
    ) -> None:
        self._restore(weights)
        with self._listening(observe, None):
            self.rule.respond(activities.get(INPUT, _same)(self.x))

    def _restore(self, weights: Mapping[str, Edit]) -> None:
        """Put the rule back to where it was, random numbers too, and edit some weights."""
        self.rule.restore(self.kept)
        with torch.no_grad():
            for name, edit in weights.items():
                self.matrices[name].copy_(edit(self.matrices[name]))

    @contextmanager
    def _listening(
        self, observe: Callable[[int, Tensor], Tensor], run: _Run | None
    ) -> Iterator[None]:
        """Show all activities: those that the rule shows, and what layers give beside them."""
        handles: list[RemovableHandle] = []
        last: list[tuple[int, Tensor] | None] = [None]

        def showing(k: int) -> Callable[..., Tensor]:
            def show(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
                del module, arguments
                value = observe(k, output)
                last[0] = k, value
                return value

            return show

        def observer(k: int, activity: Tensor) -> Tensor:
            before, last[0] = last[0], None
            if before is not None and before[0] == k:
                if before[1] is activity:  # what the layer gave, which was shown just now
                    return activity
                if run is not None:
                    run.supersede()
            return observe(k, activity)

        self.rule.observer = observer
        try:
            for k, layer in enumerate(self.rule.network.layers):
                handles.append(layer.register_forward_hook(showing(k)))
            yield
        finally:
            self.rule.observer = None
            for handle in handles:
                handle.remove()

    @contextmanager
    def _inside(self, hold: Callable[[nn.Module, int, Tensor], Tensor] | None) -> Iterator[None]:
        """Let a function replace what each module within a layer gives."""
        handles: list[RemovableHandle] = []

        def replacing(k: int, held: Callable[[nn.Module, int, Tensor], Tensor]) -> Any:
            return lambda module, _, output: held(module, k, output)

        try:
            for k, leaves in enumerate(self.leaves if hold is not None else []):
                for leaf in leaves:
                    handles.append(leaf.register_forward_hook(replacing(k, hold)))  # type: ignore[arg-type]
            yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class _Step:
    """A change that a rule would make: how many events came before, and to which matrix."""

    at: int
    layer: int
    name: str
    change: Tensor

    def differs(self, other: _Step) -> bool:
        return not torch.equal(self.change, other.change)


@dataclass
class _Run:
    """The events of one presentation, in their order, and what the weights would have done."""

    events: list[tuple[str, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)

    def note(self, what: str, k: int, rows: int) -> None:
        self.events.append((what, k))
        self.rows.append(rows)

    def supersede(self) -> None:
        """Take note that the last activity was a part of the next one."""
        self.rows[-1] = 0

    def step_of(self, k: int) -> int:
        """Return how many events came before the last step of a layer."""
        steps = [i for i, event in enumerate(self.events) if event == ("step", k)]
        return steps[-1] if steps else len(self.events)

    def updates(self, matrices: Mapping[str, Tensor]) -> Updates:
        total = {name: torch.zeros_like(w, requires_grad=False) for name, w in matrices.items()}
        for step in self.steps:
            total[step.name] += step.change
        return total


class _Held(torch.autograd.Function):
    """Another value in place of an activity's, bit for bit; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, activity: Tensor, value: Tensor) -> Tensor:
        del ctx, activity
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0], None


def _held(activity: Tensor, value: Tensor) -> Tensor:
    held: Tensor = _Held.apply(activity, value)  # type: ignore[no-untyped-call]
    return held


def _only(version: int, edit: Edit) -> Edit:
    """Return an edit of one activity of a layer, by its number in a presentation."""
    calls = [-1]

    def edited(known: Tensor) -> Tensor:
        calls[0] += 1
        return edit(known) if calls[0] == version else known

    return edited


def _row(row: int) -> Edit:
    """Return an edit of one row of a tensor."""

    def edited(value: Tensor) -> Tensor:
        changed = value.clone()
        changed[row] = noisy(value)[row]
        return changed

    return edited


def _same(value: Tensor) -> Tensor:
    return value
