"""Servers that are wrong in one thing each, for the checker to find.

Each is made from ours by putting something else in the place of one
function, as lessons/faults.py does. Each has modules of its own, so that
many can run side by side in one process.
"""

from __future__ import annotations

import builtins
import codecs
import contextlib
import hashlib
import re
import socket
import time
import types

from tests.support import ROOT

NAMES = ("codec", "handshake", "lessons.faults", "server")
CODES = {}
for name in NAMES:
    path = ROOT / (name.replace(".", "/") + ".py")
    CODES[name] = compile(path.read_text("utf-8"), str(path), "exec")


class House:
    """Copies of our modules: what is replaced in one is wrong only there."""

    def __init__(self):
        self.modules = {}
        for name in NAMES:
            module = types.ModuleType(name)
            module.__file__ = str(ROOT / name)
            functions = {**vars(builtins), "__import__": self.find}
            module.__dict__["__builtins__"] = functions
            self.modules[name] = module
            exec(CODES[name], module.__dict__)
        self.codec, self.handshake, self.faults, self.server = (
            self.modules[name] for name in NAMES
        )
        self.Decoder, self.Server = self.codec.Decoder, self.server.Server
        self.server.PATIENCE = 0.1  # so that it ends soon

    def find(self, name, *more):
        """Import a module; ours is the copy, for all that stands in here."""
        return self.modules.get(name) or __import__(name, *more)


def make_server(wrong):
    """Return a server; wrong: a fault of --break, or a function below."""
    house = House()
    if isinstance(wrong, str):
        house.faults.Breaker(str).install(wrong)
    elif wrong:
        wrong(house)
    return house.Server(port=0)


# ---- 1 and 2: what is a handshake -------------------------------------------


def without_a_header(name):
    """Return what leaves a header of the answer out."""

    def leave_out(house):
        answer = house.handshake.switching_protocols
        house.handshake.switching_protocols = lambda request: re.sub(
            name + rb": .*\r\n", b"", answer(request)
        )

    return leave_out


def an_extension(house):
    answer = house.handshake.switching_protocols
    house.handshake.switching_protocols = lambda request: (
        answer(request)[:-2]
        + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )


def first_key_of_all(house):
    accept_key = house.handshake.accept_key
    keys = []

    def accept(key):
        keys.append(key)
        return accept_key(keys[0])

    house.handshake.accept_key = accept


def accept_in_hex(house):
    house.handshake.accept_key = lambda key: hashlib.sha1(
        key.encode() + house.handshake.GUID
    ).hexdigest()


def takes_post(house):
    take_request = house.handshake.take_request
    house.handshake.take_request = lambda received: take_request(
        re.sub(b"^POST", b"GET", received).replace(b"Length: 0", b"None: 0")
    )


def only_capitals(house):
    take_request = house.handshake.take_request

    def take(received):
        if b"\r\nsec-websocket-key:" in received:
            raise house.handshake.HandshakeError(400, "Capitals, please.")
        return take_request(received)

    house.handshake.take_request = take


def takes_all(house):
    house.handshake.check_upgrade = lambda request: None


def takes_any_version(house):
    check = house.handshake.check_upgrade

    def check_the_rest(request):
        fields = {**request.headers.fields, "sec-websocket-version": ["13"]}
        headers = house.handshake.Headers(fields)
        check(request._replace(headers=headers))

    house.handshake.check_upgrade = check_the_rest


def no_page(house):
    house.server.answer = lambda request, page: b""


def says_nothing_to_browsers(house):
    read_request = house.Server.read_request

    def read(self, user, data):
        if b"websocket-key" in data.lower():
            read_request(self, user, data)

    house.Server.read_request = read


def ends_at_junk(house):
    refuse = house.Server.refuse

    def refuse_and_end(self, user, error, quiet=False):
        refuse(self, user, error, quiet)
        if "not HTTP" in error.reason:
            self.stop()

    house.Server.refuse = refuse_and_end


# ---- 3 and 4: a frame -------------------------------------------------------


def all_binary(house):
    encode = house.codec.to_payload
    house.codec.to_payload = lambda message: (2, encode(message)[1])


def counts_letters(house):
    def encode(message, key=b""):
        opcode, payload = house.codec.to_payload(message)
        header = house.codec.encode_header(opcode, len(message), key)
        return header + payload

    house.codec.encode_message = encode


def long_lengths(house):
    encode = house.codec.encode_header

    def header(opcode, size, key=b"", fin=True):
        if size < 126:
            return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
        return encode(opcode, size, key, fin)

    house.codec.encode_header = header


