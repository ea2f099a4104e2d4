"""Rooms of three servers, joined by a real Redis: what their people see.

The servers are child processes. Nothing in them is looked at but what a
client hears and what the diary says.
"""

from __future__ import annotations

import json
import random
import re
import select
import signal
import time
import unittest
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, cycle, permutations, product

import codec
from tests.real_redis import HOST, Proxy, RealRedis, find_redis
from tests.support import (
    DEADLINE,
    MASKING_KEY,
    ROOT,
    Peer,
    Process,
    wait_until,
)

TEXT, BINARY, PING, PONG = codec.TEXT, codec.BINARY, codec.PING, codec.PONG
MIB = 2**20
ROUNDS = 50  # each with something that is killed; 0.6 s or so for each
SEED = 1
CROWD = 10  # people of each server
PACE = 300  # messages that a crowd says in a second, all in all
AT_ONCE = 5.0  # seconds; so soon those of a room that closes have left,
IN_THE_END = 15.0  # seconds; and so soon those of one that was killed
NAMES = ["Ana", "Ben", "Cem", "Dan", "Eva", "Fay"]
MAX_ENTRIES = 10_000  # in the log, about
MAX_BYTES = 64 * MIB  # in the log, about


# python -c QUICK server.py 0: a server that looks ten times as often who is
# there, and what they have heard. Who is tried in vain is tried again soon:
# else, after many failures, each round would wait for five seconds.
QUICK = """
import sys
import server
from lessons import redis
redis.BEAT, redis.LIFE, redis.MAX_DELAY = 0.3, 3, 0.4
sys.exit(server.main(sys.argv[2:]))
"""

# Some entries for the log, which no room has written.
FILL = """
for number = 1, ARGV[1] do
    redis.call("XADD", "chatroom", "*", "number", number)
end
"""


def setUpModule():
    find_redis()


# ---- rooms and people -------------------------------------------------------


class Room(Process):
    """A server that is linked by Redis; id: its part of a code."""

    def __init__(self, port, password="", python=()):
        before = f"redis://:{password}@" if password else ""
        address = f"{before}{HOST}:{port}"
        super().__init__("0", "--redis", address, python=python, cwd=ROOT)

    @property
    def id(self):
        """Wait until it is linked; return how it is called then."""
        return self.wait_for("linked by Redis").rpartition(" ")[2]

    def count(self, pattern, since=0):
        """Return how many lines of the diary have this in them."""
        lines = self.lines[since:]
        return sum(bool(re.search(pattern, line)) for line in lines)


class Person(Peer):
    """A client; log: what it has heard, without the room's "time"."""

    def __init__(self, room):
        super().__init__(room.port)
        self.room = room
        self.name = self.code = ""
        self.log = []

    def hear(self):
        """Return the next message: the room's JSON as a dict."""
        message = self.receive()
        if isinstance(message, str) and message.startswith("{"):
            message = json.loads(message)
            time.strptime("2024-" + message.pop("time"), "%Y-%m-%d %H:%M:%S")
        self.log.append(message)
        return message

    def hear_until(self, *messages):
        """Hear until each of these was heard."""
        while not all(message in self.log for message in messages):
            self.hear()

    def take_name(self, name):
        """Say who we are; return the list of all people, by their codes."""
        self.send(f"type=add&ming={name}")
        madd = self.hear()
        while "users" not in madd:
            madd = self.hear()
        self.name, self.code = madd["name"], madd["code"]
        return {user["code"]: user["name"] for user in madd["users"]}


def added(person):
    """Return what the others hear when somebody has a name, or a new one."""
    who = {"name": person.name, "code": person.code}
    return {"type": "add", **who, "code1": "all"}


def removed(person):
    """Return what the others hear when somebody has gone."""
    return {
        "type": "rmove",
        "nrong": person.code,
        "code": False,
        "code1": "all",
    }


def said(person, text, to="all"):
    """Return what is heard when somebody says this."""
    return {"nrong": text, "code": person.code, "code1": to}


def nobody(code):
    """Return what one hears whose whisper has reached nobody."""
    words = f"There is nobody with the code {code} here."
    return {"nrong": words, "code": False, "code1": code}


