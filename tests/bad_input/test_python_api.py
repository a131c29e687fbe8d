"""Bad input from Python: one sentence that names argument, got and wanted, before any compute, and nothing changed.

Each case: what is called, the argument that must be named, what was got, what is wanted, the type of error. `calls` is how
often the model may have run by then: 0 where the bad part can be seen without it.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from photographed import CLASSES, N, Net, Returns, User, make_user, picture
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tutelage import FGSM, L2, PGD, AuditResult, ImageSet, Linf, MTARDConfig, Suite, Teacher, audit, fit, fit_mtard
from tutelage.claims.claim import load_claim
from tutelage.claims.runner import load_result, run_claim
from tutelage.core.errors import (
    AuditError,
    InputError,
    MissingError,
    ModelChanged,
    QueryBudgetExceeded,
    SplitError,
    TutelageError,
)
from tutelage.core.rng import generator
from tutelage.data import as_images, fashion_mnist_subset, random_shift, read_images, standard_set, training_only
from tutelage.methods.distill.mtard import MTARD
from tutelage.models.loading import load_model, load_weights
from tutelage.teaching import (
    AdversarialTraining,
    CrossEntropy,
    EntropyBalancer,
    LossBalancer,
    QueryBudget,
    RobustDistillation,
    multistep,
    remembered_logits,
    warmup_cosine,
)
from tutelage.threats import kl_to_reference, parse_budget, parse_threat


@dataclass(frozen=True)
class Case:
    call: Callable[[User], object]
    argument: str
    got: str
    wanted: str
    error: type[TutelageError] = InputError
    calls: int = 0


@pytest.fixture
def user(tmp_path: Path) -> User:
    return make_user(tmp_path)


# How the entry points are called


def audited(u: User, model: Any = None, data: Any = None, **options: Any) -> AuditResult:
    options = {"threats": ["pgd-1:linf@0.1"], "curve": False, "force": True} | options
    return audit(u.model if model is None else model, u.images if data is None else data, **options)


def attacked(u: User, model: Any = None, x: Any = None, y: Any = None, attack: Any = None, **options: Any) -> Any:
    attack = PGD(Linf(0.1), steps=2) if attack is None else attack
    x, y = u.x if x is None else x, u.y if y is None else y
    return attack.run(u.model if model is None else model, x, y, generator(0), **options)


def fitted(u: User, objective: Any = None, loader: Any = None, model: Any = None, **options: Any) -> Any:
    options = {"epochs": 1, "optimizer": u.optimizer} | options
    objective = CrossEntropy() if objective is None else objective
    return fit(u.student if model is None else model, objective, u.loader if loader is None else loader, **options)


def distilled(u: User, student: Any = None, teachers: Any = None, loader: Any = None, **options: Any) -> Any:
    options = {"epochs": 1, "optimizer": u.optimizer, "threat": Linf(0.1)} | options
    if "attack" not in options and isinstance(options["threat"], Linf):
        options["attack"] = PGD(options["threat"], steps=1)
    teachers = u.teachers if teachers is None else teachers
    return fit_mtard(u.student if student is None else student, teachers, u.loader if loader is None else loader, **options)


def rslad(u: User, teacher: Any = None, attack: Any = None, **options: Any) -> RobustDistillation:
    attack = PGD(Linf(0.1), steps=1, objective=kl_to_reference) if attack is None else attack
    return RobustDistillation(Teacher(u.robust) if teacher is None else teacher, attack, **options)


# How things are spoiled


def spoiled(tensor: Tensor, value: float, at: int = 0) -> Tensor:
    copy = tensor.clone()
    copy.reshape(-1)[at] = value
    return copy


def late(tensor: Tensor, value: float) -> Tensor:
    """Bad in the last sample only, so that the first batches are good."""
    return spoiled(tensor, value, -1)


def file(u: User, name: str, content: bytes) -> Path:
    (u.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (u.folder / name).write_bytes(content)
    return u.folder / name


def npz(u: User, **arrays: Any) -> Path:
    np.savez(u.folder / "bad.npz", **arrays)
    return u.folder / "bad.npz"


def parquet(u: User, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), u.folder / "bad.parquet")
    return u.folder / "bad.parquet"


def classes(u: User, **contents: bytes) -> Path:
    """A folder with one image a class."""
    for name, content in contents.items():
        file(u, f"bad/{name}/1.png", content)
    return u.folder / "bad"


def weights(u: User, change: Callable[[dict[str, Tensor]], object]) -> Path:
    state = load_file(u.folder / "net.safetensors")
    change(state)
    save_file(state, u.folder / "bad.safetensors")
    return u.folder / "bad.safetensors"


def bomb() -> bytes:
    """A PNG of 12,000 x 12,000 white pixels in a few kilobytes."""
    return picture(Image.new("1", (12_000, 12_000), 1))


def transparent() -> bytes:
    return picture(np.dstack([np.full((4, 4, 3), 200, np.uint8), np.array([[255] * 4] * 3 + [[254] * 4], np.uint8)]))


GREY = np.full((4, 4), 100, np.uint8)


class Broken(Dataset[Any]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        raise RuntimeError("the disk is gone\nand with it the data")


def linear(features: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(features, CLASSES)


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


class Counts(nn.Module):
    """Changes a buffer in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.layer = linear(64)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.layer(x.flatten(1))


def nan_net() -> Net:
    net = Net()
    with torch.no_grad():
        net.head.weight[0, 0] = math.nan
    return net


def held_out() -> ImageSet:
    return fashion_mnist_subset("test").take(slice(0, 8))


def inside_a_fit(call: Callable[[], object]) -> None:
    with training_only():
        call()


UNIT = r"\[0, 1\]"