def says_twice(house):
    broadcast = house.Server.broadcast

    def twice(self, message, but=None):
        broadcast(self, message, but)
        broadcast(self, message, but)

    house.Server.broadcast = twice


def first_key_for_all(house):
    read_header = house.Decoder.read_header
    keys = {}

    def read(self, data, at):
        header = read_header(self, data, at)
        if not header:
            return None
        fin, opcode, key, start, length = header
        return fin, opcode, keys.setdefault(id(self), key), start, length

    house.Decoder.read_header = read
    # A decoder whose place in memory is taken by another must not be mixed up.
    house.kept = keys


def adds_a_name(house):
    house.Server.on_message = lambda self, user, message: self.broadcast(
        f"user {user.key}: {message}" if isinstance(message, str) else message
    )


def little_endian(house):
    encode = house.codec.encode_header

    def header(opcode, size, key=b"", fin=True):
        made = encode(opcode, size, key, fin)
        return made[:2] + made[:1:-1]

    house.codec.encode_header = header


def as_the_tutorial(house):
    encode = house.codec.encode_header

    def header(opcode, size, key=b"", fin=True):
        if 65025 <= size <= 65535:
            return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
        return encode(opcode, size, key, fin)

    house.codec.encode_header = header


def empty_is_the_end(house):
    feed = house.Decoder.feed

    def feed_seven(self, data):
        if len(data) < 7:
            return iter([(8, house.codec.Close(1000, ""))])
        return feed(self, data)

    house.Decoder.feed = feed_seven


def no_binary(house):
    house.Server.on_message = lambda self, user, message: self.broadcast(
        message if isinstance(message, str) else message.decode("latin-1")
    )


# ---- 5: how TCP cuts it -----------------------------------------------------


def first_of_each_read(house):
    feed = house.Decoder.feed

    def feed_one(self, data):
        for event in feed(self, data):
            yield event
            break

    house.Decoder.feed = feed_one


def keeps_no_rest(house):
    feed = house.Decoder.feed

    def feed_and_forget(self, data):
        yield from feed(self, data)
        self.rest = b""

    house.Decoder.feed = feed_and_forget


def full_is_not_all(house):
    feed = house.Decoder.feed

    def feed_unless_full(self, data):
        if len(data) == 1000:  # as the tutorial: so more must be coming
            self.rest += data
            return iter(())
        return feed(self, data)

    house.Decoder.feed = feed_unless_full


def eager(house):
    take_request = house.handshake.take_request

    def take(received):
        taken = take_request(received)
        return (taken[0], b"") if taken else None

    house.handshake.take_request = take


def whole_requests(house):
    take_request = house.handshake.take_request

    def take(received):
        if not received.endswith(b"\r\n\r\n") and received[:3] == b"GET":
            if b"\r\n\r\n" not in received:
                raise house.handshake.HandshakeError(400, "Only half of it.")
        return take_request(received)

    house.handshake.take_request = take


# ---- 6: fragments -----------------------------------------------------------


def each_fragment(house):
    read_header = house.Decoder.read_header

    def read(self, data, at):
        if not data[at] & 0x0F:
            data = data[:at] + b"\x81" + data[at + 1 :]
        elif data[at] & 0x0F < 8:
            data = data[:at] + bytes((data[at] | 0x80,)) + data[at + 1 :]
        return read_header(self, data, at)

    house.Decoder.read_header = read


def ping_spoils(house):
    feed = house.Decoder.feed

    def feed_and_spoil(self, data):
        for event in feed(self, data):
            yield event
            if event[0] == 9:
                self.payload = bytearray()

    house.Decoder.feed = feed_and_spoil


def utf8_in_each(house):
    end_message = house.Decoder.take_piece

    def take(self, data, at):
        end = end_message(self, data, at)
        if self.opcode == 1 and not self.missing and self.utf8.getstate()[0]:
            raise house.codec.bad_text(UnicodeDecodeError("", b"?", 0, 1, ""))
        return end

    house.Decoder.take_piece = take


# ---- 7: control frames ------------------------------------------------------


def no_pong(house):
    encode = house.codec.encode_frame
    house.codec.encode_frame = lambda opcode, *more: (
        b"" if opcode == 10 else encode(opcode, *more)
    )


def empty_pong(house):
    encode = house.codec.encode_frame
    house.codec.encode_frame = lambda opcode, payload, *more: encode(
        opcode, b"" if opcode == 10 else payload, *more
    )


