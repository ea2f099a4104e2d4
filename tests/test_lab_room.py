"""server.py --lab FILE: the real room on what a student wrote."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr

import codec
import handshake
import server
from tests import browsers
from tests.students import ANSWERS, FAILS, LOOP, write
from tests.support import KEY, Peer, Process
from tests.test_browser import FIND, STATE


def tearDownModule():
    browsers.close_all()


class RealRoom(unittest.TestCase):
    """python server.py --lab FILE."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="lab-test-")
        self.addCleanup(shutil.rmtree, self.folder)

    def room(self, *arguments):
        room = Process("0", *arguments)
        self.addCleanup(room.__exit__)
        return room

    def talk(self, room):
        """Let two users talk, with a long text, a ping and a Close."""
        with Peer(room.port) as ana, Peer(room.port) as bo:
            long = "x" * 70000
            for text in ("Hello", long):
                ana.send(text)
                for peer in (ana, bo):
                    self.assertTrue(peer.receive() == text)
            ana.frame(codec.TEXT, b"Hel", fin=False)
            ana.frame(codec.CONTINUATION, b"lo")
            for peer in (ana, bo):
                self.assertEqual(peer.receive(), "Hello")
            bo.frame(codec.PING, b"hi")
            self.assertEqual(bo.next(), (codec.PONG, b"hi"))
            ana.write(codec.encode_close(1000, "bye", b"abcd"))
            self.assertEqual(ana.receive_close().code, 1000)
            bo.send("still here")
            self.assertEqual(bo.receive(), "still here")

    def test_right_parts_serve(self):
        """All answers at once, with the trace; the Decoder alone."""
        four = [
            f"--lab={ANSWERS / f'lab{number}.py'}" for number in (1, 2, 3, 5)
        ]
        rooms = [
            self.room(*four, "--trace"),
            self.room("--lab", str(ANSWERS / "lab4.py"), "--trace",
                      "--recv-size", "70"),
        ]  # fmt: skip
        for room in rooms:
            self.talk(room)
            room.wait_for("left: 1000")
            self.assertEqual(room.errors, [])
            self.assertNotIn("lab4.py: ", "\n".join(room.lines[1:]))
        self.assertEqual(
            rooms[0].lines[:4],
            [
                "Your own code (--lab lab1.py): accept_key stands in for"
                " handshake.accept_key.",
                "Your own code (--lab lab2.py): mask stands in for codec.mask.",
                "Your own code (--lab lab3.py): read_header stands in for"
                " codec.Decoder.read_header.",
                "Your own code (--lab lab5.py): encode_frame stands in for"
                " codec.encode_frame.",
            ],
        )
        self.assertEqual(
            rooms[1].lines[0],
            "Your own code (--lab lab4.py): Decoder stands in for"
            " codec.Decoder.",
        )

    def test_it_is_really_the_student_s(self):
        """What can be used but is wrong is on the wire."""
        source = (
            "import codec\n"
            "def accept_key(key):\n"
            "    return 'mine'\n"
            "class Decoder:\n"
            "    def feed(self, data):\n"
            "        return [(1, 'mine'), (1, 'mine')]\n"
            "def encode_frame(opcode, payload, key=b'', fin=True):\n"
            "    return b'\\x81\\x02' + payload[:2]\n"
            "def mask():\n"
            "    'Of the Decoder, not of the room.'\n"
            "read_header = mask\n"
        )
        room = self.room("--lab", write(self.folder, "mine", 4, source))
        with Peer(room.port, open=False) as peer:
            host = f"127.0.0.1:{room.port}"
            peer.write(handshake.request_head(host, "/", KEY, {}))
            taken = None
            received = b""
            while not taken:
                received += peer.socket.recv(4096)
                taken = handshake.take_response(received)
            response, rest = taken
            self.assertEqual(response.headers["Sec-WebSocket-Accept"], "mine")
            peer.send("Hello")
            self.assertEqual(peer.receive(), "mi")
            self.assertEqual(peer.receive(), "mi")
        room.wait_for("lab4.py: Decoder found after read 1: TEXT 'mine', TEXT")
        self.assertEqual(room.lines[0].count("stands in for"), 3)
        self.assertEqual(room.errors, [])

    def test_long_payloads_are_unmasked_by_the_student(self):
        source = (
            "def mask(payload, key):\n"
            "    return b'm' * len(payload) if key else payload\n"
        )
        path = write(self.folder, "mmm", 2, source)
        for size in ("65536", "3000"):  # in one read, and in pieces
            room = self.room("--lab", path, "--recv-size", size)
            with self.subTest(size), Peer(room.port) as peer:
                peer.send("x" * 5000)
                peer.frame(codec.TEXT, b"x" * 5000, fin=False)
                peer.frame(codec.CONTINUATION, b"x")
                self.assertEqual(peer.receive(), "m" * 5000)
                self.assertEqual(peer.receive(), "m" * 5001)

    def test_what_fails_is_said_in_one_line_and_the_room_goes_on(self):
        with ThreadPoolExecutor(8) as pool:
            rooms = list(pool.map(self.failing, FAILS))
        for room, (what, number, _, line) in zip(rooms, FAILS):
            with self.subTest(what, lab=number):
                self.talk(room)
                room.wait_for("left: 1000")
                said = [each for each in room.lines if line in each]
                self.assertTrue(said, room.lines)
                self.assertEqual(len(said), len(set(said)))
                self.assertEqual(room.errors, [])
                for each in room.lines:
                    self.assertLess(len(each), 100)
                    self.assertTrue(each.isascii())

    def failing(self, row):
        what, number, source, _ = row
        path = write(self.folder, what, number, source)
        return self.room("--lab", path, "--trace=short")

    def test_a_long_complaint_keeps_the_number_of_the_line(self):
        source = (
            "def mask(payload, key):\n    raise ValueError('x' * 90 + '!')\n"
        )
        path = write(self.folder, "long", 2, source)
        room = self.room("--lab", path)
        self.talk(room)
        said = room.wait_for("lab2.py: mask raised ValueError: xxx")
        self.assertLess(len(said), 100)
        self.assertTrue(said.endswith("xx, in line 2"), said)

    def test_rules_are_kept_by_the_right_decoder(self):
        room = self.room("--lab", str(ANSWERS / "lab4.py"))
        for data, code in ((b"\x81\x05Hello", 1002), (b"\x83\x80abcd", 1002),
                           (b"\x81\x81\0\0\0\0\xff", 1007)):  # fmt: skip
            with self.subTest(data), Peer(room.port) as peer:
                peer.send("before")
                peer.write(data)
                self.assertEqual(peer.receive(), "before")
                self.assertEqual(peer.receive_close().code, code)
        room.wait_for("not UTF-8")
        self.assertEqual(room.errors, [])
        # A decoder need not know what to do with those.
        self.assertNotIn("lab4.py: ", "\n".join(room.lines))

    def test_what_cannot_be_used(self):
        rows = [
            ("no file", None, "cannot be read"),
            ("no Python", "def mask(", "line 1"),
            ("nothing in it", "x = 1", "has none of these: accept_key, mask"),
            ("imported", "from codec import mask", "has none of these"),
            ("a program", LOOP, "is a program: python lab2.py 9000"),
            ("it ends", "raise SystemExit", "called sys.exit()"),
        ]
        for what, source, words in rows:
            with self.subTest(what):
                path = os.path.join(self.folder, "nothing.py")
                if source is not None:
                    path = write(self.folder, what, 2, source)
                self.refused(["--lab", path], words)
        lab = ["--lab", str(ANSWERS / "lab2.py")]
        self.refused(["--break", "mask", *lab], "only one of them at a time")

    def refused(self, arguments, words):
        errors = io.StringIO()
        with redirect_stderr(errors), self.assertRaises(SystemExit) as end:
            server.parse_arguments(["0", *arguments])
        self.assertEqual(end.exception.code, 2)
        self.assertIn(words, " ".join(errors.getvalue().split()))
        self.assertLess(len(errors.getvalue().splitlines()), 3)