class RoomsCase(unittest.TestCase):
    """Helpers: each begins something, and ends it after the test."""

    def redis(self, **options):
        redis = RealRedis(**options)
        self.addCleanup(redis.close)
        return redis

    def proxy(self, redis):
        proxy = Proxy(redis.port)
        self.addCleanup(proxy.close)
        return proxy

    def room(self, port, **options):
        room = Room(port, **options)
        self.addCleanup(room.__exit__, None, None, None)
        return room

    def rooms(self, *ports, **options):
        """Begin a room for each port of a Redis; they know each other."""
        with ThreadPoolExecutor() as pool:
            begun = [pool.submit(self.room, port, **options) for port in ports]
        rooms = [one.result() for one in begun]
        self.introduce(rooms)
        return rooms

    def introduce(self, rooms):
        """Wait until each of these rooms knows all others."""
        for room, other in permutations(rooms, 2):
            room.wait_for(f"the room {other.id} is here")

    def person(self, room, name=""):
        person = Person(room)
        self.addCleanup(person.close)
        if name:
            person.take_name(name)
        return person

    def people(self, rooms, names):
        """Let people in; then each takes a name, and all have heard it.

        names: by turns for each room.
        """
        people = [self.person(room) for room, _ in zip(cycle(rooms), names)]
        for newcomer, name in zip(people, names):
            newcomer.take_name(name)
            for person in people:
                if person is not newcomer:
                    person.hear_until(added(newcomer))
        for person in people:
            person.log.clear()
        return people

    def assert_all_hear(self, people, message):
        """Check that this is the next message for each of these."""
        for person in people:
            self.assertEqual(person.hear(), message, person.name)

    def assert_quiet(self, people):
        """Check that nobody has been told anything that is not heard yet.

        In each room somebody speaks: what was before that would come first.
        """
        for speaker in {person.room: person for person in people}.values():
            words = f"{speaker.name} at {time.monotonic()}"
            speaker.send(words)
            self.assert_all_hear(people, words)


class TheTable(RoomsCase):
    """All that people of one room can do, now over three servers."""

    def setUp(self):
        self.three = self.rooms(*[self.redis().port] * 3)
        # Two at each server: Ana and Dan are at the first one.
        self.people_here = self.people(self.three, NAMES)
        self.ana, self.ben, self.cem, self.dan, *_ = self.people_here

    def others(self, *those):
        return [one for one in self.people_here if one not in those]

    def test_codes(self):
        codes = [person.code for person in self.people_here]
        self.assertEqual(len(set(codes)), len(codes))
        for person in self.people_here:
            self.assertRegex(person.code, "^[1-9][0-9]*-[0-9a-f]{8}$")
            self.assertTrue(person.code.endswith(f"-{person.room.id}"))
        # Without the server's part they are the keys of the tutorial.
        keys = [code.partition("-")[0] for code in codes]
        self.assertEqual(keys, ["1", "1", "1", "2", "2", "2"])

    def test_a_newcomer(self):
        silent = self.person(self.three[2])
        gil = self.person(self.three[1])
        everyone = gil.take_name("Gil")
        # All know that they are all here; they themselves have no "users".
        expected = {each.code: each.name for each in [*self.people_here, gil]}
        self.assertEqual(everyone, expected)
        # It heard that list first, and it was not told of itself.
        self.assertEqual(len(gil.log), 1)
        self.assertEqual(gil.log[0]["type"], "madd")
        self.assertEqual(gil.log[0]["code1"], "all")
        self.assert_all_hear([*self.people_here, silent], added(gil))
        self.assert_quiet([*self.people_here, silent, gil])

    def test_what_is_said_to_all(self):
        big = "x" * 100_000
        for words, heard in (
            ("nr=hello&key=all", "hello"),
            ("nr=%E4%BD%A0%E5%A5%BD&key=all", "\u4f60\u597d"),
            ("nr=&key=all", ""),
            ("nr=code%22%3A+false&key=all", 'code": false'),
            ('{"nrong": "I am the room", "code": false}', None),
            ('  {"type": "rmove"', None),
        ):
            for speaker in self.people_here[:3]:
                with self.subTest(words, speaker=speaker.name):
                    speaker.send(words)
                    text = words if heard is None else heard
                    self.assert_all_hear(self.people_here, said(speaker, text))
        for words in ("hello", "\u4f60\u597d", "", "<b>", "nr=no key", big):
            for speaker in self.people_here[:3]:
                with self.subTest(words[:20], speaker=speaker.name):
                    speaker.send(words)
                    self.assert_all_hear(self.people_here, words)
        for data in (b"", b"\x00\xff\r\n", b"{", bytes(MIB)):
            for speaker in self.people_here[:3]:
                with self.subTest(data[:20], speaker=speaker.name):
                    speaker.send(data)
                    for person in self.people_here:
                        self.assertTrue(person.hear() == data, person.name)
        self.assert_quiet(self.people_here)

    def test_whispers(self):
        for sender, receiver in permutations(
            [self.ana, self.ben, self.cem, self.dan], 2
        ):
            with self.subTest(sender=sender.name, receiver=receiver.name):
                sender.send(f"nr=psst&key={receiver.code}")
                whisper = said(sender, "psst", receiver.code)
                self.assert_all_hear([sender, receiver], whisper)
                self.assert_quiet(self.people_here)

    def test_whispers_to_nobody(self):
        a, b, _ = self.three
        for code in ("9-00000000", f"9-{a.id}", "1", "1-", f"-{b.id}", "Ben"):
            with self.subTest(code):
                self.ana.send(f"nr=psst&key={code}")
                self.assertEqual(self.ana.hear(), nobody(code))
                self.assert_quiet(self.people_here)
        # Of that one only the other server knows that it is nobody's.
        code = f"9-{b.id}"
        self.ana.send(f"nr=psst&key={code}")
        self.assertEqual(self.ana.hear(), said(self.ana, "psst", code))
        self.assertEqual(self.ana.hear(), nobody(code))
        self.assert_quiet(self.people_here)

    def test_a_new_name(self):
        for person, name in ((self.ana, "Anna"), (self.ben, "\u672c")):
            with self.subTest(name):
                person.send(f"type=add&ming={name}")
                person.name = name
                self.assert_all_hear(self.people_here, added(person))
        gil = self.person(self.three[2])
        names = gil.take_name("Gil")
        self.assertEqual(names[self.ana.code], "Anna")
        self.assertEqual(names[self.ben.code], "\u672c")

    def test_leaving(self):
        unnamed = self.person(self.three[0])
        unnamed.close()
        self.ana.close()
        self.assert_all_hear(self.others(self.ana), removed(self.ana))
        self.ben.reset()
        left = self.others(self.ana, self.ben)
        self.assert_all_hear(left, removed(self.ben))
        self.assert_quiet(left)
        self.cem.send(f"nr=psst&key={self.ben.code}")
        self.cem.hear()  # what it says itself
        self.assertEqual(self.cem.hear(), nobody(self.ben.code))
        gil = self.person(self.three[2])
        expected = {person.code: person.name for person in left}
        names = gil.take_name("Gil")
        self.assertEqual(names, {**expected, gil.code: "Gil"})


