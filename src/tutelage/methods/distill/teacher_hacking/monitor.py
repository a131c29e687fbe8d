"""The monitor: proxy and golden distance on frozen answers, epoch by epoch, and what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.files import write_json
from tutelage.core.rng import numpy_generator
from tutelage.core.stats import Interval, bootstrap
from tutelage.core.stats.resampling import BOOTSTRAP_MIN_UNITS
from tutelage.methods.distill.teacher_hacking.powerlaw import PowerLaw, fit_power_law
from tutelage.models.language.next_token import Padded, Trimmed, common_vocabulary, next_token_model
from tutelage.teaching.language.divergences import token_divergences
from tutelage.teaching.language.on_policy import CACHE_BYTES, PART, KeptLaw, freeze_answers, mean_divergence, numbers_of

Verdict = Literal["hacking", "none", "undecided"]
Array = npt.NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class HackingReport:
    """What was seen. Distances are in nats: `proxy` and `golden` a token, `..._sum` a whole answer.

    epochs: of the measurements; 0 is before distillation. train: the mean training loss of the epoch (nan at 0).
    golden: None without an oracle. teacher_gap: D(oracle, teacher), nats a token.
    verdict: (6); "undecided" where the golden distance rose by less than can be told. Without an oracle it is by the power law:
        "hacking" is then only a suspicion, "none" only says that the line still holds.
    first_epoch: the first that shows it, since_epoch the earlier one it is compared with. excess: golden distance at the end
        minus its minimum, with its interval over the answers. stop_at: the epoch to stop at. advice: what to do, in sentences.
    """

    epochs: tuple[int, ...]
    train: tuple[float, ...]
    proxy: tuple[float, ...]
    proxy_sum: tuple[float, ...]
    golden: tuple[float, ...] | None
    golden_sum: tuple[float, ...] | None
    teacher_gap: float | None
    verdict: Verdict
    first_epoch: int | None
    since_epoch: int | None
    excess: float | None
    excess_interval: tuple[float, float] | None
    powerlaw: PowerLaw
    stop_at: int | None
    advice: tuple[str, ...]
    answers: int
    source: str = ""

    def save(self, path: Path | str) -> None:
        """All of it, as JSON."""
        found = asdict(self)
        found["train"] = [value if value == value else None for value in self.train]
        write_json(Path(path), found)

    @classmethod
    def load(cls, path: Path | str) -> HackingReport:
        """Read what `save` wrote. Raises InputError."""
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8"))
            state["train"] = [float("nan") if value is None else value for value in state["train"]]
            law = state.pop("powerlaw")
            law["window"] = tuple(law["window"]) if law["window"] else None
            settled: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in state.items()}
            return cls(powerlaw=PowerLaw(**law), **settled)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("path", str(path), f"a file that HackingReport.save wrote ({error})") from error


class HackingMonitor:
    """Measures a student against its teacher and, where there is one, an oracle.

    teacher, oracle: as `distill` takes them; the oracle may be an exact law (`NGramTable`), or a second, better model.
    val_prompts: prompts that are not trained on, ids, a list for each; 20 at least. max_new: most tokens of an answer.
    every: epochs between two measurements; the first and the last epoch are measured as well, and 1, 2, 3, 4, 6, 8, 12, …
        below `every`, so that the start of the curve is seen. smallest_rise: a rise of the golden distance below this share of
        it is called none. trim: see `distill`. cache: a folder for the frozen answers.
    One answer of the teacher, and one of the oracle, to each prompt is drawn here and kept. Raises InputError.
    """

    def __init__(
        self,
        teacher: Any,
        oracle: Any = None,
        *,
        val_prompts: Sequence[Sequence[int]],
        every: int = 1,
        max_new: int = 64,
        smallest_rise: float = 0.01,
        trim: bool = False,
        seed: int = 0,
        cache: Path | str | None = None,
        part: int = PART,
        keep_bytes: int = CACHE_BYTES,
    ) -> None:
        check_integer("every", every)
        check_integer("max_new", max_new)
        check_number("smallest_rise", smallest_rise, "a share >= 0", low=0.0)
        if len(val_prompts) < BOOTSTRAP_MIN_UNITS or not all(len(prompt) for prompt in val_prompts):
            got = f"{len(val_prompts)} of them" if all(len(prompt) for prompt in val_prompts) else "an empty one"
            raise InputError("val_prompts", got, f"{BOOTSTRAP_MIN_UNITS} prompts at least, one token at least in each")
        self.every, self.smallest_rise, self.part, self.seed = every, smallest_rise, part, seed
        models = {"teacher": next_token_model(teacher, "teacher")}
        if oracle is not None:
            models["oracle"] = next_token_model(oracle, "oracle")
        self.size = min(int(model.size) for model in models.values())
        models = common_vocabulary(models, trim=trim)
        self.prompts = Padded.left(val_prompts)
        folder = Path(cache) if cache is not None else None
        self.laws: dict[str, KeptLaw] = {}
        for name, model in models.items():
            file = folder / f"frozen-{name}.safetensors" if folder is not None else None
            answers = freeze_answers(model, self.prompts, max_new, seed=seed, name=f"frozen {name}", part=part, file=file)
            self.laws[name] = KeptLaw(model, self.prompts, answers, limit=keep_bytes, part=part)
        self.epochs: list[int] = []
        self.train: list[float] = []
        self.seen: dict[str, list[tuple[Array, Array]]] = {name: [] for name in models}  # (mean, sum) of each answer
        self.gap = self._distance("oracle", models["teacher"])[0] if oracle is not None else None

    def due(self, epoch: int, last: int) -> bool:
        """Whether this epoch is measured."""
        power = epoch & (epoch - 1) == 0 or (epoch % 3 == 0 and (epoch // 3) & (epoch // 3 - 1) == 0)
        return epoch % self.every == 0 or epoch == last or (epoch < self.every and power)

    def measure(self, student: Any, epoch: int, *, train: float = float("nan")) -> dict[str, float]:
        """Add a point to the curves: {"proxy": …} and, with an oracle, {"golden": …}, nats a token."""
        student = next_token_model(student, "student")
        if student.size != self.size:
            raise InputError("student", f"{student.size} ids for the monitor's {self.size}", "one vocabulary (or trim_to)")
        found = {}
        for name, key in (("teacher", "proxy"), ("oracle", "golden")):
            if name in self.laws:
                mean, total = self._distance(name, student)
                self.seen[name].append((mean, total))
                found[key] = float(mean.mean())
        self.epochs.append(epoch)
        self.train.append(train)
        return found

    def trim_to(self, size: int) -> None:
        """Measure over the first `size` ids only; InputError if a frozen text holds another one."""
        for law in self.laws.values():
            if max(law.prompts.highest(), law.answers.highest()) >= size:
                raise InputError("trim", "a frozen answer with an id that the student has not", f"ids below {size}")
            law.model = Trimmed(law.model, size)
            law.kept = None if law.kept is None else law.kept[..., :size].log_softmax(2)
        self.size = size

    def _distance(self, reference: str, model: Any) -> tuple[Array, Array]:
        """(5) for each frozen answer of the reference: a token, and in all."""
        law, means, totals = self.laws[reference], [], []
        for rows in numbers_of(len(law.answers), self.part):
            answers = law.answers[rows]
            log_q: Tensor = model.log_probs(law.prompts[rows], answers)
            each = token_divergences(law.at(rows).to(log_q.device), log_q, kind="forward")
            mean = mean_divergence(each, answers.mask).double().cpu()
            means.append(mean)
            totals.append(mean * answers.mask.sum(1).cpu())
        return torch.cat(means).numpy(), torch.cat(totals).numpy()

    # --------------------------------------------------------------------------------------------------- what it says

    def report(self, *, source: str = "") -> HackingReport:
        """What the curves so far say. Raises InputError before the second measurement."""
        if len(self.epochs) < 2:
            raise InputError("monitor", f"{len(self.epochs)} measurements", "two at least: pass it to `distill`")
        proxy = [float(mean.mean()) for mean, _ in self.seen["teacher"]]
        golden = [float(mean.mean()) for mean, _ in self.seen["oracle"]] if "oracle" in self.seen else None
        started = [i for i, epoch in enumerate(self.epochs) if epoch > 0]
        law = fit_power_law([self.epochs[i] for i in started], [proxy[i] for i in started])
        first = since = stop = None
        excess, interval = None, None
        if golden is not None:
            verdict, since, first = self._judged(proxy)
            best = int(np.argmin(golden))
            stop = self.epochs[best]
            paired = self.seen["oracle"][-1][0] - self.seen["oracle"][best][0]
            excess = float(paired.mean())
            found = self._interval(paired)
            interval = (found.lo, found.hi)
        elif law.window is None:
            verdict = "undecided"
        else:
            verdict, first = ("none" if law.flagged is None else "hacking"), law.flagged
            if first is not None:
                since = stop = max(epoch for epoch in self.epochs if epoch < first)
        return HackingReport(
            tuple(self.epochs),
            tuple(self.train),
            tuple(proxy),
            tuple(float(total.mean()) for _, total in self.seen["teacher"]),
            None if golden is None else tuple(golden),
            None if golden is None else tuple(float(total.mean()) for _, total in self.seen["oracle"]),
            None if self.gap is None else float(self.gap.mean()),
            verdict,
            first,
            since,
            excess,
            interval,
            law,
            stop,
            tuple(_advice(verdict, source, stop, golden is not None, law, self.epochs[-1])),
            len(self.prompts),
            source,
        )

    def _judged(self, proxy: Sequence[float]) -> tuple[Verdict, int | None, int | None]:
        """(6). For an epoch e1, e0 is the earlier one of least golden distance among those no nearer to the teacher."""
        values = [mean for mean, _ in self.seen["oracle"]]
        golden = [float(value.mean()) for value in values]
        open_question = False
        for later in range(1, len(values)):
            before = [i for i in range(later) if proxy[later] <= proxy[i]]
            if not before:
                continue
            earlier = min(before, key=lambda i: golden[i])
            paired = values[later] - values[earlier]
            rise, error = float(paired.mean()), _standard_error(paired)
            if rise > 2 * error and rise > 0:
                return "hacking", self.epochs[earlier], self.epochs[later]
            open_question = open_question or (rise + 2 * error > self.smallest_rise * golden[earlier] and rise > 0)
        return ("undecided" if open_question else "none"), None, None

    def _interval(self, paired: Array) -> Interval:
        if not np.ptp(paired):
            return Interval(float(paired[0]), float(paired[0]))
        return bootstrap(paired, rng=numpy_generator(self.seed, "excess"), n_resamples=RESAMPLES)

    # ------------------------------------------------------------------------------------------------------- resuming

    def state_dict(self) -> dict[str, Any]:
        return {
            "epochs": list(self.epochs),
            "train": list(self.train),
            "seen": {
                name: [[torch.from_numpy(mean), torch.from_numpy(total)] for mean, total in rows]
                for name, rows in self.seen.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epochs, self.train = list(state["epochs"]), list(state["train"])
        self.seen = {name: [(mean.numpy(), total.numpy()) for mean, total in rows] for name, rows in state["seen"].items()}


def _standard_error(paired: Array) -> float:
    """Of the mean of n paired differences, by the bootstrap's plug-in form: their standard deviation (n in it) over sqrt(n)."""
    return float(paired.std() / np.sqrt(len(paired)))


def _advice(verdict: Verdict, source: str, stop: int | None, oracle: bool, law: PowerLaw, last: int) -> list[str]:
    found = []
    if verdict == "hacking" and oracle:
        found.append(f"Stop at epoch {stop}: from there the student comes nearer to its teacher, and not to the truth.")
    elif verdict == "hacking":
        found.append(
            f"From epoch {law.flagged} the distance to the teacher has left its power law: stop at epoch {stop}, or measure "
            "against a better model."
        )
    if verdict == "hacking" and source.startswith("offline"):
        found.append(
            "Use more varied data: fresh answers (online_student, online_teacher or mix), more answers to each prompt "
            "(generations), or more prompts rather than more answers at the same size."
        )
    elif verdict == "hacking" and source:
        found.append(
            "The answers are fresh already: look whether the teacher is better than the student's start, and at the rate."
        )
    if verdict == "undecided" and oracle:
        found.append("The golden distance rose by less than can be told from so few answers: give more val_prompts.")
    elif verdict == "undecided":
        found.append("No part of the curve is a straight line in log-log: measure more epochs (every=1), or give an oracle.")
    if verdict == "none" and oracle and stop == last:
        found.append("The golden distance was still falling at the end.")
    return found
