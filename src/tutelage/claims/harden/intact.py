"""The claim of INTACT: does noise at the points that a meta-learned teacher finds salient beat the same noise anywhere?

Furniture: clouds sampled from the meshes of Sweet Home 3D, twelve classes, split by family of shapes. A unit is a seed with
its own split, its own meta-trained teacher and its own initial student, which all its arms share. Every arm may spend the same
number of gradients (clouds that go forward and backward, whichever net), so cheap arms train for more epochs; the training of
the teacher is reported apart, as `teacher_gradients`. All arms have the same schedule and batch size. Each arm is trained at
two rates and examined at the one that was better on the unit's own validation clouds; the ablations of INTACT have INTACT's
rate. The other constants are the card's; nothing was chosen on test data. The untargeted curriculum is the student's own
objective without a teacher, with points picked uniformly, all of them (`untargeted-curriculum`), or as many as INTACT picks
(`untargeted-same-share`); with the teacher's answers but not its saliency it is `intact-no-targeting`. `meta-teacher` is the
teacher itself, asked instead of its student.

Tested: corruptions of kinds that curriculum or teacher saw, and two that nobody saw (tilt, ray drop). The arms tracking-...
train the same objectives on clusters of simulated LiDAR scans of other streets (cars, people, other things) and track through
clean and noisy sequences with shapes that no training saw; their metric is MOTA. The arms intact-... change one part of INTACT
each; the whole 2 x 2 x 2 x 2 table (teacher, targeting, schedule, kind of noise) comes with `ablation`. Per cent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from tutelage.auditing.points import PointTable, accuracy, corruption_table
from tutelage.auditing.tracking.detector import track_scans
from tutelage.auditing.tracking.mota import TrackFrame, mota
from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.core.files import write_json
from tutelage.core.rng import derive, generator, seeded
from tutelage.data.points.cloud import PointSet, Split, normalised
from tutelage.data.points.furniture import furniture, shapes
from tutelage.data.points.lidar import Scan
from tutelage.data.points.traffic import KINDS, Sequenced, cluster_set, street
from tutelage.methods.harden.intact.noise import HOWS, How, Noise
from tutelage.methods.harden.intact.teacher import meta_teacher
from tutelage.methods.harden.intact.training import (
    Advisor,
    FullNoise,
    Intact,
    IntactConfig,
    Plain,
    PointAdversarial,
    fixed,
    intact_train,
)
from tutelage.models.loading import load_weights, save_weights
from tutelage.models.points.pointnet import PointNet
from tutelage.teaching.curricula.level import Curriculum
from tutelage.teaching.schedules import warmup_cosine
from tutelage.threats.points.corruptions import PointCorruption
from tutelage.threats.points.pgd import PointPGD


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["furniture", "generated"] = "furniture"
    views: int = Field(2, ge=1, description="turned copies of each test or validation shape")
    n_points: int = Field(128, ge=16, le=1024)
    width: int = Field(32, ge=4, description="of the first layer of a point; the others have 2 and 6 times that")
    budget: int = Field(36_000, ge=1, description="gradients of an arm: clouds forward and backward, all nets")
    batch_size: int = Field(8, ge=2)
    lr: float = Field(3e-3, gt=0)
    lr_high: float = Field(6e-3, gt=0, description="the other rate that an arm may have; validation clouds say which")
    sigma: float = Field(0.08, ge=0)
    drop: float = Field(0.6, ge=0, le=1)
    target: float = Field(0.3, gt=0, le=1)
    w_clean: float = Field(0.3, ge=0, le=1)
    w_distill: float = Field(0.5, ge=0)
    temperature: float = Field(2.0, gt=0)
    meta_steps: int = Field(600, ge=1)
    meta_lr: float = Field(3e-3, gt=0)
    inner_lr: float = Field(0.01, ge=0)
    task_size: int = Field(8, ge=2)
    task_classes: int = Field(8, ge=2)
    pgd_steps: int = Field(3, ge=1)
    pgd_eps: float = Field(0.08, ge=0, description="radius of the balls of PGD training and of the advisor")
    tracking_budget: int = Field(16_000, ge=1)
    train_streets: int = Field(12, ge=1)
    test_streets: int = Field(20, ge=1)
    frames: int = Field(12, ge=3)
    tracking_sigma: float = Field(0.1, ge=0, description="metres of Gaussian noise on test scans")
    ablation: bool = Field(False, description="all 16 cells of the table, as further metrics of the arm intact")


MAIN = (
    "erm", "random-noise-augmentation", "pgd-points", "advisor", "untargeted-curriculum", "untargeted-same-share",
    "meta-teacher", "intact",
)  # fmt: skip
ABLATED = ("erm-teacher", "no-targeting", "no-curriculum", "no-adversarial-noise")
TRACKED = ("tracking-erm", "tracking-untargeted-curriculum", "tracking-intact")
ARMS = (*MAIN, *(f"intact-{name}" for name in ABLATED), *TRACKED)
CONTROLS = ("erm", "random-noise-augmentation")

# seen by curriculum or teacher; the strengths are those of the card
SEEN = {
    "jitter": (0.01, 0.02, 0.04, 0.08),
    "drop": (0.25, 0.5, 0.75),
    "local_drop": (0.3, 0.6),
    "outliers": (0.05, 0.1, 0.2),
}
UNSEEN = {"tilt": (15.0, 30.0), "ray_drop": (0.5, 0.75)}


def severities(strengths: Mapping[str, tuple[float, ...]]) -> dict[PointCorruption, tuple[float, ...]]:
    """Corruptions with severities, from strengths in their own units."""
    one = {name: PointCorruption(name) for name in strengths}
    return {one[name]: tuple(one[name].severity_of(s) for s in values) for name, values in strengths.items()}


def sample(config: Config, split: Split, unit: int, cell: Cell | None = None) -> PointSet:
    """The clouds of a unit."""
    if config.data == "generated":
        return solids(split, unit, 32 if split == "train" else 12)
    cache = cell.cache if cell else None
    return furniture(split, unit=unit, views=1 if split == "train" else config.views, cache=cache)


def solids(split: Split, unit: int, n: int = 32) -> PointSet:
    """Balls, discs, rods and boxes of random proportions: four classes that are told apart in seconds."""
    g = generator(unit, "solids", split)
    y = torch.arange(n) % 4
    x = torch.randn(n, 64, 3, generator=g)
    flat = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.1], [0.1, 0.1, 1.0], [1.0, 1.0, 1.0]])
    x = x / x.norm(dim=2, keepdim=True)
    box = x / x.abs().amax(2, keepdim=True)
    x = torch.where((y == 3)[:, None, None], box, x) * flat[y][:, None] * (0.8 + 0.4 * torch.rand(n, 1, 3, generator=g))
    classes = ("ball", "disc", "rod", "box")
    return PointSet(normalised(x), y, classes, name="generated solids", split=split, kind="generated")


def cell(cell: Cell) -> Mapping[str, float]:
    """Train one arm on one unit and examine it on test data."""
    if cell.arm.startswith("tracking-"):
        return tracked(cell)
    config: Config = cell.config
    train, test = sample(config, "train", cell.unit, cell), sample(config, "test", cell.unit, cell)
    if cell.arm == "meta-teacher":
        model, spent = teacher(cell, "meta", train, derive(cell.unit, "intact"))
        assert model is not None
        fitted = on_training(model, train, config)
        return examined(model, test, config, cell.unit) | {"train": fitted, "teacher_gradients": spent}
    found = trained(cell, "intact" if cell.arm.startswith("intact-") else cell.arm, train)
    lr = found["lr"]
    if cell.arm.startswith("intact-"):
        found = train_arm(cell, cell.arm.removeprefix("intact-"), train, config.budget, lr)
    metrics = examined(found.pop("student"), test, config, cell.unit) | found
    if config.ablation and cell.arm == "intact":
        for name, switches in table_cells().items():
            one = train_arm(cell, name, train, config.budget, lr, switches)
            metrics[f"ablation_{name}"] = examined(one["student"], test, config, cell.unit)["mean_corrupted_accuracy"]
    return metrics


def trained(cell: Cell, arm: str, train: PointSet) -> dict[str, Any]:
    """{"student": a trained net, and what its training cost}: of two rates the one with the higher mean of clean and corrupted
    accuracy on the unit's validation clouds. Only kinds of corruption that training saw are asked. Made once."""
    config: Config = cell.config
    validation = sample(config, "validation", cell.unit, cell)
    part = fixed(validation, min(config.n_points, validation.points.shape[1]))

    def build(folder: Path) -> None:
        best: dict[str, Any] = {}
        for lr in sorted({config.lr, config.lr_high}):
            found = train_arm(cell, arm, train, config.budget, lr)
            table = corruption_table(found["student"], part, severities(SEEN), seed=derive(cell.unit, "validation"))
            found["validation"] = 100 * (table.clean + table.mean) / 2
            if not best or found["validation"] > best["validation"]:
                best = found
        save_weights(best.pop("student"), folder / "net.safetensors")
        write_json(folder / "training.json", best)

    key = kept_by(train) | {"arm": arm, "unit": cell.unit, "config": config.model_dump(), "validation": validation.sha256}
    folder = cell.cache.get("intact-students", key, build)
    student = net(config, len(train.classes), derive(cell.unit, "intact"), "student")
    load_weights(student, folder / "net.safetensors")
    return {"student": student.eval(), **json.loads((folder / "training.json").read_text())}


