"""WordNet's file format with a handful of synsets of our own, for tests that must run where WordNet is not installed."""

from __future__ import annotations

from pathlib import Path

SYNSETS = {
    "noun": [["film", "movie", "motion_picture"], ["film", "coating"], ["actor", "player"], ["dog", "hound"]],
    "verb": [["love", "adore"], ["love", "enjoy", "have_fun"], ["watch", "observe"]],
    "adj": [["good", "fine"], ["great", "grand(p)"], ["awake(p)", "alert"], ["old", "aged"]],
    "adv": [["quickly", "fast"]],
}


def write_wordnet(folder: Path) -> Path:
    """`folder`/index.noun, data.noun, ... : the first synset of a word in the lists above is its most frequent sense."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, synsets in SYNSETS.items():
        data, offsets = b"  1 A licence text stands here.  \n", {}
        for words in synsets:
            offset = len(data)
            fields = " ".join(f"{word} 0" for word in words)
            data += f'{offset:08d} 03 {part[0]} {len(words):02x} {fields} 000 | a gloss; "good"  \n'.encode()
            for word in words:
                offsets.setdefault(word.partition("(")[0], []).append(offset)
        index = "  1 A licence text stands here.  \n"
        for word in sorted(offsets):
            places = " ".join(f"{offset:08d}" for offset in offsets[word])
            index += f"{word} {part[0]} {len(offsets[word])} 2 @ ~ {len(offsets[word])} 1 {places}  \n"
        (folder / f"data.{part}").write_bytes(data)
        (folder / f"index.{part}").write_text(index)
    return folder
