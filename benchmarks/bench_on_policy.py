"""On-policy distillation of a tiny model: a step of `distill` against one of TRL's GKDTrainer.

Both sides train the same student from the same weights on its own answers to the same prompts, under the same teacher, by
forward KL at temperature 1, with Adam of the same rate: prompts of one length, batches of one size, as many tokens an answer at
most. A round is one training of some steps on each side; what is compared is the time of the training loops, as each side gives
it (`DistillRun.seconds`, `train_runtime`), without what is set up before. The peer's collator only stacks tensors. Before the
race, the divergence of each token is checked to be the same for the same logits.

    python benchmarks/peers.py trl && python benchmarks/bench_on_policy.py
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
import warnings
from typing import Any

import torch
from common import Outcome, race, report, said, settings
from peers import inside, race_in

from tutelage.methods.distill.teacher_hacking import distill
from tutelage.models.language import TinyGPT
from tutelage.teaching.language import token_divergences

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
LR = 1e-3
# name -> layers, width, prompts in a batch, tokens of a prompt, most tokens of an answer, steps a round
SIZES = {
    "2 layers of 64, 16 x 32 tokens": (2, 64, 16, 8, 32, 8),
    "2 layers of 64, 64 x 18 tokens": (2, 64, 64, 6, 18, 8),
}


def models(layers: int, width: int, context: int) -> tuple[TinyGPT, TinyGPT]:
    teacher, student = (
        TinyGPT.new(ALPHABET, layers=layers, width=width, heads=4, context=context, seed=seed) for seed in (1, 2)
    )
    return teacher, student


def trainer(
    teacher: TinyGPT, student: TinyGPT, prompts: list[list[int]], batch: int, longest: int, steps: int, out: str
) -> Any:
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    # stacked by hand: the labels are replaced by those of the student's own answers
    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([row["input_ids"] for row in rows])
        ones = torch.ones_like(ids)
        return {"input_ids": ids, "attention_mask": ones, "labels": ids, "prompts": ids, "prompt_attention_mask": ones}

    config = GKDConfig(
        output_dir=out, lmbda=1.0, beta=0.0, temperature=1.0, max_new_tokens=longest, per_device_train_batch_size=batch,
        max_steps=steps, learning_rate=LR, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=0.0, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )  # fmt: skip
    return GKDTrainer(
        model=student.model, teacher_model=teacher.model, args=config, data_collator=collate,
        train_dataset=Dataset.from_dict({"input_ids": prompts}), processing_class=student.tokenizer,
    )  # fmt: skip


def check_divergence() -> float:
    """The largest difference of a token's divergence from TRL's, on the same logits."""
    from trl.experimental.gkd import GKDTrainer

    stream = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(4, 7, 30, generator=stream) for _ in range(2))
    worst = 0.0
    for kind, beta, theirs in (("forward", 0.5, 0.0), ("reverse", 0.5, 1.0), ("jsd", 0.5, 0.5), ("jsd", 0.1, 0.1)):
        mine = token_divergences(teacher, student, kind=kind, beta=beta)
        want = GKDTrainer.generalized_jsd_loss(student, teacher, beta=theirs, reduction="none").sum(2)
        worst = max(worst, float((mine - want).abs().max()))
    return worst


def main() -> None:
    how = settings(__doc__)
    if not inside("trl"):
        race_in("trl")
        return
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of the peer, about its own arguments
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    worst = check_divergence()
    if worst > 1e-5:
        raise SystemExit(f"the divergences differ by {worst:.1e}, so this is no race")
    for name, (layers, width, batch, length, longest, steps) in SIZES.items():
        if how.quick:
            layers, width, batch, longest, steps = 1, 8, 2, 3, 1
        stream = torch.Generator().manual_seed(3)
        prompts = torch.randint(3, 30, (batch * steps, length), generator=stream).tolist()
        teacher, student = models(layers, width, length + longest)
        start = copy.deepcopy(student.model.state_dict())
        with tempfile.TemporaryDirectory() as out:
            peer = trainer(
                teacher, TinyGPT(copy.deepcopy(student.model), student.tokenizer), prompts, batch, longest, steps, out
            )

            def theirs(peer: Any = peer, start: dict[str, torch.Tensor] = start) -> float:
                peer.model.load_state_dict(start)
                return float(peer.train().metrics["train_runtime"])

            def ours(
                start: dict[str, torch.Tensor] = start, student: TinyGPT = student, teacher: TinyGPT = teacher,
                prompts: list[list[int]] = prompts, batch: int = batch, longest: int = longest,
            ) -> float:  # fmt: skip
                student.model.load_state_dict(start)
                run = distill(
                    student, teacher, prompts, source="online_student", epochs=1, batch_size=batch, lr=LR, max_new=longest
                )
                assert run.steps * batch == len(prompts)
                return run.seconds

            found = race({"ours": ours, "theirs": theirs}, how.rounds, clock=said)
        outcome = Outcome(
            f"on-policy distillation, {name}",
            "on-policy",
            f"{steps} steps of distill, online_student",
            "TRL GKDTrainer",
            [[r["ours"], r["theirs"]] for r in found],
            wanted="<= 0.5",
            notes={"largest difference of a token's divergence": f"{worst:.1e}"},
        )
        report(outcome, how)


if __name__ == "__main__":
    main()
