"""The ladder: a server that grows in five small programs, up to server.py.

Their names begin with a number, so they are not imported, but run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNGS = {int(path.name[0]): path for path in sorted(HERE.glob("[1-5]_*.py"))}
# Which stages of the checker each rung passes; it passes no others.
CLAIMS = {
    1: {1, 3},
    2: {1, 3, 4, 5, 6, 9},
    3: {1, 3, 4, 5, 6, 9, 10},
    4: {1, 3, 4, 5, 6, 9, 10, 2, 7, 8},
    5: {1, 3, 4, 5, 6, 9, 10, 2, 7, 8},
}

parser = argparse.ArgumentParser(
    prog="python -m lessons.ladder",
    description="Run one rung, or ask the checker how far each one gets.",
)
parser.add_argument("rung", nargs="?", type=int, choices=RUNGS, help="1 to 5")
parser.add_argument("port", nargs="?", type=int, default=9000)
