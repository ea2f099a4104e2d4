"""client.html in real browsers: two people meet, talk and part.

Every scenario runs in Chromium and in Firefox; see tests/browsers.py.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import signal
import socket
import struct
import tempfile
import threading
import time
import unittest
import zlib
from pathlib import Path
from urllib.parse import quote

from lessons import redis
from server import ChatRoom, Server
from tests import browsers
from tests.scripted_redis import ScriptedRedis
from tests.support import DEADLINE, ROOT, Peer, Process, serving, wait_until

PAGE = ROOT / "client.html"
SAID = "100 % & a+b = c; žluť ☂"
MARKUP = "<img src=x onerror=hacked=1>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>hacked=1</script></svg>'
FORBIDDEN = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write",
    "eval(", "<script ", "stylesheet", "@import", "url(",
)  # fmt: skip
HALF = "\ud83d"  # the first half of an emoji: no text, but a browser has it
HEADS = {
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x10\0\0\0WEBP",
}

# JavaScript: the entries of the message list that contain a text.
FIND = """(kind, text) => [...document.querySelectorAll('#messages .' + kind)]
    .filter(entry => entry.textContent.includes(text)).length"""
TEXTS = """[...document.querySelectorAll('#messages .text')]
    .map(element => element.textContent)"""
ENTRIES = "document.getElementById('messages').children"
STATE = "document.getElementById('state').textContent"
COUNTDOWN = "document.getElementById('countdown').textContent"
CHOSEN = "document.getElementById('to').selectedOptions[0].text"
TEXT = "document.getElementById('text').value"
PEOPLE = """[...document.querySelectorAll('#people li')]
    .filter(item => item.checkVisibility()).map(item => item.innerText)"""
# What the page sees when the computer has slept for some seconds.
CLOCK_JUMPS = """(seconds => (now =>
    Date.now = () => now() + seconds * 1000)(Date.now))"""
NO_TICKS = "window.setInterval = () => 0;"
# The page waits up to a half less or more than this: exactly so long.
NO_JITTER = "Math.random = () => 0.5;"
# Keeps in seen what the countdown says, one after the other.
WATCH_COUNTDOWN = """window.seen = [];
    (element => new MutationObserver(() => seen.push(element.textContent))
    .observe(element, {childList: true}))(document.getElementById('countdown'))
    """
NOTE_REVOKED = """window.revoked = [];
    (revoke => URL.revokeObjectURL = url => { revoked.push(url); revoke(url); }
    )(URL.revokeObjectURL)"""
CROWD_SECONDS = 2  # on a busy machine; it was half a minute
# The lowest contrast of any text with what is behind it (WCAG 2).
CONTRAST = """(() => {
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(
      v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = parse(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  let lowest = [99, ''];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(
      node => node.nodeType === 3 && node.data.trim());
    if (!element.checkVisibility() || !(own || element.value)) continue;
    const [a, b] = [parse(getComputedStyle(element).color), behind(element)]
      .map(luminance).sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < lowest[0]) lowest = [ratio, element.outerHTML];
  }
  return lowest;
})()"""
# What cannot be reached at the right side of the window.
OUTSIDE = """[...document.querySelectorAll('button, input, select')]
    .filter(element => element.checkVisibility()
      && !element.closest('#people')
      && element.getBoundingClientRect().right > innerWidth)
    .map(element => element.id)"""
NAMES_ARE_SEEN = """((list, box) =>
    list.clientHeight >= list.firstElementChild.offsetHeight
    && box.clientHeight >= box.scrollHeight
    )(document.querySelector('#people'), document.querySelector('#people-box'))
    """
SMALLEST_LETTERS = """Math.min(...[...document.querySelectorAll('body *')]
    .map(element => parseFloat(getComputedStyle(element).fontSize)))"""


def make_png(width=3, height=2):
    """Return the bytes of a small red picture."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xff\0\0" * width) * height
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def use_address(port):
    """Return the script that gives a page from disk another address."""
    address = f"ws://127.0.0.1:{port}/"
    return f"sessionStorage.setItem('address', '{address}')"


def tearDownModule():
    browsers.close_all()


