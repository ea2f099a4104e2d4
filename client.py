"""The same WebSocket from the other side: a library, a chat, a lab.

    python client.py ws://127.0.0.1:9000/ --name Ana

Read Client first: it stands in the order of a connection's life. Then
turn(), the loop for any number of clients; below it the faults for
lessons, the terminal and the command line. HTTP is in handshake.py, frames
are in codec.py.

Left out on purpose: proxies, redirects, compression, and connecting
without blocking: while one client connects, the others in the loop wait.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import json
import math
import os
import random
import re
import secrets
import select
import socket
import ssl
import sys
import threading
import time
from collections import deque
from enum import Enum
from typing import (
    Any,
    Mapping,
    NamedTuple,
    NoReturn,
    Sequence,
    Union,
)
from urllib.parse import quote, urlencode, urlsplit

import codec
import handshake
from codec import Close, CloseCode, ProtocolError
from handshake import HandshakeError, Response

Block = Union[bytes, memoryview]

RECV_SIZE = 64 * 1024  # bytes; one read per client and turn
TIMEOUT = 10.0  # seconds, for connecting, and for the answer to a Close
LEAVING_SECONDS = 2.0  # the server hangs up first; then we do
MAX_DELAY = 30.0  # seconds between attempts
PATIENCE = 0.5  # Windows: Ctrl-C does not wake select()
FD_SETSIZE = 1024  # descriptors that select() can watch
MAX_BODY = 1000  # bytes of a refusal, of which one line is shown
MAX_WAITING = 1024 * 1024  # bytes; then the keyboard has to wait


class State(Enum):
    """The life of a connection, from the top to the bottom."""

    NEW = "never connected"
    CONNECTING = "TCP, TLS or the handshake is under way"
    OPEN = "messages go both ways"
    CLOSING = "our Close went first; messages still come in"
    LEAVING = "both Closes are said; the server hangs up"
    GONE = "no socket; perhaps waiting to reconnect"


class Address(NamedTuple):
    """A WebSocket address, taken apart for those who need its parts."""

    secure: bool
    name: str  # of the host, for DNS and the certificate
    port: int
    host: str  # for the Host header
    target: str  # path and query


class Client:
    """One WebSocket connection at a time to one address.

    Assign its hooks (client.on_message = function), and they get the client
    as their first argument; or override them in a subclass.

    headers: more of them for the request; timeout: seconds for connecting;
    ping_interval: seconds, None for none; max_message: bytes. Raises
    ValueError for an address or a header that cannot be right.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        origin: str | None = None,
        subprotocols: Sequence[str] = (),
        ping_interval: float | None = None,
        timeout: float = TIMEOUT,
        max_message: int = codec.MAX_MESSAGE,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if ping_interval is not None and not 0 < ping_interval < math.inf:
            raise ValueError("the ping interval is more than 0 seconds")
        self.url = url
        self.address = parse_url(url)
        self.headers = dict(headers or {})
        if origin is not None:
            self.headers["Origin"] = origin
        self.subprotocols = tuple(subprotocols)
        if subprotocols:
            offer = ", ".join(subprotocols)
            self.headers["Sec-WebSocket-Protocol"] = offer
        self.ping_interval = ping_interval
        self.timeout = timeout
        self.max_message = max_message
        self.ssl_context = ssl_context
        self.state = State.NEW
        self.reconnect_at = math.inf
        self.attempts = 0  # since the last success, for reconnect()
        self.reset()
        self.request()  # A wrong header shall be told here and now.

    def reset(self) -> None:
        """Forget the last connection."""
        self.socket: socket.socket | None = None
        self.decoder = codec.Decoder(False, self.max_message)
        self.key = ""  # our Sec-WebSocket-Key
        self.head = b""  # what has arrived of the response
        self.outbox: deque[Block] = deque()  # what the kernel did not take
        self.waiting = 0  # bytes in the outbox
        # TLS may have to write before it can read, and the other way round.
        self.read_needs_room = self.write_needs_data = False
        # What it is for depends on the state, see check_deadline().
        self.deadline = math.inf
        self.pinged = False  # and nothing has come since
        self.code: int = CloseCode.ABNORMAL  # of the first Close frame
        self.reason = ""

    # ---- hooks, to be overridden or assigned ------------------------------

    def on_connect(self) -> None:
        """TCP, and TLS if there is any, is up."""

    def on_open(self, response: Response) -> None:
        """The WebSocket is open: status, headers, subprotocol."""

    def on_message(self, message: str | bytes) -> None:
        """A message: str was sent as text, bytes as binary."""

    def on_error(self, error: Exception) -> None:
        """Something failed: the network, the server, or another hook."""

    def on_close(self, code: int, reason: str) -> None:
        """It is over, once for each attempt; 1006: without a Close frame."""

    # ---- what a program calls ---------------------------------------------

    def connect(self) -> None:
        """Connect, at most timeout seconds; run() does the handshake.

        A failure goes to on_error, then to on_close. ValueError: there is a
        connection already.
        """
        if self.state not in (State.NEW, State.GONE):
            raise ValueError("close the old connection first")
        self.reset()
        self.state = State.CONNECTING
        self.reconnect_at = math.inf
        self.deadline = time.monotonic() + self.timeout
        try:
            self.socket = dial(self.address, self.deadline, self.ssl_context)
        except socket.timeout:  # is TimeoutError only from Python 3.10 on
            self.fail(TimeoutError(f"no connection in {self.timeout:g} s"))
            return
        except (OSError, ValueError) as error:
            self.fail(error)
            return
        self.call("on_connect")
        if self.state is State.CONNECTING:  # The hook may have closed it.
            self.queue(self.request())

    def send(self, message: str | bytes) -> None:
        """Send str as text, bytes as binary; after close(): nothing.

        ValueError: not before on_open.
        """
        if self.state in (State.NEW, State.CONNECTING):
            raise ValueError("the WebSocket is not open yet")
        # RFC 6455 s5.3: a new key for each frame, and nobody can guess it.
        frame = codec.encode_message(message, self.random_bytes(4))
        if self.state is State.OPEN:
            self.queue(frame)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; messages come in until the server's Close does.

        Also ends an attempt to connect, or the waiting for the next one.
        reason: at most 123 bytes. ValueError: not to be sent, see codec.
        """
        frame = codec.encode_close(code, reason, self.random_bytes(4))
        self.reconnect_at = math.inf
        if self.state is State.OPEN:
            self.queue(frame)
            self.code, self.reason = code, reason
            self.state = State.CLOSING
            self.deadline = time.monotonic() + self.timeout
        elif self.state is State.CONNECTING:
            self.gone("closed before it was open")

    def reconnect(self, seconds: float | None = None) -> None:
        """Connect again, so many seconds from now, or when it is over.

        None: after 1, 2, 4 ... 30 seconds, or up to a half less, lest all
        clients of a server come back to it at the same moment.
        """
        if seconds is None:
            seconds = min(MAX_DELAY, 2.0 ** min(self.attempts, 9))
            seconds *= random.uniform(0.5, 1)
            self.attempts += 1
        if not 0 <= seconds < math.inf:
            raise ValueError(f"not a number of seconds: {seconds}")
        self.reconnect_at = time.monotonic() + seconds

    def run(self) -> None:
        """Connect if that is still to be done; return when all is over."""
        run(self)

    # ---- what turn() asks and does ----------------------------------------

    def is_active(self) -> bool:
        """Tell whether there is, or will be, anything to wait for."""
        idle = self.state in (State.NEW, State.GONE)
        return not idle or self.reconnect_at < math.inf

    def ask_read(self) -> list[socket.socket]:
        """Return the sockets to read from."""
        if not self.socket or self.read_needs_room:
            return []
        return [self.socket]

    def ask_write(self) -> list[socket.socket]:
        """Return the sockets that something waits for."""
        wants = self.outbox and not self.write_needs_data
        if self.socket and (wants or self.read_needs_room):
            return [self.socket]
        return []

    def patience(self) -> float:
        """Return how many seconds select() may sleep."""
        if has_pending(self.socket):
            return 0.0
        return max(0.0, self.due() - time.monotonic())

    def due(self) -> float:
        """Return when there is something to do, even if nothing comes."""
        return self.reconnect_at if self.state is State.GONE else self.deadline

    def serve(self, ready: set[socket.socket]) -> None:
        """Read once, write what there is, and look at the clock."""
        if self.socket in ready or has_pending(self.socket):
            self.read()
        if self.outbox:
            self.write()
        self.check_deadline()

    def read(self) -> None:
        """Read once, and do what these bytes ask for."""
        assert self.socket
        self.read_needs_room = self.write_needs_data = False
        try:
            data = self.socket.recv(RECV_SIZE)
        except ssl.SSLWantWriteError:
            self.read_needs_room = True
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self.no_answer(error)
        else:
            self.pinged = False
            if data:
                self.receive(data)
            else:
                self.hung_up()

    def receive(self, data: bytes) -> None:
        """Take in what was read, as the state demands."""
        if self.state is State.CONNECTING:
            self.read_response(data)
        elif self.state in (State.OPEN, State.CLOSING):
            self.read_messages(data)
        # LEAVING: read all the same; unread bytes turn close() into RST.

    def read_response(self, data: bytes) -> None:
        """Collect the response; check it when its head is whole."""
        self.head += data
        try:
            taken = handshake.take_response(self.head)
            if not taken:
                return
            response, rest = taken
            if response.status != 101:
                if is_enough(response, rest):
                    self.refused(response, rest)
                return
            handshake.check_response(response, self.key, self.subprotocols)
        except HandshakeError as error:
            self.fail(error, error.reason)
            return
        self.opened(response)
        if rest:
            self.receive(rest)  # What came in the same segment as the 101.

    def refused(self, response: Response, body: bytes) -> None:
        """Tell which status it was, and the first line of the body."""
        line = first_line(response, body)[0]
        words = ": ".join(part for part in (response.reason, line) if part)
        self.fail(HandshakeError(response.status, words or "no WebSocket"))

    def no_answer(self, error: Exception) -> None:
        """Give up; in a handshake, a refusal without its end says more."""
        taken = handshake.take_response(self.head)
        if taken:
            self.refused(*taken)
        else:
            self.fail(error)

    def opened(self, response: Response) -> None:
        """Begin the exchange of messages."""
        self.state = State.OPEN
        self.attempts = 0
        self.head = b""
        self.deadline = time.monotonic() + (self.ping_interval or math.inf)
        self.call("on_open", response)

    def read_messages(self, data: bytes) -> None:
        """Decode, and handle one frame or message after the other."""
        try:
            for opcode, message in self.decoder.feed(data):
                self.handle(opcode, message)
                if self.state not in (State.OPEN, State.CLOSING):
                    return
        except ProtocolError as error:
            self.leave(error.code, error.reason, error.reason)
            self.call("on_error", error)

    def handle(self, opcode: int, message: Any) -> None:
        """Hand over a message, answer a ping and the Close."""
        if opcode in (codec.TEXT, codec.BINARY):
            self.call("on_message", message)
        elif opcode == codec.PING and self.state is State.OPEN:
            self.queue_control(codec.PONG, message)
        elif opcode == codec.CLOSE:
            # RFC 6455 s5.5.1: answer with the same code.
            self.leave(message.code, message.reason)

    def queue_control(self, opcode: int, payload: bytes = b"") -> None:
        """Queue a ping or a pong; payload: at most 125 bytes."""
        key = self.random_bytes(4)
        self.queue(codec.encode_frame(opcode, payload, key))

    def queue(self, block: Block) -> None:
        """Put bytes behind those that wait; the loop sends them."""
        self.outbox.append(block)
        self.waiting += len(block)

    def write(self) -> None:
        """Send until the outbox is empty or the kernel is full."""
        while self.outbox and self.write_some():
            pass

    def write_some(self) -> bool:
        """Send from the front of the outbox; tell whether to go on."""
        assert self.socket
        block = self.outbox[0]
        try:
            sent = self.socket.send(block)
        except ssl.SSLWantReadError:
            self.write_needs_data = True
            return False
        except (BlockingIOError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            self.fail(error)
            return False
        self.waiting -= sent
        if sent < len(block):
            self.outbox[0] = memoryview(block)[sent:]
        else:
            self.outbox.popleft()
        if self.state is State.CLOSING:
            # What was said before the Close may take its time to go out.
            self.deadline = time.monotonic() + self.timeout
        return True

    def check_deadline(self) -> None:
        """Do what the time has come for."""
        if time.monotonic() < self.due():
            return
        if self.state is State.GONE:
            self.connect()
        elif self.state is State.OPEN:
            self.ping_again()
        elif self.state is State.CONNECTING:
            words = f"no answer to the handshake in {self.timeout:g} s"
            self.no_answer(TimeoutError(words))
        else:
            self.gone("the server did not hang up")

    def ping_again(self) -> None:
        """Ask for a sign of life, or give up if the last one never came."""
        assert self.ping_interval
        if self.pinged:
            silence = f"no answer to a ping in {self.ping_interval:g} s"
            self.fail(TimeoutError(silence))
            return
        self.deadline = time.monotonic() + self.ping_interval
        self.pinged = True
        self.queue_control(codec.PING)

    # ---- how it ends ------------------------------------------------------

    def leave(self, code: int, reason: str, our_reason: str = "") -> None:
        """Say Close if it was not said; then only the end is waited for."""
        if self.state is State.OPEN:
            key = self.random_bytes(4)
            self.queue(codec.encode_close(code, our_reason, key))
            self.code, self.reason = code, reason
        if self.state in (State.OPEN, State.CLOSING):
            self.state = State.LEAVING
            self.deadline = time.monotonic() + LEAVING_SECONDS

    def hung_up(self) -> None:
        """Handle the end of the stream, good or bad by the state."""
        if self.state is State.CONNECTING:
            words = "the server hung up during the handshake"
            self.no_answer(ConnectionError(words))
        else:
            self.gone("the server hung up")

    def fail(self, error: Exception, reason: str = "") -> None:
        """End it without a goodbye, as there is nobody to say it to."""
        before = self.socket
        if self.state is not State.LEAVING:  # Everything has been said.
            self.call("on_error", error)
        if self.socket is before:  # The hooks may have connected again.
            self.gone(reason or explain(error))

    def gone(self, why: str) -> None:
        """Let the connection go: here, and nowhere else, it ends."""
        if self.state in (State.NEW, State.GONE):
            return
        code, reason = self.code, self.reason
        unsaid = self.state is State.CLOSING and self.outbox
        if unsaid or code == CloseCode.ABNORMAL:
            code, reason = CloseCode.ABNORMAL, why
        self.state = State.GONE
        self.outbox.clear()
        if self.socket:
            self.socket.close()
            self.socket = None
        self.call("on_close", int(code), reason)

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a hook; one that was assigned gets the client as well."""
        # An assigned hook is a plain function in the object, not a method of
        # its class: so it must be handed the client.
        assigned = vars(self).get(hook)
        try:
            if assigned:
                assigned(self, *arguments)
            else:
                getattr(self, hook)(*arguments)
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            self.leave(CloseCode.INTERNAL_ERROR, f"a bug in {hook}")
            if hook != "on_error":
                self.call("on_error", error)
            if self.state is State.CONNECTING:
                self.gone(f"a bug in {hook}")

    def request(self) -> bytes:
        """Return the bytes of the handshake, with a key of its own."""
        self.key = self.make_key()
        return handshake.request_head(
            self.address.host, self.address.target, self.key, self.headers
        )

    def make_key(self) -> str:
        """Return a Sec-WebSocket-Key: 16 random bytes in base64 (s4.1)."""
        return base64.b64encode(self.random_bytes(16)).decode()

    def random_bytes(self, size: int) -> bytes:
        """Return bytes that nobody can guess."""
        return secrets.token_bytes(size)


