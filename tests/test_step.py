"""The stepper: what a class is asked, what it is told, what it may type.

Most lessons here take place in the test's own thread, turn by turn, with
answers in place of input(). Then come those at a pseudo-terminal, with a
server that is a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from contextlib import redirect_stderr
from socket import MSG_WAITALL
from types import SimpleNamespace
from unittest import mock

import codec
import lessons.asked
import lessons.step
import lessons.trace
import server
from client import Client
from lessons.step import MENU, PREDICT, Stepper
from lessons.words import WIDTH
from server import ChatRoom
from tests.hostile import Clock, connect, frame, read_head, read_to_end, request
from tests.support import (
    DEADLINE,
    RESETS,
    ROOT,
    Child,
    Peer,
    close_all,
    reset,
    serving,
    side_by_side,
    wait_until,
)

HELLO = frame(codec.TEXT, b"Hello")  # 11 bytes
SLEPT = re.compile(r"slept \d+\.\d\d s")
DATE = re.compile(rb"\d\d-\d\d \d\d:\d\d:\d\d")
TIME = re.compile(r"^\d\d:\d\d:\d\d", re.M)


def setUpModule():
    global turn_seconds  # or a slow machine would do less in a turn
    turn_seconds = mock.patch.object(server, "TURN_SECONDS", DEADLINE)
    turn_seconds.start()


def tearDownModule():
    turn_seconds.stop()


class Lesson:
    """A room whose turns are taken one by one, and what the class sees."""

    def __init__(self, level="off", **options):
        self.shown = []
        self.answers = []
        self.think = lambda prompt: None  # what happens before an answer
        self.server = ChatRoom(port=0, **options)
        self.diary = []
        self.server.diary = self.diary.append
        self.stepper = Stepper(self.server, self.shown.append, level)
        self.server.observer = self.stepper
        self.sockets = []

    def input(self, prompt):
        """Take the next answer for what is typed; some are exceptions."""
        self.think(prompt)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            self.shown.append(prompt)
            raise answer
        self.shown.append(prompt + answer)
        return answer

    def turn(self, *answers, ready=1):
        """Take a turn with just these answers; return what was shown.

        ready: how many sockets select() must have something to read from.
        """
        self.wait_for(ready)
        self.answers[:] = answers
        with mock.patch("builtins.input", self.input):
            self.server.turn()
        assert not self.answers, f"not asked for: {self.answers}"
        assert self.server.observer is self.stepper, "it has raised"
        text = "\n".join(self.shown)
        self.shown.clear()
        return text

    def wait_for(self, ready):
        asked = [*self.server.users.values()]
        if self.server.listener:
            asked.append(self.server.listener)
        wait_until(lambda: len(select.select(asked, [], [], 0)[0]) >= ready)

    def connect(self, buffer=0):
        sock = connect(self.server.port, buffer=buffer)
        self.sockets.append(sock)
        return sock

    def join(self, buffer=0):
        """Return a socket that has finished its handshake."""
        sock = self.connect(buffer)
        self.turn("", "")
        sock.sendall(request(self.server.port))
        self.turn("", "")
        assert read_head(sock).startswith(b"HTTP/1.1 101 ")
        return sock

    def user(self, key):
        return self.server.users[key]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sock in self.sockets:
            sock.close()
        self.stepper.asks = False
        self.server.stop()
        with mock.patch.object(server, "PATIENCE", 0.01):
            while self.server.running:
                self.server.turn()
        close_all(self.server)


class Verdict(unittest.TestCase):
    def setUp(self):
        self.lesson = self.enter(Lesson())

    def enter(self, lesson):
        lesson.__enter__()
        self.addCleanup(lesson.__exit__)
        return lesson

    def test_a_newcomer(self):
        self.lesson.connect()
        self.assertEqual(
            SLEPT.sub("slept 0.00 s", self.lesson.turn("L", "")),
            "turn 1   asked  read L                   write -"
            "             slept 0.00 s\n"
            "PREDICT which will select() give back? ids, or Enter: L\n"
            "         got    read L                   write -\n"
            "YES\n"
            "  L read    a newcomer knocks\n"
            "Enter go on | c continue | u users | b buffers | q quit > ",
        )

    def test_every_way_to_write_an_answer(self):
        sock = self.lesson.join()
        self.lesson.join()
        right = wrong = 0
        for answer, verdict in (
            ("1", "YES"),
            ("#1", "YES"),
            ("  #1  ", "YES"),
            ("1,", "YES"),
            ("1 #1", "YES"),
            ("2", "NO"),
            ("1 2", "NO"),
            ("1,2", "NO"),
            ("#1 , #2,L", "NO"),
            ("l", "NO"),
            ("L", "NO"),
        ):
            with self.subTest(answer):
                sock.sendall(HELLO)
                lines = self.lesson.turn(answer, "").split("\n")
                self.assertEqual(lines[3], verdict)
                right += verdict == "YES"
                wrong += verdict == "NO"
                self.assertEqual(self.lesson.stepper.right, right)
                self.assertEqual(self.lesson.stepper.predicted, right + wrong)
        self.lesson.stepper.ended()
        self.assertEqual(self.lesson.shown, ["The class predicted 5 of 11."])

    def test_enter_is_no_prediction(self):
        sock = self.lesson.join()
        for answer in ("", " ", ","):
            with self.subTest(answer):
                sock.sendall(HELLO)
                lines = self.lesson.turn(answer, "").split("\n")[2:]
                got = "         got    read #1                  write -"
                why = "  #1 read   11 bytes waiting"
                self.assertEqual(lines, [got, why, MENU])
        self.lesson.stepper.ended()
        self.assertEqual(self.lesson.shown, [])

    def test_several_ids(self):
        first, second = self.lesson.join(), self.lesson.join()
        first.sendall(HELLO)
        second.sendall(HELLO[:1])
        self.lesson.connect()
        lines = self.lesson.turn("2,L #1", "", ready=3).split("\n")
        self.assertEqual(
            lines[2:-1],
            [
                "         got    read L #1 #2             write -",
                "YES",
                "  #1 read   11 bytes waiting",
                "  #2 read   1 byte waiting",
                "  L read    a newcomer knocks",
            ],
        )

    def test_all_must_be_named(self):
        for sock in (self.lesson.join(), self.lesson.join()):
            sock.sendall(HELLO)
        self.assertIn("\nNO\n", self.lesson.turn("1", "", ready=2))

    def test_what_did_not_come(self):
        sock = self.lesson.join()
        self.lesson.join()
        sock.sendall(HELLO)
        lines = self.lesson.turn("2 L", "").split("\n")
        self.assertEqual(
            lines[3:-1],
            [
                "NO",
                "  #1 read   11 bytes waiting",
                "  L         nobody had knocked yet",
                "  #2        nothing had come from it yet, and its outbox "
                "is empty",
            ],
        )

    def test_what_cannot_be_an_answer(self):
        sock = self.lesson.join()
        for answer, shown in (
            ("hello", "HELLO"),
            ("2", "#2"),
            ("1 2", "#2"),
            ("9 1 2", "#2"),
            ("0", "#0"),
            ("01", "#01"),
            ("1;2", "1;2"),
            ("-1", "-1"),
            ("?", "?"),
            ("q", "Q"),
            ("#", "#"),
            ("#L", "#L"),
            ("x" * 5000, "X" * 13 + "..."),
            ("\x1b[2J", ".[2J"),
            ("\u661f\ud800\U0001f600", "???"),
            ("\u0661", "#?"),  # a one, but not an ASCII one
            (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "?"),
        ):
            with self.subTest(answer):
                sock.sendall(HELLO)
                shown = (
                    f"{shown} was not asked for: "
                    "type ids that were, only Enter, or c."
                )
                lines = self.lesson.turn(answer, answer, "1", "").split("\n")
                self.assertEqual([lines[2], lines[4]], [shown, shown])
                self.assertEqual(lines[5:8:2], [f"{PREDICT}1", "YES"])
        predicted = self.lesson.stepper.predicted
        self.assertEqual((predicted, self.lesson.stepper.right), (17, 17))

    def test_idle_turns_ask_nothing(self):
        self.lesson.join()
        turn = self.lesson.stepper.turn
        with mock.patch.object(server, "PATIENCE", 0.01):
            self.assertEqual(self.lesson.turn(ready=0), "")
        self.assertEqual(self.lesson.stepper.turn, turn)

    def test_what_comes_meanwhile_belongs_to_the_next_turn(self):
        first, second = self.lesson.join(), self.lesson.join()
        first.sendall(HELLO)

        def think(prompt):
            second.sendall(HELLO)
            self.lesson.wait_for(2)
            self.lesson.think = lambda prompt: None

        self.lesson.think = think
        self.assertIn("\nYES\n", self.lesson.turn("1", ""))
        self.assertIn("\nYES\n", self.lesson.turn("2", ""))


class Why(unittest.TestCase):
    def setUp(self):
        self.lesson = Lesson()
        self.lesson.__enter__()
        self.addCleanup(self.lesson.__exit__)

    def test_more_than_it_looks_at(self):
        sock = self.lesson.join()
        with mock.patch.object(lessons.asked, "MAX_PEEK", 11):
            for data, size in (
                (HELLO[:-1], "10 bytes"),
                (HELLO[-1:] + HELLO[:-1], "11 bytes or more"),
            ):
                sock.sendall(data)
                text = self.lesson.turn("", "")
                self.assertIn(f"  #1 read   {size} waiting\n", text)

    def test_looking_takes_nothing(self):
        sock = self.lesson.join()
        sock.sendall(HELLO)
        self.lesson.turn("", "b", "b", "")
        self.assertEqual(sock.recv(100), b"\x81\x05Hello")

    def test_a_hang_up(self):
        self.lesson.join().close()
        text = self.lesson.turn("1", "")
        self.assertIn("YES\n  #1 read   end of stream: it hangs up\n", text)
        self.assertEqual(self.lesson.diary[-1], "#1 left: 1006 hung up")

    @RESETS
    def test_a_broken_connection(self):
        sock = self.lesson.join()
        errors = []
        self.lesson.server.on_error = lambda *error: errors.append(error)
        user = self.lesson.user(1)
        reset(sock)
        text = self.lesson.turn("1", "b", "")
        reason = "Connection reset by peer"
        self.assertIn(f"  #1 read   the connection failed: {reason}\n", text)
        self.assertIn("  #1     the connection failed: C...", text)
        # It has ended as it does without anybody who looks.
        self.assertEqual(self.lesson.diary[-1], f"#1 left: 1006 {reason}")
        self.assertEqual([error[0] for error in errors], [user])

    @RESETS
    def test_a_connection_that_breaks_while_the_class_looks(self):
        first, second = self.lesson.join(), self.lesson.join()
        first.sendall(HELLO)

        def think(prompt):
            if prompt == MENU and second.fileno() >= 0:
                reset(second)
                self.lesson.wait_for(2)

        self.lesson.think = think
        self.lesson.turn("1", "b", "b", "")
        self.assertRegex(self.lesson.diary[-1], "^#2 left: 1006 .* reset ")
        self.assertEqual(list(self.lesson.server.users), [1])

    def test_room_to_write(self):
        sock = self.fill_outbox()
        user = self.lesson.user(1)
        sock.setblocking(False)

        def read_until_there_is_room():
            with contextlib.suppress(BlockingIOError):
                while sock.recv(2**16):
                    pass
            return select.select([], [user.socket], [], 0)[1]

        wait_until(read_until_there_is_room)
        size = user.waiting
        self.assertGreater(size, 0)
        lines = self.lesson.turn("1", "", ready=0).split("\n")
        self.assertEqual(
            lines[2:-1],
            [
                "         got    read -                   write #1",
                "YES",
                f"  #1 write  room in the kernel's buffer; {size} bytes "
                "waiting in its outbox",
            ],
        )
        self.assertLess(user.waiting, size)

    def test_no_room_to_write(self):
        self.fill_outbox()
        self.lesson.connect()
        lines = self.lesson.turn("1", "").split("\n")
        asked = "turn 3   asked  read L #1                write #1  "
        self.assertTrue(lines[0].startswith(asked), lines[0])
        self.assertEqual(
            lines[3:-1],
            [
                "NO",
                "  L read    a newcomer knocks",
                "  #1        nothing had come from it yet, and the kernel's "
                "buffer is full",
            ],
        )

    def test_both_read_and_write_count_once(self):
        sock = self.fill_outbox()
        user = self.lesson.user(1)
        sock.sendall(HELLO)
        self.lesson.wait_for(1)
        # As if there was room: it is all one who says so.
        ask = [self.lesson.server.listener, user]
        typed = ["1", ""]
        with mock.patch("builtins.input", lambda prompt: typed.pop(0)):
            self.lesson.stepper.woke(ask, ask[1:], ask[1:], ask[1:])
        self.assertEqual(self.lesson.shown[2], "YES")
        self.assertEqual(
            [line[:11] for line in self.lesson.shown[3:]],
            ["  #1 read  ", "  #1 write "],
        )

    def fill_outbox(self):
        """Join with a socket that does not read what it is sent."""
        sock = self.lesson.join(buffer=4096)
        user = self.lesson.user(1)
        self.lesson.server.send(user, b"x" * 2**23)
        with mock.patch.object(server, "PATIENCE", 0.02):
            end = time.monotonic() + DEADLINE
            size = None
            while size != user.waiting:  # until the kernel takes no more
                assert time.monotonic() < end
                size = user.waiting
                self.quiet_turn()
        return sock

    def quiet_turn(self):
        self.lesson.stepper.asks = False
        self.lesson.server.turn()
        self.lesson.stepper.asks = True
        self.lesson.stepper.turn = 2
        self.lesson.shown.clear()


class OthersInTheLoop(unittest.TestCase):
    def setUp(self):
        self.lesson = Lesson()
        self.lesson.__enter__()
        self.addCleanup(self.lesson.__exit__)
        self.lesson.join()

    def test_a_guest_can_be_predicted(self):
        ours, far = socket.socketpair()
        guest = mock.Mock(spec=Client)
        guest.configure_mock(**{
            "ask_read.return_value": [ours],
            "ask_write.return_value": [],
            "patience.return_value": 1.0,
            "is_active.return_value": False,
            "serve.side_effect": lambda ready: ours.recv(9),
        })  # fmt: skip
        self.lesson.server.guests.append(guest)
        with ours, far:
            far.send(b"x")
            shown = self.lesson.turn("g1", "", ready=0)
            self.assertIn("asked  read L #1 G1 ", shown)
            self.assertIn("YES\n  G1        there is work for a guest", shown)
            far.send(b"x")
            shown = self.lesson.turn("L", "", ready=0)
            self.assertIn("NO\n", shown)
            self.assertIn("  L         nobody had knocked yet", shown)
            self.lesson.server.guests.clear()

    def test_a_thread_or_a_timer_asks_nothing(self):
        calls = []
        self.lesson.server.call_soon(lambda: calls.append("thread"))
        self.lesson.server.later(0, lambda: calls.append("timer"))
        self.assertEqual(self.lesson.turn(ready=0), "")
        self.assertEqual(calls, ["thread", "timer"])

    def test_timers_stand_still_while_the_class_thinks(self):
        calls = []
        room = self.lesson.server
        timer = room.later(5, lambda: calls.append("due"))
        due = timer.due
        sock = self.lesson.sockets[0]
        sock.sendall(HELLO)
        self.lesson.think = lambda prompt: time.sleep(0.05)
        self.lesson.turn("", "")
        self.assertGreaterEqual(timer.due, due + 0.1)


class Menu(unittest.TestCase):
    def setUp(self):
        self.lesson = Lesson()
        self.lesson.__enter__()
        self.addCleanup(self.lesson.__exit__)

    def test_users(self):
        self.lesson.join().sendall(frame(codec.TEXT, b"type=add&ming=Ana"))
        self.lesson.turn("", "")
        self.lesson.connect()
        text = self.lesson.turn("", "u", "U ", "")
        port = self.lesson.sockets[0].getsockname()[1]
        table = (
            f"{MENU}%s\n"
            "  user   name                  address                    "
            "handshaken  closing\n"
            f"  #1     Ana                   127.0.0.1 port {port:<11} "
            f"yes         no\n"
        )
        self.assertTrue(text.endswith(table % "u" + table % "U " + MENU), text)
        self.lesson.connect()
        port = self.lesson.sockets[1].getsockname()[1]
        self.lesson.user(1).closing = True
        lines = self.lesson.turn("", "u", "").split("\n")
        self.assertRegex(lines[-3], r"^  #1 .* yes         yes$")
        self.assertEqual(
            lines[-2],
            "  #2                           "
            f"127.0.0.1 port {port:<11} no          no",
        )

    def test_nobody(self):
        self.lesson.connect()
        text = self.lesson.turn("", "u", "b", "")
        self.assertEqual(len(text.split("\n")), 10)  # the heads of two tables

    def test_buffers(self):
        first, second = self.lesson.join(), self.lesson.join()
        third = self.lesson.connect()
        self.lesson.turn("", "")
        first.sendall(frame(codec.TEXT, b"seven, ", fin=False) + HELLO[:1])
        second.sendall(frame(codec.TEXT, b"x" * 90)[:40])
        third.sendall(b"GET / HTTP/1.1\r\n")
        self.lesson.turn("", "", ready=3)
        user = self.lesson.user(1)
        user.outbox.extend([b"abc", b"de"])
        user.waiting = 5
        third.sendall(b"x")
        self.assertEqual(
            self.lesson.turn("", "B ", "").split("\n")[-7:],
            [
                f"{MENU}B ",
                "  user   in the kernel,              unfinished           "
                "outbox",
                "         to be read                  here      to come    "
                "blocks  bytes",
                "  #1     nothing waiting             8         0          "
                "2       5",
                "  #2     nothing waiting             34        56         "
                "0       0",
                "  #3     1 byte waiting              16        0          "
                "0       0",
                MENU,
            ],
        )

    def test_anything_else(self):
        self.lesson.connect()
        shown = [
            "x",
            "cc",
            "?",
            "1",
            UnicodeDecodeError("utf-8", b"", 0, 1, ""),
        ]
        lines = self.lesson.turn("", *shown, "").split("\n")
        self.assertEqual(len([li for li in lines if li.startswith(MENU)]), 6)
        self.assertTrue(self.lesson.stepper.asks)

    def test_continue(self):
        self.lesson.connect()
        shown = self.lesson.turn("L", "c")
        self.assertIn("The class predicted 1 of 1.", shown)
        self.lesson.sockets[0].sendall(request(self.lesson.server.port))
        self.assertEqual(self.lesson.turn(), "")
        self.assertIn("joined", self.lesson.diary[0])
        self.lesson.stepper.ended()
        self.assertEqual(self.lesson.shown, ["The class predicted 1 of 1."])

    def test_continue_at_the_question(self):
        self.lesson.connect()
        shown = self.lesson.turn("c")
        self.assertIn("L read    a newcomer knocks", shown)
        self.assertNotIn(MENU, shown)
        self.lesson.sockets[0].sendall(request(self.lesson.server.port))
        self.assertEqual(self.lesson.turn(), "")

    def test_continue_with_the_trace(self):
        for level, first in (
            ("short", "turn 2   got read #1 write - of 2 asked  slept 0."),
            ("full", "turn 2   asked  read L #1                write - "),
        ):
            with self.subTest(level), Lesson(level) as lesson:
                lesson.connect()
                text = lesson.turn("L", "C")
                self.assertEqual("\nACCEPT #1 " in text, level == "full")
                lesson.sockets[0].sendall(request(lesson.server.port))
                text = lesson.turn()
                self.assertTrue(text.startswith(first), text)
                self.assertIn("\nHANDSHAKE server --> #1 ", text)

    def test_the_trace_goes_on_between_the_questions(self):
        with Lesson("full") as lesson:
            sock = lesson.join()
            sock.sendall(HELLO)
            text = lesson.turn("1", "")
            self.assertIn(f"\n{MENU}\nFRAME #1 --> server  TEXT", text)
            lines = [line[:4] for line in text.split("\n")]
            self.assertEqual(lines.count("turn"), 1)

    def test_quit(self):
        sock = self.lesson.join()
        other = self.lesson.connect()
        self.lesson.turn("", "q")
        self.lesson.turn(ready=0)  # in which the Close is written
        self.assertEqual(sock.recv(100), b"\x88\x11\x03\xe9the room closes")
        other.close()
        sock.sendall(HELLO)
        self.assertEqual(self.lesson.turn(ready=0), "")

    def test_a_turn_with_a_question_is_not_silent(self):
        with mock.patch.object(server, "PATIENCE", 0.01), Lesson("full") as one:
            sock = one.join()
            self.assertEqual(one.turn(ready=0), "")
            sock.sendall(HELLO)
            self.assertNotIn("got nothing", one.turn("", ""))

    def test_each_turn_has_its_own_frames(self):
        with Lesson("short") as lesson:
            sock = lesson.join()
            for _ in range(3):
                sock.sendall(HELLO * 40)
                self.assertEqual(lesson.turn("", "").count("FRAME"), 80)

    def test_the_end_of_input(self):
        for error in (EOFError(), KeyboardInterrupt(), OSError(5, "gone")):
            for answers in ([error], ["1", error], ["no", error]):
                with self.subTest(answers), Lesson() as lesson:
                    lesson.join().sendall(HELLO)
                    text = lesson.turn(*answers)
                    self.assertTrue(lesson.server.stopping)
                    got = "\n         got    read #1                  write"
                    self.assertIn(got, text)
                    # The line of the prompt is ended.
                    last = MENU if answers[0] == "1" else PREDICT
                    self.assertIn(f"\n{last}\n\n", text + "\n")


class Asking(unittest.TestCase):
    def test_deadlines_stand_still(self):
        clock = Clock()
        for module in (server, lessons.step, lessons.trace):
            patch = mock.patch.object(module, "time", clock)
            patch.start()
            self.addCleanup(patch.stop)

        def think(prompt):
            clock.ahead += 1000

        with Lesson("full") as lesson:
            sock = lesson.join()
            ask = [lesson.user(1)]
            before = lesson.user(1).deadline
            lesson.think = think
            lesson.answers += "1", ""
            with mock.patch("builtins.input", lesson.input):
                lesson.stepper.woke(ask, [], ask, [])
            passed = lesson.user(1).deadline - before
            self.assertAlmostEqual(passed, 2000, delta=5)
            # The thinking is not part of the next sleep; nobody is pinged.
            lesson.shown.clear()
            sock.sendall(HELLO)
            self.assertRegex(lesson.turn("", ""), r"\A.*slept 0\.\d\d s\n")
            self.assertFalse(lesson.user(1).pinged)

    def test_signals_end_the_question(self):
        ours = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number), Lesson() as lesson:
                lesson.connect()

                def interrupt(prompt, number=number):
                    signal.raise_signal(number)
                    wait_until(lambda: False)  # The handler ends it.

                lesson.input = interrupt
                lesson.turn()
                self.assertTrue(lesson.server.stopping)
                self.assertEqual(signal.getsignal(signal.SIGINT), ours[0])
                self.assertEqual(signal.getsignal(signal.SIGTERM), ours[1])

    def test_in_a_thread_that_gets_no_signals(self):
        lesson = Lesson()
        no_answer = mock.patch("builtins.input", lambda prompt: "")
        with no_answer, serving(lesson.server), Peer(
            lesson.server.port
        ) as peer:
            peer.send("hello")
            self.assertEqual(peer.receive(), "hello")
        self.assertTrue(lesson.shown)
        self.assertIs(lesson.server.observer, lesson.stepper)

    def test_the_lines_fit_whatever_the_names(self):
        for name in ("\u661f" * 30, "\x1b[2J\u202e\U0001f600", "W" * 99):
            with self.subTest(name), Lesson() as lesson:
                lesson.join().sendall(HELLO)
                user = lesson.user(1)
                user.name = name
                host = "2001:0db8:85a3:0000:0000:8a2e:0370:7334%eth0"
                user.address = (host, 65535, 0, 0)
                user.outbox.extend([b"x"] * 999)
                user.waiting = 9999999
                user.decoder.missing = 1048576
                ask = [user, lesson.server.listener]
                lesson.answers += "", "u", "b", "", "99", "1", ""
                with mock.patch("builtins.input", lesson.input):
                    lesson.stepper.woke(ask, ask[:1], ask, ask[:1])
                    lesson.stepper.woke(ask, ask[:1], ask[1:], [])
                    error = OSError(1, "zur\xfcckgesetzt " * 9)
                    lesson.stepper.failed[user] = error
                    lesson.answers += "", "b", ""
                    lesson.stepper.woke(ask, ask[:1], ask, ask[:1])
                lesson.stepper.ended()
                text = "\n".join(lesson.shown)
                self.assertEqual(text.count("  #1 write  room in"), 2)
                self.assertEqual(text.count("the connection failed: zur?"), 1)
                self.check_lines(text)

    def check_lines(self, text):
        for line in text.split("\n"):
            self.assertLessEqual(len(line), WIDTH, line)
            self.assertRegex(line, r"\A[ -~]*\Z")


class Recorder:
    """A socket that keeps all that it has received."""

    def __init__(self, sock):
        self.sock = sock
        self.received = b""

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def recv(self, size):
        data = self.sock.recv(size)
        self.received += data
        return data


def join(port):
    peer = Peer(port, open=False)
    peer.socket = Recorder(peer.socket)
    peer.open()
    return peer


def converse(port):
    """Send the same in the same order; return all bytes that came back."""
    with join(port) as first, join(port) as second:
        second.write(HELLO + HELLO[:3])
        first.next()
        second.write(HELLO[3:] + frame(codec.PING, b"?"))
        first.next()
        first.write(frame(codec.TEXT, b"type=add&ming=Bj\xc3\xb6rn"))
        first.next()
        second.write(b"\xff\xff")
        second.read_to_end()
        second.close()
        first.send("good bye")
        first.next()
        first.frame(codec.CLOSE)
        first.read_to_end()
        return first.socket.received, second.socket.received


class TheWire(unittest.TestCase):
    def test_it_is_the_same_as_without_a_class(self):
        received = []
        for stepped in (False, True):
            lesson = Lesson()
            if not stepped:
                lesson.server.observer = None
            no_answer = mock.patch("builtins.input", lambda prompt: "")
            with no_answer, serving(lesson.server) as running:
                for data in converse(running.port):
                    received.append(DATE.sub(b"", data))
            self.assertEqual(bool(lesson.shown), stepped)
        self.assertEqual(received[:2], received[2:])
        self.assertIn(b"madd", received[0])
        self.assertIn(b"\x8a\x01?", received[1])


# ---- at a terminal ----------------------------------------------------------


class Terminal(Child):
    """python server.py 0 --step at a pseudo-terminal; a context manager.

    Another switch may stand in the place of --step. Without colours, unless
    no_color is "".
    """

    def __init__(self, *arguments, switch="--step", no_color="1"):
        self.master, slave = os.openpty()
        # Its own session, and this terminal opened in it, so that Ctrl-C
        # goes to it; the shell is gone at once.
        terminal = os.ttyname(slave)
        script = 'exec "$@" <"$0" >"$0" 2>&1'
        program = [sys.executable, str(ROOT / "server.py"), "0", switch]
        self.process = subprocess.Popen(
            ["sh", "-c", script, terminal, *program, *arguments],
            stdin=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": no_color},
        )
        os.close(slave)
        self.text = ""
        self.seen = 0  # up to here it was expected
        collector = threading.Thread(target=self._collect, daemon=True)
        self.threads = [collector]
        collector.start()
        self.port = int(re.search(r":(\d+)/", self.expect(r"/.*\n"))[1])

    def _collect(self):
        with contextlib.suppress(OSError):  # EIO: the server has ended
            while True:
                data = os.read(self.master, 65536)
                if not data:
                    return
                self.text += data.decode("latin-1").replace("\r", "")

    def expect(self, pattern):
        """Wait for it; return all that came since the last time, with it."""
        found = []

        def look():
            found[:] = [re.compile(pattern).search(self.text, self.seen)]
            return found[0] or not self.threads[0].is_alive()

        wait_until(look, f"{pattern} in {self.text[self.seen :]}")
        if not look() or not found[0]:
            raise AssertionError(f"no {pattern}: {self.text}")
        begin, self.seen = self.seen, found[0].end()
        return self.text[begin : self.seen]

    def type(self, text):
        os.write(self.master, text.encode("utf-8", "surrogateescape"))

    def press(self, key):
        """Press a key; or send a signal."""
        if isinstance(key, str):
            self.type(key)
        else:
            self.process.send_signal(key)

    def answer(self, *answers):
        """Answer PREDICT, then MENU; return what came before and between."""
        shown = ""
        for prompt, answer in zip((PREDICT, *[MENU] * 9), answers):
            shown += self.expect(re.escape(prompt))
            self.type(f"{answer}\n")
        return shown

    def join(self, buffer=0):
        """Return a socket that has finished its handshake."""
        sock = connect(self.port, buffer=buffer)
        self.answer("", "")
        sock.sendall(request(self.port))
        self.answer("", "")
        assert read_head(sock).startswith(b"HTTP/1.1 101 ")
        return sock

    def end(self):
        """Wait for the end; return the exit status."""
        status = super().end()
        if "Traceback" in self.text:
            raise AssertionError(self.text)
        return status

    def __exit__(self, *_):
        super().__exit__()
        os.close(self.master)


TRANSCRIPT = """\
turn 1   asked  read L                   write -             slept 0.00 s
PREDICT which will select() give back? ids, or Enter: L
         got    read L                   write -
