"""``silly top``: watch a running program and its workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import click

from silly._values.extras import install_command
from silly._values.kinds import PERIOD
from silly.cli.command import Failure, GroupedCommand, run, with_options
from silly.cli.options import UNIX_ADDR, Option
from silly.cli.topping.samples import sample
from silly.cli.topping.source import Answers, Source
from silly.cli.topping.tables import heading, tables
from silly.net import tcp

__all__ = ["main"]

FAILED: Final = 1

_EPILOG: Final = """\
Examples:
  silly --admin unix:/run/app.sock --workers 4 app.py
  silly top unix:/run/app.sock
      a live view: each process, each listener, their rates, event loop lag and memory
  silly top unix:/run/app.sock --once
      one table; rates are of one interval
  silly top unix:/run/app.sock --json --interval 10s >> numbers.jsonl
      a line of JSON every 10 seconds

Exit codes:
  0  it was left with Ctrl-C, the program ended, or --once
  1  the admin socket cannot be reached, or does not answer
  2  wrong usage
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``silly top`` with *arguments* and return the exit code."""
    return run(_top, "top", arguments)


_OPTIONS: Final = (
    Option("--interval", "Time between two samples", PERIOD, 1.0, group="Output"),
    Option("--once", "Take one sample, and end", group="Output"),
    Option("--json", "Write a line of JSON for each sample", dest="as_json", group="Output"),
)

Show = Callable[["dict[str, Any] | None", float], None]


@with_options(*_OPTIONS)
@click.command(cls=GroupedCommand, epilog=_EPILOG)
@click.argument("addr")
def _top(addr: str, *, interval: float, once: bool, as_json: bool) -> int:
    """Watch the program whose admin socket is ADDR, such as unix:/run/app.sock.

    The program is one that was started with `silly --admin ADDR`. With worker processes,
    each of them is shown.
    """
    addr = addr if addr.startswith("unix:") or "/" not in addr else f"unix:{addr}"
    try:
        UNIX_ADDR.parse(addr)
    except ValueError as error:
        raise Failure(str(error)) from None
    with _output(addr, once=once, as_json=as_json) as show, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(addr, interval, show, once=once))
    return 0


@contextlib.contextmanager
def _output(addr: str, *, once: bool, as_json: bool) -> Iterator[Show]:
    def write_json(found: dict[str, Any] | None, _silent: float) -> None:
        if found is not None:
            print(json.dumps({"time": round(time.time(), 3), **found}), flush=True)

    def write(found: dict[str, Any] | None, _silent: float) -> None:
        if found is not None:
            width = shutil.get_terminal_size((120, 24)).columns
            blocks = [[heading(found, addr)], *tables(found, width)]
            print("\n\n".join("\n".join(block) for block in blocks), flush=True)
            if not once:
                print(flush=True)

    if as_json or once or not sys.stdout.isatty():
        yield write_json if as_json else write
        return
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra

        from silly.cli.topping.view import View  # noqa: PLC0415
    except ImportError:
        raise Failure(f"the live view needs rich: {install_command('cli')}") from None
    with View(Console(file=sys.stdout), addr) as view:
        yield view.show


async def _watch(addr: str, interval: float, show: Show, *, once: bool) -> None:
    try:
        conn = await tcp.connect(addr)
    except OSError as error:
        raise Failure(f"cannot reach {addr}: {error.strerror or error}", FAILED) from None
    async with conn:
        source = Source(conn)
        before: Answers | None = None
        heard_at = time.monotonic()
        while True:
            try:
                now = await source.ask(interval)
            except (EOFError, OSError):
                if before is None:
                    raise Failure(f"{addr} does not answer: it is closed", FAILED) from None
                return
            except ValueError as error:
                raise Failure(f"{addr}: {error}", FAILED) from None
            if now is None:
                show(None, time.monotonic() - heard_at)
                continue
            heard_at = now.at
            if before is not None or not once:
                show(sample(now, before), 0.0)
                if once:
                    return
            before = now
            await asyncio.sleep(interval)
