"""Ask a running server: does it keep the rules of RFC 6455?

    python -m lessons.check ws://127.0.0.1:9000/
    python -m lessons.check --run 'python mine.py {port}'

It asks a running server, in whatever language it was written. It needs only
that a message comes back to its sender: an echo, or a room where all hear
all. Ten stages, in the order in which a server is built; it stops at the
first one that fails, and says what was sent, expected and seen there.
"""

from __future__ import annotations

import random
import time
from typing import Any, Iterable, Iterator, NamedTuple
from urllib.parse import urlsplit

from lessons.stages import STAGES, Step
from lessons.wire import (
    PATIENCE,
    Address,
    NobodyError,
    Room,
    WrongError,
    connect,
)


class Failure(NamedTuple):
    """What a stage saw that is wrong; all in words."""

    step: str
    sent: list[str]
    expected: str
    got: str
    rule: str
    question: str
    read: str


class Result(NamedTuple):
    """How one stage went. steps: those that went well, in words."""

    stage: int
    title: str
    passed: bool
    seconds: float
    steps: list[str]
    failure: Any = None


def check(
    url: str,
    *,
    seed: int | None = None,
    stages: Iterable[int] = tuple(STAGES),
    go_on: bool = False,
    patience: float = PATIENCE,
) -> list[Result]:
    """Check a server; return a Result for each stage that was tried.

    seed: the same one sends the same bytes. go_on: do not stop at the first
    stage that fails. patience: seconds without a byte after which an answer
    will not come. Raises NobodyError if nobody is there, ValueError for a wrong
    url.
    """
    address = parse_address(url)
    if seed is None:
        seed = random.randrange(10_000)
    return list(run(address, seed, stages, go_on, patience))


def run(
    address: Address,
    seed: int,
    stages: Iterable[int],
    go_on: bool,
    patience: float,
) -> Iterator[Result]:
    """Yield a Result for each stage, as soon as it is done."""
    try:
        first = connect(address, patience)
    except OSError as error:
        raise NobodyError(f"nobody is at {address}: {error}") from None
    for stage in stages:
        room = Room(address, f"{seed} {stage}", patience, first)
        first = None
        try:
            result = run_stage(stage, room)
        finally:
            room.leave()
        yield result
        if not result.passed and not go_on:
            return


def run_stage(stage: int, room: Room) -> Result:
    """Go through the steps of one stage."""
    title, steps = STAGES[stage]
    begun, done = time.monotonic(), []
    step = Step("it begins", "", "", "")
    failure = None
    try:
        for step in steps(room):
            done.append(step.title)
    except WrongError as wrong:
        failure = Failure(
            step.title, [], wrong.expected, wrong.got,
            wrong.rule or step.rule, wrong.question or step.question,
            step.read,
        )  # fmt: skip
        done = done[:-1]
    seconds = time.monotonic() - begun
    return Result(stage, title, not failure, seconds, done, failure)


def parse_address(url: str) -> Address:
    """Take "ws://127.0.0.1:9000/chat" apart; ValueError in one line."""
    parts = urlsplit(url)
    if parts.scheme != "ws" or not parts.hostname:
        raise ValueError("an address is like ws://127.0.0.1:9000/")
    target = parts.path or "/"
    if parts.query:
        target += "?" + parts.query
    return Address(parts.hostname, parts.port or 80, target)
