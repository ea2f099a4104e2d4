"""What the tests share: a running server and a peer that talks to it.

Everything here waits for a condition with a deadline, never for a time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import codec
import handshake

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 10.0  # seconds; what takes longer has failed
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 s1.3
MASKING_KEY = b"\x37\xfa\x21\x3d"  # RFC 6455 s5.7
WINDOWS = sys.platform == "win32"
# Not whether there is a /proc: Wine shows that of the Linux it runs on.
LINUX = sys.platform == "linux"
# For a child process on Windows: a console of its own, not to be seen. Else
# Ctrl-C would reach all who share a console, the tests among them.
OWN_CONSOLE = {"creationflags": subprocess.CREATE_NO_WINDOW} if WINDOWS else {}

# python -c CTRL_C NUMBER: press Ctrl-C in the console of a process.
CTRL_C = """
import ctypes, sys
kernel = ctypes.windll.kernel32
kernel.FreeConsole()
there = kernel.AttachConsole(int(sys.argv[1]))
kernel.SetConsoleCtrlHandler(None, True)  # not for this process itself
sys.exit(0 if there and kernel.GenerateConsoleCtrlEvent(0, 0) else 1)
"""


class OneByOne(subprocess.Popen):
    """A child process; while it starts, no other thread starts one.

    Of many that start at once, Wine lets some fail: "Internal error".
    """

    starting = threading.Lock()

    def __init__(self, *arguments, **options):
        with self.starting:
            super().__init__(*arguments, **options)


if WINDOWS:
    subprocess.Popen = OneByOne  # subprocess.run() takes it, too


@contextlib.contextmanager
def serving(server):
    """Run a Server in a thread; end it, and fail if its loop raised."""
    errors = []

    def run():
        try:
            server.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(DEADLINE)
        if errors:
            raise errors[0]
        if thread.is_alive():
            raise AssertionError("the loop did not end")


def close_all(server):
    """Close what a server has open whose loop does not run."""
    for sock in (server.listener, server.alarm, server.waker):
        if sock:
            sock.close()


def call_main(main, arguments):
    """Call a program's main(); return (exit status, stdout, stderr)."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), errors.getvalue()


def side_by_side(test, function, cases):
    """Call a function for each case, all at once, as tests mostly wait."""
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(function, *case) for case in cases]
        for case, one in zip(cases, done):
            with test.subTest(case):
                one.result()


def in_loop(server, call=bool, *arguments):
    """Call something in the thread of a server; return what it returns."""
    outcome = Future()

    def do():
        try:
            outcome.set_result(call(*arguments))
        except Exception as error:
            outcome.set_exception(error)

    server.call_soon(do)
    return outcome.result(DEADLINE)


class Child:
    """A child process and the threads that collect what it prints."""

    process = None
    threads = ()

    def signal(self, number):
        """Send a signal; Windows knows Ctrl-C alone, whatever the number."""
        send_signal(self.process, number)

    def end(self):
        """Wait for its end; return the exit status."""
        status = self.process.wait(DEADLINE)
        for thread in self.threads:
            thread.join(DEADLINE)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        streams = self.process.stdin, self.process.stdout, self.process.stderr
        for stream in streams:
            if stream:
                stream.close()


class Process(Child):
    """python server.py as a child process; a context manager.

    lines: what it has printed; port: what it listens on.
    """

    def __init__(self, *arguments, python=(), program=(), **options):
        program = program or [str(ROOT / "server.py")]
        command = [sys.executable, *python, *program]
        self.process = subprocess.Popen(
            [*command, *(arguments or ("0",))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **OWN_CONSOLE,
            **options,
        )
        self.lines = []
        self.errors = []
        self.threads = [
            threading.Thread(target=self._collect, args=pair, daemon=True)
            for pair in (
                (self.process.stdout, self.lines),
                (self.process.stderr, self.errors),
            )
        ]
        for thread in self.threads:
            thread.start()
        first = self.wait_for(r"http://\S+:(\d+)/")
        self.port = int(re.search(r":(\d+)/", first)[1])

    @staticmethod
    def _collect(stream, lines):
        for line in stream:
            lines.append(line.decode("latin-1").rstrip("\r\n"))

    def wait_for(self, pattern, since=0):
        """Return the first line of output that the pattern is found in.

        since: how many lines are too old for it.
        """
        found = []
        looked = since  # so many lines; a trace has thousands of them

        def look():
            nonlocal looked
            new = self.lines[looked:]
            looked += len(new)
            found.extend(line for line in new if re.search(pattern, line))
            return found or self.process.poll() is not None

        wait_until(look, f"{pattern} in {self.lines} {self.errors}")
        if not found:
            raise AssertionError(f"ended: {self.lines} {self.errors}")
        return found[0]


def send_signal(process, number):
    """Send a signal to a child process; on Windows press Ctrl-C there.

    It must have been started with OWN_CONSOLE.
    """
    if WINDOWS:
        command = [sys.executable, "-c", CTRL_C, str(process.pid)]
        subprocess.run(command, check=True, timeout=DEADLINE)
    else:
        process.send_signal(number)


def wait_until(condition, what="the condition"):
    """Poll until condition() is true; AssertionError after the deadline."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {DEADLINE} s")
        time.sleep(0.005)


def whole(events):
    """Leave out what a decoder yields for fragments."""
    return [event for event in events if event != codec.FRAGMENT]


def reset(sock):
    """Close a socket with a RST instead of a FIN."""
    linger = struct.pack("ii", 1, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.close()


def resets():
    """Tell whether the other side sees a reset().

    Under Wine it sees an end of stream, as after an orderly close().
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname(), DEADLINE)
        with listener.accept()[0] as sock:
            reset(other)
            try:
                sock.recv(1)
            except ConnectionResetError:
                return True
    return False


