"""--redis: what a room does beside a Redis that works, and one that does not.

The Redis is scripted_redis.py, so these run everywhere; those with a real
one are in test_redis_rooms.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from unittest import mock

import server
from codec import CLOSE
from lessons import redis, resp, rooms
from lessons.redis import parse_address
from lessons.trace import Trace
from tests.hostile import Room
from tests.scripted_redis import OK, ScriptedRedis, listed
from tests.support import (
    DEADLINE,
    ROOT,
    Peer,
    Process,
    close_all,
    in_loop,
    serving,
    side_by_side,
    wait_until,
)


class Addresses(unittest.TestCase):
    def test_good_ones(self):
        for text, expected in (
            ("localhost", ("localhost", 6379, "", "", 0)),
            ("127.0.0.1:7000", ("127.0.0.1", 7000, "", "", 0)),
            ("[::1]:7000", ("::1", 7000, "", "", 0)),
            ("redis://here", ("here", 6379, "", "", 0)),
            ("redis://here:7000/3", ("here", 7000, "", "", 3)),
            ("redis://here/", ("here", 6379, "", "", 0)),
            ("redis://:secret@here:7000/0", ("here", 7000, "", "secret", 0)),
            ("redis://ana:s%40c%2f@here", ("here", 6379, "ana", "s@c/", 0)),
        ):
            with self.subTest(text):
                self.assertEqual(tuple(parse_address(text)), expected)

    def test_bad_ones(self):
        for text in (
            "", ":7000", "here:0", "here:65536", "here:x", "redis://",
            "rediss://here", "http://here", "here/x", "here/-1", "here/1/2",
            "here/123456", "[::1", "here?db=1", "here#1", "redis://:a@/0",
        ):  # fmt: skip
            with self.subTest(text), self.assertRaises(ValueError):
                parse_address(text)

    def test_a_password_is_not_shown(self):
        address = parse_address("redis://ana:secret@[::1]:7000/0")
        self.assertEqual(str(address), "[::1]:7000")


class LinkedCase(unittest.TestCase):
    """Rooms in threads of this process, and a scripted Redis."""

    def setUp(self):
        self.rooms = []
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.redis = self.stack.enter_context(ScriptedRedis())

    def patch(self, **constants):
        """Let these constants be others, in redis.py or rooms.py."""
        for name, value in constants.items():
            module = redis if hasattr(redis, name) else rooms
            patch = mock.patch.object(module, name, value)
            self.stack.enter_context(patch)

    def room(self, address=None, **options):
        """Return a room that runs, linked to the Redis."""
        room = Room(**options)
        address = parse_address(address or self.redis.address)
        room.trouble = redis.link(room, address)
        self.stack.enter_context(serving(room))
        self.rooms.append(room)
        return room

    def peer(self, room, name=""):
        """Return one who is in a room, and has a name, if one is given."""
        peer = self.stack.enter_context(Peer(room.port))
        if name:
            peer.send(f"type=add&ming={name}")
            peer.code = self.told(peer, type="madd")["code"]
            for each in self.rooms:  # until they know it, too
                wait_until(lambda: peer.code in list(each.people))  # noqa: B023
        return peer

    def ready(self, *peers):
        """Let these hear all that was said up to now."""
        peers[0].send("ready")
        for peer in peers:
            while peer.receive() != "ready":
                pass

    def two_rooms(self, **options):
        """Return two rooms that know each other."""
        one, two = self.room(**options), self.room(**options)
        for room in (one, two):
            self.wait_for(room, "is here")
        return one, two

    def told(self, peer, **fields):
        """Return the next message that has these fields."""
        while True:
            message = peer.receive()
            with contextlib.suppress(ValueError, TypeError):
                found = json.loads(message)
                if fields.items() <= found.items():
                    return found

    def wait_for(self, room, words, times=1):
        """Wait until the diary has so many lines with these words."""
        try:
            wait_until(lambda: self.count(room, words) >= times)
        except AssertionError:
            self.fail(f"{words} in {room.lines}")

    def ask_again(self, command, times=1):
        """Wait until the Redis was asked this, so often from now on."""
        before = self.redis.count(command)
        wait_until(lambda: self.redis.count(command) >= before + times)

    def count(self, room, words):
        return sum(words in line for line in list(room.lines))


class Talk(LinkedCase):
    def test_what_is_said_to_all_is_heard_in_all(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one, "Ana"), self.peer(two, "Bo")
        self.ready(ana, bo)
        for message, heard in (
            ("nr=Hello+%26+all&key=all",
                {"nrong": "Hello & all", "code": ana.code, "code1": "all"}),
            ("raw", "raw"),
            ("\u20ac \U0001d11e", "\u20ac \U0001d11e"),
            ('{"type":"rmove"}',
                {"nrong": '{"type":"rmove"}', "code": ana.code}),
            (b"\x00\xff", b"\x00\xff"),
            (b"", b""),
            ("", ""),
        ):  # fmt: skip
            with self.subTest(message):
                ana.send(message)
                for peer in (ana, bo):
                    said = peer.receive()
                    if isinstance(heard, dict):
                        said = json.loads(said)
                        self.assertLessEqual(heard.items(), said.items())
                    else:
                        self.assertEqual(said, heard)

    def test_the_rooms_own_words(self):
        one, two = self.two_rooms()
        bo = self.peer(two)
        in_loop(one, one.announce, "It is noon.")
        said = bo.receive_json()
        self.assertEqual(
            said, {"nrong": "It is noon.", "code": False, "code1": "all"}
        )

    def test_who_comes_and_goes(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one, "Ana"), self.peer(two)
        self.ready(ana, bo)
        bo.send("type=add&ming=Bo")
        madd = bo.receive_json()
        people = {each["name"]: each["code"] for each in madd["users"]}
        self.assertEqual(people, {"Ana": ana.code, "Bo": madd["code"]})
        added = self.told(ana, type="add", name="Bo")
        self.assertEqual(added["code"], madd["code"])
        self.assertNotEqual(ana.code, madd["code"])
        for code in people.values():
            self.assertRegex(code, r"\A1-[0-9a-f]{8}\Z")
        for _ in range(2):  # The same name again is told again, as here.
            ana.send("type=add&ming=Anna")
            renamed = bo.receive_json()
            named = renamed["type"], renamed["name"], renamed["code"]
            self.assertEqual(named, ("add", "Anna", ana.code))
        ana.close()
        gone = bo.receive_json()
        self.assertEqual((gone["type"], gone["nrong"]), ("rmove", ana.code))
        cleo = self.peer(two)
        cleo.send("type=add&ming=Cleo")
        names = [each["name"] for each in cleo.receive_json()["users"]]
        self.assertEqual(names, ["Bo", "Cleo"])

    def test_whispers(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one, "Ana"), self.peer(two, "Bo")
        cleo, dan = self.peer(one), self.peer(two)
        ana.send(f"nr=psst&key={bo.code}")
        for peer in (ana, bo):
            said = self.told(peer, nrong="psst")
            self.assertEqual(said["code"], ana.code)
            self.assertEqual(said["code1"], bo.code)
        # Also to one who has no name, and to oneself.
        ana.send(f"nr=you&key=2{two.mark}")
        self.assertEqual(self.told(dan, nrong="you")["code"], ana.code)
        ana.send(f"nr=me&key={ana.code}")
        self.told(ana, nrong="me")
        ana.send("nr=end&key=all")
        for peer in (cleo, dan):
            while True:
                said = peer.receive_json()
                self.assertNotIn(said.get("nrong"), ("psst", "me"))
                if said.get("nrong") == "end":
                    break
        self.assertEqual(said["code"], ana.code)

    def test_a_whisper_to_nobody(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one, "Ana"), self.peer(two, "Bo")
        ours = ana.code.partition("-")[2]
        theirs = bo.code.partition("-")[2]
        for code in (
            "7", "1", "x", "-", f"7-{ours}", f"7-{theirs}", "1-01234567",
            f"0-{theirs}", f"-{theirs}", f"1-{theirs}0", f"01-{theirs}",
            f"99999999999-{theirs}", f"{bo.code} ",
        ):  # fmt: skip
            with self.subTest(code):
                ana.send(f"nr=psst&key={code}")
                said = self.told(ana, code=False)
                self.assertIn("nobody with the code", said["nrong"])
                self.assertEqual(said["code1"], code[:20])
        ana.send("nr=end&key=all")
        while True:
            said = bo.receive_json()
            if said.get("type") != "add":
                break
        self.assertEqual(said["nrong"], "end")

    def test_a_thousand_in_order(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        for number in range(1000):
            ana.send(f"{number}")
        for peer in (ana, bo):
            heard = [int(peer.receive()) for _ in range(1000)]
            self.assertEqual(heard, list(range(1000)))

    def test_large_messages(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        said = [bytes([number]) * (2**20 - number) for number in range(9)]
        threading.Thread(target=list, args=[map(ana.send, said)]).start()
        for message in said:
            self.assertEqual(bo.receive(), message)
            self.assertEqual(ana.receive(), message)

    def test_a_room_closes(self):
        one = self.room()
        bo = self.peer(one, "Bo")
        two = Room()
        redis.link(two, parse_address(self.redis.address))
        with serving(two):
            self.wait_for(one, "is here")
            self.peer(two, "Ana")
            code = self.told(bo, type="add", name="Ana")["code"]
        self.told(bo, type="rmove", nrong=code)
        self.assertEqual(self.count(one, "has gone, with 1 named user"), 1)
        self.assertEqual(self.redis.count(b"DEL"), 1)
        self.assertEqual(len(self.redis.keys), 1)


class Pieces(LinkedCase):
    """However a Redis answers, if only it does, nobody notices."""

    def talk(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one, "Ana"), self.peer(two, "Bo")
        for number in range(5):
            for peer in (ana, bo):
                peer.send(f"nr={number}&key=all")
        for peer in (ana, bo):
            heard = {ana.code: "", bo.code: ""}
            while any(len(said) < 5 for said in heard.values()):
                said = self.told(peer, code1="all")
                heard[said["code"]] += said.get("nrong", "")
            self.assertEqual(set(heard.values()), {"01234"})

    def test_byte_by_byte(self):
        self.redis.pieces = lambda answer: [
            answer[at : at + 1] for at in range(len(answer))
        ]
        self.talk()

    def test_slowly(self):
        def slowly(answer):
            half = len(answer) // 2
            yield answer[:half]
            threading.Event().wait(0.02)
            yield answer[half:]

        self.redis.pieces = slowly
        self.talk()


# What a Redis may answer wrongly: the command, the answer, what is noted.
WRONG = (
    ("SELECT", b"$2\r\nOK\r\n", "answers"),
    ("SELECT", b"-ERR DB index is out of range\r\n", "DB index"),
    ("SET", b":1\r\n", "answers"),
    ("SET", b"-NOPERM this user has no permissions\r\n", "NOPERM"),
    ("XRANGE", OK, "answers"),
    ("XRANGE", b"*1\r\n*1\r\n$3\r\n1-1\r\n", "answers"),
    ("XRANGE", b"*1\r\n*2\r\n$3\r\nx-1\r\n*0\r\n", "answers"),
    ("XRANGE", b"*1\r\n*2\r\n$1\r\n1\r\n*0\r\n", "answers"),
    ("XRANGE", b"*1\r\n*2\r\n:1\r\n*0\r\n", "answers"),
    ("XRANGE", b"*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n*0\r\n:1\r\n", "answers"),
    ("XRANGE", b"-WRONGTYPE not a stream\r\n", "WRONGTYPE"),
    ("XADD", OK, "answers"),
    ("XADD", b"$-1\r\n", "answers"),
    ("XADD", b"-ERR unknown command 'XADD'\r\n", "unknown command"),
    ("XREAD", OK, "answers"),
    ("XREAD", b":7\r\n", "answers"),
    ("XREAD", b"*0\r\n", "answers"),
    ("XREAD", b"*1\r\n:1\r\n", "answers"),
    ("XREAD", b"*1\r\n*2\r\n+s\r\n:1\r\n", "answers"),
    ("XREAD", b"*1\r\n*0\r\n", "answers"),
    ("XREAD", b"*1\r\n*2\r\n+s\r\n*1\r\n*2\r\n+1\r\n*0\r\n", "answers"),
    ("XREAD", b"-ERR\r\n", "ERR"),
    ("XREAD", b"HTTP/1.1 400 Bad Request\r\n", "RESP"),
    ("MGET", OK, "answers"),
    ("MGET", b"*0\r\n", "answers"),
    ("MGET", b"*1\r\n$-1\r\n", "forgotten us"),
    ("MGET", b"*1\r\n$2\r\n{}\r\n:7\r\n", "answers"),
)


class Wrong(LinkedCase):
    def test_a_wrong_answer_costs_only_the_link(self):
        self.patch(BEAT=0.05, FIRST_DELAY=0.01, MAX_DELAY=0.02)
        room = self.room()
        ana = self.peer(room)
        for command, answer, words in WRONG:
            with self.subTest(command, answer=answer):
                room.lines.clear()
                self.redis.wrong[command] = answer
                if command not in ("XREAD", "XADD", "MGET"):
                    self.redis.cut()  # These are only asked at the start.
                ana.send("again")
                self.assertEqual(ana.receive(), "again")
                self.wait_for(room, words)
                ana.send("still here")
                self.assertEqual(ana.receive(), "still here")
                self.redis.wrong.clear()
                self.wait_for(room, "the link to Redis is back")
                for line in room.lines:
                    self.assertTrue(line.isprintable(), line)

    def test_an_answer_to_no_question(self):
        self.patch(FIRST_DELAY=0.01)
        room = self.room()
        wait_until(lambda: self.redis.count(b"XREAD"))
        writer = self.redis.writer
        writer.sendall(b":7\r\n")
        self.wait_for(room, "an answer to no question")
        self.wait_for(room, "is back")

    def test_what_goes_and_comes_is_one_line_each(self):
        self.patch(FIRST_DELAY=0.01, MAX_DELAY=0.02)
        room = self.room()
        self.redis.wrong["SET"] = b"-OOM command not allowed\r\n"
        self.redis.cut()
        self.ask_again(b"SET", 10)
        self.redis.wrong.clear()
        self.wait_for(room, "is back")
        ana = self.peer(room)
        self.redis.wrong["XADD"] = b"-OOM command not allowed\r\n"
        self.redis.cut()
        self.ask_again(b"XADD", 10)
        self.redis.wrong.clear()
        self.wait_for(room, "is back", 2)
        ana.send("x")
        self.assertEqual(ana.receive(), "x")
        # All these attempts have made one hello, or two.
        numbers = [words[10].split()[0] for words in self.redis.asked_to_add()]
        self.assertLess(int(numbers[-1]), 6)
        told = [line for line in room.lines if "Redis" in line][:3]
        self.assertEqual(len(told), 3, told)
        self.assertIn("linked by Redis", told[0])
        self.assertIn("is gone, we go on alone: it hung up", told[1])

    def test_one_who_is_silent(self):
        for commands in (
            ("SELECT",),
            ("XADD", "MGET", "SET", "EXPIRE"),
            ("XREAD",),
        ):
            with self.subTest(commands):
                self.patch(
                    SILENCE=0.2, BLOCK=100, BEAT=0.05, FIRST_DELAY=0.01,
                    MAX_DELAY=0.02,
                )  # fmt: skip
                room = self.room()
                ana = self.peer(room)
                self.redis.wrong.update(dict.fromkeys(commands))
                if "SELECT" in commands:
                    self.redis.cut()
                ana.send("one")
                self.assertEqual(ana.receive(), "one")
                if "SELECT" not in commands:
                    self.wait_for(room, "alone: no answer")
                self.ask_again(b"SELECT")
                ana.send("two")
                self.assertEqual(ana.receive(), "two")
                self.redis.wrong.clear()
                self.wait_for(room, "is back")
                self.assertEqual(self.count(room, "is back"), 1)
                room.stop()

    def test_it_is_tried_less_and_less_often(self):
        self.patch(FIRST_DELAY=0.02, MAX_DELAY=0.2)
        self.room()
        self.redis.wrong["SET"] = b"-OOM command not allowed\r\n"
        self.redis.cut()
        began = time.monotonic()
        self.ask_again(b"SET", 8)  # 0.02 + 0.04 + ... + 0.2 + 0.2
        self.assertGreater(time.monotonic() - began, 0.6)

    def test_the_other_address_of_the_host(self):
        real = socket.getaddrinfo

        def two(host, port, *arguments, **options):
            with socket.create_server(("127.0.0.1", 0)) as closed:
                nobody = closed.getsockname()[1]
            found = real(host, nobody, *arguments, **options)
            return found + real(host, port, *arguments, **options)

        self.patch(FIRST_DELAY=5.0)
        with mock.patch("socket.getaddrinfo", two):
            room = Room()
            redis.link(room, parse_address(self.redis.address))
        with serving(room):
            self.wait_for(room, "linked by Redis")
        self.assertEqual(self.count(room, "no link"), 0)

    def test_an_entry_that_is_not_ours(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one, "Ana"), self.peer(two, "Bo")
        self.told(ana, type="add", name="Bo")
        theirs = bo.code.partition("-")[2].encode()
        room = {b"server": b"01234567", b"first": b"1"}
        bad = [
            {b"a": b"b"},
            {b"1 text": b"x"},
            {b"server": b"0123456", b"1 text": b"x"},
            {b"server": b"01234567\n", b"1 text": b"x"},
            {b"server": b"\xff", b"1 text": b"x"},
            {b"server": b"01234567", b"1 text": b"x"},
            {**room, b"first": b"0", b"1 text": b"x"},
            *({**room, head: b"x"} for head in (
                b"", b" ", b"1", b"text", b"0 text", b"-1 text", b"1  text",
                b"1" * 5000 + b" text", b"1 shout", b"1 __init__", b"\xff",
                b"1 name", b"1 name x", b"1 name 0", b"1 leave", b"1 hello",
                b"1 here", b"1 hello 1",
            )),
            {**room, b"1 text": b"\xff"},
            {**room, b"1 text": b"heard?", b"2 shout": b"x"},
            {**room, b"1 name 1": b""},
            {**room, b"1 name 1": b"a" * 21},
            {**room, b"1 hello": b"[]"},
            {**room, b"1 hello": b"[" * 100_000},
            {**room, b"1 here": b'{"1": 1}'},
            {**room, b"1 here": b'{"x": "a"}'},
            {**room, b"1 here": b'{"1": "\\ud800"}'},
            {**room, b"1 here": b'{"1": ["Bo"]}'},
        ]  # fmt: skip
        for fields in bad:
            values = [each for pair in fields.items() for each in pair]
            self.redis.xadd(None, b"s", b"", b"", b"99", b"*", *values)
        self.redis.xadd(None, b"s", b"", b"", b"99", b"*", b"odd")
        # A room speaks for its own people only.
        values = [b"server", b"01234567", b"first", b"1", b"1 leave 1", b""]
        values += [b"2 bye", theirs]
        self.redis.xadd(None, b"s", b"", b"", b"99", b"*", *values)
        bo.send("last")
        self.assertEqual(ana.receive(), "last")
        self.assertEqual(bo.receive(), "last")
        for room in (one, two):
            self.assertEqual(self.count(room, "another program"), 1, room.lines)
            self.assertEqual(len(room.guests), 1)

    def test_another_key_that_is_not_ours(self):
        self.patch(BEAT=0.05)
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        for value in (
            b"", b"{", b"[" * 100_000, b"[]", b"7", b"{}", b"null", b'"x"',
            b'{"x": 1}', b'{"x": Infinity}', b"\xff",
        ):  # fmt: skip
            value = value.replace(b"x", two.mark[1:].encode())
            answer = listed([b"$2\r\n{}\r\n", b"$%d\r\n%b\r\n" % (
                len(value), value)])  # fmt: skip
            self.redis.wrong["MGET"] = answer
            self.ask_again(b"MGET", 3)
        ana.send("last")
        self.assertEqual(bo.receive(), "last")
        self.assertEqual(ana.receive(), "last")
        self.assertEqual(self.count(one, "gone"), 0)


class NothingIsLost(LinkedCase):
    def setUp(self):
        super().setUp()
        self.patch(FIRST_DELAY=0.02, MAX_DELAY=0.05)

    def hear(self, peer, count):
        """Return the next raw texts, which nothing comes between."""
        return [peer.receive() for _ in range(count)]

    def test_while_the_link_is_down(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        self.redis.wrong["SELECT"] = None
        self.redis.cut()
        self.wait_for(one, "is gone")
        self.wait_for(two, "is gone")
        said = [str(number) for number in range(100)]
        for word in said:
            ana.send(word)
        ana.send("type=add&ming=Ana")
        self.assertEqual(self.hear(ana, 100), said)  # here at once
        madd = ana.receive_json()
        self.redis.wrong.clear()
        self.redis.cut()
        self.assertEqual(self.hear(bo, 100), said)
        self.assertEqual(bo.receive_json()["code"], madd["code"])
        bo.send("back")
        self.assertEqual(ana.receive(), "back")

    def test_taken_but_not_answered(self):
        """Redis took it, and the link was lost before it said so."""
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        for word in "abc":
            self.redis.cut_at = "XADD"
            ana.send(word)
            self.assertEqual(bo.receive(), word)
            self.wait_for(one, "is back", "abc".index(word) + 1)
        ana.send("end")
        self.assertEqual(bo.receive(), "end")

    def test_taken_but_forgotten(self):
        """Redis said that it took it, and died before others had read it."""
        self.patch(BEAT=0.05)
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        ana.send("a")
        self.assertEqual(bo.receive(), "a")
        self.redis.wrong["XREAD"] = None  # Nobody reads any more.
        ana.send("b")
        ana.send("c")
        wait_until(lambda: any(b"c" in words for words in self.redis.asked))
        self.ask_again(b"MGET", 3)  # So one knows what two has heard.
        self.redis.clear()
        self.redis.wrong.clear()
        self.redis.cut()
        self.wait_for(one, "is back")
        ana.send("d")
        self.assertEqual(self.hear(bo, 3), ["b", "c", "d"])

    def test_a_log_that_loses_its_end(self):
        """What came behind the loss is not taken before what is lost."""
        self.patch(BEAT=0.1)
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        ana.send("a")
        self.assertEqual(bo.receive(), "a")
        self.redis.wrong["XREAD"] = None  # Nobody reads any more.
        ana.send("b")
        ana.send("c")
        wait_until(lambda: b"c" in self.redis.log[-1][2])
        self.redis.log.clear()  # as DEL and XTRIM do; the keys stay
        ana.send("d")
        wait_until(lambda: self.redis.log)
        self.redis.wrong.clear()
        self.assertEqual(self.hear(bo, 3), ["b", "c", "d"])
        ana.send("e")
        self.assertEqual(bo.receive(), "e")
        for room in (one, two):
            self.assertEqual(self.count(room, "lost"), 0, room.lines)

    def test_one_that_is_refused_and_the_next_one_that_is_not(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        ana.send("a")
        self.assertEqual(bo.receive(), "a")
        self.redis.refuse = b"not this"
        ana.send("not this")
        ana.send("c")
        self.wait_for(one, "is gone, we go on alone: it says OOM")
        self.ask_again(b"XADD", 4)
        self.redis.refuse = None
        self.assertEqual(self.hear(bo, 2), ["not this", "c"])
        self.wait_for(one, "is back")
        self.assertEqual(self.count(one, "is gone"), 1, one.lines)

    def test_a_clock_that_was_put_back(self):
        """Nothing broke, all is deleted, and new places are smaller."""
        self.patch(BEAT=0.1)
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        ana.send("a")
        self.assertEqual(bo.receive(), "a")
        self.redis.before_id = -60_000
        self.redis.clear()
        for word in "bcd":
            ana.send(word)
        self.assertEqual(self.hear(bo, 3), ["b", "c", "d"])
        self.wait_for(one, "it has forgotten us")

    def test_a_room_that_others_have_let_go(self):
        """Its hello was taken; it had no answer, and no link for long."""
        self.patch(BEAT=0.1, LIFE=1)
        one, two = self.two_rooms()
        ana, bo = self.peer(one, "Ana"), self.peer(two, "Bo")
        self.redis.refuse = one.others.id.encode()
        self.redis.is_late = True  # It takes them, and says that it does not.
        self.ask_again(b"MGET", 25)  # Both links are older than LIFE.
        ana.send("nr=hi&key=all")
        self.told(bo, type="rmove", nrong=ana.code)
        self.redis.refuse = None
        self.assertEqual(self.told(bo, type="add")["code"], ana.code)
        bo.send(f"nr=psst&key={ana.code}")
        self.told(ana, nrong="psst")

    def test_a_log_that_begins_anew_with_an_earlier_clock(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        ana.send("a")
        self.assertEqual(bo.receive(), "a")
        self.redis.clear()
        self.redis.before_id = -1_000_000
        old = (
            b"server",
            b"01234567",
            b"first",
            b"1",
            b"7 text",
            b"from before our time",
        )
        self.redis.xadd(None, b"s", b"", b"", b"99", b"*", *old)
        self.redis.cut()
        self.wait_for(one, "is back")
        self.wait_for(two, "is back")
        ana.send("b")
        self.assertEqual(bo.receive(), "b")

    def test_redis_forgets_all_and_hangs_up_on_nobody(self):
        self.patch(BEAT=0.1, LIFE=1)
        one, two = self.two_rooms()
        bo = self.peer(two)
        self.ask_again(b"MGET", 25)  # for longer than LIFE
        self.redis.clear()
        wait_until(lambda: len(self.redis.keys) == 2)
        three = self.room()
        self.wait_for(three, "is here", 2)
        self.peer(one, "Ana")
        self.told(bo, type="add", name="Ana")
        self.assertEqual(self.count(two, "has gone"), 0)

    def test_a_letter_that_only_a_newer_python_knows(self):
        one, two = self.two_rooms()
        bo = self.peer(two)
        values = [
            b"server",
            b"01234567",
            b"first",
            b"1",
            b"1 name 3",
            b"\xf3\xb0\x80\x80",
        ]
        values += [b"2 text", b"x", b"3 here", b'{"3": "\\ud83e\\udee8"}']
        self.redis.xadd(None, b"s", b"", b"", b"99", b"*", *values)
        named = self.told(bo, type="add")
        self.assertEqual(named["name"], "\U000f0000")
        self.assertEqual(bo.receive(), "x")
        self.assertEqual(bo.receive_json()["name"], "\U0001fae8")

    def test_a_rush_behind_a_broken_link_comes_in_small_entries(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        self.redis.wrong["SELECT"] = None
        self.redis.cut()
        self.wait_for(one, "is gone")
        said = [f"{number:05}" * 200 for number in range(200)]
        for word in said:
            ana.send(word)
        self.assertEqual(self.hear(ana, 200), said)
        self.redis.wrong.clear()
        self.redis.cut()
        self.assertEqual(self.hear(bo, 200), said)
        for words in self.redis.asked_to_add():
            self.assertLess(sum(map(len, words)), 40_000)

    def test_a_room_that_links_later_than_another(self):
        """Redis forgot both; the one that is back first gives it time."""
        self.patch(BEAT=0.05, LIFE=1)
        one, two = self.two_rooms()
        self.ask_again(b"MGET", 50)  # for longer than LIFE
        release = threading.Event()
        self.stack.callback(release.set)
        two.call_soon(release.wait)
        self.redis.clear()
        self.redis.cut()
        self.wait_for(one, "is back")
        self.ask_again(b"MGET", 5)
        release.set()
        self.wait_for(two, "is back")
        self.assertEqual(self.count(one, "has gone"), 0)

    def test_who_reads_is_not_drowned_by_what_was_missed(self):
        one, two = self.room(), self.room(max_backlog=2_000_000)
        for room in (one, two):
            self.wait_for(room, "is here")
        ana, bo = self.peer(one), self.peer(two)
        self.redis.wrong["XREAD"] = None
        self.redis.cut()
        self.wait_for(two, "is back")
        said = [bytes([number]) * 100_000 for number in range(120)]
        for message in said:
            ana.send(message)
            self.assertEqual(ana.receive(), message)
        wait_until(lambda: said[-1] in self.redis.log[-1][2])
        self.redis.wrong.clear()
        self.redis.cut()
        user = next(iter(two.users.values()))
        wait_until(lambda: user.waiting > 1_000_000)  # It begins to read late.
        for _ in range(50):  # Meanwhile its room must not read all the rest.
            ana.send("x")
            self.assertEqual(ana.receive(), "x")
        said += ["x"] * 50
        self.assertEqual([bo.receive() for _ in said], said)
        self.assertEqual(self.count(two, "left"), 0, two.lines)

    def test_what_happens_at_the_end_of_a_turn_is_told_at_once(self):
        one, two = self.two_rooms()
        ana, bo = self.peer(one, "Ana"), self.peer(two, "Bo")
        # Without work, a room may sleep so long.
        self.stack.enter_context(mock.patch.object(server, "PATIENCE", 4.0))
        for peer in (ana, bo):  # From their next turn on they do.
            peer.send("x")
        self.ready(ana, bo)
        began = time.monotonic()
        ana.close()
        self.told(bo, type="rmove", nrong=ana.code)
        self.assertLess(time.monotonic() - began, 2)

    def test_a_room_that_closes_without_a_link_says_what_is_lost(self):
        for words, lines in ((), 0), ("ab", 1):
            with self.subTest(words):
                room = self.room()
                ana = self.peer(room)
                self.redis.wrong["SELECT"] = None
                self.redis.cut()
                self.wait_for(room, "is gone")
                for word in words:
                    ana.send(word)
                    self.assertEqual(ana.receive(), word)
                room.stop()
                wait_until(lambda: not room.running)  # noqa: B023
                self.redis.wrong.clear()
                found = self.count(room, "lost for the other rooms: 2 mess")
                self.assertEqual(found, lines)

    def test_what_is_said_before_the_first_link(self):
        port = self.redis.port
        self.redis.__exit__()
        room = self.room()
        self.wait_for(room, "no link yet")
        with ScriptedRedis(password="x", port=port) as locked:
            self.wait_for(room, "no link to Redis: it says NOAUTH")
            before = locked.count(b"SELECT")
            wait_until(lambda: locked.count(b"SELECT") > before + 3)
        self.assertEqual(self.count(room, "NOAUTH"), 1)
        ana = self.peer(room, "Ana")
        ana.send("early")
        self.assertEqual(ana.receive(), "early")
        self.redis = self.stack.enter_context(ScriptedRedis(port=port))
        self.wait_for(room, "linked by Redis")
        two = self.room()
        bo = self.peer(two)
        self.wait_for(two, "is here, with 1 named user")
        bo.send("type=add&ming=Bo")
        names = [each["name"] for each in self.told(bo, type="madd")["users"]]
        self.assertEqual(sorted(names), ["Ana", "Bo"])


class TooMuch(LinkedCase):
    def setUp(self):
        super().setUp()
        self.patch(FIRST_DELAY=0.02, MAX_DELAY=0.05)

    def lose(self, one, two, said):
        """Say something without a link; return what is heard elsewhere."""
        ana, bo = self.peer(one), self.peer(two)
        self.redis.wrong["SELECT"] = None
        self.redis.cut()
        self.wait_for(one, "is gone")
        for word in said:
            ana.send(word)
        for word in said:
            self.assertEqual(ana.receive(), word)
        self.wait_for(one, "too much waits for Redis")
        self.redis.wrong.clear()
        self.redis.cut()
        ana.send("end")
        heard = [bo.receive()]
        while heard[-1] != "end":
            heard.append(bo.receive())
        self.wait_for(one, "lost for the other rooms")
        self.assertEqual(self.count(one, "too much"), 1)
        return heard[:-1]

    def test_too_many(self):
        self.patch(MAX_KEPT=10)
        one, two = self.two_rooms()
        said = [str(number) for number in range(30)]
        heard = self.lose(one, two, said)
        self.assertEqual(heard, said[30 - len(heard) :])
        self.assertTrue(7 <= len(heard) <= 10, heard)
        # Each link begins with an entry that tells who is here.
        self.wait_for(two, f": {30 - len(heard)} events")

    def test_too_many_bytes(self):
        one, two = self.two_rooms(max_backlog=100_000)
        said = [str(number) * 10_000 for number in range(9)]
        said += [letter * 10_000 for letter in "abcdef"]
        heard = self.lose(one, two, said)
        self.assertEqual(heard, said[-len(heard) :])
        self.assertTrue(6 <= len(heard) <= 9)

    def test_one_that_is_larger_than_all_that_is_kept(self):
        one, two = self.two_rooms(max_backlog=1000)
        ana, bo = self.peer(one), self.peer(two)
        ana.send("a" * 5000)
        self.assertEqual(bo.receive(), "a" * 5000)

    def test_what_was_heard_is_not_kept(self):
        self.patch(BEAT=0.05)
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)
        for word in map(str, range(100)):
            ana.send(word)
            self.assertEqual(bo.receive(), word)
        wait_until(lambda: len(one.others.kept) == 0)
        wait_until(lambda: len(two.others.kept) == 0)

    def test_the_log_keeps_so_many_bytes(self):
        self.patch(MAX_BYTES=100_000, MAX_ENTRIES=50)
        one, two = self.two_rooms()
        ana, bo = self.peer(one), self.peer(two)

        def say(word, times):
            for _ in range(times):
                ana.send(word)
                self.assertEqual(bo.receive(), word)
            return len(self.redis.log)

        self.assertLess(say("x" * 10_000, 130), 25)
        # What is small has room again, when a hundred of them were seen.
        self.assertLess(say("x", 30), 55)
        wait_until(lambda: say("x", 10) > 45)
        self.assertLess(say("x", 10), 55)


class Alive(LinkedCase):
    def test_a_room_that_says_nothing_leaves_with_its_people(self):
        self.patch(BEAT=0.1, LIFE=1)
        one, two = self.two_rooms()
        ana, bo = self.peer(one, "Ana"), self.peer(two, "Bo")
        self.told(ana, type="add", name="Bo")
        began = time.monotonic()
        release = threading.Event()
        self.stack.callback(release.set)
        two.call_soon(release.wait)  # A hook that waits stops all of it.
        self.told(ana, type="rmove", nrong=bo.code)
        self.assertLess(time.monotonic() - began, 5)
        self.wait_for(one, "has gone, with 1 named user")
        # It was not dead: it comes back with its people.
        release.set()
        self.assertEqual(self.told(ana, type="add")["code"], bo.code)
        ana.send("nr=hello&key=" + bo.code)
        self.told(bo, nrong="hello")

    def test_redis_is_not_to_blame_when_the_loop_stands_still(self):
        self.patch(SILENCE=0.2, BLOCK=100, BEAT=0.05)
        room = self.room()
        ana = self.peer(room)
        patience = mock.patch.object(redis, "STOOD_STILL", 0.1)
        self.stack.enter_context(patience)
        for _ in range(3):
            done = threading.Event()
            room.call_soon(lambda: threading.Event().wait(0.5))
            room.call_soon(done.set)
            self.assertTrue(done.wait(5))
            self.ask_again(b"MGET", 3)
        self.assertEqual(self.count(room, "gone"), 0, room.lines)
        ana.send("x")
        self.assertEqual(ana.receive(), "x")

    def test_a_room_ends_beside_a_redis_that_hangs(self):
        room = Room()
        redis.link(room, parse_address(self.redis.address))
        began = time.monotonic()
        with serving(room):
            self.redis.wrong["XADD"] = None
            peer = self.peer(room)
            peer.send("x")
            self.assertEqual(peer.receive(), "x")
            room.stop()
            self.assertEqual(peer.next()[0], CLOSE)
            peer.close()
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(room.guests, [])
        self.assertEqual(self.redis.count(b"SELECT"), 2)  # It does not dial.
        self.assertEqual(self.count(room, "other rooms: 1 message"), 1)

    def test_a_room_ends_without_a_link(self):
        self.redis.__exit__()
        room = Room()
        redis.link(room, parse_address(self.redis.address))
        with serving(room):
            self.peer(room).close()
        self.assertEqual(room.guests, [])

    def test_more_sockets_than_select_can_watch(self):
        with mock.patch.object(redis, "FD_SETSIZE", 1):
            room = self.room()
            self.peer(room).close()
        if sys.platform != "win32":
            self.assertIn("more sockets", str(room.lines))

    def test_it_connects_without_waiting(self):
        """A newcomer waits while the other side does not take it."""
        self.patch(SILENCE=0.3, START_SECONDS=0.1)
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            place = full.getsockname()
            with contextlib.ExitStack() as stack:
                for _ in range(3):
                    knock = stack.enter_context(socket.socket())
                    knock.setblocking(False)
                    knock.connect_ex(place)
                room = self.room(f"127.0.0.1:{place[1]}")
                ana = self.peer(room)
                for _ in range(9):
                    ana.send("x")
                    self.assertEqual(ana.receive(), "x")
        self.assertIn("no link yet", room.lines[0])

    def test_one_that_was_heard_since_it_was_asked_for(self):
        """The answer is older than its hello: it had no key yet."""
        room = mock.Mock(max_backlog=1000)
        ours = rooms.Rooms(room)
        hello = {
            b"server": b"01234567",
            b"first": b"1",
            b"1 hello": b'{"3": "Ana"}',
        }
        ours.hear(hello, 10.0, False)
        ours.drop_room("01234567", 9.0)
        self.assertEqual(ours.who_is_here(), ["01234567"])
        room.remove_person.assert_not_called()
        ours.drop_room("01234567", 11.0)
        self.assertEqual(ours.who_is_here(), [])
        room.remove_person.assert_called_once_with("3-01234567")


class Seen(LinkedCase):
    def test_the_trace_names_the_link(self):
        text = (ROOT / "lessons" / "building.md").read_text("utf-8")
        sample = re.search("^turn 8 .*\n.*\n", text, re.M)[0]
        asked, got = (
            re.sub("turn 8|slept.*", "", line).strip()
            for line in sample.splitlines()
        )
        room = Room()
        redis.link(room, parse_address(self.redis.address))
        shown = []
        room.observer = Trace(room, shown.append, "full")
        with serving(room):
            self.peer(room, "Ana")
            both = rf"turn \d+ +{asked} +slept .*\n +{got}$"
            wait_until(lambda: re.search(both, "\n".join(shown), re.M))


class CommandLine(LinkedCase):
    def refused(self, address, words):
        """Start a server that cannot; look at what it says."""
        done = subprocess.run(
            [sys.executable, "server.py", "0", "--redis", address],
            cwd=ROOT,
            capture_output=True,
            timeout=DEADLINE,
        )
        said = done.stderr.decode()
        self.assertEqual((done.returncode, done.stdout), (2, b""), said)
        lines = said.splitlines()
        self.assertEqual(len(lines), 2, lines)
        self.assertIn(words, said)
        for line in lines:
            self.assertLess(len(line), 80)
            self.assertTrue(line.isascii())
        self.assertNotIn("secret", said)
        self.assertNotIn("Traceback", said)

    def test_what_can_never_work(self):
        with ScriptedRedis(password="secret") as locked, serving(
            Room()
        ) as room:
            port, open_to_all = locked.port, self.redis.port
            cases = (
                (f"127.0.0.1:{port}", "NOAUTH"),
                (f"redis://:secret2@127.0.0.1:{port}", "WRONGPASS"),
                (f"redis://:secret@127.0.0.1:{port}/99", "out of range"),
                (f"redis://:secret@127.0.0.1:{open_to_all}", "ERR AUTH"),
                (f"127.0.0.1:{room.port}", "not speak RESP: b'HTTP/1.1"),
                ("no-such-host.invalid", "no host"),
                ("a..b", "no host"),
                ("a" * 300, "no host"),
                ("\u20ac" * 300, "no host"),
                ("here:x", "port"),
                ("rediss://here", "TLS"),
                ("here/x", "database"),
                ("", "HOST:PORT"),
            )  # fmt: skip
            side_by_side(self, self.refused, cases)

    def silent(self):
        """Return the address of one who listens and says nothing."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def test_one_who_is_silent_at_the_start(self):
        address = self.silent()
        with mock.patch.object(redis, "START_SECONDS", 0.2):
            began = time.monotonic()
            room = self.room(address)
            self.assertLess(time.monotonic() - began, 3)
        self.wait_for(room, "no link yet")

    def test_ctrl_c_at_the_start(self):
        room = Room()
        self.addCleanup(close_all, room)
        settle = mock.Mock(side_effect=KeyboardInterrupt)
        self.patch(settle=settle)
        with self.assertRaises(SystemExit) as ended:
            redis.link(room, parse_address(self.silent()))
        self.assertEqual(ended.exception.code, 130)

    def test_a_password_of_any_bytes(self):
        words = parse_address("redis://:\udcff@here").password
        self.assertEqual(resp.command(words), b"*1\r\n$1\r\n\xff\r\n")

    def test_the_right_password(self):
        with ScriptedRedis(password="s@c/") as locked:
            url = f"redis://:s%40c%2f@127.0.0.1:{locked.port}"
            with Process("0", "--redis", url) as process:
                process.wait_for("linked by Redis at 127.0.0.1")
                self.assertNotIn("s@c", "".join(process.lines))

    def test_nobody_answers_yet(self):
        port = self.redis.port
        self.redis.__exit__()
        with Process("0", "--redis", f"127.0.0.1:{port}") as process:
            process.wait_for("no link yet to Redis at 127.0.0.1")
            with Peer(process.port) as ana:
                ana.send("x")
                self.assertEqual(ana.receive(), "x")
            with ScriptedRedis(port=port):
                process.wait_for("linked by Redis at 127.0.0.1")
                process.signal(signal.SIGINT)
                self.assertEqual(process.end(), 0)
        self.assertEqual(process.errors, [])
        for line in process.lines:
            self.assertLess(len(line), 100)


if __name__ == "__main__":
    unittest.main()
