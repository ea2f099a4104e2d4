"""Measure what --watch takes from the room, and how late the page is.

    python tests/bench_watch.py [--seconds 2] [--rounds 5]

First the busy scene of tests/bench.py, 100 users of whom 10 speak, without
and with --watch, and 30 tabs of the page open: how much of the deliveries is
left. The page's process shares the room's core here, as on a machine that is
busy with other things, and the tabs share that of the load.

Then a class: 30 users, of whom somebody says something ten times a second, and
30 tabs: how long it takes from the word to the tab. A browser draws it with
its next frame, about 17 ms later.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Sequence

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))

from tests.bench import (  # noqa: E402
    HOST,
    LOAD_CORES,
    PATIENCE,
    REQUEST,
    SCENES,
    BenchError,
    Contender,
    Load,
    Program,
    User,
    connect,
    contenders,
    frame,
    free_port,
    measure,
    on_core,
    play,
)

BUSY = next(scene for scene in SCENES if scene.name == "busy")
TABS = 30
USERS = 30
PAUSE = 0.1  # seconds between two words of the class
SAID = re.compile(rb"said at (\d+\.\d+)")


# ---- the tabs, a process of their own ---------------------------------------


def be_tabs(port: int) -> None:
    """Read what TABS pages get; at the end print how late each word was."""
    delays: list[float] = []

    def end(*_: object) -> None:
        print(" ".join(f"{delay:.6f}" for delay in delays), flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    tabs = [User(number, port) for number in range(TABS)]
    newest = {}  # the newest word that each has seen; it comes more than once
    for tab in tabs:
        tab.socket.sendall(REQUEST % port)
        newest[tab.socket] = 0.0
    print("ready", flush=True)
    while newest:
        for sock in select.select(list(newest), [], [])[0]:
            data = sock.recv(2**18)
            now = time.monotonic()
            for word in map(float, SAID.findall(data)):
                if word > newest[sock]:
                    newest[sock] = word
                    delays.append(now - word)
            if not data:
                del newest[sock]
    signal.pause()


class Tabs:
    """The process of the tabs; a context manager."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, str(HERE), "--tabs", str(port)]
        with on_core(LOAD_CORES):
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True
            )
        assert self.process.stdout
        if self.process.stdout.readline() != "ready\n":
            raise BenchError("the page's server is not there")

    def __enter__(self) -> Tabs:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()

    def end(self) -> list[float]:
        """Return how late each word was, in seconds."""
        self.process.terminate()
        return sorted(map(float, self.process.communicate()[0].split()))


# ---- what is measured -------------------------------------------------------


def deliveries(watched: Contender, port: int, seconds: float) -> float:
    """Return deliveries per second in the busy scene, with tabs open."""
    with Program(watched) as program:
        wait_for(port)
        with Tabs(port), Load(BUSY, program.port, watched) as load:
            return play(load, program, seconds).rate


def delays(watched: Contender, port: int, seconds: float) -> list[float]:
    """Return how late each word of a class is in each tab, in seconds."""
    with Program(watched) as program:
        wait_for(port)
        users: list[User] = []
        connect(users, USERS, program.port, websocket=True)
        with Tabs(port) as tabs:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                user = users.pop(0)
                users.append(user)
                words = f"said at {time.monotonic():.6f}".encode()
                user.socket.sendall(frame(words, b"mask"))
                time.sleep(PAUSE)
                for each in users:
                    each.socket.recv(2**16)
            found = tabs.end()
        for each in users:
            each.socket.close()
    if len(found) < TABS:
        raise BenchError("the tabs have seen no words")
    return found


def wait_for(port: int) -> None:
    """Wait until the page's server listens."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise BenchError(f"nobody listens on port {port}")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--seconds", type=float, default=2.0, help="of each measurement")
    add("--rounds", type=int, default=5, help="the median is shown")
    add("--tabs", type=int, help=argparse.SUPPRESS)  # be the tabs
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    options = make_parser().parse_args(arguments)
    if options.tabs:
        be_tabs(options.tabs)
    port = free_port()
    off = contenders([])[1]
    on = off._replace(command=(*off.command, f"--watch={port}"))
    with on_core(LOAD_CORES):
        rates = []
        for _ in range(options.rounds):
            alone = measure(off, BUSY, options.seconds).rate
            rates.append((alone, deliveries(on, port, options.seconds)))
        found = delays(on, port, 5 * options.seconds)
    alone, watched = (median(column) for column in zip(*rates))
    share = median(b / a for a, b in rates)
    print(f"busy, alone                  {alone:12,.0f} deliveries/s")
    print(f"busy, --watch with {TABS} tabs   {watched:12,.0f} deliveries/s")
    print(f"of each round, so much is left: {share:.2f}")
    half, most = found[len(found) // 2], found[len(found) * 95 // 100]
    print(
        f"a class of {USERS}, {TABS} tabs: from the word to the tab"
        f" p50 {half * 1e3:.1f} ms, p95 {most * 1e3:.1f} ms,"
        f" of {len(found)} words"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
