"""Tables as columns of arrays: read whole or in chunks from Parquet and CSV, and hashed by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.core.errors import InputError, MissingError

Column = npt.NDArray[Any]
Columns = Mapping[str, Column]


def as_columns(data: Any, argument: str = "data") -> dict[str, Column]:
    """name -> (n,) array of numbers, booleans, times or words; of a mapping, an Arrow table, a pandas frame or a file.

    Files: .parquet and .csv. Numbers with missing values become floats with NaN, other missing values None. Raises InputError,
    MissingError.
    """
    if isinstance(data, str | Path):
        return _read(Path(data), argument)
    if hasattr(data, "column_names") and hasattr(data, "to_pydict"):
        return _of_arrow(data)
    if hasattr(data, "columns") and hasattr(data, "to_dict"):  # pandas
        data = {str(name): data[name].to_numpy() for name in data.columns}
    if not isinstance(data, Mapping) or not data:
        raise InputError(argument, type(data).__name__, "columns by name, an Arrow table, or a .parquet or .csv file")
    found = {str(name): _array(values) for name, values in data.items()}
    if any(values.ndim != 1 for values in found.values()) or len({len(values) for values in found.values()}) != 1:
        raise InputError(argument, {name: list(values.shape) for name, values in found.items()}, "columns of one length")
    return found


def rows(columns: Columns) -> int:
    return len(next(iter(columns.values()))) if columns else 0


def take(columns: Columns, index: Any) -> dict[str, Column]:
    return {name: values[index] for name, values in columns.items()}


def is_number(values: Column) -> bool:
    return values.dtype.kind in "iuf"


def numbers(columns: Columns, names: list[str]) -> npt.NDArray[np.float64]:
    """(n, d) of number columns."""
    return np.stack([columns[name].astype(np.float64) for name in names], 1)


def chunks(path: Path | str, size: int) -> Iterator[dict[str, Column]]:
    """The rows of a .parquet or .csv file in their order, `size` at a time (the last may be shorter); read as it goes."""
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"stream: there is no file {path}")
    kept: list[Any] = []
    waiting = 0
    import pyarrow as pa

    for batch in _batches(path):
        kept, waiting = [*kept, batch], waiting + batch.num_rows
        while waiting >= size:
            table = pa.Table.from_batches(kept)
            yield _of_arrow(table.slice(0, size))
            kept, waiting = table.slice(size).to_batches(), waiting - size
    if waiting:
        yield _of_arrow(pa.Table.from_batches(kept))


def sha256_columns(columns: Columns) -> str:
    """Hash of a table's content: independent of the order of its columns, not of its rows. All NaN are one, and -0 is 0."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        values = columns[name]
        digest.update(f"{name}:{len(values)};".encode())
        if values.dtype.kind == "f":
            plain = values.astype(np.float64)
            digest.update(b"f" + (np.where(np.isnan(plain), np.nan, plain) + 0.0).tobytes())
        elif values.dtype.kind in "iub":
            digest.update(values.dtype.kind.encode() + values.astype(np.int64).tobytes())
        else:
            for one in values.tolist():
                text = "\x00" if one is None else str(one)
                digest.update(f"{len(text)}:{text};".encode())
    return digest.hexdigest()


def _read(path: Path, argument: str) -> dict[str, Column]:
    if not path.is_file():
        raise MissingError(f"{argument}: there is no file {path}")
    import pyarrow as pa

    batches = list(_batches(path))
    if not batches:
        raise InputError(argument, path.name, "a file with at least one row")
    return _of_arrow(pa.Table.from_batches(batches))


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            yield from pq.ParquetFile(path).iter_batches(batch_size=8192)
        elif path.suffix == ".csv":
            import pyarrow.csv as csv

            yield from csv.open_csv(path)
        else:
            raise InputError("data", path.name, "a .parquet or .csv file")
    except (pa.ArrowException, OSError) as error:
        raise InputError("data", f"{path.name} ({error})", "a .parquet or .csv file that can be read") from error


def _of_arrow(table: Any) -> dict[str, Column]:
    import pyarrow as pa

    found: dict[str, Column] = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if numeric and column.null_count:
            column = column.cast(pa.float64())
        values = column.to_numpy(zero_copy_only=False) if hasattr(column, "chunks") else column.to_numpy()
        found[str(name)] = _array(values)
    return found


def _array(values: Any) -> Column:
    array = np.asarray(values)
    if array.dtype.kind == "O" and array.ndim == 1:
        known = [one for one in array.tolist() if one is not None]
        if known and all(isinstance(one, bool) for one in known) and len(known) == len(array):
            return array.astype(np.bool_)
        if known and all(isinstance(one, int | float) and not isinstance(one, bool) for one in known):
            return np.array([np.nan if one is None else one for one in array.tolist()], np.float64)
    return array.astype(np.float64) if array.dtype.kind == "f" else array
