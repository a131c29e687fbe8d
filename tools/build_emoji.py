"""Build the bundled emoji set: five drawing styles at 32 px with alpha, names and keywords in English and Chinese.

    pip install resvg_py==0.5.0
    python tools/build_emoji.py [--packages FOLDER]
    python tools/build_emoji.py --sheet             # the picture of docs/emoji.md, from the bundled file

fetches six npm packages (`npm pack`, about 28 MB; with `--packages` the .tgz files that lie in FOLDER are used), checks
their SHA-256, draws every emoji and writes `src/tutelage/data/bundled/emoji.parquet`: one row an emoji, one column of
pixels (RGBA, 4 x 32 x 32 bytes) a style, null where a style lacks the emoji. It takes two minutes.
The same versions of resvg and pyarrow write the same bytes; the hash of the pixels, which is printed too, does not depend on
pyarrow.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ICONS = "@iconify-json/"
# style -> package, version, SHA-256 of the .tgz
STYLES = {
    "noto": ("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "noto-v1": ("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    "fluent-flat": ("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    "fluent-shaded": ("fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"),
    "fluent-high-contrast": (
        "fluent-emoji-high-contrast",
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    ),
}
TEXTS = ("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
RESVG = "0.5.0"
SIZE, TIMES = 32, 4  # pictures are drawn TIMES as large, then averaged over areas
TARGET = Path(__file__).parents[1] / "src/tutelage/data/bundled/emoji.parquet"

# two packages come without a table of code points: their names are those of a sister package
SISTER = {"noto-v1": "noto", "fluent-shaded": "fluent-flat"}
# names that noto-v1 still has and Unicode has changed since
OLD_NAMES = {
    "disappointed-but-relieved-face": "1f625",
    "dizzy-face": "1f635",
    "face-savouring-delicious-food": "1f60b",
    "face-with-cold-sweat": "1f613",
    "face-with-open-mouth-and-cold-sweat": "1f630",
    "face-with-stuck-out-tongue": "1f61b",
    "face-with-stuck-out-tongue-and-closed-eyes": "1f61d",
    "face-with-stuck-out-tongue-and-winking-eye": "1f61c",
    "first-quarter-moon-with-face": "1f31b",
    "full-moon-with-face": "1f31d",
    "hugging-face": "1f917",
    "last-quarter-moon-with-face": "1f31c",
    "left-pointing-magnifying-glass": "1f50d",
    "man-in-business-suit-levitating": "1f574",
    "people-with-bunny-ears-partying": "1f46f",
    "right-pointing-magnifying-glass": "1f50e",
    "smiling-face-with-open-mouth": "1f603",
    "smiling-face-with-open-mouth-and-closed-eyes": "1f606",
    "smiling-face-with-open-mouth-and-cold-sweat": "1f605",
    "smiling-face-with-open-mouth-and-smiling-eyes": "1f604",
}
# code points that only say who does it, or which way it faces: man, woman, person, boy, girl, child, the signs, the arrow
WHO = {"1f468", "1f469", "1f9d1", "1f466", "1f467", "1f9d2", "2640", "2642", "27a1"}
PERSONS = ({"1f468", "1f469", "1f9d1"}, {"1f466", "1f467", "1f9d2"}, {"1f474", "1f475", "1f9d3"})


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the bundled emoji set.")
    parser.add_argument("--packages", type=Path, help="a folder with the .tgz files; default: fetch them with npm")
    parser.add_argument("--sheet", action="store_true", help="only draw docs/images/emoji.png from the bundled file")
    arguments = parser.parse_args()
    if arguments.sheet:
        return sheet()
    given = arguments.packages
    with tempfile.TemporaryDirectory() as scratch:
        folder = given or Path(scratch)
        icons = {
            style: read_package(folder, ICONS + name, version, sha, ("icons.json", "chars.json"), given is None)
            for style, (name, version, sha) in STYLES.items()
        }
        texts = read_package(folder, *TEXTS, ("en/data.json", "zh/data.json", "meta/groups.json"), given is None)
    rows = table(texts)
    pictures = {style: draw_style(style, icons, rows) for style in STYLES}
    rows = {code: row for code, row in rows.items() if any(code in drawn for drawn in pictures.values())}
    add_families(rows, pictures)
    write(rows, pictures)


# Packages


def read_package(folder: Path, name: str, version: str, sha256: str, files: Iterable[str], fetch: bool) -> dict[str, Any]:
    """The JSON files of one npm package, whose hash is checked before anything in it is read."""
    path = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if fetch:
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    if not path.is_file():
        sys.exit(f"{path} is not there")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        sys.exit(f"{path} is not {name} {version} (its SHA-256 differs)")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for file in files:
            member = archive.extractfile(f"package/{file}")
            if member is None:
                sys.exit(f"{path} has no {file}")
            found[file] = json.load(member)
    return found


def plain(code: str) -> str:
    """A code point sequence in small letters, without the variation selector that some packages write and others do not."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def table(texts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Code points -> names, keywords, group, subgroup. Skin tones (variants of an emoji, and swatches) are left out."""
    groups = texts["meta/groups.json"]
    chinese = {one["hexcode"]: one for one in texts["zh/data.json"]}
    rows = {}
    for one in sorted(texts["en/data.json"], key=lambda one: one.get("order", 0)):
        # regional indicators have no group; components are skin tones and hair without a head
        if "group" not in one or groups["groups"][str(one["group"])] == "component":
            continue
        other = chinese[one["hexcode"]]
        rows[plain(one["hexcode"])] = {
            "hexcode": one["hexcode"],
            "group": groups["groups"][str(one["group"])],
            "subgroup": groups["subgroups"][str(one["subgroup"])],
            "name_en": one["label"],
            "name_zh": other["label"],
            "keywords_en": one.get("tags", []),
            "keywords_zh": other.get("tags", []),
        }
    return rows


def slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def icon_names(style: str, icons: dict[str, Any], rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Code points -> name of the icon: by the package's own table, its sister's, an old name, the slug of the English name."""
    own = icons[style]["icons.json"]
    known = own["icons"].keys() | own.get("aliases", {}).keys()
    sister = icons[SISTER.get(style, style)]
    by_name = {name: plain(code) for code, name in sister["chars.json"].items()}
    by_name |= {
        alias: by_name[parent]
        for alias in sister["icons.json"].get("aliases", {})
        if alias not in by_name
        and (parent := resolve(sister["icons.json"], alias)[0]) in by_name
        and not resolve(sister["icons.json"], alias)[1]
    }
    by_name |= {slug(row["name_en"]): code for code, row in rows.items() if slug(row["name_en"]) in known}
    if style == "noto-v1":
        by_name |= OLD_NAMES | {
            f"flag-for-{slug(row['name_en'].removeprefix('flag: '))}": code
            for code, row in rows.items()
            if row["subgroup"] == "country-flag"
        }
    names: dict[str, str] = {}
    for name in sorted(known & by_name.keys(), key=lambda name: (name in own.get("aliases", {}), name)):
        if by_name[name] in rows:
            names.setdefault(by_name[name], name)
    return names


def resolve(package: dict[str, Any], name: str) -> tuple[str, bool]:
    """(the icon that a name stands for, whether it is mirrored)."""
    mirrored = False
    while name in package.get("aliases", {}):
        alias = package["aliases"][name]
        if alias.keys() - {"parent", "hFlip"}:
            sys.exit(f"alias {name} turns its icon, which this script cannot")
        mirrored ^= alias.get("hFlip", False)
        name = alias["parent"]
    return name, mirrored


# Pictures


def draw_style(style: str, icons: dict[str, Any], rows: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Code points -> RGBA (32, 32, 4) uint8, straight alpha."""
    package = icons[style]["icons.json"]
    drawn = {}
    for code, name in icon_names(style, icons, rows).items():
        parent, mirrored = resolve(package, name)
        icon = package["icons"][parent]
        width, height = (icon.get(side, package.get(side, 16)) for side in ("width", "height"))
        picture = draw(icon["body"], width, height)
        drawn[code] = picture[:, ::-1] if mirrored else picture
    print(f"{style}: {len(drawn)} emoji", flush=True)
    return drawn


def draw(body: str, width: float, height: float) -> np.ndarray:
    """One icon, 32 x 32: drawn larger, averaged over areas with colours weighted by alpha, so that no edge turns dark."""
    import resvg_py

    if resvg_py.__version__ != RESVG:
        sys.exit(f"resvg_py {resvg_py.__version__} draws other pixels: pip install resvg_py=={RESVG}")
    side = SIZE * TIMES
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{side}" height="{side}" viewBox="0 0 {width} {height}">{body}</svg>'
    )
    content = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    large = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"), np.float64)
    alpha = large[..., 3:]
    # whole numbers below 2^53: the sums are exact, so the result is the same on every machine
    blocks = np.concatenate([large[..., :3] * alpha, alpha], 2).reshape(SIZE, TIMES, SIZE, TIMES, 4).sum((1, 3))
    colour, weight = blocks[..., :3], blocks[..., 3:]
    straight = np.divide(colour, weight, out=np.zeros_like(colour), where=weight > 0)
    result = np.floor(np.concatenate([straight, weight / TIMES**2], 2) + 0.5).astype(np.uint8)
    result[result[..., 3] == 0] = 0  # an invisible pixel has no colour
    return result


