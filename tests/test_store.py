from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsigprop import store
from ctsigprop.errors import CorruptStoreError, StoreError, StoreExistsError
from ctsigprop.store.content import to_json

FORMATS = (".zarr", ".nc")


def a_run() -> xr.DataTree:
    """A small valid run with every kind of content of the schema."""
    rng = np.random.default_rng(0)
    time = ("time", np.linspace(0.0, 1.9, 20), {"units": "ms"})
    fixed = {"fp": ("fp", [0, 1], {"units": "1"}), "mode": ("mode", [0], {"units": "1"})}
    root = xr.Dataset(
        attrs={
            "Conventions": store.CONVENTIONS,
            "title": "a run",
            "created_at": "2026-11-20T12:00:00+00:00",
            "creation_library": "ctsigprop",
            "creation_library_version": "0.1.0",
            "seed": None,
            "recipe": {"solver": {"rtol": 1e-6, "adaptive": True}, "shape": (2, [3, None])},
        }
    )
    v = rng.normal(size=(20, 3))
    v[19, 0] = np.nan
    return xr.DataTree.from_dict(
        {
            "/": root,
            "/simulation": xr.Dataset(
                {"v": (("time", "neuron"), v, {"units": "mV", "missing": "after the event"})},
                coords={
                    "time": time,
                    "neuron": ["a", "b", "cc"],
                    "layer": ("neuron", [0, 0, 1], {"units": "1"}),
                },
            ),
            "/weights": xr.Dataset(
                {
                    "w": (
                        ("time", "post", "pre"),
                        rng.normal(size=(20, 3, 2)).astype(np.float32),
                        {"units": "nS"},
                    )
                },
                coords={
                    "time": time,
                    "post": ("post", np.arange(3), {"units": "1"}),
                    "pre": ("pre", np.arange(2), {"units": "1"}),
                },
            ),
            "/fixed_points": xr.Dataset(
                {
                    "eigenvalue": (
                        ("fp", "mode", "part"),
                        rng.normal(size=(2, 1, 2)),
                        {"units": "1/ms"},
                    ),
                    "stable": (
                        "fp",
                        np.array([0, 2], np.int8),
                        {"flag_values": [0, 1, 2], "flag_meanings": "no yes marginal"},
                    ),
                    "checked": ("fp", np.array([True, False])),
                },
                coords={**fixed, "part": ["re", "im"]},
            ),
            "/events": xr.Dataset({"event_time": ("event", np.zeros(0), {"units": "ms"})}),
        }
    )


def exact(tree: xr.DataTree) -> dict[str, Any]:
    """All that a store must keep, types included; the width of strings is no content."""
    found: dict[str, Any] = {}
    for path, node in tree.subtree_with_keys:
        dataset = node.to_dataset(inherit=False)
        found[path] = to_json(dict(dataset.attrs))
        for name, variable in dataset.variables.items():
            kind = "str" if variable.dtype.kind == "U" else variable.dtype.name
            bits = variable.values.tolist() if kind == "str" else variable.values.tobytes()
            found[f"{path}/{name}"] = (
                variable.dims,
                variable.shape,
                kind,
                bits,
                to_json(variable.attrs),
                name in dataset.coords,
            )
    return found


@pytest.fixture(params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"run{request.param}"


# --- save and open ----------------------------------------------------------------------------


def test_round_trip(path: Path) -> None:
    run = a_run()
    before = exact(run)
    assert store.save(run, str(path)) == path
    back = store.open(path)
    assert back.identical(run)
    assert exact(back) == before == exact(run)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    shutil.rmtree(path) if path.is_dir() else path.unlink()  # all was loaded
    assert float(back["simulation/v"].sum()) == float(run["simulation/v"].sum())


ATTRIBUTES: dict[str, Any] = {
    "none": None,
    "true": True,
    "zero": 0,
    "one": 1.0,
    "big": 2**70,
    "nested": {"a": [1, 2.5, None, {"b": (True, "x")}], "c": {}},
    "tuple": (1, 2),
    "list": [1, 2],
    "floats": [0.1, -0.0],
    "mixed": [1, 2.0],
    "single": [1],
    "empty_list": [],
    "empty": "",
    "text": "  é → \n",
    "like_json": "json:null",
    "nul": "a\0b",
    "infinite": float("inf"),
    "units": "seconds",
    "scale_factor": 2.0,
    "_FillValue": 1.0,
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_survive(name: str, path: Path) -> None:
    value = ATTRIBUTES[name]
    run = xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs={name: value}), "/a": xr.Dataset({"x": ("t", [1.0], {name: value})})}
    )
    store.save(run, path)
    back = store.open(path)
    for attrs in (back.attrs, back["a"].x.attrs):
        assert list(attrs) == [name]
        assert repr(attrs[name]) == repr(value)