AUDIT = {
    "model: a function": Case(lambda u: audited(u, lambda x: x), "model", "function", "nn.Module"),
    "model: a path": Case(lambda u: audited(u, "net.pt"), "model", "str", "nn.Module"),
    "model returns a dict": Case(
        lambda u: audited(u, Returns(lambda z: {"loss": z.sum(), "logits": z})), "model", "dict", r"outputs\['logits'\]"
    ),
    "model returns a tuple": Case(lambda u: audited(u, Returns(lambda z: (z, None))), "model", "tuple", r"outputs\[0\]"),
    "model returns an object with logits": Case(
        lambda u: audited(u, Returns(lambda z: SimpleNamespace(logits=z))), "model", "SimpleNamespace", r"outputs\.logits"
    ),
    "model returns None": Case(lambda u: audited(u, Returns(lambda z: None)), "model", "NoneType", "tensor of logits"),
    "model returns classes": Case(
        lambda u: audited(u, Returns(lambda z: z.argmax(1))), "model", r"\(12,\)", r"\(12, classes\)"
    ),
    "model returns one column": Case(lambda u: audited(u, Returns(lambda z: z[:, :1])), "model", "1 output", "two classes"),
    "model returns integers": Case(lambda u: audited(u, Returns(lambda z: z.long())), "model", "int64", "floating-point"),
    "model returns half a batch": Case(
        lambda u: audited(u, Returns(lambda z: z[:6])), "model", r"\(6, 3\)", r"\(12, classes\)"
    ),
    "model returns NaN": Case(lambda u: audited(u, nan_net()), "model", "NaN or infinity", "finite"),
    "model returns infinity": Case(lambda u: audited(u, Returns(lambda z: z / 0)), "model", "NaN or infinity", "finite"),
    "model returns probabilities": Case(
        lambda u: audited(u, Returns(lambda z: z.softmax(1)), force=False),
        "model",
        "probabilities",
        "LogProbabilities",
        AuditError,
    ),
    "model fails": Case(lambda u: audited(u, Raises()), "model", "RuntimeError", "logits"),
    "model in half precision": Case(lambda u: audited(u, Net().half()), "model", "RuntimeError", "float32 model|logits"),
    "model in double precision": Case(lambda u: audited(u, Net().double()), "model", "RuntimeError", "float32 model|logits"),
    "model on no device": Case(lambda u: audited(u, Net().to("meta")), "model", "meta device", "loaded"),
    "model that changes in eval mode": Case(
        lambda u: audited(u, Counts(), force=False), "model", "'seen' changed", "put back.*--force", ModelChanged
    ),
    "model with too few classes": Case(lambda u: audited(u, Net(2)), "label", "2", "labels from 0 to 1"),
    "model at chance": Case(
        lambda u: audited(u, Returns(lambda z: z * 0), force=False), "clean accuracy", "33.3 %", "check weights", AuditError
    ),
    "data: nothing": Case(lambda u: audited(u, data=7), "data", "int", "a path, an ImageSet"),
    "data: no such path": Case(lambda u: audited(u, data=u.folder / "absent"), "data", "absent", "", MissingError),
    "data with NaN": Case(lambda u: audited(u, data=(late(u.x, math.nan), u.y)), "image", "NaN", UNIT),
    "data with infinity": Case(lambda u: audited(u, data=(late(u.x, math.inf), u.y)), "image", "to inf", UNIT),
    "data of 0 to 255": Case(lambda u: audited(u, data=(u.x * 255, u.y)), "image", "to 2[0-9]{2}", "as uint8"),
    "data that is normalised": Case(lambda u: audited(u, data=(u.x - 0.5, u.y)), "image", "from -0", "inside the model"),
    "data of five channels": Case(lambda u: audited(u, data=(u.x.repeat(1, 5, 1, 1), u.y)), "image", r"\(12, 5", "1 or 3"),
    "data of colour": Case(
        lambda u: audited(u, data=(u.x.repeat(1, 3, 1, 1), u.y)), "model", r"\(12, 3, 8, 8\)", "logits", calls=1
    ),
    "data that is empty": Case(lambda u: audited(u, data=(u.x[:0], u.y[:0])), "image", "no images", "at least one"),
    "labels of another length": Case(lambda u: audited(u, data=(u.x, u.y[:5])), "label", r"\(5,\)", r"\(12,\)"),
    "labels that are floats": Case(lambda u: audited(u, data=(u.x, u.y.float())), "label", "float32", "integer"),
    "labels below 0": Case(lambda u: audited(u, data=(u.x, u.y - 1)), "label", "-1", "from 0"),
    "labels above the model": Case(lambda u: audited(u, data=(u.x, u.y + 1)), "label", "3", "from 0 to 2", calls=1),
    "one label above the model, at the end": Case(
        lambda u: audited(u, data=(u.x, late(u.y, 7))), "label", "7", "from 0 to 2", calls=2
    ),
    "labels that are text": Case(lambda u: audited(u, data=(u.x, list("abcabcabcabc"))), "label", "list", "numbers"),
    "threat: unknown norm": Case(lambda u: audited(u, threats=["l3@0.1"]), "threats", "l3@0.1", "linf@8/255"),
    "threat: no eps": Case(lambda u: audited(u, threats=["linf"]), "threats", "linf", "NORM@EPS"),
    "threat: eps of 0": Case(lambda u: audited(u, threats=["linf@0"]), "threats", "linf@0", "above 0"),
    "threat: eps of 0-255 pixels": Case(lambda u: audited(u, threats=["linf@8"]), "threats", "linf@8", "linf@8/255"),
    "threat: unknown attack": Case(lambda u: audited(u, threats=["ddn:l2@1"]), "threats", "ddn:l2@1", "fgsm|pgd"),
    "threat: no steps": Case(lambda u: audited(u, threats=["pgd-0:l2@1"]), "threats", "pgd-0", "pgd-STEPS"),
    "threat: a number": Case(lambda u: audited(u, threats=[0.1]), "threats", "0.1", "Linf"),
    "threat twice": Case(lambda u: audited(u, threats=["linf@0.1", Linf(0.1)]), "threats", "linf@0.1 twice", "once"),
    "threat of one eps a sample": Case(
        lambda u: audited(u, threats=[Linf(torch.full((N,), 0.1))]), "threats", "one eps a sample", "one eps for the whole"
    ),
    "n of 0": Case(lambda u: audited(u, n=0), "n", "0", "between 1 and 11|>= 1"),
    "n above the data": Case(lambda u: audited(u, n=13), "n", "13", "at most 12"),
    "n of 2.5": Case(lambda u: audited(u, n=2.5), "n", "2.5", "integer"),
    "batch_size of 0": Case(lambda u: audited(u, batch_size=0), "batch_size", "0", "at least 1|>= 1"),
    "slices outside": Case(lambda u: audited(u, slices={"a": [12]}), "slices", "position 12", "from 0 to 11"),
    "slices below 0": Case(lambda u: audited(u, slices={"a": [-1]}), "slices", "position -1", "from 0 to 11"),
    "slices that are empty": Case(lambda u: audited(u, slices={"a": []}), "slices", "without samples", "at least one"),
    "slices of another length": Case(
        lambda u: audited(u, slices={"a": torch.ones(5, dtype=torch.bool)}), "slices", r"\(5,\)", r"\(12,\)"
    ),
    "slices and n": Case(lambda u: audited(u, slices={"a": [0]}, n=6), "slices", "n=6", "without n"),
    "a result that is not there": Case(lambda u: AuditResult.load(u.folder), "audit.json", "", "", MissingError),
    "a result that is damaged": Case(
        lambda u: AuditResult.load(file(u, "run/audit.json", b'{"rows": [').parent), "folder", "run", "as `save` writes"
    ),
    "a result of something else": Case(
        lambda u: AuditResult.load(file(u, "run/audit.json", b"[1, 2]").parent), "folder", "run", "as `save` writes"
    ),
}

