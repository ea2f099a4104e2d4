"""One loop for all: guests, timers and other threads."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import statistics
import threading
import time
import unittest
from unittest import mock

import server
from client import Client
from lessons.observer import Observer
from server import ChatRoom, Server
from tests.support import (
    DEADLINE,
    LINUX,
    WINDOWS,
    Peer,
    close_all,
    in_loop,
    serving,
    wait_until,
)
from tests.test_server import ServerCase


def descriptors():
    """Return what this process has open."""
    return set(os.listdir("/proc/self/fd"))


class Collected(ServerCase):
    """A server of which the tracebacks are collected."""

    def setUp(self):
        super().setUp()
        self.raised = []
        patch = mock.patch.object(
            server, "print_traceback", lambda error: self.raised.append(error)
        )
        patch.start()
        self.addCleanup(patch.stop)


class Timers(Collected):
    def test_in_time(self):
        """The median of twenty: other programs may hold up some of them."""
        # On Windows, up to Python 3.12, the clock itself moves by 16 ms, and
        # Wine is slower than that.
        limit = 0.05 if WINDOWS else 0.005
        for late in (self.lateness("later"), self.lateness("every")):
            self.assertGreaterEqual(min(late), -1e-6)  # what floats lose
            self.assertLess(statistics.median(late), limit)

    def lateness(self, how):
        """Return the seconds by which twenty calls came late."""
        late, period = [], 0.01
        begun = in_loop(self.server, time.monotonic)

        def call():
            late.append(time.monotonic() - begun - period * (len(late) + 1))
            if how == "later" and len(late) < 20:
                due = begun + period * (len(late) + 1)
                self.server.later(max(0, due - time.monotonic()), call)

        timer = in_loop(self.server, getattr(self.server, how), period, call)
        wait_until(lambda: len(late) >= 20)
        timer.cancel()
        return late[:20]

    def test_in_their_order_and_not_before(self):
        calls = []

        def begin():
            for number, seconds in enumerate((0.03, 0, 0.01, 0, 0.02)):
                self.server.later(seconds, lambda n=number: calls.append(n))

        in_loop(self.server, begin)
        wait_until(lambda: len(calls) == 5)
        self.assertEqual(calls, [1, 3, 2, 4, 0])

    def test_those_of_the_same_moment_keep_their_order(self):
        calls = []

        def begin():
            now = time.monotonic()
            with mock.patch.object(time, "monotonic", lambda: now):
                for number in range(20):
                    self.server.later(0, lambda n=number: calls.append(n))

        in_loop(self.server, begin)
        wait_until(lambda: len(calls) == 20)
        self.assertEqual(calls, list(range(20)))

    def test_what_it_says_goes_out_in_the_same_turn(self):
        turns = []

        class Watch(Observer):
            def shared(self, users, block):
                turns.append(("said", len(users)))

            def turned(self):
                turns.append("turned")

        peer = self.peer()
        in_loop(self.server, setattr, self.server, "observer", Watch())

        def call():
            turns.append("due")
            self.server.broadcast("tick")

        in_loop(self.server, self.server.later, 0.01, call)
        self.assertEqual(peer.receive(), "tick")
        at = turns.index("due")
        self.assertEqual(turns[at + 1], ("said", 1))

    def test_who_is_late_does_not_catch_up(self):
        """What the loop was too late for is left out; the step is kept."""
        late = Server(port=0)
        self.addCleanup(close_all, late)
        clock, calls = mock.Mock(return_value=100.0), []
        with mock.patch.object(time, "monotonic", clock):
            late.every(1.0, lambda: calls.append(clock()))
            for now in (100.99, 101.0, 104.5, 104.99, 105.0):
                clock.return_value = now
                late.turn()
        self.assertEqual(calls, [101.0, 104.5, 105.0])

    def test_it_lives_by_a_clock_that_nobody_sets(self):
        calls = []
        with mock.patch.object(time, "time", lambda: 0.0):
            in_loop(
                self.server, self.server.later, 0.01, lambda: calls.append(1)
            )
            wait_until(lambda: calls)

    def test_cancel(self):
        calls = []

        def begin():
            never = self.server.later(0, lambda: calls.append("never"))
            self.server.later(0, lambda: timers[0].cancel())
            timers[:] = [
                self.server.later(0, lambda: calls.append("never, too")),
                self.server.every(
                    0.001, lambda: calls.append("once") or stop()
                ),
            ]
            never.cancel()
            never.cancel()
            self.server.later(0.05, lambda: calls.append("end"))

        def stop():
            timers[1].cancel()

        timers = []
        in_loop(self.server, begin)
        wait_until(lambda: "end" in calls)
        self.assertEqual(calls, ["once", "end"])
        self.assertEqual(self.server.timers, [])

    def test_one_that_raises(self):
        calls = []

        def fail(what):
            calls.append(what)
            raise LookupError(what)

        def begin():
            self.server.later(0, lambda: fail("later"))
            return self.server.every(0.001, lambda: fail("every"))

        timer = in_loop(self.server, begin)
        wait_until(lambda: calls.count("every") >= 3)
        in_loop(self.server, timer.cancel)
        self.assertEqual(calls.count("later"), 1)
        self.assertEqual([error.args[0] for error in self.raised], calls)

    def test_one_that_begins_itself_anew_holds_nobody(self):
        def again():
            self.server.later(0, again)

        in_loop(self.server, again)
        peer = self.peer()
        peer.send("hello")
        self.assertEqual(peer.receive(), "hello")

    def test_under_load(self):
        """Ten of them tick while somebody says all that can be said."""
        calls = [0] * 10

        def begin():
            for number in range(10):
                self.server.every(0.005, lambda n=number: count(n))

        def count(number):
            calls[number] += 1

        in_loop(self.server, begin)
        peer = self.peer()
        said = 0
        while min(calls) < 20:
            for _ in range(100):
                peer.send("x" * 100)
            for _ in range(100):
                peer.receive()
            said += 100
        self.assertGreater(said, 0)

    def test_wrong_times(self):
        for seconds in (-1, float("nan"), float("inf")):
            for call in (self.server.later, self.server.every):
                with self.assertRaisesRegex(ValueError, "seconds"):
                    call(seconds, print)
        with self.assertRaisesRegex(ValueError, "more than 0"):
            self.server.every(0, print)


class Threads(Collected):
    def test_none_is_lost_and_each_keeps_its_order(self):
        heard = [[] for _ in range(8)]
        each = 12_500

        def say(who):
            for number in range(each):
                self.server.call_soon(lambda n=number: heard[who].append(n))

        threads = [
            threading.Thread(target=say, args=(who,)) for who in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        wait_until(lambda: sum(map(len, heard)) == 8 * each)
        for calls in heard:
            self.assertEqual(calls, list(range(each)))

    def test_at_once(self):
        """The median of fifty: other programs may hold up some of them."""
        waited = []
        for _ in range(50):
            begun = time.monotonic()
            waited.append(in_loop(self.server, time.monotonic) - begun)
        self.assertLess(statistics.median(waited), 0.005)

    def test_what_it_says_is_heard(self):
        peer = self.peer()
        self.server.call_soon(lambda: self.server.broadcast("21.5"))
        self.assertEqual(peer.receive(), "21.5")

    def test_a_flood_of_calls_holds_nobody(self):
        """Of 300 calls that take a millisecond, a turn does some."""
        calls = []
        peer = self.peer()

        def slow():
            calls.append(time.sleep(0.001))

        in_loop(
            self.server,
            lambda: [self.server.call_soon(slow) for _ in range(300)],
        )
        peer.send("hello")
        self.assertEqual(peer.receive(), "hello")
        self.assertLess(len(calls), 300)
        wait_until(lambda: len(calls) == 300)

    def test_more_calls_than_the_loop_can_do(self):
        """It goes on: no byte too many waits in the alarm's socket."""
        calls = []

        def again():
            calls.append(1)
            if len(calls) < 2000:
                self.server.call_soon(again)
                self.server.call_soon(bool)

        with mock.patch.object(server, "TURN_SECONDS", 0.0):
            self.server.call_soon(again)
            wait_until(lambda: len(calls) == 2000)
            self.assertEqual(in_loop(self.server, lambda: "goes on"), "goes on")

    def test_a_full_alarm_does_not_stop_who_stops(self):
        """Nobody reads the bytes as long as the loop does something else."""
        one = Server(port=0)
        self.addCleanup(close_all, one)
        for _ in range(5000):
            one.awake = False
            one.call_soon(bool)
        one.awake = False
        one.stop()
        self.assertTrue(one.stopping)

    def test_one_that_raises(self):
        self.server.call_soon(lambda: 1 / 0)
        self.assertEqual(in_loop(self.server, lambda: "goes on"), "goes on")
        self.assertEqual(len(self.raised), 1)

    def test_what_another_thread_may_not_do(self):
        peer = self.peer()
        user = self.server.users[1]
        for call in (
            lambda: self.server.send(user, "x"),
            lambda: self.server.broadcast("x"),
            lambda: self.server.close(user),
            lambda: self.server.later(0, print),
            lambda: self.server.every(1, print),
            self.server.everyone,
        ):
            with self.assertRaisesRegex(RuntimeError, "call_soon"):
                call()
        peer.send("untouched")
        self.assertEqual(peer.receive(), "untouched")

    def test_before_and_after_the_loop(self):
        calls = []
        one = Server(port=0)
        one.call_soon(lambda: calls.append("before"))
        one.later(0, lambda: calls.append("timer"))
        one.broadcast("nobody hears it")
        with serving(one):
            wait_until(lambda: len(calls) == 2)
        one.call_soon(lambda: calls.append("after"))
        one.broadcast("nobody hears it")
        self.assertEqual(sorted(calls), ["before", "timer"])

    @unittest.skipUnless(LINUX, "only Linux tells what is open")
    def test_no_descriptor_is_left(self):
        before = descriptors()
        with serving(Server(port=0)) as one:
            self.assertNotEqual(descriptors(), before)
            in_loop(one)
        self.assertEqual(descriptors(), before)

    def test_stop_wakes_the_loop(self):
        patient = mock.patch.object(server, "PATIENCE", 4 * DEADLINE)
        with patient, serving(Server(port=0)) as one:
            in_loop(one)  # It asks with that patience now.
            one.stop()
            wait_until(lambda: not one.running)


