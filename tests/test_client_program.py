"""client.py as a program: with pipes, in a pseudo-terminal, and the faults.

It runs as a child process; the room runs in the test, in a thread.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from unittest import mock

import client
import codec
from client import LabClient, State, Terminal
from server import ChatRoom
from tests import test_client
from tests.support import DEADLINE, ROOT, Child, Peer, serving, wait_until
from tests.test_client import Scripted, drive, free_port, stop

COMMAND = [sys.executable, "-W", "error", str(ROOT / "client.py")]
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

    def __init__(self, *arguments, **streams):
        pipe = subprocess.PIPE
        streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe, **streams}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], env=ENVIRONMENT, **streams
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
            setattr(self, name, getattr(self, name) + line.decode())

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


def run(*arguments, typed=b""):
    """Run the program with this input; return (status, stdout, stderr)."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=typed,
        capture_output=True,
        timeout=DEADLINE,
        env=ENVIRONMENT,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class ProgramCase(unittest.TestCase):
    """A test with a room of its own."""

    def setUp(self):
        self.room = Room()
        running = serving(self.room)
        running.__enter__()
        self.addCleanup(running.__exit__, None, None, None)
        self.url = f"ws://127.0.0.1:{self.room.port}/"

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
            ana.wait_for("you are Ana; here are: Ana")
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
            ben.send("nr=hi&key=2")
            ben.send("type=add&ming=Benno")
            ana.wait_for("Ben B is now Benno")
            eve.send("nr=boo&key=all")
            ana.wait_for("boo")
            eve.send('{"type": "add"}')
            ana.wait_for("{")
            ben.close()
            ana.wait_for("left")
            ana.type("/quit\n")
            self.assertEqual(ana.end(), 0)
            self.assertEqual(
                ana.said.splitlines(),
                [
                    "you are Ana; here are: Ana",
                    "Ben B joined",
                    "Ana: a=b&c",
                    "Ana, to Ben B alone: psst",
                    "Ana, to Ben B alone: hm",
                    "Ben B, to you alone: hi",
                    "Ben B is now Benno",
                    "#1: boo",
                    '{"type": "add"}',
                    "Benno left",
                ],
            )
            told = "client.py: nobody here is called that: Eve hey\n"
            self.assertEqual(ana.told, told)

    def test_commands(self):
        with Program(self.url) as child:
            child.type("/ping\n/what\n/close 1006\n/close x\n")
            child.wait_for("pong after", "told")
            child.type("/close 4001 bye bye\nnot sent any more\n")
            self.assertEqual(child.end(), 0)
            self.assertRegex(child.told, r"pong after \d+\.\d ms\n")
            self.assertIn("/to NAME text", child.told)
            self.assertEqual(child.told.count("to be typed: /close"), 2)
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

    def test_standard_input_that_is_closed(self):
        code = (
            "import os, sys; os.close(0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *COMMAND, self.url],
            capture_output=True,
            timeout=DEADLINE,
        )
        self.assertEqual(
            (done.returncode, done.stdout, done.stderr), (0, b"", b"")
        )

    def test_ctrl_c(self):
        with Program(self.url) as child:
            child.type("hello\n")
            child.wait_for("hello")
            child.process.send_signal(signal.SIGINT)
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
            child.process.send_signal(signal.SIGINT)
            self.assertTrue(closes.wait(DEADLINE))
            child.process.send_signal(signal.SIGINT)
            self.assertEqual(child.end(), 130)
            self.assertEqual(child.told, "")


