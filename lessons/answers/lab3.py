"""Lab 3: the header of a frame. RFC 6455 section 5.2.

     0               1               2               3
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |F|R|R|R| opcode|M| length      | length, if 126 (16 bits)      |
    |I|S|S|S|  (4)  |A|  (7)        |      or if 127 (64 bits)      |
    |N|V|V|V|       |S|             +-------------------------------+
    | |1|2|3|       |K|             | masking key, if MASK (32 bits)|
    +-+-+-+-+-------+-+-------------+-------------------------------+
    | payload ...                                                   |
    +---------------------------------------------------------------+

Write what is missing, save, then: python -m lessons.lab 3
"""

from __future__ import annotations


def read_header(
    data: bytes, at: int
) -> tuple[int, int, bytes, int, int] | None:
    """Read the header of the frame that begins at data[at].

    In:  data, bytes that came; at, where in them the frame begins.
    Out: None, as long as bytes of the header are missing; else five values:
         fin, true if this is the last (or only) piece of a message;
         opcode, a number from 0 to 15;
         key, the four bytes of the masking key, or b"" if MASK is not set;
         start, the place in data where the payload begins;
         length, how many bytes the payload has.

    The payload itself need not be there yet. Nothing is judged here: which
    headers break a rule, others find out.

    The 7 bits of the length count to 125. There, 126 means: the length is
    in the next 2 bytes; and 127: it is in the next 8. Of such bytes the
    first is the greatest: int.from_bytes(..., "big").

    The RFC's own example (section 5.7), a masked "Hello":

        81           1000 0001   FIN 1, opcode 1 (text)
        85           1000 0101   MASK 1, length 5
        37 fa 21 3d              masking key
        7f 9f 4d 51 58           the payload, as it travels

    >>> hello = bytes.fromhex("81 85 37fa213d 7f9f4d5158")
    >>> fin, opcode, key, start, length = read_header(hello, 0)
    >>> fin, opcode, key.hex(), start, length
    (128, 1, '37fa213d', 6, 5)
    >>> read_header(hello[:4], 0)  # half a key: None, which is not shown
    """
    first_two = data[at : at + 2]
    if len(first_two) < 2:
        return None
    first, second = first_two
    length = second & 0b0111_1111
    start = at + 2
    if length >= 126:
        size = 2 if length == 126 else 8
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    key = b""
    if second & 0b1000_0000:
        key = data[start : start + 4]
        start += 4
    if start > len(data):
        return None
    return first & 0b1000_0000, first & 0b0000_1111, key, start, length
