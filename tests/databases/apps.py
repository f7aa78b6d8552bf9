"""The API of users as a program of its own, and a client."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from silly.net import http
from tests.databases.servers import EXAMPLE


class App:
    """A running program of the example."""

    def __init__(self, *args: str, program: str | Path = "app.py", directory: Path) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "default",
                str(EXAMPLE / program),
                "--listen",
                "127.0.0.1:0",
                *args,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env=environ(),
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)  # or a full pipe would block it
        self._reader.start()
        self._watchdog = threading.Timer(250, self._process.kill)
        self._watchdog.start()
        line = self.line()
        found = re.search(r"http://\S+", line)
        assert found, line + self.rest()
        self.url = found[0]
        self.line()  # which database
        self.cache = self.line()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def line(self) -> str:
        return self._lines.get()

    def rest(self) -> str:
        """Wait for its end; return what it has printed that was not read yet."""
        self._process.wait()
        self._reader.join()
        return "".join(iter(self._lines.get, ""))

    def begin_to_stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> str:
        """Drain it; return what it printed."""
        self.begin_to_stop()
        output = self.rest()
        assert self._process.returncode == 0, output
        assert "Warning" not in output, output  # such as a connection that was not closed
        return output

    def end(self) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def environ() -> dict[str, str]:
    """Return the environment without settings of a database, such as DATABASE_URL."""
    paths = [str(EXAMPLE), os.environ.get("PYTHONPATH", "")]
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@contextmanager
def serving(*args: str, program: str | Path = "app.py", directory: Path) -> Iterator[App]:
    app = App(*args, program=program, directory=directory)
    try:
        yield app
    finally:
        app.end()


class API:
    """A client of the API."""

    def __init__(self, client: http.Client) -> None:
        self._client = client

    async def __call__(self, method: str, path: str = "", **options: Any) -> tuple[int, Any]:
        """Return the status and what the body says; check what all answers have in common."""
        reply = await self._client.request(method, f"/api/users{path}", **options)
        answer = await reply.json()
        assert answer["success"] is (reply.status < 400), answer
        assert ("error" in answer) is (reply.status >= 400)
        assert ("retry-after" in reply.headers) is (reply.status == 503)
        return reply.status, answer.get("data", answer.get("message", answer.get("error")))


def client(app: App) -> http.Client:
    return http.Client(base_url=app.url, timeout=60)
