"""Small buffers: a slow reader shows after kilobytes, not megabytes."""

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


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect(
    name: str, port: int, timeout: float, buffer: int = 0
) -> socket.socket:
    """Return a connected socket; OSError if nobody is there.

    buffer: bytes that the kernel may keep for us; 0: as many as it likes.
    The server hears of it with the first packet of TCP. Else it sends more
    than there is room for, and what was lost comes again only after longer
    and longer pauses.
    """
    failure = OSError("the name has no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(
        name, port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            if buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.settimeout(timeout)
            sock.connect(place)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure
