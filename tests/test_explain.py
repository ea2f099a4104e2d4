"""What is told of a frame, a head and a key agrees with the parsers."""

from __future__ import annotations

import unittest

import codec
import handshake
from codec import BINARY, CLOSE, PING, TEXT, encode_frame
from lessons.explain import accept_steps, explain_frame, explain_head
from tests.support import KEY, MASKING_KEY

REQUEST = handshake.request_head(
    "127.0.0.1:9000", "/", KEY, {"User-Agent": "test", "Cookie": "a=b"}
)
HELLO = encode_frame(TEXT, b"Hello", MASKING_KEY)  # RFC 6455 s5.7


class Frames(unittest.TestCase):
    """explain_frame() and Decoder.read_header() must never drift apart."""

    def test_the_same_numbers_as_the_decoder(self):
        for size in (0, 1, 125, 126, 127, 65535, 65536, 70000):
            for opcode in (TEXT, BINARY, CLOSE, PING):
                if opcode >= CLOSE and size > 125:
                    continue
                for key in (b"", MASKING_KEY):
                    payload = bytes(size)
                    data = b"xx" + encode_frame(opcode, payload, key) + b"yy"
                    decoder = codec.Decoder(masked=bool(key))
                    fin, found, mask, start, length = decoder.read_header(
                        data, 2
                    )
                    fields = explain_frame(data, 2)
                    named = {field.name: field for field in fields}
                    self.assertEqual(named["FIN"].value, fin >> 7)
                    self.assertEqual(named["opcode"].value, found)
                    self.assertEqual(named["MASK"].value, bool(key))
                    if key:
                        self.assertEqual(named["masking key"].raw, mask)
                    payload = fields[-1]
                    self.assertEqual(payload.name, "payload")
                    self.assertEqual(payload.offset + 2, start)
                    self.assertEqual(payload.value, length)
                    self.assertEqual(payload.raw, data[start:-2])

    def test_cut_anywhere_it_is_the_beginning(self):
        for size in (5, 300, 70000):
            frame = encode_frame(TEXT, bytes(size), MASKING_KEY)
            whole = explain_frame(frame)
            for end in range(16):
                fields = explain_frame(frame[:end])
                if fields and fields[-1].name == "payload":
                    self.assertEqual(fields[:-1], whole[:-1])
                else:
                    self.assertEqual(fields, whole[: len(fields)])

    def test_the_bytes_are_all_there(self):
        frame = encode_frame(TEXT, bytes(range(200)), MASKING_KEY)
        fields = explain_frame(frame)
        raw = {field.offset: field.raw for field in fields}
        self.assertEqual(b"".join(raw[at] for at in sorted(raw)), frame)
        bits = [field.bits for field in fields if field.bits]
        self.assertEqual(bits, [0x80, 0x70, 0x0F, 0x80, 0x7F])

    def test_it_judges_nothing(self):
        named = {f.name: f for f in explain_frame(b"\xf3\x00")}
        self.assertEqual(named["RSV"].value, 7)
        self.assertEqual(named["RSV"].meaning, "reserved, but set")
        self.assertEqual(named["opcode"].meaning, "reserved")


class Heads(unittest.TestCase):
    """explain_head() and the parser must never drift apart."""

    def test_the_lines_of_a_head(self):
        names = ("host", "upgrade", "connection", "sec-websocket-key",
                 "sec-websocket-version")  # fmt: skip
        for head in (REQUEST, b"\r\n" + REQUEST):
            lines = explain_head(head + HELLO)
            self.assertEqual(lines[0].raw, b"GET / HTTP/1.1")
            for line in lines:
                end = line.offset + len(line.raw)
                found = head[line.offset : end + 2]
                self.assertEqual(found, line.raw + b"\r\n")
            needed = [line.name for line in lines if line.needed]
            self.assertEqual(needed, ["", *names])

    def test_the_same_headers_as_the_parser(self):
        more = {"Origin": "null", "Sec-WebSocket-Protocol": "chat", "X": "y"}
        head = handshake.request_head("a", "/", KEY, more)
        request, _ = handshake.take_request(head)
        lines = explain_head(head)[1:]
        self.assertEqual([line.name for line in lines], list(request.headers))
        # What check_upgrade(), check_origin() and others look at.
        unused = [line.name for line in lines if not line.needed]
        self.assertEqual(unused, ["x"])


class AcceptKeys(unittest.TestCase):
    def test_the_way_to_the_accept_key(self):
        keyed, digest, accept = accept_steps(KEY)
        self.assertEqual(keyed, KEY.encode() + handshake.GUID)
        self.assertEqual(len(digest), 20)
        self.assertEqual(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        self.assertEqual(accept, handshake.accept_key(KEY))

    def test_a_wrong_key_leads_nowhere(self):
        for key in ("", "short", KEY + "=", KEY[:-1], " " + KEY, "\xe9" * 24):
            with self.subTest(key):
                self.assertIsNone(accept_steps(key))


if __name__ == "__main__":
    unittest.main()
