"""RFC 6455 section 5 once more, as simply as possible: slow, but obvious.

It shares no code with codec.py, so that a mistake would have to be made
twice to go unseen: it takes all bytes at once, one frame after the other,
unmasks byte by byte and knows UTF-8 from the grammar in RFC 3629.
"""

from __future__ import annotations

import re

# RFC 3629 s4. Each character, and each beginning of one.
TAIL = rb"[\x80-\xbf]"
CHARACTER = (
    rb"[\x00-\x7f]"
    rb"|[\xc2-\xdf]" + TAIL + rb"|\xe0[\xa0-\xbf]" + TAIL + rb"|\xed[\x80-\x9f]"
    # The surrogates, ED A0 80 to ED BF BF, are left out.
    + TAIL + rb"|[\xe1-\xec\xee\xef]" + TAIL * 2 + rb"|\xf0[\x90-\xbf]"
    + TAIL * 2 + rb"|[\xf1-\xf3]" + TAIL * 3 + rb"|\xf4[\x80-\x8f]" + TAIL * 2
)  # fmt: skip
BEGINNING = (
    rb"[\xc2-\xf4]"
    rb"|\xe0[\xa0-\xbf]|\xed[\x80-\x9f]|[\xe1-\xec\xee\xef]" + TAIL
    + rb"|\xf0[\x90-\xbf]" + TAIL + rb"?|[\xf1-\xf3]" + TAIL + rb"{1,2}"
    + rb"|\xf4[\x80-\x8f]" + TAIL + rb"?"
)  # fmt: skip
UTF8 = re.compile(rb"(?:%s)*" % CHARACTER)
UTF8_SO_FAR = re.compile(rb"(?:%s)*(?:%s)?" % (CHARACTER, BEGINNING))


class End(Exception):  # noqa: N818 - it need not be an error
    """Nothing more is decoded; its one argument: the close code or None."""


def decode(stream, masked, limit):
    """Return (messages, close code or None) for all bytes of a connection.

    A message is (opcode, content): text as str, a Close as (code, reason),
    all else as bytes. The close code is that of the rule that was broken.
    """
    messages = []
    try:
        decode_frames(bytearray(stream), masked, limit, messages)
    except End as end:
        return messages, end.args[0]


def take(stream, count):
    """Remove and return bytes from the front; End if they are not there."""
    if len(stream) < count:
        raise End(None)
    taken = bytes(stream[:count])
    del stream[:count]
    return taken


def decode_frames(stream, masked, limit, messages):
    kind, message = None, b""  # of the unfinished message
    while True:
        first, second = take(stream, 2)
        final, reserved, opcode = first >= 128, first // 16 % 8, first % 16
        if reserved or opcode not in (0, 1, 2, 8, 9, 10):
            raise End(1002)
        if masked != (second >= 128):
            raise End(1002)
        control = opcode >= 8
        if control and (not final or second % 128 > 125):
            raise End(1002)
        if opcode == 0 and kind is None:
            raise End(1002)
        if opcode in (1, 2) and kind is not None:
            raise End(1002)
        length = take_length(stream, second % 128)
        if not control and len(message) + length > limit:
            raise End(1009)
        key = take(stream, 4) if masked else bytes(4)
        payload = bytes(stream[:length])
        payload = bytes(b ^ key[i % 4] for i, b in enumerate(payload))
        if control:
            take(stream, length)
            if opcode != 8:
                messages.append((opcode, payload))
                continue
            messages.append((8, take_close(payload)))
            raise End(None)
        kind, message = opcode or kind, message + payload
        if kind == 1 and not UTF8_SO_FAR.fullmatch(message):
            raise End(1007)
        take(stream, length)
        if final:
            if kind == 1:
                message = take_text(message)
            messages.append((kind, message))
            kind, message = None, b""


def take_length(stream, length):
    """Return the length that these 7 bits mean or announce."""
    if length == 126:
        length = int.from_bytes(take(stream, 2), "big")
        smallest = 126
    elif length == 127:
        length = int.from_bytes(take(stream, 8), "big")
        smallest = 65536
    else:
        smallest = 0
    if length < smallest or length >= 2**63:
        raise End(1002)
    return length


def take_text(payload):
    if not UTF8.fullmatch(payload):
        raise End(1007)
    return payload.decode()


def take_close(payload):
    """Return (code, reason) of a Close frame's payload."""
    if payload == b"":
        return 1005, ""
    if len(payload) == 1:
        raise End(1002)
    code = payload[0] * 256 + payload[1]
    defined = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011]
    later = [1012, 1013, 1014]  # IANA's registry
    if code not in defined + later and not 3000 <= code <= 4999:
        raise End(1002)
    return code, take_text(payload[2:])
