"""Chromium, driven over its DevTools protocol by `silly.net.websocket`.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from silly.net import tcp, websocket

__all__ = ["Browser", "Tab", "browser"]

DEADLINE = 60.0  # seconds for anything that a page does
LIMITS = tcp.Limits(max_message_bytes=64 * 1024 * 1024)  # pictures
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowDown": 40}


class Tab:
    """One page."""

    def __init__(self, ws: websocket.WebSocket) -> None:
        self._ws = ws
        self._ids = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; what the page reports meanwhile is dropped."""
        number = next(self._ids)
        await self._ws.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(await self._ws.recv(timeout=DEADLINE))
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, (expression, found)
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true; return its value."""
        deadline = time.monotonic() + DEADLINE
        # It fails while the page is being loaded.
        guarded = f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()"
        while not (value := await self.evaluate(guarded)):
            assert time.monotonic() < deadline, (expression, await self.text())
            await asyncio.sleep(0.02)
        return value

    async def says(self, text: str) -> None:
        """Wait until the page shows *text*."""
        await self.until(f"document.body.innerText.includes({json.dumps(text)})")

    async def text(self) -> str:
        """Return all text of the page."""
        return str(await self.evaluate("document.body.innerText"))

    async def type(self, text: str) -> None:
        """Type text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press a key."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    async def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the page another size, and light or dark colours."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, path: Path) -> None:
        """Write a picture of the page."""
        found = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))


class Browser:
    """A running browser."""

    def __init__(self, port: str, control: Tab) -> None:
        self._port = port
        self._control = control
        self._tabs: list[websocket.WebSocket] = []

    async def open(self, url: str) -> Tab:
        """Open a page in a tab of its own, with a session of its own."""
        context = await self._control.call("Target.createBrowserContext")
        target = await self._control.call("Target.createTarget", url=url, **context)
        ws = await websocket.connect(
            f"ws://127.0.0.1:{self._port}/devtools/page/{target['targetId']}", limits=LIMITS
        )
        self._tabs.append(ws)
        return Tab(ws)

    async def close(self) -> None:
        """Close all tabs' connections."""
        for ws in self._tabs:
            ws.abort()
            await ws.wait_closed()


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Run Chromium until the end of the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu"]
        command += ["--no-first-run", "--disable-extensions", "--disable-background-networking"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={directory}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            told = Path(directory) / "DevToolsActivePort"
            deadline = time.monotonic() + DEADLINE
            while not told.exists() or len(told.read_text().split()) < 2:
                assert process.poll() is None, "chromium ended"
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            port, path = told.read_text().split()
            async with websocket.connect(f"ws://127.0.0.1:{port}{path}", limits=LIMITS) as ws:
                opened = Browser(port, Tab(ws))
                try:
                    yield opened
                finally:
                    await opened.close()
        finally:
            process.kill()
            process.wait()
