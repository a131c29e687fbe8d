"""Small reference networks, models as users have them, the guard that keeps a model as it was, features, statistics."""

from tutelage.models.adapters import InDtype, Logits, LogProbabilities, Normalized
from tutelage.models.black_box import from_function
from tutelage.models.checks import is_differentiable
from tutelage.models.cnn import SmallCNN
from tutelage.models.estimators import from_sklearn
from tutelage.models.guard import evaluating
from tutelage.models.loading import fingerprint, load_model, load_weights, save_weights
from tutelage.models.remote import Endpoint, EndpointError
from tutelage.models.resnet import ResNet, resnet
from tutelage.models.statistics import ClassMoments, ClassStatistics
from tutelage.models.taps import FeatureHead, find_head, split_head
from tutelage.models.wide_resnet import WideResNet, wide_resnet

__all__ = [
    "ClassMoments",
    "ClassStatistics",
    "Endpoint",
    "EndpointError",
    "FeatureHead",
    "InDtype",
    "LogProbabilities",
    "Logits",
    "Normalized",
    "ResNet",
    "SmallCNN",
    "WideResNet",
    "evaluating",
    "find_head",
    "fingerprint",
    "from_function",
    "from_sklearn",
    "is_differentiable",
    "load_model",
    "load_weights",
    "resnet",
    "save_weights",
    "split_head",
    "wide_resnet",
]
