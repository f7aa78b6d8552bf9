"""A view on the terminal while a program runs. Needs rich (the extra ``silly-net[cli]``)."""

from __future__ import annotations

from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

__all__ = ["LiveView", "cut"]


class LiveView:
    """Shows what a derived class draws, in ``with``; `refresh` redraws it."""

    def __init__(self, console: Console, *, redirects: bool = True) -> None:
        """Draw on *console*; what else is printed appears above the view if it *redirects*."""
        self._console = console
        self._live = Live(
            self, console=console, auto_refresh=False, transient=True, redirect_stdout=redirects,
            redirect_stderr=redirects,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def refresh(self) -> None:
        """Redraw the view."""
        self._live.refresh()

    def __rich__(self) -> RenderableType:
        """Draw the view, as large as the console is now."""
        raise NotImplementedError


def cut(row: Text) -> Text:
    """Have *row* end with an ellipsis where it is too long for the terminal."""
    row.no_wrap, row.overflow = True, "ellipsis"
    return row
