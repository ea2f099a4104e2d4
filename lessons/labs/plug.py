"""--lab FILE: the real room runs on what a student wrote.

    python server.py 9000 --lab lab3.py --trace

What a file defines takes the place of the function in handshake or codec
that does the same; server.py calls those by the module's name, so it need
not change:

    accept_key()    handshake.accept_key()
    mask()          codec.mask(), and mask_in_place() by an adapter
    read_header()   Decoder.read_header(), by an adapter: which headers break
                    a rule, that one still says
    Decoder         codec.Decoder, by an adapter: beside it, the right one
                    still says which rule is broken
    encode_frame()  codec.encode_frame()

A function that raises, or returns what cannot be used, ends nothing: a line
says so, and the right function answers in its place. What is wrong but can
be used goes its way: the browser will find out. Only one that never ends
does stop the room, as any would: python -m lessons.lab finds that before.
"""

from __future__ import annotations

import os
import re
from types import ModuleType
from typing import Any, Callable, Iterator

import codec
import handshake
from codec import Close, ProtocolError
from lessons.labs import decode, header
from lessons.labs.parts import Unfit, expect, shown
from lessons.labs.student import Trouble, load, what_happened

Show = Callable[[str], None]
ENOUGH = 10  # complaints about one function
LONGEST = 99  # columns of one


def open_file(path: str) -> ModuleType:
    """Return a student's file as a module; else raise Trouble."""
    module = load(os.path.abspath(path), "students_" + os.path.basename(path))
    if not parts(module):
        names = ", ".join(PLUGS)
        file = os.path.basename(path)
        if hasattr(module, "Room"):
            raise Trouble(f"{file} is a program: python {file} 9000")
        raise Trouble(f"{file} has none of these: {names}.")
    return module


def parts(module: ModuleType) -> list[str]:
    """Return what a file brings: what it defines itself, not what it imports.

    Beside a Decoder, mask and read_header are parts of that.
    """
    own = [
        name
        for name in PLUGS
        if getattr(getattr(module, name, None), "__module__", "")
        == module.__name__
    ]
    inner = ("mask", "read_header") if "Decoder" in own else ()
    return [name for name in own if name not in inner]


def install(module: ModuleType, show: Show) -> str:
    """Put a student's parts into the room; return the line that says so."""
    file = os.path.basename(module.__file__ or "")
    names = parts(module)
    for name in names:
        PLUGS[name][0](Guest(name, module, show))
    places = [f"{name} stands in for {PLUGS[name][1]}" for name in names]
    return f"Your own code (--lab {file}): {', '.join(places)}."


