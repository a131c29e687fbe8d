"""Language worlds: splits, solutions in every style, mistakes, and verdicts for each step."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tutelage.core.errors import InputError, MissingError
from tutelage.data.worlds.arithmetic import ArithmeticChains
from tutelage.data.worlds.comparison import ComparisonPairs
from tutelage.data.worlds.key_modulus import KeyModulus
from tutelage.data.worlds.tasks import LanguageWorld, World, split_of

WORLDS: list[LanguageWorld] = [
    ArithmeticChains((2, 3, 4)),
    ArithmeticChains((2, 5), operations="+-", high=30),
    KeyModulus("abc"),
    ComparisonPairs(),
]
each_world = pytest.mark.parametrize("world", WORLDS, ids=lambda w: f"{w.name}-{getattr(w, 'operations', '')}")


@each_world
def test_every_style_is_verified_as_right_and_every_mistake_as_wrong(world: LanguageWorld):
    assert isinstance(world, World)
    rng = np.random.default_rng(0)
    for item in world.sample(60, rng):
        for style in world.styles:
            text = world.render(item, style, rng)
            assert set(item.prompt + text) <= set(world.alphabet)
            verdict = world.verify(item, text)
            assert (verdict.right, verdict.score, verdict.answer) == (True, 1.0, item.answer), (item.prompt, style, text)
            assert all(step.follows and step.right for step in verdict.steps)
            mistake = world.render(item, style, rng, wrong=True)
            assert set(mistake) <= set(world.alphabet)
            verdict = world.verify(item, mistake)
            assert (verdict.right, verdict.score) == (False, 0.0), (item.prompt, style, mistake)
            if verdict.steps:
                assert not all(step.right for step in verdict.steps)


@each_world
def test_splits_are_disjoint_whatever_the_seeds_and_their_shares_are_the_stated(world: LanguageWorld):
    keys = {
        split: {item.key for item in world.sample(300, seed, split)}
        for seed, split in enumerate(("train", "validation", "test"))
    }
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]
    drawn = [split_of(world.name, f"{i}") for i in range(4000)]
    assert abs(drawn.count("test") / 4000 - 0.1) < 0.02
    assert abs(drawn.count("train") / 4000 - 0.8) < 0.02


@each_world
def test_a_seed_gives_the_same_items_and_junk_is_judged_not_raised(world: LanguageWorld):
    assert world.sample(5, 3) == world.sample(5, 3) != world.sample(5, 4)
    item = world.sample(1, 0)[0]
    assert world.render(item, rng=1) == world.render(item, rng=1)
    for junk in ("", " ", ",", ",,", "=", "-", "9" * 5000, "a,b", "3+=,", "?", "<>", "1?2", "\n", "½", "１"):
        assert not world.verify(item, junk).right or junk == item.answer


def test_one_problem_in_another_order_is_one_problem():
    world = ArithmeticChains((3,), operations="+-")
    assert world.item((5, -3, 2)).key == world.item((5, 2, -3)).key != world.item((5, 3, -2)).key
    pairs = ComparisonPairs()
    assert pairs.item((1, 2), (5, 1)).key == pairs.item((5, 1), (1, 2)).key
    keys = KeyModulus("ab", moduli={"a": 7, "b": 5})
    assert keys.item("a", (5, 6, 4)).key == keys.item("a", (6, 5, 4)).key != keys.item("b", (5, 6, 4)).key


def test_distinct_items_and_a_world_that_has_not_so_many():
    world = ArithmeticChains((2,), high=4)
    found = world.sample(5, 0, distinct=True)
    assert len({item.key for item in found}) == 5
    with pytest.raises(InputError, match=r"n: got 100, wanted at most about \d+ distinct problems of split train"):
        world.sample(100, 0, distinct=True)
    assert len(world.sample(100, 0)) == 100


# by hand: 3+5+8 has the partial sums 8 and 16
@pytest.mark.parametrize(
    ("text", "right", "follows", "steps_right"),
    [
        ("8,16", True, [True, True], [True, True]),
        ("8,8,16,16,16", True, [True] * 5, [True] * 5),
        ("9,17", False, [False, True], [False, False]),  # the mistake is carried on
        ("9,16", True, [False, False], [False, True]),  # right by wrong steps
        ("8,15", False, [True, False], [True, False]),
        ("8", False, [], []),
        ("16", True, [], []),
        ("8,16,24", False, [True, True, False], [True, True, False]),
        ("3+5=8,8+8=16", True, [True, True], [True, True]),
        ("3+4=8,8+8=16", True, [False, True], [False, True]),  # a false equation
        ("3+5=8, so now 8+8=16, so 16", True, [True] * 3, [True] * 3),
        ("8,x,16", True, [True, False, True], [True, False, True]),
    ],
)
def test_steps_of_a_chain_by_hand(text: str, right: bool, follows: list[bool], steps_right: list[bool]):
    world = ArithmeticChains()
    verdict = world.verify(world.item((3, 5, 8)), text)
    assert verdict.right == right
    assert [step.follows for step in verdict.steps] == follows
    assert [step.right for step in verdict.steps] == steps_right
    assert verdict.sound == (bool(follows) and all(follows))
    assert verdict.first_mistake == (follows.index(False) if False in follows else None)


def test_padding_repeats_within_its_limits():
    world = ArithmeticChains((3,), repeats=(2, 2))
    assert world.render(world.item((3, 5, 8)), "padded", 0) == "8,8,8,16,16,16"
    world = ArithmeticChains((2,))
    counts = {world.render(world.item((3, 5)), "padded", seed).count("8") for seed in range(60)}
    assert counts == {2, 3, 4, 5}


def test_steps_of_key_modulus_by_hand():
    world = KeyModulus("ab", moduli={"a": 7, "b": 5})
    item = world.item("a", (5, 6, 4))
    assert [step.right for step in world.verify(item, "15-7=8-7=1").steps] == [True, True, True]
    other = world.verify(item, "15-5=10-5=5-5=0")  # the modulus of another key, without a slip
    assert not other.right
    assert other.sound
    assert [step.right for step in other.steps] == [True, False, False, False]
    assert world.modulus_shown("15-5=10-5=5") == 5
    assert world.modulus_shown("15-5=10-7=3") is None
    slip = world.verify(item, "15-7=9-7=2")
    assert not slip.right
    assert slip.first_mistake == 1
    small = world.item("a", (1, 2, 1))
    assert world.verify(small, "4").right
    assert world.render(small) == "4"
    assert world.verify(item, "1").right
    assert not world.verify(item, "1").steps


def test_comparison_by_hand():
    world = ComparisonPairs((1, 2, 3))
    item = world.item((9, -4), (3, 5, -2))
    assert (item.prompt, item.answer, world.level(item), world.shorter(item)) == ("9-4?3+5-2:", "<", 2, ">")
    assert world.shorter(world.item((1, 2), (2, 3))) == "="
    verdict = world.verify(item, "5?6>")
    assert not verdict.right
    assert [s.follows for s in verdict.steps] == [True, True, False]
    verdict = world.verify(item, "5?7<")
    assert verdict.right
    assert not verdict.sound


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: ArithmeticChains(()), "operands"),
        (lambda: ArithmeticChains((1,)), "operands"),
        (lambda: ArithmeticChains(low=0), "low"),
        (lambda: ArithmeticChains(low=5, high=4), "high"),
        (lambda: ArithmeticChains(styles=("loud",)), "styles"),
        (lambda: ArithmeticChains(repeats=(3, 1)), "repeats"),
        (lambda: ArithmeticChains().item((3,)), "terms"),
        (lambda: ArithmeticChains().item((3, 0)), "terms"),
        (lambda: KeyModulus("aa"), "keys"),
        (lambda: KeyModulus("ab", moduli={"a": 3}), "moduli"),
        (lambda: KeyModulus("ab", moduli={"a": 3, "b": 1}), "moduli"),
        (lambda: KeyModulus("ab").item("c", (1, 2)), "key"),
        (lambda: ComparisonPairs(()), "operations"),
        (lambda: ComparisonPairs().item((1, 2), (2, 1)), "left"),
        (lambda: ArithmeticChains().sample(1, 0, "tset"), "split"),
        (lambda: ArithmeticChains().sample(-1, 0), "n"),
        (lambda: ArithmeticChains().sample(1, -1), "rng"),
        (lambda: ArithmeticChains().render(ArithmeticChains().item((1, 2)), "loud"), "style"),
    ],
)
def test_bad_input_names_the_argument(make, argument: str):
    with pytest.raises(InputError) as error:
        make()
    assert error.value.argument == argument


def test_the_page_runs(root: Path, capsys: pytest.CaptureFixture[str]):
    page = (root / "docs" / "worlds.md").read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.S):
        exec(compile(code, "docs/worlds.md", "exec"), {})
    assert "False [" in capsys.readouterr().out


def test_reasoning_gym_is_a_world():
    pytest.importorskip("reasoning_gym")
    from tutelage.data.worlds.reasoning_gym import ReasoningGym

    world = ReasoningGym("chain_sum", min_terms=2, max_terms=3)
    assert isinstance(world, World)
    train, test = (world.sample(20, 0, split) for split in ("train", "test"))
    assert not {item.key for item in train} & {item.key for item in test}
    assert all(world.verify(item, world.render(item)).right for item in train)
    assert not world.verify(train[0], "no number").right
    with pytest.raises(InputError, match="task"):
        ReasoningGym("no_such_task")
    with pytest.raises(InputError, match="settings"):
        ReasoningGym("chain_sum", seed=3)


def test_without_reasoning_gym_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    import sys

    from tutelage.data.worlds.reasoning_gym import ReasoningGym

    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingError, match="pip install reasoning-gym"):
        ReasoningGym("chain_sum")
