"""The claim of star-po: is LN-DPO less sensitive to its hyper-parameters than DPO, where the data favour long answers?

Sums of 2 to 4 terms (the card's world), with terse solutions (partial sums), padded ones (each partial sum once and one to
four times more) and wrong ones. An answer is worth 1 if it is right, less 0.02 a token; one that does not end is wrong.
Pairs are drawn by Bradley and Terry from this plus 0.05 a token: annotators who like long answers. Preference pairs have 2 or 3
terms; the models are measured on 4, which the SFT model has seen. The best cell is chosen on validation problems, reports are
on test problems; splits are disjoint as sets of terms. A unit is a seed with its own pairs, SFT model and whole grid; its SFT
model is shared by its arms, from the cache.

Grids are those of the card, fixed beforehand. The control is DPO with LN-DPO's own betas, each divided by the mean length of a
completion: if LN-DPO is steadier than DPO, but not steadier than this, then what counts is the range of beta, not that each
answer is divided by its own length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import DataLoader

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.core.rng import derive, generator, numpy_generator
from tutelage.data.worlds.arithmetic import ArithmeticChains
from tutelage.data.worlds.tasks import Item, Split
from tutelage.methods.align.star_po.grid import Grid, RobustnessMap, robustness_map
from tutelage.methods.align.star_po.measure import Decoding, answers_of
from tutelage.models.language.protocol import Generation
from tutelage.models.language.tiny import TinyGPT
from tutelage.models.loading import load_weights, save_weights
from tutelage.teaching.fit import fit
from tutelage.teaching.language.pairs import TokenPairs, completion_ids, prompt_ids
from tutelage.teaching.language.sequences import SFT, completion_batch
from tutelage.teaching.schedules import warmup_cosine

PER_TOKEN, LIKED = 0.02, 0.05  # what a token costs, and what it is worth to the annotators
SFT_OPERANDS, PAIR_OPERANDS, TEST_OPERANDS = (2, 3, 4), (2, 3), (4,)


class Config(ClaimConfig):
    """What `--set` may change."""

    high: int = Field(6, ge=2, description="largest term")
    wrong: float = Field(0.3, ge=0, lt=1, description="share of the candidates with a mistake")
    layers: int = Field(2, ge=1)
    width: int = Field(64, ge=8, multiple_of=8)
    sft_pairs: int = Field(8000, ge=1)
    sft_steps: int = Field(2000, ge=1)
    sft_batch: int = Field(64, ge=1)
    sft_lr: float = Field(0.003, gt=0)
    pairs: int = Field(6000, ge=2)
    steps: int = Field(150, ge=1, description="of each preference training")
    batch: int = Field(32, ge=1, description="pairs a step")
    lrs: tuple[float, ...] = (1e-4, 5e-4)
    dpo_betas: tuple[float, ...] = (0.01, 0.05, 0.1, 0.3, 0.5)
    ln_dpo_betas: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0)
    simpo_betas: tuple[float, ...] = (1.0, 2.0, 2.5)
    simpo_gammas: tuple[float, ...] = (0.5, 1.5)
    validation: int = Field(80, ge=1, description="problems to choose a cell by")
    test: int = Field(200, ge=1, description="problems to report on")
    max_tokens: int = Field(64, ge=1)


CONTROL = "dpo-constant-length-rescaled-beta"
ARMS = ("sft", "dpo", CONTROL, "ln-dpo", "simpo")


@dataclass(frozen=True)
class Candidate:
    """A solution and whether it is right. length: tokens with the end token; a token is a character here."""

    text: str
    right: bool

    @property
    def length(self) -> int:
        return len(self.text) + 1

    @property
    def worth(self) -> float:
        return float(self.right) - PER_TOKEN * self.length


def world_of(config: Config, operands: tuple[int, ...]) -> ArithmeticChains:
    return ArithmeticChains(operands, high=config.high, styles=("terse", "padded"))


def drawn_pairs(config: Config, operands: tuple[int, ...], n: int, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """n triples (prompt, chosen, rejected): two candidates a problem, chosen by Bradley and Terry; equal ones are left out."""
    world = world_of(config, operands)
    found: list[tuple[str, str, str]] = []
    while len(found) < n:
        (item,) = world.sample(1, rng)
        first, second = (candidate(world, item, config.wrong, rng) for _ in range(2))
        if first.text == second.text:
            continue
        lead = first.worth - second.worth + LIKED * (first.length - second.length)
        if rng.random() >= 1 / (1 + np.exp(-lead)):
            first, second = second, first
        found.append((item.prompt, first.text, second.text))
    return found


def candidate(world: ArithmeticChains, item: Item, wrong: float, rng: np.random.Generator) -> Candidate:
    style = "padded" if rng.random() < 0.5 else "terse"
    mistaken = bool(rng.random() < wrong)
    return Candidate(world.render(item, style, rng, wrong=mistaken), not mistaken)


def problems(config: Config, n: int, split: Split, rng: np.random.Generator) -> dict[str, Item]:
    """At most n problems of 4 terms, each prompt once, {prompt: problem}; a small world may have fewer."""
    items = {item.prompt: item for item in world_of(config, TEST_OPERANDS).sample(8 * n, rng, split)}
    return dict(list(items.items())[:n])


class Scorer:
    """(prompt, answer) -> 1 if it ended and is right, less 0.02 a token."""

    def __init__(self, config: Config, items: Mapping[str, Item]) -> None:
        self.world, self.items = world_of(config, TEST_OPERANDS), items

    def right(self, prompt: object, answer: Generation) -> bool:
        return answer.finish == "stop" and self.world.verify(self.items[str(prompt)], answer.text).right

    def __call__(self, prompt: object, answer: Generation) -> float:
        return float(self.right(prompt, answer)) - PER_TOKEN * len(answer.tokens)


def cell(cell: Cell) -> Mapping[str, float]:
    """Train the SFT model of a unit (or take it from the cache), then a whole grid of one method, and measure."""
    config: Config = cell.config
    seed = derive(cell.unit, "star-po")
    sft = trained(config, seed, cell)
    validation = problems(config, config.validation, "validation", numpy_generator(seed, "validation"))
    test = problems(config, config.test, "test", numpy_generator(seed, "test"))
    score = Scorer(config, {**validation, **test})
    decoding = Decoding(max_tokens=config.max_tokens, seed=seed % 2**31)
    pairs = tokens(sft, drawn_pairs(config, PAIR_OPERANDS, config.pairs, numpy_generator(seed, "pairs")))
    if cell.arm == "sft":
        prompts = list(test)
        answers = answers_of(sft, prompts, decoding)
        both = list(zip(prompts, answers, strict=True))
        reward = float(np.mean([score(*one) for one in both]))
        return {
            "reward": reward,
            "chosen_reward": reward,  # there is nothing to choose
            "right": 100 * float(np.mean([score.right(*one) for one in both])),
            "length": float(np.mean([len(answer.tokens) for answer in answers])),
            "truncated": 100 * float(np.mean([answer.finish == "length" for answer in answers])),
            "length_gap": pairs.length_gap,
        }
    grid = grid_of(cell.arm, config, float(pairs.lengths.double().mean()))
    found = robustness_map(
        sft, pairs, {cell.arm: grid}, score, list(test), validation=list(validation), seeds=(seed % 2**31,),
        steps=config.steps, batch_size=config.batch, decoding=decoding, cache=cell.cache, progress=cell.progress,
    )  # fmt: skip
    return measured(found)


def grid_of(arm: str, config: Config, mean_length: float) -> Grid:
    """The grid of a method. mean_length: tokens of a completion, by which the control divides LN-DPO's betas."""
    if arm == "simpo":
        return Grid("simpo", config.simpo_betas, config.lrs, config.simpo_gammas)
    if arm == "ln-dpo":
        return Grid("ln_dpo", config.ln_dpo_betas, config.lrs)
    betas = config.dpo_betas if arm == "dpo" else tuple(beta / mean_length for beta in config.ln_dpo_betas)
    return Grid("dpo", betas, config.lrs)


