"""Preference training and the robustness map: the invariants of the card, values by hand, limit cases, resuming."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.core.errors import InputError, NotFinite
from tutelage.data.worlds.arithmetic import ArithmeticChains
from tutelage.methods.align.star_po import (
    Decoding,
    Grid,
    PreferenceData,
    RobustnessMap,
    TinyGPT,
    TokenPairs,
    default_grids,
    divergence,
    expected_best,
    pair_loss,
    recommend,
    reference_logprobs,
    regret,
    robustness_map,
    spread,
    tokenised,
    train_preference,
    wins,
    write_map,
)
from tutelage.methods.align.star_po import grid as grid_module
from tutelage.methods.align.star_po.measure import answers_of
from tutelage.models.language.protocol import Generation
from tutelage.teaching.language.pairs import completion_ids, prompt_ids
from tutelage.teaching.language.preference_training import pair_logprobs

ALPHABET = "0123456789+=,"


def tiny(seed: int = 0, **settings: int) -> TinyGPT:
    return TinyGPT.new(ALPHABET, **{"layers": 1, "width": 16, "heads": 2, "context": 48, **settings}, seed=seed, batch_size=64)


def some_pairs(n: int = 12) -> PreferenceData:
    world = ArithmeticChains((2,), styles=("terse", "padded"))
    items = world.sample(n, 0)
    chosen = [world.render(item, "padded", seed) for seed, item in enumerate(items)]
    return PreferenceData([item.prompt for item in items], chosen, [world.render(item, "terse") for item in items])


def weights(lm: TinyGPT) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in lm.model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 0.0) -> bool:
    return all(torch.allclose(a[name], b[name], atol=tolerance, rtol=0) for name in a)


# --------------------------------------------------------------------------------------------------------------- the losses

N, M = torch.tensor([3, 5, 1, 8]), torch.tensor([1, 5, 4, 2])


def values(seed: int) -> Tensor:
    return torch.randn(4, generator=torch.Generator().manual_seed(seed)) - 5


def test_simpo_without_a_margin_is_ln_dpo_against_a_reference_of_constant_log_probability_a_token():
    w, l_ = values(0), values(1)
    simpo = pair_loss("simpo", w, l_, len_w=N, len_l=M, beta=2.0)
    ln_dpo = pair_loss("ln_dpo", w, l_, len_w=N, len_l=M, ref_w=-1.7 * N, ref_l=-1.7 * M, beta=2.0)
    assert torch.allclose(simpo, ln_dpo, atol=1e-6)


@pytest.mark.parametrize("kind", ["dpo", "ln_dpo", "ipo", "simpo"])
def test_swapping_the_two_answers_turns_the_sign_and_no_gradient_goes_to_the_reference(kind):
    w, l_, rw, rl = (values(seed).requires_grad_() for seed in range(4))
    first = {"ref_w": rw, "ref_l": rl} if kind != "simpo" else {}
    second = {"ref_w": rl, "ref_l": rw} if kind != "simpo" else {}
    a = pair_loss(kind, w, l_, len_w=N, len_l=M, beta=0.7, **first)
    b = pair_loss(kind, l_, w, len_w=M, len_l=N, beta=0.7, **second)
    if kind == "ipo":  # ((m - c)², (-m - c)²) with c = 1/(2 β): their difference is -4 m c
        margin = (w - rw) / N - (l_ - rl) / M
        assert torch.allclose(a - b, -4 * margin / (2 * 0.7), atol=1e-5)
    else:  # -log σ(z) + log σ(-z) = -z
        shown = {"dpo": (w - rw) - (l_ - rl), "ln_dpo": (w - rw) / N - (l_ - rl) / M, "simpo": w / N - l_ / M}[kind]
        assert torch.allclose(a - b, -0.7 * shown, atol=1e-5)
    a.sum().backward()
    assert w.grad is not None
    assert rw.grad is None
    assert rl.grad is None


def test_a_constant_added_to_both_references_leaves_dpo_as_it_is():
    w, l_, rw, rl = (values(seed) for seed in range(4))
    a = pair_loss("dpo", w, l_, len_w=N, len_l=M, ref_w=rw, ref_l=rl, beta=0.3)
    b = pair_loss("dpo", w, l_, len_w=N, len_l=M, ref_w=rw + 3, ref_l=rl + 3, beta=0.3)
    assert torch.allclose(a, b, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- the pairs


def test_a_batch_masks_prompt_and_padding_and_counts_the_end_token():
    lm = tiny()
    pairs = tokenised(lm, PreferenceData(["1+1=", "12+1="], ["2,2", "13"], ["3", "14,14,14"]))
    assert pairs.lengths.tolist() == [[4, 2], [3, 9]]
    assert pairs.length_gap == -2.0
    ids, attention, completion = pairs.batch([1, 0])
    assert ids.shape == (2, 2, 15)  # BOS 12+1= 14,14,14 EOS
    assert completion.sum(2).tolist() == [[3, 9], [4, 2]]
    assert attention.sum(2).tolist() == [[9, 15], [9, 7]]
    row = ids[0, 0][completion[0, 0]].tolist()
    assert row == [*completion_ids(lm, "12+1=", "13"), lm.tokenizer.eos_token_id]
    assert ids[0, 0][: len(prompt_ids(lm, "12+1="))].tolist() == prompt_ids(lm, "12+1=")


def test_rows_that_teach_nothing_or_cannot_be_used_are_named():
    with pytest.warns(UserWarning, match="1 of 2 pairs have equal completions"):
        data = PreferenceData(["1+1=", "1+2="], ["2", "3"], ["2", "4"])
    assert (len(data), data.dropped, data.prompts) == (1, 1, ("1+2=",))
    with pytest.raises(InputError, match="rejected: got the chosen completion in every row"):
        PreferenceData(["1"], ["2"], ["2"])
    with pytest.raises(InputError, match="rejected: got row 1 without a token"):
        TokenPairs([[1], [1]], [[2], [3]], [[3], []])
    with pytest.raises(InputError, match="chosen: got 1 rows, wanted 2"):
        PreferenceData(["1", "2"], ["3"], ["4", "5"])
    with pytest.raises(InputError, match="chosen: got row 0 of type int"):
        PreferenceData(["1"], [3], ["4"])
    lm, data = tiny(), PreferenceData(["1+1=", "2+2="], ["2", "4,4,4,4"], ["3", "5"])
    with pytest.raises(InputError, match="row 1 of 13 tokens, wanted at most 10"):
        tokenised(lm, data, max_length=10)
    with pytest.warns(UserWarning, match="1 of 2 pairs are longer than 10 tokens"):
        assert len(tokenised(lm, data, max_length=10, on_long="drop")) == 1


def test_log_probabilities_are_those_of_the_language_model_whatever_the_padding():
    lm, data = tiny(), some_pairs(5)
    pairs = tokenised(lm, data)
    found = reference_logprobs(lm, pairs, batch_size=2)
    eos = lm.tokenizer.eos_token_id
    for row in range(5):
        for side, column in enumerate((data.chosen, data.rejected)):
            ids = torch.tensor([[*prompt_ids(lm, data.prompts[row]), *completion_ids(lm, data.prompts[row], column[row]), eos]])
            logs = lm.model(input_ids=ids).logits.detach().log_softmax(2)[0, :-1]
            tail = pairs.lengths[row, side]
            by_hand = logs[torch.arange(len(logs)), ids[0, 1:]][-tail:].sum()
            assert float(found[row, side]) == pytest.approx(float(by_hand), abs=1e-4)


def test_the_reference_is_kept_on_disk_and_asked_again_only_if_model_or_pairs_change(tmp_path, monkeypatch):
    from tutelage.teaching.language import preference_training

    lm, pairs = tiny(), tokenised(tiny(), some_pairs(4))
    first = reference_logprobs(lm, pairs, cache=tmp_path)
    asked: list[int] = []
    monkeypatch.setattr(preference_training, "_asked", lambda *_: asked.append(1) or torch.zeros(4, 2))
    assert torch.equal(reference_logprobs(lm, pairs, cache=tmp_path), first)
    assert not asked
    reference_logprobs(tiny(seed=1), pairs, cache=tmp_path)
    reference_logprobs(lm, tokenised(lm, some_pairs(3)), cache=tmp_path)
    assert len(asked) == 2


# ------------------------------------------------------------------------------------------------------------- the training


@pytest.mark.parametrize(("loss", "wanted"), [("dpo", math.log(2)), ("ln_dpo", math.log(2)), ("ipo", 1 / (4 * 0.5**2))])
def test_at_the_start_the_policy_is_its_reference(loss, wanted):
    run = train_preference(tiny(), some_pairs(), loss=loss, beta=0.5, steps=3, lr=1e-2, batch_size=12)
    assert run.history[0]["loss"] == pytest.approx(wanted, rel=1e-5)
    assert run.margins[0] == pytest.approx(0.0, abs=1e-6)
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert run.reference == "start"
    assert run.length_gap > 0


@pytest.mark.parametrize("loss", ["dpo", "ln_dpo", "simpo", "ipo"])
def test_training_ranks_the_pairs_and_runs_twice_the_same(loss):
    found = []
    for _ in range(2):
        lm = tiny()
        run = train_preference(
            lm, some_pairs(), None if loss == "simpo" else "start", loss=loss, beta=1.0, steps=15, lr=1e-2, batch_size=6
        )
        assert run.accuracies[-1] == 1.0
        found.append(weights(lm))
    assert same(found[0], found[1])
    assert not same(found[0], weights(tiny()))


def test_with_equal_lengths_ln_dpo_trains_the_same_weights_as_dpo_with_a_beta_divided_by_them():
    data = PreferenceData(["1+1=", "2+1="], ["2", "3"], ["4", "5"])  # 2 tokens each
    found = []
    for loss, beta in (("dpo", 0.4), ("ln_dpo", 0.8)):
        lm = tiny()
        train_preference(lm, data, loss=loss, beta=beta, steps=4, lr=1e-3)
        found.append(weights(lm))
    assert same(found[0], found[1], 1e-6)


def test_dropout_is_off_unless_it_is_asked_for():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=48, resid_pdrop=0.5, embd_pdrop=0.5)
    first = []
    for dropout in (False, True):
        lm = TinyGPT.new(ALPHABET, config=copy.deepcopy(config))
        run = train_preference(lm, some_pairs(), loss="dpo", beta=0.5, steps=1, lr=1e-3, dropout=dropout)
        first.append(run.history[0]["loss"])
        assert not lm.model.training
    assert first[0] == pytest.approx(math.log(2), rel=1e-5)
    assert abs(first[1] - math.log(2)) > 1e-4


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_an_adapter_switched_off_is_the_reference_and_only_the_adapter_is_trained():
    peft = pytest.importorskip("peft")
    lm = tiny()
    base = weights(lm)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    lm.model = peft.get_peft_model(lm.model, config)
    run = train_preference(lm, some_pairs(), "adapter-off", loss="ln_dpo", beta=1.0, steps=6, lr=5e-2)
    assert run.history[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)  # lora_dropout is off too
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    after = {name: value for name, value in lm.model.state_dict().items() if "lora" not in name}
    assert same({k.replace("base_model.model.", "").replace(".base_layer", ""): v for k, v in after.items()}, base)
    with pytest.raises(InputError, match="adapter"):
        train_preference(tiny(), some_pairs(), "adapter-off", loss="dpo", beta=0.1)


def test_another_model_may_be_the_reference_and_must_have_the_same_vocabulary():
    other, lm = tiny(seed=1), tiny()
    before = weights(other)
    run = train_preference(lm, some_pairs(), other, loss="dpo", beta=0.5, steps=2, lr=1e-3, batch_size=12)
    pairs = tokenised(lm, some_pairs())
    start, ref = reference_logprobs(tiny(), pairs), reference_logprobs(other, pairs)
    z = 0.5 * ((start - ref)[:, 0] - (start - ref)[:, 1])
    assert run.history[0]["loss"] == pytest.approx(float(torch.nn.functional.softplus(-z).mean()), rel=1e-4)
    assert same(weights(other), before)
    with pytest.raises(InputError, match="the same vocabulary"):
        train_preference(lm, some_pairs(), TinyGPT.new("abc", layers=1, width=16, heads=2), loss="dpo", beta=0.5)


def test_a_training_that_was_cut_off_ends_with_the_same_weights(tmp_path):
    whole, cut = tiny(), tiny()
    settings = {"loss": "ln_dpo", "beta": 2.0, "lr": 1e-2, "batch_size": 4}
    train_preference(whole, some_pairs(), steps=6, checkpoint=tmp_path / "whole", **settings)
    objective = "tutelage.teaching.language.preference_training.PreferenceObjective.__call__"
    from tutelage.teaching.language.preference_training import PreferenceObjective

    plain, calls = PreferenceObjective.__call__, []

    def dying(self, model, batch, ctx):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return plain(self, model, batch, ctx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, dying)
        with pytest.raises(KeyboardInterrupt):
            train_preference(cut, some_pairs(), steps=6, checkpoint=tmp_path / "cut", **settings)
    again = tiny()
    train_preference(again, some_pairs(), steps=6, checkpoint=tmp_path / "cut", **settings)
    assert same(weights(again), weights(whole))


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"loss": "orpo"}, "loss"),
        ({"beta": 0.0}, "beta"),
        ({"gamma": 0.5}, "gamma"),
        ({"lr": -1.0}, "lr"),
        ({"reference": None}, "reference"),
        ({"reference": "base"}, "reference"),
        ({"reference": torch.zeros(3, 2)}, "reference"),
        ({"loss": "simpo", "reference": torch.zeros(12, 2)}, "reference"),
        ({"epochs": 1, "steps": 2}, "epochs"),
        ({"label_smoothing": 0.7}, "label_smoothing"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_computed(settings, argument):
    lm = tiny()
    before = weights(lm)
    with pytest.raises(InputError) as error:
        train_preference(lm, some_pairs(), **{"loss": "dpo", "beta": 0.5, **settings})
    assert error.value.argument == argument
    assert same(weights(lm), before)


def test_a_beta_of_dpo_given_to_ln_dpo_is_warned_of():
    with pytest.warns(UserWarning, match="beta 0.1 is one of DPO"):
        train_preference(tiny(), some_pairs(4), loss="ln_dpo", beta=0.1, steps=1)


# ---------------------------------------------------------------------------------------------------------- the robustness


def test_the_expected_best_of_k_by_enumeration():
    from itertools import combinations

    z, by = [0.3, -1.0, 2.0, 0.5, 0.4], [3.0, 9.0, 1.0, 5.0, 4.0]
    for k in range(1, 6):
        sets = list(combinations(range(5), k))
        assert expected_best(z, k) == pytest.approx(np.mean([max(z[i] for i in s) for s in sets]))
        chosen = [z[max(s, key=lambda i: by[i])] for s in sets]
        assert expected_best(z, k, by=by) == pytest.approx(np.mean(chosen))
    assert expected_best(z, 1) == pytest.approx(np.mean(z))
    assert expected_best(z, 5) == 2.0
    assert regret(z, 5) == 0.0
    assert expected_best(z, 5, by=by) == -1.0  # what is best on validation is the worst here
    found = [expected_best(z, k) for k in range(1, 6)]
    assert found == sorted(found)
    # equals by the criterion: each is as likely to be taken
    assert expected_best([1.0, 3.0], 2, by=[0.0, 0.0]) == 2.0
    with pytest.raises(InputError, match="k"):
        expected_best(z, 6)


def test_the_spread_by_hand():
    found = spread([1.0, 2.0, 3.0, 6.0])
    assert (found.n, found.mean, found.worst, found.q25, found.best) == (4, 3.0, 1.0, 1.75, 6.0)
    assert found.sd == pytest.approx(math.sqrt(14 / 3))


def test_a_recommendation_says_how_sure_it_is():
    rng = np.random.default_rng(0)
    clear = recommend({"a": [[1.0, 1.1, 0.9]] * 3, "b": [[0.1, 0.2, 0.0]] * 3}, rng=rng, n_resamples=200)
    assert (clear.method, clear.runner_up, clear.clear, clear.shares["a"]) == ("a", "b", True, 1.0)
    assert clear.lead == pytest.approx(0.9)
    open_ = recommend({"a": [[0.0, 1.0]], "b": [[0.1, 0.8]]}, rng=rng, n_resamples=200)
    assert (open_.method, open_.clear) == ("a", False)
    assert "no clear lead" in str(open_)
    # a method of one lucky cell is best for many tries, and not for one
    scores = {"lucky": [[0.0, 0.0, 0.0, 1.0]], "steady": [[0.5, 0.5, 0.5, 0.5]]}
    assert recommend(scores, k=1, rng=rng, n_resamples=50).method == "steady"
    assert recommend(scores, k=4, rng=rng, n_resamples=50).method == "lucky"


def test_wins_count_ties_as_half():
    assert wins(np.array([1.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.5])).tolist() == [1.0, 0.0, 0.5]


def test_rao_blackwell_is_never_negative_and_equals_monte_carlo_in_expectation():
    ends = Decoding(max_tokens=2)
    policy, sft = tiny(seed=1), tiny(seed=2)
    prompts = ["1+1="]
    # every answer of two tokens, with its probability: the mean of both estimates is the same number
    rb = mc = total = 0.0
    vocabulary = range(len(policy.tokenizer))
    eos = policy.tokenizer.eos_token_id
    first = policy.model(input_ids=torch.tensor([prompt_ids(policy, prompts[0])])).logits[0, -1].detach().double().softmax(0)
    answers: list[tuple[tuple[int, ...], float]] = []
    for a in vocabulary:
        if a == eos:
            answers.append(((a,), float(first[a])))
            continue
        ids = torch.tensor([[*prompt_ids(policy, prompts[0]), a]])
        second = policy.model(input_ids=ids).logits[0, -1].detach().double().softmax(0)
        answers += [((a, b), float(first[a] * second[b])) for b in vocabulary]
    given = [Generation("", len(tokens), "stop", tokens) for tokens, _ in answers]
    exact, sampled = divergence(policy, sft, prompts * len(given), given)
    for (_, p), one, other in zip(answers, exact, sampled, strict=True):
        rb, mc, total = rb + p * one, mc + p * other, total + p
    assert total == pytest.approx(1.0)
    assert rb == pytest.approx(mc, rel=1e-3)
    assert rb > 0
    assert exact.min() >= 0
    assert sampled.min() < 0  # a single Monte-Carlo term may be negative
    drawn = answers_of(policy, prompts, ends)
    itself = divergence(policy, policy, prompts, drawn)
    assert [float(part[0]) for part in itself] == [0.0, 0.0]


# ------------------------------------------------------------------------------------------------------------------ the map

PROMPTS, VALIDATION = ["1+1=", "2+3="], ["4+4=", "1+5="]
GRIDS = {"dpo": Grid("dpo", (0.1, 0.5), (1e-3,)), "simpo": Grid("simpo", (2.0,), (1e-3, 1e-2), (0.5,))}
HOW = {"validation": VALIDATION, "steps": 2, "decoding": Decoding(max_tokens=4), "batch_size": 6}


def short(prompt: object, answer: Generation) -> float:
    return -float(len(answer.tokens)) + (answer.tokens[0] % 3)


def test_a_map_is_resumed_from_its_folder_and_changes_no_model(tmp_path, monkeypatch):
    sft, data = tiny(), some_pairs()
    before = weights(sft)
    whole = robustness_map(sft, data, GRIDS, short, PROMPTS, chosen=["2", "5"], **HOW)
    assert same(weights(sft), before)
    assert [row.status for row in whole.rows] == ["ok"] * 4
    done: list[int] = []
    plain = grid_module.train_preference

    def dying(*arguments, **settings):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return plain(*arguments, **settings)

    monkeypatch.setattr(grid_module, "train_preference", dying)
    with pytest.raises(KeyboardInterrupt):
        robustness_map(sft, data, GRIDS, short, PROMPTS, chosen=["2", "5"], folder=tmp_path / "run", **HOW)
    monkeypatch.setattr(grid_module, "train_preference", lambda *a, **k: done.append(1) or plain(*a, **k))
    again = robustness_map(sft, data, GRIDS, short, PROMPTS, chosen=["2", "5"], folder=tmp_path / "run", **HOW)
    assert len(done) == 4
    assert [(row.method, row.setting, dict(row.test)) for row in again.rows] == [
        (row.method, row.setting, dict(row.test)) for row in whole.rows
    ]
    with pytest.raises(InputError, match="out"):
        robustness_map(tiny(seed=3), data, GRIDS, short, PROMPTS, folder=tmp_path / "run", **HOW)
    again.save(tmp_path / "map.json")
    assert RobustnessMap.load(tmp_path / "map.json").table == again.table
    page = write_map(tmp_path / "map.html", again, k=2).read_text()
    assert "simpo" in page
    assert page.count("<svg") == 3


def test_what_fails_is_counted_and_leaves_one_with_the_sft_model(monkeypatch):
    plain = grid_module.train_preference

    def failing(model, pairs, reference, **settings):
        if settings["beta"] == 0.5:
            raise NotFinite(3, "the loss")
        return plain(model, pairs, reference, **settings)

    monkeypatch.setattr(grid_module, "train_preference", failing)
    found = robustness_map(tiny(), some_pairs(), GRIDS, short, PROMPTS, **HOW)
    assert found.failed("dpo") == 1
    assert found.failed("simpo") == 0
    assert found.scores("dpo", 0)[1] == found.sft["test"]["reward"]
    assert "step 3" in found.of("dpo")[1].error
    assert found.table[0]["failed"] == 1


def test_the_best_cell_is_chosen_on_validation_prompts_and_reported_on_test_prompts():
    from tutelage.methods.align.star_po import Row, Setting

    def row(beta: float, validation: float, test: float) -> Row:
        rest = {"kl": 1.0, "win_rate": 0.5, "truncated": 0.0}
        measured = [{"reward": value, "length": 10 * value, **rest} for value in (validation, test)]
        return Row("dpo", Setting("dpo", beta, 1e-3), 0, "ok", measured[0], measured[1])

    sft = {split: {"reward": 0.0, "length": 5.0} for split in ("validation", "test")}
    found = RobustnessMap((row(0.1, 0.9, 0.2), row(0.3, 0.5, 0.8), row(0.5, 0.1, 0.5)), sft, Decoding())
    assert found.chosen("dpo", 0).setting.beta == 0.1
    (line,) = found.table
    assert (line["chosen"], line["mean"], line["worst"], line["chosen_length"]) == (0.2, 0.5, 0.2, 2.0)
    assert found.expected_best("dpo", 3) == 0.2
    assert found.regret("dpo", 3) == pytest.approx(0.6)
    # by hand: of two, the one with the higher validation: {1,2} -> 0.2, {1,3} -> 0.2, {2,3} -> 0.8
    assert found.expected_best("dpo", 2) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"validation": PROMPTS}, "validation"),
        ({"validation": []}, "validation"),
        ({"chosen": ["2"]}, "chosen"),
        ({"seeds": (0, 0)}, "seeds"),
        ({"methods": {"dpo": Grid("dpo", (0.1,), (1e-3,))}}, "methods"),
        ({"methods": {}}, "methods"),
    ],
)
def test_a_map_refuses_what_would_make_it_worthless(change, argument):
    settings = {"methods": GRIDS, **HOW, **change}
    with pytest.raises(InputError) as error:
        robustness_map(tiny(), some_pairs(4), settings.pop("methods"), short, PROMPTS, **settings)
    assert error.value.argument == argument


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="score"):
        robustness_map(tiny(), some_pairs(4), GRIDS, lambda *_: math.nan, PROMPTS, **HOW)


def test_grids_are_products_and_only_simpo_has_a_margin():
    assert len(default_grids()["simpo"].settings) == 4 * 2 * 3
    assert [str(s) for s in Grid("dpo", (0.1, 0.5), (1e-3,)).settings] == ["beta 0.1, lr 0.001", "beta 0.5, lr 0.001"]
    for wrong in ({"beta": ()}, {"beta": (0.1, 0.1)}, {"beta": (-1.0,)}, {"gamma": (0.5,)}):
        with pytest.raises(InputError):
            Grid(**{"loss": "dpo", "beta": (0.1,), "lr": (1e-3,), **wrong})


def test_pairs_in_one_pass_are_those_of_two():
    lm, rows = tiny(), (0, 3)
    pairs = tokenised(lm, some_pairs(4))
    ids, attention, completion = pairs.batch(rows)
    together, lengths = pair_logprobs(lm.model, ids, attention, completion)
    for i, row in enumerate(rows):
        alone, _ = pair_logprobs(lm.model, *pairs.batch([row]))
        assert torch.allclose(together[i], alone[0], atol=1e-4)
        assert lengths[i].tolist() == pairs.lengths[row].tolist()
