"""RFC 6455 section 5: bytes to messages and back, for both ends.

No socket, no clock in here: bytes in, values out.

    recv -> Decoder.feed(bytes) -> (opcode, message), ...
    message -> encode_message(message) -> bytes -> send

A server decodes masked frames and sends unmasked ones; a client does it
the other way round. Everything else is the same on both sides.

     0               1               2               3
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |F|R|R|R| opcode|M| length      | length, if 126 (16 bits)      |
    |I|S|S|S|  (4)  |A|  (7)        |      or if 127 (64 bits)      |
    |N|V|V|V|       |S|             +-------------------------------+
    | |1|2|3|       |K|             | masking key, if MASK (32 bits)|
    +-+-+-+-+-------+-+-------------+-------------------------------+
    | payload ...                                                   |
    +---------------------------------------------------------------+
"""

from __future__ import annotations

import codecs
import errno
from enum import IntEnum
from typing import Any, Iterator, NamedTuple


class Opcode(IntEnum):
    """What a frame is (RFC 6455 s5.2); from 0x8 up: a control frame."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection ends (RFC 6455 s7.4.1)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    NO_CODE = 1005  # never on the wire: a Close frame without a code
    ABNORMAL = 1006  # never on the wire: no Close frame at all
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011


class Close(NamedTuple):
    """The content of a Close frame."""

    code: int
    reason: str


FIN = 0b1000_0000
RSV = 0b0111_0000
OPCODE = 0b0000_1111
MASK = 0b1000_0000
LENGTH = 0b0111_1111

LENGTH_16 = 126  # in the 7 bits: the length stands in the next 2 bytes
LENGTH_64 = 127  # in the 7 bits: the length stands in the next 8 bytes
MAX_CONTROL = 125  # RFC 6455 s5.5: payload bytes of a ping, pong or Close
MAX_MESSAGE = 1024 * 1024  # one pasted photograph, not somebody's disk

# Plain numbers: an enum member costs a lookup each time, once per frame.
OPCODES = frozenset(int(opcode) for opcode in Opcode)
CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA
FRAGMENT = CONTINUATION, b""  # what feed() yields for one that ends no message


class ProtocolError(Exception):
    """The other side broke a rule.

    code: what our Close frame says (int); reason: the rule, in words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{int(code)} {reason}")
        self.code = int(code)
        self.reason = reason


def broken(rule: str) -> ProtocolError:
    """Return the error for a broken framing rule: Close code 1002."""
    return ProtocolError(CloseCode.PROTOCOL_ERROR, rule)


def in_words(error: Exception) -> str:
    """Say what failed, in the same words on every system."""
    words = FAILURES.get(getattr(error, "errno", 0))
    # TimeoutError("no pong") has no strerror.
    words = words or getattr(error, "strerror", None) or str(error)
    return words or type(error).__name__


# Windows says these in the language that it is set to, and Wine knows only
# some of them: it would be "Windows Error 0x274a".
FAILURES = {
    errno.EPIPE: "Broken pipe",
    errno.ESHUTDOWN: "Broken pipe",  # the same, on Windows
    errno.ECONNABORTED: "Connection aborted",
    errno.ECONNREFUSED: "Connection refused",
    errno.ECONNRESET: "Connection reset by peer",
    errno.EHOSTUNREACH: "No route to host",
    errno.ENETUNREACH: "Network is unreachable",
    errno.ETIMEDOUT: "Connection timed out",
}


