"""--break NAME: the server breaks one rule of RFC 6455, on purpose.

    python server.py 9000 --break mask --trace

Open the page, press F12 and read the console: Chromium's nearly always says
what the browser holds against this server, Firefox's says less. JavaScript is
told no more than 1006.

A fault is a function that takes the place of a right one in handshake or
codec. server.py calls those by the module's name, so it need not change.

--break "?" takes a fault by chance, and tells only at the end which it was.
(With the quotation marks: ? alone means something to some shells.)
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Callable, Iterator, NamedTuple

import codec
import handshake

# These names stay with the right functions: the faults are built on them.
from codec import encode_frame, encode_header, to_payload
from handshake import Request, accept_key, switching_protocols
from lessons.observer import Observer

CHANCE = "?"


class Breaker(Observer):
    """Break one rule at a time; at the end say what chance has broken.

    show: prints a text. named: what was asked for, also "?"; "": nothing.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show
        self.named = ""
        self.name = ""  # of the fault
        self.right: Any = None  # what its function was before

    def install(self, name: str) -> None:
        """Break this rule, and no other; "?": by chance."""
        self.mend()
        self.named = name
        self.name = secrets.choice([*FAULTS]) if name == CHANCE else name
        fault = FAULTS[self.name]
        module, function = fault.place
        self.right = getattr(module, function)
        setattr(module, function, fault.wrong)
        what = "which rule, it says at the end."
        if name != CHANCE:
            what = fault.sentence
        self.show(f"Broken on purpose (--break {name}): {what}")

    def mend(self) -> None:
        """Break nothing any more."""
        if self.named:
            setattr(*FAULTS[self.name].place, self.right)
            if self.named == CHANCE:
                sentence = FAULTS[self.name].sentence
                self.show(f"It was --break {self.name}: {sentence}")
            self.named = ""

    def ended(self) -> None:
        """Say which it was, when the loop has ended."""
        self.mend()


# ---- the handshake: no WebSocket opens --------------------------------------


def wrong_accept(request: Request) -> bytes:
    """Compute the accept key from a key with a space before it.

    s4.1, rule 4: a client must check it. A server that does not strip its
    header values answers like this. The console: "Incorrect
    'Sec-WebSocket-Accept' header value".
    """
    key = request.headers["Sec-WebSocket-Key"]
    right, wrong = accept_key(key), accept_key(" " + key)
    return switching_protocols(request).replace(right.encode(), wrong.encode())


def no_accept(request: Request) -> bytes:
    """Leave the accept key out.

    s4.1, rule 4: nothing proves then that the server speaks WebSocket. The
    console: "'Sec-WebSocket-Accept' header is missing".
    """
    answer = switching_protocols(request)
    return re.sub(rb"Sec-WebSocket-Accept: .*\r\n", b"", answer)


def wrong_status(request: Request) -> bytes:
    """Answer 200, as to a request for a page.

    s4.1, rule 1: only 101 changes the protocol. The console: "Unexpected
    response code: 200".
    """
    answer = switching_protocols(request)
    return answer.replace(b"101 Switching Protocols", b"200 OK")


def unasked(request: Request) -> bytes:
    """Choose a subprotocol that the client has not offered.

    s4.1, rule 6: it would not know how to talk. The console: "Response must
    not include ..."; but there are browsers that let it pass.
    """
    answer = switching_protocols(request)
    return answer[:-2] + b"Sec-WebSocket-Protocol: nobody-asked\r\n\r\n"


# ---- frames: it ends with the first one, when somebody joins ----------------


def masked(opcode: int, size: int, key: bytes = b"", fin: bool = True) -> bytes:
    """Set MASK in each frame, with a key of four zeros.

    s5.1: a server must not mask. XOR with 0 changes nothing, so the payload
    stays as it is. The client's Close says "Masked frame".
    """
    return encode_header(opcode, size, bytes(4), fin)


def reserved_bit(
    opcode: int, size: int, key: bytes = b"", fin: bool = True
) -> bytes:
    """Set the first reserved bit in each frame.

    s5.2: it belongs to extensions (compression), and none was agreed on.
    The client's Close says "Invalid reserved bit".
    """
    header = encode_header(opcode, size, key, fin)
    return bytes((header[0] | 0b0100_0000,)) + header[1:]


