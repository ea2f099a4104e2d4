"""Nothing a client does can hurt the room: rules, resets, hooks, ends.

Who breaks a rule gets a Close with its code (1002, 1007, 1009) and the rule
in words, and what stood before it is still delivered. Who is no WebSocket
client (https, HTTP/2, SSH, a head of 64 MB or of 101 lines, a byte a second,
a page of another site) gets an HTTP status: 400, 431, 408 or 403. Who
vanishes is pinged after 20 s, and dropped after 20 more.
"""

# ruff: noqa: SIM117 - Python 3.8 has no brackets around several with
from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import unittest
from unittest import mock

import codec
import server
from handshake import HandshakeError
from tests.hostile import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Relay,
    Room,
    clock,
    connect,
    frame,
    read_head,
    read_to_end,
    request,
    room,
    sleeper,
    status,
    talk,
    wait_for_users,
)
from tests.rules import LIMIT, bad_streams
from tests.support import (
    DEADLINE,
    KEY,
    MASKING_KEY,
    RESETS,
    WINDOWS,
    Peer,
    Process,
    close_all,
    count_descriptors,
    reset,
    serving,
    wait_until,
)

SIZES = (1, 2, 3, 7, 1024)  # of a recv


def close_frame(code, reason=b""):
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def rules():
    """Return (what, bytes, code) of each breach with nothing before it."""
    return [
        (what, stream, code)
        for what, stream, messages, code in bad_streams()
        if not messages
    ]


class Rules(unittest.TestCase):
    """RFC 6455 s4 and s5 on the wire."""

    def offend(self, running, witness, offence, after):
        """Return what an offender and a witness get to see of it."""
        with Peer(running.port) as peer:
            peer.write(frame(TEXT, b"before") + offence + after)
            seen = [peer.receive(), peer.receive_close()]
        witness.send("sync")
        for message in iter(witness.receive, "sync"):
            seen.append(message)
        return seen

    def test_each_rule_whose_breach_ends_the_connection(self):
        with room(Relay, max_message=LIMIT) as running:
            with Peer(running.port) as witness:
                for what, offence, code in rules():
                    with self.subTest(what):
                        seen = self.offend(running, witness, offence, b"")
                        self.assertEqual(seen[1].code, code)
                        self.assertTrue(seen[1].reason)
                        seen.pop(1)
                        self.assertEqual(seen, ["before", "before"])

    def test_each_rule_at_every_split_and_nothing_after(self):
        after = frame(TEXT, b"after") + frame(PING) + frame(TEXT, b"after")
        results = []
        for size in SIZES:
            result = []
            with room(Relay, max_message=LIMIT, recv_size=size) as running:
                with Peer(running.port) as witness:
                    for _, offence, _ in rules():
                        seen = self.offend(running, witness, offence, after)
                        result.append(seen)
            results.append(result)
        for size, result in zip(SIZES, results):
            for rule, seen, at_once in zip(rules(), result, results[-1]):
                with self.subTest(rule[0], size=size):
                    self.assertEqual(seen, at_once)
                    first, close, *witnessed = seen
                    self.assertEqual((first, close.code), ("before", rule[2]))
                    self.assertEqual(witnessed, ["before"])

    def test_every_allowed_code_is_answered_with_itself(self):
        codes = [*range(1000, 1015), *range(3000, 5000)]
        for code in (1004, 1005, 1006):
            codes.remove(code)
        answers = []
        with room(Relay) as running:
            for at in range(0, len(codes), 50):
                socks = [
                    connect(running.port, request() + close_frame(code))
                    for code in codes[at : at + 50]
                ]
                for sock in socks:
                    with sock:
                        answers.append(read_to_end(sock).split(b"\r\n\r\n")[1])
        for code, answer in zip(codes, answers):
            expected = codec.encode_frame(CLOSE, code.to_bytes(2, "big"))
            self.assertEqual(answer, expected, code)
        self.assertEqual(len(answers), len(codes))

    def test_a_close_without_a_code(self):
        with room(Relay) as running, Peer(running.port) as peer:
            peer.frame(CLOSE)
            self.assertEqual(peer.receive_close(), (1005, ""))

    def test_who_does_not_hang_up_is_dropped_after_some_seconds(self):
        for offence in (b"\x81\x00", close_frame(1000)):
            with clock() as now, room() as running:
                with Peer(running.port) as peer:
                    peer.write(offence)
                    self.assertEqual(peer.next()[0], CLOSE)
                    now.go_to(0.3, running)
                    self.assertEqual(len(running.users), 1)
                    now.go_to(server.CLOSING_SECONDS + 0.6, running)
                    self.assertEqual(len(running.users), 0)

    def test_who_is_closing_may_send_on_and_is_not_heard(self):
        with room() as running:
            with Peer(running.port) as peer, Peer(running.port) as witness:
                peer.write(close_frame(1000) + frame(TEXT, b"no") * 10)
                self.assertEqual(peer.next()[1].code, 1000)
                peer.write(frame(TEXT, b"no") * 1000 + b"\xff" * 1000)
                witness.send("sync")
                self.assertEqual(witness.receive(), "sync")
                self.assertIsNone(peer.next())

    def chat(self, recv_size):
        """Return what two users of the room get to see of each other."""
        with room(recv_size=recv_size) as running:
            with Peer(running.port, open=False) as ana:
                joins = codec.encode_message("type=add&ming=Ana", MASKING_KEY)
                ana.open(rest=joins)
                seen = [ana.receive_json()]
                with Peer(running.port) as bob:
                    bob.send("type=add&ming=B%C3%B6b")
                    seen += [bob.receive_json(), ana.receive_json()]
                    self.converse(ana, bob)
                    for peer in (ana, bob):
                        while not seen or seen[-1] != b"end":
                            seen.append(peer.receive())
                            self.hide_the_time(seen)
                        seen.append("---")
                seen.append(ana.receive_json())
            wait_for_users(running, 0)
        return [*seen, *running.lines]

    def converse(self, ana, bob):
        parts = "nr=über&key=all".encode()
        ana.write(
            frame(TEXT, parts[:4], fin=False)
            + frame(PING, b"?")
            + frame(0, parts[4:])
        )
        self.assertEqual(ana.next(), (PONG, b"?"))
        self.assertIn("über", bob.receive())
        bob.send("nr=for+Ana&key=1")
        self.assertIn("for Ana", bob.receive())
        bob.send("nr=for+nobody&key=77")
        bob.send(bytes(range(256)) * 5)
        bob.send("just words")
        bob.send("type=add&ming=Robert")
        bob.send(b"end")

    def hide_the_time(self, seen):
        with contextlib.suppress(TypeError, ValueError):
            message = json.loads(seen[-1])
            message.pop("time", None)
            seen[-1] = message

    def test_the_chat_at_every_split(self):
        results = []
        for size in SIZES:
            results.append(self.chat(size))
        for size, result in zip(SIZES, results):
            with self.subTest(size=size):
                self.assertEqual(result, results[-1])
        self.assertGreater(len(results[0]), 15)


