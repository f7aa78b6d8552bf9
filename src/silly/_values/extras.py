"""The command that installs the packages of an extra of silly, however silly was installed."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Final

__all__ = ["EXTRAS", "install_command"]

EXTRAS: Final = {
    "cli": ("click", "prompt-toolkit", "rich"),
    "env-file": ("python-dotenv",),
    "http": ("httptools", "python-multipart"),
    "otel": ("opentelemetry-api",),
    "prometheus": ("prometheus-client",),
    "pubsub-nats": ("nats-py",),
    "pubsub-redis": ("redis",),
    "reload": ("watchfiles",),
    "tls-dev": ("trustme",),
    "uvloop": ("uvloop",),
    "websocket": ("httptools",),
    "yaml": ("PyYAML",),
}
"""The packages of each extra; pyproject.toml has their versions."""


def install_command(extra: str) -> str:
    """Return the command that installs the packages of *extra* for the running Python."""
    command = f"{sys.executable} -m pip install {' '.join(EXTRAS[extra])}"
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"  # PEP 668
    if sys.prefix == sys.base_prefix and marker.exists():
        command += " (in a virtual environment: the system manages this Python's packages)"
    return command
