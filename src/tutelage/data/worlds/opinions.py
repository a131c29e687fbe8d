"""A generator of short opinions with known sentiment, in several domains: data for tests and smoke runs, not a benchmark.

Words of one polarity appear in every domain; each domain has more of its own, so that a classifier of one domain does worse on
the next, and half-negated sentences have the label that a reader gives them.
"""

from __future__ import annotations

from random import Random

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.rng import derive
from tutelage.data.tables import Table

DOMAINS = ("films", "shop", "news", "posts")
_THINGS = {
    "films": ("film", "story", "cast", "ending", "script"), "shop": ("phone", "battery", "case", "screen", "price"),
    "news": ("plan", "budget", "reform", "report", "vote"), "posts": ("day", "weekend", "friend", "lunch", "bus"),
}  # fmt: skip
_GOOD = {
    "films": ("moving", "witty", "gripping"), "shop": ("sturdy", "quick", "handy"), "news": ("sound", "fair", "prudent"),
    "posts": ("awesome", "lovely", "fun"),
}  # fmt: skip
_BAD = {
    "films": ("dull", "clumsy", "stale"), "shop": ("flimsy", "slow", "useless"), "news": ("reckless", "unfair", "vague"),
    "posts": ("awful", "lousy", "sad"),
}  # fmt: skip
_SHARED = (("good", "great", "fine"), ("bad", "poor", "weak"))
SYNONYMS = {
    "good": ["nice", "decent"], "great": ["grand", "superb"], "fine": ["pleasant"], "bad": ["lousy", "rotten"],
    "poor": ["inferior"], "weak": ["feeble"], "film": ["movie", "picture"], "moving": ["touching"], "witty": ["clever"],
    "gripping": ["thrilling"], "dull": ["boring"], "clumsy": ["awkward"], "stale": ["tired"], "story": ["tale"],
    "ending": ["finish"],
}  # fmt: skip


def opinions(domain: str, n: int, *, seed: int = 0) -> Table:
    """n sentences of a domain: columns text and label ("negative", "positive")."""
    check_choice("domain", domain, DOMAINS)
    check_integer("n", n)
    rng = Random(derive(seed, "opinions", domain))

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.random() * len(options))]

    texts, labels = [], []
    for _ in range(n):
        positive = rng.random() < 0.5
        own = (_BAD, _GOOD)[positive][domain]
        other = (_GOOD, _BAD)[positive][domain]
        word = pick(own) if rng.random() < 0.6 else pick(_SHARED[0 if positive else 1])
        thing, kind = pick(_THINGS[domain]), rng.random()
        if kind < 0.4:
            text = f"The {thing} is {word}."
        elif kind < 0.6:
            text = f"I think the {thing} was {word}, the {pick(_THINGS[domain])} {pick(own)}!"
        elif kind < 0.8:
            text = f"The {thing} is not {pick(other)}."
        else:
            text = f"The {thing} looked {pick(other)}, but it is {word}."
        texts.append(text)
        labels.append("positive" if positive else "negative")
    return Table({"text": texts, "label": labels}, tuple(f"{domain}-{i}" for i in range(n)), domain)
