"""The same WebSocket from the other side: for programs, and a chat.

    python client.py ws://127.0.0.1:9000/ --name Ana

Read Client first: it stands in the order of a connection's life. Then
turn(), the loop for any number of clients; below it the terminal and the
command line. HTTP is in handshake.py, frames are in codec.py.

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
from enum import Enum
from typing import Any, Mapping, NamedTuple, NoReturn, Sequence
from urllib.parse import quote, urlencode, urlsplit

import codec
import handshake
from codec import Close, CloseCode, ProtocolError
from handshake import HandshakeError, Response

PIECE = 64 * 1024  # bytes; read at a time, or sent, or kept by the kernel
TIMEOUT = 10.0  # seconds, for connecting, and for the answer to a Close
PAUSE = 0.2  # seconds, from the end of what is typed to the goodbye
LEAVING_SECONDS = 2.0  # the server hangs up first; then we do
MAX_DELAY = 30.0  # seconds between attempts
STEADY_SECONDS = 5.0  # who closes earlier is no success for reconnect()
PATIENCE = 0.5  # Windows: Ctrl-C does not wake select()
FD_SETSIZE = 1024  # descriptors that select() can watch
MAX_BODY = 1000  # bytes of a refusal, of which one line is shown
BODY_SECONDS = 1.0  # for that line, when the status is here
MAX_WAITING = 1024 * 1024  # bytes; then the keyboard has to wait


class State(Enum):
    """The life of a connection, from the top to the bottom."""

    NEW = "never connected"
    CONNECTING = "TCP, TLS or the handshake is under way"
    OPEN = "messages go both ways"
    CLOSING = "we say nothing more; messages still come in"
    LEAVING = "neither side says any more; the server hangs up"
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
        ours = {}
        if origin is not None:
            ours["Origin"] = origin
        if subprotocols:
            ours["Sec-WebSocket-Protocol"] = ", ".join(subprotocols)
        self.headers = {**(headers or {}), **ours}
        if len(self.headers) < len(headers or {}) + len(ours):
            raise ValueError("a header is given twice")
        self.ping_interval = ping_interval
        self.timeout = timeout
        self.max_message = max_message
        self.ssl_context = ssl_context
        self.random_bytes = secrets.token_bytes  # Nobody can guess them.
        self.state = State.NEW
        self.reconnect_at = math.inf
        self.attempts = 0  # since the last steady connection
        self.reset()
        self.request()  # A wrong header shall be told here and now.

    def reset(self) -> None:
        """Forget the last connection."""
        self.socket: socket.socket | None = None
        self.decoder = codec.Decoder(False, self.max_message)
        self.key = ""  # our Sec-WebSocket-Key
        self.head = b""  # what has arrived of the response
        self.outbox = bytearray()  # what the kernel did not take yet
        self.full = False  # at the last try, the kernel did not take all
        self.ping: bytes | None = None  # the last one, if not yet answered
        self.pong_left = 0  # bytes that go before our last pong has gone
        # TLS may have to write before it can read, and the other way round.
        self.read_needs_room = self.write_needs_data = False
        # What it is for depends on the state, see check_deadline().
        self.deadline = math.inf
        self.pinged = False  # and no sign of life since
        self.opened_at = math.inf
        self.hung_up = False  # nothing more can be read
        self.error: Exception | None = None  # for on_error, at the end
        self.ours: Close | None = None  # what the program said in close()
        self.code: int = CloseCode.ABNORMAL  # of the Close frame that came
        self.reason = ""  # its reason; none came: what ended it, in words

    # ---- hooks, to be overridden or assigned ------------------------------

    def on_connect(self) -> None:
        """TCP, and TLS if there is any, is up."""

    def on_open(self, response: Response) -> None:
        """The WebSocket is open: status, headers, subprotocol."""

    def on_message(self, message: str | bytes) -> None:
        """A message: str was sent as text, bytes as binary."""

    def on_pong(self, payload: bytes) -> None:
        """The answer to a ping of ours."""

    def on_error(self, error: Exception) -> None:
        """Something failed: the network, the server, or another hook.

        It is over then; on_close comes next.
        """
        tell(f"{self.address.host}: {explain(error)}")

    def on_close(self, code: int, reason: str) -> None:
        """It is over, once for each attempt.

        Code and reason are those of the server's Close (RFC 6455 s7.1.5).
        1006: none came; then the reason says in words what happened.
        """

    # ---- what a program calls ---------------------------------------------

    def connect(self) -> None:
        """Connect, and send the request; run() does the rest.

        If it fails, run() tells on_error, then on_close. ValueError: there
        is a connection already.
        """
        if self.state not in (State.NEW, State.GONE):
            raise ValueError("close the old connection first")
        self.reset()
        self.state = State.CONNECTING
        self.reconnect_at = math.inf
        self.deadline = time.monotonic() + self.timeout
        try:
            self.socket = self.dial()
            self.socket = self.prepare(self.socket)
        except socket.timeout:  # is TimeoutError only from Python 3.10 on
            late = f"no connection in {self.timeout:g} s"
            self.end(late, TimeoutError(late))
        except (OSError, ValueError) as error:
            self.end(explain(error), error)
        else:
            self.call("on_connect")
            if self.state is State.CONNECTING:  # The hook may have closed it.
                self.outbox += self.request()

    def send(self, message: str | bytes) -> None:
        """Send str as text, bytes as binary; after close(): nothing.

        ValueError: not before on_open.
        """
        if self.state in (State.NEW, State.CONNECTING):
            raise ValueError("the WebSocket is not open yet")
        # RFC 6455 s5.3: a new key for each frame, and nobody can guess it.
        frame = codec.encode_message(message, self.random_bytes(4))
        if self.state is State.OPEN:
            self.outbox += frame

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; messages come in until the server's Close does.

        Also ends an attempt to connect, or the waiting for the next one.
        reason: at most 123 bytes. ValueError: not to be sent, see codec.
        """
        frame = self.close_frame(code, reason)
        self.reconnect_at = math.inf
        if self.state is State.OPEN:
            self.outbox += frame
            self.ours = Close(int(code), reason)
            self.state = State.CLOSING
            self.alive()
        elif self.state is State.CONNECTING:
            self.end("closed before it was open")

    def reconnect(self, seconds: float | None = None) -> None:
        """Connect again, so many seconds from now, or when it is over.

        None: after 1, 2, 4 ... 30 seconds, or up to a half less, lest all
        clients of a server come back to it at the same moment; after a
        connection of five seconds it begins with 1 again.
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

    # ---- how it connects --------------------------------------------------

    def dial(self) -> socket.socket:
        """Return a connected socket; OSError, ValueError.

        Each address of the host has its timeout, and localhost is often two;
        the look-up of the name may last longer.
        """
        place = self.address.name, self.address.port
        return socket.create_connection(place, self.timeout)

    def prepare(self, sock: socket.socket) -> socket.socket:
        """Make a connected socket ready for the loop, with TLS for wss."""
        if sys.platform != "win32" and sock.fileno() >= FD_SETSIZE:
            raise OSError(errno.EMFILE, "more sockets than select() can watch")
        # A small frame must not wait for the last one's acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What waits shall wait in the outbox, where we see it go: the kernel
        # may keep megabytes, and then a slow line looks dead.
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            option = socket.TCP_NOTSENT_LOWAT
            sock.setsockopt(socket.IPPROTO_TCP, option, PIECE)
        else:  # Windows; this counts what was sent and not yet taken, too.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        if self.address.secure:
            context = self.ssl_context or ssl.create_default_context()
            left = self.deadline - time.monotonic()
            sock.settimeout(max(0.001, left))  # 0 would mean: do not block
            sock = context.wrap_socket(sock, server_hostname=self.address.name)
        sock.setblocking(False)
        return sock

    def request(self) -> bytes:
        """Return the bytes of the handshake, with a key of its own."""
        self.key = self.make_key()
        return handshake.request_head(
            self.address.host, self.address.target, self.key, self.headers
        )

    def make_key(self) -> str:
        """Return a Sec-WebSocket-Key: 16 random bytes in base64 (s4.1)."""
        return base64.b64encode(self.random_bytes(16)).decode()

    # ---- what turn() asks and does ----------------------------------------

    def is_active(self) -> bool:
        """Tell whether there is, or will be, anything to wait for."""
        idle = self.state in (State.NEW, State.GONE)
        return not idle or self.reconnect_at < math.inf

    def ask_read(self) -> list[socket.socket]:
        """Return the sockets to read from."""
        if self.socket and self.socket.fileno() < 0:
            closed = "a hook has closed the socket"  # in vain for select()
            self.end(closed, OSError(errno.EBADF, closed))
        if not self.socket or self.hung_up or self.read_needs_room:
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
        idle = self.state in (State.NEW, State.GONE)
        return self.reconnect_at if idle else self.deadline

    def serve(self, ready: set[socket.socket]) -> None:
        """Read once, write what there is, part, look at the clock."""
        if self.socket in ready or has_pending(self.socket):
            self.read()
        if self.outbox:
            self.write()
        if self.state is State.LEAVING and self.hung_up and not self.outbox:
            self.drop()
        self.check_deadline()

    def read(self) -> None:
        """Read once, and do what these bytes ask for."""
        assert self.socket
        self.read_needs_room = self.write_needs_data = False
        try:
            data = self.socket.recv(PIECE)
        except ssl.SSLWantWriteError:
            self.read_needs_room = True
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self.cut_off(error)
        else:
            self.receive(data)

    def receive(self, data: bytes) -> None:
        """Take in what was read, as the state demands; b"": the end."""
        if not data:
            self.end_of_stream()
        elif self.state is State.CONNECTING:
            self.read_response(data)
        elif self.state is not State.LEAVING:
            self.read_messages(data)
        # Else it is thrown away; but unread, it would turn close() into RST.

    def read_response(self, data: bytes) -> None:
        """Collect the response; check it when its head is whole."""
        self.head += data
        try:
            taken = handshake.take_response(self.head)
            if not taken:
                return
            response, rest = taken
            if response.status != 101:
                self.refused(response, rest)
                return
            handshake.check_response(
                response, self.key, subprotocols_in(self.headers)
            )
        except HandshakeError as error:
            self.end(error.reason, error)
            return
        self.opened(response)
        if rest:
            self.receive(rest)  # What came in the same segment as the 101.

    def refused(
        self, response: Response, body: bytes, is_all: bool = False
    ) -> None:
        """Tell the status and the first line of the body, if that is whole.

        Where a body ends has many rules. They are left out: what is not
        there after a second is not waited for.
        """
        if "html" in response.headers.get("Content-Type", "").lower():
            body, is_all = b"", True  # a proxy's page, whose lines say little
        if "chunked" in response.headers.get("Transfer-Encoding", "").lower():
            body = body.partition(b"\n")[2]  # that line is the first size
        line, end, _ = body.lstrip().partition(b"\n")
        if end or is_all or len(body) > MAX_BODY:
            said = line.decode("utf-8", "replace").strip()[:100]
            parts = handshake.outcome(response), said
            words = ": ".join(part for part in parts if part)
            error = HandshakeError(response.status, words or "no WebSocket")
            self.end(str(error), error)
        else:
            soon = time.monotonic() + BODY_SECONDS
            self.deadline = min(self.deadline, soon)

    def cut_off(self, error: Exception) -> None:
        """End it; in a handshake, a refusal without its end says more."""
        taken = handshake.take_response(self.head)
        if taken:
            self.refused(*taken, is_all=True)
        else:
            self.end(explain(error), error)

    def opened(self, response: Response) -> None:
        """Begin the exchange of messages."""
        self.state = State.OPEN
        self.opened_at = time.monotonic()
        self.head = b""
        self.alive()
        self.call("on_open", response)

    def read_messages(self, data: bytes) -> None:
        """Decode, and handle one frame or message after the other."""
        self.alive()
        try:
            for opcode, message in self.decoder.feed(data):
                self.handle(opcode, message)
                if self.state not in (State.OPEN, State.CLOSING):
                    return
        except ProtocolError as error:
            self.fault(error, error.code, error.reason)
        except KeyboardInterrupt:  # With the rest of this read we are lost.
            self.blame("stopped by Ctrl-C")
            self.finish(self.close_frame(CloseCode.NORMAL))
            raise

    def handle(self, opcode: int, message: Any) -> None:
        """Hand over a message, answer a ping and the Close."""
        if opcode in (codec.TEXT, codec.BINARY):
            self.call("on_message", message)
        elif opcode == codec.PONG:
            self.call("on_pong", message)
        elif opcode == codec.PING:
            self.ping = message
            self.answer_ping()
        elif opcode == codec.CLOSE:
            self.code, self.reason = message
            # RFC 6455 s5.5.1: answer with the same code.
            self.finish(self.close_frame(self.code))

    def alive(self) -> None:
        """Start the deadline anew: the server makes progress.

        A byte came, or the kernel took one after it was full: so the server
        has read. A handshake has ten seconds in all; there it does nothing.
        """
        self.pinged = False
        seconds = {
            State.OPEN: self.ping_interval or math.inf,
            State.CLOSING: self.timeout,
            State.LEAVING: LEAVING_SECONDS,
        }
        if self.state in seconds:
            self.deadline = time.monotonic() + seconds[self.state]

    def answer_ping(self) -> None:
        """Queue a pong, unless the last one still waits there.

        Then only the last ping needs an answer (RFC 6455 s5.5.3): a flood of
        them cannot fill the outbox.
        """
        if self.ping is None or self.pong_left > 0:
            return
        if self.state is State.OPEN:
            self.queue_control(codec.PONG, self.ping)
            self.pong_left = len(self.outbox)
        self.ping = None

    def queue_control(self, opcode: int, payload: bytes = b"") -> None:
        """Queue a ping or a pong; payload: at most 125 bytes."""
        key = self.random_bytes(4)
        self.outbox += codec.encode_frame(opcode, payload, key)

    def write(self) -> None:
        """Send until the outbox is empty or the kernel is full."""
        was_full, sent = self.full, 0
        try:
            while self.outbox:
                sent = self.send_some()
                del self.outbox[:sent]
                self.pong_left -= sent
                self.answer_ping()
            self.full = False
        except ssl.SSLWantReadError:
            self.write_needs_data = True
        except (BlockingIOError, ssl.SSLWantWriteError):
            self.full = True  # select() will tell when there is room again
        except OSError as error:
            self.fail(error)
            return
        if was_full and sent:
            self.alive()

    def send_some(self) -> int:
        """Send from the front of the outbox; return how many bytes went."""
        assert self.socket
        return self.socket.send(self.outbox[:PIECE])

    def check_deadline(self) -> None:
        """Do what the time has come for."""
        # serve() has tried to write before: select() tells of much room
        # only, but the least that the kernel takes is a sign of life.
        if time.monotonic() < self.due():
            return
        if self.state in (State.NEW, State.GONE):
            self.connect()
        elif self.state is State.OPEN:
            self.ping_again()
        elif self.state is State.CONNECTING:
            words = f"no answer to the handshake in {self.timeout:g} s"
            self.cut_off(TimeoutError(words))
        else:
            self.end("the server did not answer")

    def ping_again(self) -> None:
        """Ask for a sign of life, or give up if the last one never came."""
        assert self.ping_interval
        if self.pinged:
            silence = f"no answer to a ping in {self.ping_interval:g} s"
            self.end(silence, TimeoutError(silence))
            return
        self.deadline = time.monotonic() + self.ping_interval
        self.pinged = True
        self.queue_control(codec.PING)

    # ---- how it ends ------------------------------------------------------
    # The same words in server.py: close, finish, fail, end, drop.

    def close_frame(self, code: int, reason: str = "") -> bytes:
        """Return our Close; ValueError for what must not be sent."""
        return codec.encode_close(code, reason, self.random_bytes(4))

    def end_of_stream(self) -> None:
        """Read no more; what waits for the server still goes out."""
        if self.state is State.CONNECTING:
            words = "the server hung up during the handshake"
            self.cut_off(ConnectionError(words))
            return
        self.hung_up = True
        self.blame("the server hung up")
        self.finish(self.close_frame(CloseCode.NORMAL))

    def fault(self, error: Exception, code: int, why: str) -> None:
        """End it because of a broken rule or a bug: nothing more counts."""
        self.blame(why)
        self.error = self.error or error
        self.finish(self.close_frame(code, why))

    def finish(self, last: bytes) -> None:
        """Queue our Close, if none was said; then only the end is awaited."""
        if self.state is State.OPEN:
            self.outbox += last
        self.state = State.LEAVING
        self.alive()

    def fail(self, error: Exception) -> None:
        """Write no more, as sending failed; read on, to the end."""
        self.outbox.clear()
        if self.state is State.OPEN:
            self.state = State.CLOSING
        if self.state is State.CLOSING:  # Later on, all has been said.
            self.blame(explain(error))
            self.error = self.error or error
            self.alive()

    def end(self, why: str, error: Exception | None = None) -> None:
        """Neither read nor write any more: the next serve() drops it.

        For programs, too, that do not want to wait for the server.
        """
        if self.state in (State.NEW, State.GONE):
            return
        self.blame(why)
        if self.state is not State.LEAVING:
            self.error = self.error or error
        self.state = State.LEAVING
        self.outbox.clear()
        self.hung_up = True
        self.deadline = 0.0  # now

    def blame(self, why: str) -> None:
        """Note in words what ended it: the first cause, if no Close came."""
        if self.code == CloseCode.ABNORMAL and not self.reason:
            if self.ours:
                said = f"{self.ours.code} {self.ours.reason}".rstrip()
                why = f"closed with {said}, but {why}"
            self.reason = why

    def drop(self) -> None:
        """Let the connection go: here, and nowhere else, it ends."""
        if self.socket:
            self.socket.close()
            self.socket = None
        self.state = State.GONE
        if time.monotonic() - self.opened_at > STEADY_SECONDS:
            self.attempts = 0
        # The hooks may connect again, which forgets these.
        error, code, reason = self.error, int(self.code), self.reason
        if error:
            self.call("on_error", error)
        self.call("on_close", code, reason)

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
            if hook == "on_connect":
                self.end(f"a bug in {hook}", error)
            elif hook not in ("on_error", "on_close"):  # Then it is over.
                self.fault(error, CloseCode.INTERNAL_ERROR, f"a bug in {hook}")


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
    if ask_read or ask_write:
        readable, writable, _ = select.select(ask_read, ask_write, [], most)
        ready = {*readable, *writable}
    else:
        time.sleep(most)  # Windows' select() refuses three empty lists.
        ready = set()
    for client in clients:
        client.serve(ready)


# ---- addresses and sockets --------------------------------------------------


def parse_url(url: str) -> Address:
    """Take a ws:// or wss:// address apart (s3); ValueError if it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss"):
        scheme = "wss" if parts.scheme == "https" else "ws"
        rest = re.sub("^([a-z]*:)?//", "", url, flags=re.I) or "127.0.0.1:9000/"
        if rest.isdigit():  # a port, and the address was forgotten
            rest = f"127.0.0.1:{rest}/"
        raise ValueError(f"no WebSocket address; type {scheme}://{rest}")
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


