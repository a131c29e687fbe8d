"""The claim of SNOOPI: does a guidance scale drawn at random spare one the search for a fixed one, over three backbones?

MNIST-10k, coloured by us, 8 pixels a side; prompts such as "7 red dark". Three teachers, trained once: a U-Net of the noise,
a small transformer of the noise, a U-Net of v. A unit is a seed of the students: of their prompts, noise and levels; it holds
three students an arm, one a backbone. Distances are Frechet distances in the features of a judge that no training sees,
between 5,000 made pictures and 5,000 real test digits with the same prompts. The best fixed scale is found on validation
digits, unit by unit.

Arms of one backbone only (the transformer): where the scale is random, and NASA-T. Negative prompts are measured on the
students with a random scale: "7" without a colour, and each colour in turn forbidden; strengths are chosen with the digits 0
to 4 and reported with 5 to 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tutelage.claims.claim import Cell, Claim, Sentence
from tutelage.claims.distill.snoopi.config import Backbone, Config
from tutelage.claims.distill.snoopi.students import Recipe, Student, judged, measured, shape, student
from tutelage.claims.distill.snoopi.teachers import judge, part, teacher
from tutelage.core.rng import derive, generator
from tutelage.data.coloured_digits import ATTRIBUTES, COLOURS, prompt_of
from tutelage.methods.distill.snoopi.generator import Mode, OneStepGenerator
from tutelage.methods.distill.snoopi.measure import Removal, RemovalRow, chosen, removal_test
from tutelage.models.diffusion.guidance.classifier_free import ClassifierFree
from tutelage.models.diffusion.sampling import sample

SCALES = (1.5, 3.0, 4.5, 7.5)
FIXED = {f"fixed-{scale:g}": Recipe("fixed", scale) for scale in SCALES}
RANDOM = Recipe("random")
ONE_BACKBONE = {
    "random-in-teacher-only": Recipe("random", randomize=("teacher",)),
    "random-in-lora-only": Recipe("random", randomize=("lora",)),
    "negative-in-teacher-only": Recipe("random", negatives="teacher"),
    "nasa-t": Recipe("random", negatives="nasa"),
}
FORBID: dict[str, Mode] = {"nasa": "nasa", "nag": "nag", "output-cfg": "output-cfg", "embedding-subtraction": "embedding"}
ARMS = (
    *("teacher-one-step", "teacher-many-steps", *FIXED, "best-fixed-guidance-scale", "random-guidance-scale"),
    *ONE_BACKBONE,
    *FORBID,
)
CONTROLS = ("teacher-one-step",)


def cell(cell: Cell) -> Mapping[str, float]:
    """The numbers of one arm on one unit."""
    arm = cell.arm
    if arm in FORBID:
        return forbidden(cell, FORBID[arm])
    if arm in ONE_BACKBONE:
        first = cell.config.backbones[0]
        made = _student(cell, first, ONE_BACKBONE[arm])
        return {**_named(first, measured(cell.config, made.generator, cell.unit, cell.cache)), **_curve(first, made)}
    if arm == "teacher-one-step":
        return _over_backbones(cell, lambda backbone: (_as_it_is(cell, backbone), None))
    if arm == "teacher-many-steps":
        return _summary({backbone: _many_steps(cell, backbone) for backbone in _order(cell)})
    recipe, found = RANDOM, {}
    if arm in FIXED:
        recipe = FIXED[arm]
    elif arm == "best-fixed-guidance-scale":
        recipe = best_fixed(cell)
        found["scale"] = recipe.scale
    taught = {backbone: _student(cell, backbone, recipe) for backbone in _order(cell)}
    return found | _over_backbones(cell, lambda backbone: (taught[backbone].generator, taught[backbone]))


def best_fixed(cell: Cell) -> Recipe:
    """The fixed scale whose worst backbone is best on validation digits."""
    worst = {
        name: max(_student(cell, backbone, recipe).validation for backbone in cell.config.backbones)
        for name, recipe in FIXED.items()
    }
    return FIXED[min(worst, key=lambda name: worst[name])]


def _order(cell: Cell) -> list[Backbone]:
    """The backbones, another one first in each unit: workers side by side do not wait for the same teacher."""
    backbones: tuple[Backbone, ...] = cell.config.backbones
    turn = cell.unit % len(backbones)
    return [*backbones[turn:], *backbones[:turn]]


def _student(cell: Cell, backbone: Backbone, recipe: Recipe) -> Student:
    return student(cell.config, backbone, recipe, cell.unit, cell.cache, cell.progress)


def _as_it_is(cell: Cell, backbone: Backbone) -> OneStepGenerator:
    """A teacher asked for one step: what a student is before it is taught."""
    return OneStepGenerator(teacher(cell.config, backbone, cell.cache, cell.progress), shape(cell.config))


def _many_steps(cell: Cell, backbone: Backbone) -> dict[str, float]:
    config: Config = cell.config
    test = part(config, "test")
    rows = torch.randperm(len(test), generator=generator(cell.unit, "snoopi test"))[: config.n_test]
    model = teacher(config, backbone, cell.cache, cell.progress)
    noise, guide = generator(cell.unit, "snoopi many steps"), ClassifierFree(config.ddim_scale)
    made = [
        sample(model, some, shape(config), noise=noise, steps=config.ddim_steps, guidance=guide)
        for some in _parts([prompt_of(row) for row in test.attributes[rows].tolist()], 500)
    ]
    return judged(config, torch.cat(made), test.images[rows], test.attributes[rows], cell.cache)


def _parts(rows: list[str], size: int) -> list[list[str]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _over_backbones(cell: Cell, made: Any) -> dict[str, float]:
    rows: dict[Backbone, dict[str, float]] = {}
    curves: dict[str, float] = {}
    for backbone in _order(cell):
        generator_, taught = made(backbone)
        rows[backbone] = measured(cell.config, generator_, cell.unit, cell.cache)
        if taught is not None:
            curves |= _curve(backbone, taught)
    found = _summary(rows) | curves
    if curves:
        found["worst_backbone_late_rise"] = max(value for name, value in curves.items() if name.startswith("late_rise"))
        found["worst_backbone_validation_distance"] = max(
            value for name, value in curves.items() if name.startswith("validation_distance")
        )  # fmt: skip
    return found


def _curve(backbone: Backbone, taught: Student) -> dict[str, float]:
    return {f"late_rise[{backbone}]": taught.late_rise, f"validation_distance[{backbone}]": taught.validation}


def _named(backbone: Backbone, numbers: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}[{backbone}]": value for name, value in numbers.items()}


def _summary(rows: Mapping[Backbone, Mapping[str, float]]) -> dict[str, float]:
    """The worst backbone and the mean of all, then each."""
    distances = [row["frechet"] for row in rows.values()]
    found = {
        "worst_backbone_frechet_distance": max(distances),
        "mean_frechet_distance": sum(distances) / len(rows),
        "mean_accuracy": sum(row["accuracy"] for row in rows.values()) / len(rows),
        "worst_backbone_accuracy": min(row["accuracy"] for row in rows.values()),
        "mean_recall": sum(row["recall"] for row in rows.values()) / len(rows),
    }
    for backbone, row in rows.items():
        found |= _named(backbone, row)
    return found


# ---------------------------------------------------------------------------------------------------- negative prompts


def forbidden(cell: Cell, mode: Mode) -> dict[str, float]:
    """The removal test of one way to forbid, on the students with a random scale. Shares in per cent."""
    config: Config = cell.config
    found: dict[str, float] = {}
    rows = {backbone: removals(cell, backbone, mode) for backbone in config.backbones}
    for backbone, (row, validation) in rows.items():
        found |= _named(
            backbone,
            {
                "forbidden_before": 100 * row.suppression.before,
                "forbidden": 100 * row.suppression.after,
                "digit_accuracy_lost": 100 * row.lost,
                "alpha": row.alpha,
                "forbidden_on_validation": 100 * validation.suppression.after,
            },
        )
    names = ("forbidden_before", "forbidden", "digit_accuracy_lost")
    mean = {name: sum(found[f"{name}[{backbone}]"] for backbone in rows) / len(rows) for name in names}
    worst = max(found[f"forbidden[{backbone}]"] for backbone in rows)
    lost = max(found[f"digit_accuracy_lost[{backbone}]"] for backbone in rows)
    return mean | {"worst_backbone_forbidden": worst, "worst_backbone_digit_accuracy_lost": lost} | found


def removals(cell: Cell, backbone: Backbone, mode: Mode) -> tuple[RemovalRow, RemovalRow]:
    """(the row on the pairs that are reported, the row on validation pairs that chose its strength)."""
    config: Config = cell.config
    made = _student(cell, backbone, RANDOM).generator
    seed = derive(cell.unit, "removal", backbone)
    shows = judge_shows(cell)
    alphas = (1.0,) if mode == "nag" else config.alphas  # NAG keeps its own constants
    rows = removal_test(made, pairs(range(5)), shows, alphas=alphas, modes=(mode,), each=config.each, seed=seed)
    best = chosen(rows, mode, allowed_loss=config.allowed_loss / 100)
    test = removal_test(made, pairs(range(5, 10)), shows, alphas=(best.alpha,), modes=(mode,), each=config.each, seed=seed + 1)
    return test[0], best


def pairs(digits: range) -> list[Removal]:
    """Each digit without a colour, and each colour forbidden."""
    return [Removal(str(digit), colour) for digit in digits for colour in COLOURS]


def judge_shows(cell: Cell) -> Any:
    """Whether the judge sees a word, or all words of a prompt, in a picture."""
    eye = judge(cell.config, cell.cache)
    place = {word: (i, j) for i, words in enumerate(ATTRIBUTES.values()) for j, word in enumerate(words)}

    def shows(pictures: Tensor, words: Any) -> Tensor:
        with torch.no_grad():
            seen = torch.stack([out.argmax(1) for out in eye(pictures)], 1)
        asked = [[place[word] for word in prompt.split()] for prompt in words]
        return torch.tensor([all(int(seen[n, i]) == j for i, j in one) for n, one in enumerate(asked)])

    return shows


def data(config: Config) -> list[dict[str, Any]]:
    """The sets, as results list them."""
    return [dict(part(config, split).describe()) for split in ("train", "validation", "test")]


CLAIM = Claim(
    slug="snoopi",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            source="sklearn-digits", backbones=("dit-eps",), size=8, copies=1, unet_widths=(8, 16), dit_width=16,
            dit_layers=1, dit_patch=2, text_dim=8, unet_steps=3, dit_steps=3, teacher_batch=8, references=4, judge_epochs=1,
            steps=2, batch_size=4, evaluate_every=2, n_curve=16, n_test=16, ddim_steps=2, alphas=(0.3, 0.8), each=1,
        ),
        "claim": Config(),
        "paper": Config(
            size=24, unet_widths=(64, 128), dit_width=192, dit_layers=8, text_dim=64, unet_steps=20_000, unet_lr=1e-3,
            dit_steps=20_000, dit_lr=1e-3, teacher_batch=128, lr=1e-4, lr_lora=5e-4, steps=3000, batch_size=128,
            evaluate_every=150, n_curve=2000, n_test=10_000, ddim_steps=50, each=100, dit_patch=2,
        ),
    },
    units={"smoke": 2, "claim": 3, "paper": 3},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "The teachers themselves, in many steps, draw all that the prompt says in more than half of the pictures, on the "
            "worst backbone (otherwise the students have nothing to learn, and the other sentences say little).",
            "worst_backbone_accuracy", "teacher-many-steps", kind="threshold", margin=50.0,
        ),
        *(
            Sentence(
                f"Random guidance scales have a lower worst-case distance over the backbones than the fixed scale {scale:g}.",
                "worst_backbone_frechet_distance", "random-guidance-scale", f"fixed-{scale:g}", better="lower",
            )
            for scale in SCALES
        ),
        Sentence(
            "Random guidance scales rise less after their lowest distance, on the worst backbone, than the best fixed scale.",
            "worst_backbone_late_rise", "random-guidance-scale", "best-fixed-guidance-scale", better="lower",
        ),
        Sentence(
            "Random in both teachers has a lower distance than random in the frozen teacher only (transformer).",
            "frechet[dit-eps]", "random-guidance-scale", "random-in-teacher-only", better="lower",
        ),
        Sentence(
            "Random in both teachers has a lower distance than random in the LoRA teacher only (transformer).",
            "frechet[dit-eps]", "random-guidance-scale", "random-in-lora-only", better="lower",
        ),
        Sentence(
            "With NASA the forbidden colour is seen in less than 10 % of the pictures, as a mean over the backbones.",
            "forbidden", "nasa", kind="threshold", better="lower", margin=10.0,
        ),
        Sentence(
            "With NASA the forbidden colour is seen in less than 10 % of the pictures of the worst backbone.",
            "worst_backbone_forbidden", "nasa", kind="threshold", better="lower", margin=10.0,
        ),
        Sentence(
            "With NASA less than 10 points of digit accuracy are lost, on the worst backbone.",
            "worst_backbone_digit_accuracy_lost", "nasa", kind="threshold", better="lower", margin=10.0,
        ),
        Sentence(
            "NASA leaves less of the forbidden colour than guidance of the output of one step, at the same allowed loss.",
            "forbidden", "nasa", "output-cfg", better="lower",
        ),
        Sentence(
            "NASA leaves less of the forbidden colour than subtracting embeddings, at the same allowed loss.",
            "forbidden", "nasa", "embedding-subtraction", better="lower",
        ),
        Sentence(
            "NASA-T has a lower distance than negative prompts in the frozen teacher only (transformer).",
            "frechet[dit-eps]", "nasa-t", "negative-in-teacher-only", better="lower",
        ),
    ),
    axes=("worst_backbone_frechet_distance", "worst_backbone_accuracy"),
    metric_labels={
        "worst_backbone_frechet_distance": "Fréchet distance, worst backbone",
        "mean_frechet_distance": "Fréchet distance, mean of the backbones",
        "worst_backbone_accuracy": "condition accuracy, worst backbone, %",
        "mean_accuracy": "condition accuracy, mean of the backbones, %",
        "worst_backbone_late_rise": "rise after the lowest distance, worst backbone",
        "forbidden": "forbidden colour seen, %",
        "digit_accuracy_lost": "digit accuracy lost, points",
    },
)  # fmt: skip
