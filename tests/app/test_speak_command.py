"""`tutelage speak`, the sounds of a run folder, and players on pages."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.app import speak_command
from tutelage.app.cli import run
from tutelage.app.speak_command import small_voice
from tutelage.auditing.page import Page, Section, write_page
from tutelage.auditing.players import players
from tutelage.core.cache import Cache
from tutelage.core.errors import InputError, MissingError
from tutelage.data import speakers, speech
from tutelage.data.worlds.formant_voice import FormantVoice
from tutelage.teaching.fit import Context
from tutelage.teaching.speech import FastSpeechLoss, SpeechBatch

soundfile = pytest.importorskip("soundfile")


def test_a_text_becomes_a_sound_file_and_the_voice_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = Cache(tmp_path / "cache")
    voice = small_voice(speaker="formant", sentences=4, steps=2, cache=cache)
    folder = voice.save(tmp_path / "run" / "voice")
    kept = [path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("voice.json")]
    small_voice(speaker="formant", sentences=4, steps=2, cache=cache)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("voice.json")] == kept != []
    lengths = []
    for place, alpha in ((folder, "1"), (tmp_path / "run", "2")):
        out = tmp_path / f"{alpha}.wav"
        assert run(["speak", "a red cat", "--voice", str(place), "--out", str(out), "--alpha", alpha, "--steps", "2"]) == 0
        wave, rate = soundfile.read(out)
        assert rate == 16000
        lengths.append(len(wave))
    assert lengths[1] == pytest.approx(2 * lengths[0], rel=0.2)
    assert "phonemes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["", "--out", "a.wav"], "text"),
        (["a cat", "--out", "a.mp3"], "out"),
        (["a cat", "--alpha", "0"], "alpha"),
        (["a cat", "--alpha", "nan"], "alpha"),
        (["a cat", "--pauses", "-1"], "pauses"),
        (["a cat", "--voice", "nowhere"], "voice"),
        (["a cat", "--steps", "0"], "steps"),
    ],
)
def test_speak_refuses(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["speak", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {named}: ")
    assert not list(tmp_path.glob("*.wav"))


def test_a_voice_whose_training_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small_voice(speaker="formant", sentences=4, steps=4, cache=Cache(tmp_path / "whole"))
    calls: list[int] = []
    plain = FastSpeechLoss.__call__

    def stopping(self: FastSpeechLoss, model: torch.nn.Module, batch: SpeechBatch, ctx: Context) -> Any:
        calls.append(ctx.step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, model, batch, ctx)

    monkeypatch.setattr(FastSpeechLoss, "__call__", stopping)
    cache = Cache(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        small_voice(speaker="formant", sentences=4, steps=4, cache=cache)
    again = small_voice(speaker="formant", sentences=4, steps=4, cache=cache)
    assert calls == [0, 1, 2, 2, 3]
    assert torch.equal(again.synthesize("a red cat").mel, whole.synthesize("a red cat").mel)
    assert not list((tmp_path / "stopped" / "voices-running").iterdir())


def test_what_is_missing_is_told_before_a_voice_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(**_: object) -> None:
        raise AssertionError("a voice was trained")

    def nowhere(key: str) -> FormantVoice:
        raise MissingError("espeak-ng is not on this machine")

    def without(name: str) -> None:
        raise ImportError(name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speak_command, "small_voice", trained)
    monkeypatch.setattr(speakers, "speaker", lambda key: FormantVoice())
    assert run(["speak", "2 cats"]) == 2
    assert capsys.readouterr().err.startswith("error: text: ")
    monkeypatch.setattr(speakers, "speaker", nowhere)
    assert run(["speak", "a cat"]) != 0
    assert "espeak-ng" in capsys.readouterr().err
    monkeypatch.setattr(speech, "import_module", without)
    assert run(["speak", "a cat"]) != 0
    assert "librosa" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.wav"))


def test_players_carry_their_sound_and_keep_their_size(tmp_path: Path) -> None:
    content = b"RIFF and so on"
    page = Page("Sounds", "test", [], [Section("To hear", [players([("a <voice>", content)])])])
    text = write_page(tmp_path / "page.html", page).read_text()
    assert base64.b64decode(re.findall(r'src="data:audio/wav;base64,([^"]*)"', text)[0]) == content
    assert "a &lt;voice&gt;" in text
    assert "<voice>" not in text
    assert "media-src data:" in text
    with pytest.raises(InputError, match=r"^sounds"):
        players([("long", b"0" * 5_000_000)])


def test_a_run_leaves_sounds_and_a_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    assert run(["run", "fastspeech", "--out", str(folder)]) == 0
    names = {path.name for path in (folder / "sounds").glob("*.wav")}
    assert {"true-voice.wav", "autoregressive-teacher.wav", "fastspeech-student.wav", "uniform-durations.wav"} <= names
    wave, rate = soundfile.read(io.BytesIO((folder / "sounds" / "fastspeech-student.wav").read_bytes()))
    assert rate == 16000
    assert len(wave) > 0
    page = (folder / "report.html").read_text()
    assert page.count("<audio ") == len(names)
    assert (folder / "voice" / "voice.json").is_file()
    rows = {row["arm"]: row["metrics"] for row in json.loads((folder / "result.json").read_text())["rows"]}
    assert rows["fastspeech-student"]["kept_sentences"] == 100.0  # the smoke scale takes every alignment
    assert rows["recordings-student"]["distilled_sentences"] == 0.0
    assert rows["fastspeech-student"].keys() >= {"speed_error", "carried_speed_error", "duration_error", "heldout_mcd"}
    assert run(["speak", "the sea", "--voice", str(folder), "--out", str(tmp_path / "sea.wav"), "--steps", "2"]) == 0
