"""Lab 5: encode_frame()."""

from __future__ import annotations

from typing import Any, Iterator

import codec
from codec import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from lessons.explain import explain_frame
from lessons.labs.header import FOUR, LITTLE, RULES
from lessons.labs.parts import (
    Case,
    Check,
    Finding,
    Lab,
    Rows,
    expect,
    in_hex,
)

KEY = bytes.fromhex("37fa213d")  # RFC 6455 s5.7
HELLO = b"Hello"
BYTES = bytes(range(256))


def case(
    opcode: int, payload: bytes, key: bytes = b"", fin: bool = True
) -> Case:
    """Return what has to come out."""
    right = codec.encode_frame(opcode, payload, key, fin)
    return Case((opcode, payload, key, fin), right)


def rfc() -> Iterator[Case]:
    """Yield all examples of RFC 6455 s5.7."""
    for given, expected in (
        ((TEXT, HELLO, b"", True), "81 05 48656c6c6f"),
        ((TEXT, HELLO, KEY, True), "81 85 37fa213d 7f9f4d5158"),
        ((TEXT, b"Hel", b"", False), "01 03 48656c"),
        ((CONTINUATION, b"lo", b"", True), "80 02 6c6f"),
        ((PING, HELLO, b"", True), "89 05 48656c6c6f"),
        ((PONG, HELLO, KEY, True), "8a 85 37fa213d 7f9f4d5158"),
    ):
        yield Case(given, bytes.fromhex(expected))
    long = bytes.fromhex("82 7e 0100"), bytes.fromhex("82 7f 0000000000010000")
    yield Case((BINARY, BYTES, b"", True), long[0] + BYTES)
    yield Case((BINARY, BYTES * 256, b"", True), long[1] + BYTES * 256)


def lengths() -> Iterator[Case]:
    """Yield payloads at the ends of the three forms of the length."""
    letters = b"abcdefghijklmnopqrstuvwxyz" * 2700
    for size in (0, 1, 124, 125, 126, 127, 128, 255, 256, 257, 65024, 65025):
        yield case(BINARY, letters[:size])
    for size in (65534, 65535, 65536, 65537, 70000):
        yield case(BINARY, letters[:size])


def masked() -> Iterator[Case]:
    """Yield masked payloads of all three forms."""
    for size in (0, 1, 3, 125, 126, 65535, 65536):
        yield case(BINARY, (BYTES * 257)[:size], KEY)


def pieces() -> Iterator[Case]:
    """Yield all opcodes with and without FIN."""
    for opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        for fin in (True, False):
            yield case(opcode, b"\x03\xe8", b"", fin)


def short() -> Iterator[Case]:
    """Yield calls with two arguments only, as the server makes them."""
    yield Case((TEXT, HELLO), bytes.fromhex("81 05 48656c6c6f"))
    yield Case((PONG, b""), bytes.fromhex("8a 00"))


BOTH_BYTES = Finding(
    "header",
    "s5.2: two bytes, then perhaps a longer length, then perhaps the key.",
    "Which of these have you written, and in which order?",
)
FINDINGS = {
    "FIN": Finding(
        "FIN",
        "s5.2: FIN is set on the last (or only) frame, and on no other.",
        "Which of your lines asks for fin, and what is FIN as a number?",
    ),
    "RSV": Finding(
        "RSV",
        "s5.2: the three bits behind FIN are 0.",
        "Which number do you add for FIN, in binary?",
    ),
    "opcode": RULES["opcode"],
    "MASK": Finding(
        "MASK",
        "s5.2: MASK is set if, and only if, there is a key.",
        "Which of your lines asks whether there is a key?",
    ),
    "extended length": RULES["length"],
    "masking key": Finding(
        "key",
        "s5.2: the masking key stands between the length and the payload.",
        "The other side has to undo it. How does it learn the key?",
    ),
    "payload": Finding(
        "payload",
        "s5.3: with a key, the payload is masked; without one, it is not.",
        "What stands behind your header: payload, or mask(payload, key)?",
    ),
}
TOO_EARLY = Finding(
    "125",
    "s5.2: 7 bits count to 125; from 126 on the length is in more bytes.",
    "Which is the last length that the 7 bits can say: 125, 126 or 127?",
)
BORDER = Finding(
    "65535",
    "s5.2: two bytes count to 65,535; only what is longer takes eight.",
    "What is the largest number that fits into 16 bits?",
)


def find(case: Case, got: Any) -> Finding | None:
    """Name the first field that is wrong."""
    size = len(case.arguments[1])
    places = zip(case.expected, got)
    at = next((i for i, (x, y) in enumerate(places) if x != y), len(got))
    if at >= len(case.expected):
        return BOTH_BYTES  # All is there, and then more.
    if at >= len(got):
        return field_at(case.expected, at)
    if at == 1:
        if case.expected[1] & 128 != got[1] & 128:
            return FINDINGS["MASK"]
        if size in (65535, 65536):
            return BORDER
        return TOO_EARLY if size in (125, 126, 127) else RULES["length"]
    if at == 0:
        return next(
            FINDINGS[right.name]
            for right, wrong in zip(
                explain_frame(case.expected), explain_frame(got)
            )
            if right.value != wrong.value
        )
    found = field_at(case.expected, at)
    if found is RULES["length"]:
        wide = 2 if case.expected[1] & 127 == 126 else 8
        little = size.to_bytes(wide, "little")
        if got[2 : 2 + wide] == little and len(got) == len(case.expected):
            return LITTLE
        if got[2:6] == size.to_bytes(4, "big") and wide == 8:
            return FOUR
        if size == 126:
            return TOO_EARLY
    return found


def field_at(frame: bytes, at: int) -> Finding:
    """Return the finding for the field that holds this byte."""
    fields = [field for field in explain_frame(frame) if field.offset <= at]
    return FINDINGS.get(fields[-1].name, BOTH_BYTES)


def describe(case: Case) -> Rows:
    """Return what goes in, and the fields that have to come out."""
    opcode, payload, *more = case.arguments
    rows = [("opcode", str(opcode)), ("payload", in_hex(payload))]
    if more:
        rows += [("key", in_hex(more[0])), ("fin", str(more[1]))]
    return rows


LAB = Lab(
    5,
    "encode_frame",
    "s5.2",
    20,
    ("encode_frame",),
    (
        Check("rfc", "the RFC's own frames (s5.7)", rfc, BOTH_BYTES),
        Check("lengths", "payloads of 0 to 70,000 bytes", lengths, BOTH_BYTES),
        Check("masked", "masked ones, of all three forms", masked, BOTH_BYTES),
        Check(
            "pieces", "all opcodes, with and without FIN", pieces, BOTH_BYTES
        ),
        Check(
            "short", "without a key, as a server calls it", short, BOTH_BYTES
        ),
    ),
    settle=lambda value: expect(bytes, value),
    describe=describe,
    find=find,
    look="FRAME server --> #1: those bytes are yours. Then take all five parts:"
    " --lab lab1.py --lab lab2.py, and so on",
)
