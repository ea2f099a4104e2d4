"""Lab 3: read_header()."""

from __future__ import annotations

from typing import Any, Iterator

from codec import FIN, LENGTH, MASK, OPCODE, encode_header
from lessons.explain import explain_frame
from lessons.labs.parts import (
    NOTHING,
    Case,
    Check,
    Finding,
    Lab,
    Rows,
    Unfit,
    a,
    expect,
    in_hex,
    shown,
)
from lessons.trace import Frame, field_rows

KEY = bytes.fromhex("37fa213d")  # RFC 6455 s5.7
NAMES = ("fin", "opcode", "key", "start", "length")
EXAMPLES = (  # all those of RFC 6455 s5.7
    "81 05 48656c6c6f",
    "81 85 37fa213d 7f9f4d5158",
    "01 03 48656c",
    "80 02 6c6f",
    "89 05 48656c6c6f",
    "8a 85 37fa213d 7f9f4d5158",
    "82 7e 0100 000102030405",
    "82 7f 0000000000010000 000102030405",
)


def case(header: bytes, behind: bytes = b"", before: bytes = b"") -> Case:
    """Return what has to come out for a whole header."""
    named = {field.name: field for field in explain_frame(header)}
    key = named["masking key"].raw if "masking key" in named else b""
    payload = named["payload"]
    expected = (
        bool(header[0] & FIN),
        header[0] & OPCODE,
        key,
        len(before) + payload.offset,
        payload.value,
    )
    return Case((before + header + behind, len(before)), expected)


def rfc() -> Iterator[Case]:
    """Yield the RFC's frames; of the two long ones, the first bytes."""
    for example in EXAMPLES:
        yield case(bytes.fromhex(example))


def lengths() -> Iterator[Case]:
    """Yield all three forms of the length, at their ends."""
    for key in (b"", KEY):
        for size in (0, 1, 124, 125, 126, 127, 128, 255, 256, 258):
            yield case(encode_header(2, size, key), b"payload")
        for size in (0x7FFF, 0x8000, 65535, 65536, 65537, 2**32 + 5, 2**62):
            yield case(encode_header(2, size, key), b"payload")


def opcodes() -> Iterator[Case]:
    """Yield all opcodes, also those that mean nothing, with and without FIN."""
    for opcode in range(16):
        for fin in (True, False):
            yield case(encode_header(opcode, 3, KEY, fin), b"abc")


def later() -> Iterator[Case]:
    """Yield frames that begin behind others."""
    for before in (bytes.fromhex("8100"), bytes.fromhex(EXAMPLES[1])):
        for size in (5, 300, 70000):
            yield case(encode_header(1, size, KEY), b"xyz", before)


def alone() -> Iterator[Case]:
    """Yield headers whose payload is still on its way."""
    for size in (0, 5, 200, 70000):
        yield case(encode_header(1, size, KEY))


def cuts() -> Iterator[Case]:
    """Yield each header cut at each place, also behind another frame."""
    for before in (b"", bytes.fromhex("8100")):
        for size in (5, 300, 70000):
            for key in (b"", KEY):
                header = encode_header(1, size, key)
                for cut in range(len(header)):
                    yield Case((before + header[:cut], len(before)), None)


RULES = {
    "fin": Finding(
        "fin",
        "s5.2: FIN is the highest bit of the first byte.",
        "What is left of 0x01 and of 0x81, if you take & 0b1000_0000?",
    ),
    "opcode": Finding(
        "opcode",
        "s5.2: the opcode is the lower four bits of the first byte.",
        "Which bits do not belong to it, and how does & take them away?",
    ),
    "length": Finding(
        "length",
        "s5.2: up to 125 it is in 7 bits; 126: in the next 2 bytes; 127: in"
        " the next 8. They are in the order of the network, greatest first.",
        "Which bytes hold this length, and which of them is the greatest?",
    ),
    "key": Finding(
        "key",
        "s5.2: with MASK set, four bytes of key are behind the length.",
        "How many bytes of length are before the key in this frame?",
    ),
    "start": Finding(
        "start",
        "s5.2: the payload begins behind the masking key, if there is one.",
        "Count the bytes of the header. At which place is the next one?",
    ),
}
MASK_IN_LENGTH = Finding(
    "MASK in length",
    "s5.2: the highest bit of the second byte is MASK, not length.",
    "What is 0x85 without its highest bit?",
)
LITTLE = Finding(
    "little-endian",
    "s5.2: the bytes of a length are in the order of the network, greatest"
    " first (big-endian).",
    "Are 00 7e a length of 126, or one of 32,256?",
)
TOO_EARLY = Finding(
    "125",
    "s5.2: 7 bits count to 125; only 126 and 127 say that bytes follow.",
    "Which is the first number that means something else: 125 or 126?",
)
NOT_READ = Finding(
    "126 is no length",
    "s5.2: 126 and 127 in the 7 bits say where the length is.",
    "If the 7 bits say 126, where is the length?",
)
TWICE = Finding(
    "127 read twice",
    "s5.2: the 7 bits say where the length is. The length itself may be 127.",
    "When length has become 127: what does your next if make of it?",
)
FOUR = Finding(
    "4 of 8 bytes",
    "s5.2: behind 127, the length has 8 bytes.",
    "How many bits are 64?",
)
PAYLOAD = Finding(
    "waits for payload",
    "s5.2: a header is whole when its last byte is there.",
    "Does your function look for the payload? Who else could wait for it?",
)
AT = Finding(
    "at",
    "s6.2: what comes in is a stream; a frame may begin anywhere in data.",
    "What does data[0] belong to, if at is 2?",
)
CUT = Finding(
    "cut",
    "s6.2: TCP cuts where it likes. While a byte is missing: None.",
    "How many bytes must be there, before you look at the next field?",
)


