"""One step of a distilled generator against 50 DDIM steps with guidance; a negative prompt by NASA and by a second call.

Untrained networks: time does not depend on what was learnt. Counted too: the multiplications and additions of both, by torch.
"""

from __future__ import annotations

import torch
from common import Outcome, race, report, settings
from torch.utils.flop_counter import FlopCounterMode

from tutelage.core.rng import generator, seeded
from tutelage.methods.distill.snoopi import OneStepGenerator
from tutelage.models.diffusion import ClassifierFree, PromptDenoiser, WordEncoder, noise_schedule, sample, small_dit, small_unet


def flops(work: object) -> int:
    """Floating-point operations of the matrix products and convolutions in one call."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        work()  # type: ignore[operator]
    return counter.get_total_flops()


def main() -> None:
    how = settings(__doc__)
    n, steps, size = (2, 4, 12) if how.quick else (64, 50, 12)
    words = [str(i) for i in range(10)] + ["red", "green", "blue"]
    for name in ("U-Net", "transformer"):
        with seeded(0):
            text = WordEncoder(words, length=4, dim=32)
            net = small_unet(size) if name == "U-Net" else small_dit(size, patch=3, layers=3)
            teacher = PromptDenoiser(text, net, noise_schedule()).eval()
        student = OneStepGenerator(teacher, (3, size, size))
        prompts = [words[i % 10] for i in range(n)]
        guidance = ClassifierFree(3.0)

        def many(teacher=teacher, prompts=prompts, guidance=guidance):  # type: ignore[no-untyped-def]
            return sample(teacher, prompts, (3, size, size), noise=generator(0), steps=steps, guidance=guidance)

        def one(student=student, prompts=prompts, **kwargs):  # type: ignore[no-untyped-def]
            return student.generate(prompts, **kwargs)

        ways = {
            "plain": one,
            "nasa": lambda one=one: one(negative="red", alpha=0.5),
            "second": lambda one=one: one(negative="red", alpha=0.5, mode="output-cfg"),
        }
        counted = {key: flops(way) for key, way in ways.items()}
        rounds = race({"plain": one, "many": many, **{key: ways[key] for key in ("nasa", "second")}}, how.rounds)
        report(
            Outcome(
                f"{n} pictures in one step, {name}", "diffusion", "one step", f"{steps} DDIM steps with guidance",
                [[r["plain"], r["many"]] for r in rounds], wanted="<= 0.04",
                notes={"GFLOP of one step": round(counted["plain"] / 1e9, 3)},
            ),
            how,
        )  # fmt: skip
        for key, words_of in (("nasa", "NASA"), ("second", "guidance of the output")):
            more = f"{100 * (counted[key] / counted['plain'] - 1):+.2f} %"
            report(
                Outcome(
                    f"a negative prompt by {words_of}, {name}", "diffusion", words_of, "one step without",
                    [[r[key], r["plain"]] for r in rounds], notes={"operations": more},
                ),
                how,
            )  # fmt: skip


if __name__ == "__main__":
    main()
