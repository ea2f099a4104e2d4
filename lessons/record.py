"""--watch and --record: each turn of the loop as one line of JSON.

The first line of a record is about the server, see make_header(). Each other
line is one turn in which something came or was done:

    turn          its number; where one is missing, it was not written down
    at, slept     seconds: since the start, and asleep before it
    took          seconds of work
    asked, ready  read and write: whom select() was asked for, and who came
                  back, with the reason
    users         each one's state, and the bytes that are on their way
    events        what was read, said and written, phase by phase
    more, silent  how many users are not listed; why it did something, if
                  nobody came

The bytes of a frame are its header and 64 of its payload, in hex; of what is
perhaps for one user only, there is no payload. explained() in bits.py tells
what they mean.
"""

from __future__ import annotations

import contextlib
import errno
import json
import time
from typing import Any, Callable, Collection, Sequence

from codec import CLOSE, MASK, OPCODE, PING, Decoder, in_words
from lessons.asked import (
    BUFFER_FULL,
    CAN_SEND,
    END_OF_STREAM,
    LEAVING,
    OUTBOX_EMPTY,
    by_key,
    names,
    peek,
    stand_still,
    unfinished,
    waiting_words,
    why_ready,
    why_silent,
    without_waker,
)
from lessons.observer import Block, Observer, User, Users
from lessons.stream import MAX_PIECES, Piece, Stream, divide_block
from lessons.trace import accept_rows, needed_lines, read_means
from lessons.words import ascii_only, many, plain

# Nobody sees more than twenty turns in a second, and to write one down takes
# about a millisecond. After a pause, a rush is shown whole.
SHOWN_PER_SECOND = 20
SHOWN_AT_ONCE = 60
MAX_USERS = 100  # in one line; first of all those who are ready
MAX_EVENTS = 40  # in one line
MAX_FRAMES = 8  # in one line; each is 2 KB when it is explained
MAX_PAYLOAD = 64  # bytes of each frame
MAX_LINE = 100  # bytes of each line of a request
MAX_RECORD = 4 * 1024 * 1024  # bytes of a file: two thousand turns, or more
VERSION = 1  # of this format


