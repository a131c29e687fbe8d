"""A small code model, trained here on the world of functions, with and without edited prompts, and its audit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from tutelage.claims.audit.recode.config import Config, edits_of
from tutelage.claims.claim import Cell
from tutelage.claims.codehash import code_sha256
from tutelage.core.files import write_json
from tutelage.core.rng import derive, seeded
from tutelage.data.code_problems import CodeProblem
from tutelage.data.worlds.functions import FunctionWorld
from tutelage.methods.audit.recode.completions import Decoding
from tutelage.methods.audit.recode.evaluation import evaluate_code_robustness
from tutelage.methods.audit.recode.prompts import partial_prompt, perturb_code
from tutelage.models.language.causal import HFCausalLM
from tutelage.models.language.extras import extra
from tutelage.teaching.fit import fit
from tutelage.teaching.language.sequences import SFT, completion_batch
from tutelage.teaching.schedules import warmup_cosine
from tutelage.threats.code.transforms import category_of

TRAINING_SEEDS = 1000  # edits of training prompts take seeds from here on: none that the audit takes
CATEGORIES = ("docstring", "function", "syntax", "format")
CHARACTERS = ("ButterFingers", "ChangeCharCase", "SwapCharacters", "Whitespace")


def small_cell(cell: Cell) -> dict[str, float]:
    """What the arm's models, one a training seed, do on the combination of this unit: means over the models, in per cent."""
    config: Config = cell.config
    if cell.unit >= config.small_tasks:
        return {"has_this_unit": 0.0}
    models = range(config.small_models)
    # workers that are on neighbouring units begin with different models and do not wait for each other
    order = [models[(i + cell.unit) % len(models)] for i in models]
    audits: dict[str, list[dict[str, float]]] = {"small-plain": [], "small-augmented": []}
    for model in order:
        for arm in audits if cell.arm == "small-augmented" else ("small-plain",):
            audits[arm].append(audit_of(arm, model, cell)[cell.unit])
    own = audits[cell.arm]
    found = {name: float(np.mean([one[name] for one in own])) for name in own[0]}
    if cell.arm == "small-augmented":
        plain = float(np.mean([one["drop"] for one in audits["small-plain"]]))
        found["drop_beyond_70_percent_of_plain"] = found["drop"] - 0.7 * plain
    return {**found, **relative(found), "has_this_unit": 1.0}


def held_out(config: Config) -> list[CodeProblem]:
    """One problem of each held-out combination, in an order of its own."""
    return FunctionWorld().problems(config.small_tasks, 0, "test")


def audit_of(arm: str, model: int, cell: Cell) -> list[dict[str, float]]:
    """Unit -> metrics of one trained model; the whole audit is made once."""
    config: Config = cell.config

    def build(folder: Path) -> None:
        lm = HFCausalLM.load(trained(arm, model, cell), batch_size=32)
        problems = held_out(config)
        decoding = Decoding(max_tokens=config.small_tokens)
        report = evaluate_code_robustness(
            lm, problems, edits=edits_of(config)[0], seeds=config.small_edit_seeds, decoding=decoding, workers=1
        )
        if report.broken:
            raise RuntimeError(f"a problem of the world fails its own tests: {report.broken}")
        write_json(folder / "audit.json", [metrics(report.tables, i) for i in range(len(problems))])

    key = {
        **_key(arm, model, config),
        "audit": [config.small_tasks, config.small_tokens, config.small_edit_seeds, *_words(config)],
    }
    found: list[dict[str, float]] = json.loads((cell.cache.get("recode-audits", key, build) / "audit.json").read_text())
    return found


def metrics(tables: Mapping[str, Any], i: int) -> dict[str, float]:
    """Of one problem, in per cent: pass, and for each category what is left in the mean and in the worst case."""
    nominal = {"full": 100.0 * tables["full"][i, 0], "partial": 100.0 * tables["partial"][i, 0]}
    found = {"pass": float(nominal["full"]), "pass_partial": float(nominal["partial"])}
    by_transform: dict[str, list[float]] = {}
    for (name, _), (ok, usable, _) in tables["edited"].items():
        if usable[i]:
            by_transform.setdefault(name, []).append(100.0 * float(ok[i, 0]))
    drops = []
    for category in CATEGORIES:
        base = nominal["full" if category in ("docstring", "function") else "partial"]
        values = [v for name, group in by_transform.items() if category_of(name) == category for v in group] or [base]
        found[f"robust_{category}"], found[f"average_{category}"] = min(values), float(np.mean(values))
        found[f"drop_{category}"] = base - min(values)
        drops.append(base - min(values))
    found["drop"] = float(np.mean(drops))
    random = [np.mean(group) - min(group) for group in by_transform.values() if len(group) > 1]
    found["seed_gap"] = float(np.mean(random)) if random else 0.0
    characters = [min(group) for name, group in by_transform.items() if name in CHARACTERS]
    found["drop_characters"] = nominal["full"] - min([nominal["full"], *characters])
    return found


