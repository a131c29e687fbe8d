"""F6, the registry: versions of a model, their stages, and which gate promoted them. A folder; MLflow through an adapter."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from tutelage.core.checks import check_choice
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import locked, sha256_file, write_json
from tutelage.methods.audit.robust_mlops.lineage import Lineage

Stage = Literal["candidate", "champion", "archived"]
STAGES = ("candidate", "champion", "archived")


@dataclass(frozen=True)
class Version:
    """number: 1, 2, ... path, sha256: the model file, if there is one. gate: hash of the bundle that promoted it."""

    number: int
    stage: Stage
    path: str = ""
    sha256: str = ""
    gate: str = ""
    created: str = ""
    promoted: str = ""
    info: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return f"v{self.number}"


class Store(Protocol):
    """What a registry must do; `Registry` and `MlflowRegistry` do."""

    def register(self, path: Path | str | None = None, *, info: Mapping[str, Any] | None = None) -> Version: ...

    def promote(self, number: int, *, gate: str) -> Version: ...

    def rollback(self, number: int, *, reason: str) -> Version: ...

    def get(self, which: int | str) -> Version: ...

    def versions(self) -> list[Version]: ...


@dataclass(frozen=True)
class Registry:
    """A folder with registry.json (written whole or not at all, under a lock) and lineage.jsonl (every change, chained)."""

    folder: Path

    def __init__(self, folder: Path | str) -> None:
        object.__setattr__(self, "folder", Path(folder))

    @property
    def lineage(self) -> Lineage:
        return Lineage(self.folder / "lineage.jsonl")

    def versions(self) -> list[Version]:
        return self._read()[0]

    def aliases(self) -> dict[str, int]:
        return self._read()[1]

    def get(self, which: int | str) -> Version:
        """A version by number, "v3", a stage that one version has ("champion"), or an alias; of candidates the newest."""
        found, aliases = self._read()
        number = aliases.get(which, which) if isinstance(which, str) else which
        for one in reversed(found):
            if number in (one.number, one.name) or (which in ("champion", "candidate") and one.stage == which):
                return one
        raise MissingError(f"the registry {self.folder} has no {which}; it has {', '.join(o.name for o in found) or 'nothing'}")

    def check(self, version: Version) -> Path:
        """The model file of a version, after a check of its hash."""
        if not version.path:
            raise MissingError(f"{version.name} was registered without a file")
        path = self.folder / version.path
        if not path.is_file():
            raise MissingError(f"the file of {version.name} is gone: {path}")
        if sha256_file(path) != version.sha256:
            raise InputError("version", version.name, "a file that is as it was registered; its hash has changed")
        return path

    def register(self, path: Path | str | None = None, *, info: Mapping[str, Any] | None = None) -> Version:
        """Take a model in as a candidate; the file is copied, so that nobody can change it behind the registry's back."""
        source = None if path is None else Path(path)
        if source is not None and not source.is_file():
            raise MissingError(f"model: there is no file {source}")
        with locked(self.folder / ".lock"):
            found, aliases = self._read()
            number = max((one.number for one in found), default=0) + 1
            kept = digest = ""
            if source is not None:
                from tutelage.core.files import write_atomic

                kept = f"v{number}/{source.name}"
                write_atomic(self.folder / kept, source.read_bytes())
                digest = sha256_file(self.folder / kept)
            version = Version(number, "candidate", kept, digest, created=_now(), info=dict(info or {}))
            self._write([*found, version], aliases)
        self.lineage.record("register", asdict(version))
        return version

    def promote(self, number: int, *, gate: str) -> Version:
        """Make a version the champion; the old one is archived. gate: the hash of the bundle that passed it."""
        if not gate:
            raise InputError("gate", "nothing", "the hash of the bundle of a gate that passed")
        return self._crown(number, "promote", gate, "")

    def rollback(self, number: int, *, reason: str) -> Version:
        """Make an archived version the champion again."""
        if self.get(number).stage != "archived":
            raise InputError("number", number, "a version that is archived")
        return self._crown(number, "rollback", self.get(number).gate, reason)

    def alias(self, name: str, number: int) -> None:
        if not name or name in STAGES or name.lstrip("v").isdigit():
            raise InputError("name", name, "a name that is no stage and no version")
        with locked(self.folder / ".lock"):
            found, aliases = self._read()
            if all(one.number != number for one in found):
                raise MissingError(f"the registry {self.folder} has no v{number}")
            self._write(found, {**aliases, name: number})
        self.lineage.record("alias", {"name": name, "number": number})

    def _crown(self, number: int, kind: str, gate: str, reason: str) -> Version:
        with locked(self.folder / ".lock"):
            found, aliases = self._read()
            if all(one.number != number for one in found):
                raise MissingError(f"the registry {self.folder} has no v{number}")
            changed: list[Version] = []
            for one in found:
                if one.number == number:
                    changed.append(replace(one, stage="champion", gate=gate, promoted=_now()))
                else:
                    changed.append(replace(one, stage="archived") if one.stage == "champion" else one)
            self._write(changed, aliases)
        self.lineage.record(kind, {"number": number, "gate": gate, "reason": reason})
        return next(one for one in changed if one.number == number)

    def _read(self) -> tuple[list[Version], dict[str, int]]:
        file = self.folder / "registry.json"
        if not file.is_file():
            return [], {}
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            found = [Version(**one) for one in about["versions"]]
            for one in found:
                check_choice("stage", one.stage, STAGES)
                if Path(one.path).is_absolute() or ".." in Path(one.path).parts:
                    raise ValueError(f"it leaves its folder for {one.path}")
            return found, dict(about["aliases"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("registry", f"{file} ({error})", "a registry as this class writes it") from error

    def _write(self, versions: list[Version], aliases: dict[str, int]) -> None:
        write_json(self.folder / "registry.json", {"versions": [asdict(one) for one in versions], "aliases": aliases})


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


class MlflowRegistry:
    """The same on an MLflow model registry (extra `mlops`): stages are tags, the champion has MLflow's alias "champion"."""

    def __init__(self, name: str, tracking_uri: str) -> None:
        try:
            from mlflow import MlflowClient
        except ModuleNotFoundError as error:
            raise MissingError("MLflow is not installed: pip install 'tutelage[mlops]'") from error
        self.name, self.client = name, MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        if all(one.name != name for one in self.client.search_registered_models()):
            self.client.create_registered_model(name)

    def versions(self) -> list[Version]:
        found = self.client.search_model_versions(f"name='{self.name}'")
        return sorted((self._version(one) for one in found), key=lambda one: one.number)

    def get(self, which: int | str) -> Version:
        found = self.versions()
        for one in reversed(found):
            if which in (one.number, one.name, one.stage):
                return one
        raise MissingError(f"the MLflow model {self.name} has no {which}")

    def register(self, path: Path | str | None = None, *, info: Mapping[str, Any] | None = None) -> Version:
        source = "" if path is None else str(Path(path).resolve())
        tags = {"stage": "candidate", "sha256": sha256_file(Path(path)) if path is not None else ""}
        tags |= {f"info.{key}": str(value) for key, value in (info or {}).items()}
        made = self.client.create_model_version(self.name, source or "none", tags=tags)
        return self.get(int(made.version))

    def promote(self, number: int, *, gate: str) -> Version:
        if not gate:
            raise InputError("gate", "nothing", "the hash of the bundle of a gate that passed")
        return self._crown(number, {"gate": gate})

    def rollback(self, number: int, *, reason: str) -> Version:
        if self.get(number).stage != "archived":
            raise InputError("number", number, "a version that is archived")
        return self._crown(number, {"rollback": reason})

    def _crown(self, number: int, tags: Mapping[str, str]) -> Version:
        self.get(number)
        for one in self.versions():
            if one.stage == "champion":
                self.client.set_model_version_tag(self.name, str(one.number), "stage", "archived")
        for key, value in {"stage": "champion", **tags}.items():
            self.client.set_model_version_tag(self.name, str(number), key, value)
        self.client.set_registered_model_alias(self.name, "champion", str(number))
        return self.get(number)

    def _version(self, one: Any) -> Version:
        tags = dict(one.tags)
        stage: Any = tags.get("stage", "candidate")
        info = {key.removeprefix("info."): value for key, value in tags.items() if key.startswith("info.")}
        return Version(int(one.version), stage, one.source, tags.get("sha256", ""), tags.get("gate", ""), info=info)
