"""The claim of ReCode: are our edits harmless, before any gate, and more so than ReCode's edits of strings?

A unit is a HumanEval problem. ast-operators and string-operators edit it with every transformation that can be made here and
5 seeds, and run what comes out with the canonical solution and the problem's own tests. A prompt that an edit leaves as it is
passes; the rate among changed prompts is reported beside. Of the 28 transformations two take a model: VarRenamerCB and
BackTranslation run where `masked_lm` and `there`, `back` are given, else the number of transformations says so.

Beside it, models. small-plain and small-augmented are trained here on generated one-function problems, with and without
edited prompts, and audited on combinations that neither has seen: there a unit is a held-out combination, means over three
trainings. pretrained is SmolLM2-135M on a few HumanEval problems. Units beyond their numbers have no metrics in these arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tutelage.claims.audit.recode.config import Config, edits_of, problems_of
from tutelage.claims.audit.recode.pretrained import pretrained_cell
from tutelage.claims.audit.recode.small import small_cell
from tutelage.claims.claim import Cell, Claim, Sentence
from tutelage.core.sandbox import Limits, Sandbox
from tutelage.data.code_problems import sha256_of
from tutelage.data.fetch import weights_folder
from tutelage.data.homes import HOMES
from tutelage.methods.audit.recode.prompts import Perturbed, passed_gate, perturb_code
from tutelage.threats.text.lexicon import wordnet

# one second more or less of a busy machine must not decide; an endless loop ends by its processor time
LIMITS = Limits(cpu_s=5.0, wall_s=60.0)


def cell(cell: Cell) -> Mapping[str, float]:
    """One arm on one problem."""
    if cell.arm.startswith("small-"):
        return small_cell(cell)
    return pretrained_cell(cell) if cell.arm == "pretrained" else preserved(cell)


def preserved(cell: Cell) -> dict[str, float]:
    """Share, in per cent, of the edited prompts that pass with the canonical solution: mean over transformations and seeds."""
    config: Config = cell.config
    problem = problems_of(config)[cell.unit]
    edits, _ = edits_of(config, released=cell.arm == "string-operators")
    made = [perturb_code(problem, edit, seed) for edit in edits.values() for seed in range(config.seeds if edit.random else 1)]
    with Sandbox(1, LIMITS) as box:
        reference = box.run_tests(problem.program, problem.checks)
        if not reference.passed:
            raise RuntimeError(f"the canonical solution of {problem.task_id} fails: {reference.error}")
        made = passed_gate(made, box)
    changed = [one for one in made if one.changed]
    found = {
        "semantic_preservation_rate": _rate(made),
        "changed": 100 * float(np.mean([one.changed for one in made])),
        "transformations": float(len(edits)),
    }
    if changed:
        found["preserved_of_changed"] = 100 * float(np.mean([one.usable for one in changed]))
    for category in ("docstring", "function", "syntax", "format"):
        found[f"preserved_{category}"] = _rate([one for one in made if one.category == category])
    return found


def _rate(made: list[Perturbed]) -> float:
    """Each transformation counts the same, however many seeds it has."""
    names = dict.fromkeys(one.transform for one in made)
    return 100 * float(np.mean([np.mean([one.usable for one in made if one.transform == name]) for name in names]))


def data(config: Config) -> list[dict[str, Any]]:
    """HumanEval (or the generated problems), the world of the small models, and the weights."""
    made = {"kind": "generated", "generator": "tutelage.data.worlds.functions.FunctionWorld", "version": 1}
    n = len(problems_of(config))  # what is missing is told before anything runs
    sets: list[dict[str, Any]] = [{"name": "functions", "split": "held-out combinations", "n": config.small_tasks, **made}]
    if config.problems == "humaneval":
        sets.insert(0, {"name": "HumanEval", "kind": "file", "split": "test", "n": n, "sha256": sha256_of("humaneval")})
    if config.synonyms == "wordnet":
        wordnet()
        sets.append({"name": "WordNet 3.0", "kind": "file", "split": "all", "n": len(HOMES["wordnet"].files)})
    if config.model_problems and config.model in HOMES:
        weights_folder(config.model)
        sets.append(
            {"name": config.model, "kind": "file", "split": "weights", "n": 1, "sha256": HOMES[config.model].files[0].sha256}
        )
    return sets


CLAIM = Claim(
    slug="recode",
    arms=("ast-operators", "string-operators", "small-plain", "small-augmented", "pretrained"),
    controls=("string-operators",),
    scales={
        "smoke": Config(
            problems="generated", seeds=1, synonyms="table", small_tasks=2, small_models=1, small_steps=2, small_batch=2,
            small_width=8, small_layers=1, small_tokens=4, small_edit_seeds=1, model="tiny", model_problems=2, model_tokens=2,
        ),
        "claim": Config(),
        "paper": Config(
            seeds=5, masked_lm="microsoft/codebert-base-mlm", there="Helsinki-NLP/opus-mt-en-de",
            back="Helsinki-NLP/opus-mt-de-en",
            small_steps=4000, small_width=256, small_layers=4, small_lr=0.001, small_edit_seeds=5,
            model="Salesforce/codegen-350M-mono", model_problems=164, model_tokens=256,
        ),
    },
    units={"smoke": 2, "claim": 164, "paper": 164},
    cell=cell,
    data=data,
    secondary=(
        Sentence(
            "Of the prompts that the syntax-tree-aware operators do change, more than 99 % still pass.",
            "preserved_of_changed", "ast-operators", kind="threshold", margin=99.0,
        ),
        Sentence(
            "Operators on the syntax tree preserve more prompts than ReCode's operators on strings.",
            "semantic_preservation_rate", "ast-operators", "string-operators",
        ),
        Sentence(
            "A small code model trained here solves more than 60 % of the held-out combinations.",
            "pass", "small-plain", kind="threshold", margin=60.0,
        ),
        Sentence(
            "Under a random edit, the worst of three seeds is more than 5 points below the mean over them.",
            "seed_gap", "small-plain", kind="threshold", margin=5.0,
        ),
        Sentence(
            "Edits of syntax cost the small model a larger share of its answers than edits of format.",
            "syntax_minus_format_rd", "small-plain", kind="threshold", margin=0.0,
        ),
        Sentence(
            "Edits of the docstring's characters cost the small model a larger share of its answers than edits of format.",
            "characters_minus_format_rd", "small-plain", kind="threshold", margin=0.0,
        ),
        Sentence(
            "Training with the same operators takes more than 30 % off what edits cost.",
            "drop_beyond_70_percent_of_plain", "small-augmented", kind="threshold", better="lower", margin=0.0,
        ),
        Sentence(
            "Training with the same operators costs less than 2 points of nominal pass@1.",
            "pass", "small-augmented", "small-plain", kind="noninferiority", margin=-2.0,
        ),
    ),
    axes=("pass", "drop"),
    metric_labels={
        "semantic_preservation_rate": "edited prompts that pass with the canonical solution, %",
        "preserved_of_changed": "changed prompts that pass, %",
        "changed": "prompts that an edit changes, %",
        "transformations": "transformations run",
        "pass": "pass@1, %",
        "pass_partial": "pass@1 with half of a solution, %",
        "drop": "pass@1 lost in the worst case, points, mean over categories",
        "seed_gap": "mean minus worst seed, points",
        "drop_syntax": "lost to syntax edits, points",
        "drop_format": "lost to format edits, points",
        "drop_docstring": "lost to docstring edits, points",
        "drop_function": "lost to function names, points",
        "rd_characters": "RD of the docstring's characters, %",
        "rd_syntax": "RD of syntax edits, %",
        "rd_format": "RD of format edits, %",
        "drop_beyond_70_percent_of_plain": "drop minus 70 % of the plain model's, points",
        "has_this_unit": "whether the arm has this unit",
    },
)  # fmt: skip
