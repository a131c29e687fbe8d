"""Labelled data: the bundled set, standard sets, readers for users' formats, and the split guard."""

from tutelage.data.guard import training_only
from tutelage.data.images import ImageSet, composed, random_flip, random_shift
from tutelage.data.readers import as_images, read_images
from tutelage.data.sets import fashion_mnist_subset, standard_set

__all__ = [
    "ImageSet",
    "as_images",
    "composed",
    "fashion_mnist_subset",
    "random_flip",
    "random_shift",
    "read_images",
    "standard_set",
    "training_only",
]
