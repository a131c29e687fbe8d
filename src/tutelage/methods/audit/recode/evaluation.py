"""The audit of a code model: nominal and edited prompts completed, cut, run, scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.files import write_json
from tutelage.core.progress import QUIET, Progress
from tutelage.core.sandbox import ExecResult, Limits, Sandbox
from tutelage.data.code_problems import CodeProblem
from tutelage.methods.audit.recode.completions import Decoding, complete, run_programs, truncate
from tutelage.methods.audit.recode.prompts import Perturbed, PerturbedSet, perturb_all
from tutelage.methods.audit.recode.scoring import RobustScore, Table, score
from tutelage.models.language.protocol import LanguageModel, require
from tutelage.threats.code.edit import CATEGORIES, Category, CodeEdit

Items = Literal["all", "changed"]
Key = tuple[str, int]  # transformation, seed


@dataclass(frozen=True)
class Failure:
    """A prompt whose edit breaks a right completion: both prompts, both completions, both ends of the tests."""

    task_id: str
    transform: str
    seed: int
    nominal_prompt: str
    prompt: str
    nominal_completion: str
    completion: str
    nominal_status: str
    status: str
    error: str


@dataclass(frozen=True)
class ScoreRow:
    """Scores (slot pairing) of a transformation or a category. items: all problems, or only those whose prompt changed."""

    name: str
    category: str
    items: Items
    score: RobustScore
    any_pairing: RobustScore


@dataclass
class CodeRobustnessReport:
    """What was found. rows: per transformation, per category and overall, for each k, over all problems and changed ones.

    nominal, nominal_partial: pass@k of the prompts and of the prompts with half of a solution, k -> share. changed, rejected:
    share of prompts a transformation changed, and of changed prompts that the gate refused. skipped: transformation -> why it
    left problems alone, with counts. not_run, broken: see `PerturbedSet`.
    """

    model: str
    fingerprint: str
    problems: int
    seeds: int
    decoding: Decoding
    nominal: dict[int, float]
    nominal_partial: dict[int, float]
    rows: list[ScoreRow]
    failures: list[Failure]
    changed: dict[str, float]
    rejected: dict[str, float]
    skipped: dict[str, dict[str, int]]
    not_run: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    isolation: str = ""
    tables: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def get(self, name: str, *, k: int = 1, items: Items = "all") -> RobustScore:
        """The scores (slot pairing) of a transformation, of a category, or "overall". Raises InputError."""
        for row in self.rows:
            if (row.name, row.score.k, row.items) == (name, k, items):
                return row.score
        raise InputError("name", f"{name}, k={k}, {items}", f"one of {', '.join(dict.fromkeys(row.name for row in self.rows))}")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: everything but the tables."""
        found = {name: value for name, value in vars(self).items() if name not in ("rows", "failures", "decoding", "tables")}
        rows = [
            {"name": r.name, "category": r.category, "items": r.items, **asdict(r.score), "any": asdict(r.any_pairing)}
            for r in self.rows
        ]
        return {**found, "decoding": asdict(self.decoding), "rows": rows, "failures": [asdict(one) for one in self.failures]}

    def save(self, path: Path | str) -> Path:
        """Write it as JSON."""
        path = Path(path)
        write_json(path, self.as_dict())
        return path

    def to_html(self, path: Path | str) -> Path:
        """Write it as one page: scores, a picture, prompts that broke an answer."""
        from tutelage.methods.audit.recode.report import write_report

        return write_report(Path(path), self)


