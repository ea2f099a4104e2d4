"""Run one rung of the ladder, or ask the checker how far each one gets.

    python -m lessons.ladder 2 9000     rung 2, until Ctrl-C
    python -m lessons.ladder            the table: rung by stage

Of a rung, read the file; nothing in here is needed to run it.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator, Sequence

import codec
import handshake
from lessons.check import check
from lessons.checker import STAGES
from lessons.checker.wire import PATIENCE
from lessons.ladder import CLAIMS, RUNGS, parser

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = 6455  # the checker sends the same bytes each time
AT_ONCE = 16  # are asked side by side; most of them wait for what never comes
TEXTS = USERS = 10  # for the last line of the table
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 s1.3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a rung, or print the table; return the exit status."""
    options = parser.parse_args(arguments)
    if not options.rung:
        return show_table()
    if not is_free(options.port):
        parser.error(f"port {options.port} cannot be had, take another one")
    sys.argv = [str(RUNGS[options.rung]), str(options.port)]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


def is_free(port: int) -> bool:
    """Tell whether there is such a port, and nobody listens there."""
    try:
        if 0 <= port <= 65535:
            socket.create_server(("127.0.0.1", port)).close()
            return True
    except OSError:
        pass  # Whose it is, or why it is forbidden, is all the same here.
    return False


def show_table() -> int:
    """Print how far each rung gets; return 0 if that is what it claims."""
    passed = climb()
    print("\n".join(table(passed)))
    wrong = [rung for rung in CLAIMS if passed[rung] != CLAIMS[rung]]
    for rung in wrong:
        claimed = ", ".join(map(str, sorted(CLAIMS[rung])))
        print(f"But rung {rung} claims {claimed}.", file=sys.stderr)
    return 1 if wrong else 0


def climb(less_patience: float = PATIENCE) -> dict[int, set[int]]:
    """Return which stages each rung passes.

    less_patience: seconds, for the stages that a rung does not claim.
    """
    passed: dict[int, set[int]] = {rung: set() for rung in RUNGS}

    def ask(rung: int, stage: int) -> None:
        patience = PATIENCE if stage in CLAIMS[rung] else less_patience
        if passes(rung, stage, patience):
            passed[rung].add(stage)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        pairs = [(rung, stage) for rung in RUNGS for stage in STAGES]
        answers = [pool.submit(ask, *pair) for pair in pairs]
    for answer in answers:
        answer.result()  # raises what ask() has raised
    return passed


def passes(rung: int, stage: int, patience: float) -> bool:
    """Ask a rung, started for this alone, about one stage."""
    with running(RUNGS[rung]) as port:
        url = f"ws://127.0.0.1:{port}/"
        results = check(url, seed=SEED, stages=[stage], patience=patience)
    return results[0].passed


@contextlib.contextmanager
def running(path: Path, python_path: str = str(ROOT)) -> Iterator[int]:
    """Run a rung as a program of its own; yield its port."""
    with subprocess.Popen(
        [sys.executable, str(path), "0"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": python_path},
    ) as process:
        assert process.stdout
        try:
            line = process.stdout.readline().decode()
            found = re.search("([0-9]+)\\)$", line.strip())
            if not found:
                raise OSError(f"{path.name} does not begin: {line!r}")
            yield int(found[1])
        finally:
            process.kill()


def table(passed: dict[int, set[int]]) -> list[str]:
    """Return the lines of the table, the stages as the rungs win them."""
    lines = [line("stage", f"{'rung':>49}", [f"{rung} " for rung in passed])]
    for stage in sorted(STAGES, key=lambda each: first_rung(passed, each)):
        marks = ["ok" if stage in passed[rung] else ". " for rung in passed]
        lines.append(line(str(stage), STAGES[stage][0], marks))
    calls = f"Calls of send(): {TEXTS} texts in one read, {USERS} users."
    costs = [str(cost(rung) or "- ") for rung in passed]
    return [*lines, line("", calls, costs)]


def line(number: str, title: str, cells: list[str]) -> str:
    """Return one line of the table, of 76 columns at most."""
    marks = "".join(f"{each:>4}" for each in cells)
    return f"{number:>5}  {title:49}{marks}".rstrip()


def first_rung(passed: dict[int, set[int]], stage: int) -> int:
    """Return the lowest rung that passes a stage; 9 if there is none."""
    return min((rung for rung in passed if stage in passed[rung]), default=9)


class Counted:
    """A socket that counts how often something is sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += name in ("send", "sendall")
        return getattr(self.sock, name)


def cost(rung: int) -> int | None:
    """Count the calls of send() for ten texts in one read, for ten users.

    Its turns are called from here, one by one, so the number is the same on
    every machine. None for rung 1, which loses all but the first text.
    """
    program = runpy.run_path(str(RUNGS[rung]))
    if "Room" not in program:
        return None
    room = program["Room"](0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(room.listener)
        clients = [stack.enter_context(join(room)) for _ in range(USERS)]
        for user in room.users:
            stack.callback(user.socket.close)
            user.socket = Counted(user.socket)
        frame = codec.encode_message("hello", key=b"mask")
        clients[0].sendall(frame * TEXTS)
        room.turn()
        return sum(int(user.socket.calls) for user in room.users)


def join(room: Any) -> socket.socket:
    """Return a client whose handshake is done."""
    address = room.listener.getsockname()
    client = socket.create_connection(address)
    client.sendall(handshake.request_head("localhost", "/", KEY, {}))
    room.turn()  # It accepts,
    room.turn()  # and answers.
    return client


if __name__ == "__main__":
    sys.exit(main())
