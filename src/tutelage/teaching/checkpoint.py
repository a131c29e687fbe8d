"""Checkpoints of our own format: one safetensors file for the tensors, one JSON file for everything else.

    folder/step-00000120.json                structure, plain values, SHA-256 of the tensors and of itself; its rename is
                                             the commit
    folder/step-00000120-1f0c88d2.safetensors    tensors; their hash is in the name, so nothing good is overwritten

A file is written under a temporary name, flushed and renamed, so a kill at any moment leaves whole checkpoints only.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tutelage.core.errors import CheckpointError
from tutelage.core.files import canonical_json, sha256_text, write_atomic, write_json

FORMAT = "tutelage-checkpoint-1"
KEEP = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` (nested dicts, lists, tuples, tensors, numbers, strings, None) and drop all but the newest two."""
    tensors: dict[str, Tensor] = {}
    structure = _encode(state, "", tensors)
    content = save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    stem = folder / f"step-{step:08d}"
    data = folder / f"{stem.name}-{digest[:8]}.safetensors"
    write_atomic(data, content)
    header = {"format": FORMAT, "step": step, "file": data.name, "sha256": digest, "state": structure}
    write_json(stem.with_suffix(".json"), {**header, "seal": _seal(header)})
    # a later step than this one is damaged, as it was not resumed from: it goes, and must not push out a good one
    headers = [path for path in sorted(folder.glob("step-*.json")) if path.name <= f"{stem.name}.json"]
    keep = {name for path in headers[-KEEP:] for name in (path.name, _data_name(path))}
    litter = (*folder.glob(".step-*"), *folder.glob(".metrics.jsonl.*"))  # what killed writers left
    for path in (*folder.glob("step-*"), *litter):
        if path.name not in keep:
            path.unlink(missing_ok=True)
    return stem.with_suffix(".json")


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the newest good checkpoint, or None if there is none.

    A damaged one is named in a warning and the one before it is used; only damaged ones raise CheckpointError.
    """
    candidates = sorted(folder.glob("step-*.json"), reverse=True)
    problem = ""
    for path in candidates:
        try:
            return _read(path)
        except CheckpointError as error:
            problem = str(error)
            warnings.warn(f"{problem}; trying the one before it", stacklevel=2)
    if problem:
        raise CheckpointError(f"{problem}; there is no earlier one (delete {folder} to start again)")
    return None


def _read(path: Path) -> tuple[int, dict[str, Any]]:
    try:
        header = json.loads(path.read_text())
        if header["format"] != FORMAT:
            raise CheckpointError(f"checkpoint {path.name} has format {header['format']!r}, wanted {FORMAT!r}")
        if header.pop("seal") != _seal(header) or path.stem != f"step-{header['step']:08d}":
            raise CheckpointError(f"checkpoint {path.name} was changed after it was written")
        # the name follows from the hash, so that no header can send us to another file
        if header["file"] != f"{path.stem}-{header['sha256'][:8]}.safetensors":
            raise CheckpointError(f"checkpoint {path.name} names {header['file']!r} as its tensors, which is not its own file")
        content = path.with_name(header["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != header["sha256"]:
            raise CheckpointError(f"checkpoint {path.name}: its tensors are truncated or were changed")
        return int(header["step"]), _decode(header["state"], load(content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path.name} cannot be read ({type(error).__name__}: {error})") from error


def _seal(header: dict[str, Any]) -> str:
    """Hash of a header, by which a changed one is known."""
    return sha256_text(canonical_json(header))


def _data_name(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["file"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`; tensors go to `tensors` under their path. What JSON would change is wrapped in {"!": kind}."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"!": "tensor", "at": name}
    if isinstance(value, dict):
        if odd := [key for key in value if not (key is None or isinstance(key, bool | int | float | str))]:
            raise CheckpointError(f"the state at {path or '/'} has a key of type {type(odd[0]).__name__}")
        items = [[key, _encode(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        return {"!": "dict", "items": items}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
        return {"!": "tuple", "items": items} if isinstance(value, tuple) else items
    if isinstance(value, float) and not math.isfinite(value):
        return {"!": "float", "value": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    raise CheckpointError(f"the state at {path or '/'} is a {type(value).__name__}, which a checkpoint cannot hold")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value["!"]
    if kind == "tensor":
        return tensors[value["at"]]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in value["items"]}
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in value["items"])
    if kind == "float":
        return float(value["value"])
    raise KeyError(kind)
