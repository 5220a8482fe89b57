"""What a time course holds: the density of its power over frequencies, and its recurrences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ctsigprop.errors import unknown
from ctsigprop.solution import Solution
from ctsigprop.units import divide_units, multiply_units, power_unit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import DataArray, Dataset

__all__ = ["one_variable", "power_spectrum", "recurrence"]

EVEN = 1e-3  # by which steps of time may differ, as a part of their mean
MOST = 4000  # points of a matrix of recurrences


def power_spectrum(
    course: Solution | Dataset | DataArray,
    variable: str = "",
    *,
    segment: float | None = None,
    overlap: float = 0.5,
    window: str = "hann",
    detrend: str = "constant",
) -> Dataset:
    """Return the one-sided power spectral density of time courses, by Welch's method.

    S(f) = 2Δt/(Σ w²) · ⟨|Σ_n w_n x_n exp(−2πi f n Δt)|²⟩, the mean over overlapping segments, each
    less its mean and times a window w; without the factor 2 at f = 0 and at the highest frequency
    of an even number of samples. Its integral over f is the variance (Parseval).

    Parameters
    ----------
    course : Solution, xarray.Dataset or xarray.DataArray
        With evenly spaced ``time``.
    variable : str, optional
        Which of the variables; not needed where there is one.
    segment : float, optional
        Length of a segment in the unit of time: 1/segment is the distance of the frequencies. A
        quarter of the whole by default.
    overlap : float
        Of segments, as a part of their length, below 1.
    window : str
        "hann", "boxcar", "hamming", … as in scipy.
    detrend : str
        "constant", "linear" or "none".

    Returns
    -------
    xarray.Dataset
        ``density`` ``(frequency, *dims)`` in unit² × time; ``variance`` ``(*dims)`` of the whole
        course; ``power`` ``(*dims)``, the integral of the density; ``peak_frequency`` ``(*dims)``,
        where the density is largest, the zero frequency aside.

    Raises
    ------
    ValueError
        Times that are not evenly spaced, values that are not finite, options out of range.

    References
    ----------
    Welch 1967, IEEE Trans. Audio Electroacoust. 15:70-73.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> time = np.arange(1000) * 0.01
    >>> wave = xr.DataArray(np.sin(2 * np.pi * 5 * time), {"time": time}, name="x")
    >>> found = power_spectrum(wave)
    >>> round(found["peak_frequency"].item(), 6), round(found["power"].item(), 3)
    (5.2, 0.5)
    """
    import numpy as np
    import xarray as xr
    from scipy.signal import welch

    array = one_variable(course, variable)
    step = _even_step(array)
    n = array.sizes["time"]
    length = max(n // 4, 8) if segment is None else round(segment / step)
    if length < 2 or length > n:
        raise ValueError(
            f"segment must span 2 to {n} steps of {step:g}; got {segment}, {length} steps"
        )
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must lie in [0, 1); got {overlap}")
    if detrend not in ("constant", "linear", "none"):
        raise ValueError(f"detrend must be 'constant', 'linear' or 'none'; got '{detrend}'")
    moved = array.transpose(..., "time")
    trend: Any = False if detrend == "none" else detrend
    frequency, density = welch(
        moved.values.astype(float),
        fs=1 / step,
        window=window,
        nperseg=length,
        noverlap=min(int(overlap * length), length - 1),
        detrend=trend,
        axis=-1,
    )
    unit, clock = str(array.attrs.get("units", "1")), str(array["time"].attrs.get("units", "1"))
    square, rate = power_unit(unit, 2), divide_units("1", clock)
    dims = moved.dims[:-1]
    spacing = frequency[1] - frequency[0]
    peaks = frequency[1:][density[..., 1:].argmax(-1)]
    data: dict[str, Any] = {
        "density": (
            ("frequency", *dims),
            np.moveaxis(density, -1, 0),
            {"units": multiply_units(square, clock), "long_name": f"power density of {array.name}"},
        ),
        "variance": (dims, moved.values.var(-1), {"units": square}),
        "power": (dims, density.sum(-1) * spacing, {"units": square}),
        "peak_frequency": (dims, peaks, {"units": rate}),
    }
    coords: dict[Any, Any] = {d: array[d] for d in dims if d in array.coords}
    coords |= {d: (d, np.arange(array.sizes[d]), {"units": "1"}) for d in dims if d not in coords}
    axis = {"units": rate, "long_name": "frequency"}
    attrs = {"segment": length * step, "overlap": overlap, "window": window, "detrend": detrend}
    return xr.Dataset(data, coords | {"frequency": ("frequency", frequency, axis)}, attrs)


def recurrence(
    course: Solution | Dataset | DataArray,
    variable: str = "",
    *,
    threshold: float = 0.1,
    shortest: int = 2,
    apart: int = 1,
) -> Dataset:
    """Return when a trajectory comes back to where it was: R_ij = |x_i − x_j| ≤ ε.

    Distances are Euclidean, every component as a part of its range over the trajectory; ε is
    `threshold` times the largest distance, the size of the attractor.

    Parameters
    ----------
    course : Solution, xarray.Dataset or xarray.DataArray
        One trajectory, with ``time``; all variables that are not held at one value form the state.
    variable : str, optional
        Take this one alone.
    threshold : float
        ε as a part of the size.
    shortest : int
        The shortest diagonal that counts as a line.
    apart : int
        Pairs with ``abs(i − j) < apart`` count for nothing: neighbours in time are so in space.

    Returns
    -------
    xarray.Dataset
        ``recurrent`` ``(time, other_time)``; ``recurrence_rate``, the part of the pairs that are;
        ``determinism``, the part of the recurrent ones that lie on diagonals of `shortest` or more
        (NaN where there is none); ``size``, the largest distance in ranges.

    Raises
    ------
    ValueError
        A trajectory that rests, too many points, values that are not finite, options out of range.

    References
    ----------
    Marwan, Romano, Thiel & Kurths 2007, Physics Reports 438:237-329, eqs. 9, 39 and 46.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> time = np.arange(100) * 0.1
    >>> wave = xr.Dataset({"x": ("time", np.sin(2 * np.pi * time))}, {"time": time})
    >>> found = recurrence(wave.assign(y=("time", np.cos(2 * np.pi * time))))
    >>> found["determinism"].item(), round(found["recurrence_rate"].item(), 3)
    (1.0, 0.091)
    """
    import numpy as np
    import xarray as xr

    if not (0 < threshold < 1 and shortest >= 2 and apart >= 1):
        raise ValueError(
            "recurrence takes a threshold between 0 and 1, shortest >= 2, apart >= 1; "
            f"got {threshold}, {shortest}, {apart}"
        )
    dataset = _dataset(course)
    names = [variable] if variable else [str(n) for n in dataset if "time" in dataset[n].dims]
    parts = [one_variable(dataset, name).transpose("time", ...) for name in names]
    if not parts:
        raise ValueError(f"course has no variable along 'time'; it has {list(dataset)}")
    points = np.concatenate([p.values.reshape(p.shape[0], -1) for p in parts], 1).astype(float)
    if not np.isfinite(points).all():
        raise ValueError("a trajectory must be finite; got NaN or an infinity")
    n = len(points)
    if not apart < n <= MOST:
        raise ValueError(f"recurrence takes {apart + 1} to {MOST} points of time; got {n}")
    ranges = points.max(0) - points.min(0)
    if not (ranges > 0).any():
        raise ValueError("the trajectory rests: it has no size to measure recurrences by")
    scaled = points[:, ranges > 0] / ranges[ranges > 0]
    square = (scaled**2).sum(1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * scaled @ scaled.T, 0.0))
    size = float(distance.max())
    recurrent = distance <= threshold * size
    np.fill_diagonal(recurrent, True)
    counted, lined, pairs = 0, 0, 0
    for offset in range(apart, n):  # the matrix is symmetric
        diagonal = recurrent.diagonal(offset)
        counted += int(diagonal.sum())
        lined += _on_lines(diagonal, shortest)
        pairs += n - offset
    one = {"units": "1"}
    time = dataset["time"]
    other = ("other_time", time.values, dict(time.attrs) | {"long_name": "time"})
    why = {} if counted else {"missing": "NaN: no pair is recurrent"}
    return xr.Dataset(
        {
            "recurrent": (("time", "other_time"), recurrent),
            "recurrence_rate": ((), counted / pairs, one),
            "determinism": ((), lined / counted if counted else math.nan, one | why),
            "size": ((), size, one),
        },
        coords={"time": ("time", time.values, dict(time.attrs)), "other_time": other},
        attrs={"threshold": threshold, "shortest": shortest, "apart": apart},
    )


def one_variable(course: Solution | Dataset | DataArray, variable: str = "") -> DataArray:
    """Return one variable of a run, a dataset or an array; refuse a name that is not there."""
    import xarray as xr

    if isinstance(course, xr.DataArray):
        if variable and variable != course.name:
            raise ValueError(unknown("variable", variable, [str(course.name)]))
        return course
    dataset = _dataset(course)
    names = [str(name) for name in dataset.data_vars]
    if not variable and len(names) == 1:
        return dataset[names[0]]
    if variable not in names:
        raise ValueError(unknown("variable", variable, names))
    return dataset[variable]


def _dataset(course: Any) -> Dataset:
    import xarray as xr

    if isinstance(course, Solution):
        tree = course.to_xarray()
        found = tree["simulation"].to_dataset()
        return found.merge(tree["weights"].to_dataset()) if "weights" in tree.children else found
    if isinstance(course, xr.DataArray):
        return course.to_dataset(name=course.name or "x")
    if not isinstance(course, xr.Dataset):
        raise TypeError(f"a Solution or xarray data is needed; got {type(course).__name__}")
    return course


def _even_step(array: DataArray) -> float:
    import numpy as np

    if "time" not in array.dims or "time" not in array.coords or array.sizes["time"] < 3:
        raise ValueError(
            f"'{array.name}' needs a dimension 'time' of three points or more, with its coordinate;"
            f" it has {dict(array.sizes)}"
        )
    if not np.isfinite(array.values).all():
        raise ValueError(f"'{array.name}' must be finite; it holds NaN or an infinity")
    steps = np.diff(array["time"].values.astype(float))
    step = float(steps.mean())
    if not (step > 0 and np.abs(steps - step).max() <= EVEN * step):
        raise ValueError(
            f"a spectrum needs evenly spaced times; steps go from {steps.min():g} to "
            f"{steps.max():g}"
        )
    return step


def _on_lines(diagonal: NDArray[Any], shortest: int) -> int:
    """Return how many points of a diagonal lie in runs of at least `shortest`."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate([[0], diagonal.astype(np.int8), [0]])))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= shortest].sum())
