"""Measure the server against the limit of select() itself.

    python tests/bench.py                      all scenes, some minutes
    python tests/bench.py --scene busy --seconds 1 --rounds 1
    python tests/bench.py --plot cost.svg      cost per delivery, 10 to 1,000

The limit is a bare relay, relay() below: a select() loop that passes the
same bytes on and knows nothing of WebSocket. Nothing that is written with
select() in this language can be faster; the column "relay" says how near
the server comes. Server, relay and any other server are measured in turn,
each in a fresh process on a core of its own; the load, this process, has
another core. The table shows the medians of all rounds.

To compare with another server, let it send each message to all users, the
sender included, with compression and pings off (the load expects whole
frames and nothing else); --server may be repeated. With `websockets`:

    import asyncio, sys, websockets.asyncio.server as ws
    off = {"compression": None, "ping_interval": None, "max_size": None}
    async def say(me):
        async for m in me: ws.broadcast(me.server.connections, m)
    async def main():
        async with ws.serve(say, "127.0.0.1", int(sys.argv[1]), **off) as s:
            await s.serve_forever()
    asyncio.run(main())

    python tests/bench.py --server 'python others.py {port}'

With picows:

    import asyncio, sys, picows
    users = set()
    class Say(picows.WSListener):
        def on_ws_connected(self, me): users.add(me)
        def on_ws_disconnected(self, me): users.discard(me)
        def on_ws_frame(self, me, frame):
            said = frame.get_payload_as_bytes()
            for user in users: user.send(frame.msg_type, said)
    async def main():
        s = await picows.ws_create_server(
            lambda _: Say(), "127.0.0.1", int(sys.argv[1]),
            enable_auto_ping=False, max_frame_size=2**22)
        await s.serve_forever()
    asyncio.run(main())

With uWebSockets, by way of socketify:

    import sys, socketify
    app = socketify.App()
    app.ws("/*", {
        "compression": socketify.CompressOptions.DISABLED, "idle_timeout": 0,
        "max_payload_length": 2**22, "max_backpressure": 2**26,
        "open": lambda me: me.subscribe("all"),
        "message": lambda me, m, kind: app.publish("all", m, kind)})
    app.listen(int(sys.argv[1]), lambda _: None)
    app.run()

What one run gave stands in README.md. Other days differ by half, the ratios
by a tenth or two. p99 there was 0.20 ms (echo), 1.6 (quiet), 1.9 (busy), 9.6
(hall) and 16 (video). The chat scene made 5,799,218 deliveries/s, 0.59 of the
relay, which needs no JSON. Nine tenths of quiet and hall are send(), a call
for each user; half of video is masking. By users: tests/cost.svg. The tricks
are in Server.hand_out(), keep_memory() and codec.mask(), where each says its
simple form.

How the bytes correspond: a message of 64 bytes leaves the server as a
frame of 66, and exactly these 66 the relay takes and gives. Only on the
way in does WebSocket cost 4 bytes more per frame, the masking key. In the
chat scene the load says nr=TEXT&key=all, as client.html does. The room makes
JSON of it, with the speaker's code and the time; all others pass it on.

Is the load the limit? A message is in flight until
its speaker hears it. The first user to connect is the first to be served
and speaks again while the server still writes to the others: so it always
has work, if the load keeps up. The column "busy" is the share of time in
which the server ran or waited for its core: 100 % means that it never
waited for the load. Less means waiting for each other's answers, as in the
echo scene, where that is the point. The column "cpu us" is what one delivery
took of the server's core, in microseconds: two versions of a server are
compared by it, as other programs on the machine disturb it least.

What was tried, on two cores, in runs that differed by up to 12 % among
themselves: without its checks the load was no faster; with listeners who
read every second message only (SO_RCVLOWAT), and a load idle for 11 to 19 %
of the time, the relay gained 4 % at most. Given messages that all wait, it
takes 15 million deliveries/s in the busy scene, above what any server
reached. But in quiet (246,000) and hall (182,000) that is no more than the
relay's own rate: nearly all of it is the kernel's recv(). There the load
has no reserve, and made 0.4 us slower per reading it cost hall up to 16 %.
So the figures of quiet and hall are those of server and load together, and
a ratio near 1 may hide a difference that a faster load would show.

What the load checks: the longest stream that any user has heard is taken
apart, frame by frame, against what each speaker said, in his order; the
streams of all others are compared with it byte by byte; at the end nobody
misses anything.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import select
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any, Callable, NamedTuple, Sequence
from urllib.parse import urlencode

HERE = Path(__file__).resolve()
HOST = "127.0.0.1"
PATIENCE = 10.0  # seconds; a server that is silent for so long has failed
WARM_UP = 0.3  # seconds, not counted
IDLE_USERS = 900
RUSH = 50  # handshakes under way at once; servers queue a hundred
TRIM = 8 * 1024 * 1024  # bytes of the common stream that are kept
SPENT = 64  # messages that a speaker has in store; then he begins again
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
WELCOME = b"."  # the relay's whole handshake
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # to this key; RFC 6455 s1.3


class BenchError(Exception):
    """The measurement failed; one line that says why."""


class Scene(NamedTuple):
    """Who says how much."""

    name: str
    users: int
    speakers: int = 1
    in_flight: int = 1
    size: int = 64  # bytes in a message; up to 125: text, above: binary
    about: str = ""
    chat: bool = False  # said in the room's own messages


# One speaker only in the video: the relay cannot tell where a message
# ends and would mix two that arrive in pieces.
SCENES = (
    Scene("echo", 1, about="1 user, 1 message at a time"),
    Scene("quiet", 100, about="100 users, 1 speaks"),
    Scene("busy", 100, 10, 8, about="100 users, 10 speak, 8 in flight each"),
    Scene("chat", 100, 10, 8, about="the same, nr=TEXT&key=all", chat=True),
    Scene("hall", 900, about="900 users, 1 speaks"),
    Scene("video", 10, 1, 2, 2**20, "10 users, 1 MiB messages, 2 in flight"),
)
IDLE = "idle"  # also a --scene: memory, handshakes, wake-ups


class Contender(NamedTuple):
    """Something to measure: its name and the command that starts it."""

    name: str
    command: tuple[str, ...]  # with {port} in it
    websocket: bool = True  # False: the relay
    room: bool = False  # it knows the room's messages


class Result(NamedTuple):
    """One measurement; None is what this system does not tell."""

    rate: float  # deliveries per second
    p50: float  # seconds from saying to hearing
    p99: float
    peak: float | None  # KiB
    busy: float | None  # 0 to 1, the server
    cpu: float | None  # seconds of the server's, per delivery


class Idle(NamedTuple):
    """What users cost who only listen."""

    started: float | None  # KiB resident, nobody there
    each: float | None  # KiB more per user
    handshakes: float  # per second
    wakes: float | None  # per second
    busy: float | None  # 0 to 1, the server during the handshakes


# ---- the limit ------------------------------------------------------------


def relay(port: int) -> None:
    """Pass on all bytes of everyone to everyone: the bare relay."""
    listener = socket.create_server((HOST, port), backlog=128)
    door = listener.fileno()
    clients: dict[int, socket.socket] = {}
    outbox: dict[int, deque[memoryview]] = {}  # what the kernel did not take
    while True:
        readable, writable, _ = select.select([door, *clients], outbox, [])
        said = []
        for number in readable:
            if number == door:
                let_in(listener, clients)
                continue
            data = hear_bytes(clients[number])
            said.append(data)
            if not data:
                outbox.pop(number, None)
                clients.pop(number).close()
        for number in writable:
            if number in outbox and say_rest(clients[number], outbox[number]):
                del outbox[number]
        block = b"".join(said)
        if not block:
            continue
        size = len(block)
        for number, client in clients.items():
            try:
                sent = 0 if number in outbox else client.send(block)
            except OSError:
                sent = 0  # no room; or gone, which recv() will tell
            if sent < size:
                rest = memoryview(block)[sent:]
                outbox.setdefault(number, deque()).append(rest)


def let_in(listener: socket.socket, clients: dict[int, socket.socket]) -> None:
    """Accept one client of the relay, and tell him."""
    client, _ = listener.accept()
    client.setblocking(False)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.send(WELCOME)
    clients[client.fileno()] = client


def hear_bytes(client: socket.socket) -> bytes:
    """Read once; b"" when the client has gone."""
    try:
        return client.recv(65536)
    except OSError:
        return b""


def say_rest(client: socket.socket, waiting: deque[memoryview]) -> bool:
    """Send what waited for room; tell whether all of it went."""
    try:
        while waiting:
            sent = client.send(waiting[0])
            if sent == len(waiting[0]):
                waiting.popleft()
            else:
                waiting[0] = waiting[0][sent:]
    except OSError:
        pass
    return not waiting


# ---- what is said -----------------------------------------------------------


def payload(speaker: int, number: int, size: int) -> bytes:
    """Return a message: who, which one, then noise; all are different."""
    chance = random.Random(speaker * SPENT + number)
    tag = b"%03d %03d " % (speaker, number)
    noise = chance.getrandbits(8 * size)
    if size < 126:
        return (tag + b"%0*x" % (2 * size, noise))[:size]  # it is text
    return (tag + noise.to_bytes(size, "big"))[:size]


def frame(payload: bytes, key: bytes = b"") -> bytes:
    """Return the WebSocket frame of a message; with a key, masked."""
    size, mask_bit = len(payload), 0x80 if key else 0
    if size < 126:
        head = bytes((0x81, mask_bit | size))
    elif size < 2**16:
        head = bytes((0x81, mask_bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x82, mask_bit | 127)) + size.to_bytes(8, "big")
    if not key:
        return head + payload
    keys = (key * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
    return head + key + number.to_bytes(size, "big")


def form(text: bytes) -> bytes:
    """Return how the room is asked to say a text to all."""
    return urlencode({"nr": text, "key": "all"}).encode()


CODE = b'10", "code1": '  # of a speaker; all have two digits


def words(text: bytes) -> bytes:
    """Return what the room makes of it; the code and the time are any."""
    end = b'"all", "time": "01-31 23:59:59"}'
    return b'{"nrong": "%s", "code": "' % text + CODE + end


class Speaker:
    """What one of the users says, made before the measurement.

    He has a store of messages, numbered, and begins again at its end. The
    store is larger than what is in flight, so a lost, doubled or swapped
    message cannot pass for another.
    """

    def __init__(self, index: int, scene: Scene, whom: Contender) -> None:
        store = SPENT if scene.size < 126 else 2 * scene.in_flight
        frames, heard = [], []
        for number in range(store):
            message = payload(index, number, scene.size)
            said = form(message) if scene.chat else message
            answer = words(message) if scene.chat and whom.room else said
            heard.append(frame(answer))
            key = random.Random(number).getrandbits(32).to_bytes(4, "big")
            frames.append(frame(said, key if whom.websocket else b""))
        self.heard_size = len(heard[0])  # bytes
        # As everyone should hear it, up to what cannot be known before.
        self.heard = [frame.partition(CODE)[0] for frame in heard]
        # Twice, so that any few in a row are one piece of it.
        self.script = memoryview(b"".join(frames * 2))
        self.size = len(frames[0])
        self.said = 0  # messages said so far
        self.times: deque[float] = deque()  # when, of those in flight

    def say(self, count: int) -> memoryview:
        """Return the bytes of the next messages."""
        first = self.said % len(self.heard)
        self.said += count
        self.times.extend([time.perf_counter()] * count)
        return self.script[first * self.size : (first + count) * self.size]


# ---- the load ---------------------------------------------------------------


class User:
    """One connection of the load."""

    __slots__ = (
        "heard", "number", "socket", "speaker", "unsent", "voice", "waits",
    )  # fmt: skip

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.socket = socket.create_connection((HOST, port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard = 0  # bytes of the common stream
        self.voice = 0  # which speaker this is
        self.speaker: Speaker | None = None
        self.unsent: deque[memoryview] = deque()
        self.waits = False  # for room to send


BEGINNING = 25  # bytes; no two frames begin alike


class Load:
    """All users of a scene, in one thread; a context manager."""

    def __init__(self, scene: Scene, port: int, whom: Contender) -> None:
        self.scene = scene
        self.users: list[User] = []
        self.poll = new_poll()
        self.buffer = memoryview(bytearray(2**20))
        self.speakers = [Speaker(i, scene, whom) for i in range(scene.speakers)]
        self.size = self.speakers[0].heard_size  # of a frame
        # A frame's beginning -> who says it, and all of it.
        self.known: dict[bytes, tuple[int, bytes]] = {}
        for voice, speaker in enumerate(self.speakers):
            for heard in speaker.heard:
                self.known[heard[:BEGINNING]] = voice, heard
        self.stream = bytearray()  # the longest that anyone has heard
        self.order = bytearray()  # for each whole frame in it: whose it is
        self.times: list[float] = []  # and when it was said
        self.counts = [0] * scene.speakers  # frames heard of each speaker
        self.speaking = True
        self.bytes = 0  # received
        self.latencies: list[float] = []
        connect(self.users, scene.users, port, whom.websocket)
        self.by_descriptor = {u.socket.fileno(): u for u in self.users}

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: Any) -> None:
        for user in self.users:
            user.socket.close()
        self.poll.close()

    def begin(self) -> None:
        """Let the speakers speak."""
        for user in self.users:
            user.socket.setblocking(False)
            self.poll.register(user.socket.fileno(), IN)
        first = 10 if self.scene.chat else 0  # see CODE
        step = (len(self.users) - first) // len(self.speakers)
        for voice, speaker in enumerate(self.speakers):
            user = self.users[first + voice * step]
            user.voice, user.speaker = voice, speaker
            self.say(user, speaker, self.scene.in_flight)

    def run(self, seconds: float) -> None:
        """Serve the users for a time."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.turn()

    def turn(self) -> None:
        """Read once from each user who has something to read."""
        if len(self.stream) > TRIM:
            self.trim()
        ready = self.poll.poll(PATIENCE)
        if not ready:
            raise BenchError(f"no message came for {PATIENCE:.0f} seconds")
        for descriptor, event in ready:
            user = self.by_descriptor[descriptor]
            if event & OUT:
                self.send(user)
            if event != OUT:
                self.hear(user)

    def hear(self, user: User) -> None:
        """Read once, check it, and let a speaker answer himself."""
        try:
            size = user.socket.recv_into(self.buffer)
        except OSError as error:
            raise BenchError(f"user {user.number}: {error.strerror}") from None
        if not size:
            raise BenchError(f"the server hung up on user {user.number}")
        piece = self.buffer[:size]
        start, end = user.heard, user.heard + size
        known = len(self.stream)
        if end > known:
            self.stream += piece[known - start :]
            self.check()
        # It compares in place; a slice would have to be copied.
        if not self.stream.startswith(piece, start):
            raise BenchError(f"user {user.number} heard other bytes")
        user.heard = end
        self.bytes += size
        first, last = start // self.size, end // self.size
        if first < last:
            self.heard_whole(user, first, last)

    def heard_whole(self, user: User, first: int, last: int) -> None:
        """Count what is now whole for this user: messages first to last.

        Message n is timed at user n modulo users: a fair sample of all.
        """
        users = len(self.users)
        timed = range(first + (user.number - first) % users, last, users)
        if timed:
            now = time.perf_counter()
            self.latencies += [now - self.times[n] for n in timed]
        if user.speaker and self.speaking:
            own = self.order.count(user.voice, first, last)
            if own:
                self.say(user, user.speaker, own)

    def check(self) -> None:
        """Check the frames that are new in the common stream."""
        stream, size = self.stream, self.size
        for at in range(len(self.order) * size, len(stream) - size + 1, size):
            found = self.known.get(bytes(stream[at : at + BEGINNING]))
            if not found:
                odd = bytes(stream[at : at + 30])
                raise BenchError(f"nobody said this: {odd!r}")
            voice, heard = found
            speaker, count = self.speakers[voice], self.counts[voice]
            if heard is not speaker.heard[count % len(speaker.heard)]:
                raise BenchError(f"speaker {voice}: not in order at {count}")
            if not speaker.times:
                raise BenchError(f"speaker {voice}: heard before it was said")
            if not stream.startswith(heard, at):
                raise BenchError(f"speaker {voice}: message {count} is broken")
            self.counts[voice] = count + 1
            self.order.append(voice)
            self.times.append(speaker.times.popleft())

    def say(self, user: User, speaker: Speaker, count: int) -> None:
        """Say the next messages."""
        user.unsent.append(speaker.say(count))
        if len(user.unsent) == 1:
            self.send(user)

    def send(self, user: User) -> None:
        """Send what the kernel takes; ask to be woken for the rest."""
        try:
            while user.unsent:
                block = user.unsent[0]
                sent = user.socket.send(block)
                if sent < len(block):
                    user.unsent[0] = block[sent:]
                else:
                    user.unsent.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            raise BenchError(f"user {user.number}: {error.strerror}") from None
        waits = bool(user.unsent)
        if waits != user.waits:
            user.waits = waits
            self.poll.modify(user.socket.fileno(), IN | OUT if waits else IN)

    def trim(self) -> None:
        """Forget what everyone has heard."""
        count = min(user.heard for user in self.users) // self.size
        del self.stream[: count * self.size]
        del self.order[:count]
        del self.times[:count]
        for user in self.users:
            user.heard -= count * self.size

    def drain(self) -> None:
        """Say no more, hear the rest: nobody may miss anything."""
        self.speaking = False
        end = time.perf_counter() + PATIENCE
        while self.missing():
            if time.perf_counter() > end:
                raise BenchError(self.missing())
            self.turn()

    def missing(self) -> str:
        """Say what has not arrived yet; empty: all is there."""
        for speaker, count in zip(self.speakers, self.counts):
            if speaker.said > count:
                return f"{speaker.said - count} messages were lost"
        for user in self.users:
            if user.heard < len(self.stream):
                return f"user {user.number} has not heard everything"
        return ""


