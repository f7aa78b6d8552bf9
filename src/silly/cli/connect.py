"""``silly connect``: talk to a server by hand, or through a pipe."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import Coroutine, Sequence
from datetime import datetime
from types import FrameType
from typing import Any, Final

import click

from silly._loop.signals import handling, interrupt_wait
from silly._values.kinds import DURATION, Kind, choice
from silly.cli.command import Failure, GroupedCommand, run, with_options
from silly.cli.connecting.notes import say, say_tls
from silly.cli.connecting.opening import accept, dial, open_udp, open_websocket
from silly.cli.connecting.pieces import AFTER_INPUT, Pieces
from silly.cli.connecting.shaping import (
    CRLF,
    HexDump,
    Plain,
    SafeText,
    Shape,
    Stamped,
    bytes_per_row,
)
from silly.cli.connecting.speaking_http import Hint
from silly.cli.connecting.starttls import PROTOCOLS
from silly.cli.connecting.talking import FAILED, Session, on_terminal, pipe
from silly.cli.options import Option, grouped
from silly.cli.tls import CLIENT, Watched, check_name, client_of
from silly.errors import ConnectionClosed, EndOfStream
from silly.net import addr as addresses
from silly.net.proxy import ProxyHeader
from silly.net.tcp import Conn
from silly.net.tls.advice import advice

__all__ = ["main"]

_EPILOG: Final = """\
Examples:
  silly connect localhost:9999
      on a terminal: Enter sends the line; Ctrl-D ends the input, Ctrl-C leaves
  printf 'GET / HTTP/1.0\\n\\n' | silly connect example.com:80 --crlf --timeout 5s > page
      in a pipe: send the input, with CR LF line ends, and write what is received to a file
  silly connect example.com:443 --tls --alpn http/1.1
      encrypted; the certificates of the server are shown on standard error
  silly connect --listen :7777 --hex --timestamps --no-half-close < /dev/null
      wait for one client, and show what it sends
  silly connect wss://example.com/chat --ping
      a WebSocket: each line is a message
  silly connect :9999 --proxy-header 192.0.2.7:4711
      as a load balancer would that forwards a client's connection

