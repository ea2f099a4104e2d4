"""What the rooms of several servers tell each other, with --redis.

No socket, no clock in here. What happens in a room becomes an event. All
events of one turn become one entry in a log, which redis.py hands over, and
which all rooms read. What the others have written there comes to hear().

    a field's name           its value            what it is
    server                   9f2c01ab             the room that says all this
    first                    12                   its oldest event that it keeps
    17 text                  {"nrong": "hi", ...  its event 17: said to all
    18 name 3                Ana                  its user 3 is called Ana
    19 whisper 3 5-77ab34c9  {"nrong": "psst" ... said to user 5 of 77ab34c9

A log in memory can lose what it has taken, or its end, or its beginning. So
the rooms do what TCP does. Each event has a number. Who hears it takes the
next number only: not one it knows, and not one behind a gap. Each room tells
now and then how far it has heard the others. An event is kept until Redis has
taken it and each other room has heard it. It is said again after each new
link, and when a room does not get on (TCP calls this go-back-N).

Two limits of what is kept: MAX_KEPT, and the bytes of --max-backlog.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections import deque
from typing import Any, Callable, Mapping, NamedTuple

from lessons.words import many

MAX_KEPT = 10_000  # events; at ten a second, a quarter of an hour
ENTRY_SIZE = 32 * 1024  # bytes, about, or one large message
MAX_DATA = 32 * 1024 * 1024  # bytes; a larger message stays in its room
EVENT_COST = 200  # bytes, about, that Python adds to those of the data
MAX_NAME = 20  # characters; as MAX_NAME in server.py
SERVER = re.compile("[0-9a-f]{8}")
KEY = re.compile("[1-9][0-9]{0,9}")
CODE = re.compile("([1-9][0-9]{0,9})-([0-9a-f]{8})")
NUMBER = re.compile("[1-9][0-9]{0,17}")


class Event(NamedTuple):
    """What has happened in a room.

    kind: see HEARD; key: of the user whom it is about; to: the code of whom
    it is for. data: bytes when written; text or a dict when read.
    """

    kind: str
    data: Any = b""
    key: str = ""
    to: str = ""


class Other:
    """What this room knows of another one."""

    def __init__(self, server: str) -> None:
        self.id = server
        self.number = 0  # of its last event that we have heard
        self.has = 0  # the last one of ours that it has heard, if known
        self.due = 0  # so far it should get until we hear of it again
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
        self.kept: deque[Event] = deque()
        self.first = 1  # the number of the first one that is kept
        self.next = 1  # of the one to be handed over next
        self.waiting = 0  # bytes in them, about
        self.taken = 0  # the last one that Redis has taken
        self.lost = 0  # so many had to go before it could take them
        self.known: dict[str, Other] = {}  # by id; also those who have gone
        self.is_asked = False  # a newcomer asks who is here
        self.is_leaving = False
        self.has_seen_odd = False

    # ---- what has happened in this room -----------------------------------

    def said(self, message: str | bytes) -> None:
        """A message was sent to everyone here."""
        if isinstance(message, str):
            self.keep(Event("text", message.encode()))
        else:
            self.keep(Event("binary", bytes(message)))

    def named(self, key: int, name: str) -> None:
        """Somebody here has a name, or a new one."""
        self.keep(Event("name", name.encode(), key=str(key)))

    def left(self, key: int) -> None:
        """Somebody here who had a name has gone."""
        self.keep(Event("leave", key=str(key)))

    def whisper(self, key: int, said: str, to: str) -> bool:
        """Whisper to somebody in another room. False: no such room is here."""
        found = CODE.fullmatch(to)
        other = self.known.get(found[2]) if found else None
        if not other or not other.is_here:
            return False
        self.keep(Event("whisper", said.encode(), key=str(key), to=to))
        return True

    def greet(self, kind: str = "hello") -> None:
        """Tell who is here; with "hello", the others tell it, too."""
        names = {
            str(user.key): user.name
            for user in self.room.everyone()
            if user.name
        }
        self.keep(Event(kind, json.dumps(names).encode()))

    def leave(self) -> None:
        """Tell that this room closes; it says nothing more."""
        self.keep(Event("bye"))
        self.is_leaving = True

    # ---- what is kept -----------------------------------------------------

    def keep(self, event: Event) -> None:
        """Keep an event; if there are too many, the oldest one goes."""
        if self.is_leaving:
            return
        if len(event.data) > MAX_DATA:
            self.room.diary("a message is too large for the other rooms")
            return
        self.kept.append(event)
        self.waiting += len(event.data) + EVENT_COST
        while len(self.kept) > 1 and (
            len(self.kept) > MAX_KEPT or self.waiting > self.room.max_backlog
        ):
            self.forget_one()

    def forget_one(self) -> None:
        """Forget the oldest event; note if nobody has heard it."""
        if self.first > self.taken:
            if not self.lost:
                words = "too much waits for Redis: the oldest of it is lost"
                self.room.diary(words)
            self.lost += 1
        self.waiting -= len(self.kept.popleft().data) + EVENT_COST
        self.first += 1

    def next_number(self) -> int:
        """Return the number that the next event will have."""
        return self.first + len(self.kept)

    def has_more(self) -> bool:
        """Tell whether there are events to be handed over."""
        return max(self.next, self.first) < self.next_number()

    def next_entry(self) -> tuple[int, list[bytes | str]]:
        """Return the next events, as the fields of an entry.

        First comes the number of the last one of them.
        """
        self.next = max(self.next, self.first)
        fields: list[bytes | str] = ["server", self.id]
        fields += ["first", str(self.first)]
        size = 0
        while self.has_more() and (not size or size < ENTRY_SIZE):
            event = self.kept[self.next - self.first]
            head = f"{self.next} {event.kind} {event.key} {event.to}"
            fields += [head.rstrip(), event.data]
            size += len(event.data) + EVENT_COST
            self.next += 1
        return self.next - 1, fields

    def forget_heard(self) -> None:
        """Forget what Redis has taken and each other room has heard."""
        has = [other.has for other in self.known.values() if other.is_here]
        heard = min([self.taken, *has])
        while self.kept and self.first <= heard:
            self.forget_one()

    def note_taken(self, number: int) -> None:
        """Redis has taken all events up to this number."""
        self.taken = max(self.taken, number)

    def count_lost(self) -> int:
        """Return how many were lost since this was asked last."""
        lost, self.lost = self.lost, 0
        return lost

    def count_unheard(self) -> int:
        """Return how many messages Redis has not taken."""
        return sum(
            event.kind in ("text", "binary", "whisper")
            for number, event in enumerate(self.kept, self.first)
            if number > self.taken
        )

    def say_again_from(self, number: int) -> None:
        """Let next_entry() begin here; what is not kept is left out."""
        self.next = max(self.first, min(self.next, number))

    # ---- what has happened elsewhere --------------------------------------

    def hear(
        self, fields: Mapping[bytes, bytes], now: float, is_old: bool
    ) -> None:
        """Do what an entry of the log asks for.

        now: time.monotonic(). is_old: it stands before the place at which we
        have come. Then what an unknown room says is left out.
        """
        if fields.get(b"server") == self.id.encode():
            return
        try:
            server, first, events = read_entry(fields)
        except NOT_OURS:
            self.note_odd()
            return
        if is_old and server not in self.known:
            return
        other = self.known.setdefault(server, Other(server))
        other.heard_at = now
        if 0 < other.number < first - 1:
            missing = many(first - 1 - other.number, "event")
            self.room.diary(f"lost of the room {server}: {missing}")
            other.number = first - 1
        for number, event in events:
            if number == other.number + 1 or not other.number:
                other.number = number
                HEARD[event.kind](self, other, event)

    def note_odd(self) -> None:
        """Tell once that somebody else writes into the log."""
        if not self.has_seen_odd:
            self.has_seen_odd = True
            self.room.diary("another program writes into our stream, too")

    def hear_message(self, other: Other, event: Event) -> None:
        """Pass on what was said to all."""
        self.room.broadcast_here(event.data)

    def hear_name(self, other: Other, event: Event) -> None:
        """Somebody there has a name, or a new one."""
        code = f"{event.key}-{other.id}"
        other.names[code] = event.data
        self.room.add_person(code, event.data)

    def hear_leave(self, other: Other, event: Event) -> None:
        """Somebody there has gone."""
        code = f"{event.key}-{other.id}"
        if other.names.pop(code, None):
            self.room.remove_person(code)

    def hear_people(self, other: Other, event: Event) -> None:
        """Take over who is there; what we had missed shows now."""
        names = {f"{key}-{other.id}": name for key, name in event.data.items()}
        for code in other.names.keys() - names.keys():
            self.room.remove_person(code)
        for code in names:
            if other.names.get(code) != names[code]:
                self.room.add_person(code, names[code])
        other.names = names
        if not other.is_here:
            other.is_here = True
            self.tell(other, "is here")
        if event.kind == "hello":
            self.is_asked = True

    def hear_bye(self, other: Other, event: Event) -> None:
        """That room has closed."""
        self.drop_room(other.id)

    def hear_whisper(self, other: Other, event: Event) -> None:
        """Pass it on, if it is for somebody here."""
        user = self.room.find(event.to)
        if user:
            self.room.send(user, event.data)
        elif event.to.endswith(self.room.mark):
            sender = f"{event.key}-{other.id}"
            self.keep(Event("nobody", event.to.encode(), to=sender))

    def hear_nobody(self, other: Other, event: Event) -> None:
        """A whisper of somebody here, perhaps, has reached nobody there."""
        user = self.room.find(event.to)
        if user:
            self.room.tell_nobody(user, event.data)

    # ---- who is alive -----------------------------------------------------

    def who_is_here(self) -> list[str]:
        """Return the servers of the other rooms that are open."""
        return [name for name, other in self.known.items() if other.is_here]

    def what_we_have(self) -> bytes:
        """Return the last number that we have heard, of each room."""
        numbers = {
            server: self.known[server].number for server in self.who_is_here()
        }
        return json.dumps(numbers).encode()

    def note_alive(self, server: str, has: bytes) -> None:
        """A room lives, and tells what it has heard: its what_we_have()."""
        other = self.known[server]
        before, other.has = other.has, read_numbers(has).get(self.id, other.has)
        if 0 < other.has == before and other.has < other.due:
            self.say_again_from(other.has + 1)
        other.due = self.taken

    def drop_room(self, server: str, since: float = math.inf) -> None:
        """A room has gone, and its people; not if it was heard since then."""
        other = self.known[server]
        if other.heard_at > since:
            return
        if other.is_here:
            other.is_here = False
            self.tell(other, "has gone")
        names, other.names = other.names, {}
        for code in names:
            self.room.remove_person(code)

    def tell(self, other: Other, what: str) -> None:
        """Note in the diary what became of a room."""
        people = many(len(other.names), "named user")
        self.room.diary(f"the room {other.id} {what}, with {people}")


# What becomes of an event, by its kind.
HEARD: dict[str, Callable[[Rooms, Other, Event], None]] = {
    "text": Rooms.hear_message,
    "binary": Rooms.hear_message,
    "name": Rooms.hear_name,
    "leave": Rooms.hear_leave,
    "hello": Rooms.hear_people,
    "here": Rooms.hear_people,
    "bye": Rooms.hear_bye,
    "whisper": Rooms.hear_whisper,
    "nobody": Rooms.hear_nobody,
}


# ---- entries of the log -----------------------------------------------------

# What reading an entry raises, if no room has written it. A UnicodeError is a
# ValueError, too; and "[[[[..." is too deep for json.
NOT_OURS = (KeyError, ValueError, RecursionError)


def read_entry(
    fields: Mapping[bytes, bytes],
) -> tuple[str, int, list[tuple[int, Event]]]:
    """Return who says all this, its first number, and numbers with events.

    Raises one of NOT_OURS, if a room has not written it.
    """
    server, first = fields[b"server"].decode(), fields[b"first"].decode()
    check(SERVER.fullmatch(server) and NUMBER.fullmatch(first))
    events = [
        read_event(name.decode(), data)
        for name, data in fields.items()
        if name not in (b"server", b"first")
    ]
    return server, int(first), events


def read_event(head: str, data: bytes) -> tuple[int, Event]:
    """Return an event and its number; NOT_OURS: it is none."""
    parts = [*head.split(" "), "", ""]  # The last ones may be missing.
    number, kind, key, to = parts[:4]
    check(NUMBER.fullmatch(number) and kind in HEARD)
    if kind in ("name", "leave", "whisper"):
        check(KEY.fullmatch(key))
    meaning: Any = data if kind == "binary" else data.decode()
    if kind in ("hello", "here"):
        meaning = read_names(meaning)
    if kind == "name":
        check(is_name(meaning))
    return int(number), Event(kind, meaning, key, to)


def check(is_right: Any) -> None:
    """Raise ValueError for what a room does not write."""
    if not is_right:
        raise ValueError("a room does not write this")


def read_names(text: str) -> dict[str, str]:
    """Return names by their keys; NOT_OURS: that is something else."""
    names = json.loads(text)
    check(isinstance(names, dict))
    for key, name in names.items():
        check(KEY.fullmatch(key) and is_name(name))
        name.encode()  # JSON can hold half of an emoji.
    return dict(names)


def is_name(name: Any) -> bool:
    """Tell whether this may be a name.

    Not whether it can be printed: the other room may run on a Python that
    knows newer letters.
    """
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME


def read_numbers(text: bytes) -> dict[str, int]:
    """Return numbers by rooms; none, if that is something else."""
    try:
        numbers = json.loads(text)
        check(isinstance(numbers, dict))
        check(all(type(number) is int for number in numbers.values()))
    except NOT_OURS:
        return {}
    return dict(numbers)
