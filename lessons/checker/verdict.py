"""What the checker says: the steps, and what was wrong, field by field."""

from __future__ import annotations

import re
import textwrap
from itertools import accumulate
from typing import Collection, Iterator, NamedTuple, Sequence

from codec import mask
from lessons.checker.wire import Wire, WrongError
from lessons.explain import Field, explain_frame, explain_head
from lessons.trace import WIDTH, ascii_only, cut, many, plain, quoted

ROW = 8  # bytes of a frame in one line, so that words have room beside them
MAX_FRAMES = 3  # that are shown
MAX_LINES = 14  # of a head
MAX_STEPS = 8  # that went well
MARGIN = 10  # columns


class Step(NamedTuple):
    """What is tried next.

    For the case that it fails: the rule, with its section, one question as
    a hint, and where to read.
    """

    title: str
    rule: str
    question: str
    read: str


Steps = Iterator[Step]


class Failure(NamedTuple):
    """What is wrong, in words.

    sent, came: the bytes, a line for each field; the others: see Step.
    """

    step: str
    sent: list[str]
    expected: str
    got: str
    came: list[str]
    rule: str
    question: str
    read: str


class Result(NamedTuple):
    """How one stage went. steps: those that went well, in words."""

    stage: int
    title: str
    passed: bool
    seconds: float
    steps: list[str]
    failure: Failure | None

    @property
    def rule(self) -> str:
        """The rule that is broken, "s5.1: ..."; "" if none is."""
        return self.failure.rule if self.failure else ""

    @property
    def line(self) -> str:
        """The stage in one line."""
        how = "ok" if self.passed else "NO"
        return f"{self.stage:>2}  {self.title:<50} {how} {self.seconds:6.2f} s"

    @property
    def text(self) -> str:
        """What is wrong, in lines of under 80 columns; "" if nothing is."""
        return "\n".join(failure_lines(self)) if self.failure else ""


def make_failure(step: Step, wrong: WrongError) -> Failure:
    """Put together what is said about a step that failed."""
    wire = wrong.wire
    rule, question = wrong.rule or step.rule, wrong.question or step.question
    if wire and wire.error and rule == wire.error.reason:
        question = about_answers(rule)
    return Failure(
        step.title,
        list(sent_rows(wire.sent)) if wire else [],
        ascii_only(wrong.expected),
        ascii_only(wrong.got),
        came_rows(wire) if wire else [],
        rule,
        question,
        step.read,
    )


def about_answers(rule: str) -> str:
    """Return the question to a rule that a server's own frame breaks."""
    for begin, question in ABOUT_ANSWERS.items():
        if rule.startswith(begin):
            return question
    return "Which bytes does your server put before the payload?"


ABOUT_ANSWERS = {
    "s5.1": "Which side masks its frames, and why only that one?",
    "s5.2: a reserved": "Which bits do the first byte of your frame have?",
    "s5.2: opcode": "Which opcode has a text, and which binary data?",
    "s5.2: a length": "Up to which length is the second byte enough?",
    "s5.2: the top": "Which byte of the length comes first?",
    "s5.4": "Which opcode has the first frame of a message?",
    "s5.5": "Which frames may have 126 bytes or more?",
    "s7.4: close": "Which codes are for the program only, not for the wire?",
    "s7.4.1": "Which byte of the length comes first?",
    "s8.1": "Does the length that you send count bytes, or letters?",
}


# ---- the whole text ---------------------------------------------------------


def failure_lines(result: Result) -> Iterator[str]:
    """Yield the lines of a stage that failed."""
    failure = result.failure
    assert failure
    yield f"Stage {result.stage}: {result.title}"
    hidden = len(result.steps) - MAX_STEPS
    if hidden > 0:
        yield f"  ok      {many(hidden, 'step')} before these"
    for step in result.steps[-MAX_STEPS:]:
        yield label("  ok", step)
    yield label("  NO", failure.step)
    yield ""
    yield from failure.sent
    yield label("expected", failure.expected)
    yield label("got", failure.got)
    yield from failure.came
    section = re.match(r"s(\d+(?:\.\d+)*)", failure.rule)
    yield label("rule", "RFC 6455 " * bool(section) + failure.rule)
    yield label("think", failure.question)
    yield label("read", failure.read)
    if section:
        yield " " * MARGIN + f"{RFC}#section-{section[1]}"


