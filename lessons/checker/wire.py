"""The checker's end of a connection: every wait in here has an end.

A Wire sends bytes in the very pieces that it is told, and takes apart what
comes back. Whatever a server does that it should not becomes a WrongError,
never a traceback.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import Any, Callable, Collection, NamedTuple, Sequence, Tuple, Union

from codec import (
    BINARY,
    CLOSE,
    FRAGMENT,
    PING,
    PONG,
    TEXT,
    Close,
    CloseCode,
    Decoder,
    ProtocolError,
    encode_frame,
    to_payload,
)
from lessons.words import many, plain, quoted

Message = Union[str, bytes]
Event = Tuple[int, Any]  # as Decoder.feed() yields it

PATIENCE = 5.0  # seconds in which not one byte moves
TICK = 0.05  # seconds; patience is counted in these
LONGEST = 12  # times the patience; for one who lets it move, but too little
PAUSE = 0.002  # seconds between two pieces, so that they are read one by one
PAUSES = 0.5  # seconds of pauses in one message; some servers give up soon
READ = 65536  # bytes
MAX_MESSAGE = 16 * 1024 * 1024  # bytes; we never send so much
MAX_UNASKED = 64 * 1024 * 1024  # bytes that are not the answer: a flood
MAX_OTHERS = 20_000  # messages that are not the answer: a flood, too
SHOWN = 16  # bytes of what came
KEPT = 40  # bytes of a frame that may break a rule


class Hint(NamedTuple):
    """Which rule is broken, with its section, one question, where to read."""

    rule: str
    question: str
    read: str


class WrongError(Exception):
    """What a server does is not what was expected; all in words.

    wire: on which connection it was seen. hint: if the step's own does not
    fit.
    """

    def __init__(
        self,
        wire: Wire | None,
        expected: str,
        got: str,
        hint: Hint | None = None,
    ) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.wire = wire
        self.expected = expected
        self.got = got
        self.hint = hint


class Reader(Decoder):
    """The decoder of a client, which knows the frame that it is at.

    begin: the first bytes of that frame.
    """

    begin = b""

    def read_header(
        self, data: bytes, at: int
    ) -> tuple[int, int, bytes, int, int] | None:
        """Keep the beginning of each frame, as it may break a rule."""
        self.begin = data[at : at + KEPT]
        return super().read_header(data, at)


class Wire:
    """One connection to the server, and all that travels on it.

    sent: the pieces since the last answer that was right, one for each
    send(); settled: that answer has come. others: messages that were not
    asked for. end: how the server ended it, in words.
    """

    def __init__(self, sock: socket.socket, patience: float) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.fileno = sock.fileno
        self.patience = patience
        self.sent: list[bytes] = []
        self.settled = False
        self.outbox = b""
        self.head = b""  # what came before the handshake was done
        self.handshaken = False
        self.decoder = Reader(masked=False, max_message=MAX_MESSAGE)
        self.events: deque[Event] = deque()
        self.unasked = 0  # bytes since the last answer that was right
        self.waiting: deque[Message] = deque()  # what is to come back
        self.heard: list[Message] = []  # our own, as they came back
        self.texts: list[str] = []  # all that came, our own or not
        self.others: list[Message] = []
        self.pongs: list[bytes] = []
        self.controls: list[str] = []  # pings and pongs, in words
        self.answers = b""  # to pings; not to be put inside a frame of ours
        self.close: Close | None = None
        self.error: ProtocolError | None = None
        self.end = ""
        self.deaf = False  # it never reads
        self.if_cut: Hint | None = STREAM  # when only a beginning comes back
        self.company: list[Wire] = []  # served while this one waits

    # ---- sending ----------------------------------------------------------

    def send(self, *pieces: bytes) -> None:
        """Send each piece by itself, with a pause before the next one."""
        ends = time.monotonic() + PAUSES
        for number, piece in enumerate(pieces):
            if number and time.monotonic() < ends:
                time.sleep(PAUSE)
            self.post(piece)
            pump([self], lambda: not self.outbox, self.patience)

    def post(self, piece: bytes) -> None:
        """Put a piece behind what waits to be sent."""
        if self.settled:
            self.settled = False
            self.sent = []
        self.sent.append(piece)
        self.outbox += piece

    def write(self) -> bool:
        """Give the kernel what it takes; tell whether it took anything."""
        try:
            taken = self.socket.send(self.outbox)
        except BlockingIOError:
            return False
        except OSError:
            # It does not read any more; perhaps it has said why.
            self.outbox = b""
            return False
        self.outbox = self.outbox[taken:]
        return taken > 0

    # ---- receiving --------------------------------------------------------

    def read(self) -> bool:
        """Read once; tell whether a byte came."""
        try:
            data = self.socket.recv(READ)
        except BlockingIOError:
            return False
        except OSError:
            self.end = RESET
            return False
        if not data:
            self.end = "it hung up"
            return False
        self.unasked += len(data)
        if self.unasked > MAX_UNASKED or len(self.events) > MAX_OTHERS:
            self.end = f"{many(self.unasked, 'byte')} that nobody asked for"
        elif self.handshaken:
            self.take_apart(data)
        else:
            self.head += data
        return True

    def take_apart(self, data: bytes) -> None:
        """Take messages out of what came; nothing counts behind the end."""
        if self.error or self.close:
            return
        try:
            for event in self.decoder.feed(data):
                if event != FRAGMENT:
                    self.events.append(event)
                if event[0] == CLOSE:
                    self.close = event[1]
        except ProtocolError as error:
            self.error = error

    def has_news(self) -> bool:
        """Tell whether there is something that was not looked at yet."""
        return bool(self.events or self.error or self.end)

    def has_ended(self) -> bool:
        """Tell whether nothing more will come."""
        return bool(self.end)

    # ---- what is asked of a server ----------------------------------------

    def hear(self, *messages: Message, settled: bool = True) -> None:
        """Wait until these come back, in this order; else WrongError.

        settled: this answers all that was sent.
        """
        self.waiting.extend(messages)
        while self.waiting:
            self.wait_for(self.is_wanted, describe(self.waiting[0]))
            self.heard.append(self.waiting.popleft())
        if settled:
            self.settle()

    def is_wanted(self, opcode: int, content: Any) -> bool:
        """Tell whether this is the message that is to come next."""
        return opcode in MESSAGES and is_same(content, self.waiting[0])

    def hear_others(self, said: set[str]) -> None:
        """Wait until all of these texts have come, in any order."""
        missing = said.difference(self.texts)
        while missing:
            self.wait_for(
                lambda opcode, content: opcode == TEXT and content in said,
                f"{describe(min(missing))}, said by another",
            )
            missing.difference_update(self.texts)

    def hear_pong(self, payload: bytes) -> None:
        """Wait for the pong to a ping that had this payload."""
        self.wait_for(
            lambda opcode, content: (opcode, content) == (PONG, payload),
            f"a pong with the ping's {many(len(payload), 'byte')}",
        )
        self.settle()

    def hear_close(self, expected: str, codes: Collection[int] = ()) -> None:
        """Wait for a Close frame, with one of these codes, if any are given."""
        self.wait_for(
            lambda opcode, content: (
                opcode == CLOSE and (not codes or content.code in codes)
            ),
            expected,
        )

    def wait_for(
        self, is_it: Callable[[int, Any], bool], expected: str
    ) -> None:
        """Wait for an event that is the one; WrongError if it never comes.

        Others may say what they like meanwhile, but not without an end.
        """
        for _ in range(MAX_OTHERS):
            pump([self, *self.company], self.has_news, self.patience)
            if not self.events:
                break
            opcode, content = self.events.popleft()
            if opcode == TEXT:
                self.texts.append(content)
            if is_it(opcode, content):
                return
            if opcode == CLOSE:
                break
            if opcode == PING:
                self.controls.append(f"a ping with {quoted(content)}")
                self.answers += encode_frame(PONG, content, b"pong")
            elif opcode == PONG:
                self.controls.append(f"a pong with {quoted(content)}")
                self.pongs.append(content)
            else:
                self.check_other(content)
                self.others.append(content)
        hint = about_answer(self.error) if self.error else None
        raise WrongError(self, expected, self.what_came(), hint)

    def check_other(self, found: Message) -> None:
        """Raise WrongError if it is our own, but wrong; others may talk."""
        got, hint = describe(found), None
        if found and found in self.heard:
            got += ", for the second time"
            hint = ONCE
        elif not self.waiting:
            return
        elif any(is_same(found, message) for message in self.waiting):
            got += ", which was sent later"
            hint = IN_ORDER
        else:
            wanted = to_payload(self.waiting[0])[1]
            payload = to_payload(found)[1]
            if payload == wanted:
                hint = KIND
            elif len(wanted) < OWN or payload[:OWN] != wanted[:OWN]:
                return
            elif wanted.startswith(payload):
                hint = self.if_cut
        expected = describe(self.waiting[0]) if self.waiting else "no more"
        raise WrongError(self, expected, got, hint)

    def hear_end(self) -> None:
        """Wait until the server hangs up."""
        pump([self], self.has_ended, self.patience)
        if not self.end:
            seconds = f"{self.patience:g} seconds"
            got = f"the connection is still open after {seconds}"
            raise WrongError(self, "then the server hangs up", got)

    def settle(self) -> None:
        """Note that all that was sent has been answered."""
        self.settled = True
        self.unasked = 0
        self.others, self.controls = [], []
        self.outbox += self.answers
        self.answers = b""

    def what_came(self) -> str:
        """Say what came in the place of what was expected."""
        if self.error:
            return "a frame that breaks a rule"
        if self.close:
            return f"a Close frame: {describe_close(self.close)}"
        parts = []
        if self.others:
            more = len(self.others) - 1
            parts.append(describe(self.others[0]))
            parts += [f"{many(more, 'more message')}"] if more else []
        parts += self.controls[-1:]
        if self.decoder.rest or self.decoder.missing or self.decoder.opcode:
            shown = self.decoder.begin[:SHOWN].hex(" ")
            parts.append(f"the beginning of a message, {shown} ..")
        if self.outbox and not self.end:
            waits = many(len(self.outbox), "byte")
            parts.append(f"no more reading: {waits} wait to be sent")
        parts.append(self.end or f"nothing for {self.patience:g} seconds")
        return ", then ".join(parts)

    def hang_up(self) -> None:
        """Close it, without a word."""
        self.end = self.end or "we hung up"
        self.socket.close()


def is_same(found: Message, message: Message) -> bool:
    """Tell whether they are equal, and both text or both binary."""
    return isinstance(found, type(message)) and found == message


MESSAGES = (TEXT, BINARY)
OWN = 8  # bytes; a message that begins like ours is ours
RESET = "it reset the connection (as close() does while bytes are unread)"
ENCODER = "codec.py: encode_header(), encode_message()"
ONCE = Hint(
    "s6.1: one message that is sent is one message that arrives",
    "Who is in the list of users twice, or what is done twice?",
    "server.py: Server.hand_out()",
)
IN_ORDER = Hint(
    "s6.2: frames are taken from the stream in their order",
    "What can overtake a message on its way through your server?",
    "server.py: Server.queue(), share()",
)
KIND = Hint(
    "s5.6: a text stays a text, opcode 1; binary data stay binary, opcode 2",
    "Which opcode did the frame have that you answer?",
    ENCODER,
)
STREAM = Hint(
    "s6.2: what comes is a stream of frames, not one frame in each read",
    "Does one recv() always bring the whole frame?",
    "codec.py: Decoder.feed()",
)


def about_answer(error: ProtocolError) -> Hint:
    """Return the hint to a rule that a frame of the server breaks."""
    if error.code == CloseCode.TOO_BIG:
        return Hint(LONG, "Which byte of the length comes first?", ENCODER)
    for rule, question in ABOUT_ANSWERS.items():
        if error.reason.startswith(rule):
            return Hint(error.reason, question, ENCODER)
    return Hint(error.reason, "What stands before your payload?", ENCODER)


LONG = "s5.2: a length in two or eight bytes has its high byte first"
ABOUT_ANSWERS = {
    "s5.1": "Which side masks its frames, and why only that one?",
    "s5.2: a reserved": "Which bits are set in the first byte of your frame?",
    "s5.2: opcode": "Which opcode has a text, and which binary data?",
    "s5.2: a length": "Up to which length is the second byte enough?",
    "s5.2: the top": "Which byte of the length comes first?",
    "s5.4": "Which opcode and which FIN has a message in one frame?",
    "s5.5": "Which frames may have 126 bytes or more?",
    "s7.4": "Which codes are for programs only, and never travel?",
    "s8.1": "Does the length that you send count bytes, or letters?",
}


def pump(
    wires: Sequence[Wire], done: Callable[[], bool], patience: float
) -> bool:
    """Write what waits and read what comes until done(); tell if it was.

    It gives up when nothing has moved for so many seconds. They are counted
    in ticks of our own select(): a busy machine, which makes this program
    wait, gives the server more time as well.
    """
    quiet = 0
    ends = time.monotonic() + LONGEST * patience
    while not done():
        open_wires = [wire for wire in wires if not wire.end]
        reading = [wire for wire in open_wires if not wire.deaf]
        writing = [wire for wire in open_wires if wire.outbox]
        if not reading and not writing:
            return False
        readable, writable, _ = select.select(reading, writing, [], TICK)
        moved = [wire.write() for wire in writable]
        moved += [wire.read() for wire in readable]
        quiet = quiet + 1 if not moved else 0
        if quiet * TICK >= patience or time.monotonic() > ends:
            return False
    return True


def describe(message: Message) -> str:
    """Return what a message is, in a few words."""
    payload = to_payload(message)[1]
    size = many(len(payload), "byte")
    more = " .." if len(payload) > SHOWN else ""
    if isinstance(message, str):
        return f"a text of {size}, {quoted(payload[:SHOWN])}{more}"
    if not payload:
        return "a binary message of 0 bytes"
    return f"{size} of binary data, {payload[:SHOWN].hex(' ')}{more}"


def describe_close(close: Close) -> str:
    """Return what a Close frame says."""
    if close.code == 1005:
        return "no code"
    reason = plain(close.reason[:40].encode("ascii", "replace"))
    return f'{close.code} "{reason}"' if reason else str(close.code)
