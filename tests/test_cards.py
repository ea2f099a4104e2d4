"""The cards of the lessons: their form, and what their answers claim.

A card is held against its neighbours, the plan, the worksheet and the
answers; what is typed in it is typed here, against a real server. (What the
switches and the words of --teach do: tests/test_trace.py, test_teach.py.)
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import threading
import unittest
from unittest import mock

import codec
import server
from handshake import HandshakeError
from lessons.ladder.__main__ import RUNGS, running
from lessons.observer import Observer
from tests.support import DEADLINE, MASKING_KEY, ROOT, Peer, Process, serving

FOLDER = ROOT / "lessons"
PAGES = {path: path.read_text("utf-8") for path in FOLDER.glob("**/*.md")}
PACKAGE = PAGES[FOLDER / "README.md"]
ANSWERS = PAGES[FOLDER / "answers" / "README.md"]
WORKSHEET = PAGES[FOLDER / "worksheet.md"]
CHAPTER = PACKAGE[PACKAGE.index("## The cards") : PACKAGE.index("## More to")]
# By number: all lines of each.
CARDS = {
    int(number): [title, *lines.rstrip().split("\n")]
    for title, number, lines in re.findall(
        r"^(### Card (\d+)\..*)\n((?:(?!### ).*\n)*)", CHAPTER, re.M
    )
}
ASK = re.compile(r"\bAsk ([A-Z]?\d+[a-z]?):")
ANSWER = re.compile(r"^- \*\*([A-Z]?\d+[a-z]?)\.\*\* ", re.M)
COLUMNS, ROWS = 80, 30  # of the terminal on which a card fits
TYPED = re.compile(r"`(python client\.py [^`]*)`")


def text_of(number):
    return "\n".join(CARDS[number])


def minutes(number):
    return int(re.search(r"\((\d+) minutes?\)$", CARDS[number][0])[1])


def program(page):
    """Return the Python program of a page."""
    texts = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    return next(text for text in texts if "class " in text)


class Form(unittest.TestCase):
    def test_they_are_numbered_and_fit_on_a_terminal(self):
        self.assertEqual(list(CARDS), list(range(1, len(CARDS) + 1)))
        for lines in CARDS.values():
            with self.subTest(lines[0]):
                self.assertLessEqual(len(lines), ROWS)
                for line in lines:
                    self.assertLessEqual(len(line), COLUMNS, line)

    def test_each_says_what_a_teacher_wants_to_know(self):
        for number in CARDS:
            text = text_of(number)
            with self.subTest(number):
                for field in ("Goal", "Do"):
                    self.assertEqual(text.count(f"\n- **{field}.** "), 1)
                known = "Must know" in text
                wrong = "Usual misconceptions" in text
                # The end and the exit ticket teach nothing that is new.
                self.assertEqual((known, wrong), (number not in (5, 10),) * 2)

    def test_what_must_be_known_was_taught(self):
        for cards in plan().values():
            for place, number in enumerate(cards):
                known = re.search(r"Must know\.\*\* (.*)", text_of(number))
                needed = known and re.search(r"Cards? ([\d, andto]+)", known[1])
                for other in numbers(needed[1]) if needed else ():
                    with self.subTest(number=number, other=other):
                        self.assertIn(other, cards[:place])

    def test_the_minutes_of_each_lesson(self):
        lessons = plan()
        self.assertEqual(list(lessons), [5, 20, 50, 90])
        for whole, cards in lessons.items():
            self.assertEqual(sum(map(minutes, cards)), whole)
        self.assertEqual(set().union(*lessons.values()), set(CARDS))

    def test_the_pauses_leave_time_for_the_steps(self):
        for number in CARDS:
            pauses = re.findall(r"\*Pause: (\d+) minutes?\.\*", text_of(number))
            self.assertEqual(text_of(number).count("Pause"), len(pauses))
            self.assertLess(sum(map(int, pauses)), minutes(number))

    def test_each_question_has_one_answer(self):
        asked = [each for text in PAGES.values() for each in ASK.findall(text)]
        answered = ANSWER.findall(ANSWERS)
        self.assertEqual(len(set(asked)), len(asked))
        self.assertEqual(sorted(asked), sorted(answered))
        exercises = PACKAGE[PACKAGE.index("## Exercises") :]
        solutions = ANSWERS[ANSWERS.index("## Exercises") :]
        for text in (exercises, solutions):
            part = text[: text.index("\n## ", 1)]
            self.assertEqual(re.findall(r"^(\d)\. ", part, re.M), list("12345"))

    def test_the_worksheet_has_a_row_for_each_question_of_a_card(self):
        rows = re.findall(r"^\| (\d+[a-z]) \| \| \|$", WORKSHEET, re.M)
        self.assertEqual(rows, ASK.findall(CHAPTER))

    def test_each_word_is_one_of_the_keyboard(self):
        """`short`, `recv 8` ...: what is typed into the room's terminal."""
        typed = re.findall(r"(?:[Tt]ype|then) `([a-z]+(?: \w+)?)`", CHAPTER)
        self.assertGreater(len(typed), 12)
        with Process("0", "--teach", stdin=-1) as room:  # -1: a pipe
            for word in [*(word for word in typed if word != "quit"), "quit"]:
                since = len(room.lines)
                room.process.stdin.write(word.encode() + b"\n")
                room.process.stdin.flush()
                if word != "quit":
                    with self.subTest(word):
                        shown = room.wait_for("^  Now: |is no|alone", since)
                        self.assertRegex(shown, "^  Now: ")
            self.assertEqual(room.end(), 0)


