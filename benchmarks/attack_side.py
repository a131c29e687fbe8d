"""One tool on one model, for attack_suite.py: run in the tool's own environment, it writes what it found and how long it took.

    python attack_side.py TOOL JOB.json OUT.json

Each tool is used as its documentation says: our standard suite through `attack_set`; pyautoattack's `AutoAttack(version=
"standard").run_standard_evaluation` over the whole set; torchattacks' `AutoAttack(version="standard")` batch by batch. What is
timed begins with model and images in memory and warm, and ends with knowing which images are broken. One judge for all comes
after it: the model's answer to the images that the tool returned, of which those outside the budget do not count.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from attacked import MODELS, Attacked, attacked_images, loaded
from common import commit, machine, versions
from torch import Tensor, nn

from tutelage.auditing.audit import audit
from tutelage.auditing.measure import attack_set
from tutelage.core.files import write_json
from tutelage.core.memory import keep_memory
from tutelage.data.images import ImageSet
from tutelage.threats.budgets import Budget
from tutelage.threats.suite import Suite

FLAGGED_ON = 128  # images of the audit that raises our flags, not timed with the attack
ROUNDING = 1e-4  # of eps: how far outside is outside
NORMS = {"linf": "Linf", "l2": "L2"}


@dataclass
class Found:
    """What a tool says. x_adv (N, ...), broken (N,) bool.

    robust: robust accuracy after each of its attacks. passes: samples that each passed, forward and backward.
    """

    x_adv: Tensor
    broken: Tensor
    robust: dict[str, float] = field(default_factory=dict)
    passes: dict[str, tuple[int, int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    search: str = ""  # in what form the model was searched


Tool = Callable[[nn.Module, ImageSet, Budget, int, bool], Found]


def tutelage(net: nn.Module, images: ImageSet, budget: Budget, batch: int, quick: bool) -> Found:
    found = attack_set(net, images, Suite.standard(budget), batch_size=batch)
    robust = {name: float((~broken).double().mean()) for name, broken in found.stages.items()}
    return Found(found.x_adv, found.broken, robust, found.spent, found.warnings, found.search)


def pyautoattack(net: nn.Module, images: ImageSet, budget: Budget, batch: int, quick: bool) -> Found:
    from pyautoattack import AutoAttack

    attack = AutoAttack(net, norm=NORMS[budget.norm], eps=float(budget.eps), version="standard", seed=0)
    if quick:
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = 2
        attack.square.n_queries = 10
    said = Said()
    attack.logger.addHandler(said)
    attack.logger.setLevel(logging.DEBUG)  # a dozen lines a run
    attack.logger.propagate = False
    x, y = images[:]
    x_adv, answers = attack.run_standard_evaluation(x, y, batch_size=batch)
    return Found(x_adv, answers != y, said.robust, warnings=list(dict.fromkeys(said.warnings)))


class Said(logging.Handler):
    """What pyautoattack logs: its flags, and the robust accuracy after each attack."""

    def __init__(self) -> None:
        super().__init__()
        self.robust: dict[str, float] = {}
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self.warnings.append(text.strip())
        elif match := re.match(r"robust accuracy after ([\w-]+): ([\d.]+)%", text):
            self.robust[match[1]] = float(match[2]) / 100


def torchattacks(net: nn.Module, images: ImageSet, budget: Budget, batch: int, quick: bool) -> Found:
    import torchattacks

    classes = len(images.classes)
    attack = torchattacks.AutoAttack(
        net, norm=NORMS[budget.norm], eps=float(budget.eps), version="standard", n_classes=classes, seed=0
    )
    if quick:
        for part in attack._autoattack.attacks:
            part.steps, part.n_queries = 2, 10
    x_adv, broken = [], []
    for x, y in images.loader(batch):
        x_adv.append(attack(x, y))
        with torch.no_grad():
            broken.append(net(x_adv[-1]).argmax(1) != y)
    return Found(torch.cat(x_adv), torch.cat(broken))


TOOLS: dict[str, Tool] = {"tutelage": tutelage, "pyautoattack": pyautoattack, "torchattacks": torchattacks}


def answers(net: nn.Module, x: Tensor, batch: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(part).argmax(1) for part in x.split(batch)])


def flags(net: nn.Module, images: ImageSet, model: Attacked) -> tuple[str, list[str]]:
    """Status of an audit of the first images, and what makes it unreliable, as `tutelage audit` prints it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are in the result, too
        result = audit(net, images.take(slice(0, FLAGGED_ON)), threats=[model.budget], curve=False, force=True)
    raised = [flag for flag in result.flags if flag.unreliable]
    return result.status, [f"{flag.slug}: {flag.seen}. Run next: {flag.run_next}" for flag in raised]


def run(tool: str, job: dict[str, Any]) -> dict[str, Any]:
    """Attack; -> what goes into the outcome file. All lists have one entry an image."""
    model, batch, quick = MODELS[job["model"]], job["batch"], job["quick"]
    torch.set_num_threads(job["threads"])
    images = attacked_images(model, job["n"])
    x, y = images[:]
    images = ImageSet(x, y, images.classes, name=images.name, split="test")  # floats, so that no side divides again
    net = loaded(model, images, Path(job["weights"]))
    torch.manual_seed(0)
    keep_memory()  # every side has what the `tutelage` command has
    leaf = x[:batch].clone().requires_grad_()
    net(leaf).sum().backward()  # warm
    load, start, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    found = TOOLS[tool](net, images, model.budget, batch, quick)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    wrong = answers(net, found.x_adv, batch) != y
    size = model.budget.size(x, found.x_adv)
    inside = (size <= float(model.budget.eps) * (1 + ROUNDING)) & (found.x_adv.flatten(1).amin(1) >= 0)
    inside &= found.x_adv.flatten(1).amax(1) <= 1
    clean = answers(net, x, batch) == y
    status, warned = flags(net, images, model) if tool == "tutelage" else ("", [])
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "load": load,
        "clean": digits(clean),
        "robust": digits(~(wrong & inside) & clean),
        "outside": int((~inside).sum()),
        "disputed": int((wrong != found.broken).sum()),
        "after": found.robust,
        "passes": {name: list(spent) for name, spent in found.passes.items()},
        "search": found.search,
        "warnings": found.warnings,
        "status": status,
        "flags": warned,
        "versions": versions(),
        "machine": machine(),
        **commit(),
    }


def digits(mask: Tensor) -> str:
    return "".join("01"[bool(value)] for value in mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    got = parser.parse_args()
    try:
        outcome = run(got.tool, json.loads(got.job.read_text()))
    except Exception as error:  # a tool that fails is a result of this race, too
        traceback.print_exc()
        outcome = {"failed": f"{type(error).__name__}: {error}"}
    write_json(got.out, outcome)


if __name__ == "__main__":
    main()
