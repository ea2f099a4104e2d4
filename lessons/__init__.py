"""What only a class needs: the trace, the stepper and the faults.

The server imports this only when a switch asks for it. In here, codec and
handshake are imported, but never the server: a lesson is handed one.
"""

from __future__ import annotations

from typing import Any, Callable


def begin(
    server: Any,
    show: Callable[[str], None],
    trace: str | None,
    step: bool,
    small_buffers: bool,
    fault: str | None,
) -> None:
    """Prepare a server for a lesson, before its loop begins.

    show: prints a text; trace: "full", "short" or None; fault: the name of
    one in lessons.faults, or None.
    """
    if fault:
        from lessons.faults import install

        show(install(fault))
    if small_buffers:
        from lessons.slow import shrink_buffers

        show(shrink_buffers(server.listener))
    if step:
        from lessons.step import Stepper

        server.observer = Stepper(server, show, trace or "off")
    elif trace:
        from lessons.trace import Trace

        server.observer = Trace(server, show, trace)
