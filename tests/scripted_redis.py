"""A Redis of a few commands, in threads, which can do wrong on purpose."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from lessons.resp import Replies
from tests.support import DEADLINE

OK = b"+OK\r\n"
NONE = b"$-1\r\n"


def bulk(value):
    """Return a value as RESP."""
    if value is None:
        return NONE
    return b"$%d\r\n%b\r\n" % (len(value), value)


def listed(parts):
    """Return a list, of what is RESP already."""
    parts = list(parts)
    return b"*%d\r\n" % len(parts) + b"".join(parts)


class ScriptedRedis:
    """A context manager; port: where it listens.

    wrong: what it answers in place of the right thing, by command; None:
    nothing at all. pieces: how a reply is cut. before_id: added to the
    milliseconds of an entry's place.
    """

    def __init__(self, password=None, port=0):
        self.password = password
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.changed = threading.Condition()
        self.log = []  # (place, values)
        self.keys = {}  # value, and when it expires
        self.wrong = {}
        self.pieces = None
        self.cut_at = None  # the command that it takes, and then hangs up
        self.before_id = 0
        self.refuse = None  # who writes this is told that there is no memory
        self.is_late = False  # and yet an entry was taken
        self.top = (0, 0)
        self.asked = []  # all commands
        self.socks = []
        self.known = set()  # who gave the password
        self.writer = None  # the socket that has appended something
        self.is_open = True
        self.threads = []
        self.begin(self.accept)

    def begin(self, run, *arguments):
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_open = False
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
        for thread in self.threads:
            thread.join(DEADLINE)

    def cut(self):
        """Hang up on all."""
        socks, self.socks = self.socks, []
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self.changed:
            self.changed.notify_all()

    def clear(self):
        """Forget everything, as after a restart."""
        with self.changed:
            self.log.clear()
            self.keys.clear()
            self.top = (0, 0)

    def accept(self):
        while self.is_open:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.socks.append(sock)
            self.begin(self.serve, sock)

    def serve(self, sock):
        replies = Replies()
        with sock, contextlib.suppress(OSError):
            while sock in self.socks:
                data = sock.recv(65536)
                if not data:
                    return
                for words in replies.feed(data):
                    self.answer(sock, words)

    def answer(self, sock, words):
        name = words[0].decode()
        self.asked.append(words)
        written = {"XADD": words, "SET": words[:2]}.get(name, [])
        if self.refuse and self.refuse in b" ".join(written):
            if name == "XADD" and self.is_late:
                self.xadd(sock, *words[1:])
            sock.sendall(b"-OOM command not allowed\r\n")
            return
        answer = getattr(self, name.lower())(sock, *words[1:])
        if name == self.cut_at:
            self.cut_at = None
            self.cut()
            return
        answer = self.wrong.get(name, answer)
        if answer is None or sock not in self.socks:
            return
        for piece in self.pieces(answer) if self.pieces else [answer]:
            sock.sendall(piece)

    def count(self, name):
        """Return how often this was asked."""
        return sum(words[0] == name for words in list(self.asked))

    def asked_to_add(self):
        """Return all XADD commands: the first event is words 10 and 11."""
        return [words for words in list(self.asked) if words[0] == b"XADD"]

    # ---- the commands -----------------------------------------------------

    def auth(self, sock, *words):
        if self.password is None:
            return b"-ERR AUTH <password> called without any password\r\n"
        if words[-1].decode() == self.password:
            self.known.add(sock)
            return OK
        return b"-WRONGPASS invalid username-password pair\r\n"

    def select(self, sock, number):
        if self.password is not None and sock not in self.known:
            return b"-NOAUTH Authentication required.\r\n"
        if int(number) > 15:
            return b"-ERR DB index is out of range\r\n"
        return OK

    def set(self, sock, key, value, ex, seconds):
        self.keys[key] = value, time.monotonic() + int(seconds)
        return OK

    def delete(self, sock, key):
        self.keys.pop(key, None)
        return b":1\r\n"

    def mget(self, sock, *keys):
        now = time.monotonic()
        found = [self.keys.get(key, (None, 0)) for key in keys]
        return listed(bulk(v if ends > now else None) for v, ends in found)

    def xadd(self, sock, stream, maxlen, about, most, star, *values):
        self.writer = sock
        with self.changed:
            now = int(time.time() * 1000) + self.before_id
            first, second = self.top
            self.top = (now, 0) if now > first else (first, second + 1)
            place = b"%d-%d" % self.top
            self.log.append((self.top, place, values))
            del self.log[: -int(most)]
            self.changed.notify_all()
        return bulk(place)

    def expire(self, sock, key, seconds):
        return b":1\r\n"

    def xrange(self, sock, stream, first, last):
        with self.changed:
            return entries([each for each in self.log if each[1] == first])

    def xrevrange(self, sock, stream, *_):
        with self.changed:
            return entries(self.log[-1:])

    def xread(self, sock, _, count, __, wait, ___, stream, last):
        after = tuple(map(int, last.split(b"-")))
        ends = time.monotonic() + int(wait) / 1000
        with self.changed:
            while sock in self.socks and time.monotonic() < ends:
                found = [each for each in self.log if each[0] > after]
                if found and self.wrong.get("XREAD", b"") is not None:
                    found = entries(found[: int(count)])
                    return listed([listed([bulk(stream), found])])
                self.changed.wait(0.02)
        return b"*-1\r\n"


setattr(ScriptedRedis, "del", ScriptedRedis.delete)


def entries(found):
    """Return entries of the log as RESP."""
    return listed(
        listed([bulk(place), listed(map(bulk, values))])
        for _, place, values in found
    )
