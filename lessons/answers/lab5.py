"""Lab 5: one frame. RFC 6455 section 5.2, now in the other direction.

Write what is missing, save, then: python -m lessons.lab 5
"""

from __future__ import annotations

from lessons.answers.lab2 import mask


def encode_frame(
    opcode: int, payload: bytes, key: bytes = b"", fin: bool = True
) -> bytes:
    """Return one frame: its header, then its payload.

    In:  opcode, a number from 0 to 15; payload, bytes;
         key, four bytes to mask with, as a client must, or b"" for none;
         fin, whether it is the last (or only) piece of a message.
    Out: bytes.

        byte 0   FIN (128) and the opcode
        byte 1   MASK (128) if there is a key, and the length up to 125;
                 else 126, and the length in the next 2 bytes, if it fits;
                 else 127, and the length in the next 8 bytes
        then     the key, if there is one
        then     the payload, masked if there is a key

    number.to_bytes(2, "big") makes two bytes of a number, the greatest
    first. bytes([129, 5]) makes bytes of numbers.

    The RFC's own examples (section 5.7):

    >>> encode_frame(1, b"Hello").hex(" ")
    '81 05 48 65 6c 6c 6f'
    >>> encode_frame(1, b"Hello", bytes.fromhex("37fa213d")).hex(" ")
    '81 85 37 fa 21 3d 7f 9f 4d 51 58'
    """
    first = opcode | 0b1000_0000 if fin else opcode
    mask_bit = 0b1000_0000 if key else 0
    size = len(payload)
    if size <= 125:
        header = bytes([first, mask_bit | size])
    elif size <= 65535:
        header = bytes([first, mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        header = bytes([first, mask_bit | 127]) + size.to_bytes(8, "big")
    return header + key + mask(payload, key)
