"""Two thousand connections of nonsense, from a seed, against a server."""

from __future__ import annotations

import contextlib
import random
import signal
import time
import unittest

from tests.hostile import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    connect,
    frame,
    request,
    talk,
)
from tests.support import Peer, Process, count_descriptors, reset, wait_until

SEED = 6455
CONNECTIONS = 2000
BATCH = 25  # open at the same time

TEXTS = (
    b"hello",
    b"type=add&ming=%s",
    b"type=add&ming=%F0%9F%98%80%ED%A0%80%00",
    b"nr=hello&key=all",
    b"nr=hello&key=1",
    b"nr=%&key=99999999999999999999",
    b"nr=a&key=%D9%A1&type=add",
    b"type=&ming=&nr=&key=&&&&&&&&&&&&=",
    "\u202e\U0001f600\ufeff\u2028".encode(),
)


def random_bytes(source, most):
    count = source.randrange(most)
    return source.getrandbits(8 * count + 8).to_bytes(count + 1, "big")


def mutate(source, data):
    """Change, remove, double or insert some bytes."""
    mutated = bytearray(data)
    for _ in range(source.choice((1, 1, 2, 5, 20))):
        at = source.randrange(len(mutated) + 1)
        kind = source.randrange(4)
        if kind == 0:
            mutated[at : at + 1] = random_bytes(source, 1)
        elif kind == 1:
            del mutated[at : at + source.choice((1, 2, 10))]
        elif kind == 2:
            mutated[at:at] = mutated[max(0, at - 9) : at]
        else:
            mutated[at:at] = random_bytes(source, 9)
    return bytes(mutated)


def frames(source):
    """Return some good frames, some of them in fragments."""
    parts = []
    for _ in range(source.randrange(1, 6)):
        payload = source.choice((*TEXTS, random_bytes(source, 300)))
        kind = source.randrange(8)
        if kind == 0:
            parts.append(frame(PING, payload[:125]))
        elif kind == 1:
            parts.append(frame(BINARY, payload))
        elif kind == 2:
            at = source.randrange(len(payload) + 1)
            parts.append(frame(TEXT, payload[:at], fin=False))
            parts.append(frame(0, payload[at:]))
        elif kind == 3 and source.random() < 0.3:
            parts.append(frame(CLOSE, payload[:125]))
        else:
            parts.append(frame(TEXT, source.choice(TEXTS)))
    return b"".join(parts)


def nonsense(source, port):
    """Return what one connection sends."""
    kind = source.randrange(6)
    if kind == 0:
        return random_bytes(source, 2000)
    if kind == 1:
        return mutate(source, request(port, origin="null")) + frames(source)
    if kind == 2:
        return request(port) + mutate(source, frames(source))
    if kind == 3:
        return request(port) + random_bytes(source, 500)
    if kind == 4:
        whole = request(port) + frames(source)
        return whole[: source.randrange(len(whole))]
    return request(port) + frames(source)


def hang_up(source, sock):
    """End a connection in one of the ways there are."""
    kind = source.randrange(3)
    if kind == 0:
        reset(sock)
        return
    with sock, contextlib.suppress(OSError):
        if kind == 1:
            sock.setblocking(False)
            sock.recv(source.choice((1, 100, 100_000)))


class Fuzz(unittest.TestCase):
    def test_2000_connections(self):
        python = ("-X", "dev", "-W", "error")
        with Process("0", python=python) as process:
            pid = process.process.pid
            with Peer(process.port) as ana, Peer(process.port) as bob:
                talk((ana, bob), "hello")
                before = count_descriptors(pid)
                slowest = self.attack(process.port, (ana, bob))
                if before is not None:
                    wait_until(lambda: count_descriptors(pid) == before)
                talk((ana, bob), "still here")
            process.signal(signal.SIGTERM)
            self.assertEqual(process.end(), 0)
        self.assertEqual(process.errors, [])
        self.assertLess(slowest, 1.0)
        # It did get through to every part of the server.
        for words in ("joined", "refused", "with 1002", "with 1007", " is "):
            lines = [line for line in process.lines if words in line]
            self.assertGreater(len(lines), 20, words)

    def attack(self, port, pair):
        """Let the nonsense in; return the longest wait of the pair."""
        source = random.Random(SEED)
        slowest = 0.0
        for number in range(CONNECTIONS // BATCH):
            socks = []
            for _ in range(BATCH):
                sock = connect(port)
                socks.append(sock)
                data = nonsense(source, port)
                at = source.randrange(len(data) + 1)
                with contextlib.suppress(OSError):
                    sock.sendall(data[:at])
                    sock.sendall(data[at:])
            begun = time.monotonic()
            talk(pair, f"batch {number} of seed {SEED}")
            slowest = max(slowest, time.monotonic() - begun)
            source.shuffle(socks)
            for sock in socks:
                hang_up(source, sock)
        return slowest


if __name__ == "__main__":
    unittest.main()
