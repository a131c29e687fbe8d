"""The bracket: ordered, monotone over eps, exact where MILP closes it, and loud where a proof is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_report import page_of
from torch import nn

from tutelage.auditing.bracket import bracket
from tutelage.core.errors import InputError, TutelageError
from tutelage.core.rng import generator, seeded


def problem(n: int = 30) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with seeded(0):
        net = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
    with torch.no_grad():
        net[2].bias.copy_(-net[2].weight @ net[1](net[0](torch.full((1, 3), 0.5)))[0])
    x = torch.rand(n, 3, generator=generator(0))
    y = net(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3
    return net, x, y


def test_a_linear_net_by_hand():
    # margins 0.4, 0.2 and -0.2 of z = x: robust below 0.2, below 0.1, never
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
    x, y = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.4, 0.6]]), torch.tensor([0, 1, 0])
    found = bracket(net, x, y, [0.15, 0.05, 0.25, 0.0], cascade=("ibp",))
    assert [rung.eps for rung in found.rungs] == [0.0, 0.05, 0.15, 0.25]
    assert [rung.certified.share for rung in found.rungs] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])
    assert [rung.attacked.share for rung in found.rungs] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])
    assert [rung.certified.label for rung in found.rungs] == ["sound"] * 4
    assert {rung.attacked.label for rung in found.rungs} == {"empirical"}


def test_the_sides_are_ordered_and_fall_and_exact_answers_close_the_gap():
    net, x, y = problem()
    radii = [0.0, 0.02, 0.05, 0.1]
    loose, exact = bracket(net, x, y, radii, cascade=("ibp",)), bracket(net, x, y, radii, cascade=("ibp", "crown", "milp"))
    for found in (loose, exact):
        for side in ("certified", "attacked"):
            shares = [getattr(rung, side).share for rung in found.rungs]
            assert shares == sorted(shares, reverse=True)
        assert all(rung.certified.share <= rung.attacked.share for rung in found.rungs)
    assert sum(rung.gap for rung in loose.rungs) > 0
    assert [rung.gap for rung in exact.rungs] == [0.0] * 4
    for a, b in zip(loose.rungs, exact.rungs, strict=True):
        assert a.certified.share <= b.certified.share
        assert b.attacked.share <= a.attacked.share
    text = str(exact)
    assert "certified (sound)" in text
    assert "attacked (empirical)" in text
    assert "certified <= true robust accuracy <= attacked" in text


def test_the_figure_names_each_side(tmp_path: Path):
    net, x, y = problem(10)
    found = bracket(net, x, y, [0.0, 0.05], cascade=("ibp",), steps=3, restarts=1)
    texts = [text.get_text() for text in found.figure().axes[0].get_legend().get_texts()]
    assert any("lower bound (sound)" in text for text in texts)
    assert any("upper bound (empirical)" in text for text in texts)
    assert found.save(tmp_path / "bracket.svg").read_text().startswith("<?xml")
    with pytest.raises(InputError, match="path"):
        found.save(tmp_path / "bracket.txt")


def test_the_page_labels_each_side_and_holds_every_number(tmp_path: Path):
    net, x, y = problem()
    found = bracket(net, x, y, [0.0, 0.02, 0.05], cascade=("ibp", "crown"), steps=5, restarts=1)
    page = page_of(found.save(tmp_path / "bracket.html"))
    for one in found.rungs:
        for side in (one.certified, one.attacked):
            low, high = side.interval.lo, side.interval.hi
            assert f"{100 * side.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in page.text
        assert f"{100 * one.gap:.1f} %" in page.text
    for said in ("Certified (sound)", "Attacked (empirical)", "What ibp and crown proved", "30 samples", "PGD-5"):
        assert said in page.text
    assert page.count("svg") == 1
    met = [f"{one.eps:g}" for one in found.rungs if one.gap == 0]
    assert met[0] == "0"  # at eps 0 both sides are the clean accuracy
    assert "Both sides meet at eps 0" in page.text


def test_a_broken_proof_is_loud(monkeypatch: pytest.MonkeyPatch):
    net, x, y = problem()
    monkeypatch.setattr("tutelage.guarantees.certify.lower_margin", lambda graph, x, *rest: torch.ones(len(x)))
    with pytest.raises(TutelageError, match="proved robust"):
        bracket(net, x, y, [0.3], cascade=("ibp",))


def test_bad_arguments():
    net, x, y = problem(4)
    with pytest.raises(InputError, match="eps"):
        bracket(net, x, y, [])
    with pytest.raises(InputError, match="eps"):
        bracket(net, x, y, [0.1, -0.1])
    with pytest.raises(InputError, match="cascade"):
        bracket(net, x, y, [0.1], cascade=("exact",))
