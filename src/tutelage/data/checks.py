"""Checks of labelled images, made when a set is built."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from tutelage.core.errors import InputError
from tutelage.data.guard import wrapped


def check_image_arrays(images: Tensor, labels: Tensor, classes: int | None) -> None:
    """Raise InputError unless images are (N, 1 or 3, H, W) in uint8 or [0, 1] and labels are (N,) integers from 0."""
    for name, value in (("image", images), ("label", labels)):
        if not isinstance(value, Tensor):
            raise InputError(name, type(value).__name__, "a torch.Tensor")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise InputError("image", f"shape {tuple(images.shape)}", "(N, C, H, W) with 1 or 3 channels, H and W above 0")
    if len(images) == 0:
        raise InputError("image", "no images", "at least one")
    if images.dtype not in (torch.uint8, torch.float32):
        raise InputError("image", f"dtype {images.dtype}", "uint8, or float32 in [0, 1]")
    if images.dtype == torch.float32:
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            hint = "NaN" if low != low or high != high else f"values from {low:.4g} to {high:.4g}"
            raise InputError("image", hint, "float images in [0, 1] (give 0-255 images as uint8; normalise inside the model)")
    if labels.shape != (len(images),) or labels.dtype != torch.int64:
        raise InputError(
            "label", f"{labels.dtype} of shape {tuple(labels.shape)}", f"integers of shape ({len(images)},), as int64"
        )
    if int(labels.min()) < 0:
        raise InputError("label", int(labels.min()), "labels from 0")
    if classes is not None and int(labels.max()) >= classes:
        raise InputError("label", int(labels.max()), f"labels below the number of classes, {classes}")


def check_in_memory(data: object) -> None:
    """Raise InputError if a tensor set that `data` (a loader, a Subset) wraps holds NaN or infinity.

    An ImageSet has been checked when it was made; what is read from disk is looked at batch by batch.
    """
    for one in wrapped(data):
        for tensor in one.tensors if isinstance(one, TensorDataset) else ():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                bad = int((~torch.isfinite(tensor.reshape(len(tensor), -1)).all(1)).nonzero()[0])
                raise InputError("loader", f"NaN or infinity in sample {bad}", "finite numbers")
