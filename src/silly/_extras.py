"""How to get what an extra of silly brings: a command that works wherever silly came from."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Final

__all__ = ["EXTRAS", "how_to_get"]

EXTRAS: Final = {
    "cli": ("click", "prompt-toolkit", "rich"),
    "otel": ("opentelemetry-api",),
    "prometheus": ("prometheus-client",),
    "reload": ("watchfiles",),
    "uvloop": ("uvloop",),
}
"""The packages of each extra (pyproject.toml has their versions)."""


def how_to_get(extra: str) -> str:
    """Return the command that installs what *extra* brings, for the Python that runs."""
    told = f"{sys.executable} -m pip install {' '.join(EXTRAS[extra])}"
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"  # PEP 668
    if sys.prefix == sys.base_prefix and marker.exists():
        told += " (in a virtual environment: the system manages this Python's packages)"
    return told
