"""The claim of Robustness Gym: does an aggregate accuracy hide slices that are at least 5 points worse, of all four kinds?

Sentences of four domains (films, Amazon, New York Times editorials, tweets). A unit is a seed: a training sample of film
sentences drawn without replacement, whose rest is the validation set that the regularisation is chosen on, edits of its own,
and rows of its own to attack. All slices are fixed below, before any number was seen. The test rows are the same for all
units, so the interval is over training samples and edits.

What is measured for a category is the largest drop below the aggregate accuracy among its slices of at least `n_min` rows
that are significantly worse (Holm over all slices, 0.05), 0 where there is none; the claim's metric is the smallest of
the four.
A second bench has six edits of ReCode at the paper's rates; it was added after the first had been looked at on one seed.
Control: slices of the same sizes, of random test rows, under the same rule. Second arm: MiniLM's features with a linear
layer, beside the same TF-IDF model on fewer rows, for whether the order of two models flips. Mandoline's estimate of the
accuracy on another domain, from each of the four, against the plain one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.core.files import sha256_text
from tutelage.core.rng import derive, numpy_generator
from tutelage.core.stats import holm
from tutelage.data.homes import HOMES
from tutelage.data.sentiment import DOMAINS, LABELS, sentiment_sentences, sentiment_sets
from tutelage.data.tables import Table
from tutelage.data.worlds.opinions import DOMAINS as SMALL_DOMAINS
from tutelage.data.worlds.opinions import SYNONYMS, opinions
from tutelage.methods.audit.robustness_gym.bench import Bench, text_classification
from tutelage.methods.audit.robustness_gym.families import HasPhrase, Length
from tutelage.methods.audit.robustness_gym.mandoline import mandoline
from tutelage.methods.audit.robustness_gym.measure import against_rest
from tutelage.methods.audit.robustness_gym.report import Report, ReportRow
from tutelage.methods.audit.robustness_gym.slices import Attack, EvaluationSet, SliceBuilder, Transformation, some_rows
from tutelage.models.predictors import Predictor
from tutelage.threats.text.attack import GreedyWords, TextBugger
from tutelage.threats.text.character import ButterFingers, OCRErrors, SwapCharacters, Typos, Whitespace
from tutelage.threats.text.edit import Chain, TextEdit
from tutelage.threats.text.lexicon import WORDNET, Lexicon, Synonyms
from tutelage.threats.text.phrase import OpeningPhrase
from tutelage.threats.text.style import Elongated
from tutelage.threats.text.word import InflectionalVariation, SynonymInsertion, SynonymSubstitution

ARMS = (
    "four-category-bench",
    "published-rates-bench",
    "size-matched-random-slices",
    "two-models",
    "mandoline",
    "plain-estimate",
)
CONTROLS = ("size-matched-random-slices",)
PHRASES = ("negation", "comparative", "contrast", "hedge", "capitals", "emoticon")
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # C of logistic regression, chosen on validation rows


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["sentiment4", "opinions"] = "sentiment4"
    rows: int = Field(0, ge=0, description="test rows of each domain; 0: all")
    train_share: float = Field(0.8, gt=0, lt=1, description="of the training rows; the rest is for validation")
    attacked: int = Field(300, ge=1, description="rows that each attack is run on")
    max_queries: int = Field(150, ge=2, description="of an attack, for a text")
    n_min: int = Field(30, ge=1, description="rows of the smallest slice that counts")
    encoder: Literal["minilm", "characters"] = Field("minilm", description="features of the second model")
    pair_train: int = Field(1000, ge=20, description="training rows of both models in two-models")
    pair_rows: int = Field(250, ge=10, description="test rows of films there, and of each other domain")
    pair_attacked: int = Field(25, ge=1)
    pair_queries: int = Field(30, ge=2)


def cell(cell: Cell) -> Mapping[str, float]:
    config: Config = cell.config
    if cell.arm in ("mandoline", "plain-estimate"):
        return estimates(cell.arm, cell.unit, config)
    if cell.arm == "two-models":
        return two_models(cell)
    published = cell.arm == "published-rates-bench"
    train, test = sample(config, "train", cell.unit), domain(config, first(config), "test")
    model, c = chosen(train)
    bench = new_bench(config, cell.unit, {"lr": model})
    if cell.arm in CONTROLS:
        sizes = [(one.category, len(one)) for one in bench.add(test, builders(config))]
        sizes += [("attack", min(config.attacked, len(test)))] * 2
        return random_slices(sizes, test, Predictor(model, LABELS, batch_size=1024), config, cell.unit)
    bench.add(test, [*builders(config, published=published), *attacks(config, config.attacked, config.max_queries)])
    report = bench.run()
    accuracy = whole(report, test.name, "lr")
    return {**drops(report.rows, accuracy), "accuracy": 100 * accuracy, "chosen_c": c, **named(report)}


# ---------------------------------------------------------------------------------------------------------------- slices


def builders(config: Config, rows: int = 0, *, published: bool = False) -> list[SliceBuilder]:
    """The slices of three categories: length and six patterns, six edits, the three other domains.

    published: the six of ReCode's edits that change what a model without upper case reads, at the paper's rates.
    """
    lexicon = lexicon_of(config)
    edits: list[TextEdit] = [
        ButterFingers(0.05), OCRErrors(0.05), Typos(0.2), SynonymSubstitution(0.3, lexicon=lexicon), OpeningPhrase(),
        Elongated(0.3),
    ]  # fmt: skip
    if published:
        edits = [
            ButterFingers(0.05), SwapCharacters(0.05), Whitespace(0.10, 0.05),
            SynonymSubstitution(0.5, senses=None, lexicon=lexicon), SynonymInsertion(0.5, senses=None, lexicon=lexicon),
            Chain((Whitespace(0.10, 0.05), ButterFingers(0.05))) if config.data == "opinions" else InflectionalVariation(),
        ]  # fmt: skip
    others = [name for name in domains(config) if name != first(config)]
    return [
        Length([("0%", "10%"), ("90%", "100%")]),
        *(HasPhrase(name) for name in PHRASES),
        # all rows, also those that an edit leaves: then their accuracy before it is the aggregate
        *(Transformation(edit, keep="all") for edit in edits),
        *(EvaluationSet(name, domain(config, name, "test", rows)) for name in others),
    ]


def attacks(config: Config, rows: int, queries: int) -> list[SliceBuilder]:
    greedy = GreedyWords(max_queries=queries, lexicon=lexicon_of(config))
    return [Attack(greedy, sample=rows), Attack(TextBugger(max_queries=queries), sample=rows)]


def lexicon_of(config: Config) -> Synonyms:
    return WORDNET if config.data == "sentiment4" else Lexicon(SYNONYMS)


def domains(config: Config) -> tuple[str, ...]:
    return DOMAINS if config.data == "sentiment4" else SMALL_DOMAINS


def first(config: Config) -> str:
    """Films: what is trained on."""
    return domains(config)[0]


def domain(config: Config, name: str, split: Literal["train", "test"], rows: int = 0) -> Table:
    """A domain's rows; the same ones whenever fewer are asked for."""
    if config.data == "sentiment4":
        table = sentiment_sentences(name, split)
    else:
        table = opinions(name, 400 if split == "train" else 250, seed=split == "test")
    wanted = [n for n in (rows, config.rows if split == "test" else 0) if n]
    return table.take(some_rows(table, min(wanted), 0)) if wanted else table


