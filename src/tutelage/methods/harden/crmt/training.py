"""Both steps of the training: equations (7) and (8) of `crmt`, and the joint training that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from tutelage.core.checks import check_callable, check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.modalities import MultiModalBatch, Values, labelled
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, generator
from tutelage.data.guard import refuse_test_data, training_only
from tutelage.data.multimodal import MultiModalSet
from tutelage.methods.harden.crmt.fusion import OrthogonalFusion
from tutelage.methods.harden.crmt.margins import (
    Method,
    Scored,
    certified_radius,
    check_model,
    margin_regulariser,
    mixed_margin_regulariser,
    modality_lipschitz,
    modality_margins,
    preference,
    score_all,
)
from tutelage.models.checks import check_labels
from tutelage.models.fusion import FusionModel
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.schedules import Schedule, multistep
from tutelage.threats.budgets import L2
from tutelage.threats.multimodal import Joint, MultiModalPGD

Base = Literal["jt", "at", "mix"]
PAPER_ATTACK = MultiModalPGD(Joint(L2(0.1)), steps=5, relative_step=0.2, start="clean")
LEFT_OUT = -1.0  # of an epoch that loses too much clean accuracy; radii are >= 0
PAPER_SCHEDULE = multistep((60 / 140,))
Augment = Callable[[MultiModalBatch, torch.Generator], MultiModalBatch]


class CRMT:
    """The objective (7) for `fit`; batches are (inputs, y). With rho = 0 it is ordinary joint training of any head.

    rho: weight of (3). base: "jt"; "at": inputs are those that `attack` finds; "mix": inputs and labels are mixed.
    attack: called on (inputs, y). beta: of the Beta(beta, beta) that lambda is drawn from. dropout: chance with which each
    modality of each sample is taken away (never the last one). augment: (inputs, generator) -> inputs, first of all.
    """

    def __init__(
        self,
        rho: float = 2.0,
        *,
        base: Base = "jt",
        attack: MultiModalPGD | None = None,
        beta: float = 1.0,
        dropout: float = 0.0,
        augment: Augment | None = None,
    ) -> None:
        check_number("rho", rho, "a weight >= 0", low=0)
        check_choice("base", base, get_args(Base))
        check_positive("beta", beta, "a number > 0")
        check_number("dropout", dropout, "a chance from 0 to below 1", low=0, high=1 - 1e-9)
        if attack is not None and not isinstance(attack, MultiModalPGD):
            raise InputError("attack", type(attack).__name__, "a MultiModalPGD")
        if augment is not None:
            check_callable("augment", augment, "a function of (inputs, generator)")
        self.rho, self.base, self.beta, self.dropout, self.augment = rho, base, beta, dropout, augment
        self.attack = attack or PAPER_ATTACK

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        x, y = labelled(batch)
        check_model(model)
        assert isinstance(model, FusionModel)
        check_labels(y, len(x), model.head.n_classes)  # type: ignore[arg-type]
        if self.augment is not None:
            x = self.augment(x, ctx.generator)
        if self.dropout:
            x = dropped(x, self.dropout, ctx.generator)
        if self.base == "mix":
            return self._mixed(model, model.filled(x), y, ctx)
        if self.base == "at":
            x = self.attack(x, y, model=model, generator=ctx.generator)
        out = model.fused(x)
        ce = F.cross_entropy(out.logits, y)
        margin = margin_regulariser(out.scores, y, present=_columns(x, model)) if self.rho else ce.new_zeros(())
        hits = (out.logits.detach().argmax(1) == y).float().mean()
        return ce + self.rho * margin, {"ce": ce.detach(), "margin_term": margin.detach(), "accuracy": hits}

    def _mixed(
        self, model: FusionModel, x: MultiModalBatch, y: Tensor, ctx: Context
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        lam = _beta(self.beta, ctx.generator)
        order = torch.randperm(len(y), generator=ctx.generator).to(y.device)
        inputs: dict[str, Values] = {}
        for name in x.modalities:  # one lambda for all modalities
            here = x.tensor(name)
            inputs[name] = lam * here + (1 - lam) * here[order]
        out = model.fused(MultiModalBatch(inputs, None, x.lengths))
        other = y[order]
        ce = lam * F.cross_entropy(out.logits, y) + (1 - lam) * F.cross_entropy(out.logits, other)
        margin = mixed_margin_regulariser(out.scores, y, other, lam) if self.rho else ce.new_zeros(())
        return ce + self.rho * margin, {"ce": ce.detach(), "margin_term": margin.detach(), "lambda": lam}


def dropped(x: MultiModalBatch, chance: float, noise: torch.Generator) -> MultiModalBatch:
    """Each modality of each sample taken away with this chance; a sample that would lose all keeps what it had."""
    n, m = len(x), len(x.modalities)
    keep = (torch.rand(n, m, generator=noise) >= chance).to(next(iter(x.inputs.values())).device)  # type: ignore[union-attr]
    has = torch.stack([x.has(name).to(keep.device) for name in x.modalities], 1)
    left = has & keep
    return MultiModalBatch(x.inputs, torch.where(left.any(1, keepdim=True), left, has), x.lengths)


def _beta(beta: float, noise: torch.Generator) -> float:
    """One number from Beta(beta, beta), as the ratio of two gamma variables."""
    if beta == 1.0:
        return float(torch.rand((), generator=noise))
    a, b = (torch._standard_gamma(torch.tensor(beta, dtype=torch.float64), generator=noise) for _ in range(2))
    return float(a / (a + b).clamp_min(1e-30))


def _columns(x: MultiModalBatch, model: FusionModel) -> Tensor | None:
    """Presences in the order of the model's modalities, which is the order of its scores."""
    if x.present is None and x.modalities == model.modalities:
        return None
    return torch.stack([x.has(name).to(next(model.parameters()).device) for name in model.modalities], 1)


