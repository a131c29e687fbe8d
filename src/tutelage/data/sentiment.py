"""Sentences with the mean rating of twenty people, from four sources: films, Amazon, New York Times editorials, tweets.

The four-domain sets of Hutto and Gilbert (VADER, ICWSM 2014; MIT). The label is the sign of the mean rating, -4 to 4; sentences
of at most 0.5 either way are left out. The split is by article or review, so that no text is in both.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

from tutelage.core.checks import check_choice
from tutelage.core.errors import MissingError
from tutelage.core.files import sha256_file
from tutelage.data.tables import Table

DOMAINS = ("movie", "amazon", "nyt", "tweets")
LABELS = ("negative", "positive")
HOME = "https://github.com/cjhutto/vaderSentiment"
CLEAR = 0.5


def sentiment_sentences(domain: str, split: str) -> Table:
    """Columns text, label ("negative", "positive") and group of one domain: movie, amazon, nyt or tweets; train or test.

    Read from `$TUTELAGE_DATA/sentiment4/<domain>.jsonl.gz`. Raises MissingError if it is not there.
    """
    check_choice("domain", domain, DOMAINS)
    check_choice("split", split, ("train", "test"))
    with gzip.open(sentiment_file(domain), "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if row["split"] == split and abs(row["rating"]) > CLEAR]
    columns: dict[str, list[Any]] = {
        "text": [row["text"] for row in rows],
        "label": [LABELS[row["rating"] > 0] for row in rows],
        "group": [row["group"] for row in rows],
    }
    return Table(columns, tuple(f"{domain}-{row['id']}" for row in rows), domain)


def sentiment_file(domain: str) -> Path:
    """The file of a domain; MissingError if it is not on this machine."""
    root = os.environ.get("TUTELAGE_DATA")
    path = Path(root).expanduser() / "sentiment4" / f"{domain}.jsonl.gz" if root else None
    if path is None or not path.is_file():
        raise MissingError(
            f"the sentences of {domain!r} are not here: put {domain}.jsonl.gz (lines with id, group, text, rating, split), "
            f"made of the ground-truth files of {HOME}, into $TUTELAGE_DATA/sentiment4"
        )
    return path


def sentiment_sets() -> list[dict[str, Any]]:
    """The files, as results list them."""
    found = []
    for domain in DOMAINS:
        n = len(sentiment_sentences(domain, "train")) + len(sentiment_sentences(domain, "test"))
        file = {"kind": "file", "split": "train and test", "sha256": sha256_file(sentiment_file(domain))}
        found.append({"name": f"sentiment4 ({domain})", "n": n, **file})
    return found
