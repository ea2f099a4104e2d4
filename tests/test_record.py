"""--record: what is written down of each turn, and what is not.

The server is driven turn by turn, in the test's own thread, so that the same
bytes always give the same lines. Lines are looked at as the page gets them:
with their frames explained.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import codec
import lessons.record
import server
from client import Client
from codec import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode_frame
from lessons import trace
from lessons.bits import explained
from lessons.observer import Observer, Several
from lessons.record import Record, Recording
from lessons.slow import shrink_buffers
from lessons.stream import MAX_END, MAX_KEPT, MAX_PIECES, Stream
from lessons.trace import Trace
from server import ChatRoom, Server
from tests.hostile import ByTurns, connect, request
from tests.support import (
    DEADLINE,
    KEY,
    MASKING_KEY,
    RESETS,
    ROOT,
    Process,
    reset,
    side_by_side,
    wait_until,
)
from tests.test_fuzz import nonsense

REQUEST = request()
HELLO = encode_frame(TEXT, b"Hello", MASKING_KEY)
SIZES = (0, 125, 126, 65535, 65536)
EVERYBODY_HEARS = encode_frame(TEXT, b"Hello")  # not masked


def setUpModule():
    # Turns that wait for nothing shall not cost half a second each, and all
    # of them shall be shown, however fast they follow.
    global patches
    patches = contextlib.ExitStack()
    patch = mock.patch.multiple
    patches.enter_context(patch(server, PATIENCE=0.02, TURN_SECONDS=DEADLINE))
    patches.enter_context(patch(lessons.record, SHOWN_AT_ONCE=1_000_000))


def tearDownModule():
    patches.close()


class Watched(ByTurns):
    """A server whose turns are written down, and sockets that talk to it.

    It is itself the sink of the record: raw has the lines as they came.
    """

    REQUEST = REQUEST

    def __init__(self, kind=Server, **options):
        super().__init__(kind(port=0, **options))
        self.raw = []
        self.taken = 1  # of those lines, the header first
        self.closed = False
        self.server.diary = lambda text: None
        self.server.observer = self.record = Record(self.server, [self])

    def put(self, line, must):
        self.raw.append(line)

    def close(self):
        self.closed = True

    def open(self, buffer=0):
        """Connect and open a WebSocket; forget the lines till then."""
        sock = super().open(buffer)
        self.lines()
        return sock

    def turn(self):
        """Let the server take a turn; return its line, or None."""
        super().turn()
        lines = self.lines()
        return lines[-1] if lines else None

    def hang_up(self, sock):
        """Read all that has come, as else it would be a reset; close."""
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while sock.recv(2**20):
                pass
        sock.close()
        return self.turn()

    def lines(self):
        """Return the lines that are new, as the page gets them."""
        new = [json.loads(line) for line in self.raw[self.taken :]]
        self.taken = len(self.raw)
        return [explained(line) if "turn" in line else line for line in new]

    def user(self, key=1):
        return self.server.users[key]


def events(line, what):
    return [event for event in line["events"] if event["what"] == what]


def texts(line, what="recv"):
    return [event["text"] for event in events(line, what)]


# ---- how bytes divide into frames -------------------------------------------


def make_header(opcode, size, key=b"", fin=True):
    header = bytes([fin << 7 | opcode])
    mask = bool(key) << 7
    if size < 126:
        header += bytes([mask | size])
    elif size < 2**16:
        header += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        header += bytes([mask | 127]) + size.to_bytes(8, "big")
    return header + key


def make_frame(opcode, size, key=b"", fin=True):
    """Return (header, payload as it travels) of a frame."""
    payload = (b"\x5a\xc3\x01" * (size // 3 + 1))[:size]
    return make_header(opcode, size, key, fin), payload


def all_frames(sizes):
    """Return frames of each kind and size, masked and not, in fragments."""
    frames = []
    for key in (b"", MASKING_KEY):
        for size in sizes:
            frames += [make_frame(code, size, key) for code in (TEXT, BINARY)]
            frames.append(make_frame(TEXT, size, key, False))
            if size < 126:
                frames += [make_frame(c, size, key) for c in (PING, PONG, 3)]
            frames.append(make_frame(CONTINUATION, size, key, False))
            frames.append(make_frame(CONTINUATION, size, key))
    return [*frames, make_frame(CLOSE, 2, MASKING_KEY)]


def expected(frames):
    """Return what pieces of them should hold."""
    return [
        (head, load[:MAX_KEPT], load[-MAX_END:], len(head + load))
        for head, load in frames
    ]


def joined(frames):
    return b"".join(head + load for head, load in frames)


def cut(data, places):
    places = [0, *places, len(data)]
    return [data[a:b] for a, b in zip(places, places[1:])]


def feed(reads, most=10**6):
    """Return the pieces that a Stream makes of reads, how many, itself."""
    stream, pieces, count = Stream(), [], 0
    for read in reads:
        new, more = stream.feed(read, most)
        pieces += [(p.head, p.start, p.end, p.size) for p in new]
        count += more
    return pieces, count, stream


class Division(unittest.TestCase):
    def check(self, frames, reads):
        pieces, count, stream = feed(reads)
        self.assertEqual(pieces, expected(frames))
        self.assertEqual(count, len(frames))
        self.assertEqual((stream.rest, stream.missing), (b"", 0))

    def test_whole(self):
        frames = all_frames(SIZES)
        self.check(frames, [joined(frames)])

    def test_byte_by_byte(self):
        frames = all_frames((0, 125, 126))
        self.check(frames, [bytes([byte]) for byte in joined(frames)])

    def test_split_at_every_byte(self):
        for frame in all_frames((0, 1, 125, 126)):
            data = joined([frame])
            for at in range(len(data) + 1):
                self.check([frame], cut(data, [at]))

    def test_a_large_one_in_pieces(self):
        for size in SIZES[-2:]:
            frame = make_frame(BINARY, size, MASKING_KEY)
            data = joined([frame])
            odd = [*range(20), *range(20, len(data), 4099), len(data) - 1]
            for place in odd:
                self.check([frame], cut(data, [place]))
            self.check([frame], cut(data, odd))

    def test_random_cuts(self):
        chance = random.Random(6455)
        frames = all_frames((0, 1, 125, 126, 300))
        data = joined(frames)
        for _ in range(100):
            count = chance.randrange(40)
            self.check(frames, cut(data, sorted(
                chance.randrange(len(data)) for _ in range(count)
            )))  # fmt: skip

    def test_bytes_trailing(self):
        frames = all_frames((0, 126))
        for tail, rest, missing in (
            (b"\x81", b"\x81", 0),
            (HELLO[:5], HELLO[:5], 0),
            (b"\x82\xfe\x01", b"\x82\xfe\x01", 0),
            (HELLO[:6], b"", 5),
            (HELLO[:10], b"", 1),
            (make_header(BINARY, 2**40), b"", 2**40),
        ):
            with self.subTest(tail):
                pieces, count, stream = feed([joined(frames) + tail])
                self.assertEqual(pieces, expected(frames))
                self.assertEqual(count, len(frames))
                self.assertEqual((stream.rest, stream.missing), (rest, missing))

    def test_a_few_are_wanted_and_all_are_counted(self):
        frames = [make_frame(BINARY, size) for size in range(10)]
        data = joined(frames)
        for most in (0, 1, 2, 8, 9, 10, 11):
            with self.subTest(most):
                pieces, count, _ = feed([data], most)
                self.assertEqual(pieces, expected(frames)[:most])
                self.assertEqual(count, 10)
                # And when the first of them has begun before.
                begun, count, _ = feed(cut(HELLO + data, [8]), most)
                self.assertLessEqual(len(begun), most)
                self.assertEqual(begun[1:], pieces[: max(0, most - 1)])
                self.assertEqual(count, 11)

    def test_the_trace_sees_the_same(self):
        frames = all_frames((0, 1, 125, 126, 300))
        frames = [f for f in frames[:-1] if f[0][1] > 127 and f[0][0] & 15 != 3]
        for tail in (b"", HELLO[:1], HELLO[:4]):
            data = joined(frames) + tail
            pieces, count, stream = feed([data])
            self.assertEqual((count, stream.rest), (len(frames), tail))
            at = 0
            for head, *_, size in pieces:
                frame = trace.Frame(data, at)
                self.assertEqual(frame.size(), size)
                self.assertEqual(frame.payload.offset, len(head))
                new = Stream().feed(data[at : at + size])[0][0]
                plain = bytes(frame.plain)
                self.assertEqual(
                    new.plain(), (plain[:MAX_KEPT], plain[-MAX_END:])
                )
                at += size

    def test_little_is_kept_of_much(self):
        stream = Stream()
        stream.feed(make_header(BINARY, 2**40))
        for _ in range(100):
            stream.feed(bytes(100_000))
        kept = len(stream.begun.start + stream.begun.end + stream.rest)
        self.assertLessEqual(kept, MAX_KEPT + MAX_END)


# ---- whispers ---------------------------------------------------------------

SECRET = b"Tell-nobody-7391"
ONE_MORE = "and 1 more frame"
LONG = "x" * 1100  # more than is kept of a payload
# What is for one, or may be: one of them is "%s", and the form is a text.
WHISPERS = (
    "nr=%s&key=2",
    "key=2&nr=%s",
    "nr=%s&key=",
    "nr=%s&key=22&a=all",
    "nr=%s&%%6bey=2",
    "nr=%s&key=%%32",
    "nr=%s&key=all&key=2",
    "key=all&nr=%s&key=2",
    "key=all&nr=%s&%%6bey=2",
    "nr=%s&key=2%%26key=all",
    "nr=1&key=2&nr=%s",
    "type=add&nr=%s&key=2",
    "type=add&ming=A&nr=%s&key=2",
    "ming=A&nr=%s&key=2",
    f"nr=%s{LONG}&key=2",
    f"nr=%s{LONG}&key=2{'&a' * 10}&key=all",
    f"key=2&nr=%s{LONG}",
    f"nr={LONG}%s&key=2",
    f"nr=%s&key=2&nr={LONG}",
    "nr=%s&key=2" + "&a" * 10 + "&key=all",
    # Too many fields: the room refuses it as a whisper.
    "nr=%s&key=2" + "&a" * 300 + "&key=all",
)
FOR_ALL = (
    "%s",
    " nr=%s&key=2",
    "NR=%s&key=2",
    "%%6er=%s&key=2",
    "nr=%s&key=all",
    '{"nr": "%s", "key": "2"}',
    "n",
    "",
    "k%s",
    "type=add&ming=%s",
)


def secrets():
    """Return the hex that SECRET may have on the wire, masked or not."""
    forms = [codec.mask(b"\0" * at + SECRET, MASKING_KEY)[at:]
             for at in range(4)]  # fmt: skip
    return [form.hex() for form in (SECRET, *forms)]


def is_told(raw):
    """Tell whether lines of a record, or what a tab gets, tell SECRET."""
    for text in raw:
        if "turn" in json.loads(text):
            text += json.dumps(explained(json.loads(text))).encode()
        # Hex with a blank between, of which a part is enough: 8 bytes.
        there = text.decode().replace(" ", "")
        for form in secrets():
            if form[:16] in there or form[16:] in there:
                return True
        if SECRET[:8] in text or SECRET[8:] in text:
            return True
    return False


def whisper_in(parts):
    """Return the frames of a text in fragments."""
    last = len(parts) - 1
    return [
        encode_frame(CONTINUATION if at else TEXT, part, MASKING_KEY,
                     fin=at == last)
        for at, part in enumerate(parts)
    ]  # fmt: skip


class Whispers(unittest.TestCase):
    def setUp(self):
        self.watched = Watched(ChatRoom)
        self.addCleanup(self.watched.__exit__)
        self.socks = [self.watched.open() for _ in "123"]

    def say(self, *reads):
        """Let #1 send these, a turn each; return (the lines, who heard it)."""
        for read in reads:
            self.socks[0].sendall(read)
            self.watched.server.turn()
        raw = self.watched.raw[self.watched.taken :]
        self.watched.taken += len(raw)
        self.watched.user().name = ""  # or it might tell, in each line
        heard = []
        for sock in self.socks:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                heard.append(SECRET in sock.recv(2**20))
        return raw, heard

    def test_what_is_for_one_is_hidden(self):
        for form in WHISPERS:
            with self.subTest(form[:60]):
                text = (form % SECRET.decode()).encode()
                raw, _ = self.say(encode_frame(TEXT, text, MASKING_KEY))
                self.assertFalse(is_told(raw))

    def test_a_long_form_is_hidden_until_it_goes_to_all(self):
        """Its middle is not kept: it might be a whisper."""
        text = f"nr={SECRET.decode()}{LONG}&key=all".encode()
        raw, _ = self.say(encode_frame(TEXT, text, MASKING_KEY))
        came, went = events(json.loads(raw[0]), "frame")
        self.assertEqual((came["hidden"], went["hidden"]), (True, False))

    def test_what_is_for_all_is_shown(self):
        for form in FOR_ALL:
            with self.subTest(form[:60]):
                text = form.replace("%s", SECRET.decode()).replace("%%", "%")
                frame = encode_frame(TEXT, text.encode(), MASKING_KEY)
                raw, _ = self.say(frame)
                event = events(json.loads(raw[0]), "frame")[0]
                self.assertFalse(event["hidden"])
                self.assertEqual(is_told(raw), "%s" in form)

    def test_bytes_are_for_all(self):
        data = b"nr=" + SECRET + b"&key=2"
        raw, _ = self.say(encode_frame(BINARY, data, MASKING_KEY))
        self.assertTrue(is_told(raw))

    def test_the_receiver_gets_it_and_the_page_only_its_length(self):
        text = b"nr=" + SECRET + b"&key=2"
        raw, heard = self.say(encode_frame(TEXT, text, MASKING_KEY))
        self.assertEqual(heard, [True, True])  # and #3 got nothing
        line = explained(json.loads(raw[0]))
        came, *went = events(line, "frame")
        self.assertEqual([e["who"] for e in went], [["#1"], ["#2"]])
        note = (
            f"perhaps for one only: its text of {len(text)} bytes is not shown"
        )
        self.assertEqual(came["notes"], [note])
        self.assertEqual(came["size"], len(text) + 6)
        for event in (came, *went):
            self.assertEqual((event["payload"], event["text"]), ([], ""))
            names = [field["name"] for field in event["fields"]]
            self.assertNotIn("masking key", names)

    def test_in_fragments(self):
        """Split anywhere, in one read or many, another message behind."""
        text = b"nr=" + SECRET + b"&key=2"
        hello = b"".join(whisper_in([b"Hel", b"lo"]))
        ping = encode_frame(PING, b"?", MASKING_KEY)
        for at in range(len(text) + 1):
            first, second = whisper_in([text[:at], text[at:]])
            for kind, reads in (
                ("one read", [first + second]),
                ("two reads", [first, second]),
                ("a ping between", [first + ping, second]),
                ("a text behind", [first + second + HELLO]),
                # What it hides must be asked before all of it is divided.
                ("fragments behind", [first + second + hello[:-8]]),
                ("many before", [HELLO * MAX_PIECES + first, second]),
                ("odd reads", cut(first + second, [9, len(first) + 3])),
            ):
                with self.subTest(kind, at=at):
                    raw, heard = self.say(*reads)
                    if kind == "fragments behind":
                        self.say(hello[-8:])
                    self.assertEqual(heard[:2], [True, True])
                    self.assertFalse(is_told(raw))

    def test_many_fragments(self):
        text = b"key=2&nr=" + SECRET
        frames = whisper_in([text[at : at + 1] for at in range(len(text))])
        raw, _ = self.say(b"".join(frames[:9]), *frames[9:])
        self.assertFalse(is_told(raw))
        kinds = [e for text in raw for e in events(json.loads(text), "frame")]
        letters = [each["bytes"] for each in kinds if each["way"] == "in"]
        self.assertNotIn(frames[9].hex(), letters)

    def test_byte_by_byte(self):
        frame = encode_frame(TEXT, b"nr=" + SECRET + b"&key=2", MASKING_KEY)
        raw, _ = self.say(*(bytes([byte]) for byte in frame))
        self.assertFalse(is_told(raw))

    def test_behind_a_request(self):
        sock = self.watched.connect()
        frame = encode_frame(TEXT, b"nr=" + SECRET + b"&key=2", MASKING_KEY)
        sock.sendall(REQUEST + frame)
        raw, _ = self.say(b"")
        self.assertIn(b"request complete", raw[-1])
        self.assertFalse(is_told(raw))

    def test_what_only_one_heard_is_never_told(self):
        """Random forms: the room is the judge."""
        chance = random.Random(6455)
        words = ("nr=", "key=", "type=add", "ming=", "%6ey=", "all", "2", "22",
                 "&", "&", "&key=all", "&key=2", "key=2&nr=", "=", ";", "+",
                 LONG, "nr", "&a=")  # fmt: skip
        whispers = 0
        for number in range(600):
            parts = chance.choices(words, k=chance.randrange(7))
            parts.insert(chance.randrange(len(parts) + 1), SECRET.decode())
            if number % 2:
                parts = ["nr=", *parts, "&key=2"]
            text = "".join(parts)
            at = sorted(chance.choices(range(len(text)), k=number % 3))
            frames = whisper_in(cut(text.encode(), at))
            raw, heard = self.say(b"".join(frames))
            if heard == [True, True]:
                whispers += 1
                self.assertFalse(is_told(raw), text)
        self.assertGreater(whispers, 20)


