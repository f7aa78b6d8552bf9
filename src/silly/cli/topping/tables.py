"""Samples as tables of text, which fit the width of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from silly._values.units import counted, duration_text, size_text, text_of_count
from silly.text import printable

__all__ = ["heading", "tables"]


class _Column(NamedTuple):
    name: str
    key: str
    show: Callable[[Any], str]
    rank: int
    """On a narrow terminal, columns of the highest rank are left out first."""


def _text(value: Any) -> str:
    return printable(str(value))


def _size_rate(value: float) -> str:
    return f"{size_text(value)}/s"


def _rate(value: float) -> str:
    return f"{text_of_count(value)}/s"


def _share(value: float) -> str:
    return f"{value:.0%}"


_PROCESS: Final = (
    _Column("worker", "worker", _text, 1),
    _Column("pid", "pid", _text, 2),
    _Column("state", "state", _text, 1),
    _Column("age", "age", duration_text, 4),
    _Column("conns", "connections", text_of_count, 1),
    _Column("new", "accepted_rate", _rate, 2),
    _Column("in", "in_rate", _size_rate, 2),
    _Column("out", "out_rate", _size_rate, 2),
    _Column("errors", "errors", text_of_count, 3),
    _Column("cpu", "cpu", _share, 1),
    _Column("memory", "resident_bytes", size_text, 3),
    _Column("lag", "lag", duration_text, 3),
    _Column("fds", "descriptors", text_of_count, 5),
)
_LISTENER: Final = (
    _Column("listener", "listener", _text, 1),
    _Column("conns", "connections", text_of_count, 1),
    _Column("new", "accepted_rate", _rate, 2),
    _Column("in", "in_rate", _size_rate, 2),
    _Column("out", "out_rate", _size_rate, 2),
    _Column("accepted", "accepted", text_of_count, 4),
    _Column("refused", "refused", text_of_count, 3),
    _Column("errors", "errors", text_of_count, 3),
    _Column("unsent", "unsent_bytes", size_text, 5),
    _Column("backlog", "backlog_used", text_of_count, 5),
)


def heading(sample: dict[str, Any], addr: str) -> str:
    """Return a line about the whole program."""
    health = sample["health"]
    state = _text(health["state"]) + (f" ({_text(health['detail'])})" if health["detail"] else "")
    total = sum(each["connections"] for each in sample["processes"])
    return f"{state}, {counted(total, 'connection')}: {_text(addr)}"


def tables(sample: dict[str, Any], width: int) -> list[list[str]]:
    """Return the table of processes and that of listeners; the first line has the names."""
    processes = sample["processes"]
    columns: Sequence[_Column] = _PROCESS
    if all(each["worker"] is None for each in processes):
        columns = [each for each in _PROCESS if each.key != "worker"]
    return [
        _table(columns, processes, width),
        *([_table(_LISTENER, sample["listeners"], width)] if sample["listeners"] else []),
    ]


def _table(columns: Sequence[_Column], entries: Sequence[dict[str, Any]], width: int) -> list[str]:
    cells = {
        column.name: [column.name, *(_cell(each[column.key], column) for each in entries)]
        for column in columns
    }
    widths = {name: max(map(len, texts)) for name, texts in cells.items()}
    shown = list(columns)
    while len(shown) > 1 and sum(widths[each.name] + 2 for each in shown) - 2 > width:
        shown.remove(max(reversed(shown), key=lambda each: each.rank))
    return [
        "  ".join(
            cells[each.name][row].ljust(widths[each.name])
            if each.show is _text
            else cells[each.name][row].rjust(widths[each.name])
            for each in shown
        ).rstrip()[:width]
        for row in range(len(entries) + 1)
    ]


def _cell(value: Any, column: _Column) -> str:
    return "-" if value is None else column.show(value)
