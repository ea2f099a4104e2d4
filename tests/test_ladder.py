"""The ladder: what each rung claims is so, and nothing else.

The bugs that rung 1 has are tests as well: each is there, and is gone in
rung 2. The page, from disk, is tried with each rung in real browsers.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import codec
from codec import CloseCode, ProtocolError
from lessons.checker import STAGES
from lessons.ladder import CLAIMS, RUNGS
from lessons.ladder import __main__ as ladder
from lessons.ladder.__main__ import running
from server import ChatRoom
from tests import browsers
from tests.support import (
    DEADLINE,
    KEY,
    OWN_CONSOLE,
    ROOT,
    Peer,
    send_signal,
    serving,
)
from tests.test_architecture import imported, is_standard
from tests.test_browser import STATE, BrowserTest

MOST_LINES = 150
MOST_CHANGED = 60  # lines, added and removed together
CARDS = (ROOT / "lessons" / "README.md").read_text("utf-8")
LESSONS = (ROOT / "lessons" / "ladder" / "README.md").read_text("utf-8")
SHORT = 0.3  # seconds; for what never comes
REQUEST = (
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


def source(rung):
    return RUNGS[rung].read_text("utf-8")


def docstring(rung):
    return ast.get_docstring(ast.parse(source(rung)))


def changed(before, after):
    """Return how many lines `diff` calls removed or added, at the least."""
    same = [0] * (len(after) + 1)  # the most lines in common, so far
    for line in before:
        row = [0]
        for at, other in enumerate(after):
            best = max(same[at + 1], row[at])
            row.append(same[at] + 1 if line == other else best)
        same = row
    return len(before) + len(after) - 2 * same[-1]


class Claims(unittest.TestCase):
    def test_each_rung_passes_what_it_claims_and_no_more(self):
        self.assertEqual(ladder.climb(less_patience=SHORT), CLAIMS)

    def test_the_claims_are_a_staircase(self):
        self.assertEqual(sorted(CLAIMS), [1, 2, 3, 4, 5])
        for rung in (1, 2, 3):
            self.assertLess(CLAIMS[rung], CLAIMS[rung + 1])
        self.assertEqual(CLAIMS[4], set(STAGES))
        self.assertEqual(CLAIMS[5], set(STAGES))
        self.assertEqual(
            [ladder.cost(rung) for rung in RUNGS], [None, 100, 100, 100, 10]
        )

    def test_the_table_shows_the_staircase(self):
        _, *lines, _ = ladder.table(CLAIMS)
        stairs = [line[57:].replace(" ", "") for line in lines]
        won = [text.count("ok") for text in stairs]
        self.assertEqual(won, sorted(won, reverse=True))
        for text in stairs:
            self.assertRegex(text, r"\A\.*(ok)+\Z")
        for line in ladder.table(CLAIMS):
            self.assertLessEqual(len(line), 79)

    def test_the_table_in_the_readme(self):
        shown = "\n".join(ladder.table(CLAIMS))
        self.assertIn(f"```\n{shown}\n```", LESSONS)

    def test_who_does_not_keep_a_claim_is_named(self):
        wrong = {**CLAIMS, 3: {1, 3}}
        shown, errors = io.StringIO(), io.StringIO()
        ladder.climb, climb = lambda: wrong, ladder.climb
        self.addCleanup(setattr, ladder, "climb", climb)
        with redirect_stdout(shown), redirect_stderr(errors):
            self.assertEqual(ladder.main([]), 1)
            ladder.climb = lambda: CLAIMS
            self.assertEqual(ladder.main([]), 0)
        self.assertEqual(
            errors.getvalue(), "But rung 3 claims 1, 3, 4, 5, 6, 9, 10.\n"
        )


class Files(unittest.TestCase):
    def test_how_long_and_how_much_changed(self):
        lines = {rung: source(rung).splitlines() for rung in RUNGS}
        self.assertLess(len(lines[2]), len(lines[1]))
        rows = {}
        for rung, path in RUNGS.items():
            self.assertLessEqual(len(lines[rung]), MOST_LINES)
            cell = {1: "", 2: " a rewrite"}.get(rung)
            if cell is None:
                number = changed(lines[rung - 1], lines[rung])
                self.assertLessEqual(number, MOST_CHANGED)
                cell = f" {number}"
            link = f"[{path.name}]({path.name})"
            rows[rung] = f"| {link} | {len(lines[rung])} |{cell} |"
        for row in rows.values():
            self.assertIn("\n" + row, LESSONS)

    def test_changes_are_counted_as_diff_does(self):
        self.assertEqual(changed("abcdef", "abXdeYZ"), 5)
        self.assertEqual(changed("", "ab"), 2)
        self.assertEqual(changed("ab", "ab"), 0)

    def test_each_imports_codec_and_handshake_at_most(self):
        for rung in RUNGS:
            with self.subTest(rung):
                names = imported(ast.parse(source(rung)))
                own = {name for name in names if not is_standard(name)}
                needed = {"codec", "handshake"} if rung > 1 else set()
                self.assertEqual(own, needed)
                self.assertLessEqual(names & {"signal", "fcntl"}, set())

    def test_each_says_what_is_wrong_below_and_what_is_new(self):
        for rung, path in RUNGS.items():
            with self.subTest(path.name):
                text = docstring(rung)
                self.assertTrue(text.startswith(f"Rung {rung} of 5: "))
                if rung > 1:
                    self.assertIn(f"\nWrong in rung {rung - 1}: ", text)
                    self.assertIn("\nNew: ", text)
                    self.assertIn("\nIn server.py: ", text)

    def test_what_they_name_in_server_py_is_there(self):
        tree = ast.parse((ROOT / "server.py").read_text("utf-8"))
        there = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        }
        for rung in (2, 3, 4, 5):
            named = docstring(rung).partition("\nIn server.py: ")[2]
            names = re.findall(r"(\w+)\(\)", named)
            with self.subTest(rung):
                self.assertTrue(names)
                self.assertLessEqual(set(names), there)


class Programs(unittest.TestCase):
    def run_ladder(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "lessons.ladder", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def test_each_runs_alone_beside_codec_and_handshake(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        for name in ("codec.py", "handshake.py"):
            shutil.copy(ROOT / name, folder)
        for path in RUNGS.values():
            with self.subTest(path.name), contextlib.ExitStack() as stack:
                copy = Path(shutil.copy(path, folder))
                port = stack.enter_context(running(copy, python_path=""))
                peer = stack.enter_context(Peer(port))
                peer.send("hello")
                self.assertEqual(peer.receive(), "hello")

    def test_each_runs_by_its_number_until_ctrl_c(self):
        for rung in RUNGS:
            with self.subTest(rung), subprocess.Popen(
                [sys.executable, "-m", "lessons.ladder", str(rung), "0"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **OWN_CONSOLE,
            ) as process:
                try:
                    line = process.stdout.readline().decode()
                    self.assertRegex(line, f"^Rung {rung} listens on .*[0-9]")
                    send_signal(process, signal.SIGINT)
                    rest = process.communicate(timeout=DEADLINE)
                    self.assertEqual(rest, (b"", b""))
                    self.assertEqual(process.returncode, 0)
                finally:
                    process.kill()

    def test_what_cannot_run_is_two_lines(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            for arguments, words in (
                (["6"], "invalid choice: '?6"),  # ' from Python 3.13.1 on
                (["x"], "invalid int value: 'x'"),
                (["2", "9x"], "invalid int value: '9x'"),
                (["2", "70000"], "port 70000 cannot be had"),
                (["2", "0", "0"], "unrecognized arguments: 0"),
                (["2", port], f"port {port} cannot be had"),
            ):
                errors = io.StringIO()
                with self.subTest(arguments):
                    with redirect_stderr(errors), self.assertRaises(
                        SystemExit
                    ) as caught:
                        ladder.main(arguments)
                    self.assertEqual(caught.exception.code, 2)
                    self.assertRegex(errors.getvalue(), words)
                    self.assertEqual(errors.getvalue().count("\n"), 2)


class Bugs(unittest.TestCase):
    """The tutorial's, by their numbers: in rung 1, and gone in rung 2."""

    def both(self, has_bug):
        """Ask rung 1 and rung 2, each in a fresh program."""
        for rung, expected in ((1, True), (2, False)):
            with self.subTest(rung=rung), contextlib.ExitStack() as stack:
                port = stack.enter_context(running(RUNGS[rung]))

                def join(port=port, stack=stack, **options):
                    return stack.enter_context(Peer(port, **options))

                self.assertEqual(has_bug(join), expected)

    def test_all_are_marked(self):
        marked = set(re.findall("BUG ([0-9])", source(1)))
        self.assertEqual(marked, set("234567"))
        self.assertNotIn("\u2010", source(1))  # bug 1

    def test_2_two_texts_in_one_read(self):
        def has_bug(join):
            peer = join()
            peer.write(2 * codec.encode_message("hello", b"mask"))
            return peer.receive() != "hello"

        self.both(has_bug)

    def test_2_as_the_docstring_shows_it(self):
        command = re.search(r"python (client\.py .*) ws:", docstring(2))[1]

        def has_bug(join):
            port = join().socket.getpeername()[1]
            with subprocess.Popen(
                [
                    sys.executable,
                    *shlex.split(command),
                    f"ws://127.0.0.1:{port}/",
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as program:
                first = program.stdout.readline()
                program.kill()
            return first.rstrip() != b"A"

        self.both(has_bug)

    def test_3_exactly_1000_bytes(self):
        def has_bug(join):
            # The first to join is the first to be served.
            peer, other = join(), join()
            peer.write(codec.encode_message("x" * 992, b"mask"))
            other.send("hello")
            other.socket.settimeout(SHORT)
            try:
                while other.receive() != "hello":
                    pass
            except socket.timeout:
                return True
            return False

        self.both(has_bug)

    def test_4_an_empty_ping(self):
        def has_bug(join):
            peer = join()
            peer.frame(codec.PING)
            peer.socket.settimeout(SHORT)
            try:
                return peer.next() is None
            except socket.timeout:
                return False  # Nobody answers, but nobody hangs up either.

        self.both(has_bug)

    def test_5_stays_until_rung_3(self):
        for rung in RUNGS:
            self.assertEqual(10 in CLAIMS[rung], rung >= 3)

    def test_6_frames_before_the_101(self):
        for text in ("hello", "nr=hello&key=all"):

            def has_bug(join, text=text):
                guest, peer = join(open=False), join()
                peer.send(text)
                peer.receive()
                guest.write(REQUEST)
                return guest.socket.recv(5) != b"HTTP/"

            self.both(has_bug)

    def test_7_a_length_in_too_many_bytes(self):
        def has_bug(join):
            peer = join()
            for size in (65024, 65025, 65535, 65536):
                peer.send("x" * size)
                try:
                    self.assertEqual(len(peer.receive()), size)
                except ProtocolError as error:
                    self.assertEqual(size, 65025)
                    self.assertIn("fewest bytes", error.reason)
                    return True
            return False

        self.both(has_bug)


class Chat(unittest.TestCase):
    """Rung 1 says what server.py says, in the tutorial's words."""

    def test_a_conversation(self):
        with running(RUNGS[1]) as port:
            said = self.converse(port)
        room = ChatRoom(port=0)
        room.diary = lambda text: None
        with serving(room):
            self.assertEqual(said, self.converse(room.port))
        self.assertIn("rmove", said)

    def converse(self, port):
        """Join, talk, whisper, leave; return what Ana has heard."""
        with Peer(port) as ana, Peer(port) as guest:
            ana.send("type=add&ming=Ana+%26+co")
            heard = [ana.receive_json()]
            guest.receive()
            with Peer(port) as bo:
                bo.send("type=add&ming=Bo")
                mine = bo.receive_json()
                heard += [mine, ana.receive_json()]
                for text in (
                    "nr=a%2Bb+%E2%98%82&key=all",
                    f"nr=psst&key={heard[0]['code']}",
                ):
                    bo.send(text)
                    heard.append(ana.receive_json())
                    bo.receive()
                guest.reset()  # It has no name: nobody is told.
                bo.send("a raw one")
                heard.append(ana.receive())
            heard.append(ana.receive_json())
        text = json.dumps(heard, sort_keys=True)
        for name, message in (("ana", heard[0]), ("bo", mine)):
            text = text.replace(f'"{message["code"]}"', name)
        return text


class Trouble(unittest.TestCase):
    """One makes trouble; from rung 2 on, the others talk on."""

    def test_who_breaks_a_rule_or_the_connection(self):
        for rung in (2, 3, 4, 5):
            with running(RUNGS[rung]) as port, Peer(port) as other:
                for trouble in (
                    lambda peer: peer.reset(),
                    lambda peer: peer.write(b"SSH-2.0\r\n"),
                    lambda peer: peer.write(
                        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
                    ),
                    lambda peer: peer.write(REQUEST + b"\x81\x01A"),
                    lambda peer: peer.write(REQUEST + b"\x81\x81mask\xff"),
                    lambda peer: peer.write(REQUEST[:20]),
                ):
                    with self.subTest(rung=rung), Peer(
                        port, open=False
                    ) as peer:
                        trouble(peer)
                        other.send("hello")
                        self.assertEqual(other.receive(), "hello")

    def test_a_page_gets_no_101(self):
        for rung in (2, 3, 4, 5):
            with running(RUNGS[rung]) as port, Peer(port, open=False) as peer:
                peer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                begin = b"HTTP/1.1 400 " if rung >= 4 else b""
                with self.subTest(rung=rung):
                    self.assertEqual(peer.read_to_end()[:13], begin)

    def test_who_was_slow_gets_all_in_its_order(self):
        for rung in (3, 4, 5):
            with running(RUNGS[rung]) as port, Peer(port) as slow, Peer(
                port
            ) as quick:
                texts = [f"{n} " + "x" * 100_000 for n in range(100)]
                for text in texts:
                    quick.send(text)
                    self.assertEqual(quick.receive(), text)
                for text in texts:
                    self.assertEqual(slow.receive(), text)


class Room(unittest.TestCase):
    """One rung, driven turn by turn."""

    rung = 4

    def setUp(self):
        program = runpy.run_path(str(RUNGS[self.rung]))
        self.room = program["Room"](0)
        self.globals = program["Room"].turn.__globals__
        self.port = self.room.listener.getsockname()[1]
        self.addCleanup(self.close)
        # No turn is half a second long.
        self.globals["select"] = SimpleNamespace(
            select=lambda *lists: select.select(*lists[:3], SHORT / 10)
        )

    def close(self):
        self.room.listener.close()
        for user in self.room.users:
            user.socket.close()

    def turn_until(self, condition):
        ends = time.monotonic() + DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), ends)
            self.room.turn()

    def join(self):
        """Return a client whose handshake is done, and its user."""
        client = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        self.addCleanup(client.close)
        client.sendall(REQUEST)
        before = len(self.room.users)
        self.turn_until(lambda: len(self.room.users) > before)
        user = self.room.users[-1]
        self.turn_until(lambda: user.state == "open")
        client.settimeout(DEADLINE)
        self.assertTrue(client.recv(4096).startswith(b"HTTP/1.1 101 "))
        return client, user

    def say(self, client, message):
        client.sendall(codec.encode_message(message, b"mask"))


