"""An audit that is stopped and called again: the same result, finished parts not computed twice, foreign parts not used."""

from __future__ import annotations

import os
import re
import signal
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tutelage
from tutelage.auditing import AuditResult
from tutelage.auditing.state import FINISHED, clear_finished
from tutelage.core.errors import InputError, Interrupted, WriteError
from tutelage.core.files import locked
from tutelage.core.progress import Progress
from tutelage.data.images import ImageSet
from tutelage.threats import PGD, Linf
from tutelage.threats.objectives import AttackBatch, margin

THREATS = ("pgd-3:linf@0.15", "fgsm:l2@0.7")
# 60 samples in batches of 16: 4 batches a threat, and a curve of 7 points a norm; with the clean logits:
PARTS = 2 * 4 + 2 * 7 + 1
# samples that the checks for flags see: of a threat, on what is left, a gradient, two points, 22 passes within the whole range,
# twice the steps and two more, and three margins
FLAGS = 60 * (1 + 2 + 22 + (6 + 2) + 3) + 60 * (1 + 2 + 22 + (2 + 2) + 3)
# samples that a model sees whatever is kept: twice 32 for sanity and 2 for a gradient, all, all again at the start of each
# curve, the examples, the flags
CLEAN = 2 * 32 + 2 + 60 + 2 * 60 + 2 * 60 + FLAGS
# one point of a curve: PGD-20 on cross-entropy, then on the margin, on all samples, in 22 and 22 passes
LARGEST = 60 * 2 * 22


class StopHereError(BaseException):
    """No Exception, or the audit would say in its words that the model failed."""


