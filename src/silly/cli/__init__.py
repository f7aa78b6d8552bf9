"""The command ``silly``: ``silly FILE.py`` runs a script, ``silly VERB …`` a tool.

Each verb is a module in this package, imported only when it is used: a verb may need
the libraries of the extra ``silly-net[cli]``, but ``silly FILE.py`` must not. A file
named like a verb is run as ``silly ./bench``.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from silly import stdio
from silly._values.extras import install_command
from silly.cli.arguments import unknown_variables

__all__ = ["VERBS", "main"]

USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130  # 128 and the number of SIGINT
VERBS: Final = {
    "serve": "serve an ASGI application (FastAPI, Django, ...)",
    "echo": "an echo server to test clients against",
    "bench": "load-test a server and check every reply",
    "connect": "talk to a server, by hand or through a pipe",
    "top": "watch a running program and its workers",
    "repl": "a Python prompt inside an event loop, with await",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (`sys.argv` if None) and return the exit code."""
    stdio.reserve()
    if argv is None:  # this is the command: what was imported is never garbage
        gc.freeze()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"] and not Path("help").exists():
        arguments = [*arguments[1:2], "--help"]
    if arguments and arguments[0] in VERBS:
        with stdio.nonblocking_errors():
            for line in unknown_variables():
                print(f"silly {arguments[0]}: {line}", file=sys.stderr)
        try:
            return _verb(arguments[0], arguments[1:])
        except KeyboardInterrupt:  # during the import
            return _fail(f"silly {arguments[0]}: interrupted", INTERRUPTED)
    from silly.cli import run  # noqa: PLC0415 - the verbs do not need it

    if arguments and arguments[0] not in ("-h", "--help"):
        return run.main(arguments, verbs=VERBS)
    try:
        try:
            return run.main(arguments)
        finally:
            with stdio.nonblocking_errors():
                _list_verbs(sys.stdout if arguments else sys.stderr)
    except BrokenPipeError:  # the reader has seen enough, as with `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is flushed at exit
        return 0


def _verb(verb: str, arguments: list[str]) -> int:
    try:
        module = importlib.import_module(f"silly.cli.{verb}")
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        return _fail(f"silly {verb} needs click: {install_command('cli')}", USAGE_ERROR)
    code: int = module.main(arguments)
    return code


def _fail(message: str, code: int) -> int:
    with stdio.nonblocking_errors():
        print(message, file=sys.stderr)
    return code


def _list_verbs(file: TextIO) -> None:
    print("\ncommands (each has its own --help; to run a file of that name: ./NAME):", file=file)
    for verb, what in VERBS.items():
        print(f"  silly {verb:<9} {what}", file=file)
    file.flush()
