"""--redis: rooms on many machines are one, by one more guest of the loop.

    python server.py 9000 --redis 127.0.0.1:6379

Redis is a program that keeps values for others. Here it keeps a log, which
it calls a stream. Each room appends to its end (XADD). Each room reads on
from where it stopped (XREAD), also when it was away for a while.

What the rooms tell each other is in rooms.py, the bytes are in resp.py. Here
are the two connections to Redis, the writer and the reader. On the reader a
question is always open: what comes next? Redis answers it when there is more.
So nobody waits, and still each room hears at once what another one says.

Read Redis.serve() first. Left out on purpose: TLS, and a Redis of several
machines.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import select
import socket
import sys
import time
from collections import deque
from functools import partial
from typing import Any, Callable, NamedTuple, Tuple
from urllib.parse import unquote, urlsplit

from codec import in_words
from lessons.resp import Refusal, Replies, RespError, Word, command
from lessons.rooms import Rooms, write_entry
from lessons.words import ascii_only, cut

STREAM = "chatroom"  # the log; a room that lives has a key "chatroom:ID"
PORT = 6379  # Redis's own
PIECE = 256 * 1024  # bytes; read at a time, or prepared to be written
SILENCE = 5.0  # seconds; who answers nothing for so long has gone
BLOCK = 10_000  # milliseconds; then Redis answers a read that found nothing
BEAT = 3.0  # seconds; so often a room says that it lives,
LIFE = 10  # seconds; and for so long it is believed
START_SECONDS = 2.0  # at the start we wait so long for the link, not longer
FIRST_DELAY, MAX_DELAY = 0.1, 5.0  # seconds between attempts to connect
CONNECTING = 0.1  # seconds; Windows' select() does not tell that it failed
STOOD_STILL = 1.0  # seconds; a turn that was so long is not Redis's fault
AT_ONCE = 10  # entries in one read: a turn's work, and not too much memory
# What the log keeps: so much can one room miss and still read on.
MAX_ENTRIES = 10_000
MAX_BYTES = 64 * 1024 * 1024
Place = Tuple[int, int]  # in the log, see place_of()
PLACE = re.compile(rb"([0-9]{1,19})-([0-9]{1,19})")
FD_SETSIZE = 1024  # descriptors that select() can watch
# Errors that pass by: Redis starts, is full, is not the one to write to.
PASSING: tuple[str, ...] = (
    "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM",
    "MISCONF", "READONLY", "NOREPLICAS", "ERR max number",
)  # fmt: skip


class Address(NamedTuple):
    """Where a Redis is, and who we are there."""

    host: str
    port: int
    user: str
    password: str
    database: int

    def __str__(self) -> str:
        """Return what can be shown: no password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{ascii_only(host)[:40]}:{self.port}"


def parse_address(text: str) -> Address:
    """Take HOST:PORT or redis://USER:PASSWORD@HOST:PORT/NUMBER apart.

    All but the host may be left out. ValueError: a sentence says why.
    """
    url = text if "://" in text else f"redis://{text}"
    parts = urlsplit(url)  # ValueError: "[" without "]"
    if parts.scheme != "redis":
        raise ValueError("only redis:// is spoken here, and no TLS")
    try:
        port = PORT if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise ValueError("its port is 1 to 65535")
    number = parts.path.strip("/") or "0"
    if not parts.hostname or parts.query or parts.fragment:
        raise ValueError("an address is HOST:PORT or redis://:PASSWORD@HOST")
    if not (number.isascii() and number.isdecimal() and len(number) < 6):
        raise ValueError("behind the address comes the number of a database")
    user = unquote(parts.username or "")
    password = unquote(parts.password or "")
    return Address(parts.hostname, port, user, password, int(number))


class LinkError(Exception):
    """There is no link any more; it says why.

    is_final: trying again does not help.
    """

    def __init__(self, why: str, is_final: bool = False) -> None:
        super().__init__(why)
        self.is_final = is_final


# ---- one connection ---------------------------------------------------------


