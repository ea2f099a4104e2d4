"""The codec against RFC 6455 section 5: tables, no sockets."""

from __future__ import annotations

import errno
import os
import random
import unittest

import codec
from codec import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    CloseCode,
    Decoder,
    Opcode,
    ProtocolError,
    encode_close,
    encode_frame,
    encode_message,
    mask,
)
from tests.rules import (
    BAD_HEADERS,
    CLEF,
    EURO,
    LIMIT,
    arriving,
    bad_streams,
    decode,
    masked,
    raw,
)
from tests.support import LINUX, MASKING_KEY

HELLO = bytes.fromhex("7f9f4d5158")  # "Hello" masked with the RFC's key


def splits(stream):
    """Yield the ways a stream may arrive: (name, pieces)."""
    yield "whole", [stream]
    yield "one byte at a time", [bytes([byte]) for byte in stream]
    cuts = range(1, len(stream))
    if len(stream) > 400:  # the header and the end are what matters
        cuts = [*range(1, 20), 1023, 1024, 1027, *range(-7, 0)]
    for cut in cuts:
        yield f"cut at {cut}", [stream[:cut], stream[cut:]]
    yield "an empty read between", [b"", stream[:1], b"", stream[1:]]


def plain(opcode, payload=b"", fin=True):
    """Return a frame as a server sends it."""
    return encode_frame(opcode, payload, b"", fin)


# RFC 6455 s5.7, as the bytes stand there: (name, masked, bytes, messages).
RFC_EXAMPLES = [
    ("unmasked text", False, raw("81 05", b"Hello"), [(TEXT, "Hello")]),
    (
        "masked text",
        True,
        raw("81 85 37fa213d", HELLO),
        [(TEXT, "Hello")],
    ),
    (
        "fragmented unmasked text",
        False,
        raw("01 03", b"Hel", "80 02", b"lo"),
        [(TEXT, "Hello")],
    ),
    ("unmasked ping", False, raw("89 05", b"Hello"), [(PING, b"Hello")]),
    ("masked pong", True, raw("8a 85 37fa213d", HELLO), [(PONG, b"Hello")]),
    (
        "256 bytes",
        False,
        raw("82 7e 0100", bytes(range(256))),
        [(BINARY, bytes(range(256)))],
    ),
    (
        "64 KiB",
        False,
        raw("82 7f 0000000000010000", bytes(range(256)) * 256),
        [(BINARY, bytes(range(256)) * 256)],
    ),
]

