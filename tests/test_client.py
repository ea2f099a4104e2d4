"""client.py as a library: against our server, and against wrong ones.

The scripted peer answers, with a blocking socket in a thread, whatever a
test tells it to; the client runs in the test itself, turn by turn.
"""

from __future__ import annotations

import contextlib
import errno
import io
import random
import socket
import ssl
import tempfile
import threading
import time
import unittest
from unittest import mock

import client
import codec
import handshake
from client import Client, State, parse_url, turn
from codec import ProtocolError
from handshake import HandshakeError
from server import Server
from tests.support import (
    DEADLINE,
    RESETS,
    WINDOWS,
    make_certificate,
    reset,
    serving,
    wait_until,
    whole,
)


def drive(*clients, until=None):
    """Turn the loop until a condition, or until nothing is active."""
    end = time.monotonic() + DEADLINE
    for one in clients:
        if one.state is State.NEW:
            one.connect()
    while any(one.is_active() for one in clients):
        if until and until():
            return
        if time.monotonic() > end:
            raise AssertionError([(one.state, one.calls) for one in clients])
        turn(clients)
    if until and not until():
        raise AssertionError([one.calls for one in clients])


class Noting(Client):
    """A client that notes in calls what its hooks are told."""

    def __init__(self, *arguments, **options):
        self.calls = []
        super().__init__(*arguments, **options)

    def on_connect(self):
        self.calls.append(("connect",))

    def on_open(self, response):
        self.calls.append(("open", response.status))

    def on_message(self, message):
        self.calls.append(("message", message))

    def on_error(self, error):
        self.calls.append(("error", error))

    def on_close(self, code, reason):
        self.calls.append(("close", code, reason))

    def told(self, hook):
        """Return what one hook was told, each time."""
        return [call[1:] for call in self.calls if call[0] == hook]

    def messages(self):
        return [message for (message,) in self.told("message")]


class Wire:
    """The server's end of one connection, in the hands of a script."""

    def __init__(self, sock):
        self.socket = sock
        self.received = b""
        self.decoder = codec.Decoder(True, 64 * 2**20)
        self.events = []
        self.request = None

    def write(self, data):
        self.socket.sendall(data)

    def send(self, message):
        self.write(codec.encode_message(message))

    def take_request(self):
        """Read the request; return its Sec-WebSocket-Key."""
        while True:
            taken = handshake.take_request(self.received)
            if taken:
                self.request, self.received = taken
                return self.request.headers["Sec-WebSocket-Key"]
            data = self.socket.recv(65536)
            if not data:
                raise AssertionError(f"no request: {self.received}")
            self.received += data

    def accept(self, rest=b""):
        """Answer the handshake rightly; rest goes in the same segment."""
        self.take_request()
        handshake.check_upgrade(self.request)
        self.write(handshake.switching_protocols(self.request) + rest)

    def next(self):
        """Return the next (opcode, message); None at the end of stream."""
        while not self.events:
            data = self.received or self.socket.recv(2**18)
            self.received = b""
            if not data:
                return None
            self.events += whole(self.decoder.feed(data))
        return self.events.pop(0)

    def read_to_end(self):
        parts = [self.received]
        while True:
            data = self.socket.recv(2**18)
            if not data:
                return b"".join(parts)
            parts.append(data)

    def reset(self):
        """Hang up with a RST instead of a FIN."""
        reset(self.socket)


class Scripted:
    """A listening socket; each connection is one call of script(wire).

    A context manager; an exception of the script is the test's own.
    """

    def __init__(self, script, context=None):
        self.script = script
        self.context = context
        self.errors = []
        self.ended = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/"
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.ended:
            sock, _ = self.listener.accept()
            if self.ended:
                sock.close()
                return
            try:
                self.serve(sock)
            except BaseException as error:
                self.errors.append(error)

    def serve(self, sock):
        with sock:
            sock.settimeout(DEADLINE)
            if not self.context:
                self.script(Wire(sock))
                return
            try:
                tls = self.context.wrap_socket(sock, server_side=True)
            except OSError:
                return  # it does not trust us
            with tls:
                self.script(Wire(tls))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, error, _):
        self.ended = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join(DEADLINE)
        self.listener.close()
        if self.errors and error is None:
            raise self.errors[0]


def stop(server):
    """Stop a server, and wake it from its select()."""
    server.stop()
    with contextlib.suppress(OSError):
        socket.create_connection((server.host, server.port)).close()


def free_port():
    """Return a port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class ClientCase(unittest.TestCase):
    """Helpers for one client and one peer."""

    def client(self, port, path="/", scheme="ws", host="127.0.0.1", **options):
        made = Noting(f"{scheme}://{host}:{port}{path}", **options)
        self.addCleanup(self.hang_up, made)
        return made

    @staticmethod
    def hang_up(made):
        if made.socket:
            made.socket.close()

    def talk(self, script, context=None, **options):
        """Drive one client against a script until it is over."""
        with Scripted(script, context) as peer:
            made = self.client(peer.port, **options)
            drive(made)
        return made

    def assert_failed(self, made, kind, words, reason=None):
        """Assert one on_error of this kind, one on_close with 1006."""
        errors = made.told("error")
        self.assertEqual(len(errors), 1, made.calls)
        self.assertIsInstance(errors[0][0], kind)
        self.assertRegex(str(errors[0][0]), words)
        (close,) = made.told("close")
        self.assertEqual(close[0], 1006)
        self.assertRegex(close[1], reason or words)
        self.assertEqual(made.calls[-1][0], "close")
        self.assertIs(made.state, State.GONE)


class Addresses(unittest.TestCase):
    """What is made of a ws:// address."""

    def test_the_parts(self):
        for url, expected in (
            ("ws://a", (False, "a", 80, "a", "/")),
            ("WS://A.org:80/", (False, "a.org", 80, "a.org", "/")),
            ("ws://a:443/", (False, "a", 443, "a:443", "/")),
            ("wss://a/b?c=d", (True, "a", 443, "a", "/b?c=d")),
            ("wss://a:443/b", (True, "a", 443, "a", "/b")),
            ("wss://a:80/b", (True, "a", 80, "a:80", "/b")),
            ("ws://a?b=c?d/e", (False, "a", 80, "a", "/?b=c?d/e")),
            ("ws://[::1]/", (False, "::1", 80, "[::1]", "/")),
            ("ws://[::1]:9000/", (False, "::1", 9000, "[::1]:9000", "/")),
            ("ws://a/\u738b x", (False, "a", 80, "a", "/%E7%8E%8B%20x")),
            ("ws://a/%41%2F;v=1", (False, "a", 80, "a", "/%41%2F;v=1")),
            ("ws://a/?\u00e9=1&b", (False, "a", 80, "a", "/?%C3%A9=1&b")),
            (
                "ws://b\u00fccher.example/",
                (False, "xn--bcher-kva.example", 80,
                 "xn--bcher-kva.example", "/"),
            ),
        ):  # fmt: skip
            with self.subTest(url=url):
                self.assertEqual(parse_url(url), expected)

    def test_what_is_no_address(self):
        for url, words in (
            ("http://a/", "type ws://a/$"),
            ("HTTPS://a/?b=http://c", "type wss://a/.b=http://c$"),
            ("a:9000", "type ws://a:9000$"),
            ("127.0.0.1:9000", "type ws://127.0.0.1:9000$"),
            ("//a/", "type ws://a/$"),
            ("", "type ws://127.0.0.1:9000/$"),
            ("9150", "type ws://127.0.0.1:9150/$"),
            ("ws:/a/", "no host"),
            ("ws:///a", "no host"),
            ("ws://:9000/", "no host"),
            ("ws://a b/", "no host"),
            ("ws://a/#b", "fragment"),
            ("ws://a/#", "fragment"),
            ("ws://ana:secret@a/", "login"),
            ("ws://a:65536/", "[Pp]ort"),
            ("ws://a:b/", "[Pp]ort"),
            ("ws://[::1/", "IPv6"),
            ("ws://" + "\u738b" * 99, "label"),
            ("wss://" + "x" * 70, "label"),
            ("ws://a..b/", "label"),
        ):
            wrong = self.assertRaisesRegex(ValueError, words)
            with self.subTest(url=url), wrong:
                Client(url)

    def test_wrong_headers_are_told_at_once(self):
        for options in (
            {"headers": {"X": "a\r\nY: b"}},
            {"headers": {"X Y": "a"}},
            {"headers": {"X": "\u738b"}},
            {"origin": "a\n"},
            {"subprotocols": ["a\r\n"]},
        ):
            with self.subTest(options=options), self.assertRaises(ValueError):
                Client("ws://a/", **options)

    def test_a_header_that_would_stand_there_twice(self):
        page = {"origin": "http://a"}
        chat = {"subprotocols": ["chat"]}
        for options in (
            {"headers": {"Origin": "http://b"}, **page},
            {"headers": {"origin": "http://a"}, **page},
            {"headers": {"Sec-WebSocket-Protocol": "chat"}, **chat},
            {"headers": {"sec-websocket-protocol": "chat"}, **chat},
            {"headers": {"X": "1", "x": "2"}},
            {"headers": {"Upgrade": "h2c"}},
            {"headers": {"connection": "close"}},
            {"headers": {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}},
            {"headers": {"Sec-WebSocket-Version": "13"}},
        ):
            with self.subTest(options=options), self.assertRaises(ValueError):
                Client("ws://a/", **options)


