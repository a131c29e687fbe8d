"""The state of a system, derived from what imports and from what was recorded; nobody types it.

Nothing heavy is imported here: `tutelage list` answers at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from tutelage.catalogue import System
from tutelage.claims.codehash import code_sha256

if TYPE_CHECKING:
    from tutelage.core.stats import Verdict

Status = Literal["planned", "method", "verdict", "stale"]


@dataclass(frozen=True)
class State:
    """planned: no code yet. method: it can be called. verdict: its claim was recorded. stale: its code changed since."""

    status: Status
    verdict: Verdict | Literal["incomplete", ""] = ""

    def __str__(self) -> str:
        if self.status == "verdict":
            return str(self.verdict)
        return f"{self.verdict} (stale)" if self.status == "stale" else self.status


def state_of(system: System) -> State:
    if not _exists(system.module):
        return State("planned")
    record = files("tutelage") / "results" / f"{system.slug}.json"
    if not record.is_file():
        return State("method")
    result = json.loads(record.read_text(encoding="utf-8"))  # two fields: no need for what reads and checks all of them
    fresh = result["code_sha256"] == code_sha256(system.claim_module)
    return State("verdict" if fresh else "stale", result["verdict"])


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
