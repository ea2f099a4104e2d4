"""Lab 4: a Decoder that keeps the rest."""

from __future__ import annotations

from itertools import islice
from typing import Any, Iterator

from codec import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    encode_close,
    encode_frame,
)
from lessons.labs.parts import (
    NOTHING,
    Case,
    Check,
    Finding,
    Lab,
    Rows,
    Unfit,
    a,
    in_hex,
    shown,
)
from lessons.trace import Frame
from lessons.words import many

KEY = bytes.fromhex("37fa213d")  # RFC 6455 s5.7
OTHER_KEY = bytes.fromhex("0a141e28")
MOST_FRAMES = 4  # that are shown
MOST = 1000  # messages of one read; more can only be a loop without end
NAMES = {
    TEXT: "TEXT", BINARY: "BINARY", CLOSE: "CLOSE", PING: "PING", PONG: "PONG"
}  # fmt: skip
HELLO = bytes.fromhex("818537fa213d7f9f4d5158")
# Two Czech letters and an emoji: 2, 2 and 4 bytes of UTF-8.
LETTERS = "\u017e\u0161\U0001f600"


def frame(
    opcode: int, payload: bytes = b"", fin: bool = True, key: bytes = KEY
) -> bytes:
    """Return a frame as a browser sends it."""
    return encode_frame(opcode, payload, key, fin)


def reads(*pairs: tuple[bytes, list[Any]], user: int = 0) -> Case:
    """Return a case: the bytes of each read, and what is whole then.

    Its arguments: for each read, of which user it is, and its bytes.
    """
    pieces = tuple((user, data) for data, _ in pairs)
    return Case(pieces, [messages for _, messages in pairs])