class Decoder:
    """Turn the bytes of one connection into messages, however they arrive.

    masked: True on a server (RFC 6455 s5.1: a client masks every frame),
    False on a client (a server masks none).
    max_message: the most payload bytes in one message, all fragments added.
    """

    __slots__ = (
        "mask_bit", "max_message", "rest",
        "fin", "key", "missing", "opcode", "payload", "utf8",
    )  # fmt: skip

    def __init__(self, masked: bool, max_message: int = MAX_MESSAGE) -> None:
        self.mask_bit = MASK if masked else 0
        self.max_message = max_message
        self.rest = b""  # a header or control frame that is not yet whole
        # The data frame whose payload is arriving, when it comes in pieces:
        self.fin = 0
        self.key = b""
        self.missing = 0  # payload bytes still to come
        # The message that it belongs to:
        self.opcode = CONTINUATION  # of its first frame; CONTINUATION: none
        self.payload = bytearray()
        self.utf8: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """Take in one read; yield (opcode, message) for each that is whole.

        (TEXT, str), (BINARY, bytes), (PING, bytes), (PONG, bytes) or (CLOSE,
        Close). For whoever counts frames: FRAGMENT for one that ends none.
        Raises ProtocolError at a broken rule, after the messages before it.
        After that, or after a Close: feed nothing more. Else iterate to the
        end: a generator does no more than it is asked for.
        """
        if self.rest:
            data = self.rest + data
            self.rest = b""
        at, have = 0, len(data)
        if self.missing:
            at = self.take_piece(data, 0)
            if not self.missing and self.fin:
                yield self.end_message()
        while at < have:
            header = self.read_header(data, at)
            if header is None:
                break
            fin, opcode, key, start, length = header
            end = start + length
            if end <= have and fin and opcode != CONTINUATION:
                # 1. A message in one frame, or a control frame: all is here.
                payload = mask(data[start:end], key)
                at = end
                if opcode == TEXT:
                    yield TEXT, decode_text(payload)
                elif opcode == CLOSE:
                    yield CLOSE, decode_close(payload)
                    return  # s5.5.1: nothing counts behind a Close frame
                else:
                    yield opcode, payload
            elif opcode >= CLOSE:
                break  # 2. Part of a control frame: it is short, so wait.
            else:
                # 3. A piece of a message: keep it, note what is missing.
                self.begin_frame(fin, opcode, key, length)
                at = self.take_piece(data, start)
                if not self.missing:
                    yield self.end_message() if fin else FRAGMENT
        self.rest = data[at:]

    def read_header(
        self, data: bytes, at: int
    ) -> tuple[int, int, bytes, int, int] | None:
        """Read the frame header at data[at:], in wire order (s5.2).

        Returns (fin, opcode, key, where the payload starts, its length), or
        None while bytes are missing. Raises ProtocolError at the first
        field that breaks a rule, before any payload is looked at.
        """
        have = len(data)
        if have - at < 2:
            return None
        first, second = data[at], data[at + 1]
        at += 2
        fin = first & FIN
        opcode = first & OPCODE
        length = second & LENGTH
        if first & RSV:
            raise broken("s5.2: a reserved bit is set, no extension is in use")
        if second & MASK != self.mask_bit:
            side = "client must" if self.mask_bit else "server must not"
            raise broken(f"s5.1: a {side} mask")
        self.check_opcode(fin, opcode, length)
        if length >= LENGTH_16:
            size = 2 if length == LENGTH_16 else 8
            if have - at < size:
                return None
            length = int.from_bytes(data[at : at + size], "big")
            at += size
            check_length(length, size)
        if opcode < CLOSE and length + len(self.payload) > self.max_message:
            raise ProtocolError(
                CloseCode.TOO_BIG,
                f"s7.4.1: a message has at most {self.max_message} bytes",
            )
        if not self.mask_bit:
            return fin, opcode, b"", at, length
        if have - at < 4:
            return None
        return fin, opcode, data[at : at + 4], at + 4, length

    def check_opcode(self, fin: int, opcode: int, length: int) -> None:
        """Check that such a frame may come now (s5.4, s5.5)."""
        if opcode not in OPCODES:
            raise broken(f"s5.2: opcode 0x{opcode:X} is reserved")
        if opcode >= CLOSE:
            if not fin:
                raise broken("s5.5: a control frame must not be fragmented")
            if length > MAX_CONTROL:
                raise broken("s5.5: a control frame carries at most 125 bytes")
        elif opcode == CONTINUATION:
            if not self.opcode:
                raise broken("s5.4: a continuation of no message")
        elif self.opcode:
            raise broken("s5.4: a new message inside an unfinished one")

    def begin_frame(
        self, fin: int, opcode: int, key: bytes, length: int
    ) -> None:
        """Note what is needed for a data frame that comes in pieces."""
        self.fin, self.key, self.missing = fin, key, length
        if opcode != CONTINUATION:
            self.opcode = opcode
            if opcode == TEXT:
                self.utf8 = codecs.getincrementaldecoder("utf-8")()

    def take_piece(self, data: bytes, at: int) -> int:
        """Add to the message what data[at:] has of the current frame.

        Returns where the frame, or the data, ends. Raises ProtocolError
        (1007) as soon as a text cannot become valid any more.
        """
        piece = data[at : at + self.missing]
        begin, size = len(self.payload), len(piece)
        self.missing -= size
        if size >= LONG:
            self.payload += piece
            mask_in_place(self.payload, begin, self.key)
        else:
            self.payload += mask(piece, self.key)
        # The next piece may start in the middle of the key.
        shift = size % 4
        self.key = self.key[shift:] + self.key[:shift]
        if self.utf8:
            check_utf8(self.utf8, self.payload[begin:])
        return at + size

    def end_message(self) -> tuple[int, Any]:
        """Return the message whose last frame is complete."""
        opcode, payload = self.opcode, self.payload
        self.opcode = CONTINUATION
        self.payload = bytearray()
        self.utf8 = None
        if opcode == TEXT:
            return TEXT, decode_text(payload)
        return BINARY, bytes(payload)


def check_length(length: int, size: int) -> None:
    """Check a length that stood in size bytes, 2 or 8 (s5.2)."""
    if length >> 63:
        raise broken("s5.2: the top bit of a 64-bit length must be 0")
    if length < LENGTH_16 or (size == 8 and length <= 0xFFFF):
        raise broken("s5.2: a length must use the fewest bytes possible")


def decode_text(payload: bytes | bytearray) -> str:
    """Return the text of a whole message; not UTF-8: ProtocolError 1007."""
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise bad_text(error) from None


