"""Synonyms from WordNet's files, and edits by grammar. The last part needs the packages of the extra `text`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_wordnet import write_wordnet

from tutelage.core.errors import InputError, MissingError
from tutelage.data.fetch import verified_folder
from tutelage.threats.text import (
    WORDNET,
    Negation,
    SynonymInsertion,
    SynonymSubstitution,
    TensePast,
    WordNet,
    docstring_edits,
)


@pytest.fixture
def words(tmp_path: Path) -> WordNet:
    return WordNet(write_wordnet(tmp_path / "dict"))


def test_synonyms_are_read_from_wordnets_files(words: WordNet) -> None:
    assert words.senses("film", "n") == (("film", "movie", "motion picture"), ("film", "coating"))
    assert words.synonyms("film", "n") == ("movie", "motion picture", "coating")
    assert words.synonyms("Film", "n", 1) == ("movie", "motion picture")
    assert words.synonyms("great", "a") == ("grand",)  # without the marker of its place
    assert words.synonyms("awake", "a") == ("alert",)
    assert words.synonyms("quickly", "r") == ("fast",)
    assert words.synonyms("film", "v") == ()
    assert words.synonyms("motion picture", "n") == ("film", "movie")
    with pytest.raises(InputError, match="part"):
        words.senses("film", "x")


def test_a_folder_without_wordnet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no index\.noun"):
        WordNet(tmp_path)


def test_what_is_missing_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    with pytest.raises(MissingError, match="tutelage data get wordnet"):
        verified_folder("wordnet")
    for edit in (SynonymSubstitution(), SynonymInsertion(), docstring_edits()["SynonymInsertion"]):
        assert "WordNet 3.0" in edit.identity
        monkeypatch.delitem(WORDNET.__dict__, "_source", raising=False)
        with pytest.raises(MissingError, match=r"synonyms come from WordNet: .*tutelage data get wordnet"):
            edit.check()
        with pytest.raises(MissingError, match="tutelage data get wordnet"):
            edit("a good film")
    monkeypatch.setitem(sys.modules, "lemminflect", None)
    with pytest.raises(MissingError, match=r"need (lemminflect|textblob): pip install 'tutelage\[text\]'"):
        TensePast().check()


# With the packages of the extra `text`


@pytest.fixture
def grammar() -> None:
    pytest.importorskip("textblob", reason="pip install 'tutelage[text]'")
    pytest.importorskip("lemminflect", reason="pip install 'tutelage[text]'")


@pytest.mark.usefixtures("grammar")
def test_synonyms_take_the_form_of_the_word(words: WordNet) -> None:
    edit = SynonymSubstitution(1.0, lexicon=words, senses=1)
    assert edit("The actors loved good films.").text == "The players adored fine movies."
    assert SynonymSubstitution(1.0, lexicon=words, inflected=False, senses=1)("They loved dogs.").text == "They adore hound."
    assert edit("They watched an old dog, Film.").text == "They observed an aged hound, Film.", "names stay"
    assert SynonymInsertion(1.0, lexicon=words, senses=1)("They watched films.").text == "They observed watched movies films."
    # "actors" would be changed everywhere but where it is protected
    assert edit("actors and actors", protect=[(0, 6)]).text == "actors and players"


@pytest.mark.usefixtures("grammar")
def test_tenses_by_hand() -> None:
    past, future = docstring_edits()["TensePast"], docstring_edits()["TenseFuture"]
    for present, was, will in (
        ("The movie isn't good.", "The movie wasn't good.", "The movie will not be good."),
        ("The actors love their roles.", "The actors loved their roles.", "The actors will love their roles."),
        ("Return the sum of two numbers.", "Returned the sum of two numbers.", "Will return the sum of two numbers."),
        ("It doesn't sort them.", "It didn't sort them.", "It won't sort them."),
        ("It's a list; she can go.", "It was a list; she could go.", "It will be a list; she can go."),
        ("They have hoped to see it.", "They had hoped to see it.", "They will have hoped to see it."),
        ("Mary's dog.", "Mary's dog.", "Mary's dog."),
    ):
        assert past(present).text == was
        assert future(present).text == will
    assert not past.random
    kept = past("The list is old and it is good.", protect=[(9, 11)])
    assert kept.text == "The list is old and it was good."


@pytest.mark.usefixtures("grammar")
def test_inflection_and_negation_of_verbs() -> None:
    edit = docstring_edits()["EnglishInflectionalVariation"]
    results = {edit("two dogs", seed=seed).text for seed in range(3)}
    assert results == {"two dog"}
    assert {edit("They go", seed=seed).text for seed in range(40)} == {f"They {w}" for w in ("goes", "going", "gone", "went")}
    assert Negation()("She likes films.").text == "She does not like films."
    assert Negation()("He made a film.").text == "He did not make a film."


@pytest.mark.usefixtures("grammar")
def test_the_nine_docstring_edits_keep_identifiers(words: WordNet) -> None:
    text = "Return the film_list without old films; actors is a list of names, and it watches for good ones."
    edits = docstring_edits(lexicon=words)
    assert len(edits) == 9
    assert next(iter(docstring_edits(lambda texts: texts))) == "BackTranslation"
    for name, edit in edits.items():
        made = [edit(text, seed=seed, item="HumanEval/0", protect=["film_list", "actors", "list"]) for seed in range(5)]
        for one in made:
            assert [one.text[a:b] for a, b in one.kept] == ["film_list", "actors", "list"], name
        assert any(one.changed for one in made), name
        assert len({one.text for one in made}) > 1 or not edit.random, name


@pytest.mark.data
def test_the_real_wordnet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_CACHE")
    try:
        words = WordNet(verified_folder("wordnet") / "dict")
    except MissingError as error:
        pytest.skip(str(error))
    assert words.synonyms("dog", "n", 1) == ("domestic dog", "Canis familiaris")
    assert words.senses("good", "a")[0] == ("good",)
    assert "adore" in words.synonyms("love", "v") or "enjoy" in words.synonyms("love", "v")
