"""What needs no extra: the protocol, sampling, n-grams, functions, records."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.core.errors import InputError, MissingError
from tutelage.models.language import (
    FunctionLM,
    Generation,
    GenRequest,
    HFCausalLM,
    LanguageModel,
    LogLik,
    Message,
    NGramLM,
    Recorded,
    Replay,
    TinyGPT,
    require,
)
from tutelage.models.language.ngram import units_of
from tutelage.models.language.replay import Store, StoreError
from tutelage.models.language.sampling import draw, next_tokens, nucleus


def echo(**settings) -> FunctionLM:
    return FunctionLM(lambda prompt, seed: f"{prompt}/{seed}", name="echo", fingerprint="echo-1", **settings)


# ------------------------------------------------------------------------------------------------------------ protocol


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"stop": ["a", ""]}, "stop"),
        ({"seed": -1}, "seed"),
        ({"logprobs": 1}, "logprobs"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [{"role": "user"}]}, "prompt"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"prompt": "half \ud83d"}, "prompt"),
    ],
)
def test_a_wrong_request_is_named_before_anything_is_computed(settings, argument):
    with pytest.raises(InputError) as error:
        GenRequest(**{"prompt": "x", **settings})
    assert error.value.argument == argument


def test_a_conversation_and_its_messages_are_the_same_request():
    one = GenRequest([{"role": "user", "content": "Hi"}], stop="\n")
    assert one == GenRequest((Message("user", "Hi"),), stop=("\n",))
    assert one.is_chat
    assert one.spelled()["prompt"] == [{"role": "user", "content": "Hi"}]


def test_the_noise_of_a_sample_hangs_on_seed_prompt_and_index_alone():
    def first(request: GenRequest) -> list[float]:
        return [stream.random() for stream in request.streams()]

    four = first(GenRequest("a", n=4, temperature=1.0))
    assert first(GenRequest("a", n=2, first=2, temperature=0.3, max_tokens=9)) == four[2:]
    assert len({*four, *first(GenRequest("b", n=4)), *first(GenRequest("a", n=4, seed=1))}) == 12


def test_a_backend_that_lacks_something_refuses_in_one_sentence():
    lm = echo()
    assert isinstance(lm, LanguageModel)
    calls = {
        "loglikelihood": lambda: lm.loglikelihood([("a", "b")]),
        "chat": lambda: lm.chat([[Message("user", "x")]]),
        "logprobs": lambda: lm.generate([GenRequest("x", logprobs=True)]),
        "hidden": lambda: lm.hidden(["x"], 0),
        "soft_prompt": lambda: lm.with_soft_prompt(torch.zeros(1, 2)),
    }
    for call in calls.values():
        with pytest.raises(InputError, match=r"echo \(FunctionLM\), which cannot, wanted a language model that can"):
            call()
    with pytest.raises(InputError, match="which latent attacks needs"):
        require(lm, "hidden", by="latent attacks")
    with pytest.raises(InputError, match="got int, wanted a LanguageModel"):
        require(3, "generate")


@pytest.mark.parametrize("pairs", ["ab", [("a",)], [("a", 1)], [("a", "b"), ("a", "")]])
def test_a_wrong_pair_is_named(pairs):
    with pytest.raises(InputError, match="pair") as error:
        NGramLM.fit(["ab"]).loglikelihood(pairs)
    assert error.value.argument == "pairs"


def test_a_function_is_a_language_model_with_stops_and_seeds():
    lm = echo(takes_chat=True)
    assert lm.generate([GenRequest("ab cd", stop=" ")])[0] == [Generation("ab")]
    greedy, sampled = lm.generate([GenRequest("x", n=2), GenRequest("x", n=2, temperature=1.0)])
    assert greedy == [Generation("x/0")] * 2
    assert len({one.text for one in sampled}) == 2
    assert lm.chat([[{"role": "user", "content": "x"}]])[0][0].text == "user: x/0"
    with pytest.raises(InputError, match="an answer of type int"):
        FunctionLM(lambda prompt, seed: 1, name="f", fingerprint="1").generate([GenRequest("x")])


# ------------------------------------------------------------------------------------------------------------ sampling


def test_the_nucleus_is_the_smallest_set_that_holds_its_share():
    p = np.array([0.1, 0.4, 0.2, 0.3])
    assert nucleus(p, 0.4).tolist() == [0, 0.4, 0, 0]
    assert nucleus(p, 0.41).tolist() == [0, 0.4, 0, 0.3]
    assert nucleus(p, 0.9).tolist() == [0, 0.4, 0.2, 0.3]
    assert nucleus(np.full(4, 0.25), 0.5).tolist() == [0.25, 0.25, 0, 0]


class Fixed:
    """A stream that gives the numbers one names."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)


