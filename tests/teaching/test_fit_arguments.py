"""What `fit` says of wrong arguments, and that a training that fails leaves modes and statistics as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tutelage.core.errors import InputError
from tutelage.teaching import CrossEntropy, fit


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))


def loader(x: Tensor | None = None) -> DataLoader[Any]:
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) if x is None else x
    return DataLoader(TensorDataset(x, torch.arange(8) % 3), batch_size=4)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "net.pt"}, "^model: got str, wanted an nn.Module"),
        ({"objective": 3}, "^objective: got 3, wanted a function"),
        ({"objective": lambda m, b, c: m(b[0]).sum()}, r"^objective: got a result of type Tensor, wanted \(loss"),
        ({"objective": lambda m, b, c: (m(b[0]).sum(1), {})}, r"^objective: got a loss of shape \(4,\)"),
        ({"objective": lambda m, b, c: (torch.zeros(()), {})}, "^objective: got a loss without a gradient"),
        ({"optimizer": sgd(net())}, "^optimizer: got parameters of another model"),
        ({"optimizer": 0.1}, "^optimizer: got float"),
        ({"schedule": 0.5}, "^schedule: got 0.5, wanted a function"),
        ({"augment": "flip"}, "^augment: got flip, wanted a function"),
        ({"validate": 1}, "^validate: got 1, wanted a function"),
        ({"seed": "one"}, "^seed: got one, wanted an integer"),
        ({"ema": "0.9"}, "^ema: got 0.9, wanted a decay between 0 and 1"),
        ({"epochs": True}, "^epochs: got True, wanted an integer"),
        ({"loader": iter(loader())}, "^loader: got _SingleProcess"),
        ({"loader": loader(torch.full((8, 4), torch.nan))}, "^loader: got NaN or infinity in sample 0"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_changed(options: dict[str, Any], message: str) -> None:
    model = net()
    model[0].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = {"model": model, "objective": CrossEntropy(), "loader": loader(), "epochs": 1, "optimizer": sgd(model)}
    arguments |= options
    with pytest.raises(InputError, match=message):
        fit(arguments.pop("model"), arguments.pop("objective"), arguments.pop("loader"), **arguments)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_batch_that_is_refused_moves_no_running_statistics() -> None:
    model = net().train()
    before = model[0].running_mean.clone()

    def refuse(model: nn.Module, batch: Any, ctx: Any) -> Any:
        model(batch[0])
        raise InputError("y", "label 7", "labels from 0 to 2")

    with pytest.raises(InputError, match="label 7"):
        fit(model, refuse, loader(), epochs=1, optimizer=sgd(model))
    assert torch.equal(model[0].running_mean, before)
    assert int(model[0].num_batches_tracked) == 0
