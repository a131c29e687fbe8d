"""ReCode: scores by hand, invariants of the card, truncation, the gate, the audit of a model, its files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tutelage.core.errors import InputError, MissingError
from tutelage.core.sandbox import Sandbox
from tutelage.core.stats import pass_at_k
from tutelage.data.code_problems import CodeProblem, humaneval, mbpp, read_problems, with_indent_of_prompt, write_problems
from tutelage.data.worlds.functions import FunctionWorld
from tutelage.methods.audit.recode import (
    Decoding,
    evaluate_code_robustness,
    partial_prompt,
    perturb_all,
    perturb_code,
    score,
    truncate,
)
from tutelage.models.language import FunctionLM, GenRequest, TinyGPT
from tutelage.threats.code import GeneratedNamer, MaskedNamer, code_edits

WORLD = FunctionWorld()
LEAN = ("FuncRenameCamelCase", "VarRenamerNaive", "tab_indent", "ButterFingers", "DeadCodeInserter")


def lean(*names: str):
    edits = code_edits()
    return {name: edits[name] for name in names or LEAN}


def by_heart(problems, answer_edited: bool = False) -> FunctionLM:
    """It answers what it has seen byte for byte; with `answer_edited` whatever ends like a known prompt's last line, too."""
    known = {p.prompt: p.canonical_solution for p in problems}
    known |= {partial_prompt(p): p.program[len(partial_prompt(p)) :] for p in problems}
    return FunctionLM(lambda prompt, seed: known.get(prompt, "    return None\n"), name="by heart", fingerprint="1")


# --------------------------------------------------------------------------------------------------------------- scores


def test_estimator_by_hand():
    found = [float(pass_at_k(n, c, k)) for n, c, k in ((5, 0, 1), (5, 5, 1), (10, 3, 1), (4, 2, 2))]
    np.testing.assert_allclose(found, [0, 1, 0.3, 1 - 1 / 6])


def test_greedy_scores_by_hand():
    nominal = np.array([[1], [1], [1], [0], [0]], dtype=bool)
    edited = np.array([[[1], [1]], [[1], [0]], [[0], [0]], [[0], [1]], [[0], [0]]], dtype=bool)
    found = score(nominal, edited)
    assert found is not None
    assert (found.problems, found.nominal, found.robust) == (5, 0.6, 0.2)
    assert found.average == pytest.approx((1 + 0.5 + 0 + 0.5 + 0) / 5)
    assert found.drop == pytest.approx(100 * 0.4 / 0.6)
    assert found.relative == pytest.approx(60)  # problems 2, 3 down, 4 up
    assert found.broken == pytest.approx(2 / 3)


def test_samples_by_slot_and_by_estimate():
    nominal = np.array([[1, 0]], dtype=bool)
    edited = np.array([[[0, 1], [1, 0]]], dtype=bool)  # each seed solves it with the other sample
    slot, other = score(nominal, edited), score(nominal, edited, pairing="any")
    assert slot is not None
    assert other is not None
    assert (slot.robust, slot.drop) == (0.0, 100.0)
    assert (other.robust, other.drop, other.relative) == (0.5, 0.0, 0.0)
    # slot 1: worst differs; slot 2: worst is equal (0), best is not: est(2, 1, 1) + est(2, 1, 1) = 1
    assert slot.relative == pytest.approx(100)
    both = score(nominal, edited, k=2)
    assert both is not None
    assert (both.nominal, both.robust) == (1.0, 0.0)


def test_the_identity_loses_nothing_and_missing_prompts_do_not_count():
    nominal = np.random.default_rng(0).random((20, 3)) < 0.5
    same = score(nominal, np.stack([nominal, nominal], 1), k=2)
    assert same is not None
    assert (same.robust, same.drop, same.relative, same.broken) == (same.nominal, 0.0, 0.0, 0.0)
    edited = np.stack([nominal, np.zeros_like(nominal)], 1)
    valid = np.ones((20, 2), dtype=bool)
    valid[:, 1] = False
    assert score(nominal, edited, valid=valid, k=2) == same
    valid[4:] = False
    part = score(nominal, edited, valid=valid)
    assert part is not None
    assert part.problems == 4
    assert score(nominal, edited, valid=np.zeros((20, 2), dtype=bool)) is None


