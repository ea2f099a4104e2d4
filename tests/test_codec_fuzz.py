"""The decoder against what is slower and simpler, on very many streams."""

from __future__ import annotations

import functools
import random
import unittest

import codec
from codec import Decoder, ProtocolError, encode_frame
from tests import naive_decoder
from tests.rules import decode

STREAMS = 20_000
LIMIT = 300  # bytes; small, so that it is often reached
SIZES = (0, 0, 1, 1, 2, 3, 5, 8, 13, 124, 125, 126, 127, 150, 301)
TEXTS = (
    "",
    "a",
    "Hello",
    "\u00e4\u00f6",
    "\u20ac",
    "\U0001d11e",
    "\ud7ff\ue000\uffff\U00010000\U0010ffff",
)
CODES = (1000, 1001, 1004, 1005, 1006, 1011, 1015, 2999, 3000, 4999, 5000)


class Streams:
    """Makes streams that are mostly right, from one seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def text(self):
        """Return some text, now and then not quite UTF-8."""
        chance = self.random
        text = "".join(chance.choices(TEXTS, k=chance.randrange(4))).encode()
        if text and chance.random() < 0.1:
            return self.mutated(text)
        return text

    def content(self, opcode):
        """Return the payload of a message or of a control frame."""
        chance = self.random
        if opcode == codec.TEXT and chance.random() < 0.8:
            return self.text()
        if opcode == codec.CLOSE and chance.random() < 0.9:
            code = chance.choice(CODES).to_bytes(2, "big")
            return (code + self.text())[: chance.choice((1, 2, 125, 125))]
        return b"x" * chance.choice(SIZES)

    def frames(self, key):
        """Return one message in one frame or in several."""
        chance = self.random
        opcode = chance.choice((1, 1, 1, 2, 2, 9, 10))
        if chance.random() < 0.1:
            opcode = chance.choice((0, 8, 8, 8, 3, 11))
        payload = self.content(opcode)
        if opcode in (1, 2) and chance.random() < 0.4:
            cut = chance.randrange(len(payload) + 1)
            middle = self.frames(key) if chance.random() < 0.3 else b""
            return (
                encode_frame(opcode, payload[:cut], key, fin=False)
                + middle
                + encode_frame(codec.CONTINUATION, payload[cut:], key)
            )
        return encode_frame(opcode, payload, key)

    def mutated(self, data):
        """Return the bytes with a flaw: changed, lost, doubled or cut."""
        chance = self.random
        at = chance.randrange(len(data))
        change = bytes([data[at] ^ 1 << chance.randrange(8)])
        return chance.choice(
            (
                data[:at] + change + data[at + 1 :],
                data[:at] + change + data[at + 1 :],
                data[:at] + data[at + 1 :],
                data[:at] + data[at : at + 9] + data[at:],
                data[:at],
            )
        )

    def stream(self, masked):
        """Return the bytes of one connection."""
        chance = self.random
        if chance.random() < 0.05:
            return bytes(chance.choices(range(256), k=chance.randrange(40)))
        key = bytes(chance.choices(range(256), k=4)) if masked else b""
        count = chance.randrange(1, 5)
        data = b"".join([self.frames(key) for _ in range(count)])
        for _ in range(chance.choice((0, 0, 1, 1, 3))):
            data = self.mutated(data) or b"\0"
        return data

    def cuts(self, size):
        """Return the places at which a stream is cut."""
        chance = self.random
        if chance.random() < 0.1:
            return range(1, min(size, 60))
        count = chance.randrange(4)
        return sorted(chance.randrange(size + 1) for _ in range(count))


def cut(stream, places):
    """Return the pieces of a stream that is cut at these places."""
    ends = zip([0, *places], [*places, len(stream)])
    return [stream[start:end] for start, end in ends]


class AgainstTheNaiveDecoder(unittest.TestCase):
    def test_random_and_mutated_streams(self):
        streams = Streams(seed=6455)
        seen = {}
        for number in range(STREAMS):
            masked = number % 4 != 0
            data = streams.stream(masked)
            cuts = streams.cuts(len(data))
            expected = naive_decoder.decode(data, masked, LIMIT)
            result = decode(cut(data, cuts), masked, LIMIT)
            if result != expected:
                case = f"{number}: {data.hex()} cut at {list(cuts)}"
                self.assertEqual(result, expected, case)
            for kind in [expected[1], *{one[0] for one in expected[0]}]:
                seen[kind] = seen.get(kind, 0) + 1
        # All that can happen must have happened often, or this shows little.
        for kind in (None, 1002, 1007, 1009, 1, 2, 8, 9, 10):
            self.assertGreater(seen.get(kind, 0), 300, f"{kind} in {seen}")

    def test_every_first_two_bytes(self):
        for inside in (b"", b"\x01\x01a"):
            for number in range(65536):
                data = inside + number.to_bytes(2, "big")
                expected = naive_decoder.decode(data, False, LIMIT)
                result = decode([data], False, LIMIT)
                if result != expected:
                    self.assertEqual(result, expected, data)


@functools.lru_cache(maxsize=None)
def beginnings_of_characters():
    """Return all 1 to 3 bytes that are, or begin, a character of UTF-8."""
    found = set()
    for number in range(0x10000):
        if not 0xD800 <= number <= 0xDFFF:
            character = chr(number).encode()
            found.update((character[:1], character[:2], character))
    # The fourth byte is free: every 64th character shows the first three.
    for number in range(0x10000, 0x110000, 64):
        character = chr(number).encode()
        found.update((character[:1], character[:2], character[:3]))
    return found


def is_unfinished(prefix):
    """Tell whether the first byte announces more bytes than there are."""
    if prefix[0] < 0xC0:
        return False
    return len(prefix) < 2 + (prefix[0] >= 0xE0) + (prefix[0] >= 0xF0)


class EarlyText(unittest.TestCase):
    """Text that cannot become valid is refused before its frame ends."""

    def refused(self, *pieces):
        decoder = Decoder(masked=False)
        try:
            for piece in pieces:
                list(decoder.feed(piece))
        except ProtocolError as error:
            self.assertEqual(error.code, 1007)
            return True
        return False

    def test_every_one_two_and_three_bytes(self):
        header = b"\x81\x7d"  # a text frame; 125 bytes will come
        possible = beginnings_of_characters()
        beginnings = [b""]
        edges = (0x00, 0x7F, *range(0x80, 0xC0), 0xC0, 0xFF)
        for candidates in (range(256), range(256), edges):
            still_open = []
            for beginning in beginnings:
                for last in candidates:
                    text = beginning + bytes([last])
                    refused = self.refused(header + text)
                    if refused != (text not in possible):
                        self.fail(f"{text!r} refused: {refused}")
                    if not refused and is_unfinished(text):
                        still_open.append(text)
            beginnings = still_open
        # Of three bytes, those that begin a character of four:
        self.assertEqual(len(beginnings), (0x110000 - 0x10000) // 64)

    def test_every_one_two_and_three_bytes_arriving_singly(self):
        possible = beginnings_of_characters()
        for text in possible:
            if len(text) != 2 or not is_unfinished(text):
                continue
            for last in (0x00, 0x7F, 0x80, 0xA0, 0xBF, 0xC0, 0xFF):
                pieces = [b"\x81\x7d", text[:1], text[1:], bytes([last])]
                refused = self.refused(*pieces)
                expected = text + pieces[-1] not in possible
                self.assertEqual(refused, expected, text)
        for first in range(256):
            for second in range(256):
                text = bytes([first, second])
                if not is_unfinished(text[:1]):
                    continue
                refused = self.refused(b"\x81\x7d", text[:1], text[1:])
                self.assertEqual(refused, text not in possible, text)


if __name__ == "__main__":
    unittest.main()