class Plain:
    """A guest on one end of a pair of sockets; it reads what comes."""

    def __init__(self):
        self.socket, self.far = socket.socketpair()
        self.heard = b""
        self.served = 0

    def ask_read(self):
        return [self.socket]

    def ask_write(self):
        return []

    def patience(self):
        return float("inf")

    def is_active(self):
        return False

    def serve(self, ready):
        self.served += 1
        if self.socket in ready:
            self.heard += self.socket.recv(100)


class Guests(Collected):
    def welcome(self, guest):
        in_loop(self.server, self.server.guests.append, guest)
        self.addCleanup(guest.far.close)
        self.addCleanup(guest.socket.close)
        self.addCleanup(in_loop, self.server, self.server.guests.clear)
        return guest

    def check_the_room(self):
        peer = self.peer()
        peer.send("hello")
        self.assertEqual(peer.receive(), "hello")

    def test_it_is_asked_and_served(self):
        guest = self.welcome(Plain())
        guest.far.send(b"abc")
        wait_until(lambda: guest.heard == b"abc")
        self.check_the_room()

    def test_it_leaves_and_comes_back(self):
        guest = self.welcome(Plain())
        in_loop(self.server, self.server.guests.remove, guest)
        guest.far.send(b"abc")
        self.check_the_room()
        self.assertEqual(guest.heard, b"")
        self.welcome(guest)
        wait_until(lambda: guest.heard == b"abc")

    def test_it_leaves_while_it_is_served(self):
        guest, other = Plain(), Plain()
        guest.serve = lambda ready: self.server.guests.clear()
        in_loop(self.server, self.server.guests.extend, [guest, other])
        for each in guest, other:
            self.addCleanup(each.socket.close)
            self.addCleanup(each.far.close)
        wait_until(lambda: not self.server.guests)
        self.check_the_room()
        self.assertEqual(self.raised, [])

    def test_one_that_raises_is_let_go(self):
        for hook in ("ask_read", "ask_write", "patience", "serve"):
            with self.subTest(hook):
                self.one_that_raises_in(hook)

    def one_that_raises_in(self, hook):
        guest, good = Plain(), self.welcome(Plain())
        setattr(guest, hook, mock.Mock(side_effect=LookupError(hook)))
        self.raised.clear()
        self.welcome(guest)
        wait_until(lambda: guest not in self.server.guests)
        self.check_the_room()
        self.assertEqual(len(self.raised), 1)
        good.far.send(b"abc")
        wait_until(lambda: good.heard == b"abc")

    def test_one_that_removes_itself_when_the_room_stops(self):
        told = []

        def leave(guest, code):
            told.append(code)
            self.server.guests.remove(guest)

        guests = [Plain() for _ in range(4)]
        for guest in guests:
            guest.close = lambda code, guest=guest: leave(guest, code)
            guest.is_active = lambda: True
            self.addCleanup(guest.far.close)
            self.addCleanup(guest.socket.close)
        in_loop(self.server, self.server.guests.extend, guests)
        self.server.stop()
        wait_until(lambda: not self.server.running)
        self.assertEqual(told, [1001] * 4)
        self.assertEqual(self.raised, [])

    def test_what_cannot_be_looked_up(self):
        """Something with a fileno() that cannot be in a set."""

        class Unhashable(socket.socket):
            __hash__ = None

        with Unhashable() as odd:
            guest = Plain()
            guest.ask_read = lambda: [odd]
            self.welcome(guest)
            wait_until(lambda: not self.server.guests)
            self.check_the_room()

    def test_what_select_cannot_be_asked_for(self):
        closed = socket.socket()
        closed.close()
        high = mock.Mock()
        high.fileno.return_value = server.FD_SETSIZE
        for wrong in (closed, high, "no socket", None):
            for hook in ("ask_read", "ask_write"):
                with self.subTest(hook, wrong=wrong):
                    guest = Plain()
                    setattr(guest, hook, lambda wrong=wrong: [wrong])
                    self.welcome(guest)
                    wait_until(lambda: not self.server.guests)
                    self.check_the_room()

    def test_the_loop_sleeps_no_longer_than_a_guest_allows(self):
        guest = Plain()
        guest.patience = lambda: 0.001
        with mock.patch.object(server, "PATIENCE", 4 * DEADLINE):
            self.welcome(guest)
            wait_until(lambda: guest.served > 20)

    def test_odd_patience(self):
        for patience in (-1.0, 0, float("-inf"), "long"):
            with self.subTest(patience=patience):
                guest = Plain()
                guest.patience = lambda patience=patience: patience
                self.welcome(guest)
                self.check_the_room()
                in_loop(self.server, self.server.guests.clear)

    def test_one_that_is_always_ready_shares_the_loop(self):
        guest = self.welcome(Plain())
        guest.serve = lambda ready: setattr(guest, "served", guest.served + 1)
        guest.far.send(b"never read")
        wait_until(lambda: guest.served > 100)
        self.check_the_room()

    def test_one_that_asks_for_nothing_does_not_spin(self):
        guest = self.welcome(Plain())
        guest.ask_read = list
        self.check_the_room()
        served = guest.served
        in_loop(self.server)
        # What woke the loop is known: two calls, a few turns of the peer.
        self.assertLess(guest.served, served + 10)

    def test_it_does_not_spin_when_it_waits(self):
        """Half a second of silence is one or two turns."""
        guest = self.welcome(Plain())
        turns = []
        in_loop(
            self.server,
            self.server.later,
            0.3,
            lambda: turns.append(guest.served),
        )
        begun = in_loop(self.server, lambda: guest.served)
        wait_until(lambda: turns)
        self.assertLess(turns[0] - begun, 8)