ATTACK = {
    "budget: a number": Case(lambda u: PGD(0.1), "budget", "0.1", "Linf"),
    "eps: text": Case(lambda u: Linf("8/255"), "eps", "8/255", "number"),
    "eps: negative": Case(lambda u: L2(-1.0), "eps", "-1", ">= 0"),
    "eps: NaN": Case(lambda u: Linf(math.nan), "eps", "nan", "finite"),
    "eps: infinite": Case(lambda u: L2(math.inf), "eps", "inf", "finite"),
    "eps: a matrix": Case(lambda u: Linf(torch.ones(2, 2)), "eps", "tensor", "one a sample"),
    "eps: of another batch": Case(lambda u: attacked(u, attack=PGD(Linf(torch.full((5,), 0.1)))), "eps", r"\(5,\)", r"\(12,\)"),
    "budget text: None": Case(lambda u: parse_budget(None), "threats", "None", "linf@8/255"),
    "threat text: bytes": Case(lambda u: parse_threat(b"linf@0.1"), "threats", "linf", "text"),
    "steps of 0": Case(lambda u: PGD(Linf(0.1), steps=0), "steps", "0", "integer >= 1"),
    "steps of 2.0": Case(lambda u: PGD(Linf(0.1), steps=2.0), "steps", "2.0", "integer >= 1"),
    "steps of True": Case(lambda u: PGD(Linf(0.1), steps=True), "steps", "True", "integer >= 1"),
    "restarts of 0": Case(lambda u: PGD(Linf(0.1), restarts=0), "restarts", "0", "integer >= 1"),
    "eot of -1": Case(lambda u: PGD(Linf(0.1), eot=-1), "eot", "-1", "integer >= 1"),
    "step_size of NaN": Case(lambda u: PGD(Linf(0.1), step_size=math.nan), "step_size", "nan", "> 0"),
    "step_size: text": Case(lambda u: PGD(Linf(0.1), step_size="0.1"), "step_size", "0.1", "> 0"),
    "step_size of infinity": Case(lambda u: PGD(Linf(0.1), step_size=math.inf), "step_size", "inf", "> 0"),
    "relative_step of 0": Case(lambda u: PGD(Linf(0.1), relative_step=0), "relative_step", "0", "units of eps"),
    "start: unknown": Case(lambda u: PGD(Linf(0.1), start="random"), "start", "random", "uniform, gaussian, clean"),
    "start_std below 0": Case(lambda u: PGD(Linf(0.1), start_std=-1), "start_std", "-1", ">= 0"),
    "bounds upside down": Case(lambda u: PGD(Linf(0.1), bounds=(1, 0)), "bounds", r"\(1, 0\)", "lowest"),
    "bounds: one number": Case(lambda u: PGD(Linf(0.1), bounds=1.0), "bounds", "1.0", "pair"),
    "bounds with NaN": Case(lambda u: PGD(Linf(0.1), bounds=(0, math.nan)), "bounds", "nan", "finite"),
    "objective: a name": Case(lambda u: PGD(Linf(0.1), objective="margin"), "objective", "margin", "function"),
    "accept: a number": Case(lambda u: PGD(Linf(0.1), accept=1), "accept", "1", "function"),
    "objective: a mean": Case(
        lambda u: attacked(u, attack=PGD(Linf(0.1), objective=lambda z, b: z.mean())),
        "objective",
        r"shape \(\)",
        r"\(12,\)",
        calls=1,
    ),
    "objective: one a class": Case(
        lambda u: attacked(u, attack=PGD(Linf(0.1), objective=lambda z, b: z)), "objective", r"\(12, 3\)", r"\(12,\)", calls=1
    ),
    "objective: a number": Case(
        lambda u: attacked(u, attack=PGD(Linf(0.1), objective=lambda z, b: 1.0)), "objective", "float", r"\(12,\)", calls=1
    ),
    "accept: one for all": Case(
        lambda u: attacked(u, attack=PGD(Linf(0.1), accept=lambda z, b: (z > 0).all())),
        "accept",
        r"shape \(\)",
        r"\(12,\)",
        calls=1,
    ),
    "accept: numbers": Case(
        lambda u: attacked(u, attack=PGD(Linf(0.1), accept=lambda z, b: z[:, 0])), "accept", "float32", "bool", calls=1
    ),
    "project: another shape": Case(
        lambda u: attacked(u, attack=PGD(Linf(0.1), accept=lambda z, b: z[:, 0] > 1e9, project=lambda x, a: a[0])),
        "project",
        r"\(1, 8, 8\)",
        "same shape",
        calls=1,
    ),
    "objective: a mean, in training": Case(
        lambda u: PGD(Linf(0.1), objective=lambda z, b: z.mean())(u.x, u.y, model=u.model, generator=generator(0)),
        "objective",
        r"shape \(\)",
        r"\(12,\)",
        calls=1,
    ),
    "model: a function": Case(lambda u: attacked(u, lambda x: x), "model", "function", "nn.Module"),
    "model returns a tuple": Case(lambda u: attacked(u, Returns(lambda z: (z,))), "model", "tuple", r"outputs\[0\]"),
    "model fails": Case(lambda u: attacked(u, Raises()), "model", "RuntimeError", "logits"),
    "model in bfloat16": Case(lambda u: attacked(u, Net().bfloat16()), "model", "RuntimeError", "float32 model"),
    "x: an array": Case(lambda u: attacked(u, x=u.x.numpy()), "x", "ndarray", "torch.Tensor"),
    "x of bytes": Case(lambda u: attacked(u, x=(u.x * 255).byte()), "x", "uint8", "divide"),
    "x with NaN": Case(lambda u: attacked(u, x=late(u.x, math.nan)), "x", "NaN", "finite"),
    "x outside": Case(lambda u: attacked(u, x=u.x * 255), "x", "values from", "divide 0-255 images by 255"),
    "x of one image": Case(lambda u: attacked(u, x=u.x[0, 0, 0], y=u.y[:1]), "x", r"\(8,\)", "a batch"),
    "x of nothing": Case(lambda u: attacked(u, x=u.x[:0], y=u.y[:0]), "x", r"\(0, ", "at least one"),
    "y: one-hot": Case(lambda u: attacked(u, y=torch.eye(3)[u.y]), "y", r"\(12, 3\)", "one label a sample"),
    "y: a list": Case(lambda u: attacked(u, y=u.y.tolist()), "y", "list", "torch.Tensor"),
    "y too high": Case(lambda u: attacked(u, y=u.y + 1), "y", "label 3", "0 to 2", calls=1),
    "target without a targeted attack": Case(lambda u: attacked(u, target=u.y), "target", "tensor", "only if"),
    "targeted without a target": Case(
        lambda u: attacked(u, attack=FGSM(Linf(0.1), targeted=True)), "target", "None", "targeted"
    ),
    "target too high": Case(
        lambda u: attacked(u, attack=FGSM(Linf(0.1), targeted=True), target=u.y + 1), "target", "label 3", "0 to 2", calls=1
    ),
    "no reference": Case(
        lambda u: attacked(u, attack=PGD(Linf(0.1), objective=kl_to_reference)),
        "reference",
        "None",
        "reference logits",
        calls=1,
    ),
    "reference of other classes": Case(
        lambda u: attacked(u, attack=PGD(Linf(0.1), objective=kl_to_reference), reference=torch.zeros(N, 5)),
        "reference",
        r"\(12, 5\)",
        r"\(12, 3\)",
        calls=1,
    ),
    "suite without attacks": Case(lambda u: Suite(Linf(0.1), ()), "attacks", r"\(\)", "at least one"),
    "suite of bare attacks": Case(lambda u: Suite(Linf(0.1), (PGD(Linf(0.1)),)), "attacks", "PGD", "pair"),
    "suite of another norm": Case(lambda u: Suite(Linf(0.1), (("a", PGD(L2(1))),)), "attacks", "l2@1", "linf@0.1"),
    "suite with a target": Case(
        lambda u: Suite(Linf(0.1), (("a", FGSM(Linf(0.1), targeted=True)),)), "attacks", "targeted", "untargeted"
    ),
    "suite of a number": Case(lambda u: Suite(0.1, ()), "budget", "0.1", "Linf"),
    "suite on NaN": Case(lambda u: attacked(u, x=late(u.x, math.nan), attack=Suite.standard(Linf(0.1))), "x", "NaN", "finite"),
}

