"""MOTA by hand and against TrackEval; the tracker; detection by clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tutelage.auditing.tracking import Tracker, TrackFrame, detect, mota, track_scans, tracking_scores
from tutelage.core.errors import InputError, MissingError


def frame(*things: tuple[int, float, float], labels: tuple[int, ...] = ()) -> TrackFrame:
    return TrackFrame([t[0] for t in things], [[t[1], t[2]] for t in things], np.array(labels, int))  # type: ignore[arg-type]


GT = [frame((0, float(t), 0.0), (1, float(t), 10.0)) for t in range(5)]  # two objects, five frames: 10


def tracks(**changed: TrackFrame) -> list[TrackFrame]:
    """Perfect tracks 7 and 8, but for the frames f0 .. f4 that are given."""
    return [changed.get(f"f{t}", frame((7, float(t), 0.0), (8, float(t), 10.0))) for t in range(5)]


@pytest.mark.parametrize(
    ("found", "wanted", "counts"),
    [
        (tracks(), 1.0, (0, 0, 0)),
        (tracks(f2=frame((7, 2.0, 0.0))), 0.9, (1, 0, 0)),
        (tracks(f2=frame((7, 2.0, 0.0), (8, 2.0, 10.0), (9, 50.0, 0.0))), 0.9, (0, 1, 0)),
        (tracks(f4=frame((7, 4.0, 0.0), (9, 4.0, 10.0))), 0.9, (0, 0, 1)),
        (tracks(f2=frame((8, 2.0, 0.0), (7, 2.0, 10.0))), 0.6, (0, 0, 4)),  # exchanged, and back again
        (tracks(f2=frame((7, 2.0, 2.1), (8, 2.0, 10.0))), 0.8, (1, 1, 0)),  # farther than 2 m: both a miss and a stranger
        ([frame() for _ in range(5)], 0.0, (10, 0, 0)),
    ],
)
def test_mota_by_hand(found: list[TrackFrame], wanted: float, counts: tuple[int, int, int]) -> None:
    result = mota(found, GT)
    assert result.mota == pytest.approx(wanted)
    assert (result.misses, result.false_positives, result.switches) == counts
    assert (result.objects, result.matches) == (10, 10 - counts[0])


def test_mota_may_be_negative_and_classes_must_agree() -> None:
    many = [frame(*((10 + k, 50.0 + 5 * k, 0.0) for k in range(4))) for _ in range(5)]
    assert mota(many, GT).mota == pytest.approx(1 - (10 + 20) / 10)
    one = [frame((0, 0.0, 0.0), labels=(1,))]
    assert mota([frame((3, 0.0, 0.0), labels=(0,))], one).mota == pytest.approx(-1.0)
    assert mota([frame((3, 0.0, 0.0), labels=(1,))], one).mota == 1.0


def test_pairs_of_the_frame_before_are_kept_even_if_another_track_is_nearer() -> None:
    gt = [frame((0, 0.0, 0.0)), frame((0, 1.0, 0.0))]
    found = [frame((5, 0.0, 0.0)), frame((5, 2.5, 0.0), (6, 1.0, 0.0))]
    result = mota(found, gt)
    assert (result.switches, result.false_positives) == (0, 1)
    assert result.distance == pytest.approx(0.75)  # 0 and 1.5


def test_the_counts_are_those_of_trackeval() -> None:
    pytest.importorskip("trackeval")
    rng = np.random.default_rng(0)
    for _ in range(25):
        gt, found = [], []
        for _ in range(8):
            n, m = rng.integers(0, 5, 2)
            gt.append(TrackFrame(rng.permutation(6)[:n], rng.uniform(0, 6, (n, 2)), rng.integers(0, 2, n)))
            found.append(TrackFrame(rng.permutation(6)[:m] + 3, rng.uniform(0, 6, (m, 2)), rng.integers(0, 2, m)))
        if not any(len(one.ids) for one in gt) or not any(len(one.ids) for one in found):
            continue
        own, library = mota(found, gt), tracking_scores(found, gt)
        assert own.mota == pytest.approx(library["MOTA"])
        counts = (own.misses, own.false_positives, own.switches)
        assert counts == (library["FN"], library["FP"], library["IDSW"])


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="4 frames"):
        mota(tracks()[:4], GT)
    with pytest.raises(InputError, match="no object in any frame"):
        mota([frame()], [frame()])
    with pytest.raises(InputError, match="threshold"):
        mota(tracks(), GT, threshold=0)
    with pytest.raises(InputError, match="ids"):
        frame((1, 0.0, 0.0), (1, 1.0, 0.0))
    monkeypatch.setitem(__import__("sys").modules, "trackeval.metrics", None)
    with pytest.raises(MissingError, match="pip install trackeval"):
        tracking_scores(tracks(), GT)


# the tracker


def test_two_objects_that_cross_keep_their_numbers() -> None:
    tracker, seen = Tracker(min_hits=1), []
    for t in range(12):
        places = np.array([[0.8 * t, 0.4 * t], [0.8 * t, 4.4 - 0.4 * t]])
        found = tracker.update(places, np.zeros(2, int))
        seen.append(dict(zip(found.ids.tolist(), found.places[:, 1], strict=True)))
    assert set(seen[0]) == set(seen[-1])
    assert len(seen[-1]) == 2
    lower = min(seen[0], key=lambda n: seen[0][n])
    assert seen[-1][lower] == max(seen[-1].values())  # who began below ends above


def test_tracks_are_confirmed_bridge_a_gap_and_end() -> None:
    tracker, none = Tracker(min_hits=2, max_age=1), (np.zeros((0, 2)), np.zeros(0, int))

    def at(x: float, label: int = 0) -> list[int]:
        return tracker.update(np.array([[x, 0.0]]), np.array([label])).ids.tolist()

    assert at(0.0) == []  # once may be noise
    (number,) = at(0.5)
    assert tracker.update(*none).ids.tolist() == []
    assert at(1.5) == [number]  # one frame without a detection is bridged
    tracker.update(*none)
    tracker.update(*none)
    assert at(3.0) == []  # two are not: this one is new
    assert at(3.5) != [number]
    assert at(4.0, label=1) == []  # another class is another object


# detection


class Tall(nn.Module):
    """Class 0 for clouds that are higher than wide, else 1."""

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is not None
        real = points.masked_fill(~mask[..., None], 0.0)
        span = real.amax(1) - real.amin(1)
        return torch.stack((span[:, 2], span[:, :2].amax(1)), 1)


def test_clusters_are_found_classified_and_tracked() -> None:
    g = torch.Generator().manual_seed(0)

    def scan(t: int) -> Tensor:
        pole = torch.rand(60, 3, generator=g) * torch.tensor([0.3, 0.3, 2.0]) + torch.tensor([8.0 + 0.3 * t, 2.0, 0.3])
        bench = torch.rand(60, 3, generator=g) * torch.tensor([0.5, 2.0, 0.5]) + torch.tensor([8.0, -4.0, 0.3])
        ground = torch.rand(100, 3, generator=g) * torch.tensor([20.0, 20.0, 0.1])
        return torch.cat((pole, bench, ground))

    places, kinds = detect(Tall(), scan(0), [0], n_points=32, generator=g)
    assert kinds.tolist() == [0]
    assert places[0] == pytest.approx([8.15, 2.15], abs=0.05)
    frames = track_scans(Tall(), [scan(t) for t in range(6)], [0, 1], n_points=32)
    gt = [frame((0, 8.15 + 0.3 * t, 2.15), (1, 8.25, -3.0), labels=(0, 1)) for t in range(6)]
    assert mota(frames, gt).mota == pytest.approx(1 - 2 / 12)  # both are confirmed in the second frame
    assert detect(Tall(), torch.zeros(40, 3), [0], n_points=32, generator=g)[0].shape == (0, 2)