RESETS = unittest.skipUnless(
    resets(), "nobody can be reset here: Wine makes an orderly end of it"
)


class Peer:
    """A client with a blocking socket, which can also send nonsense."""

    def __init__(self, port, host="127.0.0.1", *, open=True, **options):
        self.socket = socket.create_connection((host, port), DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.decoder = codec.Decoder(masked=False, max_message=64 * 2**20)
        self.events = []  # decoded, not yet asked for
        self.response = None
        try:
            if open:
                self.open(**options)
        except BaseException:
            self.socket.close()
            raise

    def open(self, target="/", headers=None, rest=b""):
        """Do the handshake; rest travels with it, in the same segment."""
        host = f"127.0.0.1:{self.socket.getpeername()[1]}"
        self.write(
            handshake.request_head(host, target, KEY, headers or {}) + rest
        )
        received = b""
        while True:
            data = self.socket.recv(65536)
            if not data:
                raise AssertionError(f"no handshake: {received}")
            received += data
            taken = handshake.take_response(received)
            if taken:
                break
        self.response, rest = taken
        handshake.check_response(self.response, KEY, ["chat"])
        self.events += whole(self.decoder.feed(rest))

    def write(self, data):
        """Send these very bytes."""
        self.socket.sendall(data)

    def frame(self, opcode, payload=b"", fin=True, key=MASKING_KEY):
        self.write(codec.encode_frame(opcode, payload, key, fin))

    def send(self, message):
        self.write(codec.encode_message(message, MASKING_KEY))

    def next(self):
        """Return the next (opcode, message), or None at the end of stream."""
        while not self.events:
            data = self.socket.recv(2**18)
            if not data:
                return None
            self.events += whole(self.decoder.feed(data))
        return self.events.pop(0)

    def receive(self):
        """Return the next text or binary message."""
        event = self.next()
        if event is None or event[0] not in (codec.TEXT, codec.BINARY):
            raise AssertionError(f"not a message: {event}")
        return event[1]

    def receive_json(self):
        """Return the next message, which must be the room's JSON."""
        message = json.loads(self.receive())
        time.strptime("2024-" + message.pop("time"), "%Y-%m-%d %H:%M:%S")
        return message

    def receive_close(self):
        """Return the Close that must be next, with the end behind it."""
        event = self.next()
        if event is None or event[0] != codec.CLOSE:
            raise AssertionError(f"not a Close: {event}")
        data = self.socket.recv(65536)
        if data:
            raise AssertionError(f"behind the Close: {data}")
        return event[1]

    def read_to_end(self):
        """Return all bytes up to the end of the stream."""
        parts = []
        while True:
            data = self.socket.recv(65536)
            if not data:
                return b"".join(parts)
            parts.append(data)

    def reset(self):
        """Hang up with a RST instead of a FIN."""
        reset(self.socket)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def make_certificate(folder, name, subject):
    """Make a key and a certificate with openssl; return their two paths.

    subject: as "IP:127.0.0.1". SkipTest where there is no openssl.
    """
    if not shutil.which("openssl"):
        raise unittest.SkipTest(
            "there is no openssl program to make a certificate with"
        )
    path = Path(folder, name)
    config = path.with_suffix(".cnf")
    config.write_text(
        "[req]\ndistinguished_name = name\nx509_extensions = more\n"
        f"prompt = no\n[name]\nCN = {name}\n"
        f"[more]\nsubjectAltName = {subject}\n"
    )
    key, pem = path.with_suffix(".key"), path.with_suffix(".pem")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = ["openssl", "req", "-x509", *curve, "-nodes"]
    options = ["-config", config, "-keyout", key, "-out", pem, "-days", "2"]
    subprocess.run(
        [*command, *options], check=True, capture_output=True, timeout=60
    )
    return key, pem


def count_descriptors(pid="self"):
    """Return how many descriptors a process has open; None: unknown here."""
    folder = f"/proc/{pid}/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else None
