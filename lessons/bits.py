"""What a line of a record means, bit by bit, and each phase of the loop.

The room writes the bytes of frames down; here, in another process, they are
explained, with the words of the trace.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from typing import Any, Iterator

from lessons.explain import MAX_HEADER
from lessons.record import MAX_PAYLOAD
from lessons.trace import ROW, Frame, bit_pattern, close_words
from lessons.words import many, quoted

MAX_EVENTS = 64  # that are explained; a room writes fewer
MAX_HEX = 2 * (MAX_HEADER + MAX_PAYLOAD)  # digits of a frame


def explained(line: dict[str, Any]) -> dict[str, Any]:
    """Return a turn whose frames are explained, bit by bit.

    A record may be forged: there may be far too many of them.
    """
    events = [
        explain_event(event) if event["what"] == "frame" else event
        for event in line["events"][:MAX_EVENTS]
    ]
    return {**line, "events": events}


def explain_event(event: dict[str, Any]) -> dict[str, Any]:
    """Return a frame with its fields, the rows of its payload, and notes."""
    event = dict(event)
    data = bytes.fromhex(event.pop("bytes")[:MAX_HEX])
    hidden = event.pop("hidden")
    frame = Frame(data)
    text = "" if hidden else quoted(frame.plain)
    if len(frame.plain) < payload_size(frame) and not hidden:
        text = text[:-1] + '..."'
    return {
        **event,
        "kind": frame.kind(),
        "flags": frame.flags(),
        "text": text,
        "length": payload_size(frame),
        "fields": list(field_rows(frame)),
        "payload": [] if hidden else list(payload_rows(frame)),
        "notes": list(notes(frame, hidden)),
    }


def field_rows(frame: Frame) -> Iterator[dict[str, Any]]:
    """Yield each field but the payload."""
    for field in frame.fields:
        if field is frame.payload:
            return
        bits = bit_pattern(field.raw[0], field.bits) if field.bits else ""
        yield {
            "offset": field.offset,
            "hex": field.raw.hex(" "),
            "bits": bits,
            "name": field.name,
            "value": field.value,
            "meaning": field.meaning,
            "part": "key" if field.name == "masking key" else "header",
        }


def payload_rows(frame: Frame) -> Iterator[dict[str, Any]]:
    """Yield the payload that was kept: as it travelled, and unmasked."""
    if not frame.payload:
        return
    for at in range(0, len(frame.plain), ROW):
        raw = frame.payload.raw[at : at + ROW]
        row = frame.plain[at : at + ROW]
        # ROW is a multiple of 4: so each row begins with the key's start.
        key = (frame.key * ROW)[: len(raw)] if frame.key else b""
        yield {
            "offset": frame.payload.offset + at,
            "hex": raw.hex(" "),
            "key": key.hex(" "),
            "plain": row.hex(" ") if frame.key else "",
            "text": quoted(row),
        }


def notes(frame: Frame, hidden: bool) -> Iterator[str]:
    """Yield what is to be said of a frame as a whole."""
    if hidden:
        size = many(payload_size(frame), "byte")
        yield f"perhaps for one only: its text of {size} is not shown"
        return
    more = payload_size(frame) - len(frame.plain)
    if more > 0:
        yield f"({many(more, 'more byte')} not shown)"
    if frame.opcode.meaning == "TEXT" and not more:
        with contextlib.suppress(UnicodeDecodeError):  # half a character
            letters = len(frame.plain.decode())
            if letters < len(frame.plain):
                characters = many(letters, "character")
                yield f"{characters}, {many(len(frame.plain), 'byte')}"
    if frame.opcode.meaning == "CLOSE":
        yield close_words(frame.plain)


def payload_size(frame: Frame) -> int:
    """Return how long the header says that the payload is."""
    length = frame.named.get("extended length") or frame.named["length"]
    return length.value


PHASES = ("ask", "wait", "accept", "read", "write", "late")


def find_phases(turn: Any) -> list[dict[str, Any]]:
    """Return the numbered phases of turn(), and the lines that do the work.

    They are found by their comments, "# 4. Read once from each ...", and the
    lines by what they call: self.read(user).
    """
    phases: list[dict[str, Any]] = []
    try:
        lines, first = inspect.getsourcelines(turn)
    except OSError:
        return []  # There is no source, only compiled code.
    for at, line in enumerate(lines, first):
        found = re.match(r" *# ([1-6])\. ", line)
        if found:
            number = int(found[1])
            name = PHASES[number - 1]
            phases.append({"number": number, "name": name, "calls": []})
        elif phases and re.search(r"\b(self\.(?!notify)\w+|wait)\(", line):
            phases[-1]["calls"].append({"line": at, "code": line.strip()})
    return phases
