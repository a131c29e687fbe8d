"""The claim of RSCP+: does the post-training transformation make provably robust prediction sets smaller, and do they hold?

scikit-learn digits, L2 eps 0.25, sigma 0.5, 256 noise draws, 90 % coverage. A unit is a seed: it splits the 1,797 images
into training data and a pool, trains a small net with Gaussian noise, and attacks the pool by PGD on the smoothed net.
All arms of a unit share net, attack, noise and splits. Then, 200 times, the pool is cut into hold-out, calibration and test
data. Only PTT needs the hold-out set; the other arms get it as further calibration data.

Arms: smoothed conformal prediction without eps; RSCP as published; RSCP+; with PTT, RCT, both; the same for the APS score;
parts of PTT alone; Hoeffding in place of Bernstein. Two arms on generated data show the flaw of RSCP: 16 draws, a classifier
that is a step, inputs 3.09 sigma beside it and an attack of 2 sigma.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import SGD

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.claims.recipes import build_net
from tutelage.core.errors import InputError
from tutelage.core.files import write_atomic
from tutelage.core.rng import derive, generator, normal, seeded
from tutelage.core.stats import conformal_quantile
from tutelage.data.images import Augment, ImageSet, composed, random_flip, random_shift
from tutelage.data.sets import standard_set
from tutelage.guarantees.conformal import evaluate
from tutelage.guarantees.noise import GaussianNoise
from tutelage.methods.certify.rscp_plus import (
    PTT,
    Bound,
    Part,
    RCTConfig,
    RobustConformal,
    SmoothedScore,
    attack_sets,
    calibration_alpha,
    fit_rct,
    robust_sets,
)
from tutelage.models.loading import load_weights, save_weights
from tutelage.models.resnet import resnet
from tutelage.teaching.fit import fit
from tutelage.teaching.objectives import CrossEntropy
from tutelage.teaching.schedules import warmup_cosine


class Config(ClaimConfig):
    """What `--set` may change."""

    data: Literal["digits", "cifar10"] = "digits"
    n_train: int = Field(900, ge=2, description="of the digits; CIFAR-10 has its own training data")
    n_pool: int = Field(0, ge=0, description="images for hold-out, calibration and test; 0 for all that are left")
    n_holdout: int = Field(100, ge=1)
    holdouts: int = Field(5, ge=1, description="hold-out sets drawn one after the other")
    splits: int = Field(40, ge=1, description="calibration/test splits for each of them")
    eps: float = Field(0.25, gt=0, description="L2")
    sigma: float = Field(0.5, gt=0)
    alpha: float = Field(0.1, gt=0, lt=1)
    beta: float = Field(0.001, gt=0)
    draws: int = Field(256, ge=2)
    temperature: float = Field(1 / 400, gt=0, description="T of PTT; its bias is 1 - alpha")
    net: str = Field("mlp", description="mlp, resnet-110, a net of recipes.NETS, or package.module:function")
    weights: str = Field("", description="safetensors; trained here with noise if empty")
    epochs: int = Field(150, ge=1)
    lr: float = Field(0.2, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(64, ge=1)
    attack_steps: int = Field(20, ge=1)
    attack_draws: int = Field(32, ge=1)
    rct_epochs: int = Field(150, ge=1)
    rct_lr: float = Field(0.05, gt=0)
    rct_batch_size: int = Field(450, ge=2)
    rct_size_weight: float = Field(1.0, ge=0)
    rct_temperature: float = Field(0.1, gt=0)
    flaw_draws: int = Field(16, ge=2, description="of the generated arms")
    flaw_points: int = Field(1000, ge=20, description="calibration, and as many test points, of the generated arms")


@dataclass(frozen=True)
class Arm:
    """bound "none" with a ratio of 0 is conformal prediction on smoothed scores, with eps/sigma RSCP as published."""

    base: Literal["hps", "aps"] = "hps"
    bound: Bound = "bernstein"
    robust: bool = True
    ptt: tuple[Part, ...] | None = None
    rct: bool = False


BOTH: tuple[Part, ...] = ("rank", "sigmoid")
SETS: dict[str, Arm] = {
    "smoothed-conformal": Arm(bound="none", robust=False),
    "rscp": Arm(bound="none"),
    "rscp-plus": Arm(),
    "rscp-plus-ptt": Arm(ptt=BOTH),
    "rscp-plus-rct": Arm(rct=True),
    "rscp-plus-ptt-rct": Arm(ptt=BOTH, rct=True),
    "rscp-plus-aps": Arm("aps"),
    "rscp-plus-ptt-aps": Arm("aps", ptt=BOTH),
    "rscp-plus-hoeffding": Arm(bound="hoeffding"),
    "rscp-plus-rank-only": Arm(ptt=("rank",)),
    "rscp-plus-sigmoid-only": Arm(ptt=("sigmoid",)),
}
FLAW: dict[str, Bound] = {"few-draws-rscp": "none", "few-draws-rscp-plus": "bernstein"}
CONTROLS = ("full-label-set",)


@cache
def digits() -> ImageSet:
    """The 1,797 images of 8x8 pixels that scikit-learn brings along."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images).float().div(16)[:, None]
    return ImageSet(images, torch.from_numpy(found.target).long(), tuple("0123456789"), name="scikit-learn digits")