JUNK = (
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "https"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), "HTTP/2"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
    (bytes(100), "not HTTP"),
    (b"\xde\xad\xbe\xef", "not HTTP"),
    (b"hello?\r\n", "not HTTP"),
    (b"hello?", "not HTTP"),
    (b"\n", "CR LF"),
    (b"GET / HTTP/1.1\nHost: a\n\n", "CR LF"),
    (b"POST /x HTTP/1.1\r\n", "POST"),
    (b"GET / HTTP/2\r\n", "not a request line"),
    (b"GET  / HTTP/1.1\r\n", "not HTTP|not a request line"),
    (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "header line"),
    (b"GET / HTTP/1.1\r\n folded\r\n\r\n", "header line"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", "twice"),
    (b"GET / HTTP/1.1\r\n\r\n", "Host"),
)


class Handshakes(unittest.TestCase):
    def test_what_is_no_request_is_refused_at_once_and_in_words(self):
        with room() as running:
            for junk, words in JUNK:
                with self.subTest(junk[:30]):
                    with Peer(running.port, open=False) as peer:
                        peer.write(junk)
                        answer = peer.read_to_end()
                    self.assertIn(status(answer), (400, 405))
                    self.assertRegex(answer.decode(), words)
                    self.assertRegex(running.lines[-1], f"refused.*({words})")

    def test_https_is_told_what_to_open(self):
        with room() as running, Peer(running.port, open=False) as peer:
            peer.write(JUNK[0][0])
            self.assertIn(b"is https; open http://", peer.read_to_end())
            self.assertRegex(running.lines[-1], "is https; open http://")

    def test_a_byte_a_second_is_408_after_ten(self):
        with clock() as now, room() as running:
            peer = Peer(running.port, open=False)
            with peer, Peer(running.port) as other:
                for i in range(10):
                    peer.write(request()[i : i + 1])
                    now.go_to(i, running)
                    self.assertNotIn("refused", running.lines[-1])
                now.go_to(10.1, running)
                self.assertIn("refused: 408", running.lines[-1])
                self.assertEqual(status(peer.read_to_end()), 408)
                talk([other], "still here")

    def test_silence_is_408_too(self):
        with mock.patch.object(server, "HANDSHAKE_SECONDS", 0.05):
            with room() as running, Peer(running.port, open=False) as peer:
                self.assertEqual(status(peer.read_to_end()), 408)

    def test_a_slow_but_honest_one_gets_in(self):
        with room(recv_size=1) as running, Peer(running.port) as peer:
            talk([peer], "hello")

    def test_who_is_refused_and_stays_is_dropped(self):
        with mock.patch.object(server, "CLOSING_SECONDS", 0.05):
            with room() as running, Peer(running.port, open=False) as peer:
                peer.write(b"junk\r\n")
                wait_for_users(running, 0)

    def test_the_answer_to_head_has_no_body_even_if_it_refuses(self):
        with room() as running:
            for line, expected in (
                ("HEAD / HTTP/1.1\r\nHost: a\r\n", 200),
                ("HEAD /x HTTP/1.1\r\nHost: a\r\n", 404),
                ("HEAD / HTTP/1.1\r\nHost: a b\r\n", 400),
                ("HEAD / HTTP/1.1\r\nno colon\r\n", 400),
                ("\r\nHEAD / HTTP/1.1\r\n", 400),
                ("HEAD / HTTP/9\r\n", 400),
            ):
                with self.subTest(line):
                    head = line.encode() + b"\r\n"
                    with connect(running.port, head) as sock:
                        answer = read_to_end(sock)
                    self.assertEqual(status(answer), expected)
                    self.assertTrue(answer.endswith(b"\r\n\r\n"), answer)

    def test_null_is_let_in_from_this_machine_only(self):
        for host, origins, expected in (
            ("127.0.0.1", [], 101),
            ("127.0.0.1", ["http://a"], 403),
            ("0.0.0.0", [], 403),
            ("0.0.0.0", ["null"], 101),
            ("0.0.0.0", ["http://a"], 403),
        ):
            with self.subTest(host=host, origins=origins):
                with room(host=host, origins=origins) as running:
                    head = request(running.port, origin="null")
                    with connect(running.port, head) as sock:
                        answer = read_head(sock)
                        self.assertEqual(status(answer), expected)
                        if expected == 403:
                            self.assertIn(b"--origin null", read_to_end(sock))
                            self.assertIn("--origin null", running.lines[-1])

    def test_origins_are_a_collection(self):
        with self.assertRaises(TypeError):
            Room(origins="https://a.example")
        with self.assertRaises(ValueError):
            Room(origins=["a.example"])

    def test_no_header_line_takes_long_to_refuse(self):
        # Regular expressions can be made to go back and forth for seconds.
        heads = (
            b"A:" + b" " * 16000 + b"\x01",
            b"A:" + b"\t " * 8000 + b"\x7f",
            b"A" * 16000,
            b"A:\r\n" * 4000,
            b"Origin: http://" + b"a." * 8000 + b"!",
        )
        with room() as running, Peer(running.port) as other:
            for head in heads:
                with self.subTest(head[:20]):
                    begin = b"GET / HTTP/1.1\r\nHost: a\r\n"
                    begun = time.monotonic()
                    sock = connect(running.port, begin + head + b"\r\n\r\n")
                    with sock:
                        talk([other], "hello")
                        read_to_end(sock)
                    self.assertLess(time.monotonic() - begun, 0.2)

    def test_origin(self):
        allowed = ["https://school.example", "http://a.example:8000"]
        name = socket.gethostname().lower()
        own = [
            ("127.0.0.1:{}", "http://127.0.0.1:{}", 101),
            ("localhost:{}", "http://localhost:{}", 101),
            ("[::1]:{}", "http://[::1]:{}", 101),
            (name + ":{}", "http://" + name + ":{}", 101),
            ("127.0.0.1:{}", None, 101),
            ("127.0.0.1:{}", "http://127.0.0.1:{}.evil.example", 403),
            ("127.0.0.1:{}", "http://evil.example", 403),
            ("127.0.0.1:{}", "https://127.0.0.1:{}", 403),
            ("127.0.0.1:{}", "http://127.0.0.1", 403),
            ("127.0.0.1:{}", "http://localhost:{}", 403),
            ("127.0.0.1:{}", "http://127.0.0.1:{}@evil.example", 403),
            ("127.0.0.1:{}", "", 403),
            # DNS rebinding: a foreign name that resolves to this machine.
            ("evil.example:{}", "http://evil.example:{}", 403),
            ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example", 403),
        ]
        a_page = "http://a.example:8000"
        for origins, more in (
            ([], [("null", 101), (allowed[0], 403)]),
            (allowed, [("null", 403), (allowed[0], 101), (a_page, 101)]),
            (allowed, [("http://a.example", 403)]),
            ([*allowed, "null"], [("null", 101)]),
        ):
            rows = [*own, *(("127.0.0.1:{}", *row) for row in more)]
            with room(origins=origins) as running:
                for host, origin, expected in rows:
                    with self.subTest(origin, host=host, origins=origins):
                        headers = {"host": host.format(running.port)}
                        if origin is not None:
                            headers["origin"] = origin.format(running.port)
                        sock = connect(running.port, request(**headers))
                        with sock:
                            self.assertEqual(status(read_head(sock)), expected)


