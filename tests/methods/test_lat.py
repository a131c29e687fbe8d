"""LAT against its card: the eight invariants, losses by hand, limits that are plain fine-tuning and DPO, peft, resumption."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.core.errors import CheckpointError, InputError
from tutelage.core.rng import generator
from tutelage.methods.harden import lat
from tutelage.models.language.tiny import TinyGPT
from tutelage.teaching.fit import Context
from tutelage.teaching.language.sequences import SFT, completion_batch, sequence_logprobs
from tutelage.teaching.language.unlikelihood import away, toward
from tutelage.threats.latent.search import LatentBall

transformers = pytest.importorskip("transformers", reason="pip install 'tutelage[lm]'")
ALPHABET = "0123456789+=.x"
TEXTS = [("1+1=", "2.", "x."), ("10+2=", "12.", "xx."), ("7+8=", "15.", "x."), ("3+4=", "7.", "x.")]
KINDS = ("tiny", "gpt2", "llama")


def lm_of(kind: str = "tiny", seed: int = 0, *, scale: float = 6.0) -> TinyGPT:
    """Random weights, larger than usual, so that the model is sure of something."""
    sizes: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "context": 16}
    if kind == "gpt2":
        sizes = {"config": transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16)}
    if kind == "llama":
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            tie_word_embeddings=False,
        )  # fmt: skip
        sizes = {"config": config}
    lm = TinyGPT.new(ALPHABET, seed=seed, **sizes)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(scale if "emb" in name or "wte" in name else scale / 2)
    return lm


def triples_of(lm: TinyGPT) -> list[lat.Triple]:
    return lat.encode(lm.tokenizer, TEXTS)


def setting(kind: str = "tiny") -> tuple[nn.Module, list[lat.Triple], lat.TripleBatch]:
    lm = lm_of(kind)
    triples = triples_of(lm)
    return lm.model, triples, lat.triple_batch(triples)


def run(model: nn.Module, batch: lat.TripleBatch) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=batch.ids, attention_mask=batch.attention.long()).logits
    return found


ATTACK = lat.LatentAttack(2.0, ("embedding", 0), steps=4, lr=0.3, toward=0.5, away=0.5)
ADVERSARIES = [
    ATTACK,
    replace(ATTACK, toward=1.0, away=0.0),
    replace(ATTACK, adversary="untargeted"),
    replace(ATTACK, adversary="dpo"),
    replace(ATTACK, adversary="random"),
]
named = pytest.mark.parametrize("config", ADVERSARIES, ids=lambda one: f"{one.adversary}-{one.away:g}")
ctx = Context(0, 10, 1.0, generator(0))


# ---------------------------------------------------------------------------------------------------------- the invariants


@pytest.mark.parametrize("kind", KINDS)
def test_invariant_1_without_a_radius_a_step_is_fine_tuning(kind: str) -> None:
    model, _, batch = setting(kind)
    good = batch.half("good")
    objective = lat.LAT(replace(ATTACK, eps=0.0), lat.Defence(retain="none"), None)
    loss, _ = objective(model, lat.split_rows(batch), ctx)
    loss.backward()
    mine = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    plain, _ = SFT(per_sequence=True)(model, good, ctx)
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert mine.keys() == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    for name, parameter in model.named_parameters():
        if name in mine:
            torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-4, atol=1e-6)


@named
@pytest.mark.parametrize("where", ["prompt", "prompt+completion"])
def test_invariant_2_every_token_stays_in_its_ball(config: lat.LatentAttack, where: Any) -> None:
    model, _, batch = setting()
    config = replace(config, where=where)
    delta = lat.attack(model, batch, config, reference=lat.reference_of(model))
    mask = batch.mask(where)
    for part in delta.layers.values():
        sizes = part.norm(dim=2)
        assert float(sizes.max()) <= config.eps + 1e-6
        assert torch.equal(part[~mask], torch.zeros_like(part[~mask]))
        assert float(sizes[batch.mask()].min()) > 0  # the last token of a completion moves nothing
    # padding is outside in any case, and completions are if only the prompt is perturbed
    assert int(mask.sum()) == sum(
        len(t.prompt) + (max(len(t.good), len(t.bad)) if "+" in where else 0) for t in triples_of(lm_of())
    )


def test_the_ball_is_one_a_token_not_one_a_row() -> None:
    part = 10 * torch.ones(1, 3, 4)
    assert LatentBall(2.0).project(0, part).norm(dim=2).tolist()[0] == pytest.approx([2.0] * 3)
    assert LatentBall(2.0, per_token=False).project(0, part).norm().item() == pytest.approx(2.0)
    assert LatentBall(2.0, norm="linf").project(0, part).abs().max().item() == pytest.approx(2.0)


@pytest.mark.parametrize("kind", KINDS)
def test_invariant_3_the_adversary_gains_by_radius(kind: str) -> None:
    model, triples, batch = setting(kind)
    clean = lat.adversary_loss(ATTACK, run(model, batch), batch.ids, batch.completion).mean().item()
    curve = lat.elicitation_curve(model, triples, [0.0, 0.5, 1.0, 2.0, 4.0], ATTACK)
    losses = [row.loss for row in curve.rows]
    assert losses[0] == pytest.approx(clean, rel=1e-5)
    assert all(after <= before + 1e-5 for before, after in pairwise(losses))
    assert losses[-1] < clean - 0.1


@named
@pytest.mark.parametrize("kind", KINDS)
def test_invariants_4_and_7_the_model_is_as_it_was(kind: str, config: lat.LatentAttack) -> None:
    model, _, batch = setting(kind)
    model.train()
    next(model.parameters()).requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = run(model.eval(), batch)
    model.train()
    lat.attack(model, batch, config, reference=lat.reference_of(model))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(run(model.eval(), batch), before)  # bitwise: no hook is left
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_invariant_5_away_in_closed_form() -> None:
    z = torch.tensor([1.0, -0.5, 0.3], requires_grad=True)
    logits = torch.stack([z, z])[None]  # the token at position 1 is predicted from position 0
    ids, completion = torch.tensor([[0, 1]]), torch.tensor([[False, True]])
    value = away(logits, ids, completion)
    p = math.exp(-0.5) / (math.e + math.exp(-0.5) + math.exp(0.3))
    assert value.item() == pytest.approx(-math.log(1 - p), rel=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    others = 1 - p
    wanted = [math.e / (math.e + math.exp(-0.5) + math.exp(0.3)), p, math.exp(0.3) / (math.e + math.exp(-0.5) + math.exp(0.3))]
    # d/dz_k of log Σ_all - log Σ_others: softmax less the softmax of the others
    expected = [wanted[0] - wanted[0] / others, wanted[1], wanted[2] - wanted[2] / others]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-5)
    # below the floor: 0, and no gradient, but it counts in n
    sunk = torch.tensor([9.0, 0.0, 0.0], requires_grad=True)
    both = torch.stack([sunk, z.detach(), z.detach()])[None]
    two = away(both, torch.tensor([[0, 1, 1]]), torch.tensor([[False, True, True]]))
    assert two.item() == pytest.approx(-math.log(1 - p) / 2, rel=1e-6)
    assert torch.autograd.grad(two.sum(), sunk)[0].abs().max() == 0
    # certain of the token: finite, with its full gradient
    sure = torch.tensor([[[0.0, 60.0, 0.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    high = away(sure, ids, completion)
    assert high.item() == pytest.approx(60 - math.log(2), rel=1e-6)
    assert torch.autograd.grad(high.sum(), sure)[0][0, 0, 1].item() == pytest.approx(1.0)


def test_invariant_6_without_a_step_nothing_is_added() -> None:
    model, _, batch = setting()
    delta = lat.attack(model, batch, replace(ATTACK, steps=0))
    assert all(float(part.abs().max()) == 0 for part in delta.layers.values())
    assert delta.losses == []


def test_invariant_8_untargeted_is_targeted_at_minus_toward_good() -> None:
    model, _, batch = setting()
    logits = run(model, batch)
    good = logits.chunk(2)[0], batch.ids.chunk(2)[0], batch.completion.chunk(2)[0]
    untargeted = lat.adversary_loss(replace(ATTACK, adversary="untargeted"), *good)
    assert torch.equal(untargeted, -toward(*good))
    # the targeted loss, with the good completion in the bad one's place, has the same perturbation with the other sign of loss
    swapped = [lat.Triple(one.prompt, one.bad, one.good) for one in triples_of(lm_of())]
    targeted = lat.adversary_loss(
        replace(ATTACK, toward=1.0, away=0.0), run(model, lat.triple_batch(swapped)).chunk(2)[1],
        *(part.chunk(2)[1] for part in (lat.triple_batch(swapped).ids, lat.triple_batch(swapped).completion)),
    )  # fmt: skip
    torch.testing.assert_close(untargeted, -targeted)


# ----------------------------------------------------------------------------------------------------------- losses by hand


def test_the_losses_by_hand() -> None:
    model, _, batch = setting()
    logits = run(model, batch)
    z = logits.log_softmax(2)
    rows = []
    for row, (ids, mask) in enumerate(zip(batch.ids, batch.completion, strict=True)):
        places = mask.nonzero()[:, 0].tolist()
        rows.append([z[row, t - 1, ids[t]].item() for t in places])
    good, bad = rows[:4], rows[4:]
    assert [len(one) for one in good] == [3, 4, 4, 3]  # the end token counts
    up = [-sum(one) / len(one) for one in bad]
    down = [-sum(math.log1p(-math.exp(v)) for v in one if v >= -5) / len(one) for one in good]
    targeted = lat.adversary_loss(ATTACK, logits, batch.ids, batch.completion)
    assert targeted.tolist() == pytest.approx([0.5 * u + 0.5 * d for u, d in zip(up, down, strict=True)], rel=1e-5)

    refs = torch.tensor([-3.0, -4.0, -5.0, -6.0]), torch.tensor([-7.0, -6.0, -5.0, -4.0])
    margin = [
        0.3 * ((sum(b) - r_b) - (sum(g) - r_g)) for g, b, r_g, r_b in zip(good, bad, *(r.tolist() for r in refs), strict=True)
    ]
    dpo = lat.adversary_loss(replace(ATTACK, adversary="dpo"), logits, batch.ids, batch.completion, refs)
    assert dpo.tolist() == pytest.approx([math.log1p(math.exp(-m)) for m in margin], rel=1e-4)
    turned = lat.defence_loss(lat.Defence("dpo", toward=2.0), logits, batch.ids, batch.completion, refs)
    assert turned.item() == pytest.approx(2 * sum(math.log1p(math.exp(m)) for m in margin) / 4, rel=1e-4)
    both = lat.defence_loss(lat.Defence(toward=0.5, away=2.0), logits, batch.ids, batch.completion)
    pull = [-sum(one) / len(one) for one in good]
    push = [-sum(math.log1p(-math.exp(v)) for v in one if v >= -5) / len(one) for one in bad]
    assert both.item() == pytest.approx(sum(0.5 * a + 2 * b for a, b in zip(pull, push, strict=True)) / 4, rel=1e-5)


def test_one_step_of_the_search_by_hand() -> None:
    """The first step of Adam is the sign of the gradient times lr, then the projection."""
    model, _, batch = setting()
    config = lat.LatentAttack(0.15, (0,), steps=1, lr=0.05, toward=1.0)  # a step of 0.05 has length 0.2
    delta = lat.attack(model, batch, config).layers[0]
    bad = batch.half("bad")
    zeros = torch.zeros_like(delta).requires_grad_(True)
    with lat.perturbed(model, {0: zeros}):
        toward(model(input_ids=bad[0], attention_mask=bad[1].long()).logits, bad[0], bad[2]).sum().backward()
    assert zeros.grad is not None
    step = -0.05 * zeros.grad.sign() * batch.mask()[..., None]
    assert float(step.norm(dim=2).max()) > 0.19
    step = step * (0.15 / step.norm(dim=2, keepdim=True).clamp_min(0.15))
    far = zeros.grad.abs() > 1e-5  # Adam's own eps bends what is smaller
    torch.testing.assert_close(delta[far], step[far], rtol=2e-3, atol=1e-5)


def test_rows_do_not_depend_on_each_other() -> None:
    model, triples, batch = setting()
    whole = lat.attack(model, batch, ATTACK)
    alone = lat.attack(model, lat.triple_batch(triples[1:2]), ATTACK)
    width = alone.layers[0].shape[1]
    torch.testing.assert_close(whole.layers[0][1:2, :width], alone.layers[0], rtol=1e-2, atol=2e-3)


def test_gradients_that_are_not_finite_count_as_nothing() -> None:
    model, _, batch = setting()
    mask = batch.mask()
    ids, attention, _ = batch.half("good")

    def loss() -> Tensor:
        z = model(input_ids=ids, attention_mask=attention.long()).logits
        return z.sum((1, 2)) * torch.tensor([math.nan, 1.0, 1.0, 1.0])

    from tutelage.threats.latent import search

    delta = search(model, [0], LatentBall(1.0), mask, loss, steps=2)
    assert float(delta.layers[0][0].abs().max()) == 0
    assert float(delta.layers[0][1].abs().max()) > 0


def test_random_is_as_large_as_the_ball_allows_and_follows_its_generator() -> None:
    model, _, batch = setting()
    config = replace(ATTACK, adversary="random", layers=(0,))
    one, two, other = (lat.attack(model, batch, config, generator=generator(seed)).layers[0] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert float(one.norm(dim=2)[batch.mask()].mean()) == pytest.approx(2.0 * 16 / 17, rel=0.05)  # u^(1/d), d = 16


def test_a_radius_in_units_of_the_stream() -> None:
    model, _, batch = setting()
    ids, attention, _ = batch.half("good")
    norm = lat.residual_norms(model, [0], lambda: model(input_ids=ids, attention_mask=attention.long()), batch.mask())[0]
    found = lat.scaled(lat.LatentAttack(0.5, (0,), lr=0.2, units="residual"), model, batch)
    assert found.eps[0] == pytest.approx(0.5 * norm)
    assert found.lr[0] == pytest.approx(0.2 * norm / 4)  # sqrt(16)
    with pytest.warns(UserWarning, match="cannot reach its ball"):
        lat.scaled(lat.LatentAttack(12.0, (0,), steps=16, lr=0.05), model, batch)


# --------------------------------------------------------------------------------------------------------------- training


def trainer(model: nn.Module, triples: list[lat.Triple], **changes: Any) -> lat.LATTrainer:
    settings: dict[str, Any] = {
        "attack": replace(ATTACK, adversary="dpo", lr=0.5), "defence": lat.Defence("dpo"), "rounds": 3, "batch_size": 2,
        "inner_per_outer": 2, "lr": 1e-3,
    }  # fmt: skip
    return lat.LATTrainer(model, triples, [(one.prompt, one.good) for one in triples], **{**settings, **changes})


@pytest.mark.parametrize("retain", ["sft", "kl"])
@pytest.mark.parametrize("form", ["dpo", "toward_away"])
def test_without_an_adversary_it_is_the_baseline(form: Any, retain: Any) -> None:
    """SFT and DPO with the same batches and steps, done here step by step."""
    model, triples, _ = setting()
    other, base = copy.deepcopy(model), copy.deepcopy(model)
    defence = lat.Defence(form, away=0.0 if form == "dpo" else 0.5, retain=retain, w=0.7)
    job = trainer(model, triples, attack=None, defence=defence, batch_size=4, rounds=2, clip=0.3)
    history = job.fit().history
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3, weight_decay=0.0)
    batch = lat.triple_batch(triples)  # all four rows: the order does not matter
    refs = tuple(sequence_logprobs(run(base, batch), batch.ids, batch.completion)[0].chunk(2))
    for _ in range(4):
        logits = other(input_ids=batch.ids, attention_mask=batch.attention.long()).logits
        loss = lat.defence_loss(defence, logits, batch.ids, batch.completion, refs)
        ids, attention, completion = completion_batch([(one.prompt, one.good) for one in triples])
        kept = other(input_ids=ids, attention_mask=attention.long()).logits
        if retain == "sft":
            loss = loss + 0.7 * toward(kept, ids, completion).mean()
        else:
            with torch.no_grad():
                p = base(input_ids=ids, attention_mask=attention.long()).logits.log_softmax(2)
            kl = F.kl_div(kept.log_softmax(2), p, log_target=True, reduction="none").sum(2)[:, :-1]
            mask = completion[:, 1:]
            loss = loss + 0.7 * ((kl * mask).sum(1) / mask.sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.3)
        optimizer.step()
    assert history[-1]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for mine, wanted in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-5)


def test_one_search_serves_the_steps_of_its_round() -> None:
    model, triples, batch = setting()
    seen = []

    class Spy(lat.LAT):
        def _searched(self, *args: Any) -> Any:
            seen.append(args[-1].step)
            return super()._searched(*args)

    objective = Spy(ATTACK, lat.Defence(retain="none"), None, inner_per_outer=3)
    for step in range(6):
        objective(model, lat.split_rows(batch), replace_step(step))
    assert seen == [0, 3]
    # the batches are repeated, too, and every triple comes once before any comes twice
    from tutelage.methods.harden.lat.training import _Rounds

    rounds = _Rounds(triples, (), 2, 4, 3, 0, 0)
    prompts = [[tuple(row) for row in rounds[i][0][:, 0].tolist()] for i in range(len(rounds))]
    assert len(rounds) == 12
    assert prompts[0] == prompts[1] == prompts[2] != prompts[3]
    assert len({row[:4] for row in (*prompts[0], *prompts[3])}) == 4


def replace_step(step: int) -> Context:
    return Context(step, 10, 1.0, generator(0))


def test_hardening_makes_the_bad_completion_harder_to_elicit() -> None:
    model, triples, _ = setting()
    grid = [0.0, 0.5, 1.0, 2.0]
    attack = replace(ATTACK, adversary="dpo", lr=0.5, layers=(0,))
    before = lat.elicitation_curve(model, triples, grid, replace(attack, steps=8))
    old = copy.deepcopy(model)
    trainer(model, triples, attack=attack, rounds=15, batch_size=4, lr=1e-2).fit()
    after = lat.elicitation_curve(model, triples, grid, replace(attack, steps=8))
    assert after.rows[2].p_bad < before.rows[2].p_bad / 2
    kept = lat.retention(old, model, [(one.prompt, one.good) for one in triples])
    assert kept.logprob_after > kept.logprob_before  # it learnt the good ones, too
    assert kept.kl > 0
    assert lat.retention(old, old, [(one.prompt, one.good) for one in triples]).kl == pytest.approx(0, abs=1e-7)


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    model, triples, _ = setting()
    begin = copy.deepcopy(model)
    trainer(model, triples).fit()
    torn = copy.deepcopy(begin)
    job = trainer(torn, triples)

    class Stop(Exception):
        pass

    def falling(step: int, total: int) -> float:
        if step == 3 and not tmp_path.joinpath("stopped").exists():  # in the middle of a round
            tmp_path.joinpath("stopped").touch()
            raise Stop
        return 1.0

    job.schedule = falling
    with pytest.raises(Stop):
        job.fit(checkpoint=tmp_path / "run", checkpoint_every=1)
    again = copy.deepcopy(begin)
    job = trainer(again, triples)
    result = job.fit(checkpoint=tmp_path / "run", checkpoint_every=1)
    assert result.resumed_from == 3
    for mine, wanted in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, wanted)
    # the reference must be the model that the training began with
    with pytest.raises(CheckpointError, match="reference"):
        trainer(lm_of(seed=1).model, triples).fit(checkpoint=tmp_path / "run")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # between peft and transformers
def test_an_adapter_learns_and_its_base_is_the_reference() -> None:
    peft = pytest.importorskip("peft", reason="pip install 'tutelage[lm]'")
    base, triples, batch = setting("llama")
    plain = copy.deepcopy(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(base, config).eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert lat.residual_blocks(model).names[1].endswith("model.layers.1")
    assert lat.residual_blocks(model).embedding.endswith("embed_tokens")
    job = trainer(model, triples, lr=1e-2, rounds=4, defence=lat.Defence("dpo", retain="kl"))
    history = job.fit().history
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert history[0]["loss_retain"] == pytest.approx(0, abs=1e-6)  # a new adapter adds nothing
    assert history[-1]["loss_retain"] > 0
    flags = [parameter.requires_grad for parameter in model.parameters()]
    # the reference is the model below the adapter, wherever the adapter has gone
    refs = lat.reference_of(model)(batch.ids, batch.attention)
    torch.testing.assert_close(refs, run(plain, batch))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert not torch.allclose(run(model, batch), refs)
    delta = lat.attack(model, batch, replace(ATTACK, adversary="dpo"))
    assert delta.losses[-1] < delta.losses[0]


def test_only_the_chosen_blocks_learn() -> None:
    model, triples, _ = setting("gpt2")
    before = copy.deepcopy(model.state_dict())
    trainer(model, triples, layers=(1,)).fit()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("transformer.h.1.") for name in changed)
    assert all(parameter.requires_grad for parameter in model.parameters())


# -------------------------------------------------------------------------------------------------------------- measuring


def test_answers_are_what_greedy_decoding_gives() -> None:
    from tutelage.models.language import GenRequest

    lm = lm_of(seed=3)
    asked = [one[0] for one in TEXTS]
    said = [lm.generate([GenRequest(prompt, max_tokens=3)])[0][0].tokens for prompt in asked]
    prompts = [one.prompt for one in triples_of(lm)]
    right = list(zip(prompts, said, strict=True))
    wrong = [(prompt, (tokens[0], (tokens[1] + 1) % 17)) for prompt, tokens in right]
    assert lat.answers(lm.model, right, batch_size=3).tolist() == [True] * 4
    assert lat.answers(lm.model, wrong).tolist() == [False] * 4


def test_relearning_takes_more_steps_with_a_smaller_rate_and_leaves_the_model() -> None:
    model, triples, _ = setting()
    bad = [(one.prompt, one.bad) for one in triples]
    before = copy.deepcopy(model.state_dict())
    fast, slow = (lat.relearn_steps(model, bad, bad, lr=lr, max_steps=60) for lr in (2e-2, 5e-3))
    assert 0 < fast < slow <= 60
    assert lat.relearn_steps(model, bad, bad, lr=1e-6, max_steps=1) == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    taught = copy.deepcopy(model)
    trainer(taught, [lat.Triple(t.prompt, t.bad, t.good) for t in triples], attack=None, lr=2e-2, rounds=30, batch_size=4).fit()
    assert lat.relearn_steps(taught, bad, bad) == 0


def test_the_smallest_push() -> None:
    rows = torch.tensor([1.0, math.inf, 0.5, math.inf], dtype=torch.float64)
    assert lat.ElicitationCurve((), rows).median == 1.0
    assert lat.ElicitationCurve((), torch.tensor([math.inf, math.inf, 1.0])).median == math.inf


# --------------------------------------------------------------------------------------------------------------- bad input


def test_texts_become_triples_with_their_borders() -> None:
    lm = lm_of()
    one = lat.encode(lm.tokenizer, [("1+1=", "2.", "x.")])[0]
    assert one.prompt[0] == lm.tokenizer.bos_token_id
    assert one.good[-1] == one.bad[-1] == lm.tokenizer.eos_token_id
    assert lm.tokenizer.decode(list(one.good[:-1])) == "2."
    assert lat.encode(lm.tokenizer, [("1+1=", "2.", "x.")], end=False)[0].good == one.good[:-1]
    batch = lat.triple_batch([one, lat.Triple((1, 5), (6,), (7, 8, 9))])
    assert batch.mask().int().tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.mask("prompt+completion").int().tolist() == [[1] * 8, [1, 1, 1, 1, 1, 0, 0, 0]]
    with pytest.raises(InputError, match="row 1"):
        lat.encode(lm.tokenizer, [("1", "2", "3"), ("1", "2")])
    with pytest.raises(InputError, match="row 0"):
        lat.triple_batch([lat.Triple((1,), (), (2,))])


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"eps": -1}, "eps"),
        ({"eps": math.nan}, "eps"),
        ({"layers": ()}, "layers"),
        ({"layers": (0, 0)}, "layers"),
        ({"steps": -1}, "steps"),
        ({"lr": 0}, "lr"),
        ({"adversary": "both"}, "adversary"),
        ({"where": "all"}, "where"),
        ({"units": "pixels"}, "units"),
        ({"toward": 0.0}, "toward"),
    ],
)
def test_wrong_settings_of_the_attack_are_named(changes: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError, match=argument):
        lat.LatentAttack(**{"eps": 1.0, **changes})


def test_wrong_settings_of_the_training_are_named() -> None:
    model, triples, batch = setting()
    with pytest.raises(InputError, match="benign"):
        lat.LATTrainer(model, triples)
    with pytest.raises(InputError, match="away"):
        lat.Defence("dpo", away=1.0)
    with pytest.raises(InputError, match="toward"):
        lat.Defence(toward=0.0)
    with pytest.raises(InputError, match="7"):
        trainer(model, triples, attack=replace(ATTACK, layers=(7,)))
    with pytest.raises(InputError, match="triples"):
        lat.LATTrainer(model, [("a", "b", "c")], defence=lat.Defence(retain="none"))  # type: ignore[list-item]
    with pytest.raises(InputError, match="at most 16, the context"):
        trainer(model, [lat.Triple((1,) * 10, (2,), (3,) * 7)])
    with pytest.raises(InputError, match="token 17"):
        trainer(model, [lat.Triple((1,), (2,), (17,))])
    with pytest.raises(InputError, match="reference"):
        lat.attack(model, batch, replace(ATTACK, adversary="dpo"))
    with pytest.raises(InputError, match="eps_grid"):
        lat.elicitation_curve(model, triples, [1.0, 0.5], ATTACK)


def test_the_papers_settings() -> None:
    backdoor = lat.PRESETS["backdoor"]
    assert (backdoor.attack.eps, backdoor.attack.layers, backdoor.rounds) == (1.5, (4, 12, 20, 28), 256)
    assert (backdoor.attack.adversary, backdoor.defence.form, backdoor.lr) == ("dpo", "dpo", 2e-5)
    assert lat.PRESETS["refusal-llama3"].defence.retain == "kl"


# -------------------------------------------------------------------------------------------------------------- the report


def curve(shares: list[float]) -> lat.ElicitationCurve:
    rows = tuple(lat.Elicited(float(i), share, 1 - share, max(share, 1e-4), 0.0) for i, share in enumerate(shares))
    reached = [next((float(i) for i, s in enumerate(shares) if s > (k + 0.5) / 4), math.inf) for k in range(4)]
    return lat.ElicitationCurve(rows, torch.tensor(reached, dtype=torch.float64))


def test_the_page_says_what_changed(tmp_path: Path) -> None:
    from tutelage.methods.harden.lat.report import write_report

    before, after = curve([0.0, 0.6, 1.0]), curve([0.0, 0.1, 0.3])
    kept = lat.Retention(-0.1, -0.2, 1.0, 0.98, 0.05)
    page = write_report(tmp_path / "lat.html", before, after, replace(ATTACK, units="residual"), kept).read_text()
    for text in ("Harder to elicit", "at radius 1 before", "no radius up to 2 after", "98.0", "mean lengths of the stream"):
        assert text in page
    assert "Not harder to elicit" in write_report(tmp_path / "b.html", after, before, ATTACK).read_text()
    with pytest.raises(InputError, match="radii"):
        write_report(tmp_path / "c.html", before, curve([0.0, 1.0]), ATTACK)
