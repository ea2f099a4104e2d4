"""lessons/watch.html in real browsers: see, predict, ask, play back.

What is drawn comes from one object, which the page's model() returns. So most
tests look at that, and some at what one sees of it.
"""

from __future__ import annotations

import json
import re
import tempfile
import unittest
from pathlib import Path

from codec import CLOSE, TEXT
from tests import browsers
from tests.support import ROOT, Peer, Process, wait_until
from tests.test_browser import CONTRAST, SMALLEST_LETTERS

LESSON = ROOT / "lessons" / "lesson.jsonl"
MARKUP = "<img src=x onerror=hacked=1>"
READY = """model().tiles.filter(
    ({read, write}) => read.ready || write.ready).map(({id}) => id)"""
TILES = "model().tiles.map(({id}) => id)"
# The same in a room and in its record: all of it, but where one stands.
DRAWN = """number => {
    show(number);
    const {turn, phases, code, heading, tiles, more, events, details, time} =
        model();
    return JSON.stringify([turn, phases, code, heading, tiles, more, events,
        details, time.words]);
}"""
NUMBERS = "turns.map(({turn}) => turn)"
# It is drawn with the next frame of the screen; a click shall not wait for it.
PRESS = """words => { draw(model());
    [...document.querySelectorAll('button')].find(button =>
        button.checkVisibility() && button.innerText.startsWith(words)
    ).click(); }"""
TAP = """id => { draw(model());
    [...document.querySelectorAll('#tiles button')].find(tile =>
        tile.innerText.split(/\\s/).includes(id)).click(); }"""
CHOOSE = """(id, value) => { const field = document.getElementById(id);
    field.value = value; field.dispatchEvent(new Event('change')); }"""
SEEN = "document.body.innerText"
# What cannot be reached at the right side of the window.
OUTSIDE = """[...document.querySelectorAll('button, input, select')]
    .filter(element => element.checkVisibility() && !element.closest('#line')
      && element.getBoundingClientRect().right > innerWidth + 1)
    .map(element => element.id || element.innerText)"""
WIDTHS = """['html', 'body'].map(name => document.querySelector(name)).map(
    element => element.scrollWidth - element.clientWidth)"""
LOWEST_TILE = """Math.min(...[...document.querySelectorAll('#tiles button')]
    .map(tile => tile.getBoundingClientRect().height))"""


def tearDownModule():
    browsers.close_all()


class Room(Process):
    """python server.py --watch: its port, the page's, the teacher's key."""

    def __init__(self, *more, port="0", page="0"):
        super().__init__(port, f"--watch={page}", *more)
        self.page = self.wait_for(r"^Watch ").split()[1]
        self.key = self.wait_for("#key=").split("#key=")[1]
        self.port = int(re.search(r":(\d+)/", self.wait_for("^Open "))[1])


class PageTest(browsers.Scenarios):
    """What its scenarios have in common."""

    def room(self, *more, **options):
        """Return a room that is watched."""
        room = Room(*more, **options)
        room.__enter__()
        self.addCleanup(room.__exit__)
        return room

    def user(self, room, name="", **options):
        """Return a user of the room, with a name if there is one."""
        user = Peer(room.port, **options)
        self.addCleanup(user.close)
        if name:
            user.send(f"type=add&ming={name}")
            self.assertEqual(json.loads(user.receive())["type"], "madd")
        return user

    def record(self, path=LESSON):
        """Return the server that plays a record back."""
        program = ["-m", "lessons.watch"]
        process = Process(str(path), "0", program=program, cwd=ROOT)
        process.__enter__()
        self.addCleanup(process.__exit__)
        return process

    def open(self, url, **options):
        """Open a page, and wait until it is connected."""
        tab = self.browser.open(url, **options)
        self.addCleanup(tab.close)
        tab.wait_for("typeof model === 'function' && model().state === 'open'")
        return tab

    def lesson(self, **options):
        """Open the recorded lesson."""
        tab = self.open(f"http://127.0.0.1:{self.record().port}/", **options)
        tab.wait_for("turns.length === 44")
        self.wait_for(tab, "model().mode === 'pause' && !settling")
        return tab

    def wait_for(self, tab, script, *arguments):
        tab.wait_for(script, *arguments)

    def model(self, tab, name):
        """Return one of the things that are drawn."""
        # As JSON: Firefox would cut off what lies deep in an object.
        return json.loads(tab.run(f"JSON.stringify(model().{name} ?? null)"))


