"""Accuracy under common corruptions: by corruption and severity, by family, the mean, and the mean corruption error.

D. Hendrycks and T. Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019,
arXiv:1903.12261, section 4. E(s, c) is the error rate under corruption c of severity s, E_b that of a named baseline:

    CE(c) = sum_s E(s, c) / sum_s E_b(s, c)                                                                     (1)
    mCE   = mean_c CE(c)                                                                                        (2)

Every image has one seed, whatever the model and the batch size, so that models are compared on the same corrupted images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.auditing.measure import device_of
from tutelage.auditing.result import AuditResult, AuditRow, accuracy_row, mean_row
from tutelage.auditing.state import FAILURES, State, file_name, key_of
from tutelage.core.errors import InputError
from tutelage.core.progress import Progress
from tutelage.core.rng import generator
from tutelage.core.stats import mean_t
from tutelage.data.images import ImageSet
from tutelage.models.checks import run_model
from tutelage.models.guard import evaluating
from tutelage.threats.corruptions import COMMON, FAMILIES, NAMES, SEVERITIES, Corruption, expanded, frost_source, mce
from tutelage.threats.corruptions.corruption import LEAST

Corruptions = str | Corruption | Sequence[str | Corruption]

PART = 4096  # images: what a kill costs, and how many a file of the state tells about


def chosen(corruptions: Corruptions) -> tuple[Corruption, ...]:
    """What is asked for, each once and in the order given.

    A text is "corruptions" (the fifteen of the benchmark), a family such as "noise" or a name such as "fog", with
    severities behind an @: "corruptions@3", "noise@1,3,5". Without them all five. Raises InputError.
    """
    given = [corruptions] if isinstance(corruptions, str | Corruption) else corruptions
    if not isinstance(given, Sequence) or not given:
        raise InputError("corruptions", corruptions, "a list of corruptions, or texts such as corruptions@3 or noise@1,3,5")
    found = [one for item in given for one in ([item] if isinstance(item, Corruption) else _parsed(item))]
    names = [str(one) for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError("corruptions", f"{twice[0]} twice", "each corruption and severity once")
    if len(constants := {one.constants for one in found}) > 1:
        raise InputError("corruptions", f"constants {' and '.join(sorted(constants))}", "one table of constants for all")
    return tuple(found)


def _parsed(text: object) -> list[Corruption]:
    wanted = "corruptions, a family or a name, with severities from 1 to 5 if not all: corruptions@3, noise@1,3,5, fog"
    if not isinstance(text, str):
        raise InputError("corruptions", text, wanted)
    name, at, digits = text.strip().partition("@")
    severities = [digit.strip() for digit in digits.split(",")] if at else [str(one) for one in SEVERITIES]
    if (name != "corruptions" and name not in (*FAMILIES, *NAMES)) or not set(severities) <= {str(one) for one in SEVERITIES}:
        raise InputError("corruptions", text, wanted)
    names = COMMON if name == "corruptions" else expanded([name])
    return [Corruption(one, int(severity)) for one in names for severity in severities]


def check_corruptible(images: ImageSet) -> None:
    """Raise InputError for images that are too small to be corrupted."""
    height, width = images.images.shape[2:]
    if min(height, width) < LEAST:
        raise InputError("corruptions", f"images of {height} x {width} pixels", f"at least {LEAST} pixels a side")


def describe(corruptions: Sequence[Corruption]) -> dict[str, Any]:
    """Everything that decides how the corrupted images look, but for their seeds."""
    frost = {"frost": frost_source()} if any(one.name == "frost" for one in corruptions) else {}
    return {"names": [str(one) for one in corruptions], "constants": corruptions[0].constants, **frost}


def piece_names(corruption: Corruption, n: int, batch_size: int) -> list[str]:
    """What the parts of a corruption of n images are called, each of up to PART images in whole batches."""
    count, key = -(-n // _step(batch_size)), key_of(describe([corruption]))
    return [file_name(f"corruption-{corruption.name}-{corruption.severity}-{key}-{number:06d}") for number in range(count)]


def _step(batch_size: int) -> int:
    return max(1, PART // batch_size) * batch_size


def corrupted(
    model: nn.Module,
    images: ImageSet,
    corruptions: Sequence[Corruption],
    *,
    seed: int,
    batch_size: int,
    progress: Progress,
    parts: State,
    failed: dict[str, str] | None = None,
) -> dict[str, Tensor]:
    """What of N images stays right under each corruption: "fog@3" -> (N,) bool, on the CPU.

    The noise of an image depends on `seed` and its position only. Finished parts of `parts` are taken over. failed: takes the
    reasons of those that failed, "corruption fog@3" -> reason, and the others go on; without it they are raised.
    """
    device, n = device_of(model), len(images)
    seeds = torch.randint(2**48, (n,), generator=generator(seed, "corruptions"))
    step = _step(batch_size)
    found = {}
    with evaluating(model), torch.no_grad(), progress.task("corruptions", len(corruptions) * n) as task:
        for corruption in corruptions:
            pieces = []
            for start, place in zip(range(0, n, step), piece_names(corruption, n, batch_size), strict=True):
                stop = min(n, start + step)

                def piece(
                    corruption: Corruption = corruption, start: int = start, stop: int = stop
                ) -> tuple[dict[str, Tensor], dict[str, Any]]:
                    right = []
                    for first in range(start, stop, batch_size):
                        batch = slice(first, min(stop, first + batch_size))
                        x, y = images[batch]
                        logits = run_model(model, corruption(x.to(device), seeds=seeds[batch]))
                        right.append(logits.argmax(1).cpu() == y)
                    return {"right": torch.cat(right)}, {}

                try:
                    pieces.append(parts.part(place, piece)[0]["right"])
                except FAILURES as error:
                    if failed is None:
                        raise
                    failed[f"corruption {corruption}"] = str(error)
                    break
                task.advance(stop - start)
            else:
                found[str(corruption)] = torch.cat(pieces)
    return found


def shares(right: Mapping[str, Tensor], corruptions: Sequence[Corruption]) -> Tensor:
    """What share of its corruptions each image survives: (N,) in [0, 1]. Corruptions weigh the same, and so do the
    severities of each."""
    by_name: dict[str, list[Tensor]] = {}
    for one in corruptions:
        by_name.setdefault(one.name, []).append(right[str(one)].double())
    return torch.stack([torch.stack(severities).mean(0) for severities in by_name.values()]).mean(0)


def corruption_rows(
    right: Mapping[str, Tensor], corruptions: Sequence[Corruption], baseline: AuditResult | None = None
) -> list[AuditRow]:
    """Rows for each corruption and severity, each family and all; with a baseline also the mCE.

    right: see `corrupted`. Where all have one severity, there are no rows for it apart ("noise@3", "mean@3").
    """
    several = len({one.severity for one in corruptions}) > 1
    rows = []
    for name in dict.fromkeys(one.name for one in corruptions):
        mine = [one for one in corruptions if one.name == name]
        rows += [accuracy_row("corruption", str(one), right[str(one)]) for one in mine]
        rows += [mean_row("corruption", name, shares(right, mine))] if several else []
    for family in dict.fromkeys(one.family for one in corruptions):
        mine = [one for one in corruptions if one.family == family]
        rows += _rows("corruption family", family, right, mine, several)
    *severities, mean = _rows("corruptions", "mean", right, corruptions, several)
    return [*rows, *severities, *([mce_row(right, corruptions, baseline)] if baseline else []), mean]


def _rows(
    category: str, name: str, right: Mapping[str, Tensor], corruptions: Sequence[Corruption], several: bool
) -> list[AuditRow]:
    """A row a severity, if the audit has several, and one over all."""
    severities = sorted({one.severity for one in corruptions}) if several else []
    rows = [
        mean_row(category, f"{name}@{severity}", shares(right, [one for one in corruptions if one.severity == severity]))
        for severity in severities
    ]
    return [*rows, mean_row(category, name, shares(right, corruptions))]


def check_baseline(baseline: AuditResult, images: ImageSet, corruptions: Sequence[Corruption]) -> None:
    """Raise InputError unless the mCE relative to this audit can be computed: the same images and corruptions, errors."""
    name = baseline.model["name"]
    if baseline.data["sha256"] != images.sha256:
        wanted = f"an audit of the same images, {len(images)} of {images.name}"
        raise InputError("baseline", f"{name} on {baseline.data['n']} of {baseline.data['name']}", wanted)
    wanted_names = {str(one) for one in corruptions}
    if missing := sorted(wanted_names - baseline.predictions.keys()):
        raise InputError("baseline", f"{name} without {missing[0]}", "an audit with the same corruptions and severities")
    theirs, ours = baseline.settings["corruptions"], describe(corruptions)
    for key in ("constants", "frost"):
        if key in ours and ours[key] != theirs.get(key):
            raise InputError("baseline", f"{name} with {key} {theirs.get(key)}", f"{ours[key]}, as this audit has")
    errors = _errors(baseline, corruptions)
    if perfect := [corruption for corruption, values in errors.items() if not bool(values.any())]:
        raise InputError("baseline", f"{name}, which makes no mistake under {perfect[0]}", "a baseline with errors")


def mce_row(right: Mapping[str, Tensor], corruptions: Sequence[Corruption], baseline: AuditResult) -> AuditRow:
    """Equation (2), relative to the baseline's predictions on the same images.

    ci95: over the images, on which both models are right or wrong together. By the delta method each image stands for
    z_i = mean_c (e_ic - CE(c) b_ic) / B_c, with e and b its errors over the severities and B_c the mean of b; the interval is
    mCE ± t(n-1) s(z) / sqrt(n). One image has none: [0, mCE] is widened to the largest mCE that errors can give.
    """
    theirs = _errors(baseline, corruptions)
    ours = {name: 1 - shares(right, [one for one in corruptions if one.name == name]) for name in theirs}
    name = baseline.model["name"]
    means = [{key: float(value.mean()) for key, value in errors.items()} for errors in (ours, theirs)]
    score = mce(*means, baseline=name)
    z = torch.stack([(ours[c] - score.each[c] * theirs[c]) / theirs[c].mean() for c in theirs]).mean(0)
    if len(z) > 1:
        half = mean_t(z.numpy())[1].hi - float(z.mean())
        ci95 = (max(0.0, score.mce - half), score.mce + half)
    else:
        ci95 = (0.0, sum(1 / mean for mean in means[1].values()) / len(means[1]))
    return AuditRow("corruptions", "mCE", "mCE", score.mce, ci95, len(z), name)


def _errors(baseline: AuditResult, corruptions: Sequence[Corruption]) -> dict[str, Tensor]:
    """Errors of the baseline, image by image, over the severities of each corruption: name -> (N,) in [0, 1]."""
    right = {str(one): torch.tensor(baseline.predictions[str(one)]) for one in corruptions}
    names = dict.fromkeys(one.name for one in corruptions)
    return {name: 1 - shares(right, [one for one in corruptions if one.name == name]) for name in names}
