"""Recorded digits: both layouts are read alike, wrong sounds are named, speakers stay apart."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.core.errors import InputError, MissingError
from tutelage.data import av_digits as module
from tutelage.data.av_digits import Voices, av_digits, roles
from tutelage.data.images import ImageSet
from tutelage.data.sets import DIGITS
from tutelage.data.speech import FSDD_SPEAKERS, decode, fsdd, log_mel

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")
pytest.importorskip("librosa", reason="needs the extra audio")


def tone(hertz: float, seconds: float = 0.5, rate: int = 8000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav(wave: np.ndarray, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def test_a_tone_lights_up_its_own_band_and_silence_none():
    low, high = log_mel(tone(300), 8000), log_mel(tone(2500), 8000)
    assert low.shape == (32, 32)
    assert float(low.max()) == float(high.max()) == 1.0
    assert float(low.min()) == 0.0
    assert int(low[:, 16].argmax()) < int(high[:, 16].argmax()) - 8
    assert float(low[:, 0].max()) == 0.0, "half a second in the middle of 0.8: silence before it"
    assert float(log_mel(np.zeros(4000, np.float32), 8000).abs().max()) == 0.0
    quiet = log_mel(0.01 * tone(300), 8000)
    assert torch.allclose(quiet, low, atol=1e-3), "loudness is taken off"


def test_long_recordings_are_cut_in_the_middle():
    wave = np.concatenate([tone(300, 1.0), tone(2500, 0.8), tone(300, 1.0)])
    middle = log_mel(wave, 8000)
    assert int(middle[:, 16].argmax()) == int(log_mel(tone(2500, 0.8), 8000)[:, 16].argmax())


def test_wrong_sounds_are_named():
    with pytest.raises(InputError, match=r"16000 Hz.*8000 Hz"):
        log_mel(tone(300), 16000, expected_rate=8000)
    with pytest.raises(InputError, match="one channel"):
        log_mel(np.zeros((2, 100), np.float32), 8000)
    with pytest.raises(InputError, match="one channel"):
        log_mel(np.array([np.nan], np.float32), 8000)
    with pytest.raises(InputError, match="no sound file"):
        decode(b"not a sound")
    wave, rate = decode(wav(np.stack([tone(300), -tone(300)], 1)))
    assert rate == 8000
    assert float(np.abs(wave).max()) < 1e-6


def test_both_layouts_of_the_set_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    takes = {"1_theo_0": tone(400), "0_theo_1": tone(300), "0_jackson_0": tone(200)}
    folder = tmp_path / "wavs" / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for name, wave in takes.items():
        (folder / f"{name}.wav").write_bytes(wav(wave))
    tables = tmp_path / "parquet" / "fsdd"
    tables.mkdir(parents=True)
    rows = [
        {"audio": {"bytes": wav(wave), "path": f"{name}.wav"}, "label": int(name[0]), "speaker": name.split("_")[1],
         "index": int(name[-1])}
        for name, wave in takes.items()
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tables / "train.parquet")
    found = []
    for place in ("wavs", "parquet"):
        monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / place))
        found.append(fsdd())
    for one in found:
        assert one.labels.tolist() == [0, 0, 1]
        assert [one.names[i] for i in one.speakers] == ["jackson", "theo", "theo"]
        assert one.rate == 8000
    assert all(np.array_equal(a, b) for a, b in zip(found[0].waves, found[1].waves, strict=True))
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "wavs"))
    (folder / "2_theo_0.wav").write_bytes(wav(tone(200, rate=16000), 16000))
    with pytest.raises(InputError, match="one sample rate"):
        fsdd()
    (folder / "2_theo_0.wav").rename(folder / "two.wav")
    with pytest.raises(InputError, match="digit_speaker_take"):
        fsdd()


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    with pytest.raises(MissingError, match=r"TUTELAGE_DATA is not set.*free-spoken-digit"):
        fsdd()
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    with pytest.raises(MissingError, match="is not there"):
        fsdd()
    (tmp_path / "fsdd").mkdir()
    with pytest.raises(MissingError, match="no Parquet file and no recordings"):
        fsdd()


def test_every_speaker_takes_every_role_and_none_takes_two():
    heard = set()
    for unit in range(6):
        parts = roles(unit)
        people = [one for part in parts.values() for one in part]
        assert sorted(people) == list(range(6))
        heard |= {(one, role) for role, part in parts.items() for one in part}
    assert len(heard) == 18
    with pytest.raises(InputError, match="unit"):
        roles(-2)


def test_pairs_have_one_class_and_splits_share_no_voice_and_no_picture(monkeypatch: pytest.MonkeyPatch):
    g = torch.Generator().manual_seed(0)
    sounds = Voices(torch.rand(600, 1, 32, 32, generator=g), torch.arange(600) % 10, torch.arange(600) // 100, "0" * 64)
    sounds.spectrograms[:, 0, 0, 0] = sounds.labels / 10
    monkeypatch.setattr(module, "voices", lambda cache=None: sounds)

    def pictures(name: str, split: str) -> ImageSet:
        images = torch.randint(
            0, 256, (10_000, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(len(split))
        )
        return ImageSet(images, torch.arange(10_000) % 10, DIGITS, name=name, split=split)

    monkeypatch.setattr(module, "standard_set", pictures)
    parts = {split: av_digits(split, 300, unit=2) for split in ("train", "validation", "test")}
    for split, part in parts.items():
        assert torch.allclose(part.inputs["audio"][:, 0, 0, 0], part.labels / 10)
        assert part.groups is not None
        assert set(part.groups.tolist()) == set(roles(2)[split])
        assert part.split == split
        assert part.origin["speakers"] == ", ".join(FSDD_SPEAKERS[i] for i in roles(2)[split])
    assert av_digits("train", 300, unit=2).sha256 == parts["train"].sha256 != av_digits("train", 300, unit=3).sha256
    noisy = av_digits("train", 300, unit=2, image_noise=0.2)
    assert torch.equal(noisy.inputs["audio"], parts["train"].inputs["audio"])
    assert not torch.equal(noisy.inputs["image"], parts["train"].inputs["image"])
    with pytest.raises(InputError, match="at most 2000"):
        av_digits("validation", 2001)
    with pytest.raises(InputError, match="train, validation or test"):
        av_digits("", 5)


@pytest.mark.data
def test_the_real_set_is_what_its_page_says():
    root = os.environ.get("TUTELAGE_DATA")
    if not root or not (Path(root) / "fsdd").is_dir():
        pytest.skip("needs FSDD in $TUTELAGE_DATA/fsdd")
    heard = fsdd()
    assert len(heard) == 3000
    assert heard.names == FSDD_SPEAKERS
    assert heard.rate == 8000
    assert torch.bincount(heard.labels).tolist() == [300] * 10
    assert torch.bincount(heard.speakers).tolist() == [500] * 6