class Integration(nn.Module):
    """Step 2 sees nothing but this: the weights a, and beside them the bias. Everything else cannot change."""

    def __init__(self, a: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a.detach().clone())
        self.bias: Tensor
        self.register_buffer("bias", bias.detach().clone())


class MaximiseRadius:
    """(8): minus the mean of (5) over a batch of (scores (B, M, K), y), against the runner-up; signed, so that samples on the
    wrong side count too."""

    def __init__(self, tau: Tensor) -> None:
        self.tau = tau

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        assert isinstance(model, Integration)
        scores, y = batch
        with torch.no_grad():
            model.a.clamp_(min=0)  # what the last step may have pushed below
        radius = certified_radius(
            list(scores.unbind(1)), model.a, model.bias, self.tau, y, against="runner-up", signed=True
        )  # fmt: skip
        return -radius.mean(), {"radius": radius.detach().mean()}


@dataclass
class CRMTReport:
    """What came of a training. Numbers are of the training data.

    modalities: their names. step1, step2: the FitResults. tau (M, K), tau_kind: the constants that step 2 used. a_before,
    a_after (M, K). radius_before, radius_after: mean of (5) with that tau before and after step 2. preference: name -> share
    of the mean margins (4).
    """

    modalities: tuple[str, ...]
    step1: FitResult
    step2: FitResult | None
    tau: Tensor
    tau_kind: Method
    a_before: Tensor
    a_after: Tensor
    radius_before: float
    radius_after: float
    preference: dict[str, float] = field(default_factory=dict)


