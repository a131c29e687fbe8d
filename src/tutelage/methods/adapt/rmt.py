"""RMT: a robust mean teacher that adapts a deployed classifier to a long, unlabelled stream that drifts.

For whoever has a BatchNorm net in use, gets no labels, and sees inputs that change, at once or slowly, without being told.
Every batch is answered when it comes; then the student learns from it.

    Döbler, Marsden, Yang: Robust Mean Teacher for Continual and Gradual Test-Time Adaptation,
    arXiv 2211.13081 (2022), CVPR 2023.

Student f = head(enc), teacher f' (its moving average), batch x, strongly augmented x~, p = softmax f, q = softmax f':

    SCE(p, q) = -(1 - a) sum_c q_c log p_c - a sum_c p_c log q_c,   a = 1/2                                              (1)
    L_st = mean_i [ 1/2 SCE(p(x_i), q(x_i)) + 1/2 SCE(p(x~_i), q(x_i)) ]                                                 (2)
    mu_k = mean of enc(x) over source samples of class k, by the source model;  k(i) = argmax_k cos(mu_k, enc(x_i))      (3)
    L_cl = NT-Xent, tau = 0.1, over the three views mu_k(i), enc(x_i), enc(x~_i), each through a projector g to 128      (4)
    L_src = CE(f(x_s), y_s) on a batch of source data                                                                   (5)
    L = l_st L_st + l_cl L_cl + l_src L_src, one step;   theta' <- m theta' + (1 - m) theta, m = 0.999                   (6)
    answer: f(x) + f'(x), both from before the step                                                                     (7)

All parameters learn; BatchNorm uses the statistics of the batch, its running ones are dropped. Before the stream, a warm-up
on unlabelled source images, SCE(f(x_s), f'(x_s)) at a rising learning rate, settles student and teacher. Source-free:
l_src = 0; with prototypes given and no warm-up the source is never touched. As in the released code, another sample with the
same prototype is a negative in (4); `negatives="other_class"` leaves those out.

Plain cross-entropy (a = 0) pulls most where the teacher is sure and the student is not, and there the teacher is often
wrong; the reverse term evens this out.

Example::

    import torch
    import tutelage
    from torch.optim import SGD
    from tutelage.auditing.streams import Stream, run_stream
    from tutelage.methods.adapt.rmt import RMT
    from tutelage.models import SmallCNN
    from tutelage.teaching import CrossEntropy

    train = tutelage.fashion_mnist_subset("train").take(slice(0, 1000))
    model = SmallCNN(4)  # your trained classifier
    tutelage.fit(model, CrossEntropy(), train.loader(50), epochs=1, optimizer=SGD(model.parameters(), lr=0.1))
    adapter = RMT(model, source=train, lam=(1, 1, 0), warmup_samples=200)
    stream = Stream.corrupted(tutelage.fashion_mnist_subset("test"), ["gaussian_noise", "fog"], n=100)
    print(run_stream(adapter, stream, batch_size=50).table())
    print(adapter.diff().table(3))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer, check_number, check_positive
from tutelage.core.errors import InputError
from tutelage.core.rng import generator, seeded
from tutelage.data.images import Augment
from tutelage.models.batchnorm import BatchNormPolicy, check_batch
from tutelage.models.checks import check_logits, run_model
from tutelage.models.prototypes import HeadTap, class_prototypes, nearest_prototype
from tutelage.models.taps import find_head
from tutelage.teaching.consistency import Negatives, nt_xent
from tutelage.teaching.replay import Replay
from tutelage.teaching.test_time.adapter import OptimizerLike, Prediction
from tutelage.teaching.test_time.mean_teacher import BATCH, MeanTeacher, both

LAST, REPLAYED = 100_000, "replay"  # samples that prototypes are made of; the name of the replay's generator


class RMT(MeanTeacher):
    """(1) to (7): `adapt(x)` answers a batch (B, C, H, W) in [0, 1] and learns from it.

    model: nn.Module -> logits (B, K); it is copied. prototypes: (K, D) of (3), or source: an ImageSet, a data set of (x, y)
    or a DataLoader, of which they are made. head: the name of the head that gets the features; found by running the model if
    left out. augment: (x, generator) -> x~, default `StrongAugment()`; `StrongAugment(flip=False)` for digits.
    lam: (l_st, l_cl, l_src); default (1, 1, 1) with a source and (1, 1, 0) without. projection: outputs of g; 0 leaves g out,
    for features that are a small bottleneck already. warmup_samples: of the source (50,000 in the paper). optimizer: "adam"
    (CIFAR), "sgd" (ImageNet), or a function. source_batch: of warm-up and replay. steps: a batch; the answer is from before
    the first. `reset`, `save`, `load`, `diff`, `state_dict`: see `teaching.test_time.Adapter`.

    Raises InputError for a class without source samples, a batch of one (see `RingBuffer`), a head that gets no vectors;
    SplitError for test data as the source; NotFinite before a step that would spoil the model.
    """

    name = "rmt"
    projector: nn.Module | None = None
    replay: Replay | None = None

    def __init__(
        self,
        model: nn.Module,
        *,
        prototypes: Tensor | None = None,
        source: Any = None,
        head: str | None = None,
        augment: Augment | None = None,
        alpha: float = 0.5,
        lam: Sequence[float] | None = None,
        temperature: float = 0.1,
        projection: int = 128,
        negatives: Negatives = "all",
        optimizer: OptimizerLike = "adam",
        lr: float = 1e-3,
        momentum: float = 0.999,
        policy: BatchNormPolicy | None = None,
        warmup_samples: int = 0,
        source_batch: int = BATCH,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        lam = ((1.0, 1.0, 1.0) if source is not None else (1.0, 1.0, 0.0)) if lam is None else lam
        if not isinstance(lam, tuple | list) or len(lam) != 3:
            raise InputError("lam", lam, "three weights (self-training, contrastive, source)")
        for weight in lam:
            check_number("lam", weight, "weights >= 0", low=0)
        check_positive("temperature", temperature, "a number > 0")
        check_integer("projection", projection, low=0)
        check_choice("negatives", negatives, get_args(Negatives))
        contrastive, replayed = lam[1] > 0, lam[2] > 0
        if replayed and source is None:
            raise InputError("source", None, "labelled source data for replay, or lam=(1, 1, 0)")
        if contrastive and prototypes is None and source is None:
            raise InputError("prototypes", None, "prototypes (K, D), or the source data to make them of")
        if prototypes is not None:
            _check_prototypes(prototypes)
        # (3), by the source model as it is
        if contrastive and prototypes is None:
            whole = Replay(source, source_batch, generator(seed, REPLAYED))
            prototypes = class_prototypes(model, whole.in_order(), head=head, limit=LAST)
        super().__init__(
            model, alpha=alpha, augment=augment, optimizer=optimizer, lr=lr, momentum=momentum, policy=policy, source=source,
            warmup_samples=warmup_samples, source_batch=source_batch, steps=steps, seed=seed,
        )  # fmt: skip
        self.lam = (float(lam[0]), float(lam[1]), float(lam[2]))
        self.temperature, self.negatives, self.projection, self.head = float(temperature), negatives, projection, head
        device = next(self.model.parameters()).device
        self.prototypes: Tensor | None = None
        self._tap: HeadTap | None = None
        if contrastive:
            assert prototypes is not None
            self.prototypes = prototypes.detach().to(device, torch.float32)
            if projection:
                with seeded(seed, "projector"):
                    inner = nn.Linear(self.prototypes.shape[1], projection)
                    self.projector = nn.Sequential(inner, nn.ReLU(), nn.Linear(projection, projection)).to(device)
                assert self.optimizer is not None
                self.optimizer.add_param_group({"params": list(self.projector.parameters())})
        if replayed:
            self.replay = Replay(source, source_batch, generator(seed, REPLAYED))
        self._remember()

    @property
    def source_data(self) -> Any:
        """What is replayed, so that a stream can refuse to hold the same samples; None without replay."""
        return None if self.replay is None else self.replay.data

    def _adapt(self, x: Tensor) -> Prediction:
        if self.prototypes is not None and self._tap is None:
            self._find_head(x)
        z, h = self._student(x)
        x_aug = self.augment(x, self.generator)
        z_aug, h_aug = self._student(x_aug)
        z_teacher = self.teacher(x)

        on, weighted = self.lam, []
        losses: dict[str, Tensor] = {}
        if on[0]:
            losses["self_training"] = self._self_training(z, z_aug, z_teacher)  # (1), (2)
            weighted.append(on[0] * losses["self_training"])
        if self.prototypes is not None and h is not None and h_aug is not None:
            losses["contrastive"] = self._contrastive(h, h_aug)  # (3), (4)
            weighted.append(on[1] * losses["contrastive"])
        if self.replay is not None:
            losses["source"] = self._source_loss()  # (5)
            weighted.append(on[2] * losses["source"])

        log: dict[str, float] = {}
        if weighted:  # (6)
            loss = torch.stack(weighted).sum()
            log["grad_norm"] = self._learn(loss)
            self.teacher.update(self.model)
            values = torch.stack([loss.detach(), *(part.detach() for part in losses.values())]).tolist()
            log |= dict(zip(("loss", *losses), values, strict=True))
        return both(z, z_teacher, log or {"loss": 0.0})  # (7)

    def _student(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K) and, where the contrastive loss needs them, features (B, D), from one pass."""
        if self._tap is None:
            return run_model(self.model, x), None
        logits, features = self._tap(x)
        return check_logits(logits, len(x)), features

    def _contrastive(self, h: Tensor, h_aug: Tensor) -> Tensor:
        assert self.prototypes is not None
        nearest = nearest_prototype(self.prototypes, h.detach())
        views = torch.stack([self.prototypes[nearest], h, h_aug], 1)
        if self.projector is not None:
            views = self.projector(views)
        return nt_xent(views, temperature=self.temperature, negatives=self.negatives, groups=nearest)

    def _source_loss(self) -> Tensor:
        assert self.replay is not None
        x, y = self.replay()
        device = next(self.model.parameters()).device
        check_batch(self.model, x)
        return F.cross_entropy(run_model(self.model, x.to(device)), y.to(device))

    def _find_head(self, x: Tensor) -> None:
        """On the first batch: where the features are, and that they fit the prototypes."""
        assert self.prototypes is not None
        name = find_head(self.model, x[: max(4, self.smallest_batch)]) if self.head is None else self.head
        tap = HeadTap(self.model, name)
        try:
            with torch.no_grad():
                logits, features = tap(x)
            if (logits.shape[1], features.shape[1]) != tuple(self.prototypes.shape):
                fitting = f"({logits.shape[1]}, {features.shape[1]}): a mean feature for each class"
                raise InputError("prototypes", f"shape {tuple(self.prototypes.shape)}", fitting)
        except InputError:
            tap.close()
            raise
        self._tap = tap

    # state

    def parts(self) -> dict[str, nn.Module]:
        return {**super().parts(), **({"projector": self.projector} if self.projector is not None else {})}

    @property
    def settings(self) -> dict[str, Any]:
        own = {"lam": self.lam, "temperature": self.temperature, "negatives": self.negatives, "projection": self.projection}
        return {**super().settings, **own}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "replay": self.replay.state_dict() if self.replay is not None else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.replay is not None:
            self.replay.load_state_dict(state["replay"])


def _check_prototypes(prototypes: object) -> None:
    if not isinstance(prototypes, Tensor) or prototypes.dim() != 2 or not prototypes.is_floating_point():
        got = f"shape {tuple(prototypes.shape)}" if isinstance(prototypes, Tensor) else type(prototypes).__name__
        raise InputError("prototypes", got, "mean features of the classes (K, D), floating point")
    if bad := (~torch.isfinite(prototypes).all(1)).nonzero().flatten().tolist():
        raise InputError("prototypes", f"NaN or infinity for class {', '.join(map(str, bad))}", "finite means of every class")
