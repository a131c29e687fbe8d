"""The grid: every method at every setting and seed from the same SFT model, a training and a measurement each; resumable."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tutelage.core.cache import Cache
from tutelage.core.checks import check_choice, check_integer, check_positive
from tutelage.core.errors import InputError, NotFinite
from tutelage.core.files import sha256_text, write_json
from tutelage.core.progress import QUIET, Progress
from tutelage.core.rng import numpy_generator
from tutelage.core.runs import Run
from tutelage.methods.align.star_po.measure import Decoding, FloatArray, Score, answers_of, measure, scored
from tutelage.methods.align.star_po.robustness import Recommendation, Spread, expected_best, recommend, regret, spread
from tutelage.models.copying import copied
from tutelage.models.language.huggingface import HFBackend
from tutelage.models.language.protocol import Generation
from tutelage.teaching.language.pairs import PreferenceData, Prompt, TokenPairs, completion_ids, tokenised
from tutelage.teaching.language.preference_training import reference_logprobs, train_preference
from tutelage.teaching.language.preferences import Preference


@dataclass(frozen=True)
class Setting:
    """One configuration of one loss."""

    loss: Preference
    beta: float
    lr: float
    gamma: float = 0.0

    def __str__(self) -> str:
        margin = f", gamma {self.gamma:g}" if self.loss == "simpo" else ""
        return f"beta {self.beta:g}{margin}, lr {self.lr:g}"


@dataclass(frozen=True)
class Grid:
    """The settings of one method: all products of the values given. gamma: SimPO's margin only."""

    loss: Preference
    beta: Sequence[float]
    lr: Sequence[float]
    gamma: Sequence[float] = (0.0,)

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, get_args(Preference))
        for name in ("beta", "lr", "gamma"):
            values = getattr(self, name)
            if isinstance(values, str) or not len(values) or len(set(values)) != len(values):
                raise InputError(name, values, "one value at least, each once")
            for value in values:
                if name != "gamma" or value:
                    check_positive(name, value, "numbers > 0")
        if any(self.gamma) and self.loss != "simpo":
            raise InputError("gamma", list(self.gamma), f"none with {self.loss}: only SimPO has a margin")

    @property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(Setting(self.loss, b, lr, g) for b, g, lr in product(self.beta, self.gamma, self.lr))


def default_grids(lr: Sequence[float] = (5e-7, 1e-6, 5e-6)) -> dict[str, Grid]:
    """Ranges that papers and libraries use, for language models of usual size: DPO, LN-DPO, SimPO and IPO."""
    return {
        "dpo": Grid("dpo", (0.01, 0.05, 0.1, 0.3, 0.5), lr),
        "ln-dpo": Grid("ln_dpo", (1.0, 1.5, 2.0, 2.5, 3.0), lr),
        "simpo": Grid("simpo", (1.0, 1.5, 2.0, 2.5), lr, (0.5, 1.0)),
        "ipo": Grid("ipo", (0.01, 0.05, 0.1, 0.3, 0.5), lr),
    }


