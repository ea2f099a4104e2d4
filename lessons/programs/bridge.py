"""A bridge: what is said in this room is said in another one, and back.

    python server.py 9000
    python -m lessons.programs.bridge 9001 ws://127.0.0.1:9000/

In the other room, this program is a user like any other; here, its client
is a guest: the room's loop asks for its socket, too. One select() watches
those who came to us, and the one that we went to.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, Sequence
from urllib.parse import urlencode

from client import NOT_THE_ROOMS, Client, State
from handshake import Response
from lessons.programs import make_parser, run
from server import ChatRoom, User

NAME = "bridge"
MAX_TEXT = 10_000  # characters; escaped, they are six times longer


class Bridge(ChatRoom):
    """This room; its far is our client in the other one."""

    def __init__(self, port: int, url: str) -> None:
        self.far = Far(self, url)
        super().__init__(port=port)

    def say(self, user: User, text: str, to: str) -> None:
        """Say it here; and over there, too, what is for all."""
        super().say(user, text, to)
        # What a bridge from there to here has said would go round for ever.
        if to == "all" and user.name != NAME:
            self.pass_on(user, text)

    def pass_on(self, user: User, text: str) -> None:
        """Say over there what somebody has said here."""
        if self.far.state is not State.OPEN:
            self.tell(user, "The other room is not there: only we heard it.")
        elif len(text) > MAX_TEXT:
            self.tell(user, "That is too long for the other room.")
        else:
            words = f"{user.name or user.key} says: {text}"
            self.far.send(urlencode({"nr": words, "key": "all"}))


class Far(Client):
    """A user of the other room, and a guest in the loop of this one."""

    def __init__(self, room: Bridge, url: str) -> None:
        super().__init__(url)
        self.room = room
        self.names: dict[str, str] = {}  # who is over there, by their codes

    def on_open(self, response: Response) -> None:
        """Give our name."""
        self.names.clear()
        self.send(urlencode({"type": "add", "ming": NAME}))
        self.room.diary("the other room is there")
        self.room.announce("The other room is there.")

    def on_message(self, message: str | bytes) -> None:
        """Follow who is over there; say here what they say to all."""
        try:
            self.follow(json.loads(message))
        except NOT_THE_ROOMS:
            return  # a picture, or what another kind of server says

    def follow(self, fields: dict[str, Any]) -> None:
        """Do what a message of the other room asks for."""
        kind = fields.get("type")
        if kind == "madd":
            for each in fields["users"]:
                self.names[each["code"]] = each["name"]
        elif kind == "add":
            self.names[fields["code"]] = fields["name"]
        elif kind == "rmove":
            self.names.pop(fields["nrong"], None)
        elif fields["code1"] == "all" and fields["code"]:
            who = self.names.get(fields["code"], f"#{fields['code']}")
            if who != NAME:
                self.room.announce(f"{who}, over there: {fields['nrong']}")

    def on_close(self, code: int, reason: str) -> None:
        """Try again, for as long as this room is open."""
        if not self.room.stopping:
            self.room.diary(f"the other room: {code} {reason}")
            self.reconnect()


def make(options: argparse.Namespace) -> Sequence[Any]:
    """Return the room and its guest."""
    bridge = Bridge(options.port, options.url)
    return [bridge, bridge.far]


parser = make_parser("bridge", __doc__)
parser.add_argument("url", help="of the other room: ws://...")

if __name__ == "__main__":
    run(parser, make)