class Guest:
    """A student's function, and a way to complain about it.

    name: as it is shown; show: prints a line.
    """

    def __init__(self, name: str, module: ModuleType, show: Show) -> None:
        self.made = getattr(module, name)
        self.path = module.__file__ or ""
        self.name = f"{os.path.basename(self.path)}: {name}"
        self.show = show
        self.said: set[str] = set()

    def complain(self, words: str) -> None:
        """Show one line; none of them twice, and not many."""
        line = f"{self.name} {words}"
        if len(line) > LONGEST:
            # What is needed most is the number of the student's line.
            found = re.search(r", in line \d+", line)
            end = found[0] if found else ""
            line = line[: LONGEST - len(end)] + end
        if line not in self.said and len(self.said) < ENOUGH:
            self.said.add(line)
            self.show(line)

    def ask(
        self,
        check: Callable[[Any], Any],
        right_one: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """Call the student's function; where it fails, the right one.

        check: raises Unfit for what cannot be used.
        """
        try:
            value = self.made(*arguments)
            check(value)
        except (Exception, SystemExit) as error:
            self.complain(what_happened(error, self.path))
            return right_one(*arguments)
        return value


# ---- one plug for each part -------------------------------------------------


def plug_accept_key(guest: Guest) -> None:
    """Replace handshake.accept_key()."""
    own = handshake.accept_key
    handshake.accept_key = lambda key: guest.ask(a_line, own, key)


def a_line(value: Any) -> None:
    """Raise Unfit for what is no value of a header."""
    text = expect(str, value)
    if not text.isascii() or not text.isprintable():
        raise Unfit(shown(text), header.NO_KEY)


def plug_mask(guest: Guest) -> None:
    """Replace codec.mask(), and mask_in_place() for long payloads."""
    own_in_place = codec.mask_in_place

    def own(payload: bytes, key: bytes) -> bytes:
        masked = bytearray(payload)
        own_in_place(masked, 0, key)
        return bytes(masked)

    def mask(payload: bytes, key: bytes) -> Any:
        return guest.ask(is_bytes, own, payload, key)

    def mask_in_place(data: bytearray, begin: int, key: bytes) -> None:
        data[begin:] = mask(bytes(data[begin:]), key)

    codec.mask = mask
    codec.mask_in_place = mask_in_place


def plug_read_header(guest: Guest) -> None:
    """Let the room's decoders read headers by the student's function."""

    class Decoder(codec.Decoder):
        __slots__ = ()

        def read_header(self, data: bytes, at: int) -> Any:
            own = super().read_header(data, at)  # It knows the rules.

            def check(value: Any) -> None:
                # Where a payload must not end before it begins.
                if header.settle(value) != header.settle(own):
                    raise Unfit(
                        f"{shown(value)}; right: {shown(own)}", header.AT
                    )

            return guest.ask(check, lambda data, at: own, data, at)

    codec.Decoder = Decoder  # type: ignore[misc]


def plug_decoder(guest: Guest) -> None:
    """Give the room's users decoders of the student's class."""
    right_one = codec.Decoder

    class Decoder:
        """A student's decoder, and the right one beside it."""

        def __init__(self, masked: bool, max_message: int) -> None:
            self.right = right_one(masked, max_message)
            self.mine: Any = None
            try:
                self.mine = guest.made()
            except (Exception, SystemExit) as error:
                self.give_up(what_happened(error, guest.path))

        def feed(self, data: bytes) -> Iterator[tuple[int, Any]]:
            """Yield what the student's decoder has found; raise for a rule."""
            right, broken = collect(self.right.feed(data))
            yield from self.ask(data, right, broken) if self.mine else right
            if broken:
                raise broken

        def ask(
            self, data: bytes, right: list[Any], broken: Exception | None
        ) -> list[Any]:
            """Return what the student's decoder found, or the right one."""
            try:
                told = decode.take(self.mine.feed(data))
                decode.settle([told])
                told = [usable(pair, right) for pair in told]
            except (Exception, SystemExit) as error:
                if not broken:  # Else nothing is known of what it should do.
                    self.give_up(what_happened(error, guest.path))
                return right
            if broken:
                return told[: len(right)]
            if told != right:
                words = decode.in_words([told]), decode.in_words([right])
                guest.complain("found {}; right: {}".format(*words))
            return told

        def give_up(self, words: str) -> None:
            """Let the right decoder go on alone, and say so."""
            self.mine = None
            guest.complain(words)

    codec.Decoder = Decoder  # type: ignore[misc, assignment]


def collect(
    messages: Iterator[tuple[int, Any]],
) -> tuple[list[tuple[int, Any]], ProtocolError | None]:
    """Return all messages, and the rule that was broken behind them."""
    told = []
    try:
        for message in messages:
            if message != codec.FRAGMENT:  # That is none.
                told.append(message)
    except ProtocolError as error:
        return told, error
    return told, None


def usable(pair: tuple[int, Any], right: list[Any]) -> tuple[int, Any]:
    """Return a message as the room needs it; Unfit for nonsense."""
    opcode, message = pair
    if opcode == codec.CLOSE:
        if pair not in right:
            raise Unfit("a Close that did not come", decode.CLOSING)
        return opcode, Close(*message)
    if opcode == codec.TEXT:
        message.encode()  # raises where it is no text: half an emoji
    return opcode, message


def plug_encode_frame(guest: Guest) -> None:
    """Replace codec.encode_frame()."""
    own = codec.encode_frame

    def encode_frame(
        opcode: int, payload: bytes, key: bytes = b"", fin: bool = True
    ) -> Any:
        return guest.ask(is_bytes, own, opcode, payload, key, fin)

    codec.encode_frame = encode_frame


def is_bytes(value: Any) -> None:
    """Raise Unfit for anything but bytes."""
    expect(bytes, value)


PLUGS: dict[str, tuple[Callable[[Guest], None], str]] = {
    "accept_key": (plug_accept_key, "handshake.accept_key"),
    "mask": (plug_mask, "codec.mask"),
    "read_header": (plug_read_header, "codec.Decoder.read_header"),
    "Decoder": (plug_decoder, "codec.Decoder"),
    "encode_frame": (plug_encode_frame, "codec.encode_frame"),
}
