"""Preference training of a tiny model: a step of `train_preference` against one of TRL's DPOTrainer.

Both sides train the same model from the same weights on the same pairs, by DPO and by length-normalised DPO, with AdamW of the
same rate and batches of one size. A round is one training of some steps on each side. Texts are made into tokens beforehand on
both sides. Two races each: with the reference in the training, where the peer asks its reference model at every step, and ours
once before the first, in its time; and with the reference's log-probabilities at hand on both sides. What is compared is the
time of the training as each side gives it (`train_runtime`; ours whole, the set-up of `fit` included). Before the race, the
losses of three full-batch steps are checked to be the same.

    python benchmarks/peers.py trl && python benchmarks/bench_preferences.py
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from common import Outcome, race, report, said, settings
from peers import inside, race_in

from tutelage.data.worlds.arithmetic import ArithmeticChains
from tutelage.models.language.tiny import TinyGPT
from tutelage.teaching.language.pairs import PreferenceData, TokenPairs, tokenised
from tutelage.teaching.language.preference_training import reference_logprobs, train_preference

LR, BETA = 1e-3, {"sigmoid": 0.1, "sigmoid_norm": 2.0}
OURS = {"sigmoid": "dpo", "sigmoid_norm": "ln_dpo"}
# name -> layers, width, pairs in a batch, steps a round
SIZES = {"2 layers of 64, 32 pairs": (2, 64, 32, 20)}
WORLD = ArithmeticChains((2, 3), styles=("terse", "padded"))


def pairs_of(n: int) -> PreferenceData:
    items = WORLD.sample(n, 0)
    chosen = [WORLD.render(item, "padded", seed) for seed, item in enumerate(items)]
    return PreferenceData([item.prompt for item in items], chosen, [WORLD.render(item, "terse") for item in items])


def model_of(layers: int, width: int) -> TinyGPT:
    return TinyGPT.new(WORLD.alphabet, layers=layers, width=width, heads=4, context=96, seed=0)


def trainer(lm: TinyGPT, data: PreferenceData, loss: str, batch: int, steps: int, out: str, *, at_hand: bool, log: bool) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=out, loss_type=[loss], beta=BETA[loss], per_device_train_batch_size=batch, max_steps=steps, learning_rate=LR,
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=0.0, report_to=[], save_strategy="no", max_length=None,
        logging_strategy="steps" if log else "no", logging_steps=1, disable_tqdm=True, use_cpu=True, bf16=False,
        gradient_checkpointing=False, dataloader_pin_memory=False, precompute_ref_log_probs=at_hand,
    )  # fmt: skip
    columns = {"prompt": list(data.prompts), "chosen": list(data.chosen), "rejected": list(data.rejected)}
    return DPOTrainer(
        model=copy.deepcopy(lm.model), ref_model=None if at_hand else copy.deepcopy(lm.model), args=config,
        train_dataset=Dataset.from_dict(columns), processing_class=lm.tokenizer,
    )  # fmt: skip


def quietly(work: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """The peer prints its numbers."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return work(*arguments, **settings)


def check(lm: TinyGPT, data: PreferenceData, loss: str, out: str) -> float:
    """The largest difference of the losses of three steps on all pairs."""
    peer = trainer(lm, data, loss, len(data), 3, out, at_hand=False, log=True)
    quietly(peer.train)
    theirs = [row["loss"] for row in peer.state.log_history if "loss" in row]
    start = copy.deepcopy(lm.model.state_dict())
    run = train_preference(
        lm, data, loss=OURS[loss], beta=BETA[loss], steps=3, lr=LR, batch_size=len(data), schedule=lambda *_: 1.0
    )
    lm.model.load_state_dict(start)
    return max(abs(a - row["loss"]) for a, row in zip(theirs, run.history, strict=True))


def main() -> None:
    how = settings(__doc__)
    if not inside("trl"):
        race_in("trl")
        return
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of the peer, about its own arguments
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    for name, (layers, width, batch, steps) in SIZES.items():
        if how.quick:
            layers, width, batch, steps = 1, 8, 4, 2
        lm, data = model_of(layers, width), pairs_of(batch * steps)
        pairs = tokenised(lm, data)
        start = copy.deepcopy(lm.model.state_dict())
        for loss in OURS:
            for at_hand in (False, True):
                with tempfile.TemporaryDirectory() as out:
                    worst = check(lm, pairs_of(batch), loss, out)
                    if worst > 2e-4:  # the peer tells its losses with four digits
                        raise SystemExit(f"{loss}: the losses differ by {worst:.1e}, so this is no race")
                    peer = quietly(trainer, lm, data, loss, batch, steps, out, at_hand=at_hand, log=False)
                    outcome = race_of(lm, pairs, peer, start, loss, batch, steps, at_hand, how.rounds, f"{name}, {loss}", worst)
                report(outcome, how)


def race_of(
    lm: TinyGPT, pairs: TokenPairs, peer: Any, start: dict[str, torch.Tensor], loss: str, batch: int, steps: int, at_hand: bool,
    rounds: int, name: str, worst: float,
) -> Outcome:  # fmt: skip
    known = reference_logprobs(lm, pairs)

    def theirs() -> float:
        peer.model.load_state_dict(start)
        return float(quietly(peer.train).metrics["train_runtime"])

    def ours() -> float:
        lm.model.load_state_dict(start)
        began = time.perf_counter()
        train_preference(
            lm, pairs, known if at_hand else "start", loss=OURS[loss], beta=BETA[loss], steps=steps, lr=LR, batch_size=batch,
            schedule=lambda *_: 1.0, log_every=steps,
        )  # fmt: skip
        return time.perf_counter() - began

    found = race({"ours": ours, "theirs": theirs}, rounds, clock=said)
    return Outcome(
        f"preference training, {name}, reference {'at hand' if at_hand else 'asked'}",
        "preferences",
        f"{steps} steps of train_preference",
        "TRL DPOTrainer",
        [[r["ours"], r["theirs"]] for r in found],
        wanted="<= 0.67",
        notes={"largest difference of a loss in three steps": f"{worst:.1e}"},
    )


if __name__ == "__main__":
    main()
