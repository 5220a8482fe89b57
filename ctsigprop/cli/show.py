"""``ctsigprop show`` and ``ctsigprop validate``: what a run holds, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctsigprop.cli.run import figures_of, refusals, store_of
from ctsigprop.store import open as open_store
from ctsigprop.store import validate

__all__ = ["check", "show"]

Run = Annotated[Path, typer.Argument(help="Folder of a run, or its store.")]


def show(
    run: Run,
    draw: Annotated[bool, typer.Option(help="Draw the figures again, from the data.")] = True,
) -> None:
    """Say what a run holds, and draw its figures again from the data."""
    with refusals():
        path = store_of(run)
        tree = open_store(path)
        typer.echo(f"{tree.attrs.get('title', path.name)}  ({tree.attrs.get('created_at', '?')})")
        for group in tree.subtree:
            if group.path == "/provenance":
                continue
            for name, array in group.data_vars.items():
                dims = ", ".join(f"{dim}={size}" for dim, size in array.sizes.items())
                unit = array.attrs.get("units", "")
                typer.echo(f"  {group.path.rstrip('/')}/{name}  ({dims})  {unit}".rstrip())
        summary = path.parent / "summary.txt"
        if summary.exists():
            typer.echo(summary.read_text().rstrip())
        if draw:
            for figure_name, figure in figures_of(tree).items():
                target = path.parent / f"{figure_name}.png"
                figure.savefig(target, dpi=150)
                typer.echo(f"drew {target}")
        typer.echo(f"next: ctsigprop.open('{path}') in Python, or: ctsigprop validate {run}")


def check(run: Run) -> None:
    """Check that a run is whole on disk, and labelled as the schema asks."""
    with refusals():
        path = store_of(run)
        problems = validate(open_store(path))
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{path} is whole and valid")
    typer.echo(f"next: ctsigprop.open('{path}') in Python, or: ctsigprop show {run}")
