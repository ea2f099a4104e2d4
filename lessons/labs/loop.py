"""Lab 6: the loop, as a program, looked at with sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import random
import socket
import struct
import time
from typing import Any, Callable, Iterator

import codec
import handshake
from lessons.labs.parts import Check, Finding, Lab, body_of
from lessons.labs.run import PATIENCE, ROOT, STARTING, Child, Verdict
from lessons.slow import free_port

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 s1.3
MASKING_KEY = bytes.fromhex("37fa213d")  # RFC 6455 s5.7
IDLE = 0.4  # seconds
MOST_CALLS = 10  # of select() in that time; with PATIENCE it is one
SOURCE = os.path.join(ROOT, "lessons", "ladder", "2_codec.py")
# What a student's file says in place of the rung's own docstrings.
DOCS = {
    "": """
Lab 6: the loop. A room with one select(), on handshake.py and codec.py.

    python lab6.py 9000

Then open client.html from disk, in two tabs. All is here but turn() and
read(). Write what is missing, save, then: python -m lessons.lab 6

What it gives up, to stay small: sendall() waits until one user has taken
everything, and meanwhile all others wait. server.py mends that, and more.
""",
    "turn": """
Wait until somebody is ready, and serve each of them once.

In:  self.listener, a socket; self.users, a list of users.
Out: nothing. But who knocked is a User in self.users; each user who
     has sent something was given to self.read(), once; and whoever
     is "gone" by now is out of self.users, the socket closed.

select.select(read, write, other, seconds) takes three lists. It
sleeps until somebody in them is ready, or until so many seconds are
over, and returns three lists: of those who are ready. Half a second
is good: on Windows, Ctrl-C does not wake it. If the listener is
ready, its accept() returns (a new socket, an address). What that
one sends comes later.

RFC 6455 section 4. An example: of [listener, Ana, Bo] select()
gives back [listener, Bo]. So somebody is accepted, and Bo is read
from, once. Not Ana: her recv() would wait, and everybody with it.
""",
    "read": """
Read once from a user who is ready; who breaks a rule is dropped.

In:  user.
Out: nothing. But what came went to self.shake_hands(user, data), if
     user.state is "new", or to self.hear(user, data), if it is
     "open". Who hung up, was torn off or broke a rule: from now on
     user.state is "gone".

user.socket.recv(65536) returns what is there: from one byte to so
many; b"" means that the user hung up. It raises OSError if the
connection was torn off. Who breaks a rule: shake_hands() raises
handshake.HandshakeError, and hear() raises codec.ProtocolError.

RFC 6455 section 6.2: what comes is a stream. An example: of a frame
of 11 bytes, recv() returns seven. hear() gets them at once: the
decoder in there keeps them. In a later turn it gets the other four.
""",
}
# Two lines that look as if they belonged there: the first never sleeps, the
# second is the tutorial's, but an empty ping has six bytes.
STRANGERS = {
    "turn": "readable, _, _ = select.select(ask_read, [], [], 0)",
    "read": "    if len(data) < 7:",
}


def puzzle(source: str) -> dict[str, str]:
    """Return the lines of turn() and read() as comments, shuffled."""
    chance = random.Random(6455)
    bodies = {}
    for name, stranger in STRANGERS.items():
        lines = [*body_of(source, name), stranger]
        lines = [line for line in lines if not line.strip().startswith("#")]
        chance.shuffle(lines)
        notes = [*NOTES, *(f"#   {line}" for line in lines), "pass"]
        bodies[name] = "\n".join(notes)
    return bodies


NOTES = (
    "# Its lines, shuffled. Each is indented as it has to be, but one of",
    "# them does not belong here at all.",
    "#",
)


# ---- a user of the room -----------------------------------------------------


class Failed(Exception):  # noqa: N818 - it is no error of ours
    """What came in place of what was expected: one sentence."""


class Peer:
    """A user with a blocking socket."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.decoder = codec.Decoder(masked=False)
        self.events: list[Any] = []

    def write(self, data: bytes) -> None:
        """Send these very bytes."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Failed(f"{self.name} was hung up on") from error

    def read(self) -> bytes:
        """Return what one read brings; Failed if there is nothing."""
        try:
            data = self.socket.recv(65536)
        except socket.timeout:
            nothing = f"{self.name} got nothing for {PATIENCE:.0f} seconds"
            raise Failed(nothing) from None
        except OSError:
            data = b""
        if not data:
            raise Failed(f"{self.name} was hung up on")
        return data

    def shake_hands(self) -> None:
        """Ask, and wait for the 101."""
        host = f"127.0.0.1:{self.socket.getpeername()[1]}"
        self.write(handshake.request_head(host, "/", KEY, {}))
        received = b""
        while True:
            received += self.read()
            try:
                taken = handshake.take_response(received)
                if taken:
                    handshake.check_response(taken[0], KEY)
                    self.events += self.decoder.feed(taken[1])
                    return
            except handshake.HandshakeError as error:
                raise Failed(f"{self.name} got: {error.reason}") from error

    def say(self, text: str) -> None:
        """Send a text."""
        self.write(codec.encode_message(text, MASKING_KEY))

    def hear(self, opcode: int, expected: Any) -> None:
        """Wait for a message; Failed if it is another one."""
        while not self.events:
            try:
                self.events += self.decoder.feed(self.read())
            except codec.ProtocolError as error:
                raise Failed(f"{self.name} got {error.reason}") from error
        got_opcode, got = self.events.pop(0)
        if got_opcode == codec.PONG != opcode:
            self.hear(opcode, expected)  # It is a surplus, and harmless.
        elif (got_opcode, got) != (opcode, expected):
            raise Failed(f"{self.name} got {ascii(got)[:40]}")

    def tear_off(self) -> None:
        """Leave without a word, by a RST: recv() raises at the other end."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()


