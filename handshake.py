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
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from http import HTTPStatus
from typing import Collection, Iterator, Mapping, NamedTuple, Sequence
from urllib.parse import parse_qsl, unquote

# RFC 6455 s1.3. Typed with ASCII hyphens: copies of the tutorial have U+2010
# in their place, and then no browser accepts the answer.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION = "13"
SUBPROTOCOLS = ("chat",)  # those that this server speaks
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade")
PHRASES = {status.value: status.phrase for status in HTTPStatus}
# RFC 9110 s15.5.6 and s15.5.22 demand these; RFC 6455 s4.4 the version.
EXTRA_HEADERS = {
    405: ("Allow: GET, HEAD",),
    426: (f"Sec-WebSocket-Version: {VERSION}", *UPGRADE),
}

# Everything before the empty line. Browsers send about 500 bytes, and
# cookies for 127.0.0.1, from all its ports, a few thousand more.
MAX_HEAD = 16 * 1024
MAX_FIELDS = 100  # header lines; fields in a query. Each costs a regex.
MAX_INTERIM = 10  # responses like "103 Early Hints" before the final one

REQUEST_LINE = re.compile(r"([A-Z]{1,20}) ([!-~]+) HTTP/(1\.[0-9])")
# RFC 6455 s4.2.1: a path, or a whole address; then perhaps a query.
TARGET = re.compile(r"(?:(?i:https?)://([^/?#]+))?(/[^?#]*)?(?:\?([^#]*))?")
# RFC 9110 s7.2: a name or an address, and perhaps a port.
HOST = re.compile(r"(?:\[[\da-fA-F:.]+\]|[\w.~!$&'()*+,;=%-]+)(?::\d*)?", re.A)
# An answer in HTTP/1.0 may refuse, but not say 101: see the (?! 101).
STATUS_LINE = re.compile(r"HTTP/1\.(?:1|0(?! 101)) ([0-9]{3})(?: |$)(.*)")
# A token, a colon without a space before it, a value without controls.
HEADER_LINE = re.compile(r"([\w!#$%&'*+.^`|~-]+):([\t -~\x80-\xff]*)", re.A)
# "GET /path HTTP/1.1\r", cut anywhere: "", "GE", "GET /pa", "GET /path HT".
BEGINNING = re.compile(rb"\r?|[A-Z]{1,20}(?: [!-~]*(?: [!-~]*\r?)?)?")
NOT_HTTP = {
    b"\x16": "That is https; open http:// with the same address.",
    b"PRI * HTTP/2": "That is HTTP/2; this server speaks HTTP/1.1.",
    b"SSH-": "That is SSH; this server speaks HTTP/1.1.",
}
# Of a site, of a browser's extension, or of an app that shows pages.
ORIGIN = re.compile(
    r"(https?|(?:chrome|moz|safari-web)-extension|app|capacitor|ionic|tauri)"
    r"://(\[[0-9a-f:.]+\]|[\w-]+(?:\.[\w-]+)*\.?)(?::([1-9][0-9]{0,4}))?"
)
NUMBER_AT_END = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.?$")
USUAL_PORTS = {"http": "80", "https": "443"}
ADDRESS = re.compile(r"\[.*\]|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|localhost")
KEY = re.compile(r"[+/0-9A-Za-z]{22}==")  # 16 bytes in base64
# RFC 7230: these decide what the request means, so there is one at most.
SINGLE_HEADERS = {
    "host", "origin", "sec-websocket-key", "sec-websocket-version",
    "sec-websocket-accept",
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
    """Header fields by name; upper and lower case are the same.

    Fields of one name are one list, joined by ", "; but Set-Cookie, which
    cannot be joined (RFC 9110 s5.3), is the first of them: see get_all().
    """

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self.fields = fields  # values in their order; names in lower case

    def get_all(self, name: str) -> list[str]:
        """Return the values of all fields of this name, in their order."""
        return list(self.fields.get(name.lower(), ()))

    def __getitem__(self, name: str) -> str:
        values = self.fields[name.lower()]
        return values[0] if name.lower() == "set-cookie" else ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        return f"Headers({self.fields})"


class Request(NamedTuple):
    """What a client asked for; the path is percent-decoded."""

    method: str
    path: str
    query_string: str  # as it came
    version: str  # of HTTP: "1.1"
    headers: Headers

    @property
    def query(self) -> dict[str, str]:
        """The fields of the query, decoded when somebody asks for them."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))


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
    if received[:2] == b"\r\n":
        received = received[2:]  # RFC 9112 s2.2: one empty line is ignored
    check_beginning(received)
    taken = take_head(received)
    if not taken:
        return None
    first, lines, rest = taken
    method, host, path, query, version = match_request_line(first)
    headers = parse_header_lines(lines)
    if version != "1.0" and not headers.get("Host"):
        raise HandshakeError(400, "The Host header is missing.")
    if host:  # RFC 9112 s3.2.2: it counts, and not the header.
        headers.fields["host"] = [host]
    if not HOST.fullmatch(headers.get("Host", "any")):
        raise HandshakeError(400, "The Host header is not a host.")
    if not re.fullmatch("[0-9]+", headers.get("Content-Length", "0")):
        raise HandshakeError(400, "The Content-Length is not a number.")
    return Request(method, unquote(path), query, version, headers), rest


def take_head(received: bytes) -> tuple[str, list[str], bytes] | None:
    """Return (first line, header lines, the bytes behind the empty line).

    None while the empty line has not arrived. Raises HandshakeError 400, 431.
    """
    head, end, rest = received.partition(b"\r\n\r\n")
    if head.count(b"\n") != head.count(b"\r\n"):
        raise HandshakeError(400, "Every line has to end with CR LF.")
    # Without its end, the last three bytes may belong to the empty line.
    if len(head) > (MAX_HEAD if end else MAX_HEAD + 3):
        raise HandshakeError(431, f"A head has at most {MAX_HEAD} bytes.")
    if head.count(b"\n") > MAX_FIELDS:
        raise HandshakeError(431, f"A head has at most {MAX_FIELDS} lines.")
    if not end:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    return first, lines, rest


def check_beginning(received: bytes) -> None:
    """Refuse at once what is no HTTP: it shall not hold a place for 10 s."""
    first, end, _ = received.partition(b"\n")
    for beginning, reason in NOT_HTTP.items():
        if first.startswith(beginning):
            raise HandshakeError(400, reason)
    if not BEGINNING.fullmatch(first):
        raise HandshakeError(400, "That is not HTTP.")
    if end and first.endswith(b"\r"):
        match_request_line(first[:-1].decode("latin-1"))


def match_request_line(line: str) -> tuple[str, str, str, str, str]:
    """Return (method, host, path, query, version) of "GET /?a=b HTTP/1.1"."""
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise HandshakeError(400, "That is not a request line of HTTP/1.1.")
    method, target, version = match.groups()
    if method not in ("GET", "HEAD"):
        raise HandshakeError(405, f"The method is {method}, not GET or HEAD.")
    match = TARGET.fullmatch(target)
    if not match:
        raise HandshakeError(400, "The address is not a path like /chat?a=b.")
    host, path, query = match.groups("")
    if query.count("&") >= MAX_FIELDS:
        raise HandshakeError(400, f"A query has at most {MAX_FIELDS} fields.")
    return method, host, path or "/", query, version


def parse_header_lines(lines: Sequence[str]) -> Headers:
    """Return the fields of header lines; HandshakeError 400 for others."""
    fields: dict[str, list[str]] = {}
    for line in lines:
        match = HEADER_LINE.fullmatch(line)
        if not match:
            raise HandshakeError(400, "A header line is not 'Name: value'.")
        name = match[1].lower()
        if name in fields and name in SINGLE_HEADERS:
            raise HandshakeError(400, f"The {match[1]} header comes twice.")
        fields.setdefault(name, []).append(match[2].strip(" \t"))
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
    if request.version == "1.0":
        raise HandshakeError(400, "HTTP/1.0 is not HTTP/1.1.")
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
    length = headers.get("Content-Length", "0")
    if length.strip("0") or "Transfer-Encoding" in headers:
        raise HandshakeError(400, "A handshake has no body.")


def check_origin(
    request: Request, allowed: Collection[str], own_names: Collection[str]
) -> None:
    """Refuse the pages of other sites (s10.2): HandshakeError 403.

    Browsers let any page connect to any server and only tell it where the
    page came from: every site that a student visits could join the room.

    allowed: as normalise_origin() returns them ("null": a page from disk,
    or one that hides). own_names: of this machine, in lower case. A foreign
    name that leads here would pass where only Host and Origin are compared
    (DNS rebinding).
    """
    origin = request.headers.get("Origin")
    if origin is None or origin.lower() in allowed:
        return
    page = ORIGIN.fullmatch(origin.lower())
    host = ORIGIN.fullmatch("http://" + request.headers["Host"].lower())
    # The page is ours: from the same host and port, and that host is here.
    if page and host and page.groups("80") == host.groups("80"):
        if ADDRESS.fullmatch(page[2]) or page[2] in own_names:
            return
    # What to type stands first: a diary line is cut after 99 characters.
    named = f"--origin {origin}"
    raise HandshakeError(403, f"Only with {named} may such a page connect.")


def normalise_origin(text: str) -> str:
    """Return an origin as browsers send it (RFC 6454 s6.2).

    "HTTP://Example.com:80/" becomes "http://example.com"; "null" and
    "file://" stay. Raises ValueError for what no browser sends.
    """
    if text in ("null", "file://"):
        return text
    match = ORIGIN.fullmatch(re.sub("/$", "", text.lower()))
    if not match or int(match[3] or 1) > 65535:
        raise ValueError("An origin is like https://example.com:8443, no more.")
    scheme, host, port = match.groups()
    origin = f"{scheme}://{normalise_host(host)}"
    if port in (None, USUAL_PORTS.get(scheme)):
        return origin
    return f"{origin}:{port}"


def normalise_host(host: str) -> str:
    """Return a host as browsers send it; ValueError for what they do not."""
    if host.startswith("["):
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    if NUMBER_AT_END.search(host):
        return str(ipaddress.IPv4Address(host))
    name = host.encode("idna").decode()
    # Python's rules are older: it makes ss of a sharp s, browsers do not.
    if host not in (name, name.encode().decode("idna")):
        raise ValueError("Type this host as browsers show it: xn--...")
    return name


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key (s4.2.2).

    It proves that the server read this very request and speaks WebSocket.
    """
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


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
        *UPGRADE,
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


def refusal(error: HandshakeError, head_only: bool, date: str) -> bytes:
    """Return the HTTP answer that refuses, with one sentence in its body.

    head_only: the answer to a HEAD has no body.
    """
    body = (error.reason + "\n").encode("ascii", "backslashreplace")
    extra = EXTRA_HEADERS.get(error.status, ())
    head = http_head(error.status, "text/plain", len(body), date, extra)
    return head if head_only else head + body


def http_head(
    status: int, kind: str, length: int, date: str, extra: Sequence[str] = ()
) -> bytes:
    """Return the head of an answer, after which the connection ends.

    kind: of the body, "text/html"; length: of the body, in bytes; date: now,
    "Wed, 25 Nov 2026 21:00:00 GMT" (RFC 9110 s6.6.1); extra: more lines.
    """
    lines = [
        f"HTTP/1.1 {status} {PHRASES.get(status, 'Error')}",
        f"Date: {date}",
        f"Content-Type: {kind}; charset=utf-8",
        f"Content-Length: {length}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    return end_head([*lines, *extra])


# ---- the client's side ----------------------------------------------------


def request_head(
    host: str, target: str, key: str, headers: Mapping[str, str]
) -> bytes:
    """Return a client's request (s4.1).

    host: with its port where that is not the usual one; target: path and
    query; key: 16 random bytes in base64; headers: whatever else, or another
    Host. Raises ValueError for what would break out of its line or stand
    there twice.
    """
    lines = [
        f"GET {target} HTTP/1.1",
        *UPGRADE,
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {VERSION}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    names = [line.partition(":")[0].lower() for line in lines]
    if "host" not in names:
        lines.insert(1, f"Host: {host}")
    if not re.fullmatch('/[!"$-~]*', target):  # no space, no "#"
        raise ValueError(f"not a path: {target!r}")
    for line in lines[1:]:
        if not HEADER_LINE.fullmatch(line):
            raise ValueError(f"not a header line: {line!r}")
        if names.count(line.partition(":")[0].lower()) > 1:
            raise ValueError(f"a header that is there already: {line!r}")
    return end_head(lines)


def take_response(received: bytes) -> tuple[Response, bytes] | None:
    """Take the final response's head from the front of all that was received.

    Skips the interim ones (RFC 9110 s15.2). Returns (response, the bytes
    behind it), or None while its end has not arrived; raises HandshakeError
    when it is none.
    """
    for _ in range(MAX_INTERIM + 1):
        if not received.startswith(b"HTTP/"[: len(received)]):
            raise HandshakeError(400, "The server does not speak HTTP.")
        taken = take_head(received)
        if not taken:
            return None
        first, lines, received = taken
        match = STATUS_LINE.fullmatch(first)
        if not match:
            raise HandshakeError(400, "The server does not speak HTTP/1.1.")
        status = int(match[1])
        if status == 101 or status >= 200:
            headers = parse_header_lines(lines)
            return Response(status, match[2], headers), received
    raise HandshakeError(400, "The server never comes to an answer.")


def outcome(response: Response) -> str:
    """Return the reason of a refusal, and where a redirect leads (s15.4)."""
    place = response.headers.get("Location")
    if place and 300 <= response.status < 400:
        return f"{response.reason} to {ascii(place[:200])[1:-1]}".strip()
    return response.reason


def check_response(
    response: Response, key: str, offered: Collection[str] = ()
) -> None:
    """Check what s4.1 demands of the answer; HandshakeError if it is not so.

    key: the Sec-WebSocket-Key that was sent; offered: the subprotocols.
    """
    status, headers = response.status, response.headers
    if status != 101:
        raise HandshakeError(status, f"{outcome(response)}, no WebSocket")
    if headers.get("Upgrade", "").lower() != "websocket":
        raise HandshakeError(status, "Upgrade: websocket is missing")
    if "upgrade" not in tokens(headers.get("Connection", "")):
        raise HandshakeError(status, "Connection: Upgrade is missing")
    if headers.get("Sec-WebSocket-Accept") != accept_key(key):
        raise HandshakeError(status, "wrong Sec-WebSocket-Accept")
    if headers.get("Sec-WebSocket-Extensions"):
        raise HandshakeError(status, "an extension that nobody asked for")
    if response.subprotocol not in (None, *offered):
        raise HandshakeError(status, "a subprotocol that nobody asked for")
