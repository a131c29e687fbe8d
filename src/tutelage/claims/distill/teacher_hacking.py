"""Claim of teacher hacking: with an oracle whose law is known, do fixed answers of the teacher lead away from the truth?

The oracle is a character trigram model of real English text, so its law is known exactly at every prefix. Oracle -> teacher ->
student: the teacher, a small GPT, is fine-tuned on answers of the oracle; the student, of the same size, on the same answers
for less long, so that the teacher is better than the student's start. A unit is a seed with its own prompts, answers, teacher
and student. All arms start from the same student and take as many gradient steps, each over as many answers; only the answers
differ. Distances, in nats a token, are measured on prompts that nobody was trained on, with frozen answers, by exact
divergences of whole laws. Nothing is selected by them: what is compared is the end. How long teacher and student are
fine-tuned, and the rate, were set on a seed that is no unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.core.rng import derive
from tutelage.data.english import SYMBOLS, trigram_table
from tutelage.methods.distill.teacher_hacking.distillation import distill, fine_tune
from tutelage.methods.distill.teacher_hacking.monitor import HackingMonitor, HackingReport
from tutelage.models.language.next_token import NGramTable, Padded
from tutelage.models.language.ngram import NGramLM
from tutelage.models.language.tiny import TinyGPT
from tutelage.models.loading import load_weights, save_weights
from tutelage.teaching.language.on_policy import Source, freeze_answers


class Config(ClaimConfig):
    """What `--set` may change."""

    layers: int = Field(2, ge=1)
    width: int = Field(64, ge=4)
    heads: int = Field(4, ge=1)
    prompt_length: int = Field(6, ge=1)
    answer_length: int = Field(18, ge=1)
    oracle_answers: int = Field(1500, ge=1, description="answers of the oracle that teacher and student are fine-tuned on")
    teacher_epochs: int = Field(12, ge=1)
    student_epochs: int = Field(8, ge=1)
    fine_tuning_lr: float = Field(2e-3, gt=0)
    prompts: int = Field(64, ge=4, multiple_of=4, description="of the distillation")
    epochs: int = Field(512, ge=4, multiple_of=4, description="passes over the prompts")
    every: int = Field(16, ge=4, multiple_of=4, description="passes between two measurements")
    lr: float = Field(1e-3, gt=0)
    warmup: int = Field(20, ge=0, description="steps until the rate is reached")
    val_prompts: int = Field(256, ge=20)


SPECIAL = 3  # ids 0 to 2 are TinyGPT's: padding, first and end token
# arm -> source, answers for each prompt
ARMS: dict[str, tuple[Source, int]] = {
    "offline-one-answer": ("offline", 1),
    "offline-four-answers": ("offline", 4),
    "offline-quarter-of-prompts": ("offline", 4),
    "online-teacher": ("online_teacher", 1),
    "online-student": ("online_student", 1),
}
UNTAUGHT = "undistilled-student"


@cache
def the_oracle() -> NGramTable:
    """Letters after letters, by the trigrams of real text; texts do not end."""
    lm = NGramLM(trigram_table(), order=3, unit="character", strength=1.0)
    return NGramTable.of(lm, [None] * SPECIAL + list(SYMBOLS))


def texts(config: Config, oracle: NGramTable, seed: int) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Prompts for fine-tuning, for distillation and for measuring, all of them different. They begin where a word does."""
    wanted = config.oracle_answers + config.prompts + config.val_prompts
    drawn: dict[tuple[int, ...], None] = {}
    while len(drawn) < wanted:
        starts = Padded.left([[SPECIAL]] * wanted)  # a space
        rows = freeze_answers(oracle, starts, config.prompt_length, seed=derive(seed, "prompts", len(drawn)), name="prompts")
        drawn |= dict.fromkeys(map(tuple, rows.rows()))
    found = [list(row) for row in drawn][:wanted]
    tuning, rest = found[: config.oracle_answers], found[config.oracle_answers :]
    return tuning, rest[: config.prompts], rest[config.prompts :]


