"""Programs that tests run in a process of their own."""

from __future__ import annotations

import subprocess
import sys

__all__ = ["assert_prints"]


def assert_prints(script: str, expected: str) -> None:
    """Run *script*, which may fork or change modules, in its own process; check what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == expected, done.stderr
