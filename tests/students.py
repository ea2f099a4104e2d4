"""What students write: wrong parts, wrong loops, and files that misbehave."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from tests.support import ROOT

ANSWERS = ROOT / "lessons" / "answers"
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BEFORE = {
    1: f"import base64, hashlib\nGUID = '{GUID}'\n",
    2: "",
    3: "",
    4: """
from codec import *
from codec import decode_close, CLOSE, PING, PONG, TEXT, BINARY, CONTINUATION
from lessons.answers.lab2 import mask
from lessons.answers.lab3 import read_header
""",
    5: "from lessons.answers.lab2 import mask\n",
}
HEADER = """
def read_header(data, at):
    if len(data) - at < 2:
        return None
    first, second = data[at], data[at + 1]
    size, start = second & 127, at + 2
    if size == 126:
        size, start = int.from_bytes(data[start:start + 2], "big"), start + 2
    elif size == 127:
        size, start = int.from_bytes(data[start:start + 8], "big"), start + 8
    key = b""
    if second & 128:
        key, start = data[start:start + 4], start + 4
    if start > len(data):
        return None
    return first & 128, first & 15, key, start, size
"""
FRAME = """
def encode_frame(opcode, payload, key=b"", fin=True):
    first = opcode | 128 if fin else opcode
    bit = 128 if key else 0
    size = len(payload)
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 65536:
        head = bytes([first, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, bit | 127]) + size.to_bytes(8, "big")
    return head + key + mask(payload, key)
"""
DECODER = textwrap.dedent(
    (ANSWERS / "lab4.py").read_text("utf-8").partition("\n\n\n")[2]
)


def write(folder, what, number, source):
    """Write a student's file into a folder of its own; return its path."""
    place = Path(folder, re.sub(r"\W", "-", what) + str(number))
    place.mkdir()
    path = place / f"lab{number}.py"
    path.write_text(source, "utf-8")
    return str(path)


def accept(expression):
    return f"def accept_key(key):\n    return {expression}\n"


def masking(expression):
    return f"def mask(payload, key):\n    return {expression}\n"


def but(source, *changes):
    """Return a right source with some lines of it made wrong."""
    for right, wrong in changes:
        assert right in source, right
        source = source.replace(right, wrong)
    return source


SHA = "hashlib.sha1((key + GUID).encode())"
B64 = "base64.b64encode"
BIG2, BIG8 = 'start + 2], "big")', 'start + 8], "big")'