class Ghosts(unittest.TestCase):
    def test_who_does_not_answer_a_ping_is_dropped(self):
        with clock() as now, room() as running:
            ghost, peer = Peer(running.port), Peer(running.port)
            with ghost, peer:
                users = [running.users[1], running.users[2]]
                now.go_to(19.0, running)
                talk([peer], "I am here")
                self.assertEqual(ghost.receive(), "I am here")
                now.go_to(19.5, running)
                self.assertEqual([user.pinged for user in users], [0, 0])
                now.go_to(20.5, running)
                self.assertEqual([user.pinged for user in users], [1, 0])
                self.assertEqual(ghost.next(), (PING, b""))
                now.go_to(39.5, running)
                self.assertEqual([user.pinged for user in users], [1, 1])
                self.assertEqual(peer.next(), (PING, b""))
                peer.frame(PONG)
                now.go_to(41.0, running)
                self.assertEqual(list(running.users), [2])
                self.assertIn("did not answer a ping", running.lines[-1])
                talk([peer], "still here")

    def test_the_switch(self):
        with Process("0", "--ping-interval", "0.2") as process:
            ghost, peer = Peer(process.port), Peer(process.port)
            with ghost, peer:
                begun = time.monotonic()
                self.assertEqual(peer.next(), (PING, b""))
                peer.frame(PONG)
                process.wait_for("#1 left: 1006 did not answer a ping")
                # The loop looks about twice a second.
                self.assertLess(time.monotonic() - begun, 2 * (0.2 + 0.6))
                peer.send("still here")
                for event in iter(peer.next, (TEXT, "still here")):
                    self.assertEqual(event, (PING, b""))