def check_utf8(decoder: codecs.IncrementalDecoder, piece: bytearray) -> None:
    """Raise ProtocolError 1007 when text cannot become valid any more."""
    try:
        decoder.decode(piece)
    except UnicodeDecodeError as error:
        raise bad_text(error) from None
    pending = decoder.getstate()[0]
    # ED A0 to ED BF begin a surrogate; Python waits for the third byte.
    if pending[:1] == b"\xed" and pending[1:] >= b"\xa0":
        raise bad_text(UnicodeDecodeError("utf-8", pending, 0, 2, ""))


def bad_text(error: UnicodeDecodeError) -> ProtocolError:
    """Return the error for text that is not UTF-8: Close code 1007."""
    byte = error.object[error.start]
    return ProtocolError(
        CloseCode.INVALID_DATA, f"s8.1: not UTF-8 (byte 0x{byte:02X})"
    )


def decode_close(payload: bytes) -> Close:
    """Take a Close frame's payload apart (s5.5.1)."""
    if not payload:
        return Close(int(CloseCode.NO_CODE), "")  # as all other codes are
    if len(payload) == 1:
        raise broken("s5.5.1: a close code has two bytes")
    code = int.from_bytes(payload[:2], "big")
    if not may_be_sent(code):
        raise broken(f"s7.4: close code {code} must not be sent")
    return Close(code, decode_text(payload[2:]))


def may_be_sent(code: int) -> bool:
    """Tell whether a Close frame may carry this code (s7.4)."""
    if code in (1004, CloseCode.NO_CODE, CloseCode.ABNORMAL):
        return False
    # 1012 to 1014 came later, by IANA; 1015 and up to 2999 is reserved;
    # from 3000 on the codes belong to libraries and applications.
    return 1000 <= code <= 1014 or 3000 <= code <= 4999


def encode_message(message: str | bytes, key: bytes = b"") -> bytes:
    """Return the frame for one message: str as text, bytes as binary."""
    opcode, payload = to_payload(message)
    return encode_frame(opcode, payload, key)


def to_payload(message: str | bytes) -> tuple[int, bytes]:
    """Return (opcode, payload) for a message; TypeError for anything else."""
    if isinstance(message, str):
        return TEXT, message.encode()
    if isinstance(message, bytes):
        return BINARY, message
    kind = type(message).__name__
    raise TypeError(f"a message is str or bytes, not {kind}")


def encode_close(code: int, reason: str = "", key: bytes = b"") -> bytes:
    """Return a Close frame (s5.5.1); 1005 stands for one without a code.

    Raises ValueError for a code that must not be sent and for a reason
    that has more than 123 bytes.
    """
    if code == CloseCode.NO_CODE and not reason:
        return encode_frame(CLOSE, b"", key)
    if not may_be_sent(code):
        raise ValueError(f"close code {code} must not be sent")
    payload = code.to_bytes(2, "big") + reason.encode()
    if len(payload) > MAX_CONTROL:
        raise ValueError("the reason of a close has at most 123 bytes")
    return encode_frame(CLOSE, payload, key)


def encode_frame(
    opcode: int, payload: bytes, key: bytes = b"", fin: bool = True
) -> bytes:
    """Return one frame (s5.2).

    key: 4 bytes to mask with, as a client must; empty: not masked.
    """
    header = encode_header(opcode, len(payload), key, fin)
    return header + mask(payload, key)


def encode_header(
    opcode: int, size: int, key: bytes = b"", fin: bool = True
) -> bytes:
    """Return all of a frame that stands before a payload of size bytes."""
    first = FIN | opcode if fin else opcode
    mask_bit = MASK if key else 0
    if size < LENGTH_16:
        return bytes((first, mask_bit | size)) + key
    if size <= 0xFFFF:
        header = bytes((first, mask_bit | LENGTH_16))
        return header + size.to_bytes(2, "big") + key
    header = bytes((first, mask_bit | LENGTH_64))
    return header + size.to_bytes(8, "big") + key


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask: the same thing (s5.3), as XOR undoes itself.

    The definition, and what the fast forms are tested against:

        bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))

    A short payload and the key, repeated, are XORed as two large numbers.
    """
    size = len(payload)
    if not key:
        return payload  # a server does not mask
    if size < LONG:
        repeated = (key * (size // 4 + 1))[:size]
        number = int.from_bytes(payload, "little")
        number ^= int.from_bytes(repeated, "little")
        return number.to_bytes(size, "little")
    masked = bytearray(payload)
    mask_in_place(masked, 0, key)
    return bytes(masked)


def mask_in_place(data: bytearray, begin: int, key: bytes) -> None:
    """Mask or unmask data[begin:], without a copy of it."""
    # Bytes 0, 4, 8 ... all meet key[0], so one table of 256 answers
    # translates them all; then bytes 1, 5, 9 ... meet key[1], and so on.
    for i, byte in enumerate(key):
        data[begin + i :: 4] = data[begin + i :: 4].translate(XOR_TABLES[byte])


LONG = 1024  # bytes; from here on tables are faster than numbers
# XOR_TABLES[k][b] == b ^ k
XOR_TABLES = [bytes(b ^ k for b in range(256)) for k in range(256)]
