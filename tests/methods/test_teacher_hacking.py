"""Teacher hacking: the invariants of the card, the verdict on curves made by hand, the detector, resuming, refusals."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.core.errors import InputError, Interrupted
from tutelage.methods.distill.teacher_hacking import (
    HackingMonitor,
    HackingReport,
    distill,
    fine_tune,
    fit_power_law,
    freeze_answers,
    write_hacking_report,
)
from tutelage.models.language import NGramLM, TinyGPT
from tutelage.models.language.next_token import NGramTable, Padded
from tutelage.teaching.language import token_divergences

pytest.importorskip("transformers")

LENGTH = 5
TEXTS = ["abcabcbac", "bcaabcc", "cabacab", "acbbca"]


def gpt(seed: int = 0, **settings: Any) -> TinyGPT:
    return TinyGPT.new("abc", layers=1, width=8, heads=2, context=16, seed=seed, **settings)


def table(order: int = 3, texts: list[str] = TEXTS, strength: float = 0.5) -> NGramTable:
    return NGramTable.of(NGramLM.fit(texts, order=order, strength=strength), [None, None, None, "a", "b", "c"], end=2)


def prompts(n: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 6, size=rng.integers(1, 4)).tolist() for _ in range(n)]


def monitor(teacher: Any, oracle: Any = None, **settings: Any) -> HackingMonitor:
    return HackingMonitor(teacher, oracle, val_prompts=prompts(24, 9), max_new=LENGTH, **settings)


# ------------------------------------------------------------------------------------------------- 1, 6: distances


def test_a_copy_of_the_teacher_has_proxy_zero_and_the_teacher_gap_as_golden():
    teacher = gpt(1)
    found = monitor(teacher, table())
    at = found.measure(TinyGPT(copy.deepcopy(teacher.model), teacher.tokenizer), 0)
    assert at["proxy"] == pytest.approx(0.0, abs=1e-6)
    assert found.gap is not None
    assert at["golden"] == pytest.approx(float(found.gap.mean()), rel=1e-6)
    assert at["golden"] > 0.1


def test_golden_is_zero_only_at_the_oracle_itself():
    oracle = table()
    found = monitor(gpt(1), oracle)
    assert found.measure(oracle, 0)["golden"] == pytest.approx(0.0, abs=1e-7)
    for student in (table(order=2), gpt(2), gpt(3)):
        found.measure(student, len(found.epochs))
    mean, total = (np.stack([pair[i] for pair in found.seen["oracle"]]) for i in (0, 1))
    assert (mean >= -1e-7).all()
    assert (mean[1:].mean(1) > 0.01).all()
    assert (total >= mean - 1e-7).all(), "a whole answer has one token at least"


class Law:
    """Two tokens over three ids, every probability written down."""

    size, ends, tokens = 3, frozenset[int](), None

    def __init__(self, seed: int) -> None:
        stream = torch.Generator().manual_seed(seed)
        self.first = torch.randn(3, generator=stream).log_softmax(0)
        self.second = torch.randn(3, 3, generator=stream).log_softmax(1)

    def log_probs(self, given: Padded, answers: Padded) -> Tensor:
        second = self.second[answers.ids[:, 0]]
        return torch.stack([self.first.expand(len(answers), 3), second], 1)[:, : answers.width]

    def sample(self, given: Padded, max_new: int, *, seeds: Any, temperature: float = 1.0) -> Padded:
        raise NotImplementedError


def test_the_sum_of_token_divergences_over_all_sequences_is_the_divergence_of_the_sequences():
    t, s = Law(0), Law(1)
    pairs = list(itertools.product(range(3), repeat=2))
    answers, given = Padded.right(pairs), Padded.left([[0]] * 9)
    each = token_divergences(t.log_probs(given, answers), s.log_probs(given, answers)).sum(1)
    probability = torch.tensor([math.exp(float(t.first[a] + t.second[a, b])) for a, b in pairs])
    whole = torch.tensor([float(t.first[a] + t.second[a, b] - s.first[a] - s.second[a, b]) for a, b in pairs])
    assert float((probability * each).sum()) == pytest.approx(float((probability * whole).sum()), rel=1e-5)


def test_distances_are_means_over_the_tokens_of_a_row_and_their_sums_by_hand():
    found = monitor(table(), table())
    found.measure(table(order=1), 0)
    law, other = found.laws["oracle"], table(order=1)
    answer = law.answers[torch.tensor([3])].rows()[0]
    prompt = law.prompts[torch.tensor([3])].rows()[0]
    terms = []
    for at in range(len(answer)):
        p, q = (m.log_probs(Padded.left([prompt]), Padded.right([answer]))[0, at].double() for m in (table(), other))
        kept = p > -math.inf
        terms.append(float((p[kept].exp() * (p[kept] - q[kept])).sum()))
    mean, total = found.seen["oracle"][0]
    assert total[3] == pytest.approx(sum(terms), rel=1e-5)
    assert mean[3] == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_what_an_answer_ends_with_is_scored_too():
    found = monitor(table(), table())
    answers = found.laws["oracle"].answers.rows()
    assert any(row[-1] == 2 and len(row) < LENGTH for row in answers)
    assert all(2 not in row[:-1] for row in answers)


# ------------------------------------------------------------------------------------------------- 2: divergences


def test_jsd_tends_to_the_kl_divergences_and_is_at_most_log_2():
    p, q = (torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    # b -> 0: JSD / b -> KL(p || q); b -> 1: JSD / (1 - b) -> KL(q || p)
    small, large = (token_divergences(p.double(), q.double(), kind="jsd", beta=b) for b in (1e-3, 1 - 1e-3))
    assert torch.allclose(small / 1e-3, token_divergences(p, q, kind="forward"), rtol=0.02)
    assert torch.allclose(large / 1e-3, token_divergences(p, q, kind="reverse"), rtol=0.02)
    far = token_divergences(torch.tensor([[[99.0, 0.0]]]), torch.tensor([[[0.0, 99.0]]]), kind="jsd")
    assert float(far) == pytest.approx(math.log(2), rel=1e-5)
    half = token_divergences(p, q, kind="jsd")
    assert bool(((half >= 0) & (half <= math.log(2))).all())


# ---------------------------------------------------------------------------------------------- 4, 7, 8: training


def run(source: Any = "offline", **settings: Any) -> Any:
    student, teacher = gpt(2), gpt(1)
    watch = monitor(teacher, table(), every=2)
    settings = {"epochs": 4, "batch_size": 4, "lr": 0.01, "max_new": LENGTH, **settings}
    return distill(student, teacher, prompts(8), source=source, monitor=watch, **settings)


def test_offline_data_stay_and_online_data_do_not():
    assert len(set(run("offline").data_hashes)) == 1
    assert len(set(run("online_teacher").data_hashes)) == 4
    assert len(set(run("online_student").data_hashes)) == 4


def test_more_answers_to_a_prompt_at_equal_size_are_fewer_prompts():
    given = prompts(8)
    for generations in (1, 2, 4):
        found = distill(gpt(2), gpt(1), given, source="offline", generations=generations, size=8, epochs=1, max_new=2)
        assert found.prompts == len({tuple(one) for one in given[: 8 // generations]})
        assert found.steps == 1, "a batch of 32 holds the eight answers"


@pytest.mark.parametrize("source", ["offline", "online_student"])
def test_the_same_seed_gives_the_same_curves(source: str):
    first, second, other = run(source), run(source), run(source, seed=5)
    assert first.report.proxy == second.report.proxy
    assert first.report.golden == second.report.golden
    assert first.report.proxy != other.report.proxy
    assert first.report.epochs == (0, 1, 2, 4)


def test_a_run_that_was_stopped_goes_on_to_the_same_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = run("online_student")
    student, teacher = gpt(2), gpt(1)
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 4, "lr": 0.01, "max_new": LENGTH, "checkpoint": tmp_path}
    measure = HackingMonitor.measure

    def stop(self: HackingMonitor, lm: Any, epoch: int, **more: Any) -> dict[str, float]:
        if epoch == 4:
            raise Interrupted("here")
        return measure(self, lm, epoch, **more)

    monkeypatch.setattr(HackingMonitor, "measure", stop)
    first = monitor(teacher, table(), every=2)
    with pytest.raises(Interrupted):
        distill(student, teacher, prompts(8), source="online_student", monitor=first, **settings)
    monkeypatch.setattr(HackingMonitor, "measure", measure)
    again = gpt(2)
    found = distill(again, teacher, prompts(8), source="online_student", monitor=monitor(teacher, table(), every=2), **settings)
    assert found.resumed_from
    assert found.report is not None
    assert (found.report.epochs, found.report.proxy, found.report.golden) == (
        whole.report.epochs,
        whole.report.proxy,
        whole.report.golden,
    )
    assert found.data_hashes == whole.data_hashes
    for a, b in zip(again.model.parameters(), whole.student.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_teacher_stays_as_it_is():
    teacher = gpt(1)
    before = copy.deepcopy(teacher.model.state_dict())
    distill(gpt(2), teacher, prompts(4), source="online_teacher", epochs=1, max_new=3, loss="jsd:0.5")
    assert all(torch.equal(before[key], value) for key, value in teacher.model.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_stage_one_teaches_the_oracle_and_stage_two_the_teacher():
    oracle, teacher, student = table(), gpt(1), gpt(2)
    many = prompts(96, 3)
    fine_tune(teacher, many, freeze_answers(oracle, Padded.left(many), LENGTH, seed=0, name="o").rows(), epochs=10, lr=0.02)
    watch = monitor(teacher, oracle, every=10)
    assert watch.gap is not None
    found = distill(student, teacher, prompts(16), epochs=30, batch_size=16, lr=0.02, max_new=LENGTH, monitor=watch)
    assert found.report is not None
    assert found.report.golden is not None
    assert found.report.proxy[-1] < 0.4 * found.report.proxy[0]
    assert found.report.golden[-1] < 0.6 * found.report.golden[0]


def test_a_seq2seq_student_is_taught_by_a_seq2seq_teacher():
    import transformers

    def t5(seed: int) -> Any:
        torch.manual_seed(seed)
        config = transformers.T5Config(
            vocab_size=6, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0, eos_token_id=2
        )
        return transformers.T5ForConditionalGeneration(config)

    teacher, student = t5(0), t5(1)
    watch = monitor(teacher, every=5)
    found = distill(student, teacher, prompts(8), epochs=10, lr=0.02, max_new=LENGTH, monitor=watch, loss="rkl")
    assert found.report is not None
    assert found.report.golden is None
    assert found.report.proxy[-1] < found.report.proxy[0]


# ------------------------------------------------------------------------------------------------------ the verdict


def judged(proxy: list[float], golden: list[float], spread: float = 0.0, **settings: Any) -> HackingReport:
    """A monitor whose curves are these; `spread`: of the paired differences of the answers of neighbouring points."""
    found = monitor(gpt(1), table(), **settings)
    wave = np.where(np.arange(24) % 2, 1.0, -1.0)
    for epoch, (p, g) in enumerate(zip(proxy, golden, strict=True)):
        found.epochs.append(epoch)
        found.train.append(math.nan if epoch == 0 else p)
        found.seen["teacher"].append((np.full(24, p), np.full(24, p * LENGTH)))
        row = g + epoch * spread * wave
        found.seen["oracle"].append((row, row * LENGTH))
    return found.report(source="offline")


def test_hacking_is_nearer_to_the_teacher_and_farther_from_the_oracle():
    found = judged([1.0, 0.8, 0.6, 0.5, 0.4], [2.0, 1.5, 1.2, 1.3, 1.4])
    assert (found.verdict, found.since_epoch, found.first_epoch, found.stop_at) == ("hacking", 2, 3, 2)
    assert found.excess == pytest.approx(0.2)
    assert found.excess_interval == pytest.approx((0.2, 0.2))
    assert any("epoch 2" in one for one in found.advice)
    assert any("online_student" in one for one in found.advice)


def test_a_student_that_leaves_both_is_not_hacking():
    assert judged([1.0, 0.8, 0.6, 0.7, 0.8], [2.0, 1.5, 1.2, 1.3, 1.4]).verdict == "none"


def test_a_golden_distance_that_falls_is_no_hacking():
    found = judged([1.0, 0.8, 0.6], [2.0, 1.5, 1.2])
    assert (found.verdict, found.first_epoch, found.stop_at) == ("none", None, 2)
    assert found.advice == ("The golden distance was still falling at the end.",)


def test_a_rise_within_its_error_is_undecided_and_a_tiny_one_is_none():
    # the difference of the last two points is 0.05 +- spread / sqrt(24)
    assert judged([1.0, 0.9], [1.0, 1.05], spread=0.2).verdict == "undecided"
    assert judged([1.0, 0.9], [1.0, 1.05], spread=0.1).verdict == "hacking"
    assert judged([1.0, 0.9], [1.0, 1.0001], spread=0.01).verdict == "none"
    assert judged([1.0, 0.9], [1.0, 1.0001], spread=0.01, smallest_rise=0.0).verdict == "undecided"


# ----------------------------------------------------------------------------------------------------- 5: power law

GRID = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]


def test_an_exact_power_law_is_never_flagged():
    found = fit_power_law(GRID, [3.0 * e**-0.5 for e in GRID])
    assert found.flagged is None
    assert found.c == pytest.approx(0.5)
    assert found.a == pytest.approx(math.log(3.0))
    assert found.window == (1, 256)
    assert found.at(100) == pytest.approx(0.3)


@pytest.mark.parametrize(("slope", "above"), [(0.0, True), (1.5, False)])
def test_a_kink_is_flagged_where_it_is(slope: float, above: bool):
    curve = [3.0 * min(e, 24) ** -0.5 * (max(e, 24) / 24) ** -slope for e in GRID]
    found = fit_power_law(GRID, curve)
    assert found.flagged == 32, "the first point behind the kink"
    assert found.above is above
    assert found.window == (1, 24)


def test_noise_around_a_power_law_is_not_flagged_and_one_stray_point_neither():
    rng = np.random.default_rng(0)
    flagged = 0
    for _ in range(50):
        curve = 3.0 * np.asarray(GRID, float) ** -0.5 * np.exp(0.02 * rng.standard_normal(len(GRID)))
        flagged += fit_power_law(GRID, curve).flagged is not None
    assert flagged <= 2
    stray = [3.0 * e**-0.5 * (1.2 if e == 48 else 1.0) for e in GRID]
    assert fit_power_law(GRID, stray).flagged is None


def test_the_first_epochs_need_not_fit_and_a_curve_without_a_line_says_so():
    late = [3.0 * max(e, 4) ** -0.5 for e in GRID]
    assert fit_power_law(GRID, late).window == (4, 256)
    jumps = [1.0 if i % 2 else 2.0 for i in range(len(GRID))]
    assert fit_power_law(GRID, jumps).window is None
    assert fit_power_law(GRID[:4], [1.0] * 4).window is None, "too few points"
    assert fit_power_law(GRID, [0.0] * len(GRID)).window is None, "the student is its teacher"


def test_curves_that_are_none_are_refused():
    for epochs, distances in (([1, 2], [1.0]), ([2, 1, 3], [1.0] * 3), ([0, 1, 2], [1.0] * 3), ([1, 2], [1.0, math.nan])):
        with pytest.raises(InputError):
            fit_power_law(epochs, distances)


def test_without_an_oracle_the_power_law_gives_the_verdict():
    found = monitor(gpt(1))
    for epoch, distance in [(0, 4.0)] + [(e, 3.0 * min(e, 24) ** -0.5) for e in GRID]:
        found.epochs.append(epoch)
        found.train.append(math.nan)
        found.seen["teacher"].append((np.full(24, distance), np.full(24, distance)))
    said = found.report(source="offline")
    assert (said.verdict, said.first_epoch, said.stop_at, said.golden) == ("hacking", 32, 24, None)
    assert any("power law" in one for one in said.advice)


# --------------------------------------------------------------------------------------------------------- the page


def test_a_report_is_written_and_read_again(tmp_path: Path):
    found = judged([1.0, 0.8, 0.6, 0.5, 0.4], [2.0, 1.5, 1.2, 1.3, 1.4])
    found.save(tmp_path / "report.json")
    again = HackingReport.load(tmp_path / "report.json")
    assert again.golden == found.golden
    assert again.powerlaw == found.powerlaw
    assert again.train[1:] == found.train[1:]
    with pytest.raises(InputError, match="path"):
        HackingReport.load(tmp_path / "none.json")
    page = write_hacking_report(found, tmp_path / "report.html").read_text()
    assert "Teacher hacking" in page
    assert "Stop at epoch 2" in page
    without = monitor(gpt(1))
    for epoch in (0, 1):
        without.measure(gpt(2), epoch)
    assert "Undecided" in write_hacking_report(without.report(), tmp_path / "other.html").read_text()


# --------------------------------------------------------------------------------------------------------- refusals


def test_other_vocabularies_are_refused_and_trimmed_when_asked():
    import transformers

    with pytest.raises(InputError, match="student"):
        distill(TinyGPT.new("abd", layers=1, width=8, heads=2), gpt(1), prompts(4))
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    padded = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # ids 6 and 7 are padding: they are never drawn
        padded.lm_head.weight[6:] = 0.0
        third = padded.lm_head.weight[3]
        padded.transformer.ln_f.bias += 30 * third / third.square().sum()
    with pytest.raises(InputError, match="trim=True"):
        distill(gpt(2), padded, prompts(4), epochs=1, max_new=2)
    with pytest.raises(InputError, match="one vocabulary"):
        distill(padded, copy.deepcopy(padded), prompts(4), epochs=1, max_new=2, monitor=monitor(gpt(1)))
    watch = monitor(padded, table(), trim=True)
    assert watch.size == 6
    found = distill(gpt(2), padded, prompts(4), source="online_student", epochs=1, max_new=2, trim=True, monitor=watch)
    assert found.report is not None
    assert all(math.isfinite(value) for value in found.report.proxy)
    late = monitor(padded)
    assert late.size == 8
    distill(gpt(2), padded, prompts(4), source="online_student", epochs=1, max_new=2, trim=True, monitor=late)
    assert late.size == 6


def test_wrong_arguments_are_refused_before_training():
    teacher = gpt(1)
    for settings, word in (
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"generations": 0}, "generations"),
        ({"size": 1, "generations": 2}, "size"),
        ({"source": "here"}, "source"),
        ({"loss": "kl"}, "loss"),
        ({"warmup": -1}, "warmup"),
    ):
        with pytest.raises(InputError, match=word):
            distill(gpt(2), teacher, prompts(4), **{"max_new": 2, **settings})
    with pytest.raises(InputError, match="the student itself"):
        distill(teacher, teacher, prompts(4))
    with pytest.raises(InputError, match="cannot be trained"):
        distill(table(), teacher, prompts(4))
    with pytest.raises(InputError, match="val_prompts"):
        HackingMonitor(teacher, val_prompts=prompts(5), max_new=2)
    with pytest.raises(InputError, match="every"):
        monitor(teacher, every=0)
    with pytest.raises(InputError, match="measurements"):
        monitor(teacher).report()
    with pytest.raises(InputError, match="answers"):
        fine_tune(gpt(2), prompts(3), prompts(2))
