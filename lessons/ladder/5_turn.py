"""Rung 5 of 5: what is said in one turn goes out as one block.

Wrong in rung 4: ten texts in one read, for ten users, are a hundred calls of
send(). See it: the last line that `python -m lessons.ladder` prints.

New: hear() only notes what is said to all; share() joins it at the end of the
turn: ten calls. What is for one user shares first, so that the order stays.
In server.py: share(), hand_out(). lessons/ladder/README.md lists what it adds.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from email.utils import formatdate
from typing import Any

import codec
import handshake

SECONDS = 10.0  # for a request; and to hang up, after our last word
MAX_OUTBOX = 16 * 1024 * 1024  # bytes that one user has not read
MAX_USERS = 200  # select() can watch 1,024 descriptors, on Windows 512


class User:
    """One connection; in the tutorial, $this->users[$k]."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.fileno = sock.fileno  # so select() can be asked about users
        self.state = "new"  # then "open", "closing", "gone"
        self.head = b""  # what has come of the request
        self.decoder = codec.Decoder(masked=True)
        self.outbox = bytearray()  # what the kernel did not take yet
        self.deadline = time.monotonic() + SECONDS


class Room:
    """The loop, and all who are connected."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        self.users: list[User] = []
        self.said: list[bytes] = []  # frames for everyone, in this turn

    def turn(self) -> None:
        """Wait until somebody is ready, and serve each of them once."""
        ask_read: list[Any] = [self.listener, *self.users]
        if len(self.users) >= MAX_USERS:
            ask_read.remove(self.listener)  # newcomers wait in the kernel
        ask_write = [user for user in self.users if user.outbox]
        # Half a second: on Windows, Ctrl-C does not wake select().
        readable, writable, _ = select.select(ask_read, ask_write, [], 0.5)
        for who in readable:
            if who is self.listener:
                with contextlib.suppress(OSError):  # It may have left again.
                    self.users.append(User(self.listener.accept()[0]))
            else:
                self.read(who)
        self.share()
        for user in writable:
            self.send(user)
        for user in list(self.users):
            if user.state == "gone" or time.monotonic() > user.deadline:
                self.users.remove(user)
                user.socket.close()

    def read(self, user: User) -> None:
        """Read once; who breaks a rule is told which, and leaves."""
        try:
            data = user.socket.recv(64 * 1024)
            if not data:
                user.state = "gone"
            elif user.state == "new":
                self.shake_hands(user, data)
            elif user.state == "open":  # Who is closing is not heard.
                self.hear(user, data)
        except OSError:
            user.state = "gone"
        except handshake.HandshakeError as error:
            date = formatdate(usegmt=True)
            self.finish(user, handshake.refusal(error, False, date))
        except codec.ProtocolError as error:
            self.finish(user, codec.encode_close(error.code, error.reason))

    def shake_hands(self, user: User, data: bytes) -> None:
        """Collect the request; answer it when it is whole."""
        user.head += data
        taken = handshake.take_request(user.head)
        if taken:
            request, rest = taken
            handshake.check_upgrade(request)
            user.state = "open"
            user.deadline = float("inf")  # It may be silent from now on.
            self.send(user, handshake.switching_protocols(request))
            self.hear(user, rest)

    def hear(self, user: User, data: bytes) -> None:
        """Take frames apart, and do what they ask for."""
        for opcode, message in user.decoder.feed(data):
            if opcode in (codec.TEXT, codec.BINARY):
                self.said.append(codec.encode_message(message))
            elif opcode == codec.PING:
                self.share()
                self.send(user, codec.encode_frame(codec.PONG, message))
            elif opcode == codec.CLOSE:
                self.finish(user, codec.encode_close(message.code))

    def share(self) -> None:
        """Send to everyone, as one block, what was said till now."""
        block = b"".join(self.said)
        self.said = []
        for user in self.users:
            if block and user.state == "open":
                self.send(user, block)

    def finish(self, user: User, last: bytes) -> None:
        """Send the last word; then there is some time to hang up."""
        self.share()
        user.state = "closing"
        user.deadline = time.monotonic() + SECONDS
        self.send(user, last)

    def send(self, user: User, block: bytes = b"") -> None:
        """Send what waits for a user, as far as the kernel takes it."""
        user.outbox += block
        try:
            sent = user.socket.send(user.outbox)
            del user.outbox[:sent]
            if user.state == "closing" and not user.outbox:
                user.socket.shutdown(socket.SHUT_WR)  # That was all.
        except BlockingIOError:
            pass  # Its buffer is full: select() tells when there is room.
        except OSError:
            user.state = "gone"
        if len(user.outbox) > MAX_OUTBOX:
            user.state = "gone"


if __name__ == "__main__":
    room = Room(int(sys.argv[1]))
    with contextlib.suppress(KeyboardInterrupt):
        print("Rung 5 listens on", room.listener.getsockname(), flush=True)
        while True:
            room.turn()
