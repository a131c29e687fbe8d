"""Teacher hacking: does the student come nearer to its teacher, or to the truth?

For whoever distils a language model. The teacher only stands for the law of the texts that are meant. Trained for long on a
fixed set of its answers, a student can come nearer to the teacher and go away from the truth. `distill` trains a student on
offline or on-policy answers, and a `HackingMonitor` beside it tells when that happens, with an oracle or without one.

    Tiapkin, Calandriello, Ferret, Perrin, Vieillard, Ramé, Blondel: On Teacher Hacking in Language Model Distillation,
    arXiv 2502.02671 (2025). Sources of answers and the divergence JSD: Agarwal et al., arXiv 2306.13649.

At a prefix h let p = t(.|h) be the teacher's law of the next token and q = s(.|h) the student's; all at temperature 1:

    forward KL  sum_v p_v (log p_v - log q_v),     reverse KL  sum_v q_v (log q_v - log p_v)                     (1)
    JSD(b)      b KL(p || m) + (1 - b) KL(q || m),  m = b p + (1 - b) q                                          (2)

Stage 1 (controlled set-up): an oracle o writes answers; teacher and student are fine-tuned on them by maximum likelihood   (3)
Stage 2, distillation with a source nu of answers y (offline, online_teacher, online_student, or a mixture):

    L(theta) = E_x E_{y ~ nu(.|x)} [ 1/|y| sum_i l( t(.|x, y_<i), s_theta(.|x, y_<i) ) ]                         (4)

Measured on prompts that are held out, with answers y that the *reference* r drew once, so that curves have no sampling noise:

    D(r, s) = E_x E_{y ~ r(.|x)} [ 1/|y| sum_i KL( r(.|x, y_<i) || s(.|x, y_<i) ) ]                              (5)
    proxy = D(t, s),  golden = D(o, s),  teacher gap = D(o, t)

and with the sum over i in place of the mean: the KL of the laws of whole answers, by the chain rule.

    hacking: there are epochs e0 < e1 with proxy(e1) <= proxy(e0) and golden(e1) > golden(e0) + 2 s.e.           (6)

where s.e. is that of the paired differences of the answers (their bootstrap). Without an oracle:

    log proxy(e) = a - c log e on the first window that fits; a point is out if its residual exceeds
    k sigma sqrt(1 + 1/n + (log e - mean)^2 / Sxx); several in a row have left the power law.                    (7), (8)

The paper shows the log-log plot only; the statistic is ours, and a departure is a suspicion, not a proof.

Example::

    import torch
    from tutelage.methods.distill.teacher_hacking import HackingMonitor, NGramTable, distill, fine_tune, freeze_answers
    from tutelage.models.language import NGramLM, TinyGPT
    from tutelage.models.language.next_token import Padded

    text = "the cat sat on the mat and the dog sat on the cat " * 20
    letters = sorted(set(text))
    oracle = NGramTable.of(NGramLM.fit([text], order=3), [None, None, None, *letters])  # ids 0-2: pad, bos, eos of TinyGPT
    prompts = [[3 + letters.index(c) for c in text[at : at + 4]] for at in range(0, 300, 3)]
    answers = freeze_answers(oracle, Padded.left(prompts), 8, seed=0, name="truth").rows()
    teacher, student = (TinyGPT.new("".join(letters), layers=1, width=16, heads=2, context=16, seed=seed) for seed in (1, 2))
    fine_tune(teacher, prompts[:60], answers[:60], epochs=8, lr=0.01)
    monitor = HackingMonitor(teacher, oracle, val_prompts=prompts[70:], max_new=8)
    run = distill(student, teacher, prompts[:16], source="offline", epochs=12, lr=0.01, max_new=8, monitor=monitor)
    print(run.report.verdict, run.report.golden[-1], run.report.teacher_gap)
"""

from tutelage.methods.distill.teacher_hacking.distillation import DistillRun, distill, fine_tune
from tutelage.methods.distill.teacher_hacking.monitor import HackingMonitor, HackingReport
from tutelage.methods.distill.teacher_hacking.powerlaw import PowerLaw, fit_power_law
from tutelage.methods.distill.teacher_hacking.report import curves_figure, write_hacking_report
from tutelage.models.language.next_token import NGramTable
from tutelage.teaching.language.on_policy import Source, freeze_answers

__all__ = [
    "DistillRun",
    "HackingMonitor",
    "HackingReport",
    "NGramTable",
    "PowerLaw",
    "Source",
    "curves_figure",
    "distill",
    "fine_tune",
    "fit_power_law",
    "freeze_answers",
    "write_hacking_report",
]