# ---- the loop ---------------------------------------------------------------


def run(*clients: Client) -> None:
    """Serve until none is open, connecting or waiting to reconnect.

    Those that were never connected are connected first.
    """
    for client in clients:
        if client.state is State.NEW:
            client.connect()
    while any(client.is_active() for client in clients):
        turn(clients)


def turn(clients: Sequence[Client]) -> None:
    """Ask the kernel who is ready, and serve each client once."""
    ask_read: list[socket.socket] = []
    ask_write: list[socket.socket] = []
    most = PATIENCE
    for client in clients:
        ask_read += client.ask_read()
        ask_write += client.ask_write()
        most = min(most, client.patience())
    ready = wait(ask_read, ask_write, most)
    for client in clients:
        client.serve(ready)


def wait(
    ask_read: list[socket.socket], ask_write: list[socket.socket], most: float
) -> set[socket.socket]:
    """Sleep until a socket is ready, at most so many seconds."""
    if not ask_read and not ask_write:
        time.sleep(most)  # Windows' select() refuses three empty lists.
        return set()
    readable, writable, _ = select.select(ask_read, ask_write, [], most)
    return {*readable, *writable}


# ---- addresses and sockets --------------------------------------------------


def parse_url(url: str) -> Address:
    """Take a ws:// or wss:// address apart (s3); ValueError if it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss"):
        raise ValueError(f"not ws:// or wss://: {url}")
    if "#" in url:
        raise ValueError(f"a WebSocket has no place for a #fragment: {url}")
    if "@" in parts.netloc:
        raise ValueError("a login goes into a header, not into the address")
    name = (parts.hostname or "").encode("idna").decode()
    if not HOST.fullmatch(name):
        raise ValueError(f"no host in the address: {url}")
    secure = parts.scheme == "wss"
    usual = 443 if secure else 80
    port = usual if parts.port is None else parts.port  # ValueError: 65536
    host = f"[{name}]" if ":" in name else name
    if port != usual:
        host += f":{port}"
    target = quote(parts.path or "/", SAFE)
    if parts.query:
        target += "?" + quote(parts.query, SAFE + "?")
    return Address(secure, name, port, host, target)


HOST = re.compile("[!-~]+")
SAFE = "/%:@!$&'()*+,;=~"  # what a path holds as it is (RFC 3986 s3.3)


def dial(
    address: Address, deadline: float, context: ssl.SSLContext | None
) -> socket.socket:
    """Return a connected socket that does not block; OSError, ValueError."""
    # As bytes, it is not prepared for DNS a second time. This look-up is
    # the one thing that may last longer than the timeout.
    found = socket.getaddrinfo(
        address.name.encode(), address.port, type=socket.SOCK_STREAM
    )
    failure = OSError(errno.EADDRNOTAVAIL, "the host has no address")
    # localhost is often two addresses, and only one has a server.
    for family, kind, protocol, _, place in found:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # no IPv6 here, perhaps
            failure = error
            continue
        try:
            sock.settimeout(time_left(deadline))
            sock.connect(place)
            return prepare(sock, address, deadline, context)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:  # Ctrl-C, or a name that TLS does not take
            sock.close()
            raise
    raise failure


def prepare(
    sock: socket.socket,
    address: Address,
    deadline: float,
    context: ssl.SSLContext | None,
) -> socket.socket:
    """Make a connected socket ready for the loop, with TLS for wss."""
    if sys.platform != "win32" and sock.fileno() >= FD_SETSIZE:
        raise OSError(errno.EMFILE, "more sockets than select() can watch")
    # A small frame must not wait for the last one's acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.secure:
        context = context or ssl.create_default_context()
        sock.settimeout(time_left(deadline))
        sock = context.wrap_socket(sock, server_hostname=address.name)
    sock.setblocking(False)
    return sock


def time_left(deadline: float) -> float:
    """Return the seconds until then; 0 would mean: do not block."""
    return max(0.001, deadline - time.monotonic())


def has_pending(sock: socket.socket | None) -> bool:
    """Tell whether TLS has decrypted bytes that select() cannot see."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def is_enough(response: Response, body: bytes) -> bool:
    """Tell whether the first line of a body is whole, or all there will be."""
    length = response.headers.get("Content-Length", "")
    most = int(length) if SHORT.fullmatch(length) else MAX_BODY
    return first_line(response, body)[1] or len(body) >= most


