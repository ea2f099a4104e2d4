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
from typing import Any, Callable, Sequence, Tuple, Union

from codec import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Close,
    Decoder,
    ProtocolError,
    encode_frame,
    to_payload,
)
from lessons.trace import many, plain, quoted

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
SHOWN = 12  # bytes of what came
KEPT = 40  # bytes of a frame that may break a rule


class WrongError(Exception):
    """What a server does is not what was expected; all in words.

    rule, question: if they are not those of the step. wire: on which
    connection it was seen.
    """

    def __init__(
        self,
        wire: Wire | None,
        expected: str,
        got: str,
        rule: str = "",
        question: str = "",
    ) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.wire = wire
        self.expected = expected
        self.got = got
        self.rule = rule
        self.question = question


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
    send(). others: messages that were not asked for. end: how the server
    ended it, in words. settled: the last answer was right.
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
        self.heard: list[Message] = []  # our own, as they came back
        self.texts: list[str] = []  # all that came, our own or not
        self.others: list[Message] = []
        self.pongs: list[bytes] = []
        self.close: Close | None = None
        self.error: ProtocolError | None = None
        self.end = ""
        self.deaf = False  # it never reads
        self.company: list[Wire] = []  # served while this one waits

    # ---- sending ----------------------------------------------------------

    def send(self, *pieces: bytes) -> None:
        """Send each piece by itself, with a pause before the next one."""
        if self.settled:
            self.settled = False
            self.sent = []
        ends = time.monotonic() + PAUSES
        for piece in pieces:
            if piece is not pieces[0] and time.monotonic() < ends:
                time.sleep(PAUSE)
            self.sent.append(piece)
            self.outbox += piece
            pump([self], lambda: not self.outbox, self.patience)

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
            self.end = "it reset the connection"
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
                self.events.append(event)
                if event[0] == CLOSE:
                    self.close = event[1]
        except ProtocolError as error:
            self.error = error

    def next_event(self) -> Event | None:
        """Return what comes next, or None: nothing will, see what_came()."""
        pump([self, *self.company], self.has_news, self.patience)
        if not self.events:
            return None
        event = self.events.popleft()
        if event[0] == TEXT:
            self.texts.append(event[1])
        return event

    def has_news(self) -> bool:
        """Tell whether there is something that was not looked at yet."""
        return bool(self.events or self.error or self.end)

    def next_message(self) -> Event | None:
        """Return the next event that is no ping; a ping is answered."""
        for _ in range(MAX_OTHERS):
            event = self.next_event()
            if not event or event[0] != PING:
                return event
            # Not in between: it would stand inside a frame of ours.
            if not self.outbox:
                self.outbox = encode_frame(PONG, event[1], b"pong")
        self.end = "pings without an end"
        return None

    # ---- what is asked of a server ----------------------------------------

    def hear(self, *messages: Message, settled: bool = True) -> None:
        """Wait until these come back, in this order; else WrongError.

        Others may talk meanwhile. settled: what was sent is answered now.
        """
        waiting = deque(messages)
        for _ in range(MAX_OTHERS):
            if not waiting:
                break
            opcode, content = self.next_message() or NOTHING
            if opcode == CLOSE:
                raise self.wrong(f"{describe(waiting[0])} comes back")
            if opcode == PONG:
                self.pongs.append(content)
            elif is_same(content, waiting[0]):
                self.heard.append(waiting.popleft())
            else:
                self.check_other(content, waiting)
                self.others.append(content)
        if waiting:
            raise self.wrong(f"{describe(waiting[0])} comes back")
        if settled:
            self.settle()

    def check_other(self, found: Message, waiting: Sequence[Message]) -> None:
        """Raise WrongError if it is ours, but wrong; others may talk."""
        wanted = waiting[0]
        expected, got = f"{describe(wanted)} comes back", describe(found)
        begin, other = to_payload(wanted)[1][:OWN], to_payload(found)[1]
        rule = question = ""
        if found and found in self.heard:
            got += ", for the second time"
            rule, question = ONCE, "Who is in your list twice, or where?"
        elif any(is_same(found, message) for message in waiting):
            got += ", which was sent later"
            rule, question = IN_ORDER, "What can overtake a message?"
        elif len(begin) < OWN or not other.startswith(begin):
            return  # somebody else has said it
        elif to_payload(wanted)[1] == other:
            rule, question = KIND, "Which opcode did the frame have?"
        elif to_payload(wanted)[1].startswith(other):
            rule, question = STREAM, "Does one recv() bring the whole frame?"
        raise WrongError(self, expected, got, rule, question)

    def hear_others(self, said: set[str]) -> None:
        """Wait until all of these texts have come, in any order."""
        missing = said.difference(self.texts)
        while missing:
            opcode, content = self.next_message() or NOTHING
            if opcode == CLOSE:
                raise self.wrong(f"{describe(min(missing))}, said by another")
            missing.discard(content)

    def hear_pong(self, payload: bytes) -> None:
        """Wait for the pong to a ping that had this payload."""
        expected = f"a pong with the ping's {many(len(payload), 'byte')}"
        for _ in range(MAX_OTHERS):
            event = self.next_message()
            if not event or event[0] == CLOSE:
                break
            if event == (PONG, payload):
                self.settle()
                return
            if event[0] == PONG:
                self.pongs.append(event[1])
            else:
                self.others.append(event[1])
        raise self.wrong(expected)

    def hear_close(self, expected: str, codes: Sequence[int] = ()) -> None:
        """Wait for a Close frame, with one of these codes, if any are given."""
        for _ in range(MAX_OTHERS):
            event = self.next_message()
            if not event:
                break
            if event[0] == CLOSE:
                if codes and event[1].code not in codes:
                    break
                return
            if event[0] != PONG:
                self.others.append(event[1])
        raise self.wrong(expected)

    def hear_end(self) -> None:
        """Wait until the server hangs up."""
        pump([self], lambda: bool(self.end), self.patience)
        if not self.end:
            seconds = f"{self.patience:g} seconds"
            got = f"the connection is still open after {seconds}"
            raise WrongError(self, "then the server hangs up", got)

    def settle(self) -> None:
        """Note that the last answer was right."""
        self.settled = True
        self.unasked = 0
        self.others = []

    def wrong(self, expected: str) -> WrongError:
        """Return the WrongError for something that did not come."""
        rule = self.error.reason if self.error else ""
        return WrongError(self, expected, self.what_came(), rule)

    def what_came(self) -> str:
        """Say what came in the place of what was expected."""
        if self.error:
            return "a frame that breaks a rule"
        if self.close:
            return f"a Close frame: {describe_close(self.close)}"
        if self.outbox:
            waits = many(len(self.outbox), "byte")
            return self.end or f"it stopped reading: {waits} wait"
        parts = []
        if self.others:
            parts.append(describe(self.others[0]))
        if self.pongs:
            parts.append(f"a pong with {quoted(self.pongs[-1])}")
        if self.decoder.rest or self.decoder.missing or self.decoder.opcode:
            shown = self.decoder.begin[:SHOWN].hex(" ")
            parts.append(f"the beginning of a message, {shown} ..")
        parts.append(self.end or f"nothing for {self.patience:g} seconds")
        return ", then ".join(parts)

    def hang_up(self) -> None:
        """Close it, without a word."""
        self.end = self.end or "we hung up"
        self.socket.close()


NOTHING: Event = CLOSE, None  # neither is a message


def is_same(found: Message, message: Message) -> bool:
    """Tell whether they are equal, and both text or both binary."""
    return isinstance(found, type(message)) and found == message


OWN = 8  # bytes: a message that begins like ours is ours
ONCE = "s6.1: one message that is sent is one message that arrives"
IN_ORDER = "s6.2: frames are taken from the stream in their order"
KIND = "s5.6: a text stays a text (opcode 1), binary data stay binary (2)"
STREAM = "s6.2: what comes is a stream of frames, not one frame in each read"


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
    shown = quoted(payload[:24]) + (" .." if len(payload) > 24 else "")
    if isinstance(message, str):
        return f"a text of {many(len(payload), 'byte')}, {shown}"
    shown = payload[:SHOWN].hex(" ") + (" .." if len(payload) > SHOWN else "")
    return f"{many(len(payload), 'byte')} of binary data, {shown}"


def describe_close(close: Close) -> str:
    """Return what a Close frame says."""
    if close.code == 1005:
        return "no code"
    reason = plain(close.reason[:40].encode("ascii", "replace"))
    return f'{close.code} "{reason}"' if reason else str(close.code)
