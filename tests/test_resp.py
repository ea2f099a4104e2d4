"""RESP: bytes in, values out, however TCP cuts them."""

from __future__ import annotations

import unittest

from lessons import resp
from lessons.resp import Refusal, Replies, RespError, command

# (name, the bytes of a reply, its value)
REPLIES = (
    ("short text", b"+OK\r\n", "OK"),
    ("empty text", b"+\r\n", ""),
    ("error", b"-ERR unknown command\r\n", Refusal("ERR unknown command")),
    ("number", b":1000\r\n", 1000),
    ("negative number", b":-7\r\n", -7),
    ("bytes", b"$5\r\nhello\r\n", b"hello"),
    ("no bytes", b"$0\r\n\r\n", b""),
    ("none", b"$-1\r\n", None),
    ("CR LF in it", b"$6\r\n\r\n+a\r\n\r\n", b"\r\n+a\r\n"),
    ("any bytes", b"$3\r\n\x00\xff\r\r\n", b"\x00\xff\r"),
    ("list", b"*2\r\n$1\r\na\r\n:2\r\n", [b"a", 2]),
    ("empty list", b"*0\r\n", []),
    ("no list", b"*-1\r\n", None),
    ("list of all", b"*4\r\n+a\r\n-b\r\n$-1\r\n*-1\r\n",
        ["a", Refusal("b"), None, None]),
    ("lists in lists", b"*1\r\n*2\r\n*1\r\n:1\r\n*0\r\n", [[[1], []]]),
    ("an answer to XREAD",
        b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nk\r\n"
        b"$1\r\nv\r\n", [[b"s", [[b"1-0", [b"k", b"v"]]]]]),
    ("large", b"$70000\r\n" + b"x" * 70_000 + b"\r\n", b"x" * 70_000),
)  # fmt: skip
# (name, bytes up to where it is clear that this is not RESP)
WRONG = (
    ("HTTP", b"H"),
    ("RESP3", b"%"),
    ("TLS", b"\x15"),
    ("SSH", b"S"),
    ("not a number", b":12x\r\n"),
    ("no number", b":\r\n"),
    ("a plus", b":+1\r\n"),
    ("a blank", b"$ 5\r\n"),
    ("an underscore", b"$1_0\r\n"),
    ("too many digits", b":" + b"1" * 19 + b"\r\n"),
    ("a length below -1", b"$-2\r\n"),
    ("a list below -1", b"*-2\r\n"),
    ("too large", b"$%d\r\n" % (resp.MAX_BULK + 1)),
    ("too long a list", b"*%d\r\n" % (resp.MAX_ITEMS + 1)),
    ("longer than said", b"$2\r\nabc\r"),
    ("a line without end", b"+" + b"a" * (resp.MAX_LINE - 1)),
    ("too deep", b"*1\r\n" * (resp.MAX_DEPTH + 1)),
    ("wrong in a list", b"*2\r\n:1\r\nx"),
)


def read(*pieces):
    """Feed the pieces; return all values."""
    replies = Replies()
    return [value for piece in pieces for value in replies.feed(piece)]


def bytes_of(data):
    """Return the bytes, one by one."""
    return [data[at : at + 1] for at in range(len(data))]


class Reply(unittest.TestCase):
    def test_whole(self):
        for name, data, value in REPLIES:
            with self.subTest(name):
                self.assertEqual(read(data), [value])

    def test_cut_anywhere(self):
        for name, data, value in REPLIES:
            cuts = range(1, len(data))
            for cut in cuts if len(data) < 1000 else (1, 7, 9, 70_000):
                with self.subTest(name, cut=cut):
                    self.assertEqual(read(data[:cut]), [])
                    self.assertEqual(read(data[:cut], data[cut:]), [value])

    def test_byte_by_byte(self):
        for name, data, value in REPLIES[:-1]:
            with self.subTest(name):
                self.assertEqual(read(*bytes_of(data)), [value])

    def test_others_behind_it(self):
        for name, data, value in REPLIES:
            with self.subTest(name):
                expected = [value, 7, value]
                self.assertEqual(read(data + b":7\r\n" + data), expected)
                self.assertEqual(read(data + b":", b"7\r\n" + data), expected)

    def test_all_in_one_read(self):
        data = b"".join(data for _, data, _ in REPLIES)
        self.assertEqual(read(data), [value for _, _, value in REPLIES])

    def test_what_is_not_resp(self):
        for name, data in WRONG:
            with self.subTest(name):
                with self.assertRaises(RespError):
                    read(data)
                with self.assertRaises(RespError):
                    read(*bytes_of(data))
                # One byte fewer is no offence yet.
                self.assertEqual([v for v in read(data[:-1]) if v != 1], [])

    def test_the_limits(self):
        line = b"a" * (resp.MAX_LINE - 3)
        self.assertEqual(read(b"+" + line + b"\r\n"), [line.decode()])
        deep = b"*1\r\n" * resp.MAX_DEPTH + b":1\r\n"
        self.assertEqual(str(read(deep)), f"[{'[' * 5}1{']' * 5}]")

    def test_an_error_shows_no_control_characters(self):
        with self.assertRaises(RespError) as caught:
            read(b"\x1b[2J\xff\r\n")
        self.assertTrue(str(caught.exception).isprintable())
        self.assertTrue(str(caught.exception).isascii())


class Command(unittest.TestCase):
    def test_it_is_a_list_of_bytes(self):
        for words, data in (
            (("PING",), b"*1\r\n$4\r\nPING\r\n"),
            (("SET", "a", 70), b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\n70\r\n"),
            ((b"\r\n", ""), b"*2\r\n$2\r\n\r\n\r\n$0\r\n\r\n"),
            (("\u20ac",), b"*1\r\n$3\r\n\xe2\x82\xac\r\n"),
        ):
            with self.subTest(words):
                self.assertEqual(command(*words), data)

    def test_there_and_back(self):
        words = ["XADD", b"\x00\xff\r\n", 10**12, ""]
        expected = [b"XADD", b"\x00\xff\r\n", b"1000000000000", b""]
        self.assertEqual(read(command(*words)), [expected])


if __name__ == "__main__":
    unittest.main()
