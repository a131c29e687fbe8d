"""BatchNorm policies: limit cases, values by hand, refusals; copies of models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.models.batchnorm import (
    BatchStatistics,
    MixedStatistics,
    SourceStatistics,
    check_batch,
    uses_batch_statistics,
)
from tutelage.models.copying import copied


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.BatchNorm1d(4))
    model(torch.rand(32, 1, 6, 6))  # running statistics that are not the defaults
    return model.eval()


def x(n: int = 8) -> Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1)) ** 2


def changed(model: nn.Module, policy: SourceStatistics | BatchStatistics | MixedStatistics) -> nn.Module:
    model = copied(model)
    assert policy.apply(model) == 2
    return model


def test_source_statistics_are_what_eval_means() -> None:
    model = net()
    torch.testing.assert_close(changed(model.train(), SourceStatistics())(x()), model.eval()(x()), rtol=0, atol=0)


def test_batch_statistics_are_those_of_train_mode_and_stay_in_eval_mode() -> None:
    model = net()
    adapted = changed(model, BatchStatistics())
    wanted = copied(model).train()(x())
    torch.testing.assert_close(adapted.eval()(x()), wanted)
    assert not any("running" in name for name in adapted.state_dict())
    assert bool((adapted(x()) - model(x())).abs().max() > 0.01)  # the test could see a difference


def test_mixed_statistics_by_hand() -> None:
    norm = nn.BatchNorm1d(1, eps=0.0, affine=False).eval()
    norm.running_mean, norm.running_var = torch.tensor([1.0]), torch.tensor([4.0])
    model = nn.Sequential(norm)
    MixedStatistics(prior=2).apply(model)
    batch = torch.tensor([[0.0], [4.0]])  # mean 2, variance 4: with 2 / 4 each, mean 1.5 and variance 4
    torch.testing.assert_close(model(batch), torch.tensor([[-0.75], [1.25]]))
    MixedStatistics(prior=6).apply(model)  # again: 6 / 8 of the source, mean 1.25
    torch.testing.assert_close(model(batch), torch.tensor([[-0.625], [1.375]]))


def test_a_prior_of_zero_is_the_batch_and_a_large_one_the_source() -> None:
    model = net()
    torch.testing.assert_close(changed(model, MixedStatistics(0))(x()), changed(model, BatchStatistics())(x()))
    torch.testing.assert_close(changed(model, MixedStatistics(1e9))(x()), model(x()))


def test_mixed_statistics_keep_the_names_of_the_parameters_and_let_gradients_through() -> None:
    model = net()
    mixed = changed(model, MixedStatistics(4))
    assert set(dict(mixed.named_parameters())) == set(dict(model.named_parameters()))
    inputs = x().requires_grad_()
    mixed(inputs)[:, 0].square().sum().backward()
    assert inputs.grad is not None
    assert bool(inputs.grad.abs().max() > 0)


def test_a_batch_of_one_is_refused_where_it_would_be_its_own_statistics() -> None:
    model = net()
    assert not uses_batch_statistics(model)
    assert not uses_batch_statistics(changed(model, MixedStatistics(4)))
    adapted = changed(model, BatchStatistics())
    assert uses_batch_statistics(adapted)
    check_batch(adapted, x(2))
    check_batch(model, x(1))
    with pytest.raises(InputError, match=r"batch of one sample.*RingBuffer"):
        check_batch(adapted, x(1))


@pytest.mark.parametrize("prior", [-1, float("nan"), "many"])
def test_a_wrong_prior_is_refused(prior: object) -> None:
    with pytest.raises(InputError, match="prior"):
        MixedStatistics(prior)  # type: ignore[arg-type]


def test_mixing_needs_running_statistics() -> None:
    model = copied(net())
    BatchStatistics().apply(model)
    with pytest.raises(InputError, match="running statistics"):
        MixedStatistics(4).apply(model)


def test_a_copy_shares_nothing_and_keeps_modes_and_flags() -> None:
    model = net().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    twin = copied(model)
    assert [m.training for m in twin.modules()] == [m.training for m in model.modules()]
    assert not twin[0].weight.requires_grad  # type: ignore[index, union-attr]
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not torch.equal(twin[4].weight, model[4].weight)  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_weight_normed_head_that_has_run_can_be_copied() -> None:
    head = torch.nn.utils.weight_norm(nn.Linear(4, 3))
    model = nn.Sequential(nn.Linear(2, 4), head)
    before = model(torch.ones(1, 2))
    with pytest.raises(RuntimeError):
        __import__("copy").deepcopy(model)
    torch.testing.assert_close(copied(model)(torch.ones(1, 2)), before, rtol=0, atol=0)
    assert head.weight.grad_fn is not None  # the model given is as it was


def test_what_is_no_module_or_holds_no_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="model"):
        copied("net")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="meta"):
        copied(nn.Linear(2, 2, device="meta"))