# ---- what is looked at ------------------------------------------------------


class Stage:
    """The program, and who is connected to it."""

    def __init__(self, child: Child, port: int) -> None:
        self.child = child
        self.port = port
        self.peers: dict[str, Peer] = {}

    def enter(self, name: str) -> Peer:
        """Connect one more."""
        self.peers[name] = Peer(name, self.port)
        return self.peers[name]

    def talk(self, speaker: str, text: str, *listeners: str) -> None:
        """Let one speak, and all of these hear it."""
        self.peers[speaker].say(text)
        for name in listeners:
            self.peers[name].hear(codec.TEXT, text)

    def used(self) -> tuple[int, float]:
        """Return how often select() was called, and the seconds computed."""
        stdin = self.child.process.stdin
        assert stdin
        with contextlib.suppress(OSError):  # It has ended: next() tells.
            stdin.write(b"?")
            stdin.flush()
        line = self.child.next(STARTING)
        if not line or line[0] != "used":
            raise Failed(line[1] if line else "it has ended")
        return line[1], line[2]

    def stay_idle(self) -> None:
        """Fail if it does something while nobody does."""
        calls, seconds = self.used()
        time.sleep(IDLE)
        more_calls, more_seconds = self.used()
        if more_calls - calls > MOST_CALLS:
            count = more_calls - calls
            raise Failed(f"select() was called {count:,} times in {IDLE} s")
        if more_seconds - seconds > IDLE / 2:
            raise Failed(f"in {IDLE} s it computed all the time")


def accepts(stage: Stage) -> None:
    """Ana comes, then Bo."""
    stage.peers["Ana"].shake_hands()
    stage.enter("Bo").shake_hands()


def broadcasts(stage: Stage) -> None:
    """Each is heard by both."""
    stage.talk("Ana", "Hello", "Ana", "Bo")
    stage.talk("Bo", "Hello, Ana", "Ana", "Bo")


def idles(stage: Stage) -> None:
    """Nobody says anything."""
    stage.stay_idle()


def takes_its_time(stage: Stage) -> None:
    """Somebody connects and says nothing, not even a request."""
    stage.enter("Cy")
    stage.talk("Ana", "Who is there?", "Ana", "Bo")


def keeps_the_rest(stage: Stage) -> None:
    """Ana sends half a frame; Bo speaks; then Ana's other half comes."""
    frame = codec.encode_message("cut in two", MASKING_KEY)
    stage.peers["Ana"].write(frame[:9])
    stage.talk("Bo", "meanwhile", "Ana", "Bo")
    stage.peers["Ana"].write(frame[9:])
    for name in ("Ana", "Bo"):
        stage.peers[name].hear(codec.TEXT, "cut in two")


def survives_a_ping(stage: Stage) -> None:
    """Bo sends an empty ping, six bytes, and then he speaks."""
    stage.peers["Bo"].write(codec.encode_frame(codec.PING, b"", MASKING_KEY))
    stage.stay_idle()
    stage.talk("Bo", "I am still here", "Ana", "Bo")


def lets_go(stage: Stage) -> None:
    """Ana hangs up; Bo talks on, and then nobody says anything."""
    stage.peers["Ana"].socket.close()
    stage.talk("Bo", "Ana has gone", "Bo")
    stage.stay_idle()


def lets_go_of_one_torn_off(stage: Stage) -> None:
    """Dora comes and is torn off; Bo talks on."""
    stage.enter("Dora").shake_hands()
    stage.peers["Dora"].tear_off()
    stage.stay_idle()  # A send to Dora would take the error away from recv().
    stage.talk("Bo", "Dora has gone", "Bo")
    stage.talk("Bo", "and we go on", "Bo")


def drops_who_breaks_a_rule(stage: Stage) -> None:
    """Eve sends no request but junk, Fay a frame without a mask."""
    stage.enter("Eve").write(b"junk\r\n\r\n")
    stage.talk("Bo", "Who was Eve?", "Bo")
    stage.enter("Fay").shake_hands()
    stage.peers["Fay"].write(codec.encode_message("no mask"))
    stage.talk("Bo", "And who was Fay?", "Bo")
    stage.stay_idle()


