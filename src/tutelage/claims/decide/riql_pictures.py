"""Pictures for the report of the claim: frames of an episode of what each arm learned. The policies are read from the cache."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from tutelage.claims.claim import Cell, ClaimResult
from tutelage.claims.decide.riql import Config, policy_of
from tutelage.core.cache import Cache
from tutelage.core.rng import derive
from tutelage.teaching.control.environments import film

ARMS = ("behaviour-cloning", "iql", "riql")
FRAMES, EVERY = 8, 20


def pictures(result: ClaimResult, cache: Cache | None = None) -> list[tuple[Figure, str]]:
    """(figure, caption) for the page of `result`; nothing where the cache no longer holds its policies."""
    config, cache = Config.model_validate(result.config), cache or Cache.default()
    before = torch.get_num_threads()
    torch.set_num_threads(int(result.environment.get("threads", 1)))  # a part of what names the policies
    try:
        kept = {arm: policy_of(Cell(arm, 0, config, cache)) for arm in ARMS}
    finally:
        torch.set_num_threads(before)
    seed = derive(derive(0, "riql"), "played")
    strips = {
        arm: film(policy, config.environment, frames=FRAMES, every=EVERY, seed=seed)
        for arm, policy in kept.items()
        if policy is not None
    }
    if not strips:
        return []
    figure = Figure(figsize=(1.2 * FRAMES, 1.35 * len(strips)), layout="constrained")
    rows = figure.subplots(len(strips), FRAMES, squeeze=False)
    for axes, (arm, frames) in zip(rows, strips.items(), strict=True):
        for i, ax in enumerate(axes):
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_frame_on(False)
            if i < len(frames):
                ax.imshow(frames[i])
                ax.set_xlabel(f"step {EVERY * i}", fontsize=7)
        axes[0].set_title(arm, fontsize=9, loc="left")
    caption = (
        f"Unit 0, learned from corrupted next observations: one frame each {EVERY} steps of the first episode that was scored. "
        "All start from the same state."
    )
    return [(figure, caption)]
