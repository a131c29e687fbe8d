"""A prediction endpoint that really answers over HTTP, and fails in the ways that such servers fail."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import prediction_server as server
import pytest
import torch
from prediction_server import Service, served

import tutelage
from brightness import mean_of
from tutelage.app.cli import run
from tutelage.core.errors import AuditError, InputError
from tutelage.core.rng import rng_state
from tutelage.models import Endpoint, EndpointError, from_function, is_differentiable, load_model
from tutelage.models.remote import check_url, is_loopback
from tutelage.threats import PGD, Linf, Square

QUICK: dict[str, Any] = {"wait": 0.01, "timeout": 5.0, "attempts": 3}


def data(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(n) % 2
    noise = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return (0.3 + 0.2 * noise + 0.2 * labels[:, None, None, None]).clamp(0, 1), labels


X = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def service() -> Iterator[Service]:
    with served(mean_of) as running:
        yield running


# What is asked and answered


def test_answers_come_in_order_and_no_digit_is_lost(service: Service) -> None:
    model = Endpoint(service.url, batch_size=3, **QUICK)
    out = model(X)
    assert service.sizes == [3, 3, 1]
    assert np.array_equal(np.concatenate(service.batches), X.numpy())
    assert torch.equal(out, from_function(mean_of)(X))
    assert (model.requests, model.samples, model.retries) == (3, 7, 0)
    assert not is_differentiable(model)


def test_nothing_is_cached(service: Service) -> None:
    model = Endpoint(service.url, **QUICK)
    for _ in range(3):
        model(X[:2])
    assert service.sizes == [2, 2, 2]


def test_probabilities_and_labels(service: Service) -> None:
    service.f = lambda batch: [[0.25, 0.75]] * len(batch)
    out = Endpoint(service.url, gives="probabilities", **QUICK)(X)
    assert out.exp()[0].tolist() == pytest.approx([0.25, 0.75])
    service.f = lambda batch: [2] * len(batch)
    assert Endpoint(service.url, gives="labels", classes=3, **QUICK)(X).argmax(1).tolist() == [2] * 7


def test_another_form_and_a_header(service: Service) -> None:
    service.faults = [server.says({"outputs": {"scores": [[1.0, 2.0, 0.5]]}})]
    model = Endpoint(
        service.url,
        headers={"Authorization": "Bearer s3cret"},
        encode=lambda x: {"pixels": (x * 255).round().int().flatten(1).tolist()},
        decode=lambda answer: answer["outputs"]["scores"],
        **QUICK,
    )
    assert model(X[:1]).tolist() == [[1.0, 2.0, 0.5]]
    assert service.headers[0]["Authorization"] == "Bearer s3cret"
    assert service.headers[0]["Content-Type"] == "application/json"
    assert "s3cret" not in f"{model!r} {vars(model)['address']}"
    with pytest.raises(EndpointError) as error:
        Endpoint(f"{service.url}?key=s3cret", decode=lambda answer: [], **QUICK)(X[:1])
    assert "s3cret" not in str(error.value)


def test_a_request_that_is_too_large_goes_in_halves(service: Service) -> None:
    one = len('{"instances": []}') + len(str(X[:1].tolist()))
    model = Endpoint(service.url, max_bytes=3 * one, **QUICK)
    assert torch.equal(model(X), from_function(mean_of)(X))
    assert max(service.sizes) <= 3
    assert sum(service.sizes) == 7
    with pytest.raises(InputError, match=r"^model: got a request of one sample of \d+ bytes, more than max_bytes=100"):
        Endpoint(service.url, max_bytes=100, **QUICK)(X)
    service.faults = [server.status(413)]
    service.batches.clear()
    assert torch.equal(Endpoint(service.url, **QUICK)(X), from_function(mean_of)(X))
    assert service.sizes == [3, 4]
    service.faults = [server.status(413)]
    with pytest.raises(InputError, match=r"a request of one sample of HTTP 413"):
        Endpoint(service.url, **QUICK)(X[:1])


# Faults that pass


@pytest.mark.parametrize(
    "fault",
    [server.status(429), server.status(503), server.status(500), server.status(408), server.hangs_up, server.cut],
    ids=["429", "503", "500", "408", "hangs up", "cut"],
)
def test_a_fault_that_passes_is_tried_again(service: Service, fault: server.Fault) -> None:
    service.faults = [fault, fault]
    model = Endpoint(service.url, **QUICK)
    before = rng_state()
    assert torch.equal(model(X), from_function(mean_of)(X))
    assert (model.requests, model.retries, model.samples) == (3, 2, 7)
    assert torch.equal(rng_state()["torch"], before["torch"])
    service.faults = [fault, fault, fault]
    with pytest.raises(
        EndpointError, match=r"3 times in a row\. (It runs and answers with errors|See whether it runs)"
    ) as told:
        model(X)
    assert "Start it" not in str(told.value)
    assert "finished" not in str(told.value)
    assert service.requests == 6


def test_a_server_that_hangs_is_not_waited_for(service: Service) -> None:
    service.faults = [server.stalls(1.0)]
    model = Endpoint(service.url, wait=0.01, timeout=0.2, attempts=2)
    assert torch.equal(model(X), from_function(mean_of)(X))
    assert model.retries == 1


def test_the_server_says_how_long_to_wait(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    service.faults = [server.status(503, Retry_After="7")]
    Endpoint(service.url, **QUICK)(X[:1])
    assert waits == [7.0]


def test_waits_grow(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    service.faults = [server.status(503)] * 9
    Endpoint(service.url, wait=1.0, attempts=10, total=1e6)(X[:1])
    assert len(waits) == 9
    for wait, wanted in zip(waits, [1, 2, 4, 8, 16, 30, 30, 30, 30], strict=True):
        assert 0.5 * wanted <= wait <= 1.5 * wanted
    assert len({round(wait / wanted, 6) for wait, wanted in zip(waits, [1, 2, 4, 8, 16, 30, 30, 30, 30], strict=True)}) > 5


@pytest.mark.parametrize("fault", [server.status(503), server.drips(0.1, 100)], ids=["503", "drips"])
def test_there_is_an_end_in_all(service: Service, fault: server.Fault) -> None:
    """Neither many tries nor an answer in drops, each in time, last longer than `total`."""
    service.faults = [fault] * 1000
    with pytest.raises(EndpointError, match=r"gave up after 0\.5 s"):
        Endpoint(service.url, wait=0.05, attempts=1000, timeout=5, total=0.5)(X[:1])
    assert 1 <= service.requests < 100


# Faults that stay


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (server.status(400, b"pixels must be bytes"), "HTTP 400 Bad Request: pixels must be bytes"),
        (server.status(401), "HTTP 401 Unauthorized"),
        (server.status(404), "HTTP 404 Not Found"),
        (server.status(307, Location="http://127.0.0.1:1/v2"), "HTTP 307 .* to http://127.0.0.1:1/v2; give that address"),
        (server.raw(b"<html>hello</html>"), "answered '<html>hello</html>', wanted JSON"),
        (server.raw(b""), "answered '', wanted JSON"),
        (server.raw(b"\xff\xfe\x00"), "wanted JSON"),
        (server.raw(b"[" * 100_000), "wanted JSON"),
        (server.says([[0.0, 1.0]]), 'an answer that is list, wanted an object with "predictions"'),
        (server.says({"outputs": 3}), "an answer that is an object of outputs"),
        (server.says({"predictions": [[0.0, 1.0]]}), r"logits of shape \(1, 2\), wanted logits of shape \(7, classes\)"),
        (server.says({"predictions": [[0.0, 1.0]] * 6 + [[0.0]]}), "an answer of type list"),
        (server.says({"predictions": [[0.0, None]] * 7}), "an answer of type list"),
        (server.says({"predictions": [["a", "b"]] * 7}), "an answer of type list"),
        (server.says({"predictions": [[0.0, float("nan")]] * 7}), "logits with NaN or infinity"),
        (server.says({"predictions": None}), "an answer of type NoneType"),
    ],
)
def test_a_fault_that_stays_is_told_at_once(service: Service, fault: server.Fault, message: str) -> None:
    service.faults = [fault]
    with pytest.raises(EndpointError, match=message) as error:
        Endpoint(service.url, **QUICK)(X)
    assert service.requests == 1
    assert str(error.value).startswith(f"{service.url}")
    assert error.value.exit_code == 1


def test_an_answer_that_is_too_long(service: Service) -> None:
    service.faults = [server.raw(b" " * 10_000)]
    with pytest.raises(EndpointError, match="answered with more than max_bytes=5000 bytes"):
        Endpoint(service.url, max_bytes=5000, **QUICK)(X[:1])


def test_classes_that_change_between_requests(service: Service) -> None:
    service.f = lambda batch: [[0.0] * (2 + len(batch))] * len(batch)
    with pytest.raises(EndpointError, match=r"predictions of \[3, 5\] classes"):
        Endpoint(service.url, batch_size=3, **QUICK)(X)


def test_nobody_is_there() -> None:
    with served(mean_of) as service:
        url = service.url
    with pytest.raises(
        EndpointError, match=f"^{url}: Connection refused, 2 times in a row\\. Start it, then give the same call"
    ):
        Endpoint(url, wait=0.01, attempts=2)(X)


def test_an_error_in_the_users_own_functions(service: Service) -> None:
    with pytest.raises(InputError, match=r"^decode: got KeyError: 'scores'"):
        Endpoint(service.url, decode=lambda answer: answer["scores"], **QUICK)(X)
    with pytest.raises(InputError, match=r"^encode: got what JSON does not hold"):
        Endpoint(service.url, encode=lambda x: x, **QUICK)(X)


# Arguments


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "ftp://a/b", "file:///etc/passwd", "http://", "http:///x", "http://a:99999/", "http://a b/",
     "http://ä/", 3, "http://a/\n", "http://user:word@a/", "http://user@a/"],
)  # fmt: skip
def test_addresses_that_are_none(url: Any) -> None:
    with pytest.raises(InputError, match=r"^url: ") as error:
        Endpoint(url)
    assert "word" not in str(error.value)


def test_addresses_as_they_are_shown() -> None:
    assert check_url("https://models.example/v1/a:predict?key=1#x") == "https://models.example/v1/a:predict"
    assert check_url("http://[::1]:80") == "http://[::1]:80/"
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("10.0.0.1", "models.example", "localhost.example")] == [False] * 3


def test_loopback_is_asked_without_a_proxy(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert Endpoint(service.url, **QUICK)(X).shape == (7, 2)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"gives": "scores"}, "gives"),
        ({"gives": "labels"}, "classes"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"attempts": 0}, "attempts"),
        ({"timeout": 0}, "timeout"),
        ({"wait": -1}, "wait"),
        ({"total": float("inf")}, "total"),
        ({"encode": 3}, "encode"),
        ({"decode": None}, "decode"),
        ({"headers": "a: b"}, "headers"),
        ({"headers": {"a": "b\r\nc: d"}}, "headers"),
        ({"headers": {"a": 3}}, "headers"),
    ],
)
def test_bad_arguments(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: "):
        Endpoint("http://127.0.0.1:9/", **options)


def test_a_copy_and_one_in_another_process_answer_the_same(service: Service) -> None:
    model = Endpoint(service.url, headers={"X-Key": "1"}, **QUICK)
    wanted = model(X)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(X), wanted)
        assert service.headers[-1]["X-Key"] == "1"


def test_no_gradients(service: Service) -> None:
    x, y = data(4)
    with pytest.raises(InputError, match=r"Endpoint, which gives no gradients.*Square"):
        PGD(Linf(0.1), steps=1).run(Endpoint(service.url, **QUICK), x, y, torch.Generator().manual_seed(0))


# Audits


def audited(model: Any, state: Path | None = None) -> Any:
    attack = Square(Linf(0.12), queries=10)
    return tutelage.audit(model, data(), threats=[attack], curve=False, batch_size=8, seed=1, state=state)


def test_an_audit_over_http_is_that_of_the_function(service: Service) -> None:
    service.faults = [server.status(503), server.hangs_up]
    over_http = audited(Endpoint(service.url, batch_size=5, **QUICK))
    here = audited(from_function(mean_of))
    assert over_http.predictions == here.predictions
    assert over_http.status == "reliable"
    assert 0 < sum(here.predictions["linf@0.12 Square-10"]) < 40


def test_an_endpoint_that_dies_costs_one_batch(service: Service, tmp_path: Path) -> None:
    """It dies in the third batch of the attack; the same call, once it is there again, asks nothing of the first two."""
    whole = audited(Endpoint(service.url, **QUICK))
    all_of_it, service.requests = service.requests, 0
    service.dies_after = all_of_it * 2 // 3
    with pytest.raises(EndpointError, match=f"the audit's finished parts are in {tmp_path / 'state'}, it goes on from there"):
        audited(Endpoint(service.url, **QUICK), tmp_path / "state")
    finished = list((tmp_path / "state").rglob("linf*.safetensors"))
    assert 1 <= len(finished) < 5

    service.stop()  # a new server on the same port
    service.start()
    service.requests, service.dies_after = 0, 10**9
    again = audited(Endpoint(service.url, **QUICK), tmp_path / "state")
    assert again.predictions == whole.predictions
    assert [row.value for row in again.rows] == [row.value for row in whole.rows]
    assert service.requests < all_of_it


def test_an_endpoint_that_changes_its_answers_is_flagged(service: Service) -> None:
    rng = np.random.default_rng(0)
    service.f = lambda batch: mean_of(batch) + rng.normal(0, 0.05, (len(batch), 2))
    result = audited(Endpoint(service.url, **QUICK))
    assert result.status == "unreliable"
    assert any("random" in warning for warning in result.warnings)


def test_probabilities_of_a_server_are_told_with_what_helps(service: Service, tmp_path: Path, capsys: Any) -> None:
    """There are no gradients, and the server cannot return logits: the caller says what it gives."""
    logits = service.f
    service.f = lambda batch: torch.tensor(logits(batch)).softmax(1).numpy()
    with pytest.raises(AuditError, match=r'gives="probabilities".*--gives probabilities') as told:
        audited(Endpoint(service.url, **QUICK))
    assert "gradient" not in str(told.value)
    x, y = data()
    np.savez(tmp_path / "test.npz", image=x.numpy(), label=y.numpy())
    command = [
        "audit",
        service.url,
        "--data",
        f"{tmp_path}/test.npz",
        "--threats",
        "square-3:linf@0.12",
        "--no-curve",
        "--n",
        "20",
    ]
    assert run([*command, "--gives", "probabilities", "--out", f"{tmp_path}/one"]) == 0
    assert run([*command, "--gives", "probabilities", "--jobs", "2", "--out", f"{tmp_path}/two"]) == 0
    one, two = (tutelage.AuditResult.load(tmp_path / name) for name in ("one", "two"))
    assert (one.status, one.predictions) == ("reliable", two.predictions)
    for wrong, message in (
        ("labels", "gives: got labels, wanted logits or"),
        ("probabilities", "gives: got probabilities with n"),
    ):
        capsys.readouterr()
        model = service.url if wrong == "labels" else "net.py:f"
        assert run(["audit", model, *command[2:], "--gives", wrong, "--out", f"{tmp_path}/three"]) == 2
        assert message in capsys.readouterr().err


def test_an_address_is_a_model(service: Service) -> None:
    model = load_model(service.url)
    assert isinstance(model, Endpoint)
    assert torch.equal(model(X), from_function(mean_of)(X))
    with pytest.raises(InputError, match=r"^weights: got w\.safetensors, wanted none with an endpoint"):
        load_model(service.url, "w.safetensors")