class Record(Observer):
    """Write down what a server does, a line for each turn.

    sinks: each has put(line, must) and close(); link: the one by which the
    teacher lets the room stand still, if there is one; see link.py.
    """

    def __init__(
        self, server: Any, sinks: Sequence[Any], link: Any = None
    ) -> None:
        self.server = server
        self.sinks = [*sinks, link] if link else list(sinks)
        self.link = link
        self.number = 0  # of the turn
        self.started = self.begun = self.rested = time.monotonic()
        self.credit = float(SHOWN_AT_ONCE)  # turns that may be shown now
        self.came = False  # somebody is ready
        self.has_left = False  # somebody, in this turn
        self.has_done = False  # something, in this turn
        self.turn: Turn | None = None  # what is written down, if it is shown
        self.streams: dict[User, Stream] = {}
        self.unseen: set[User] = set()  # who was read from, and not shown
        self.behind: dict[User, bytes] = {}  # what came behind a request
        self.slow: set[User] = set()  # whose outbox was seen not empty
        self.put(make_header(server))

    def put(self, fields: dict[str, Any], must: bool = False) -> None:
        """Hand a line to all who take it; must: it may not be left out."""
        line = json.dumps(fields).encode() + b"\n"
        for sink in self.sinks:
            sink.put(line, must)

    # ---- the turn ---------------------------------------------------------

    def woke(
        self,
        ask_read: Users,
        ask_write: Users,
        readable: Users,
        writable: Users,
    ) -> None:
        """Begin a line; if the class shall predict, ask it first."""
        began = time.monotonic()
        earned = (began - self.begun) * SHOWN_PER_SECOND
        self.credit = min(self.credit + earned, SHOWN_AT_ONCE)
        self.begun = began
        is_called = self.server.waker in readable
        self.came = bool(writable or without_waker(self.server, readable))
        self.number += self.came
        self.has_left = self.has_done = False
        is_question = self.is_asked() and self.came
        self.turn = None
        if self.credit >= 1 or is_question:
            asked = without_waker(self.server, ask_read), ask_write
            ready = [] if is_question else [*readable, *writable]
            turn = Turn(self.server, asked, ready, is_question)
            if not self.came:
                turn.silent = why_silent(self.server, is_called)
            turn.slept = self.begun - self.rested
            turn.at = self.begun - self.started
            if is_question:
                self.hold(turn)
            turn.answer(readable, writable)
            self.turn = turn

    def is_asked(self) -> bool:
        """Tell whether the teacher has asked for the next turn."""
        if not self.link:
            return False
        self.link.hear()
        return bool(self.link.asks) and not self.server.stopping

    def hold(self, turn: Turn) -> None:
        """Let the room stand still until the class has predicted.

        select() has answered already, and the answer is kept back: it is
        not even in the process that serves the page.
        """
        # Only to the page. A record gets the whole turn, with its answer.
        question = json.dumps(turn.question(self.number)).encode()
        self.link.ask(question + b"\n")
        while self.link.asks and not self.server.stopping:
            self.link.wait()
        now = time.monotonic()
        stand_still(self.server, now - self.begun)
        self.begun = now

    def turned(self) -> None:
        """End the line, and hand it over."""
        turn, now = self.turn, time.monotonic()
        self.turn = None
        if not (self.came or self.has_done):
            return
        # A turn without work counts if it does something, as in the trace.
        self.number += not self.came
        self.rested = now
        if not turn:
            return
        # Not from self.begun: other observers may have asked the class.
        took = now - self.server.now
        self.credit -= 1
        self.put(turn.whole(self.number, took), turn.is_question)

    def ended(self) -> None:
        """Say that no more turns will come."""
        self.put({"ended": "the room has closed"}, must=True)
        for sink in self.sinks:
            sink.close()

    # ---- users come and go ------------------------------------------------

    def connected(self, user: User) -> None:
        """Note a newcomer."""
        host, port = user.address[:2]
        text = f"from {host} port {port}, not handshaken"
        self.add("accept", user, phase=3, text=text)
        if self.turn:
            self.turn.chosen.add(user)

    def left(self, user: User, why: str) -> None:
        """Note who has gone."""
        self.has_left = True
        self.slow.discard(user)
        self.streams.pop(user, None)
        self.unseen.discard(user)
        self.behind.pop(user, None)
        self.add("gone", user, phase=6, text=why)

    # ---- what comes in ----------------------------------------------------

    def received(self, user: User, data: bytes) -> None:
        """Note one read, and what ends in it."""
        size = len(data)
        if self.turn:
            self.turn.note_read(user, size)
        if not data:
            text = END_OF_STREAM
            if user.error:  # Turn.answer() has found it.
                text = ascii_only(in_words(user.error))
            self.add("recv", user, size=0, text=text)
        elif user.closing and not user.awaits_close:
            text = LEAVING.format(user.key)
            self.add("recv", user, size=size, text=text)
        elif user.handshaken and not self.turn and is_ours(user.decoder):
            # To divide all of it would be 7 % of a busy turn.
            self.unseen.add(user)
        elif user.handshaken:
            self.read_frames(user, data)
        else:
            self.read_head(user, size, user.head + data)

    def read_head(self, user: User, size: int, received: bytes) -> None:
        """Note a request when its empty line is there."""
        head, end, rest = received.partition(b"\r\n\r\n")
        there = "is there" if end else "is still missing"
        self.add("recv", user, size=size, text=f"the empty line {there}")
        if end:
            self.behind[user] = rest
            self.add_head(user, head, len(head) + 4, "in", "request complete")

    def read_frames(self, user: User, data: bytes, what: str = "recv") -> None:
        """Note how one read, or the rest of one, divides into frames."""
        stream = self.streams.get(user)
        if not stream:
            stream = self.streams[user] = Stream(self.server.max_message)
        if user in self.unseen:
            self.unseen.remove(user)
            stream.join(bytes(user.decoder.rest), user.decoder.missing)
        was_begun = bool(stream.rest or stream.missing)
        pieces, count = stream.feed(data, MAX_PIECES if self.turn else 0)
        if self.turn:
            text = read_means(stream, count, was_begun)
            self.add(what, user, size=len(data), text=text)
            for piece in pieces:
                self.add_frame([user], piece, piece.hidden)
            self.add_more(count - len(pieces), 4)

    # ---- what goes out ----------------------------------------------------

    def queued(self, user: User, block: Block) -> None:
        """Note what is for one user: frames, or an HTTP answer."""
        block = bytes(block)
        if user.handshaken:
            self.write_frames([user], block, is_for_one=True)
            return
        head, _, body = block.partition(b"\r\n\r\n")
        text = f"and {many(len(body), 'byte')} of body" if body else "answer"
        self.add_head(user, head, len(block), "out", text)
        rest = self.behind.pop(user, b"")
        if block.startswith(b"HTTP/1.1 101") and rest:
            self.read_frames(user, rest, "rest")

    def shared(self, users: Collection[User], block: Block) -> None:
        """Note what is for everyone, once."""
        if users and block:
            self.write_frames(users, bytes(block), is_for_one=False)

    def write_frames(
        self, users: Collection[User], block: bytes, is_for_one: bool
    ) -> None:
        """Note the frames of a block; what is said to one stays a secret."""
        self.has_done = True
        if self.turn:
            pieces, count = divide_block(block)
            for piece in pieces:
                is_data = piece.head[0] & OPCODE < CLOSE
                self.add_frame(users, piece, is_for_one and is_data, "out")
            self.add_more(count - len(pieces), 5)

    def wrote(self, user: User, sent: int) -> None:
        """Note one send: what the kernel took, and what still waits."""
        if user.error:
            return  # left() will tell why
        text = "the kernel took all of it"
        if user.waiting:
            self.slow.add(user)
            text = BUFFER_FULL
        elif user in self.slow:
            self.slow.remove(user)
            text = OUTBOX_EMPTY
        waiting = user.waiting
        self.add("wrote", user, phase=5, size=sent, waiting=waiting, text=text)

    # ---- what happens in a turn -------------------------------------------

    def add(self, what: str, user: User, phase: int = 4, **more: Any) -> None:
        """Note something that one user does, or that is done to it."""
        self.has_done = True
        if self.turn:
            who = [f"#{user.key}"]
            self.turn.add({"phase": phase, "what": what, "who": who, **more})

    def add_more(self, frames: int, phase: int) -> None:
        """Note how many frames are not shown."""
        if self.turn and frames:
            text = f"and {many(frames, 'more frame')}"
            more = {"phase": phase, "what": "more", "who": [], "text": text}
            self.turn.add(more)

    def add_head(
        self, user: User, head: bytes, size: int, way: str, text: str
    ) -> None:
        """Note a request or an answer: the lines that are needed of it.

        size: with its body, bytes.
        """
        if not self.turn:
            return
        kind, shown, unused = needed_lines(head)
        phase = 4
        if way == "out":  # A 408 is for who is late.
            is_late = self.server.stopping or b" 408 " in shown[0].raw
            phase = 6 if is_late else 5
        key, request = "", user.request
        headers = {each.name for each in shown}
        if request and "sec-websocket-accept" in headers:
            key = request.headers.get("Sec-WebSocket-Key", "")
        self.add(
            "head",
            user,
            phase=phase,
            way=way,
            kind=kind,
            size=size,
            text=text,
            rows=[[plain(each.raw[:MAX_LINE]), each.needed] for each in shown],
            rest=unused,
            accept=accept_rows(key),
        )

    def phase_of(self, head: bytes) -> int:
        """Return the phase under which a frame that goes out is listed."""
        # Pings, goodbyes, and what is said of those who left.
        is_late = head[0] & OPCODE == PING or self.server.stopping
        return 6 if is_late or self.has_left else 5

    def add_frame(
        self, who: Collection[User], frame: Piece, hides: bool, way: str = "in"
    ) -> None:
        """Note a frame; of what only one may see, no payload and no key."""
        head, start = frame.head, frame.start[:MAX_PAYLOAD]
        if hides:
            head, start = head[: -4 if head[1] & MASK else None], b""
        assert self.turn
        phase = 4 if way == "in" else self.phase_of(head)
        self.turn.add(
            {
                "phase": phase,
                "what": "frame",
                "way": way,
                "who": [f"#{user.key}" for user in who][:MAX_USERS],
                "size": frame.size,
                "bytes": (head + start).hex(),
                "hidden": hides,
            }
        )


