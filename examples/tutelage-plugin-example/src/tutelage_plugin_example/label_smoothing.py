"""Label smoothing: targets that keep a little mass on the other classes, for a classifier that is less sure of itself.

C. Szegedy and others, *Rethinking the Inception Architecture for Computer Vision*, CVPR 2016, arXiv:1512.00567, section 7:

    q'(k) = (1 - eps) [k = y] + eps / K                                                                         (1)

Example::

    import torch
    from torch.optim import SGD

    import tutelage
    from tutelage_plugin_example.label_smoothing import Smoothed

    data = tutelage.fashion_mnist_subset("train").take(slice(0, 200))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    tutelage.fit(net, Smoothed(0.1), data.loader(50), epochs=1, optimizer=SGD(net.parameters(), lr=0.1))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# what `tutelage list`, `tutelage show` and the site say of it
ROOM = "harden"
HAVE = "a classifier that is too sure of what it says"
WANT = "one that keeps a little doubt"
TITLE = "Rethinking the Inception Architecture for Computer Vision"
AUTHORS = ("Szegedy", "Vanhoucke", "Ioffe", "Shlens", "Wojna")
YEAR = 2015
URL = "https://arxiv.org/abs/1512.00567"


@dataclass(frozen=True)
class Smoothed:
    """The objective for `tutelage.fit`: cross-entropy with the targets of (1); `eps` in [0, 1)."""

    eps: float = 0.1

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor], ctx: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        loss = cross_entropy(model(x), y, label_smoothing=self.eps)
        return loss, {"loss": loss.detach()}
