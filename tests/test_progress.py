"""Who makes progress is alive: slow is not dead, and half is not all.

The server lives by a clock that the tests put forward, so that a user who
reads a little every fifteen seconds needs no fifteen seconds here.
"""

# ruff: noqa: SIM117 - Python 3.8 has no brackets around several with
from __future__ import annotations

import contextlib
import io
import socket
import unittest

import codec
import server
from tests.hostile import (
    CLOSE,
    PING,
    TEXT,
    Relay,
    Room,
    clock,
    connect,
    frame,
    read_head,
    request,
    room,
    status,
    wait_for_users,
)
from tests.support import MASKING_KEY, ROOT, Peer, wait_until

MESSAGES = [bytes((number,)) * 60_000 for number in range(8)]
FRAMES = b"".join(codec.encode_message(message) for message in MESSAGES)
BITE = 20_000  # bytes that a slow reader takes at a time
PATIENCE = 0.02  # seconds; a kernel may keep back an ACK for 0.04


class Narrow(Relay):
    """The kernel keeps little for a user; what is said goes to #1 alone."""

    def __init__(self, **options):
        super().__init__(**options)
        self.closes = []

    def on_connect(self, user):
        option = socket.SO_SNDBUF, 4096
        user.socket.setsockopt(socket.SOL_SOCKET, *option)

    def on_message(self, user, message):
        for message in MESSAGES:
            self.send(user, message)

    def on_close(self, user, code, reason):
        self.closes.append((code, reason))


def go_slowly(port):
    """Return an open WebSocket with little room for what it does not read."""
    sock = connect(port, request(port), buffer=4096)
    assert status(read_head(sock)) == 101
    return sock


def read_slowly(sock, now, running, pause, size=None, bite=BITE):
    """Read size bytes, or to the end; after each bite comes a pause.

    pause: seconds by the server's clock.
    """
    received = bytearray()
    while size is None or len(received) < size:
        missing = min(bite, (size or 2**30) - len(received))
        while missing:
            data = sock.recv(missing)
            if not data:
                return bytes(received)
            received += data
            missing -= len(data)
        now.go_to(now.ahead + pause, running)
    return bytes(received)


