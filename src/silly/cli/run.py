"""``silly FILE.py [ARG…]``: run a script inside a running event loop."""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from collections.abc import Callable, Sequence

import silly
from silly._arguments import seconds
from silly.cli import watching
from silly.runtime import GRACE, run_script

__all__ = ["main"]

USAGE_ERROR = 2

_EPILOG = """\
The script runs inside an event loop: tcp.listen(...), task.fork(...) and `await`
work at its top level. The program stays up while listeners, connections, forked
tasks or timers live. Ctrl-C and SIGTERM stop it gently: handlers may finish for
the grace period; a second signal stops it at once. SIGUSR1 prints what every
connection and task is doing.

examples:
  silly echo_server.py
  silly echo_server.py 127.0.0.1:7777     what follows FILE is the script's sys.argv
  silly --grace 30 game_server.py         let handlers finish for up to 30 seconds

exit codes:
  0  the script ended, or was stopped by a signal
  1  the script raised an exception (its traceback is on standard error)
  2  wrong usage, or FILE cannot be read
  N  what the script gave to sys.exit(N)
"""


def _grace(text: str) -> float:
    try:
        return seconds(float(text), "grace")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="silly",
        usage="silly [-h] [--version] [--grace SECONDS] [--uvloop] [--debug] [--access-log] "
        "[--metrics ADDR] [--admin unix:PATH] FILE.py [ARG ...]",
        description="Run a Python script as a TCP service or client.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE.py", help="the script")
    parser.add_argument(
        "args", metavar="ARG", nargs=argparse.REMAINDER, help="arguments for the script"
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument(
        "--grace",
        type=_grace,
        default=GRACE,
        metavar="SECONDS",
        help="how long handlers may go on after a signal (default: %(default)g)",
    )
    parser.add_argument(
        "--uvloop", action="store_true", help="run on uvloop (extra: silly-net[uvloop])"
    )
    parser.add_argument(
        "--debug", action="store_true", help="asyncio's debug mode, and whole tracebacks"
    )
    watching.add_arguments(parser)
    return parser


def _version() -> str:
    return (
        f"silly {silly.__version__} ({silly.engine()} engine, Python {platform.python_version()})"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (`sys.argv` if None) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if not arguments:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    options = parser.parse_args(arguments)
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if options.uvloop:
        try:
            import uvloop  # noqa: PLC0415 - an extra
        except ImportError:
            print("silly: --uvloop needs uvloop: pip install 'silly-net[uvloop]'", file=sys.stderr)
            return USAGE_ERROR
        loop_factory = uvloop.new_event_loop
    if options.access_log:
        watching.log_access()
    try:
        return run_script(
            options.file,
            options.args,
            grace=options.grace,
            debug=options.debug,
            loop_factory=loop_factory,
            before=lambda: watching.watch(options.metrics, options.admin),
        )
    except OSError as error:
        print(f"silly: cannot read {options.file!r}: {error.strerror}", file=sys.stderr)
        return USAGE_ERROR
