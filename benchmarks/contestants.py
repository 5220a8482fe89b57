"""Contestants: each does its work in a process of its own, with one thread, whenever it is told to.

A work is a module; what a contestant does is a function of it, which imports what it needs, makes
ready, and returns what is timed: processor time of its process, without imports. Ours run under
this interpreter, peers under theirs, which has to have numpy: at their heads the modules import no
other package.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

Run = Callable[[], dict[str, Any]]
"""What is timed. It returns what was found: arrays, and the rest as JSON takes it."""

TURN = 0.25
"""Seconds that a turn takes at least, but for the first: short runs are repeated in it."""

KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""Freed memory is kept for what comes next, by all alike, where the C library is glibc: to hand it
back and to get it anew takes up to a fifth of a run, and as much as the machine will."""

ROOT = Path(__file__).parent.parent


class MissingError(RuntimeError):
    """A contestant cannot take part, and why."""


def add_options(parser: argparse.ArgumentParser, rounds: int = 5) -> None:
    """Add what every table of contestants accepts."""
    parser.add_argument(
        "--peers",
        metavar="PYTHON",
        default=sys.executable,
        help="an interpreter that has benchmarks/requirements.txt; by default this one",
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="runs of each, timed")
    parser.add_argument("--json", action="store_true", help="print the rows as one last line")


def check_options(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if given.rounds < 1:
        parser.error(f"--rounds must be >= 1; got {given.rounds}")
    try:
        subprocess.run([given.peers, "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        parser.error(f"--peers must be a Python interpreter; {error}")


class Contestant:
    """A process that does one function's work.

    Parameters
    ----------
    module, function : str
        What makes ready.
    options : mapping
        Given to the function.
    python : str
        The interpreter.
    limit : float
        Seconds after which a run is given up: of the clock, since a timer of processor time makes
        the clock of processor time coarse on some machines.
    caches : path, optional
        A folder for what is compiled; by default that of the user.

    Raises
    ------
    MissingError
        The function cannot make ready; with the reason.
    """

    def __init__(
        self,
        module: str,
        function: str,
        options: Mapping[str, Any],
        python: str = sys.executable,
        limit: float = 600.0,
        caches: Path | None = None,
    ) -> None:
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        environment = {**os.environ, **one, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        environment |= {"JAX_ENABLE_X64": "1", "NUMBA_NUM_THREADS": "1", **KEPT}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as where a package is installed
        paths = [str(ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if caches is not None:
            names = ("CTSIGPROP_CACHE", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
            environment |= {name: str(caches / name.lower()) for name in names}
        self.name = function
        work = [module, function, json.dumps(dict(options)), str(limit)]
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.contestants", *work],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environment,
        )  # fmt: skip
        ready = self._answer()
        if "failed" in ready:
            self.close()
            raise MissingError(ready["failed"])

    def run(self, keep: Path | None = None) -> dict[str, Any]:
        """Return the seconds of one run and what it found; arrays are kept in a file, if one is."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{keep or ''}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def version(distribution: str, python: str = sys.executable) -> str:
    """Return the version of a distribution that an interpreter has; empty, if it has none."""
    if python == sys.executable:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return ""
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip()


def _serve(module: str, function: str, options: Mapping[str, Any], limit: float) -> None:
    """Do the work for each line that is read; answer with a line of JSON."""
    if hasattr(os, "sched_setaffinity"):  # XLA starts as many threads as there are cores
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the packages print is no answer

    def tell(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        run: Run = getattr(importlib.import_module(module), function)(**options)
    except Exception as error:
        tell({"failed": _reason(error)})
        return
    tell({})
    signal.signal(signal.SIGALRM, _give_up)
    for turn, line in enumerate(sys.stdin):
        start, runs, spent = time.process_time(), 0, 0.0
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            while runs == 0 or (turn and spent < TURN):
                found, runs = run(), runs + 1
                spent = time.process_time() - start
            answer: dict[str, Any] = {"seconds": spent / runs}
        except Exception as error:
            found = {"failed": _reason(error), "hopeless": isinstance(error, TimeoutError)}
            answer = {"seconds": time.process_time() - start}
        signal.setitimer(signal.ITIMER_REAL, 0)
        arrays = {k: np.asarray(v) for k, v in found.items() if hasattr(v, "__array__")}
        if line.strip() and arrays:
            np.savez(line.strip(), **arrays)
        tell(answer | {k: v for k, v in found.items() if k not in arrays})


def _reason(error: Exception) -> str:
    said = str(error) if isinstance(error, MissingError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:300]


def _give_up(_number: int, _frame: object) -> NoReturn:
    raise TimeoutError("not done within its limit of time")


if __name__ == "__main__":
    from benchmarks.contestants import _serve as serve  # whose exceptions are those of the modules

    serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), float(sys.argv[4]))
