"""Streams and their runner: orders, severities, labels, online scoring; nothing sees a label before it has answered."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.auditing.streams import GRADUAL, Domain, Stream, run_stream
from tutelage.core.errors import InputError, SplitError
from tutelage.data.images import ImageSet
from tutelage.teaching.test_time import MeanTeacher, NormAdapter, Prediction, RingBuffer, Source
from tutelage.threats.corruptions import corrupt


def images(n: int = 40, seed: int = 0, size: int = 16, split: str = "test") -> ImageSet:
    """Four classes: the brightness of the image says which."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    x = 0.1 + 0.25 * y[:, None, None, None] + 0.05 * torch.rand(n, 1, size, size, generator=g)
    return ImageSet(x, y, ("a", "b", "c", "d"), split=split)  # type: ignore[arg-type]


class Brightness(nn.Module):
    """Right on `images`, wrong by a class or more where they are brightened."""

    def forward(self, x: Tensor) -> Tensor:
        level = (x.mean((1, 2, 3)) - 0.125) / 0.25
        return -((level[:, None] - torch.arange(4)) ** 2)


class Spy:
    """Records what comes, and says what it is told."""

    name, smallest_batch = "spy", 1

    def __init__(self, answer: int = 0) -> None:
        self.answer, self.seen, self.resets = answer, [], 0  # type: ignore[var-annotated]

    def adapt(self, x: Tensor) -> Prediction:
        self.seen.append(x.clone())
        x.zero_()  # a rude adapter
        logits = torch.zeros(len(x), 4)
        logits[:, self.answer] = 1
        return Prediction(logits, logits.softmax(1))

    def reset(self) -> None:
        self.resets += 1


def items(stream: Stream) -> list[tuple[int, str, list[list[int]]]]:
    return [(s.number, s.name, s.items.tolist()) for s in stream.segments()]


def test_every_sample_of_every_domain_comes_once_a_pass() -> None:
    stream = Stream.corrupted(images(), ["fog", "contrast"], n=12, passes=3, seed=1)
    spy = Spy()
    report = run_stream(spy, stream, batch_size=5)
    assert [len(x) for x in spy.seen] == [5, 5, 2] * 6
    assert len(stream) == len(report.labels) == 72
    whole = torch.cat(spy.seen)
    for number in range(3):
        for place, domain in enumerate(stream.domains):
            part = whole[24 * number + 12 * place :][:12]
            wanted = domain.images(torch.arange(12))
            assert Counter(x.sum().item() for x in part) == Counter(x.sum().item() for x in wanted)
    assert not torch.equal(whole[:12], whole[24:36])  # shuffled anew


def test_images_are_those_of_the_corruption_and_labels_theirs() -> None:
    data = images()
    stream = Stream.corrupted(data, ["gaussian_noise"], severities=(2,), labels="given", seed=3)
    spy = Spy()
    report = run_stream(spy, stream, batch_size=16)
    wanted = corrupt(data.images, "gaussian_noise", 2, seeds=stream.domains[0].seeds)
    assert torch.equal(torch.cat(spy.seen), wanted)
    assert torch.equal(report.labels, data.labels)


def test_labels_are_looked_up_after_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    plain = Stream.true_labels

    def looked_up(self: Stream, rows: Tensor) -> Tensor:
        events.append("labels")
        return plain(self, rows)

    class Noting(Spy):
        def adapt(self, x: Tensor) -> Prediction:
            events.append("answer")
            return super().adapt(x)

    monkeypatch.setattr(Stream, "true_labels", looked_up)
    run_stream(Noting(), Stream.corrupted(images(), ["fog"], n=12, labels="shuffled"), batch_size=4)
    assert events == ["answer", "labels"] * 3


