"""Nothing grows, spins or stalls: slow readers, full houses, idle rooms.

What one run gave, on two cores with Python 3.11; the limits below are wider.
Thirty who shout, each with 64 KB of tiny messages: two who talk wait for
0.07 s at most, as a turn reads and hears for 0.02 s, and goes on in the next;
0.2 s when 900 join in the same second. One who never reads while another
says 600 x 60 KB: the others get all of it, p99 under 1 ms, and the process
peaks at 37 MiB; with 200 such users too, as they share one backlog. Of 1,100
who connect at once, 1,002 are let in and the others get 503; while nobody
speaks, the room takes under 1 % of a core. A form of 210,000 escapes (70,000
Chinese letters) takes 0.1 s; one with more is relayed as it came.
"""

# ruff: noqa: SIM117 - Python 3.8 has no brackets around several with
from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import time
import unittest
from unittest import mock

import codec
import handshake
import server
from lessons.observer import Observer
from tests.hostile import (
    CLOSE,
    PING,
    TEXT,
    Crowd,
    Relay,
    Room,
    clock,
    connect,
    descriptors,
    frame,
    peak_memory,
    processor_share,
    read_head,
    read_to_end,
    request,
    room,
    sleeper,
    status,
    talk,
    wait_for_users,
)
from tests.support import (
    DEADLINE,
    LINUX,
    ROOT,
    WINDOWS,
    Peer,
    Process,
    wait_until,
)

try:
    import resource
except ImportError:
    resource = None  # Windows has no such limits

MIB = 2**20
ON_LINUX = unittest.skipUnless(LINUX, "only Linux tells what a process uses")
LIMITED = unittest.skipUnless(resource, "only Unix limits the open files")

# python -c FORGETFUL server.py 0: a server that believes it has more
# descriptors than it is allowed to, as if others in its process used them.
FORGETFUL = """
import sys
import server
server.count_places = lambda listener: 1000
sys.exit(server.main(sys.argv[2:]))
"""

# python -c SMALL_PIPES server.py 0: the kernel takes little for each user,
# or this machine would be busy with copying half a gigabyte.
SMALL_PIPES = """
import socket
import sys
import server
listen = server.listen
def listen_with_small_pipes(host, port):
    listener = listen(host, port)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    return listener
server.listen = listen_with_small_pipes
sys.exit(server.main(sys.argv[2:]))
"""


@ON_LINUX
class SlowReaders(unittest.TestCase):
    def test_one_who_never_reads_while_36_mb_are_said(self):
        with Process() as process, contextlib.ExitStack() as stack:
            slow = stack.enter_context(sleeper(process.port))
            peers = [stack.enter_context(Peer(process.port)) for _ in range(3)]
            latencies = []
            for i in range(600):
                message = i.to_bytes(4, "big") * 15_000
                begun = time.monotonic()
                peers[0].send(message)
                for peer in peers:
                    self.assertEqual(peer.receive(), message)
                latencies.append(time.monotonic() - begun)
            process.wait_for("#1 left: 1006 did not read")
            self.assertLess(sorted(latencies)[594], 0.1)
            self.assertLess(peak_memory(process.process.pid), 48 * MIB)
            talk(peers, "still here")
            slow.close()

    def test_two_hundred_share_one_backlog(self):
        small_pipes = Process("0", python=("-c", SMALL_PIPES))
        with small_pipes as process, contextlib.ExitStack() as stack:
            pid = process.process.pid
            pair = [stack.enter_context(Peer(process.port)) for _ in range(2)]
            for _ in range(200):
                stack.enter_context(sleeper(process.port))
            talk(pair, "hello")
            before = peak_memory(pid)
            for i in range(134):
                pair[0].send(bytes((i,)) * 60_000)
                for peer in pair:
                    self.assertEqual(peer.receive(), bytes((i,)) * 60_000)
            self.assertLess(peak_memory(pid) - before, 40 * MIB)
            # Nobody was dropped: they are all within their limit.
            self.assertFalse([li for li in process.lines if "left" in li])

    def test_a_64_mb_header_line_costs_nothing(self):
        with Process() as process, Peer(process.port) as peer:
            before = peak_memory(process.process.pid)
            line = b"GET / HTTP/1.1\r\nA: "
            with connect(process.port, line) as sock:
                with contextlib.suppress(ConnectionError):
                    for _ in range(64):
                        sock.sendall(b"x" * MIB)
                        talk([peer], "meanwhile")
                self.assertEqual(status(read_to_end(sock)), 431)
            grown = peak_memory(process.process.pid) - before
            self.assertLess(grown, 4 * MIB)


