"""Text edits: protected spans, one stream for each item, rates, label effects, and what each edit does to a sentence."""

from __future__ import annotations

import hashlib
import itertools
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.errors import InputError
from tutelage.threats.text import (
    BackTranslation,
    ButterFingers,
    Casual,
    Chain,
    Change,
    ChangeCharCase,
    Contract,
    Distractor,
    Elongated,
    EntitySwap,
    ExpandContractions,
    FunctionEdit,
    Identity,
    Lexicon,
    LowerCase,
    Negation,
    NoPunctuation,
    OCRErrors,
    OpeningPhrase,
    PhraseParaphrase,
    SwapCharacters,
    SynonymInsertion,
    SynonymSubstitution,
    TextEdit,
    Typos,
    UpperCase,
    Whitespace,
    spans_of,
    there_and_back,
)
from tutelage.threats.text.character import NEIGHBOURS
from tutelage.threats.text.edit import Protected, apply, difference, moved

TABLE = Lexicon({"good": ["fine", "nice"], "film": ["movie"], "old": ["aged"], "list": ["array"]})
TEXT = "The film isn't good, but Mary has a lot of fun; you will see it in Paris in 2004. It cannot be that old."
EDITS: list[TextEdit] = [
    *(ButterFingers(0.3), SwapCharacters(0.3), ChangeCharCase(), Whitespace(0.3, 0.2), OCRErrors(0.4), Typos(0.8)),
    *(SynonymSubstitution(1.0, lexicon=TABLE), SynonymInsertion(1.0, lexicon=TABLE), Contract(), ExpandContractions()),
    *(Negation(verbs=False), EntitySwap(), PhraseParaphrase(), OpeningPhrase(), Distractor(), Casual(), Elongated(0.9)),
    *(UpperCase(), LowerCase(), NoPunctuation(), Chain((ButterFingers(0.2), OpeningPhrase(), Whitespace(0.3)))),
    FunctionEdit("backwards", lambda text, rng: " ".join(reversed(text.split()))),
]
each = pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)


# What holds for every edit


@each
def test_the_result_hangs_on_text_item_and_seed_alone(edit: TextEdit) -> None:
    others = ["something else", TEXT, "", "x"]
    alone = edit(TEXT, seed=3, item="a")
    random.seed(1)  # the global generator is not used
    assert edit.many([*others, TEXT], seed=3, items=[*"wxyz", "a"])[-1] == alone
    assert edit(TEXT, seed=3, item="a") == alone
    assert edit(TEXT, seed=3) == edit(TEXT, seed=3, item=TEXT)
    results = {edit(TEXT, seed=seed, item=item).text for seed in range(4) for item in ("a", "b")}
    assert len(results) > 1 if edit.random and not isinstance(edit, FunctionEdit | SynonymInsertion) else len(results) >= 1
    if not edit.random:
        assert len(results) == 1


@each
def test_what_is_protected_stays(edit: TextEdit) -> None:
    start = TEXT.index("fun; you")
    for seed in range(5):
        edited = edit(TEXT, seed=seed, protect=["film", "Mary", "good", (start, start + 8)])
        if edited.refused:
            assert edited.text == TEXT
            continue
        at = -1
        for kept in ("film", "good", "Mary", "fun; you"):
            at = edited.text.index(kept, at + 1)
        assert [edited.text[a:b] for a, b in edited.kept] == ["film", "good", "Mary", "fun; you"]
        assert spans_of(edited.text, "film"), "the word was glued to its neighbours"


@each
def test_the_changes_make_the_text(edit: TextEdit) -> None:
    edited = edit(TEXT, seed=1)
    assert apply(TEXT, edited.changes).text == edited.text
    assert edited.changed == (edited.text != TEXT)
    assert edited.changed
    for one in ("", " ", "\n\t", "...", "名前 ß İ 😀 é"):
        assert isinstance(edit(one).text, str)


