"""Headless Chromium, which speaks its DevTools."""

from __future__ import annotations

from pathlib import Path

from tests import browsers

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
    "--ignore-certificate-errors",  # of the tests' own
)
KEYS = {  # what it is called -> its number, and the text that it makes
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
    " ": (32, " "),
    "l": (76, "l"),
    "p": (80, "p"),
}


class Browser(browsers.Browser):
    QUIT = "Browser.close"

    def command(self, path):
        return [path, *FLAGS, f"--user-data-dir={self.profile}"]

    def find_url(self):
        file = Path(self.profile, "DevToolsActivePort")
        port, path = file.read_text().split()
        return f"ws://127.0.0.1:{port}{path}"

    def new_tab(self):
        target = self.call("Target.createTarget", url="about:blank")
        session = self.call("Target.attachToTarget", flatten=True, **target)
        return Tab(self, session["sessionId"], target["targetId"])

    def whose(self, event):
        return event.get("sessionId")


class Tab(browsers.Tab):
    def __init__(self, browser, session, target):
        super().__init__(browser, session)
        self.target = target
        self.loads = 0  # how often a page was complete
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method, **params):
        """Do one DevTools command in this tab; return its result."""
        return self.browser.call(method, {"sessionId": self.key}, **params)

    def note(self, method, params):
        if method == "Page.loadEventFired":
            self.loads += 1
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            if params["type"] in ("error", "warning", "assert"):
                self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded":
            if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(params["entry"]["text"])

    def run_before(self, script):
        self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def go(self, url):
        self.load("Page.navigate", url=url)

    def reload(self):
        self.load("Page.reload")

    def load(self, method, **params):
        """Do what loads a page, and wait until it is complete."""
        before = self.loads
        self.call(method, **params)
        self.browser.wait_for_event(lambda: self.loads > before)

    def evaluate(self, script):
        result = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
        )
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def type(self, text):
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key):
        """Press a key and let it go, one of KEYS."""
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    def choose_file(self, selector, path):
        """Choose a file as if in the dialog of an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)
        self.call("DOM.setFileInputFiles", files=[str(path)], **node)

    def count_role(self, role):
        """Return how many parts have this role for a screen reader."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [node.get("role", {}).get("value") for node in nodes].count(role)

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

    def picture(self):
        return self.call("Page.captureScreenshot", format="png")["data"]

    def close(self):
        """Close the tab, as a person does."""
        self.browser.call("Target.closeTarget", targetId=self.target)
