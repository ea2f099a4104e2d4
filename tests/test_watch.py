"""--watch: the page's server, its link to the room, questions and votes.

First the server of the page in a thread of the test, which plays the room.
Then whole rooms: two processes each, with users and tabs as raw sockets.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import lessons
import lessons.link
import lessons.watch
import server
from codec import CLOSE, PING, PONG, TEXT, encode_frame
from handshake import request_head
from lessons.asked import MISSING
from lessons.bits import explained
from lessons.link import Link, LinkError
from lessons.observer import Several
from lessons.record import Record
from lessons.slow import shrink_buffers
from lessons.step import Stepper
from lessons.watch import LESSON, History, Pusher, Watch, read_record
from tests import support
from tests.hostile import clock
from tests.support import (
    DEADLINE,
    LINUX,
    MASKING_KEY,
    ROOT,
    WINDOWS,
    Peer,
    Process,
    call_main,
    in_loop,
    serving,
    side_by_side,
    wait_until,
)

HEADER = {"watch": 1, "room": "http://127.0.0.1:9/"}
HELLO = encode_frame(TEXT, b"Hello", MASKING_KEY)
FRAME = {"phase": 4, "what": "frame", "way": "in", "who": ["#1"], "size": 11,
         "bytes": HELLO.hex(), "hidden": False}  # fmt: skip
FAT = [{"phase": 4, "what": "recv", "text": "x" * 20_000}]
SECRET = "Tell-nobody-7391"
KEY = "the-key-of-the-teacher"
LIVE = "The page to watch the loop has ended; the room goes on."
HUNG = "The page to watch the loop hangs; the room goes on."


def setUpModule():
    global patches
    patches = contextlib.ExitStack()
    news = mock.patch.object(lessons.watch, "NEWS_SECONDS", 0.01)
    patches.enter_context(news)
    # A bug would be a traceback, and the test would not see it.
    patches.enter_context(mock.patch.object(server, "print_traceback", note))


def tearDownModule():
    patches.close()


bugs = []


def note(error):
    bugs.append(repr(error))


def turn(number, came=("#1",), events=()):
    """Return a line of the room."""
    return {
        "turn": number, "at": 1.0, "slept": 0.5, "took": 0.001,
        "asked": {"read": ["L", "#1", "#2"], "write": ["#2"]},
        "ready": {"read": dict.fromkeys(came, "why"), "write": {}},
        "users": [], "more": 0, "events": list(events),
    }  # fmt: skip


def question(number):
    line = turn(number)
    return {"question": number, "asked": line["asked"], "users": []}


class Kept:
    """A socket of which every byte that came is kept."""

    def __init__(self, sock):
        self.sock = sock
        self.bytes = b""

    def recv(self, size):
        data = self.sock.recv(size)
        self.bytes += data
        return data

    def __getattr__(self, name):
        return getattr(self.sock, name)


class Tab(Peer):
    """A page that is open: JSON comes and goes, pings are answered."""

    def __init__(self, port, target="/"):
        super().__init__(port, open=False)
        self.socket = Kept(self.socket)
        self.pending = []
        self.question = None  # that it has got last
        self.news = {}  # the last status
        try:
            self.open(target)
        except BaseException:
            self.close()
            raise

    def do(self, what, **more):
        self.send(json.dumps({"do": what, **more}))

    def read(self):
        """Return the next message; a Close, or the end: AssertionError."""
        while True:
            event = self.next()
            if event and event[0] == PING:
                self.frame(PONG, event[1])
                continue
            if not event or event[0] != TEXT:
                raise AssertionError(f"not a message: {event}")
            message = json.loads(event[1])
            if "question" in message:
                self.question = message
            self.news = message.get("status", self.news)
            return message

    def wait_for_ping(self):
        """Say nothing until the page asks whether somebody is there."""
        while True:
            event = self.next()
            if event[0] == PING:
                self.frame(PONG, event[1])
                return
            self.pending.append(json.loads(event[1]))

    def get(self, kind, where=bool):
        """Return the next message of a kind; others wait for their turn."""
        for message in self.pending:
            if kind in message and where(message):
                self.pending.remove(message)
                return message
        while True:
            message = self.read()
            if kind in message and where(message):
                return message
            self.pending.append(message)

    def status(self, **fields):
        """Read until the last status says so."""
        while {**self.news, **fields} != self.news:
            self.pending.append(self.read())

    def be_teacher(self, key=KEY):
        self.do("key", key=key)
        assert self.get("role") == {"role": "teacher"}

    def all(self):
        """Return all messages that came till now."""
        self.do("key", key="wrong")
        self.get("error")
        pending, self.pending = self.pending, []
        return pending

    def has(self, *words):
        """Tell whether one of these was in any byte that came."""
        return [word for word in words if word.encode() in self.socket.bytes]


class PageCase(unittest.TestCase):
    """Tests with a server of the page; the test itself is the room."""

    def setUp(self):
        bugs.clear()
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.orders = []

    def tearDown(self):
        self.assertEqual(bugs, [])

    def start(self, most=1000, size=10**6, header=HEADER, key=KEY, **options):
        """Serve the page; the room has said its first line."""
        self.room, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        self.addCleanup(self.room.close)
        self.lives = []

        def order(word):
            (self.lives if word == "alive" else self.orders).append(word)

        options = {"order": order, **options}
        live = History(most, size)
        watch = Watch("127.0.0.1", 0, live, key=key, **options)
        watch.guests.append(Pusher(watch, theirs))
        self.watch = self.stack.enter_context(serving(watch))
        if header:
            self.say(header)
            wait_until(lambda: live.header)

    def say(self, *lines):
        """Say lines, as the room does."""
        for line in lines:
            self.room.sendall(json.dumps(line).encode() + b"\n")

    def enter(self, patch):
        return self.stack.enter_context(patch)

    def tab(self, target="/"):
        tab = Tab(self.watch.port, target)
        self.addCleanup(tab.close)
        return tab

    def tab_that_waits(self):
        """Return a tab of whose bytes the kernel keeps only a few."""
        shrink_buffers(self.watch.listener)
        return self.tab()

    def teacher(self):
        tab = self.tab()
        tab.be_teacher()
        return tab

    def ask(self, teacher, number, *tabs):
        """Ask about a turn, and let these tabs have the question."""
        teacher.do("ask")
        teacher.status(state="armed")
        self.say(question(number))
        for tab in (teacher, *tabs):
            tab.get("question", lambda m: m["question"] == number)
            tab.status(state="asking")


def begun(port=9000, watch="next", **more):
    """Return (a server for which a lesson begins, the page's settings)."""
    options = server.parse_arguments([])
    vars(options).update(watch=watch, **more)
    kind = type("Room", (SimpleNamespace,), {"turn": server.Server.turn})
    room = kind(
        host="127.0.0.1", port=port, origins={"null"}, max_backlog=10_000,
        ping_interval=1, diary=None, waker=None,
    )  # fmt: skip
    with mock.patch.object(lessons, "Link") as link:
        link.return_value.lines = []
        assert lessons.begin(room, options, lambda text: None) == ""
    return room, link.call_args[0][0]


class Tabs(PageCase):
    def test_history_then_what_comes(self):
        self.start()
        first = self.tab()
        hello = first.read()
        self.assertEqual(
            {**hello, "phases": [], "reasons": {}},
            {
                "hello": 1, "source": "live", "room": HEADER["room"],
                "kept": {"turns": 1000, "bytes": 10**6},
                "phases": [], "reasons": {},
            },
        )  # fmt: skip
        self.assertEqual(hello["reasons"], MISSING)
        self.say(*(turn(number) for number in (1, 2, 5)))
        late = None
        for tab in (first, late):
            if not tab:
                tab = late = self.tab()
                self.assertEqual(tab.read(), hello)
            got = [tab.get("turn")["turn"] for _ in range(3)]
            self.assertEqual(got, [1, 2, 5])
        self.say(turn(6, events=[FRAME]))
        for tab in (first, late):
            event = tab.get("turn")["events"][0]
            self.assertEqual(event["text"], '"Hello"')
            self.assertEqual(event["fields"][-1]["name"], "masking key")

    def test_the_phases(self):
        """The page tells where each stands in server.py."""
        self.start()
        phases = self.tab().read()["phases"]
        names = [(phase["number"], phase["name"]) for phase in phases]
        expected = ("ask", "wait", "accept", "read", "write", "late")
        self.assertEqual(names, [*enumerate(expected, 1)])
        source = Path(server.__file__).read_text().splitlines()
        for phase in phases:
            self.assertTrue(phase["calls"])
            for call in phase["calls"]:
                at = call["line"] - 1
                self.assertEqual(source[at].strip(), call["code"])
                found = re.findall(r"\n +# (\d)\. ", "\n".join(source[:at]))
                self.assertEqual(int(found[-1]), phase["number"])

    def test_hello_comes_first(self):
        """Also if the room has not said its first line yet."""
        self.start(header=None)
        tab = self.tab()
        wait_until(lambda: self.watch.news)
        late = self.tab()
        self.say(HEADER)
        for each in (tab, late):
            self.assertIn("hello", each.read())

    def test_a_line_in_pieces(self):
        self.start()
        text = json.dumps(turn(1)) + "\n" + json.dumps(turn(2)) + "\n"
        for at in range(0, len(text), 100):
            self.room.sendall(text[at : at + 100].encode())
            in_loop(self.watch)
        tab = self.tab()
        self.assertEqual([tab.get("turn")["turn"] for _ in "12"], [1, 2])

    def test_so_many_turns_are_kept(self):
        size = len(json.dumps(turn(100)))
        for most, limit, kept in (
            (5, 10**6, 5),
            (1000, 7 * size, 7),
            (1000, 8 * size - 1, 7),
            (1000, 10, 0),
        ):
            with self.subTest((most, limit)):
                self.start(most, limit)
                first = self.tab()
                for number in range(100, 120):
                    self.say(turn(number))
                    if kept:
                        got = first.get("turn")["turn"]
                        self.assertEqual(got, number)
                gone = 20 - kept
                wait_until(lambda n=gone: self.watch.live.first == n)
                late = self.tab()
                got = [m["turn"] for m in late.all() if "turn" in m]
                self.assertEqual(got, [*range(120 - kept, 120)])

    def test_a_slow_tab_gets_a_gap(self):
        """And the others get all of it, as fast as before."""
        # Not by the --max-backlog of the room: it would be dropped.
        self.assertNotIn("max_backlog", begun()[1])
        for ahead in (10_000, 100_000):
            self.enter(mock.patch.object(lessons.watch, "MAX_AHEAD", ahead))
            with self.subTest(ahead):
                self.start(most=5)
                self.check_slow(self.tab_that_waits(), self.tab())

    def check_slow(self, slow, quick):
        slow.get("hello")
        for number in range(1, 101):
            self.say(turn(number, events=FAT))
            self.assertEqual(quick.get("turn")["turn"], number)
        first = in_loop(self.watch, list, self.watch.users.values())[0]
        self.assertLess(first.waiting, 200_000)
        got = []
        while 100 not in got:
            got.append(slow.get("turn")["turn"])
        self.assertEqual(got, sorted(set(got)))
        self.assertLess(len(got), 60)
        self.assertEqual((got[0], got[-5:]), (1, [96, 97, 98, 99, 100]))

    def test_the_lesson(self):
        self.start()
        self.say(turn(77))
        live, tab = self.tab(), self.tab("/lesson")
        live.get("turn")
        hello = tab.read()
        self.assertEqual(hello["source"], "recording")
        lines = Path(LESSON).read_text().splitlines()
        numbers = [
            json.loads(line)["turn"] for line in lines if '"turn"' in line
        ]
        got = [m["turn"] for m in tab.all() if "turn" in m]
        self.assertEqual(got, numbers)
        teacher = self.teacher()
        self.ask(teacher, 78, live)
        said = tab.all()
        self.assertEqual([m for m in said if "question" in m], [])
        # It is told, so that the page can go back to the room.
        states = [m["status"]["state"] for m in said if "status" in m]
        self.assertEqual(states[-1], "asking")

    def test_the_origins_are_those_of_the_room(self):
        room, settings = begun(9000)
        self.assertEqual(settings["origins"], [])
        self.start(origins=["http://that.site"])
        for origin, status in (
            ("http://that.site", 101),
            (f"http://127.0.0.1:{self.watch.port}", 101),
            ("http://other.site", 403),
            ("null", 403),
        ):
            with self.subTest(origin):
                with Peer(self.watch.port, open=False) as peer:
                    head = request_head(
                        f"127.0.0.1:{self.watch.port}", "/", support.KEY,
                        {"Origin": origin},
                    )  # fmt: skip
                    peer.write(head)
                    answer = peer.socket.recv(4096)
                start = f"HTTP/1.1 {status} ".encode()
                self.assertTrue(answer.startswith(start), answer)

    def test_very_many_tabs_of_one_address(self):
        """From elsewhere; this machine itself may have more."""
        self.enter(mock.patch.object(lessons.watch, "MAX_TABS", 2))
        self.start()
        self.say(turn(1))
        tabs = [self.tab(), self.tab(), self.tab()]
        for tab in tabs:
            tab.get("turn")
        elsewhere = mock.patch.object(
            lessons.watch, "is_loopback", lambda host: False
        )
        with elsewhere, self.assertRaisesRegex(Exception, "503"):
            self.tab()

    def test_in_a_recording_nobody_is_asked(self):
        self.start(order=None)
        tab = self.tab()
        self.assertEqual(tab.get("hello")["source"], "recording")
        for what in ("key", "ask", "again", "reveal", "go", "vote"):
            with self.subTest(what):
                tab.do(what, key=KEY, question=1, picks=["L"])
                self.assertIn("error", tab.read())

    def test_the_end(self):
        for how in ("said", "killed", "killed in a line", "while asking"):
            with self.subTest(how):
                self.start()
                tab, teacher = self.tab(), self.teacher()
                self.say(turn(1))
                if how == "while asking":
                    self.ask(teacher, 2, tab)
                if how == "said":
                    self.say({"ended": "the room has closed"})
                if how == "killed in a line":
                    self.room.sendall(b'{"turn": 2, "at"')
                self.room.close()
                self.assertTrue(tab.get("ended"))
                self.assertEqual(tab.receive_close().code, 1001)
                self.assertEqual(tab.get("turn")["turn"], 1)
                tab.close()
                teacher.close()
                wait_until(lambda: not self.watch.running)


class TheKey(PageCase):
    def test_only_the_right_one(self):
        self.start()
        for key in (
            "wrong", "", KEY[:-1], KEY + "x", KEY.upper(), None, 5, [], {},
            [KEY], "\u00e9", "\ud800",
        ):  # fmt: skip
            with self.subTest(key):
                tab = self.tab()
                tab.do("key", key=key)
                self.assertEqual(
                    tab.get("error")["error"], "That is not the key."
                )
                tab.do("ask")
                self.assertIn("teacher", tab.get("error")["error"])
        tab = self.tab()
        tab.do("key")
        self.assertIn("error", tab.get("error"))
        self.assertEqual(self.orders, [])
        tab.be_teacher()
        tab.do("ask")
        tab.status(state="armed", teachers=1)
        self.assertEqual(self.orders, ["ask"])

    def test_without_it_nobody_may(self):
        self.start()
        teacher, tab = self.teacher(), self.tab()
        for state in ("running", "armed", "asking"):
            if state == "armed":
                teacher.do("ask")
            if state == "asking":
                self.say(question(1))
            tab.status(state=state)
            before = list(self.orders)
            for what in ("ask", "again", "reveal", "go"):
                with self.subTest((state, what)):
                    tab.do(what)
                    words = "Only the teacher may do that."
                    self.assertEqual(tab.get("error"), {"error": words})
            self.assertEqual(self.orders, before)
        self.assertEqual(self.watch.round, 1)

    def test_it_is_in_nothing_that_others_get(self):
        self.start()
        teacher, tab = self.teacher(), self.tab()
        self.say(turn(1, events=[FRAME]))
        self.ask(teacher, 2, tab)
        tab.do("vote", question=2, picks=["#1"])
        teacher.do("reveal")
        self.say(turn(2))
        tab.get("turn", lambda message: message["turn"] == 2)
        self.assertEqual(tab.has(KEY, "votes", "role"), [])
        with contextlib.closing(Peer(self.watch.port, open=False)) as page:
            page.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = page.read_to_end()
        self.assertIn(b" 200 OK", answer)
        self.assertNotIn(KEY.encode(), answer)


class Questions(PageCase):
    def setUp(self):
        super().setUp()
        self.start()

    def vote(self, tab, number, *picks):
        tab.do("vote", question=number, picks=[*picks])

    def test_a_whole_question(self):
        teacher = self.teacher()
        tabs = [self.tab() for _ in range(5)]
        teacher.status(tabs=6, teachers=1, state="running", voters=0)
        self.ask(teacher, 7, *tabs)
        wait_until(lambda: self.lives, "a sign of life")
        self.assertEqual(self.orders, ["ask"])
        for tab, picks in zip(tabs, ("#1", "#1", "#2", ["#1", "L"], "#1")):
            self.vote(tab, 7, *([picks] if isinstance(picks, str) else picks))
        teacher.status(voters=5)
        self.vote(tabs[1], 7, "L", "L")  # it may change, and counts once
        counts = {"#1": 3, "#2": 1, "L": 2}
        votes = {"round": 1, "voters": 5, "counts": counts, "before": []}
        teacher.get("votes", lambda message: message["votes"] == votes)
        teacher.do("vote", question=7, picks=["L"])  # it does not count

        teacher.do("again")
        for tab in tabs:
            self.assertEqual(tab.get("question"), {**question(7), "round": 2})
            tab.status(voters=0)
        for tab in tabs[:3]:
            self.vote(tab, 7, "#1")
        teacher.status(voters=3)
        self.assertEqual(self.orders, ["ask"])
        teacher.do("reveal")
        wait_until(lambda: self.orders == ["ask", "go"])
        self.say(turn(7))
        for tab in tabs:
            self.assertEqual(tab.get("turn")["vote"], {
                "rounds": [
                    {"voters": 5, "counts": counts, "right": 2},
                    {"voters": 3, "counts": {"#1": 3}, "right": 3},
                ],
                "score": [3, 3],
            })  # fmt: skip
            tab.status(state="running", voters=0)
            self.assertEqual(tab.has("votes"), [])

        self.say(turn(8))
        self.assertNotIn("vote", tabs[0].get("turn"))
        self.ask(teacher, 9, *tabs)
        self.vote(tabs[0], 9, "#2")
        self.vote(tabs[1], 9, "L", "#2")
        teacher.status(voters=2)
        teacher.do("reveal")
        self.say(turn(9, came=["#2", "L"]))
        last = tabs[4].get("turn", lambda message: message["turn"] == 9)
        self.assertEqual(last["vote"]["score"], [4, 5])
        late = self.tab()
        late.get("turn", lambda message: message.get("vote"))
        self.assertEqual(late.get("turn")["turn"], 8)

    def test_votes_that_do_not_count(self):
        teacher, tab = self.teacher(), self.tab()
        self.vote(tab, 7, "#1")
        self.assertEqual(tab.get("error")["error"], "There is no question now.")
        self.ask(teacher, 7, tab)
        for number, picks in (
            (7, []), (7, None), (7, "#1"), (7, {"#1": 1}), (7, ["#3"]),
            (7, ["#1", "#3"]), (7, ["l"]), (7, [""]), (7, [1]), (7, [None]),
            (6, ["#1"]), (8, ["#1"]), ("7", ["#1"]), (None, ["#1"]),
            (7, ["\ud800"]), (7, ["x" * 3000]),
            (7, [["#1"]]), (7, [{}]),
        ):  # fmt: skip
            with self.subTest((number, str(picks)[:20])):
                tab = self.tab()
                tab.do("vote", question=number, picks=picks)
                self.assertLess(len(tab.get("error")["error"]), 60)
        self.vote(self.tab(), 7, "#1", "#2", "L")
        teacher.status(voters=1)

    def test_what_is_no_message_of_the_page(self):
        teacher, good = self.teacher(), self.tab()
        self.ask(teacher, 7, good)
        for code, message in (
            *((1008, text) for text in (
                "", "{", "null", "5", '"do"', "[]", "{}", '{"do": "x"}',
                '{"do": null}', '{"do": []}', '{"do": {}}', '{"do": "VOTE"}',
                '{"do": "__init__"}', "[" * 4000, '{"do":' * 600, "NaN",
                '{"do": "vote", "question": 7, "picks": ' + "[" * 3000,
                b"\xff\x00", b"\x00" * 50,
            )),
            (1009, "x" * 4097),
            (1009, b"x" * 100_000),
        ):  # fmt: skip
            with self.subTest(message[:20]):
                tab = self.tab()
                tab.send(message)
                with self.assertRaisesRegex(AssertionError, f"code={code}"):
                    tab.get("error")
        tab = self.tab()
        tab.frame(2, json.dumps({"do": "vote", "question": 7,
                                 "picks": ["L"]}).encode())  # fmt: skip
        self.vote(good, 7, "#1")
        teacher.status(voters=2)

    def test_a_flood(self):
        """10,000 votes at once: one counts, and others do not wait."""
        teacher, loud, quiet = self.teacher(), self.tab(), self.tab()
        self.ask(teacher, 7, loud, quiet)
        vote = {"do": "vote", "question": 7, "picks": ["#2"]}
        wrong = {**vote, "picks": ["#3"]}
        for each in (vote, wrong):
            one = encode_frame(TEXT, json.dumps(each).encode(), MASKING_KEY)
            loud.write(one * 10_000)
        before = time.monotonic()
        self.vote(quiet, 7, "#1")
        counts = {}
        while counts.get("#1") != 1:
            counts = teacher.get("votes")["votes"]["counts"]
        self.assertLess(time.monotonic() - before, 3)
        while counts != {"#1": 1, "#2": 1}:
            counts = teacher.get("votes")["votes"]["counts"]
        for _ in range(10_000):
            loud.get("error")

    def test_who_leaves_takes_the_vote_along(self):
        teacher, tab = self.teacher(), self.tab()
        self.ask(teacher, 7, tab)
        self.vote(tab, 7, "#1")
        teacher.status(voters=1)
        tab.close()
        teacher.status(voters=0, tabs=1)
        back = self.tab()
        self.assertEqual(back.get("question")["round"], 1)
        self.vote(back, 7, "#2")
        teacher.status(voters=1)
        teacher.do("again")
        self.assertEqual(back.get("question")["round"], 2)
        self.assertEqual(self.tab().get("question")["round"], 2)

    def test_the_question_comes_behind_the_history(self):
        self.enter(mock.patch.object(lessons.watch, "MAX_AHEAD", 10_000))
        self.say(*(turn(number, events=FAT) for number in range(1, 6)))
        self.ask(self.teacher(), 6)
        late = self.tab_that_waits()
        late.get("question")
        got = [message["turn"] for message in late.pending if "turn" in message]
        self.assertEqual(got, [1, 2, 3, 4, 5])

    def refused(self, tab, why):
        self.assertEqual(tab.get("error")["error"], why)

    def test_after_the_reveal(self):
        """Who hears in the room what came must not vote any more."""
        teacher, tab = self.teacher(), self.tab()
        self.ask(teacher, 7, tab)
        teacher.do("again")
        self.refused(teacher, "Nobody has voted in this round.")
        self.vote(tab, 7, "#2")
        teacher.get("votes", lambda m: m["votes"]["voters"] == 1)
        teacher.do("reveal")
        wait_until(lambda: self.orders == ["ask", "go"])
        self.vote(tab, 7, "#1")
        self.refused(tab, "The answer is on its way.")
        teacher.do("again")
        self.refused(teacher, "The answer is on its way.")
        teacher.do("ask")
        self.refused(teacher, "The class is being asked already.")
        self.assertEqual(self.orders, ["ask", "go"])
        self.say(turn(7, ("#1",)))
        vote = tab.get("turn")["vote"]
        self.assertEqual(vote["rounds"][-1]["counts"], {"#2": 1})
        self.assertEqual(len(vote["rounds"]), 1)

    def test_orders_out_of_order(self):
        teacher = self.teacher()
        for what in ("reveal", "go", "again"):
            teacher.do(what)
            self.assertIn("error", teacher.get("error"))
        self.assertEqual(self.orders, [])
        teacher.do("ask")
        teacher.do("ask")
        words = "The class is being asked already."
        self.assertEqual(teacher.get("error"), {"error": words})
        teacher.do("again")
        self.assertEqual(
            teacher.get("error"), {"error": "There is no question now."}
        )
        teacher.do("go")
        wait_until(lambda: self.orders == ["ask", "go"])
        # The question was on its way already.
        self.say(question(3), turn(3))
        self.assertIn("vote", teacher.get("turn"))
        teacher.do("ask")
        wait_until(lambda: self.orders == ["ask", "go", "ask"])


class TheTeacherLeaves(PageCase):
    """The room goes on after a minute, and not before."""

    def setUp(self):
        super().setUp()
        self.clock = self.stack.enter_context(clock())
        self.start(ping_interval=10_000.0)

    def wait(self, seconds):
        self.clock.ahead += seconds
        for _ in "12":  # Whatever is due then has been done.
            in_loop(self.watch)

    def begin(self, state):
        teacher, tab = self.teacher(), self.tab()
        teacher.do("ask")
        tab.status(state="armed")
        if state == "asking":
            self.say(question(1))
            tab.get("question")
        self.wait(1000)
        self.assertEqual(self.orders, ["ask"])  # with a teacher, it waits
        others = tab.news["teachers"] - 1
        teacher.close()
        tab.status(teachers=others)
        self.wait(59)
        self.assertEqual(self.orders, ["ask"])
        return tab

    def test_the_room_goes_on(self):
        for state in ("armed", "asking"):
            with self.subTest(state):
                tab = self.begin(state)
                self.wait(2)
                self.assertEqual(self.orders, ["ask", "go"])
                if state == "asking":
                    self.say(turn(1))
                    self.assertIn("vote", tab.get("turn"))
                tab.status(state="running")
                self.wait(1000)
                self.assertEqual(self.orders, ["ask", "go"])
                tab.close()
                self.orders.clear()
                self.start(ping_interval=10_000.0)

    def test_a_teacher_comes_back(self):
        tab = self.begin("asking")
        back = self.teacher()
        tab.status(teachers=1)
        self.wait(4000)
        self.assertEqual(self.orders, ["ask"])
        back.do("reveal")
        tab.status(state="asking")
        wait_until(lambda: self.orders == ["ask", "go"])

    def test_one_of_two_leaves(self):
        self.teacher()
        self.begin("asking")
        self.wait(4000)
        self.assertEqual(self.orders, ["ask"])


# ---- the room's end of the link ---------------------------------------------


class TheLink(unittest.TestCase):
    def setUp(self):
        self.theirs, ours = socket.socketpair()
        for sock in (self.theirs, ours):
            self.addCleanup(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.theirs.sendall(b'{"lines": ["hello"]}\n')
        self.said = []
        self.process = mock.Mock()
        started = self.process, ours
        with mock.patch.object(lessons.link, "start", lambda: started):
            self.link = Link({"port": 1}, self.said.append)
        self.theirs.settimeout(DEADLINE)
        self.assertEqual(self.theirs.recv(99), b'{"port": 1}\n')

    def test_what_the_kernel_does_not_take_is_left_out(self):
        def line(number):
            size = 300 if number % 1000 else 50_000
            return b"%d %s\n" % (number, b"x" * size)

        before = time.monotonic()
        for number in range(1, 2001):
            self.link.put(line(number), must=number % 1000 == 0)
        self.assertLess(time.monotonic() - before, 3)
        self.assertLess(len(self.link.rest), 110_000)
        # It reads again: from here on all is there, after the gap.
        data = b""
        while self.link.rest:
            data += self.theirs.recv(2**20)
            self.link.hear()
        for number in (2001, 2002):
            self.link.put(line(number))
        while b"\n2002 " not in data or data[-1:] != b"\n":
            data += self.theirs.recv(2**20)
        lines = data.splitlines(True)
        got = [int(each.split()[0]) for each in lines]
        self.assertEqual(lines, [line(number) for number in got])
        self.assertEqual(got, sorted(got))
        self.assertLess(len(got), 1000)
        self.assertEqual(got[-4:], [1000, 2000, 2001, 2002])

    def test_orders(self):
        for data, asks in (
            (b"", False), (b"as", False), (b"k", False), (b"\n", True),
            (b"go\n", False), (b"ask\ngo\nas", False), (b"k\nwhat\n", True),
            # Behind "go", it is for a later turn: this one must go on.
            (b"go\nask\n", False), (b"", True),
        ):  # fmt: skip
            with self.subTest(data):
                self.theirs.sendall(data)
                self.link.wait() if data else self.link.hear()
                self.assertEqual(self.link.asks, asks)
        self.assertEqual(self.said, [])

    def test_it_hangs(self):
        self.theirs.sendall(b"ask\n")
        self.link.wait()
        self.link.silence = 1000.0  # before the question
        self.link.ask(b"a question\n")
        self.assertEqual(self.theirs.recv(100), b"a question\n")
        self.link.wait()
        self.assertTrue(self.link.asks)
        self.theirs.sendall(b"alive\n")
        self.link.silence = 1000.0
        self.link.wait()
        self.assertTrue(self.link.asks)
        self.link.silence = 1000.0
        self.link.wait()
        self.assertFalse(self.link.asks)
        self.assertEqual(self.said, [HUNG])
        self.assertTrue(self.link.is_open)

    def test_it_is_lost(self):
        for how in ("put", "hear", "wait", "rest"):
            with self.subTest(how):
                while how == "rest" and not self.link.rest:
                    self.link.put(b"x" * 300)
                self.theirs.sendall(b"ask\n")
                self.link.wait()
                self.assertTrue(self.link.asks)
                self.theirs.close()
                for _ in "123":
                    if how == "put":
                        self.link.put(b"line\n")
                    (self.link.wait if how == "wait" else self.link.hear)()
                self.assertFalse(self.link.asks)
                self.link.put(b"line\n", must=True)
                self.assertEqual(self.said, [LIVE])
                self.setUp()

    def test_a_reset_is_an_end(self):
        self.link.socket = mock.Mock()
        self.link.socket.recv.side_effect = ConnectionResetError
        self.link.hear()
        self.assertEqual(self.said, [LIVE])

    def test_a_process_that_does_not_end(self):
        late = subprocess.TimeoutExpired("page", 1)
        self.process.wait.side_effect = [late, 0]
        self.link.close()
        self.process.kill.assert_called_once_with()

    def test_only_who_knows_the_token_is_let_in(self):
        process = mock.Mock()
        process.poll.return_value = None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            socks = []
            for words in (b"", b"wrong\n", b"tok", b"token2\n", b"token\n"):
                socks.append(socket.create_connection(listener.getsockname()))
                socks[-1].sendall(words)
            found = lessons.link.accept(listener, process, "token")
            self.assertEqual(found.getpeername(), socks[-1].getsockname())
            for sock in (*socks, found):
                sock.close()
            process.poll.return_value = 1
            before = time.monotonic()
            with self.assertRaises(LinkError):
                lessons.link.accept(listener, process, "token")
            self.assertLess(time.monotonic() - before, 3)


# ---- whole rooms ------------------------------------------------------------


class Room(Process):
    """A room with a page: its port, the page's port and the teacher's key."""

    def __init__(self, *arguments, **options):
        super().__init__("0", "--watch=0", *arguments, **options)
        first = self.wait_for(r"^Open http://\S+:\d+/")
        self.port = int(re.search(r":(\d+)/", first)[1])
        asks = self.wait_for(r"^The teacher asks at http")
        found = re.search(r":(\d+)/#key=(\S+)$", asks)
        self.page, self.key = int(found[1]), found[2]
        self.peers = []

    def add(self, peer):
        self.peers.append(peer)
        return peer

    def tab(self):
        return self.add(Tab(self.page))

    def teacher(self):
        tab = self.tab()
        tab.be_teacher(self.key)
        return tab

    def users(self, count=2):
        """Let users join who have names; each has heard all."""
        users = [self.add(Peer(self.port)) for _ in range(count)]
        for user in users:
            user.send("type=add&ming=Ana")
        for at, user in enumerate(users):
            for _ in users[at:]:
                user.receive()
        return users

    def hold(self, *tabs):
        """Ask, and let a user say something: the room stands still."""
        teacher, users = self.teacher(), self.users()
        teacher.do("ask")
        teacher.status(state="armed")
        users[0].send(f"nr={SECRET}&key=all")
        for tab in (teacher, *tabs):
            tab.get("question")
        return teacher, users

    def page_process(self):
        """Return the id of the page's process."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == self.process.pid:
                    return int(stat.parent.name)
        raise AssertionError("there is no such process")

    def talk(self, users, text):
        """Let one say it, and all hear it."""
        users[0].send(text)
        for user in users:
            while True:
                event = user.next()
                if event == (TEXT, text):
                    break
                if not event or event[0] == CLOSE:
                    raise AssertionError(f"not {text}: {event}")

    def check_end(self, case):
        """No traceback, and nobody serves the page any more."""
        case.assertEqual(self.errors, [])
        wait_until(lambda: not is_open(self.page))

    def __exit__(self, *how):
        for peer in self.peers:
            peer.close()
        super().__exit__(*how)


def is_open(port):
    """Tell whether somebody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def is_readable(*peers):
    socks = [getattr(peer.socket, "sock", peer.socket) for peer in peers]
    return bool(select.select(socks, [], [], 0)[0])


class Rooms(unittest.TestCase):
    """Each of them is a room of its own; all at the same time."""

    def test_all(self):
        scenes = [
            self.no_answer_is_on_the_wire,
            self.ctrl_c_while_held,
            self.the_room_is_killed,
            self.with_the_trace,
        ]
        if LINUX:  # Only there it is known which process is the page's.
            scenes += [
                self.the_page_is_killed,
                self.the_page_is_killed_while_held,
                self.the_page_is_stuck,
            ]
        side_by_side(self, lambda scene: scene(), [(s,) for s in scenes])

    def no_answer_is_on_the_wire(self):
        with Room("--ping-interval=0.6") as room:
            tabs = [room.tab() for _ in "12"]
            teacher, users = room.hold(*tabs)
            users[1].send("nr=me%20too&key=all")
            number = teacher.question["question"]
            for tab in tabs:
                tab.do("vote", question=number, picks=["L"])
            teacher.get("votes", lambda m: m["votes"]["voters"] == 2)
            words = [SECRET, SECRET.encode().hex(" "), f'"turn": {number},']
            # Their pings come from the page: the room's would be late now.
            for tab in (teacher, *tabs) * 3:
                tab.wait_for_ping()
            for tab in (teacher, *tabs):
                self.assertEqual(tab.has(*words), [])
                kernels = [user["kernel"] for user in tab.question["users"]]
                self.assertEqual(kernels, [0, 0])
                for hint in ("ready", "11 bytes", "waiting"):
                    self.assertNotIn(hint, json.dumps(tab.question))
            self.assertFalse(is_readable(*users))
            teacher.do("reveal")
            for tab in (teacher, *tabs):
                line = tab.get("turn", lambda m: "vote" in m)
                self.assertIn(SECRET, json.dumps(line))
                self.assertIn("#1", line["ready"]["read"])
            room.talk(users, "we are all still here")
            self.assertEqual([u for u in room.lines if " left" in u], [])

    def ctrl_c_while_held(self):
        own = {} if WINDOWS else {"start_new_session": True}
        with Room(**own) as room:
            tab = room.tab()
            room.hold(tab)
            before = time.monotonic()
            if WINDOWS:
                room.signal(signal.SIGINT)
            else:  # A terminal tells all of them; the page must not hear it.
                os.killpg(room.process.pid, signal.SIGINT)
            self.assertEqual(room.end(), 0)
            self.assertLess(time.monotonic() - before, 6)
            tab.get("ended")
            room.check_end(self)

    def the_room_is_killed(self):
        with Room() as room:
            tab = room.tab()
            room.hold(tab)
            room.process.kill()
            tab.get("ended")
            room.check_end(self)

    def with_the_trace(self):
        with Room("--trace=short") as room:
            teacher, users = room.hold()
            asked = f"turn {teacher.question['question']} "
            told = [line for line in room.lines if line.startswith(asked)]
            teacher.do("go")
            number = teacher.get("turn", lambda m: "vote" in m)["turn"]
            # The terminal, on the projector, must not tell it to all before.
            self.assertEqual(told, [])
            room.wait_for(rf"^turn {number} +got read #1 ")
            room.talk(users, "hello")
            room.signal(signal.SIGTERM)
            self.assertEqual(room.end(), 0)
            room.check_end(self)

    def the_page_is_killed(self):
        with Room() as room:
            users = room.users()
            os.kill(room.page_process(), signal.SIGKILL)
            for text in ("one", "two", "three"):
                room.talk(users, text)
            self.check_it_goes_on(room, users)

    def the_page_is_killed_while_held(self):
        with Room() as room:
            tab = room.tab()
            _, users = room.hold(tab)
            os.kill(room.page_process(), signal.SIGKILL)
            room.talk(users, "on we go")
            self.check_it_goes_on(room, users)

    def check_it_goes_on(self, room, users):
        room.wait_for(LIVE)
        room.talk(users, "four")
        told = [line for line in room.lines if LIVE in line]
        self.assertEqual(len(told), 1)
        room.signal(signal.SIGINT)
        self.assertEqual(room.end(), 0)
        room.check_end(self)

    def the_page_is_stuck(self):
        with Room() as room:
            tab, users = room.tab(), room.users()
            page = room.page_process()
            os.kill(page, signal.SIGSTOP)
            before = time.monotonic()
            for number in range(100):
                room.talk(users, f"number {number}")
            self.assertLess(time.monotonic() - before, 3)
            os.kill(page, signal.SIGCONT)

            def is_shown():
                room.talk(users, "later on")
                while is_readable(tab):
                    tab.pending.append(tab.read())
                return "later on" in json.dumps(tab.pending)

            wait_until(is_shown)
            turns = [m["turn"] for m in tab.pending if "turn" in m]
            self.assertEqual(turns, sorted(set(turns)))
            self.assertGreater(turns[-1], len(turns) + 20)
            room.signal(signal.SIGINT)
            self.assertEqual(room.end(), 0)
            room.check_end(self)


# ---- the command line -------------------------------------------------------


def run(*arguments, program=(str(ROOT / "server.py"),)):
    """Run it to its end; it must not leave somebody who holds its pipes."""
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=ROOT,
        timeout=DEADLINE,
        check=False,
    )


class TheCommandLine(unittest.TestCase):
    def test_what_cannot_start(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            side_by_side(self, self.check_wrong, [
                ("0", "--watch=x"), ("0", "--watch=70000"), ("0", "--watch=-1"),
                ("0", "--watch="), ("0", f"--watch={port}"),
            ])  # fmt: skip

    def check_wrong(self, *arguments):
        done = run(*arguments)
        lines = done.stderr.decode().splitlines()
        self.assertEqual((done.returncode, done.stdout), (2, b""), lines)
        self.assertEqual(len(lines), 2, lines)
        # The name stands there once.
        self.assertRegex(lines[0], "^server.py: (?!server.py)")

    def test_a_record_that_cannot_be_made_leaves_no_page(self):
        done = run("0", "--watch=0", "--record", ROOT)
        self.assertEqual((done.returncode, done.stdout), (2, b""))
        self.assertEqual(len(done.stderr.splitlines()), 1)

    def test_the_port(self):
        for words, watch, port in (
            ("--watch 9005", "next", 9005),
            ("9005 --watch", "next", 9005),
            ("--watch", "next", 9000),
            ("--watch=9007 9005", "9007", 9005),
            ("9005", None, 9005),
        ):
            with self.subTest(words):
                options = server.parse_arguments(words.split())
                self.assertEqual((options.watch, options.port), (watch, port))
        for port, watch, expected in (
            (9000, "next", 9001), (65535, "next", 65534), (9000, "0", 0),
            (9000, "9007", 9007),
        ):  # fmt: skip
            with self.subTest((port, watch)):
                self.assertEqual(begun(port, watch)[1]["port"], expected)

    def test_with_others(self):
        self.assertIsInstance(begun()[0].observer, Record)
        for more in ({"step": True}, {"step": True, "trace": "full"}):
            several = begun(**more)[0].observer
            self.assertIsInstance(several, Several)
            kinds = [type(each) for each in several.observers]
            self.assertEqual(set(kinds), {Stepper, Record})

    def test_the_invitation(self):
        page = SimpleNamespace(host="0.0.0.0", port=9001)
        with mock.patch("server.lan_addresses", return_value=["10.0.0.7"]):
            lines = list(lessons.watch.invitation(page, "abc"))
        self.assertEqual(lines, [
            "Watch http://127.0.0.1:9001/   (it shows what everybody says)",
            "The class watches http://10.0.0.7:9001/",
            "The teacher asks at http://127.0.0.1:9001/#key=abc",
        ])  # fmt: skip


PLAYER = ("-m", "lessons.watch")


class PlayBack(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "record.jsonl")
        self.header = json.dumps(HEADER).encode() + b"\n"

    def write(self, *lines):
        """Write these behind a header; bytes as they are."""
        parts = [
            each if isinstance(each, bytes) else json.dumps(each).encode()
            for each in lines
        ]
        self.path.write_bytes(self.header + b"".join(p + b"\n" for p in parts))

    def test_a_record(self):
        self.write(turn(1, events=[FRAME]), turn(4), {"ended": "yes"})
        with self.path.open("ab") as file:
            file.write(json.dumps(turn(5)).encode()[:-9])  # it was cut
        with Process(str(self.path), "0", program=PLAYER, cwd=ROOT) as process:
            tab = Tab(process.port)
            hello = tab.read()
            self.assertEqual(hello["source"], "recording")
            self.assertEqual(hello["room"], HEADER["room"])
            first = tab.get("turn")
            self.assertEqual(first["events"][0]["text"], '"Hello"')
            self.assertEqual(tab.get("turn")["turn"], 4)
            tab.do("ask")
            self.assertIn("error", tab.read())
            process.signal(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                tab.read()
            tab.close()
            self.assertEqual(process.end(), 0)
            self.assertEqual(process.errors, [])

    def test_all_of_a_long_record_is_played(self):
        """Explained, it is longer; all of it is there."""
        self.write(*(turn(number, events=[FRAME] * 8) for number in range(9)))
        size = self.path.stat().st_size
        with mock.patch.object(lessons.watch, "MAX_RECORD", size):
            history = read_record(str(self.path))
        self.assertEqual((history.first, history.end), (0, 9))

    def test_without_a_file_there_is_a_lesson(self):
        with mock.patch("lessons.watch.Watch") as watch, mock.patch(
            "lessons.watch.serve"
        ) as serve:
            self.assertEqual(call_main(lessons.watch.main, []), (0, "", ""))
        host, port, history = watch.call_args[0]
        self.assertEqual((host, port), ("127.0.0.1", 9001))
        self.assertGreater(len(history.lines), 20)
        self.assertTrue(serve.called)

    def test_what_is_no_record(self):
        self.write()
        folder = self.path.parent
        wrong = {
            "empty": b"", "blank": b"\n", "binary": bytes(range(256)),
            "text": b"hello\n", "version": self.header.replace(b"1", b"2", 1),
            "headless": json.dumps(turn(1)).encode() + b"\n",
            "cut": self.header[:-1],
        }  # fmt: skip
        for name, data in wrong.items():
            folder.joinpath(name).write_bytes(data)
        for name in (*wrong, "missing", "."):
            with self.subTest(name):
                path = str(folder / name)
                status, out, err = call_main(lessons.watch.main, [path, "0"])
                self.assertEqual((status, out), (2, ""))
                self.assertRegex(err, r"\Alessons\.watch: [^\n]+\n\Z")

    def test_forged_lines(self):
        """They are refused, or played; never is there a traceback."""
        frame = dict(FRAME)
        for line in (
            b"5", b'"turn"', b"[]", b"null", b'["turn"]', b"{", b"\xff",
            b"[" * 100_000, b'{"turn":' * 1000, {"turn": 1},
            {"turn": 1, "events": 5}, {"turn": 1, "events": [5]},
            {"turn": 1, "events": [{}]}, {"turn": 1, "events": [{"what": []}]},
            *(turn(1, events=[{**frame, "bytes": forged}]) for forged in (
                "", "8", "81", "zz", "81fe", "81ff00", 5, None, [],
                "81ffffffffffffffffff00000000", "8885" + "00" * 9,
            )),
            turn(1, events=[{**frame, "size": "x"}]),
            turn(1, events=[{**frame, "hidden": []}]),
            turn(1, events=[{"what": "frame"}]),
        ):  # fmt: skip
            with self.subTest(str(line)[:150]):
                self.write(turn(1), line)
                with contextlib.suppress(ValueError):
                    read_record(str(self.path))

    def test_what_the_page_cannot_draw_is_refused(self):
        header = {"watch": 1, "room": "javascript:alert(1)"}
        for lines in (
            (header, turn(1)), ({**header, "room": 5}, turn(1)),
            (HEADER, {**turn(1), "users": None}),
            (HEADER, {**turn(1), "at": math.nan}),
            (HEADER, {"turn": 1, "events": []}),
        ):  # fmt: skip
            with self.subTest(lines):
                text = "\n".join(map(json.dumps, [*lines, turn(2)])) + "\n"
                self.path.write_text(text)
                with self.assertRaises(ValueError):
                    read_record(str(self.path))

    def test_a_forged_crowd_of_frames(self):
        many = [{**FRAME, "bytes": "81" + "05" * 10_000}] * 10_000
        line = explained(turn(1, events=many))
        self.assertLess(len(json.dumps(line)), 500_000)

    def test_wrong_words(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for words in ([LESSON, "x"], [LESSON, "70000"], [LESSON, "1", "2"],
                          [LESSON, str(port)]):  # fmt: skip
                with self.subTest(words):
                    status, out, err = call_main(lessons.watch.main, words)
                    self.assertEqual((status, out), (2, ""))
                    self.assertNotIn("server.py", err)

    def test_help(self):
        status, out, _ = call_main(lessons.watch.main, ["--help"])
        self.assertEqual(status, 0)
        self.assertNotIn("--link", out)
        status, out, _ = call_main(server.main, ["--help"])
        self.assertRegex(out, r"--watch PORT +show the loop on all screens")
        self.assertRegex(out, r"--record FILE +write each turn down")


if __name__ == "__main__":
    unittest.main()
