"""Functions as models: what they may return, that nothing is changed behind their back, and that gradients are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tutelage
from brightness import Mean, mean_of
from tutelage.core.errors import AuditError, InputError
from tutelage.models import Endpoint, Normalized, fingerprint, from_function, is_differentiable
from tutelage.models.black_box import to_logits
from tutelage.models.checks import check_differentiable
from tutelage.teaching import Teacher
from tutelage.threats import APGD, FGSM, FMN, PGD, Linf, Square, Suite

X = torch.arange(12.0).reshape(3, 1, 2, 2) / 12


def columns(*values: float) -> Callable[[Any], np.ndarray]:
    return lambda batch: np.tile(np.array(values), (len(batch), 1))


# What a function returns


def test_logits_are_taken_as_they_are() -> None:
    seen = []

    def f(batch: np.ndarray) -> np.ndarray:
        seen.append(batch)
        return np.array([[1, -2, 3]] * len(batch))

    out = from_function(f)(X)
    assert out.dtype == torch.float32
    assert out.tolist() == [[1.0, -2.0, 3.0]] * 3
    assert isinstance(seen[0], np.ndarray)
    assert np.array_equal(seen[0], X.numpy())


def test_probabilities_become_their_logarithms() -> None:
    out = from_function(columns(0.5, 0.5 - 1e-300, 1e-300), gives="probabilities")(X)
    assert out[0].tolist() == pytest.approx([math.log(0.5), math.log(0.5), -126 * math.log(2)])
    rounded = from_function(columns(0.33, 0.33, 0.33), gives="probabilities")(X)
    assert rounded[0].tolist() == pytest.approx([math.log(0.33)] * 3)


def test_one_number_a_sample_is_that_of_class_1() -> None:
    one = torch.tensor([0.25, 0.5, 1.0])
    out = from_function(lambda _: one, gives="probabilities", takes="torch")(X)
    assert out.exp()[:2].tolist() == [[pytest.approx(0.75), pytest.approx(0.25)], [0.5, 0.5]]
    assert out.argmax(1).tolist() == [0, 0, 1]
    for shape in ((3,), (3, 1)):
        out = from_function(lambda _, shape=shape: torch.tensor([-3.0, 0.0, 2.0]).reshape(shape))(X)
        assert out.tolist() == [[1.5, -1.5], [0.0, 0.0], [-1.0, 1.0]]
        # the softmax is the logistic function
        assert out.softmax(1)[:, 1].tolist() == pytest.approx([1 / (1 + math.exp(3)), 0.5, 1 / (1 + math.exp(-2))])


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32, np.uint64])
def test_labels_are_certain_probabilities(dtype: type) -> None:
    out = from_function(lambda _: np.array([2, 0, 1], dtype=dtype), gives="labels", classes=4)(X)
    assert out.argmax(1).tolist() == [2, 0, 1]
    assert out.max(1).values.tolist() == [0.0] * 3
    assert sorted(set(out[0].tolist())) == [pytest.approx(-126 * math.log(2)), 0.0]
    assert not bool(torch.isinf(out).any())


@pytest.mark.parametrize(
    ("answer", "options", "message"),
    [
        ([[0.0, math.nan]] * 3, {}, "model: got logits with NaN or infinity, wanted finite logits"),
        ([[0.0, math.inf]] * 3, {}, "model: got logits with NaN or infinity"),
        ([[0.0, 1e39]] * 3, {}, "model: got logits that float32 cannot hold"),
        ([[0.0, 1.0]] * 2, {}, r"model: got logits of shape \(2, 2\), wanted logits of shape \(3, classes\)"),
        ([[0.0, 1.0]] * 3, {"classes": 3}, "model: got logits of 2 classes, wanted 3 classes"),
        ([[0.0, 1.0], [1.0], [2.0]], {}, "model: got an answer of type list"),
        ([["a", "b"]] * 3, {}, "model: got an answer of type list"),
        ([[None, 1.0]] * 3, {}, "model: got an answer of type list"),
        (None, {}, "model: got an answer of type NoneType"),
        ({"a": 1}, {}, "model: got an answer of type dict"),
        ([[1j, 0j]] * 3, {}, "model: got logits of dtype torch.complex128"),
        ([[True, False]] * 3, {}, "model: got logits of dtype torch.bool"),
        ([[0.5, 0.6]] * 3, {"gives": "probabilities"}, "model: got probabilities that sum to 1.1 up to 1.1 in a row"),
        ([[0.0, 2.0]] * 3, {"gives": "probabilities"}, "model: got probabilities from 0 to 2"),
        ([0.5, 1.5, 0.0], {"gives": "probabilities"}, "model: got probabilities from -0.5 to 1.5"),
        ([0, 1, 3], {"gives": "labels", "classes": 3}, "model: got label 3, wanted labels from 0 to 2"),
        ([0, -1, 1], {"gives": "labels", "classes": 3}, "model: got label -1"),
        ([0.0, 1.0, 1.0], {"gives": "labels", "classes": 3}, r"model: got labels of shape \(3,\) and torch.float64"),
        ([[0], [1], [1]], {"gives": "labels", "classes": 3}, r"model: got labels of shape \(3, 1\)"),
    ],
)
def test_what_is_no_answer(answer: object, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        from_function(lambda _: answer, **options)(X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gives": "scores"}, "gives: got scores, wanted one of logits, probabilities, labels"),
        ({"takes": "jax"}, "takes: got jax, wanted one of numpy, torch"),
        ({"gives": "labels"}, "classes: got None, wanted the number of classes"),
        ({"classes": 1}, "classes: got 1, wanted an integer >= 2"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        from_function(columns(0.0, 1.0), **options)
    with pytest.raises(InputError, match=r"^f: got 3"):
        from_function(3)  # type: ignore[arg-type]


def test_an_error_of_the_function_is_one_sentence() -> None:
    def rule(batch: np.ndarray) -> np.ndarray:
        raise KeyError("weights")

    wanted = r"^model: got rule raising KeyError: 'weights', wanted probabilities of a numpy batch of shape \(3, 1, 2, 2\)$"
    with pytest.raises(InputError, match=wanted):
        from_function(rule, gives="probabilities")(X)


@pytest.mark.parametrize("takes", ["numpy", "torch"])
def test_what_the_function_does_to_its_input_is_its_own_affair(takes: Any) -> None:
    def f(batch: Any) -> Any:
        batch -= 7.0
        return batch.reshape(len(batch), -1)

    x = X.clone()
    out = from_function(f, takes=takes)(x)
    assert torch.equal(x, X)
    torch.testing.assert_close(out, X.flatten(1) - 7)


def test_an_empty_row_of_labels_is_fine() -> None:
    assert to_logits(np.zeros(0, np.int64), 0, "labels", 2).shape == (0, 2)


# No gradients


def test_who_has_gradients() -> None:
    function = from_function(mean_of)
    assert is_differentiable(Mean())
    assert is_differentiable(torch.jit.script(nn.Linear(2, 2)))
    assert not is_differentiable(function)
    assert not is_differentiable(Normalized(function, [0.5], [0.5]))
    check_differentiable(Mean(), "PGD")
    with pytest.raises(
        InputError, match=r"^model: got Normalized, which gives no gradients, for PGD, wanted black-box attacks"
    ):
        check_differentiable(Normalized(function, [0.5], [0.5]), "PGD")


@pytest.mark.parametrize("attack", [PGD(Linf(0.1), steps=2), FGSM(Linf(0.1)), APGD(Linf(0.1), 3), FMN(Linf(0.1), steps=2)])
def test_gradient_attacks_are_refused_by_a_sentence_that_names_the_others(attack: Any) -> None:
    x = torch.full((2, 1, 2, 2), 0.45)
    for model in (from_function(mean_of), nn.Sequential(from_function(mean_of))):
        with pytest.raises(InputError, match=r"gives no gradients.* wanted black-box attacks, such as Square"):
            attack.run(model, x, torch.zeros(2, dtype=torch.long), torch.Generator().manual_seed(0))


def data(n: int = 40) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 2
    noise = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return (0.3 + 0.2 * noise + 0.2 * labels[:, None, None, None]).clamp(0, 1), labels


def test_a_function_is_attacked_as_the_module_of_the_same_numbers() -> None:
    """Square asks for answers only: the same noise breaks the same samples, whether there are gradients or not."""
    x, y = data()
    attack = Square(Linf(0.08), queries=40)
    found = [attack.run(m, x, y, torch.Generator().manual_seed(0)) for m in (Mean(), from_function(mean_of))]
    assert torch.equal(found[0].success, found[1].success)
    assert 0 < int(found[0].success.sum()) < len(x)
    assert float((found[1].x_adv - x).abs().max()) <= 0.08 + 1e-6


def test_a_function_is_audited_black_box() -> None:
    suite = Suite(Linf(0.08), (("Square", Square(Linf(0.08), queries=40)),))
    results = [tutelage.audit(m, data(), threats=[suite], curve=False, seed=3) for m in (Mean(), from_function(mean_of))]
    assert results[0].predictions == results[1].predictions
    assert results[0].clean_accuracy > results[1].row("linf@0.08 Square").value


def test_probabilities_given_as_logits_are_told_before_any_attack() -> None:
    calls = []

    def f(batch: np.ndarray) -> np.ndarray:
        calls.append(len(batch))
        one = 1 / (1 + np.exp(-8 * (batch.reshape(len(batch), -1).mean(1) - 0.5)))
        return np.stack([1 - one, one], 1)

    options: dict[str, Any] = {"threats": [Square(Linf(0.01), queries=2)], "curve": False}
    with pytest.raises(AuditError, match="the model returns probabilities"):
        tutelage.audit(from_function(f), data(), **options)
    assert sum(calls) == 2 * 32  # the sanity check alone
    assert tutelage.audit(from_function(f, gives="probabilities"), data(), **options).status == "reliable"


def test_a_function_that_changes_its_answer_is_flagged() -> None:
    rng = np.random.default_rng(0)

    def noisy(batch: np.ndarray) -> np.ndarray:
        return mean_of(batch) + rng.normal(0, 0.05, (len(batch), 2))

    result = tutelage.audit(from_function(noisy), data(), threats=[Square(Linf(0.01), queries=2)], curve=False)
    assert result.status == "unreliable"
    assert any("random" in warning for warning in result.warnings)


def test_answers_that_stop_being_numbers_fail_their_threat_and_keep_what_is_finished(tmp_path: Any) -> None:
    """The third batch of an attack meets NaN; the first two are not computed again."""
    seen: list[int] = []
    broken = [True]

    def f(batch: np.ndarray) -> np.ndarray:
        seen.append(len(batch))
        # sanity: 2 x 32; clean: 5 batches of 8; then batches of an attack
        return mean_of(batch) * (np.nan if broken[0] and sum(seen) > 2 * 32 + 40 + 60 else 1)

    def call(state: Any, f: Any = f) -> Any:
        attack = Square(Linf(0.002), queries=2)
        return tutelage.audit(from_function(f), data(), threats=[attack], curve=False, batch_size=8, state=state)

    asked: list[int] = []

    def counted(batch: np.ndarray) -> np.ndarray:
        asked.append(len(batch))
        return mean_of(batch)

    whole = call(None, counted)
    (reason,) = call(tmp_path / "state").failed.values()
    assert "NaN or infinity" in reason
    kept = len(list((tmp_path / "state").rglob("linf*.safetensors")))
    assert 1 <= kept < 5
    broken[0] = False
    before = sum(seen)
    again = call(tmp_path / "state")
    assert again.predictions == whole.predictions
    assert sum(seen) - before < sum(asked)


def test_functions_and_addresses_are_told_apart() -> None:
    def other(batch: np.ndarray) -> np.ndarray:
        return -mean_of(batch)

    models = [
        from_function(mean_of),
        from_function(other),
        from_function(mean_of, classes=2),
        from_function(len),
        Endpoint("http://127.0.0.1:1/a"),
        Endpoint("http://127.0.0.1:1/b"),
    ]
    assert len({fingerprint(model) for model in models}) == 6
    assert fingerprint(from_function(mean_of)) == fingerprint(models[0])
    assert fingerprint(nn.Sequential(models[0])) != fingerprint(nn.Sequential(models[1]))


def test_a_teacher_may_be_a_black_box() -> None:
    logits = Teacher(from_function(mean_of)).query(data()[0]).logits
    assert torch.equal(logits, from_function(mean_of)(data()[0]))


def test_a_module_of_the_users_own_says_so_itself() -> None:
    class Elsewhere(Mean):
        differentiable = False

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(mean_of(x.detach().numpy()))

    assert not is_differentiable(Elsewhere())
    with pytest.raises(InputError, match=r"Elsewhere, which gives no gradients"):
        tutelage.audit(Elsewhere(), data(), threats=["pgd-2:linf@0.1"])
    result = tutelage.audit(Elsewhere(), data(), threats=["linf@0.45"])
    assert result.row("linf@0.45").value == 0.0
