"""Headless Firefox, which speaks WebDriver BiDi; it needs no driver."""

from __future__ import annotations

import json
import unittest
from pathlib import Path

from tests import browsers

NAMES = ("firefox-esr", "firefox")
PLACES = (
    "/Applications/Firefox.app/Contents/MacOS/firefox",
    r"C:\Program Files\Mozilla Firefox\firefox.exe",
)
FLAGS = (
    "--headless",
    "--no-remote",
    "--remote-debugging-port=0",
    "--remote-allow-system-access",  # for color_scheme()
)
# As students have it: Firefox is laxer when it is driven from outside. It
# waits for a handshake for 20 seconds; tests do not. The rest saves time: so
# a new page does not begin with a new process.
USER_JS = """
user_pref("security.fileuri.strict_origin_policy", true);
user_pref("network.websocket.timeout.open", 2);
user_pref("fission.autostart", false);
user_pref("dom.ipc.processCount", 1);
user_pref("browser.startup.page", 0);
user_pref("browser.newtab.preload", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("ui.prefersReducedMotion", 1);
"""
KEYS = {  # WebDriver's names of those that make no letter
    "Enter": "\ue006",
    "Tab": "\ue004",
    "ArrowLeft": "\ue012",
    "ArrowRight": "\ue014",
}
SCHEME = "layout.css.prefers-color-scheme.content-override"


class Browser(browsers.Browser):
    QUIT = "browser.close"

    def greet(self):
        self.free = []  # blank tabs, each of a window without another tab
        capabilities = {"alwaysMatch": {"acceptInsecureCerts": True}}
        self.call("session.new", capabilities=capabilities)
        self.call("session.subscribe", events=["log.entryAdded"])

    def command(self, path):
        Path(self.profile, "user.js").write_text(USER_JS)
        return [path, *FLAGS, "--profile", self.profile]

    def find_url(self):
        file = Path(self.profile, "WebDriverBiDiServer.json")
        port = json.loads(file.read_text())["ws_port"]
        return f"ws://127.0.0.1:{port}/session"

    def new_tab(self):
        # Each in a window of its own: a tab behind another one is hidden.
        # Windows take long to open, so they stay, with a blank tab.
        if not self.free:
            made = self.call("browsingContext.create", type="window")
            self.free.append(made["context"])
        blank = self.free.pop()
        made = self.call(
            "browsingContext.create", type="tab", referenceContext=blank
        )
        return Tab(self, made["context"], blank)

    def whose(self, event):
        return event["params"].get("source", {}).get("context")


class Tab(browsers.Tab):
    def __init__(self, browser, key, blank):
        super().__init__(browser, key)
        self.blank = blank  # in the same window

    def call(self, method, **params):
        """Do one command in this tab; return its result."""
        return self.browser.call(method, context=self.key, **params)

    def note(self, method, params):
        if params["level"] in ("error", "warn"):
            self.errors.append(params["text"])

    def run_before(self, script):
        # It runs in the blank page that is still there, too.
        script = f"if (/^(file|http)/.test(location)) {{ {script} }}"
        self.browser.call(
            "script.addPreloadScript",
            functionDeclaration=f"() => {{ {script} }}",
            contexts=[self.key],
        )

    def go(self, url):
        self.call("browsingContext.navigate", url=url, wait="complete")

    def reload(self):
        self.call("browsingContext.reload", wait="complete")

    def evaluate(self, script, where=None):
        result = self.browser.call(
            "script.evaluate",
            expression=script,
            target={"context": where or self.key},
            awaitPromise=True,
        )
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return value_of(result["result"])

    def type(self, text):
        """Type into what has the focus."""
        strokes = [
            {"type": kind, "value": letter}
            for letter in text
            for kind in ("keyDown", "keyUp")
        ]
        keyboard = {"type": "key", "id": "keyboard", "actions": strokes}
        self.call("input.performActions", actions=[keyboard])

    def press(self, key):
        """Press a key and let it go, such as Enter or l."""
        self.type(KEYS.get(key, key))

    def choose_file(self, selector, path):
        """Choose a file as if in the dialog of an <input type=file>."""
        [element] = self.locate("css", selector)
        self.call("input.setFiles", element=element, files=[str(path)])

    def count_role(self, role):
        """Return how many parts have this role for a screen reader."""
        return len(self.locate("accessibility", {"role": role}))

    def locate(self, kind, value):
        locator = {"type": kind, "value": value}
        found = self.call("browsingContext.locateNodes", locator=locator)
        return found["nodes"]

    def resize(self, width, height):
        size = {"width": width, "height": height}
        self.call(
            "browsingContext.setViewport", viewport=size, devicePixelRatio=1
        )

    def hide(self):
        """Turn to the other tab of the window, with all timers going on."""
        self.browser.call("browsingContext.activate", context=self.blank)
        self.wait_for("document.hidden")

    def sleep(self):
        raise unittest.SkipTest("Firefox puts no tab to sleep when asked")

    def wake(self):
        """Turn to it again."""
        self.call("browsingContext.activate")

    def color_scheme(self, scheme):
        """Prefer "light" or "dark"; in all tabs."""
        number = ("dark", "light").index(scheme)
        tree = self.browser.call(
            "browsingContext.getTree", **{"moz:scope": "chrome"}
        )
        self.evaluate(
            f"Services.prefs.setIntPref('{SCHEME}', {number})",
            tree["contexts"][0]["context"],
        )
        self.wait_for(f"matchMedia('(prefers-color-scheme: {scheme})').matches")

    def picture(self):
        return self.call("browsingContext.captureScreenshot")["data"]

    def close(self):
        """Close the tab, as a person does."""
        self.call("browsingContext.close")
        self.browser.free.append(self.blank)


def value_of(remote):
    """Return the Python value of what BiDi says of a JavaScript value."""
    value = remote.get("value")
    if remote["type"] == "array":
        return [value_of(item) for item in value]
    if remote["type"] == "object":
        return {key: value_of(item) for key, item in value}
    return value