def kept_by(train: PointSet) -> dict[str, Any]:
    """What every artifact of a unit in the cache depends on."""
    code = code_sha256("tutelage.claims.harden.intact")
    return {"data": train.sha256, "torch": torch.__version__, "threads": torch.get_num_threads(), "code": code}


def train_arm(
    cell: Cell, arm: str, train: PointSet, budget: int, lr: float, switches: tuple[str, str, str, str] | None = None
) -> dict[str, Any]:
    """{"student": the trained net, and what the training cost}."""
    config: Config = cell.config
    seed = derive(cell.unit, "intact")
    objective, cost, spent = objective_of(cell, arm, train, seed, switches)
    epochs = max(1, round(budget / len(train) / cost))
    student = net(config, len(train.classes), seed, "student")
    report = intact_train(
        student, None, train, objective=objective, n_points=min(config.n_points, train.points.shape[1]), epochs=epochs,
        batch_size=config.batch_size, lr=lr, schedule=warmup_cosine(0.05), seed=seed, progress=cell.progress, name=arm,
    )  # fmt: skip
    last = report.history[-min(len(report.history), 20) :]
    found = {"student": student, "gradients": report.gradients, "epochs": epochs, "teacher_gradients": spent, "lr": lr}
    found["train"] = on_training(student, train, config)
    if "noised_accuracy" in last[0]:
        found["accuracy_on_noise_in_training"] = 100 * sum(row["noised_accuracy"] for row in last) / len(last)
    return found


