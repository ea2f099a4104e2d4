"""The room's end of the link to the process that serves the page.

That process is `python -m lessons.watch --link`. It is a process of its own,
so that the page is alive while the room stands still, or computes, and uses
another core where there is one. The room never waits for it: what the kernel
does not take is left out. The other end is in watch.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from typing import Any, Callable

START_SECONDS = 20.0  # a slow machine needs two of them to start a Python
STOP_SECONDS = 1.0
TICK = 0.1  # seconds; Ctrl-C does not wake select() on Windows
# The page says "alive" again and again while the room stands still. When it
# is silent for so long, it has hung, and the room goes on.
PATIENCE = 10.0
MAX_LINE = 4096  # bytes of what the page's process says
FAILED = "The page's own process did not start."


class LinkError(Exception):
    """The page cannot be served: one or two lines that say why."""


class Link:
    """Lines to the page's process; orders from the teacher come back.

    settings: what it is told first; say: tells the teacher, if it ends.
    asks: the room shall stand still before its next turn that has work.
    lines: what shall be said at the start. Raises LinkError.
    """

    def __init__(
        self, settings: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        self.say = say
        self.asks = False
        self.rest = b""  # of a line that the kernel did not take whole
        self.heard = b""  # of an order that is not whole
        self.silence = 0.0  # seconds of waiting, since the last one
        try:
            self.process, self.socket = start()
        except OSError:
            raise LinkError(FAILED) from None
        try:
            self.socket.settimeout(START_SECONDS)
            self.socket.sendall(json.dumps(settings).encode() + b"\n")
            answer = json.loads(self.socket.makefile("rb").readline(MAX_LINE))
            self.socket.setblocking(False)
        except (OSError, ValueError):
            self.close()
            raise LinkError(FAILED) from None
        if "trouble" in answer:
            self.close()
            raise LinkError(answer["trouble"])
        self.lines = answer["lines"]
        self.is_open = True

    def put(self, line: bytes, must: bool = False) -> None:
        """Hand over a line, or leave it out, if there is no room for it."""
        if self.is_open and (must or not self.rest):
            self.rest += line
            self.flush()

    def ask(self, question: bytes) -> None:
        """Hand over a question; from now on the page must say "alive"."""
        self.silence = 0.0
        self.put(question, must=True)

    def flush(self) -> None:
        """Send what the kernel takes."""
        try:
            sent = self.socket.send(self.rest) if self.rest else 0
            self.rest = self.rest[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.lose()

    def hear(self) -> None:
        """Read the orders that have come; send what had to wait."""
        if not self.is_open:
            return
        self.flush()
        if not self.is_open:
            return  # flush() has found out that it has ended.
        with contextlib.suppress(BlockingIOError):
            try:
                data = self.socket.recv(MAX_LINE)
            except ConnectionError:
                data = b""
            if not data:
                self.lose()
            self.heard += data
        while b"\n" in self.heard:
            line, _, self.heard = self.heard.partition(b"\n")
            self.silence = 0.0
            if line == b"ask":
                self.asks = True
            elif line == b"go":
                self.asks = False
                return  # What comes behind it is for the turns to come.

    def wait(self) -> None:
        """Sleep until an order comes, but not for long."""
        writes = [self.socket] if self.rest else []
        select.select([self.socket], writes, [], TICK)
        # Not by the clock: the whole machine may have slept.
        self.silence += TICK
        self.hear()
        if self.asks and self.silence > PATIENCE:
            self.asks = False
            self.say("The page to watch the loop hangs; the room goes on.")

    def lose(self) -> None:
        """Go on without the page."""
        if self.is_open:
            self.is_open = self.asks = False
            self.say("The page to watch the loop has ended; the room goes on.")

    def close(self) -> None:
        """Let the other process end."""
        self.is_open = self.asks = False
        self.socket.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the page's process; return it, and a connection to it.

    It connects to us, and proves by a token that it is the one: a pipe would
    be simpler, but on Windows nobody can write to one without waiting.
    """
    token = secrets.token_hex()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # In a session of its own: Ctrl-C in the terminal is for the room.
        own: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            own = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        process = subprocess.Popen(
            [sys.executable, "-m", "lessons.watch", "--link"],
            stdin=subprocess.PIPE,
            # Its modules are these, wherever the room was started.
            cwd=root if os.path.isdir(root) else None,
            env={**os.environ, "PYTHONPATH": root},
            **own,
        )
        assert process.stdin
        place = f"{listener.getsockname()[1]} {token}\n"
        with contextlib.suppress(OSError), process.stdin:
            process.stdin.write(place.encode())
        try:
            return process, accept(listener, process, token)
        except BaseException as error:
            process.kill()
            process.wait()
            if isinstance(error, KeyboardInterrupt):
                sys.exit(130)
            raise


def accept(
    listener: socket.socket, process: subprocess.Popen[bytes], token: str
) -> socket.socket:
    """Return the connection of the one who knows the token."""
    ends = time.monotonic() + START_SECONDS
    listener.settimeout(TICK)
    while time.monotonic() < ends and process.poll() is None:
        try:
            sock, _ = listener.accept()
        except socket.timeout:  # an OSError of its own, before Python 3.10
            continue
        sock.settimeout(TICK)
        with contextlib.suppress(OSError):
            said = sock.makefile("rb").readline(len(token) + 1)
            if secrets.compare_digest(said.strip(), token.encode()):
                return sock
        sock.close()
    raise LinkError(FAILED)
