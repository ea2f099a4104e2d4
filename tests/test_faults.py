"""--break NAME: each fault is on the wire, and a browser names it.

All rooms of this module are started at once, each with its own fault. What
is seen in browsers is tried in each of them; see tests/browsers.py.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor

import codec
import handshake
from lessons import faults
from tests import browsers
from tests.support import (
    DEADLINE,
    KEY,
    MASKING_KEY,
    ROOT,
    Peer,
    Process,
    wait_until,
)  # fmt: skip
from tests.test_browser import FIND, STATE

FAULT_PAGE = ROOT / "lessons" / "answers" / "faults.md"
NAMES = (
    "accept", "no-accept", "status", "subprotocol", "mask", "rsv", "opcode",
    "utf8", "orphan", "long-ping", "close-1005", "drop", "php",
)  # fmt: skip

# What a right server sends, byte for byte; the key is that of RFC 6455 s1.3.
OK = b"HTTP/1.1 200 OK\r\n"
STATUS = b"HTTP/1.1 101 Switching Protocols\r\n"
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
RIGHT = {
    "handshake": STATUS + UPGRADE + ACCEPT + b"\r\n",
    "text": b"\x81\x05hello",
    "binary": b"\x82\x02\0\1",
    "pong": b"\x8a\x02hi",
    "close": b"\x88\x02\x03\xe8",
    "goodbye": b"\x88\x11\x03\xe9the room closes",
}
# And what is different with each fault.
WRONG_ACCEPT = b"Sec-WebSocket-Accept: s3mCG3XUBfFRrUGpYOBQiHm5i8g=\r\n"
PING = b"\x89\x7e\0\x7e" + b"x" * 126
CLOSE_1005 = b"\x88\x02\x03\xed"
WRONG = {
    "accept": {"handshake": STATUS + UPGRADE + WRONG_ACCEPT + b"\r\n"},
    "no-accept": {"handshake": STATUS + UPGRADE + b"\r\n"},
    "status": {"handshake": OK + UPGRADE + ACCEPT + b"\r\n"},
    "subprotocol": {
        "handshake": STATUS + UPGRADE + ACCEPT
        + b"Sec-WebSocket-Protocol: nobody-asked\r\n\r\n",
    },
    "mask": {
        "text": b"\x81\x85\0\0\0\0hello",
        "binary": b"\x82\x82\0\0\0\0\0\1",
        "pong": b"\x8a\x82\0\0\0\0hi",
        "close": b"\x88\x82\0\0\0\0\x03\xe8",
        "goodbye": b"\x88\x91\0\0\0\0\x03\xe9the room closes",
    },
    "rsv": {
        "text": b"\xc1\x05hello",
        "binary": b"\xc2\x02\0\1",
        "pong": b"\xca\x02hi",
        "close": b"\xc8\x02\x03\xe8",
    },
    "opcode": {"text": b"\x83\x05hello", "binary": b"\x83\x02\0\1"},
    "utf8": {"text": b"\x81\x06hello\xff"},
    "orphan": {"text": b"\x80\x05hello", "binary": b"\x80\x02\0\1"},
    "long-ping": {"text": PING, "binary": PING},
    "close-1005": {"close": CLOSE_1005, "goodbye": CLOSE_1005},
    "drop": {"close": b"", "goodbye": b""},
    "php": {},  # What it does wrong is read.
}  # fmt: skip
# The server sends what is larger than 64 KiB in two pieces.
LARGE = b"abcdefghij" * 7000
LARGE_WRONG = {
    "mask": b"\x81\xff\0\0\0\0\0\1\x11\x70\0\0\0\0" + LARGE,
    "rsv": b"\xc1\x7f\0\0\0\0\0\1\x11\x70" + LARGE,
    "opcode": b"\x83\x7f\0\0\0\0\0\1\x11\x70" + LARGE,
    "utf8": b"\x81\x7f\0\0\0\0\0\1\x11\x71" + LARGE + b"\xff",
    "orphan": b"\x80\x7f\0\0\0\0\0\1\x11\x70" + LARGE,
    "long-ping": PING,
}

# What to do to meet a fault.
OPEN, JOIN, DISCONNECT = "open the page", "join", "join, then disconnect"
TO_DO = {
    **dict.fromkeys(("accept", "no-accept", "status", "subprotocol"), OPEN),
    **dict.fromkeys(("mask", "rsv", "opcode", "utf8", "orphan"), JOIN),
    "long-ping": JOIN,
    **dict.fromkeys(("close-1005", "drop"), DISCONNECT),
}
# What happens then: what the console says; what the page says, which is all
# that JavaScript is told; and how the diary says that somebody left: what the
# Close from there said, 1006 if there was none, None if nobody left.
LOST = "Closed: code 1006"
HUNG_UP = "1006 hung up"
PRESSED = "1000 Disconnect was pressed"
ERROR = "WebSocket connection to '{url}' failed: "
OPENING = ERROR + "Error during WebSocket handshake: "
CHROMIUM = {  # 156
    "accept": (
        OPENING + "Incorrect 'Sec-WebSocket-Accept' header value",
        LOST,
        HUNG_UP,
    ),
    "no-accept": (
        OPENING + "'Sec-WebSocket-Accept' header is missing",
        LOST,
        HUNG_UP,
    ),
    "status": (OPENING + "Unexpected response code: 200", LOST, HUNG_UP),
    "subprotocol": (
        OPENING + "Response must not include 'Sec-WebSocket-Protocol'"
        " header if not present in request: nobody-asked",
        LOST,
        HUNG_UP,
    ),
    "mask": (
        ERROR
        + "A server must not mask any frames that it sends to the client.",
        LOST,
        "1002 Masked frame from server",
    ),
    "rsv": (
        ERROR + "One or more reserved bits are on: reserved1 = 1,"
        " reserved2 = 0, reserved3 = 0",
        LOST,
        "1002 Invalid reserved bit",
    ),
    "opcode": (
        ERROR + "Unrecognized frame opcode: 3",
        LOST,
        "1002 Unknown opcode",
    ),
    "utf8": (
        ERROR + "Could not decode a text frame as UTF-8.",
        LOST,
        "1002 Invalid UTF-8 in text frame",
    ),
    "orphan": (
        ERROR + "Received unexpected continuation frame.",
        LOST,
        "1002 Unexpected continuation",
    ),
    "long-ping": (
        ERROR + "Invalid frame header",
        LOST,
        "1002 WebSocket Protocol Error",
    ),
    "close-1005": (
        ERROR
        + "Received a broken close frame containing a reserved status code.",
        LOST,
        PRESSED,
    ),
    "drop": ("", LOST, PRESSED),
}
REFUSED = "Firefox can\u2019t establish a connection to the server at {url}."
CUT = "The connection to {url} was interrupted while the page was loading."
FIREFOX = {  # 153
    **dict.fromkeys(("accept", "no-accept"), (REFUSED, LOST, HUNG_UP)),
    # It waits for the end of what a 200 promises, and does not hang up.
    "status": (REFUSED, LOST, None),
    "subprotocol": ("", "Open. Give your name to join.", None),
    "mask": ("", "Open. You are Ana", None),
    **dict.fromkeys(
        ("rsv", "opcode", "utf8", "orphan", "long-ping"), (CUT, LOST, HUNG_UP)
    ),
    "close-1005": ("", "Closed: code 1005", PRESSED),
    "drop": ("", LOST, PRESSED),
}
SEEN = {"chromium": CHROMIUM, "firefox": FIREFOX}


def setUpModule():
    global rooms
    rooms = {}
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(start_room, NAMES))
    except BaseException:
        tearDownModule()
        raise


def start_room(name):
    rooms[name] = Process("0", "--break", name, "--trace=short")


# Not addModuleCleanup: in Python 3.8 it does nothing without this function.
def tearDownModule():
    browsers.close_all()
    for room in rooms.values():
        room.__exit__()


def expected(name, what):
    return WRONG[name].get(what, RIGHT[what])


def read(sock, size):
    """Return so many bytes, or fewer at the end of the stream."""
    received = b""
    while len(received) < size:
        data = sock.recv(size - len(received))
        if not data:
            break
        received += data
    return received


class FaultTest(unittest.TestCase):
    """Whatever a client does and sees, there is no traceback."""

    def tearDown(self):
        for name, room in rooms.items():
            self.assertEqual(room.errors, [], name)

    def talk(self, room):
        """Return a client that takes any answer to its request."""
        peer = Peer(room.port, open=False)
        self.addCleanup(peer.close)
        host = f"127.0.0.1:{room.port}"
        peer.write(handshake.request_head(host, "/", KEY, {}))
        return peer


class StartTest(FaultTest):
    def test_the_names(self):
        self.assertEqual(tuple(faults.FAULTS), NAMES)

    def test_it_is_announced(self):
        for name, room in rooms.items():
            with self.subTest(name):
                line = room.wait_for("Broken on purpose")
                begins = f"Broken on purpose (--break {name}): "
                self.assertEqual(line[: len(begins)], begins)
                self.assertRegex(line[len(begins) :], r"\A[ -~]{10,}\.\Z")
                self.assertLess(len(line), 79)

    def test_without_a_fault_nothing_is_announced(self):
        with Process("0", "--trace=short") as room:
            with Peer(room.port) as peer:
                peer.send("hello")
            room.wait_for("hello")
            self.assertNotIn("purpose", " ".join(room.lines))

    def test_the_readme_quotes_the_consoles(self):
        rows = {
            line.split("`")[1]: line.split(" | ")
            for line in FAULT_PAGE.read_text("utf-8").splitlines()
            if line.startswith("| `") and line.count(" | ") == 5
        }
        self.assertEqual(tuple(rows), NAMES)
        for browser, column in (("chromium", 2), ("firefox", 4)):
            for name, (words, _, _) in SEEN[browser].items():
                with self.subTest(name, browser=browser):
                    cell = rows[name][column]
                    quoted = cell.split("`")[1] if "`" in cell else ""
                    for piece in quoted.split("…"):
                        self.assertIn(piece.strip(), words)
                    self.assertEqual(words == "", cell[:8] == "nothing;")

    def test_unknown_names(self):
        for name in ("nonsense", "Mask"):
            with self.subTest(name):
                ended = subprocess.run(
                    [sys.executable, "server.py", "0", "--break", name],
                    cwd=ROOT,
                    capture_output=True,
                    timeout=DEADLINE,
                )
                self.assertEqual(ended.returncode, 2)
                self.assertEqual(ended.stdout, b"")
                said = " ".join(ended.stderr.decode().split())
                self.assertIn(f"no {name!r};", said)
                self.assertIn(", ".join(NAMES), said)
                self.assertNotIn("Traceback", said)


class WireTest(FaultTest):
    """The very bytes: those of the fault are wrong, all others right."""

    def test_each_fault_and_nothing_else(self):
        self.assertEqual(tuple(WRONG), NAMES)
        asked = {
            "handshake": b"",
            "text": codec.encode_frame(codec.TEXT, b"hello", MASKING_KEY),
            "binary": codec.encode_frame(codec.BINARY, b"\0\1", MASKING_KEY),
            "pong": codec.encode_frame(codec.PING, b"hi", MASKING_KEY),
            "close": codec.encode_close(1000, key=MASKING_KEY),
        }
        for name, room in rooms.items():
            with self.subTest(name):
                peer = self.talk(room)
                for what, frame in asked.items():
                    peer.write(frame)
                    right = expected(name, what)
                    self.assertEqual(read(peer.socket, len(right)), right)
                self.assertEqual(peer.read_to_end(), b"")

    def test_large_messages(self):
        frame = codec.encode_frame(codec.TEXT, LARGE, MASKING_KEY)
        for name, wrong in LARGE_WRONG.items():
            with self.subTest(name):
                peer = self.talk(rooms[name])
                read(peer.socket, len(RIGHT["handshake"]))
                peer.write(frame)
                # Not assertEqual: nobody can read what it would print.
                self.assertTrue(read(peer.socket, len(wrong)) == wrong)
                # Nothing is left of it before the next answer.
                peer.frame(codec.PING, b"hi")
                pong = expected(name, "pong")
                self.assertEqual(read(peer.socket, len(pong)), pong)

    def test_the_end_of_the_room(self):
        """Ctrl-C: the last frame is as wrong; the end is an orderly one."""
        ends = []
        with contextlib.ExitStack() as stack:
            for name in ("mask", "close-1005", "drop", "php"):
                room = stack.enter_context(Process("0", "--break", name))
                peer = self.talk(room)
                read(peer.socket, len(RIGHT["handshake"]))
                room.signal(signal.SIGINT)  # It takes half a second.
                ends.append((name, room, peer))
            for name, room, peer in ends:
                with self.subTest(name):
                    goodbye = expected(name, "goodbye")
                    self.assertEqual(peer.read_to_end(), goodbye)
                    peer.close()
                    self.assertEqual(room.end(), 0)
                    self.assertEqual(room.errors, [])


class PhpTest(FaultTest):
    """One read is taken for one frame."""

    def setUp(self):
        self.ana, self.bo = [Peer(rooms["php"].port) for _ in "12"]
        self.addCleanup(self.ana.close)
        self.addCleanup(self.bo.close)

    def hear(self, message, *peers):
        for peer in peers or (self.ana, self.bo):
            self.assertEqual(peer.receive(), message)

    def take_turn(self):
        """Let the server read all that was sent until now.

        What it has to say about that is before what Bo says here.
        """
        self.bo.send("a turn")
        self.hear("a turn")

    def end(self, code, reason=""):
        """Check that Ana, and she alone, was sent away."""
        close = self.ana.receive_close()
        self.assertEqual(close.code, code)
        self.assertEqual(close.reason[: len(reason)], reason)
        self.bo.send("still here")
        self.hear("still here", self.bo)

    def test_of_three_frames_in_one_read_only_the_first_arrives(self):
        messages = ("1 of 3", "2 of 3", "3 of 3")
        frames = [codec.encode_message(m, MASKING_KEY) for m in messages]
        self.ana.write(b"".join(frames))
        self.hear("1 of 3")
        self.take_turn()
        self.ana.send("the next read")
        self.hear("the next read")

    def test_a_payload_cut_in_two(self):
        frame = codec.encode_message("hello", MASKING_KEY)
        self.ana.write(frame[:-2])
        self.hear("hel")
        # "lo" is masked: 0x51, taken for a header, has a reserved bit.
        self.ana.write(frame[-2:])
        self.end(1002, "s5.2: a reserved bit")

    def test_a_header_cut_in_two(self):
        frame = codec.encode_message("hello", MASKING_KEY)
        for size in (1, 2, 5):
            with self.subTest(size=size):
                self.ana.write(frame[:size])
                self.take_turn()  # It was read, and is forgotten:
                self.ana.send("a whole frame")
                self.hear("a whole frame")

    def test_a_character_cut_in_two(self):
        frame = codec.encode_message("\u017e", MASKING_KEY)
        self.ana.write(frame[:-1])
        self.end(1007)

    def test_a_fragment_is_taken_for_a_message(self):
        self.ana.frame(codec.TEXT, b"one", fin=False)
        self.hear("one")
        self.ana.frame(codec.CONTINUATION, b"two")
        self.end(1002, "s5.4: a continuation of no message")

    def test_any_bytes(self):
        """What is no frame is a fault of the client, not of the program."""
        chance = random.Random(1)
        for _ in range(3000):
            data = bytes(chance.randrange(256) for _ in range(12))
            whole = bytes((data[0] & 0x8F, 0x86)) + data[2:]
            for read in (data, whole, whole[: chance.randrange(12)]):
                with contextlib.suppress(codec.ProtocolError):
                    list(faults.one_read(codec.Decoder(True), read))


class BrowserTest(browsers.Scenarios):
    """What somebody sees who opens the page of a broken server."""

    def open(self, room):
        """Return a tab with the page; to be used in a with block."""
        tab = self.browser.open(f"http://127.0.0.1:{room.port}/")
        return contextlib.closing(tab)

    def join(self, tab, name):
        """Type a name where the page puts the cursor, and Enter."""
        tab.wait_for(
            f"{STATE}.startsWith('Open')"
            " && document.activeElement.id === 'name'"
        )
        tab.type(name)
        tab.press("Enter")

    def click(self, tab, button):
        tab.run("id => document.getElementById(id).click()", button)

    def console(self, tab):
        """Return what it said, each thing once: the page tries again."""
        tab.run("0")  # fetches what has happened meanwhile
        return set(tab.errors)

    def test_each_fault(self):
        self.assertEqual((*TO_DO, "php"), NAMES)
        for name in TO_DO:
            words, state, end = SEEN[self.browser_name][name]
            room = rooms[name]
            url = f"ws://127.0.0.1:{room.port}/"
            before = len(room.lines)
            with self.subTest(name), self.open(room) as tab:
                self.meet(tab, TO_DO[name])
                tab.wait_for(f"state => {STATE}.startsWith(state)", state)
                self.check_console(tab, {words.format(url=url)} - {""})
                if end is not None:
                    who = "#[0-9]+ Ana" if TO_DO[name] != OPEN else "#[0-9]+"
                    left = room.wait_for(f"{who} left: (?!1000$)", before)
                    self.assertEqual(left.partition(" left: ")[2], end)

    def check_console(self, tab, said):
        wait_until(lambda: self.console(tab) >= said, f"{said} on the console")
        self.assertEqual(self.console(tab), said)

    def meet(self, tab, what_to_do):
        """Do what it takes to meet the fault."""
        if what_to_do != OPEN:
            self.join(tab, "Ana")
        if what_to_do == DISCONNECT:
            tab.wait_for(f"{STATE}.startsWith('Open. You are Ana')")
            self.click(tab, "disconnect")

    def test_php_loses_the_last_byte(self):
        """A read of 21 bytes: a frame of 22 is cut, on every computer."""
        with Process("0", "--break", "php", "--recv-size", "21") as room:
            with self.open(room) as tab:
                self.join(tab, "A")  # 6 + 15 bytes
                tab.wait_for(f"{STATE}.startsWith('Open. You are A')")
                tab.run("document.getElementById('text').focus()")
                tab.type("hello")  # 6 + 16 bytes: "nr=hello&key=al"
                tab.press("Enter")
                said = "There is nobody with the code al here."
                tab.wait_for(f"(...all) => ({FIND})(...all)", "whisper", said)
                self.assertEqual(self.console(tab), set())
            self.assertEqual(room.errors, [])

    def test_php_cuts_a_long_message(self):
        with self.open(rooms["php"]) as tab:
            self.join(tab, "Ana")
            tab.wait_for(f"{STATE}.startsWith('Open. You are Ana')")
            self.click(tab, "long")
            # Without its end, "&key=all", it is none of the room's messages.
            # Firefox may write the header alone: then nothing is left of it.
            tab.wait_for("document.querySelector('.raw') !== null")
            shown = tab.run("document.querySelector('.raw .text').textContent")
            self.assertIn(shown, "nr=" + "abcdefghij" * 40)
            note = tab.run("document.querySelector('.raw').innerText")
            size = re.search("([0-9,]+) characters, cut|$", note)[1] or "0"
            self.assertLess(int(size.replace(",", "")), 65536)
            # What comes next depends on the masking key: see the docstring.


browsers.in_each_browser(globals(), FaultTest)

if __name__ == "__main__":
    unittest.main()