def test_numpy_attributes_become_plain(path: Path) -> None:
    attrs = {"n": np.int8(3), "x": np.float32(0.5), "a": np.arange(3), "s": np.str_("mV")}
    run = xr.DataTree(xr.Dataset({"v": ((), 1.0, attrs)}, attrs=attrs))
    store.save(run, path)
    back = store.open(path)
    for before, after in ((run, back), (run["v"], back["v"])):
        assert repr(after.attrs) == "{'n': 3, 'x': 0.5, 'a': [0, 1, 2], 's': 'mV'}"
        assert before.attrs["n"].dtype == np.int8  # what was given is left alone


def test_bits_of_nan_and_zero_survive(path: Path) -> None:
    negative = np.copysign([[0.0, 0.0], [np.nan, np.nan]], -1)
    run = xr.DataTree(xr.Dataset({"zero": ("t", negative[0]), "nan": ("t", negative[1])}))
    store.save(run, path)
    assert exact(store.open(path)) == exact(run)


def test_flag_values_have_the_dtype_of_the_variable(tmp_path: Path) -> None:
    import netCDF4

    path = store.save(a_run(), tmp_path / "run.nc")
    with netCDF4.Dataset(path) as file:
        assert file["fixed_points/stable"].flag_values.dtype == np.int8
        assert file["fixed_points/stable"].flag_meanings == "no yes marginal"


def test_inherited_coordinates_and_names(path: Path) -> None:
    whole = xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords={"time": ("time", [0.0, 1.0])}),
            "/simulation": xr.Dataset({"x": ("time", [1.0, 2.0])}),
            "/simulation/deep": xr.Dataset({"y": ("time", [1, 2])}),
        },
        name="run",
    )
    store.save(whole, path)
    assert store.open(path).identical(whole)
    part = whole["simulation"]
    store.save(part, path, overwrite=True)  # what a part inherits goes with it
    back = store.open(path)
    assert back.name == "simulation"
    assert set(back.to_dataset(inherit=False).variables) == {"time", "x"}
    assert back["deep"].y.time.values.tolist() == [0.0, 1.0]


def test_order_is_kept(path: Path) -> None:
    names = ["z", "a", "m", "b"]
    groups = {f"/{group}": xr.Dataset(dict.fromkeys(names, 1.0)) for group in names}
    store.save(xr.DataTree.from_dict(groups), path)
    back = store.open(path)
    assert list(back.children) == names
    assert [list(back[group].data_vars) for group in names] == [names] * 4


def test_open_without_verifying_is_lazy(path: Path) -> None:
    run = a_run()
    store.save(run, path)
    back = store.open(path, verify=False)
    assert not isinstance(back["simulation/v"].variable._data, np.ndarray)
    assert back.identical(run)
    back.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a /proc")
def test_closing_lets_go_of_the_file(tmp_path: Path) -> None:
    path = store.save(a_run(), tmp_path / "run.nc")

    def is_open() -> bool:
        held = (fd.resolve() for fd in Path("/proc/self/fd").iterdir())
        return path.resolve() in held

    store.open(path)
    assert not is_open()
    back = store.open(path, verify=False)
    assert is_open()
    back.close()
    assert not is_open()


names = st.from_regex(r"[a-z][a-z_0-9]{0,4}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
attributes = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=3,
)
dtypes = st.sampled_from(["f4", "f8", "i1", "i4", "i8", "u1", "u8", "?", "U3", ">f8"])


