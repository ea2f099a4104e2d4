"""The ten stages of the checker, in the order in which a server is built.

A stage is a generator: it yields the step that comes next, then does it.
What goes wrong raises WrongError; who asks for the next step has seen it go well.
"""

from __future__ import annotations

from typing import Callable, Iterator, NamedTuple

from lessons.wire import Room


class Step(NamedTuple):
    """One thing that is tried: its rule, a question as a hint, a place."""

    title: str
    rule: str
    question: str
    read: str


Steps = Iterator[Step]


def stage_1(room: Room) -> Steps:
    """Open one WebSocket."""
    yield Step("a handshake", "s4.2.2", "", "handshake.py")
    room.join()


def stage_3(room: Room) -> Steps:
    """Say one word."""
    yield Step("a short text comes back", "s5.2", "", "codec.py")
    user, text = room.join(), room.words()
    user.send(room.message(text))
    user.hear(text)


STAGES: dict[int, tuple[str, Callable[[Room], Steps]]] = {
    1: ("It answers the handshake.", stage_1),
    2: ("It refuses what is none.", stage_1),
    3: ("One short frame comes back.", stage_3),
    4: ("All three lengths come back.", stage_3),
    5: ("It does not matter how TCP cuts the bytes.", stage_3),
    6: ("Fragments make one message, control frames between.", stage_3),
    7: ("It answers pings and Close frames.", stage_3),
    8: ("Every broken rule has its code: 1002, 1007, 1009.", stage_3),
    9: ("Several users hear one order.", stage_3),
    10: ("Nobody waits for a slow one.", stage_3),
}