class Turn:
    """The line of one turn, while it is being written.

    first: who is to be listed before all others, as there may be too many;
    is_question: the class is asked before answer() is called.
    """

    def __init__(
        self,
        server: Any,
        asked: tuple[Users, Users],
        first: Users,
        is_question: bool,
    ) -> None:
        self.server = server
        self.is_question = is_question
        listed = [*first, *server.unsent, *server.users.values()]
        users = [each for each in listed if hasattr(each, "key")]
        once = list(dict.fromkeys(users))
        # A question is asked before we look who is ready. So all are chosen;
        # rows() lists some of them.
        self.chosen = set(once if is_question else once[:MAX_USERS])
        self.kernel: dict[User, int] = {}  # bytes to be read
        self.outbox = {user: user.waiting for user in self.chosen}
        self.events: list[dict[str, Any]] = []
        self.frames = self.left_out = 0  # of the events
        ask_read, ask_write = map(self.names, asked)
        self.asked = {"read": ask_read, "write": ask_write}
        self.ready: dict[str, dict[str, str]] = {"read": {}, "write": {}}
        self.silent = ""  # why it does something, if nobody is ready
        self.at = self.slept = 0.0  # seconds

    def names(self, asked: Users) -> list[str]:
        """Return what those are called who are listed."""
        shown = [u for u in asked if u in self.chosen or not hasattr(u, "key")]
        return names(self.server, shown)

    def note_read(self, user: User, size: int) -> None:
        """Correct what was waiting, as more may have come meanwhile."""
        if size > self.kernel.get(user, size):
            self.kernel[user] = size
            self.ready["read"][f"#{user.key}"] = waiting_words(size, None)

    def answer(self, readable: Users, writable: Users) -> None:
        """Note who came back, and why."""
        server, read = self.server, self.ready["read"]
        for way, came in ("read", readable), ("write", writable):
            for name in self.names(came):
                if name[0] in "LGR":
                    self.ready[way][name] = why_ready(name)
        for user in sorted(self.chosen.intersection(readable), key=by_key):
            size, error = peek(user)
            read[f"#{user.key}"] = waiting_words(size, error)
            self.kernel[user] = max(0, size)
            if error:  # read() will not see it.
                server.end(user, error)
        for user in sorted(self.chosen.intersection(writable), key=by_key):
            words = CAN_SEND.format(many(user.waiting, "byte"))
            self.ready["write"][f"#{user.key}"] = words

    def add(self, event: dict[str, Any]) -> None:
        """Add an event, if there is room for it."""
        is_frame = event["what"] == "frame"
        self.frames += is_frame
        has_room = len(self.events) < MAX_EVENTS
        if has_room and (not is_frame or self.frames <= MAX_FRAMES):
            self.events.append(event)
        else:
            self.left_out += 1

    def rows(self) -> list[dict[str, Any]]:
        """Return how those are listed who are here, or were till now."""
        listed = sorted(self.chosen, key=by_key)
        if self.is_question:
            listed = listed[:MAX_USERS]
        return [self.row(user) for user in listed]

    def row(self, user: User) -> dict[str, Any]:
        """Return what is shown of one user."""
        state = "open" if user.is_open else "connected"
        if user.key not in self.server.users:
            state = "gone"
        elif user.closing or user.error:
            state = "closing"
        here, missing = unfinished(user)
        return {
            "id": f"#{user.key}",
            "name": user.name,
            "state": state,
            "kernel": self.kernel.get(user, 0),
            "outbox": [self.outbox.get(user, 0), user.waiting],
            "here": here,
            "missing": missing,
        }

    def question(self, number: int) -> dict[str, Any]:
        """Return what the class is told before it predicts."""
        at = round(self.at, 4)
        users = self.rows()
        return {
            "question": number,
            "at": at,
            "asked": self.asked,
            "users": users,
        }

    def whole(self, number: int, took: float) -> dict[str, Any]:
        """Return the line; took: seconds."""
        if self.left_out:
            text = f"and {many(self.left_out, 'more event')}, not listed"
            more = {"phase": 6, "what": "more", "who": [], "text": text}
            self.events.append(more)
        self.events.sort(key=lambda event: event["phase"])  # else as it was
        rows = self.rows()
        listed = sum(row["state"] != "gone" for row in rows)
        line = {
            "turn": number,
            "at": round(self.at, 4),
            "slept": round(self.slept, 4),
            "took": round(took, 6),
            "asked": self.asked,
            "ready": self.ready,
            "users": rows,
            "more": len(self.server.users) - listed,
            "events": self.events,
        }
        return {**line, "silent": self.silent} if self.silent else line