def objective_of(
    cell: Cell, arm: str, train: PointSet, seed: int, switches: tuple[str, str, str, str] | None
) -> tuple[Any, float, int]:
    """(the objective, gradients a cloud and epoch, gradients of its teacher)."""
    config: Config = cell.config
    noise = Noise(config.sigma, config.drop, config.target)
    untargeted = {"w_clean": config.w_clean, "w_distill": 0.0, "saliency": "uniform"}
    clean = 1.0 + (config.w_clean > 0)
    third = 1 / len(HOWS)  # of the clouds are attacked
    match arm:
        case "erm":
            return Plain(), 1.0, 0
        case "random-noise-augmentation":
            return FullNoise(noise), 1.0, 0
        case "pgd-points":
            return PointAdversarial(PointPGD(config.pgd_eps, config.pgd_steps)), config.pgd_steps + 1.0, 0
        case "advisor":
            return Advisor(config.pgd_eps, 2), 4.0, 0
        case "untargeted-curriculum" | "untargeted-same-share":
            share = 1.0 if arm == "untargeted-curriculum" else config.target
            whole = Noise(config.sigma, config.drop, share)
            return Intact(None, IntactConfig(whole, **untargeted), Curriculum("sqrt")), clean + third, 0  # type: ignore[arg-type]
    kind, targeting, schedule, how = switches or {
        "erm-teacher": ("erm", "salient", "curriculum", "both"),
        "no-targeting": ("meta", "uniform", "curriculum", "both"),
        "no-curriculum": ("meta", "salient", "fixed", "both"),
        "no-adversarial-noise": ("meta", "salient", "curriculum", "random"),
    }.get(arm, ("meta", "salient", "curriculum", "both"))
    hows: tuple[How, ...] = {"random": HOWS[:2], "adversarial": HOWS[2:], "both": HOWS}[how]
    model, spent = teacher(cell, kind, train, seed)
    options = IntactConfig(
        Noise(config.sigma, config.drop, config.target, how=hows), w_clean=config.w_clean, w_distill=config.w_distill,
        temperature=config.temperature, saliency="grad" if targeting == "salient" else "uniform",
    )  # fmt: skip
    if kind == "none":
        options = IntactConfig(options.noise, **untargeted)  # type: ignore[arg-type]
    share = {"random": 0.0, "adversarial": 1.0, "both": third}[how]
    curriculum = Curriculum("sqrt" if schedule == "curriculum" else "fixed")
    asked = 1.0 if kind != "none" and targeting == "salient" else 0.0
    return Intact(model, options, curriculum), clean + share + asked, spent


