"""The rules of RFC 6455 s5 whose breach ends a connection, in one table.

For the codec alone, and for the server on the wire.
"""

from __future__ import annotations

from codec import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FRAGMENT,
    PING,
    TEXT,
    Decoder,
    ProtocolError,
    encode_frame,
    mask,
)
from tests.support import MASKING_KEY

LIMIT = 200_000  # bytes; room for the boundaries, not much more
EURO = "\u20ac".encode()  # three bytes
CLEF = "\U0001d11e".encode()  # four bytes


def decode(pieces, masked=True, limit=LIMIT):
    """Feed the pieces; return (messages, close code of the error or None).

    Stops at a Close and at an error, as the server does.
    """
    decoder = Decoder(masked, limit)
    messages = []
    try:
        for piece in pieces:
            for message in decoder.feed(piece):
                if message != FRAGMENT:
                    messages.append(message)
            if messages and messages[-1][0] == CLOSE:
                break
    except ProtocolError as error:
        return messages, error.code
    return messages, None


def masked(opcode, payload=b"", fin=True):
    """Return a frame as a client sends it."""
    return encode_frame(opcode, payload, MASKING_KEY, fin)


def raw(*parts):
    """Return bytes written as hexadecimal text or as bytes."""
    return b"".join(
        bytes.fromhex(part) if isinstance(part, str) else part for part in parts
    )


KEY = MASKING_KEY.hex()
# What breaks a rule: (name, the bytes up to where it is clear, code).
# One byte fewer is still no offence; that is tested, too.
BAD_HEADERS = [
    ("not masked", "81 05", 1002),
    ("not masked, control", "89 00", 1002),
    ("RSV1", "c1 85", 1002),
    ("RSV2", "a1 85", 1002),
    ("RSV3", "91 85", 1002),
    ("RSV1 on a control frame", "c9 80", 1002),
    *[(f"opcode {n}", f"8{n:x} 80", 1002) for n in (3, 4, 5, 6, 7)],
    *[(f"opcode {n}", f"8{n:x} 80", 1002) for n in range(11, 16)],
    ("opcode 3, fragment", "03 80", 1002),
    ("ping in fragments", "09 80", 1002),
    ("pong in fragments", "0a 80", 1002),
    ("close in fragments", "08 80", 1002),
    ("ping of 126 bytes", "89 fe", 1002),
    ("pong of 126 bytes", "8a fe", 1002),
    ("close of 126 bytes", "88 fe", 1002),
    ("ping with a 64-bit length", "89 ff", 1002),
    ("continuation of nothing", "80 85", 1002),
    ("continuation of nothing, not the last", "00 85", 1002),
    ("text inside a text", f"01 80 {KEY} 81 80", 1002),
    ("text inside a text, not the last", f"01 80 {KEY} 01 80", 1002),
    ("binary inside a text", f"01 80 {KEY} 82 80", 1002),
    ("text inside a binary", f"02 80 {KEY} 81 80", 1002),
    (
        "continuation behind the last",
        f"01 80 {KEY} 80 80 {KEY} 80 80",
        1002,
    ),
    (
        "continuation of an empty message behind the last",
        f"02 80 {KEY} 80 80 {KEY} 00 80",
        1002,
    ),
    ("length 0 in 16 bits", "82 fe 0000", 1002),
    ("length 125 in 16 bits", "82 fe 007d", 1002),
    ("length 0 in 64 bits", "82 ff 0000000000000000", 1002),
    ("length 125 in 64 bits", "82 ff 000000000000007d", 1002),
    ("length 126 in 64 bits", "82 ff 000000000000007e", 1002),
    ("length 65535 in 64 bits", "82 ff 000000000000ffff", 1002),
    ("top bit of 64", "82 ff 8000000000000000", 1002),
    ("top bit of 64, and 65536", "82 ff 8000000000010000", 1002),
    ("all bits of 64", "82 ff ffffffffffffffff", 1002),
    ("too large", f"82 ff {LIMIT + 1:016x}", 1009),
    ("too large a text", f"81 ff {LIMIT + 1:016x}", 1009),
    ("larger than any machine", "82 ff 7fffffffffffffff", 1009),
    (
        "too large with what came before",
        f"02 81 {KEY} 00 80 ff {LIMIT:016x}",
        1009,
    ),
]

