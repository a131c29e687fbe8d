"""The scripts that `tutelage init` writes. `@NAME@` stands for a Python literal, in the policy for one of YAML."""

MODEL = '''"""The model: put your own in place of this small one."""

from torch import nn

from tutelage.models import SmallCNN


def build() -> nn.Module:
    """Images (B, 1, 28, 28) in [0, 1] -> logits (B, 10). Normalisation belongs in here."""
    return SmallCNN(8)
'''

DATA = '''

def images(split: str) -> tutelage.ImageSet:
    """Labelled images: a folder with a folder a class, an .npz (image, label), a .parquet; else the bundled ones."""
    path = @SETS@[split]
    data = tutelage.data.read_images(path) if path else tutelage.fashion_mnist_subset(split)
    return data.split_off(N, split=data.split)[1] if N and N < len(data) else data
'''

AUDIT = (
    '''"""How does my model break, and how sure are we?

    python audit_model.py

writes audit/report.html and audit/audit.json. Stopped, it goes on where it was: start it again.
"""

import tutelage
from tutelage.models import load_model

MODEL = @FACTORY@  # images in [0, 1] -> logits; normalisation belongs inside
WEIGHTS = @WEIGHTS@  # a .safetensors file, or None for the model as it is made
THREATS = ["linf@8/255"]  # also l2@0.5, fgsm:linf@0.1, pgd-50:l2@1
CORRUPTIONS = None  # "corruptions" for fifteen of them at five severities, "noise@3" for some
N = 500  # images; None for all of them
'''
    + DATA
    + """

def main() -> None:
    result = tutelage.audit(
        load_model(MODEL, WEIGHTS), images("test"), threats=THREATS, corruptions=CORRUPTIONS, name=MODEL, state="audit/state"
    )
    for row in result.rows:
        print(f"{row.category} {row.name}: {100 * row.value:.1f} % [{100 * row.ci95[0]:.1f}, {100 * row.ci95[1]:.1f}]")
    for warning in result.warnings:
        print("unreliable:", warning)
    print("report:", result.save("audit"))


if __name__ == "__main__":
    main()
"""
)

TEACH = (
    '''"""Teach my model to hold under attack (adversarial training), and keep the epoch that does best on held-out images.

    python teach_model.py

writes the weights, OUT below. Stopped, even by kill -9, it goes on where it was: start it again.
"""

import torch
from torch.optim import SGD

import tutelage
from tutelage.models import load_model, save_weights
from tutelage.teaching import AdversarialTraining, warmup_cosine

MODEL = @FACTORY@  # images in [0, 1] -> logits; normalisation belongs inside
WEIGHTS = @WEIGHTS@  # a .safetensors file to start from, or None
OUT = @OUT@
THREAT = tutelage.Linf(8 / 255)
EPOCHS, BATCH, RATE = 5, 100, 0.05
HELD_OUT = 500  # images that only choose the epoch
N = None  # use so many images; None for all
'''
    + DATA
    + """

def accuracy(model: torch.nn.Module, data: tutelage.ImageSet, attack: tutelage.PGD | None) -> float:
    x, y = data.images, data.labels
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    x = x if attack is None else attack(x, y, model=model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).float().mean())


def main() -> None:
    train, held_out = images("train").split_off(HELD_OUT)
    model = load_model(MODEL, WEIGHTS)
    attack = tutelage.PGD(THREAT, steps=5)

    def validate(net: torch.nn.Module) -> dict[str, float]:
        clean, robust = accuracy(net, held_out, None), accuracy(net, held_out, attack)
        print(f"held-out images: clean {clean:.1f} %, attacked {robust:.1f} %", flush=True)
        return {"clean": clean, "robust": robust, "mean": (clean + robust) / 2}

    tutelage.fit(
        model,
        AdversarialTraining(attack),
        train.loader(BATCH, generator=torch.Generator().manual_seed(0)),
        epochs=EPOCHS,
        optimizer=SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4),
        schedule=warmup_cosine(0.1),
        validate=validate,
        select="mean",
        checkpoint="teaching",
    )
    save_weights(model, OUT)
    print("weights:", OUT)


if __name__ == "__main__":
    main()
"""
)