# ---- lines ------------------------------------------------------------------

GOLDEN = b"""
{"turn": 3, "at": 0.0, "slept": 0.0, "took": 0.0, \
"asked": {"read": ["L", "#1"], "write": []}, \
"ready": {"read": {"#1": "11 bytes waiting"}, "write": {}}, \
"users": [{"id": "#1", "name": "", "state": "open", "kernel": 11, \
"outbox": [0, 0], "here": 0, "missing": 0}], "more": 0, \
"events": [{"phase": 4, "what": "recv", "who": ["#1"], "size": 11, \
"text": ""}, {"phase": 4, "what": "frame", "way": "in", "who": ["#1"], \
"size": 11, "bytes": "818537fa213d7f9f4d5158", "hidden": false}, \
{"phase": 5, "what": "frame", "way": "out", "who": ["#1"], "size": 7, \
"bytes": "810548656c6c6f", "hidden": false}]}
"""


def normal(record):
    """Leave out of a record what differs each time: times and ports."""
    record = re.sub(rb'"(at|slept|took)": [0-9.e-]+', rb'"\1": 0.0', record)
    return re.sub(rb"(port |:)\d{4,5}\b", rb"\g<1>50000", record)


def as_traced(line):
    """Return a line as the trace tells a turn: a set of texts, and GOT."""

    def columns(asked):
        return f"read {' '.join(asked['read']) or '-'} write " + (
            " ".join(asked["write"]) or "-"
        )

    said = [f"asked {columns(line['asked'])}", f"got {columns(line['ready'])}"]
    if "silent" in line:
        said = [f"got nothing, but {line['silent']}"]
    for event in line["events"]:
        who, what = " ".join(event["who"]), event["what"]
        way = f"{who} --> server"
        if event.get("way") == "out":
            way = f"server --> {who}"
        if what == "accept":
            said.append(f"ACCEPT {who} {event['text']}")
        elif what == "gone":
            said.append(f"GONE {who}: {event['text']}")
        elif what == "recv" and event["text"] not in TOO_CLEAR:
            text = " ".join(event["text"].split())
            said.append(f"recv {who} -> {event['size']} {text}")
        elif what == "head":
            said.append("\n".join(head_rows(event, way)))
        elif what == "frame":
            said.append("\n".join(frame_rows(event, way)))
    return sorted(re.sub(r" +$", "", text, flags=re.M) for text in said)


