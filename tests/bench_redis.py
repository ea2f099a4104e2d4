"""Measure what the link by Redis costs, and how much later it is heard.

    python tests/bench_redis.py [--seconds 2] [--rounds 5]

Two servers of 100 users each, linked by --redis, beside one server of 200.
The users are the same in both: the even ones are one half and the odd ones
the other, and only the port of the odd ones differs. Redis is started here,
on a free port, and keeps nothing on the disk.

Busy: 10 users speak, 8 messages in flight each, 64 bytes long. A message is
in flight until the speaker's partner has heard it, who is his neighbour, but
of the other half: so nobody outruns the link.

Calm: ten messages a second in all. Each is timed at a user of the speaker's
half and at his neighbour, of the other half. One server serves them one after
the other: there the difference shows what the measuring itself adds.

Both servers and Redis share the one core that the one server has alone; the
load has another. So the rates compare the work of one core, and this is
where the link looks worst: on machines of their own, each server has a core
to itself. What it takes there is the column "servers us": microseconds of
all servers, together, for one delivery. The column "core" is the share of the
core that they used; less than about 95 % means that the load was too slow, or
that other programs ran: measure again.

As all share a core, the difference in the calm scene holds what the first
server still does, when Redis and the second one could go on.

What the load checks: the longest stream that any user of a server has heard
is taken apart, frame by frame: of each speaker the messages 0, 1, 2 ..., none
left out, none twice. The others of that server must hear the same bytes. At
the end everybody has heard everything, in both halves.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Iterator, NamedTuple, Sequence

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))

from tests.bench import (  # noqa: E402
    HOST,
    IN,
    LOAD_CORES,
    PATIENCE,
    WARM_UP,
    BenchError,
    Contender,
    Program,
    User,
    allow_descriptors,
    connect,
    contenders,
    difference,
    frame,
    medians,
    new_poll,
    on_core,
    ran,
    shown,
)

USERS = 200  # the even ones are one half, the odd ones the other
SPEAKERS = 10  # five pairs of neighbours, who listen to each other
APART = 2 * USERS // SPEAKERS  # users, from pair to pair
IN_FLIGHT = 8  # messages of each speaker, in the busy scene
SIZE = 64  # bytes in a message
PAUSE = 0.1  # seconds between two messages of the calm scene
KEY = b"mask"
REDIS = (
    *("redis-server", "--port", "{port}", "--bind", HOST),
    *("--save", "", "--appendonly", "no"),
)


class Busy(NamedTuple):
    """One measurement of the busy scene; None: this system does not tell."""

    rate: float  # deliveries per second
    core: float | None  # 0 to 1: servers and Redis
    servers: float | None  # seconds of the core, per delivery
    redis: float | None


class Delay(NamedTuple):
    """How long one message took from being said to being heard, seconds."""

    near: float  # in the speaker's half
    far: float  # in the other half


# ---- the load ---------------------------------------------------------------


def message(speaker: int, number: int) -> bytes:
    """Return a text: who, which one, then noise; all are different."""
    words = b"%d says %d " % (speaker, number)
    return words.ljust(SIZE, b"%d" % (number % 10))


FRAME_SIZE = len(frame(message(0, 0)))  # as it is heard


class Stream:
    """What all users of one server hear: the same bytes."""

    def __init__(self) -> None:
        self.bytes = bytearray()  # the longest that any of them has heard
        self.order = bytearray()  # for each whole frame in it: whose it is
        self.counts = [0] * SPEAKERS  # frames of each speaker

    def take(self, user: User, piece: memoryview) -> bytearray:
        """Compare what a user hears; return whose frames got whole."""
        start, end = user.heard, user.heard + len(piece)
        if end > len(self.bytes):
            self.bytes += piece[len(self.bytes) - start :]
            self.check()
        if not self.bytes.startswith(piece, start):
            raise BenchError(f"user {user.number} heard other bytes")
        user.heard = end
        return self.order[start // FRAME_SIZE : end // FRAME_SIZE]

    def check(self) -> None:
        """Check the frames that are new."""
        first = len(self.order) * FRAME_SIZE
        last = len(self.bytes) - FRAME_SIZE
        for at in range(first, last + 1, FRAME_SIZE):
            found = bytes(self.bytes[at : at + FRAME_SIZE])
            speaker = found[2] - ord("0")  # behind the two bytes of its head
            if not 0 <= speaker < SPEAKERS:
                raise BenchError(f"nobody said this: {found!r}")
            count = self.counts[speaker]
            if found != frame(message(speaker, count)):
                why = f"message {count} of {speaker} is due, not {found!r}"
                raise BenchError(why)
            self.counts[speaker] += 1
            self.order.append(speaker)


class Halves:
    """All users, in one thread; a context manager.

    ports: of the even users, and of the odd ones; they may be the same.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.users: list[User] = []
        self.poll = new_poll()
        # One for all: with new memory for each reading, the load was so slow
        # that one server made a third of its deliveries.
        self.buffer = memoryview(bytearray(2**20))
        streams = {port: Stream() for port in ports}
        self.streams = [streams[port] for port in ports]
        self.said = [0] * SPEAKERS  # messages of each
        # Who listens to which speaker; in a pair they have 0 and 1, 2 and 3.
        self.partners = {place(each ^ 1): each for each in range(SPEAKERS)}
        self.heard_at = [0.0] * USERS  # when each of them read last
        self.is_busy = False  # who hears his partner speaks again
        self.bytes = 0  # heard by all
        for number in range(USERS):
            port = ports[number % 2]
            connect(self.users, number + 1, port, websocket=True)
        self.by_descriptor = {}
        for user in self.users:
            user.socket.setblocking(False)
            self.by_descriptor[user.socket.fileno()] = user
            self.poll.register(user.socket.fileno(), IN)

    def __enter__(self) -> Halves:
        return self

    def __exit__(self, *_: object) -> None:
        for user in self.users:
            user.socket.close()
        self.poll.close()

    def say(self, speaker: int, count: int) -> None:
        """Say the next messages. They are few: the kernel takes them all."""
        first = self.said[speaker]
        self.said[speaker] += count
        numbers = range(first, first + count)
        frames = [frame(message(speaker, number), KEY) for number in numbers]
        self.users[place(speaker)].socket.sendall(b"".join(frames))

    def turn(self) -> None:
        """Read once from each user who has something to read."""
        ready = self.poll.poll(PATIENCE)
        if not ready:
            raise BenchError(f"no message came for {PATIENCE:.0f} seconds")
        for descriptor, _ in ready:
            self.hear(self.by_descriptor[descriptor])

    def hear(self, user: User) -> None:
        """Read once; the partner of a speaker lets him speak again."""
        size = user.socket.recv_into(self.buffer)
        if not size:
            raise BenchError(f"the server hung up on user {user.number}")
        self.heard_at[user.number] = time.perf_counter()
        self.bytes += size
        stream = self.streams[user.number % 2]
        whose = stream.take(user, self.buffer[:size])
        if self.is_busy and user.number in self.partners:
            partner = self.partners[user.number]
            count = whose.count(partner)
            if count:
                self.say(partner, count)

    def run(self, seconds: float) -> None:
        """Serve the users for a time."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.turn()

    def drain(self) -> None:
        """Say no more, hear the rest: nobody may miss anything."""
        self.is_busy = False
        end = time.perf_counter() + PATIENCE
        size = sum(self.said) * FRAME_SIZE
        while any(user.heard < size for user in self.users):
            if time.perf_counter() > end:
                raise BenchError("somebody has not heard everything")
            self.turn()
        if any(stream.counts != self.said for stream in self.streams):
            raise BenchError("more was heard than said")


def place(speaker: int) -> int:
    """Return which user a speaker is."""
    return speaker // 2 * APART + speaker % 2


# ---- what is measured -------------------------------------------------------


class Scenery:
    """One server, or two and a Redis, and their users; a context manager."""

    def __init__(self, is_linked: bool) -> None:
        self.servers: list[Program] = []
        self.redis: list[Program] = []
        with contextlib.ExitStack() as stack:
            server = contenders([])[1]
            if is_linked:
                server = self.add_redis(stack, server)
            for _ in range(1 + is_linked):
                self.servers.append(stack.enter_context(Program(server)))
            ports = [self.servers[0].port, self.servers[-1].port]
            self.load = stack.enter_context(Halves(ports))
            self.stack = stack.pop_all()

    def add_redis(
        self, stack: contextlib.ExitStack, server: Contender
    ) -> Contender:
        """Start a Redis; return a server that is linked by it."""
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        command = (*REDIS, "--dir", folder)
        redis = stack.enter_context(Program(Contender("redis", command)))
        self.redis.append(redis)
        address = f"{HOST}:{redis.port}"
        return server._replace(command=(*server.command, "--redis", address))

    def __enter__(self) -> Scenery:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


def used(programs: Sequence[Program]) -> float | None:
    """Return the seconds of the core that programs have used, if known."""
    seconds = [ran(program.pid) for program in programs]
    known = [each for each in seconds if each is not None]
    return sum(known) if known else None


def play_busy(is_linked: bool, seconds: float) -> Busy:
    """Warm up, count for some seconds, hear the rest."""
    with Scenery(is_linked) as scenery:
        load, kinds = scenery.load, (scenery.servers, scenery.redis)
        load.is_busy = True
        for speaker in range(SPEAKERS):
            load.say(speaker, IN_FLIGHT)
        load.run(WARM_UP)
        load.bytes = 0
        before, began = [used(kind) for kind in kinds], time.perf_counter()
        load.run(seconds)
        after, elapsed = [used(kind) for kind in kinds], time.perf_counter()
        elapsed -= began
        heard = load.bytes / FRAME_SIZE
        load.drain()
    costs = [difference(a, b, heard) for a, b in zip(after, before)]
    core = sum(filter(None, costs)) * heard / elapsed
    return Busy(heard / elapsed, core or None, *costs)


def play_calm(is_linked: bool, seconds: float) -> list[Delay]:
    """Let one speak after the other; return how late each was heard."""
    delays = []
    with Scenery(is_linked) as scenery:
        load = scenery.load
        for number in range(max(1, round(seconds / PAUSE))):
            speaker = number % SPEAKERS
            said_at = time.perf_counter()
            load.say(speaker, 1)
            load.drain()
            # Not the two of the pair itself: who speaks is not timed.
            near, far = place(speaker) + 2, place(speaker ^ 1) + 2
            times = load.heard_at[near], load.heard_at[far]
            delays.append(Delay(*(heard - said_at for heard in times)))
            time.sleep(max(0.0, said_at + PAUSE - time.perf_counter()))
    return delays


# ---- what is printed --------------------------------------------------------

NAMES = (f"1 server of {USERS}", f"2 of {USERS // 2}, linked")
HEAD = (
    f"{'busy':17} {'deliveries/s':>12} {'core':>5} "
    f"{'servers us':>11} {'redis us':>9}"
)


def busy_row(name: str, result: Busy) -> str:
    """Return a line about the busy scene."""
    return (
        f"{name:17} {result.rate:12,.0f} "
        f"{shown(result.core, 1, '.0%'):>5} "
        f"{shown(result.servers, 1e6, '.3f'):>11} "
        f"{shown(result.redis, 1e6, '.3f'):>9}"
    )


def calm_row(name: str, delays: Sequence[Delay]) -> str:
    """Return a line about the calm scene."""
    added = [delay.far - delay.near for delay in delays]
    columns = [*zip(*delays), added]
    return f"{name:17} " + " ".join(f"{points(each):>18}" for each in columns)


def points(seconds: Sequence[float]) -> str:
    """Return p50 and p99, in milliseconds."""
    ordered = sorted(seconds)
    half, most = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return f"{half * 1e3:.2f}, {most * 1e3:.2f}"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--seconds", type=float, default=2.0, help="of each measurement")
    add("--rounds", type=int, default=5, help="the median is shown")
    return parser


def measure(seconds: float, rounds: int) -> Iterator[str]:
    """Measure both in turn, several rounds; yield the lines to print."""
    found: tuple[list[Busy], list[Busy]] = ([], [])
    late: tuple[list[Delay], list[Delay]] = ([], [])
    for _ in range(rounds):
        # The linked one first: without a Redis, this ends at once.
        for is_linked in (True, False):
            found[is_linked].append(play_busy(is_linked, seconds))
    yield HEAD
    for name, results in zip(NAMES, found):
        yield busy_row(name, medians(results))
    # Of each round, as the machine may have been slower in one.
    left = median(b.rate / a.rate for a, b in zip(*found))
    yield f"of each round, so much of the rate is left: {left:.2f}"
    for _ in range(rounds):
        for is_linked in (True, False):
            # A p99 takes hundreds of messages, ten a second.
            late[is_linked].extend(play_calm(is_linked, 5 * seconds))
    titles = ("same half ms", "other half ms", "difference ms")
    yield f"{'calm: p50, p99':17} " + " ".join(f"{t:>18}" for t in titles)
    for name, delays in zip(NAMES, late):
        yield calm_row(name, delays)
    yield f"of {len(late[0])} messages each"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.seconds <= 0 or options.rounds < 1:
        parser.error("--seconds and --rounds must be more than 0")
    allow_descriptors(USERS + 64)
    gc.disable()  # its pauses would be the server's latency
    try:
        with on_core(LOAD_CORES):
            for line in measure(options.seconds, options.rounds):
                print(line, flush=True)
    except BenchError as error:
        print(f"bench_redis.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
