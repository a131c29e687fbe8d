"""What a policy writes, measured against the model that it started from: reward, wins, divergence, length, truncation.

For N prompts x_n, answers y_n of the policy π and answers y⁰_n of the SFT model, both by the same decoding:

    (1)  KL_MC = (1/N) Σ_n Σ_i [log π(y_i|h_i) - log π_SFT(y_i|h_i)]            Monte Carlo, on own samples
    (2)  KL_RB = (1/N) Σ_n Σ_i KL( π(·|h_i) ‖ π_SFT(·|h_i) )                    the same in expectation, never negative
    (3)  win rate = mean of 1[r(y) > r(y⁰)] + ½ 1[r(y) = r(y⁰)]

h_i is the prompt with the answer before its token i. (1) and (2) are about sampling at temperature 1 without a nucleus; by
another decoding they are sums along those answers, not the divergence of the two models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.models.guard import evaluating
from tutelage.models.language.huggingface import HFBackend
from tutelage.models.language.protocol import Generation, GenRequest
from tutelage.teaching.language.divergences import token_divergences
from tutelage.teaching.language.pairs import Prompt, prompt_ids
from tutelage.teaching.language.sequences import completion_batch, token_logprobs

Score = Callable[[Prompt, Generation], float]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Decoding:
    """How every model answers: one setting for all that are compared. seed: of the samples, the same for all models."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, "a number >= 0; 0 is greedy decoding", low=0.0)
        check_number("top_p", self.top_p, "a share in (0, 1]", low=1e-9, high=1.0)
        check_integer("max_tokens", self.max_tokens)
        check_integer("seed", self.seed, low=0)

    @property
    def is_plain(self) -> bool:
        """Whether samples are draws from the model itself, so that (1) and (2) estimate its divergence."""
        return self.temperature == 1.0 and self.top_p == 1.0


@dataclass(frozen=True, eq=False)
class Measured:
    """One number a prompt, (N,) each.

    reward: by the score. win: 1, ½ or 0 against the SFT model's answer; win_chosen: against a given answer, or None. kl: (2),
    nats; kl_mc: (1). length: tokens with the end token. truncated: 1 where the answer did not end.
    """

    reward: FloatArray
    win: FloatArray
    win_chosen: FloatArray | None
    kl: FloatArray
    kl_mc: FloatArray
    length: FloatArray
    truncated: FloatArray

    def row(self) -> dict[str, float]:
        """Means; the standard error of the reward; divergences also per token; quartiles of the length."""
        n, tokens = len(self.reward), float(self.length.sum())
        error = float(self.reward.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
        low, middle, high = (float(q) for q in np.quantile(self.length, (0.25, 0.5, 0.75)))
        found = {
            "reward": float(self.reward.mean()),
            "reward_se": error,
            "win_rate": float(self.win.mean()),
            "kl": float(self.kl.mean()),
            "kl_per_token": float(self.kl.sum()) / tokens,
            "kl_mc": float(self.kl_mc.mean()),
            "length": float(self.length.mean()),
            "length_q25": low,
            "length_median": middle,
            "length_q75": high,
            "truncated": float(self.truncated.mean()),
        }
        return found if self.win_chosen is None else {**found, "win_rate_chosen": float(self.win_chosen.mean())}


def answers_of(lm: HFBackend, prompts: Sequence[Prompt], decoding: Decoding) -> list[Generation]:
    """One answer a prompt."""
    how = {"temperature": decoding.temperature, "top_p": decoding.top_p, "max_tokens": decoding.max_tokens}
    requests = [GenRequest(prompt, seed=decoding.seed, **how) for prompt in prompts]  # type: ignore[arg-type]
    return [found[0] for found in lm.generate(requests)]


def scored(prompts: Sequence[Prompt], answers: Sequence[Generation], score: Score) -> FloatArray:
    """The score (N,) of each answer; InputError where it is not finite."""
    found = np.array([float(score(prompt, answer)) for prompt, answer in zip(prompts, answers, strict=True)])
    if not np.isfinite(found).all():
        raise InputError("score", f"{found[~np.isfinite(found)][0]} for a prompt", "finite numbers")
    return found


def measure(
    policy: HFBackend,
    sft: HFBackend,
    prompts: Sequence[Prompt],
    score: Score,
    *,
    decoding: Decoding,
    sft_rewards: FloatArray,
    chosen_rewards: FloatArray | None = None,
) -> Measured:
    """Let the policy answer every prompt, and measure. sft_rewards: scores (N,) of the SFT model's answers by the same
    decoding; chosen_rewards: of given answers, if there are any. Raises InputError.
    """
    answers = answers_of(policy, prompts, decoding)
    reward = scored(prompts, answers, score)
    exact, sampled = divergence(policy, sft, prompts, answers)
    return Measured(
        reward,
        wins(reward, sft_rewards),
        None if chosen_rewards is None else wins(reward, chosen_rewards),
        exact,
        sampled,
        np.array([len(answer.tokens) for answer in answers], dtype=np.float64),
        np.array([float(answer.finish == "length") for answer in answers]),
    )


def wins(reward: FloatArray, other: FloatArray) -> FloatArray:
    """Equation (3) before the mean: 1 where better, ½ where equal, (N,)."""
    if reward.shape != other.shape:
        raise InputError("sft_rewards", f"{len(other)} numbers", f"{len(reward)}, one a prompt")
    found: FloatArray = (reward > other) + 0.5 * (reward == other)
    return found


def divergence(
    policy: HFBackend, sft: HFBackend, prompts: Sequence[Prompt], answers: Sequence[Generation]
) -> tuple[FloatArray, FloatArray]:
    """Summands of (2) and of (1), (N,) each, in nats, for answers with their tokens."""
    exact, sampled = np.zeros(len(prompts)), np.zeros(len(prompts))
    rows = [(prompt_ids(policy, prompt), list(answer.tokens)) for prompt, answer in zip(prompts, answers, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    for at in range(0, len(order), policy.batch_size):
        part = order[at : at + policy.batch_size]
        ids, attention, completion = (t.to(policy._device) for t in completion_batch([rows[i] for i in part]))
        with torch.no_grad(), evaluating(policy.model, verify=False), evaluating(sft.model, verify=False):
            call = {"input_ids": ids, "attention_mask": attention.long()}
            own, other = policy.model(**call).logits, sft.model(**call).logits
            mask = completion[:, 1:]
            kl = token_divergences(other[:, :-1], own[:, :-1], kind="reverse")
            difference = token_logprobs(own, ids) - token_logprobs(other, ids)
            exact[part] = torch.where(mask, kl, 0.0).sum(1).double().cpu().numpy()
            sampled[part] = torch.where(mask, difference, 0.0).sum(1).double().cpu().numpy()
    return exact, sampled
