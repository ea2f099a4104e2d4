"""server.py over real sockets: the loop, the hooks, the room, the command.

Clients have blocking sockets with a time-out; the server runs in a thread.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from unittest import mock

import codec
import server
from handshake import HandshakeError
from server import Server
from tests.hostile import Room, frame
from tests.support import (
    DEADLINE,
    MASKING_KEY,
    OWN_CONSOLE,
    RESETS,
    ROOT,
    Peer,
    Process,
    call_main,
    in_loop,
    reset,
    send_signal,
    serving,
    wait_until,
)


class ServerCase(unittest.TestCase):
    """A test with a server of its own and peers that are closed at the end."""

    make = staticmethod(lambda: Server(port=0))

    def setUp(self):
        self.server = self.make()
        running = serving(self.server)
        running.__enter__()
        self.addCleanup(running.__exit__, None, None, None)

    def peer(self, **options):
        peer = Peer(self.server.port, **options)
        self.addCleanup(peer.close)
        return peer

    def peers(self, count):
        return [self.peer() for _ in range(count)]

    def in_loop(self, call, *arguments):
        return in_loop(self.server, call, *arguments)


class Relay(ServerCase):
    """The plain server: everything goes to everyone."""

    def test_text_and_binary_go_to_everyone_the_sender_too(self):
        peers = self.peers(3)
        for message in ("hello", "", "\u738b \U0001f600", b"", b"\x00\xff"):
            with self.subTest(message=message):
                peers[1].send(message)
                for peer in peers:
                    self.assertEqual(peer.receive(), message)

    def test_one_order_for_all(self):
        peers = self.peers(4)
        for number in range(50):
            for who, peer in enumerate(peers):
                peer.send(f"{who} {number}")
        seen = [[peer.receive() for _ in range(200)] for peer in peers]
        for other in seen[1:]:
            self.assertEqual(other, seen[0])
        for who in range(4):
            own = [line for line in seen[0] if line.startswith(f"{who} ")]
            self.assertEqual(own, [f"{who} {n}" for n in range(50)])

    def test_lengths_at_every_boundary(self):
        peer = self.peer()
        for size in (0, 125, 126, 65024, 65025, 65535, 65536, 2**20):
            with self.subTest(size=size):
                peer.send(b"x" * size)
                self.assertEqual(peer.receive(), b"x" * size)

    def test_large_messages_are_the_frames_of_the_simple_form(self):
        peer, sleeper = self.peers(2)
        whole = []
        for size in (2**16 - 1, 2**16, 2**16 + 1):
            for message in (b"x" * size, "y" * size, "\u738b" * size):
                whole.append(codec.encode_message(message))
                peer.send(message)
                self.assertEqual(peer.receive(), message)
        expected = b"".join(whole)
        received = b""
        while len(received) < len(expected):
            received += sleeper.socket.recv(2**20)
        self.assertEqual(received, expected)

    def test_ping_is_answered_and_pong_is_not(self):
        peer = self.peer()
        peer.frame(codec.PONG, b"unasked")
        peer.frame(codec.PING, b"are you there?")
        self.assertEqual(peer.next(), (codec.PONG, b"are you there?"))

    def test_pings_and_messages_are_answered_in_order(self):
        peer, other = self.peers(2)
        frames = []
        for number in range(3):
            text = b"%d" % number
            frames.append(codec.encode_frame(1, text, MASKING_KEY))
            frames.append(codec.encode_frame(9, text, MASKING_KEY))
        peer.write(b"".join(frames))
        events = [peer.next() for _ in range(6)]
        self.assertEqual(
            events,
            [
                (codec.TEXT, "0"), (codec.PONG, b"0"),
                (codec.TEXT, "1"), (codec.PONG, b"1"),
                (codec.TEXT, "2"), (codec.PONG, b"2"),
            ],
        )  # fmt: skip
        self.assertEqual([other.receive() for _ in range(3)], list("012"))

    def test_close_is_answered_with_its_code(self):
        for code in (1000, 1001, 3000, 4999):
            with self.subTest(code=code):
                peer = self.peer()
                payload = code.to_bytes(2, "big") + b"bye"
                peer.frame(codec.CLOSE, payload)
                self.assertEqual(peer.receive_close(), (code, ""))

    def test_close_without_a_code(self):
        peer = self.peer()
        peer.frame(codec.CLOSE)
        self.assertEqual(peer.receive_close().code, 1005)

    def test_nothing_is_read_behind_a_close(self):
        peer, other = self.peers(2)
        peer.write(
            codec.encode_close(1000, "", MASKING_KEY)
            + codec.encode_message("ghost", MASKING_KEY)
        )
        peer.receive_close()
        other.send("real")
        self.assertEqual(other.receive(), "real")

    def test_a_message_in_fragments(self):
        peer = self.peer()
        peer.frame(codec.TEXT, "\u738b".encode()[:1], fin=False)
        peer.frame(codec.PING, b"between")
        peer.frame(codec.CONTINUATION, "\u738b".encode()[1:])
        self.assertEqual(peer.next(), (codec.PONG, b"between"))
        self.assertEqual(peer.receive(), "\u738b")

    def test_a_broken_rule_closes_this_user_alone(self):
        peer, other = self.peers(2)
        peer.write(codec.encode_message("before", MASKING_KEY))
        peer.write(b"\x81\x05hello")
        self.assertEqual(peer.receive(), "before")
        close = peer.receive_close()
        self.assertEqual(close.code, 1002)
        self.assertIn("must mask", close.reason)
        self.assertEqual(other.receive(), "before")
        other.send("still here")
        self.assertEqual(other.receive(), "still here")


class Tutorial(ServerCase):
    """The bugs of the PHP tutorial, one by one."""

    def test_one_read_is_not_one_frame(self):
        peer = self.peer()
        frames = [codec.encode_message(m, MASKING_KEY) for m in "abc"]
        peer.write(b"".join(frames))
        self.assertEqual([peer.receive() for _ in "abc"], list("abc"))

    def test_one_frame_is_not_one_read(self):
        peer = self.peer()
        for byte in codec.encode_message("one byte at a time", MASKING_KEY):
            peer.write(bytes([byte]))
        self.assertEqual(peer.receive(), "one byte at a time")

    def test_a_frame_behind_the_handshake_in_one_segment(self):
        peer = self.peer(rest=codec.encode_message("first", MASKING_KEY))
        self.assertEqual(peer.receive(), "first")

    def test_reads_that_end_on_a_multiple_of_1000(self):
        # The tutorial read on while it got 1,000 bytes, and froze here.
        peer = self.peer()
        for size in (1000, 2000, 65536):
            with self.subTest(size=size):
                header = 6 if size < 126 else 8 if size < 65536 else 14
                text = "x" * (size - header)
                frame = codec.encode_message(text, MASKING_KEY)
                peer.write(frame)
                self.assertEqual(peer.receive(), text)

    def test_fewer_than_7_bytes_are_not_a_hang_up(self):
        peer = self.peer()
        ping = codec.encode_frame(codec.PING, b"", MASKING_KEY)
        self.assertEqual(len(ping), 6)
        peer.write(ping)
        self.assertEqual(peer.next(), (codec.PONG, b""))

    def test_a_reader_that_sleeps_does_not_block_the_others(self):
        sleeper, peer = self.peers(2)
        big = b"x" * 2**20
        for _ in range(12):  # more than the kernel holds for the sleeper
            peer.send(big)
            self.assertEqual(peer.receive(), big)
        for _ in range(12):
            self.assertEqual(sleeper.receive(), big)

    def test_no_frame_for_users_in_handshake(self):
        half = self.peer(open=False)
        half.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        peer = self.peer()
        peer.send("not for those at the door")
        peer.receive()
        half.write(b"\r\n")
        self.assertTrue(half.read_to_end().startswith(b"HTTP/1.1 200 "))

    def test_lengths_of_65025_and_more(self):
        peer = self.peer()
        for size in (65024, 65025, 65535, 65536):
            with self.subTest(size=size):
                peer.send("y" * size)
                self.assertEqual(peer.receive(), "y" * size)

    def test_the_guid_has_ascii_hyphens(self):
        peer = self.peer()
        self.assertEqual(
            peer.response.headers["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        )


class Hooks(ServerCase):
    """The callbacks, as Workerman has them."""

    def test_all_hooks_in_order(self):
        calls = []
        s = self.server
        s.on_connect = lambda user: calls.append(("connect", user.key))
        s.on_handshake = lambda user, request: calls.append(
            ("handshake", request.path, user.handshaken)
        )
        s.on_open = lambda user: calls.append(
            ("open", user.request.query, user.request.headers["HOST"][:9])
        )
        s.on_message = lambda user, message: calls.append(message)
        s.on_close = lambda user, *why: calls.append(("close", *why))
        peer = self.peer(target="/chat?room=1&empty=")
        peer.send("text")
        peer.send(b"binary")
        peer.frame(codec.CLOSE, b"\x0f\xa1bye")
        peer.receive_close()
        peer.close()
        wait_until(lambda: len(calls) == 6, calls)
        self.assertEqual(
            calls,
            [
                ("connect", 1),
                ("handshake", "/chat", False),
                ("open", {"room": "1", "empty": ""}, "127.0.0.1"),
                "text",
                b"binary",
                ("close", 4001, "bye"),
            ],
        )

    def test_1006_without_a_close_frame(self):
        closes = []
        self.server.on_close = lambda user, *why: closes.append(why)
        self.peer().close()
        wait_until(lambda: closes)
        self.assertEqual(closes, [(1006, "hung up")])

    def test_no_on_close_for_a_user_who_never_opened(self):
        closes = []
        self.server.on_close = lambda user, *why: closes.append(why)
        half = self.peer(open=False)
        half.write(b"GET / HT")
        wait_until(lambda: len(self.server.users) == 1)
        half.close()
        wait_until(lambda: not self.server.users)
        self.assertEqual(closes, [])

    def test_on_handshake_may_refuse(self):
        def refuse(user, request):
            if request.query.get("ticket") != "42":
                raise HandshakeError(403, "No ticket.")

        self.server.on_handshake = refuse
        with self.assertRaises(HandshakeError) as caught:
            self.peer(target="/?ticket=41")
        self.assertEqual(caught.exception.status, 403)
        peer = self.peer(target="/?ticket=42")
        peer.send("in")
        self.assertEqual(peer.receive(), "in")

    def test_close_in_on_handshake_refuses_too(self):
        opened = []
        self.server.on_handshake = lambda user, _: self.server.close(user)
        self.server.on_open = opened.append
        with self.assertRaises(HandshakeError) as caught:
            self.peer()
        self.assertEqual(caught.exception.status, 403)
        self.assertEqual(opened, [])

    def test_nothing_is_handed_over_behind_a_close(self):
        heard = []

        def close(user, message):
            heard.append(message)
            self.server.close(user)

        self.server.on_message = close
        peer = self.peer()
        peer.write(codec.encode_message("x", MASKING_KEY) * 3)
        peer.receive_close()
        self.assertEqual(heard, ["x"])

    def test_a_long_turn_is_no_backlog_of_one_who_reads(self):
        self.server.max_backlog = 5000

        def say_much(user, message):
            for number in range(20):
                self.server.send(user, b"%d" % number * 500)

        self.server.on_message = say_much
        peer = self.peer()
        peer.send("go")
        for number in range(20):
            self.assertEqual(peer.receive(), b"%d" % number * 500)

    def test_close_in_on_open_does_not_wait_for_a_ping(self):
        self.server.on_open = lambda user: self.server.close(user)
        hello = codec.encode_message("hello", MASKING_KEY)
        with self.peer(rest=hello) as peer:  # in the same segment
            peer.receive_close()
            (user,) = self.server.users.values()
            soon = server.CLOSING_SECONDS
            self.assertLessEqual(user.deadline - time.monotonic(), soon)

    def test_send_close_and_broadcast(self):
        def answer(user, message):
            if message == "me":
                self.server.send(user, "to you alone")
            elif message == "all":
                self.server.broadcast(b"to all")
            elif message == "order":
                self.server.broadcast("1")
                self.server.send(user, "2")
                self.server.broadcast("3")
            else:
                self.server.close(user, 4000, "enough")
                self.server.send(user, "never sent")

        self.server.on_message = answer
        peer, other = self.peers(2)
        peer.send("me")
        peer.send("all")
        self.assertEqual(peer.receive(), "to you alone")
        self.assertEqual(peer.receive(), b"to all")
        self.assertEqual(other.receive(), b"to all")
        peer.send("order")
        self.assertEqual([peer.receive() for _ in "123"], list("123"))
        self.assertEqual([other.receive() for _ in "13"], list("13"))
        peer.send("end")
        self.assertEqual(peer.receive_close(), (4000, "enough"))

    def test_one_may_hear_something_else(self):
        def answer(user, message):
            if message == "caught":
                with contextlib.suppress(TypeError):
                    self.server.broadcast(5, but=(user, "not this"))
            self.server.broadcast(message, but=(user, f"you: {message}"))
            self.server.broadcast("between")

        self.server.on_message = answer
        peer, other = self.peers(2)
        said = ["one", "two", "caught"]
        peer.write(b"".join(frame(codec.TEXT, s.encode()) for s in said))
        for who, before in ((peer, "you: "), (other, "")):
            for text in said:
                self.assertEqual(who.receive(), before + text)
                self.assertEqual(who.receive(), "between")

    def test_what_cannot_be_said_to_one_ends_nobody_else(self):
        for wrong in (5, "\ud83d", None):
            with self.subTest(wrong=wrong), redirect_stderr(io.StringIO()):
                self.server.on_message = lambda user, message, wrong=wrong: (
                    self.server.broadcast(message, but=(user, wrong))
                )
                peer, other = self.peers(2)
                peer.send("hello")
                self.assertEqual(peer.receive_close()[0], 1011)
                self.server.on_message = lambda user, message: (
                    self.server.broadcast(message)
                )
                other.send("and you?")
                self.assertEqual(other.receive(), "and you?")

    def test_a_rule_that_a_hook_finds_broken_ends_the_hearing(self):
        """Also of what came in the same read: any split is the same."""

        def refuse(user, message):
            raise codec.ProtocolError(4001, "go")

        closes = []
        self.server.on_message = refuse
        self.server.on_close = lambda user, *why: closes.append(why)
        for pause in (False, True):
            peer = self.peer()
            last = codec.encode_close(4321, "bye", MASKING_KEY)
            peer.write(frame(codec.TEXT, b"x") + (b"" if pause else last))
            self.assertEqual(peer.receive_close(), (4001, "go"))
            if pause:
                peer.write(last)
            peer.close()
            wait_until(lambda: closes)
            self.assertEqual(closes.pop(), (1006, "closed with 4001 go"))

    @RESETS
    def test_on_error_that_raises_is_called_once(self):
        calls = []

        def fail(user, error):
            calls.append(error)
            raise LookupError

        self.server.on_error = fail
        with redirect_stderr(io.StringIO()) as errors:
            reset(self.peer().socket)
            wait_until(lambda: calls and not self.server.users)
        self.assertEqual(len(calls), 1)
        self.assertEqual(errors.getvalue().count("Traceback"), 1)

    def test_only_str_and_bytes_are_messages(self):
        for wrong in (None, 3, ["a"], bytearray(b"a")):
            with self.subTest(wrong=wrong), self.assertRaises(TypeError):
                self.in_loop(self.server.broadcast, wrong)

    def test_who_is_not_open_gets_nothing(self):
        def to_each(user, message):
            for each in self.server.users.values():
                self.server.send(each, message)

        self.server.on_message = to_each
        knocking, peer, leaving = self.peer(open=False), *self.peers(2)
        wait_until(lambda: len(self.server.users) == 3)
        leaving.frame(codec.CLOSE)
        leaving.receive_close()
        peer.send("hello")
        self.assertEqual(peer.receive(), "hello")
        knocking.open()
        peer.send("again")
        self.assertEqual(knocking.receive(), "again")

    def test_a_message_must_be_one_even_for_nobody(self):
        for user in (mock.Mock(is_open=False), mock.Mock(is_open=True)):
            with self.assertRaises(TypeError):
                self.in_loop(self.server.send, user, 3)

    def test_what_a_program_hangs_on_a_user(self):
        def count(user, message):
            user.score += 1
            self.server.send(user, str(user.score))

        self.server.on_open = lambda user: setattr(user, "score", 0)
        self.server.on_message = count
        peer, other = self.peers(2)
        for who, score in ((peer, "1"), (peer, "2"), (other, "1")):
            who.send("I know!")
            self.assertEqual(who.receive(), score)

    def test_everyone_is_who_is_open(self):
        peer, leaving, _ = self.peer(), self.peer(), self.peer(open=False)
        wait_until(lambda: len(self.server.users) == 3)
        self.assertEqual(
            [u.key for u in self.in_loop(self.server.everyone)], [1, 2]
        )
        leaving.close()
        wait_until(lambda: len(self.server.users) == 2)
        self.assertEqual(
            [u.key for u in self.in_loop(self.server.everyone)], [1]
        )
        peer.close()


class Chat(ServerCase):
    """The design's table of the tutorial's messages, line by line."""

    make = staticmethod(Room)

    def join(self, name):
        peer = self.peer()
        peer.send(f"type=add&ming={name}")
        return peer, peer.receive_json()

    def test_add(self):
        ana, madd = self.join("Ana")
        self.assertEqual(
            madd,
            {
                "type": "madd", "name": "Ana", "code": "1", "code1": "all",
                "users": [{"code": "1", "name": "Ana"}],
            },
        )  # fmt: skip
        nameless = self.peer()
        ben, madd = self.join("Ben+B%26C")
        add = {"type": "add", "name": "Ben B&C", "code": "3", "code1": "all"}
        self.assertEqual(
            madd,
            {
                **add,
                "type": "madd",
                "users": [
                    {"code": "1", "name": "Ana"},
                    {"code": "3", "name": "Ben B&C"},
                ],
            },
        )
        self.assertEqual(ana.receive_json(), add)
        self.assertEqual(nameless.receive_json(), add)

    def test_another_name(self):
        ana, _ = self.join("Ana")
        ben, _ = self.join("Ben")
        ana.receive_json()
        ana.send("type=add&ming=Anna")
        add = {"type": "add", "name": "Anna", "code": "1", "code1": "all"}
        self.assertEqual(ana.receive_json(), add)
        self.assertEqual(ben.receive_json(), add)

    def test_say_to_all(self):
        ana, _ = self.join("Ana")
        nameless = self.peer()
        nameless.send("nr=%E7%8E%8B+%3Cb%3E&key=all")
        said = {"nrong": "\u738b <b>", "code": "2", "code1": "all"}
        self.assertEqual(ana.receive_json(), said)
        self.assertEqual(nameless.receive_json(), said)

    def test_say_to_one(self):
        ana, _ = self.join("Ana")
        ben, _ = self.join("Ben")
        eve = self.peer()
        ana.send("nr=psst&key=2")
        said = {"nrong": "psst", "code": "1", "code1": "2"}
        self.assertEqual(ben.receive_json(), said)
        ana.send("end")
        self.assertEqual(ana.receive_json()["name"], "Ben")
        self.assertEqual(ana.receive_json(), said)
        self.assertEqual(eve.receive(), "end")  # and no whisper before it

    def test_say_to_oneself_comes_once(self):
        ana, _ = self.join("Ana")
        ana.send("nr=hm&key=1")
        ana.send("end")
        self.assertEqual(ana.receive_json()["nrong"], "hm")
        self.assertEqual(ana.receive(), "end")

    def test_say_to_nobody(self):
        ana, _ = self.join("Ana")
        ben = self.peer()
        for to in ("77", "Ben", "", "01", "-1", "\u0662", "9" * 5000):
            with self.subTest(to=to[:10]):
                ana.send(f"nr=psst&key={to}")
                told = ana.receive_json()
                self.assertIn("nobody", told.pop("nrong"))
                self.assertEqual(told, {"code": False, "code1": to[:20]})
        ben.send("end")
        self.assertEqual(ben.receive(), "end")

    def test_anything_else_is_relayed_as_it_came(self):
        ana, _ = self.join("Ana")
        ben = self.peer()
        for message in (
            "hello", "", "nr=", "nr=text", "type=add", "ming=x", "key=all",
            "type=remove&ming=x", " type=add&ming=x", "nr" + "=&" * 100000,
            '["nr", "x"]', "_{}", b"type=add&ming=x", b"nr=a&key=all", b"{}",
        ):  # fmt: skip
            with self.subTest(message=message[:20]):
                ana.send(message)
                self.assertEqual(ana.receive(), message)
                self.assertEqual(ben.receive(), message)

    def test_nobody_can_forge_the_rooms_own_words(self):
        ana, _ = self.join("Ana")
        eve = self.peer()
        for forged in (
            '{"nrong":"I am Ana","code":"1","code1":"all","time":"x"}',
            '{"type":"rmove","nrong":"1","code":false,"code1":"all"}',
            ' \t\r\n{"type":"add","name":"Ana","code":"2","code1":"all"}',
            "\u2003{", "{", "{" * 1000,
        ):  # fmt: skip
            with self.subTest(forged[:20]):
                eve.send(forged)
                said = {"nrong": forged, "code": "2", "code1": "all"}
                self.assertEqual(ana.receive_json(), said)
                self.assertEqual(eve.receive_json(), said)

    def test_leave(self):
        ana, _ = self.join("Ana")
        ben, _ = self.join("Ben")
        ana.receive_json()
        self.peer().close()  # one without a name leaves in silence
        wait_until(lambda: len(self.server.users) == 2)
        ben.close()
        self.assertEqual(
            ana.receive_json(),
            {"type": "rmove", "nrong": "2", "code": False, "code1": "all"},
        )
        self.assertRegex(self.server.lines[-1], r"^#2 Ben left: 1006")

    def test_names_are_cleaned(self):
        for given, clean in (
            ("  Ana  ", "Ana"),
            ("", "user {}"),
            ("%20%09%0A", "user {}"),
            ("a%00b%1Bc%7Fd%C2%9Be", "abcde"),
            ("%E2%80%AEevil%E2%81%A6%E2%80%8F", "evil"),
            ("%E2%80%8B%EF%BB%BF", "user {}"),
            ("x" * 21, "x" * 20),
            ("y" * 19 + "++z", "y" * 19),
            ("%F0%9F%98%80" * 21, "\U0001f600" * 20),
            ("%FF", "\ufffd"),
            ("\u3000a\u00a0\tb ", "a b"),
            (
                "\u3164\u115f\uffa0\u2800\u00ad\u034f\u180e\u2061\u2064",
                "user {}",
            ),
            ("\u206a\u206f\U000e0000\U000e007f\ufe00\ufe0f\ue000", "user {}"),
            ("A\u200cn\u200da\ufe0f", "Ana"),
            ("e\u0301 \u738b \u0928\u093f", "e\u0301 \u738b \u0928\u093f"),
            ("\x01" * 300 + "x", "user {}"),
        ):
            with self.subTest(given=given):
                peer, madd = self.join(given)
                self.assertEqual(madd["name"], clean.format(madd["code"]))
                peer.close()


class Forms(ServerCase):
    """Forms are taken apart by urllib, and not those that take it long."""

    make = staticmethod(Room)

    def test_what_urllib_makes_of_it(self):
        peer = self.peer()
        texts = ["", "%", "%4", "%4g", "%%41", "%41%42", "a%41b", "%25", "="]
        texts += ["%e7%8e%8b", "%ff%41", "\u738b%41\u2602", "%E7%8E", "a+b;c"]
        for text in texts:
            with self.subTest(text):
                peer.send(f"nr={text}&key=all")
                simple = urllib.parse.unquote_plus(text)
                self.assertEqual(peer.receive_json()["nrong"], simple)

    def test_as_many_escapes_as_70_000_chinese_letters_have(self):
        peer = self.peer()
        for text, letters in (
            ("%E7%8E%8B" * 70_000, "\u738b" * 70_000),
            ("%41" * (server.MAX_ESCAPES + 1), None),
            ("\u738b%41" * 20_000, "\u738bA" * 20_000),
            ("%41" + "\u738ba" * (server.MAX_MIXED // 2), None),
            ("\u738ba" * server.MAX_MIXED, "\u738ba" * server.MAX_MIXED),
        ):
            form = f"nr={text}&key=all"
            with self.subTest(form[:20], size=len(form)):
                peer.send(form)
                if letters:
                    self.assertEqual(peer.receive_json()["nrong"], letters)
                else:
                    self.assertEqual(peer.receive(), form)

    def test_a_whisper_that_is_too_much_is_told_to_nobody(self):
        ana, eve = self.peer(), self.peer()
        for form in (
            "nr=R&D, A&B, C&D, E&F, G&H, I&J, K&L, M&N, O&P&key=2",
            "key=2&nr=" + "%41" * (server.MAX_ESCAPES + 1),
            "nr=" + "&" * 100 + "&key=alles",
        ):
            with self.subTest(form[:20]):
                ana.send(form)
                told = ana.receive_json()
                self.assertEqual((told["code"], told["code1"]), (False, "1"))
                self.assertIn("too much", told["nrong"])
        for form in ("nr=" + "&" * 100 + "&key=all", "nr=" + "&" * 100):
            ana.send(form)
            self.assertEqual(eve.receive(), form)  # and nothing before it
            self.assertEqual(ana.receive(), form)

    def test_what_the_room_makes_of_it_may_be_too_long(self):
        self.server.max_message = 1000
        ana, eve = self.peer(), self.peer()
        for text, to in (
            ("%01" * 160, "all"), ("%01" * 160, "1"), ('"' * 480, "all"),
        ):  # fmt: skip
            with self.subTest(text[:3], to=to):
                ana.send(f"nr={text}&key={to}")
                told = ana.receive_json()
                self.assertEqual((told["code"], told["code1"]), (False, "1"))
                self.assertIn("too long", told["nrong"])
        ana.send("{" + "\x01" * 200)
        self.assertIn("too long", ana.receive_json()["nrong"])
        ana.send("nr=" + "a" * 900 + "&key=all")
        self.assertEqual(eve.receive_json()["nrong"], "a" * 900)


class Invitation(unittest.TestCase):
    def test_the_class_can_open_what_it_says(self):
        for host in ("0.0.0.0", "::"):
            with self.subTest(host):
                try:
                    room = Server(host, port=0)
                except OSError:
                    self.skipTest("this machine has no IPv6")
                with serving(room):
                    lines = server.invitation(room)
                    urls = [re.search(r"http\S+", line)[0] for line in lines]
                    for url in urls:
                        parts = urllib.parse.urlsplit(url)
                        place = parts.hostname, parts.port
                        socket.create_connection(place, DEADLINE).close()

    def test_a_full_pipe_is_not_the_end_of_the_diary(self):
        """BlockingIOError: another program has made the pipe so."""
        full = mock.patch("builtins.print", side_effect=BlockingIOError)
        with full, mock.patch("os.dup2") as give_up:
            server.show("a line that is lost")
        give_up.assert_not_called()


class Page(ServerCase):
    """A plain GET on the same port."""

    def request(self, text):
        peer = self.peer(open=False)
        peer.write(text.replace("\n", "\r\n").encode())
        head, _, body = peer.read_to_end().partition(b"\r\n\r\n")
        return head.decode(), body

    def test_the_page_as_it_is_now(self):
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder, "client.html")
            with mock.patch.object(self.server, "page", page):
                for text in ("first", "edited: \u738b"):
                    page.write_bytes(text.encode())
                    head, body = self.request("GET / HTTP/1.1\nHost: x\n\n")
                    self.assertEqual(body.decode(), text)
                    self.assertIn("200 OK", head)
                    self.assertIn("text/html; charset=utf-8", head)
                    self.assertIn(f"Content-Length: {len(body)}", head)
                page.unlink()
                head, _ = self.request("GET / HTTP/1.1\nHost: x\n\n")
                self.assertIn(" 503 ", head)

    def test_it_is_found_from_wherever_the_server_is_started(self):
        page = (ROOT / "client.html").read_bytes()
        names = "server.py", "codec.py", "handshake.py", "client.html"
        with tempfile.TemporaryDirectory() as folder:
            link, zipped = Path(folder, "here.py"), Path(folder, "room.zip")
            with zipfile.ZipFile(zipped, "w") as archive:
                for name in names:
                    archive.write(ROOT / name, name)
                archive.writestr("__main__.py", "import server; server.main()")
            with contextlib.suppress(OSError):  # Windows may not allow it
                link.symlink_to(ROOT / "server.py")
            for command in (
                [str(zipped)], [str(link)], ["-m", "pdb", "-c", "c"],
            ):  # fmt: skip
                if command == ["-m", "pdb", "-c", "c"]:
                    command.append(str(ROOT / "server.py"))
                elif not Path(command[0]).exists():
                    continue
                with self.subTest(command), Process(
                    "0", program=command, cwd=folder
                ) as process:
                    url = f"http://127.0.0.1:{process.port}/"
                    with urllib.request.urlopen(url) as answer:
                        self.assertEqual(answer.read(), page)

    def test_head(self):
        head, body = self.request("HEAD / HTTP/1.1\nHost: x\n\n")
        size = (ROOT / "client.html").stat().st_size
        self.assertIn(f"Content-Length: {size}", head)
        self.assertEqual(body, b"")

    def test_a_query_and_http_1_0_are_fine(self):
        for line in ("GET /?a=b HTTP/1.1\nHost: x", "GET / HTTP/1.0"):
            self.assertIn(" 200 ", self.request(line + "\n\n")[0])

    def test_nothing_else_is_served(self):
        for path in (
            "/server.py", "/client.html", "/../server.py", "//", "/.",
            "/%2e%2e/server.py", "/favicon.ico", "/..%2f..%2fetc/passwd",
        ):  # fmt: skip
            for method in ("GET", "HEAD"):
                with self.subTest(path=path, method=method):
                    head, body = self.request(
                        f"{method} {path} HTTP/1.1\nHost: x\n\n"
                    )
                    self.assertIn(" 404 ", head)
                    self.assertIn("Connection: close", head)
                    self.assertEqual(not body, method == "HEAD")

    def test_a_library_of_others_reads_it(self):
        url = f"http://127.0.0.1:{self.server.port}"
        with urllib.request.urlopen(url + "/", timeout=DEADLINE) as answer:
            self.assertEqual(answer.read(), (ROOT / "client.html").read_bytes())
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url + "/x", data=b"", timeout=DEADLINE)
        self.assertEqual(caught.exception.code, 405)
        self.assertEqual(caught.exception.headers["Allow"], "GET, HEAD")
        caught.exception.close()


class CommandLine(unittest.TestCase):
    """python server.py, as a child process."""

    def test_start_diary_and_ctrl_c(self):
        with Process("0") as process:
            self.assertRegex(process.lines[0], r"http://127\.0\.0\.1:\d+/")
            ana = Peer(process.port)
            ana.send("type=add&ming=\u738b%1b[31m\\")
            self.assertEqual(ana.receive_json()["name"], "\u738b[31m\\")
            ana.send("nothing of this is in the diary")
            ana.receive()
            process.signal(signal.SIGINT)
            self.assertEqual(ana.receive_close().code, 1001)
            ana.close()
            self.assertEqual(process.end(), 0)
            self.assertEqual(process.errors, [])
            stamp = r"^\d\d:\d\d:\d\d  "
            expected = (
                stamp + r"#1 joined from 127\.0\.0\.1$",
                stamp + r"#1 is \\u738b\[31m\\$",
                stamp + r"#1 \\u738b\[31m\\ left: 1006 closed with 1001 the ",
            )
            self.assertEqual(len(process.lines), 4, process.lines)
            for line, pattern in zip(process.lines[1:], expected):
                self.assertRegex(line, pattern)

    def test_a_program_of_ones_own_ends_by_ctrl_c(self):
        program = """if True:
            import signal
            from server import Server, serve
            signal.signal(2, lambda *_: print("my own handler"))
            room = Server(port=0)
            room.on_close = lambda user, code, reason: print(code, reason)
            serve(room)
            print("\u738b bye")
            signal.raise_signal(2)
        """
        ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
        with Process(python=("-c", program), env=ascii_only) as process:
            with Peer(process.port) as peer:
                process.signal(signal.SIGINT)
                self.assertEqual(peer.receive_close().code, 1001)
            self.assertEqual(process.end(), 0)
            self.assertEqual(process.errors, [])
            closed = "1006 closed with 1001 the room closes"
            words = [closed, "\\u738b bye", "my own handler"]
            self.assertEqual(process.lines[1:], words)

    def test_only_short_lines_of_printable_ascii(self):
        with Process("0") as process:
            peer = Peer(process.port)
            peer.send("type=add&ming=" + "\U0001f600" * 20)
            peer.receive()
            peer.frame(codec.CLOSE, b"\x03\xe8\n\t\x1b" + b"\xe7\x8e\x8b" * 39)
            peer.receive_close()
            peer.close()
            process.wait_for(r"left: 1000 \\n\\t\\x1b\\u738b")
            junk = Peer(process.port, open=False)
            junk.write(b"\x00\x1b\xff\r\n\r\n")
            junk.read_to_end()
            junk.close()
            process.wait_for("refused")
        for line in process.lines:
            self.assertRegex(line, r"^[ -~]{1,99}$")

    def test_the_first_connection_is_accepted_soon(self):
        # Not a benchmark: the limit is generous.
        with Process("0") as process, Peer(process.port) as peer:
            peer.send("x")
            self.assertEqual(peer.receive(), "x")

    def run_command(self, *arguments):
        done = subprocess.run(
            [sys.executable, str(ROOT / "server.py"), *arguments],
            capture_output=True,
            timeout=DEADLINE,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_what_cannot_start_says_so_in_two_lines(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen(1)
            port = str(taken.getsockname()[1])
            for arguments, words in (
                ((port,), f"port {port} is taken"),
                (("hello",), "hello"),
                (("70000",), "70000 is not a port"),
                (("-1",), "-1"),
                (("9000", "9001"), "9001"),
                (("--colour",), "--colour"),
                (("--max-message", "0"), "max-message"),
                (("--max-message", "x"), "max-message"),
                (("--max-backlog", "-5"), "backlog"),
                (("--ping-interval", "0"), "ping"),
                (("--ping-interval", "nan"), "ping"),
                (("--host", "192.0.2.1"), "192.0.2.1"),
                (("--host", "no such host"), "no such host"),
                (("--host", "\u738b" * 300), "address"),
                (("\u738b\n\x1b",), "738b"),
                (("--break", "nonsense"), "close-1005, drop, php"),
                (("--trace=long",), "there is --trace=short"),
                (("--origin", "example.com"), "'example.com'"),
                (("--origin", "http://a/index.html"), "index.html"),
                (("--origin", "*"), "'*'"),
                (("--origin", "ftp://x"), "ftp://x"),
                (("--origin", "http://"), "http"),
                (("--origin", "http://a:0"), "a:0"),
                (("--origin", ""), "origin"),
            ):
                with self.subTest(arguments=arguments):
                    status, out, err = call_main(server.main, arguments)
                    self.assertEqual((status, out), (2, ""))
                    self.assertRegex(err, r"^([ -~]{1,79}\n){1,2}$")
                    self.assertIn(words, err.replace("\n", " "))

    def test_no_right_to_the_port(self):
        error = PermissionError(13, "Permission denied")
        lines = server.explain(error, "127.0.0.1", 80)
        self.assertIn("80", lines[0])
        self.assertEqual(len(lines), 2)

    def test_help(self):
        status, out, err = self.run_command("--help")
        self.assertEqual((status, err), (0, ""))
        for option in (
            "--host", "--lan", "--origin", "--max-message", "--max-backlog",
            "--ping-interval",
        ):  # fmt: skip
            self.assertIn(option, out)

    def test_lan(self):
        with Process("0", "--lan") as process:
            Peer(process.port).close()
            process.wait_for("left")
        for line in process.lines[1:-2]:
            self.assertRegex(line, r"http://[0-9.]+:\d+/$")

    def test_ipv6(self):
        if not socket.has_ipv6:
            self.skipTest("this Python has no IPv6")
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            self.skipTest("this machine has no IPv6")
        for host in ("::1", "::"):
            with self.subTest(host), Process("0", "--host", host) as process:
                self.assertIn("http://[::1]:", process.lines[0])
                Peer(process.port, "::1").close()
                process.wait_for("joined from ::1")

    def test_the_reader_of_the_diary_may_go(self):
        command = [sys.executable, str(ROOT / "server.py"), "0"]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdout=pipe, stderr=pipe, **OWN_CONSOLE
        ) as process:
            try:
                first = process.stdout.readline().decode()
                process.stdout.close()
                port = int(re.search(r":(\d+)/", first)[1])
                for _ in range(3):
                    with Peer(port) as peer:
                        peer.send("x")
                        self.assertEqual(peer.receive(), "x")
                send_signal(process, signal.SIGINT)
                self.assertEqual(process.wait(DEADLINE), 0)
                self.assertEqual(process.stderr.read(), b"")
            finally:
                process.kill()


if __name__ == "__main__":
    unittest.main()
