"""Sounds on a page: players with the wav files inside, so that the page loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from markupsafe import Markup

from tutelage.auditing.page import Picture
from tutelage.core.errors import InputError

MOST = 4_000_000  # bytes of all sounds of one block: a page stays one that can be mailed


def players(sounds: Sequence[tuple[str, bytes]], caption: str = "To listen to.") -> Picture:
    """A block of audio players. sounds: (name, content of a wav file); all together at most 4 MB, or InputError."""
    size = sum(len(content) for _, content in sounds)
    if size > MOST:
        raise InputError("sounds", f"{size} bytes", f"at most {MOST}: shorter ones, or fewer")
    rows = Markup("").join(
        Markup('<p><audio controls preload="none" src="data:audio/wav;base64,{0}" aria-label="{1}"></audio> {1}</p>').format(
            base64.b64encode(content).decode(), name
        )
        for name, content in sounds
    )
    return Picture(rows, caption)
