"""Ask a running server whether it keeps the rules of RFC 6455.

    python -m lessons.check ws://127.0.0.1:9000/
    python -m lessons.check --run "python mine.py {port}"

In whatever language it was written: it needs only to send a message back to
its sender, as an echo or to all. There are ten stages, in the order in which
a server is built. The first one that fails says what was sent, what was
expected, what came, which rule is broken, and asks one question.

Exit status: 0 all is well, 1 something is not, 2 there is nobody to ask.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import shlex
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterable, Iterator, NoReturn, Sequence
from urllib.parse import urlsplit

from lessons.checker import STAGES
from lessons.checker.room import Address, NobodyError, Room
from lessons.checker.verdict import Result, Step, label, make_failure
from lessons.checker.wire import PATIENCE, WrongError
from lessons.slow import connect, free_port
from lessons.words import ascii_only, cut


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
    stage that fails. patience: after so many seconds in which nothing moves,
    nothing will come. Raises NobodyError if nobody is there, ValueError for
    a url that is none.
    """
    address = parse_address(url)
    if seed is None:
        seed = random.randrange(10_000)
    first = reach(address, patience)
    return list(results(address, first, seed, stages, go_on, patience))


def results(
    address: Address,
    first: socket.socket,
    seed: int,
    stages: Iterable[int],
    go_on: bool,
    patience: float,
) -> Iterator[Result]:
    """Yield a Result for each stage, as soon as it is done."""
    spare: socket.socket | None = first
    for stage in stages:
        room = Room(address, f"{seed} {stage}", patience, spare)
        spare = None
        try:
            result = go_through(stage, room)
        finally:
            room.leave()
        yield result
        if not result.passed and not go_on:
            break


def go_through(stage: int, room: Room) -> Result:
    """Take the steps of one stage, up to one that fails."""
    title, steps = STAGES[stage]
    begun, step, taken, failure = time.monotonic(), FIRST, [], None
    try:
        for step in steps(room):
            taken.append(step.title)
    except WrongError as wrong:
        failure = make_failure(step, wrong)
        del taken[-1:]
    seconds = round(time.monotonic() - begun, 3)
    return Result(stage, title, not failure, seconds, taken, failure)


FIRST = Step(
    "users come in",
    "s4.2.2: a good request is answered by 101",
    "Does stage 1 still go well?",
    "handshake.py: switching_protocols()",
)


# ---- where the server is ----------------------------------------------------


def parse_address(url: str) -> Address:
    """Take "ws://127.0.0.1:9000/chat" apart; ValueError says it in a line."""
    example = "an address is like ws://127.0.0.1:9000/"
    try:
        parts = urlsplit(url)
        port = parts.port or 80
        host = parts.hostname or ""
        host.encode("idna")
    except ValueError:
        raise ValueError(example) from None
    if parts.scheme == "wss":
        raise ValueError("only ws:// can be checked, wss:// is encrypted")
    if parts.scheme != "ws" or not host:
        raise ValueError(example)
    target = parts.path or "/"
    if parts.query:
        target += "?" + parts.query
    address = Address(host, port, target)
    try:
        Room(address, 0, 0.0).request("key")
    except ValueError:
        raise ValueError("an address is ASCII, without spaces") from None
    return address


def reach(
    address: Address,
    patience: float,
    is_starting: Callable[[], bool] = lambda: False,
) -> socket.socket:
    """Return the first connection; NobodyError if there is no server.

    is_starting: tells whether it is worth trying again.
    """
    ends = time.monotonic() + STARTING
    while True:
        try:
            return connect(address.host, address.port, 2 * patience)
        except OSError as error:
            if not is_starting() or time.monotonic() > ends:
                why = error.strerror or str(error)
                raise NobodyError(
                    cut(f"nobody is at {address}: {why}")
                ) from None
        time.sleep(0.05)


STARTING = 20.0  # seconds; a slow machine starts a large program


