"""Results on disk that are broken, in the way, or cannot be written, and runs that are stopped."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.testing
import xarray as xr
from robustness import EVERY, decay, neuron, refused

import ctsigprop as ct
from ctsigprop import store
from ctsigprop.cli import app
from ctsigprop.data import read_table
from ctsigprop.errors import CorruptStoreError, StoreExistsError


def saved(request, name):
    path = request.getfixturevalue("tmp_path") / name
    tree = ct.solve(decay(), {"x": 1.0}, np.linspace(0, 1, 50)).to_xarray()
    return store.save(tree, path), tree


def truncated_netcdf(request):
    path, _ = saved(request, "results.nc")
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:length])
        words = "results.nc is truncated or corrupt.*restore it from a copy.*checkpoint"
        refused(CorruptStoreError, words, store.open, path)


def empty_netcdf(request):
    path, _ = saved(request, "results.nc")
    path.write_bytes(b"")
    words = r"results.nc is empty \(interrupted write\?\)"
    refused(CorruptStoreError, words, store.open, path)


def missing_netcdf(request):
    path = request.getfixturevalue("tmp_path") / "nothing.nc"
    refused(FileNotFoundError, "nothing.nc", store.open, path)


def broken_metadata(request):
    path, _ = saved(request, "results.zarr")
    (path / "simulation" / "zarr.json").write_text("{ not json")
    words = r"results.zarr.simulation.zarr.json is truncated or corrupt"
    refused(CorruptStoreError, words, store.open, path)


def existing_store(request):
    for name in ("results.zarr", "results.nc"):
        path, tree = saved(request, name)
        refused(StoreExistsError, "store exists; pass overwrite=True", store.save, tree, path)
        assert store.open(path).identical(tree)
        store.save(tree, path, overwrite=True)


def ragged_table(request):
    path = request.getfixturevalue("tmp_path") / "data.csv"
    columns = {"f": "Hz", "w": "1"}
    for rows, words in (
        ("1,0.5\n2,0.7,9\n", "data.csv line 3: expected 2 columns, got 3"),
        ("1,0.5\n2\n", "data.csv line 3: expected 2 columns, got 1"),
        ("1,0.5\n2,high\n", "data.csv line 3, column 'w': expected a number, got 'high'"),
        ("1,0.5\n2,NaN\n", "data.csv line 3, column 'w': 'NaN' is no value"),
    ):
        path.write_text("f,w\n" + rows)
        refused(ValueError, words, read_table, path, columns)


def unwritable(request):
    folder, patch = (request.getfixturevalue(name) for name in ("tmp_path", "monkeypatch"))
    (folder / "file").touch()  # binds a superuser as well
    words = "output directory not writable"
    refused(PermissionError, words, store.check_writable, folder / "file" / "run.zarr")
    solved = []
    command = sys.modules["ctsigprop.cli.simulate"]
    patch.setattr(command, "solve", lambda *a, **_options: solved.append(a))
    arguments = ["simulate", "fitzhugh-nagumo", "--out", str(folder / "file" / "run")]
    result = typer.testing.CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert "not writable" in " ".join(result.output.split())
    assert not solved


def interrupted(request):
    path = request.getfixturevalue("tmp_path") / "partial.zarr"
    times = np.linspace(0.0, 4.0, 41)
    for solver in (*EVERY, ct.SciPy("Radau"), ct.Brian2(dt=0.01)):
        whole = ct.solve(neuron(), t=times, solver=solver)
        state, threads = torch.get_rng_state(), threading.active_count()

        def stop(fraction):
            if fraction > 0.6:
                signal.raise_signal(signal.SIGINT)

        run = ct.solve(neuron(), t=times, solver=solver, progress=stop)
        assert threading.active_count() == threads
        assert torch.equal(torch.get_rng_state(), state)
        assert run.status == "interrupted"
        assert "stopped by the user after t=" in run.message
        assert 22 < len(run.t) < 41
        assert run.t.shape[0] == run["v"].shape[0]
        torch.testing.assert_close(run["v"], whole["v"][: len(run.t)], rtol=0, atol=1e-6)
        store.save(run.to_xarray(), path, overwrite=path.exists())
        kept = store.open(path)
        assert kept.attrs["status"] == "interrupted"
        assert kept["simulation/v"].sizes["time"] == len(run.t)
    assert not multiprocessing.active_children()


class Evil:
    """On unpickling, leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def evil_checkpoint(request):
    folder = request.getfixturevalue("tmp_path")
    trace = folder / "executed"
    file = store.save_checkpoint(folder, 1, {"w": torch.eye(2)}, {})
    file.write_bytes(pickle.dumps(Evil(trace)))
    refused(
        CorruptStoreError,
        "refusing to load step_1.npz: it contains code",
        store.load_checkpoint,
        folder,
    )
    np.savez(file, np.array([Evil(trace)], dtype=object), allow_pickle=True)
    refused(CorruptStoreError, "step_1.npz", store.load_checkpoint, folder)
    torch.save(Evil(trace), file)
    refused(CorruptStoreError, "step_1.npz", store.load_checkpoint, folder)
    assert not trace.exists()


