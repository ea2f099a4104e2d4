"""Lab 2: mask()."""

from __future__ import annotations

from typing import Iterator

from lessons.labs.parts import (
    Case,
    Check,
    Finding,
    Lab,
    Mistake,
    Rows,
    expect,
    in_hex,
    match,
)

HELLO = b"Hello"
MASKED = bytes.fromhex("7f9f4d5158")
KEY = bytes.fromhex("37fa213d")  # RFC 6455 s5.7


def masked(payload: bytes, key: bytes) -> Case:
    """Return what has to come out, by the definition."""
    expected = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    return Case((payload, key), expected)


def rfc() -> Iterator[Case]:
    """Yield the RFC's example: there, and back."""
    yield Case((HELLO, KEY), MASKED)
    yield Case((MASKED, KEY), HELLO)


def lengths() -> Iterator[Case]:
    """Yield each length up to 20, and some longer ones."""
    letters = b"abcdefghijklmnopqrstuvwxyz" * 2521
    for size in (*range(21), 125, 126, 127, 1023, 1024, 65535, 65536):
        yield masked(letters[:size], KEY)


def values() -> Iterator[Case]:
    """Yield each byte, under keys with zeros and ones."""
    for key in (KEY, b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\1\2\3"):
        yield masked(bytes(range(256)), key)


XOR = Finding(
    "XOR",
    "s5.3: byte i of the payload is XORed with byte i % 4 of the key.",
    "Take the first byte where it differs: which byte of the key is its own?",
)
EVERY_LENGTH = Finding(
    "length",
    "s5.3: a payload has any length; as many bytes come out as go in.",
    "What does your function do with no byte, and what with the last ones?",
)
NO_KEY = Finding(
    "no key",
    "s5.1: a server masks nothing. Here it says so by an empty key.",
    "What is i % 4 to be looked up in, if the key has no bytes?",
)
MISTAKES = (
    Mistake(
        lambda payload, key: bytes(
            b ^ key[i % 3] for i, b in enumerate(payload)
        ),
        Finding(
            "i % 3",
            "s5.3: the key has four bytes, and all four are used.",
            "What is the largest value that your i % ... can have?",
        ),
    ),
    Mistake(
        lambda payload, key: bytes(b ^ key[0] for b in payload),
        Finding(
            "one byte",
            "s5.3: the key has four bytes, and all four are used.",
            "Which byte of the key does the second byte meet?",
        ),
    ),
    Mistake(
        lambda payload, key: bytes(a ^ b for a, b in zip(payload, key)),
        Finding(
            "four bytes",
            "s5.3: behind the last byte of the key comes its first again.",
            "zip() ends with the shorter of the two. Which is that?",
        ),
    ),
    Mistake(
        lambda payload, key: payload,
        Finding(
            "unchanged",
            "s5.3: each byte is XORed with a byte of the key.",
            "Bytes cannot be changed in place. Where do you keep new ones?",
        ),
    ),
    Mistake(
        lambda payload, key: bytes(
            b ^ key[3 - i % 4] for i, b in enumerate(payload)
        ),
        Finding(
            "backwards",
            "s5.3: byte 0 of the payload meets byte 0 of the key.",
            "In which order do the bytes of the key come?",
        ),
    ),
    Mistake(
        lambda payload, key: bytes(
            b | key[i % 4] for i, b in enumerate(payload)
        ),
        Finding(
            "or",
            "s5.3: it is XOR (^), which undoes itself. OR (|) does not.",
            "What is 1 | 1, and what is 1 ^ 1?",
        ),
    ),
)


def describe(case: Case) -> Rows:
    """Return what goes in."""
    payload, key = case.arguments
    return [("payload", in_hex(payload)), ("key", in_hex(key))]


LAB = Lab(
    2,
    "mask",
    "s5.3",
    10,
    ("mask",),
    (
        Check("rfc", "the RFC's own example (s5.7), there and back", rfc, XOR),
        Check("lengths", "lengths from 0 to 65,536", lengths, EVERY_LENGTH),
        Check("values", "all bytes, and keys of 00 and ff", values, XOR),
        Check(
            "no key",
            "no key: the payload stays as it is",
            lambda: [Case((HELLO, b""), HELLO), Case((b"", b""), b"")],
            NO_KEY,
        ),
    ),
    settle=lambda value: expect(bytes, value),
    describe=describe,
    find=lambda case, got: match(MISTAKES, case, got),
    look="the rows with = under XOR: those bytes are yours",
)
