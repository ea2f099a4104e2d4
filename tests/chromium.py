"""A real browser for the tests: headless Chromium over its DevTools.

Standard library only. The DevTools speak JSON over a WebSocket: here this
project's client meets a server that was written by others.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from client import Client, State, turn
from tests.support import DEADLINE, wait_until

NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
    "chrome", "msedge", "microsoft-edge",
)  # fmt: skip
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
FLAGS = (
    "--headless",
    "--no-sandbox",  # it does not start as root otherwise
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # small in containers
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--remote-debugging-port=0",
)
# A proxy from the environment is not for 127.0.0.1.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def find_browser():
    """Return the path of a Chromium, or None; BROWSER_PATH goes first."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    return next((place for place in PLACES if os.path.exists(place)), None)


class Connection:
    """The DevTools' WebSocket: client.py, driven turn by turn."""

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
    """A headless Chromium with a profile of its own; close() ends it."""

    def __init__(self, path):
        self.profile = tempfile.mkdtemp(prefix="browser-test-")
        self.log = os.path.join(self.profile, "stderr.txt")
        self.process = None
        try:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    [path, *FLAGS, f"--user-data-dir={self.profile}"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # to end all its children
                )
            wait_until(self.find_port, "the browser's start")
        except BaseException:
            print(Path(self.log).read_text("utf-8", "replace"), file=sys.stderr)
            self.close()
            raise

    def find_port(self):
        """Tell whether Chromium has written where its DevTools listen."""
        if self.process.poll() is not None:
            raise AssertionError("the browser has ended at once")
        try:
            file = Path(self.profile, "DevToolsActivePort")
            port, path = file.read_text().split()
        except (OSError, ValueError):
            return False
        self.address = f"127.0.0.1:{port}"
        self.path = path
        return True

    def http(self, path, method="GET"):
        """Ask the DevTools by HTTP; return the body."""
        request = urllib.request.Request(
            f"http://{self.address}{path}", method=method
        )
        with OPENER.open(request, timeout=DEADLINE) as response:
            return response.read()

    def open(self, url, before="", width=1280, height=720):
        """Open a tab; before: a script that runs before the page's own."""
        target = json.loads(self.http("/json/new?about:blank", "PUT"))
        tab = Tab(self, target)
        tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        tab.resize(width, height)
        if before:
            tab.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        tab.call("Page.navigate", url=url)
        tab.wait_for_load(1)
        return tab

    def close(self):
        """End it with all its processes, and remove its profile."""
        if self.process:
            self.end()
        shutil.rmtree(self.profile, ignore_errors=True)

    def end(self):
        try:
            connection = Connection(f"ws://{self.address}{self.path}")
            connection.send('{"id": 1, "method": "Browser.close"}')
            self.process.wait(DEADLINE)
            connection.close()
        except Exception:
            self.process.kill()  # it does not listen, or no more
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):  # all of them have ended
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)


class Tab:
    """One page in the browser."""

    def __init__(self, browser, target):
        self.browser = browser
        self.id = target["id"]
        self.connection = Connection(target["webSocketDebuggerUrl"])
        self.last_id = 0
        self.loads = 0  # how often a page was complete
        self.errors = []  # what the page's console has shown in red
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Do one DevTools command; return its result."""
        self.last_id += 1
        command = {"id": self.last_id, "method": method, "params": params}
        self.connection.send(json.dumps(command))
        while True:
            answer = json.loads(self.connection.receive())
            if answer.get("id") == self.last_id:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self.note(answer)

    def note(self, event):
        """Keep what a student would see in the console in red."""
        params = event.get("params", {})
        if event["method"] == "Page.loadEventFired":
            self.loads += 1
        elif event["method"] == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        elif event["method"] == "Runtime.consoleAPICalled":
            if params["type"] in ("error", "warning", "assert"):
                self.errors.append(params["args"])
        elif event["method"] == "Log.entryAdded":
            if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(params["entry"])

    def run(self, script, *arguments):
        """Run a JavaScript expression; return its value.

        With arguments: a function, which is called with them.
        """
        if arguments:
            values = ", ".join(json.dumps(value) for value in arguments)
            script = f"({script})({values})"
        result = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
        )
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for_load(self, number):
        """Wait until so many pages have been loaded."""
        while self.loads < number:
            self.note(json.loads(self.connection.receive()))

    def reload(self):
        number = self.loads + 1
        self.call("Page.reload")
        self.wait_for_load(number)

    def wait_for(self, script, *arguments):
        """Wait until a JavaScript expression is true."""
        try:
            wait_until(lambda: self.run(script, *arguments), script)
        except AssertionError as error:
            shown = self.run("document.body.innerText")
            raise AssertionError(f"{error} {arguments}\n{shown}") from None

    def type(self, text):
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key, modifiers=0):
        """Press a key and let it go: Enter, Tab, Space."""
        code, text = {
            "Enter": (13, "\r"),
            "Tab": (9, ""),
            "Space": (32, " "),
        }[key]
        name = " " if key == "Space" else key
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
                modifiers=modifiers,
            )

    def choose_file(self, selector, path):
        """Choose a file as if in the dialog of an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)
        self.call("DOM.setFileInputFiles", files=[str(path)], **node)

    def resize(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def hide(self):
        """Minimise the window, with all timers going on."""
        self.call("Emulation.setFocusEmulationEnabled", enabled=False)
        self.set_window("minimized")
        self.wait_for("document.hidden")

    def sleep(self):
        """Minimise the window and stop all timers, as browsers do in time."""
        self.hide()
        self.call("Page.setWebLifecycleState", state="frozen")

    def wake(self):
        """Show the window again, with all its timers."""
        self.call("Page.setWebLifecycleState", state="active")
        self.set_window("normal")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def set_window(self, state):
        window = self.call("Browser.getWindowForTarget")["windowId"]
        bounds = {"windowState": state}
        self.call("Browser.setWindowBounds", windowId=window, bounds=bounds)

    def color_scheme(self, scheme):
        """Prefer "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path):
        """Save what one sees as a PNG; for people, no test looks at it."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def close(self):
        """Close the tab, as a person does."""
        self.browser.http(f"/json/close/{self.id}")
        self.connection.close()