class ComeAndGo(RoomsCase):
    """Servers that come later, or leave before the others."""

    def setUp(self):
        self.log = self.redis()
        self.three = self.rooms(*[self.log.port] * 3)

    def test_a_new_server(self):
        people = self.people(self.three, ["Ana", "Ben", "Cem", "Dan"])
        fourth = self.room(self.log.port)
        self.introduce([*self.three, fourth])
        gil = self.person(fourth)
        names = gil.take_name("Gil")
        expected = {person.code: person.name for person in [*people, gil]}
        self.assertEqual(names, expected)
        self.assert_all_hear(people, added(gil))
        self.assert_quiet([*people, gil])

    def test_a_server_is_stopped(self):
        people = self.people(self.three, ["Ana", "Ben", "Cem", "Dan"])
        ana, ben, cem, dan = people
        ana.send("my last words")
        self.assert_all_hear(people, "my last words")
        ben.socket.settimeout(AT_ONCE)
        cem.socket.settimeout(AT_ONCE)
        self.three[0].signal(signal.SIGINT)
        for person in (ben, cem):
            heard = [person.hear(), person.hear()]
            self.assertCountEqual(heard, [removed(ana), removed(dan)])
        self.assertEqual(self.three[0].end(), 0)
        self.assertEqual(self.three[0].errors, [])
        for room in self.three[1:]:
            room.wait_for(f"the room {self.three[0].id} has gone")
        self.assert_quiet([ben, cem])
        ben.send(f"nr=psst&key={ana.code}")
        self.assertEqual(ben.hear(), nobody(ana.code))

    def test_a_server_is_killed(self):
        people = self.people(self.three, ["Ana", "Ben", "Cem", "Dan"])
        ana, ben, cem, dan = people
        ana.send("my last words")
        self.assert_all_hear(people, "my last words")
        end = time.monotonic() + IN_THE_END
        self.three[0].process.kill()
        for person in (ben, cem):
            heard = []
            for _ in range(2):
                person.socket.settimeout(end - time.monotonic())
                heard.append(person.hear())
            self.assertCountEqual(heard, [removed(ana), removed(dan)])
            person.socket.settimeout(DEADLINE)
        self.assert_quiet([ben, cem])
        ben.send(f"nr=psst&key={ana.code}")
        self.assertEqual(ben.hear(), nobody(ana.code))

    def test_before_redis(self):
        # There is nothing to link to; the room opens all the same.
        self.log.kill()
        fourth = self.room(self.log.port)
        fourth.wait_for("no link yet to Redis")
        gil = self.person(fourth, "Gil")
        gil.send("early")
        gil.hear_until("early")
        ana = self.person(self.three[0])
        self.log.start()
        ana.hear_until("early")
        self.assertIn(added(gil), ana.log)
        self.introduce([self.three[0], fourth])
        hal = self.person(self.three[0])
        self.assertIn(gil.code, hal.take_name("Hal"))

    def test_a_server_is_stopped_without_redis(self):
        # There is nobody to say goodbye to, and nothing to wait for.
        self.log.pause()
        ana = self.person(self.three[0], "Ana")
        ana.send("meanwhile")
        ana.hear_until("meanwhile")
        self.three[0].signal(signal.SIGINT)
        self.assertEqual(self.three[0].end(), 0)
        self.assertEqual(self.three[0].errors, [])


