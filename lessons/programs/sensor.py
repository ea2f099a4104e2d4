"""A sensor: a thread measures, and the room is told.

    python -m lessons.programs.sensor 9000
    python -m lessons.programs.sensor 9000 --wrong --trace=short

To measure takes a while: here, a second. In the loop, everybody would wait
for it; --wrong does so, then write something, and watch how long it takes.
A thread of its own may wait. But it may not touch the room, where the loop
is at work: it gives the loop something to call, and wakes it.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from functools import partial
from typing import Sequence

from lessons.programs import make_parser, run
from server import ChatRoom

SECONDS = 1.0  # that it takes to measure


def measure() -> str:
    """Return what a thermometer would show."""
    time.sleep(SECONDS)
    return f"{random.gauss(21, 0.5):.1f} degrees"


def watch(room: ChatRoom) -> None:
    """Measure for ever: what the thread does."""
    while True:
        room.call_soon(partial(room.announce, measure()))


def make(options: argparse.Namespace) -> Sequence[ChatRoom]:
    """Return a room that is told what is measured."""
    room = ChatRoom(port=options.port)
    if options.wrong:
        room.every(2 * SECONDS, lambda: room.announce(measure()))
    else:
        # daemon: it does not keep the program from ending.
        threading.Thread(target=watch, args=[room], daemon=True).start()
    return [room]


parser = make_parser("sensor", __doc__)
parser.add_argument("--wrong", action="store_true", help="measure in the loop")

if __name__ == "__main__":
    run(parser, make)
