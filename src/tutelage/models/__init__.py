"""Small reference networks, loading a user's model, and the guard that keeps a model as it was."""

from tutelage.models.cnn import SmallCNN
from tutelage.models.guard import evaluating
from tutelage.models.loading import fingerprint, load_model, load_weights, save_weights
from tutelage.models.resnet import ResNet, resnet

__all__ = ["ResNet", "SmallCNN", "evaluating", "fingerprint", "load_model", "load_weights", "resnet", "save_weights"]
