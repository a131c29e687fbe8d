"""Small conditional diffusion models and what is done with one: guidance, samplers, processors of attention, adapters."""

from tutelage.models.diffusion.attention import TwoPrompts, cross_attentions, processors, side_by_side
from tutelage.models.diffusion.denoiser import Condition, Denoiser, PromptDenoiser, TextEncoder, predicted, predicted_eps
from tutelage.models.diffusion.guidance import ClassifierFree, Fixed, Guidance, GuidanceScale, Uniform, cfg
from tutelage.models.diffusion.lora import adapter_parameters, full_copy, lora_copy
from tutelage.models.diffusion.nets import small_dit, small_unet
from tutelage.models.diffusion.sampling import sample
from tutelage.models.diffusion.schedule import NoiseSchedule, noise_schedule, to_image, to_model, zero_terminal
from tutelage.models.diffusion.text import WordEncoder

__all__ = [
    "ClassifierFree",
    "Condition",
    "Denoiser",
    "Fixed",
    "Guidance",
    "GuidanceScale",
    "NoiseSchedule",
    "PromptDenoiser",
    "TextEncoder",
    "TwoPrompts",
    "Uniform",
    "WordEncoder",
    "adapter_parameters",
    "cfg",
    "cross_attentions",
    "full_copy",
    "lora_copy",
    "noise_schedule",
    "predicted",
    "predicted_eps",
    "processors",
    "sample",
    "side_by_side",
    "small_dit",
    "small_unet",
    "to_image",
    "to_model",
    "zero_terminal",
]
