"""Attacks on text classifiers: only what is right is attacked, questions are counted and batched, budgets hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tutelage.core.errors import InputError, MissingError
from tutelage.core.rng import seeded
from tutelage.models.predictors import Predictor
from tutelage.threats.text import GreedyWords, Lexicon, TextBugger
from tutelage.threats.text.attack import bugs

TABLE = Lexicon({"good": ["fine", "decent"], "great": ["grand"], "bad": ["poor"], "film": ["movie"]})


class Counting:
    """Positive if "good", "great" and so on weigh more than "bad": (n, 2) probabilities; counts what it is asked."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(len(texts))
        weights = {"good": 2.0, "fine": 0.5, "decent": 1.0, "great": 1.0, "grand": -3.0, "bad": -2.0}
        scores = [sum(weights.get(word, 0.0) for word in text.lower().split()) - 0.2 for text in texts]
        positive = 1 / (1 + np.exp(-np.array(scores)))
        return np.stack([1 - positive, positive], 1)


def test_greedy_words_by_hand() -> None:
    # "good" matters most; "fine" lowers it to 0.3, still positive; "great" -> "grand" turns it
    attack = GreedyWords(max_changed=0.5, lexicon=TABLE)
    found = attack.run(Counting(), ["good great film of all"], [1])
    assert found.texts == ["fine grand film of all"]
    assert found.success.tolist() == [True]
    assert found.words.tolist() == [2]
    # the first look, three words left out, two options of "good", one of "great"
    assert found.queries.tolist() == [1 + 3 + 2 + 1]


def test_only_what_is_right_is_attacked() -> None:
    model = Counting()
    texts = ["a good film", "a bad film", "a good and great film", "nothing"]
    found = GreedyWords(max_changed=1.0, lexicon=TABLE).run(model, texts, [0, 0, 1, 0])
    assert found.correct.tolist() == [False, True, True, True]
    assert found.queries[0] == 1
    assert found.texts[0] == texts[0]
    assert found.success.tolist() == [False, False, True, False]  # "bad" -> "poor" leaves -0.2: still negative
    assert found.robust_accuracy == 0.5
    assert found.success_rate == pytest.approx(1 / 3)
    assert math.isnan(GreedyWords(lexicon=TABLE).run(model, ["a good film"], [0]).success_rate)


def test_the_result_depends_neither_on_batch_nor_on_order() -> None:
    texts = ["a good film", "great and good", "such a great film", "the bad film", "good good good"]
    for attack in (GreedyWords(max_changed=0.5, lexicon=TABLE), TextBugger(max_changed=0.5)):
        whole = attack.run(Counting(), texts, [1, 1, 1, 0, 1], seed=2, batch_size=3)
        back = attack.run(Counting(), texts[::-1], [1, 0, 1, 1, 1], seed=2, batch_size=64)
        assert back.texts[::-1] == whole.texts
        assert back.queries[::-1].tolist() == whole.queries.tolist()
        alone = [attack.run(Counting(), [t], [y], seed=2).texts[0] for t, y in zip(texts, (1, 1, 1, 0, 1), strict=True)]
        assert alone == whole.texts


def test_questions_are_asked_together() -> None:
    model = Counting()
    found = TextBugger(max_changed=1.0).run(model, ["good film here"] * 10, [1] * 10, batch_size=1000)
    assert sum(model.calls) == found.queries.sum()
    assert len(model.calls) <= 1 + 1 + 3  # first look, importance, at most three words


def test_budgets_hold() -> None:
    texts = ["good great good great good film"]
    for most in (1, 2, 5, 9, 20):
        model = Counting()
        found = GreedyWords(max_changed=1.0, max_queries=most, lexicon=TABLE).run(model, texts, [1])
        assert found.queries[0] <= most
        assert sum(model.calls) == found.queries[0]
    words = "good " * 9 + "film"
    held = GreedyWords(max_changed=0.2, lexicon=TABLE).run(Counting(), [words], [1])
    assert held.success.tolist() == [False]
    assert held.texts == [words]


def test_protected_words_stay() -> None:
    attack = GreedyWords(max_changed=1.0, lexicon=TABLE)
    assert attack.run(Counting(), ["a great film"], [1]).texts == ["a grand film"]
    assert attack.run(Counting(), ["a great film"], [1], protect=[["great"]]).success.tolist() == [False]