class BrowserTest(browsers.Scenarios):
    """A running server, and tabs whose console must stay clean."""

    def setUp(self):
        self.tabs = []
        self.console_may_complain = False
        self.start()

    def start(self):
        """Start a server; from now on pages and peers go there."""
        running = serving(self.make_server())
        self.server = running.__enter__()
        self.port = self.server.port
        self.addCleanup(running.__exit__, None, None, None)

    def make_server(self):
        room = ChatRoom(port=0)
        room.diary = lambda text: None  # not between the dots of unittest
        return room

    def tearDown(self):
        for tab in self.tabs:
            tab.run("0")  # fetches what has happened meanwhile
            if not self.console_may_complain:
                self.assertEqual(tab.errors, [])
            tab.close()

    def open(self, name=None, *, disk=False, **options):
        """Open the page, from the room or from disk; join with a name."""
        url = PAGE.as_uri() if disk else f"http://127.0.0.1:{self.port}/"
        if disk:
            options["before"] = use_address(self.port)
        tab = self.browser.open(url, **options)
        self.tabs.append(tab)
        tab.wait_for(f"{STATE}.startsWith('Open')")
        if name is not None:
            self.join(tab, name)
        return tab

    def join(self, tab, name):
        """Type a name where the page puts the cursor, and Enter."""
        tab.wait_for("document.activeElement.id === 'name'")
        tab.type(name)
        tab.press("Enter")
        tab.wait_for(f"{STATE}.startsWith('Open. You are')")

    def peer(self, name=None):
        """Return somebody with a program instead of a page."""
        peer = Peer(self.port)
        self.addCleanup(peer.close)
        if name is not None:
            peer.send("type=add&ming=" + quote(name))
            peer.receive_json()
        return peer

    def say(self, tab, text, to="all"):
        """Choose who gets it, type it, press Enter."""
        tab.run(
            """to => { const select = document.getElementById('to');
            select.value = to; select.dispatchEvent(new Event('change'));
            document.getElementById('text').focus() }""",
            to,
        )
        tab.type(text)
        tab.press("Enter")

    def click(self, tab, button):
        tab.run("id => document.getElementById(id).click()", button)

    def sleep_long(self, tab, seconds=600):
        """Time passes for the page; then the network is there again."""
        tab.run(CLOCK_JUMPS, seconds)
        tab.run("window.dispatchEvent(new Event('online'))")

    def put(self, tab, field, text):
        """Put a text into a field that is too long or odd to be typed."""
        tab.run(
            """(field, text) => {
            const element = document.getElementById(field);
            element.value = text;
            element.focus(); }""",
            field,
            text,
        )

    def choose_file(self, tab, data):
        """Choose a file with these bytes."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        file = Path(folder, "file")
        file.write_bytes(data)
        tab.choose_file("#file", file)

    def click_put_back(self, tab):
        tab.run("document.querySelector('#messages button').click()")

    def wait_for_entry(self, tab, kind, text, number=1):
        tab.wait_for(f"(...all) => ({FIND})(...all) === {number}", kind, text)

    def code(self, tab):
        return tab.run(f"{STATE}.match(/#([\\da-f-]+)/)[1]")


class ConversationTest(BrowserTest):
    def test_from_the_room(self):
        self.converse(self.open("Ana"), self.open("Bo"))

    def test_from_disk(self):
        self.converse(self.open("Ana", disk=True), self.open("Bo", disk=True))

    def test_from_both(self):
        self.converse(self.open("Ana"), self.open("Bo", disk=True))

    def converse(self, ana, bo):
        """Meet, talk, whisper, send a picture, leave."""
        other = self.peer("Cyd")
        codes = {"Ana": self.code(ana), "Bo": self.code(bo)}
        self.wait_for_entry(ana, "notice", f"Bo #{codes['Bo']} came.")
        for tab in (ana, bo):
            tab.wait_for(f"({PEOPLE}).length === 3")
            people = str(tab.run(PEOPLE))
            here = tab.run("document.querySelector('h2').textContent")
            self.assertEqual(here, "Here: 3")
            for name, code in codes.items():
                self.assertIn(f"{name} #{code}", people)

        self.say(ana, SAID)
        for tab in (ana, bo):
            self.wait_for_entry(tab, "chat", SAID)
            self.wait_for_entry(tab, "chat", f"Ana #{codes['Ana']}")
        self.assertEqual(other.receive_json()["nrong"], SAID)

        self.say(bo, "only you", codes["Ana"])
        self.say(bo, "all again")
        for tab in (ana, bo):
            self.wait_for_entry(tab, "whisper", "only you")
            self.wait_for_entry(tab, "whisper", "whispers to Ana")
        self.assertEqual(other.receive_json()["nrong"], "all again")

        # A file is for everyone, whoever is chosen.
        ana.run("code => chooseReceiver(code)", codes["Bo"])
        self.choose_file(ana, make_png())
        for tab in (ana, bo):
            self.wait_for_entry(tab, "binary", "image/png")
            tab.wait_for("document.querySelector('img').naturalWidth === 3")
        who = other.receive_json()
        self.assertEqual(who["code"], codes["Ana"])
        size = len(make_png())
        self.assertEqual(
            who["nrong"], f"sends everyone a picture, {size} bytes:"
        )
        self.assertEqual(other.receive(), make_png())

        # Ana is writing to Bo while he leaves.
        self.tabs.remove(bo)
        self.assertEqual(bo.errors, [])
        bo.close()
        self.wait_for_entry(ana, "notice", f"Bo #{codes['Bo']} left.")
        self.assertNotIn("Bo", str(ana.run(PEOPLE)))
        # What was meant for Bo does not go to everyone.
        self.assertEqual(ana.run(CHOSEN), "Choose again")
        ana.type("dear Bo")
        ana.press("Enter")
        self.assertEqual(ana.run(TEXT), "dear Bo")

    def type_address(self, tab, port):
        tab.run(
            """document.getElementById('setup').open = true;
            document.getElementById('address').select()"""
        )
        tab.type(f"ws://127.0.0.1:{port}/")

    def test_wrong_address_from_disk(self):
        tab = self.browser.open(
            PAGE.as_uri(),
            before=use_address(1),  # where nobody listens
        )
        self.tabs.append(tab)
        self.console_may_complain = True
        tab.wait_for(f"{COUNTDOWN}.startsWith('Trying again in')")
        self.assertEqual(
            tab.run("document.getElementById('address').defaultValue"),
            "ws://127.0.0.1:9000/",
        )
        self.type_address(tab, self.port)
        self.click(tab, "connect")
        tab.wait_for(f"{STATE}.startsWith('Open')")
        self.assertEqual(tab.run(COUNTDOWN), "")

    def test_another_address_while_open(self):
        ana = self.open("Ana", disk=True)
        peer = self.peer("Bo")
        self.start()
        other = self.peer("Cyd")
        self.type_address(ana, self.port)
        ana.press("Enter")
        self.assertEqual(peer.receive_json()["type"], "rmove")
        self.assertEqual(other.receive_json()["name"], "Ana")
        ana.wait_for(f"({PEOPLE}).join().includes('Cyd')")
        self.assertNotIn("Bo", str(ana.run(PEOPLE)))

    def test_a_new_name(self):
        ana, bo = self.open("Ana"), self.open("Bo")
        bo.run(
            """document.getElementById('setup').open = true;
            document.getElementById('name').select()"""
        )
        bo.type("  Bobby")  # without the blanks, decides the room
        bo.press("Enter")
        for tab in (ana, bo):
            self.wait_for_entry(tab, "notice", "is now called Bobby")
            tab.wait_for(f"({PEOPLE}).length === 2")
        bo.wait_for(f"{STATE}.includes('You are Bobby')")
        name = bo.run("document.getElementById('name').value")
        self.assertEqual(name, "Bobby")

    def test_the_name_comes_first(self):
        """Who has not pressed Join cannot speak; the cursor stands there."""
        bo = self.peer("Bo")
        ana = self.open()
        for button in ("send", "choose-file", "three", "long"):
            self.assertTrue(
                ana.run("id => document.getElementById(id).disabled", button)
            )
        self.say(ana, "Hello")
        ana.run("document.getElementById('name').focus()")
        self.join(ana, "Ana")
        self.assertEqual(ana.run(TEXT), "Hello")
        ana.press("Enter")
        self.assertEqual(bo.receive_json()["name"], "Ana")
        self.assertEqual(bo.receive_json()["nrong"], "Hello")

    def test_you_stand_at_the_top_of_a_list_that_can_be_searched(self):
        peers = [self.peer(f"Person {letter}") for letter in "ABCDEFGH"]
        ana = self.open("Ana", width=360, height=640)
        peers[0].receive_json()
        ana.wait_for(f"({PEOPLE}).length === 9")
        you = f"Ana #{self.code(ana)} (you)"
        self.assertEqual(ana.run(PEOPLE)[0], you)
        self.assertEqual(ana.run(OUTSIDE), [])
        self.assertTrue(ana.run(NAMES_ARE_SEEN))
        ana.run(
            "for (const fold of document.querySelectorAll('details'))"
            " fold.open = true"
        )
        self.assertTrue(ana.run(NAMES_ARE_SEEN))
        for sought, found in (("son f", 1), ("PERSON", 8), (you[:6], 1)):
            with self.subTest(sought):
                ana.run("document.getElementById('find').select()")
                ana.type(sought)
                ana.wait_for(f"({PEOPLE}).length === {found}")
        # With fewer people there is nothing to search, and nobody hidden.
        peers[0].close()
        ana.wait_for(f"({PEOPLE}).length === 8")
        self.assertFalse(
            ana.run("document.getElementById('find').checkVisibility()")
        )

    def test_half_an_emoji(self):
        """It is no text, and would throw at each attempt to send it."""
        ana, bo = self.open(), self.peer("Bo")
        self.put(ana, "name", "Ana" + HALF)
        ana.press("Enter")
        ana.wait_for(f"{STATE}.startsWith('Open. You are Ana\ufffd')")
        self.put(ana, "text", "half" + HALF)
        ana.press("Enter")
        self.wait_for_entry(ana, "chat", "half\ufffd")
        self.assertEqual(bo.receive_json()["name"], "Ana\ufffd")
        ana.reload()
        ana.wait_for(f"{STATE}.startsWith('Open. You are Ana\ufffd')")

    def test_behind_a_proxy(self):
        """It gives the room a place below its own, as in a company."""
        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        proxy.room = self.port
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        self.addCleanup(proxy.server_close)
        self.addCleanup(proxy.shutdown)
        tab = self.browser.open(
            f"http://127.0.0.1:{proxy.server_port}/chat/?a#b"
        )
        self.tabs.append(tab)
        self.join(tab, "Ana")

    def test_by_keyboard_alone(self):
        tab = self.open("Ana")
        tab.type("Hello")
        tab.press("Enter")
        self.wait_for_entry(tab, "chat", "Hello")
        reached = []
        focused = "document.activeElement.id || document.activeElement.tagName"
        while len(reached) < 30 and "three" not in reached:
            tab.press("Tab")
            reached.append(tab.run(focused))
        self.assertIn("send", reached)
        self.assertIn("choose-file", reached)
        tab.press("Enter")
        self.wait_for_entry(tab, "chat", "3 of 3")


class LinkedTest(BrowserTest):
    """Two rooms, which are one by --redis."""

    def setUp(self):
        self.redis = ScriptedRedis()
        self.addCleanup(self.redis.__exit__)
        super().setUp()

    def make_server(self):
        room = super().make_server()
        redis.link(room, redis.parse_address(self.redis.address))
        return room

    converse = ConversationTest.converse

    def test_a_tab_in_each(self):
        ana = self.open("Ana")
        self.start()  # the other room, for those who come now
        self.converse(ana, self.open("Bo"))


class Proxy(http.server.BaseHTTPRequestHandler):
    """A reverse proxy: below /chat/ it passes all on to the room."""

    def do_GET(self):
        path = self.path[len("/chat") :]
        if not self.path.startswith("/chat/"):
            self.send_error(404)
            return
        room = socket.create_connection(("127.0.0.1", self.server.room))
        with room:
            head = f"GET {path} HTTP/1.1\n{self.headers}"
            room.sendall(head.replace("\n", "\r\n").encode())
            back = threading.Thread(target=self.pipe, args=(room, self.request))
            back.start()
            self.pipe(self.request, room)
            back.join(DEADLINE)
        self.close_connection = True

    def pipe(self, source, target):
        """Pass on all bytes of one direction, and its end."""
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    break
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def log_message(self, *_):
        pass


class ForeignTest(BrowserTest):
    """What others send is shown, and does nothing."""

    def test_markup_is_text(self):
        ana = self.open("Ana")
        eve = self.peer(MARKUP)
        eve.send("nr=" + quote(MARKUP) + "&key=all")
        eve.send("nr=" + quote(MARKUP) + "&key=" + self.code(ana))
        eve.send(MARKUP)
        self.wait_for_entry(ana, "chat", MARKUP)
        self.wait_for_entry(ana, "whisper", MARKUP)
        self.wait_for_entry(ana, "raw", MARKUP)
        self.wait_for_entry(ana, "notice", MARKUP[:20] + " #")
        self.assertEqual(ana.run("document.images.length"), 0)
        self.assertEqual(ana.run("typeof hacked"), "undefined")
        self.assertEqual(
            ana.run("document.querySelector('.text:not([dir=auto])')"), None
        )

    def test_binary(self):
        ana = self.open("Ana")
        bo = self.peer()
        for kind, head in HEADS.items():
            bo.send(head + bytes(9))
            # Such a picture has no more than its head.
            self.wait_for_entry(ana, "binary", kind)
        for data in (SVG, b"", bytes(range(256)), b"<script>hacked=1</script>"):
            with self.subTest(data=data[:9]):
                bo.send(data)
                self.wait_for_entry(
                    ana, "binary", f"{len(data)} bytes. Save it"
                )
                # The link gives back the very bytes, and only for saving.
                self.assertEqual(
                    ana.run(
                        """(() => {
                        const link = [...document.links].pop();
                        return [link.protocol, link.download !== '']; })()"""
                    ),
                    ["blob:", True],
                )
        ana.wait_for(f"({FIND})('binary', 'It is broken') === {len(HEADS)}")
        self.assertEqual(ana.run("document.links.length"), len(HEADS) + 4)
        self.assertEqual(ana.run("document.images.length"), 0)
        self.assertEqual(ana.run("typeof hacked"), "undefined")

    def test_the_list_is_bounded(self):
        ana = self.open("Ana")
        bo = self.peer()
        bo.send(make_png())
        self.wait_for_entry(ana, "binary", "image/png")
        ana.run(NOTE_REVOKED)
        ana.run("window.picture = document.images[0].src")
        for number in range(600):
            bo.send(f"message {number}.")
        self.wait_for_entry(ana, "raw", "message 599.")
        self.assertEqual(
            ana.run("document.getElementById('messages').childElementCount"),
            500,
        )
        self.assertTrue(ana.run("revoked.includes(picture)"))
        # The newest is in sight.
        ana.wait_for("following")
        ana.wait_for(
            """(() => { const list = document.getElementById('messages');
            return list.scrollHeight - list.scrollTop - list.clientHeight < 9
            })()"""
        )

    def test_bytes_are_bounded(self):
        """The oldest picture's are let go; its entry stays, and says so."""
        ana = self.open("Ana")
        bo = self.peer()
        ana.run(NOTE_REVOKED)
        sizes = [1, 2**20, *[2**20] * 63, 5, 9]
        for number, size in enumerate(sizes, 1):
            bo.send(make_png().ljust(size, b"\0"))
            bo.receive()
            if number % 8 == 0:  # or the room would take her for asleep
                ana.wait_for(f"{ENTRIES}.length === {number} + 2")
        self.wait_for_entry(ana, "binary", "Its bytes were let go", 2)
        for number, size in ((2, len(make_png())), (3, 2**20)):
            entry = ana.run(f"{ENTRIES}[{number}].textContent")
            self.assertIn(f"{size:,} bytes. Its bytes were let go", entry)
        ana.wait_for("document.images.length === 65")
        ana.wait_for("document.links.length === 65")
        self.assertEqual(ana.run("revoked.length"), 2)