def test_more_seeds_are_never_better():
    rng = np.random.default_rng(1)
    nominal, edited = rng.random((40, 1)) < 0.6, rng.random((40, 6, 1)) < 0.5
    last = 1.0
    for seeds in range(1, 7):
        found = score(nominal, edited[:, :seeds])
        assert found is not None
        assert found.robust <= last
        assert found.robust <= edited[:, :seeds, 0].mean(0).min()
        assert found.relative >= 100 * abs(found.nominal - found.robust) - 1e-9
        last = found.robust


def test_no_nominal_pass_has_no_drop():
    none = score(np.zeros((3, 1), dtype=bool), np.ones((3, 2, 1), dtype=bool))
    assert none is not None
    assert (none.drop, none.broken, none.relative) == (None, None, 100.0)


def test_tables_that_do_not_fit_are_refused():
    good = np.zeros((3, 2), dtype=bool)
    for nominal, edited, argument in ((good, good, "perturbed"), (good.astype(int), good[:, None], "nominal")):
        with pytest.raises(InputError, match=argument):
            score(nominal, edited)
    with pytest.raises(InputError, match="k"):
        score(good, good[:, None], k=3)
    with pytest.raises(InputError, match="valid"):
        score(good, good[:, None], valid=np.ones(3, dtype=bool))


# ----------------------------------------------------------------------------------------------------------- truncation


def test_truncation_keeps_the_longest_text_that_parses_and_one_function():
    prompt = 'def f(x):\n    """Double x."""\n'
    good = "    y = 2 * x\n    return y\n"
    wanted = prompt + good
    assert truncate(prompt, good, "f") == wanted
    assert truncate(prompt, good + "\ndef g():\n    pass\nprint(f(1))\n", "f") == wanted
    assert truncate(prompt, good + "\nThis function doubles", "f") == wanted
    # the text up to the list's first line does not parse, up to its last line it does: halving would lose it
    several = "    y = [\n        x,\n        x,\n    ]\n    return sum(y)\n"
    assert truncate(prompt, several + "    z = (", "f") == prompt + several
    assert truncate(prompt, "    return (", "f") == prompt  # no line of it is Python: the function does nothing
    assert truncate("def f(x):\n", "    return (", "f") == "def f(x):\n    return ("
    helper = "def f():\n    return 1\n\n\ndef g(x):\n"
    assert truncate(helper, "    return f()\n", "g") == helper + "    return f()\n"


# -------------------------------------------------------------------------------------------------------------- prompts


def test_half_of_the_solution_is_floor_of_its_lines():
    one = CodeProblem("t", "def f():\n", "    a = 1\n    b = 2\n\n    return a\n    # end\n\n", "", "f")
    assert partial_prompt(one) == "def f():\n    a = 1\n    b = 2\n"
    assert partial_prompt(replace(one, canonical_solution="    return 1\n")) == "def f():\n"


def test_a_prompt_in_tabs_gets_its_solution_in_tabs():
    one = CodeProblem("t", "def f():\n\tx = 1\n", "    if x:\n        return 2\n", "def check(c):\n    assert c() == 2\n", "f")
    mended = with_indent_of_prompt(one)
    assert mended.canonical_solution == "\tif x:\n\t\treturn 2\n"
    with Sandbox() as box:
        assert box.run_tests(mended.program, mended.checks).passed
        assert not box.run_tests(one.program, one.checks).passed


def test_one_problem_one_transformation_one_seed():
    one = WORLD.problems(1)[0]
    found = perturb_code(one, "FuncRenameCamelCase")
    assert found.changed
    assert found.entry_point in found.prompt
    assert one.entry_point not in found.prompt
    assert found == perturb_code(one, "FuncRenameCamelCase")
    with pytest.raises(InputError, match="transform"):
        perturb_code(one, "Nothing")
    with pytest.raises(MissingError, match="translat"):
        perturb_code(one, "BackTranslation")