def test_online_errors_by_hand() -> None:
    bright = images(8, seed=1)
    bright = ImageSet((bright.images + 0.25).clamp(0, 1), bright.labels, bright.classes, split="test")
    stream = Stream.of({"plain": images(16), "bright": bright}, passes=2, labels="given")
    report = run_stream(Brightness(), stream, batch_size=4)
    assert report.domains == ("plain", "bright")
    assert report.error(1, "plain") == 0
    assert report.error(1, "bright") == 0.75  # the brightest class has nowhere to go
    assert report.error(1) == report.error() == 0.375  # a mean over domains, not over samples
    row = report.rows()[1]
    assert (row.number, row.domain, row.n, row.error) == (1, "bright", 8, 0.75)
    assert row.interval.lo < 0.75 < row.interval.hi
    assert [line["error"] for line in report.log] == [0, 0, 0, 0, 0.75, 0.75] * 2
    assert "37.50" in report.table()


def test_gradual_severities_rise_and_fall_and_share_a_name() -> None:
    stream = Stream.corrupted(images(), ["fog", "contrast"], severities="gradual", n=4)
    assert [s.name for s in stream.segments()] == [f"{name}@{s}" for name in ("fog", "contrast") for s in GRADUAL]
    report = run_stream(Spy(), stream)
    assert report.domains == ("fog", "contrast")
    assert [row.n for row in report.rows()] == [36, 36]


def test_the_shuffled_order_depends_on_the_seed_alone_and_keeps_steps_together() -> None:
    def order(seed: int) -> list[str]:
        names = ["fog", "contrast", "snow", "pixelate", "brightness"]
        stream = Stream.corrupted(images(), names, severities=(1, 3), n=2, order="shuffled", seed=seed, passes=2)
        found = [s.name for s in stream.segments()]
        assert found[:10] == found[10:]
        assert all(a.replace("@1", "@3") == b for a, b in zip(found[::2], found[1::2], strict=True))
        assert stream.names == tuple(name.partition("@")[0] for name in found[:10:2])
        return found

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


def test_mixed_is_one_stretch_of_all_domains() -> None:
    stream = Stream.corrupted(images(), ["fog", "contrast"], n=20, order="mixed")
    (segment,) = stream.segments()
    assert segment.name == "mixed"
    assert sorted(segment.items.tolist()) == [[i, j] for i in range(2) for j in range(20)]
    domains = segment.items[:, 0]
    assert int((domains[1:] != domains[:-1]).sum()) > 2
    report = run_stream(Spy(), stream, batch_size=7)
    assert [row.n for row in report.rows()] == [20, 20]


def runs(stream: Stream) -> int:
    """How often the label changes."""
    y = stream.true_labels(stream.segments()[0].items)
    return int((y[1:] != y[:-1]).sum())


def test_labels_sorted_and_in_bursts() -> None:
    data = images(200)
    shuffled = runs(Stream.corrupted(data, ["fog"]))
    assert runs(Stream.corrupted(data, ["fog"], labels="sorted")) == 3
    bursts = [runs(Stream.corrupted(data, ["fog"], labels="dirichlet", delta=d)) for d in (0.01, 1.0)]
    assert 3 <= bursts[0] <= bursts[1] < 20 < shuffled
    for labels in ("sorted", "dirichlet"):
        (segment,) = Stream.corrupted(data, ["fog"], labels=labels).segments()
        assert sorted(segment.items[:, 1].tolist()) == list(range(200))


def test_distinct_images_for_each_step() -> None:
    stream = Stream.corrupted(images(), ["fog", "contrast"], severities=(1, 5), n=10, distinct=True)
    sums = [x.sum().item() for domain in stream.domains for x in domain.data.images]
    assert len(set(sums)) == 40
    with pytest.raises(InputError, match="n: got 11 images"):
        Stream.corrupted(images(), ["fog", "contrast"], severities=(1, 5), n=11, distinct=True)


