"""Rung 1 of 5: the class of the PHP tutorial, line by line, with its bugs.

Its names are kept; ours stand behind "here:". BUG 2 to 7 are marked; 1 is in
print only: a GUID with hyphens that no browser accepts. With client.html from
disk it seems to work. Rung 2 tells what goes wrong, and how to see it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import select
import socket
import sys
import time
from typing import Any
from urllib.parse import parse_qsl


class Sock:
    """The tutorial's class (here: Server and ChatRoom in server.py)."""

    def __init__(self, port: int) -> None:
        self.master = socket.create_server(("127.0.0.1", port))
        self.sockets = [self.master]
        self.users: dict[str, dict[str, Any]] = {}  # here: class User
        self.sda: dict[str, bytes] = {}  # long messages, not yet whole

    def run(self) -> None:
        """Wait, and serve who is ready, for ever (here: turn)."""
        while True:
            changes, _, _ = select.select(self.sockets, [], [], 0.5)
            for sock in changes:
                if sock is self.master:
                    client, _ = self.master.accept()
                    k = str(client.fileno())  # PHP: uniqid()
                    self.sockets.append(client)
                    user = {"socket": client, "shou": False, "name": ""}
                    self.users[k] = user
                    continue
                buffer = data = socket_recv(sock, 1000)
                while len(data) == 1000:  # BUG 3: if that was all, it waits.
                    data = socket_recv(sock, 1000)
                    buffer += data
                k = self.search(sock)
                if len(buffer) < 7:  # BUG 4: an empty ping has six bytes.
                    self.send2(k)
                elif not self.users[k]["shou"]:
                    self.woshou(k, buffer)
                else:
                    self.send(k, self.uncode(buffer, k))

    def search(self, sock: socket.socket) -> str:
        """Find the user of a socket (here: select() gives back users)."""
        return next(k for k, v in self.users.items() if v["socket"] is sock)

    def woshou(self, k: str, buffer: bytes) -> None:
        """Shake hands (here: read_request, and all of handshake.py)."""
        key = buffer.partition(b"Sec-WebSocket-Key:")[2].split(b"\r\n")[0]
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        new_key = base64.b64encode(hashlib.sha1(key.strip() + guid).digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        head += b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
        socket_write(self.users[k]["socket"], head + new_key + b"\r\n\r\n")
        self.users[k]["shou"] = True

    def uncode(self, buffer: bytes, k: str) -> str:
        """Take the bytes of one read for a frame (here: Decoder.feed)."""
        buffer = self.sda.pop(k, b"") + buffer
        if buffer[0] in (0x88, 0x89, 0x8A):
            return ""  # A Close, a ping, a pong: nobody answers.
        if buffer[0] != 0x81:  # A picture: passed on as if it were a text.
            return buffer.decode(errors="replace")
        length = buffer[1] & 127
        start = {126: 4, 127: 10}.get(length, 2)  # where the mask begins
        if start > 2:
            length = int.from_bytes(buffer[2:start], "big")
        mask, data = buffer[start : start + 4], buffer[start + 4 :]
        if length > 255 and length > len(data):
            self.sda[k] = buffer  # The rest comes with the next read.
            return ""
        # BUG 2: half of a frame, or three of them, are taken for one.
        text = bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))
        return text.decode(errors="replace")

    def code(self, msg: str) -> bytes:
        """Make a frame (here: encode_frame)."""
        data = msg.encode()
        if len(data) < 126:
            return b"\x81" + bytes([len(data)]) + data
        if len(data) < 65025:  # BUG 7: 65536; a length takes the fewest bytes.
            return b"\x81\x7e" + len(data).to_bytes(2, "big") + data
        return b"\x81\x7f" + len(data).to_bytes(8, "big") + data

    def send(self, k: str, msg: str) -> None:
        """Do what a message asks for (here: ChatRoom.on_message)."""
        g = dict(parse_qsl(msg))
        if g.get("type") == "add":
            self.users[k]["name"] = g.get("ming", "")
            self.send1(k, {"type": "add", "name": g.get("ming", "")}, "all")
        elif "nr" in g:
            self.send1(k, {"nrong": g["nr"]}, g.get("key", ""))
        elif msg:  # Not in the tutorial: all rungs pass on what is no form.
            for v in self.users.values():
                socket_write(v["socket"], self.code(msg))

    def send1(self, k: Any, ar: dict[str, Any], key: str) -> None:
        """Send to all, or to one and the sender (here: name, say)."""
        ar.update(code=k, code1=key, time=time.strftime("%m-%d %H:%M:%S"))
        message = self.code(json.dumps(ar))
        users = dict(self.users)
        if key != "all":
            users = {c: users[c] for c in (k, key) if c in users}
        elif ar.get("type") == "add":
            named = [c for c in users if users[c]["name"]]
            people = [{"code": c, "name": users[c]["name"]} for c in named]
            madd = {**ar, "type": "madd", "users": people}
            socket_write(users.pop(k)["socket"], self.code(json.dumps(madd)))
        for v in users.values():  # BUG 6: also who has not shaken hands yet.
            socket_write(v["socket"], message)

    def send2(self, k: str) -> None:
        """Let one go, and tell the others (here: drop, on_close)."""
        user = self.users.pop(k)
        self.sockets.remove(user["socket"])
        user["socket"].close()
        if user["name"]:  # PHP tells it of those who have none, too.
            self.send1(False, {"type": "rmove", "nrong": k}, "all")


def socket_recv(sock: socket.socket, size: int) -> bytes:
    """Read; where Python raises an error, PHP returns nothing."""
    with contextlib.suppress(OSError):
        return sock.recv(size)
    return b""


def socket_write(sock: socket.socket, data: bytes) -> None:
    """Write all of it. BUG 5: this waits for one who does not read."""
    with contextlib.suppress(OSError):  # PHP only warns.
        sock.sendall(data)


if __name__ == "__main__":
    sock = Sock(int(sys.argv[1]))
    with contextlib.suppress(KeyboardInterrupt):
        print("Rung 1 listens on", sock.master.getsockname(), flush=True)
        sock.run()
