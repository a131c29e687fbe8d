"""Intervals, tests and verdicts: the only place where a number of this project gets its uncertainty.

Every function takes plain numbers or one-dimensional sequences with one entry for each independent unit (a seed, an
image, a trial), returns Python floats that are always finite, and raises `InputError` for what it cannot use. Where a
function takes more (rows, clusters) or may return more (arrays, infinity, None), its docstring says so.
"""

from tutelage.core.stats.bounded import empirical_bernstein, empirical_bernstein_rows, hoeffding, hoeffding_mean, hoeffding_rows
from tutelage.core.stats.conformal import conformal_coverage, conformal_quantile, conformal_rank
from tutelage.core.stats.interval import Interval, Intervals, Side
from tutelage.core.stats.many import WorstOverSeeds, holm, worst_over_seeds
from tutelage.core.stats.means import PairedT, mean_t, paired_t
from tutelage.core.stats.proportions import McNemar, clopper_pearson, mcnemar, newcombe_paired, pass_at_k, wilson
from tutelage.core.stats.ranks import Wilcoxon, wilcoxon
from tutelage.core.stats.resampling import bootstrap, cluster_bootstrap
from tutelage.core.stats.roc import auroc_interval, average_precision_interval, fpr_interval
from tutelage.core.stats.verdicts import Decision, Kind, Verdict, decide

__all__ = [
    "Decision",
    "Interval",
    "Intervals",
    "Kind",
    "McNemar",
    "PairedT",
    "Side",
    "Verdict",
    "Wilcoxon",
    "WorstOverSeeds",
    "auroc_interval",
    "average_precision_interval",
    "bootstrap",
    "clopper_pearson",
    "cluster_bootstrap",
    "conformal_coverage",
    "conformal_quantile",
    "conformal_rank",
    "decide",
    "empirical_bernstein",
    "empirical_bernstein_rows",
    "fpr_interval",
    "hoeffding",
    "hoeffding_mean",
    "hoeffding_rows",
    "holm",
    "mcnemar",
    "mean_t",
    "newcombe_paired",
    "paired_t",
    "pass_at_k",
    "wilcoxon",
    "wilson",
    "worst_over_seeds",
]
