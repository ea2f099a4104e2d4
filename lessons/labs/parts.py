"""What a lab is made of, and how the values in it are shown."""

from __future__ import annotations

import ast
from typing import Any, Callable, Iterable, List, Mapping, NamedTuple, Tuple

WIDTH = 79  # columns of all that is printed
SHOWN = 16  # bytes of a value; more say nothing more
# Each is a word and a text; without the word, a row that is shown as it is.
Rows = List[Tuple[str, str]]


class Finding(NamedTuple):
    """What is wrong: a name, the rule with its section, and a question."""

    name: str
    rule: str
    hint: str


class Case(NamedTuple):
    """What goes in, and what has to come out."""

    arguments: tuple[Any, ...]
    expected: Any


class Check(NamedTuple):
    """Cases of one kind.

    name: one word; title: what it looks at; finding: what is probably wrong
    where a case fails, and the lab knows nothing better.
    """

    name: str
    title: str
    cases: Callable[[], Iterable[Case]]
    finding: Finding


class Lab(NamedTuple):
    """One part to write.

    name: of the function or class; blanks: the functions that a student
    fills in; call: gives a case's arguments to what the student wrote;
    settle: what came out as it is compared, raises Unfit if that is no
    value of the right kind; describe: arguments in rows; find: a better
    finding for a case and a wrong value, or None; words: a value, to be
    shown; look: what to look for in the trace of the real room.
    """

    number: int
    name: str
    section: str
    minutes: int
    blanks: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    call: Callable[[Any, tuple[Any, ...]], Any] = lambda f, given: f(*given)
    settle: Callable[[Any], Any] = lambda value: value
    describe: Callable[[Case], Rows] = lambda case: []
    find: Callable[[Case, Any], Finding | None] = lambda case, got: None
    words: Callable[[Any], str] = lambda value: shown(value)
    look: str = ""

    @property
    def file(self) -> str:
        """The name of the student's file."""
        return f"lab{self.number}.py"

    @property
    def title(self) -> str:
        """The name of what is to be written: turn(), or Decoder."""
        return self.name if self.name[0].isupper() else f"{self.name}()"


class Unfit(Exception):  # noqa: N818 - it is no error of ours
    """What came out is of a wrong kind; says what it is, and a finding."""

    def __init__(self, words: str, finding: Finding) -> None:
        super().__init__(words)
        self.finding = finding


class Mistake(NamedTuple):
    """A function that many students write, and what is wrong with it."""

    wrong: Callable[..., Any]
    finding: Finding


def match(mistakes: Iterable[Mistake], case: Case, got: Any) -> Finding | None:
    """Return the finding of the mistake that gives just what came out."""
    for wrong, finding in mistakes:
        try:
            explains = wrong(*case.arguments) == got
        except (ValueError, IndexError, OverflowError):
            continue  # This mistake gives nothing at all for such a case.
        if explains:
            return finding
    return None


def expect(kind: type, value: Any) -> Any:
    """Return the value if it is of just this kind; else raise Unfit."""
    if type(value) is kind:
        return value
    if value is None:
        raise Unfit("None", NOTHING)
    words = f"{a(type(value).__name__)}: {shown(value)}"
    hint = f"What makes {a(kind.__name__)} of {a(type(value).__name__)}?"
    if kind is bytes and isinstance(value, bytearray):
        hint = "What does bytes(...) make of a bytearray?"
    rule = f"Not a rule of the RFC: {kind.__name__} has to come out."
    raise Unfit(words, Finding("kind", rule, hint))


NOTHING = Finding(
    "nothing",
    "A function without return gives None.",
    "Does every way through your function end with return?",
)


def a(word: str) -> str:
    """Return a kind of value with its article."""
    if word == "bytes":
        return word
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


# ---- how values are shown ---------------------------------------------------


def in_hex(data: bytes | bytearray, most: int = SHOWN) -> str:
    """Return bytes in hexadecimal; of many, the first ones."""
    if not data:
        return "(no bytes)"
    if len(data) <= most + 4:
        return data.hex(" ")
    return f"{data[:most].hex(' ')} .. ({len(data):,} bytes)"


def shown(value: Any, depth: int = 2) -> str:
    """Return any value in a few words, however large it is."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        bits = value.bit_length()
        return str(value) if bits <= 64 else f"a number of {bits:,} bits"
    if isinstance(value, (bytes, bytearray)):
        return in_hex(value) if value else 'b""'
    if isinstance(value, str):
        size = len(value)
        return ascii(value) if size <= 48 else (
            f"{value[:40]!a} .. ({size:,} characters)"
        )  # fmt: skip
    if isinstance(value, (tuple, list)) and depth:
        items = [shown(item, depth - 1) for item in value[:6]]
        if len(value) > 6:
            items.append(f".. ({len(value):,} in all)")
        inside = ", ".join(items)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return a(type(value).__name__)


# ---- a file with a part taken out -------------------------------------------


def take_out(
    source: str, bodies: Mapping[str, str], docs: Mapping[str, str]
) -> str:
    """Return a program with other bodies in some of its functions.

    bodies: by the function's name; its docstring stays. docs: docstrings to
    be put in place of others, by name; that of the module has the name "".
    """
    lines = source.splitlines()
    tree = ast.parse(source)
    # From the end: what stands before keeps its place.
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: -node.lineno):
        if node.name in bodies:
            first, last = body(node)
            margin = " " * node.body[0].col_offset
            lines[first - 1 : last] = indent(bodies[node.name], margin)
        if node.name in docs:
            put_doc(lines, node, docs[node.name])
    if "" in docs:
        put_doc(lines, tree, docs[""])
    return "\n".join(lines) + "\n"


def put_doc(
    lines: list[str], node: ast.FunctionDef | ast.Module, doc: str
) -> None:
    """Put another docstring into a function or a module."""
    old = node.body[0]
    assert old.end_lineno
    margin = " " * old.col_offset
    new = indent(f'"""{doc.strip()}\n"""', margin)
    lines[old.lineno - 1 : old.end_lineno] = new


def indent(text: str, margin: str) -> list[str]:
    """Return the lines of a text with a margin; empty ones stay empty."""
    return [(margin + line).rstrip() for line in text.split("\n")]


def body_of(source: str, name: str) -> list[str]:
    """Return the lines of a function's body, with its own margin removed."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first, last = body(node)
            margin = node.body[0].col_offset
            lines = source.splitlines()[first - 1 : last]
            return [line[margin:] for line in lines]
    raise ValueError(f"no function {name}")


def body(node: ast.FunctionDef) -> tuple[int, int]:
    """Return the first and the last line of a function, without docstring."""
    first = node.body[1 if ast.get_docstring(node) else 0]
    assert node.end_lineno
    return first.lineno, node.end_lineno
