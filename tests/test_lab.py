"""The labs: right ones pass, wrong ones fail where they are wrong.

Whatever a student's file does, the check ends with words. What needs a
process of its own is started at once for all tests, side by side.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import re
import shutil
import socket
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from unittest import mock

import codec
import handshake
from lessons import lab as program
from lessons import slow
from lessons.labs import (
    LABS,
    accept,
    child,
    decode,
    encode,
    header,
    loop,
    masking,
    parts,
)
from lessons.labs.run import check_file
from tests import naive_decoder
from tests.students import (
    ANSWERS,
    BEFORE,
    DECODER,
    LOOP,
    ODD,
    WRONG,
    WRONG_LOOPS,
    but,
    write,
)
from tests.support import RESETS, ROOT, WINDOWS, call_main

NAMES = {number: lab.name for number, lab in LABS.items()}
NAMES.pop(6)

# A rule names its section, if it is the RFC's.
RULE = (
    r"\A(s[1-9][.0-9]*(,| to)?.*: |Not a rule of the RFC: |A .* has to |A fun)"
)

# ---- what is right ----------------------------------------------------------


class CodecsDecoder(codec.Decoder):
    def __init__(self):
        super().__init__(masked=True)

    def feed(self, data):
        return [pair for pair in super().feed(data) if pair != codec.FRAGMENT]


class LooseDecoder(codec.Decoder):
    """One that lets rules be, as read_header() of the lab does."""

    def check_opcode(self, fin, opcode, length):
        pass


def loose_read_header(data, at):
    masked = data[at + 1 : at + 2] > b"\x7f"
    return LooseDecoder(masked, max_message=2**63).read_header(data, at)


class NaiveDecoder:
    """tests/naive_decoder.py takes all bytes at once: what is new in it?"""

    def __init__(self):
        self.stream = b""
        self.count = 0

    def feed(self, data):
        self.stream += data
        messages, _ = naive_decoder.decode(self.stream, True, 2**40)
        new, self.count = messages[self.count :], len(messages)
        return new


def naive_read_header(data, at):
    """Read a header with what tests/naive_decoder.py has for it."""
    stream = bytearray(data[at:])
    try:
        first, second = naive_decoder.take(stream, 2)
        length = naive_decoder.take_length(stream, second % 128)
        key = naive_decoder.take(stream, 4 if second >= 128 else 0)
    except naive_decoder.End:
        return None
    return first >= 128, first % 16, key, len(data) - len(stream), length


def naive_mask(payload, key):
    """Let tests/naive_decoder.py unmask the payload of a frame."""
    header = codec.encode_header(codec.BINARY, len(payload), key or bytes(4))
    messages, _ = naive_decoder.decode(header + payload, True, 2**40)
    return messages[0][1]


RIGHT = {
    "the core's own": {
        1: handshake.accept_key,
        2: codec.mask,
        3: loose_read_header,
        4: CodecsDecoder,
        5: codec.encode_frame,
    },
    "naive ones": {2: naive_mask, 3: naive_read_header, 4: NaiveDecoder},
}

jobs = {}  # what runs in processes of its own: (kind, what) -> future


def setUpModule():
    """Start at once all that waits for child processes."""
    folder = tempfile.mkdtemp(prefix="lab-test-")
    unittest.addModuleCleanup(shutil.rmtree, folder)
    # Wine cannot start so many processes in one moment.
    pool = ThreadPoolExecutor(4 if WINDOWS else 16)
    unittest.addModuleCleanup(pool.shutdown)
    patience = mock.patch("lessons.labs.run.PATIENCE", 2.0)
    patience.start()
    unittest.addModuleCleanup(patience.stop)
    for number, what, source, _ in ODD:
        path = write(folder, what, number, source)
        jobs["odd", what] = pool.submit(look, number, path)
    for what, source, _ in WRONG_LOOPS:
        path = write(folder, what, 6, source)
        jobs["loop", what] = pool.submit(loop.check_program, path)
    path = write(folder, "right", 6, LOOP)
    jobs["loop", "right"] = pool.submit(loop.check_program, path)


def look(number, path):
    """Return what is printed of a file, as one text."""
    check = loop.check_program if number == 6 else check_file_of(number)
    return "\n".join(program.in_words(LABS[number], check(path), True))


def check_file_of(number):
    return lambda path: check_file(LABS[number], path)


def judge(number, part):
    """Judge a part in this process; return (failed check, finding, words)."""
    lab = LABS[number]
    line = child.judge(lab, part, "lab.py", lambda *_: None)
    if line[0] == "right":
        return None
    _, check, _, words, finding, _ = line
    return lab.checks[check].name, finding.name, words


def part(number, source):
    names = {}
    exec(compile(BEFORE[number] + source, "lab.py", "exec"), names)
    return names[NAMES[number]]


def without_docs(source):
    """Return what a program does: its tree, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        kinds = ast.Module, ast.ClassDef, ast.FunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node):
            del node.body[0]
    return ast.dump(tree)