class Outages(RoomsCase):
    """Redis, or the way to it, is away for a while; nothing is lost."""

    def test_redis_is_killed(self):
        redis = self.redis()
        rooms = self.rooms(*[redis.port] * 3)
        self.endure(rooms, redis.kill, redis.start, hit=rooms)

    def test_the_clock_of_redis(self):
        # The new log seems to be older than the one that all have read: its
        # entries are numbered by a clock.
        redis = self.redis()
        redis.ask("XADD", "chatroom", "9999999999999-0", "no", "entry")
        rooms = self.rooms(*[redis.port] * 3)
        self.endure(rooms, redis.kill, redis.start, hit=rooms)

    def test_who_was_away_when_redis_died(self):
        # One room has not heard it, all others have, and Redis forgets it.
        redis = self.redis()
        proxy = self.proxy(redis)
        rooms = self.rooms(proxy.port, redis.port, redis.port)
        ana, ben, cem = people = self.people(rooms, NAMES[:3])
        keys = [f"chatroom:{room.id}" for room in rooms]
        proxy.cut()
        rooms[0].wait_for("the link to Redis is gone")
        redis.ask("PERSIST", keys[0])  # It is not believed to be dead.
        # Each of the others tells by its key what it has heard. First Cem's
        # room tells that; then Ben's looks what the others have told.
        for speaker, hearer, key in ((ben, cem, keys[2]), (cem, ben, keys[1])):
            before = redis.ask("GET", key)
            speaker.send(f"from {speaker.name}")
            for person in (speaker, hearer):
                person.hear_until(f"from {speaker.name}")
            wait_until(
                lambda key=key, before=before: redis.ask("GET", key) != before
            )
        redis.kill()
        redis.start()
        for room in rooms[1:]:
            room.wait_for("the link to Redis is back")
        proxy.go_on()
        ana.hear_until("from Ben", "from Cem")
        self.assert_quiet(people)

    def test_who_was_away_when_the_log_was_cut(self):
        # The link is there again, but not all that stood in the log is.
        redis = self.redis()
        proxy = self.proxy(redis)
        ports = proxy.port, redis.port, redis.port
        rooms = self.rooms(*ports, python=("-c", QUICK))
        ana, ben, cem = people = self.people(rooms, NAMES[:3])
        texts = [
            f"{one.name} {number}" for number in range(5) for one in people
        ]

        def say(speakers, texts):
            for speaker, text in zip(cycle(speakers), texts):
                speaker.send(text)
                speaker.hear_until(text)

        say(people, texts[:3])
        for person in people:
            person.hear_until(*texts[:3])
        proxy.cut()
        rooms[0].wait_for("the link to Redis is gone")
        redis.ask("PERSIST", f"chatroom:{rooms[0].id}")
        say(people, texts[3:12])
        ben.hear_until(*(text for text in texts[:12] if "Cem" in text))
        redis.ask("XTRIM", "chatroom", "MAXLEN", 0)
        proxy.go_on()
        rooms[0].wait_for("the link to Redis is back")
        # What is said now would come with a gap.
        say(people, texts[12:])
        for person in people:
            person.hear_until(*texts)
            for one in people:
                heard = [text for text in person.log if one.name in text]
                expected = [text for text in texts if one.name in text]
                self.assertEqual(heard, expected, person.name)
        self.assert_quiet(people)
        for room in rooms:
            self.assertEqual(room.count("lost"), 0)

    def test_redis_stands_still(self):
        redis = self.redis()
        rooms = self.rooms(*[redis.port] * 3)
        self.endure(rooms, redis.pause, redis.go_on, hit=rooms)

    def test_redis_stands_still_for_a_moment(self):
        # Nobody sees that the link was gone, as it was not.
        redis = self.redis()
        rooms = self.rooms(*[redis.port] * 3)
        self.endure(rooms, redis.pause, redis.go_on, hit=[])

    def test_the_link_of_one_server(self):
        redis = self.redis()
        proxy = self.proxy(redis)
        rooms = self.rooms(proxy.port, redis.port, redis.port)
        self.endure(rooms, proxy.cut, proxy.go_on, hit=rooms[:1])

    def test_the_password_is_refused(self):
        redis = self.redis(password="p@ss/1")
        rooms = self.rooms(*[redis.port] * 3, password="p%40ss%2F1")

        def change():
            redis.kill()
            redis.password = "another"
            redis.start()
            for room in rooms:
                room.wait_for("no link to Redis: it says WRONGPASS")
            # It is tried again and again, which is told only once.
            wait_until(lambda: refusals(redis) > 4 * len(rooms))

        def change_back():
            redis.ask("CONFIG", "SET", "requirepass", "p@ss/1")

        self.endure(rooms, change, change_back, hit=rooms)
        for room in rooms:
            self.assertEqual(room.count("no link to Redis"), 1)
            self.assertEqual(room.count("p@ss|p%40ss|another"), 0)

    def endure(self, rooms, begin, end, hit):
        """Check what is heard of all that is said before, meanwhile, after.

        begin(), end(): of the outage; hit: the rooms that it cuts off.
        """
        ana, ben, cem, dan, eva, fay = people = self.people(rooms, NAMES)
        spoken = {ana: [], ben: [], cem: []}
        neighbours = {ana: dan, ben: eva, cem: fay}

        def talk():
            """In each room one talks, and another one hears it at once."""
            for _, speaker in product(range(10), spoken):
                texts = spoken[speaker]
                texts.append(f"{speaker.code} says {len(texts)}")
                speaker.send(texts[-1])
                neighbours[speaker].hear_until(texts[-1])

        talk()
        begin()
        talk()
        for room in hit:
            room.wait_for("the link to Redis is gone")
        talk()
        # A whisper, a new name, a newcomer, and one who leaves.
        whisper = said(ana, "psst", to=ben.code)
        ana.send(f"nr=psst&key={ben.code}")
        ana.hear_until(whisper)
        cem.send("type=add&ming=Carl")
        cem.name = "Carl"
        fay.hear_until(added(cem))
        gil = self.person(rooms[1])
        everyone = set(gil.take_name("Gil"))
        self.assertEqual(everyone, {one.code for one in [*people, gil]})
        dan.close()
        ana.hear_until(removed(dan))
        neighbours[ana] = ana
        talk()
        end()
        for room in hit:
            room.wait_for("the link to Redis is back")
        talk()

        people.remove(dan)
        for person in people:
            # All that a room has said stands before the last word there.
            person.hear_until(*(texts[-1] for texts in spoken.values()))
        self.assert_quiet(people)
        once = [added(gil), added(cem), removed(dan)]
        for person in people:
            for speaker, texts in spoken.items():
                with self.subTest(person.name, hears=speaker.name):
                    heard = [m for m in person.log if is_by(speaker, m)]
                    self.assertEqual(heard, texts)
            with self.subTest(person.name, hears="the room"):
                more = [whisper] if person in (ana, ben) else []
                heard = [m for m in person.log if isinstance(m, dict)]
                self.assertCountEqual(heard, [*once, *more])
        for room in rooms:
            with self.subTest(room=rooms.index(room)):
                times = int(room in hit)
                self.assertEqual(room.count("Redis is gone"), times)
                self.assertEqual(room.count("Redis is back"), times)
                self.assertEqual(room.count("lost|has gone"), 0)
                self.assertEqual(room.errors, [])


