"""How a stream of bytes divides into frames, of which little is kept.

A server under load reads thousands of frames in a second. To show a few of
them, one must still know where each begins. So here headers are read, and
payloads are only counted, but for their first bytes and their last.
"""

from __future__ import annotations

from typing import NamedTuple

from codec import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    LENGTH,
    LENGTH_16,
    LENGTH_64,
    MASK,
    MAX_CONTROL,
    OPCODE,
    OPCODES,
    TEXT,
    mask,
)

MAX_KEPT = 1024  # bytes of a payload, from its start
MAX_END = 8  # and from its end
MAX_PIECES = 4  # frames of one read or block; the others are only counted

EXTENDED = {LENGTH_16: 2, LENGTH_64: 8}  # bytes of the length behind it
# How the room's forms begin, see ChatRoom. A form may be for one user, unless
# it ends with TO_ALL or only gives a name.
FORMS = (b"type=", b"ming=", b"nr=", b"key=")
TO_ALL = b"&key=all"
NAMING = b"type=add&ming="


class Piece(NamedTuple):
    """One frame: what is kept of it.

    head: the header; start, end: the first and the last bytes of its
    payload, as they travelled; size: bytes in all; hidden: perhaps only one
    other user may see the payload.
    """

    head: bytes
    start: bytes
    end: bytes
    size: int
    hidden: bool = False

    def plain(self) -> tuple[bytes, bytes]:
        """Return start and end without the mask."""
        if not self.head[1] & MASK:
            return self.start, self.end
        key = self.head[-4:]
        shift = (self.size - len(self.head) - len(self.end)) % 4
        return mask(self.start, key), mask(self.end, key[shift:] + key[:shift])


class Stream:
    """Frames, as their bytes arrive.

    max_message: the server's limit for a user's message; None if the frames
    are our own, which break no rule. After a broken rule, or a user's Close,
    nothing more is counted. rest: a header so far; missing: payload bytes to
    come.
    """

    def __init__(self, max_message: int | None = None) -> None:
        self.max_message = max_message
        self.rest = b""
        self.missing = 0
        self.begun: Piece | None = None
        self.has_ended = False
        self.is_secret = False  # the message whose fragments come

    def feed(
        self, data: bytes, most: int = MAX_PIECES
    ) -> tuple[list[Piece], int]:
        """Return the first frames that end in data, and how many do.

        most: so many are wanted; to make a piece costs more than to go on.
        """
        pieces: list[Piece] = []
        count = at = 0
        if self.missing:
            at = self.go_on(data)
            if self.missing:
                return [], 0
            count = 1
            if self.begun:
                pieces = [self.end_begun(self.begun)][:most]
        if self.rest:
            data, at = self.rest + data[at:], 0
        self.rest = b""
        while not self.has_ended:
            found = self.find(data, at)
            if not found:
                break
            start, end = found
            # Of each first fragment one must know whether it is secret.
            if count < most or not data[at] & FIN:
                frame = self.judged(piece(data, at, start, end))
                if count < most:
                    pieces.append(frame)
            self.end_at(data[at])
            count += 1
            at = end
        return pieces, count

    def find(self, data: bytes, at: int) -> tuple[int, int] | None:
        """Return where the next payload begins and ends.

        None, if the frame is not whole: what is here of it is kept.
        """
        if len(data) - at > 1 and self.is_refused(data[at], data[at + 1], 0):
            self.has_ended = True  # Its length does not matter any more.
            return len(data), len(data)
        sizes = measure(data, at)
        if not sizes:
            self.rest = data[at:]
            return None
        start, end = at + sizes[0], at + sum(sizes)
        if self.is_refused(data[at], data[at + 1], sizes[1]):
            self.has_ended = True
            return start, min(end, len(data))
        if end <= len(data):
            return start, end
        frame = piece(data, at, start, len(data))
        self.begun = frame._replace(size=sum(sizes))
        self.missing = end - len(data)
        return None

    def end_begun(self, frame: Piece) -> Piece:
        """Return the frame that had begun, now that it is whole."""
        self.begun = None
        self.end_at(frame.head[0])
        return self.judged(frame)

    def go_on(self, data: bytes) -> int:
        """Take more of the payload that has begun; return how much."""
        size = min(self.missing, len(data))
        self.missing -= size
        if self.begun:
            kept = MAX_KEPT - len(self.begun.start)
            start = self.begun.start + data[: max(0, min(size, kept))]
            end = (self.begun.end + data[:size])[-MAX_END:]
            self.begun = self.begun._replace(start=start, end=end)
        return size

    def join(self, rest: bytes, missing: int) -> None:
        """Go on in the middle, where a decoder has come to.

        Of the frame that has begun there, nothing is known; and the fragments
        that come next may belong to a whisper.
        """
        self.rest, self.missing = rest, missing
        self.begun = None
        self.is_secret = True

    def end_at(self, first: int) -> None:
        """End behind a user's Close; first: the first byte of a frame."""
        if self.max_message is not None and first & OPCODE == CLOSE:
            self.has_ended = True

    def is_refused(self, first: int, second: int, length: int) -> bool:
        """Tell whether a header breaks a rule.

        Not noticed: a length in too many bytes, and what depends on the
        frames before.
        """
        if self.max_message is None:
            return False
        if first not in FIRST_BYTES or not second & MASK:
            return True
        is_control = first & OPCODE >= CLOSE
        return length > (MAX_CONTROL if is_control else self.max_message)

    def judged(self, frame: Piece) -> Piece:
        """Return a frame that says whether all may see it."""
        opcode = frame.head[0] & OPCODE
        if opcode == CONTINUATION:
            return frame._replace(hidden=self.is_secret)
        hidden = may_be_whisper(frame)
        if opcode in (TEXT, BINARY):
            self.is_secret = hidden
        return frame._replace(hidden=hidden)


# What a frame may begin with: FIN and an opcode; a control frame has FIN.
FIRST_BYTES = frozenset(
    [CONTINUATION, TEXT, BINARY, *(FIN | opcode for opcode in OPCODES)]
)


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


def piece(data: bytes, at: int, start: int, end: int) -> Piece:
    """Return the frame at data[at:end], whose payload begins at start."""
    return Piece(
        bytes(data[at:start]),
        bytes(data[start : min(end, start + MAX_KEPT)]),
        bytes(data[max(start, end - MAX_END) : end]),
        end - at,
    )


def may_be_whisper(frame: Piece) -> bool:
    """Tell whether a frame begins what may be for one user only.

    When in doubt, yes: of a fragment nobody knows what will follow.
    """
    if frame.head[0] & OPCODE != TEXT:
        return False
    start, end = frame.plain()
    if frame.head[0] & FIN:
        return start.startswith(FORMS) and not is_for_all(frame, start, end)
    # The first fragment may be shorter than "nr=".
    return any(start.startswith(f) or f.startswith(start) for f in FORMS)


def is_for_all(frame: Piece, start: bytes, end: bytes) -> bool:
    """Tell whether a form surely says something to all, or a name."""
    if frame.size - len(frame.head) > MAX_KEPT:
        return False  # Its middle is not kept: "key=" may stand there.
    if start.startswith(NAMING):
        return b"&" not in start[len(NAMING) :]
    return end == TO_ALL and start.count(b"key=") == 1


def divide_block(block: bytes) -> tuple[list[Piece], int]:
    """Return the first frames of our own block, and how many there are."""
    return Stream().feed(block)