def parts(config: Config, unit: int) -> tuple[ImageSet, ImageSet]:
    """(training data, pool); of the digits each unit draws its own."""
    if config.data == "cifar10":
        train, pool = standard_set("cifar10", "train"), standard_set("cifar10", "test")
    else:
        whole = digits()
        if config.n_train > len(whole) - 2:
            raise InputError("n_train", config.n_train, f"at most {len(whole) - 2}, so that a pool is left")
        order = torch.randperm(len(whole), generator=generator(unit, "digits"))
        train, pool = whole.take(order[: config.n_train], "train"), whole.take(order[config.n_train :], "test")
    pool = pool.take(slice(0, config.n_pool)) if config.n_pool else pool
    if len(pool) < config.n_holdout + 20:
        raise InputError("n_holdout", config.n_holdout, f"at most {len(pool) - 20} of a pool of {len(pool)} images")
    return train, pool


def cell(cell: Cell) -> Mapping[str, float]:
    """Sets of one arm on one unit, averaged over the splits. Sizes in labels, the rest in per cent."""
    config: Config = cell.config
    if cell.arm in FLAW:
        return _flaw(config, FLAW[cell.arm], cell.unit)
    train, pool = parts(config, cell.unit)
    if cell.arm in CONTROLS:
        size = float(len(pool.classes))
        return {"mean_set_size": size, "coverage": 100.0, "attacked_coverage": 100.0, "attacked_set_size": size, "full": 100.0}
    arm = SETS[cell.arm]
    model, moved = _prepared(config, arm.rct, train, pool, cell)
    x, y = pool[range(len(pool))]
    noise = GaussianNoise(config.sigma, seed=derive(cell.unit, "sets"))
    score = SmoothedScore(model, noise, arm.base, config.draws, progress=cell.progress)
    # the attack knew other draws, so clean and attacked images may meet the same ones
    clean, attacked = score.every(x), score.every(moved)
    sums: dict[str, float] = {}
    for number in range(config.holdouts):
        order = torch.randperm(len(pool), generator=generator(cell.unit, "hold-out", number))
        held_out, rest = order[: config.n_holdout], order[config.n_holdout :]
        for name, value in _over_splits(arm, config, score, (x, y), (clean, attacked), held_out, rest, cell, number).items():
            sums[name] = sums.get(name, 0.0) + value / config.holdouts
    return {**sums, "error_under_noise": 100 * _error(clean, y) if arm.base == "hps" else 100 * _error_of(score, x, y)}