TOO_CLEAR = ("", "the empty line is there")  # for the trace


def head_rows(event, way):
    is_handshake = any(needed for _, needed in event["rows"])
    yield f"{'HANDSHAKE' if is_handshake else 'HTTP'} {way}"
    for raw, needed in event["rows"]:
        yield f"  {raw:<46}  needed: {needed}" if needed else f"  {raw}"
    if event["rest"]:
        lines = "lines" if event["rest"] > 1 else "line"
        yield f"  ({event['rest']} more {lines} not used)"
    for name, row in event["accept"]:
        yield f"    {name:<12}{row}"


def frame_rows(event, way):
    flags = "".join(f" [{flag}]" for flag in event["flags"])
    yield f"FRAME {way}  {event['kind']}{flags}  {event['size']} bytes"
    shown = -1
    for field in event["fields"]:
        where = f"{field['offset']:04x}  {field['hex']}"
        if field["bits"]:
            where = "" if field["offset"] == shown else where
            shown = field["offset"]
            value = f"{field['name']:<6} {field['value']:<2}"
            where = f"{where:<21}{field['bits']}  {value}"
        else:
            where = f"{where:<31}"
        yield f"  {where} {field['meaning']}"
    for row in event["payload"]:
        where = f"  {row['offset']:04x}  "
        if not row["key"]:
            yield f"{where}{row['hex']:<26}{row['text']}"
            continue
        yield f"{where}{row['hex']}"
        yield f"   XOR  {row['key']}"
        yield f"     =  {row['plain']:<26}{row['text']}"
    for text in event["notes"]:
        yield f"        {text}"


