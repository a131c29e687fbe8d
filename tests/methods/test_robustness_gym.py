"""Robustness Gym: the card's eight invariants, values by hand, every kind of slice, saving, checks, Mandoline, discovery."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tutelage.core.errors import InputError, MissingError
from tutelage.core.stats import mcnemar, newcombe_paired, wilson
from tutelage.data.tables import Table, as_table
from tutelage.data.worlds.opinions import SYNONYMS, opinions
from tutelage.methods.audit.robustness_gym import (
    PHRASES,
    Attack,
    Bench,
    CachedOperation,
    Confidence,
    Entities,
    EvaluationSet,
    HasPhrase,
    LabelIs,
    Length,
    OperationBuckets,
    Report,
    Store,
    Then,
    Transformation,
    compare,
    discover,
    has_words,
    intersection,
    lexical_overlap_buckets,
    mandoline,
    subpopulation,
    subsequence,
    text_classification,
    union,
)
from tutelage.methods.audit.robustness_gym.families import is_subsequence, lexical_overlap
from tutelage.methods.audit.robustness_gym.measure import confusion, measure
from tutelage.threats.text import ButterFingers, FunctionEdit, GreedyWords, Identity, Lexicon, Negation, TextBugger, UpperCase

LABELS = ["negative", "positive"]
BAD = ("bad", "poor", "weak", "dull", "clumsy", "stale", "not")
TASK = text_classification(LABELS)


class Words:
    """Says "negative" where a bad word stands; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self.calls.append(len(texts))
        return [[0.9, 0.1] if any(word in text for word in BAD) else [0.2, 0.8] for text in texts]


FILMS = opinions("films", 150)


def bench_of(*builders: Any, data: Table = FILMS, **settings: Any) -> Bench:
    bench = Bench(TASK, **{"n_min": 5, **settings})
    bench.add_model("words", Words())
    bench.add(data, builders)
    return bench


@subpopulation(name="everything")
def everything(row: dict[str, Any]) -> bool:
    return True


@subpopulation()
def short(row: dict[str, Any]) -> bool:
    return len(row["text"].split()) < 5


# The eight invariants of the card


def test_1_a_slice_of_everything_is_the_aggregate() -> None:
    report = bench_of(everything, short, ~short).run()
    row, whole = report.row("everything"), report.aggregates["films"]["words"]
    assert row.metrics["accuracy"] == whole["accuracy"]
    assert row.compared is not None
    assert (row.compared.delta, row.compared.p_value) == (0.0, 1.0)
    assert report.row("short").n + report.row("not short").n == len(FILMS)


def test_2_unions_intersections_and_de_morgan() -> None:
    length, negation = Length([("0%", "30%"), (6, 100)]), HasPhrase("negation")
    a, b = length(FILMS).membership, negation(FILMS).membership
    assert (union(length, negation)(FILMS).membership[:, 0] == np.concatenate([a, b], 1).any(1)).all()
    assert (intersection(length, negation)(FILMS).membership[:, 0] == np.concatenate([a, b], 1).all(1)).all()
    left, right = (~(short | negation))(FILMS), ((~short) & (~negation))(FILMS)
    assert (left.membership == right.membership).all()
    assert left.slices[0].ids == right.slices[0].ids
    assert 0 < len(left.slices[0]) < len(FILMS)
    longer, negation = HasPhrase("long", r"\w+ \w+ \w+ \w+ \w+"), HasPhrase("negation")
    left, right = (~(longer & negation))(FILMS), ((~longer) | (~negation))(FILMS)
    assert (left.membership == right.membership).all()
    assert 0 < len(left.slices[0]) < len(FILMS)


def test_3_the_identity_changes_nothing_and_is_recorded() -> None:
    report = bench_of(Transformation(Identity(), keep="all"), Identity()).run()
    row = report.rows[0]
    assert row.n == len(FILMS)
    assert row.compared is not None
    assert (row.compared.delta, row.compared.p_value) == (0.0, 1.0)
    assert row.lineage == ("films", "identity() @ text")
    assert row.metrics["accuracy"] == report.aggregates["films"]["words"]["accuracy"]


