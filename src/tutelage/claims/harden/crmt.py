"""The claim of CRMT: does enlarging every modality's margin, then weighing them by radius, resist joint attacks better?

AV-digits: MNIST-10k pictures paired by class with FSDD recordings, speakers held out. A unit is a seed with its own speakers
in training (three), validation (one) and test (two), its own pairs and its own initial encoders, which all its arms share.
Arms: joint training with an ordinary head; the same with modality dropout (the control); the orthogonal head alone; with the
margin term (step 1); CRMT, whole, with the paper's head and with the released one; adversarial training and mixup, each with
and without CRMT. All have the same encoders, data, epochs and attack. Constants were chosen on the validation speaker of a unit
that no row has: rho 0.2 of 0.2, 0.5 and 2; for each head the rate with the best accuracy under attack, of 0.0125 to 0.2 (0.1
for ordinary heads, 0.05 for orthogonal ones; two more units agreed). Step 2 keeps the epoch of largest radius among those that
cost at most half a point of clean accuracy on the unit's own validation speaker, as the sentence asks for matched
clean accuracy.

Accuracies in per cent; joint_pgd50 is the mean over the grid of eps. The attack is PGD from several random starts, most of them
on the margin and the rest on cross-entropy; joint_pgd4 is the four-step attack of the released code, on cross-entropy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.core.cache import Cache
from tutelage.core.rng import derive, generator, seeded
from tutelage.data.av_digits import av_digits
from tutelage.data.breast_groups import breast_groups
from tutelage.data.images import Split
from tutelage.data.multimodal import MultiModalSet
from tutelage.methods.harden.crmt.fusion import OrthogonalFusion
from tutelage.methods.harden.crmt.passport import JOINT, Passport, passport
from tutelage.methods.harden.crmt.training import CRMT, fit_fusion, maximise_radius
from tutelage.models.fusion import ConcatFusion, ConvEncoder, FusionModel, MLPEncoder, Standardised
from tutelage.models.loading import load_weights, save_weights
from tutelage.teaching.schedules import warmup_cosine
from tutelage.threats.budgets import L2
from tutelage.threats.multimodal import Joint, MultiModalPGD
from tutelage.threats.objectives import margin


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["av-digits", "breast-cancer"] = "av-digits"
    n_train: int = Field(3000, ge=2)
    n_validation: int = Field(1000, ge=2)
    n_test: int = Field(1000, ge=2)
    image_noise: float = Field(0.0, ge=0, description="standard deviation of noise on the pictures, in [0, 1]")
    width: int = Field(8, ge=1, description="channels of the first convolution")
    dim: int = Field(64, ge=3, description="features of an encoder")
    epochs: int = Field(10, ge=1)
    step2_epochs: int = Field(10, ge=1)
    tolerance: float = Field(0.005, ge=0, description="clean validation accuracy that step 2 may cost")
    batch_size: int = Field(64, ge=1)
    lr: float = Field(0.05, gt=0, description="of orthogonal heads")
    concat_lr: float = Field(0.1, gt=0, description="of ordinary heads")
    step2_lr: float = Field(0.005, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    rho: float = Field(0.2, ge=0, description="2 in the paper")
    dropout: float = Field(0.3, ge=0, lt=1, description="chance with which the control drops a modality")
    at_eps: float = Field(0.5, gt=0, description="joint L2 radius of adversarial training")
    at_steps: int = Field(5, ge=1)
    eps: str = Field("0.25,0.5,0.75,1.0", description="joint and single L2 radii of the attack, in input units")
    steps: int = Field(50, ge=1)
    restarts: int = Field(5, ge=1, description="starts of the joint attack")
    single_restarts: int = Field(1, ge=1, description="starts of the attacks on one modality")
    attacked: int = Field(120, ge=1, description="test samples that are attacked")
    tau_samples: int = Field(1000, ge=1, description="training samples of the empirical Lipschitz constants")

    @property
    def grid(self) -> tuple[float, ...]:
        return tuple(float(one) for one in self.eps.split(","))


ARMS = (
    *("joint-training", "joint-training-modality-dropout", "orthogonal-head", "crmt-step-1", "crmt-jt", "crmt-jt-row"),
    *("joint-at", "crmt-at", "joint-mix", "crmt-mix"),
)
CONTROLS = ("joint-training-modality-dropout",)


def sample(config: Config, split: Split, unit: int, cache: Cache | None = None) -> MultiModalSet:
    """The data of a unit."""
    n = {"train": config.n_train, "validation": config.n_validation, "test": config.n_test}[split]
    if config.data == "av-digits":
        return av_digits(split, n, unit=unit, image_noise=config.image_noise, cache=cache)
    whole = breast_groups(split, unit=unit)
    return whole.take(slice(0, n))


def build(config: Config, data: MultiModalSet, seed: int, head: str) -> FusionModel:
    """Encoders by the shapes of the data, the same for every arm of a unit, and a head."""
    encoders: dict[str, nn.Module] = {}
    with seeded(seed, "encoders"):
        for name in data.modalities:
            x = data[slice(0, len(data))][0].tensor(name)
            shape = tuple(x.shape[1:])
            inner: nn.Module
            if len(shape) == 3:
                inner = ConvEncoder(shape, config.dim, config.width)
            else:
                inner = MLPEncoder(shape[0], config.dim, 4 * config.width)
            encoders[name] = Standardised(inner, float(x.mean()), float(x.std()), shape)
    dims, k = [config.dim] * len(encoders), len(data.classes)
    with seeded(seed, "head"):
        if head == "concat":
            return FusionModel(encoders, ConcatFusion(dims, k))
        return FusionModel(encoders, OrthogonalFusion(dims, k, ortho="row" if head == "row" else "full"))


def cell(cell: Cell) -> Mapping[str, float]:
    """Train one arm on one unit and examine it on the test speakers."""
    config: Config = cell.config
    seed = derive(cell.unit, "crmt")
    train = sample(config, "train", cell.unit, cell.cache)
    model = trained(cell, train, seed)
    found: dict[str, float] = {}
    if cell.arm in ("crmt-jt", "crmt-jt-row", "crmt-at", "crmt-mix"):
        report = maximise_radius(
            model, train, epochs=config.step2_epochs, lr=config.step2_lr, batch_size=config.batch_size,
            tau_limit=config.tau_samples, validation=sample(config, "validation", cell.unit, cell.cache),
            tolerance=config.tolerance, seed=seed, progress=cell.progress,
        )  # fmt: skip
        best = report.step2.best if report.step2 else None
        found["step2_epochs_kept"] = best["epoch"] + 1 if best and best["chosen"] >= 0 else 0
        found["step2_radius_gain"] = report.radius_after - report.radius_before
    return {**found, **examined(cell, model, train, sample(config, "test", cell.unit, cell.cache))}


def objective(arm: str, config: Config, clip: Mapping[str, tuple[float, float]]) -> CRMT:
    """What an arm minimises in step 1, or at all."""
    rho = config.rho if arm.startswith("crmt") else 0.0
    if arm.endswith("-at"):
        threat = Joint(L2(config.at_eps))
        # on the margin, for all: the margin term makes CE so flat that an attack on it would find no gradient
        attack = MultiModalPGD(threat, config.at_steps, 1 / config.at_steps, start="clean", objective=margin, clip=clip)
        return CRMT(rho, base="at", attack=attack)
    if arm.endswith("-mix"):
        return CRMT(rho, base="mix")
    return CRMT(rho, dropout=config.dropout if arm.endswith("dropout") else 0.0)


def trained(cell: Cell, train: MultiModalSet, seed: int) -> FusionModel:
    """Step 1 of an arm, or its whole training; crmt-jt and crmt-step-1 share it."""
    config: Config = cell.config
    arm = "crmt-step-1" if cell.arm == "crmt-jt" else cell.arm
    head = "row" if arm.endswith("-row") else "full" if arm.startswith(("crmt", "orthogonal")) else "concat"
    model = build(config, train, seed, head)

    def fresh(folder: Path) -> None:
        fit_fusion(
            model, train, objective(arm, config, clips(train)), epochs=config.epochs, batch_size=config.batch_size,
            lr=config.concat_lr if head == "concat" else config.lr, weight_decay=config.weight_decay,
            schedule=warmup_cosine(0.1), seed=seed, progress=cell.progress, name=arm,
        )  # fmt: skip
        if isinstance(model.head, OrthogonalFusion):
            model.head.project()
        save_weights(model, folder / "net.safetensors")

    key = {
        "arm": arm, "config": config.model_dump(), "seed": seed, "data": train.sha256, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "code": code_sha256("tutelage.claims.harden.crmt"),
    }  # fmt: skip
    load_weights(model, cell.cache.get("crmt-nets", key, fresh) / "net.safetensors")
    return model.eval()


def clips(data: MultiModalSet) -> dict[str, tuple[float, float]]:
    """Pictures have a range; spectrograms and measurements have none."""
    return {"image": (0.0, 1.0)} if "image" in data.modalities else {}


def examined(cell: Cell, model: FusionModel, train: MultiModalSet, test: MultiModalSet) -> dict[str, float]:
    """The passport of a model as numbers; accuracies in per cent."""
    config: Config = cell.config
    seed = derive(cell.unit, "audit")  # the same samples and starts for every arm
    found = passport(
        model, test, train=train, eps=config.grid, steps=config.steps, restarts=config.restarts,
        single_restarts=config.single_restarts, samples=config.attacked, clip=clips(test), tau_limit=config.tau_samples,
        seed=seed, progress=cell.progress,
    )  # fmt: skip
    missing = [100 * found.subsets.without(name).accuracy for name in model.modalities]
    singles = [100 * found.curve(name).mean for name in model.modalities]
    rows = {f"single_{name}": value for name, value in zip(model.modalities, singles, strict=True)}
    rows |= {f"without_{name}": value for name, value in zip(model.modalities, missing, strict=True)}
    rows |= {f"preference_{row.name}": row.share for row in found.modalities}
    rows |= {
        f"joint_at_{eps:g}": 100 * value
        for eps, value in zip(found.curve(JOINT).eps[1:], found.curve(JOINT).accuracy[1:], strict=True)
    }
    return {
        "joint_pgd50_accuracy": 100 * found.curve(JOINT).mean,
        "joint_pgd4_accuracy": 100 * released_attack(model, found, test, config, seed),
        "clean": 100 * found.clean,
        "single_worst": min(singles),
        "single_gap": max(singles) - min(singles),
        "without_worst": min(missing),
        "radius_empirical": found.radius["empirical"],
        "radius_sound": found.radius["spectral"],
        "preference_largest": max(row.share for row in found.modalities),
        **rows,
    }


def released_attack(model: FusionModel, found: Passport, test: MultiModalSet, config: Config, seed: int) -> float:
    """Mean accuracy over the grid under the released code's attack: 4 steps of eps / 3 from the clean input."""
    part = test.take(torch.randperm(len(test), generator=generator(seed, "attacked samples"))[: found.attacked].sort().values)
    x, y = part[slice(0, len(part))]
    left = []
    for eps in config.grid:
        attack = MultiModalPGD(Joint(L2(eps)), 4, 1 / 3, start="clean", clip=clips(test))
        left.append(float((~attack.run(model, x, y, generator(seed, "released", eps)).success).double().mean()))
    return sum(left) / len(left)