IN, OUT = 1, 4  # as select.epoll numbers them


class AnyPoll(selectors.DefaultSelector):  # type: ignore
    """What the load needs of select.epoll, where there is none."""

    def register(self, descriptor: int, event: int) -> None:  # type: ignore
        """Watch a descriptor."""
        super().register(descriptor, selectors.EVENT_READ)

    def modify(self, descriptor: int, event: int) -> None:  # type: ignore
        """Watch it for something else."""
        write = selectors.EVENT_WRITE if event & OUT else 0
        super().modify(descriptor, selectors.EVENT_READ | write)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Wait; return (descriptor, IN or OUT or both) of the ready ones."""
        write = selectors.EVENT_WRITE
        return [
            (key.fd, event & ~write | (OUT if event & write else 0))
            for key, event in self.select(timeout)
        ]


def new_poll() -> Any:
    """Return an epoll, or what comes nearest."""
    return select.epoll() if hasattr(select, "epoll") else AnyPoll()


def connect(users: list[User], count: int, port: int, websocket: bool) -> None:
    """Add users, RUSH at a time so that the server never waits for us."""
    while len(users) < count:
        rush = range(len(users), min(count, len(users) + RUSH))
        try:
            news = [User(number, port) for number in rush]
            users += news
            for user in news:
                if websocket:
                    user.socket.sendall(REQUEST % port)
            for user in news:
                if websocket:
                    check_response(user.socket)
                elif user.socket.recv(1) != WELCOME:
                    raise BenchError("no welcome")
        except OSError as error:
            why = error.strerror or str(error)
            raise BenchError(f"no connection {len(users)}: {why}") from None


def check_response(sock: socket.socket) -> None:
    """Read the answer to the handshake, and nothing else."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = sock.recv(4096)
        if not data:
            break
        answer += data
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 ") or ACCEPT not in head:
        raise BenchError(f"no WebSocket here: {answer[:50]!r}")
    if rest:
        raise BenchError(f"nobody spoke, but there came {rest[:30]!r}")