SHORT = re.compile("[0-9]{1,3}")  # a length of less than MAX_BODY


def first_line(response: Response, body: bytes) -> tuple[str, bool]:
    """Return the first line of a body, and whether it is whole."""
    if "chunked" in response.headers.get("Transfer-Encoding", "").lower():
        body = body.partition(b"\n")[2]  # that line is the first size
    line, end, _ = body.lstrip().partition(b"\n")
    return line.decode("utf-8", "replace").strip()[:100], bool(end)


def explain(error: Exception) -> str:
    """Say in words what failed, without the numbers of the system."""
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        return f"TLS: {getattr(error, 'verify_message', reason)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


# ---- faults, for lessons ----------------------------------------------------


class LabClient(Client):
    """A client that can be made to do what no browser does.

    raw: bytes that go out after the handshake, and what comes back is shown
    in hex; dribble: everything goes out one byte at a time, so many seconds
    apart; slow: nothing is read while it is open; key: the
    Sec-WebSocket-Key; seed: the same key and masks every time.
    """

    def __init__(
        self,
        url: str,
        *,
        raw: bytes = b"",
        dribble: float | None = None,
        slow: bool = False,
        key: str | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        if dribble is not None and not 0 <= dribble < math.inf:
            raise ValueError("one cannot dribble backwards, or for ever")
        self.raw, self.dribble, self.slow = raw, dribble, slow
        self.fixed_key = key
        self.random = None if seed is None else random.Random(seed)
        self.next_byte = 0.0  # when the next one may go
        super().__init__(url, **options)

    def random_bytes(self, size: int) -> bytes:
        """Return random bytes, which a seed makes predictable."""
        if self.random is None:
            return super().random_bytes(size)
        return self.random.getrandbits(8 * size).to_bytes(size, "big")

    def make_key(self) -> str:
        """Return the key that was asked for, good or bad."""
        return super().make_key() if self.fixed_key is None else self.fixed_key

    def opened(self, response: Response) -> None:
        """Send the raw bytes before anything else."""
        if self.slow and self.socket:
            # Otherwise the kernel reads on for us, some megabytes.
            option = socket.SO_RCVBUF
            self.socket.setsockopt(socket.SOL_SOCKET, option, 4096)
        if self.raw:
            self.queue(self.raw)
        super().opened(response)

    def receive(self, data: bytes) -> None:
        """Show what comes back for the raw bytes."""
        if self.raw and self.state in (State.OPEN, State.CLOSING):
            tell(f"received {preview(data, 1024)}")
        super().receive(data)

    def asleep(self) -> bool:
        """Tell whether nothing shall be read; at the end, all is."""
        return self.slow and self.state is State.OPEN

    def ask_read(self) -> list[socket.socket]:
        """Do not ask for data while it is not to be read."""
        return [] if self.asleep() else super().ask_read()

    def read(self) -> None:
        """Leave the data in the kernel while it is not to be read."""
        if not self.asleep():
            super().read()

    def ask_write(self) -> list[socket.socket]:
        """Do not ask for room before the next byte may go."""
        early = self.dribble and time.monotonic() < self.next_byte
        return [] if early else super().ask_write()

    def patience(self) -> float:
        """Wake up for the next byte."""
        most = super().patience()
        if self.dribble and self.outbox:
            most = min(most, self.next_byte - time.monotonic())
        return max(0.0, most)

    def queue(self, block: Block) -> None:
        """Cut what is to be dribbled into single bytes."""
        if self.dribble is None:
            super().queue(block)
            return
        for at in range(len(block)):
            super().queue(block[at : at + 1])

    def write(self) -> None:
        """Send everything, or the next byte if it is time for it."""
        if self.dribble is None:
            super().write()
        elif time.monotonic() >= self.next_byte and self.write_some():
            self.next_byte = time.monotonic() + self.dribble
            # Our own clock must not run out meanwhile.
            if self.state is not State.OPEN:
                self.deadline = self.next_byte + self.timeout


# ---- the terminal -----------------------------------------------------------


class Terminal(LabClient):
    """The program: what comes in is printed, what is typed is sent.

    name: join the tutorial's room, talk in its messages and show them in
    words; count: end after so many messages.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        count: int | None = None,
        **options: Any,
    ) -> None:
        # The room wraps a message in JSON, which can make it six times longer.
        super().__init__(url, max_message=8 * codec.MAX_MESSAGE, **options)
        if count is not None and count < 1:
            raise ValueError("the count is at least 1")
        if re.search("[\ud800-\udfff]", name or ""):
            raise ValueError("the name is not UTF-8")
        self.name = name
        self.count = count
        self.keyboard: socket.socket | None = None
        self.typed = bytearray()  # a line that is not yet whole
        self.people: dict[str, str] = {}  # names by the room's codes
        self.me = ""  # our own code
        self.pinged_at = 0.0
        self.asked = 0  # the code with which we wanted to end
        self.theirs: Close | None = None  # what the server's Close said
        self.status = 1  # of the program, until it ends well

    # The keyboard is one more socket to wait for, but only while it is open:
    # nothing typed can be sent before, and nothing at all waits after.

    def ask_read(self) -> list[socket.socket]:
        """Watch the keyboard while there is room for what it says."""
        sockets = super().ask_read()
        if self.keyboard and self.state is State.OPEN:
            if self.waiting <= MAX_WAITING:
                sockets.append(self.keyboard)
        return sockets

    def serve(self, ready: set[socket.socket]) -> None:
        """Take what was typed first: then it goes out in this turn."""
        if self.keyboard in ready and self.state is State.OPEN:
            self.read_keyboard()
        super().serve(ready)

    def read_keyboard(self) -> None:
        """Take the lines that are whole; at the end, say goodbye."""
        assert self.keyboard
        data = self.keyboard.recv(RECV_SIZE)
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            lines.append(self.typed + end)
            self.typed = bytearray()
        self.typed += rest
        if not data and self.typed:
            lines.append(self.typed)
        for line in lines:
            if self.state is State.OPEN:  # until one of them was /quit
                self.enter(line.decode("utf-8", "replace").rstrip("\r"))
        if not data:
            self.keyboard.close()
            self.keyboard = None
            if self.count is None:  # It may be that answers are awaited.
                self.close()

    def enter(self, line: str) -> None:
        """Do what a line asks for, or say it; // stands for one /."""
        word, _, rest = line.partition(" ")
        if line.startswith("//"):
            self.say(line[1:], "all")
        elif not line.startswith("/"):
            self.say(line, "all")
        elif word == "/ping":
            self.pinged_at = time.monotonic()
            self.queue_control(codec.PING, b"typed")
        elif word == "/to":
            self.whisper(rest)
        elif word == "/close":
            self.close_as_typed(rest)
        elif word == "/quit":
            self.close()
        else:
            tell("there are /ping, /to NAME text, /close CODE why, /quit")
            tell("a line that begins with a slash is typed with two: //")

    def say(self, text: str, to: str) -> None:
        """Send a line as it is, or in the tutorial's form."""
        if self.name is None:
            self.send(text)
        elif text:
            self.send(urlencode({"nr": text, "key": to}))

    def whisper(self, rest: str) -> None:
        """Say something to one: "NAME text", and a name may have spaces."""
        for code, name in self.people.items():
            for who in (name, f"#{code}"):
                if rest.startswith(who + " "):
                    self.say(rest[len(who) + 1 :], code)
                    return
        tell(f"nobody here is called that: {rest}")

    def close_as_typed(self, rest: str) -> None:
        """Close with "CODE reason"; with nothing: 1000."""
        code, _, reason = rest.partition(" ")
        try:
            self.close(int(code or 1000), reason)
        except ValueError:
            tell("to be typed: /close, or /close 4001 with a short reason")

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Remember that this end is wanted."""
        is_first = self.state is State.OPEN
        super().close(code, reason)
        if is_first:
            self.asked = code

    def on_open(self, response: Response) -> None:
        """Join the room, and begin to listen to the keyboard."""
        if self.name is not None:
            self.send(urlencode({"type": "add", "ming": self.name}))
        self.keyboard = watch_keyboard()
        if sys.stdin and sys.stdin.isatty():
            tell(f"connected to {self.url}; /quit ends")

    def on_message(self, message: str | bytes) -> None:
        """Print one line for one message."""
        if self.count == 0:
            return  # These came after the last one that was asked for.
        if isinstance(message, bytes):
            message = f"({len(message)} bytes: {preview(message)})"
        elif self.name is not None:
            message = self.in_words(message)
        try:
            show(message)
        except OSError:  # Whoever read it has gone (| head).
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.close()
        if self.count is not None:
            self.count -= 1
            if not self.count:
                self.close()

    def handle(self, opcode: int, message: Any) -> None:
        """Time the answer to /ping; remember the server's Close."""
        super().handle(opcode, message)
        if opcode == codec.CLOSE:
            self.theirs = message
        elif opcode == codec.PONG and message == b"typed":
            took = time.monotonic() - self.pinged_at
            tell(f"pong after {1000 * took:.1f} ms")

    def on_close(self, code: int, reason: str) -> None:
        """Tell how it ended, if it was not as it should be."""
        if self.keyboard:
            self.keyboard.close()
        if self.theirs:  # It may find fault with us after our own Close.
            code, reason = self.theirs
        if code in (self.asked, *PEACEFUL):
            self.status = 0
        elif code == CloseCode.ABNORMAL:
            tell(f"{self.address.host}: {reason}")
        else:
            tell(f"closed with {code} {reason}".rstrip())

    def in_words(self, message: str) -> str:
        """Put a message of the tutorial's room into words."""
        try:
            fields = json.loads(message)
            kind = fields.get("type")
            if kind == "madd":
                return self.welcome(fields)
            if kind == "add":
                return self.somebody_came(fields)
            if kind == "rmove":
                code = str(fields["nrong"])
                return f"{self.people.pop(code, '#' + code)} left"
            return self.somebody_spoke(fields)
        except NOT_THE_ROOMS:
            return message

    def welcome(self, fields: dict[str, Any]) -> str:
        """Note who is here already."""
        self.me = str(fields["code"])
        for user in fields["users"]:
            self.people[str(user["code"])] = str(user["name"])
        names = ", ".join(self.people.values())
        return f"you are {fields['name']}; here are: {names}"

    def somebody_came(self, fields: dict[str, Any]) -> str:
        """Note a newcomer, or another name of somebody known."""
        code, name = str(fields["code"]), str(fields["name"])
        old = self.people.get(code)
        self.people[code] = name
        return f"{old} is now {name}" if old else f"{name} joined"

    def somebody_spoke(self, fields: dict[str, Any]) -> str:
        """Say who said what, and to whom if not to all."""
        code, to = str(fields["code"]), str(fields["code1"])
        who = self.people.get(code, "#" + code)
        if to == self.me:
            who += ", to you alone"
        elif to != "all":
            who += f", to {self.people.get(to, '#' + to)} alone"
        return f"{who}: {fields['nrong']}"


# What the text of somebody else, read as the room's, can raise.
NOT_THE_ROOMS = (
    ValueError, LookupError, TypeError, AttributeError, RecursionError,
)  # fmt: skip
PEACEFUL = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_CODE)


