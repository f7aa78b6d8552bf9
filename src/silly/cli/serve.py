"""``silly serve MODULE:APP [ADDR …]``: serve an ASGI application."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from silly.cli import run
from silly.cli.arguments import OPTIONS
from silly.cli.options import LIMITS

__all__ = ["main", "serve"]

USAGE_ERROR: Final = 2
DEFAULT_ADDR: Final = "127.0.0.1:8000"

_EPILOG = """\
APP is an ASGI 3 application, such as one of Starlette, FastAPI or Django, in a module that can
be imported from the current directory. Its lifespan is run. An ADDR is HOST:PORT, :PORT (all
interfaces) or unix:PATH.

All options of `silly FILE.py` apply, too (silly --help): --workers, --reload, --grace,
--tls-cert and --tls-key, --proxy-protocol, --metrics, --admin, --uvloop, and all limits,
such as --max-body-bytes 1M or --keep-alive-timeout 30s.

examples:
  silly serve main:app
  silly serve main:app :8000 --workers 4
  silly serve main:create_app --factory --reload
  silly serve mysite.asgi:application unix:/run/mysite.sock --root-path /site
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="silly serve",
        usage="silly serve [OPTION ...] MODULE:APP [ADDR ...]",
        description="Serve an ASGI application over HTTP/1.1.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("app", metavar="MODULE:APP", help="The application.")
    parser.add_argument(
        "addrs",
        metavar="ADDR",
        nargs="*",
        help=f"Where to listen. Default: {DEFAULT_ADDR}",
    )
    parser.add_argument(
        "--factory", action="store_true", help="APP is a function that returns the application."
    )
    parser.add_argument(
        "--lifespan",
        choices=("auto", "on", "off"),
        default="auto",
        help="Whether the application has one. Default: auto",
    )
    parser.add_argument(
        "--root-path",
        metavar="PATH",
        default="",
        help="The path below which a proxy has mounted the application.",
    )
    parser.add_argument(
        "--trusted-proxies",
        metavar="NETWORKS",
        default="127.0.0.0/8,::1/128",
        help="Whose X-Forwarded-For and -Proto are believed. Default: 127.0.0.0/8,::1/128",
    )
    parser.add_argument(
        "--access-log", action="store_true", help="Log a line for each request (silly.access)."
    )
    parser.add_argument("--log-format", default="text", help=argparse.SUPPRESS)  # also the runner's
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run ``silly serve`` with *arguments*; return the exit code."""
    ours, runners = _split(arguments)
    options = _parser().parse_intermixed_args(ours)
    if ":" not in options.app:
        return _fail(f"expected MODULE:APP, such as main:app, not {options.app!r}")
    return run.main([*runners, "silly.cli.serve:serve", "--", *ours])


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return our arguments, and the options of ``silly FILE.py``, which may be anywhere."""
    flags = {option.flag: option for option in (*OPTIONS, *LIMITS)}
    del flags["--access-log"]  # of requests instead of connections
    ours: list[str] = []
    runners: list[str] = []
    at = 0
    while at < len(arguments):
        flag, equals, _ = arguments[at].partition("=")
        if flag in flags:
            count = 1 if equals or flags[flag].kind is None else 2
            runners += arguments[at : at + count]
            if flag == "--log-format":
                ours += arguments[at : at + count]
            at += count
        else:
            ours.append(arguments[at])
            at += 1
    return ours, runners


async def serve() -> None:
    """Serve the application that the command line names; called in the event loop."""
    from silly.net import asgi  # noqa: PLC0415 - needs an extra

    options = _parser().parse_intermixed_args(sys.argv[1:])
    app = _application(options.app, is_factory=options.factory)
    if options.access_log:
        from silly.cli.watching import show_access_log  # noqa: PLC0415 - slow to import

        show_access_log(options.log_format)
    for addr in options.addrs or [DEFAULT_ADDR]:
        await asgi.listen(
            addr,
            app,
            lifespan=options.lifespan,
            root_path=options.root_path.rstrip("/"),
            trusted_proxies=tuple(options.trusted_proxies.split(",")),
            access_log=options.access_log,
        )


def _application(text: str, *, is_factory: bool) -> Any:
    name, _, attributes = text.partition(":")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - it is put into sys.path
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # it is imported by the module
        raise SystemExit(_fail(f"there is no module {name!r} here")) from None
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise SystemExit(_fail(f"{name} has no {attributes!r}"))
        found = getattr(found, attribute)
    return found() if is_factory else found


def _fail(text: str) -> int:
    print(f"silly serve: {text}", file=sys.stderr)
    return USAGE_ERROR