# Families: emoji that must not be parted between training and test data


def family(code: str) -> str:
    """The concept behind a sequence: man running, woman running and a person running to the right are one."""
    parts = code.split("-")
    for persons in PERSONS:
        if len(parts) == 1 and parts[0] in persons:
            return min(persons)
    if "200d" not in parts:
        return code
    kept = [part for part in parts if part not in WHO and part != "200d"]
    return "-".join(kept) or "family"


def add_families(rows: dict[str, dict[str, Any]], pictures: dict[str, dict[str, np.ndarray]]) -> None:
    """Give every row its family: the same concept, or the same picture (or its mirror image) in some style."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            key = parent[key]
        return key

    def join(one: str, two: str) -> None:
        low, high = sorted((find(one), find(two)))
        parent[high] = low

    for code in rows:
        join(f"e {code}", f"f {family(code)}")
        for style, drawn in pictures.items():
            if code in drawn:
                picture = drawn[code]
                either = min(picture.tobytes(), picture[:, ::-1].tobytes())
                join(f"e {code}", f"p {style} {hashlib.sha256(either).hexdigest()}")
    first: dict[str, str] = {}
    for code, row in rows.items():
        row["family"] = first.setdefault(find(f"e {code}"), row["hexcode"])


# The file


def write(rows: dict[str, dict[str, Any]], pictures: dict[str, dict[str, np.ndarray]]) -> None:
    columns: dict[str, Any] = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
    digest = hashlib.sha256()
    for style, drawn in pictures.items():
        # planes of one colour after the other, as tensors have them
        pixels = [drawn[code].transpose(2, 0, 1).tobytes() if code in drawn else None for code in rows]
        columns[style] = pa.array(pixels, pa.binary(4 * SIZE * SIZE))
        for one in pixels:
            digest.update(one or b"-")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    part = TARGET.with_suffix(".part")  # a reader sees the old file or the new one
    pq.write_table(
        pa.table(columns),
        part,
        compression="ZSTD",
        compression_level=19,
        # one page a column: pages are packed one by one, and drawings of one style share much
        data_page_size=2**26,
        use_dictionary=["group", "subgroup"],
        write_statistics=False,
        store_schema=False,
    )
    part.replace(TARGET)
    print(f"{len(rows)} emoji, {sum(map(len, pictures.values()))} pictures, SHA-256 of the pixels {digest.hexdigest()}")
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e6:.2f} MB, SHA-256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


# The picture of the page

SHOWN = [
    "1F600",
    "1F60D",
    "1F9D9",
    "1F468-200D-1F680",
    "1F431",
    "1F98B",
    "1F34E",
    "1F355",
    "1F697",
    "1F3E0",
    "26BD",
    "1F3A8",
    "1F4A1",
    "1F511",
    "2764",
    "267B",
    "1F3C1",
]


def sheet() -> None:
    """Styles in rows, on white and on black, pixels enlarged twice."""
    columns = pq.read_table(TARGET).to_pydict()
    plain_codes = [plain(code) for code in columns["hexcode"]]
    rows = [plain_codes.index(plain(code)) for code in SHOWN]
    page = Image.new("RGB", (34 * len(rows), 34 * 2 * len(STYLES)), "white")
    for i, (colour, style) in enumerate((colour, style) for colour in ("white", "black") for style in STYLES):
        strip = Image.new("RGBA", (page.width, 34), colour)
        for j, row in enumerate(rows):
            if columns[style][row] is not None:
                planes = np.frombuffer(columns[style][row], np.uint8).reshape(4, SIZE, SIZE)
                strip.alpha_composite(Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))), (34 * j + 1, 1))
        page.paste(strip.convert("RGB"), (0, 34 * i))
    target = Path(__file__).parents[1] / "docs/images/emoji.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    page.resize((2 * page.width, 2 * page.height), Image.Resampling.NEAREST).save(target, optimize=True)


if __name__ == "__main__":
    main()
