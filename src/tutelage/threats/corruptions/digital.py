"""Digital: contrast, elastic deformation, pixels, JPEG."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tutelage.threats.corruptions.common import Draws, each, gaussian


def contrast(x: Tensor, draws: Draws, factor: float) -> Tensor:
    """Each colour is drawn towards its mean over the image: m + factor (x - m)."""
    # in float64 the sum of 8-bit values is exact, so it does not depend on the order in which it is made
    mean = x.mean((2, 3), keepdim=True, dtype=torch.float64).to(x.dtype)
    return x.sub(mean).mul_(factor).add_(mean)


def elastic_transform(x: Tensor, draws: Draws, alpha: float, sigma: float, affine: float) -> Tensor:
    """x'(p) = x(A^-1 (p + d(p))): d = alpha times smoothed noise from U(-1, 1), A an affine map.

    A moves three corners of a square in the middle by U(-affine, affine) pixels. The noise is smoothed by a Gaussian of
    `sigma` pixels; the image is mirrored at its border. Both maps are made in one bilinear step: the published code makes
    two, which blurs twice.
    """
    h, w = x.shape[2:]
    corners = draws.uniform(3, 2).double().mul_(2).sub_(1).mul_(affine)
    noise = draws.coarse(2, h, w).mul_(2)
    noise = gaussian(noise, sigma, truncate=3, border="mirror") * alpha if alpha else torch.zeros_like(noise)
    rows = torch.arange(h, dtype=x.dtype, device=x.device)[:, None] + noise[:, 1]
    columns = torch.arange(w, dtype=x.dtype, device=x.device) + noise[:, 0]
    back = _back(corners, h, w).to(x.dtype)[:, :, :, None, None]
    at = [back[:, i, 0] * columns + back[:, i, 1] * rows + back[:, i, 2] for i in (0, 1)]
    # grid_sample counts from -1 to 1 between the middles of the outer pixels
    grid = torch.stack([2 * at[0] / max(1, w - 1) - 1, 2 * at[1] / max(1, h - 1) - 1], dim=-1)
    out = torch.empty_like(x)
    for part, image in each(x):
        out[part] = F.grid_sample(image, grid[part], mode="bilinear", padding_mode="reflection", align_corners=True)
    return out


def _back(moves: Tensor, h: int, w: int) -> Tensor:
    """The affine map that undoes the moves (B, 3, 2) of three corners, as (B, 2, 3) acting on (column, row, 1)."""
    y, x, side = h // 2, w // 2, min(h, w) // 3
    fixed = [(x + side, y + side), (x + side, y - side), (x - side, y - side)]
    moved = torch.tensor(fixed, dtype=torch.float64, device=moves.device) + moves
    # barycentric: p = q2 + s (q0 - q1) + t (q1 - q2) goes to the same s, t of the fixed corners
    u, v, origin = moved[:, 0] - moved[:, 1], moved[:, 1] - moved[:, 2], moved[:, 2]
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = torch.where(area.abs() < 1, torch.where(area < 0, -1.0, 1.0), area)  # corners on one line: no map, so the nearest
    s = torch.stack([v[:, 1], -v[:, 0]], 1) / area[:, None]  # gradients of s and t
    t = torch.stack([-u[:, 1], u[:, 0]], 1) / area[:, None]
    across, down = fixed[1][0] - fixed[2][0], fixed[0][1] - fixed[1][1]  # of t in columns, of s in rows
    linear = torch.stack([t * across, s * down], 1)
    start = torch.tensor(fixed[2], dtype=torch.float64, device=moves.device)
    shift = start - (linear * origin[:, None, :]).sum(2)
    return torch.cat([linear, shift[:, :, None]], 2)


def pixelate(x: Tensor, draws: Draws, share: float) -> Tensor:
    """Shrunk to `share` of its sides by means over boxes of whole pixels, then enlarged again by repeating pixels."""
    small = _shrunk(_shrunk(x, 2, share), 3, share)
    for axis in (3, 2):
        n, m = x.shape[axis], small.shape[axis]
        small = small.index_select(axis, ((torch.arange(n, device=x.device) + 0.5) * (m / n)).long().clamp_max(m - 1))
    return small


def _shrunk(x: Tensor, axis: int, share: float) -> Tensor:
    """Means along one axis of n pixels: m = floor(share n) boxes, n / m wide, each of the pixels whose middle lies in it."""
    n = x.shape[axis]
    m = max(1, int(n * share))
    # the middle of pixel k, in boxes, is (k + 1/2) m / n; one on the line between two boxes belongs to the first
    box = np.ceil((np.arange(n) + 0.5) * m / n).astype(int) - 1
    first, counts = np.searchsorted(box, np.arange(m)), np.bincount(box, minlength=m)
    total = None
    for i in range(counts.max()):
        weights = (
            torch.from_numpy(np.where(counts > i, 1 / counts, 0)).to(x).reshape([-1 if k == axis else 1 for k in range(4)])
        )
        pixels = x.index_select(axis, torch.from_numpy((first + i).clip(0, n - 1)).to(x.device)).mul_(weights)
        total = pixels if total is None else total.add_(pixels)
    return x if total is None else total


def jpeg_compression(x: Tensor, draws: Draws, quality: float) -> Tensor:
    """Through a JPEG file of the given quality, by Pillow; grey images as grey files."""
    levels = x.mul(255).round_().to(torch.uint8).cpu().permute(0, 2, 3, 1).contiguous().numpy()
    read = np.empty_like(levels)
    for i, image in enumerate(levels):
        file = BytesIO()
        Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(file, "JPEG", quality=int(quality))
        read[i] = np.asarray(Image.open(file)).reshape(image.shape)
    return torch.from_numpy(read).to(x.device).permute(0, 3, 1, 2).contiguous().to(x.dtype).div_(255)
