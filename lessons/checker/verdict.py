"""What the checker says: the steps, and what was wrong, field by field."""

from __future__ import annotations

import re
import textwrap
from itertools import accumulate
from typing import Collection, Iterator, NamedTuple, Sequence

from codec import CLOSE, mask
from lessons.checker.wire import Wire, WrongError
from lessons.explain import Field, explain_frame, explain_head
from lessons.trace import close_words
from lessons.words import WIDTH, ascii_only, cut, many, plain, quoted

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
    return Failure(
        step.title,
        list(sent_rows(wire.sent)) if wire else [],
        ascii_only(wrong.expected),
        ascii_only(wrong.got),
        came_rows(wire) if wire else [],
        *(wrong.hint or (step.rule, step.question, step.read)),
    )


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
        break_on_hyphens=False,  # a command can be copied
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
        return list(frame_rows(wire.decoder.begin, 0, odd_mask=1))
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
    data: bytes, at: int, cuts: Collection[int] = (), odd_mask: int = 0
) -> Iterator[str]:
    """Yield a line for each byte, or field, of the frame at data[at:].

    odd_mask: the MASK bit that this side must not send.
    """
    fields = explain_frame(data, at)
    for offset in sorted({field.offset for field in fields}):
        here = [field for field in fields if field.offset == offset]
        raw = here[0].raw[:ROW]
        words = [in_words(field, odd_mask) for field in here]
        if here[0].name == "payload":
            words.append(payload_words(fields))
        where = at + offset
        begin = f"  {where:04x} {marked_hex(raw, where, cuts):<25}"
        yield cut(begin + ", ".join(words))


def payload_words(fields: Sequence[Field]) -> str:
    """Return the beginning of a payload without its mask, or what it says."""
    named = {field.name: field for field in fields}
    payload = named["payload"]
    key = named["masking key"].raw if "masking key" in named else b""
    if named["opcode"].value == CLOSE:
        return close_words(mask(payload.raw, key))
    more = " .." if payload.value > ROW else ""
    return quoted(mask(payload.raw[:ROW], key)) + more


def marked_hex(raw: bytes, where: int, cuts: Collection[int]) -> str:
    """Return bytes in hex, with a | in place of a space for each cut."""
    parts = []
    for place, byte in enumerate(raw, where):
        parts.append(f"{'|' if place in cuts else ' '}{byte:02x}")
    return "".join(parts)


def in_words(field: Field, odd_mask: int) -> str:
    """Return a field and its value; what is odd about it, in words."""
    if field.name == "payload":
        return many(field.value, "byte")
    if not field.bits:
        return field.meaning
    words = f"{field.name} {field.value}"
    if field.name == "opcode":
        words += f" {field.meaning}"
    elif field.name == "RSV" and field.value:
        words += " (set)"
    elif (field.name, field.value) == ("MASK", odd_mask):
        words += f" ({field.meaning.partition(':')[0]})"
    return words
