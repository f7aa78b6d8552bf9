"""``silly connect``: talk to a server by hand, or through a pipe."""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from types import FrameType
from typing import Any, Final

import click

from silly._engine.interface import HANDSHAKE_TIMEOUT
from silly._loop.signals import handling, interrupt_wait
from silly._values.extras import install_command
from silly._values.kinds import DURATION, Kind, choice
from silly.cli.command import INTERRUPTED, Failure, GroupedCommand, run, with_options
from silly.cli.connecting.datagrams import Datagrams
from silly.cli.connecting.pieces import AFTER_INPUT, Pieces
from silly.cli.connecting.pipe import Sink, Source
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
from silly.cli.connecting.starttls import PROTOCOLS, start_tls
from silly.cli.options import Option, grouped
from silly.cli.tls import CLIENT, Watched, check_name, client_of, described, described_chain
from silly.errors import ConnectionClosed, EndOfStream
from silly.net import addr as addresses
from silly.net import tcp, udp
from silly.net.proxy import ProxyHeader
from silly.net.tcp import Conn, Limits
from silly.net.tls.advice import advice
from silly.text import printable

__all__ = ["main"]

FAILED: Final = 1

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
    session = _Session(shape, CRLF() if crlf else None, half_close=half_close, hint=hint)
    talk = _interactive if is_typed else _pipe

    async def program() -> int:
        taken: Conn | Pieces
        if is_websocket:
            taken = await _open_websocket(addr, timeout, client, is_binary=binary, pings=ping)
        elif listen:
            taken = await _accept(addr, timeout)
        elif is_udp:
            taken = await _open(addr, timeout)
        else:
            taken = await _dial(
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
                _say_tls(conn, client)
            if is_typed:
                _say(
                    f"{'Sending' if is_udp else 'Connected'} to {conn.remote_addr} "
                    "(Enter sends; Ctrl-D ends the input, Ctrl-C leaves)"
                )
                hint.begin(_say)
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


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _say_tls(conn: Conn, client: Watched) -> None:
    assert conn.tls is not None
    assert client.session is not None
    for line in described(conn.tls, client.session.peer_chain, verified=client.verifies):
        _say(line)


def _say_refused(client: Watched | None) -> None:
    """Show the certificates that were not accepted."""
    if client is not None and client.session is not None:
        for line in described_chain(client.session.peer_chain, verified=False):
            _say(line)


class _Session:
    """How bytes are converted before they are sent or shown, and how the input ends."""

    def __init__(self, shape: Shape, crlf: CRLF | None, *, half_close: bool, hint: Hint) -> None:
        self.shape = shape
        self.hint = hint
        self._crlf = crlf
        self._half_close = half_close

    def send(self, conn: Conn | Pieces, data: bytes) -> Awaitable[None]:
        """Send *data*; awaiting the result waits for room."""
        return conn.write(data if self._crlf is None else self._crlf.feed(data))

    def end_input(self, conn: Conn | Pieces) -> None:
        """Half-close the connection, unless ``--no-half-close`` was given."""
        if self._half_close:
            conn.close_write()


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
        if signalled:
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


# ------------------------------------------------------------------------ connections


async def _dial(
    addr: str,
    timeout: float | None,
    *,
    client: Watched | None,
    starttls: str | None,
    header: ProxyHeader | None,
    version: int,
) -> Conn:
    try:
        connecting = tcp.connect(
            addr,
            timeout=timeout,
            tls=client if client is not None and starttls is None else False,
            proxy_header=header,
            proxy_version=version,
        )
    except ValueError as error:
        of = "" if header is None else "--proxy-header: "
        raise Failure(f"{of}{error}") from None
    try:
        conn = await connecting
        if client is not None and starttls is not None:
            try:
                await start_tls(conn, client, starttls, timeout or HANDSHAKE_TIMEOUT)
            except BaseException:
                conn.close()
                raise
    except ssl.SSLCertVerificationError:
        _say_refused(client)
        raise
    return conn


async def _open(addr: str, timeout: float | None) -> Datagrams:
    return Datagrams(await udp.connect(addr, timeout=timeout))


async def _open_websocket(
    addr: str, timeout: float | None, client: Watched | None, *, is_binary: bool, pings: bool
) -> Pieces:
    try:
        from silly.cli.connecting.messages import open_websocket  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Failure(str(error)) from None
    try:
        return await open_websocket(
            addr, timeout, client, is_binary=is_binary, pings=pings, say=_say
        )
    except ValueError as error:
        raise Failure(str(error)) from None


async def _accept(addr: str, timeout: float | None) -> Conn:
    arrived: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    async def take(conn: Conn) -> None:
        if arrived.done():
            conn.abort()
            return
        listener.close(0)  # does not cancel the handler that calls it
        arrived.set_result(conn)
        await conn.wait_closed()

    listener = tcp.listen(addr, take, limits=Limits.none(), proxy_protocol=(), tls=False)
    for local in listener.local_addrs:
        _say(f"Listening on {local}")
    try:
        async with asyncio.timeout(timeout):
            return await arrived
    except TimeoutError:
        raise TimeoutError(f"{addr}: no client connected within {timeout:g} seconds") from None
    finally:
        if not arrived.done() or arrived.cancelled():
            await listener.close(0)


# ------------------------------------------------------------------------- as a pipe


async def _pipe(conn: Conn | Pieces, session: _Session, *, until_peer_ends: bool) -> int:
    source, sink = Source(sys.stdin.fileno()), Sink(sys.stdout.fileno())
    lost: OSError | None = None  # why writing the output failed

    async def send() -> None:
        while data := await source.read():
            await session.send(conn, data)
        session.end_input(conn)

    async def show(data: bytes) -> None:
        nonlocal lost
        try:
            await sink.write(data)
        except OSError as error:
            lost = error
            raise

    async def receive() -> None:
        await _receive(conn, session.shape, show)
        sink.close()

    sending, receiving = asyncio.create_task(send()), asyncio.create_task(receive())
    tasks = {sending, receiving}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done() and (until_peer_ends or receiving.exception() is not None):
            sending.cancel()
        await asyncio.wait(tasks)
    finally:
        await _stopped(tasks)
    if lost is not None:
        conn.abort()
        if isinstance(lost, BrokenPipeError):  # the reader has seen enough
            return FAILED
        raise Failure(f"cannot write standard output: {lost.strerror}", FAILED)
    for task in (receiving, sending):
        if not task.cancelled():
            task.result()
    return 0


async def _stopped(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _receive(
    conn: Conn | Pieces,
    shape: Shape,
    show: Callable[[bytes], Awaitable[None]],
    notice: Callable[[bytes], Awaitable[None]] | None = None,
) -> None:
    """Show what is received until the end of the stream; *notice* gets the first of it before.

    Raises OSError or ConnectionClosed if the connection is lost.
    """
    end: Exception | None = None
    while end is None:
        try:
            data = await conn.read()
            if notice is not None:
                await notice(data)
                notice = None
            shaped = shape.feed(data)
        except (EndOfStream, ConnectionClosed, OSError) as error:
            shaped, end = shape.finish(), error
        await show(shaped)
    if not isinstance(end, EndOfStream):
        raise end


# --------------------------------------------------------------------- on a terminal


async def _interactive(conn: Conn | Pieces, session: _Session, *, until_peer_ends: bool) -> int:  # noqa: ARG001
    try:
        from silly.cli.connecting.prompt import Prompt  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise Failure(
            f"the line mode needs prompt_toolkit: {install_command('cli')} (in a pipe, "
            "such as `cat | silly connect ADDR`, it is not needed)"
        ) from None
    prompt = Prompt()
    left = False

    async def ask() -> None:
        nonlocal left
        while True:
            try:
                line = await prompt.ask()
            except EOFError:
                session.end_input(conn)
                return
            except KeyboardInterrupt:
                left = True
                return
            await session.send(conn, line.encode("utf-8", "surrogateescape") + b"\n")

    async def show(data: bytes) -> None:
        await prompt.show(data.decode())

    async def notice(first: bytes) -> None:
        await prompt.above(lambda: session.hint.notice(first, _say))

    asking = asyncio.create_task(ask())
    receiving = asyncio.create_task(_receive(conn, session.shape, show, notice))
    try:
        await asyncio.wait((asking, receiving), return_when=asyncio.FIRST_COMPLETED)
        if left:
            conn.abort()
            return INTERRUPTED
        if asking.done():
            await asyncio.wait((receiving,))
    finally:
        await _stopped({asking, receiving})
        prompt.finish()
    receiving.result()
    if not asking.cancelled():
        asking.result()
    if isinstance(conn, Conn):
        _say("Connection closed by the peer")
    return 0
