"""The README is kept honest: its commands, names, lengths and samples.

Commands are parsed by the programs' own parsers or run, samples are compared
with what comes out today, from fixed random bytes.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import shlex
import subprocess
import sys
import unittest
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import client
import server
from lessons import record, redis, rooms, watch
from lessons.faults import FAULTS
from lessons.ladder import CLAIMS
from tests import bench, bench_redis, bench_watch
from tests.support import DEADLINE, ROOT, Process, close_all

README = (ROOT / "README.md").read_text("utf-8")
LESSONS = (ROOT / "lessons" / "README.md").read_text("utf-8")
TEXT = README + LESSONS
# (language, text) of each fenced block.
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S)
PROSE = re.sub(r"^```\w*\n.*?^```$", "", TEXT, flags=re.M | re.S)
CODE = re.findall(r"`([^`\n]+)`", PROSE)
PURE = ("handshake", "codec")
PYTHONS = ("python", "python3", "py")
TITLES = (
    "What it is", "Start in 60 seconds", "The lesson: 5, 20 or 50 minutes",
    "If it goes wrong in the room", "Byte by byte", "The loop",
    "Reading order", "Switches", "Break it", "Build it",
    "From PHP, and to your own program", "One loop for all",
    "What it withstands, how fast it is, what it is not", "The tests",
)  # fmt: skip
# Functions that others wrote: Python's, PHP's and the browser's.
FOREIGN = {
    "select",
    "send",
    "recv",
    "print",
    "AsyncTcpConnection",
    "runAll",
    "reConnect",
    "upper",
    "sendall",
}


def commands():
    """Yield each command: in the blocks, and in the prose."""
    for language, text in BLOCKS:
        if language in ("", "console"):
            for line in text.splitlines():
                line = line[2:] if line.startswith("$ ") else line
                if is_command(line):
                    yield line
    for code in CODE:
        if is_command(code):
            yield code


def is_command(line):
    return re.match(r"(echo \w+ ?\| )?(python3?|py) \S", line) is not None


def split(command):
    """Return (standard input, the words behind "python") of a command."""
    said, _, program = command.rpartition("| ")
    words = shlex.split(program.replace("\u2026", ""))
    assert words[0] in PYTHONS, command
    return re.sub(r"^echo ", "", said).strip() + "\n", words[1:]


class Commands(unittest.TestCase):
    def test_each_parses(self):
        found = set()
        for command in commands():
            with self.subTest(command):
                _, (program, *arguments) = split(command)
                found.add(program)
                errors = io.StringIO()
                try:
                    with redirect_stderr(errors):
                        self.parse(program, arguments)
                except SystemExit:
                    self.fail(errors.getvalue())
        programs = {"server.py", "client.py", "-m", "-c"}
        names = "bench", "bench_watch", "bench_redis"
        programs |= {f"tests/{name}.py" for name in names}
        self.assertEqual(found, programs)

    def parse(self, program, arguments):
        """Let a program's own parser have the arguments."""
        if program == "server.py":
            stdin = SimpleNamespace(isatty=lambda: True)
            with mock.patch("sys.stdin", stdin):
                server.parse_arguments(arguments)
        elif program == "client.py":
            client.make_parser().parse_args(arguments)
        elif program == "tests/bench.py":
            bench.parse_arguments(arguments)
        elif program == "tests/bench_watch.py":
            bench_watch.make_parser().parse_args(arguments)
        elif program == "tests/bench_redis.py":
            bench_redis.make_parser().parse_args(arguments)
        elif program == "-m":
            module = arguments.pop(0)
            if module.startswith("lessons."):
                lesson = importlib.import_module(module)
                parser = getattr(lesson, "parser", None) or lesson.make_parser()
                parser.parse_args(arguments)
                return
            self.assertEqual(module, "unittest")
            loader = unittest.TestLoader()
            loader.loadTestsFromNames(arguments)
            self.assertEqual(loader.errors, [])
        else:
            self.assertEqual(program, "-c")
            ast.parse(arguments[0])

    def test_each_sample_is_what_comes_out(self):
        samples = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", README, re.M)
        self.assertGreater(len(samples), 3)
        with Process("0") as process:
            for command, expected in samples:
                with self.subTest(command):
                    printed = run(command, process.port)
                    self.assertEqual(printed, expected)

    def test_the_trace_is_what_it_shows_today(self):
        samples = [text for _, text in BLOCKS if is_trace(text)]
        self.assertEqual(len(samples), 2)
        command = next(each for each in commands() if "--seed 6455" in each)
        with Process("0", "--trace") as process:
            run(command, process.port)
            process.wait_for("#1 left: 1000")
            fresh = "\n".join(process.lines) + "\n"
            port = f":{process.port} "
            fresh = fresh.replace(port, ":9000 ".ljust(len(port)))
        # The diary's line of the same turn has the time of the day.
        fresh = re.sub(r"\d\d:\d\d:\d\d  #1.*\n", "", fresh)
        for sample in samples:
            lines = [line.rstrip() for line in sample.splitlines()]
            self.assertIn("\n".join(lines) + "\n", fresh)

    def test_the_invitation(self):
        room = SimpleNamespace(host="127.0.0.1", port=9000)
        lines = "\n".join(server.invitation(room)) + "\n"
        self.assertIn(("", lines), BLOCKS)

    def test_the_programs(self):
        programs = [text for language, text in BLOCKS if language == "python"]
        self.assertEqual(len(programs), 2)
        start = "import time\nfrom server import ChatRoom\nroom = ChatRoom()\n"
        lines = [code for code in CODE if code.startswith("room.every(1, ")]
        programs += [start + line for line in lines]
        self.assertEqual(len(programs), 3)
        listen = server.listen
        with mock.patch(
            "server.listen", lambda host, port: listen(host, 0)
        ), mock.patch("server.serve") as serve, mock.patch(
            "client.Client.run"
        ) as talk:
            for program in programs:
                names = {}
                exec(program, names)
                if "room" in names:
                    close_all(names["room"])
        self.assertTrue(serve.called)
        self.assertTrue(talk.called)


