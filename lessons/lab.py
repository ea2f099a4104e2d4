"""Write a part of the server yourself, and have it checked.

    python -m lessons.lab 3

The first time this writes lab3.py, here where you stand: it says what goes
in, what comes out, and where the RFC says so. After that it checks what you
have written: the RFC's own examples, then the limits, then every cut. When
all is right, the real room runs on it: python server.py 9000 --lab lab3.py

Exit status: 0 it is right, 1 not yet, 2 that is no such command.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
from typing import NoReturn, Sequence

from lessons.labs import LABS, loop
from lessons.labs.parts import WIDTH, Lab, take_out
from lessons.labs.run import ROOT, Verdict, check_file

USAGE = "python -m lessons.lab N   with N from 1 to 6"
MARGIN = 14  # columns for the words at the left


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake costs two lines."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and what to type; exit with 2."""
        print(f"lessons.lab: {ascii(message[:60])[1:-1]}", file=sys.stderr)
        print(USAGE, file=sys.stderr)
        sys.exit(2)


parser = Parser(
    prog="python -m lessons.lab",
    description="Write a part of the server yourself, and have it checked.",
    allow_abbrev=False,
)
parser.add_argument(
    "number",
    nargs="?",
    type=int,
    choices=sorted(LABS),
    metavar="N",
    help="which lab, 1 to 6",
)
parser.add_argument(
    "--hint", action="store_true", help="a question that leads on"
)
parser.add_argument(
    "--puzzle",
    action="store_true",
    help="lab 6 with its lines shuffled, and two that do not belong",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check one lab; return the exit status."""
    options = parser.parse_args(arguments)
    if options.puzzle and options.number != 6:
        parser.error("--puzzle is for lab 6 only")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if options.number is None:
        print("\n".join(overview()))
        return 2
    lab = LABS[options.number]
    if os.path.exists(lab.file):
        if options.puzzle:
            print(f"{lab.file} is there already. Give it another name first.")
            return 2
        return report(lab, options.hint)
    with open(lab.file, "x", encoding="utf-8") as file:
        file.write(template(lab, options.puzzle))
    print("\n".join(written(lab, options.puzzle)))
    return 1


# ---- the student's file -----------------------------------------------------


def template(lab: Lab, as_puzzle: bool = False) -> str:
    """Return a lab's file for a student: the answer without its bodies."""
    path = os.path.join(ROOT, "lessons", "answers", lab.file)
    bodies, docs = dict.fromkeys(lab.blanks, "pass"), {}
    if lab is loop.LAB:
        path, docs = loop.SOURCE, loop.DOCS
    with open(path, encoding="utf-8") as file:
        source = file.read()
    # What was written in another lab is used, where it stands beside it.
    for other in re.findall(r"^from lessons\.answers\.(\w+)", source, re.M):
        if os.path.exists(f"{other}.py"):
            source = source.replace(f"lessons.answers.{other} ", f"{other} ")
    if as_puzzle:
        bodies = loop.puzzle(source)
    return take_out(source, bodies, docs)


def used_labs(lab: Lab) -> list[Lab]:
    """Return the labs whose files a student's file imports."""
    with open(lab.file, encoding="utf-8", errors="replace") as file:
        found = re.findall(r"^(?:from|import) lab([1-5])\b", file.read(), re.M)
    numbers = sorted({int(number) for number in found} - {lab.number})
    return [LABS[number] for number in numbers]


# ---- what is said -----------------------------------------------------------


def overview() -> list[str]:
    """Return a line for each lab, and whether it is begun."""
    lines = ["Six parts of the server, for you to write:", ""]
    for lab in LABS.values():
        state = f"{lab.file} is here" if os.path.exists(lab.file) else ""
        row = f"  {lab.number}  {lab.title:<16}{lab.minutes} minutes"
        lines.append(f"{row:<36}{state}".rstrip())
    return [*lines, "", "Begin with the first: python -m lessons.lab 1"]


def written(lab: Lab, as_puzzle: bool) -> list[str]:
    """Say that a lab's file is there now, and what to do."""
    blanks = " and ".join(f"{name}()" for name in lab.blanks)
    todo = f"Write {blanks} in it: there it says `pass` now."
    if as_puzzle:
        todo = "Put its lines in order: they are in it as comments."
    easier = []
    if lab is loop.LAB and not as_puzzle:
        easier = [
            f"To get its lines, but shuffled: remove {lab.file}, then",
            "python -m lessons.lab 6 --puzzle",
        ]
    return [
        f"{lab.file} is written. Read it in your editor: it says what to do.",
        todo,
        f"Save it, and have it checked: python -m lessons.lab {lab.number}",
        *easier,
    ]


def report(lab: Lab, with_hint: bool) -> int:
    """Check a lab and print what was found; return the exit status."""
    for other in used_labs(lab):
        if os.path.exists(other.file) and not check(other).is_right:
            print(f"{lab.file} uses {other.file}, which is not right yet:")
            print(f"python -m lessons.lab {other.number}")
            return 1
    verdict = check(lab)
    print("\n".join(in_words(lab, verdict, with_hint)))
    return 0 if verdict.is_right else 1


def check(lab: Lab) -> Verdict:
    """Check the file of a lab, here where one stands."""
    path = os.path.abspath(lab.file)
    return (
        loop.check_program(path) if lab is loop.LAB else check_file(lab, path)
    )


def in_words(lab: Lab, verdict: Verdict, with_hint: bool) -> list[str]:
    """Return the lines of a verdict."""
    lines = [f"Lab {lab.number}: {lab.title}, RFC 6455 {lab.section}", ""]
    if verdict.trouble:
        return [*lines, *wrap("WRONG", verdict.trouble, 8, RED)]
    for done in lab.checks[: verdict.passed]:
        lines += wrap("right", done.title, 8, GREEN)
    if verdict.failed:
        lines += wrap("WRONG", verdict.failed.title, 8, RED)
        return [*lines, "", *what_failed(lab, verdict, with_hint)]
    lines.append("")
    if verdict.printed:
        lines += [f"It prints something. In {lab.file} nobody needs that.", ""]
    return lines + what_next(lab)


def what_failed(lab: Lab, verdict: Verdict, with_hint: bool) -> list[str]:
    """Return what went in, what came out, and the rule."""
    word, lines = "What went in", []
    for name, text in verdict.given:
        if name:
            lines += wrap(word, f"{name:<9} {text}")
            word = ""
        else:
            lines.append(text)
    lines += wrap("Expected", verdict.expected)
    lines += wrap("Your answer", verdict.got)
    for line in verdict.printed:
        lines += wrap("It printed", line)
    assert verdict.finding
    lines += wrap("The rule", verdict.finding.rule)
    hint = f"python -m lessons.lab {lab.number} --hint"
    if with_hint:
        hint = verdict.finding.hint
    return lines + wrap("A hint", hint)


def what_next(lab: Lab) -> list[str]:
    """Return what to do with a lab that is right."""
    if lab is loop.LAB:
        run = f"python {lab.file}"
        return [
            "All is right. Now open client.html from disk, in two tabs, with",
            "your own loop behind it:",
            "",
            f"  {run} 9000",
            "",
            "Type ws://127.0.0.1:9000/ as the address there. What is still",
            "missing? The checker finds it:",
            "",
            f'  python -m lessons.check --all --run "{run} {{port}}"',
            "",
            "Yours is the second rung of the ladder, in lessons/ladder. The",
            "others lead from there to server.py.",
        ]
    return [
        "All is right. Now the real room, in a real browser, with your code:",
        "",
        f"  python server.py 9000 --lab {lab.file} --trace",
        "",
        *textwrap.wrap(
            f"Open http://127.0.0.1:9000/ there, join, and say something. On"
            f" the terminal, look for {lab.look}.",
            WIDTH,
        ),
        "",
        f"Next: python -m lessons.lab {lab.number + 1}",
    ]


def wrap(
    word: str, text: str, margin: int = MARGIN, color: str = ""
) -> list[str]:
    """Return a text in lines, with a word at the left of the first."""
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * (margin + 2),
        subsequent_indent=" " * (margin + 2),
    ) or [""]
    first = lines[0][margin + 2 :]
    return [f"  {paint(word.ljust(margin), color)}{first}", *lines[1:]]


GREEN, RED = "32", "31"


def paint(text: str, color: str) -> str:
    """Return a text in a colour, on a terminal whose owner has no objection.

    A Windows console shows colours where it is Windows Terminal.
    """
    plain = os.environ.get("NO_COLOR") or not sys.stdout.isatty()
    if sys.platform == "win32" and not os.environ.get("WT_SESSION"):
        plain = True
    return text if plain or not color else f"\x1b[{color}m{text}\x1b[0m"


if __name__ == "__main__":
    sys.exit(main())
