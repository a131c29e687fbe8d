"""The claim of ReCode: what its cells measure."""

from __future__ import annotations

import numpy as np
import pytest

from tutelage.claims.audit.recode import CLAIM, preserved
from tutelage.claims.audit.recode.config import Config, edits_of
from tutelage.claims.audit.recode.small import byte_tokenizer, examples, metrics, relative
from tutelage.claims.claim import Cell
from tutelage.core.cache import Cache
from tutelage.core.errors import MissingError
from tutelage.data.code_problems import CodeProblem
from tutelage.data.worlds.functions import FunctionWorld

SMOKE = CLAIM.scales["smoke"]


def test_26_of_28_run_without_a_model():
    for released in (False, True):
        able, missing = edits_of(Config(synonyms="table"), released=released)
        assert len(able) == 26
        assert set(missing) == {"BackTranslation", "VarRenamerCB"}


def test_operators_on_strings_do_the_harm_that_ours_refuse(tmp_path, monkeypatch: pytest.MonkeyPatch):
    # the name inside another word, a `continue` behind which an index would have to grow, an equal attribute
    problem = CodeProblem(
        "t",
        'def add(x: list) -> int:\n    """Add up.\n    >>> add([1])\n    1\n    """\n',
        "    added = x.copy()\n    for y in added:\n        if y < 0:\n            continue\n        x.append(y)\n"
        "    class A:\n        x = 1\n    return sum(x) + A.x - 1\n",
        "def check(candidate):\n    assert candidate([1, -1]) == 1\n    assert candidate([2]) == 4\n",
        "add",
    )
    monkeypatch.setattr("tutelage.claims.audit.recode.problems_of", lambda config: [problem])
    found = {arm: preserved(Cell(arm, 0, SMOKE, Cache(tmp_path))) for arm in ("ast-operators", "string-operators")}
    assert found["ast-operators"]["semantic_preservation_rate"] == 100.0
    assert found["string-operators"]["semantic_preservation_rate"] < 100.0
    assert found["ast-operators"]["transformations"] == 26.0
    assert 0 < found["ast-operators"]["changed"] < 100
    wrong = CodeProblem("t", problem.prompt, "    return 0\n", problem.test, "add")
    monkeypatch.setattr("tutelage.claims.audit.recode.problems_of", lambda config: [wrong])
    with pytest.raises(RuntimeError, match="canonical"):
        preserved(Cell("ast-operators", 0, SMOKE, Cache(tmp_path)))


def test_metrics_of_a_problem_by_hand():
    def table(*values: int):
        yes = np.ones(1, dtype=bool)
        return [(np.array([[bool(value)]]), yes, yes) for value in values]

    edited = {}
    for name, values in (
        ("ButterFingers", (1, 0, 0)),
        ("FuncRenameCamelCase", (1,)),
        ("OperandSwap", (0,)),
        ("tab_indent", (1,)),
    ):
        edited |= {(name, seed): one for seed, one in enumerate(table(*values))}
    found = metrics({"full": np.array([[True]]), "partial": np.array([[True]]), "edited": edited}, 0)
    assert (found["pass"], found["pass_partial"]) == (100.0, 100.0)
    assert [found[f"drop_{c}"] for c in ("docstring", "function", "syntax", "format")] == [100.0, 0.0, 100.0, 0.0]
    assert (found["drop"], found["drop_characters"]) == (50.0, 100.0)
    rd = relative({**found, "pass": 50.0, "drop_characters": 20.0, "drop_format": 10.0})
    assert rd == {
        "rd_characters": 40.0, "rd_syntax": 100.0, "rd_format": 10.0, "syntax_minus_format_rd": 90.0,
        "characters_minus_format_rd": 30.0,
    }  # fmt: skip
    assert set(relative({**found, "pass": 0.0})) == {"rd_syntax", "rd_format", "syntax_minus_format_rd"}
    assert found["seed_gap"] == pytest.approx(100 / 3)  # of the one random edit: mean 1/3, worst 0


def test_both_small_models_see_the_same_problems_and_never_a_held_out_one():
    config = Config(synonyms="table", small_steps=4, small_batch=8)
    tokenizer = byte_tokenizer()
    rows = {arm: examples(arm, 0, config, tokenizer) for arm in ("small-plain", "small-augmented")}
    same = sum(a == b for a, b in zip(*rows.values(), strict=True))
    assert 8 < same < 32  # about half are edited, and some edits leave a prompt alone
    text = "\n".join(tokenizer.decode(prompt) for prompt, _ in rows["small-plain"])
    assert not any(f"def {task.name}(" in text for task in FunctionWorld().of("test"))
    assert tokenizer.decode(tokenizer("any text: ä\t€")["input_ids"]) == "any text: ä\t€"


def test_missing_data_is_told_before_anything_runs(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    with pytest.raises(MissingError):
        CLAIM.data(Config())
    assert [one["name"] for one in CLAIM.data(SMOKE)] == ["functions"]