def is_trace(text):
    return text.startswith(("FRAME ", "HANDSHAKE "))


def run(command, port):
    """Run a command of the README; return what it prints."""
    said, words = split(command.replace("127.0.0.1:9000", f"127.0.0.1:{port}"))
    done = subprocess.run(
        [sys.executable, *words],
        input=said.encode(),
        capture_output=True,
        cwd=ROOT,
        timeout=DEADLINE,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{command}: {done.stderr.decode()}")
    return done.stdout.decode().replace("\r\n", "\n")


def functions():
    """Return the names of all functions and classes, by file."""
    found = {}
    top = [ROOT / f"{name}.py" for name in ("server", "client", *PURE)]
    for path in [*top, *ROOT.glob("lessons/**/*.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        kinds = (ast.FunctionDef, ast.ClassDef)
        nodes = (node for node in ast.walk(tree) if isinstance(node, kinds))
        found[path.relative_to(ROOT).as_posix()] = {n.name for n in nodes}
    page = (ROOT / "client.html").read_text("utf-8")
    found["client.html"] = set(re.findall(r"function (\w+)\(", page))
    return found


class Names(unittest.TestCase):
    def test_each_function_exists(self):
        files = functions()
        known = set.union(*files.values(), FOREIGN)
        checked = 0
        for line in PROSE.splitlines():
            named = [name for name in files if name in line]
            for code in re.findall(r"`([^`]+)`", line):
                match = re.match(r"(?:(\w+)\.)?(\w+)\(", code)
                if not match or "$" in code:  # PHP
                    continue
                checked += 1
                where, name = match.groups()
                with self.subTest(code):
                    self.assertIn(name, known)
                    homes = [f for f, names in files.items() if where in names]
                    if f"{where}.py" in files:
                        self.assertIn(name, files[f"{where}.py"])
                    elif homes:
                        self.assertIn(name, files[homes[0]])
                    elif len(named) == 1 and name not in FOREIGN:
                        self.assertIn(name, files[named[0]])
        self.assertGreater(checked, 40)

    def test_each_file_exists(self):
        for folder, text in ((ROOT, README), (ROOT / "lessons", LESSONS)):
            for name in re.findall(r"\]\(([^)#]+)[)#]", text):
                with self.subTest(name):
                    self.assertTrue((folder / name).exists())
        files = {code for code in CODE if re.search(r"\w\.(py|html|md)$", code)}
        for name in {file.split()[-1] for file in files}:
            with self.subTest(name):
                self.assertTrue(
                    list(ROOT.rglob(name)) or (ROOT / name).exists()
                )

    def test_each_chapter_exists(self):
        """A link may lead to a title: [words](file#the-words)."""
        links = re.findall(r"\]\(([^)#]*)#([^)]+)\)", TEXT)
        self.assertGreater(len(links), 0)
        for name, anchor in links:
            titles = re.findall(r"^#+ (.*)$", LESSONS if name else TEXT, re.M)
            anchors = [title.lower().replace(" ", "-") for title in titles]
            with self.subTest(anchor):
                self.assertIn(anchor, anchors)

    def test_each_length(self):
        rows = re.findall(r"^\| \[.*\]\((\S+)\) \| (\d+) \|", README, re.M)
        self.assertGreater(len(rows), 6)
        for name, stated in rows:
            lines = len((ROOT / name).read_text("utf-8").splitlines())
            with self.subTest(name):
                self.assertLess(abs(lines - int(stated)), lines * 0.1)

    def test_the_watch(self):
        lines = Path(watch.LESSON).read_text("utf-8").splitlines()
        turns = sum('"turn": ' in line for line in lines)
        words = " ".join(LESSONS.split())
        mebibyte = 2**20
        for said in (
            f"A recorded lesson of {turns} turns",
            f"hands it {record.SHOWN_PER_SECOND} turns in a second",
            f"(after a pause, {record.SHOWN_AT_ONCE} at once)",
            f"keeps the last {watch.KEPT_TURNS:,} turns, or"
            f" {watch.KEPT_BYTES // mebibyte} MiB of them",
            f"ends after {record.MAX_RECORD // mebibyte} MiB",
        ):
            self.assertIn(said, words)
        self.assertEqual(watch.TEACHER_SECONDS, 60)  # "after a minute"
        picture = (ROOT / "lessons" / "watch.png").stat().st_size
        self.assertLess(picture, 150_000)

    def test_the_building(self):
        """What it says of a thousand and of a million users is arithmetic."""
        six = r"^\| " + r"([\d,]+) \| " * 5 + r"([\d,]+) \|$"
        rows = re.findall(six, LESSONS, re.M)
        self.assertEqual(len(rows), 4)
        for row in rows:
            users, servers, *others = (int(x.replace(",", "")) for x in row)
            self.assertEqual(servers, users / 1000)
            said = users / 60
            given_out = said * servers
            expected = [said, said * 1000, given_out, given_out * 250]
            self.assertEqual(others, list(map(round, expected)))
        words = " ".join(LESSONS.split())
        for said in (
            f"More than {rooms.MAX_KEPT:,} events",
            f"{redis.MAX_ENTRIES:,} entries, or about"
            f" {redis.MAX_BYTES // 2**20} MiB",
            f"after {redis.LIFE - redis.BEAT:g} to"
            f" {redis.LIFE + redis.BEAT:g} seconds Ana leaves",
            "within five seconds `the link to Redis is back`",
            "every three seconds that this server lives",
            "stands still for ten seconds",
        ):
            self.assertTrue(said in words, said)
        self.assertEqual(redis.LOG_LIFE, 3600)  # "an hour after"
        self.assertEqual((redis.MAX_DELAY, redis.BEAT, redis.LIFE), (5, 3, 10))

    def test_the_ladder(self):
        rows = re.findall(r"^\| \[.*\]\((\S+)\) \| (\d+) \| .*"
                          r" \| ([^|]*) \|$", README, re.M)  # fmt: skip
        self.assertEqual(len(rows), len(CLAIMS))
        for (name, lines, stages), claims in zip(rows, CLAIMS.values()):
            with self.subTest(name):
                text = (ROOT / name).read_text("utf-8")
                self.assertEqual(len(text.splitlines()), int(lines))
                stages = stages.replace("all ten", "1 to 10")
                found = set()
                for first, last in re.findall(r"(\d+)(?: to (\d+))?", stages):
                    found.update(range(int(first), int(last or first) + 1))
                self.assertEqual(found, claims)

    def test_each_option(self):
        stdin = SimpleNamespace(isatty=lambda: True)
        with mock.patch("sys.stdin", stdin):
            parsers = server.make_parser(), client.make_parser()
        options = set()
        for parser in parsers:
            options.update(parser._option_string_actions)
        long = {option for option in options if option.startswith("--")}
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+(?:=short)?", README))
        self.assertEqual(named - long, set())
        self.assertEqual(long - named, {"--help"})

    def test_each_fault(self):
        table = README[README.index("## 9.") : README.index("## 10.")]
        rows = re.findall(r"^\| `([\w-]+)` \|", table, re.M)
        self.assertEqual(rows, list(FAULTS))


class Form(unittest.TestCase):
    def test_it_is_the_run_sheet(self):
        titles = re.findall(r"^## (\d+)\. (.*)$", README, re.M)
        numbered = [(str(n), title) for n, title in enumerate(TITLES, 1)]
        self.assertEqual(titles, numbered)

    def test_it_is_short_enough(self):
        lines = README.splitlines()
        self.assertGreaterEqual(len(lines), 300)
        self.assertLessEqual(len(lines), 400)
        first = "\n".join(lines[:40])
        self.assertIn("python server.py 9000", first)
        self.assertIn("Send 3 at once", first)

    def test_lines_that_can_be_read(self):
        for line in TEXT.splitlines():
            if not line.startswith(("|", "$ python -c")):
                self.assertLessEqual(len(line), 88, line)


if __name__ == "__main__":
    unittest.main()