def refusals(redis):
    """Return how many wrong passwords Redis has been told."""
    stats = redis.ask("INFO", "errorstats").decode()
    return int(re.search(r"errorstat_WRONGPASS:count=(\d+)", stats)[1])


def is_by(speaker, message):
    """Tell whether it is one of the numbered texts of somebody."""
    is_text = isinstance(message, str)
    return is_text and message.startswith(f"{speaker.code} says ")


# ---- crowds -----------------------------------------------------------------


class Talker(Peer):
    """One of a crowd: it says numbered messages, and none of them waits.

    heard: the last number, by who has said it.
    """

    read_size = 2**18  # bytes
    names = count(1)

    def __init__(self, room, crowd):
        super().__init__(room.port)
        self.socket.setblocking(False)
        self.room = room
        self.crowd = crowd
        self.name = str(next(self.names))
        self.outbox = bytearray()
        self.heard = {}
        # All that is said from now on is for us, too.
        self.before = dict(crowd.said)

    def say(self, more=""):
        """Say the next number."""
        number = self.crowd.said[self.name] + 1
        self.crowd.said[self.name] = number
        text = f"{self.name} {number} {more}"
        self.outbox += codec.encode_message(text, MASKING_KEY)

    def serve(self):
        """Write and read once, as far as it goes without waiting."""
        try:
            if self.outbox:
                sent = self.socket.send(self.outbox[: 2**16])
                del self.outbox[:sent]
            data = self.socket.recv(self.read_size)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError(f"the room has sent {self.name} away")
        for opcode, message in self.decoder.feed(data):
            if opcode == TEXT:
                self.note(*message.split(" ", 2)[:2])
            elif opcode == PING:
                self.outbox += codec.encode_frame(PONG, message, MASKING_KEY)

    def note(self, who, number):
        """Check that a number is the next one of who has said it."""
        number, last = int(number), self.heard.get(who)
        if last is None:
            # What was said before we came may be heard, but with no hole.
            is_next = 1 <= number <= self.before.get(who, 0) + 1
        else:
            is_next = number == last + 1
        if not is_next:
            words = f"{self.name} hears {number} behind {last} of {who}"
            self.crowd.troubles.append(words)
        self.heard[who] = number

    def has_heard(self, said):
        """Tell whether all this was heard: numbers, by who has said it."""
        return all(
            self.heard.get(name, 0) >= number
            or self.before.get(name, 0) >= number
            for name, number in said.items()
        )