def _over_splits(
    arm: Arm,
    config: Config,
    score: SmoothedScore,
    data: tuple[Tensor, Tensor],
    scores: tuple[Tensor, Tensor],
    held_out: Tensor,
    rest: Tensor,
    cell: Cell,
    number: int,
) -> dict[str, float]:
    x, y = data
    transform = None
    if arm.ptt is not None:
        own = score.holdout(x[held_out], y[held_out], ids=held_out)
        transform = PTT.fit(own, temperature=config.temperature, bias=1 - config.alpha, parts=arm.ptt)
    (mean, variance), (moved_mean, moved_variance) = (_moments(every, transform) for every in scores)
    of_label = mean.gather(1, y[:, None]).squeeze(1)
    ratio = config.eps / config.sigma if arm.robust else 0.0
    level = calibration_alpha(config.alpha, config.beta, arm.bound)
    sums: dict[str, float] = {}
    for split in range(config.splits):
        order = rest[torch.randperm(len(rest), generator=generator(cell.unit, "split", number, split))]
        calibration, test = order[: len(order) // 2], order[len(order) // 2 :]
        if arm.ptt is None:  # who needs no hold-out set calibrates on it too
            calibration = torch.cat([calibration, held_out])
        tau = conformal_quantile(of_label[calibration].numpy(), level)
        clean, attacked = (
            evaluate(
                robust_sets(m[test], v[test], tau, ratio=ratio, draws=config.draws, beta=config.beta, bound=arm.bound), y[test]
            )
            for m, v in ((mean, variance), (moved_mean, moved_variance))
        )
        found = {
            "mean_set_size": clean.mean_size,
            "coverage": 100 * clean.coverage,
            "attacked_coverage": 100 * attacked.coverage,
            "attacked_set_size": attacked.mean_size,
            "full": 100 * clean.histogram[-1] / clean.n,
        }
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value / config.splits
    return sums


def _moments(every: Tensor, transform: PTT | None) -> tuple[Tensor, Tensor]:
    """Mean and variance over the draws of scores (B, N, classes), a part at a time."""
    means, variances = [], []
    for chunk in torch.split(every, 256):
        values = chunk.double() if transform is None else transform(chunk)
        means.append(values.mean(1))
        variances.append(values.var(1))
    return torch.cat(means), torch.cat(variances)


def _error(every: Tensor, y: Tensor) -> float:
    """Share of images whose label is not the one of the lowest mean score."""
    return float((every.mean(1).argmin(1) != y).double().mean())


def _error_of(score: SmoothedScore, x: Tensor, y: Tensor) -> float:
    """The same for arms with another score: that of 1 - p."""
    return _error(SmoothedScore(score.model, score.noise, "hps", score.draws).every(x), y)


def _prepared(config: Config, rct: bool, train: ImageSet, pool: ImageSet, cell: Cell) -> tuple[nn.Module, Tensor]:
    """The trained net of a unit and the attacked pool, from the cache if another arm has made them."""
    seed = derive(cell.unit, "rscp-plus")
    key = {
        "config": config.model_dump(), "unit": cell.unit, "rct": rct, "code": code_sha256(__name__),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip

    def build(folder: Path) -> None:
        if rct:
            net, _ = _prepared(config, False, train, pool, cell)
            _retrain(net, config, train, seed, cell)
        else:
            net = _net(config, train, seed)
            _train(net, config, train, seed, cell)
        x, y = pool[range(len(pool))]
        moved = attack_sets(
            net, x, y, GaussianNoise(config.sigma, seed=derive(seed, "attack")), eps=config.eps, steps=config.attack_steps,
            draws=config.attack_draws, generator=generator(seed, "attack"),
        )  # fmt: skip
        save_weights(net, folder / "model.safetensors")
        write_atomic(folder / "attacked.safetensors", save({"image": moved}))

    folder = cell.cache.get("rscp-plus", key, build)
    net = _net(config, train, seed)
    load_weights(net, folder / "model.safetensors")
    return net.eval(), load_file(folder / "attacked.safetensors")["image"]


def _net(config: Config, train: ImageSet, seed: int) -> nn.Module:
    _, channels, height, width = train.images.shape
    if config.net == "mlp":
        with seeded(seed, "init", "mlp"):
            inputs = channels * height * width
            return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, len(train.classes)))
    if config.net == "resnet-110":
        with seeded(seed, "init", config.net):
            return resnet(110, channels=channels, classes=len(train.classes))
    return build_net(config.net, train, seed)


def _train(net: nn.Module, config: Config, train: ImageSet, seed: int, cell: Cell) -> None:
    """Cross-entropy on noisy images, one draw of noise a sample and step."""
    if config.weights:
        load_weights(net, Path(config.weights))
        return
    fit(
        net,
        CrossEntropy(),
        train.loader(config.batch_size, generator=generator(seed, "order"), drop_last=len(train) > config.batch_size),
        epochs=config.epochs,
        optimizer=SGD(net.parameters(), lr=config.lr, momentum=0.9, weight_decay=config.weight_decay),
        schedule=warmup_cosine(1 / config.epochs),
        augment=_noisy(config),
        seed=derive(seed, "training"),
        progress=cell.progress,
        name="training with noise",
    )


def _noisy(config: Config) -> Augment:
    def add(x: Tensor, g: torch.Generator) -> Tensor:
        return x + config.sigma * normal(x.shape, g).to(x)

    return composed(random_flip, random_shift(4), add) if config.data == "cifar10" else add


def _retrain(net: nn.Module, config: Config, train: ImageSet, seed: int, cell: Cell) -> None:
    fit_rct(
        net,
        train.loader(min(config.rct_batch_size, len(train)), generator=generator(seed, "RCT order"), drop_last=True),
        RCTConfig(
            config.eps, config.sigma, config.alpha, size_weight=config.rct_size_weight, temperature=config.rct_temperature
        ),
        epochs=config.rct_epochs,
        optimizer=lambda head: SGD(head, lr=config.rct_lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
        seed=derive(seed, "RCT"),
        progress=cell.progress,
    )


class Step(nn.Module):
    """Two classes and one input: class 1 above 1/2, with a probability of 0 or 1."""

    def forward(self, x: Tensor) -> Tensor:
        z = 1e6 * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-z, z], 1)


