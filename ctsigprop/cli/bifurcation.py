"""``ctsigprop bifurcation``: what changes in a model as a parameter changes, or two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctsigprop.cli.models import Model, Parameters, Ranges, intervals, neuron, pairs, window
from ctsigprop.cli.run import AsJson, Out, Overwrite, new_folder, refusals, say, write
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["bifurcation"]


def bifurcation(
    model: Model,
    parameter: Annotated[
        list[str],
        typer.Option(help="NAME=LOW:HIGH of the parameter that changes; twice: curves in both."),
    ],
    parameters: Parameters = None,
    ranges: Ranges = None,
    cycles: Annotated[bool, typer.Option(help="Follow limit cycles too.")] = True,
    seed: Annotated[int, typer.Option(help="Of the search for equilibria.")] = 0,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Follow equilibria and cycles under a parameter, and locate their bifurcations."""
    from ctsigprop.analyses.bifurcations import bifurcation_diagram, findings
    from ctsigprop.analyses.codimension_two import bifurcation_curves, special_findings

    with refusals():
        changing = intervals(parameter)
        if len(changing) > 2:
            raise ValueError(f"--parameter takes one parameter, or two; got {', '.join(changing)}")
        system = System(neuron(model, pairs(parameters)))
        box = window(model, intervals(ranges))
        with new_folder(out, "bifurcation", overwrite) as folder:
            name = Path(model).stem
            options: dict[str, Any] = {"ranges": box or None, "seed": seed}
            if len(changing) == 1:
                ((symbol, bounds),) = changing.items()
                tree = bifurcation_diagram(
                    system, symbol, bounds, cycles=cycles, title=f"{name}: {symbol}", **options
                )
                lines = findings(tree).splitlines()
                points = _points(tree, "bifurcations", str(tree.attrs["parameter"]))
            else:
                title = f"{name}: {' and '.join(changing)}"
                tree = bifurcation_curves(system, changing, title=title, **options)
                lines = special_findings(tree).splitlines()
                points = _points(tree, "codimension_two", *tree.attrs["parameters"])
            lines.insert(0, tree.attrs["title"])
            write(folder, tree, lines)
            say(lines, folder, {"points": points, "out": str(folder)} if as_json else None)


def _points(tree: DataTree, group: str, *symbols: str) -> list[dict[str, Any]]:
    """Return what was located as the last line has it."""
    found = tree[group].to_dataset()
    kinds = found["kind"].attrs["flag_meanings"].split()
    points: list[dict[str, Any]] = []
    for k in range(found["kind"].size):
        where = [float(found[symbol][k]) for symbol in symbols]
        point: dict[str, Any] = {
            "kind": kinds[int(found["kind"][k])],
            "parameter": where[0] if len(where) == 1 else where,
        }
        if "criticality" in found:
            verdicts = found["criticality"].attrs["flag_meanings"].split()
            verdict = verdicts[int(found["criticality"][k])]
            point["criticality"] = None if verdict == "none" else verdict
        point["residual"] = float(found["residual"][k])
        points.append(point)
    return points