def test_3_what_an_edit_leaves_unchanged_is_not_in_its_slice() -> None:
    bench = Bench(TASK)
    bench.add_model("words", Words())
    bench.add(FILMS, [Identity()])
    row = bench.run().rows[0]
    assert (row.n, row.accuracy) == (0, None)
    assert row.metrics["accuracy"].reason == "the slice is empty"


def test_4_a_partition_averages_to_the_whole() -> None:
    report = bench_of(LabelIs(LABELS), Length([(0, 4), (5, 7), (8, 99)])).run()
    whole = report.aggregates["films"]["words"]["accuracy"].value
    for parts in (("label",), ("length",)):
        rows = [row for row in report.rows if row.slice.startswith(parts)]
        assert sum(row.n for row in rows) == len(FILMS)
        assert sum(row.n * (row.accuracy or 0.0) for row in rows) / len(FILMS) == pytest.approx(whole)


def test_5_a_saved_bench_gives_the_same_report_and_counts_versions(tmp_path: Path) -> None:
    shop = opinions("shop", 40)
    bench = bench_of(short, ButterFingers(0.2), EvaluationSet("shop", shop), Negation(verbs=False))
    first = bench.run()
    assert bench.save(tmp_path) == "1.0.0"
    again = Bench.load(tmp_path)
    again.add_model("words", Words())
    assert again.run().digest == first.digest
    assert again.save(tmp_path) == "1.0.0"
    again.add(FILMS, [HasPhrase("negation")])
    assert again.save(tmp_path) == "1.1.0"
    again.n_min = 50
    assert again.save(tmp_path / "elsewhere") == "1.1.1"
    fewer = bench_of(short)
    assert fewer.save(tmp_path) == "2.0.0"
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(InputError, match="a folder written by Bench"):
        Bench.load(tmp_path)


def test_6_models_are_asked_no_more_than_needed() -> None:
    model = Words()
    bench = Bench(TASK, batch_size=16)
    bench.add_model("words", model)
    bench.add(FILMS, [short, ~short, LabelIs(LABELS), HasPhrase("negation"), Confidence()])
    bench.run()
    assert len(model.calls) == math.ceil(len(FILMS) / 16)
    model.calls.clear()
    edit = ButterFingers(0.03)
    changed = sum(one.changed for one in edit.many(list(FILMS.column("text")), items=list(FILMS.ids)))
    assert 0 < changed < len(FILMS)
    for keep in ("changed", "all"):
        bench = Bench(TASK, batch_size=16)
        bench.add_model("words", model)
        bench.add(FILMS, [Transformation(edit, keep=keep)])
        assert not model.calls
        bench.run()
        assert len(model.calls) == math.ceil(len(FILMS) / 16) + math.ceil(changed / 16)
        model.calls.clear()


def test_7_mandoline_without_a_shift_weighs_all_alike() -> None:
    g = Length([("0%", "30%"), ("70%", "100%")])(FILMS).membership
    right = np.arange(len(FILMS)) % 3 > 0
    found = mandoline(g, g[::-1], right)
    assert (found.w == 0).all()
    assert (found.weights == 1).all()
    assert found.estimate == found.plain == right.mean()


def test_8_the_order_of_the_examples_does_not_matter() -> None:
    order = np.random.default_rng(3).permutation(len(FILMS))
    builders = [short, Length(), ButterFingers(0.2), Attack(GreedyWords(lexicon=Lexicon(SYNONYMS)), sample=40), Confidence()]
    task = text_classification(LABELS, metrics={"accuracy": None, "macro_f1": None, "mean": lambda y, p: float(p[:, 1].mean())})
    reports = []
    for data in (FILMS, FILMS.take(order)):
        bench = Bench(task)
        bench.add_model("words", Words())
        bench.add(data, builders)
        reports.append(bench.run())
    assert (short(FILMS.take(order)).membership == short(FILMS).membership[order]).all()
    assert reports[0].digest == reports[1].digest
    assert reports[0].examples == reports[1].examples