# (lab, what it is, source, the check that fails, what it says is wrong)
WRONG = [
    (1, "hex", accept(f"{SHA}.hexdigest()"), "rfc", "hex"),
    (1, "base64 of hex",
        accept(f"{B64}({SHA}.hexdigest().encode()).decode()"), "rfc", "hex"),
    (1, "bytes", accept(f"{B64}({SHA}.digest())"), "rfc", "kind"),
    (1, "no GUID",
        accept(f"{B64}(hashlib.sha1(key.encode()).digest()).decode()"),
        "rfc", "no GUID"),
    (1, "GUID first",
        accept(f"{B64}(hashlib.sha1((GUID+key).encode()).digest()).decode()"),
        "rfc", "GUID first"),
    (1, "decoded key",
        accept(f"{B64}(hashlib.sha1(base64.b64decode(key) + GUID.encode())"
               ".digest()).decode()"), "rfc", "decoded key"),
    (1, "a newline",
        accept(f"base64.encodebytes({SHA}.digest()).decode()"),
        "rfc", "newline"),
    (1, "str() of bytes", accept(f"str({B64}({SHA}.digest()))"),
        "rfc", "str of bytes"),
    (1, "the tutorial's hyphens",
        "GUID = GUID.replace('-', '\\u2010')\n"
        + accept(f"{B64}({SHA}.digest()).decode()"), "rfc", "hyphens"),
    (1, "small letters", "GUID = GUID.lower()\n"
        + accept(f"{B64}({SHA}.digest()).decode()"), "rfc", "lower case"),
    (1, "SHA-256", accept(f"{B64}({SHA}.digest()).decode()").replace(
        "sha1", "sha256"), "rfc", "SHA-256"),
    (1, "the example's answer", accept("'s3pPLMBiTxaQ9kYGzzhZRbK+xOo='"),
        "others", "one answer"),
    (2, "i % 3",
        masking("bytes(b ^ key[i % 3] for i, b in enumerate(payload))"),
        "rfc", "i % 3"),
    (2, "one byte of the key", masking("bytes(b ^ key[0] for b in payload)"),
        "rfc", "one byte"),
    (2, "zip", masking("bytes(a ^ b for a, b in zip(payload, key))"),
        "rfc", "four bytes"),
    (2, "or", masking("bytes(b | key[i % 4] for i, b in enumerate(payload))"),
        "rfc", "or"),
    (2, "not at all", masking("payload"), "rfc", "unchanged"),
    (2, "the key backwards",
        masking("bytes(b ^ key[3 - i % 4] for i, b in enumerate(payload))"),
        "rfc", "backwards"),
    (2, "a list", masking("[b ^ key[i % 4] for i, b in enumerate(payload)]"),
        "rfc", "kind"),
    (2, "no key",
        masking("bytes(b ^ key[i % 4] for i, b in enumerate(payload))"),
        "no key", "no key"),
    (2, "only whole fours", masking(
        "b''.join(bytes(a ^ b for a, b in zip(payload[i:i + 4], key)) "
        "for i in range(0, max(len(payload) - 3, 5), 4))"),
        "lengths", "length"),
    (3, "little-endian",
        but(HEADER, (BIG2, BIG2.replace("big", "little"))),
        "rfc", "little-endian"),
    (3, "125 for 126", but(HEADER, ("size == 126", "size in (125, 126)")),
        "lengths", "125"),
    (3, "MASK counts", but(HEADER, ("second & 127", "second")),
        "rfc", "MASK in length"),
    (3, "FIN in the opcode", but(HEADER, ("first & 15", "first")),
        "rfc", "opcode"),
    (3, "FIN is missed",
        but(HEADER, ("first & 128, first", "first & 64, first")),
        "rfc", "fin"),
    (3, "the payload before the mask",
        but(HEADER, ("start + 4], start + 4", "start + 4], start")),
        "rfc", "start"),
    (3, "127 with four bytes",
        but(HEADER, ('8], "big"), start + 8', '4], "big"), start + 4')),
        "rfc", "4 of 8 bytes"),
    (3, "126 taken for the length",
        but(HEADER, ("int.from_bytes(data[start:start + 2], \"big\")", "size")),
        "rfc", "126 is no length"),
    (3, "127 is read twice",
        but(HEADER, ("elif size == 127", "if size == 127")),
        "lengths", "127 read twice"),
    (3, "data[0]", but(HEADER, ("data[at], data[at + 1]", "data[0], data[1]")),
        "at", "at"),
    (3, "half a key", but(HEADER, ("if start > len(data)", "if False")),
        "cuts", "cut"),
    (3, "the end is not looked at",
        but(HEADER, ("if len(data) - at < 2", "if False")), "cuts", "cut"),
    (3, "waits for the payload",
        but(HEADER, ("if start > len(data)", "if start + size > len(data)")),
        "rfc", "waits for payload"),
    (3, "None for no key", but(HEADER, ('key = b""', "key = None")),
        "rfc", "no key"),
    (3, "a character for a byte",
        but(HEADER, ("first & 128, first & 15", "first & 128, '1'")),
        "rfc", "kind"),
    (3, "four values",
        but(HEADER, ("key, start, size", "start, size")), "rfc", "five values"),
    (3, "the wrong four bytes",
        but(HEADER, ("data[start:start + 4], start", "data[2:6], start")),
        "lengths", "key"),
    (4, "one read is one frame",
        but(DECODER, ("self.rest += data", "self.rest = data"),
            ("self.rest = self.rest[end:]", "self.rest = b''")),
        "glued", "one read is one frame"),
    (4, "one frame for each read",
        but(DECODER, ("while True:", "for _ in range(1):"),
            ("messages.append((BINARY, self.payload))",
             "messages.append((BINARY, self.payload))\n"
             "        return messages")),
        "glued", "one read is one frame"),
    (4, "the rest is lost",
        but(DECODER, ("self.rest += data", "self.rest = data")),
        "cut", "the rest is lost"),
    (4, "half a payload is enough",
        but(DECODER, ("if len(self.rest) < end:", "if False:")),
        "cut", "half a frame"),
    (4, "each frame is a message",
        but(DECODER, ("if fin and self.opcode ==", "if self.opcode =="),
            ("elif fin:", "else:")), "fragments", "fragments"),
    (4, "CONTINUATION is a message",
        but(DECODER, ("if opcode != CONTINUATION:", "if True:")),
        "fragments", "fragments"),
    (4, "UTF-8 cut in the middle",
        but(DECODER, ("self.opcode, self.payload = opcode, b\"\"",
                      "self.opcode, self.payload = opcode, ''"),
            ("self.payload += payload",
             "self.payload += payload.decode() if self.opcode == TEXT "
             "else payload.decode('latin-1')"),
            ("self.payload.decode()", "self.payload"),
            ("BINARY, self.payload", "BINARY, self.payload.encode('latin-1')")),
        "utf8", "UTF-8 cut"),
    (4, "CONTINUATION is given out",
        but(DECODER, ("messages.append((TEXT, self.payload.decode()))",
                      "messages.append((opcode, self.payload.decode()))")),
        "fragments", "opcode 0"),
    (4, "messages without opcodes",
        but(DECODER, ("(TEXT, self.payload.decode())",
                      "self.payload.decode()")), "whole", "pairs"),
    (4, "the header is part of the payload",
        but(DECODER, ("self.rest[start:end]", "self.rest[:end]")),
        "whole", "one frame"),
    (4, "a ping ends the message",
        but(DECODER, ("elif opcode in (PING, PONG):",
                      "elif opcode in (PING, PONG):\n"
                      "                self.payload = b''")),
        "between", "a ping between"),
    (4, "one key for all fragments",
        but(DECODER, ("self.opcode, self.payload = opcode, b\"\"",
                      "self.opcode, self.payload, self.key = opcode, b'', key"),
            ("self.payload += payload",
             "self.payload += mask(mask(payload, key), self.key)")),
        "keys", "one key for all"),
    (4, "state of the class",
        but(DECODER, ('self.rest = b""', "Decoder.rest = b''"),
            ("self.rest += data", "Decoder.rest += data"),
            ("self.rest = self.rest[end:]", "Decoder.rest = self.rest[end:]")),
        "two", "shared by all"),
    (4, "bytes for text",
        but(DECODER, ("self.payload.decode()", "self.payload")),
        "whole", "kind"),
    (4, "the Close as it came",
        but(DECODER, ("decode_close(payload)", "payload")), "close", "kind"),
    (4, "no list", but(DECODER, ("return messages", "return None")),
        "whole", "nothing"),
    (4, "no empty message",
        but(DECODER, ("header is None:", "header is None or not header[4]:")),
        "sizes", "length"),
    (5, "little-endian", but(FRAME, ('2, "big"', '2, "little"')),
        "rfc", "little-endian"),
    (5, "125 for 126", but(FRAME, ("size < 126", "size < 125")),
        "lengths", "125"),
    (5, "126 in seven bits", but(FRAME, ("size < 126", "size <= 126")),
        "lengths", "125"),
    (5, "65,535 in eight bytes", but(FRAME, ("size < 65536", "size < 65535")),
        "lengths", "65535"),
    (5, "four bytes behind 127", but(FRAME, ("to_bytes(8", "to_bytes(4")),
        "rfc", "4 of 8 bytes"),
    (5, "always FIN", but(FRAME, ("opcode | 128 if fin else opcode",
                                  "opcode | 128")), "rfc", "FIN"),
    (5, "FIN is 64", but(FRAME, ("opcode | 128", "opcode | 64")), "rfc", "FIN"),
    (5, "all ones for FIN", but(FRAME, ("opcode | 128", "opcode | 240")),
        "rfc", "RSV"),
    (5, "always text", but(FRAME, ("opcode | 128", "1 | 128")),
        "rfc", "opcode"),
    (5, "no eight bytes", but(FRAME, ("size < 65536", "size < 10 ** 9"),
        ("to_bytes(2", "to_bytes(3")), "rfc", "length"),
    (5, "something behind", but(FRAME, ("mask(payload, key)",
                                        "mask(payload, key) + b'.'")),
        "rfc", "header"),
    (5, "never MASK", but(FRAME, ("128 if key else 0", "0")), "rfc", "MASK"),
    (5, "always MASK", but(FRAME, ("128 if key else 0", "128")), "rfc", "MASK"),
    (5, "the key is forgotten", but(FRAME, ("head + key +", "head +")),
        "rfc", "key"),
    (5, "not masked", but(FRAME, ("mask(payload, key)", "payload")),
        "rfc", "payload"),
    (5, "a key must be given", but(FRAME, ('key=b"", fin=True', "key, fin")),
        "short", "header"),
]  # fmt: skip

