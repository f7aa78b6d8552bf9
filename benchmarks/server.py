"""A server that is measured: what run.py, web.py and websocket.py start."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

CORE: Final = "0"  # on which servers run


class Server:
    """One server with its child processes, pinned, and stopped until it is measured.

    It ends with this process, however that ends: a shell, which waits for the end of its input,
    kills the server then, and at `end`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        port: int | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it, and wait until it accepts at *port*, or until it has printed its own."""
        self.name = name
        self.process = subprocess.Popen(
            ["taskset", "-c", CORE, *command],
            stdout=subprocess.PIPE if port is None else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # peers log each connection that the load resets
            text=True,
            cwd=cwd,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self.guard = subprocess.Popen(
            ["sh", "-c", f"read end; kill -KILL -{self.process.pid}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.port = self.printed() if port is None else self.reached(port)
        except BaseException:
            self.end()
            raise
        self.stop()

    def printed(self) -> int:
        """Return the port that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.strip().isdigit():
            raise RuntimeError(f"{self.name} did not print its port: {line!r}")
        return int(line)

    def reached(self, port: int) -> int:
        """Wait until it accepts connections."""
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{self.name} did not start") from None
                time.sleep(0.05)
            else:
                return port

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def processes(self) -> list[Path]:
        """Return the directories of its processes in /proc."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(path.name)) == self.process.pid:
                    found.append(path)
            except OSError:
                continue
        return found

    def cpu(self) -> float:
        """Return the processor time used so far by all threads, in seconds."""
        tasks = (task for path in self.processes() for task in (path / "task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def memory(self) -> int:
        """Return the resident memory that is its own (unique set size) in KiB."""
        texts = ((path / "smaps_rollup").read_text() for path in self.processes())
        return sum(int(kib) for text in texts for kib in re.findall(r"Private_\w+: +(\d+)", text))

    def end(self) -> None:
        self.guard.communicate()
        self.process.wait()


def build_go(source: Path, into: Path) -> None:
    """Compile *source*, if Go is installed, to *into*/NAME."""
    if shutil.which("go"):
        environment = {**os.environ, "GO111MODULE": "off", "GOFLAGS": ""}
        command = ["go", "build", "-o", str(into / source.stem), str(source)]
        subprocess.run(command, check=True, env=environment)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def is_installed(needed: str) -> bool:
    """Return whether a program or a module is there; nothing always is."""
    return not needed or bool(shutil.which(needed) or importlib.util.find_spec(needed))