def data(config: Config) -> list[dict[str, Any]]:
    """The sets of the first unit; other units have other speakers and pairs of the same files."""
    splits: tuple[Split, ...] = ("train", "validation", "test")
    return [sample(config, split, 0).describe() for split in splits]


CLAIM = Claim(
    slug="crmt",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            data="breast-cancer", n_train=340, n_validation=100, n_test=129, width=4, dim=6, epochs=2, step2_epochs=1,
            batch_size=85, lr=0.05, eps="1.0", steps=3, restarts=2, attacked=30, tau_samples=34,
        ),
        "claim": Config(),
        "paper": Config(
            n_train=8000, n_validation=2000, n_test=10_000, width=32, epochs=60, step2_epochs=20, attacked=1000,
            single_restarts=5, tau_samples=8000,
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "CRMT loses at most 1 point of clean accuracy against joint training.",
            "clean", "crmt-jt", "joint-training", kind="noninferiority", margin=-1.0,
        ),
        Sentence(
            "CRMT gains under the released four-step attack as well.",
            "joint_pgd4_accuracy", "crmt-jt", "joint-training",
        ),
        Sentence(
            "CRMT gains over the orthogonal head alone.",
            "joint_pgd50_accuracy", "crmt-jt", "orthogonal-head",
        ),
        Sentence(
            "The margin term gains over the orthogonal head alone.",
            "joint_pgd50_accuracy", "crmt-step-1", "orthogonal-head",
        ),
        Sentence(
            "Step 2 gains over step 1 alone.",
            "joint_pgd50_accuracy", "crmt-jt", "crmt-step-1",
        ),
        Sentence(
            "Step 2 raises the mean empirical radius on test data.",
            "radius_empirical", "crmt-jt", "crmt-step-1",
        ),
        Sentence(
            "CRMT has a larger mean sound radius than joint training.",
            "radius_sound", "crmt-jt", "joint-training",
        ),
        Sentence(
            "The paper's head, with all rows orthonormal, gains over the released one, whose rows only have unit length.",
            "joint_pgd50_accuracy", "crmt-jt", "crmt-jt-row",
        ),
        Sentence(
            "CRMT gains where only one modality is attacked, the worse of the two.",
            "single_worst", "crmt-jt", "joint-training",
        ),
        Sentence(
            "With CRMT the attacks on single modalities differ less.",
            "single_gap", "crmt-jt", "joint-training", better="lower",
        ),
        Sentence(
            "CRMT has a higher accuracy when one modality is missing, the worse of the two.",
            "without_worst", "crmt-jt", "joint-training",
        ),
        Sentence(
            "CRMT-AT gains over joint adversarial training.",
            "joint_pgd50_accuracy", "crmt-at", "joint-at",
        ),
        Sentence(
            "CRMT-mix gains over joint mixup.",
            "joint_pgd50_accuracy", "crmt-mix", "joint-mix",
        ),
        Sentence(
            "CRMT without adversarial examples gains over joint adversarial training.",
            "joint_pgd50_accuracy", "crmt-jt", "joint-at",
        ),
    ),
    axes=("clean", "joint_pgd50_accuracy"),
    metric_labels={
        "joint_pgd50_accuracy": "accuracy under joint PGD, mean over eps, %",
        "joint_pgd4_accuracy": "accuracy under the released 4-step attack, %",
        "clean": "clean accuracy, %",
        "single_worst": "accuracy under attack on one modality (the worse), %",
        "single_gap": "difference of the two single attacks, points",
        "without_worst": "accuracy without one modality (the worse), %",
        "radius_empirical": "mean radius, empirical Lipschitz constants",
        "radius_sound": "mean radius, sound Lipschitz constants",
        "preference_largest": "share of the preferred modality in the margins",
    },
)  # fmt: skip
