"""Conformal scores and sets: by hand, against plain definitions, and coverage over many splits."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from tutelage.core.errors import InputError, MissingError
from tutelage.guarantees.conformal import APS, HPS, RAPS, Score, SplitConformal, evaluate, get_score
from tutelage.guarantees.noise import uniforms

P = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25]])
ALL = [HPS(), APS(), APS(0.0), APS(1.0), RAPS(weight=0.1, k_reg=1), RAPS(0.5, weight=0.3, k_reg=2)]


def test_scores_by_hand() -> None:
    u = np.array([0.5, 0.0, 1.0])
    torch.testing.assert_close(HPS().all(P), 1 - P)
    torch.testing.assert_close(
        APS().all(P, u),
        # mass up to and with the label, less u times its own; in rows 2 and 3 the first of two equal labels ranks first
        torch.tensor([[0.5 - 0.25, 0.8 - 0.15, 1.0 - 0.1], [0.9, 1.0, 0.8], [0.5, 0.0, 0.75]]),
    )
    # rank 1 is free at k_reg 1, rank 2 costs 0.1, rank 3 costs 0.2
    penalty = torch.tensor([[0.0, 0.1, 0.2], [0.1, 0.2, 0.0], [0.1, 0.0, 0.2]])
    torch.testing.assert_close(RAPS(weight=0.1, k_reg=1).all(P, u), APS().all(P, u) + penalty)
    assert RAPS(weight=0.1, k_reg=1).upper(3) == pytest.approx(1.2)
    assert (HPS().upper(3), APS().upper(3)) == (1.0, 1.0)


@pytest.mark.parametrize("score", ALL, ids=repr)
@pytest.mark.parametrize("ties", [False, True])
def test_the_fast_forms_agree_with_the_scores_of_all_labels(score: Score, ties: bool) -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.rand(200, 7, generator=g, dtype=torch.float64)
    if ties:
        p = (p * 4).floor() + 1
    p /= p.sum(1, keepdim=True)
    u, y = uniforms(0, "test", range(200)), torch.randint(7, (200,), generator=g)
    everything = score.all(p, u)
    np.testing.assert_allclose(score.of(p, y, u), everything.gather(1, y[:, None]).squeeze(1), atol=1e-12)
    assert float(everything.min()) >= -1e-12
    assert float(everything.max()) <= score.upper(7) + 1e-12
    for threshold in (-0.1, 0.0, 0.3012, 0.777, 0.953, 5.0):
        assert torch.equal(score.within(p, threshold, u), everything <= threshold), threshold


@pytest.mark.parametrize("score", ALL, ids=repr)
def test_a_threshold_that_is_a_score_keeps_that_label(score: Score) -> None:
    """In float32, where `of` and `within` sum in another order: else coverage would be lost at the threshold itself."""
    g = torch.Generator().manual_seed(1)
    p = (6 * torch.randn(300, 50, generator=g)).softmax(1)
    u, y = uniforms(0, "test", range(300)), torch.randint(50, (300,), generator=g)
    own = score.of(p, y, u)
    kept = [bool(score.within(p[i : i + 1], own[i], u[i : i + 1])[0, y[i]]) for i in range(300)]
    assert all(kept)


def test_the_threshold_is_the_exact_order_statistic() -> None:
    z = torch.linspace(-3, 3, 99)
    logits, y = torch.stack([z, -z], 1), torch.zeros(99, dtype=torch.long)
    conformal = SplitConformal("hps", alpha=0.1).calibrate(logits, y)
    scores = np.sort(1 - logits.softmax(1)[:, 0].numpy())
    assert conformal.threshold == scores[89]  # ceil(100 * 0.9) = 90th smallest
    assert SplitConformal("hps", Fraction(1, 3)).calibrate(logits, y).threshold == scores[66]  # ceil(100 * 2/3) = 67th
    sets = conformal.predict(logits)
    assert int(sets[:, 0].sum()) == 90
    assert "99 points" in conformal.guarantee
    assert "sound" in conformal.guarantee


def synthetic(n: int, seed: int, classes: int = 10, skill: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits of a classifier that is right about two times in three, and labels."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    logits = torch.randn(n, classes, generator=g)
    logits[torch.arange(n), y] += skill
    return logits, y


@pytest.mark.parametrize("score", [HPS(), APS(), RAPS(weight=0.05, k_reg=2)], ids=repr)
def test_coverage_over_random_splits_is_that_of_the_order_statistic(score: Score) -> None:
    """300 fresh calibration and test sets: the mean coverage is 1 - alpha to 1 - alpha + 1/(n + 1), and no less."""
    n, alpha, repeats, tested = 100, 0.2, 300, 100
    covered = 0
    for repeat in range(repeats):
        logits, y = synthetic(n + tested, repeat)
        conformal = SplitConformal(score, alpha, seed=repeat).calibrate(logits[:n], y[:n])
        covered += round(evaluate(conformal.predict(logits[n:]), y[n:]).coverage * tested)
    k = 81  # ceil(101 * 0.8); the coverage of one split is Beta(81, 20), its mean 0.802
    spread = scipy.stats.beta(k, n + 1 - k).std() / repeats**0.5 + (0.16 / tested / repeats) ** 0.5
    assert covered / repeats / tested == pytest.approx(k / (n + 1), abs=4 * spread)


def test_an_attack_breaks_the_coverage() -> None:
    """What the guarantee does not say: moved logits are not exchangeable with the calibration data."""
    logits, y = synthetic(4000, 0)
    conformal = SplitConformal("hps", 0.1).calibrate(logits[:2000], y[:2000])
    moved = logits[2000:].clone()
    moved[torch.arange(2000), y[2000:]] -= 1.0
    assert evaluate(conformal.predict(logits[2000:]), y[2000:]).coverage > 0.88
    assert evaluate(conformal.predict(moved), y[2000:]).coverage < 0.75


def test_better_classifiers_get_smaller_sets_and_harder_inputs_larger_ones() -> None:
    sizes = []
    for skill in (1.0, 3.0):
        logits, y = synthetic(2000, 0, skill=skill)
        sets = SplitConformal("aps", 0.1).calibrate(logits[:1000], y[:1000]).predict(logits[1000:])
        sizes.append(evaluate(sets, y[1000:]).mean_size)
    assert sizes[1] < 0.6 * sizes[0]


def test_parts_and_ids_do_not_change_the_sets() -> None:
    logits, y = synthetic(5000, 1)
    conformal = SplitConformal("aps", 0.1, seed=4).calibrate(logits[:500], y[:500])
    whole = conformal.predict(logits)
    part = conformal.predict(logits[4000:4100], ids=range(4000, 4100))
    assert torch.equal(whole[4000:4100], part)
    assert not torch.equal(part, conformal.predict(logits[4000:4100]))


def test_empty_sets_are_legal_and_filled_only_when_asked() -> None:
    logits, y = synthetic(1000, 2, classes=4, skill=8.0)
    conformal = SplitConformal("hps", 0.3).calibrate(logits, y)
    sets, filled = conformal.predict(logits), conformal.predict(logits, nonempty=True)
    empty = ~sets.any(1)
    assert 0.2 < float(empty.double().mean()) < 0.35
    assert filled.sum(1).min() == 1
    assert torch.equal(filled[empty].long().argmax(1), logits[empty].argmax(1))
    assert torch.equal(filled[~empty], sets[~empty])


def test_the_report_by_hand() -> None:
    sets = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
    report = evaluate(sets, torch.tensor([0, 1, 1, 0]))
    assert (report.n, report.coverage, report.mean_size) == (4, 0.75, 1.5)
    assert report.histogram == (1, 1, 1, 1)
    assert (report.empty, report.singletons, report.worst_class) == (0.25, 0.25, 0.5)
    assert report.by_class[:2] == (1.0, 0.5)
    assert np.isnan(report.by_class[2])
    assert report.interval.lo == pytest.approx(0.1941, abs=1e-4)  # Clopper-Pearson of 3 of 4
    assert "coverage 0.7500" in str(report)


def test_half_precision_and_many_classes_go_in() -> None:
    logits, y = synthetic(600, 3, classes=300, skill=6.0)
    full = SplitConformal("aps", 0.1).calibrate(logits, y).predict(logits)
    half = SplitConformal("aps", 0.1).calibrate(logits.half(), y).predict(logits.half())
    assert float((full != half).double().mean()) < 0.01


@pytest.mark.parametrize("score", [HPS(), APS(0.25), RAPS(weight=0.2, k_reg=3)], ids=repr)
def test_a_saved_predictor_predicts_the_same(score: Score, tmp_path: Path) -> None:
    logits, y = synthetic(400, 5)
    conformal = SplitConformal(score, 0.15, seed=9).calibrate(logits, y)
    conformal.save(tmp_path / "made")
    again = SplitConformal.load(tmp_path / "made")
    assert (again.score, again.alpha, again.threshold, again.n) == (score, 0.15, conformal.threshold, 400)
    assert torch.equal(conformal.predict(logits), again.predict(logits))
    full = SplitConformal(score, 0.001).calibrate(logits, y, allow_full_sets=True)
    full.save(tmp_path / "full")  # an infinite threshold
    assert bool(SplitConformal.load(tmp_path / "full").predict(logits).all())
    with pytest.raises(MissingError):
        SplitConformal.load(tmp_path / "nothing")
    (tmp_path / "made" / "conformal.json").write_text('{"score": "hps"}')
    with pytest.raises(InputError, match="folder"):
        SplitConformal.load(tmp_path / "made")


def test_uniforms_are_uniform_and_tied_to_the_id() -> None:
    u = uniforms(0, "test", range(20_000))
    assert scipy.stats.kstest(u, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03
    assert uniforms(0, "test", [123, 7]).tolist() == [u[123], u[7]]
    assert uniforms(0, "calibration", [7])[0] != u[7]


Z, Y = synthetic(50, 0)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("alpha", lambda: SplitConformal("hps", 0.0)),
        ("alpha", lambda: SplitConformal("hps", 1.5)),
        ("score", lambda: SplitConformal("lac")),
        ("calibration", lambda: SplitConformal("hps", 0.01).calibrate(Z, Y)),
        ("logits", lambda: SplitConformal("hps").calibrate(Z.softmax(1), Y)),
        ("logits", lambda: SplitConformal("hps").calibrate(Z * float("nan"), Y)),
        ("logits", lambda: SplitConformal("hps").calibrate(Z[0], Y)),
        ("y", lambda: SplitConformal("hps").calibrate(Z, Y + 5)),
        ("y", lambda: SplitConformal("hps").calibrate(Z, Y[:-1])),
        ("self", lambda: SplitConformal("hps").predict(Z)),
        ("logits", lambda: SplitConformal("hps").calibrate(Z, Y).predict(Z[:, :9])),
        ("ids", lambda: SplitConformal("aps").calibrate(Z, Y).predict(Z, ids=[1, 2])),
        ("ids", lambda: SplitConformal("aps").calibrate(Z, Y).predict(Z, ids=torch.rand(50))),
        ("u", lambda: APS(2.0)),
        ("u", lambda: APS().all(P)),
        ("weight", lambda: RAPS(weight=-1)),
        ("k_reg", lambda: RAPS(k_reg=1.5)),  # type: ignore[arg-type]
        ("sets", lambda: evaluate(Z, Y)),
        ("y", lambda: evaluate(Z > 0, Y + 9)),
    ],
)
def test_bad_input_is_named(argument: str, call: object) -> None:
    with pytest.raises(InputError, match=f"^{argument}: "):
        call()  # type: ignore[operator]


def test_too_few_points_say_how_many_are_needed() -> None:
    with pytest.raises(InputError, match="at least 99 "):
        SplitConformal("hps", 0.01).calibrate(Z, Y)
    assert bool(SplitConformal("hps", 0.01).calibrate(Z, Y, allow_full_sets=True).predict(Z).all())
    assert get_score("raps") == RAPS()