class Held(Room):
    """Stops the loop when asked to, so that much happens in one turn."""

    def __init__(self, **options):
        super().__init__(**options)
        self.held, self.go_on = threading.Event(), threading.Event()
        self.errors = []

    def hold(self):
        self.held.set()
        self.go_on.wait(DEADLINE)

    def on_connect(self, user):
        # So a few messages are enough to fill the pipe to one user.
        user.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def on_handshake(self, user, request):
        if request.path == "/hold":
            self.hold()

    def on_message(self, user, message):
        if message == "hold":
            self.hold()
        super().on_message(user, message)

    def on_error(self, user, error):
        self.errors.append(error)

    @contextlib.contextmanager
    def holding(self, peer):
        """Hold the loop in the turn in which peer says "hold"."""
        peer.send("hold")
        self.held.wait(DEADLINE)
        yield
        self.go_on.set()


class Resets(unittest.TestCase):
    """No exception, no leak, no message of the others is lost."""

    def test_two_users_reset_in_one_turn_with_words_on_their_lips(self):
        # What they said can still be read, but nothing sent to them.
        lips = (
            frame(TEXT, b"last words") + frame(PING),
            frame(PING) + frame(TEXT, b"last words"),
            frame(TEXT, b"nr=last+words&key=1"),
            frame(TEXT, b"type=add&ming=Late"),
            frame(TEXT, b"last words") + frame(CLOSE),
            frame(TEXT, b"last words") + b"\x81\x00",
            b"",
        )
        for words in lips:
            with self.subTest(words), room(Held) as running:
                with contextlib.ExitStack() as stack:
                    pair = [
                        stack.enter_context(Peer(running.port))
                        for _ in range(2)
                    ]
                    victims = [Peer(running.port) for _ in range(2)]
                    with running.holding(pair[0]):
                        for victim in victims:
                            victim.write(words)
                            victim.reset()
                        # One who joins makes the room send to each alone.
                        pair[1].send("type=add&ming=Bob")
                        pair[1].send("told")
                    for peer in pair:
                        while peer.receive() != "told":
                            pass
                    wait_for_users(running, 2)
                    talk(pair, "still here")

    def test_reset_while_it_is_being_written_to(self):
        for victims in (1, 2):
            with self.subTest(victims=victims), room(Held) as running:
                with Peer(running.port) as peer:
                    socks = [sleeper(running.port) for _ in range(victims)]
                    while len(self.behind(running)) < victims:
                        talk([peer], b"x" * 60000)
                    with running.holding(peer):
                        for sock in socks:
                            reset(sock)
                    wait_for_users(running, 1)
                    self.assertEqual(peer.receive(), "hold")
                    talk([peer], "still here")

    def behind(self, running):
        return [user for user in list(running.users.values()) if user.waiting]

    def test_reset_by_one_who_has_too_much_waiting(self):
        limit = 50_000
        with room(Held, max_backlog=limit) as running:
            # The first in the room: served before the others hear anything.
            sock = sleeper(running.port)
            user = running.users[1]
            with Peer(running.port) as ana, Peer(running.port) as bob:
                while user.waiting <= limit:
                    talk([ana], b"x" * 5000)
                    self.assertEqual(bob.receive(), b"x" * 5000)
                self.assertIn(1, running.users)
                with running.holding(ana):
                    reset(sock)
                    bob.send("type=add&ming=Bob")
                self.assertEqual(bob.receive(), "hold")
                self.assertEqual(bob.receive_json()["type"], "madd")
                wait_for_users(running, 2)
                talk((ana, bob), "still here")

    def test_the_name_of_the_lost_is_removed_once(self):
        with room(Held) as running, Peer(running.port) as peer:
            victims = [Peer(running.port) for _ in range(2)]
            for victim in victims:
                victim.send("type=add&ming=Vic")
                self.assertEqual(peer.receive_json()["type"], "add")
            with running.holding(peer):
                for victim in victims:
                    victim.reset()
            self.assertEqual(peer.receive(), "hold")
            gone = sorted(peer.receive_json()["nrong"] for _ in victims)
            self.assertEqual(gone, ["2", "3"])
            peer.send("end")
            self.assertEqual(peer.receive(), "end")

    def test_reset_before_it_is_let_in(self):
        # Each system has a number of its own for that.
        running = Room()
        self.addCleanup(close_all, running)
        for number in (errno.ECONNABORTED, errno.ECONNRESET, errno.ENOTCONN):
            gone, nobody = OSError(number, "gone"), BlockingIOError()
            with self.subTest(number):
                door = mock.Mock(**{"accept.side_effect": [gone, nobody]})
                with mock.patch.object(running, "listener", door):
                    running.accept()
                self.assertEqual(door.accept.call_count, 2)
                self.assertTrue(running.may_accept())
                self.assertEqual(running.lines, [])

    def test_reset_in_the_middle_of_a_handshake(self):
        with room(Held) as running, Peer(running.port) as peer:
            for part in (b"", b"GET", request()[:-2]):
                reset(connect(running.port, part))
                wait_for_users(running, 1)
                talk([peer], "still here")
            # The request is read, the 101 finds nobody.
            sock = connect(running.port, request().replace(b" /", b" /hold"))
            running.held.wait(DEADLINE)
            reset(sock)
            running.go_on.set()
            wait_for_users(running, 1)
            talk([peer], "still here")

    def test_reset_in_the_middle_of_a_close(self):
        with room(Held) as running, Peer(running.port) as peer:
            for last in (close_frame(1000), b"\x81\x00", frame(TEXT, b"\xff")):
                victim = Peer(running.port)
                victim.write(last)
                victim.reset()
                wait_for_users(running, 1)
                victim = Peer(running.port)
                victim.write(last)
                self.assertEqual(victim.next()[0], CLOSE)
                victim.reset()
                wait_for_users(running, 1)
                talk([peer], "still here")

    def test_who_does_not_wait_for_our_close_is_no_error(self):
        # As browsers do when a page is reloaded.
        with room(Held) as running, Peer(running.port) as peer:
            victim = Peer(running.port)
            victim.write(frame(TEXT, b"hold") + close_frame(1001, b"bye"))
            running.held.wait(DEADLINE)
            victim.reset()
            running.go_on.set()
            wait_for_users(running, 1)
            self.assertEqual(peer.receive(), "hold")
            talk([peer], "still here")
            self.assertEqual(running.errors, [])
            self.assertIn("#2 left: 1001 bye", running.lines)

    def test_half_a_close_is_an_end(self):
        with room() as running, Peer(running.port) as peer:
            with Peer(running.port) as half:
                half.write(frame(TEXT, b"hello") + frame(TEXT)[:1])
                half.socket.shutdown(socket.SHUT_WR)
                self.assertEqual(half.receive(), "hello")
                self.assertEqual(half.receive_close().code, 1000)
            self.assertEqual(peer.receive(), "hello")
            wait_until(lambda: "#2 left: 1006 hung up" in running.lines)
            talk([peer], "still here")

    def test_a_thousand_at_once_leave_no_descriptor(self):
        with Process() as process:
            pid = process.process.pid
            with Peer(process.port) as ana, Peer(process.port) as bob:
                talk((ana, bob), "hello")
                before = count_descriptors(pid)
                for i in range(20):
                    socks = [
                        connect(process.port, request(process.port))
                        for _ in range(50)
                    ]
                    for sock in socks[::2]:
                        sock.close()
                    for sock in socks[1::2]:
                        reset(sock)
                    talk((ana, bob), f"round {i}")
                if before is not None:
                    wait_until(lambda: count_descriptors(pid) == before)
                talk((ana, bob), "still here")
            process.signal(signal.SIGTERM)
            self.assertEqual((process.end(), process.errors), (0, []))