def plan():
    """Return the cards of each lesson, by its minutes."""
    rows = re.findall(r"^\| (\d+) minutes.* \| ([\d, ]+) \|$", PACKAGE, re.M)
    return {int(n): list(map(int, cards.split(", "))) for n, cards in rows}


def numbers(words):
    """Return the numbers of "2, 3 and 9", or of "1 to 3"."""
    found = list(map(int, re.findall(r"\d+", words)))
    return range(found[0], found[1] + 1) if " to " in words else found


class Claims(unittest.TestCase):
    """What the answers say is so."""

    def room(self):
        return self.enter(Process("0"))

    def enter(self, context):
        value = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return value

    def forge(self, port):
        """Say the three texts of card 12; yield each, and what is heard."""
        tab, forger = self.enter(Peer(port)), self.enter(Peer(port))
        tab.send("type=add&ming=Ana")
        self.assertIn('"madd"', tab.receive())
        texts = re.findall(r"Ask 12[abc]: `(.*)`$", text_of(12), re.M)
        self.assertEqual(len(texts), 3)
        for text in texts:
            forger.send(text)
            yield text, json.loads(tab.receive())

    def test_12_forging(self):
        forger = {"code": "2", "code1": "all"}
        heard = list(self.forge(self.room().port))
        for _, message in heard:
            self.assertNotEqual(message.pop("time"), "now")
        (braces, said), (_, added), (_, hello) = heard
        self.assertEqual(said, {"nrong": braces, **forger})
        self.assertEqual(added, {"type": "add", "name": "Ana", **forger})
        self.assertEqual(hello, {"nrong": "Hello", **forger})

    def test_12_forging_in_the_tutorial(self):
        port = self.enter(running(RUNGS[1]))
        (braces, said), (_, added), (_, hello) = self.forge(port)
        self.assertEqual(said, json.loads(braces))  # the room's own word
        self.assertEqual(added["name"], "Ana")
        self.assertEqual(hello["nrong"], "Hello")
        self.assertEqual(hello["code"], added["code"])

    def test_12_refused(self):
        port = self.room().port
        printed = [
            self.type_command(command, port)
            for command in TYPED.findall(text_of(12))
            if "--" in command
        ]
        self.assertEqual(len(printed), 3)
        for text, answer in zip(printed, ("403", "400", "1007")):
            self.assertIn(answer, text)

    def type_command(self, command, port):
        """Run one of the commands of a card; return what it says."""
        words = re.findall(r'"[^"]*"|\S+', command)[2:]
        words = [word.strip('"').replace(":9000", f":{port}") for word in words]
        return run_client(words, b"").stderr.decode()

    def test_13_the_hook_sleeps(self):
        """Ana and Ben see both, and only when the nap is over."""
        slept = []
        asleep, awake = threading.Event(), threading.Event()
        self.addCleanup(awake.set)

        def sleep(seconds):
            slept.append(seconds)
            asleep.set()
            awake.wait(DEADLINE)

        with mock.patch("time.sleep", sleep), self.running(text_of(13)) as (
            a,
            b,
        ):
            a.send("nr=nap&key=all")
            self.assertTrue(asleep.wait(DEADLINE))
            b.send("nr=hi&key=all")
            b.socket.settimeout(0.3)
            with self.assertRaises(OSError):
                b.receive()
            b.socket.settimeout(DEADLINE)
            awake.set()
            for peer in (a, b):
                self.assertEqual(peer.receive_json()["nrong"], "nap")
                self.assertEqual(peer.receive_json()["nrong"], "hi")
        self.assertEqual(slept, [3])

    def test_13_the_answer(self):
        """Only Ana's word comes late."""
        due = []
        with self.running(ANSWERS, due) as (a, b):
            a.send("nr=nap&key=all")
            b.send("nr=hi&key=all")
            for peer in (a, b):
                self.assertEqual(peer.receive_json()["nrong"], "hi")
            ((seconds, call),) = due
            self.assertEqual(seconds, 3)
            self.server.call_soon(call)
            for peer in (a, b):
                self.assertEqual(peer.receive_json()["nrong"], "nap")

    def test_your_own_program(self):
        """The sample of lessons/programs/README.md."""
        page = PAGES[FOLDER / "programs" / "README.md"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), self.running(
            page, target="/echo"
        ) as (a, b):
            for peer, key in ((a, 1), (b, 2)):
                self.assertEqual(peer.receive(), f"You are user {key}.")
                peer.send("hi")
                self.assertEqual(peer.receive(), "hi")
            with self.assertRaisesRegex(HandshakeError, "404"):
                Peer(self.server.port, target="/other")
            b.write(codec.encode_close(1000, "bye", MASKING_KEY))
            b.receive_close()
        self.assertIn("2 left: 1000 bye\n", printed.getvalue())

    @contextlib.contextmanager
    def running(self, page, due=None, target="/"):
        """Run the program of a page; yield two peers."""
        names, listen = {}, server.listen
        with mock.patch(
            "server.listen", lambda host, port: listen(host, 0)
        ), mock.patch("server.serve"):
            exec(program(page), names)
        self.server = room = names["room"]
        room.diary = lambda text: None
        if due is not None:
            room.later = lambda *timer: due.append(timer)
        with serving(room), Peer(room.port, target=target) as a, Peer(
            room.port, target=target
        ) as b:
            yield a, b

    def test_3_and_7_count_bytes(self):
        answer = r"^- \*\*(3b|7a)\.\*\* (\w+)[:,]"
        words = {"Eleven": 11, "Seven": 7, "two": 2, "four": 4, "ten": 10}
        told = dict(re.findall(answer, ANSWERS, re.M))
        for label, text in (("3b", b"Hello"), ("7a", b"H")):
            frame = codec.encode_frame(codec.TEXT, text, MASKING_KEY)
            self.assertEqual(words[told[label]], len(frame))
        answer = r"\*\*7b\.\*\* After (\w+),.*Else after (\w+), or\s+(\w+)\."
        (told,) = re.findall(answer, ANSWERS)
        for size, word in zip((125, 126, 65_536), told):
            frame = codec.encode_frame(codec.TEXT, bytes(size))
            self.assertEqual(words[word], len(frame) - size)

    def test_exercise_3(self):
        """Its frame is whole, and is heard."""
        exercise = PACKAGE[PACKAGE.index("3. Send 200") :]
        head, key, payload = re.findall(
            r"`(?:python -c \"print\()?([0-9a-f ]{11}|'41 ' \* 200)\)?\"?`",
            exercise[: exercise.index("\n4. ")],
        )
        with Peer(self.room().port) as peer:
            payload = bytes.fromhex("41" * int(payload.split()[-1]))
            peer.write(bytes.fromhex(head) + bytes.fromhex(key) + payload)
            self.assertEqual(peer.receive(), payload.decode())

    def test_exercise_4(self):
        """So many bytes come and go; one more in the port counts once."""
        (told,) = re.findall(r"^4\. .*: (\d+ in, \d+ out)", ANSWERS, re.M)
        counted = Counter()
        room = server.ChatRoom(port=0)
        room.diary = lambda text: None
        room.observer = counted
        with serving(room):
            words = ["--seed", "6455", f"ws://127.0.0.1:{room.port}/"]
            run_client(words, b"Hello\n")
        longer = len(str(room.port)) - len("9000")
        self.assertEqual(
            told, f"{counted.came - longer} in, {counted.went} out"
        )


def run_client(words, said):
    return subprocess.run(
        [sys.executable, str(ROOT / "client.py"), *words],
        input=said,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


class Counter(Observer):
    """What exercise 4 asks for."""

    def __init__(self):
        self.came = self.went = 0

    def received(self, user, data):
        self.came += len(data)

    def queued(self, user, block):
        self.went += len(block)

    def shared(self, users, block):
        self.went += len(users) * len(block)


if __name__ == "__main__":
    unittest.main()
