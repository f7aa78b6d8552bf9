"""``silly bench``: load a server, check every reply byte for byte, measure, report."""

from __future__ import annotations

import contextlib
import functools
import shlex
import signal
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from types import FrameType
from typing import Any, Final, Self

import click

from silly._values import processors
from silly._values.extras import install_command
from silly._values.kinds import COUNT, DURATION, FILE, NUMBER, RATE
from silly.bench import compare as comparing
from silly.bench import find_max as finding
from silly.bench import published, session
from silly.bench.asserts import Claim
from silly.bench.fleet import STOPPING, NotStarted, WorkerDied
from silly.bench.plan import Plan
from silly.bench.progress import Lines, Quiet
from silly.cli.benching.files import as_json, beside, opened, publish
from silly.cli.benching.options import (
    CHECKS,
    CLAIM,
    COMMON,
    DEFAULTS,
    LOAD,
    OUT,
    SHARE,
    STAGE,
    START_RATE,
)
from silly.cli.benching.planning import planned, was_given
from silly.cli.benching.search import CLAIM_FAILS, ERRORS, Search, lines_of
from silly.cli.command import Failure, GroupedCommand, run, with_options
from silly.cli.options import Option, grouped
from silly.text import printable

__all__ = ["main"]

UNREACHABLE: Final = 3  # exit code

_COMMAND: Final = ContextVar("command", default="")
"""The command line, for the published result."""

_EPILOG: Final = """\
Subcommands (each has its own --help):
  silly bench compare A.json B.json    compare two results
  silly bench find-max ADDR --slo …    find the highest rate that a server can hold

Examples:
  silly bench localhost:9999
      ten connections; each sends a 64-byte line, waits until it comes back, sends the next
  silly bench localhost:9999 -c 100 --rate 20k -t 30s --warmup 2s --assert 'p99<5ms'
      20 000 requests per second, however slow the server is; exit code 1 unless p99 < 5 ms
  silly bench localhost:6379 --send 'PING\\r\\n' --expect '+PONG\\r\\n' -n 100k --html r.html
      another protocol, and a report with graphs
  silly bench localhost:9999 --tls --ca ca.pem --mode reconnect
      full and resumed handshakes, timed apart from the requests
  silly bench http://localhost:8080/users -X POST -H 'Content-Type: application/json' \
        --body '{"id": {seq}}' --expect-status 201 --expect-match '"id": ?[0-9]'
      an HTTP server; https:// encrypts
  silly bench ws://localhost:8080/ -c 100 --depth 8 --size 1024 --binary
      a WebSocket server that sends each message back; wss:// encrypts
  silly bench ws://localhost:8080/ --fan-out -c 1000 --rate 20
      one that passes each message on to all: how long until it is there

Exit codes:
  0    every reply was right, and every --assert holds
  1    an --assert fails (find-max: no rate holds)
  2    wrong usage, or a file or standard output cannot be read or written
  3    the server could not be reached
  4    a reply was wrong, or a connection failed (unless an --assert allows errors)
  5    find-max: the client was the limit; the server may hold more
  130  interrupted (143: terminated, 129: hung up); the results so far are printed
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``silly bench`` with *arguments* and return the exit code."""
    _COMMAND.set(shlex.join(("silly", "bench", *arguments)))
    if arguments and arguments[0] in _SUBCOMMANDS:
        return run(_SUBCOMMANDS[arguments[0]], f"bench {arguments[0]}", arguments[1:])
    return run(_bench, "bench", arguments)


# --------------------------------------------------------------------- interruption


