"""The stream runner: batches in, answers out, labels only after the answers."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tutelage.auditing.streams.report import StreamReport
from tutelage.auditing.streams.stream import Segment, Stream
from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError, SplitError
from tutelage.core.progress import QUIET, Progress
from tutelage.data.images import ImageSet
from tutelage.models.checks import check_logits
from tutelage.teaching.test_time import Prediction, Source


class Adapting(Protocol):
    """What the runner needs of an adapter; `drift()` and `source_data` are used where they exist."""

    @property
    def name(self) -> str: ...

    @property
    def smallest_batch(self) -> int: ...

    def adapt(self, x: Tensor) -> Prediction: ...

    def reset(self) -> None: ...


def run_stream(
    adapter: Adapting | nn.Module,
    stream: Stream,
    *,
    batch_size: int = 64,
    reset_each_shift: bool = False,
    progress: Progress = QUIET,
) -> StreamReport:
    """Give an adapter the batches of `stream`, in order, each once; score its answers online.

    adapter: an Adapter such as Tent(model) or RMT(...), or a plain model, which only answers. It goes on from the state it
    has; `adapter.reset()` before, if need be. Batches do not cross a shift. The adapter gets copies of the inputs and nothing
    else; labels are looked up once its answer is there. reset_each_shift: reset it before each stretch, as if it were told.

    Raises InputError, before the first batch, for a last batch of a stretch that is too small for the adapter, for other
    shapes; SplitError for a stream that holds samples which the adapter replays.
    """
    if isinstance(adapter, nn.Module):
        adapter = Source(adapter)
    if not callable(getattr(adapter, "adapt", None)):
        raise InputError("adapter", type(adapter).__name__, "an Adapter such as Tent(model), or an nn.Module")
    if not isinstance(stream, Stream):
        raise InputError("stream", type(stream).__name__, "a Stream, such as Stream.corrupted(data, ['fog'])")
    check_integer("batch_size", batch_size)
    segments = stream.segments()
    _check_sizes(segments, batch_size, adapter.smallest_batch)
    _refuse_replayed(stream, getattr(adapter, "source_data", None))

    names, classes = stream.names, len(stream.domains[0].data.classes)
    of_domain = torch.tensor([names.index(one.name) for one in stream.domains])
    answers: list[Tensor] = []
    truth: list[Tensor] = []
    domain: list[Tensor] = []
    number: list[Tensor] = []
    voices: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    log: list[dict[str, Any]] = []
    started = time.monotonic()
    with progress.task(f"{adapter.name} on the stream", len(stream)) as task:
        for segment in segments:
            if reset_each_shift:
                adapter.reset()
            for items in torch.split(segment.items, batch_size):
                found = adapter.adapt(stream.images(items))
                logits = check_logits(found.logits.detach().cpu(), len(items), "adapter")
                if logits.shape[1] != classes:
                    raise InputError("adapter", f"answers for {logits.shape[1]} classes", f"{classes}, as the stream has")
                said = logits.argmax(1)
                for voice, spoken in (("student", found.student_logits), ("teacher", found.teacher_logits)):
                    if spoken is not None:
                        voices[voice].append(spoken.argmax(1).cpu())
                y = stream.true_labels(items)  # only now
                answers.append(said)
                truth.append(y)
                domain.append(of_domain[items[:, 0]])
                number.append(torch.full_like(y, segment.number))
                log.append(_logged(segment, said, y, found, adapter))
                task.advance(len(items), segment.name)
    parts = {name: torch.cat(said) for name, said in voices.items() if len(said) == len(answers)}
    about = {**stream.describe(), "batch_size": batch_size, "reset_each_shift": reset_each_shift}
    columns = (torch.cat(answers), torch.cat(truth), torch.cat(domain), torch.cat(number))
    return StreamReport(adapter.name, about, names, *columns, parts, log, time.monotonic() - started)


def _logged(segment: Segment, said: Tensor, y: Tensor, found: Prediction, adapter: Adapting) -> dict[str, Any]:
    probs = found.probs.detach().float().clamp_min(1e-12)
    row: dict[str, Any] = {"pass": segment.number, "segment": segment.name, "n": len(y)}
    row["error"] = float((said != y).double().mean())
    row["entropy"] = float(-(probs * probs.log()).sum(1).mean())
    drift = getattr(adapter, "drift", None)
    if callable(drift):
        row["drift"] = float(drift())
    return {**row, **{key: value for key, value in found.log.items() if math.isfinite(value)}}


def _check_sizes(segments: list[Segment], batch_size: int, smallest: int) -> None:
    for segment in segments:
        n = len(segment.items)
        last = n % batch_size or batch_size
        if min(last, n) < smallest:
            got = f"{batch_size}, which leaves a last batch of {min(last, n)} of the {n} samples of {segment.name}"
            wanted = f"one that leaves at least {smallest}, as BatchNorm needs, or RingBuffer(adapter, window=64)"
            raise InputError("batch_size", got, wanted)


def _refuse_replayed(stream: Stream, source: object) -> None:
    """What an adapter replays with its labels must not come in the stream."""
    if not isinstance(source, ImageSet):
        return
    known: set[bytes] = set()
    for one in {id(d.data.images): d.data for d in stream.domains}.values():
        if one.images.dtype == source.images.dtype and one.images.shape[1:] == source.images.shape[1:]:
            known = known or _digests(source.images)
            if both := known & _digests(one.images):
                got = f"{len(both)} images that the adapter replays with their labels"
                raise SplitError("stream", got, "a stream of other images than the source data")


def _digests(images: Tensor) -> set[bytes]:
    rows = images.contiguous().flatten(1).view(torch.uint8).numpy()
    return {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows}
