"""The folder of a user: good files of every kind that the workbench reads."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import tutelage
from tutelage.data.code_problems import CodeProblem, read_problems, write_problems
from tutelage.data.cutouts import read_cutouts
from tutelage.data.offline import read_offline
from tutelage.data.readers import read_cifar10_binary, read_idx, read_images
from tutelage.data.speech import decode
from tutelage.data.tables import as_table
from tutelage.guarantees.conformal import SplitConformal
from tutelage.methods.audit.robustness_gym.operations import Store as Results
from tutelage.models.language.ngram import NGramLM
from tutelage.models.language.replay import Store as Answers

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "bad_input"))
from photographed import make_user, picture  # the user of tests/bad_input

SLICES = "light,age\n" + "".join(f"{'day' if i % 2 else 'night'},{20 + i % 3}\n" for i in range(12))
ROWS = [{"text": f"a line {i}", "label": i % 3, "score": i / 7} for i in range(12)]


def make(folder: Path) -> None:
    """Fill `folder`."""
    user = make_user(folder)
    (folder / "slices.csv").write_text(SLICES)
    grey = (user.x[:, 0] * 255).to(torch.uint8).numpy()
    for form in ("jpg", "gif", "webp", "bmp", "tiff"):
        place = folder / form / "cat"
        place.mkdir(parents=True)
        (place / f"1.{form}").write_bytes(picture(grey[0], {"jpg": "JPEG"}.get(form, form.upper())))
    for name, content in _audits().items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (folder / "notes.txt").write_text("mine")


@cache
def _audits() -> dict[str, bytes]:
    """Two saved audits of the same images, and the result of a claim."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        user = make_user(Path(scratch))
        for name in ("saved", "saved2"):
            model = user.model if name == "saved" else user.student
            result = tutelage.audit(model, user.images, threats=["fgsm:linf@0.1"], curve=False, force=True, name=name)
            result.save(Path(scratch) / name)
        files = [Path(scratch) / name / file for name in ("saved", "saved2") for file in ("audit.json", "examples.safetensors")]
        found = {str(path.relative_to(scratch)): path.read_bytes() for path in files}
    recorded = Path(tutelage.__file__).parent / "results" / "neur2ro.json"
    return found | {"result/result.json": recorded.read_bytes()}


@dataclass(frozen=True)
class Reader:
    """A kind of file: how a good one is written below a folder (returns what is damaged), and how it is read.

    words: the command that reads it ("FILE" stands for its path); call: or a function of the path. writes: see Case.
    """

    write: Callable[[Path], Path]
    words: tuple[str, ...] = ()
    call: Callable[[Path], Any] | None = None
    writes: bool = False


AUDIT = ("audit", "my_net.py:build", "--threats", "fgsm:linf@0.1", "--no-curve", "--force", "--out", "out/audit")
ON_GOOD = (*AUDIT, "--data", "good.npz")


def _written(name: str, content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content())
        return path

    return write


def _grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _npz_compressed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _parquet(columns: dict[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _csv() -> bytes:
    lines = [",".join(map(str, row.values())) for row in ROWS]
    return "\n".join([",".join(ROWS[0]), *lines]).encode()


def _idx() -> bytes:
    return b"\0\0\x08\3" + b"".join(n.to_bytes(4, "big") for n in (2, 4, 4)) + bytes(32)


def _image(form: str) -> bytes:
    return picture(_grey()[0], form)


def _rgba() -> bytes:
    array = np.zeros((8, 8, 4), np.uint8)
    array[2:6, 2:6] = 255
    return picture(Image.fromarray(array))


def _wav(form: str) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(800) / 9).astype(np.float32), 8000, format=form)
    return buffer.getvalue()


def _hdf5(folder: Path, kind: str) -> Path:
    import h5py

    path = folder / f"{kind}.hdf5"
    n, rng = 6, np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(n + (kind == "minari"), 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
    }
    ends = np.arange(n) == n - 1
    arrays |= {"terminations": ends, "truncations": ~ends & False} if kind == "minari" else {"terminals": ends}
    with h5py.File(path, "w") as store:
        group = store.create_group("episode_0") if kind == "minari" else store
        for name, value in arrays.items():
            group.create_dataset(name, data=value)
    return path


def _offline_npz() -> bytes:
    rng, n = np.random.default_rng(0), 6
    seen = rng.normal(size=(n + 1, 3)).astype(np.float32)
    return _npz(
        observations=seen[:-1], next_observations=seen[1:], actions=rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        rewards=np.ones(n, np.float32), terminals=np.arange(n) == n - 1,
    )  # fmt: skip


def _problems(folder: Path) -> Path:
    one = CodeProblem("a/1", "def f(x):\n", "f", "    return x\n", "def check(f):\n    assert f(1) == 1\n")
    return write_problems(folder / "problems.jsonl", [one])


def _ngram(folder: Path) -> Path:
    path = folder / "ngram.json"
    NGramLM.fit(["1+1=2", "2+1=3"], order=2).save(path)
    return path


def _answers(folder: Path) -> Path:
    path = folder / "answers.sqlite"
    store = Answers(path)
    store.put("k", {"fingerprint": "f"}, {"text": "x"})
    store.close()
    return path