def test_a_token_is_drawn_by_inversion():
    p = np.array([0.5, 0.0, 0.3, 0.2])
    for u, token in ((0.0, 0), (0.4999, 0), (0.5, 2), (0.79, 2), (0.81, 3), (1 - 1e-16, 3)):
        assert draw(p, 1.0, Fixed(u)) == token
    # the nucleus of 0.6 is {0, 2}, renormalised to 0.625 and 0.375
    assert [draw(p, 0.6, Fixed(u)) for u in (0.62, 0.63, 0.999)] == [0, 2, 2]


def test_draws_follow_the_probabilities_and_greedy_takes_no_noise():
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.3]])).repeat(2, 1)
    streams = [np.random.default_rng(0), np.random.default_rng(1)]
    drawn = torch.stack([next_tokens(logits, [1.0, 0.5], [1.0, 1.0], streams) for _ in range(4000)])
    assert torch.bincount(drawn[:, 0], minlength=3).div(4000).tolist() == pytest.approx([0.5, 0.2, 0.3], abs=0.03)
    # at temperature 1/2 the probabilities are squared: 25 : 4 : 9
    assert torch.bincount(drawn[:, 1], minlength=3).div(4000).tolist() == pytest.approx([25 / 38, 4 / 38, 9 / 38], abs=0.03)
    assert next_tokens(torch.tensor([[1.0, 1.0, 0.0]]), [0.0], [1.0], [Fixed()]).tolist() == [0]


# ------------------------------------------------------------------------------------------------------------- n-grams


def test_ngram_probabilities_are_those_of_equation_1():
    lm = NGramLM.fit(["ab", "aa"], order=2, strength=2.0)
    assert lm.vocabulary == ("", "\0", "a", "b")  # unknown, end, then the characters
    # P_0 = 1/4. Counts: a 3, b 1, end 2, of 6. P_1 = (c + 2/4) / (6 + 2)
    one = np.array([0.5, 2.5, 3.5, 1.5]) / 8
    assert lm.probabilities([]) == pytest.approx(one)
    # after a: a 1, b 1, end 1, of 3. P_2 = (c + 2 P_1) / (3 + 2)
    two = (np.array([0, 1, 1, 1]) + 2 * one) / 5
    assert lm.probabilities(["b", "a"]) == pytest.approx(two)
    assert lm.probabilities(["x"]) == pytest.approx(one)  # a history that was never seen
    found = lm.loglikelihood([("a", "ba"), ("", "?")])
    after_b = (np.array([0, 1, 0, 0]) + 2 * one) / 3
    assert found[0].token_logprobs == pytest.approx([math.log(two[3]), math.log(after_b[2])])
    assert found[0].n_tokens == 2
    assert found[0].per_token == pytest.approx(found[0].logprob / 2)
    assert found[1].logprob == pytest.approx(math.log(one[0]))
    assert not found[1].is_greedy


def test_an_ngram_model_completes_scores_and_stops(tmp_path):
    lm = NGramLM.fit(["12+3=15.", "12+4=16.", "21+3=24."], order=4, strength=0.01)
    (done,) = lm.generate([GenRequest("12+3", max_tokens=20, logprobs=True)])[0]
    assert (done.text, done.finish, done.n_tokens) == ("=15.", "stop", 5)  # the end is a token
    # what it generated it also scores so: the same probabilities
    assert lm.loglikelihood([("12+3", "=15.")])[0].token_logprobs == pytest.approx(done.token_logprobs[:4])
    assert lm.loglikelihood([("12+3", "=15.")])[0].is_greedy
    assert lm.generate([GenRequest("12+3", max_tokens=2)])[0][0] == Generation("=1", 2, "length", done.tokens[:2])
    assert lm.generate([GenRequest("12+3", stop="15")])[0][0].text == "="
    lm.save(tmp_path / "lm.json")
    again = NGramLM.load(tmp_path / "lm.json")
    assert again.fingerprint == lm.fingerprint != NGramLM.fit(["a"]).fingerprint
    request = GenRequest("12", n=3, temperature=1.0, top_p=0.9)
    assert again.generate([request]) == lm.generate([request])
    (tmp_path / "bad.json").write_text('{"counts": 3}')
    with pytest.raises(InputError, match="path"):
        NGramLM.load(tmp_path / "bad.json")
    with pytest.raises(MissingError, match="no file"):
        NGramLM.load(tmp_path / "none.json")