def is_ours(decoder: Any) -> bool:
    """Tell whether a decoder says where it is; a student's may not."""
    return isinstance(decoder, Decoder)


# ---- where a record goes to -------------------------------------------------


def make_header(server: Any) -> dict[str, Any]:
    """Return the first line: what this is, and of which room."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    host = f"[{host}]" if ":" in host else host
    return {"watch": VERSION, "room": f"http://{host}:{server.port}/"}


class Recording:
    """The file of --record: put() writes a line.

    It is made anew: what is there is nobody's to overwrite. OSError: it
    cannot be made. say: tells the teacher, if it ends before the room.
    """

    def __init__(self, path: str, say: Callable[[str], None]) -> None:
        self.file = open(path, "xb")  # noqa: SIM115
        self.say = say
        self.left = MAX_RECORD  # bytes

    def put(self, line: bytes, must: bool) -> None:
        """Write a line; when it cannot be written, no more are."""
        if self.file.closed:
            return
        self.left -= len(line)
        try:
            if self.left < 0:
                raise OSError(errno.EFBIG, f"{MAX_RECORD} bytes are enough")
            self.file.write(line)
            self.file.flush()
        except OSError as error:
            self.close()
            self.say(f"the record has ended: {error.strerror}")

    def close(self) -> None:
        """End the file."""
        with contextlib.suppress(OSError):  # The disk is full.
            self.file.close()