def relative(found: Mapping[str, float]) -> dict[str, float]:
    """RD, in per cent of what the prompts before the edit solve, and differences of RDs; only where something is solved.

    Full prompts and prompts with half of a solution solve different shares, so points lost cannot be compared across them.
    """
    rd = {}
    for name, base in (("characters", "pass"), ("syntax", "pass_partial"), ("format", "pass_partial")):
        if found[base] > 0:
            rd[f"rd_{name}"] = 100 * found[f"drop_{name}"] / found[base]
    for name in ("syntax", "characters"):
        if f"rd_{name}" in rd and "rd_format" in rd:
            rd[f"{name}_minus_format_rd"] = rd[f"rd_{name}"] - rd["rd_format"]
    return rd


# ------------------------------------------------------------------------------------------------------------- training


def trained(arm: str, model: int, cell: Cell) -> Path:
    """The folder of a trained model; made once."""
    config: Config = cell.config

    def build(folder: Path) -> None:
        transformers = extra("transformers", "the small model of the claim")
        tokenizer = byte_tokenizer()
        with seeded(model, "recode", "net"):
            net = transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    vocab_size=len(tokenizer), hidden_size=config.small_width, intermediate_size=3 * config.small_width,
                    num_hidden_layers=config.small_layers, num_attention_heads=4, max_position_embeddings=1024,
                    tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                )
            )  # fmt: skip
        rows = examples(arm, model, config, tokenizer)
        optimizer = torch.optim.AdamW(net.parameters(), lr=config.small_lr, weight_decay=0.01, betas=(0.9, 0.98))
        loader: DataLoader[Any] = DataLoader(rows, batch_size=config.small_batch, collate_fn=completion_batch)  # type: ignore[arg-type]
        fit(
            net, SFT(), loader, epochs=1, optimizer=optimizer, schedule=warmup_cosine(0.05), seed=derive(model, "recode"),
            progress=cell.progress, name=f"{arm} {model}",
        )  # fmt: skip
        net.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))

    return cell.cache.get("recode-nets", _key(arm, model, config), build)


def examples(arm: str, model: int, config: Config, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Prompts, half of them with half of a solution, and what completes them; for small-augmented, half of them edited.

    Both arms see the same problems in the same order. An edit that leaves a prompt as it is leaves the example as it is.
    """
    world, rng = FunctionWorld(), Random(derive(model, "recode", "examples"))
    tasks, edits = world.of("train"), list(edits_of(config)[0].values())
    rows = []
    for _ in range(config.small_steps * config.small_batch):
        problem = world.problem(tasks[int(rng.random() * len(tasks))], int(rng.random() * 10**6))
        half, edited, which, seed = rng.random() < 0.5, rng.random() < 0.5, rng.random(), int(rng.random() * 10**6)
        prompt = partial_prompt(problem) if half else problem.prompt
        solution = problem.program[len(prompt) :]
        if arm == "small-augmented" and edited:
            fitting = [edit for edit in edits if edit.partial == half]
            made = perturb_code(problem, fitting[int(which * len(fitting))], TRAINING_SEEDS + seed)
            prompt, solution = made.prompt, made.solution
        rows.append((tokenizer(prompt)["input_ids"], [*tokenizer(solution)["input_ids"], tokenizer.eos_token_id]))
    return rows


@cache
def byte_tokenizer() -> Any:
    """448 byte pairs of the training problems; any text can be written with it."""
    transformers, tokenizers = extra("transformers", "the claim"), extra("tokenizers", "the claim")
    world = FunctionWorld()
    texts = [world.problem(task, seed).program for task in world.of("train") for seed in range(3)]
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=448, special_tokens=["<pad>", "<bos>", "<eos>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )


def _key(arm: str, model: int, config: Config) -> dict[str, Any]:
    names = ("small_steps", "small_batch", "small_width", "small_layers", "small_lr")
    return {
        "arm": arm, "model": model, **{name: getattr(config, name) for name in names},
        "edits": _words(config) if arm == "small-augmented" else [], "torch": torch.__version__,
        "threads": torch.get_num_threads(), "code": code_sha256("tutelage.claims.audit.recode"),
    }  # fmt: skip


def _words(config: Config) -> list[str]:
    return [config.synonyms, config.masked_lm, config.there, config.back]