class Connection:
    """A connection to Redis. No method waits; OSError: it is lost."""

    def __init__(self, family: int, place: Any, silence: float) -> None:
        self.silence = silence  # seconds
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.is_connected = False
        self.outbox = bytearray()
        self.replies = Replies()
        # What is to be done with each answer; Redis keeps the order.
        self.then: deque[Callable[[Any], None]] = deque()
        self.deadline = time.monotonic() + silence
        try:
            if sys.platform != "win32" and self.socket.fileno() >= FD_SETSIZE:
                words = "more sockets than select() can watch"
                raise OSError(errno.EMFILE, words)
            self.socket.setblocking(False)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.connect(place)
        except BlockingIOError:
            pass  # It is under way; select() tells when it is done.
        except OSError:
            self.socket.close()
            raise

    def ask(self, *words: Word, then: Callable[[Any], None]) -> None:
        """Send a command in this turn; what to do with its answer."""
        if not self.then:
            self.restart_deadline()
        self.outbox += command(*words)
        self.then.append(then)

    def waits(self) -> bool:
        """Tell whether it connects, or has something to write."""
        return bool(self.outbox) or not self.is_connected

    def serve(self, is_ready: bool) -> None:
        """Connect, or read once."""
        if not self.is_connected:
            self.connect(is_ready)
        elif is_ready:
            self.read()

    def connect(self, is_ready: bool) -> None:
        """See whether it is connected by now, or cannot be."""
        failed = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
        self.is_connected = is_ready

    def read(self) -> None:
        """Read once, and do what the answers ask for."""
        try:
            data = self.socket.recv(PIECE)
        except BlockingIOError:
            return  # It was ready for writing.
        if not data:
            raise ConnectionError("it hung up")
        self.restart_deadline()
        for answer in self.replies.feed(data):
            if not self.then:
                raise RespError("an answer to no question")
            self.then.popleft()(answer)

    def flush(self, now: float) -> None:
        """Send what the kernel takes; who is silent for too long is lost."""
        if self.is_connected and self.outbox:
            with contextlib.suppress(BlockingIOError):
                sent = self.socket.send(self.outbox)
                del self.outbox[:sent]
                if self.outbox:  # Else the kernel took it, whoever reads it.
                    self.restart_deadline()
        if self.then and now > self.deadline:
            raise TimeoutError(f"no answer for {self.silence:g} s")

    def restart_deadline(self) -> None:
        """Give Redis new time: who makes progress, however slow, is alive."""
        self.deadline = time.monotonic() + self.silence


# ---- the link ---------------------------------------------------------------


