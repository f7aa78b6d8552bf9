"""The guarantees of conftest.py hold however the tests were started."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_engine

DISPOSITIONS = (
    "import signal\n"
    "for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):\n"
    "    print(number.name, signal.getsignal(number) in"
    " (signal.SIG_DFL, signal.default_int_handler))\n"
)

HANGING = """
import subprocess, tests.conftest

tests.conftest.TEST_DEADLINE = 1

def test_hangs():
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            process.wait()
        finally:
            process.kill()

def test_next():
    pass
"""


def test_programs_start_with_the_default_dispositions() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DISPOSITIONS], capture_output=True, text=True, check=True
    )
    assert done.stdout == "SIGINT True\nSIGQUIT True\nSIGHUP True\n"


def test_programs_in_the_background_start_with_the_default_dispositions() -> None:
    """Start the tests like `nohup make test &`."""
    test = f"{__file__}::{test_programs_start_with_the_default_dispositions.__name__}"
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT QUIT HUP; exec "$@"', "sh",
         sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_a_test_that_hangs_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "test_hanging.py"
    path.write_text(HANGING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
         "--rootdir", tmp_path, path],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "test_hangs was not done within 1 s" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_a_held_port_is_refused_and_can_be_listened_on(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    with socket.create_server(("127.0.0.1", port)):
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
