"""Chromium over its debugging pipe: real keys and clicks, every request and dialog seen, and no package for it."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
)
QUIET = ("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe")


class Tab:
    """A page under control. events: what Chromium told of requests and dialogs, in their order."""

    def __init__(self, write: int, read: int) -> None:
        self.write, self.read, self.buffer = write, os.fdopen(read, "rb", buffering=0), b""
        self.events: list[dict[str, Any]] = []
        self.session, self.last = "", 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command of the DevTools protocol and waits for its answer."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        answer: dict[str, Any] = {}
        while answer.get("id") != self.last:
            answer = self.next()
        assert "error" not in answer, answer
        return answer["result"]

    def next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            more = self.read.read(1 << 20)
            assert more, "Chromium has gone"
            self.buffer += more
        message, _, self.buffer = self.buffer.partition(b"\0")
        found = json.loads(message)
        if "method" in found:
            self.events.append(found)
        return found

    def open(self, page: Path, width: int = 1200, scheme: str = "light") -> None:
        """Loads the page at a width in CSS pixels, and waits for its load event."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self.told("Page.loadEventFired"):
            self.next()

    def told(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] == method]

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG file."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A fresh Chromium with its profile in that folder; it ends with the block."""
    (its_in, ours_out), (ours_in, its_out) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (its_in, its_out)]  # free 3 and 4, where it listens

    def listen() -> None:
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    command = [str(PROGRAM), *FLAGS, *QUIET, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, preexec_fn=listen, pass_fds=(3, 4), stderr=subprocess.DEVNULL)
    for fd in (its_in, its_out, *high):
        os.close(fd)
    try:
        yield Tab(ours_out, ours_in)
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(ours_out)