LOOP = (ROOT / "lessons" / "ladder" / "2_codec.py").read_text("utf-8")
RECV = "data = user.socket.recv(64 * 1024)\n"
NEWCOMER = "self.users.append(User(self.listener.accept()[0]))\n"
OPEN = 'elif user.state == "open":\n                '
WRONG_LOOPS = [
    ("never sleeps", but(LOOP, ("[], [], 0.5", "[], [], 0")), "idles"),
    ("fewer than 7 bytes are a hang-up",
        but(LOOP, ("if not data:", "if len(data) < 7:")), "survives_a_ping"),
    ("nobody notices the end",
        but(LOOP, ('if not data:\n                user.state = "gone"',
                   "if not data:\n                pass")), "lets_go"),
    ("nobody is dropped",
        but(LOOP, ('if user.state == "gone":', "if False:")), "lets_go"),
    ("closed, but kept",
        but(LOOP, ("self.users.remove(user)", "pass")), "lets_go"),
    ("reads until nothing comes",
        but(LOOP, (RECV, RECV + "            while data:\n"
                   "                data += user.socket.recv(99)\n")),
        "accepts"),
    ("reads from a newcomer at once",
        but(LOOP, (NEWCOMER, NEWCOMER + " " * 16
                   + "self.read(self.users[-1])\n")), "takes_its_time"),
    ("nobody catches the error",
        but(LOOP, ("except (OSError, ", "except (")),
        "lets_go_of_one_torn_off"),
    ("nobody catches a bad request",
        but(LOOP, ("handshake.HandshakeError, ", "")),
        "drops_who_breaks_a_rule"),
    ("does not hear", but(LOOP, (OPEN + "self.hear(user, data)",
                                 OPEN + "pass")), "broadcasts"),
    ("waits for the other half",
        but(LOOP, (OPEN, OPEN + "while len(data) < 6 + data[1] % 128:\n"
                   + " " * 20 + "data += user.socket.recv(99)\n"
                   + " " * 16)), "keeps_the_rest"),
]  # fmt: skip