# ---- what is measured -------------------------------------------------------


class Program:
    """A contender's process, on its own core; a context manager."""

    def __init__(self, contender: Contender) -> None:
        self.port = free_port()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = [
            word.replace("{port}", str(self.port)) for word in contender.command
        ]
        try:
            with on_core(SERVER_CORES):
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self.errors,
                )
        except OSError as error:
            self.errors.close()
            why = f"cannot run {command[0]}: {error.strerror}"
            raise BenchError(why) from None
        self.pid = self.process.pid

    def __enter__(self) -> Program:
        try:
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def wait(self) -> None:
        """Wait until it listens."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.alive()
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise BenchError(f"does not listen on port {self.port}")

    def alive(self) -> None:
        """Raise BenchError with its last words if it has ended."""
        if self.process.poll() is None:
            return
        self.errors.seek(0)
        lines = self.errors.read().decode("ascii", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        status = self.process.returncode
        words = f"ended with status {status}: {last.strip()[:100]}"
        raise BenchError(words.rstrip(": "))

    def memory(self, name: str) -> float | None:
        """Return VmRSS or VmHWM, the resident memory now or at most: KiB."""
        return tasks_total(self.pid, "status", name, once=True)

    def wakes(self) -> float | None:
        """Return how often it has gone to sleep so far."""
        return tasks_total(self.pid, "status", "voluntary_ctxt_switches")


def tasks_total(
    pid: int, file: str, name: str, once: bool = False
) -> float | None:
    """Add up a line of /proc for all threads; once: they share it."""
    total = None
    for path in Path(f"/proc/{pid}/task").glob(f"*/{file}"):
        for line in path.read_text().splitlines():
            if line.startswith(name + ":"):
                total = float(line.split()[1]) + (total or 0)
        if once:
            break
    return total


def ran(pid: int) -> float | None:
    """Return the seconds in which a process ran on a core."""
    times = schedule(pid)
    return sum(ran for ran, _ in times) if times else None


def active(pid: int) -> float | None:
    """Return the seconds in which a process ran or waited for its core."""
    times = schedule(pid)
    return sum(ran + waited for ran, waited in times) if times else None


def schedule(pid: int) -> list[tuple[float, float]]:
    """Return for how long each thread ran, and waited for a core."""
    times = []
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        ran, waited, _ = path.read_text().split()
        times.append((int(ran) / 1e9, int(waited) / 1e9))
    return times


class Stopwatch:
    """Tells how long, and how busy a process was meanwhile."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.began = active(pid)
        self.time = time.perf_counter()

    def read(self) -> tuple[float, float | None]:
        """Return the seconds, and the share in which it was busy."""
        seconds, now = time.perf_counter() - self.time, active(self.pid)
        if now is None or self.began is None:
            return seconds, None
        return seconds, min((now - self.began) / seconds, 1)


