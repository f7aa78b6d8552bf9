"""``silly echo``: an echo server to test clients against, on a good network or a bad one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from silly import runtime, stdio
from silly._values import units
from silly._values.extras import install_command
from silly._values.kinds import BYTE_RATE, DURATION, Kind
from silly.cli.command import INTERRUPTED, Failure, GroupedCommand, run, with_options
from silly.cli.echoing import datagrams
from silly.cli.echoing.datagrams import Datagrams
from silly.cli.echoing.impairment import Impairment
from silly.cli.echoing.log import Lines, Log, summary_lines, warnings_to
from silly.cli.echoing.meter import Meter
from silly.cli.echoing.modes import MODES, handler
from silly.cli.echoing.tls import Certificate, certificate
from silly.cli.options import (
    GRACE_PERIOD,
    LIMITS,
    PROXY_PROTOCOL,
    TLS_FILES,
    Option,
    grouped,
    set_limits,
)
from silly.net import addr as addresses
from silly.net import tcp
from silly.net.proxy.trust import set_proxies, trusted

if TYPE_CHECKING:
    from silly.net.http import Service

__all__ = ["main"]

DEFAULT: Final = "127.0.0.1:9999"
OUTPUT_LOST: Final = 1
_UNREAD: Final = (errno.EPIPE, errno.EAGAIN, errno.EBADF)  # nobody reads the output
CANNOT_LISTEN: Final = 3

_EPILOG: Final = """\
Examples:
  silly echo
      echo lines on 127.0.0.1:9999; try it with: silly connect :9999
  silly echo :7777 unix:/tmp/echo.sock --raw --udp --idle-timeout 30s
      echo bytes as they arrive: on port 7777 of all interfaces, over TCP and UDP, and on
      a Unix socket
  silly echo --delay 200ms --drop 1% --max-rate 64k
      simulate a slow and lossy network: can the client cope?
  silly echo --http localhost:8080
      over HTTP; try it with: curl -d text 'localhost:8080/any/path?a=b'
  silly echo --tls
      with TLS; try it with: silly connect localhost:9999 --tls --insecure