def whole() -> Iterator[Case]:
    """Yield one frame in one read: those of RFC 6455 s5.7, masked."""
    hello = [(TEXT, "Hello")]
    yield reads((HELLO, hello))
    yield reads((frame(PING, b"Hello"), [(PING, b"Hello")]))
    yield reads((frame(PONG, b"Hello"), [(PONG, b"Hello")]))
    for size in (256, 65536):
        payload = bytes(range(256)) * (size // 256)
        yield reads((frame(BINARY, payload), [(BINARY, payload)]))


def sizes() -> Iterator[Case]:
    """Yield payloads at the ends of the three forms of the length."""
    for size in (0, 1, 125, 126, 65535, 65536):
        text = "x" * size
        yield reads((frame(TEXT, text.encode()), [(TEXT, text)]))
    yield reads((frame(PING), [(PING, b"")]))


def glued() -> Iterator[Case]:
    """Yield several frames in one read."""
    three = HELLO + frame(BINARY, b"2") + frame(PING, b"3")
    messages = [(TEXT, "Hello"), (BINARY, b"2"), (PING, b"3")]
    yield reads((three, messages))
    yield reads((frame(TEXT, b"a") * 300, [(TEXT, "a")] * 300))


def cut() -> Iterator[Case]:
    """Yield frames cut in two, at every place."""
    long = frame(TEXT, b"x" * 200)
    for data, text in ((HELLO, "Hello"), (long, "x" * 200)):
        for at in range(1, len(data)):
            yield reads((data[:at], []), (data[at:], [(TEXT, text)]))


def both() -> Iterator[Case]:
    """Yield reads that end in the middle of the second frame."""
    for at in range(1, len(HELLO)):
        yield reads(
            (HELLO + HELLO[:at], [(TEXT, "Hello")]),
            (HELLO[at:], [(TEXT, "Hello")]),
        )


def bytewise() -> Iterator[Case]:
    """Yield a stream that comes byte by byte."""
    stream, pairs = frame(TEXT, b"y" * 126) + HELLO, []
    ends = {len(stream) - len(HELLO): "y" * 126, len(stream): "Hello"}
    for at in range(len(stream)):
        message = ends.get(at + 1)
        pairs.append(
            (stream[at : at + 1], [(TEXT, message)] if message else [])
        )
    yield reads(*pairs)


def fragments() -> Iterator[Case]:
    """Yield messages in several frames."""
    first, last = frame(TEXT, b"Hel", False), frame(CONTINUATION, b"lo")
    yield reads((first + last, [(TEXT, "Hello")]))
    yield reads((first, []), (last, [(TEXT, "Hello")]))
    middle = frame(CONTINUATION, b"", False)
    yield reads((first + middle + last + HELLO, [(TEXT, "Hello")] * 2))
    pieces = frame(BINARY, b"\xff", False) + frame(CONTINUATION, b"\xfe")
    yield reads((pieces, [(BINARY, b"\xff\xfe")]))


def keys() -> Iterator[Case]:
    """Yield fragments with keys and lengths of their own."""
    first = frame(TEXT, b"Hello", False, OTHER_KEY)
    yield reads((first + frame(CONTINUATION, b", you"), [(TEXT, "Hello, you")]))


def between() -> Iterator[Case]:
    """Yield control frames between the fragments of a message."""
    first, last = frame(TEXT, b"Hel", False), frame(CONTINUATION, b"lo")
    ping, pong = frame(PING, b"?"), frame(PONG, b"!")
    told = [(PING, b"?"), (PONG, b"!"), (TEXT, "Hello")]
    yield reads((first + ping + pong + last, told))
    yield reads((first, []), (ping, [(PING, b"?")]), (last, [(TEXT, "Hello")]))


def utf8() -> Iterator[Case]:
    """Yield text whose letters are cut by fragments, and by TCP."""
    data = LETTERS.encode()
    told = [(TEXT, LETTERS)]
    for at in range(1, len(data)):
        first = frame(TEXT, data[:at], False)
        yield reads((first, []), (frame(CONTINUATION, data[at:]), told))
    one = frame(TEXT, data)
    for at in range(1, len(one)):
        yield reads((one[:at], []), (one[at:], told))


def close() -> Iterator[Case]:
    """Yield Close frames: with a code and a reason, and with nothing."""
    yield reads((encode_close(1000, "bye", KEY), [(CLOSE, (1000, "bye"))]))
    yield reads((frame(CLOSE), [(CLOSE, (1005, ""))]))


def two() -> Iterator[Case]:
    """Yield the reads of two users in turns."""
    data, hello = HELLO, [(TEXT, "Hello")]
    first, last = frame(TEXT, b"Hel", False), frame(CONTINUATION, b"lo")
    yield Case(
        ((0, data[:7]), (1, data[:3]), (0, data[7:]), (1, data[3:])),
        [[], [], hello, hello],
    )
    yield Case(((0, first), (1, HELLO), (0, last)), [[], hello, hello])


def long() -> Iterator[Case]:
    """Yield a picture in reads of 4,096 bytes."""
    payload = bytes(range(256)) * 400
    stream, pairs = frame(BINARY, payload), []
    for at in range(0, len(stream), 4096):
        ended = at + 4096 >= len(stream)
        told = [(BINARY, payload)] if ended else []
        pairs.append((stream[at : at + 4096], told))
    yield reads(*pairs)


# ---- what a student's class makes of it -------------------------------------


def call(made: Any, pieces: tuple[Any, ...]) -> list[Any]:
    """Give each read to the decoder of its user; return what came out."""
    decoders: dict[int, Any] = {}
    out = []
    for user, data in pieces:
        if user not in decoders:
            decoders[user] = made()
        out.append(take(decoders[user].feed(data)))
    return out


def take(told: Any) -> Any:
    """Return what feed() gave as a list; a generator is one, too."""
    if told is None:
        raise Unfit("None", NOTHING)
    if isinstance(told, (str, bytes, dict)) or not hasattr(told, "__iter__"):
        raise Unfit(shown(told), PAIRS)
    return list(islice(told, MOST))


def settle(out: list[Any]) -> list[Any]:
    """Return pairs that can be compared; raise Unfit for anything else."""
    for each in out:
        for pair in each:
            check_pair(pair)
    return [[(int(pair[0]), pair[1]) for pair in each] for each in out]


def check_pair(pair: Any) -> None:
    """Raise Unfit if this is not (opcode, message)."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise Unfit(shown(pair), PAIRS)
    opcode, message = pair
    if not isinstance(opcode, int) or opcode not in NAMES:
        raise Unfit(shown(pair), WHICH_OPCODE if opcode == 0 else PAIRS)
    kind = {TEXT: str, CLOSE: tuple}.get(opcode, bytes)
    if not isinstance(message, kind):
        words = f"a {NAMES[opcode]} with {a(type(message).__name__)}"
        rule = f"s5.6: the message of a {NAMES[opcode]} is {a(kind.__name__)}."
        hint = "What has to be done to a payload, before it is that?"
        raise Unfit(words, Finding("kind", rule, hint))
    if opcode == CLOSE and list(map(type, message)) != [int, str]:
        raise Unfit(shown(pair), CLOSING)


def describe(case: Case) -> Rows:
    """Return the reads; the mark is where TCP cut."""
    rows, last = [], len(case.arguments) - 1
    users = {user for user, _ in case.arguments}
    for number, (user, data) in enumerate(case.arguments):
        who = f" {'AB'[user]}" if len(users) > 1 else ""
        mark = "|" if number < last else ""
        rows.append((f"read {number + 1}{who}", in_hex(data) + mark))
    if len(rows) > 6:
        rows[3:-2] = [("...", "")]
    # Where there are two users, their bytes are mixed here.
    if len(users) == 1:
        stream = b"".join(data for _, data in case.arguments)
        rows.append(("frames", frames_in_words(stream)))
    return rows


def frames_in_words(stream: bytes) -> str:
    """Return what frames are in a stream; of many, the first ones."""
    words: list[str] = []
    at = 0
    while at < len(stream) and len(words) < MOST_FRAMES:
        found = Frame(stream, at)
        fin = "" if found.named["FIN"].value else " without FIN"
        size = many(len(found.plain), "byte")
        words.append(f"{found.opcode.meaning}{fin}, {size}")
        at += found.size()
    more = ["and more"] if at < len(stream) else []
    return "; ".join([*words, *more])


def in_words(out: Any) -> str:
    """Return messages of some reads in words: what came, and when."""
    parts = []
    for number, told in enumerate(out, 1):
        words = [f"{NAMES[op]} {shown(message)}" for op, message in told[:3]]
        if len(told) > 3:
            words.append(f".. ({len(told)} in all)")
        if words:
            parts.append(f"after read {number}: {', '.join(words)}")
    return "; ".join(parts) or "no message"


PAIRS = Finding(
    "pairs",
    "A list has to come out, of pairs (opcode, message).",
    "What does feed() return, if nothing is whole, and if one message is?",
)
WHICH_OPCODE = Finding(
    "opcode 0",
    "s5.4: a message is what its first frame says; CONTINUATION is none.",
    "When the last piece comes, who still knows whether it was text?",
)
ONE = Finding(
    "one frame",
    "s5.2: the payload is behind the header, as long as that says.",
    "What did read_header() return, and what did you do with each of it?",
)
SIZE = Finding(
    "length",
    "s5.2: a payload has any length, also none.",
    "Do you test for None, or for something that 0 is, too?",
)
GLUED = Finding(
    "one read is one frame",
    "s6.2: what comes is a stream. One read may bring several frames.",
    "When the first frame is out: who looks at the bytes behind it?",
)
REST = Finding(
    "the rest is lost",
    "s6.2: TCP cuts where it likes. What is not whole is kept for later.",
    "At the next read, where are the bytes that were too few the last time?",
)
TOO_EARLY = Finding(
    "half a frame",
    "s6.2: TCP cuts where it likes. A message is given out when it is whole.",
    "Do you compare where the payload ends with how many bytes are there?",
)
FRAGMENTS = Finding(
    "fragments",
    "s5.4: a message without FIN goes on in the next frames.",
    "What does FIN say, and what do you keep until it comes?",
)
KEYS = Finding(
    "one key for all",
    "s5.3: each frame has a masking key of its own.",
    "When do you unmask: each frame as it comes, or all of it at the end?",
)
BETWEEN = Finding(
    "a ping between",
    "s5.4: control frames may come between the fragments of a message.",
    "Does a ping change what you have kept of the message?",
)
UTF8 = Finding(
    "UTF-8 cut",
    "s5.6, s8.1: a whole message is UTF-8; a piece may end inside a letter.",
    "At which moment do you call decode(), and of which bytes?",
)
CLOSING = Finding(
    "close",
    "s5.5.1: a Close has no payload, or two bytes of code and a reason.",
    "Which function of codec.py takes the payload of a Close apart?",
)
SHARED = Finding(
    "shared by all",
    "s5.4: each connection is a stream of its own.",
    "Is what you keep in self, or does it belong to the class, to all?",
)


def find(case: Case, got: Any) -> Finding | None:
    """Tell a lost rest from a message that came too early."""
    counts = [len(told) for told in got]
    expected = [len(told) for told in case.expected]
    is_cut = len(counts) == 2 and expected == [0, 1]
    return TOO_EARLY if is_cut and counts[0] and not is_utf8(case) else None


def is_utf8(case: Case) -> bool:
    """Tell whether a case is about letters cut in two."""
    return [(TEXT, LETTERS)] in case.expected


LAB = Lab(
    4,
    "Decoder",
    "s5.4 to s6.2",
    30,
    ("__init__", "feed"),
    (
        Check("whole", "the RFC's frames (s5.7), one in one read", whole, ONE),
        Check("sizes", "payloads of 0 to 65,536 bytes", sizes, SIZE),
        Check("glued", "several frames in one read", glued, GLUED),
        Check("cut", "every cut: a frame in two reads", cut, REST),
        Check("both", "one frame and a half, then the rest", both, REST),
        Check("bytes", "one byte in each read", bytewise, REST),
        Check("fragments", "a message in several frames", fragments, FRAGMENTS),
        Check("keys", "fragments with different keys", keys, KEYS),
        Check("between", "a ping between fragments", between, BETWEEN),
        Check("utf8", "letters that are cut in two", utf8, UTF8),
        Check("close", "the Close frame", close, CLOSING),
        Check("two", "two users, two decoders", two, SHARED),
        Check("long", "100 KB in many reads", long, REST),
    ),
    call=call,
    settle=settle,
    describe=describe,
    find=find,
    words=in_words,
    look="FRAME #1 --> server. With --recv-size 20 as well, your decoder has"
    " to wait for the rest: look for waiting",
)