def evaluate_code_robustness(
    lm: LanguageModel,
    problems: Iterable[CodeProblem] | PerturbedSet,
    *,
    edits: Mapping[str, CodeEdit] | None = None,
    categories: Sequence[Category] = CATEGORIES,
    seeds: int = 5,
    k: Sequence[int] = (1,),
    decoding: Decoding | None = None,
    gate: bool = True,
    workers: int = 2,
    limits: Limits | None = None,
    progress: Progress = QUIET,
) -> CodeRobustnessReport:
    """pass@k, RP, RD, RR of `lm` on `problems` under harmless edits of their prompts.

    lm: any LanguageModel that generates; wrap it in `Recorded` to keep what it answers. problems: CodeProblem each, or a
        PerturbedSet made before. edits: default all of ReCode's that can be made here. seeds: of random transformations.
    k: of pass@k, each at most decoding.n. gate: only edited prompts whose reference passes are asked. limits: of one program.
    Raises InputError before anything is asked or run.
    """
    require(lm, "generate", by="ReCode")
    settings = decoding or Decoding()
    if not k:
        raise InputError("k", "none", f"numbers from 1 to n = {settings.n}")
    for one in k:
        check_integer("k", one, high=settings.n)
    with Sandbox(workers, limits) as box:
        if isinstance(problems, PerturbedSet):
            made = problems
        else:
            made = perturb_all(problems, edits, categories=categories, seeds=seeds, gate=gate, box=box, progress=progress)
        if not made.problems:
            raise InputError("problems", "none whose own solution passes its tests", "at least one")
        return _audited(lm, made, tuple(k), settings, seeds, box)


def _audited(
    lm: LanguageModel, made: PerturbedSet, k: tuple[int, ...], decoding: Decoding, seeds: int, box: Sandbox
) -> CodeRobustnessReport:
    asked = [one for one in made.prompts if one.changed and one.usable]
    partial_used = any(one.category in ("syntax", "format") for one in made.prompts)
    full_used = any(one.category in ("docstring", "function") for one in made.prompts) or not partial_used
    prompts = [one.prompt for one in made.problems] if full_used else []
    prompts += list(made.partial.values()) if partial_used else []
    answers = complete(lm, [*prompts, *(one.prompt for one in asked)], decoding)

    def programs(prompt: str, checks: str, entry_point: str) -> list[tuple[str, str]]:
        return [(truncate(prompt, one, entry_point), checks) for one in answers[prompt]]

    nominal = {one.task_id: programs(one.prompt, one.checks, one.entry_point) for one in made.problems} if full_used else {}
    half = (
        {o.task_id: programs(made.partial[o.task_id], o.checks, o.entry_point) for o in made.problems} if partial_used else {}
    )
    edited = {
        (one.task_id, one.transform, one.seed): programs(one.prompt, one.problem.checks, one.entry_point) for one in asked
    }
    every = [job for group in (nominal, half, edited) for jobs in group.values() for job in jobs]
    ended = run_programs(every, box)
    tables = _tables(made, nominal, half, edited, ended, decoding.n)
    names: dict[str, tuple[str, list[Key]]] = {name: (_category(made, name), _keys(made, [name])) for name in made.transforms}
    for category in dict.fromkeys(category for category, _ in names.values()):
        keys = _keys(made, [name for name, (own, _) in names.items() if own == category])
        names[category] = (category, keys)
    rows = [row for name, (category, keys) in names.items() for row in _rows(name, category, keys, tables, k)]
    rows += _overall(names, tables, k)
    failures = [
        _failure(one, made, answers, nominal, half, edited, ended)
        for one in asked
        if _breaks(one, nominal, half, edited, ended)
    ]
    return CodeRobustnessReport(
        model=lm.name,
        fingerprint=lm.fingerprint,
        problems=len(made.problems),
        seeds=seeds,
        decoding=decoding,
        nominal=_passes(tables["full"], k) if full_used else {},
        nominal_partial=_passes(tables["partial"], k) if partial_used else {},
        rows=rows,
        failures=failures,
        changed={name: _mean([one.changed for one in made.of(name)]) for name in made.transforms},
        rejected={name: made.rejected(name) for name in made.transforms},
        skipped={name: _reasons(made.of(name)) for name in made.transforms},
        not_run=dict(made.not_run),
        broken=dict(made.broken),
        isolation=str(box.isolation),
        tables=tables,
    )


