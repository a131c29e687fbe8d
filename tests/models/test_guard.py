"""The mode guard: evaluation mode inside, everything as it was outside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import ModelChanged
from tutelage.models import evaluating


def net() -> nn.Sequential:
    """In train mode, with a frozen BatchNorm left in eval mode and one frozen parameter."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def flags(model: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]


def test_inside_nothing_trains() -> None:
    model = net()
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    with evaluating(model) as guarded:
        assert guarded is model
        assert not any(modes(model))
        assert not any(flags(model))
        assert torch.equal(model(x), model(x))  # no dropout, no batch statistics
        assert not model(x).requires_grad


def test_outside_all_is_as_it_was() -> None:
    model = net()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = modes(model), flags(model)
    # the model, its layers 0 to 4; the parameters of layers 0, 1, 3, 4
    assert before == ([True, True, True, True, False, True], [False, True, True, True, True, True, True, True])
    with evaluating(model):
        model(torch.rand(5, 3))
    assert (modes(model), flags(model)) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("verify", [True, False])
def test_an_exception_inside_goes_through_and_all_is_put_back(verify: bool) -> None:
    model = net()
    before, mean = (modes(model), flags(model)), model[1].running_mean.clone()
    with pytest.raises(KeyboardInterrupt), evaluating(model, verify=verify):
        raise KeyboardInterrupt
    assert (modes(model), flags(model)) == before
    assert torch.equal(model[1].running_mean, mean)


def test_buffers_are_put_back_after_an_exception_that_is_not_hidden() -> None:
    def spoil_and_fail(norm: nn.Module) -> None:
        norm.running_mean.fill_(9)
        raise ZeroDivisionError

    model = net()
    with pytest.raises(ZeroDivisionError), evaluating(model):
        spoil_and_fail(model[1])
    assert bool((model[1].running_mean == 0).all())


def test_it_can_be_nested() -> None:
    model = net()
    before = modes(model), flags(model)
    with evaluating(model), evaluating(model[1]), evaluating(model):
        pass
    assert (modes(model), flags(model)) == before


def test_a_module_used_twice_keeps_its_mode() -> None:
    shared = nn.BatchNorm1d(3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    shared.eval()
    model.training = True
    with evaluating(model):
        pass
    assert model.training
    assert not shared.training


def test_a_model_without_state() -> None:
    with evaluating(nn.ReLU()) as model:
        assert model(torch.tensor([-1.0])).tolist() == [0.0]


class Restless(nn.Module):
    """Changes itself in eval mode, in the way it is given."""

    def __init__(self, change: Callable[[Restless, Tensor], None], *, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2), persistent=persistent)
        self.norm = nn.BatchNorm1d(3)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        self.change(self, x)
        out: Tensor = self.norm(x)
        return out


def counts_in_place(model: Restless, x: Tensor) -> None:
    model.seen += 1


def puts_another_tensor(model: Restless, x: Tensor) -> None:
    model.seen = model.seen + 1


def switches_to_train_mode(model: Restless, x: Tensor) -> None:
    model.norm.train()


@pytest.mark.parametrize(
    ("change", "buffer"),
    [(counts_in_place, "seen"), (puts_another_tensor, "seen"), (switches_to_train_mode, "norm.running_mean")],
)
def test_a_buffer_that_changes_is_reported_and_put_back(change: Callable[[Restless, Tensor], None], buffer: str) -> None:
    model = Restless(change)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelChanged, match=f"buffer '{buffer}' changed"), evaluating(model):
        model(torch.rand(4, 3))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(modes(model))


def test_a_buffer_outside_the_state_is_watched_too() -> None:
    model = Restless(counts_in_place, persistent=False)
    with pytest.raises(ModelChanged, match="'seen'"), evaluating(model):
        model(torch.rand(4, 3))
    assert model.seen.tolist() == [0.0, 0.0]


def test_without_verify_buffers_are_not_watched() -> None:
    model = Restless(counts_in_place)
    with evaluating(model, verify=False):
        model(torch.rand(4, 3))
    assert model.seen.tolist() == [1.0, 1.0]
    assert all(modes(model))


def test_an_untouched_buffer_that_holds_nan_is_no_change() -> None:
    model = nn.Sequential(nn.ReLU())
    model.register_buffer("unused", torch.tensor([0.0, torch.nan]))
    with evaluating(model):
        model(torch.rand(2, 2))
    assert bool(torch.isnan(model.unused[1]))
