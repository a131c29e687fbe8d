"""The main job: a small, robust student taught by a clean and a robust teacher, on real bundled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure
from torch.optim import SGD

from tutelage.auditing.audit import audit
from tutelage.auditing.report import write_report
from tutelage.auditing.result import AuditResult
from tutelage.claims.recipes import Recipe, build_net, teacher
from tutelage.core.cache import Cache
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import derive, generator
from tutelage.data.images import random_flip
from tutelage.data.sets import fashion_mnist_subset
from tutelage.methods.distill.mtard import MTARDConfig, fit_mtard
from tutelage.models.loading import save_weights
from tutelage.teaching.fit import FitResult
from tutelage.teaching.schedules import warmup_cosine
from tutelage.threats.budgets import Linf

EPS = 0.1
CLEAN = Recipe("t32", epochs=8, shift=1)
ROBUST = Recipe("u32", epochs=6, eps=EPS)
STUDENT_EPOCHS = 8


def run_demo(
    folder: Path, *, seed: int = 0, quick: bool = False, progress: Progress = QUIET
) -> tuple[dict[str, AuditResult], Path]:
    """Train two teachers (cached) and a B-MTARD student, audit the three; returns the audits and the report's path."""
    train, validation = fashion_mnist_subset("train").split_off(1500)
    test = fashion_mnist_subset("test").split_off(1000, split="test")[1]
    clean, robust, epochs = CLEAN, ROBUST, STUDENT_EPOCHS
    if quick:
        train, validation, test = train.take(slice(0, 640)), validation.take(slice(0, 100)), test.take(slice(0, 60))
        clean, robust, epochs = replace(CLEAN, epochs=3), replace(ROBUST, epochs=1, attack_steps=2), 1
    cache = Cache.default()
    steps = 5
    with progress.task("demo", steps) as overall:
        t_clean = teacher(clean, train, validation, seed=derive(seed, "clean"), cache=cache, progress=progress)
        overall.advance(1, "clean teacher trained")
        t_robust = teacher(robust, train, validation, seed=derive(seed, "robust"), cache=cache, progress=progress)
        overall.advance(1, "robust teacher trained")
        student = build_net("u16", train, seed)
        taught = fit_mtard(
            student,
            {"clean": t_clean, "robust": t_robust},
            train.loader(128, generator=generator(seed, "order")),
            threat=Linf(EPS),
            config=MTARDConfig(eta_tau=0.02),
            epochs=epochs,
            optimizer=SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4),
            schedule=warmup_cosine(1 / epochs),
            augment=random_flip,
            validation=validation.split_off(len(validation) // 3)[1],
            seed=seed,
            progress=progress,
        )
        save_weights(student, folder / "student.safetensors")
        overall.advance(1, "student taught")
        audits = {}
        for name, net in {"clean teacher": t_clean, "robust teacher": t_robust, "student (B-MTARD)": student}.items():
            audits[name] = audit(
                net, test, threats=[Linf(EPS)], seed=seed, name=name, force=quick, curve=not quick, progress=progress
            )
            overall.advance(2 / 3, f"{name} audited")
    page = write_report(
        folder / "report.html",
        audits,
        title="One small student, two teachers",
        intro="A small network was taught by an ordinary teacher (on clean images only) and an adversarially trained one (on "
        "attacked images only) with B-MTARD, on the bundled Fashion-MNIST subset. All three were audited on test images "
        "that no training and no selection saw.",
        figures={
            "How the student was taught: losses, weights, teacher temperatures and entropies over the steps": _lesson(taught)
        },
    )
    for name, result in audits.items():
        result.save(folder / name.split(" (")[0].replace(" ", "-"))
    return audits, page


def _lesson(taught: FitResult) -> Figure:
    """The method's own quantities over time."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    panels = figure.subplots(1, 4)
    for axes, key, title in zip(
        panels,
        ("loss", "weight", "temperature", "entropy"),
        ("loss, nats", "weight", "teacher temperature", "teacher entropy, nats"),
        strict=True,
    ):
        for name, colour in (("clean", "#0072B2"), ("robust", "#D55E00")):
            axes.plot([row[f"{key}_{name}"] for row in taught.history], color=colour, lw=1, label=name)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
    panels[0].legend(fontsize=7, frameon=False)
    return figure
