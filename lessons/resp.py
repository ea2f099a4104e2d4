"""RESP, the protocol of Redis: commands out, replies in.

No socket, no clock in here: bytes in, values out, as in codec.py.

    command("SET", "room", 7) -> b"*3 $3 SET $4 room $1 7" -> send
    recv -> Replies.feed(bytes) -> values

The lengths stand in front, as in a WebSocket frame, but as text. Where that
line has a blank, RESP has CR LF. A reply is one of five kinds:

    +OK             "OK": a short text
    -ERR unknown    Refusal("ERR unknown")
    :7              7
    $5 hello        b"hello": any bytes; $-1 is None
    *2 :7 :8        [7, 8]: a list of replies; *-1 is None

This is version 2, which every Redis speaks. See
https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import re
from typing import Any, Iterator, NamedTuple, Union

CRLF = b"\r\n"
MAX_LINE = 4096  # bytes; a length has ten, an error message a few hundred
MAX_BULK = 64 * 1024 * 1024  # bytes, of one value; see MAX_DATA in rooms.py
MAX_ITEMS = 50_000  # of one list; the fields of an entry are a few hundred
MAX_DEPTH = 5  # lists in a list; an answer to XREAD is so deep
NUMBER = re.compile(rb"-?[0-9]{1,18}")

KINDS = (b"+", b"-", b":", b"$", b"*", b"")  # b"": nothing is here yet

Word = Union[bytes, str, int]


class RespError(Exception):
    """What came is not RESP, or is no answer to what was asked."""


class Refusal(NamedTuple):
    """Redis has answered with an error; text: what it says."""

    text: str


class IncompleteError(Exception):
    """The rest has not come yet; before the buffer has this size, do not try.

    size: bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def command(*words: Word) -> bytes:
    """Return a command as it travels: a list of its words, as bytes."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        if not isinstance(word, bytes):
            # What a terminal took for no UTF-8 travels as it was typed.
            word = str(word).encode("utf-8", "surrogateescape")
        parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(parts)


class Replies:
    """What was read and is not yet a whole reply."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.needed = 1  # bytes; before so many are here, do not try

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take bytes in; yield each reply that is whole. RespError.

        TCP may cut a reply anywhere. Then it is parsed again from its start
        when more is here. That is simple, and costs little: what is not yet
        whole is a few lists, and one value.
        """
        self.buffer += data
        at = 0  # of the next reply
        while len(self.buffer) >= at + self.needed:
            try:
                value, end = take_reply(self.buffer, at)
            except IncompleteError as rest:
                self.needed = rest.size - at
                break
            at, self.needed = end, 1
            yield value
        del self.buffer[:at]


def take_reply(data: bytearray, at: int, depth: int = 0) -> tuple[Any, int]:
    """Return the reply that begins at this place, and where it ends.

    Raises IncompleteError, RespError.
    """
    kind, line, at = take_line(data, at)
    if kind == b"+":
        return line.decode("utf-8", "replace"), at
    if kind == b"-":
        return Refusal(line.decode("utf-8", "replace")), at
    if kind == b":":
        return number(line), at
    if kind == b"$":
        return take_bulk(data, at, number(line))
    if kind == b"*" and depth < MAX_DEPTH:
        return take_list(data, at, number(line), depth)
    raise RespError(f"it does not speak RESP: {bytes(kind + line[:40])!r}")


def take_line(data: bytearray, at: int) -> tuple[bytes, bytes, int]:
    """Return the first byte of a line, the rest of it, and where it ends."""
    end = data.find(CRLF, at, at + MAX_LINE)
    if end < 0:
        if len(data) - at >= MAX_LINE or data[at : at + 1] not in KINDS:
            start = bytes(data[at : at + 40])
            raise RespError(f"it does not speak RESP: {start!r}")
        raise IncompleteError(len(data) + 1)
    return bytes(data[at : at + 1]), bytes(data[at + 1 : end]), end + 2


def take_bulk(data: bytearray, at: int, size: int) -> tuple[Any, int]:
    """Return so many bytes, or None for -1, and where they end."""
    if size == -1:
        return None, at
    if not 0 <= size <= MAX_BULK:
        raise RespError(f"a value of {size} bytes")
    end = at + size
    if len(data) < end + 2:
        raise IncompleteError(end + 2)
    if data[end : end + 2] != CRLF:
        raise RespError("a value is longer than its length says")
    return bytes(data[at:end]), end + 2


def take_list(
    data: bytearray, at: int, size: int, depth: int
) -> tuple[Any, int]:
    """Return a list of so many replies, or None for -1, and where it ends."""
    if size == -1:
        return None, at
    if not 0 <= size <= MAX_ITEMS:
        raise RespError(f"a list of {size}")
    items = []
    for _ in range(size):
        item, at = take_reply(data, at, depth + 1)
        items.append(item)
    return items, at


def number(line: bytes) -> int:
    """Return the number in a line."""
    if not NUMBER.fullmatch(line):
        raise RespError(f"not a number: {line[:40]!r}")
    return int(line)