def truncated_checkpoint(request):
    folder = request.getfixturevalue("tmp_path")
    for step in (90, 100):
        file = store.save_checkpoint(folder, step, {"w": torch.eye(2)}, {"epoch": step})
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.warns(RuntimeWarning, match=r"step_100.npz.*corrupt.*falling back to step_90.npz"):
        assert store.load_checkpoint(folder).state == {"epoch": 90}
    (folder / "step_90.npz").write_bytes(b"")
    refused(
        CorruptStoreError, "no good checkpoint.*start the run again", store.load_checkpoint, folder
    )


def other_checkpoint(request):
    folder = request.getfixturevalue("tmp_path")
    store.save_checkpoint(folder, 1, {"w": torch.zeros(2, 3), "old": torch.zeros(1)}, {})
    error = refused(
        ValueError, "checkpoint of step 1 is of another system", store.match_checkpoint,
        store.load_checkpoint(folder), {"w": (2, 4), "b": (2,)},
    )  # fmt: skip
    for words in ("'w' has shape (2, 3), expected (2, 4)", "'b' is missing", "'old' with shape"):
        assert words in str(error)


def duplicate_dims(request):
    path = request.getfixturevalue("tmp_path") / "twice.nc"
    memory = ct.Synapse("y", "y", 0.1, plasticity=ct.hebb(0.1))
    recurrent = ct.System(ct.leaky_integrator("y", 3), memory)
    tree = ct.solve(recurrent).to_xarray()
    assert tree["weights/W_y_y"].dims == ("time", "y", "y_pre")
    assert ct.validate(tree) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # xarray's, who would take it
        tree = xr.DataTree.from_dict({"/weights": xr.Dataset({"w": (("n", "n"), np.eye(2))})})
        assert any("dimension twice" in problem for problem in ct.validate(tree))
        refused(ValueError, "twice", store.save, tree, path)
    refused(ValueError, "have the same name", ct.Variable, "w", {"w": 2})


CASES = {
    "ROB-NC-TRUNC": truncated_netcdf,
    "ROB-NC-EMPTY": empty_netcdf,
    "ROB-NC-MISSING": missing_netcdf,
    "ROB-ZARR-BAD-META": broken_metadata,
    "ROB-ZARR-EXISTS": existing_store,
    "ROB-CSV-RAGGED": ragged_table,
    "ROB-PERMISSION": unwritable,
    "ROB-CTRL-C": interrupted,
    "ROB-PICKLE-EVIL": evil_checkpoint,
    "ROB-CKPT-TRUNC": truncated_checkpoint,
    "ROB-CKPT-MISMATCH": other_checkpoint,
    "ROB-XR-DUP-DIM": duplicate_dims,
}