@each
def test_identities_tell_strengths_apart(edit: TextEdit) -> None:
    assert edit.identity.startswith(edit.name) or isinstance(edit, Chain)
    assert "0x" not in edit.identity, "the address of an object is not an identity"


def test_the_same_bytes_in_every_process() -> None:
    code = (
        "from tutelage.threats.text import *; import hashlib\n"
        "edits = [ButterFingers(0.3), Whitespace(), ChangeCharCase(), EntitySwap(), Typos(0.9), OCRErrors(0.5)]\n"
        "texts = [e(f'The actors of film {i} know Mary in Paris.', seed=7).text for e in edits for i in range(20)]\n"
        "print(hashlib.sha256('|'.join(texts).encode()).hexdigest())"
    )
    edits: list[TextEdit] = [ButterFingers(0.3), Whitespace(), ChangeCharCase(), EntitySwap(), Typos(0.9), OCRErrors(0.5)]
    texts = [e(f"The actors of film {i} know Mary in Paris.", seed=7).text for e in edits for i in range(20)]
    here = hashlib.sha256("|".join(texts).encode()).hexdigest()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == here
    # and on every machine: these bytes were made on another day
    assert ButterFingers(0.3)("The quick brown fox", seed=1).text == FOX[0]
    assert Whitespace(0.5, 0.2)("The quick brown fox", seed=1).text == FOX[1]


FOX = ("Thd quick brlwj fod", "The quick brown fo x")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.integers(0, 9), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=3))
def test_any_text_with_any_spans(text: str, seed: int, spans: list[tuple[int, int]]) -> None:
    kept = [(min(a, b), max(a, b)) for a, b in spans if max(a, b) <= len(text)]
    for edit in EDITS:
        edited = edit(text, seed=seed, protect=kept)
        if not edited.refused:
            assert [edited.text[a:b] for a, b in edited.kept] == [text[a:b] for a, b in Protected(text, kept).spans]


# The parts


def test_protected_words_and_spans() -> None:
    assert spans_of("list a list_of lists, list", "list") == [(0, 4), (22, 26)]
    assert spans_of("f(x) and g.f(x)", "f(x)") == [(0, 4), (11, 15)]
    found = Protected("one two three", ["two", (4, 9), (12, 12)])
    assert found.spans == ((4, 9),)
    spans = ((0, 4), (3, 5), (9, 10), (4, 4), (5, 5), (9, 9))
    assert [found.touches(a, b) for a, b in spans] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert [found.borders(a, b) for a, b in ((0, 3), (3, 4), (9, 10), (10, 11))] == [False, True, True, False]


def test_spans_move_with_the_changes_before_them() -> None:
    changes = (Change(0, 3, "a"), Change(5, 5, "xx"), Change(8, 9, ""))
    assert moved([(3, 5), (5, 8), (9, 11)], changes) == [(1, 3), (5, 8), (8, 10)]
    assert difference("a good film", "a fine old film") == (Change(2, 6, "fine old"),)
    assert apply("abcd", [Change(0, 2, "x"), Change(1, 3, "y"), Change(3, 4, "z")]).text == "xcz"