class LiveTest(PageTest):
    def test_what_happens_is_seen(self):
        room = self.room()
        tab = self.open(room.page)
        self.assertTrue(self.model(tab, "isEmpty"))
        self.assertIn("nobody has come yet", tab.run(SEEN))
        ana = self.user(room, "Ana")
        ana.send("nr=Hello&key=all")
        tab.wait_for("model().details?.text === '\"nr=Hello&key=all\"'")
        tab.wait_for(f"{SEEN}.includes('#1 Ana')")
        self.assertEqual(self.model(tab, "mode"), "live")
        self.assertEqual(tab.run(READY), ["#1"])
        phases = self.model(tab, "phases")
        self.assertEqual([each["number"] for each in phases], [*range(1, 7)])
        source = (ROOT / "server.py").read_text("utf-8").splitlines()
        for phase in phases:
            self.assertTrue(phase["calls"])
            for call in phase["calls"]:
                found = source[call["line"] - 1].strip()
                self.assertEqual(found, call["code"])
        self.assertEqual(phases[3]["count"], "1 read, 1 frame")
        # Each bit, in its colour; and what it means.
        fields = self.model(tab, "details.fields")
        self.assertEqual(
            [field["part"] for field in fields], ["header"] * 5 + ["key"]
        )
        tab.run("draw(model())")
        for words in ("last (or only) piece", "masking key", "XOR"):
            self.assertIn(words, tab.run(SEEN))
        ana.frame(CLOSE, b"\x0f\xa1bye")
        tab.wait_for(f"{SEEN}.includes('close code 4001')")
        self.assertEqual(tab.errors, [])

    def test_a_whisper_is_a_length(self):
        room = self.room()
        tab = self.open(room.page)
        ana, ben = self.user(room, "Ana"), self.user(room, "Ben")
        ana.send("nr=topsecret&key=2")
        ben.receive()
        tab.wait_for("""model().events.some(({event}) =>
            event.notes?.[0]?.startsWith('perhaps for one only: its '))""")
        everything = tab.run("JSON.stringify(turns)")
        for form in ("topsecret", b"topsecret".hex(" "), b"topsecret".hex()):
            self.assertNotIn(form, everything)

    def test_what_users_write_is_text(self):
        room = self.room()
        tab = self.open(room.page)
        ana = self.user(room, MARKUP[:20])
        ana.send(f"{MARKUP}")
        tab.wait_for(f"""text => {SEEN}.includes(text)""", MARKUP)
        tab.run("draw(model())")
        self.assertIn(MARKUP[:20], tab.run(SEEN))
        self.assertEqual(tab.run("typeof hacked"), "undefined")

    def test_the_end_of_the_room(self):
        room = self.room()
        tab = self.open(room.page)
        ana = self.user(room, "Ana")
        tab.wait_for("turns.length >= 3")
        known = tab.run(NUMBERS)
        room.process.kill()
        tab.wait_for("model().status.startsWith('Ended')")
        self.assertEqual(tab.run(NUMBERS), known)
        tab.run("show(1)")
        self.assertEqual(tab.run(READY), ["L"])
        # It tries again, and is there when the room is there again.
        ana.close()
        page = re.search(r":(\d+)/", room.page)[1]
        tab.wait_for("model().countdown.startsWith('Trying again')")
        again = self.room(page=page)
        tab.run("connect()")
        tab.wait_for("model().state === 'open' && turns.length === 0")
        self.user(again, "Ben")
        tab.wait_for("turns.length >= 3")