@st.composite
def trees(draw: st.DrawFn) -> xr.DataTree:
    sizes = draw(st.fixed_dictionaries({dim: st.integers(0, 3) for dim in ("p", "q", "r")}))

    def array(dims: tuple[str, ...], dtype: str) -> np.ndarray:
        elements = None
        if dtype == "U3":  # netCDF ends a string at NUL
            legal = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
            elements = st.text(legal, max_size=3)
        return draw(hnp.arrays(dtype, tuple(sizes[dim] for dim in dims), elements=elements))

    groups = {"/": xr.Dataset(attrs=draw(attributes))}
    for group in draw(st.lists(st.sampled_from(["/a", "/b", "/b/c"]), unique=True)):
        variables = {}
        for name in draw(st.lists(names.filter(lambda n: len(n) > 1), unique=True, max_size=4)):
            dims = tuple(draw(st.lists(st.sampled_from(["p", "q", "r"]), unique=True)))
            if name != "c":
                variables[name] = (dims, array(dims, draw(dtypes)), draw(attributes))
        coords = {}
        if group != "/b":  # what /b has, /b/c must share
            for dim in draw(st.lists(st.sampled_from(["p", "q", "r"]), unique=True)):
                kind = draw(st.sampled_from(["f4", "f8", "i4", "U3"]))
                coords[dim] = (dim, array((dim,), kind), draw(attributes))
        groups[group] = xr.Dataset(variables, coords=coords, attrs=draw(attributes))
    return xr.DataTree.from_dict(groups)


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=25, deadline=None)
@given(tree=trees())
def test_random_trees_survive(suffix: str, tree: xr.DataTree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = store.save(tree, Path(folder) / f"run{suffix}")
        back = store.open(path)
    assert back.identical(tree)
    assert exact(back) == {
        key: value if isinstance(value, str) else (*value[:3], _little(tree, key), *value[4:])
        for key, value in exact(tree).items()
    }


def _little(tree: xr.DataTree, key: str) -> Any:
    group, _, name = key.rpartition("/")
    values = tree[group].to_dataset(inherit=False).variables[name].values
    if values.dtype.kind == "U":
        return values.tolist()
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


# --- what is refused --------------------------------------------------------------------------


def with_variable(values: Any, dims: tuple[str, ...] = ("t",), **attrs: Any) -> xr.DataTree:
    return xr.DataTree.from_dict({"/a": xr.Dataset({"x": (dims, values, attrs)})})


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: with_variable(np.array([1j])), TypeError, r"'/a/x' is complex128.*part=\(re, im\)"),
    (lambda: with_variable(np.array(["a", 1], object)), TypeError, "'/a/x' has dtype object"),
    (lambda: with_variable(np.zeros(1, "f2")), TypeError, "float16; accepted: bool"),
    (lambda: with_variable(np.array(["2026"], "M8[ns]")), TypeError, "datetime64"),
    (lambda: with_variable([1.0], path=Path("a")), TypeError, "'path' of '/a/x' is a .*Path"),
    (lambda: with_variable([1.0], d={1: 2}), TypeError, "key 1 is not accepted"),
    (lambda: with_variable([1.0], c=1j), TypeError, "'c' of '/a/x' is a complex"),
    (lambda: xr.Dataset(), TypeError, r"wrap it: xarray.DataTree\(dataset\)"),
    (lambda: with_variable(["a\0b"]), ValueError, "does not keep this run as it is: '/a/x'"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_save_refuses(
    make: Callable[[], Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        store.save(make(), tmp_path / "run.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate dimension names:UserWarning")
def test_a_dimension_twice_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"'/a/x' has dimension 'n' twice.*\(post, pre\)"):
        store.save(with_variable(np.eye(2), ("n", "n")), path)


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown suffix '.zar' \(did you mean '.zarr'\?\)"):
        store.save(a_run(), tmp_path / "run.zar")
    (tmp_path / "run.h5").touch()
    with pytest.raises(ValueError, match=r"accepted: .nc, .zarr"):
        store.open(tmp_path / "run.h5")


def test_existing_store_is_refused_by_default(path: Path) -> None:
    store.save(a_run(), path)
    other = xr.DataTree(xr.Dataset(attrs={"title": "other"}))
    with pytest.raises(StoreExistsError, match="store exists; pass overwrite=True"):
        store.save(other, path)
    assert issubclass(StoreExistsError, StoreError)
    assert issubclass(StoreExistsError, FileExistsError)
    assert store.open(path).identical(a_run())
    store.save(other, path, overwrite=True)
    assert store.open(path).identical(other)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_is_no_store_is_never_overwritten(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("all of it")
    with pytest.raises(StoreError, match="will not be overwritten"):
        store.save(a_run(), path, overwrite=True)
    assert (path / "thesis.txt").read_text() == "all of it"


def test_parents_are_made_only_by_save(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "run.nc"
    store.check_writable(path)
    assert list(tmp_path.iterdir()) == []
    store.save(a_run(), path)
    assert store.open(path).identical(a_run())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a /proc, read-only for all")
@pytest.mark.parametrize("target", ["/proc/run.nc", "/proc/new/run.zarr"])
def test_unwritable_place_is_refused_before_the_run(target: str) -> None:
    with pytest.raises(PermissionError, match="output directory not writable: /proc"):
        store.check_writable(target)
    with pytest.raises(PermissionError, match="not writable"):
        store.save(a_run(), target)
    with pytest.raises(PermissionError, match="not writable"):
        store.save_checkpoint("/proc/folder", 0, {}, {})


def test_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match="not writable"):
        store.check_writable(tmp_path / "file" / "run.nc")


def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("permission bits bind no superuser")
        with pytest.raises(PermissionError, match="not writable"):
            store.check_writable(tmp_path / "run.nc")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


# --- crashes and damage -----------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["while flushing", "while renaming"])
def test_an_interrupted_save_leaves_what_was_there(
    moment: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(a_run(), path)
    other = xr.DataTree(xr.Dataset(attrs={"title": "other"}))

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    replace = Path.replace

    def interrupt_last(new: Path, target: Path) -> Path:  # Zarr renames each of its files too
        return interrupt() if new.parent == path.parent else replace(new, target)

    if moment == "while flushing":
        monkeypatch.setattr(os, "fsync", interrupt)
    else:
        monkeypatch.setattr(Path, "replace", interrupt_last)
    with pytest.raises(KeyboardInterrupt):
        store.save(other, path, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        store.save(other, path.with_stem("new"))
    assert store.open(path).identical(a_run())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_missing_store() -> None:
    with pytest.raises(FileNotFoundError, match=r"no such store: 'nowhere.nc'"):
        store.open("nowhere.nc")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "results.nc"
    path.touch()
    with pytest.raises(CorruptStoreError, match=r"results.nc is empty \(interrupted write\?\); re"):
        store.open(path)


@pytest.mark.parametrize("cut", [1, 64, 5000])
def test_truncated_file(cut: int, tmp_path: Path) -> None:
    path = store.save(a_run(), tmp_path / "results.nc")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CorruptStoreError, match=r"results.nc is truncated or corrupt.*; restore"):
        store.open(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CorruptStoreError, match=r"truncated or corrupt \(.*HDF error"):
        store.open(path, verify=False)


def test_one_flipped_bit_in_a_file(tmp_path: Path) -> None:
    path = store.save(a_run(), tmp_path / "run.nc")
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in rng.integers(0, len(good), 100):
        bad = bytearray(good)
        bad[at] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        with pytest.raises(CorruptStoreError, match=r"run.nc is"):
            store.open(path)


def test_one_flipped_bit_in_a_store(tmp_path: Path) -> None:
    run = a_run()
    path = store.save(run, tmp_path / "run.zarr")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    rng = np.random.default_rng(2)
    caught = []
    for number in range(60):
        file = files[number % len(files)]
        good = file.read_bytes()
        bad = bytearray(good)
        bad[rng.integers(len(good))] ^= 1 << rng.integers(8)
        file.write_bytes(bad)
        try:
            assert store.open(path).identical(run)  # of no consequence, as a space
        except CorruptStoreError as error:
            caught.append(str(error))
        file.write_bytes(good)
    assert len(caught) > 50
    assert all("run.zarr" in message for message in caught)
    assert store.open(path).identical(run)


def test_damage_is_named(tmp_path: Path) -> None:
    path = store.save(a_run(), tmp_path / "run.zarr")

    def damaged(change: Callable[[Path], None]) -> str:
        copy = shutil.copytree(path, tmp_path / "copy.zarr")
        change(copy)
        with pytest.raises(CorruptStoreError) as caught:
            store.open(copy)
        shutil.rmtree(copy)
        assert "restore it from a copy" in str(caught.value)
        return str(caught.value)

    deleted = damaged(lambda root: (root / "weights/w/c/0/0/0").unlink())
    assert "copy.zarr is corrupt: '/weights/w' has changed" in deleted
    broken = damaged(lambda root: (root / "weights/w/zarr.json").write_text("{nonsense"))
    assert "copy.zarr/weights/w/zarr.json is truncated or corrupt" in broken
    group = damaged(lambda root: shutil.rmtree(root / "weights"))
    assert "'/weights' is missing, '/weights/" in group
    hollow = damaged(lambda root: (root / "zarr.json").unlink())
    assert "copy.zarr is truncated or corrupt" in hollow

    def rewrite_title(root: Path) -> None:
        meta = json.loads((root / "zarr.json").read_text())
        meta["attributes"]["title"] = "a better run"
        (root / "zarr.json").write_text(json.dumps(meta))

    assert "'/' has changed" in damaged(rewrite_title)

    def demote(root: Path) -> None:
        meta = json.loads((root / "simulation/v/zarr.json").read_text())
        assert meta["attributes"].pop("coordinates") == "layer"
        (root / "simulation/v/zarr.json").write_text(json.dumps(meta))

    assert "'/simulation/layer' has changed" in damaged(demote)


def test_a_foreign_store_is_opened_unverified_only(tmp_path: Path) -> None:
    path = tmp_path / "foreign.zarr"
    run = with_variable([1.0, 2.0], units="mV")
    run.to_zarr(path, zarr_format=3, consolidated=False)
    with pytest.raises(CorruptStoreError, match=r"has no checksums.*verify=False"):
        store.open(path)
    back = store.open(path, verify=False)
    assert back["a"].x.values.tolist() == [1.0, 2.0]
    back.close()


# --- the schema -------------------------------------------------------------------------------


def test_a_valid_run_has_no_problems(path: Path) -> None:
    assert store.validate(a_run()) == []
    store.save(a_run(), path)
    assert store.validate(store.open(path)) == []


def _set(tree: xr.DataTree, group: str, name: str, dims: Any, values: Any, **attrs: Any) -> None:
    dataset = tree[group].to_dataset()
    dataset[name] = (dims, values, attrs)
    tree[group] = xr.DataTree(dataset)


def _drop(tree: xr.DataTree, group: str, name: str) -> None:
    tree[group] = xr.DataTree(tree[group].to_dataset().drop_vars(name))


def _attr(variable: str, name: str, value: Any) -> Callable[[xr.DataTree], None]:
    return lambda tree: tree[variable].attrs.__setitem__(name, value)


def _times(values: Any) -> Callable[[xr.DataTree], None]:
    def change(tree: xr.DataTree) -> None:
        dataset = tree["simulation"].to_dataset()
        time = ("time", np.asarray(values), {"units": "ms"})
        tree["simulation"] = xr.DataTree(dataset.assign_coords(time=time))

    return change


BROKEN: list[tuple[Callable[[xr.DataTree], Any], str]] = [
    (lambda t: t.attrs.pop("Conventions"), "/: attribute 'Conventions' must be 'CF-1.11 ctsi"),
    (lambda t: t.attrs.update(Conventions="CF-1.6"), "got 'CF-1.6'"),
    (lambda t: t.attrs.update(title=" "), "attribute 'title' must be a text"),
    (lambda t: t.attrs.update(created_at="yesterday"), "'created_at' must be an ISO 8601 time"),
    (lambda t: t.attrs.pop("creation_library"), "attribute 'creation_library' must be"),
    (lambda t: t.attrs.pop("creation_library_version"), "'creation_library_version' must be"),
    (lambda t: t.update({"Results": xr.DataTree()}), "/Results: the name of a group"),
    (lambda t: _drop(t, "weights", "pre"), "/weights: dimension 'pre' has no coordinate"),
    (lambda t: t["simulation/v"].attrs.pop("units"), "/simulation/v: has no units"),
    (lambda t: t["weights/pre"].attrs.pop("units"), "/weights/pre: has no units"),
    (_attr("simulation/v", "units", "millivots"), "units 'millivots': unknown unit"),
    (_attr("simulation/v", "units", "mV/seconds"), "write the symbol of 'seconds'"),
    (_attr("simulation/v", "units", 3), "units 3: a unit is a text"),
    (lambda t: _set(t, "weights", "w", ("n", "n"), np.eye(2)), "has a dimension twice"),
    (
        lambda t: _set(t, "weights", "w", ("pre", "post"), np.ones((2, 3)), units="1"),
        r"weights must be (post, pre), got dims=(pre, post)",
    ),
    (
        lambda t: _set(t, "fixed_points", "eigenvalue", ("fp", "mode"), [[1.0]] * 2, units="1/s"),
        "eigenvalues need a dimension 'part'",
    ),
    (
        lambda t: t["fixed_points"].coords.update({"part": ["im", "re"]}),
        "/fixed_points/part: must be ['re', 'im']",
    ),
    (lambda t: _set(t, "signal", "s", (), 1j, units="1"), "/signal/s: is complex"),
    (lambda t: _set(t, "signal", "s", (), np.datetime64(0, "ns")), "dtype datetime64[ns] is not"),
    (_attr("fixed_points/stable", "flag_meanings", "no yes"), "3 flag_values but 2 flag_meanings"),
    (lambda t: t["fixed_points/stable"].attrs.pop("flag_values"), "flag_meanings but no flag_val"),
    (
        lambda t: t["fixed_points/stable"].values.__setitem__(0, 7),
        "has values [7], not among its flag_values [0, 1, 2]",
    ),
    (
        lambda t: _set(t, "signal", "x", ("x", "y"), np.ones((2, 2)), units="1"),
        "/signal/x: has the name of a dimension, but is not its coordinate, dims=(x, y)",
    ),
    (lambda t: t["simulation/v"].attrs.pop("missing"), "/simulation/v: has NaN, and no attribute"),
    (
        lambda t: t["simulation/v"].values.__setitem__((0, 0), np.inf),
        "/simulation/v: has infinite values",
    ),
    (_times([0.0, *range(19)]), "/simulation/time: must be strictly monotonic"),
    (_times([0, 1, 2, 1, *range(3, 19)]), "/simulation/time: must be strictly monotonic"),
]


@pytest.mark.filterwarnings("ignore:Duplicate dimension names:UserWarning")
@pytest.mark.parametrize(("change", "problem"), BROKEN)
def test_broken_runs_are_told(change: Callable[[xr.DataTree], Any], problem: str) -> None:
    run = a_run()
    run["signal"] = xr.DataTree(xr.Dataset())
    assert store.validate(run) == []
    change(run)
    assert any(problem in found for found in store.validate(run)), store.validate(run)


def test_decreasing_time_and_inherited_coordinates_are_valid() -> None:
    run = a_run()
    _times(np.arange(20)[::-1])(run)
    run["simulation/deep"] = xr.DataTree(xr.Dataset({"y": ("time", np.ones(20), {"units": "1"})}))
    assert store.validate(run) == []


# --- checkpoints ------------------------------------------------------------------------------

ARRAYS = {
    "layer.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).T.requires_grad_(),
    "file": torch.tensor(3.5, dtype=torch.float64),
    "count": torch.tensor([2**60, -1]),
    "rng": torch.arange(5, dtype=torch.uint8),
    "mask": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "numpy": np.array([np.nan, -0.0]),
}
STATE = {"epoch": 3, "loss": [0.1, None], "betas": (0.9, 0.999), "name": "é", "best": float("inf")}


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = store.save_checkpoint(tmp_path / "run", 7, ARRAYS, STATE)
    assert path == tmp_path / "run" / "step_7.npz"
    found = store.load_checkpoint(tmp_path / "run")
    assert (found.step, found.state) == (7, STATE)
    assert list(found.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        wanted = torch.as_tensor(array).detach()
        assert found.arrays[name].dtype == wanted.dtype
        assert found.arrays[name].shape == wanted.shape
        assert found.arrays[name].numpy().tobytes() == wanted.contiguous().numpy().tobytes()
    found.arrays["empty"].add_(1)  # owns its memory


def test_last_two_steps_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        store.save_checkpoint(tmp_path, step, {"w": torch.full((2,), step)}, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step_10.npz", "step_100.npz"]
    assert store.load_checkpoint(tmp_path).step == 100


@pytest.mark.parametrize("keep", [0, 1, 200, -1])
def test_damaged_step_falls_back(keep: int, tmp_path: Path) -> None:
    store.save_checkpoint(tmp_path, 90, {"w": torch.ones(2)}, {})
    newest = store.save_checkpoint(tmp_path, 100, {"w": torch.zeros(2)}, {})
    newest.write_bytes(newest.read_bytes()[:keep])
    with pytest.warns(RuntimeWarning, match=r"step_100.npz is .*falling back to step_90.npz"):
        assert store.load_checkpoint(tmp_path).step == 90
    # the run goes on from 90; what the crash left does not stand in its way
    store.save_checkpoint(tmp_path, 95, {"w": torch.ones(2)}, {})
    assert store.load_checkpoint(tmp_path).step == 95


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    path = store.save_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {"epoch": 1})
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 8)
        path.write_bytes(bad)
        with pytest.raises(CorruptStoreError, match=r"no good checkpoint.*step_1.npz"):
            store.load_checkpoint(tmp_path)


class Evil:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("how", ["pickle", "object array", "torch"])
def test_malicious_checkpoint_is_not_executed(how: str, tmp_path: Path) -> None:
    from ctsigprop.store.seal import seal

    proof, path = tmp_path / "executed", tmp_path / "step_5.npz"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Evil(proof)))
    elif how == "torch":
        torch.save(Evil(proof), path)
    else:
        np.savez(path, np.array([Evil(proof)], dtype=object))
    seal(path)  # a checksum is no proof of good intent
    with pytest.raises(CorruptStoreError, match=r"refusing to load step_5.npz"):
        store.load_checkpoint(tmp_path)
    assert not proof.exists()


def test_no_checkpoint(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            store.load_checkpoint(folder)


def test_a_later_step_of_another_run_is_not_mixed_in(tmp_path: Path) -> None:
    store.save_checkpoint(tmp_path, 100, {}, {})
    with pytest.raises(StoreExistsError, match=r"later checkpoint step_100.npz"):
        store.save_checkpoint(tmp_path, 1, {}, {})
    store.save_checkpoint(tmp_path, 100, {}, {"again": True})
    assert store.load_checkpoint(tmp_path).state == {"again": True}


@pytest.mark.parametrize(
    ("step", "arrays", "state", "error", "message"),
    [
        (-1, {}, {}, ValueError, "step must be a whole number, 0 or more, got -1"),
        (True, {}, {}, ValueError, "got True"),
        (0, {"w": torch.zeros(1, dtype=torch.bfloat16)}, {}, TypeError, "'w' has dtype bfloat16"),
        (0, {"w": np.array([None])}, {}, TypeError, "'w' has dtype object; accepted: bool"),
        (0, {}, {"f": print}, TypeError, "state is a builtin_function"),
    ],
)
def test_bad_checkpoints_are_refused(
    step: int, arrays: Any, state: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        store.save_checkpoint(tmp_path, step, arrays, state)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_checkpoint_leaves_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    store.save_checkpoint(tmp_path, 1, {}, {})
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save_checkpoint(tmp_path, 2, {}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["step_1.npz"]


def test_every_mismatch_is_listed() -> None:
    arrays = {"a": torch.zeros(2, 3), "b": torch.zeros(1), "old": torch.zeros(4)}
    checkpoint = store.Checkpoint(5, arrays, {})
    store.match_checkpoint(checkpoint, {"a": (2, 3), "b": torch.Size([1]), "old": [4]})
    with pytest.raises(ValueError, match="step 5 is of another system") as caught:
        store.match_checkpoint(checkpoint, {"a": (2, 4), "b": (1,), "new": ()})
    assert re.split(r"\n\s*", str(caught.value))[1:] == [
        "'a' has shape (2, 3), expected (2, 4)",
        "'new' is missing, expected with shape ()",
        "'old' with shape (4,) is unknown to this system",
    ]