def _conformal(folder: Path) -> Path:
    found = SplitConformal("hps", 0.1)
    found.threshold, found.n, found.classes = 0.5, 100, 3
    return found.save(folder / "conformal")


def _saved(folder: Path, name: str) -> Path:
    for file, content in _audits().items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder / name


def _weights(folder: Path) -> Path:
    from safetensors.torch import save_file

    path = folder / "fits.safetensors"
    save_file({"1.weight": torch.zeros(3, 64), "1.bias": torch.zeros(3)}, path)
    return path


def _labels() -> np.ndarray:
    return np.arange(12) % 3


READERS: dict[str, Reader] = {
    "images in .npz": Reader(_written("x.npz", lambda: _npz(image=_grey(), label=_labels())), (*AUDIT, "--data", "FILE")),
    "images in compressed .npz": Reader(
        _written("x.npz", lambda: _npz_compressed(image=_grey(), label=_labels())), (*AUDIT, "--data", "FILE")
    ),
    "images in Parquet": Reader(
        _written("x.parquet", lambda: _parquet({"image": [picture(one) for one in _grey()], "label": _labels().tolist()})),
        (*AUDIT, "--data", "FILE"),
    ),
    **{
        f"a folder of .{suffix}": Reader(
            _written(f"set/cat/1.{suffix}", lambda form=form: _image(form)),  # type: ignore[misc]
            call=lambda path: read_images(path.parents[1]),
        )
        for suffix, form in (
            ("png", "PNG"),
            ("jpg", "JPEG"),
            ("gif", "GIF"),
            ("webp", "WEBP"),
            ("tiff", "TIFF"),
            ("bmp", "BMP"),
        )
    },
    "cut-outs with alpha": Reader(
        _written("cut/cat/1.png", _rgba), call=lambda path: read_cutouts(path.parents[1], torch.zeros(3, 8, 8))
    ),
    "idx": Reader(_written("x-idx3-ubyte", _idx), call=read_idx),
    "idx.gz": Reader(_written("x-idx3-ubyte.gz", lambda: gzip.compress(_idx())), call=read_idx),
    "CIFAR's binary": Reader(_written("x.bin", lambda: bytes(3073 * 2)), call=lambda path: read_cifar10_binary([path])),
    "slices in .csv": Reader(_written("s.csv", SLICES.encode), (*ON_GOOD, "--slices", "FILE")),
    "slices in Parquet": Reader(
        _written("s.parquet", lambda: _parquet({"light": ["day", "night"] * 6})), (*ON_GOOD, "--slices", "FILE")
    ),
    "a shifted set": Reader(
        _written("x.npz", lambda: _npz(image=_grey(), label=_labels())), (*ON_GOOD, "--shift", "other=FILE")
    ),
    "a table in .jsonl": Reader(_written("t.jsonl", _jsonl), call=as_table),
    "a table in .jsonl.gz": Reader(_written("t.jsonl.gz", lambda: gzip.compress(_jsonl())), call=as_table),
    "a table in .json": Reader(_written("t.json", lambda: json.dumps(ROWS).encode()), call=as_table),
    "a table in .csv": Reader(_written("t.csv", _csv), call=as_table),
    "a table in Parquet": Reader(_written("t.parquet", lambda: _parquet({"text": ["a", "b"], "label": [0, 1]})), call=as_table),
    "code problems in .jsonl": Reader(_problems, call=read_problems),
    "logged decisions in .npz": Reader(_written("d.npz", _offline_npz), call=read_offline),
    "logged decisions of D4RL": Reader(lambda folder: _hdf5(folder, "d4rl"), call=read_offline),
    "logged decisions of Minari": Reader(lambda folder: _hdf5(folder, "minari"), call=read_offline),
    "sound in .wav": Reader(_written("1.wav", lambda: _wav("WAV")), call=lambda path: decode(path.read_bytes(), path.name)),
    "sound in .flac": Reader(_written("1.flac", lambda: _wav("FLAC")), call=lambda path: decode(path.read_bytes(), path.name)),
    "an n-gram model": Reader(_ngram, call=NGramLM.load),
    "recorded answers": Reader(_answers, call=lambda path: [Answers(path).get("k"), len(Answers(path))], writes=True),
    "a conformal predictor": Reader(_conformal, call=lambda path: SplitConformal.load(path.parent)),
    "cached operations": Reader(_written("results.json", lambda: b'{"a": [1, 2]}'), call=Results.load),
    "a saved audit": Reader(lambda folder: _saved(folder, "saved/audit.json"), ("report", "FOLDER", "--out", "out/x.html")),
    "the pictures of an audit": Reader(
        lambda folder: _saved(folder, "saved/examples.safetensors"), ("report", "FOLDER", "--out", "out/x.html")
    ),
    "an audit to compare with": Reader(
        lambda folder: _saved(folder, "saved2/audit.json"), ("compare", "saved", "FILE", "--out", "out/c")
    ),
    "the result of a claim": Reader(
        lambda folder: _saved(folder, "result/result.json"), ("report", "FOLDER", "--out", "out/x.html")
    ),
    "weights": Reader(_weights, (*ON_GOOD, "--weights", "FILE")),
}