class TimeTest(PageTest):
    def test_back_and_forward(self):
        tab = self.lesson()
        self.assertEqual(self.model(tab, "turn"), 1)
        for key, turn in (
            ("ArrowRight", 2),
            ("ArrowRight", 3),
            ("ArrowLeft", 2),
        ):
            tab.press(key)
            self.assertEqual(self.model(tab, "turn"), turn, key)
        tab.run(CHOOSE, "number", "28")
        tab.wait_for("model().turn === 28")
        cleo = tab.run("model().tiles.find(({id}) => id === '#3')")
        self.assertEqual(cleo["write"]["words"], "asked, cannot send")
        self.assertEqual(cleo["outbox"], [8048, 8048])
        tab.run("show(1)")
        tab.run(CHOOSE, "speed", "0.5")
        tab.press(" ")
        self.assertEqual(self.model(tab, "mode"), "play")
        tab.wait_for("model().turn >= 3")
        tab.press(" ")
        self.assertEqual(self.model(tab, "mode"), "pause")

    def test_slow_enough_to_see_the_phases(self):
        tab = self.lesson()
        tab.run("show(12)")
        tab.run(CHOOSE, "speed", "1")
        tab.run("window.phases = []; drawSoon()")
        tab.press(" ")
        tab.wait_for("""(() => {
            phases.push(model().phases.find(({now}) => now)?.number);
            return phases.lastIndexOf(6) > phases.indexOf(1)
                && phases.includes(1);
        })()""")
        seen = tab.run("phases.slice(phases.indexOf(1))")
        self.assertEqual(seen, sorted(seen))
        self.assertGreater(len(set(seen)), 3)

    def test_paused_while_more_comes(self):
        room = self.room()
        tab = self.open(room.page)
        ana = self.user(room, "Ana")
        tab.wait_for("turns.length >= 3")
        tab.press("ArrowLeft")
        turn = self.model(tab, "turn")
        ana.send("nr=more&key=all")
        tab.wait_for("model().time.newer >= 2")
        self.assertEqual(self.model(tab, "turn"), turn)
        tab.press("l")
        tab.wait_for("model().time.newer === 0 && model().mode === 'live'")

    def test_long_turns_and_gaps_are_seen(self):
        tab = self.lesson()
        tab.run("""addTurn({...turns[43], turn: 47, took: 0.2}, 1000)""")
        tab.run("show(47)")
        words = ", ".join(self.model(tab, "time.words"))
        self.assertIn("took 0.20 s: long, everybody waited", words)
        self.assertIn("2 turns before it not shown", words)
        self.assertTrue(tab.run("sumOf(current()).isLong"))
        tab.run("show(13)")
        sums = tab.run(
            "(({read, written}) => [read, written])(sumOf(current()))"
        )
        self.assertEqual(sums[0], 62)
        self.assertGreater(sums[1], 200)

    def test_only_mine(self):
        tab = self.lesson()
        tab.run("show(12)")
        count = len(self.model(tab, "events"))
        tab.run(CHOOSE, "mine", "#3")
        tab.wait_for("model().mine === '#3'")
        self.assertLess(len(self.model(tab, "events")), count)
        tab.reload()
        tab.wait_for("turns.length === 44 && model().mine === '#3'")

    def test_a_record_is_drawn_as_the_room_was(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "record")
            room = self.room("--record", str(path), "--recv-size", "9")
            live = self.open(room.page)
            ana, ben = self.user(room, "Ana"), self.user(room, "Ben")
            ana.send("nr=Hello&key=all")
            ben.frame(TEXT, b"Hel", fin=False)
            ben.receive()
            ana.frame(CLOSE, b"\x03\xe8bye")
            ana.receive(), ana.receive()
            ben.receive()
            live.wait_for("""turns[turns.length - 1].users.some(
                ({state}) => state === 'gone')""")
            numbers = live.run(NUMBERS)
            room.process.terminate()
            wait_until(lambda: b'"ended"' in path.read_bytes(), "the end")
            url = f"http://127.0.0.1:{self.record(path).port}/"
            again = self.open(url)
            again.wait_for("number => place(number) > 0", numbers[-1])
            for number in numbers:
                self.assertEqual(
                    again.run(DRAWN, number), live.run(DRAWN, number)
                )
            self.assertGreater(len(numbers), 20)


