"""What every command does with a run: its folder, its figures, its last words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctsigprop.errors import IntegrationError, StoreExistsError
from ctsigprop.store import check_writable, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

__all__ = [
    "RESULTS",
    "AsJson",
    "Device",
    "Out",
    "Overwrite",
    "check_device",
    "check_resume",
    "clear",
    "figures_of",
    "new_folder",
    "numbers_of",
    "refusals",
    "say",
    "store_of",
    "write",
]

RESULTS = "results.zarr"

Out = Annotated[Path | None, typer.Option(help="Folder of the run; a new one by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as one last JSON line.")]
Device = Annotated[str, typer.Option(help="Where torch calculates, as 'cuda'.")]
Overwrite = Annotated[bool, typer.Option(help="Replace the run in an existing folder.")]


@contextmanager
def refusals() -> Iterator[None]:
    """Print what was refused or failed in one line, without a traceback, and exit with 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, IntegrationError) as error:
        typer.echo(f"ctsigprop: {error}", err=True)
        raise typer.Exit(2) from None


def check_device(device: str) -> None:
    """Refuse a device that torch does not know, or that is not here."""
    import torch

    try:
        torch.zeros(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError, ModuleNotFoundError):
        here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(
            f"device '{device}' is not available; accepted here: {', '.join(here)}"
        ) from None


@contextmanager
def new_folder(out: Path | None, command: str, overwrite: bool) -> Iterator[Path]:
    """Give the folder of a run, made and writable, before any work; it goes if it stays empty."""
    if out is not None and (out / RESULTS).exists() and not overwrite:
        raise StoreExistsError(
            f"{out} holds a run: --overwrite replaces it; or choose another folder with --out"
        )
    check_writable((out or Path("runs")) / RESULTS, overwrite=overwrite)
    folder = out or _numbered(command)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()
            if out is None and not any(folder.parent.iterdir()):
                folder.parent.rmdir()


def check_resume(resume: bool, overwrite: bool, out: Path | None) -> None:
    """Refuse to go on from nowhere, or from what is to be replaced."""
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if resume and (out is None or not out.is_dir()):
        raise ValueError(f"--resume needs --out and the folder of a run; got {out}")


def clear(folder: Path, resume: bool, overwrite: bool) -> None:
    """Remove the checkpoints of a run that is replaced; refuse to start anew beside others."""
    files = list(folder.glob("checkpoints/*/step_*.npz"))
    if files and not (resume or overwrite):
        raise StoreExistsError(
            f"{folder} holds checkpoints: --resume goes on from them, --overwrite starts anew"
        )
    for file in files if overwrite else ():
        file.unlink()


def numbers_of(option: str, text: str, kind: type) -> list[Any]:
    """Return the numbers of an option that takes several."""
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ValueError(f"--{option} takes numbers separated by commas; got '{text}'") from None


def _numbered(command: str) -> Path:
    """Make the next free folder; of two runs that start together, each gets its own."""
    for number in count(1):
        folder = Path("runs") / f"{command}-{number}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder


def store_of(run: Path) -> Path:
    """Return the store of a run given by its folder, or by the store itself."""
    return run / RESULTS if (run / RESULTS).exists() else run


def write(folder: Path, tree: DataTree, lines: Sequence[str]) -> None:
    """Write the data, then the figures drawn from them, then the summary."""
    save(tree, folder / RESULTS, overwrite=True)
    for name, figure in figures_of(tree).items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    (folder / "summary.txt").write_text("\n".join(lines) + "\n")


def figures_of(tree: DataTree) -> dict[str, Figure]:
    """Return the figures of a tree by name, whatever kind of run it holds."""
    from ctsigprop.analyses.plots import (
        plot_bifurcation_curves,
        plot_bifurcations,
        plot_comparison,
        plot_learning,
        plot_needs,
        plot_portrait,
        plot_time_courses,
        plot_weights,
    )

    figures: dict[str, Figure] = {}
    if "learning" in tree.children:
        shape = tree.attrs.get("image_shape")
        figures["learning"] = plot_learning(tree)
        figures["weights"] = plot_weights(tree, shape=None if shape is None else tuple(shape))
    if "comparison" in tree.children:
        figures["comparison"] = plot_comparison(tree)
    if "plausibility" in tree.children and "needed" in tree["plausibility"].data_vars:
        figures["needs"] = plot_needs(tree)
    if "simulation" in tree.children:
        figures["time_courses"] = plot_time_courses(tree)
    if "vector_field" in tree.children:
        figures["portrait"] = plot_portrait(tree)
    if "branches" in tree.children:
        figures["bifurcations"] = plot_bifurcations(tree)
    if "codimension_two" in tree.children:
        figures["bifurcation_curves"] = plot_bifurcation_curves(tree)
    return figures


def say(lines: Sequence[str], folder: Path, numbers: Mapping[str, Any] | None) -> None:
    """Print the summary, what was written, what to look at next, and the figures as JSON."""
    for line in lines:
        typer.echo(line)
    written = ", ".join(sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")))
    typer.echo(f"wrote {folder}: {written}")
    typer.echo(f"next: look at the figures there, or run: ctsigprop show {folder}")
    if numbers is not None:
        sys.stdout.write(json.dumps(numbers) + "\n")
