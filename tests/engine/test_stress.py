"""A few random programs; `make stress` runs many, with AddressSanitizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"


@pytest.mark.no_engine
@pytest.mark.parametrize(("programs", "count"), [("random_programs", 20), ("random_datagrams", 8)])
def test_random_programs_leak_nothing_and_break_nothing(programs: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZ / f"{programs}.py"), "--seed", "1", "--programs", str(count)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