# ---------------------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Sample:
    """Texts and labels to train on, and to choose the regularisation on."""

    texts: list[str]
    labels: list[str]
    held_texts: list[str]
    held_labels: list[str]


def sample(config: Config, name: str, unit: int, *, of: str = "", most: int = 0) -> Sample:
    """The training rows of a unit, and the rest for validation."""
    table = domain(config, of or first(config), "train")
    order = numpy_generator(unit, "robustness-gym", name, table.name).permutation(len(table))
    cut = min(most or len(table), int(config.train_share * len(table)))
    held = order[cut : cut + max(200, cut // 4)]
    texts, labels = table.column("text"), table.column("label")
    return Sample(*([column[i] for i in rows.tolist()] for rows in (order[:cut], held) for column in (texts, labels)))


def tfidf(c: float) -> Pipeline:
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(vectors, LogisticRegression(C=c, class_weight="balanced", max_iter=2000))


def chosen(rows: Sample) -> tuple[Pipeline, float]:
    """TF-IDF of words and pairs of words with logistic regression; C is the best on the validation rows."""
    tried = [(tfidf(c).fit(rows.texts, rows.labels), c) for c in STRENGTHS]
    scores = [model.score(rows.held_texts, rows.held_labels) for model, _ in tried]
    return tried[int(np.argmax(scores))]


def new_bench(config: Config, unit: int, models: Mapping[str, Any]) -> Bench:
    bench = Bench(
        text_classification(list(LABELS)), seed=derive(unit, "robustness-gym") % 2**31, n_min=config.n_min, batch_size=1024
    )
    for name, model in models.items():
        bench.add_model(name, model)
    return bench


# --------------------------------------------------------------------------------------------------------------- metrics

SHORT = {
    "subpopulation": "subpopulation",
    "transformation": "transformation",
    "evaluation set": "evaluation_set",
    "attack": "attack",
}


def whole(report: Report, data: str, model: str) -> float:
    value = report.aggregates[data][model]["accuracy"].value
    assert value is not None
    return value


def drops(rows: Sequence[ReportRow], accuracy: float) -> dict[str, float]:
    """The largest significant drop of each category below `accuracy`, in points, and the smallest of the four."""
    found = {
        f"{short}_drop": max([0.0, *(hidden(row, accuracy) for row in rows if row.category == category)])
        for category, short in SHORT.items()
    }
    return {"weakest_category_hidden_drop": min(found.values()), **found}


def hidden(row: ReportRow, accuracy: float) -> float:
    if row.small or row.accuracy is None or row.compared is None or row.compared.p_holm > 0.05:
        return 0.0
    return 100 * (accuracy - row.accuracy)


def named(report: Report) -> dict[str, float]:
    """The accuracy of every slice, per cent."""
    return {f"accuracy {row.slice}": 100 * row.accuracy for row in report.rows if row.accuracy is not None and row.n}


def random_slices(
    sizes: Sequence[tuple[str, int]], test: Table, model: Predictor, config: Config, unit: int
) -> dict[str, float]:
    """For each slice, by category and size, as many random test rows, judged by the same rule."""
    correct = model(list(test.column("text"))).argmax(1) == np.array([model.place(one) for one in test.column("label")])
    made: list[tuple[str, float, float]] = []
    for i, (category, n) in enumerate(sizes):
        rng = numpy_generator(unit, "random slice", i)
        inside = np.zeros(len(test), bool)
        # a slice of all rows, or of another and larger set, would be the aggregate: half of the rows stand for it
        inside[rng.permutation(len(test))[: min(n, len(test) // 2)]] = True
        if n >= config.n_min:
            made.append((category, float(correct[inside].mean()), against_rest(inside, correct).p_value))
    adjusted = holm([p for *_, p in made])
    accuracy = float(correct.mean())
    largest = dict.fromkeys(SHORT.values(), 0.0)
    for (category, value, _), p in zip(made, adjusted, strict=True):
        if p <= 0.05:
            largest[SHORT[category]] = max(largest[SHORT[category]], 100 * (accuracy - value))
    found = {f"{short}_drop": value for short, value in largest.items()}
    return {"weakest_category_hidden_drop": min(found.values()), **found, "accuracy": 100 * accuracy}


# ------------------------------------------------------------------------------------------------------------ two models


def two_models(cell: Cell) -> dict[str, float]:
    """TF-IDF and the encoder on the same rows: is there a slice where the model that is behind overall is ahead?"""
    config: Config = cell.config
    rows = sample(config, "pair", cell.unit, most=config.pair_train)
    lr, _ = chosen(rows)
    features = encoder(config, cell)
    best, head = -1.0, None
    x, held = features(rows.texts), features(rows.held_texts)
    for c in STRENGTHS:
        one = LogisticRegression(C=c, class_weight="balanced", max_iter=2000).fit(x, rows.labels)
        if (score := one.score(held, rows.held_labels)) > best:
            best, head = score, one
    assert head is not None
    fitted = head
    order = [list(fitted.classes_).index(label) for label in LABELS]

    def second(texts: list[str]) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = fitted.predict_proba(features(texts))[:, order]
        return found

    test = domain(config, first(config), "test", config.pair_rows)
    bench = new_bench(config, cell.unit, {"lr": lr, "encoder": second})
    bench.add(test, [*builders(config, config.pair_rows // 2), *attacks(config, config.pair_attacked, config.pair_queries)])
    report = bench.run()
    ahead, behind = sorted(("lr", "encoder"), key=lambda name: -whole(report, test.name, name))
    flips = 0
    for name in dict.fromkeys(row.slice for row in report.rows):
        a, b = report.row(name, ahead), report.row(name, behind)
        if a.small or b.small or a.accuracy is None or b.accuracy is None:
            continue
        flips += b.accuracy > a.accuracy
    of_encoder = drops([row for row in report.rows if row.model == "encoder"], whole(report, test.name, "encoder"))
    return {
        "ranking_flips": float(flips),
        "accuracy": 100 * whole(report, test.name, "lr"),
        "encoder_accuracy": 100 * whole(report, test.name, "encoder"),
        **{f"encoder_{key}": value for key, value in of_encoder.items()},
    }


def encoder(config: Config, cell: Cell) -> Any:
    """texts -> features (n, F): MiniLM's sentence vectors, or, for smoke, character n-grams."""
    if config.encoder == "characters":
        table = domain(config, first(config), "train")
        vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit(table.column("text"))
        return lambda texts: vectors.transform(texts)
    from tutelage.data.fetch import weights_folder

    folder = weights_folder("minilm")
    known: dict[str, npt.NDArray[np.float32]] = {}

    def features(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh:
            known.update(zip(fresh, sentence_vectors(folder, fresh), strict=True))
        return np.stack([known[text] for text in texts])

    return features


_LOADED: dict[Path, Any] = {}


def sentence_vectors(folder: Path, texts: list[str], batch: int = 64) -> npt.NDArray[np.float32]:
    """(n, 384): the mean of the token vectors under the mask, length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    if folder not in _LOADED:
        _LOADED[folder] = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    tokenizer, model = _LOADED[folder]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of one length together: less padding
    found = np.zeros((len(texts), 384), np.float32)
    with torch.no_grad():
        for start in range(0, len(texts), batch):
            places = order[start : start + batch]
            coded = tokenizer([texts[i] for i in places], padding=True, truncation=True, max_length=64, return_tensors="pt")
            mask = coded["attention_mask"][..., None]
            mean = (model(**coded).last_hidden_state * mask).sum(1) / mask.sum(1)
            found[places] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return found


# ------------------------------------------------------------------------------------------------------------- mandoline


def estimates(arm: str, unit: int, config: Config) -> dict[str, float]:
    """Mean absolute error, in points, of the estimated accuracy on the test rows of another domain, over 12 ordered pairs.

    The source is the validation rows of the domain that was trained on. Slices: length, and the patterns of the bench.
    """
    sliced: list[Any] = [
        Length([(0, 8), (9, 16), (17, 999)]),
        *(HasPhrase(name) for name in (*PHRASES, "exclamation", "question")),
    ]

    def graph(texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        table = Table({"text": list(texts), "label": [""] * len(texts)}, tuple(map(str, range(len(texts)))))
        return np.concatenate([one(table).membership for one in sliced], 1)

    errors, moved = [], []
    for source in domains(config):
        rows = sample(config, "mandoline", unit, of=source)
        model, _ = chosen(rows)
        right = np.asarray(model.predict(rows.held_texts)) == np.asarray(rows.held_labels)
        own = graph(rows.held_texts)
        for target in domains(config):
            if target == source:
                continue
            other = domain(config, target, "test")
            truth = float(model.score(other.column("text"), other.column("label")))
            found = mandoline(own, graph(other.column("text")), right)
            value = found.estimate if arm == "mandoline" else found.plain
            errors.append(abs(value - truth))
            moved.append(abs(found.estimate - found.plain))
    return {"estimate_error": 100 * math.fsum(errors) / len(errors), "moved": 100 * math.fsum(moved) / len(moved)}


def data(config: Config) -> list[dict[str, Any]]:
    if config.data == "sentiment4":
        found = sentiment_sets()
        for name in ("wordnet", "minilm"):  # synonyms, and the second model
            files = HOMES[name].files
            digest = sha256_text(",".join(file.sha256 for file in files))
            found.append({"name": name, "kind": "file", "split": "", "n": len(files), "sha256": digest})
        return found
    made = {"kind": "generated", "generator": "tutelage.data.worlds.opinions", "version": 1, "split": "train and test"}
    return [{"name": f"opinions ({name})", "n": 650, **made} for name in SMALL_DOMAINS]


CLAIM = Claim(
    slug="robustness-gym",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            data="opinions", rows=120, attacked=30, max_queries=30, n_min=5, encoder="characters", pair_train=80, pair_rows=60,
            pair_attacked=10, pair_queries=20,
        ),
        "claim": Config(),
        "paper": Config(attacked=2000, max_queries=500, pair_train=8000, pair_rows=2000, pair_attacked=500, pair_queries=200),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "With the six edits of ReCode at its rates in place of ours, all four categories hide at least 5 points.",
            "weakest_category_hidden_drop", "published-rates-bench", kind="threshold", margin=5.0,
        ),
        Sentence(
            "Some subpopulation of film sentences is at least 5 points below the aggregate.",
            "subpopulation_drop", "four-category-bench", kind="threshold", margin=5.0,
        ),
        Sentence(
            "Some edit that keeps the label costs at least 5 points.",
            "transformation_drop", "four-category-bench", kind="threshold", margin=5.0,
        ),
        Sentence(
            "Some other domain is at least 5 points below films.",
            "evaluation_set_drop", "four-category-bench", kind="threshold", margin=5.0,
        ),
        Sentence(
            "Some attack costs at least 5 points.",
            "attack_drop", "four-category-bench", kind="threshold", margin=5.0,
        ),
        Sentence(
            "TF-IDF and MiniLM: on at least one slice the model that is behind overall is ahead.",
            "ranking_flips", "two-models", kind="threshold", margin=0.0,
        ),
        Sentence(
            "Mandoline's estimate of the accuracy on another domain is nearer to the truth than the plain one, over 12 pairs.",
            "estimate_error", "mandoline", "plain-estimate", better="lower",
        ),
    ),
    axes=("accuracy", "weakest_category_hidden_drop"),
    metric_labels={
        "weakest_category_hidden_drop": "drop that the aggregate hides, weakest category, points",
        "accuracy": "accuracy on all film sentences, %",
        "estimate_error": "error of the estimated accuracy, points",
    },
)  # fmt: skip
