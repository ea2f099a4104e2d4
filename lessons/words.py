"""How lessons show anything: printable ASCII that fits a terminal."""

from __future__ import annotations

import textwrap

WIDTH = 78  # columns; a terminal in a projector's font has 80


def many(number: int, thing: str) -> str:
    """Return "1 byte", "2 bytes"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def plain(data: bytes) -> str:
    """Return bytes as ASCII; a dot for what cannot be printed."""
    return "".join(chr(b) if 32 <= b < 127 else "." for b in data)


def ascii_only(text: str) -> str:
    """Return a text with a mark for each character that is not ASCII."""
    return plain(text.encode("ascii", "replace"))


def quoted(data: bytes) -> str:
    """Return bytes as ASCII in quotation marks."""
    return f'"{plain(data)}"'


def cut(line: str, width: int = WIDTH) -> str:
    """Return a line that fits; dots stand for what does not."""
    return line if len(line) <= width else line[: width - 3] + "..."


def note(text: str, indent: str = "") -> str:
    """Return a sentence in as many lines as it needs."""
    return textwrap.fill(
        ascii_only(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
    )
