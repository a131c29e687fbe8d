"""Files of logged decisions: HDF5 in the layouts of Minari and D4RL, and .npz.

Minari: groups `episode_0`, `episode_1`, ... of `observations` (T + 1, d), `actions` (T, m), `rewards`, `terminations`,
`truncations` (T,). D4RL: flat arrays `observations`, `actions`, `rewards`, `terminals`, `timeouts`, perhaps
`next_observations`. .npz: the arrays of `OfflineDataset` by name, which is the only one of the three that holds corrupted
sets, since there s' need not be the next row's s. Reading HDF5 needs h5py (`pip install "tutelage[rl]"`).
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import write_atomic
from tutelage.data.offline.transitions import ARRAYS, OfflineDataset

_EPISODE = ("observations", "actions", "rewards", "terminations", "truncations")
_FLAT = ("observations", "actions", "rewards", "terminals")


def read_offline(
    path: str | Path,
    *,
    action_low: Sequence[float] | None = None,
    action_high: Sequence[float] | None = None,
    random_return: float | None = None,
    expert_return: float | None = None,
) -> OfflineDataset:
    """Read logged transitions from a Minari folder or file, a D4RL file (.hdf5, .h5) or an .npz file.

    action_low, action_high: what the environment takes, m numbers each; by default what the file says, else -1 and 1.
    random_return, expert_return: references of normalised scores; by default what the file says (Minari's `ref_min_score` and
    `ref_max_score`). D4RL files without `next_observations` lose the last transition of each episode that was cut by a
    timeout: what came next was not logged.

    Raises MissingError if there is no such file or h5py is missing, InputError for a file without terminals, with nested
    observations, of another layout, or with actions outside of [-1, 1] where nothing says what the environment takes.
    """
    file = _find(Path(path))
    if file.suffix == ".npz":
        arrays, about = _read_npz(file)
    else:
        h5py = _h5py()
        try:
            with h5py.File(file, "r") as store:
                episodic = any(key.startswith("episode_") for key in store)
                arrays, about = _read_minari(store, file) if episodic else (_read_d4rl(store, file), {})
        except (OSError, KeyError, RuntimeError, MemoryError) as error:  # h5py raises whatever a damaged file makes it
            raise InputError("path", str(file), f"an HDF5 file ({error})") from error
    for name, given in (("random_return", random_return), ("expert_return", expert_return)):
        about[name] = given if given is not None else about.get(name)
    low, high = (
        _bound(name, given, about.get(name), side, arrays["actions"])
        for name, given, side in (("action_low", action_low, -1.0), ("action_high", action_high, 1.0))
    )
    return OfflineDataset(
        **{name: _tensor(name, arrays[name]) for name in ARRAYS},
        action_low=low,
        action_high=high,
        name=about.get("name") or file.stem,
        environment=about.get("environment") or "",
        random_return=about["random_return"],
        expert_return=about["expert_return"],
        kind=about.get("kind") or "file",
        origin=about.get("origin") or {},
    )


def write_npz(dataset: OfflineDataset, path: str | Path) -> Path:
    """Write any set, corrupted ones included, as one .npz file; whole or not at all."""
    path = _with_suffix(path, ".npz")
    arrays = {name: getattr(dataset, name).numpy() for name in (*ARRAYS, "action_low", "action_high")}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.array(json.dumps(_about(dataset))), **arrays)
    write_atomic(path, buffer.getvalue())
    return path


def write_minari(dataset: OfflineDataset, path: str | Path) -> Path:
    """Write a set of whole episodes in Minari's layout, one HDF5 file; whole or not at all.

    Raises InputError where the next observation of a transition is not the observation of the one that follows in its
    episode: Minari stores each observation once. Such a set goes into an .npz file.
    """
    h5py, path = _h5py(), _with_suffix(path, ".hdf5")
    inside = ~dataset.ends[:-1]
    if bool((dataset.next_observations[:-1] != dataset.observations[1:]).any(1)[inside].any()):
        raise InputError("dataset", "next observations that do not follow", "whole episodes as logged; or use write_npz")
    stops = (dataset.ends.nonzero().squeeze(1) + 1).tolist()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as store:
        for i, (start, stop) in enumerate(zip([0, *stops], stops, strict=False)):
            last = dataset.next_observations[stop - 1 : stop]
            group = store.create_group(f"episode_{i}")
            group.attrs.update({"id": i, "total_steps": stop - start})
            values = {
                "observations": torch.cat((dataset.observations[start:stop], last)),
                "actions": dataset.actions[start:stop],
                "rewards": dataset.rewards[start:stop],
                "terminations": dataset.terminals[start:stop],
                "truncations": dataset.timeouts[start:stop],
            }
            for name, value in values.items():
                group.create_dataset(name, data=value.numpy())
        about = _about(dataset)
        store.attrs.update({"total_episodes": len(stops), "total_steps": len(dataset), "tutelage": json.dumps(about)})
        space = {"type": "Box", "low": about["action_low"], "high": about["action_high"], "shape": [dataset.act_dim]}
        store.attrs["action_space"] = json.dumps(space)
        for key, reference in (("ref_min_score", dataset.random_return), ("ref_max_score", dataset.expert_return)):
            if reference is not None:
                store.attrs[key] = reference
    write_atomic(path, buffer.getvalue())
    return path


def _about(dataset: OfflineDataset) -> dict[str, Any]:
    return {
        **{key: getattr(dataset, key) for key in ("name", "environment", "random_return", "expert_return", "kind", "origin")},
        "action_low": dataset.action_low.tolist(),
        "action_high": dataset.action_high.tolist(),
    }


def _find(path: Path) -> Path:
    """The file itself; in a folder of Minari, its data/main_data.hdf5."""
    if path.is_dir():
        inside = [path / "data" / "main_data.hdf5", path / "main_data.hdf5"]
        path = next((p for p in inside if p.is_file()), inside[0])
    if not path.is_file():
        raise MissingError(f"there is no data set at {path} (`tutelage data make` logs one)")
    if path.suffix not in (".npz", ".hdf5", ".h5"):
        raise InputError("path", str(path), "a file .hdf5, .h5 or .npz, or a folder of Minari")
    return path


def _with_suffix(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise InputError("path", str(path), f"a file that ends in {suffix}")
    return path


def _h5py() -> Any:
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ModuleNotFoundError as error:
        raise MissingError('HDF5 files need h5py: pip install "tutelage[rl]"') from error
    return h5py


def _read_npz(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with np.load(file, allow_pickle=False) as store:
            arrays = {name: store[name] for name in store.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError("path", str(file), f"an .npz file of plain arrays ({error})") from error
    about = json.loads(str(arrays.pop("about"))) if "about" in arrays else {}
    about |= {name: arrays.pop(name).tolist() for name in ("action_low", "action_high") if name in arrays}
    _need(arrays, (*_FLAT, "next_observations"), file)
    arrays.setdefault("timeouts", np.zeros(len(arrays["terminals"]), dtype=bool))
    return arrays, about


def _read_d4rl(store: Any, file: Path) -> dict[str, Any]:
    _need(store, _FLAT, file)
    arrays = {name: np.asarray(store[name]) for name in (*_FLAT, "timeouts", "next_observations") if name in store}
    n = len(arrays["rewards"])
    timeouts = arrays.setdefault("timeouts", np.zeros(n, dtype=bool)).astype(bool)
    if "next_observations" in arrays:
        return arrays
    # s' is the next row; a row after which the episode was cut has none, nor has the last one
    keep = ~(timeouts & ~arrays["terminals"].astype(bool))
    keep[-1] &= bool(arrays["terminals"][-1])  # after a true end, s' does not matter
    following = np.concatenate((arrays["observations"][1:], arrays["observations"][-1:]))
    arrays["next_observations"] = following
    # the row before a cut is the last that is kept of its episode
    arrays["timeouts"] = timeouts | np.concatenate((~keep[1:] & ~arrays["terminals"][:-1].astype(bool), [False]))
    return {name: value[keep] for name, value in arrays.items()}


def _read_minari(store: Any, file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    names = sorted((key for key in store if key.startswith("episode_")), key=lambda key: int(key.removeprefix("episode_")))
    parts: dict[str, list[Any]] = {name: [] for name in (*_EPISODE, "next_observations")}
    for name in names:
        episode = store[name]
        _need(episode, _EPISODE, file, name)
        for key in _EPISODE:
            if not hasattr(episode[key], "shape"):
                raise InputError("path", f"{file} with nested {key}", "arrays; flatten spaces of several parts first")
        steps, seen = len(episode["rewards"]), len(episode["observations"])
        if seen != steps + 1:
            raise InputError("path", f"{file}: {name} has {seen} observations of {steps} steps", f"{steps + 1} of them")
        observations = np.asarray(episode["observations"])
        parts["observations"].append(observations[:-1])
        parts["next_observations"].append(observations[1:])
        for key in _EPISODE[1:]:
            parts[key].append(np.asarray(episode[key]))
    arrays = {key: np.concatenate(value) for key, value in parts.items()}
    arrays["terminals"], arrays["timeouts"] = arrays.pop("terminations"), arrays.pop("truncations")
    return arrays, _minari_metadata(store, file)


def _minari_metadata(store: Any, file: Path) -> dict[str, Any]:
    about: dict[str, Any] = dict(store.attrs)
    if (beside := file.with_name("metadata.json")).is_file():
        about |= json.loads(beside.read_text(encoding="utf-8"))
    found = json.loads(str(about["tutelage"])) if "tutelage" in about else {}
    try:
        space = json.loads(str(about["action_space"]))
        found |= {"action_low": space["low"], "action_high": space["high"]}
    except (KeyError, TypeError, ValueError):
        pass  # not said, or no box
    for key, name in (("ref_min_score", "random_return"), ("ref_max_score", "expert_return")):
        if about.get(key) is not None:
            found[name] = float(about[key])
    if "dataset_id" in about:
        found["name"] = str(about["dataset_id"])
    return found


def _need(store: Mapping[str, Any], names: Sequence[str], file: Path, where: str = "") -> None:
    for name in names:
        if name not in store:
            at = f"{file}: {where}" if where else str(file)
            raise InputError("path", f"{at} without {name!r}", f"the arrays {', '.join(names)}")


def _tensor(name: str, value: Any) -> Tensor:
    value = np.asarray(value)
    if value.dtype == object or value.dtype.kind not in "fiub":
        raise InputError(name, f"dtype {value.dtype}", "numbers")
    if name in ("terminals", "timeouts", "rewards") and value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    dtype = bool if name in ("terminals", "timeouts") else np.float32
    return torch.from_numpy(np.ascontiguousarray(value, dtype=dtype))


def _bound(name: str, given: Sequence[float] | None, said: Any, default: float, actions: Any) -> Tensor:
    value = given if given is not None else said
    if value is None:
        if float(np.abs(actions).max()) > 1 + 1e-5:
            raise InputError(name, "none, and actions outside of [-1, 1]", "what the environment takes, a number a dimension")
        return torch.full((np.shape(actions)[1],), default)
    return torch.as_tensor(value, dtype=torch.float32).reshape(-1)
