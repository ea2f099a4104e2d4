"""All connections of the checker to one server."""

from __future__ import annotations

import base64
import contextlib
import random
import socket
from typing import Any, NamedTuple

import handshake
from codec import encode_frame, to_payload
from handshake import HandshakeError, Response
from lessons.checker.wire import Message, Wire, WrongError, pump
from lessons.slow import connect
from lessons.words import plain, quoted


class NobodyError(Exception):
    """There is no server to be checked, in one line."""


class Address(NamedTuple):
    """Where the server is: ws://HOST:PORT/TARGET."""

    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"ws://{self.name()}{self.target}"

    def name(self) -> str:
        """Return the host and the port, as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Room:
    """The server that is checked, and the wires to it.

    seed: the same one gives the same bytes. first: a socket that is already
    connected, for the first wire. many_at_once: else who was there hangs up
    when the next one comes, for servers that serve one after the other.
    """

    def __init__(
        self,
        address: Address,
        seed: Any,
        patience: float,
        first: socket.socket | None = None,
    ) -> None:
        self.address = address
        self.dice = random.Random(str(seed))
        self.patience = patience
        self.first = first
        self.many_at_once = False
        self.wires: list[Wire] = []

    def knock(self, buffer: int = 0) -> Wire:
        """Return a wire without a handshake.

        buffer: how many bytes it may receive without reading, about.
        """
        if not self.many_at_once:
            self.hang_up()
        try:
            sock = self.first or connect(
                *self.address[:2], 2 * self.patience, buffer
            )
        except OSError as error:
            raise WrongError(
                None,
                "the server takes one more connection",
                f"{error.strerror or error}: has it ended?",
            ) from None
        self.first = None
        wire = Wire(sock, self.patience)
        self.wires.append(wire)
        return wire

    def join(self, buffer: int = 0) -> Wire:
        """Return a wire whose handshake is done."""
        wire = self.knock(buffer)
        key = self.key()
        wire.send(self.request(key))
        self.enter(wire, key)
        return wire

    def enter(self, wire: Wire, key: str) -> None:
        """Wait for the answer to a handshake; it must be right."""
        response = self.answer(wire)
        if not response:
            raise WrongError(wire, "the answer 101", self.what_head(wire))
        try:
            handshake.check_response(response, key)
        except HandshakeError as error:
            got = f"{error.status} {plain(error.reason.encode())}"
            raise WrongError(wire, "the answer 101", got) from None
        wire.settle()

    def answer(self, wire: Wire) -> Response | None:
        """Wait for an HTTP answer; None: there is none, see what_head()."""
        taken: Any = None

        def is_whole() -> bool:
            nonlocal taken
            with contextlib.suppress(HandshakeError):
                taken = handshake.take_response(wire.head)
                return taken is not None
            return True

        pump([wire], is_whole, self.patience)
        if not taken:
            return None
        response, rest = taken
        if response.status == 101:
            wire.handshaken = True
            wire.take_apart(rest)
        return response  # type: ignore[no-any-return]

    def what_head(self, wire: Wire) -> str:
        """Say what came in the place of an HTTP answer."""
        if not wire.head:
            return wire.end or f"nothing for {self.patience:g} seconds"
        shown = quoted(wire.head[:50])
        try:
            handshake.take_response(wire.head)
        except HandshakeError as error:
            return f"{shown}: {error.reason}"
        end = wire.end or "nothing more"
        return f"no empty line (CR LF CR LF) behind {shown}, then {end}"

    def request(self, key: str) -> bytes:
        """Return a good request."""
        return handshake.request_head(
            self.address.name(), self.address.target, key, {}
        )

    def key(self) -> str:
        """Return a Sec-WebSocket-Key: 16 random bytes in base64."""
        return base64.b64encode(self.random_bytes(16)).decode()

    def random_bytes(self, size: int) -> bytes:
        """Return so many bytes, the same ones for the same seed."""
        return self.dice.getrandbits(8 * size + 1).to_bytes(size + 1, "big")[1:]

    def frame(
        self, opcode: int, payload: bytes = b"", fin: bool = True
    ) -> bytes:
        """Return a masked frame."""
        return encode_frame(opcode, payload, self.random_bytes(4), fin)

    def message(self, message: Message) -> bytes:
        """Return the masked frame of a message."""
        return self.frame(*to_payload(message))

    def say(self, user: Wire, message: Message) -> None:
        """Send a message in one piece, and hear it."""
        user.send(self.message(message))
        user.hear(message)

    def words(self, size: int = 12) -> str:
        """Return a text of so many ASCII letters that nobody else says."""
        begin = self.random_bytes(4).hex() + " is on the wire "
        return (begin * (size // len(begin) + 1))[:size]

    def hang_up(self) -> None:
        """End all wires."""
        while self.wires:
            self.wires.pop().hang_up()

    def leave(self) -> None:
        """End all wires, and the first socket if nobody took it."""
        self.hang_up()
        if self.first:
            self.first.close()