class Slow(unittest.TestCase):
    """All arrives, and a Close behind it, in however small bites."""

    ENDS = {
        "a Close": (codec.encode_close(1000, "", MASKING_KEY), False),
        "a Close and the end": (
            codec.encode_close(1000, "", MASKING_KEY), True,
        ),
        "the end alone": (b"", True),
    }  # fmt: skip

    def test_all_that_waits_goes_out_before_the_end(self):
        for what, (last, ends) in self.ENDS.items():
            with self.subTest(what), clock() as now, room(
                Narrow, PATIENCE
            ) as running:
                with go_slowly(running.port) as sock:
                    sock.sendall(frame(TEXT, b"go") + last)
                    if ends:
                        sock.shutdown(socket.SHUT_WR)
                    wait_until(lambda: running.users[1].closing)
                    # Each pause is shorter than CLOSING_SECONDS, all of
                    # them together are much longer.
                    heard = read_slowly(sock, now, running, 4.0)
                self.assertGreater(now.ahead, 10 * server.CLOSING_SECONDS)
                self.assertEqual(heard[:-4], FRAMES)
                self.assertEqual(heard[-4:], codec.encode_close(1000))
                wait_until(lambda: running.closes)
                expected = (1000, "") if last else (1006, "hung up")
                self.assertEqual(running.closes, [expected])

    def test_who_takes_nothing_while_closing_is_dropped(self):
        with clock() as now, room(Narrow, PATIENCE) as running:
            with go_slowly(running.port) as sock:
                sock.sendall(frame(TEXT, b"go") + frame(CLOSE))
                wait_until(lambda: running.users[1].closing)
                now.go_to(server.CLOSING_SECONDS + 0.6, running)
                wait_for_users(running, 0)

    def test_who_reads_slowly_needs_no_pong(self):
        with clock() as now, room(
            Narrow, PATIENCE, ping_interval=20
        ) as running:
            with go_slowly(running.port) as sock:
                sock.sendall(frame(TEXT, b"go"))
                heard = read_slowly(sock, now, running, 15.0, len(FRAMES))
                self.assertGreater(now.ahead, 200.0)
                self.assertEqual(heard, FRAMES)
                self.assertEqual(len(running.users), 1)

    def test_who_was_pinged_and_reads_on_is_alive(self):
        # A long time for the kernels: an ACK may be kept back for 0.04 s.
        with clock() as now, room(Narrow, 0.08, ping_interval=20) as running:
            with go_slowly(running.port) as sock:
                sock.sendall(frame(TEXT, b"go"))
                # Not to the end: what the kernel holds needs a pong. And in
                # whole bites: a few bytes more would make no room.
                size = 7 * 3 * BITE
                self.assertLess(size, len(FRAMES) - 2 * BITE)
                heard = read_slowly(sock, now, running, 25.0, size, 3 * BITE)
                self.assertEqual(heard, FRAMES[:size])
                self.assertEqual(len(running.users), 1)

    def test_who_takes_nothing_is_pinged_and_dropped(self):
        with clock() as now, room(
            Narrow, PATIENCE, ping_interval=20
        ) as running:
            with go_slowly(running.port) as sock:
                sock.sendall(frame(TEXT, b"go"))
                wait_until(lambda: running.users[1].waiting)
                # At first the kernels on both sides still take a little.
                steps = 0
                while running.users:
                    steps += 1
                    self.assertLess(steps, 20)
                    now.go_to(20.5 * steps, running)
                self.assertGreater(steps, 1)
        self.assertEqual(running.closes, [(1006, "did not answer a ping")])

    def test_a_ping_that_the_kernel_takes_is_no_sign_of_life(self):
        with clock() as now, room(
            Narrow, PATIENCE, ping_interval=20
        ) as running:
            with Peer(running.port) as ghost, Peer(running.port) as other:
                # Whispers to it are taken too, as its buffer is empty.
                running.on_message = lambda user, message: running.send(
                    running.users[1], "are you there?"
                )
                for seconds in (20.5, 30.0, 40.0):
                    now.go_to(seconds, running)
                    other.send("whisper")
                    self.assertEqual(ghost.next()[0], ghost_hears(seconds))
                now.go_to(41.5, running)
                wait_until(lambda: 1 not in running.users)

    def test_little_room_is_room(self):
        # select() tells of room only when a third of the buffer is empty.
        with clock() as now, room(
            Narrow, PATIENCE, ping_interval=20
        ) as running:
            large = socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20
            running.on_connect = lambda user: user.socket.setsockopt(*large)
            running.on_message = lambda user, message: running.send(
                user, bytes(2**22)
            )
            with go_slowly(running.port) as sock:
                sock.sendall(frame(TEXT, b"go"))
                wait_until(lambda: running.users[1].waiting)
                read_slowly(sock, now, running, 21.0, 600_000)
                self.assertEqual(len(running.users), 1)

    def test_the_page_over_a_slow_line(self):
        page = (ROOT / "client.html").read_bytes()
        get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        for ends in (False, True):
            with self.subTest(ends=ends):
                with clock() as now, room(Narrow, PATIENCE) as running:
                    with connect(running.port, get, buffer=2048) as sock:
                        if ends:
                            sock.shutdown(socket.SHUT_WR)
                        head = read_head(sock)
                        body = read_slowly(sock, now, running, 4.0, bite=4000)
                self.assertEqual(status(head), 200)
                self.assertEqual(body, page)
                self.assertGreater(now.ahead, 3 * server.CLOSING_SECONDS)
                self.assertEqual(running.closes, [])

    def test_stopping_waits_for_nobody_longer_than_two_seconds(self):
        with clock() as now, room(Narrow, PATIENCE) as running:
            with go_slowly(running.port) as sock:
                sock.sendall(frame(TEXT, b"go"))
                wait_until(lambda: running.users[1].waiting)
                running.stop()
                wait_until(lambda: not running.listener)
                ends = now.ahead + 2.0
                sock.settimeout(0.1)
                while now.ahead < ends:
                    sock.recv(BITE)
                    now.ahead += 0.5
                wait_until(lambda: not running.running)