DATA = {
    "path: a number": Case(lambda u: read_images(7), "path", "int", "path of a folder"),
    "path: absent": Case(lambda u: read_images(u.folder / "absent.npz"), "data", "absent.npz", "", MissingError),
    "path: too long a name": Case(lambda u: read_images("a" * 5000), "data", "aaa", "", MissingError),
    "path: a text file": Case(lambda u: read_images(u.folder / "my_net.py"), "data", "my_net.py", r"\.npz"),
    "size of 0": Case(lambda u: read_images(u.folder / "good", size=0), "size", "0", "1 to 4096"),
    "size of a million": Case(lambda u: read_images(u.folder / "good", size=10**6), "size", "1000000", "1 to 4096"),
    "size with npz": Case(lambda u: read_images(u.folder / "good.npz", size=4), "size", "4 with good.npz", "folder"),
    "size with arrays": Case(lambda u: as_images((u.x, u.y), size=4), "size", "4 with tuple", "path only"),
    "classes: one text": Case(lambda u: as_images((u.x, u.y), classes="abc"), "classes", "abc", "list of class names"),
    "classes: too few": Case(lambda u: as_images((u.x, u.y), classes=["a", "b"]), "label", "2", "classes, 2"),
    "folder: empty": Case(lambda u: read_images(file(u, "e/notes.txt", b"").parent), "data", "without sub-folders", "a class"),
    "folder: a class without images": Case(
        lambda u: read_images(file(u, "e/cat/notes.txt", b"").parents[1]), "data", "'cat' without images", r"\.png"
    ),
    "folder: a class of hidden files": Case(
        lambda u: read_images(file(u, "e/cat/._1.png", b"Mac OS X").parents[1]), "data", "'cat' without images", r"\.png"
    ),
    "folder: a corrupt image": Case(
        lambda u: read_images(classes(u, cat=picture(GREY), dog=picture(GREY)[:40])), "data", "dog/1.png", "Pillow can read"
    ),
    "folder: a text as image": Case(lambda u: read_images(classes(u, cat=b"meow")), "data", "cat/1.png", "Pillow can read"),
    "folder: an image that is a folder": Case(
        lambda u: read_images(file(u, "bad/cat/1.png/x", b"").parents[2]), "data", "cat/1.png", "an image file, no folder"
    ),
    "folder: a huge image": Case(lambda u: read_images(classes(u, cat=bomb())), "data", "12000 x 12000", "67 million pixels"),
    "folder: a huge image, resized": Case(
        lambda u: read_images(classes(u, cat=bomb()), size=8), "data", "12000 x 12000", "67 million pixels"
    ),
    "folder: transparency": Case(lambda u: read_images(classes(u, cat=transparent())), "data", "transparent", "flatten it"),
    "folder: floating-point pixels": Case(
        lambda u: read_images(classes(u, cat=picture(GREY.astype(np.float32), "TIFF"))), "data", "F-mode", r"use \.npz"
    ),
    "folder: two sizes": Case(
        lambda u: read_images(classes(u, cat=picture(GREY), dog=picture(GREY[:2]))), "data", "2 sizes", "one size"
    ),
    "npz: wrong keys": Case(lambda u: read_images(npz(u, x=GREY, y=[0])), "data", "keys x, y", "keys image and label"),
    "npz: no label": Case(lambda u: read_images(npz(u, image=GREY)), "data", "keys image", "keys image and label"),
    "npz: objects": Case(
        lambda u: read_images(npz(u, image=np.array([None], object), label=[0])), "data", "bad.npz", "without pickled objects"
    ),
    "npz: NaN": Case(
        lambda u: read_images(npz(u, image=np.full((1, 4, 4), np.nan, np.float32), label=[0])), "image", "NaN", UNIT
    ),
    "npz: int64 images": Case(
        lambda u: read_images(npz(u, image=GREY[None].astype(int), label=[0])), "image", "int64", "uint8"
    ),
    "npz: text images": Case(lambda u: read_images(npz(u, image=["cat"], label=[0])), "image", "dtype", "numbers"),
    "npz: flat images": Case(lambda u: read_images(npz(u, image=GREY, label=[0] * 4)), "image", r"\(4, 4\)", "N, C, H, W"),
    "npz: images without pixels": Case(
        lambda u: read_images(npz(u, image=np.zeros((2, 0, 4), np.uint8), label=[0, 1])), "image", r"\(2, 1, 0, 4\)", "above 0"
    ),
    "npz: float labels": Case(lambda u: read_images(npz(u, image=GREY[None], label=[0.5])), "label", "float64", "integer"),
    "npz: a label of a billion": Case(
        lambda u: read_images(npz(u, image=GREY[None], label=[10**9])), "label", "1000000000", "below 1048576"
    ),
    "npz: cut off": Case(
        lambda u: read_images(file(u, "cut.npz", (u.folder / "good.npz").read_bytes()[:300])), "data", "cut.npz", "readable"
    ),
    "npz: declares a petabyte": Case(lambda u: read_images(petabyte(u)), "data", "huge.npz", "readable"),
    "npz: a single array": Case(lambda u: read_images(single(u)), "data", "single.npz", "readable"),
    "parquet: wrong columns": Case(
        lambda u: read_images(parquet(u, img=[b"x"], label=[0])), "data", "bad.parquet", r"image and label \(it has img, label"
    ),
    "parquet: a corrupt image": Case(
        lambda u: read_images(parquet(u, image=[picture(GREY), b"x"], label=[0, 1])), "data", "row 1", "Pillow can read"
    ),
    "parquet: names of files": Case(
        lambda u: read_images(parquet(u, image=["1.png"], label=[0])), "data", "row 0", "image bytes"
    ),
    "parquet: missing labels": Case(
        lambda u: read_images(parquet(u, image=[picture(GREY)] * 2, label=[0, None])), "label", "1 missing", "integer in each"
    ),
    "parquet: cut off": Case(
        lambda u: read_images(file(u, "cut.parquet", (u.folder / "good.parquet").read_bytes()[:-30])),
        "data",
        "cut.parquet",
        "a Parquet file",
    ),
    "an empty loader": Case(
        lambda u: as_images(DataLoader(TensorDataset(u.x[:0], u.y[:0]), batch_size=4)), "data", "empty DataLoader", "one batch"
    ),
    "an empty data set": Case(lambda u: as_images(TensorDataset(u.x[:0], u.y[:0])), "data", "empty data set", "one sample"),
    "a loader of dicts": Case(
        lambda u: as_images(DataLoader([{"x": 1.0}], batch_size=1)), "data", "dict", r"\(image, label\) pairs"
    ),
    "a dict": Case(lambda u: as_images({"image": u.x, "label": u.y}), "data", "dict", r"\(image, label\) pairs"),
    "a data set that fails": Case(lambda u: as_images(Broken()), "data", "RuntimeError: the disk is gone", "pairs"),
    "a loader that fails": Case(lambda u: as_images(DataLoader(Broken())), "data", "RuntimeError", "pairs"),
    "images: an array": Case(lambda u: ImageSet(u.x.numpy(), u.y, ("a", "b", "c")), "image", "ndarray", "torch.Tensor"),
    "images: double": Case(lambda u: ImageSet(u.x.double(), u.y, ("a", "b", "c")), "image", "float64", "float32"),
    "labels: int32": Case(lambda u: ImageSet(u.x, u.y.int(), ("a", "b", "c")), "label", "int32", "int64"),
    "class names: one text": Case(lambda u: ImageSet(u.x, u.y, "abc"), "classes", "abc", "tuple of class names"),
    "split: misspelt": Case(lambda u: replace(u.images, split="tset"), "split", "tset", "train, validation, test"),
    "take: outside": Case(lambda u: u.images.take([0, 12]), "index", r"\[0, 12\]", "from 0 to 11"),
    "take: nothing": Case(lambda u: u.images.take([]), "image|index", "no images|", "at least one|positions"),
    "split_off: everything": Case(lambda u: u.images.split_off(12), "n", "12", "between 1 and 11"),
    "loader: batches of 0": Case(lambda u: u.images.loader(0), "batch_size", "0", "integer >= 1"),
    "shift: by -1": Case(lambda u: random_shift(-1), "pixels", "-1", "integer >= 0"),
    "bundled set: unknown split": Case(lambda u: fashion_mnist_subset("valid"), "split", "valid", "train or test"),
    "standard set: unknown": Case(lambda u: standard_set("imagenet", "test"), "data", "imagenet", "cifar10"),
    "test data read inside a fit": Case(
        lambda u: inside_a_fit(lambda: held_out()[0]), "data", "test data", "training", SplitError
    ),
    "test data renamed inside a fit": Case(
        lambda u: inside_a_fit(lambda: held_out().take([0], split="train")), "split", "renamed to 'train'", "stay", SplitError
    ),
    "test data split off inside a fit": Case(
        lambda u: inside_a_fit(lambda: held_out().split_off(2)), "split", "renamed to 'validation'", "stay", SplitError
    ),
    "test data out of a loader inside a fit": Case(
        lambda u: inside_a_fit(lambda: as_images(held_out().loader(4))), "data", "test data", "training", SplitError
    ),
}