def table_cells() -> dict[str, tuple[str, str, str, str]]:
    """The 2^4 table of the card: teacher (trained on corruptions by meta-learning or plainly), targeting, schedule, noise."""
    axes = (("meta", "erm"), ("salient", "uniform"), ("curriculum", "fixed"), ("random", "adversarial"))
    return {"_".join(names): (names[0], names[1], names[2], names[3]) for names in product(*axes)}


def net(config: Config, classes: int, seed: int, name: str) -> PointNet:
    with seeded(seed, name):
        return PointNet(classes, (config.width, 2 * config.width, 6 * config.width), head=2 * config.width)


def teacher(cell: Cell, kind: str, train: PointSet, seed: int) -> tuple[nn.Module | None, int]:
    """(the teacher, gradients it took): meta-learned, or trained on the same corruptions without inner steps (erm). Made once
    for the arms of a unit."""
    if kind == "none":
        return None, 0
    config: Config = cell.config
    model = net(config, len(train.classes), seed, "teacher")
    # the kinds that the test calls seen, never the unseen ones
    tasks = severities({name: (0.0, *strengths) for name, strengths in SEEN.items()})
    # without an inner step there is no support half to pay for: as many query clouds instead
    inner, factor = (config.inner_lr, 1) if kind == "meta" else (0.0, 2)
    size = min(factor * config.task_size, len(train) // 2)
    options: dict[str, Any] = {
        "steps": config.meta_steps, "lr": config.meta_lr, "inner_lr": inner, "size": size,
        "classes": min(config.task_classes, len(train.classes)) if kind == "meta" else None,
        "n_points": min(config.n_points, train.points.shape[1]),
    }  # fmt: skip

    def build(folder: Path) -> None:
        schedule = warmup_cosine(0.05)  # the students'
        meta_teacher(model, train, tasks, seed=derive(seed, kind), progress=cell.progress, schedule=schedule, **options)
        save_weights(model, folder / "net.safetensors")

    key = kept_by(train) | {"kind": kind, "options": options, "width": config.width, "seed": seed}
    load_weights(model, cell.cache.get("intact-teachers", key, build) / "net.safetensors")
    return model.eval(), config.meta_steps * 4 * 2 * config.task_size


def on_training(model: nn.Module, train: PointSet, config: Config) -> float:
    """Accuracy on the clean training clouds in per cent: how far the training came."""
    return 100 * accuracy(model, fixed(train, min(config.n_points, train.points.shape[1])))


def examined(student: nn.Module, test: PointSet, config: Config, unit: int) -> dict[str, float]:
    """Accuracies in per cent: every corruption and severity, their mean (each one counts once), clean, worst."""
    part = fixed(test, min(config.n_points, test.points.shape[1]))
    table: PointTable = corruption_table(student, part, severities({**SEEN, **UNSEEN}), seed=derive(unit, "audit"))
    rows = {f"{r.corruption}_{r.strength:g}": 100 * r.accuracy for r in table.rows}
    return {
        "mean_corrupted_accuracy": 100 * table.mean,
        "clean": 100 * table.clean,
        "worst": 100 * table.worst.accuracy,
        "seen": 100 * table.of(list(SEEN)),
        "unseen": 100 * table.of(list(UNSEEN)),
        **rows,
    }


# ------------------------------------------------------------------------------------------------------------- tracking


def tracked(cell: Cell) -> dict[str, float]:
    """Train an arm on clusters of training streets, and track through test streets: MOTA in per cent."""
    config: Config = cell.config
    arm = cell.arm.removeprefix("tracking-")
    train = clusters_of(cell)
    lr = trained(cell, arm, sample(config, "train", cell.unit, cell))["lr"]  # of the same arm on furniture
    found = train_arm(cell, arm, train, config.tracking_budget, lr)
    student = found.pop("student")
    streets = streets_of(cell, "test")
    levels = {"": 0.0, "_under_noise": config.tracking_sigma, "_under_more_noise": 2 * config.tracking_sigma}
    for name, sigma in levels.items():
        noisy = PointCorruption("jitter", highest=sigma) if sigma else None
        found[f"mota{name}"] = 100 * mota_of(student, streets, noisy, config, cell.unit)
    found["mota_half_the_points"] = 100 * mota_of(student, streets, PointCorruption("drop", highest=0.5), config, cell.unit)
    return found


def clusters_of(cell: Cell) -> PointSet:
    """The training clouds of the tracking arms."""
    config: Config = cell.config
    if config.data == "furniture":
        return cluster_set(streets_of(cell, "train"), config.n_points, "train", seed=cell.unit)
    whole = solids("train", cell.unit)
    return PointSet(whole.points, whole.labels.clamp(max=2), KINDS, split="train", kind="generated")


def streets_of(cell: Cell, split: Split) -> list[Sequenced]:
    """The sequences of a unit, of its own shapes; simulated once."""
    config: Config = cell.config
    n = config.train_streets if split == "train" else config.test_streets
    if config.data == "generated":
        return [toy_street(derive(cell.unit, split, i), config.frames) for i in range(n)]
    found = shapes(cell.cache, cell.progress)
    index = found.split(split, cell.unit).tolist()
    # of a training sequence a few frames are enough: the objects hardly move
    frames = 3 if split == "train" else config.frames
    return [street(found, index, seed=derive(cell.unit, split, i), frames=frames, cache=cell.cache) for i in range(n)]


def toy_street(seed: int, frames: int) -> Sequenced:
    """Three solids that slide past each other, without meshes or rays: for the smoke test."""
    g = torch.Generator().manual_seed(seed)
    scans, labels = [], np.array([0, 1, 2])
    places = np.array([[[8.0 + 0.3 * t, -5.0], [8.0, 0.2 * t], [8.0, 6.0]] for t in range(frames)])
    things = solids("test", 0, 4).points
    for t in range(frames):
        parts = [things[k] + torch.tensor([*places[t, k], 1.5]).float() for k in range(3)]
        points = torch.cat(parts) + 0.01 * torch.randn(192, 3, generator=g)
        scans.append(Scan(points, torch.arange(3).repeat_interleave(64)))
    return Sequenced(tuple(scans), labels, places, np.full((frames, 3), 64))


def mota_of(student: nn.Module, streets: list[Sequenced], noise: PointCorruption | None, config: Config, unit: int) -> float:
    """Over all sequences together: 1 - all errors / all objects. What got fewer than 16 returns is not asked for."""
    errors = objects = 0
    for number, one in enumerate(streets):
        scans = [noised(scan.points, noise, derive(unit, "scan", number, t)) for t, scan in enumerate(one.scans)]
        wanted = np.isin(one.labels, (0, 1))
        gt = []
        for t in range(len(scans)):
            here = np.flatnonzero(wanted & (one.seen[t] >= 16))
            gt.append(TrackFrame(here, one.places[t, here], one.labels[here]))
        if not any(len(frame.ids) for frame in gt):
            continue
        found = mota(track_scans(student, scans, (0, 1), n_points=config.n_points, seed=number), gt)
        errors += found.misses + found.false_positives + found.switches
        objects += found.objects
    return 1 - errors / max(1, objects)


def noised(points: Tensor, noise: PointCorruption | None, seed: int) -> Tensor:
    """One scan (P, 3) under a corruption of full severity."""
    if noise is None:
        return points
    x, mask = noise(points[None], 1.0, seeds=[seed])
    return x[0][mask[0]]


def data(config: Config) -> list[dict[str, Any]]:
    """The sets of the first unit; the other units split the same shapes in another way."""
    splits: tuple[Split, ...] = ("train", "validation", "test")
    return [sample(config, split, 0).describe() for split in splits]


CLAIM = Claim(
    slug="intact",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            data="generated", views=1, n_points=32, width=4, budget=96, batch_size=16, meta_steps=2, task_size=8,
            task_classes=3, pgd_steps=1, tracking_budget=64, train_streets=1, test_streets=1, frames=4,
        ),
        "claim": Config(),
        "paper": Config(
            n_points=1024, width=64, budget=1_000_000, batch_size=32, lr=1e-3, lr_high=3e-3, meta_steps=2000, meta_lr=1e-3,
            pgd_steps=7, views=5, tracking_budget=200_000, train_streets=100, frames=40, ablation=True,
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "INTACT has a higher mean corrupted accuracy than a curriculum of untargeted noise on as many points.",
            "mean_corrupted_accuracy", "intact", "untargeted-same-share",
        ),
        Sentence(
            "INTACT has a higher mean corrupted accuracy than ordinary training.",
            "mean_corrupted_accuracy", "intact", "erm",
        ),
        Sentence(
            "INTACT has a higher mean corrupted accuracy than random-noise augmentation at full strength.",
            "mean_corrupted_accuracy", "intact", "random-noise-augmentation",
        ),
        Sentence(
            "INTACT has a higher mean corrupted accuracy than PGD adversarial training.",
            "mean_corrupted_accuracy", "intact", "pgd-points",
        ),
        Sentence(
            "INTACT has a higher mean corrupted accuracy than the advisor curriculum.",
            "mean_corrupted_accuracy", "intact", "advisor",
        ),
        Sentence(
            "The INTACT student has a higher mean corrupted accuracy than its own teacher.",
            "mean_corrupted_accuracy", "intact", "meta-teacher",
        ),
        Sentence(
            "With the same teacher, noise at salient points helps more than at as many points anywhere.",
            "mean_corrupted_accuracy", "intact", "intact-no-targeting",
        ),
        Sentence(
            "INTACT loses at most 1.5 points of clean accuracy against ordinary training.",
            "clean", "intact", "erm", kind="noninferiority", margin=-1.5,
        ),
        Sentence(
            "Under corruptions that no training saw, INTACT has a higher accuracy than the untargeted curriculum.",
            "unseen", "intact", "untargeted-curriculum",
        ),
        Sentence(
            "The meta-learned teacher helps more than one trained on the same corruptions without inner steps.",
            "mean_corrupted_accuracy", "intact", "intact-erm-teacher",
        ),
        Sentence(
            "The curriculum helps more than full noise from the beginning.",
            "mean_corrupted_accuracy", "intact", "intact-no-curriculum",
        ),
        Sentence(
            "Adversarial noise among the kinds helps more than random noise alone.",
            "mean_corrupted_accuracy", "intact", "intact-no-adversarial-noise",
        ),
        Sentence(
            "Tracking through scans with Gaussian noise, INTACT has a higher MOTA than ordinary training.",
            "mota_under_noise", "tracking-intact", "tracking-erm",
        ),
        Sentence(
            "Tracking through scans with Gaussian noise, INTACT has a higher MOTA than the untargeted curriculum.",
            "mota_under_noise", "tracking-intact", "tracking-untargeted-curriculum",
        ),
        Sentence(
            "Tracking with half the points lost, INTACT has a higher MOTA than ordinary training.",
            "mota_half_the_points", "tracking-intact", "tracking-erm",
        ),
    ),
    axes=("clean", "mean_corrupted_accuracy"),
    metric_labels={
        "mean_corrupted_accuracy": "accuracy, mean over corruptions and severities, %",
        "clean": "clean accuracy, %",
        "train": "accuracy on clean training clouds, %",
        "validation": "accuracy on validation clouds, mean of clean and corrupted, %",
        "worst": "accuracy in the worst cell, %",
        "seen": "accuracy under kinds of corruption seen in training, %",
        "unseen": "accuracy under tilt and ray drop, %",
        "mota": "MOTA, clean scans, %",
        "mota_under_noise": "MOTA under Gaussian noise of 10 cm, %",
        "mota_under_more_noise": "MOTA under Gaussian noise of 20 cm, %",
        "mota_half_the_points": "MOTA with half the points lost, %",
    },
)  # fmt: skip