def pong_for_pong(house):
    feed = house.Decoder.feed

    def feed_pings(self, data):
        for opcode, message in feed(self, data):
            yield (9 if opcode == 10 else opcode), message

    house.Decoder.feed = feed_pings


class NeverShut:
    """The socket module, with which nobody hangs up."""

    SHUT_WR = 99  # shutdown() raises OSError

    def __getattr__(self, name):
        return getattr(socket, name)


def hangs_on(house):
    house.server.socket = NeverShut()


def hears_on(house):
    feed = house.Decoder.feed

    def feed_all(self, data):
        events = list(feed(self, data))
        if events and events[-1][0] == 8:
            size = 6 + (data[1] & 127)
            yield from feed(self, data[size:])
        yield from events

    house.Decoder.feed = feed_all


def other_code(house):
    encode = house.codec.encode_close
    house.codec.encode_close = lambda code, reason="", key=b"": encode(
        1002, reason, key
    )


def ends_with_a_user(house):
    end = house.Server.end_of_stream

    def end_all(self, user, why="hung up"):
        half = user.decoder.rest
        end(self, user, why)
        if half:
            self.stop()

    house.Server.end_of_stream = end_all


# ---- 8: rules ---------------------------------------------------------------


def no_mask_needed(house):
    read_header = house.Decoder.read_header

    def read(self, data, at):
        self.mask_bit = data[at + 1] & 0x80 if len(data) > at + 1 else 0x80
        return read_header(self, data, at)

    house.Decoder.read_header = read


def any_reserved_bit(house):
    house.codec.RSV = 0


def any_opcode(house):
    house.codec.OPCODES = frozenset(range(16))


def long_controls(house):
    house.codec.MAX_CONTROL = 1000


def any_close_code(house):
    house.codec.may_be_sent = lambda code: True


def any_bytes(house):
    house.codec.check_utf8 = lambda decoder, piece: None
    house.codec.decode_text = lambda payload: payload.decode("utf-8", "replace")


def utf8_is_1002(house):
    house.codec.bad_text = lambda error: house.codec.broken("not UTF-8")


def too_big_is_1008(house):
    names = {code.name: code for code in house.codec.CloseCode}
    names["TOO_BIG"] = 1008
    house.codec.CloseCode = types.SimpleNamespace(**names)


def two_reserved_bits(house):
    house.codec.RSV = 0b0110_0000


def opcode_b(house):
    house.codec.OPCODES = house.codec.OPCODES | {11}


def opcodes_pass(change):
    """Return what lets Decoder.check_opcode() look at something else."""

    def let_pass(house):
        check_opcode = house.Decoder.check_opcode
        house.Decoder.check_opcode = lambda self, *frame: check_opcode(
            self, *change(self, *frame)
        )

    return let_pass


def control_fragments(decoder, fin, opcode, length):
    return fin or opcode >= 8, opcode, length


def orphans(decoder, fin, opcode, length):
    decoder.opcode = decoder.opcode or (opcode == 0)
    return fin, opcode, length


def a_new_beginning(decoder, fin, opcode, length):
    if 0 < opcode < 8:
        decoder.opcode = 0
    return fin, opcode, length


def one_byte_is_a_code(house):
    decode = house.codec.decode_close
    house.codec.decode_close = lambda payload: decode(
        payload if len(payload) != 1 else b""
    )


def code_1005(house):
    may_be_sent = house.codec.may_be_sent
    house.codec.may_be_sent = lambda code: code == 1005 or may_be_sent(code)


def any_reason(house):
    decode = house.codec.decode_close
    house.codec.decode_close = lambda payload: decode(payload[:2])


def decode_by(decode):
    """Return what decodes a text in another way."""

    def decode_otherwise(house):
        def text(payload):
            try:
                return decode(payload)
            except UnicodeDecodeError as error:
                raise house.codec.bad_text(error) from None

        house.codec.decode_text = text

    return decode_otherwise


def half_a_letter(payload):
    return codecs.getincrementaldecoder("utf-8")().decode(payload)


def surrogates(payload):
    text = payload.decode("utf-8", "surrogatepass")
    return text.encode("utf-8", "replace").decode()


def any_fragments(house):
    decode = house.codec.decode_text
    house.codec.check_utf8 = lambda decoder, piece: None
    house.codec.decode_text = lambda payload: (
        decode(payload)
        if isinstance(payload, bytes)
        else payload.decode("utf-8", "replace")
    )


def hangs_up_on_too_much(house):
    read_header = house.Decoder.read_header

    def read(self, data, at):
        try:
            return read_header(self, data, at)
        except house.codec.ProtocolError as error:
            if error.code == 1009:
                raise ConnectionError from None
            raise

    house.Decoder.read_header = read
    house.Server.bug = lambda self, user, error: self.end(user, error)