STEPS: tuple[tuple[Callable[[Stage], None], str, str, Finding], ...] = (
    (
        accepts,
        "two users come, and each gets its 101",
        "each gets a 101",
        Finding(
            "accepts",
            "s4.2.2: who asks for a WebSocket gets an answer.",
            "Who is in your list for select(), and is recv() called once?",
        ),
    ),
    (
        broadcasts,
        "what one says is heard by both",
        "both hear it",
        Finding(
            "broadcast",
            "s6.2: a frame is heard when its bytes have come.",
            'Does what you read go to hear(), once the state is "open"?',
        ),
    ),
    (
        idles,
        "when nobody speaks, the loop sleeps",
        "it sleeps in select()",
        Finding(
            "spins",
            "Not a rule of the RFC: a loop that never sleeps takes a whole"
            " processor.",
            "How many seconds may your select() sleep?",
        ),
    ),
    (
        takes_its_time,
        "one who connects and is silent holds up nobody",
        "both hear Ana",
        Finding(
            "silent",
            "Not a rule of the RFC: only where select() says so, recv() does"
            " not wait.",
            "Which call in turn() could wait for the newcomer's first byte?",
        ),
    ),
    (
        keeps_the_rest,
        "a message cut in two, another one between",
        "both hear Bo's message, then Ana's",
        Finding(
            "cut",
            "s6.2: TCP cuts where it likes, and the others go on meanwhile.",
            "Do you wait for the other half, or does the decoder keep it?",
        ),
    ),
    (
        survives_a_ping,
        "an empty ping, six bytes, is no hang-up",
        "both hear Bo",
        Finding(
            "six bytes",
            's5.5.2: a ping is answered. Only b"" means that one hung up.',
            "Which is the shortest frame that a user can send?",
        ),
    ),
    (
        lets_go,
        "one hangs up: the others go on, and the loop sleeps again",
        "Bo hears his own message, and the loop sleeps again",
        Finding(
            "gone",
            "Not a rule of the RFC: who has gone is readable for ever.",
            "What does recv() return for Ana now, and which line takes her"
            " out of self.users?",
        ),
    ),
    (
        lets_go_of_one_torn_off,
        "one is torn off: recv() raises, and the others go on",
        "Bo hears his own messages",
        Finding(
            "torn off",
            "s7.2.1: a connection may break off at any moment.",
            "Which exception does recv() raise, and who catches it?",
        ),
    ),
    (
        drops_who_breaks_a_rule,
        "two break a rule: they are dropped, and the others go on",
        "Bo hears his own messages, and the loop sleeps",
        Finding(
            "rules",
            "s7.1.7: who breaks a rule is dropped. Nobody else is.",
            "Which exceptions do shake_hands() and hear() raise?",
        ),
    ),
)


def none() -> Iterator[Any]:
    """Yield nothing: a step is no list of cases."""
    return iter(())


LAB = Lab(
    6,
    "turn",
    "s4, s6.2",
    30,
    ("turn", "read"),
    tuple(Check(step.__name__, title, none, f) for step, title, _, f in STEPS),
)


TRIES = 3  # to find a port


def check_program(path: str) -> Verdict:
    """Start a student's program, and look at it step by step."""
    verdict = check_at(path, free_port())
    tries = 1
    while f" {errno.EADDRINUSE}]" in verdict.trouble and tries < TRIES:
        # Meanwhile somebody else got that port: not the student's fault.
        verdict = check_at(path, free_port())
        tries += 1
    return verdict


def check_at(path: str, port: int) -> Verdict:
    """Do so, with this port for it to listen on."""
    with Child("6", path, str(port)) as child:
        stage = Stage(child, port)
        try:
            wait_for_start(stage)
        except Failed as failed:
            return Verdict(trouble=str(failed))
        try:
            return look(stage)
        finally:
            for peer in stage.peers.values():
                peer.socket.close()


def wait_for_start(stage: Stage) -> None:
    """Wait until it listens, and Ana can connect."""
    stage.child.next(STARTING)  # "loading"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(queue.Empty):
            line = stage.child.next(0.02)
            raise Failed(line[1] if line else "It ended at once.")
        with contextlib.suppress(OSError):
            stage.enter("Ana")
            return
    raise Failed(f"It does not listen on the port it was given: {stage.port}.")


def look(stage: Stage) -> Verdict:
    """Do one step after the other, up to the first that fails."""
    for number, (step, _, expected, finding) in enumerate(STEPS):
        try:
            step(stage)
        except (Failed, queue.Empty, OSError) as error:
            given = [("step", " ".join((step.__doc__ or "").split()))]
            got = f"{error or 'it did not answer'}."
            with contextlib.suppress(queue.Empty):
                line = stage.child.next(0.3)  # perhaps it has ended by itself
                got = line[1] if line else "it has ended."
            check = LAB.checks[number]
            return Verdict(number, check, given, expected, got, finding)
    return Verdict(len(STEPS))
