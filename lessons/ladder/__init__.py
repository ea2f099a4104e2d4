"""The ladder: a server that grows in five small steps, up to server.py."""

from __future__ import annotations