class Turns(unittest.TestCase):
    """A room whose turns are taken one by one."""

    def setUp(self):
        patience = mock.patch.object(server, "PATIENCE", 0.01)
        patience.start()
        self.addCleanup(patience.stop)
        ahead = clock()
        self.now = ahead.__enter__()
        self.addCleanup(ahead.__exit__, None, None, None)
        self.server = Room(max_backlog=10_000)
        self.events = []
        self.server.on_error = lambda _, error: self.events.append(error.errno)
        self.server.on_close = lambda _, *why: self.events.append(why)
        self.socks = [self.connect() for _ in range(2)]
        self.user = self.server.users[1]

    def connect(self):
        sock = connect(self.server.port, request(), buffer=4096)
        self.addCleanup(sock.close)
        count = len(self.server.everyone()) + 1
        while len(self.server.everyone()) < count:
            self.server.turn()
        read_head(sock)
        return sock

    def tearDown(self):
        for user in self.server.users.values():
            user.socket.close()
        close_all(self.server)

    def say_too_much(self):
        """Say more than the first user's pipe and outbox hold; return all."""
        small = socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        self.user.socket.setsockopt(*small)
        said = b""
        while self.user.is_open:
            message = bytes((len(said) % 251,)) * 5000
            said += codec.encode_message(message)
            self.server.broadcast(message)
            self.server.share()
        return said

    def test_nothing_follows_what_was_left_out(self):
        said = self.say_too_much()
        self.server.broadcast(b"small")
        self.server.send(self.user, b"a whisper")
        self.server.close(self.user, 4001, "enough")
        self.server.turn()
        heard = read_to_end(self.socks[0])
        self.assertEqual(heard, said[: len(heard)])
        self.assertEqual(list(self.server.users), [2])
        # What was never sent is not reported either.
        self.assertEqual(self.events[0], errno.ENOBUFS)
        self.assertEqual(self.events[1][0], 1006)
        self.assertRegex(self.events[1][1], "did not read: [0-9]+ bytes")
        self.assertEqual(len(self.events), 2)

    def test_who_is_closed_while_too_much_waits(self):
        small = socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        self.user.socket.setsockopt(*small)
        while not self.server.is_behind(self.user):
            self.server.broadcast(bytes(5000))
            self.server.turn()
        self.server.close(self.user, 4001, "enough")
        self.server.turn()
        self.assertEqual(self.events[0], errno.ENOBUFS)
        self.assertEqual(self.events[1][0], 1006)
        self.assertIn("did not read", self.events[1][1])

    def test_a_reset_is_told_once_and_the_words_before_it_are_heard(self):
        self.server.on_message = lambda user, message: (
            self.events.append(message),
            self.server.broadcast(message),
            self.server.send(user, "so what was said to all goes out"),
        )
        reset_at_once = self.socks[0]
        reset_at_once.sendall(frame(TEXT, b"last words"))
        reset(reset_at_once)
        while 1 in self.server.users:
            self.server.turn()
        self.assertEqual(self.events[0], "last words")
        self.assertEqual(len(self.events), 3)
        self.assertIn(self.events[1], (errno.ECONNRESET, errno.EPIPE))
        self.assertEqual(self.events[2][0], 1006)
        self.socks[1].settimeout(DEADLINE)
        self.assertIn(b"last words", self.socks[1].recv(100))

    def test_who_is_too_late_is_named_in_the_same_turn(self):
        del self.server.on_close
        for sock in self.socks:
            sock.sendall(frame(TEXT, b"type=add&ming=Ana"))
        while not all(user.name for user in self.server.everyone()):
            self.server.turn()
        self.now.ahead = 21.0
        self.server.turn()  # a ping for both
        self.socks[0].sendall(frame(PONG))
        wait_until(lambda: select.select([self.user.socket], [], [], 0)[0])
        self.server.turn()
        self.now.ahead = 41.9
        self.socks[0].sendall(frame(PONG))
        wait_until(lambda: select.select([self.user.socket], [], [], 0)[0])
        self.server.turn()
        self.assertEqual(list(self.server.users), [1])
        self.assertIn(b'"rmove", "nrong": "2"', self.socks[0].recv(2**16))

    def test_while_it_stops_no_half_second_is_waited_for(self):
        self.server.stop()
        self.server.turn()
        self.now.ahead = 1.6
        self.server.turn()
        self.assertEqual(self.server.users, {})
        self.assertFalse(self.server.running)

    def test_a_page_that_is_on_its_way_is_not_cut(self):
        sock = connect(self.server.port, buffer=4096)
        self.addCleanup(sock.close)
        while len(self.server.users) < 3:
            self.server.turn()
        user = self.server.users[3]
        user.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        while not user.closing:
            self.server.turn()
        self.assertTrue(user.outbox)
        page = b""
        self.server.stop()
        sock.setblocking(False)
        while self.server.users.get(3) and b"</html>" not in page:
            self.server.turn()
            with contextlib.suppress(BlockingIOError):
                page += sock.recv(2**16)
        self.assertIn(b"</html>", page)


