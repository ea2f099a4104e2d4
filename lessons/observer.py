"""What a server tells those who watch it."""

from __future__ import annotations

import functools
import sys
from typing import Any, Callable, Collection, List, Sequence, Union

Block = Union[bytes, memoryview]
User = Any  # the server's User; lessons do not import the server
Users = List[Any]  # in woke() also the listener, the waker, guests' sockets


class Observer:
    """Watch a server: server.observer = Observer().

    Override what you want to see. Each turn, read and block is told once,
    and each user who comes or goes, but not each frame. queued(), shared():
    what is to go out. wrote(): what the kernel took of it, except where it
    took a broadcast whole at once. One that raises is told nothing more.
    """

    def woke(
        self,
        ask_read: Users,
        ask_write: Users,
        readable: Users,
        writable: Users,
    ) -> None:
        """select() was asked for the first two and returned the others."""

    def connected(self, user: User) -> None:
        """A newcomer was accepted; nothing has been read yet."""

    def received(self, user: User, data: bytes) -> None:
        """One recv() returned this; b"" is the end of the stream."""

    def queued(self, user: User, block: Block) -> None:
        """A block for one user goes behind all that was said before."""

    def shared(self, users: Collection[User], block: Block) -> None:
        """A block goes to all of these, the same one to each."""

    def wrote(self, user: User, sent: int) -> None:
        """The kernel took so many bytes for a user whose outbox is in use."""

    def left(self, user: User, why: str) -> None:
        """A user has gone; the socket is closed."""

    def turned(self) -> None:
        """The turn has ended; the next one asks select() again."""

    def ended(self) -> None:
        """The loop has ended."""


class Several:
    """Observers of one server, each told all, one after the other.

    server.observer = Several([Record(...), Trace(...)])
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = list(observers)

    def tell(self, observer: Observer, what: str, *arguments: Any) -> None:
        """Tell one of them; if it raises, only this one hears no more."""
        if observer in self.observers:
            try:
                getattr(observer, what)(*arguments)
            except Exception as error:
                sys.excepthook(type(error), error, error.__traceback__)
                self.observers.remove(observer)

    def tell_all(self, what: str, *arguments: Any) -> None:
        """Tell each of them."""
        for observer in list(self.observers):
            self.tell(observer, what, *arguments)

    def __getattr__(self, hook: str) -> Callable[..., None]:
        """Return what passes a hook of Observer on to each of them."""
        return functools.partial(self.tell_all, hook)
