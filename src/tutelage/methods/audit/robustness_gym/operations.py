"""Cached operations: what is computed once for an example is stored beside it, under a key that says exactly what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.core.checks import check_callable
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import write_atomic
from tutelage.data.tables import Table


@dataclass(frozen=True)
class CachedOperation:
    """A function of the values of one example's columns: tokens, a parse, entities, an embedding, a confidence.

    parameters: whatever its result hangs on; a changed parameter is another operation, so it is computed anew.
    """

    name: str
    function: Callable[..., Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError("name", self.name, "the name of the operation")
        check_callable("function", self.function, "a function of the values of the columns")

    @property
    def identity(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in sorted(self.parameters.items()))})"


class Store:
    """Results of operations, by operation, columns, example id and content. Can be kept in a JSON file."""

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}
        self.computed = 0  # how often an operation's function was called

    def run(self, data: Table, operation: CachedOperation, columns: Sequence[str]) -> list[Any]:
        """The operation's result for each row; only what is not stored is computed."""
        values = [data.column(name) for name in columns]
        results = []
        for i, key in enumerate(self._keys(data, operation, columns)):
            if key not in self._results:
                self._results[key] = operation.function(*(column[i] for column in values))
                self.computed += 1
            results.append(self._results[key])
        return results

    def lookup(self, data: Table, operation: CachedOperation, columns: Sequence[str]) -> list[Any]:
        """The stored results; MissingError if one is absent: nothing is computed."""
        keys = self._keys(data, operation, columns)
        missing = sum(key not in self._results for key in keys)
        if missing:
            raise MissingError(
                f"{operation.identity} on {', '.join(columns)} is not stored for {missing} of {len(data)} examples; run it"
            )
        return [self._results[key] for key in keys]

    def save(self, path: Path | str) -> None:
        """Write all results; they must be JSON values."""
        try:
            write_atomic(Path(path), json.dumps(self._results, ensure_ascii=False))
        except TypeError as error:
            raise InputError("results", str(error), "JSON values (numbers, texts, lists) to be saved") from error

    @classmethod
    def load(cls, path: Path | str) -> Store:
        store = cls()
        try:
            store._results = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError("path", str(path), f"results as Store.save writes them ({error})") from error
        return store

    def _keys(self, data: Table, operation: CachedOperation, columns: Sequence[str]) -> list[str]:
        head = f"{operation.identity}|{'|'.join(columns)}".encode()
        values = [data.column(name) for name in columns]
        return [
            hashlib.sha256(b"\0".join([head, one.encode(), *(_bytes(column[i]) for column in values)])).hexdigest()
            for i, one in enumerate(data.ids)
        ]


def _bytes(value: Any) -> bytes:
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