def test_the_same_seed_gives_the_same_stream_and_every_adapter_the_same_inputs() -> None:
    def seen(batch_size: int) -> Tensor:
        spy = Spy()
        run_stream(spy, Stream.corrupted(images(), ["gaussian_noise", "snow"], order="shuffled", seed=5), batch_size=batch_size)
        return torch.cat(spy.seen)

    assert torch.equal(seen(8), seen(8))
    torch.testing.assert_close(seen(8), seen(20))


def test_reset_at_each_shift() -> None:
    spy = Spy()
    run_stream(spy, Stream.corrupted(images(), ["fog", "contrast"], passes=2), reset_each_shift=True)
    assert spy.resets == 4
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 4), nn.BatchNorm1d(4))
    teacher = MeanTeacher(model, lr=0.1, optimizer="sgd")
    report = run_stream(teacher, Stream.corrupted(images(), ["fog"], passes=2), batch_size=20, reset_each_shift=True)
    first = [row["drift"] for row in report.log]
    assert first[0] < first[1] > first[2]
    assert set(report.parts) == {"student", "teacher"}
    assert report.error(part="student") == float((report.parts["student"] != report.labels).double().mean())
    with pytest.raises(InputError, match="part"):
        run_stream(Spy(), Stream.corrupted(images(), ["fog"])).error(part="student")


def test_a_last_batch_of_one_is_refused_before_the_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(392, 4))
    adapter = NormAdapter(model)
    stream = Stream.corrupted(images(), ["fog", "contrast"], n=13)
    with pytest.raises(InputError, match=r"batch_size: got 4, which leaves a last batch of 1 of the 13 samples of fog@5"):
        run_stream(adapter, stream, batch_size=4)
    assert adapter.batches == 0
    run_stream(Source(model), stream, batch_size=4)
    ring = RingBuffer(adapter, window=8, first=Source(model))
    assert len(run_stream(ring, stream, batch_size=1).predictions) == 26


def test_samples_that_are_replayed_may_not_come() -> None:
    data = images()

    class Replaying(Spy):
        source_data = data.take([3, 4], "train")

    with pytest.raises(SplitError, match="2 images that the adapter replays"):
        run_stream(Replaying(), Stream.of({"all": data}))
    Replaying.source_data = images(seed=9, split="train")
    run_stream(Replaying(), Stream.of({"all": data}))


def test_a_report_is_saved_whole(tmp_path: Path) -> None:
    report = run_stream(Spy(), Stream.corrupted(images(), ["fog"], n=8, passes=2))
    report.save(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["stream"]["corruptions"] == ["fog@5"]
    assert found["rows"][1]["error"] == report.error(2)
    assert found["labels"] == report.labels.tolist()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"corruptions": ["rain"]}, "corruptions"),
        ({"corruptions": []}, "corruptions"),
        ({"severities": (6,)}, "severity"),
        ({"severities": "steep"}, "severities"),
        ({"severities": ()}, "severities"),
        ({"n": 41}, "n: got 41"),
        ({"n": 0}, "n: got 0"),
        ({"order": "random"}, "order"),
        ({"labels": "random"}, "labels"),
        ({"labels": "dirichlet", "delta": 0}, "delta"),
        ({"passes": 0}, "passes"),
        ({"data": images(size=8)}, "16 pixels"),
        ({"data": [1]}, "data"),
    ],
)
def test_wrong_streams_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Stream.corrupted(**{"data": images(), "corruptions": ["fog"], **settings})


def test_wrong_arguments_of_the_runner_are_named() -> None:
    stream = Stream.corrupted(images(), ["fog"])
    with pytest.raises(InputError, match="adapter"):
        run_stream("tent", stream)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="stream"):
        run_stream(Spy(), images())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch_size"):
        run_stream(Spy(), stream, batch_size=0)
    with pytest.raises(InputError, match="domains"):
        Stream.of({"small": images(), "large": images(size=20)})
    with pytest.raises(InputError, match="domains"):
        Stream(())
    with pytest.raises(InputError, match="3 classes"):
        run_stream(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), stream)
    assert Domain("plain", images()).step == "plain"
