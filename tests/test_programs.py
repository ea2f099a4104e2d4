"""The programs of lessons/programs, each as a child process."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import unittest

from codec import CLOSE
from server import ChatRoom
from tests import browsers
from tests.support import DEADLINE, ROOT, Peer, Process, serving

BUTTONS = "document.getElementsByTagName('button')"


def start(name, *arguments):
    program = ["-m", f"lessons.programs.{name}"]
    return Process("0", *arguments, program=program, cwd=ROOT)


def setUpModule():
    # Side by side, as each of them takes a second or two to say something.
    global clock, sensor, trap, quiz
    clock, sensor, quiz = start("clock"), start("sensor"), start("quiz")
    trap = start("sensor", "--wrong", "--trace=short")


def tearDownModule():
    browsers.close_all()
    for program in (clock, sensor, trap, quiz):
        program.__exit__()


class ProgramCase(unittest.TestCase):
    def start(self, name, *arguments):
        program = start(name, *arguments)
        self.addCleanup(program.__exit__)
        return program

    def peer(self, port):
        peer = Peer(port)
        self.addCleanup(peer.close)
        return peer

    def hear(self, peer, pattern):
        """Return the first thing the room says that the pattern is found in."""
        while True:
            said = peer.receive_json()
            if re.search(pattern, str(said.get("nrong"))):
                return said

    def end(self, program, *peers):
        """Ctrl-C: a Close 1001 for all, no traceback, exit status 0."""
        program.signal(signal.SIGINT)
        for peer in peers:
            while True:
                opcode, message = peer.next()
                if opcode == CLOSE:
                    break
            self.assertEqual(message.code, 1001)
            peer.close()  # The program need not wait for an answer.
        self.assertEqual(program.end(), 0)
        self.assertEqual(program.errors, [])


class Clock(ProgramCase):
    def test_it_ticks(self):
        peer = self.peer(clock.port)
        said = [self.hear(peer, r"^It is \d\d:\d\d:\d\d\.$") for _ in "12"]
        self.assertNotEqual(said[0]["nrong"], said[1]["nrong"])
        self.assertEqual((said[0]["code"], said[0]["code1"]), (False, "all"))
        self.end(clock, peer)


class Sensor(ProgramCase):
    def test_a_thread_measures(self):
        peer = self.peer(sensor.port)
        self.hear(peer, r"^\d\d\.\d degrees$")
        self.end(sensor, peer)

    def test_the_trap(self):
        """Measured in the loop, everybody waits; the trace says so."""
        peer = self.peer(trap.port)
        self.hear(peer, r"^\d\d\.\d degrees$")
        line = trap.wait_for("This turn took")
        self.assertRegex(line, r"This turn took 1\.\d\d s: everybody waited\.")


class Bridge(ProgramCase):
    def setUp(self):
        self.far = ChatRoom(port=0)
        self.far.diary = lambda text: None
        running = serving(self.far)
        running.__enter__()
        self.addCleanup(running.__exit__, None, None, None)
        self.bridge = self.start("bridge", f"ws://127.0.0.1:{self.far.port}/")
        self.here = self.peer(self.bridge.port)
        self.there = self.peer(self.far.port)
        self.here.send("type=add&ming=Ana")
        self.there.send("type=add&ming=Bo")
        self.bridge.wait_for("the other room is there")

    def test_both_ways(self):
        self.there.send("nr=hello, you%26me&key=all")
        said = self.hear(self.here, "hello")
        self.assertEqual(said["nrong"], "Bo, over there: hello, you&me")
        self.assertIs(said["code"], False)
        self.here.send("nr=good %26 well&key=all")
        self.assertEqual(self.hear(self.here, "good")["code"], "1")
        said = self.hear(self.there, "good")
        self.assertEqual(said["nrong"], "Ana says: good & well")
        self.end(self.bridge, self.here)
        removed = self.hear(self.there, r"^\d+$")
        self.assertEqual(removed["type"], "rmove")

    def test_whispers_and_the_bridges_own_words_stay(self):
        self.here.send("nr=psst&key=1")
        self.there.send("nr=psst&key=1")
        self.there.send(b"\x89PNG")
        self.there.send("[" * 100_000)
        self.there.receive_json()
        self.there.send('{"type":"add"}')
        self.there.send("nr=last&key=all")
        said = self.hear(self.here, "over there")
        self.assertEqual(said["nrong"], 'Bo, over there: {"type":"add"}')
        self.assertIn("last", self.hear(self.here, "over there")["nrong"])
        self.here.send("nr=" + "x" * 10_001 + "&key=all")
        self.hear(self.here, "too long")

    def test_two_bridges_do_not_go_round(self):
        back = self.start("bridge", f"ws://127.0.0.1:{self.bridge.port}/")
        back.wait_for("the other room is there")
        third = self.peer(back.port)
        third.send("nr=hello&key=all")
        self.hear(self.here, "^1 says: hello$")
        for number in "123":  # It would be back by now.
            self.there.send(f"nr={number}&key=all")
            self.hear(self.here, f"over there: {number}$")
            self.here.send(f"nr={number}&key=all")
            self.hear(third, f"Ana, over there: {number}$")
        self.here.send("nr=last&key=all")
        said = self.here.receive_json()["nrong"]
        while said != "last":
            self.assertNotIn("hello", said)
            said = self.here.receive_json()["nrong"]

    def test_the_other_room_goes(self):
        in_room = self.far.port
        self.far.stop()
        self.bridge.wait_for("the other room: 1001 the room closes")
        self.here.send("nr=alone&key=all")
        self.assertEqual(self.hear(self.here, "alone")["code"], "1")
        self.hear(self.here, "not there")
        again = ChatRoom(port=in_room)
        again.diary = lambda text: None
        with serving(again), contextlib.closing(Peer(in_room)) as self.there:
            self.there.send("type=add&ming=Bo")
            self.bridge.wait_for("the other room is there")
            self.hear(self.here, "The other room is there")
            self.here.send("nr=again&key=all")
            self.hear(self.there, "^Ana says: again$")


class Quiz(ProgramCase):
    def test_a_round(self):
        game = self.start("quiz", "--seconds", "0.3")
        peers = [self.peer(game.port) for _ in range(3)]
        for peer in peers:
            first = self.told(peer, "question")
            self.assertEqual(len(first["answers"]), 4)
            self.assertNotIn("right", first)
        for peer, choice in zip(peers, ("1", "0", "nonsense")):
            peer.send(choice)
        peers[0].send("3")  # one may change one's mind
        peers[0].send("1")
        peers[1].send(b"1")  # no answer
        results = [self.told(peer, "right") for peer in peers]
        self.assertEqual(results[0]["right"], 1)
        self.assertEqual(results[0]["counts"], [1, 1, 0, 0])
        self.assertEqual([each["score"] for each in results], [1, 0, 0])
        self.assertEqual([r["choice"] for r in results], [1, 0, None])
        self.end(game, *peers)

    def told(self, peer, what):
        while True:
            fields = json.loads(peer.receive())
            if what in fields:
                return fields

    def test_its_page(self):
        peer = Peer(quiz.port, open=False)
        self.addCleanup(peer.close)
        peer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = peer.read_to_end()
        self.assertIn(b"<title>Quiz</title>", answer)


class QuizPage(browsers.Scenarios):
    def test_a_round(self):
        game = self.start("quiz", "--seconds", "2")
        tab = self.browser.open(f"http://127.0.0.1:{game.port}/")
        self.addCleanup(tab.close)
        peer = self.peer(game.port)
        tab.wait_for(f"{BUTTONS}.length === 4 && !{BUTTONS}[0].disabled")
        for number in (0, 1):  # one may change one's mind
            tab.run(f"{BUTTONS}[{number}].click()")
        pressed = f"[...{BUTTONS}].map(b => b.getAttribute('aria-pressed'))"
        expected = ["false", "true", "false", "false"]
        self.assertEqual(tab.run(pressed), expected)
        peer.send("0")
        tab.wait_for(f"{BUTTONS}[0].disabled")
        shown = tab.run(f"[...{BUTTONS}].map(b => b.textContent)")
        self.assertTrue(shown[0].endswith(" (1)"), shown)
        self.assertTrue(shown[1].endswith(" (1)"), shown)
        right = tab.run("document.querySelectorAll('.right').length")
        self.assertEqual(right, 1)
        self.assertEqual(tab.errors, [])
        game.process.kill()
        tab.wait_for("document.body.innerText.includes('We look for it')")


class Mistakes(ProgramCase):
    def test_what_was_typed_wrongly(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            mistakes = (
                f"clock {port}", "clock 99999", "clock x", "bridge 0",
                "bridge 0 http://127.0.0.1/", "quiz 0 --seconds 0x",
                "sensor --trace=long", "clock --page x",
            )  # fmt: skip
            started = [self.run_wrongly(words.split()) for words in mistakes]
            for words, process in zip(mistakes, started):
                with self.subTest(words):
                    out, errors = process.communicate(timeout=DEADLINE)
                    self.assertEqual(process.returncode, 2, errors)
                    self.assertNotIn(b"Traceback", errors)
                    self.assertNotIn(b"server.py", errors)
                    self.assertEqual(out, b"")

    def run_wrongly(self, words):
        name, *arguments = words
        return subprocess.Popen(
            [sys.executable, "-m", f"lessons.programs.{name}", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


browsers.in_each_browser(globals(), ProgramCase)

if __name__ == "__main__":
    unittest.main()