def hangs_up_without_a_code(house):
    guard = house.Server.guard

    def end(self, user, step, *more):
        try:
            step(user, *more)
        except house.codec.ProtocolError:
            self.end(user, OSError("a rule"))
        except house.handshake.HandshakeError as error:
            guard(self, user, self.refuse, error)

    house.Server.guard = end


# ---- 9 and 10: several users ------------------------------------------------


def own_words_first(house):
    """Let the others hear everything too, but a few turns later."""
    turn = house.Server.turn
    late = []

    def on_message(self, user, message):
        self.send(user, message)
        late.append([5, user, message])

    def turn_and_tell(self):
        turn(self)
        for entry in late:
            entry[0] -= 1
        while late and late[0][0] < 0:
            _, speaker, message = late.pop(0)
            for other in self.everyone():
                if other is not speaker:
                    self.send(other, message)

    house.Server.on_message = on_message
    house.Server.turn = turn_and_tell


def forgets_one(house):
    def on_message(self, user, message):
        for other in self.everyone()[-2:]:
            if other is not user:
                self.send(other, message)
        self.send(user, message)

    house.Server.on_message = on_message


def to_all_who_are_connected(house):
    house.Server.everyone = lambda self: [
        user for user in self.users.values() if not user.closing
    ]


def ends_all_at_a_broken_rule(house):
    close = house.Server.close

    def close_all(self, user, code=1000, reason=""):
        for other in self.everyone():
            close(self, other, code, reason)

    house.Server.close = close_all


def one_after_the_other(house):
    """Serve one user at a time, as a loop around accept() does."""
    house.Server.may_accept = lambda self: not self.users


def block_before_turn(house, is_half):
    """Wait in recv(), not in select(), for those of whom half is there."""
    turn = house.Server.turn

    def block_and_turn(self):
        for user in list(self.users.values()):
            if is_half(user):
                user.socket.setblocking(True)
                with contextlib.suppress(OSError):
                    user.socket.recv(1, socket.MSG_PEEK)
                user.socket.setblocking(False)
        turn(self)

    house.Server.turn = block_and_turn


def waits_for_the_request(house):
    block_before_turn(house, lambda user: user.head)


def waits_for_the_frame(house):
    block_before_turn(
        house, lambda user: user.decoder.rest or user.decoder.missing
    )


def waits_for_room(house):
    add = house.Server.add

    def add_and_block(self, sock, address):
        add(self, sock, address)
        sock.setblocking(True)

    house.Server.add = add_and_block


# ---- odd, but right: what a server may do -----------------------------------


def echoes(house):
    house.Server.on_message = house.Server.send


def greets(house):
    house.Server.on_open = lambda self, user: self.broadcast(
        f"welcome, user {user.key}"
    )


def pings_and_pongs(house):
    """Send a ping and an unasked pong before each message."""
    encode, frame = house.codec.encode_message, house.codec.encode_frame
    ping, pong = frame(9, b"there?"), frame(10, b"here")
    house.codec.encode_message = lambda message: ping + pong + encode(message)


def answers_in_fragments(house):
    frame = house.codec.encode_frame

    def encode(message):
        opcode, payload = house.codec.to_payload(message)
        half = len(payload) // 2
        first = frame(opcode, payload[:half], fin=False)
        return first + frame(9, b"") + frame(0, payload[half:])

    house.codec.encode_message = encode


def reads_little(house):
    init = house.Server.__init__

    def begin(self, **options):
        init(self, recv_size=99, **options)

    house.Server.__init__ = begin


def is_slow(house):
    turn = house.Server.turn

    def doze(self):
        time.sleep(0.004)  # a slow machine
        turn(self)

    house.Server.turn = doze


def closes_without_a_code(house):
    encode = house.codec.encode_close
    house.codec.encode_close = lambda code, reason="", key=b"": encode(
        1005 if code == 1000 else code, "", key
    )


def drops_the_slow(house):
    init = house.Server.__init__

    def begin(self, **options):
        init(self, max_backlog=300_000, **options)

    house.Server.__init__ = begin


RIGHT = [
    None, echoes, greets, pings_and_pongs, answers_in_fragments, reads_little,
    is_slow, closes_without_a_code, drops_the_slow,
]  # fmt: skip

# ---- all of them: (stage, how its rule begins, what is wrong) ---------------