class Redis:
    """The guest: it links this room's Rooms to all others.

    OSError, UnicodeError: there is no such host. settle() tells the rest.
    """

    mark = "R"  # what the trace calls it

    def __init__(self, rooms: Rooms, address: Address) -> None:
        self.rooms = rooms
        self.room = rooms.room
        self.address = address
        # Here and now: to look a name up may take seconds, and would stop
        # the loop. So a link that is lost is made anew to the same machine.
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )
        self.places = deque((each[0], each[4]) for each in found)
        self.connections: list[Connection] = []  # the writer, the reader
        self.greetings = 0  # so many of them have been greeted
        self.is_up = False  # Redis has taken what we say
        self.up_at = 0.0  # since when
        self.is_closing = False
        self.next = 1  # the number of the event to be handed over next
        self.last: Place | None = None  # the last one that we have read
        self.old: Place = 0, 0  # up to there the log is older than this link
        self.sizes: deque[int] = deque()  # of the last entries in the log
        self.size = 0  # bytes, their sum
        self.is_heavy = False  # MAX_BYTES are reached before MAX_ENTRIES
        self.failure = LinkError("")  # the last one
        self.failures = 0  # since it was up
        self.delay = FIRST_DELAY
        self.retry_at = 0.0
        self.beat_at = math.inf
        self.served_at = time.monotonic()

    # ---- what the loop asks of a guest ------------------------------------

    def ask_read(self) -> list[socket.socket]:
        """Return the sockets to read from."""
        return [each.socket for each in self.connections if each.is_connected]

    def ask_write(self) -> list[socket.socket]:
        """Return the sockets that something waits for."""
        return [each.socket for each in self.connections if each.waits()]

    def patience(self) -> float:
        """Return how many seconds select() may sleep."""
        if not self.connections:
            return max(0.0, self.retry_at - time.monotonic())
        if self.may_hand_over():
            return 0.0
        due = min(self.beat_at, *(each.deadline for each in self.connections))
        left = max(0.0, due - time.monotonic())
        is_connected = all(each.is_connected for each in self.connections)
        return left if is_connected else min(left, CONNECTING)

    def is_active(self) -> bool:
        """Tell whether the loop must go on for us."""
        return not self.is_closing or self.is_up

    def serve(self, ready: set[Any]) -> None:
        """Do what there is to do, as far as it goes without waiting."""
        now = time.monotonic()
        self.pardon(now)
        try:
            if not self.connections and now >= self.retry_at:
                self.dial()
            for each in self.connections:
                each.serve(each.socket in ready)
            if now >= self.beat_at:
                self.beat(now)
            self.hand_over()
            for each in self.connections:
                each.flush(now)
        except OSError as error:
            self.lose(LinkError(in_words(error)))
        except RespError as error:
            self.lose(LinkError(str(error), is_final=True))
        except LinkError as lost:
            self.lose(lost)

    def pardon(self, now: float) -> None:
        """Give Redis the time in which the loop stood still."""
        stood_still = now - self.served_at
        if stood_still > STOOD_STILL:
            for each in self.connections:
                each.deadline += stood_still
        self.served_at = now

    def close(self, code: int) -> None:
        """Tell the others that this room closes; then it is not active."""
        self.is_closing = True
        self.rooms.leave()
        self.beat_at = self.retry_at = math.inf
        if not self.is_up:
            self.drop()

    def end(self, why: str) -> None:
        """Wait no longer for that."""
        self.drop()

    # ---- how a link begins ------------------------------------------------

    def dial(self) -> None:
        """Connect twice, and introduce ourselves."""
        family, place = self.places[0]
        self.places.rotate(-1)  # localhost is often two addresses
        self.greetings = 0
        for silence in (SILENCE, BLOCK / 1000 + SILENCE):
            self.connections.append(Connection(family, place, silence))
        user, password = self.address.user, self.address.password
        for each in self.connections:
            if password:
                words = ["AUTH", user, password] if user else ["AUTH", password]
                each.ask(*words, then=expect_ok)
            each.ask("SELECT", self.address.database, then=expect_ok)
        writer, reader = self.connections
        writer.ask(
            "SET", key(self.rooms.id), "{}", "EX", LIFE, then=self.greeted
        )
        # Where does the log end? From there on we read.
        reader.ask(
            "XREVRANGE", STREAM, "+", "-", "COUNT", 1, then=self.begin_reading
        )

    def begin_reading(self, answer: Any) -> None:
        """Read on from where we were, or from the end, if we are new."""
        found = entries_of(answer)
        end = found[0][0] if found else (0, 0)
        self.old = 0, 0
        if self.last is None:
            self.last = end
        elif end < self.last:  # It is not the log that we know: read it all.
            self.last, self.old = (0, 0), end
        self.read_on()
        self.greeted("OK")

    def greeted(self, answer: Any) -> None:
        """Begin, when both connections have been greeted."""
        expect_ok(answer)
        self.greetings += 1
        if self.greetings == 2:
            self.say_again()

    def say_again(self) -> None:
        """Hand over all that is kept, as Redis may have forgotten it."""
        self.rooms.greet_again()
        self.next = self.rooms.first

    # ---- the writer -------------------------------------------------------

    def may_hand_over(self) -> bool:
        """Tell whether there are events for Redis, and room for them."""
        if self.greetings < 2 or len(self.connections[0].outbox) > PIECE:
            return False
        self.next = max(self.next, self.rooms.first)
        return self.next < self.rooms.end()

    def hand_over(self) -> None:
        """Append our events to the log: those of one turn as one entry."""
        if self.rooms.is_asked:
            self.rooms.is_asked = False
            self.rooms.greet("here")
        while self.may_hand_over():
            events = self.rooms.next_events(self.next)
            fields = write_entry(self.rooms.id, self.next, events)
            self.next += len(events)
            # "~": Redis may keep some more, lest it has to cut each time.
            self.connections[0].ask(
                "XADD", STREAM, "MAXLEN", "~", self.most(), "*", *fields,
                then=partial(self.taken, self.next - 1),
            )  # fmt: skip

    def taken(self, number: int, answer: Any) -> None:
        """Note that our events up to this one are in the log."""
        expect(isinstance(answer, bytes), answer)
        self.rooms.note_taken(number)
        if not self.is_up:
            self.come_up()
        if number + 1 >= self.rooms.end():  # That was all.
            self.tell_losses()
            if self.is_closing:
                farewell = "DEL", key(self.rooms.id)
                self.connections[0].ask(*farewell, then=self.part)

    def come_up(self) -> None:
        """Note that the link works, as Redis takes what we say."""
        is_first = not self.up_at
        self.is_up = True
        self.up_at = time.monotonic()
        self.beat_at = self.up_at + BEAT
        self.failures, self.delay = 0, FIRST_DELAY
        self.room.diary(
            f"linked by Redis at {self.address}; this room is {self.rooms.id}"
            if is_first
            else "the link to Redis is back"
        )

    def tell_losses(self) -> None:
        """Say how much could not be kept, and who is here by now."""
        lost = self.rooms.count_lost()
        if lost:
            self.room.diary(f"{lost} messages were lost for the other rooms")
            self.rooms.greet("here")

    def part(self, answer: Any) -> None:
        """Go, as the others know it."""
        self.drop()

    # ---- the reader -------------------------------------------------------

    def read_on(self) -> None:
        """Ask for what comes next in the log; Redis answers when it comes."""
        assert self.last
        last = f"{self.last[0]}-{self.last[1]}"
        self.connections[1].ask(
            "XREAD", "COUNT", AT_ONCE, "BLOCK", BLOCK, "STREAMS", STREAM, last,
            then=self.take_entries,
        )  # fmt: skip

    def take_entries(self, answer: Any) -> None:
        """Hear what the other rooms have written; then read on."""
        now = time.monotonic()
        if answer is not None:  # Else nothing came for so long.
            expect(isinstance(answer, list) and len(answer) == 1, answer)
            expect(isinstance(answer[0], list) and len(answer[0]) == 2, answer)
            for self.last, fields in entries_of(answer[0][1]):
                self.weigh(fields)
                self.rooms.hear(fields, now, self.last <= self.old)
        self.read_on()

    def weigh(self, fields: dict[bytes, bytes]) -> None:
        """Note how many of the last entries make MAX_BYTES."""
        size = sum(map(len, fields.values()))
        self.sizes.append(size)
        self.size += size
        while self.size > MAX_BYTES:
            self.is_heavy = True
            self.size -= self.sizes.popleft()
        if len(self.sizes) > MAX_ENTRIES:
            self.is_heavy = False
            self.size -= self.sizes.popleft()

    def most(self) -> int:
        """Return how many entries the log shall keep."""
        return max(1, len(self.sizes)) if self.is_heavy else MAX_ENTRIES

    # ---- who is alive -----------------------------------------------------

    def beat(self, now: float) -> None:
        """See who lives, and say that we do."""
        self.beat_at = now + BEAT
        servers = self.rooms.who_is_here()
        keys = [key(server) for server in (self.rooms.id, *servers)]
        writer = self.connections[0]
        writer.ask("MGET", *keys, then=partial(self.judge, servers, now))
        have = self.rooms.what_we_have()
        writer.ask("SET", keys[0], have, "EX", LIFE, then=expect_ok)

    def judge(self, servers: list[str], asked_at: float, answer: Any) -> None:
        """Let the rooms go whose keys have expired."""
        expect(isinstance(answer, list), answer)
        expect(len(answer) == 1 + len(servers), answer)
        ours, *values = answer
        if ours is None:
            # We stood still for too long, or Redis has forgotten all: then
            # it has forgotten the others, too, who will say that they live.
            self.up_at = asked_at
            self.say_again()
        for server, value in zip(servers, values):
            if isinstance(value, bytes):
                self.rooms.note_alive(server, value)
            elif asked_at > self.up_at + LIFE:  # It, too, had time to link.
                self.rooms.part(server, asked_at)
        self.rooms.forget_heard()

    # ---- how a link ends --------------------------------------------------

    def lose(self, failure: LinkError) -> None:
        """Go on without it, and try again."""
        if self.is_up:
            words = f"the link to Redis is gone: {failure}; we go on alone"
            self.room.diary(words)
        elif failure.is_final and self.is_news(failure):
            self.room.diary(f"no link to Redis: {failure}")
        self.drop()
        self.failure = failure
        self.failures += 1
        if self.failures % len(self.places):
            return  # There is another address to be tried at once.
        self.retry_at = max(self.retry_at, time.monotonic() + self.delay)
        self.delay = min(2 * self.delay, MAX_DELAY)

    def is_news(self, failure: LinkError) -> bool:
        """Tell whether the diary shall know; at the start, link() tells it."""
        is_other = str(failure) != str(self.failure)
        return is_other and self in self.room.guests

    def drop(self) -> None:
        """Close both connections."""
        for each in self.connections:
            each.socket.close()
        self.connections = []
        self.greetings = 0
        self.is_up = False
        self.beat_at = math.inf


