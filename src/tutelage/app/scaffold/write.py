"""Write the script of one kind, and a model where the project has none. Nothing is ever overwritten."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tutelage.app.scaffold import texts
from tutelage.app.scaffold.look import Audited, Found, look
from tutelage.core.errors import InputError
from tutelage.core.files import check_folder, write_atomic

# kind -> (name of the script, its text)
KINDS = {
    "audit": ("audit_model.py", texts.AUDIT),
    "teach": ("teach_model.py", texts.TEACH),
    "claim": ("claim.py", texts.CLAIM),
    "gate": ("policy.yaml", texts.POLICY),
}
OWN_MODEL = "my_model.py"


@dataclass(frozen=True)
class Scaffold:
    """What was written, and what stands in it."""

    files: tuple[Path, ...]
    found: Found
    factory: str
    next_steps: tuple[str, ...]


def scaffold(folder: Path, kind: str) -> Scaffold:
    """Write the script of `kind` into `folder`, with the model, weights and data that are found there.

    Raises InputError for an unknown kind and for files that are there already, before anything is written.
    """
    if kind not in KINDS:
        raise InputError("kind", kind, f"one of {', '.join(KINDS)}")
    check_folder(folder, "folder")
    name, text = KINDS[kind]
    found = look(folder)
    if kind == "gate":
        path = folder / name
        if path.exists():
            raise InputError("folder", f"{name}, which is there already", "a folder without it: nothing is overwritten")
        write_atomic(path, _policy(text, found.audits))
        return Scaffold((path,), found, found.factory, tuple(_next_steps(kind, name, found)))
    factory = found.factory or f"{OWN_MODEL}:build"
    trained = f"{Path(found.weights).stem if found.weights else 'my_model'}-robust.safetensors"
    fields = {
        "FACTORY": factory,
        "WEIGHTS": found.weights or None,
        "SETS": {"train": found.train or None, "test": found.test or None},
        "OUT": trained,
    }
    text = re.sub(r"@([A-Z]+)@", lambda mark: repr(fields[mark[1]]), text)  # at once: a file may be named like a mark
    wanted = {folder / name: text}
    if not found.factory:
        wanted[folder / OWN_MODEL] = texts.MODEL
    if there := [path.name for path in wanted if path.exists()]:
        raise InputError("folder", f"{there[0]}, which is there already", "a folder without it: nothing is overwritten")
    for path, content in wanted.items():
        write_atomic(path, content)
    return Scaffold(tuple(wanted), found, factory, tuple(_next_steps(kind, name, found)))


def _policy(text: str, audits: tuple[Audited, ...]) -> str:
    """The newest audit is the candidate; the next one of the same images is the champion."""
    candidate = audits[0] if audits else Audited("audit", "my model", "", ("clean", "linf@8/255"))
    champion = next((one for one in audits[1:] if one.data == candidate.data), None)
    gates = [f"  - {{metric: {json.dumps(one)}, rule: min, value: {_LEAST.get(one, 0.1)}}}" for one in candidate.metrics]
    if champion:
        shared = [json.dumps(one) for one in candidate.metrics if one in champion.metrics]
        gates += [f"  - {{metric: {one}, rule: noninferior}}" for one in shared]
        beside = f"champion: {{audit: {json.dumps(champion.folder)}}} # the model in production, on the same images"
    else:
        beside = "# champion: {audit: production} # the model in production, audited on the same images"
        gates.append("  # - {metric: clean, rule: noninferior} # not worse than the champion by more than delta")
    fields = {"NAME": json.dumps(candidate.model), "CANDIDATE": json.dumps(candidate.folder), "CHAMPION": beside,
              "GATES": "\n".join(gates)}  # fmt: skip
    return re.sub(r"@([A-Z]+)@", lambda mark: fields[mark[1]], text)


_LEAST = {"clean": 0.5, "corruptions": 0.3}


def _next_steps(kind: str, name: str, found: Found) -> list[str]:
    steps = []
    if kind == "gate":
        if not found.audits:
            steps.append("audit the model: `tutelage init --kind audit` writes a script that does")
        return [*steps, "change the numbers in the policy to what you need", f"tutelage gate {name}"]
    if not found.factory:
        steps.append(f"put your model into {OWN_MODEL} (until then it is a small network for the bundled images)")
    if kind == "audit" and not found.weights:
        steps.append("give it weights, WEIGHTS in the script: `tutelage init --kind teach` writes a script that trains some")
    if not (found.train if kind in ("teach", "claim") else found.test):
        steps.append("name your data in `images` (until then: the bundled Fashion-MNIST subset)")
    return [*steps, f"python {name}"]
