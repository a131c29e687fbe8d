"""Small reference networks, loading a user's model, the guard that keeps a model as it was, features and their statistics."""

from tutelage.models.cnn import SmallCNN
from tutelage.models.guard import evaluating
from tutelage.models.loading import fingerprint, load_model, load_weights, save_weights
from tutelage.models.resnet import ResNet, resnet
from tutelage.models.statistics import ClassMoments, ClassStatistics
from tutelage.models.taps import FeatureHead, find_head, split_head
from tutelage.models.wide_resnet import WideResNet, wide_resnet

__all__ = [
    "ClassMoments",
    "ClassStatistics",
    "FeatureHead",
    "ResNet",
    "SmallCNN",
    "WideResNet",
    "evaluating",
    "find_head",
    "fingerprint",
    "load_model",
    "load_weights",
    "resnet",
    "save_weights",
    "split_head",
    "wide_resnet",
]