# Numbers by hand


def test_a_report_by_hand() -> None:
    texts = ["good", "bad", "not bad", "fine day", "dull", "it is good"]
    labels = ["positive", "negative", "positive", "positive", "negative", "negative"]
    data = as_table({"text": texts, "label": labels}, name="six")

    def louder(text: str, rng: object) -> str:
        return text.replace("good", "poor")

    bench = bench_of(HasPhrase("negation"), FunctionEdit("louder", louder), data=data)
    report = bench.run()
    whole = report.aggregates["six"]["words"]["accuracy"]
    assert whole.value == 4 / 6  # "not bad" and "it is good" are wrong
    assert (whole.low, whole.high) == (wilson(4, 6).lo, wilson(4, 6).hi)
    negation = report.row("negation")
    assert (negation.n, negation.accuracy, negation.labels["positive"], negation.predictions["negative"]) == (1, 0.0, 1.0, 1.0)
    assert negation.compared is not None
    assert negation.compared.delta == -4 / 6
    assert negation.compared.p_value == pytest.approx(2 / 6)  # 0 of 1 against 4 of 5: Fisher's table, by hand
    edited = report.row("louder")
    assert edited.n == 2  # "good" turns wrong, "it is good" turns right
    assert edited.compared is not None
    assert edited.compared.delta == 0.0
    assert edited.compared.p_value == mcnemar([True, False], [False, True]).p_value == 1.0
    assert edited.compared.low == newcombe_paired([True, False], [False, True]).lo
    assert edited.notes["answers_changed"] == 1.0
    assert [(e.before, e.after, e.predicted) for e in report.examples] == [("good", "poor", "negative")]


def test_metrics_by_hand() -> None:
    places, said = np.array([0, 0, 0, 1] * 10), np.array([0, 0, 1, 1] * 10)
    probabilities = np.eye(2)[said]
    assert confusion(places, said, 2).tolist() == [[20, 10], [0, 10]]
    rng = np.random.default_rng(0)
    balanced = measure("balanced_accuracy", None, places, probabilities, rng, 0.95)
    assert balanced.value == pytest.approx((2 / 3 + 1) / 2)
    assert balanced.low is not None
    assert balanced.low < balanced.value < balanced.high  # type: ignore[operator]
    f1 = measure("macro_f1", None, places, probabilities, rng, 0.95)
    assert f1.value == pytest.approx((2 * 20 / (20 + 30) + 2 * 10 / (20 + 10)) / 2)
    one_class = measure("balanced_accuracy", None, np.zeros(5, int), np.eye(2)[[0, 0, 1, 0, 0]], rng, 0.95)
    assert (one_class.value, one_class.reason) == (None, "one class only")
    few = measure("macro_f1", None, places[:4], probabilities[:4], rng, 0.95)
    assert (few.low, few.reason) == (None, "too few rows for an interval")


def test_labels_follow_an_edit_or_are_unknown() -> None:
    opposite = {"negative": "positive", "positive": "negative"}
    report = bench_of(
        Transformation(Negation(verbs=False), "unknown negation"),
        Transformation(Negation(verbs=False, label_map=opposite.get), "mapped negation"),
    ).run()
    unknown, mapped = report.rows
    assert unknown.accuracy is None
    assert "unknown" in unknown.metrics["accuracy"].reason
    assert unknown.compared is None
    assert unknown.notes["answers_changed"] > 0
    assert mapped.labels["positive"] == pytest.approx(1 - bench_of(everything).run().rows[0].labels["positive"], abs=0.1)
    with pytest.raises(InputError, match="labels of negation"):
        bench_of(Negation(verbs=False, label_map=lambda label: "neutral"))


