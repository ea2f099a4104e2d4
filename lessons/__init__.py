"""What only a class needs: the trace, the stepper, the faults, the labs.

The server imports this only when a switch asks for it. In here, codec and
handshake are imported, but never the server: a lesson is handed one.
"""

from __future__ import annotations

from typing import Any, Callable

from lessons.faults import install
from lessons.labs import plug
from lessons.slow import shrink_buffers
from lessons.step import Stepper
from lessons.trace import Trace


def begin(server: Any, options: Any, show: Callable[[str], None]) -> None:
    """Prepare a server for a lesson, before its loop begins.

    options: of the command line; show: prints a text.
    """
    if options.fault:
        show(install(options.fault))
    for module in options.lab:
        show(plug.install(module, show))
    if options.small_buffers:
        show(shrink_buffers(server.listener))
    if options.step:
        server.observer = Stepper(server, show, options.trace or "off")
    elif options.trace:
        server.observer = Trace(server, show, options.trace)
