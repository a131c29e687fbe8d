"""The students of the claim: distilled once for each arm, backbone and unit, and kept in the cache with their curves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tutelage.auditing.generated import features_of, likeness
from tutelage.claims.codehash import code_sha256
from tutelage.claims.distill.snoopi.config import Backbone, Config
from tutelage.claims.distill.snoopi.teachers import fresh, judge, part, teacher
from tutelage.core.cache import Cache
from tutelage.core.feature_distances import frechet_distance
from tutelage.core.files import write_json
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, generator
from tutelage.data.coloured_digits import BACKGROUNDS, COLOURS, all_prompts, prompt_of
from tutelage.data.sets import DIGITS
from tutelage.methods.distill.snoopi.generator import OneStepGenerator
from tutelage.methods.distill.snoopi.training import Part, SnoopiConfig, distill_one_step
from tutelage.models.diffusion.guidance.scales import Fixed, GuidanceScale, Uniform

Kind = Literal["fixed", "random"]


@dataclass(frozen=True)
class Recipe:
    """How a student is taught. scale: if fixed. negatives: "teacher", the frozen teacher alone sees them; "nasa", NASA-T."""

    kind: Kind = "random"
    scale: float = 0.0
    randomize: tuple[Part, ...] = ("teacher", "lora")
    negatives: Literal["", "teacher", "nasa"] = ""


@dataclass(frozen=True)
class Student:
    """generator, and what validation digits said while it was taught: (step, Frechet distance), the last one at the end."""

    generator: OneStepGenerator
    curve: list[tuple[int, float]]

    @property
    def validation(self) -> float:
        """The distance at the end."""
        return self.curve[-1][1]

    @property
    def late_rise(self) -> float:
        """How far the distance rises again after its lowest point, at most: the instability."""
        values = [value for _, value in self.curve]
        lowest = values.index(min(values))
        return max(values[lowest:]) - values[lowest]


def training_prompts() -> list[str]:
    """Full prompts, and as many that leave something open."""
    coloured = [f"{digit} {colour}" for digit in DIGITS for colour in COLOURS]
    grounded = [f"{digit} {ground}" for digit in DIGITS for ground in BACKGROUNDS]
    return [*all_prompts(), *DIGITS, *coloured, *grounded]


def shape(config: Config) -> tuple[int, int, int]:
    return (3, config.size, config.size)


def student(config: Config, backbone: Backbone, recipe: Recipe, unit: int, cache: Cache, progress: Progress = QUIET) -> Student:
    """The student of a recipe, taught by the teacher of `backbone`."""
    place = cache.get(
        "one-step-students",
        student_key(config, backbone, recipe, unit),
        lambda folder: _teach(folder, config, backbone, recipe, unit, cache, progress),
    )
    curve = [(int(step), float(value)) for step, value in json.loads((place / "curve.json").read_text())]
    return Student(OneStepGenerator.load(place, fresh(config, backbone)), curve)


def student_key(config: Config, backbone: Backbone, recipe: Recipe, unit: int) -> dict[str, Any]:
    """All that a student depends on."""
    unused = ("backbones", "n_test", "ddim_steps", "ddim_scale", "alphas", "each", "allowed_loss")
    settings = {name: value for name, value in config.model_dump().items() if name not in unused}
    return {
        "backbone": backbone, "recipe": {**vars(recipe), "randomize": list(recipe.randomize)}, "unit": unit, "config": settings,
        "torch": torch.__version__, "threads": torch.get_num_threads(),
        "code": code_sha256("tutelage.claims.distill.snoopi.students"),
    }  # fmt: skip


def _teach(
    folder: Path, config: Config, backbone: Backbone, recipe: Recipe, unit: int, cache: Cache, progress: Progress
) -> None:  # fmt: skip
    eye, seed = judge(config, cache), derive(unit, "snoopi")
    real = part(config, "validation")
    shown = torch.randperm(len(real), generator=generator(seed, "curve"))[: config.n_curve]
    prompts = [prompt_of(row) for row in real.attributes[shown].tolist()]
    wanted = features_of(real.images, eye.features)

    def evaluate(made: OneStepGenerator) -> dict[str, float]:
        pictures = made.generate(prompts, seed=derive(seed, "curve noise")).cpu()
        return {"frechet": frechet_distance(wanted, features_of(pictures, eye.features))}

    guidance: GuidanceScale = Fixed(recipe.scale) if recipe.kind == "fixed" else Uniform(config.k_min, config.k_max)
    found = distill_one_step(
        teacher(config, backbone, cache, progress),
        training_prompts(),
        shape(config),
        steps=config.steps,
        batch_size=config.batch_size,
        guidance=guidance,
        negatives=list(COLOURS) if recipe.negatives else None,
        nasa_alpha=Uniform(0.0, 1.0) if recipe.negatives == "nasa" else None,
        config=SnoopiConfig(
            lr=config.lr, lr_lora=config.lr_lora, ema=config.ema, randomize=recipe.randomize, fixed_scale=config.ablation_scale
        ),
        evaluate=evaluate,
        evaluate_every=min(config.evaluate_every, config.steps),
        seed=seed,
        progress=progress,
    )
    found.generator.save(folder)
    # the step of an evaluation is the number of steps taken before it
    write_json(folder / "curve.json", [[int(row["step"]), row["frechet"]] for row in found.training.epochs])


def measured(config: Config, generator_: OneStepGenerator, unit: int, cache: Cache) -> dict[str, float]:
    """Of one backbone, against test digits with the prompts of those digits: distances, accuracy in per cent, recall."""
    test = part(config, "test")
    rows = torch.randperm(len(test), generator=generator(unit, "snoopi test"))[: config.n_test]
    prompts = [prompt_of(row) for row in test.attributes[rows].tolist()]
    made = generator_.generate(prompts, seed=derive(unit, "snoopi test noise"))
    return judged(config, made, test.images[rows], test.attributes[rows], cache)


def judged(config: Config, made: torch.Tensor, real: torch.Tensor, attributes: torch.Tensor, cache: Cache) -> dict[str, float]:
    """The numbers of made pictures: how like real ones they are, and how often the judge sees what was asked for."""
    eye = judge(config, cache)
    found = likeness(real, made, eye.features)
    with torch.no_grad():
        right = torch.stack([out.argmax(1) == attributes[:, i] for i, out in enumerate(eye(made))], 1)
    return {
        "frechet": found.frechet,
        "kernel": found.kernel,
        "recall": 100 * found.recall,
        "precision": 100 * found.precision,
        "accuracy": 100 * float(right.all(1).double().mean()),
        "digit_accuracy": 100 * float(right[:, 0].double().mean()),
    }
