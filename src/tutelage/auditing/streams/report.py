"""`StreamReport`: what an adapter answered over a stream, and how often it was wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.files import write_json
from tutelage.core.stats import Interval, wilson


@dataclass(frozen=True)
class DomainRow:
    """Online error in one pass of one domain; the interval is Wilson's, for these samples as if independent."""

    number: int
    domain: str
    n: int
    error: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class StreamReport:
    """Answers to N samples in the order they came, all on the CPU.

    predictions, labels: (N,) int64. domain: (N,) position in `domains`. number: (N,) of the pass, from 1. parts: of adapters
    with two voices, the predictions (N,) of "student" and "teacher". log: a row a batch: pass, segment, n, error, the mean
    entropy of the answer in nats, the drift of the weights, and what the adapter logs.
    """

    adapter: str
    stream: dict[str, Any]
    domains: tuple[str, ...]
    predictions: Tensor
    labels: Tensor
    domain: Tensor
    number: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passes(self) -> int:
        return int(self.number.max())

    def error(self, number: int | None = None, domain: str | None = None, part: str = "") -> float:
        """Mean over domains of the online error, in [0, 1]: the benchmark's metric.

        number: of one pass, else of all. domain: of one alone. part: of "student" or "teacher" instead of the answer.
        """
        chosen = torch.ones_like(self.labels, dtype=torch.bool)
        if number is not None:
            check_integer("number", number, high=self.passes)
            chosen = self.number == number
        if domain is not None and domain not in self.domains:
            raise InputError("domain", domain, f"one of {', '.join(self.domains)}")
        if part and part not in self.parts:
            raise InputError("part", part, f"one of {', '.join(self.parts) or 'none, as the adapter has one voice'}")
        wrong = (self.parts[part] if part else self.predictions) != self.labels
        names = self.domains if domain is None else (domain,)
        each = [wrong[chosen & (self.domain == self.domains.index(name))] for name in names]
        return float(torch.stack([one.double().mean() for one in each if len(one)]).mean())

    def rows(self) -> list[DomainRow]:
        """One a pass and domain, in the order of the stream."""
        found = []
        for number in range(1, self.passes + 1):
            for i, name in enumerate(self.domains):
                wrong = (self.predictions != self.labels)[(self.number == number) & (self.domain == i)]
                count, n = int(wrong.sum()), len(wrong)
                found.append(DomainRow(number, name, n, count / n, wilson(count, n)))
        return found

    def table(self) -> str:
        """Online errors in per cent: a line a domain, a column a pass."""
        passes = range(1, self.passes + 1)
        lines = [f"{self.adapter:<24}" + "".join(f"  pass {number:<4}" for number in passes)]
        for name in self.domains:
            lines.append(f"{name:<24}" + "".join(f"  {100 * self.error(number, name):8.2f} " for number in passes))
        return "\n".join([*lines, f"{'mean over domains':<24}" + "".join(f"  {100 * self.error(i):8.2f} " for i in passes)])

    def save(self, path: Path | str) -> None:
        """Write everything as JSON, whole or not at all."""
        rows = [
            {"pass": r.number, "domain": r.domain, "n": r.n, "error": r.error, "ci95": [r.interval.lo, r.interval.hi]}
            for r in self.rows()
        ]
        arrays = {name: getattr(self, name).tolist() for name in ("predictions", "labels", "domain", "number")}
        parts = {name: values.tolist() for name, values in self.parts.items()}
        about = {"adapter": self.adapter, "stream": self.stream, "domains": list(self.domains), "seconds": self.seconds}
        write_json(Path(path), {**about, "rows": rows, "log": self.log, **arrays, "parts": parts})
