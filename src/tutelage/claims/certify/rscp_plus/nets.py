"""Data, nets and attacked images of the claim of RSCP+, each made once for all arms of a unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import SGD

from tutelage.claims.certify.rscp_plus.config import Config
from tutelage.claims.claim import Cell
from tutelage.claims.codehash import code_sha256
from tutelage.claims.recipes import build_net
from tutelage.core.errors import InputError
from tutelage.core.files import write_atomic
from tutelage.core.rng import derive, generator, normal, seeded
from tutelage.data.images import Augment, ImageSet, composed, random_flip, random_shift
from tutelage.data.sets import digits, standard_set
from tutelage.guarantees.noise import GaussianNoise
from tutelage.methods.certify.rscp_plus import RCTConfig, SmoothedScore, attack_sets
from tutelage.methods.certify.rscp_plus.training import Features, RCTLoss, noisy_logits, retrain_head
from tutelage.models.loading import load_weights, save_weights
from tutelage.models.resnet import resnet
from tutelage.teaching.fit import Context, Objective, fit
from tutelage.teaching.objectives import CrossEntropy, pair
from tutelage.teaching.schedules import warmup_cosine

Head = Literal["", "rct", "cross-entropy"]


def parts(config: Config, unit: int) -> tuple[ImageSet, ImageSet]:
    """(training data, pool); of the digits each unit draws its own."""
    if 2 * config.beta >= config.alpha:
        raise InputError("beta", config.beta, f"a probability below alpha / 2 = {config.alpha / 2:g}")
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


def prepared(config: Config, head: Head, train: ImageSet, pool: ImageSet, cell: Cell) -> tuple[nn.Module, dict[str, Tensor]]:
    """The trained net of a unit and the pool under each attack, from the cache if another arm has made them.

    The second attack aims at what PTT counts: draws whose score is above the 1 - alpha quantile, here of training data.
    """
    seed = derive(cell.unit, "rscp-plus")
    key = {
        "config": config.model_dump(), "unit": cell.unit, "head": head, "code": code_sha256(__name__),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip

    def build(folder: Path) -> None:
        if head:
            net, _ = prepared(config, "", train, pool, cell)
            _retrain(net, head, config, train, seed, cell)
        else:
            net = _net(config, train, seed)
            _train(net, config, train, seed, cell)
        x, y = pool[range(len(pool))]
        noise = GaussianNoise(config.sigma, seed=derive(seed, "attack"))
        of_training = SmoothedScore(net, noise, draws=2).holdout(*train[range(len(train))])
        goals = {"mean": None, "step": float(of_training.double().quantile(1 - config.alpha))}
        moved = {
            goal: attack_sets(
                net, x, y, noise, eps=config.eps, steps=config.attack_steps, draws=config.attack_draws,
                generator=generator(seed, "attack", goal), at=at,
            )
            for goal, at in goals.items()
        }  # fmt: skip
        save_weights(net, folder / "model.safetensors")
        write_atomic(folder / "attacked.safetensors", save(moved))

    folder = cell.cache.get("rscp-plus", key, build)
    net = _net(config, train, seed)
    load_weights(net, folder / "model.safetensors")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None  # where `fit` trains
    return net.eval().to(device or "cpu"), load_file(folder / "attacked.safetensors")


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


def _retrain(net: nn.Module, head: Head, config: Config, train: ImageSet, seed: int, cell: Cell) -> None:
    """A fresh last layer by RCT, or with all the same (data, steps, noisy copies) by cross-entropy."""
    constants = RCTConfig(
        config.eps, config.sigma, config.alpha, size_weight=config.rct_size_weight, temperature=config.rct_temperature
    )

    def objective(features: Features) -> Objective:
        return RCTLoss(constants, features=features) if head == "rct" else NoisyCrossEntropy(constants, features)

    retrain_head(
        net,
        train.loader(min(config.rct_batch_size, len(train)), generator=generator(seed, "RCT order"), drop_last=True),
        objective,
        epochs=config.rct_epochs,
        optimizer=lambda parameters: SGD(parameters, lr=config.rct_lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
        seed=derive(seed, "RCT"),
        progress=cell.progress,
        name=f"last layer by {head}",
    )


class NoisyCrossEntropy:
    """Cross-entropy on the noisy copies that RCT sees: what longer training of the last layer alone is worth."""

    def __init__(self, config: RCTConfig, features: Features) -> None:
        self.config, self.features = config, features

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        x, y = pair(batch)
        logits = noisy_logits(model, x, self.config.sigma, self.config.draws, ctx.generator, self.features)
        return F.cross_entropy(logits.flatten(0, 1), y.long().repeat_interleave(self.config.draws)), {}
