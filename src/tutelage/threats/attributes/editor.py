"""`AttributeEditor`: one attribute of an object in a picture is edited, everything else stays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import derive
from tutelage.data.cutouts import CutoutSet, Scene
from tutelage.data.guard import refuse_test_data
from tutelage.models.checks import check_labels
from tutelage.threats.attributes.background import BackgroundEditor, DirectBackground
from tutelage.threats.attributes.geometry import moved, resized, rotated

Kind = Literal["inversion", "background", "adversarial-background", "random-background", "size", "position", "direction"]
Attribute = Literal["none", "background", "size", "position", "direction"]
MAX_ANGLE = 45.0


@dataclass(frozen=True)
class Edit:
    """One edit.

    kind and value: "inversion" (none: what the editor itself does to a picture), "background" (lambda: above 0 busier, below
    0 smoother), "adversarial-background" (lambda, and against a classifier), "random-background" (of a picture of another
    class), "size" (share of the frame, 0 < value < 1; none: as large as the frame holds it), "position" (none: a random
    place), "direction" (degrees counter-clockwise; none: uniform in -45 ... 45).
    """

    kind: Kind
    value: float | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(Kind))
        if self.kind in ("background", "adversarial-background"):
            check_number("value", self.value, "lambda, a finite number: above 0 busier, below 0 smoother")
        elif self.kind == "size" and self.value is not None:
            check_number("value", self.value, "a share of the frame above 0 and below 1, or None", low=1e-6, high=1 - 1e-6)
        elif self.kind == "direction" and self.value is not None:
            check_number("value", self.value, "degrees, or None for a random direction")
        elif self.kind in ("inversion", "random-background", "position") and self.value is not None:
            raise InputError("value", self.value, f"none for {self.kind}")

    @property
    def attribute(self) -> Attribute:
        """What is edited."""
        if self.kind in ("size", "position", "direction"):
            return self.kind
        return "none" if self.kind == "inversion" else "background"

    def __str__(self) -> str:
        """Such as size-5-percent, size-full, background-20, background+20-adversarial, position, direction."""
        if self.kind == "size":
            return "size-full" if self.value is None else f"size-{100 * self.value:g}-percent"
        if self.kind in ("background", "adversarial-background"):
            return f"background{self.value:+g}" + ("-adversarial" if self.kind == "adversarial-background" else "")
        if self.kind == "random-background":
            return "background-random"
        return self.kind if self.value is None else f"{self.kind}{self.value:+g}"


# the eleven of the benchmark, in its order
IMAGENET_E = (
    Edit("inversion"),
    Edit("background", -20.0),
    Edit("background", 20.0),
    Edit("adversarial-background", 20.0),
    Edit("random-background"),
    Edit("size"),
    Edit("size", 0.1),
    Edit("size", 0.08),
    Edit("size", 0.05),
    Edit("position"),
    Edit("direction"),
)


@dataclass(frozen=True)
class EditResult:
    """B edited pictures. image (B, C, H, W) in [0, 1]; mask (B, 1, H, W): alpha of the object where it is now; rate (B,): the
    share of the frame it covers; ok (B,): whether the edit could be done; value (B,): the lambda, share of the frame or degrees
    that was asked for or drawn (0 where an edit has none).
    """

    image: Tensor
    mask: Tensor
    rate: Tensor
    ok: Tensor
    value: Tensor


@dataclass(frozen=True)
class AttributeEditor:
    """Edits pictures that are taken apart into object, mask and background.

    background: how backgrounds are drawn anew (`DirectBackground`, `DiffusionBackground`, or a function of your own). seed: a
    picture's draws depend on it, the edit, and the picture's place in the data, not on the batch.
    """

    background: BackgroundEditor = field(default_factory=DirectBackground)
    seed: int = 404

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, low=-(2**63))

    def edit(self, data: CutoutSet, edit: Edit, *, surrogate: nn.Module | None = None, batch_size: int = 256) -> EditResult:
        """Every picture of a set after one edit. What failed (ok False) is kept, edited as far as it goes.

        surrogate: the classifier of "adversarial-background": images in [0, 1] -> logits of the set's classes; it is used in
        evaluation mode on its own device. "random-background" takes backgrounds from pictures of the set with other labels.
        Raises InputError where an edit cannot be made at all: no surrogate, no second class, one background for all.
        """
        check_integer("batch_size", batch_size)
        if not isinstance(edit, Edit):
            raise InputError("edit", edit, 'an Edit such as Edit("size", 0.05)')
        refuse_test_data(data)
        if edit.kind == "adversarial-background" and not isinstance(surrogate, nn.Module):
            raise InputError("surrogate", surrogate, "a classifier, for the adversarial background")
        others = self._others(data, edit) if edit.kind == "random-background" else None
        parts = []
        for index in torch.split(torch.arange(len(data)), batch_size):
            scene, y = data[index]
            noise = [torch.Generator().manual_seed(derive(self.seed, edit, i)) for i in index.tolist()]
            if others is not None:
                scene = scene.with_background(data[others[index]][0].background)
                parts.append(_result(scene, torch.ones(len(y), dtype=torch.bool), torch.zeros(len(y))))
            elif edit.attribute == "background":
                parts.append(self._background(scene, y, edit, noise, surrogate, data))
            else:
                parts.append(self._object(scene, edit, noise))
        fields = ("image", "mask", "rate", "ok", "value")
        return EditResult(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))

    def _background(
        self, scene: Scene, y: Tensor, edit: Edit, noise: list[torch.Generator], surrogate: nn.Module | None, data: CutoutSet
    ) -> EditResult:
        value = float(edit.value or 0)
        if edit.kind == "background":
            drawn = self.background(scene, value, noise=noise)
        else:
            assert surrogate is not None
            device = next((p.device for p in surrogate.parameters()), torch.device("cpu"))
            there = Scene(*(part.to(device) for part in (scene.object, scene.alpha, scene.background)))
            with torch.no_grad():
                check_labels(y, len(y), len(data.classes))
            drawn = self.background(there, value, noise=noise, y=y.to(device), model=surrogate).to(scene.background)
        return _result(scene.with_background(drawn), torch.ones(len(y), dtype=torch.bool), torch.full((len(y),), value))

    def _object(self, scene: Scene, edit: Edit, noise: list[torch.Generator]) -> EditResult:
        layers = torch.cat([scene.object, scene.alpha], 1)
        new, ok, values = [], [], []
        for layer, source in zip(layers, noise, strict=True):
            u, v = torch.rand(2, generator=source, dtype=torch.float64).tolist()
            value = 0.0 if edit.value is None else float(edit.value)
            if edit.kind == "size":
                changed, fine = resized(layer, edit.value)
            elif edit.kind == "position":
                changed, fine = moved(layer, u, v)
            else:
                if edit.value is None:
                    value = MAX_ANGLE * (2 * u - 1)
                changed, fine = rotated(layer, value, back=edit.kind == "inversion")
            new.append(changed)
            ok.append(fine)
            values.append(value)
        edited = torch.stack(new)
        scene = Scene(edited[:, :-1], edited[:, -1:], scene.background)
        if edit.kind == "inversion":
            scene = scene.with_background(self.background(scene, 0.0, noise=noise))
        return _result(scene, torch.tensor(ok), torch.tensor(values))

    def _others(self, data: CutoutSet, edit: Edit) -> Tensor:
        """For each picture the position of one of another class, drawn by its own generator."""
        if len(data.backgrounds) == 1:
            raise InputError("backgrounds", "one for all", "a background for each picture, for the random background")
        found = []
        for i, label in enumerate(data.labels.tolist()):
            other = (data.labels != label).nonzero().flatten()
            if not len(other):
                raise InputError("data", "one class", "at least two classes, for the random background")
            source = torch.Generator().manual_seed(derive(self.seed, edit, i))
            found.append(int(other[torch.randint(len(other), (), generator=source)]))
        return torch.tensor(found)


def _result(scene: Scene, ok: Tensor, value: Tensor) -> EditResult:
    return EditResult(scene.image, scene.alpha, scene.rate, ok, value.float())