# What a client may send: (name, bytes, messages).
GOOD = [
    ("nothing in a text", masked(TEXT), [(TEXT, "")]),
    ("nothing in a binary", masked(BINARY), [(BINARY, b"")]),
    ("the empty ping of six bytes", masked(PING), [(PING, b"")]),
    ("the longest ping", masked(PING, b"p" * 125), [(PING, b"p" * 125)]),
    ("a pong nobody asked for", masked(PONG, b"x"), [(PONG, b"x")]),
    ("a key of zeros", raw("81 82 00000000", b"Hi"), [(TEXT, "Hi")]),
    ("NUL is a character", masked(TEXT, b"\0"), [(TEXT, "\0")]),
    (
        "four bytes a character",
        masked(TEXT, CLEF + EURO),
        [(TEXT, "\U0001d11e\u20ac")],
    ),
    (
        "bytes are not text",
        masked(BINARY, b"\xff\xfe"),
        [(BINARY, b"\xff\xfe")],
    ),
    (
        "three in one read",
        masked(TEXT, b"1") + masked(BINARY, b"2") + masked(TEXT, b"3"),
        [(TEXT, "1"), (BINARY, b"2"), (TEXT, "3")],
    ),
    (
        "binary in fragments",
        masked(BINARY, b"\xff", fin=False) + masked(CONTINUATION, b"\xfe"),
        [(BINARY, b"\xff\xfe")],
    ),
    (
        "a character in three fragments, control frames between",
        masked(TEXT, EURO[:1], fin=False)
        + masked(PING, b"1")
        + masked(CONTINUATION, EURO[1:2], fin=False)
        + masked(PONG, b"2")
        + masked(CONTINUATION, EURO[2:])
        + masked(TEXT, b"next"),
        [(PING, b"1"), (PONG, b"2"), (TEXT, "\u20ac"), (TEXT, "next")],
    ),
    (
        "bytes behind a text are not text",
        masked(TEXT, b"a", fin=False)
        + masked(CONTINUATION, b"b")
        + masked(BINARY, b"\xff", fin=False)
        + masked(CONTINUATION, b"\xfe"),
        [(TEXT, "ab"), (BINARY, b"\xff\xfe")],
    ),
    (
        "empty fragments",
        masked(TEXT, fin=False)
        + masked(CONTINUATION, fin=False)
        + masked(CONTINUATION, b"a", fin=False)
        + masked(CONTINUATION)
        + masked(BINARY, fin=False)
        + masked(CONTINUATION),
        [(TEXT, "a"), (BINARY, b"")],
    ),
    ("a close without a code", masked(CLOSE), [(CLOSE, Close(1005, ""))]),
    (
        "a close with a code",
        masked(CLOSE, raw("03e8")),
        [(CLOSE, Close(1000, ""))],
    ),
    (
        "a close with a reason",
        masked(CLOSE, raw("0fa0", EURO)),
        [(CLOSE, Close(4000, "\u20ac"))],
    ),
    (
        "the longest reason",
        masked(CLOSE, raw("03e9", b"r" * 123)),
        [(CLOSE, Close(1001, "r" * 123))],
    ),
    (
        "a close inside a message",
        masked(TEXT, b"a", fin=False) + masked(CLOSE),
        [(CLOSE, Close(1005, ""))],
    ),
    (
        "nothing counts behind a close",
        masked(TEXT, b"a") + masked(CLOSE) + masked(TEXT, b"b") + b"\xff\xff",
        [(TEXT, "a"), (CLOSE, Close(1005, ""))],
    ),
]

SIZES = [0, 1, 124, 125, 126, 127, 1023, 1024, 65535, 65536, 65537]