class RelayTest(BrowserTest):
    """A server that is not the room: all get what one sends, as it came."""

    def make_server(self):
        return Server(port=0)

    def fake(self, peer, **fields):
        """Say what looks like one of the room's messages."""
        peer.send(json.dumps({"code1": "all", "time": "11:22:33", **fields}))

    def fake_room(self, *people):
        """Open a tab that takes a peer for the room; return both."""
        ana, bo = self.open(), self.peer()
        ana.type("Ana")
        ana.press("Enter")
        bo.receive()
        own = {"code": "7", "name": "Ana"}
        self.fake(bo, type="madd", **own, users=[own, *people])
        ana.wait_for(f"{STATE}.startsWith('Open. You are Ana #7')")
        return ana, bo

    def test_it_can_be_used(self):
        """Join is never answered, and yet one can speak then."""
        ana = self.open()
        ana.type("Ana")
        ana.press("Enter")
        ana.wait_for(f"{STATE} === 'Open. Your name was sent.'")
        self.say(ana, "Hello")
        self.wait_for_entry(ana, "raw", "nr=Hello&key=all")

    def test_what_is_not_the_rooms_is_shown_as_it_came(self):
        ana, bo = self.fake_room()
        raw = [
            "just a text", "", "42", "null", "[]", '{"type": "add"}',
            '{"nrong": 1, "code": "1", "code1": "all", "time": ""}',
            '{"nrong": "x", "code": true, "code1": "all", "time": ""}',
            '{"nrong": "x", "code": "1", "code1": "ALL", "time": ""}',
            '{"nrong": "x", "code": "all", "code1": "1", "time": ""}',
            '{"type": "madd", "name": "x", "code": "9", "time": "",'
            ' "users": []}',
            '{"type": "rmove", "nrong": {}, "time": ""}',
            '{"type": "rmove", "nrong": "all", "time": ""}',
        ]  # fmt: skip
        for code in ("all", "", "0", "07", "-1", "1e3", " 9", "9\n", "\u0669"):
            add = {"type": "add", "name": "x", "code": code, "time": ""}
            raw.append(json.dumps(add))
        for message in raw:
            bo.send(message)
        self.wait_for_entry(ana, "raw", "", len(raw) + 1)
        self.assertEqual(ana.run(TEXTS)[1:], raw)
        self.assertEqual(ana.run(PEOPLE), ["Ana #7 (you)"])
        receivers = "[...document.getElementById('to')].map(o => o.value)"
        self.assertEqual(ana.run(receivers), ["", "all", "7"])

    def test_nothing_is_obeyed_before_the_room_knows_us(self):
        """Nobody there may take a tab over: it is all raw until then."""
        ana, bo = self.open(), self.peer()
        one = {"code": "9", "name": "Eve"}

        def fake_all():
            self.fake(bo, type="add", **one)
            self.fake(bo, code="9", nrong="Hello")
            self.fake(bo, type="rmove", nrong="9")

        self.fake(bo, type="madd", **one, users=[one])
        fake_all()
        self.wait_for_entry(ana, "raw", '"time": "11:22:33"', 4)
        ana.type("Ana")
        ana.press("Enter")
        ana.wait_for(f"{STATE} === 'Open. Your name was sent.'")
        fake_all()
        self.wait_for_entry(ana, "raw", '"time": "11:22:33"', 7)
        self.assertEqual(ana.run(PEOPLE), [])
        self.fake(bo, type="madd", **one, users=[one])
        ana.wait_for(f"{STATE}.startsWith('Open. You are Eve #9')")
        fake_all()
        self.wait_for_entry(ana, "notice", "Eve #9 (you) left.")
        self.wait_for_entry(ana, "raw", '"time": "11:22:33"', 7)

    def test_markup_in_the_rooms_words(self):
        ana, bo = self.fake_room()
        self.fake(bo, type="add", name=MARKUP, code="8", time=MARKUP)
        self.fake(bo, nrong=MARKUP, code="8", time=MARKUP)
        self.wait_for_entry(ana, "notice", MARKUP)
        self.wait_for_entry(ana, "chat", MARKUP[-8:])
        self.assertEqual(ana.run("document.images.length"), 0)
        self.assertEqual(ana.run("typeof hacked"), "undefined")

    def test_the_room_speaks(self):
        """In nobody's name: its "code" is false; and it may speak to one."""
        ana, bo = self.fake_room()
        self.fake(bo, nrong="Hello", code=False)
        self.fake(bo, nrong="Hello", code=False, code1="9")
        whisper = "The room whispers to you only · 11:22:33Hello"
        self.wait_for_entry(ana, "whisper", whisper)
        self.wait_for_entry(ana, "chat", "The room · 11:22:33Hello")
        self.wait_for_entry(ana, "notice", "This did not come back", 0)

    def test_a_crowd_and_a_rush(self):
        """Its work grows with the number of people, not with its square."""
        crowd = [{"code": str(n), "name": ""} for n in range(1000, 13000)]
        begin = time.monotonic()
        ana, bo = self.fake_room(*crowd)
        self.wait_for_count(ana, 12001)
        self.assertLess(time.monotonic() - begin, CROWD_SECONDS)
        self.assertEqual(len(ana.run(PEOPLE)), 101)
        self.assertEqual(ana.run(PEOPLE)[100], "… 11901 more: search")
        self.assertEqual(ana.run("document.getElementById('to').length"), 102)
        begin = time.monotonic()
        for number in range(13000, 14200):
            self.fake(bo, type="add", code=str(number), name=f"N {number}")
        self.wait_for_entry(ana, "notice", "N 14199 #14199 came.")
        self.wait_for_count(ana, 13201)
        self.assertLess(time.monotonic() - begin, CROWD_SECONDS)

    def wait_for_count(self, tab, number):
        count = "document.getElementById('count').innerText"
        tab.wait_for(f"{count} === '{number}'")

    def test_who_is_not_shown_is_found(self):
        crowd = [
            {"code": str(number), "name": f"Name {number}"}
            for number in range(1000, 1300)
        ]
        ana, bo = self.fake_room(*crowd)
        ana.wait_for(f"({PEOPLE}).length === 101")
        ana.run("document.getElementById('find').focus()")
        ana.type("name 1250")
        ana.wait_for(f"({PEOPLE}).length === 1")
        ana.run("document.querySelector('#people button').click()")
        ana.run("document.getElementById('find').select()")
        ana.type("name 11")
        ana.wait_for(f"({PEOPLE}).length === 101")
        # Who was chosen stays chosen, and in sight.
        self.assertEqual(ana.run(PEOPLE)[100], "Name 1250 #1250")
        pressed = "document.querySelector('[aria-pressed=true]').innerText"
        self.assertEqual(ana.run(pressed), "Name 1250 #1250")
        self.put(ana, "text", "psst")
        ana.press("Enter")
        self.assertEqual(bo.receive()[:15], '{"code1": "all"')
        self.assertEqual(bo.receive(), "nr=psst&key=1250")
        # And when that one has left, nobody else is meant.
        self.fake(bo, type="rmove", nrong="1250")
        self.wait_for_entry(ana, "notice", "Name 1250 #1250 left.")
        self.assertEqual(ana.run(CHOSEN), "Choose again")

    def test_whoever_comes_takes_the_focus_from_nobody(self):
        ana, bo = self.fake_room({"code": "8", "name": "Cyd"})
        ana.wait_for(f"({PEOPLE}).length === 2")
        ana.run("document.querySelectorAll('#people button')[1].focus()")
        self.fake(bo, type="add", code="9", name="Dan")
        self.fake(bo, type="rmove", nrong="7")
        ana.wait_for(f"({PEOPLE}).join() === 'Cyd #8,Dan #9'")
        focused = ana.run("document.activeElement.innerText")
        self.assertEqual(focused, "Cyd #8")

    def test_in_the_background(self):
        """There the screen has no frames; what comes is shown all the same."""
        ana, bo = self.open(), self.peer()
        ana.hide()
        bo.send("Hello")
        self.wait_for_entry(ana, "raw", "Hello")
        ana.wake()


