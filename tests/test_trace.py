"""The trace: what a class sees of given bytes, and that it changes nothing.

The server is driven turn by turn, in the test's own thread, so that the same
bytes always give the same transcript.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import codec
import handshake
import server
from client import Client
from codec import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Decoder,
    encode_frame,
)
from lessons import colours
from lessons.observer import Observer
from lessons.slow import shrink_buffers
from lessons.trace import MAX_FRAMES, Trace
from lessons.words import WIDTH
from server import Server
from tests.hostile import ByTurns
from tests.support import (
    DEADLINE,
    KEY,
    LINUX,
    MASKING_KEY,
    OWN_CONSOLE,
    ROOT,
    Peer,
    Process,
    reset,
    send_signal,
    serving,
    side_by_side,
    wait_until,
)
from tests.test_fuzz import nonsense

REQUEST = handshake.request_head(
    "127.0.0.1:9000", "/", KEY, {"User-Agent": "test", "Cookie": "a=b"}
)
HELLO = encode_frame(TEXT, b"Hello", MASKING_KEY)  # RFC 6455 s5.7


def setUpModule():
    # Turns that wait for nothing shall not cost half a second each; and what a
    # turn does is counted here, however slow the machine.
    global patches
    patches = mock.patch.multiple(server, PATIENCE=0.02, TURN_SECONDS=DEADLINE)
    patches.start()


def tearDownModule():
    patches.stop()


class Watched(ByTurns):
    """A server whose trace is collected, and one socket that talks to it."""

    REQUEST = REQUEST

    def __init__(self, level="full", kind=Server, **options):
        super().__init__(kind(port=0, **options))
        self.shown = []
        self.server.observer = Trace(self.server, self.shown.append, level)

    def text(self):
        """Return what was shown till now, without what differs each time."""
        text = "\n".join(self.shown)
        self.shown.clear()
        text = re.sub(r"slept \d+\.\d\d s", "slept 0.00 s", text)
        return re.sub(r"port \d+", "port 50000", text)


OPENING = """
turn 1   asked  read L                   write -             slept 0.00 s
         got    read L                   write -
ACCEPT #1 from 127.0.0.1 port 50000, not handshaken
turn 2   asked  read L #1                write -             slept 0.00 s
         got    read #1                  write -
HANDSHAKE #1 --> server   request complete
  GET / HTTP/1.1                                  needed: GET and 1.1
  Host: 127.0.0.1:9000                            needed: this server
  Upgrade: websocket                              needed: websocket
  Connection: Upgrade                             needed: Upgrade
  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==     needed: 16 random bytes
  Sec-WebSocket-Version: 13                       needed: 13
  (2 more lines not used)
HANDSHAKE server --> #1   answer
  HTTP/1.1 101 Switching Protocols                needed: 101
  Upgrade: websocket                              needed: websocket
  Connection: Upgrade                             needed: Upgrade
  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=  needed: the base64
    key + GUID  dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11
    SHA-1       b3 7a 4f 2c c0 62 4f 16 90 f6 46 06 cf 38 59 45 b2 be c4 ea
    base64      s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
"""

HELLO_SHOWN = """
FRAME #1 --> server  TEXT [FIN] [MASKED]  11 bytes
  0000  81             1... ....  FIN    1  last (or only) piece
                       .000 ....  RSV    0  no extension in use
                       .... 0001  opcode 1  TEXT
  0001  85             1... ....  MASK   1  masked: a client must
                       .000 0101  length 5  payload bytes
  0002  37 fa 21 3d               masking key, 4 bytes
  0006  7f 9f 4d 51 58            payload as it travelled
   XOR  37 fa 21 3d 37            key, repeated
     =  48 65 6c 6c 6f            "Hello"
"""

ANSWER_SHOWN = """
  broadcast -> 7 bytes queued for #1
FRAME server --> #1  TEXT [FIN]  7 bytes
  0000  81             1... ....  FIN    1  last (or only) piece
                       .000 ....  RSV    0  no extension in use
                       .... 0001  opcode 1  TEXT
  0001  05             0... ....  MASK   0  not masked: a server must not
                       .000 0101  length 5  payload bytes
  0002  48 65 6c 6c 6f            "Hello"
"""

CUT_SHOWN = """
FRAME #1 --> server  BINARY [FIN] [MASKED]  306 bytes
  0000  82             1... ....  FIN    1  last (or only) piece
                       .000 ....  RSV    0  no extension in use
                       .... 0010  opcode 2  BINARY
  0001  fe             1... ....  MASK   1  masked: a client must
                       .111 1110  length 126 it is in the next 2 bytes
  0002  01 2a                     length 298, in 16 bits
  0004  37 fa 21 3d               masking key, 4 bytes
  0008  37 fb 23 3e 33 ff 27 3a   payload as it travelled
   XOR  37 fa 21 3d 37 fa 21 3d   key, repeated
     =  00 01 02 03 04 05 06 07   "........"
  0010  3f f3 2b 36 3b f7 2f 32
   XOR  37 fa 21 3d 37 fa 21 3d
     =  08 09 0a 0b 0c 0d 0e 0f   "........"
  0018  27 eb 33 2e 23 ef 37 2a
   XOR  37 fa 21 3d 37 fa 21 3d
     =  10 11 12 13 14 15 16 17   "........"
  0020  2f e3 3b 26 2b e7 3f 22
   XOR  37 fa 21 3d 37 fa 21 3d
     =  18 19 1a 1b 1c 1d 1e 1f   "........"
        (266 more bytes not shown)
"""

UNMASKED_SHOWN = """
FRAME #1 --> server  TEXT [FIN]  7 bytes
  0000  81             1... ....  FIN    1  last (or only) piece
                       .000 ....  RSV    0  no extension in use
                       .... 0001  opcode 1  TEXT
  0001  05             0... ....  MASK   0  not masked: a server must not
                       .000 0101  length 5  payload bytes
  0002  48 65 6c 6c 6f            "Hello"
RFC 6455 s5.1: a client must mask. Closing #1 with 1002.
FRAME server --> #1  CLOSE [FIN]  28 bytes
"""

HALF_SHOWN = """
FRAME #1 --> server  opcode 0x3 [FIN] [RSV] [MASKED]
  0000  c3             1... ....  FIN    1  last (or only) piece
                       .100 ....  RSV    4  reserved, but set
                       .... 0011  opcode 3  reserved
  0001  80             1... ....  MASK   1  masked: a client must
                       .000 0000  length 0  payload bytes
RFC 6455 s5.2: a reserved bit is set, no extension is in use. Closing #1 with
  1002.
