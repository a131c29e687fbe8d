"""ALP-GMM: a curriculum for any learner over a continuous space of tasks, part of which it may never learn.

For whoever trains an agent or a net on tasks with parameters (terrain, physics, corruption strength) and does not know which
of them are too easy, just right, or hopeless. The teacher sees only (task, return) pairs and proposes the next task.

    Portelas, Colas, Hofmann, Oudeyer: Teacher algorithms for curriculum learning of Deep RL in continuously parameterized
    environments, arXiv 1910.07224 (CoRL 2019).

g is a task, r the return of an episode on it, g' the nearest task before it (Euclidean), r' the return there.

    alp(g) = |r - r'|, over all earlier tasks; 0 while fewer than 6 are known                               (1)
    the history grows by (g, r) after that, or alp would always be 0                                        (2)
    every N = 250 episodes: mixtures of K = 2..10 Gaussians with full covariances, fitted by EM to the last
    N points (g, alp); the one with the lowest AIC is kept                                                  (3)
    the next task is uniform in the first N episodes, and with probability 0.2 after them; otherwise        (4)
    p(k) ~ max(0, mean of component k in alp), (g, alp) ~ N(mu_k, Sigma_k), g clipped to the box            (5)

Components are weighed by their mean alp alone, not by the mixture's weights too. Here tasks are mapped to [0, 1]^d before
(1), which the paper does not do: with parameters in different units its distances would depend on the units. Returns should
lie in about [0, 1] (`returns=` maps them), or the alp axis dominates the likelihood of (3). Where the released code differs:
it counts the parameters of a criterion with d instead of d + 1 (for AIC it uses scikit-learn's, as here).

The other teachers of the paper have the same two calls: `CovarGMM`, `RIAC`, `Oracle`, `Uniform`; and `ADR`, a box that grows.

Example::

    import numpy as np
    from tutelage.data.worlds.toy_grid import ToyGrid
    from tutelage.methods.tutor.alp_gmm import ALPGMM

    world = ToyGrid(n=4)  # your learner: anything that has an episode on a task and returns a number
    teacher = ALPGMM(world.task_space, rng=np.random.default_rng(0), fit_rate=100)
    for _ in range(300):
        task = teacher.sample()  # (d,), in the units of the space
        teacher.update(task, world(task))
    print(world.competence, teacher.component_probabilities())
"""

from tutelage.data.worlds.task_space import TaskSpace
from tutelage.methods.tutor.alp_gmm.mixtures import ALPGMM, CovarGMM
from tutelage.methods.tutor.alp_gmm.pictures import episode_frames, frame_strip, task_space_figure
from tutelage.methods.tutor.alp_gmm.riac import RIAC
from tutelage.methods.tutor.alp_gmm.windows import ADR, Oracle
from tutelage.teaching.curricula.run import History, run_curriculum
from tutelage.teaching.curricula.sampler import TaskSampler, Uniform
from tutelage.teaching.curricula.supervised import SupervisedLearner

__all__ = [
    "ADR",
    "ALPGMM",
    "RIAC",
    "CovarGMM",
    "History",
    "Oracle",
    "SupervisedLearner",
    "TaskSampler",
    "TaskSpace",
    "Uniform",
    "episode_frames",
    "frame_strip",
    "run_curriculum",
    "task_space_figure",
]
