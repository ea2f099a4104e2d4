"""Stages 9 and 10 of the checker: several users."""

from __future__ import annotations

from typing import Sequence

from lessons.checker.room import Room
from lessons.checker.verdict import Step, Steps
from lessons.checker.wire import Wire, WrongError, pump


def order(room: Room) -> Steps:
    """Let three users talk at the same time."""
    users = [room.join() for _ in range(3)]
    yield Step(
        "three users talk at once; each hears its own words in order",
        "s5.4: what is sent on one connection arrives in its order",
        "How does your server know whose turn it is to be read?",
        "server.py: Server.turn()",
    )
    talks = [talk(room, name) for name in ("Ana", "Ben", "Cem")]
    for texts in zip(*talks):
        for user, text in zip(users, texts):
            user.company = [other for other in users if other is not user]
            user.send(room.message(text))
    for user, own in zip(users, talks):
        user.hear(*own)

    said = {text for texts in talks for text in texts}
    # In a room, the one whose words come last has heard all the others.
    if any(len(said.intersection(user.texts)) > len(own) for user in users):
        yield Step(
            "all three hear all in one and the same order",
            "none of the RFC's, which knows two ends only: in a room all hear"
            " one talk",
            "Is there one place through which every message goes?",
            "server.py: Server.broadcast(), share()",
        )
        check_one_order(users, said)
    else:
        yield Step("(an echo: nobody hears what others say)", "", "", "")

    yield Step(
        "who is still in the handshake hears nothing of it",
        "s4.2.2: the answer 101 comes before any frame",
        "Who is in the list of those to whom a message is sent?",
        "server.py: User.is_open, Server.everyone()",
    )
    key, newcomer = room.key(), room.knock()
    request = room.request(key)
    newcomer.send(request[:20])
    for user in users:
        room.say(user, room.words())
    newcomer.send(request[20:])
    room.enter(newcomer, key)
    room.say(newcomer, room.words())

    yield Step(
        "when one of them has gone, the others talk on",
        "s7.1.5: who hangs up ends its own connection only",
        "What does your server do when a send() fails?",
        "server.py: Server.fail(), drop()",
    )
    users.pop().hang_up()
    for user in [*users, newcomer] * 3:
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
    read = "server.py: Server.turn(), write()"
    rule = "none of the RFC's: one loop serves all, so it waits for nobody"
    user = room.join()
    room.say(user, room.words())
    for title, begin, question in SLOW:
        yield Step(f"one {title}; another is heard", rule, question, read)
        begin(room)
        room.say(user, room.words())
    yield Step(
        "one never reads, and much is sent to it; another is heard",
        rule,
        "What does send() do when the other side does not read?",
        "server.py: Server.keep(), write()",
    )
    sleeper = room.join(buffer=4096)
    sleeper.deaf = True
    user.company = [sleeper]
    for _ in range(BLOCKS):
        message = room.random_bytes(BLOCK)
        sleeper.outbox += b"".join(room.message(message) for _ in range(8))
        # Who reads no more from one that does not read does it right, too.
        taken = pump([sleeper, user], lambda: not sleeper.outbox, 0.3)
        room.say(user, room.words())
        if not taken:
            break


def says_nothing(room: Room) -> None:
    """Connect, no more."""
    room.knock()


def says_half_a_request(room: Room) -> None:
    """Begin a handshake."""
    wire = room.knock()
    wire.send(room.request(room.key())[:30])


def says_half_a_frame(room: Room) -> None:
    """Begin a frame."""
    room.join().send(room.message(room.words(40))[:20])


def says_half_a_header(room: Room) -> None:
    """Begin a header."""
    room.join().send(room.message(room.words(40))[:1])


READS_ON = "What does recv() do when nothing has come?"
SLOW = [
    ("connects and says nothing", says_nothing, READS_ON),
    ("says half a request", says_half_a_request, READS_ON),
    ("says half a header", says_half_a_header, READS_ON),
    ("says half a frame", says_half_a_frame, READS_ON),
]
# Kernels keep up to 4 MB for one who does not read.
BLOCKS, BLOCK = 16, 64 * 1024
