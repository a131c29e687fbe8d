"""The claim of grokking: does pruning by IPR take out the wrong labels and leave the rule, more than random pruning does?

Addition mod 53, 65 % of the pairs to train on, 20 % of their labels random (the card's small setting). A unit is a seed with
its own split, corruption and network; all arms of a unit prune the same trained net, from the cache. What is pruned is fixed
beforehand at 60 % of the neurons, the paper's figure; nothing is chosen on test data. Beside the catalogue's controls there
is one by the size of the weights, which needs no spectrum. Other nets: with weight decay, with BatchNorm, of the paper's own
size (p = 97, N = 500), mod 31, where nothing is learnt but the labels, and a transformer with little and with more weight
decay, whose settings were found on a split that no unit has. Accuracies in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tutelage.claims.claim import Cell, Claim, ClaimConfig, Sentence
from tutelage.claims.codehash import code_sha256
from tutelage.core.rng import derive, generator
from tutelage.methods.understand.grokking.data import ModularData, modular_dataset
from tutelage.methods.understand.grokking.measure import PHASES, Accuracies, accuracies, classify_phase
from tutelage.methods.understand.grokking.pruning import Order, pruning_curve
from tutelage.methods.understand.grokking.spectrum import neuron_ipr, rank_correlation
from tutelage.methods.understand.grokking.training import GrokConfig, train_grok
from tutelage.models.loading import load_weights, save_weights
from tutelage.models.modular import PairTransformer, QuadraticMLP
from tutelage.models.neurons import matrices


class Config(ClaimConfig):
    """What `--set` may change."""

    p: int = Field(53, ge=3, description="modulus of the main arms")
    width: int = Field(200, ge=1, description="neurons of the main arms")
    alpha: float = Field(0.65, gt=0, lt=1, description="share of the pairs to train on")
    xi: float = Field(0.2, ge=0, le=1, description="share of corrupted training labels")
    steps: int = Field(1000, ge=1)
    weight_decay: float = Field(10.0, ge=0, description="of the arm weight-decay")
    fraction: float = Field(0.6, ge=0, le=1, description="share of the neurons that is pruned")
    random_draws: int = Field(10, ge=1, description="random orders to average over")
    batch_norm_steps: int = Field(2000, ge=1)
    batch_norm_size: int = Field(64, ge=1, description="batch size of the arm batch-norm")
    batch_norm_lr: float = Field(0.005, gt=0)
    small_p: int = Field(31, ge=3, description="modulus of the arm small-modulus")
    large_p: int = Field(97, ge=3, description="modulus of the arms large-...")
    large_width: int = Field(500, ge=1)
    large_alpha: float = Field(0.5, gt=0, lt=1)
    large_xi: float = Field(0.35, ge=0, le=1)
    large_steps: int = Field(1000, ge=1, description="of large-low-ipr and large-random")
    large_decay: float = Field(15.0, ge=0)
    large_decay_steps: int = Field(500, ge=1, description="of large-weight-decay")
    transformer_dim: int = Field(64, ge=4, multiple_of=4, description="of its embedding; 4 heads, MLP of 4 times that")
    transformer_alpha: float = Field(0.8, gt=0, lt=1)
    transformer_steps: int = Field(1000, ge=1)
    transformer_lr: float = Field(0.003, gt=0)
    transformer_decay: float = Field(3.0, ge=0, description="of the arm transformer")
    transformer_strong_decay: float = Field(6.0, ge=0, description="of the arm transformer-weight-decay")


@dataclass(frozen=True)
class Net:
    """What a network is trained on and how."""

    p: int
    width: int
    alpha: float
    xi: float
    config: GrokConfig
    kind: Literal["quadratic", "batch-norm", "transformer"] = "quadratic"


PRUNED: dict[str, Order] = {
    "low-ipr-pruning": "low",
    "random-pruning": "random",
    "high-ipr-pruning": "high",
    "small-weights-pruning": "low",
    "large-low-ipr": "low",
    "large-random": "random",
}
ARMS = (
    *("no-pruning", "random-pruning", "high-ipr-pruning", "small-weights-pruning", "low-ipr-pruning"),
    *("weight-decay", "batch-norm", "small-modulus", "transformer", "transformer-weight-decay"),
    *("large-no-pruning", "large-random", "large-low-ipr", "large-weight-decay"),
)
CONTROLS = ("no-pruning", "high-ipr-pruning")


def net_of(arm: str, config: Config) -> Net:
    """The network of an arm; arms that prune share one."""
    if arm.startswith("large-"):
        decayed = arm == "large-weight-decay"
        steps = config.large_decay_steps if decayed else config.large_steps
        training = GrokConfig(steps, config.large_decay if decayed else 0.0, log_every=steps)
        return Net(config.large_p, config.large_width, config.large_alpha, config.large_xi, training)
    if arm == "batch-norm":
        size, steps = config.batch_norm_size, config.batch_norm_steps
        training = GrokConfig(steps, lr=config.batch_norm_lr, batch_size=size, log_every=steps)
        return Net(config.p, config.width, config.alpha, config.xi, training, "batch-norm")
    if arm.startswith("transformer"):
        decay = config.transformer_strong_decay if arm.endswith("weight-decay") else config.transformer_decay
        steps = config.transformer_steps
        training = GrokConfig(steps, decay, lr=config.transformer_lr, log_every=steps)
        return Net(config.p, config.transformer_dim, config.transformer_alpha, config.xi, training, "transformer")
    training = GrokConfig(config.steps, config.weight_decay if arm == "weight-decay" else 0.0, log_every=config.steps)
    p = config.small_p if arm == "small-modulus" else config.p
    return Net(p, config.width, config.alpha, config.xi, training)


def cell(cell: Cell) -> Mapping[str, float]:
    """Train the network of an arm (or take it from the cache), prune it as the arm says, and measure."""
    config: Config = cell.config
    net = net_of(cell.arm, config)
    seed = derive(cell.unit, "grokking")
    data = modular_dataset(net.p, net.alpha, net.xi, seed=seed)
    model = trained(net, data, seed, cell)
    scores = neuron_ipr(model)
    found = {"mean_ipr": float(scores.mean())}
    if cell.arm in PRUNED:
        assert isinstance(model, QuadraticMLP)
        by = weight_sizes(model) if cell.arm == "small-weights-pruning" else scores
        order = PRUNED[cell.arm]
        half = [0.5] if order == "random" else []
        fractions = list(dict.fromkeys([config.fraction, *half]))
        curve = pruning_curve(model, data, scores=by, orders=[order], fractions=fractions, draws=config.random_draws, seed=seed)
        after = curve.at(order, config.fraction)
        if half:
            whole, some = accuracies(model, data), curve.at(order, 0.5)
            found["test_lost_at_half"] = 100 * (whole.test - some.test)
    else:
        after = accuracies(model, data)
    found |= measured(after)
    if cell.arm in ("weight-decay", "large-weight-decay"):
        found["distance_to_clean_share"] = abs(found["train"] - 100 * (1 - net.xi))
    if net.kind == "batch-norm":
        assert isinstance(model, QuadraticMLP)
        assert model.norm is not None
        found["gain_ipr_correlation"] = rank_correlation(model.norm.weight.detach().abs(), scores)
    if cell.arm not in PRUNED:
        found["phase"] = float(PHASES.index(classify_phase(after.train, after.test, net.xi)))
    return found


def measured(found: Accuracies) -> dict[str, float]:
    """Accuracies in per cent, and how far the rule and the wrong labels are apart."""
    names = ("train", "test", "clean", "corrupted", "memorised", "restored")
    # there is no such number where no label was corrupted; then nothing was memorised
    shares = {name: 100 * value if (value := getattr(found, name)) == value else 0.0 for name in names}
    return {"test_minus_corrupted_accuracy": shares["test"] - shares["corrupted"], **shares}


def weight_sizes(model: QuadraticMLP) -> Tensor:
    """(N,): the length of all weights of each neuron."""
    places = model.neurons
    parts = [(one**2).sum(1) for one in matrices(model, (*places.incoming, *places.outgoing))]
    return torch.stack(parts).sum(0).sqrt()


def trained(net: Net, data: ModularData, seed: int, cell: Cell) -> QuadraticMLP | PairTransformer:
    """The network of `net`, trained on `data`; made once for all arms that share it."""

    def fresh() -> QuadraticMLP | PairTransformer:
        if net.kind == "transformer":
            return PairTransformer(net.p, net.width, generator=generator(seed, "transformer"))
        norm: Any = "batch" if net.kind == "batch-norm" else None
        return QuadraticMLP(net.p, net.width, norm=norm, generator=generator(seed, "quadratic net"))

    def build(folder: Path) -> None:
        model = fresh()
        train_grok(data, model, net.config, seed=seed, progress=cell.progress)
        save_weights(model, folder / "net.safetensors")

    key = {
        "p": net.p, "width": net.width, "alpha": net.alpha, "xi": net.xi, "kind": net.kind, "seed": seed,
        "config": vars(net.config) | {"betas": list(net.config.betas)}, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "code": code_sha256("tutelage.claims.understand.grokking"),
    }  # fmt: skip
    model = fresh()
    load_weights(model, cell.cache.get("grokking-nets", key, build) / "net.safetensors")
    return model.eval()


def data(config: Config) -> list[dict[str, Any]]:
    """The generated tasks, as results list them."""
    made = {"kind": "generated", "generator": "tutelage.methods.understand.grokking.data.modular_dataset", "version": 1}
    main, transformer = (config.p, config.alpha), (config.p, config.transformer_alpha)
    tasks = [main, (config.small_p, config.alpha), (config.large_p, config.large_alpha), transformer]
    return [{"name": f"addition mod {p}", "split": f"{share:g} of the pairs train", "n": p * p, **made} for p, share in tasks]


CLAIM = Claim(
    slug="grokking",
    arms=ARMS,
    controls=CONTROLS,
    scales={
        "smoke": Config(
            p=11, width=24, alpha=0.8, steps=60, random_draws=2, batch_norm_steps=40, small_p=7, large_p=13, large_width=32,
            large_alpha=0.8, large_xi=0.2, large_steps=60, large_decay_steps=60, transformer_dim=8, transformer_steps=30,
        ),
        "claim": Config(),
        "paper": Config(
            p=97, width=500, alpha=0.5, xi=0.35, weight_decay=15.0, large_p=113, large_width=500, batch_norm_steps=2000,
            transformer_dim=128, transformer_steps=4000, transformer_lr=0.001, transformer_decay=10.0,
            transformer_strong_decay=50.0,
        ),
    },
    units={"smoke": 2, "claim": 5, "paper": 5},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "Pruning by lowest IPR separates more than pruning as many neurons of smallest weights.",
            "test_minus_corrupted_accuracy", "low-ipr-pruning", "small-weights-pruning",
        ),
        Sentence(
            "Without regularisation the rule is learnt: test accuracy is above 95 %.",
            "test", "no-pruning", kind="threshold", margin=95.0,
        ),
        Sentence(
            "Without regularisation the wrong labels are memorised as well: accuracy on corrupted labels is above 70 %.",
            "corrupted", "no-pruning", kind="threshold", margin=70.0,
        ),
        Sentence(
            "After pruning by lowest IPR, accuracy on corrupted training labels is below 10 %.",
            "corrupted", "low-ipr-pruning", kind="threshold", better="lower", margin=10.0,
        ),
        Sentence(
            "After pruning by lowest IPR, test accuracy is above 97 %.",
            "test", "low-ipr-pruning", kind="threshold", margin=97.0,
        ),
        Sentence(
            "Pruning by lowest IPR raises test accuracy.",
            "test", "low-ipr-pruning", "no-pruning",
        ),
        Sentence(
            "Pruning a random 50 % takes more than 25 points of test accuracy.",
            "test_lost_at_half", "random-pruning", kind="threshold", margin=25.0,
        ),
        Sentence(
            "With weight decay, training accuracy is within 2 points of the share of labels that were not corrupted.",
            "distance_to_clean_share", "weight-decay", kind="threshold", better="lower", margin=2.0,
        ),
        Sentence(
            "With weight decay, test accuracy is above 99 %.",
            "test", "weight-decay", kind="threshold", margin=99.0,
        ),
        Sentence(
            "With weight decay, the mean IPR of the neurons is higher than without.",
            "mean_ipr", "weight-decay", "no-pruning",
        ),
        Sentence(
            "In a net with BatchNorm, the rank correlation of a neuron's scale there with its IPR is above 0.5.",
            "gain_ipr_correlation", "batch-norm", kind="threshold", margin=0.5,
        ),
        Sentence(
            "In a net with BatchNorm, test accuracy is above 99 %.",
            "test", "batch-norm", kind="threshold", margin=99.0,
        ),
        Sentence(
            "Mod 31 the same net only memorises: test accuracy is below 50 %.",
            "test", "small-modulus", kind="threshold", better="lower", margin=50.0,
        ),
        Sentence(
            "Mod 31 the same net only memorises: training accuracy is above 90 %.",
            "train", "small-modulus", kind="threshold", margin=90.0,
        ),
        Sentence(
            "In the transformer, more weight decay gives less accuracy on corrupted training labels.",
            "corrupted", "transformer-weight-decay", "transformer", better="lower",
        ),
        Sentence(
            "In the transformer, more weight decay gives a higher mean IPR of the embedding.",
            "mean_ipr", "transformer-weight-decay", "transformer",
        ),
        Sentence(
            "At the paper's own size, pruning by lowest IPR separates more than random pruning.",
            "test_minus_corrupted_accuracy", "large-low-ipr", "large-random",
        ),
        Sentence(
            "At the paper's own size, with weight decay, training accuracy is within 2 points of the clean share.",
            "distance_to_clean_share", "large-weight-decay", kind="threshold", better="lower", margin=2.0,
        ),
    ),
    axes=("corrupted", "test"),
    metric_labels={
        "test_minus_corrupted_accuracy": "test minus corrupted-label accuracy, percentage points",
        "test": "test accuracy, %",
        "corrupted": "accuracy on corrupted training labels, %",
        "train": "training accuracy, %",
        "clean": "accuracy on clean training labels, %",
        "memorised": "really wrong labels reproduced, %",
        "restored": "really wrong labels answered rightly, %",
        "mean_ipr": "mean IPR of the neurons",
        "test_lost_at_half": "test accuracy lost at 50 %, percentage points",
        "distance_to_clean_share": "distance of training accuracy from 1 - xi, percentage points",
        "gain_ipr_correlation": "rank correlation of scale and IPR",
        "phase": "phase, 0 coexistence to 4 confusion",
    },
)  # fmt: skip
