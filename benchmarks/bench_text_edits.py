"""Text edits against nlpaug 1.1.11 and TextAttack 0.3.11, side by side: seconds for 200 sentences, 40 with TextAttack.

Needs the peers' environments: python benchmarks/peers.py nlpaug textattack. Both sides edit the same sentences, a sentence at a
time; rates are set so that about as many characters change, and the share that did is noted for both. Edits with
WordNet and by grammar are not raced: the peers then ask for downloads of nltk (a tagger, its own copy of WordNet).
"""

from __future__ import annotations

import stand_ins  # noqa: F401  (before the peers)
from common import Outcome, race, report, settings
from peers import inside, race_in

PEERS = {"nlpaug": "nlpaug 1.1.11", "textattack": "TextAttack 0.3.11"}


def sentences(n: int) -> list[str]:
    """n texts of two generated opinions, some 14 words."""
    from tutelage.data.worlds.opinions import opinions

    texts = opinions("films", 2 * n).column("text")
    return [f"{a} {b}" for a, b in zip(texts[::2], texts[1::2], strict=True)]


def of_nlpaug() -> dict[str, object]:
    import nlpaug.augmenter.char as nac

    every = {"aug_char_max": None, "aug_word_max": None, "aug_word_p": 1.0, "aug_char_min": 0}
    keyboard = nac.KeyboardAug(aug_char_p=0.1, include_special_char=False, include_numeric=False, **every)
    swap = nac.RandomCharAug(action="swap", aug_char_p=0.1, **every)
    ocr = nac.OcrAug(aug_char_p=0.2, **every)
    return {"keyboard": keyboard.augment, "swap": swap.augment, "ocr": ocr.augment}


def of_textattack() -> dict[str, object]:
    from textattack.augmentation import Augmenter
    from textattack.transformations import (
        WordSwapNeighboringCharacterSwap,
        WordSwapQWERTY,
        WordSwapRandomCharacterDeletion,
    )

    def made(transformation: object) -> object:
        return Augmenter(transformation=transformation, pct_words_to_swap=0.4).augment

    return {
        "keyboard": made(WordSwapQWERTY()),
        "swap": made(WordSwapNeighboringCharacterSwap()),
        "slips": made(WordSwapRandomCharacterDeletion()),
    }


def changed(before: list[str], after: list[str]) -> float:
    """Mean share of a text's characters that changed, by matching blocks."""
    from difflib import SequenceMatcher

    shares = [1 - SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in zip(before, after, strict=True)]
    return round(sum(shares) / len(shares), 3)


def main() -> None:
    peer = next((one for one in PEERS if inside(one)), "")
    how = settings(__doc__, ("--peer", {"choices": list(PEERS), "help": "race against this one only"}))
    if not peer:
        for one in [how.options.peer] if how.options.peer else PEERS:
            race_in(one)
        return
    from tutelage.threats.text import ButterFingers, OCRErrors, SwapCharacters, TextEdit, Typos

    # TextAttack takes milliseconds for a sentence
    texts = sentences(10 if how.quick else 200 if peer == "nlpaug" else 40)
    rates: dict[str, TextEdit] = {
        "keyboard": ButterFingers(0.1),
        "swap": SwapCharacters(0.1),
        "ocr": OCRErrors(0.1),
        "slips": Typos(0.6),
    }
    theirs = {"nlpaug": of_nlpaug, "textattack": of_textattack}[peer]()

    def one_text(found: object) -> str:
        return found if isinstance(found, str) else found[0]

    for name, augment in theirs.items():
        edit = rates[name]

        def ours(edit: TextEdit = edit) -> list[str]:
            return [edit(text, seed=1).text for text in texts]

        def other(augment: object = augment) -> list[str]:
            return [one_text(augment(text)) for text in texts]

        notes = {"sentences": len(texts), "changed, ours": changed(texts, ours()), "changed, peer": changed(texts, other())}
        rounds = [[one["ours"], one["peer"]] for one in race({"ours": ours, "peer": other}, how.rounds)]
        report(
            Outcome(
                name=f"text edits, {name}, {peer}",
                group="text-edits",
                ours=f"tutelage.threats.text.{type(edit).__name__}",
                peer=PEERS[peer],
                rounds=rounds,
                wanted="<= 0.333",
                notes=notes,
            ),
            how,
        )


if __name__ == "__main__":
    main()
