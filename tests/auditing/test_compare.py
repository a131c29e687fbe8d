"""Comparing saved audits: paired numbers by hand, adjusted verdicts, what is refused, the page."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audits import THREAT, audited
from test_report import EVIL, page_of

from tutelage.auditing import AuditResult
from tutelage.auditing.attributes import Answers, AttributeReport, AttributeRow
from tutelage.auditing.compare import compare
from tutelage.auditing.flags import Flag
from tutelage.auditing.result import mask_of
from tutelage.core.errors import InputError, MissingError
from tutelage.core.stats import holm, newcombe_paired

# 20 images: both right on 6, only the second on 8, only the first on 1, none on 5
FIRST = "111111" + "00000000" + "1" + "00000"
SECOND = "111111" + "11111111" + "0" + "00000"
FOG = {"fog@1": "1" * 10 + "0" * 10, "fog@3": "1" * 4 + "0" * 16}
SNOW = {"snow@1": "1" * 12 + "0" * 8, "snow@3": "1" * 8 + "0" * 12}


def pair(**options) -> dict[str, AuditResult]:
    return {"first": audited("first", FIRST, **options), "second": audited("second", SECOND, **options)}


def test_one_row_by_hand():
    (row,) = compare(pair()).rows
    assert (row.model, row.what, row.n) == ("second", "clean images", 20)
    assert (row.reference_value, row.value) == (7 / 20, 14 / 20)
    assert row.difference == pytest.approx(7 / 20)
    assert (row.only_reference, row.only_model) == (1, 8)
    # McNemar, exact: 2 P(X <= 1), X of 9 fair coins
    assert row.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert row.p_holm == row.p_value  # the only row
    assert row.verdict == "better"
    expected = newcombe_paired(np.array(list(SECOND)) == "1", np.array(list(FIRST)) == "1")
    assert row.ci95 == (expected.lo, expected.hi)
    assert row.ci_method == "newcombe-paired"


def test_newcombes_interval_of_that_table_by_hand():
    # e = 6, f = 8, g = 1, h = 5: p = 14/20 and 7/20; Wilson limits by hand; phi with continuity correction
    (row,) = compare(pair()).rows
    n, z = 20, 1.959964

    def wilson(k: int) -> tuple[float, float]:
        p = k / n
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    (l1, u1), (l2, u2) = wilson(14), wilson(7)
    phi = (6 * 5 - 8 * 1 - n / 2) / math.sqrt(14 * 6 * 7 * 13)
    down, up = 0.7 - l1, u2 - 0.35
    low = 0.35 - math.sqrt(down**2 - 2 * phi * down * up + up**2)
    up, down = u1 - 0.7, 0.35 - l2
    high = 0.35 + math.sqrt(up**2 - 2 * phi * up * down + down**2)
    assert row.ci95 == pytest.approx((low, high), abs=1e-5)


def test_turned_around_it_is_worse_by_as_much():
    (row,) = compare(pair()).rows
    (back,) = compare(dict(reversed(pair().items()))).rows
    assert back.verdict == "worse"
    assert back.difference == -row.difference
    assert back.ci95 == pytest.approx((-row.ci95[1], -row.ci95[0]))
    assert back.p_value == row.p_value


def test_a_model_does_not_differ_from_itself():
    same = audited("a", FIRST, threat=FIRST, corrupted=FOG | SNOW, shifted={"new": SECOND})
    found = compare({"a": same, "b": same}, details=True)
    assert [row.what for row in found.rows] == [
        "clean images",
        THREAT,
        "the mean over corruptions",
        "fog",
        "snow",
        "shifted set new",
    ]
    for row in found.rows:
        assert (row.difference, row.p_value, row.p_holm, row.verdict) == (0, 1, 1, "no difference shown")
        assert row.ci95[0] <= 0 <= row.ci95[1]


def test_means_over_corruptions_are_paired_over_images():
    # image by image, second less first: fog differs on 8 images by 1/2 (severity 3 only)
    better = {**FOG, "fog@3": "1" * 12 + "0" * 8}
    audits = {"first": audited("first", FIRST, corrupted=FOG), "second": audited("second", FIRST, corrupted=better)}
    row = next(row for row in compare(audits).rows if row.category == "corruptions")
    assert row.difference == pytest.approx(8 * 0.5 / 20)
    spread = math.sqrt((8 * (0.5 - 0.2) ** 2 + 12 * 0.2**2) / 19)
    assert row.ci95 == pytest.approx(
        (0.2 - 2.093024 * spread / math.sqrt(20), 0.2 + 2.093024 * spread / math.sqrt(20)), abs=1e-5
    )
    assert (row.ci_method, row.only_model) == ("paired-t", None)
    single = {
        "first": audited("f", FIRST, corrupted={"fog@1": FIRST}),
        "second": audited("s", FIRST, corrupted={"fog@1": SECOND}),
    }
    row = compare(single).rows[1]
    assert (row.ci_method, row.only_model) == ("newcombe-paired", 8)  # right or wrong: not a mean


def test_families_and_single_corruptions():
    noise = {"shot_noise@1": FIRST}
    audits = {name: audited(name, FIRST, corrupted=FOG | SNOW | noise) for name in ("a", "b")}
    assert [row.what for row in compare(audits).rows] == [
        "clean images",
        "the mean over corruptions",
        "weather corruptions",
        "noise corruptions",
    ]
    names = [row.what for row in compare(audits, details=True).rows]
    assert names[-3:] == ["fog", "snow", "shot_noise"]


def test_all_rows_of_all_models_are_adjusted_together():
    third = audited("third", SECOND, threat=SECOND)
    audits = {**pair(threat=FIRST), "third": third}
    found = compare(audits)
    assert [row.p_value for row in found.rows] == [20 / 512, 1, 20 / 512, 20 / 512]
    assert [row.p_holm for row in found.rows] == pytest.approx(holm([20 / 512, 1, 20 / 512, 20 / 512]).tolist())
    assert {row.verdict for row in found.rows} == {"no difference shown"}  # 20/512 alone would do, four times it does not
    assert min(row.ci95[0] for row in found.rows if row.difference > 0) > 0  # the intervals are not adjusted
    assert [row.model for row in found.of("third")] == ["third", "third"]


def test_the_chance_of_any_false_verdict_is_small():
    rng = np.random.default_rng(0)

    def draw() -> str:
        return "".join("01"[i] for i in (rng.random(60) < 0.6).astype(int))

    false = 0
    for _ in range(150):  # two models that are equally good everywhere
        audits = {
            name: audited(
                name,
                draw(),
                threat=draw(),
                corrupted={"fog@1": draw(), "fog@3": draw()},
                shifted={"new": draw(), "old": draw()},
            )
            for name in ("a", "b")
        }
        false += any(row.verdict != "no difference shown" for row in compare(audits).rows)
    assert false <= 0.05 * 150 + 5


def test_what_was_not_measured_alike_is_left_out_and_named():
    first = audited("a", FIRST, threat=FIRST, corrupted=FOG, shifted={"new": FIRST, "old": FIRST})
    second = audited("b", SECOND, threat=SECOND, steps=10, corrupted={"fog@1": SECOND}, shifted={"new": SECOND})
    second.settings["shifts"][0]["sha256"] = "other"
    found = compare({"a": first, "b": second})
    assert [row.what for row in found.rows] == ["clean images", "the mean over corruptions"]
    assert found.left_out == [
        f"b: {THREAT}: the attacks had other settings",
        "b: corruptions that only one of the audits has: fog@3",
        "b: shifted set new: it held other images",
        "b: shifted set old: only one of the audits has it",
    ]
    frosty = audited("c", FIRST, corrupted={"fog@1": FIRST})
    frosty.settings["corruptions"]["constants"] = "imagenet-c"
    assert compare({"b": second, "c": frosty}).left_out[1] == "c: corruptions: constants auto and imagenet-c"
    plain = audited("d", FIRST)
    assert compare({"a": first, "d": plain}).left_out[:2] == [
        f"d: {THREAT}: only one of the audits has it",
        "d: corruptions: only one of the audits has them",
    ]
    other_seed = replace(plain, settings={**plain.settings, "seed": 1})
    assert "different seeds" in compare({"d": plain, "e": other_seed}).notes[0]


def edited(right: str, *, ok: str = "1" * 20, attacked: str = "each its own") -> AttributeReport:
    """Of 20 pictures: `right` under both edits and the inversion, all wrong under the attack."""
    answers = {name: Answers(mask_of(right), mask_of(ok), name) for name in ("inversion", "size", "direction")}
    answers["background-adversarial"] = Answers([False] * 20, [True] * 20, attacked)
    about = {"inversion": "none", "size": "size", "direction": "direction", "background-adversarial": "background"}
    rows = [AttributeRow(name, kind, 0, 0, 0, (0, 0), 20, 20, 0, {}) for name, kind in about.items()]
    return AttributeReport(rows, 0.0, (0.0, 0.0), (), {}, {}, {}, answers=answers)


def test_edits_of_attributes_are_paired_where_the_pictures_are_the_same():
    audits = {
        "a": replace(audited("a", FIRST), attributes=edited(FIRST, attacked="for a")),
        "b": replace(audited("b", SECOND), attributes=edited(SECOND, attacked="for b")),
    }
    found = compare(audits)
    assert found.left_out == ["b: edits with other pictures for each model: background-adversarial"]
    mean = next(row for row in found.rows if row.category == "edits")
    assert (mean.reference_value, mean.value, mean.n) == (7 / 20, 14 / 20, 20)
    each = [row for row in compare(audits, details=True).rows if row.category == "edit"]
    assert [row.what for row in each] == ["edit inversion", "edit size", "edit direction"]
    assert (each[0].only_reference, each[0].only_model) == (1, 8)


def test_pictures_that_an_edit_could_not_do_count_nowhere():
    ok = "0" * 6 + "1" * 14  # without the six that both get right
    pairs = {name: edited(right, ok=ok, attacked="one for all") for name, right in (("a", FIRST), ("b", SECOND))}
    audits = {name: replace(audited(name, FIRST), attributes=one) for name, one in pairs.items()}
    (size,) = (row for row in compare(audits, details=True).rows if row.name == "size")
    assert (size.reference_value, size.value, size.n) == (1 / 14, 8 / 14, 14)
    # the mean over edits of a picture: of the six, the attack alone; of the others two edits and the attack
    (mean,) = (row for row in compare(audits).rows if row.category == "edits")
    assert (mean.reference_value, mean.n) == (pytest.approx((1 * 2 / 3) / 20), 20)


def test_edits_of_attributes_of_one_audit_only_are_left_out():
    one, other = (replace(audited(name, FIRST), attributes=edited(FIRST)) for name in ("a", "b"))
    plain = audited("c", FIRST)
    assert compare({"a": one, "c": plain}).left_out == ["c: edits of attributes: only one of the audits has them"]
    older = replace(other, attributes=replace(edited(FIRST), answers={}))
    assert "earlier version" in compare({"a": one, "b": older}).left_out[0]
    said = replace(other, attributes=replace(edited(FIRST), settings={"right": "the model's own answer on the original"}))
    assert "own answer" in compare({"a": one, "b": said}).left_out[0]


def test_an_unreliable_audit_wins_nothing_under_threats():
    audits = pair(threat=FIRST)
    audits["second"] = audited("second", SECOND, threat=SECOND, status="unreliable", warnings=["masked gradients"])
    clean, attacked = compare(audits).rows
    assert (clean.verdict, attacked.verdict) == ("no difference shown", "not reliable")


def test_a_flag_of_another_threat_takes_nothing_away():
    audits = pair(threat=FIRST)
    audits["second"] = audited("second", SECOND, threat=SECOND, status="unreliable", warnings=["masked gradients"])
    for threat, verdict in (("l2@0.5", "no difference shown"), (THREAT, "not reliable"), ("", "not reliable")):
        flag = Flag("zero-gradients", "no gradient for 9 of 9", 9, "nothing was searched", "square-5000", threat)
        audits["second"] = replace(audits["second"], flags=[flag])
        assert compare(audits).rows[-1].verdict == verdict


def test_audits_that_cannot_be_compared_are_refused():
    first, second = pair().values()
    other = replace(second, data={**second.data, "sha256": "e" * 64, "name": "elsewhere"})
    cases = [
        ({"a": first}, "got 1, wanted two or more audits"),
        ([first, second], "got list"),
        ({"a": first, "b": 3}, "two or more audits"),
        (
            {"a": first, "b": other},
            r"a on 20 of made up \(dddddddd\) and b on 20 of elsewhere \(eeeeeeee\), wanted audits of the same",
        ),
        ({"a": first, "b": replace(second, predictions={})}, "b with 0 predictions under clean, wanted 20"),
        ({"a": first, "b": replace(second, predictions={"clean": [True] * 19})}, "b with 19 predictions"),
    ]
    for audits, message in cases:
        with pytest.raises(InputError, match=message):
            compare(audits)


# ----------------------------------------------------------------------------------------------- effective robustness


def standard() -> dict[str, AuditResult]:
    """Baselines on the line shifted = main - 0.2, of main accuracy 0.4, 0.5, 0.6 and 0.7."""
    return {
        f"baseline {k}": audited(f"baseline {k}", "1" * k + "0" * (20 - k), shifted={"new": "1" * (k - 4) + "0" * (24 - k)})
        for k in (8, 10, 12, 14)
    }


def test_effective_robustness_against_baselines():
    first = audited("first", FIRST, shifted={"new": "1" * 3 + "0" * 17})  # 0.35 and 0.15: on the line
    second = audited("second", SECOND, shifted={"new": "1" * 12 + "0" * 8})  # 0.7 and 0.6: 0.1 above it
    (line,) = compare({"first": first, "second": second}, baselines=standard(), scale="linear").lines
    assert line.shift == "new"
    assert line.found.slope == pytest.approx(1)
    assert line.found.values == pytest.approx((0.0, 0.1))
    assert line.models == {"first": (0.35, 0.15), "second": (0.7, 0.6)}


def test_an_accuracy_that_the_scale_has_no_place_for_costs_the_line_alone():
    audits = {name: audited(name, right, shifted={"new": right}) for name, right in (("first", FIRST), ("second", SECOND))}
    lowest = audited("lowest", "1" * 6 + "0" * 14, shifted={"new": "0" * 20})
    for baselines, who in (({**standard(), "lowest": lowest}, "baseline lowest"), (standard(), "second")):
        models = audits if "lowest" in baselines else {"first": audits["first"], "second": lowest}
        found = compare(models, baselines=baselines)
        assert found.lines == []
        assert [row.what for row in found.rows] == ["clean images", "shifted set new"]
        (reason,) = found.left_out
        assert f"effective robustness on new: {who} gets 0 % of new; the logit scale" in reason
        assert "--scale linear" in reason
        assert len(compare(models, baselines=baselines, scale="linear").lines) == 1
    same = {f"same {k}": audited(f"same {k}", FIRST, shifted={"new": FIRST}) for k in range(3)}
    assert "3 models of one accuracy" in compare(audits, baselines=same).left_out[0]


def test_baselines_that_do_not_serve():
    audits = {
        "first": audited("first", FIRST, shifted={"new": FIRST}),
        "second": audited("second", SECOND, shifted={"new": SECOND}),
    }
    twin = {**standard(), "again": replace(audits["first"], model={**audits["first"].model, "name": "again"})}
    elsewhere = {**standard(), "e": replace(standard()["baseline 8"], data={**audits["first"].data, "sha256": "e" * 64})}
    other = standard()
    other["baseline 8"].settings["shifts"][0]["sha256"] = "other"
    few = {name: one for name, one in standard().items() if name in ("baseline 8", "baseline 10")}
    cases = [
        (audits, few, r"got 2 \(baseline 8, baseline 10\), wanted at least 3 models"),
        (audits, twin, "again, which has the weights of first"),
        (audits, elsewhere, "audits of the same images"),
        (audits, other, "baseline baseline 8 with another shifted set new"),
        (pair(), standard(), "no shifted set that all audits have"),
    ]
    for models, baselines, message in cases:
        with pytest.raises(InputError, match=message):
            compare(models, baselines=baselines, scale="linear")


# --------------------------------------------------------------------------------------------------- files, the page


def test_the_page_and_the_file_hold_every_number(tmp_path: Path):
    first = audited("first", FIRST, threat=FIRST, corrupted=FOG | SNOW, shifted={"new": "1" * 3 + "0" * 17})
    second = audited("second", SECOND, threat=FIRST, corrupted=FOG | SNOW, shifted={"new": "1" * 12 + "0" * 8})
    audits = {"first": first, "second": second, EVIL: replace(first, status="unreliable", warnings=[f"masked {EVIL}"])}
    found = compare(audits, baselines=standard(), scale="linear")
    page = page_of(found.save(tmp_path))
    for row in found.rows:
        low, high = row.ci95
        assert f"{100 * row.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" in page.text
        assert row.what in page.text
    for said in (
        "Against first, second is better on",
        "no difference on",
        "not reliable",
        EVIL,
        "Effective robustness on new",
        "+10.0 [",
        "Unreliable: do not rely on these numbers",
        "20 samples of made up, test split",
        "at most 5 %",
    ):
        assert said in page.text, said
    assert "<script" not in (tmp_path / "report.html").read_text()
    assert page.count("svg") >= 3  # differences, the line, clean against worst case
    about = json.loads((tmp_path / "compare.json").read_text())
    assert [row["difference"] for row in about["rows"]] == [row.difference for row in found.rows]
    assert about["effective_robustness"][0]["models"][1]["effective_robustness"] == pytest.approx(0.1)
    assert about["reference"] == "first"


def test_what_is_right_is_kept_in_a_digit_an_image(tmp_path: Path):
    result = audited("first", FIRST, threat=SECOND, corrupted=FOG)
    result.save(tmp_path)
    about = json.loads((tmp_path / "audit.json").read_text())
    assert about["predictions"] == {"clean": FIRST, THREAT: SECOND, **FOG}
    back = AuditResult.load(tmp_path)
    assert back.predictions == result.predictions
    assert back.rows == result.rows
    # alone, without the pictures beside it; and as earlier versions wrote it
    alone = tmp_path / "alone.json"
    about["predictions"] = result.predictions
    alone.write_text(json.dumps(about))
    assert AuditResult.load(alone, examples=False).predictions == result.predictions
    about["predictions"] = {"clean": "10x"}
    alone.write_text(json.dumps(about))
    with pytest.raises(InputError, match="an audit as `save` writes it"):
        AuditResult.load(alone, examples=False)
    with pytest.raises(MissingError, match="holds no audit"):
        AuditResult.load(tmp_path / "nowhere.json")
