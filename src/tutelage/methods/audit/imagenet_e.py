"""ImageNet-E: which attribute of an object does a classifier lean on: background, size, position or direction?

For whoever has a classifier and pictures with object masks, or cut-outs with alpha. One attribute of a picture is edited
at a time, everything else stays; the drop in top-1 accuracy tells what the classifier needs. Before deployment it says "our
model fails where the object is 5 % of the frame".

    Li, Chen, Zhu, Wang, Zhang, Xue: ImageNet-E: Benchmarking Neural Network Robustness via Attribute Editing,
    arXiv 2303.17096 (2023), CVPR 2023.

Picture x = m f + (1 - m) b, put together from the object's colours f, its mask m (alpha) and the background b; r = mean(m)
is the object's rate, the share of the frame that it covers.

    C(u) = mean over channels and frequencies of |FFT2(u)|                              (1) complexity, not normalised
    background lambda: raise lambda C, the object kept; lambda > 0 is busier            (2)
        adversarial: also raise -log p(y | x) of a surrogate classifier
        random: the background of a picture of another class
    size s: k <- k sqrt(s / r) until |r - s| <= 0.015; full: the box fills the frame    (3)
    position: the box uniform in the frame; direction: turned by uniform +-45 degrees   (4)
    inversion: the object resampled (turned there and back), the background at lambda = 0: what the editor itself does
    Drop(edit) = Acc(originals) - Acc(the same pictures edited), in points              (5)
    average = mean Drop of the ten edits without the inversion                          (6)

The paper draws (2) with a diffusion model (`DiffusionBackground`, any denoiser); the default, `DirectBackground`, does
gradient ascent on the pixels: exact, fast, and no second model whose faults would be measured along. Edited pictures are
rounded to 8 bits, as files are. A picture with which an edit cannot be done (no free place, a size that the frame cannot
hold) counts in neither accuracy of (5).

Example::

    import torch
    from tutelage.data.photographs import sample_photograph
    from tutelage.methods.audit.imagenet_e import audit_attributes
    from tutelage.threats.attributes import emoji_pictures

    pictures = emoji_pictures(40, [sample_photograph("flower")], split="test")  # or read_cutouts, read_masked
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 48 * 48, 7))  # your own classifier
    print(audit_attributes(model, pictures).table())
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.auditing.attributes import (
    Answers,
    AttributeAudit,
    AttributeExample,
    AttributeReport,
    average_drop,
    drop_row,
    first_turned,
)
from tutelage.auditing.measure import predict
from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import check_folder, write_atomic, write_json
from tutelage.core.progress import QUIET, Progress
from tutelage.data.cutouts import CutoutSet, eight_bits, read_cutouts, read_masked
from tutelage.data.images import ImageSet
from tutelage.data.photographs import photo_crops, sample_photograph
from tutelage.models.loading import fingerprint
from tutelage.threats.attributes.editor import IMAGENET_E, AttributeEditor, Edit


@dataclass(frozen=True, eq=False)
class Edited:
    """N pictures after one edit, in the order of the originals: images uint8; ok, rate, value (N,), see `EditResult`."""

    images: ImageSet
    ok: Tensor
    rate: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class AttributeSuite:
    """A benchmark: the original pictures, uint8, and the same after each edit. settings: what made it."""

    original: ImageSet
    edited: dict[Edit, Edited]
    settings: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path | str) -> Path:
        """Write original.npz, one .npz an edit (`image`, `label`; `ok`, `rate`, `value`) and manifest.json, which is returned.

        Each .npz can be read by `tutelage audit --data`. The manifest says of every file which edit, how it was made, its hash.
        """
        folder = Path(folder)
        check_folder(folder)
        files = {"original": _arrays(self.original)}
        for edit, one in self.edited.items():
            told = {"ok": one.ok.numpy(), "rate": one.rate.numpy(), "value": one.value.numpy()}
            files[str(edit)] = _arrays(one.images) | told
        kinds = {str(edit): {"kind": edit.kind, "value": edit.value} for edit in self.edited}
        hashes = {"original": self.original.sha256} | {str(edit): one.images.sha256 for edit, one in self.edited.items()}
        entries = []
        for name, arrays in files.items():
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **arrays)
            write_atomic(folder / f"{name}.npz", buffer.getvalue())
            entries.append({"file": f"{name}.npz", **kinds.get(name, {}), "n": len(arrays["label"]), "sha256": hashes[name]})
        about = {"classes": list(self.original.classes), "name": self.original.name, "split": self.original.split}
        write_json(folder / "manifest.json", {**about, "settings": self.settings, "files": entries})
        return folder / "manifest.json"

    @classmethod
    def load(cls, folder: Path | str) -> AttributeSuite:
        """Read what `save` wrote; every file is compared with its hash."""
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise MissingError(f"{folder} holds no suite (no manifest.json)")
        about = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        original, edited = None, {}
        for entry in about["files"]:
            try:
                with np.load(folder / entry["file"], allow_pickle=False) as arrays:
                    found = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
                images = ImageSet(
                    found["image"].permute(0, 3, 1, 2).contiguous(), found["label"], tuple(about["classes"]),
                    about["name"], about["split"],
                )  # fmt: skip
            except (OSError, ValueError, KeyError) as error:
                raise InputError("folder", entry["file"], f"a suite as `save` writes it ({error})") from error
            if images.sha256 != entry["sha256"]:
                raise InputError("folder", f"{entry['file']} that was changed", f"SHA-256 {entry['sha256']}")
            if "kind" in entry:
                edited[Edit(entry["kind"], entry["value"])] = Edited(images, found["ok"], found["rate"], found["value"])
            else:
                original = images
        if original is None:
            raise InputError("folder", "no original.npz", "a suite as `save` writes it")
        return cls(original, edited, about["settings"])


def build_suite(
    data: CutoutSet,
    edits: Sequence[Edit] = IMAGENET_E,
    *,
    editor: AttributeEditor | None = None,
    surrogate: nn.Module | None = None,
    batch_size: int = 256,
    progress: Progress = QUIET,
) -> AttributeSuite:
    """Edit every picture in every way, once; the suite then serves any number of models.

    data: pictures taken apart. editor: default `AttributeEditor()`. surrogate: the classifier against which the adversarial
    background is made. Raises InputError for edits that come twice, or that the data do not allow, before any compute.
    """
    if not isinstance(data, CutoutSet):
        raise InputError("data", type(data).__name__, "a CutoutSet: read_cutouts, read_masked, CutoutSet.of, emoji_pictures")
    editor = editor or AttributeEditor()
    if not isinstance(editor, AttributeEditor):
        raise InputError("editor", type(editor).__name__, "an AttributeEditor")
    if not edits or not all(isinstance(edit, Edit) for edit in edits):
        raise InputError("edits", edits, 'one or several edits, such as Edit("size", 0.05)')
    names = [str(edit) for edit in edits]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError("edits", f"{twice[0]} twice", "each edit once")
    if any(edit.kind == "adversarial-background" for edit in edits) and not isinstance(surrogate, nn.Module):
        raise InputError("surrogate", surrogate, "a classifier, for the adversarial background")
    if any(edit.kind == "random-background" for edit in edits) and int(data.labels.min()) == int(data.labels.max()):
        raise InputError("data", "one class", "at least two classes, for the random background")
    original, edited = data.images, {}
    with progress.task("editing", len(edits)) as task:
        for edit in edits:
            found = editor.edit(data, edit, surrogate=surrogate, batch_size=batch_size)
            images = ImageSet(eight_bits(found.image), data.labels, data.classes, f"{data.name}, {edit}", data.split, data.kind)
            edited[edit] = Edited(images, found.ok, found.rate, found.value)
            task.advance(1, str(edit))
    settings = {
        "background": _described(editor.background),
        "seed": editor.seed,
        "surrogate": fingerprint(surrogate) if surrogate is not None else "",
    }
    return AttributeSuite(original, edited, settings)


def attribute_report(
    model: nn.Module,
    suite: AttributeSuite,
    *,
    consistency: bool = False,
    examples: int = 4,
    batch_size: int = 256,
    name: str | None = None,
    progress: Progress = QUIET,
) -> AttributeReport:
    """The drop (5) of every edit, with intervals, by class, and their average (6).

    model: images in [0, 1] -> logits, classes in the suite's order, used in evaluation mode and handed back unchanged.
    consistency: no labels needed; what the model says of the original counts as right, so that a drop is the share of pictures
    on which an edit changes its answer. examples: pictures an edit that were right and are wrong then.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
    if not isinstance(suite, AttributeSuite) or not suite.edited:
        raise InputError("suite", type(suite).__name__, "an AttributeSuite with at least one edit: build_suite(data)")
    check_integer("examples", examples, low=0)
    before = predict(model, suite.original, batch_size=batch_size).argmax(1)
    truth = before if consistency else suite.original.labels
    right = before == truth
    rows, shown = [], []
    lost: dict[str, Tensor] = {}
    done: dict[str, Tensor] = {}
    answers: dict[str, Answers] = {}
    with progress.task("edits", len(suite.edited)) as task:
        for edit, one in suite.edited.items():
            after = predict(model, one.images, batch_size=batch_size).argmax(1)
            correct, word = after == truth, str(edit)
            answers[word] = Answers(correct.tolist(), one.ok.tolist(), one.images.sha256)
            labels, classes = suite.original.labels, suite.original.classes
            rows.append(drop_row(word, edit.attribute, right, correct, one.ok, one.rate, labels, classes))
            if edit.kind != "inversion":
                lost[word], done[word] = right.long() - correct.long(), one.ok
            for i in first_turned(right, correct, one.ok, examples).tolist():
                pair = suite.original.images[i], one.images.images[i]
                shown.append(AttributeExample(word, i, int(labels[i]), int(after[i]), *pair))
            task.advance(1, word)
    average, interval = average_drop(lost, done, int(suite.settings.get("seed", 0))) if lost else (0.0, (0.0, 0.0))
    about = {"name": name or type(model).__name__, "parameters": sum(p.numel() for p in model.parameters())}
    settings = {**suite.settings, "right": "the model's own answer on the original" if consistency else "the label"}
    return AttributeReport(
        rows, average, interval, suite.original.classes, settings, {**about, "sha256": fingerprint(model)},
        suite.original.describe(), shown, answers,
    )  # fmt: skip