# What else a file may do: (lab, what, source, words of the report).
ODD = [
    (2, "an endless loop", "def mask(p, k):\n    while True:\n        pass",
        "had not come back after 2 seconds"),
    (1, "a blocking read", "import socket\ndef accept_key(key):\n"
        "    s = socket.create_server(('127.0.0.1', 0))\n    s.accept()",
        "which call waits for somebody"),
    (1, "the keyboard", "def accept_key(key):\n    return input()",
        "waits for the keyboard, perhaps with input()"),
    (2, "no Python", "def mask(p, k):\n    return (p", "lab2.py, line 2: "),
    (2, "bytes of zero", "x = 0\n\0", "lab2.py"),
    (2, "another name", "def masks(p, k):\n    return p",
        "lab2.py has no function with the name mask"),
    (4, "no class", "x = 1", "lab4.py has no class with the name Decoder"),
    (2, "it raises", "def mask(p, k):\n    return p[99]",
        "raised IndexError: index out of range, in line 2: return p[99]"),
    (2, "it ends all", "import sys\ndef mask(p, k):\n    sys.exit()",
        "called sys.exit(): that would end the room for all"),
    (2, "it ends Python", "import os\ndef mask(p, k):\n    os._exit(0)",
        "Python itself has ended"),
    (2, "it is interrupted", "def mask(p, k):\n    raise KeyboardInterrupt",
        "raised KeyboardInterrupt, in line 2"),
    (2, "no end of calls", "def mask(p, k):\n    return mask(p, k)",
        "calls itself again and again"),
    (2, "a huge result", "def mask(p, k):\n    return b'x' * 20_000_000",
        "(20,000,000 bytes)"),
    (2, "a huge number", "def mask(p, k):\n    return 1 << 50_000_000",
        "an int: a number of 50,000,001 bits"),
    (4, "messages without end",
        "class Decoder:\n    def feed(self, data):\n"
        "        while True:\n            yield 1, 'Hello'",
        "(1000 in all)"),
    (2, "a print, and wrong", "def mask(p, k):\n    print('here', k[0])",
        "It printed    here 55"),
    (2, "a print, and right", "from codec import mask as m\n"
        "def mask(p, k):\n    print('x' * 5000)\n    return m(p, k)",
        "It prints something. In lab2.py nobody needs that."),
    (2, "it writes, but not by print", "import os\n"
        "from codec import mask as m\ndef mask(p, k):\n"
        "    os.write(1, b'x')\n    return m(p, k)", "All is right."),
    (2, "a dataclass", "from __future__ import annotations\n"
        "from dataclasses import dataclass\n@dataclass\nclass Key:\n"
        "    at: int = 0\ndef mask(p, k):\n    return p[9]",
        "raised IndexError: index out of range, in line 7"),
    (2, "a name that is none", "x: nowhere = 1",
        "lab2.py raised NameError: name 'nowhere' is not defined, in line 1"),
    (1, "it ends while it is loaded", "raise SystemExit",
        "lab1.py called sys.exit()"),
    (1, "an endless loop outside", "import time\ntime.sleep(60)",
        "is there a loop outside of all functions?"),
    (4, "it needs another lab", "from lab3 import read_header",
        "lab4.py needs lab3.py: python -m lessons.lab 3"),
    (6, "a program that ends", "print('done')", "lab6.py ends by itself"),
    (6, "a program that raises", "import nothing_of_this_name",
        "raised ModuleNotFoundError"),
    (6, "a program that does not listen", "import time\ntime.sleep(60)",
        "does not listen"),
]  # fmt: skip