class SmallPipe(Relay):
    """The kernel keeps little of what is sent: the rest waits here."""

    def on_connect(self, user):
        small_pipe(user)


class SmallRoom(Room):
    """The same, for a chat room."""

    def on_connect(self, user):
        small_pipe(user)


def small_pipe(user):
    user.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


class Backlog(unittest.TestCase):
    def memory(self, running):
        """Return how many bytes wait for all users, objects and all."""
        blocks = {
            id(block): sys.getsizeof(block)
            for user in list(running.users.values())
            for block in list(user.outbox)
        }
        return sum(blocks.values())

    def test_a_message_of_any_size_fits_once(self):
        with room(SmallPipe, max_backlog=10) as running:
            with Peer(running.port) as peer:
                talk([peer], b"x" * MIB)
                talk([peer], "still here")

    def test_who_does_not_read_is_dropped_and_said_to_have_been(self):
        with room(SmallRoom, max_backlog=100_000) as running:
            with sleeper(running.port), Peer(running.port) as peer:
                for _ in range(10):
                    talk([peer], b"x" * 60_000)
                wait_for_users(running, 1)
        self.assertIn("#1 left: 1006 did not read", running.lines[2])

    def test_a_flood_of_pings_by_one_who_does_not_read_the_pongs(self):
        # Each pong has 2 bytes, but as an object it takes twenty times that.
        limit = 60_000
        with room(SmallPipe, max_backlog=limit) as running:
            with Peer(running.port) as peer, sleeper(running.port) as sock:
                for _ in range(20):
                    with contextlib.suppress(ConnectionError):
                        sock.sendall(frame(PING) * 1000)
                    talk([peer], "meanwhile")
                self.assertLess(self.memory(running), 4 * limit)

    def test_a_flood_of_empty_messages_to_one_who_does_not_read(self):
        limit = 60_000
        with room(SmallPipe, max_backlog=limit) as running:
            with Peer(running.port) as peer, sleeper(running.port):
                for i in range(5000):
                    talk([peer], str(i % 10))
                self.assertLess(self.memory(running), 4 * limit)

    def test_a_name_is_given_while_a_backlog_overflows(self):
        with room(SmallRoom, max_backlog=50_000) as running:
            with sleeper(running.port), Peer(running.port) as peer:
                while not any(
                    user.waiting > 50_000
                    for user in list(running.users.values())
                ):
                    talk([peer], b"x" * 5000)
                peer.send("type=add&ming=Ana")
                self.assertEqual(peer.receive_json()["type"], "madd")
                wait_for_users(running, 1)
                talk([peer], "still here")

    def test_a_frame_that_never_ends_holds_no_more_than_was_sent(self):
        with room(Relay) as running, Peer(running.port) as peer:
            length = codec.MAX_MESSAGE.to_bytes(8, "big")
            begun = b"\x82\xff" + length + b"mask" + b"x" * 10
            with Peer(running.port) as slow:
                slow.write(begun)
                talk([peer], "meanwhile")
                user = running.users[2]
                self.assertLess(sys.getsizeof(user.decoder.payload), 1000)


def shout_at_once(running, bullies, flood, quiet):
    """Let all say this, and one "hello"; none is heard before all are read."""
    with mock.patch.object(running, "hear_all"):
        for bully in bullies:
            bully.write(flood)
        quiet.send("hello")
        wait_until(lambda: len(running.unheard) == len(bullies) + 1)