def test_bugs_by_hand() -> None:
    found = bugs("table", [0.0] * 5)
    assert found == ("t able", "tble", "tbale", "7able", "tqble")
    assert bugs("xyx", [0.99] * 5) == ("xy x", "xx", "xhx")


def test_wrong_arguments_are_named() -> None:
    attack = TextBugger()
    for call, argument in (
        (lambda: attack.run(Counting(), "abc", [1]), "texts"),
        (lambda: attack.run(Counting(), ["a"], [1, 0]), "labels"),
        (lambda: attack.run(Counting(), ["a"], [2]), "labels"),
        (lambda: TextBugger(max_changed=2), "max_changed"),
        (lambda: TextBugger(max_queries=0), "max_queries"),
        (lambda: GreedyWords(lexicon=3), "lexicon"),  # type: ignore[arg-type]
        (lambda: attack.run(lambda texts: np.zeros(1), ["a"], [0]), "predict"),
    ):
        with pytest.raises(InputError, match=f"^{argument}"):
            call()
    assert attack.run(Counting(), [], []).texts == []


def test_an_attack_without_wordnet(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from tutelage.threats.text import WORDNET

    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    monkeypatch.delitem(WORDNET.__dict__, "_source", raising=False)
    with pytest.raises(MissingError, match="tutelage data get wordnet"):
        GreedyWords().run(Counting(), ["a good film"], [1])


# The predictor, which attacks and audits ask


def test_predictors_of_every_kind() -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC
    from torch import nn

    texts = ["good film", "bad film", "good", "bad"]
    labels = ["yes", "no", "yes", "no"]
    logistic = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, labels)
    proba = Predictor(logistic, ["yes", "no"])(texts)
    assert proba.argmax(1).tolist() == [0, 1, 0, 1]
    assert Predictor(logistic, ["no", "yes"])(texts)[:, ::-1].tolist() == proba.tolist()
    with pytest.raises(InputError, match="the classes of the model"):
        Predictor(logistic, ["yes", "maybe"])(texts)
    margins = make_pipeline(CountVectorizer(), LinearSVC()).fit(texts, labels)
    assert Predictor(margins, ["yes", "no"])(texts).tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]

    class Pipeline:  # the surface of transformers' text-classification pipeline
        tokenizer, task = object(), "text-classification"

        def __call__(self, values: list[str], **options: object) -> list[list[dict[str, object]]]:
            assert options == {"top_k": None, "truncation": True}
            return [[{"label": "no", "score": 0.25}, {"label": "yes", "score": 0.75}] for _ in values]

    assert Predictor(Pipeline(), ["yes", "no"])(["a"]).tolist() == [[0.75, 0.25]]
    with pytest.raises(InputError, match="also has 'no'"):
        Predictor(Pipeline(), ["yes", "other"])(["a"])
    named = Predictor(lambda values: ["no"] * len(values), ["yes", "no"], batch_size=2)
    assert named(texts).tolist() == [[0, 1]] * 4
    assert (named.calls, named.asked) == (2, 4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert Predictor(net, [0, 1])([np.zeros((2, 2))] * 3).shape == (3, 2)
    for wrong in (lambda v: [[0.5, 0.2]] * len(v), lambda v: [[1.0, 0.0]], lambda v: None):
        with pytest.raises((InputError, MissingError)):
            Predictor(wrong, ["yes", "no"])(texts)
    for labels_ in (["a"], "ab", ["a", "a"]):
        with pytest.raises(InputError, match="labels"):
            Predictor(named, labels_)


def test_a_real_pipeline_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="pip install 'tutelage[lm]'")
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch = pytest.importorskip("torch")
    words = ["[PAD]", "[UNK]", "good", "bad", "film", "a", "the"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=len(words), id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}, **sizes)
    with seeded(0, "tiny pipeline"):
        net = transformers.BertForSequenceClassification(config).eval()
    pipeline = transformers.pipeline("text-classification", model=net, tokenizer=tokenizer, device="cpu")
    texts = ["a good film", "the bad film", "bad"]
    found = Predictor(pipeline, ["yes", "no"], batch_size=2)(texts)
    with torch.no_grad():
        one = torch.softmax(net(**tokenizer("the bad film", return_tensors="pt")).logits, 1)[0]
    assert found[1] == pytest.approx([float(one[1]), float(one[0])], abs=1e-6)
