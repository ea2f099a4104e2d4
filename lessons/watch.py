"""The page that shows the loop on every screen, and its server.

    python -m lessons.watch              look at a recorded lesson
    python -m lessons.watch FILE [PORT]  at what --record has written

The same page is served for `python server.py 9000 --watch`: the room starts
this as a process of its own and hands it each turn as a line, see link.py. It
is a Server like the room itself, with its own loop; the link is a guest of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
from collections import Counter
from typing import Any, Callable, Dict, Iterator, Sequence

from codec import CloseCode
from handshake import HandshakeError, Request
from lessons.asked import MISSING
from lessons.bits import explained, find_phases
from lessons.record import MAX_RECORD, VERSION
from lessons.words import ascii_only
from server import (
    RECV_SIZE,
    Server,
    User,
    addresses,
    explain,
    is_loopback,
    serve,
)

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "watch.html")
LESSON = os.path.join(HERE, "lesson.jsonl")

KEPT_TURNS = 1000
KEPT_BYTES = 4 * 1024 * 1024  # of lines; a tab keeps as many
# Bytes that wait for one tab. Who takes no more gets the next turns later,
# or never, if they are not kept so long: that tab shows a gap.
MAX_AHEAD = 256 * 1024
# Only answers to a tab's own orders can make it more. Then it is dropped.
MAX_UNREAD = 1024 * 1024
MAX_ORDER = 4096  # bytes of what a tab may say
MAX_TABS = 100  # of one address, other than this machine's own
TICK = 0.02  # seconds, while some tab has not got all
NEWS_SECONDS = 0.25  # votes are counted for the tabs so often
TEACHER_SECONDS = 60.0  # then the room goes on, if no teacher is there
Fields = Dict[str, Any]


class History:
    """The turns that are kept, each a line of JSON for the page.

    They are counted from 0 on: those from first to end are here. header:
    the record's first line.
    """

    def __init__(self, most_turns: int, most_bytes: int) -> None:
        self.most_turns = most_turns
        self.most_bytes = most_bytes
        self.header: Fields | None = None
        self.lines: list[str] = []
        self.first = 0
        self.size = 0  # bytes

    @property
    def end(self) -> int:
        """The number of the line that comes next."""
        return self.first + len(self.lines)

    def add(self, line: Fields) -> None:
        """Keep a turn; the oldest ones go. ValueError: JSON has no such."""
        text = json.dumps(line, allow_nan=False)
        self.lines.append(text)
        self.size += len(text)
        while len(self.lines) > self.most_turns or self.size > self.most_bytes:
            self.size -= len(self.lines.pop(0))
            self.first += 1

    def get(self, number: int) -> str:
        """Return one of the lines that are kept."""
        return self.lines[number - self.first]


class Tab:
    """What the server knows of one page that is open."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.next = 0  # the turn that it gets next
        self.is_greeted = False
        self.is_teacher = False
        self.news: Fields = {}  # what it was told last
        self.got = (0, 0)  # the question and the round that it has got
        self.voted = (0, 0)  # the question and the round of its vote
        self.picks: frozenset[str] = frozenset()


