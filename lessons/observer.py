"""What a server tells those who watch it."""

from __future__ import annotations

import socket
from typing import Any, Collection, List

Sockets = List[socket.socket]
User = Any  # the server's User; lessons do not import the server


class Observer:
    """Watch a server: server.observer = Observer().

    Override what you want to know of. It is called for each turn, read and
    block, and when a user comes or goes; all that is said to everyone in a
    turn is one block. If it raises, it is told nothing more.
    """

    def woke(
        self,
        ask_read: Sockets,
        ask_write: Sockets,
        readable: Sockets,
        writable: Sockets,
    ) -> None:
        """select() was asked for the first two and returned the others."""

    def joined(self, user: User) -> None:
        """A newcomer was accepted; nothing has been read yet."""

    def received(self, user: User, data: bytes) -> None:
        """One recv() returned this; b"" is the end of the stream."""

    def queued(self, user: User, block: bytes) -> None:
        """A block for one user goes behind all that was said before."""

    def shared(self, users: Collection[User], block: bytes) -> None:
        """A block goes to all of these, the same one to each."""

    def wrote(self, user: User, sent: int) -> None:
        """The kernel took so many bytes, but not all, or of an outbox."""

    def left(self, user: User, why: str) -> None:
        """A user has gone; the socket is closed."""

    def ended(self) -> None:
        """The loop has ended."""