YES
  L read    a newcomer knocks
Enter go on | c continue | u users | b buffers | q quit > \

turn 2   asked  read L #1                write -             slept 0.00 s
PREDICT which will select() give back? ids, or Enter: l
         got    read #1                  write -
NO
  #1 read   154 bytes waiting
  L         nobody had knocked yet
Enter go on | c continue | u users | b buffers | q quit > u
  user   name                  address                    handshaken  closing
  #1                           127.0.0.1 port 50000       no          no
Enter go on | c continue | u users | b buffers | q quit > \

12:00:00  #1 joined from 127.0.0.1
turn 3   asked  read L #1                write -             slept 0.00 s
PREDICT which will select() give back? ids, or Enter: who?
WHO? was not asked for: type ids that were, only Enter, or c.
PREDICT which will select() give back? ids, or Enter: #1, L
         got    read #1                  write -
NO
  #1 read   23 bytes waiting
  L         nobody had knocked yet
Enter go on | c continue | u users | b buffers | q quit > b
  user   in the kernel,              unfinished           outbox
         to be read                  here      to come    blocks  bytes
  #1     23 bytes waiting            0         0          0       0
Enter go on | c continue | u users | b buffers | q quit > \

12:00:00  #1 is Ana
turn 4   asked  read L #1                write -             slept 0.00 s
PREDICT which will select() give back? ids, or Enter: \

         got    read #1                  write -
  #1 read   end of stream: it hangs up
