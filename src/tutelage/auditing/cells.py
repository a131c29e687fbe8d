"""What the tables of audits have in common: finding rows, writing cells, telling models apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tutelage.auditing.figures import MARKERS, SERIES
from tutelage.auditing.page import Mark, percent
from tutelage.auditing.result import AuditResult, AuditRow

NO_VALUE = "–"


def rows_of(result: AuditResult, category: str) -> list[AuditRow]:
    return [row for row in result.rows if row.category == category]


def find(result: AuditResult, category: str, name: str) -> AuditRow | None:
    return next((r for r in result.rows if r.category == category and r.name == name), None)


def share(row: AuditRow) -> str:
    return percent(row.value, row.ci95)


def points(value: float, ci95: tuple[float, float]) -> str:
    """A signed difference of shares in points of per cent, with its interval: "+3.2 [+1.0, +5.4]"."""
    return f"{100 * value:+z.1f} [{100 * ci95[0]:+z.1f}, {100 * ci95[1]:+z.1f}]"


def cell(row: AuditRow | None, marked: float | None = None, tag: str = "") -> str | Mark:
    """A share with its interval; with the tag if its value is the marked one."""
    if row is None:
        return NO_VALUE
    return Mark(share(row), tag) if row.value == marked else share(row)


def extreme(rows: Sequence[AuditRow | None], choose: Callable[..., float | None]) -> float | None:
    """The value to mark in a column: the highest or lowest, unless most rows share it."""
    values = [row.value for row in rows if row is not None]
    value = choose(values, default=None)
    return value if len(set(values)) > 1 and value is not None and 2 * values.count(value) <= len(values) + 1 else None


def colour(i: int) -> str:
    return SERIES[i % len(SERIES)]


def marker(i: int) -> str:
    return MARKERS[(i + i // len(SERIES)) % len(MARKERS)]  # a colour that comes again comes with another marker


def listed(words: Iterable[str]) -> str:
    """ "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