TURN = re.compile(r"^turn (\d+) +", re.M)
# What only one of the two tells.
ONLY_TRACED = re.compile(
    r"  (broadcast|rest #|outbox|send|\d+ bytes? came|\d+ bytes? of body).*"
    r"|RFC 6455 .*"
)


def traced_turns(text):
    """Return {number: set of texts} of a full trace, in as_traced()'s words."""
    _, *parts = TURN.split(text)
    turns = {}
    for number, turn in zip(parts[::2], parts[1::2]):
        turn = re.sub(r"slept.*", "", turn)
        turn = re.sub(r"(?m)(payload as it travelled|key, repeated)$", "", turn)
        turn = re.sub(r"   (request complete|answer)\n", "\n", turn)
        kept = [
            row.rstrip()
            for row in turn.splitlines()
            if not ONLY_TRACED.fullmatch(row)
        ]
        texts = re.split(r"\n(?=[A-Z]|  recv|  +got)", "\n".join(kept))
        texts = [text for text in texts if "the empty line" not in text]
        turns[int(number)] = sorted(map(squeeze, texts))
    return turns


def squeeze(text):
    """Put single blanks where columns are, except in rows of a frame."""
    if re.match(r"asked|  +got|  recv", text):
        text = re.sub(r" waiting \d+ ", " ", " ".join(text.split()))
    return text