class PredictTest(PageTest):
    def test_alone(self):
        tab = self.lesson()
        tab.run("show(11)")
        tab.press("p")
        tab.wait_for("model().question?.number === 12")
        words = self.model(tab, "banner.words")
        self.assertIn("Ana and Ben press Send at the same moment.", words)
        # Nothing gives the answer away.
        self.assertEqual(self.model(tab, "events"), [])
        self.assertEqual(tab.run(READY), [])
        self.assertEqual(tab.run(TILES), ["L", "#1", "#2"])
        tab.run(TAP, "#1")
        tab.run(PRESS, "Show")
        tab.wait_for("model().banner.kind === 'no'")
        guesses = tab.run("model().tiles.map(({guess}) => guess?.result)")
        self.assertEqual(guesses, [None, "right", "missed"])
        self.assertEqual(self.model(tab, "score"), {"right": 0, "of": 1})
        self.assertFalse(tab.run("document.getElementById('help').open"))
        tab.run(PRESS, "Next")
        tab.wait_for("model().question?.number === 13")
        tab.run(TAP, "#1")
        tab.run(TAP, "#2")
        tab.run(TAP, "#2")
        tab.press("Enter")
        tab.wait_for("model().banner?.kind === 'yes'")
        self.assertEqual(self.model(tab, "score"), {"right": 1, "of": 2})
        # Back: the answer is there, and does not count again.
        tab.press("ArrowLeft")
        tab.wait_for("model().turn === 12 && !model().question")
        self.assertEqual(self.model(tab, "score"), {"right": 1, "of": 2})

    def test_why_not(self):
        tab = self.lesson()
        tab.run("show(27)")
        tab.press("p")
        tab.wait_for("model().question?.number === 28")
        for name in ("L", "#2", "#3"):
            tab.run(TAP, name)
        tab.run(PRESS, "Show")
        tab.wait_for("model().banner?.kind === 'no'")
        words = tab.run("model().tiles.map(({guess}) => guess?.words)")
        for said, why in zip(
            words, ("nobody had knocked", "missed", "is empty", "is full")
        ):
            self.assertIn(why, said)

    def test_on_a_phone(self):
        tab = self.lesson(width=360, height=640)
        tab.run("show(11)")
        tab.run(PRESS, "Predict")
        tab.wait_for("model().question?.number === 12")
        tab.run("draw(model())")  # not with the next frame of the screen
        self.assertEqual(tab.run(WIDTHS), [0, 0])
        self.assertEqual(tab.run(OUTSIDE), [])
        self.assertGreaterEqual(tab.run(LOWEST_TILE), 40)
        tab.run(TAP, "#1")
        tab.run(TAP, "#2")
        tab.run(PRESS, "Show")
        tab.wait_for("model().banner?.kind === 'yes'")


class TogetherTest(PageTest):
    def setUp(self):
        self.room_ = self.room()
        self.ana = self.user(self.room_, "Ana")
        self.ben = self.user(self.room_, "Ben")
        self.ana.receive()
        self.teacher = self.open(f"{self.room_.page}#key={self.room_.key}")
        self.teacher.wait_for("model().teacher")

    def students(self, count):
        tabs = [self.open(self.room_.page) for _ in range(count)]
        for tab in tabs:
            tab.wait_for("turns.length >= 6 && !settling")
        return tabs

    def ask(self):
        """Let the teacher ask, and Ana say something."""
        self.teacher.run(PRESS, "Ask")
        self.teacher.wait_for("model().teacher.go")
        self.ana.send("nr=now&key=all")
        self.teacher.wait_for("model().question")

    def test_ask_vote_discuss_reveal(self):
        self.assertNotIn("key", self.teacher.run("location.href"))
        students = self.students(5)
        self.ask()
        number = self.model(self.teacher, "question.number")
        for tab, pick in zip(students, ("#1", "#2", "L", "#1", "#2")):
            tab.wait_for("model().question?.together")
            self.assertFalse(self.model(tab, "teacher"))
            tab.run(f"pick('{pick}'); answer()")
        self.teacher.wait_for("model().teacher.words.startsWith('5 of 5')")
        votes = "model().tiles.map(({votes}) => votes.map(v => v.number))"
        self.teacher.wait_for(f"String({votes}) === '1,2,2'")
        self.assertEqual(students[0].run(votes), [[], [], []])
        self.teacher.run(PRESS, "Vote again")
        for tab in students:
            tab.wait_for("model().question?.number && question.round === 2")
            self.assertEqual(
                tab.run("model().tiles.filter(({pick}) => pick).length"), 0
            )
            tab.run("pick('#1'); answer()")
        self.teacher.wait_for(f"String({votes}) === '1,0,2,5,2,0'")
        self.teacher.wait_for("model().teacher.words.startsWith('5 of 5')")
        self.teacher.run(PRESS, "Reveal")
        for tab in [self.teacher, *students]:
            tab.wait_for(
                "number => !question && model().turn === number", number
            )
            self.assertEqual(tab.run(votes), [[1, 0], [2, 5], [2, 0]])
            words = self.model(tab, "banner.words")
            self.assertIn("round 1: 2 of 5 right (L: 1, #1: 2, #2: 2)", words)
            self.assertIn("round 2: 5 of 5 right (#1: 5)", words)
        for tab in students:
            self.assertEqual(self.model(tab, "banner.kind"), "yes")
            self.assertEqual(self.model(tab, "score"), {"right": 1, "of": 1})
        self.assertEqual(json.loads(self.ben.receive())["nrong"], "now")
        self.assertEqual(students[0].errors + self.teacher.errors, [])

    def test_a_reload_in_mid_vote(self):
        [tab] = self.students(1)
        self.ask()
        tab.wait_for("model().question")
        tab.run(TAP, "#1")
        tab.run(PRESS, "Vote")
        self.teacher.wait_for("model().teacher.words.startsWith('1 of 1')")
        tab.reload()
        tab.wait_for("model().banner?.words.startsWith('You voted: #1')")
        self.teacher.wait_for("model().teacher.words.startsWith('1 of 1')")
        self.teacher.reload()
        self.teacher.wait_for("model().teacher?.reveal && model().question")
        self.teacher.run(PRESS, "Reveal")
        tab.wait_for("model().banner?.kind === 'yes'")

    def test_a_vote_from_before_a_restart_is_not_sent_again(self):
        [tab] = self.students(1)
        tab.run("""vote = {question: turns[turns.length - 1].turn + 1,
            round: 1, at: 0.001, picks: ['#2']}""")
        self.ask()
        tab.wait_for("model().question?.together")
        self.assertNotIn("You voted", self.model(tab, "banner.words"))
        self.teacher.run(PRESS, "Reveal")
        tab.wait_for("!model().question")
        self.assertEqual(self.model(tab, "score.of"), 0)

    def test_a_teacher_in_the_recorded_lesson_is_none(self):
        self.teacher.run("visit('lesson')")
        self.teacher.wait_for("model().source === 'recording'")
        self.assertIsNone(self.model(self.teacher, "teacher"))
        self.teacher.run(PRESS, "Back to the live room")
        self.teacher.wait_for("model().teacher?.ask")

    def test_cancel(self):
        self.teacher.run(PRESS, "Ask")
        self.teacher.wait_for("model().teacher.go && !model().teacher.ask")
        self.teacher.run(PRESS, "Cancel")
        self.teacher.wait_for("model().teacher.ask")
        self.ana.send("nr=on&key=all")
        self.assertEqual(json.loads(self.ben.receive())["nrong"], "on")

    def test_with_the_keyboard_only(self):
        [tab] = self.students(1)
        self.ask()
        tab.wait_for("model().question")
        tab.run("document.getElementById('predict').focus()")
        for _ in range(60):
            tab.press("Tab")
            focus = tab.run("document.activeElement.innerText || ''")
            if focus.startswith("\u2610 #1 Ana"):
                break
        tab.press(" ")
        tab.wait_for("model().tiles[1].pick")
        tab.press("Enter")  # wherever the focus is
        self.teacher.wait_for("model().teacher.words.startsWith('1 of 1')")
        # The teacher does not vote.
        self.assertEqual(self.model(self.teacher, "banner.button"), "")
        self.assertIsNone(self.model(self.teacher, "tiles[1].pick"))

    def test_the_recorded_lesson_is_left_when_the_class_is_asked(self):
        [tab] = self.students(1)
        tab.run("visit('lesson')")
        tab.wait_for("turns.length === 44 && model().source === 'recording'")
        self.ask()
        tab.wait_for("model().question?.together && isLive()")

    def test_a_wrong_key(self):
        tab = self.open(f"{self.room_.page}#key=wrong")
        tab.wait_for("model().status.includes('not the key')")
        self.assertIsNone(self.model(tab, "teacher"))


