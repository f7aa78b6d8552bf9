"""What is entered in ``silly repl`` is compiled and run here, in the running event loop.

Each piece runs in a task of its own, in one context, so that context variables stay set.
Ctrl-C cancels that task; if the task itself is running, it raises KeyboardInterrupt in it.
"""

from __future__ import annotations

import ast
import asyncio
import codeop
import contextvars
import inspect
import linecache
import signal
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from silly._logs.tracebacks import clarify
from silly._loop.signals import handling

__all__ = ["Session"]


class Session:
    """The namespace, and what has been run in it."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._compile = codeop.CommandCompiler()
        self._compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._count = 0
        self._task: asyncio.Task[BaseException | None] | None = None
        self._is_interrupted = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """In this block, Ctrl-C ends what runs, and not the program."""
        with handling(self._loop, {signal.SIGINT: self._interrupt}):
            yield

    def _interrupt(self, _number: int, _frame: types.FrameType | None) -> None:
        if self._task is None or self._task.done():
            return
        # The second time, something else blocks the event loop: interrupt that.
        if asyncio.current_task(self._loop) is self._task or self._is_interrupted:
            raise KeyboardInterrupt
        self._is_interrupted = True
        self._loop.call_soon_threadsafe(self._task.cancel)

    def compile(self, text: str) -> types.CodeType | None:
        """Return the code of *text*; None if it is not complete.

        Raises:
            SyntaxError, ValueError, OverflowError: it is no Python.
        """
        name = f"<repl {self._count + 1}>"
        code = self._compile(text, name)
        if code is not None:
            self._remember(name, text)
        return code

    def statements(self, text: str, name: str, *, shows: bool) -> list[types.CodeType]:
        """Return the code of each statement in *text*, the content of the file *name*.

        With *shows*, it prints the values of expressions; otherwise it is a single piece.

        Raises:
            SyntaxError, ValueError: it is no Python.
        """
        self._remember(name, text)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        parsed = compile(text, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        if not shows:
            return [compile(parsed, name, "exec", flags, dont_inherit=True)]
        for node in parsed.body:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                flags |= _future_flags(node)
        return [
            compile(ast.Interactive([node]), name, "single", flags, dont_inherit=True)
            for node in parsed.body
        ]

    def _remember(self, name: str, text: str) -> None:
        """Let tracebacks show lines of *text*."""
        self._count += 1
        lines = text.splitlines(keepends=True)
        linecache.cache[name] = len(text), None, lines, name

    async def run(self, code: types.CodeType) -> bool:
        """Run *code*; print its exception, if it raises one, and return whether it did not.

        Raises:
            SystemExit: the code raised it.
            KeyboardInterrupt: it was interrupted.
        """
        self._is_interrupted = False
        self._task = task = self._loop.create_task(
            self._guarded(code), name="repl", context=self._context
        )
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:  # the program is stopping
            task.cancel()
            raise
        if task.cancelled():
            if self._is_interrupted:
                raise KeyboardInterrupt
            print("cancelled", file=sys.stderr)
            return False
        error = task.result()
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise error
        if error is not None:
            show(error)
        return error is None

    async def _guarded(self, code: types.CodeType) -> BaseException | None:
        # A task that raises SystemExit or KeyboardInterrupt would stop the loop.
        try:
            result = eval(code, self.namespace)  # noqa: S307 - it is what the user entered
            if code.co_flags & inspect.CO_COROUTINE:
                await result
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - any exception of the user's code
            return error
        return None


def _future_flags(node: ast.ImportFrom) -> int:
    import __future__  # noqa: PLC0415 - rarely needed

    return sum(getattr(__future__, each.name).compiler_flag for each in node.names)


def show(error: BaseException) -> None:
    """Print the traceback of *error*, without the frames of this package."""
    clarify(error)
    sys.excepthook(type(error), error, error.__traceback__)
