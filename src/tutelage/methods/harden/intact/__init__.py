"""INTACT: a teacher that knows which points matter under noise, and a student trained on noise at just these points.

For whoever has a point-cloud classifier, or a detector that stands on one, which must survive sensor noise, lost returns and
strangers in the scan.

    Darabi, Kumar, Tayebati, Trivedi: INTACT: Inducing Noise Tolerance through Adversarial Curriculum Training for LiDAR-based
    Safety-Critical Perception and Autonomy, arXiv 2502.01896 (2025). No code was published, and only the abstract could be
    read: what follows is one faithful reading of "meta-learned teacher, saliency, curriculum of targeted noise, student".

Clouds X = (x_1 .. x_N) in R^3 with labels y, cross-entropy l, corruptions of several kinds and severities.

Phase 1, the teacher f_theta, over tasks tau = (corruption, severity, some classes) with a support and a query half:

    theta_tau = theta - a grad l_support(theta)                                                             (1)
    theta <- theta - b grad_theta mean_tau [ l_query(theta_tau) + c (1 - cos(S(X clean), S(X corrupt))) ]   (2)

First order by default (the gradient of (2) at theta_tau is applied to theta), or whole. Phase 2, the student g:

    S_j = |d l(f(X), y) / d x_j|, p = S / sum S, uniform where all S_j are 0                                (3)
    J ~ k N points without replacement, by (1 - rho) p + rho / N                                            (4)
    X'(lambda): the points of J jittered with sigma lambda, or a share p_max lambda of them lost, or moved by the gradient of
        the student's loss within balls of radius sigma lambda, at random; the others jittered with sigma lambda / 4  (5)
    L = (1 - w_c) l(g(X')) + w_c l(g(X)) + w_d T^2 KL(f(X) || g(X'), both at T) + w_s KL(p_f || p_g(X'))    (6)
    lambda in [0, 1]: linear or the root of the progress up to 70 % of the run, or self-paced by accuracy on X'       (7)

The teacher is not needed afterwards. With w_s the student's own saliency is differentiated: a double backward pass.

Example::

    import torch
    from tutelage.data.points import PointSet, normalised
    from tutelage.methods.harden.intact import intact_train, meta_teacher, point_saliency
    from tutelage.models.points import PointNet
    from tutelage.threats.points import PointCorruption

    y = torch.arange(24) % 2
    flat = torch.where(y[:, None, None] == 1, torch.tensor([1.0, 1.0, 0.1]), torch.tensor([1.0, 1.0, 1.0]))
    clouds = PointSet(normalised(torch.randn(24, 32, 3) * flat), y, ("ball", "disc"), split="train")  # yours: (M, N, 3)
    teacher, student = PointNet(2, (16, 32), head=16), PointNet(2, (16, 32), head=16)  # or your own: net(points, mask)
    noise = {PointCorruption("jitter"): (0.2, 0.8), PointCorruption("drop"): (0.5,)}
    meta_teacher(teacher, clouds, noise, steps=2, size=6)
    report = intact_train(student, teacher, clouds, epochs=2, batch_size=8)
    points, mask, labels = clouds[:4]
    print(report.levels[-1], point_saliency(student, points, labels, mask).sum(1))
"""

from __future__ import annotations

from tutelage.methods.harden.intact.noise import Noise, pick, targeted_noise
from tutelage.methods.harden.intact.saliency import point_saliency, saliency_map
from tutelage.methods.harden.intact.teacher import CorruptionTasks, consistency, meta_teacher
from tutelage.methods.harden.intact.training import (
    Advisor,
    FullNoise,
    Intact,
    IntactConfig,
    IntactReport,
    Plain,
    PointAdversarial,
    intact_train,
)

__all__ = [
    "Advisor",
    "CorruptionTasks",
    "FullNoise",
    "Intact",
    "IntactConfig",
    "IntactReport",
    "Noise",
    "Plain",
    "PointAdversarial",
    "consistency",
    "intact_train",
    "meta_teacher",
    "pick",
    "point_saliency",
    "saliency_map",
    "targeted_noise",
]
