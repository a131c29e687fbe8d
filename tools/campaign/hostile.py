"""Files that were made to do harm: pickles, bombs, headers that lie, paths that lead out, markup in names, links and pipes."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import Case
from lines import commands, fast
from photographed import picture
from place import AUDIT, ON_GOOD, READERS, _audits, _grey, _npz

from tutelage.core.errors import TutelageError
from tutelage.data.archives import take_from_tar, take_from_wheel
from tutelage.data.homes import File
from tutelage.data.offline import read_offline
from tutelage.data.readers import read_images
from tutelage.data.tables import as_table

MARKUP = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "'-alert(1)-'", "{{7*7}}{% raw %}",
    "</title><script>alert(1)</script>", "javascript:alert(1)", "<!--", "]]>", "&lt;b&gt;", "</style><script>alert(1)</script>",
    '" onmouseover="alert(1)', "<a href=javascript:alert(1)>x</a>", "\u202egnp.exe", "<meta http-equiv=refresh content=0>",
)  # fmt: skip
MARK = "alert(1)"


class Opens(Exception):
    """Never raised: a pickle of it calls os.system."""

    def __reduce__(self) -> Any:
        return os.system, ("touch PWNED",)


# pages


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            if name.startswith("on") or (name in ("href", "src", "action", "xlink:href") and MARK in (value or "")):
                self.wrong.append(f"<{tag} {name}={value!r}>"[:200])
        if tag in ("script", "iframe", "object", "embed", "base", "form") or (
            tag == "meta" and ("http-equiv", "refresh") in attributes
        ):
            self.wrong.append(f"<{tag}>")


def not_inert(page: str) -> str:
    """What in a page could run or load something, or nothing."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    if "&lt;script&gt;" not in page and "<script>" in page:
        reader.wrong.append("<script>")
    return reader.wrong[0] if reader.wrong else ""


def inert(place: Path) -> str:
    """The pages below out/ of a place: what in them is not inert. There has to be one."""
    pages = list((place / "out").rglob("*.html"))
    for page in pages:
        if wrong := not_inert(page.read_text(encoding="utf-8")):
            return f"{page.name} holds {wrong}"
    return "" if pages else "no page was written"


def _only_if_written(place: Path) -> str:
    return inert(place) if list((place / "out").rglob("*.html")) else ""


def with_markup(value: Any, text: str, keep: tuple[str, ...]) -> Any:
    """The same JSON with `text` in every string; keep: keys whose values are left as they are."""
    if isinstance(value, dict):
        return {key: one if key in keep else with_markup(one, text, keep) for key, one in value.items()}
    if isinstance(value, list):
        return [with_markup(one, text, keep) for one in value]
    return f"{value}{text}" if isinstance(value, str) else value


def pages() -> Iterator[Case]:
    """Markup in names of classes, files, models, sets, slices and in every string of saved results: pages stay inert."""
    grey = _grey()
    for i, text in enumerate(MARKUP):
        name = text.replace("/", "\u2215")
        files = {f"set/{name}/{name}.png": picture(grey[0]), **{f"set/b/{k}.png": picture(grey[k]) for k in range(1, 4)}}
        table = f'"{text.replace(chr(34), chr(34) * 2)}",light\n' + "".join(
            f'"{text.replace(chr(34), chr(34) * 2)}{k % 2}",{"day" if k % 2 else "night"}\n' for k in range(4)
        )
        files["slices.csv"] = table.encode()
        words = (*AUDIT, "--data", "given/set", "--slices", "given/slices.csv", "--name", text, "--shift", "other=given/set")
        yield Case(f"an audit with {text!r} in all names", words=words, files=files, check=inert)
        saved = {k: v for k, v in _audits().items() if k.startswith("saved")}
        keep = ("category", "metric", "predictions", "sha256", "under", "norm")
        for command, name in (
            (("report", "given/saved"), "a report"),
            (("compare", "given/saved", "given/saved2"), "a comparison"),
        ):
            bad = dict(saved)
            for file in ("saved/audit.json", "saved2/audit.json"):
                bad[file] = json.dumps(with_markup(json.loads(saved[file]), text, keep)).encode()
            out = "out/x.html" if command[0] == "report" else "out/compare"
            yield Case(
                f"{name} of audits with {text!r} in their strings",
                words=(*command, "--out", out),
                files=bad,
                check=_only_if_written,
            )
        claim = json.loads(_audits()["result/result.json"])
        keep = ("slug", "scale", "verdict", "kind", "better", "status", "metric", "method", "baseline", "arm", "ci_method")
        if i % 2:
            claim = with_markup(claim, text, keep)
        else:  # also where the page takes a key for a name
            claim["config"] = {text: text}
            claim["environment"][text] = text
            claim["rows"][0] |= {"status": "failed", "error": text, "metrics": {}}
            claim["rows"][1]["metrics"][text] = 1.0
        yield Case(
            f"a page of a claim with {text!r} in its result", words=("report", "given/result", "--out", "out/x.html"),
            files={"result/result.json": json.dumps(claim).encode()}, check=_only_if_written,
        )  # fmt: skip


