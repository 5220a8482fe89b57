"""``ctsigprop portrait``: the phase plane of a model, and what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctsigprop.cli.models import Model, Parameters, Ranges, intervals, neuron, pairs, window
from ctsigprop.cli.run import AsJson, Out, Overwrite, new_folder, refusals, say, write
from ctsigprop.errors import unknown
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["portrait"]


def portrait(
    model: Model,
    parameters: Parameters = None,
    ranges: Ranges = None,
    axes: Annotated[
        str, typer.Option(help="One or two variables, as in v,w; the others are held.")
    ] = "",
    held: Annotated[
        list[str] | None, typer.Option("--at", help="NAME=VALUE of a held variable; repeat it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search for fixed points.")] = 0,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Draw the vector field, nullclines, fixed points and orbits of a model."""
    from ctsigprop.analyses.phase import portrait as draw

    with refusals():
        system = System(neuron(model, pairs(parameters)))
        box = window(model, intervals(ranges))
        chosen = axes.split(",") if axes else [*box][:2]
        for name in chosen:
            if name not in box:
                if name not in system.variables:
                    raise ValueError(unknown("variable", name, system.variables))
                raise ValueError(f"--range {name}=LOW:HIGH is needed: {model} has no usual one")
        if not chosen:
            raise ValueError(f"--range is needed, of one or two of: {', '.join(system.variables)}")
        with new_folder(out, "portrait", overwrite) as folder:
            at = pairs(held)
            rest = {n: v for n, v in system.initial_state().items() if n not in chosen}
            tree = draw(
                system,
                {name: box[name] for name in chosen},
                at={n: float(v) for n, v in rest.items() if v.numel() == 1} | at,
                seed=seed,
                title=Path(model).stem,
            )
            points = _points(tree["fixed_points"].to_dataset(), system)
            count = len(points)
            lines = [
                f"{tree.attrs['title']}: {count} fixed {'point' if count == 1 else 'points'}",
                *(_said(point) for point in points),
            ]
            if tree.attrs["held"]:
                text = ", ".join(f"{n} = {v:g}" for n, v in tree.attrs["held"].items())
                lines.append(f"  held: {text}")
            write(folder, tree, lines)
            say(lines, folder, {"fixed_points": points, "out": str(folder)} if as_json else None)


def _points(found: Dataset, system: System) -> list[dict[str, Any]]:
    types = found["type"].attrs["flag_meanings"].split()
    return [
        {
            "type": types[int(found["type"][k])],
            "state": {n: found[n].values[k].ravel().tolist() for n in system.variables},
            "eigenvalues": found["eigenvalue"].values[k].tolist(),
            "residual": float(found["residual"][k]),
        }
        for k in range(found.sizes["fp"])
    ]


def _said(point: dict[str, Any]) -> str:
    where = ", ".join(
        f"{n} = {', '.join(f'{x:.6g}' for x in values)}" for n, values in point["state"].items()
    )
    values = ", ".join(
        f"{re:.4g}" + (f" ± {im:.4g}i" if im else "") for re, im in point["eigenvalues"] if im >= 0
    )
    return f"  {point['type'].replace('_', ' ')} at {where}; eigenvalues {values}"
