"""A pretrained model on a few problems: pass@1 as they are and after one edit of each category."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tutelage.claims.audit.recode.config import Config, edits_of, problems_of
from tutelage.claims.claim import Cell
from tutelage.core.sandbox import Limits
from tutelage.data.fetch import weights_folder
from tutelage.data.homes import HOMES
from tutelage.methods.audit.recode.completions import Decoding
from tutelage.methods.audit.recode.evaluation import evaluate_code_robustness
from tutelage.models.language.causal import HFCausalLM
from tutelage.models.language.protocol import LanguageModel
from tutelage.models.language.tiny import TinyGPT

ONE_EACH = ("ButterFingers", "FuncRenameCamelCase", "VarRenamerNaive", "tab_indent")
STOP = ("\ndef ", "\nclass ", "\nprint(", "\nif __name__", "\n```")


def pretrained_cell(cell: Cell) -> dict[str, float]:
    """Greedy completions of one problem: solved or not, full and half prompt, as they are and edited, in per cent."""
    config: Config = cell.config
    if cell.unit >= config.model_problems:
        return {"has_this_unit": 0.0}
    lm = load(config.model)
    every = problems_of(config)
    problem = every[cell.unit * (len(every) // config.model_problems)]  # spread over the set
    edits = {name: edit for name, edit in edits_of(config)[0].items() if name in ONE_EACH}
    report = evaluate_code_robustness(
        lm, [problem], edits=edits, seeds=1, decoding=Decoding(max_tokens=config.model_tokens, stop=STOP), workers=1,
        limits=Limits(wall_s=30.0),
    )  # fmt: skip
    full, partial = 100 * report.nominal[1], 100 * report.nominal_partial[1]
    found = {"pass": full, "pass_partial": partial, "has_this_unit": 1.0}
    for name in edits:
        category = edits[name].category
        left = 100 * report.get(name).robust
        found[f"robust_{category}"] = left
        found[f"drop_{category}"] = (full if category in ("docstring", "function") else partial) - left
    found["drop"] = sum(found[f"drop_{edit.category}"] for edit in edits.values()) / len(edits)
    return found


@cache
def load(name: str) -> LanguageModel:
    """Weights by their name of `data get`, a folder or a hub name; "tiny": random weights, for the smoke scale."""
    if name == "tiny":
        alphabet = "".join(map(chr, range(32, 127))) + "\n\t"
        return TinyGPT.new(alphabet, layers=1, width=8, heads=2, context=2048)
    return HFCausalLM.load(weights_folder(name) if name in HOMES else Path(name) if Path(name).is_dir() else name, batch_size=8)
