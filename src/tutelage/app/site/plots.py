"""Intervals as small inline SVG. Colours and lines come from the style sheet by class, so that the page's policy may
forbid inline styles."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tutelage.app.site.content import Sentence

WIDTH, HEIGHT, PAD = 200, 20, 7


def sentence_plots(sentences: Sequence[Sentence]) -> list[Markup]:
    """A drawing for each sentence; those of one metric and kind share a scale. Right is the side of larger values."""
    spans: dict[tuple[str, bool], tuple[float, float]] = {}
    for one in sentences:
        values = [one.lo, one.hi, one.difference, one.margin, *([0.0] if one.baseline else [])]
        low, high = spans.get(_scale(one), (min(values), max(values)))
        spans[_scale(one)] = min(low, *values), max(high, *values)
    return [_interval(one, spans[_scale(one)]) for one in sentences]


def margin_plot(one: Sentence) -> Markup:
    """The primary interval about its margin, which stands in the middle: what lies right of it is better than asked."""
    flip = -1.0 if one.kind == "threshold" and one.better == "lower" else 1.0
    low, middle, high = (flip * (value - one.margin) for value in (one.lo, one.difference, one.hi))
    reach = max(abs(low), abs(high)) or 1.0
    return _svg(min(low, high), max(low, high), middle, (-reach, reach), 0.0, None, one.tone)


def _scale(one: Sentence) -> tuple[str, bool]:
    return one.metric, bool(one.baseline)


def _interval(one: Sentence, span: tuple[float, float]) -> Markup:
    return _svg(one.lo, one.hi, one.difference, span, one.margin, 0.0 if one.baseline else None, one.tone)


def _svg(lo: float, hi: float, value: float, span: tuple[float, float], margin: float, zero: float | None, tone: str) -> Markup:
    wide = (span[1] - span[0]) or 1.0

    def at(number: float) -> str:
        return f"{PAD + (WIDTH - 2 * PAD) * (number - span[0]) / wide:.1f}"

    middle = HEIGHT / 2
    parts = [f'<svg class="iv {tone}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">']
    if zero is not None and zero != margin:
        parts.append(f'<path class="iv-zero" d="M{at(zero)} 1V{HEIGHT - 1}"/>')
    parts.append(f'<path class="iv-margin" d="M{at(margin)} 2V{HEIGHT - 2}"/>')
    parts.append(f'<path class="iv-bar" d="M{at(lo)} {middle}H{at(hi)}"/>')
    parts.append(f'<circle class="iv-dot" cx="{at(value)}" cy="{middle}" r="4"/></svg>')
    return Markup("".join(parts))