class Lines(unittest.TestCase):
    maxDiff = None

    def test_the_golden_line(self):
        with Watched() as watched:
            watched.say(watched.open(), HELLO)
            self.assertEqual(normal(watched.raw[-1]), GOLDEN[1:])

    def test_the_header(self):
        with Watched() as watched:
            header = json.loads(watched.raw[0])
            port = watched.server.port
        self.assertEqual(header["watch"], 1)
        self.assertEqual(header["room"], f"http://127.0.0.1:{port}/")
        for host, shown in (("0.0.0.0", "127.0.0.1"), ("::", "[::1]")):
            with Watched() as watched:
                watched.server.host, watched.server.port = host, 9
                header = lessons.record.make_header(watched.server)
            self.assertEqual(header["room"], f"http://{shown}:9/")

    def test_the_trace_says_the_same(self):
        """Alone and side by side: of the same bytes they say the same."""
        shown, record = self.told("trace")[0], self.told("record")[1]
        for order in ("trace record", "record trace"):
            with self.subTest(order):
                self.assertEqual(self.told(*order.split()), (shown, record))
        turns = traced_turns(shown)
        lines = [json.loads(line) for line in record.splitlines()]
        self.assertGreater(len(lines), 20)
        self.assertEqual([*turns], [line["turn"] for line in lines])
        for line in map(explained, lines):
            with self.subTest(line["turn"]):
                self.assertEqual(as_traced(line), turns[line["turn"]])

    def told(self, *kinds):
        """Return what these have said, without what differs each time."""
        with Watched() as watched:
            shown = []
            both = {
                "trace": Trace(watched.server, shown.append, "full"),
                "record": watched.record,
            }
            observers = Several([both[kind] for kind in kinds])
            watched.server.observer = observers
            self.converse(watched)
            self.assertEqual(len(observers.observers), len(kinds))
            text = re.sub(r"slept .*", "slept", "\n".join(shown) + "\n")
            text = re.sub(r"port \d+", "port 50000", text)
            return text, normal(b"".join(watched.raw[1:])).decode()

    def converse(self, watched):
        """What README's "Byte by byte" shows, and some more."""
        watched.server.on_open = lambda user: None
        sock = watched.connect()
        watched.say(sock, REQUEST)
        other = watched.connect()
        watched.say(other, REQUEST + HELLO)
        watched.say(sock, HELLO)
        watched.say(sock, HELLO * 3)
        watched.say(sock, HELLO[:1])
        watched.say(sock, HELLO[1:8])
        watched.say(sock, HELLO[8:])
        text = "\u017eab\u2602".encode()
        watched.say(sock, encode_frame(TEXT, text, MASKING_KEY))
        watched.say(
            sock,
            encode_frame(TEXT, b"Hel", MASKING_KEY, False)
            + encode_frame(PING, b"?", MASKING_KEY)
            + encode_frame(CONTINUATION, b"lo", MASKING_KEY),
        )
        watched.server.later(0, lambda: watched.server.broadcast(b"tick"))
        watched.server.turn()
        watched.server.call_soon(lambda: watched.server.broadcast("x"))
        watched.server.turn()
        page = watched.connect()
        watched.say(page, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        watched.hang_up(page)
        watched.say(other, encode_frame(TEXT, b"unmasked"))
        watched.say(other, HELLO)
        watched.hang_up(other)
        watched.say(sock, encode_frame(CLOSE, b"\x03\xe8bye", MASKING_KEY))
        watched.hang_up(sock)

    def test_two_records_are_the_same(self):
        """README's "Byte by byte", twice: but for times and ports."""
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("1.jsonl", "2.jsonl")]
            side_by_side(self, self.record, [(file,) for file in files])
            first, second = (normal(file.read_bytes()) for file in files)
        self.assertIn(b"818572a4c67f3ac1aa131d", first)
        self.assertEqual(first, second)

    def record(self, file):
        program = [sys.executable, str(ROOT / "client.py"), "--seed", "6455"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with Process("0", f"--record={file}") as process:
            program.append(f"ws://127.0.0.1:{process.port}/")
            with subprocess.Popen(program, **pipes) as client:
                client.stdin.write(b"Hello\n")
                client.stdin.flush()
                # Only then the Close: else both come in one read, or in two.
                self.assertIn(b"Hello", client.stdout.readline())
                client.communicate(timeout=DEADLINE)
            process.wait_for("#1 left: 1000")
            process.signal(signal.SIGINT)
            self.assertEqual(process.end(), 0)

    def test_a_request_byte_by_byte(self):
        with Watched() as watched:
            sock = watched.connect()
            watched.lines()
            for at, byte in enumerate(REQUEST[:-1], 1):
                line = watched.say(sock, bytes([byte]))
                missing = "the empty line is still missing"
                self.assertEqual(texts(line), [missing])
                self.assertEqual(events(line, "head"), [])
                self.assertEqual(line["users"][0]["here"], at)
            line = watched.say(sock, REQUEST[-1:])
            self.assertEqual(texts(line), ["the empty line is there"])
            self.assertEqual(
                texts(line, "head"), ["request complete", "answer"]
            )
            self.assertEqual(line["users"][0]["here"], 0)
            self.assertEqual(line["users"][0]["state"], "open")
            way_in, way_out = events(line, "head")
            self.assertEqual(way_in["size"], len(REQUEST))
            self.assertEqual(
                way_in["rows"][0], ["GET / HTTP/1.1", "GET and 1.1"]
            )
            self.assertIn(KEY, way_out["accept"][0][1])
            self.assertEqual((way_in["phase"], way_out["phase"]), (4, 5))
            self.assertEqual(way_in["accept"], [])

    def test_bytes_behind_a_request(self):
        for behind in (HELLO, HELLO * 2 + HELLO[:1], HELLO[:3], HELLO[:8]):
            with self.subTest(behind), Watched() as watched:
                sock = watched.connect()
                line = watched.say(sock, REQUEST + behind)
                whole = len(behind) // len(HELLO)
                ways = [event["way"] for event in events(line, "frame")]
                self.assertEqual(ways.count("in"), whole)
                rest = HELLO[len(behind) % len(HELLO) :]
                line = watched.say(sock, rest + HELLO)
                raw = json.loads(watched.raw[-1])
                came = [e for e in events(raw, "frame") if e["way"] == "in"]
                self.assertEqual([e["bytes"] for e in came], [HELLO.hex()] * 2)

    def test_a_page_and_a_refusal(self):
        for target, status, behind in (("/", "200", HELLO), ("/x", "404", b"")):
            with self.subTest(target), Watched() as watched:
                sock = watched.connect()
                head = f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"
                line = watched.say(sock, head.encode() + behind)
                way_in, way_out = events(line, "head")
                self.assertEqual(
                    way_in["rows"], [[f"GET {target} HTTP/1.1", ""]]
                )
                self.assertEqual(way_in["rest"], 1)
                self.assertIn(status, way_out["rows"][0][0])
                self.assertRegex(way_out["text"], r"^and \d+ bytes of body$")
                self.assertEqual(
                    (way_in["accept"], way_out["accept"]), ([], [])
                )
                self.assertEqual(events(line, "frame"), [])
                self.assertEqual(line["users"][0]["state"], "closing")

    def test_what_is_not_whole(self):
        with Watched() as watched:
            sock = watched.open()
            for data, here, missing, text in (
                (HELLO[:1], 1, 0, "81|  the header needs at least 1 more"),
                (HELLO[1:3], 3, 0, "81 85 37|  the header needs 3 more"),
                (HELLO[3:8], 2, 3, "the payload needs 3 more"),
                (HELLO[8:9], 3, 2, "the payload needs 2 more"),
                (HELLO[9:], 0, 0, "now the frame is whole"),
                (HELLO * 2, 0, 0, "2 frames in one read: TCP has no messages"),
                (HELLO, 0, 0, ""),
            ):
                with self.subTest(text):
                    line = watched.say(sock, data)
                    user = line["users"][0]
                    self.assertEqual(user["here"], here)
                    self.assertEqual(user["missing"], missing)
                    self.assertEqual(user["kernel"], len(data))
                    self.assertEqual(texts(line), [text])

    def test_newcomers_and_who_goes(self):
        with Watched() as watched:
            sock = watched.open()
            other = connect(watched.server.port)
            watched.sockets.append(other)
            line = watched.turn()
            port = other.getsockname()[1]
            text = f"from 127.0.0.1 port {port}, not handshaken"
            self.assertEqual(texts(line, "accept"), [text])
            self.assertEqual(line["asked"]["read"], ["L", "#1"])
            self.assertEqual(
                line["ready"], {"read": {"L": "a newcomer knocks"}, "write": {}}
            )
            states = {user["id"]: user["state"] for user in line["users"]}
            self.assertEqual(states, {"#1": "open", "#2": "connected"})
            line = watched.hang_up(sock)
            self.assertEqual(line["ready"]["read"], {
                "#1": "end of stream: it hangs up"
            })  # fmt: skip
            self.assertEqual(texts(line), ["the end of the stream"])
            self.assertEqual(texts(line, "gone"), ["hung up"])
            states = {user["id"]: user["state"] for user in line["users"]}
            self.assertEqual(states, {"#1": "gone", "#2": "connected"})
            self.assertEqual(line["more"], 0)
            line = watched.say(other, REQUEST)
            self.assertEqual([u["id"] for u in line["users"]], ["#2"])

    def test_nothing_is_kept_of_who_has_left(self):
        with Watched() as watched:
            for data in (HELLO[:3], b"", b"GET"):
                sock = watched.open()
                watched.say(sock, data)
                sock.close()
                watched.turn()
            shrink_buffers(watched.server.listener)
            sock = watched.open(buffer=4096)
            watched.server.broadcast(bytes(200_000))
            watched.turn()
            record = watched.record
            self.assertEqual(len(record.slow), 1)
            reset(sock)
            wait_until(lambda: watched.turn() and not watched.server.users)
            self.assertEqual(
                (record.streams, record.behind, record.slow), ({}, {}, set())
            )

    def test_thrown_away(self):
        with Watched() as watched:
            sock = watched.open()
            line = watched.say(sock, encode_frame(TEXT, b"Hello"))
            self.assertEqual(line["users"][0]["state"], "closing")
            went = events(line, "frame")[-1]
            self.assertEqual((went["kind"], went["way"]), ("CLOSE", "out"))
            self.assertIn("close code 1002 PROTOCOL_ERROR", went["notes"][0])
            line = watched.say(sock, HELLO)
            self.assertEqual(texts(line), ["thrown away: #1 is leaving"])
            self.assertEqual(events(line, "frame"), [])

    def test_behind_a_close_or_a_fault_nothing_counts(self):
        """As in the trace: nobody reads on."""
        for data in (
            encode_frame(CLOSE, b"", MASKING_KEY) + HELLO * 2,
            encode_frame(TEXT, b"Hello") + HELLO,
            b"\xc1\x80\0\0\0\0" + HELLO,
            b"\x83\x80\0\0\0\0" + HELLO,
            b"\x83\x85\0\0\0\0",
        ):
            with self.subTest(data[:2]), Watched() as watched:
                line = watched.say(watched.open(), data)
                came = [e for e in events(line, "frame") if e["way"] == "in"]
                self.assertLessEqual(len(came), 1)
                for text in texts(line):
                    self.assertNotRegex(text, "frames in one read|needs")

    def test_a_slow_reader(self):
        with Watched() as watched:
            shrink_buffers(watched.server.listener)
            sock = watched.open(buffer=4096)
            user, before = watched.user(), 0
            watched.server.broadcast(bytes(200_000))
            watched.server.later(0, bool)  # so the turn need not wait
            line = watched.turn()
            self.assertEqual(set(texts(line, "wrote")), {
                "the kernel's buffer is full"
            })  # fmt: skip
            wrote = events(line, "wrote")[-1]
            self.assertEqual(
                (wrote["waiting"], wrote["phase"]), (user.waiting, 5)
            )
            self.assertEqual(line["users"][0]["outbox"], [0, user.waiting])
            sock.setblocking(False)
            while user.waiting:
                before = user.waiting
                with contextlib.suppress(BlockingIOError):
                    sock.recv(2**20)
                line = watched.turn() or line
            self.assertEqual(line["asked"]["write"], ["#1"])
            words = f"room in the kernel's buffer; {before} bytes waiting"
            self.assertEqual(line["ready"]["write"], {
                "#1": f"{words} in its outbox"
            })  # fmt: skip
            self.assertEqual(
                texts(line, "wrote"), ["its outbox is empty again"]
            )
            self.assertEqual(events(line, "wrote")[0]["size"], before)
            self.assertEqual(line["users"][0]["outbox"], [before, 0])
            watched.server.call_soon(lambda: watched.server.send(user, "x"))
            line = watched.turn()
            self.assertEqual(len(events(line, "frame")), 1)
            words = ["the kernel took all of it"]
            self.assertEqual(texts(line, "wrote"), words)

    def test_long_payloads_are_cut(self):
        for size in (64, 65, 126, 70_000):
            with self.subTest(size), Watched() as watched:
                sock = watched.open()
                sock.sendall(encode_frame(TEXT, b"x" * size, MASKING_KEY))
                frames = []
                while not frames:
                    line = watched.turn()
                    frames = events(line, "frame") if line else []
                dots = "..." if size > 64 else ""
                self.assertEqual(frames[0]["text"], f'"{"x" * 64}{dots}"')
                words = "byte" if size == 65 else "bytes"
                note = [f"({size - 64} more {words} not shown)"]
                self.assertEqual(frames[0]["notes"], note if size > 64 else [])
                self.assertLess(len(watched.raw[-1]), 2000)

    def test_who_leaves_by_an_error(self):
        """select() told of it, and peek() took it: it leaves all the same."""
        self.assertEqual(self.reset(Record), self.reset(None))

    test_who_leaves_by_an_error = RESETS(test_who_leaves_by_an_error)

    def reset(self, kind):
        told = []
        with Watched() as watched:
            sock = watched.open()
            room = watched.server
            room.observer = kind and watched.record
            room.on_close = lambda user, *how: told.append(how)
            room.on_error = lambda user, error: told.append(repr(error))
            reset(sock)
            line = watched.turn()
            if kind:
                ready = line["ready"]["read"]["#1"]
                self.assertRegex(ready, "^the connection failed: ")
                self.assertEqual(line["users"][0]["state"], "gone")
            self.assertEqual(room.users, {})
        return told


class OthersInTheLoop(unittest.TestCase):
    def test_silent_turns(self):
        with Watched() as watched:
            sock = watched.open()
            room = watched.server
            number = json.loads(watched.raw[-1])["turn"]
            for begin, why in (
                (lambda: room.later(0, lambda: room.broadcast("x")),
                 "a timer or a deadline is due"),
                (lambda: room.call_soon(lambda: room.broadcast("x")),
                 "another thread has called call_soon()"),
                (room.stop, "the room closes"),
            ):  # fmt: skip
                with self.subTest(why):
                    self.assertIsNone(watched.turn())  # nothing to be seen
                    begin()
                    line = watched.turn()
                    number += 1
                    self.assertEqual(line["turn"], number)
                    self.assertEqual(line["silent"], why)
                    self.assertEqual(line["ready"], {"read": {}, "write": {}})
                    self.assertEqual(line["asked"]["read"], ["L", "#1"])
            sock.close()
            while room.running:
                room.turn()
            self.assertNotIn("silent", watched.lines()[0])

    def test_the_end(self):
        with Watched() as watched:
            watched.server.stop()
            watched.server.run()
            self.assertEqual(watched.lines()[-1], {
                "ended": "the room has closed"
            })  # fmt: skip
            self.assertTrue(watched.closed)

    def test_a_ping_of_the_room(self):
        with Watched(ping_interval=0.001) as watched:
            watched.open()
            lines = []
            wait_until(lambda: lines.append(watched.turn()) or lines[-1])
            self.assertEqual(
                lines[-1]["silent"], "a timer or a deadline is due"
            )
            self.assertEqual(events(lines[-1], "frame")[0]["kind"], "PING")

    def test_guests(self):
        """As the trace: G1 is where it was asked for, and where it came."""
        with Watched() as watched, Watched() as far:
            shown = []
            told = Trace(watched.server, shown.append, "full")
            watched.server.observer = Several([told, watched.record])
            watched.open()
            guest = Client(f"ws://127.0.0.1:{far.server.port}/")
            guest.on_message = lambda _, text: watched.server.broadcast(text)
            guest.connect()
            watched.server.guests.append(guest)
            for _ in "123":
                for each in (watched, far):
                    each.server.later(0, bool)
                    each.server.turn()
            far.server.broadcast("from afar")
            far.server.later(0, bool)
            far.server.turn()
            wait_until(lambda: select.select([guest.socket], [], [], 0)[0])
            watched.server.turn()
            turns = traced_turns("\n".join(shown) + "\n")
            watched.taken = 1
            lines = watched.lines()
            ready = lines[-1]["ready"]["read"]
            words = "there is work for a guest of this loop"
            self.assertEqual(ready, {"G1": words})
            for line in lines:
                # One that may write, and one that may be read.
                with self.subTest(line["turn"]):
                    told = turns[line["turn"]]
                    self.assertEqual(as_traced(line), told)
            guest.end("the test is over")
            watched.server.turn()


class Held(unittest.TestCase):
    def test_the_room_stands_still(self):
        """Deadlines and timers, too; and the answer comes behind it."""
        still = SimpleNamespace(monotonic=lambda: still.now, now=5.0)
        said, told = [], []

        class Teacher:
            """In place of the link: asks once, and thinks for long."""

            asks = True

            def hear(self):
                pass

            def wait(self):
                told.append(len(watched.raw))
                still.now += 100
                self.asks = len(told) < 3

            def put(self, line, must=False):
                said.append((json.loads(line), must))

            def ask(self, line):
                self.put(line, True)

        clock = mock.patch.object(lessons.record, "time", still)
        with clock, Watched() as watched:
            watched.open()  # and says nothing
            sock = watched.open()
            watched.record.link = Teacher()
            watched.record.sinks.append(watched.record.link)
            deadline = watched.user().deadline
            timer = watched.server.later(50, bool)
            due, lines = timer.due, len(watched.raw)
            still.now += 2
            line = watched.say(sock, HELLO)
            self.assertEqual(told, [lines] * 3)  # no line meanwhile
            self.assertAlmostEqual(timer.due - due, 300)
            self.assertAlmostEqual(watched.user().deadline - deadline, 300)
            (question, must), (turn, must_too) = said
            self.assertEqual((must, must_too), (True, True))
            self.assertEqual(question["question"], turn["turn"])
            self.assertEqual(question["asked"], turn["asked"])
            self.assertEqual(len(question), 4)
            self.assertEqual(question["at"], turn["at"])
            self.assertEqual(question["users"][1]["kernel"], 0)
            self.assertEqual(turn["users"][1]["kernel"], len(HELLO))
            self.assertEqual(line["slept"], 2)
            self.assertNotIn(b"question", watched.raw[-1])


class Bounds(unittest.TestCase):
    def test_more_users_than_are_listed(self):
        with Watched() as watched:
            socks = [watched.connect() for _ in range(103)]
            self.assertEqual(watched.lines()[-1]["more"], 2)  # and a newcomer
            for sock in socks[-2:]:
                sock.sendall(b"G")
            line = watched.turn()
            ids = [user["id"] for user in line["users"]]
            self.assertEqual([*line["ready"]["read"]], ["#102", "#103"])
            self.assertEqual(ids, [
                *(f"#{key}" for key in range(1, 99)), "#102", "#103"
            ])  # fmt: skip
            self.assertEqual(line["asked"]["read"], ["L", *ids])
            self.assertEqual(line["more"], 3)

    def test_a_question_names_all_of_them(self):
        """Or who is left out would be known not to come."""
        with Watched() as watched:
            socks = [watched.connect() for _ in range(103)]
            asked = []

            class Teacher:
                asks = is_open = True

                def ask(self, line):
                    asked.append(json.loads(line))
                    self.asks = False

                def hear(self):
                    pass

                put = mock.Mock()

            watched.record.link = Teacher()
            socks[-1].sendall(b"G")
            line = watched.turn()
            everybody = ["L", *(f"#{key}" for key in range(1, 104))]
            self.assertEqual(asked[0]["asked"]["read"], everybody)
            self.assertEqual(len(asked[0]["users"]), 100)
            self.assertEqual([*line["ready"]["read"]], ["#103"])

    def test_more_events_than_are_listed(self):
        with Watched() as watched:
            socks = [watched.connect() for _ in range(50)]
            watched.lines()
            for sock in socks:
                sock.sendall(b"G")
            line = watched.turn()
            self.assertEqual(len(events(line, "recv")), 40)
            self.assertEqual(
                texts(line, "more"), ["and 10 more events, not listed"]
            )

    def test_a_flood_of_frames(self):
        with Watched() as watched:
            sock = watched.open()
            line = watched.say(sock, HELLO * 100)
            words = "100 frames in one read: TCP has no messages"
            self.assertEqual(texts(line), [words])
            frames = len(events(line, "frame"))
            self.assertEqual(frames, lessons.record.MAX_FRAMES)
            self.assertLess(len(watched.raw[-1]), 10_000)
            more = [
                (each["phase"], each["text"]) for each in events(line, "more")
            ]
            words = f"and {100 - MAX_PIECES} more frames"
            self.assertIn((4, words), more)
            # What goes out is told in phase 5.
            self.assertIn((5, words), more)
            # And the next turn knows where frames begin.
            line = watched.say(sock, HELLO)
            self.assertEqual(len(events(line, "frame")), 2)

    def test_of_a_rush_only_the_start_is_shown(self):
        still = SimpleNamespace(monotonic=lambda: still.now, now=5.0)
        patch = mock.patch.object
        few = mock.patch.multiple(
            lessons.record, SHOWN_AT_ONCE=6, SHOWN_PER_SECOND=20
        )
        with few, patch(lessons.record, "time", still), Watched() as watched:
            sock = watched.open()  # two turns
            for _ in range(5):
                watched.say(sock, HELLO)
            watched.say(sock, HELLO[:5])
            watched.taken = 1
            shown = [line["turn"] for line in watched.lines()]
            self.assertEqual(shown, [1, 2, 3, 4, 5, 6])
            still.now += 0.04
            watched.say(sock, HELLO[5:8])
            self.assertEqual(watched.lines(), [])
            still.now += 0.02
            line = watched.say(sock, HELLO[8:])
            self.assertEqual(line["turn"], 10)
            self.assertEqual(texts(line), ["now the frame is whole"])
            # Its start came in a turn that was not shown.
            [event] = events(line, "frame")
            self.assertEqual(event["way"], "out")
            self.assertEqual(events(line, "more")[0]["text"], ONE_MORE)
            self.assertIsNone(watched.say(sock, HELLO))
            # After a pause, a rush is shown again, but not a longer one.
            still.now += 1000
            for _ in range(9):
                watched.say(sock, HELLO)
            self.assertEqual(len(watched.raw), 1 + 6 + 1 + 6)
            self.assertEqual(json.loads(watched.raw[-1])["turn"], 17)

    def test_after_turns_that_were_not_shown(self):
        """However a frame was cut there, the next ones are found."""
        text = encode_frame(TEXT, b"x" * 200, MASKING_KEY)
        ping = encode_frame(PING, b"are you there?", MASKING_KEY)
        start = encode_frame(TEXT, b"nr=top", MASKING_KEY, False)
        end = encode_frame(CONTINUATION, b"secret&key=2", MASKING_KEY)
        with Watched() as watched:
            sock = watched.open()
            for whole in (HELLO, text, ping, start + end):
                for cut in range(1, len(whole)):
                    watched.record.credit = -1e9
                    self.assertIsNone(watched.say(sock, whole[:cut]))
                    watched.record.credit = 9.0
                    watched.say(sock, whole[cut:] + HELLO)
                    frames = events(json.loads(watched.raw[-1]), "frame")
                    came = [each for each in frames if each["way"] == "in"]
                    with self.subTest(whole, cut=cut):
                        self.assertEqual(came[-1]["bytes"], HELLO.hex())
                        for each in came[:-1]:
                            # A piece belongs to a whisper, or may do so.
                            is_piece = each["size"] in (len(start), len(end))
                            self.assertEqual(each["hidden"], is_piece)
                            self.assertTrue(
                                is_piece or each["size"] == len(whole)
                            )


class AnyBytes(unittest.TestCase):
    def test_nonsense(self):
        """It is written down, each turn of it, and explained."""
        source = random.Random(15)
        many = mock.patch.object(lessons.record, "SHOWN_AT_ONCE", 10**6)
        errors = io.StringIO()
        with many, contextlib.redirect_stderr(errors), Watched() as watched:
            for _ in range(100):
                with watched.connect() as sock:
                    with contextlib.suppress(OSError):
                        sock.sendall(nonsense(source, watched.server.port))
                    for _ in "123":
                        watched.server.turn()
                watched.server.turn()
            self.assertIs(watched.server.observer, watched.record)
            lines = [json.loads(raw) for raw in watched.raw[1:]]
        self.assertGreater(len(lines), 200)
        self.assertEqual([*map(explained, lines)][-1]["turn"], len(lines))
        self.assertEqual(errors.getvalue(), "")

    def test_an_accept_key_in_a_request(self):
        with Watched() as watched:
            accept = b"\r\nSec-WebSocket-Accept: x\r\n"
            head = REQUEST.replace(b"\r\n", accept, 1)
            line = watched.say(watched.connect(), head)
            asked, answered = events(line, "head")
        self.assertEqual((asked["accept"], len(answered["accept"])), ([], 3))


class SeveralObservers(unittest.TestCase):
    def test_one_that_raises_is_told_no_more(self):
        told = []

        class Raises(Observer):
            def received(self, user, data):
                told.append(data)
                raise ValueError("a bug")

        with Watched() as watched:
            both = Several([Raises(), watched.record])
            watched.server.observer = both
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors):
                sock = watched.open()
                line = watched.say(sock, HELLO)
            self.assertEqual(errors.getvalue().count("ValueError: a bug"), 1)
            self.assertEqual(told, [REQUEST])
            self.assertEqual(len(events(line, "frame")), 2)
            self.assertEqual(sock.recv(9), b"\x81\x05Hello")
            self.assertEqual(both.observers, [watched.record])

    def test_the_walk_of_a_trace_that_raises(self):
        with Watched() as watched:
            told = Trace(watched.server, lambda text: None, "full")
            watched.server.observer = Several([told, watched.record])
            sock = watched.open()
            errors = io.StringIO()
            bug = mock.patch.object(told, "show_frame", None)
            with bug, contextlib.redirect_stderr(errors):
                line = watched.say(sock, HELLO)
            self.assertEqual(errors.getvalue().count("TypeError"), 1)
            self.assertEqual(sock.recv(9), b"\x81\x05Hello")
            self.assertEqual(len(events(line, "frame")), 2)
            self.assertEqual(
                watched.server.observer.observers, [watched.record]
            )


