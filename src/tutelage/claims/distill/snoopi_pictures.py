"""Pictures for the report of the claim: made digits, and distances over training. Nothing is trained anew: what the cells of
unit 0 have left in the cache is shown; where that is gone, there are none."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from tutelage.claims.claim import ClaimResult
from tutelage.claims.distill.snoopi import FIXED, RANDOM
from tutelage.claims.distill.snoopi.config import Backbone, Config
from tutelage.claims.distill.snoopi.students import Recipe, Student, shape, student, student_key
from tutelage.claims.distill.snoopi.teachers import teacher
from tutelage.core.cache import Cache
from tutelage.core.rng import generator, normal
from tutelage.data.sets import DIGITS
from tutelage.methods.distill.snoopi.pictures import image_rows, stability_figure
from tutelage.models.diffusion.guidance.classifier_free import ClassifierFree
from tutelage.models.diffusion.sampling import sample

NAMES: dict[Backbone, str] = {"unet-eps": "U-Net of the noise", "dit-eps": "transformer of the noise", "unet-v": "U-Net of v"}
PROMPTS = [f"{digit} {colour} {ground}" for digit, colour, ground in zip(
    DIGITS, ("red", "green", "blue") * 4, ("dark", "light") * 5, strict=False
)]  # fmt: skip


def pictures(result: ClaimResult, cache: Cache | None = None) -> list[tuple[Figure, str]]:
    """(figure, caption) for the page of `result`."""
    config, cache = Config.model_validate(result.config), cache or Cache.default()
    before = torch.get_num_threads()
    torch.set_num_threads(int(result.environment.get("threads", 1)))  # part of a student's key
    try:
        return _pictures(config, cache)
    finally:
        torch.set_num_threads(before)


def _pictures(config: Config, cache: Cache) -> list[tuple[Figure, str]]:
    arms = {**FIXED, "random": RANDOM}
    taught: dict[Backbone, dict[str, Student]] = {}
    for backbone in config.backbones:
        found = {name: one for name, recipe in arms.items() if (one := _kept(config, backbone, recipe, cache)) is not None}
        if len(found) == len(arms):
            taught[backbone] = found
    if not taught:
        return []
    curves = {NAMES[backbone]: {name: one.curve for name, one in found.items()} for backbone, found in taught.items()}
    made = [
        (stability_figure(curves), "Distance to validation digits over the training of unit 0's students, averaged weights.")
    ]
    for backbone, found in taught.items():
        model = teacher(config, backbone, cache)
        noise = normal((len(PROMPTS), *shape(config)), generator(0, "shown"))
        guide = ClassifierFree(config.ddim_scale)
        rows = {f"teacher, {config.ddim_steps} steps": sample(
            model, PROMPTS, shape(config), noise=generator(0, "shown"), steps=config.ddim_steps, guidance=guide
        )}  # fmt: skip
        rows |= {name.replace("fixed-", "k = "): one.generator.generate(PROMPTS, noise=noise) for name, one in found.items()}
        made.append(
            (image_rows(rows, PROMPTS), f"{NAMES[backbone]}: the teacher and unit 0's one-step students, the same noise.")
        )
        plain = found["random"].generator
        without = {"no negative prompt": plain.generate(list(DIGITS), noise=noise)}
        for colour in ("red", "green", "blue"):
            without[f"without {colour}"] = plain.generate(list(DIGITS), negative=colour, alpha=0.6, noise=noise)
        made.append(
            (image_rows(without, DIGITS), f"{NAMES[backbone]}: digits without a colour in the prompt; NASA, alpha 0.6.")
        )
    return made


def _kept(config: Config, backbone: Backbone, recipe: Recipe, cache: Cache) -> Student | None:
    """A student that the cells have left, or None."""
    if not (cache.folder("one-step-students", student_key(config, backbone, recipe, 0)) / "manifest.json").is_file():
        return None
    return student(config, backbone, recipe, 0, cache)
