"""Local intrinsic dimension: by hand, on data of known dimension, saved, refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.auditing.detection import LocalDimension
from tutelage.core.errors import InputError


class Pixels(nn.Module):
    """The features are the pixels."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.same, self.head = nn.Flatten(), nn.Linear(n, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.same(x))
        return out


def loader(x: Tensor, batch_size: int = 64) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(x, torch.zeros(len(x), dtype=torch.int64)), batch_size=batch_size)


def test_by_hand() -> None:
    # from 0: distances 0.1, 0.2, 0.4; k = 3: the mean of ln(1/4), ln(1/2), 0 is -ln 8 / 3
    x = torch.tensor([0.2, 0.9, 0.1, 0.4]).reshape(4, 1, 1, 1)
    detector = LocalDimension(Pixels(1), ["same"], k=3).fit(loader(x, 3))
    assert detector.score(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(-3 / math.log(8), rel=1e-5)
    # a sample of 3: 0.2, 0.9, 0.1, whatever the batches are
    few = LocalDimension(Pixels(1), ["same"], k=2, sample=3).fit(loader(x, 2))
    assert few.score(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(-2 / math.log(2), rel=1e-5)


def test_it_finds_the_dimension_of_the_data_it_lies_in() -> None:
    g = torch.Generator().manual_seed(0)
    line, cube = torch.full((2000, 5), 0.5), torch.full((2000, 5), 0.5)
    line[:, 0] = torch.rand(2000, generator=g)
    cube[:, :3] = torch.rand(2000, 3, generator=g)
    inner = torch.full((1, 1, 1, 5), 0.5).expand(50, -1, -1, -1) + 0.01 * torch.rand(50, 1, 1, 1, generator=g)
    for data, dimension in ((line, 1.0), (cube, 3.0)):
        detector = LocalDimension(Pixels(5), ["same"], k=60, sample=2000).fit(loader(data.reshape(-1, 1, 1, 5)))
        near = inner.clone()
        near[..., 1 if dimension == 1 else 3 :] = 0.5  # within the line or the cube
        assert -float(detector.score(near).mean()) == pytest.approx(dimension, rel=0.3)


def test_saved_and_refused(tmp_path: Path) -> None:
    model, x = Pixels(4), torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    detector = LocalDimension(model, ["same", "head"], k=5).fit(loader(x))
    detector.fit_standardised(detector.layer_scores(x))
    detector.save(tmp_path)
    assert torch.equal(LocalDimension.load(tmp_path, model).score(x), detector.score(x))
    assert bool(torch.isfinite(detector.score(x)).all())  # samples that are in the bank themselves, at distance 0
    with pytest.raises(InputError, match=r"^k"):
        LocalDimension(model, k=1)
    with pytest.raises(InputError, match=r"^sample"):
        LocalDimension(model, k=5, sample=5)
    with pytest.raises(InputError, match=r"^loader"):
        LocalDimension(model, k=50).fit(loader(x))
    with pytest.raises(InputError, match="fit"):
        LocalDimension(model, ["same"]).score(x)