class Decoding(unittest.TestCase):
    def check(self, stream, messages, code=None, **options):
        for name, pieces in splits(stream):
            with self.subTest(split=name):
                self.assertEqual(decode(pieces, **options), (messages, code))

    def test_examples_of_the_rfc(self):
        for name, side, stream, messages in RFC_EXAMPLES:
            with self.subTest(name):
                self.check(stream, messages, masked=side)

    def test_what_a_client_may_send(self):
        for name, stream, messages in GOOD:
            with self.subTest(name):
                self.check(stream, messages)

    def test_bytes_trailing(self):
        # The beginning of the next frame must be kept, not lost.
        for name, stream, messages in GOOD:
            with self.subTest(name):
                after = [] if messages[-1][0] == CLOSE else [(PING, b"end")]
                frame = masked(PING, b"end")
                for cut in range(1, len(frame)):
                    pieces = [stream + frame[:cut], frame[cut:]]
                    self.assertEqual(decode(pieces), (messages + after, None))

    def test_boundaries_of_the_length(self):
        for size in SIZES:
            data = random.Random(size).getrandbits(size * 8 + 8)
            binary = data.to_bytes(size + 1, "big")[1:]
            text = "a" * size
            for side, key in ((True, MASKING_KEY), (False, b"")):
                with self.subTest(size=size, masked=side):
                    stream = encode_message(binary, key)
                    pieces = [stream[:9], stream[9:20], stream[20:]]
                    result = decode(pieces, side)
                    self.assertEqual(result, ([(BINARY, binary)], None))
                    stream = encode_message(text, key)
                    result = decode([stream], side)
                    self.assertEqual(result, ([(TEXT, text)], None))

    def test_a_message_of_exactly_the_limit(self):
        half = b"x" * (LIMIT // 2)
        cases = {
            "one frame": masked(BINARY, half * 2),
            "two frames": masked(BINARY, half, False)
            + masked(PING, b"not counted")
            + masked(CONTINUATION, half),
        }
        for name, stream in cases.items():
            with self.subTest(name):
                # Twice: the count starts again with each message.
                messages, code = decode([stream * 2])
                self.assertIsNone(code)
                self.assertEqual(messages.count((BINARY, half * 2)), 2)

    def test_a_limit_of_zero_leaves_control_frames(self):
        stream = masked(PING, b"p") + masked(TEXT) + masked(TEXT, b"a")
        expected = [(PING, b"p"), (TEXT, "")], 1009
        self.assertEqual(decode([stream], limit=0), expected)
        stream = masked(CLOSE, raw("03e8", b"reason"))
        expected = [(CLOSE, Close(1000, "reason"))], None
        self.assertEqual(decode([stream], limit=0), expected)

    def test_binary_messages_are_bytes(self):
        stream = masked(BINARY, b"12") + masked(PING, b"3")
        large = masked(BINARY, b"x" * 2000)
        two = masked(BINARY, b"x", False) + masked(CONTINUATION, b"x" * 2000)
        for _, pieces in [*splits(stream), *splits(large), *splits(two)]:
            for _, message in decode(pieces)[0]:
                self.assertIs(type(message), bytes)
        for key in (b"", MASKING_KEY):
            self.assertIs(type(encode_message(b"x" * 2000, key)), bytes)

    def test_each_rule(self):
        for name, stream, messages, code in bad_streams():
            with self.subTest(name):
                self.check(stream, messages, code)

    def test_each_rule_is_enforced_as_soon_as_it_is_broken(self):
        for name, stream, messages, _ in bad_streams():
            with self.subTest(name):
                self.assertEqual(decode([stream[:-1]]), (messages, None))

    def test_frames_before_the_offence_count_and_none_behind_it(self):
        before, after = masked(TEXT, b"before"), masked(TEXT, b"after")
        for name, stream, messages, code in bad_streams():
            with self.subTest(name):
                expected = [(TEXT, "before"), *messages], code
                self.assertEqual(decode([before + stream + after]), expected)

    def test_bytes_trailing_an_offence_change_nothing(self):
        for name, stream, messages, code in bad_streams():
            with self.subTest(name):
                for tail in (b"\0" * 20, b"\xff" * 20, masked(CLOSE)):
                    result = decode([stream + tail])
                    self.assertEqual(result, (messages, code))

    def test_an_unfinished_text_is_waited_for_while_it_can_become_valid(self):
        # test_codec_fuzz.py does the same with every one to three bytes.
        for text in (b"\xed\x9f", b"\xf4\x8f\xbf", CLEF + EURO[:2]):
            with self.subTest(text):
                self.check(arriving(text), [])

    def test_a_client_refuses_masked_frames(self):
        for name, stream, _ in GOOD:
            with self.subTest(name):
                self.assertEqual(decode([stream[:2]], False), ([], 1002))

    def test_a_client_applies_the_other_rules_too(self):
        for name, header, code in BAD_HEADERS:
            header = bytearray.fromhex(header)
            if len(header) != 2 or not header[1] & 0x80:
                continue
            header[1] &= 0x7F
            with self.subTest(name):
                self.assertEqual(decode([bytes(header)], False), ([], code))
        stream = bytes.fromhex(f"82 7f {LIMIT + 1:016x}")
        self.assertEqual(decode([stream], False), ([], 1009))
        self.assertEqual(decode([stream[:-1]], False), ([], None))
        self.check(raw("81 7e 0100", b"\xff"), [], 1007, masked=False)

    def test_every_close_code(self):
        allowed = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
        decoder = Decoder(masked=False)
        for code in [*range(5100), 9999, 0x8000, 0xFFFF]:
            stream = plain(CLOSE, code.to_bytes(2, "big"))
            if code in allowed:
                expected = [(CLOSE, Close(code, ""))]
                self.assertEqual(list(decoder.feed(stream)), expected)
            else:
                with self.assertRaises(ProtocolError, msg=code) as caught:
                    list(decoder.feed(stream))
                self.assertEqual(caught.exception.code, 1002, code)

    def test_errors_carry_a_code_and_the_rule_in_words(self):
        cases = [
            ("c185", 1002, "reserved bit"),
            ("8105", 1002, "client must mask"),
            ("8380", 1002, "opcode 0x3"),
            ("8b80", 1002, "opcode 0xB"),
            ("0980", 1002, "fragmented"),
            ("89fe", 1002, "125"),
            ("8080", 1002, "continuation"),
            ("01800000000081 80", 1002, "unfinished"),
            ("82fe0001", 1002, "fewest"),
            ("82ff8000000000000000", 1002, "top bit"),
            ("82ff7000000000000000", 1009, str(LIMIT)),
            ("818100000000ff", 1007, "0xFF"),
            ("81820000000080ff", 1007, "0x80"),
            ("81840000000061eda0", 1007, "0xED"),
            ("88810000000001", 1002, "two bytes"),
            ("88820000000003ed", 1002, "1005"),
        ]
        for stream, code, words in cases:
            with self.subTest(stream):
                with self.assertRaises(ProtocolError) as caught:
                    list(Decoder(True, LIMIT).feed(bytes.fromhex(stream)))
                error = caught.exception
                self.assertIs(type(error.code), int)
                self.assertEqual(error.code, code)
                self.assertIn(words, error.reason)
                self.assertIn(str(code), str(error))
                # It must fit a Close frame.
                encode_close(error.code, error.reason)

    def test_the_masked_flag_names_the_rule(self):
        with self.assertRaisesRegex(ProtocolError, "server must not mask"):
            list(Decoder(False).feed(masked(TEXT)))

    def test_the_usual_limit_is_a_mebibyte(self):
        header = bytes.fromhex(f"82 ff {2**20:016x}")
        self.assertEqual(list(Decoder(True).feed(header)), [])
        header = bytes.fromhex(f"82 ff {2**20 + 1:016x}")
        with self.assertRaises(ProtocolError):
            list(Decoder(True).feed(header))


class Encoding(unittest.TestCase):
    def test_examples_of_the_rfc(self):
        for name, side, stream, [(opcode, message)] in RFC_EXAMPLES:
            key = MASKING_KEY if side else b""
            with self.subTest(name):
                if opcode in (PING, PONG):
                    frame = encode_frame(opcode, message, key)
                    self.assertEqual(frame, stream)
                elif "fragmented" in name:
                    frames = encode_frame(TEXT, b"Hel", key, False)
                    frames += encode_frame(CONTINUATION, b"lo", key)
                    self.assertEqual(frames, stream)
                else:
                    self.assertEqual(encode_message(message, key), stream)

    def test_headers(self):
        cases = [
            (0, "82 00"),
            (125, "82 7d"),
            (126, "82 7e 007e"),
            (65535, "82 7e ffff"),
            (65536, "82 7f 0000000000010000"),
        ]
        for size, header in cases:
            with self.subTest(size):
                header = bytearray.fromhex(header)
                frame = encode_message(bytes(size))
                self.assertEqual(frame, bytes(header) + bytes(size))
                header[1] |= 0x80
                frame = encode_message(bytes(size), b"\0\0\0\0")
                self.assertEqual(frame, bytes(header) + bytes(4 + size))

    def test_strings_are_text_and_bytes_are_binary(self):
        self.assertEqual(encode_message("\u20ac"), raw("81 03", EURO))
        self.assertEqual(encode_message(b"\xff"), raw("82 01 ff"))

    def test_nothing_else_is_a_message(self):
        for message in (None, 1, True, ["a"], bytearray(b"a"), memoryview(b"")):
            with self.subTest(kind=type(message)):
                kind = type(message).__name__
                with self.assertRaisesRegex(TypeError, kind):
                    encode_message(message)

    def test_half_a_surrogate_pair_is_no_text(self):
        for encode in (encode_message, lambda text: encode_close(1000, text)):
            with self.assertRaises(ValueError):
                encode("\ud800")

    def test_close(self):
        cases = [
            ((1000,), "88 02 03e8"),
            ((1001, "bye"), "88 05 03e9 627965"),
            ((4999, "\u20ac"), "88 05 1387 e282ac"),
            ((1005,), "88 00"),
            ((1005, "", bytes(4)), "88 80 00000000"),
            ((1000, "", bytes(4)), "88 82 00000000 03e8"),
            ((1000, "r" * 123), "88 7d 03e8" + "72" * 123),
        ]
        for arguments, frame in cases:
            with self.subTest(arguments):
                self.assertEqual(encode_close(*arguments), raw(frame))

    def test_close_codes_that_are_not_sent(self):
        codes = [-1, 0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 65536]
        for code in codes:
            with self.subTest(code), self.assertRaises(ValueError):
                encode_close(code)

    def test_close_reasons_that_are_not_sent(self):
        cases = [(1000, "r" * 124), (1000, "\u20ac" * 42), (1005, "why")]
        for code, reason in cases:
            with self.subTest(reason), self.assertRaises(ValueError):
                encode_close(code, reason)

    def test_numbers_of_the_rfc(self):
        opcodes = {
            "CONTINUATION": 0,
            "TEXT": 1,
            "BINARY": 2,
            "CLOSE": 8,
            "PING": 9,
            "PONG": 10,
        }
        codes = {
            "NORMAL": 1000,
            "GOING_AWAY": 1001,
            "PROTOCOL_ERROR": 1002,
            "UNSUPPORTED": 1003,
            "NO_CODE": 1005,
            "ABNORMAL": 1006,
            "INVALID_DATA": 1007,
            "POLICY": 1008,
            "TOO_BIG": 1009,
            "INTERNAL_ERROR": 1011,
        }
        self.assertEqual(dict(Opcode.__members__), opcodes)
        self.assertEqual(dict(CloseCode.__members__), codes)
        for name, number in opcodes.items():
            self.assertEqual(getattr(codec, name), number)
        self.assertEqual(encode_close(CloseCode.TOO_BIG), raw("88 02 03f1"))


class InWords(unittest.TestCase):
    """What failed, as the diary and the client tell it."""

    def test_the_same_on_every_system(self):
        numbered = "Windows Error 0x2746"
        for error, words in (
            (OSError(errno.ECONNRESET, numbered), "Connection reset by peer"),
            (OSError(errno.ESHUTDOWN, numbered), "Broken pipe"),
            (OSError(errno.EMFILE, "Too many files"), "Too many files"),
            (TimeoutError("did not answer a ping"), "did not answer a ping"),
            (ConnectionError("the server hung up"), "the server hung up"),
            (ValueError("of a hook"), "of a hook"),
            (KeyError(), "KeyError"),
        ):
            with self.subTest(words):
                self.assertEqual(codec.in_words(error), words)

    def test_no_numbers_and_the_words_of_linux(self):
        for number, words in codec.FAILURES.items():
            self.assertRegex(words, "^[A-Za-z ]+$")
            if LINUX and number not in (errno.ESHUTDOWN, errno.ECONNABORTED):
                self.assertEqual(words, os.strerror(number))


class Masking(unittest.TestCase):
    def test_equals_its_definition(self):
        numbers = random.Random(6455)
        sizes = [*range(11), *range(1022, 1032), 65536]
        sizes += [numbers.randrange(5000) for _ in range(50)]
        for size in sizes:
            with self.subTest(size=size):
                payload = bytes(numbers.choices(range(256), k=size))
                key = bytes(numbers.choices(range(256), k=4))
                expected = bytes(
                    byte ^ key[i % 4] for i, byte in enumerate(payload)
                )
                result = mask(payload, key)
                self.assertEqual(result, expected)
                self.assertIs(type(result), bytes)
                self.assertEqual(mask(result, key), payload)
                self.assertEqual(mask(payload, b""), payload)

    def test_zeros_in_front_are_kept(self):
        self.assertEqual(mask(b"\0\0a", b"\0\0\0\0"), b"\0\0a")

    def test_pieces_of_every_size_turn_the_key(self):
        payload = bytes(range(250)) * 40
        stream = masked(BINARY, payload)
        for size in [*range(1, 20), *range(1020, 1030), 3001, 5000, 9990]:
            pieces = [
                stream[at : at + size] for at in range(0, len(stream), size)
            ]
            self.assertEqual(decode(pieces), ([(BINARY, payload)], None))


if __name__ == "__main__":
    unittest.main()
