"""Lab 1: the accept key. RFC 6455 section 4.2.2, number 5.4.

A browser sends a random key. The server makes another text of it, and so
proves that it has read this very request and speaks WebSocket.

Write what is missing, save, then: python -m lessons.lab 1
"""

from __future__ import annotations

import base64
import hashlib

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key.

    In:  key, a str, as it stands in the request.
    Out: a str, as it shall stand in the answer.

    Put the GUID behind the key, take SHA-1 of that (20 bytes), and write
    those bytes in base64. Both functions take bytes: key.encode() makes
    bytes of a str, .decode() makes a str of bytes.

    The RFC's own example:

        key             dGhlIHNhbXBsZSBub25jZQ==
        SHA-1's bytes   b3 7a 4f 2c c0 62 4f 16 90 f6
                        46 06 cf 38 59 45 b2 be c4 ea

    >>> accept_key("dGhlIHNhbXBsZSBub25jZQ==")
    's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
    """
    digest = hashlib.sha1((key + GUID).encode()).digest()
    return base64.b64encode(digest).decode()
