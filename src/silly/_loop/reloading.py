"""What a running program reads again on request (SIGHUP), such as certificates.

Whoever has something to read again calls `provide`. The program waits for that with `watch`,
so that a program without such a thing leaves the signal alone.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["provide", "reload", "watch"]

Reload = Callable[[], str]

_reloads: list[Reload] = []
_watcher: Callable[[], object] | None = None


def provide(reload: Reload) -> None:
    """Have `reload` call *reload*, which returns what it has read, as text for the log."""
    if reload in _reloads:
        return
    _reloads.append(reload)
    if _watcher is not None:
        _watcher()


def watch(callback: Callable[[], object] | None) -> None:
    """Call *callback* once there is something to read again; at once if there is already.

    Any thread may call it. None: no longer.
    """
    global _watcher  # noqa: PLW0603 - one program runs at a time
    _watcher = callback
    if callback is not None and _reloads:
        callback()


def reload() -> str:
    """Read all of it again; return what was read, for the log."""
    return "; ".join(text for each in _reloads if (text := each()))