def test_prompts_are_made_gated_counted_and_written(tmp_path):
    problems = WORLD.problems(4)
    broken = replace(problems[0], task_id="broken", canonical_solution="    return 'no'\n")
    made = perturb_all([*problems, broken], lean(), seeds=2, workers=2)
    assert set(made.broken) == {"broken"}
    assert len(made.problems) == 4
    assert {one.transform: one.seed for one in made.prompts if one.seed} == {"ButterFingers": 1, "DeadCodeInserter": 1}
    assert made.preserved == 1.0
    assert all(one.gate == "passed" for one in made.prompts if one.changed)
    again = read_problems(made.write(tmp_path / "train.jsonl"))
    assert len(again) == sum(one.changed for one in made.prompts)
    assert len(made.training_set()) == 4 + len(again)
    first = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    assert first["original"] in {one.task_id for one in problems}
    assert first["edits"]


def test_the_gate_stops_an_edit_that_does_harm():
    class Harm(type(code_edits()["VarRenamerNaive"])):  # type: ignore[misc]
        name = "harm"

        def propose(self, program, seed):
            from tutelage.threats.code import Proposal
            from tutelage.threats.text import Change

            at = program.text.index("result")
            return Proposal([Change(at, at + 6, "resolt")])

    made = perturb_all(WORLD.problems(3), {"harm": Harm()}, workers=1)
    assert made.preserved == 0.0
    assert made.rejected("harm") == 1.0
    report = evaluate_code_robustness(by_heart(made.problems), made, workers=1)
    assert report.rows == []  # nothing usable is left to score


# ------------------------------------------------------------------------------------------------------------ the audit


def test_a_model_that_knows_prompts_by_heart_is_right_until_they_change(tmp_path):
    problems = WORLD.problems(5)
    report = evaluate_code_robustness(by_heart(problems), problems, edits=lean(), seeds=2, workers=2)
    assert report.nominal == {1: 1.0}
    assert report.nominal_partial == {1: 1.0}
    for name in ("FuncRenameCamelCase", "tab_indent", "function", "docstring", "format", "overall"):
        one = report.get(name, items="changed")
        assert (one.nominal, one.robust, one.drop, one.relative) == (1.0, 0.0, 100.0, 100.0), name
    assert {one.status for one in report.failures} == {"failed"}
    assert len(report.failures) >= 15
    assert "assert" in report.failures[0].error.lower()
    data = json.loads(report.save(tmp_path / "report.json").read_text())
    assert data["rows"][0]["robust"] == report.rows[0].score.robust
    page = report.to_html(tmp_path / "report.html").read_text()
    assert "by heart" in page
    assert "BackTranslation" in page or not report.not_run
    with pytest.raises(InputError, match="name"):
        report.get("nothing")


def test_a_model_that_does_not_look_loses_nothing():
    problems = WORLD.problems(4)
    asleep = FunctionLM(lambda prompt, seed: "    pass\n", name="asleep", fingerprint="1")
    report = evaluate_code_robustness(asleep, problems, edits=lean("FuncRenameCamelCase", "tab_indent"), workers=1)
    assert report.nominal == {1: 0.0}
    assert report.get("function").drop is None
    assert report.get("function").relative == 0.0
    assert report.failures == []


def test_settings_are_refused_before_anything_is_asked():
    def never(prompt, seed):
        raise AssertionError

    lm, problems = FunctionLM(never, name="never", fingerprint="1"), WORLD.problems(1)
    for settings, argument in (
        ({"k": (2,)}, "k"), ({"k": ()}, "k"), ({"seeds": 0}, "seeds"), ({"categories": ["syntacs"]}, "categories"),
        ({"edits": {"a": 1}}, "edits"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=argument):
            evaluate_code_robustness(lm, problems, workers=1, **settings)
    with pytest.raises(InputError, match="lm"):
        evaluate_code_robustness("gpt", problems)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="problems"):
        evaluate_code_robustness(lm, [], workers=1)
    with pytest.raises(InputError, match="problems"):
        evaluate_code_robustness(lm, [problems[0], problems[0]], workers=1)
    with pytest.raises(InputError, match="n"):
        Decoding(n=5)


def test_samples_of_a_tiny_model_go_the_same_way():
    lm = TinyGPT.new("".join(chr(i) for i in range(32, 127)) + "\n\t", layers=1, width=16, heads=2, context=512)
    decoding = Decoding(n=2, temperature=1.0, max_tokens=4, stop=("\n\n",))
    report = evaluate_code_robustness(
        lm, WORLD.problems(2), edits=lean("FuncRenameCamelCase"), k=(1, 2), decoding=decoding, workers=1
    )
    assert report.nominal.keys() == {1, 2}
    assert report.get("function", k=2).nominal == 0.0


