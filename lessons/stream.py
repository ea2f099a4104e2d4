"""How a stream of bytes divides into frames, of which little is kept.

A server under load reads thousands of frames in a second. To show a few of
them, one must still know where each begins. So here headers are read, and
payloads are only counted, but for their first bytes and their last.
"""

from __future__ import annotations

from typing import NamedTuple

from codec import (
    BINARY,
    CONTINUATION,
    FIN,
    LENGTH,
    LENGTH_16,
    LENGTH_64,
    MASK,
    OPCODE,
    TEXT,
    mask,
)

MAX_KEPT = 256  # bytes of a payload, from its start
MAX_END = 8  # and from its end
MAX_PIECES = 8  # frames of one read, or of one block; of more, the number

EXTENDED = {LENGTH_16: 2, LENGTH_64: 8}  # bytes of the length behind it
# A form of the room; the last one is for all, or one's own name. All others
# may be for one user only, see ChatRoom.
FORMS = (b"type=", b"ming=", b"nr=", b"key=")
TO_ALL = b"&key=all"
NAMING = b"type=add&ming="


class Piece(NamedTuple):
    """One frame: what is kept of it.

    head: the header; start, end: the first and the last bytes of its
    payload, as they travelled; size: bytes in all.
    """

    head: bytes
    start: bytes
    end: bytes
    size: int

    def plain(self) -> tuple[bytes, bytes]:
        """Return start and end without the mask."""
        if not self.head[1] & MASK:
            return self.start, self.end
        key = self.head[-4:]
        shift = (self.size - len(self.head) - len(self.end)) % 4
        return mask(self.start, key), mask(self.end, key[shift:] + key[:shift])


def measure(data: bytes, at: int) -> tuple[int, int] | None:
    """Return the sizes of the header at data[at:], and of its payload.

    None, if the header is not whole.
    """
    if len(data) - at < 2:
        return None
    length = data[at + 1] & LENGTH
    extended = EXTENDED.get(length, 0)
    size = 2 + extended + (4 if data[at + 1] & MASK else 0)
    if len(data) - at < size:
        return None
    if extended:
        length = int.from_bytes(data[at + 2 : at + 2 + extended], "big")
    return size, length


class Stream:
    """The frames of one user, as its bytes arrive.

    rest: of a header that is not whole; missing: bytes of a payload.
    """

    def __init__(self) -> None:
        self.rest = b""
        self.missing = 0
        self.begun: Piece | None = None
        self.is_secret = False  # of the message in fragments

    def feed(
        self, data: bytes, most: int = MAX_PIECES
    ) -> tuple[list[Piece], int]:
        """Return the first frames that end in data, and how many do.

        most: so many are wanted; to make a piece costs more than to go on.
        """
        pieces: list[Piece] = []
        count = at = 0
        if self.begun:
            at = min(self.missing, len(data))
            self.go_on(data[:at])
            if self.missing:
                return [], 0
            pieces.append(self.begun)
            self.note_fragment(self.begun)
            self.begun = None
            count = 1
        if self.rest:
            data, at = self.rest + data[at:], 0
        while True:
            sizes = measure(data, at)
            if not sizes:
                self.rest = data[at:]
                return pieces, count
            head, length = sizes
            start, end = at + head, at + head + length
            if end > len(data):
                self.rest = b""
                self.begin(data, at, head, length)
                return pieces, count
            if count < most:
                pieces.append(piece(data, at, start, end))
            if not data[at] & FIN:
                self.note_fragment(piece(data, at, start, end))
            count += 1
            at = end

    def begin(self, data: bytes, at: int, head: int, length: int) -> None:
        """Keep the start of a frame whose payload is not whole."""
        start = at + head
        self.begun = piece(data, at, start, len(data))
        self.begun = self.begun._replace(size=head + length)
        self.missing = start + length - len(data)

    def go_on(self, data: bytes) -> None:
        """Take more of the payload that has begun."""
        assert self.begun
        missing = MAX_KEPT - len(self.begun.start)
        start = self.begun.start + data[: max(0, missing)]
        end = (self.begun.end + data)[-MAX_END:]
        self.begun = self.begun._replace(start=start, end=end)
        self.missing -= len(data)

    def note_fragment(self, frame: Piece) -> None:
        """Remember whether a message that begins here may be a whisper."""
        if frame.head[0] & OPCODE in (TEXT, BINARY):
            self.is_secret = may_be_whisper(frame)

    def hides(self, frame: Piece) -> bool:
        """Tell whether perhaps only one other user may see this payload."""
        if frame.head[0] & OPCODE == CONTINUATION:
            return self.is_secret
        return may_be_whisper(frame)


def may_be_whisper(frame: Piece) -> bool:
    """Tell whether a frame begins what may be for one user only.

    When in doubt, yes: of a fragment nobody knows what will follow.
    """
    start, end = frame.plain()
    if frame.head[0] & OPCODE != TEXT or not begins_form(start):
        return False
    return not (frame.head[0] & FIN and is_for_all(frame, start, end))


def piece(data: bytes, at: int, start: int, end: int) -> Piece:
    """Return the frame at data[at:end], whose payload begins at start."""
    return Piece(
        bytes(data[at:start]),
        bytes(data[start : min(end, start + MAX_KEPT)]),
        bytes(data[max(start, end - MAX_END) : end]),
        end - at,
    )


def begins_form(start: bytes) -> bool:
    """Tell whether a text is, or may become, one of the room's forms."""
    return any(start.startswith(f) or f.startswith(start) for f in FORMS)


def is_for_all(frame: Piece, start: bytes, end: bytes) -> bool:
    """Tell whether a form surely says something to all, or a name."""
    if frame.size - len(frame.head) > MAX_KEPT:
        return end == TO_ALL
    names = start.startswith(NAMING) and b"&" not in start[len(NAMING) :]
    return names or (end == TO_ALL and start.count(b"key=") == 1)


def divide(block: bytes) -> tuple[list[Piece], int]:
    """Return the first frames of a block, and how many there are."""
    return Stream().feed(block)
