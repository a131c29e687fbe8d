"""Intervals, tests and verdicts: the only place where a number of this project gets its uncertainty.

Every function takes plain numbers or one-dimensional sequences with one entry for each independent unit (a seed, an
image, a trial), returns Python floats that are always finite, and raises `InputError` for what it cannot use. Where a
function takes more (rows, clusters) or may return more (arrays, infinity, None), its docstring says so.
"""

from tutelage.core.stats.interval import Interval
from tutelage.core.stats.many import holm
from tutelage.core.stats.means import PairedT, mean_t, paired_t
from tutelage.core.stats.proportions import McNemar, clopper_pearson, mcnemar, newcombe_paired, wilson
from tutelage.core.stats.resampling import bootstrap
from tutelage.core.stats.verdicts import Decision, Kind, Verdict, decide

__all__ = [
    "Decision",
    "Interval",
    "Kind",
    "McNemar",
    "PairedT",
    "Verdict",
    "bootstrap",
    "clopper_pearson",
    "decide",
    "holm",
    "mcnemar",
    "mean_t",
    "newcombe_paired",
    "paired_t",
    "wilson",
]
