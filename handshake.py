"""RFC 6455 section 4: the HTTP request that turns into a WebSocket.

No socket, no clock in here: bytes in, values out. As in the tutorial, the
head of a request is taken apart with regular expressions: one for its
first line, one for each header line.

    GET /chat?room=1 HTTP/1.1                        REQUEST_LINE
    Host: 127.0.0.1:9000                             HEADER_LINE
    Upgrade: websocket                               HEADER_LINE
    Connection: Upgrade                              HEADER_LINE
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==      HEADER_LINE
    Sec-WebSocket-Version: 13                        HEADER_LINE
                                                     an empty line ends it

A server reads requests and writes responses, a client the other way round.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import (
    Collection,
    Iterator,
    Mapping,
    NamedTuple,
    Sequence,
)
from urllib.parse import parse_qsl, unquote

# RFC 6455 s1.3. Typed with ASCII hyphens: copies of the tutorial have U+2010
# in their place, and then no browser accepts the answer.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION = "13"
SUBPROTOCOLS = ("chat",)  # those that this server speaks

# Everything before the empty line. Browsers send about 500 bytes, and
# cookies for 127.0.0.1, from all its ports, a few thousand more.
MAX_HEAD = 16 * 1024

REQUEST_LINE = re.compile(r"([A-Z]{1,20}) ([!-~]+) HTTP/(1\.[0-9])")
# RFC 6455 s4.2.1: a path, or a whole address; then perhaps a query.
TARGET = re.compile(r"(?:https?://[^/?#]+)?(/[^?#]*)?(?:\?([^#]*))?")
# An answer in HTTP/1.0 may refuse, but not say 101: see the (?! 101).
STATUS_LINE = re.compile(r"HTTP/1\.(?:1|0(?! 101)) ([0-9]{3})(?: (.*))?")
# A token, a colon without a space before it, a value without controls.
HEADER_LINE = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)"
)
KEY = re.compile(r"[+/0-9A-Za-z]{22}==")  # 16 bytes in base64
# RFC 7230: these decide what the request means, so there is one at most.
SINGLE_HEADERS = {
    "host", "origin", "sec-websocket-key", "sec-websocket-version",
    "sec-websocket-accept", "content-length",
}  # fmt: skip


class HandshakeError(Exception):
    """A handshake that failed, on either side.

    status: of the HTTP answer (int), 400 if what came is no HTTP; reason:
    one sentence for its body.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{int(status)} {reason}")
        self.status = int(status)
        self.reason = reason


class Headers(Mapping[str, str]):
    """Header fields by name; upper and lower case are the same."""

    __slots__ = ("fields",)

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields  # the names in lower case

    def __getitem__(self, name: str) -> str:
        return self.fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        return f"Headers({self.fields})"


class Request(NamedTuple):
    """What a client asked for; path and query are percent-decoded."""

    method: str
    path: str
    query: dict[str, str]
    version: str  # of HTTP: "1.1"
    headers: Headers


class Response(NamedTuple):
    """What a server answered; subprotocol is None if there is none."""

    status: int
    reason: str
    headers: Headers

    @property
    def subprotocol(self) -> str | None:
        """Which of the offered subprotocols the server chose, or None."""
        return self.headers.get("Sec-WebSocket-Protocol")


# ---- the server's side ----------------------------------------------------


def take_request(received: bytes) -> tuple[Request, bytes] | None:
    """Take a request from the front of all that was received so far.

    Returns (request, the bytes behind it), or None while its end has not
    arrived. Raises HandshakeError (400, 405, 431) as soon as it is clear
    that no request can come of it.
    """
    check_beginning(received)
    taken = take_head(received)
    if not taken:
        return None
    first, lines, rest = taken
    method, path, query, version = match_request_line(first)
    headers = parse_header_lines(lines)
    if version == "1.1" and not headers.get("Host"):
        raise HandshakeError(400, "The Host header is missing.")
    fields = dict(parse_qsl(query, keep_blank_values=True))
    return Request(method, unquote(path), fields, version, headers), rest


def take_head(received: bytes) -> tuple[str, list[str], bytes] | None:
    """Return (first line, header lines, the bytes behind the empty line).

    None while the empty line has not arrived. Raises HandshakeError 431.
    """
    head, end, rest = received.partition(b"\r\n\r\n")
    # Without its end, the last three bytes may belong to the empty line.
    if len(head) > (MAX_HEAD if end else MAX_HEAD + 3):
        raise HandshakeError(431, f"A head has at most {MAX_HEAD} bytes.")
    if not end:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    return first, lines, rest


