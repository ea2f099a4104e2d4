"""Stages 9 and 10 of the checker: several users."""

from __future__ import annotations

import time
from typing import Sequence

from lessons.checker.room import Room
from lessons.checker.verdict import Step, Steps
from lessons.checker.wire import Wire, WrongError, pump

NO_RULE = "none of the RFC's: one loop serves all, so it waits for nobody"


def order(room: Room) -> Steps:
    """Let three users talk at the same time."""
    room.many_at_once = True
    yield Step(
        "three users are there at the same time",
        NO_RULE,
        "What does your server do until the first user says something?",
        "server.py: Server.turn()",
    )
    users = [room.join() for _ in range(3)]
    for user in users:
        room.say(user, room.words())
        user.company = [other for other in users if other is not user]
    yield from talk_at_once(room, users)
    yield from knock_meanwhile(room, users)
    yield from leave_badly(room, users)


def talk_at_once(room: Room, users: Sequence[Wire]) -> Steps:
    """Let all say many things in the same moment."""
    yield Step(
        "they talk at once; each hears its own words in order",
        "s6.2: what is sent on one connection is heard in its order",
        "How does your server know whom to read from?",
        "server.py: Server.turn()",
    )
    talks = [talk(room, name) for name in ("Ana", "Ben", "Cem")]
    for texts in zip(*talks):
        for user, text in zip(users, texts):
            user.post(room.message(text))
        pump(users, lambda: not any(user.outbox for user in users), 1.0)
    for user, own in zip(users, talks):
        user.hear(*own)

    # Now each says one thing more: what is on its way comes before that.
    for user in users:
        room.say(user, room.words())
    said = {text for own in talks for text in own}
    if any(
        len(said.intersection(user.texts)) > len(talks[0]) for user in users
    ):
        yield Step(
            "all three hear all in one and the same order",
            "none of the RFC's, which knows two ends only: in a room all hear"
            " one talk",
            "Is there one place through which every message goes?",
            "server.py: Server.broadcast(), share()",
        )
        check_one_order(users, said)
    else:
        yield Step("(an echo: nobody hears what the others say)", "", "", "")


def knock_meanwhile(room: Room, users: list[Wire]) -> Steps:
    """Let a newcomer stop in the middle of its request."""
    yield Step(
        "one is still in its handshake; the others talk on",
        NO_RULE,
        "What does your server do while half a request is there?",
        "server.py: Server.read_request()",
    )
    key, newcomer = room.key(), room.knock()
    request = room.request(key)
    newcomer.send(request[:20])
    for user in users:
        room.say(user, room.words())

    yield Step(
        "and that one hears nothing before its answer",
        "s4.2.2: the answer 101 comes before any frame",
        "Who is in the list of those to whom a message is sent?",
        "server.py: User.is_open, Server.everyone()",
    )
    newcomer.send(request[20:])
    room.enter(newcomer, key)
    room.say(newcomer, room.words())
    users.insert(0, newcomer)


def leave_badly(room: Room, users: list[Wire]) -> Steps:
    """Let two leave as one should not."""
    yield Step(
        "one hangs up, one breaks a rule; the others talk on",
        "s7.1.7: an error ends one connection",
        "What does your server do when a send() fails?",
        "server.py: Server.fail(), guard(), drop()",
    )
    users.pop().hang_up()
    users.pop().send(b"\x81\x05Hello")  # it is not masked
    for user in users * 3:
        user.company = []
        room.say(user, room.words())


def talk(room: Room, name: str) -> list[str]:
    """Return what a user will say."""
    return [f"{room.words(8)} {name} {number}" for number in range(1, 21)]


def check_one_order(users: Sequence[Wire], said: set[str]) -> None:
    """Compare in which order all have heard what was said."""
    orders = []
    for user in users:
        user.hear_others(said)
        orders.append([text for text in user.texts if text in said])
    for user, order in zip(users, orders):
        for one, other in zip(orders[0], order):
            if one != other:
                names = f'one user heard "{one[9:]}", another "{other[9:]}"'
                raise WrongError(user, "the same order for all", names)


def slow(room: Room) -> Steps:
    """Let some be slow in several ways; another one must not notice."""
    room.many_at_once = True
    read = "server.py: Server.turn(), write()"
    user = room.join()
    for title, data in SLOW:
        yield Step(
            f"one {title}; another is heard",
            NO_RULE,
            "What does recv() do when nothing has come?",
            read,
        )
        other = room.join() if data else room.knock()
        other.send(data)
        room.say(user, room.words())

    yield Step(
        "one never reads, and 8 MB wait for it; another is heard",
        NO_RULE,
        "What does send() do when the other side does not read?",
        "server.py: Server.keep(), write()",
    )
    sleeper = room.join(buffer=4096)
    sleeper.deaf = True
    user.company = [sleeper]
    ends = time.monotonic() + FLOODING
    for _ in range(BLOCKS):
        message = room.random_bytes(BLOCK)
        sleeper.outbox += b"".join(room.message(message) for _ in range(8))
        # Who reads no more from one that does not read does it right, too.
        taken = pump([sleeper, user], lambda: not sleeper.outbox, 1.0)
        room.say(user, room.words())
        if not taken or time.monotonic() > ends:
            break


SLOW = [
    ("connects and says nothing", b""),
    ("says one byte of a frame", b"\x81"),
    ("says half a frame", bytes.fromhex("81 85 37 fa 21 3d 7f 9f")),
]
# Kernels keep up to 4 MB for one who does not read.
BLOCKS, BLOCK = 16, 64 * 1024
FLOODING = 5.0  # seconds; by then a slow program has had enough
