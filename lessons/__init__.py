"""What only a class needs: the trace, the stepper, the page, the labs ...

The server imports this only when a switch asks for it. What runs in the
room's process never imports the server: it is handed one. Programs of their
own do: watch.py, and those in programs/.
"""

from __future__ import annotations

from typing import Any, Callable

from lessons import redis
from lessons.faults import Breaker
from lessons.labs import plug
from lessons.link import Link, LinkError
from lessons.observer import Several
from lessons.record import Record, Recording
from lessons.slow import shrink_buffers
from lessons.step import Stepper
from lessons.teach import Teacher
from lessons.trace import ALL_IS_SEEN, Trace, start
from lessons.words import ascii_only


def begin(server: Any, options: Any, show: Callable[[str], None]) -> str:
    """Prepare a server for a lesson, before its loop begins.

    options: of the command line; show: prints a text. Returns why it cannot
    begin, else "".
    """
    observers: list[Any] = []
    breaker = Breaker(show)
    if options.fault:
        breaker.install(options.fault)
    if options.fault or options.teach:
        observers.append(breaker)
    for module in options.lab:
        show(plug.install(module, show))
    if options.small_buffers:
        show(shrink_buffers(server.listener))
    if options.step or options.trace or options.teach:
        kind = Stepper if options.step or options.teach else Trace
        level = options.trace or "off"
        if options.trace or options.teach:
            show(ALL_IS_SEEN)
        observers.append(start(kind, server, show, level, options.only or 0))
    if options.teach:
        stepper = observers[-1]
        stepper.asks = options.step
        has_lab = bool(options.lab)
        Teacher(server, stepper, breaker, show, has_lab).begin()
    try:
        if options.watch or options.record is not None:
            # First: the trace must not tell what the class shall predict.
            observers.insert(0, make_record(server, options, show))
    except LinkError as error:
        return f"server.py: {error}"
    except OSError as error:
        name = ascii_only(options.record)[-40:]
        return f"server.py: {name}: {error.strerror}; --record makes a new file"
    if observers:
        # One alone is told without a detour: that is 1 us each time.
        is_alone = len(observers) == 1
        server.observer = observers[0] if is_alone else Several(observers)
    return redis.link(server, options.redis) if options.redis else ""


def make_record(
    server: Any, options: Any, show: Callable[[str], None]
) -> Record:
    """Return the observer that writes turns down, for a page and a file.

    LinkError: the page cannot be served. OSError: the file cannot be made.
    """
    link = None
    if options.watch:
        port = server.port + 1 if server.port < 65535 else server.port - 1
        if options.watch != "next":
            port = int(options.watch)
        settings = {
            "host": server.host,
            "port": port,
            "origins": sorted(server.origins - {"null"}),
            "ping_interval": server.ping_interval,
        }
        link = Link(settings, server.diary)
    sinks = []
    if options.record is not None:
        try:
            sinks.append(Recording(options.record, server.diary))
        except OSError:
            if link:
                link.close()
            raise
    if link:
        show("\n".join(link.lines))
    return Record(server, sinks, link)
