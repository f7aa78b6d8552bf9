"""Some of fuzz/random_programs.py; `make stress` runs many more, under AddressSanitizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STRESS = Path(__file__).parents[2] / "fuzz" / "random_programs.py"


def test_whatever_a_program_does_nothing_is_left_and_a_new_connection_works() -> None:
    done = subprocess.run(
        [sys.executable, str(STRESS), "--seed", "1", "--programs", "20"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
