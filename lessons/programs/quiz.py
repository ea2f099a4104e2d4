"""A quiz with a page of its own: everybody answers, all see the result.

    python -m lessons.programs.quiz 9000

The whole game is in the server: the pages only show what they are told and
say which answer was chosen. So a page can be asked for again, can be late
or wrong, and nobody can see the right answer before it is told.
"""

from __future__ import annotations

import argparse
import json
from itertools import cycle
from pathlib import Path
from typing import Any, Sequence

from lessons.programs import make_parser, run
from server import Server

PAGE = Path(__file__).with_name("quiz.html")
# A question, its answers, and which of them is right.
QUESTIONS = [
    (
        "What does select() give back?",
        ["the next message", "who is ready", "a new thread", "a socket"],
        1,
    ),
    (
        "One recv() returned 3 bytes. They are …",
        ["a message", "a frame", "an error", "what had come so far"],
        3,
    ),
    (
        "Who must mask its frames?",
        ["the client", "the server", "both", "nobody"],
        0,
    ),
    (
        "A hook sleeps for five seconds. Who waits?",
        ["its user", "nobody", "everybody", "the kernel"],
        2,
    ),
]


class Quiz(Server):
    """One question after the other, for ever.

    answering, showing: seconds for an answer, and for the result. Of a user:
    score, and choice, the answer to this question, or None.
    """

    def __init__(
        self, port: int, answering: float = 15, showing: float = 6
    ) -> None:
        super().__init__(port=port, page=str(PAGE))
        self.answering = answering
        self.showing = showing
        self.questions = cycle(QUESTIONS)
        self.ask()

    def ask(self) -> None:
        """Put the next question; look at the answers later."""
        self.question, self.answers, self.right = next(self.questions)
        for user in self.players():
            user.choice = None
        self.is_open = True
        self.tell_all(question=self.question, answers=self.answers)
        self.later(self.answering, self.reveal)

    def reveal(self) -> None:
        """Tell what all have chosen, and each one the own score."""
        self.is_open = False
        players = self.players()
        choices = [user.choice for user in players]
        counts = [choices.count(n) for n in range(len(self.answers))]
        for user in players:
            user.score += user.choice == self.right
            result = {"right": self.right, "counts": counts}
            self.tell(user, **result, choice=user.choice, score=user.score)
        self.later(self.showing, self.ask)

    def on_open(self, user: Any) -> None:
        """Let a newcomer play with the others."""
        user.score, user.choice = 0, None
        if self.is_open:
            self.tell(user, question=self.question, answers=self.answers)

    def on_message(self, user: Any, message: str | bytes) -> None:
        """Note an answer: "0", "1" ...; until the end it may change."""
        numbers = [str(number) for number in range(len(self.answers))]
        if self.is_open and message in numbers:
            user.choice = int(message)
            chosen = [
                each for each in self.players() if each.choice is not None
            ]
            self.tell_all(answered=len(chosen))

    def players(self) -> list[Any]:
        """Return all who are open; Any: they have what we hang on them."""
        return list(self.everyone())

    def tell(self, user: Any, **fields: Any) -> None:
        """Tell one user something, as JSON."""
        self.send(user, json.dumps(fields))

    def tell_all(self, **fields: Any) -> None:
        """Tell all something, as JSON."""
        self.broadcast(json.dumps(fields))


def make(options: argparse.Namespace) -> Sequence[Quiz]:
    """Return the game."""
    return [Quiz(options.port, options.seconds)]


parser = make_parser("quiz", __doc__)
parser.add_argument(
    "--seconds", type=float, default=15, help="for an answer; 15"
)

if __name__ == "__main__":
    run(parser, make)
