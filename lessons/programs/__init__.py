"""Small programs that share one loop with a room.

    python -m lessons.programs.clock 9000

clock: a timer. sensor: another thread. bridge: a client in the room's loop.
quiz: a page of its own, and all three ideas of a game. Read them in this
order; each is a page long. All of them take --trace, too.
"""

from __future__ import annotations

import argparse
from typing import Any, Callable, Sequence

from lessons.trace import ALL_IS_SEEN, Trace, start
from server import explain, serve, show


def make_parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """Return the parser that all have in common; text: what it is about."""
    parser = argparse.ArgumentParser(
        prog=f"python -m lessons.programs.{name}",
        description=(text or "").split("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument(
        "port", nargs="?", type=int, default=9000, help="9000 if left out"
    )
    # Not nargs="?": then "--trace 9000" would take the port for a level.
    for switch, level in (("--trace", "full"), ("--trace=short", "short")):
        parser.add_argument(
            switch,
            action="store_const",
            const=level,
            dest="trace",
            help="explain every byte, or each turn in a line",
        )
    return parser


def run(
    parser: argparse.ArgumentParser,
    make: Callable[[argparse.Namespace], Sequence[Any]],
    arguments: Sequence[str] | None = None,
) -> None:
    """Make a server, and guests if there are any; run them until Ctrl-C."""
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        parser.error(f"{options.port} is not a port; one is 1 to 65535")
    try:
        room, *guests = make(options)
    except OSError as error:
        lines = "\n".join(explain(error, "127.0.0.1", options.port))
        lines = lines.replace("python server.py", parser.prog)
        parser.exit(2, lines.replace("server.py: ", "") + "\n")
    except ValueError as error:  # of an address
        parser.error(str(error))
    if options.trace:
        show(ALL_IS_SEEN)
        room.observer = start(Trace, room, show, options.trace)
    serve(room, *guests)
