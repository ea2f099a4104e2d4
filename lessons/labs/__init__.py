"""The labs: six parts of the server that a student writes.

    python -m lessons.lab 3

parts: what a lab is made of. accept to encode: labs 1 to 5, a function or a
class each. loop: lab 6, a program. child: runs a student's file, away from
us. plug: puts it into the real room.
"""

from __future__ import annotations

from lessons.labs import accept, decode, encode, header, loop, masking

LABS = {
    lab.number: lab
    for lab in (
        accept.LAB, masking.LAB, header.LAB, decode.LAB, encode.LAB, loop.LAB
    )
}  # fmt: skip
