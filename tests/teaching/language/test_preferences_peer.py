"""The preference losses against TRL's own code, on the same tensors. Skipped where TRL is missing: it is no need of ours."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from tutelage.teaching.language.preferences import pair_loss

trl = pytest.importorskip("trl")

LENGTHS = torch.tensor([[3, 5, 1, 8, 2], [4, 1, 6, 7, 2]])  # chosen, rejected
NAMES = {"dpo": "sigmoid", "ln_dpo": "sigmoid_norm", "ipo": "ipo"}


def token_logprobs(seed: int) -> tuple[Tensor, Tensor]:
    """(token log-probabilities (10, 9), zero outside the completions; completion mask (10, 10)), TRL's layout."""
    lengths = LENGTHS.reshape(-1, 1)
    mask = (torch.arange(10) >= 1) & (torch.arange(10) < 1 + lengths)
    values = -torch.rand(10, 9, generator=torch.Generator().manual_seed(seed)) * 3
    return values * mask[:, 1:], mask.long()


def of_trl(kind: str, policy: Tensor, reference: Tensor, mask: Tensor, beta: float, smoothing: float = 0.0) -> float:
    outputs = SimpleNamespace(
        log_probs=policy, is_top1=torch.zeros_like(policy, dtype=torch.bool), entropies=torch.zeros_like(policy),
        entropy=torch.zeros_like(policy), mean_logits=torch.zeros_like(policy), aux_loss=None,
    )  # fmt: skip
    trainer = MagicMock()
    trainer.accelerator.device = "cpu"
    trainer.accelerator.gather_for_metrics = trainer.accelerator.gather = lambda value: value
    trainer.configure_mock(
        aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
        loss_types=[NAMES[kind]], loss_weights=[1.0], beta=beta, label_smoothing=smoothing, use_weighting=False,
    )  # fmt: skip
    sums = reference.sum(1)
    batch = {"input_ids": torch.zeros_like(mask), "completion_mask": mask, "attention_mask": torch.ones_like(mask)}
    batch |= {"ref_chosen_logps": sums[:5], "ref_rejected_logps": sums[5:]}
    return float(trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, batch, False))


@pytest.mark.parametrize(
    ("kind", "beta"), [("dpo", 0.1), ("dpo", 0.5), ("ln_dpo", 1.0), ("ln_dpo", 3.0), ("ipo", 0.1), ("ipo", 0.5)]
)
def test_reference_losses_are_those_of_trl(kind, beta):
    (policy, mask), (reference, _) = token_logprobs(1), token_logprobs(2)
    s, r = policy.sum(1), reference.sum(1)
    ours = pair_loss(kind, s[:5], s[5:], len_w=LENGTHS[0], len_l=LENGTHS[1], ref_w=r[:5], ref_l=r[5:], beta=beta).mean()
    assert float(ours) == pytest.approx(of_trl(kind, policy, reference, mask, beta), abs=1e-5)


@pytest.mark.parametrize(("beta", "gamma", "smoothing"), [(2.0, 0.5, 0.0), (2.5, 1.6, 0.0), (1.0, 0.0, 0.1)])
def test_simpo_is_that_of_trl(beta, gamma, smoothing):
    cpo = pytest.importorskip("trl.experimental.cpo")
    (policy, _), lengths = token_logprobs(3), LENGTHS
    s = policy.sum(1)
    trainer = SimpleNamespace(
        alpha=0.0,
        beta=beta,
        simpo_gamma=gamma,
        label_smoothing=smoothing,
        loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs, _, _ = cpo.CPOTrainer.cpo_loss(trainer, s[:5] / lengths[0], s[5:] / lengths[1])
    ours = pair_loss(
        "simpo", s[:5], s[5:], len_w=lengths[0], len_l=lengths[1], beta=beta, gamma=gamma, label_smoothing=smoothing
    )
    assert torch.allclose(ours, theirs, atol=1e-5)
