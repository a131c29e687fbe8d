"""A user's own model: factories named by a string, weights from safetensors, no pickle."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tutelage.core.errors import InputError, MissingError
from tutelage.models import SmallCNN, fingerprint, load_model, load_weights, save_weights

FACTORIES = '''
"""A user's file."""
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Size:  # a dataclass looks its module up by name
    classes: int = 3


def net():
    return nn.Sequential(nn.Linear(2, Size().classes), nn.BatchNorm1d(3), nn.Dropout(0.5))


class Zoo:
    @staticmethod
    def small():
        return nn.Linear(2, 2)


ready = nn.Linear(2, 2)
number = 7


def needs(depth):
    return nn.Linear(depth, 2)


def nothing():
    return None


class Guess:
    def predict(self, x):
        return [0] * len(x)


def guess():
    return Guess()


def rule():
    return lambda x: [[0.0, 1.0]] * len(x)
'''


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[1].running_mean.fill_(seed)
    return model


@pytest.fixture(autouse=True)
def _clean_modules() -> Iterator[None]:
    """What a test imports is forgotten."""
    known, path = set(sys.modules), list(sys.path)
    yield
    assert sys.path == path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with `user_nets.py` and the package `zoo`."""
    (tmp_path / "user_nets.py").write_text(FACTORIES)
    (tmp_path / "user_zoo" / "nets").mkdir(parents=True)
    (tmp_path / "user_zoo" / "__init__.py").touch()
    (tmp_path / "user_zoo" / "nets" / "__init__.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


# Factories


@pytest.mark.parametrize("factory", ["user_nets.py:net", "./user_nets.py:net", "user_nets:net", "user_zoo.nets:net"])
def test_good_factories(here: Path, factory: str) -> None:
    model = load_model(factory)
    assert isinstance(model, nn.Sequential)
    assert not any(module.training for module in model.modules())
    assert model(torch.zeros(1, 2)).shape == (1, 3)


def test_a_factory_in_a_file_elsewhere(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("else where") / "my net.py"
    path.write_text(FACTORIES)
    assert isinstance(load_model(f"{path}:net"), nn.Sequential)


def test_two_files_of_one_name_are_two_files(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "user_nets.py"
    other.write_text("from torch import nn\n\ndef net():\n    return nn.Identity()\n")
    assert isinstance(load_model("user_nets.py:net"), nn.Sequential)
    assert isinstance(load_model(f"{other}:net"), nn.Identity)


@pytest.mark.parametrize("factory", ["user_nets:Zoo.small", "user_nets:ready", "torch.nn:Identity", "tutelage.models:SmallCNN"])
def test_nested_names_classes_and_ready_models(here: Path, factory: str) -> None:
    assert isinstance(load_model(factory), nn.Module)


@pytest.mark.parametrize(
    ("factory", "wanted"),
    [
        ("", "a factory 'package.module:function' or 'file.py:function'"),
        ("user_nets", "a factory"),
        ("user_nets:", "a factory"),
        (":net", "a factory"),
        ("user_nets:absent", "has no 'absent'"),
        ("user_nets:Zoo.absent", "has no 'Zoo.absent'"),
        ("user_nets.py:absent", "has no 'absent'"),
        ("user_nets:number", "a function that returns an nn.Module"),
        ("user_nets:needs", "a function that needs no arguments"),
        ("user_nets:nothing", "an nn.Module"),
        ("user_nets:guess", "an nn.Module; wrap it: tutelage.models.from_sklearn(...)"),
        ("user_nets:rule", "an nn.Module; wrap it: tutelage.models.from_function(...)"),
        ("no_such_module_here:net", "a module that can be imported from here"),
        ("user_zoo.absent:net", "a module that can be imported from here"),
        (".user_nets:net", ""),
        ("user nets:net", "a module that can be imported from here"),
    ],
)
def test_bad_factories(here: Path, factory: str, wanted: str) -> None:
    with pytest.raises(InputError, match=r"^model: got ") as error:
        load_model(factory)
    assert wanted in str(error.value)


def test_a_file_that_is_not_there(here: Path) -> None:
    with pytest.raises(MissingError, match=r"model: there is no file absent\.py"):
        load_model("absent.py:net")


@pytest.mark.parametrize("name", ["model.joblib", "deep/model.pkl", "model.pickle", "net.pt", "net.PTH", "/x/net.ckpt"])
def test_a_pickle_as_the_model_is_not_loaded_and_it_says_how(here: Path, name: str) -> None:
    mark, path = here / "it ran", here / name.removeprefix("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(InputError, match=r"^model: got .* wanted a factory .*from_sklearn\(joblib\.load\(\.\.\.\)\)"):
        load_model(name)
    assert not mark.exists()


def test_a_factory_with_weights(here: Path) -> None:
    model = load_model("user_nets:net")
    save_weights(model, here / "w.safetensors")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    again = load_model("user_nets:net", here / "w.safetensors")
    assert fingerprint(again) != fingerprint(model)
    assert fingerprint(load_model("user_nets:net", str(here / "w.safetensors"))) == fingerprint(again)
    with pytest.raises(MissingError, match="weights: there is no file"):
        load_model("user_nets:net", here / "absent.safetensors")


# Weights


def test_round_trip(tmp_path: Path) -> None:
    model, other = net(1), net(2)
    path = tmp_path / "deep" / "w.safetensors"
    save_weights(model, path)
    assert fingerprint(model) != fingerprint(other)
    load_weights(other, path)
    assert fingerprint(model) == fingerprint(other)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert set(load_file(path)) == set(model.state_dict())
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]  # no temporary file is left


def test_loading_keeps_modes_and_parameters(tmp_path: Path) -> None:
    model = net(1).train()
    weight = model[0].weight
    save_weights(net(2), tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    assert model.training
    assert model[0].weight is weight
    assert weight.requires_grad


def test_tensors_that_share_memory_or_are_strided(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)

    model = Tied()
    save_weights(model, tmp_path / "w.safetensors")
    again = Tied()
    load_weights(again, tmp_path / "w.safetensors")
    assert fingerprint(again) == fingerprint(model)
    assert again.a.weight is again.b.weight
    assert again.turned.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def given(change: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
    state = {name: value.clone() for name, value in net(1).state_dict().items()}
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), r"weights: got w.safetensors without '0.bias' \(1 missing\), wanted every tensor"),
        (lambda s: s.update(head=torch.zeros(1)), r"weights: got w.safetensors with 'head' \(1 unknown\)"),
        (
            lambda s: s.update({"0.weight": torch.zeros(2, 3)}),
            r"weights: got '0.weight' of shape \(2, 3\), wanted shape \(3, 2\)",
        ),
        (lambda s: s["0.weight"].fill_(torch.nan), "weights: got '0.weight' with NaN or infinity"),
        (lambda s: s["1.running_var"].fill_(torch.inf), "weights: got '1.running_var' with NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    save_file(given(change), tmp_path / "w.safetensors")
    model = net(2)
    before = fingerprint(model)
    with pytest.raises(InputError, match=message):
        load_weights(model, tmp_path / "w.safetensors")
    assert fingerprint(model) == before


def test_one_bad_tensor_leaves_the_others_unloaded(tmp_path: Path) -> None:
    """The last tensor in the file is wrong: the first is not loaded either."""
    state = {name: value.clone() for name, value in net(1).state_dict().items()}
    last = sorted(state)[-1]
    state[last] = torch.full_like(state[last], torch.nan, dtype=torch.float32)
    save_file(state, tmp_path / "w.safetensors")
    model = net(2)
    before = fingerprint(model)
    with pytest.raises(InputError, match=last):
        load_weights(model, tmp_path / "w.safetensors")
    assert fingerprint(model) == before


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_not_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^weights: got w\.safetensors"):
        load_weights(net(), path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(net(1), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"weights: got w\.safetensors, wanted a readable safetensors file"):
        load_weights(net(2), path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="weights: there is no file"):
        load_weights(net(), tmp_path / "absent.safetensors")
    with pytest.raises(MissingError, match="weights: there is no file"):
        load_weights(net(), tmp_path)  # a folder is no file


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.safetensors"])
def test_a_pickle_is_never_read(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "it ran"
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(InputError, match=r"^weights: got w\.") as error:
        load_weights(net(), tmp_path / name)
    assert name == "w.safetensors" or "pickled checkpoints can run code; convert them" in str(error.value)
    assert not mark.exists()
    pickle.loads((tmp_path / name).read_bytes())
    assert mark.exists()  # so the test can fail


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(net(1), path)
    old = path.read_bytes()
    broken = net(2)
    broken.register_buffer("sparse", torch.eye(2).to_sparse())
    with pytest.raises(Exception, match=r".+"):
        save_weights(broken, path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_fingerprint() -> None:
    model = SmallCNN(4, size=8)
    before = fingerprint(model)
    assert len(before) == 64
    assert fingerprint(model.train()) == before
    with torch.no_grad():
        model.head.bias[3] += 1e-3
    assert fingerprint(model) != before
