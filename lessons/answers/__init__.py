"""One right answer to each lab. Look in here when yours is green."""

from __future__ import annotations
