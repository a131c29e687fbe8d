"""Where the answers come from on which a student is taught: a fixed set, the teacher anew, or the student itself (on-policy).

With prompts x, a teacher t, a student s_θ, and a source ν of answers, the loss of distillation is (Agarwal et al., On-Policy
Distillation of Language Models, arXiv 2306.13649)

    (1)  L(θ) = E_x E_{y~ν(.|x)} [ 1/|y| Σ_i ℓ( t(.|x, y_<i), s_θ(.|x, y_<i) ) ]

where ℓ is a divergence of `token_divergences`. No gradient goes through the draw of y. The end token is part of y.

    offline         y ~ t, drawn once for each row and kept
    online_teacher  y ~ t, drawn anew each epoch
    online_student  y ~ s_θ, drawn anew each time, with the weights of that step
    mix = λ         each row from the student with probability λ, else from the source

A row is a prompt and a number below `generations`; an epoch is one pass over all rows, for every source, so that equal epochs
are equal numbers of gradient steps. The answer of a row depends on the seed, the epoch and the row alone (and on the weights):
batches, devices and processes do not change it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.files import canonical_json, sha256_text, write_atomic
from tutelage.core.rng import derive
from tutelage.models.language.next_token import NextTokenModel, Padded, TrainableNet, joined, sample_in_parts
from tutelage.teaching.fit import Context
from tutelage.teaching.language.divergences import Divergence, token_divergences

Source = Literal["offline", "online_teacher", "online_student"]
CACHE_BYTES = 256 * 2**20  # log-probabilities of a teacher that are kept
PART = 64  # rows at a time where no batch size is given


def parse_loss(loss: str) -> tuple[Divergence, float]:
    """ "fkl", "rkl" or "jsd:0.5" as (kind, beta) of `token_divergences`. Raises InputError."""
    wanted = "fkl, rkl or jsd:beta with beta in (0, 1), such as jsd:0.5"
    if loss in ("fkl", "rkl"):
        return ("forward" if loss == "fkl" else "reverse"), 0.5
    name, _, number = loss.partition(":") if isinstance(loss, str) else ("", "", "")
    try:
        beta = float(number) if number else 0.5
    except ValueError as error:
        raise InputError("loss", loss, wanted) from error
    if name != "jsd" or not 0.0 < beta < 1.0:
        raise InputError("loss", loss, wanted)
    return "jsd", beta


def mean_divergence(divergences: Tensor, mask: Tensor) -> Tensor:
    """(B,): the mean over the tokens of each answer of divergences (B, T); mask: (B, T), which tokens there are."""
    mask = mask.to(divergences.device)
    # where, not a product: what stands at a padded place may be infinite
    return torch.where(mask, divergences, 0.0).sum(1) / mask.sum(1)


def freeze_answers(
    model: NextTokenModel,
    prompts: Padded,
    max_new: int,
    *,
    seed: int,
    name: str,
    part: int = PART,
    file: Path | None = None,
) -> Padded:
    """One answer of `model` to each prompt, drawn once. file: kept there, and read from there the next time.

    Raises InputError where the file holds the answers to other questions.
    """
    question = {"prompts": prompts.rows(), "max_new": max_new, "seed": seed, "name": name}
    key = sha256_text(canonical_json(question))
    if file is not None and file.is_file():
        kept = load(file.read_bytes())
        if bytes(kept["key"].tolist()).decode() != key:
            raise InputError("checkpoint", str(file), "answers to these prompts, with this seed and length (another folder)")
        return Padded(kept["ids"], kept["mask"])
    seeds = [derive(seed, name, row) for row in range(len(prompts))]
    answers = sample_in_parts(model, prompts, max_new, seeds=seeds, size=part)
    if file is not None:
        tensors = {"ids": answers.ids.contiguous(), "mask": answers.mask.contiguous()}
        write_atomic(file, save(tensors | {"key": torch.tensor(list(key.encode()))}))
    return answers


def numbers_of(count: int, part: int) -> list[Tensor]:
    """0 … count - 1, at most `part` at a time."""
    return [torch.arange(at, min(at + part, count)) for at in range(0, count, part)]


class KeptLaw:
    """The law of a frozen model on frozen answers, computed once where it fits into `limit` bytes, else each time."""

    def __init__(self, model: NextTokenModel, prompts: Padded, answers: Padded, *, limit: int = CACHE_BYTES, part: int = PART):
        self.model, self.prompts, self.answers, self.part = model, prompts, answers, part
        fits = 4 * answers.ids.numel() * model.size <= limit
        self.kept = torch.cat([self._asked(rows) for rows in numbers_of(len(answers), part)]) if fits else None

    def at(self, rows: Tensor) -> Tensor:
        """log-probabilities (len(rows), T, V)."""
        return self._asked(rows) if self.kept is None else self.kept[rows]

    def _asked(self, rows: Tensor) -> Tensor:
        return self.model.log_probs(self.prompts[rows], self.answers[rows])


class OnPolicyDistillation:
    """Equation (1) as an objective of `fit`, over batches of row numbers (B,) below `rows`.

    student: a net that is trained by `fit` (its `module`). teacher: frozen. prompts: ids, a list for each.
    generations: rows for each prompt. max_new: most tokens of an answer. loss: fkl, rkl or jsd:beta. epochs: of the `fit`, by
    which it knows the epoch of a step; None: each step draws anew. cache: a folder for the offline answers. data_hashes: one
    for each epoch, over all its answers, whatever the order of rows. The student is used in evaluation mode (no dropout), so
    that the law it samples from is the one it is taught on. Raises InputError.
    """

    def __init__(
        self,
        student: TrainableNet,
        teacher: NextTokenModel,
        prompts: Sequence[Sequence[int]],
        *,
        source: Source = "online_student",
        mix: float = 0.0,
        generations: int = 1,
        max_new: int = 64,
        loss: str = "fkl",
        epochs: int | None = None,
        seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        check_choice("source", source, get_args(Source))
        check_number("mix", mix, "a share in [0, 1]", low=0.0, high=1.0)
        check_integer("generations", generations)
        check_integer("max_new", max_new)
        if epochs is not None:
            check_integer("epochs", epochs)
        if mix and source == "online_student":
            raise InputError("mix", mix, "0 with online_student, which is the student's answers alone")
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise InputError("prompts", "none, or an empty one", "one prompt at least, one token at least in each")
        if student.size != teacher.size:
            raise InputError("student", f"{student.size} ids for a teacher's {teacher.size}", "one vocabulary")
        self.kind, self.beta = parse_loss(loss)
        self.student, self.teacher = student, teacher
        self.source, self.mix, self.generations, self.max_new, self.seed = source, mix, generations, max_new, seed
        self.epochs = epochs
        self.rows = len(prompts) * generations
        self.prompts = Padded.left([prompts[row % len(prompts)] for row in range(self.rows)])
        self.hashes: dict[int, int] = {}
        self.bank: KeptLaw | None = None
        if source == "offline" and mix < 1.0:
            file = cache / "offline-answers.safetensors" if cache is not None else None
            answers = freeze_answers(teacher, self.prompts, max_new, seed=seed, name="offline", file=file)
            self.bank = KeptLaw(teacher, self.prompts, answers)

    @property
    def data_hashes(self) -> list[str]:
        """A hash of the answers of each epoch so far."""
        return [f"{self.hashes[epoch]:016x}" for epoch in sorted(self.hashes)]

    def answers(self, rows: Tensor, epoch: int) -> tuple[Padded, Padded, Tensor]:
        """Prompts and answers of these rows in that epoch, and the teacher's law on them, (B, T, V) log-probabilities."""
        prompts = self.prompts[rows]
        numbers = rows.tolist()
        own = [self.source == "online_student" or self._mixed(row, epoch) for row in numbers]
        if self.bank is not None and not any(own):
            return prompts, self.bank.answers[rows], self.bank.at(rows)
        groups = []
        for of_student in (True, False):
            chosen = torch.tensor([i for i, mine in enumerate(own) if mine is of_student], dtype=torch.long)
            if not len(chosen):
                continue
            if of_student or self.bank is None:
                model = self.student if of_student else self.teacher
                seeds = [derive(self.seed, "student" if of_student else "teacher", epoch, numbers[i]) for i in chosen.tolist()]
                found = model.sample(prompts[chosen], self.max_new, seeds=seeds).to("cpu")
            else:
                found = self.bank.answers[rows[chosen]]
            groups.append((chosen, found))
        together = joined([found for _, found in groups])
        back = torch.cat([chosen for chosen, _ in groups]).argsort()
        answers = together[back]
        return prompts, answers, self.teacher.log_probs(prompts, answers)

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        rows = torch.as_tensor(batch).cpu()
        epoch = ctx.step if self.epochs is None else ctx.step * self.epochs // ctx.total
        model.eval()  # no dropout
        prompts, answers, law = self.answers(rows, epoch)
        self._note(rows, answers, epoch)
        logits = self.student.logits(prompts, answers, module=model)
        each = token_divergences(law.to(logits.device), logits, kind=self.kind, beta=self.beta)
        lengths = answers.mask.sum(1)
        return mean_divergence(each, answers.mask).mean(), {"tokens": lengths.float().mean()}

    def state_dict(self) -> dict[str, Any]:
        return {"hashes": {str(epoch): f"{value:016x}" for epoch, value in self.hashes.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.hashes = {int(epoch): int(value, 16) for epoch, value in state["hashes"].items()}

    def _mixed(self, row: int, epoch: int) -> bool:
        return self.mix > 0 and derive(self.seed, "mix", epoch, row) / 2**63 < self.mix

    def _note(self, rows: Tensor, answers: Padded, epoch: int) -> None:
        """The sum of the hashes of all rows: rows may come in any order, and in parts."""
        total = self.hashes.get(epoch, 0)
        for row, ids in zip(rows.tolist(), answers.rows(), strict=True):
            digest = hashlib.sha256(f"{row}:{ids}".encode()).digest()[:8]
            total += int.from_bytes(digest, "big")
        self.hashes[epoch] = total % 2**64
