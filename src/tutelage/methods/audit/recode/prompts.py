"""Edited prompts, each with the solution, the tests and the name that go with it, and the gate: run the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.progress import QUIET, Progress
from tutelage.core.sandbox import Job, Limits, Sandbox
from tutelage.data.code_problems import CodeProblem, check_problems, with_indent_of_prompt, write_problems
from tutelage.threats.code.edit import CATEGORIES, Category, CodeEdit, Program
from tutelage.threats.code.transforms import code_edits, ready
from tutelage.threats.text.edit import Change

View = Literal["full", "partial"]


@dataclass(frozen=True)
class Perturbed:
    """An edited prompt. solution: the rest of the reference, which completes it. changed: whether the prompt or the name is
    another one than before; if not, refused says why. gate: how running the reference ended ("passed", "failed", …), "" if it
    was not run.
    """

    task_id: str
    transform: str
    category: Category
    seed: int
    prompt: str
    solution: str
    test: str
    entry_point: str
    changed: bool
    refused: str = ""
    edits: tuple[Change, ...] = ()
    gate: str = ""

    @property
    def problem(self) -> CodeProblem:
        """The edited prompt as a problem of its own."""
        return CodeProblem(
            f"{self.task_id}/{self.transform}/{self.seed}", self.prompt, self.solution, self.test, self.entry_point
        )

    @property
    def usable(self) -> bool:
        """Whether the gate let it pass, or had no reason to run it."""
        return self.gate in ("", "passed")


@dataclass(frozen=True)
class PerturbedSet:
    """Everything that was made of some problems. broken: problems whose own solution fails, with the reason: left out.

    not_run: transformations that could not be made here, with the reason. partial: task -> prompt with half of the solution.
    """

    problems: tuple[CodeProblem, ...]
    prompts: tuple[Perturbed, ...]
    partial: Mapping[str, str]
    not_run: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    def of(self, transform: str) -> list[Perturbed]:
        return [one for one in self.prompts if one.transform == transform]

    @property
    def transforms(self) -> list[str]:
        return list(dict.fromkeys(one.transform for one in self.prompts))

    @property
    def preserved(self) -> float:
        """Share of the edited prompts that pass with their reference solution; unchanged ones do."""
        if not self.prompts:
            raise InputError("prompts", "none", "at least one edited prompt")
        return sum(one.usable for one in self.prompts) / len(self.prompts)

    def rejected(self, transform: str) -> float:
        """Share of the changed prompts of a transformation that fail the gate."""
        changed = [one for one in self.of(transform) if one.changed]
        return sum(not one.usable for one in changed) / len(changed) if changed else 0.0

    def training_set(self) -> list[CodeProblem]:
        """The nominal problems, and every changed prompt that passed the gate: data to train on."""
        return [*self.problems, *(one.problem for one in self.prompts if one.changed and one.usable)]

    def write(self, path: Path | str) -> Path:
        """All changed prompts that passed the gate as JSON lines of HumanEval's form, with transformation, seed and edits."""
        kept = [one for one in self.prompts if one.changed and one.usable]
        more = [
            {
                "transform": o.transform,
                "category": o.category,
                "seed": o.seed,
                "original": o.task_id,
                "edits": [[c.start, c.end, c.text] for c in o.edits],
            }
            for o in kept
        ]
        return write_problems(path, [one.problem for one in kept], more)