class AgainstOurServer(ClientCase):
    """Hooks, messages and closing, with server.py on the other side."""

    def setUp(self):
        self.server = Server(port=0)
        running = serving(self.server)
        running.__enter__()
        self.addCleanup(running.__exit__, None, None, None)

    def open(self, **options):
        made = self.client(self.server.port, **options)
        drive(made, until=lambda: made.state is State.OPEN)
        return made

    def test_assigned_hooks_get_the_client(self):
        calls = []
        made = Client(f"ws://127.0.0.1:{self.server.port}/")
        made.on_connect = lambda *what: calls.append(what)
        made.on_open = lambda one, response: (
            calls.append((one, response.status)), one.send("hello"),
        )  # fmt: skip
        made.on_message = lambda one, message: (
            calls.append((one, message)), one.close(4001, "bye"),
        )  # fmt: skip
        made.on_close = lambda *what: calls.append(what)
        made.run()
        expected = [(made,), (made, 101), (made, "hello")]
        # The server answers with the code; only ours had a reason.
        self.assertEqual(calls, [*expected, (made, 4001, "")])

    def test_overridden_hooks_are_methods(self):
        made = self.open()
        made.send("hello")
        made.send(b"\x00\xff")
        drive(made, until=lambda: len(made.messages()) == 2)
        made.close()
        drive(made)
        self.assertEqual(
            made.calls,
            [
                ("connect",),
                ("open", 101),
                ("message", "hello"),
                ("message", b"\x00\xff"),
                ("close", 1000, ""),
            ],
        )

    def test_what_the_request_says(self):
        requests = []
        self.server.on_open = lambda user: requests.append(user.request)
        responses = []
        made = self.client(
            self.server.port,
            path="/chat?room=1",
            headers={"Cookie": "id=7"},
            origin=f"http://127.0.0.1:{self.server.port}",
            subprotocols=["superchat", "chat"],
        )
        made.on_open = lambda one, response: responses.append(response)
        drive(made, until=lambda: responses)
        wait_until(lambda: requests)
        (request,), (response,) = requests, responses
        self.assertEqual(request.path, "/chat")
        self.assertEqual(request.query, {"room": "1"})
        headers = request.headers
        self.assertEqual(headers["Cookie"], "id=7")
        self.assertEqual(headers["Host"], f"127.0.0.1:{self.server.port}")
        self.assertEqual(headers["Sec-WebSocket-Protocol"], "superchat, chat")
        self.assertEqual(response.status, 101)
        self.assertEqual(response.subprotocol, "chat")
        self.assertEqual(response.headers["upgrade"], "websocket")

    def test_another_host_and_a_subprotocol_among_the_headers(self):
        heads, responses = [], []

        def script(wire):
            wire.take_request()
            heads.append(wire.request.headers)
            wire.write(handshake.switching_protocols(wire.request))

        with Scripted(script) as peer:
            offer = {"host": "b:1", "sec-websocket-protocol": "x, chat"}
            made = self.client(peer.port, headers=offer)
            made.on_open = lambda one, response: responses.append(response)
            drive(made)
        self.assertEqual(heads[0]["Host"], "b:1")  # two would be refused
        self.assertEqual(responses[0].subprotocol, "chat")

    def test_an_origin_that_is_refused(self):
        made = self.client(self.server.port, origin="http://evil.example")
        drive(made)
        words = "^403 Forbidden: Only with --origin http://evil.example may "
        self.assert_failed(made, HandshakeError, words)

    def test_the_server_closes(self):
        self.server.on_message = lambda user, why: self.server.close(
            user, 4000, why
        )
        made = self.open()
        made.send("enough")
        drive(made)
        self.assertEqual(made.told("close"), [(4000, "enough")])
        self.assertEqual(made.told("error"), [])

    def test_the_server_stops(self):
        made = self.open()
        stop(self.server)
        drive(made)
        self.assertEqual(made.told("close"), [(1001, "the room closes")])

    def test_sending_too_early_and_too_late(self):
        made = self.client(self.server.port)
        with self.assertRaises(ValueError):
            made.send("never connected")
        made.connect()
        with self.assertRaises(ValueError):
            made.send("in the handshake")
        drive(made, until=lambda: made.state is State.OPEN)
        for wrong in (None, 3, bytearray(b"a")):
            with self.assertRaises(TypeError):
                made.send(wrong)
        made.send("a")
        made.close()
        made.send("behind the Close")
        drive(made)
        made.send("gone")
        self.assertEqual(made.messages(), ["a"])

    def test_close_codes_that_must_not_be_sent(self):
        made = self.open()
        for code, reason in ((1006, ""), (999, ""), (1000, "x" * 124)):
            with self.subTest(code), self.assertRaises(ValueError):
                made.close(code, reason)
        self.assertIs(made.state, State.OPEN)

    def test_one_connection_at_a_time(self):
        made = self.open()
        with self.assertRaises(ValueError):
            made.connect()

    def test_close_before_it_is_open(self):
        made = self.client(self.server.port)
        made.close()  # nothing to close
        made.connect()
        made.close()
        drive(made)
        self.assertEqual(made.calls[0], ("connect",))
        self.assertEqual(made.calls[1][:2], ("close", 1006))
        self.assertEqual(len(made.calls), 2)

    def test_close_in_on_connect(self):
        made = self.client(self.server.port)
        made.on_connect = lambda one: one.close()
        drive(made)
        end = ("close", 1006, "closed before it was open")
        self.assertEqual(made.calls, [end])

    def test_two_clients_in_one_loop(self):
        ana, ben = self.open(), self.client(self.server.port)
        drive(ana, ben, until=lambda: ben.state is State.OPEN)
        ana.send("from Ana")
        ben.send("from Ben")
        both = [ana, ben]
        drive(*both, until=lambda: all(len(c.messages()) == 2 for c in both))
        self.assertEqual(ana.messages(), ben.messages())
        ana.close()
        drive(ana, ben, until=lambda: ana.state is State.GONE)
        ben.close(4001)
        client.run(ana, ben)
        self.assertEqual(ana.told("close"), [(1000, "")])
        self.assertEqual(ben.told("close"), [(4001, "")])

    def test_run_connects_and_returns(self):
        client.run()
        made = [self.client(self.server.port) for _ in range(2)]
        for one in made:
            one.on_open = lambda this, response: this.close()
        client.run(*made)
        for one in made:
            self.assertEqual(one.told("close"), [(1000, "")])
        client.run(*made)  # All is over: it does not connect again.
        self.assertEqual(len(made[0].calls), 2)

    def test_an_echo_of_1000_messages(self):
        dice = random.Random(1)
        sizes = [0, 1, 125, 126, 65535, 65536, 2**20, 2**20 - 1]
        while len(sizes) < 1000:
            sizes.append(int(2 ** dice.uniform(0, 16)))
        noise = dice.getrandbits(8 * 2**20).to_bytes(2**20, "big")
        messages = []
        for number, size in enumerate(sizes):
            data = noise[:size]
            messages.append(data if number % 2 else data.hex()[:size])
        made = self.open()
        for sent in range(0, 1000, 50):
            for message in messages[sent : sent + 50]:
                made.send(message)
            self.await_messages(made, sent + 50)
        self.assertTrue(made.messages() == messages)

    def await_messages(self, made, number):
        drive(made, until=lambda: len(made.messages()) >= number)