def _tables(
    made: PerturbedSet, nominal: Any, half: Any, edited: Any, ended: Mapping[Any, ExecResult], n: int
) -> dict[str, Any]:
    """full, partial: (X, n) booleans; edited: (transformation, seed) -> (passed (X, n), usable (X,), changed (X,))."""

    def passed(jobs: list[tuple[str, str]]) -> list[bool]:
        return [ended[job].passed for job in jobs]

    order = {one.task_id: i for i, one in enumerate(made.problems)}
    full = np.array([passed(nominal[task]) for task in order]) if nominal else np.zeros((len(order), n), dtype=bool)
    partial = np.array([passed(half[task]) for task in order]) if half else np.zeros((len(order), n), dtype=bool)
    found: dict[Key, tuple[Table, Table, Table]] = {}
    for one in made.prompts:
        base = full if one.category in ("docstring", "function") else partial
        key, i = (one.transform, one.seed), order[one.task_id]
        if key not in found:
            found[key] = base.copy(), np.zeros(len(order), dtype=bool), np.zeros(len(order), dtype=bool)
        ok, usable, changed = found[key]
        usable[i], changed[i] = one.usable, one.changed
        jobs = edited.get((one.task_id, one.transform, one.seed))
        if jobs is not None:  # an unchanged prompt has the nominal answer
            ok[i] = passed(jobs)
    return {"full": full, "partial": partial, "edited": found}


def _rows(name: str, category: str, keys: list[Key], tables: Mapping[str, Any], k: Sequence[int]) -> list[ScoreRow]:
    base = tables["full" if category in ("docstring", "function") else "partial"]
    edited = np.stack([tables["edited"][key][0] for key in keys], 1)
    usable = np.stack([tables["edited"][key][1] for key in keys], 1)
    changed = np.stack([tables["edited"][key][2] for key in keys], 1)
    views: list[tuple[Items, Any]] = [("all", usable), ("changed", usable & changed)]
    rows = []
    for items, valid in views:
        for one in k:
            slot, other = (score(base, edited, k=one, valid=valid, pairing=pairing) for pairing in ("slot", "any"))
            if slot is not None and other is not None:
                rows.append(ScoreRow(name, category, items, slot, other))
    return rows


def _overall(names: Mapping[str, tuple[str, list[Key]]], tables: Mapping[str, Any], k: Sequence[int]) -> list[ScoreRow]:
    """The worst over everything, of full prompts only or of partial ones only: their nominal numbers are not the same."""
    rows = []
    for title, group in (("overall", ("docstring", "function")), ("overall, partial", ("syntax", "format"))):
        keys = [key for name, (category, own) in names.items() if name == category and category in group for key in own]
        if keys:
            rows += _rows(title, group[0], keys, tables, k)
    return rows


def _category(made: PerturbedSet, name: str) -> str:
    return next(one.category for one in made.prompts if one.transform == name)


def _keys(made: PerturbedSet, names: Sequence[str]) -> list[Key]:
    return list(dict.fromkeys((one.transform, one.seed) for one in made.prompts if one.transform in names))


def _passes(table: Table, k: Sequence[int]) -> dict[int, float]:
    found = {}
    for one in k:
        scored = score(table, table[:, None], k=one)
        assert scored is not None
        found[one] = scored.nominal
    return found


def _reasons(prompts: Sequence[Perturbed]) -> dict[str, int]:
    """Why problems were left alone -> how many prompts."""
    reasons = [one.refused for one in prompts if one.refused]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def _breaks(one: Perturbed, nominal: Any, half: Any, edited: Any, ended: Mapping[Any, ExecResult]) -> bool:
    base = (nominal if one.category in ("docstring", "function") else half)[one.task_id]
    own = edited[one.task_id, one.transform, one.seed]
    return any(ended[a].passed and not ended[b].passed for a, b in zip(base, own, strict=True))


def _failure(
    one: Perturbed, made: PerturbedSet, answers: Any, nominal: Any, half: Any, edited: Any, ended: Mapping[Any, ExecResult]
) -> Failure:
    full = one.category in ("docstring", "function")
    problem = next(p for p in made.problems if p.task_id == one.task_id)
    prompt = problem.prompt if full else made.partial[one.task_id]
    base, own = (nominal if full else half)[one.task_id], edited[one.task_id, one.transform, one.seed]
    slot = next(i for i, (a, b) in enumerate(zip(base, own, strict=True)) if ended[a].passed and not ended[b].passed)
    after = ended[own[slot]]
    return Failure(
        one.task_id, one.transform, one.seed, prompt, one.prompt, answers[prompt][slot], answers[one.prompt][slot],
        ended[base[slot]].status, after.status, after.error,
    )  # fmt: skip


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
