from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import ctsigprop as ct
from ctsigprop.analyses.phase import portrait
from ctsigprop.analyses.plots import plot_learning, plot_portrait, plot_time_courses, plot_weights
from ctsigprop.analyses.stability import TYPES
from ctsigprop.solution import root_attributes


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def entries(figure: Figure) -> list[str]:
    return [label.get_text() for legend in figure.legends for label in legend.get_texts()]


@functools.cache
def lattice() -> xr.DataTree:
    cubic = ct.System(ct.TextNeuron("dx/dt = x - x**3 : 1\ndy/dt = y - y**3 : 1"))
    return portrait(cubic, {"x": (-1.5, 1.5), "y": (-1.2, 1.2)}, points=12, title="nine")


def pair(**options: int) -> xr.DataTree:
    system = ct.System(
        ct.Source("u", 3, torch.ones(3).double()),
        ct.leaky_integrator("y", size=2, tau=2.0),
        ct.Synapse("u", "y", 0.1, plasticity=ct.hebb(0.1)),
    )
    return ct.solve(system, t=torch.linspace(0.0, 4.0, 9), **options).to_xarray(title="a pair")


def training(inputs: int = 12, units: int = 5, epochs: int = 3) -> xr.DataTree:
    rng = np.random.default_rng(0)
    one, epoch = {"units": "1"}, ("epoch", np.arange(1, epochs + 1), {"units": "1"})
    curves = {
        f"{name}_accuracy": ("epoch", np.linspace(0.2, top, epochs), one)
        for name, top in (("train", 0.9), ("test", 0.75))
    }
    weights = {
        "W_h_one": (("stage", "h", "one"), rng.normal(size=(2, units, 1)), one),
        "W_h_x": (("stage", "h", "x"), rng.normal(size=(2, units, inputs)), one),
    }
    tree = xr.DataTree.from_dict(
        {
            "/learning": xr.Dataset(curves, coords={"epoch": epoch}),
            "/weights": xr.Dataset(weights, coords={"stage": ["initial", "final"]}),
        }
    )
    tree.attrs = root_attributes("trained")
    return tree


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
@pytest.mark.parametrize(
    ("tree", "plot"),
    [(lattice, plot_portrait), (pair, plot_time_courses)],
    ids=["portrait", "time courses"],
)
def test_the_same_figure_from_the_file(tree, plot, suffix: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = tree()
    drawn = pixels(plot(made))
    again = pixels(plot(ct.open(ct.save(made, tmp_path / f"run{suffix}"))))
    np.testing.assert_array_equal(drawn, again)
    assert drawn.std() > 10


def test_a_plot_never_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = lattice()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the system was evaluated")

    monkeypatch.setattr(ct.System, "forward", refuse)
    monkeypatch.setattr(ct.System, "__init__", refuse)
    plot_portrait(tree)


def test_portrait_shows_what_the_tree_holds() -> None:
    tree = lattice()
    figure = plot_portrait(tree)
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("$x$", "$y$", "nine")
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1.5, 1.5), (-1.2, 1.2))
    assert entries(figure) == [
        r"$\mathrm{d}x/\mathrm{d}t$ = 0",
        r"$\mathrm{d}y/\mathrm{d}t$ = 0",
        "stable manifold",
        "unstable manifold",
        "orbits",
        "stable star",
        "saddle",
        "unstable star",
    ]
    faces = {"stable star": [], "saddle": [], "unstable star": []}
    for line in ax.lines:
        if line.get_label() in faces:
            face = to_hex(line.get_markerfacecolor()) + line.get_fillstyle()
            faces[line.get_label()].append((*line.get_xydata()[0].round(9), face))
    assert {face for *_, face in faces["stable star"]} == {"#000000full"}
    assert {face for *_, face in faces["unstable star"]} == {"#fffffffull"}
    assert {face for *_, face in faces["saddle"]} == {"#000000left"}
    assert sorted(faces["stable star"])[0][:2] == (-1.0, -1.0)
    assert [len(found) for found in faces.values()] == [4, 4, 1]
    colours = {line.get_color() for line in ax.lines if "= 0" in str(line.get_label())}
    assert len(colours) == 2


def test_streamlines_follow_the_field() -> None:
    parabolas = ct.System(ct.TextNeuron("dx/dt = 1 : 1\ndy/dt = x : 1"))
    tree = portrait(parabolas, {"x": (-1, 1), "y": (-1, 1)}, orbits=0)
    lines = plot_portrait(tree).axes[0].collections[0].get_segments()
    change = np.concatenate([np.diff(line, axis=0) for line in lines])
    middle = np.concatenate([(line[1:] + line[:-1]) / 2 for line in lines])
    np.testing.assert_allclose(change[:, 1], middle[:, 0] * change[:, 0], atol=2e-3)


def test_portrait_of_components_with_units() -> None:
    neuron = ct.System(ct.morris_lecar(I=90.0, size=2))
    tree = portrait(neuron, {"v[0]": (-70, 40), "w[1]": (0, 1)}, points=6)
    ax = plot_portrait(tree).axes[0]
    assert ax.get_xlabel() == r"$v_\mathrm{0}$ (mV)"
    assert ax.get_ylabel() == r"$w_\mathrm{1}$"