# A file that fails in the room: (what, lab, source, the line that is shown,
# what the one who says "Hello" gets back; None: not told here).
FAILS = [
    ("raises", 1, "def accept_key(key):\n    return key[99]",
        "lab1.py: accept_key raised IndexError: string index out of range,"
        " in line 2: re"),
    ("two lines", 1, "def accept_key(key):\n    return 'a\\r\\nb: c'",
        "lab1.py: accept_key returned 'a\\r\\nb: c'"),
    ("None", 2, "def mask(payload, key):\n    pass",
        "lab2.py: mask returned None"),
    ("ends", 2, "def mask(payload, key):\n    raise SystemExit",
        "lab2.py: mask called sys.exit(): that would end the room for all"),
    ("nowhere", 3, "def read_header(data, at):\n    return 1, 1, b'', at, 0",
        "lab3.py: read_header returned (1, 1, b"),
    ("no frame", 3, "def read_header(data, at):\n    return 7",
        "lab3.py: read_header returned 7"),
    ("raises", 4, "class Decoder:\n    def feed(self, data):\n        1 / 0",
        "lab4.py: Decoder raised ZeroDivisionError: division by zero, in line"),
    ("raises at once", 4, "class Decoder:\n    def __init__(self, x):\n"
        "        pass", "lab4.py: Decoder raised TypeError"),
    ("no list", 4, "class Decoder:\n    def feed(self, data):\n        pass",
        "lab4.py: Decoder returned None"),
    ("a false Close", 4, "class Decoder:\n    def feed(self, data):\n"
        "        return [(8, (5, 'x'))]",
        "lab4.py: Decoder returned a Close that did not come"),
    ("half an emoji", 4, "class Decoder:\n    def feed(self, data):\n"
        "        return [(1, '\\ud83d')]",
        "lab4.py: Decoder raised UnicodeEncodeError"),
    ("raises", 5, "def encode_frame(opcode, payload, key=b'', fin=True):\n"
        "    raise ValueError('\\u017e')",
        "lab5.py: encode_frame raised ValueError: \\u017e, in line 2"),
    ("text", 5, "def encode_frame(*given):\n    return 'a frame'",
        "lab5.py: encode_frame returned a str: 'a frame'"),
]  # fmt: skip