def measure(contender: Contender, scene: Scene, seconds: float) -> Result:
    """Play one scene once with a fresh process."""
    with Program(contender) as program:
        try:
            with Load(scene, program.port, contender) as load:
                return play(load, program, seconds)
        except BenchError:
            time.sleep(0.05)  # for the process to end, if it does
            program.alive()
            raise


def play(load: Load, program: Program, seconds: float) -> Result:
    """Warm up, count for some seconds, hear the rest."""
    load.begin()
    load.run(WARM_UP)
    load.bytes = 0
    load.latencies.clear()
    server, before = Stopwatch(program.pid), ran(program.pid)
    load.run(seconds)
    elapsed, busy = server.read()
    heard = load.bytes / load.size
    cpu = difference(ran(program.pid), before, heard)
    load.drain()
    times = sorted(load.latencies)
    if not times:
        raise BenchError("nothing was heard: more --seconds are needed")
    return Result(
        heard / elapsed,
        times[len(times) // 2],
        times[len(times) * 99 // 100],
        program.memory("VmHWM"),
        busy,
        cpu,
    )


def measure_idle(contender: Contender, seconds: float) -> Idle:
    """Open IDLE_USERS connections and let them be silent."""
    users: list[User] = []
    with Program(contender) as program:
        try:
            started = program.memory("VmRSS")
            watch = Stopwatch(program.pid)
            connect(users, IDLE_USERS, program.port, contender.websocket)
            elapsed, busy = watch.read()
            time.sleep(0.5)
            full = program.memory("VmRSS")
            wakes, watch = program.wakes(), Stopwatch(program.pid)
            time.sleep(max(seconds, 4.0))
            more = difference(program.wakes(), wakes, watch.read()[0])
            each = difference(full, started, IDLE_USERS)
            return Idle(started, each, IDLE_USERS / elapsed, more, busy)
        finally:
            for user in users:
                user.socket.close()


def difference(
    after: float | None, before: float | None, per: float
) -> float | None:
    """Return how much more it was, per something; None if not known."""
    if after is None or before is None:
        return None
    return (after - before) / per


def medians(results: Sequence[Any]) -> Any:
    """Return one result whose every field is the median of its kind."""
    columns = []
    for column in zip(*results):
        known = [value for value in column if value is not None]
        columns.append(median(known) if known else None)
    return type(results[0])(*columns)


# ---- the machine ------------------------------------------------------------


class on_core:  # noqa: N801
    """Run, inside a with, on certain cores: a child inherits them."""

    def __init__(self, cores: set[int]) -> None:
        self.cores = cores

    def __enter__(self) -> None:
        if self.cores:
            self.before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, self.cores)

    def __exit__(self, *_: Any) -> None:
        if self.cores:
            os.sched_setaffinity(0, self.before)


def share_cores() -> tuple[set[int], set[int]]:
    """Return (a core for the servers, the others for us); or empty sets."""
    if not hasattr(os, "sched_setaffinity"):
        return set(), set()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return set(), set()
    return {cores[-1]}, set(cores[:-1])


SERVER_CORES, LOAD_CORES = share_cores()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def allow_descriptors(count: int) -> None:
    """Raise this process's limit of open files as far as is needed."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY:
            count = min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


# ---- the table and the drawing ----------------------------------------------

HEAD = (
    f"{'scene':5} {'server':12} {'deliveries/s':>12} {'relay':>5} "
    f"{'p50 ms':>8} {'p99 ms':>8} {'peak MiB':>8} {'busy':>5} {'cpu us':>7}"
)


def row(scene: str, name: str, result: Result, ratio: float) -> str:
    """Return one line of the table."""
    return (
        f"{scene:5} {name:12} {result.rate:12,.0f} "
        f"{ratio:5.2f} "
        f"{result.p50 * 1e3:8.3f} {result.p99 * 1e3:8.3f} "
        f"{shown(result.peak, 1 / 1024, '.1f'):>8} "
        f"{shown(result.busy, 1, '.0%'):>5} "
        f"{shown(result.cpu, 1e6, '.3f'):>7}"
    )


def idle_row(name: str, idle: Idle) -> str:
    """Return one line about idle users."""
    return (
        f"{IDLE:5} {name:12} "
        f"{shown(idle.started, 1 / 1024, '.1f')} MiB when started, "
        f"{shown(idle.each, 1, '.1f')} KiB more per user, "
        f"{idle.handshakes:,.0f} handshakes/s "
        f"(busy {shown(idle.busy, 1, '.0%')}), "
        f"wakes {shown(idle.wakes, 1, '.1f')} times/s"
    )


def shown(value: float | None, factor: float, form: str) -> str:
    """Return a number for the table, or a dash."""
    return "-" if value is None else format(value * factor, form)


def progress(text: str) -> None:
    """Show what is going on, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r{text:70}\r", end="", file=sys.stderr, flush=True)


PLOT_USERS = (10, 20, 50, 100, 200, 500, 1000)
COLORS = ("#2f81f7", "#e8710a", "#3fa34d", "#a371f7", "#d1497b")
GRAY = "#808890"  # legible on white and on black
LEFT, RIGHT, TOP, BOTTOM = 60, 560, 50, 320


def draw(curves: dict[str, list[float]]) -> str:
    """Return an SVG: microseconds per delivery, by PLOT_USERS."""
    highest = max(max(curve) for curve in curves.values()) * 1.15
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 370" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{GRAY}">',
        f'<text x="{LEFT}" y="24" font-size="15">'
        "Microseconds per delivery, one user speaks to all</text>",
        f'<text x="{(LEFT + RIGHT) / 2}" y="360" text-anchor="middle">'
        "users</text>",
        *draw_grid(highest),
    ]
    ends: list[float] = []
    for color, (name, curve) in zip(COLORS, curves.items()):
        label = height(curve[-1], highest)
        while any(abs(label - other) < 16 for other in ends):
            label += 1  # names must not stand on each other
        ends.append(label)
        parts += draw_curve(name, curve, highest, color, label)
    return "\n".join([*parts, "</svg>\n"])


