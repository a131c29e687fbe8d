"""Cells of a claim on Ray: one task a cell, one CPU each, on this machine or on a cluster.

`RAY_ADDRESS`, if set, names a running cluster; its nodes need this package and must see the cache folder. Otherwise a
private Ray is started on this machine and shut down afterwards, in a folder of its own that is removed. A Ray that the
caller has initialised is used and left as it is. Nothing is reported to anyone: usage statistics are off.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tutelage.core.errors import Interrupted, MissingError

RETRIES = 2  # of a cell whose worker was killed (out of memory, a machine that went away)
OBJECT_STORE = 100 * 2**20  # bytes; Ray's least is 75 MiB, and rows are small: what is large goes through the cache

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks that ask for no GPU keep CUDA_VISIBLE_DEVICES as it is
    "RAY_DEDUP_LOGS": "0",
}


def rows_on_ray(
    compute: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], failed: Callable[[int, str], Any], *, jobs: int
) -> Iterator[Any]:
    """`compute(*one)` for each of `arguments`, `jobs` at once, in the order in which they end.

    failed: position, reason -> the row of a cell whose worker was lost more than `RETRIES` times.
    Raises MissingError without Ray or the cluster, Interrupted on Ctrl-C (what runs is cancelled first).
    """
    require()
    import ray

    with _running(ray, jobs):
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(compute)
        waiting: dict[Any, int] = {}
        try:
            open_ones = iter(enumerate(arguments))
            while True:
                for index, one in open_ones:
                    waiting[task.remote(*one)] = index
                    if len(waiting) == jobs:
                        break
                if not waiting:
                    return
                done, _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(done[0])
                try:
                    row = ray.get(done[0])
                except ray.exceptions.RayError as error:
                    row = failed(index, _reason(ray, error))
                yield row
        except KeyboardInterrupt as error:
            raise Interrupted("stopped; finished cells are cached, the same command goes on from there") from error
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _reason(ray: Any, error: Exception) -> str:
    if isinstance(error, ray.exceptions.RayTaskError):  # a cell does not raise: its worker could not even begin it
        return f"the worker could not begin: {str(error).strip().splitlines()[-1]}"
    return f"{type(error).__name__}: the worker of this cell was lost {RETRIES + 1} times"


def require() -> None:
    """MissingError if Ray is not installed; otherwise it will be quiet once it is imported."""
    if find_spec("ray") is None:
        raise MissingError("on: ray is not installed; pip install 'tutelage[ray]'")
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)


@contextmanager
def _running(ray: Any, jobs: int) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise MissingError(f"RAY_ADDRESS: there is no Ray cluster at {address} ({reason})") from error
        try:
            yield
        finally:
            ray.shutdown()  # leaves the cluster, which goes on
        return
    # sockets lie in this folder, and their paths must be short
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    try:
        ray.init(num_cpus=jobs, include_dashboard=False, object_store_memory=OBJECT_STORE, _temp_dir=folder, **quiet)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
