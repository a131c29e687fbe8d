"""Robust MLOps: may this model ship, is it still good, and what to go back to? A gate, a monitor and a model card, with known
errors.

For whoever puts models into production. The gate measures a candidate and the champion of today on the same items and says
pass, fail or inconclusive, with an exit code for CI and a bundle of evidence that can be judged again. The monitor looks at a
stream chunk by chunk. Whatever framework the models were made with: a file of predictions is enough.

    Bayram, Ahmed: Towards Trustworthy Machine Learning in Production: An Overview of the Robustness in MLOps Approach,
    arXiv 2410.21346 (2024), ACM Computing Surveys.

The paper is a survey without an algorithm or a figure of its own; the ten features were derived from it: data validation (F1),
drift (F2), accuracy without labels (F3), gates (F4), lineage (F5), registry (F6), rollback (F7), reports (F8), repeated looks
(F9), the attack surface (F10). Gates: of d_i, c_i in {0, 1}, right or wrong of candidate and champion on item i of n,

    D = mean(d_i - c_i);  pass if lower >= -delta, fail if upper < -delta, else inconclusive                (1)

with one-sided limits at level 1 - alpha each, where Tango's (1998) score statistic is ±z(alpha); b and c items that only one
of the models has right, and q the share of c under the restriction that the difference is -delta:

    T = (b - c + n delta) / sqrt(n (2 q - delta (1 + delta)))                                               (2)

A fall of accuracy below mu on a stream of right (1) and wrong (0) x_t is tested by an e-process, for bets 0 <= b < 1/(1 - mu):

    E_t = mean over b of prod_{s <= t} (1 + b (mu - x_s));  P(ever E_t >= 1/alpha) <= alpha without a fall  (3)

Accuracy without labels by ATC: t such that the share of reference confidences above t is the accuracy there (4); the estimate
is the share of new confidences above t. Drift: KS or chi-squared a column, adjusted by Holm, and an effect that matters (5):

    PSI = sum_j (q_j - p_j) ln(q_j / p_j), ten quantile bins of the reference, floor 1e-4                   (6)

Where the card names the paired bootstrap or McNemar's test for (1), the score interval is the default here: it inverts
McNemar's test, needs no random numbers and does not pass 20 items on which both models agree. `method: bootstrap` is the other.

Example::

    import numpy as np
    from tutelage.methods.audit.robust_mlops import evidence_of_answers, gate

    rng = np.random.default_rng(0)
    champion = rng.random(6000) < 0.92  # what was right, item by item
    candidate = np.where(rng.random(6000) < 0.02, ~champion, champion)
    policy = {"gates": [{"metric": "clean", "rule": "min", "value": 0.85},
                        {"metric": "clean", "rule": "noninferior", "delta": 0.03}]}
    result = gate(policy, evidence_of_answers("new", candidate), evidence_of_answers("old", champion))
    print(result.status, result.exit_code, [one.reason for one in result.verdict.outcomes])
"""

from tutelage.methods.audit.robust_mlops.bundle import Bundle, replay
from tutelage.methods.audit.robust_mlops.columns import as_columns, chunks, sha256_columns
from tutelage.methods.audit.robust_mlops.drift import DriftReport, drift
from tutelage.methods.audit.robust_mlops.estimate import Estimate, calibration_error, estimate_accuracy
from tutelage.methods.audit.robust_mlops.gating import GateResult, gate, make_profile, validate
from tutelage.methods.audit.robust_mlops.judge import Evidence, Measured, Outcome, Verdict, judge
from tutelage.methods.audit.robust_mlops.lineage import Lineage, hash_of
from tutelage.methods.audit.robust_mlops.measure import evidence_of_answers, evidence_of_audit
from tutelage.methods.audit.robust_mlops.monitor import Decision, Hysteresis, Monitor, column_predictor
from tutelage.methods.audit.robust_mlops.policy import Policy, read_policy
from tutelage.methods.audit.robust_mlops.profile import Finding, Profile, find_leakage, find_leaking_columns
from tutelage.methods.audit.robust_mlops.registry import MlflowRegistry, Registry, Version
from tutelage.methods.audit.robust_mlops.reports import model_card, write_reports
from tutelage.methods.audit.robust_mlops.serving import InputGuard, check_model_file

__all__ = [
    "Bundle",
    "Decision",
    "DriftReport",
    "Estimate",
    "Evidence",
    "Finding",
    "GateResult",
    "Hysteresis",
    "InputGuard",
    "Lineage",
    "Measured",
    "MlflowRegistry",
    "Monitor",
    "Outcome",
    "Policy",
    "Profile",
    "Registry",
    "Verdict",
    "Version",
    "as_columns",
    "calibration_error",
    "check_model_file",
    "chunks",
    "column_predictor",
    "drift",
    "estimate_accuracy",
    "evidence_of_answers",
    "evidence_of_audit",
    "find_leakage",
    "find_leaking_columns",
    "gate",
    "hash_of",
    "judge",
    "make_profile",
    "model_card",
    "read_policy",
    "replay",
    "sha256_columns",
    "validate",
    "write_reports",
]