# ---- the file ---------------------------------------------------------------


class TheFile(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "lesson.jsonl")
        self.said = []

    def watched(self):
        watched = Watched()
        self.addCleanup(watched.__exit__)
        recording = Recording(str(self.path), self.said.append)
        self.addCleanup(recording.close)
        watched.record.sinks.append(recording)
        return watched, recording

    def test_each_turn_is_there_at_once(self):
        watched, _ = self.watched()
        watched.open()
        self.assertEqual(self.path.read_bytes(), b"".join(watched.raw[1:]))

    def test_a_full_disk(self):
        watched, recording = self.watched()
        sock = watched.open()
        recording.file.close()
        full = OSError(errno.ENOSPC, "No space left on device")
        recording.file = mock.Mock(closed=False)
        recording.file.write.side_effect = full

        def close():
            recording.file.closed = True
            raise full  # what was buffered cannot be written either

        recording.file.close.side_effect = close
        for _ in "123":
            watched.say(sock, HELLO)
            self.assertEqual(sock.recv(9), b"\x81\x05Hello")
        words = "the record has ended: No space left on device"
        self.assertEqual(self.said, [words])
        self.assertEqual(recording.file.write.call_count, 1)

    def test_it_has_a_bound(self):
        with mock.patch.object(lessons.record, "MAX_RECORD", 3000):
            watched, recording = self.watched()
            sock = watched.open()
            for _ in range(10):
                watched.say(sock, HELLO)
                self.assertEqual(sock.recv(9), b"\x81\x05Hello")
        self.assertEqual(self.said, [
            "the record has ended: 3000 bytes are enough"
        ])  # fmt: skip
        written = self.path.read_bytes()
        self.assertLessEqual(len(written), 3000)
        self.assertTrue(b"".join(watched.raw[1:]).startswith(written))
        self.assertTrue(written.endswith(b"}\n"))

    def test_what_cannot_start(self):
        self.path.write_bytes(b"precious")
        folder = self.path.parent
        cases = [(str(p),) for p in (self.path, folder, folder / "no" / "x")]
        side_by_side(self, self.start_wrongly, [*cases, ("",)])
        self.assertEqual(self.path.read_bytes(), b"precious")

    def start_wrongly(self, path):
        done = subprocess.run(
            [sys.executable, str(ROOT / "server.py"), "0", "--record", path],
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (2, b""))
        lines = done.stderr.decode().splitlines()
        self.assertEqual(len(lines), 1, lines)
        self.assertRegex(lines[0], "^server.py: .*: .*; --record makes a new")


if __name__ == "__main__":
    unittest.main()