Exit codes:
  0    stopped by Ctrl-C or SIGTERM; the summary is printed
  1    the same, but the output (with --json: all of the JSON) could not be written
  2    wrong usage: a bad address or value, or conflicting modes
  3    cannot listen on an address: in use, not permitted, or not of this machine
  130  interrupted before it listened, or while it was stopping
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``silly echo`` with *arguments* and return the exit code."""
    return run(_echo, "echo", arguments)


def _share(text: str) -> float:
    value = units.number(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a probability such as 0.01 or 1%")
    return value


_PROBABILITY: Final = Kind("PROBABILITY", _share, units.exact_share)
_GOOD_NETWORK: Final = Impairment()

_OPTIONS: Final = (
    *grouped(
        "Mode (choose one)",
        Option("--lines", "Send each line back (default)"),
        Option("--raw", "Send bytes back as they arrive (RFC 862)"),
        Option("--frames",
               "Send each frame back: a 4-byte big-endian length, then that many bytes"),
        Option("--discard", "Read and discard everything (RFC 863)"),
        Option("--chargen", "Send an endless pattern of text (RFC 864)"),
        Option("--commands", "Answer `help`, `time` and `quit`, like the tutorial's server"),
        Option("--websocket", "Send each message of a WebSocket back, at any path (extra: "
               "silly-net[websocket])"),
        Option("--http", "Answer HTTP requests with what they were, as JSON; also /status/N, "
               "/delay/SECONDS, /stream/N, /bytes/N and /sse (extra: silly-net[http])"),
    ),
    *grouped(
        "UDP",
        Option("--udp",
               "Also answer UDP datagrams, on the same ports. Datagrams from ports below 1024, "
               "from some other well-known ports and from the server's own ports are never "
               f"answered: their senders are probably forged. After {datagrams.REPEATS} replies "
               "to the same datagram of one sender, one is left out: that ends a loop with "
               "another server"),
    ),
    *grouped(
        "Simulated bad network",
        Option("--delay", "Delay each reply by this much, such as 200ms", DURATION,
               _GOOD_NETWORK.delay),
        Option("--drop",
               "Probability that a reply is lost, such as 1% or 0.01. A stream cannot lose one: "
               "its connection is closed",
               _PROBABILITY, _GOOD_NETWORK.drop),
        Option("--max-rate",
               "Bytes per second on each connection, such as 64k. UDP: on each listening address; "
               "replies above it are lost",
               BYTE_RATE, _GOOD_NETWORK.max_rate),
    ),
    *grouped(
        "TLS",
        Option("--tls", "Encrypt connections, with a certificate made for this run (extra: "
               "silly-net[tls-dev])"),
        *TLS_FILES,
    ),
    *grouped("Behind a load balancer", PROXY_PROTOCOL),
    *LIMITS,
    *grouped(
        "Output",
        Option("--log", "Print a line for each event, even on a terminal"),
        Option("--json",
               "Print one JSON object once it listens and one as the summary; everything else "
               "goes to standard error",
               dest="as_json"),
        replace(GRACE_PERIOD, default=1.0),
    ),
)  # fmt: skip


@with_options(*_OPTIONS)
@click.command(cls=GroupedCommand, epilog=_EPILOG)
@click.argument("addrs", metavar="[ADDR]...", nargs=-1)
def _echo(
    addrs: tuple[str, ...],
    *,
    udp: bool,
    delay: float,
    drop: float,
    max_rate: float | None,
    tls: bool,
    tls_cert: str | None,
    tls_key: str | None,
    proxy_protocol: tuple[str, ...] | None,
    log: bool,
    as_json: bool,
    grace: float,
    **options: Any,
) -> int:
    """Serve echo (or another simple protocol) at each ADDR (default: 127.0.0.1:9999).

    ADDR is HOST:PORT, [IPV6]:PORT, :PORT (all interfaces) or unix:PATH. Port 0 picks a
    free port.
    """
    mode = _mode(options)
    limits = _limits(options, proxy_protocol)
    addrs = addrs or (DEFAULT,)
    _check(addrs, mode, udp=udp, delay=delay, drop=drop)
    if udp and (tls or tls_cert):
        raise Failure("--udp and --tls: datagrams are not encrypted")
    # A server must not wait for someone to read its output.
    with (
        certificate(addrs, tls_cert, tls_key, throw_away=tls) as of_server,
        stdio.nonblocking("stdout") as output,
    ):
        code = _serve(
            mode, addrs, limits, Impairment(delay, drop, max_rate), of_server,
            grace=grace, udp=udp, log=log, as_json=as_json,
        )  # fmt: skip
        lost = None if output is None else output.end()
    if lost is not None and (as_json or lost.errno not in _UNREAD):
        raise Failure(f"cannot write standard output: {lost.strerror}", OUTPUT_LOST)
    return code


def _serve(
    mode: str,
    addrs: Sequence[str],
    limits: tcp.Limits,
    impairment: Impairment,
    of_server: Certificate | None,
    *,
    grace: float,
    udp: bool,
    log: bool,
    as_json: bool,
) -> int:
    out = sys.stderr if as_json else sys.stdout
    on_screen = not log and _is_screen(out)
    log_to = Log() if on_screen else Lines(out)
    server = _Server(mode, addrs, limits, impairment, log_to, of_server=of_server, udp=udp)
    interrupted = False
    try:
        runtime.run(server.run(out, on_screen=on_screen, as_json=as_json), grace=grace)
    except KeyboardInterrupt:
        interrupted = True
    if not server.is_listening:
        raise KeyboardInterrupt
    summary = server.summary()
    if as_json:
        print(json.dumps(summary), flush=True)
    for line in summary_lines(summary, MODES[mode].unit):
        print(line, file=out, flush=True)
    return INTERRUPTED if interrupted else 0


def _mode(options: dict[str, Any]) -> str:
    chosen = [name for name in MODES if options.pop(name)]
    if len(chosen) > 1:
        raise Failure(f"--{chosen[0]} and --{chosen[1]}: choose one mode")
    return chosen[0] if chosen else "lines"


def _limits(options: dict[str, Any], proxies: tuple[str, ...] | None) -> tcp.Limits:
    set_limits(options)
    set_proxies(proxies)
    try:
        trusted(None)  # complains about the variable
        return tcp.Limits.from_env()
    except ValueError as error:
        raise Failure(str(error)) from None


def _check(addrs: Sequence[str], mode: str, *, udp: bool, delay: float, drop: float) -> None:
    parsed = []
    for text in addrs:
        try:
            parsed.append(addresses.parse(text, "ADDR"))
        except ValueError as error:
            raise Failure(str(error)) from None
    given = [each for each in parsed if not _picks(each)]
    if len(set(given)) < len(given):
        raise Failure("the same ADDR is given twice")
    if mode in _SERVICES:
        try:
            import_module(_SERVICES[mode])  # needs an extra
        except ImportError as error:
            raise Failure(f"--{mode}: {error}") from None
    if udp and not MODES[mode].has_datagrams:
        raise Failure(f"--{mode} and --udp: this mode needs a stream")
    if udp and all(isinstance(each, addresses.UnixAddress) for each in parsed):
        raise Failure(f"--udp and {addrs[0]}: UDP needs an ADDR with a port")
    if not MODES[mode].answers and (delay or drop):
        raise Failure(f"--{mode} and --{'delay' if delay else 'drop'}: this mode sends no replies")


def _picks(address: addresses.Address) -> bool:
    return isinstance(address, addresses.TCPAddress) and address.port == 0


def _is_screen(file: TextIO) -> bool:
    if not file.isatty():
        return False
    try:
        from rich.console import Console  # noqa: PLC0415 - slow to import
    except ModuleNotFoundError:
        raise Failure(f"the live view needs rich: {install_command('cli')} (or --log)") from None
    return not Console(file=file).is_dumb_terminal


# --------------------------------------------------------------------------- serving

_PORT_TRIES: Final = 20  # attempts to find a port that is free for both TCP and UDP
_INTERVAL: Final = 1.0  # seconds between samples of the rates
_SERVICES: Final = {  # modules with the services of modes over HTTP, which need an extra
    "http": "silly.cli.echoing.web",
    "websocket": "silly.cli.echoing.messages",
}
_ANSWERS: Final[dict[str, datagrams.Answer]] = {
    "lines": datagrams.echo,
    "raw": datagrams.echo,
    "discard": datagrams.nothing,
    "chargen": datagrams.characters,
}


class _Server:
    """The listeners and sockets of one run."""

    def __init__(
        self,
        mode: str,
        addrs: Sequence[str],
        limits: tcp.Limits,
        impairment: Impairment,
        log: Log,
        *,
        of_server: Certificate | None,
        udp: bool,
    ) -> None:
        self._mode = mode
        self._addrs = addrs
        self._limits = limits
        self._impairment = impairment
        self._log = log
        self._certificate = of_server
        self._udp = udp
        self._meter = Meter(time.monotonic())
        self._listeners: list[tcp.Listener] = []
        self._sockets: list[Datagrams] = []
        self.is_listening = False
        """True once all addresses are open, and from then on."""

    async def run(self, out: TextIO, *, on_screen: bool, as_json: bool) -> None:
        """Listen, print the addresses, and serve until cancelled. Raises Failure."""
        try:
            loop = asyncio.get_running_loop()
            for addr in self._addrs:
                try:
                    self._open(loop, addr)
                except OSError as error:
                    text = f"cannot listen on {error.filename}: {error.strerror or error}"
                    raise Failure(text, CANNOT_LISTEN) from None
            own = frozenset(each.port for each in self._sockets)
            for each in self._sockets:
                each.refused_ports |= own
            self.is_listening = True
            if as_json:
                print(json.dumps(self._listening()), flush=True)
            with self._view(out) if on_screen else self._lines(out) as tick:
                while True:
                    # Sampling very many connections is slow: give it 1/20 of the time at most.
                    began = time.monotonic()
                    tick()
                    await asyncio.sleep(max(_INTERVAL, 20 * (time.monotonic() - began)))
        finally:
            for each in self._sockets:
                each.close()

    def _open(self, loop: asyncio.AbstractEventLoop, addr: str) -> None:
        mode, address = MODES[self._mode], addresses.parse(addr)
        service = self._service() if self._mode in _SERVICES else None
        if service is not None:
            mode = replace(mode, converse=lambda conn, _to, _meter: service(conn))
        handle = handler(mode, self._impairment, self._meter, self._log)
        has_udp = self._udp and isinstance(address, addresses.TCPAddress)
        tls = None if self._certificate is None else self._certificate.server
        for left in reversed(range(_PORT_TRIES if has_udp and _picks(address) else 1)):
            listener = tcp.listen(addr, handle, limits=self._limits, tls=tls)
            with contextlib.ExitStack() as undo:
                undo.callback(listener.close, 0)
                if service is not None:
                    service.begin(loop, listener.local_addr, listener._course)
                try:
                    for local in listener.local_addrs if has_udp else ():
                        answer = _ANSWERS[self._mode]
                        one = Datagrams(loop, local, answer, self._impairment, self._meter)
                        undo.callback(one.close)
                        undo.callback(self._sockets.remove, one)
                        self._sockets.append(one)
                except OSError as error:
                    if left and error.errno == errno.EADDRINUSE:
                        continue  # port 0: the next one may be free for both
                    raise
                undo.pop_all()
                self._listeners.append(listener)
                return

    def _service(self) -> Service:
        module = import_module(_SERVICES[self._mode])
        made: Service = module.service(self._limits, self._impairment, self._meter, self._log)
        return made

    # --------------------------------------------------------------------- showing

    @contextlib.contextmanager
    def _lines(self, out: TextIO) -> Iterator[Callable[[], None]]:
        for each in self._listening_on():
            print(f"Listening on {each}", file=out, flush=True)
        self._print_certificate(out)
        if self._mode == "chargen" and self._udp:
            self._log.say(
                "chargen over UDP amplifies traffic to forged senders: "
                "do not expose it to the internet"
            )
        with warnings_to(self._log):
            yield lambda: None

    @contextlib.contextmanager
    def _view(self, out: TextIO) -> Iterator[Callable[[], None]]:
        from rich.console import Console  # noqa: PLC0415 - slow to import

        from silly.cli.echoing.view import View  # noqa: PLC0415

        tls = "" if self._certificate is None else " --tls"
        title = f"silly echo --{self._mode}{tls}{self._bad_network()}"
        self._print_certificate(out)
        with View(
            Console(file=out),
            self._meter,
            title=title,
            addrs=self._listening_on(),
            unit=f"{MODES[self._mode].unit}s",
            clock=time.monotonic,
            refused=self._refused,
        ) as view:

            def tick() -> None:
                datagrams_now = self._datagrams()
                self._meter.datagrams_overflowed = datagrams_now["dropped_by_kernel"]
                self._meter.sample(time.monotonic())
                view.refresh()

            yield tick

    def _print_certificate(self, out: TextIO) -> None:
        if self._certificate is not None:
            for line in self._certificate.lines(_reachable(self._local_addrs()[0])):
                print(line, file=out, flush=True)

    def _bad_network(self) -> str:
        bad = self._impairment
        return "".join((
            f" --delay {units.duration_text(bad.delay)}" if bad.delay else "",
            f" --drop {bad.drop:.3g}" if bad.drop else "",
            f" --max-rate {units.size_text(bad.max_rate)}" if bad.max_rate else "",
        ))  # fmt: skip

    def _local_addrs(self) -> list[str]:
        return [local for listener in self._listeners for local in listener.local_addrs]

    def _listening_on(self) -> list[str]:
        datagrams_on = {each.local_addr for each in self._sockets}
        if self._certificate is not None:
            return [f"{local} (TLS)" for local in self._local_addrs()]
        return [
            f"{local} (TCP and UDP)" if local in datagrams_on
            else local if local.startswith("unix:") else f"{local} (TCP)"
            for local in self._local_addrs()
        ]  # fmt: skip

    def _listening(self) -> dict[str, Any]:
        streams = self._local_addrs()
        return {
            "event": "listening",
            "mode": self._mode,
            "tcp": [each for each in streams if not each.startswith("unix:")],
            "udp": [each.local_addr for each in self._sockets],
            "unix": [each for each in streams if each.startswith("unix:")],
            "tls": None if self._certificate is None else self._certificate.described(),
        }

    def _datagrams(self) -> dict[str, int]:
        """Return what became of datagrams, as their sockets count it."""
        stats = [each.stats for each in self._sockets]
        return {
            "sent": sum(each.sent for each in stats),
            "dropped_by_kernel": sum(each.dropped_by_kernel or 0 for each in stats),
            "dropped_by_queue": sum(each.dropped_by_queue for each in stats),
        }

    def _refused(self) -> int:
        return sum(sum(each.stats.refused.values()) for each in self._listeners)

    def summary(self) -> dict[str, Any]:
        """Return the totals, for JSON."""
        stats = [listener.stats for listener in self._listeners]
        figures = self._meter.summary(time.monotonic())
        unsent = 0
        for each in self._sockets:
            counts = each.stats
            unsent += counts.send_dropped + counts.unsent + sum(counts.send_errors.values())
            figures["bytes_out"] += counts.bytes_out - each.answered_bytes
        figures["answers"] -= unsent
        figures["datagrams"]["lost"] += unsent
        figures["datagrams"].update(self._datagrams())
        return {
            **self._listening(),
            "event": "summary",
            **figures,
            "refused": _added(each.refused for each in stats),
            "ended": _added(each.ended for each in stats),
            "handshakes": _added(each.handshakes for each in stats),
            "handler_errors": sum(each.handler_errors for each in stats),
        }


def _reachable(addr: str) -> str:
    """Return *addr*, or for all interfaces one of this machine."""
    for anywhere in ("0.0.0.0:", "[::]:"):
        if addr.startswith(anywhere):
            return f"localhost:{addr.removeprefix(anywhere)}"
    return addr


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    together: Counter[str] = Counter()
    for each in counts:
        together.update(each)
    return dict(together)