def place(index: int) -> float:
    """Return the x of a point; the steps are even, as the users double."""
    return LEFT + (RIGHT - LEFT) * index / (len(PLOT_USERS) - 1)


def height(value: float, highest: float) -> float:
    """Return the y of so many microseconds."""
    return BOTTOM - (BOTTOM - TOP) * value / highest


def draw_grid(highest: float) -> list[str]:
    """Return the lines and numbers behind the curves."""
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 1e9) if highest < 7 * s)
    parts = []
    for i in range(int(highest / step) + 1):
        y = height(i * step, highest)
        parts.append(
            f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="{GRAY}" '
            f'stroke-opacity="{0.3 if i else 1}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{i * step:g}</text>"
        )
    for i, users in enumerate(PLOT_USERS):
        parts.append(
            f'<text x="{place(i):.1f}" y="{BOTTOM + 20}" '
            f'text-anchor="middle">{users:,}</text>'
        )
    return parts


def draw_curve(
    name: str, curve: list[float], highest: float, color: str, label: float
) -> list[str]:
    """Return a line, its points and its name."""
    points = [(place(i), height(v, highest)) for i, v in enumerate(curve)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points
    )
    return [
        f'<g fill="{color}"><polyline points="{line}" fill="none" '
        f'stroke="{color}" stroke-width="2.5"/>{dots}',
        f'<text x="{RIGHT + 10}" y="{label + 4:.1f}">{name}</text></g>',
    ]


