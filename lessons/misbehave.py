"""Faults that no browser can make: they are put on a given client.

    python client.py ws://127.0.0.1:9000/ --raw "81 05 48 65 6c 6c 6f"

Each function here takes a client and puts something wrong in the place of
one or two of its methods, for this client alone. So client.py need not know
of any of them.
"""

from __future__ import annotations

import math
import random
import socket
import time
from typing import Any, Callable

from lessons.slow import SIZE, connect

SHOWN = 1024  # bytes, at most, of one read


def begin(client: Any, options: Any, show: Callable[[str], None]) -> None:
    """Put faults on a client that has not connected yet.

    options: of the command line; show: prints a text. Raises ValueError for
    what can never be sent.
    """
    if options.seed is not None:
        show("--seed: keys that anybody can guess, for lessons only")
        seed(client, options.seed)
    if options.key is not None:
        take_key(client, options.key)
    if options.raw is not None:
        send_raw(client, from_hex(options.raw), show)
    if options.dribble is not None:
        dribble(client, options.dribble)
    if options.slow:
        never_read(client)
    client.request()  # ValueError: the key would break out of its line


def seed(client: Any, number: int) -> None:
    """Take the same keys and masks every time."""
    dice = random.Random(number)
    client.random_bytes = lambda size: dice.getrandbits(8 * size).to_bytes(
        size, "big"
    )


def take_key(client: Any, key: str) -> None:
    """Take this Sec-WebSocket-Key, right or wrong."""
    client.make_key = lambda: key


def from_hex(text: str) -> bytes:
    """Return the bytes of "81 05 48"; ValueError."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError("--raw: type bytes in hex, '81 05 48'") from None


def send_raw(client: Any, data: bytes, show: Callable[[str], None]) -> None:
    """Send these bytes before anything else; show in hex what comes back."""
    opened, read_messages = client.opened, client.read_messages

    def send_and_open(response: Any) -> None:
        client.outbox += data
        opened(response)

    def show_and_read(received: bytes) -> None:
        more = " ..." if len(received) > SHOWN else ""
        show(f"received {received[:SHOWN].hex(' ')}{more}")
        read_messages(received)

    client.opened = send_and_open
    client.read_messages = show_and_read


def dribble(client: Any, seconds: float) -> None:
    """Send one byte at a time, so many seconds apart.

    A split of the bytes, however fine, changes nothing for the other side.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError("one cannot dribble backwards, or for ever")
    ask_write, due, patience = client.ask_write, client.due, client.patience
    next_byte = 0.0  # when it may go

    def send_one() -> int:
        nonlocal next_byte
        if time.monotonic() < next_byte:
            raise BlockingIOError  # as if the kernel were full
        sent: int = client.socket.send(client.outbox[:1])
        next_byte = time.monotonic() + seconds
        return sent

    def ask_write_in_time() -> Any:
        # There is room all the time, so select() would never sleep.
        return ask_write() if time.monotonic() >= next_byte else []

    def later() -> float:
        # Our own clock must not run out meanwhile.
        late: float = due()
        return max(late, next_byte + client.timeout) if client.socket else late

    def until_next_byte() -> float:
        most: float = patience()
        left = max(0.0, next_byte - time.monotonic())
        return min(most, left) if client.outbox else most

    client.send_some = send_one
    client.ask_write = ask_write_in_time
    client.due = later
    client.patience = until_next_byte


def never_read(client: Any) -> None:
    """Leave in the kernel what comes while it is open; at the end, read."""
    ask_read, read = client.ask_read, client.read

    def is_asleep() -> bool:
        return bool(client.state.name == "OPEN")

    def ask_others() -> list[socket.socket]:
        asleep = client.socket if is_asleep() else None
        return [sock for sock in ask_read() if sock is not asleep]

    client.ask_read = ask_others  # A terminal has a keyboard, too.
    client.read = lambda: None if is_asleep() else read()
    where = client.address.name, client.address.port
    client.dial = lambda: connect(*where, client.timeout, SIZE)