def ghost_hears(seconds):
    """Return what one who is never heard gets at that time."""
    return PING if seconds < 30 else TEXT


class Kicking(Relay):
    """Closes whoever says something."""

    def __init__(self, **options):
        super().__init__(**options)
        self.heard = []

    def on_message(self, user, message):
        self.heard.append(message)
        self.close(user, 4001, "mine")


class Ends(unittest.TestCase):
    """The code in on_close is that of the Close that came (s7.1.5)."""

    def end(self, running, act):
        """Let a peer act until it has left; return what on_close got."""
        closes = []
        running.on_close = lambda user, *why: closes.append(why)
        with Peer(running.port) as peer:
            act(peer)
            peer.close()
            wait_until(lambda: closes)
        return closes

    def test_a_close_of_ours(self):
        def silent(peer):
            peer.send("kick me")
            self.assertEqual(peer.receive_close(), (4001, "mine"))

        def polite(peer):
            silent(peer)
            peer.frame(CLOSE, (4001).to_bytes(2, "big") + b"yes")

        def contrary(peer):
            silent(peer)
            peer.frame(TEXT, b"one more word")
            peer.frame(CLOSE, (4002).to_bytes(2, "big"))

        def rude(peer):
            silent(peer)
            peer.write(b"\x81\x00" + frame(CLOSE, b"\x0f\xa3"))

        unanswered = (1006, "closed with 4001 mine")
        for act, expected in (
            (silent, unanswered),
            (polite, (4001, "yes")),
            (contrary, (4002, "")),
            (rude, unanswered),  # s7.1.7: nothing behind the fault counts
        ):
            with self.subTest(act.__name__), room(Kicking) as running:
                self.assertEqual(self.end(running, act), [expected])
                self.assertEqual(running.heard, ["kick me"])

    def test_a_rule_that_was_broken(self):
        def breaks(peer):
            peer.write(b"\x81\x00" + frame(CLOSE, b"\x0f\xa1"))
            self.assertEqual(peer.receive_close().code, 1002)
            peer.frame(CLOSE, (4001).to_bytes(2, "big"))

        expected = "closed with 1002 s5.1: a client must mask"
        with room(Relay) as running:
            self.assertEqual(self.end(running, breaks), [(1006, expected)])

    def test_one_who_never_hangs_up(self):
        with clock() as now, room() as running:
            with Peer(running.port) as peer:
                peer.write(b"\x81\x00")
                peer.receive_close()
                now.go_to(server.CLOSING_SECONDS + 0.6, running)
                wait_until(lambda: "left" in running.lines[-1])
        self.assertIn("closed with 1002 s5.1: a client", running.lines[-1])