class _Signals:
    """Remembers SIGINT, SIGTERM or SIGHUP, in ``with``; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> Self:
        self._before = {each: signal.getsignal(each) for each in STOPPING}
        for each, handler in self._before.items():
            if each != signal.SIGHUP or handler is not signal.SIG_IGN:  # ignored under nohup
                signal.signal(each, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def __call__(self) -> bool:
        return self.number != 0

    @property
    def code(self) -> int:
        """The exit code for the signal."""
        return 128 + self.number


def _measure(
    plan: Plan, watcher: Quiet, signals: _Signals, **settings: Any
) -> dict[str, Any] | None:
    try:
        with watcher:
            result = session.run(plan, watcher, signals, **settings)
    except NotStarted as error:
        raise Failure(f"cannot reach {plan.place}: {_reason(error)}", UNREACHABLE) from None
    except WorkerDied as error:
        raise Failure(str(error), ERRORS) from None
    return None if result is None else {**result, "command": _COMMAND.get()}


def _reason(error: NotStarted) -> str:
    return str(error).partition(": ")[2] or str(error)


def _watcher(title: str, *, quiet: bool) -> Quiet:
    if quiet:
        return Quiet()
    if not sys.stderr.isatty():
        return Lines(sys.stderr)
    try:
        from rich.console import Console  # noqa: PLC0415 - slow to import

        from silly.bench.view import View  # noqa: PLC0415
    except ModuleNotFoundError:
        raise Failure(f"the live view needs rich: {install_command('cli')} (or --quiet)") from None
    return View(Console(stderr=True), title)


# ----------------------------------------------------------------------------- bench


@with_options(
    *COMMON,
    *grouped(
        LOAD,
        Option("--rate",
               "Requests per second, however slow the server is (open loop). Without it, each "
               "reply is followed by the next request (closed loop)",
               START_RATE, short="-r"),
        Option("--stage",
               "30s:100 goes to 100 connections within 30 s, from one or from -c (with --rate: "
               "from that rate to 100 requests per second). Repeat it for more stages",
               STAGE, dest="stages", is_repeatable=True),
        Option("--duration", "How long to measure", DURATION, default_text="10s", short="-t"),
        Option("--requests", "How many requests to measure, instead of a duration", NUMBER,
               short="-n"),
    ),
    *grouped(
        CHECKS,
        Option("--assert",
               "Fail unless this holds: 'p99<5ms', 'errors==0' or 'rate>=10k', for example",
               CLAIM, dest="claims", is_repeatable=True),
        Option("--pid", "The server's process: report its CPU time and memory",
               replace(COUNT, metavar="PID")),
    ),
    *grouped(
        OUT,
        Option("--json", "Write the result as JSON (-: standard output)", FILE, dest="json_path"),
        Option("--csv", "Write a line of CSV for each interval", FILE, dest="csv_path"),
        Option("--html", "Write a report with graphs, as one HTML file", FILE, dest="html_path"),
        Option("--interval", "How often to show progress; the step of figures over time",
               DURATION, DEFAULTS["interval"]),
        Option("--quiet", "Show no progress", short="-q"),
    ),
)  # fmt: skip
@click.command(cls=GroupedCommand, epilog=_EPILOG)
@click.argument("addr")
def _bench(
    addr: str,
    *,
    claims: tuple[Claim, ...],
    pid: int | None,
    json_path: str | None,
    csv_path: str | None,
    html_path: str | None,
    quiet: bool,
    **options: Any,
) -> int:
    """Load the server at ADDR, check every byte of its replies, and measure.

    ADDR is HOST:PORT, [IPV6]:PORT or unix:PATH. The server is expected to echo,
    unless --send and --expect say what it answers. Or ADDR is an http:// or https://
    URL: then each request is one of HTTP/1.1, and --depth pipelines them. Or a ws:// or
    wss:// URL: then each request and each reply is a message of a WebSocket.
    """
    plan = planned(addr, options)
    wanted = {"--json": json_path, "--csv": csv_path, "--html": html_path}
    with opened(wanted) as outputs, _Signals() as signals:
        title = f"silly bench {plan.place}"
        try:
            result = _measure(plan, _watcher(title, quiet=quiet), signals, pid=pid, claims=claims)
        except OSError as error:
            raise Failure(f"--pid {pid}: cannot read {error.filename}: {error.strerror}") from None
        if result is None:
            raise Failure("interrupted while connecting", signals.code)
        publish(outputs, result)
        return signals.code if signals() else _code(result, claims)


def _code(result: dict[str, Any], claims: Sequence[Claim]) -> int:
    errors = result["errors"]
    allowed = any(claim.name in ("errors", "error_rate") for claim in claims)
    if errors["wrong"] or (errors["total"] and not allowed) or result["outcome"] == "stopped":
        return ERRORS
    return 0 if all(claim["holds"] for claim in result["claims"]) else CLAIM_FAILS


# --------------------------------------------------------------------------- compare


@click.command(
    cls=GroupedCommand,
    epilog="""\