def test_attacks_count_all_rows_and_only_attack_what_is_right() -> None:
    report = bench_of(Attack(GreedyWords(lexicon=Lexicon(SYNONYMS))), Attack("text-bugger", budget=0.5, sample=30)).run()
    greedy, bugger = report.rows
    whole = report.aggregates["films"]["words"]["accuracy"].value
    assert whole is not None
    correct = round(whole * len(FILMS))
    assert greedy.notes["correct_before"] == correct
    assert greedy.accuracy == pytest.approx((1 - greedy.notes["success_rate"]) * correct / len(FILMS))
    assert greedy.n == len(FILMS)
    assert bugger.n == 30
    assert greedy.lineage[-1] == "against words"
    assert isinstance(Attack("text-bugger", budget=0.5).chosen, TextBugger)
    before = sum(row.compared.delta for row in report.rows if row.compared)
    assert before < 0


def test_a_transformation_and_then_a_subpopulation() -> None:
    loud = Then(Transformation(UpperCase()), HasPhrase("exclamation"))
    found = loud(FILMS)
    assert [one.name for one in found.slices] == ["upper-case > exclamation"]
    assert found.slices[0].lineage == ("films", "upper-case() @ text", "has exclamation @ text")
    assert found.slices[0].values is not None
    assert all(text.isupper() and "!" in text for text in found.slices[0].values)
    assert found.membership.sum() == len(found.slices[0])
    assert bench_of(loud).run().rows[0].category == "transformation"


# The families


def test_percentiles_are_those_of_the_whole_data() -> None:
    data = as_table({"text": [" ".join(["w"] * n) for n in range(1, 101)], "label": ["positive"] * 100})
    low, high = Length([("0%", "10%"), ("90%", "100%")])(data).slices
    assert [len(data.row(i)["text"].split()) for i in low.source] == list(range(1, 11))  # type: ignore[union-attr]
    assert len(high) == 10
    ties = as_table({"text": ["a b"] * 50, "label": ["positive"] * 50})
    assert len(Length([("0%", "10%")])(ties).slices[0]) == 50  # closed bounds: all have the one score
    fixed = Length([(5, 7)], unit="tokens")(data).slices[0]
    assert len(fixed) == 3
    with pytest.raises(InputError, match="percentiles such as"):
        Length([("0%", "110%")])


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("negation", "It isn't so", "It is a knot"),
        ("contrast", "Nice, but no", "A button"),
        ("comparative", "It is funnier", "It is fun"),
        ("superlative", "the happiest one", "a priest"),
        ("quantifier", "Some came", "They came"),
        ("temporal", "Before noon", "At noon"),
        ("possessive", "Mary's hat", "A hat"),
        ("question", "Why not", "It is"),
        ("hedge", "It might do", "It does"),
        ("capitals", "It is GREAT", "It is Great"),
        ("emoticon", "nice :-)", "nice: it is"),
        ("exclamation", "nice!", "nice"),
        ("number", "in 2004", "in May"),
    ],
)
def test_patterns(name: str, yes: str, no: str) -> None:
    data = as_table({"text": [yes, no], "label": ["a", "b"]})
    assert HasPhrase(name)(data).membership[:, 0].tolist() == [True, False]
    assert name in PHRASES


def test_other_families() -> None:
    data = as_table(
        {
            "text": ["Mary saw Paris", "Mary and Omar", "nobody", "Omar ran"],
            "other": ["saw Paris", "omar and mary", "somebody", "he ran"],
            "label": ["a", "b", "a", "b"],
        }
    )
    assert Entities("name", rare=1)(data).membership.tolist() == [[True, False], [True, False], [False, False], [True, False]]
    assert Entities("place", rare=1)(data).membership[:, 1].tolist() == [True, False, False, False]
    assert lexical_overlap("A b c", "b C d") == 0.5
    assert lexical_overlap("", "") == 0.0
    assert lexical_overlap_buckets("text", "other", [(0.9, 1)])(data).membership[:, 0].tolist() == [False, True, False, False]
    assert is_subsequence("the dog ran home", "dog ran")
    assert not is_subsequence("the dog ran home", "dog home")
    assert subsequence("text", "other")(data).membership[:, 0].tolist() == [True, False, False, False]
    assert has_words("night", ["ran", "saw"])(data).membership[:, 0].tolist() == [True, False, False, True]


