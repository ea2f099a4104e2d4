"""Real browsers for the tests, each told over a WebSocket what to do.

Standard library only: this project's client meets servers that were written
by others. Chromium speaks its DevTools (tests/chromium.py), Firefox speaks
WebDriver BiDi (tests/firefox.py), and here is what they have in common.

The environment variable BROWSERS says which to use, both if it is not set:
"chromium", "firefox", "chromium firefox", or "" for none. One that is not
found is skipped, but not where the environment variable CI is set.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from client import Client, State, turn
from tests.support import DEADLINE, wait_until

NAMES = ("chromium", "firefox")
running = {}  # name -> Browser; they serve all tests of a module


class Scenarios:
    """Tests that every browser has to pass; see in_each_browser()."""

    browser_name = ""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.browser = start(cls.browser_name)


def in_each_browser(namespace, base=unittest.TestCase):
    """Make a TestCase for each browser of each class of scenarios.

    So StateTest becomes ChromiumStateTest and FirefoxStateTest.
    """
    for title, scenarios in list(namespace.items()):
        if isinstance(scenarios, type) and issubclass(scenarios, Scenarios):
            for name in NAMES:
                made = name.capitalize() + title
                fields = {
                    "browser_name": name,
                    "__module__": namespace["__name__"],
                }
                namespace[made] = type(made, (scenarios, base), fields)


def start(name):
    """Return the browser, which is started if it does not run yet."""
    if name not in running:
        path, browser = find(name)
        running[name] = browser(path)
    return running[name]


def close_all():
    """End all browsers; for tearDownModule()."""
    while running:
        running.popitem()[1].close()


def find(name):
    """Return the path of a browser, and its class; SkipTest if it is not used.

    What the environment variable CHROMIUM or FIREFOX names goes first.
    """
    chosen = os.environ.get("BROWSERS", " ".join(NAMES)).split()
    if not set(chosen) <= set(NAMES):
        raise AssertionError(f"BROWSERS is {chosen}, may be some of {NAMES}")
    if name not in chosen:
        raise unittest.SkipTest(f"BROWSERS does not name {name}")
    module = importlib.import_module(f"tests.{name}")
    places = [os.environ.get(name.upper()), *map(shutil.which, module.NAMES)]
    places += filter(os.path.exists, module.PLACES)
    for path in filter(None, places):
        return path, module.Browser
    missing = (
        f"no {name} found: install one (Debian: apt-get install"
        f" {module.NAMES[0]}) or name it in the environment variable"
        f" {name.upper()}"
    )
    if os.environ.get("CI"):
        raise AssertionError(missing)
    raise unittest.SkipTest(missing)


class Connection:
    """The WebSocket to a browser: client.py, driven turn by turn."""

    def __init__(self, url):
        self.texts = []
        self.ended = None
        # A screenshot is one message of some megabytes.
        self.client = Client(url, timeout=DEADLINE, max_message=64 * 2**20)
        self.client.on_message = lambda _, text: self.texts.append(text)
        self.client.on_close = lambda _, *why: setattr(self, "ended", why)
        self.client.connect()
        self.drive(lambda: self.client.state is State.OPEN)

    def drive(self, condition):
        """Turn until the condition holds."""
        end = time.monotonic() + DEADLINE
        while not condition():
            if self.ended or time.monotonic() > end:
                raise AssertionError(f"the browser is silent: {self.ended}")
            turn([self.client])

    def send(self, text):
        self.client.send(text)
        self.drive(lambda: not self.client.outbox)

    def receive(self):
        """Return the next text."""
        self.drive(lambda: self.texts)
        return self.texts.pop(0)

    def close(self):
        self.client.close()
        turn([self.client])
        self.client.end("the browser takes seconds to hang up")
        turn([self.client])


class Browser:
    """A browser with a profile of its own; close() ends it.

    A subclass knows its command(), its find_url(), new_tab() and QUIT, and
    how an event names its tab: whose().
    """

    QUIT = ""  # the command that ends it

    def __init__(self, path):
        self.tabs = {}
        self.last_id = 0
        self.connection = None
        self.process = None
        self.profile = tempfile.mkdtemp(prefix="browser-test-")
        self.log = os.path.join(self.profile, "stderr.txt")
        try:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    self.command(path),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # to end all its children
                )
            wait_until(self.is_ready, "the browser's start")
            self.connection = Connection(self.find_url())
            self.greet()
        except BaseException:
            print(Path(self.log).read_text("utf-8", "replace"), file=sys.stderr)
            self.close()
            raise

    def is_ready(self):
        """Tell whether it has written where it listens."""
        if self.process.poll() is not None:
            raise AssertionError("the browser has ended at once")
        with contextlib.suppress(OSError, ValueError):
            return self.find_url()
        return False

    def greet(self):
        """Say what it must hear before anything else."""

    def call(self, method, more=(), **params):
        """Do one command; return its result."""
        self.last_id += 1
        command = {"id": self.last_id, "method": method, "params": params}
        self.connection.send(json.dumps({**command, **dict(more)}))
        while True:
            answer = json.loads(self.connection.receive())
            if answer.get("id") == self.last_id:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer}")
                return answer["result"]
            self.note(answer)

    def wait_for_event(self, condition):
        """Wait until what is reported makes the condition true."""
        while not condition():
            self.note(json.loads(self.connection.receive()))

    def note(self, event):
        """Tell a tab what has happened there."""
        tab = self.tabs.get(self.whose(event))
        if tab:
            tab.note(event["method"], event["params"])

    def open(self, url, before="", width=1280, height=720):
        """Open a tab; before: a script that runs before the page's own."""
        tab = self.new_tab()
        tab.resize(width, height)
        if before:
            tab.run_before(before)
        tab.go(url)
        return tab

    def close(self):
        """End it with all its processes, and remove its profile."""
        if self.process:
            self.end()
        shutil.rmtree(self.profile, ignore_errors=True)

    def end(self):
        try:
            self.call(self.QUIT)
            self.process.wait(DEADLINE)
            self.connection.close()
        except Exception:
            self.process.kill()  # it does not listen, or no more
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):  # all of them have ended
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)


class Tab:
    """One page in a browser; a subclass speaks the browser's language."""

    def __init__(self, browser, key):
        self.browser = browser
        self.key = key  # how its events name it
        browser.tabs[key] = self
        self.errors = []  # what the page's console has shown in red or yellow

    def run(self, script, *arguments):
        """Run a JavaScript expression; return its value.

        With arguments: a function, which is called with them.
        """
        if arguments:
            values = ", ".join(json.dumps(value) for value in arguments)
            script = f"({script})({values})"
        return self.evaluate(script)

    def wait_for(self, script, *arguments):
        """Wait until a JavaScript expression is true."""
        try:
            wait_until(lambda: self.run(script, *arguments), script)
        except AssertionError as error:
            shown = self.run("document.body.innerText")
            raise AssertionError(f"{error} {arguments}\n{shown}") from None

    def screenshot(self, path):
        """Save what one sees as a PNG; for people, no test looks at it."""
        Path(path).write_bytes(base64.b64decode(self.picture()))
