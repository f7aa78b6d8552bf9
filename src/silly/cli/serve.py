"""``silly serve MODULE:APP [ADDR …]``: serve an ASGI application."""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from silly import stdio
from silly.cli import run
from silly.cli.arguments import Parser, add_option
from silly.cli.env_file import load_env_file
from silly.cli.serving.application import Unusable, load
from silly.cli.serving.options import KNOWN_ELSEWHERE, TABLE, split
from silly.net.tls.config import Server
from silly.runtime.program import has_reported
from silly.text import printable

__all__ = ["main", "serve"]

USAGE_ERROR: Final = 2
NOT_LISTENING: Final = 1
NOT_STARTED: Final = 3  # as of uvicorn
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000

_EPILOG = """\
APP is an ASGI 3 application, such as one of Starlette, FastAPI or Django, in a module that can
be imported from the current directory. Its lifespan is run, once in each process. An ADDR is
HOST:PORT, :PORT (all interfaces) or unix:PATH.

All options of `silly FILE.py` apply, too (silly --help): --workers, --reload, --grace,
--tls-cert and --tls-key, --proxy-protocol, --metrics, --admin, --log-level, --uvloop, and all
limits, such as --max-body-bytes 1M or --keep-alive-timeout 30s. The options of uvicorn are
understood.

examples:
  silly serve main:app
  silly serve main:app :8000 --workers 4
  silly serve main:create_app --factory --reload
  silly serve mysite.asgi:application unix:/run/mysite.sock --root-path /site

exit codes:
  0  a signal stopped it
  1  it cannot listen, or the module failed (the traceback is on standard error)
  2  wrong usage, or there is no such application
  3  the application did not start (its lifespan)
"""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "silly serve",
        usage="silly serve [OPTION ...] MODULE:APP [ADDR ...]",
        description="Serve an ASGI application over HTTP/1.1.",
        epilog=_EPILOG,
        others=KNOWN_ELSEWHERE,
    )
    parser.add_argument("app", metavar="MODULE:APP", nargs="?", default="", help="The application.")
    parser.add_argument(
        "addrs",
        metavar="ADDR",
        nargs="*",
        help=f"Where to listen (default: {DEFAULT_HOST}:{DEFAULT_PORT}).",
    )
    try:
        for option in TABLE:
            add_option(parser, option, option.from_environment())
    except ValueError as error:
        parser.error(str(error))
    parser.add_argument("--log-format", default="text", help=argparse.SUPPRESS)  # also the runner's
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run ``silly serve`` with *arguments*; return the exit code."""
    try:
        load_env_file(arguments)
        ours, runners = split(arguments)
    except ValueError as error:  # a `Refusal` is one
        return _said(str(error), USAGE_ERROR)
    options = _parser().parse_intermixed_args(ours)
    module, _, path = options.app.partition(":")
    if not (module and path) or module.endswith(".py"):
        guess = module.removesuffix(".py").replace("/", ".").strip(".") or "main"
        given = f", not {options.app!r}" if options.app else ""
        text = f"expected MODULE:APP, such as {guess}:{path or 'app'}{given}"
        return _said(text, USAGE_ERROR)
    try:
        _encryption(options)
    except (OSError, ValueError) as error:
        return _said(f"TLS: {error}", USAGE_ERROR)
    return run.main([*runners, "silly.cli.serve:serve", "--", *ours])


async def serve() -> None:
    """Serve the application that the command line names; called in the event loop."""
    try:
        from silly.net import asgi  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        _leave(str(error), USAGE_ERROR)
    options = _parser().parse_intermixed_args(sys.argv[1:])
    is_configured = logging.getLogger("silly.access").hasHandlers()  # by --log-config
    app = _application(options)
    if options.access_log:
        from silly.cli.watching import show_access_log  # noqa: PLC0415 - slow to import

        show_access_log(None if is_configured else options.log_format)
    trusted = options.trusted_proxies or options.forwarded_allow_ips
    for addr in _addrs(options):
        try:
            await asgi.listen(
                addr,
                app,
                lifespan=options.lifespan,
                startup_timeout=options.startup_timeout,
                root_path=options.root_path,
                trusted_proxies=trusted if options.proxy_headers else (),
                access_log=options.access_log,
                backlog=options.backlog,
                tls=_encryption(options),
            )
        except asgi.StartupError as error:
            _leave_with_traceback(str(error))
        except OSError as error:
            if has_reported(error):
                raise
            _leave(f"cannot listen on {addr}: {error.strerror or error}", NOT_LISTENING)
        except ValueError as error:  # an address
            _leave(str(error), USAGE_ERROR)


def _application(options: argparse.Namespace) -> Any:
    from silly.net.asgi.middleware import AtMost, Retiring, WithHeaders  # noqa: PLC0415 - needs an extra

    directory = str(Path(options.app_dir).absolute()) if options.app_dir else os.getcwd()  # noqa: PTH109
    try:
        app = load(options.app, directory=directory, is_factory=options.factory)
    except Unusable as error:
        _leave(str(error), USAGE_ERROR)
    fields = list(options.header or ())
    if options.server_header:
        fields.append((b"server", b"silly"))
    if (most := options.limit_max_requests) is not None:
        most += random.randint(0, options.limit_max_requests_jitter)  # noqa: S311 - no secret
        app = Retiring(app, most, lambda: signal.raise_signal(signal.SIGTERM))
    if options.limit_concurrency is not None:
        app = AtMost(app, options.limit_concurrency)
    return WithHeaders(app, fields) if fields else app


def _addrs(options: argparse.Namespace) -> list[str]:
    addrs = [*options.addrs, *(options.bind or ())]
    if options.uds is not None:
        addrs.append(f"unix:{options.uds}")
    if options.host is not None or options.port is not None or not addrs:
        host = DEFAULT_HOST if options.host is None else options.host
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        addrs.append(f"{host}:{DEFAULT_PORT if options.port is None else options.port}")
    return addrs


def _encryption(options: argparse.Namespace) -> Server | None:
    """Return what the options of uvicorn say of TLS; None: that of the runner, or none.

    Raises:
        OSError, ValueError: a file cannot be used, or options contradict each other.
    """
    clients = options.ssl_cert_reqs
    if options.ssl_certfile is None:
        if options.ssl_keyfile or options.ssl_ca_certs or clients != "none":
            raise ValueError("the options --ssl-... need --ssl-certfile")
        return None
    return Server(
        options.ssl_certfile,
        options.ssl_keyfile,
        password=options.ssl_keyfile_password,
        client_ca=options.ssl_ca_certs if clients != "none" else None,
        client_cert=clients,
    )


def _leave(text: str, code: int) -> NoReturn:
    raise SystemExit(_said(text, code))


def _leave_with_traceback(text: str) -> NoReturn:
    """Leave with the first and the last line of *text*: frameworks give a whole traceback."""
    begin, colon, reason = text.partition(": ")
    lines = reason.splitlines()
    if len(lines) > 1:
        with stdio.nonblocking_errors():
            for line in lines:
                print(printable(line), file=sys.stderr)
        text = f"{begin}{colon}{lines[-1]}"
    _leave(text, NOT_STARTED)


def _said(text: str, code: int) -> int:
    with stdio.nonblocking_errors():
        print(f"silly serve: {printable(text)}", file=sys.stderr)
    return code