class ClientAsGuest(Collected):
    make = staticmethod(lambda: ChatRoom(port=0))

    def setUp(self):
        super().setUp()
        self.server.diary = lambda text: None

    def guest(self, client):
        def begin():
            self.server.guests.append(client)
            client.connect()

        in_loop(self.server, begin)
        return client

    def test_thousands_of_round_trips(self):
        """A server and its own client in one loop: neither waits."""
        echo = Server(port=0)
        # Under Wine each call takes its time. Who waited: half a second.
        most, limit = (2_000, 0.05) if WINDOWS else (10_000, 0.005)
        trips = []

        def on_message(client, message):
            trips.append(time.perf_counter())
            if len(trips) < most:
                client.send("x")

        client = Client(f"ws://127.0.0.1:{echo.port}/")
        client.on_open = lambda client, response: client.send("x")
        client.on_message = on_message
        echo.guests.append(client)
        client.connect()
        with serving(echo):
            wait_until(lambda: len(trips) == most)
            in_loop(echo, client.close)
            wait_until(lambda: not client.is_active())
        # The median of ten rounds: other programs may hold up some of them.
        times = [b - a for a, b in zip(trips, trips[1:])]
        size = most // 10
        rounds = [sorted(times[n : n + size]) for n in range(0, most, size)]
        p99 = [each[int(len(each) * 0.99)] for each in rounds]
        self.assertLess(statistics.median(p99), limit)

    def test_what_a_guest_hears_goes_out_in_the_same_turn(self):
        with serving(Server(port=0)) as far:
            turns = []

            class Watch(Observer):
                def shared(self, users, block):
                    turns.append("said")

                def turned(self):
                    turns.append("turned")

            client = Client(f"ws://127.0.0.1:{far.port}/")
            client.on_message = lambda _, message: (
                turns.append("heard"),
                self.server.broadcast(message),
            )
            opened = []
            client.on_open = lambda *_: opened.append(True)
            self.guest(client)
            wait_until(lambda: opened)
            peer, speaker = self.peer(), Peer(far.port)
            in_loop(self.server, setattr, self.server, "observer", Watch())
            with contextlib.closing(speaker):
                speaker.send("over there")
                self.assertEqual(peer.receive(), "over there")
            self.assertEqual(turns[turns.index("heard") + 1], "said")
            in_loop(self.server, client.close)
            wait_until(lambda: not client.is_active())

    def test_it_comes_back_after_the_other_room_was_gone(self):
        closes = []
        far = Server(port=0)
        client = Client(f"ws://127.0.0.1:{far.port}/")
        client.on_error = lambda *_: None
        client.on_close = lambda client, code, reason: (
            closes.append(code),
            client.reconnect(0.05),
        )
        opened = []
        client.on_open = lambda *_: opened.append(True)
        with serving(far):
            self.guest(client)
            wait_until(lambda: opened)
        wait_until(lambda: closes)
        self.assertEqual(closes[0], 1001)
        peer = self.peer()
        peer.send("alone")
        self.assertEqual(peer.receive(), "alone")
        with serving(Server(port=far.port)):
            wait_until(lambda: len(opened) == 2)
            in_loop(self.server, setattr, client, "on_close", lambda *_: None)
            in_loop(self.server, client.close)
            wait_until(lambda: not client.is_active())

    def test_stop_says_goodbye_for_the_guests_too(self):
        left = []
        far = Server(port=0)
        far.on_close = lambda user, code, reason: left.append(code)
        with serving(far):
            client = Client(f"ws://127.0.0.1:{far.port}/")
            opened = []
            client.on_open = lambda *_: opened.append(True)
            self.guest(client)
            wait_until(lambda: opened)
            # It waits until the guest has gone, and no longer.
            with mock.patch.object(server, "STOPPING_SECONDS", 4 * DEADLINE):
                self.server.stop()
                wait_until(lambda: not self.server.running)
            wait_until(lambda: left)
        self.assertEqual(left, [1001])
        self.assertFalse(client.is_active())

    def test_a_client_whose_server_is_silent_is_told_of_the_end(self):
        closes = []
        with socket.create_server(("127.0.0.1", 0)) as far:
            client = Client(f"ws://127.0.0.1:{far.getsockname()[1]}/")
            client.on_error = lambda *_: None
            client.on_close = lambda client, *why: (
                closes.append(why),
                client.reconnect(1),
            )
            self.guest(client)
            sock, _ = far.accept()
            with sock, mock.patch.object(server, "STOPPING_SECONDS", 0.05):
                client.close = lambda code: None  # as if it were of no use
                self.server.stop()
                wait_until(lambda: not self.server.running)
        self.assertEqual(closes, [(1006, "the room has closed")])
        self.assertIsNone(client.socket)

    def test_stop_does_not_wait_for_a_guest_for_long(self):
        guest = Plain()
        guest.is_active = lambda: True
        guest.close = mock.Mock()
        in_loop(self.server, self.server.guests.append, guest)
        with mock.patch.object(server, "STOPPING_SECONDS", 0.05):
            self.server.stop()
            wait_until(lambda: not self.server.running)
        guest.close.assert_called_once_with(1001)
        guest.socket.close()
        guest.far.close()


class PageOfOnesOwn(unittest.TestCase):
    def test_what_cannot_be_read_is_told_at_once(self):
        with self.assertRaises(FileNotFoundError):
            Server(port=0, page="there is none.html")

    def test_on_the_command_line(self):
        for page in ("there is none.html", ".", "x" * 5000 + ".html"):
            with self.subTest(page[:20]):
                stderr = io.StringIO()
                with contextlib.redirect_stderr(stderr):
                    status = server.main(["0", "--page", page])
                self.assertEqual(status, 2)
                lines = stderr.getvalue().splitlines()
                self.assertEqual(len(lines), 2)
                self.assertIn("--page", lines[1])
                self.assertLess(max(map(len, lines)), 100)
