"""What a user has, and a photograph of it: models, data, files, optimiser and generators, to see that nothing changed."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.core.rng import generator, rng_state
from tutelage.data import ImageSet
from tutelage.models.loading import save_weights

N, SIZE, CLASSES = 12, 8, 3


class Net(nn.Module):
    """Normalisation, dropout, a frozen layer: everything that a careless evaluation would change. Counts its calls."""

    def __init__(self, classes: int = CLASSES, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
            self.head = nn.Linear(2 * 36, classes)
        self.body[0].bias.requires_grad_(False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.body(x))


class Returns(nn.Module):
    """Wraps `inner` and returns what `change` makes of its logits."""

    def __init__(self, change: Any, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.change = inner or Net(), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.inner(x))


@dataclass
class User:
    """A user's things. `model` is in train mode with its head in eval mode; `optimizer` has taken a step."""

    folder: Path
    model: Net
    student: Net
    clean: Net
    robust: Net
    x: Tensor
    y: Tensor
    images: ImageSet
    optimizer: torch.optim.Optimizer

    @property
    def loader(self) -> DataLoader[Any]:
        return self.images.loader(4, generator=generator(0, "order"))

    @property
    def teachers(self) -> dict[str, nn.Module]:
        return {"clean": self.clean, "robust": self.robust}

    def batches(self, x: Any = None, y: Any = None) -> DataLoader[Any]:
        """A loader over tensors in memory."""
        return DataLoader(TensorDataset(self.x if x is None else x, self.y if y is None else y), batch_size=4)

    def photograph(self) -> dict[str, Any]:
        """Everything that must be the same afterwards, as comparable values."""
        nets = {"model": self.model, "student": self.student, "clean": self.clean, "robust": self.robust}
        seen: dict[str, Any] = {}
        for name, net in nets.items():
            seen[f"{name} state"] = {k: digest(v) for k, v in net.state_dict().items()}
            seen[f"{name} modes"] = [module.training for module in net.modules()]
            seen[f"{name} flags"] = [p.requires_grad for p in net.parameters()]
            seen[f"{name} gradients"] = [None if p.grad is None else digest(p.grad) for p in net.parameters()]
            seen[f"{name} hooks"] = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
        seen["optimizer"] = flat(self.optimizer.state_dict())
        seen["generators"] = flat(rng_state())
        seen["arrays"] = [digest(self.x), digest(self.y), digest(self.images.images), digest(self.images.labels)]
        seen["files"] = files_of(self.folder)
        seen["threads"] = torch.get_num_threads()
        seen["gradients on"] = torch.is_grad_enabled()
        return seen


def digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous()
    return (
        f"{data.dtype} {tuple(data.shape)} {hashlib.sha256(data.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()}"
    )


def flat(value: Any) -> Any:
    """Nested state as plain values."""
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    return [flat(item) for item in value] if isinstance(value, list | tuple) else value


def files_of(folder: Path) -> dict[str, str]:
    """Every file below `folder` and the hash of its content, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def picture(array: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """(H, W) or (H, W, C) -> the bytes of an image file."""
    buffer = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, form, **options)
    return buffer.getvalue()


def make_user(folder: Path) -> User:
    """Small data with something to learn, files in every format, an optimiser that has state."""
    g = generator(0, "user")
    y = torch.arange(N) % CLASSES
    x = (torch.rand(N, 1, SIZE, SIZE, generator=g) * 0.5 + 0.15 * y[:, None, None, None]).clamp(0, 1)
    model, student = Net(seed=1), Net(seed=2)
    model.head.eval()
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    with torch.random.fork_rng(devices=[]):
        student(x[:4]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    images = ImageSet(x, y, ("a", "b", "c"), name="user's", split="train")
    student.calls = 0
    user = User(folder, model, student, Net(seed=3), Net(seed=4), x, y, images, optimizer)
    write_files(folder, user)
    return user


def write_files(folder: Path, user: User) -> None:
    grey = (user.x[:, 0] * 255).to(torch.uint8).numpy()
    np.savez(folder / "good.npz", image=grey, label=user.y.numpy())
    pngs = [picture(one) for one in grey]
    pq.write_table(pa.table({"image": pngs, "label": user.y.tolist()}), folder / "good.parquet")
    for i, one in enumerate(pngs):
        path = folder / "good" / "abc"[i % CLASSES] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one)
    save_weights(user.model, folder / "net.safetensors")
    (folder / "my_net.py").write_text(FACTORY)


FACTORY = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def half():
    return build().half()

def dictionary():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build()
        def forward(self, x):
            return {"loss": torch.zeros(()), "logits": self.net(x)}
    return Net()

def pair():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build()
        def forward(self, x):
            return self.net(x), None
    return Net()

def softmax():
    return nn.Sequential(build(), nn.Softmax(1))

def nan_logits():
    net = build()
    with torch.no_grad():
        net[1].weight.fill_(float("nan"))
    return net

def needs(width):
    return nn.Linear(width, 3)

def fails():
    raise KeyError("width")

def number():
    return 3
"""