class Stalls(unittest.TestCase):
    """What one user sends must not keep the others waiting for 100 ms."""

    FLOODS = {
        "empty messages": frame(TEXT) * 30_000,
        "pings": frame(PING) * 30_000,
        "fragments": (
            frame(TEXT, fin=False) + frame(0, b"&", fin=False) * 30_000
        ),
        "says": frame(TEXT, b"nr=&key=all") * 10_000,
        "whispers": frame(TEXT, b"nr=&key=2") * 10_000,
        "names": frame(TEXT, b"type=add&ming=") * 10_000,
        "a form": frame(TEXT, b"nr=&key=" + b"%41\xc3\xa9" * 49_000),
        "a form of %": frame(TEXT, b"key=all&nr=" + b"%" * 209_000),
        "a name of %": frame(TEXT, b"type=add&ming=" + b"%ff" * 209_000),
        "words": frame(TEXT, b"key=all&nr=" + b"a%41" * 209_000),
        "too many %": frame(TEXT, b"key=all&nr=" + b"%" * 1_048_000),
        "too many mixed": frame(TEXT, b"nr=&key=" + b"%41\xc3\xa9" * 200_000),
        "a form of names": frame(TEXT, b"nr=&" * 250_000),
    }

    FORMS = "a form", "a form of %", "a name of %", "words"

    def test_floods(self):
        for what, flood in self.FLOODS.items():
            with self.subTest(what), room() as running:
                with Peer(running.port) as bully:
                    turns = self.turns(running, bully, flood)
                # Decoding the worst form that is decoded takes so long.
                limit = 0.25 if what in self.FORMS else 0.1
                self.assertLess(max(turns), limit, what)

    def test_thirty_who_shout_share_the_loop_with_two_who_talk(self):
        class Meter(Observer):
            """Counts the messages of each turn."""

            turns = [0]

            def woke(self, *_):
                self.turns.append(0)

        heard = {key: [] for key in range(1, 32)}
        bully_had_said = []

        def on_message(user, message):
            Meter.turns[-1] += 1
            heard[user.key].append(message)
            if user.key == 31:  # the quiet one
                bully_had_said.append(len(heard[1]))

        flood = b"".join(frame(TEXT, b"%d" % n) for n in range(2000))
        # Less than none: a clock may stand still for 16 ms, on Windows.
        with mock.patch.object(server, "TURN_SECONDS", -1.0):
            with room(Relay) as running, contextlib.ExitStack() as stack:
                *bullies, quiet = [
                    stack.enter_context(Peer(running.port)) for _ in range(31)
                ]
                running.observer, running.on_message = Meter(), on_message
                shout_at_once(running, bullies, flood, quiet)
                wait_until(lambda: sum(map(len, heard.values())) == 60_001)
                running.observer = None
        # With no time at all, each turn hears one user, and then the next.
        self.assertLessEqual(max(Meter.turns), server.HEARD_AT_ONCE)
        self.assertLessEqual(bully_had_said, [server.HEARD_AT_ONCE])
        for key in range(1, 31):
            self.assertEqual(heard[key], [str(n) for n in range(2000)])

    def test_frames_that_are_no_message_count_too(self):
        """Thirty who send endless fragments share the loop with one."""
        frames = []

        class Counting(codec.Decoder):
            def read_header(self, data, at):
                frames.append(self)
                return super().read_header(data, at)

        fragments = (
            frame(TEXT, b"", fin=False)
            + frame(codec.CONTINUATION, fin=False) * 2000
        )
        with mock.patch.object(codec, "Decoder", Counting), room(
            Relay
        ) as running, contextlib.ExitStack() as stack:
            *bullies, quiet = [
                stack.enter_context(Peer(running.port)) for _ in range(31)
            ]
            before = []
            running.on_message = lambda *_: before.append(len(frames))
            shout_at_once(running, bullies, fragments, quiet)
            wait_until(lambda: before)
            # Those who came first were heard once, or a few times.
            self.assertLess(before[0], 31 * server.HEARD_AT_ONCE * 5)
            wait_until(lambda: len(frames) > 60_000)

    def test_who_cuts_the_blocks_small_is_heard_in_small_pieces(self):
        """A pong behind each text: then each text is a block of its own."""

        class Meter(Observer):
            blocks = 0

            def shared(self, users, block):
                self.blocks += 1

        flood = (frame(TEXT, b"x") + frame(PING)) * 500
        with mock.patch.object(server, "TURN_SECONDS", 0.0), room(
            Relay
        ) as running, contextlib.ExitStack() as stack:
            *bullies, quiet = [
                stack.enter_context(Peer(running.port)) for _ in range(11)
            ]
            before = []

            def on_message(user, message):
                running.broadcast(message)
                if user.key == 11:
                    before.append(running.observer.blocks)

            running.observer, running.on_message = Meter(), on_message
            shout_at_once(running, bullies, flood, quiet)
            wait_until(lambda: before)
            # One block in a hearing, and what is left of it at its turn's end.
            self.assertLessEqual(before[0], 2 * 11)
            for peer in (*bullies, quiet):
                heard = []
                while len(heard) < 5001:
                    opcode, message = peer.next()
                    if opcode == TEXT:
                        heard.append(message)
                self.assertEqual(heard.count("hello"), 1)

    def test_a_turn_hears_no_longer_than_its_time(self):
        with clock() as now, room(Relay) as running:
            with Peer(running.port) as peer, Peer(running.port) as other:
                waits = []

                def slow(user, message):
                    now.ahead += 0.01  # as if each message took so long
                    waits.append(user.key)

                running.on_message = slow
                words = frame(TEXT, b"x") * 3 * server.HEARD_AT_ONCE
                with mock.patch.object(running, "hear_all"):
                    peer.write(words)
                    other.write(words)
                    wait_until(lambda: len(running.unheard) == 2)
                wait_until(lambda: len(waits) == 6 * server.HEARD_AT_ONCE)
        turns = [key for key, _ in itertools.groupby(waits)]
        self.assertEqual(turns, [1, 2, 1, 2, 1, 2])

    def test_a_head_that_comes_byte_by_byte(self):
        # A user may send a thousand bytes behind a very long first line.
        query = b"ab" * 7500
        head = b"GET /?" + query + b" HTTP/1.1\r\nHost: a\r\nA: "
        begun = time.thread_time()
        for _ in range(100):
            self.assertIsNone(handshake.take_request(head))
        self.assertLess(time.thread_time() - begun, 0.1)

    def turns(self, running, bully, flood):
        """Send a flood; return the seconds that each read took."""
        turns = []
        read = running.read

        def timed(user):
            begun = time.thread_time()
            read(user)
            turns.append(time.thread_time() - begun)

        with mock.patch.object(running, "read", timed):
            user = running.users[1]
            bully.write(flood + frame(CLOSE))
            wait_until(lambda: user.closing)
        return turns