def petabyte(u: User) -> Path:
    """An archive whose array header declares more than any memory holds."""
    path = u.folder / "huge.npz"
    shape = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000), }"
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + shape.ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", header)
        archive.writestr("label.npy", header)
    return path


def single(u: User) -> Path:
    with (u.folder / "single.npz").open("wb") as file:
        np.save(file, GREY)
    return u.folder / "single.npz"


MODEL = {
    "no colon": Case(lambda u: load_model("my_net.py"), "model", "my_net.py", "package.module:function"),
    "nothing": Case(lambda u: load_model(""), "model", "", "package.module:function"),
    "a number": Case(lambda u: load_model(3), "model", "int", "package.module:function"),
    "relative": Case(lambda u: load_model(".my_net:build"), "model", "my_net", "package.module:function"),
    "no such file": Case(lambda u: load_model("absent.py:build"), "model", "absent.py", "", MissingError),
    "no such module": Case(lambda u: load_model("absent_module:build"), "model", "absent_module", "imported"),
    "no such function": Case(lambda u: load_model(f"{u.folder}/my_net.py:biuld"), "model", "biuld|my_net", "biuld"),
    "a function with arguments": Case(lambda u: load_model(f"{u.folder}/my_net.py:needs"), "model", "'width'", "no arguments"),
    "a function that fails": Case(lambda u: load_model(f"{u.folder}/my_net.py:fails"), "model", "KeyError", "returns"),
    "a number in a file": Case(lambda u: load_model(f"{u.folder}/my_net.py:number"), "model", "number|int", "nn.Module"),
    "a file that fails": Case(
        lambda u: load_model(f"{file(u, 'broken_net.py', b'1 / 0')}:build"), "model", "ZeroDivisionError", "can be run"
    ),
    "a file with a syntax error": Case(
        lambda u: load_model(f"{file(u, 'odd_net.py', b'def build(:')}:build"), "model", "SyntaxError", "can be run"
    ),
    "weights: absent": Case(
        lambda u: load_weights(u.model, u.folder / "no.safetensors"), "weights", "no.saf", "", MissingError
    ),
    "weights: a pickle": Case(lambda u: load_weights(u.model, file(u, "net.pt", b"\x80")), "weights", "net.pt", "safetensors"),
    "weights: a number": Case(lambda u: load_weights(u.model, 3), "weights", "int", "path of a .safetensors"),
    "weights: a folder": Case(lambda u: load_weights(u.model, u.folder), "weights", "", "", MissingError),
    "weights: cut off": Case(
        lambda u: load_weights(u.model, file(u, "cut.safetensors", (u.folder / "net.safetensors").read_bytes()[:90])),
        "weights",
        "cut.safetensors",
        "readable safetensors",
    ),
    "weights: one missing": Case(
        lambda u: load_weights(u.model, weights(u, lambda s: s.pop("head.bias"))),
        "weights",
        "without 'head.bias'",
        "every tensor",
    ),
    "weights: one too many": Case(
        lambda u: load_weights(u.model, weights(u, lambda s: s.update(more=torch.ones(1)))), "weights", "'more'", "only tensors"
    ),
    "weights: another shape": Case(
        lambda u: load_weights(Net(5), u.folder / "net.safetensors"), "weights", r"\(3, 72\)|\(3,\)", r"\(5, 72\)|\(5,\)"
    ),
    "weights: NaN": Case(
        lambda u: load_weights(u.model, weights(u, lambda s: s.update({"head.bias": torch.full((3,), math.nan)}))),
        "weights",
        "'head.bias' with NaN",
        "finite",
    ),
    "weights: rounded from double": Case(
        lambda u: load_weights(
            u.model, weights(u, lambda s: s.update({"head.bias": torch.full((3,), 0.1, dtype=torch.float64)}))
        ),
        "weights",
        "'head.bias' in float64",
        "float32 can hold",
    ),
    "weights: too large for half": Case(
        lambda u: load_weights(Net().half(), u.folder / "net.safetensors"),
        "weights",
        "in float32 for a float16",
        "float16 can hold",
    ),
    "weights: integers": Case(
        lambda u: load_weights(u.model, weights(u, lambda s: s.update({"head.bias": torch.ones(3, dtype=torch.int64)}))),
        "weights",
        "'head.bias' in int64",
        "float32 can hold",
    ),
    "no model": Case(lambda u: load_weights(None, u.folder / "net.safetensors"), "model", "NoneType", "nn.Module"),
}