class Limits(Room):
    def test_who_does_not_ask_is_dropped(self):
        self.globals["SECONDS"] = 0.1
        client = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        self.addCleanup(client.close)
        client.sendall(REQUEST[:20])
        self.turn_until(lambda: self.room.users)
        self.turn_until(lambda: not self.room.users)
        self.assertEqual(client.recv(100), b"")

    def test_who_has_joined_may_be_silent(self):
        self.globals["SECONDS"] = 0.3
        client, user = self.join()
        late = time.monotonic() + 0.3
        self.turn_until(lambda: time.monotonic() > late)
        self.say(client, "hello")
        self.room.turn()
        self.assertEqual(client.recv(100), b"\x81\x05hello")

    def test_who_does_not_hang_up_is_dropped(self):
        client, _ = self.join()
        self.globals["SECONDS"] = 0.0
        client.sendall(codec.encode_close(1000, "", b"mask"))
        self.turn_until(lambda: not self.room.users)
        self.assertEqual(client.recv(100)[2:], b"\x03\xe8")
        self.assertEqual(client.recv(100), b"")

    def test_who_never_reads_is_dropped_the_others_talk_on(self):
        self.globals["MAX_OUTBOX"] = 1000
        _, sleeper = self.join()
        talker, user = self.join()
        decoder = codec.Decoder(masked=False)
        for _ in range(1000):
            self.say(talker, "x" * 60_000)
            heard = []
            while not heard:
                self.room.turn()
                with contextlib.suppress(BlockingIOError):
                    talker.setblocking(False)
                    heard = list(decoder.feed(talker.recv(2**20)))
            if sleeper not in self.room.users:
                break
        self.assertEqual(self.room.users, [user])

    def test_one_too_many_waits(self):
        self.globals["MAX_USERS"] = 2
        first, _ = self.join()
        _, second = self.join()
        third = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        self.addCleanup(third.close)
        third.sendall(REQUEST)
        self.room.turn()
        self.assertEqual(len(self.room.users), 2)
        first.close()
        self.turn_until(lambda: self.room.users[-1] is not second)
        self.turn_until(lambda: self.room.users[-1].state == "open")
        self.assertTrue(third.recv(4096).startswith(b"HTTP/1.1 101 "))

    def test_one_who_has_left_before_it_was_let_in(self):
        class Left:
            fileno = self.room.listener.fileno
            close = self.room.listener.close

            def accept(self):
                raise ConnectionAbortedError

        client, _ = self.join()
        with socket.create_connection(("127.0.0.1", self.port)):
            self.room.listener = Left()
            self.say(client, "hello")
            self.room.turn()
        self.assertEqual(client.recv(100), b"\x81\x05hello")

    def test_the_code_is_told_though_more_was_sent(self):
        client, _ = self.join()
        too_big = codec.encode_frame(codec.TEXT, b"x" * 2**21, b"mask")
        done = threading.Thread(target=client.sendall, args=(too_big,))
        done.start()
        self.turn_until(lambda: not done.is_alive())
        done.join()
        client.shutdown(socket.SHUT_WR)
        self.turn_until(lambda: not self.room.users)
        ((_, close),) = codec.Decoder(masked=False).feed(client.recv(4096))
        self.assertEqual(close.code, CloseCode.TOO_BIG)


