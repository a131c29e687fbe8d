"""The claim of RMT: its splits do not touch, its learning rates come from validation data alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tutelage.claims.adapt import rmt as claim
from tutelage.claims.adapt.rmt import ARMS, CLAIM, CONTROLS, Arm, Config, Parts, adapter_of, chosen_rate, stream_of
from tutelage.methods.adapt.rmt import RMT
from tutelage.models.prototypes import class_prototypes
from tutelage.teaching.test_time import Adapter, MeanTeacher

SMOKE: Any = CLAIM.scales["smoke"]


def arm(name: str, config: Config = SMOKE) -> Arm:
    parts = Parts(config)
    torch.manual_seed(0)
    model = claim.tiny()
    return Arm(name, model, class_prototypes(model, parts.train.loader(64)), parts, config, 0)


def test_no_image_is_in_two_splits() -> None:
    parts = Parts(SMOKE)
    seen = [x.numpy().tobytes() for part in (parts.train, parts.epoch, parts.rate, parts.test) for x in part.images]
    assert len(seen) == len(set(seen))
    assert parts.test.split == "test"
    assert parts.rate.split == "validation"


def test_the_rate_is_that_of_the_lowest_validation_error_and_test_data_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {0.1: 0.5, 0.2: 0.3, 0.4: 0.3}
    one = arm("tent", SMOKE.model_copy(update={"rates": "0.4,0.1,0.2"}))
    one.parts.test = None  # type: ignore[assignment]
    seen = []

    class Report:
        def __init__(self, rate: float) -> None:
            self.rate = rate

        def error(self) -> float:
            return errors[self.rate]

    def run(adapter: Adapter, stream: Any, **_: Any) -> Report:
        seen.append(stream)
        return Report(adapter.settings["lr"])

    monkeypatch.setattr(claim, "run_stream", run)
    assert chosen_rate(one) == 0.2  # of equal ones the smaller
    assert {domain.name for domain in seen[0].domains} == {"speckle_noise"}
    assert all(domain.data.split == "validation" for domain in seen[0].domains)
    # as long as the test stream
    assert len(seen[0]) == SMOKE.passes * SMOKE.n * 2


def test_the_validation_corruptions_are_not_those_of_the_test() -> None:
    for config in CLAIM.scales.values():
        assert isinstance(config, Config)
        assert not set(config.validation_corruptions.split(",")) & set(config.corruptions.split(","))


def test_the_arms_differ_in_what_their_names_say() -> None:
    made = {name: adapter_of(arm(name), 1e-3) for name in ARMS}
    lams = {name: one.lam for name, one in made.items() if isinstance(one, RMT)}
    assert lams == {
        "rmt-source-free": (1, 1, 0),
        "rmt-replay": (1, 1, 1),
        "rmt-cross-entropy": (1, 1, 0),
        "rmt-without-contrast": (1, 0, 0),
        "rmt-without-warm-up": (1, 1, 0),
    }
    teachers = {name: one for name, one in made.items() if isinstance(one, MeanTeacher)}
    assert {name for name, one in teachers.items() if one.alpha == 0} == {
        "rmt-cross-entropy",
        "mean-teacher-cross-entropy",
        "cotta",
    }
    # the same start for the method and its baseline, but for the arm without a warm-up
    start = teachers["mean-teacher-cross-entropy"].diff().total
    assert teachers["rmt-source-free"].diff().total == start > 0
    assert made["rmt-without-warm-up"].drift() == made["tent"].drift() == 0
    assert set(CONTROLS) == {"source", "bn-1"}


def test_streams_have_images_of_their_own_where_there_are_enough() -> None:
    data = Parts(SMOKE).test
    own = stream_of(data, "fog,contrast", 0, 10)
    assert not {x.sum().item() for x in own.domains[0].data.images} & {x.sum().item() for x in own.domains[1].data.images}
    shared = stream_of(data, "fog,contrast", 0, len(data))
    assert torch.equal(shared.domains[0].data.images, shared.domains[1].data.images)
