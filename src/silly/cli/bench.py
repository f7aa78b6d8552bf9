"""``silly bench``: load a server, check every reply byte for byte, measure, report."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self, TextIO

import click

from silly._values import units
from silly._values.extras import install_command
from silly._values.kinds import COUNT, DURATION, FILE, NUMBER, RATE, Kind, choice
from silly._values.units import counted, duration_text, text_of_count
from silly.bench import compare as comparing
from silly.bench import find_max as finding
from silly.bench import published, session, summary
from silly.bench.asserts import Claim
from silly.bench.encryption import Encryption
from silly.bench.fleet import STOPPING, NotStarted, WorkerDied
from silly.bench.http_request import SUCCESS, HttpRequest, statuses
from silly.bench.messages import FRAMINGS, unescape
from silly.bench.plan import MODES, Plan
from silly.bench.progress import Lines, Quiet
from silly.bench.schedule import Stage
from silly.bench.sizes import Sizes
from silly.bench.websocket_target import WebSocketTarget
from silly.cli.command import Failure, GroupedCommand, run, with_options
from silly.cli.options import Option, grouped
from silly.cli.output import Output
from silly.cli.tls import CLIENT, check_name, client_of
from silly.net import addr as addresses
from silly.text import printable

__all__ = ["main"]

CLAIM_FAILS, UNREACHABLE, ERRORS, CLIENT_LIMIT = 1, 3, 4, 5

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


# ------------------------------------------------------------------------- options


def _fraction(text: str) -> float:
    value = units.number(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a share such as 0.5 or 50%")
    return value


def _content(text: str) -> bytes:
    """Return the text, or the content of the file that ``@`` precedes."""
    if not text.startswith("@"):
        return unescape(text)
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {text[1:]!r}: {error.strerror}") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"{text!r} is not a header field such as 'Accept: text/html'")
    return name.strip(), value.strip()


def _depth(text: str) -> int:
    """Return the number; for a duration, which other load testers call ``-d``, name our option."""
    try:
        return units.count(text)
    except ValueError as error:
        try:
            units.duration(text)
        except ValueError:
            raise error from None
        raise ValueError(f"{error}; for a duration, use -t {text}") from None


_LOAD, _CHECKS, _OUT = "Load", "Checks", "Output"
_SIZES: Final = Kind("SIZE", Sizes.parse, text=lambda sizes: units.exact_size(sizes.one))
_STAGE: Final = Kind("TIME:LEVEL", Stage.parse)
_CLAIM: Final = Kind("CLAIM", Claim.parse)
_BYTES: Final = Kind("TEXT", unescape)
_TEXT: Final = Kind("TEXT|@FILE", _content)
_HEADER: Final = Kind("'NAME: VALUE'", _header)
_DEPTH: Final = Kind("N", _depth, units.exact_count)
_START_RATE: Final = Kind("RATE", units.rate)  # a ramp may begin at 0
_FRACTION: Final = Kind("SHARE", _fraction, units.exact_share)
_UDP_TIMEOUT: Final = 1.0  # seconds: each lost request occupies its socket for this long
_DEFAULTS: Final[dict[str, Any]] = {each.name: each.default for each in fields(Plan)}

_COMMON: Final = (
    *grouped(
        _LOAD,
        Option("--connections", "Number of connections", NUMBER, short="-c",
               default_text=units.exact_count(_DEFAULTS["connections"])),
        Option("--depth", "Requests in flight on each connection", _DEPTH, _DEFAULTS["depth"],
               short="-d"),
        Option("--mode",
               "keep: connections stay open; reconnect: each request has a new connection; "
               "hold: connections are idle, and each has one request at the end",
               choice("MODE", *MODES), _DEFAULTS["mode"]),
        Option("--udp",
               "Load a UDP server: each request and each reply is a datagram. Losses, duplicates "
               "and reordering are figures, not errors; a request without a reply within "
               f"--timeout (with --udp: {_UDP_TIMEOUT:g}s) is lost"),
        Option("--connect-rate", "New connections per second", RATE,
               default_text="all before the start"),
        Option("--warmup", "Load the server for this long before measuring", DURATION,
               _DEFAULTS["warmup"]),
        Option("--workers", "Processes that share the load", COUNT, _DEFAULTS["workers"],
               short="-w"),
        Option("--busy-poll",
               "Poll instead of sleeping: on time to a few µs, but each worker takes a whole core",
               default_text="only with --rate", has_negation=True),
    ),
    *grouped(
        "Messages",
        Option("--framing",
               "line: each payload ends with a newline; fixed: all have one size; "
               "length-prefix: a 4-byte big-endian length comes first; raw: just bytes",
               choice("FRAMING", *FRAMINGS), _DEFAULTS["framing"]),
        Option("--size",
               "Bytes in a payload: 64, 64-1024 or 64:90%,4096:10%. The newline of a line counts, "
               "a length prefix does not",
               _SIZES, _DEFAULTS["sizes"], short="-s", dest="sizes"),
        Option("--template",
               "The payload; {seq} and {conn} stand for the numbers of the request and the "
               r"connection, \r \n \t \xNN for bytes",
               _BYTES),
        Option("--data", "Each line of FILE is a payload (in other framings: the whole file)",
               FILE),
        Option("--send",
               "A request for a server that does not echo, sent as it is; needs --expect. "
               "Repeat both for several requests, which take turns",
               _BYTES, is_repeatable=True),
        Option("--expect", "The expected reply", _BYTES, is_repeatable=True),
        Option("--seed", "Seed for random sizes", NUMBER, _DEFAULTS["seed"]),
    ),
    *grouped(
        "HTTP",
        Option("--method", "The method of each request", Kind("METHOD", str),
               default_text="GET; POST with a --body", short="-X"),
        Option("--header", "A header field of each request (WebSocket: of the one that opens it); "
               "Host and User-Agent can be replaced. Repeat it for several", _HEADER,
               short="-H", dest="headers", is_repeatable=True),
        Option("--body", r"The body of each request; {seq}, {conn} and \r \n \t \xNN as in "
               "--template, which also go into the path and the header fields", _TEXT),
        Option("--expect-status", "Statuses that are right, such as 201, 3xx or 200,404; redirects "
               "are not followed", Kind("STATUS", statuses), default_text="2xx"),
        Option("--expect-body", "The body that each reply must have; with {seq}, replies in the "
               "wrong order are found", _TEXT),
        Option("--expect-match", "A regular expression that the body of each reply must match "
               "somewhere", Kind("REGEX", str)),
    ),
    *grouped(
        "WebSocket",
        Option("--binary", "Send binary messages; without it, text", dest="is_binary"),
        Option("--subprotocol", "A subprotocol to ask for. Repeat it for several, the best first",
               Kind("NAME", str), dest="subprotocols", is_repeatable=True),
        Option("--compression", "Offer permessage-deflate; if the server agrees, messages of 128 "
               "bytes or more are compressed", dest="compresses"),
        Option("--fan-out",
               "One more connection sends, and each of the --connections must receive every "
               "message once, in order; --depth and --rate are those of the messages, latencies "
               "those of deliveries"),
    ),
    *CLIENT,
    *grouped(
        "TLS",
        Option("--resume",
               "How many of the connections continue an earlier session, if the server lets them: "
               "from 0 (only full handshakes) to 1. Both kinds are counted and timed apart",
               _FRACTION, Encryption().resume),
    ),
    *grouped(
        _CHECKS,
        Option("--timeout", "Time limit for each reply, and for connecting", DURATION,
               _DEFAULTS["timeout"]),
        Option("--max-errors", "Stop after this many errors in one worker", NUMBER,
               _DEFAULTS["max_errors"]),
    ),
)  # fmt: skip


def _plan(addr: str, options: dict[str, Any]) -> Plan:
    """Build the plan from the options. Raises Failure."""
    target = _target(addr, options)
    send, expect = options.pop("send"), options.pop("expect")
    if len(send) != len(expect):
        raise Failure(
            f"--send and --expect come in pairs: got {len(send)} --send and {len(expect)} --expect"
        )
    given = {name for name in ("sizes", "framing") if _was_given(name)}
    own = next((name for name in ("template", "data") if options[name] is not None), None)
    if send and given:
        raise Failure(f"--send and {_flag(given.pop())}: requests are sent as they are")
    if own and "sizes" in given:
        raise Failure(f"--{own} and --size: give one of them")
    if target is not None:
        addr = target.addr
        options["tls"] |= target.is_encrypted
    options["tls"] = _encryption(addr, options)
    if options["data"] is not None:
        try:
            options["data"] = Path(options["data"]).read_bytes()
        except OSError as error:
            raise Failure(f"--data: cannot read {options['data']!r}: {error.strerror}") from None
    if options["connections"] is None:
        stages = options.get("stages") and options.get("rate") is None
        options["connections"] = 1 if stages else _DEFAULTS["connections"]
    if options["udp"] and not _was_given("timeout"):
        options["timeout"] = _UDP_TIMEOUT
    if options["busy_poll"] is None:
        options["busy_poll"] = options.get("rate") is not None
    try:
        options["pairs"] = tuple(zip(send, expect, strict=True))
        plan = _plan_of(addr, target, options)
        plan.check()
        plan.factory()
    except ValueError as error:
        raise Failure(str(error)) from None
    return plan


def _plan_of(addr: str, target: HttpRequest | WebSocketTarget | None, options: Any) -> Plan:
    """Return the plan, not checked yet. Raises ValueError."""
    if isinstance(target, WebSocketTarget):
        del options["framing"]
        return Plan.of_websocket(target, **options)
    return Plan(addr, **options) if target is None else Plan.of_http(target, **options)


_HTTP_ONLY: Final = ("method", "body", "expect_status", "expect_body", "expect_match")
_HTTP: Final = ("headers", *_HTTP_ONLY)
_WEBSOCKET: Final = ("is_binary", "subprotocols", "compresses")
_BYTES_ONLY: Final = ("framing", "sizes", "seed")


def _target(addr: str, options: dict[str, Any]) -> HttpRequest | WebSocketTarget | None:
    """Take the options of HTTP and WebSockets out of *options*; return what they are for.

    Raises:
        Failure: they are for something else.
    """
    values = {name: options.pop(name) for name in (*_HTTP, *_WEBSOCKET)}
    is_http = addr.lower().startswith(("http://", "https://"))
    is_websocket = addr.lower().startswith(("ws://", "wss://"))
    for names, is_wanted, scheme in (
        (_HTTP, is_http or is_websocket, "http"),
        (_HTTP_ONLY, not is_websocket, "http"),
        (_WEBSOCKET, is_websocket, "ws"),
    ):
        wrong = None if is_wanted else next((name for name in names if _was_given(name)), None)
        if wrong is not None:
            place = "HOST:PORT" if is_http or is_websocket else addr
            raise Failure(f"{_flag(wrong)} needs a URL such as {scheme}://{place}/")
    if is_http:
        return _http(addr, values)
    return _websocket(addr, values) if is_websocket else None


def _websocket(url: str, values: dict[str, Any]) -> WebSocketTarget:
    """Return the WebSocket server at *url*, of the options *values*. Raises Failure."""
    if _was_given("framing"):
        raise Failure("--framing and a URL: a WebSocket has messages")
    target = WebSocketTarget(
        url, values["is_binary"], values["headers"], values["subprotocols"], values["compresses"]
    )
    try:
        target.check()
    except (ImportError, ValueError) as error:  # ImportError: httptools is missing
        raise Failure(str(error)) from None
    return target


def _http(addr: str, values: dict[str, Any]) -> HttpRequest:
    """Return the request to the URL *addr*, of the options *values*. Raises Failure."""
    if wrong := next((name for name in _BYTES_ONLY if _was_given(name)), None):
        raise Failure(f"{_flag(wrong)} and a URL: give a --body")
    http = HttpRequest(
        addr,
        method=values["method"] or ("GET" if values["body"] is None else "POST"),
        headers=values["headers"],
        body=values["body"] or b"",
        statuses=values["expect_status"] or SUCCESS,
        expected=values["expect_body"],
        pattern=values["expect_match"],
    )
    try:
        http.check()
    except (ImportError, ValueError) as error:  # ImportError: httptools is missing
        raise Failure(str(error)) from None
    return http


def _encryption(addr: str, options: dict[str, Any]) -> Encryption | None:
    """Take the options of TLS out of *options*. Raises Failure."""
    given = {each.name: options.pop(each.name) for each in CLIENT}
    resume = options.pop("resume")
    try:
        client = client_of(given)
        check_name(client, addresses.parse(addr, "ADDR"))
    except ValueError as error:
        raise Failure(str(error)) from None
    if client is None:
        if _was_given("resume"):
            raise Failure("--resume needs --tls")
        return None
    del given["tls"]
    return Encryption(**given, resume=resume)


def _was_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


def _flag(name: str) -> str:
    names = {
        "sizes": "size",
        "headers": "header",
        "is_binary": "binary",
        "subprotocols": "subprotocol",
        "compresses": "compression",
    }
    return f"--{names.get(name, name).replace('_', '-')}"


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
    *_COMMON,
    *grouped(
        _LOAD,
        Option("--rate",
               "Requests per second, however slow the server is (open loop). Without it, each "
               "reply is followed by the next request (closed loop)",
               _START_RATE, short="-r"),
        Option("--stage",
               "30s:100 goes to 100 connections within 30 s, from one or from -c (with --rate: "
               "from that rate to 100 requests per second). Repeat it for more stages",
               _STAGE, dest="stages", is_repeatable=True),
        Option("--duration", "How long to measure", DURATION, default_text="10s", short="-t"),
        Option("--requests", "How many requests to measure, instead of a duration", NUMBER,
               short="-n"),
    ),
    *grouped(
        _CHECKS,
        Option("--assert",
               "Fail unless this holds: 'p99<5ms', 'errors==0' or 'rate>=10k', for example",
               _CLAIM, dest="claims", is_repeatable=True),
        Option("--pid", "The server's process: report its CPU time and memory",
               replace(COUNT, metavar="PID")),
    ),
    *grouped(
        _OUT,
        Option("--json", "Write the result as JSON (-: standard output)", FILE, dest="json_path"),
        Option("--csv", "Write a line of CSV for each interval", FILE, dest="csv_path"),
        Option("--html", "Write a report with graphs, as one HTML file", FILE, dest="html_path"),
        Option("--interval", "How often to show progress; the step of figures over time",
               DURATION, _DEFAULTS["interval"]),
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
    plan = _plan(addr, options)
    wanted = {"--json": json_path, "--csv": csv_path, "--html": html_path}
    with _opened(wanted) as outputs, _Signals() as signals:
        title = f"silly bench {plan.place}"
        try:
            result = _measure(plan, _watcher(title, quiet=quiet), signals, pid=pid, claims=claims)
        except OSError as error:
            raise Failure(f"--pid {pid}: cannot read {error.filename}: {error.strerror}") from None
        if result is None:
            raise Failure("interrupted while connecting", signals.code)
        _publish(outputs, result)
        return signals.code if signals() else _code(result, claims)


def _publish(outputs: dict[str, Output], result: dict[str, Any]) -> None:
    """Write the files, then the summary, then the data that goes to standard output.

    If a file cannot be written, the rest still is. Raises Failure, OutputLost.
    """
    failures = []

    def write(*, standard: bool) -> None:
        for name, output in outputs.items():
            if output.is_standard == standard:
                try:
                    output.write(_WRITERS[name](result))
                except Failure as failure:
                    failures.append(str(failure))

    write(standard=False)
    for line in summary.lines(result):
        print(printable(line), file=_beside(outputs))
    write(standard=True)
    if failures:
        raise Failure("; ".join(failures))


def _beside(outputs: dict[str, Output]) -> TextIO:
    """Return where to print text: standard error if standard output carries data."""
    return sys.stderr if any(each.is_standard for each in outputs.values()) else sys.stdout


@contextlib.contextmanager
def _opened(wanted: dict[str, str | None]) -> Iterator[dict[str, Output]]:
    """Open the *wanted* files; close them at the end, and remove new ones left unwritten."""
    outputs: dict[str, Output] = {}
    try:
        for name, path in wanted.items():
            if path is None:
                continue
            output = Output(path, name)
            same = next((other for other in outputs if output.is_same(outputs[other])), None)
            outputs[name] = output
            if same is not None:
                raise Failure(
                    f"only one of --json, --csv and --html can be written to "
                    f"{'standard output' if output.is_standard else repr(path)}"
                )
        yield outputs
    finally:
        for output in outputs.values():
            output.discard()


def _code(result: dict[str, Any], claims: Sequence[Claim]) -> int:
    errors = result["errors"]
    allowed = any(claim.name in ("errors", "error_rate") for claim in claims)
    if errors["wrong"] or (errors["total"] and not allowed) or result["outcome"] == "stopped":
        return ERRORS
    return 0 if all(claim["holds"] for claim in result["claims"]) else CLAIM_FAILS


def _as_json(result: dict[str, Any]) -> str:
    return json.dumps(result) + "\n"


def _as_csv(result: dict[str, Any]) -> str:
    file = io.StringIO()
    names = [name for name in _COLUMNS if name != "histogram"]
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(result["intervals"])
    return file.getvalue()


_COLUMNS: Final = (
    "phase", "start", "length", "requests", "rate", "errors", "unanswered", "late",
    "p50", "p90", "p99", "p99.9", "max",
)  # fmt: skip


def _as_html(result: dict[str, Any]) -> str:
    from silly.bench import report  # noqa: PLC0415 - rarely needed

    return report.html(result)


_WRITERS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "--json": _as_json,
    "--csv": _as_csv,
    "--html": _as_html,
}


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


def _share(text: str) -> float:
    value = units.number(text)
    if not 0 < value < 1:
        raise ValueError(f"{text!r} is not a share such as 5%")
    return value


_SHARE: Final = Kind("SHARE", _share, units.exact_share)


@with_options(
    *_COMMON,
    *grouped(
        _CHECKS,
        Option("--slo", "What must hold, as in --assert of silly bench: 'p99<10ms'", _CLAIM,
               dest="claims", is_repeatable=True, is_required=True),
    ),
    *grouped(
        "Search",
        Option("--start", "The first rate to try", RATE, 1000.0),
        Option("--precision", "How close the answer must be", _SHARE, 0.05),
        Option("--duration", "How long to try each rate", DURATION, 5.0, short="-t"),
        Option("--tries", "How many rates to try at most", COUNT, 30),
    ),
    *grouped(
        _OUT,
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
    plan = _plan(addr, {**options, "rate": start})
    is_fixed = _was_given("workers") or _was_given("busy_poll") or plan.fan_out
    search = finding.plans(plan, precision, tries, 0 if is_fixed else _cores())
    found = _Search()
    with _opened({"--json": json_path}) as outputs, _Signals() as signals:
        show = functools.partial(print, file=_beside(outputs), flush=True)
        show(f"{'rate':>12}{'answered':>12}{'p50':>10}{'p99':>10}")
        with contextlib.suppress(StopIteration):
            plan = next(search)
            while result := _measure(plan, Quiet(), signals, claims=claims):
                if signals():
                    break
                one = found.add(plan, result, claims)
                for line in _try_lines(one, result):
                    show(printable(line))
                if result["errors"]["wrong"]:
                    break
                plan = search.send(one)
        for line in found.lines():
            show(line)
        if (published := found.published()) is not None:
            for output in outputs.values():
                output.write(_as_json(published))
        return signals.code if signals() else found.code


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class _Search:
    """The state of a search: the rates tried, and the best result."""

    def __init__(self) -> None:
        self._tries: list[finding.Try] = []
        self._best: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None

    def add(self, plan: Plan, result: dict[str, Any], claims: Sequence[Claim]) -> finding.Try:
        """Judge *result* and store it."""
        one = finding.judge(plan, result, claims)
        self._tries.append(one)
        self._last = result
        if one.holds:
            self._best = result
        return one

    @property
    def _rate(self) -> float | None:
        return None if self._best is None else float(self._best["open_loop"]["asked_rate"])

    @property
    def _limit(self) -> str:
        return finding.limit(self._tries)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the verdict."""
        if self._rate is None:
            yield "no rate held"
        else:
            yield f"highest rate that held: {text_of_count(self._rate)} /s"
        if self._limit == "client":
            yield "the client was the limit: the server may hold more than that"

    def published(self) -> dict[str, Any] | None:
        """Return the result of the best rate, or of the last try if none held; None before any."""
        result = self._best or self._last
        if result is None:
            return None
        tries = [asdict(each) for each in self._tries]
        return {**result, "find_max": {"rate": self._rate, "limit": self._limit, "tries": tries}}

    @property
    def code(self) -> int:
        """The exit code."""
        if self._last is not None and self._last["errors"]["wrong"]:
            return ERRORS
        if self._limit == "client":
            return CLIENT_LIMIT
        return 0 if self._best is not None else CLAIM_FAILS


def _try_lines(one: finding.Try, result: dict[str, Any]) -> Iterator[str]:
    found = result["latency"]["percentiles"]
    yield (
        f"{text_of_count(one.rate):>12}{text_of_count(result['rate']):>12}"
        f"{duration_text(found.get('50')):>10}{duration_text(found.get('99')):>10}"
        f"   {one.why or 'holds'}{_client(one)}"
    )
    for text in result["errors"]["first"][:3]:
        yield f"  {text}"


def _client(one: finding.Try) -> str:
    if one.limit != "client":
        return ""
    workers = counted(one.workers, "worker")
    return f" (the client was the limit: {workers}, {'polling' if one.busy_poll else 'sleeping'})"


_SUBCOMMANDS: Final[dict[str, click.Command]] = {"compare": _compare, "find-max": _find_max}