Exit codes (as OpenBSD's netcat, except for wrong usage and the idle timeout):
  0    the connection ended normally: both sides finished
  1    could not connect; the connection was lost, or idle for too long; or the output
       could not be written
  2    wrong usage
  130  interrupted (143: terminated)
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``silly connect`` with *arguments* and return the exit code."""
    return run(_connect, "connect", arguments)


def _read_header(text: str) -> ProxyHeader:
    if text == "local":
        return ProxyHeader(command="LOCAL")
    source, comma, destination = text.partition(",")
    return ProxyHeader(source, destination if comma else None)


_HEADER: Final = Kind("SOURCE[,DESTINATION]", _read_header)
_VERSION: Final = choice("VERSION", "1", "2")

_OPTIONS: Final = (
    *grouped(
        "Connection",
        Option("--listen", "Wait for one client at ADDR instead of connecting to it"),
        Option("--udp",
               "Send each line as a datagram, and show each datagram that comes back. After the "
               "end of the input, wait until none has come for the idle timeout, or for "
               f"{AFTER_INPUT:g} second", dest="is_udp"),
        Option("--timeout", "Time limit for connecting (with --listen: for a client to connect)",
               DURATION),
        Option("--idle-timeout", "Give up when nothing was sent or received for this long",
               DURATION),
    ),
    *grouped(
        "As a load balancer does",
        Option("--proxy-header",
               "Send a header of the PROXY protocol first: the connection is one of a client at "
               "SOURCE, such as 192.0.2.7:4711, to DESTINATION (if left out, ADDR); or `local`, a "
               "health check",
               _HEADER),
        Option("--proxy-version", "Version of that header: 1 (a line of text) or 2 (binary)",
               _VERSION, "2"),
    ),
    *grouped(
        "Sending",
        Option("--crlf", "Send line ends as CR LF"),
        Option("--binary", "Send each line, with its end, as a binary message; not as text. Only "
               "for WebSockets"),
        Option("--half-close", "Tell the peer when the input has ended; the peer may go on sending",
               default=True, default_text="--half-close", has_negation=True),
    ),
    *grouped(
        "Receiving",
        Option("--hex", "Show received bytes as a hexdump", dest="as_hex"),
        Option("--timestamps", "Show when each line was received"),
        Option("--ping", "Send a ping each second, and show how long its pong takes. Only for "
               "WebSockets"),
    ),
    *CLIENT,
    *grouped(
        "TLS",
        Option("--starttls", "Begin in the clear, and ask for TLS as this protocol does: "
               f"{', '.join(PROTOCOLS)}", choice("PROTOCOL", *PROTOCOLS)),
    ),
)  # fmt: skip


@with_options(*_OPTIONS)
@click.command(cls=GroupedCommand, epilog=_EPILOG)
@click.argument("addr")
@click.argument("port", metavar="[PORT]", required=False)
def _connect(
    addr: str,
    *,
    port: str | None,
    listen: bool,
    is_udp: bool,
    timeout: float | None,
    idle_timeout: float | None,
    proxy_header: ProxyHeader | None,
    proxy_version: str,
    crlf: bool,
    binary: bool,
    half_close: bool,
    as_hex: bool,
    timestamps: bool,
    ping: bool,
    starttls: str | None,
    **tls: Any,
) -> int:
    """Connect to ADDR and talk: line by line on a terminal, otherwise as a pipe.

    ADDR is HOST:PORT, [IPV6]:PORT, :PORT (this machine) or unix:PATH; HOST PORT will do. Or it is
    the URL of a WebSocket, ws:// or wss:// (extra: silly-net[websocket]).
    On a terminal, lines can be edited, the arrow keys bring back earlier ones, and control
    characters from the peer are shown, not obeyed.
    """
    addr = _joined(addr, port)
    tls["tls"] = tls["tls"] or starttls is not None
    is_websocket = addr.lower().startswith(("ws://", "wss://"))
    client = _client(
        addr,
        tls,
        listen=listen,
        is_udp=is_udp,
        has_header=proxy_header is not None,
        not_here={"--starttls": starttls is not None, "--crlf": crlf}
        if is_websocket
        else {"--binary": binary, "--ping": ping},
        is_websocket=is_websocket,
    )
    for flag, seconds in (("--timeout", timeout), ("--idle-timeout", idle_timeout)):
        if seconds == 0:
            raise Failure(f"{flag} must be more than 0")
    if sys.stdin is None or sys.__stdout__ is None:
        raise Failure("standard input and output must be open")
    is_shown = sys.stdout.isatty()
    shape: Shape = SafeText() if is_shown else Plain()
    if as_hex:
        width = bytes_per_row(shutil.get_terminal_size().columns - 13 * timestamps)
        shape = HexDump(width if is_shown else 16, at_once=is_shown)
    if timestamps:
        shape = Stamped(shape, _now)
    is_typed = is_shown and sys.stdin.isatty()
    hint = Hint(
        ":0" if is_websocket else addr,
        has_crlf=crlf,
        has_tls=client is not None,
        is_wanted=not (listen or is_udp or is_websocket),
    )
    session = Session(shape, CRLF() if crlf else None, half_close=half_close, hint=hint)
    talk = on_terminal if is_typed else pipe

    async def program() -> int:
        taken: Conn | Pieces
        if is_websocket:
            taken = await open_websocket(addr, timeout, client, is_binary=binary, pings=ping)
        elif listen:
            taken = await accept(addr, timeout)
        elif is_udp:
            taken = await open_udp(addr, timeout)
        else:
            taken = await dial(
                addr,
                timeout,
                client=client,
                starttls=starttls,
                header=proxy_header,
                version=int(proxy_version),
            )
        async with taken as conn:
            conn.idle_timeout = idle_timeout
            if client is not None and isinstance(conn, Conn):
                say_tls(conn, client)
            if is_typed:
                say(
                    f"{'Sending' if is_udp else 'Connected'} to {conn.remote_addr} "
                    "(Enter sends; Ctrl-D ends the input, Ctrl-C leaves)"
                )
                hint.begin(say)
            return await talk(conn, session, until_peer_ends=listen)

    return _run(program())


def _joined(host: str, port: str | None) -> str:
    """Return the address that HOST and PORT are, as netcat takes them. Raises Failure."""
    if port is None:
        return host
    if not port.isdecimal():
        raise Failure(f"expected ADDR, or HOST and PORT, not {host!r} and {port!r}")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check(addr: str, tls: dict[str, Any], *, listen: bool, has_header: bool) -> Watched | None:
    """Return the client that the options of TLS describe. Raises Failure."""
    try:
        parsed = addresses.parse(addr, "ADDR")
        if not listen and isinstance(parsed, addresses.TCPAddress) and parsed.port == 0:
            raise ValueError(f"ADDR {addr!r} has port 0, which only --listen can use")
        if listen and has_header:
            raise ValueError(
                "--listen and --proxy-header: only a connection that is made begins with one"
            )
        client = client_of(tls)
        if listen and client is not None:
            raise ValueError("--listen and --tls: `silly echo --tls` is a server with TLS")
        check_name(client, parsed)
    except ValueError as error:
        raise Failure(str(error)) from None
    return client


def _client(
    addr: str,
    tls: dict[str, Any],
    *,
    listen: bool,
    is_udp: bool,
    has_header: bool,
    not_here: dict[str, bool],
    is_websocket: bool,
) -> Watched | None:
    """Check what was asked for; return the client of TLS. Raises Failure."""
    if is_websocket:
        not_here |= {"--listen": listen, "--udp": is_udp, "--proxy-header": has_header}
    for flag in (flag for flag, is_given in not_here.items() if is_given):
        if is_websocket:
            raise Failure(f"{flag} and {addr}: not with a WebSocket")
        raise Failure(f"{flag} needs the URL of a WebSocket, such as ws://{addr}/")
    if is_websocket:
        return _check_websocket(addr, tls)
    client = _check(addr, tls, listen=listen, has_header=has_header)
    if is_udp:
        _check_udp(addr, listen=listen, has_header=has_header, client=client)
    return client


def _check_websocket(addr: str, tls: dict[str, Any]) -> Watched | None:
    is_encrypted = addr.lower().startswith("wss:")
    if tls["tls"] and not is_encrypted:
        raise Failure("--tls and ws://: the URL of an encrypted WebSocket begins with wss://")
    tls["tls"] = is_encrypted
    try:
        return client_of(tls)
    except ValueError as error:
        raise Failure(str(error)) from None


def _check_udp(addr: str, *, listen: bool, has_header: bool, client: Watched | None) -> None:
    for wrong, text in (
        (not isinstance(addresses.parse(addr), addresses.TCPAddress),
         f"--udp and {addr}: UDP needs an ADDR with a port"),
        (listen, "--listen and --udp: `silly echo --udp` is a server for datagrams"),
        (has_header, "--proxy-header and --udp: only a connection begins with a header"),
        (client is not None, "--tls and --udp: datagrams are not encrypted"),
    ):  # fmt: skip
        if wrong:
            raise Failure(text)


def _now() -> str:
    now = datetime.now().astimezone()
    return f"{now:%H:%M:%S}.{now.microsecond // 1000:03}"


# --------------------------------------------------------------------------- signals


def _run(program: Coroutine[Any, Any, int]) -> int:
    """Run *program* and return its exit code; signals cancel it."""
    signalled: list[int] = []

    async def guarded() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(number: int, _frame: FrameType | None) -> None:
            signalled.append(number)
            loop.call_soon_threadsafe(task.cancel)
            interrupt_wait()

        with handling(loop, dict.fromkeys((signal.SIGINT, signal.SIGTERM), stop)):
            return await program

    try:
        with asyncio.Runner() as runner:
            return runner.run(guarded())
    except asyncio.CancelledError:
        return 128 + signalled[0]
    except (OSError, EndOfStream, ConnectionClosed) as error:
        if signalled:  # pragma: no cover - a race: the connection failed at the same time
            return 128 + signalled[0]
        raise Failure(_error_text(error), FAILED) from None


def _error_text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
        if error.filename and not text.startswith(f"{error.filename}: "):
            text = f"{error.filename}: {text}"
    else:
        text = str(error) or type(error).__name__
    return text + advice(error)