class Watch(Server):
    """The server of the page: history, questions and votes.

    live: what comes by the link, or what is played back; lesson: what is
    played to those who ask for /lesson; order: tells the room "ask", "go" or
    "alive"; None: nobody can be asked.
    """

    def __init__(
        self,
        host: str,
        port: int,
        live: History,
        order: Callable[[str], None] | None = None,
        key: str = "",
        **options: Any,
    ) -> None:
        super().__init__(
            host,
            port,
            page=PAGE,
            max_message=MAX_ORDER,
            max_backlog=MAX_UNREAD,
            **options,
        )
        self.live = live
        self.lesson = read_record(LESSON)
        self.order = order
        self.key = key
        self.phases = find_phases(Server.turn)
        self.tabs: dict[User, Tab] = {}
        self.state = "running"  # or "armed", or "asking"
        self.question: Fields = {}  # that is open, or nothing
        self.round = 0
        self.rounds: list[list[frozenset[str]]] = []  # the votes of each
        self.is_revealed = False  # the turn that was asked about is to come
        self.right = self.votes = 0  # of all questions
        self.news: Fields = {}  # what the tabs are told
        self.counts: Fields = {}  # what the teachers were told last
        self.go_on_timer: Any = None  # the timer that lets the room go on
        if order:
            self.every(NEWS_SECONDS, self.tell_news)

    # ---- turns, from the room to the tabs ---------------------------------

    def take(self, line: Fields) -> None:
        """Take a line of the room: a turn, a question, or the header."""
        if "turn" in line:
            self.end_question(line)
            self.live.add(explained(line))
        elif "question" in line:
            self.question, self.round = line, 1
            self.rounds, self.is_revealed = [], False
            self.state = "asking"
            self.tell_news()
        elif "ended" in line:
            self.say_end()
        else:
            self.live.header = line

    def say_end(self) -> None:
        """Say that the room has ended, and end."""
        self.push_all()
        self.broadcast(json.dumps({"ended": "the room has closed"}))
        self.stop()

    def push_all(self) -> None:
        """Give each tab what it has not got, as far as it takes it."""
        for user, tab in self.tabs.items():
            self.push(user, tab)

    def push(self, user: User, tab: Tab) -> None:
        """Give a tab the next turns; when it has them all, the question."""
        history = tab.history
        if not tab.is_greeted and history.header:
            tab.is_greeted = True
            self.send(user, json.dumps(self.hello(history)))
            self.tell_status(user, tab)
        tab.next = max(tab.next, history.first)
        while tab.next < history.end and user.waiting < MAX_AHEAD:
            self.send(user, history.get(tab.next))
            tab.next += 1
        now = self.question.get("question", 0), self.round
        if self.question and history is self.live and tab.got != now:
            if tab.next == history.end:
                tab.got = now
                question = {**self.question, "round": self.round}
                self.send(user, json.dumps(question))

    def hello(self, history: History) -> Fields:
        """Return the first message to a tab."""
        is_live = history is self.live and self.order
        kept = {"turns": history.most_turns, "bytes": history.most_bytes}
        source = "live" if is_live else "recording"
        return {
            "hello": 1,
            "source": source,
            "room": (history.header or {}).get("room", ""),
            # Of the files that are here, also if the record is older.
            "phases": self.phases,
            "reasons": MISSING,
            "kept": kept,
        }

    # ---- tabs -------------------------------------------------------------

    def on_handshake(self, user: User, request: Request) -> None:
        """Refuse one more tab of an address that has very many."""
        host = user.address[0]
        tabs = sum(other.address[0] == host for other in self.tabs)
        if tabs >= MAX_TABS and not is_loopback(host):
            raise HandshakeError(503, f"There are {tabs} pages of yours.")

    def on_open(self, user: User) -> None:
        """Begin with the oldest turn that is kept."""
        assert user.request
        is_lesson = user.request.path == "/lesson"
        tab = Tab(self.lesson if is_lesson else self.live)
        self.tabs[user] = tab
        self.push(user, tab)

    def on_close(self, user: User, code: int, reason: str) -> None:
        """Forget a tab, and its vote."""
        self.tabs.pop(user, None)
        self.look_for_teacher()

    def on_message(self, user: User, message: str | bytes) -> None:
        """Do what a tab asks for, if it may."""
        try:
            said = json.loads(message)
            do = DO[said["do"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            self.close(user, CloseCode.POLICY, "not a message of the page")
            return
        tab = self.tabs[user]
        try:
            if do in FOR_TEACHERS and not tab.is_teacher:
                raise RefusedError("Only the teacher may do that.")
            if not self.order:
                raise RefusedError("This is a recording: nobody can be asked.")
            do(self, user, said)
        except RefusedError as refused:
            self.send(user, json.dumps({"error": str(refused)}))

    def tell_news(self) -> None:
        """Tell all tabs what has changed, and the teachers the votes.

        While a question is open, tell the room that we live.
        """
        if self.question and self.order:
            self.order("alive")  # Or the room would not wait for us.
        live = [
            user for user, tab in self.tabs.items() if tab.history is self.live
        ]
        teachers = [user for user in live if self.tabs[user].is_teacher]
        votes = self.votes_now()
        news = {
            "tabs": len(live),
            "teachers": len(teachers),
            "state": self.state,
            "voters": len(votes),
        }
        self.news = news
        for user, tab in self.tabs.items():
            self.tell_status(user, tab)
        before = list(map(count, self.rounds[: self.round - 1]))
        counts = {"round": self.round, "before": before, **count(votes)}
        if self.question and counts != self.counts:
            self.counts = counts
            for user in teachers:
                self.send(user, json.dumps({"votes": counts}))

    def tell_status(self, user: User, tab: Tab) -> None:
        """Tell a tab what has changed, also one that looks at the lesson."""
        if tab.is_greeted and tab.news != self.news:
            tab.news = self.news
            self.send(user, json.dumps({"status": self.news}))

    # ---- what a tab may ask for -------------------------------------------

    def take_key(self, user: User, said: Fields) -> None:
        """Make a teacher of who knows the key."""
        key = str(said.get("key")).encode(errors="replace")
        # In constant time: how long it takes must not tell what is right.
        if not secrets.compare_digest(key, self.key.encode()):
            raise RefusedError("That is not the key.")
        self.tabs[user].is_teacher = True
        self.counts = {}
        self.send(user, json.dumps({"role": "teacher"}))
        self.look_for_teacher()
        self.tell_news()

    def ask(self, user: User, said: Fields) -> None:
        """Let the room stand still before its next turn that has work."""
        if self.state != "running" or self.question:
            raise RefusedError("The class is being asked already.")
        self.tell_room("ask", "armed")

    def ask_again(self, user: User, said: Fields) -> None:
        """Let all vote anew, after a discussion."""
        self.need_question()
        if not self.votes_now():
            raise RefusedError("Nobody has voted in this round.")
        self.rounds.append(self.votes_now())
        self.round += 1
        self.tell_news()

    def reveal(self, user: User, said: Fields) -> None:
        """Let the room go on: reveal the answer, or take back an Ask."""
        if self.state == "running":
            raise RefusedError("The room is not asked to stand still.")
        self.go_on()

    def vote(self, user: User, said: Fields) -> None:
        """Note what somebody predicts; until the end it may change."""
        self.need_question()
        number, picks = said.get("question"), said.get("picks")
        if number != self.question["question"]:
            raise RefusedError("That was another question.")
        asked = self.question["asked"]
        known = {*asked["read"], *asked["write"]}
        if not isinstance(picks, list) or not picks:
            raise RefusedError("A vote names at least one.")
        unknown = [
            pick
            for pick in picks
            if not isinstance(pick, str) or pick not in known
        ]
        if unknown:
            raise RefusedError(f"{unknown[0]!r:.16} was not asked for.")
        tab = self.tabs[user]
        tab.picks = frozenset(picks)
        tab.voted = number, self.round

    # ---- questions --------------------------------------------------------

    def need_question(self) -> None:
        """Refuse what needs an open question."""
        if not self.question:
            raise RefusedError("There is no question now.")
        if self.is_revealed:
            raise RefusedError("The answer is on its way.")

    def go_on(self) -> None:
        """Let the room go on: if a question is open, its turn will come."""
        if self.question and not self.is_revealed:
            # Users of the room may see the answer before its turn is here.
            self.rounds.append(self.votes_now())
            self.is_revealed = True
        self.tell_room("go", "running")

    def tell_room(self, order: str, state: str) -> None:
        """Tell the room what to do."""
        assert self.order
        self.order(order)
        self.state = state
        self.tell_news()
        self.look_for_teacher()

    def votes_now(self) -> list[frozenset[str]]:
        """Return the votes in this round."""
        now = self.question.get("question", 0), self.round
        return [
            tab.picks
            for tab in self.tabs.values()
            if self.question and tab.voted == now and not tab.is_teacher
        ]

    def end_question(self, line: Fields) -> None:
        """If a question is open, this turn answers it: add all votes to it.

        It is the turn that was asked about, as the room stood still till now.
        """
        if not self.question:
            return
        rounds = self.rounds
        if not self.is_revealed:  # The room has gone on by itself.
            rounds = [*rounds, self.votes_now()]
        ready = line["ready"]
        came = frozenset([*ready["read"], *ready["write"]])
        self.right += rounds[-1].count(came)
        self.votes += len(rounds[-1])
        line["vote"] = {
            "rounds": [{**count(v), "right": v.count(came)} for v in rounds],
            "score": [self.right, self.votes],
        }
        self.question, self.state = {}, "running"
        self.tell_news()
        self.look_for_teacher()

    def look_for_teacher(self) -> None:
        """Let the room go on, if for a minute no teacher is there."""
        is_there = any(tab.is_teacher for tab in self.tabs.values())
        if is_there or self.state == "running":
            if self.go_on_timer:
                self.go_on_timer.cancel()
            self.go_on_timer = None
        elif not self.go_on_timer:
            self.go_on_timer = self.later(TEACHER_SECONDS, self.go_on)


class RefusedError(Exception):
    """What a tab asks for cannot be done: a sentence for it."""


DO = {
    "key": Watch.take_key,
    "ask": Watch.ask,
    "again": Watch.ask_again,
    "reveal": Watch.reveal,
    "go": Watch.reveal,
    "vote": Watch.vote,
}
FOR_TEACHERS = {Watch.ask, Watch.ask_again, Watch.reveal}


def count(votes: list[frozenset[str]]) -> Fields:
    """Return how many have voted, and how many for whom."""
    counts = Counter(name for picks in votes for name in picks)
    return {"voters": len(votes), "counts": dict(counts)}


class Pusher:
    """A guest of the loop: what the room says, goes to all tabs.

    sock: the page's end of the link, see link.py; None: nothing new comes.
    """

    def __init__(self, watch: Watch, sock: socket.socket | None) -> None:
        self.watch = watch
        self.socket = sock
        self.rest = b""  # of a line that is not whole

    def ask_read(self) -> list[socket.socket]:
        """Return the link, as long as there is one."""
        return [self.socket] if self.socket else []

    def ask_write(self) -> list[socket.socket]:
        """Return nothing: the few orders fit into the kernel's buffer."""
        return []

    def patience(self) -> float:
        """Return how long select() may sleep: not long, if tabs lag behind."""
        tabs = self.watch.tabs.values()
        is_behind = any(tab.next < tab.history.end for tab in tabs)
        return TICK if is_behind else TEACHER_SECONDS

    def serve(self, ready: set[Any]) -> None:
        """Take what has come from the room; give the tabs what they lack."""
        if self.socket in ready:
            assert self.socket
            self.take(receive(self.socket))
        self.watch.push_all()

    def take(self, data: bytes | None) -> None:
        """Take the lines of one read; b"" is the end of the room."""
        if data is None:
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.watch.take(json.loads(line))
        if not data:
            self.socket = None
            if not self.watch.stopping:  # It was killed.
                self.watch.say_end()

    def is_active(self) -> bool:
        """Tell whether the loop is still needed for this."""
        return bool(self.socket)


def receive(sock: socket.socket) -> bytes | None:
    """Return what one recv() brings; b"" also if it failed; None: nothing."""
    try:
        return sock.recv(RECV_SIZE)
    except BlockingIOError:
        return None
    except OSError:
        return b""


# ---- what is played back ----------------------------------------------------


def read_record(path: str) -> History:
    """Return what --record has written, explained.

    OSError: it cannot be read; ValueError: it is no record.
    """
    history = History(MAX_RECORD, 64 * MAX_RECORD)  # A line has many bytes.
    with open(path, "rb") as file:
        lines = file.read(MAX_RECORD).split(b"\n")
    for number, text in enumerate(lines[:-1], 1):  # The last one is cut.
        try:
            line = json.loads(text)
            if number == 1 and line["watch"] == VERSION:
                history.header = check(line, room=str)
                if not line["room"].startswith(("http://", "https://")):
                    raise ValueError("not an address")
            elif "turn" in line:
                history.add(explained(check(line, **TURN)))
        except WRONG:
            raise ValueError(f"line {number} is not of a record") from None
    if not history.header:
        raise ValueError("it is no record")
    return history


def check(line: Fields, **kinds: Any) -> Fields:
    """Return a line, if its fields are of these kinds; else ValueError."""
    for name, kind in kinds.items():
        if not isinstance(line[name], kind):
            raise ValueError(f"{name} is no {kind}")
    return line


NUMBER = (int, float)
TURN = {
    "turn": int, "at": NUMBER, "slept": NUMBER, "took": NUMBER,
    "asked": dict, "ready": dict, "users": list, "events": list,
}  # fmt: skip
# What a file may do that was not written by --record.
WRONG = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


# ---- the two ways to run it -------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Play a record back until Ctrl-C; return the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.link:
        return follow()
    if not 0 <= options.port <= 65535:
        parser.error(f"{options.port} is not a port; one is 1 to 65535")
    name = ascii_only(os.path.basename(options.file))[-40:]
    try:
        history = read_record(options.file)
    except OSError as error:
        return fail(f"{name}: {error.strerror}")
    except ValueError as error:
        return fail(f"{name}: {error}")
    try:
        watch = Watch("127.0.0.1", options.port, history)
    except OSError as error:
        why = explain(error, "127.0.0.1", options.port)[0]
        return fail(why.replace("server.py: ", ""))
    serve(watch, Pusher(watch, None))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lessons.watch",
        description="Look at what --record has written.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", nargs="?", default=LESSON, help="a lesson if left out")
    add("port", nargs="?", type=int, default=9001, help="9001 if left out")
    add("--link", action="store_true", help=argparse.SUPPRESS)  # for link.py
    return parser


def fail(why: str) -> int:
    """Say why it cannot start; return the exit status."""
    print(f"lessons.watch: {why}", file=sys.stderr)
    return 2


def follow() -> int:
    """Serve the page for a room until that has ended; see link.py."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # It is for the room.
    try:
        place, token = sys.stdin.readline().split()
        sock = socket.create_connection(("127.0.0.1", int(place)))
        sock.sendall(token.encode() + b"\n")
        settings = json.loads(sock.makefile("rb").readline())
    except (OSError, ValueError):
        return 1  # The room has ended at once, and says why.
    key = secrets.token_urlsafe(8)

    def order(word: str) -> None:
        with contextlib.suppress(OSError):  # The room has ended.
            sock.sendall(word.encode() + b"\n")

    live = History(KEPT_TURNS, KEPT_BYTES)
    try:
        watch = Watch(live=live, order=order, key=key, **settings)
    except OSError as error:
        why = explain(error, settings["host"], settings["port"])[0]
        why = why.replace("server.py: ", "")
        answer = {"trouble": f"{why}\nTake another one: --watch=PORT"}
        sock.sendall(json.dumps(answer).encode() + b"\n")
        return 2
    lines = list(invitation(watch, key))
    sock.sendall(json.dumps({"lines": lines}).encode() + b"\n")
    sock.setblocking(False)
    watch.guests.append(Pusher(watch, sock))
    watch.run()
    return 0


def invitation(watch: Watch, key: str) -> Iterator[str]:
    """Yield what the terminal shows at the start."""
    here, *others = addresses(watch)
    yield f"Watch {here}   (it shows what everybody says)"
    for other in others:
        yield f"The class watches {other}"
    yield f"The teacher asks at {here}#key={key}"


if __name__ == "__main__":
    sys.exit(main())
