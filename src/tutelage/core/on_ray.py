"""Tasks on Ray instead of the workers of `core.workers`, on this machine or on a cluster.

`RAY_ADDRESS`, if set, names a running cluster; its nodes need this package and must see the same files. Otherwise a
private Ray is started on this machine and shut down afterwards, in a folder of its own that is removed. A Ray that the
caller has initialised is used and left as it is. Nothing is reported to anyone: usage statistics are off.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tutelage.core.errors import MissingError, TutelageError
from tutelage.core.workers import received

RETRIES = 2  # of a task whose worker was killed (out of memory, a machine that went away)
OBJECT_STORE = 100 * 2**20  # bytes; Ray's least is 75 MiB, and results are small: what is large goes through files

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks that ask for no GPU keep CUDA_VISIBLE_DEVICES as it is
    "RAY_DEDUP_LOGS": "0",
}


def rows_on_ray(
    compute: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    failed: Callable[[int, str], Any],
    *,
    jobs: int,
    cores: int = 1,
    shared: Any = None,
) -> Generator[Any, None, None]:
    """`compute(*one)` for each of `arguments`, `jobs` at once, in the order in which they end.

    failed: position, reason -> the result of a task whose worker was lost more than `RETRIES` times. cores: CPUs a task.
    shared: if there is something, it is the first argument of every task; it lies in Ray's store, and a worker reads it once.
    Raises MissingError without Ray or the cluster, and the TutelageErrors of tasks. Whatever stops it, Ctrl-C too, cancels
    what runs.
    """
    require()
    import ray

    content = b"" if shared is None else pickle.dumps(shared)
    with _running(ray, jobs * cores, OBJECT_STORE + len(content)):
        task = ray.remote(num_cpus=cores, max_retries=RETRIES)(_call if content else compute)
        first = (compute, uuid.uuid4().hex, ray.put(content)) if content else ()
        waiting: dict[Any, int] = {}
        try:
            open_ones = iter(enumerate(arguments))
            while True:
                for index, one in open_ones:
                    waiting[task.remote(*first, *one)] = index
                    if len(waiting) == jobs:
                        break
                if not waiting:
                    return
                done, _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(done[0])
                try:
                    row = ray.get(done[0])
                except ray.exceptions.RayError as error:
                    if isinstance(cause := getattr(error, "cause", None), TutelageError):
                        raise cause from None
                    row = failed(index, _reason(ray, error))
                yield row
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _call(compute: Callable[..., Any], run: str, content: bytes, *one: Any) -> Any:
    return compute(received(run, lambda: content), *one)


def _reason(ray: Any, error: Exception) -> str:
    if isinstance(error, ray.exceptions.RayTaskError):  # not one of ours: its worker could perhaps not even begin it
        return f"the worker failed: {str(error).strip().splitlines()[-1]}"
    return f"{type(error).__name__}: the worker of this task was lost {RETRIES + 1} times"


def require() -> None:
    """MissingError if Ray is not installed; otherwise it will be quiet once it is imported."""
    if find_spec("ray") is None:
        raise MissingError("on: ray is not installed; pip install 'tutelage[ray]'")
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)


@contextmanager
def _running(ray: Any, cores: int, store: int) -> Iterator[None]:
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
        ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=store, _temp_dir=folder, **quiet)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