def measured(found: RobustnessMap) -> dict[str, float]:
    """The numbers of one method on one unit."""
    (method,), (seed,) = found.methods, found.seeds
    spread, chosen = found.spread(method, seed), found.chosen(method, seed)
    best = chosen.test if chosen.status == "ok" else found.sft["test"]
    (line,) = found.table
    return {
        "grid_sd_of_reward": spread.sd,
        "reward": spread.mean,
        "worst_reward": spread.worst,
        "q25_reward": spread.q25,
        "best_of_3": found.expected_best(method, min(3, spread.n)),
        "chosen_reward": best["reward"],
        "chosen_length": best["length"],
        "chosen_kl": best["kl"],
        "length": line["length"],
        "kl": line["kl"],
        "win_rate": 100 * line["win_rate"],
        "truncated": 100 * line["truncated"],
        "regret": line["regret_1"],
        "failed": float(line["failed"]),
    }


def trained(config: Config, seed: int, cell: Cell) -> TinyGPT:
    """The SFT model of a unit, trained on chosen solutions of all lengths; made once for all its arms."""

    def fresh() -> TinyGPT:
        alphabet, context = world_of(config, SFT_OPERANDS).alphabet, 16 + 2 * config.max_tokens
        return TinyGPT.new(
            alphabet, layers=config.layers, width=config.width, heads=4, context=context, seed=seed, batch_size=512
        )

    def build(folder: Path) -> None:
        lm = fresh()
        triples = drawn_pairs(config, SFT_OPERANDS, config.sft_pairs, numpy_generator(seed, "sft"))
        end = [lm.tokenizer.eos_token_id]
        rows = [(prompt_ids(lm, prompt), completion_ids(lm, prompt, chosen) + end) for prompt, chosen, _ in triples]
        loader: DataLoader[Any] = DataLoader(
            range(len(rows)), batch_size=config.sft_batch, shuffle=True, generator=generator(seed, "sft order"),  # type: ignore[arg-type]
            collate_fn=lambda numbers: completion_batch([rows[i] for i in numbers]),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(lm.model.parameters(), lr=config.sft_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        fit(
            lm.model, SFT(), loader, optimizer=optimizer, steps=config.sft_steps, schedule=warmup_cosine(0.05), seed=seed,
            log_every=max(1, config.sft_steps // 20), progress=cell.progress, name="SFT",
        )  # fmt: skip
        save_weights(lm.model, folder / "sft.safetensors")

    names = ("high", "wrong", "layers", "width", "max_tokens", "sft_pairs", "sft_steps", "sft_batch", "sft_lr")
    key = {
        **{name: getattr(config, name) for name in names}, "seed": seed, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "code": code_sha256("tutelage.claims.align.star_po"),
    }  # fmt: skip
    lm = fresh()
    load_weights(lm.model, cell.cache.get("star-po-sft", key, build) / "sft.safetensors")
    return lm


def tokens(lm: TinyGPT, triples: list[tuple[str, str, str]]) -> TokenPairs:
    """Preference pairs in the model's tokens, with the end token."""
    end = [lm.tokenizer.eos_token_id]
    columns = [
        [prompt_ids(lm, prompt) for prompt, _, _ in triples],
        [completion_ids(lm, prompt, chosen) + end for prompt, chosen, _ in triples],
        [completion_ids(lm, prompt, rejected) + end for prompt, _, rejected in triples],
    ]
    return TokenPairs(*columns)


def data(config: Config) -> list[dict[str, Any]]:
    """The generated tasks, as results list them."""
    made = {"kind": "generated", "generator": "tutelage.data.worlds.arithmetic.ArithmeticChains", "version": 1}
    rows = (
        ("sums of 2 to 4 terms, chosen solutions", "train", config.sft_pairs),
        ("sums of 2 or 3 terms, preference pairs", "train", config.pairs),
        ("sums of 4 terms", "validation", config.validation),
        ("sums of 4 terms", "test", config.test),
    )
    return [{"name": name, "split": split, "n": n, **made} for name, split, n in rows]


CLAIM = Claim(
    slug="star-po",
    arms=ARMS,
    controls=(CONTROL,),
    scales={
        "smoke": Config(
            high=4,
            layers=1,
            width=8,
            sft_pairs=16,
            sft_steps=2,
            sft_batch=8,
            pairs=12,
            steps=2,
            batch=6,
            lrs=(1e-2,),
            dpo_betas=(0.01, 0.5),
            ln_dpo_betas=(1.0, 3.0),
            simpo_betas=(2.0,),
            simpo_gammas=(0.5, 1.5),
            validation=2,
            test=3,
            max_tokens=6,
        ),
        "claim": Config(),
        "paper": Config(
            layers=4,
            width=128,
            high=9,
            sft_pairs=40000,
            sft_steps=6000,
            pairs=20000,
            steps=400,
            batch=64,
            test=500,
            lrs=(1e-4, 3e-4, 1e-3),
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "The answers of LN-DPO are shorter than those of DPO, on the mean over the grid.",
            "length",
            "ln-dpo",
            "dpo",
            better="lower",
        ),
        Sentence(
            "At the cells that are chosen on validation problems, the answers of LN-DPO are shorter than those of DPO.",
            "chosen_length",
            "ln-dpo",
            "dpo",
            better="lower",
        ),
        Sentence(
            "At the cells that are chosen on validation problems, the answers of SimPO are shorter than those of DPO.",
            "chosen_length",
            "simpo",
            "dpo",
            better="lower",
        ),
        Sentence(
            "At its chosen cell, LN-DPO has a reward that is at most 0.05 below that of DPO.",
            "chosen_reward",
            "ln-dpo",
            "dpo",
            kind="noninferiority",
            margin=-0.05,
        ),
        Sentence(
            "At its chosen cell, SimPO has a reward that is at most 0.05 below that of DPO.",
            "chosen_reward",
            "simpo",
            "dpo",
            kind="noninferiority",
            margin=-0.05,
        ),
        Sentence(
            "Over the whole grid, LN-DPO has a higher mean reward than DPO.",
            "reward",
            "ln-dpo",
            "dpo",
        ),
        Sentence(
            "Over the whole grid, LN-DPO has a higher mean reward than DPO with its own betas divided by the mean length.",
            "reward",
            "ln-dpo",
            CONTROL,
        ),
        Sentence(
            "At its chosen cell, LN-DPO has a higher reward than the SFT model.",
            "chosen_reward",
            "ln-dpo",
            "sft",
        ),
        Sentence(
            "The trap is set: chosen completions of the pairs are longer than rejected ones.",
            "length_gap",
            "sft",
            kind="threshold",
            margin=0.0,
        ),
    ),
    axes=("length", "reward"),
    metric_labels={
        "grid_sd_of_reward": "standard deviation of the reward over the grid",
        "reward": "reward, mean over the grid",
        "worst_reward": "reward of the worst cell",
        "q25_reward": "reward, lower quartile of the grid",
        "best_of_3": "reward of the best of 3 random cells",
        "chosen_reward": "reward of the chosen cell",
        "chosen_length": "length at the chosen cell, tokens",
        "chosen_kl": "KL to the SFT model at the chosen cell, nats",
        "length": "length, tokens, mean over the grid",
        "kl": "KL to the SFT model, nats, mean over the grid",
        "win_rate": "wins against the SFT model, %",
        "truncated": "answers that did not end, %",
        "regret": "reward lost by taking a random cell",
        "failed": "trainings that failed",
        "right": "right answers, %",
        "length_gap": "chosen less rejected, tokens",
    },
)