class ExperimentTest(BrowserTest):
    def test_three_at_once(self):
        ana, bo = self.open("Ana"), self.open("Bo")
        self.click(ana, "three")
        for tab in (ana, bo):
            self.wait_for_entry(tab, "chat", "3 of 3")
            self.assertEqual(tab.run(TEXTS), ["1 of 3", "2 of 3", "3 of 3"])

    def test_70000_letters(self):
        ana, bo = self.open("Ana"), self.open("Bo")
        peer = self.peer()
        self.click(ana, "long")
        for tab in (ana, bo):
            self.wait_for_entry(tab, "chat", "70,000 characters")
            self.assertEqual(len(tab.run(TEXTS)[0]), 400)
        self.assertEqual(len(peer.receive_json()["nrong"]), 70000)


class RefusalTest(BrowserTest):
    """What the room does not pass on: it says so, and no text is lost."""

    def test_nobody_to_whisper_to(self):
        ana = self.open("Ana")
        ana.run("addPerson('77', 'Who has left')")
        ana.wait_for(f"({PEOPLE}).length === 2")
        self.say(ana, "psst", "77")
        said = "There is nobody with the code 77 here."
        self.wait_for_entry(ana, "whisper", "The room whispers to you only")
        self.wait_for_entry(ana, "whisper", said)
        self.wait_for_entry(ana, "notice", "This did not come back")
        # What was meant for one must not go to all.
        ana.run("chooseReceiver('all')")
        self.click_put_back(ana)
        self.assertEqual(ana.run(TEXT), "psst")
        self.assertEqual(ana.run(CHOSEN), "Choose again")

    def test_what_the_room_says_to_all_refuses_nothing(self):
        """It is shown as the room's; what is under way is not given back."""
        ana = self.open("Ana")
        self.server.call_soon(lambda: self.server.announce("It is late."))
        self.wait_for_entry(ana, "chat", "The room")
        self.wait_for_entry(ana, "chat", "It is late.")
        ana.run("unheard.push({message: '', text: 'under way', to: 'all'})")
        self.server.call_soon(lambda: self.server.announce("It is later."))
        self.wait_for_entry(ana, "chat", "It is later.")
        self.assertEqual(ana.run("unheard.length"), 1)

    def test_too_long_once_it_is_json(self):
        """There a "%01" is "\\u0001", twice as long."""
        ana = self.open("Ana")
        text = "\x01" * 200000
        self.put(ana, "text", text)
        ana.press("Enter")
        self.wait_for_entry(ana, "whisper", "That is too long")
        self.wait_for_entry(ana, "notice", "This did not come back")
        self.click_put_back(ana)
        self.assertEqual(ana.run(TEXT), text)

    def test_very_many_escapes(self):
        """They come back raw; what is said afterwards is still told apart."""
        ana = self.open("Ana")
        many = "ä" * 110000
        self.put(ana, "text", many)
        ana.press("Enter")
        self.wait_for_entry(ana, "raw", "nr=%C3%A4")
        ana.run("code => chooseReceiver(code)", self.code(ana))
        self.put(ana, "text", "x" + many)
        ana.press("Enter")
        self.wait_for_entry(ana, "whisper", "That is too much to be whispered.")
        self.click_put_back(ana)
        self.assertEqual(ana.run(f"{TEXT}[0]"), "x")
        self.put(ana, "text", "")
        self.say(ana, "Hello")
        self.wait_for_entry(ana, "chat", "Hello")
        self.click(ana, "disconnect")
        ana.wait_for(f"{STATE}.startsWith('Closed')")
        self.wait_for_entry(ana, "notice", "This did not come back")


