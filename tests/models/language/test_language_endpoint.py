"""The endpoint backend against a real server of ours, with the faults that servers have."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from completion_server import Service, cut_off, error, hang_up, served, slow

from tutelage.core.errors import InputError
from tutelage.models.language import Generation, GenRequest, NGramLM, OpenAIEndpoint, Patience, Recorded
from tutelage.models.remote import EndpointError

QUICK = Patience(timeout=5.0, attempts=3, pause=0.01, total=20.0)
KEY = "sk-very-secret-0123456789"
LM = NGramLM.fit(["2+2=4.", "2+3=5.", "3+3=6."], order=5, strength=0.1)


@pytest.fixture
def service() -> Iterator[Service]:
    with served(LM) as one:
        yield one


def endpoint(service: Service, **settings) -> OpenAIEndpoint:
    return OpenAIEndpoint(service.url, **{"model": "tiny", "api": "completions", "patience": QUICK, **settings})


def test_completions_and_chats_come_back_in_order(service):
    prompts = ["2+2", "2+3", "3+3"] * 3
    wanted = [LM.generate([GenRequest(prompt)])[0][0].text for prompt in prompts]
    for api in ("completions", "chat"):
        lm = endpoint(service, api=api, workers=4)
        found = lm.generate([GenRequest(prompt) for prompt in prompts])
        assert [one[0].text for one in found] == wanted == ["=4.", "=5.", "=6."] * 3
        assert found[0][0] == Generation("=4.", 4, "stop")
        assert (lm.requests, lm.retries, lm.tokens) == (9, 0, 36)
    lm = endpoint(service, api="chat")
    assert lm.chat([[{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2"}]])[0][0].text == "=4."
    assert service.bodies[-1]["messages"] == [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2"}]
    with pytest.raises(InputError, match=r"cannot, wanted a language model that can take conversations \(chat\)"):
        endpoint(service).chat([[{"role": "user", "content": "2+2"}]])


def test_settings_seeds_and_logprobs_are_sent(service):
    lm = endpoint(service, logprobs=True, extra={"top_k": 20})
    request = GenRequest("2", n=3, max_tokens=4, temperature=1.5, top_p=0.9, stop="4", seed=7, logprobs=True)
    found = lm.generate([request])[0]
    assert len(found) == 3
    seeds = {body.pop("seed") for body in service.bodies}
    assert len(seeds) == 3
    sent = {"model": "tiny", "prompt": "2", "max_tokens": 4, "temperature": 1.5, "top_p": 0.9, "stop": ["4"], "logprobs": 1}
    assert all(body == {**sent, "top_k": 20} for body in service.bodies)
    assert all(len(one.token_logprobs) == one.n_tokens and one.logprob < 0 for one in found)
    assert lm.generate([request])[0] == found  # this server honours seeds
    assert lm.generate([GenRequest(**{**vars(request), "n": 1, "first": 2})])[0] == found[2:]
    assert endpoint(service, api="chat", logprobs=True).generate([GenRequest("2+2", logprobs=True)])[0][0].logprob < 0


def test_a_prompt_is_scored_by_echo(service):
    lm = endpoint(service, echo=True)
    pairs = [("2+2", "=4."), ("2+", "3"), ("3+3", "=5")]
    for found, wanted in zip(lm.loglikelihood(pairs), LM.loglikelihood(pairs), strict=True):
        assert found.token_logprobs == pytest.approx(wanted.token_logprobs)
        assert (found.n_tokens, found.is_greedy) == (wanted.n_tokens, wanted.is_greedy)
    with pytest.raises(InputError, match="pair 1 with an empty context"):
        lm.loglikelihood([("a", "b"), ("", "b")])
    with pytest.raises(InputError, match="which cannot"):
        endpoint(service).loglikelihood(pairs)
    with pytest.raises(InputError, match="echo"):
        endpoint(service, api="chat", echo=True)


@pytest.mark.parametrize(
    "fault",
    [error(500), error(503), error(429), error(408), cut_off, hang_up],
    ids=["500", "503", "429", "408", "truncated JSON", "hang-up"],
)
def test_what_may_pass_is_tried_again(service, fault):
    service.faults = [fault, fault]
    lm = endpoint(service)
    assert lm.generate([GenRequest("2+2")])[0][0].text == "=4."
    assert (lm.requests, lm.retries) == (3, 2)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (error(500), "HTTP 500 Internal Server Error, 3 times in a row"),
        (cut_off, "an answer that is no whole JSON"),
        (hang_up, "ended after 10 of 1000 bytes|broken|reset"),
    ],
    ids=["500", "truncated JSON", "hang-up"],
)
def test_what_does_not_pass_is_reported(service, fault, reason):
    service.faults = [fault] * 3
    with pytest.raises(EndpointError, match=reason):
        endpoint(service).generate([GenRequest("2+2")])


def test_a_server_that_does_not_answer_in_time_is_asked_again_then_given_up(service):
    service.faults = [slow(0.6)]
    patient = Patience(timeout=0.2, attempts=2, pause=0.01)
    assert endpoint(service, patience=patient).generate([GenRequest("2+2")])[0][0].text == "=4."
    service.faults = [slow(0.6)] * 2
    with pytest.raises(EndpointError, match="no answer in time, 2 times in a row"):
        endpoint(service, patience=patient).generate([GenRequest("2+2")])


def test_a_server_that_says_when_is_waited_for_and_total_is_kept(service):
    service.faults = [error(429, **{"Retry_After": "1"})]
    endpoint(service).generate([GenRequest("2+2")])
    assert service.times[1] - service.times[0] >= 1.0
    service.faults = [error(429, **{"Retry_After": "9"})]
    with pytest.raises(EndpointError, match="HTTP 429 Too Many Requests; gave up after 2 s"):
        endpoint(service, patience=Patience(total=2.0)).generate([GenRequest("2+2")])


def test_requests_keep_to_the_rate(service):
    endpoint(service, per_minute=600, workers=4).generate([GenRequest("2+2", n=4, temperature=1.0)])
    gaps = [b - a for a, b in zip(service.times, service.times[1:], strict=False)]
    assert service.times[-1] - service.times[0] >= 0.25  # three gaps of 0.1 s, less what a busy machine delays the first
    assert len(gaps) == 3


def test_a_wrong_model_name_is_named_at_once(service):
    lm = endpoint(service, model="tinny")
    with pytest.raises(EndpointError, match=r"HTTP 404 Not Found for the model 'tinny': The model `tinny` does not exist"):
        lm.generate([GenRequest("2+2")])
    assert lm.requests == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"choices": []}, "wanted an object with choices"),
        ([1], "wanted an object with choices"),
        ({"choices": [{"finish_reason": "stop"}]}, "a choice without a text"),
        ({"choices": [{"text": "x", "logprobs": None}]}, "without log-probabilities"),
        ({"choices": [{"text": "x", "logprobs": {"token_logprobs": [None]}}]}, "without log-probabilities"),
    ],
)
def test_an_answer_that_is_none_is_reported(service, answer, reason):
    service.faults = [error(200, answer)]
    with pytest.raises(EndpointError, match=reason):
        endpoint(service, logprobs=True).generate([GenRequest("2", logprobs=True)])


def test_what_an_endpoint_withholds_is_marked(service):
    service.faults = [error(200, {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]})]
    assert endpoint(service, api="chat").generate([GenRequest("2")])[0][0] == Generation("", None, "filtered")


def test_finished_work_is_kept_when_a_later_request_fails(service, tmp_path):
    requests = [GenRequest(prompt) for prompt in ("2+2", "2+3", "3+3")]
    lm = Recorded(endpoint(service, workers=1), tmp_path / "a.sqlite")
    good = lambda handler: handler.reply(200, handler.answer(service.bodies[-1]))  # noqa: E731
    service.faults = [good, error(400, "bad day")]
    with pytest.raises(EndpointError, match="HTTP 400 Bad Request"):
        lm.generate(requests)
    assert len(service.bodies) == 2  # after a failure no new request is sent
    assert [one[0].text for one in lm.generate(requests)] == ["=4.", "=5.", "=6."]
    assert len(service.bodies) == 4  # the first answer was not asked for again


def test_all_faults_together_change_no_answer_and_cost_no_finished_one(service, tmp_path):
    requests = [GenRequest(prompt, n=2, temperature=1.0, seed=seed) for prompt in ("2+2", "2+3", "3+3") for seed in (1, 2)]
    calm = endpoint(service, workers=1).generate(requests)
    service.bodies.clear()
    service.faults = [error(500), cut_off, error(429, **{"Retry_After": "0"}), hang_up, slow(0.6), error(503), cut_off]
    patience = Patience(timeout=0.3, attempts=8, pause=0.01)
    lm = Recorded(endpoint(service, workers=4, patience=patience), tmp_path / "a.sqlite")
    assert lm.generate(requests) == calm
    assert len(service.bodies) == 12 + 7  # each fault cost one request, and no other was sent
    assert Recorded(endpoint(service), tmp_path / "a.sqlite").generate(requests) == calm
    assert len(service.bodies) == 12 + 7


def test_finished_scores_are_kept_when_a_later_one_fails(service, tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.models.language.replay.SAVED_EVERY", 1)
    pairs = [("2+2", "=4."), ("2+", "3"), ("3+3", "=6")]
    lm = Recorded(endpoint(service, echo=True, workers=1), tmp_path / "a.sqlite")
    good = lambda handler: handler.reply(200, handler.answer(service.bodies[-1]))  # noqa: E731
    service.faults = [good, error(400, "bad day")]
    with pytest.raises(EndpointError, match="HTTP 400 Bad Request"):
        lm.loglikelihood(pairs)
    assert [one.logprob for one in lm.loglikelihood(pairs)] == pytest.approx([one.logprob for one in LM.loglikelihood(pairs)])
    assert len(service.bodies) == 4  # the first was not asked for again


def test_no_key_is_on_the_disk_or_on_the_screen(service, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SOME_KEY", KEY)
    service.key = KEY
    lm = Recorded(endpoint(service, key_env="SOME_KEY"), tmp_path / "a.sqlite")
    service.faults = [error(500, {"error": {"message": f"you sent {KEY}"}}), cut_off]
    assert lm.generate([GenRequest("2+2")])[0][0].text == "=4."
    service.faults = [error(400, {"error": {"message": f"you sent {KEY}"}})]
    with pytest.raises(EndpointError, match=r"you sent \[key\]"):
        lm.generate([GenRequest("2+3")])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in "".join(capfd.readouterr())


def test_no_key_is_in_any_message_attribute_or_log(service, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SOME_KEY", KEY)
    service.key = KEY
    lm = endpoint(service, key_env="SOME_KEY")
    assert lm.generate([GenRequest("2+2")])[0][0].text == "=4."
    assert service.headers[-1]["Authorization"] == f"Bearer {KEY}"
    service.key = "another"  # this server repeats the key that it refuses
    with pytest.raises(
        EndpointError, match=r"HTTP 401 Unauthorized for the model 'tiny': wrong key: Bearer \[key\]"
    ) as refused:
        lm.generate([GenRequest("2+2")])
    service.faults = [lambda handler: handler.raw(200, f"<{KEY}>".encode())] * 3
    with pytest.raises(EndpointError, match=r"no whole JSON, '<\[key\]>'") as garbled:
        lm.generate([GenRequest("2+2")])
    seen = [str(refused.getrepr(style="long")), str(garbled.getrepr(style="long")), caplog.text, repr(lm), str(vars(lm))]
    assert not [text for text in seen if KEY in text]
    assert KEY not in lm.fingerprint


def test_a_key_is_named_never_given_and_not_sent_in_the_open(service, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(InputError, match="SOME_KEY, which is not set"):
        endpoint(service, key_env="SOME_KEY").generate([GenRequest("2")])
    with pytest.raises(InputError, match="something that is no name") as given:
        endpoint(service, key_env=KEY)
    assert KEY not in str(given.value)
    monkeypatch.setenv("SOME_KEY", "two\nlines")
    with pytest.raises(InputError, match="whose value is no key"):
        endpoint(service, key_env="SOME_KEY").generate([GenRequest("2")])
    with pytest.raises(InputError, match="https, since a key is sent"):
        OpenAIEndpoint("http://models.example/v1", "m", key_env="SOME_KEY")
    assert OpenAIEndpoint("https://models.example/v1/", "m", key_env="SOME_KEY").base_url == "https://models.example/v1"


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"base_url": "ftp://x/v1"}, "url"),
        ({"base_url": "https://x/v1?a=b"}, "base_url"),
        ({"model": ""}, "model"),
        ({"api": "responses"}, "api"),
        ({"workers": 0}, "workers"),
        ({"per_minute": 0}, "per_minute"),
        ({"extra": {"x": float("nan")}}, "extra"),
        ({"max_context": 0}, "max_context"),
    ],
)
def test_wrong_arguments_are_named(settings, argument):
    with pytest.raises(InputError) as wrong:
        OpenAIEndpoint(**{"base_url": "http://127.0.0.1:1/v1", "model": "m", **settings})
    assert wrong.value.argument == argument
    with pytest.raises(InputError, match="attempts"):
        Patience(attempts=0)


def test_no_server_is_reported_and_the_fingerprint_hangs_on_what_is_asked():
    nobody = OpenAIEndpoint("http://127.0.0.1:9/v1", "m", patience=Patience(attempts=2, pause=0.01))
    with pytest.raises(EndpointError, match="Connection refused, 2 times in a row"):
        nobody.generate([GenRequest("x")])
    others = [("http://127.0.0.1:9/v1", "n", {}), ("http://127.0.0.1:8/v1", "m", {})]
    others += [("http://127.0.0.1:9/v1", "m", {"extra": {"top_k": 1}}), ("http://127.0.0.1:9/v1", "m", {"api": "completions"})]
    prints = {OpenAIEndpoint(url, model, **settings).fingerprint for url, model, settings in others}
    assert len(prints | {nobody.fingerprint}) == 5
    same = OpenAIEndpoint("http://127.0.0.1:9/v1/", "m", patience=Patience(attempts=1))
    assert same.fingerprint == nobody.fingerprint
    assert pickle.loads(pickle.dumps(nobody)).fingerprint == nobody.fingerprint