def test_words_keep_their_spaces_and_unknown_ones_are_never_written():
    text = " a  b\tc\nd "
    assert "".join(units_of(text, "word")) == text
    lm = NGramLM.fit(["the cat sat", "the dog sat"], order=2, unit="word")
    assert lm.generate([GenRequest("the cat", max_tokens=5)])[0][0].text == " sat"
    drawn = lm.generate([GenRequest("an unknown", n=50, temperature=5.0, max_tokens=3)])[0]
    assert {token for one in drawn for token in one.tokens} == {1, 2, 3, 4, 5}  # 0 is what is unknown
    with pytest.raises(InputError, match="NUL"):
        NGramLM.fit(["a\0b"])
    with pytest.raises(InputError, match="texts"):
        NGramLM.fit([])


def test_an_empty_completion_is_an_answer():
    (one,) = NGramLM.fit(["ab"], strength=0.001).generate([GenRequest("ab")])[0]
    assert (one.text, one.n_tokens, one.finish) == ("", 1, "stop")


# ------------------------------------------------------------------------------------------------------ record, replay


class Counted:
    """An n-gram model that counts what it is asked, with the surface of a user's own class."""

    def __init__(self) -> None:
        self.lm = NGramLM.fit(["abc", "abd", "bcd"], order=3)
        self.asked: list[GenRequest] = []
        self.pairs: list[tuple[str, str]] = []

    name, max_context = "counted", 99
    capabilities = frozenset({"generate", "loglikelihood", "logprobs"})

    @property
    def fingerprint(self) -> str:
        return self.lm.fingerprint

    def generate(self, requests: Sequence[GenRequest]) -> list[list[Generation]]:
        self.asked += requests
        return self.lm.generate(requests)

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[LogLik]:
        self.pairs += pairs
        return self.lm.loglikelihood(pairs)

    def chat(self, conversations, **settings):
        raise AssertionError

    hidden = with_soft_prompt = chat


def test_a_question_is_asked_once_and_more_samples_are_asked_for_alone(tmp_path):
    inner = Counted()
    lm = Recorded(inner, tmp_path / "a.sqlite")
    request = GenRequest("ab", n=2, temperature=1.0, max_tokens=4, logprobs=True)
    first = lm.generate([request, request])
    assert first == [inner.lm.generate([request])[0]] * 2
    assert len(inner.asked) == 2  # each sample once, although asked for twice
    more = lm.generate([GenRequest("ab", n=4, temperature=1.0, max_tokens=4, logprobs=True)])[0]
    assert more[:2] == first[0]
    assert [one.first for one in inner.asked] == [0, 1, 2, 3]
    assert (lm.hits, lm.misses) == (2, 4)
    for other in ({"seed": 1}, {"temperature": 0.5}, {"top_p": 0.5}, {"stop": "b"}, {"max_tokens": 5}, {"logprobs": False}):
        before = len(inner.asked)
        settings = {"temperature": 1.0, "max_tokens": 4, "logprobs": True, **other}
        lm.generate([GenRequest("ab", **settings)])
        assert len(inner.asked) == before + 1, other


def test_scores_are_recorded_and_replayed_without_the_model(tmp_path):
    inner, path = Counted(), tmp_path / "a.sqlite"
    lm = Recorded(inner, path)
    scores = lm.loglikelihood([("a", "b"), ("a", "c"), ("a", "b")])
    assert inner.pairs == [("a", "b"), ("a", "c")]
    texts = lm.generate([GenRequest("ab", n=2)])
    replay = Replay(path)
    assert (replay.name, replay.max_context, replay.fingerprint) == ("counted", 99, inner.fingerprint)
    assert replay.loglikelihood([("a", "b"), ("a", "c"), ("a", "b")]) == scores
    assert replay.generate([GenRequest("ab", n=2)]) == texts
    with pytest.raises(MissingError, match=r"no answer of counted to request 0: 'ab' with these settings"):
        replay.generate([GenRequest("ab", n=3)])
    with pytest.raises(MissingError, match="no answer of counted to pair 0"):
        replay.loglikelihood([("b", "a")])
    with pytest.raises(InputError, match="which cannot"):
        replay.hidden(["a"], 0)


