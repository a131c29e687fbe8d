"""The claim of ImageNet-E: does a plainly trained classifier lose more where the object is small, and what would help?

Bundled emoji, classes = seven groups, put before photographs (CIFAR-10), 48 x 48. Emoji and photographs of training,
validation and test are different ones. Every unit is a seed with its own composites and nets. Arms are the eleven edits of
the plain net, three of them also with backgrounds drawn by a diffusion model; and, as averages over the ten edits, four nets:
plain, adversarially trained (PGD, Linf 4/255), AugMix-like augmentation, and attribute augmentation (any size, place,
direction and photograph). All see as many pictures as often; only the recipe differs. All are measured on the same edited
pictures, but for the adversarial background: it is made against the net that it is shown to, so that each meets its own worst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tutelage.auditing.attributes import AttributeReport
from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.claims.recipes import Recipe, build_net, train_student
from tutelage.core.errors import InputError
from tutelage.core.files import sha256_tensors
from tutelage.core.rng import derive, generator, seeded
from tutelage.data.cutouts import CutoutSet, read_masked
from tutelage.data.emoji import FILE_SHA256, SUBJECTS, emoji
from tutelage.data.images import ImageSet
from tutelage.data.photographs import photo_crops, sample_photograph
from tutelage.data.sets import standard_set
from tutelage.methods.audit.imagenet_e import AttributeSuite, attribute_report, build_suite
from tutelage.models.diffusion.denoiser import Condition, PromptDenoiser
from tutelage.models.diffusion.extras import extra
from tutelage.models.diffusion.nets import small_unet
from tutelage.models.diffusion.schedule import noise_schedule
from tutelage.models.diffusion.text import WordEncoder
from tutelage.models.loading import load_model, load_weights, save_weights
from tutelage.teaching.denoising import fit_denoiser
from tutelage.teaching.fit import Context, Objective
from tutelage.teaching.objectives import AdversarialTraining, CrossEntropy, pair
from tutelage.teaching.schedules import warmup_cosine
from tutelage.threats.attributes import (
    IMAGENET_E,
    AttributeEditor,
    DiffusionBackground,
    Edit,
    Placing,
    background_complexity,
    emoji_pictures,
)
from tutelage.threats.budgets import Linf
from tutelage.threats.engine import PGD

FOLDS = 5
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
STYLES = ("noto", "noto-v1", "fluent-flat")
NAMES = {"background-20": "background-smoother", "background+20": "background-busier"}
EDITS = {f"{NAMES.get(str(edit), str(edit)).replace('background+20-', 'background-')}-edit": edit for edit in IMAGENET_E}
NETS = ("plain", "pgd-at", "augmix", "attribute-augmentation")
DRAWN = ("inversion-diffusion", "background-smoother-diffusion", "background-busier-diffusion")  # by the paper's editor
ARMS = (*EDITS, *DRAWN, *(f"{net}-average" for net in NETS))
SMALL_MOVED_TURNED = ("size-5-percent", "position", "direction")
BACKGROUNDS = ("background-20", "background+20")
ATTACKED = "background+20-adversarial"


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["emoji", "folder"] = "emoji"
    photographs: Literal["cifar10", "samples"] = Field("cifar10", description="before which the emoji are put")
    images: str = Field("", description="with data=folder: a folder of class folders of test images")
    masks: str = Field("", description="with data=folder: the masks of the same names")
    n_train: int = Field(8000, ge=1)
    n_validation: int = Field(800, ge=1)
    n_test: int = Field(1500, ge=1)
    size: int = Field(48, ge=16, description="pixels a side")
    net: str = Field("tutelage.claims.audit.imagenet_e:four_blocks", description="package.module:function, or of recipes.NETS")
    plain_weights: str = Field("", description="safetensors of the plain net; trained here if empty, as the three below")
    pgd_at_weights: str = ""
    augmix_weights: str = ""
    attribute_augmentation_weights: str = ""
    epochs: int = Field(20, ge=1)
    lr: float = Field(0.05, gt=0)
    batch_size: int = Field(128, ge=1)
    eps: float = Field(4 / 255, gt=0, description="Linf budget of the adversarially trained net")
    attack_steps: int = Field(3, ge=1)
    denoiser: str = Field("", description="package.module:function of a net (x_t, t) -> noise; trained here if empty")
    n_drawn: int = Field(250, ge=1, description="test pictures whose backgrounds the diffusion model draws")
    denoiser_steps: int = Field(1500, ge=1, description="of its training; one model serves all units")
    denoiser_widths: tuple[int, int] = (16, 32)


class FourBlocks(nn.Sequential):
    """Four convolutions of 3 x 3 after a PixelUnshuffle(2), the last three with stride 2, then the mean over the picture."""

    def __init__(self, width: int = 24, classes: int = 7) -> None:
        widths = (12, width, 2 * width, 4 * width, 4 * width)
        blocks: list[nn.Module] = [nn.PixelUnshuffle(2)]
        for i, (before, after) in enumerate(pairwise(widths)):
            conv = nn.Conv2d(before, after, 3, stride=1 if i == 0 else 2, padding=1, bias=False)
            blocks += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def four_blocks() -> nn.Module:
    """The CNN of the claim: images (B, 3, H, W) in [0, 1] -> logits of seven groups."""
    return FourBlocks().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def tiny() -> nn.Module:
    """For the smoke scale."""
    return FourBlocks(width=8)


@cache
def photographs(source: str, part: Part, *, calm: bool = True) -> Tensor:
    """Photographs of a part, (M, 3, h, w) uint8. calm: only those whose complexity C is in the lower two thirds.

    The threshold is that of the training photographs. Parts share no photograph; of the two samples, one is cut in two.
    """
    if source == "samples":
        whole = {"train": sample_photograph("china"), "validation": sample_photograph("flower")[:, :, :256]}
        pool = photo_crops([whole.get(part, sample_photograph("flower")[:, :, 256:])], 48, 32, seed=derive(0, part))
    else:
        pool = standard_set("cifar10", "test" if part == "test" else "train").images
        pool = pool[40_000:] if part == "validation" else pool[:40_000]
    if not calm:
        return pool
    values = _complexity(pool)
    limit = values if part == "train" else _complexity(photographs(source, "train", calm=False))
    return pool[values <= limit.quantile(2 / 3)]


def _complexity(pool: Tensor) -> Tensor:
    return torch.cat([background_complexity(part.float() / 255) for part in torch.split(pool, 1000)])


@cache
def _pool_sha256(source: str) -> str:
    return sha256_tensors({part: photographs(source, part, calm=False) for part in PARTS})


def pictures(config: Config, part: Part, unit: int, placing: Placing | None = None) -> CutoutSet:
    """The pictures of a part for one unit."""
    seed = derive(unit, "imagenet-e")
    if config.data == "folder":  # no seeds there: a unit is every fifth picture, and units share none
        everything = read_masked(config.images, config.masks, size=config.size, split="test")
        order = torch.randperm(len(everything), generator=generator(0, "folder"))[: config.n_test]
        return everything.take(order[unit::FOLDS])
    n = {"train": config.n_train, "validation": config.n_validation, "test": config.n_test}[part]
    pool = photographs(config.photographs, part, calm=placing is None)
    return emoji_pictures(
        n, pool, split=part, size=config.size, styles=STYLES, placing=placing or Placing(), seed=derive(seed, part)
    )


# attribute augmentation: sizes beyond those of the edits at both ends, any place, the angles of the edit, any photograph
ANY = Placing(rate=(0.03, 0.7), angle=45.0, shift=None, log_rate=True)


class AugMixLike:
    """Cross-entropy on mixtures of augmented pictures (Hendrycks et al. 2020, arXiv:1912.02781), without the consistency loss.

    Three chains of one to three operations (turn, shear, shift, posterize, solarize, stretch the contrast), mixed with
    Dirichlet(1) weights, then with the picture by Beta(1, 1). The operations are those of the batch, strengths each picture's.
    """

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = pair(batch)
        return F.cross_entropy(model(mixed(x, ctx.generator)), y), {}


def mixed(x: Tensor, source: torch.Generator) -> Tensor:
    """Pictures (B, C, H, W) in [0, 1] -> mixtures of the same shape and range."""
    shares = torch.rand(len(x), 3, generator=source).log().neg()  # exponential variables over their sum: Dirichlet(1)
    shares = shares / shares.sum(1, keepdim=True)
    keep = torch.rand(len(x), generator=source)
    mixture = torch.zeros_like(x)
    for chain in range(3):
        one = x
        for _ in range(int(torch.randint(1, 4, (), generator=source))):
            which = int(torch.randint(6, (), generator=source))
            one = _operation(one, which, torch.rand(len(x), generator=source))
        mixture = mixture + shares[:, chain, None, None, None] * one
    keep = keep[:, None, None, None]
    return (keep * x + (1 - keep) * mixture).clamp(0, 1)


def _operation(x: Tensor, which: int, u: Tensor) -> Tensor:
    """One operation of strength u (B,) in [0, 1)."""
    each = u[:, None, None, None]
    if which < 3:
        amount, zero, one = 2 * u - 1, torch.zeros_like(u), torch.ones_like(u)
        if which == 0:  # turn by up to 10 degrees
            a = amount * 0.175
            rows = torch.stack([a.cos(), -a.sin(), zero, a.sin(), a.cos(), zero], 1)
        elif which == 1:  # shear by up to 0.1
            rows = torch.stack([one, 0.1 * amount, zero, zero, one, zero], 1)
        else:  # shift by up to a tenth
            rows = torch.stack([one, zero, 0.2 * amount, zero, one, zero], 1)
        grid = F.affine_grid(rows.reshape(-1, 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    if which == 3:  # 4 to 32 grey levels
        levels = 4 + (28 * each).floor()
        return (x * levels).floor().clamp_max(levels - 1) / (levels - 1)
    if which == 4:  # invert what is brighter than 0.6 to 1
        limit = 0.6 + 0.4 * each
        return torch.where(x > limit, 1 - x, x)
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-3)


def trained(kind: str, config: Config, cell: Cell) -> nn.Module:
    """The net of a kind for this unit, from the cache if it was trained before. All have the same data, steps and selection."""
    if weights := _weights(config, kind):
        return load_model(config.net, weights)
    seed = derive(cell.unit, "imagenet-e")
    # what the pictures are made of, instead of the pictures: they need not be drawn to find the net
    key = {
        "kind": kind, "config": config.model_dump(exclude={"n_test"}), "seed": seed, "emoji": FILE_SHA256,
        "photographs": _pool_sha256(config.photographs), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "code": code_sha256(__name__),
    }  # fmt: skip

    def build(folder: Path) -> None:
        placing = ANY if kind == "attribute-augmentation" else None
        train, validation = (pictures(config, part, cell.unit, placing).images for part in PARTS[:2])
        net = build_net(config.net, train, derive(seed, "net"))
        recipe = Recipe(config.net, config.epochs, config.lr, batch_size=config.batch_size, attack_steps=config.attack_steps)
        robust = kind == "pgd-at"
        train_student(
            net, _objective(kind, config), recipe, train, validation, seed=derive(seed, "net"),
            select="robust" if robust else "clean", eps=config.eps if robust else 0.0, progress=cell.progress, name=kind,
        )  # fmt: skip
        save_weights(net, folder / "model.safetensors")

    folder = cell.cache.get("attribute-nets", key, build)
    shape = torch.zeros(1, 3, config.size, config.size)
    net = build_net(config.net, ImageSet(shape, torch.zeros(1, dtype=torch.int64), SUBJECTS), 0)
    load_weights(net, folder / "model.safetensors")
    return net.eval()


def denoiser(config: Config, cell: Cell) -> Callable[[Tensor, Tensor], Tensor]:
    """A small diffusion model of the training photographs: (x_t in [-1, 1], t) -> the predicted noise. One for all units."""
    if config.denoiser:
        return load_model(config.denoiser).eval()
    backgrounds = pictures(config, "train", 0).backgrounds
    with seeded(derive(0, "imagenet-e", "denoiser")):
        net = small_unet(config.size, widths=config.denoiser_widths)
        model = PromptDenoiser(WordEncoder(["photograph"], length=2), net, noise_schedule("linear"))
    key = {
        "config": config.model_dump(include={"photographs", "n_train", "size", "denoiser_steps", "denoiser_widths"}),
        "backgrounds": sha256_tensors({"backgrounds": backgrounds}), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "code": code_sha256(__name__),
    }  # fmt: skip

    def build(folder: Path) -> None:
        fit_denoiser(
            model, backgrounds, [""] * len(backgrounds), steps=config.denoiser_steps, batch_size=min(32, len(backgrounds)),
            schedule=warmup_cosine(0.05), null_probability=0.0, progress=cell.progress,
        )  # fmt: skip
        save_weights(model, folder / "model.safetensors")

    load_weights(model, cell.cache.get("attribute-denoisers", key, build) / "model.safetensors")
    model.eval().requires_grad_(False)
    condition = model.encode([""])

    def noise_in(x: Tensor, t: Tensor) -> Tensor:
        n = len(x)
        return model.denoise(x, t, Condition(condition.features.expand(n, -1, -1), condition.mask.expand(n, -1)))

    return noise_in


def drawn(arm: str, config: Config, cell: Cell, test: CutoutSet, plain: nn.Module, seed: int) -> dict[str, float]:
    """One of DRAWN. The paper's lambda belongs to 256 pixels a side; C's slope in a pixel is as 1 over the side."""
    strength = 20.0 * config.size / 256
    edit = {
        "inversion-diffusion": Edit("inversion"),
        "background-smoother-diffusion": Edit("background", -strength),
        "background-busier-diffusion": Edit("background", strength),
    }[arm]
    editor = AttributeEditor(DiffusionBackground(denoiser(config, cell)), seed=seed)
    suite = build_suite(test.take(torch.arange(min(config.n_drawn, len(test)))), [edit], editor=editor)
    return _figures(plain, suite)


def _weights(config: Config, kind: str) -> str:
    return str(getattr(config, f"{kind.replace('-', '_')}_weights"))


def _objective(kind: str, config: Config) -> Objective:
    if kind == "pgd-at":
        return AdversarialTraining(PGD(Linf(config.eps), steps=config.attack_steps))
    return AugMixLike() if kind == "augmix" else CrossEntropy()


def cell(cell: Cell) -> Mapping[str, float]:
    """One edit of the plain net, or the ten edits of a net. Accuracies in per cent, drops in percentage points."""
    config: Config = cell.config
    seed = derive(cell.unit, "imagenet-e")
    plain = trained("plain", config, cell)
    test = pictures(config, "test", cell.unit)
    if cell.arm in DRAWN:
        return drawn(cell.arm, config, cell, test, plain, derive(seed, "editor"))
    editor = AttributeEditor(seed=derive(seed, "editor"))
    if cell.arm in EDITS:
        suite = build_suite(test, [EDITS[cell.arm]], editor=editor, surrogate=plain)
        return _figures(plain, suite)
    kind = cell.arm.removesuffix("-average")
    net = plain if kind == "plain" else trained(kind, config, cell)
    suite = build_suite(test, IMAGENET_E, editor=editor, surrogate=net)
    metrics = averages(attribute_report(net, suite, examples=0))
    if kind == "attribute-augmentation":
        before = averages(attribute_report(plain, suite, examples=0))["small_moved_turned"]
        metrics["below_half"] = before / 2 - metrics["small_moved_turned"]
    return metrics


def _figures(net: nn.Module, suite: AttributeSuite) -> dict[str, float]:
    """Of a suite with one edit. complexity: how much busier the pictures got, in per cent of C."""
    row = attribute_report(net, suite, examples=0).rows[0]
    (edited,) = suite.edited.values()
    before, after = (float(_complexity(images.images).mean()) for images in (suite.original, edited.images))
    return {
        "top1_drop": row.drop, "original": row.original, "edited": row.edited, "rate": 100 * row.rate,
        "done": 100 * row.n / row.total, "complexity": 100 * (after / before - 1),
    }  # fmt: skip


def averages(report: AttributeReport) -> dict[str, float]:
    """Means over edits of one net, in points, and the drop of each."""
    ten = [row for row in report.rows if row.attribute != "none"]
    drops = {row.edit: row.drop for row in report.rows}
    clean = report.row("inversion").original

    def mean(names: tuple[str, ...]) -> float:
        return sum(drops[name] for name in names) / len(names)

    return {
        "top1_drop": sum(row.drop for row in ten) / len(ten),
        "natural_drop": sum(row.drop for row in ten if row.edit != ATTACKED) / (len(ten) - 1),
        "original": clean,
        "edited": sum(row.edited for row in ten) / len(ten),
        "small_moved_turned": mean(SMALL_MOVED_TURNED),
        # of what is right on the originals
        "background_share": 100 * mean(BACKGROUNDS) / max(clean, 1e-9),
        **{f"drop_{name}": drop for name, drop in drops.items()},
    }


def data(config: Config) -> list[dict[str, Any]]:
    if config.data == "folder":
        for name in ("images", "masks", "net", "denoiser", *(f"{kind.replace('-', '_')}_weights" for kind in NETS)):
            if not getattr(config, name):  # said before anything is computed
                raise InputError(name, "none", f"--set {name}=..., with data=folder")
        return [pictures(config, "test", 0).describe()]
    extra("diffusers", "the diffusion model of the claim imagenet-e")
    sets = []
    for part in PARTS:
        drawings = emoji(styles=STYLES, split=part, groups=SUBJECTS)
        sets.append(drawings.on("white").describe())
        pool = photographs(config.photographs, part)
        behind = ImageSet(pool, torch.zeros(len(pool), dtype=torch.int64), ("photograph",), _source(config), part)
        sets.append(behind.describe())
    return sets


def _source(config: Config) -> str:
    if config.photographs == "samples":
        return "crops of scikit-learn's photographs"
    return f"{standard_set('cifar10', 'test').name}, as backgrounds"


def _of_plain(words: str, method: str, baseline: str, **about: Any) -> Sentence:
    return Sentence(words, "top1_drop", method, baseline, **about)


CLAIM = Claim(
    slug="imagenet-e",
    arms=ARMS,
    controls=("inversion-edit",),
    scales={
        "smoke": Config(
            photographs="samples", n_train=96, n_validation=16, n_test=24, size=32, epochs=5, lr=0.1, batch_size=16,
            attack_steps=1, net="tutelage.claims.audit.imagenet_e:tiny", n_drawn=8, denoiser_steps=10, denoiser_widths=(8, 16),
        ),
        "claim": Config(),
        "paper": Config(data="folder", size=256, net="", n_test=4352),
    },
    units={"smoke": 2, "claim": 5, "paper": FOLDS},
    cell=cell,
    data=data,
    secondary=(
        _of_plain("The plain net loses more at 5 % of the frame than at 10 %.", "size-5-percent-edit", "size-10-percent-edit"),
        _of_plain("The inversion costs at most 2 points.", "inversion-edit", "", kind="threshold", better="lower", margin=2.0),
        *(
            _of_plain(f"The plain net loses more by {words} than by the inversion.", f"{arm}-edit", "inversion-edit")
            for words, arm in (
                ("a smoother background", "background-smoother"), ("a busier background", "background-busier"),
                ("an adversarial background", "background-adversarial"), ("a background of another class", "background-random"),
                ("another position", "position"), ("another direction", "direction"),
            )
        ),
        _of_plain(
            "Attribute augmentation cuts the average drop by at least 5 points.",
            "attribute-augmentation-average", "plain-average", better="lower", margin=5.0,
        ),
        Sentence(
            "Attribute augmentation cuts the average drop of the nine edits without an attack by at least 5 points.",
            "natural_drop", "attribute-augmentation-average", "plain-average", better="lower", margin=5.0,
        ),
        Sentence(
            "AugMix-like augmentation has a smaller average drop in the nine edits without an attack.",
            "natural_drop", "augmix-average", "plain-average", better="lower",
        ),
        *(
            _of_plain(
                f"The plain net loses more by a {word} background than by the inversion where a diffusion model draws them.",
                f"background-{word}-diffusion", "inversion-diffusion",
            )
            for word in ("smoother", "busier")
        ),
        Sentence(
            "Attribute augmentation cuts the drop of size 5 %, position and direction by more than half.",
            "below_half", "attribute-augmentation-average", kind="threshold",
        ),
        Sentence(
            "Adversarial training loses a larger share of its accuracy than the plain net by smoother and busier backgrounds.",
            "background_share", "pgd-at-average", "plain-average",
        ),
        _of_plain("AugMix-like augmentation has a smaller average drop.", "augmix-average", "plain-average", better="lower"),
    ),
    axes=("original", "edited"),
    metric_labels={
        "original": "accuracy on the originals, %", "edited": "accuracy on the edited pictures, %",
        "top1_drop": "top-1 drop, points",
        "complexity": "change of complexity, %",
        "natural_drop": "average without the adversarial background, points",
    },
)  # fmt: skip
