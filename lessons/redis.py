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
from lessons.rooms import EVENT_COST, Rooms
from lessons.words import ascii_only, cut, many

STREAM = "chatroom"  # the log; a room that lives has a key "chatroom:ID"
PORT = 6379  # Redis's own
PIECE = 256 * 1024  # bytes; read at a time, or prepared to be written
SILENCE = 5.0  # seconds; who answers nothing for so long has gone
BLOCK = 10_000  # milliseconds; then Redis answers a read that found nothing
BEAT = 3.0  # seconds; so often a room says that it lives
LIFE = 10  # seconds; its key expires after so long
START_SECONDS = 2.0  # at the start we wait so long for the link, not longer
FIRST_DELAY, MAX_DELAY = 0.1, 5.0  # seconds between attempts to connect
CONNECTING = 0.1  # seconds; Windows' select() does not tell of a failure
STOOD_STILL = 1.0  # seconds; a turn that was so long is not Redis's fault
AT_ONCE = 10  # entries in one read: a turn's work, and not too much memory
# What the log keeps: so much can one room miss and still read on.
MAX_ENTRIES = 10_000
MAX_BYTES = 64 * 1024 * 1024
LOG_LIFE = 3600  # seconds; a class that has gone leaves nothing behind
LARGE = 64 * 1024  # bytes; of entries that are larger, one is read at a time
HOLD = 1.0  # seconds; nobody holds up what comes from other rooms for longer
Place = Tuple[int, int]  # in the log, see place_of()
PLACE = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")
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

    def __init__(self, family: int, address: Any, silence: float) -> None:
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
            self.socket.connect(address)
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
                if self.outbox:  # That the kernel takes all shows no reader.
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
        self.addresses = deque((each[0], each[4]) for each in found)
        self.connections: list[Connection] = []  # the writer, the reader
        self.introductions = 0  # so many of them are ready
        self.is_up = False  # Redis has taken what we say
        self.up_at = 0.0  # since when
        self.is_closing = False
        self.kept_until = 0  # number of the last event, when it was linked
        self.hello = 0  # that of the hello behind it; 0: none yet
        self.joined: Place | None = None  # the end of the log when we came
        self.read_until: Place = 0, 0  # the last entry that we have read
        self.is_reading = False  # a question is open: what comes next?
        self.hello_at: Place | None = None  # where our hello stands in the log
        self.read_at = 0.0  # not before, see may_read()
        # Bytes in the last entries. At the start, as if they were small.
        self.sizes = deque([EVENT_COST] * 100, maxlen=100)
        self.told = ""  # the last failure that stands in the diary
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
        if self.may_hand_over() or self.may_read():
            return 0.0
        due = [self.beat_at, *(each.deadline for each in self.connections)]
        if not all(each.is_connected for each in self.connections):
            due.append(time.monotonic() + CONNECTING)
        if self.is_linked() and not self.is_reading:
            due.append(self.read_at)
        return max(0.0, min(due) - time.monotonic())

    def is_active(self) -> bool:
        """Tell whether the loop must go on for us."""
        return not self.is_closing or self.is_up

    def serve(self, ready: set[Any]) -> None:
        """Do what there is to do, as far as it goes without waiting."""
        now = time.monotonic()
        self.allow_for_pause(now)
        try:
            if not self.connections and now >= self.retry_at:
                self.dial()
            for each in self.connections:
                each.serve(each.socket in ready)
            if now >= self.beat_at:
                self.beat(now)
            self.hand_over()
            if self.may_read():
                self.read_on()
            for each in self.connections:
                each.flush(now)
        except OSError as error:
            self.lose(LinkError(in_words(error)))
        except RespError as error:
            self.lose(LinkError(str(error), is_final=True))
        except LinkError as lost:
            self.lose(lost)

    def allow_for_pause(self, now: float) -> None:
        """The loop stood still: move Redis's deadlines by that time."""
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
            self.tell_unheard()
            self.drop()

    def end(self, why: str) -> None:
        """Give up: the server waits no longer for our goodbye."""
        self.tell_unheard()
        self.drop()

    # ---- how a link begins ------------------------------------------------

    def dial(self) -> None:
        """Connect twice, and introduce ourselves."""
        family, address = self.addresses[0]
        self.addresses.rotate(-1)
        self.introductions = 0
        for silence in (SILENCE, BLOCK / 1000 + SILENCE):
            self.connections.append(Connection(family, address, silence))
        user, password = self.address.user, self.address.password
        for each in self.connections:
            if password:
                words = ["AUTH", user, password] if user else ["AUTH", password]
                each.ask(*words, then=expect_ok)
            each.ask("SELECT", self.address.database, then=expect_ok)
        writer, reader = self.connections
        ours = life_key(self.rooms.id)
        writer.ask("SET", ours, "{}", "EX", LIFE, then=self.introduced)
        last = "{}-{}".format(*self.read_until)
        if self.joined is None:  # Where does the log end? From there we read.
            words = ["XREVRANGE", STREAM, "+", "-", "COUNT", "1"]
            reader.ask(*words, then=self.join)
        else:  # Is this the log that we know?
            reader.ask("XRANGE", STREAM, last, last, then=self.rejoin)

    def join(self, answer: Any) -> None:
        """Read on from the end, as we are new."""
        found = entries_of(answer)
        self.joined = self.read_until = found[0][0] if found else (0, 0)
        self.count_introduction()

    def rejoin(self, answer: Any) -> None:
        """Read on from where we were; if that is not there, read it all."""
        if not entries_of(answer):
            self.read_until = 0, 0
        self.count_introduction()

    def introduced(self, answer: Any) -> None:
        """The writer is ready: Redis has taken our key."""
        expect_ok(answer)
        self.count_introduction()

    def count_introduction(self) -> None:
        """When both connections are ready, say again all that is kept."""
        self.introductions += 1
        if self.is_linked():
            self.beat_at = time.monotonic() + BEAT
            self.rooms.say_again_from(1)
            self.kept_until = self.rooms.next_number() - 1
            if not self.rooms.has_more():
                self.greet()

    def greet(self) -> None:
        """Say hello, when all that was kept is in the log.

        Not before: where that fails, each attempt would add a hello to it.
        """
        self.rooms.greet()
        self.hello = self.rooms.next_number() - 1

    def is_linked(self) -> bool:
        """Tell whether both connections are ready for events."""
        return self.introductions == 2

    # ---- the writer -------------------------------------------------------

    def may_hand_over(self) -> bool:
        """Tell whether there are events for Redis, and room for them."""
        has_room = self.is_linked() and len(self.connections[0].outbox) <= PIECE
        return has_room and self.rooms.has_more()

    def hand_over(self) -> None:
        """Append our events to the log: those of one turn as one entry."""
        if self.rooms.is_asked:
            self.rooms.is_asked = False
            self.rooms.greet("here")
        while self.may_hand_over():
            number, fields = self.rooms.next_entry()
            # "~": Redis may keep some more, so that it need not always cut.
            # partial(f, 3) is f, with 3 as its first argument.
            self.connections[0].ask(
                "XADD", STREAM, "MAXLEN", "~", self.most(), "*", *fields,
                then=partial(self.appended, number),
            )  # fmt: skip

    def appended(self, number: int, answer: Any) -> None:
        """Note that our events up to this one are in the log."""
        is_place = isinstance(answer, bytes) and PLACE.fullmatch(answer)
        expect(bool(is_place), answer)
        self.rooms.note_taken(number)
        if not self.hello and number >= self.kept_until:
            self.greet()
        elif self.hello and number >= self.hello and not self.is_up:
            self.hello_at = place_of(answer)
            self.come_up()
        if number + 1 >= self.rooms.next_number():  # That was all.
            self.tell_losses()
            if self.is_closing:
                farewell = "DEL", life_key(self.rooms.id)
                self.connections[0].ask(*farewell, then=self.finish)

    def come_up(self) -> None:
        """Note that the link works: Redis has taken all that was kept."""
        words = "the link to Redis is back"
        if not self.up_at:
            us = self.rooms.id
            words = f"linked by Redis at {self.address}; this room is {us}"
        self.room.diary(words)
        self.told = ""
        self.failures, self.delay = 0, FIRST_DELAY
        self.is_up = True
        self.up_at = time.monotonic()

    def tell_losses(self) -> None:
        """Say how much could not be kept, and who is here by now."""
        lost = self.rooms.count_lost()
        if lost:
            self.room.diary(f"lost for the other rooms: {many(lost, 'event')}")
            self.rooms.greet("here")

    def tell_unheard(self) -> None:
        """Say how much is lost, as this room closes without a link."""
        unheard = self.rooms.count_unheard()
        if unheard:
            messages = many(unheard, "message")
            self.room.diary(f"lost for the other rooms: {messages}")

    def finish(self, answer: Any) -> None:
        """Hang up, as the others know that we have gone."""
        self.drop()

    # ---- the reader -------------------------------------------------------

    def may_read(self) -> bool:
        """Tell whether to ask what comes next.

        Who was away may have much to read. Its users get it bit by bit: for
        a moment, it waits for those who have half of a backlog.
        """
        if not self.is_linked() or self.is_reading:
            return False
        most = self.room.max_backlog / 2
        is_crowded = any(user.waiting > most for user in self.room.unsent)
        return not is_crowded or time.monotonic() >= self.read_at

    def read_on(self) -> None:
        """Ask for what comes next in the log; Redis answers when it comes."""
        self.is_reading = True
        count = 1 if self.average() > LARGE else AT_ONCE
        last = "{}-{}".format(*self.read_until)
        self.connections[1].ask(
            "XREAD", "COUNT", count, "BLOCK", BLOCK, "STREAMS", STREAM, last,
            then=self.take_entries,
        )  # fmt: skip

    def take_entries(self, answer: Any) -> None:
        """Hear what the other rooms have written."""
        assert self.joined
        now = time.monotonic()
        self.is_reading = False
        self.read_at = now + HOLD
        entries = []
        if answer is not None:  # None: nothing came within BLOCK.
            expect(isinstance(answer, list) and len(answer) == 1, answer)
            expect(isinstance(answer[0], list) and len(answer[0]) == 2, answer)
            entries = entries_of(answer[0][1])
        for place, fields in entries:
            self.read_until = place
            self.sizes.append(sum(map(len, fields.values())))
            self.rooms.hear(fields, now, place <= self.joined)

    def average(self) -> float:
        """Return how many bytes an entry has."""
        return max(1.0, sum(self.sizes) / len(self.sizes))

    def most(self) -> int:
        """Return how many entries the log shall keep: MAX_BYTES, about.

        Who has not read up to its own hello knows an older log.
        """
        if self.hello_at is None or self.read_until < self.hello_at:
            return MAX_ENTRIES
        return max(1, min(MAX_ENTRIES, int(MAX_BYTES / self.average())))

    # ---- who is alive -----------------------------------------------------

    def beat(self, now: float) -> None:
        """See who lives, and say that we do."""
        self.beat_at = now + BEAT
        servers = self.rooms.who_is_here()
        keys = [life_key(server) for server in (self.rooms.id, *servers)]
        writer = self.connections[0]
        writer.ask("MGET", *keys, then=partial(self.drop_expired, servers, now))
        have = self.rooms.what_we_have()
        writer.ask("SET", keys[0], have, "EX", LIFE, then=expect_ok)
        writer.ask("EXPIRE", STREAM, LOG_LIFE, then=expect_number)

    def drop_expired(
        self, servers: list[str], asked_at: float, answer: Any
    ) -> None:
        """Let the rooms go whose keys have expired."""
        expect(isinstance(answer, list), answer)
        expect(len(answer) == 1 + len(servers), answer)
        ours, *values = answer
        if ours is None:  # We stood still for too long, or all is deleted.
            raise LinkError("it has forgotten us")
        for server, value in zip(servers, values):
            if isinstance(value, bytes):
                self.rooms.note_alive(server, value)
            elif self.is_up and asked_at > self.up_at + LIFE:
                # It had time to link again.
                self.rooms.drop_room(server, asked_at)
        self.rooms.forget_heard()

    # ---- how a link ends --------------------------------------------------

    def lose(self, failure: LinkError) -> None:
        """Go on without it, and try again."""
        if self.is_up:
            words = f"the link to Redis is gone, we go on alone: {failure}"
            self.room.diary(words)
        elif failure.is_final and self in self.room.guests:
            self.tell(f"no link to Redis: {failure}")
        self.drop()
        self.failure = failure
        self.failures += 1
        if self.failures % len(self.addresses):
            return  # localhost may be two addresses: the other one at once.
        # It stays inf when we are closing.
        self.retry_at = max(self.retry_at, time.monotonic() + self.delay)
        self.delay = min(2 * self.delay, MAX_DELAY)

    def tell(self, failure: str) -> None:
        """Note a failure; not again and again."""
        if failure != self.told:
            self.told = failure
            self.room.diary(failure)

    def drop(self) -> None:
        """Close both connections."""
        for each in self.connections:
            each.socket.close()
        self.connections = []
        self.introductions = 0
        self.is_up = self.is_reading = False
        self.hello, self.hello_at = 0, None
        self.beat_at = math.inf