class Net(nn.Module):
    """A linear classifier that counts the samples it sees and can be stopped."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)
        self.scale, self.seen = scale, 0
        self.stop_at, self.stop = 10**9, StopHereError

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        if self.seen >= self.stop_at:
            raise self.stop
        return self.scale * self.linear(x.flatten(1))


def data(n: int = 60) -> ImageSet:
    rng = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % 2
    return ImageSet(
        torch.rand(n, 1, 4, 4, generator=rng) * 0.6 + 0.35 * labels[:, None, None, None], labels, ("dark", "bright")
    )


def net(**options: Any) -> Net:
    model = Net(**options)
    with torch.no_grad():
        model.linear.weight.copy_(torch.stack([torch.full((16,), -0.5), torch.full((16,), 0.5)]))
        model.linear.bias.copy_(torch.tensor([3.8, -3.8]))
    return model


def audited(model: nn.Module, state: Path | None, **options: Any) -> AuditResult:
    return tutelage.audit(model, data(), **{"threats": THREATS, "batch_size": 16, "seed": 5, "state": state, **options})


def same(a: AuditResult, b: AuditResult) -> None:
    for key, value in vars(a).items():
        if key == "examples":
            assert len(value) == len(b.examples)
            for x, y in zip(value, b.examples, strict=True):
                assert torch.equal(x.clean, y.clean)
                assert torch.equal(x.adversarial, y.adversarial)
                plain = [{k: v for k, v in vars(e).items() if not isinstance(v, Tensor)} for e in (x, y)]
                assert plain[0] == plain[1]
        elif key != "seconds":
            assert value == getattr(b, key), key


@pytest.fixture(scope="module")
def whole() -> tuple[AuditResult, int]:
    """The audit that nobody stops, and how many samples its model saw."""
    model = net()
    result = audited(model, None)
    assert 0.0 < result.row("linf@0.15 PGD-3").value < result.clean_accuracy
    assert result.examples
    return result, model.seen


@pytest.fixture(scope="module")
def short() -> AuditResult:
    return audited(net(), None, curve=False)


def parts(state: Path) -> list[str]:
    return sorted(p.name for p in state.rglob("*.safetensors"))


def test_a_state_changes_nothing_and_holds_every_part(whole, tmp_path):
    same(audited(net(), tmp_path / "state"), whole[0])
    assert len(parts(tmp_path / "state")) == PARTS
    assert "pgd" not in "".join(p.name for p in tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_stopped_audit_goes_on_to_the_same_result(share, whole, tmp_path):
    expected, all_samples = whole
    stopped = net()
    stopped.stop_at = int(share * all_samples)
    with pytest.raises(StopHereError):
        audited(stopped, tmp_path)
    resumed = net()
    same(audited(resumed, tmp_path), expected)
    # one part is computed again, and the passes over clean data and for the examples
    assert resumed.seen <= (1 - share) * all_samples + LARGEST + CLEAN


def test_a_finished_state_answers_without_attacks(whole, tmp_path):
    audited(net(), tmp_path)
    again = net()
    said: list[str] = []

    class Listening(Progress):
        def print(self, text: str) -> None:
            said.append(text)

    same(audited(again, tmp_path, progress=Listening()), whole[0])
    assert again.seen <= CLEAN
    assert said == [f"going on from {next(tmp_path.glob('*/state.json')).parent}: {PARTS - 1} parts are finished"]
    clear_finished(tmp_path)
    assert not tmp_path.exists()


def test_ctrl_c_says_how_to_go_on(whole, tmp_path):
    stopped = net()
    stopped.stop_at, stopped.stop = whole[1] // 2, KeyboardInterrupt
    with pytest.raises(Interrupted, match=rf"finished parts are in {tmp_path}.*goes on from there") as caught:
        audited(stopped, tmp_path)
    assert caught.value.exit_code == 130
    clear_finished(tmp_path)  # nothing is finished
    assert parts(tmp_path)
    same(audited(net(), tmp_path), whole[0])
    stopped.seen = 0
    with pytest.raises(KeyboardInterrupt):  # without a state there is nothing to go on from
        audited(stopped, None)


def test_a_real_kill_leaves_whole_parts(whole, tmp_path):
    expected, all_samples = whole
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on: this process may have threads
        child = os.fork()
    if child == 0:

        class Killed(Net):
            def forward(self, x: Tensor) -> Tensor:
                if self.seen > all_samples // 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().forward(x)

        model = net()
        model.__class__ = Killed
        Killed.__module__, Killed.__qualname__, Killed.__name__ = Net.__module__, Net.__qualname__, Net.__name__
        audited(model, tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    before = len(parts(tmp_path))
    assert 1 < before < PARTS
    resumed = net()
    same(audited(resumed, tmp_path), expected)
    assert resumed.seen < 0.85 * all_samples
    assert len(parts(tmp_path)) == PARTS


def other_weights() -> Net:
    model = net()
    with torch.no_grad():
        model.linear.bias += torch.tensor([0.01, 0.0])
    return model


CHANGES: dict[str, tuple[Callable[[], Net], dict[str, Any], str]] = {
    "weights": (other_weights, {}, "model"),
    "seed": (net, {"seed": 6}, "seed"),
    "batch size": (net, {"batch_size": 20}, "batch size"),
    "data": (net, {"n": 50}, "data"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_state_of_another_audit_is_not_used_and_not_lost(change, tmp_path):
    make, options, named = CHANGES[change]
    audited(net(), tmp_path, curve=False)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}
    with pytest.warns(UserWarning, match=rf"state of another audit \(other {named}\); this one starts anew"):
        found = audited(make(), tmp_path, **options, curve=False)
    same(found, audited(make(), None, **options, curve=False))
    assert all(p.read_bytes() == content for p, content in before.items())


def test_the_same_weights_in_another_forward_start_anew(tmp_path):
    audited(net(), tmp_path, curve=False)
    with pytest.warns(UserWarning, match="gives other logits"):
        found = audited(net(scale=0.5), tmp_path, curve=False)
    same(found, audited(net(scale=0.5), None, curve=False))


def test_another_thread_count_is_another_state(tmp_path):
    audited(net(), tmp_path, curve=False)
    torch.set_num_threads(2)
    try:
        with pytest.warns(UserWarning, match=r"other threads\)"):
            audited(net(), tmp_path, curve=False)
    finally:
        torch.set_num_threads(1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def rename_over(path: Path) -> None:
    other = next(p for p in sorted(path.parent.glob("linf*.safetensors")) if p != path)
    path.write_bytes(other.read_bytes())


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit flipped": flip,
    "cut in the tensors": lambda p: p.write_bytes(p.read_bytes()[:-10]),
    "cut in the header": lambda p: p.write_bytes(p.read_bytes()[:20]),
    "empty": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(bytes(64)),
    "text": lambda p: p.write_text("not a part"),
    "plain values changed": lambda p: p.write_bytes(p.read_bytes().replace(b'forward\\":', b'forwarx\\":')),
    "another batch": rename_over,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_named_and_computed_again(damage, short, tmp_path):
    audited(net(), tmp_path, curve=False)
    (part,) = tmp_path.rglob("linf-0.15-PGD-3-*-000002.safetensors")
    good = part.read_bytes()
    DAMAGE[damage](part)
    assert part.read_bytes() != good
    with pytest.warns(UserWarning, match=r"linf-0\.15-PGD-3-\w+-000002\.safetensors is damaged .*computed again"):
        same(audited(net(), tmp_path, curve=False), short)
    assert part.read_bytes() == good


def test_a_damaged_point_of_a_curve_is_computed_again(whole, tmp_path):
    audited(net(), tmp_path)
    point = sorted(tmp_path.rglob("curve-l2-*.safetensors"))[3]
    flip(point)
    with pytest.warns(UserWarning, match=rf"{point.name} is damaged"):
        same(audited(net(), tmp_path), whole[0])


def test_litter_of_a_killed_writer_is_removed(tmp_path):
    audited(net(), tmp_path, curve=False)
    own = next(tmp_path.glob("*/state.json")).parent
    (own / FINISHED).unlink()
    (own / ".linf-0.15-PGD-3-000002.safetensors.abcd").write_bytes(b"half")
    audited(net(), tmp_path, curve=False)
    assert not list(own.glob(".*"))


def test_two_audits_do_not_share_a_state_at_once(tmp_path):
    audited(net(), tmp_path, curve=False)
    lock = next(tmp_path.glob("*.lock"))
    with locked(lock), pytest.raises(InputError, match="no other audit is using"):
        audited(net(), tmp_path, curve=False)


def test_a_threat_that_cannot_be_told_apart_is_not_kept(tmp_path):
    def objective(logits: Tensor, batch: AttackBatch) -> Tensor:
        return margin(logits, batch) * tmp_path.stat().st_nlink

    with pytest.warns(UserWarning, match="nothing is kept"):
        audited(net(), tmp_path, threats=[PGD(Linf(0.2), steps=2, objective=objective)], curve=False)
    assert not parts(tmp_path)


def test_a_folder_that_cannot_be_is_told_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    model = net()
    with pytest.raises(InputError, match=r"state: got .*is a file"):
        audited(model, tmp_path / "file" / "state")
    assert model.seen == 0


def test_a_full_disk_keeps_what_is_finished(short, tmp_path, monkeypatch):
    import tutelage.auditing.state as module

    real, calls = module.write_atomic, [0]

    def full(path: Path, content: bytes | str) -> None:
        calls[0] += 1
        if calls[0] > 6:
            raise WriteError(path, OSError(28, "No space left on device"))
        real(path, content)

    monkeypatch.setattr(module, "write_atomic", full)
    with pytest.raises(WriteError, match=r"cannot write .*No space left on device; free some space"):
        audited(net(), tmp_path, curve=False)
    monkeypatch.undo()
    assert len(parts(tmp_path)) == 6
    same(audited(net(), tmp_path, curve=False), short)


def test_an_unreadable_image_is_named_and_costs_no_finished_part(tmp_path):
    """An image goes bad between two calls: one sentence, before any compute; what was finished serves once it is mended."""
    whole, folder, state = data(), tmp_path / "photos", tmp_path / "state"
    for i, (image, label) in enumerate(zip(whole.images, whole.labels.tolist(), strict=True)):
        place = folder / ("a-dark", "b-bright")[label] / f"{i:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).round().to(torch.uint8).numpy()).save(place)
    settings: dict[str, Any] = {"threats": THREATS, "batch_size": 16, "seed": 5, "curve": False, "state": state}
    counted = net()
    expected = tutelage.audit(counted, folder, **{**settings, "state": None})
    stopped = net()
    stopped.stop_at = counted.seen // 2
    with pytest.raises(StopHereError):
        tutelage.audit(stopped, folder, **settings)
    finished = parts(state)
    assert len(finished) > 1
    bad = folder / "b-bright" / "031.png"
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    again = net()
    with pytest.raises(InputError, match=r"got b-bright/031\.png, wanted an image that Pillow can read"):
        tutelage.audit(again, folder, **settings)
    assert again.seen == 0
    assert parts(state) == finished
    bad.write_bytes(good)
    same(tutelage.audit(again, folder, **settings), expected)
    assert again.seen < counted.seen


def test_a_model_that_turns_non_finite_in_the_middle_keeps_what_is_finished(short, tmp_path):
    """The memory of a device goes bad, say: the audit says what failed; the sound model goes on from the parts."""

    class Failing(Net):
        bad_from = 300  # in the first threat, after its first batches

        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits * float("nan") if self.seen > self.bad_from else logits

    model = Failing()
    model.load_state_dict(net().state_dict())
    result = audited(model, tmp_path, curve=False)
    assert list(result.failed) == ["linf@0.15 PGD-3", "l2@0.7 FGSM"]
    assert (result.status, result.threats) == ("unreliable", [])
    clear_finished(tmp_path)  # it has not finished
    finished = parts(tmp_path)
    assert len(finished) > 1
    model.seen, model.bad_from = 0, 10**9
    resumed = audited(model, tmp_path, curve=False)
    assert resumed.rows == short.rows
    assert set(finished) < set(parts(tmp_path))


class OffGrid(Net):
    """NaN on all inputs but those of 8-bit images and of FGSM in linf@0.2."""

    def forward(self, x: Tensor) -> Tensor:
        off = (x * 255 - (x * 255).round()).abs().flatten(1).amax(1) > 1e-2
        return torch.where(off[:, None], torch.nan, super().forward(x))


def eight_bits() -> ImageSet:
    whole = data()
    return ImageSet((whole.images * 255).round().div(255), whole.labels, whole.classes)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_threat_that_fails_leaves_the_others_and_says_what_and_where(jobs, tmp_path):
    model = OffGrid()
    model.load_state_dict(net().state_dict())
    options: dict[str, Any] = {"batch_size": 16, "seed": 5, "curve": False, "force": True}
    threats = ["pgd-2:l2@0.5", "fgsm:linf@51/255"]
    result = tutelage.audit(model, eight_bits(), threats=threats, state=tmp_path / "state", jobs=jobs, **options)
    assert result.failed == {
        "l2@0.5 PGD-2": "model: got NaN or infinity inside the budget, in PGD-2 cross_entropy, wanted finite logits and "
        "objective (batch 1 of 4)"
    }
    assert (result.status, result.threats) == ("unreliable", ["linf@51/255 FGSM"])
    assert result.row("linf@51/255 FGSM").n == 60
    assert "l2@0.5 PGD-2 failed and has no number: model: got NaN" in result.warnings[0]
    assert any(flag.threat == "linf@51/255 FGSM" and "ended in an error" in flag.seen for flag in result.flags)
    with pytest.raises(InputError, match=r"category: got l2@0.5 PGD-2, which failed: model: got NaN"):
        result.row("l2@0.5 PGD-2")
    page = result.save(tmp_path / "out").read_text()
    assert "Failed: these have no number" in page
    assert AuditResult.load(tmp_path / "out").failed == result.failed
    # without it the others are taken over
    before, model.seen = set(parts(tmp_path)), 0
    again = tutelage.audit(model, eight_bits(), threats=threats[1:], state=tmp_path / "state", **options)
    assert model.seen < 60 * 2 + 32 * 2 + 2 + 60 * 4  # sanity, clean, what the checks asked; no attack
    assert set(parts(tmp_path)) == before
    assert [asdict(row) for row in again.rows] == [asdict(row) for row in result.rows]


def test_finished_threats_serve_an_audit_with_other_threats(whole, tmp_path):
    audited(net(), tmp_path, threats=THREATS[1:], curve=False)
    before = parts(tmp_path)
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = audited(model, tmp_path, threats=(*THREATS, "pgd-3:linf@0.16"), curve=False)
    assert set(before) < set(parts(tmp_path))
    same(found, audited(net(), None, threats=(*THREATS, "pgd-3:linf@0.16"), curve=False))
    # the points of a curve are on what the smaller ones left, so that another grid has others
    audited(net(), tmp_path)
    same(
        audited(net(), tmp_path, threats=(*THREATS, "pgd-3:linf@0.16")),
        audited(net(), None, threats=(*THREATS, "pgd-3:linf@0.16")),
    )


def test_what_is_saved_is_equal(whole, tmp_path):
    resumed = audited(net(), tmp_path / "state")
    resumed.save(tmp_path / "out")
    back = AuditResult.load(tmp_path / "out")
    assert [asdict(r) for r in back.rows] == [asdict(r) for r in whole[0].rows]


def test_the_example_of_the_page_runs(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "reliability.md").read_text(), flags=re.S)
    exec(compile(code, "reliability", "exec"), {})
    assert (tmp_path / "my-audit" / "report.html").is_file()
    assert not (tmp_path / "my-audit" / "state").exists()
