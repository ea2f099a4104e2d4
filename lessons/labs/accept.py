"""Lab 1: accept_key()."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import Iterator

from handshake import GUID, accept_key
from lessons.labs.parts import (
    Case,
    Check,
    Finding,
    Lab,
    Mistake,
    Rows,
    expect,
    match,
)


def cases(*keys: str) -> list[Case]:
    """Return what has to come out for keys."""
    return [Case((key,), accept_key(key)) for key in keys]


def many() -> Iterator[Case]:
    """Yield a case for each of 200 keys, the same ones each time."""
    chance = random.Random(1)
    for _ in range(200):
        key = bytes(chance.randrange(256) for _ in range(16))
        yield from cases(base64.b64encode(key).decode())


def sha1(data: bytes) -> bytes:
    """Return SHA-1's 20 bytes."""
    return hashlib.sha1(data).digest()


def text(data: bytes) -> str:
    """Return base64 as text."""
    return base64.b64encode(data).decode()


OTHER = Finding(
    "accept key",
    "s4.2.2: base64 of the SHA-1 of the key with the GUID behind it.",
    "Three steps: what do you have after the first, and after the second?",
)
SAME = Finding(
    "one answer",
    "s4.2.2: another key has another answer.",
    "Which of your lines use key?",
)
HEX = "s4.2.2: base64 is made of SHA-1's 20 bytes, not of its 40 hex digits."
MISTAKES = (
    Mistake(
        lambda key: sha1(key.encode() + GUID).hex(),
        Finding("hex", HEX, "What does digest() return, what hexdigest()?"),
    ),
    Mistake(
        lambda key: text(sha1(key.encode() + GUID).hex().encode()),
        Finding("hex", HEX, "How many bytes go into your base64?"),
    ),
    Mistake(
        lambda key: text(sha1(key.encode())),
        Finding(
            "no GUID",
            "s4.2.2: the GUID is part of what SHA-1 is taken of.",
            "What could a server answer that knows only the key?",
        ),
    ),
    Mistake(
        lambda key: text(sha1(GUID + key.encode())),
        Finding(
            "GUID first",
            "s4.2.2: first the key, then the GUID.",
            "Which of the two do you write first?",
        ),
    ),
    Mistake(
        lambda key: text(sha1(base64.b64decode(key) + GUID)),
        Finding(
            "decoded key",
            "s4.2.2: the key is not decoded, its 24 characters count.",
            "Are those 16 bytes or 24 that stand before your GUID?",
        ),
    ),
    Mistake(
        lambda key: text(
            sha1((key + GUID.decode().replace("-", "\u2010")).encode())
        ),
        Finding(
            "hyphens",
            "s1.3: the hyphens of the GUID are those of ASCII (0x2D).",
            "Where did you copy the GUID from? What says GUID.isascii()?",
        ),
    ),
    Mistake(
        lambda key: text(sha1(key.encode() + GUID.lower())),
        Finding(
            "lower case",
            "s1.3: the letters of the GUID are capital letters.",
            "Are 'a' and 'A' the same byte?",
        ),
    ),
    Mistake(
        lambda key: accept_key(key) + "\n",
        Finding(
            "newline",
            "s4.2.2: the value ends with its last letter; what a newline"
            " would do to the header, you can guess.",
            "base64 has two functions that encode. Which one adds it?",
        ),
    ),
    Mistake(
        lambda key: str(accept_key(key).encode()),
        Finding(
            "str of bytes",
            "s4.2.2: the value begins with the first letter of the base64.",
            "What does str(b'a') give, and what b'a'.decode()?",
        ),
    ),
    Mistake(
        lambda key: text(hashlib.sha256(key.encode() + GUID).digest()),
        Finding("SHA-256", "s4.2.2: it is SHA-1.", "How long is a digest?"),
    ),
)


def describe(case: Case) -> Rows:
    """Return what goes in."""
    return [("key", case.arguments[0])]


LAB = Lab(
    1,
    "accept_key",
    "s4.2.2",
    10,
    ("accept_key",),
    (
        Check(
            "rfc",
            "the RFC's own example (s1.3)",
            lambda: cases("dGhlIHNhbXBsZSBub25jZQ=="),
            OTHER,
        ),
        Check(
            "others",
            "other keys: two that browsers sent, and one of zeros",
            lambda: cases(
                "x3JJHMbDL1EzLkh9GBhXDw==",
                "suCppmhvtvoJjyB3XY6fcA==",
                "AAAAAAAAAAAAAAAAAAAAAA==",
            ),
            SAME,
        ),
        Check("many", "200 random keys", many, OTHER),
    ),
    settle=lambda value: expect(str, value),
    describe=describe,
    find=lambda case, got: match(MISTAKES, case, got),
    look="Sec-WebSocket-Accept: that value is yours",
)
