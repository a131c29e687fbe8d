"""The paper's settings for models of 7 to 8 billion parameters: coefficients, layers and rates. Smaller models have fewer
layers: give your own, or `LatentAttack(units="residual")` with numbers of your model's blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.methods.harden.lat.adversary import LatentAttack
from tutelage.methods.harden.lat.training import Defence


@dataclass(frozen=True)
class Preset:
    """attack, defence, and of LATTrainer: lr, rounds. lora_rank: of the adapter on q, k, v, o, up and down."""

    attack: LatentAttack
    defence: Defence
    lr: float
    rounds: int = 100
    inner_per_outer: int = 4
    lora_rank: int = 64


_REFUSAL_LAYERS = ("embedding", 8, 16, 24, 30)

PRESETS: dict[str, Preset] = {
    "refusal-llama2": Preset(
        LatentAttack(6.0, _REFUSAL_LAYERS, lr=5e-2, toward=0.5, away=0.5), Defence(toward=0.5, away=0.5, w=1.5), lr=2e-5
    ),
    "refusal-llama3": Preset(
        LatentAttack(6.0, _REFUSAL_LAYERS, lr=1e-3, toward=0.5, away=0.5),
        Defence(toward=0.5, away=0.5, retain="kl", w=0.1),
        lr=8e-5,
    ),
    "backdoor": Preset(
        LatentAttack(1.5, (4, 12, 20, 28), adversary="dpo", beta=0.3), Defence("dpo", beta=0.3, w=1.0), lr=2e-5, rounds=256
    ),
    # unlearning: the bad completion is the text to forget, the good one what may stand in its place
    "unlearn-whp": Preset(LatentAttack(1.5, (12,)), Defence(toward=1.0, away=1.0, w=1.0), lr=5e-5),
    "unlearn-ga": Preset(
        LatentAttack(2.0, (7,), toward=1.0, away=1.0), Defence(toward=1.0, away=1.0, w=4.0), lr=5e-5, rounds=200
    ),
    "unlearn-rmu": Preset(
        LatentAttack(2.0, (7,), toward=1.0, away=1.0), Defence(toward=1.0, away=1.0, w=4.0), lr=5e-5, rounds=200
    ),
}

__all__ = ["PRESETS", "Preset"]
