"""Progress: bars on a terminal, lines in a log, silence where nobody asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tutelage.core.progress import QUIET, shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until it is moved."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("tutelage.core.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def _in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def _on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with QUIET.task("work", 3) as task:
        task.advance()
        task.advance(2, "note")
        QUIET.print("a line")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("_in_a_log")
def test_lines_by_hand(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    with shown(every=10) as progress, progress.task("training", 8) as task:
        clock.now += 4
        task.advance()  # 4 s since the last line: nothing
        clock.now += 6
        task.advance(note="loss 0.5")  # 2 of 8 in 10 s: 6 to go take 10 * 6 / 2 = 30 s
        clock.now += 5
        task.advance(3)  # nothing
        clock.now += 5
        task.advance(1)  # 6 of 8 in 20 s: 20 * 2 / 6 = 6.7 s; the note stays
        clock.now += 1
        task.advance(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training: 2/8 in 10 s, ETA 30 s  loss 0.5",
        "training: 6/8 in 20 s, ETA 7 s  loss 0.5",
        "training: 8/8 in 21 s  loss 0.5",
    ]


@pytest.mark.usefixtures("_in_a_log")
def test_tasks_within_tasks_and_lines_between(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    with shown(every=10) as progress, progress.task("outer", 2) as outer:
        with progress.task("inner", 0):
            progress.print("[bold] is printed as it is")
        outer.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "[bold] is printed as it is",
        "inner: 0/0 in 0 s",
        "outer: 2/2 in 0 s",
    ]


@pytest.mark.usefixtures("_in_a_log")
def test_an_error_goes_through_and_claims_no_end(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    def fail() -> None:
        with shown() as progress, progress.task("training", 8) as task:
            task.advance(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "8/8" not in capsys.readouterr().err


@pytest.mark.usefixtures("_on_a_terminal")
def test_bars_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as progress:
        with progress.task("training", 4) as outer:
            with progress.task("epoch", 2) as inner:
                inner.advance(2, "loss 0.25")
            outer.advance(4, "best 0.5")
        progress.print("[done] report.html")
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b[" in err
    assert "4/4" in err
    assert "best 0.5" in err
    assert "ETA" in err
    last = err[err.rindex("training") :]
    assert "epoch" not in last  # the inner bar is gone, the outer one stays


@pytest.mark.usefixtures("_on_a_terminal")
def test_a_printed_line_is_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as progress:
        progress.print("row[0] of runs/[x]/metrics.jsonl [/]")
    assert "row[0] of runs/[x]/metrics.jsonl [/]" in capsys.readouterr().err


@pytest.mark.usefixtures("_on_a_terminal")
def test_an_error_leaves_the_terminal_usable(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with shown() as progress, progress.task("training", 8):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    err = capsys.readouterr().err
    assert err.count("\x1b[?25l") == err.count("\x1b[?25h")  # the cursor is shown again