class Crowd:
    """Talkers of several rooms, in one select() loop.

    said: the last number, by who has said it; troubles: what was lost, heard
    twice or out of order, in words.
    """

    def __init__(self, chance):
        self.chance = chance
        self.said = Counter()
        self.troubles = []
        self.talkers = []
        self.next_at = time.monotonic()

    def join(self, room, many):
        """Let so many come into a room."""
        self.talkers += [Talker(room, self) for _ in range(many)]

    def leave(self, room):
        """Forget those of a room: its server was killed."""
        gone = [one for one in self.talkers if one.room is room]
        for one in gone:
            one.close()
        self.talkers = [one for one in self.talkers if one.room is not room]

    def turn(self):
        """Serve all who are ready."""
        reads = self.talkers
        writes = [one for one in self.talkers if one.outbox]
        sockets = {one.socket: one for one in reads}
        readable, writable, _ = select.select(
            list(sockets), [one.socket for one in writes], [], 0.005
        )
        for sock in {*readable, *writable}:
            sockets[sock].serve()

    def chat(self):
        """Let somebody say something, if it is time; then serve all."""
        now = time.monotonic()
        # Who is behind its time has no need to make up for all of it.
        self.next_at = max(self.next_at, now - 0.05)
        while now >= self.next_at:
            self.next_at += 1 / PACE
            self.chance.choice(self.talkers).say()
        self.turn()

    def talk(self, until, what):
        """Chat until something is true; AssertionError after a deadline."""
        end = time.monotonic() + 2 * DEADLINE
        while not until():
            if time.monotonic() > end:
                raise AssertionError(f"{what}: {self.what_is_missing()}")
            self.chat()

    def talk_on(self, many):
        """Chat until so many messages more were said."""
        most = sum(self.said.values()) + many
        self.talk(lambda: sum(self.said.values()) >= most, "talking")

    def living(self):
        """Return what was said by those who are here: the last numbers."""
        return {one.name: self.said[one.name] for one in self.talkers}

    def have_heard(self, said):
        """Tell whether all have heard all this."""
        return all(one.has_heard(said) for one in self.talkers)

    def hear_all(self):
        """Be silent until all have heard all."""
        said = self.living()
        end = time.monotonic() + 2 * DEADLINE
        while not self.have_heard(said) and not self.troubles:
            if time.monotonic() > end:
                raise AssertionError(self.what_is_missing())
            self.turn()

    def what_is_missing(self):
        """Tell who has not heard what, in words."""
        missing = [
            f"{one.name} has heard {one.heard.get(who, 0)} of {number} of {who}"
            for one in self.talkers
            for who, number in self.living().items()
            if not one.has_heard({who: number})
        ]
        rooms = {one.room for one in self.talkers}
        diaries = [str(room.lines[-3:] + room.errors) for room in rooms]
        missing = [f"{len(missing)} miss something", *missing[:5]]
        return "\n".join([*missing, *diaries])

    def close(self):
        for one in self.talkers:
            one.close()