def _flaw(config: Config, bound: Bound, unit: int) -> dict[str, float]:
    """The sets of a step where all inputs are alike: S_RS = Phi(-3.09) is known, 2 sigma away it is Phi(-1.09)."""
    n, sigma = config.flaw_points, 0.1
    x, y = torch.full((n, 1), 0.5 + 3.09 * sigma), torch.ones(n, dtype=torch.long)
    score = SmoothedScore(Step(), GaussianNoise(sigma, seed=derive(unit, "flaw")), "hps", config.flaw_draws)
    robust = RobustConformal(score, 2 * sigma, config.alpha, beta=config.beta, bound=bound).calibrate(x, y)
    clean, attacked = evaluate(robust.predict(x), y), evaluate(robust.predict(x - 2 * sigma), y)
    return {
        "mean_set_size": clean.mean_size,
        "coverage": 100 * clean.coverage,
        "attacked_coverage": 100 * attacked.coverage,
        "attacked_set_size": attacked.mean_size,
        "full": 100 * clean.histogram[-1] / clean.n,
    }


def data(config: Config) -> list[dict[str, Any]]:
    flaw: dict[str, Any] = {
        "name": "a step, 3.09 sigma away", "kind": "generated", "split": "test", "n": config.flaw_points,
        "generator": "claims.certify.rscp_plus", "version": 1,
    }  # fmt: skip
    if config.data == "digits":
        return [{**digits().describe(), "split": "every unit draws its own"}, flaw]
    return [*(one.describe() for one in parts(config, 0)), flaw]


def _smaller(method: str, baseline: str, said: str) -> Sentence:
    return Sentence(said, "mean_set_size", method, baseline, better="lower")


def _covers(method: str, said: str) -> Sentence:
    return Sentence(said, "attacked_coverage", method, kind="threshold", margin=90.0)


CLAIM = Claim(
    slug="rscp-plus",
    arms=(*CONTROLS, *SETS, *FLAW),
    controls=CONTROLS,
    scales={
        "smoke": Config(
            n_train=200, n_pool=120, n_holdout=30, holdouts=1, splits=2, eps=0.05, sigma=0.25, beta=0.01, draws=96, epochs=8,
            batch_size=20, attack_steps=2, attack_draws=4, rct_epochs=8, rct_batch_size=100, flaw_points=100,
        ),
        "claim": Config(),
        "paper": Config(
            data="cifar10", net="resnet-110", eps=0.125, sigma=0.25, n_holdout=500, holdouts=10, splits=5, epochs=90, lr=0.1,
            weight_decay=1e-4, batch_size=256, rct_batch_size=500,
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        _covers("rscp-plus-ptt", "Under PGD on the smoothed scores, sets with PTT hold the label at least 90 % of the time."),
        _covers("rscp-plus", "Under the same attack, plain RSCP+ sets hold the label at least 90 % of the time."),
        Sentence(
            "Under the same attack, conformal sets on smoothed scores without eps hold the label less than 90 % of the time.",
            "attacked_coverage", "smoothed-conformal", kind="threshold", better="lower", margin=90.0,
        ),
        Sentence(
            "RSCP as published can fail: with 16 draws beside a step its sets hold the label less than 90 % of the time.",
            "attacked_coverage", "few-draws-rscp", kind="threshold", better="lower", margin=90.0,
        ),
        _covers("few-draws-rscp-plus", "In that setting RSCP+ sets hold the label at least 90 % of the time."),
        _smaller("rscp-plus-rct", "rscp-plus", "RSCP+ sets are smaller after robust conformal training (RCT)."),
        _smaller("rscp-plus-ptt-rct", "rscp-plus-ptt", "RCT makes RSCP+ sets with PTT smaller still."),
        _smaller("rscp-plus-ptt-aps", "rscp-plus-aps", "PTT makes RSCP+ sets of the APS score smaller, too."),
        _smaller("rscp-plus", "rscp-plus-hoeffding", "Bernstein's bound gives smaller RSCP+ sets than Hoeffding's."),
        _smaller("rscp-plus-ptt", "rscp-plus-rank-only", "PTT gives smaller sets than its rank transformation alone."),
        _smaller("rscp-plus-ptt", "rscp-plus-sigmoid-only", "PTT gives smaller sets than its sigmoid alone."),
    ),
    axes=("mean_set_size", "attacked_coverage"),
    metric_labels={
        "mean_set_size": "labels a set, clean inputs",
        "coverage": "coverage on clean inputs, %",
        "attacked_coverage": "coverage under attack, %",
        "attacked_set_size": "labels a set under attack",
        "full": "sets of all labels, %",
        "error_under_noise": "error of the smoothed classifier, %",
    },
)  # fmt: skip
