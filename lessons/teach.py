"""--teach: the switches of a lesson, changed while the room runs.

    python server.py 9000 --teach

Type a word and press Enter; only Enter shows the words. A thread reads the
keyboard, as on Windows select() takes sockets only, and gives each line to
the loop. While --step asks, the lines are the class's answers.
"""

from __future__ import annotations

import contextlib
import queue
import re
import sys
import threading
import time
from typing import Any, Callable, Iterable

from lessons.faults import CHANCE, FAULTS, Breaker
from lessons.slow import shrink_buffers
from lessons.step import Stepper
from lessons.words import many, note

WORDS = """\
  trace       every byte explained        short    a line for each turn
  only 3      user 3 alone (only: all)    quiet    no trace
  step        the class predicts          c        no more questions
  recv 8      at most 8 bytes in a read (recv: as before)
  small       small kernel buffers, for those who come from now on
  break NAME  break a rule; break ?: one by chance
  mend        break none                  users    who is here
  buffers     what waits for whom         quit     close the room"""
ENDED = "The keyboard has ended: nothing changes any more."
NOBODY = "Nobody is ready yet: select() waits. c ends the questions."
MAX_LINE = 1024  # bytes; what is typed is shorter
MAX_LINES = 100  # typed, but not yet obeyed; then the keyboard waits
LOOK_UP = 0.2  # seconds; on Windows, Ctrl-C does not end a get() that waits


