"""The handshake against RFC 6455 section 4: tables, no sockets."""

from __future__ import annotations

import time
import unittest

import handshake
from handshake import (
    MAX_HEAD,
    MAX_INTERIM,
    HandshakeError,
    Headers,
    Request,
    Response,
    accept_key,
    check_origin,
    check_response,
    check_upgrade,
    choose_subprotocol,
    http_head,
    normalise_origin,
    outcome,
    refusal,
    request_head,
    switching_protocols,
    take_request,
    take_response,
    wants_websocket,
)
from tests.support import KEY, ROOT

# (key, accept): RFC 6455 s1.3, seed 002, seed 003.
KEYS = [
    ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ("2SCVXUeP9cTjV+0mWB8J6A==", "mLDKNeBNWz6T9SxU+o0Fy/HgeSw="),
    ("x3JJHMbDL1EzLkh9GBhXDw==", "HSmrc0sMlYUkAGmm5OPpG2HaGWk="),
]
HYPHEN = "\u2010"  # what seed 002 has in the place of "-"

# RFC 6455 s1.2, with the key of s1.3.
FIELDS = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Origin": "http://example.com",
    "Sec-WebSocket-Protocol": "chat, superchat",
    "Sec-WebSocket-Version": "13",
}
REQUEST_LINE = "GET /chat HTTP/1.1"
DATE = "Wed, 25 Nov 2026 21:00:00 GMT"


def head(first=REQUEST_LINE, *more, **changes):
    """Return a request of the RFC's, with header fields changed.

    A change's name has _ for -; None leaves the field out; more: lines
    that are added.
    """
    fields = dict(FIELDS)
    for name, value in changes.items():
        fields[name.replace("_", "-")] = value
    lines = [first]
    for name, value in fields.items():
        if value is not None:
            lines.append(f"{name}: {value}")
    lines += more
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


def take(received):
    """Return the request alone, which must be complete."""
    taken = take_request(received)
    if taken is None:
        raise AssertionError("not complete")
    return taken[0]


def upgrade(received):
    """Take a request and check it, as the server does."""
    request = take(received)
    check_upgrade(request)
    return request


def status_of(action, *arguments):
    """Return the status of the HandshakeError raised, None if none is."""
    try:
        action(*arguments)
    except HandshakeError as error:
        return error.status
    return None


class AcceptKey(unittest.TestCase):
    def test_the_keys_of_the_rfc_and_of_both_seeds(self):
        for key, accept in KEYS:
            with self.subTest(key):
                self.assertEqual(accept_key(key), accept)

    def test_the_hyphens_are_ascii(self):
        # Seed 002 has U+2010 in the GUID and in the header names.
        self.assertEqual(
            handshake.GUID, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        )
        source = (ROOT / "handshake.py").read_bytes()
        self.assertNotIn(HYPHEN.encode(), source)

    def test_u2010_in_a_header_name_is_refused(self):
        name = f"Sec{HYPHEN}WebSocket{HYPHEN}Key"
        stream = head(REQUEST_LINE, f"{name}: {KEY}", Sec_WebSocket_Key=None)
        self.assertEqual(status_of(take_request, stream), 400)

    def test_answers_have_no_u2010(self):
        answer = switching_protocols(upgrade(head()))
        self.assertTrue(answer.isascii())
        self.assertIn(b"\r\nSec-WebSocket-Accept: ", answer)


