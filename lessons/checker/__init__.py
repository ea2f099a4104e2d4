"""The ten stages of the checker, in the order in which a server is built.

wire.py is one connection, room.py all of them; verdict.py says in words what
was seen. A stage is a generator: it yields the step that comes next, then
does it. What is not right raises WrongError; who asks for the next step
knows that this one went well.
"""

from __future__ import annotations

from typing import Callable, Tuple

from lessons.checker import crowd, frames, handshakes, rules
from lessons.checker.room import Room
from lessons.checker.verdict import Steps

Stage = Tuple[str, Callable[[Room], Steps]]
STAGES: dict[int, Stage] = {
    1: ("It answers the handshake.", handshakes.answers),
    2: ("It refuses what is no handshake.", handshakes.refuses),
    3: ("One short frame comes back.", frames.short_frame),
    4: ("All three forms of the length work.", frames.lengths),
    5: ("It does not matter how TCP cuts the bytes.", frames.cuts),
    6: ("Fragments make one message, pings between them.", frames.fragments),
    7: ("It answers a ping, and a Close.", frames.control),
    8: ("Each broken rule has its code: 1002, 1007, 1009.", rules.rules),
    9: ("Several users hear one order.", crowd.order),
    10: ("Nobody waits for a slow one.", crowd.slow),
}
