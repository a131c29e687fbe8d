"""What it costs to start: fresh processes against one that only imports torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common import Outcome, race, report, settings

COMMAND = str(Path(sys.executable).with_name("tutelage"))
STARTS = {
    "import tutelage": [sys.executable, "-c", "import tutelage"],
    "tutelage --help": [COMMAND, "--help"],
    "tutelage list": [COMMAND, "list"],
    "every public name of tutelage": [
        sys.executable,
        "-c",
        "import tutelage; [getattr(tutelage, n) for n in tutelage.__all__]",
    ],
}
TORCH = [sys.executable, "-c", "import torch"]
# `import tutelage` brings in nothing; what stands on torch costs torch and a little more
WANTED = {"every public name of tutelage": ""}


def start(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "120"})


def main() -> None:
    how = settings(__doc__)
    sides = {name: (lambda command=command: start(command)) for name, command in {**STARTS, "torch": TORCH}.items()}
    rounds = race(sides, how.rounds)
    for name in STARTS:
        pairs = [[r[name], r["torch"]] for r in rounds]
        report(Outcome(name, "import", name, "`import torch`", pairs, wanted=WANTED.get(name, "< 1")), how)


if __name__ == "__main__":
    main()