class Program:
    """A server that is started by its command, and ended; a context manager.

    last: the end of what it has printed, stdout and stderr.
    """

    def __init__(self, command: str, port: int) -> None:
        command = command.replace("{port}", str(port))
        # Windows takes a command as one text, and splits it by its own rules.
        is_windows = os.name == "nt"
        try:
            self.process = subprocess.Popen(
                command if is_windows else shlex.split(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except (OSError, ValueError, IndexError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise NobodyError(cut(f"cannot run {command}: {why}")) from None
        self.last = b""
        # A full pipe would stop the server.
        self.thread = threading.Thread(target=self.collect, daemon=True)
        self.thread.start()

    def collect(self) -> None:
        """Read all that it prints, keep the end."""
        output: Any = self.process.stdout
        for data in iter(lambda: output.read1(4096), b""):
            self.last = (self.last + data)[-4096:]

    def is_running(self) -> bool:
        """Tell whether it has not ended by itself."""
        return self.process.poll() is None

    def has_ended(self) -> bool:
        """Tell whether it has ended, or is about to."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        return not self.is_running()

    def last_words(self) -> list[str]:
        """Return how it ended, and what it printed last, in a few lines."""
        self.thread.join(1.0)
        status = self.process.poll()
        lines = [f"the server has ended, with exit status {status}"]
        printed = self.last.decode("ascii", "replace").split("\n")
        shown = [line.rstrip() for line in printed if line.strip()][-LINES:]
        return lines + [cut(f"  {ascii_only(line)}") for line in shown]

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        try:
            self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.thread.join(1.0)
        assert self.process.stdout
        if not self.thread.is_alive():  # Else its own child has the pipe.
            self.process.stdout.close()


LINES = 8  # of what it has printed
ENDING = 3.0  # seconds


# ---- the command line -------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Check one server, print what was seen; return the exit status."""
    options = parse_arguments(arguments)
    try:
        if not options.run:
            return report(options, None)
        check_free(options.address)
        with Program(options.run, options.address.port) as program:
            return report(options, program)
    except NobodyError as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("check: stopped", file=sys.stderr)
        return 1
    except OSError as error:
        # Whoever read this has gone (| head); Windows says EINVAL then.
        if error.errno not in (errno.EPIPE, errno.EINVAL):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def check_free(address: Address) -> None:
    """Raise NobodyError if another server is there: it would be checked."""
    try:
        connect(address.host, address.port, PATIENCE).close()
    except OSError:
        return
    raise NobodyError(f"port {address.port} is taken by another server")


def report(options: argparse.Namespace, program: Program | None) -> int:
    """Print a line for each stage, then what is wrong; return the status."""
    address, show = options.address, print
    if options.json:
        show = silent
    is_running = program.is_running if program else lambda: False
    try:
        first = reach(address, PATIENCE, is_running)
    except NobodyError:
        if program and not program.is_running():
            raise NobodyError("\n".join(program.last_words())) from None
        raise
    show(f"{address}   seed {options.seed}")
    done = []
    for result in results(
        address, first, options.seed, options.stages, options.all, PATIENCE
    ):
        done.append(result)
        show(result.line, flush=True)
    failed = [result for result in done if not result.passed]
    for result in failed:
        again = f"with --stage {result.stage} --seed {options.seed}"
        show(f"\n{result.text}\n{label('again', again)}")
    if failed and program and program.has_ended():
        show("\n" + "\n".join(program.last_words()))
    if not failed:
        seconds = sum(result.seconds for result in done)
        show(f"All that was asked went well, in {seconds:.1f} s.")
    if options.json:
        print(json.dumps(as_json(options, done), indent=1))
    return 1 if failed else 0


def silent(*_: Any, **__: Any) -> None:
    """Print nothing."""


def as_json(
    options: argparse.Namespace, done: Sequence[Result]
) -> dict[str, Any]:
    """Return the results as plain values."""
    stages = []
    for result in done:
        fields = result._asdict()
        if result.failure:
            fields["failure"] = result.failure._asdict()
        stages.append(fields)
    return {
        "address": str(options.address),
        "seed": options.seed,
        "passed": all(result.passed for result in done),
        "stages": stages,
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; with a wrong one, exit with one line."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.stage is not None and options.stage not in STAGES:
        parser.error(f"the stages are 1 to {len(STAGES)}")
    options.stages = [options.stage] if options.stage else list(STAGES)
    url = options.url
    if not url:
        if not options.run:
            parser.error('say where: ws://127.0.0.1:9000/, or --run "COMMAND"')
        if "{port}" not in options.run:
            parser.error("say where it listens, or put {port} in its command")
        url = f"ws://127.0.0.1:{free_port()}/"
    try:
        options.address = parse_address(url)
    except ValueError as error:
        parser.error(str(error))
    return options


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="python -m lessons.check",
        description="Does this server keep the rules of RFC 6455?",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("url", nargs="?", help="ws://HOST:PORT/ of a server that runs")
    add("--run", metavar="COMMAND", help="start this; {port} becomes its port")
    add("--stage", metavar="N", type=int, help="ask this stage only")
    add("--all", action="store_true", help="go on behind one that fails")
    add("--json", action="store_true", help="print it for a program")
    add("--seed", metavar="N", type=int, default=random.randrange(10_000),
        help="the same one sends the same bytes")  # fmt: skip
    return parser


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake costs one line, not a page."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong; exit with 2."""
        print(cut(f"check: {ascii_only(message)}"), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
