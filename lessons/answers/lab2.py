"""Lab 2: the mask. RFC 6455 section 5.3.

A browser masks each payload with a key of four bytes that it has just made
up. The key travels with the frame, so the server can undo it.

Write what is missing, save, then: python -m lessons.lab 2
"""

from __future__ import annotations


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask a payload, or unmask it: that is the same thing.

    In:  payload, any number of bytes;
         key, four bytes, or none at all: then nothing is masked.
    Out: bytes, as many as the payload has.

    Byte 0 of the payload is XORed with byte 0 of the key, byte 1 with byte
    1, and so on. Behind the last byte of the key comes its first again.
    XOR of two numbers is a ^ b. A byte of bytes is a number, and
    bytes([72, 105]) makes bytes of numbers.

    The RFC's own example (section 5.7):

        payload      48 65 6c 6c 6f    b"Hello"
        key          37 fa 21 3d 37    the fifth byte meets the first again
        masked       7f 9f 4d 51 58

    >>> mask(b"Hello", bytes.fromhex("37fa213d")).hex(" ")
    '7f 9f 4d 51 58'
    """
    if not key:
        return payload
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
