"""Worker processes on this machine: tasks one after the other in each, results as they come, and nothing that outlives the run.

Workers are spawned: they share nothing with this process but files. What all tasks need goes to each of them once.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal, cast, get_args

from tutelage.core.errors import InputError, TutelageError
from tutelage.core.memory import keep_memory

Engine = Literal["local", "ray"]

_received: dict[str, Any] = {}  # in a worker: what the tasks of its run share


def get_engine(name: str) -> Engine:
    """The engine of that name, or an InputError."""
    for engine in get_args(Engine):
        if engine == name:
            return cast(Engine, engine)
    raise InputError("on", name, "local or ray")


def in_workers(
    compute: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], *, jobs: int, kept: str, shared: Any = None
) -> Generator[Any, None, None]:
    """`compute(*one)` for each of `arguments`, `jobs` at once, in the order in which they end.

    compute, arguments, results: what pickle takes. shared: if there is something, it is the first argument of every task,
        `compute(shared, *one)`; each worker reads it once. kept: what a user may rely on if a worker is killed, as in
        "finished cells are cached".
    What a task raises is raised here. A worker that is killed raises a TutelageError. However it ends, by Ctrl-C too, the
    workers end with it: Ctrl-C reaches this process only.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(jobs, len(arguments)), mp_context=context, initializer=_begin, initargs=(ours,))
    finished = 0
    try:
        with _handed_over(shared) as path:
            with _without_ctrl_c():
                waiting: set[Future[Any]] = {pool.submit(_call, compute, path, one) for one in arguments}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                # results first: a worker that was killed meanwhile costs none of them
                for future in sorted(done, key=lambda one: one.exception() is not None):
                    yield future.result()
                    finished += 1
            pool.shutdown()
    except BrokenProcessPool as error:
        script = "" if finished else ' (a script calls this below `if __name__ == "__main__":`)'
        kept = f" {kept}:" if kept else ""
        raise TutelageError(
            f"a worker process was killed, perhaps for its memory;{kept} run it again with fewer jobs{script}"
        ) from error
    finally:
        theirs.close()  # whoever is still at work ends now
        pool.shutdown(cancel_futures=True)
        ours.close()


def received(name: str, read: Callable[[], bytes]) -> Any:
    """In a worker: what the tasks of run `name` share, read once."""
    if name not in _received:
        _received.clear()
        _received[name] = pickle.loads(read())
    return _received[name]


@contextmanager
def _handed_over(shared: Any) -> Iterator[Path | None]:
    """A file with what is shared, for this user only; workers would otherwise wait for each other to be sent it."""
    if shared is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
        path = Path(folder) / "shared.pickle"
        path.write_bytes(pickle.dumps(shared))
        yield path


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that begin in here never see Ctrl-C; for this one it only waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(run: connection.Connection) -> None:
    keep_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        # A worker holds both ends of its queue, so it would wait for ever for the work of a run that was killed.
        connection.wait([run, parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(compute: Callable[..., Any], path: Path | None, one: tuple[Any, ...]) -> Any:
    return compute(*one) if path is None else compute(received(str(path), path.read_bytes), *one)