def test_confidence_is_that_of_each_model() -> None:
    bench = Bench(TASK, n_min=1)
    bench.add_model("words", Words())
    bench.add_model("sure", lambda texts: [[1.0, 0.0]] * len(texts))
    bench.add(FILMS, [Confidence([(0.85, 1)])])
    report = bench.run()
    words, sure = report.rows
    assert 0 < words.n < sure.n == len(FILMS)
    assert (words.model, sure.model) == ("words", "sure")


def test_operations_are_cached_by_parameters_columns_and_content() -> None:
    count = 0

    def letters(text: str) -> int:
        nonlocal count
        count += 1
        return len(text)

    store, data = Store(), as_table({"text": ["a", "bb"], "label": ["x", "y"]})
    operation = CachedOperation("letters", letters, {"version": 1})
    with pytest.raises(MissingError, match=r"letters\(version=1\) on text is not stored for 2 of 2 examples"):
        store.lookup(data, operation, ["text"])
    assert store.run(data, operation, ["text"]) == store.run(data, operation, ["text"]) == [1, 2]
    assert store.lookup(data.take([1, 0]), operation, ["text"]) == [2, 1]
    assert count == 2
    store.run(data, CachedOperation("letters", letters, {"version": 2}), ["text"])
    store.run(data.with_column("text", ["a", "ccc"]), operation, ["text"])
    assert count == 5
    buckets = OperationBuckets(operation, [(2, 9)])
    assert buckets(data, store=store).membership[:, 0].tolist() == [False, True]
    assert count == 5


def test_operations_are_kept_in_a_file(tmp_path: Path) -> None:
    data, operation = as_table({"text": ["a", "bb"]}), CachedOperation("letters", len)
    store = Store()
    store.run(data, operation, ["text"])
    store.save(tmp_path / "store.json")
    assert Store.load(tmp_path / "store.json").lookup(data, operation, ["text"]) == [1, 2]
    odd = Store()
    odd.run(data, CachedOperation("object", lambda text: object()), ["text"])
    with pytest.raises(InputError, match="JSON values"):
        odd.save(tmp_path / "odd.json")


# Report, checks, comparisons


def test_checks_for_ci() -> None:
    report = bench_of(short, HasPhrase("negation"), Negation(verbs=False)).run()
    good = report.check({"subpopulation/negation": {"accuracy": ">=0.1"}, "short": {"accuracy": "<= 1"}})
    assert (good.ok, good.exit_code, len(good.lines)) == (True, 0, 2)
    bad = report.check({"negation": {"accuracy": ">0.99"}})
    assert (bad.ok, bad.exit_code) == (False, 1)
    assert bad.lines[0].startswith("FAIL words: negation accuracy 0.")
    exactly = {"subpopulation/negation": {"accuracy": ">=0.48"}}
    assert report.check(exactly).ok
    assert not report.check(exactly, use="low").ok
    unmeasured = report.check({"transformation/negation": {"accuracy": ">=0"}})
    assert not unmeasured.ok
    assert "unknown" in unmeasured.lines[0]
    assert len(report.check({"negation": {"accuracy": ">=0"}}).lines) == 2, "every slice of that name"
    with pytest.raises(InputError, match="slice"):
        report.check({"negatoin": {"accuracy": ">=0.1"}})
    with pytest.raises(InputError, match="bound such as"):
        report.check({"negation": {"accuracy": "0.8"}})
    with pytest.raises(InputError, match="f1"):
        report.check({"negation": {"f1": ">0.8"}})