class Judging(unittest.TestCase):
    def test_right_ones(self):
        for who, parts_by_number in RIGHT.items():
            for number, made in parts_by_number.items():
                with self.subTest(who, lab=number):
                    self.assertIsNone(judge(number, made))

    def test_answers(self):
        for number, name in NAMES.items():
            with self.subTest(lab=number):
                module = importlib.import_module(f"lessons.answers.lab{number}")
                self.assertIsNone(judge(number, getattr(module, name)))
                self.assertEqual(doctest.testmod(module).failed, 0)

    def test_a_generator_is_as_good_as_a_list(self):
        source = but(
            DECODER, ("return messages", "yield from messages; return")
        )
        self.assertIsNone(judge(4, part(4, source)))

    def test_wrong_ones(self):
        self.assertGreater(len(WRONG), 20)
        for number, what, source, check, finding in WRONG:
            with self.subTest(what, lab=number):
                found = judge(number, part(number, source))
                self.assertIsNotNone(found)
                self.assertEqual(found[:2], (check, finding), found[2])

    def test_each_rule_has_its_section_and_each_hint_is_a_question(self):
        found = [step[-1] for step in loop.STEPS]
        for module in (accept, masking, header, decode, encode, parts):
            values = list(vars(module).values())
            values += getattr(module, "FINDINGS", header.RULES).values()
            for mistake in getattr(module, "MISTAKES", ()):
                values.append(mistake.finding)
            found += [v for v in values if isinstance(v, parts.Finding)]
        self.assertGreater(len(found), 60)
        for finding in found:
            with self.subTest(finding.name):
                self.assertRegex(finding.rule, RULE)
                self.assertTrue(finding.hint.endswith("?"))


