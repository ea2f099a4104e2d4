"""What the hostile tests share: a quiet room, a clock, crowds, meters."""

# ruff: noqa: SIM117 - Python 3.8 has no brackets around several with
from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from unittest import mock

import codec
import handshake
import server
from tests.support import (
    DEADLINE,
    KEY,
    MASKING_KEY,
    close_all,
    serving,
    wait_until,
)

TEXT, BINARY, CLOSE = codec.TEXT, codec.BINARY, codec.CLOSE
PING, PONG = codec.PING, codec.PONG


class Room(server.ChatRoom):
    """A chat room that keeps its diary to itself."""

    def __init__(self, **options):
        super().__init__(port=0, **options)
        self.lines = []

    def diary(self, text):
        self.lines.append(text)


class Relay(server.Server):
    """The plain server: what one says, all hear."""

    def __init__(self, **options):
        super().__init__(port=0, **options)


@contextlib.contextmanager
def room(kind=Room, patience=0.005, **options):
    """Serve, and look at the deadlines two hundred times a second."""
    with mock.patch.object(server, "PATIENCE", patience):
        with serving(kind(**options)) as running:
            yield running


class Clock:
    """The time module, for a server; its monotonic() can be put forward."""

    def __init__(self):
        self.ahead = 0.0

    def __getattr__(self, name):
        return getattr(time, name)

    def monotonic(self):
        return time.monotonic() + self.ahead

    def go_to(self, seconds, running):
        """Put it forward; wait until the room has seen to its deadlines."""
        self.ahead = seconds
        check = time.monotonic() + seconds
        wait_until(lambda: running.next_check > check + 2 * server.PATIENCE)


@contextlib.contextmanager
def clock():
    """Let the server, and nobody else, live by a Clock."""
    with mock.patch.object(server, "time", Clock()) as ours:
        yield ours


def frame(opcode, payload=b"", fin=True):
    """Return a masked frame."""
    return codec.encode_frame(opcode, payload, MASKING_KEY, fin)


def request(port=0, **headers):
    """Return a good handshake; origin="..." adds that header."""
    headers = {name.title(): value for name, value in headers.items()}
    host = headers.pop("Host", f"127.0.0.1:{port}")
    return handshake.request_head(host, "/", KEY, headers)


def connect(port, data=b"", buffer=0):
    """Return a connected socket that has sent data.

    buffer: bytes that it may receive without reading; 0: as usual, many.
    """
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(DEADLINE)
    sock.connect(("127.0.0.1", port))
    sock.sendall(data)
    return sock


def read_head(sock):
    """Return the head of an answer, or what came of it until the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        if not data:
            break
        head += data
    return head


def read_to_end(sock):
    """Return all bytes up to the end of the stream, or to a reset."""
    parts = []
    with contextlib.suppress(ConnectionError):
        for data in iter(lambda: sock.recv(65536), b""):
            parts.append(data)
    return b"".join(parts)


def status(answer):
    """Return the status of an HTTP answer: 101, 503; 0: there is none."""
    match = re.match(rb"HTTP/1\.1 ([0-9]{3}) ", answer)
    return int(match[1]) if match else 0


def sleeper(port):
    """Return the socket of a user who is in the room and never reads."""
    sock = connect(port, request(port), buffer=4096)
    assert status(read_head(sock)) == 101
    return sock


class ByTurns:
    """A server whose turns a test takes, and sockets that talk to it.

    REQUEST: what opens a WebSocket.
    """

    REQUEST = b""

    def __init__(self, server):
        self.server = server
        self.sockets = []

    def connect(self, buffer=0):
        """Knock, and let the server accept; buffer: see connect()."""
        sock = connect(self.server.port, buffer=buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(sock)
        self.server.turn()
        return sock

    def open(self, buffer=0):
        """Connect and open a WebSocket."""
        sock = self.connect(buffer)
        self.say(sock, self.REQUEST)
        answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        return sock

    def say(self, sock, data):
        """Send bytes; the server takes one turn to read them."""
        sock.sendall(data)
        return self.turn()

    def turn(self):
        """Let the server take a turn."""
        self.server.turn()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sock in self.sockets:
            sock.close()
        for user in self.server.users.values():
            user.socket.close()
        close_all(self.server)


class Crowd:
    """Many sockets that ask for a WebSocket; a context manager."""

    def __init__(self, port):
        self.port = port
        self.inside = []
        self.refused = []  # the statuses of those who were not let in

    def enter(self, count):
        """Knock so many times, a few at once; who is refused leaves."""
        while count > 0:
            few = [
                connect(self.port, request(self.port))
                for _ in range(min(count, 50))
            ]
            count -= len(few)
            for sock in few:
                answer = read_head(sock)
                if status(answer) == 101:
                    self.inside.append(sock)
                else:
                    self.refused.append(status(answer))
                    sock.close()

    def leave(self, count):
        for _ in range(count):
            self.inside.pop().close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.leave(len(self.inside))


@contextlib.contextmanager
def descriptors(count):
    """Let this process have so many descriptors; False: it may not."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = limits
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < count:
        yield False
        return
    if soft != unlimited and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield True
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def peak_memory(pid):
    """Return the most bytes that a process has had in memory so far."""
    with open(f"/proc/{pid}/status") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def processor_seconds(pid):
    """Return how long a process has been running on a processor."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    try:
        # The same in nanoseconds, where the kernel counts them.
        with open(f"/proc/{pid}/schedstat") as schedstat:
            return int(schedstat.read().split()[0]) / 1e9
    except (OSError, ValueError):
        return ticks


def processor_share(pid, seconds):
    """Watch a process for some time; 1.0 is one whole core."""
    begun, used = time.monotonic(), processor_seconds(pid)
    time.sleep(seconds)  # the measurement itself, not a wait for anything
    used = processor_seconds(pid) - used
    return used / (time.monotonic() - begun)


def talk(pair, text):
    """Let each of a pair say a text and hear it; others may talk too."""
    for speaker in pair:
        speaker.send(text)
        for peer in pair:
            while peer.receive() != text:
                pass


def wait_for_users(running, count):
    """Wait until so many users are in the room."""
    wait_until(lambda: len(running.users) == count, f"{count} users")
