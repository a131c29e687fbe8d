"""The finished parts of an audit on disk: a kill costs one batch, and the same call goes on from there.

    folder/0f3a…/state.json                 what the parts belong to: model, data, seed, batch size, machine, code
    folder/0f3a…/clean.safetensors          logits on the clean images, by which the same model is recognised
    folder/0f3a…/linf-8-255-5d1c8a02-000003.safetensors    one batch under a threat, or one point of a curve
    folder/0f3a…/corruption-fog-3-77e0b1f4-000000.safetensors    what is right of up to 4,096 images under one corruption

The name of the inner folder is the hash of state.json, and that of a part has a hash of its own threat or corruption. So parts
of something else are never mixed in, and an audit with another list of threats takes over those that are the same. Each part is
one file, written whole or not at all, with a hash over its content. The parts of a threat hold its adversarial inputs, so they
are as large as the images in float32. They stay when the audit has ended, because its result is not saved yet; `clear_finished`
removes them.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cache
from inspect import getsource
from pathlib import Path
from types import FunctionType
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tutelage.core.environment import environment
from tutelage.core.errors import AttackError, InputError
from tutelage.core.files import canonical_json, locked, sha256_file, sha256_tensors, sha256_text, write_atomic, write_json
from tutelage.core.progress import QUIET, Progress
from tutelage.data.images import ImageSet
from tutelage.threats.budgets import Budget
from tutelage.threats.suite import Stage, Suite, SuiteResult

FORMAT = "tutelage-audit-state-2"
FINISHED = "finished.json"
FAILURES = (InputError, AttackError)  # of a threat, a corruption, a curve: the others go on
# whatever these hold decides what a part is; a part of other code is not used
CODE = ("threats/*.py", "threats/corruptions/*.py", "auditing/audit.py", "auditing/corruption.py", "auditing/curve.py",
        "auditing/measure.py", "auditing/shards.py", "auditing/state.py", "core/rng.py", "data/images.py", "models/checks.py",
        "models/guard.py", "models/stand_ins.py")  # fmt: skip


def identity(
    model_sha256: str,
    model: nn.Module,
    images: ImageSet,
    suites: Sequence[Suite],
    seed: int,
    batch_size: int,
    device: str,
) -> dict[str, Any] | None:
    """All that every part of an audit depends on, by name; None if a threat uses a function that has no name.

    What only some depend on, a threat, a corruption, a shifted set, is in their names.
    """
    if any(_describe(suite) is None for suite in suites):
        return None
    here = environment(device)
    structure = re.sub(r" at 0x[0-9a-f]+", "", f"{type(model).__module__}.{type(model).__qualname__} {model!r}")
    return {
        "format": FORMAT,
        "model": sha256_text(f"{model_sha256} {structure}"),
        "data": images.sha256,
        "seed": seed,
        "batch size": batch_size,
        "device": f"{here['device']} {here['device_name']}",
        "threads": here["threads"],
        "torch": torch.__version__,
        "code": _code(),
    }


class State:
    """The parts of one audit, below `folder` (None: nothing is kept). A context: nobody else may use them meanwhile.

    The workers of that audit use a State of their own without entering it.
    """

    def __init__(self, folder: Path | None, about: dict[str, Any], progress: Progress = QUIET) -> None:
        self.folder, self.about, self.progress = folder, about, progress
        self.own = folder / sha256_text(canonical_json(about))[:16] if folder else None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.folder is None or self.own is None:
            return self
        try:
            self._stack.enter_context(locked(self.own.with_suffix(".lock"), wait=False))
        except BlockingIOError as error:
            raise InputError("state", str(self.folder), "a folder that no other audit is using now") from error
        if (self.own / "state.json").is_file():
            for litter in self.own.glob(".*"):  # what a killed writer left
                litter.unlink(missing_ok=True)
            (self.own / FINISHED).unlink(missing_ok=True)  # it may hold parts of other threats; this audit has not ended
        else:
            self._tell_of_others()
            write_json(self.own / "state.json", self.about)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def finished(self) -> None:
        """Mark the parts as those of an audit that has ended."""
        if self.own is not None:
            write_json(self.own / FINISHED, {})

    def check_model(self, logits: Tensor) -> None:
        """Weights and structure do not tell what `forward` does; the clean logits (N, classes) do. Others: start anew."""
        if self.own is None:
            return
        kept = self._read("clean")
        if kept is not None:
            if torch.allclose(kept[0]["logits"], logits, rtol=1e-4, atol=1e-4):
                parts = len(list(self.own.glob("*.safetensors"))) - 1
                self.progress.print(f"going on from {self.own}: {parts} {'part is' if parts == 1 else 'parts are'} finished")
                return
            warnings.warn(f"{self.own}: the model gives other logits than it gave then; the audit starts anew", stacklevel=3)
        for part in self.own.glob("*.safetensors"):
            part.unlink()
        self._write("clean", {"logits": logits}, {})

    def part(
        self, name: str, compute: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and plain values of a part; computed and kept if it is not there."""
        if self.own is None:
            return compute()
        found = self._read(name)
        if found is None:
            found = compute()
            self._write(name, *found)
        return found

    def has(self, name: str) -> bool:
        """Whether there is a file of that part; it is checked when it is read."""
        return self.own is not None and (self.own / f"{name}.safetensors").exists()

    def found(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of a part; None if it is not there or damaged, which is told."""
        part = self._read(name) if self.own is not None else None
        return None if part is None else part[0]

    def batches(self, suite: Suite) -> KeptSuite:
        """`suite` with its finished batches taken over."""
        return KeptSuite(suite, self, place_of(suite))

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        assert self.own is not None
        path = self.own / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            content = path.read_bytes()
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            part = json.loads(header["__metadata__"]["part"])
            if part["sha256"] != _digest(name, tensors, part["plain"]):
                raise ValueError("its content was changed")
            return tensors, part["plain"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warnings.warn(f"{path} is damaged ({error}); this part is computed again", stacklevel=2)
            return None

    def _write(self, name: str, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        assert self.own is not None
        held = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        part = canonical_json({"plain": plain, "sha256": _digest(name, held, plain)})
        write_atomic(self.own / f"{name}.safetensors", save(held, {"part": part}))

    def _tell_of_others(self) -> None:
        """One line if the folder holds parts of an audit that is not this one: what is different."""
        assert self.folder is not None
        for other in sorted(self.folder.glob("*/state.json")):
            try:
                theirs = json.loads(other.read_text())
                different = [key for key, value in self.about.items() if theirs.get(key) != value]
            except (OSError, ValueError, AttributeError):
                different = ["state.json, which cannot be read"]
            warnings.warn(
                f"{other.parent} is not used, it is the state of another audit (other {', '.join(different)}); "
                "this one starts anew",
                stacklevel=4,
            )


@dataclass
class KeptSuite:
    """A suite over the batches of one set, in order: what is kept of a batch is taken over. batch: the number of the next."""

    suite: Suite
    state: State
    place: str
    batch: int = 0

    @property
    def name(self) -> str:
        return self.suite.name

    def run_seeded(self, model: nn.Module, x: Tensor, y: Tensor, seeds: Tensor) -> SuiteResult:
        def compute() -> tuple[dict[str, Tensor], dict[str, Any]]:
            result = self.suite.run_seeded(model, x, y, seeds)
            tensors = {"x_adv": result.x_adv, "success": result.success, "loss": result.loss}
            tensors |= {f"stage/{i}": stage.success for i, stage in enumerate(result.stages)}
            return tensors, {
                "forward": result.forward,
                "backward": result.backward,
                "warnings": result.warnings,
                "stages": [[stage.name, stage.forward, stage.backward] for stage in result.stages],
                "search": result.search,
            }

        tensors, plain = self.state.part(f"{self.place}-{self.batch:06d}", compute)
        self.batch += 1
        return SuiteResult(
            tensors["x_adv"],
            tensors["success"],
            tensors["loss"],
            plain["forward"],
            plain["backward"],
            plain["warnings"],
            stages=tuple(
                Stage(name, tensors[f"stage/{i}"], forward, backward)
                for i, (name, forward, backward) in enumerate(plain["stages"])
            ),
            search=plain["search"],
        )


def _digest(name: str, tensors: dict[str, Tensor], plain: Any) -> str:
    return sha256_text(f"{name} {sha256_tensors(tensors)} {canonical_json(plain)}")


def clear_finished(folder: Path | str) -> None:
    """Remove the parts of audits that have ended, once their results are saved; what else is in `folder` stays."""
    folder = Path(folder)
    for mark in folder.glob(f"*/{FINISHED}"):
        shutil.rmtree(mark.parent, ignore_errors=True)
        mark.parent.with_suffix(".lock").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def place_of(suite: Suite) -> str:
    """How the names of the parts of `suite` begin."""
    return file_name(f"{suite.name}-{key_of(_describe(suite))}")


def key_of(value: Any) -> str:
    """A short hash of a JSON value: what tells parts apart whose names are the same."""
    return sha256_text(canonical_json(value))[:8]


def file_name(text: str) -> str:
    """`text` as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def _describe(suite: Suite) -> dict[str, Any] | None:
    attacks = []
    for name, attack in suite.attacks:
        values = {f.name: _value(getattr(attack, f.name)) for f in fields(attack)}
        if None in values.values():
            return None
        attacks.append([name, f"{type(attack).__module__}.{type(attack).__qualname__}", values])
    return {"name": suite.name, "budget": repr(suite.budget), "attacks": attacks, "fast": suite.fast}


def _value(value: Any) -> str | None:
    """A text that is the same for the same value in every process; None if there is none."""
    if value is None or isinstance(value, bool | int | float | str | tuple):
        return repr(value)
    if isinstance(value, Budget):
        return repr(value)
    if isinstance(value, FunctionType) and "<" not in value.__qualname__ and not value.__closure__:
        try:
            return f"{value.__module__}.{value.__qualname__} {sha256_text(getsource(value))}"
        except OSError:  # typed into an interpreter
            return None
    return None


@cache
def _code() -> str:
    package = Path(__file__).parents[1]
    paths = sorted(path for pattern in CODE for path in package.glob(pattern))
    return sha256_text(canonical_json([[str(path.relative_to(package)), sha256_file(path)] for path in paths]))