def crmt_fit(
    model: FusionModel,
    data: MultiModalSet,
    *,
    rho: float = 2.0,
    base: Base = "jt",
    attack: MultiModalPGD | None = None,
    beta: float = 1.0,
    epochs: int = 140,
    step2_epochs: int | None = None,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    optimizer: Optimizer | None = None,
    schedule: Schedule = PAPER_SCHEDULE,
    step2_lr: float | None = None,
    step2_weight_decay: float = 1e-2,
    tau: Method = "empirical",
    tau_limit: int | None = None,
    validation: MultiModalSet | None = None,
    tolerance: float = 0.005,
    augment: Augment | None = None,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
) -> CRMTReport:
    """Train `model`, a FusionModel with an OrthogonalFusion head, in place by both steps.

    data: a MultiModalSet (never test data). rho, base, attack, beta, augment: see `CRMT`. epochs: of step 1; step2_epochs:
    default a third of them, 0 leaves step 2 out. lr, weight_decay: of the default SGD with momentum 0.9; the paper's values.
    step2_lr: default 0.03 lr. tau: which Lipschitz constants step 2 uses; tau_limit: samples that "empirical" looks at.
    validation, tolerance: see `maximise_radius`.
    checkpoint: a folder; run again after an interruption, the training goes on to the same result.

    Raises InputError before any training for another head, labels out of range, bad constants; SplitError for test data.
    """
    check_model(model)
    if not isinstance(model.head, OrthogonalFusion):
        raise InputError("model", f"{type(model.head).__name__} as head", "an OrthogonalFusion head: step 2 trains its weights")
    if step2_epochs is not None:
        check_integer("step2_epochs", step2_epochs, low=0)
    objective = CRMT(rho, base=base, attack=attack, beta=beta, augment=augment)
    step1 = fit_fusion(
        model, data, objective, epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, optimizer=optimizer,
        schedule=schedule, checkpoint=Path(checkpoint) / "step-1" if checkpoint else None, seed=seed, progress=progress,
        name=f"CRMT-{base.upper()} step 1",
    )  # fmt: skip
    model.head.project()
    return maximise_radius(
        model, data, epochs=max(1, epochs // 3) if step2_epochs is None else step2_epochs,
        lr=0.03 * lr if step2_lr is None else step2_lr, weight_decay=step2_weight_decay, batch_size=batch_size, tau=tau,
        tau_limit=tau_limit, validation=validation, tolerance=tolerance,
        checkpoint=Path(checkpoint) / "step-2" if checkpoint else None, seed=seed, progress=progress, step1=step1,
    )  # fmt: skip


def fit_fusion(
    model: FusionModel,
    data: MultiModalSet,
    objective: CRMT,
    *,
    epochs: int,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    optimizer: Optimizer | None = None,
    schedule: Schedule = PAPER_SCHEDULE,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
    name: str = "joint training",
) -> FitResult:
    """Step 1, or any joint training, of a FusionModel by `objective`; see `crmt_fit` for the rest."""
    check_model(model)
    if not isinstance(data, MultiModalSet):
        raise InputError("data", type(data).__name__, "a MultiModalSet")
    with training_only():
        refuse_test_data(data)
    if set(data.modalities) != set(model.modalities):
        raise InputError("data", ", ".join(data.modalities), f"the modalities of the model, {', '.join(model.modalities)}")
    check_labels(data.labels, len(data), model.head.n_classes)  # type: ignore[arg-type]
    if objective.base == "mix" and data.present is not None and not bool(data.present.all()):
        raise InputError("base", "mix with missing modalities", "samples that have all of them, or base='jt' or 'at'")
    return fit(
        model,
        objective,
        data.loader(batch_size, generator=generator(seed, "order")),
        epochs=epochs,
        optimizer=optimizer or SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay),
        schedule=schedule,
        checkpoint=checkpoint,
        seed=seed,
        progress=progress,
        name=name,
    )