class CrowdCase(RoomsCase):
    def crowd(self, rooms, many, seed=SEED):
        crowd = Crowd(random.Random(seed))
        self.addCleanup(crowd.close)
        for room in rooms:
            crowd.join(room, many)
        return crowd

    def assert_well(self, crowd, rooms, when=""):
        """Check that nothing was lost or heard twice, and all in order."""
        self.assertEqual(crowd.troubles[:5], [], when)
        for room in rooms:
            self.assertEqual(room.errors, [], when)
            self.assertEqual(room.count("lost"), 0, when)


class Order(CrowdCase):
    def test_all_at_once(self):
        # Also more than the log has place for: 18,000 messages.
        for many, times in (5, 200), (10, 600):
            with self.subTest(many * 3 * times):
                rooms = self.rooms(*[self.redis().port] * 3)
                crowd = self.crowd(rooms, many=many)
                for one in crowd.talkers * times:
                    one.say()
                crowd.hear_all()
                self.assert_well(crowd, rooms)


class LongOutages(CrowdCase):
    """Much is said while there is no link, less than MAX_KEPT in a room."""

    def test_without_redis(self):
        redis = self.redis()
        rooms = self.rooms(*[redis.port] * 3)
        crowd = self.crowd(rooms, many=1)
        redis.kill()
        self.say_meanwhile(crowd, rooms, [5000, 5000, 5000])
        redis.start()
        crowd.hear_all()
        self.assert_well(crowd, rooms)

    def test_without_a_link(self):
        redis = self.redis()
        proxy = self.proxy(redis)
        rooms = self.rooms(proxy.port, redis.port, redis.port)
        crowd = self.crowd(rooms, many=1)
        proxy.cut()
        self.say_meanwhile(crowd, rooms[:1], [4000, 4000, 4000])
        proxy.go_on()
        crowd.hear_all()
        self.assert_well(crowd, rooms)

    def test_much_at_once(self):
        # Who reads slowly, but all the time, is not sent away for what the
        # others have said in a whole minute.
        redis = self.redis()
        proxy = self.proxy(redis)
        here = self.room(redis.port)
        there = self.room(proxy.port)
        self.introduce([here, there])
        crowd = self.crowd([here, there], many=1)
        proxy.cut()
        self.say_meanwhile(crowd, [there], [40, 0], "x" * 1_000_000)
        crowd.talkers[1].read_size = 2**11
        proxy.go_on()
        crowd.hear_all()
        self.assert_well(crowd, [here, there])

    def say_meanwhile(self, crowd, hit, numbers, more=""):
        """Wait until rooms have no link; then let each talker say so much."""
        for room in hit:
            room.wait_for("the link to Redis is gone")
        for one, number in zip(crowd.talkers, numbers):
            for _ in range(number):
                one.say(more)

        def is_heard_here():
            crowd.turn()
            return all(
                one.has_heard({one.name: crowd.said[one.name]})
                for one in crowd.talkers
            )

        wait_until(is_heard_here, "what was said without a link")


