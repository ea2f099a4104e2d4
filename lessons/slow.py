"""--small-buffers: a slow reader shows after kilobytes, not megabytes."""

from __future__ import annotations

import socket

SIZE = 4 * 1024  # bytes; each kernel rounds it to what it thinks right


def shrink_buffers(listener: socket.socket) -> str:
    """Let the kernel keep little for each user; return what was done.

    What is set on the listening socket is inherited by all accepted ones,
    and the receive buffer must be known before a connection begins.
    """
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        listener.setsockopt(socket.SOL_SOCKET, option, SIZE)
    took = listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return f"Small buffers: asked for {SIZE} bytes, the kernel took {took}."