class LooksTest(PageTest):
    def test_letters_and_contrast(self):
        tab = self.lesson()
        tab.run("show(13); draw(model())")
        for scheme in ("light", "dark"):
            with self.subTest(scheme):
                tab.color_scheme(scheme)
                ratio, where = tab.run(CONTRAST)
                self.assertGreaterEqual(ratio, 4.5, where)
        self.assertGreaterEqual(tab.run(SMALLEST_LETTERS), 12)

    def test_narrow_and_wide(self):
        for width, height in ((360, 640), (1024, 768), (1280, 720)):
            tab = self.lesson(width=width, height=height)
            for turn in (5, 13, 28, 44):
                with self.subTest(width=width, turn=turn):
                    tab.run("number => show(number)", turn)
                    tab.wait_for("number => model().turn === number", turn)
                    tab.run("draw(model())")
                    self.assertEqual(tab.run(WIDTHS), [0, 0])
                    self.assertEqual(tab.run(OUTSIDE), [])
            if width > 1000:  # A projector does not scroll.
                tall = "document.body.scrollHeight - innerHeight"
                self.assertLessEqual(tab.run(tall), 0)

    def test_a_crowd_and_a_long_day(self):
        tab = self.lesson()
        tab.run("""(() => {
            Object.assign(hello, {source: 'live',
                kept: {turns: 1000, bytes: 4194304}});
            const last = turns[turns.length - 1];
            const users = [...Array(100).keys()].map(n => ({...last.users[0],
                id: '#' + (n + 1), name: 'W'.repeat(20), state: 'open'}));
            const read = ['L', ...users.map(({id}) => id)];
            for (let n = 0; n < 3000; n += 1) {
                const turn = {...last, turn: last.turn + 1 + n, users,
                    asked: {read, write: []}};
                addTurn(turn, 2000);
            }
            goLive();
        })()""")  # fmt: skip
        tab.wait_for("model().tiles.length === 101")
        tab.run("draw(model())")
        self.assertEqual(tab.run("turns.length"), 1000)
        self.assertEqual(tab.run(WIDTHS), [0, 0])
        count = "document.querySelectorAll('#tiles li').length"
        tab.wait_for(f"{count} === 101")


browsers.in_each_browser(globals())

if __name__ == "__main__":
    unittest.main()
