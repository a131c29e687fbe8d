"""Speech with known phonemes: the formant voice, espeak-ng, spectrograms and back, sentences, LJSpeech folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.core.errors import InputError, MissingError
from tutelage.data.espeak import _joined, espeak, has_espeak, plain_phoneme
from tutelage.data.homes import ESPEAK_LIBRARY, HOMES
from tutelage.data.sentences import HARD, drawn_hard, hard_sentences, plain_sentences, wordnet_sentences
from tutelage.data.speakers import speaker
from tutelage.data.spectrogram import MelConfig, mel_frames, sound
from tutelage.data.spoken import Spoken
from tutelage.data.utterances import Symbols, Utterance, frame_durations, read_ljspeech, spoken_corpus, spoken_utterance
from tutelage.data.worlds.formant_voice import FormantVoice

REAL = espeak() if has_espeak() else None  # looked for before the tests get a cache of their own
SMALL = MelConfig(16000, bands=20, hop=200, window=1024)


# The formant voice


def test_formant_voice_is_the_same_every_time_and_times_are_exact() -> None:
    voice = FormantVoice()
    said, again = voice.speak("the old cat"), voice.speak("A cat. The old cat")
    assert said.phonemes == tuple("the_old_cat")
    assert said.starts[0] == 0
    assert list(said.starts) == sorted(said.starts)
    assert np.array_equal(said.wave, voice.speak("the old cat").wave)
    assert np.array_equal(again.wave[-2000:], said.wave[-2000:])  # what comes before does not reach that far
    pause = said.starts[3], said.starts[4]
    assert not said.wave[pause[0] : pause[1]].any()
    assert pause[1] - pause[0] == 0.08 * 16000
    assert abs(said.wave[: said.starts[1]]).max() > 0.02
    everything = voice.speak("abcdefghijklmnopqrstuvwxyz")
    assert abs(everything.wave).max() <= 1  # a wav file would clip it


@pytest.mark.parametrize("text", ["", "  ", "...", "7 cats", "caf\u00e9"])
def test_formant_voice_refuses(text: str) -> None:
    with pytest.raises(InputError, match=r"^text"):
        FormantVoice().speak(text)


# Spectrograms


def test_a_tone_is_heard_in_its_band_and_silence_is_the_floor() -> None:
    time = np.arange(16000) / 16000
    mel = mel_frames(0.5 * np.sin(2 * np.pi * 1000 * time), 16000, SMALL)
    assert mel.shape == (80, 20)
    centres = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 22)[1:-1]  # the mel scale of HTK, near librosa's own
    near = int(abs(centres - 2595 * np.log10(1 + 1000 / 700)).argmin())
    assert abs(int(mel.mean(0).argmax()) - near) <= 1
    silent = mel_frames(np.zeros(3000), 16000, SMALL)
    assert silent.shape == (15, 20)
    assert torch.allclose(silent, torch.tensor((20 * -4 + 50) / 25))  # 1e-4 in decibels, minus the middle, over the spread


def test_griffin_and_lim_give_back_what_was_heard() -> None:
    said = FormantVoice().speak("my voice")
    mel = mel_frames(said.wave, 16000)
    wave = sound(mel, steps=12)
    assert len(wave) == len(mel) * 200
    assert abs(wave).max() <= 1
    again = mel_frames(wave, 16000)
    loud = mel > 0
    assert float((again - mel)[loud].abs().mean()) < 0.12  # three decibels


@pytest.mark.parametrize(
    ("argument", "wave", "rate"),
    [
        ("rate", np.zeros(100), 22050),
        ("wave", np.zeros((2, 100)), 16000),
        ("wave", np.zeros(0), 16000),
        ("wave", np.full(100, np.nan), 16000),
    ],
)
def test_spectrograms_refuse(argument: str, wave: np.ndarray, rate: int) -> None:
    with pytest.raises(InputError, match=f"^{argument}"):
        mel_frames(wave, rate)


def test_sound_refuses_and_configs_are_checked() -> None:
    with pytest.raises(InputError, match=r"^mel"):
        sound(torch.zeros(4, 7))
    with pytest.raises(InputError, match=r"^mel"):
        sound(torch.full((4, 40), torch.nan))
    with pytest.raises(InputError, match=r"^hop"):
        MelConfig(hop=2000)


# Utterances


def test_durations_are_the_nearest_frames_and_sum_to_all() -> None:
    said = Spoken(np.zeros(1000, np.float32), 16000, ("a", "b", "c"), (0, 299, 301))
    # starts at frames 0, 1.495 and 1.505 of hop 200
    assert frame_durations(said, 5, SMALL).tolist() == [1, 1, 3]
    one = spoken_utterance(FormantVoice(), "the old cat", SMALL)
    assert one.durations is not None
    assert int(one.durations.sum()) == len(one.mel)
    other = Spoken(np.zeros(2000, np.float32), 32000, ("a", "b"), (0, 600))  # another rate, the same seconds
    assert frame_durations(other, 5, SMALL).tolist() == [2, 3]


def test_symbols_encode_and_refuse() -> None:
    symbols = Symbols(("_", "a", "b"))
    assert len(symbols) == 4
    assert symbols.encode(("b", "_")).tolist() == [3, 1]
    assert symbols.decode(torch.tensor([3, 1])) == ("b", "_")
    assert Symbols.of([Utterance("", ("b", "a"), torch.zeros(1, 1))]).names == ("a", "b")
    for phonemes in ((), ("a", "x")):
        with pytest.raises(InputError, match=r"^text"):
            symbols.encode(phonemes)
    with pytest.raises(InputError, match=r"^names"):
        Symbols(("a", "a"))


def test_a_corpus_knows_its_length_and_content() -> None:
    two = spoken_corpus(FormantVoice(), ["a cat", "the dog"], SMALL)
    assert two.seconds == pytest.approx(sum(len(one.mel) for one in two.utterances) * 0.0125)
    assert two.sha256 == spoken_corpus(FormantVoice(), ["a cat", "the dog"], SMALL).sha256
    assert two.sha256 != spoken_corpus(FormantVoice(), ["a cat", "the fox"], SMALL).sha256


# Sentences


def test_fifty_hard_sentences_of_five_kinds() -> None:
    assert len(set(hard_sentences())) == 50
    assert {len(texts) for texts in HARD.values()} == {10}
    assert all(len(text.split()) >= 30 for text in HARD["long"])
    drawn = drawn_hard(40, seed=1)
    assert len(drawn) == 40
    bare = [{re.sub(r"[^a-z0-9]", "", text.lower()) for text in texts} for texts in (drawn_hard(500), hard_sentences())]
    assert not bare[0] & bare[1]  # "no no no" is spoken as "No, no, no"
    assert drawn == drawn_hard(40, seed=1) != drawn_hard(40, seed=2)
    assert len(set(plain_sentences(30))) == 30


def test_examples_of_wordnet(tmp_path: Path) -> None:
    (tmp_path / "dict").mkdir()
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / "dict" / f"data.{part}").write_text(
            f'00 n | a gloss; "the old {part} sat"; "two words"; "born in 1850 in Rome"\n01 | an "open quote\n',
            encoding="utf-8",
        )
    assert sorted(wordnet_sentences(tmp_path)) == [f"the old {part} sat" for part in ("adj", "adv", "noun", "verb")]
    with pytest.raises(InputError, match=r"^folder"):
        wordnet_sentences(tmp_path / "dict")


# espeak-ng


def test_names_of_phonemes_are_plain() -> None:
    assert [plain_phoneme(name) for name in ("'oU", ",aI", "t2", "I#", "@-", "_:", "", "3:", "?")] == [
        "oU", "aI", "t", "I", "@", "_", "_", "3:", "?",
    ]  # fmt: skip
    events = [("_:", 0), ("h", 20), ("@2", 50), ("_", 90), ("_:", 90), ("_", 120)]
    assert _joined(events, 150) == (("_", "h", "@", "_"), (0, 20, 50, 90))


def test_without_espeak_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    espeak.cache_clear()
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    monkeypatch.setattr("tutelage.data.espeak.ctypes.util.find_library", lambda name: None)
    with pytest.raises(MissingError, match="tutelage data get espeak-ng"):
        espeak()
    assert not has_espeak()
    monkeypatch.setattr("tutelage.data.espeak.ctypes.util.find_library", lambda name: str(tmp_path / "none.so"))
    with pytest.raises(MissingError, match="cannot be loaded"):
        espeak()
    with pytest.raises(InputError, match=r"^speaker"):
        speaker("someone")
    espeak.cache_clear()


def test_the_home_of_espeak_has_a_library_and_the_voices() -> None:
    names = [file.name for file in HOMES["espeak-ng"].files]
    assert names[0] == ESPEAK_LIBRARY
    assert "espeak-ng-data/phontab" in names


@pytest.mark.skipif(REAL is None, reason="espeak-ng is not here: tutelage data get espeak-ng")
def test_espeak_speaks_with_times() -> None:
    voice = REAL
    assert voice is not None
    said = voice.speak("Hello, world")
    assert said.phonemes[:2] == ("h", "@")
    assert "_" in said.phonemes  # the comma
    assert list(said.starts) == sorted(set(said.starts))
    assert said.starts[-1] < len(said.wave)
    comma = said.phonemes.index("_")
    pause = said.wave[said.starts[comma] + 400 : said.starts[comma + 1] - 400]
    assert abs(pause).mean() < 0.05 * abs(said.wave).mean()
    for text in ("", "  ", "..."):
        with pytest.raises(InputError, match=r"^text"):
            voice.speak(text)


# LJSpeech


def wav_folder(folder: Path, rate: int = 16000) -> Path:
    soundfile = pytest.importorskip("soundfile")
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for name, text in (("LJ-1", "The old cat"), ("LJ-2", "A dog")):
        soundfile.write(folder / "wavs" / f"{name}.wav", FormantVoice().speak(text).wave, rate)
        lines.append(f"{name}|{text.upper()}|{text.lower()}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_folder_in_the_form_of_ljspeech(tmp_path: Path) -> None:
    folder = wav_folder(tmp_path / "lj")
    found = read_ljspeech(folder, FormantVoice(), SMALL)
    assert [one.text for one in found.utterances] == ["the old cat", "a dog"]
    direct = spoken_utterance(FormantVoice(), "the old cat", SMALL)
    assert found.utterances[0].phonemes == direct.phonemes
    assert found.utterances[0].durations is None
    loud = direct.mel > 0  # 16 bits of the file add noise below
    torch.testing.assert_close(found.utterances[0].mel[loud], direct.mel[loud], atol=0.02, rtol=0)
    assert read_ljspeech(folder, FormantVoice(), limit=1).mel == MelConfig(16000, 80, 256, 1024)
    other = MelConfig(22050, 20, 256, 1024)
    with pytest.raises(InputError, match=r"^rate: got 16000 Hz"):
        read_ljspeech(folder, FormantVoice(), other)
    louder = read_ljspeech(folder, FormantVoice(), other, resample=True)
    assert len(louder.utterances[0].mel) == pytest.approx(len(direct.mel) * 200 / 16000 * 22050 / 256, abs=1)


def test_faults_of_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="LJSpeech"):
        read_ljspeech(tmp_path / "none", FormantVoice())
    with pytest.raises(InputError, match=r"^data"):
        read_ljspeech(tmp_path, FormantVoice())
    folder = wav_folder(tmp_path / "lj")
    (folder / "wavs" / "LJ-2.wav").unlink()
    with pytest.raises(MissingError, match="LJ-2"):
        read_ljspeech(folder, FormantVoice())
    (folder / "metadata.csv").write_text("LJ-1\n")
    with pytest.raises(InputError, match=r"^data"):
        read_ljspeech(folder, FormantVoice())
    (folder / "metadata.csv").unlink()
    (folder / "part.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match="damaged"):
        read_ljspeech(folder, FormantVoice())


@pytest.mark.skipif(
    not (Path(os.environ.get("TUTELAGE_DATA", "/nowhere")).expanduser() / "ljspeech-32").is_dir(),
    reason="needs ljspeech-32 in $TUTELAGE_DATA (https://keithito.com/LJ-Speech-Dataset/)",
)
def test_real_recordings_are_read() -> None:
    class Letters:
        name = "letters"

        def speak(self, text: str) -> Spoken:
            letters = tuple(one for one in text.lower() if one.isalpha())
            return Spoken(np.zeros(1, np.float32), 16000, letters, tuple(range(len(letters))))

    found = read_ljspeech(Path(os.environ["TUTELAGE_DATA"]).expanduser() / "ljspeech-32", Letters(), limit=2)
    assert found.mel.rate == 22050
    assert found.utterances[0].mel.shape == (-(-212893 // 256), 80)
    assert found.utterances[0].text.startswith("Printing, in the only sense")
