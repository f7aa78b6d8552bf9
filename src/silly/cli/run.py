"""``silly FILE.py [ARG…]``: run a script inside a running event loop."""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import silly
from silly import stdio
from silly._engine import why_not_native
from silly._values.extras import install_command
from silly.cli.arguments import OPTIONS, Parser, add_options, split, unknown_variables
from silly.cli.env_file import load_env_file
from silly.cli.options import LIMITS, set_limits
from silly.log import dropping_last_resort
from silly.net.proxy.trust import set_proxies
from silly.runtime import run_function, run_script
from silly.runtime.title import set_title

if TYPE_CHECKING:
    from silly.cli import watching

__all__ = ["main"]

USAGE_ERROR = 2
_FORMS = "expected a script (FILE.py), MODULE:FUNCTION or a command (see: silly --help)"

_EPILOG = """\
The script runs inside an event loop: tcp.listen(...), task.fork(...) and `await`
work at its top level. The program runs as long as it has listeners, connections,
forked tasks or timers. Ctrl-C and SIGTERM stop it gracefully: handlers have the
grace period to finish; a second signal stops it at once. SIGUSR1 prints what every
connection and task is doing. MODULE:FUNCTION calls a function (or coroutine
function) of a module instead of running a script.

With --workers, a supervisor runs N processes of the program. Its signals:
  SIGTERM, SIGINT   drain all workers; a second one ends them at once
  SIGHUP            replace the workers one by one; no connection is lost
  SIGTTIN, SIGTTOU  add a worker, remove a worker
  SIGUSR1           each worker prints what it is doing

Options may also follow FILE. The first word after FILE that is none of the options
above goes to the script's sys.argv, with everything after it; so does everything
after `--`. An option that is not given is taken from the environment: SILLY_GRACE=30s
means --grace 30s, and SILLY_DEBUG=1 means --debug.

examples:
  silly echo_server.py
  silly echo_server.py --workers 4
  silly echo_server.py 127.0.0.1:7777     the script finds the address in sys.argv
  silly game_server.py -- --debug         the script finds --debug in sys.argv
  silly --grace 30s game_server.py        handlers have 30 seconds to finish

exit codes:
  0  the script ended, or a signal stopped it
  1  the script raised an exception (the traceback is on standard error)
  2  wrong usage, or FILE cannot be read
  N  the script called sys.exit(N)
  With --workers: 0 after a signal; if no worker ever became ready, the exit code
  of the worker that died last.
"""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "silly",
        usage="silly [OPTION ...] FILE.py [ARG ...]",
        description="Run a Python script as a TCP service or client.",
        epilog=_EPILOG,
        add_help=False,
    )
    parser.add_argument("file", metavar="FILE.py", help="The script, or MODULE:FUNCTION.")
    parser.add_argument("-h", "--help", action="help", help="Show this message and exit.")
    parser.add_argument(
        "--version", action="version", version=_version(), help="Show the version and exit."
    )
    add_options(parser)
    return parser


def _version() -> str:
    absent = why_not_native()
    why = f"\nno native engine: {absent}" if absent else ""
    python = sys.version.partition(" ")[0]
    return f"silly {silly.__version__} ({silly.engine()} engine, Python {python}){why}"