class StateTest(BrowserTest):
    """What becomes of the connection; the room is a process of its own."""

    def start(self, *options):
        self.process = Process("0", *options)
        self.addCleanup(self.process.__exit__)
        self.port = self.process.port

    def stop_server(self):
        self.console_may_complain = True  # about every vain attempt
        self.process.signal(signal.SIGTERM)

    def restart_server(self):
        """Stop it, and start one where the old one was."""
        self.stop_server()
        self.process.end()  # or its port would still be taken
        self.process = Process(str(self.port))
        self.addCleanup(self.process.__exit__)

    def test_the_server_stops_and_comes_back(self):
        ana = self.open("Ana", before=NO_JITTER)
        self.stop_server()
        ana.wait_for(
            f"{COUNTDOWN} === 'Trying again in 2 s.'"
            f" && /Closed: code 1001.*the room closes/.test({STATE})"
        )
        self.wait_for_entry(ana, "notice", "code 1001")
        self.wait_for_entry(ana, "notice", "the room closes")
        self.assertTrue(ana.run("document.getElementById('send').disabled"))
        ana.type("written meanwhile")
        ana.press("Enter")
        self.sleep_long(ana)
        ana.wait_for(
            f"{COUNTDOWN} === 'Trying again in 4 s.'"
            f" && {STATE}.includes('code 1006')"
        )
        self.process.end()  # or its port would still be taken
        with Process(str(self.port)):
            self.click(ana, "connect")
            ana.wait_for(f"{STATE}.startsWith('Open. You are Ana')")
            self.assertEqual(ana.run(COUNTDOWN), "")
            ana.run("document.getElementById('text').focus()")
            ana.press("Enter")
            self.wait_for_entry(ana, "chat", "written meanwhile")

    def test_disconnect_and_connect(self):
        ana, bo = self.open("Ana"), self.open("Bo")
        self.click(ana, "disconnect")
        ana.wait_for(f"{STATE}.includes('Closed: code 1000')")
        self.wait_for_entry(bo, "notice", "left.")
        self.assertEqual(ana.run(COUNTDOWN), "")
        for button in ("send", "choose-file", "three", "long", "disconnect"):
            self.assertTrue(
                ana.run("id => document.getElementById(id).disabled", button)
            )
        self.click(ana, "connect")
        ana.wait_for(f"{STATE}.startsWith('Open. You are Ana')")
        self.wait_for_entry(bo, "notice", "came.")

    def test_the_name_is_remembered_in_the_tab(self):
        ana = self.open("Ana")
        code = self.code(ana)
        ana.reload()
        ana.wait_for(
            f"code => {STATE}.startsWith('Open. You are Ana')"
            f" && !{STATE}.includes('#' + code)",
            code,
        )

    def test_a_tab_that_slept_connects_at_once(self):
        """Its countdown goes on by the clock; old ticks are not made up."""
        ana = self.open("Ana", before=NO_JITTER)
        ana.run(WATCH_COUNTDOWN)
        self.stop_server()
        self.wait_for_countdown(ana, 2)
        ana.sleep()
        due = time.monotonic() + 2.1
        self.restart_server()
        wait_until(lambda: time.monotonic() > due, "the end of the countdown")
        ana.wake()
        ana.wait_for(f"{STATE}.startsWith('Open. You are Ana')")
        self.assertNotIn("Trying again in 1 s.", ana.run("seen"))

    def test_it_looks_at_the_clock_when_something_wakes_it(self):
        """Even if no tick of its own ever comes: each time it tries again."""
        ana = self.open("Ana", before=NO_TICKS + NO_JITTER)
        self.stop_server()
        self.wait_for_countdown(ana, 2)
        for target, wake, seconds in (
            ("document", "visibilitychange", 4),
            ("window", "online", 8),
            ("window", "pageshow", 16),
        ):
            with self.subTest(wake):
                ana.run(CLOCK_JUMPS, 600)
                ana.run(f"{target}.dispatchEvent(new Event('{wake}'))")
                self.wait_for_countdown(ana, seconds)

    def test_not_all_come_back_at_the_same_moment(self):
        """A half less, or a half more; and the countdown is true."""
        tab = self.open(before=f"{NO_TICKS} Math.random = () => window.luck")
        tab.run("window.luck = 0")
        self.stop_server()
        self.wait_for_countdown(tab, 1)
        for luck, passed, left, seconds in (
            (0.999, 0.1, 1, 6),  # 4 and a half of it
            (0.5, 4.9, 1, 8),
        ):
            with self.subTest(luck=luck):
                tab.run("luck => window.luck = luck", luck)
                self.sleep_long(tab, passed)
                self.wait_for_countdown(tab, left)
                self.sleep_long(tab, 0.9)
                self.wait_for_countdown(tab, seconds)

    def wait_for_countdown(self, tab, seconds):
        words = f"Trying again in {seconds} s."
        tab.wait_for(f"words => {COUNTDOWN} === words", words)

    @unittest.skipUnless(hasattr(signal, "SIGSTOP"), "no SIGSTOP here")
    def test_what_nobody_heard_is_not_lost(self):
        """A server that sleeps: the kernel takes a text, nobody reads it."""
        ana = self.open("Ana")
        self.process.signal(signal.SIGSTOP)
        self.say(ana, "Are you there?")
        self.assertEqual(ana.run(TEXT), "")
        self.sleep_long(ana)
        ana.wait_for(f"{COUNTDOWN}.startsWith('Sent, but not answered for 6')")
        self.process.signal(signal.SIGCONT)
        self.wait_for_entry(ana, "chat", "Are you there?")
        ana.wait_for(f"{COUNTDOWN} === ''")

        self.process.signal(signal.SIGSTOP)
        self.say(ana, "And now?")
        ana.run("for (let i = 0; i < 15; i += 1) say('x'.repeat(1000000))")
        self.sleep_long(ana)
        ana.wait_for(f"{COUNTDOWN}.startsWith('Not sent for 6')")
        self.console_may_complain = True
        self.process.signal(signal.SIGKILL)
        self.wait_for_entry(ana, "notice", "This did not come back", 16)
        self.click(ana, "disconnect")
        self.sleep_long(ana)
        self.assertEqual(ana.run(COUNTDOWN), "")
        self.put(ana, "text", "Oh. ")
        self.click_put_back(ana)
        self.assertEqual(ana.run(TEXT), "Oh. And now?")

    def test_too_long_a_text_stays(self):
        """An "ä" is six bytes there: %C3%A4."""
        ana = self.open("Ana")
        text = "ä" * 2**18
        self.put(ana, "text", text)
        ana.press("Enter")
        self.wait_for_entry(ana, "notice", "Not sent: it has 1,572,875 bytes")
        self.assertEqual(ana.run(TEXT), text)
        self.put(ana, "text", "x" * 1000000)
        ana.press("Enter")
        self.wait_for_entry(ana, "chat", "1,000,000 characters")
        self.assertEqual(ana.run(TEXT), "")

    def test_too_long_for_this_room(self):
        """It takes less than others: 1009, but the text is not lost."""
        self.start("--max-message", "1000")
        ana = self.open("Ana")
        self.say(ana, "ä" * 200)
        self.wait_for_entry(ana, "notice", "Closed: code 1009")
        self.wait_for_entry(ana, "notice", "1000 bytes")
        self.wait_for_entry(ana, "notice", "This did not come back")
        self.click_put_back(ana)
        self.assertEqual(ana.run(TEXT), "ä" * 200)

    def test_too_big_a_file(self):
        ana = self.open("Ana")
        self.choose_file(ana, bytes(2**20 + 1))
        self.wait_for_entry(ana, "notice", "Not sent: it has 1,048,577 bytes")
        self.choose_file(ana, bytes(2**20))
        self.wait_for_entry(ana, "chat", "sends everyone a file, 1,048,576")
        self.wait_for_entry(ana, "binary", "1,048,576 bytes. Save it")


