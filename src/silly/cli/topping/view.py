"""The tables of ``silly top``, live on a terminal. Needs rich (the extra ``silly-net[cli]``)."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.text import Text

from silly._terminal.live_view import LiveView, cut
from silly._values.units import duration_text
from silly.cli.topping.tables import heading, tables

__all__ = ["View"]


class View(LiveView):
    """Shows the latest sample, in ``with``."""

    def __init__(self, console: Console, addr: str) -> None:
        super().__init__(console)
        self._addr = addr
        self._sample: dict[str, Any] | None = None
        self._silent = 0.0

    def show(self, sample: dict[str, Any] | None, silent: float) -> None:
        """Show *sample* (None: the one before), and that there was no answer for *silent* s."""
        self._sample = sample or self._sample
        self._silent = silent
        self.refresh()

    def __rich__(self) -> Group:
        width, height = self._console.size
        rows: list[Text] = []
        if self._sample is not None:
            rows.append(Text(heading(self._sample, self._addr), style="bold"))
            for names, *entries in tables(self._sample, width):
                rows += [Text(""), Text(names, style="dim"), *map(_entry, entries)]
        if self._silent:
            silent = f"no answer for {duration_text(self._silent)}"
            rows.append(Text(silent, style="bold red"))
        rows = rows[: max(1, height - 2)]
        rows.append(Text("Ctrl-C leaves", style="dim"))
        return Group(*map(cut, rows))


def _entry(line: str) -> Text:
    is_leaving = " stopping" in line or " draining" in line or " ending" in line
    return Text(line, style="yellow" if is_leaving else "")