def test_models_in_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a.sqlite"
    for answer in ("one", "two"):
        lm = FunctionLM(lambda prompt, seed, answer=answer: answer, name=answer, fingerprint=answer)
        assert Recorded(lm, path).generate([GenRequest("x")])[0][0].text == answer
    with pytest.raises(InputError, match=r"one \(one\), two \(two\)"):
        Replay(path)
    assert Replay(path, fingerprint="two").generate([GenRequest("x")])[0][0].text == "two"
    with pytest.raises(MissingError, match="no file"):
        Replay(tmp_path / "none.sqlite")


@pytest.mark.parametrize("content", [b"not a database" * 100, "other"])
def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "a.sqlite"
    if content == "other":
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE notes (text TEXT)")
        other.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(InputError, match="path"):
        Recorded(echo(), path)
    assert path.read_bytes() == before


def test_a_file_that_fails_says_so(tmp_path):
    store = Store(tmp_path / "a.sqlite")
    with store._open() as connection:
        connection.execute("DROP TABLE answers")
    with pytest.raises(StoreError, match=r"a\.sqlite: no such table"):
        store.get("x")
    with pytest.raises(InputError, match="path"):
        Store(3)


KILLED = """
import sys, time
from tutelage.models.language import FunctionLM, GenRequest, Recorded

def slow(prompt, seed):
    print(prompt, flush=True)
    if prompt == "3":
        time.sleep(60)
    return prompt * 2

lm = Recorded(FunctionLM(slow, name="slow", fingerprint="1"), sys.argv[1])
lm.generate([GenRequest(str(i)) for i in range(6)])
"""


def test_kill_at_any_moment_loses_no_answer_that_had_come(tmp_path):
    path = tmp_path / "a.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "3":
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    asked = []
    lm = Recorded(FunctionLM(lambda p, s: asked.append(p) or p * 2, name="slow", fingerprint="1"), path)
    assert [one[0].text for one in lm.generate([GenRequest(str(i)) for i in range(6)])] == ["00", "11", "22", "33", "44", "55"]
    assert asked == ["3", "4", "5"]


def _write(path: Path, start: int) -> None:
    lm = Recorded(FunctionLM(lambda prompt, seed: prompt, name="f", fingerprint="1"), path)
    lm.generate([GenRequest(str(i)) for i in range(start, start + 20)])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # newer Pythons advise against it; users do it
def test_processes_share_a_file_and_a_record_can_be_sent_to_another_process(tmp_path):
    path = tmp_path / "a.sqlite"
    context = multiprocessing.get_context("fork")
    parent = Recorded(FunctionLM(str.__add__, name="f", fingerprint="1"), path)  # open before the fork
    workers = [context.Process(target=_write, args=(path, 10 * i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(parent.store) == 40
    assert len(pickle.loads(pickle.dumps(parent.store))) == 40
    parent.store.close()


def test_answers_before_a_failure_are_kept(tmp_path):
    def fails(prompt: str, seed: int) -> str:
        if prompt == "2":
            raise RuntimeError("the line broke")
        return prompt

    lm = Recorded(FunctionLM(fails, name="f", fingerprint="1"), tmp_path / "a.sqlite")
    with pytest.raises(RuntimeError, match="the line broke"):
        lm.generate([GenRequest(str(i)) for i in range(4)])
    assert len(lm.store) == 2


def test_texts_of_any_language_come_back_as_they_were(tmp_path):
    text = '猫 "quoted"\n\té\\ 🙂\x1f'
    lm = Recorded(FunctionLM(lambda prompt, seed: prompt[::-1], name="mirror", fingerprint="1"), tmp_path / "a.sqlite")
    for _ in range(2):
        assert lm.generate([GenRequest(text)])[0][0].text == text[::-1]
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        question = json.loads(connection.execute("SELECT question FROM answers").fetchone()[0])
    connection.close()
    assert question["prompt"] == text


# --------------------------------------------------------------------------------------------------------- extra `lm`


def test_importing_needs_no_extra_and_what_does_says_what_to_install(monkeypatch):
    code = "import tutelage.models.language, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"transformers", "peft", "tokenizers", "gguf"} & set(loaded)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for make in (lambda: TinyGPT.new("ab"), lambda: HFCausalLM.load("some/model")):
        with pytest.raises(MissingError, match=r"needs transformers: pip install 'tutelage\[lm\]'"):
            make()