def audit_attributes(
    model: nn.Module,
    data: CutoutSet | Path | str,
    edits: Sequence[Edit] = IMAGENET_E,
    *,
    masks: Path | str | None = None,
    size: int | None = None,
    editor: AttributeEditor | None = None,
    surrogate: nn.Module | None = None,
    consistency: bool = False,
    name: str | None = None,
    batch_size: int = 256,
    progress: Progress = QUIET,
) -> AttributeAudit:
    """Edit and measure in one call: what `--suite attributes` does.

    data: a CutoutSet, or a folder of class folders: with `masks`, images and masks (`read_masked`); without, cut-outs with
    alpha, which are put before crops of a photograph (`read_cutouts`). size: pixels a side, for folders. surrogate: of the
    adversarial background; default: the model itself, so that this edit is worst for it. An edit that no picture allows has a
    row with n = 0 and is in no mean; InputError if all are such.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
    if not isinstance(data, CutoutSet):
        data = read_pictures(data, masks, size)
    elif masks is not None or size is not None:
        raise InputError("masks, size", "given with a CutoutSet", "masks and size with a folder only")
    other = model if surrogate is None else surrogate
    suite = build_suite(data, edits, editor=editor, surrogate=other, batch_size=batch_size, progress=progress)
    possible = {edit: one for edit, one in suite.edited.items() if bool(one.ok.any())}
    if not possible:
        raise InputError("edits", f"{', '.join(map(str, suite.edited))}, which no picture allows", "an edit that fits the data")
    report = attribute_report(
        model, replace(suite, edited=possible), consistency=consistency, name=name, batch_size=batch_size, progress=progress
    )
    return AttributeAudit.of(report, {str(edit): edit.attribute for edit in suite.edited})


def read_pictures(path: Path | str, masks: Path | str | None = None, size: int | None = None) -> CutoutSet:
    """The pictures of a folder of class folders, taken apart: with `masks`, images and masks; without, cut-outs with alpha.

    As `audit_attributes` reads them: cut-outs are put before crops of a photograph. Raises InputError and MissingError.
    """
    if masks is not None:
        return read_masked(path, masks, size=size)
    alone = read_cutouts(path, torch.full((3,), 0.5), size=size)
    if alone.alpha.shape[2] != alone.alpha.shape[3]:
        raise InputError("data", f"cut-outs of {tuple(alone.alpha.shape[2:])}", "square ones, or size=N")
    crops = photo_crops([sample_photograph("flower"), sample_photograph("china")], len(alone), alone.alpha.shape[2], seed=0)
    cutouts = torch.cat([alone.colours, alone.alpha], 1)
    return CutoutSet.on(cutouts, crops, alone.labels, alone.classes, name=alone.name)


def _described(background: object) -> str:
    """A background editor in words that are the same on every run: no address of a function is in them."""
    if not is_dataclass(background):
        return getattr(background, "__qualname__", type(background).__name__)
    values = ((f.name, getattr(background, f.name)) for f in fields(background))
    plain = ", ".join(f"{key}={value!r}" for key, value in values if isinstance(value, int | float))
    return f"{type(background).__name__}({plain})"


def _arrays(images: ImageSet) -> dict[str, np.ndarray]:
    return {"image": images.images.permute(0, 2, 3, 1).numpy(), "label": images.labels.numpy()}
