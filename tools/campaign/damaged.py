"""Files that are damaged: cut, with other bits, with parts gone, values of other types; and models that misbehave."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cases import Case, drawn
from hypothesis import strategies as st
from lines import fast
from place import ON_GOOD, READERS

DAMAGES = ("cut", "bit", "zeros", "chunk gone", "chunk twice", "noise inside", "noise", "empty", "bytes behind", "another kind")
ODD: list[Any] = [
    None,
    "x",
    -1,
    10**30,
    float("nan"),
    float("inf"),
    [],
    {},
    [[[]]],
    True,
    "<script>alert(1)</script>",
    "\udcff",
]


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, float, float, bytes]:
    """(kind, where, how much, bytes)."""
    share = st.floats(0.0, 1.0, allow_nan=False)
    return draw(st.sampled_from(DAMAGES)), draw(share), draw(share), draw(st.binary(min_size=1, max_size=64))


def damaged(content: bytes, how: tuple[str, float, float, bytes]) -> bytes:
    kind, where, much, noise = how
    at = min(len(content) - 1, int(where * len(content)))
    length = 1 + int(much * min(200, len(content)))
    if kind == "cut":
        return content[:at]
    if kind == "bit":
        return content[:at] + bytes([content[at] ^ (1 << int(7 * much))]) + content[at + 1 :]
    if kind == "zeros":
        return content[:at] + bytes(length) + content[at + length :]
    if kind == "chunk gone":
        return content[:at] + content[at + length :]
    if kind == "chunk twice":
        return content[: at + length] + content[at:]
    if kind == "noise inside":
        return content[:at] + noise + content[at:]
    if kind == "bytes behind":
        return content + noise
    if kind == "another kind":
        return (b"PK\3\4" + bytes(26), b"\x89PNG\r\n\x1a\n", b"\x80\x04K\x01.", b"{}", b"[" * 5000, b"\xff\xfe")[
            int(5.99 * where)
        ]
    return noise if kind == "noise" else b""


def changed_json(content: bytes, where: float, odd: Any, gone: bool) -> bytes:
    """The same JSON with one value replaced or left out."""
    value = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def walk(one: Any) -> None:
        items = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, inner in items:
            places.append((one, key))
            if len(places) < 3000:
                walk(inner)

    walk(value)
    if not places:
        return json.dumps(odd).encode()
    # the first hundred hold the keys of the top; half of the cases hit them
    among = places[:60] if where < 0.5 else places
    inside, key = among[min(len(among) - 1, int((2 * where % 1) * len(among)))]
    if gone:
        del inside[key]
    else:
        inside[key] = odd
    return json.dumps(value).encode()


def damaged_files(per_reader: int, seed: int) -> Iterator[Case]:
    """Every kind of file that is read, damaged in so many ways."""
    for name, reader in READERS.items():
        with tempfile.TemporaryDirectory() as scratch:
            target = reader.write(Path(scratch))
            relative = str(target.relative_to(scratch))
            good = {str(p.relative_to(scratch)): p.read_bytes() for p in Path(scratch).rglob("*") if p.is_file()}
        content = good[relative]
        ways: list[tuple[str, bytes]] = [
            (f"{how[0]} at {how[1]:.3f}, {how[2]:.3f}", damaged(content, how))
            for how in drawn(damages(), per_reader, seed, name)
        ]
        if relative.endswith((".json", ".jsonl")):
            first, *rest = content.split(b"\n", 1) if relative.endswith("l") else [content]
            tail = b"\n" + rest[0] if rest else b""
            odd = st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(ODD), st.booleans())
            for where, value, gone in drawn(odd, per_reader, seed, f"{name} json"):
                said = f"{'without' if gone else repr(value)} at {where:.4f}"
                ways.append((said, changed_json(first, where, value, gone) + tail))
        for how, bad in ways:
            path = f"given/{relative}"
            words = tuple(w.replace("FILE", path).replace("FOLDER", str(Path(path).parent)) for w in reader.words)
            call = (lambda read=reader.call, path=path: read(Path(path))) if reader.call else None
            yield Case(
                f"{name}: {how}",
                words=words,
                call=call,
                files={**good, relative: bad},
                also=(1,),
                prepare=fast,
                writes=reader.writes,
            )


HEAD = "import torch\nfrom torch import nn\n\n"
MODELS = {  # a factory each; the last line of most raises or answers something that is no logits
    "syntax error": "def build(:\n",
    "exits": "import sys\ndef build():\n    sys.exit(7)\n",
    "exits when imported": "raise SystemExit(7)\n",
    "raises an exception of several lines": "def build():\n    raise ValueError('a\\nb\\nc')\n",
    "raises KeyboardInterrupt": "def build():\n    raise KeyboardInterrupt\n",
    "recurses": "def build():\n    return build()\n",
    "returns None": "def build():\n    return None\n",
    "returns a class": "def build():\n    return nn.Linear\n",
    "without parameters": "def build():\n    return nn.Flatten()\n",
    "not a function": "build = 3\n",
    "name that raises": "class X:\n    def __getattr__(self, n):\n        raise OSError(n)\nbuild = X()\n",
    "of no text": "\0\0\0",
    "latin-1": "é".encode("latin-1").decode("latin-1") + " = 1\n",
}
FORWARDS = {
    "raises": "raise RuntimeError('a\\nb')",
    "a list": "return [1, 2]",
    "None": "return None",
    "one number": "return x.sum()",
    "one logit": "return x.flatten(1)[:, :1]",
    "no class": "return x.flatten(1)[:, :0]",
    "another batch": "return x.flatten(1)[:1, :3]",
    "NaN": "return x.flatten(1)[:, :3] * float('nan')",
    "infinity": "return x.flatten(1)[:, :3] / 0",
    "double": "return x.flatten(1)[:, :3].double()",
    "whole numbers": "return x.flatten(1)[:, :3].long()",
    "complex": "return x.flatten(1)[:, :3].to(torch.complex64)",
    "numpy": "return x.detach().flatten(1)[:, :3].numpy()",
    "a view of its input": "x.zero_(); return x.flatten(1)[:, :3]",
    "a random answer": "return torch.randn(len(x), 3)",
    "an exit": "import sys; sys.exit(7)",
    "no memory": "return torch.empty(10**12, 10**3)",
    "an answer that grows": "self.n = getattr(self, 'n', 2) + 1; return x.flatten(1)[:, :self.n]",
    "without a gradient": "return x.detach().flatten(1)[:, :3]",
    "with no_grad": "\n        with torch.no_grad():\n            return x.flatten(1)[:, :3]",
    "in train mode only": "assert self.training; return x.flatten(1)[:, :3]",
}


def odd_models() -> Iterator[Case]:
    """Factories and models that raise, exit, or answer something else."""
    words = ("audit", "given/odd.py:build", *ON_GOOD[2:])
    for name, source in MODELS.items():
        yield Case(
            f"a factory that {name}", words=words, files={"odd.py": (HEAD + source).encode("utf-8", "replace")}, also=(7, 130)
        )
    for name, line in FORWARDS.items():
        source = (
            f"{HEAD}class Net(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.net = nn.Linear(64, 3)\n"
            f"    def forward(self, x):\n        {line}\n\ndef build():\n    return Net()\n"
        )
        yield Case(
            f"a model that gives {name}",
            words=words,
            files={"odd.py": source.encode()},
            also=(7,),
        )
    for name, content in {
        "a pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch PWNED\x85R.",
        "a zip": b"PK\3\4" + bytes(50),
        "nothing": b"",
    }.items():
        for suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors"):
            yield Case(
                f"weights{suffix} that are {name}", words=(*ON_GOOD, "--weights", f"given/w{suffix}"),
                files={f"w{suffix}": content}, must_refuse=True,
            )  # fmt: skip
    for factory in ("given/w.pt", "given/w.pkl:x", "os:system", "os.path:join", "torch:nn", "torch.nn:Linear", "sys:"):
        yield Case(f"factory {factory}", words=("audit", factory, *ON_GOOD[2:]), must_refuse=True, also=(7,))
