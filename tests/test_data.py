from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctsigprop import data

MNIST = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"
CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


# --- digits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_digits_split(fraction: float) -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    task = data.digits(seed=3, test_fraction=fraction)
    parts = (task.train, task.test)
    samples = np.concatenate([part.sample.values for part in parts])
    assert sorted(samples) == list(range(1797))  # complete and disjoint
    assert task.test.sizes["sample"] == pytest.approx(1797 * fraction, abs=1)
    for part in parts:
        assert part.input.dtype == np.float32
        assert part.label.dtype == np.int64
        np.testing.assert_array_equal(part.input * 16, pixels[part.sample])
        np.testing.assert_array_equal(part.label, labels[part.sample])
        share = np.bincount(part.label, minlength=10) / part.sizes["sample"]
        np.testing.assert_allclose(share, np.bincount(labels) / 1797, atol=0.003)
        assert (np.diff(part.sample) != 1).mean() > 0.9  # shuffled
        assert part.input.attrs["units"] == part.label.attrs["units"] == "1"
        assert {"source", "references", "licence"} <= set(part.attrs)
    assert float(task.train.input.max()) == 1.0
    assert task.classes == tuple("0123456789")


def test_digits_are_those_of_the_seed() -> None:
    assert data.digits(seed=1).train.identical(data.digits(seed=1).train)
    assert not np.array_equal(data.digits(seed=1).test.sample, data.digits(seed=2).test.sample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be a whole number, 0 or more, got -1"),
        ({"seed": 0.5}, "got 0.5"),
        ({"test_fraction": 0.0}, r"test_fraction must lie in \[0.00556, 0.994\]"),
        ({"test_fraction": 1.0}, "got 1.0"),
        ({"test_fraction": float("nan")}, "got nan"),
    ],
)
def test_digits_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.digits(**options)


@pytest.mark.parametrize("fraction", [0.00557, 0.9944])
def test_smallest_part_has_every_class(fraction: float) -> None:
    task = data.digits(test_fraction=fraction)
    assert min(part.sizes["sample"] for part in (task.train, task.test)) >= 10


# --- idx --------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dtype", CODES)
def test_idx_round_trip(dtype: str, zipped: bool, tmp_path: Path) -> None:
    array = np.arange(-12, 12).reshape(2, 3, 4).astype(dtype)
    raw = idx(array)
    path = tmp_path / "array.idx"
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    found = data.read_idx(path)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, array)
    found[0] = 0  # owns its memory


def test_damaged_idx_is_refused(tmp_path: Path) -> None:
    raw = idx(np.arange(600, dtype="u1").reshape(6, 10, 10))
    packed = gzip.compress(raw)
    path = tmp_path / "images.idx"
    cases = [
        (b"", "is not an idx file: it begins with nothing"),
        (b"PK\3\4 a zip file", "is not an idx file: it begins with 50 4b 03 04"),
        (raw[:2] + b"\x0a" + raw[3:], "not an idx file"),  # no such type
        (raw[:3] + b"\0" + raw[4:], "not an idx file"),  # no axes
        (raw[:9], "ends within its header"),
        (raw[:-1], "truncated: shape .6, 10, 10. of uint8 needs 616 bytes, got 615"),
        (raw + b"\0", "too long"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "truncated: shape"),
        (packed[:-9], "truncated or corrupt: Compressed file ended"),
        (packed[:40], "truncated or corrupt"),
        (packed[:-8] + bytes(8), "truncated or corrupt: CRC check failed"),
        (packed[:20] + bytes(20) + packed[40:], "truncated or corrupt"),
    ]
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            data.read_idx(path)
        assert "images.idx" in str(caught.value)
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "none.idx")


def small_mnist(folder: Path, dot: str = "-", zipped: bool = False, **changed: np.ndarray) -> Path:
    arrays = {
        "train-images": np.arange(5 * 4, dtype="u1").reshape(5, 2, 2),
        "train-labels": np.array([5, 0, 4, 1, 9], "u1"),
        "t10k-images": np.full((2, 2, 2), 255, "u1"),
        "t10k-labels": np.array([7, 2], "u1"),
    }
    for name, array in (arrays | changed).items():
        suffix = f"{dot}idx{3 if name.endswith('images') else 1}-ubyte{'.gz' if zipped else ''}"
        raw = idx(array)
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(raw) if zipped else raw)
    return folder