def test_wrong_arguments_are_named() -> None:
    for call, argument in (
        (lambda: ButterFingers(1.5), "rate"),
        (lambda: Whitespace(add=-1), "add"),
        (lambda: ButterFingers()(3), "text"),  # type: ignore[arg-type]
        (lambda: ButterFingers()("a", seed=-1), "seed"),
        (lambda: ButterFingers()("abc", protect=[(2, 9)]), "protect"),
        (lambda: ButterFingers().many("abc"), "texts"),
        (lambda: ButterFingers().many(["a"], items=["x", "y"]), "items"),
        (lambda: EntitySwap(kinds=("colour",)), "kinds"),
        (lambda: SynonymSubstitution(lexicon={"a": ["b"]}), "lexicon"),  # type: ignore[arg-type]
        (lambda: Negation(verbs=False).map_label(1), "label"),
        (lambda: FunctionEdit("x", lambda t, r: t, "map"), "label_map"),
        (lambda: FunctionEdit("x", lambda t, r: 3)("a"), "result of x"),  # type: ignore[arg-type, return-value]
        (lambda: Lexicon({"a": "bc"}), "table"),
        (lambda: Chain([ButterFingers()]), "edits"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=f"^{argument}"):
            call()


# Characters


def shares(edit: TextEdit, text: str, count: int = 400) -> float:
    return sum(len(edit(text, seed=seed).changes) for seed in range(count)) / count


def test_rates_are_those_of_recode() -> None:
    letters = "the quick brown fox jumps over the lazy dog"  # 35 letters, 8 spaces
    assert shares(ButterFingers(0.05), letters) == pytest.approx(35 * 0.05, abs=0.2)
    assert shares(ChangeCharCase(0.35), letters) == pytest.approx(35 * 0.35, abs=0.5)
    assert shares(Whitespace(0.10, 0.05), letters) == pytest.approx(8 * 0.10 + 35 * 0.05, abs=0.25)
    # 26 pairs of letters; a pair beside one that was swapped stays
    assert shares(SwapCharacters(0.05), letters) == pytest.approx(26 * 0.05, abs=0.2)
    assert shares(ButterFingers(0.0), letters) == 0


def test_weaker_edits_change_a_part_of_what_stronger_ones_change() -> None:
    weak, strong = ButterFingers(0.1), ButterFingers(0.1)
    assert {c.start for c in weak(TEXT, seed=2).changes} == {c.start for c in strong(TEXT, seed=2).changes}
    free = {c.start for c in ButterFingers(0.4)(TEXT, seed=2).changes}
    held = {c.start for c in ButterFingers(0.4)(TEXT, seed=2, protect=["Mary"]).changes}
    assert held == {place for place in free if not TEXT.index("Mary") <= place < TEXT.index("Mary") + 4}


def test_keys_that_touch_touch_each_other() -> None:
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)
    assert ButterFingers(1.0)("Q").text in ("W", "A")


def test_characters_by_hand() -> None:
    assert ChangeCharCase(1.0)("Ab 1ß").text == "aB 1ß"
    assert SwapCharacters(1.0)("abcd e").text == "badc e"
    assert Whitespace(1.0, 0.0)("a b\tc d").text == "ab\tcd"
    assert Whitespace(1.0, 0.0)("a b c d", protect=["b"]).text == "a b cd"
    assert Whitespace(0.0, 1.0)("ab c").text == " a b  c"
    assert OCRErrors(1.0)("corn").text in {a + b + "m" for a, b in itertools.product("ec", "0")}
    word = Typos(1.0)("sentence").text
    assert word != "sentence"
    assert word[0] == "s"
    assert word[-1] == "e"
    assert Typos(1.0)("the a of").text == "the a of"


# Words that need no package


def test_synonyms_of_a_table() -> None:
    substitution = SynonymSubstitution(1.0, lexicon=TABLE)
    assert substitution("A Film on an old dog").text == "A Movie on an aged dog"
    assert substitution("a good list", seed=1).text in ("a fine array", "a nice array")
    assert SynonymSubstitution(1.0, lexicon=Lexicon({"film": ["entry"]}))("a film, A film").text == "an entry, An entry"
    assert SynonymInsertion(1.0, lexicon=TABLE)("the film").text == "the movie film"
    assert not SynonymSubstitution(1.0, lexicon=TABLE)("the film", protect=["film"]).changed


def test_contractions_by_hand() -> None:
    pairs = [
        ("It isn't here and they're late.", "It is not here and they are late."),
        ("I can't and won't go; I'm tired.", "I can not and will not go; I am tired."),
        ("He's been away, she's here.", "He has been away, she is here."),
        ("Mary's film, let's see.", "Mary's film, let us see."),
    ]
    for short, long in pairs:
        assert ExpandContractions()(short).text == long
    long = "It is not here, they are late, I cannot go and I am sad."
    assert Contract()(long).text == "It isn't here, they're late, I can't go and I'm sad."
    assert Contract()("They have a car. They have been away.").text == "They have a car. They've been away."