class OneDirection(unittest.TestCase):
    """What one direction suffers does not end the other."""

    def test_last_words_of_one_who_does_not_wait_for_the_answer(self):
        words = b"".join(frame(TEXT, b"%d" % n) for n in range(200))
        last = words + codec.encode_close(1000, "bye", MASKING_KEY)
        for size in (8, 65536):
            with room(Room, recv_size=size) as running:
                with self.subTest(size=size), Peer(running.port) as witness:
                    rude = Peer(running.port)
                    rude.write(last)
                    rude.close()  # with unread echoes: a RST
                    heard = [witness.receive() for _ in range(200)]
                    self.assertEqual(heard, [str(n) for n in range(200)])
                    wait_until(lambda: "left" in running.lines[-1])
                    self.assertEqual(running.lines[-1], "#2 left: 1000 bye")

    def test_who_broke_a_rule_is_not_heard_even_if_sending_failed(self):
        # Its last words come behind a RST: nothing can be sent to it.
        bad = b"\x81\x01x", frame(CLOSE, b"\x10\xe1")
        for what, act, (fault, last) in (
            ("a rule", Noting.relay, bad),
            ("close", Noting.kick, (b"", b"")),
            ("a bug", Noting.stumble, (b"", b"")),
        ):
            words = frame(TEXT, b"a") + frame(TEXT, b"b") + fault
            words += frame(TEXT, b"c") * 20 + last
            with self.subTest(what), room(Noting, recv_size=8) as running:
                running.act = act
                with contextlib.redirect_stderr(io.StringIO()):
                    rude = Peer(running.port)
                    rude.write(words)
                    rude.close()  # with unread echoes
                    running.wait_for_close()
                self.assertEqual(running.heard, ["a", "b"])
                self.assertEqual(running.closes[0][0], 1006)

    def test_what_came_with_a_bug_is_not_lost(self):
        # The Close that came in the same read, or the rest of a frame in it.
        bye = codec.encode_close(1000, "bye", MASKING_KEY)
        for rest, then in ((bye, b""), (bye[:3], bye[3:]), (b"", bye)):
            with self.subTest(rest), room(Noting) as running:
                running.act = Noting.stumble
                with contextlib.redirect_stderr(io.StringIO()):
                    with Peer(running.port) as peer:
                        peer.write(frame(TEXT, b"b") + rest)
                        while peer.next()[0] != CLOSE:
                            pass
                        peer.write(then)
                    running.wait_for_close()
                self.assertEqual(running.closes, [(1000, "bye")])


class Noting(Relay):
    """Notes what it hears; act() comes with each message."""

    act = None

    def __init__(self, **options):
        super().__init__(**options)
        self.heard, self.closes = [], []

    def on_message(self, user, message):
        self.heard.append(message)
        self.broadcast(message)
        self.act(self, user, message)

    def on_close(self, user, code, reason):
        self.closes.append((code, reason))

    def wait_for_close(self):
        wait_until(lambda: self.closes)

    @staticmethod
    def relay(running, user, message):
        pass

    @staticmethod
    def kick(running, user, message):
        if message == "b":
            running.close(user, 4001)

    @staticmethod
    def stumble(running, user, message):
        if message == "b":
            raise ZeroDivisionError("on purpose")


class Numbers(unittest.TestCase):
    """The number of what never became a WebSocket is given again."""

    def test_the_first_to_join_is_number_1(self):
        with room() as running:
            with connect(running.port) as spare:
                wait_for_users(running, 1)
                for _ in range(3):
                    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
                    with connect(running.port, get) as page:
                        while page.recv(2**16):
                            pass
                    wait_for_users(running, 1)
                spare.close()
                wait_for_users(running, 0)
            with Peer(running.port) as ana:
                self.assertEqual(self.code_of(ana), "1")
                with Peer(running.port) as bob:
                    self.assertEqual(self.code_of(bob), "2")
                wait_for_users(running, 1)
                # #2 was somebody: nobody else is called that.
                with Peer(running.port) as eve:
                    self.assertEqual(self.code_of(eve), "3")

    def code_of(self, peer):
        """Let a peer join; return the code that the room gives it."""
        peer.send("type=add&ming=x")
        while True:
            message = peer.receive_json()
            if message["type"] == "madd":
                return message["code"]

    def test_numbers_come_back_smallest_first(self):
        with room() as running, contextlib.ExitStack() as stack:
            knocks = [connect(running.port) for _ in range(3)]
            wait_for_users(running, 3)
            for sock in knocks:
                sock.close()
            wait_for_users(running, 0)
            for expected in (1, 2, 3, 4):
                peer = stack.enter_context(Peer(running.port))
                self.assertEqual(self.code_of(peer), str(expected))


if __name__ == "__main__":
    unittest.main()