@dataclass(frozen=True)
class Row:
    """One training: method, setting, seed; what was measured on validation and on test prompts, or why it failed."""

    method: str
    setting: Setting
    seed: int
    status: Literal["ok", "failed"]
    validation: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class RobustnessMap:
    """Every row of a grid, and what is to be said of it.

    sft: what the SFT model scores, on {"validation", "test"}. A training that failed leaves one with the SFT model: it counts
    with the SFT model's scores, and is counted in `failed`. Configurations are chosen by their reward on validation prompts;
    whatever is reported is the reward on test prompts.
    """

    rows: tuple[Row, ...]
    sft: Mapping[str, Mapping[str, float]]
    decoding: Decoding
    length_gap: float = 0.0

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def seeds(self) -> list[int]:
        return sorted({row.seed for row in self.rows})

    def of(self, method: str, seed: int | None = None) -> list[Row]:
        """The rows of a method, in the order of its grid, then of the seeds. InputError for an unknown one."""
        found = [row for row in self.rows if row.method == method and seed in (None, row.seed)]
        if not found:
            raise InputError("method", method, f"one of {', '.join(self.methods)}")
        return found

    def scores(self, method: str, seed: int, split: str = "test", metric: str = "reward") -> FloatArray:
        """(n,): a metric of each configuration of one seed; the SFT model's where the training failed."""
        return np.array([self._value(row, split, metric) for row in self.of(method, seed)])

    def _value(self, row: Row, split: str, metric: str) -> float:
        found = getattr(row, split) if row.status == "ok" else self.sft[split]
        return float(found[metric])

    def failed(self, method: str) -> int:
        """How many trainings of a method failed."""
        return sum(row.status == "failed" for row in self.of(method))

    def spread(self, method: str, seed: int) -> Spread:
        """The distribution of the test reward over the grid of one seed."""
        return spread(self.scores(method, seed))

    def expected_best(self, method: str, k: int) -> float:
        """Test reward of the best of k random configurations, chosen on validation prompts; mean over seeds."""
        found = [expected_best(self.scores(method, seed), k, by=self._by(method, seed)) for seed in self.seeds]
        return float(np.mean(found))

    def regret(self, method: str, k: int) -> float:
        """What is lost against the best configuration by trying k; mean over seeds."""
        return float(np.mean([regret(self.scores(method, seed), k, by=self._by(method, seed)) for seed in self.seeds]))

    def _by(self, method: str, seed: int) -> FloatArray:
        return self.scores(method, seed, "validation")

    def chosen(self, method: str, seed: int) -> Row:
        """The configuration with the highest reward on validation prompts; the first of equals."""
        rows = self.of(method, seed)
        return rows[int(np.argmax(self._by(method, seed)))]

    def recommend(self, k: int = 1, *, seed: int = 0) -> Recommendation:
        """The method to take if k configurations can be tried; seed: of the bootstrap. Raises InputError."""
        scores = {method: [self.scores(method, s) for s in self.seeds] for method in self.methods}
        by = {method: [self._by(method, s) for s in self.seeds] for method in self.methods}
        return recommend(scores, k=k, by=by, rng=numpy_generator(seed, "recommend"))

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row a method, means over seeds: the distribution over the grid, the chosen cell, divergence, length."""
        return [self._summary(method) for method in self.methods]

    def _summary(self, method: str) -> dict[str, Any]:
        per_seed = [self.spread(method, seed) for seed in self.seeds]
        n = per_seed[0].n
        chosen = [self.chosen(method, seed) for seed in self.seeds]

        def mean(metric: str) -> float:
            return float(np.mean([self.scores(method, seed, "test", metric).mean() for seed in self.seeds]))

        return {
            "method": method,
            "configurations": n,
            "failed": self.failed(method),
            "mean": float(np.mean([one.mean for one in per_seed])),
            "sd": float(np.mean([one.sd for one in per_seed])),
            "worst": float(np.mean([one.worst for one in per_seed])),
            "q25": float(np.mean([one.q25 for one in per_seed])),
            "chosen": float(np.mean([self._value(row, "test", "reward") for row in chosen])),
            "chosen_length": float(np.mean([self._value(row, "test", "length") for row in chosen])),
            "regret_1": self.regret(method, 1),
            "win_rate": mean("win_rate"),
            "kl": mean("kl"),
            "length": mean("length"),
            "truncated": mean("truncated"),
        }

    def save(self, path: Path | str) -> None:
        """As JSON."""
        content = {
            "rows": [asdict(row) for row in self.rows],
            "sft": {split: dict(values) for split, values in self.sft.items()},
            "decoding": asdict(self.decoding),
            "length_gap": self.length_gap,
        }
        write_json(Path(path), content)

    @classmethod
    def load(cls, path: Path | str) -> RobustnessMap:
        """What `save` wrote. Raises InputError."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = tuple(_row(one) for one in found["rows"])
            return cls(rows, found["sft"], Decoding(**found["decoding"]), float(found["length_gap"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("path", str(path), f"a robustness map as save writes it ({error})") from error


def robustness_map(
    sft: HFBackend,
    data: PreferenceData | TokenPairs,
    methods: Mapping[str, Grid],
    score: Score,
    prompts: Sequence[Prompt],
    *,
    validation: Sequence[Prompt],
    chosen: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 32,
    decoding: Decoding | None = None,
    policy: Callable[[HFBackend], HFBackend] | None = None,
    folder: Path | str | None = None,
    cache: Cache | Path | str | None = None,
    progress: Progress = QUIET,
) -> RobustnessMap:
    """Train the SFT model by every method at every setting and seed, and measure what comes of each.

    sft: the start of every training and the reference; it is not changed. data: preference pairs. methods: {name: grid}.
    score: (prompt, answer) -> reward, of a verifier or a reward model. prompts: to report on, for instance out of the
        distribution of the pairs; validation: others, to choose by. chosen: given answers to `prompts`, for a second win rate.
    seeds: of the order of the pairs. epochs or steps, batch_size, decoding: the same for every training and measurement.
    policy: makes the model to be trained of the SFT model, for instance a copy with a peft adapter; default: a copy.
    folder: a run folder; each finished row is kept there, and the same call goes on from them. cache: of `train_preference`.
    A training that diverges is a failed row; the others go on. Raises InputError.
    """
    decoding = decoding or Decoding()
    _check(methods, prompts, validation, chosen, seeds)
    pairs = data if isinstance(data, TokenPairs) else tokenised(sft, data)
    jobs = [(name, setting, seed) for name, grid in methods.items() for setting in grid.settings for seed in seeds]
    about = {
        "model": sft.fingerprint, "pairs": pairs.sha256, "decoding": asdict(decoding), "epochs": epochs, "steps": steps,
        "batch_size": batch_size, "prompts": sha256_text(json.dumps([_plain(p) for p in prompts])),
        "validation": sha256_text(json.dumps([_plain(p) for p in validation])), "adapted": policy is not None,
    }  # fmt: skip
    run = None if folder is None else Run.create(Path(folder), "robustness-map", about)
    done = {} if run is None else {_name(row): row for row in map(_row, run.metrics())}
    reference = None
    sides: dict[str, _Side] = {}
    for split, given in (("validation", validation), ("test", prompts)):
        answers = answers_of(sft, given, decoding)
        sides[split] = _Side(given, scored(given, answers, score), answers)
    if chosen is not None:
        sides["test"].chosen = scored(prompts, [_given(sft, *one) for one in zip(prompts, chosen, strict=True)], score)
    rows: list[Row] = []
    with progress.task("robustness map", len(jobs)) as task:
        for name, setting, seed in jobs:
            row = done.get(_name(Row(name, setting, seed, "ok")))
            if row is None:
                if reference is None and setting.loss != "simpo":
                    reference = reference_logprobs(sft, pairs, batch_size=max(batch_size, 64), cache=cache)
                model = policy(sft) if policy is not None else fresh_copy(sft)
                try:
                    found = train_preference(
                        model, pairs, None if setting.loss == "simpo" else reference, loss=setting.loss, beta=setting.beta,
                        gamma=setting.gamma, lr=setting.lr, batch_size=batch_size, seed=seed, epochs=epochs,
                        steps=steps, progress=progress,
                    )  # fmt: skip
                except NotFinite as error:
                    row = Row(name, setting, seed, "failed", error=str(error))
                else:
                    on = {split: one.measure(model, sft, score, decoding) for split, one in sides.items()}
                    row = Row(name, setting, seed, "ok", on["validation"], on["test"], steps=found.steps, seconds=found.seconds)
                if run is not None:
                    run.log(**asdict(row))
            rows.append(row)
            task.advance(1, f"{name} {setting}: {row.test.get('reward', float('nan')):.3f}")
    return RobustnessMap(tuple(rows), {split: one.row() for split, one in sides.items()}, decoding, pairs.length_gap)


def fresh_copy(lm: HFBackend) -> HFBackend:
    """The same language model over weights of its own, all of which can be trained."""
    other = copy.copy(lm)
    other.model = copied(lm.model)
    other.model.requires_grad_(True)
    return other


@dataclass
class _Side:
    """Prompts, and how the SFT model answers them."""

    prompts: Sequence[Prompt]
    rewards: FloatArray
    answers: Sequence[Generation]
    chosen: FloatArray | None = None

    def measure(self, model: HFBackend, sft: HFBackend, score: Score, decoding: Decoding) -> dict[str, float]:
        found = measure(
            model, sft, self.prompts, score, decoding=decoding, sft_rewards=self.rewards, chosen_rewards=self.chosen
        )
        return found.row()

    def row(self) -> dict[str, float]:
        lengths = np.array([len(answer.tokens) for answer in self.answers], dtype=np.float64)
        n = len(self.rewards)
        low, middle, high = (float(q) for q in np.quantile(lengths, (0.25, 0.5, 0.75)))
        return {
            "reward": float(self.rewards.mean()),
            "reward_se": float(self.rewards.std(ddof=1) / n**0.5) if n > 1 else 0.0,
            "win_rate": 0.5, "kl": 0.0, "kl_per_token": 0.0, "kl_mc": 0.0,
            "length": float(lengths.mean()), "length_q25": low, "length_median": middle, "length_q75": high,
            "truncated": float(np.mean([answer.finish == "length" for answer in self.answers])),
        }  # fmt: skip


def _check(
    methods: Mapping[str, Grid],
    prompts: Sequence[Prompt],
    validation: Sequence[Prompt],
    chosen: Sequence[str] | None,
    seeds: Sequence[int],
) -> None:
    if not isinstance(methods, Mapping) or not methods or not all(isinstance(grid, Grid) for grid in methods.values()):
        raise InputError("methods", type(methods).__name__, "{name: Grid}, one at least")
    for name, grid in methods.items():
        if len(grid.settings) < 2:
            raise InputError("methods", f"{name} with one setting", "two settings at least: one has no spread")
    for argument, given in (("prompts", prompts), ("validation", validation)):
        if isinstance(given, str) or not len(given):
            raise InputError(argument, given, "prompts, one at least")
    common = {json.dumps(_plain(p)) for p in prompts} & {json.dumps(_plain(p)) for p in validation}
    if common:
        raise InputError("validation", f"{len(common)} prompts that are reported on too", "others: choosing on them would leak")
    if chosen is not None and len(chosen) != len(prompts):
        raise InputError("chosen", f"{len(chosen)} answers", f"{len(prompts)}, one for each prompt")
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise InputError("seeds", list(seeds), "one seed at least, each once")
    for seed in seeds:
        check_integer("seeds", seed, low=0)


def _given(lm: HFBackend, prompt: Prompt, text: str) -> Generation:
    """A given answer in the tokens of the model, with its end token."""
    eos = lm.tokenizer.eos_token_id
    tokens = (*completion_ids(lm, prompt, text), *([eos] if eos is not None else []))
    return Generation(text, len(tokens), "stop", tokens)


def _plain(prompt: Prompt) -> Any:
    if isinstance(prompt, str):
        return prompt
    return [dict(turn) if isinstance(turn, Mapping) else asdict(turn) for turn in prompt]


def _name(row: Row) -> tuple[str, Setting, int]:
    return row.method, row.setting, row.seed


def _row(found: Mapping[str, Any]) -> Row:
    return Row(**{**found, "setting": Setting(**found["setting"])})