@ON_LINUX
@LIMITED
class FullHouse(unittest.TestCase):
    def test_1100_connections(self):
        with descriptors(2000) as enough:
            if not enough:
                self.skipTest("this process may not open 2,000 descriptors")
            with Process() as process, Crowd(process.port) as crowd:
                crowd.enter(1100)
                self.assertGreater(len(crowd.inside), 990)
                self.check(process, crowd, 1100)
                self.leave_and_enter(crowd)

    def test_ulimit_64(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        with Process(preexec_fn=limit) as process:
            with Crowd(process.port) as crowd:
                crowd.enter(100)
                self.assertGreater(len(crowd.inside), 30)
                self.check(process, crowd, 100)
                self.leave_and_enter(crowd)

    def test_too_few_descriptors_to_begin_with(self):
        for count in (10, 14, 19):
            with self.subTest(count):
                done = subprocess.run(
                    [sys.executable, str(ROOT / "server.py"), "0"],
                    preexec_fn=lambda count=count: resource.setrlimit(
                        resource.RLIMIT_NOFILE, (count, count)
                    ),
                    capture_output=True,
                    timeout=DEADLINE,
                )
                self.assertEqual((done.returncode, done.stdout), (2, b""))
                words = f"{count} open files are too few"
                self.assertIn(words, done.stderr.decode())
                self.assertEqual(done.stderr.count(b"\n"), 1)

    def test_no_descriptor_left(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        forgetful = Process("0", python=("-c", FORGETFUL), preexec_fn=limit)
        with forgetful as process, contextlib.ExitStack() as stack:
            port = process.port
            socks = [
                stack.enter_context(connect(port, request(port)))
                for _ in range(100)
            ]
            process.wait_for("cannot accept")
            share = processor_share(process.process.pid, 0.25)
            self.assertLess(share, 0.3)
            self.assertEqual(status(read_head(socks[0])), 101)
            for sock in socks[:50]:
                sock.close()
            for sock in socks[50:]:
                self.assertEqual(status(read_head(sock)), 101)
            self.assertEqual(process.errors, [])

    def check(self, process, crowd, count):
        """Check that all got an answer, and that all hear and rest."""
        self.assertEqual(len(crowd.inside) + len(crowd.refused), count)
        self.assertEqual(set(crowd.refused), {503})
        message = frame(TEXT, b"hello")
        crowd.inside[0].sendall(message)
        for sock in crowd.inside:
            self.assertEqual(sock.recv(100), b"\x81\x05hello")
        # More knock and do not go away when they are refused.
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(connect(process.port, b"GET / HTTP/1.1"))
            share = processor_share(process.process.pid, 0.25)
        self.assertLess(share, 0.3)
        self.assertEqual(process.errors, [])

    def leave_and_enter(self, crowd):
        inside = len(crowd.inside)
        crowd.leave(20)
        for _ in range(20):
            wait_until(lambda: self.enters(crowd), "a place for a newcomer")
        self.assertEqual(len(crowd.inside), inside)

    def enters(self, crowd):
        inside = len(crowd.inside)
        crowd.enter(1)
        return len(crowd.inside) > inside


@unittest.skipUnless(WINDOWS, "only there select() takes 512 sockets")
class FullHouseOnWindows(unittest.TestCase):
    def test_520_connections(self):
        message = frame(TEXT, b"hello")
        with Process() as process, Crowd(process.port) as crowd:
            crowd.enter(520)
            self.assertEqual(len(crowd.inside), 493)
            self.assertEqual(crowd.refused, [503] * 27)
            crowd.leave(20)
            wait_until(lambda: str(process.lines).count(" left: ") == 20)
            crowd.enter(20)
            self.assertEqual(len(crowd.inside), 493)
            crowd.inside[0].sendall(message)
            for sock in crowd.inside:
                self.assertEqual(sock.recv(100), b"\x81\x05hello")
            self.assertEqual(process.errors, [])


@ON_LINUX
class Idle(unittest.TestCase):
    def test_fifty_idle_users_cost_under_one_percent(self):
        with Process() as process, Crowd(process.port) as crowd:
            crowd.enter(50)
            self.assertLess(processor_share(process.process.pid, 0.7), 0.01)

    def test_a_slow_reader_costs_nothing_either(self):
        # Asked for writability with nothing to write, select() would spin.
        with Process() as process, contextlib.ExitStack() as stack:
            peer = stack.enter_context(Peer(process.port))
            stack.enter_context(sleeper(process.port))
            for _ in range(80):
                talk([peer], b"x" * 60_000)
            self.assertLess(processor_share(process.process.pid, 0.5), 0.02)


@unittest.skipIf(WINDOWS, "there a socket's number does not matter")
class Unwatchable(unittest.TestCase):
    def test_a_descriptor_that_select_cannot_watch_is_not_kept(self):
        with room() as running:
            with mock.patch.object(server, "FD_SETSIZE", 0):
                with connect(running.port) as sock:
                    self.assertEqual(read_to_end(sock), b"")
                server.FD_SETSIZE = 1024
                with Peer(running.port) as peer:
                    talk([peer], "hello")


if __name__ == "__main__":
    unittest.main()
