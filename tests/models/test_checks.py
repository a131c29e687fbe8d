"""Checks of what goes into a classifier and what comes out of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tutelage.core.errors import InputError
from tutelage.models import InDtype, Logits
from tutelage.models.checks import (
    check_inputs,
    check_labels,
    check_logits,
    check_module,
    check_not_probabilities,
    look_like_probabilities,
    run_model,
)

nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("x", "bounds"),
    [
        (torch.rand(2, 1, 3, 3), (0.0, 1.0)),
        (torch.tensor([[0.0, 1.0]]), (0.0, 1.0)),
        (torch.tensor([[-5.0, 300.0]]), None),
        (torch.tensor([[-1.0, 1.0]]), (-1.0, 1.0)),
        (torch.rand(1, 4, dtype=torch.float64), (0.0, 1.0)),
    ],
)
def test_good_inputs(x: torch.Tensor, bounds: tuple[float, float] | None) -> None:
    check_inputs(x, bounds)


@pytest.mark.parametrize(
    ("x", "bounds", "message"),
    [
        ([[0.5]], (0.0, 1.0), r"^x: got list, wanted a torch.Tensor \(B, ...\)"),
        (torch.rand(3), (0.0, 1.0), r"^x: got shape \(3,\), wanted a batch"),
        (torch.rand(0, 3), (0.0, 1.0), r"^x: got shape \(0, 3\), wanted a batch .* of at least one sample"),
        (
            torch.ones(1, 1, dtype=torch.uint8),
            None,
            r"^x: got dtype torch.uint8, wanted floating point \(divide uint8 images by 255\)",
        ),
        (torch.ones(1, 1, dtype=torch.bool), None, r"^x: got dtype torch.bool"),
        (torch.tensor([[0.5, nan]]), (0.0, 1.0), r"^x: got NaN or infinity, wanted finite numbers"),
        (torch.tensor([[0.5, nan]]), None, r"^x: got NaN or infinity"),
        (torch.tensor([[0.5, inf]]), None, r"^x: got NaN or infinity"),
        (torch.tensor([[0.5, -inf]]), None, r"^x: got NaN or infinity"),
        (
            torch.tensor([[0.0, 255.0]]),
            (0.0, 1.0),
            r"^x: got values from 0 to 255, wanted values in \[0, 1\]; divide 0-255 images",
        ),
        (torch.tensor([[-1.0, 1.0]]), (0.0, 1.0), r"^x: got values from -1 to 1, .*; put normalisation inside the model"),
        (torch.tensor([[0.0, 1.0001]]), (0.0, 1.0), r"^x: got values from 0 to 1, wanted values in \[0, 1\]|1\.0001"),
        (torch.tensor([[0.5]]), (-0.25, 0.25), r"wanted values in \[-0.25, 0.25\]"),
    ],
)
def test_bad_inputs(x: Any, bounds: tuple[float, float] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_inputs(x, bounds)


def test_the_argument_is_named() -> None:
    with pytest.raises(InputError, match=r"^images: ") as error:
        check_inputs(torch.rand(3), name="images")
    assert error.value.argument == "images"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_good_labels(dtype: torch.dtype) -> None:
    check_labels(torch.tensor([0, 2, 1], dtype=dtype), 3, 3)
    check_labels(torch.tensor([0, 7], dtype=dtype), 2)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1], "^y: got list, wanted a torch.Tensor of integer labels"),
        (torch.tensor([0, 1, 1]), r"^y: got shape \(3,\), wanted shape \(2,\), one label a sample"),
        (torch.tensor([[0], [1]]), r"^y: got shape \(2, 1\)"),
        (torch.tensor(1), r"^y: got shape \(\)"),
        (torch.tensor([0.0, 1.0]), "^y: got dtype torch.float32, wanted integer class labels"),
        (torch.tensor([True, False]), "^y: got dtype torch.bool"),
        (torch.tensor([0j, 1j]), "^y: got dtype torch.complex64"),
        (torch.tensor([0, -1]), "^y: got label -1, wanted labels from 0"),
        (torch.tensor([0, 3]), "^y: got label 3, wanted labels from 0 to 2, as the model has 3 outputs"),
    ],
)
def test_bad_labels(y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_labels(y, 2, 3)


def test_good_logits_come_back_as_they_are() -> None:
    logits = torch.randn(3, 2)
    assert check_logits(logits, 3) is logits


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((torch.zeros(2, 3),), r"^model: got outputs of type tuple, wanted a tensor of logits \(B, classes\); wrap the model"),
        ({"logits": torch.zeros(2, 3)}, "^model: got outputs of type dict"),
        (None, "^model: got outputs of type NoneType"),
        (torch.zeros(2), r"^model: got outputs of shape \(2,\), wanted logits of shape \(2, classes\)"),
        (torch.zeros(3, 3), r"^model: got outputs of shape \(3, 3\), wanted logits of shape \(2, classes\)"),
        (torch.zeros(2, 3, 1), "^model: got outputs of shape"),
        (torch.zeros(2, 1), "^model: got 1 output column, wanted at least two classes"),
        (torch.zeros(2, 0), "^model: got 0 output column"),
        (torch.tensor([[0.0, nan], [0.0, 0.0]]), "^model: got logits with NaN or infinity, wanted finite logits"),
        (torch.tensor([[0.0, inf], [0.0, 0.0]]), "^model: got logits with NaN or infinity"),
    ],
)
def test_bad_logits(outputs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_logits(outputs, 2)


def test_probabilities_are_told_from_logits() -> None:
    # 0.2 + 0.8 and 1 + 0 are 1; 0.2 + 0.8005 is close enough; 0.2 + 0.7 is not; -0.5 + 1.5 is, but is no probability
    assert look_like_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.0]]))
    assert look_like_probabilities(torch.tensor([[0.2, 0.8005]]))
    assert not look_like_probabilities(torch.tensor([[0.2, 0.8], [0.2, 0.7]]))
    assert not look_like_probabilities(torch.tensor([[-0.5, 1.5]]))
    assert look_like_probabilities(torch.randn(5, 4).softmax(1).half())
    assert not look_like_probabilities(torch.randn(5, 4).log_softmax(1))


def test_probabilities_are_refused() -> None:
    check_not_probabilities(torch.tensor([[0.2, 0.9]]))
    with pytest.raises(InputError, match=r"^teacher: got outputs that are probabilities .* leave out the softmax"):
        check_not_probabilities(torch.tensor([[0.2, 0.8]]), "teacher")


class Hugging:
    """An object with logits, such as those that transformers return."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    ("outputs", "remedy"),
    [
        (lambda z: {"loss": z.sum(), "logits": z}, "Logits(model, 'logits')"),
        (lambda z: {"scores": z}, "Logits(model, 'scores')"),
        (lambda z: (z, None), "Logits(model, 0)"),
        (lambda z: [z.sum(), z], "Logits(model, 1)"),
        (lambda z: Hugging(z), "Logits(model)"),
    ],
)
def test_the_wrapper_that_an_error_names_helps(outputs: Any, remedy: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return outputs(x)

    model, x = Model(), torch.tensor([[0.25, 0.75], [0.1, 0.2]])
    with pytest.raises(InputError, match=r"^model: got outputs of type ") as error:
        run_model(model, x)
    assert f"tutelage.models.{remedy}, which returns" in str(error.value)
    assert torch.equal(run_model(eval(remedy, {"Logits": Logits, "model": model}), x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_wrapper_for_another_dtype_helps(dtype: torch.dtype) -> None:
    model = torch.nn.Linear(2, 2).to(dtype)
    with pytest.raises(InputError, match=r"wanted a float32 model .* or tutelage\.models\.InDtype\(model\)"):
        run_model(model, torch.rand(3, 2))
    assert run_model(InDtype(model), torch.rand(3, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (LogisticRegression(), r"wrap it: tutelage\.models\.from_sklearn"),
        (len, r"wrap it: tutelage\.models\.from_function"),
        ("http://127.0.0.1:1/", r"wrap it: tutelage\.models\.Endpoint"),
        (None, "that returns logits$"),
        (torch.nn.Linear, "that returns logits$"),
    ],
)
def test_what_is_no_module_is_told_how_to_become_one(model: object, wanted: str) -> None:
    with pytest.raises(InputError, match=rf"^model: got \w+, wanted an nn\.Module .*{wanted}"):
        check_module(model)
    check_module(torch.nn.Linear(1, 1))