LOOP = "none of the RFC's: one loop"
WRONG = [
    (1, "s4.2.2: it is the base64", "accept"),
    (1, "s4.2.2: it is the base64", "no-accept"),
    (1, "s4.2.2: only 101", "status"),
    (1, "s4.2.2: only what the client has offered", "subprotocol"),
    (1, "s4.2.2: the answer has the header U", without_a_header(b"Upgrade")),
    (1, "s4.2.2: the answer has the header C", without_a_header(b"Connection")),
    (1, "s4.2.2: only what the client has offered", an_extension),
    (1, "s4.2.2: it is the base64", accept_in_hex),
    (1, "s4.2.2: each answer", first_key_of_all),
    (2, "s4.2.1: a handshake is a GET", takes_post),
    (2, "s4.2.1: names of headers", only_capitals),
    (2, "s4.2.1: what is no handshake", takes_all),
    (2, "s4.2.1: what is no handshake", takes_any_version),
    (2, "s4.2.1: what is no handshake", no_page),
    (2, "s4.2.1: what is no handshake", says_nothing_to_browsers),
    (2, "s4.2.1: such a connection ends", ends_at_junk),
    (3, "s5.1", "mask"),
    (3, "s5.2: a reserved bit", "rsv"),
    (3, "s5.2: opcode 0x3", "opcode"),
    (3, "s8.1", "utf8"),
    (3, "s5.4: a continuation", "orphan"),
    (3, "s5.5", "long-ping"),
    (3, "s5.6", all_binary),
    (3, "s8.1", counts_letters),
    (3, "s5.2: a length must use the fewest", long_lengths),
    (3, "s6.1", says_twice),
    (3, "s5.3", first_key_for_all),
    (3, "s5.2", adds_a_name),
    (4, "s6.2", "php"),
    (4, "s5.2: up to 125", little_endian),
    (4, "s5.2: a length must use the fewest", as_the_tutorial),
    (4, "s5.2: up to 125", empty_is_the_end),
    (4, "s5.6", no_binary),
    (5, "s6.2", first_of_each_read),
    (5, "s6.2", keeps_no_rest),
    (5, "s6.2", full_is_not_all),
    (5, "s4.2.2: behind the empty line", eager),
    (5, "s4.2.1: an empty line", whole_requests),
    (6, "s5.4", each_fragment),
    (6, "s5.4", ping_spoils),
    (6, "s5.6", utf8_in_each),
    (7, "s5.5.3: a pong carries", no_pong),
    (7, "s5.5.3: a pong carries", empty_pong),
    (7, "s5.5.3: an answer", pong_for_pong),
    (7, "s7.4: close code 1005", "close-1005"),
    (7, "s5.5.1: a Close frame is answered", "drop"),
    (7, "s5.5.1: a Close frame is answered", other_code),
    (7, "s7.1.1", hangs_on),
    (7, "s5.5.1: behind a Close", hears_on),
    (7, "s7.1.5", ends_with_a_user),
    (8, "s5.1", no_mask_needed),
    (8, "s5.2: a reserved bit", any_reserved_bit),
    (8, "s5.2: opcodes 3 to 7", any_opcode),
    (8, "s5.5", long_controls),
    (8, "s7.4", any_close_code),
    (8, "s8.1", any_bytes),
    (8, "s8.1", utf8_is_1002),
    (8, "s5.2: a reserved bit", two_reserved_bits),
    (8, "s5.2: opcodes 3 to 7", opcode_b),
    (8, "s5.5", opcodes_pass(control_fragments)),
    (8, "s5.4: a continuation", opcodes_pass(orphans)),
    (8, "s5.4: a message ends", opcodes_pass(a_new_beginning)),
    (8, "s7.4", one_byte_is_a_code),
    (8, "s7.4", code_1005),
    (8, "s8.1", decode_by(half_a_letter)),
    (8, "s8.1", decode_by(surrogates)),
    (8, "s8.1", any_fragments),
    (8, "s8.1", any_reason),
    (8, "s7.4.1", too_big_is_1008),
    (8, "s7.4.1", hangs_up_on_too_much),
    (8, "s5.1", hangs_up_without_a_code),
    (9, LOOP, one_after_the_other),
    (9, LOOP, waits_for_the_request),
    (9, "none of the RFC's, which", own_words_first),
    (9, "none of the RFC's, which", forgets_one),
    (9, "s4.2.2: the answer 101", to_all_who_are_connected),
    (9, "s7.1.7", ends_all_at_a_broken_rule),
    (10, LOOP, waits_for_the_frame),
    (10, LOOP, waits_for_room),
]
