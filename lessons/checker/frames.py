"""Stages 3 to 7 of the checker: what one user sends, and what comes back."""

from __future__ import annotations

from typing import Sequence

from codec import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    encode_close,
)
from lessons.checker.room import Room
from lessons.checker.verdict import Step, Steps
from lessons.checker.wire import Message, Wire, WrongError, describe
from lessons.words import many

# ---- 3 to 5: one frame, and how it travels ----------------------------------


def short_frame(room: Room) -> Steps:
    """Say a few short texts."""
    read = "codec.py: Decoder.feed(), encode_frame()"
    yield Step(
        'the RFC\'s own frame (s5.7), "Hello", comes back',
        "s5.2: two bytes, four of the masking key, then the payload",
        "Which byte of the key meets the fifth letter?",
        read,
    )
    user = room.join()
    user.send(bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58"))
    user.hear("Hello")

    yield Step(
        "so does a second text, with another masking key",
        "s5.3: each frame brings a masking key of its own",
        "What does your server do after the first message?",
        read,
    )
    room.say(user, room.words(20))

    yield Step(
        "so do letters of two, three and four bytes",
        "s5.6: a text is UTF-8; its length counts bytes, not letters",
        "How many letters has this text, and how many bytes?",
        "codec.py: to_payload()",
    )
    room.say(user, f"{room.words(8)} \xe4\xf6\xfc \u4f60\u597d \U0001f388")


def lengths(room: Room) -> Steps:
    """Say messages at the borders of all forms of the length."""
    user = room.join()
    for size, why in LENGTHS:
        yield Step(
            f"{many(size, 'byte')} {why}".rstrip(),
            "s5.2: up to 125 it is the length; 126: it is in the next two"
            " bytes; 127: in the next eight; the high byte comes first",
            "Which bytes of the header hold the length here?",
            "codec.py: Decoder.read_header(), encode_header()",
        )
        room.say(user, room.words(size))
        room.say(user, room.random_bytes(size))


LENGTHS = [
    (0, "(an empty message is one, too)"),
    (1, ""),
    (125, "(the most that seven bits say)"),
    (126, "(the first in 16 bits)"),
    (127, ""),
    (300, "(neither of its two bytes is zero)"),
    (65535, "(the most in 16 bits)"),
    (65536, "(the first in 64 bits)"),
    (100_000, ""),
]


STREAM = "s6.2: TCP brings a stream of bytes; frames are found in it"
KEEP = "Where does your server keep what is not whole yet?"
REST = "codec.py: Decoder.feed(), and its self.rest"


def cuts(room: Room) -> Steps:
    """Cut and glue the same frames in many ways."""
    user = room.join()
    yield from cut(room, user)
    yield from glue(room, user)
    yield from fill(room, user)
    yield from begin(room)


def cut(room: Room, user: Wire) -> Steps:
    """Send one frame in several pieces."""
    for size, which in ((12, "7"), (200, "16"), (70_000, "64")):
        yield Step(
            f"a frame with a length in {which} bits, cut behind each byte",
            STREAM,
            KEEP,
            REST,
        )
        for at in range(1, min(size + 6, 20)):
            text = room.words(size)
            frame = room.message(text)
            user.send(frame[:at], frame[at:])
            user.hear(text)

    yield Step("a frame, one byte at a time", STREAM, KEEP, REST)
    text = room.words(40)
    user.send(*one_by_one(room.message(text)))
    user.hear(text)


def glue(room: Room, user: Wire) -> Steps:
    """Send several frames in one piece, and a half of one behind it."""
    glued = "What does your server do with the bytes behind the first frame?"
    yield Step("two frames in one piece", STREAM, glued, REST)
    for _ in range(5):
        say_at_once(room, user, 2)

    yield Step("a hundred frames in one piece", STREAM, glued, REST)
    say_at_once(room, user, 100)

    yield Step("a frame and a half, then the other half", STREAM, KEEP, REST)
    for at in range(1, 18):
        first, second = room.words(12), room.words(12)
        frame = room.message(second)
        # Its answer tells that the first piece has been read.
        user.send(room.message(first) + frame[:at])
        user.hear(first, settled=False)
        user.send(frame[at:])
        user.hear(second)


def fill(room: Room, user: Wire) -> Steps:
    """Send as many bytes as servers like to read at once."""
    yield Step(
        "frames of 1000, 1024, 2048, 4096 and 8192 bytes in all",
        STREAM,
        "Your read is full: does that mean that there is more to come?",
        "server.py: Server.read()",
    )
    for size in (1000, 1024, 2048, 4096, 8192):
        room.say(user, room.words(size - 8))


def begin(room: Room) -> Steps:
    """Cut and glue where the handshake ends and the frames begin."""
    yield Step(
        "the first frame in one piece with the handshake",
        "s4.2.2: behind the empty line, the bytes are frames",
        "What does your server do with the bytes behind the empty line?",
        "server.py: Server.read_request()",
    )
    key, text, user = room.key(), room.words(), room.knock()
    user.send(room.request(key) + room.message(text))
    room.enter(user, key)
    user.hear(text)

    yield Step(
        "a handshake, one byte at a time",
        "s4.2.1: an empty line ends the request, however it arrives",
        "How does your server know that the request is whole?",
        "handshake.py: take_request()",
    )
    key, text, user = room.key(), room.words(), room.knock()
    request = room.request(key)
    user.send(*one_by_one(request[:-1]), request[-1:] + room.message(text))
    room.enter(user, key)
    user.hear(text)


def one_by_one(data: bytes) -> list[bytes]:
    """Return each byte by itself."""
    return [data[at : at + 1] for at in range(len(data))]


def say_at_once(room: Room, user: Wire, count: int) -> None:
    """Send some messages in one piece; hear them in their order."""
    texts = [room.words(12) for _ in range(count)]
    user.send(b"".join(map(room.message, texts)))
    user.hear(*texts)


# ---- 6 and 7: fragments and control frames ----------------------------------


def fragments(room: Room) -> Steps:
    """Say messages that come in several frames."""
    read = "codec.py: Decoder.begin_frame(), end_message()"
    rule = "s5.4: a message is its first frame and the continuations, up to FIN"
    user = room.join()
    user.if_cut = None
    ping = room.frame(PING, b"in between")
    for title, sizes, between, question in FRAGMENTS:
        yield Step(title, rule, question, read)
        for message in (room.words(sum(sizes)), room.random_bytes(sum(sizes))):
            user.send(*split(room, message, sizes, ping if between else b""))
            user.hear(message)

    yield Step(
        "a letter of three bytes, each in a frame of its own",
        "s5.6: UTF-8 is looked at in the whole message, not in each frame",
        "When is a text decoded: with each frame, or at its end?",
        "codec.py: Decoder.take_piece(), check_utf8()",
    )
    text = f"{room.words(8)} \u20ac"
    user.send(*split(room, text, (10, 1, 1), b""))
    user.hear(text)

    yield Step(
        "fragments and a ping, one byte at a time",
        "s5.4, s6.2: frames in a stream",
        "Where is the message kept, and where the frame?",
        read,
    )
    text = room.words(24)
    user.send(*one_by_one(b"".join(split(room, text, (9, 0, 15), ping))))
    user.hear(text)

    yield Step(
        "then a message in one frame",
        rule,
        "What is left of the last message when its end has come?",
        read,
    )
    room.say(user, room.words())


FRAGMENTS = [
    (
        "two fragments make one message",
        (8, 4),
        False,
        "Which bit says that a message goes on?",
    ),
    (
        "so do nine",
        (9, 1, 2, 3, 4, 5, 6, 7, 8),
        False,
        "Which opcode have all frames but the first?",
    ),
    (
        "fragments may be empty, the first and the last one, too",
        (0, 12, 0, 8, 0),
        False,
        "Is a frame without a payload still a frame?",
    ),
    (
        "pings may stand between them",
        (10, 10, 10),
        True,
        "What happens to the half message while a ping is answered?",
    ),
    (
        "fragments may be large",
        (40_000, 70_000, 130),
        True,
        "Does each fragment have its own length and its own key?",
    ),
]


def split(
    room: Room, message: Message, sizes: Sequence[int], between: bytes
) -> list[bytes]:
    """Return the fragments of a message, each with a frame behind it."""
    is_text = isinstance(message, str)
    payload = message.encode() if isinstance(message, str) else message
    opcode, frames, at = TEXT if is_text else BINARY, [], 0
    for number, size in enumerate(sizes, 1):
        is_last = number == len(sizes)
        frame = room.frame(opcode, payload[at : at + size], is_last)
        frames.append(frame if is_last else frame + between)
        opcode, at = CONTINUATION, at + size
    return frames


def control(room: Room) -> Steps:
    """Ask with pings, say goodbye in several ways."""
    yield from ping(room)
    yield from say_goodbye(room)
    yield from leave(room)


def ping(room: Room) -> Steps:
    """Ask for pongs, and send one that nobody has asked for."""
    user = room.join()
    for payload in (b"hello?", b"", room.words(125).encode()):
        yield Step(
            f"a ping with {many(len(payload), 'byte')} gets a pong with them",
            "s5.5.3: a pong carries the same payload as its ping",
            "Is the payload of a ping masked, too?",
            "server.py: Server.hear()",
        )
        user.send(room.frame(PING, payload))
        user.hear_pong(payload)

    yield Step(
        "a pong that nobody asked for gets no answer",
        "s5.5.3: an answer to such a pong is not expected",
        "What would two servers do that answer each other's pongs?",
        "server.py: Server.hear()",
    )
    user.send(room.frame(PONG, b"I am here"))
    text = room.words()
    user.send(room.message(text))
    user.hear(text)
    if b"I am here" in user.pongs:
        raise WrongError(user, "no answer", 'a pong with "I am here"')


def say_goodbye(room: Room) -> Steps:
    """Say Close, with what may stand in it."""
    close_rule = "s5.5.1: a Close frame is answered with a Close frame"
    for title, payload in CLOSES:
        yield Step(
            f"a Close {title} is answered by a Close",
            close_rule,
            "Which of the two sides has said goodbye so far?",
            "server.py: Server.hear(); codec.py: encode_close()",
        )
        user = room.join()
        user.send(room.frame(CLOSE, payload))
        user.hear_close("a Close frame")
        if user.close and user.close.code in (1002, 1007):
            raise WrongError(
                user, "a Close that accepts ours", user.what_came()
            )

        yield Step(
            "and then the server hangs up",
            "s7.1.1: after both Close frames the server closes TCP first",
            "Who calls close() on this socket, and when?",
            "server.py: Server.finish(), write(), drop()",
        )
        user.hear_end()


def leave(room: Room) -> Steps:
    """Say something behind a Close; leave without one."""
    yield Step(
        "what stands behind a Close is not heard",
        "s5.5.1: behind a Close frame nothing counts",
        "In one read there are a Close and a text: what is done with the text?",
        "codec.py: Decoder.feed()",
    )
    user, text = room.join(), room.words()
    user.send(room.frame(CLOSE, b"\x03\xe8") + room.message(text))
    user.hear_close("a Close frame")
    if text in user.others:
        raise WrongError(user, "only a Close frame", describe(text))

    yield Step(
        "who hangs up without a Close, in the middle of a frame, harms nobody",
        "s7.1.5: such an end is 1006, and only for this user",
        "What do recv() and send() do when the other side has gone?",
        "server.py: Server.read(), end()",
    )
    for size in (3, 9):
        user = room.join()
        user.send(room.message(room.words())[:size])
        user.hang_up()
    user = room.join()
    room.say(user, room.words())


CLOSES = [
    ("with 1000 and a reason", encode_close(1000, "bye")[2:]),
    ("without a code", b""),
    ("with 4001, a program's own code,", encode_close(4001)[2:]),
]
