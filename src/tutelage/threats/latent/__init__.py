"""Latent attacks: perturbations of the residual stream of a transformer, searched by gradient, inside a ball for each token.

    (1)  min_δ Σ_b loss_b(model with h_l[b, t] + δ_l[b, t])   subject to  ‖δ_l[b, t]‖ <= eps_l,  δ = 0 outside the mask
    (2)  δ <- Π_eps(AdamW(δ, ∇_δ))                             no weight decay, gradients that are not finite count as 0

Each token of each row has a ball of its own, and no row's search depends on another's. The model is only read: evaluation
mode, gradients of δ alone. δ is in float32 whatever the model's precision. `models.blocks` says what a layer is and how a
perturbation is added; the loss comes from the caller, so the attack knows no task: language models and image transformers
alike.

Sheshadri et al., Latent Adversarial Training, arXiv 2407.15549, attack this way; Casper et al., arXiv 2403.05030, untargeted.
"""

from tutelage.threats.latent.search import Delta, LatentBall, random_delta, search

__all__ = ["Delta", "LatentBall", "random_delta", "search"]
