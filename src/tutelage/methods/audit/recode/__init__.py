"""ReCode: does a code model still solve a problem when the prompt is edited without changing what it asks for?

Wang, Li, Qian et al., "ReCode: Robustness Evaluation of Code Generation Models" (ACL 2023), arXiv 2212.10264.

For problem x with tests, completion i of n, and edited prompts T(x; s), s = 1 … S, let ok_i be 1 if all tests pass, and

    est(n, c, k) = 1 - C(n - c, k) / C(n, k)                                                    (1)
    RP_S@k = mean_x est(n, c_S(x), k),   c_S(x) = sum_i min_s ok_i(T(x; s))                     (2)
    pass@k = mean_x est(n, sum_i ok_i(x), k)                                                    (3)
    RD_S@k = 100 (pass@k - RP_S@k) / pass@k                                                     (4)
    RR_S@k = 100 mean_x [est(n, neg(x), k) + est(n, pos(x), k)]                                 (5)
    neg(x) = #{i: min_s ok_i(T) != ok_i(x)},   pos(x) = #{i: min_s ok_i(T) = ok_i(x) != max_s ok_i(T)}

The value of a category takes min and max over all its transformations and seeds. Share of solved problems that some edit
breaks (6) is the released code's attack success. The 28 transformations are `threats.code`: 10 of the docstring, 6 of the
function's name (both on full prompts), 6 of syntax and 6 of format (both on prompts that hold half of a solution).

Where we differ: edits of code work on the syntax tree, with scopes, and refuse what they cannot prove harmless;
`code_edits(released=True)` are ReCode's operators on strings. Every edited prompt is run with its reference solution before it
is used (the gate). Two numbers are given, over all problems and over those whose prompt changed. `pairing="any"` does not
pair samples by their index.

Example::

    from tutelage.data.worlds.functions import FunctionWorld
    from tutelage.methods.audit.recode import Decoding, evaluate_code_robustness
    from tutelage.models.language import FunctionLM
    from tutelage.threats.code import code_edits

    problems = FunctionWorld().problems(3, seed=0)
    known = {p.prompt: p.canonical_solution for p in problems}  # a model that knows the prompts by heart, and nothing else
    lm = FunctionLM(lambda prompt, seed: known.get(prompt, "    pass"), name="by heart", fingerprint="1")
    edits = {name: code_edits()[name] for name in ("FuncRenameCamelCase", "ButterFingers")}
    report = evaluate_code_robustness(lm, problems, edits=edits, seeds=2, decoding=Decoding(max_tokens=64), workers=1)
    print(report.get("docstring").nominal, report.get("docstring").robust)
"""

from tutelage.data.code_problems import CodeProblem, humaneval, mbpp, read_problems
from tutelage.methods.audit.recode.completions import Decoding, truncate
from tutelage.methods.audit.recode.evaluation import CodeRobustnessReport, Failure, ScoreRow, evaluate_code_robustness
from tutelage.methods.audit.recode.prompts import Perturbed, PerturbedSet, partial_prompt, perturb_all, perturb_code
from tutelage.methods.audit.recode.scoring import RobustScore, score
from tutelage.threats.code.transforms import NAMES, category_of, code_edits

__all__ = [
    "NAMES",
    "CodeProblem",
    "CodeRobustnessReport",
    "Decoding",
    "Failure",
    "Perturbed",
    "PerturbedSet",
    "RobustScore",
    "ScoreRow",
    "category_of",
    "code_edits",
    "evaluate_code_robustness",
    "humaneval",
    "mbpp",
    "partial_prompt",
    "perturb_all",
    "perturb_code",
    "read_problems",
    "score",
    "truncate",
]
