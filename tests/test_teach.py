"""--teach: what is typed while the room runs, and what it changes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import unittest
from unittest import mock

import handshake
from codec import TEXT, encode_frame
from lessons import faults
from lessons.faults import CHANCE, FAULTS, Breaker
from lessons.step import MENU, PREDICT, Stepper
from lessons.teach import MAX_LINE, MAX_LINES, WORDS, Teacher
from lessons.words import WIDTH
from server import ChatRoom
from tests.hostile import ByTurns
from tests.support import (
    KEY,
    MASKING_KEY,
    ROOT,
    WINDOWS,
    Peer,
    Process,
    side_by_side,
)
from tests.test_step import Terminal

REQUEST = handshake.request_head("127.0.0.1:9000", "/", KEY, {})
HELLO = encode_frame(TEXT, b"Hello", MASKING_KEY)


class Taught(ByTurns):
    """A room, turn by turn, and a teacher; shown: what the class sees."""

    REQUEST = REQUEST

    def __init__(self):
        super().__init__(ChatRoom(port=0))
        self.server.diary = lambda text: None
        self.shown = []
        show = self.shown.append
        self.stepper = Stepper(self.server, show, "off")
        self.stepper.asks = False
        self.server.observer = self.stepper
        self.breaker = Breaker(show)
        self.teacher = Teacher(self.server, self.stepper, self.breaker, show)

    def type(self, line):
        """Type a line; return what is shown."""
        self.shown.clear()
        self.teacher.obey(line)
        return "\n".join(self.shown)

    def say_hello(self, sock):
        """Let a user say hello; return what is shown."""
        self.shown.clear()
        self.say(sock, HELLO)
        return "\n".join(self.shown)

    def __exit__(self, *more):
        self.breaker.mend()
        super().__exit__(*more)


class Words(unittest.TestCase):
    def setUp(self):
        self.taught = Taught()
        self.taught.__enter__()
        self.addCleanup(self.taught.__exit__, None, None, None)
        self.type = self.taught.type

    def test_the_level(self):
        sock = self.taught.open()
        self.assertEqual(self.taught.say_hello(sock), "")
        self.assertIn("Now: every byte.", self.type("trace"))
        self.assertIn("masking key", self.taught.say_hello(sock))
        self.assertIn("Now: short.", self.type("  SHORT "))
        shown = self.taught.say_hello(sock)
        self.assertIn("FRAME #1", shown)
        self.assertNotIn("masking key", shown)
        self.assertIn("Now: no trace.", self.type("quiet"))
        self.assertEqual(self.taught.say_hello(sock), "")

    def test_only(self):
        first, second = self.taught.open(), self.taught.open()
        self.type("short")
        self.assertIn("short, of user 2 alone.", self.type("only 2"))
        self.assertNotIn("FRAME #1", self.taught.say_hello(first))
        self.assertIn("FRAME #2", self.taught.say_hello(second))
        self.assertNotIn("alone", self.type("only"))
        self.assertIn("FRAME #1", self.taught.say_hello(first))

    def test_recv(self):
        sock = self.taught.open()
        self.type("short")
        self.assertIn("at most 8 bytes in a read", self.type("recv 8"))
        self.assertIn("recv #1 -> 8 ", self.taught.say_hello(sock))
        self.taught.server.turn()  # the rest
        self.assertNotIn("in a read", self.type("recv"))
        self.assertNotIn("recv", self.taught.say_hello(sock))

    def test_small(self):
        listener, size = self.taught.server.listener, socket.SO_RCVBUF
        before = listener.getsockopt(socket.SOL_SOCKET, size)
        shown = self.type("small")
        after = listener.getsockopt(socket.SOL_SOCKET, size)
        self.assertLess(after, before)
        self.assertIn("Small buffers: asked for 4096", shown)
        self.assertIn("; small buffers.", shown)

    def test_break_and_mend(self):
        sock = self.taught.open()
        shown = self.type("break mask")
        self.assertIn("(--break mask): the server masks", shown)
        self.assertIn("; broken: mask.", shown)
        self.taught.say(sock, HELLO)
        self.assertEqual(sock.recv(100)[1], 0x80 | 5)
        # Another one takes the place of the first.
        self.type("break rsv")
        self.taught.say(sock, HELLO)
        self.assertEqual(sock.recv(100)[:2], b"\xc1\x05")
        self.assertNotIn("broken", self.type("mend"))
        self.taught.say(sock, HELLO)
        self.assertEqual(sock.recv(100), b"\x81\x05Hello")
        self.assertNotIn("broken", self.type("mend"))

    def test_break_by_chance(self):
        for name in FAULTS:
            choice = mock.Mock(return_value=name)
            with self.subTest(name), mock.patch.object(
                faults.secrets, "choice", choice
            ):
                shown = self.type("break ?")
                self.assertIn("(--break ?): which rule, it says at", shown)
                self.assertIn("; broken: ?.", shown)
                fault = FAULTS[name]
                self.assertIs(getattr(*fault.place), fault.wrong)
                self.assertNotIn(f" {name}", shown)
                self.assertIn(f"It was --break {name}: ", self.type("mend"))

    def test_tables(self):
        self.taught.open()
        self.assertRegex(self.type("users"), r"\n  #1 .* yes +no\n")
        self.assertRegex(self.type("buffers"), r"\n  #1 +nothing waiting +0 ")

    def test_quit(self):
        with self.taught.open() as sock:
            self.type("quit")
            self.taught.server.turn()
            self.taught.server.turn()
            self.assertIn(b"the room closes", sock.recv(100))

    def test_the_trace_knows_when_it_slept_while_it_was_quiet(self):
        with self.taught.open() as sock:
            self.taught.stepper.awake -= 100  # seconds; a quiet turn follows
            self.taught.say(sock, HELLO)
            self.type("short")
            self.taught.say(sock, HELLO)
            self.assertRegex("".join(self.taught.shown), r"slept 0\.")

    def test_nothing_is_done_while_the_room_closes(self):
        with self.taught.open() as sock:
            self.type("quit")
            self.taught.server.turn()
            self.taught.server.turn()
            self.assertIn(b"the room closes", sock.recv(100))
            self.taught.shown.clear()
            for word in (b"small", b"trace", b"users"):
                self.taught.teacher.hand_over(word)
            self.taught.server.turn()
            self.assertEqual(self.taught.shown, [])
            self.assertTrue(self.taught.teacher.lines.empty())

    def test_the_keyboard_waits_for_the_room(self):
        teacher = self.taught.teacher
        for _ in range(MAX_LINES):
            teacher.hand_over(b"quiet")
        typist = threading.Thread(target=teacher.hand_over, args=[b"short"])
        typist.start()
        typist.join(0.1)
        self.assertTrue(typist.is_alive())
        self.taught.server.turn()
        typist.join(10)
        self.assertFalse(typist.is_alive())
        while "Now: short." not in "".join(self.taught.shown):
            self.taught.server.turn()

    def test_only_enter_shows_all_words(self):
        shown = self.type("")
        self.assertIn(WORDS, shown)
        self.assertIn("Now: no trace.", shown)
        for word in self.taught.teacher.words:
            self.assertRegex(WORDS, rf"(?m)(^|   ) +{word}\b")
        for line in WORDS.split("\n"):
            self.assertLessEqual(len(line), WIDTH)

    def test_while_the_class_predicts(self):
        self.type("step")
        shown = self.type("")
        self.assertIn("Nobody is ready yet: select() waits.", shown)
        self.assertNotIn(WORDS, shown)
        self.taught.stepper.predicted = 2
        shown = self.type("c")
        self.assertIn("The class predicted 0 of 2.", shown)
        self.assertNotIn("the class predicts", shown)
        self.assertIn(WORDS, self.type(""))

    def test_what_cannot_be_done(self):
        for line, words in (
            ("foo", "There is no 'foo'. Only Enter shows"),
            ("\x00\u010c" * 99, "There is no "),
            ("only x", "'x' is not a number from 1 to 99999."),
            ("only 0", "'0' is not"), ("only -1", "'-1' is not"),
            ("only \u0663", "is not a number"), ("recv 0", "'0' is not"),
            ("recv 100000", "'100000' is not"), ("recv 1 2", "'1 2' is not"),
            ("trace short", "It stands alone, without 'short'."),
            ("mend mask", "It stands alone"), ("c 3", "It stands alone"),
            ("quit now", "It stands alone"),
            ("users 3", "It stands alone"), ("step 2", "It stands alone"),
            ("small 1", "It stands alone"), ("break", "one of these: ?, acc"),
            ("break nonsense", "one of these: ?, accept, "),
            ("break MASK rsv", "one of these: "),
        ):  # fmt: skip
            with self.subTest(line):
                before = self.taught.teacher.state()
                shown = self.type(line)
                self.assertIn(words, shown)
                self.assertNotIn("Now", shown)
                self.assertTrue(shown.isascii() and "\x00" not in shown)
                for each in shown.split("\n"):
                    self.assertLessEqual(len(each), WIDTH)
                self.assertEqual(self.taught.teacher.state(), before)
                self.assertFalse(self.taught.server.stopping)


class Chance(unittest.TestCase):
    def test_all_faults_and_back(self):
        """Each breaks its own place, and mend() leaves nothing behind."""
        places = {fault.place for fault in FAULTS.values()}
        right = {place: getattr(*place) for place in places}
        said = []
        breaker = Breaker(said.append)
        for name, fault in FAULTS.items():
            with self.subTest(name):
                breaker.install(name)
                wrong = [p for p in places if getattr(*p) is not right[p]]
                self.assertEqual(wrong, [fault.place])
        breaker.ended()
        for place in places:
            self.assertIs(getattr(*place), right[place])
        self.assertEqual(len(said), len(FAULTS))  # It was no secret.

    def test_each_has_its_chance(self):
        found = set()
        for _ in range(2000):
            breaker = Breaker(lambda text: None)
            breaker.install(CHANCE)
            found.add(breaker.name)
            breaker.mend()
            if len(found) == len(FAULTS):
                break
        self.assertEqual(found, set(FAULTS))

    def test_at_the_end_it_says_which(self):
        for switches in (("--break", "?"), ("--break", "?", "--trace")):
            with self.subTest(switches), Process("0", *switches) as process:
                first = process.wait_for("Broken on purpose")
                self.assertTrue(
                    first.endswith("which rule, it says at the end.")
                )
                before = "\n".join(process.lines)
                process.signal(signal.SIGINT)
                self.assertEqual(process.end(), 0)
                last = process.wait_for("It was --break ")
                name = re.match(r"It was --break ([\w-]+): ", last)[1]
                self.assertIn(name, FAULTS)
                self.assertTrue(last.endswith(FAULTS[name].sentence))
                self.assertNotIn(FAULTS[name].sentence, before)


class AtTheKeyboard(unittest.TestCase):
    def test_a_pipe(self):
        """On Windows, too: what a thread reads is done in the loop."""
        with Process("0", "--teach", stdin=subprocess.PIPE) as process:
            process.wait_for("^--teach: Enter shows what to type.$")
            seen = [line for line in process.lines if "whispers" in line]
            self.assertEqual(len(seen), 1)
            keyboard = process.process.stdin
            with Peer(process.port) as peer:
                self.tell(
                    process, b"sho", b"rt\r\nonly 1\n", "short, of user 1"
                )
                peer.send("one")
                process.wait_for('^FRAME #1 --> server .*"one"$')
                # A word of which two letters come with the next read.
                cut = b"qui".rjust(MAX_LINE) + b"et\n"
                self.tell(process, cut, "Now: no trace, of user 1")
                peer.send("two")
                self.assertEqual(peer.receive(), "one")
                self.assertEqual(peer.receive(), "two")
                self.tell(process, b"\xff\xfe\n", "There is no ")
                self.tell(process, b"x" * 10_000 + b"\n", "There is no 'x")
                keyboard.close()
                process.wait_for("The keyboard has ended")
                peer.send("three")
                self.assertEqual(peer.receive(), "three")
            process.signal(signal.SIGINT)
            self.assertEqual(process.end(), 0)
            self.assertEqual(process.errors, [])
            self.assertNotIn("two", "".join(process.lines))

    def tell(self, process, *typed):
        """Type bytes; wait for what is shown then."""
        *pieces, expected = typed
        since = len(process.lines)
        for piece in pieces:
            process.process.stdin.write(piece)
            process.process.stdin.flush()
        process.wait_for(expected, since)

    def test_quit(self):
        with Process("0", "--teach", stdin=subprocess.PIPE) as process:
            with Peer(process.port) as peer:
                process.process.stdin.write(b"quit\n")
                process.process.stdin.flush()
                self.assertEqual(peer.receive_close()[0], 1001)
            self.assertEqual(process.end(), 0)

    def test_no_fault_beside_a_lab(self):
        answer = str(ROOT / "lessons" / "answers" / "lab5.py")
        with Process(
            "0", "--teach", "--lab", answer, stdin=subprocess.PIPE
        ) as process:
            self.tell(process, b"break rsv\n", "The labs stand where")
            self.tell(process, b"mend\n", "Now: no trace.$")

    def test_a_keyboard_that_never_rests(self):
        """It waits for the room, and the room for nobody."""
        with Process("0", "--teach", stdin=subprocess.PIPE) as process:

            def type_on():
                with contextlib.suppress(OSError):
                    while True:
                        process.process.stdin.write(b"quiet\n" * 10_000)

            typist = threading.Thread(target=type_on, daemon=True)
            typist.start()
            process.wait_for("Now: no trace.")
            with Peer(process.port) as peer:
                peer.send("one")
                self.assertEqual(peer.receive(), "one")
                process.signal(signal.SIGINT)
                self.assertEqual(peer.receive_close()[0], 1001)
            self.assertEqual(process.end(), 0)
            self.assertEqual(process.errors, [])
            typist.join(10)

    def test_the_end_of_the_keyboard(self):
        """The last line needs no end; the end is told once; none can answer."""
        with Process("0", "--teach", stdin=subprocess.PIPE) as process:
            process.process.stdin.write(b"short\nquiet\nstep")
            process.process.stdin.close()
            process.wait_for("Now: no trace; the class predicts.")
            process.wait_for("The keyboard has ended")
            with Peer(process.port) as peer:
                peer.send("one")
                self.assertEqual(peer.receive(), "one")
            process.signal(signal.SIGINT)
            self.assertEqual(process.end(), 0)
            told = [line for line in process.lines if "has ended" in line]
            self.assertEqual(len(told), 1)

    @unittest.skipIf(WINDOWS, "Windows has no such keyboard")
    def test_a_keyboard_that_does_not_wait(self):
        there, here = os.pipe()
        os.set_blocking(there, False)
        with Process("0", "--teach", stdin=there) as process:
            os.close(there)
            process.wait_for("^--teach: ")
            with Peer(process.port):  # It has looked at its keyboard by now.
                os.write(here, b"short\n")
                process.wait_for("Now: short.")
                os.close(here)
                process.wait_for("The keyboard has ended")

    def test_no_keyboard_or_nothing_to_show_it_on(self):
        for name in ("stdin", "stdout"):
            program = (
                f"import sys; sys.{name} = None; import server;"
                "sys.exit(server.main(['0', '--teach']))"
            )
            with self.subTest(name):
                done = subprocess.run(
                    [os.sys.executable, "-c", program],
                    cwd=ROOT, capture_output=True, timeout=10,
                )  # fmt: skip
                self.assertEqual(done.returncode, 2)
                self.assertIn(b"--teach reads the keyboard", done.stderr)
                self.assertNotIn(b"Traceback", done.stderr)


@unittest.skipUnless(hasattr(os, "openpty"), "only Unix has pseudo-terminals")
class AtATerminal(unittest.TestCase):
    def test_a_lesson_without_a_restart(self):
        with Terminal(switch="--teach") as terminal:
            with Peer(terminal.port) as peer:
                peer.send("one")
                terminal.type("trace\n")
                terminal.expect("Now: every byte.")
                peer.send("two")
                terminal.expect('=  74 77 6f .*"two"\n')
                terminal.type("short\nstep\n")
                terminal.expect("the class predicts.\n")
                peer.send("three")
                terminal.expect("asked  read L #1 ")
                shown = terminal.answer("1", "b", "c")
                self.assertIn("YES\n", shown)
                terminal.expect('FRAME #1 .*"three"\n')
                terminal.type("quiet\n")
                terminal.expect("Now: no trace.\n")
                peer.send("four")
                for word in ("one", "two", "three", "four"):
                    self.assertEqual(peer.receive(), word)
                terminal.type("quit\n")
                terminal.expect("The class predicted 1 of 1.")
            self.assertEqual(terminal.end(), 0)
        self.assertNotIn("\x1b", terminal.text)

    def test_ways_out_of_a_question(self):
        side_by_side(self, self.leaves, [("\x03",), ("\x04",), ("\nq\n",)])

    def asked(self):
        """Return a terminal that asks from the start."""
        return Terminal("--step", switch="--teach")

    def leaves(self, keys):
        """Press these while the class is asked: the room ends, with 0."""
        with self.asked() as terminal, Peer(terminal.port, open=False):
            terminal.expect(re.escape(PREDICT))
            terminal.type(keys)
            self.assertEqual(terminal.end(), 0)

    def test_no_question_when_the_keyboard_has_ended(self):
        with self.asked() as terminal:
            terminal.type("\x04")
            terminal.expect("The keyboard has ended: nothing changes any more")
            with Peer(terminal.port) as peer:
                peer.send("one")
                self.assertEqual(peer.receive(), "one")
            self.assertNotIn(PREDICT, terminal.text)
            terminal.type("\x03")
            self.assertEqual(terminal.end(), 0)

    def test_the_menu(self):
        with self.asked() as terminal, Peer(terminal.port, open=False):
            terminal.answer("l", "u", "c")
            terminal.type("buffers\n")
            terminal.expect("nothing waiting")
            self.assertNotIn(MENU, terminal.text[terminal.seen :])

    def test_colours(self):
        for no_color, expected in (("", True), ("1", False)):
            with self.subTest(no_color), Terminal(
                "--trace=short", switch="--teach", no_color=no_color
            ) as terminal, Peer(terminal.port) as peer:
                peer.send("one")
                terminal.expect("FRAME server.*one")
                painted = "\x1b[32mFRAME #1 --> server" in terminal.text
                self.assertEqual(painted, expected)


if __name__ == "__main__":
    unittest.main()
