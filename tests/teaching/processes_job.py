"""One training of a claim's student, for one process or for two that torchrun starts; run by test_processes.py.

processes_job.py OUT SCENARIO...   every scenario trains anew and writes OUT/<scenario>.json and .safetensors (main process)
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from tutelage.auditing.measure import clean_and_robust
from tutelage.claims.recipes import Recipe, build_net, inner_attack, train_student
from tutelage.core.errors import InputError, Interrupted, NotFinite
from tutelage.data import ImageSet, fashion_mnist_subset, random_flip
from tutelage.methods.distill.mtard import MTARD, MTARDConfig
from tutelage.models.sharding import gathered
from tutelage.teaching import FitResult, Teacher, fit, warmup_cosine
from tutelage.threats import PGD, Linf

EPS, SEED, BATCH, EPOCHS, STOP = 0.1, 3, 32, 3, 6
# 130 images in batches of 32: the last batch of an epoch has 2 rows; of 129 it has one, for two processes
UNEVEN = 129


def data(n: int = 4 * BATCH + 2) -> tuple[ImageSet, ImageSet]:
    whole = fashion_mnist_subset("train")
    return whole.take(slice(0, n)), whole.take(slice(1000, 1100), "validation")


def objective(train: ImageSet) -> MTARD:
    """MTARD as its claim uses it, its teachers two classifiers by the nearest class mean, one surer than the other.

    The rates are large, so that the balancers matter within a few steps.
    """
    means = torch.stack([train[train.labels == label][0].flatten(1).mean(0) for label in range(10)])
    teachers = {}
    for name, sure in (("clean", 0.3), ("robust", 0.1)):
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        with torch.no_grad():
            net[1].weight.copy_(sure * means)
            net[1].bias.copy_(-sure / 2 * means.square().sum(1))
        teachers[name] = Teacher(net, name=f"{name} teacher")
    return MTARD(teachers, inner_attack(EPS, 3), MTARDConfig(eta_w=0.3, eta_tau=0.05))


def claims_student() -> tuple[FitResult, nn.Module, MTARD]:
    """As the claim trains it: recipe, augmentation, selection by W-Robust; drop_last is the recipe's own."""
    train, validation = data()
    net, taught = build_net("linear", train, SEED), objective(train)
    recipe = Recipe("linear", EPOCHS, lr=0.02, weight_decay=2e-4, batch_size=BATCH, shift=1, attack_steps=3)
    return train_student(net, taught, recipe, train, validation, seed=SEED, select="w_robust", eps=EPS), net, taught


def user_script(
    folder: Path | None = None,
    *,
    shard: Literal["", "by the user", "by Accelerate"] = "",
    n: int = 4 * BATCH + 2,
    accumulate: int = 1,
    press: int | None = None,
    kill: int | None = None,
    spoil: int | None = None,
    workers: int = 0,
    dropout: float = 0.0,
    norm: bool = False,
) -> tuple[FitResult, nn.Module, MTARD]:
    """As a user writes it: a DataLoader shuffled by the global generator, momentum, an average, validation."""
    train, validation = data(n)
    torch.manual_seed(SEED)
    middle = nn.BatchNorm1d(32) if norm else nn.Tanh()
    net: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), middle, nn.Dropout(dropout), nn.Linear(32, 10))
    on_cpu = Accelerator(
        cpu=int(os.environ.get("WORLD_SIZE", 1)) > 1,
        gradient_accumulation_steps=accumulate,
        fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2) if shard == "by Accelerate" else None,
    )
    if shard == "by the user":
        fully_shard(net[1])
        fully_shard(net)
        assert isinstance(net, FSDPModule)
        assert isinstance(net[1], FSDPModule)
        assert all(isinstance(p, DTensor) for p in net.parameters())
    taught = objective(train)

    class Disturbed:
        """MTARD, and a signal that this process meets; the state is MTARD's."""

        state_dict, load_state_dict = taught.state_dict, taught.load_state_dict

        def __call__(self, model: nn.Module, batch: Any, ctx: Any) -> tuple[Tensor, Mapping[str, Tensor | float]]:
            last = on_cpu.process_index == on_cpu.num_processes - 1
            if last and ctx.step == press:
                os.kill(os.getpid(), signal.SIGINT)
            if last and ctx.step == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            loss, extra = taught(model, batch, ctx)
            return (loss * math.nan if last and ctx.step == spoil else loss), extra

    attack = PGD(Linf(EPS), steps=2)
    result = fit(
        net,
        Disturbed(),
        DataLoader(train, batch_size=BATCH // accumulate, shuffle=True, num_workers=workers),
        epochs=EPOCHS,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4),
        schedule=warmup_cosine(0.2),
        augment=random_flip,
        ema=0.8,
        validate=lambda model: clean_and_robust(model, validation, attack, seed=5),
        select="w_robust",
        checkpoint=folder,
        checkpoint_every=4,
        seed=17,
        accelerator=on_cpu,
    )
    if shard:
        assert isinstance(net, FSDPModule)
        assert all(isinstance(p, DTensor) for p in net.parameters())
    return result, net, taught


def interrupted_then_resumed(folder: Path, **options: Any) -> tuple[FitResult, nn.Module, MTARD]:
    """Ctrl-C on one process stops all of them at the same step; the same call then goes on."""
    with pytest.raises(Interrupted, match=f"stopped after step {STOP + 1} of"):
        user_script(folder, press=STOP, **options)
    return user_script(folder, **options)


def diverging() -> tuple[FitResult, nn.Module, MTARD]:
    """A loss that is not finite on one process stops all of them, before the step."""
    with pytest.raises(NotFinite, match="step 2"):
        user_script(spoil=2)
    return user_script()


def unsharded_plugin() -> tuple[FitResult, nn.Module, MTARD]:
    with pytest.raises(InputError, match="accelerator: got a sharding plugin without effect"):
        user_script(shard="by Accelerate")
    os.environ.pop("ACCELERATE_USE_FSDP")
    return user_script()


def scenario(name: str, out: Path) -> tuple[FitResult, nn.Module, MTARD]:
    return {
        "claim": claims_student,
        "plain": user_script,
        "uneven": lambda: user_script(n=UNEVEN),
        "accumulated": lambda: user_script(accumulate=4),
        "workers": lambda: user_script(workers=1),
        "interrupted": lambda: interrupted_then_resumed(out / "interrupted"),
        "dropout": lambda: user_script(dropout=0.5),
        "dropout-interrupted": lambda: interrupted_then_resumed(out / "dropout-interrupted", dropout=0.5),
        "batchnorm": lambda: user_script(norm=True, n=4 * BATCH),
        "sharded": lambda: user_script(shard="by the user"),
        "plugin": unsharded_plugin,
        "diverging": diverging,
        "sharded-interrupted": lambda: interrupted_then_resumed(out / "sharded-interrupted", shard="by the user"),
        "killed": lambda: user_script(out / "killed", kill=STOP + 3),
        "resumed": lambda: user_script(out / "killed"),
    }[name]()


def main(out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names:
        result, net, taught = scenario(name, out)
        weights = {key: value.contiguous() for key, value in gathered(dict(net.state_dict())).items()}
        state = PartialState()
        found = {
            "processes": state.num_processes,
            "history": result.history,
            "epochs": result.epochs,
            "best": result.best,
            "resumed_from": result.resumed_from,
            "objective": taught.state_dict(),
        }
        (out / f"{name}-{state.process_index}.json").write_text(json.dumps(found))
        save_file(weights, out / f"{name}-{state.process_index}.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
