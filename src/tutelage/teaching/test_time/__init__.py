"""Test-time adaptation: models that learn from the unlabelled inputs they answer, and the baselines of such methods.

>>> adapter = Tent(model)
>>> prediction = adapter.adapt(x)        # answers the batch, then learns from it; labels never come in
>>> adapter.reset()                      # as it was before the first batch
"""

from tutelage.teaching.test_time.adapter import Adapter, Change, Drift, Prediction
from tutelage.teaching.test_time.baselines import NormAdapter, Source, Tent
from tutelage.teaching.test_time.mean_teacher import CoTTA, MeanTeacher
from tutelage.teaching.test_time.ring import RingBuffer

__all__ = [
    "Adapter",
    "Change",
    "CoTTA",
    "Drift",
    "MeanTeacher",
    "NormAdapter",
    "Prediction",
    "RingBuffer",
    "Source",
    "Tent",
]
