"""Edits of one attribute of an object in a picture: its background, size, position or direction.

X. Li, Y. Chen, Y. Zhu, S. Wang, R. Zhang, H. Xue, ImageNet-E: Benchmarking Neural Network Robustness via Attribute Editing,
CVPR 2023, arXiv:2303.17096. `tutelage.methods.audit.imagenet_e` measures a classifier with them.
"""

from tutelage.threats.attributes.background import BackgroundEditor, DirectBackground, background_complexity
from tutelage.threats.attributes.compose import Placing, emoji_pictures, placed
from tutelage.threats.attributes.diffusion import DiffusionBackground
from tutelage.threats.attributes.editor import IMAGENET_E, AttributeEditor, Edit, EditResult

__all__ = [
    "IMAGENET_E",
    "AttributeEditor",
    "BackgroundEditor",
    "DiffusionBackground",
    "DirectBackground",
    "Edit",
    "EditResult",
    "Placing",
    "background_complexity",
    "emoji_pictures",
    "placed",
]