TEACHING = {
    "teacher: a function": Case(lambda u: Teacher(lambda x: x), "teacher", "function", "nn.Module"),
    "teacher: a budget that is a number": Case(lambda u: Teacher(u.clean, budget=5), "budget", "5", "QueryBudget"),
    "budget below 0": Case(lambda u: QueryBudget(-1), "limit", "-1", "integer >= 0"),
    "budget of 1.5": Case(lambda u: QueryBudget(1.5), "limit", "1.5", "integer >= 0"),
    "budget that is spent": Case(
        lambda u: Teacher(u.clean, budget=QueryBudget(5)).query(u.x), "teacher", "0 of 5", "12 more", QueryBudgetExceeded
    ),
    "query: no tensor": Case(lambda u: Teacher(u.clean).query([1, 2]), "x", "list", "batch"),
    "query: another shape": Case(lambda u: Teacher(Raises()).query(u.x), "teacher", "RuntimeError", "logits"),
    "query: of a half teacher": Case(lambda u: Teacher(Net().half()).query(u.x), "teacher", "RuntimeError", "float32 model"),
    "query: NaN teacher": Case(lambda u: Teacher(nan_net()).query(u.x), "teacher", "NaN", "finite"),
    "remembered: batches of 0": Case(
        lambda u: remembered_logits(Teacher(u.clean), u.x, u.folder, batch_size=0), "batch_size", "0", ">= 1"
    ),
    "smoothing of 1": Case(lambda u: CrossEntropy(label_smoothing=1.0), "label_smoothing", "1.0", r"\[0, 1\)"),
    "smoothing: text": Case(lambda u: CrossEntropy(label_smoothing="0.1"), "label_smoothing", "0.1", r"\[0, 1\)"),
    "attack: a budget": Case(lambda u: AdversarialTraining(Linf(0.1)), "attack", "linf|Linf", "PGD"),
    "rslad: a model as teacher": Case(lambda u: RobustDistillation(u.robust, PGD(Linf(0.1))), "teacher", "Net", "Teacher"),
    "rslad: a weight above 1": Case(lambda u: rslad(u, adversarial=1.5), "adversarial", "1.5", "0 to 1"),
    "rslad: unknown reduction": Case(lambda u: rslad(u, reduction="sum"), "reduction", "sum", "batchmean, mean"),
    "schedule: warm-up of 5 epochs": Case(lambda u: warmup_cosine(5), "warmup", "5", "0 to 1"),
    "schedule: milestones in epochs": Case(lambda u: multistep((30, 60)), "milestones", "30", "0 to 1"),
    "loss balancer: no names": Case(lambda u: LossBalancer(()), "names", r"\(\)", "at least one"),
    "entropy balancer: one name": Case(lambda u: EntropyBalancer(("a",)), "names", "a", "two names"),
    "fit: no length": Case(lambda u: fitted(u, epochs=None), "epochs", "None", "one of epochs and steps"),
    "fit: two lengths": Case(lambda u: fitted(u, steps=3), "epochs", "steps=3", "one of epochs and steps"),
    "fit: 0 epochs": Case(lambda u: fitted(u, epochs=0), "epochs", "0", ">= 1"),
    "fit: 1.5 epochs": Case(lambda u: fitted(u, epochs=1.5), "epochs", "1.5", "integer"),
    "fit: an empty loader": Case(
        lambda u: fitted(u, loader=DataLoader(TensorDataset(u.x[:0], u.y[:0]), batch_size=4)),
        "loader",
        "DataLoader|0",
        "one batch",
    ),
    "fit: a generator as loader": Case(
        lambda u: fitted(u, loader=(batch for batch in u.loader)), "loader", "generator", "DataLoader"
    ),
    "fit: a loader of batches of three": Case(
        lambda u: fitted(u, loader=DataLoader(TensorDataset(u.x, u.y, u.y), batch_size=4)), "loader", "3 parts", r"\(x, y\)"
    ),
    "fit: a loader of dicts": Case(
        lambda u: fitted(u, loader=DataLoader([{"x": 1.0}] * 4, batch_size=2)), "loader", "dict", r"\(x, y\)"
    ),
    "fit: test data": Case(lambda u: fitted(u, loader=held_out().loader(4)), "data", "test data", "training data", SplitError),
    "fit: labels above the model": Case(lambda u: fitted(u, loader=u.batches(y=u.y + 1)), "y", "label 3", "0 to 2", calls=1),
    "fit: adversarial, labels above the model": Case(
        lambda u: fitted(u, AdversarialTraining(PGD(Linf(0.1))), u.batches(y=u.y + 1)), "y", "label 3", "0 to 2", calls=1
    ),
    "fit: adversarial, labels below 0": Case(
        lambda u: fitted(u, AdversarialTraining(PGD(Linf(0.1))), u.batches(y=u.y - 1)), "y", "label -1", "labels from 0"
    ),
    "fit: rslad, labels above the model": Case(
        lambda u: fitted(u, rslad(u), u.batches(y=u.y + 1)), "y", "label 3", "0 to 2", calls=1
    ),
    "fit: labels below 0": Case(lambda u: fitted(u, loader=u.batches(y=u.y - 1)), "y", "label -1", "labels from 0"),
    "fit: float labels": Case(lambda u: fitted(u, loader=u.batches(y=u.y.float())), "y", "float32", "integer"),
    "fit: a mean over one-hot labels": Case(
        lambda u: fitted(u, loader=u.batches(y=torch.eye(3)[u.y])), "y", r"\(4, 3\)", "one label a sample"
    ),
    "fit: no trainable parameter": Case(lambda u: fitted(u, model=nn.Flatten()), "model", "no parameter", "train"),
    "fit: an average that never moves": Case(lambda u: fitted(u, ema=1.0), "ema", "1.0", "between 0 and 1"),
    "fit: select without validate": Case(lambda u: fitted(u, select="clean"), "select", "clean", "validate"),
    "fit: log_every of 0": Case(lambda u: fitted(u, log_every=0), "log_every", "0", ">= 1"),
    "fit: checkpoint_every of 2.5": Case(lambda u: fitted(u, checkpoint_every=2.5), "checkpoint_every", "2.5", ">= 1"),
    "fit: rslad with a teacher of other classes": Case(
        lambda u: fitted(u, rslad(u, Teacher(Net(5)), PGD(Linf(0.1), steps=1))), "teacher", "5 classes", "3, as many", calls=1
    ),
    "fit: rslad on 0 to 255": Case(lambda u: fitted(u, rslad(u), u.batches(u.x * 255)), "x", "values from", UNIT),
    "fit: a student of tuples": Case(
        lambda u: fitted(u, model=Returns(lambda z: (z,), u.student)), "model", "tuple", r"outputs\[0\]", calls=1
    ),
}

