"""Figures as files."""

from __future__ import annotations

import re

from tutelage.auditing.figures import new_figure, save_svg


def test_a_saved_figure_is_the_same_file_again_and_its_areas_are_counted(tmp_path):
    def saved(name, width):
        figure, (panel,) = new_figure(2.0, width=width)
        panel.plot([0, 1], [0, 1])
        save_svg(figure, tmp_path / name)
        return (tmp_path / name).read_text()

    first = saved("a.svg", 3.0)
    assert first == saved("b.svg", 3.0)
    assert re.findall(r'<clipPath id="(\w+)"', first) == ["area1"]
    assert set(re.findall(r"url\(#(\w+)\)", first)) == {"area1"}
    assert first != saved("c.svg", 4.0)
