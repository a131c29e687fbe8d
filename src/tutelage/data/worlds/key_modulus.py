"""Key-modulus: "b:5+6+4=" is the sum modulo a number that belongs to the key and is told nowhere.

Who has learnt the keys can solve it; who has not can learn the modulus of a key from a worked solution, which takes it off step
by step, and then solve other problems of that key. A mistake is another key's modulus, used without a slip. Styles:

    worked   15-7=8-7=1        the modulus is seen
    answer   1
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import numpy_generator
from tutelage.data.worlds.tasks import Item, LanguageWorld, Step, Verdict

STYLES = ("worked", "answer")
_LINE = re.compile(r"(\d{1,18})((?:-\d{1,18}=\d{1,18})*)", re.ASCII)
_TAKEN = re.compile(r"-(\d+)=(\d+)", re.ASCII)


class KeyModulus(LanguageWorld):
    """Sums modulo a private number a key.

    keys: one character each. moduli: {key: modulus >= 2}; default: drawn from `choices` with `seed`. operands: how many terms,
    (least, most). low, high: of a term.

    Example::

        >>> from tutelage.data.worlds.key_modulus import KeyModulus
        >>> world = KeyModulus("ab", moduli={"a": 7, "b": 5})
        >>> item = world.item("a", (5, 6, 4))
        >>> item.prompt, item.answer, world.render(item, "worked"), world.modulus_shown("15-7=8-7=1")
        ('a:5+6+4=', '1', '15-7=8-7=1', 7)
    """

    name = "key-modulus"

    def __init__(
        self,
        keys: str = "abcdefgh",
        *,
        moduli: Mapping[str, int] | None = None,
        choices: Sequence[int] = (5, 6, 7, 8, 9),
        seed: int = 0,
        operands: tuple[int, int] = (3, 3),
        low: int = 1,
        high: int = 9,
        styles: Sequence[str] = STYLES,
    ) -> None:
        if not isinstance(keys, str) or not keys or len(set(keys)) != len(keys) or set(keys) & set("0123456789+-=:"):
            raise InputError("keys", keys, "characters, each once, none of 0123456789+-=:")
        for modulus in choices:
            check_integer("choices", modulus, low=2)
        if moduli is None:
            drawn = numpy_generator(seed, "key-modulus").choice(list(choices), len(keys))
            moduli = {key: int(modulus) for key, modulus in zip(keys, drawn, strict=True)}
        if set(moduli) != set(keys):
            raise InputError("moduli", sorted(moduli), f"one for each key of {keys}")
        for modulus in moduli.values():
            check_integer("moduli", modulus, low=2)
        check_integer("operands", operands[0], low=2)
        check_integer("operands", operands[1], low=operands[0])
        check_integer("low", low, low=0)
        check_integer("high", high, low=low)
        for style in styles:
            check_choice("styles", style, STYLES)
        self.keys, self.moduli, self.operands, self.low, self.high = keys, dict(moduli), operands, low, high
        self.styles = tuple(styles)
        self.wrong_moduli = sorted({*moduli.values(), *choices})

    @property
    def alphabet(self) -> str:
        return "".join(sorted({*"0123456789+-=:", *self.keys}))

    def item(self, key: str, terms: Sequence[int]) -> Item:
        """The problem of a key and terms; terms in another order are the same problem."""
        if key not in self.moduli:
            raise InputError("key", key, f"one of {self.keys}")
        terms = tuple(int(term) for term in terms)
        spelled, canonical = "+".join(map(str, terms)), "+".join(map(str, sorted(terms)))
        return Item(f"{key}:{spelled}=", str(sum(terms) % self.moduli[key]), f"{key}:{canonical}", (key, *terms))

    def draw(self, rng: np.random.Generator) -> Item:
        count = int(rng.integers(self.operands[0], self.operands[1] + 1))
        key = self.keys[int(rng.integers(len(self.keys)))]
        return self.item(key, [int(term) for term in rng.integers(self.low, self.high + 1, count)])

    def _render(self, item: Item, style: str, rng: np.random.Generator, wrong: bool) -> str:
        key, total = str(item.content[0]), _total(item)
        modulus = self.moduli[key]
        if wrong:
            others = [one for one in self.wrong_moduli if total % one != total % modulus]
            # where every modulus gives the same answer, one is made that does not
            modulus = (
                int(rng.choice(others)) if others else next(m for m in range(2, total + 3) if total % m != total % modulus)
            )
        if style == "answer":
            return str(total % modulus)
        text, rest = str(total), total
        while rest >= modulus:
            rest -= modulus
            text += f"-{modulus}={rest}"
        return text

    def verify(self, item: Item, text: str) -> Verdict:
        """Steps: the sum, then each subtraction, which follows if it is right and of the same modulus as the first."""
        total, modulus = _total(item), self.moduli[str(item.content[0])]
        found = _LINE.fullmatch(text.strip())
        if found is None:
            return Verdict(False, None)
        taken = [(int(one), int(rest)) for one, rest in _TAKEN.findall(found[2])]
        answer = taken[-1][1] if taken else int(found[1])
        right = answer == total % modulus
        if not taken and total >= modulus:  # the answer alone
            return Verdict(right, str(answer), (), float(right))
        before = int(found[1])
        steps = [Step(found[1], before == total, before == total)]
        for one, rest in taken:
            follows = one == taken[0][0] and rest == before - one
            steps.append(Step(f"-{one}={rest}", follows, follows and one == modulus and before <= total))
            before = rest
        return Verdict(right, str(answer), tuple(steps), float(right))

    def modulus_shown(self, text: str) -> int | None:
        """The one modulus that a worked solution takes off; None where it shows none, or several."""
        shown = {int(one) for one, _ in _TAKEN.findall(text)}
        return shown.pop() if len(shown) == 1 else None


def _total(item: Item) -> int:
    return sum(int(str(term)) for term in item.content[1:])
