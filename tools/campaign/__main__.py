"""The reliability campaign: wrong input, hostile files, full disks, over everything that is built. Part of `make soak`.

    python tools/campaign --parts inputs hostile disks --out docs/soak.json
    python tools/campaign --parts inputs --groups "damaged files" --cases 5      # some of them
    python tools/campaign --again figures.json --out figures.json      # what failed there, once more, after it was mended

inputs: every option of every command, every setting of every system's claim, every kind of file damaged, models that misbehave;
drawn by hypothesis from --seed. hostile: files that were made to do harm. disks: no room, no permission, many writers. A case
must end with exit code 2 and one sentence, or be done; never with a traceback, a hang, or a change of the user's files. The
exit code is 1 if one did not. kill -9 is tools/soak.py's.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is there: forked children may not inherit threads

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from cases import Case, Group, Place, run_cases, summary
from damaged import damaged_files, odd_models
from disks import GROUPS as DISKS
from hostile import GROUPS as HOSTILE
from lines import command_lines, new_interpreters, settings_of_claims
from place import make
from soak_page import cases_table, write_figures

from soak import built, provenance
from tutelage.claims.claim import load_claim
from tutelage.claims.codehash import code_sha256

PARTS = ("inputs", "hostile", "disks")


def groups_of(part: str, cases: int, seed: int, slugs: list[str]) -> dict[str, Callable[[], Iterable[Case]]]:
    """The groups of a part, by name."""
    if part == "hostile":
        return dict(HOSTILE)
    if part == "disks":
        return {name: partial(make_cases, slugs) for name, make_cases in DISKS.items()}
    return {
        "command lines, every option": partial(command_lines, cases, seed),
        "some of them in new interpreters": partial(new_interpreters, 4 * cases, seed),
        "settings of every system's claim": partial(settings_of_claims, max(1, cases // 2), seed, slugs),
        "damaged files": partial(damaged_files, 2 * cases, seed),
        "models and weights that misbehave": odd_models,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--groups", nargs="+", metavar="TEXT", help="only groups whose names hold one of these")
    parser.add_argument("--cases", type=int, default=4, help="wrong values of an option; twice as many damages of a file")
    parser.add_argument("--systems", nargs="+", metavar="SLUG", help="only these, where systems are gone through")
    parser.add_argument("--limit", type=int, help="at most so many cases of a group, spread over all of them")
    parser.add_argument(
        "--again", type=Path, metavar="FIGURES", help="only cases that failed there; the others count as they did"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures here; docs/soak.json also fills docs/reliability.md")
    options = parser.parse_args()
    sys.dont_write_bytecode = True
    os.environ.pop("TUTELAGE_DATA", None)
    os.environ["TUTELAGE_CACHE"] = tempfile.mkdtemp(prefix="campaign-cache-")
    torch.set_num_threads(1)
    slugs = options.systems or built()
    for slug in slugs:
        code_sha256(load_claim(slug).system.claim_module)
    about = provenance(options.seed)
    place, failed = Place(make), False
    figures: dict[str, Any] = {}
    gc.collect()
    gc.freeze()  # children would otherwise copy every page that their collector looks at
    before = json.loads(options.again.read_text()) if options.again else {}
    for part in options.parts:
        if options.again and part not in before:
            continue
        found: dict[str, Group] = {}
        begin = time.monotonic()
        for name, cases in groups_of(part, options.cases, options.seed, slugs).items():
            if options.groups and not any(text in name for text in options.groups):
                continue
            started = time.monotonic()
            chosen = _some(cases(), options.limit)
            if options.again:
                earlier = before[part]["groups"].get(name, {"failures": []})
                failed_then = {one["case"] for one in earlier["failures"]}
                chosen = [case for case in chosen if case.name[:400] in failed_then]
            found[name] = run_cases(chosen, place, lambda line: print(line, flush=True))
            if options.again and earlier.get("cases"):
                found[name] = joined(earlier, found[name])
            if not found[name].cases:
                del found[name]
                continue
            print(f"{part}: {name}: {summary({name: found[name]})}, {time.monotonic() - started:.0f} s", flush=True)
        seconds = round(time.monotonic() - begin)
        figures[part] = {**about, "seconds": seconds, "groups": {name: group.as_dict() for name, group in found.items()}}
        print(cases_table(figures[part]))
        failed = failed or any(group.failures for group in found.values())
    place.close()
    if options.out:
        write_figures(options.out, figures)
    sys.exit(failed)


def joined(earlier: dict[str, Any], now: Group) -> Group:
    """A group whose failures were run again; what is not there any more stays failed."""
    missing = earlier["failures"][: len(earlier["failures"]) - now.cases]
    counts = {key: earlier[key] + getattr(now, key) for key in ("refused", "fine")}
    return Group(cases=earlier["cases"], failures=[*missing, *now.failures], **counts)


def _some(cases: Iterable[Case], limit: int | None) -> list[Case]:
    """All, or `limit` of them at equal distances."""
    every = list(cases)
    if limit is None or len(every) <= limit:
        return every
    return [every[i * len(every) // limit] for i in range(limit)]


if __name__ == "__main__":
    main()
