"""Detection: scores that say how much an input looks like the training data, how good they are, and a model that refuses.

Everywhere a HIGHER score means more like the training data; "inside" is what the model was made for, "outside" is not.

>>> detector = Energy(model)
>>> detection_metrics(detector.scores(test), detector.scores(letters)).table()
>>> guard = GuardedModel.calibrate(detector, validation, tpr=0.95)
>>> labels, accepted = guard.predict(x)[:2]
"""

from tutelage.auditing.detection.attacked import AttackedPairs, AttackedTriples, attacked_pairs, attacked_triples
from tutelage.auditing.detection.dimension import LocalDimension
from tutelage.auditing.detection.guarded import Answer, GuardedModel, GuardReport
from tutelage.auditing.detection.layered import LayeredDetector
from tutelage.auditing.detection.metrics import DetectionMetrics, auroc, detection_metrics, threshold_at
from tutelage.auditing.detection.scores import ODIN, Detector, Energy, MaxSoftmax, NearestNeighbours

__all__ = [
    "ODIN",
    "Answer",
    "AttackedPairs",
    "AttackedTriples",
    "DetectionMetrics",
    "Detector",
    "Energy",
    "GuardReport",
    "GuardedModel",
    "LayeredDetector",
    "LocalDimension",
    "MaxSoftmax",
    "NearestNeighbours",
    "attacked_pairs",
    "attacked_triples",
    "auroc",
    "detection_metrics",
    "threshold_at",
]
