"""What the tests of --redis share: a real Redis, and a wire that can be cut.

Both keep their ports while they are away. So these are none of those that
the kernel gives out: somebody else could get one, or a connection that is
tried again and again could meet itself.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest
from concurrent.futures import Future
from pathlib import Path

from lessons.resp import Replies, command
from tests.support import DEADLINE, WINDOWS, Child, reset, wait_until

HOST = "127.0.0.1"
PORTS = range(10_000, 32_000)  # Linux gives out 32,768 and more, others 49,152
NO_REDIS = (
    "no redis-server found: install one (Debian: apt-get install redis-server)"
)


def find_redis():
    """Return the path of redis-server; SkipTest where there is none.

    With REDIS="" the tests with a real one are left out.
    """
    if os.environ.get("REDIS") == "":
        raise unittest.SkipTest("left out: REDIS is empty")
    found = shutil.which("redis-server")
    if not found and os.environ.get("CI") and not WINDOWS:
        raise AssertionError(NO_REDIS)
    if not found:
        raise unittest.SkipTest(NO_REDIS)
    return found


def lasting_port():
    """Return a port that nobody has, and that the kernel gives to nobody."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


# ---- Redis ------------------------------------------------------------------


class RealRedis(Child):
    """A running redis-server that writes nothing down; a context manager.

    port: what it listens on, also after kill() and start(); log: its file.
    """

    def __init__(self, password=""):
        self.program = find_redis()
        self.password = password
        self.port = lasting_port()
        self.folder = tempfile.mkdtemp(prefix="redis-test-")
        self.log = Path(self.folder, "log")
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        """Start it, with nothing in it; return when it answers."""
        options = ["--bind", HOST, "--port", str(self.port)]
        options += ["--save", "", "--appendonly", "no", "--dir", self.folder]
        if self.password:
            options += ["--requirepass", self.password]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self.answers, "redis-server")

    def answers(self):
        """Tell whether it can be asked; an error if it has ended."""
        if self.process.poll() is not None:
            raise AssertionError(self.log.read_text("utf-8"))
        with contextlib.suppress(OSError):
            return self.ask("PING") == "PONG"
        return False

    def ask(self, *words):
        """Send a command; return its reply. OSError: it cannot be reached."""
        with socket.create_connection((HOST, self.port), DEADLINE) as sock:
            replies = Replies()
            if self.password:
                answer(sock, replies, "AUTH", self.password)
            return answer(sock, replies, *words)

    def kill(self):
        """End it at once; all that it has kept is gone."""
        self.process.kill()
        self.end()

    def pause(self):
        """Let it stand still: who connects waits, who asks gets nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        """Let it go on after pause()."""
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        """End it, and leave nothing behind."""
        self.__exit__()

    def __exit__(self, *_):
        super().__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)


def answer(sock, replies, *words):
    """Send a command and wait for the reply, which is the next one."""
    sock.sendall(command(*words))
    while True:
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("Redis hung up")
        for reply in list(replies.feed(data)):
            return reply


# ---- a wire -----------------------------------------------------------------


class Wire:
    """One connection through a Proxy: a socket to each side.

    Bytes that are not yet through stand in a buffer.
    """

    MOST = 64 * 1024  # bytes in a buffer; then its source has to wait

    def __init__(self, near, far):
        self.sockets = near, far
        self.buffers = {near: bytearray(), far: bytearray()}  # to be sent there
        self.ended = set()  # who has said all
        for sock in self.sockets:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def other(self, sock):
        """Return the socket to the other side."""
        near, far = self.sockets
        return far if sock is near else near

    def reads(self):
        """Return the sockets to read from."""
        return [
            sock
            for sock in self.sockets
            if sock not in self.ended
            and len(self.buffers[self.other(sock)]) < self.MOST
        ]

    def writes(self):
        """Return the sockets that something waits for."""
        return [sock for sock in self.sockets if self.buffers[sock]]

    def serve(self, readable, writable):
        """Pass bytes on; return False when that is done. OSError: it broke."""
        for sock in self.sockets:
            if sock in readable:
                data = sock.recv(self.MOST)
                self.buffers[self.other(sock)] += data
                if not data:
                    self.ended.add(sock)
            if sock in writable:
                sent = sock.send(self.buffers[sock])
                del self.buffers[sock][:sent]
        return not any(
            not self.buffers[self.other(sock)] for sock in self.ended
        )

    def cut(self):
        """Reset both connections; what is in between is lost."""
        for sock in self.sockets:
            reset(sock)

    def close(self):
        """Close both connections."""
        for sock in self.sockets:
            sock.close()


class Proxy:
    """The way of one server to Redis, in a thread; a context manager.

    port: where the server finds it, whatever happens.
    """

    def __init__(self, port):
        self.target = HOST, port
        self.port = lasting_port()
        self.listener = None
        self.wires = []
        self.calls = queue.Queue()
        self.alarm, self.waker = socket.socketpair()
        self.is_running = True
        self.listen()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # ---- what a test calls -------------------------------------------------

    def cut(self):
        """Reset all connections, and let nobody through any more."""
        self.do(self.hang_up)

    def go_on(self):
        """Let others through again, after cut()."""
        self.do(self.listen)

    def close(self):
        """Reset all connections, and end the thread."""
        if self.thread.is_alive():
            self.cut()
            self.do(self.stop)
            self.thread.join(DEADLINE)
        self.alarm.close()
        self.waker.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- in the thread -----------------------------------------------------

    def do(self, call):
        """Call something in the thread; return when that is done."""
        done = Future()
        self.calls.put((call, done))
        self.alarm.send(b"!")
        done.result(DEADLINE)

    def run(self):
        """Pass on until stop()."""
        while self.is_running:
            self.turn()

    def turn(self):
        """Wait until something can be done, and do it."""
        reads, writes = [self.waker], []
        if self.listener:
            reads.append(self.listener)
        for wire in self.wires:
            reads += wire.reads()
            writes += wire.writes()
        readable, writable, _ = select.select(reads, writes, [])
        for wire in list(self.wires):
            try:
                goes_on = wire.serve(readable, writable)
            except OSError:
                goes_on = False
            if not goes_on:
                wire.close()
                self.wires.remove(wire)
        if self.listener in readable:
            self.accept()
        if self.waker in readable:
            self.waker.recv(1)
            call, done = self.calls.get()
            try:
                done.set_result(call())
            except Exception as error:
                done.set_exception(error)

    def accept(self):
        """Connect a newcomer with Redis, if that is there."""
        near = self.listener.accept()[0]
        try:
            far = socket.create_connection(self.target, DEADLINE)
        except OSError:
            reset(near)
            return
        self.wires.append(Wire(near, far))

    def listen(self):
        """Let newcomers in."""
        self.listener = socket.create_server((HOST, self.port))

    def hang_up(self):
        """Refuse newcomers, and reset the others."""
        if self.listener:
            self.listener.close()
            self.listener = None
        for wire in self.wires:
            wire.cut()
        self.wires.clear()

    def stop(self):
        """Let the thread end."""
        self.is_running = False