class RightAnswers(ClientCase):
    """A peer that keeps the rules, in unusual ways."""

    def test_frames_in_the_same_segment_as_the_101(self):
        frames = codec.encode_message("first") + codec.encode_message(b"2nd")

        def script(wire):
            wire.accept(frames + codec.encode_close(4000))
            self.assertEqual(wire.next()[0], codec.CLOSE)

        made = self.talk(script)
        self.assertEqual(made.messages(), ["first", b"2nd"])
        self.assertEqual(made.told("close"), [(4000, "")])

    def test_the_answer_in_single_bytes(self):
        def script(wire):
            wire.take_request()
            answer = handshake.switching_protocols(wire.request)
            for byte in answer + codec.encode_message("hello"):
                wire.write(bytes([byte]))
            self.assertEqual(wire.next()[0], codec.CLOSE)

            wire.write(codec.encode_close(1000))

        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.on_message = lambda one, message: one.close()
            drive(made)
        self.assertEqual(made.told("close"), [(1000, "")])

    def test_every_frame_has_a_mask_of_its_own(self):
        keys, shakes = set(), set()

        def script(wire):
            wire.accept()
            shakes.add(wire.request.headers["Sec-WebSocket-Key"])
            data = wire.received
            while len(data) < 1000:
                data += wire.socket.recv(65536)
            for _ in range(100):
                self.assertEqual(data[:2], b"\x81\x84")
                keys.add(data[2:6])
                data = data[10:]

        for _ in range(2):
            with Scripted(script) as peer:
                made = self.client(peer.port)
                made.on_open = lambda one, response: [
                    one.send("same") for _ in range(100)
                ]
                drive(made)
        self.assertEqual(len(keys), 200)
        self.assertEqual(len(shakes), 2)

    def test_masks_and_keys_cannot_be_guessed(self):
        with mock.patch("secrets.token_bytes", side_effect=bytes) as source:
            made = self.client(1)
            made.state = State.OPEN
            made.send("a")
            made.close()
        sizes = [call[0][0] for call in source.call_args_list]
        self.assertEqual(sizes, [16, 4, 4])

    def test_ping_is_answered(self):
        def script(wire):
            wire.accept(codec.encode_frame(codec.PING, b"are you there?"))
            self.assertEqual(wire.next(), (codec.PONG, b"are you there?"))
            wire.write(codec.encode_close(1000))

        made = self.talk(script)
        self.assertEqual(made.told("close"), [(1000, "")])

    def test_of_many_pings_the_last_is_answered(self):
        much, pings = bytes(2**22), [b"%0125d" % i for i in range(5000)]
        go = threading.Event()

        def script(wire):
            wire.accept(codec.encode_message("go"))
            frames = [codec.encode_frame(codec.PING, ping) for ping in pings]
            wire.write(b"".join(frames))
            wire.send("that was all")
            self.assertTrue(go.wait(DEADLINE))
            heard.extend(iter(wire.next, (codec.TEXT, "heard")))
            wire.write(codec.encode_close(1000))

        heard = []
        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.on_open = lambda one, response: one.send(much)
            drive(made, until=lambda: "that was all" in made.messages())
            self.assertLess(len(made.outbox), len(much) + 200)
            go.set()
            drive(made, until=lambda: not made.outbox)
            made.send("heard")
            drive(made)
        self.assertEqual([opcode for opcode, _ in heard], [0x2, 0xA, 0xA])
        self.assertEqual([heard[1][1], heard[2][1]], [pings[0], pings[-1]])

    def test_pong_is_told(self):
        def script(wire):
            wire.accept(codec.encode_frame(codec.PONG, b"a sign of life"))
            wire.write(codec.encode_close(1000))

        pongs = []
        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.on_pong = lambda one, payload: pongs.append(payload)
            drive(made)
        self.assertEqual(pongs, [b"a sign of life"])

    def test_no_pings_unless_asked_for(self):
        def script(wire):
            wire.accept()
            wire.socket.settimeout(0.3)
            with self.assertRaises(socket.timeout):
                wire.next()
            wire.write(codec.encode_close(1000))

        self.assertEqual(self.talk(script).told("close"), [(1000, "")])

    def test_messages_come_in_until_the_servers_close(self):
        def script(wire):
            wire.accept()
            self.assertEqual(wire.next(), (codec.CLOSE, (4001, "bye")))
            wire.send("still under way")
            wire.write(codec.encode_frame(codec.PING, b"too late"))
            wire.write(codec.encode_close(4001) + codec.encode_message("no"))
            self.assertIsNone(wire.next())  # no second Close, no pong

        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.on_open = lambda one, response: (
                one.close(4001, "bye"),
                one.send("nothing goes behind a Close"),
            )
            with mock.patch.object(client, "LEAVING_SECONDS", 0.05):
                drive(made)
        self.assertEqual(made.messages(), ["still under way"])
        self.assertEqual(made.told("close"), [(4001, "")])

    def test_the_servers_close_is_answered_and_the_end_awaited(self):
        def script(wire):
            wire.accept(codec.encode_close(4000, "enough"))
            self.assertEqual(wire.next(), (codec.CLOSE, (4000, "")))
            wire.write(b"whatever")
            seen.append(len(made.told("close")))

        seen = []
        with Scripted(script) as peer:
            made = self.client(peer.port)
            drive(made)
        self.assertEqual(seen, [0])
        self.assertEqual(made.told("close"), [(4000, "enough")])

    def test_a_close_without_a_code(self):
        def script(wire):
            wire.accept(codec.encode_close(1005))
            self.assertEqual(wire.next(), (codec.CLOSE, (1005, "")))

        made = self.talk(script)
        self.assertEqual(made.told("close"), [(1005, "")])

    def test_a_server_that_does_not_hang_up(self):
        def script(wire):
            wire.accept(codec.encode_close(1000))
            self.assertEqual(wire.next()[0], codec.CLOSE)
            self.assertIsNone(wire.next())

        with mock.patch.object(client, "LEAVING_SECONDS", 0.05):
            made = self.talk(script)
        self.assertEqual(made.told("close"), [(1000, "")])

    def test_much_is_sent_in_order(self):
        big = bytes(range(256)) * 2**16  # 16 MiB: the kernel keeps less
        go = threading.Event()

        def script(wire):
            wire.accept()
            self.assertTrue(go.wait(DEADLINE))
            self.assertTrue(wire.next() == (codec.BINARY, big))
            self.assertEqual(wire.next(), (codec.TEXT, "behind it"))
            wire.write(codec.encode_close(1000))

        with Scripted(script) as peer:
            made = self.client(peer.port)
            drive(made, until=lambda: made.told("open"))
            made.send(big)
            made.send("behind it")
            turn([made])
            self.assertGreater(len(made.outbox), len(big) // 2)
            go.set()
            drive(made)
        self.assertEqual(made.told("close"), [(1000, "")])

    def test_a_reset_when_all_is_said(self):
        def script(wire):
            wire.accept(codec.encode_close(4000, "enough"))
            self.assertEqual(wire.next()[0], codec.CLOSE)
            wire.reset()

        made = self.talk(script)
        self.assertEqual(made.told("error"), [])
        self.assertEqual(made.told("close"), [(4000, "enough")])

    def test_nothing_is_left_of_the_last_connection(self):
        half = codec.encode_frame(codec.TEXT, b"half", fin=False)
        ends = [half + codec.encode_close(4000), codec.encode_message("new")]
        with Scripted(lambda wire: wire.accept(ends.pop(0))) as peer:
            made = self.client(peer.port)
            drive(made)
            made.reconnect(0)
            drive(made)
        self.assertEqual(made.messages(), ["new"])
        lost = (1006, "the server hung up")
        self.assertEqual(made.told("close"), [(4000, ""), lost])

    def test_cookies_and_interim_responses(self):
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        cookies = b"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\n\r\n"

        def script(wire):
            wire.take_request()
            answer = handshake.switching_protocols(wire.request)[:-2]
            wire.write(hints + go_on + answer + cookies)

        responses = []
        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.on_open = lambda one, response: responses.append(response)
            drive(made)
        self.assertEqual(responses[0].status, 101)
        self.assertEqual(
            responses[0].headers.get_all("Set-Cookie"), ["a=1; Path=/", "b=2"]
        )


class Codes(ClientCase):
    """Code and reason are those of the Close that came (s7.1.5)."""

    def ends(self, *answers, silent=False):
        """Close with 4001 "mine", get these bytes; return what was told."""

        def script(wire):
            wire.accept()
            self.assertEqual(wire.next(), (codec.CLOSE, (4001, "mine")))
            wire.write(b"".join(answers))
            if silent:
                self.assertIsNone(wire.next())

        with Scripted(script) as peer:
            made = self.client(peer.port, timeout=0.2)
            made.on_open = lambda one, response: one.close(4001, "mine")
            drive(made)
        self.assertEqual(made.told("error"), [])
        return made.told("close")

    def test_our_close_is_answered(self):
        for code, reason in ((4001, "mine"), (4001, ""), (1002, "a rule")):
            with self.subTest(code=code, reason=reason):
                end = self.ends(codec.encode_close(code, reason))
                self.assertEqual(end, [(code, reason)])

    def test_our_close_is_never_answered(self):
        words = "closed with 4001 mine, but the server "
        text = codec.encode_message("one more word")
        for answers, silent, what in (
            ([], False, "hung up"),
            ([text], False, "hung up"),
            ([], True, "did not answer"),
            ([text], True, "did not answer"),
        ):
            with self.subTest(answers=answers, silent=silent):
                end = self.ends(*answers, silent=silent)
                self.assertEqual(end, [(1006, words + what)])

    def test_a_rule_is_broken_behind_our_close(self):
        def script(wire):
            wire.accept()
            self.assertEqual(wire.next()[0], codec.CLOSE)
            wire.write(b"\x83\x00" + codec.encode_close(4001))
            self.assertIsNone(wire.next())  # no second Close

        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.on_open = lambda one, response: one.close(4001)
            with mock.patch.object(client, "LEAVING_SECONDS", 0.05):
                drive(made)
        words = "closed with 4001, but s5.2: opcode 0x3 is reserved"
        self.assertEqual(made.told("close"), [(1006, words)])
        self.assertIsInstance(made.told("error")[0][0], ProtocolError)

    def test_a_program_that_does_not_wait(self):
        def script(wire):
            wire.accept(codec.encode_message("a") + codec.encode_message("b"))
            self.assertIsNone(wire.next())

        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.on_message = lambda one, message: (
                one.calls.append(("message", message)),
                one.end("that is enough"),
                one.send("nobody hears this"),
            )
            drive(made)
        self.assertEqual(made.messages(), ["a"])
        self.assertEqual(made.told("close"), [(1006, "that is enough")])
        made.end("again")
        self.assertEqual(len(made.told("close")), 1)


class Progress(ClientCase):
    """Who makes progress is alive, and half is not all."""

    MUCH = bytes(range(256)) * 2**13  # 2 MiB

    def sip(self, wire, size, pause):
        """Read so many bytes, slowly: after each piece comes a pause."""
        received = bytearray(wire.received)
        wire.received = b""
        while len(received) < size:
            data = wire.socket.recv(min(2**15, size - len(received)))
            self.assertTrue(data, "the end came too early")
            received += data
            time.sleep(pause)  # the slow line itself, no waiting for others
        return bytes(received)

    def frames_of(self, *messages):
        """Return how many bytes the frames of these messages have."""
        return sum(
            len(codec.encode_message(message, b"mask")) for message in messages
        )

    def test_pings_that_are_answered(self):
        def script(wire):
            wire.accept()
            for _ in range(3):
                self.assertEqual(wire.next(), (codec.PING, b""))
                wire.send("any sign of life will do")
            wire.write(codec.encode_close(1000))

        made = self.talk(script, ping_interval=0.1)
        self.assertEqual(made.told("close"), [(1000, "")])
        self.assertEqual(made.told("error"), [])

    def test_a_ping_that_is_not(self):
        def script(wire):
            wire.accept()
            self.assertEqual(wire.next(), (codec.PING, b""))
            self.assertIsNone(wire.next())  # no second ping

        made = self.talk(script, ping_interval=0.05)
        self.assert_failed(made, TimeoutError, "no answer to a ping")

    def test_a_slow_line_needs_no_pong(self):
        # 2 MB a second: it takes 1.2 s, three times the ping interval.
        def script(wire):
            wire.accept()
            heard = self.sip(wire, self.frames_of(self.MUCH), 0.018)
            wire.events += wire.decoder.feed(heard)
            self.assertTrue(wire.next() == (codec.BINARY, self.MUCH))
            wire.write(codec.encode_close(4000))

        with Scripted(script) as peer:
            made = self.client(peer.port, ping_interval=0.4)
            made.on_open = lambda one, response: one.send(self.MUCH)
            drive(made)
        self.assertEqual(made.told("close"), [(4000, "")])

    def test_little_room_is_room(self):
        # select() tells of room only when there is much of it: never, here.
        def nothing_ready(ask_read, ask_write, _, most):
            time.sleep(min(most, 0.01))
            return [], [], []

        def script(wire):
            wire.accept()
            self.sip(wire, self.frames_of(self.MUCH), 0.011)
            wire.write(codec.encode_close(4000))

        with Scripted(script) as peer:
            made = self.client(peer.port, ping_interval=0.25)
            drive(made, until=lambda: made.told("open"))
            made.send(self.MUCH)
            with mock.patch("select.select", nothing_ready):
                drive(made, until=lambda: not made.outbox)
            drive(made)
        self.assertEqual(made.told("close"), [(4000, "")])

    def test_who_takes_nothing_is_dead(self):
        end = threading.Event()

        def script(wire):
            wire.accept()
            self.assertTrue(end.wait(DEADLINE))

        with Scripted(script) as peer:
            made = self.client(peer.port, ping_interval=0.1)
            made.on_open = lambda one, response: one.send(self.MUCH)
            drive(made)
            end.set()
        self.assert_failed(made, TimeoutError, "no answer to a ping")

    def test_a_close_waits_its_turn(self):
        # It takes half a second before the Close goes; the timeout is less.
        def script(wire):
            wire.accept()
            self.sip(wire, self.frames_of(self.MUCH), 0.008)
            self.assertEqual(wire.next(), (codec.CLOSE, (4001, "")))
            wire.write(codec.encode_close(4001))

        with Scripted(script) as peer:
            made = self.client(peer.port, timeout=0.2)
            made.on_open = lambda one, response: (
                one.send(self.MUCH), one.close(4001),
            )  # fmt: skip
            drive(made)
        self.assertEqual(made.told("close"), [(4001, "")])

    def test_what_comes_keeps_a_closing_connection_alive(self):
        def script(wire):
            wire.accept()
            self.assertEqual(wire.next(), (codec.CLOSE, (4001, "")))
            for _ in range(6):
                time.sleep(0.1)  # the slow line itself
                wire.send("still on the way")
            wire.write(codec.encode_close(4001))

        with Scripted(script) as peer:
            made = self.client(peer.port, timeout=0.4)
            made.on_open = lambda one, response: one.close(4001)
            drive(made)
        self.assertEqual(made.messages(), ["still on the way"] * 6)
        self.assertEqual(made.told("close"), [(4001, "")])

    def test_a_close_with_no_way_out(self):
        end = threading.Event()

        def script(wire):
            wire.accept()
            self.assertTrue(end.wait(DEADLINE))

        with Scripted(script) as peer:
            made = self.client(peer.port, timeout=0.1)
            made.on_open = lambda one, response: (
                one.send(self.MUCH), one.close(),
            )  # fmt: skip
            drive(made)
            end.set()
        words = "closed with 1000, but the server did not answer"
        self.assertEqual(made.told("close"), [(1006, words)])

    def test_a_half_close_ends_the_reading_only(self):
        for last, answer, told in (
            (b"", 1000, (1006, "the server hung up")),
            (codec.encode_close(4000, "enough"), 4000, (4000, "enough")),
        ):

            def script(wire, last=last, answer=answer):
                wire.accept(codec.encode_message("over to you") + last)
                wire.socket.shutdown(socket.SHUT_WR)
                self.sip(wire, self.frames_of(self.MUCH, "behind"), 0.001)
                self.assertEqual(wire.next(), (codec.CLOSE, (answer, "")))
                self.assertIsNone(wire.next())

            with self.subTest(told=told), Scripted(script) as peer:
                made = self.client(peer.port)
                made.on_message = lambda one, message: (
                    one.send(self.MUCH), one.send("behind"),
                )  # fmt: skip
                drive(made)
                self.assertEqual(made.told("error"), [])
                self.assertEqual(made.told("close"), [told])

    def test_behind_the_servers_close_nothing_counts(self):
        def talk_on(wire):
            wire.accept(codec.encode_close(4000))
            with contextlib.suppress(OSError):
                while True:
                    wire.send("there is more")
                    time.sleep(0.01)  # a voice from far away

        start = time.monotonic()
        with mock.patch.object(client, "LEAVING_SECONDS", 0.1):
            made = self.talk(talk_on)
        self.assertLess(time.monotonic() - start, DEADLINE / 4)
        self.assertEqual(made.messages(), [])
        self.assertEqual(made.told("close"), [(4000, "")])

    def test_a_reset_while_our_last_words_wait(self):
        def script(wire):
            wire.accept(codec.encode_message("go"))
            wire.socket.recv(1)
            wire.write(codec.encode_close(4000))
            wire.socket.shutdown(socket.SHUT_WR)
            wait_until(lambda: made.hung_up)
            # It leaves without reading the rest: a RST.

        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.on_message = lambda one, message: one.send(self.MUCH)
            drive(made)
        self.assertEqual(made.told("error"), [])
        self.assertEqual(made.told("close"), [(4000, "")])

    def test_a_failed_send_ends_the_writing_only(self):
        texts = [f"{number:04d}" for number in range(2000)]
        frames = b"".join(codec.encode_message(text) for text in texts)
        for last, code in ((codec.encode_close(4000), 4000), (b"", 1006)):
            half, gone = threading.Event(), threading.Event()

            def script(wire, last=last, half=half, gone=gone):
                wire.accept(codec.encode_message("go"))
                wire.next()
                wire.write(frames + last)
                self.assertTrue(half.wait(DEADLINE))
                wire.socket.close()  # It has not read all: that is a RST.
                gone.set()

            def echo(one, text, half=half, gone=gone):
                one.calls.append(("message", text))
                one.send(text)
                if text == texts[1000]:
                    half.set()
                    gone.wait(DEADLINE)

            with self.subTest(code), Scripted(script) as peer:
                made = self.client(peer.port)
                made.on_message = echo
                with mock.patch.object(client, "PIECE", 100):
                    drive(made)
                self.assertEqual(made.messages(), ["go", *texts])
                self.assertEqual(made.calls[-1][:2], ("close", code))
                ((error,),) = made.told("error")
                self.assertIsInstance(error, ConnectionError)


HEAD = b"HTTP/1.1 101 Switching Protocols\r\n"


def answering(answer, wait=False):
    """Return a script that gives this answer; wait: it does not hang up."""

    def script(wire):
        key = wire.take_request()
        accept = handshake.accept_key(key).encode()
        with contextlib.suppress(OSError):  # the client may go first
            wire.write(answer.replace(b"ACCEPT", accept))
            if wait:
                wire.read_to_end()

    return script


class WrongAnswers(ClientCase):
    """A peer that breaks the rules in every way."""

    def test_not_a_101(self):
        long = b"x" * 2000
        for answer, wait, words in (
            (
                b"404 Not Found\r\n\r\nOnly /.\nMore",
                1,
                "404 Not Found: Only /.",
            ),
            (b"404 Not Found\r\n\r\nOnly /.", 0, "404 Not Found: Only /."),
            (b"503 Full\r\n\r\n\r\n\n why \r\n", 1, "503 Full: why"),
            (b"403 \r\nContent-Length: 3\r\n\r\nNo.", 1, "403 No."),
            (b"426\r\nContent-Length: 0\r\n\r\n", 1, "426 no WebSocket"),
            (
                b"503 No\r\n" + b"Content-Length: 4\r\n" * 2 + b"\r\nFull",
                1,
                "503 No: Full",
            ),
            (b"204 No Content\r\n\r\n", 1, "204 No Content"),
            (b"304 Not Modified\r\n\r\n", 1, "304 Not Modified"),
            (b"103 H\r\n\r\nHTTP/1.0 503 No\r\n\r\nX\n", 1, "503 No: X"),
            (
                b"503 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                1,
                "503 No",
            ),
            (b"400 A\r\nContent-Length: \xb2\r\n\r\nB\n", 1, "400 A: B"),
            (
                b"400 A\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nB\n",
                1,
                "400 A: B",
            ),
            (
                b"302 Found\r\nLocation: wss://b/\r\n\r\nGo.\n",
                1,
                "302 Found to wss://b/: Go.",
            ),
            (
                b"307 \r\nLocation: /chat\r\nContent-Length: 0\r\n\r\n",
                1,
                "307 to /chat",
            ),
            (
                b"502 Bad Gateway\r\nContent-Type: text/HTML\r\n\r\n<html>\n",
                1,
                "502 Bad Gateway",
            ),
            (b"200 OK\r\n\r\n" + long, 1, "200 OK: x{100}"),
            (
                b"500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbug\n\r\n",
                1,
                "500 Oh: bug",
            ),
        ):
            with self.subTest(answer=answer[:30]):
                whole = b"HTTP/1.1 " + answer
                start = time.monotonic()
                with mock.patch.object(client, "BODY_SECONDS", 0.05):
                    made = self.talk(answering(whole, wait))
                self.assertLess(time.monotonic() - start, DEADLINE / 4)
                self.assert_failed(made, HandshakeError, f"^{words}$")
                status = made.told("error")[0][0].status
                self.assertEqual(str(status), words[:3])

    def test_the_body_comes_later_or_never(self):
        def later(wire):
            wire.take_request()
            wire.write(b"HTTP/1.1 404 No\r\n\r\n")
            for part in (b"", b"On", b"ly"):
                wire.write(part)
                end = part or b"\r\n\r\n"
                wait_until(lambda end=end: made.head.endswith(end))
                self.assertIs(made.state, State.CONNECTING)
            wire.write(b" /.\nMore")
            wire.read_to_end()

        no_hurry = mock.patch.object(client, "BODY_SECONDS", DEADLINE)
        with no_hurry, Scripted(later) as peer:
            made = self.client(peer.port)
            drive(made)
        self.assert_failed(made, HandshakeError, "404 No: Only /.")
        never = answering(b"HTTP/1.1 404 No\r\n\r\nOn", wait=True)
        made = self.talk(never, timeout=0.1)
        self.assert_failed(made, HandshakeError, "^404 No: On$")

    def test_a_body_that_drips(self):
        def drip(wire):
            wire.take_request()
            wire.write(b"HTTP/1.1 404 No\r\n\r\n")
            with contextlib.suppress(OSError):
                while True:
                    wire.write(b"x")
                    time.sleep(0.01)  # a voice from far away

        with mock.patch.object(client, "BODY_SECONDS", 0.1):
            made = self.talk(drip)
        self.assert_failed(made, HandshakeError, "^404 No: x+$")
        self.assertLess(len(made.head), 100)

    def test_a_body_that_is_cut_off(self):
        def cut(wire):
            wire.take_request()
            wire.write(b"HTTP/1.1 403 No\r\nContent-Length: 99\r\n\r\nwh")
            wait_until(lambda: made.head.endswith(b"wh"))
            wire.reset()

        with Scripted(cut) as peer:
            made = self.client(peer.port)
            drive(made)
        self.assert_failed(made, HandshakeError, "^403 No: wh$")

    def test_a_101_that_is_none(self):
        upgrade = b"Upgrade: websocket\r\n"
        connection = b"Connection: Upgrade\r\n"
        accept = b"Sec-WebSocket-Accept: ACCEPT\r\n"
        wrong = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        deflate = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
        protocol = b"Sec-WebSocket-Protocol: chat\r\n"
        for lines, words in (
            ([connection, accept], "Upgrade: websocket"),
            ([upgrade, accept], "Connection: Upgrade"),
            ([upgrade, connection], "Sec-WebSocket-Accept"),
            ([upgrade, connection, wrong], "Sec-WebSocket-Accept"),
            ([upgrade, connection, accept, deflate], "extension"),
            ([upgrade, connection, accept, protocol], "subprotocol"),
        ):
            with self.subTest(words=words):
                answer = HEAD + b"".join(lines) + b"\r\n"
                made = self.talk(answering(answer, wait=True))
                self.assert_failed(made, HandshakeError, words)
                self.assertEqual(made.told("open"), [])

    def test_what_is_no_http(self):
        for answer, words in (
            (b"SSH-2.0-OpenSSH_9.6\r\n", "HTTP"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "HTTP"),
            (HEAD + b"a line\r\n\r\n", "header line"),
            (HEAD + b"X: " + b"x" * 20000, "16384"),
            (b"HTTP/1.1 101 Switching Protocols\nUpgrade: w", "CR LF"),
            (HEAD + b"Upgrade: websocket\n", "CR LF"),
        ):
            with self.subTest(answer=answer[:20]):
                start = time.monotonic()
                made = self.talk(answering(answer, wait=True))
                self.assertLess(time.monotonic() - start, DEADLINE / 4)
                self.assert_failed(made, HandshakeError, words)

    def test_the_server_hangs_up(self):
        for answer in (b"", b"HTTP/1.1 101 Swi"):
            with self.subTest(answer=answer):
                made = self.talk(answering(answer))
                self.assert_failed(made, ConnectionError, "hung up")

    @RESETS
    def test_a_reset(self):
        def in_the_handshake(wire):
            wire.take_request()
            wire.reset()

        def later(wire):
            wire.accept(codec.encode_message("hello"))
            wire.received = b""
            wire.reset()

        for script in (in_the_handshake, later):
            with self.subTest(script.__name__):
                made = self.talk(script)
                self.assert_failed(made, ConnectionResetError, ".", "by peer$")

    def test_no_close_frame(self):
        made = self.talk(lambda wire: wire.accept())
        self.assertEqual(made.told("close"), [(1006, "the server hung up")])

    def test_silence_in_the_handshake(self):
        made = self.talk(lambda wire: wire.read_to_end(), timeout=0.1)
        self.assert_failed(made, TimeoutError, "no answer to the handshake")

    def test_broken_frames(self):
        for data, code, words in (
            (codec.encode_message("masked", b"mask"), 1002, "must not mask"),
            (b"\xc1\x00", 1002, "reserved bit"),
            (b"\x83\x00", 1002, "opcode 0x3"),
            (b"\x80\x00", 1002, "continuation of no message"),
            (b"\x81\x02\xc3\x28", 1007, "UTF-8"),
            (b"\x82\x7f" + (2**40).to_bytes(8, "big"), 1009, "1048576"),
            (b"\x88\x02\x03\xee", 1002, "1006"),
        ):
            with self.subTest(data=data):
                made, close = self.broken(data)
                self.assertEqual(close[0], codec.CLOSE)
                self.assertEqual(close[1].code, code)
                self.assertRegex(close[1].reason, words)
                rule = close[1].reason
                self.assertEqual(made.told("close"), [(1006, rule)])
                ((error,),) = made.told("error")
                self.assertIsInstance(error, ProtocolError)
                self.assertEqual(made.messages(), ["before"])

    def broken(self, data):
        answers = []

        def script(wire):
            wire.accept()
            ghost = codec.encode_message("behind it")
            wire.write(codec.encode_message("before") + data + ghost)
            answers.append(wire.next())

        return self.talk(script), *answers

    def test_max_message(self):
        def script(wire):
            wire.accept()
            wire.send("x" * 100)
            wire.send("x" * 101)
            self.assertEqual(wire.next()[1].code, 1009)

        made = self.talk(script, max_message=100)
        self.assertEqual(made.messages(), ["x" * 100])


class NoConnection(ClientCase):
    """What can go wrong before a byte is read."""

    def test_refused(self):
        made = self.client(free_port())
        drive(made)
        words = "^Connection refused$"
        self.assert_failed(made, ConnectionRefusedError, ".", words)
        self.assertEqual(made.told("connect"), [])

    def test_not_found(self):
        made = self.client(9000, host="nowhere.invalid")
        error = socket.gaierror(socket.EAI_NONAME, "Name not known")
        with mock.patch("socket.getaddrinfo", side_effect=error):
            drive(made)
        words = "^this name has no address$"
        self.assert_failed(made, socket.gaierror, "Name not known", words)

    def test_a_name_that_cannot_be_looked_up(self):
        made = self.client(9000)
        error = UnicodeError("label too long")
        with mock.patch("socket.getaddrinfo", side_effect=error):
            drive(made)
        self.assert_failed(made, ValueError, "label too long")

    def test_connecting_again_in_a_hook(self):
        for hook in ("on_error", "on_close"):
            with self.subTest(hook), Scripted(
                answering(b"HTTP/1.1 404 No\r\n\r\nwhy\n")
            ) as peer:
                made = self.client(free_port())

                def again(one, *what, hook=hook, url=peer.url):
                    delattr(one, hook)
                    one.calls.append((hook, *what))
                    one.address = parse_url(url)
                    one.connect()

                setattr(made, hook, again)
                drive(made)
                hooks = [call[0] for call in made.calls]
                self.assertEqual(hooks.count("connect"), 1)
                self.assertEqual(hooks[-2:], ["error", "close"])
                error = made.told("error")[-1][0]
                self.assertEqual(str(error), "404 No: why")

    def test_connecting_for_ever_does_not_recurse(self):
        for hook in ("on_error", "on_close"):
            with self.subTest(hook):
                made = self.client(free_port())
                setattr(made, hook, lambda one, *what: one.connect())
                drive(made, until=lambda made=made: len(made.calls) > 1000)
                made.close()
                self.assertEqual(len(made.calls), 1001)

    def test_what_ends_a_connect_leaves_no_socket_open(self):
        socks = []

        def stumble(one, sock):
            socks.append(sock)
            raise ValueError("a name that TLS does not take")

        with socket.create_server(("127.0.0.1", 0)) as listener:
            made = self.client(listener.getsockname()[1])
            with mock.patch.object(Client, "prepare", stumble):
                drive(made)
        self.assert_failed(made, ValueError, "does not take")
        self.assertEqual([sock.fileno() for sock in socks], [-1])

    def test_a_system_without_ipv6(self):
        found = [
            (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 1, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1)),
        ]
        tried = []

        def no_ipv6(family, kind, protocol):
            tried.append(family)
            raise OSError(errno.EAFNOSUPPORT, "no such family")

        made = self.client(9000)
        both = mock.patch.multiple(
            socket, getaddrinfo=lambda *_, **__: found, socket=no_ipv6
        )
        with both:
            drive(made)
        self.assertEqual(tried, [socket.AF_INET6, socket.AF_INET])
        self.assert_failed(made, OSError, "no such family")

    def test_closing_in_on_error_is_one_end(self):
        made = self.client(free_port())
        made.on_error = lambda one, error: one.close()
        drive(made)
        self.assertEqual(len(made.calls), 1)
        self.assertEqual(made.calls[0][:2], ("close", 1006))

    def test_nobody_accepts(self):
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):  # until the kernel's queue is full
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
            made = self.client(listener.getsockname()[1], timeout=0.2)
            drive(made)
        self.assert_failed(made, TimeoutError, r"in 0\.2 s")

    def test_the_next_address_is_tried(self):
        with serving(Server(port=0)) as server:
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            found = [
                (*kind, ("127.0.0.1", free_port())),
                (*kind, ("127.0.0.1", server.port)),
            ]
            made = self.client(9000, host="localhost")
            with mock.patch("socket.getaddrinfo", return_value=found):
                made.connect()
            made.on_open = lambda one, response: one.close()
            drive(made)
        self.assertEqual(made.told("error"), [])
        self.assertEqual(made.told("close"), [(1000, "")])

    def test_a_host_without_addresses(self):
        made = self.client(9000)
        with mock.patch("socket.getaddrinfo", return_value=[]):
            drive(made)
        self.assert_failed(made, OSError, "address|empty list")

    @unittest.skipIf(WINDOWS, "there a socket's number does not matter")
    def test_a_descriptor_that_select_cannot_watch(self):
        with Scripted(lambda wire: None) as peer:
            made = self.client(peer.port)
            with mock.patch.object(client, "FD_SETSIZE", 3):
                drive(made)
        self.assert_failed(made, OSError, "select")

    def test_select_never_gets_three_empty_lists(self):
        made = self.client(free_port())
        made.on_close = lambda one, code, reason: one.reconnect(60)
        drive(made, until=lambda: made.told("error"))
        wrong = mock.patch("select.select", side_effect=OSError("WinError"))
        with wrong, mock.patch.object(client, "PATIENCE", 0.0):
            turn([made])  # It has no socket, and nothing to do yet.
        made.close()

    def test_without_on_error_one_line_is_printed(self):
        url = f"ws://127.0.0.1:{free_port()}/"
        closes = []

        def again(one, code, reason):
            closes.append(code)
            if len(closes) < 3:
                one.reconnect(0)

        class Quiet(Client):
            def on_error(self, error):
                pass

        assigned = Client(url)
        assigned.on_error = lambda one, error: None
        for made, lines in ((Client(url), 3), (Quiet(url), 0), (assigned, 0)):
            closes.clear()
            made.on_close = again
            stderr = io.StringIO()
            with contextlib.redirect_stderr(stderr):
                made.run()
            self.assertEqual(closes, [1006] * 3)
            line = f"client.py: 127.0.0.1:{made.address.port}: .*refused.*\n"
            self.assertRegex(stderr.getvalue(), f"^({line}){{{lines}}}$")


