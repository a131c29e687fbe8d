"""Updates of offline RL against d3rlpy's IQL: batch 256, the same nets and transitions, seconds for as many updates.

Needs the peer's environment: python benchmarks/peers.py d3rlpy. Ours: IQL with as many critics as the peer, and RIQL with 5. An
update is a batch drawn from 20,000 transitions, a step of critics, value and actor, and the move of the target, on both sides.
The peer is used as its `fit` uses it: a replay buffer, `sample_transition_batch`, `update`. Its policy is Gaussian, and so is
ours here. With nets of 2 x 256, arithmetic decides; with 2 x 64, the number of calls does.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import peers
from common import Outcome, race, report, settings

N, OBS, ACT = 20_000, 11, 3  # as Hopper has
CRITICS = {"IQL, 2 critics": 2, "IQL, 5 critics": 5, "RIQL, 5 critics": 5}


def main() -> None:
    how = settings(__doc__)
    if not peers.inside("d3rlpy"):
        peers.race_in("d3rlpy")
        return
    import numpy as np
    import structlog
    import torch

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))  # the peer tells what it finds
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # of the old gym that it imports
        warnings.simplefilter("ignore")
        import d3rlpy

    from tutelage.data.offline import OfflineDataset
    from tutelage.methods.decide.riql import RIQL, RIQLConfig

    rng = np.random.default_rng(0)
    n, updates = (500, 2) if how.quick else (N, 100)
    observations = rng.standard_normal((n, OBS)).astype(np.float32)
    actions = rng.uniform(-1, 1, (n, ACT)).astype(np.float32)
    rewards = rng.standard_normal(n).astype(np.float32)
    ends = np.arange(n) % 100 == 99
    after = np.concatenate((observations[1:], observations[:1]))
    arrays = (torch.from_numpy(x) for x in (observations, actions, rewards, after, ends))
    data = OfflineDataset(*arrays, torch.zeros(n, dtype=torch.bool), -torch.ones(ACT), torch.ones(ACT))

    def ours(config):  # type: ignore[no-untyped-def]
        learner = RIQL(data, config)
        learner.total = 10**9

        def run() -> None:
            for _ in range(updates):
                learner._update()
                learner.step += 1

        return run

    def theirs(critics: int, width: int):  # type: ignore[no-untyped-def]
        made = d3rlpy.dataset.MDPDataset(observations, actions, rewards[:, None], ends.astype(np.float32))
        nets = d3rlpy.models.VectorEncoderFactory([width, width])
        config = d3rlpy.algos.IQLConfig(
            n_critics=critics,
            batch_size=256,
            actor_encoder_factory=nets,
            critic_encoder_factory=nets,
            value_encoder_factory=nets,
        )
        agent = config.create(device="cpu:0")
        agent.build_with_dataset(made)

        def run() -> None:
            for _ in range(updates):
                agent.update(made.sample_transition_batch(256))

        return run

    for width in (64, 256):
        for name, critics in CRITICS.items():
            shared = {"policy": "gaussian", "hidden": width, "critics": critics}
            config = RIQLConfig(**shared) if name.startswith("RIQL") else RIQLConfig.iql(**shared)
            found = race({"ours": ours(config), "peer": theirs(critics, width)}, how.rounds)
            rounds = [[r["ours"], r["peer"]] for r in found]
            outcome = Outcome(
                f"{name}, batch 256, 2 x {width}, {updates} updates, against d3rlpy",
                "offline-rl",
                name,
                f"d3rlpy IQL, {critics} critics",
                rounds,
                wanted="<= 0.5",
                notes={"updates a second, ours": round(updates / min(a for a, _ in rounds), 1)},
            )
            report(outcome, how)


if __name__ == "__main__":
    main()
