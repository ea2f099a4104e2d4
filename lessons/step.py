"""--step: predict what select() will give back, then see it.

    python server.py 9000 --step

The question comes before the answer: who has said what will happen learns
from what happens, who only watches does not. With --trace or --trace=short
the rest of each turn is explained too.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from typing import Any, Callable, Iterator

from lessons.asked import (
    CAN_SEND,
    KNOCKS,
    names,
    peek,
    stand_still,
    unfinished,
    waiting_words,
    why_missing,
    why_ready,
)
from lessons.observer import User, Users
from lessons.trace import Trace
from lessons.words import ascii_only, cut, many, note

PREDICT = "PREDICT which will select() give back? ids, or Enter: "
MENU = "Enter go on | c continue | u users | b buffers | q quit > "
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stepper(Trace):
    """Ask before each turn that has work what select() will give back.

    When the question is put, select() has already answered, and the answer
    is kept back. So who becomes ready while the class thinks comes back in
    the next turn, and the verdict is fair. (Who was ready may send more: it
    is read together.) A turn in which nothing came asks nothing. While the
    class thinks, the server's deadlines stand still.
    """

    def __init__(
        self,
        server: Any,
        show: Callable[[str], None],
        level: str,
        only: int = 0,
    ) -> None:
        super().__init__(server, show, level, only)
        self.asks = True  # until the class has enough of questions
        self.read_line: Callable[[str], str] = read_line
        self.predicted = 0
        self.right = 0
        self.failed: dict[User, OSError] = {}  # found while looking at them

    def woke(
        self,
        ask_read: Users,
        ask_write: Users,
        readable: Users,
        writable: Users,
    ) -> None:
        """Step through a turn; when nothing came, the server still sleeps."""
        ask_read, readable = self.seen(ask_read), self.seen(readable)
        came = set(names(self.server, [*readable, *writable]))
        if not came or not self.asks or self.server.stopping:
            super().woke(ask_read, ask_write, readable, writable)
            return
        began = time.monotonic()
        self.begin_turn(has_work=True)
        self.show(self.asked_line(ask_read, ask_write))
        # Who has an outbox is in both lists, as everybody is read from.
        asked = names(self.server, {*ask_read, *ask_write})
        full = names(self.server, ask_write)
        predicted = self.predict(asked)
        self.show(self.got_line(readable, writable))
        self.judge(predicted, came)
        self.explain(readable, writable)
        for name in asked:
            if name in predicted - came:
                self.tell_why(name, why_missing(name, full))
        if self.asks:
            self.offer_menu()
        self.begin_clock()
        self.awake = self.begun
        stand_still(self.server, self.awake - began)
        self.drop_failed()

    def ended(self) -> None:
        """Show the score."""
        self.show_score()

    def show_score(self) -> None:
        """Show how often the class was right, if it said anything."""
        if self.predicted:
            score = f"{self.right} of {self.predicted}"
            self.show(f"The class predicted {score}.")

    # ---- the question and the answer --------------------------------------

    def predict(self, asked: list[str]) -> set[str]:
        """Return the ids that the class names; none is no prediction."""
        while True:
            answer = self.ask(PREDICT).upper()
            if answer == "C":
                self.ask_no_more()
                return set()
            words = re.split(r"[\s,]+", answer)
            names = {name_of(word) for word in words if word}
            unknown = sorted(names.difference(asked))
            if not unknown:
                return names
            word = cut(unknown[0], 16)
            self.show(note(f"{word} was not asked for: {HOW_TO_ANSWER}"))

    def judge(self, predicted: set[str], came: set[str]) -> None:
        """Show whether the class was right, if it said anything."""
        if predicted:
            is_right = predicted == came
            self.predicted += 1
            self.right += is_right
            self.show("YES" if is_right else "NO")

    def explain(self, readable: Users, writable: Users) -> None:
        """Show why each of these came back."""
        for user in readable:
            if user is self.server.listener:
                self.tell_why("L read", KNOCKS)
            elif hasattr(user, "key"):
                self.tell_why(f"#{user.key} read", self.peek(user))
        for user in writable:
            if hasattr(user, "key"):
                size = many(user.waiting, "byte")
                self.tell_why(f"#{user.key} write", CAN_SEND.format(size))
        for name in names(self.server, [*readable, *writable]):
            if name[0] in "GR":
                self.tell_why(name, why_ready(name))

    def tell_why(self, name: str, why: str) -> None:
        """Show one line of reasons."""
        self.show(note(f"{name:<9} {why}", "  "))

    # ---- the menu ---------------------------------------------------------

    def offer_menu(self) -> None:
        """Show what is asked for, until the class wants to go on."""
        while True:
            choice = self.ask(MENU).lower()
            if choice == "u":
                self.show("\n".join(self.users()))
            elif choice == "b":
                self.show("\n".join(self.buffers()))
            elif choice in ("", "c", "q"):
                if choice == "c":
                    self.ask_no_more()
                elif choice == "q":
                    self.server.stop()
                return

    def ask_no_more(self) -> None:
        """Let the room go on by itself, and show the score so far."""
        self.asks = False
        self.show_score()

    def users(self) -> Iterator[str]:
        """Yield a table of the users."""
        yield USERS
        for user in self.server.users.values():
            name = ascii_only(user.name)
            host, port = user.address[:2]
            yield (
                f"  #{user.key:<6}{cut(name, 21):<22}"
                f"{cut(f'{host} port {port}', 26):<27}"
                f"{yes_or_no(user.handshaken):<12}{yes_or_no(user.closing)}"
            )

    def buffers(self) -> Iterator[str]:
        """Yield a table of the bytes that are on their way."""
        yield BUFFERS
        for user in self.server.users.values():
            here, to_come = unfinished(user)
            yield (
                f"  #{user.key:<6}{cut(self.peek(user), 27):<28}"
                f"{here:<10}{to_come:<11}"
                f"{len(user.outbox):<8}{user.waiting}"
            )

    # ---- asking -----------------------------------------------------------

    def ask(self, prompt: str) -> str:
        """Return the line that was typed; Ctrl-C and Ctrl-D end the server.

        There is no main loop to see a signal while input() waits, so here
        it raises KeyboardInterrupt, as it does in other programs.
        """
        if self.server.stopping:
            return ""
        try:
            handlers = set_handlers(
                dict.fromkeys(SIGNALS, signal.default_int_handler)
            )
            try:
                return self.read_line(prompt).strip()
            finally:
                set_handlers(handlers)
        except UnicodeDecodeError:
            return "?"  # bytes that are no text; the same as any nonsense
        except (EOFError, KeyboardInterrupt, OSError):
            self.show("")  # ends the line of the prompt
            self.server.stop()
            return ""

    # ---- afterwards -------------------------------------------------------

    def peek(self, user: User) -> str:
        """Say what the kernel holds from a user; leave it there."""
        size, error = peek(user)
        if error:
            self.failed[user] = error
        return waiting_words(size, self.failed.get(user, error))

    def drop_failed(self) -> None:
        """Do for the failed what the server's own read would have done."""
        while self.failed:
            self.server.end(*self.failed.popitem())


HOW_TO_ANSWER = "type ids that were, only Enter, or c."
USERS = (
    "  user   name                  address                    "
    "handshaken  closing"
)
BUFFERS = """\
  user   in the kernel,              unfinished           outbox
         to be read                  here      to come    blocks  bytes"""


def read_line(prompt: str) -> str:
    """Return what is typed behind a prompt; EOFError at the end."""
    return input(prompt)


def name_of(word: str) -> str:
    """Return the name of what the class typed as 3, #3 or L."""
    return f"#{word}" if word.isdigit() else word


def yes_or_no(value: bool) -> str:
    """Return a word for the table."""
    return "yes" if value else "no"


def set_handlers(handlers: dict[Any, Any]) -> dict[Any, Any]:
    """Handle signals by these; return what handled them before."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python handles signals in the main thread only
    return {
        number: signal.signal(number, handlers[number]) for number in handlers
    }
