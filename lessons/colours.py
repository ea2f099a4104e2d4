"""Colours for the trace, where the terminal has them.

A line gets one colour, by what it begins with; its text stays as it is. What
a user has written never stands at the beginning of a line.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Callable

BOLD, RED, GREEN, MAGENTA = "1", "31", "32", "35"
KINDS = (
    (re.compile(r"turn \d"), BOLD),
    (re.compile(r"(FRAME|HANDSHAKE|HTTP) #\d+ -->"), GREEN),  # what comes in
    (re.compile(r"(FRAME|HANDSHAKE|HTTP) server -->"), MAGENTA),
    (re.compile(r"     =  "), BOLD),  # the payload without its mask
    (re.compile(r"YES$"), GREEN),
    (re.compile(r"NO$|RFC 6455 s|This turn took "), RED),
)


def painter(show: Callable[[str], None]) -> Callable[[str], None]:
    """Return what shows a text in colours; show itself where there are none."""
    if not has_colours(sys.stdout):
        return show
    return lambda text: show("\n".join(map(paint, text.split("\n"))))


def has_colours(stream: Any) -> bool:
    """Tell whether this is a terminal that shows colours, and may.

    See https://no-color.org: NO_COLOR, with anything in it, says no.
    """
    if os.environ.get("NO_COLOR") or not (stream and stream.isatty()):
        return False
    if sys.platform == "win32":  # The old console shows the codes themselves.
        return bool(os.environ.get("WT_SESSION") or os.environ.get("TERM"))
    return os.environ.get("TERM") not in (None, "", "dumb")


def paint(line: str) -> str:
    """Return a line with the codes of its colour around it."""
    for kind, colour in KINDS:
        if kind.match(line):
            return f"\x1b[{colour}m{line}\x1b[0m"
    return line