def partial_prompt(problem: CodeProblem) -> str:
    """The prompt and the first floor(L/2) of the L lines of the solution."""
    lines = problem.canonical_solution.splitlines(keepends=True)
    while lines and not lines[-1].strip():
        lines.pop()
    return problem.prompt + "".join(lines[: len(lines) // 2])


def program_of(problem: CodeProblem, view: View) -> Program:
    """The problem as edits see it: split after the prompt, or in the middle of the solution."""
    split = len(problem.prompt if view == "full" else partial_prompt(problem))
    return Program(problem.program, split, problem.entry_point, problem.test, problem.task_id)


def perturb_code(problem: CodeProblem, transform: str | CodeEdit, seed: int = 0, **settings: object) -> Perturbed:
    """T_j(x; s): one problem under one transformation, by name or an edit of one's own. settings: those of `code_edits`.

    The same (problem, transformation, seed) gives the same bytes everywhere. Raises InputError, and MissingError where the
    transformation needs a model, a package or data that is not here.
    """
    check_problems([problem], "problem")
    if isinstance(transform, str):
        edits = code_edits(**settings)  # type: ignore[arg-type]
        if transform not in edits:
            raise InputError("transform", transform, f"one of {', '.join(edits)}")
        edit = edits[transform]
    else:
        edit = transform
    edit.check()
    problem = with_indent_of_prompt(problem)
    program = program_of(problem, "partial" if edit.partial else "full")
    done = edit(program, seed=seed)
    after = done.program
    changed = (after.prompt, after.entry_point) != (program.prompt, program.entry_point)
    if not changed:
        after = program
    refused = done.refused or ("" if changed else "the edit changes nothing before the split")
    return Perturbed(
        problem.task_id, edit.name, edit.category, seed, after.prompt, after.solution, after.test, after.entry_point, changed,
        refused, done.changes if changed else (),
    )  # fmt: skip


def perturb_all(
    problems: Iterable[CodeProblem],
    edits: Mapping[str, CodeEdit] | None = None,
    *,
    categories: Sequence[Category] = CATEGORIES,
    seeds: int = 5,
    gate: bool = True,
    box: Sandbox | None = None,
    workers: int = 2,
    limits: Limits | None = None,
    progress: Progress = QUIET,
) -> PerturbedSet:
    """Every problem under every transformation and seed; deterministic transformations have one seed.

    edits: by name (default: `code_edits()`); those that cannot be made here are listed and left out. gate: run each edited
    prompt with its solution in the sandbox, and mark what fails. Problems whose own solution fails its tests are refused and
    listed, gate or not. box: a sandbox of one's own; else one with `workers` and `limits`. Raises InputError.
    """
    found = [with_indent_of_prompt(one) for one in check_problems(list(problems))]
    check_integer("seeds", seeds)
    for category in categories:
        if category not in CATEGORIES:
            raise InputError("categories", category, f"some of {', '.join(CATEGORIES)}")
    able, not_run = ready(code_edits() if edits is None else edits)
    able = {name: edit for name, edit in able.items() if edit.category in categories}
    if box is None:
        with Sandbox(workers, limits) as own:
            return _perturbed(found, able, not_run, seeds, gate, own, progress)
    return _perturbed(found, able, not_run, seeds, gate, box, progress)


def _perturbed(
    problems: list[CodeProblem],
    edits: Mapping[str, CodeEdit],
    not_run: Mapping[str, str],
    seeds: int,
    gate: bool,
    box: Sandbox,
    progress: Progress,
) -> PerturbedSet:
    results = box.run_many([Job(one.program, one.checks) for one in problems])
    broken = {one.task_id: done.error or done.status for one, done in zip(problems, results, strict=True) if not done.passed}
    sound = [one for one in problems if one.task_id not in broken]
    made = [
        perturb_code(problem, edit, seed)
        for edit in edits.values()
        for problem in sound
        for seed in range(seeds if edit.random else 1)
    ]
    if gate:
        made = passed_gate(made, box, progress)
    partial = {one.task_id: partial_prompt(one) for one in sound}
    return PerturbedSet(tuple(sound), tuple(made), partial, not_run, broken)


def passed_gate(prompts: Sequence[Perturbed], box: Sandbox, progress: Progress = QUIET) -> list[Perturbed]:
    """The prompts with what running their reference came to; equal programs are run once, unchanged ones not at all."""
    jobs = list(dict.fromkeys((one.prompt + one.solution, one.problem.checks) for one in prompts if one.changed))
    found: dict[tuple[str, str], str] = {}
    with progress.task("reference solutions behind edited prompts", max(1, len(jobs))) as task:
        for at in range(0, len(jobs), 256):
            part = jobs[at : at + 256]
            done = box.run_many([Job(*one) for one in part])
            found |= {job: result.status for job, result in zip(part, done, strict=True)}
            task.advance(len(part), "")
    return [replace(one, gate=found[one.prompt + one.solution, one.problem.checks]) if one.changed else one for one in prompts]