MTARD_CASES = {
    "student: a path": Case(lambda u: distilled(u, "net.pt"), "student", "str", "nn.Module"),
    "student is a teacher": Case(
        lambda u: distilled(u, teachers={"clean": u.clean, "robust": u.student}), "student", "also a teacher", "of its own"
    ),
    "student of dicts": Case(
        lambda u: distilled(u, Returns(lambda z: {"logits": z}, u.student)), "student", "dict", "logits", calls=1
    ),
    "student of probabilities": Case(
        lambda u: distilled(u, Returns(lambda z: z.softmax(1), u.student)), "student", "probabilities", "softmax", calls=1
    ),
    "teachers: one": Case(lambda u: distilled(u, teachers={"clean": u.clean}), "teachers", "clean", "'robust'"),
    "teachers: a list": Case(lambda u: distilled(u, teachers=[u.clean, u.robust]), "teachers", "list", "'clean'"),
    "teachers: other names": Case(
        lambda u: distilled(u, teachers={"natural": u.clean, "robust": u.robust}), "teachers", "natural", "'clean'"
    ),
    "teachers: a path": Case(
        lambda u: distilled(u, teachers={"clean": "net.pt", "robust": u.robust}), "clean teacher", "str", "nn.Module"
    ),
    "clean teacher of other classes": Case(
        lambda u: distilled(u, teachers={"clean": Net(5), "robust": u.robust}),
        "clean teacher",
        "5 classes",
        "3, as many",
        calls=1,
    ),
    "robust teacher of probabilities": Case(
        lambda u: distilled(u, teachers={"clean": u.clean, "robust": Returns(lambda z: z.softmax(1))}),
        "robust teacher",
        "probabilities",
        "softmax",
        calls=3,
    ),
    "robust teacher of NaN": Case(
        lambda u: distilled(u, teachers={"clean": u.clean, "robust": nan_net()}), "robust teacher", "NaN", "finite", calls=3
    ),
    "clean teacher in half precision": Case(
        lambda u: distilled(u, teachers={"clean": Net().half(), "robust": u.robust}),
        "clean teacher",
        "RuntimeError",
        "float32",
        calls=1,
    ),
    "clean teacher of tuples": Case(
        lambda u: distilled(u, teachers={"clean": Returns(lambda z: (z, z)), "robust": u.robust}),
        "clean teacher",
        "tuple",
        r"outputs\[0\]",
        calls=1,
    ),
    "threat: text": Case(lambda u: distilled(u, threat="linf@8/255"), "threat", "linf@8/255", "Budget"),
    "threat of one eps a sample": Case(
        lambda u: distilled(u, threat=Linf(torch.ones(4)), attack=None), "threat", "one eps a sample", "one eps"
    ),
    "validation: a path": Case(lambda u: distilled(u, validation="images/"), "validation", "str", "ImageSet"),
    "validation: test data": Case(lambda u: distilled(u, validation=held_out()), "data", "test data", "validation", SplitError),
    "data: test data": Case(lambda u: distilled(u, loader=held_out().loader(4)), "data", "test data", "training", SplitError),
    "data with NaN at the end": Case(
        lambda u: distilled(u, loader=u.batches(late(u.x, math.nan))), "loader", "sample 11", "finite"
    ),
    "data of 0 to 255": Case(lambda u: distilled(u, loader=u.batches(u.x * 255)), "x", "values from", UNIT),
    "labels above the student": Case(lambda u: distilled(u, loader=u.batches(y=u.y + 1)), "y", "label 3", "0 to 2", calls=1),
    "augment: a number": Case(lambda u: distilled(u, augment=4), "augment", "4", "function"),
    "epochs of 0": Case(lambda u: distilled(u, epochs=0), "epochs", "0", ">= 1"),
    "balance: one text": Case(lambda u: MTARDConfig(balance="loss"), "balance", "loss", r"\(\"loss\", \"entropy\"\)"),
    "balance: unknown": Case(lambda u: MTARDConfig(balance=("losses",)), "balance", "losses", "loss and entropy"),
    "clean_weight above 1": Case(lambda u: MTARDConfig(clean_weight=1.1), "clean_weight", "1.1", "0 to 1"),
    "clean_weight: text": Case(lambda u: MTARDConfig(clean_weight="half"), "clean_weight", "half", "0 to 1"),
    "eta_w of NaN": Case(lambda u: MTARDConfig(eta_w=math.nan), "eta_w", "nan", "0 to 1"),
    "eta_tau below 0": Case(lambda u: MTARDConfig(eta_tau=-1e-3), "eta_tau", "-0.001", ">= 0"),
    "b of infinity": Case(lambda u: MTARDConfig(b=math.inf), "b", "inf", "finite"),
    "temperatures from 0": Case(lambda u: MTARDConfig(temperature_bounds=(0, 10)), "temperature_bounds", "0", "above 0"),
    "temperatures upside down": Case(lambda u: MTARDConfig(temperature_bounds=(9, 1)), "temperature_bounds", "9", "lower"),
    "reduction: unknown": Case(lambda u: MTARDConfig(reduction="sum"), "reduction", "sum", "batchmean, mean"),
    "config: a dict": Case(
        lambda u: MTARD({k: Teacher(t) for k, t in u.teachers.items()}, PGD(Linf(0.1)), {"b": 1}),
        "config",
        "dict",
        "MTARDConfig",
    ),
    "attack: a budget": Case(
        lambda u: MTARD({k: Teacher(t) for k, t in u.teachers.items()}, Linf(0.1)), "attack", "Linf|linf", "PGD"
    ),
    "bare models as teachers": Case(lambda u: MTARD(u.teachers, PGD(Linf(0.1))), "teachers", "Net as 'clean'", "Teacher"),
}

