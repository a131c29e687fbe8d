"""Whatever comes in: it works, or one sentence of ours says what is wrong. No other exception, nothing of several lines."""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photographed import Net
from torch import Tensor, nn

from tutelage import L2, PGD, ImageSet, Linf, MTARDConfig, Teacher
from tutelage.app.cli import run
from tutelage.claims.claim import load_claim
from tutelage.core.errors import InputError, TutelageError
from tutelage.core.rng import generator
from tutelage.data import as_images, read_images
from tutelage.models.loading import load_model
from tutelage.threats import parse_budget, parse_threat

light = settings(max_examples=40, deadline=None, database=None, derandomize=True)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool, torch.complex64]
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, 1, -1, 0.1, math.nan, math.inf, True, None, "0.1", "text", (1, 2), [], 10**30]),
)
SHAPES = st.lists(st.integers(0, 4), min_size=0, max_size=5)
SPECIAL = st.sampled_from([None, math.nan, math.inf, -0.5, 1.5, 255.0])


@contextlib.contextmanager
def refused_or_fine() -> Iterator[None]:
    """The property. Warnings are errors here, as in all tests, except numpy's over odd numbers."""
    refused: TutelageError | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            yield
        except TutelageError as error:
            refused = error
    if refused is not None:
        message = str(refused)
        assert message
        assert "\n" not in message
        assert "Traceback" not in message
        assert refused.exit_code == 2
        if isinstance(refused, InputError):
            assert re.match(rf"{re.escape(refused.argument)}: got .*, wanted ", message)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Tensors of all shapes and types, mostly in [0, 1], sometimes with a value that is not."""
    shape, dtype, special = draw(SHAPES), draw(st.sampled_from(DTYPES)), draw(SPECIAL)
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    if special is not None and tensor.numel():
        tensor.reshape(-1)[0] = special
    if dtype.is_floating_point or dtype.is_complex:
        return tensor.to(dtype)
    return (tensor.nan_to_num(0) * 255).to(dtype)


LABELS = st.one_of(
    st.lists(st.integers(-2, 5), max_size=5).map(lambda values: torch.tensor(values, dtype=torch.int64)),
    st.lists(st.integers(0, 2), max_size=5),
    tensors(),
    st.sampled_from([None, "abc", 10**12, [10**12], ["a"], [[0], [1]], {0: 1}]),
)


@light
@given(tensors(), LABELS)
def test_arrays(images: Tensor, labels: Any) -> None:
    with refused_or_fine():
        found = as_images((images, labels))
        assert found.images.dtype in (torch.uint8, torch.float32)
    with refused_or_fine():
        ImageSet(images, labels, ("a", "b", "c"))


ARRAYS = st.builds(
    lambda shape, dtype, value: np.full(shape, value).astype(dtype),
    st.lists(st.integers(0, 4), max_size=5),
    st.sampled_from(["u1", "i1", "i8", "u2", "u8", "f2", "f4", "f8", "c8", "?", "S3", "U3", "M8[s]", "O"]),
    st.sampled_from([0, 1, 2, 200]),
)


@light
@given(st.dictionaries(st.sampled_from(["image", "label", "x", "arr_0"]), ARRAYS, max_size=3))
def test_npz_files(arrays: dict[str, np.ndarray]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        np.savez(path, **arrays)
        before = path.read_bytes()
        with refused_or_fine():
            read_images(path)
        assert path.read_bytes() == before


@light
@given(st.binary(max_size=200), st.sampled_from(["x.npz", "x.parquet", "x.png", "cat/x.png", "cat/x.gif", "x"]))
def test_files_of_any_content(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        for one in (path, Path(folder) / "set"):
            with refused_or_fine():
                read_images(one)


TEXTS = st.one_of(
    st.text(max_size=20),
    st.from_regex(r"(fgsm:|pgd-[0-9]{1,8}:|apgd:)?(linf|l1|l2|L2|l3)@[-+0-9.e]{0,6}(/[0-9.]{0,4})?", fullmatch=True),
)


@light
@given(TEXTS)
def test_threats_and_budgets_as_text(text: str) -> None:
    with refused_or_fine():
        suite = parse_threat(text)
        assert 0 < float(suite.budget.eps) < math.inf
    with refused_or_fine():
        budget = parse_budget(text)
        assert 0 < float(budget.eps) < math.inf


@light
@given(NUMBERS, st.sampled_from([Linf, L2]))
def test_budgets_of_anything(eps: Any, norm: Any) -> None:
    with refused_or_fine():
        assert norm(eps).eps is eps


@light
@given(
    st.dictionaries(
        st.sampled_from(
            ["steps", "restarts", "eot", "step_size", "relative_step", "start", "start_std", "bounds", "objective"]
        ),
        NUMBERS,
        max_size=2,
    )
)
def test_attacks_of_anything(options: dict[str, Any]) -> None:
    with refused_or_fine():
        PGD(Linf(0.1), **options)


class Flat(nn.Module):
    """Takes any shape: two logits from the sum of a sample."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


@light
@given(tensors(), LABELS, st.sampled_from([Linf(0.1), L2(0.5), Linf(torch.tensor([0.1, 0.0]))]))
def test_attacks_on_any_input(x: Tensor, y: Any, budget: Any) -> None:
    with refused_or_fine():
        found = PGD(budget, steps=1).run(Flat(), x, y, generator(0))
        assert found.x_adv.shape == x.shape


@light
@given(tensors())
def test_teachers_asked_anything(x: Tensor) -> None:
    with refused_or_fine():
        Teacher(Net()).query(x)
    with refused_or_fine():
        Teacher(Flat()).query(x)


CONSTANTS = st.sampled_from(["balance", "clean_weight", "eta_w", "b", "eta_tau", "temperature_bounds", "reduction"])


@light
@given(st.dictionaries(CONSTANTS, NUMBERS, max_size=2))
def test_mtard_constants(options: dict[str, Any]) -> None:
    with refused_or_fine():
        MTARDConfig(**options)


FIELDS = [*type(load_claim("mtard").scales["smoke"]).model_fields, "epoch", "", "data "]
VALUES = st.one_of(st.text(max_size=8), st.integers(-5, 10**20).map(str), st.floats().map(str), NUMBERS)


@light
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
def test_settings_of_a_claim(changes: dict[str, Any]) -> None:
    claim = load_claim("mtard")
    with refused_or_fine():
        config = claim.config("smoke", changes)
        assert all(math.isfinite(v) for v in config.model_dump().values() if isinstance(v, float))


@light
@given(st.sampled_from(FIELDS), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
def test_set_on_the_command_line(key: str, value: str) -> None:
    """Only refusals are run to their end: an unknown scale is looked at after the settings are split."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.chdir(folder)
        assert run(["run", "mtard", "--scale", "huge", "--set", f"{key}={value}"]) == 2
        assert not list(Path(folder).iterdir())


@light
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_factories(text: str) -> None:
    with refused_or_fine():
        load_model(text)


@light
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["--n", "--size", "--threats", "--data", "--seed", "--jsn", "--batch-size", "-x", "=", "0", "-1"]),
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6),
        ),
        max_size=4,
    ),
    st.sampled_from(["audit", "show", "report"]),
)
def test_command_lines(rest: list[str], command: str) -> None:
    if any(word in ("--help", "-h") or word.startswith("--h") for word in rest):
        return
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.chdir(folder)
        assert run([command, *rest]) == 2
        assert not list(Path(folder).iterdir())
