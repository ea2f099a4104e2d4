"""A clock: each second the room says what time it is.

    python -m lessons.programs.clock 9000

A timer is a call that is due at some time. The loop sleeps in select() no
longer than until then; what the call says goes out in the same turn.
"""

from __future__ import annotations

import argparse
import time
from typing import Sequence

from lessons.programs import make_parser, run
from server import ChatRoom


def make(options: argparse.Namespace) -> Sequence[ChatRoom]:
    """Return a room in which a timer ticks."""
    room = ChatRoom(port=options.port)
    room.every(1, lambda: room.announce(time.strftime("It is %H:%M:%S.")))
    return [room]


parser = make_parser("clock", __doc__)

if __name__ == "__main__":
    run(parser, make)
