"""SNOOPI's claim: how the best fixed scale is found, what is shared between cells, the judge, the pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from tutelage.claims.claim import Cell
from tutelage.claims.distill import snoopi
from tutelage.claims.distill.snoopi.config import BACKBONES, Config
from tutelage.claims.distill.snoopi.students import Student, training_prompts
from tutelage.claims.distill.snoopi.teachers import Judge, fresh
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError
from tutelage.core.rng import generator
from tutelage.data.coloured_digits import ATTRIBUTES
from tutelage.methods.distill.snoopi.pictures import image_rows, stability_figure

SMOKE: Config = snoopi.CLAIM.scales["smoke"]  # type: ignore[assignment]


def test_the_best_fixed_scale_is_that_of_the_best_worst_backbone_on_validation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    ends = {1.5: (1.0, 9.0, 1.0), 3.0: (4.0, 4.0, 5.0), 4.5: (2.0, 6.0, 2.0), 7.5: (8.0, 8.0, 8.0)}

    def student(cell: Cell, backbone: Any, recipe: Any) -> Any:
        return SimpleNamespace(validation=ends[recipe.scale][BACKBONES.index(backbone)])

    monkeypatch.setattr(snoopi, "_student", student)
    assert snoopi.best_fixed(Cell("best-fixed-guidance-scale", 0, Config(), Cache(tmp_path))).scale == 3.0


def test_the_late_rise_is_what_comes_after_the_lowest_point():
    def rise(*values: float) -> float:
        return Student(None, list(enumerate(values, 1))).late_rise  # type: ignore[arg-type]

    assert rise(9, 4, 2, 5, 3) == 3
    assert rise(9, 4, 2) == 0
    assert Student(None, [(1, 4.0), (2, 3.0)]).validation == 3.0  # type: ignore[arg-type]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_can_be_asked_for_one_step_and_is_made_twice_the_same(backbone: Any):
    one, two = fresh(SMOKE, backbone), fresh(SMOKE, backbone)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    made = snoopi.OneStepGenerator(one, (3, 8, 8)).generate(["7 red dark", "3"])
    assert made.shape == (2, 3, 8, 8)
    assert one.prediction == ("v" if backbone == "unet-v" else "eps")


def test_students_see_full_prompts_and_as_many_that_leave_something_open():
    words = [len(prompt.split()) for prompt in training_prompts()]
    assert (words.count(3), words.count(2), words.count(1)) == (60, 50, 10)
    assert {one.prompt for one in snoopi.pairs(range(5))} & {one.prompt for one in snoopi.pairs(range(5, 10))} == set()


def test_the_judge_is_asked_for_every_word_of_a_prompt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Sees(Judge):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            # every picture shows a blue 7 on light
            return [
                torch.eye(len(words))[[place]].expand(len(x), -1)
                for words, place in zip(ATTRIBUTES.values(), (7, 2, 1), strict=True)
            ]

    monkeypatch.setattr(snoopi, "judge", lambda config, cache: Sees())
    shows = snoopi.judge_shows(Cell("nasa", 0, SMOKE, Cache(tmp_path)))
    assert shows(torch.zeros(4, 3, 8, 8), ["7 blue", "7 red", "light", "3"]).tolist() == [True, False, True, False]


def test_pictures_of_rows_and_curves():
    images = torch.rand(3, 3, 4, 4, generator=generator(0))
    figure = image_rows({"teacher": images, "student": images}, ("7 red", "8", "9"))
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:3]] == ["7\nred", "8", "9"]
    curves = {"U-Net": {"k = 3": [(1, 4.0), (2, 3.0)], "random": [(1, 4.0), (2, 2.0)]}}
    assert len(stability_figure(curves).axes[0].get_lines()) == 2
    with pytest.raises(InputError, match="rows"):
        image_rows({"a": images, "b": images[:2]})
    with pytest.raises(InputError, match="columns"):
        image_rows({"a": images}, ("one",))
    with pytest.raises(InputError, match="curves"):
        stability_figure({})