CLAIMS = {
    "slug: unknown": Case(lambda u: run_claim("mtrd"), "slug", "mtrd", "mtard"),
    "slug: a number": Case(lambda u: run_claim(3), "slug", "int", "name of a system"),
    "slug: planned": Case(lambda u: run_claim("w2s-deception"), "w2s-deception", "planned", "", MissingError),
    "scale: unknown": Case(lambda u: run_claim("mtard", scale="huge"), "scale", "huge", "smoke, claim or paper"),
    "seeds of 0": Case(lambda u: run_claim("mtard", seeds=0), "seeds", "0", ">= 1"),
    "seeds of 1.5": Case(lambda u: run_claim("mtard", seeds=1.5), "seeds", "1.5", "integer"),
    "jobs of 0": Case(lambda u: run_claim("mtard", jobs=0), "jobs", "0", ">= 1"),
    "changes: a list": Case(lambda u: run_claim("mtard", changes=["epochs=3"]), "changes", "list", "mapping"),
    "setting: unknown": Case(lambda u: run_claim("mtard", changes={"epoch": "3"}), "set", "epoch", "one of .*epochs"),
    "setting: no number": Case(lambda u: run_claim("mtard", changes={"epochs": "three"}), "set", "epochs=three", "integer"),
    "setting: 0": Case(lambda u: run_claim("mtard", changes={"epochs": "0"}), "set", "epochs=0", "equal to 1"),
    "setting: infinite": Case(lambda u: run_claim("mtard", changes={"lr": "inf"}), "set", "lr=inf", "finite"),
    "setting: NaN": Case(lambda u: run_claim("mtard", changes={"eps": "nan"}), "set", "eps=nan", "greater|finite"),
    "setting: an unknown set": Case(lambda u: run_claim("mtard", changes={"data": "cats"}), "set", "data=cats", "cifar10"),
    "setting: nothing": Case(lambda u: run_claim("mtard", changes={"epochs": None}), "set", "epochs=None", "integer"),
    "no robust teacher": Case(
        lambda u: run_claim("mtard", changes={"robust_teacher": ""}), "robust_teacher", "none", "robust_teacher=module:function"
    ),
    "out: a file": Case(lambda u: run_claim("mtard", out=u.folder / "good.npz"), "out", "good.npz", "a folder"),
    "a result that is not there": Case(lambda u: load_result(u.folder), "result", "", "", MissingError),
    "a result that is damaged": Case(
        lambda u: load_result(file(u, "run/result.json", b'{"slug": ').parent), "RUN", "result.json", "as `run` writes"
    ),
    "a result with other keys": Case(
        lambda u: load_result(file(u, "run/result.json", b'{"slug": "mtard", "x": 1}').parent), "RUN", "result.json", "required"
    ),
    "cells of a config that is unknown": Case(lambda u: load_claim("mtard").config("smoke", {"": "1"}), "set", "", "one of"),
}

GROUPS = {
    "audit": AUDIT,
    "attack": ATTACK,
    "data": DATA,
    "model": MODEL,
    "teaching": TEACHING,
    "mtard": MTARD_CASES,
    "claim": CLAIMS,
}
TABLE = {f"{group}/{name}": case for group, cases in GROUPS.items() for name, case in cases.items()}


@pytest.mark.parametrize("name", TABLE)
def test_bad_input(name: str, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    case = TABLE[name]
    monkeypatch.chdir(user.folder)
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    made = set(os.listdir(user.folder))
    before = user.photograph()
    with pytest.raises(TutelageError) as caught:
        case.call(user)
    after = user.photograph()

    message = str(caught.value)
    assert type(caught.value) is case.error, message
    assert caught.value.exit_code == 2
    assert one_sentence(message), message
    assert re.search(rf"({case.argument}).*?({case.got}).*?({case.wanted})", message), message
    if issubclass(case.error, InputError):
        assert re.fullmatch(rf"({case.argument}): got .*({case.got}).*, wanted .*({case.wanted}).*", message), message

    # files that the case itself wrote before the call may be new; everything else is as it was
    new = {path for path in after["files"] if path not in before["files"]}
    assert all(Path(path).parts[0] not in made and not path.endswith("html") for path in new), new
    for files in (before["files"], after["files"]):
        for path in new:
            files.pop(path, None)
    assert after == before
    used = [net.calls for net in (user.model, user.student)]
    assert max(used) <= case.calls, f"the model ran {max(used)} times before the bad part was told"


def one_sentence(message: str) -> bool:
    """One line, nothing of Python's, no second sentence of ours (what others say stands in brackets or after a colon)."""
    ours = re.sub(r"\(.*\)", "", message.split(", wanted ")[-1])
    return "\n" not in message and "Traceback" not in message and not re.search(r"[.!?] [A-Z]", ours) and len(message) < 600


def test_the_table_is_large_enough() -> None:
    assert len(TABLE) >= 200