RFC = "https://www.rfc-editor.org/rfc/rfc6455"


def label(name: str, text: str) -> str:
    """Return a text with a name in its margin, in as many lines as needed."""
    return textwrap.fill(
        ascii_only(text),
        WIDTH,
        initial_indent=f"{name:<{MARGIN}}",
        subsequent_indent=" " * MARGIN,
    )


# ---- bytes ------------------------------------------------------------------


def sent_rows(pieces: Sequence[bytes]) -> Iterator[str]:
    """Yield what was sent, with a | wherever TCP was to cut it."""
    data = b"".join(pieces)
    if not data:
        yield label("sent", "nothing")
        return
    yield label("sent", how_it_was_cut(pieces))
    cuts = set(accumulate(map(len, pieces))) - {len(data)}
    at = 0
    if data[:1].isalpha():  # A frame begins with no letter.
        yield from head_rows(data, cuts)
        at = len(data.partition(b"\r\n\r\n")[0]) + 4
    shown = 0
    while at < len(data):
        fields = explain_frame(data, at)
        if shown < MAX_FRAMES:
            yield from frame_rows(data, at, cuts)
        shown += 1
        at += fields[-1].offset + max(len(fields[-1].raw), 1)
    if shown > MAX_FRAMES:
        yield f"  and {many(shown - MAX_FRAMES, 'frame')} more"


def how_it_was_cut(pieces: Sequence[bytes]) -> str:
    """Say in how many pieces the bytes went out."""
    size = many(sum(map(len, pieces)), "byte")
    if len(pieces) == 1:
        return f"{size} in one piece"
    if all(len(piece) == 1 for piece in pieces):
        return f"{size}, one at a time; | is a cut"
    return f"{size} in {len(pieces)} pieces; | is a cut"


def came_rows(wire: Wire) -> list[str]:
    """Return the bytes of the answer that broke a rule, if one did."""
    if wire.error:
        return list(frame_rows(wire.decoder.begin, 0))
    if wire.head and not wire.handshaken:
        return list(head_rows(wire.head))
    return []


def head_rows(data: bytes, cuts: Collection[int] = ()) -> Iterator[str]:
    """Yield the lines of a request or an answer."""
    lines = explain_head(data[:4096])
    marked = cuts if len(cuts) < 8 else ()
    for line in lines[:MAX_LINES]:
        text = plain(line.raw)
        for at in sorted(marked, reverse=True):
            if line.offset <= at <= line.offset + len(line.raw):
                inside = at - line.offset
                text = f"{text[:inside]}|{text[inside:]}"
        yield cut(f"  {text}")
    if len(lines) > MAX_LINES:
        yield f"  and {many(len(lines) - MAX_LINES, 'line')} more"


def frame_rows(
    data: bytes, at: int, cuts: Collection[int] = ()
) -> Iterator[str]:
    """Yield a line for each byte, or field, of the frame at data[at:]."""
    fields = explain_frame(data, at)
    named = {field.name: field for field in fields}
    for offset in sorted({field.offset for field in fields}):
        here = [field for field in fields if field.offset == offset]
        raw = here[0].raw[:ROW]
        words = ", ".join(map(in_words, here))
        if here[0].name == "payload":
            key = named["masking key"].raw if "masking key" in named else b""
            more = " .." if here[0].value > len(raw) else ""
            words += f": {quoted(mask(raw, key))}{more}"
        where = at + offset
        yield cut(f"  {where:04x} {marked_hex(raw, where, cuts):<25}{words}")


def marked_hex(raw: bytes, where: int, cuts: Collection[int]) -> str:
    """Return bytes in hex, with a | in place of a space for each cut."""
    parts = []
    for place, byte in enumerate(raw, where):
        parts.append(f"{'|' if place in cuts else ' '}{byte:02x}")
    return "".join(parts)


def in_words(field: Field) -> str:
    """Return a field and its value."""
    if field.name == "payload":
        return f"payload, {many(field.value, 'byte')}"
    if not field.bits:
        return field.meaning
    words = f"{field.name} {field.value}"
    if field.name in ("opcode", "length") or (field.name, field.value) in ODD:
        words += f" {field.meaning}"
    return words


ODD = {("FIN", 0), ("MASK", 0)}
