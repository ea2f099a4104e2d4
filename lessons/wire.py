"""The checker's end of a connection: every wait in here has an end.

A Wire sends bytes in the very pieces that it is told, and takes apart what
comes back. A Room opens such wires to one server. Whatever a server does
that it should not becomes a WrongError, never a traceback.
"""

from __future__ import annotations

import base64
import contextlib
import random
import select
import socket
import time
from collections import deque
from typing import Any, Callable, NamedTuple, Sequence, Tuple, Union

import handshake
from codec import (
    CLOSE,
    PING,
    PONG,
    Close,
    Decoder,
    ProtocolError,
    encode_frame,
    to_payload,
)
from handshake import HandshakeError, Response
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
SHOWN = 12  # bytes of what is not understood


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


class NobodyError(Exception):
    """There is no server to be checked, in one line."""


class Address(NamedTuple):
    """Where the server is: ws://HOST:PORT/TARGET."""

    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"ws://{self.name()}{self.target}"

    def name(self) -> str:
        """Return the host and the port, as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


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
        self.response: Response | None = None
        self.decoder = Decoder(masked=False, max_message=MAX_MESSAGE)
        self.events: deque[Event] = deque()
        self.last_read = b""
        self.unasked = 0  # bytes since the last answer that was right
        self.heard: list[Message] = []  # our own, as they came back
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
        self.last_read = data
        if self.unasked > MAX_UNASKED or len(self.events) > MAX_OTHERS:
            self.end = f"{many(self.unasked, 'byte')} that nobody asked for"
        elif self.response:
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
        waiting = [self, *self.company]
        pump(waiting, lambda: bool(self.events or self.error), self.patience)
        return self.events.popleft() if self.events else None

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

    def hear(self, message: Message) -> None:
        """Wait until this message comes back; WrongError if it does not."""
        expected = f"{describe(message)} comes back"
        for _ in range(MAX_OTHERS):
            event = self.next_message()
            if not event or event[0] == CLOSE:
                break
            opcode, content = event
            if opcode == PONG:
                self.pongs.append(content)
            elif content == message and isinstance(content, type(message)):
                self.heard.append(content)
                self.settle()
                return
            else:
                self.check_other(message, content, expected)
                self.others.append(content)
        raise self.wrong(expected)

    def check_other(
        self, message: Message, content: Message, expected: str
    ) -> None:
        """Raise WrongError if it is ours, but changed; others may talk, too."""
        if content and content in self.heard:
            got = f"{describe(content)} for the second time"
            raise WrongError(self, expected, got, rule=ONCE)
        wanted, found = to_payload(message)[1], to_payload(content)[1]
        if wanted[:8] != found[:8] or len(found) < min(8, len(wanted)):
            return
        if wanted == found:
            rule, question = KIND, "Which opcode did the first frame have?"
        elif wanted.startswith(found):
            rule, question = STREAM, "Does one recv() bring the whole frame?"
        else:
            rule = question = ""
        raise WrongError(self, expected, describe(content), rule, question)

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
        """Wait for a Close frame, with one of these codes if there are any."""
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
        pump([self], lambda: False, self.patience)
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
            shown = f"{self.last_read[:SHOWN].hex(' ')} .."
            return f"a frame that breaks a rule, in the bytes {shown}"
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
            shown = f"{self.last_read[:SHOWN].hex(' ')} .."
            parts.append(f"the beginning of a message, {shown}")
        parts.append(self.end or f"nothing for {self.patience:g} seconds")
        return ", then ".join(parts)

    def hang_up(self) -> None:
        """Close it, without a word."""
        self.end = self.end or "we hung up"
        self.socket.close()


ONCE = "s5.4: one message is one message; it comes once"
KIND = "s5.6: a text stays a text (opcode 1), binary data stay binary (2)"
STREAM = "s6.2: what comes is a stream of frames, not one frame per read"


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


# ---- all wires to one server ------------------------------------------------


class Room:
    """The server that is checked, and the wires to it.

    seed: the same one gives the same bytes. first: a socket that is already
    connected, for the first wire.
    """

    def __init__(
        self,
        address: Address,
        seed: Any,
        patience: float,
        first: socket.socket | None = None,
    ) -> None:
        self.address = address
        self.dice = random.Random(str(seed))
        self.patience = patience
        self.first = first
        self.wires: list[Wire] = []

    def knock(self, buffer: int = 0) -> Wire:
        """Return a wire without a handshake.

        buffer: how many bytes it may receive without reading, about.
        """
        sock = None if buffer else self.first
        try:
            if sock:
                self.first = None
            else:
                sock = connect(self.address, self.patience, buffer)
        except OSError as error:
            raise WrongError(
                None,
                "the server takes one more connection",
                f"{error.strerror or error}: has it ended?",
            ) from None
        wire = Wire(sock, self.patience)
        self.wires.append(wire)
        return wire

    def join(self, buffer: int = 0) -> Wire:
        """Return a wire whose handshake is done."""
        wire = self.knock(buffer)
        key = self.key()
        wire.send(self.request(key))
        self.enter(wire, key)
        return wire

    def enter(self, wire: Wire, key: str) -> None:
        """Wait for the answer to a handshake; it must be right."""
        response = self.answer(wire)
        if not response:
            raise WrongError(wire, "the answer 101", self.what_head(wire))
        try:
            handshake.check_response(response, key)
        except HandshakeError as error:
            got = f"{error.status} {plain(error.reason.encode())}"
            raise WrongError(wire, "the answer 101", got) from None
        wire.settle()

    def answer(self, wire: Wire) -> Response | None:
        """Wait for an HTTP answer; None: there is none, see what_head()."""
        taken: Any = None

        def is_whole() -> bool:
            nonlocal taken
            with contextlib.suppress(HandshakeError):
                taken = handshake.take_response(wire.head)
                return taken is not None
            return True

        pump([wire, *wire.company], is_whole, self.patience)
        if not taken:
            return None
        wire.response, rest = taken
        if rest and wire.response.status == 101:
            wire.take_apart(rest)
        return wire.response

    def what_head(self, wire: Wire) -> str:
        """Say what came in the place of an HTTP answer."""
        if not wire.head:
            return wire.end or f"nothing for {self.patience:g} seconds"
        shown = quoted(wire.head[:50])
        try:
            handshake.take_response(wire.head)
        except HandshakeError as error:
            return f"{shown}: {error.reason}"
        end = wire.end or "nothing more"
        return f"no empty line (CR LF CR LF) behind {shown}, then {end}"

    def request(self, key: str, **headers: str) -> bytes:
        """Return a good request."""
        return handshake.request_head(
            self.address.name(), self.address.target, key, headers
        )

    def key(self) -> str:
        """Return a Sec-WebSocket-Key: 16 random bytes in base64."""
        return base64.b64encode(self.random_bytes(16)).decode()

    def random_bytes(self, size: int) -> bytes:
        """Return so many bytes, the same ones for the same seed."""
        return self.dice.getrandbits(8 * size or 1).to_bytes(size or 1, "big")[
            :size
        ]

    def frame(
        self, opcode: int, payload: bytes = b"", fin: bool = True
    ) -> bytes:
        """Return a masked frame."""
        return encode_frame(opcode, payload, self.random_bytes(4), fin)

    def message(self, message: Message) -> bytes:
        """Return the masked frame of a message."""
        return self.frame(*to_payload(message))

    def words(self, size: int = 12) -> str:
        """Return a text of so many ASCII letters that nobody else says."""
        begin = self.random_bytes(4).hex() + " is on the wire "
        return (begin * (size // len(begin) + 1))[:size]

    def leave(self) -> None:
        """Hang up everywhere."""
        if self.first:
            self.first.close()
        for wire in self.wires:
            wire.hang_up()


def connect(address: Address, patience: float, buffer: int = 0) -> Any:
    """Return a connected socket; OSError if nobody is there."""
    failure = OSError("the name has no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            if buffer:  # It must be known before TCP begins.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.settimeout(2 * patience)
            sock.connect(place)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure
