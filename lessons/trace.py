"""--trace: every byte explained while it passes.

    python server.py 9000 --trace

The explanations come from lessons.explain, whose functions walk over the
fields as the server's parsers do. A frame is shown at the moment at which
the user's own decoder has found its end or its fault. At most 78 columns of
printable ASCII, whatever clients send.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Callable, Collection, Iterator

import codec
from codec import CloseCode, Decoder, ProtocolError
from lessons.asked import (
    BUFFER_FULL,
    END_OF_STREAM,
    LEAVING,
    MANY_FRAMES,
    NEEDS_MORE,
    NOW_WHOLE,
    OUTBOX_EMPTY,
    by_key,
    names,
    why_silent,
    without_waker,
)
from lessons.colours import painter
from lessons.explain import Line, accept_steps, explain_frame, explain_head
from lessons.observer import Block, Observer, Several, User, Users
from lessons.stream import EXTENDED, Stream
from lessons.words import WIDTH, cut, many, note, plain, quoted

ROW = 8  # payload bytes in one line, so that words have room beside them
MAX_SHOWN = 4 * ROW  # payload bytes of one frame
MAX_FRAMES = 100  # of one turn; thousands are a flood
LONG_TURN = 0.05  # seconds


class Trace(Observer):
    """Print what passes.

    server: the one to watch; show: called with each text to be printed;
    level: "full", "short" (one line for each turn, frame and handshake) or
    "off" (for --step without --trace); only: the key of the one user to be
    shown, 0: all. Level and only may be changed at any time.
    """

    def __init__(
        self,
        server: Any,
        show: Callable[[str], None],
        level: str,
        only: int = 0,
    ) -> None:
        self.server = server
        self.show = show
        self.level = level
        self.only = only
        self.turn = 0
        self.awake = time.monotonic()  # when something was last done
        self.begun = self.awake  # the turn, when select() had answered
        self.printing = 0.0  # seconds of this turn
        self.is_silent = False  # nothing came, and nothing is shown so far
        self.held = ""  # lines of a turn in which so far only others took part
        self.is_called = False  # by another thread
        self.slow: set[User] = set()  # whose outbox was seen not empty
        self.size = 0  # bytes in the last read
        self.frames = 0  # of this turn

    def tell(self, full: str, short: str = "") -> None:
        """Show what the level asks for: the full text, the short or none."""
        text = self.chosen(full, short)
        if text:
            if self.is_silent:
                self.is_silent = False
                self.turn += 1
                why = why_silent(self.server, self.is_called)
                text = f"turn {self.turn:<3} got nothing, but {why}\n{text}"
            elif self.held:
                text, self.held = f"{self.held}\n{text}", ""
            began = time.monotonic()
            self.show(text)
            self.awake = time.monotonic()
            self.printing += self.awake - began

    def chosen(self, full: str, short: str) -> str:
        """Return what the level asks for."""
        return {"full": full, "short": short}.get(self.level, "")

    def tell_of(self, user: User, full: str, short: str = "") -> None:
        """Show something about one user, if this one is to be shown."""
        if self.shows(user.key):
            self.tell(full, short)

    def shows(self, key: int) -> bool:
        """Tell whether the user with this key is to be shown."""
        return self.only in (0, key)

    # ---- the turn ---------------------------------------------------------

    def woke(
        self,
        ask_read: Users,
        ask_write: Users,
        readable: Users,
        writable: Users,
    ) -> None:
        """Show a turn; when nothing came, the server is still asleep."""
        ask_read, readable = self.seen(ask_read), self.seen(readable)
        self.begin_turn(bool(readable or writable))
        if not self.is_silent:
            asked = self.asked_line(ask_read, ask_write)
            got = self.got_line(readable, writable)
            words = (
                f"{' '.join(got.split())} of {len(ask_read + ask_write)} asked"
            )
            short = f"turn {self.turn:<3} {words}  {self.slept()}"
            lines = self.chosen(f"{asked}\n{got}", cut(short))
            if not self.only or self.only in keys([*readable, *writable]):
                self.tell(lines, lines)
            else:
                self.held = lines
            for user in sorted(self.server.unsent, key=by_key):
                self.tell_outbox(user, user.waiting)
        self.begin_clock()

    def begin_turn(self, has_work: bool) -> None:
        """Count a turn; one without work only if it shows something."""
        self.is_silent = not has_work
        self.held = ""
        if has_work:
            self.turn += 1
        self.frames = 0

    def begin_clock(self) -> None:
        """Time the turn, from the moment that select() has answered."""
        self.begun = time.monotonic()
        self.printing = 0.0

    def turned(self) -> None:
        """Say when a turn took long; but printing is not its fault."""
        now = time.monotonic()
        if not self.is_silent:
            self.awake = now  # also where nothing of the turn was shown
        took = now - self.begun - self.printing
        if took > LONG_TURN:
            line = note(f"This turn took {took:.2f} s: everybody waited.")
            self.tell(line, line)

    def asked_line(self, read: Users, write: Users) -> str:
        """Return the line of what select() was asked for."""
        columns = self.columns("asked", read, write)
        return cut(f"turn {self.turn:<3} {columns} {self.slept()}")

    def got_line(self, read: Users, write: Users) -> str:
        """Return the line of what it gave back."""
        return f"{'':9}{self.columns('got', read, write)}".rstrip()

    def slept(self) -> str:
        """Return how long nothing was done; select() woke now and then."""
        return f"slept {time.monotonic() - self.awake:.2f} s"

    def columns(self, word: str, read: Users, write: Users) -> str:
        """Return those to read from and those to write to, side by side."""
        reads = fit(names(self.server, read), 19)
        writes = fit(names(self.server, write), 13)
        return f"{word:<6} read {reads:<19} write {writes:<13}"

    def seen(self, asked: Users) -> Users:
        """Leave out the socket by which call_soon() wakes the loop."""
        self.is_called = self.server.waker in asked
        return without_waker(self.server, asked)

    # ---- users come and go ------------------------------------------------

    def connected(self, user: User) -> None:
        """Show a newcomer."""
        host, port = user.address[:2]
        where = f"from {host} port {port}"
        self.tell_of(user, cut(f"ACCEPT #{user.key} {where}, not handshaken"))

    def left(self, user: User, why: str) -> None:
        """Show who has gone."""
        self.slow.discard(user)
        self.tell_of(user, note(f"GONE #{user.key}: {why}"))

    # ---- what comes in ----------------------------------------------------

    def received(self, user: User, data: bytes) -> None:
        """Show one read; what it means for frames is shown by Explained."""
        self.size = len(data)
        if not isinstance(user.decoder, Explained):
            walk = Walk(user.key, self.server.max_message, self)
            user.decoder = Explained(user.decoder, walk)
        if not data:
            self.tell_of(user, flow("recv", user.key, 0, 0, END_OF_STREAM))
        elif user.closing and not user.awaits_close:
            meaning = LEAVING.format(user.key)
            line = flow("recv", user.key, len(data), 0, meaning)
            self.tell_of(user, line)
        elif not user.handshaken and self.shows(user.key):
            self.read_head(user, len(data), user.head + data)

    def read_head(self, user: User, size: int, received: bytes) -> None:
        """Show a request when its empty line is there."""
        head, end, rest = received.partition(b"\r\n\r\n")
        if not end or size < len(received):
            there = "is there" if end else "is still missing"
            meaning = f"the empty line {there}"
            self.tell(flow("recv", user.key, size, len(received), meaning))
        if end:
            self.show_head(head, f"#{user.key} --> server", "request complete")
            if rest:
                self.tell(f"  {many(len(rest), 'byte')} came behind it")

    def read_frames(self, decoder: Walk, data: bytes) -> None:
        """Show how one read divides into frames, unless it is just one."""
        # Either the payload of a frame has begun, or its header is cut.
        before = len(decoder.begun) + len(decoder.rest)
        stream = Stream(decoder.max_message)
        stream.join(decoder.rest, decoder.missing)
        _, frames = stream.feed(data, 0)
        meaning = read_means(stream, frames, before > 0)
        if not meaning:
            return  # just one frame
        # What came behind a request was part of a larger read.
        call = "recv" if len(data) == self.size else "rest"
        waiting = before + len(data)
        line = flow(call, decoder.user_key, len(data), waiting, meaning)
        self.tell(line, line)

    def show_broken_rule(self, key: int, error: ProtocolError) -> None:
        """Show the rule that was broken, and what is done about it."""
        user = self.server.users.get(key)
        if not user or user.closing:
            return  # Nothing is: a hook has ended it before.
        done = f"Closing #{key} with {error.code}."
        line = note(f"RFC 6455 {error.reason}. {done}")
        self.tell(line, line)

    # ---- what goes out ----------------------------------------------------

    def queued(self, user: User, block: Block) -> None:
        """Show what is for one user: frames, or an HTTP answer."""
        if not self.shows(user.key):
            return
        block = bytes(block)
        way = f"server --> #{user.key}"
        if user.handshaken:
            self.show_block(block, way)
            return
        head, _, body = block.partition(b"\r\n\r\n")
        key = user.request and user.request.headers.get("Sec-WebSocket-Key")
        self.show_head(head, way, "answer", key or "")
        if len(body) > 200:
            self.tell(f"  {many(len(body), 'byte')} of body")
        elif body:
            self.tell(cut(f"  {plain(body.rstrip())}"))

    def shared(self, users: Collection[User], block: Block) -> None:
        """Show what is for everyone, once."""
        if block and any(self.shows(user.key) for user in users):
            to = fit([f"#{user.key}" for user in users], 30)
            size = many(len(block), "byte")
            self.tell(f"  broadcast -> {size} queued for {to}")
            self.show_block(bytes(block), f"server --> {to}")
            for user in users:
                # It goes behind what waits already, if that is not too much.
                if user in self.slow and not self.server.is_behind(user):
                    self.tell_outbox(user, user.waiting + len(block))

    def tell_outbox(self, user: User, size: int) -> None:
        """Show how much waits for a user who does not read."""
        line = f"         outbox of #{user.key}: {many(size, 'byte')}"
        self.tell_of(user, line, line)

    def show_block(self, block: bytes, way: str) -> None:
        """Show the frames in a block; of a large one, only what is there."""
        if self.level == "off":
            return
        at = 0
        while at < len(block) and self.frames <= MAX_FRAMES:
            size = Frame(block, at).size()
            self.show_frame(block[at : at + size], way)
            at += size

    def wrote(self, user: User, sent: int) -> None:
        """Show how the kernel takes what waits, if not all at once."""
        if user.error:
            return  # left() will tell why
        if user.waiting:
            self.slow.add(user)
            meaning = BUFFER_FULL
        elif user in self.slow:
            self.slow.remove(user)
            meaning = OUTBOX_EMPTY
        else:
            return
        line = flow("send", user.key, sent, user.waiting, meaning)
        self.tell_of(user, line)

    # ---- heads and frames -------------------------------------------------

    def show_head(
        self, head: bytes, way: str, what: str, key: str = ""
    ) -> None:
        """Show a request or an answer, with what its lines are needed for.

        key: that was asked with, if this is an answer.
        """
        kind, lines, unused = needed_lines(head)
        first = plain(lines[0].raw)
        shown = [first]
        if kind == "HANDSHAKE":
            shown = list(map(needed_line, lines))
        if unused:
            shown.append(f"({many(unused, 'more line')} not used)")
        if any(line.name == "sec-websocket-accept" for line in lines):
            shown += [f"  {name:<12}{row}" for name, row in accept_rows(key)]
        title = f"{kind} {way}"
        rows = [cut(f"  {row}") for row in shown]
        self.tell(
            "\n".join([f"{title}   {what}", *rows]), cut(f"{title}  {first}")
        )

    def show_frame(self, data: bytes, way: str) -> None:
        """Show one frame, as far as it is there."""
        self.frames += 1
        if self.frames > MAX_FRAMES:
            if self.frames == MAX_FRAMES + 1:
                self.tell("  and more frames", "  and more frames")
            return
        frame = Frame(data)
        title = frame_title(frame, way)
        rows = [*field_rows(frame), *payload_rows(frame), *remarks(frame)]
        full = "\n".join([cut(title), *rows])
        self.tell(full, cut(title + in_short(frame)))


class Explained:
    """The decoder of a user, which shows each frame when it is found.

    decoder: whatever takes this user's bytes apart, perhaps a student's own.
    Beside it, a Walk takes the same bytes apart, and shows them.
    """

    def __init__(self, decoder: Any, walk: Walk) -> None:
        self.decoder = decoder
        self.walk = walk

    def feed(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """Show the read, then each frame, then what was wrong."""
        walk = self.walk.feed(data)
        try:
            for event in self.decoder.feed(data):
                next(walk, None)
                yield event
            finish(walk)
        except ProtocolError as error:
            finish(walk)
            self.walk.tell("show_broken_rule", self.walk.user_key, error)
            raise


def finish(walk: Iterator[Any]) -> None:
    """Let a walk go to its end, where no more messages are."""
    for _ in walk:
        pass


class Walk(Decoder):
    """A decoder that shows what it walks over, and lets all else be.

    Decoder.feed() calls self.read_header() and self.take_piece(), so it
    gets these here: each works by super(), and shows what it learnt.
    """

    __slots__ = ("begun", "broken", "trace", "user_key")

    def __init__(self, key: int, max_message: int, trace: Trace) -> None:
        super().__init__(True, max_message)
        self.user_key = key
        self.trace = trace
        self.begun = bytearray()  # a data frame so far, with its header
        self.broken = False  # behind a broken rule there are no frames

    def feed(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """Show the read, then each frame."""
        if self.broken:
            return
        self.tell("read_frames", self, data)
        try:
            for event in super().feed(data):
                self.show(self.begun)  # --break php takes half frames, too
                yield event
        except ProtocolError:
            self.show(self.begun)
            self.broken = True

    def read_header(
        self, data: bytes, at: int
    ) -> tuple[int, int, bytes, int, int] | None:
        """Show a frame that is whole, or whose header breaks a rule."""
        try:
            header = super().read_header(data, at)
        except ProtocolError:
            self.show(data[at:])
            raise
        if header:
            _, opcode, _, start, length = header
            if start + length <= len(data):
                self.show(data[at : start + length])
            elif opcode < codec.CLOSE:  # A control frame will come again.
                self.begun += data[at:]
        return header

    def take_piece(self, data: bytes, at: int) -> int:
        """Show a frame that came in pieces with its last one."""
        if at == 0:  # This read begins inside a payload.
            self.begun += data[: self.missing]
        end = super().take_piece(data, at)
        if not self.missing:
            self.show(self.begun)
        return end

    def show(self, frame: bytes | bytearray) -> None:
        """Show a frame, once."""
        self.begun = bytearray()
        if frame:
            way = f"#{self.user_key} --> server"
            self.tell("show_frame", bytes(frame), way)

    def tell(self, what: str, *arguments: Any) -> None:
        """Call the trace as the server does: a bug in it ends no user."""
        server = self.trace.server
        if self.trace.level == "off" or not self.trace.shows(self.user_key):
            return
        if isinstance(server.observer, Several):
            server.observer.tell(self.trace, what, *arguments)
        elif server.observer is self.trace:
            server.notify(what, *arguments)


def start(
    kind: type[Trace],
    server: Any,
    show: Callable[[str], None],
    level: str,
    only: int = 0,
) -> Trace:
    """Return a trace, or one of its kinds, in colours where there are any."""
    return kind(server, painter(show), level, only)


ALL_IS_SEEN = "The trace shows all that is said, whispers too: tell the class."


# ---- how bytes divide into frames -------------------------------------------


class Frame:
    """The frame at data[at:], as far as it is there.

    named: its fields by their names; payload: None while the header is not
    whole; plain: the payload without its mask.
    """

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.fields = explain_frame(data, at)
        self.named = {field.name: field for field in self.fields}
        self.opcode = self.named["opcode"]
        self.payload = self.named.get("payload")
        self.key = b""
        if "masking key" in self.named:
            self.key = self.named["masking key"].raw
        self.plain = self.payload.raw if self.payload else b""
        if self.key:
            self.plain = codec.mask(self.plain, self.key)

    def kind(self) -> str:
        """Return what it is: TEXT, PING, opcode 0x3."""
        if self.opcode.meaning == "reserved":
            return f"opcode 0x{self.opcode.value:X}"
        return self.opcode.meaning

    def flags(self) -> list[str]:
        """Return which of FLAGS are set."""
        return [
            FLAGS[field.name]
            for field in self.fields
            if field.name in FLAGS and field.value
        ]

    def size(self) -> int:
        """Return how many bytes it has; its header must be whole."""
        last = self.fields[-1]
        return last.offset + last.value

    def missing(self) -> int:
        """Return how many bytes of its payload are to come."""
        return self.fields[-1].value - len(self.plain)


def read_means(stream: Stream, frames: int, was_begun: bool) -> str:
    """Say how a read divides into frames; "" if it is just one frame.

    stream: it was fed with the read; frames: how many ended in it;
    was_begun: a part of the first one had come before.
    """
    if frames > 1:
        return MANY_FRAMES.format(frames)
    if stream.missing:
        return NEEDS_MORE.format(stream.missing)
    if stream.rest:
        return what_is_missing(stream.rest)
    return NOW_WHOLE if was_begun else ""


def what_is_missing(rest: bytes) -> str:
    """Say how much a header needs of which so much is here."""
    if len(rest) == 1:
        return f"{rest.hex(' ')}|  the header needs at least 1 more"
    frame = Frame(rest)
    length, masked = frame.named["length"].value, frame.named["MASK"].value
    size = 2 + EXTENDED.get(length, 0) + 4 * masked
    there = rest.hex(" ") if len(rest) < 7 else rest[:5].hex(" ") + " .."
    return f"{there}|  the header needs {size - len(rest)} more"


# ---- how a frame is shown ---------------------------------------------------


def frame_title(frame: Frame, way: str) -> str:
    """Return the first line: which way it goes, and what it is."""
    title = f"FRAME {way}  {frame.kind()}"
    title += "".join(f" [{flag}]" for flag in frame.flags())
    if frame.payload:
        title += f"  {many(frame.size(), 'byte')}"
    return title


FLAGS = {"FIN": "FIN", "RSV": "RSV", "MASK": "MASKED"}


def field_rows(frame: Frame) -> Iterator[str]:
    """Yield a line for each field but the payload: where, bytes, meaning."""
    shown = -1  # the offset of the byte that was shown last
    for field in frame.fields:
        if field is frame.payload:
            return
        where = f"{field.offset:04x}  {field.raw.hex(' ')}"
        if field.bits:
            if field.offset == shown:
                where = ""
            shown = field.offset
            bits = bit_pattern(field.raw[0], field.bits)
            words = f"{field.name:<6} {field.value:<2} {field.meaning}"
            yield f"  {where:<21}{bits}  {words}"
        else:
            yield f"  {where:<32}{field.meaning}"


def bit_pattern(byte: int, bits: int) -> str:
    """Return the bits of a field, dots for the others: ".000 ...."."""
    pattern = ""
    for place in range(7, -1, -1):
        bit = 1 << place
        pattern += str(byte >> place & 1) if bits & bit else "."
        if place == 4:
            pattern += " "
    return pattern


def payload_rows(frame: Frame) -> Iterator[str]:
    """Yield the payload's first bytes: as they travelled, and unmasked."""
    if not frame.payload:
        return
    raw = frame.payload.raw
    words, keys_words = frame.payload.meaning, "key, repeated"
    for at in range(0, min(len(raw), MAX_SHOWN), ROW):
        row = raw[at : at + ROW]
        where = f"  {frame.payload.offset + at:04x}  {row.hex(' '):<26}"
        if not frame.key:
            yield where + quoted(row)
            continue
        yield (where + words).rstrip()
        # The rows begin with the key's start.
        keys = (frame.key * ROW)[: len(row)]
        yield f"   XOR  {keys.hex(' '):<26}{keys_words}".rstrip()
        row = frame.plain[at : at + ROW]
        yield f"     =  {row.hex(' '):<26}{quoted(row)}"
        words = keys_words = ""


def remarks(frame: Frame) -> Iterator[str]:
    """Yield what is to be said of a payload as a whole."""
    if not frame.payload:
        return
    payload, opcode = frame.plain, frame.opcode.value
    hidden, absent = len(payload) - MAX_SHOWN, frame.missing()
    if hidden > 0:
        yield f"        ({many(hidden, 'more byte')} not shown)"
    if absent:
        yield f"        ({many(absent, 'more byte')} to come)"
    if opcode == codec.TEXT and not absent:
        with contextlib.suppress(UnicodeDecodeError):  # half a character
            size = len(payload.decode())
            if size < len(payload):
                characters = many(size, "character")
                yield f"        {characters}, {many(len(payload), 'byte')}"
    if opcode == codec.CLOSE:
        yield note(close_words(payload), " " * 8)


def in_short(frame: Frame) -> str:
    """Return a frame's payload in a few words."""
    payload = frame.plain
    if frame.opcode.value == codec.CLOSE and len(payload) > 1:
        code = int.from_bytes(payload[:2], "big")
        return f"  {code} {quoted(payload[2:WIDTH])}"
    return f"  {quoted(payload[:WIDTH])}" if payload else ""


def close_words(payload: bytes) -> str:
    """Return what a Close frame says, however wrong."""
    if len(payload) < 2:
        return "no close code"
    code = int.from_bytes(payload[:2], "big")
    name = NAMES.get(code, "")
    words = f"close code {code} {name}".rstrip()
    reason = payload[2 : codec.MAX_CONTROL]  # a wrong one may be longer
    return f"{words}, reason {quoted(reason)}" if reason else words


NAMES = {int(code): code.name for code in CloseCode}


# ---- how a head is shown ----------------------------------------------------


OF_HANDSHAKES = {
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-accept",
}


def needed_lines(head: bytes) -> tuple[str, list[Line], int]:
    """Return what a head is, the lines that are needed, how many are not."""
    lines = explain_head(head)
    # By name: each header once, however often somebody sends it.
    needed = {line.name: line for line in lines if line.needed}
    kind, shown = "HTTP", [lines[0]._replace(needed="")]
    if OF_HANDSHAKES.intersection(needed):
        kind, shown = "HANDSHAKE", list(needed.values())
    return kind, shown, len(lines) - len(shown)


def needed_line(line: Line) -> str:
    """Return a line of a head beside what is needed of it."""
    needed = f"  needed: {line.needed}"
    return f"{cut(plain(line.raw), WIDTH - 2 - len(needed)):<46}{needed}"


def accept_rows(key: str) -> list[tuple[str, str]]:
    """Return how the answer to a Sec-WebSocket-Key is made, if it is one."""
    steps = accept_steps(key)
    if not steps:
        return []
    keyed, digest, accept = steps
    return [
        ("key + GUID", plain(keyed)),
        ("SHA-1", digest.hex(" ")),
        ("base64", accept),
    ]


# ---- how anything is shown --------------------------------------------------


def keys(ready: Users) -> list[int]:
    """Return the keys of the users among those who are ready."""
    return [each.key for each in ready if hasattr(each, "key")]


def flow(call: str, key: int, size: int, waiting: int, meaning: str) -> str:
    """Return the line of one recv() or send()."""
    read, held = f"{call} #{key} -> {size}", f"waiting {waiting}"
    return cut(f"  {read:<17} {held:<13} {meaning}")


def fit(names: list[str], width: int) -> str:
    """Return names in a row, "-" for none; if too long, how many in all."""
    row = " ".join(names) or "-"
    if len(row) <= width:
        return row
    end = f" .. ({len(names)})"
    kept = row[: width - len(end) + 1].rpartition(" ")[0]
    return kept + end