# -------------------------------------------------------------------------------------------------------- model namers


def test_namers_from_small_real_models():
    import torch
    import transformers

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "total", "amount", "=", "1", "return", "for", "+"]
    from tokenizers import Tokenizer, models, pre_tokenizers

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(["[MASK]"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, mask_token="[MASK]", pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForMaskedLM(config)
    text = "total = 1\nreturn total"
    names = MaskedNamer(model, tokenizer)(text, [(0, 5), (17, 22)])
    assert set(names) <= {"total", "amount"}
    with torch.no_grad():
        model.eval()
        ids = tokenizer("[MASK] = 1 return [MASK]", return_tensors="pt")["input_ids"]
        scores = model(input_ids=ids).logits[0].log_softmax(-1)[[0, 4]].sum(0)
    assert names[0] == max(("total", "amount"), key=lambda word: float(scores[vocabulary.index(word)]))
    lm = TinyGPT.new("abcdefghijklmnopqrstuvwxyz =1\n", layers=1, width=16, heads=2, context=64)
    assert GeneratedNamer(lm, n=8)("b = 1\nb = 1", [(6, 7)]) == GeneratedNamer(lm, n=8)("b = 1\nb = 1", [(6, 7)])
    one = WORLD.problems(1)[0]
    found = perturb_code(one, "VarRenamerCB", namer=lambda program, places: ["found"])
    assert "found" in found.prompt or found.refused
    with pytest.raises(InputError, match="mask"):
        MaskedNamer(model, lm.tokenizer)
    assert lm.generate([GenRequest("b", max_tokens=1)])


# ----------------------------------------------------------------------------------------------------------------- data


def test_the_world_checks_itself_and_keeps_its_splits_apart():
    problems = [WORLD.problem(task, 5) for task in WORLD.tasks[::9]]
    with Sandbox(2) as box:
        from tutelage.core.sandbox import Job

        results = box.run_many([Job(one.program, one.checks) for one in problems])
        assert [one.task_id for one, done in zip(problems, results, strict=True) if not done.passed] == []
        wrong = box.run_tests(problems[0].prompt + "    return None\n", problems[0].checks)
    assert wrong.status == "failed"
    keys = [{task.key for task in WORLD.of(split)} for split in ("train", "validation", "test")]
    assert sum(map(len, keys)) == len(WORLD.tasks) == len(set().union(*keys))
    assert min(map(len, keys)) > 10
    task = WORLD.tasks[0]
    assert len({WORLD.problem(task, 0, phrasing=way).prompt for way in range(6)}) == 6
    assert WORLD.problems(3, 4) == WORLD.problems(3, 4) != WORLD.problems(3, 5)


def test_problems_are_read_back_and_damaged_files_named(tmp_path, monkeypatch):
    problems = WORLD.problems(3)
    assert read_problems(write_problems(tmp_path / "p.jsonl", problems)) == problems
    (tmp_path / "bad.jsonl").write_text('{"task_id": "a"}\n')
    with pytest.raises(InputError, match="prompt"):
        read_problems(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text("{no json\n")
    with pytest.raises(InputError, match="JSON"):
        read_problems(tmp_path / "bad.jsonl")
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    with pytest.raises(MissingError, match="MBPP"):
        mbpp()
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="JSON"):
        humaneval(tmp_path)


def test_humaneval_and_mbpp_where_they_are():
    try:
        problems, others = humaneval(), mbpp("prompt")
    except MissingError as reason:
        pytest.skip(str(reason))
    assert [len(problems), problems[0].entry_point, len(others)] == [164, "has_close_elements", 10]
    assert sum(len(mbpp(split)) for split in ("train", "test", "validation", "prompt")) == 973 == len(mbpp("all"))
    made = perturb_all([*problems[::41], *others[:3]], lean("FuncRenameCamelCase", "VarRenamerNaive", "tab_indent"), workers=2)
    assert made.broken == {}
    assert made.preserved == 1.0