def test_reports_are_saved_shown_and_compared(tmp_path: Path) -> None:
    bench = bench_of(short, ButterFingers(0.2), Negation(verbs=False), EvaluationSet("shop", opinions("shop", 30)))
    first = bench.run()
    first.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == first
    json.loads((tmp_path / "report.json").read_text())
    text = first.to_markdown()
    assert text.index("## subpopulation") < text.index("## transformation") < text.index("## evaluation set")
    assert "| short | words |" in text
    page = first.to_html(tmp_path / "report.html").read_text()
    for words in ("butter-fingers", "shop", "Robustness report", "Answers that went wrong", "effect on labels is unknown"):
        assert words in page
    other = Bench(TASK, n_min=5)
    other.add_model("new", lambda texts: [[0.0, 1.0]] * len(texts))
    other.add(FILMS, [short, ButterFingers(0.2), HasPhrase("hedge")])
    diff = compare(first, other.run())
    assert {one.slice for one in diff.changes} == {"short", "butter-fingers"}
    assert diff.added == ["hedge"]
    assert diff.removed == ["negation", "shop"]
    assert diff.changes == sorted(diff.changes, key=lambda one: one.difference or 0.0)
    assert all(one.difference < -0.05 for one in diff.worse(0.05) if one.difference is not None)
    assert "- added: hedge" in diff.to_markdown()
    with pytest.raises(InputError, match=r"Report\.save"):
        Report.load(tmp_path / "nothing.json")
    assert [row.slice for row in first.worst(2)] == sorted(
        (row.slice for row in first.rows if row.accuracy is not None and not row.small),
        key=lambda name: first.row(name).accuracy,
    )[:2]


def test_holm_is_over_the_slices_of_a_model() -> None:
    report = bench_of(short, HasPhrase("negation"), LabelIs(LABELS)).run()
    raw = sorted(row.compared.p_value for row in report.rows if row.compared)
    smallest = min(row.compared.p_holm for row in report.rows if row.compared)
    assert smallest == pytest.approx(min(1.0, len(raw) * raw[0]))


def test_two_models_and_two_sets() -> None:
    bench = Bench(TASK, n_min=5)
    for name in ("a", "b"):
        bench.add_model(name, Words())
    bench.add(FILMS, [short])
    bench.add(opinions("shop", 40), [short])
    report = bench.run()
    assert [(row.data, row.model) for row in report.rows] == [("films", "a"), ("films", "b"), ("shop", "a"), ("shop", "b")]
    assert len(bench.add(FILMS, [short])) == 0  # the same slice is kept once
    with pytest.raises(InputError, match="another name for other data"):
        bench.add(opinions("films", 20), [short])


def test_images_and_their_corruptions() -> None:
    rng = np.random.default_rng(0)
    images = [rng.random((4, 4)).astype(np.float32) * (0.5 + 0.5 * (i % 2)) for i in range(40)]
    data = as_table({"image": images, "label": [i % 2 for i in range(40)]}, name="squares")

    def darker(image: np.ndarray) -> np.ndarray:
        return image * 0.5

    @subpopulation()
    def bright(row: dict[str, Any]) -> bool:
        return bool(row["image"].mean() > 0.4)

    def predict(values: Sequence[np.ndarray]) -> np.ndarray:
        p = np.array([float(v.mean() > 0.37) for v in values])
        return np.stack([1 - p, p], 1)

    bench = Bench(text_classification([0, 1], name="images", column="image"), n_min=5)
    bench.add_model("threshold", predict)
    bench.add(data, [bright, Transformation(darker)], columns=["image"])
    report = bench.run()
    assert report.row("darker").n == 40
    assert report.row("darker").compared.delta < -0.2  # type: ignore[union-attr]
    assert 0 < report.row("bright").n < 40
    with pytest.raises(InputError, match="JSON"):
        bench.save("/tmp/never-written")


# Mandoline and discovery


def test_mandoline_finds_the_accuracy_of_a_shifted_mixture() -> None:
    rng = np.random.default_rng(1)
    source, target = rng.random((4000, 1)) < 0.2, rng.random((3000, 1)) < 0.7
    right = np.where(source[:, 0], rng.random(4000) < 0.5, rng.random(4000) < 0.9)
    found = mandoline(source, target, right, ridge=0.0)
    # one slice: the weights are the density ratio, in closed form
    inside, share = source.mean(), target.mean()
    assert found.weights[source[:, 0]][0] == pytest.approx(share / inside, rel=1e-3)
    assert found.weights[~source[:, 0]][0] == pytest.approx((1 - share) / (1 - inside), rel=1e-3)
    truth = 0.7 * 0.5 + 0.3 * 0.9
    assert abs(found.estimate - truth) < 0.03 < abs(found.plain - truth)
    assert 1 < found.effective < 4000
    never = mandoline(source, np.ones((5, 1), bool) & False, right)
    assert np.isfinite(never.estimate)
    with pytest.raises(InputError, match="target"):
        mandoline(source, np.ones((5, 2), bool), right)