class BrowserTest(browsers.Scenarios):
    """The real room on a student's decoder, in a real browser."""

    def test_own_decoder(self):
        lab = str(ANSWERS / "lab4.py")
        with Process("0", "--lab", lab, "--trace=short") as room:
            tab = self.browser.open(f"http://127.0.0.1:{room.port}/")
            with contextlib.closing(tab):
                tab.wait_for(f"{STATE}.startsWith('Open')")
                tab.run("document.getElementById('name').focus()")
                tab.type("Ana")
                tab.press("Enter")
                tab.wait_for(f"{STATE}.startsWith('Open. You are Ana')")
                for button in ("three", "long"):
                    tab.run("id => document.getElementById(id).click()", button)
                found = f"(...all) => ({FIND})(...all)"
                tab.wait_for(found, "chat", "3 of 3")
                tab.wait_for(found, "chat", "abcdefghij" * 9)
                tab.run("document.getElementById('disconnect').click()")
                tab.wait_for(f"{STATE}.startsWith('Closed: code 1000')")
                self.assertEqual(tab.errors, [])
            room.wait_for("left: 1000")
            self.assertIn("Decoder stands in for codec.Decoder", room.lines[0])
            self.assertFalse([li for li in room.lines if "lab4.py: " in li])
            self.assertEqual(room.errors, [])


browsers.in_each_browser(globals())

if __name__ == "__main__":
    unittest.main()
