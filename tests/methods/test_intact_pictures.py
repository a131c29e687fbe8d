"""The table in the report of INTACT's claim: corruption x severity, means over the units, drawn from the rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tutelage.auditing.figures import figure_svg
from tutelage.claims.harden.intact import CLAIM, SEEN, UNSEEN, Config, examined, solids
from tutelage.claims.harden.intact_pictures import pictures
from tutelage.models.points import PointNet

KEYS = ["clean", *(f"{name}_{s:g}" for name, strengths in (SEEN | UNSEEN).items() for s in strengths)]


def row(arm: str, value: float, status: str = "ok") -> Any:
    return SimpleNamespace(arm=arm, status=status, metrics=dict.fromkeys(KEYS, value))


def test_the_table_holds_the_means_over_units_of_every_arm_that_has_one() -> None:
    rows = [row("intact", 40.0), row("intact", 60.0)]
    rows[0].metrics["jitter_0.08"] = 10.0
    rows += [row("erm", 80.0), row("erm", 0.0, status="failed")]
    rows += [SimpleNamespace(arm="tracking-intact", status="ok", metrics={"mota": 12.0})]
    ((figure, caption),) = pictures(SimpleNamespace(rows=rows))  # type: ignore[arg-type]
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["erm", "intact"]
    cells = [one.get_text() for one in axes.texts if one.get_text().lstrip("-").isdigit()]
    assert len(cells) == 2 * len(KEYS)
    assert cells[0::2] == ["80"] * len(KEYS)
    wanted = ["50"] * len(KEYS)
    wanted[KEYS.index("jitter_0.08")] = "35"
    assert cells[1::2] == wanted
    named = [one.get_text() for one in axes.texts if not one.get_text().lstrip("-").isdigit()]
    assert named == ["clean", "jitter", "drop", "local drop", "outliers", "tilt", "ray drop"]
    assert "local drop" in figure_svg(figure, caption)


def test_without_the_table_there_is_nothing_to_draw() -> None:
    assert pictures(SimpleNamespace(rows=[row("intact", 1.0, status="failed")])) == []  # type: ignore[arg-type]


def test_the_rows_of_a_cell_have_the_columns() -> None:
    config = CLAIM.scales["smoke"]
    assert isinstance(config, Config)
    assert set(KEYS) <= set(examined(PointNet(4, (4,), head=4), solids("test", 0, 8), config, 0))