def test_every_type_has_a_marker() -> None:
    tree = lattice().copy()
    found = tree["fixed_points"].to_dataset()
    many = xr.concat([found] * 2, "fp").isel(fp=slice(0, len(TYPES)))
    many["type"] = many["type"].copy(data=np.arange(len(TYPES), dtype=np.int8))
    tree["fixed_points"] = xr.DataTree(many)
    figure = plot_portrait(tree)
    assert entries(figure)[5:] == [kind.replace("_", " ") for kind in TYPES]
    marks = {
        (str(line.get_marker()), to_hex(line.get_markerfacecolor()), line.get_fillstyle())
        for line in figure.axes[0].lines
        if str(line.get_label()).replace(" ", "_") in TYPES
    }
    assert len(marks) == len(TYPES)
    pixels(figure)


def test_phase_line() -> None:
    bistable = ct.TextNeuron(
        "dv/dt = v*(1*mV - v)*(v - 0.3*mV)/(tau*mV**2) : mV", tau=ct.Parameter(2.0, "ms")
    )
    figure = plot_portrait(portrait(ct.System(bistable), {"v": (-0.5, 1.5)}))
    ax = figure.axes[0]
    assert ax.get_xlabel() == "$v$ (mV)"
    assert ax.get_ylabel() == r"$\mathrm{d}v/\mathrm{d}t$ (mV/ms)"
    nodes = {line.get_xdata()[0].round(9) for line in ax.lines if "node" in str(line.get_label())}
    assert nodes == {0.0, 0.3, 1.0}


def test_time_courses_panels_labels_and_lines() -> None:
    figure = plot_time_courses(pair())
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels == [r"$s_\mathrm{y}$", r"$W_\mathrm{y,u}$"]
    assert figure.axes[-1].get_xlabel() == "time"
    assert [line.get_label() for line in figure.axes[0].lines] == ["y 0", "y 1"]
    assert [line.get_label() for line in figure.axes[1].lines][:2] == ["y 0, u 0", "y 0, u 1"]
    chosen = plot_time_courses(pair(), ["u", "s_y"])
    assert [ax.get_ylabel() for ax in chosen.axes] == ["$u$", r"$s_\mathrm{y}$"]
    cell = ct.solve(ct.System(ct.hodgkin_huxley()), t=[0.0, 1.0]).to_xarray()
    figure = plot_time_courses(cell, ["v"])
    assert figure.axes[0].get_ylabel() == "$v$ (mV)"
    assert figure.axes[0].get_xlabel() == "time (ms)"


def test_many_time_courses_are_thinned_and_the_figure_says_so() -> None:
    system = ct.System(ct.leaky_integrator("y", size=200))
    tree = ct.solve(system, {"s_y": torch.rand(200).double()}, [0.0, 1.0]).to_xarray()
    ax = plot_time_courses(tree).axes[0]
    assert len(ax.lines) == 50
    assert ax.texts[0].get_text() == "50 of 200"


def test_learning_curves_with_and_without_control() -> None:
    tree = training()
    assert entries(plot_learning(tree)) == ["test (75.0 %)", "train (90.0 %)"]
    tree["control"] = tree["learning"].copy()
    figure = plot_learning(tree)
    assert len(entries(figure)) == 4
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2
    assert figure.axes[0].lines[0].get_ydata()[-1] == pytest.approx(75.0)


def test_receptive_fields_lie_where_they_belong() -> None:
    tree = training(inputs=12, units=5)
    weights = tree["weights"]["W_h_x"].values
    figure = plot_weights(tree, shape=(3, 4))
    image = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(image[:3, :4], weights[1, 0].reshape(3, 4))
    np.testing.assert_array_equal(image[:3, 5:9], weights[1, 1].reshape(3, 4))
    assert image.mask[3].all()
    low, high = figure.axes[0].images[0].get_clim()
    assert (low, high) == (-np.abs(weights[1]).max(), np.abs(weights[1]).max())
    first = plot_weights(tree, "W_h_x", stage="initial", shape=(3, 4))
    np.testing.assert_array_equal(
        first.axes[0].images[0].get_array()[:3, :4], weights[0, 0].reshape(3, 4)
    )
    many = plot_weights(training(inputs=16, units=100))
    assert "64 of 100 units" in many.axes[0].get_title()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_portrait(pair()), "no group 'vector_field'.*portrait.*simulation"),
        (lambda: plot_learning(pair()), "no group 'learning'"),
        (lambda: plot_time_courses(lattice()), "no time courses"),
        (lambda: plot_time_courses(pair(), ["s_Y"]), "did you mean 's_y'"),
        (lambda: plot_weights(lattice()), "no group 'weights'"),
        (lambda: plot_weights(training()), "12 pixels"),
        (lambda: plot_weights(training(), shape=(4, 4)), "12 pixels"),
        (lambda: plot_weights(training(), "W_h"), "unknown weights 'W_h'"),
        (lambda: plot_weights(training(), stage="last", shape=(3, 4)), "'initial' or 'final'"),
    ],
)
def test_refusals(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_figures_need_no_pyplot_and_plots_no_matplotlib_until_they_are_drawn() -> None:
    code = (
        "import sys, ctsigprop.analyses.plots as p; assert 'matplotlib' not in sys.modules;"
        "import ctsigprop as ct; from ctsigprop.analyses.phase import portrait;"
        "assert 'xarray' not in sys.modules and 'contourpy' not in sys.modules;"
        "p.plot_portrait(portrait(ct.System(ct.fitzhugh_nagumo()), {'v': (-2, 2)}, points=3));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
