"""The batched ensemble against its members, one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.models.ensembles import EnsembleMLP


def test_each_member_is_a_plain_network() -> None:
    net = EnsembleMLP((3, 8, 8, 2), 4, generator=generator(0))
    x = torch.randn(5, 3, generator=generator(1))
    own = torch.randn(4, 5, 3, generator=generator(2))
    for inputs, out in ((x.expand(4, 5, 3), net(x)), (own, net(own))):
        assert out.shape == (4, 5, 2)
        for k in range(4):
            h = inputs[k]
            for i in range(3):
                h = F.linear(h, net.weights[i][k].T, net.biases[i][k, 0])
                h = F.relu(h) if i < 2 else h
            torch.testing.assert_close(out[k], h)
    torch.testing.assert_close(net.part(slice(1, 3), x), net(x)[1:3])


def test_gradients_stay_with_their_member() -> None:
    net = EnsembleMLP((3, 4, 1), 3, generator=generator(0))
    net(torch.randn(5, 3, generator=generator(1)))[1].sum().backward()
    for p in net.parameters():
        assert p.grad is not None
        assert p.grad[1].any()
        assert not p.grad[[0, 2]].any()


def test_what_the_weights_start_with() -> None:
    net = EnsembleMLP((100, 50, 1), 2, generator=generator(0), hidden_bias=0.1, last=0.003, copies=3)
    assert net.members == 6
    assert 0.09 < float(net.weights[0].detach().abs().max()) <= 0.1
    assert bool((net.biases[0] == 0.1).all())
    assert 0.002 < float(net.weights[1].detach().abs().max()) <= 0.003
    # copies come group after group: members 0, 2 and 4 are equal, 0 and 1 are not
    w = net.weights[0].detach()
    assert torch.equal(w[0], w[2])
    assert torch.equal(w[1], w[5])
    assert not torch.equal(w[0], w[1])


@pytest.mark.parametrize(("sizes", "members"), [((3,), 1), ((3, 0, 1), 1), ((3, 1), 0), ((3.5, 1), 1)])
def test_bad_sizes_are_refused(sizes: tuple[int, ...], members: int) -> None:
    with pytest.raises(InputError):
        EnsembleMLP(sizes, members, generator=generator(0))
