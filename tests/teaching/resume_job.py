"""One small training with everything that must survive a kill; imported by test_fit_resume.py and run by it as a script.

python resume_job.py FOLDER MOMENT...   trains once for each MOMENT in FOLDER/<index>, in a process that is killed with
SIGKILL: `lines=N` as soon as N lines of the log are seen from outside, `rename=N` instead of the N-th rename of a file.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.auditing.measure import clean_and_robust
from tutelage.data import ImageSet, random_flip
from tutelage.methods.distill.mtard import MTARD, MTARDConfig
from tutelage.teaching import FitResult, Teacher, fit, warmup_cosine
from tutelage.threats import PGD, Linf

EPOCHS, PER_EPOCH, EVERY = 5, 8, 3
STEPS = EPOCHS * PER_EPOCH
CLASSES = 3


def images(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 4, generator=rng), torch.randint(CLASSES, (n,), generator=rng)


def student() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, CLASSES)
    )


def teacher(seed: int, scale: float) -> nn.Module:
    torch.manual_seed(seed)
    linear = nn.Linear(16, CLASSES)
    with torch.no_grad():
        linear.weight *= scale
    return nn.Sequential(nn.Flatten(), linear)


def run(
    folder: Path, *, pause: float = 0.0, epochs: int = EPOCHS, net: nn.Module | None = None
) -> tuple[FitResult, nn.Module, MTARD]:
    """Train, or go on from what is in `folder`."""
    net = net or student()
    teachers = {"clean": Teacher(teacher(2, 6.0)), "robust": Teacher(teacher(3, 2.0))}
    config = MTARDConfig(eta_w=0.2, eta_tau=0.05)
    objective = MTARD(teachers, PGD(Linf(0.1), steps=2, step_size=0.05, start="gaussian"), config)
    validation = ImageSet(*images(24, 9), ("a", "b", "c"), split="validation")
    attack = PGD(Linf(0.1), steps=2)
    # a user's own loader: shuffled by the global generator, no workers
    loader = DataLoader(TensorDataset(*images(8 * PER_EPOCH, 8)), batch_size=8, shuffle=True)

    class Paused:
        """Gives the killer time; changes nothing."""

        def __call__(self, model: nn.Module, batch: Any, ctx: Any) -> Any:
            time.sleep(pause)
            return objective(model, batch, ctx)

        def state_dict(self) -> dict[str, Any]:
            return objective.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            objective.load_state_dict(state)

    result = fit(
        net,
        Paused(),
        loader,
        epochs=epochs,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=2e-4),
        schedule=warmup_cosine(0.2),
        augment=random_flip,
        ema=0.8,
        validate=lambda model: clean_and_robust(model, validation, attack, seed=5),
        select="w_robust",
        checkpoint=folder,
        checkpoint_every=EVERY,
        seed=17,
    )
    return result, net, objective


def die_instead_of_rename(number: int) -> Callable[[Any, Any], None]:
    real, left = os.replace, [number]

    def replace(source: Any, target: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    return replace


def main(root: Path, moments: list[str]) -> None:
    for index, moment in enumerate(moments):
        folder = root / str(index)
        kind, number = moment.split("=")
        child = os.fork()
        if child == 0:
            if kind == "rename":
                os.replace = die_instead_of_rename(int(number))
            run(folder, pause=0.02)
            os._exit(0)
        log = folder / "metrics.jsonl"
        deadline = time.monotonic() + 60
        ended = (0, 0)
        while ended == (0, 0) and time.monotonic() < deadline:
            ended = os.waitpid(child, os.WNOHANG)
            if kind == "lines" and log.exists() and log.read_bytes().count(b"\n") >= int(number):
                break
            time.sleep(0.002)
        if ended == (0, 0):
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
        print(moment, "killed" if os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGKILL else "ended", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
