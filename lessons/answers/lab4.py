"""Lab 4: a decoder that keeps the rest. RFC 6455 sections 5.4 to 6.2.

TCP brings bytes, not messages. One read may hold half a frame, or three.
What is whole is given out; the rest is kept until more comes.

read_header(data, at) is that of lab 3, for the frame that begins at data[at]:
None, or fin, opcode, key, start, length.
mask() is that of lab 2.

Write what is missing, save, then: python -m lessons.lab 4
"""

from __future__ import annotations

from codec import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    decode_close,
)
from lessons.answers.lab2 import mask
from lessons.answers.lab3 import read_header


class Decoder:
    """Turn what one user sends into messages, however TCP cuts it."""

    def __init__(self) -> None:
        """Begin: nothing has come yet. Prepare what you will remember."""
        self.rest = b""  # a frame that is not yet whole
        self.opcode = 0  # of the message whose pieces are coming
        self.payload = b""  # of those that came

    def feed(self, data: bytes) -> list[tuple[int, object]]:
        """Take in one read; return the messages that are whole now.

        In:  data, the bytes of one read. All frames are masked.
        Out: a list, perhaps an empty one, of pairs (opcode, message):
             (TEXT, str), (BINARY, bytes), (PING, bytes), (PONG, bytes),
             and for a Close frame (CLOSE, decode_close(payload)).

        A long message may come in several frames (fragments): the first
        has the opcode and no FIN, the next ones have CONTINUATION, the last
        one FIN. Between them there may be a ping, a pong or a Close, each
        of them whole. Each frame has its own masking key. Text is UTF-8,
        and a character may be cut anywhere: decode it when all is there.

        An example: a masked "Hello" (RFC 6455 section 5.7), in two reads.

        >>> decoder = Decoder()
        >>> decoder.feed(bytes.fromhex("818537fa213d7f"))
        []
        >>> decoder.feed(bytes.fromhex("9f4d5158"))
        [(1, 'Hello')]
        """
        self.rest += data
        messages: list[tuple[int, object]] = []
        while True:
            header = read_header(self.rest, 0)
            if header is None:
                return messages
            fin, opcode, key, start, length = header
            end = start + length
            if len(self.rest) < end:
                return messages
            payload = mask(self.rest[start:end], key)
            self.rest = self.rest[end:]
            if opcode == CLOSE:
                messages.append((CLOSE, decode_close(payload)))
            elif opcode in (PING, PONG):
                messages.append((opcode, payload))
            else:
                if opcode != CONTINUATION:
                    self.opcode, self.payload = opcode, b""
                self.payload += payload
                if fin and self.opcode == TEXT:
                    messages.append((TEXT, self.payload.decode()))
                elif fin:
                    messages.append((BINARY, self.payload))