Enter go on | c continue | u users | b buffers | q quit > q
12:00:00  #1 Ana left: 1006 hung up
The class predicted 1 of 3.
"""


@unittest.skipUnless(hasattr(os, "openpty"), "only Unix has pseudo-terminals")
class AtATerminal(unittest.TestCase):
    def test_a_lesson(self):
        with Terminal() as terminal:
            begin = terminal.seen
            with connect(terminal.port) as sock:
                terminal.answer("L", "")
                sock.sendall(request(50000))
                terminal.answer("l", "u", "")
                answer = read_head(sock)
                sock.sendall(frame(codec.TEXT, b"type=add&ming=Ana"))
                terminal.expect(re.escape(PREDICT))
                terminal.type("who?\n")
                terminal.answer("#1, L", "b", "")
                terminal.expect("is Ana\n")
                sock.recv(1000)
            terminal.answer("", "q")
            self.assertEqual(terminal.end(), 0)
        self.assertIn(b" 101 ", answer)
        text = TIME.sub("12:00:00", terminal.text[begin:])
        text = SLEPT.sub("slept 0.00 s", text)
        text = re.sub(r"port \d{4,5} *", f"{'port 50000':<17}", text)
        self.assertEqual(text, TRANSCRIPT)

    def test_continue_and_end_it_later(self):
        with Terminal() as terminal, connect(terminal.port) as sock:
            terminal.answer("L", "c")
            sock.sendall(request(terminal.port))
            shown = terminal.expect("joined from .*\n")
            self.assertNotIn("turn", shown)
            read_head(sock)
            terminal.type("\x03")
            terminal.expect(r"\^C")
            sock.sendall(HELLO)  # wakes it from its select()
            self.assertIn(b"the room closes", read_to_end(sock))
            sock.close()
            self.assertEqual(terminal.end(), 0)
            last = "The class predicted 1 of 1.\n"
            self.assertTrue(terminal.text.endswith(last), terminal.text)

    def test_ways_out_of_a_question(self):
        ways = ("\x03", "\x04", signal.SIGTERM)
        cases = list(itertools.product(ways, (PREDICT, MENU)))
        side_by_side(self, self.leave, cases)

    def leave(self, way, prompt):
        with Terminal() as terminal, connect(terminal.port):
            if prompt == MENU:
                terminal.answer("")
            terminal.expect(re.escape(prompt))
            for _ in range(4):
                terminal.press(way)
                # input() shows the prompt a moment before it listens. What
                # comes in between is lost, and somebody would press again.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    terminal.process.wait(2)
                    break
            self.assertEqual(terminal.end(), 0)
            self.assertEqual(terminal.text.count(PREDICT), 1)
            self.assertTrue(terminal.text.endswith("\n"))
            self.assertNotIn("The class predicted", terminal.text)

    def test_what_is_no_text(self):
        with Terminal() as terminal, connect(terminal.port):
            terminal.answer("\udcff\udce9")
            terminal.expect(r"\?+ was not asked for: .*\n")
            terminal.answer("L", "q")
            self.assertEqual(terminal.end(), 0)

    def test_with_the_trace(self):
        with Terminal("--trace") as terminal:
            sock = terminal.join()
            terminal.expect("joined from .*\n")
            name = "\u661f\u202e\x1b[2J\xe9".encode()
            sock.sendall(frame(codec.TEXT, b"type=add&ming=" + name))
            shown = terminal.answer("1", "")
            self.assertTrue(shown.startswith("turn 3   asked  "), shown)
            shown = terminal.expect(" is .*\n")
            self.assertTrue(shown.startswith("\nFRAME #1 --> server  TEXT"))
            sock.sendall(HELLO)
            self.assertIn("  #1     ?[2J? ", terminal.answer("1", "u", "q"))
            sock.close()
            self.assertEqual(terminal.end(), 0)
        for line in terminal.text.split("\n"):
            self.assertLessEqual(len(line), WIDTH, line)
            self.assertRegex(line, r"\A[ -~]*\Z")

    def test_an_outbox_that_waits(self):
        with Terminal("--small-buffers") as terminal:
            sleeper, talker = terminal.join(buffer=4096), terminal.join()
            shown = ""
            while "  write #1 " not in shown:
                talker.sendall(frame(codec.BINARY, b"x" * 2000))
                shown = terminal.answer("2", "")
                talker.recv(2004, MSG_WAITALL)  # so this turn is over

            def read_until_the_next_question():
                with contextlib.suppress(BlockingIOError):
                    sleeper.recv(2**16)
                return PREDICT in terminal.text[terminal.seen :]

            sleeper.setblocking(False)
            wait_until(read_until_the_next_question)
            shown = terminal.answer("1", "b", "q")
            sleeper.close()
            talker.close()
            self.assertEqual(terminal.end(), 0)
        self.assertRegex(
            shown,
            r"\n         got    read -                   write #1\n"
            r"YES\n"
            r"  #1 write  room in the kernel's buffer; \d+ bytes waiting in",
        )

    def test_what_is_not_a_terminal(self):
        for stdin in (subprocess.DEVNULL, subprocess.PIPE):
            with self.subTest(stdin=stdin):
                ran = subprocess.run(
                    [sys.executable, "server.py", "0", "--step"],
                    cwd=ROOT,
                    stdin=stdin,
                    capture_output=True,
                    timeout=DEADLINE,
                )
                self.assertEqual((ran.returncode, ran.stdout), (2, b""))
                lines = ran.stderr.decode().splitlines()
                self.assertLessEqual(len(lines), 2)
                self.assertIn("this is not a terminal", lines[0])

    def test_no_output_to_ask_on(self):
        terminal = SimpleNamespace(isatty=lambda: True)
        with mock.patch.multiple(sys, stdin=terminal, stdout=None):
            exits = self.assertRaises(SystemExit)
            with redirect_stderr(io.StringIO()) as errors, exits as caught:
                server.parse_arguments(["0", "--step"])
        self.assertEqual(caught.exception.code, 2)
        self.assertIn("not a terminal", errors.getvalue())
