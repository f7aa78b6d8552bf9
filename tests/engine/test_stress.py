"""A few programs of fuzz/random_programs.py; `make stress` runs many, with AddressSanitizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STRESS = Path(__file__).parents[2] / "fuzz" / "random_programs.py"


def test_random_programs_leak_nothing_and_break_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(STRESS), "--seed", "1", "--programs", "20"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