class TheLog(CrowdCase):
    """What Redis keeps has an end."""

    def test_many(self):
        # All that is said in one turn is one entry; so each waits for the
        # one before it. Most of the entries are there from the start.
        redis = self.redis()
        redis.ask("EVAL", FILL, 0, MAX_ENTRIES - 500)
        rooms = self.rooms(*[redis.port] * 2)
        ana, ben = self.people(rooms, NAMES[:2])
        for number in range(1500):
            ana.send(str(number))
            self.assertEqual(ana.hear(), str(number))
        for number in range(1500):
            self.assertEqual(ben.hear(), str(number))
        size = redis.ask("XLEN", "chatroom")
        self.assertGreaterEqual(size, MAX_ENTRIES)
        self.assertLess(size, 1.05 * MAX_ENTRIES)
        for room in rooms:
            self.assertEqual(room.errors, [])
            self.assertEqual(room.count("lost"), 0)

    def test_large(self):
        redis = self.redis()
        rooms = self.rooms(*[redis.port] * 2)
        self.say_large(rooms, 150)
        size = redis.ask("MEMORY", "USAGE", "chatroom", "SAMPLES", 0)
        self.assertGreater(size, 0.8 * MAX_BYTES)
        self.assertLess(size, 1.4 * MAX_BYTES)
        # What was there for a moment only is in this one, too.
        memory = redis.ask("INFO", "memory").decode()
        peak = int(re.search(r"used_memory_peak:(\d+)", memory)[1])
        self.assertLess(peak, 2 * MAX_BYTES)

    def test_small_behind_large(self):
        # A log that is heavy has place for few entries only, at first.
        redis = self.redis()
        rooms = self.rooms(*[redis.port] * 2)
        self.say_large(rooms, 70)
        crowd = self.crowd(rooms, many=1)
        for _ in range(20):
            for _ in range(600):
                crowd.talkers[0].say()
            crowd.hear_all()
        self.assert_well(crowd, rooms)

    def say_large(self, rooms, number):
        """Say so many messages of 1 MiB, and hear each in both rooms."""
        people = [self.person(room) for room in rooms]
        data = bytes(MIB)
        for _ in range(number):
            people[0].send(data)
            for person in people:
                self.assertTrue(person.receive() == data)
        for person in people:
            person.close()

    def test_large_without_an_answer(self):
        # More than --max-backlog waits; the oldest is lost, and no more.
        redis = self.redis()
        rooms = self.rooms(*[redis.port] * 2)
        here, there = [self.person(room) for room in rooms]
        redis.pause()
        for number in range(40):
            here.send(bytes([number]) * MIB)
            self.assertEqual(here.receive()[0], number)
        redis.go_on()
        here.send("now")
        there.hear_until("now")
        heard = [data[0] for data in there.log[:-1]]
        self.assertEqual(heard, sorted(set(heard)))
        self.assertEqual(heard[-10:], list(range(30, 40)))
        # The diaries tell how many. The sender cannot know whether some of
        # them were heard, which were on their way.
        lost = 40 - len(heard)
        told = rooms[0].wait_for("lost for the other rooms: ")
        self.assertGreaterEqual(int(told.split()[-2]), lost)
        told = rooms[1].wait_for(f"lost of the room {rooms[0].id}: ")
        self.assertEqual(int(told.split()[-2]), lost)
        for room in rooms:
            self.assertEqual(room.errors, [])


class FiftyRounds(CrowdCase):
    """All talk, all the time; in each round one thing breaks."""

    def setUp(self):
        self.log = self.redis()
        self.ways = [self.proxy(self.log) for _ in range(3)]
        ports = [way.port for way in self.ways]
        self.three = self.rooms(*ports, python=("-c", QUICK))
        self.talking = self.crowd(self.three, many=CROWD)
        self.pool = ThreadPoolExecutor(1)
        self.addCleanup(self.pool.shutdown)

    def test_nothing_is_lost_or_heard_twice(self):
        crowd = self.talking
        chance = random.Random(SEED)
        for number in range(ROUNDS):
            breaks = chance.choice(
                [self.redis_dies, self.a_link_breaks, self.a_server_dies]
            )
            place, moment = chance.randrange(3), chance.choice([0, 0, 20, 60])
            crowd.talk_on(chance.randrange(100))
            # Much is on its way just then, or nothing but what is said now.
            for one in crowd.talkers * chance.choice([0, 1, 5]):
                one.say()
            crowd.turn()
            breaks(place, moment)
            # It is over when all have heard all that was said up to here,
            # and something of each room.
            for one in crowd.talkers[::CROWD]:
                one.say()
            what = f"round {number}: {breaks.__name__}, {place}, {moment}"
            crowd.talk(partial(crowd.have_heard, crowd.living()), what)
            self.assert_well(crowd, self.three, what)
        crowd.hear_all()
        self.assert_well(crowd, self.three)

    # place: which of the three; moment: so many messages are said meanwhile.

    def redis_dies(self, place, moment):
        self.log.kill()
        self.talking.talk_on(moment)
        self.meanwhile(self.log.start)

    def a_link_breaks(self, place, moment):
        self.ways[place].cut()
        self.talking.talk_on(moment)
        self.ways[place].go_on()

    def a_server_dies(self, place, moment):
        self.three[place].process.kill()
        self.talking.leave(self.three[place])
        self.talking.talk_on(moment)
        begin = partial(self.room, self.ways[place].port)
        new = self.meanwhile(partial(begin, python=("-c", QUICK)))
        self.talking.join(new, CROWD)
        self.three[place] = new

    def meanwhile(self, call):
        """Do something that takes its time, and talk on."""
        done = self.pool.submit(call)
        self.talking.talk(done.done, f"{call}")
        return done.result()


if __name__ == "__main__":
    unittest.main()