class TakeRequest(unittest.TestCase):
    def test_the_request_of_the_rfc(self):
        request, rest = take_request(head())
        self.assertEqual(rest, b"")
        self.assertEqual(request[:4], ("GET", "/chat", "", "1.1"))
        self.assertEqual(request.query, {})
        self.assertEqual(len(request.headers), len(FIELDS))
        for name, value in FIELDS.items():
            for spelled in (name, name.lower(), name.upper()):
                self.assertEqual(request.headers[spelled], value)
                self.assertIn(spelled, request.headers)
        self.assertEqual(
            set(request.headers), {name.lower() for name in FIELDS}
        )
        self.assertIn("server.example.com", repr(request.headers))

    def test_cut_at_every_byte(self):
        stream = head()
        whole = take(stream)
        for cut in range(len(stream)):
            self.assertIsNone(take_request(stream[:cut]), cut)
        self.assertEqual(str(take(stream)), str(whole))

    def test_a_host_that_is_none(self):
        for host, status in (
            ("127.0.0.1", None), ("127.0.0.1:9000", None), ("[::1]:1", None),
            ("a-b_c.example.", None), ("a:", None), ("%41!$", None),
            ("a b", 400), ("<script>", 400), ("a/x", 400), ("e@a", 400),
            (":9000", 400), ("a:b", 400), ("[g]", 400), ("a,b", None),
            ("\xe4", 400),
        ):  # fmt: skip
            with self.subTest(host):
                self.assertEqual(status_of(take, head(Host=host)), status)

    def test_the_host_of_a_whole_address_counts(self):
        whole = head("GET http://here.example:9000/chat HTTP/1.1", Host="a")
        self.assertEqual(take(whole).headers["Host"], "here.example:9000")
        for bad in ("e@a", "a%20b<", "a:b"):
            line = f"GET http://{bad}/ HTTP/1.1"
            with self.subTest(bad):
                self.assertEqual(status_of(take, head(line)), 400)
        line = "GET http://here.example/ HTTP/1.1"  # it needs both
        self.assertEqual(status_of(take, head(line, Host=None)), 400)

    def test_a_content_length_is_a_number(self):
        for length, status in (
            ("0", None), ("17", None), ("-1", 400), ("", 400), ("1, 1", 400),
            ("0x1", 400), ("\xb2", 400),
        ):  # fmt: skip
            with self.subTest(length):
                request = head(Content_Length=length)
                self.assertEqual(status_of(take, request), status)

    def test_no_more_lines_and_fields_than_a_hundred(self):
        lines = len(FIELDS)
        for count, status in ((99 - lines, None), (100 - lines + 1, 431)):
            more = {f"X{n}": "y" for n in range(count)}
            request = head(**more)
            with self.subTest(lines=lines + count):
                self.assertEqual(status_of(take, request), status)
                # Clear before the end has come.
                self.assertEqual(status_of(take_request, request[:-2]), status)
        for count, status in ((100, None), (101, 400)):
            line = "GET /?" + "&".join(["a"] * count) + " HTTP/1.1"
            with self.subTest(fields=count):
                self.assertEqual(status_of(take, head(line)), status)

    def test_bytes_behind_it_are_returned(self):
        stream = head()
        for rest in (b"\x81", b"\x81\x85", b"\r\n", b"\r\n\r\n", b"\n" * 9):
            request, found = take_request(stream + rest)
            self.assertEqual(found, rest)
            self.assertEqual(request.path, "/chat")
        self.assertEqual(take_request(stream + b"x" * 99999)[1], b"x" * 99999)

    def test_an_empty_line_before_it_is_ignored(self):
        # RFC 9112 s2.2: old browsers sent one behind a form.
        stream = b"\r\n" + head()
        for cut in range(len(stream)):
            self.assertIsNone(take_request(stream[:cut]), cut)
        request, rest = take_request(stream + b"\r\n")
        self.assertEqual((request.path, rest), ("/chat", b"\r\n"))
        # One, not a thousand.
        self.assertEqual(status_of(take_request, b"\r\n" + stream), 400)
        self.assertEqual(status_of(take_request, b"\r\n\r\n"), 400)
        self.assertEqual(status_of(take_request, b"\r\nHost: a"), 400)

    def test_targets(self):
        cases = [
            ("/", "/", {}),
            ("/chat", "/chat", {}),
            ("/a/b.c", "/a/b.c", {}),
            ("/?", "/", {}),
            ("/?a", "/", {"a": ""}),
            ("/?a=", "/", {"a": ""}),
            ("/chat?room=1&name=x", "/chat", {"room": "1", "name": "x"}),
            ("/?a=1&a=2", "/", {"a": "2"}),
            ("/?q=a?b/c", "/", {"q": "a?b/c"}),
            ("/?q=a+b%20c%2Bd%26", "/", {"q": "a b c+d&"}),
            ("/%E4%BD%A0?n=%E5%A5%BD", "/\u4f60", {"n": "\u597d"}),
            ("/%ff", "/\ufffd", {}),
            ("//x", "//x", {}),
            ("http://server.example.com/chat?a=b", "/chat", {"a": "b"}),
            ("https://server.example.com/chat", "/chat", {}),
            ("http://server.example.com", "/", {}),
            ("http://server.example.com?a=b", "/", {"a": "b"}),
            # RFC 9110 s4.2.3: schemes have no case.
            ("HTTP://server.example.com/", "/", {}),
            ("HttpS://server.example.com/chat?a=b", "/chat", {"a": "b"}),
        ]
        for target, path, query in cases:
            with self.subTest(target):
                request = take(head(f"GET {target} HTTP/1.1"))
                self.assertEqual((request.path, request.query), (path, query))

    def test_request_lines_that_are_refused(self):
        cases = [
            ("GET", 400),
            ("GET /", 400),
            ("GET  / HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            (" GET / HTTP/1.1", 400),
            ("GET / / HTTP/1.1", 400),
            ("GET\t/\tHTTP/1.1", 400),
            ("get / HTTP/1.1", 400),
            ("GET / http/1.1", 400),
            ("GET / HTTP/2.0", 400),
            ("GET / HTTP/0.9", 400),
            ("GET / HTTP/1.10", 400),
            ("GET / HTTP/1.", 400),
            ("GET / HTTP/11", 400),
            ("GET / HTTP/1,1", 400),
            ("GET /\x7f HTTP/1.1", 400),
            ("GET /\0 HTTP/1.1", 400),
            ("GET /\u00e4 HTTP/1.1", 400),
            ("GET chat HTTP/1.1", 400),
            ("GET * HTTP/1.1", 400),
            ("GET 127.0.0.1:9000 HTTP/1.1", 400),
            ("GET ftp://a/b HTTP/1.1", 400),
            ("GET xhttp://a/b HTTP/1.1", 400),
            ("GET http:///b HTTP/1.1", 400),
            ("GET /chat#top HTTP/1.1", 400),
            ("GET /?a#top HTTP/1.1", 400),
            ("POST / HTTP/1.1", 405),
            ("OPTIONS / HTTP/1.1", 405),
            ("CONNECT 127.0.0.1:9000 HTTP/1.1", 405),
            ("GETS / HTTP/1.1", 405),
        ]
        for line, status in cases:
            with self.subTest(line):
                self.assertEqual(status_of(take_request, head(line)), status)
                # The first line is enough; nobody waits for the others.
                first = line.encode() + b"\r\n"
                self.assertEqual(status_of(take_request, first), status)

    def test_head_is_a_method_too(self):
        request = take(head("HEAD / HTTP/1.1"))
        self.assertEqual(request.method, "HEAD")

    def test_host(self):
        cases = [
            ("HTTP/1.1", None, 400),
            ("HTTP/1.1", "", 400),
            ("HTTP/1.1", "  ", 400),
            ("HTTP/1.1", "127.0.0.1:9000", None),
            ("HTTP/1.0", None, None),  # older than the header
        ]
        for version, host, status in cases:
            with self.subTest(version=version, host=host):
                stream = head(f"GET / {version}", Host=host)
                self.assertEqual(status_of(take_request, stream), status)

    def test_header_lines(self):
        cases = [
            ("Name: value", "value"),
            ("Name:value", "value"),
            ("Name: \t value \t", "value"),
            ("Name:", ""),
            ("Name: ", ""),
            ("NAME: Value", "Value"),
            ("Name: a: b", "a: b"),
            ("Name: a\tb  c", "a\tb  c"),
            ("Name: \u00e4", "\u00c3\u00a4"),  # bytes are kept, as Latin-1
        ]
        for line, value in cases:
            with self.subTest(line):
                headers = take(head(REQUEST_LINE, line)).headers
                self.assertEqual(headers["name"], value)
        name = "!#$%&'*+-.^_`|~09azAZ"
        headers = take(head(REQUEST_LINE, f"{name}: 1")).headers
        self.assertEqual(headers[name], "1")

    def test_header_lines_that_are_refused(self):
        cases = {
            "no colon": b"Name",
            "no name": b": value",
            "space before the colon": b"Name : value",
            "tab before the colon": b"Name\t: value",
            "space in the name": b"Na me: value",
            "folded": b"Name: a\r\n b",
            "folded with a tab": b"Name: a\r\n\tb",
            "bare LF": b"Name: a\nOther: b",
            "bare CR": b"Name: a\rOther: b",
            "CR at the end": b"Name: a\r",
            "NUL": b"Name: a\0b",
            "NUL in the name": b"Na\0me: a",
            "ESC": b"Name: \x1b[2J",
            "DEL": b"Name: \x7f",
            "not ASCII in the name": b"N\xe4me: a",
            "brackets in the name": b"Name[]: a",
        }
        for name, line in cases.items():
            with self.subTest(name):
                stream = head()[:-2] + line + b"\r\n\r\n"
                self.assertEqual(status_of(take_request, stream), 400)
                stream = head().replace(b"Host", line + b"\r\nHost")
                self.assertEqual(status_of(take_request, stream), 400)

    def test_lines_ending_with_lf_alone(self):
        # Said at once, wherever such a line comes.
        whole = head()
        for stream in (
            whole.replace(b"\r\n", b"\n"),
            whole.replace(b"\r\n", b"\n", 1),
            whole.replace(b"\r\nHost", b"\nHost"),
            whole.replace(b"\r\nUpgrade", b"\nUpgrade"),
            whole[:-4] + b"\n\n",
            b"\n" + whole,
        ):
            end = stream.replace(b"\r\n", b"--").index(b"\n") + 1
            with self.subTest(stream):
                self.assertIsNone(take_request(stream[: end - 1]))
                for cut in (end, len(stream)):
                    with self.assertRaisesRegex(HandshakeError, "400.*CR LF"):
                        take_request(stream[:cut])

    def test_repeated_headers(self):
        once = [
            ("Host", "a"),
            ("host", "server.example.com"),
            ("Origin", "null"),
            ("Sec-WebSocket-Key", KEY),
            ("SEC-WEBSOCKET-VERSION", "13"),
        ]
        for name, value in once:
            with self.subTest(name):
                stream = head(REQUEST_LINE, f"{name}: {value}")
                with self.assertRaises(HandshakeError) as caught:
                    take_request(stream)
                self.assertEqual(caught.exception.status, 400)
                self.assertIn(f"The {name} header", caught.exception.reason)
        stream = head(REQUEST_LINE, "Content-Length: 0", "Content-Length: 0")
        self.assertEqual(status_of(take_request, stream), 400)

    def test_repeated_lists_are_one_list(self):
        stream = head(
            REQUEST_LINE,
            "connection: upgrade",
            "Cookie: a",
            "cookie: b",
            "COOKIE: c",
            Connection="keep-alive",
        )
        headers = upgrade(stream).headers
        self.assertEqual(headers["Connection"], "keep-alive, upgrade")
        self.assertEqual(headers["Cookie"], "a, b, c")
        self.assertEqual(headers.get_all("COOKIE"), ["a", "b", "c"])

    def test_the_largest_head(self):
        def of(size):
            """Return a request whose head has so many bytes."""
            short = head(REQUEST_LINE, "Cookie: ")
            return head(
                REQUEST_LINE, "Cookie: " + "x" * (size - len(short) + 4)
            )

        self.assertEqual(MAX_HEAD, 16 * 1024)
        stream = of(MAX_HEAD)
        self.assertEqual(take(stream).path, "/chat")
        # Wherever it is cut, also inside the empty line at its end.
        for cut in range(1, 9):
            self.assertIsNone(take_request(stream[:-cut]), cut)
        self.assertEqual(take(stream + b"frames" * 9999).path, "/chat")
        self.assertEqual(status_of(take_request, of(MAX_HEAD + 1)), 431)

    def test_a_head_without_end(self):
        endless = {
            "a header": head()[:-4] + b"\r\nCookie: " + b"x" * 2**20,
            "a target": b"GET /" + b"x" * 2**20,
            "a few headers": head()[:-2] + (b"a: " + b"b" * 250 + b"\r\n") * 90,
        }
        for name, stream in endless.items():
            with self.subTest(name):
                self.assertIsNone(take_request(stream[:MAX_HEAD]))
                stream = stream[: MAX_HEAD + 4]
                self.assertEqual(status_of(take_request, stream), 431)

    def test_no_head_takes_long(self):
        # The largest heads that make a careless expression try everything.
        size = MAX_HEAD - 100
        start = b"GET / HTTP/1.1\r\nHost: a\r\n"
        heads = [
            start + b"a:" + b" " * size + b"\0",
            start + b"a:" + b" \t" * (size // 2) + b"\0b",
            start + b"a" * size,
            start + b"a: " + b", " * (size // 2) + b"\0",
            b"GET /" + b"?" * size + b"# HTTP/1.1",
            b"GET http://" + b"a" * size + b"# HTTP/1.1",
            b"GET " + b"/" * size + b"\x7f HTTP/1.1",
        ]
        for stream in heads:
            with self.subTest(stream[:30] + b"..." + stream[-30:]):
                start = time.process_time()
                status = status_of(take_request, stream + b"\r\n\r\n")
                seconds = time.process_time() - start
                self.assertEqual(status, 400)
                self.assertLess(seconds, 0.1)


TLS_HELLO = bytes.fromhex("16030102000100 01fc0303") + bytes(range(64))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\4\0\0\0\0\0"


class NoHttp(unittest.TestCase):
    """What is no HTTP is refused at once, not after ten seconds."""

    def first_refusal(self, stream):
        """Return (bytes that were needed, reason), one byte at a time."""
        for end in range(len(stream) + 1):
            try:
                self.assertIsNone(take_request(stream[:end]))
            except HandshakeError as error:
                self.assertEqual(error.status, 400)
                return end, error.reason
        return None, None

    def test_is_named_however_it_arrives(self):
        cases = [
            ("TLS 1.0 to 1.3", TLS_HELLO, "https", 1),
            ("HTTP/2", PREFACE, "HTTP/2", 12),
            ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", "SSH", 4),
        ]
        for name, stream, word, needed in cases:
            with self.subTest(name):
                end, reason = self.first_refusal(stream)
                self.assertEqual(end, needed)
                self.assertIn(word, reason)
                for cut in range(end, len(stream) + 1):
                    with self.assertRaises(HandshakeError) as caught:
                        take_request(stream[:cut])
                    self.assertEqual(caught.exception.status, 400)
                    self.assertEqual(caught.exception.reason, reason)

    def test_junk_is_refused_at_its_first_wrong_byte(self):
        cases = [
            (b"\0", 1),
            (b"\xff\xfe", 1),
            (b"\x81\x85\x37\xfa", 1),  # a frame without a handshake
            (b"hello\r\n", 1),
            (b"get / HTTP/1.1\r\n", 1),
            (b"\r\n\r\n", 4),
            (b"\r\n\n", 3),
            (b"\rG", 2),
            (b"\n", 1),
            (b" GET", 1),
            (b"G\0", 2),
            (b"GEt", 3),
            (b"GET\r", 4),
            (b"GET\t/", 4),
            (b"GET /\x80", 6),
            (b"GET /\r", 6),
            (b"GET / HTTP/1.1 ", 15),
            (b"GET / HTTP/1.1\rX", 16),
            (b"A" * 21, 21),
        ]
        for stream, needed in cases:
            with self.subTest(stream):
                self.assertEqual(self.first_refusal(stream)[0], needed)
                self.assertEqual(status_of(take_request, stream), 400)

    def test_a_long_method_is_refused_the_same_way_whole(self):
        stream = b"A" * 21 + b" / HTTP/1.1\r\n"
        self.assertEqual(status_of(take_request, stream), 400)
        stream = b"A" * 20 + b" / HTTP/1.1\r\n"
        self.assertEqual(status_of(take_request, stream), 405)

    def test_a_single_byte_is_either_a_letter_or_junk(self):
        for number in range(256):
            letter = ord("A") <= number <= ord("Z")
            status = None if letter or number == ord("\r") else 400
            found = status_of(take_request, bytes([number]))
            self.assertEqual(found, status, number)


# What s4.2.1 demands: (changes, status; None: it is accepted).
DEMANDS = [
    ({}, None),
    ({"Origin": None}, None),
    ({"Sec_WebSocket_Protocol": None}, None),
    ({"Sec_WebSocket_Extensions": "permessage-deflate"}, None),
    ({"Upgrade": None}, 400),
    ({"Upgrade": ""}, 400),
    ({"Upgrade": "h2c"}, 400),
    ({"Upgrade": "websockets"}, 400),
    ({"Upgrade": "web socket"}, 400),
    ({"Upgrade": "xwebsocket"}, 400),
    ({"Upgrade": "WebSocket"}, None),
    ({"Upgrade": "WEBSOCKET"}, None),
    ({"Upgrade": "h2c, websocket"}, None),
    ({"Upgrade": "h2c,WebSocket ,x"}, None),
    ({"Upgrade": "websocket\t, h2c"}, None),
    ({"Connection": None}, 400),
    ({"Connection": ""}, 400),
    ({"Connection": "keep-alive"}, 400),
    ({"Connection": "upgraded"}, 400),
    ({"Connection": "keep-alive upgrade"}, 400),
    ({"Connection": "upgrade"}, None),
    ({"Connection": "UPGRADE"}, None),
    ({"Connection": "keep-alive, Upgrade"}, None),
    ({"Connection": "Upgrade,keep-alive"}, None),
    ({"Connection": "a,\tupgrade\t,b"}, None),
    ({"Connection": ", ,Upgrade,"}, None),
    ({"Sec_WebSocket_Key": None}, 400),
    ({"Sec_WebSocket_Key": ""}, 400),
    ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAA"}, 400),  # 15 bytes
    ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAAA="}, 400),  # 17
    ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAAAA"}, 400),  # 18
    ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA"}, 400),  # no padding
    ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA="}, 400),
    ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==="}, 400),
    ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAA=="}, 400),
    ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAAA=="}, 400),
    ({"Sec_WebSocket_Key": "AAAAAAAAAAA AAAAAAAAAAA=="}, 400),
    ({"Sec_WebSocket_Key": "AAAAAAAAAAA-AAAAAAAAAA=="}, 400),
    ({"Sec_WebSocket_Key": "AAAAAAAAAAA\u00e9AAAAAAAAA=="}, 400),
    ({"Sec_WebSocket_Key": f"{KEY}, {KEY}"}, 400),
    ({"Sec_WebSocket_Key": "+/+/0189azAZ+/0189azAQ=="}, None),
    ({"Sec_WebSocket_Version": None}, 400),
    ({"Sec_WebSocket_Version": ""}, 426),
    ({"Sec_WebSocket_Version": "8"}, 426),
    ({"Sec_WebSocket_Version": "12"}, 426),
    ({"Sec_WebSocket_Version": "14"}, 426),
    ({"Sec_WebSocket_Version": "013"}, 426),
    ({"Sec_WebSocket_Version": "13, 8"}, 426),
    ({"Content_Length": "0"}, None),
    ({"Content_Length": "5"}, 400),
    ({"Content_Length": "-0"}, 400),
    ({"Transfer_Encoding": "chunked"}, 400),
]


class CheckUpgrade(unittest.TestCase):
    def test_each_demand(self):
        for changes, status in DEMANDS:
            with self.subTest(changes):
                self.assertEqual(status_of(upgrade, head(**changes)), status)

    def test_method_and_version(self):
        cases = [
            ("HEAD / HTTP/1.1", 405),
            ("GET / HTTP/1.0", 400),
            ("GET / HTTP/1.2", None),  # s4.2.1: 1.1 or higher
            ("GET / HTTP/1.1", None),
        ]
        for line, status in cases:
            with self.subTest(line):
                self.assertEqual(status_of(upgrade, head(line)), status)

    def test_the_reason_says_what_was_wrong(self):
        cases = [
            ({"Upgrade": None}, "Upgrade: websocket"),
            ({"Connection": None}, "Connection: Upgrade"),
            ({"Sec_WebSocket_Key": None}, "Sec-WebSocket-Key"),
            ({"Sec_WebSocket_Version": None}, "Sec-WebSocket-Version"),
            ({"Sec_WebSocket_Version": "8"}, "8"),
            ({"Content_Length": "1"}, "body"),
        ]
        for changes, words in cases:
            request = take(head(**changes))
            with self.subTest(changes):
                with self.assertRaises(HandshakeError) as caught:
                    check_upgrade(request)
                self.assertIn(words, caught.exception.reason)

    def test_a_page_is_told_from_a_handshake(self):
        page = b"GET / HTTP/1.1\r\nHost: a\r\n"
        cases = [
            (b"", False),
            (b"Connection: keep-alive\r\n", False),
            (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", False),
            (b"Upgrade: WebSocket\r\n", True),
            (b"Upgrade: h2c, websocket\r\n", True),
            (b"sec-websocket-key: x\r\n", True),
            (b"Sec-WebSocket-Version: 13\r\n", True),
        ]
        for lines, expected in cases:
            with self.subTest(lines):
                request = take(page + lines + b"\r\n")
                self.assertEqual(wants_websocket(request), expected)


class Answers(unittest.TestCase):
    def test_switching_protocols(self):
        self.assertEqual(
            switching_protocols(upgrade(head())).decode().split("\r\n"),
            [
                "HTTP/1.1 101 Switching Protocols",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "Sec-WebSocket-Protocol: chat",
                "",
                "",
            ],
        )

    def test_subprotocols(self):
        cases = [
            (None, None),
            ("", None),
            ("chat", "chat"),
            ("chat, superchat", "chat"),
            ("superchat, chat", "chat"),
            ("superchat,chat", "chat"),
            ("superchat", None),
            ("Chat", None),
            ("chatter", None),
            ("chat superchat", None),
        ]
        for offered, chosen in cases:
            with self.subTest(offered):
                request = upgrade(head(Sec_WebSocket_Protocol=offered))
                self.assertEqual(choose_subprotocol(request), chosen)
                answer = switching_protocols(request)
                response, _ = take_response(answer)
                self.assertEqual(response.subprotocol, chosen)
                if chosen is None:
                    self.assertNotIn(b"Protocol:", answer)

    def test_two_subprotocol_headers_are_one_list(self):
        line = "Sec-WebSocket-Protocol: chat"
        stream = head(REQUEST_LINE, line, Sec_WebSocket_Protocol="superchat")
        self.assertEqual(choose_subprotocol(upgrade(stream)), "chat")

    def test_every_refusal(self):
        cases = [
            (400, "Bad Request"),
            (403, "Forbidden"),
            (404, "Not Found"),
            (405, "Method Not Allowed"),
            (408, "Request Timeout"),
            (426, "Upgrade Required"),
            (431, "Request Header Fields Too Large"),
            (451, "Unavailable For Legal Reasons"),
            (499, "Error"),
            (503, "Service Unavailable"),
        ]
        for status, phrase in cases:
            with self.subTest(status):
                error = HandshakeError(status, "One sentence.")
                answer = refusal(error, False, DATE)
                short = refusal(error, True, DATE)
                response, body = take_response(answer)
                self.assertEqual(short + body, answer)
                headers = response.headers
                self.assertEqual(response[:2], (status, phrase))
                self.assertEqual(body, b"One sentence.\n")
                self.assertEqual(headers["Content-Length"], str(len(body)))
                self.assertIn("text/plain", headers["Content-Type"])
                options = handshake.tokens(headers["Connection"])
                self.assertIn("close", options)
                version = "13" if status == 426 else None
                self.assertEqual(headers.get("Sec-WebSocket-Version"), version)
                # RFC 9110: a 426 names the protocol, hop by hop.
                self.assertEqual("upgrade" in options, status == 426)
                protocol = "websocket" if status == 426 else None
                self.assertEqual(headers.get("Upgrade"), protocol)
                allow = "GET, HEAD" if status == 405 else None
                self.assertEqual(headers.get("Allow"), allow)
                self.assertEqual(headers["Date"], DATE)

    def test_refusals_are_ascii(self):
        error = HandshakeError(403, "Pages from \u00e4\u202e may not connect.")
        answer = refusal(error, False, DATE)
        self.assertTrue(answer.isascii())
        response, body = take_response(answer)
        self.assertIn(b"\\xe4\\u202e", body)
        self.assertEqual(response.headers["Content-Length"], str(len(body)))

    def test_the_reasons_of_the_module_are_one_sentence(self):
        streams = [
            TLS_HELLO,
            PREFACE,
            b"SSH-",
            b"\0",
            b"GET / HTTP/1.1\n",
            b"GET /\r\n",
            b"PUT / HTTP/1.1\r\n",
            b"GET x HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            head(REQUEST_LINE, "x"),
            head(REQUEST_LINE, "Host: x"),
            head("HEAD / HTTP/1.1"),
            head("GET / HTTP/1.0"),
            b"GET /" + b"x" * 2 * MAX_HEAD,
            *[head(**changes) for changes, status in DEMANDS if status],
        ]
        for stream in streams:
            with self.subTest(stream[:60]):
                try:
                    upgrade(stream)
                except HandshakeError as error:
                    self.assertRegex(error.reason, r"\A[A-Z][^\r\n]*\.\Z")
                    self.assertIs(type(error.status), int)
                    self.assertIn(str(error.status), str(error))

    def test_the_head_of_a_page(self):
        answer = http_head(200, "text/html", 5, DATE, ["X: y"]) + b"hello"
        response, body = take_response(answer)
        self.assertEqual(response[:2], (200, "OK"))
        self.assertEqual(body, b"hello")
        self.assertEqual(response.headers["Date"], DATE)
        self.assertEqual(response.headers["X"], "y")
        self.assertEqual(response.headers["Content-Length"], "5")
        self.assertEqual(response.headers["Connection"], "close")
        # An edited page shows on reload, and nobody guesses its type.
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        options = response.headers["X-Content-Type-Options"]
        self.assertEqual(options, "nosniff")
        self.assertEqual(
            response.headers["Content-Type"], "text/html; charset=utf-8"
        )


OWN = {"classroom-pc", "classroom-pc.school.example"}
# (Host, Origin, may it connect with no --origin, and with NAMED)
NAMED = {"https://chat.example", "http://other.example:8080"}
ORIGINS = [
    # Without Origin: no browser. From disk: null.
    ("127.0.0.1:9000", None, True, True),
    ("127.0.0.1:9000", "null", True, False),
    # The own address, however it is written.
    ("127.0.0.1:9000", "http://127.0.0.1:9000", True, True),
    ("192.168.1.17:9000", "http://192.168.1.17:9000", True, True),
    ("localhost:9000", "http://localhost:9000", True, True),
    ("LocalHost:9000", "http://localhost:9000", True, True),
    ("localhost:9000", "HTTP://LOCALHOST:9000", True, True),
    ("[::1]:9000", "http://[::1]:9000", True, True),
    ("[fe80::1:2]:9000", "http://[FE80::1:2]:9000", True, True),
    ("classroom-pc:9000", "http://classroom-pc:9000", True, True),
    ("Classroom-PC:9000", "http://classroom-pc:9000", True, True),
    (
        "classroom-pc.school.example:9000",
        "http://classroom-pc.school.example:9000",
        True,
        True,
    ),
    # Port 80 need not be written.
    ("127.0.0.1", "http://127.0.0.1", True, True),
    ("127.0.0.1:80", "http://127.0.0.1", True, True),
    ("127.0.0.1", "http://127.0.0.1:80", True, True),
    ("127.0.0.1:9000", "http://127.0.0.1", False, False),
    ("127.0.0.1", "http://127.0.0.1:9000", False, False),
    # Another port, another host: another site.
    ("127.0.0.1:9000", "http://127.0.0.1:9001", False, False),
    ("127.0.0.1:9000", "http://127.0.0.2:9000", False, False),
    ("127.0.0.1:9000", "http://localhost:9000", False, False),
    ("127.0.0.1:9000", "https://127.0.0.1:9000", False, False),
    ("[::1]:9000", "http://[::2]:9000", False, False),
    ("127.0.0.1:9000", "http://evil.example", False, False),
    ("127.0.0.1:9000", "http://evil.example:9000", False, False),
    # What only looks like it.
    ("127.0.0.1:9000", "http://127.0.0.1:9000.evil.example", False, False),
    ("127.0.0.1:9000", "http://127.0.0.1.evil.example:9000", False, False),
    ("127.0.0.1:9000", "http://127.0.0.1:9000@evil.example", False, False),
    ("127.0.0.1:9000", "http://evil.example/127.0.0.1:9000", False, False),
    ("127.0.0.1:9000", "http://evil.example#127.0.0.1:9000", False, False),
    ("127.0.0.1:9000", "http://127.0.0.1:9000/", False, False),
    ("127.0.0.1:9000", "http://127.0.0.1:9000 ", True, True),  # trimmed
    ("127.0.0.1:9000", "http://127.0.0.1:9000, null", False, False),
    ("127.0.0.1:9000", "xhttp://127.0.0.1:9000", False, False),
    ("127.0.0.1:9000", "//127.0.0.1:9000", False, False),
    ("127.0.0.1:9000", "file://", False, False),
    ("127.0.0.1:9000", "", False, False),
    ("127.0.0.1:9000", "nullx", False, False),
    ("127.0.0.1x:9000", "http://127.0.0.1:9000", False, False),
    # Only Host and Origin agree (DNS rebinding: the name leads here).
    ("evil.example:9000", "http://evil.example:9000", False, False),
    ("evil.example", "http://evil.example", False, False),
    (
        "127.0.0.1.evil.example:9000",
        "http://127.0.0.1.evil.example:9000",
        False,
        False,
    ),
    (
        "localhost.evil.example:9000",
        "http://localhost.evil.example:9000",
        False,
        False,
    ),
    ("1.2.3.evil:9000", "http://1.2.3.evil:9000", False, False),
    ("1.2.3.4.5:9000", "http://1.2.3.4.5:9000", False, False),
    ("1x2x3x4:9000", "http://1x2x3x4:9000", False, False),
    ("xlocalhost:9000", "http://xlocalhost:9000", False, False),
    (
        "classroom-pc.evil.example:9000",
        "http://classroom-pc.evil.example:9000",
        False,
        False,
    ),
    # Named with --origin: exactly these. Schemes and hosts have no case.
    ("127.0.0.1:9000", "HTTPS://Chat.Example", False, True),
    ("127.0.0.1:9000", "https://chat.example", False, True),
    ("127.0.0.1:9000", "http://other.example:8080", False, True),
    ("127.0.0.1:9000", "http://chat.example", False, False),
    ("127.0.0.1:9000", "https://chat.example:8443", False, False),
    ("127.0.0.1:9000", "https://chat.example.evil", False, False),
    ("127.0.0.1:9000", "http://other.example", False, False),
]


class CheckOrigin(unittest.TestCase):
    def check(self, host, origin, allowed, expected):
        request = take(head(Host=host, Origin=origin))
        status = status_of(check_origin, request, allowed, OWN)
        self.assertEqual(status, None if expected else 403)

    def test_the_table(self):
        for host, origin, expected, expected_with_names in ORIGINS:
            with self.subTest(host=host, origin=origin):
                self.check(host, origin, ["null"], expected)
                self.check(host, origin, NAMED, expected_with_names)

    def test_who_is_refused_is_told_how_to_be_named(self):
        for origin in ("null", "http://other.example"):
            request = take(head(Host="127.0.0.1:9000", Origin=origin))
            with self.assertRaisesRegex(HandshakeError, f"--origin {origin}"):
                check_origin(request, [], OWN)

    def test_null_may_be_named(self):
        self.check("127.0.0.1:9000", "null", [], False)
        self.check("127.0.0.1:9000", "null", ["null"], True)
        self.check("127.0.0.1:9000", "null", [*NAMED, "null"], True)

    def test_a_page_from_disk_may_be_named_as_some_send_it(self):
        self.check("127.0.0.1:9000", "file://", ["file://"], True)
        self.check("127.0.0.1:9000", "file:///", ["file://"], False)
        self.check("127.0.0.1:9000", "null", ["file://"], False)

    def test_what_is_named_means_what_a_browser_sends(self):
        for text, origin in NORMAL_ORIGINS:
            with self.subTest(text):
                allowed = [normalise_origin(text)]
                self.check("127.0.0.1:9000", origin, allowed, True)

    def test_no_own_names(self):
        request = take(head(Host="classroom-pc", Origin="http://classroom-pc"))
        self.assertEqual(status_of(check_origin, request, [], ()), 403)

    def test_the_refusal_names_the_origin(self):
        request = take(head(Origin="http://evil.example"))
        with self.assertRaisesRegex(HandshakeError, "http://evil.example"):
            check_origin(request, [], OWN)


# (as somebody may write it, as browsers send it)
NORMAL_ORIGINS = [
    ("null", "null"),
    ("http://[0:0:0:0:0:0:0:1]:80", "http://[::1]"),
    ("http://a1.example", "http://a1.example"),
    ("file://", "file://"),
    ("http://example.com", "http://example.com"),
    ("http://Example.com:80", "http://example.com"),
    ("https://example.com:443/", "https://example.com"),
    ("HTTP://Example.com", "http://example.com"),
    ("HTTPS://EXAMPLE.COM:443", "https://example.com"),
    ("http://example.com/", "http://example.com"),
    ("http://example.com:443", "http://example.com:443"),
    ("https://example.com:80", "https://example.com:80"),
    ("http://example.com:8000/", "http://example.com:8000"),
    ("http://example.com:1", "http://example.com:1"),
    ("http://example.com:65535", "http://example.com:65535"),
    ("http://example.com.", "http://example.com."),
    ("http://localhost:3000", "http://localhost:3000"),
    ("http://class_room-1", "http://class_room-1"),
    ("http://192.168.1.17:8080", "http://192.168.1.17:8080"),
    ("http://[::1]:9000", "http://[::1]:9000"),
    ("http://[FE80::1:2]:80/", "http://[fe80::1:2]"),
    ("http://M\u00fcnchen.example", "http://xn--mnchen-3ya.example"),
    ("https://\u4f60\u597d.example:8443", "https://xn--6qq79v.example:8443"),
    # Extensions of browsers, and apps that show pages.
    ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ("moz-extension://1b4e28ba-2fa1", "moz-extension://1b4e28ba-2fa1"),
    ("safari-web-extension://1B4E-2FA1", "safari-web-extension://1B4E-2FA1"),
    ("capacitor://localhost", "capacitor://localhost"),
    ("ionic://localhost", "ionic://localhost"),
    ("tauri://localhost", "tauri://localhost"),
    ("app://obsidian.md", "app://obsidian.md"),
]
NO_ORIGINS = [
    # A host that ends in a number is an address; browsers write it in full.
    "http://127.1", "http://0x7f.0.0.1", "http://2130706433", "http://x.1",
    "http://256.0.0.1", "http://[::g]", "http://[1:2]",
    # IDNA 2003, which Python has, would make another name of these.
    "http://fa\xdf.de", "http://\u03c2.example", "http://" + "a" * 64 + ".de",
    "", " ", "*", "Null", "none", "/", "://", "//a",
    "example.com", "example.com:80", "127.0.0.1", "localhost:9000",
    "http", "http:", "http:/", "http://", "http:///", "https://", "http:a",
    "http://a/index.html", "http://a//", "http://a/b/", "http://a?b",
    "http://a?", "http://a#b", "http://a#", "http://a/#", "http://a\\",
    "ftp://x", "ws://a", "wss://a:9000", "file:///", "file://a", "data:,",
    "about:blank", "xhttp://a", "javascript://a",
    "http://a:", "http://a:0", "http://a:65536", "http://a:99999",
    "http://a:100000", "http://a:-1", "http://a:+1", "http://a:x",
    "http://a:1:2", "http://:80", "http://a:8 0",
    "http://user@a", "http://user:word@a", "http://@a",
    " http://a", "http://a ", "http://a b", "http://a\n", "http://a/\n",
    "http://a\tb", "http://a, http://b", "http://a,b",
    "http://*", "http://*.example.com", "http://a..b", "http://.", "http://.a",
    "http://[", "http://[]", "http://[::1", "http://::1", "http://[::1]a",
    "http://[fe80::1%eth0]", "http://[a.b.example]x", "http://<a>",
    "http://" + "a" * 64, "http://\u00e4" + "a" * 64,
]  # fmt: skip


class NormaliseOrigin(unittest.TestCase):
    def test_is_what_browsers_send(self):
        for text, origin in NORMAL_ORIGINS:
            with self.subTest(text):
                self.assertEqual(normalise_origin(text), origin.lower())

    def test_once_is_enough(self):
        for _, origin in NORMAL_ORIGINS:
            with self.subTest(origin):
                once = normalise_origin(origin)
                self.assertEqual(normalise_origin(once), once)

    def test_what_no_browser_sends(self):
        for text in NO_ORIGINS:
            with self.subTest(text):
                with self.assertRaises(ValueError) as caught:
                    normalise_origin(text)
                self.assertRegex(str(caught.exception), r"\A[ -~]{10,79}\Z")


class RequestHead(unittest.TestCase):
    def test_is_what_a_server_takes(self):
        fields = {"Origin": "http://a", "Sec-WebSocket-Protocol": "chat"}
        stream = request_head("127.0.0.1:9000", "/chat?a=b", KEY, fields)
        request, rest = take_request(stream)
        check_upgrade(request)
        self.assertEqual(rest, b"")
        self.assertEqual((request.path, request.query), ("/chat", {"a": "b"}))
        self.assertEqual(request.headers["Host"], "127.0.0.1:9000")
        self.assertEqual(request.headers["Origin"], "http://a")
        self.assertEqual(request.headers["Sec-WebSocket-Key"], KEY)
        self.assertTrue(stream.startswith(b"GET /chat?a=b HTTP/1.1\r\nHost: "))

    def test_another_host_takes_the_place_of_ours(self):
        for name in ("Host", "host", "HOST"):
            with self.subTest(name):
                stream = request_head("a:9000", "/", KEY, {name: "b"})
                self.assertEqual(take(stream).headers["Host"], "b")
                self.assertNotIn(b"a:9000", stream)

    def test_what_would_stand_there_twice(self):
        cases = [
            {"Upgrade": "websocket"},
            {"connection": "keep-alive"},
            {"Sec-WebSocket-Key": KEY},
            {"sec-websocket-version": "8"},
            {"Origin": "http://a", "origin": "http://b"},
            {"Host": "a", "HOST": "b"},
            {"X-Mine": "1", "x-mine": "2"},
        ]
        for headers in cases:
            with self.subTest(headers):
                name = list(headers)[-1]
                with self.assertRaisesRegex(ValueError, "(?i)already.*" + name):
                    request_head("a", "/", KEY, headers)

    def test_what_would_break_out_of_its_line(self):
        cases = [
            ("a\r\nX: y", "/", KEY, {}),
            ("a\n", "/", KEY, {}),
            ("a\0", "/", KEY, {}),
            ("a", "/ HTTP/1.1\r\nX: y\r\n", KEY, {}),
            ("a", "/ ", KEY, {}),
            ("a", "/a b", KEY, {}),
            ("a", "/\n", KEY, {}),
            ("a", "/\u00e4", KEY, {}),
            ("a", "", KEY, {}),
            ("a", "chat", KEY, {}),
            ("a", "?a=b", KEY, {}),
            ("a", "http://a/", KEY, {}),
            ("a", "/chat#top", KEY, {}),
            ("a", "/", KEY + "\r\nX: y", {}),
            ("a", "/", KEY + "\n", {}),
            ("a", "/", KEY, {"X": "y\r\nZ: a"}),
            ("a", "/", KEY, {"X": "y\r\n"}),
            ("a", "/", KEY, {"X": "y\n a"}),
            ("a", "/", KEY, {"X\r\nY": "z"}),
            ("a", "/", KEY, {"X: y\r\nZ": "a"}),
            ("a", "/", KEY, {"X Y": "z"}),
            ("a", "/", KEY, {"X ": "z"}),
            ("a", "/", KEY, {"": "z"}),
            ("a", "/", KEY, {"X\u2010Y": "z"}),
            ("a", "/", KEY, {"X": "\u4f60"}),
        ]
        for arguments in cases:
            with self.subTest(arguments), self.assertRaises(ValueError):
                request_head(*arguments)


def response_head(first="HTTP/1.1 101 Switching Protocols", **changes):
    """Return a server's answer, with header fields changed or left out."""
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Accept": KEYS[0][1],
    }
    fields.update(changes)
    lines = [first]
    for name, value in fields.items():
        if value is not None:
            lines.append(f"{name.replace('_', '-')}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"


class TakeResponse(unittest.TestCase):
    def test_cut_at_every_byte(self):
        stream = response_head()
        for cut in range(len(stream)):
            self.assertIsNone(take_response(stream[:cut]), cut)
        response, rest = take_response(stream + b"\x81\x02Hi\r\n\r\n")
        self.assertEqual(rest, b"\x81\x02Hi\r\n\r\n")
        self.assertEqual(response[:2], (101, "Switching Protocols"))
        self.assertEqual(response.headers["upgrade"], "websocket")
        self.assertIsNone(response.subprotocol)

    def test_status_lines(self):
        cases = [
            ("HTTP/1.1 101 Switching Protocols", 101, "Switching Protocols"),
            ("HTTP/1.1 403 ", 403, ""),
            ("HTTP/1.1 503", 503, ""),
        ]
        for line, status, reason in cases:
            with self.subTest(line):
                response, _ = take_response(response_head(line))
                self.assertEqual(response[:2], (status, reason))

    def test_what_is_no_response(self):
        cases = [
            b"SSH-2.0-OpenSSH\r\n",
            b"\x15\x03\x01\0\2\2\x46",
            b"h",
            b"HTTPS/1.1 ",
            response_head("HTTP/1.0 101 Switching Protocols"),
            response_head("HTTP/2 101 Switching Protocols"),
            response_head("HTTP/1.1 10 Switching Protocols"),
            response_head("HTTP/1.1 1010 Switching Protocols"),
            response_head("HTTP/1.1  101 Switching Protocols"),
            response_head("HTTP/1.1 abc Switching Protocols"),
            response_head().replace(b"Upgrade: ", b"Upgrade : "),
            response_head()[:-2] + b"folded: a\r\n b\r\n\r\n",
            response_head()[:-2] + b"Sec-WebSocket-Accept: a\r\n\r\n",
        ]
        for stream in cases:
            for before in (b"", EARLY_HINTS):
                with self.subTest(stream, before=before):
                    found = status_of(take_response, before + stream)
                    self.assertEqual(found, 400)

    def test_lines_ending_with_lf_alone(self):
        # Said at once, wherever such a line comes.
        whole = response_head()
        for stream in (
            whole.replace(b"\r\n", b"\n"),
            whole.replace(b"\r\n", b"\n", 1),
            whole.replace(b"\r\nConnection", b"\nConnection"),
            whole[:-4] + b"\n\n",
        ):
            end = stream.replace(b"\r\n", b"--").index(b"\n") + 1
            with self.subTest(stream):
                self.assertIsNone(take_response(stream[: end - 1]))
                for cut in (end, len(stream)):
                    with self.assertRaisesRegex(HandshakeError, "400.*CR LF"):
                        take_response(stream[:cut])
        # A body may have any lines.
        body = b"one\ntwo\n\nthree"
        self.assertEqual(take_response(whole + body)[1], body)

    def test_interim_responses_are_skipped(self):
        # RFC 9110 s15.2. A 101 is not one of them: it is the answer.
        for before in (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            EARLY_HINTS,
            b"HTTP/1.1 199\r\n\r\n",
            EARLY_HINTS * MAX_INTERIM,
        ):
            stream = before + response_head()
            with self.subTest(before):
                for cut in range(len(stream)):
                    self.assertIsNone(take_response(stream[:cut]), cut)
                response, rest = take_response(stream + b"\x81\0")
                self.assertEqual((response.status, rest), (101, b"\x81\0"))
                self.assertNotIn("Link", response.headers)

    def test_not_any_number_of_interim_responses(self):
        stream = EARLY_HINTS * (MAX_INTERIM + 1)
        self.assertIsNone(take_response(stream[:-1]))
        with self.assertRaisesRegex(HandshakeError, "never comes to"):
            take_response(stream)
        stream = EARLY_HINTS + response_head(X="x" * MAX_HEAD)
        self.assertEqual(status_of(take_response, stream), 431)
        stream = EARLY_HINTS[:-2] + b"X: " + b"x" * MAX_HEAD
        self.assertEqual(status_of(take_response, stream), 431)

    def test_cookies_are_kept_apart(self):
        cookies = ["a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT", "b=2", "c=3,4"]
        lines = "".join(f"\r\nset-cookie: {cookie}" for cookie in cookies)
        stream = response_head(X="1\r\nx: 2, 3" + lines)
        headers = take_response(stream)[0].headers
        self.assertEqual(headers.get_all("Set-Cookie"), cookies)
        self.assertEqual(headers["Set-Cookie"], cookies[0])
        self.assertEqual(headers.get_all("X"), ["1", "2, 3"])
        self.assertEqual(headers["X"], "1, 2, 3")
        self.assertEqual(headers.get_all("Y"), [])

    def test_the_largest_head(self):
        size = MAX_HEAD - len(response_head(X="")) + 4
        stream = response_head(X="x" * size)
        self.assertEqual(take_response(stream)[0].status, 101)
        for cut in range(1, 9):
            self.assertIsNone(take_response(stream[:-cut]), cut)
        stream = response_head(X="x" * (size + 1))
        self.assertEqual(status_of(take_response, stream), 431)
        stream = b"HTTP/1.1 " + b"x" * MAX_HEAD
        self.assertIsNone(take_response(stream[:MAX_HEAD]))
        stream = stream[: MAX_HEAD + 4]
        self.assertEqual(status_of(take_response, stream), 431)


class CheckResponse(unittest.TestCase):
    def check(self, offered=(), first=None, **changes):
        lines = (first,) if first else ()
        response, _ = take_response(response_head(*lines, **changes))
        check_response(response, KEY, offered)

    def test_what_is_right(self):
        cases = [
            {},
            {"Upgrade": "WebSocket"},
            {"Connection": "upgrade"},
            {"Connection": "keep-alive, Upgrade"},
            {"Sec_WebSocket_Extensions": ""},
            {"Server": "x", "Set_Cookie": "y"},
        ]
        for changes in cases:
            with self.subTest(changes):
                self.check(**changes)
                self.check(["chat"], **changes)

    def test_what_is_wrong(self):
        cases = [
            ({"Upgrade": None}, "Upgrade"),
            ({"Upgrade": "h2c"}, "Upgrade"),
            ({"Connection": None}, "Connection"),
            ({"Connection": "close"}, "Connection"),
            ({"Sec_WebSocket_Accept": None}, "Accept"),
            ({"Sec_WebSocket_Accept": ""}, "Accept"),
            ({"Sec_WebSocket_Accept": KEYS[2][1]}, "Accept"),
            ({"Sec_WebSocket_Accept": KEYS[0][1].lower()}, "Accept"),
            ({"Sec_WebSocket_Extensions": "deflate"}, "extension"),
            ({"Sec_WebSocket_Protocol": "chat"}, "subprotocol"),
        ]
        for changes, words in cases:
            with self.subTest(changes):
                with self.assertRaisesRegex(HandshakeError, words) as caught:
                    self.check(**changes)
                self.assertEqual(caught.exception.status, 101)

    def test_subprotocols(self):
        self.check(["chat", "superchat"], Sec_WebSocket_Protocol="superchat")
        self.check(["chat"])  # the server need not choose one
        for chosen in ("superchat", "Chat", "chat, chat", ""):
            with self.subTest(chosen), self.assertRaises(HandshakeError):
                self.check(["chat"], Sec_WebSocket_Protocol=chosen)

    def test_another_status(self):
        for status in (200, 302, 401, 403, 404, 426, 503):
            with self.subTest(status):
                with self.assertRaisesRegex(HandshakeError, "Hm") as caught:
                    self.check(first=f"HTTP/1.1 {status} Hm")
                self.assertEqual(caught.exception.status, status)

    def test_a_redirect_names_its_target(self):
        cases = [
            (301, "ws://b:1/c", "Hm to ws://b:1/c"),
            (302, "/c?d=e", "Hm to /c?d=e"),
            (308, "\x80\xe4\t", r"Hm to \x80\xe4"),
            (307, "/" + "x" * 9999, "Hm to /" + "x" * 199),
            (302, "", "Hm"),
            (302, None, "Hm"),
            (200, "/c", "Hm"),
            (403, "/c", "Hm"),
        ]
        for status, place, words in cases:
            with self.subTest(status, place=place):
                first = f"HTTP/1.1 {status} Hm"
                stream = response_head(first, Location=place)
                self.assertEqual(outcome(take_response(stream)[0]), words)
                with self.assertRaises(HandshakeError) as caught:
                    self.check(first=first, Location=place)
                self.assertEqual(caught.exception.status, status)
                self.assertIn(words, caught.exception.reason)
        stream = response_head("HTTP/1.1 302", Location="/c")
        self.assertEqual(outcome(take_response(stream)[0]), "to /c")

    def test_a_status_without_a_reason(self):
        with self.assertRaises(HandshakeError) as caught:
            self.check(first="HTTP/1.1 503")
        self.assertNotIn("None", caught.exception.reason)

    def test_both_sides_agree(self):
        for key, _ in KEYS:
            stream = request_head("127.0.0.1:9000", "/", key, {})
            answer = switching_protocols(upgrade(stream))
            check_response(take_response(answer)[0], key)


class Values(unittest.TestCase):
    def test_headers_are_a_mapping(self):
        headers = Headers({"a-b": ["1"]})
        self.assertEqual(headers.get("A-B"), "1")
        self.assertIsNone(headers.get("c"))
        self.assertEqual(dict(headers), {"a-b": "1"})
        self.assertEqual(headers.get_all("A-B"), ["1"])
        with self.assertRaises(KeyError):
            headers["c"]

    def test_requests_and_responses_are_tuples(self):
        headers = Headers({"sec-websocket-protocol": ["chat"]})
        request = Request("GET", "/", {}, "1.1", headers)
        self.assertEqual(choose_subprotocol(request), "chat")
        self.assertEqual(Response(101, "", headers).subprotocol, "chat")


if __name__ == "__main__":
    unittest.main()