def subprotocols_in(headers: Mapping[str, str]) -> list[str]:
    """Return the subprotocols that a request with these headers offers."""
    for name, value in headers.items():
        if name.lower() == "sec-websocket-protocol":
            return [item.strip() for item in value.split(",")]
    return []


def has_pending(sock: socket.socket | None) -> bool:
    """Tell whether TLS has decrypted bytes that select() cannot see."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def explain(error: Exception) -> str:
    """Say in words what failed, without the numbers of the system."""
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        return f"TLS: {getattr(error, 'verify_message', reason)}"
    if isinstance(error, socket.gaierror):  # Windows: "getaddrinfo failed"
        return "this name has no address"
    return codec.in_words(error)


# ---- the terminal -----------------------------------------------------------


class Terminal(Client):
    """The program: what comes in is printed, what is typed is sent.

    name: join the tutorial's room, talk in its messages and show them in
    words; count: end after so many messages; options: those of Client.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        count: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(url, **options)
        if count is not None and count < 1:
            raise ValueError("the count is at least 1")
        if re.search("[\ud800-\udfff]", name or ""):
            raise ValueError("the name is not UTF-8")
        self.name = name
        self.count = count
        self.keyboard: socket.socket | None = None
        self.typed = bytearray()  # a line that is not yet whole
        self.people: dict[str, str] = {}  # names by the room's codes
        self.me: str | None = None  # our own code
        self.asked_at = 0.0  # when /ping was typed
        self.status = 1  # of the program, until it ends well

    def say_goodbye(self) -> None:
        """Close politely, and return soon, also from a silent server."""
        self.close()
        time_is_up = time.monotonic() + LEAVING_SECONDS
        while self.is_active():
            if time.monotonic() > time_is_up:
                self.end(f"the rest did not come in {LEAVING_SECONDS:g} s")
            turn([self])

    def ask_read(self) -> list[socket.socket]:
        """Watch the keyboard, too, while there is room for what it says."""
        asked = super().ask_read()
        if self.keyboard and self.state is State.OPEN:
            if len(self.outbox) <= MAX_WAITING:
                asked.append(self.keyboard)
        return asked

    def serve(self, ready: set[socket.socket]) -> None:
        """Take what was typed; then it goes out in this turn."""
        if self.keyboard in ready:
            self.read_keyboard()
        super().serve(ready)

    def read_keyboard(self) -> None:
        """Take the lines that are whole; at the end, say goodbye."""
        assert self.keyboard
        data = self.keyboard.recv(PIECE)
        self.typed += data
        if not data and self.typed:
            self.typed += b"\n"  # the last line, which has no end
        *lines, self.typed = self.typed.split(b"\n")
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
            # On Windows, monotonic() may count in steps of 16 ms.
            self.asked_at = time.perf_counter()
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
        """Say something to one: "#CODE text", or "NAME text".

        A name may have spaces, and two people may have the same one.
        """
        code, _, text = rest[1:].partition(" ")
        if rest.startswith("#") and code in self.people:
            self.say(text, code)
            return
        people = self.people.items()
        found = [code for code, name in people if rest.startswith(name + " ")]
        if len(found) == 1:
            self.say(rest[len(self.people[found[0]]) + 1 :], found[0])
        elif found:
            tell("more than one is called that; there is /to #CODE text, too")
        else:
            tell(f"nobody here is called that: {rest}")

    def close_as_typed(self, rest: str) -> None:
        """Close with "CODE reason"; with nothing: 1000."""
        code, _, reason = rest.partition(" ")
        try:
            self.close(int(code or 1000), reason)
        except ValueError:
            tell("to be typed: /close, or /close 4001 with a short reason")

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
            more = " ..." if len(message) > 32 else ""
            message = f"({len(message)} bytes: {message[:32].hex(' ')}{more})"
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

    def on_pong(self, payload: bytes) -> None:
        """Tell how long the answer to /ping took."""
        if payload == b"typed":
            took = time.perf_counter() - self.asked_at
            tell(f"pong after {1000 * took:.1f} ms")

    def on_close(self, code: int, reason: str) -> None:
        """Tell how it ended, if it was not as it should be."""
        if self.keyboard:
            self.keyboard.close()
        missing = self.decoder.missing
        if missing:
            tell(f"a message is lost: {missing} of its bytes did not come")
        if code in PEACEFUL or (self.ours and self.ours.code == code):
            self.status = 0
        elif code != CloseCode.ABNORMAL:
            tell(f"closed with {code} {reason}".rstrip())
        elif not self.error:  # Else on_error has told it.
            tell(f"{self.address.host}: {reason}")

    def in_words(self, message: str) -> str:
        """Put a message of the room into words; others are marked as raw.

        The room begins its lines with "room:" or "you are", and those about
        people with "#" and a code, as names may look the same. Whatever a
        raw one says, it cannot be taken for one of these.
        """
        with contextlib.suppress(*NOT_THE_ROOMS):
            fields = json.loads(message)
            if fields.keys() >= {"code", "code1", "time"}:
                return self.what_happened(fields)
        return f"raw: {message}"

    def what_happened(self, fields: dict[str, Any]) -> str:
        """Say who came, left or spoke."""
        kind = fields.get("type")
        if kind == "madd":
            return self.welcome(fields)
        if kind == "add":
            return self.somebody_came(fields)
        if kind == "rmove":
            who = describe(fields["nrong"], self.people)
            self.people.pop(fields["nrong"], None)
            return f"{who} left"
        if fields["code"] is False:
            return f"room: {fields['nrong']}"
        return self.somebody_spoke(fields)

    def welcome(self, fields: dict[str, Any]) -> str:
        """Note who is here already, ourselves among them."""
        users = [*fields["users"], fields]
        people = {user["code"]: str(user["name"]) for user in users}
        here = ", ".join(describe(code, people) for code in people)
        self.me, self.people = fields["code"], people
        return f"you are {describe(fields['code'], people)}; here are: {here}"

    def somebody_came(self, fields: dict[str, Any]) -> str:
        """Tell of a newcomer, or another name of somebody known."""
        code, is_known = fields["code"], fields["code"] in self.people
        before = describe(code, self.people)
        self.people[code] = str(fields["name"])
        if is_known:
            return f"{before} is now {self.people[code]}"
        return f"{describe(code, self.people)} joined"

    def somebody_spoke(self, fields: dict[str, Any]) -> str:
        """Say who said what, and to whom if not to all."""
        who, to = describe(fields["code"], self.people), fields["code1"]
        if to == self.me:
            who += ", to you alone"
        elif to != "all":
            who += f", to {describe(to, self.people)} alone"
        return f"{who}: {fields['nrong']}"