def test_discovery_proposes_on_one_half_and_confirms_on_the_other() -> None:
    rng = np.random.default_rng(2)
    n = 2000
    features = rng.random((n, 4)) < 0.4
    bad = features[:, 0] & features[:, 2]
    wrong = rng.random(n) < np.where(bad, 0.5, 0.1)
    names, ids = ["a", "b", "c", "d"], [str(i) for i in range(n)]
    found = discover(names, features, wrong, ids)
    assert found[0].name == "a and c"
    assert found[0].confirmed
    assert found[0].p_holm < 1e-6
    order = rng.permutation(n)
    assert discover(names, features[order], wrong[order], [ids[i] for i in order]) == found
    nothing = discover(names, features, rng.random(n) < 0.1, ids)
    assert not any(one.confirmed for one in nothing)
    with pytest.raises(InputError, match="membership"):
        discover(names, features[:, :2], wrong, ids)


# Tables and wrong input


def test_tables_of_every_kind(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "a", "label": 1}]
    table = as_table(rows)
    assert table.ids[2] == f"{table.ids[0]}-2"
    assert as_table(rows[::-1]).ids[1] == table.ids[1]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("text,label\na,1\nb,0\n")
    for path in ("x.jsonl", "x.parquet"):
        assert as_table(tmp_path / path).ids == table.ids
        assert as_table(str(tmp_path / path)).name == "x"
    assert list(as_table(tmp_path / "x.csv").column("label")) == ["1", "0"]
    assert as_table({"key": ["p", "q"], "text": ["a", "b"]}, id_column="key").ids == ("p", "q")
    for wrong in ([{"a": 1}, {"b": 2}], {"a": [1], "b": [1, 2]}, 3, []):
        with pytest.raises(InputError, match="data"):
            as_table(wrong)
    with pytest.raises(InputError, match="ids"):
        as_table({"key": ["p", "p"]}, id_column="key")
    with pytest.raises(MissingError):
        as_table(tmp_path / "nothing.csv")
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"bad\.jsonl"):
        as_table(tmp_path / "bad.jsonl")


def test_wrong_input_is_named() -> None:
    bench = Bench(TASK)
    for call, argument in (
        (lambda: bench.run(), "models"),
        (lambda: Bench(["a", "b"]), "task"),  # type: ignore[arg-type]
        (lambda: Bench(TASK, alpha=0), "alpha"),
        (lambda: text_classification(LABELS, metrics={"f2": None}), "metrics"),
        (lambda: text_classification(LABELS, metrics={"macro_f1": None}), "metrics"),
        (lambda: bench.add(FILMS, [3]), "builders"),
        (lambda: bench.add(FILMS, [], columns=["txt"]), "column"),
        (lambda: bench.add({"text": ["a"], "label": ["other"]}, []), "labels"),
        (lambda: HasPhrase("unheard of"), "title"),
        (lambda: HasPhrase("x", "("), "pattern"),
        (lambda: Attack("nothing"), "attack"),
        (lambda: Attack("text-bugger")(FILMS), "model"),
        (lambda: Transformation(UpperCase(), keep="some"), "keep"),  # type: ignore[arg-type]
        (lambda: subpopulation()(lambda a, b: True), "function"),
    ):
        with pytest.raises(InputError, match=f"^{argument}"):
            call()
    bench.add_model("m", Words())
    with pytest.raises(InputError, match=r"^data"):
        bench.run()
    with pytest.raises(InputError, match=r"^name"):
        bench.add_model("m", Words())