def life_key(server: str) -> str:
    """Return the key that is there while a room lives."""
    return f"{STREAM}:{server}"


def expect(is_right: bool, answer: Any) -> None:
    """Raise LinkError for an error, RespError for what is no answer to this."""
    if isinstance(answer, Refusal):
        is_final = not answer.text.startswith(PASSING)
        raise LinkError(f"it says {answer.text}", is_final)
    if not is_right:
        raise RespError(f"it answers {str(answer)[:40]}")


def expect_ok(answer: Any) -> None:
    """Raise LinkError or RespError, if an answer is not OK."""
    expect(answer == "OK", answer)


def expect_number(answer: Any) -> None:
    """Raise LinkError or RespError, if an answer is not a number."""
    expect(isinstance(answer, int), answer)


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
    room.others = rooms = Rooms(room)
    room.mark = f"-{rooms.id}"
    try:
        guest = Redis(rooms, address)
        failure = settle(guest)
    except (OSError, UnicodeError):
        return f"server.py: there is no host {address}\n{advice('')}"
    except KeyboardInterrupt:
        sys.exit(130)
    if failure and failure.is_final:
        guest.drop()
        said = f"server.py: Redis at {address}: {ascii_only(str(failure))}"
        return f"{cut(said)}\n{advice(str(failure))}"
    if failure:
        room.diary(f"no link yet to Redis at {address}: {failure}")
    room.guests.append(guest)
    return ""


def advice(failure: str) -> str:
    """Return what may help."""
    if "DENIED" in failure:
        return "It serves its own machine only, until it gets a password."
    if "AUTH" in failure or "PASS" in failure:
        return "With a password: --redis redis://:PASSWORD@HOST:PORT"
    return "A Redis listens on port 6379, if nobody chose another one."


def settle(guest: Redis) -> LinkError | None:
    """Let a guest connect; return what went wrong, or None.

    Not longer than START_SECONDS: the loop will go on with it. This is before
    the loop begins, and the only other place that sleeps.
    """
    ends = time.monotonic() + START_SECONDS
    guest.serve(set())
    while not guest.is_up:
        tried_all = guest.failures >= len(guest.addresses)
        if guest.failure.is_final or tried_all:
            return guest.failure
        if time.monotonic() > ends:
            return LinkError("no answer")
        ready: set[Any] = set()
        if guest.connections:
            reads, writes = guest.ask_read(), guest.ask_write()
            patience = min(guest.patience(), ends - time.monotonic())
            for some in select.select(reads, writes, [], max(0.0, patience)):
                ready.update(some)
        guest.serve(ready)
    return None