class Mistakes(ProgramCase):
    """What goes wrong costs one plain line."""

    def assert_line(self, result, status, words):
        self.assertEqual(result[:2], (status, ""), result)
        self.assertRegex(result[2], r"^client\.py: [ -~]+\n$")
        self.assertRegex(result[2], words)

    def test_usage(self):
        for arguments, words in (
            ([], "url"),
            (["http://a/"], "not ws:// or wss://: http://a/"),
            (["ws://a/#b"], "fragment"),
            (["ws://a/", "--colour"], "--colour"),
            (["ws://a/", "--count", "0"], "count"),
            (["ws://a/", "--dribble", "-1"], "dribble"),
            (["ws://a/", "--dribble", "nan"], "dribble"),
            (["ws://a/", "--ping-interval", "0"], "ping interval"),
            (["ws://a/", "--ping-interval", "x"], "ping-interval"),
            (["ws://a/", "--raw", "8x"], "raw"),
            (["ws://a/", "--header", "no colon"], "header"),
            (["ws://a/", "--header", "a b: c"], "not a header line"),
            (["ws://a/", "--key", "a\nb"], "not a header line"),
            (["ws://a/", "--name", "\udcff"], "the name is not UTF-8"),
            (["ws://\u738b\x1b]/"], "."),
        ):
            with self.subTest(arguments=arguments):
                told = []
                stderr = mock.Mock(write=told.append)
                exits = self.assertRaises(SystemExit)
                with mock.patch("sys.stderr", stderr), exits as caught:
                    client.main(arguments)
                status = caught.exception.code
                self.assert_line((status, "", "".join(told)), 2, words)

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
            (masking, "closed with 1002 s5.1: a server must not mask"),
        ):
            peer = Scripted(script)
            with self.subTest(words), peer, Program(peer.url) as child:
                status = child.end()
                result = status, child.said, child.told
                self.assert_line(result, 1, words)

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
            self.skipTest("this system has no pseudo-terminals")
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
        self.wait_for("you are Ana; here are: Ana\r\n")
        self.type("hello\n")
        self.wait_for("Ana: hello\r\n")
        self.peer().send("nr=%1B%5B2J&key=all")
        self.wait_for("#2: \\x1b[2J\r\n")
        self.type("/ping\n")
        self.wait_for("client.py: pong after")
        self.type("/quit\n")
        self.assertEqual(self.process.wait(DEADLINE), 0)

    def test_the_end_of_input(self):
        self.wait_for("you are Ana")
        self.type("bye\n\x04")
        self.wait_for("Ana: bye")
        self.assertEqual(self.process.wait(DEADLINE), 0)
        self.assertEqual(self.room.left, [(1000, "")])

    def test_ctrl_c_with_the_keyboard_asleep(self):
        self.wait_for("you are Ana")
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
    """Faults that no browser can make."""

    def lab(self, port=None, **options):
        made = LabClient(f"ws://127.0.0.1:{port or self.room.port}/", **options)
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
        raw = codec.encode_message("raw", b"mask")
        with mock.patch("client.tell"):
            made = self.lab(raw=raw)
            made.on_open = lambda one, response: one.send("sent")
            drive(made, until=lambda: len(made.calls) == 2)
        self.assertEqual([what[1] for what in made.calls], ["raw", "sent"])

    def test_dribble(self):
        sizes = []

        def script(wire):
            wire.accept()
            wire.socket.setblocking(True)
            while len(sizes) < 8:
                sizes.append(len(wire.received or wire.socket.recv(99)))
                wire.received = b""

        with Scripted(script) as peer:
            made = self.lab(peer.port, dribble=0.002, timeout=0.5)
            started = time.monotonic()
            drive(made, until=lambda: made.calls)
            took = time.monotonic() - started
            request = len(made.request())
            self.assertGreaterEqual(took, 0.002 * (request - 1))
            made.send("xy")
            drive(made)
        self.assertEqual(sizes, [1] * 8)

    def test_dribbling_longer_than_the_timeout(self):
        with Scripted(lambda wire: wire.accept()) as peer:
            made = self.lab(peer.port, dribble=0.002, timeout=0.1)
            drive(made)
        self.assertEqual(made.calls[0][0], "on_open")

    def test_dribble_0(self):
        made = self.lab(dribble=0.0)
        drive(made, until=lambda: made.calls)
        made.send("hello")
        made.close()
        self.assertEqual({len(block) for block in made.outbox}, {1})
        drive(made)
        self.assertEqual(made.calls[1:], [
            ("on_message", "hello"), ("on_close", 1000, ""),
        ])  # fmt: skip

    def test_slow(self):
        made = self.lab(slow=True)
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

    def test_seed(self):
        sent = []
        for seed in (7, 7, 8):
            made = self.lab(seed=seed)
            made.state = State.OPEN
            made.send("hello")
            made.send("hello")
            sent.append((made.key, *made.outbox))
        self.assertEqual(sent[0], sent[1])
        self.assertNotEqual(sent[0], sent[2])
        self.assertNotEqual(sent[0][1], sent[0][2])
        requests = []
        self.room.on_handshake = lambda user, what: requests.append(what)
        for _ in range(2):
            status, out, err = run(self.url, "--seed", "7", typed=b"a")
            self.assertEqual((status, out), (0, "a\n"))
            self.assertIn("for lessons only", err)
        first, second = [r.headers["sec-websocket-key"] for r in requests]
        self.assertEqual(first, second)

    def test_the_program_has_them_all(self):
        arguments = ["--raw", "81 00", "--dribble", "0.5", "--slow",
                     "--key", "k", "--seed", "3"]  # fmt: skip
        with mock.patch("sys.stderr"):
            made = client.make_terminal([self.url, *arguments])
        self.assertEqual(made.raw, b"\x81\x00")
        self.assertEqual(made.dribble, 0.5)
        self.assertTrue(made.slow)
        self.assertEqual(made.key, "k")
        self.assertIsNotNone(made.random)


