"""Run a student's file in a process of its own, which can be ended.

main() takes the number of the lab, the path of the file and, of a program,
a port. Each line on standard output is a list in JSON, and begins with a word:
"case" before each case, then "right", "wrong" or "trouble". What the file
itself prints is kept apart.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import sys
import threading
import time
from typing import Any, Callable

from lessons.labs import LABS
from lessons.labs.parts import Case, Check, Finding, Lab, Unfit
from lessons.labs.student import Trouble, load, part_of, what_happened

Tell = Callable[..., None]
MOST_LINES = 5  # of what the student's code prints for one case


class Printed(io.TextIOBase):
    """Stands for standard output: keeps the first lines of each case."""

    def __init__(self) -> None:
        self.text = ""
        self.count = 0  # of all

    def write(self, text: str) -> int:
        """Keep a little of it."""
        self.count += len(text)
        self.text = (self.text + text)[:1000]
        return len(text)

    def lines(self) -> list[str]:
        """Return the first lines, in ASCII."""
        lines = self.text.splitlines()[:MOST_LINES]
        return [ascii(line[:60])[1:-1] for line in lines]


def judge(lab: Lab, part: Any, path: str, tell: Tell) -> list[Any]:
    """Try all cases of a lab; return the last line that is told.

    part: the student's function or class; path: of its file.
    """
    printed = Printed()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(
        printed
    ):
        for number, check in enumerate(lab.checks):
            for place, case in enumerate(check.cases()):
                tell("case", number, place)
                printed.text = ""
                wrong = attempt(lab, check, case, part, path)
                if wrong:
                    words, finding = wrong
                    lines = printed.lines()
                    return ["wrong", number, place, words, finding, lines]
    return ["right", printed.count]


def attempt(
    lab: Lab, check: Check, case: Case, part: Any, path: str
) -> tuple[str, Finding] | None:
    """Try one case; return None, or what came out and what is wrong."""
    try:
        value = lab.call(part, case.arguments)
    except Unfit as unfit:
        return str(unfit), unfit.finding
    except BaseException as error:  # sys.exit(), too
        return what_happened(error, path), check.finding
    try:
        got = lab.settle(value)
    except Unfit as unfit:
        return str(unfit), unfit.finding
    if got == lab.settle(case.expected):
        return None
    return lab.words(got), lab.find(case, got) or check.finding


def check_part(lab: Lab, path: str, tell: Tell) -> None:
    """Load the file and judge it."""
    tell("loading")
    printed = Printed()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(
            printed
        ):
            part = part_of(load(path), lab)
    except Trouble as trouble:
        tell("trouble", str(trouble))
        return
    tell(*judge(lab, part, path, tell))


def run_program(path: str, port: str, tell: Tell) -> None:
    """Run a program; tell how it ends, and what it does when asked.

    For each byte on standard input: how often it has called select(), and
    how many seconds it has computed.
    """
    calls = [0]
    original = select.select

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        return original(*arguments)

    def answer() -> None:
        while os.read(0, 1):
            tell("used", calls[0], time.process_time())

    select.select = counted
    threading.Thread(target=answer, daemon=True).start()
    sys.argv = [path, port]
    tell("loading")
    try:
        with contextlib.redirect_stdout(Printed()):
            load(path, "__main__")
        tell("trouble", f"{os.path.basename(path)} ends by itself.")
    except Trouble as trouble:
        tell("trouble", str(trouble))


def main(arguments: list[str]) -> None:
    """Do what the command line says; tell it on standard output."""
    number, path, *port = arguments
    channel = os.fdopen(os.dup(1), "w", encoding="ascii")
    # Whatever else is written there, by print() or past it, goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def tell(*line: Any) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    if port:
        run_program(path, port[0], tell)
    else:
        check_part(LABS[int(number)], path, tell)