class Teacher:
    """The teacher's keyboard, and what can be changed by it."""

    def __init__(
        self,
        server: Any,
        stepper: Stepper,
        breaker: Breaker,
        show: Callable[[str], None],
        has_lab: bool = False,
    ) -> None:
        self.server = server
        self.stepper = stepper
        self.breaker = breaker
        self.show = show
        self.recv_size = server.recv_size  # as it was at the start
        self.has_small_buffers = False
        self.has_lab = has_lab
        # None: the end.
        self.lines: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        # What stands behind the word, if anything, goes in.
        self.words: dict[str, Callable[[str], None]] = {
            "trace": lambda more: self.set_level("full", more),
            "short": lambda more: self.set_level("short", more),
            "quiet": lambda more: self.set_level("off", more),
            "only": self.set_only,
            "step": self.step,
            "c": self.ask_no_more,
            "recv": self.set_recv_size,
            "small": self.shrink_buffers,
            "break": self.break_rule,
            "mend": self.mend,
            "users": lambda more: self.table(stepper.users, more),
            "buffers": lambda more: self.table(stepper.buffers, more),
            "quit": self.quit,
        }

    def begin(self) -> None:
        """Listen to the keyboard from now on."""
        self.stepper.read_line = self.ask
        self.show("--teach: Enter shows what to type.")
        # daemon: it waits for the keyboard, and nobody waits for it.
        threading.Thread(target=self.read_keyboard, daemon=True).start()

    def read_keyboard(self) -> None:
        """Hand over each line: what the thread does."""
        rest = b""
        with contextlib.suppress(OSError):
            # Without a buffer: its lock, held by a thread that sleeps, would
            # stop the interpreter from ending.
            keyboard = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
            while True:
                typed = keyboard.read(MAX_LINE)
                if typed is None:  # This keyboard does not wait.
                    time.sleep(LOOK_UP)
                    continue
                if not typed:
                    break
                *lines, rest = (rest[-MAX_LINE:] + typed).split(b"\n")
                for line in lines:
                    self.hand_over(line)
        if rest:
            self.hand_over(rest)
        self.hand_over(None)

    def hand_over(self, line: bytes | None) -> None:
        """Give a line to the loop, or to the question that waits for it."""
        text = None if line is None else line.decode("utf-8", "replace")
        self.lines.put(text)
        self.server.call_soon(self.obey_next)

    # ---- in the loop ------------------------------------------------------

    def obey_next(self) -> None:
        """Do what was typed, if no question has taken it."""
        try:
            line = self.lines.get_nowait()
        except queue.Empty:
            return
        if line is None:
            self.stepper.asks = False  # Nobody could answer.
            self.show(ENDED)
        elif not self.server.stopping:
            self.obey(line)

    def ask(self, prompt: str) -> str:
        """Return the next line that is typed; EOFError at the end."""
        with contextlib.suppress(BlockingIOError):  # a full pipe
            sys.stdout.write(prompt)
            sys.stdout.flush()
        while True:
            with contextlib.suppress(queue.Empty):
                line = self.lines.get(timeout=LOOK_UP)
                if line is None:
                    raise EOFError
                return line

    def obey(self, line: str) -> None:
        """Do what one line says, and show how it stands then."""
        word, _, more = " ".join(line.lower().split()).partition(" ")
        try:
            if not word:
                self.show(NOBODY if self.stepper.asks else WORDS)
            elif word in self.words:
                self.words[word](more)
            else:
                raise ValueError(f"There is no {word[:20]!r}. {HELP}")
        except ValueError as error:
            self.show(note(str(error)))
        else:
            self.show(note(self.state(), "  "))

    def state(self) -> str:
        """Say in words how it stands."""
        stepper, broken = self.stepper, self.breaker.named
        levels = {"full": "every byte", "short": "short", "off": "no trace"}
        of = f", of user {stepper.only} alone" if stepper.only else ""
        parts = [levels[stepper.level] + of]
        if self.server.recv_size != self.recv_size:
            size = many(self.server.recv_size, "byte")
            parts += [f"at most {size} in a read"]
        parts += ["the class predicts"] * stepper.asks
        parts += ["small buffers"] * self.has_small_buffers
        parts += [f"broken: {broken}"] * bool(broken)
        return f"Now: {'; '.join(parts)}."

    # ---- the words --------------------------------------------------------

    def set_level(self, level: str, more: str) -> None:
        """Show more of the trace, or less."""
        nothing_behind(more)
        self.stepper.level = level

    def set_only(self, more: str) -> None:
        """Show one user, or all again."""
        self.stepper.only = number(more, 0)

    def step(self, more: str) -> None:
        """Let the class predict from now on."""
        nothing_behind(more)
        self.stepper.asks = True

    def ask_no_more(self, more: str) -> None:
        """Let the room go on by itself; what c does at the menu, too."""
        nothing_behind(more)
        self.stepper.ask_no_more()

    def set_recv_size(self, more: str) -> None:
        """Read so many bytes at a time, or as many as at the start."""
        self.server.recv_size = number(more, self.recv_size)

    def shrink_buffers(self, more: str) -> None:
        """Let the kernel keep little for those who come from now on."""
        nothing_behind(more)
        self.show(shrink_buffers(self.server.listener))
        self.has_small_buffers = True

    def break_rule(self, more: str) -> None:
        """Break a rule, in the place of one that is broken already."""
        if self.has_lab:
            raise ValueError("The labs stand where a fault would break.")
        if more != CHANCE and more not in FAULTS:
            names = ", ".join([CHANCE, *FAULTS])
            raise ValueError(f"Type break and one of these: {names}")
        self.breaker.install(more)

    def mend(self, more: str) -> None:
        """Keep all rules again."""
        nothing_behind(more)
        self.breaker.mend()

    def table(self, lines: Callable[[], Iterable[str]], more: str) -> None:
        """Show one of the tables of --step."""
        nothing_behind(more)
        self.show("\n".join(lines()))

    def quit(self, more: str) -> None:
        """Close the room."""
        nothing_behind(more)
        self.server.stop()


HELP = "Only Enter shows what there is."


def nothing_behind(more: str) -> None:
    """Refuse what stands behind a word that stands alone; ValueError."""
    if more:
        raise ValueError(f"It stands alone, without {more[:20]!r}. {HELP}")


def number(text: str, default: int) -> int:
    """Return a number that was typed; ValueError."""
    if not text:
        return default
    if not re.fullmatch("[1-9][0-9]{0,4}", text):
        raise ValueError(f"{text[:20]!r} is not a number from 1 to 99999.")
    return int(text)
