"""``silly repl``: a Python prompt inside a running event loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

import silly
from silly import runtime
from silly._values.extras import install_command
from silly.cli.command import INTERRUPTED, Failure, GroupedCommand, run
from silly.cli.prompting.session import Session, show
from silly.net import tcp

__all__ = ["main"]

FAILED: Final = 1

_EPILOG: Final = """\
Ctrl-C ends the await or the line; Ctrl-D leaves, and closes what is open. Handlers and
forked tasks run while the prompt waits. What was entered is remembered, for this user
only, in silly/repl_history in XDG_STATE_HOME or ~/.local/state.

Examples:
  silly repl
      >>> conn = await tcp.connect("localhost:9999")
      >>> await conn.write(b"hello\\n")
      >>> await conn.read(b"\\n", timeout=1)
      b'hello\\n'
  silly repl app.py
      run app.py first: its listeners serve, its names are there
  echo 'await tcp.connect("localhost:9999")' | silly repl
      in a pipe: each statement in turn; values of expressions are printed

Exit codes:
  0    Ctrl-D, or the end of the input
  1    in a pipe: a statement raised an exception, and those after it were not run
  2    wrong usage
  130  in a pipe: interrupted
  N    exit(N)
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``silly repl`` with *arguments* and return the exit code."""
    return run(_repl, "repl", arguments)


@click.command(cls=GroupedCommand, epilog=_EPILOG)
@click.argument("file", required=False)
def _repl(file: str | None) -> int:
    """Open a Python prompt inside a running event loop, in which await works.

    silly, asyncio and silly.net.tcp are imported. With FILE, that script is run first.
    """
    script = None
    if file is not None:
        try:
            script = Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise Failure(f"cannot read {file!r}: {error}") from None
    is_interactive = sys.stdin is not None and sys.stdin.isatty()
    piped = "" if is_interactive or sys.stdin is None else sys.stdin.read()
    namespace = _namespace(file)
    try:
        runtime.run(_main(namespace, file, script, None if is_interactive else piped), grace=0)
    except SystemExit as leave:
        if leave.code is None or isinstance(leave.code, int):
            return leave.code or 0
        print(leave.code, file=sys.stderr)
        return FAILED
    return 0


def _namespace(file: str | None) -> dict[str, Any]:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = [file or ""]
    sys.path.insert(0, str(Path(file).resolve().parent) if file else "")
    module.__dict__.update(silly=silly, asyncio=asyncio, tcp=tcp)
    if file is not None:
        module.__file__ = file
    return module.__dict__


async def _main(
    namespace: dict[str, Any], file: str | None, script: str | None, piped: str | None
) -> None:
    session = Session(namespace)
    with session.interruptible():
        if script is not None:
            code = await _run_all(session, script, str(file), shows=False)
            if code and piped is not None:
                raise SystemExit(code)
        if piped is not None:
            raise SystemExit(await _run_all(session, piped, "<stdin>", shows=True))
        await _converse(session)
        raise SystemExit(0)  # ends the program, although it may listen


async def _run_all(session: Session, text: str, name: str, *, shows: bool) -> int:
    """Run *text*; return the exit code."""
    try:
        statements = session.statements(text, name, shows=shows)
    except (SyntaxError, ValueError) as error:
        show(error.with_traceback(None))
        return FAILED
    try:
        for code in statements:
            if not await session.run(code):
                return FAILED
    except KeyboardInterrupt:
        print("KeyboardInterrupt", file=sys.stderr)
        return INTERRUPTED
    return 0


async def _converse(session: Session) -> None:
    try:
        from silly.cli.prompting.prompt import Prompt  # noqa: PLC0415 - an extra
    except ImportError:
        raise SystemExit(
            f"silly repl: the prompt needs prompt_toolkit: {install_command('cli')}"
        ) from None
    python = sys.version.partition(" ")[0]
    print(
        f"silly {silly.__version__} ({silly.engine()} engine, Python {python})\n"
        "await works here; silly, asyncio and tcp are imported. Ctrl-D leaves."
    )
    logging.lastResort = logging.StreamHandler(_Stderr())  # above the prompt
    prompt = Prompt(session)
    while True:
        try:
            code = await prompt.ask()
            if code is not None:
                await session.run(code)
        except KeyboardInterrupt:
            print("\nKeyboardInterrupt", file=sys.stderr)
        except EOFError:
            return


class _Stderr:
    """The standard error of the moment."""

    def write(self, text: str) -> object:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
