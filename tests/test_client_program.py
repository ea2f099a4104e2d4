"""client.py as a program: with pipes, in a pseudo-terminal, and the faults.

It runs as a child process; the room runs in the test, in a thread.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import client
import codec
from client import Client, State, Terminal
from lessons import misbehave
from server import ChatRoom
from tests import test_client
from tests.support import (
    DEADLINE,
    LINUX,
    OWN_CONSOLE,
    ROOT,
    WINDOWS,
    Child,
    Peer,
    serving,
    wait_until,
)
from tests.test_client import Scripted, drive, free_port, stop

COMMAND = [sys.executable, "-W", "error", str(ROOT / "client.py")]
# The same, but it waits for less than two seconds when it leaves.
HASTY = [
    sys.executable, "-W", "error", "-c",
    "import client, sys; client.LEAVING_SECONDS = 0.3; sys.exit(client.main())",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "PYTHONIOENCODING": "utf-8"}


class Room(ChatRoom):
    """A room that keeps no diary but notes every message."""

    def __init__(self):
        self.heard = []
        self.left = []
        super().__init__(port=0)

    def diary(self, text):
        pass

    def on_message(self, user, message):
        self.heard.append(message)
        super().on_message(user, message)

    def on_close(self, user, code, reason):
        self.left.append((code, reason))
        super().on_close(user, code, reason)


class Program(Child):
    """client.py with pipes; a context manager.

    said: its standard output, told: its standard error, as far as they came.
    """

    def __init__(self, *arguments, command=COMMAND, **streams):
        pipe = subprocess.PIPE
        streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe, **streams}
        self.process = subprocess.Popen(
            [*command, *arguments],
            env=ENVIRONMENT,
            cwd=ROOT,
            **OWN_CONSOLE,
            **streams,
        )
        self.said, self.told = "", ""
        self.threads = [
            threading.Thread(target=self.collect, args=pair, daemon=True)
            for pair in (
                ("said", self.process.stdout),
                ("told", self.process.stderr),
            )
            if pair[1]
        ]
        for thread in self.threads:
            thread.start()

    def collect(self, name, stream):
        for line in stream:
            setattr(self, name, getattr(self, name) + in_text(line))

    def type(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait_for(self, words, name="said"):
        def look():
            if self.process.poll() is not None:
                self.end()
                return True
            return words in getattr(self, name)

        wait_until(look, words)
        if words not in getattr(self, name):
            raise AssertionError(f"{words}: {self.said} {self.told}")


def without(closed, *arguments):
    """Return the command for the program without some of its streams.

    closed: three bools, for standard input, output and error.
    """
    redirections = ("<&-", ">&-", "2>&-")
    marked = zip(redirections, closed)
    line = " ".join(["exec", '"$@"', *(each for each, one in marked if one)])
    return ["sh", "-c", line, "sh", *COMMAND, *arguments]


def run(*arguments, typed=b""):
    """Run the program with this input; return (status, stdout, stderr)."""
    return run_command([*COMMAND, *arguments], typed)


def run_command(command, typed=b"hello\n"):
    """Run a command with this input; return (status, stdout, stderr)."""
    done = subprocess.run(
        command,
        input=typed,
        capture_output=True,
        timeout=DEADLINE,
        env=ENVIRONMENT,
    )
    return done.returncode, in_text(done.stdout), in_text(done.stderr)


def in_text(printed):
    """Return what was printed, with the ends of lines as Python knows them."""
    return printed.decode().replace(os.linesep, "\n")


class ProgramCase(unittest.TestCase):
    """A test with a room of its own."""

    def setUp(self):
        self.room, self.url = self.open_room()

    def open_room(self):
        """Return a running room, and its address."""
        running = serving(Room())
        room = running.__enter__()
        self.addCleanup(running.__exit__, None, None, None)
        return room, f"ws://127.0.0.1:{room.port}/"

    def peer(self):
        peer = Peer(self.room.port)
        self.addCleanup(peer.close)
        return peer


class Pipes(ProgramCase):
    """Standard input and output that are no terminal."""

    def test_an_echo(self):
        self.assertEqual(run(self.url, typed=b"hello\n"), (0, "hello\n", ""))
        self.assertEqual(self.room.left, [(1000, "")])

    def test_line_by_line(self):
        typed = "one\r\n\ntwo \u738b\n//three\nlast".encode()
        status, out, err = run(self.url, typed=typed)
        lines = ["one", "", "two \u738b", "/three", "last"]
        self.assertEqual(self.room.heard, lines)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out.split("\n"), [*lines, ""])

    def test_much_input(self):
        lines = [f"{number} " + "x" * 500 for number in range(4000)]
        typed = "\n".join(lines).encode()
        status, out, err = run(self.url, typed=typed)
        self.assertEqual((status, err), (0, ""))
        self.assertTrue(out.splitlines() == lines)

    def test_what_comes_in_is_made_harmless(self):
        peer = self.peer()
        with Program(self.url, "--count", "4") as child:
            wait_until(lambda: len(self.room.users) == 2)
            wait_until(lambda: all(u.handshaken for u in self.users()))
            peer.send("\x1b[31mred\x07 \x9b2J \u202eevil\nline\ttab \\x \u738b")
            peer.send(b"\x00\xff" * 3)
            peer.send(b"x" * 1000)
            peer.send("last")
            peer.send("not shown")
            self.assertEqual(child.end(), 0)
            self.assertEqual(
                child.said.split("\n"),
                [
                    "\\x1b[31mred\\x07 \\x9b2J \\u202eevil\\nline\\ttab"
                    " \\x \u738b",
                    "(6 bytes: 00 ff 00 ff 00 ff)",
                    "(1000 bytes: " + "78 " * 32 + "...)",
                    "last",
                    "",
                ],
            )

    def users(self):
        return list(self.room.users.values())

    def test_count_outlives_the_input(self):
        peer = self.peer()
        with Program(self.url, "--count", "2") as child:
            child.type("first\n")
            child.process.stdin.close()
            self.assertEqual(peer.receive(), "first")
            child.wait_for("first")
            peer.send("second")
            self.assertEqual(child.end(), 0)
            self.assertEqual((child.said, child.told), ("first\nsecond\n", ""))

    def test_a_room_in_words(self):
        eve = self.peer()
        with Program(self.url, "--name", "Ana") as ana:
            ana.wait_for("you are #2 Ana; here are: #2 Ana")
            ben = self.peer()
            ben.send("type=add&ming=Ben+B")
            ben.receive_json()
            ana.wait_for("Ben B joined")
            ana.type("a=b&c\n\n/to Ben B psst\n/to #3 hm\n/to Eve hey\n")
            self.assertEqual(ben.receive_json()["nrong"], "a=b&c")
            whisper = ben.receive_json()
            self.assertEqual(whisper["nrong"], "psst")
            self.assertEqual(whisper["code1"], "3")
            self.assertEqual(ben.receive_json()["nrong"], "hm")
            ben.send("#3 Ben B: raw")
            ben.send("nr=hi&key=2")
            ben.send("type=add&ming=Benno")
            ana.wait_for("Ben B is now Benno")
            eve.send("nr=boo&key=all")
            ana.wait_for("boo")
            forged = '{"type": "rmove", "nrong": "3", "code": false}'
            eve.send(forged)
            ana.wait_for("{")
            eve.send("type=add&ming=Ana")
            eve.send("nr=There+is+nobody&key=all")
            ana.wait_for("nobody")
            ana.type("/to Ana who?\n/to #1 you!\n")
            ana.wait_for("you!")
            ben.close()
            ana.wait_for("left")
            ana.type("/quit\n")
            self.assertEqual(ana.end(), 0)
            self.assertEqual(
                ana.said.splitlines(),
                [
                    "you are #2 Ana; here are: #2 Ana",
                    "#3 Ben B joined",
                    "#2 Ana: a=b&c",
                    "#2 Ana, to #3 Ben B alone: psst",
                    "#2 Ana, to #3 Ben B alone: hm",
                    "raw: #3 Ben B: raw",
                    "#3 Ben B, to you alone: hi",
                    "#3 Ben B is now Benno",
                    "#1: boo",
                    f"#1: {forged}",
                    "#1 Ana joined",
                    "#1 Ana: There is nobody",
                    "#2 Ana, to #1 Ana alone: you!",
                    "#3 Benno left",
                ],
            )
            self.assertEqual(
                ana.told.splitlines(),
                [
                    "client.py: nobody here is called that: Eve hey",
                    "client.py: more than one is called that; "
                    "there is /to #CODE text, too",
                ],
            )

    def test_commands(self):
        with Program(self.url) as child:
            child.type("/ping\n/what\n/close 1006\n/close x\n")
            child.wait_for("pong after", "told")
            child.type("/close 4001 bye bye\nnot sent any more\n")
            self.assertEqual(child.end(), 0)
            self.assertRegex(child.told, r"pong after \d+\.\d ms\n")
            self.assertIn("/to NAME text", child.told)
            self.assertEqual(child.told.count("to be typed: /close"), 2)
        # What stands behind an end, in the same read, is not done.
        typed = b"/close 4001 bye bye\n/ping\nnot sent\n/close 4002"
        self.assertEqual(run(self.url, typed=typed), (0, "", ""))
        wait_until(lambda: len(self.room.left) == 2)
        self.assertEqual(self.room.left, [(4001, "bye bye")] * 2)
        self.assertEqual(self.room.heard, [])

    def test_the_reader_may_go(self):
        with Program(self.url) as child:
            child.type("one\n")
            child.wait_for("one")
        read, write = os.pipe()
        os.close(read)
        with Program(self.url, stdout=write) as child:
            os.close(write)
            child.type("two\n")
            self.assertEqual(child.end(), 0)
            self.assertEqual(child.told, "")

    @unittest.skipIf(WINDOWS, "only Unix starts a program with closed streams")
    def test_closed_streams(self):
        refused = f"ws://127.0.0.1:{free_port()}/"
        cases = [
            (closed, *case)
            for closed in itertools.product((False, True), repeat=3)
            for case in (
                # A room of its own, as they are all started side by side.
                (
                    [self.open_room()[1], "--name", "A"],
                    0,
                    "(you are .*)?hello\n",
                    "",
                ),
                ([refused], 1, "", "client.py: .*refused\n"),
                (["--what"], 2, "", "client.py: type an address.*\n"),
                (["--help"], 0, "usage: .*", ""),
            )
        ]
        commands = [without(case[0], *case[1]) for case in cases]
        with ThreadPoolExecutor(4) as pool:
            all_done = list(pool.map(run_command, commands))
        for (closed, arguments, status, out, err), done in zip(cases, all_done):
            with self.subTest(closed=closed, arguments=arguments):
                if closed[0]:  # There is nothing to say.
                    out = out.replace("hello\n", "")
                self.assertEqual(done[0], status)
                for stream, words in ((1, out), (2, err)):
                    words = "" if closed[stream] else words
                    self.assertRegex(done[stream], f"(?s)^{words}$")

    @unittest.skipUnless(LINUX, "only Linux shows what a number stands for")
    def test_no_socket_takes_the_number_of_a_closed_stream(self):
        def script(wire):
            wire.accept()
            for number in range(3):
                path = f"/proc/{child.pid}/fd/{number}"
                self.assertEqual(os.readlink(path), os.devnull)

        with Scripted(script) as peer:
            child = subprocess.Popen(without((True,) * 3, peer.url))
            self.assertEqual(child.wait(DEADLINE), 1)

    @unittest.skipUnless(LINUX, "only Linux has a device that is always full")
    def test_the_reader_of_the_errors_may_go(self):
        with open("/dev/full", "w") as full:
            child = Program(self.url, stderr=full)
        with child:
            child.type("/what\nhello\n/quit\n")
            self.assertEqual((child.end(), child.said), (0, "hello\n"))

    def test_ctrl_c(self):
        with Program(self.url) as child:
            child.type("hello\n")
            child.wait_for("hello")
            child.signal(signal.SIGINT)
            self.assertEqual(child.end(), 0)
            self.assertEqual(child.told, "")
        wait_until(lambda: self.room.left)
        self.assertEqual(self.room.left, [(1000, "")])

    def test_the_second_ctrl_c(self):
        closes = threading.Event()

        def script(wire):
            wire.accept(codec.encode_message("hello"))
            self.assertEqual(wire.next()[0], codec.CLOSE)
            closes.set()
            wire.next()  # and no answer

        with Scripted(script) as peer, Program(peer.url) as child:
            child.wait_for("hello")
            child.signal(signal.SIGINT)
            self.assertTrue(closes.wait(DEADLINE))
            child.signal(signal.SIGINT)
            self.assertEqual(child.end(), 130)
            self.assertEqual(child.told, "")

    def test_ctrl_c_does_not_wait_for_long(self):
        def script(wire):
            half = codec.encode_message("x" * 1000)[:104]
            wire.accept(codec.encode_message("hello") + half)
            self.assertEqual(wire.next()[0], codec.CLOSE)
            wire.next()  # and no answer

        hasty = {"command": HASTY}
        with Scripted(script) as peer, Program(peer.url, **hasty) as child:
            child.wait_for("hello")
            child.signal(signal.SIGINT)
            start = time.monotonic()  # On Windows, pressing it takes time.
            self.assertEqual(child.end(), 0)
            self.assertLess(time.monotonic() - start, 2)
            line = "client.py: a message is lost: 900 of its bytes did not come"
            self.assertEqual(child.told.splitlines()[0], line)
            line = "closed with 1000, but the rest did not come in 0.3 s"
            self.assertTrue(child.told.endswith(f": {line}\n"), child.told)


class Mistakes(ProgramCase):
    """What goes wrong costs one plain line."""

    def assert_line(self, result, status, words):
        self.assertEqual(result[:2], (status, ""), result)
        self.assertRegex(result[2], r"^client\.py: [ -~]+\n$")
        self.assertRegex(result[2], words)

    def test_usage(self):
        a = "ws://a/"
        for arguments, words in (
            ([], "type an address, as ws://127.0.0.1:9000/"),
            (["--trace"], "type an address, as ws://127.0.0.1:9000/"),
            (["http://a:9000/?b=c"], "type ws://a:9000/.b=c"),
            (["https://a/"], "type wss://a/"),
            (["127.0.0.1:9000"], "type ws://127.0.0.1:9000"),
            (["http://a/" + "b" * 99], "type ws://a/bbb"),
            (["ws://a/#b"], "fragment"),
            ([a, "--trace"], "there is no option --trace"),
            ([a, "--trace=long"], "there is no option --trace "),
            ([a, "--" + "x" * 99], "there is no option --xxx"),
            ([a, "ws://b/"], "one address is enough: ws://b/"),
            ([a, "--count"], "--count wants something behind it"),
            ([a, "--count", "x"], "--count wants a number, not 'x'"),
            ([a, "--count", "0"], "count"),
            ([a, "--slow=1"], "--slow stands alone"),
            ([a, "--dribble", "-1"], "dribble"),
            ([a, "--dribble", "nan"], "dribble"),
            ([a, "--ping-interval", "0"], "ping interval"),
            ([a, "--ping-interval", "x"], "--ping-interval wants a number"),
            ([a, "--raw", "8x"], "--raw: type bytes in hex"),
            ([a, "--header", "no colon"], "--header: type 'Name: value'"),
            ([a, "--header", "a b: c"], "not a header line"),
            ([a, "--header", "Upgrade: c"], "there already"),
            ([a, "--header", "Origin: b", "--origin", "b"], "twice"),
            ([a, "--key", "a\nb"], "not a header line"),
            ([a, "--name", "\udcff"], "the name is not UTF-8"),
            (["ws://\u738b\x1b]/"], "."),
        ):
            with self.subTest(arguments=arguments):
                stderr = io.StringIO()
                exits = self.assertRaises(SystemExit)
                with contextlib.redirect_stderr(stderr), exits as caught:
                    client.main(arguments)
                told = stderr.getvalue()
                self.assert_line((caught.exception.code, "", told), 2, words)
                self.assertLess(len(told), 81)
                jargon = "argument |unrecogn|invalid|ignored|expected|required"
                self.assertNotRegex(told, jargon)

    def test_as_a_process(self):
        self.assert_line(run("http://a/"), 2, "ws://")
        url = f"ws://127.0.0.1:{free_port()}/"
        self.assert_line(run(url), 1, r"127\.0\.0\.1:\d+: .*refused")

    def test_failures(self):
        self.room.on_handshake = mock.Mock(
            side_effect=client.HandshakeError(403, "No \u738b ticket.")
        )
        self.assert_line(run(self.url), 1, "403 Forbidden: No .*ticket")
        self.room.on_handshake = lambda user, request: None
        self.room.on_open = lambda user: self.room.close(user, 1008, "out")
        self.assert_line(run(self.url), 1, "closed with 1008 out")

        def masking(wire):
            wire.accept(codec.encode_message("masked", b"mask"))
            wire.next()

        for script, words in (
            (lambda wire: wire.accept(), "the server hung up"),
            (masking, r"127\.0\.0\.1:\d+: 1002 s5.1: a server must not mask"),
        ):
            peer = Scripted(script)
            with self.subTest(words), peer, Program(peer.url) as child:
                status = child.end()
                result = status, child.said, child.told
                self.assert_line(result, 1, words)

    def test_a_close_that_is_not_answered(self):
        peer = Scripted(lambda wire: (wire.accept(), wire.next()))
        with peer, Program(peer.url) as child:
            child.type("/close 4001 mine\n")
            status = child.end()
            words = "closed with 4001 mine, but the server hung up"
            self.assert_line((status, child.said, child.told), 1, words)

    def test_the_server_stops(self):
        with Program(self.url) as child:
            child.type("hello\n")
            child.wait_for("hello")
            stop(self.room)
            self.assertEqual(child.end(), 0)

    def test_help(self):
        status, out, err = run("--help")
        self.assertEqual((status, err), (0, ""))
        for option in (
            "--name", "--count", "--header", "--origin", "--subprotocol",
            "--insecure", "--ping-interval", "--raw", "--dribble", "--slow",
            "--key", "--seed", "/quit",
        ):  # fmt: skip
            self.assertIn(option, out)


class PseudoTerminal(ProgramCase):
    """Somebody sits there and types."""

    def setUp(self):
        try:
            import pty
        except ImportError:
            self.skipTest("only Unix has pseudo-terminals")
        super().setUp()
        self.screen = ""
        self.master, slave = pty.openpty()
        self.addCleanup(os.close, self.master)
        self.process = subprocess.Popen(
            [*COMMAND, self.url, "--name", "Ana"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=ENVIRONMENT,
        )
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)
        os.close(slave)

    def wait_for(self, words):
        """Read the screen until the words are there."""
        end = time.monotonic() + DEADLINE
        while words not in self.screen:
            left = end - time.monotonic()
            if not select.select([self.master], [], [], max(0, left))[0]:
                raise AssertionError(f"{words}: {self.screen!r}")
            self.screen += os.read(self.master, 65536).decode()

    def type(self, text):
        os.write(self.master, text.encode())

    def test_a_chat(self):
        self.wait_for(f"client.py: connected to {self.url}; /quit ends\r\n")
        self.wait_for("you are #1 Ana; here are: #1 Ana\r\n")
        self.type("hello\n")
        self.wait_for("#1 Ana: hello\r\n")
        self.peer().send("nr=%1B%5B2J&key=all")
        self.wait_for("#2: \\x1b[2J\r\n")
        self.type("/ping\n")
        self.wait_for("client.py: pong after")
        self.type("/quit\n")
        self.assertEqual(self.process.wait(DEADLINE), 0)

    def test_the_end_of_input(self):
        self.wait_for("you are #1 Ana")
        self.type("bye\n\x04")
        self.wait_for("Ana: bye")
        self.assertEqual(self.process.wait(DEADLINE), 0)
        self.assertEqual(self.room.left, [(1000, "")])

    def test_ctrl_c_with_the_keyboard_asleep(self):
        self.wait_for("you are #1 Ana")
        self.process.send_signal(signal.SIGINT)
        self.assertEqual(self.process.wait(DEADLINE), 0)
        self.assertNotIn("Traceback", self.screen)


class Options(ProgramCase):
    """What goes into the request, and TLS in a lab."""

    def test_headers(self):
        requests = []
        self.room.on_handshake = lambda user, what: requests.append(what)
        origin = f"http://127.0.0.1:{self.room.port}"
        status, _, err = run(
            self.url + "chat?a=b", "--header", "Cookie: a=b: c", "--header",
            "X:y", "--origin", origin, "--subprotocol", "x", "--subprotocol",
            "chat", "--key", "AAAAAAAAAAAAAAAAAAAAAA==",
            "--ping-interval", "9",
        )  # fmt: skip
        self.assertEqual((status, err), (0, ""))
        headers = requests[0].headers
        self.assertEqual(headers["Cookie"], "a=b: c")
        self.assertEqual(headers["X"], "y")
        self.assertEqual(headers["Origin"], origin)
        self.assertEqual(headers["Sec-WebSocket-Protocol"], "x, chat")
        self.assertEqual(
            headers["Sec-WebSocket-Key"], "AAAAAAAAAAAAAAAAAAAAAA=="
        )
        made = client.make_terminal([self.url, "--ping-interval", "9"])
        self.assertEqual(made.ping_interval, 9)

    def test_a_wrong_key_is_refused(self):
        status, _, err = run(self.url, "--key", "short")
        self.assertEqual(status, 1)
        self.assertIn("400 Bad Request: The Sec-WebSocket-Key", err)


class Insecure(test_client.TlsCase):
    """The program and certificates that nobody has signed."""

    def test_insecure(self):
        with Scripted(self.echo, self.here[0]) as peer:
            url = f"wss://127.0.0.1:{peer.port}/"
            status, out, err = run(url, typed=b"hello\n")
            self.assertEqual((status, out), (1, ""))
            self.assertRegex(err, r"^client\.py: .*: TLS: .*self.signed.*\n$")
            done = run(url, "--insecure", typed=b"hello\n")
            self.assertEqual(done, (0, "hello\n", ""))


class Lab(ProgramCase):
    """Faults that no browser can make, put on a client by lessons."""

    def lab(self, port=None, **options):
        made = Client(f"ws://127.0.0.1:{port or self.room.port}/", **options)
        made.calls = []
        for hook in ("on_open", "on_message", "on_close", "on_error"):
            setattr(made, hook, self.noting(made, hook))
        self.addCleanup(lambda: made.socket and made.socket.close())
        return made

    @staticmethod
    def noting(made, hook):
        return lambda one, *what: made.calls.append((hook, *what))

    def test_raw(self):
        status, out, err = run(self.url, "--raw", "81 05 48 65 6c 6c 6f")
        self.assertEqual((status, out), (1, ""))
        lines = err.splitlines()
        self.assertEqual(len(lines), 2)
        self.assertRegex(lines[0], r"^client\.py: received 88 1a 03 ea 73 35")
        words = "closed with 1002 s5.1: a client must mask"
        self.assertEqual(lines[1], f"client.py: {words}")
        hello = "81 85 37 fa 21 3d 7f 9f 4d 51 58"
        status, out, err = run(self.url, "--raw", hello)
        self.assertEqual((status, out), (0, "Hello\n"))
        self.assertIn("client.py: received 81 05 48 65 6c 6c 6f", err)

    def test_raw_goes_first(self):
        shown = []
        made = self.lab()
        raw = codec.encode_message("raw", b"mask")
        misbehave.send_raw(made, raw, shown.append)
        made.on_open = lambda one, response: one.send("sent")
        drive(made, until=lambda: len(made.calls) == 2)
        self.assertEqual([what[1] for what in made.calls], ["raw", "sent"])
        self.assertEqual(shown[0][:20], "received 81 03 72 61")

    def test_dribble(self):
        sizes = []

        def script(wire):
            wire.accept()
            while sum(sizes) < 8:
                sizes.append(len(wire.received or wire.socket.recv(99)))
                wire.received = b""

        with Scripted(script) as peer:
            made = self.lab(peer.port, timeout=0.5)
            misbehave.dribble(made, 0.002)
            started = time.monotonic()
            drive(made, until=lambda: made.calls)
            took = time.monotonic() - started
            request = len(made.request())
            self.assertGreaterEqual(took, 0.002 * (request - 1))
            made.send("xy")
            started = time.monotonic()
            drive(made)
            self.assertGreaterEqual(time.monotonic() - started, 0.002 * 7)
        # Who is busy for two thousandths of a second reads two at once.
        self.assertGreater(len(sizes), 1)

    def test_dribbling_longer_than_the_timeout(self):
        def script(wire):
            wire.accept()
            self.assertEqual(wire.next(), (codec.TEXT, "x" * 50))
            self.assertEqual(wire.next(), (codec.CLOSE, (1000, "")))
            wire.write(codec.encode_close(1000))

        with Scripted(script) as peer:
            made = self.lab(peer.port, timeout=0.1)
            misbehave.dribble(made, 0.002)
            made.on_open = lambda one, response: (
                one.send("x" * 50), one.close(),
            )  # fmt: skip
            drive(made)
        self.assertEqual(made.calls, [("on_close", 1000, "")])

    def test_dribble_0(self):
        done = run(self.url, "--dribble", "0", typed=b"hello")
        self.assertEqual(done, (0, "hello\n", ""))

    def test_slow(self):
        made = self.lab()
        misbehave.never_read(made)
        drive(made, until=lambda: made.calls)
        peer = self.peer()
        self.assertEqual(made.ask_read(), [])
        for _ in range(3):
            peer.send("anybody there?")
            peer.receive()
            made.send("yes")  # It writes, but it does not read.
            client.turn([made])
            self.assertEqual(peer.receive(), "yes")
            with mock.patch.object(client, "PATIENCE", 0.01):
                client.turn([made])
        self.assertEqual(len(made.calls), 1)
        made.close()
        drive(made)
        self.assertEqual(len(made.calls), 1 + 6 + 1)
        self.assertEqual(made.calls[-1], ("on_close", 1000, ""))

    def test_slow_listens_to_the_keyboard(self):
        done = run(self.url, "--slow", typed=b"one\n/quit\ntwo\n")
        self.assertEqual(done, (0, "one\n", ""))
        self.assertEqual(self.room.heard, ["one"])

    def test_slow_reads_all_at_the_end(self):
        # A kernel that has to drop what it has no room for would get it
        # again after 0.2, 0.4, 0.8, 1.6 ... seconds, and here be silent.
        with Program(self.url, "--slow", "--name", "Slow") as child:
            wait_until(
                lambda: any(u.name for u in list(self.room.users.values()))
            )
            peer = self.peer()
            for _ in range(2):
                peer.send("x" * 70_000)
                peer.receive()
            start = time.monotonic()
            wait_until(lambda: time.monotonic() > start + 0.8)
            self.assertEqual(child.said, "")
            child.signal(signal.SIGINT)
            self.assertEqual(child.end(), 0)
            self.assertLess(time.monotonic() - start, 1.8)
            self.assertEqual(
                (len(child.said), child.told),
                (len("you are #1 Slow; here are: #1 Slow\n") + 2 * 70_006, ""),
            )

    def test_seed(self):
        heard = []

        def script(wire):
            wire.accept()
            frames = wire.received
            while len(frames) < 11 + 11 + 8:  # the texts and a Close
                frames += wire.socket.recv(99)
            heard.append((wire.request, frames))
            wire.write(codec.encode_close(1000))

        for seed in ("7", "7", "8"):
            with Scripted(script) as peer:
                _, _, err = run(
                    f"{peer.url}?a", "--seed", seed, "--header", "Host: a",
                    typed=b"hello\nhello",
                )  # fmt: skip
                self.assertIn("for lessons only", err)
        self.assertEqual(heard[0], heard[1])
        frames = [frames for _, frames in heard]
        self.assertNotEqual(frames[0], frames[2])
        self.assertNotEqual(frames[0][:11], frames[0][11:22])
        keys = [request.headers["Sec-WebSocket-Key"] for request, _ in heard]
        self.assertNotEqual(keys[0], keys[2])

    def test_without_a_fault_no_lesson_is_loaded(self):
        code = (
            "import sys, client; client.make_terminal(sys.argv[1:]); "
            "print('lessons' in sys.modules)"
        )
        for more, loaded in (([], b"False"), (["--slow"], b"True")):
            done = subprocess.run(
                [sys.executable, "-c", code, self.url, *more],
                capture_output=True,
                cwd=ROOT,
                timeout=DEADLINE,
            )
            self.assertEqual(done.stdout.strip(), loaded)


class Words(unittest.TestCase):
    """What is made of a room's messages, also of wrong ones."""

    def test_what_is_not_the_rooms_is_shown_as_it_is(self):
        terminal = Terminal("ws://a/", name="Ana")
        for message in (
            "hello", "", "3", "null", "[1]", '"x"', "{}", '{"type": []}',
            '{"type": "madd"}', '{"type": "madd", "code": 1, "users": 3}',
            '{"type": "madd", "code": 1, "users": [3]}', '{"type": "add"}',
            '{"type": "rmove"}', '{"nrong": "x", "code": "1"}', "[" * 100000,
            '{"nrong": "x", "code": "1", "code1": "all"}',
            '{"nrong": "x", "code": false, "time": "01-01 00:00:00"}',
            '{"type": "rmove", "nrong": "3", "code": false}',
            '{"code": "1", "code1": "all", "time": "01-01 00:00:00"}',
        ):  # fmt: skip
            with self.subTest(message=message[:50]):
                self.assertEqual(terminal.in_words(message), "raw: " + message)

    def test_codes_that_no_room_gives(self):
        terminal = Terminal("ws://a/", name="Ana")
        for code in (
            "all",
            "",
            "0",
            "01",
            "-1",
            "1 ",
            "\u0661",
            1,
            None,
            ["1"],
        ):
            add = {"type": "add", "name": "Eve", "code": code}
            for fields in (
                add,
                {**add, "type": "madd", "users": []},
                {**add, "type": "madd", "code": "1", "users": [add]},
                {"type": "rmove", "nrong": code, "code": False},
                {"nrong": "x", "code": code},
                {"nrong": "x", "code": "1", "code1": f"{code}x"},
            ):
                common = {"code1": "all", "time": "01-01 00:00:00"}
                message = json.dumps({**common, **fields})
                with self.subTest(message):
                    self.assertEqual(
                        terminal.in_words(message), "raw: " + message
                    )
                    self.assertEqual((terminal.people, terminal.me), ({}, None))

    def test_what_is(self):
        terminal = Terminal("ws://a/", name="Ana")
        for message, words in (
            ({"type": "rmove", "nrong": "9", "code": False}, "#9 left"),
            ({"nrong": "x", "code": "9", "code1": "all"}, "#9: x"),
            ({"nrong": "x", "code": "9", "code1": "8"}, "#9, to #8 alone: x"),
            ({"nrong": "x", "code": False, "code1": "8"}, "room: x"),
            ({"type": "add", "name": "Room: y", "code": "9"},
             "#9 Room: y joined"),
            ({"nrong": "x", "code": "9"}, "#9 Room: y: x"),
            ({"type": "add", "name": "Room: y", "code": "10"},
             "#10 Room: y joined"),
        ):  # fmt: skip
            with self.subTest(words):
                message = {"code1": "all", "time": "01-01 00:00:00", **message}
                self.assertEqual(terminal.in_words(json.dumps(message)), words)

    def test_what_our_room_says_to_one_who_asks_for_nobody(self):
        terminal = Terminal("ws://a/", name="Ana")
        with serving(Room()) as room, Peer(room.port) as peer:
            peer.send("nr=hi&key=99")
            self.assertEqual(
                terminal.in_words(peer.receive()),
                "room: There is nobody with the code 99 here.",
            )

    def test_output_that_has_no_such_letters(self):
        done = subprocess.run(
            [
                sys.executable, "-c",
                "import client; client.show('\u738b\\u202e')",
            ],
            capture_output=True,
            cwd=ROOT,
            timeout=DEADLINE,
            env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        self.assertEqual(done.stdout.split(), [b"\\u738b\\u202e"])

    def test_the_status(self):
        for closed, code, status in (
            ((), 1000, 0),
            ((), 1001, 0),
            ((), 1005, 0),
            ((), 1006, 1),
            ((), 1011, 1),
            ((), 4000, 1),
            ((4000,), 4000, 0),
            ((4000, 1000), 4000, 0),
            ((4000,), 1006, 1),
            ((1000,), 1002, 1),
        ):
            with self.subTest(closed=closed, code=code):
                made = Terminal("ws://a/")
                made.state = State.OPEN
                for number in closed:
                    made.close(number)
                with mock.patch("client.tell") as tell:
                    made.on_close(code, "")
                self.assertEqual(made.status, status)
                self.assertEqual(tell.call_count, status)

    def test_the_keyboard_waits_while_much_is_unsent(self):
        terminal = Terminal("ws://a/")
        terminal.keyboard = object()
        terminal.state = State.CONNECTING
        self.assertEqual(terminal.ask_read(), [])
        terminal.state = State.OPEN
        self.assertEqual(terminal.ask_read(), [terminal.keyboard])
        terminal.outbox += bytes(client.MAX_WAITING + 1)
        self.assertEqual(terminal.ask_read(), [])


class TheEndOfInput(unittest.TestCase):
    def test_the_goodbye_comes_by_itself(self):
        """Not with the last line: that would be one read, or two."""
        there, sink = mock.Mock(), mock.MagicMock()
        there.read.side_effect = [b"Hello\n", b""]
        done = []
        sink.sendall.side_effect = done.append
        sink.__exit__.side_effect = lambda *_: done.append("end")
        opened = mock.patch("client.open", lambda *_, **__: there, create=True)
        with opened, mock.patch("client.time.sleep", done.append):
            client.read_stdin(sink)
        self.assertEqual(done, [b"Hello\n", client.PAUSE, "end"])


if __name__ == "__main__":
    unittest.main()