def opcode_3(message: str | bytes) -> tuple[int, bytes]:
    """Give each message an opcode that means nothing yet.

    s5.2: 0x3 to 0x7 are kept for later. The client's Close says "Unknown
    opcode".
    """
    return 0x3, to_payload(message)[1]


def not_utf8(message: str | bytes) -> tuple[int, bytes]:
    """End each text with a byte that UTF-8 does not have.

    s8.1: who finds that out must fail the connection. The code for it is
    1007 (s7.4.1), but Chromium's Close says 1002, "Invalid UTF-8".
    """
    opcode, payload = to_payload(message)
    return opcode, payload + b"\xff" if opcode == codec.TEXT else payload


def orphan(message: str | bytes) -> tuple[int, bytes]:
    """Continue a message that was never begun.

    s5.4: a continuation needs a first frame before it. The client's Close
    says "Unexpected continuation".
    """
    return codec.CONTINUATION, to_payload(message)[1]


def long_ping(message: str | bytes) -> tuple[int, bytes]:
    """Send, in place of each message, a ping that is one byte too long.

    s5.5: a control frame carries at most 125 bytes. The console: "Invalid
    frame header".
    """
    return codec.PING, b"x" * (codec.MAX_CONTROL + 1)


# ---- the end: press Disconnect, or Ctrl-C here ------------------------------


def close_1005(code: int, reason: str = "", key: bytes = b"") -> bytes:
    """Say 1005 in each Close frame, whatever the reason.

    s7.4.1: 1005 is for a program to be told that there was no code; it
    never travels. The console: "a reserved status code".
    """
    return encode_frame(codec.CLOSE, (1005).to_bytes(2, "big"), key)


def no_close(code: int, reason: str = "", key: bytes = b"") -> bytes:
    """Send nothing for a Close frame; then the server hangs up.

    s5.5.1: a Close must be answered. The console says nothing, but the page
    is told 1006, as if somebody had pulled out the cable.
    """
    return b""


# ---- the tutorial's own -----------------------------------------------------


def one_read(decoder: codec.Decoder, data: bytes) -> Iterator[tuple[int, Any]]:
    """Take one read for one frame, as the PHP tutorial does.

    s6.2: what comes in is a stream of frames, however TCP cuts it. Of three
    messages at once some are lost. Of a long one only the beginning arrives;
    the next read begins in the middle of it, what is found there is taken
    for a header, and each time another rule seems to be broken.
    """
    header = decoder.read_header(data, 0)
    if header is None:
        return
    _, opcode, key, start, length = header
    payload = codec.mask(data[start : start + length], key)
    if opcode == codec.TEXT:
        yield opcode, codec.decode_text(payload)
    elif opcode == codec.CLOSE:
        yield opcode, codec.decode_close(payload)
    else:
        yield opcode, payload


# ---- all of them ------------------------------------------------------------


class Fault(NamedTuple):
    """What is said at the start, what is replaced, and by what."""

    sentence: str
    place: tuple[Any, str]  # a module (or class) and a function in it
    wrong: Callable[..., Any]


ANSWER = handshake, "switching_protocols"
HEADER = codec, "encode_header"
MESSAGE = codec, "to_payload"
CLOSE = codec, "encode_close"
READ = codec.Decoder, "feed"

FAULTS = {
    "accept": Fault("its accept key is wrong.", ANSWER, wrong_accept),
    "no-accept": Fault("it sends no accept key.", ANSWER, no_accept),
    "status": Fault("it answers 200, not 101.", ANSWER, wrong_status),
    "subprotocol": Fault("a subprotocol nobody asked for.", ANSWER, unasked),
    "mask": Fault("the server masks its frames.", HEADER, masked),
    "rsv": Fault("each frame has a reserved bit set.", HEADER, reserved_bit),
    "opcode": Fault("its messages have opcode 0x3.", MESSAGE, opcode_3),
    "utf8": Fault("its texts are not UTF-8.", MESSAGE, not_utf8),
    "orphan": Fault("messages go out as continuations.", MESSAGE, orphan),
    "long-ping": Fault("pings of 126 bytes, no messages.", MESSAGE, long_ping),
    "close-1005": Fault("its Close frames carry 1005.", CLOSE, close_1005),
    "drop": Fault("it hangs up without a Close frame.", CLOSE, no_close),
    "php": Fault("one read is taken for one frame.", READ, one_read),
}
