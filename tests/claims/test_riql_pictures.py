"""The frame strips in the report of RIQL's claim: drawn from the policies that its cells keep."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tutelage.claims.claim import Cell, load_claim
from tutelage.claims.decide.riql import Config, cell, learner_config, policy_of
from tutelage.claims.decide.riql_pictures import pictures
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError
from tutelage.methods.decide.riql import RIQLConfig


def test_the_strips_are_of_the_policies_that_were_kept(tmp_path: Path) -> None:
    config: Any = load_claim("riql").scales["smoke"]
    cache = Cache(tmp_path)
    result: Any = SimpleNamespace(config=config.model_dump(), environment={"threads": torch.get_num_threads()})
    assert pictures(result, cache) == []
    one = Cell("riql", 0, config, cache)
    metrics = cell(one)
    assert metrics["rows"] == 400
    kept = policy_of(one)
    assert kept is not None
    assert kept(torch.zeros(2, 3)).shape == (2, 1)
    assert policy_of(Cell("iql", 0, config, cache)) is None
    ((figure, caption),) = pictures(result, cache)
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 8
    assert figure.axes[0].get_title(loc="left") == "riql"
    assert "same state" in caption


def test_the_arms_differ_in_their_three_parts_only() -> None:
    config = Config()
    made = {arm: learner_config(arm, config) for arm in ("iql", "iql-normalised", "iql-normalised-huber", "riql")}
    parts = {arm: (c.normalise, c.sigma, c.critics, c.quantile) for arm, c in made.items() if isinstance(c, RIQLConfig)}
    assert parts == {
        "iql": (False, None, 2, 0.0),
        "iql-normalised": (True, None, 2, 0.0),
        "iql-normalised-huber": (True, 1.0, 2, 0.0),
        "riql": (True, 1.0, 5, 0.25),
    }
    others = {(c.lr, c.hidden, c.batch_size, c.discount, c.polyak, c.temperature) for c in made.values()}  # type: ignore[attr-defined]
    assert len(others) == 1


def test_a_file_must_be_named() -> None:
    claim = load_claim("riql")
    with pytest.raises(InputError, match="path: got none"):
        claim.data(claim.scales["paper"])
