"""The live view of an echo server: addresses, counts, rates and clients. Needs rich.

It fits any terminal, also one below 80 by 24: the least important parts are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console, Group
from rich.text import Text

from silly._terminal.graph import sparkline
from silly._terminal.live_view import LiveView, cut
from silly._values.units import size_text, text_of_count
from silly.cli.echoing.meter import Meter, Peer, Sample

__all__ = ["View"]

_BAD: Final = ("refused", "overflowed")
_NARROW: Final = 60  # columns, below which details are left out
_PEERS: Final = 10  # rows at most
_LOW: Final = 20  # rows, below which there are no empty ones


class View(LiveView):
    """Shows *meter*, in ``with``; `refresh` redraws it."""

    def __init__(
        self,
        console: Console,
        meter: Meter,
        *,
        title: str,
        addrs: Sequence[str],
        unit: str,
        clock: Callable[[], float],
        refused: Callable[[], int],
    ) -> None:
        super().__init__(console)
        self._meter = meter
        self._title = title
        self._addrs = addrs
        self._unit = unit
        self._clock = clock
        self._refused = refused

    def __rich__(self) -> Group:
        width, height = self._console.size
        meter = self._meter
        rows = [self._heading(width), *self._listening(width, height), _EMPTY]
        rows += [*self._counts(width), _EMPTY, *self._rates(width, height), _EMPTY]
        if height < _LOW:
            rows = [row for row in rows if row is not _EMPTY]
        room = height - len(rows) - 4  # for the heading of the peers, and the last rows
        if room > 0:
            rows.append(_peer_row(width, ("peer", "conns", "in", "out"), style="dim"))
            for each in meter.top(min(room, _PEERS)):
                cells = (
                    _host(each),
                    text_of_count(each.connections),
                    size_text(each.bytes_in),
                    size_text(each.bytes_out),
                )
                rows.append(_peer_row(width, cells))
        rows = rows[: max(1, height - 3)] + ([_EMPTY] if height >= _LOW else [])
        # The last row is short, because the terminal echoes ^C there.
        rows.append(Text("Ctrl-C stops", style="dim"))
        return Group(*map(cut, rows))

    def _heading(self, width: int) -> Text:
        clock = _clock(self._clock() - self._meter.started)
        title = Text(self._title, style="bold")
        title.truncate(max(1, width - len(clock) - 1), overflow="ellipsis")
        title.pad_right(max(1, width - len(clock) - title.cell_len))
        return title.append(clock)

    def _listening(self, width: int, height: int) -> list[Text]:
        together = "on " + ", ".join(self._addrs)
        if len(together) <= width:
            return [Text(together)]
        most = 4 if height >= _LOW else 1
        rows = [Text(f"on {addr}") for addr in self._addrs[:most]]
        if len(self._addrs) > most:
            rows[-1].append(f" and {len(self._addrs) - most} more")
        return rows

    def _counts(self, width: int) -> list[Text]:
        meter = self._meter
        cells = [
            ("connections", meter.connections),
            ("accepted", meter.accepted),
            ("peak", meter.peak),
            ("refused", self._refused()),
            (self._unit, meter.answers),
            ("dropped", meter.dropped),
        ]
        if meter.datagrams_in:
            cells[4:4] = [("datagrams", meter.datagrams_in)]
        if meter.datagrams_overflowed:
            cells[5:5] = [("overflowed", meter.datagrams_overflowed)]
        shown = len(cells) if width >= _NARROW else 3
        names, values = Text(style="dim"), Text()
        for name, value in cells[:shown]:
            text = text_of_count(value)
            column = max(len(name), len(text), 6) + 2
            names.append(f"{name:<{column}}")
            values.append(f"{text:<{column}}", style="red" if name in _BAD and value else "")
        return [names, values]

    def _rates(self, width: int, height: int) -> list[Text]:
        samples = self._meter.samples
        last = samples[-1] if samples else Sample(0, 0, 0)
        rows = []
        if width >= _NARROW and height >= _LOW:
            rows.append(Text(f"{'':<4}{'now':>12}  {'total':>9}", style="dim"))
        total_in, total_out = self._meter.totals()
        for name, now, total, values, style in (
            ("in", last.bytes_in, total_in, [each.bytes_in for each in samples], "green"),
            ("out", last.bytes_out, total_out, [each.bytes_out for each in samples], "yellow"),
        ):
            row = Text(f"{name:<4}{size_text(now) + '/s':>12}  ")
            if width >= _NARROW:
                row.append(f"{size_text(total):>9}  ")
            graph = max(4, min(60, width - row.cell_len))
            row.append(sparkline(values[-graph:]), style=style)
            rows.append(row)
        if width >= _NARROW:
            rows.append(Text(f"{self._unit} {text_of_count(last.answers)}/s"))
        return rows


_EMPTY: Final = Text("")


def _peer_row(width: int, cells: tuple[str, str, str, str], style: str = "") -> Text:
    host, conns, bytes_in, bytes_out = cells
    wide = max(8, min(40, width - 29))
    name = Text(host, style=style)
    name.truncate(wide, overflow="ellipsis")
    name.pad_right(wide - name.cell_len)
    return name.append(f" {conns:>7}{bytes_in:>10}{bytes_out:>10}")


def _host(peer: Peer) -> str:
    return "Unix clients" if peer.host == "unix:" else peer.host


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