class Hooks(unittest.TestCase):
    """A bug in a hook is its user's misfortune, and nobody else's."""

    def run_with(self, hook, error, action):
        """Let a hook raise for all but the first; return what stderr got."""
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), room() as running:
            with Peer(running.port) as peer:
                original = getattr(running, hook)

                def raising(user, *arguments):
                    if user.key > 1:
                        raise error
                    original(user, *arguments)

                with mock.patch.object(running, hook, raising):
                    action(running, peer)
                    wait_for_users(running, 1)
                    talk([peer], "still here")
        return errors.getvalue()

    def expect_500(self, running, peer):
        with Peer(running.port, open=False) as victim:
            victim.write(request())
            self.assertEqual(status(victim.read_to_end()), 500)

    def expect_1011(self, running, peer):
        with Peer(running.port) as victim:
            with contextlib.suppress(OSError):
                victim.send("hello")
            self.assertEqual(victim.receive_close().code, 1011)

    def hang_up(self, running, peer):
        with Peer(running.port) as victim:
            talk([victim], "hello")

    def break_down(self, running, peer):
        victim = Peer(running.port)
        victim.send("hello")
        victim.reset()

    def test_each_hook(self):
        rows = (
            ("on_connect", self.expect_500),
            ("on_handshake", self.expect_500),
            ("on_open", self.expect_1011),
            ("on_message", self.expect_1011),
            ("on_close", self.hang_up),
        )
        for hook, action in rows:
            for error in (ZeroDivisionError("Boom"), KeyError("Boom")):
                with self.subTest(hook, error=error):
                    errors = self.run_with(hook, error, action)
                    self.assertIn("Traceback", errors)
                    self.assertRegex(errors, type(error).__name__ + ".*Boom")
                    self.assertEqual(errors.count("in raising"), 1)

    def test_errors_that_mean_something_elsewhere(self):
        for hook, error in (
            ("on_message", HandshakeError(403, "too late")),
            ("on_open", HandshakeError(403, "too late")),
            ("on_message", codec.ProtocolError(1006, "not to be sent")),
            ("on_message", codec.ProtocolError(1008, "long" * 99)),
        ):
            with self.subTest(hook, error=error):
                errors = self.run_with(hook, error, self.expect_1011)
                self.assertIn("Traceback", errors)
        for hook, error in (
            ("on_handshake", HandshakeError(799, "no such status")),
            ("on_handshake", codec.ProtocolError(1006, "not to be sent")),
        ):
            with self.subTest(hook, error=error):
                action = self.refused
                self.assertIsNotNone(self.run_with(hook, error, action))

    def refused(self, running, peer):
        with Peer(running.port, open=False) as victim:
            victim.write(request())
            self.assertIn(status(victim.read_to_end()), (403, 500, 799))

    def test_a_diary_that_raises(self):
        class Mute(server.Server):
            def diary(self, text):
                raise ValueError(text)

        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), serving(Mute(port=0)) as mute:
            with Peer(mute.port) as peer:
                mute.places = 1  # so the next one is refused, at once
                with Peer(mute.port, open=False) as victim:
                    self.assertEqual(status(victim.read_to_end()), 503)
                talk([peer], "still here")
        self.assertIn("ValueError: #2 refused: 503", errors.getvalue())

    def test_on_error_that_raises_too(self):
        def on_error(user, error):
            raise KeyError("Again")

        def action(running, peer):
            running.on_error = on_error
            self.expect_1011(running, peer)
            self.break_down(running, peer)

        errors = self.run_with("on_message", ValueError("Boom"), action)
        self.assertIn("Boom", errors)
        self.assertIn("Again", errors)

    def test_a_reset_is_no_bug(self):
        errors = self.run_with("on_error", ValueError("Boom"), self.hang_up)
        self.assertEqual(errors, "")

    def test_a_hook_that_closes_the_socket_itself(self):
        def close(user):
            user.socket.close()

        def close_descriptor(user):
            socket.close(user.socket.detach())

        for act in (close, close_descriptor):
            for whose in (1, 2, 3):
                with self.subTest(act.__name__, whose=whose):
                    self.act_on_another(act, whose)

    def act_on_another(self, act, whose):
        """Let the hook of #1 act on one of three; the others talk on."""
        closes = []
        with room() as running, contextlib.ExitStack() as stack:
            running.on_close = lambda user, *why: closes.append(why[0])
            ports = [running.port] * 3
            peers = [stack.enter_context(Peer(port)) for port in ports]
            first, victim = running.users[1], running.users[whose]
            running.on_message = lambda user, message: (
                user is first and act(victim),
                running.broadcast(message),
            )
            peers[0].send("now")
            wait_for_users(running, 2)
            del running.on_message
            peers.pop(whose - 1)
            talk(peers, "still here")
            self.assertEqual(closes, [1006])

    @unittest.skipUnless(hasattr(os, "fork"), "only Unix has fork()")
    def test_a_child_process_keeps_no_peer_waiting(self):
        program = """if True:
            import os, sys, time
            from server import ChatRoom, serve
            def fork(user):
                if not os.fork():
                    time.sleep(60)  # with all the sockets open
            room = ChatRoom(port=0)
            room.on_open = fork
            serve(room)
        """
        with Process(python=("-c", program), start_new_session=True) as process:
            try:
                with Peer(process.port) as peer:
                    peer.frame(CLOSE)
                    self.assertEqual(peer.receive_close().code, 1005)
                    peer.socket.shutdown(socket.SHUT_WR)
                    process.wait_for("left")
            finally:
                os.killpg(process.process.pid, signal.SIGKILL)

    @RESETS
    def test_no_on_error_behind_on_close(self):
        events = []
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            with room() as running, Peer(running.port) as peer:
                running.on_error = lambda user, error: events.append("error")

                def on_close(user, code, reason):
                    events.append("close")
                    raise ZeroDivisionError("Boom")

                running.on_close = on_close
                with Peer(running.port) as other:
                    other.reset()
                wait_for_users(running, 1)
                wait_until(lambda: "close" in events)
                talk([peer], "still here")
                del running.on_close
        self.assertEqual(events, ["error", "close"])
        self.assertIn("Boom", errors.getvalue())

    def test_a_hook_that_closes_another_in_the_same_turn(self):
        with room(Held) as running, Peer(running.port) as ana:
            bob = Peer(running.port)
            users = running.users

            def on_message(user, message):
                if message == "out":
                    running.close(users[2], 4000, "out")
                running.broadcast(message)

            with running.holding(ana):
                running.on_message = on_message
                ana.send("out")
                bob.send("hello")
            with bob:
                self.assertEqual(bob.receive(), "hold")
                self.assertEqual(bob.receive_close(), (4000, "out"))
            self.assertEqual(ana.receive(), "hold")
            self.assertEqual(ana.receive(), "out")
            talk([ana], "still here")