NO_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535]
# The same, with the offence in the payload (written unmasked here).
BAD_PAYLOADS = [
    ("no character starts so", [(TEXT, b"ab\xff")], 1007),
    ("a tail without a head", [(TEXT, b"\x80")], 1007),
    ("overlong in two", [(TEXT, b"\xc0")], 1007),
    ("overlong in three", [(TEXT, b"\xe0\x80")], 1007),
    ("overlong in four", [(TEXT, b"\xf0\x8f")], 1007),
    ("half a surrogate pair", [(TEXT, b"\xed\xa0")], 1007),
    ("above U+10FFFF", [(TEXT, b"\xf4\x90")], 1007),
    ("head upon head", [(TEXT, b"\xe2\x82\xe2")], 1007),
    (
        "across fragments",
        [(TEXT, b"\xe2\x82", False), (CONTINUATION, b"a")],
        1007,
    ),
    (
        "a surrogate across fragments",
        [(TEXT, b"\xed", False), (CONTINUATION, b"\xbf")],
        1007,
    ),
    (
        "behind a good fragment and a ping",
        [(TEXT, b"ok", False), (PING, b""), (CONTINUATION, b"\xfe", False)],
        1007,
    ),
    ("a close of one byte", [(CLOSE, b"\x03")], 1002),
    *[(f"close {n}", [(CLOSE, n.to_bytes(2, "big"))], 1002) for n in NO_CODES],
    ("close with a reason cut short", [(CLOSE, raw("03e8", b"\xe2"))], 1007),
    ("close with a bad reason", [(CLOSE, raw("03e8", b"ab\xff"))], 1007),
    (
        "close with a surrogate",
        [(CLOSE, raw("03e8", b"\xed\xa0\x80"))],
        1007,
    ),
    ("text cut short", [(TEXT, EURO[:2])], 1007),
    (
        "text cut short, in fragments",
        [(TEXT, EURO[:1], False), (CONTINUATION, EURO[1:2])],
        1007,
    ),
    (
        "text cut short, an empty last fragment",
        [(TEXT, EURO[:2], False), (CONTINUATION, b"")],
        1007,
    ),
]

# A text frame of 125 bytes of which only these have arrived: (name, bytes).
HOPELESS = [
    ("no character starts so", b"ab\xff"),
    ("behind a good character", EURO + b"\x80"),
    ("half a surrogate pair", b"\xed\xa0"),
    ("the other half", b"\xed\xbf"),
    ("overlong", b"\xe0\x9f"),
    ("above U+10FFFF", b"\xf4\x90"),
    ("the third byte", b"\xf0\x90a"),
    ("the fourth byte", b"\xf0\x90\x80a"),
]

# Which of them end a message before the offence: it is delivered.
DELIVERED = {
    "continuation behind the last": [(TEXT, "")],
    "continuation of an empty message behind the last": [(BINARY, b"")],
    "behind a good fragment and a ping": [(PING, b"")],
}


def bad_streams():
    """Yield (name, bytes, messages before the offence, code)."""
    for name, header, code in BAD_HEADERS:
        stream = bytes.fromhex(header)
        yield name, stream, DELIVERED.get(name, []), code
    for name, frames, code in BAD_PAYLOADS:
        stream = b"".join(masked(*frame) for frame in frames)
        yield name, stream, DELIVERED.get(name, []), code
    for name, text in HOPELESS:
        yield f"arriving: {name}", arriving(text), [], 1007


def arriving(text):
    """Return the beginning of a text frame of 125 bytes."""
    return raw("81 fd", MASKING_KEY) + mask(text, MASKING_KEY)
