"""The pages are kept honest: their commands, names, lengths and samples.

Commands are parsed by the programs' own parsers or run, samples are compared
with what comes out today, from fixed random bytes. What the cards of a lesson
claim: tests/test_cards.py.
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
import codec
import server
from lessons import record, redis, rooms, watch
from lessons.faults import FAULTS
from tests import bench, bench_redis, bench_watch
from tests.support import DEADLINE, ROOT, Process, close_all

README = (ROOT / "README.md").read_text("utf-8")
# All that there is to read, by its path.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in [ROOT / "README.md", *sorted(ROOT.glob("lessons/**/*.md"))]
}
COMMANDS = PAGES["lessons/commands.md"]
TEXT = "\n".join(PAGES.values())
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
BLOCKS = FENCED.findall(TEXT)  # (language, text) of each
PROSE = FENCED.sub("", TEXT)
CODE = re.findall(r"`([^`\n]+)`", PROSE)
PURE = ("handshake", "codec")
PYTHONS = ("python", "python3", "py")
TITLES = (
    "The smallest server and loop", "The loop of server.py",
    "Byte by byte", "Reading order",
    "What it withstands, how fast it is, what it is not", "Where to go on",
)  # fmt: skip
FIRST_SCREEN = 24  # lines
# Who shows what the trouble table begins with, and what others show of it.
SHOWING = ("server.py", "handshake.py", "client.html", "lessons/trace.py")
ELSEWHERE = ("zsh: no matches found: ?", "https://")
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
    "woshou",
    "uncode",
    "code",
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
        programs = {"server.py", "client.py", "nap.py", "-m", "-c"}
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
        elif program == "nap.py":  # what a card lets the class save
            self.assertEqual(arguments, [])
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

    def test_each_module_of_tests_exists(self):
        named = {code for code in CODE if code.startswith("tests.")}
        self.assertEqual(len(named), 4)
        loader = unittest.TestLoader()
        loader.loadTestsFromNames(sorted(named))
        self.assertEqual(loader.errors, [])

    def test_each_sample_is_what_comes_out(self):
        samples = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", README, re.M)
        (server_py, invitation), *samples = samples
        self.assertEqual(server_py, "python server.py 9000")
        room = SimpleNamespace(host="127.0.0.1", port=9000)
        lines = "\n".join(server.invitation(room)) + "\n"
        self.assertEqual(invitation, lines)
        self.assertEqual(len(samples), 2)
        with Process("0") as process:
            for command, expected in samples:
                with self.subTest(command):
                    printed = run(command, process.port)
                    self.assertEqual(printed, expected)

    def test_the_trace_is_what_it_shows_today(self):
        (block,) = [text for _, text in BLOCKS if is_trace(text)]
        samples = block.split("\n\n")
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

    def test_the_programs(self):
        programs = [text for language, text in BLOCKS if language == "python"]
        programs.remove(smallest_loop())
        self.assertEqual(len(programs), 5)
        start = "import time\nfrom server import ChatRoom\nroom = ChatRoom()\n"
        lines = [code for code in CODE if code.startswith("room.every(1, ")]
        programs += [start + line for line in lines]
        self.assertEqual(len(programs), 6)
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
        self.assertEqual(serve.call_count, 4)
        self.assertTrue(talk.called)

    def test_the_picture_of_hello(self):
        (picture,) = [text for _, text in BLOCKS if text.startswith("recv() ")]
        names = re.findall(r"^(?:\w+\.)?(\w+)\(\)  ", picture, re.M)
        self.assertEqual(len(names), picture.count("\n"))
        known = set.union(*functions().values(), FOREIGN)
        self.assertEqual(set(names) - known, set())
        came, given = re.findall(r"(?:[0-9a-f]{2} ){6,}", picture)
        decoder = codec.Decoder(masked=True)
        heard = list(decoder.feed(bytes.fromhex(came)))
        self.assertEqual(heard, [(codec.TEXT, "Hello")])
        self.assertEqual(bytes.fromhex(given), codec.encode_message("Hello"))
        self.assertIn(" ".join(came.split()[2:6]), README.split(picture)[1])

    def test_the_smallest_loop_is_rung_2(self):
        rung = ROOT / "lessons" / "ladder" / "2_codec.py"
        self.assertEqual(bare(smallest_loop()), bare(rung.read_text("utf-8")))


def smallest_loop():
    return next(text for _, text in BLOCKS if "\nclass Room:\n" in text)


class Bare(ast.NodeTransformer):
    """Takes away what a program does not need to run."""

    def visit_Import(self, node):
        return [ast.Import([name]) for name in node.names]

    def visit_ImportFrom(self, node):
        return None if node.module in ("__future__", "typing") else node

    def visit_Expr(self, node):
        return node if isinstance(node.value, ast.Call) else None

    def visit_AnnAssign(self, node):
        return ast.Assign([node.target], node.value, None, lineno=0)

    def visit_FunctionDef(self, node):
        node.returns = None
        for argument in node.args.args:
            argument.annotation = None
        return self.generic_visit(node)


def bare(program):
    """Return what the program does, without comments and annotations."""
    tree = Bare().visit(ast.parse(program))
    return [ast.dump(node) for node in tree.body]


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


def anchors(path):
    titles = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
    words = (re.sub(r"[^\w -]", "", title.lower()) for title in titles)
    return {each.replace(" ", "-") for each in words}


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

    def test_each_link_leads_to_something(self):
        """A link may lead to a title: [words](file#the-words)."""
        checked = 0
        for page, text in PAGES.items():
            links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", text)
            for name, anchor in links:
                checked += 1
                target = ROOT / page
                if name:
                    target = target.parent / name
                with self.subTest(page=page, name=name, anchor=anchor):
                    self.assertTrue(target.exists())
                    if anchor:
                        self.assertIn(anchor, anchors(target))
        self.assertGreater(checked, 40)

    def test_each_file_exists(self):
        files = {code for code in CODE if re.search(r"\w\.(py|html|md)$", code)}
        files = {file.split()[-1] for file in files} - {"nap.py", "lab3.py"}
        self.assertGreater(len(files), 10)
        for name in files:
            with self.subTest(name):
                self.assertTrue(
                    list(ROOT.rglob(name)) or (ROOT / name).exists()
                )

    def test_each_page_is_led_to(self):
        found, new = set(), {"README.md"}
        while new:
            found |= new
            paths = set()
            for page in new:
                for name in re.findall(r"\]\(([^)#]+\.md)", PAGES[page]):
                    path = ((ROOT / page).parent / name).resolve()
                    paths.add(path.relative_to(ROOT).as_posix())
            new = paths - found
        self.assertEqual(found, set(PAGES))

    def test_each_sign_of_trouble_is_one(self):
        """What stands in the first column of the trouble table is shown."""
        page = PAGES["lessons/README.md"]
        table = page[page.index("| what you see |") :].split("\n\n")[0]
        sources = "".join((ROOT / name).read_text("utf-8") for name in SHOWING)
        checked = 0
        shown = [row.split("|")[1] for row in table.split("\n")[2:]]
        for pair in re.findall('`([^`]+)`|"([^"]+)"', "".join(shown)):
            for part in re.split("\u2026|[0-9]+|\\\\u.*", max(pair)):
                if len(part.strip()) > 3 and part not in ELSEWHERE:
                    checked += 1
                    with self.subTest(part):
                        self.assertTrue(part.strip() in sources)
        self.assertGreater(checked, 5)

    def test_each_length(self):
        rows = re.findall(r"^\| \[.*\]\((\S+)\) \| (\d+) \|", README, re.M)
        self.assertEqual(len(rows), 6)
        for name, stated in rows:
            lines = len((ROOT / name).read_text("utf-8").splitlines())
            with self.subTest(name):
                self.assertLess(abs(lines - int(stated)), lines * 0.1)

    def test_the_watch(self):
        lines = Path(watch.LESSON).read_text("utf-8").splitlines()
        turns = sum('"turn": ' in line for line in lines)
        words = " ".join(PAGES["lessons/watch.md"].split())
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
        rows = re.findall(six, PAGES["lessons/building.md"], re.M)
        self.assertEqual(len(rows), 4)
        for row in rows:
            users, servers, *others = (int(x.replace(",", "")) for x in row)
            self.assertEqual(servers, users / 1000)
            said = users / 60
            given_out = said * servers
            expected = [said, said * 1000, given_out, given_out * 250]
            self.assertEqual(others, list(map(round, expected)))
        words = " ".join(PAGES["lessons/building.md"].split())
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

    def test_each_option(self):
        stdin = SimpleNamespace(isatty=lambda: True)
        with mock.patch("sys.stdin", stdin):
            parsers = server.make_parser(), client.make_parser()
        options = set()
        for parser in parsers:
            options.update(parser._option_string_actions)
        long = {option for option in options if option.startswith("--")}
        option = re.compile(r"(?<![\w-])--[a-z][a-z-]+(?:=short)?")
        self.assertEqual(long - set(option.findall(COMMANDS)), {"--help"})
        for page in ("README.md", "lessons/commands.md", "lessons/README.md"):
            named = set(option.findall(PAGES[page]))
            self.assertEqual(named - long, set(), page)

    def test_each_fault(self):
        table = PAGES["lessons/answers/faults.md"]
        rows = re.findall(r"^\| `([\w-]+)` \|", table, re.M)
        self.assertEqual(rows, list(FAULTS))


class Form(unittest.TestCase):
    def test_it_is_the_front_door(self):
        titles = re.findall(r"^## (.*)$", README, re.M)
        self.assertEqual(tuple(titles), TITLES)
        self.assertLessEqual(len(README.splitlines()), 220)

    def test_the_first_screen_leads_everywhere(self):
        first = "\n".join(README.splitlines()[:FIRST_SCREEN])
        for what, way in (
            ("run", "`python server.py 9000`"),
            ("read", "(server.py)"),
            ("teach", "(lessons/README.md)"),
            ("build", "(lessons/programs/README.md)"),
            ("test", "`python -m unittest`"),
        ):
            (row,) = re.findall(rf"^\| \*\*{what}\*\* .*$", first, re.M)
            self.assertIn(way, row)

    def test_short_tables(self):
        """What it withstands and how fast it is: eight lines each at most."""
        tables = re.findall(r"(?:^\|.*\n)+", README, re.M)
        self.assertEqual(len(tables), 4)
        for table in tables:
            self.assertLessEqual(table.count("\n"), 8)

    def test_no_sentence_stands_in_two_pages(self):
        homes = {}
        for page, text in PAGES.items():
            for sentence in sentences(text):
                homes.setdefault(sentence, set()).add(page)
        self.assertGreater(len(homes), 500)
        twice = {each for each, where in homes.items() if len(where) > 1}
        self.assertEqual(twice, set())

    def test_lines_that_can_be_read(self):
        for line in TEXT.splitlines():
            if not line.startswith(("|", "$ python -c")):
                self.assertLessEqual(len(line), 88, line)


def sentences(text):
    """Yield the sentences of a page, its tables too, of five words or more.

    A command or title is no sentence. A link is its words, wherever it leads.
    """
    text = re.sub(r"\]\([^)]*\)|^#.*", "", FENCED.sub("", text), flags=re.M)
    text = re.sub("`[^`]*`", lambda code: code[0].replace("?", ""), text)
    parts = re.split(r"\n\n|\||^- |^ *\d+\. ", text, flags=re.M)
    for part in parts:
        for sentence in re.split(r"[.:?!;]\W*\s", " ".join(part.split()) + " "):
            if len(re.sub("`[^`]*`", "", sentence).split()) >= 5:
                yield sentence.strip("*[]() ")


if __name__ == "__main__":
    unittest.main()