class LooksTest(BrowserTest):
    def test_nothing_is_loaded_from_elsewhere(self):
        ana = self.open("Ana")
        loaded = ana.run("performance.getEntriesByType('resource').length")
        self.assertEqual(loaded, 0)
        source = PAGE.read_text("utf-8")
        self.assertEqual([w for w in FORBIDDEN if w in source], [])

    def test_all_of_it_is_in_a_landmark(self):
        """So a screen reader can jump there."""
        ana = self.open("Ana")
        self.assertEqual(ana.count_role("main"), 1)
        outside = """[...document.body.children].map(element =>
            element.tagName).filter(name => name !== 'SCRIPT')"""
        self.assertEqual(ana.run(outside), ["HEADER", "MAIN"])

    def test_large_letters_and_contrast(self):
        ana = self.open("Ana")
        bo = self.peer("Bo")
        bo.send("nr=psst&key=" + self.code(ana))
        bo.send(bytes(5))
        bo.send("raw")
        self.wait_for_entry(ana, "raw", "raw")
        ana.run("document.getElementById('setup').open = true")
        for state in ("Open", "Closed"):
            for scheme in ("light", "dark"):
                with self.subTest(state=state, scheme=scheme):
                    ana.color_scheme(scheme)
                    ratio, where = ana.run(CONTRAST)
                    self.assertGreaterEqual(ratio, 4.5, where)
            self.click(ana, "disconnect")
            ana.wait_for(f"{STATE}.startsWith('Closed')")
        self.assertGreaterEqual(ana.run(SMALLEST_LETTERS), 18)

    def test_narrow_and_wide(self):
        for width, height in ((360, 640), (1280, 720), (320, 400)):
            with self.subTest(width=width):
                ana = self.open("W" * 20, width=width, height=height)
                bo = self.peer("M" * 20)
                bo.send("nr=" + "m" * 399 + "&key=" + self.code(ana))
                bo.send(make_png(2000, 20))
                bo.send("raw" * 99)
                self.wait_for_entry(ana, "raw", "raw")
                ana.run("document.getElementById('setup').open = true")
                ana.run("document.getElementById('experiments').open = true")
                for state in ("Open", "Closed"):
                    ana.wait_for(f"state => {STATE}.startsWith(state)", state)
                    fits = ana.run(
                        """['html', 'body', '#messages'].map(
                        name => document.querySelector(name)).map(
                        element => element.scrollWidth - element.clientWidth)"""
                    )
                    self.assertEqual(fits, [0, 0, 0])
                    outside = ana.run(OUTSIDE)
                    self.assertEqual(outside, [])
                    if state == "Open":  # afterwards nobody is there
                        self.assertTrue(ana.run(NAMES_ARE_SEEN))
                    self.click(ana, "disconnect")
                bo.close()


browsers.in_each_browser(globals())

if __name__ == "__main__":
    unittest.main()
