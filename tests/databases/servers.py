"""MariaDB and Redis of our own, on Unix sockets, so that there are no ports to fight for."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "user_api"


class Server:
    """A server process; it can be killed and started again."""

    program = ""
    options: tuple[str, ...] = ()

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "socket"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str:
        """Return why there is none here; empty if there is."""
        return "" if shutil.which(cls.program) else f"{cls.program} is not installed"

    def start(self) -> None:
        """Start it, unless it runs; return when it accepts connections."""
        if self._process is not None and self._process.poll() is None:
            return
        self.socket.unlink(missing_ok=True)
        command = [self.program, *(option.format(self.directory) for option in self.options)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        until = time.monotonic() + 60
        while not self._accepts():
            log_text = (self.directory / "log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, log_text
            assert time.monotonic() < until, log_text
            time.sleep(0.01)

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.socket))
            except OSError:
                return False
            sock.settimeout(1)
            return self._greets(sock)

    def _greets(self, sock: socket.socket) -> bool:
        raise NotImplementedError

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class MariaDB(Server):
    """MariaDB without its tables of accounts: it lets everybody in, who can reach the socket."""

    program = "mariadbd"
    options = (
        "--no-defaults", "--user=root", "--datadir={0}/data", "--socket={0}/socket",
        "--skip-networking", "--skip-grant-tables", "--skip-log-bin",
        "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M",
        "--innodb-flush-method=nosync", "--aria-log-file-size=8M", "--key-buffer-size=1M",
    )  # fmt: skip

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (directory / "data").mkdir()

    def _greets(self, sock: socket.socket) -> bool:
        return b"MariaDB" in sock.recv(100)

    def url(self, driver: str = "asyncmy", database: str = "userdb") -> str:
        """Return how programs name it."""
        return f"mysql+{driver}://root@localhost/{database}?unix_socket={self.socket}"


class Redis(Server):
    """Redis, which keeps nothing when it ends."""

    program = "redis-server"
    options = ("--port", "0", "--unixsocket", "{0}/socket", "--save", "", "--appendonly", "no")

    def _greets(self, sock: socket.socket) -> bool:
        sock.sendall(b"PING\r\n")
        return sock.recv(100).startswith(b"+PONG")

    @property
    def url(self) -> str:
        """Return how programs name it."""
        return f"unix://{self.socket}"
