"""The feed of verdicts: Atom (RFC 4287), newest first."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from tutelage import __version__
from tutelage.app.site.content import Entry, Record

ATOM = "http://www.w3.org/2005/Atom"


def feed(found: Sequence[Entry], url: str = "") -> bytes:
    """One entry for each recorded result. url: the address of the site, for full links; without it they are relative.

    An entry keeps its id as long as its result stays as recorded; a new recording is a new entry.
    """
    ET.register_namespace("", ATOM)
    recorded = [(entry, entry.record) for entry in found if entry.record is not None]
    recorded.sort(key=lambda pair: pair[1].finished, reverse=True)
    newest = recorded[0][1].finished if recorded else datetime(2026, 1, 1, tzinfo=UTC)
    root = ET.Element(f"{{{ATOM}}}feed")
    _text(root, "title", "Tutelage: verdicts of claims")
    _text(root, "subtitle", "What recorded experiments say about published systems")
    _text(root, "id", uuid.uuid5(uuid.NAMESPACE_URL, url or "urn:tutelage:verdicts").urn)
    _text(root, "updated", newest.isoformat())
    _text(ET.SubElement(root, f"{{{ATOM}}}author"), "name", "Tutelage")
    ET.SubElement(root, f"{{{ATOM}}}generator", version=__version__).text = "Tutelage"
    if url:
        ET.SubElement(root, f"{{{ATOM}}}link", rel="self", href=f"{url}feed.atom", type="application/atom+xml")
    ET.SubElement(root, f"{{{ATOM}}}link", rel="alternate", href=url or "index.html", type="text/html")
    for entry, record in recorded:
        root.append(_entry(entry, record, url))
    ET.indent(root, " ")
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _entry(entry: Entry, record: Record, url: str) -> ET.Element:
    element = ET.Element(f"{{{ATOM}}}entry")
    _text(element, "title", f"{entry.slug}: {record.verdict}")
    _text(element, "id", uuid.uuid5(uuid.NAMESPACE_URL, f"tutelage:{entry.slug}:{record.raw['started']}").urn)
    _text(element, "updated", record.finished.isoformat())
    ET.SubElement(element, f"{{{ATOM}}}link", rel="alternate", href=url + entry.url, type="text/html")
    ET.SubElement(element, f"{{{ATOM}}}category", term=entry.system.room)
    one = record.primary
    words = f"{one.sentence} {one.verdict.capitalize()}: {one.value}, margin {one.margin:g}." if one else record.verdict
    _text(element, "summary", words)
    return element


def _text(parent: ET.Element, tag: str, words: str) -> None:
    ET.SubElement(parent, f"{{{ATOM}}}{tag}").text = words
