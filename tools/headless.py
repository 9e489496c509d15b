"""A page in headless Chromium over the DevTools protocol: measured, pictured, its errors heard.

Needs `chromium` on the path (Debian's package of that name) and nothing else: the protocol is read
through a pipe. Leaves out what is asked of a page (`tools/picture_report.py`, the tests).
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A sandbox of its own fails in containers; the page is ours and asks for nothing.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe")  # fmt: skip
SECONDS = 60.0  # for one answer
PACKAGE = "chromium"  # Debian's


def find_chromium() -> str | None:
    """The browser's program, if it is installed."""
    return shutil.which("chromium")


class Browser:
    """One tab of a running Chromium.

    Attributes:
        errors: what the pages so far said on their consoles, or asked the network for.
    """

    def __init__(self, to_it: int, from_it: int) -> None:
        self._to, self._from = to_it, from_it
        self._read, self._count = b"", 0
        self.errors: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attach = {"targetId": target, "flatten": True}
        self._session = ""
        self._session = str(self._call("Target.attachToTarget", attach)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", {})

    def open(self, page: Path, width: int, height: int, dark: bool = False) -> None:
        """Show a file in a window of that many CSS pixels; a phone's if it is narrow."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._call("Page.navigate", {"url": page.resolve().as_uri()})
        end = time.monotonic() + SECONDS
        while self.evaluate("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < end, f"{page} did not load"
            time.sleep(0.05)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, as JSON knows it.

        Raises:
            RuntimeError: it threw.
        """
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        found = self._call("Runtime.evaluate", asked)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:500])
        return found["result"].get("value")

    def picture(self, out: Path) -> None:
        """Write what the window shows as a PNG."""
        found = self._call("Page.captureScreenshot", {"format": "png"})
        out.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, parameters: dict[str, object]) -> dict[str, Any]:
        self._count += 1
        message: dict[str, object] = {"id": self._count, "method": method, "params": parameters}
        if session := getattr(self, "_session", ""):
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self._hear(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            chunk = os.read(self._from, 1 << 16)
            if not chunk:
                raise RuntimeError("chromium has ended")
            self._read += chunk
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def _hear(self, event: dict[str, Any]) -> None:
        method, said = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded":
            self.errors.append(said["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            self.errors.append(f"console: {said['args']}")
        elif method == "Runtime.exceptionThrown":
            self.errors.append(f"exception: {said['exceptionDetails']['text']}")
        elif method == "Network.requestWillBeSent":
            url = said["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.errors.append(f"asked the network for {url}")


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium of its own, ended with the block.

    Raises:
        RuntimeError: it is not installed, or ends by itself.
    """
    program = find_chromium()
    if program is None:
        raise RuntimeError(f"{PACKAGE} is not installed: install Debian's package of that name")
    (theirs_in, to_it), (from_it, theirs_out) = os.pipe(), os.pipe()

    def place() -> None:  # it reads from 3 and writes to 4
        first, second = os.dup(theirs_in), os.dup(theirs_out)
        os.dup2(first, 3)
        os.dup2(second, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, close_fds=False, preexec_fn=place, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(to_it, from_it)
        finally:
            process.terminate()
            process.wait(timeout=SECONDS)
            os.close(to_it)
            os.close(from_it)
