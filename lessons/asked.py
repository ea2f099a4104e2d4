"""Whom the loop asks select() for, what it got, and why.

The trace, the stepper and the record of the loop say it in the same words.
"""

from __future__ import annotations

import socket
from typing import Any, Collection

from codec import in_words
from lessons.observer import User, Users
from lessons.words import ascii_only, many

MAX_PEEK = 64 * 1024  # bytes; of more than that, "or more" is enough

# What a read means, and a send.
END_OF_STREAM = "the end of the stream"
LEAVING = "thrown away: #{} is leaving"
MANY_FRAMES = "{} frames in one read: TCP has no messages"
NEEDS_MORE = "the payload needs {} more"
NOW_WHOLE = "now the frame is whole"
BUFFER_FULL = "the kernel's buffer is full"
OUTBOX_EMPTY = "its outbox is empty again"

# Why somebody comes back from select().
KNOCKS = "a newcomer knocks"
GUEST_WORKS = "there is work for a guest of this loop"
REDIS_WORKS = "Redis has answered, or can be written to"
CAN_SEND = "room in the kernel's buffer; {} waiting in its outbox"

# Why somebody does not come back; see why_missing().
MISSING = {
    "L": "nobody had knocked yet",
    "guest": "there was no work for this guest yet",
    "full": f"nothing had come from it yet, and {BUFFER_FULL}",
    # So nobody asked whether there is room.
    "quiet": "nothing had come from it yet, and its outbox is empty",
}


def without_waker(server: Any, asked: Users) -> Users:
    """Leave out the socket by which call_soon() wakes the loop."""
    return [each for each in asked if each is not server.waker]


def names(server: Any, asked: Collection[Any]) -> list[str]:
    """Return what they are called: L, the listening socket, #3, G1.

    A guest may have a name of its own: R is the link to Redis.
    """
    users = [each for each in asked if hasattr(each, "key")]
    found = [f"#{user.key}" for user in sorted(users, key=by_key)]
    for number, guest in enumerate(server.guests, 1):
        sockets = [*guest.ask_read(), *guest.ask_write()]
        if any(each in sockets for each in asked):
            found.append(getattr(guest, "mark", f"G{number}"))
    return ["L", *found] if server.listener in asked else found


def by_key(user: User) -> int:
    """Return the number by which users are sorted."""
    return int(user.key)


def why_ready(name: str) -> str:
    """Say why this one came back, who is no user: L, G1, R."""
    return {"L": KNOCKS, "R": REDIS_WORKS}.get(name, GUEST_WORKS)


def why_missing(name: str, write_names: Collection[str]) -> str:
    """Say why this one did not come back.

    write_names: those who were asked for to be written to.
    """
    kind = "full" if name in write_names else "quiet"
    return MISSING[{"L": "L", "G": "guest", "R": "guest"}.get(name[0], kind)]


def why_silent(server: Any, is_called: bool) -> str:
    """Say why a turn does something, though nobody came back.

    is_called: another thread has woken the loop.
    """
    if server.stopping:
        return "the room closes"
    if is_called:
        return "another thread has called call_soon()"
    return "a timer or a deadline is due"


def peek(user: User) -> tuple[int, OSError | None]:
    """Return how many bytes the kernel holds from a user; leave them there.

    -1: nothing waits. 0: the end of the stream. MAX_PEEK: it may be more.
    Return also an error, if there is one. The kernel reports it once, so
    read() will not see it.
    """
    try:
        return len(user.socket.recv(MAX_PEEK, socket.MSG_PEEK)), None
    except BlockingIOError:
        return -1, None
    except OSError as error:
        return 0, error


def waiting_words(size: int, error: OSError | None) -> str:
    """Say what peek() has found."""
    if error:
        # The system's own words may not be ASCII.
        return "the connection failed: " + ascii_only(in_words(error))
    if size < 0:
        return "nothing waiting"
    if not size:
        return "end of stream: it hangs up"
    more = " or more" if size == MAX_PEEK else ""
    return f"{many(size, 'byte')}{more} waiting"


def unfinished(user: User) -> tuple[int, int]:
    """Return how many bytes of something not yet whole are here, to come."""
    # With a trace, its Walk. A student's decoder may lack these fields: 0.
    decoder = getattr(user.decoder, "walk", user.decoder)
    rest = getattr(decoder, "rest", b"")  # of a header
    payload = getattr(decoder, "payload", b"")  # of a message in pieces
    head = b"" if user.request else user.head
    here = len(head) + len(rest) + len(payload)
    return here, getattr(decoder, "missing", 0)


def stand_still(server: Any, seconds: float) -> None:
    """Move all deadlines: the time of thinking does not count."""
    for user in server.users.values():
        user.deadline += seconds
    for timer in server.timers:
        timer.due += seconds
    for guest in server.guests:
        if hasattr(guest, "deadline"):  # of a Client
            guest.deadline += seconds
