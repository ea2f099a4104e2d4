"""Stage 8 of the checker: the rules, and what ends with which code.

Each breach is whole frames: a server may wait for the end of a frame before
it judges.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

from codec import BINARY, TEXT, encode_frame, encode_header
from lessons.checker.room import Room
from lessons.checker.verdict import Step, Steps
from lessons.checker.wire import pump


class Breach(NamedTuple):
    """Frames that break a rule: (first byte, payload) of each."""

    title: str
    frames: Sequence[tuple[int, bytes]]
    code: int
    rule: str
    question: str
    masked: bool = True


FAIL = "Where in your code does a broken rule become a Close frame?"
CONTROL = "s5.5: a control frame has at most 125 bytes and no fragments"
UTF8 = "s8.1: a text that is not UTF-8 ends the connection, with 1007"
CODES = "s7.4: a Close frame has a code of two bytes that may be sent"
BREACHES = [
    Breach(
        "a client's frame without a mask",
        [(0x81, b"Hello")],
        1002,
        "s5.1: a server must close when a frame is not masked",
        "Which bit of the second byte did your server look at?",
        masked=False,
    ),
    Breach(
        "the first reserved bit",
        [(0xC1, b"Hello")],
        1002,
        "s5.2: a reserved bit is 0, unless an extension was agreed on",
        "What do the second, third and fourth bit of a frame say?",
    ),
    Breach(
        "the third reserved bit",
        [(0x91, b"Hello")],
        1002,
        "s5.2: a reserved bit is 0, unless an extension was agreed on",
        "What do the second, third and fourth bit of a frame say?",
    ),
    Breach(
        "opcode 3",
        [(0x83, b"Hello")],
        1002,
        "s5.2: opcodes 3 to 7 and B to F have no meaning yet",
        "What does your server do with an opcode that it does not know?",
    ),
    Breach(
        "opcode B",
        [(0x8B, b"")],
        1002,
        "s5.2: opcodes 3 to 7 and B to F have no meaning yet",
        "What does your server do with an opcode that it does not know?",
    ),
    Breach("a ping of 126 bytes", [(0x89, b"x" * 126)], 1002, CONTROL, FAIL),
    Breach("a ping in fragments", [(0x09, b"x")], 1002, CONTROL, FAIL),
    Breach(
        "a continuation of nothing",
        [(0x80, b"Hello")],
        1002,
        "s5.4: a continuation needs a message that has begun",
        "Which message would this frame belong to?",
    ),
    Breach(
        "a text inside an unfinished text",
        [(0x01, b"Hel"), (0x81, b"lo")],
        1002,
        "s5.4: a message ends before the next one begins",
        "Which opcode has the second frame of a message?",
    ),
    Breach("a Close with one byte", [(0x88, b"\x03")], 1002, CODES, FAIL),
    Breach("a Close with code 999", [(0x88, b"\x03\xe7")], 1002, CODES, FAIL),
    Breach("a Close with code 1005", [(0x88, b"\x03\xed")], 1002, CODES, FAIL),
    Breach("a text with the byte ff", [(0x81, b"Hell\xff")], 1007, UTF8, FAIL),
    Breach(
        "a text that ends inside a letter",
        [(0x81, b"Hell\xe2\x82")],
        1007,
        UTF8,
        FAIL,
    ),
    Breach(
        "half a surrogate pair", [(0x81, b"\xed\xa0\x80")], 1007, UTF8, FAIL
    ),
    Breach(
        "a letter that two fragments spoil",
        [(0x01, b"\xe2\x82"), (0x80, b"a")],
        1007,
        UTF8,
        FAIL,
    ),
    Breach(
        "a Close whose reason is not UTF-8",
        [(0x88, b"\x03\xe8Hell\xff")],
        1007,
        UTF8,
        FAIL,
    ),
]


def rules(room: Room) -> Steps:
    """Break one rule after the other, each on a connection of its own."""
    read = "codec.py: Decoder.read_header(), check_opcode(), decode_close()"
    for breach in BREACHES:
        yield Step(
            f"{breach.code}: {breach.title}", breach.rule, breach.question, read
        )
        user = room.join()
        user.send(
            b"".join(
                raw(room, *frame, breach.masked) for frame in breach.frames
            )
        )
        user.hear_close(f"a Close frame with {breach.code}", [breach.code])
        user.hang_up()

    yield Step(
        "1009: a length of 2 to the power of 62",
        "s7.4.1: a message that is too big to process is 1009; s10.4: there"
        " is a limit",
        "When can your server know that a message is too big?",
        "codec.py: Decoder.read_header()",
    )
    check_huge(room)

    yield Step(
        "and the next user is served",
        "s7.1.7: a broken rule ends this connection, not the server",
        "What does an error end, a user or the program?",
        "server.py: Server.guard()",
    )
    room.say(room.join(), room.words())


def raw(room: Room, first: int, payload: bytes, masked: bool = True) -> bytes:
    """Return a frame with any first byte."""
    key = room.random_bytes(4) if masked else b""
    return bytes((first,)) + encode_frame(TEXT, payload, key)[1:]


def check_huge(room: Room) -> None:
    """Announce more bytes than any machine has.

    A server that simply waits for them breaks no rule so far.
    """
    user = room.join()
    header = encode_header(BINARY, 2**62, room.random_bytes(4))
    user.send(header)
    pump([user], lambda: bool(user.close or user.error), WAITS_FOR_MORE)
    if user.close or user.error or user.end:
        user.hear_close("a Close frame with 1009", [1009])


WAITS_FOR_MORE = 0.5  # seconds
