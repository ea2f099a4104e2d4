"""The rules of the house: who imports whom, and what stands where."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import os
import re
import subprocess
import sys
import unittest
from html.parser import HTMLParser
from pathlib import Path

from tests.support import ROOT

TOP = {
    "README.md",
    "server.py",
    "handshake.py",
    "codec.py",
    "client.html",
    "client.py",
    "lessons",
    "tests",
}
OWN = {"server", "handshake", "codec", "client", "lessons", "tests"}
# Who may import which of the project's own modules.
MAY_IMPORT = {
    "server": {"handshake", "codec", "lessons"},
    "client": {"handshake", "codec", "lessons"},
    "lessons": {"handshake", "codec", "lessons"},
    "handshake": set(),
    "codec": set(),
    "tests": OWN,
}
PROGRAMS = ROOT / "lessons" / "programs"  # they may start a server,
WATCH = ROOT / "lessons" / "watch.py"  # and so may this, a process of its own
IMPURE = {"socket", "select", "selectors", "ssl", "time", "asyncio", "os"}
# In the standard library, but not on every system.
NOT_EVERYWHERE = {
    "fcntl", "msvcrt", "pty", "resource", "termios", "tty", "winreg",
}  # fmt: skip


@functools.lru_cache(maxsize=None)
def files():
    """Return the paths of the project's files, below ROOT.

    What a student has saved beside them is not the project's, and only git
    knows that. Without git all files count.
    """
    listed = ""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        ).stdout.decode()
    names = [Path(name) for name in listed.split("\0") if name]
    if Path("server.py") not in names:
        names = [path.relative_to(ROOT) for path in ROOT.rglob("*.*")]
    return [name for name in names if name.parts[0][0] != "."]


def modules():
    """Yield (name of the top-level module, path) of each Python file."""
    for name in sorted(files()):
        if name.suffix == ".py":
            yield name.parts[0].replace(".py", ""), ROOT / name


@functools.lru_cache(maxsize=None)
def parse(path):
    return ast.parse(path.read_text("utf-8"), str(path))


def imported(tree):
    """Return the top-level names that a module imports, wherever it does."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def is_standard(name):
    """Tell whether a module belongs to Python's standard library."""
    if name in NOT_EVERYWHERE or name in sys.builtin_module_names:
        return True
    if hasattr(sys, "stdlib_module_names"):  # Python 3.10
        return name in sys.stdlib_module_names
    spec = importlib.util.find_spec(name)
    if spec is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    origin = Path(spec.origin or "")
    # Windows' embeddable Python keeps it in a zip, and beside its program.
    libraries = {Path(os.__file__).parent, Path(sys.executable).parent}
    is_there = libraries.intersection(origin.parents)
    return bool(is_there) and "site-packages" not in origin.parts


class Imports(unittest.TestCase):
    def test_who_imports_whom(self):
        for module, path in modules():
            with self.subTest(path.name):
                self.assertIn(module, MAY_IMPORT)
                names = imported(parse(path)) & OWN
                allowed = MAY_IMPORT[module]
                if PROGRAMS in path.parents:
                    allowed = allowed | {"server", "client"}
                if path == WATCH:
                    allowed = allowed | {"server"}
                self.assertLessEqual(names, allowed)

    def test_the_standard_library_only(self):
        for _, path in modules():
            for name in sorted(imported(parse(path)) - OWN):
                with self.subTest(path.name, name=name):
                    self.assertTrue(is_standard(name))

    def test_packages_are_told_from_the_standard_library(self):
        for name in ("json", "sys", "time", "email", "socket", "re"):
            self.assertTrue(is_standard(name), name)
        for name in ("pip", "websockets", "server", "no_such_module"):
            self.assertFalse(is_standard(name), name)

    def test_bytes_in_values_out(self):
        for name in ("handshake.py", "codec.py"):
            with self.subTest(name):
                tree = parse(ROOT / name)
                self.assertEqual(imported(tree) & (IMPURE | OWN), set())
                calls = {
                    node.func.id
                    for node in ast.walk(tree)
                    if isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                }
                self.assertEqual(calls & {"open", "print", "input"}, set())

    def test_lessons_only_when_a_switch_asks_for_them(self):
        for name in ("server.py", "client.py"):
            tree = parse(ROOT / name)
            at_once = ast.Module(
                [node for node in tree.body if not is_definition(node)], []
            )
            with self.subTest(name):
                self.assertIn("lessons", imported(tree))
                self.assertNotIn("lessons", imported(at_once))


def is_definition(node):
    return isinstance(node, (ast.FunctionDef, ast.ClassDef))


class Files(unittest.TestCase):
    def test_nothing_odd_at_the_top(self):
        names = {name.parts[0] for name in files()}
        self.assertEqual(names - TOP - {"__pycache__"}, set())
        needed = {"server.py", "handshake.py", "codec.py", "client.html"}
        self.assertLessEqual(needed | {"README.md", "tests"}, names)

    def test_every_file_is_python_3_8(self):
        for _, path in modules():
            with self.subTest(path.name):
                source = path.read_text("utf-8")
                ast.parse(source, str(path), feature_version=(3, 8))

    def test_annotations_are_not_evaluated(self):
        # Otherwise Python 3.8 stumbles over list[str] and str | None.
        for _, path in modules():
            source = path.read_text("utf-8")
            with self.subTest(path.name):
                if source:
                    line = "from __future__ import annotations\n"
                    self.assertIn(line, source)

    def test_lines_fit_a_projector(self):
        for _, path in modules():
            lines = path.read_text("utf-8").split("\n")
            for number, line in enumerate(lines, 1):
                if len(line) > 80:
                    self.fail(f"{path.name}:{number} has {len(line)} columns")

    def test_no_hyphen_but_the_ascii_one(self):
        # Seed 002 has U+2010 in its GUID and in its header names.
        for path in [*ROOT.glob("**/*.html"), *[path for _, path in modules()]]:
            with self.subTest(path.name):
                self.assertNotIn("\u2010", path.read_text("utf-8"))


class Page(HTMLParser):
    """Collects what a page refers to, and its scripts and styles."""

    REFERENCES = {
        "src", "srcset", "href", "data", "action", "formaction", "poster",
        "background", "ping", "manifest",
    }  # fmt: skip

    def __init__(self, text):
        super().__init__()
        self.references = []
        self.handlers = []
        self.code = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        for name, value in attrs:
            if name in self.REFERENCES:
                self.references.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("script", "style"):
            self.code += data


class ThePage(unittest.TestCase):
    file = ROOT / "client.html"

    def setUp(self):
        self.text = self.file.read_text("utf-8")
        self.page = Page(self.text)

    def test_nothing_is_loaded_from_elsewhere(self):
        for reference in self.page.references:
            self.assertRegex(reference, r"\A(#|data:|blob:)")
        loads = r"@import|url\(\s*[\"']?(?!data:|#)|\bimport\b|\bfetch\(|" + (
            r"XMLHttpRequest|importScripts|sendBeacon|new (Shared)?Worker|"
            r"EventSource|//[\w-]+\.\w"
        )
        self.assertIsNone(re.search(loads, self.page.code))

    def test_text_never_becomes_html(self):
        ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|" + (
            r"\beval\b|new Function|createContextualFragment|DOMParser|srcdoc"
        )
        self.assertIsNone(re.search(ways, self.text))
        self.assertEqual(self.page.handlers, [])


class TheQuiz(ThePage):
    file = PROGRAMS / "quiz.html"


class TheWatch(ThePage):
    file = ROOT / "lessons" / "watch.html"


if __name__ == "__main__":
    unittest.main()