def test_negation_by_hand() -> None:
    edit = Negation(verbs=False)
    for plain, negated in (
        ("It is good.", "It is not good."),
        ("You should go, it is late.", "You should not go, it is late."),
        ("Nothing here.", "Nothing here."),
    ):
        assert edit(plain).text == negated
        if plain != negated:
            assert edit(negated).text == plain
    assert edit("It isn't good").text == "It is good"
    assert edit("We can't go").text == "We can go"
    assert edit.label_effect == "unknown"
    opposite = Negation(verbs=False, label_map=lambda label: 1 - label)
    assert opposite.label_effect == "map"
    assert opposite.map_label(1) == 0
    assert Chain((opposite, opposite)).map_label(1) == 1
    assert Chain((Identity(), edit)).label_effect == "unknown"


def test_entities_are_swapped_alike_through_a_text() -> None:
    edited = EntitySwap()("Mary met Mary in New York in 2004 with 12 men; Maryland is not Mary.", seed=4).text
    name = edited.split()[0]
    assert name != "Mary"
    assert edited.count(name) == 3
    assert "Maryland" in edited
    assert "New York" not in edited
    assert "2004" not in edited
    assert " 12 " not in edited
    assert EntitySwap(kinds=("number",))("Mary is 7 years, 3.5 feet").text.startswith("Mary is ")
    assert EntitySwap(kinds=("number",))("3.5 or v2 or 1,000").text == "3.5 or v2 or 1,000"


def test_phrases_and_styles_by_hand() -> None:
    assert PhraseParaphrase()("For example, he was able to come.").text == "For instance, he could come."
    assert OpeningPhrase(("Well, ",))("The film").text == "Well, the film"
    assert OpeningPhrase(("Well, ",))("I see Paris").text == "Well, I see Paris"
    assert Distractor((" #x",))("Fine.\n").text == "Fine. #x\n"
    assert Casual(1.0)("Are you going to see it?").text == "R u gonna see it?"
    assert NoPunctuation()("Well-made, isn't it? 'Yes' -- no!").text == "Well-made isn't it Yes  no"
    assert Elongated(1.0)("a good").text in ("a gooood", "a goooood", "a gooooood")


# The user's own


def test_a_function_of_the_users() -> None:
    edit = FunctionEdit("shuffled", lambda text, rng: "".join(sorted(text, key=lambda _: rng.random())))
    assert edit("abcdefgh", seed=1).text != edit("abcdefgh", seed=2).text
    assert "lost 'good', which is protected" in edit("a good film of the year", protect=["good"]).refused
    doubled = Chain((FunctionEdit("twice", lambda text, rng: f"{text} {text}"), UpperCase()))
    assert doubled("a good one", protect=["good"]).text == "A good ONE A GOOD ONE"


def test_back_translation_is_batched_and_checked() -> None:
    sizes: list[int] = []

    def german(texts: list[str]) -> list[str]:
        sizes.append(len(texts))
        return [text.replace("good", "gut") for text in texts]

    edit = BackTranslation(there_and_back(german, lambda texts: [text.replace("gut", "fine") for text in texts]), batch_size=2)
    made = edit.many(["a good film", "nothing", "good"], protect=[[], [], ["good"]])
    assert [one.text for one in made] == ["a fine film", "nothing", "good"]
    assert sizes == [2, 1]
    assert "protected" in made[2].refused
    assert edit("a good film") == made[0]
    assert BackTranslation(lambda texts: [""])("a").refused == "the translation is empty"
    with pytest.raises(InputError, match="translate"):
        BackTranslation(lambda texts: texts[:-1])("a")
