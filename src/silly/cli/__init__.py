"""The command ``silly``: ``silly FILE.py`` runs a script inside a running loop."""

from __future__ import annotations

from silly.cli.run import main

__all__ = ["main"]
