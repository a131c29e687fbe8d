"""Pictures for the report of the claim: plans on the first instance. What the networks said is read from the cache."""

from __future__ import annotations

import json

import numpy as np
import torch
from matplotlib.figure import Figure

from tutelage.claims.claim import Cell, ClaimResult
from tutelage.claims.decide.neur2ro import Config, instance_of, kept_plan
from tutelage.core.cache import Cache
from tutelage.guarantees.worst_case import exact_worst_case
from tutelage.methods.decide.neur2ro import Baseline, adaptable_plan, nominal_plan
from tutelage.methods.decide.neur2ro.pictures import plan_figure


def pictures(result: ClaimResult, cache: Cache | None = None) -> list[tuple[Figure, str]]:
    """(figure, caption) for the page of `result`."""
    config, cache = Config.model_validate(result.config), cache or Cache.default()
    problem = instance_of(config, 0)
    plans = {"nominal": nominal_plan(problem), "static": adaptable_plan(problem)}
    before = torch.get_num_threads()
    torch.set_num_threads(int(result.environment.get("threads", 1)))  # a part of what names the networks
    try:
        for word, joint in (("Neur2RO", False), ("Neur2RO, joint", True)):
            folder = kept_plan(Cell("neur2ro", 0, config, cache), config, 0, "milp", joint)
            if (folder / "plan.json").is_file():
                x = np.array(json.loads((folder / "plan.json").read_text())["x"])
                plans[word] = Baseline(x, exact_worst_case(problem, x))
    finally:
        torch.set_num_threads(before)
    caption = (
        "Unit 0: what becomes of each item in the worst scenario of each plan; ξ is the share of its greatest loss. "
        "Numbers below: exact worst-case cost, lower is better."
    )
    return [(plan_figure(problem, plans), caption)]
