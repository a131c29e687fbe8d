"""The other side of the table: odd but honest input works, and is handed back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photographed import CLASSES, SIZE, N, Net, Returns, User, make_user, picture
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from tutelage import PGD, ImageSet, Linf, Teacher, audit, fashion_mnist_subset
from tutelage.core.errors import CheckpointError, SplitError
from tutelage.core.rng import generator, rng_state
from tutelage.data import as_images, read_images, training_only
from tutelage.models.loading import load_weights, save_weights


@pytest.fixture
def user(tmp_path: Path) -> User:
    return make_user(tmp_path)


class Casts(nn.Module):
    """What the refusal of a half-precision model recommends: cast inside, give float32 logits."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(self.dtype)).float()


def plain() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 8), nn.BatchNorm1d(8), nn.Dropout(0.9), nn.Linear(8, CLASSES))


def frozen() -> nn.Module:
    return plain().requires_grad_(False)


def partly_in_eval_mode() -> nn.Module:
    net = plain()
    net[2].eval()
    return net


MODELS = {
    "in train mode, with dropout and BatchNorm": lambda: plain().train(),
    "in eval mode": lambda: plain().eval(),
    "in both modes": partly_in_eval_mode,
    "frozen": frozen,
    "scripted": lambda: torch.jit.script(plain().train()),
    "traced": lambda: torch.jit.trace(plain().eval(), torch.rand(2, 1, SIZE, SIZE)),
    "bfloat16 that casts": lambda: Casts(plain(), torch.bfloat16),
    "half precision that casts": lambda: Casts(plain(), torch.float16),
    "double precision that casts": lambda: Casts(plain(), torch.float64),
    "wrapped, of dicts": lambda: Returns(lambda out: out["logits"], Returns(lambda z: {"logits": z}, plain())),
    "without parameters": lambda: Returns(lambda z: z[:, :CLASSES], nn.Flatten()),
    "of more classes than the data": lambda: Net(classes=7),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", MODELS)
def test_models_of_all_kinds_are_audited_and_attacked_and_handed_back(kind: str, user: User) -> None:
    with torch.random.fork_rng(devices=[]):
        model = MODELS[kind]()
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()

    first, second = (
        audit(model, user.images, threats=["pgd-2:linf@0.1"], curve=False, force=True) for _ in range(2)
    )  # evaluation mode: dropout would make them differ
    assert [(row.category, row.value) for row in first.rows] == [(row.category, row.value) for row in second.rows]
    found = PGD(Linf(0.1), steps=2).run(model, user.x, user.y, generator(0))
    assert float((found.x_adv - user.x).abs().max()) <= 0.1 + 1e-6
    assert Teacher(model).query(user.x).logits.shape[0] == N

    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


# Splits cannot be lost


def held_out() -> ImageSet:
    return fashion_mnist_subset("test").take(slice(0, 8))


WRAPPED = {
    "a loader": lambda: held_out().loader(4),
    "a subset": lambda: Subset(held_out(), [0, 3]),
    "a loader of a subset": lambda: DataLoader(Subset(held_out(), [0, 3]), batch_size=2),
    "joined with training data": lambda: ConcatDataset([fashion_mnist_subset("train").take([0, 1]), held_out()]),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_test_data_stay_test_data_whatever_wraps_them(kind: str) -> None:
    images = as_images(WRAPPED[kind]())
    assert images.split == "test"
    assert images.classes[0] == "t-shirt/top"
    with training_only(), pytest.raises(SplitError):
        images[0]


def test_training_data_keep_their_split_and_other_data_have_none(user: User) -> None:
    assert as_images(user.loader).split == "train"
    assert as_images(user.batches()).split == ""
    with training_only():
        assert user.images.take([0, 1], split="validation").split == "validation"
        assert held_out().take([0, 1]).split == "test"


def test_a_loader_is_read_without_drawing_from_the_global_generators(user: User) -> None:
    class Noisy(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return torch.rand(1, 2, 2), int(np.random.randint(2))

    before = rng_state()
    as_images(DataLoader(Noisy(), batch_size=2, shuffle=True))
    after = rng_state()
    assert torch.equal(after["torch"], before["torch"])
    assert torch.equal(after["numpy"][1], before["numpy"][1])
    assert after["numpy"][2] == before["numpy"][2]


def test_names_classes_and_paths_as_text(user: User) -> None:
    images = as_images(str(user.folder / "good"), name="mine")
    assert (images.name, images.classes) == ("mine", ("a", "b", "c"))
    renamed = as_images(images, classes=["x", "y", "z"])
    assert (renamed.classes, renamed.sha256) == (("x", "y", "z"), images.sha256)
    assert as_images([user.x, user.y]).name == "arrays"


# Images as people see them

# four grey levels in the corners: 10 20 / 30 40, as the viewer sees them
UPRIGHT = np.repeat(np.repeat(np.array([[10, 80], [150, 240]], np.uint8), 8, 0), 8, 1)
STORED = {  # EXIF orientation -> what the camera has stored
    1: UPRIGHT,
    2: np.fliplr(UPRIGHT),
    3: np.rot90(UPRIGHT, 2),
    4: np.flipud(UPRIGHT),
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),
    7: np.rot90(UPRIGHT, 2).T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_images_are_turned_as_their_exif_orientation_says(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "cat").mkdir()
    content = picture(np.ascontiguousarray(STORED[orientation]), "PNG", exif=exif)
    (tmp_path / "cat" / "1.png").write_bytes(content)
    assert np.array_equal(read_images(tmp_path).images[0, 0].numpy(), UPRIGHT)
    assert (tmp_path / "cat" / "1.png").read_bytes() == content


def test_an_alpha_channel_that_is_opaque_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    grey, opaque = UPRIGHT, np.full_like(UPRIGHT, 255)
    pictures = {
        "1.png": Image.fromarray(np.dstack([grey, grey, grey, opaque])),
        "2.png": Image.merge("LA", [Image.fromarray(grey), Image.fromarray(opaque)]),
        "3.png": Image.fromarray(np.dstack([grey] * 3)).convert("P"),
    }
    for name, one in pictures.items():
        (tmp_path / "cat" / name).write_bytes(picture(one, transparency=255) if name == "3.png" else picture(one))
    images = read_images(tmp_path).images
    assert images.shape == (3, 3, 16, 16)
    assert all(torch.equal(images[i, c], torch.from_numpy(grey)) for i in range(2) for c in range(3))


def test_hidden_files_are_no_images(user: User) -> None:
    (user.folder / "good" / "a" / "._0.png").write_bytes(b"\0\5\x16\7Mac OS X")
    (user.folder / "good" / ".thumbnails").mkdir()
    assert len(read_images(user.folder / "good")) == N


# Weights


def test_weights_of_another_type_are_taken_where_no_value_changes(user: User) -> None:
    state = {name: value.half().float() for name, value in user.model.state_dict().items() if value.is_floating_point()}
    user.model.load_state_dict(state, strict=False)
    save_weights(user.model, user.folder / "exact.safetensors")
    stored = {k: v.half() if v.is_floating_point() else v for k, v in load_file(user.folder / "exact.safetensors").items()}
    save_file(stored, user.folder / "half.safetensors")
    other = Net(seed=9)
    load_weights(other, str(user.folder / "half.safetensors"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in user.model.state_dict().items())
    assert {value.dtype for value in other.parameters()} == {torch.float32}


def test_what_other_libraries_say_on_several_lines_is_told_on_one() -> None:
    error = CheckpointError('it does not fit: Error(s) in loading state_dict:\n\tMissing key(s): "head". ')
    assert str(error) == 'it does not fit: Error(s) in loading state_dict: Missing key(s): "head".'