def key(server: str) -> str:
    """Return the key that is there while a room lives."""
    return f"{STREAM}:{server}"


def expect(is_right: bool, answer: Any) -> None:
    """Raise LinkError for an error, RespError for what is no answer to this."""
    if isinstance(answer, Refusal):
        is_final = not answer.words.startswith(PASSING)
        raise LinkError(f"it says {answer.words}", is_final)
    if not is_right:
        raise RespError(f"it answers {str(answer)[:40]}")


def expect_ok(answer: Any) -> None:
    """Raise LinkError or RespError, if an answer is not OK."""
    expect(answer == "OK", answer)


def entries_of(answer: Any) -> list[tuple[Place, dict[bytes, bytes]]]:
    """Return entries of the log: where each stands in it, and its fields."""
    expect(isinstance(answer, list), answer)
    try:
        return [(place_of(name), fields_of(each)) for name, each in answer]
    except (TypeError, ValueError):
        raise RespError(f"it answers {str(answer)[:40]}") from None


def place_of(name: bytes) -> Place:
    """Return the place of an entry as numbers: milliseconds, and a count."""
    found = PLACE.fullmatch(name)
    if not found:
        raise ValueError("not a place in a log")
    return int(found[1]), int(found[2])


def fields_of(parts: list[bytes]) -> dict[bytes, bytes]:
    """Return the fields of an entry, in which names and values alternate."""
    if not all(isinstance(part, bytes) for part in parts):
        raise ValueError("not the fields of an entry")
    return dict(zip(parts[::2], parts[1::2]))


