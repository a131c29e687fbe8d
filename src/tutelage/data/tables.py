"""Tables of examples: columns of any values, and a stable id for each row."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.core.errors import InputError, MissingError


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length. ids: one a row, all different; they go with a row wherever it goes."""

    columns: Mapping[str, Sequence[Any]]
    ids: tuple[str, ...]
    name: str = "data"
    _where: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for column, values in self.columns.items():
            if len(values) != len(self.ids):
                raise InputError(f"column {column}", f"{len(values)} values", f"{len(self.ids)}, as many as there are ids")
        self._where.update({one: i for i, one in enumerate(self.ids)})
        if len(self._where) != len(self.ids):
            twice = next(one for one, count in Counter(self.ids).items() if count > 1)
            raise InputError("ids", f"{twice!r} twice", "a different id for each row")

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> Sequence[Any]:
        if name not in self.columns:
            raise InputError("column", name, f"one of {', '.join(self.columns)}")
        return self.columns[name]

    def row(self, i: int) -> dict[str, Any]:
        return {name: values[i] for name, values in self.columns.items()}

    def place(self, one: str) -> int:
        """The row of an id."""
        if one not in self._where:
            raise InputError("id", one, f"an id of {self.name}")
        return self._where[one]

    def take(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> Table:
        """Some rows, in the order given; values are shared, not copied."""
        picked = [int(i) for i in rows]
        columns = {name: [values[i] for i in picked] for name, values in self.columns.items()}
        return Table(columns, tuple(self.ids[i] for i in picked), self.name)

    def with_column(self, name: str, values: Sequence[Any]) -> Table:
        return Table({**self.columns, name: values}, self.ids, self.name)


def as_table(data: Any, *, name: str = "", id_column: str = "") -> Table:
    """A Table of whatever holds rows and columns.

    data: a Table; a mapping of columns; a list of rows (mappings); a path to .jsonl, .jsonl.gz, .json, .csv or .parquet; an
    Arrow table, a pandas frame, a data set of Hugging Face. id_column: the column of ids; without one, an id is made of the
    row's content, so that it does not depend on the order. Raises InputError, MissingError.
    """
    if isinstance(data, Table):
        return data if not name else Table(data.columns, data.ids, name)
    if isinstance(data, str | Path):
        return as_table(_read(Path(data)), name=name or Path(data).name.partition(".")[0], id_column=id_column)
    columns = _columns(data)
    sizes = {key: len(values) for key, values in columns.items()}
    if not sizes or len(set(sizes.values())) != 1:
        raise InputError("data", sizes or type(data).__name__, "columns of one length")
    if id_column:
        if id_column not in columns:
            raise InputError("id_column", id_column, f"one of {', '.join(columns)}")
        ids = tuple(str(one) for one in columns[id_column])
    else:
        ids = tuple(_content_ids(columns, next(iter(sizes.values()))))
    return Table(columns, ids, name or "data")


def _columns(data: Any) -> dict[str, list[Any]]:
    if isinstance(data, Mapping):
        return {str(key): list(values) for key, values in data.items()}
    if hasattr(data, "to_pydict"):  # Arrow
        return dict(data.to_pydict())
    if hasattr(data, "column_names") and hasattr(data, "to_dict"):  # a data set of Hugging Face
        return {key: list(data[key]) for key in data.column_names}
    if hasattr(data, "columns") and hasattr(data, "to_dict"):  # pandas
        return {str(key): data[key].tolist() for key in data.columns}
    if isinstance(data, Sequence) and not isinstance(data, str) and data and all(isinstance(row, Mapping) for row in data):
        names = list(data[0])
        odd = next((i for i, row in enumerate(data) if set(row) != set(names)), None)
        if odd is not None:
            raise InputError("data", f"row {odd} with {sorted(map(str, data[odd]))}", f"rows with {sorted(map(str, names))}")
        return {str(key): [row[key] for row in data] for key in names}
    raise InputError("data", type(data).__name__, "rows, columns or the path of a .jsonl, .json, .csv or .parquet file")


def _content_ids(columns: Mapping[str, Sequence[Any]], n: int) -> Iterable[str]:
    """A hash of each row's content; rows of one content are numbered."""
    if any("\ud800" <= letter <= "\udfff" for name in columns for letter in name):
        raise InputError("data", "a column whose name has half a character (a lone surrogate)", "names that are Unicode text")
    seen: Counter[str] = Counter()
    for i in range(n):
        digest = hashlib.sha256()
        for name in sorted(columns):
            value = columns[name][i]
            digest.update(f"{name}=".encode())
            digest.update(np.asarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        key = digest.hexdigest()[:16]
        seen[key] += 1
        yield key if seen[key] == 1 else f"{key}-{seen[key]}"


def _read(path: Path) -> Any:
    if not path.is_file():
        raise MissingError(f"{path} is not a file")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(path)
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        kind = path.name.removesuffix(".gz").rpartition(".")[2]
        text = raw.decode()
        if kind == "jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        if kind == "json":
            return json.loads(text)
        if kind == "csv":
            return list(csv.DictReader(io.StringIO(text)))
    except (ValueError, OSError, EOFError, csv.Error, RecursionError, MemoryError) as error:
        raise InputError("data", f"{path.name} ({type(error).__name__}: {error})", "a file that can be read") from error
    raise InputError("data", path.name, "a .jsonl, .jsonl.gz, .json, .csv or .parquet file")