# The status of who is ended by Ctrl-C; on Windows, and under Wine.
BY_CTRL_C = (0xC000_013A, 0) if WINDOWS else (-signal.SIGINT,)

# python -c PATIENT server.py 0: a server that stops slowly.
PATIENT = """
import sys
import server
server.STOPPING_SECONDS = 600.0
sys.exit(server.main(sys.argv[2:]))
"""


class Stopping(unittest.TestCase):
    def fill(self, stack, process):
        """Fill the room with all kinds; return who will say goodbye."""
        port = process.port
        pair = [stack.enter_context(Peer(port)) for _ in range(2)]
        for _ in range(3):
            stack.enter_context(sleeper(port))
        for part in (b"", b"GET / HT", request()[:-1]):
            stack.enter_context(connect(port, part))
        for i in range(40):
            talk(pair[:1], b"x" * 60000 + bytes((i,)))
            while pair[1].receive()[60000] != i:
                pass
        return pair

    def test_sigint_and_sigterm_say_1001_and_end_within_3_seconds(self):
        numbers = (signal.SIGINT, signal.SIGTERM)
        with contextlib.ExitStack() as stack:
            both = [stack.enter_context(Process()) for _ in numbers]
            pairs = [self.fill(stack, process) for process in both]
            for process, number in zip(both, numbers):
                process.signal(number)
            begun = time.monotonic()
            for pair in pairs:
                for peer in pair:
                    self.assertEqual(peer.receive_close().code, 1001)
            for process in both:
                self.assertEqual(process.end(), 0)
                self.assertLess(time.monotonic() - begun, 3)
                self.assertEqual(process.errors, [])

    def test_the_second_ctrl_c_waits_for_no_sleeper(self):
        patient = Process("0", python=("-c", PATIENT))
        with patient as process, contextlib.ExitStack() as stack:
            pair = self.fill(stack, process)
            process.signal(signal.SIGINT)
            for peer in pair:
                self.assertEqual(peer.receive_close().code, 1001)
            process.signal(signal.SIGINT)
            self.assertIn(process.end(), BY_CTRL_C)

    def test_nobody_there_and_everybody_polite(self):
        with Process() as empty, Process() as process:
            with Peer(process.port) as peer:
                empty.signal(signal.SIGINT)
                process.signal(signal.SIGTERM)
                self.assertEqual(peer.receive_close().code, 1001)
            begun = time.monotonic()
            self.assertEqual((empty.end(), process.end()), (0, 0))
            self.assertLess(time.monotonic() - begun, 1)