def maximise_radius(
    model: FusionModel,
    data: MultiModalSet,
    *,
    epochs: int,
    lr: float,
    weight_decay: float = 1e-2,
    batch_size: int = 64,
    tau: Method = "empirical",
    tau_limit: int | None = None,
    validation: MultiModalSet | None = None,
    tolerance: float = 0.005,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
    step1: FitResult | None = None,
) -> CRMTReport:
    """Step 2: only the integration weights a of `model` change. epochs 0: nothing does, and the report says how things are.

    A larger radius is paid for with clean accuracy, as the weights go to the modality that is hard to move. validation: if
    given, the epoch of largest mean radius on it is kept among those that lose at most `tolerance` of its clean accuracy, in
    [0, 1]; none does: a stays as it was. (Ours; the released code chooses its checkpoint on the test data.)
    """
    check_model(model)
    head = model.head
    if not isinstance(head, OrthogonalFusion):
        raise InputError("model", f"{type(head).__name__} as head", "an OrthogonalFusion head")
    check_number("tolerance", tolerance, "a share of clean accuracy, from 0 to 1", low=0, high=1)
    with training_only():
        refuse_test_data(data)
        if validation is not None:
            refuse_test_data(validation)
        constants = modality_lipschitz(model, data, method=tau, limit=tau_limit)
        scored = score_all(model, data)
        judged = score_all(model, validation) if validation is not None else None
    before = head.a.detach().clone()

    def mean_radius() -> float:
        found = certified_radius(scored.scores, head.a.detach(), head.bias.detach(), constants, scored.labels)
        return float(found.mean())

    radius_before, step2 = mean_radius(), None
    if epochs:
        small = Integration(head.a, head.bias)
        pairs = TensorDataset(torch.stack(scored.scores, 1), scored.labels)
        order = RandomSampler(pairs, generator=generator(seed, "order of step 2"))
        loader: DataLoader[Any] = DataLoader(
            _Whole(pairs), sampler=BatchSampler(order, batch_size, False), batch_size=None, generator=torch.Generator()
        )
        validate = None
        if judged is not None:
            least = float((head.integrate(judged.scores).detach().argmax(1) == judged.labels).double().mean()) - tolerance

            def validate(module: nn.Module) -> Mapping[str, float]:
                assert isinstance(module, Integration)
                return _judgement(module.a.detach().clamp(min=0), module.bias, constants, judged, least)

        step2 = fit(
            small,
            MaximiseRadius(constants),
            loader,
            epochs=epochs,
            optimizer=SGD([small.a], lr=lr, momentum=0.9, weight_decay=weight_decay),
            validate=validate,
            select="chosen" if validate is not None else None,
            checkpoint=checkpoint,
            seed=derive(seed, "step 2"),
            progress=progress,
            name="CRMT step 2",
        )
        if step2.best is None or step2.best["chosen"] > LEFT_OUT:
            with torch.no_grad():
                head.a.copy_(small.a.clamp(min=0))
    shares = preference(modality_margins(scored.scores, head.a.detach(), scored.labels))
    return CRMTReport(
        model.modalities, step1 or FitResult(), step2, constants, tau, before, head.a.detach().clone(), radius_before,
        mean_radius(), dict(zip(model.modalities, map(float, shares), strict=True)),
    )  # fmt: skip


def _judgement(a: Tensor, bias: Tensor, tau: Tensor, judged: Scored, least: float) -> dict[str, float]:
    """Clean accuracy and mean radius of validation data under weights a; `chosen` is the radius, if the accuracy allows."""
    logits = (torch.stack(judged.scores, 1) * a).sum(1) + bias
    clean = float((logits.argmax(1) == judged.labels).double().mean())
    radius = float(certified_radius(judged.scores, a, bias, tau, judged.labels).mean())
    return {"clean": clean, "radius": radius, "chosen": radius if clean >= least - 1e-9 else LEFT_OUT}


class _Whole(torch.utils.data.Dataset[tuple[Tensor, ...]]):
    """Tensors read a batch at a time."""

    def __init__(self, pairs: TensorDataset) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        part = torch.as_tensor(index)
        return tuple(tensor[part] for tensor in self.pairs.tensors)
