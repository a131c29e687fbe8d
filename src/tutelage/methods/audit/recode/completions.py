"""Completions, cut to the asked function, and whether they pass."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.sandbox import ExecResult, Job, Sandbox
from tutelage.models.language.protocol import GenRequest, LanguageModel


@dataclass(frozen=True)
class Decoding:
    """How completions are made: n of them; temperature 0 is greedy, the paper's headline. stop: texts that end one.

    Stop texts save time and may cut valid code; truncation cuts what is too much in any case.
    """

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("n", self.n)
        if self.n > 1 and self.temperature == 0:
            raise InputError("n", self.n, "1 completion where decoding is greedy (temperature 0): the others would be the same")

    def request(self, prompt: str) -> GenRequest:
        return GenRequest(
            prompt,
            n=self.n,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=self.stop,
            seed=self.seed,
        )


def complete(lm: LanguageModel, prompts: Sequence[str], decoding: Decoding) -> dict[str, list[str]]:
    """Prompt -> its completions. Each prompt is asked once, byte for byte as it is."""
    unique = list(dict.fromkeys(prompts))
    answers = lm.generate([decoding.request(prompt) for prompt in unique]) if unique else []
    return {prompt: [one.text for one in found] for prompt, found in zip(unique, answers, strict=True)}


def truncate(prompt: str, completion: str, entry_point: str) -> str:
    """The program to run: the longest whole lines of prompt + completion that parse, cut after the asked function.

    Tried from the end, line by line: a shorter text may parse where a longer one does not, and the other way round, so halving
    would be wrong. If nothing parses, the text stays and will fail.
    """
    text = prompt + completion
    ends = [len(text), *(at for at in range(len(text) - 1, len(prompt) - 2, -1) if text[at] == "\n")]
    for end in ends:
        try:
            tree = ast.parse(text[:end])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point:
                lines = text[:end].split("\n")
                last = node.end_lineno or len(lines)
                if sum(len(line) + 1 for line in lines[:last]) >= len(
                    prompt.rstrip()
                ):  # not a helper of the same name before it
                    return "\n".join(lines[:last]) + "\n"
        return text[:end] + "\n"
    return text


def run_programs(programs: Sequence[tuple[str, str]], box: Sandbox) -> dict[tuple[str, str], ExecResult]:
    """(program, checks) -> how it ended; equal ones run once."""
    unique = list(dict.fromkeys(programs))
    return dict(zip(unique, box.run_many([Job(*one) for one in unique]), strict=True))