class Windows(unittest.TestCase):
    """Habits of Windows that Linux does not punish."""

    def test_select_gets_sockets_only_and_never_three_empty_lists(self):
        asked = []

        def select_like_windows(*lists_and_timeout):
            *lists, timeout = lists_and_timeout
            asked.append(timeout)
            if not any(lists):
                raise OSError(errno.EINVAL, "three empty lists")
            # Windows asks each for its fileno(), and that must be a socket's.
            for each in itertools.chain(*lists):
                if not isinstance(each.fileno.__self__, socket.socket):
                    raise OSError(errno.EINVAL, f"not a socket: {each}")
            return select.select(*lists_and_timeout)

        fake = mock.Mock(select=select_like_windows)
        fake.error = OSError
        with mock.patch.object(server, "select", fake), room() as running:
            self.assertEqual(server.wait([], [], 0.0), ([], []))
            with Peer(running.port) as peer:
                talk([peer], "hello")
            wait_for_users(running, 0)
            # No descriptor left, and nobody there either.
            running.accept_at = time.monotonic() + 60
            turns = len(asked)
            wait_until(lambda: not running.may_accept())
            running.accept_at = 0.0
            with Peer(running.port) as peer:
                talk([peer], "hello")
        self.assertGreater(len(asked), turns)

    def test_it_wakes_at_least_twice_a_second(self):
        asked = []

        def note(reading, writing, failing, timeout):
            asked.append(timeout)
            return select.select(reading, writing, failing, 0.01)

        fake = mock.Mock(select=note)
        running = Room()
        self.addCleanup(close_all, running)
        with mock.patch.object(server, "select", fake):
            running.turn()
        self.assertEqual(len(asked), 1)
        self.assertLessEqual(asked[0], 0.5)

    def test_a_port_is_not_shared(self):
        with contextlib.closing(server.listen("127.0.0.1", 0)) as first:
            with self.assertRaises(OSError):
                server.listen("127.0.0.1", first.getsockname()[1])

    def test_512_sockets_whatever_their_numbers(self):
        listener = mock.Mock()
        with mock.patch.object(sys, "platform", "win32"):
            self.assertLess(server.count_places(listener), 512)
            self.assertGreater(server.count_places(listener), 480)
            newcomer = mock.Mock(**{"fileno.return_value": 99999})
            self.assertTrue(server.can_be_watched(newcomer))

    def test_a_console_with_no_letters_but_ascii(self):
        surroundings = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
        with Process(env=surroundings) as process:
            evil = "\x1b[2J\x9b31m\u202e\u4f60\U0001f600'\"\\" * 2
            with Peer(process.port, open=False) as peer:
                peer.write(request(origin="http://\xe4\x9b31m/" + "x" * 200))
                self.assertEqual(status(peer.read_to_end()), 403)
            with Peer(process.port) as peer:
                peer.send("type=add&ming=" + evil)
                peer.receive_json()
                peer.write(close_frame(4000, evil.encode()[:100].strip()))
                with contextlib.suppress(AssertionError):
                    peer.receive_close()
            process.wait_for("#[12] .*left")  # #1 may be free by then
        self.assertEqual(process.errors, [])
        for line in process.lines:
            self.assertRegex(line, r"\A[ -~]{1,99}\Z")


class Diary(unittest.TestCase):
    def test_a_page_that_may_be_any(self):
        # A sandboxed frame of any site is "null" too, not only a file.
        with room() as running:
            for origin, words in (
                ("null", ", by a page from disk, or one that hides"),
                (f"http://127.0.0.1:{running.port}", ""),
            ):
                with self.subTest(origin):
                    head = request(running.port, origin=origin)
                    with connect(running.port, head) as sock:
                        self.assertEqual(status(read_head(sock)), 101)
                        wait_until(lambda: running.lines)
                    wait_for_users(running, 0)
                    joined, *_ = running.lines
                    self.assertRegex(joined, "joined from 127.0.0.1" + words)
                    self.assertEqual(joined.endswith("0.0.1"), not words)
                    running.lines.clear()


class Keys(unittest.TestCase):
    def test_the_101_is_the_right_one(self):
        with room() as running, Peer(running.port) as peer:
            accept = peer.response.headers["Sec-WebSocket-Accept"]
            self.assertEqual(KEY, "dGhlIHNhbXBsZSBub25jZQ==")
            self.assertEqual(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")


if __name__ == "__main__":
    unittest.main()