class Loops(unittest.TestCase):
    def test_the_answer(self):
        verdict = jobs["loop", "right"].result()
        self.assertTrue(verdict.is_right, verdict)

    def test_somebody_else_gets_its_port(self):
        wait(jobs.values())  # They ask for ports, too.
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            for ports, is_right in (
                ([taken, slow.free_port()], True),
                ([taken] * loop.TRIES, False),
            ):
                with self.subTest(ports), mock.patch.object(
                    loop, "free_port", mock.Mock(side_effect=ports)
                ), tempfile.TemporaryDirectory() as folder:
                    path = write(folder, "right", 6, LOOP)
                    verdict = loop.check_program(path)
                    self.assertEqual(verdict.is_right, is_right, verdict)

    def test_wrong_ones(self):
        for what, _, check in WRONG_LOOPS:
            if check != "lets_go_of_one_torn_off":
                self.check_wrong(what, check)

    @RESETS
    def test_one_that_does_not_expect_a_reset(self):
        what = "nobody catches the error"
        self.check_wrong(what, "lets_go_of_one_torn_off")

    def test_what_comes_after_it(self):
        verdict = jobs["loop", "right"].result()
        words = program.in_words(LABS[6], verdict, False)
        self.assertIn("  python lab6.py 9000", words)
        command = words[-4].split("--run ")[1].strip('"')
        self.assertEqual(command.format(port=1), "python lab6.py 1")

    def check_wrong(self, what, check):
        with self.subTest(what):
            verdict = jobs["loop", what].result()
            self.assertFalse(verdict.is_right)
            self.assertEqual(verdict.trouble, "")
            self.assertEqual(verdict.failed.name, check, verdict.got)

    def test_the_puzzle(self):
        """Its lines are those of the rung, and in each part one more."""
        text = program.template(LABS[6], as_puzzle=True)
        plain = program.template(LABS[6])
        shuffled = loop.puzzle(LOOP)
        for name, stranger in loop.STRANGERS.items():
            with self.subTest(name):
                found = re.findall("^#   (.*)$", shuffled[name], re.M)
                right = [
                    line
                    for line in parts.body_of(LOOP, name)
                    if not line.startswith("# ")
                ]
                self.assertEqual(sorted(found), sorted([*right, stranger]))
                self.assertNotEqual(
                    [line for line in found if line != stranger], right
                )
        # Without the comments it is the same file.
        notes = "^ {8}#(| Its lines, .*| them does .*|   .*)\n"
        self.assertEqual(re.sub(notes, "", text, flags=re.M), plain)

    def test_the_rest_is_the_rung(self):
        """All but two functions is what the ladder has."""
        plain = program.template(LABS[6])
        bodies = {
            name: "\n".join(parts.body_of(LOOP, name))
            for name in LABS[6].blanks
        }
        again = parts.take_out(plain, bodies, {})
        self.assertEqual(without_docs(again), without_docs(LOOP))


class Odd(unittest.TestCase):
    def test_one_sentence_for_each(self):
        for _, what, _, words in ODD:
            with self.subTest(what):
                text = jobs["odd", what].result()
                one_line = re.sub(r"\s+", " ", text)
                self.assertIn(re.sub(r"\s+", " ", words), one_line)
                self.assertNotIn("Traceback", text)
                self.assertTrue(text.isascii())
                for line in text.split("\n"):
                    self.assertLess(len(line), 80)


def parts_of(lab):
    """Return what is written in a lab, as the table says it."""
    if lab.name == "Decoder":
        return "`Decoder`"
    return ", ".join(f"`{name}()`" for name in lab.blanks)