A.json and B.json come from `silly bench … --json FILE`. A confidence interval that
includes 1 means noise: these runs do not show a difference. Longer runs show smaller
differences.

Example:
  silly bench compare before.json after.json

Exit codes: 0; 2 if a file cannot be read or is not such a result.
""",
)
@click.argument("first", metavar="A.json")
@click.argument("second", metavar="B.json")
def _compare(first: str, second: str) -> int:
    """Compare two results: ratios of B to A, with 95% bootstrap confidence intervals."""
    loaded = []
    for path in (first, second):
        try:
            loaded.append(published.load(path))
        except OSError as error:
            raise Failure(f"cannot read {path!r}: {error.strerror}") from None
        except ValueError as error:
            raise Failure(str(error)) from None
    one, two = loaded
    for line in comparing.lines(one, two):
        print(printable(line))
    return 0


# -------------------------------------------------------------------------- find-max


@with_options(
    *COMMON,
    *grouped(
        CHECKS,
        Option("--slo", "What must hold, as in --assert of silly bench: 'p99<10ms'", CLAIM,
               dest="claims", is_repeatable=True, is_required=True),
    ),
    *grouped(
        "Search",
        Option("--start", "The first rate to try", RATE, 1000.0),
        Option("--precision", "How close the answer must be", SHARE, 0.05),
        Option("--duration", "How long to try each rate", DURATION, 5.0, short="-t"),
        Option("--tries", "How many rates to try at most", COUNT, 30),
    ),
    *grouped(
        OUT,
        Option("--json", "Write the result of the best rate as JSON (-: standard output)", FILE,
               dest="json_path"),
    ),
)  # fmt: skip
@click.command(
    cls=GroupedCommand,
    epilog="""\
The rate is doubled until one fails, then narrowed down between the highest that held
and the lowest that failed. A rate holds if every --slo does, no reply is wrong or
missing, and at least 98% of the rate is reached. A failure says nothing about the
server if the client itself was the limit (busy, or late although a connection was
free): the rate is then tried again with more workers, or with workers that sleep
instead of polling, unless --workers or --busy-poll is given.

Example:
  silly bench find-max localhost:9999 -c 100 --slo 'p99<10ms'

Exit codes: 0; 1 if no rate holds; 2 wrong usage; 3 the server could not be reached;
4 a reply was wrong; 5 the client was the limit, and the server may hold more (in the
JSON: find_max.limit); 130 interrupted.
""",
)
@click.argument("addr")
def _find_max(
    addr: str,
    *,
    claims: tuple[Claim, ...],
    start: float,
    precision: float,
    tries: int,
    json_path: str | None,
    **options: Any,
) -> int:
    """Find the highest request rate at which the server at ADDR meets every --slo."""
    plan = planned(addr, {**options, "rate": start})
    is_fixed = was_given("workers") or was_given("busy_poll") or plan.fan_out
    search = finding.plans(plan, precision, tries, 0 if is_fixed else processors.usable())
    found = Search()
    with opened({"--json": json_path}) as outputs, _Signals() as signals:
        show = functools.partial(print, file=beside(outputs), flush=True)
        show(f"{'rate':>12}{'answered':>12}{'p50':>10}{'p99':>10}")
        with contextlib.suppress(StopIteration):
            plan = next(search)
            while result := _measure(plan, Quiet(), signals, claims=claims):
                if signals():
                    break
                one = found.add(plan, result, claims)
                for line in lines_of(one, result):
                    show(printable(line))
                if result["errors"]["wrong"]:
                    break
                plan = search.send(one)
        for line in found.lines():
            show(line)
        if (published := found.published()) is not None:
            for output in outputs.values():
                output.write(as_json(published))
        return signals.code if signals() else found.code


_SUBCOMMANDS: Final[dict[str, click.Command]] = {"compare": _compare, "find-max": _find_max}