# ---- at the start -----------------------------------------------------------


def link(room: Any, address: Address) -> str:
    """Link a room to others before it opens, or as soon as that goes.

    Return two lines, if it never can be linked, else "".
    """
    try:
        guest = Redis(Rooms(room), address)
    except (OSError, UnicodeError):
        return f"server.py: there is no host {address}\n{EXAMPLE}"
    failure = settle(guest)
    if failure and failure.is_final:
        guest.drop()
        about_password = "AUTH" in str(failure) or "PASS" in str(failure)
        first = cut(
            f"server.py: Redis at {address}: {ascii_only(str(failure))}"
        )
        return f"{first}\n{PASSWORD if about_password else EXAMPLE}"
    if failure:
        room.diary(f"no link yet to Redis at {address}: {failure}")
    room.guests.append(guest)
    return ""


EXAMPLE = "A Redis listens on port 6379, if nobody chose another one."
PASSWORD = "With a password: --redis redis://:PASSWORD@HOST:PORT"


def settle(guest: Redis) -> LinkError | None:
    """Let a guest connect; return what went wrong, or None.

    Not longer than START_SECONDS: the loop will go on with it.
    """
    ends = time.monotonic() + START_SECONDS
    guest.serve(set())
    while not guest.is_up:
        tried_all = guest.failures >= len(guest.places)
        if guest.failure.is_final or tried_all:
            return guest.failure
        if time.monotonic() > ends:
            return LinkError("no answer")
        ready: set[Any] = set()
        if guest.connections:
            reads, writes = guest.ask_read(), guest.ask_write()
            patience = guest.patience()
            for some in select.select(reads, writes, [], patience):
                ready.update(some)
        guest.serve(ready)
    return None