# As the room counts its users; with --redis, the server stands behind it.
CODE = re.compile("[1-9][0-9]*(-[0-9a-f]{8})?")
# What the text of somebody else, read as the room's, can raise.
NOT_THE_ROOMS = (
    ValueError, LookupError, TypeError, AttributeError, RecursionError,
)  # fmt: skip
PEACEFUL = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_CODE)


def describe(code: str, people: Mapping[str, str]) -> str:
    """Return "#3 Ana"; ValueError or TypeError: no room gives such a code."""
    if not CODE.fullmatch(code):
        raise ValueError(f"not a code: {code}")
    return f"#{code} {people.get(code, '')}".rstrip()


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
        # Without a buffer: its lock, held by a thread that sleeps, would
        # stop the interpreter from ending.
        keyboard = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
        while True:
            typed = keyboard.read(PIECE)
            if not typed:
                # Else the last line and the goodbye that the end means would
                # come in one read of the server, or in two, by chance.
                time.sleep(PAUSE)
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
    with contextlib.suppress(OSError):  # Whoever read it has gone.
        print(f"client.py: {plain}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Escape what would move the cursor, or turn the writing round."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


# ---- the command line -------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    open_what_is_closed()
    terminal = make_terminal(arguments)
    try:
        terminal.run()
    except KeyboardInterrupt:
        try:
            terminal.say_goodbye()
        except KeyboardInterrupt:
            os._exit(130)  # what a shell reports for the end by Ctrl-C
        return 0
    return terminal.status


def open_what_is_closed() -> None:
    """Open what the shell has closed (>&-): else a socket takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(null, mode, closefd=False))  # noqa: SIM115


def make_terminal(arguments: Sequence[str] | None) -> Terminal:
    """Return what the arguments ask for; if wrong, exit with one line."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        terminal = with_options(options)
        if any(getattr(options, fault) is not None for fault in FAULTS):
            from lessons import misbehave  # not needed otherwise

            misbehave.begin(terminal, options, tell)
    except ValueError as error:
        parser.error(str(error))
    return terminal


def with_options(options: argparse.Namespace) -> Terminal:
    """Return a terminal that connects as the options say."""
    context = None
    if options.insecure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return Terminal(
        options.url,
        options.name,
        options.count,
        headers=dict(options.header),
        origin=options.origin,
        subprotocols=options.subprotocol,
        ping_interval=options.ping_interval,
        # The room wraps a message in JSON: that can be six times longer.
        max_message=8 * codec.MAX_MESSAGE,
        ssl_context=context,
    )


FAULTS = ("raw", "dribble", "slow", "key", "seed")


def make_parser() -> Parser:
    """Return the parser of the command line."""
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
    add("--raw", help="send '81 05 48 ...'")
    add("--dribble", type=float, help="seconds from one byte to the next")
    add("--slow", action="store_const", const=True, help="never read")
    add("--key", help="the Sec-WebSocket-Key, right or wrong")
    add("--seed", type=int, help="the same key and masks every time")
    return parser


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake costs one line, and says what to type."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and how to find out more; exit with 2."""
        for pattern, words in PLAINLY:
            message = re.sub(pattern, words, message)
        tell(f"{printable(message)[:55]} (see --help)")  # under 80 columns
        sys.exit(2)


PLAINLY = (
    ("the following arguments are required: url",
     "type an address, as ws://127.0.0.1:9000/"),
    (r"unrecognized arguments: (-[^= ]+).*", r"there is no option \1"),
    (r"unrecognized arguments: (.*)", r"one address is enough: \1"),
    (r"argument (\S+): invalid \w+ value: (.*)", r"\1 wants a number, not \2"),
    (r"argument (\S+): expected one argument", r"\1 wants something behind it"),
    (r"argument (\S+): ignored .*", r"\1 stands alone"),
    (r"argument (\S+): ", r"\1: "),
)  # fmt: skip


def header(text: str) -> tuple[str, str]:
    """Return the name and the value of "Name: value"."""
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("type 'Name: value'")
    return name, value.strip()


if __name__ == "__main__":
    sys.exit(main())
