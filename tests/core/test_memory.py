"""`core.memory`: freed memory is kept where that can be told, and never against the user's own settings."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from tutelage.app import cli
from tutelage.core import memory


class Libc:
    """A C library that notes what it is told; it takes sizes of blocks up to `most`."""

    def __init__(self) -> None:
        self.most = 2**31 - 1
        self.told: list[tuple[int, int]] = []

    def mallopt(self, what: int, value: int) -> int:
        self.told.append((what, value))
        return int(what != -3 or value <= self.most)


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Libc:
    """glibc on Linux without the user's own settings, wherever the test runs."""
    found = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: found)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    for name in list(os.environ):
        if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES":
            monkeypatch.delenv(name)
    return found


def test_neither_large_blocks_nor_the_top_of_the_heap_are_handed_back(libc: Libc) -> None:
    assert memory.keep_memory()
    assert sorted(libc.told) == [(-3, 2**30), (-1, 2**30)]  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h


@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_users_own_settings_stand(libc: Libc, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    assert not memory.keep_memory()
    assert libc.told == []


def test_other_systems_are_left_alone(libc: Libc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_memory()
    assert libc.told == []


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_other_c_libraries_are_left_alone(libc: Libc, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def unknown(name: str) -> str:
        raise error(name)

    monkeypatch.setattr(os, "confstr", unknown)
    assert not memory.keep_memory()
    assert libc.told == []


def test_an_older_library_keeps_the_largest_blocks_that_it_can(libc: Libc) -> None:
    libc.most = 2**25
    assert memory.keep_memory()
    assert libc.told == [(-3, 2**30), (-3, 2**25), (-1, 2**30)]


def test_a_library_that_refuses_is_not_said_to_keep(libc: Libc) -> None:
    libc.most = 0
    assert not memory.keep_memory()


def test_the_command_keeps_its_memory(libc: Libc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tutelage", "no-such-command"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert len(libc.told) == 2