def net(config: Config, seed: int) -> TinyGPT:
    return TinyGPT.new(
        SYMBOLS, layers=config.layers, width=config.width, heads=config.heads,
        context=config.prompt_length + config.answer_length, seed=seed,
    )  # fmt: skip


def tuned(who: str, config: Config, oracle: NGramTable, seed: int, cell: Cell) -> TinyGPT:
    """Teacher or student behind stage 1; made once for all arms of a unit."""
    epochs = config.teacher_epochs if who == "teacher" else config.student_epochs

    def build(folder: Path) -> None:
        prompts = texts(config, oracle, seed)[0]
        answers = freeze_answers(
            oracle, Padded.left(prompts), config.answer_length, seed=derive(seed, "stage 1"), name="oracle"
        )
        lm = net(config, derive(seed, who))
        fine_tune(
            lm,
            prompts,
            answers.rows(),
            epochs=epochs,
            batch_size=64,
            lr=config.fine_tuning_lr,
            seed=seed,
            progress=cell.progress,
        )
        save_weights(lm.model, folder / "net.safetensors")

    key = {
        "who": who, "seed": seed, "epochs": epochs, "torch": torch.__version__, "threads": torch.get_num_threads(),
        "config": config.model_dump(exclude={"teacher_epochs", "student_epochs", "epochs", "every", "lr", "warmup"}),
        "code": code_sha256("tutelage.claims.distill.teacher_hacking"),
    }  # fmt: skip
    lm = net(config, 0)
    load_weights(lm.model, cell.cache.get("teacher-hacking-nets", key, build) / "net.safetensors")
    lm.model.eval()
    return lm


def cell(cell: Cell) -> Mapping[str, float]:
    """Distil one student as the arm says, and measure it on the way."""
    if cell.arm in ARMS:
        return measured(taught(cell))
    monitor, _, student, _ = prepared(cell, cell.config.every)
    start = monitor.measure(student, 0)
    assert monitor.gap is not None
    return {
        "final_golden_distance": start["golden"],
        "final_proxy_distance": start["proxy"],
        "teacher_gap": float(monitor.gap.mean()),
    }


def prepared(cell: Cell, every: int) -> tuple[HackingMonitor, TinyGPT, TinyGPT, list[list[int]]]:
    """The monitor, teacher and student behind stage 1, and the prompts of the distillation."""
    config: Config = cell.config
    seed = derive(cell.unit, "teacher hacking")
    oracle = the_oracle()
    _, prompts, val = texts(config, oracle, seed)
    teacher, student = (tuned(who, config, oracle, seed, cell) for who in ("teacher", "student"))
    monitor = HackingMonitor(
        teacher, oracle, val_prompts=val, every=every, max_new=config.answer_length, seed=derive(seed, "frozen")
    )
    return monitor, teacher, student, prompts