CLAIM = (
    '''"""Does my method do what I say? One sentence, fixed before the first run; independent seeds; one verdict.

    python claim.py

Finished cells are kept in claim.jsonl. Write the sentence and the margin first, then the method; do not move them later.
"""

import json
from pathlib import Path

import torch
from torch.optim import SGD

import tutelage
from tutelage.core.rng import seeded
from tutelage.core.stats import decide, paired_t
from tutelage.models import load_model
from tutelage.teaching import AdversarialTraining, CrossEntropy

SENTENCE = "Adversarial training has a higher accuracy under attack than standard training."
METHOD, BASELINE, CONTROLS = "adversarial", "standard", ["untrained"]
METRIC, MARGIN = "robust", 0.0
SEEDS = 5
MODEL = @FACTORY@
THREAT = tutelage.Linf(0.05)
EPOCHS, BATCH, RATE = 3, 50, 0.05
N = 1000  # images a seed
ROWS = Path("claim.jsonl")
'''
    + DATA
    + '''

def cell(arm: str, seed: int) -> dict[str, float]:
    """One arm on one seed: train, then measure on images that no arm was trained on."""
    with seeded(seed):
        model = load_model(MODEL)
    train, test = images("train").split_off(N // 4, seed=seed)
    attack = tutelage.PGD(THREAT, steps=5)
    objectives = {"adversarial": AdversarialTraining(attack), "standard": CrossEntropy()}
    if arm in objectives:
        loader = train.loader(BATCH, generator=torch.Generator().manual_seed(seed))
        optimizer = SGD(model.parameters(), lr=RATE, momentum=0.9)
        tutelage.fit(model, objectives[arm], loader, epochs=EPOCHS, optimizer=optimizer, seed=seed)
    x, y = test.images, test.labels
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    attacked = attack(x, y, model=model, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        inputs = {"clean": x, "robust": attacked}
        return {name: 100 * float((model(some).argmax(1) == y).float().mean()) for name, some in inputs.items()}


def main() -> None:
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    values = {(row["arm"], row["seed"]): row for row in rows}
    for seed in range(SEEDS):
        for arm in (METHOD, BASELINE, *CONTROLS):
            if (arm, seed) not in values:
                values[arm, seed] = {"arm": arm, "seed": seed, **cell(arm, seed)}
                with ROWS.open("a") as file:
                    file.write(json.dumps(values[arm, seed]) + "\\n")
                print(values[arm, seed], flush=True)
    own = [values[METHOD, seed][METRIC] for seed in range(SEEDS)]
    other = [values[BASELINE, seed][METRIC] for seed in range(SEEDS)]
    found = decide([a - b for a, b in zip(own, other, strict=True)], margin=MARGIN, kind="superiority")
    verdict = found.verdict
    for control in CONTROLS:  # a gain that a trivial step brings too is none of the method's
        pair = paired_t(own, [values[control, seed][METRIC] for seed in range(SEEDS)])
        if verdict == "holds" and pair.interval.lo <= 0:
            verdict = "undecided" if pair.interval.hi >= 0 else "does not hold"
    interval = f"[{found.interval.lo:+.2f}, {found.interval.hi:+.2f}]"
    print(f"{SENTENCE}\\n{found.difference:+.2f} {interval}, margin {MARGIN:g}: {verdict}")


if __name__ == "__main__":
    main()
'''
)

POLICY = """# May this model ship?
#
#     tutelage gate policy.yaml
#
# Exit code 0: pass; 1: fail; 2: the items do not decide it, measure on more of them. docs/gate.md has every key.
name: @NAME@
alpha: 0.05 # level of each gate, one-sided
delta: 0.02 # how much worse than the model in production is still good enough
candidate: {audit: @CANDIDATE@} # what `tutelage audit` or audit_model.py wrote
@CHAMPION@
gates: # change the numbers to what you need: an interval that reaches below one is inconclusive
@GATES@
card: # what only you know of the model, for `tutelage card gate`
  intended_use: Not stated.
"""
