"""Where answers come from: fixed, from the teacher anew, from the student; the loss on them by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader

from tutelage.core.errors import InputError
from tutelage.models.language import NGramLM, TinyGPT
from tutelage.models.language.next_token import NGramTable, Padded, next_token_model
from tutelage.teaching.fit import Context, fit
from tutelage.teaching.language.on_policy import (
    KeptLaw,
    OnPolicyDistillation,
    Source,
    freeze_answers,
    mean_divergence,
    parse_loss,
)

pytest.importorskip("transformers")

PROMPTS = [[3, 4], [5], [4, 4, 5], [3]]


def gpt(seed: int = 0, width: int = 8) -> TinyGPT:
    return TinyGPT.new("abc", layers=1, width=width, heads=2, context=24, seed=seed)


def table() -> NGramTable:
    lm = NGramLM.fit(["abcabc", "bcaab", "ccab"], order=2, strength=0.5)
    return NGramTable.of(lm, [None, None, None, "a", "b", "c"], end=2)


def context(step: int, total: int) -> Context:
    return Context(step, total, 1.0, torch.Generator())


def objective(source: Source, student: TinyGPT | None = None, **settings: Any) -> OnPolicyDistillation:
    net = next_token_model(student or gpt(), trainable=True)
    return OnPolicyDistillation(net, table(), PROMPTS, source=source, max_new=6, **settings)


def answers_at(found: OnPolicyDistillation, epoch: int, rows: Sequence[int] = range(4)) -> list[list[int]]:
    return found.answers(torch.tensor(list(rows)), epoch)[1].rows()


# ------------------------------------------------------------------------------------------------------------ answers


def test_offline_answers_stay_and_online_ones_do_not():
    offline, teacher, student = (objective(s) for s in ("offline", "online_teacher", "online_student"))
    assert answers_at(offline, 0) == answers_at(offline, 1)
    assert answers_at(teacher, 0) != answers_at(teacher, 1)
    assert answers_at(student, 0) != answers_at(student, 1)
    assert answers_at(teacher, 1) == answers_at(objective("online_teacher"), 1), "the same seed, the same answers"


@pytest.mark.parametrize("source", ["offline", "online_teacher", "online_student"])
def test_the_answer_of_a_row_does_not_depend_on_its_batch(source: Source):
    found = objective(source, generations=2)
    whole = answers_at(found, 3, range(8))
    assert [answers_at(found, 3, [row])[0] for row in range(8)] == whole
    assert answers_at(found, 3, [6, 1]) == [whole[6], whole[1]]


def test_several_answers_to_a_prompt_are_different_rows():
    found = objective("offline", generations=3)
    assert found.rows == 12
    assert found.prompts.rows() == PROMPTS * 3
    of_first = {tuple(answers_at(found, 0, [row])[0]) for row in (0, 4, 8)}
    assert len(of_first) > 1


def test_the_student_answers_with_its_present_weights():
    lm = gpt()
    found = objective("online_student", lm)
    before = answers_at(found, 0)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.mul_(-3.0)
    assert answers_at(found, 0) != before


def test_a_mixture_takes_its_share_from_the_student():
    lm = gpt()
    settings: dict[str, Any] = {"generations": 100}
    offline, student = objective("offline", lm, **settings), objective("online_student", lm, **settings)
    half = objective("offline", lm, mix=0.5, **settings)
    ones, others, mixed = (answers_at(found, 0, range(400)) for found in (offline, student, half))
    for one, other, got in zip(ones, others, mixed, strict=True):
        assert got in (one, other)
    told = [got == other for one, other, got in zip(ones, others, mixed, strict=True) if one != other]
    share = sum(told) / len(told)
    assert abs(share - 0.5) < 3 * 0.5 / math.sqrt(len(told))
    assert answers_at(objective("offline", lm, mix=1.0, **settings), 0, range(400)) == others
    law = half.answers(torch.arange(4), 0)
    assert torch.allclose(law[2], table().log_probs(law[0], law[1]))


def test_frozen_answers_are_kept_on_disk_and_belong_to_their_question(tmp_path: Path):
    prompts, file = Padded.left(PROMPTS), tmp_path / "answers.safetensors"
    first = freeze_answers(table(), prompts, 6, seed=1, name="x", file=file)

    class Silent(NGramTable):
        def sample(self, *args: Any, **settings: Any) -> Padded:
            raise AssertionError("asked again")

    silent = Silent(table().table, order=2, ends=(2,))
    assert freeze_answers(silent, prompts, 6, seed=1, name="x", file=file).rows() == first.rows()
    for other in ({"seed": 2, "name": "x"}, {"seed": 1, "name": "y"}):
        with pytest.raises(InputError, match="another folder"):
            freeze_answers(table(), prompts, 6, file=file, **other)
    assert freeze_answers(table(), prompts, 6, seed=1, name="x").rows() == first.rows()
    assert freeze_answers(table(), prompts, 6, seed=1, name="x", part=3).rows() == first.rows()


def test_a_law_that_does_not_fit_into_memory_is_asked_for_each_time():
    prompts = Padded.left(PROMPTS)
    answers = freeze_answers(table(), prompts, 6, seed=1, name="x")
    kept, asked = KeptLaw(table(), prompts, answers), KeptLaw(table(), prompts, answers, limit=0)
    rows = torch.tensor([2, 0])
    assert kept.kept is not None
    assert asked.kept is None
    assert torch.equal(kept.at(rows), asked.at(rows))


# ------------------------------------------------------------------------------------------------------------ the loss


def test_the_mean_is_over_the_tokens_of_each_answer_and_not_over_padding():
    each = torch.tensor([[1.0, 3.0, math.inf], [2.0, 4.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert mean_divergence(each, mask).tolist() == [2.0, 5.0]


def test_the_loss_of_a_batch_by_hand():
    lm = gpt()
    found = objective("offline", lm)
    prompts, answers, law = found.answers(torch.arange(4), 0)
    loss, log = found(lm.model, torch.arange(4), context(0, 10))
    want = []
    for prompt, answer in zip(prompts.rows(), answers.rows(), strict=True):
        logits = lm.model(input_ids=torch.tensor([prompt + answer])).logits[0].detach()
        total = 0.0
        for at in range(len(answer)):
            p = table().log_probs(Padded.left([prompt]), Padded.right([answer]))[0, at].exp()
            log_q = logits[len(prompt) - 1 + at].log_softmax(0)
            total += float((p[p > 0] * (p[p > 0].log() - log_q[p > 0])).sum())
        want.append(total / len(answer))
    assert float(loss.detach()) == pytest.approx(sum(want) / 4, rel=1e-5)
    assert float(log["tokens"]) == pytest.approx(sum(map(len, answers.rows())) / 4)
    assert law.shape == (4, answers.width, 6)


@pytest.mark.parametrize("source", ["offline", "online_teacher", "online_student"])
def test_equal_epochs_are_equal_steps_for_every_source_and_the_student_learns(source: Source):
    lm = gpt(width=16)
    found, judge = objective(source, lm, epochs=40), objective("offline", lm, seed=9, generations=8)
    before = float(judge(lm.model, torch.arange(32), context(0, 1))[0].detach())
    loader: DataLoader[Any] = DataLoader(range(found.rows), batch_size=2, shuffle=True)  # type: ignore[arg-type]
    run = fit(lm.model, found, loader, optimizer=Adam(lm.model.parameters(), lr=0.02), epochs=40)
    assert run.steps == 80
    assert len(found.data_hashes) == 40
    assert len(set(found.data_hashes)) == (1 if source == "offline" else 40)
    assert float(judge(lm.model, torch.arange(32), context(0, 1))[0].detach()) < 0.6 * before


def test_no_gradient_goes_to_the_teacher_or_through_the_draw():
    student, teacher = gpt(0), gpt(1)
    found = OnPolicyDistillation(
        next_token_model(student), next_token_model(teacher), PROMPTS, source="online_student", max_new=4, seed=3
    )
    answers = found.answers(torch.arange(4), 0)[1]
    loss, _ = found(student.model, torch.arange(4), context(0, 10))
    loss.backward()
    got = [p.grad.clone() for p in student.model.parameters() if p.grad is not None]
    assert all(p.grad is None for p in teacher.model.parameters())
    student.model.zero_grad()

    class Fixed(NGramTable):  # the same answers as given data: the gradient must be the same
        def sample(self, *args: Any, **settings: Any) -> Padded:
            return answers

        def log_probs(self, prompts: Padded, given: Padded) -> Tensor:
            return next_token_model(teacher).log_probs(prompts, given)

    again = OnPolicyDistillation(
        next_token_model(student), Fixed(table().table, order=2), PROMPTS, source="online_teacher", max_new=4, seed=3
    )
    again(student.model, torch.arange(4), context(0, 10))[0].backward()
    want = [p.grad for p in student.model.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, want, strict=True))


def test_dropout_is_off_while_the_student_is_taught():
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=6, n_embd=8, n_layer=1, n_head=1, n_positions=16, resid_pdrop=0.5, embd_pdrop=0.5, eos_token_id=2
    )
    model = transformers.GPT2LMHeadModel(config).train()
    found = OnPolicyDistillation(next_token_model(model), table(), PROMPTS, source="offline", max_new=4)
    losses = [float(found(model.train(), torch.arange(4), context(0, 4))[0].detach()) for _ in range(2)]
    assert losses[0] == losses[1]


def test_a_stopped_training_remembers_the_answers_of_its_epochs():
    found = objective("online_teacher", epochs=4)
    found(found.student.module, torch.arange(2), context(0, 8))
    again = objective("online_teacher", epochs=4)
    again.load_state_dict(copy.deepcopy(found.state_dict()))
    for one in (found, again):
        one(one.student.module, torch.tensor([3, 2]), context(1, 8))
    whole = objective("online_teacher", epochs=4)
    whole(whole.student.module, torch.tensor([2, 0, 3, 1]), context(0, 4))
    assert found.data_hashes == again.data_hashes == whole.data_hashes


def test_losses_by_name():
    assert parse_loss("fkl") == ("forward", 0.5)
    assert parse_loss("rkl") == ("reverse", 0.5)
    assert parse_loss("jsd:0.1") == ("jsd", 0.1)
    for wrong in ("kl", "jsd:1", "jsd:x", "fkl:0.5"):
        with pytest.raises(InputError, match="loss"):
            parse_loss(wrong)


def test_wrong_arguments_are_refused_before_anything_is_drawn():
    for settings, word in (
        ({"source": "nowhere"}, "source"),
        ({"source": "online_student", "mix": 0.5}, "mix"),
        ({"source": "offline", "mix": 2.0}, "mix"),
        ({"source": "offline", "generations": 0}, "generations"),
        ({"source": "offline", "loss": "l2"}, "loss"),
        ({"source": "offline", "epochs": 0}, "epochs"),
    ):
        with pytest.raises(InputError, match=word):
            objective(**settings)  # type: ignore[arg-type]
    net = next_token_model(gpt())
    for prompts in ([], [[3], []]):
        with pytest.raises(InputError, match="prompts"):
            OnPolicyDistillation(net, table(), prompts, max_new=4)
    small = NGramTable(torch.zeros(4, 3).log_softmax(1), order=2)
    with pytest.raises(InputError, match="one vocabulary"):
        OnPolicyDistillation(net, small, PROMPTS, max_new=4)