def check_beginning(received: bytes) -> None:
    """Refuse what is no HTTP, by its first line, without waiting for more.

    Port scanners and browsers that try https first should not hold a place
    for ten seconds.
    """
    first, end, _ = received.partition(b"\r\n")
    for beginning, reason in NOT_HTTP.items():
        if first.startswith(beginning):
            raise HandshakeError(400, reason)
    if b"\n" in first:
        raise HandshakeError(400, "Every line has to end with CR LF.")
    if end:
        match_request_line(first.decode("latin-1"))
    elif not BEGINNING.fullmatch(first):
        raise HandshakeError(400, "That is not HTTP.")


# "GET /path HTTP/1.1\r", cut anywhere: "", "GE", "GET /pa", "GET /path HT".
BEGINNING = re.compile(rb"(?:[A-Z]{1,20}(?: [!-~]*(?: [!-~]*\r?)?)?)?")
NOT_HTTP = {
    b"\x16": "That is https; open http:// with the same address.",
    b"PRI * HTTP/2": "That is HTTP/2; this server speaks HTTP/1.1.",
    b"SSH-": "That is SSH; this server speaks HTTP/1.1.",
}


def match_request_line(line: str) -> tuple[str, str, str, str]:
    """Return (method, path, query, HTTP version) of "GET /?a=b HTTP/1.1"."""
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise HandshakeError(400, "That is not a request line of HTTP/1.1.")
    method, target, version = match.groups()
    if method not in ("GET", "HEAD"):
        raise HandshakeError(405, f"The method is {method}, not GET or HEAD.")
    match = TARGET.fullmatch(target)
    if not match:
        raise HandshakeError(400, "The address is not a path like /chat?a=b.")
    path, query = match.groups()
    return method, path or "/", query or "", version


def parse_header_lines(lines: Sequence[str]) -> Headers:
    """Return the fields of header lines; a repeated one becomes a list."""
    fields: dict[str, str] = {}
    for line in lines:
        match = HEADER_LINE.fullmatch(line)
        if not match:
            raise HandshakeError(400, "A header line is not 'Name: value'.")
        name, value = match[1].lower(), match[2].strip(" \t")
        if name not in fields:
            fields[name] = value
        elif name in SINGLE_HEADERS:
            raise HandshakeError(400, f"The {match[1]} header comes twice.")
        else:
            fields[name] += ", " + value
    return Headers(fields)


def tokens(value: str) -> list[str]:
    """Return the items of a list like "keep-alive, Upgrade", lower case."""
    return [item.strip(" \t").lower() for item in value.split(",")]


def wants_websocket(request: Request) -> bool:
    """Tell whether a handshake is meant, even a faulty one, not a page."""
    return (
        "websocket" in tokens(request.headers.get("Upgrade", ""))
        or "Sec-WebSocket-Key" in request.headers
        or "Sec-WebSocket-Version" in request.headers
    )


def check_upgrade(request: Request) -> None:
    """Check what RFC 6455 s4.2.1 demands; HandshakeError 400, 405, 426."""
    headers = request.headers
    version = headers.get("Sec-WebSocket-Version")
    if request.method != "GET":
        raise HandshakeError(405, f"The method is {request.method}, not GET.")
    if request.version != "1.1":
        raise HandshakeError(400, f"HTTP/{request.version} is not HTTP/1.1.")
    if "websocket" not in tokens(headers.get("Upgrade", "")):
        raise HandshakeError(400, "The header Upgrade: websocket is missing.")
    if "upgrade" not in tokens(headers.get("Connection", "")):
        raise HandshakeError(400, "The header Connection: Upgrade is missing.")
    if version is None:
        raise HandshakeError(400, "The Sec-WebSocket-Version is missing.")
    if version != VERSION:
        raise HandshakeError(426, f"The version is {version}, not {VERSION}.")
    if not KEY.fullmatch(headers.get("Sec-WebSocket-Key", "")):
        raise HandshakeError(400, "The Sec-WebSocket-Key is not 16 bytes.")
    if headers.get("Content-Length", "0") != "0" or (
        "Transfer-Encoding" in headers
    ):
        raise HandshakeError(400, "A handshake has no body.")


def check_origin(
    request: Request, allowed: Collection[str], own_names: Collection[str]
) -> None:
    """Refuse the pages of other sites (s10.2): HandshakeError 403.

    Browsers let any page open a WebSocket to any server and only tell it
    where the page came from; so without this check every site that a
    student visits could join the room.

    allowed: origins that may; with none named, "null" (from disk) may too.
    own_names: this machine's names, in lower case. A foreign name that
    resolves to this machine would pass where only Host and Origin are
    compared (DNS rebinding).
    """
    origin = request.headers.get("Origin")
    if origin is None or origin in (allowed or ("null",)):
        return
    page = ORIGIN.fullmatch(origin.lower())
    host = ORIGIN.fullmatch("http://" + request.headers["Host"].lower())
    # The page is ours: from the same host and port, and that host is here.
    if page and host and page[1] == host[1]:
        if (page[2] or "80") == (host[2] or "80"):
            if ADDRESS.fullmatch(page[1]) or page[1] in own_names:
                return
    raise HandshakeError(403, f"Pages from {origin} may not connect.")