class Bugs(ClientCase):
    """Hooks that raise."""

    def raise_in(self, *hooks):
        """Let these hooks raise; return the client, stderr, our Close."""
        closes = []

        def script(wire):
            wire.accept(codec.encode_message("a") + codec.encode_message("b"))
            closes.append(wire.next())

        def bug(*_):
            raise ZeroDivisionError("a bug in a hook")

        stderr = io.StringIO()
        with Scripted(script) as peer:
            made = self.client(peer.port)
            for hook in hooks:
                setattr(made, hook, bug)
            if "on_close" in hooks:
                made.on_message = lambda one, message: one.close()
            with contextlib.redirect_stderr(stderr):
                drive(made)
        return made, stderr.getvalue(), closes

    def test_on_open_and_on_message(self):
        for hook in ("on_open", "on_message"):
            with self.subTest(hook):
                made, stderr, closes = self.raise_in(hook)
                self.assertIn("Traceback", stderr)
                self.assertIn("ZeroDivisionError: a bug in a hook", stderr)
                self.assertEqual(stderr.count("Traceback"), 1)
                self.assertEqual(closes[0][1].code, 1011)
                ((error,),) = made.told("error")
                self.assertIsInstance(error, ZeroDivisionError)
                self.assertEqual(closes[0][1].reason, f"a bug in {hook}")
                end = (1006, f"a bug in {hook}")
                self.assertEqual(made.told("close"), [end])
                self.assertEqual(made.messages(), [])

    def test_on_error_too(self):
        made, stderr, closes = self.raise_in("on_message", "on_error")
        self.assertEqual(stderr.count("Traceback"), 2)
        self.assertEqual(closes[0][1].code, 1011)
        self.assertEqual(made.told("close"), [(1006, "a bug in on_message")])

    def test_on_close(self):
        made, stderr, closes = self.raise_in("on_close")
        self.assertEqual(stderr.count("Traceback"), 1)
        self.assertEqual(closes[0][1].code, 1000)
        self.assertEqual(made.told("error"), [])  # not behind on_close
        self.assertIs(made.state, State.GONE)

    def test_on_connect(self):
        stderr = io.StringIO()
        with Scripted(lambda wire: wire.read_to_end()) as peer:
            made = self.client(peer.port)
            made.on_connect = lambda one: 1 / 0
            with contextlib.redirect_stderr(stderr):
                drive(made)
        self.assertIn("ZeroDivisionError", stderr.getvalue())
        reason = "a bug in on_connect"
        self.assert_failed(made, ZeroDivisionError, "division", reason)

    def test_ctrl_c_among_messages(self):
        def script(wire):
            wire.accept(codec.encode_message("some text") * 9)
            self.assertEqual(wire.next(), (codec.CLOSE, (1000, "")))
            wire.send("no frame begins here any more")

        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.on_message = mock.Mock(side_effect=KeyboardInterrupt)
            with self.assertRaises(KeyboardInterrupt):
                drive(made)
            drive(made)
        self.assertEqual(made.on_message.call_count, 1)
        self.assertEqual(made.told("error"), [])
        self.assertEqual(made.told("close"), [(1006, "stopped by Ctrl-C")])


