"""DGCNN (Wang et al. 2019, arXiv 1801.07829), small and with masks: convolutions over the edges of a graph that is made anew.

    f'_j = max_{i in kNN(j)} h(f_j, f_i - f_j)                                                              (1)

The k nearest neighbours are looked for among the real points, in the space of the layer's own input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer
from tutelage.models.points.pointnet import check_points, masked_max


class EdgeConv(nn.Module):
    """(1): (B, N, in) -> (B, N, out)."""

    def __init__(self, inside: int, outside: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.layer = nn.Sequential(nn.Linear(2 * inside, outside), nn.LayerNorm(outside), nn.LeakyReLU(0.2))

    def forward(self, f: Tensor, mask: Tensor | None) -> Tensor:
        near = neighbours(f, mask, self.k)  # (B, N, k)
        b, n, c = f.shape
        there = f.gather(1, near.reshape(b, -1, 1).expand(-1, -1, c)).reshape(b, n, near.shape[2], c)
        here = f[:, :, None].expand_as(there)
        out: Tensor = self.layer(torch.cat((here, there - here), 3))
        return out.amax(2)


class DGCNN(nn.Module):
    """points (B, N, 3), mask (B, N) bool or None -> logits (B, classes). widths: of the edge convolutions; k: neighbours."""

    def __init__(self, classes: int, widths: Sequence[int] = (32, 32, 64), k: int = 12, head: int = 128) -> None:
        super().__init__()
        check_integer("classes", classes)
        check_integer("k", k)
        self.edges = nn.ModuleList(EdgeConv(a, b, k) for a, b in zip((3, *widths[:-1]), widths, strict=True))
        whole = sum(widths)
        self.mix = nn.Sequential(nn.Linear(whole, 2 * head), nn.LayerNorm(2 * head), nn.LeakyReLU(0.2))
        self.head = nn.Sequential(nn.Linear(2 * head, head), nn.LayerNorm(head), nn.LeakyReLU(0.2), nn.Linear(head, classes))

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        f, seen = check_points(points), []
        for edge in self.edges:
            f = edge(f, mask)
            seen.append(f)
        out: Tensor = self.head(masked_max(self.mix(torch.cat(seen, 2)), mask))
        return out


@torch.no_grad()
def neighbours(f: Tensor, mask: Tensor | None, k: int) -> Tensor:
    """(B, N, k) positions of the nearest real points, the point itself among them; where there are fewer, the nearest again."""
    distance = torch.cdist(f, f)
    if mask is not None:
        distance = distance.masked_fill(~mask[:, None, :], torch.inf)
    found, index = distance.topk(min(k, f.shape[1]), dim=2, largest=False)
    return torch.where(found.isinf(), index[..., :1], index)
