"""The state of a system, derived from what imports and from what was recorded; nobody types it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from tutelage.catalogue import System
from tutelage.claims.claim import ClaimResult
from tutelage.claims.codehash import code_sha256
from tutelage.claims.runner import recorded
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
    result: ClaimResult | None = recorded(system.slug)
    if result is None:
        return State("method")
    fresh = result.code_sha256 == code_sha256(system.claim_module)
    return State("verdict" if fresh else "stale", result.verdict)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
