"""Rung 3 of 5: nobody waits for anybody.

Wrong in rung 2: sendall() comes back when the kernel has taken all, and for
one who does not read it takes no more: a sleeping tab stops the whole room.
See it: python -m lessons.check --stage 10 ws://127.0.0.1:9000/

New: the sockets do not block. What the kernel does not take stays in this
user's outbox, and select() tells when there is room again. It is asked for
those who have an outbox only: all others are writable at any time.
In server.py: turn(), keep(), write().
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from typing import Any

import codec
import handshake


class User:
    """One connection; in the tutorial, $this->users[$k]."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.fileno = sock.fileno  # so select() can be asked about users
        self.state = "new"  # then "open", "gone"
        self.head = b""  # what has come of the request
        self.decoder = codec.Decoder(masked=True)
        self.outbox = bytearray()  # what the kernel did not take yet


class Room:
    """The loop, and all who are connected."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        self.users: list[User] = []

    def turn(self) -> None:
        """Wait until somebody is ready, and serve each of them once."""
        ask_read: list[Any] = [self.listener, *self.users]
        ask_write = [user for user in self.users if user.outbox]
        # Half a second: on Windows, Ctrl-C does not wake select().
        readable, writable, _ = select.select(ask_read, ask_write, [], 0.5)
        for who in readable:
            if who is self.listener:
                with contextlib.suppress(OSError):  # It may have left again.
                    self.users.append(User(self.listener.accept()[0]))
            else:
                self.read(who)
        for user in writable:
            self.send(user)
        for user in list(self.users):
            if user.state == "gone":
                self.users.remove(user)
                user.socket.close()

    def read(self, user: User) -> None:
        """Read once; who breaks a rule is dropped."""
        try:
            data = user.socket.recv(64 * 1024)
            if not data:
                user.state = "gone"
            elif user.state == "new":
                self.shake_hands(user, data)
            elif user.state == "open":
                self.hear(user, data)
        except (OSError, handshake.HandshakeError, codec.ProtocolError):
            user.state = "gone"

    def shake_hands(self, user: User, data: bytes) -> None:
        """Collect the request; answer it when it is whole."""
        user.head += data
        taken = handshake.take_request(user.head)
        if taken:
            request, rest = taken
            handshake.check_upgrade(request)
            user.state = "open"
            self.send(user, handshake.switching_protocols(request))
            self.hear(user, rest)

    def hear(self, user: User, data: bytes) -> None:
        """Take frames apart, and do what they ask for."""
        for opcode, message in user.decoder.feed(data):
            if opcode in (codec.TEXT, codec.BINARY):
                self.broadcast(message)
            elif opcode == codec.CLOSE:
                user.state = "gone"

    def broadcast(self, message: str | bytes) -> None:
        """Send a message to everyone, the sender included."""
        frame = codec.encode_message(message)
        for user in self.users:
            if user.state == "open":
                self.send(user, frame)

    def send(self, user: User, block: bytes = b"") -> None:
        """Send what waits for a user, as far as the kernel takes it."""
        user.outbox += block
        try:
            sent = user.socket.send(user.outbox)
            del user.outbox[:sent]
        except BlockingIOError:
            pass  # Its buffer is full: select() tells when there is room.
        except OSError:
            user.state = "gone"


if __name__ == "__main__":
    room = Room(int(sys.argv[1]))
    with contextlib.suppress(KeyboardInterrupt):
        print("Rung 3 listens on", room.listener.getsockname(), flush=True)
        while True:
            room.turn()