@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("zipped", [False, True])
def test_folder_of_idx_files(dot: str, zipped: bool, tmp_path: Path) -> None:
    task = data.load(str(small_mnist(tmp_path, dot, zipped)))
    assert task.name == "mnist"
    assert task.train.label.values.tolist() == [5, 0, 4, 1, 9]
    assert task.train.attrs["image_shape"] == (2, 2)
    np.testing.assert_allclose(task.train.input * 255, np.arange(20).reshape(5, 4), rtol=1e-6)
    assert task.test.input.values.tolist() == [[1.0] * 4] * 2
    assert task.test.input.dtype == np.float32


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train-labels": np.zeros(4, "u1")}, "train-images.* has 5 images for 4 labels"),
        ({"t10k-labels": np.array([1, 10], "u1")}, "t10k-labels.* has label 10"),
        ({"t10k-images": np.zeros((2, 4), "u1")}, r"3 axes, got uint8 of shape \(2, 4\)"),
        ({"train-labels": np.zeros(5, "i4")}, "expected bytes with 1 axes, got int32"),
    ],
)
def test_files_that_do_not_agree(
    changed: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        data.mnist(small_mnist(tmp_path, **changed))


def test_missing_files_and_unknown_tasks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no train-images-idx3-ubyte"):
        data.load(tmp_path)
    with pytest.raises(ValueError, match=r"'digits'\?\); accepted: digits, or an MNIST folder"):
        data.load("Digits")


@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not in ../shared/data/mnist")
def test_mnist_itself() -> None:
    task = data.mnist(MNIST)
    assert dict(task.train.sizes) == {"sample": 60000, "pixel": 784}
    assert dict(task.test.sizes) == {"sample": 10000, "pixel": 784}
    assert task.train.label.values[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    pixels = task.train.input.values
    assert pixels.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)


# --- tables -----------------------------------------------------------------------------------


def test_read_table(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(
        '\ufeff# a "comment\n\nprotocol,dt , w,unused\n"pair, 1",-10,2.5e-1,x\n# more\nquad,,3,\n',
        encoding="utf-8",
    )
    table = data.read_table(path, {"w": "1", "protocol": None, "dt": "ms"}, missing=["dt"])
    assert list(table.data_vars) == ["w", "protocol", "dt"]
    assert table.protocol.values.tolist() == ["pair, 1", "quad"]
    np.testing.assert_array_equal(table.dt, [-10, np.nan])
    np.testing.assert_array_equal(table.w, [0.25, 3])
    assert table.dt.attrs == {"units": "ms", "missing": "not given in the table"}
    assert table.w.attrs == {"units": "1"}
    assert table.w.dims == ("row",)
    assert table.row.values.tolist() == [0, 1]


TABLES: list[tuple[str, str]] = [
    ("f,w\n1,0.5\n2,0.7,9\n", "data.csv line 3: expected 2 columns, got 3"),
    ("f,w\n1,0.5\n2\n", "data.csv line 3: expected 2 columns, got 1"),
    ("# head\n\nf,w\n\n1,0.5,\n", "data.csv line 5: expected 2 columns, got 3"),
    ("f,w\n1,0.5\n2,fast\n", "data.csv line 3, column 'w': expected a number, got 'fast'"),
    ("f,w\n1,NaN\n", "data.csv line 2, column 'w': 'NaN' is no value; name the column in `mis"),
    ("f,w\n1,\n", "data.csv line 2, column 'w': '' is no value"),
    ("f,w\nNA,1\n", "data.csv line 2, column 'f': 'NA' is no value"),
    ("f,w\n1,inf\n", "line 2, column 'w': expected a finite number, got 'inf'"),
    ("f,w\n1,-1e999\n", "expected a finite number, got '-1e999'"),
    ("f,w\n1,1_0\n", "expected a finite number, got '1_0'"),
    ('f,w\n1,"2\n', "data.csv is not a CSV file in UTF-8: unexpected end of data"),
    ("f,W\n1,2\n", "data.csv line 1: unknown column 'w' (did you mean 'W'?); accepted: W, f"),
    ("f,w,w\n1,2,3\n", "data.csv line 1: column 'w' is there twice"),
    ("f,w\n", "data.csv has no rows below its header"),
    ("# nothing\n", "data.csv is empty"),
]


@pytest.mark.parametrize(("text", "message"), TABLES)
def test_bad_tables_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        data.read_table(path, {"f": "Hz", "w": "1"})
    assert message in str(caught.value)


def test_other_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"f,w\n1,\xff\n")
    with pytest.raises(ValueError, match=r"data.csv is not a CSV file in UTF-8: .*0xff"):
        data.read_table(path, {"f": "Hz"})
    with pytest.raises(ValueError, match="missing: unknown column of numbers 'g'"):
        data.read_table(path, {"f": "Hz", "t": None}, missing=["g"])
    with pytest.raises(FileNotFoundError):
        data.read_table(tmp_path / "none.csv", {"f": "Hz"})


def test_visual_cortex_pairing() -> None:
    table = data.visual_cortex_pairing()
    points = np.stack([table[name] for name in ("frequency", "dt", "dw", "dw_sem")], axis=1)
    assert points.tolist() == [
        [0.1, 10, -0.04, 0.05],
        [0.1, -10, -0.29, 0.08],
        [10, 10, 0.14, 0.1],
        [10, -10, -0.41, 0.11],
        [20, 10, 0.29, 0.14],
        [20, -10, -0.34, 0.1],
        [40, 10, 0.53, 0.11],
        [40, -10, 0.56, 0.32],
        [50, 10, 0.56, 0.26],
        [50, -10, 0.75, 0.19],
    ]
    units = [table[name].attrs["units"] for name in table.data_vars]
    assert units == ["Hz", "ms", "1", "1"]
    assert "Neuron 32:1149-1164" in table.attrs["source"]
    assert "J Neurosci 26:9673-9682" in table.attrs["references"]
