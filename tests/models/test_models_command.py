"""`tutelage audit MODEL`: a factory that returns a wrapped model, a pipeline, the address of an endpoint; never a pickle."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from prediction_server import Service, served

from tutelage.app.cli import run
from tutelage.models import load_model

FACTORIES = '''
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tutelage.models import Logits, Normalized, from_sklearn


class Net(nn.Module):
    def forward(self, x):
        mean = 0.25 * x.flatten(1).mean(1)
        return {"logits": torch.stack([-mean, mean], 1) * 8}


def wrapped():
    return Normalized(Logits(Net()), [0.5], [0.25])


def pipeline():
    """What a user would load with joblib: fitted on the mean."""
    with np.load("test.npz") as arrays:
        images, labels = arrays["image"].reshape(48, -1), arrays["label"]
    return from_sklearn(LogisticRegression().fit(images, labels))


def forgotten():
    return LogisticRegression()
'''
ATTACK = ["--threats", "square-12:linf@0.19", "--no-curve", "--batch-size", "8"]


def mean_of(batch: np.ndarray) -> np.ndarray:
    mean = batch.reshape(len(batch), -1).mean(1)
    return np.stack([0.5 - mean, mean - 0.5], 1) * 8


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with 48 dark and bright images; the command runs inside it."""
    (tmp_path / "my_nets.py").write_text(FACTORIES)
    labels = np.arange(48) % 2
    images = np.random.default_rng(0).uniform(0.2, 0.6, (48, 8, 8)) + 0.2 * labels[:, None, None]
    np.savez(tmp_path / "test.npz", image=images.astype(np.float32), label=labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def service() -> Iterator[Service]:
    with served(mean_of) as running:
        yield running


def values(folder: str) -> dict[str, float]:
    rows = json.loads((Path(folder) / "audit.json").read_text())["rows"]
    return {f"{row['category']} {row['name']}": row["value"] for row in rows if row["category"].startswith(("clean", "linf"))}


def audit(model: str, out: str, *options: str) -> int:
    return run(["audit", model, "--data", "test.npz", "--out", out, *(options or ATTACK)])


def test_two_ways_to_one_model(place: Path, service: Service) -> None:
    """The same function, wrapped and behind HTTP, is broken by the same noise."""
    assert audit("my_nets.py:wrapped", "wrapped") == 0
    assert audit(service.url, "http") == 0
    assert values("http") == values("wrapped")
    assert values("http")["clean clean"] == 1.0 > values("http")["linf@0.19 Square-12 worst case"] > 0
    assert service.requests > 12
    model = json.loads((place / "http" / "audit.json").read_text())["model"]
    assert model["name"] == service.url
    assert model["parameters"] == 0


def test_a_budget_alone_on_an_endpoint_is_the_black_box_suite(
    place: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wide enough to be over soon. The curve, which needs gradients, is left out, and the note says what the number is."""
    assert audit(service.url, "out", "--threats", "linf@0.45") == 0
    found = json.loads((place / "out" / "audit.json").read_text())
    assert [attack["name"] for attack in found["settings"]["threats"][0]["attacks"]] == ["Square", "Decision"]
    assert found["curves"] == []
    assert values("out")["linf@0.45 worst case"] == 0.0
    assert "black-box attacks only" in " ".join(capsys.readouterr().out.split())


def test_a_factory_of_a_pipeline(place: Path) -> None:
    with np.load("test.npz") as arrays:
        images, labels = torch.from_numpy(arrays["image"])[:, None], arrays["label"]
    assert load_model("my_nets.py:pipeline")(images).argmax(1).tolist() == labels.tolist()


def test_corruptions_of_an_endpoint(place: Path, service: Service) -> None:
    with np.load("test.npz") as arrays:
        np.savez("large.npz", image=arrays["image"].repeat(2, 1).repeat(2, 2), label=arrays["label"])
    assert run(["audit", service.url, "--data", "large.npz", "--out", "out", "--suite", "brightness@1"]) == 0
    rows = json.loads((place / "out" / "audit.json").read_text())["rows"]
    assert any(row["name"].startswith("brightness") for row in rows)


def test_a_gradient_attack_on_an_endpoint_is_one_sentence(
    place: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(service.url, "out", "--threats", "pgd-3:linf@0.1", "--no-curve") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "Endpoint" in error
    assert "gives no gradients" in error
    assert "square" in error.lower()


def test_an_endpoint_that_dies_and_comes_back(place: Path, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command goes on: it ends as the one that nobody stopped, and asks for less."""
    (place / "quick.py").write_text(
        "from tutelage.models import Endpoint\n"
        f"def build():\n    return Endpoint({service.url!r}, wait=0.01, attempts=2, timeout=5)\n"
    )
    assert audit("quick.py:build", "whole") == 0
    all_of_it, service.requests = service.requests, 0
    service.dies_after = all_of_it * 2 // 3
    capsys.readouterr()
    assert audit("quick.py:build", "out") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {service.url}: ")
    assert "the audit's finished parts are in out/state, it goes on from there" in error
    assert not (place / "out" / "audit.json").exists()
    service.requests, service.dies_after = 0, 10**9
    assert audit("quick.py:build", "out") == 0
    assert " finished" in capsys.readouterr().err.partition("going on from")[2]
    assert service.requests < all_of_it
    assert values("out") == values("whole")


def test_what_is_no_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "model.joblib").write_bytes(pickle.dumps({"a": 1}))
    for model, said in (
        ("model.joblib", "loading a pickle can run anything, so it is not done here"),
        ("my_nets.py:forgotten", "tutelage.models.from_sklearn(...)"),
        ("http://", "an address such as http://127.0.0.1:8000/predict"),
        ("ftp://a/b", "a module that can be imported"),
    ):
        assert audit(model, "out") == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: "), model
        assert said in error
    assert run(["audit", "http://127.0.0.1:9/", "--weights", "w.safetensors", "--data", "test.npz", *ATTACK]) == 2
    assert "none with an endpoint" in capsys.readouterr().err
    assert not (place / "out").exists()
