"""Lab 6: the loop. A room with one select(), on handshake.py and codec.py.

    python lab6.py 9000

Then open client.html from disk in two tabs. All is there but turn().
Write it, save, then: python -m lessons.lab 6

What it gives up, to stay small: it sends with sendall(), so one user who
does not read makes all others wait. server.py mends that, and more.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from email.utils import formatdate
from typing import Any

import codec
import handshake

PATIENCE = 0.5  # seconds; on Windows, Ctrl-C does not wake select()


class User:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.fileno = sock.fileno  # so select() takes a user for a socket
        self.head = b""  # what has come of the request
        self.handshaken = False
        self.decoder = codec.Decoder(masked=True)


class Room:
    """A listening socket, and who is here."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        self.users: list[User] = []

    def turn(self) -> None:
        """Wait for whoever is ready, and serve each of them once.

        In:  self.listener, a socket; self.users, a list of users.
        Out: nothing. But a newcomer is in self.users now, what somebody
             sent has gone to shake_hands() or to hear(), and whoever hung
             up has gone to drop().

        select.select(read, write, other, seconds) takes three lists, and
        sleeps until somebody in them is ready, or the seconds are over. It
        returns three lists: of those who are ready. If the listener is
        ready, listener.accept() returns (a new socket, its address); what
        that one sends is for a later turn. If a user is ready, one recv()
        does not wait. It returns b"" at the end, or raises OSError if the
        connection was torn off: both mean that the user is gone.

        RFC 6455 sections 4 (hands are shaken once, before any frame) and
        6.2 (what comes is a stream). An example: of [listener, Ana, Bo]
        select() gives back [listener, Bo]. So somebody is accepted, and Bo
        is read from, once. Ana is not: her recv() would wait for ever.
        """
        everyone: list[Any] = [self.listener, *self.users]
        readable, _, _ = select.select(everyone, [], [], PATIENCE)
        for user in readable:
            if user is self.listener:
                self.users.append(User(self.listener.accept()[0]))
                continue
            try:
                data = user.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.drop(user)
            elif user.handshaken:
                self.hear(user, data)
            else:
                self.shake_hands(user, data)

    def shake_hands(self, user: User, data: bytes) -> None:
        """Collect the request; answer it when it is whole."""
        user.head += data
        try:
            taken = handshake.take_request(user.head)
            if taken:
                request, rest = taken
                handshake.check_upgrade(request)
                self.send(user, handshake.switching_protocols(request))
                user.handshaken = True
                self.hear(user, rest)
        except handshake.HandshakeError as error:
            date = formatdate(usegmt=True)
            self.send(user, handshake.refusal(error, False, date))
            self.drop(user)

    def hear(self, user: User, data: bytes) -> None:
        """Take messages apart; say each to everyone."""
        try:
            for opcode, message in user.decoder.feed(data):
                if opcode == codec.CLOSE:
                    self.send(user, codec.encode_close(message.code))
                    self.drop(user)
                elif opcode == codec.PING:
                    self.send(user, codec.encode_frame(codec.PONG, message))
                elif opcode != codec.PONG:
                    self.broadcast(message)
        except codec.ProtocolError as error:
            self.send(user, codec.encode_close(error.code, error.reason))
            self.drop(user)

    def broadcast(self, message: str | bytes) -> None:
        """Send to everyone whose hands are shaken."""
        frame = codec.encode_message(message)
        for user in self.users:
            if user.handshaken:
                self.send(user, frame)

    def send(self, user: User, data: bytes) -> None:
        """Send to one user; who is gone will be read from once more."""
        # If it fails, the next recv() will tell, and turn() drops the user.
        with contextlib.suppress(OSError):
            user.socket.sendall(data)

    def drop(self, user: User) -> None:
        """Let a user go."""
        self.users.remove(user)
        user.socket.close()


def main() -> None:
    """Serve until Ctrl-C."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    room = Room(port)
    print(f"Open client.html, and type ws://127.0.0.1:{port}/ into it.")
    try:
        while True:
            room.turn()
    except KeyboardInterrupt:
        print("The room closes.")


if __name__ == "__main__":
    main()
