"""CRMT on drawings and names: emoji and what they are called, nine groups. Prints one row for each training and seed.

    tutelage data get minilm
    python examples/crmt_named_emoji.py [--seeds 3]

Both sides of the joint L2 ball are in units of their own inputs: pixels in [0, 1], and sentence vectors of length 1.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from tutelage.core.rng import seeded
from tutelage.data.multimodal import MultiModalSet
from tutelage.data.named_emoji import named_emoji
from tutelage.methods.harden.crmt import CRMT, OrthogonalFusion, crmt_fit, fit_fusion, passport
from tutelage.methods.harden.crmt.passport import JOINT
from tutelage.models.fusion import ConcatFusion, ConvEncoder, FusionModel, MLPEncoder, Standardised
from tutelage.teaching.schedules import warmup_cosine

EPS = (0.02, 0.05, 0.1)


def build(data: MultiModalSet, seed: int, head: type[nn.Module]) -> FusionModel:
    with seeded(seed, "encoders"):
        picture, name = ConvEncoder((3, 32, 32), 64, 8), MLPEncoder(384, 64, 64)
        encoders = {
            "picture": Standardised(picture, 0.75, 0.35, (3, 32, 32)),
            "name": Standardised(name, 0.0, 384**-0.5, (384,)),
        }
        return FusionModel(encoders, head([64, 64], len(data.classes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    got = parser.parse_args()
    torch.set_num_threads(1)
    train, validation, test = (named_emoji(split) for split in ("train", "validation", "test"))
    print(
        "training  seed  clean   joint: "
        + "   ".join(f"eps {eps:g}" for eps in EPS)
        + "   picture only  name only  share of the picture"
    )
    for seed in range(got.seeds):
        schedule = warmup_cosine(0.1)
        joint = build(train, seed, ConcatFusion)
        fit_fusion(joint, train, CRMT(0.0), epochs=got.epochs, lr=0.1, schedule=schedule, seed=seed)
        ours = build(train, seed, OrthogonalFusion)
        crmt_fit(
            ours, train, rho=0.2, epochs=got.epochs, lr=0.05, schedule=schedule, step2_epochs=5, step2_lr=0.005, tau_limit=1000,
            validation=validation, tolerance=0.005, seed=seed,
        )  # fmt: skip
        for what, model in (("joint", joint), ("CRMT", ours)):
            found = passport(
                model, test, train=train, eps=EPS, restarts=2, single_restarts=1, samples=150, clip={"picture": (0.0, 1.0)}
            )
            attacked = "  ".join(f"{100 * curve:6.1f}" for curve in found.curve(JOINT).accuracy[1:])
            alone = {row.modalities: 100 * row.accuracy for row in found.subsets.rows}
            print(
                f"{what:8} {seed:5}  {100 * found.clean:5.1f}  {attacked}  {alone[('picture',)]:12.1f}  {alone[('name',)]:9.1f}"
                f"  {next(one.share for one in found.modalities if one.name == 'picture'):10.2f}"
            )


if __name__ == "__main__":
    main()
