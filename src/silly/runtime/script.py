"""Running a script or a function inside an event loop, as ``silly FILE.py`` does."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import io
import os
import signal
import sys
import types
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from silly import stdio
from silly._logs.tracebacks import clarify
from silly.log import dropping_last_resort
from silly.runtime.program import GRACE, has_reported, run

__all__ = ["run_function", "run_script"]


def run_script(
    path: str,
    args: Sequence[str] = (),
    *,
    grace: float = GRACE,
    debug: bool = False,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    before: Callable[[], object] | None = None,
) -> int:
    """Run the Python file *path* inside a running loop; ``await`` works at its top level.

    Args:
        path: the file; becomes ``__main__``.
        args: the arguments that follow it in `sys.argv`.
        grace: seconds for handlers to finish after a signal.
        debug: asyncio's debug mode, and complete tracebacks.
        loop_factory: makes the event loop.
        before: called in the loop before the script starts.

    Returns:
        The exit code: 0; 1 after an exception, whose traceback was printed; or the
        argument of the script's `sys.exit`.

    Raises:
        OSError: the file cannot be read.
    """
    with io.open_code(path) as file:
        source = file.read()

    def start() -> Coroutine[Any, Any, None]:
        code = compile(
            source, path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        sys.argv = [path, *args]
        # Resolved, as Python does: a symbolic link may change before the last import.
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))  # noqa: PTH120
        module = types.ModuleType("__main__")
        module.__file__ = path
        sys.modules["__main__"] = module
        return _execute(code, module.__dict__, before)

    return _run_program(start, grace, debug=debug, loop_factory=loop_factory)


def run_function(
    target: str,
    args: Sequence[str] = (),
    *,
    grace: float = GRACE,
    debug: bool = False,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    before: Callable[[], object] | None = None,
) -> int:
    """Call ``module:function`` inside a running loop, then wait as `run_script` does.

    Args:
        target: a module that can be imported from the current directory, and a
            function (or coroutine function) in it that takes no arguments.
        args: the arguments that follow *target* in `sys.argv`.
        grace, debug, loop_factory, before: see `run_script`.

    Returns:
        The exit code; see `run_script`.
    """

    async def call() -> None:
        if before is not None:
            before()
        name, _, attribute = target.partition(":")
        try:
            function = getattr(importlib.import_module(name), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module exists; an import in it failed
            sys.exit(f"silly: there is no module {error.name!r} here for {target!r}")
        except AttributeError:
            sys.exit(f"silly: module {name!r} has no function {attribute!r}")
        result = function()
        if inspect.isawaitable(result):
            await result

    sys.argv = [target, *args]
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    return _run_program(call, grace, debug=debug, loop_factory=loop_factory)


def _run_program(
    start: Callable[[], Coroutine[Any, Any, None]],
    grace: float,
    *,
    debug: bool,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
) -> int:
    try:
        with dropping_last_resort():
            run(start(), grace=grace, debug=debug or None, loop_factory=loop_factory)
    except SystemExit as leave:
        return _exit_code(leave)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException as error:  # noqa: BLE001 - any exception of the script
        if has_reported(error) and not debug:
            return 1
        clarify(error, whole=debug)
        with stdio.nonblocking_errors():
            sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


async def _execute(
    code: types.CodeType, namespace: dict[str, Any], before: Callable[[], object] | None
) -> None:
    if before is not None:
        before()
    result = eval(code, namespace)  # noqa: S307 - running the user's script is the purpose
    if code.co_flags & inspect.CO_COROUTINE:
        await result


def _exit_code(leave: SystemExit) -> int:
    if leave.code is None:
        return 0
    if isinstance(leave.code, int):
        return leave.code
    with stdio.nonblocking_errors():
        print(leave.code, file=sys.stderr)
    return 1