# bombs and lies


@cache
def gzip_bomb() -> bytes:
    """4 GB of zeros in 4 MB: one member, sixty times."""
    return gzip.compress(bytes(64 << 20), 9) * 60


@cache
def _deflated() -> tuple[bytes, int]:
    """2.5 GB of zeros as one deflate stream, and its length when unpacked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(64 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * 40 + packer.flush(zlib.Z_FINISH), 40 * (64 << 20)


def npz_bomb(lies: bool) -> bytes:
    """An .npz whose arrays unpack to 2.5 GB each; `lies`: its directory says that they are small."""
    stream, length = _deflated()
    size = 5000 if lies else length
    parts, directory = b"", b""
    for name in (b"image.npy", b"label.npy"):
        about = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(stream), size, len(name), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + about + struct.pack("<HHHII", 0, 0, 0, 0, len(parts)) + name
        parts += b"PK\3\4" + about + name + stream
    return parts + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(directory), len(parts), 0)


def npy(header: str) -> bytes:
    content = header.encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(content)) + content


def npz_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def safetensors(header: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def deep(n: int = 200_000) -> bytes:
    return b"[" * n + b"]" * n


def png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _wave(size: int, rate: int = 8000, channels: int = 1) -> bytes:
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * rate, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
        + bytes(20)
    )


def _read(kind: str, content: bytes, said: str, name: str = "", must_refuse: bool = True) -> Case:
    """One hostile file in place of a good one of a kind of `place.READERS`."""
    import tempfile

    reader = READERS[kind]
    with tempfile.TemporaryDirectory() as scratch:
        target = reader.write(Path(scratch))
        relative = str(target.relative_to(scratch))
        good = {str(p.relative_to(scratch)): p.read_bytes() for p in Path(scratch).rglob("*") if p.is_file()}
    good.pop(relative)
    relative = str(Path(relative).with_name(name)) if name else relative
    path = f"given/{relative}"
    words = tuple(w.replace("FILE", path).replace("FOLDER", str(Path(path).parent)) for w in reader.words)
    call = (lambda: reader.call(Path(path))) if reader.call else None  # type: ignore[misc]
    return Case(
        f"{kind}: {said}",
        words=words,
        call=call,
        files={**good, relative: content},
        prepare=fast,
        must_refuse=must_refuse,
        writes=reader.writes,
    )


def bombs() -> Iterator[Case]:
    """Files that unpack to more than there is memory, or whose headers say so."""
    yield _read("images in .npz", npz_bomb(lies=False), "a bomb of 5 GB")
    yield _read("images in .npz", npz_bomb(lies=True), "a bomb whose directory lies")
    shape = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"
    label = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }") + bytes(8)
    for said, header in {
        "a header of 10^15 images": shape % "1000000000000000, 8, 8",
        "a header of negative shape": shape % "-1, 8, 8",
        "a header that is code": "__import__('os').system('touch PWNED')",
        "a header of nested brackets": "(" * 30000,
        "a header that is long": shape % f"1, 8, 8{' ' * 60000}",
    }.items():
        yield _read("images in .npz", npz_of(image=npy(header) + bytes(64), label=label), said)
        yield _read("logged decisions in .npz", npz_of(observations=npy(header) + bytes(64)), said)
    for kind, name in (("a table in .jsonl.gz", ""), ("code problems in .jsonl", "p.jsonl.gz"), ("idx.gz", "")):
        yield _read(kind, gzip_bomb(), "a bomb of 4 GB", name)
    for kind in (
        "a table in .json", "a table in .jsonl", "code problems in .jsonl", "an n-gram model", "a conformal predictor",
        "cached operations", "a saved audit", "an audit to compare with", "the result of a claim",
    ):  # fmt: skip
        yield _read(kind, deep(), "JSON of 200,000 brackets")
        yield _read(kind, b"9" * 100_000, "a number of 100,000 digits")
        yield _read(kind, b"\xef\xbb\xbf{}", "a byte order mark", must_refuse=False)
        yield _read(kind, b'{"\\ud800": "\\udfff"}', "half characters", must_refuse=False)
    for said, content in {
        "a header of 2^63 bytes": safetensors(b"{}", 2**63),
        "a header of 90 MB": safetensors(b"{" + b" " * 90_000_000 + b"}"),
        "a tensor of 10^15 bytes": safetensors(
            json.dumps({"1.weight": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}}).encode()
        ),
        "negative offsets": safetensors(b'{"1.weight":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'),
        "tensors that overlap": safetensors(
            b'{"1.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"1.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            body=bytes(4),
        ),
        "a header of brackets": safetensors(deep(50_000)),
        "an unknown type": safetensors(b'{"1.weight":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}', body=bytes(4)),
    }.items():
        yield _read("weights", content, said)
        yield _read("the pictures of an audit", content, said)
    for said, content in {
        "2^31 x 2^31 pixels": png(2**31 - 1, 2**31 - 1),
        "30,000 x 30,000 pixels": png(30_000, 30_000),
        "0 pixels": png(0, 0),
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "a pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch PWNED\x85R.",
    }.items():
        yield _read("a folder of .png", content, said)
        yield _read("cut-outs with alpha", content, said)
    for said, content in {
        "4 GB said": _wave(2**32 - 1), "no rate": _wave(20, rate=0), "65,535 channels": _wave(20, channels=65535)
    }.items():  # fmt: skip
        yield _read("sound in .wav", content, said, must_refuse=False)
    yield _read("a table in .csv", b'text,label\n"' + b"x" * 1_000_000 + b'",1\n', "a field of 1 MB", must_refuse=False)
    yield _read("slices in .csv", b'light\n"' + b"x" * 1_000_000 + b'"\n', "a field of 1 MB")
    yield _read("a table in .csv", b"a,b\n1,2,3\n4\n", "rows of other lengths", must_refuse=False)
    yield _read("a table in .csv", b"\0" * 1000, "bytes of 0", must_refuse=False)
    yield _read("CIFAR's binary", b"\xff" * 3073, "a label of 255", must_refuse=False)
    yield _read("idx", b"\0\0\x08\4" + b"\xff" * 16, "2^128 bytes said")
    yield _read("recorded answers", b"SQLite format 3\0" + bytes(84), "an empty header")
    yield Case(
        "HDF5 of 10^11 rows that are not there",
        call=lambda: read_offline("out/d.hdf5"),
        prepare=_sparse_hdf5,
        must_refuse=True,
    )


def _sparse_hdf5(_: Path) -> None:
    import h5py

    Path("out").mkdir()
    with h5py.File("out/d.hdf5", "w") as store:
        for name, shape in {
            "observations": (10**11, 3),
            "actions": (10**11, 2),
            "rewards": (10**11,),
            "terminals": (10**11,),
        }.items():
            store.create_dataset(name, shape=shape, dtype="f4", chunks=(1024, *shape[1:]))


def pickles() -> Iterator[Case]:
    """Files that hold code: none of it runs."""
    opens = np.empty(12, object)
    opens[:] = [Opens() for _ in range(12)]
    content = _npz(image=opens, label=np.arange(12) % 3)
    yield _read("images in .npz", content, "pickled objects")
    yield _read("logged decisions in .npz", _npz(observations=opens), "pickled objects")
    yield _read("a shifted set", content, "pickled objects")
    buffer = io.BytesIO()
    torch.save({"1.weight": Opens(), "1.bias": torch.zeros(3)}, buffer)
    for name in ("w.safetensors", "w.pt", "w.pth", "w.bin"):
        words, files = (*ON_GOOD, "--weights", f"given/{name}"), {name: buffer.getvalue()}
        yield Case(f"weights: torch's pickle called {name}", words=words, files=files, must_refuse=True)
    for name in ("m.pkl", "m.joblib", "m.pt"):
        yield Case(
            f"a model that is {name}",
            words=("audit", f"given/{name}", *ON_GOOD[2:]),
            files={name: buffer.getvalue()},
            must_refuse=True,
        )


# paths, links, pipes


def _tar(members: list[tuple[str, bytes, bytes, str]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, kind, content, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), link
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def archives() -> Iterator[Case]:
    """Archives with paths that lead out, links and devices: nothing is written."""
    wanted = [File("a.bin", 3, "0" * 64)]
    ways = {
        "../a.bin": [("../a.bin", tarfile.REGTYPE, b"abc", "")],
        "/tmp/a.bin": [("/tmp/a.bin", tarfile.REGTYPE, b"abc", "")],
        "a link": [("a.bin", tarfile.SYMTYPE, b"", "/etc/passwd")],
        "a hard link": [("a.bin", tarfile.LNKTYPE, b"", "../../x")],
        "a device": [("a.bin", tarfile.CHRTYPE, b"", "")],
        "a pipe": [("a.bin", tarfile.FIFOTYPE, b"", "")],
        "another hash": [("a.bin", tarfile.REGTYPE, b"abc", "")],
        "another size": [("a.bin", tarfile.REGTYPE, b"abcd", "")],
        "a folder of that name": [("a.bin", tarfile.DIRTYPE, b"", "")],
        "nothing": [],
    }

    def taken(name: str) -> Callable[[], None]:
        def take() -> None:
            Path("out").mkdir()
            (take_from_tar(Path(name), wanted, Path("out/to")) if name.endswith("gz") else
             take_from_wheel(Path(name), wanted, "", Path("out/to")))  # fmt: skip

        return take

    def nothing(place: Path) -> str:
        left = [p.name for p in (place / "out").rglob("*") if p.is_file()]
        return f"wrote {left[0]}" if left else ""

    for said, members in ways.items():
        yield Case(
            f"a tar of {said}", call=taken("given/x.tar.gz"), files={"x.tar.gz": _tar(members)}, must_refuse=True, check=nothing
        )
    yield Case(
        "a gzip bomb as a tar", call=taken("given/x.tar.gz"), files={"x.tar.gz": gzip_bomb()}, must_refuse=True, check=nothing
    )
    for said, content in {"an empty zip": b"PK\5\6" + bytes(18), "a zip bomb": npz_bomb(lies=True), "text": b"no zip"}.items():
        yield Case(
            f"a wheel that is {said}", call=taken("given/x.whl"), files={"x.whl": content}, must_refuse=True, check=nothing
        )


def links() -> Iterator[Case]:
    """Links in circles, to devices and to what is not there, and pipes that nobody writes."""

    def linked(name: str, target: str) -> Callable[[Path], None]:
        def make(_: Path) -> None:
            path = Path("out/set") / name
            path.parent.mkdir(parents=True)
            os.mkfifo(path) if target == "|" else os.symlink(target, path)

        return make

    for said, target in {
        "a pipe": "|",
        "a link to /dev/zero": "/dev/zero",
        "a link to nothing": "absent",
        "a link to itself": "1.png",
        "a link to a text": "/etc/hostname",
        "a link to a folder": ".",
        "a link to a terminal": "/dev/tty",
    }.items():
        yield Case(
            f"an image that is {said}",
            words=(*AUDIT, "--data", "out/set"),
            prepare=linked("cat/1.png", target),
            must_refuse=True,
            limit=40,
        )
    for said, target in {"a pipe": "|", "a link to /dev/zero": "/dev/zero", "a link to itself": "x.npz"}.items():
        for name, words in {
            "x.npz": (*AUDIT, "--data", "out/set/x.npz"),
            "x.parquet": (*AUDIT, "--data", "out/set/x.parquet"),
            "w.safetensors": (*ON_GOOD, "--weights", "out/set/w.safetensors"),
            "s.csv": (*ON_GOOD, "--slices", "out/set/s.csv"),
            "audit.json": ("report", "out/set", "--out", "out/x.html"),
            "result.json": ("report", "out/set", "--out", "out/x.html"),
            "n.py": ("audit", "out/set/n.py:build", *ON_GOOD[2:]),
        }.items():
            where = name if target == "x.npz" else target
            yield Case(f"{name} that is {said}", words=words, prepare=linked(name, where), must_refuse=True, limit=40)
    for said, target in {"itself": "loop", "its parent": ".."}.items():
        yield Case(
            f"a class folder that links to {said}",
            words=(*AUDIT, "--data", "out/set"),
            prepare=linked("loop", target),
            limit=40,
        )
    for name in ("t.jsonl", "t.csv", "t.parquet"):
        yield Case(
            f"a table {name} that is a pipe",
            call=lambda name=name: as_table(f"out/set/{name}"),
            prepare=linked(name, "|"),
            must_refuse=True,
            limit=40,
        )
    yield Case("an image folder of 300 folders in each other", call=_deep_folders, limit=40)


def _deep_folders() -> None:
    Path("out").mkdir()
    os.chdir("out")
    for _ in range(300):
        os.mkdir("d" * 20)
        os.chdir("d" * 20)
    try:
        read_images("d")
    except TutelageError:
        os.chdir("/")
        raise


# numbers


def not_numbers() -> Iterator[Case]:
    """NaN and infinity wherever a number can stand."""
    nan = np.full((12, 8, 8), np.nan, np.float32)
    labels = np.arange(12) % 3
    for said, arrays in {
        "images of NaN": {"image": nan, "label": labels},
        "labels of NaN": {"image": _grey(), "label": np.full(12, np.nan)},
        "labels of infinity": {"image": _grey(), "label": np.full(12, np.inf)},
        "labels of 2^62": {"image": _grey(), "label": np.full(12, 2**62)},
        "labels below 0": {"image": _grey(), "label": np.full(12, -(2**62))},
    }.items():
        yield _read("images in .npz", _npz(**arrays), said)
        yield _read("a shifted set", _npz(**arrays), said)
    yield _read("slices in .csv", b"age\n" + b"nan\n" * 12, "numbers of NaN", must_refuse=False)
    yield _read(
        "slices in .csv",
        b"age\n" + b"\n".join(b"%de400" % i for i in range(12)),
        "numbers beyond all floats",
        must_refuse=False,
    )
    for name in ("observations", "actions", "rewards"):
        good = dict(np.load(io.BytesIO(_offline())))
        good[name] = good[name] * np.float32("nan")
        yield _read("logged decisions in .npz", _npz(**good), f"{name} of NaN")
    for kind, keep in (
        ("a saved audit", "seconds"),
        ("the result of a claim", "seconds"),
        ("an audit to compare with", "seconds"),
    ):
        file = {
            "a saved audit": "saved/audit.json",
            "the result of a claim": "result/result.json",
            "an audit to compare with": "saved2/audit.json",
        }[kind]
        value = _numbers(json.loads(_audits()[file]), keep)
        yield _read(kind, json.dumps(value).encode(), "NaN for every number", must_refuse=False)


def _offline() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        return READERS["logged decisions in .npz"].write(Path(scratch)).read_bytes()


def _numbers(value: Any, keep: str) -> Any:
    if isinstance(value, dict):
        return {key: one if key == keep else _numbers(one, keep) for key, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one, keep) for one in value]
    return float("nan") if isinstance(value, float) else value


def policies() -> Iterator[Case]:
    """YAML of the gate, where there is one: tags that make objects, aliases that grow, links, no policy at all."""
    if "gate" not in commands():
        return
    growing = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{c}: &{c} [{','.join(['*' + b] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for said, text in {
        "a tag of Python": "!!python/object/apply:os.system ['touch PWNED']",
        "aliases that grow": growing,
        "a tag in a value": "version: 1\nchecks: !!python/name:os.system",
        "deep brackets": "[" * 50_000,
        "bytes": "\0\1\2",
        "nothing": "",
        "a number": "3",
        "a list": "- 1\n- 2\n",
        "NaN": "checks: .nan\n",
        "no end": "checks: {a: [1, 2\n",
        "the same key twice": "checks: []\nchecks: []\n",
        "a date": "checks: 2001-01-01\n",
        "itself": "a: &a [*a]\n",
    }.items():
        yield Case(
            f"a policy of {said}",
            words=("gate", "given/policy.yaml", "--out", "out/gate"),
            files={"policy.yaml": text.encode()},
            also=(1,),
            must_refuse=True,
            limit=60,
        )


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "pickles, with code inside": pickles,
    "bombs, and headers that lie": bombs,
    "archives with paths that lead out": archives,
    "links in circles, devices, pipes": links,
    "NaN and infinity everywhere": not_numbers,
    "HTML and scripts in names and results": pages,
    "policies of the gate": policies,
}
