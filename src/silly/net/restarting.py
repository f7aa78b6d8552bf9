"""Whether this process is being replaced by another one, which protocols can tell their peers."""

from __future__ import annotations

__all__ = ["is_restarting", "set_restarting"]

_is_restarting = False


def set_restarting() -> None:
    """Note that the process ends because another one takes its place (called by its overseer)."""
    global _is_restarting  # noqa: PLW0603 - of the process
    _is_restarting = True


def is_restarting() -> bool:
    """Return whether another process takes the place of this one."""
    return _is_restarting
