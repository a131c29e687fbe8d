"""An n-gram law as a table: every next-token probability is known exactly, and all rows of a batch are looked up at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import torch
from torch import Tensor

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.models.language.next_token.padded import Padded
from tutelage.models.language.next_token.rolling import check_roll, roll
from tutelage.models.language.ngram import END, NGramLM

MOST_ENTRIES = 50_000_000


class NGramTable:
    """log P(w | last n-1 tokens) for every history.

    table: ((V+1)^(n-1), V) log-probabilities, -inf where a token cannot follow. A history (h_1 … h_{n-1}), oldest first, is the
        number with these digits to the base V+1; the digit V means that the text had not begun.
    order: n. ends: ids that end a text. tokens: the vocabulary by id, where it is known. Raises InputError.
    """

    def __init__(self, table: Tensor, *, order: int, ends: Iterable[int] = (), tokens: dict[int, str] | None = None) -> None:
        check_integer("order", order)
        if table.dim() != 2 or table.shape[0] != (table.shape[1] + 1) ** (order - 1):
            raise InputError("table", tuple(table.shape), f"a tensor ((V+1)^{order - 1}, V)")
        sums = table.double().exp().sum(1)
        if not bool(((sums - 1).abs() < 1e-5).all()):
            row = int(((sums - 1).abs() >= 1e-5).nonzero()[0]) if bool(torch.isfinite(sums).all()) else -1
            raise InputError("table", f"probabilities that sum to {float(sums[row]):g} in row {row}", "log-probabilities")
        self.table, self.order, self.size = table.float(), order, int(table.shape[1])
        self.ends, self.tokens = frozenset(int(end) for end in ends), tokens

    @classmethod
    def of(cls, lm: NGramLM, tokens: Sequence[str | None], *, end: int | None = None) -> NGramTable:
        """The law of `lm` over ids 0 … len(tokens)-1; tokens[i] is the unit that id i stands for, None for an id that never
        occurs (padding, a first token). end: the id of the end of a text; None: texts do not end.

        What `lm` gives to units without an id (unknown ones, the end) goes to the others in proportion. Raises InputError.
        """
        size = len(tokens)
        if (size + 1) ** (lm.order - 1) * size > MOST_ENTRIES:
            raise InputError("lm", f"order {lm.order} over {size} ids", f"at most {MOST_ENTRIES:,} entries")
        places = {unit: i for i, unit in enumerate(lm.vocabulary)}
        units = [END if i == end else token for i, token in enumerate(tokens)]
        if missing := [unit for i, unit in enumerate(units) if unit is not None and i != end and unit not in places]:
            raise InputError("tokens", repr(missing[0]), f"units that {lm.name} has seen")
        column = torch.tensor([places[unit] if unit is not None else -1 for unit in units])
        rows = []
        for digits in product(range(size + 1), repeat=lm.order - 1):
            # from the last place where nothing was, or where an id lies that never occurs, the text begins
            history = [units[digit] if digit < size else None for digit in digits]
            begun = max((at + 1 for at, unit in enumerate(history) if unit is None or unit == END), default=0)
            p = torch.from_numpy(lm.probabilities([str(unit) for unit in history[begun:]]))[column.clamp(min=0)]
            p = torch.where(column >= 0, p, 0.0)
            rows.append((p / p.sum()).log())
        known = {i: token for i, token in enumerate(tokens) if token is not None}
        return cls(torch.stack(rows), order=lm.order, ends=() if end is None else (end,), tokens=known)

    def log_probs(self, prompts: Padded, answers: Padded) -> Tensor:
        """(B, T, V): the law of each answer token after the prompt and the answer before it; float32."""
        ids = torch.cat([self._digits(prompts), self._digits(answers)], 1)
        history, n = ids.new_zeros(len(ids), answers.width), self.order - 1
        ids = torch.cat([ids.new_full((len(ids), n), self.size), ids], 1)
        for back in range(n, 0, -1):
            at = n + prompts.width - back
            history = history * (self.size + 1) + ids[:, at : at + answers.width]
        return self.table[history]

    def sample(self, prompts: Padded, max_new: int, *, seeds: Sequence[int], temperature: float = 1.0) -> Padded:
        """Answers by the law itself."""
        check_roll(len(prompts), max_new, seeds, temperature)
        state = _History(self, prompts)
        return roll(state, self.table[state.history], max_new=max_new, seeds=seeds, ends=self.ends, temperature=temperature)

    def _digits(self, rows: Padded) -> Tensor:
        if rows.highest() >= self.size:
            raise InputError("prompts", f"the id {rows.highest()}", f"ids below {self.size}")
        return torch.where(rows.mask, rows.ids, self.size)


class _History:
    def __init__(self, table: NGramTable, prompts: Padded) -> None:
        self.law, n = table, table.order - 1
        ids = table._digits(prompts)
        ids = torch.cat([ids.new_full((len(ids), n), table.size), ids], 1)
        self.history = ids.new_zeros(len(ids))
        for at in range(ids.shape[1] - n, ids.shape[1]):
            self.history = self.history * (table.size + 1) + ids[:, at]

    def step(self, tokens: Tensor) -> Tensor:
        base = self.law.size + 1
        if self.law.order > 1:
            self.history = self.history % base ** (self.law.order - 2) * base + tokens
        return self.law.table[self.history]

    def select(self, rows: Tensor) -> None:
        self.history = self.history[rows]
