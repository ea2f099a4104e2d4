"""The room behind a real nginx, as lessons/nginx.md says to set it up.

The configuration and the server's command are read out of that text. Only
ports, paths and the number of seconds are others here.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from handshake import HandshakeError
from tests import browsers
from tests.support import (
    DEADLINE,
    ROOT,
    Child,
    Process,
    make_certificate,
    wait_until,
)
from tests.test_client import Noting, drive, free_port

CHAPTER = (ROOT / "lessons" / "nginx.md").read_text("utf-8")
CONFIG = re.search(r"^```nginx\n(.*?)^```$", CHAPTER, re.M | re.S)[1]
COMMAND = re.search(r"^python server.py (.*)$", CHAPTER, re.M)[1]
SITE = "https://class.example"
NO_NGINX = "no nginx found: install one (Debian: apt-get install nginx)"
# So soon nginx gives up a silent room here. The room looks for the silent
# twice a second, so a ping can come half a second late.
PATIENCE = "1500ms"
# One process, no files outside its folder; see "nginx -V" for the defaults.
AROUND = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {}
}}
"""


def find_nginx():
    """Return the path of nginx, or None."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def setUpModule():
    global folder, pem, key, trusting
    if sys.platform == "win32":
        raise unittest.SkipTest("nginx for Windows is another program")
    for program, words in (
        (find_nginx(), NO_NGINX),
        (shutil.which("openssl"), "no openssl found, for a certificate"),
    ):
        if not program and os.environ.get("CI"):
            raise AssertionError(words)
        if not program:
            raise unittest.SkipTest(words)
    folder = tempfile.mkdtemp(prefix="nginx-test-")
    key, pem = make_certificate(folder, "here", "DNS:localhost,IP:127.0.0.1")
    trusting = ssl.create_default_context(cafile=str(pem))


def tearDownModule():
    browsers.close_all()
    shutil.rmtree(folder)


def adapted(listening, room):
    """Return the chapter's configuration with these two ports."""
    text = CONFIG
    for old, new in (
        ("listen 443 ", f"listen 127.0.0.1:{listening} "),
        ("/etc/nginx/class.crt", str(pem)),
        ("/etc/nginx/class.key", str(key)),
        ("127.0.0.1:9000", f"127.0.0.1:{room}"),
        (" 60s;", f" {PATIENCE};"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class Nginx(Child):
    """A running nginx in front of a room; port: what it listens on.

    change: a line of the configuration, and what stands in its place.
    """

    def __init__(self, room, change, port):
        self.folder = tempfile.mkdtemp(dir=folder)
        self.port = port
        config = adapted(self.port, room)
        assert change[0] in config, change
        config = AROUND.format(config.replace(*change, 1))
        Path(self.folder, "nginx.conf").write_text(config)
        self.log = Path(self.folder, "stderr")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [find_nginx(), "-p", self.folder, "-c", "nginx.conf"],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        wait_until(self.listens, "nginx")

    def listens(self):
        """Tell whether it can be reached; an error if it has ended."""
        if self.process.poll() is not None:
            raise AssertionError(self.log.read_text())
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class NginxCase(unittest.TestCase):
    def room(self, *options):
        """Start a room with the chapter's command, or with these options."""
        words = options or shlex.split(COMMAND)[1:]
        room = Process("0", *words)
        self.addCleanup(room.__exit__, None, None, None)
        return room

    def proxy(self, room, change=("", ""), port=None):
        """Start nginx in front of a room; return its port."""
        nginx = Nginx(room.port, change, port or free_port())
        self.addCleanup(nginx.__exit__, None, None, None)
        return nginx.port

    def client(self, port, path="/chat/", origin=SITE, **options):
        """Return a client of the room, which has not connected yet."""
        made = Noting(
            f"wss://localhost:{port}{path}",
            origin=origin,
            ssl_context=trusting,
            **options,
        )
        self.addCleanup(lambda: made.socket and made.socket.close())
        return made

    def opened(self, *arguments, **options):
        made = self.client(*arguments, **options)
        drive(made, until=lambda: made.told("open"))
        return made

    def refused(self, *arguments, **options):
        """Return the error of a client that does not get in."""
        made = self.client(*arguments, **options)
        drive(made)
        ((error,),) = made.told("error")
        self.assertIsInstance(error, HandshakeError)
        return str(error)

    def get(self, port, path):
        """Return (status, Location, body) of an HTTPS request."""
        connection = http.client.HTTPSConnection(
            "localhost", port, timeout=DEADLINE, context=trusting
        )
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return (
                response.status,
                response.getheader("Location"),
                response.read(),
            )


class Behind(NginxCase):
    def test_the_page(self):
        port = self.proxy(self.room())
        html = (ROOT / "client.html").read_bytes()
        self.assertEqual(self.get(port, "/chat/"), (200, None, html))
        status, location, _ = self.get(port, "/chat")
        self.assertEqual(status, 301)
        self.assertRegex(location, f"^https://[^/]*:{port}/chat/$")
        self.assertEqual(self.get(port, "/chat/codec.py")[0], 404)

    def test_messages(self):
        room = self.room()
        made = self.opened(self.proxy(room))
        messages = ["hello", b"\x00\xff", "x" * 100_000, bytes(2**20)]
        for message in messages:
            made.send(message)
        drive(made, until=lambda: len(made.messages()) == len(messages))
        self.assertTrue(made.messages() == messages)
        made.close(4001, "home")
        drive(made)
        self.assertEqual(made.told("close"), [(4001, "")])
        room.wait_for("left: 4001 home$")

    def test_the_rooms_own_close(self):
        made = self.opened(self.proxy(self.room()))
        made.send(bytes(2**20 + 1))
        drive(made)
        ((code, _),) = made.told("close")
        self.assertEqual(code, 1009)

    def test_without_origin(self):
        room = self.room("--ping-interval", "20")
        port = self.proxy(room)
        words = f"Only with --origin {SITE} may such a page connect."
        self.assertEqual(self.refused(port), f"403 Forbidden: {words}")
        room.wait_for(f"refused: 403 {words}$")
        self.assertIn(f"`{words}`", CHAPTER)
        self.assertIn(f"--origin {SITE}", COMMAND)

    def test_each_line_is_needed(self):
        room = self.room()
        for change, words in (
            (("proxy_http_version 1.1", "proxy_http_version 1.0"), "400"),
            (("proxy_set_header Upgrade $http_upgrade;", ""), "400"),
            (("proxy_set_header Connection upgrade;", ""), "400"),
            ((f"127.0.0.1:{room.port}/", f"127.0.0.1:{room.port}"), None),
        ):
            with self.subTest(change):
                port = self.proxy(room, change)
                if words:
                    self.assertRegex(self.refused(port), words)
                else:
                    self.assertEqual(self.get(port, "/chat/")[0], 404)
        port = self.proxy(room, ("proxy_set_header Host $http_host;", ""))
        home = f"http://127.0.0.1:{room.port}"
        self.opened(port, origin=home)
        self.assertRegex(self.refused(self.proxy(room), origin=home), "403")

    def test_silence(self):
        room = self.room("--ping-interval", "0.3", "--origin", SITE)
        pinged = self.client(self.proxy(room))
        silent = self.client(self.proxy(self.room()))
        drive(pinged, until=lambda: pinged.told("open"))
        # Who is pinged later than nginx is patient is cut off...
        drive(silent, pinged, until=lambda: silent.told("close"))
        self.assertEqual(silent.told("open"), [(101,)])
        self.assertEqual(silent.told("close"), [(1006, "the server hung up")])
        # ... and the other one, who came before, is not.
        pinged.send("still here")
        drive(pinged, until=pinged.messages)
        self.assertEqual(pinged.messages(), ["still here"])

    def test_the_room_stops(self):
        room = self.room()
        port = self.proxy(room)
        made = self.opened(port)
        room.signal(signal.SIGTERM)
        drive(made)
        self.assertEqual(made.told("close"), [(1001, "the room closes")])
        self.assertEqual(room.end(), 0)
        self.assertEqual(self.get(port, "/chat/")[0], 502)
        self.assertEqual(self.refused(port), "502 Bad Gateway")

    def test_the_room_is_killed(self):
        room = self.room()
        made = self.opened(self.proxy(room))
        room.process.kill()
        drive(made)
        ((code, _),) = made.told("close")
        self.assertEqual(code, 1006)


class BehindNginx(browsers.Scenarios):
    def test_the_page_below_a_path(self):
        port = free_port()
        room = self.room("--origin", f"https://localhost:{port}")
        self.proxy(room, port=port)
        tab = self.browser.open(f"https://localhost:{port}/chat/")
        self.addCleanup(tab.close)
        state = "document.getElementById('state').textContent"
        tab.wait_for(f"{state}.startsWith('Open')")
        self.assertEqual(
            tab.run("document.getElementById('address').value"),
            f"wss://localhost:{port}/chat/",
        )
        tab.type("Ana")
        tab.press("Enter")
        tab.wait_for(f"{state}.startsWith('Open. You are')")
        other = self.opened(port, origin=None)
        tab.run("document.getElementById('text').focus()")
        tab.type("by wss")
        tab.press("Enter")
        drive(other, until=lambda: "by wss" in "".join(other.messages()))
        tab.wait_for("document.body.innerText.includes('by wss')")
        self.assertEqual(tab.errors, [])
        room.signal(signal.SIGTERM)
        tab.wait_for("document.body.innerText.includes('1001')")
        tab.wait_for("document.body.innerText.includes('1006')")


browsers.in_each_browser(globals(), NginxCase)

if __name__ == "__main__":
    unittest.main()
