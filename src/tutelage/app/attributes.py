"""What `tutelage audit --suite attributes` asks for: pictures with masks, from what the command line names; emoji always."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tutelage.auditing.attributes import AttributeReport
    from tutelage.core.progress import Progress
    from tutelage.data.cutouts import CutoutSet

ATTRIBUTES, EMOJI = "attributes", "emoji"
EMOJI_SIZE = 48  # pixels a side, if --size says nothing
WANTED = (
    "pictures with masks for --suite attributes: a folder of class folders of cut-outs with alpha (PNG, WebP), one of "
    "images with --masks FOLDER, or emoji"
)


def is_emoji(data: str) -> bool:
    """Whether --data names the bundled emoji: a file or folder of that name comes first."""
    return data == EMOJI and not Path(data).exists()


def split_suites(suites: list[str] | None, masks: Path | None, data: str) -> tuple[list[str], bool]:
    """(what --suite asks for but attributes, whether it asks for them); InputError before anything is read."""
    asked = [suite.strip() for suite in suites or []]
    wanted = ATTRIBUTES in asked
    if asked.count(ATTRIBUTES) > 1:
        raise InputError("suite", f"{ATTRIBUTES} twice", "each suite once")
    if masks is not None and not wanted:
        raise InputError("masks", str(masks), "masks with --suite attributes only")
    if masks is not None and is_emoji(data):
        raise InputError("masks", str(masks), "none with emoji, which have their own")
    if wanted and Path(data).is_file():
        raise InputError("data", f"{Path(data).name}, which holds no masks", WANTED)
    return [suite for suite in asked if suite != ATTRIBUTES], wanted


def read_pictures(data: str, masks: Path | None, size: int, n: int) -> CutoutSet:
    """The pictures, taken apart, that --data names: the bundled emoji, cut-outs, or images with masks.

    size: pixels a side, 0 for those of the files. n: so many, class shares kept as elsewhere; 0 for all, which for emoji is
    each drawing of the test split once. Raises InputError for pictures of one class, which have no random background.
    """
    from tutelage.methods.audit.imagenet_e import read_pictures as read

    if is_emoji(data):
        return _emoji(n, size or EMOJI_SIZE)
    try:
        pictures = read(data, masks, size or None)
    except InputError as error:
        if masks is None and "without alpha" in str(error):
            raise InputError("data", str(error).partition("got ")[2].partition(", wanted")[0], WANTED) from error
        raise
    if n > len(pictures):
        raise InputError("n", n, f"at most {len(pictures)}, as many as there are")
    return pictures.take(_some(pictures, n)) if n and n != len(pictures) else pictures


def check_classes(pictures: CutoutSet) -> None:
    """What the edits would refuse, told before anything is attacked."""
    if int(pictures.labels.min()) == int(pictures.labels.max()):
        wanted = "pictures of at least two classes for --suite attributes, whose random background is that of another class"
        raise InputError("data", f"{len(pictures)} of one class", wanted)


def audited_attributes(
    model: nn.Module, pictures: CutoutSet, *, name: str, batch_size: int, progress: Progress
) -> AttributeReport:
    """The drops of all edits; without the one against the model's own gradients, if it has none."""
    from tutelage.methods.audit.imagenet_e import audit_attributes
    from tutelage.models.checks import is_differentiable
    from tutelage.threats.attributes import IMAGENET_E

    edits = [edit for edit in IMAGENET_E if is_differentiable(model) or edit.kind != "adversarial-background"]
    return audit_attributes(model, pictures, edits, name=name, batch_size=batch_size, progress=progress)


def _some(pictures: CutoutSet, n: int) -> Tensor:
    """The positions of n pictures, those that `ImageSet.split_off` would draw."""
    import torch

    from tutelage.data.images import ImageSet

    places = torch.arange(len(pictures), dtype=torch.float32).reshape(-1, 1, 1, 1) / len(pictures)
    numbered = ImageSet(places, pictures.labels, pictures.classes, pictures.name, pictures.split)
    drawn = numbered.split_off(n, split=pictures.split)[1]
    return (drawn.images.flatten() * len(pictures)).round().long()


def _emoji(n: int, size: int) -> CutoutSet:
    from tutelage.data.emoji import SUBJECTS, emoji
    from tutelage.data.photographs import sample_photograph
    from tutelage.threats.attributes import emoji_pictures

    styles = ("noto", "noto-v1", "fluent-flat")
    count = n or len(emoji(styles=styles, split="test", groups=SUBJECTS))
    return emoji_pictures(count, [sample_photograph("flower")], split="test", size=size, styles=styles)