def settle(value: Any) -> Any:
    """Return None or five values, as they are compared."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 5:
        rule = f"Five values have to come out: {', '.join(NAMES)}."
        hint = "What stands behind your return?"
        raise Unfit(shown(value), Finding("five values", rule, hint))
    fin, opcode, key, start, length = value
    if key is None:
        raise Unfit(shown(value), NO_KEY)
    for name, each in zip(NAMES, value):
        if not isinstance(each, bytes if name == "key" else int):
            what = f"{name} is {a(type(each).__name__)}"
            kind = "bytes" if name == "key" else "an int"
            rule = f"Not a rule of the RFC: {name} has to be {kind}."
            hint = "data[2] is a number, data[2:3] are bytes. Which is yours?"
            raise Unfit(what, Finding("kind", rule, hint))
    expect(bytes, key)
    return bool(fin), opcode, key, start, length


NO_KEY = Finding(
    "no key",
    'Not a rule of the RFC: without MASK, key has to be b"".',
    "How do you write bytes without any byte?",
)


def find(case: Case, got: Any) -> Finding | None:
    """Say which of the five is wrong, in the order of the wire."""
    if case.expected and case.expected[4] == 127 and not case.arguments[1]:
        return TWICE
    if got is None and case.expected is not None:
        whole = len(case.arguments[0]) >= sum(case.expected[3:])
        return NOTHING if whole else PAYLOAD
    if case.expected is None or case.arguments[1]:
        return None  # the check's own finding says more
    for name in ("fin", "opcode", "length", "key", "start"):
        place = NAMES.index(name)
        if got[place] != case.expected[place]:
            if name == "length":
                return find_length(case, got[place])
            return RULES[name]
    return None


def find_length(case: Case, length: int) -> Finding:
    """Say what is wrong with a length."""
    data, right = case.arguments[0], case.expected[4]
    coded = data[1] & LENGTH
    raw = data[2:4] if coded == 126 else data[2:10]
    if coded < 125 and length == data[1] and data[1] & MASK:
        return MASK_IN_LENGTH
    if coded == 125:
        return TOO_EARLY
    if coded > 125 and length == int.from_bytes(raw, "little"):
        return LITTLE
    if coded == 127 and length == int.from_bytes(raw[:4], "big") != right:
        return FOUR
    if coded > 125 and length in (coded, data[1]):
        return NOT_READ
    return RULES["length"]


def in_words(value: Any) -> str:
    """Return the five values with their names."""
    if value is None:
        return "None"
    return ", ".join(f"{n} {shown(v)}" for n, v in zip(NAMES, value))


def describe(case: Case) -> Rows:
    """Return what goes in, and the fields that are there."""
    data, at = case.arguments
    text = in_hex(data, 24)
    if case.expected is None:
        text += "|  cut here by TCP" if data else ", cut here by TCP"
    rows = [("data", text), ("at", str(at))]
    if len(data) > at:
        rows += [("", row) for row in field_rows(Frame(data, at))]
    return rows


LAB = Lab(
    3,
    "read_header",
    "s5.2",
    20,
    ("read_header",),
    (
        Check("rfc", "the RFC's own frames (s5.7)", rfc, RULES["length"]),
        Check("lengths", "lengths from 0 to 2**62", lengths, RULES["length"]),
        Check("opcodes", "all opcodes, with and without FIN", opcodes, CUT),
        Check("at", "a frame that begins behind another one", later, AT),
        Check("alone", "the payload is not there yet", alone, PAYLOAD),
        Check("cuts", "every cut: None while a byte is missing", cuts, CUT),
    ),
    settle=settle,
    describe=describe,
    find=find,
    words=in_words,
    look="FRAME #1 --> server: the room has found its payload by your numbers",
)
