"""Running a program until it is done or told to stop.

- `program`: `run`, its loop, the signals and the drain; the program's `Overseer`.
- `script`: a file or function run as by ``silly FILE.py``.
- `inspection`: what a program is doing, for SIGUSR1 and the admin socket.
- `blocking`: a watchdog thread that reports code which blocks the event loop.
"""

from __future__ import annotations

from silly.runtime.program import GRACE, loop_factory, run
from silly.runtime.script import run_function, run_script

__all__ = ["GRACE", "loop_factory", "run", "run_function", "run_script"]