class LimitsOfRung5(Limits):
    rung = 5


class Turn(Room):
    rung = 5

    def hear(self, client):
        """Return what comes in one read, after one turn."""
        self.room.turn()
        return list(codec.Decoder(masked=False).feed(client.recv(4096)))

    def test_the_order_stays(self):
        client, _ = self.join()
        frames = (
            codec.encode_message("before", b"mask")
            + codec.encode_frame(codec.PING, b"ping", b"mask")
            + codec.encode_message("behind", b"mask")
            + codec.encode_close(1000, "", b"mask")
        )
        client.sendall(frames)
        heard = self.hear(client)
        self.assertEqual(
            heard,
            [
                (codec.TEXT, "before"),
                (codec.PONG, b"ping"),
                (codec.TEXT, "behind"),
                (codec.CLOSE, (1000, "")),
            ],
        )

    def test_a_turn_without_a_word_sends_nothing(self):
        _, user = self.join()
        user.socket = ladder.Counted(user.socket)
        self.join()
        self.assertEqual(user.socket.calls, 0)


class Page(BrowserTest):
    """client.html, from disk, with each rung."""

    def start(self):
        """Each test starts a rung by itself."""

    def begin(self, rung):
        program = running(RUNGS[rung])
        self.port = program.__enter__()
        self.addCleanup(program.__exit__, None, None, None)

    def test_rung_1_is_the_tutorials_room(self):
        self.begin(1)
        ana, bo = self.open("Ana", disk=True), self.open("Bo", disk=True)
        self.say(ana, "Hello, Bo")
        for tab in (ana, bo):
            self.wait_for_entry(tab, "chat", "Hello, Bo")
        self.say(bo, "psst", self.code(ana))
        for tab in (ana, bo):
            self.wait_for_entry(tab, "whisper", "psst")
        peer = self.peer("Cyd")
        self.wait_for_entry(ana, "notice", "came", 2)
        # What card 12 of the lessons says, and lets the class forge.
        forged = re.search(r"Ask 12a: `(.*)`$", CARDS, re.M)[1]
        peer.send(forged)
        self.wait_for_entry(ana, "chat", json.loads(forged)["nrong"])
        self.wait_for_entry(ana, "chat", "The room")
        peer.close()
        self.wait_for_entry(ana, "notice", "left")

    def relay(self, rung, code):
        """Join, talk; see how the end looks."""
        self.begin(rung)
        tabs = [self.open(disk=True), self.open(disk=True)]
        for tab, name in zip(tabs, ("Ana", "Bo")):
            tab.wait_for("document.activeElement.id === 'name'")
            tab.type(name)
            tab.press("Enter")
            tab.wait_for(f"{STATE} === 'Open. Your name was sent.'")
        ana, bo = tabs
        self.wait_for_entry(ana, "raw", "type=add&ming=Bo")
        self.say(ana, "Hello")
        self.say(bo, "Moin")
        for tab in tabs:
            self.wait_for_entry(tab, "raw", "nr=Hello&key=all")
            self.wait_for_entry(tab, "raw", "nr=Moin&key=all")
        self.click(bo, "disconnect")
        bo.wait_for(f"code => {STATE}.includes('code ' + code)", code)
        self.say(ana, "still here")
        self.wait_for_entry(ana, "raw", "still%20here")

    def test_rung_2_relays(self):
        self.relay(2, 1006)

    def test_rung_3_relays(self):
        self.relay(3, 1006)

    def test_rung_4_relays(self):
        self.relay(4, 1000)

    def test_rung_5_relays(self):
        self.relay(5, 1000)


def tearDownModule():
    browsers.close_all()


browsers.in_each_browser(globals())

if __name__ == "__main__":
    unittest.main()