"""

CLOSE_SHOWN = """
FRAME #1 --> server  CLOSE [FIN] [MASKED]  33 bytes
  0000  88             1... ....  FIN    1  last (or only) piece
                       .000 ....  RSV    0  no extension in use
                       .... 1000  opcode 8  CLOSE
  0001  9b             1... ....  MASK   1  masked: a client must
                       .001 1011  length 27 payload bytes
  0002  00 00 00 00               masking key, 4 bytes
  0006  03 ea 4d 61 73 6b 65 64   payload as it travelled
   XOR  00 00 00 00 00 00 00 00   key, repeated
     =  03 ea 4d 61 73 6b 65 64   "..Masked"
  000e  20 66 72 61 6d 65 20 66
   XOR  00 00 00 00 00 00 00 00
     =  20 66 72 61 6d 65 20 66   " frame f"
  0016  72 6f 6d 20 73 65 72 76
   XOR  00 00 00 00 00 00 00 00
     =  72 6f 6d 20 73 65 72 76   "rom serv"
  001e  65 72 2e
   XOR  00 00 00
     =  65 72 2e                  "er."
        close code 1002 PROTOCOL_ERROR, reason "Masked frame from server."
"""

SHORT = """
turn 1   got read L write - of 1 asked  slept 0.00 s
turn 2   got read #1 write - of 2 asked  slept 0.00 s
HANDSHAKE #1 --> server  GET / HTTP/1.1
HANDSHAKE server --> #1  HTTP/1.1 101 Switching Protocols
turn 3   got read #1 write - of 2 asked  slept 0.00 s
FRAME #1 --> server  TEXT [FIN] [MASKED]  11 bytes  "Hello"
FRAME server --> #1  TEXT [FIN]  7 bytes  "Hello"
turn 4   got read #1 write - of 2 asked  slept 0.00 s
FRAME #1 --> server  TEXT [FIN]  7 bytes  "Hello"
RFC 6455 s5.1: a client must mask. Closing #1 with 1002.
FRAME server --> #1  CLOSE [FIN]  28 bytes  1002 "s5.1: a client must mask"
"""


class Golden(unittest.TestCase):
    maxDiff = None

    def check(self, watched, golden):
        """The golden text must be what was shown, or its end."""
        self.assertEqual(watched.text(), golden.strip("\n"))

    def test_handshake(self):
        with Watched() as watched:
            watched.open()
            self.check(watched, OPENING)

    def test_no_accept_key_is_shown_that_was_never_computed(self):
        bad = REQUEST.replace(KEY.encode(), b"short")
        other = handshake.request_head(
            "127.0.0.1:9000", "/", KEY, {"Origin": "http://evil.example"}
        )
        for request, status in ((bad, " 400 "), (other, " 403 ")):
            with self.subTest(status), Watched() as watched:
                watched.say(watched.connect(), request)
                shown = watched.text()
                self.assertIn(status, shown)
                self.assertNotIn("SHA-1", shown)

    def test_one_frame_from_one_user_to_all(self):
        with Watched() as watched:
            sock = watched.open()
            watched.text()
            watched.say(sock, HELLO)
            turn, got, rest = watched.text().split("\n", 2)
            self.assertTrue(turn.startswith("turn 3   asked  read L #1"))
            self.assertIn("got    read #1", got)
            golden = HELLO_SHOWN.strip("\n") + ANSWER_SHOWN.rstrip("\n")
            self.assertEqual(rest, golden)

    def test_a_frame_to_many_is_shown_once(self):
        with Watched() as watched:
            socks = [watched.open() for _ in range(3)]
            watched.text()
            watched.say(socks[2], HELLO)
            text = watched.text()
            self.assertEqual(text.count("FRAME server"), 1)
            self.assertIn("broadcast -> 7 bytes queued for #1 #2 #3\n", text)
            self.assertIn("FRAME server --> #1 #2 #3  TEXT [FIN]", text)

    def test_what_tcp_does_to_frames(self):
        with Watched() as watched:
            sock = watched.open()
            watched.text()
            for data, line in (
                (HELLO[:1], "-> 1      waiting 1     81|  the header needs"
                            " at least 1 more"),
                (HELLO[1:3], "-> 2      waiting 3     81 85 37|  the header"
                             " needs 3 more"),
                (HELLO[3:8], "-> 5      waiting 8     the payload needs"
                             " 3 more"),
                (HELLO[8:9], "-> 1      waiting 9     the payload needs"
                             " 2 more"),
                (HELLO[9:], "-> 2      waiting 11    now the frame is whole"),
                (HELLO * 3, "-> 33     waiting 33    3 frames in one read:"
                            " TCP has no messages"),
                (HELLO + HELLO[:2], "-> 13     waiting 13    81 85|  the"
                                    " header needs 4 more"),
                (HELLO[2:] + HELLO, "-> 20     waiting 22    2 frames in one"
                                    " read: TCP has no messages"),
            ):  # fmt: skip
                with self.subTest(line):
                    watched.say(sock, data)
                    self.assertIn(f"  recv #1 {line}\n", watched.text() + "\n")
            # Exactly one frame in one read needs no words.
            watched.say(sock, HELLO)
            self.assertNotIn("recv", watched.text())

    def test_a_frame_in_pieces_looks_like_one_at_once(self):
        for size in (1, 2, 3, 7, 10):
            with self.subTest(size), Watched() as watched:
                sock = watched.open()
                watched.text()
                for at in range(0, len(HELLO), size):
                    watched.say(sock, HELLO[at : at + size])
                text = watched.text()
                self.assertEqual(text.count(HELLO_SHOWN), 1)
                self.assertEqual(text.count("FRAME #1"), 1)

    def test_a_long_payload_is_cut_and_says_so(self):
        payload = bytes(range(256)) + bytes(42)
        with Watched() as watched:
            sock = watched.open()
            watched.say(sock, encode_frame(BINARY, payload, MASKING_KEY))
            self.assertIn(CUT_SHOWN, watched.text())

    def test_a_payload_of_32_bytes_is_whole(self):
        for size, words in ((32, None), (33, "(1 more byte not shown)")):
            with self.subTest(size), Watched() as watched:
                sock = watched.open()
                watched.text()
                frame = encode_frame(TEXT, b"x" * size, MASKING_KEY)
                watched.say(sock, frame)
                self.assertEqual(
                    words is not None, "not shown" in watched.text()
                )

    def test_characters_beside_bytes(self):
        text = "\u017eab\u2602"
        frame = encode_frame(TEXT, text.encode(), MASKING_KEY)
        with Watched() as watched:
            watched.say(watched.open(), frame)
            shown = watched.text()
        self.assertIn('=  c5 be 61 62 e2 98 82      "..ab..."', shown)
        self.assertEqual(shown.count("        4 characters, 7 bytes\n"), 1)

    def test_a_large_message_goes_out_as_one_frame(self):
        frame = encode_frame(TEXT, b"x" * 70_000, MASKING_KEY)
        with Watched() as watched:
            sock = watched.open()
            watched.text()
            sock.sendall(frame)
            sock.setblocking(False)
            received = b""
            while len(received) < 70_010:
                watched.server.turn()
                with contextlib.suppress(BlockingIOError):
                    received += sock.recv(2**20)
            sock.sendall(HELLO)
            watched.server.turn()
            shown = watched.text()
        self.assertEqual(shown.count("FRAME #1 --> server"), 2)
        self.assertEqual(shown.count("FRAME server --> #1"), 2)
        self.assertIn("length 127 it is in the next 8 bytes", shown)
        self.assertIn("  0002  00 00 00 00 00 01 11 70   length 70000,", shown)
        self.assertIn(HELLO_SHOWN, shown)

    def test_fragments(self):
        with Watched() as watched:
            sock = watched.open()
            watched.say(
                sock,
                encode_frame(TEXT, b"Hel", MASKING_KEY, False)
                + encode_frame(PING, b"?", MASKING_KEY)
                + encode_frame(CONTINUATION, b"lo", MASKING_KEY),
            )
            shown = watched.text()
        for line in (
            "FRAME #1 --> server  TEXT [MASKED]  9 bytes",
            "FRAME #1 --> server  PING [FIN] [MASKED]  7 bytes",
            "FRAME #1 --> server  CONTINUATION [FIN] [MASKED]  8 bytes",
            "FRAME server --> #1  PONG [FIN]  3 bytes",
            "  0000  01             0... ....  FIN    0  more pieces follow",
        ):
            self.assertEqual(shown.count(line + "\n"), 1, line)

    def test_a_broken_rule(self):
        with Watched() as watched:
            sock = watched.open()
            watched.say(sock, encode_frame(TEXT, b"Hello"))
            self.assertIn(UNMASKED_SHOWN, watched.text())
            # Whatever else comes is read, but not looked at.
            watched.say(sock, HELLO)
            shown = watched.text()
            self.assertIn("recv #1 -> 11     waiting 0     thrown", shown)
            self.assertNotIn("FRAME", shown)

    def test_every_broken_rule_names_its_section(self):
        big = codec.encode_header(BINARY, 2**20 + 1, MASKING_KEY)
        half = encode_frame(TEXT, b"abc\xff" + bytes(100), MASKING_KEY)[:20]
        for data, shown in (
            (
                b"\xc1\x80",
                "s5.2: a reserved bit is set, no extension is in use",
            ),
            (b"\x83\x80", "s5.2: opcode 0x3 is reserved"),
            (b"\x09\x80", "s5.5: a control frame must not be fragmented"),
            (b"\x80\x80", "s5.4: a continuation of no message"),
            (big, "s7.4.1: a message has at most 1048576 bytes"),
            (half, "s8.1: not UTF-8 (byte 0xFF)"),
            (encode_frame(TEXT, b"\xff", MASKING_KEY), "s8.1: not UTF-8"),
            (encode_frame(CLOSE, b"\x03", MASKING_KEY), "s5.5.1: a close code"),
            (encode_frame(CLOSE, b"\x03\xed", MASKING_KEY), "s7.4: close code"),
            (b"\x81\xfe\x00\x05", "s5.2: a length must use the fewest bytes"),
        ):
            with self.subTest(shown), Watched() as watched:
                sock = watched.open()
                watched.text()
                watched.say(sock, data)
                text = " ".join(watched.text().split())
                self.assertEqual(text.count(f"RFC 6455 {shown}"), 1)
                self.assertEqual(text.count("FRAME #1 --> server"), 1)
                self.assertEqual(text.count(" Closing #1 with 100"), 1)

    def test_a_header_that_is_not_whole(self):
        with Watched() as watched:
            sock = watched.open()
            watched.text()
            watched.say(sock, b"\xc3\x80")
            shown = watched.text()
            self.assertIn(HALF_SHOWN, shown)
        with Watched("short") as watched:
            sock = watched.open()
            watched.text()
            watched.say(sock, b"\xc3\x80")
            shown = watched.text().split("\n")
            line = "FRAME #1 --> server  opcode 0x3 [FIN] [RSV] [MASKED]"
            self.assertEqual(shown[1], line)

    def test_a_close_without_a_code(self):
        with Watched() as watched:
            sock = watched.open()
            watched.say(sock, encode_frame(CLOSE, b"", MASKING_KEY))
            shown = watched.text()
        self.assertEqual(shown.count("\n        no close code"), 2)

    def test_sleep_is_what_passes_between_turns(self):
        with Watched() as watched:
            sock = watched.open()
            watched.shown.clear()
            watched.server.observer.awake -= 40  # it woke up so long ago
            watched.say(sock, HELLO)
            self.assertRegex(watched.shown[0], r"slept 40\.\d\d s")
            watched.shown.clear()
            watched.say(sock, HELLO)
            self.assertRegex(watched.shown[0], r"slept 0\.\d\d s")

    def test_long_headers_are_cut_to_what_fits(self):
        frame = encode_frame(BINARY, bytes(70_000), MASKING_KEY)
        with Watched() as watched:
            sock = watched.open()
            watched.text()
            watched.say(sock, frame[:6])
            line = "82 ff 00 00 00 00|  the header needs 8 more"
            self.assertIn(f"waiting 6     {line}", watched.text())
            watched.say(sock, frame[6:7])
            line = "82 ff 00 00 00 ..|  the header needs 7 more"
            self.assertIn(f"waiting 7     {line}", watched.text())

    def test_behind_a_close_or_a_fault_nothing_counts(self):
        for data in (
            encode_frame(CLOSE, b"", MASKING_KEY) + HELLO * 2,
            bytes(100),
            b"\xc1\x80\0\0\0\0" + HELLO,
            b"\x83\x80\0\0\0\0" + HELLO,
        ):
            with self.subTest(data[:2]), Watched() as watched:
                sock = watched.open()
                watched.text()
                watched.say(sock, data)
                shown = watched.text()
                self.assertNotIn("frames in one read", shown)
                self.assertEqual(shown.count("FRAME #1"), 1)

    def test_what_is_refused_needs_no_more(self):
        large = codec.encode_header(BINARY, 2**20 + 1, MASKING_KEY)
        for data in (b"\x81\x05Hel", b"\xc1\x85", b"\x83\x85\0\0\0\0", large):
            with self.subTest(data), Watched() as watched:
                sock = watched.open()
                watched.text()
                watched.say(sock, data)
                shown = watched.text()
                self.assertIn("Closing #1 with", shown)
                self.assertNotIn("needs", shown.replace("it needs", ""))

    def test_a_wrong_header_is_the_last_that_counts(self):
        part = encode_frame(TEXT, b"a", MASKING_KEY, False)
        long = encode_frame(PING, bytes(126), MASKING_KEY)
        for wrong in (encode_frame(PING, b"", MASKING_KEY, False), long):
            with self.subTest(wrong[:2]), Watched() as watched:
                sock = watched.open()
                watched.text()
                watched.say(sock, wrong + HELLO * 2)
                self.assertNotIn("in one read", watched.text())
        for right in (encode_frame(PING, bytes(20), MASKING_KEY), part):
            with self.subTest(right[:2]), Watched(max_message=10) as watched:
                sock = watched.open()
                watched.text()
                end = encode_frame(CONTINUATION, b"", MASKING_KEY)
                watched.say(sock, right + (end if right == part else HELLO))
                self.assertIn("2 frames in one read", watched.text())

    def test_a_hook_has_closed_before_the_rule_was_broken(self):
        with Watched() as watched:
            sock = watched.open()
            watched.server.on_message = lambda user, message: (
                watched.server.close(user, 4000)
            )
            watched.say(sock, HELLO + encode_frame(TEXT, b"Hello"))
            shown = watched.text()
        self.assertIn("close code 4000", shown)
        self.assertNotIn("Closing", shown)

    def test_a_decoder_of_ones_own(self):
        class Own:
            """A student's: it has feed(), and nothing else in common."""

            def __init__(self, masked, max_message):
                self.inside = Decoder(masked, max_message)

            def feed(self, data):
                return self.inside.feed(data)

        def assign(user, *_):
            user.decoder = Own(True, 10)

        bad = encode_frame(TEXT, b"Hello")
        whole = []
        for hook in ("", "on_connect", "on_handshake", "on_open"):
            with self.subTest(hook), Watched() as watched:
                if hook:
                    setattr(watched.server, hook, assign)
                sock = watched.open()
                for data in (HELLO[:3], HELLO[3:], HELLO * 2 + bad):
                    watched.say(sock, data)
                self.assertTrue(watched.server.observer)
                whole.append(watched.text())
                self.assertEqual(whole[-1], whole[0])
                self.assertIn("a client must mask. Closing #1", whole[-1])

    def test_a_decoder_that_finds_less_than_there_is(self):
        class Blind:
            """Takes each read for one frame, and sees no fault."""

            def __init__(self, masked, max_message):
                pass

            def feed(self, data):
                yield TEXT, "what?"

        with mock.patch.object(codec, "Decoder", Blind), Watched() as watched:
            sock = watched.open()
            watched.text()
            watched.say(sock, HELLO * 3)
            shown = watched.text()
            self.assertEqual(shown.count("FRAME #1 --> server"), 3)
            self.assertEqual(shown.count("FRAME server --> #1"), 1)
            watched.say(sock, encode_frame(TEXT, b"Hello"))
            watched.say(sock, HELLO)
            # It closes nobody, so nothing says that it does.
            self.assertNotIn("Closing", watched.text())
            self.assertTrue(watched.server.observer)

    def test_a_control_frame_in_pieces(self):
        ping = encode_frame(PING, b"????", MASKING_KEY)
        with Watched() as watched:
            sock = watched.open()
            watched.text()
            watched.say(sock, ping[:7])
            line = "recv #1 -> 7      waiting 7     the payload needs 3 more"
            self.assertIn(line, watched.text())
            watched.say(sock, ping[7:])
            shown = watched.text()
        line = "recv #1 -> 3      waiting 10    now the frame is whole"
        self.assertIn(line, shown)
        self.assertEqual(shown.count("FRAME #1 --> server  PING"), 1)

    def test_half_a_close_code(self):
        with Watched() as watched:
            sock = watched.open()
            watched.say(sock, encode_frame(CLOSE, b"x", MASKING_KEY))
            self.assertIn("\n        no close code\n", watched.text())

    def test_half_a_request_is_not_complete(self):
        with Watched() as watched:
            watched.say(watched.connect(), REQUEST[:-2])
            shown = watched.text()
        self.assertIn("the empty line is still missing", shown)
        self.assertNotIn("complete", shown)

    def test_what_nobody_hears_is_not_shown(self):
        with Watched() as watched:
            watched.server.broadcast("hello")
            watched.server.turn()
            self.assertEqual(watched.text(), "")

    def test_a_newcomer_is_not_called_slow(self):
        with Watched() as watched:
            watched.say(watched.connect(), REQUEST + HELLO)
            shown = watched.text()
        self.assertIn("broadcast -> 7 bytes queued for #1", shown)
        self.assertNotIn("buffer is full", shown)

    def test_a_flood_of_frames_is_cut(self):
        for level in ("full", "short"):
            with self.subTest(level), Watched(level) as watched:
                sock = watched.open()
                watched.text()
                ping = encode_frame(PING, b"", MASKING_KEY)
                watched.say(sock, HELLO + (HELLO + ping) * 250)
                shown = watched.text().split("\n")
                found = [line for line in shown if line.startswith("FRAME")]
                self.assertEqual(len(found), MAX_FRAMES)
                self.assertEqual(shown.count("  and more frames"), 1)
                line = "501 frames in one read: TCP has no messages"
                self.assertIn(line, "\n".join(shown))
                self.assertLessEqual(max(map(len, shown)), WIDTH)
                watched.say(sock, HELLO)
                self.assertEqual(watched.text().count("FRAME"), 2)

    def test_without_a_trace_nothing_is_explained(self):
        with Watched("off") as watched:
            with mock.patch("lessons.trace.explain_frame", None):
                watched.say(watched.open(), HELLO)
            self.assertEqual(watched.text(), "")
            self.assertTrue(watched.server.observer)

    def test_it_may_begin_and_end_at_any_time(self):
        """It has walked along, so it knows where in a frame it is."""
        for cut in range(1, len(HELLO)):
            with self.subTest(cut), Watched("off") as watched:
                sock = watched.open()
                watched.say(sock, HELLO + HELLO[:cut])
                self.assertEqual(watched.text(), "")
                watched.server.observer.level = "full"
                watched.say(sock, HELLO[cut:])
                shown = watched.text()
                self.assertIn(f"waiting {len(HELLO)} ", shown)
                self.assertIn(HELLO_SHOWN.strip("\n"), shown)
                watched.server.observer.level = "off"
                watched.say(sock, HELLO)
                self.assertEqual(watched.text(), "")

    def test_nobody_can_flood_the_screen(self):
        keys = b"Sec-WebSocket-Key: x\r\n" * 500
        with Watched() as watched:
            request = b"GET / HTTP/1.1\r\nHost: a\r\n" + keys + b"\r\n"
            watched.say(watched.connect(), request)
            shown = watched.text()
            self.assertIn("\n  (499 more lines not used)\n", shown)
            self.assertLess(len(shown.split("\n")), 20)
            sock = watched.open()
            watched.text()
            reason = b"\x03\xe8" + b"x" * 60_000
            watched.say(sock, encode_frame(CLOSE, reason, MASKING_KEY))
            shown = watched.text()
            self.assertIn("s5.5: a control frame carries at most", shown)
            self.assertLess(len(shown.split("\n")), 60)

    def test_no_line_is_too_long(self):
        with Watched() as watched:
            watched.server.observer.turn = 1048576
            watched.server.observer.awake -= 1000
            sock = watched.open()
            watched.say(sock, b"\xf0\xff\x80" + bytes(7) + MASKING_KEY)
            user = watched.server.users[1]
            user.address = ("2001:db8:1234:5678:90ab:cdef:1234:5678", 65535)
            watched.server.observer.connected(user)
            shown = watched.text().split("\n")
        self.assertLessEqual(max(map(len, shown)), WIDTH)
        self.assertIn("turn 1048577 asked", shown[0])

    def test_no_line_of_a_full_house_is_too_long(self):
        users = [mock.Mock(key=10_000 + i) for i in range(3)]
        users += [mock.Mock(key=999_999)] * 9
        for level in ("full", "short"):
            with self.subTest(level), Watched(level) as watched:
                watched.server.observer.turn = 1048576
                watched.server.observer.awake -= 1000
                watched.server.observer.woke(users, users, users, users)
                for line in "\n".join(watched.shown).split("\n"):
                    self.assertLessEqual(len(line), WIDTH)

    def test_the_room_closes(self):
        with Watched() as watched:
            watched.open()
            watched.text()
            watched.server.stop()
            watched.server.turn()
            line = "turn 3   got nothing, but the room closes\n"
            self.assertTrue(watched.text().startswith(line))

    def test_who_has_left_is_not_kept(self):
        with Watched() as watched:
            sock = watched.open()
            user = watched.server.users[1]
            # Or the two would wait for the garbage collector.
            self.assertNotIn(user, gc.get_referents(user.decoder))
            observer = watched.server.observer
            observer.slow.add(user)
            sock.close()
            watched.server.turn()
            self.assertEqual(observer.slow, set())

    def test_the_close_of_a_browser(self):
        reason = b"\x03\xeaMasked frame from server."
        with Watched() as watched:
            sock = watched.open()
            watched.say(sock, encode_frame(CLOSE, reason, bytes(4)))
            self.assertIn(CLOSE_SHOWN, watched.text())

    def test_a_page_and_a_refusal(self):
        with Watched() as watched:
            watched.say(watched.connect(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            shown = watched.text()
            self.assertIn("HTTP #1 --> server   request complete\n", shown)
            self.assertIn("HTTP server --> #1   answer\n", shown)
            self.assertRegex(shown, r"\n  \d+ bytes of body\Z")
            sock = watched.connect()
            watched.say(sock, REQUEST[:30])
            watched.say(sock, REQUEST[30:].replace(KEY.encode(), b"short"))
            shown = watched.text()
            self.assertIn("waiting 30    the empty line is still miss", shown)
            self.assertIn(" waiting 165   the empty line is there\n", shown)
            self.assertIn("  Sec-WebSocket-Key: short     ", shown)
            self.assertIn("\nHTTP server --> #2   answer\n", shown)
            words = "\n  The Sec-WebSocket-Key is not 16 bytes."
            self.assertTrue(shown.endswith(words))
            sock = watched.connect()
            watched.say(sock, b"\x16\x03\x01 hello")
            shown = watched.text()
            self.assertIn("HTTP server --> #3   answer\n", shown)
            self.assertIn("\n  HTTP/1.1 400 Bad Request\n", shown)
            self.assertIn("\n  That is https; open http:// with", shown)

    def test_frames_behind_the_request(self):
        with Watched() as watched:
            watched.say(watched.connect(), REQUEST + HELLO + HELLO)
            shown = watched.text()
            self.assertIn("\n  22 bytes came behind it\n", shown)
            self.assertEqual(shown.count(HELLO_SHOWN), 1)
            words = "2 frames in one read: TCP has no messages"
            self.assertIn(f"  rest #1 -> 22     waiting 22    {words}", shown)

    def test_who_leaves(self):
        with Watched() as watched:
            watched.open().close()
            watched.text()
            watched.server.turn()
            shown = watched.text()
            self.assertIn("  recv #1 -> 0      waiting 0     the end of", shown)
            self.assertIn("\nGONE #1: hung up", shown)

    def test_idle_turns_are_silent(self):
        with Watched() as watched:
            sock, _ = watched.open(), watched.open()
            watched.text()
            watched.server.turn()
            self.assertEqual(watched.text(), "")
            for user in watched.server.users.values():
                user.deadline -= 60  # silent for a minute
            watched.server.next_check = 0
            watched.server.turn()
            shown = re.findall("^[a-zA-Z].*", watched.text(), re.M)
            self.assertEqual(
                shown,
                [
                    "turn 5   got nothing, but a timer or a deadline is due",
                    "FRAME server --> #1  PING [FIN]  2 bytes",
                    "FRAME server --> #2  PING [FIN]  2 bytes",
                ],
            )
            watched.say(sock, HELLO)
            self.assertTrue(watched.text().startswith("turn 6   asked"))

    def test_short(self):
        with Watched("short") as watched:
            sock = watched.open()
            watched.say(sock, HELLO)
            watched.say(sock, encode_frame(TEXT, b"Hello"))
            self.check(watched, SHORT)

    def test_short_tells_how_reads_divide_into_frames(self):
        with Watched("short") as watched:
            sock = watched.open()
            watched.text()
            watched.say(sock, HELLO * 3)
            shown = watched.text().split("\n")
            self.assertIn("recv #1 -> 33 ", shown[1])
            self.assertIn("3 frames in one read", shown[1])
            watched.say(sock, HELLO[:3])
            self.assertIn("the header needs 3 more", watched.text())

    def test_only_one_user(self):
        for level in ("full", "short"):
            with self.subTest(level), Watched(level) as watched:
                trace = watched.server.observer
                trace.only = 3
                first, second = watched.open(), watched.open()
                self.assertEqual(watched.text(), "")
                third = watched.open()
                shown = watched.text()
                self.assertIn(
                    "ACCEPT #3" if level == "full" else "HANDSHAKE", shown
                )
                self.assertNotIn("#1 -->", shown)
                # What another one says is heard by #3, in a turn of its own.
                watched.say(first, HELLO)
                lines = watched.text().split("\n")
                self.assertTrue(lines[0].startswith("turn 7 "), lines[0])
                self.assertIn("read #1", "".join(lines[:2]))
                self.assertIn("FRAME server --> #1 #2 #3", "\n".join(lines))
                self.assertNotIn("FRAME #1", "\n".join(lines))
                # What is for another one alone is not shown at all.
                watched.say(second, encode_frame(PING, b"", MASKING_KEY))
                watched.say(second, HELLO[:3])
                second.close()
                watched.server.turn()
                self.assertEqual(watched.text(), "")
                watched.say(third, encode_frame(PING, b"", MASKING_KEY))
                shown = watched.text()
                self.assertTrue(shown.startswith("turn 11 "), shown)
                self.assertIn("FRAME #3 --> server  PING", shown)
                self.assertIn("FRAME server --> #3  PONG", shown)
                trace.only = 0
                watched.say(first, HELLO)
                self.assertIn("FRAME #1 --> server  TEXT", watched.text())

    def test_off(self):
        with Watched("off") as watched:
            watched.say(watched.open(), HELLO)
            self.check(watched, "")

    def test_many_users_fit_into_the_line(self):
        with Watched() as watched:
            socks = [watched.open() for _ in range(30)]
            watched.text()
            watched.say(socks[0], HELLO)
            shown = watched.text()
            self.assertIn("asked  read L #1 #2 #3 .. (31)  write -", shown)
            self.assertIn("server --> #1 #2 #3 #4 #5 #6 #7 .. (30)  T", shown)
            self.assertLessEqual(max(map(len, shown.split("\n"))), WIDTH)


class OthersInTheLoop(unittest.TestCase):
    def test_a_thread(self):
        for level in ("full", "short"):
            with self.subTest(level), Watched(level) as watched:
                sock = watched.open()
                watched.text()
                room = watched.server
                room.call_soon(lambda room=room: room.broadcast("x"))
                room.turn()
                self.assertEqual(sock.recv(9), b"\x81\x01x")
                first = watched.text().split("\n")[0]
                why = "another thread has called call_soon()"
                self.assertEqual(first, f"turn 3   got nothing, but {why}")

    def test_a_timer(self):
        with Watched() as watched:
            watched.open()
            watched.text()
            watched.server.later(0, lambda: watched.server.broadcast("x"))
            watched.server.turn()
            first = watched.text().split("\n")[0]
            why = "a timer or a deadline is due"
            self.assertEqual(first, f"turn 3   got nothing, but {why}")

    def test_a_guest(self):
        with Watched() as watched, Watched("off") as far:
            watched.open()
            guest = Client(f"ws://127.0.0.1:{far.server.port}/")
            guest.on_message = lambda _, text: watched.server.broadcast(text)
            guest.connect()
            watched.server.guests.append(guest)
            watched.server.turn()
            for _ in "12":
                far.server.turn()
            wait_until(lambda: select.select([guest.socket], [], [], 0)[0])
            watched.text()
            watched.server.turn()
            shown = watched.text()
            self.assertIn("asked  read L #1 G1             write -", shown)
            self.assertIn("got    read G1                  write -", shown)
            guest.end("the test is over")
            watched.server.turn()

    def test_a_turn_that_took_long(self):
        for level in ("full", "short", "off"):
            with self.subTest(level), Watched(level) as watched:
                sock = watched.open()
                watched.say(sock, HELLO)
                self.assertNotIn("took", watched.text())
                watched.server.on_message = lambda *_: time.sleep(0.06)
                watched.say(sock, HELLO)
                words = r"\nThis turn took 0\.\d\d s: everybody waited\.\Z"
                (self.assertNotRegex if level == "off" else self.assertRegex)(
                    watched.text(), words
                )

    def test_printing_is_not_the_fault_of_the_turn(self):
        with Watched() as watched:
            sock = watched.open()
            trace, show = watched.server.observer, watched.shown.append
            trace.show = lambda text: time.sleep(0.06) or show(text)
            watched.say(sock, HELLO)
            self.assertNotIn("took", watched.text())


class SlowReader(unittest.TestCase):
    def test_what_waits_is_shown(self):
        with Watched() as watched:
            words = shrink_buffers(watched.server.listener)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                size = watched.server.listener.getsockopt(
                    socket.SOL_SOCKET, option
                )
                self.assertLess(size, 16 * 1024)
            expected = r"asked for 4096 bytes, the kernel took \d+\.\Z"
            self.assertRegex(words, expected)
            sock = watched.open(buffer=4096)
            watched.text()
            user = watched.server.users[1]
            while not watched.server.observer.slow:
                watched.say(sock, encode_frame(BINARY, bytes(1000), bytes(4)))
                self.assertLess(len(watched.shown), 6000)
            shown = watched.text()
            self.assertIn("the kernel's buffer is full", shown)
            self.assertNotIn("its outbox is empty again", shown)
            waited = user.waiting
            watched.server.broadcast(bytes(996))
            watched.server.turn()
            line = f"\n         outbox of #1: {waited + 1000} bytes"
            self.assertTrue(watched.text().endswith(line))
            backlog = watched.server.max_backlog
            watched.server.max_backlog = 1
            self.assertTrue(watched.server.is_behind(user))
            watched.server.observer.shared([user], b"\x81\0")
            self.assertNotIn("outbox", watched.text())
            watched.server.max_backlog = backlog
            sock.setblocking(False)
            while user.waiting:
                with contextlib.suppress(BlockingIOError):
                    sock.recv(2**20)
                watched.server.turn()
            shown = watched.text()
            self.assertIn("write #1", shown)
            self.assertRegex(shown, r"\n         outbox of #1: \d+ bytes\n")
            line = r"  send #1 -> \d+ +waiting 0 +its outbox is empty again"
            self.assertRegex(shown, line)
            watched.server.send(user, "what is taken at once is not told")
            watched.server.turn()
            self.assertNotIn("send #1", watched.text())


class AShortSend(unittest.TestCase):
    def test_the_parts_add_up(self):
        with Watched() as watched:
            shrink_buffers(watched.server.listener)
            sock = watched.open()
            watched.text()
            watched.server.broadcast(bytes(200_000))
            sock.setblocking(False)
            received = 0
            while received < 200_010:
                watched.server.turn()
                with contextlib.suppress(BlockingIOError):
                    received += len(sock.recv(2**20))
            sent = re.findall(r"  send #1 -> (\d+)", watched.text())
            self.assertGreater(len(sent), 1)
            # A beginning that the kernel takes whole is not told.
            told = sum(map(int, sent))
            self.assertIn(200_010 - told, (0, server.JOIN))

    def test_a_broken_connection_is_not_called_full(self):
        with Watched() as watched:
            sock = watched.open()
            user = watched.server.users[1]
            watched.text()
            user.socket.shutdown(socket.SHUT_WR)
            watched.server.send(user, "hello")
            watched.server.turn()
            sock.close()
            watched.server.turn()
            shown = watched.text()
            self.assertNotIn("send #1", shown)
            self.assertIn("GONE #1: Broken pipe", shown)


class TheObserver(unittest.TestCase):
    def test_nothing_is_called_for_each_frame(self):
        with Watched() as watched:
            sock = watched.open()
            watched.server.observer = observer = mock.Mock(spec=Observer)
            watched.say(sock, HELLO * 80)
            calls = [call[0] for call in observer.method_calls]
            self.assertEqual(calls, ["woke", "received", "shared", "turned"])

    def test_a_trace_that_raises_ends_no_user(self):
        for what in ("read_frames", "show_frame", "show_broken_rule"):
            with self.subTest(what), Watched() as watched:
                sock = watched.open()
                trace = watched.server.observer
                errors = io.StringIO()
                bug = mock.patch.object(trace, what, None)
                with bug, contextlib.redirect_stderr(errors):
                    watched.say(sock, HELLO + encode_frame(TEXT, b"x"))
                self.assertEqual(sock.recv(7), b"\x81\x05Hello")
                self.assertEqual(sock.recv(4), b"\x88\x1a\x03\xea")
                self.assertIsNone(watched.server.observer)
                self.assertEqual(errors.getvalue().count("TypeError"), 1)

    def test_one_that_raises_is_let_go(self):
        hooks = ("woke", "connected", "received", "queued", "shared", "left")
        for hook in hooks:
            observer = Observer()
            setattr(observer, hook, None)  # not to be called
            with self.subTest(hook), Watched() as watched:
                watched.server.observer = observer
                with mock.patch("server.print_traceback") as told:
                    sock = watched.open()
                    watched.say(sock, HELLO)
                    self.assertEqual(sock.recv(100), b"\x81\x05Hello")
                    sock.close()
                    watched.server.turn()
                self.assertEqual(told.call_count, 1)
                self.assertIsNone(watched.server.observer)
                self.assertEqual(watched.server.users, {})

    def test_it_is_told_of_the_end(self):
        observer = Observer()
        observer.ended = mock.Mock()
        room = Server(port=0)
        room.observer = observer
        with serving(room):
            observer.ended.assert_not_called()
        observer.ended.assert_called_once_with()

    def test_it_is_told_of_everybody(self):
        told = []

        class Doorman(Observer):
            def connected(self, user):
                told.append(("connected", user.key))

            def wrote(self, user, sent):
                told.append(("wrote", sent > 0))

            def left(self, user, why):
                told.append(("left", user.key, why))

        with Watched() as watched:
            watched.server.observer = Doorman()
            watched.open().close()
            watched.server.turn()
        # Not each kernel knows already that the Close finds nobody: then it
        # is written, as the 101 was.
        self.assertEqual(
            list(dict.fromkeys(told)),
            [("connected", 1), ("wrote", True), ("left", 1, "hung up")],
        )


CONVERSATION = (
    REQUEST
    + HELLO * 3
    + encode_frame(TEXT, b"Hel", MASKING_KEY, False)
    + encode_frame(PING, b"?", MASKING_KEY)
    + encode_frame(CONTINUATION, b"lo", MASKING_KEY)
    + encode_frame(BINARY, bytes(300), MASKING_KEY)
    + encode_frame(CLOSE, b"\x03\xe8bye", MASKING_KEY)
)


def converse(**options):
    """Return the bytes that come back for the whole of CONVERSATION."""
    server = Server(port=0, recv_size=options.pop("recv_size", 65536))
    shown = []
    if options:
        server.observer = Trace(server, shown.append, **options)
    with serving(server), Peer(server.port, open=False) as peer:
        peer.write(CONVERSATION)
        answer = peer.read_to_end()
    return answer, "\n".join(shown)


class TheSameBytes(unittest.TestCase):
    def test_on_or_off(self):
        plain, _ = converse()
        self.assertEqual(plain.count(b"\x81\x05Hello"), 4)
        self.assertTrue(plain.endswith(b"\x88\x02\x03\xe8"))
        for level in ("full", "short", "off"):
            with self.subTest(level):
                self.assertEqual(converse(level=level)[0], plain)

    def test_every_recv_size(self):
        plain, shown = converse(level="full")
        frames = explained(shown)
        self.assertEqual(len(frames), 8)
        for size in (1, 2, 3, 7, 1024):
            with self.subTest(size):
                answer, shown = converse(level="full", recv_size=size)
                self.assertEqual(sorted(answer), sorted(plain))
                self.assertEqual(messages(answer), messages(plain))
                self.assertEqual(explained(shown), frames)


def explained(shown):
    """Return what is shown of each frame of the client."""
    line = r"  (?!recv|rest|broadcast).*\n"
    return re.findall(rf"^FRAME #1 .*\n(?:{line})*", shown, re.M)


def messages(answer):
    """Return the 101 and the messages of a server, without the pongs."""
    head, _, frames = answer.partition(b"\r\n\r\n")
    events = codec.Decoder(masked=False).feed(frames)
    return [head, *(event for event in events if event[0] != codec.PONG)]


def is_open(address):
    """Tell whether somebody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(address) == 0


def run_server(switches):
    """Run server.py with these switches, to its end."""
    return subprocess.run(
        [sys.executable, str(ROOT / "server.py"), "0", *switches],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


class Colours(unittest.TestCase):
    def test_where_there_are_colours(self):
        terminal = mock.Mock(**{"isatty.return_value": True})
        pipe = mock.Mock(**{"isatty.return_value": False})
        for where, system, stream, expected in (
            ({"TERM": "xterm"}, "linux", terminal, True),
            ({"TERM": "xterm"}, "linux", pipe, False),
            ({"TERM": "xterm"}, "linux", None, False),
            ({"TERM": "dumb"}, "linux", terminal, False),
            ({"TERM": ""}, "linux", terminal, False),
            ({}, "linux", terminal, False),
            ({"TERM": "xterm", "NO_COLOR": "1"}, "linux", terminal, False),
            ({"TERM": "xterm", "NO_COLOR": ""}, "linux", terminal, True),
            ({}, "win32", terminal, False),
            ({"WT_SESSION": "1"}, "win32", terminal, True),
            ({"WT_SESSION": "1", "NO_COLOR": "1"}, "win32", terminal, False),
        ):
            with self.subTest(where=where, system=system), mock.patch.dict(
                os.environ, where, clear=True
            ), mock.patch("sys.platform", system):
                self.assertEqual(colours.has_colours(stream), expected)

    def test_the_text_stays(self):
        with Watched() as watched:
            sock = watched.open()
            watched.say(sock, HELLO * 2)
            watched.say(sock, b"\xff\xff")
            text = watched.text() + "\nYES\nNO"
        shown = []
        with mock.patch.object(colours, "has_colours", lambda stream: True):
            colours.painter(shown.append)(text)
        painted = "".join(shown)
        self.assertEqual(re.sub(r"\x1b\[\d+m", "", painted), text)
        for line in (
            "\x1b[1mturn 1 ",
            "\x1b[32mHANDSHAKE #1 --> server ",
            "\x1b[35mHANDSHAKE server --> #1 ",
            "\x1b[32mFRAME #1 --> server ",
            "\x1b[35mFRAME server --> #1 ",
            "\x1b[31mRFC 6455 s",
            "\x1b[31mNO\x1b[0m",
        ):
            with self.subTest(line):
                self.assertIn(line, painted)
        for line in painted.split("\n"):
            self.assertIn(line.count("\x1b"), (0, 2))


class OnTheTerminal(unittest.TestCase):
    def test_random_bytes_print_nothing_odd(self):
        python = ("-X", "dev", "-W", "error")
        with Process("0", "--trace", python=python) as process:
            self.attack(process.port)
            with Peer(process.port) as peer:
                peer.send("type=add&ming=%1b[2J\u202e\u2602")
                peer.receive()
            process.wait_for(r"\[2J.* left: 1006 ")
            process.signal(signal.SIGTERM)
            self.assertEqual(process.end(), 0)
        self.assertEqual(process.errors, [])
        for line in process.lines:
            self.assertRegex(line, r"\A[ -~]*\Z")
            most = 99 if re.match(r"\d\d:\d\d:\d\d  ", line) else WIDTH
            self.assertLessEqual(len(line), most, line)
        for words in ("RFC 6455 s", "HTTP server", "HANDSHAKE server", "PONG"):
            found = [line for line in process.lines if words in line]
            self.assertGreater(len(found), 5, words)

    def attack(self, port):
        """Send the nonsense of 300 connections, 25 at a time."""
        source = random.Random(9)
        for _ in range(300 // 25):
            socks = []
            for _ in range(25):
                sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
                socks.append(sock)
                with contextlib.suppress(OSError):
                    sock.sendall(nonsense(source, port))
            with Peer(port) as peer:  # It is served behind all of them.
                peer.frame(PING)
                peer.next()
            for sock in socks:
                reset(sock)

    def test_the_switches(self):
        cases = (
            (("--trace", "0"), r"^FRAME #1 --> server  TEXT.*11 bytes$"),
            (("0", "--trace"), r"^FRAME #1 --> server  TEXT.*11 bytes$"),
            (("--trace=short", "0"), r'^FRAME #1 .*11 bytes  "Hello"$'),
            (("0", "--trace"), r"^The trace shows all that is said, whispers"),
            (("--small-buffers", "0"), r"^Small buffers: asked for 4096 bytes"),
            (("0", "--trace", "--recv-size", "1"), r"recv #1 -> 1 "),
        )
        side_by_side(self, self.shows, cases)

    def test_only_another_user(self):
        with Process("0", "--trace", "--only", "2") as process:
            with Peer(process.port) as first, Peer(process.port) as second:
                first.write(HELLO)
                self.assertEqual(second.receive(), "Hello")
                second.write(HELLO)
                process.wait_for("^FRAME #2 --> server")
            self.assertNotIn("FRAME #1", "\n".join(process.lines))

    def shows(self, switches, expected):
        """Say Hello to a server with these switches; wait for its line."""
        with Process(*switches) as process:
            with Peer(process.port) as peer:
                peer.write(HELLO)
                self.assertEqual(peer.receive(), "Hello")
            process.wait_for(expected)

    def test_wrong_switches(self):
        cases = (
            (("--trace=long",), "trace"),
            (("--recv-size", "0"), "--recv-size is 1 to"),
            (("--recv-size", "1000000000000"), "--recv-size is 1 to"),
            (("--recv-size", "x"), "--recv-size"),
            (("--only", "3"), "--only is for --trace, --step and --teach"),
            (("--trace", "--only", "-1"), "the number of a user"),
            (("--trace", "--only", "0"), "the number of a user"),
            (("--trace", "--only", "Ana"), "--only"),
        )
        with ThreadPoolExecutor() as pool:
            all_done = list(pool.map(run_server, [case[0] for case in cases]))
        for (switches, words), done in zip(cases, all_done):
            with self.subTest(switches):
                error = done.stderr.decode()
                self.assertEqual(done.returncode, 2, error)
                self.assertIn(words, error)
                self.assertLessEqual(len(error.split("\n")), 5)
                self.assertNotIn("Traceback", error)

    def test_without_a_switch_no_lesson_is_loaded(self):
        program = (
            "import server, sys\n"
            "server.Server.run = lambda self: None\n"
            "server.main(sys.argv[1:])\n"
            "print('lessons' in sys.modules)\n"
        )
        for switches, loaded in (((), "False"), (("--trace",), "True")):
            with self.subTest(switches):
                done = subprocess.run(
                    [sys.executable, "-c", program, "0", *switches],
                    stdout=subprocess.PIPE,
                    cwd=ROOT,
                    timeout=DEADLINE,
                    check=True,
                )
                last = done.stdout.decode().split("\n")[-2].strip()
                self.assertEqual(last, loaded)

    def test_php_shows_what_it_takes(self):
        with Process("0", "--trace", "--break", "php") as process:
            with Peer(process.port) as peer:
                peer.write(HELLO[:10])
                self.assertEqual(peer.receive(), "Hell")
            process.wait_for(r"^FRAME #1 .*  11 bytes$")
            process.wait_for(r'^     =  48 65 6c 6c               "Hell"$')
            process.wait_for(r"^        \(1 more byte to come\)$")
            with Peer(process.port) as peer:
                peer.write(HELLO[:9])
                self.assertEqual(peer.receive(), "Hel")
                peer.write(HELLO)  # what was cut off is forgotten
                self.assertEqual(peer.receive(), "Hello")
            process.wait_for("GONE #2")
            reads = [li for li in process.lines if "recv #2 " in li]
            self.assertEqual(len(reads), 2, reads)  # the cut one, and the end

    @unittest.skipUnless(LINUX, "only Linux has a device that is always full")
    def test_nowhere_to_print(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        command = [sys.executable, str(ROOT / "server.py"), str(port)]
        with open("/dev/full", "wb") as full, subprocess.Popen(
            [*command, "--trace"], stdout=full, stderr=subprocess.PIPE
        ) as process:
            address = "127.0.0.1", port
            wait_until(lambda: is_open(address))
            with Peer(port) as peer:
                peer.write(HELLO)
                self.assertEqual(peer.receive(), "Hello")
            process.terminate()
            self.assertEqual(process.communicate(timeout=DEADLINE)[1], b"")
            self.assertEqual(process.returncode, 0)

    def test_the_room_goes_on_when_nobody_reads(self):
        command = [sys.executable, str(ROOT / "server.py"), "0", "--trace"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, **OWN_CONSOLE
        ) as process:
            try:
                process.stdout.readline()  # that whispers are shown
                first = process.stdout.readline().decode()
                process.stdout.close()
                with Peer(int(re.search(r":(\d+)/", first)[1])) as peer:
                    for _ in range(3):
                        peer.write(HELLO)
                        self.assertEqual(peer.receive(), "Hello")
            finally:
                send_signal(process, signal.SIGTERM)
            self.assertEqual(process.wait(DEADLINE), 0)


if __name__ == "__main__":
    unittest.main()
