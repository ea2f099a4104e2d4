"""Stages 1 and 2 of the checker: the handshake.

Each answer is looked at line by line, as each line has its own rule.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Callable, Generator, Sequence

from handshake import GUID, Response, accept_key, tokens
from lessons.checker.room import Room
from lessons.checker.verdict import Step, Steps
from lessons.checker.wire import Wire, WrongError, pump
from lessons.words import plain


def answers(room: Room) -> Steps:
    """Look at each line of the answer that s4.2.2 asks for."""
    key, wire = room.key(), room.knock()
    response = yield from open_well(room, wire, key)
    yield from choose_nothing(wire, response)
    yield Step(
        "a second user, with another key, gets another answer",
        "s4.2.2: each answer is made from its own request",
        "Where is the key kept, and whose is it?",
        "server.py: Server.read_request()",
    )
    room.join()


def open_well(
    room: Room, wire: Wire, key: str
) -> Generator[Step, None, Response]:
    """Look at the lines that have to be there; return the answer."""
    read = "handshake.py: switching_protocols()"
    yield Step(
        "a request gets an answer in HTTP/1.1",
        "s4.2.2: the answer is HTTP/1.1 101, and an empty line ends it",
        "What has arrived when the last four bytes are 0d 0a 0d 0a?",
        read,
    )
    wire.send(room.request(key))
    response = room.answer(wire)
    if not response:
        raise WrongError(wire, "an answer in HTTP/1.1", room.what_head(wire))

    yield Step(
        "its status is 101",
        "s4.2.2: only 101 changes from HTTP to WebSocket",
        "How does your server tell this request from one for a page?",
        read,
    )
    if response.status != 101:
        raise WrongError(wire, "the status 101", status_line(response))

    for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade")):
        yield Step(
            f"it says {name}: {value}",
            f"s4.2.2: the answer has the header {name}: {value}",
            "Which lines does the example in s1.3 of the RFC have?",
            read,
        )
        if value.lower() not in tokens(response.headers.get(name, "")):
            got = one_header(response, name)
            raise WrongError(wire, f"{name}: {value}", got)

    yield Step(
        "its Sec-WebSocket-Accept is made from the key",
        "s4.2.2: it is the base64 of the SHA-1 of the key + the GUID",
        "What does your code make of the RFC's own key in s1.3,"
        " dGhlIHNhbXBsZSBub25jZQ== ?",
        "handshake.py: accept_key()",
    )
    check_accept(wire, response, key)
    return response


def choose_nothing(wire: Wire, response: Response) -> Steps:
    """Look for lines that must not be there."""
    yield Step(
        "it chooses nothing that was not offered",
        "s4.2.2: only what the client has offered can be chosen",
        "Which subprotocols and extensions stand in the request?",
        "handshake.py: choose_subprotocol()",
    )
    for name in ("Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"):
        if name in response.headers:
            expected = f"no {name}, as none was offered"
            raise WrongError(wire, expected, one_header(response, name))
    wire.settle()


def check_accept(wire: Wire, response: Response, key: str) -> None:
    """Compare the accept key; say how a wrong one was made, if it shows."""
    accept = response.headers.get("Sec-WebSocket-Accept")
    right = accept_key(key)
    if accept == right:
        return
    got = one_header(response, "Sec-WebSocket-Accept")
    got += how_it_was_made(accept or "", key)
    raise WrongError(wire, right, got)


def how_it_was_made(accept: str, key: str) -> str:
    """Return what was done to get a wrong accept key, or nothing."""
    sha1 = hashlib.sha1(key.encode() + GUID)
    hexadecimal = sha1.hexdigest().encode()
    ways = {
        sha1.hexdigest(): "that is the SHA-1 in hex, not in base64",
        base64.b64encode(hexadecimal).decode(): (
            "that is the base64 of the SHA-1's hex digits, not of its bytes"
        ),
        accept_key(" " + key): "that was made with a space before the key",
        accept_key(key + "\r"): "that was made with a CR behind the key",
        accept_key(key + "\r\n"): "that was made with CR LF behind the key",
        digest(base64.b64decode(key) + GUID): (
            "that was made from the key's 16 bytes, not from its letters"
        ),
        digest(key.encode() + GUID.lower()): "its GUID is in lower case",
        digest(key.encode()): "that was made without the GUID",
    }
    return f"; {ways[accept]}" if accept in ways else ""


def digest(data: bytes) -> str:
    """Return the SHA-1 of some bytes, in base64."""
    return base64.b64encode(hashlib.sha1(data).digest()).decode()


def one_header(response: Response, name: str) -> str:
    """Return a header of an answer, as it is to be shown."""
    value = response.headers.get(name)
    if value is None:
        return f"no header {name}"
    return f"{name}: {plain(value.encode('latin-1', 'replace'))[:60]}"


def status_line(response: Response) -> str:
    """Return the status of an answer, and its phrase."""
    phrase = plain(response.reason.encode("latin-1", "replace"))[:40]
    return f"the status {response.status} {phrase}".rstrip()


def refuses(room: Room) -> Steps:
    """Send what is a handshake in other letters, then what is none."""
    read = "handshake.py: check_upgrade()"
    yield Step(
        "a handshake in other letters is one, too",
        "s4.2.1: names of headers, and these values, in any case of letters",
        "Does your server compare upgrade with Upgrade?",
        "handshake.py: Headers, tokens()",
    )
    key, wire = room.key(), room.knock()
    request = room.request(key)
    for old, new in OTHER_LETTERS:
        request = request.replace(old, new)
    wire.send(request)
    room.enter(wire, key)

    rule = "s4.2.1: what is no handshake gets an HTTP answer, but no 101"
    for title, change, question in NO_HANDSHAKES:
        yield Step(title, rule, question, read)
        check_refusal(room, change(room.request(room.key())))

    yield Step(
        "nor is a POST",
        "s4.2.1: a handshake is a GET request",
        "Does your server look at the first word of the request?",
        "handshake.py: match_request_line()",
    )
    post = (
        b"POST" + room.request(room.key())[3:-2] + b"Content-Length: 0\r\n\r\n"
    )
    check_refusal(room, post, may_hang_up=True)

    yield Step(
        "who knocks and says nothing, or no HTTP, harms nobody",
        "s4.2.1: such a connection ends; the others go on",
        "What does recv() return when the other side has hung up?",
        "server.py: Server.guard(), end_of_stream()",
    )
    room.knock().hang_up()
    for junk in (b"hello\r\n\r\n", b"\x16\x03\x01\0\xa5\x01\0\0\xa1\x03\x03"):
        wire = room.knock()
        wire.send(junk)
        pump([wire], wire.has_ended, A_MOMENT)
    room.join()


A_MOMENT = 0.2  # seconds; it may also wait for more


OTHER_LETTERS = [
    (b"Upgrade: websocket", b"upgrade: WebSocket"),
    (b"Connection: Upgrade", b"connection:keep-alive, upgrade"),
    (b"Sec-WebSocket-Key:", b"sec-websocket-key:"),
    (b"Sec-WebSocket-Version:", b"SEC-WEBSOCKET-VERSION:"),
]


def without(request: bytes, name: bytes) -> bytes:
    """Return a request without the header of that name."""
    return re.sub(rb"\r\n" + name + rb":[^\r]*", b"", request)


NO_HANDSHAKES: Sequence[tuple[str, Callable[[bytes], bytes], str]] = [
    (
        "a request for a page is no handshake",
        lambda request: without(
            request, rb"(?:Upgrade|Connection|Sec-WebSocket-\w+)"
        ),
        "What does your server answer to a request without a key?",
    ),
    (
        "nor is one without Upgrade: websocket",
        lambda request: without(request, b"Upgrade"),
        "Which header says that the client wants a WebSocket?",
    ),
    (
        "nor is one without a Sec-WebSocket-Key",
        lambda request: without(request, b"Sec-WebSocket-Key"),
        "What does your server make an accept key from, if no key came?",
    ),
    (
        "nor is one with version 99",
        lambda request: request.replace(b"Version: 13", b"Version: 99"),
        "How could a server speak a version that it does not know?",
    ),
]


def check_refusal(
    room: Room, request: bytes, may_hang_up: bool = False
) -> None:
    """Send a request that is no handshake; WrongError if it is taken."""
    wire = room.knock()
    wire.send(request)
    response = room.answer(wire)
    expected = "an HTTP answer that is not 101, such as 400"
    if response:
        if response.status == 101:
            raise WrongError(wire, expected, status_line(response))
    elif wire.head or not (may_hang_up and wire.end):
        raise WrongError(wire, expected, room.what_head(wire))
