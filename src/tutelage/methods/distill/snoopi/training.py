"""The distillation: alternating steps of the student, by (4), and of the LoRA teacher, by (6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from tutelage.core.checks import check_callable, check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import generator, normal
from tutelage.methods.distill.snoopi.generator import OneStepGenerator
from tutelage.methods.distill.snoopi.nasa import HIGHEST_ALPHA, NASA, negative_attention
from tutelage.methods.distill.snoopi.vsd import Weight, check_one_step, one_step, vsd_gradient, vsd_loss
from tutelage.models.diffusion.denoiser import Condition, Denoiser, checked_prompts, joined, predicted_eps
from tutelage.models.diffusion.guidance.scales import Fixed, GuidanceScale, Uniform
from tutelage.models.diffusion.lora import adapter_parameters, full_copy, lora_copy
from tutelage.models.diffusion.schedule import to_image
from tutelage.teaching.clipping import ClippedAdamW
from tutelage.teaching.fit import Context, FitResult, fit
from tutelage.teaching.processes import accelerator_of

if TYPE_CHECKING:
    from accelerate import Accelerator

ExtraLoss = Callable[[Tensor, Condition, Context], Tensor]
Part = Literal["teacher", "lora"]


@dataclass(frozen=True)
class SnoopiConfig:
    """Constants of the distillation. The defaults are for small networks; the paper's own stand behind them.

    lr, lr_lora: 1e-6 and 1e-3 in the paper. adapter: "full", a second copy of the teacher, for small networks; "lora", of
    `rank` and `scaling` (64 and 128). t_range: shares of T between which t is drawn. null_probability: of the LoRA step.
    ema: of the student. randomize: the teachers that get the drawn scale; the other one gets `fixed_scale`.
    share_scale: one draw for both.
    """

    lr: float = 1e-4
    lr_lora: float = 5e-4
    adapter: Literal["full", "lora"] = "full"
    rank: int = 64
    scaling: float = 128.0
    t_range: tuple[float, float] = (0.02, 0.98)
    null_probability: float = 0.1
    max_norm: float = 1.0
    ema: float = 0.99
    weight: Weight = "sigma2"
    share_scale: bool = True
    randomize: tuple[Part, ...] = ("teacher", "lora")
    fixed_scale: float = 4.5
    betas: tuple[float, float] = (0.0, 0.99)
    lora_steps: int = 1

    def __post_init__(self) -> None:
        for name in ("lr", "lr_lora", "scaling", "max_norm"):
            check_positive(name, getattr(self, name), "a number above 0")
        check_choice("adapter", self.adapter, ("full", "lora"))
        check_choice("weight", self.weight, ("sigma2", "one"))
        check_integer("rank", self.rank)
        check_integer("lora_steps", self.lora_steps)
        check_number("null_probability", self.null_probability, "a probability", low=0, high=1)
        check_number("ema", self.ema, "a decay between 0 and 1", low=1e-12, high=1 - 1e-12)
        Fixed(self.fixed_scale)
        low, high = self.t_range
        if not 0 <= low < high <= 1:
            raise InputError("t_range", self.t_range, "two shares of T, the lower one first")
        if not self.randomize or any(one not in ("teacher", "lora") for one in self.randomize):
            raise InputError("randomize", self.randomize, 'some of ("teacher", "lora")')


class OneStep:
    """The objective of the student for `fit`: (1) to (4), and beside it the LoRA teacher's own steps (6).

    A batch is (places of prompts (B,),). teacher: psi, frozen. adapter: phi, trained here; its weights and its optimiser are in
    the state. conditions: all prompts, encoded once by the teacher. negatives, nasa_alpha: NASA-T.
    """

    def __init__(
        self,
        teacher: Denoiser,
        adapter: Denoiser,
        conditions: Condition,
        null: Condition,
        shape: Sequence[int],
        *,
        guidance: GuidanceScale,
        config: SnoopiConfig,
        negatives: Condition | None = None,
        nasa_alpha: GuidanceScale | None = None,
        extra_loss: ExtraLoss | None = None,
        net: Callable[[nn.Module], nn.Module] = lambda student: student,
    ) -> None:
        self.teacher, self.adapter, self.conditions, self.null = teacher, adapter, conditions, null
        self.shape, self.guidance, self.config = tuple(shape), guidance, config
        self.negatives, self.nasa_alpha, self.extra_loss, self.net = negatives, nasa_alpha, extra_loss, net
        module = cast(nn.Module, adapter)
        self.learnt = adapter_parameters(module)
        self.optimizer = ClippedAdamW(
            self.learnt, config.lr_lora, max_norm=config.max_norm, betas=config.betas, weight_decay=0.0
        )  # fmt: skip

    def __call__(self, model: nn.Module, batch: Any, ctx: Context) -> tuple[Tensor, dict[str, Tensor | float]]:
        student = cast(Denoiser, model)
        condition = self.conditions[batch[0]]
        n, g, config = len(condition), ctx.generator, self.config
        z = normal((n, *self.shape), g).to(condition.features)
        negative = self._negative(n, g)
        x0 = self._x0(model, student, z, condition, negative, g)
        steps = self.teacher.schedule.steps
        low, high = (round(share * steps) for share in config.t_range)
        t = torch.randint(low, min(high, steps - 1) + 1, (n,), generator=g).to(z.device)
        noise = normal(x0.shape, g).to(x0)
        own, lora = self._scales(n, g)
        gradient = vsd_gradient(
            self.teacher, self.adapter, x0.detach(), t, noise, condition, self.null, own, adapter_scale=lora, negative=negative,
            weight=config.weight,
        )  # fmt: skip
        loss = vsd_loss(x0, gradient)
        log: dict[str, Tensor | float] = {"gradient": float(gradient.square().mean().sqrt()), "scale": float(own.mean())}
        if self.extra_loss is not None:
            further = self.extra_loss(x0, condition, ctx)
            loss = loss + further
            log["extra_loss"] = float(further.detach())
        log["loss_lora"] = self._lora(x0.detach(), condition, g)
        return loss, log

    def _negative(self, n: int, g: torch.Generator) -> Condition | None:
        if self.negatives is None:
            return None
        return self.negatives[torch.randint(len(self.negatives), (n,), generator=g)]

    def _x0(
        self,
        model: nn.Module,
        student: Denoiser,
        z: Tensor,
        condition: Condition,
        negative: Condition | None,
        g: torch.Generator,
    ) -> Tensor:
        if negative is None or self.nasa_alpha is None:
            return one_step(student, z, condition)
        alpha = float(self.nasa_alpha.sample(1, g))  # one an iteration
        with negative_attention(self.net(model), condition, negative, NASA(alpha)) as both:
            return one_step(student, z, both)

    def _scales(self, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """k of the teacher and of the LoRA teacher, (n,) each.

        They are drawn from a generator of their own, so that the other draws are the same whatever the guidance is.
        """
        own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=g)))
        first = self.guidance.sample(n, own)
        second = first if self.config.share_scale else self.guidance.sample(n, own)
        fixed = torch.full((n,), self.config.fixed_scale)
        return (
            first if "teacher" in self.config.randomize else fixed,
            second if "lora" in self.config.randomize else fixed,
        )

    @torch.enable_grad()
    def _lora(self, x0: Tensor, condition: Condition, g: torch.Generator) -> float:
        """(6): the LoRA teacher learns to denoise what the student makes. x0 is detached: nothing reaches the student."""
        value = 0.0
        schedule, n = self.adapter.schedule, len(x0)
        for _ in range(self.config.lora_steps):
            t = torch.randint(schedule.steps, (n,), generator=g).to(x0.device)
            noise = normal(x0.shape, g).to(x0)
            empty = torch.rand(n, generator=g) < self.config.null_probability
            both = joined(condition, self.null)  # the null prompt is the last row
            rows = torch.where(empty, n, torch.arange(n))
            eps = predicted_eps(self.adapter, schedule.add_noise(x0, noise, t), t, both[rows.to(x0.device)])
            loss = (schedule.a(t, x0) * (eps - noise)).square().mean()
            gradients = torch.autograd.grad(loss, self.learnt, allow_unused=True)
            for parameter, gradient in zip(self.learnt, gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
            self.optimizer.zero_grad()
            value = float(loss.detach())
        return value

    def state_dict(self) -> dict[str, Any]:
        """What the LoRA teacher has learnt, and its optimiser."""
        return {"adapter": [p.detach().clone() for p in self.learnt], "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.learnt, state["adapter"], strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])


@dataclass
class Distilled:
    """generator: the student, averaged. training: its history and what `validate` said at each evaluation."""

    generator: OneStepGenerator
    training: FitResult


def distill_one_step(
    teacher: Denoiser,
    prompts: Sequence[str],
    shape: Sequence[int],
    *,
    steps: int,
    batch_size: int = 64,
    guidance: GuidanceScale | None = None,
    negatives: Sequence[str] | None = None,
    nasa_alpha: GuidanceScale | None = None,
    extra_loss: ExtraLoss | None = None,
    config: SnoopiConfig | None = None,
    evaluate: Callable[[OneStepGenerator], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    decode: Callable[[Tensor], Tensor] = to_image,
    net: Callable[[nn.Module], nn.Module] = lambda student: student,
    checkpoint: Path | str | None = None,
    accelerator: Accelerator | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
) -> Distilled:
    """A one-step generator of `teacher`, which is not changed. No pictures are needed, only prompts.

    teacher: a Denoiser that is a module (PromptDenoiser). prompts: drawn evenly. shape: (C, H, W) of x. guidance: default
    Uniform(0.5, 4), PG-SB; Fixed(4.5) is SwiftBrush. negatives with nasa_alpha (Uniform(0, 1)): NASA-T; negatives alone reach
    only the frozen teacher. extra_loss: (x0_hat, condition, ctx) -> a further term. evaluate: called every `evaluate_every`
    steps with the averaged student as a generator. net: the part of a student that holds the cross-attention layers.
    checkpoint: a folder; with it the run can be resumed, the LoRA teacher included. accelerator: as for `fit`, of one
    process; the student stays on its device.

    Raises InputError before anything is computed: a teacher of eps whose schedule ends below a = 1e-3, unknown words, a prompt
    too long for the encoder, a negative prompt that is null, nasa_alpha without negatives.
    """
    if not isinstance(teacher, nn.Module) or not isinstance(teacher, Denoiser):
        raise InputError("teacher", type(teacher).__name__, "a Denoiser that is a module, such as a PromptDenoiser")
    check_one_step(teacher)
    check_integer("steps", steps)
    check_integer("batch_size", batch_size)
    prompts = checked_prompts(prompts)
    config, guidance = config or SnoopiConfig(), guidance or Uniform(0.5, 4.0)
    if not callable(getattr(guidance, "sample", None)):
        raise InputError("guidance", guidance, "Fixed(k) or Uniform(k_min, k_max)")
    if nasa_alpha is not None and not negatives:
        raise InputError("nasa_alpha", "no negatives", "negatives, a list of prompts, with it")
    if isinstance(nasa_alpha, Uniform | Fixed):
        NASA(nasa_alpha.k_max if isinstance(nasa_alpha, Uniform) else nasa_alpha.k)  # at most HIGHEST_ALPHA
    if extra_loss is not None:
        check_callable("extra_loss", extra_loss, "a function of (x0, condition, ctx)")
    if evaluate is not None:
        check_callable("evaluate", evaluate, "a function of a OneStepGenerator that gives metrics")
    check_integer("evaluate_every", evaluate_every or steps, high=steps)

    accelerator = accelerator_of(accelerator)  # what the student is moved to, the others must be too
    if accelerator.num_processes > 1:
        got = f"{accelerator.num_processes} processes"
        raise InputError("accelerator", got, "one process: the LoRA teacher learns beside the student, in the same one")
    device = accelerator.device
    frozen = cast(Any, full_copy(teacher)).requires_grad_(False).eval().to(device)
    with torch.no_grad():
        conditions, null = frozen.encode(prompts).to(device), frozen.encode([""]).to(device)
        forbidden = frozen.encode(list(negatives)).to(device) if negatives else None
    for row in range(len(forbidden) if forbidden is not None else 0):
        if forbidden is not None and forbidden[row : row + 1].same(null):
            raise InputError("negatives", "the null prompt, which forbids nothing", "prompts that say what must not be there")
    student = _only_the_net_learns(full_copy(teacher))
    if config.adapter == "full":
        adapter = _only_the_net_learns(full_copy(teacher)).to(device)
    else:
        adapter = lora_copy(frozen, rank=config.rank, scaling=config.scaling)
    adapter.eval()  # no dropout: psi and phi are compared
    objective = OneStep(
        frozen, cast(Any, adapter), conditions, null, shape, guidance=guidance, config=config, negatives=forbidden,
        nasa_alpha=nasa_alpha, extra_loss=extra_loss, net=net,
    )  # fmt: skip

    made = OneStepGenerator(cast(Any, student), shape, decode=decode, net=net(student))
    data = TensorDataset(torch.arange(len(prompts)))
    every = evaluate_every or steps
    order = RandomSampler(data, replacement=True, num_samples=every * batch_size, generator=generator(seed, "prompts"))
    loader = DataLoader(
        data, batch_size=None, sampler=BatchSampler(order, batch_size, drop_last=True), generator=torch.Generator()
    )  # fmt: skip
    training = fit(
        student,
        objective,
        loader,
        steps=steps,
        optimizer=ClippedAdamW(
            [p for p in student.parameters() if p.requires_grad], config.lr, max_norm=config.max_norm, betas=config.betas,
            weight_decay=0.0,
        ),
        ema=config.ema,
        validate=None if evaluate is None else lambda _: evaluate(made),
        checkpoint=checkpoint,
        accelerator=accelerator,
        seed=seed,
        progress=progress,
        name="one-step student",
    )  # fmt: skip
    return Distilled(made, training)


def _only_the_net_learns(model: nn.Module) -> nn.Module:
    """The text encoder stays as it was, as the prompts were encoded by it; without one, everything learns."""
    text = getattr(model, "text", None)
    if isinstance(text, nn.Module):
        text.requires_grad_(False)
    return model


__all__ = ["HIGHEST_ALPHA", "Distilled", "OneStep", "SnoopiConfig", "distill_one_step"]