# ---- the command line -------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    options = parse_arguments(arguments)
    if options.relay:
        relay(options.relay)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    allow_descriptors(max(PLOT_USERS) + 64)
    gc.disable()  # its pauses would be the server's latency
    try:
        with on_core(LOAD_CORES):
            if options.plot:
                plot(contenders(options.server), options)
            else:
                tables(contenders(options.server), options)
    except BenchError as error:
        progress("")
        print(f"bench.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        progress("")
        print("bench.py: stopped", file=sys.stderr)
        return 130
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="\n".join(f"{s.name:8}{s.about}" for s in SCENES)
        + f"\n{IDLE:8}900 users: memory, handshakes, wake-ups\n"
        + "How to read the table: see the top of tests/bench.py.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = [scene.name for scene in SCENES] + [IDLE]
    add("--scene", action="append", choices=names, help="only this one")
    add("--seconds", type=float, default=2.0, help="of each measurement")
    add("--rounds", type=int, default=5, help="the table shows the median")
    add("--server", action="append", default=[], metavar="'COMMAND {port}'")
    add("--plot", type=Path, metavar="FILE.svg", help="draw cost by users")
    add("--relay", type=int, help=argparse.SUPPRESS)  # be the relay
    options = parser.parse_args(arguments)
    if not 0 < options.seconds <= 3600 or options.rounds < 1:
        parser.error("--seconds and --rounds must be more than 0")
    return options


def contenders(commands: Sequence[str]) -> list[Contender]:
    """Return what to measure: the relay, this server, the others."""
    found = [
        Contender(
            "relay", (sys.executable, str(HERE), "--relay", "{port}"), False
        ),
        Contender(
            "server.py",
            # Users who only listen are not to be pinged meanwhile.
            (
                *(sys.executable, str(HERE.parent.parent / "server.py")),
                *("{port}", "--ping-interval", "86400"),
            ),
            room=True,
        ),
    ]
    for command in commands:
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise BenchError(f"--server {command!r}: {error}") from None
        if "{port}" not in command:
            raise BenchError(f"--server {command!r}: {{port}} is missing")
        named = [word for word in words if "{port}" not in word]
        programs = [word for word in named if word.endswith(".py")]
        path = Path((programs or named or ["?"])[-1])
        # An older version of this server knows the room's messages, too.
        room = path.name == "server.py"
        name = path.parent.name + "/.." if room else path.name
        found.append(Contender(name[:12], words, room=room))
    return found


def in_turn(
    what: str,
    candidates: Sequence[Contender],
    rounds: int,
    once: Callable[[Contender], Any],
) -> list[list[Any]]:
    """Measure all candidates in turn, several rounds; return results."""
    results: list[list[Any]] = [[] for _ in candidates]
    for number in range(1, rounds + 1):
        for candidate, mine in zip(candidates, results):
            progress(f"{what}: {candidate.name}, round {number} of {rounds}")
            try:
                mine.append(once(candidate))
            except BenchError as error:
                why = f"{what}: {candidate.name}: {error}"
                raise BenchError(why) from None
    progress("")
    return results


def tables(candidates: list[Contender], options: argparse.Namespace) -> None:
    """Play the scenes and print the table."""
    cost = {}
    wanted = options.scene or [*(scene.name for scene in SCENES), IDLE]
    print(HEAD if wanted != [IDLE] else "", flush=True)
    for scene in SCENES:
        if scene.name not in wanted:
            continue

        def once(candidate: Contender, scene: Scene = scene) -> Result:
            return measure(candidate, scene, options.seconds)

        results = in_turn(scene.name, candidates, options.rounds, once)
        for candidate, mine in zip(candidates, results):
            # Of each round, as the machine may have been slower in one.
            ratio = median(a.rate / b.rate for a, b in zip(mine, results[0]))
            result = medians(mine)
            print(row(scene.name, candidate.name, result, ratio), flush=True)
            cost[candidate.name, scene.name] = 1e6 / result.rate
    if IDLE in wanted:
        print_idle(candidates[1:], options)
    print_growth(candidates, cost)


def print_idle(
    candidates: list[Contender], options: argparse.Namespace
) -> None:
    """Measure and print what idle users cost."""

    def once(candidate: Contender) -> Idle:
        return measure_idle(candidate, options.seconds)

    results = in_turn(IDLE, candidates, options.rounds, once)
    for candidate, mine in zip(candidates, results):
        print(idle_row(candidate.name, medians(mine)), flush=True)


def print_growth(
    candidates: list[Contender], cost: dict[tuple[str, str], float]
) -> None:
    """Print whether a delivery costs more when there are more users."""
    for name, *_ in candidates:
        few, many = cost.get((name, "quiet")), cost.get((name, "hall"))
        if few and many:
            print(
                f"growth {name:12} {few:.2f} us per delivery to 100 users, "
                f"{many:.2f} to 900: {many / few:.2f} times"
            )


def plot(candidates: list[Contender], options: argparse.Namespace) -> None:
    """Measure with more and more users, and draw it."""
    curves: dict[str, list[float]] = {c.name: [] for c in candidates}
    for users in PLOT_USERS:
        scene = Scene("plot", users)

        def once(candidate: Contender, scene: Scene = scene) -> Result:
            return measure(candidate, scene, options.seconds)

        what = f"{users} users"
        results = in_turn(what, candidates, options.rounds, once)
        for candidate, mine in zip(candidates, results):
            curves[candidate.name].append(1e6 / medians(mine).rate)
        costs = ", ".join(f"{n} {c[-1]:.2f}" for n, c in curves.items())
        print(f"{users:5} users, us per delivery: {costs}", flush=True)
    options.plot.write_text(draw(curves), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
