"""Text chosen by a peer is escaped wherever a verb shows it."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.cli.terminal import started

NAME = "x\n12:00:00 forged\x1b[2J\x9b31m\u202e"


def dial(folder: Path, at: Path) -> socket.socket:
    """Connect from a Unix socket with a malicious name."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.bind(str(folder / NAME))
    sock.connect(str(at))
    return sock


def check(shown: bytes) -> None:
    text = shown.decode()
    assert r"12:00:00 forged\x1b[2J\x9b31m\u202e" in text
    assert "\n12:00:00 forged" not in text
    assert not set(text) & set("\x1b\x9b\u202e")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_echo(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "s"
    with started("echo", f"unix:{path}", *options, "--read-limit", "100") as process:
        assert process.stdout.readline()
        with dial(tmp_path, path) as sock:
            sock.sendall(b"y" * 200)  # too long for a line
            assert sock.recv(100) == b""
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate()
    check(errors if options else output)


def test_connect_listening(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with started("connect", "--listen", f"unix:{path}", "--idle-timeout", "100ms") as process:
        assert process.stderr.readline().startswith(b"Listening on")
        with dial(tmp_path, path) as sock:
            assert sock.recv(100) == b""
            errors = process.stderr.read()
        assert process.wait() == 1
    check(errors)
