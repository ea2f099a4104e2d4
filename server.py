"""A WebSocket chat server in one thread and one select() loop.

    python server.py 9000

Read Server.turn() first: below it stand the methods that it calls, in
that order, and how a user leaves. Above it: what a user is, the hooks, and
what a program calls. At the end: sockets, the chat room, the command line.
HTTP is in handshake.py, frames are in codec.py. "The tutorial" is a PHP
class that this room mirrors, see lessons/programs/README.md.

Left out on purpose: login, encryption, more users than one select() can
watch. Each of them is a chapter of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import heapq
import io
import json
import math
import os
import re
import select
import signal
import socket
import sys
import textwrap
import time
from collections import deque
from email.utils import formatdate
from itertools import count, islice
from threading import get_ident
from typing import Any, Callable, Collection, Iterator, NoReturn, Sequence
from urllib.parse import parse_qsl

import codec
import handshake
from codec import CloseCode, ProtocolError
from handshake import HandshakeError, Request

# Beside the file itself, also where a symbolic link was started.
PAGE = os.path.join(os.path.dirname(os.path.realpath(__file__)), "client.html")

RECV_SIZE = 64 * 1024  # bytes; one read per user and turn, so all get theirs
MAX_RECV_SIZE = 1024 * 1024  # Python sets so much aside before each read
MAX_BACKLOG = 16 * 1024 * 1024  # bytes; a tab may sleep for a minute or two
PING_INTERVAL = 20.0  # seconds; routers forget silent connections after 30
HANDSHAKE_SECONDS = 10.0  # a browser needs a thousandth of that
CLOSING_SECONDS = 5.0  # without progress, after our last word
STOPPING_SECONDS = 1.0  # for all; with PATIENCE before and after it, two
# Windows: Ctrl-C does not wake select(), so it must wake by itself.
PATIENCE = 0.5
# One read may be 10,000 messages, and thirty users may shout at once.
HEARD_AT_ONCE = 10  # frames of one user; then the next one has the word
TURN_SECONDS = 0.02  # for reading and hearing; the rest is for the next turn
ACCEPTS_PER_TURN = 64  # a rush of newcomers must not hold up the others
# What accept() says of one who left before: on Unix, on Windows, under Wine.
RESET_EARLY = (errno.ECONNABORTED, errno.ECONNRESET, errno.ENOTCONN)
FD_SETSIZE = 1024  # descriptors that select() can watch
WINDOWS_SOCKETS = 512  # sockets that it can watch there
# Descriptors kept free: to refuse newcomers, to read the page, for guests;
# and two that call_soon() needs.
SPARE = 18
# Bytes that the kernel keeps for each user. Linux would take megabytes, and
# nobody sees whether those are being read: a slow reader would seem dead.
SEND_BUFFER = 256 * 1024
BLOCK_COST = 64  # bytes, about, that Python adds to those of a block
JOIN = 32 * 1024  # bytes; to copy so many costs less than one more send()
LARGE = 4 * JOIN  # a block that goes out in two parts

Call = Callable[[], Any]  # what a timer, or another thread, wants to be called


class User:
    """One connection; in the tutorial, $this->users[$k].

    Its life: connected -> handshaken -> closing -> gone; who is refused is
    never handshaken. closing: nothing more is queued for it; error: nothing
    more is sent; done_reading: nothing more is read. Who is done reading and
    has an empty outbox leaves. A program may hang on it what it likes:
    user.score = 0.
    """

    def __init__(
        self, key: int, sock: socket.socket, address: Any, max_message: int
    ) -> None:
        self.key = key  # counts up from 1: "#3"; the "code" of the room
        self.socket = sock
        # select() takes whatever has a fileno(): ask it for users, get users.
        self.fileno = sock.fileno
        self.address = address
        self.name = ""
        self.request: Request | None = None
        self.head = b""  # what has arrived of the request
        self.decoder = codec.Decoder(masked=True, max_message=max_message)
        # What the last read brought and was not heard yet, or None.
        self.messages: Iterator[tuple[int, Any]] | None = None
        # Blocks that the kernel did not take yet: frames, or HTTP.
        self.outbox: deque[bytes | memoryview] = deque()
        self.waiting = 0  # bytes in the outbox
        self.full = False  # its kernel buffer, when it was last written to
        self.handshaken = False  # the tutorial's 'shou' => false
        self.closing = False  # our last word is queued: a Close, or HTTP
        self.awaits_close = False  # we said Close first, its own is to come
        self.done_reading = False  # its stream has ended, or we gave it up
        self.error: OSError | None = None  # it failed before our last word
        self.pinged = False  # since then no byte came
        self.deadline = 0.0  # time.monotonic(); for what: see too_late()
        self.code = int(CloseCode.ABNORMAL)  # of the Close frame that came
        self.reason = ""  # of the Close frame that came
        self.ours = ""  # what our Close frame said
        self.why = ""  # what ended the connection, in words

    @property
    def is_open(self) -> bool:
        """Tell whether messages go to this user."""
        return self.handshaken and not self.closing and not self.error


class Timer:
    """A call that is due at some time; every() and later() return it."""

    def __init__(self, call: Call, due: float, period: float = 0.0) -> None:
        self.call: Call | None = call
        self.due = due  # time.monotonic()
        self.period = period  # seconds from call to call; 0: there is one
        self.number = next(NUMBERS)

    def cancel(self) -> None:
        """Do not call it any more; also from within the call."""
        self.call = None

    def __lt__(self, other: Timer) -> bool:
        """Tell heapq which comes first."""
        return (self.due, self.number) < (other.due, other.number)


NUMBERS = count()  # of timers: those due at the same time keep their order


class Server:
    """The loop, its users and the hooks.

    Subclass it or assign its hooks (server.on_message = function). It
    listens from the start: port 0 takes a free port, see self.port. page is
    the file to be shown at /, else client.html. OSError: it cannot listen,
    or read the page.

    guests share the loop. A guest is a Client, or what has its ask_read()
    and ask_write(), which return sockets; patience(), how many seconds
    select() may sleep; serve(ready), called each turn with all who are
    ready; and is_active(): the loop ends when no guest is. A guest that has
    connect() and close(code), too, is told when serve() begins and ends; of
    one with end(why), that nobody waits for it any longer.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 9000,
        *,
        origins: Collection[str] = (),
        max_message: int = codec.MAX_MESSAGE,
        max_backlog: int = MAX_BACKLOG,
        ping_interval: float = PING_INTERVAL,
        recv_size: int = RECV_SIZE,
        page: str | None = None,
    ) -> None:
        if isinstance(origins, str):
            raise TypeError("origins is a list of origins, not one of them")
        self.origins = {handshake.normalise_origin(each) for each in origins}
        self.max_message = max_message
        self.max_backlog = max_backlog
        self.ping_interval = ping_interval
        self.recv_size = recv_size
        self.page = PAGE
        if page is not None:
            read_page(page)  # If it cannot be read, say so here and now.
            self.page = page
        self.observer: Any = None  # set by lessons only
        self.users: dict[int, User] = {}  # all who are connected
        # Who has an outbox, or is done reading. So nobody has to look for
        # them among all users: that would be a fifth of a quiet turn.
        self.unsent: set[User] = set()
        self.unheard: deque[User] = deque()  # who has messages
        self.for_all: list[bytes] = []  # frames that share() will hand out
        self.shares = 0  # how often it has handed out some
        # Who gets something else in the place of some of them.
        self.exceptions: dict[User, dict[int, bytes]] = {}
        self.new_keys = count(1)
        self.free_keys: list[int] = []  # a heap
        self.running = True
        self.stopping = False
        self.now = self.next_check = self.accept_at = time.monotonic()
        self.stop_at = 0.0  # when stopping
        self.guests: list[Any] = []
        self.timers: list[Timer] = []  # a heap
        self.calls: deque[Call] = deque()  # of call_soon()
        self.thread = 0  # the one that runs the loop
        self.open_sockets(host, port)
        if not origins and is_loopback(self.host):
            # A page from disk, perhaps. From elsewhere it could be anybody's.
            self.origins.add("null")
        self.own_names = own_names()
        keep_memory()

    def open_sockets(self, host: str, port: int) -> None:
        """Listen, and prepare to be woken by call_soon()."""
        self.listener: socket.socket | None = listen(host, port)
        self.host, self.port = self.listener.getsockname()[:2]
        self.places = count_places(self.listener)
        # A byte into the alarm makes the waker readable, and select() wake.
        self.alarm, self.waker = socket.socketpair()
        self.alarm.setblocking(False)
        self.awake = False  # such a byte is on its way

    # ---- hooks, to be overridden or assigned ------------------------------

    def on_connect(self, user: User) -> None:
        """TCP is up, nothing has been read."""

    def on_handshake(self, user: User, request: Request) -> None:
        """A good request, not yet answered; HandshakeError refuses it."""

    def on_open(self, user: User) -> None:
        """The 101 is on its way; user.request tells what was asked for."""

    def on_message(self, user: User, message: str | bytes) -> None:
        """A message: str was sent as text, bytes as binary."""
        self.broadcast(message)

    def on_close(self, user: User, code: int, reason: str) -> None:
        """A user has gone, only after on_open; 1006: no Close frame came."""

    def on_error(self, user: User, error: Exception) -> None:
        """A hook raised, or the socket failed: this connection ends."""

    def diary(self, text: str) -> None:
        """Note a line: who was refused, or why nobody can be accepted."""

    # ---- what a program calls ---------------------------------------------

    def everyone(self) -> list[User]:
        """Return all who are open: they hear what is said to all."""
        if self.thread != get_ident():
            self.check_thread()
        # user.is_open, written out: its calls were 1 % of a turn.
        return [
            user
            for user in self.users.values()
            if user.handshaken and not user.closing and not user.error
        ]

    def send(self, user: User, message: str | bytes) -> None:
        """Send to one user: str as text, bytes as binary.

        Who is not open, or is closing, gets nothing.
        """
        self.check_thread()
        frame = codec.encode_message(message)
        if user.is_open:
            self.queue(user, frame)

    def broadcast(
        self, message: str | bytes, but: tuple[User, str] | None = None
    ) -> None:
        """Send to everyone: str as text, bytes as binary.

        but: one user, and what that one gets in its place.
        """
        if self.thread != get_ident():  # or a call for each: 1 % of a turn
            self.check_thread()
        frame = codec.encode_message(message)
        if but:
            user, other = but
            own = codec.encode_message(other)
            self.exceptions.setdefault(user, {})[len(self.for_all)] = own
        self.for_all.append(frame)

    def close(self, user: User, code: int = 1000, reason: str = "") -> None:
        """Say goodbye to one user (RFC 6455 s7.1.2).

        reason: at most 123 bytes. ValueError: not to be sent, see codec.
        """
        self.check_thread()
        if not user.handshaken:
            reason = reason or "The server does not want this connection."
            self.refuse(user, HandshakeError(403, reason))
            return
        frame = codec.encode_close(code, reason)
        if not user.closing:
            self.finish(user, frame)
            if not user.error:  # The frame is on its way.
                user.awaits_close = True
                user.ours = f"closed with {int(code)} {reason}".rstrip()

    def stop(self) -> None:
        """Let run() end: Close 1001 to everyone, two seconds at the most.

        From any thread, and from signal handlers.
        """
        self.stopping = True
        self.wake()

    def later(self, seconds: float, call: Call) -> Timer:
        """Call this in the loop, so many seconds from now.

        ValueError: less than 0 seconds, or for ever.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"not a number of seconds: {seconds}")
        return self.begin(Timer(call, time.monotonic() + seconds))

    def every(self, seconds: float, call: Call) -> Timer:
        """Call this in the loop, each time so many seconds have passed.

        What the loop was too late for is left out. If it raises, there is a
        traceback, and the timer goes on. ValueError: not more than 0 seconds.
        """
        if not 0 < seconds < math.inf:
            raise ValueError(f"not more than 0 seconds: {seconds}")
        return self.begin(Timer(call, time.monotonic() + seconds, seconds))

    def begin(self, timer: Timer) -> Timer:
        """Let a timer run, and return it."""
        self.check_thread()
        heapq.heappush(self.timers, timer)
        return timer

    def call_soon(self, call: Call) -> None:
        """Call this in the loop, at once; from any thread.

        The calls of one thread keep their order. When the loop has ended,
        nothing happens.
        """
        self.calls.append(call)
        self.wake()

    def wake(self) -> None:
        """Let select() return at once."""
        if not self.awake:
            self.awake = True
            with contextlib.suppress(OSError):  # The loop has ended.
                self.alarm.send(b"!")

    def check_thread(self) -> None:
        """Raise RuntimeError in a thread that may only use call_soon()."""
        if self.thread not in (0, get_ident()):
            words = "from another thread say server.call_soon(...)"
            raise RuntimeError(words)

    # ---- the loop ---------------------------------------------------------

    def run(self) -> None:
        """Serve until stop()."""
        self.thread = get_ident()
        while self.running:
            self.turn()
        self.thread = 0
        self.alarm.close()
        self.waker.close()
        self.notify("ended")

    def turn(self) -> None:
        """Ask the kernel who is ready, and serve each of them once."""
        # 1. Ask: whom to read from, for whom is something waiting?
        ask_read, ask_write, most = self.whom_to_ask()

        # 2. Wait: here, and nowhere else, the server sleeps.
        readable, writable = wait(ask_read, ask_write, most)
        self.notify("woke", ask_read, ask_write, readable, writable)
        self.now = time.monotonic()
        # The listening socket, the waker, guests' sockets.
        others = take_others(readable, writable)

        # 3. Accept newcomers.
        if self.listener in others:
            self.accept()

        # 4. Read once from each readable user, then hear what they say. Not
        # for ever: who is left over is readable in the next turn, too.
        ends = self.now + TURN_SECONDS
        for user in readable:
            self.read(user)
            if not user.handshaken and time.monotonic() > ends:
                break  # Requests cost more than frames.
        self.hear_all(ends)
        # What these have to say goes out in this turn, too.
        if self.timers or self.guests or self.waker in others:
            self.serve_others(set(others))

        # 5. Write what waited for room, then what this turn has produced.
        for user in writable:
            self.write(user)
        self.share()
        for user in list(self.unsent):
            if user.outbox and not user.full:  # It was not tried yet.
                self.write(user)

        # 6. Look for the late; who is done leaves.
        if self.now >= self.next_check:
            self.check_deadlines()
        if self.stopping:
            self.say_goodbye()
        if self.unsent:
            self.drop_done()
        self.running = bool(self.listener or self.users or self.guests)
        self.notify("turned")

    def whom_to_ask(self) -> tuple[list[Any], list[Any], float]:
        """Return whom to read from, whom to write to, and how long to sleep."""
        ask_read: list[Any] = list(self.users.values())
        if self.unheard or self.unsent:  # Else there is nobody to leave out.
            ask_read = [
                user
                for user in ask_read
                if not user.done_reading and not user.messages
            ]
        if self.listener and self.may_accept():
            ask_read.append(self.listener)
        ask_read.append(self.waker)  # for call_soon()
        ask_write: list[Any] = list(self.unsent)  # They all have an outbox.
        most = 0.0 if self.unheard else PATIENCE
        if self.timers or self.guests:
            most = min(most, self.ask_guests(ask_read, ask_write))
        return ask_read, ask_write, most

    def ask_guests(self, ask_read: list[Any], ask_write: list[Any]) -> float:
        """Ask for guests, too; return how long they and timers can wait."""
        most = PATIENCE
        if self.timers:
            most = self.timers[0].due - time.monotonic()
        for guest in list(self.guests):
            try:
                reads, writes = list(guest.ask_read()), list(guest.ask_write())
                # On Windows it may be no socket: then nobody would be served.
                if any(map(is_closed, {*reads, *writes})):
                    raise ValueError(f"not sockets for select(): {guest}")
                most = min(most, guest.patience())
                ask_read += reads
                ask_write += writes
            except Exception as error:
                self.dismiss(guest, error)
        return max(0.0, most)

    def may_accept(self) -> bool:
        """Tell whether a newcomer can be accepted, if only to be refused.

        If not, it waits in the kernel, and we do not ask about the listening
        socket: that stays readable, so select() would never sleep.
        """
        # A few more than there are places: add() tells them 503.
        most = self.places + SPARE // 2 - len(self.guests)
        has_place = len(self.users) < most
        return has_place and self.now >= self.accept_at

    def accept(self) -> None:
        """Make users of those who knock."""
        assert self.listener
        for _ in range(ACCEPTS_PER_TURN):
            if not self.may_accept():
                return
            try:
                sock, address = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in RESET_EARLY:
                    continue  # it was reset while it waited to get in
                # Most likely the process has no descriptor left.
                why = codec.in_words(error)
                self.attempt(self.diary, f"cannot accept: {why}")
                self.accept_at = self.now + PATIENCE
                return
            self.add(sock, address)

    def add(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        """Make a user of an accepted socket."""
        try:
            sock.setblocking(False)
            # Nagle's algorithm would let small frames wait for an ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()  # macOS tells only now that it was reset
            return
        if not can_be_watched(sock):
            sock.close()  # select() would raise ValueError, for everybody
            return
        # A number that was only used to get the page is given again: so the
        # first to join is #1, though the browser had to connect before.
        free = self.free_keys
        key = heapq.heappop(free) if free else next(self.new_keys)
        user = User(key, sock, address, self.max_message)
        user.deadline = self.now + HANDSHAKE_SECONDS
        self.users[user.key] = user
        self.notify("connected", user)
        if len(self.users) > self.places:
            self.refuse(user, HandshakeError(503, "The room is full."))
        else:
            self.guard(user, self.on_connect)

    def read(self, user: User) -> None:
        """Read once; answer a request, take messages apart."""
        try:
            data = user.socket.recv(self.recv_size)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(user, error)
            return
        self.notify("received", user, data)
        if user.handshaken:
            self.restart_deadline(user)
        if not data:
            self.end_of_stream(user)
        elif user.closing and not user.awaits_close:
            pass  # Thrown away. Left unread, it would reset the connection.
        elif user.handshaken:
            self.take_apart(user, data)
        else:
            self.guard(user, self.read_request, data)

    def read_request(self, user: User, data: bytes) -> None:
        """Collect the request; answer it when it is whole."""
        user.head += data
        taken = handshake.take_request(user.head)
        if not taken:
            return
        request, rest = taken
        user.request = request
        if not handshake.wants_websocket(request):
            self.finish(
                user, answer(request, self.page)
            )  # a browser fetches the page
            return
        handshake.check_upgrade(request)
        handshake.check_origin(request, self.origins, self.own_names)
        self.on_handshake(user, request)
        if user.closing:
            return  # the hook has called close()
        # First the 101, then the flag: nothing said to all may go before it.
        self.queue(user, handshake.switching_protocols(request))
        user.handshaken = True
        user.head = b""
        self.restart_deadline(user)
        if rest:
            self.take_apart(user, rest)
        self.on_open(user)

    def take_apart(self, user: User, data: bytes) -> None:
        """Give bytes to the decoder; hear_all() asks it for the messages."""
        user.messages = user.decoder.feed(data)
        self.unheard.append(user)

    def hear_all(self, ends: float) -> None:
        """Hear some messages of each user, in turns, until time is up.

        So thirty who shout share the loop with two who talk. Of each user,
        the order stays.
        """
        while self.unheard:
            user = self.unheard.popleft()
            self.guard(user, self.hear)
            if user.messages:
                self.unheard.append(user)
            if time.monotonic() > ends:
                break

    def hear(self, user: User) -> None:
        """Hand over some messages, answer pings and the Close."""
        shares = self.shares
        for heard, (opcode, message) in enumerate(user.messages or (), 1):
            if opcode == codec.TEXT or opcode == codec.BINARY:
                # After our own Close, only the other one is waited for.
                if not user.closing:
                    self.on_message(user, message)
            elif opcode == codec.PING:
                self.queue(user, codec.encode_frame(codec.PONG, message))
            elif opcode == codec.CLOSE:
                user.code, user.reason = message
                user.awaits_close = False
                # RFC 6455 s5.5.1: answer with the same code.
                self.finish(user, codec.encode_close(message.code))
            # A pong needs no answer: any byte is a sign of life.
            # One share() is a send() for each user: it counts as many.
            if heard == HEARD_AT_ONCE or self.shares > shares:
                return
        user.messages = None

    def serve_others(self, ready: set[Any]) -> None:
        """Do what other threads, timers and guests have to do."""
        if self.waker in ready:
            self.hear_threads()
        self.run_timers(time.monotonic())
        for guest in list(self.guests):
            try:
                guest.serve(ready)
                if self.stopping and not guest.is_active():
                    self.let_go(guest)
            except Exception as error:
                self.dismiss(guest, error)

    def hear_threads(self) -> None:
        """Do the calls of call_soon() that there is time for."""
        self.waker.recv(1024)
        self.awake = False  # From here on a new call sends a byte of its own.
        ends = time.monotonic() + TURN_SECONDS
        while self.calls:
            self.attempt(self.calls.popleft())
            if time.monotonic() > ends:
                break
        if self.calls:
            self.wake()  # The rest is for the next turn.

    def run_timers(self, now: float) -> None:
        """Do the calls that are due."""
        due = []  # first of all: a call may begin a timer that is due now
        while self.timers and self.timers[0].due <= now:
            due.append(heapq.heappop(self.timers))
        for timer in due:
            if timer.call:
                self.attempt(timer.call)
            if timer.call and timer.period:
                missed = (now - timer.due) // timer.period
                timer.due += (1 + missed) * timer.period
                heapq.heappush(self.timers, timer)

    def dismiss(self, guest: Any, error: Exception) -> None:
        """Let a guest go that has raised; it would do so again."""
        print_traceback(error)
        self.let_go(guest)

    def let_go(self, guest: Any) -> None:
        """Ask no more for a guest, which may have gone by itself."""
        if guest in self.guests:
            self.guests.remove(guest)

    def restart_deadline(self, user: User) -> None:
        """Give a user new time, as a byte came, or the kernel took one.

        Not for a request: it has ten seconds in all, see HANDSHAKE_SECONDS.
        """
        user.pinged = False
        if user.closing or user.error:
            user.deadline = self.now + CLOSING_SECONDS
        elif user.handshaken:
            user.deadline = self.now + self.ping_interval

    def end_of_stream(self, user: User, why: str = "hung up") -> None:
        """Read no more; what waits for this user still goes out."""
        user.done_reading = True
        user.why = user.why or why
        self.unsent.add(user)  # For drop_done(), even if nothing waits.
        if user.handshaken:
            self.finish(user, codec.encode_close(CloseCode.NORMAL))

    def queue(self, user: User, block: bytes) -> None:
        """Put a block for one user after all that was said before."""
        if not user.closing and not user.error:
            self.share()  # First what was said to all: the order is kept.
            self.notify("queued", user, block)
            self.keep(user, block)

    def share(self) -> None:
        """Give everyone, as one block, what was said to all till now."""
        if not self.for_all:
            return
        self.shares += 1
        frames, exceptions = self.for_all, self.exceptions
        self.for_all, self.exceptions = [], {}
        everyone = self.everyone()
        for user, own in exceptions.items():
            if user in everyone:
                everyone.remove(user)
                theirs = [own.get(at, each) for at, each in enumerate(frames)]
                self.hand_out([user], b"".join(theirs))
        self.hand_out(everyone, b"".join(frames))

    def hand_out(self, users: list[User], block: bytes) -> None:
        """Give the same block to all of these.

        In its simple form:

            for user in users: self.keep(user, block)

        But most users have nothing waiting. For them the kernel is tried at
        once, and only what it does not take goes into the outbox.
        """
        self.notify("shared", users, block)
        size = len(block)
        # Of a large block first a little: that wakes the reader, and then
        # the rest costs a fifth less. It goes out in this turn, too.
        first = block[:JOIN] if size > LARGE else block
        for user in users:
            if user.outbox:
                self.keep(user, block)
                continue
            sent = 0
            try:
                sent = user.socket.send(first)
                if sent == size:
                    continue
            except BlockingIOError:
                pass
            except OSError as error:
                self.fail(user, error)
                continue
            user.full = sent < len(first)
            self.keep(user, block, sent)
            if user.full:
                self.notify("wrote", user, sent)

    def keep(self, user: User, block: bytes, sent: int = 0) -> None:
        """Put block[sent:] into an outbox; who has too much there leaves.

        All outboxes share the one block. It is not counted: a block of any
        size fits into an empty outbox.
        """
        if self.is_behind(user):
            self.write(user)  # In a long turn it may have read meanwhile.
            if self.is_behind(user):
                reason = f"did not read: {user.waiting} bytes waited"
                self.end(user, OSError(errno.ENOBUFS, reason))
        if user.error:
            return  # write() or end(): nothing may follow what was left out.
        # A slice would copy the rest for each user, a view does not.
        user.outbox.append(memoryview(block)[sent:] if sent else block)
        user.waiting += len(block) - sent
        self.unsent.add(user)

    def is_behind(self, user: User) -> bool:
        """Tell whether too much waits; a block is more than its bytes."""
        waiting = user.waiting + BLOCK_COST * len(user.outbox)
        return waiting > self.max_backlog

    def write(self, user: User) -> None:
        """Send from one outbox until it is empty or the kernel is full."""
        outbox, before, was_full = user.outbox, user.waiting, user.full
        try:
            while outbox:
                sent = user.socket.send(front(outbox))
                forget(outbox, sent)
                user.waiting -= sent
            user.full = False
            if user.closing:
                # The other side reads our Close, then the end of the stream.
                user.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            user.full = True  # select() will tell when there is room again
        except OSError as error:
            self.fail(user, error)
            return
        if was_full and user.waiting < before:
            # There is room again, so it reads. (An empty buffer takes bytes
            # for one who has gone, too.)
            self.restart_deadline(user)
        self.notify("wrote", user, before - user.waiting)

    def check_deadlines(self) -> None:
        """Ping the silent and end the late, about twice a second."""
        self.next_check = self.now + PATIENCE
        for user in list(self.users.values()):
            if self.now >= user.deadline and user.outbox:
                # select() tells of much room only. If even a little was taken,
                # write() has moved the deadline: slow is not dead.
                self.write(user)
            if self.now >= user.deadline:
                self.too_late(user)

    def too_late(self, user: User) -> None:
        """End, refuse or ping one whose time is up, by its state."""
        if user.closing or user.error:
            self.end(user, TimeoutError("did not hang up"))
        elif not user.handshaken:
            # No diary line for silence: browsers open spare connections.
            late = "The request did not come in 10 seconds."
            self.refuse(user, HandshakeError(408, late), quiet=not user.head)
        elif user.pinged:
            self.end(user, TimeoutError("did not answer a ping"))
        else:
            user.pinged = True
            user.deadline = self.now + self.ping_interval
            self.queue(user, codec.encode_frame(codec.PING, b""))

    def say_goodbye(self) -> None:
        """Stop listening, send everyone away; end when they have gone."""
        if self.listener:  # the first time
            self.listener.close()
            self.listener = None
            self.stop_at = self.now + STOPPING_SECONDS
            for user in list(self.users.values()):
                if user.handshaken:
                    self.close(user, CloseCode.GOING_AWAY, "the room closes")
                elif user.head:
                    self.refuse(user, HandshakeError(503, "The room closes."))
                elif not user.closing:  # There is nothing to answer.
                    self.end_of_stream(user, "asked for nothing")
            for guest in list(self.guests):
                if hasattr(guest, "close"):
                    self.attempt(guest.close, CloseCode.GOING_AWAY)
        elif self.now >= self.stop_at:
            for user in list(self.users.values()):
                self.end(user, TimeoutError("did not hang up"))
            for guest in list(self.guests):
                if hasattr(guest, "end"):  # A Client's on_close tells it all.
                    self.attempt(guest.end, "the room has closed")
                    self.attempt(guest.serve, set())
            self.guests.clear()

    def drop_done(self) -> None:
        """Drop all who are done: nothing to read, nothing to write."""
        while True:
            done = [u for u in self.unsent if u.done_reading and not u.outbox]
            if not done:
                break
            for user in done:
                if not user.outbox:  # A hook may have answered it by now.
                    self.drop(user)
            # What on_close said to all may be too much for somebody else.
            self.share()
        self.unsent = {user for user in self.unsent if user.outbox}

    # ---- how a user leaves ------------------------------------------------
    # In order: finish() queues the last word, write() sends it and shuts the
    # sending side, end_of_stream() sees the other side do so, drop() lets go.
    # Cut short: fail() sends no more but reads on, end() gives up both.

    def finish(self, user: User, last: bytes) -> None:
        """Queue the last block for a user; then only hanging up is left."""
        if not user.closing:
            self.queue(user, last)
            user.closing = True
            self.restart_deadline(user)

    def fail(self, user: User, error: OSError) -> None:
        """Send no more, as that failed; what the user said is still heard."""
        if not user.closing:  # Else it only did not wait for our last word.
            user.error = user.error or error
        user.why = user.why or codec.in_words(error)
        user.outbox.clear()
        user.waiting = 0
        self.restart_deadline(user)

    def end(self, user: User, error: OSError) -> None:
        """Send and read no more: the user leaves at the end of this turn."""
        self.fail(user, error)
        user.done_reading = True
        self.unsent.add(user)

    def drop(self, user: User) -> None:
        """Let a user go: here, and nowhere else, users leave."""
        del self.users[user.key]
        self.unsent.discard(user)
        user.messages = None
        user.closing = True  # A hook may still know it: nothing is queued.
        with contextlib.suppress(OSError):
            # close() alone would wait for a child process that has it, too.
            user.socket.shutdown(socket.SHUT_RDWR)
        user.socket.close()
        self.notify("left", user, user.why)
        if user.code == CloseCode.ABNORMAL:
            user.reason = user.ours or user.why
            if user.error:  # Who said Close has left in order all the same.
                self.attempt(self.on_error, user, user.error)
        if user.handshaken:
            # Not guarded: behind on_close comes no on_error.
            self.attempt(self.on_close, user, user.code, user.reason)
        else:
            heapq.heappush(self.free_keys, user.key)

    # ---- when something goes wrong ----------------------------------------

    def guard(self, user: User, step: Callable[..., None], *more: Any) -> None:
        """Call step(user, *more); an error ends only this user.

        A broken rule: a Close with its code. A bad request: an HTTP status.
        All else is a bug in a hook.
        """
        try:
            step(user, *more)
        except ProtocolError as error:
            # Guarded: a hook may raise it, with a reason that is too long.
            self.guard(user, self.close, error.code, error.reason)
            # RFC 6455 s7.1.7: nothing it says counts now, not even a Close.
            user.awaits_close = False
            user.messages = None
        except HandshakeError as error:
            self.guard(user, self.refuse, error)
        except Exception as error:
            self.bug(user, error)

    def refuse(
        self, user: User, error: HandshakeError, quiet: bool = False
    ) -> None:
        """Answer a request with an HTTP status instead of a WebSocket."""
        if user.handshaken:
            self.bug(user, error)  # It was raised too late, by a hook.
        elif not user.closing:
            if not quiet:
                self.attempt(self.diary, f"#{user.key} refused: {error}")
            head_only = user.head.lstrip(b"\r\n").startswith(b"HEAD ")
            date = formatdate(usegmt=True)
            self.finish(user, handshake.refusal(error, head_only, date))

    def bug(self, user: User, error: Exception) -> None:
        """A hook raised: tell the programmer all, the user little."""
        print_traceback(error)
        self.attempt(self.on_error, user, error)
        if user.handshaken:
            self.close(user, CloseCode.INTERNAL_ERROR, "a bug in the server")
        else:
            self.refuse(user, HandshakeError(500, "A bug in the server."))

    def attempt(self, hook: Callable[..., None], *arguments: Any) -> None:
        """Call a hook; if it raises, print the traceback and go on."""
        try:
            hook(*arguments)
        except Exception as error:
            print_traceback(error)

    def notify(self, what: str, *arguments: Any) -> None:
        """Call a method of the observer, if there is one; see lessons.

        One that raises is told nothing more.
        """
        if self.observer:
            try:
                getattr(self.observer, what)(*arguments)
            except Exception as error:
                print_traceback(error)
                self.observer = None


# ---- sockets ----------------------------------------------------------------


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0: any free one. Raises OSError."""
    # As bytes: for a str, Python loads half a megabyte of Unicode tables.
    name = host.encode() if host.isascii() else host
    family, _, _, _, address = socket.getaddrinfo(
        name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.create_server(address, family=family, backlog=128)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    listener.setblocking(False)
    return listener


def wait(
    ask_read: list[Any], ask_write: list[User], most: float
) -> tuple[list[Any], list[User]]:
    """Sleep until somebody is ready, at most so many seconds."""
    if not ask_read and not ask_write:
        time.sleep(most)  # Windows' select() refuses three empty lists.
        return [], []
    try:
        readable, writable, _ = select.select(ask_read, ask_write, [], most)
    except (OSError, ValueError):
        # A hook has closed a user's socket. Reading it will tell, and end it.
        readable = list(filter(is_closed, ask_read))
        writable = list(filter(is_closed, ask_write))
        if not readable and not writable:
            raise
    return readable, writable


def is_closed(user: Any) -> bool:
    """Tell whether select() cannot be asked about a user, or a guest's."""
    try:
        select.select([user], [], [], 0)
    except (OSError, ValueError):
        return True
    return False


def front(outbox: deque[bytes | memoryview]) -> bytes | memoryview:
    """Return the first block of an outbox; small ones, joined: one send."""
    size = few = 0
    for block in outbox:
        size += len(block)
        if size > JOIN:
            break
        few += 1
    return b"".join(islice(outbox, few)) if few > 1 else outbox[0]


def forget(outbox: deque[bytes | memoryview], sent: int) -> None:
    """Remove so many bytes, which were sent, from the front of an outbox."""
    while outbox and sent >= len(outbox[0]):
        sent -= len(outbox.popleft())
    if sent:
        outbox[0] = memoryview(outbox[0])[sent:]


def count_places(listener: socket.socket) -> int:
    """Return how many users select() can watch beside what is open now.

    select() keeps its sockets in a bit field of 1,024 descriptors, Windows
    in a list of 512 sockets. A process may be allowed fewer descriptors:
    then this asks for as many as select() can use.
    """
    if sys.platform == "win32":
        return WINDOWS_SOCKETS - 1 - SPARE
    import resource  # there is none on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FD_SETSIZE
    if hard != resource.RLIM_INFINITY:
        most = min(hard, FD_SETSIZE)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # The kernel gives out the lowest free number: those below are in use.
    places = most - listener.fileno() - 1 - SPARE
    if places < 1:
        listener.close()
        raise OSError(errno.EMFILE, f"{most} open files are too few")
    return places


def keep_memory() -> None:
    """Let malloc keep freed megabytes for the next message.

    glibc gives a freed block back to the kernel if it is larger than any
    that was freed before, and then each large message waits for new pages:
    a third of its time. So one large block is freed here; it is never
    touched, so it costs nothing. Elsewhere this does nothing.
    """
    bytes(8 * 1024 * 1024)


def print_traceback(error: Exception) -> None:
    """Print on stderr what Python prints for an uncaught exception."""
    # Perhaps nobody reads stderr any more; the room goes on.
    with contextlib.suppress(OSError):
        sys.excepthook(type(error), error, error.__traceback__)


def can_be_watched(sock: socket.socket) -> bool:
    """Tell whether select() takes this socket; Windows takes any number."""
    most = math.inf if sys.platform == "win32" else FD_SETSIZE
    return 0 <= sock.fileno() < most


def take_others(*lists: list[Any]) -> list[Any]:
    """Take those who are no users from the ends of lists; return them."""
    others = []
    for ready in lists:
        while ready and not isinstance(ready[-1], User):
            others.append(ready.pop())
    return others


def is_loopback(host: str) -> bool:
    """Tell whether only this machine itself can reach that address."""
    return host.startswith("127.") or host == "::1"


def own_names() -> set[str]:
    """Return the names under which this machine may be asked for."""
    name = socket.gethostname().lower()
    return {name, name.split(".")[0] + ".local"}


def answer(request: Request, page: str) -> bytes:
    """Answer a plain request: the page, and nothing else on this disk.

    It is read each time, so that an edit shows on reload.
    """
    if request.path != "/":
        raise HandshakeError(404, "There is only the page at /.")
    try:
        html = read_page(page)
    except OSError as error:
        reason = f"{os.path.basename(page)}: {error.strerror}."
        raise HandshakeError(503, reason) from None
    date = formatdate(usegmt=True)
    head = handshake.http_head(200, "text/html", len(html), date)
    return head if request.method == "HEAD" else head + html


def read_page(path: str) -> bytes:
    """Return a page; client.html also when all of this stands in a zip."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        loader: Any = getattr(__spec__, "loader", None)
        if path != PAGE or not hasattr(loader, "archive"):
            raise
        path = os.path.join(os.path.dirname(__file__), "client.html")
        return bytes(loader.get_data(path))


# ---- the chat room ----------------------------------------------------------


class ChatRoom(Server):
    """The room of the tutorial, in its own messages.

    So every copy of the tutorial's page works here with only its address
    changed. Its words: ming is a name, nr or nrong is content, rmove is
    removed, code is the user's key, code1 is to whom ("all" or a code).

        type=add&ming=NAME   "this is my name": a list of users comes back
        nr=TEXT&key=all      "say this to all"
        nr=TEXT&key=CODE     "say this to one"

    A text that begins with { is said to all by its sender: nobody can forge
    the room's own words. Anything else goes to everyone as it came.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Who has a name, by code, as JSON: with 900 users, to make it anew
        # for each newcomer would take a third of a millisecond.
        self.people: dict[str, str] = {}
        # With --redis: the rooms of other servers, see lessons/rooms.py, and
        # what makes a key a code that no other server gives: "-9f2c01ab".
        self.others: Any = None
        self.mark = ""

    def on_open(self, user: User) -> None:
        """Note who came, and that "null" may be any page."""
        assert user.request
        line = f"#{user.key} joined from {user.address[0]}"
        if user.request.headers.get("Origin") == "null":
            line += ", by a page from disk, or one that hides"
        self.diary(line)

    def on_message(self, user: User, message: str | bytes) -> None:
        """Do what the tutorial's messages ask for; relay all others."""
        if isinstance(message, bytes):
            self.broadcast(message)
        elif message.startswith(FORMS):
            self.take_form(user, message)
        elif message.lstrip().startswith("{"):
            # It could be taken for the room's own words, which are JSON.
            self.say(user, message, "all")
        else:
            self.broadcast(message)

    def take_form(self, user: User, message: str) -> None:
        """Do what a form asks for; relay one that is not the tutorial's."""
        form = parse_form(message)
        if form.get("type") == "add" and "ming" in form:
            self.name(user, form["ming"])
        elif "nr" in form and "key" in form:
            self.say(user, form["nr"], form["key"])
        elif not form and FOR_ONE.search(message):
            self.tell(user, "That is too much to be whispered.")
        else:
            self.broadcast(message)

    def on_close(self, user: User, code: int, reason: str) -> None:
        """Note who left, and tell the others."""
        # 20 characters can be 200 when escaped; the reason shall be seen too.
        who = f"#{user.key} {printable(user.name)[:40]}".rstrip()
        self.diary(f"{who} left: {code} {reason}".rstrip())
        if self.remove_person(self.code_of(user)) and self.others:
            self.others.left(user.key)

    def name(self, user: User, name: str) -> None:
        """Give a user a name; tell all others, and tell it of them."""
        is_newcomer = not user.name
        code = self.code_of(user)
        user.name = clean_name(name) or f"user {user.key}"
        if is_newcomer:
            self.diary(f"#{user.key} is {user.name}")
        self.add_person(code, user.name, user if is_newcomer else None)
        if self.others:
            self.others.named(user.key, user.name)

    def add_person(
        self, code: str, name: str, newcomer: User | None = None
    ) -> None:
        """Tell this room the name of one who is in it, or in another one.

        newcomer: this user gets the list of all people instead.
        """
        self.people[code] = JSON.encode({"code": code, "name": name})
        added = to_json({"type": "add", "name": name, "code": code})
        if not newcomer:
            self.broadcast_here(added)
            return
        madd = to_json({"type": "madd", "name": name, "code": code})
        users = ", ".join(self.people.values())
        madd = f'{madd[:-1]}, "users": [{users}]}}'
        self.broadcast_here(added, but=(newcomer, madd))

    def remove_person(self, code: str) -> bool:
        """Tell this room that somebody has gone; False: nobody knew them."""
        if not self.people.pop(code, None):
            return False
        removed = {"type": "rmove", "nrong": code, "code": False}
        self.broadcast_here(to_json(removed))
        return True

    def say(self, user: User, text: str, to: str) -> None:
        """Pass on what one user says to all, or to one other."""
        said = to_json({"nrong": text, "code": self.code_of(user)}, to)
        other = self.find(to)
        if len(said.encode()) > self.max_message:
            # JSON may be six times longer, and all would have to read it.
            self.tell(user, f"That is too long: {len(said)} letters.")
        elif to == "all":
            self.broadcast(said)
        elif other:
            self.send(user, said)
            if other is not user:
                self.send(other, said)
        elif self.others and self.others.whisper(user.key, said, to):
            self.send(user, said)
        else:
            self.tell_nobody(user, to)

    def code_of(self, user: User) -> str:
        """Return what a user is called in messages: the key, as text."""
        return f"{user.key}{self.mark}"

    def find(self, code: str) -> User | None:
        """Return the open user of this room who has a code, if any."""
        key, dash, server = code.partition("-")
        is_ours = dash + server == self.mark and CODE.fullmatch(key)
        user = self.users.get(int(key)) if is_ours else None
        return user if user and user.is_open else None

    def broadcast(
        self, message: str | bytes, but: tuple[User, str] | None = None
    ) -> None:
        """Send to everyone, here and in the rooms of other servers."""
        self.broadcast_here(message, but)
        if self.others:
            self.others.said(message)

    def broadcast_here(
        self, message: str | bytes, but: tuple[User, str] | None = None
    ) -> None:
        """Send to everyone in this room only."""
        super().broadcast(message, but)

    def tell(self, user: User, words: str, to: str | None = None) -> None:
        """Say something to one user, in the name of the room."""
        to = self.code_of(user) if to is None else to[:20]
        self.send(user, to_json({"nrong": words, "code": False}, to))

    def tell_nobody(self, user: User, to: str) -> None:
        """Tell a user that a whisper has reached nobody."""
        self.tell(user, f"There is nobody with the code {to[:20]} here.", to)

    def announce(self, words: str) -> None:
        """Say something to all, in the name of the room."""
        self.broadcast(to_json({"nrong": words, "code": False}))

    def diary(self, text: str) -> None:
        """Print one line: ASCII, under 100 characters, at once."""
        show(printable(f"{time.strftime('%H:%M:%S')}  {text}")[:99])


def show(text: str) -> None:
    """Print at once."""
    try:
        print(text, flush=True)
    except BlockingIOError:
        pass  # A full pipe that another program made so: this line is lost.
    except OSError:
        # Whoever read the diary has gone (| head); the room has not.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


FORMS = ("type=", "ming=", "nr=", "key=")
CODE = re.compile("[1-9][0-9]{0,9}")  # a user's key, as text
FOR_ONE = re.compile("(?:^|&)key=(?!all(?:&|$))")  # a whisper, not taken apart
MAX_NAME = 20  # characters
MAX_RAW_NAME = 200  # characters, before those are gone that cannot be seen
MAX_FIELDS = 9  # in a form; the tutorial uses two
# In a form: 70,000 Chinese letters have so many. It takes urllib a tenth of
# a second to decode them, and the room waits.
MAX_ESCAPES = 210_000
MAX_MIXED = 100_000  # characters, where other letters stand between escapes
# Unicode calls these letters, marks or symbols, but nothing is seen of them.
BLANKS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164"
    "\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def parse_form(message: str) -> dict[str, str]:
    """Return the fields of "type=add&ming=Ana"; {} if it has too many."""
    escapes = message.count("%")
    is_mixed = escapes and not message.isascii()
    if escapes > MAX_ESCAPES or (is_mixed and len(message) > MAX_MIXED):
        return {}
    try:
        return dict(parse_qsl(message, True, max_num_fields=MAX_FIELDS))
    except ValueError:
        return {}  # somebody's text full of "&"


def to_json(fields: dict[str, Any], to: str = "all") -> str:
    """Return a message of the room: its fields, to whom, and the time."""
    now = time.strftime("%m-%d %H:%M:%S")
    return JSON.encode({**fields, "code1": to, "time": now})


# json.dumps() with such an option makes a new one for each message.
JSON = json.JSONEncoder(ensure_ascii=False)


def clean_name(name: str) -> str:
    """Return a name that can be shown anywhere; it may be empty."""
    words = " ".join(name[:MAX_RAW_NAME].split())
    # Not printable, by their Unicode category: controls, what cannot be
    # seen, what turns the direction of writing round.
    seen = "".join(filter(str.isprintable, BLANKS.sub("", words)))
    return seen.strip()[:MAX_NAME].strip()


def printable(text: str) -> str:
    """Return text in printable ASCII, all else escaped, on one line."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


UNPRINTABLE = re.compile("[^ -~]")


# ---- the command line -------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the room until Ctrl-C; return the exit status."""
    options = parse_arguments(arguments)
    try:
        room = ChatRoom(
            options.host,
            options.port,
            origins=options.origin,
            max_message=options.max_message,
            max_backlog=options.max_backlog,
            ping_interval=options.ping_interval,
            recv_size=options.recv_size,
            page=options.page,
        )
    except (OSError, UnicodeError) as error:
        for line in explain(error, options.host, options.port):
            print(line, file=sys.stderr)
        return 2

    asked = [options.trace, options.step, options.teach, options.small_buffers]
    asked += [options.watch, options.fault, options.lab, options.redis]
    if any(asked) or options.record is not None:
        import lessons  # not needed otherwise, so not even loaded

        trouble = lessons.begin(room, options, show)
        if trouble:
            print(trouble, file=sys.stderr)
            return 2
    serve(room)
    return 0


def serve(server: Server, *guests: Any) -> None:
    """Say where it listens, and run it until Ctrl-C or SIGTERM.

    For programs of one's own, too: serve(Server(port=9000)). guests share
    its loop; a Client that has no connection yet is connected. Only in the
    main thread, as Python handles signals there.
    """

    def stop(number: int, frame: Any) -> None:
        server.stop()
        signal.signal(number, signal.SIG_DFL)  # the second one ends at once

    # A program's own print() must not fail on a console that is not UTF-8.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signals = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, stop) for number in signals]
    # Last: whoever reads it may connect at once.
    show("\n".join(invitation(server)))
    server.guests += guests
    for guest in list(server.guests):
        # One may take its time: Ctrl-C is for all of them.
        waits = hasattr(guest, "connect") and not guest.is_active()
        if waits and not server.stopping:
            server.attempt(guest.connect)
    server.run()
    for number, handler in zip(signals, before):
        signal.signal(number, handler)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; with a wrong one, exit with two lines."""
    parser = make_parser()
    words = sys.argv[1:] if arguments is None else arguments
    # Or argparse would take the port of "--watch 9000" for that of the page.
    words = ["--watch=next" if w == "--watch" else w for w in words]
    options = parser.parse_args(words)
    if not 0 <= options.port <= 65535:
        parser.error(f"{options.port} is not a port; one is 1 to 65535")
    if min(options.max_message, options.max_backlog) < 1:
        parser.error("--max-message and --max-backlog are at least 1 byte")
    if not 0 < options.ping_interval < math.inf:
        parser.error("the ping interval must be more than 0 seconds")
    if not 1 <= options.recv_size <= MAX_RECV_SIZE:
        parser.error(f"--recv-size is 1 to {MAX_RECV_SIZE} bytes")
    if options.fault and options.lab:
        parser.error("--break and --lab: only one of them at a time")
    if options.only is not None:
        if not (options.trace or options.step or options.teach):
            parser.error("--only is for --trace, --step and --teach")
        if options.only < 1:
            parser.error("--only takes the number of a user; the first is 1")
    if options.teach and not (sys.stdin and sys.stdout):
        parser.error("--teach reads the keyboard and answers: one is not there")
    if options.step and not (sys.stdin and sys.stdin.isatty() and sys.stdout):
        parser.error("--step asks questions, but this is not a terminal")
    return options


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="server.py",
        description="A WebSocket chat room for a class.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("port", nargs="?", type=int, default=9000, help="9000 if left out")
    add("--host", metavar="ADDRESS", default="127.0.0.1", help="listen there")
    add("--lan", action="store_const", const="0.0.0.0", dest="host",
        help="listen on all addresses, for the class")  # fmt: skip
    add("--origin", metavar="URL", type=origin, action="append", default=[],
        help="let pages from there join")  # fmt: skip
    add("--max-message", metavar="BYTES", type=int,
        default=codec.MAX_MESSAGE, help="%(default)s if left out")  # fmt: skip
    add("--max-backlog", metavar="BYTES", type=int,
        default=MAX_BACKLOG, help="unread by one user")  # fmt: skip
    add("--ping-interval", metavar="SECONDS", type=float,
        default=PING_INTERVAL, help="of silence; then a ping")  # fmt: skip
    add("--page", metavar="FILE",
        help="show this at / in place of client.html")  # fmt: skip
    add("--redis", metavar="HOST:PORT", type=redis,
        help="be one room with other servers")  # fmt: skip
    add = parser.add_argument_group("for lessons").add_argument
    # Not nargs="?": then "--trace 9000" would take the port for a level.
    add("--trace", action="store_const", const="full",
        help="explain every byte")  # fmt: skip
    add("--trace=short", action="store_const", const="short", dest="trace",
        help="a line for each turn, frame and handshake")  # fmt: skip
    add("--only", metavar="NUMBER", type=int,
        help="trace this user alone")  # fmt: skip
    add("--step", action="store_true", help="predict what select() gives back")
    add("--teach", action="store_true",
        help="change such switches while it runs, by keyboard")  # fmt: skip
    add("--watch", metavar="PORT", type=watch_port,
        help="show the loop on all screens, at the next port")  # fmt: skip
    add("--record", metavar="FILE",
        help="write each turn down, to be played back")  # fmt: skip
    add("--recv-size", metavar="BYTES", type=int, default=RECV_SIZE,
        help="read so many at a time, or fewer")  # fmt: skip
    add("--small-buffers", action="store_true",
        help="a slow reader shows soon")  # fmt: skip
    add("--break", metavar="NAME", type=fault, dest="fault",
        help="break one rule on purpose; ?: by chance")  # fmt: skip
    add("--lab", metavar="FILE", type=lab, action="append", default=[],
        help="run on what you wrote in lessons.lab")  # fmt: skip
    return parser


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake costs two lines, not a page."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and how to find out more; exit with 2."""
        # Of --trace=long, argparse says what it does, not what to type.
        message = message.replace("ignored explicit argument", NO_VALUE)
        text = f"server.py: {printable(message)}"
        lines = textwrap.wrap(text[:156], 79)
        lines.append("To see the options: python server.py --help")
        print("\n".join(lines[:2]), file=sys.stderr)
        sys.exit(2)


NO_VALUE = "it takes no value (but there is --trace=short), not"


def origin(text: str) -> str:
    """Return an origin for --origin, as browsers send it."""
    try:
        return handshake.normalise_origin(text)
    except ValueError as error:
        message = f"{text[:30]!r}: {error}"
        raise argparse.ArgumentTypeError(message) from None


def watch_port(text: str) -> str:
    """Return the port for --watch as text; "next" is the one behind ours."""
    is_number = text.isdecimal() and len(text) < 6
    if text == "next" or (is_number and int(text) <= 65535):
        return text
    message = f"{text[:30]!r} is not a port; one is 1 to 65535"
    raise argparse.ArgumentTypeError(message)


def fault(name: str) -> str:
    """Return the name of a fault for --break, if there is such a one."""
    from lessons import faults

    if name not in (faults.CHANCE, *faults.FAULTS):
        names = ", ".join(faults.FAULTS)
        raise argparse.ArgumentTypeError(f"no {name[:20]!r}; take {names}")
    return name


def lab(path: str) -> Any:
    """Return a student's file for --lab, loaded, if it can be used."""
    from lessons.labs.plug import open_file
    from lessons.labs.student import Trouble

    try:
        return open_file(path)
    except Trouble as trouble:
        raise argparse.ArgumentTypeError(str(trouble)) from None


def redis(text: str) -> Any:
    """Return the address of a Redis for --redis, taken apart."""
    from lessons.redis import parse_address

    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def explain(error: Exception, host: str, port: int) -> list[str]:
    """Say in words why the server cannot listen, and what to do."""
    if isinstance(error, OSError) and error.filename is not None:
        page = printable(error.filename)[-40:]
        return [
            f"server.py: {page}: {error.strerror}",
            "After --page stands the file to be shown at /.",
        ]
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return [f"server.py: {error.strerror}; allow it more: ulimit -n 1024"]
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return [
            f"server.py: port {port} is taken, perhaps by this very server.",
            f"Try another one: python server.py {port % 65535 + 1}",
        ]
    if isinstance(error, PermissionError):
        return [
            f"server.py: this system does not let you use port {port}.",
            "Take one from 1024 up: python server.py 9000",
        ]
    return [
        f"server.py: {printable(host)[:36]} is no address of this machine.",
        "Leave --host out, or use --lan for all of its addresses.",
    ]


def invitation(server: Server) -> list[str]:
    """Return the first lines of the diary: what to type into a browser."""
    here, *others = addresses(server)
    first = f"Open {here}   (Ctrl-C closes the room)"
    return [first, *(f"The class opens {other}" for other in others)]


def addresses(server: Server) -> list[str]:
    """Return where its page is: for this machine first, then for others."""
    host = f"[{server.host}]" if ":" in server.host else server.host
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    others = lan_addresses(":" in host) if here != host else []
    return [f"http://{each}:{server.port}/" for each in (here, *others)]


def lan_addresses(is_v6: bool) -> list[str]:
    """Return the addresses by which others reach this machine."""
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # For UDP this only chooses a way out; nothing is sent.
            probe.connect(("2001:db8::1" if is_v6 else "192.0.2.1", 9))
            found = probe.getsockname()[0]
            return [f"[{found}]" if is_v6 else found]
        except OSError:
            pass  # no way out of this network: ask the machine's name
    try:
        return [] if is_v6 else socket.gethostbyname_ex(socket.gethostname())[2]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