class Words(unittest.TestCase):
    """What is made of a room's messages, also of wrong ones."""

    def test_what_is_not_the_rooms_is_shown_as_it_is(self):
        terminal = Terminal("ws://a/", name="Ana")
        for message in (
            "hello", "", "3", "null", "[1]", '"x"', "{}", '{"type": []}',
            '{"type": "madd"}', '{"type": "madd", "code": 1, "users": 3}',
            '{"type": "madd", "code": 1, "users": [3]}', '{"type": "add"}',
            '{"type": "rmove"}', '{"nrong": "x", "code": "1"}', "[" * 100000,
        ):  # fmt: skip
            with self.subTest(message=message[:50]):
                self.assertEqual(terminal.in_words(message), message)

    def test_what_is(self):
        terminal = Terminal("ws://a/", name="Ana")
        for message, words in (
            ({"type": "rmove", "nrong": "9"}, "#9 left"),
            ({"nrong": "x", "code": "9", "code1": "all"}, "#9: x"),
            ({"nrong": "x", "code": "9", "code1": "8"}, "#9, to #8 alone: x"),
        ):
            with self.subTest(words):
                self.assertEqual(terminal.in_words(json.dumps(message)), words)

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

    def test_what_is_typed_behind_an_end(self):
        terminal = Terminal("ws://a/")
        terminal.keyboard, keys = socket.socketpair()
        with keys, terminal.keyboard:
            keys.sendall(b"/close 4001\n/ping\nhello\n/close 4002\n")
            terminal.state = State.OPEN
            terminal.read_keyboard()
        self.assertEqual(len(terminal.outbox), 1)
        self.assertEqual(terminal.code, 4001)

    def test_the_status(self):
        for closed, theirs, code, status in (
            ((), None, 1000, 0),
            ((), None, 1001, 0),
            ((), None, 1005, 0),
            ((), None, 1006, 1),
            ((), None, 1011, 1),
            ((), (4000, "x"), 4000, 1),
            ((4000, 1000), (4000, ""), 4000, 0),
            ((4000,), None, 4000, 0),
            ((4000,), None, 1006, 1),
            ((1000,), (1002, "a rule"), 1000, 1),
        ):
            with self.subTest(closed=closed, theirs=theirs, code=code):
                terminal = Terminal("ws://a/")
                terminal.state = State.OPEN
                for number in closed:
                    terminal.close(number)
                terminal.theirs = theirs and codec.Close(*theirs)
                with mock.patch("client.tell") as tell:
                    terminal.on_close(code, "")
                self.assertEqual(terminal.status, status)
                self.assertEqual(tell.call_count, status)

    def test_the_keyboard_waits_while_much_is_unsent(self):
        terminal = Terminal("ws://a/")
        terminal.keyboard = object()
        terminal.state = State.CONNECTING
        self.assertEqual(terminal.ask_read(), [])
        terminal.state = State.OPEN
        self.assertEqual(terminal.ask_read(), [terminal.keyboard])
        terminal.queue(bytes(client.MAX_WAITING + 1))
        self.assertEqual(terminal.ask_read(), [])
        terminal.outbox.clear()


if __name__ == "__main__":
    unittest.main()
