"""`audit`: how does my model break, and how sure are we?"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch
from torch import Tensor, nn

from tutelage.auditing import flags as checks
from tutelage.auditing import shards
from tutelage.auditing.buffers import KeptBuffers
from tutelage.auditing.curve import CURVE_SAMPLES, Sweep, sweep, swept_budgets
from tutelage.auditing.flags import Flag
from tutelage.auditing.measure import Measured, attack_set, device_of, predict
from tutelage.auditing.result import AuditResult, AuditRow, Example, accuracy_row
from tutelage.auditing.shift import aligned, disparity_rows, shift_rows
from tutelage.auditing.state import FAILURES, State, file_name, identity, key_of
from tutelage.core import on_ray
from tutelage.core.checks import check_integer
from tutelage.core.environment import environment
from tutelage.core.errors import AuditError, InputError, Interrupted, ModelChanged, named
from tutelage.core.files import check_folder
from tutelage.core.progress import QUIET, Progress
from tutelage.core.workers import Engine, get_engine
from tutelage.data.images import ImageSet
from tutelage.data.readers import Images, as_images
from tutelage.models.checks import check_labels, run_model
from tutelage.models.guard import evaluating
from tutelage.models.loading import fingerprint
from tutelage.models.remote import EndpointError
from tutelage.threats.black_box import for_model
from tutelage.threats.budgets import Budget
from tutelage.threats.engine import Attack
from tutelage.threats.parse import parse_threat
from tutelage.threats.suite import Suite

if TYPE_CHECKING:
    from tutelage.auditing.corruption import Corruptions

EXAMPLES = 24
THREATS = ("linf@8/255",)
SHIFT_NAME = re.compile(r"\w[\w .+-]*")


def audit(
    model: nn.Module,
    data: Images,
    *,
    threats: Sequence[str | Budget | Attack | Suite] | None = None,
    corruptions: Corruptions | None = None,
    baseline: AuditResult | Path | str | None = None,
    shifts: Mapping[str, Images] | None = None,
    slices: Mapping[str, Sequence[int] | Tensor] | None = None,
    n: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    curve: bool = True,
    force: bool = False,
    name: str | None = None,
    state: Path | str | None = None,
    jobs: int = 1,
    on: Engine = "local",
    factory: str = "",
    progress: Progress = QUIET,
) -> AuditResult:
    """Measure a classifier on clean data and under threats, with 95 % intervals, a curve over eps and the worst examples.

    model: nn.Module, images (B, C, H, W) in [0, 1] -> logits (B, classes), normalisation inside. It is used in evaluation
        mode on the device where it is and handed back unchanged.
    data: labelled images: a path (folder of class folders, .npz, .parquet), an ImageSet, (images, labels), a Dataset or
        a DataLoader.
    threats: budgets (`Linf(8/255)`, or "linf@8/255": the standard suite), single attacks ("fgsm:linf@8/255",
        "pgd-50:l2@0.5", a `PGD` or another attack) or suites. Budgets are in input units, pixels in [0, 1]. By default
        linf@8/255, or none where corruptions or shifts are asked for.
    corruptions: "corruptions" (fifteen, five severities), "corruptions@3", "noise@1,3,5", "fog", or a list of such texts
        and of `Corruption`s; every image has the same noise for all models. baseline: a saved audit of the same images and
        corruptions, relative to which the mean corruption error is given.
    shifts: name -> another labelled set, as for data. Where both sets name their classes, labels follow the names.
    slices: name -> positions (or a mask) of a part of the data to report apart; `shift.read_slices` makes them from a
        table. n: use n samples of the data, class shares kept.
    curve: also sweep eps, on at most 500 samples, if the model has gradients. force: go on although the sanity check fails.
    state: a folder for finished parts. After a kill or Ctrl-C the same call takes them over, and the result is the one of
        an audit that nobody stopped. Parts of another model, data, threat, seed, batch size, device, thread count or
        version are not used; those of the same threats are, whatever other threats there are. They stay until
        `auditing.state.clear_finished` (or you) removes them.
    jobs: parts at once (batches under a threat, curves, corruptions), in worker processes with as many threads each as this
        one, so that the result is the same to the last bit; on="ray" makes them Ray tasks (`auditing.shards`). A script
        calls this below `if __name__ == "__main__":`. factory: from what `load_model` workers make the model again, if it
        cannot be pickled; its weights come from here.

    The sanity check comes first. It raises AuditError for outputs that are probabilities and for an accuracy that is not
    above chance, ModelChanged for a model whose buffers change, InputError for wrong shapes, ranges, labels, NaN or unknown
    threats; before any attack. What fails later (a model with NaN under a threat, say) has no number: the rest is finished,
    `AuditResult.failed` says why, and the status is unreliable. With `state`, Ctrl-C raises Interrupted and a full disk
    WriteError; what was finished is kept.
    Each threat is then looked at for signs of failed attacks: `AuditResult.flags`, see `auditing.flags` and docs/flags.
    """
    start = time.monotonic()
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module that returns logits")
    if threats is None:
        threats = THREATS if corruptions is None and not shifts else ()
    if isinstance(threats, str | Budget | Attack | Suite):
        threats = [threats]
    if not isinstance(threats, Sequence):
        raise InputError("threats", threats, "a list of budgets, attacks, suites or strings such as linf@8/255")
    suites = [for_model(_suite(threat), model) for threat in threats]
    names = [_name(suite) for suite in suites]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError("threats", f"{twice[0]} twice", "each threat once")
    check_integer("batch_size", batch_size)
    check_integer("seed", seed, low=-(2**63))
    if n is not None:
        check_integer("n", n)
    check_integer("jobs", jobs)
    if get_engine(on) == "ray":
        on_ray.require()
    if not isinstance(factory, str):
        raise InputError("factory", factory, "what load_model takes, such as file.py:function")
    if slices is not None and not isinstance(slices, Mapping):
        raise InputError("slices", type(slices).__name__, "a mapping of names to positions or masks")
    if name is not None and not isinstance(name, str):
        raise InputError("name", name, "the model's name as text")
    if state is not None:
        check_folder(Path(state), "state")
    images = as_images(data)
    if slices and n is not None and n != len(images):
        raise InputError("slices", f"slices of {len(images)} samples and n={n}", "slices of the whole data, without n")
    if n is not None and n > len(images):
        raise InputError("n", n, f"at most {len(images)}, as many as there are")
    if n is not None and n != len(images):
        images = images.split_off(n, split=images.split)[1]
    masks = _masks(slices or {}, len(images))
    natural = _natural(images, corruptions, baseline, shifts or {})
    given, shared = model, jobs > 1 or on == "ray"
    handed = shards.hand_over(given, suites, natural.corruptions, factory) if shared else None
    model, flags = _sanity(given, images, suites, force)
    sha256 = fingerprint(given)
    random = any(flag.slug == "random-model" for flag in flags)
    for shift, shifted in natural.shifts.items():
        _fits(model, shift, shifted, images)

    logits = predict(model, images, batch_size=batch_size, progress=progress)
    clean = logits.argmax(1) == images.labels
    flags += _above_chance(clean, images, force)
    rows = [accuracy_row("clean", "clean", clean)]
    right: dict[str, Tensor] = {"clean": clean}
    sweeps: dict[str, Sweep] = {}
    examples: list[Example] = []
    cost: list[dict[str, object]] = []
    failed: dict[str, str] = {}
    swept = swept_budgets(model, suites) if curve else {}
    about = None
    if state is not None or shared:
        about = identity(sha256, model, images, suites, seed, batch_size, str(device_of(model)))
    with _kept(state, about, shared, progress) as parts:
        parts.check_model(logits)
        if handed is not None and parts.folder is not None:
            handed = replace(handed, forget=model is not given)
            first = None if random else logits[:batch_size]
            threads, place = torch.get_num_threads(), parts.folder.resolve()
            work = shards.Work(handed, images, seed, batch_size, threads, place, parts.about, first)
            tasks = list(shards.tasks_of(len(images), suites, swept, natural.corruptions, batch_size))
            where = f"its finished parts are in {state}" if state is not None and about else ""
            shards.compute_parts(parts, work, tasks, jobs=jobs, on=on, kept=where, progress=progress)
        for suite in suites:
            threat, kept = _name(suite), parts.batches(suite)
            try:
                measured = attack_set(model, images, kept, seed=seed, batch_size=batch_size, progress=progress)
            except FAILURES as error:
                failed[threat] = f"{error} (batch {kept.batch + 1} of {-(-len(images) // batch_size)})"
                continue
            # an attack never heals: what is wrong on clean data stays wrong
            rows += [accuracy_row(threat, stage, ~broken) for stage, broken in measured.stages.items()]
            rows.append(accuracy_row(threat, "worst case", ~measured.broken))
            right[threat] = ~measured.broken
            try:
                flags += checks.threat_flags(
                    model, images, suite, threat, measured, logits.shape[1], suites=suites, random=random, seed=seed,
                    batch_size=batch_size,
                )  # fmt: skip
            except FAILURES as error:  # they search wider and longer than the threat
                flags.append(checks.not_checked(threat, str(error), len(images)))
            cost.append(
                {
                    "threat": threat,
                    "forward": measured.forward,
                    "backward": measured.backward,
                    "search": measured.search,
                    "attacks": [{"name": stage, "forward": f, "backward": b} for stage, (f, b) in measured.spent.items()],
                }
            )
            norm = suite.budget.norm
            if norm in swept and norm not in sweeps and (what := f"curve over {norm} eps") not in failed:
                try:
                    sweeps[norm] = sweep(model, images, swept[norm], seed, batch_size, progress, parts)
                except FAILURES as error:
                    failed[what] = str(error)
            examples += _examples(model, images, clean, measured, threat, suite.budget, sweeps.get(norm), batch_size)
        changed = natural.measure(model, images, seed, batch_size, progress, parts, failed)
        if not failed:
            parts.finished()
    natural = natural.only(changed)
    rows += natural.rows(changed, images, clean)
    rows += _parts(images, masks, right)
    for shift, shifted in natural.shifts.items():
        rows += _class_rows(shifted, changed[shift], shift)
    return AuditResult(
        rows=rows,
        curves=[one.curve for one in sweeps.values()],
        examples=examples,
        classes=images.classes,
        status="unreliable" if failed or any(flag.unreliable for flag in flags) else "reliable",
        warnings=[
            *(f"{what} failed and has no number: {reason}" for what, reason in failed.items()),
            *(flag.message for flag in flags if flag.unreliable),
        ],
        flags=flags,
        settings={
            "seed": seed,
            "batch_size": batch_size,
            "threats": [_describe(suite) for suite in suites if _name(suite) not in failed],
            "cost": cost,
            "curve": f"PGD-20 on cross-entropy, then on the margin; at most {CURVE_SAMPLES} samples" if sweeps else "none",
            **natural.settings,
        },
        model={
            "name": name or type(given).__name__,
            "parameters": sum(p.numel() for p in given.parameters()),
            "sha256": sha256,
        },
        data={**images.describe(), "classes": len(images.classes)},
        environment={**environment(str(device_of(model))), **({"jobs": jobs, "on": on} if shared else {})},
        seconds=time.monotonic() - start,
        predictions={under: mask.tolist() for under, mask in (right | changed).items()},
        failed=failed,
    )


@contextmanager
def _kept(folder: Path | str | None, about: dict[str, Any] | None, shared: bool, progress: Progress) -> Iterator[State]:
    """The state of this audit; Ctrl-C then says how to go on.

    shared: workers leave their parts in it, so without a folder it has one for as long as it lasts.
    """
    if folder is None or not about:
        if folder is not None:
            warn(f"nothing is kept in {folder}: a threat uses a function without a name (a lambda, an object)", stacklevel=4)
        with ExitStack() as stack:
            place = Path(stack.enter_context(TemporaryDirectory(prefix="tutelage-"))) if shared else None
            yield stack.enter_context(State(place, about or {}))
        return
    with State(Path(folder), about, progress) as parts:
        try:
            yield parts
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"audit stopped; its finished parts are in {folder}, the same command or call goes on from there"
            ) from error
        except EndpointError as error:
            if parts.own is not None and any(parts.own.glob("*.safetensors")):
                error.args = (f"{error}; the audit's finished parts are in {folder}, it goes on from there",)
            raise


@dataclass(frozen=True)
class _Natural:
    """What is asked about natural change: corruptions of the images, and other sets."""

    corruptions: tuple[Any, ...]
    baseline: AuditResult | None
    shifts: dict[str, ImageSet]
    settings: dict[str, Any]
    lost: tuple[Any, ...] = ()  # corruptions that failed

    def measure(
        self,
        model: nn.Module,
        images: ImageSet,
        seed: int,
        batch_size: int,
        progress: Progress,
        parts: State,
        failed: dict[str, str],
    ) -> dict[str, Tensor]:
        """What is right under each corruption and on each shifted set; `failed` takes the reasons of those that failed."""
        right: dict[str, Tensor] = {}
        if self.corruptions:
            from tutelage.auditing.corruption import corrupted

            right = corrupted(
                model, images, self.corruptions, seed=seed, batch_size=batch_size, progress=progress, parts=parts, failed=failed
            )
        for name, shifted in self.shifts.items():
            with progress.task(f"shifted set {name}", len(shifted)) as task:

                def part(shifted: ImageSet = shifted) -> tuple[dict[str, Tensor], dict[str, Any]]:
                    return {"right": predict(model, shifted, batch_size=batch_size).argmax(1) == shifted.labels}, {}

                try:
                    right[name] = parts.part(file_name(f"shift-{name}-{key_of([name, shifted.sha256])}"), part)[0]["right"]
                    task.advance(len(shifted))
                except FAILURES as error:
                    failed[f"shifted set {name}"] = str(error)
        return right

    def only(self, right: Mapping[str, Tensor]) -> _Natural:
        """What of it was measured."""
        corruptions = tuple(one for one in self.corruptions if str(one) in right)
        shifts = {name: shifted for name, shifted in self.shifts.items() if name in right}
        settings = dict(self.settings)
        if corruptions:
            settings["corruptions"] = {**settings["corruptions"], "names": [str(one) for one in corruptions]}
        else:
            settings.pop("corruptions", None)
        if shifts:
            settings["shifts"] = [one for one in settings["shifts"] if one["shift"] in shifts]
        else:
            settings.pop("shifts", None)
        lost = tuple(one for one in self.corruptions if str(one) not in right)
        return _Natural(corruptions, self.baseline, shifts, settings, lost)

    def rows(self, right: Mapping[str, Tensor], images: ImageSet, clean: Tensor) -> list[AuditRow]:
        rows: list[AuditRow] = []
        if self.corruptions:
            from tutelage.auditing.corruption import corruption_rows

            rows = corruption_rows(right, self.corruptions, self.baseline)
            # a mean without those that failed would be another one under the same name
            names, families = {one.name for one in self.lost}, {one.family for one in self.lost}
            partial = {"corruption": names, "corruption family": {*families, *(f"{f}@{s}" for f in families for s in range(6))}}
            rows = [row for row in rows if row.name not in partial.get(row.category, set())]
            rows = [row for row in rows if row.category != "corruptions" or not self.lost]
        for name, shifted in self.shifts.items():
            rows += shift_rows(name, right[name], shifted.labels, clean, images.labels)
        return rows


def _natural(
    images: ImageSet, corruptions: Corruptions | None, baseline: AuditResult | Path | str | None, shifts: Mapping[str, Images]
) -> _Natural:
    """Everything about natural change that can be wrong is found here, before the model is run."""
    asked: tuple[Any, ...] = ()
    settings: dict[str, Any] = {}
    if corruptions is None:
        if baseline is not None:
            given = str(baseline) if isinstance(baseline, Path | str) else type(baseline).__name__
            raise InputError("baseline", given, "a baseline with corruptions only: the mCE is relative to it")
    else:  # imported where it is used: the corruptions stand on much that a plain audit does not need
        from tutelage.auditing.corruption import check_baseline, check_corruptible, chosen, describe

        asked = chosen(corruptions)
        check_corruptible(images)
        if isinstance(baseline, str | Path):
            baseline = AuditResult.load(baseline, examples=False)
        if baseline is not None:
            if not isinstance(baseline, AuditResult):
                raise InputError("baseline", type(baseline).__name__, "an AuditResult, or where one is saved")
            check_baseline(baseline, images, asked)
        about = {} if baseline is None else {"baseline": {key: baseline.model[key] for key in ("name", "sha256")}}
        settings["corruptions"] = {**describe(asked), **about}
    if not isinstance(shifts, Mapping):
        raise InputError("shifts", type(shifts).__name__, "a mapping of names to labelled images")
    found = {}
    for name, data in shifts.items():
        if not isinstance(name, str) or not SHIFT_NAME.fullmatch(name) or name == "clean":
            raise InputError("shifts", name, "a name of letters, digits, spaces and . + - _, other than clean")
        with named(f"shift {name}"):
            shifted = as_images(data)
        found[name] = aligned(name, shifted, images.classes)
        if not bool(torch.isin(images.labels, found[name].labels).any()):
            raise InputError("shifts", f"{name} without a class of the data", "a shifted set with at least one of them")
    if found:
        settings["shifts"] = [{"shift": name, **shifted.describe()} for name, shifted in found.items()]
    return _Natural(asked, baseline if isinstance(baseline, AuditResult) else None, found, settings)


def _fits(model: nn.Module, name: str, shifted: ImageSet, images: ImageSet) -> None:
    """Whether the model takes the shifted images, as it took those of the data, and has an output for each of their labels."""
    x, _ = shifted[list(range(min(2, len(shifted))))]
    try:
        with torch.no_grad(), evaluating(model):
            logits = run_model(model, x.to(device_of(model)))
    except InputError as error:
        (channels, *size), (ours, *our_size) = shifted.images.shape[1:], images.images.shape[1:]
        if (channels, *size) == (ours, *our_size):
            raise
        helps = [f"--size {our_size[0]} resizes those of a folder or a .parquet"] if size != our_size else []
        helps += [f"convert their {channels} channels to {ours}"] if channels != ours else []
        wanted = f"{_shape(images)} as the data have, or a model that takes both; {' and '.join(helps)}"
        raise InputError(f"shift {name}", f"images of {_shape(shifted)}", wanted) from error
    check_labels(shifted.labels, len(shifted), logits.shape[1], name=f"label of shift {name}")


def _shape(images: ImageSet) -> str:
    """3 x 32 x 32: channels, height, width."""
    return " x ".join(map(str, images.images.shape[1:]))


def _suite(threat: str | Budget | Attack | Suite) -> Suite:
    if isinstance(threat, str):
        return parse_threat(threat)
    if isinstance(threat, Budget):
        suite = Suite.standard(threat)
    elif isinstance(threat, Attack):
        suite = Suite(threat.budget, ((threat.name, threat),))
    elif isinstance(threat, Suite):
        suite = threat
    else:
        raise InputError("threats", threat, "budgets such as Linf(8/255), attacks, suites, or strings such as linf@8/255")
    if isinstance(suite.budget.eps, Tensor):
        raise InputError("threats", "a budget with one eps a sample", "one eps for the whole set")
    return suite


def _name(suite: Suite) -> str:
    """What a threat is called in rows: the standard suite by its budget alone."""
    return str(suite.budget) if suite.label else suite.name


def _masks(slices: Mapping[str, Sequence[int] | Tensor], n: int) -> dict[str, Tensor]:
    masks = {}
    for name, part in slices.items():
        try:
            index = torch.as_tensor(part)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError("slices", f"{name!r}: {part!r}", "positions or a mask") from error
        if index.dim() != 1 or (len(index) and (index.is_floating_point() or index.is_complex())):
            raise InputError("slices", f"{name!r}: {index.dtype} of shape {tuple(index.shape)}", "integer positions or a mask")
        mask = index if index.dtype == torch.bool else torch.zeros(n, dtype=torch.bool)
        if index.dtype == torch.bool:
            if index.shape != (n,):
                raise InputError("slices", f"{name!r}: a mask of shape {tuple(index.shape)}", f"shape ({n},)")
        elif len(index) and (int(index.min()) < 0 or int(index.max()) >= n):
            wrong = int(index.min()) if int(index.min()) < 0 else int(index.max())
            raise InputError("slices", f"{name!r}: position {wrong}", f"positions from 0 to {n - 1}")
        else:
            mask[index.long()] = True
        if not bool(mask.any()):
            raise InputError("slices", f"{name!r} without samples", "at least one sample")
        masks[name] = mask
    return masks


def _sanity(model: nn.Module, images: ImageSet, suites: Sequence[Suite], force: bool) -> tuple[nn.Module, list[Flag]]:
    """One small batch before everything: shapes, NaN, labels, gradients, and the flags of the model.

    Returns the model to go on with, which is another only if its buffers must be put back (`force`).
    """
    x = images[list(range(min(32, len(images))))][0].to(device_of(model))
    flags: list[Flag | None] = []
    try:
        first, again, calls = _two_looks(model, x, images.labels)
    except ModelChanged as error:
        if not force:
            raise ModelChanged(
                f"{error} (force=True or --force audits it with its buffers put back after each pass)"
            ) from error
        flags.append(checks.buffers_changed(str(error).partition("; ")[0], len(x)))
        model = KeptBuffers(model)
        first, again, calls = _two_looks(model, x, images.labels)
    flag = checks.probabilities(model, first)
    if flag is not None and not force:
        raise AuditError(f"{flag.seen}; {flag.why}: run {flag.run_next}; force=True (--force) audits it as it is")
    flags += [flag, checks.random_model(model, first, again, suites), checks.optimises(calls, len(x))]
    flags.append(checks.more_outputs(first.shape[1], len(images.classes), len(images)))
    if any(checks.gradient_attacks(suite) for suite in suites):
        _has_gradient(model, x[:2])
    return model, [flag for flag in flags if flag is not None]


def _two_looks(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """The logits of x, once and again, and how often the model called autograd meanwhile; labels: of the whole set."""
    with torch.no_grad(), evaluating(model):
        with checks.counting_autograd() as calls:
            first = run_model(model, x)
        check_labels(labels, len(labels), first.shape[1], name="label")
        again = run_model(model, x)
        if again.shape != first.shape:
            seen = f"{first.shape[1]} classes, and {again.shape[1]} when it was asked again"
            raise InputError("model", seen, "as many outputs every time")
        return first, again, calls[0]


def _has_gradient(model: nn.Module, x: Tensor) -> None:
    with torch.enable_grad(), evaluating(model):
        logits = run_model(model, x.detach().requires_grad_())
    if not logits.requires_grad:
        raise InputError(
            "model",
            "logits that do not depend on the input for autograd (a detach, a no_grad or NumPy inside)",
            "a differentiable model; or one made by from_function, which is attacked without gradients",
        )


def _above_chance(clean: Tensor, images: ImageSet, force: bool) -> list[Flag]:
    flag = checks.chance_accuracy(clean, images.labels)
    if flag is not None and not force:
        raise AuditError(f"{flag.seen}; {flag.run_next} (force=True or --force audits anyway)")
    return [] if flag is None else [flag]


def _parts(images: ImageSet, masks: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> list[AuditRow]:
    rows = []
    for under, mask in right.items():
        rows += _class_rows(images, mask, under)
        rows += [accuracy_row("slice", name, mask[part], under=under) for name, part in masks.items()]
    return rows


def _class_rows(images: ImageSet, right: Tensor, under: str) -> list[AuditRow]:
    """A row for each class that is there, then who bears the mistakes."""
    rows = []
    for c, name in enumerate(images.classes):
        mine = images.labels == c
        if bool(mine.any()):
            rows.append(accuracy_row("class", name, right[mine], under=under))
    return [*rows, *disparity_rows(right, images.labels, under)]


def _examples(
    model: nn.Module,
    images: ImageSet,
    clean: Tensor,
    measured: Measured,
    threat: str,
    budget: Budget,
    swept: Sweep | None,
    batch_size: int,
) -> list[Example]:
    """The broken samples that needed the smallest change, then those with the most confident mistake."""
    turned = (clean & measured.broken).nonzero().squeeze(1)
    if not len(turned):
        return []
    originals, labels = images[turned]
    x_adv = measured.x_adv[turned]
    device = device_of(model)
    with torch.no_grad(), evaluating(model):
        logits = torch.cat([model(part.to(device)).float().cpu() for part in torch.split(x_adv, batch_size)])
    confidence, predicted = logits.softmax(1).max(1)
    sizes = budget.size(originals, x_adv)
    known = swept.breaks_at if swept else {}
    largest = float(budget.eps)
    rank = [(known.get(int(p), largest), -float(c)) for p, c in zip(turned, confidence, strict=True)]
    order = sorted(range(len(turned)), key=rank.__getitem__)[:EXAMPLES]
    return [
        Example(
            threat=threat,
            index=int(turned[i]),
            label=int(labels[i]),
            predicted=int(predicted[i]),
            confidence=float(confidence[i]),
            size=float(sizes[i]),
            breaks_at=known.get(int(turned[i]), 0.0),
            clean=originals[i].clone(),
            adversarial=x_adv[i].clone(),
        )
        for i in order
    ]


def _describe(suite: Suite) -> dict[str, object]:
    return {
        "budget": str(suite.budget),
        "suite": suite.label,
        "attacks": [{"name": name, **attack.settings} for name, attack in suite.attacks],
    }