def main(argv: Sequence[str] | None = None, *, verbs: Collection[str] = ()) -> int:
    """Run the command line *argv* (`sys.argv` if None) and return the exit code.

    *verbs* are suggested if FILE.py looks like a misspelling of one.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_worker = _become_worker()
    with stdio.nonblocking_errors():
        if not arguments:
            _parser().print_help(sys.stderr)
            return USAGE_ERROR
        ours, args = split(arguments)
        try:
            load_env_file(ours)
        except ValueError as error:
            return _fail(str(error))
        parser = _parser()
        options = parser.parse_args(ours)
        program = args[0] if options.file.startswith("silly.cli.") and args else options.file
        supervised = options.reload or options.workers is not None
        if options.reload and options.workers not in {None, 1}:
            parser.error("--reload and --workers: --reload runs a single worker")
        if options.watchdog is not None and not supervised:
            parser.error("--watchdog needs --workers: the supervisor does the watching")
        if not is_worker:
            for line in (*unknown_variables(), *_without_effect(options)):
                print(f"silly: {line}", file=sys.stderr)
    worker = os.environ.get("SILLY_WORKER", "") if is_worker else ""
    set_title(program, worker=int(worker) if worker else None, is_supervisor=supervised)
    set_limits(vars(options))
    set_proxies(options.proxy_protocol)
    try:
        _use_certificate(options.tls_cert, options.tls_key)
        _use_log_config(options.log_config)
        loop_factory = _uvloop() if options.uvloop else None
    except ValueError as error:
        return _fail(str(error))
    if options.access_log and not supervised:
        from silly.cli.watching import log_access  # noqa: PLC0415 - slow to import

        log_access(options.log_format)
    if options.log_level is not None:
        logging.getLogger("silly").setLevel(options.log_level)
    with dropping_last_resort(options.log_level or logging.INFO, options.log_format):
        before = functools.partial(_watch, options, is_worker=is_worker)
        return _run(options, args, loop_factory, before, supervised=supervised, verbs=verbs)


def _without_effect(options: argparse.Namespace) -> list[str]:
    """Return a warning for each given option that needs ``--reload``, which is not given."""
    given = [each.flag for each in OPTIONS if getattr(options, each.name) is not None]
    needing = [] if options.reload else [flag for flag in given if flag.startswith("--reload-")]
    return [f"{flag} has no effect without --reload" for flag in needing]


def _use_certificate(cert: str | None, key: str | None) -> None:
    """Encrypt the connections of listeners that do not say. Raises ValueError."""
    if cert is None and key is None:
        return
    from silly.cli.tls import server_of  # noqa: PLC0415 - most programs need no TLS
    from silly.net.tls.config import use_default  # noqa: PLC0415

    use_default(server_of(cert, key))


def _use_log_config(path: str | None) -> None:
    """Configure `logging` by the file *path*. Raises ValueError."""
    if path is not None:
        from silly.cli.log_config import configure_logging  # noqa: PLC0415 - slow to import

        configure_logging(path)


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop of uvloop. Raises ValueError if it is missing."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        raise ValueError(f"--uvloop needs uvloop: {install_command('uvloop')}") from None
    return uvloop.new_event_loop


def _become_worker() -> bool:
    """Make this process a worker if a supervisor has started it; return whether one has."""
    if "SILLY_CHANNEL" not in os.environ:
        return False
    from silly.workers.worker import become_worker  # noqa: PLC0415 - most programs have no workers

    return become_worker()


def _run(
    options: argparse.Namespace,
    args: Sequence[str],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    before: Callable[[], None],
    *,
    supervised: bool,
    verbs: Collection[str],
) -> int:
    is_function = re.fullmatch(r"[\w.]+:[\w.]+", options.file) and not Path(options.file).exists()
    try:
        if supervised:
            if not is_function:
                with Path(options.file).open("rb"):
                    pass
            return _supervise(options, args, is_function=bool(is_function))
        run = run_function if is_function else run_script
        return run(
            options.file,
            args,
            grace=options.grace,
            debug=options.debug,
            loop_factory=loop_factory,
            before=before,
        )
    except OSError as error:
        hint = _suggestion(options.file, verbs) if isinstance(error, FileNotFoundError) else ""
        return _fail(f"cannot read {options.file!r}: {error.strerror}{hint}")


def _suggestion(name: str, verbs: Collection[str]) -> str:
    """Return a suggestion for *name*, which is not a file."""
    import difflib  # noqa: PLC0415 - rarely needed

    meant = None
    if Path(f"{name}.py").is_file():
        meant = f"{name}.py"
    elif found := difflib.get_close_matches(name, verbs, n=1):
        meant = found[0]
    elif Path(name).parent.is_dir():
        beside = [str(path) for path in Path(name).parent.glob("*.py")]
        meant = next(iter(difflib.get_close_matches(name, beside, n=1)), None)
    return f"; did you mean: silly {meant}" if meant else f"; {_FORMS}"


def _fail(message: str) -> int:
    with stdio.nonblocking_errors():
        print(f"silly: {message}", file=sys.stderr)
    return USAGE_ERROR


def _watch(options: argparse.Namespace, *, is_worker: bool) -> None:
    if not (options.metrics or options.health or options.admin):
        return
    from silly.cli import watching  # noqa: PLC0415 - slow to import

    if not is_worker:
        watching.watch(_watchers(options))
    elif options.metrics or options.admin:  # the supervisor serves them for all workers
        watching.measure_worker()


def _watchers(options: argparse.Namespace) -> watching.Addrs:
    from silly.cli import watching  # noqa: PLC0415 - slow to import

    return watching.Addrs(options.metrics, options.health, options.admin)


def _supervise(options: argparse.Namespace, args: Sequence[str], *, is_function: bool) -> int:
    if sys.platform == "win32":
        return _fail("--workers and --reload need a Unix system")
    from silly.cli import watching  # noqa: PLC0415 - slow to import
    from silly.workers import Supervisor  # noqa: PLC0415 - most programs have no workers
    from silly.workers.process import working_directory  # noqa: PLC0415

    if options.log_level is not None or options.log_config is None:
        logging.getLogger("silly.workers").setLevel(options.log_level or logging.INFO)
    supervisor = Supervisor(
        options.file,
        args,
        workers=options.workers or 1,
        grace=options.grace,
        debug=options.debug,
        uvloop=options.uvloop,
        worker_options=_worker_options(options),
        watchdog=options.watchdog,
        develop=options.reload,
    )
    supervise: Callable[[], Awaitable[int]] = supervisor.run
    if options.reload:
        try:
            from silly.cli.reload import Watched, run_reloading  # noqa: PLC0415 - an extra
        except ImportError:
            return _fail(f"--reload needs watchfiles: {install_command('reload')}")
        directory = Path(working_directory() or ".")
        if not is_function:
            directory = (directory / options.file).parent
        watched = Watched(
            map(Path, options.reload_dir or [directory]),
            options.reload_include or (),
            options.reload_exclude or (),
        )
        supervise = functools.partial(run_reloading, supervisor, watched)
    try:
        return asyncio.run(watching.watched(supervise, supervisor, _watchers(options)))
    except SystemExit as leave:  # --metrics, --health or --admin cannot be opened
        with stdio.nonblocking_errors():
            print(leave.code, file=sys.stderr)
        return 1


_OF_WORKERS = (
    *("--access-log", "--log-config", "--log-format", "--log-level", "--metrics", "--admin"),
    *("--tls-cert", "--tls-key", "--proxy-protocol"),
)
"""The options, besides limits, that the supervisor passes on to its workers."""


def _worker_options(options: argparse.Namespace) -> list[str]:
    table = (*(each for each in OPTIONS if each.flag in _OF_WORKERS), *LIMITS)
    return [text for each in table for text in each.arguments(getattr(options, each.name))]
