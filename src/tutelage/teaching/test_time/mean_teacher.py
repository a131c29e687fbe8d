"""Mean teachers at test time: the student follows its own moving average; and CoTTA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_callable, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.data.images import Augment
from tutelage.data.strong import StrongAugment
from tutelage.models.batchnorm import BatchNormPolicy, BatchStatistics, check_batch
from tutelage.models.checks import run_model
from tutelage.teaching.consistency import symmetric_cross_entropy
from tutelage.teaching.ema import EMATeacher
from tutelage.teaching.replay import Replay
from tutelage.teaching.test_time.adapter import Adapter, OptimizerLike, Prediction, answered, make_optimizer

BATCH = 64  # of the warm-up and of replay, if nothing else is said


class MeanTeacher(Adapter):
    """Student f and teacher f', its moving average; on each batch x, with an augmented x~:

        L = mean_i [ 1/2 SCE(f(x_i), f'(x_i)) + 1/2 SCE(f(x~_i), f'(x_i)) ]                                         (1)

    one step, then f' <- m f' + (1 - m) f. The answer is f(x) + f'(x), from before the step, its probabilities
    softmax((f(x) + f'(x)) / 2). SCE is `symmetric_cross_entropy` with `alpha`; 0 makes it plain cross-entropy.

    All parameters learn. augment: (x, generator) -> x~. source, warmup_samples: training data, and how many of them the
    warm-up may see: SCE(f(x_s), f'(x_s)) at a learning rate that rises from 0 to `lr`, without labels, always with
    alpha = 1/2, as plain cross-entropy has no gradient where both agree. Without a warm-up the source is not touched.
    """

    name = "mean-teacher"

    def __init__(
        self,
        model: nn.Module,
        *,
        alpha: float = 0.0,
        augment: Augment | None = None,
        optimizer: OptimizerLike = "adam",
        lr: float = 1e-3,
        momentum: float = 0.999,
        policy: BatchNormPolicy | None = None,
        source: Any = None,
        warmup_samples: int = 0,
        source_batch: int = BATCH,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        check_number("alpha", alpha, "a weight from 0 to 1", low=0, high=1)
        check_number("momentum", momentum, "a number from 0 to 1", low=0, high=1)
        check_integer("warmup_samples", warmup_samples, low=0)
        check_integer("source_batch", source_batch)
        if augment is not None:
            check_callable("augment", augment, "a function of (x, generator), such as StrongAugment()")
        if warmup_samples and source is None:
            raise InputError("source", None, "training data for the warm-up, or warmup_samples=0")
        self.policy = policy or BatchStatistics()
        super().__init__(model, self.policy, steps=steps, seed=seed)
        self.alpha, self.momentum, self.lr = float(alpha), float(momentum), lr
        self.augment: Augment = augment or StrongAugment()
        self.model.requires_grad_()
        self.teacher = EMATeacher(self.model, momentum)
        self.optimizer = make_optimizer(optimizer, list(self.model.parameters()), lr)
        self._source_batch = source_batch
        if warmup_samples:
            self._warm_up(Replay(source, source_batch, generator(seed, "warm-up")), warmup_samples)
        self._remember()

    def parts(self) -> dict[str, nn.Module]:
        return {"model": self.model, "teacher": self.teacher.model}

    @property
    def settings(self) -> dict[str, Any]:
        own = {"alpha": self.alpha, "momentum": self.momentum, "lr": self.lr, "policy": repr(self.policy)}
        return {**super().settings, **own}

    def _adapt(self, x: Tensor) -> Prediction:
        z = run_model(self.model, x)
        x_aug = self.augment(x, self.generator)
        z_aug, z_teacher = self.model(x_aug), self.teacher(x)
        loss = self._self_training(z, z_aug, z_teacher)
        norm = self._learn(loss)
        self.teacher.update(self.model)
        return both(z, z_teacher, {"loss": float(loss.detach()), "grad_norm": norm})

    def _self_training(self, z: Tensor, z_aug: Tensor, z_teacher: Tensor) -> Tensor:
        """(1): student on x, student on x~, teacher on x, each (B, K) -> scalar."""
        plain = symmetric_cross_entropy(z, z_teacher, alpha=self.alpha)
        augmented = symmetric_cross_entropy(z_aug, z_teacher, alpha=self.alpha)
        return 0.5 * (plain + augmented).mean()

    def _answer(self, x: Tensor) -> Prediction:
        return both(run_model(self.model, x), self.teacher(x), {})

    def _warm_up(self, source: Replay, samples: int) -> None:
        """n = samples // batch steps, step i at lr (i + 1) / n."""
        assert self.optimizer is not None
        n = max(1, samples // source.batch_size)
        device = next(self.model.parameters()).device
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for i in range(n):
            x = source()[0].to(device)
            check_batch(self.model, x)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (i + 1) / n
            self._learn(symmetric_cross_entropy(run_model(self.model, x), self.teacher(x)).mean())
            self.teacher.update(self.model)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


class CoTTA(MeanTeacher):
    """CoTTA (Wang et al., arXiv 2203.13591): a mean teacher whose targets are averaged over augmentations where needed.

    If the source model, on batch statistics, is on average less sure of the batch than `threshold`, the target y' is the
    mean of the teacher's logits over `augmentations` augmented copies, else the teacher's logits on x. Then

        L = mean_i CE(softmax(y'_i), softmax(f(x_i)))                                                                (2)

    one step, the average, and each weight goes back to the source's with probability `restore`. The answer is y'. The paper
    uses 32 augmentations and a threshold that depends on the data (0.92 for CIFAR-10).
    """

    name = "cotta"

    def __init__(
        self,
        model: nn.Module,
        *,
        augmentations: int = 32,
        threshold: float = 0.92,
        restore: float = 0.01,
        augment: Augment | None = None,
        optimizer: OptimizerLike = "adam",
        lr: float = 1e-3,
        momentum: float = 0.999,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        check_integer("augmentations", augmentations)
        check_number("threshold", threshold, "a probability", low=0, high=1)
        check_number("restore", restore, "a probability", low=0, high=1)
        super().__init__(model, augment=augment, optimizer=optimizer, lr=lr, momentum=momentum, steps=steps, seed=seed)
        self.augmentations, self.threshold, self.restore = augmentations, float(threshold), float(restore)
        self.anchor = EMATeacher(self.model, 1.0)  # never updated

    @property
    def settings(self) -> dict[str, Any]:
        own = {"augmentations": self.augmentations, "threshold": self.threshold, "restore": self.restore}
        return {**super().settings, **own}

    def _adapt(self, x: Tensor) -> Prediction:
        z = run_model(self.model, x)
        target = self._target(x, lambda: self.augment(x, self.generator))
        loss = symmetric_cross_entropy(z, target, alpha=0.0).mean()
        norm = self._learn(loss)
        self.teacher.update(self.model)
        if self.restore:
            self._restore()
        return answered(target, student_logits=z.detach(), log={"loss": float(loss.detach()), "grad_norm": norm})

    def _target(self, x: Tensor, augmented: Callable[[], Tensor]) -> Tensor:
        sure = float(self.anchor(x).softmax(1).amax(1).mean())
        if sure >= self.threshold:
            return self.teacher(x)
        return torch.stack([self.teacher(augmented()) for _ in range(self.augmentations)]).mean(0)

    def _answer(self, x: Tensor) -> Prediction:
        aside = torch.Generator()
        aside.set_state(self.generator.get_state())  # an answer without learning changes nothing, draws included
        return answered(self._target(x, lambda: self.augment(x, aside)), student_logits=run_model(self.model, x))

    @torch.no_grad()
    def _restore(self) -> None:
        for name, parameter in self.model.named_parameters():
            back = torch.rand(parameter.shape, generator=self.generator).to(parameter.device) < self.restore
            parameter.copy_(torch.where(back, self._source[name], parameter))


def both(student: Tensor, teacher: Tensor, log: dict[str, float]) -> Prediction:
    """The answer of a pair: the sum of logits (B, K), probabilities of their mean."""
    student, teacher = student.detach(), teacher.detach()
    logits = answered(student + teacher).logits
    if log:
        log["agreement"] = float((student.argmax(1) == teacher.argmax(1)).double().mean())
    return Prediction(logits, (logits / 2).softmax(1), student, teacher, log)
