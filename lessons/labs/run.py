"""Have a student's file checked in a child process, with a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from itertools import islice
from typing import Any, NamedTuple

from lessons.labs.parts import Check, Finding, Lab, Rows

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
PATIENCE = 4.0  # seconds for one case, which needs a thousandth of that
STARTING = 20.0  # seconds, for Python to begin on a busy machine

# Not "-m": there are Pythons that do not look where one stands.
BEGIN = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from lessons.labs.child import main; main(sys.argv[2:])"
)

ENDLESS = Finding(
    "endless",
    "While your code does not come back, the loop stands still for everyone.",
    "Which of your loops has no end, or which call waits for somebody?",
)
ENDED = Finding(
    "ended",
    "A server has to go on, whatever its users send.",
    "Which of your lines ends Python, or takes all of its memory?",
)


class Verdict(NamedTuple):
    """What a check has found.

    passed: how many of the lab's checks; failed: the one that did not, or
    None; given: what went in; expected, got: in words; finding: what is
    wrong; printed: what the student's code printed; trouble: one sentence
    in place of all that, if the file cannot be used.
    """

    passed: int = 0
    failed: Check | None = None
    given: Rows = []
    expected: str = ""
    got: str = ""
    finding: Finding | None = None
    printed: list[str] = []
    trouble: str = ""

    @property
    def is_right(self) -> bool:
        """Tell whether all is well."""
        return not self.trouble and not self.failed


class Child:
    """A child process that tells lines, and is ended with the with block."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, ROOT, *arguments],
            cwd=ROOT,  # Windows could not remove where a process stands
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.told: queue.Queue[Any] = queue.Queue()
        self.reader = threading.Thread(target=self.collect, daemon=True)
        self.reader.start()

    def collect(self) -> None:
        """Put all that it tells into the queue, and None at its end."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.told.put(json.loads(line))
        self.told.put(None)

    def next(self, seconds: float) -> Any:
        """Return what it tells next, None at its end; queue.Empty: silence."""
        return self.told.get(timeout=seconds)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            with contextlib.suppress(OSError):  # a byte that nobody took
                stream.close()


def check_file(lab: Lab, path: str) -> Verdict:
    """Check a student's file for one of the labs 1 to 5."""
    with Child(str(lab.number), path) as child:
        assert child.process.stdin
        child.process.stdin.close()  # input() shall find nothing
        return listen(lab, path, child)


def listen(lab: Lab, path: str, child: Child) -> Verdict:
    """Make a verdict of what a child tells."""
    file, check, case = os.path.basename(path), -1, 0
    seconds = STARTING
    while True:
        try:
            line = child.next(seconds)
        except queue.Empty:
            words = (
                f"nothing: it had not come back after {PATIENCE:.0f} seconds."
            )
            if check < 0:
                words = f"{file} never ends: is there a loop outside of all"
                return Verdict(trouble=words + " functions?")
            return wrong(lab, check, case, words, ENDLESS)
        kind, *more = line or ["end"]
        if kind == "end" and check < 0:
            return Verdict(trouble=f"{file} ends Python while it is loaded.")
        if kind == "end":
            words = "nothing: Python itself has ended."
            return wrong(lab, check, case, words, ENDED)
        if kind == "trouble":
            return Verdict(trouble=more[0])
        if kind == "right":
            printed = ["(something)"] if more[0] else []
            return Verdict(len(lab.checks), printed=printed)
        if kind == "wrong":
            check, case, words, finding, printed = more
            found = Finding(*finding)
            return wrong(lab, check, case, words, found, printed)
        seconds = PATIENCE
        if kind == "case":
            check, case = more


def wrong(
    lab: Lab,
    number: int,
    place: int,
    got: str,
    finding: Finding,
    printed: list[str] | None = None,
) -> Verdict:
    """Return the verdict for a case that failed."""
    check = lab.checks[number]
    case = next(islice(check.cases(), place, None))
    return Verdict(
        number,
        check,
        lab.describe(case),
        lab.words(case.expected),
        got,
        finding,
        printed or [],
    )