ORIGIN = re.compile(r"http://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
ADDRESS = re.compile(r"\[.*\]|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|localhost")


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key (s4.2.2).

    It proves that the server read this very request and speaks WebSocket.
    """
    digest = hashlib.sha1(key.encode("latin-1") + GUID).digest()
    return base64.b64encode(digest).decode()


def choose_subprotocol(request: Request) -> str | None:
    """Return the first offered subprotocol that is known, or None."""
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    for name in offered.split(","):
        if name.strip() in SUBPROTOCOLS:
            return name.strip()
    return None


def switching_protocols(request: Request) -> bytes:
    """Return the answer that opens the WebSocket (s4.2.2)."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Accept: "
        + accept_key(request.headers["Sec-WebSocket-Key"]),
    ]
    subprotocol = choose_subprotocol(request)
    if subprotocol:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return end_head(lines)


def end_head(lines: Sequence[str]) -> bytes:
    """Return the bytes of a head: its lines and the empty one."""
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def refusal(error: HandshakeError, request: Request | None) -> bytes:
    """Return the HTTP answer that refuses, with one sentence in its body.

    request: as far as it is known; the answer to a HEAD has no body.
    """
    body = (error.reason + "\n").encode("ascii", "backslashreplace")
    extra = EXTRA_HEADERS.get(error.status, ())
    head = http_head(error.status, "text/plain", len(body), extra)
    return head if request and request.method == "HEAD" else head + body


PHRASES = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

# RFC 9110 s15.5.6 and s15.5.22 demand these; RFC 6455 s4.4 the version.
EXTRA_HEADERS = {
    405: ("Allow: GET, HEAD",),
    426: (
        f"Sec-WebSocket-Version: {VERSION}",
        "Upgrade: websocket",
        "Connection: Upgrade",
    ),
}


def http_head(
    status: int, kind: str, length: int, extra: Sequence[str] = ()
) -> bytes:
    """Return the head of an answer, after which the connection ends."""
    return end_head(
        [
            f"HTTP/1.1 {status} {PHRASES.get(status, 'Error')}",
            f"Content-Type: {kind}; charset=utf-8",
            f"Content-Length: {length}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            *extra,
        ]
    )


# ---- the client's side ----------------------------------------------------


def request_head(
    host: str, target: str, key: str, headers: Mapping[str, str]
) -> bytes:
    """Return a client's request (s4.1).

    host: with its port where that is not the usual one; target: path and
    query; key: 16 random bytes in base64; headers: whatever else. Raises
    ValueError for what would break out of its line.
    """
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {VERSION}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if not (
        target.startswith("/")
        and TARGET.fullmatch(target)
        and REQUEST_LINE.fullmatch(lines[0])
    ):
        raise ValueError(f"not a path: {target!r}")
    for line in lines[1:]:
        if not HEADER_LINE.fullmatch(line):
            raise ValueError(f"not a header line: {line!r}")
    return end_head(lines)


def take_response(received: bytes) -> tuple[Response, bytes] | None:
    """Take a response's head from the front of all that was received.

    Returns (response, the bytes behind it), or None while its end has not
    arrived; raises HandshakeError when it is none.
    """
    if not received.startswith(b"HTTP/"[: len(received)]):
        raise HandshakeError(400, "The server does not speak HTTP.")
    taken = take_head(received)
    if not taken:
        return None
    first, lines, rest = taken
    match = STATUS_LINE.fullmatch(first)
    if not match:
        raise HandshakeError(400, "The server does not speak HTTP/1.1.")
    headers = parse_header_lines(lines)
    return Response(int(match[1]), match[2] or "", headers), rest


def check_response(
    response: Response, key: str, offered: Collection[str] = ()
) -> None:
    """Check what s4.1 demands of the answer; HandshakeError if it is not so.

    key: the Sec-WebSocket-Key that was sent; offered: the subprotocols.
    """
    status, headers = response.status, response.headers
    if status != 101:
        raise HandshakeError(status, f"{response.reason}, no WebSocket")
    if headers.get("Upgrade", "").lower() != "websocket":
        raise HandshakeError(status, "Upgrade: websocket is missing")
    if "upgrade" not in tokens(headers.get("Connection", "")):
        raise HandshakeError(status, "Connection: Upgrade is missing")
    if headers.get("Sec-WebSocket-Accept") != accept_key(key):
        raise HandshakeError(status, "wrong Sec-WebSocket-Accept")
    if headers.get("Sec-WebSocket-Extensions"):
        raise HandshakeError(status, "an extension that nobody asked for")
    subprotocol = response.subprotocol
    if subprotocol is not None and subprotocol not in offered:
        raise HandshakeError(status, "a subprotocol that nobody asked for")
