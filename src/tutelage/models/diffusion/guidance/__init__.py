"""Guidance: how the answers to several prompts are made one. One a file.

Convention: k = 1 is no guidance, k = 0 the unconditional model, values below 1 are legal. Some papers use w = k - 1.
"""

from tutelage.models.diffusion.guidance.classifier_free import ClassifierFree, Guidance, cfg
from tutelage.models.diffusion.guidance.scales import Fixed, GuidanceScale, Uniform

__all__ = ["ClassifierFree", "Fixed", "Guidance", "GuidanceScale", "Uniform", "cfg"]
