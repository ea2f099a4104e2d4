"""What the rooms of several servers tell each other, with --redis.

No socket, no clock in here. A room says what has happened in it; that
becomes an entry, and redis.py hands it over to a log which all rooms read.
What the others have written there comes back to hear().

    server   which room has said it; it is made up when the server starts
    number   1, 2, 3 ... of this room: who sees one twice takes it once
    kind     what it is: see HEARD
    code     whom it is about, as a key of that room
    to       whom it is for: a code
    data     the message, the name, or the list of people

Nothing is lost while there is no link: an entry is kept until Redis has
taken it and each other room has heard it. Redis may have lost it by then,
as it keeps its log in memory; so behind each new link, all that is kept is
said again. Two limits: MAX_KEPT, and the bytes of --max-backlog.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import secrets
import time
from collections import deque
from typing import Any, Mapping, NamedTuple

MAX_KEPT = 10_000  # entries; at ten a second, a quarter of an hour
ENTRY_COST = 200  # bytes, about, that Python adds to those of the data
MAX_NAME = 20  # characters; as in server.py
SERVER = re.compile("[0-9a-f]{8}")
KEY = re.compile("[1-9][0-9]{0,9}")
CODE = re.compile("([1-9][0-9]{0,9})-([0-9a-f]{8})")
NUMBER = re.compile("[1-9][0-9]{0,17}")


class Entry(NamedTuple):
    """What one room tells the others."""

    kind: str
    data: bytes = b""
    code: str = ""
    to: str = ""


class Heard(NamedTuple):
    """An entry of another room, checked, and its data taken apart."""

    server: str
    number: int
    kind: str
    code: str
    to: str
    data: Any  # str; bytes: of a binary message; dict: names by their keys


class Other:
    """What this room knows of another one."""

    def __init__(self) -> None:
        self.number = 0  # of the last entry that we have heard
        self.has = 0  # the last one of ours that it has heard
        self.heard_at = 0.0  # time.monotonic()
        self.is_here = False
        self.names: dict[str, str] = {}  # of its people, by their codes


class Rooms:
    """This room's view of the others.

    room: a ChatRoom; it calls said(), named(), left() and whisper().
    """

    def __init__(self, room: Any) -> None:
        self.room = room
        # Nobody gives out these numbers, so no room has to wait for one. Of
        # a hundred rooms two have the same with a chance of one in a million.
        self.id = secrets.token_hex(4)
        room.mark = f"-{self.id}"
        room.others = self
        self.kept: deque[Entry] = deque()
        self.first = 1  # the number of the first one that is kept
        self.waiting = 0  # bytes in them, about
        self.taken = 0  # the last one that Redis has taken
        self.lost = 0  # so many had to go before it could take them
        self.others: dict[str, Other] = {}  # by server; also those who left
        self.is_asked = False  # a newcomer asks who is here
        self.is_leaving = False
        self.has_seen_odd = False

    # ---- what has happened in this room -----------------------------------

    def said(self, message: str | bytes) -> None:
        """A message was sent to everyone here."""
        if isinstance(message, str):
            self.keep(Entry("text", message.encode()))
        else:
            self.keep(Entry("binary", bytes(message)))

    def named(self, key: int, name: str) -> None:
        """Somebody here has a name, or a new one."""
        self.keep(Entry("name", name.encode(), code=str(key)))

    def left(self, key: int) -> None:
        """Somebody here who had a name has gone."""
        self.keep(Entry("leave", code=str(key)))

    def whisper(self, key: int, said: str, to: str) -> bool:
        """Somebody says this to one who is elsewhere; False: nobody is."""
        found = CODE.fullmatch(to)
        other = self.others.get(found[2]) if found else None
        if not other or not other.is_here:
            return False
        self.keep(Entry("whisper", said.encode(), code=str(key), to=to))
        return True

    def greet(self, kind: str = "hello") -> None:
        """Tell who is here; with "hello", the others tell it, too."""
        names = {
            str(user.key): user.name
            for user in self.room.everyone()
            if user.name
        }
        self.keep(Entry(kind, json.dumps(names).encode()))

    def leave(self) -> None:
        """Tell that this room closes; it says nothing more."""
        self.keep(Entry("bye"))
        self.is_leaving = True

    # ---- what is kept -----------------------------------------------------

    def keep(self, entry: Entry) -> None:
        """Keep an entry; if there are too many, the oldest one goes."""
        if self.is_leaving:
            return
        self.kept.append(entry)
        self.waiting += len(entry.data) + ENTRY_COST
        while len(self.kept) > 1 and (
            len(self.kept) > MAX_KEPT or self.waiting > self.room.max_backlog
        ):
            self.forget_one()

    def forget_one(self) -> None:
        """Forget the oldest entry; note if nobody has heard it."""
        if self.first > self.taken:
            if not self.lost:
                self.room.diary(
                    "too much waits for Redis: from here on, the oldest of"
                    " it is lost for the others"
                )
            self.lost += 1
        self.waiting -= len(self.kept.popleft().data) + ENTRY_COST
        self.first += 1

    def get(self, number: int) -> Entry | None:
        """Return the entry with this number; None: it is not there yet."""
        at = number - self.first
        return self.kept[at] if at < len(self.kept) else None

    def forget_heard(self) -> None:
        """Forget what Redis has taken and each other room has heard."""
        has = [other.has for other in self.others.values() if other.is_here]
        heard = min([self.taken, *has])
        while self.kept and self.first <= heard:
            self.forget_one()

    def note_taken(self, number: int) -> None:
        """Redis has taken the entry with this number."""
        self.taken = max(self.taken, number)

    def count_lost(self) -> int:
        """Return how many were lost since this was asked last."""
        lost, self.lost = self.lost, 0
        return lost

    # ---- what has happened elsewhere --------------------------------------

    def hear(self, fields: Mapping[bytes, bytes], is_old: bool) -> None:
        """Do what an entry of the log asks for.

        is_old: it was there before this link; if we do not know its room, it
        is from before our time.
        """
        try:
            heard = read_entry(fields)
        except NOT_OURS:
            self.note_odd()
            return
        is_known = heard.server in self.others
        if heard.server == self.id or (is_old and not is_known):
            return
        other = self.others.setdefault(heard.server, Other())
        other.heard_at = time.monotonic()
        if heard.number <= other.number:
            return  # It was said again behind a new link.
        missing = heard.number - other.number - 1
        if missing and other.number:
            words = f"{missing} messages of the room {heard.server} are lost"
            self.room.diary(words)
        other.number = heard.number
        getattr(self, HEARD[heard.kind])(other, heard)

    def note_odd(self) -> None:
        """Tell once that somebody else writes into the log."""
        if not self.has_seen_odd:
            self.has_seen_odd = True
            self.room.diary("what is no room's writes into our stream, too")

    def hear_message(self, other: Other, heard: Heard) -> None:
        """Pass on what was said to all."""
        self.room.broadcast_here(heard.data)

    def hear_name(self, other: Other, heard: Heard) -> None:
        """Somebody there has a name, or a new one."""
        code = f"{heard.code}-{heard.server}"
        if other.names.get(code) != heard.data:
            other.names[code] = heard.data
            self.room.add_person(code, heard.data)

    def hear_leave(self, other: Other, heard: Heard) -> None:
        """Somebody there has gone."""
        code = f"{heard.code}-{heard.server}"
        if other.names.pop(code, None):
            self.room.remove_person(code)

    def hear_people(self, other: Other, heard: Heard) -> None:
        """Take over who is there; what we had missed shows now."""
        names = {
            f"{key}-{heard.server}": name for key, name in heard.data.items()
        }
        for code in other.names.keys() - names.keys():
            self.room.remove_person(code)
        for code in sorted(names):
            if other.names.get(code) != names[code]:
                self.room.add_person(code, names[code])
        other.names = names
        if not other.is_here:
            other.is_here = True
            self.tell(heard.server, "is here", other)
        if heard.kind == "hello":
            self.is_asked = True

    def hear_bye(self, other: Other, heard: Heard) -> None:
        """That room has closed."""
        self.part(heard.server)

    def hear_whisper(self, other: Other, heard: Heard) -> None:
        """Pass it on, if it is for somebody here."""
        user = self.room.find(heard.to)
        if user:
            self.room.send(user, heard.data)
        elif heard.to.endswith(self.room.mark):
            sender = f"{heard.code}-{heard.server}"
            self.keep(Entry("nobody", heard.to.encode(), to=sender))

    def hear_nobody(self, other: Other, heard: Heard) -> None:
        """A whisper of somebody here, perhaps, has reached nobody there."""
        user = self.room.find(heard.to)
        if user:
            self.room.tell_nobody(user, heard.data)

    # ---- who is alive -----------------------------------------------------

    def who_is_here(self) -> list[str]:
        """Return the servers of the other rooms that are open."""
        return [name for name, other in self.others.items() if other.is_here]

    def what_we_have(self) -> bytes:
        """Return the last number that we have heard, of each room."""
        numbers = {
            server: self.others[server].number for server in self.who_is_here()
        }
        return json.dumps(numbers).encode()

    def note_alive(self, server: str, has: bytes) -> None:
        """A room lives, and tells what it has heard: its what_we_have()."""
        with contextlib.suppress(*NOT_OURS):  # It has heard nothing of us yet.
            self.others[server].has = read_numbers(has)[self.id]

    def part(self, server: str, since: float = math.inf) -> None:
        """A room has gone, and its people; not if it was heard since then."""
        other = self.others[server]
        if other.heard_at > since:
            return
        if other.is_here:
            other.is_here = False
            self.tell(server, "has gone", other)
        names, other.names = other.names, {}
        for code in names:
            self.room.remove_person(code)

    def tell(self, server: str, what: str, other: Other) -> None:
        """Note in the diary what became of a room."""
        people = len(other.names)
        many = "1 person" if people == 1 else f"{people} people"
        self.room.diary(f"the room {server} {what}, with {many}")


# A UnicodeError is a ValueError, too. "[[[[..." is too deep for json.
NOT_OURS = (KeyError, ValueError, RecursionError)
# What becomes of an entry, by its kind.
HEARD = {
    "text": "hear_message",
    "binary": "hear_message",
    "name": "hear_name",
    "leave": "hear_leave",
    "hello": "hear_people",
    "here": "hear_people",
    "bye": "hear_bye",
    "whisper": "hear_whisper",
    "nobody": "hear_nobody",
}


def read_entry(fields: Mapping[bytes, bytes]) -> Heard:
    """Return an entry of the log, taken apart.

    Raises one of NOT_OURS, if a room has not written it.
    """
    server, number, kind = (
        fields[name].decode() for name in (b"server", b"number", b"kind")
    )
    code, to = (fields.get(name, b"").decode() for name in (b"code", b"to"))
    data: Any = fields[b"data"]
    if kind != "binary":
        data = data.decode()
    if kind in ("hello", "here"):
        data = read_names(data)
    fits: list[Any] = [SERVER.fullmatch(server), HEARD.get(kind)]
    fits.append(NUMBER.fullmatch(number))
    if kind == "name":
        fits.append(is_name(data))
    if kind in ("name", "leave", "whisper"):
        fits.append(KEY.fullmatch(code))
    if kind in ("whisper", "nobody"):
        fits.append(CODE.fullmatch(to))
    if not all(fits):
        raise ValueError("not an entry of a room")
    return Heard(server, int(number), kind, code, to, data)


def read_names(text: str) -> dict[str, str]:
    """Return names by their keys; ValueError: that is something else."""
    names = json.loads(text)
    if not isinstance(names, dict):
        raise ValueError("not a list of people")
    if not all(map(KEY.fullmatch, names)) or not all(
        map(is_name, names.values())
    ):
        raise ValueError("not people")
    return names


def is_name(name: Any) -> bool:
    """Tell whether a room may have given this name to somebody."""
    is_text = isinstance(name, str) and name.isprintable()
    return is_text and 0 < len(name) <= MAX_NAME


def read_numbers(text: bytes) -> dict[str, int]:
    """Return numbers by servers; ValueError: that is something else."""
    numbers = json.loads(text)
    if not isinstance(numbers, dict):
        raise ValueError("not numbers by servers")
    if not all(type(number) is int for number in numbers.values()):
        raise ValueError("not numbers")
    return numbers
