"""The command ``silly``: ``silly FILE.py`` runs a script, ``silly VERB …`` does what it names.

Each verb is a module of its own here, imported when it is asked for: it may need
the libraries of the extra ``silly-net[cli]``, which ``silly FILE.py`` must not. A
file that is called like a verb is run as ``silly ./bench``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Final, TextIO

from silly.cli import run

__all__ = ["VERBS", "main"]

USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130  # 128 and the number of SIGINT
EXTRA: Final = ("click", "rich")

VERBS: Final = {
    "echo": "serve what it is sent",
    "bench": "load a server, check every reply, measure",
    "connect": "talk to a server",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (`sys.argv` if None) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in VERBS:
        return _verb(arguments[0], arguments[1:])
    if arguments and arguments[0] not in ("-h", "--help"):
        return run.main(arguments)
    try:
        return run.main(arguments)
    finally:
        _list_verbs(sys.stdout if arguments else sys.stderr)


def _verb(verb: str, arguments: list[str]) -> int:
    if not _is_here(verb):
        print(f"silly: this installation has no {verb!r}", file=sys.stderr)
        return USAGE_ERROR
    try:
        module = importlib.import_module(f"silly.cli.{verb}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRA:
            raise
        print(
            f"silly {verb} needs {' and '.join(EXTRA)}: pip install 'silly-net[cli]'",
            file=sys.stderr,
        )
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    code: int = module.main(arguments)
    return code


def _is_here(verb: str) -> bool:
    return importlib.util.find_spec(f"silly.cli.{verb}") is not None


def _list_verbs(file: TextIO) -> None:
    print("\nverbs (each has a --help of its own; a file of that name is ./NAME):", file=file)
    for verb, what in VERBS.items():
        if _is_here(verb):
            print(f"  silly {verb:<9} {what}", file=file)