class Reconnecting(ClientCase):
    """A server that is started late, dies and comes back."""

    def test_late_dies_and_comes_back(self):
        port = free_port()
        made = self.client(port)
        made.on_close = lambda one, code, reason: (
            one.calls.append(("close", code)), one.reconnect(0.02),
        )  # fmt: skip
        drive(made, until=lambda: len(made.told("close")) == 3)
        self.assertEqual(made.told("close"), [(1006,)] * 3)
        self.assertEqual(len(made.told("error")), 3)
        for opened in (1, 2):
            with serving(Server(port=port)) as server:
                self.await_calls(made, "open", opened)
                made.send(f"message {opened}")
                self.await_calls(made, "message", opened)
                closes = len(made.told("close"))
                stop(server)
                self.await_calls(made, "close", closes + 1)
            self.assertEqual(made.told("close")[closes], (1001,))
        # Every attempt has one on_close, every failed one an on_error.
        attempts = len(made.told("close"))
        self.assertEqual(len(made.told("error")), attempts - 2)
        self.assertEqual(made.messages(), ["message 1", "message 2"])
        made.reconnect(60)
        made.close()  # ends the waiting
        self.assertFalse(made.is_active())

    def await_calls(self, made, hook, number):
        drive(made, until=lambda: len(made.told(hook)) == number)

    def test_a_killed_server_is_1006_and_reconnected(self):
        scripts = [
            lambda wire: wire.accept(),
            lambda wire: wire.accept(codec.encode_close(1000)),
        ]
        with Scripted(lambda wire: scripts.pop(0)(wire)) as peer:
            made = self.client(peer.port)
            made.on_close = lambda one, code, reason: (
                one.calls.append(("close", code)),
                code == 1006 and one.reconnect(0),
            )
            drive(made)
        self.assertEqual(made.told("close"), [(1006,), (1000,)])
        self.assertEqual(len(made.told("open")), 2)

    def delays(self, made, count, *seconds):
        waits = []
        for _ in range(count):
            made.reconnect(*seconds)
            waits.append(made.reconnect_at - time.monotonic())
        return waits

    def test_fractions(self):
        for seconds in (0.5, 0.25, 0, 3):
            with self.subTest(seconds=seconds):
                (wait,) = self.delays(self.client(1), 1, seconds)
                self.assertAlmostEqual(wait, seconds, delta=0.1)

    def test_a_fraction_is_waited_for(self):
        made = self.client(free_port())
        made.connect()
        made.reconnect(0.2)
        start = time.monotonic()
        drive(made, until=lambda: len(made.told("close")) == 2)
        self.assertGreaterEqual(time.monotonic() - start, 0.2)

    def test_backing_off(self):
        made = self.client(1)
        with mock.patch("random.uniform", side_effect=lambda low, high: high):
            waits = self.delays(made, 7)
        for wait, seconds in zip(waits, (1, 2, 4, 8, 16, 30, 30)):
            self.assertAlmostEqual(wait, seconds, delta=0.1)
        with mock.patch("random.uniform", side_effect=lambda low, high: low):
            (wait,) = self.delays(made, 1)
        self.assertAlmostEqual(wait, 15, delta=0.1)
        made.attempts = 10**6
        self.assertLessEqual(self.delays(made, 1)[0], 30)
        made.attempts = 0
        self.assertGreater(len({round(w, 6) for w in self.delays(made, 9)}), 4)

    def test_only_what_lasted_was_a_success(self):
        waits = []

        def again(one, code, reason):
            one.reconnect()
            waits.append(one.reconnect_at - time.monotonic())
            one.close()
            if len(waits) < 5:
                one.reconnect(0)  # The test does not wait so long.

        with Scripted(lambda wire: wire.accept()) as peer:
            made = self.client(peer.port)
            made.on_close = again
            with mock.patch("random.uniform", lambda low, high: high):
                drive(made, until=lambda: len(waits) == 4)
                with mock.patch.object(client, "STEADY_SECONDS", -1):
                    drive(made, until=lambda: len(waits) == 5)
        for wait, seconds in zip(waits, (1, 2, 4, 8, 1)):
            self.assertAlmostEqual(wait, seconds, delta=0.1)

    def test_reconnect_before_the_first_connect(self):
        """Driven by turn(), as with a server: it connects when it is due."""

        def script(wire):
            wire.accept()
            wire.write(codec.encode_close(4000))

        with Scripted(script) as peer:
            made = self.client(peer.port)
            made.reconnect(0.01)
            end = time.monotonic() + DEADLINE
            while made.is_active() and time.monotonic() < end:
                client.turn([made])
        self.assertEqual(made.told("close"), [(4000, "")])

    def test_a_hook_that_closes_the_socket_ends_this_client_only(self):
        with serving(Server(port=0)) as room:
            one, other = self.client(room.port), self.client(room.port)
            one.on_open = lambda client, _: client.socket.close()
            closes, said = [], []
            one.on_close = lambda _, *why: closes.append(why)
            one.on_error = lambda _, error: None
            other.on_open = lambda client, _: client.send("hello")
            other.on_message = lambda client, text: (
                said.append(text),
                client.close(),
            )
            client.run(one, other)
        self.assertEqual(closes, [(1006, "a hook has closed the socket")])
        self.assertEqual(said, ["hello"])

    def test_reconnect_in_on_error_waits_for_the_end(self):
        made = self.client(free_port())
        made.on_error = lambda one, error: one.reconnect(60)
        drive(made, until=lambda: made.told("close"))
        self.assertTrue(made.is_active())
        self.assertGreater(made.patience(), 50)
        made.close()
        self.assertFalse(made.is_active())

    def test_what_is_no_delay(self):
        for wrong in (-1, float("nan"), float("inf")):
            with self.subTest(wrong), self.assertRaises(ValueError):
                self.client(1).reconnect(wrong)