def taught(cell: Cell) -> HackingReport:
    """What the monitor saw while a student was distilled as the arm says."""
    config: Config = cell.config
    # four answers to a prompt make a pass four times as long, and as many steps take a quarter of the passes
    shorter = 4 if cell.arm == "offline-four-answers" else 1
    monitor, teacher, student, prompts = prepared(cell, config.every // shorter)
    source, generations = ARMS[cell.arm]
    run = distill(
        student, teacher, prompts, source=source, generations=generations,
        size=config.prompts if cell.arm == "offline-quarter-of-prompts" else None,
        epochs=config.epochs // shorter, batch_size=config.prompts, max_new=config.answer_length, lr=config.lr,
        warmup=config.warmup, monitor=monitor, seed=derive(derive(cell.unit, "teacher hacking"), "distillation"),
        progress=cell.progress,
    )  # fmt: skip
    assert run.report is not None
    return run.report


def measured(found: HackingReport) -> dict[str, float]:
    """The numbers of a report, in nats a token; the epoch of the minimum as a share of the whole run."""
    assert found.golden is not None
    assert found.teacher_gap is not None
    assert found.stop_at is not None
    best = found.epochs.index(found.stop_at)
    return {
        "final_golden_distance": found.golden[-1],
        "final_proxy_distance": found.proxy[-1],
        "least_golden_distance": found.golden[best],
        "golden_rise": found.golden[-1] - found.golden[best],
        "proxy_change_since_then": found.proxy[-1] - found.proxy[best],
        "when_least": found.stop_at / found.epochs[-1],
        "hacking": float(found.verdict == "hacking"),
        "left_power_law": float(found.powerlaw.flagged is not None),
        "teacher_gap": found.teacher_gap,
    }


def data(config: Config) -> list[dict[str, Any]]:
    """The generated texts, as results list them."""
    made = {"kind": "generated", "generator": "tutelage.data.english.english_trigrams (GSM8K questions), order 3", "version": 1}
    parts = {"fine-tuning": config.oracle_answers, "distillation": config.prompts, "measuring": config.val_prompts}
    return [{"name": "character-trigram oracle of English", "split": split, "n": n, **made} for split, n in parts.items()]


CLAIM = Claim(
    slug="teacher-hacking",
    arms=(UNTAUGHT, *ARMS),
    controls=(UNTAUGHT,),
    scales={
        "smoke": Config(
            layers=1, width=16, heads=2, answer_length=6, oracle_answers=64, teacher_epochs=2, student_epochs=1, prompts=8,
            epochs=8, every=4, val_prompts=20,
        ),
        "claim": Config(),
        "paper": Config(
            layers=6, width=384, heads=6, prompt_length=32, answer_length=128, oracle_answers=100_000, teacher_epochs=4,
            student_epochs=1, prompts=4096, epochs=64, val_prompts=1024, lr=3e-4,
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "With the teacher's fresh answers, too, the student ends nearer to the oracle than with one fixed answer a prompt.",
            "final_golden_distance", "online-teacher", "offline-one-answer", better="lower",
        ),
        Sentence(
            "With four fixed answers for each prompt it ends nearer to the oracle than with one.",
            "final_golden_distance", "offline-four-answers", "offline-one-answer", better="lower",
        ),
        Sentence(
            "As many fixed answers to a quarter of the prompts end farther from the oracle.",
            "final_golden_distance", "offline-one-answer", "offline-quarter-of-prompts", better="lower",
        ),
        Sentence(
            "With one fixed answer a prompt, the golden distance turns up: it ends above its minimum by more than 0.005.",
            "golden_rise", "offline-one-answer", kind="threshold", margin=0.005,
        ),
        Sentence(
            "With one fixed answer a prompt, the student comes nearer to its teacher after that minimum.",
            "proxy_change_since_then", "offline-one-answer", kind="threshold", better="lower",
        ),
        Sentence(
            "On its own fresh answers the golden distance turns up less than with one fixed answer a prompt.",
            "golden_rise", "online-student", "offline-one-answer", better="lower",
        ),
        Sentence(
            "Teaching helps at all: with one fixed answer a prompt the student ends nearer to the oracle than it began.",
            "final_golden_distance", "offline-one-answer", "undistilled-student", better="lower",
        ),
    ),
    axes=("final_proxy_distance", "final_golden_distance"),
    metric_labels={
        "final_golden_distance": "distance to the oracle at the end, nats a token",
        "final_proxy_distance": "distance to the teacher at the end, nats a token",
        "least_golden_distance": "least distance to the oracle, nats a token",
        "golden_rise": "distance to the oracle at the end minus its minimum",
        "proxy_change_since_then": "change of the distance to the teacher since that minimum",
        "when_least": "when the minimum was, share of the run",
        "hacking": "verdict hacking, share of the units",
        "left_power_law": "left the power law, share of the units",
        "teacher_gap": "distance of the teacher to the oracle, nats a token",
    },
)  # fmt: skip