class CommandLine(unittest.TestCase):
    """What a student types, in an empty folder."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="lab-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)

    def run_lab(self, *arguments):
        """Return (exit status, standard output, standard error)."""
        status, out, errors = call_main(program.main, arguments)
        for text in (out, errors):
            for line in text.split("\n"):
                self.assertLess(len(line), 80)
            self.assertTrue(text.isascii())
            self.assertNotIn("\x1b", text)  # this is no terminal
        return status, out, errors

    def test_from_nothing_to_the_real_room(self):
        status, out, _ = self.run_lab("2")
        self.assertEqual(status, 1)
        self.assertIn("lab2.py is written", out)
        status, out, _ = self.run_lab("2")
        self.assertEqual(status, 1)
        self.assertIn("  WRONG   the RFC's own example (s5.7)", out)
        self.assertIn("  A hint        python -m lessons.lab 2 --hint", out)
        status, out, _ = self.run_lab("2", "--hint")
        self.assertIn("  A hint        Does every way", out)
        path = Path("lab2.py")
        source = path.read_text("utf-8")
        right = "return bytes(b ^ key[i % 4] for i, b in enumerate(payload))"
        path.write_text(source.replace("    pass\n", f"    {right}\n"), "utf-8")
        status, out, _ = self.run_lab("2")
        self.assertEqual(status, 1)
        self.assertEqual(out.count("  right  "), 3)
        self.assertIn("  WRONG   no key", out)
        right = f"if key:\n        {right}\n    return payload"
        path.write_text(source.replace("    pass\n", f"    {right}\n"), "utf-8")
        status, out, _ = self.run_lab("2")
        self.assertEqual(status, 0)
        self.assertIn("\n  python server.py 9000 --lab lab2.py --trace\n", out)
        self.assertIn("\nNext: python -m lessons.lab 3\n", out)

    def test_each_file_that_is_written(self):
        for number, lab in LABS.items():
            with self.subTest(lab=number):
                status, out, _ = self.run_lab(str(number))
                self.assertEqual(status, 1)
                self.assertIn(f"python -m lessons.lab {number}", out)
                source = Path(lab.file).read_text("utf-8")
                compile(source, lab.file, "exec")
                for line in source.split("\n"):
                    self.assertLessEqual(len(line), 80)
                self.assertEqual(len(re.findall("^ +pass$", source, re.M)),
                                 len(lab.blanks))  # fmt: skip
                for word in ("In: ", "Out:", "RFC 6455 section", "example"):
                    self.assertIn(word, source)
                # Nothing of the answer is left.
                answer = LOOP
                if number < 6:
                    answer = Path(ANSWERS, lab.file).read_text("utf-8")
                for blank in lab.blanks:
                    for line in parts.body_of(answer, blank):
                        if len(line) > 30:
                            self.assertNotIn(line, source)

    def test_the_teacher_s_table(self):
        text = (ROOT / "lessons" / "labs" / "README.md").read_text("utf-8")
        row = r"^\| `python -m lessons\.lab (\d)` \| (.*) \| (\d+) \| "
        table = [
            (str(lab.number), parts_of(lab), str(lab.minutes))
            for lab in LABS.values()
        ]
        self.assertEqual(re.findall(row, text, re.M), table)

    def test_labs_build_on_each_other(self):
        self.run_lab("4")
        source = Path("lab4.py").read_text("utf-8")
        self.assertIn("from lessons.answers.lab3 import read_header", source)
        Path("lab4.py").unlink()
        self.run_lab("3")
        self.run_lab("4")
        source = Path("lab4.py").read_text("utf-8")
        self.assertIn("from lessons.answers.lab2 import mask", source)
        self.assertIn("from lab3 import read_header", source)
        status, out, _ = self.run_lab("4")
        self.assertEqual(status, 1)
        self.assertIn("lab4.py uses lab3.py, which is not right yet", out)
        self.assertIn("python -m lessons.lab 3", out)
        shutil.copy(ANSWERS / "lab3.py", "lab3.py")
        status, out, _ = self.run_lab("4")
        self.assertIn("Lab 4: Decoder", out)

    def test_the_puzzle_is_only_for_a_new_file(self):
        status, out, _ = self.run_lab("6", "--puzzle")
        self.assertEqual(status, 1)
        self.assertIn("Put its lines in order", out)
        before = Path("lab6.py").read_text("utf-8")
        status, out, _ = self.run_lab("6", "--puzzle")
        self.assertEqual(status, 2)
        self.assertIn("lab6.py is there already", out)
        self.assertEqual(Path("lab6.py").read_text("utf-8"), before)

    def test_usage(self):
        for arguments in (["7"], ["x"], ["3", "--hin"], ["3", "--puzzle"]):
            with self.subTest(arguments):
                status, out, errors = self.run_lab(*arguments)
                self.assertEqual((status, out), (2, ""))
                self.assertIn("python -m lessons.lab N", errors)
                self.assertEqual(len(errors.splitlines()), 2)
        status, out, _ = self.run_lab()
        self.assertEqual(status, 2)
        for lab in LABS.values():
            self.assertIn(f"  {lab.number}  {lab.title}", out)

    def test_colours_only_on_a_terminal(self):
        red = "\x1b[31mWRONG\x1b[0m"
        with mock.patch.dict(os.environ, {"WT_SESSION": "x"}):
            os.environ.pop("NO_COLOR", None)
            with mock.patch("sys.stdout", mock.Mock(isatty=lambda: True)):
                self.assertEqual(program.paint("WRONG", program.RED), red)
                os.environ["NO_COLOR"] = "1"
                self.assertEqual(program.paint("WRONG", program.RED), "WRONG")
                del os.environ["NO_COLOR"]
            with mock.patch("sys.stdout", mock.Mock(isatty=lambda: False)):
                self.assertEqual(program.paint("WRONG", program.RED), "WRONG")


if __name__ == "__main__":
    unittest.main()
