"""The two teachers that fit a Gaussian mixture to their last episodes: ALP-GMM and Covar-GMM."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.data.worlds.task_space import Floats, TaskSpace
from tutelage.teaching.curricula.mixture import Criterion, Mixture, check_mixture, fit_mixture
from tutelage.teaching.curricula.progress import LearningProgress
from tutelage.teaching.curricula.sampler import OnNaN, Uniform

PAPER_KS = range(2, 11)


class MixtureTeacher(Uniform):
    """What both share: a mixture of the last `fit_rate` episodes, drawn from by the interest of its components.

    fit_rate: episodes between fits, the window of a fit and the first, uniform ones. random_ratio: share of uniform tasks
    after them, 0..1; at 1 this is `Uniform`, number by number. ks, criterion: see `fit_mixture`. Others: see `Uniform`.
    """

    def __init__(
        self,
        space: TaskSpace,
        *,
        rng: np.random.Generator,
        returns: tuple[float, float] | None = None,
        fit_rate: int = 250,
        random_ratio: float = 0.2,
        ks: Sequence[int] = PAPER_KS,
        criterion: Criterion = "aic",
        on_nan: OnNaN = "raise",
    ) -> None:
        super().__init__(space, rng=rng, returns=returns, on_nan=on_nan)
        check_integer("fit_rate", fit_rate, low=10)
        check_number("random_ratio", random_ratio, "a share from 0 to 1", low=0, high=1)
        check_mixture(ks, criterion)
        if max(ks) > fit_rate:
            raise InputError("ks", max(ks), f"at most fit_rate, {fit_rate}, components")
        self.fit_rate, self.random_ratio, self.ks, self.criterion = fit_rate, random_ratio, tuple(ks), criterion
        self.mixture: Mixture | None = None

    def sample(self) -> Floats:
        """(4): a uniform task during the first `fit_rate` episodes and with probability `random_ratio`; else (5)."""
        if self.mixture is None or self.rng.random() < self.random_ratio:
            return super().sample()
        component = int(self.rng.choice(self.mixture.k, p=self.component_probabilities()))
        return self.space.from_unit(self.mixture.draw(component, self.rng)[: self.space.dims])  # clipped to the box

    def component_probabilities(self) -> Floats:
        """(K,): proportional to the interest of each component, uniform where none has any. Empty before the first fit."""
        if self.mixture is None:
            return np.empty(0)
        interest = np.maximum(0.0, self._interest(self.mixture))
        total = float(interest.sum())
        return interest / total if total > 0 else np.full(self.mixture.k, 1 / self.mixture.k)

    def _learn(self, where: Floats, ret: float) -> None:
        self._store(where, ret)
        if self.episodes % self.fit_rate == 0:
            self.mixture = fit_mixture(self._window(), self.ks, self.rng, criterion=self.criterion)

    def _store(self, where: Floats, ret: float) -> None:
        raise NotImplementedError

    def _window(self) -> Floats:
        """The points that the mixture is fitted to; the task comes first."""
        raise NotImplementedError

    def _interest(self, mixture: Mixture) -> Floats:
        """(K,), negative for none."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        mixture = None if self.mixture is None else self.mixture.state_dict()
        return {**super().state_dict(), "mixture": mixture}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.mixture = None if state["mixture"] is None else Mixture.of(state["mixture"])


class ALPGMM(MixtureTeacher):
    """ALP-GMM, equations (1) to (5) of the module: the interest of a component is its mean learning progress.

    knn_buffer: newest tasks searched without the k-d tree; it changes the speed only.
    """

    def __init__(self, space: TaskSpace, *, rng: np.random.Generator, knn_buffer: int = 500, **options: Any) -> None:
        super().__init__(space, rng=rng, **options)
        self.progress = LearningProgress(space.dims, buffer=knn_buffer)

    def _store(self, where: Floats, ret: float) -> None:
        self.progress.add(where, ret)  # (1), (2)

    def _window(self) -> Floats:
        """(3): the last `fit_rate` points (task, alp), (n, d + 1)."""
        return np.column_stack([self.progress.tasks[-self.fit_rate :], self.progress.alps[-self.fit_rate :]])

    def _interest(self, mixture: Mixture) -> Floats:
        return mixture.means[:, -1]  # the mean alone, not times the component's weight

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "progress": self.progress.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.progress.load_state_dict(state["progress"])


class CovarGMM(MixtureTeacher):
    """Covar-GMM (after Moulin-Frier et al. 2013), a baseline of the paper: points are (task, time in the window, return).

    The interest of a component is its covariance of time and return, where that is positive: returns rise there.
    absolute: falling returns count as well.
    """

    def __init__(self, space: TaskSpace, *, rng: np.random.Generator, absolute: bool = False, **options: Any) -> None:
        super().__init__(space, rng=rng, **options)
        self.absolute = absolute
        self.window: deque[tuple[float, ...]] = deque(maxlen=self.fit_rate)

    def _store(self, where: Floats, ret: float) -> None:
        self.window.append((*where, ret))

    def _window(self) -> Floats:
        rows = np.array(self.window)
        time = np.arange(len(rows)) / len(rows)
        return np.column_stack([rows[:, :-1], time, rows[:, -1]])

    def _interest(self, mixture: Mixture) -> Floats:
        covariance = mixture.covariances[:, -2, -1]
        return np.abs(covariance) if self.absolute else covariance

    def state_dict(self) -> dict[str, Any]:
        rows = torch.tensor(list(self.window), dtype=torch.float64).reshape(-1, self.space.dims + 1)
        return {**super().state_dict(), "window": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.window = deque((tuple(row) for row in state["window"].tolist()), maxlen=self.fit_rate)
