"""The common corruptions of images, batched: noise, blur, weather, digital, and four extra ones.

D. Hendrycks and T. Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019,
arXiv:1903.12261. Fifteen corruptions at five severities, and four for validation.

Example::

    import torch
    from tutelage.threats.corruptions import Corruption

    x = torch.rand(8, 3, 32, 32)
    foggy = Corruption("fog", 3)(x, generator=torch.Generator().manual_seed(0))

Grey images (one channel): what is defined on colours acts on luminance. brightness adds to the grey level, saturate changes
nothing, snow whitens by the grey level itself; frost textures and the colours of spatter are turned into their luminance.

Values are not rounded to 8 bits (but for the JPEG file itself); the published sets are.
"""

from tutelage.threats.corruptions.corruption import (
    SEVERITIES,
    TEST,
    TRAIN,
    Corruption,
    corrupt,
    corruptions,
    expanded,
    train_test,
)
from tutelage.threats.corruptions.scores import (
    ALEXNET,
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    CorruptionError,
    mce,
    relative_mce,
)
from tutelage.threats.corruptions.table import COMMON, FAMILIES, KIN, NAMES, TABLE
from tutelage.threats.corruptions.weather import frost_source

__all__ = [
    "ALEXNET",
    "ALEXNET_CLEAN_ERROR",
    "ALEXNET_ERRORS",
    "COMMON",
    "FAMILIES",
    "KIN",
    "NAMES",
    "SEVERITIES",
    "TABLE",
    "TEST",
    "TRAIN",
    "Corruption",
    "CorruptionError",
    "corrupt",
    "corruptions",
    "expanded",
    "frost_source",
    "mce",
    "relative_mce",
    "train_test",
]
