"""Robustness Gym: subpopulations, transformations, evaluation sets and attacks of a classifier in one comparable report.

For whoever has data, a predict function and suspicions: texts with a negation, with slips of the keyboard, from another
shop, made to fool the model. Every kind of slice becomes one row with the same numbers, in a bench that colleagues run on
other models, and a test for CI. Values need not be texts: whatever the model takes.

    Goel, Rajani, Vig, Tan, Wu, Zheng, Xiong, Bansal, Re: Robustness Gym: Unifying the NLP Evaluation Landscape,
    arXiv 2101.04840 (2021), NAACL 2021 demonstrations.

A slice builder B with K identifiers takes data D of N examples x_i with labels y_i, and columns, to slices and a membership:

    B(D, columns) -> (S_1, ..., S_K), M in {0, 1}^(N x K)                                                     (1)
    union: M' = any over the columns of M, intersection: M' = all                                             (2)

1 Subpopulation: views of D. Percentile bounds are those of the scores of all of D, closed on both ends. 2 Transformation:
x' = T(x, r) with a stream r of the example's own; rows where T was refused or changed nothing have M = 0; the label is kept,
mapped, or unknown, and then enters no accuracy. 3 Attack: the same, made against a model, on examples that it has
right; accuracy is over all rows. 4 Evaluation set: other data under the same classes.
Cached operations store what is computed for an example under (operation, parameters, columns, example); each slice keeps
its lineage [data] -> [builder(parameters) @ column] -> ...

What we add: intervals (Wilson; bootstrap), exact tests (McNemar against the same rows before an edit, Fisher against the
rest of the data), Holm's correction over the slices of a model, `discover`, and Mandoline (arXiv 2107.00643): with g in
{-1, 0, 1}^K the memberships of a row,

    max_w  w . mean_target(g) - log mean_source exp(w . g),   weight_i ~ exp(w . g_i)                         (3)

and the estimate is the weighted mean of the metric.

The released package counts refused edits out of a slice, as here; it joins predictions by position, here they go by id.

Example::

    from tutelage.data.worlds.opinions import SYNONYMS, opinions
    from tutelage.methods.audit.robustness_gym import Bench, HasPhrase, Length, text_classification
    from tutelage.threats.text import GreedyWords, Lexicon, Typos

    def predict(texts):  # your model: texts -> probabilities
        sad = [any(word in text for word in ("bad", "poor", "weak", "dull", "not")) for text in texts]
        return [[0.9, 0.1] if one else [0.2, 0.8] for one in sad]

    bench = Bench(text_classification(["negative", "positive"]), n_min=10)
    bench.add_model("words", predict)
    attack = GreedyWords(lexicon=Lexicon(SYNONYMS))  # WordNet without the table: tutelage data get wordnet
    bench.add(opinions("films", 200), [Length([("0%", "10%"), ("90%", "100%")]), HasPhrase("negation"), Typos(0.3), attack])
    report = bench.run()
    print(report.to_markdown())
    print(report.check({"negation": {"accuracy": ">=0.5"}}).lines)
"""

from tutelage.methods.audit.robustness_gym.bench import Bench, Task, text_classification
from tutelage.methods.audit.robustness_gym.discovery import Discovered, discover
from tutelage.methods.audit.robustness_gym.families import (
    PHRASES,
    Confidence,
    Entities,
    HasPhrase,
    LabelIs,
    Length,
    OperationBuckets,
    ScoreBuckets,
    has_words,
    lexical_overlap_buckets,
    subsequence,
)
from tutelage.methods.audit.robustness_gym.mandoline import Mandoline, mandoline
from tutelage.methods.audit.robustness_gym.measure import Compared, Measured
from tutelage.methods.audit.robustness_gym.operations import CachedOperation, Store
from tutelage.methods.audit.robustness_gym.report import CheckResult, Diff, Report, ReportRow, compare
from tutelage.methods.audit.robustness_gym.slices import (
    Attack,
    EvaluationSet,
    Slice,
    SliceBuilder,
    SliceSet,
    Subpopulation,
    Then,
    Transformation,
    intersection,
    subpopulation,
    union,
)

__all__ = [
    "PHRASES",
    "Attack",
    "Bench",
    "CachedOperation",
    "CheckResult",
    "Compared",
    "Confidence",
    "Diff",
    "Discovered",
    "Entities",
    "EvaluationSet",
    "HasPhrase",
    "LabelIs",
    "Length",
    "Mandoline",
    "Measured",
    "OperationBuckets",
    "Report",
    "ReportRow",
    "ScoreBuckets",
    "Slice",
    "SliceBuilder",
    "SliceSet",
    "Store",
    "Subpopulation",
    "Task",
    "Then",
    "Transformation",
    "compare",
    "discover",
    "has_words",
    "intersection",
    "lexical_overlap_buckets",
    "mandoline",
    "subpopulation",
    "subsequence",
    "text_classification",
    "union",
]
