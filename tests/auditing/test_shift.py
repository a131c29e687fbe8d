"""Shifted sets, effective robustness, slices by metadata, disparity: values by hand, limit cases, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch
from audits import audited
from test_corruption import Bright
from test_report import page_of

import tutelage
from tutelage.auditing.shift import (
    aligned,
    disparity_rows,
    effective_robustness,
    newcombe,
    read_slices,
    shift_points,
    shift_rows,
)
from tutelage.core.errors import InputError, MissingError
from tutelage.data.images import ImageSet


def images(labels, classes, **changes) -> ImageSet:
    labels = torch.tensor(labels)
    x = torch.rand(len(labels), 1, 16, 16, generator=torch.Generator().manual_seed(len(labels))) * 0.5
    return ImageSet(x + 0.3 * (labels % 2)[:, None, None, None], labels, tuple(classes), **changes)


MAIN = images([0, 1] * 20, ("dark", "bright", "other"), name="main")

# -------------------------------------------------------------------------------------------------------- shifted sets


def test_newcombe_for_independent_samples_is_the_published_example():
    found = newcombe(56, 70, 48, 80)  # Newcombe 1998, table II (a), method 10
    assert (found.lo, found.hi) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    turned = newcombe(48, 80, 56, 70)
    assert (turned.lo, turned.hi) == pytest.approx((-found.hi, -found.lo))
    assert newcombe(0, 5, 5, 5).lo == -1.0


def test_rows_of_a_shifted_set_count_only_its_classes():
    # the shifted set has class 0 only: 1 of 2 right; the main set is right on 3 of 4 of class 0 and on none of class 1
    right, labels = torch.tensor([True, False]), torch.tensor([0, 0])
    main_right = torch.tensor([True, True, True, False, False, False])
    here, main, difference = shift_rows("new", right, labels, main_right, torch.tensor([0, 0, 0, 0, 1, 1]))
    assert (here.category, here.value, here.n) == ("shift", 0.5, 2)
    assert (main.category, main.value, main.n) == ("shift main", 0.75, 4)
    assert (difference.category, difference.value) == ("shift difference", -0.25)
    assert difference.ci95 == pytest.approx((newcombe(1, 2, 3, 4).lo, newcombe(1, 2, 3, 4).hi))


def test_labels_follow_the_names_of_classes():
    shifted = images([0, 1, 1], ("other", "dark"))
    found = aligned("new", shifted, MAIN.classes)
    assert found.labels.tolist() == [2, 0, 0]
    assert found.classes == MAIN.classes
    unused = images([1, 1], ("not there", "bright"))  # a class without an image does no harm
    assert aligned("new", unused, MAIN.classes).labels.tolist() == [1, 1]
    numbered = images([2, 1], ("0", "1", "2"))
    assert aligned("new", numbered, MAIN.classes).labels.tolist() == [2, 1]
    with pytest.raises(InputError, match="new with the class 'cat'"):
        aligned("new", images([0], ("cat",)), MAIN.classes)
    with pytest.raises(InputError, match="new with label 3"):
        aligned("new", images([3], tuple("0123")), MAIN.classes)


def test_an_audit_of_shifted_sets(tmp_path: Path):
    part = images([1] * 7 + [0] * 5, ("dark", "bright"), name="elsewhere")
    net = Bright()
    net.weight = torch.nn.Parameter(torch.tensor([-8.0, 8.0, 0.0]))
    shifts = {"same": MAIN, "new": part}
    found = tutelage.audit(net, MAIN, shifts=shifts, name="net")
    assert found.threats == []
    assert found.shifts == ["same", "new"]
    assert found.row("shift", "same").value == found.clean_accuracy
    assert found.row("shift difference", "same").value == 0
    x, y = part[:]
    right = net(x).argmax(1) == y
    assert found.predictions["new"] == right.tolist()
    assert [r.n for r in found.rows if r.category == "class" and r.under == "new"] == [5, 7]
    page = page_of(found.save(tmp_path / "audit"))
    difference = found.row("shift difference", "new")
    assert f"{100 * difference.value:+.1f} [{100 * difference.ci95[0]:+.1f}, {100 * difference.ci95[1]:+.1f}]" in page.text
    for one in found.rows:
        if one.category != "shift difference":
            assert f"{100 * one.value:.1f} % [{100 * one.ci95[0]:.1f}, {100 * one.ci95[1]:.1f}]" in page.text, one
    assert "elsewhere" in page.text
    assert 'shifts={"same": ..., "new": ...}' in page.text
    assert shift_points({"net": found}, "same") == [(found.clean_accuracy, found.clean_accuracy)]
    with pytest.raises(InputError, match="net without the shifted set gone"):
        shift_points({"net": found}, "gone")


def test_the_finished_sets_are_kept(tmp_path: Path):
    shifts = {"new": images([0, 1] * 4, ("dark", "bright"))}
    data = replace(MAIN, classes=("dark", "bright"))
    first, again = Bright(), Bright()
    expected = tutelage.audit(first, data, shifts=shifts, state=tmp_path)
    found = tutelage.audit(again, data, shifts=shifts, state=tmp_path)
    assert found.rows == expected.rows
    assert again.seen == first.seen - 8
    third = Bright()
    tutelage.audit(third, data, shifts={"new": images([0, 1] * 5, ("dark", "bright"))}, state=tmp_path)
    assert third.seen == first.seen - 8 + 10  # another set of that name is seen anew


@pytest.mark.parametrize(
    ("shifts", "message"),
    [
        ({"a=b": MAIN}, "shifts: got a=b, wanted a name"),
        ({"clean": MAIN}, "other than clean"),
        ({"fog@3": MAIN}, "a name of letters"),
        ({3: MAIN}, "a name of letters"),
        ([MAIN], "a mapping of names"),
        ({"new": images([2], ("dark", "bright", "other"))}, "new without a class of the data"),
        ({"new": "nowhere"}, "^shift new: there is no file or folder nowhere"),
    ],
)
def test_wrong_shifts_are_told_before_the_model_runs(shifts, message):
    net = Bright()
    with pytest.raises((InputError, MissingError), match=message):
        tutelage.audit(net, MAIN, shifts=shifts)
    assert net.seen == 0


def test_images_that_the_model_does_not_take_are_told_before_the_work():
    class Fussy(Bright):
        def forward(self, x):
            assert x.shape[1] == 1, "one channel"
            return super().forward(x)

    net, data = Fussy(), replace(MAIN, classes=("dark", "bright"))
    colour = replace(data, images=data.images.repeat(1, 3, 1, 1))
    with pytest.raises(InputError, match=r"^shift colour: got images of 3 x 16 x 16, wanted 1 x 16 x 16 as the") as told:
        tutelage.audit(net, data, shifts={"colour": colour})
    assert "one channel" in str(told.value.__cause__)
    assert "convert their 3 channels to 1" in str(told.value)
    assert net.seen <= 2 * 32


def test_a_model_that_takes_every_size_may_have_a_shift_of_another():
    found = tutelage.audit(Bright(), MAIN, shifts={"small": replace(MAIN, images=MAIN.images[..., :2, :2])}, force=True)
    assert found.shifts == ["small"]


# ----------------------------------------------------------------------------------------------- effective robustness


def test_a_line_by_hand_and_its_band_by_students_t():
    # x = .2 .4 .6, y = .1 .3 .2: slope .02 / .08, intercept .1, residuals -.05 .1 -.05, s^2 = .015 with 1 degree of freedom
    found = effective_robustness([(0.8, 0.5), (0.4, 0.2)], [(0.2, 0.1), (0.4, 0.3), (0.6, 0.2)], "linear")
    assert (found.slope, found.intercept) == pytest.approx((0.25, 0.1))
    assert found.expected == pytest.approx((0.3, 0.2))
    assert found.values == pytest.approx((0.2, 0.0))
    assert found.r2 == pytest.approx(1 - 0.015 / 0.02)
    t = 12.706205
    halves = [t * math.sqrt(0.015 * (1 / 3 + d * d / 0.08)) for d in (0.4, 0.0)]
    first, second = ((i.lo, i.hi) for i in found.intervals)
    assert first == pytest.approx((0.2 - halves[0], 0.2 + halves[0]), abs=1e-5)
    assert second == pytest.approx((-halves[1], halves[1]), abs=1e-5)
    low, high = found.band([0.8])
    assert (low[0], high[0]) == pytest.approx((0.3 - halves[0], 0.3 + halves[0]), abs=1e-5)
    assert found.method == "student-t"


@pytest.mark.parametrize("scale", ["linear", "logit", "probit"])
def test_models_on_the_line_have_no_effective_robustness(scale):
    to = {"linear": lambda p: p, "logit": lambda p: math.log(p / (1 - p)), "probit": scipy.stats.norm.ppf}[scale]
    back = {"linear": lambda v: v, "logit": lambda v: 1 / (1 + math.exp(-v)), "probit": scipy.stats.norm.cdf}[scale]
    line = [(x, float(back(0.8 * to(x) - 0.1))) for x in (0.3, 0.45, 0.5, 0.7, 0.85)]
    found = effective_robustness(line, line, scale)
    assert found.values == pytest.approx([0] * 5, abs=1e-12)
    assert (found.slope, found.intercept, found.r2) == pytest.approx((0.8, -0.1, 1))
    above = effective_robustness([(x, y + 0.05) for x, y in line], line, scale)
    assert above.values == pytest.approx([0.05] * 5)
    assert found.line([0.3, 0.5]) == pytest.approx([line[0][1], line[2][1]])
    # what has no scatter has no band, by either method
    assert [i.hi - i.lo for i in found.intervals] == pytest.approx([0] * 5, abs=1e-6)
    many = effective_robustness(line, line * 4, scale)
    assert many.method == "bootstrap"
    assert [i.hi - i.lo for i in many.intervals] == pytest.approx([0] * 5, abs=1e-6)


def test_logit_and_linear_disagree_where_the_line_bends():
    # one model, between two baselines: 0.5 -> 0.25 linearly, but on the logit scale (0 is the middle) sqrt(odds) rules
    line = [(0.1, 0.05), (0.9, 0.45), (0.1, 0.05)]
    assert effective_robustness([(0.5, 0.25)], line, "linear").values[0] == pytest.approx(0)
    middle = (math.log(1 / 19) + math.log(9 / 11)) / 2  # logits of 0.05 and 0.45
    expected = 1 / (1 + math.exp(-middle))
    assert effective_robustness([(0.5, 0.25)], line, "logit").expected[0] == pytest.approx(expected)
    assert expected < 0.25


def scattered(n: int, seed: int = 0) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.3, 0.8, n)
    return list(zip(x.tolist(), (0.7 * x + 0.02 + rng.normal(0, 0.02, n)).tolist(), strict=True))


def test_the_bootstrap_band_is_repeatable_and_like_students():
    line = scattered(60)
    found = effective_robustness([(0.55, 0.5)], line, "linear", seed=1)
    assert found.method == "bootstrap"
    assert found == effective_robustness([(0.55, 0.5)], line, "linear", seed=1)
    assert found.intervals != effective_robustness([(0.55, 0.5)], line, "linear", seed=2).intervals
    x, y = np.array(line).T
    fit = scipy.stats.linregress(x, y)
    assert (found.slope, found.intercept) == pytest.approx((fit.slope, fit.intercept))
    left = y - fit.intercept - fit.slope * x
    half = 2.0017 * math.sqrt(left @ left / 58 * (1 / 60 + (0.55 - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()))
    width = found.intervals[0].hi - found.intervals[0].lo
    assert width == pytest.approx(2 * half, rel=0.2)
    wide = effective_robustness([(0.55, 0.5)], line, "linear", level=0.99).intervals[0]
    assert wide.hi - wide.lo > width


def test_students_band_holds_the_true_line_as_often_as_it_says():
    held = 0
    for seed in range(300):
        low, high = effective_robustness([(0.6, 0.4)], scattered(8, seed), "linear").band([0.7])
        held += bool(low[0] <= 0.7 * 0.7 + 0.02 <= high[0])
    assert 0.91 <= held / 300 <= 0.985


@pytest.mark.parametrize(
    ("points", "line", "options", "message"),
    [
        ([(0.5, 0.4)], [(0.5, 0.4), (0.6, 0.5)], {}, "at least 3 pairs"),
        ([(0.5, 0.4)], [(0.5, 0.4)] * 3, {}, "models of different accuracy"),
        ([(0.5, 1.0)], [(0.5, 0.4), (0.6, 0.5), (0.7, 0.6)], {}, r"points: got 1, wanted accuracies between 0 and 1"),
        ([(0.5, 0.4)], [(0.5, 0.0), (0.6, 0.5), (0.7, 0.6)], {"scale": "probit"}, "on the probit scale"),
        ([(50, 40)], [(0.5, 0.0), (0.6, 0.5), (0.7, 0.6)], {"scale": "linear"}, r"in \[0, 1\]"),
        ([(0.5, math.nan)], [(0.5, 0.1), (0.6, 0.5), (0.7, 0.6)], {"scale": "linear"}, r"in \[0, 1\]"),
        ([], [(0.5, 0.1), (0.6, 0.5), (0.7, 0.6)], {}, "at least 1 pair"),
        (["ab"], [(0.5, 0.1), (0.6, 0.5), (0.7, 0.6)], {}, "pairs"),
        ([(0.5, 0.4)], [(0.5, 0.1), (0.6, 0.5), (0.7, 0.6)], {"scale": "log"}, "linear, logit, probit"),
        ([(0.5, 0.4)], [(0.5, 0.1), (0.6, 0.5), (0.7, 0.6)], {"level": 95}, "confidence level"),
    ],
)
def test_points_that_have_no_line(points, line, options, message):
    with pytest.raises(InputError, match=message):
        effective_robustness(points, line, **options)


# ------------------------------------------------------------------------------------------------------------- slices

LABELS = torch.arange(16) % 2
CSV = "\ufefflabel, camera,age,note,id\n" + "".join(
    f"{i % 2},{'old' if i < 5 else '' if i == 5 else 'new'},{i * i},same,{'x' * i}\n" for i in range(16)
)


def test_slices_of_a_csv(tmp_path: Path):
    (tmp_path / "about.csv").write_text(CSV, encoding="utf-8")
    found = read_slices(tmp_path / "about.csv", LABELS)
    names = list(found)
    assert names[:2] == ["camera=new", "camera=old"]
    assert found["camera=old"].tolist() == [i < 5 for i in range(16)]
    assert not found["camera=new"][5]  # an empty cell is in no slice
    quarters = [name for name in names if name.startswith("age ")]
    assert quarters == ["age 0 to 9", "age 16 to 49", "age 64 to 121", "age 144 to 225"]
    assert torch.stack([found[name] for name in quarters]).sum(0).tolist() == [1] * 16
    assert found["note=same"].all()
    assert len([name for name in names if name.startswith("id=")]) == 15  # the empty one is missing
    assert not [name for name in names if name.startswith("label")]


def test_slices_of_parquet_and_of_few_numbers(tmp_path: Path):
    table = pa.table(
        {"image": [b"x"] * 16, "year": [2010 + 9 * (i % 3) for i in range(16)], "on": [None, True, False, True] * 4}
    )
    pq.write_table(table, tmp_path / "about.parquet")
    found = read_slices(tmp_path / "about.parquet", LABELS)
    assert list(found) == ["year=2010", "year=2019", "year=2028", "on=False", "on=True"]
    assert int(found["on=True"].sum()) == 8


def test_a_column_of_too_many_words_is_left_out(tmp_path: Path):
    rows = "".join(f"word {i},{i % 2}\n" for i in range(60))
    (tmp_path / "about.csv").write_text(f"name,side\n{rows}")
    with pytest.warns(UserWarning, match="the column name has 60 values"):
        found = read_slices(tmp_path / "about.csv", torch.zeros(60, dtype=torch.int64))
    assert list(found) == ["side=0", "side=1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "which is empty"),
        ("a,a\n" + "1,2\n" * 16, "each once"),
        ("a,\n" + "1,2\n" * 16, "a name for each column"),
        ("a,b\n1\n", "1 cells in row 1"),
        ("a\n1\n", "with 1 rows, wanted 16"),
        ("label,a\n" + "1,2\n" * 16, "label 1 in row 1, wanted 0"),
        ("label\n" + "0\n1\n" * 8, "without a column to slice by"),
        ('a\n"1', "readable"),
    ],
)
def test_tables_that_do_not_fit(content, message, tmp_path: Path):
    (tmp_path / "about.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_slices(tmp_path / "about.csv", LABELS)


def test_files_that_are_no_tables(tmp_path: Path):
    with pytest.raises(MissingError, match="there is no file"):
        read_slices(tmp_path / "gone.csv", LABELS)
    (tmp_path / "about.txt").write_text("a")
    with pytest.raises(InputError, match=r"a \.csv or \.parquet file"):
        read_slices(tmp_path / "about.txt", LABELS)
    (tmp_path / "about.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="a readable Parquet file"):
        read_slices(tmp_path / "about.parquet", LABELS)


# ---------------------------------------------------------------------------------------------------------- disparity


def test_disparity_by_hand():
    # classes 0, 1, 3: 3 of 4, 1 of 4, 4 of 4 right
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 3, 3, 3, 3])
    right = torch.tensor([1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1]).bool()
    worst, gap = disparity_rows(right, labels, "clean")
    assert (worst.name, worst.value, worst.n, worst.under) == ("worst class", 0.25, 12, "clean")
    assert (gap.name, gap.value) == ("gap between classes", 0.75)
    z = 2.393980  # of 1 - 0.05 / 3, two-sided

    def limits(k: int) -> tuple[float, float]:
        p, n = k / 4, 4
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return middle - half, middle + half

    assert worst.ci95 == pytest.approx(limits(1), abs=1e-5)
    assert gap.ci95 == pytest.approx((max(0.0, limits(4)[0] - limits(1)[1]), 1 - limits(1)[0]), abs=1e-5)


def test_the_worst_tenth_of_many_classes():
    labels = torch.arange(20).repeat_interleave(10)
    right = torch.arange(200) % 10 < labels.clamp(max=9) + 1  # class c has c + 1 of 10 right, up to 10
    rows = {row.name: row for row in disparity_rows(right, labels, "clean")}
    assert rows["worst tenth of classes"].value == pytest.approx((0.1 + 0.2) / 2)
    assert disparity_rows(right[:10], labels[:10], "clean") == []  # one class has no gap


def test_the_interval_of_the_worst_class_holds_the_worst_true_one():
    rng = np.random.default_rng(0)
    labels = torch.arange(10).repeat_interleave(40)
    held = naive = 0
    for _ in range(200):  # all classes are equally good: the lowest measured one is not
        right = torch.from_numpy(rng.random(400) < 0.8)
        worst = disparity_rows(right, labels, "clean")[0]
        held += worst.ci95[0] <= 0.8 <= worst.ci95[1]
        naive += worst.value >= 0.8
    assert held >= 190
    assert naive <= 10


def test_points_come_from_the_classes_of_the_shifted_set():
    found = audited("net", "110", shifted={"new": "10"}, labels=[0, 0, 1])
    assert shift_points({"net": found}, "new") == [(1.0, 0.5)]
