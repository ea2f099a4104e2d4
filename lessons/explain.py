"""What a frame, a head and an accept key are made of, to be shown.

The functions walk over the fields as the parsers in codec and handshake do,
but judge nothing: they also show what breaks a rule. The core needs none of
this; the trace does.
"""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple

from codec import (
    FIN,
    LENGTH,
    LENGTH_16,
    LENGTH_64,
    MASK,
    OPCODE,
    OPCODES,
    RSV,
    Opcode,
)
from handshake import GUID, HEADER_LINE, KEY, VERSION

# ---- a frame ----------------------------------------------------------------


class Field(NamedTuple):
    """One field of a frame, as it lies on the wire (s5.2).

    offset: where it begins in the frame; raw: the bytes that hold it;
    bits: a bit mask, if it is only some bits of a byte; 0 for whole bytes.
    """

    offset: int
    raw: bytes
    bits: int
    name: str
    value: int
    meaning: str


MAX_HEADER = 14  # bytes: 2, then 8 for the length and 4 for the masking key


def explain_frame(data: bytes, at: int = 0) -> list[Field]:
    """Return the fields of the frame at data[at:], as far as it is there.

    The same walk as that of Decoder.read_header(). The last field of a frame
    whose header is whole is its payload: value is its length, raw what is
    there.
    """
    header = data[at : at + MAX_HEADER]
    fields = explain_first_bytes(header)
    if len(header) < 2:
        return fields
    length, end = header[1] & LENGTH, 2
    if length >= LENGTH_16:
        size = 2 if length == LENGTH_16 else 8
        raw = header[end : end + size]
        if len(raw) < size:
            return fields
        length = int.from_bytes(raw, "big")
        meaning = f"length {length}, in {8 * size} bits"
        fields.append(Field(end, raw, 0, "extended length", length, meaning))
        end += size
    if header[1] & MASK:
        raw = header[end : end + 4]
        if len(raw) < 4:
            return fields
        key, meaning = int.from_bytes(raw, "big"), "masking key, 4 bytes"
        fields.append(Field(end, raw, 0, "masking key", key, meaning))
        end += 4
    raw = data[at + end : at + end + length]
    meaning = "payload as it travelled"
    fields.append(Field(end, raw, 0, "payload", length, meaning))
    return fields


def explain_first_bytes(header: bytes) -> list[Field]:
    """Return the fields of the two bytes with which every frame begins."""
    fields = []
    if len(header) > 0:
        fin, rsv = header[0] & FIN, header[0] & RSV
        opcode = header[0] & OPCODE
        name = Opcode(opcode).name if opcode in OPCODES else "reserved"
        last = "last (or only) piece" if fin else "more pieces follow"
        unused = "reserved, but set" if rsv else "no extension in use"
        fields += [
            Field(0, header[:1], FIN, "FIN", fin >> 7, last),
            Field(0, header[:1], RSV, "RSV", rsv >> 4, unused),
            Field(0, header[:1], OPCODE, "opcode", opcode, name),
        ]
    if len(header) > 1:
        bit, length = header[1] & MASK, header[1] & LENGTH
        way = MASK_MEANINGS[bit]
        what = LENGTH_MEANINGS.get(length, "payload bytes")
        fields += [
            Field(1, header[1:2], MASK, "MASK", bit >> 7, way),
            Field(1, header[1:2], LENGTH, "length", length, what),
        ]
    return fields


MASK_MEANINGS = {
    MASK: "masked: a client must",
    0: "not masked: a server must not",
}
LENGTH_MEANINGS = {
    LENGTH_16: "it is in the next 2 bytes",
    LENGTH_64: "it is in the next 8 bytes",
}


# ---- a head -----------------------------------------------------------------


class Line(NamedTuple):
    """One line of a head, as it lies on the wire.

    offset: of its first byte in the head; raw: its bytes, without CR LF;
    name: of the header, in lower case, "" for the first line; needed: what
    RFC 6455 s4 demands of it, "" if a handshake does not look at it.
    """

    offset: int
    raw: bytes
    name: str
    needed: str


def explain_head(head: bytes) -> list[Line]:
    """Return the lines of a request or an answer, up to the empty one.

    The same walk as that of take_head() and parse_header_lines().
    """
    # An empty line before a request is ignored.
    offset = 2 if head.startswith(b"\r\n") else 0
    first, *others = head[offset:].partition(b"\r\n\r\n")[0].split(b"\r\n")
    needed = "101" if first.startswith(b"HTTP/") else "GET and 1.1"
    lines = [Line(offset, first, "", needed)]
    offset += len(first) + 2
    for raw in others:
        match = HEADER_LINE.fullmatch(raw.decode("latin-1"))
        name = match[1].lower() if match else ""
        lines.append(Line(offset, raw, name, NEEDED.get(name, "")))
        offset += len(raw) + 2
    return lines


NEEDED = {  # s4.2.1 for the request, s4.2.2 for the answer
    "host": "this server",
    "origin": "a page that may",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": "16 random bytes",
    "sec-websocket-version": VERSION,
    "sec-websocket-protocol": "offered, or chosen",
    "sec-websocket-accept": "the base64",
}


# ---- the accept key ---------------------------------------------------------


def accept_steps(key: str) -> tuple[bytes, bytes, str] | None:
    """Return key + GUID, its SHA-1, and that in base64: the accept key.

    The steps of handshake.accept_key(), one by one. None for a key that is
    not 16 bytes in base64: it is refused, and no accept key is computed.
    """
    if not KEY.fullmatch(key):
        return None
    keyed = key.encode() + GUID
    digest = hashlib.sha1(keyed).digest()
    return keyed, digest, base64.b64encode(digest).decode()
