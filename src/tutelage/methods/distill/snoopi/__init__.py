"""SNOOPI: a one-step generator taught by a diffusion model, without a tuned guidance scale, and able to leave things out.

For whoever has a slow conditional diffusion model and wants one call of the network a picture, and negative prompts that work.

    Nguyen, Nguyen, Dao, Nguyen, Pham, Tran, Tran: SNOOPI: Supercharged One-step Diffusion Distillation with Proper Guidance,
    arXiv 2412.02687 (2024), ICCV 2025; its third version is called "Supercharged One-step Text-to-Image Diffusion Models with
    Negative Prompts". The method below it is SwiftBrush, arXiv 2312.05239.

Teacher eps_psi, frozen; "LoRA teacher" eps_phi, which learns what the student makes; student eps_theta, a copy of the teacher.
x_t = a_t x_0 + s_t eps, t = 0 .. T-1, null prompt "", and k = 1 is no guidance:

    x0_hat = (z - s_T eps_theta(z, T-1, y)) / a_T,  z ~ N(0, I)                                     (1) one step
    eps^k(x_t, t, y) = (1 - k) eps(x_t, t, null) + k eps(x_t, t, y)                                 (2) guidance
    g = s_t^2 (eps_psi^k - eps_phi^k)(x_t, t, y),  t ~ U{0.02 T .. 0.98 T}                          (3) the VSD gradient
    L = 1/2 mean (x0_hat - stopgrad(x0_hat - g))^2                                                  (4) its loss
    k ~ U(0.5, 4), one draw for both teachers, for each sample anew                                 (5) PG-SB
    L_phi = mean (a_t eps_phi(x_t, t, y or null) - a_t eps)^2,  x_0 = stopgrad(x0_hat)              (6) the LoRA teacher's step
    Z = softmax(Q K+^T / sqrt d) V+  -  alpha softmax(Q K-^T / sqrt d) V-                           (7) NASA
    Zt = Z+ + phi (Z+ - Z-), held to tau times the length of Z+, mixed with Z+ by a                 (8) NAG, arXiv 2505.21179

(7) stands in every cross-attention layer, with the layer's own projections and one output projection: no weight and no call
more. NASA-I uses it in a trained generator; NASA-T in training, with alpha ~ U(0, 1), and the negative prompt then takes the
place of null in (2) for the frozen teacher only. SwiftBrush is (5) with a fixed k, 4.5 in its README.

What the paper leaves open: k is drawn for each sample (`Uniform(..., per="batch")`: one a batch). The teacher of small networks
may be copied whole for phi (`adapter="full"`) instead of low-rank changes (`adapter="lora"`).

Example::

    import torch
    from tutelage.methods.distill.snoopi import distill_one_step
    from tutelage.models.diffusion import PromptDenoiser, Uniform, WordEncoder, noise_schedule, small_unet
    from tutelage.teaching.denoising import fit_denoiser

    words = WordEncoder(["dark", "light"], length=3, dim=16)
    teacher = PromptDenoiser(words, small_unet(8, widths=(8, 16), text_dim=16), noise_schedule())
    images = torch.cat([torch.full((8, 3, 8, 8), 0.1), torch.full((8, 3, 8, 8), 0.9)])  # yours: pictures and prompts
    fit_denoiser(teacher, images, ["dark"] * 8 + ["light"] * 8, steps=4, batch_size=8)

    found = distill_one_step(teacher, ["dark", "light"], (3, 8, 8), steps=3, batch_size=4, guidance=Uniform(0.5, 4))
    pictures = found.generator.generate(["light"], negative="dark", alpha=0.3, seed=0)  # (1, 3, 8, 8) in [0, 1]
"""

from __future__ import annotations

from tutelage.methods.distill.snoopi.generator import MODES, Mode, OneStepGenerator
from tutelage.methods.distill.snoopi.measure import Removal, RemovalRow, chosen, removal_test
from tutelage.methods.distill.snoopi.nasa import NAG, NASA, negative_attention
from tutelage.methods.distill.snoopi.training import Distilled, OneStep, SnoopiConfig, distill_one_step
from tutelage.methods.distill.snoopi.vsd import guided_eps, one_step, vsd_gradient, vsd_loss

__all__ = [
    "MODES",
    "NAG",
    "NASA",
    "Distilled",
    "Mode",
    "OneStep",
    "OneStepGenerator",
    "Removal",
    "RemovalRow",
    "SnoopiConfig",
    "chosen",
    "distill_one_step",
    "guided_eps",
    "negative_attention",
    "one_step",
    "removal_test",
    "vsd_gradient",
    "vsd_loss",
]