def watch_keyboard() -> socket.socket:
    """Return a socket from which comes what is typed or piped in.

    Reading a keyboard blocks, so a thread of its own does it. On Windows
    select() takes sockets only, so the thread hands the bytes over through
    a pair of sockets; everywhere, so that there is one way and not two.
    """
    here, there = socket.socketpair()
    threading.Thread(target=read_stdin, args=(there,), daemon=True).start()
    return here


def read_stdin(sink: socket.socket) -> None:
    """Copy standard input into a socket, up to its end."""
    with sink, contextlib.suppress(OSError):
        if sys.stdin is None:
            return  # it was closed, and its number may be in use again
        # Without a buffer: its lock, held by a thread that sleeps, would
        # stop the interpreter from ending.
        with open(0, "rb", buffering=0, closefd=False) as keyboard:
            while True:
                typed = keyboard.read(RECV_SIZE)
                if not typed:
                    return
                sink.sendall(typed)


def show(line: str) -> None:
    """Print what came in, on one line of its own, at once."""
    encoding = sys.stdout.encoding or "utf-8"
    safe = printable(line).encode(encoding, "backslashreplace")
    print(safe.decode(encoding), flush=True)


def tell(line: str) -> None:
    """Print what is not from the server, on standard error."""
    plain = printable(line).encode("ascii", "backslashreplace").decode()
    print(f"client.py: {plain}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Escape what would move the cursor, or turn the writing round."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def preview(data: bytes, most: int = 32) -> str:
    """Return the first bytes in hex: "81 05 48 65 ..."."""
    more = " ..." if len(data) > most else ""
    return data[:most].hex(" ") + more


# ---- the command line -------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    terminal = make_terminal(arguments)
    try:
        terminal.run()
    except KeyboardInterrupt:
        return say_goodbye(terminal)
    return terminal.status


def say_goodbye(terminal: Terminal) -> int:
    """Close politely after Ctrl-C; the second one ends it at once."""
    try:
        terminal.close()
        run(terminal)
    except KeyboardInterrupt:
        os._exit(130)  # what a shell reports for the end by Ctrl-C
    return 0


def make_terminal(arguments: Sequence[str] | None) -> Terminal:
    """Return what the arguments ask for; if wrong, exit with one line."""
    parser = make_parser()
    options = vars(parser.parse_args(arguments))
    if options["seed"] is not None:
        tell("--seed: keys that anybody can guess, for lessons only")
    if options.pop("insecure"):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        options["ssl_context"] = context
    options["headers"] = dict(options.pop("header"))
    options["subprotocols"] = options.pop("subprotocol")
    try:
        return Terminal(**options)
    except ValueError as error:
        parser.error(str(error))


def make_parser() -> Parser:
    """Return the parser; its options are named as Terminal's arguments."""
    parser = Parser(
        prog="client.py",
        description="A WebSocket client: a chat, and a lab for lessons.",
        epilog="While it runs: /ping, /to NAME text, /close CODE why, /quit.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("url", help="ws://127.0.0.1:9000/, or wss:// for TLS")
    add("--name", help="join the tutorial's room under this name")
    add("--count", type=int, help="end after so many messages")
    add("--header", type=header, action="append", default=[], help="'A: b'")
    add("--origin", help="say that a page from there connects")
    add("--subprotocol", action="append", default=[], help="offer this one")
    add("--insecure", action="store_true", help="trust any certificate")
    add("--ping-interval", type=float, help="seconds; none if left out")
    add = parser.add_argument_group("faults, for lessons").add_argument
    add("--raw", type=bytes.fromhex, default=b"", help="send '81 05 48 ...'")
    add("--dribble", type=float, help="seconds from one byte to the next")
    add("--slow", action="store_true", help="never read")
    add("--key", help="the Sec-WebSocket-Key, right or wrong")
    add("--seed", type=int, help="the same key and masks every time")
    return parser


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake costs one line, not a page."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and how to find out more; exit with 2."""
        tell(f"{message} (see python client.py --help)")
        sys.exit(2)


def header(text: str) -> tuple[str, str]:
    """Return the name and the value of "Name: value"."""
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError(text)
    return name, value.strip()


if __name__ == "__main__":
    sys.exit(main())