class FakeTls(socket.socket):
    """A socket that first has to do the other thing, as TLS may."""

    recv_errors = ()
    send_errors = ()

    def recv(self, size):
        if self.recv_errors:
            raise self.recv_errors.pop(0)
        return super().recv(size)

    def send(self, data):
        if self.send_errors:
            raise self.send_errors.pop(0)
        return super().send(data)


class TlsCase(ClientCase):
    """Certificates made for the test, and a peer that shows them."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.here = cls.certificate(folder.name, "here", "IP:127.0.0.1")
        cls.there = cls.certificate(folder.name, "there", "DNS:elsewhere")

    @classmethod
    def certificate(cls, folder, name, subject):
        """Return (the server's context, a client's that trusts it)."""
        key, pem = make_certificate(folder, name, subject)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(pem, key)
        return server, ssl.create_default_context(cafile=str(pem))

    @staticmethod
    def echo(wire):
        wire.accept()
        while True:
            opcode, message = wire.next()
            if opcode == codec.CLOSE:
                wire.write(codec.encode_close(message.code))
                return
            wire.send(message)


class Tls(TlsCase):
    """wss://, right and wrong."""

    def wss(self, script, contexts, **options):
        return self.talk(script, contexts[0], scheme="wss", **options)

    def test_echo(self):
        messages = ["hello", b"\x00\xff", "x" * 100000, bytes(2**20)]
        with Scripted(self.echo, self.here[0]) as peer:
            made = self.client(
                peer.port, scheme="wss", ssl_context=self.here[1]
            )
            made.connect()
            self.assertEqual(made.calls, [("connect",)])
            drive(made, until=lambda: made.told("open"))
            for message in messages:
                made.send(message)
            drive(made, until=lambda: len(made.messages()) == len(messages))
            self.assertTrue(made.messages() == messages)
            made.close()
            drive(made)
        self.assertEqual(made.told("close"), [(1000, "")])

    def test_bytes_that_select_does_not_see(self):
        def script(wire):
            wire.accept()
            wire.send("x" * 5000)  # one TLS record, and then silence
            wire.next()

        trusting = {"scheme": "wss", "ssl_context": self.here[1]}
        small = mock.patch.object(client, "PIECE", 100)
        with Scripted(script, self.here[0]) as peer, small:
            made = self.client(peer.port, **trusting)
            drive(made, until=made.messages)
            self.assertEqual(made.messages(), ["x" * 5000])
            made.socket.close()

    def test_certificates_are_checked(self):
        made = self.wss(self.echo, self.here)
        words = "CERTIFICATE_VERIFY_FAILED"
        kind = ssl.SSLCertVerificationError
        self.assert_failed(made, kind, words, "^TLS: .*self.signed")
        self.assertEqual(made.told("connect"), [])

    def test_host_names_are_checked(self):
        made = self.wss(self.echo, self.there, ssl_context=self.there[1])
        words = "CERTIFICATE_VERIFY_FAILED"
        kind = ssl.SSLCertVerificationError
        self.assert_failed(made, kind, words, r"127\.0\.0\.1")

    def test_a_server_without_tls(self):
        def script(wire):
            wire.socket.recv(5)
            wire.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        made = self.talk(script, scheme="wss")
        self.assert_failed(made, (ssl.SSLError, OSError), ".")

    def test_a_tls_handshake_that_hangs(self):
        start = time.monotonic()
        made = self.talk(
            lambda wire: wire.read_to_end(), scheme="wss", timeout=0.2
        )
        self.assertLess(time.monotonic() - start, 2)
        self.assert_failed(made, TimeoutError, r"in 0\.2 s")

    def opened(self):
        """Return an open client on a socket that may be told to err."""
        here, there = socket.socketpair()
        self.addCleanup(there.close)
        fake = FakeTls(fileno=here.detach())
        fake.setblocking(False)
        made = self.client(1)
        made.socket, made.state = fake, State.OPEN
        return made, fake, there

    def test_reading_that_has_to_write_first(self):
        made, fake, there = self.opened()
        there.sendall(codec.encode_message("hello"))
        fake.recv_errors = [ssl.SSLWantWriteError()]
        turn([made])
        self.assertEqual(made.ask_read(), [])  # or select() would spin
        self.assertEqual(made.ask_write(), [fake])
        turn([made])
        self.assertEqual(made.messages(), ["hello"])
        self.assertEqual(made.ask_write(), [])

    def test_reading_that_has_to_read_more(self):
        made, fake, there = self.opened()
        there.sendall(codec.encode_message("hello"))
        fake.recv_errors = [ssl.SSLWantReadError()]
        turn([made])
        self.assertEqual(made.ask_read(), [fake])
        turn([made])
        self.assertEqual(made.messages(), ["hello"])

    def test_writing_that_has_to_read_first(self):
        made, fake, there = self.opened()
        fake.send_errors = [ssl.SSLWantReadError()]
        made.send("hello")
        turn([made])
        self.assertEqual(made.ask_write(), [])
        self.assertEqual(made.ask_read(), [fake])
        there.sendall(codec.encode_frame(codec.PONG, b""))
        turn([made])
        self.assertEqual(len(there.recv(100)), 11)
        made.send("hello")
        self.assertEqual(made.ask_write(), [fake])

    def test_writing_that_has_no_room(self):
        made, fake, there = self.opened()
        fake.send_errors = [ssl.SSLWantWriteError(), BlockingIOError()]
        made.send("hello")
        for _ in range(2):
            turn([made])
            self.assertEqual(made.ask_write(), [fake])
        turn([made])
        self.assertEqual(len(there.recv(100)), 11)


if __name__ == "__main__":
    unittest.main()
