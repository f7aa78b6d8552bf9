"""Running a program: until it is done, or told to stop; then the drain.

A program is done when its main coroutine has returned and nothing is left to
stay up for (`silly._live`): no listener, no connection, no forked task, no
pending timer.

SIGINT and SIGTERM drain: listeners stop accepting and let their handlers finish
for up to the grace period, then cancel, then abort; forked tasks and the main
coroutine are cancelled once the handlers are done. A second signal ends the
grace period at once; the same one within a tenth of a second is not a second one
(`silly._signals.Presses`). All of this is a normal end. Forked children have none
of these handlers.

SIGUSR1 prints what every listener, connection and task is doing on standard
error (`silly._inspection`), and the program goes on.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import io
import logging
import os
import signal
import sys
import threading
import types
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from silly import _control, _inspection, stdio
from silly._arguments import seconds
from silly._blocking import blocking_reported
from silly._engine import engine
from silly._live import AFTER_CANCEL, OWN_TASK, Live
from silly._logger import Logger
from silly._signals import Presses, break_off, handling
from silly._tracebacks import clarify
from silly.log import DroppingHandler, unconfigured_logging_drops
from silly.net import resolving
from silly.systemd import Service

__all__ = ["GRACE", "run", "run_function", "run_script"]

T = TypeVar("T")

logger = Logger("silly.runtime")

GRACE: Final = 5.0  # seconds
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run(
    main: Coroutine[Any, Any, T],
    *,
    grace: float = GRACE,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T | None:
    """Run *main* in a new event loop, and stay up while there is something to stay up for.

    As `asyncio.run`, but: after *main* returned, listeners, connections, forked
    tasks and pending timers are waited for; and SIGINT and SIGTERM drain the
    program (handlers may finish) instead of raising `KeyboardInterrupt`. A
    second signal ends the drain at once. Names that are being resolved, also for
    libraries that ask the event loop (``loop.getaddrinfo``), are not waited for.

    Args:
        main: a coroutine.
        grace: seconds that handlers have to finish after a signal.
        debug: asyncio's debug mode; None leaves it to ``PYTHONASYNCIODEBUG``.
        loop_factory: makes the event loop, such as ``uvloop.new_event_loop``.

    Returns:
        What *main* returned; None if a signal ended it before.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
        RuntimeError: an event loop is running in this thread already.
        BaseException: whatever *main* raised, after everything was closed.
    """
    if not isinstance(main, Coroutine):
        hint = ": call it, as in silly.run(main())" if callable(main) else ""
        raise TypeError(f"main must be a coroutine, not {type(main).__name__}{hint}")
    try:
        seconds(grace, "grace")
        if _is_loop_running():
            raise RuntimeError(
                "silly.run() cannot be called while an event loop is running; under "
                "`silly FILE.py` one is: write `await main()` at the top level instead"
            )
        stdio.reserve()
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            result: T | None = runner.run(_Program(main, grace).run())
            return result
    finally:
        main.close()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Overseer(Protocol):
    """Who is told how the program does."""

    def running(self, *, started: bool, listening: bool) -> None:
        """The main coroutine waits, or has returned (*started*)."""

    def stopping(self, *, told: bool) -> None:
        """It stops: because it was *told* to, or by itself."""

    def ended(self) -> None:
        """All is closed."""


class _Program:
    """One run of a main coroutine, with its signals."""

    def __init__(self, main: Coroutine[Any, Any, Any], grace: float) -> None:
        self._main = main
        self._grace = grace
        self._signals = 0
        self._presses = Presses()
        self._reacted = False  # the loop has seen the first signal

    async def run(self) -> Any:
        self._loop = loop = asyncio.get_running_loop()
        self._live = Live.of(loop)
        # What libraries ask for is not waited for at the end, either.
        loop.getaddrinfo = resolving.getaddrinfo  # type: ignore[method-assign]
        self._signalled = asyncio.Event()
        if (runs := asyncio.current_task()) is not None:
            runs.set_name(f"{OWN_TASK}program")
        main = loop.create_task(self._guard(), name="main")
        # The last to be told is the overseer, while SIGUSR1 still does no harm.
        watched = blocking_reported(loop) if _is_script() else contextlib.nullcontext()
        with watched, self._signals_caught(), _reporting(loop), self._overseen(main):
            try:
                done = loop.create_task(self._until_done(main), name=f"{OWN_TASK}waiting")
                signalled = loop.create_task(self._signalled.wait(), name=f"{OWN_TASK}signals")
                await asyncio.wait((done, signalled), return_when=asyncio.FIRST_COMPLETED)
                signalled.cancel()
                if self._reacted or not done.done():
                    done.cancel()
                    await self._drain(main)
            finally:
                await self._end_now(main)
        if main.cancelled():
            return None
        result, leave = main.result()
        if leave is not None:
            raise leave
        return result

    async def _guard(self) -> tuple[Any, BaseException | None]:
        # A task that lets SystemExit out stops the loop in mid-air.
        try:
            return await self._main, None
        except (SystemExit, KeyboardInterrupt) as leave:
            return None, leave

    async def _until_done(self, main: asyncio.Task[Any]) -> None:
        await asyncio.wait((main,))
        if main.cancelled() or main.exception() is not None or main.result()[1] is not None:
            return
        self._overseer.running(started=True, listening=bool(self._live.listeners))
        await self._live.wait_empty()

    async def _drain(self, main: asyncio.Task[Any]) -> None:
        live = self._live
        closings = [listener.close(self._grace) for listener in list(live.listeners)]
        if closings:
            await asyncio.gather(*closings, return_exceptions=True)
        for timer in list(live.timers):
            timer.cancel()
        tasks = {main, *live.tasks}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=AFTER_CANCEL)
        for conn in list(live.conns):
            conn.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AFTER_CANCEL):
                await live.wait_empty()

    async def _end_now(self, main: asyncio.Task[Any]) -> None:
        self._overseer.stopping(told=False)
        await self._live.end(main)

    # --------------------------------------------------------------- overseer

    @contextlib.contextmanager
    def _overseen(self, main: asyncio.Task[Any]) -> Iterator[None]:
        loop, live = self._loop, self._live
        if _control.worker is not None and _control.worker.awaits_program:
            _control.worker.attach(loop, main, self._stop)
            self._overseer: _Overseer = _control.worker
        else:
            self._overseer = Service(loop)

        def report() -> None:
            if not main.done():
                self._overseer.running(started=False, listening=bool(live.listeners))

        told: weakref.WeakSet[Any] = weakref.WeakSet()

        def listens() -> None:
            report()
            new = [each for each in live.listeners if each not in told]
            told.update(new)
            for listener in new if _control.worker is None else ():
                addrs = ", ".join(listener.local_addrs)
                _notify("listening on %s (%s engine); Ctrl-C or SIGTERM stops", addrs, engine.NAME)

        live.when_listening = lambda: loop.call_soon(listens)
        loop.call_soon(report)  # after the first step of main
        try:
            yield
        finally:
            live.when_listening = None
            self._overseer.ended()

    def _stop(self, grace: float | None) -> None:
        """Drain as after a signal, within *grace* seconds if they are fewer than ours."""
        if grace is not None:
            self._grace = min(self._grace, grace)
        if not self._reacted or grace == 0:
            self._react()

    # ----------------------------------------------------------------- signals

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with handling(self._loop, dict.fromkeys(_SIGNALS, self._on_signal)):
            yield

    def _on_signal(self, number: int, _frame: types.FrameType | None) -> None:
        if not self._presses.is_another(number):
            return
        self._signals += 1
        if self._signals > 1 and not self._reacted:
            raise KeyboardInterrupt  # the program's own code holds the loop: break in
        self._loop.call_soon_threadsafe(self._react)
        break_off()

    def _react(self) -> None:
        if not self._reacted:
            self._reacted = True
            self._signalled.set()
            self._overseer.stopping(told=True)
            handlers = sum(listener.connections for listener in self._live.listeners)
            if handlers and self._grace and _control.worker is None:
                _notify(
                    "stopping; waiting up to %s s for %d connection%s (again to stop now)",
                    f"{self._grace:g}",
                    handlers,
                    "s"[: handlers > 1],
                    always=True,
                )
        else:
            self._grace = 0
            for listener in self._live.listeners:
                listener.close(0)


def _is_script() -> bool:
    """Tell whether the program is run by ``silly FILE.py``, which says what it does."""
    return isinstance(logging.lastResort, DroppingHandler)


def _notify(message: str, *args: object, always: bool = False) -> None:
    """Tell whoever started the program what it does, in its log or on standard error.

    Where a program that is not run by ``silly FILE.py`` configures no logging, only what
    *always* is to be told. A full pipe holds nothing up.
    """
    last = logging.lastResort
    if logging.getLogger().handlers:
        logger.info(message, *args)
    elif isinstance(last, DroppingHandler):
        if last.level <= logging.INFO:  # whatever the level of the loggers is
            last.handle(logging.LogRecord("silly", logging.INFO, "", 0, message, args, None))
    elif always:
        notice = DroppingHandler()
        notice.write(f"silly: {message % args}\n")
        notice.close()


@contextlib.contextmanager
def _reporting(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Answer SIGUSR1 with a report of what the program is doing, on standard error.

    Not through the loop: the report matters most when something holds that up.
    """
    number = getattr(signal, "SIGUSR1", None)  # Windows has none
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(number) is not signal.SIG_DFL:  # the program has its own use for it
        yield
        return

    # Not the log, nor print(): this may interrupt either, and nobody may read it.
    output = stdio.Dropper(lambda: stdio.descriptor_of(sys.__stderr__), "reports")

    def report(_number: int, frame: types.FrameType | None) -> None:
        running = frame if asyncio.current_task(loop) is not None else None
        try:
            text = _inspection.report(loop, running)
        except Exception:  # this may be in the middle of anything
            logger.exception("cannot report")
            return
        output.write(text.encode("utf-8", "backslashreplace"))
        loop.call_soon_threadsafe(output.retry_later)

    try:
        with handling(loop, {number: report}):
            yield
    finally:
        output.close()


# -------------------------------------------------------------------- script mode


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
        args: what follows it in `sys.argv`.
        grace: seconds that handlers have to finish after a signal.
        debug: asyncio's debug mode, and whole tracebacks.
        loop_factory: makes the event loop.
        before: called in the loop before the script begins.

    Returns:
        The exit code: 0; 1 after an exception, whose traceback was printed; or
        what the script gave to `sys.exit`.

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
        # Resolved, as Python does: a symbolic link may lead elsewhere before the last import.
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
    """Call ``module:function`` inside a running loop, and stay up as `run_script` does.

    Args:
        target: a module that can be imported from the current directory, and a
            function (or coroutine function) in it that takes no argument.
        args: what follows *target* in `sys.argv`.
        grace, debug, loop_factory, before: as for `run_script`.

    Returns:
        The exit code, as `run_script`.
    """

    async def call() -> None:
        if before is not None:
            before()
        name, _, attribute = target.partition(":")
        try:
            function = getattr(importlib.import_module(name), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # it is there, and imports what is not
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
        with unconfigured_logging_drops():
            run(start(), grace=grace, debug=debug or None, loop_factory=loop_factory)
    except SystemExit as leave:
        return _exit_code(leave)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException as error:  # noqa: BLE001 - it is the script's, and is shown
        if _control.is_told(error) and not debug:
            return 1
        clarify(error, whole=debug)
        with stdio.unhurried_errors():
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
    with stdio.unhurried_errors():
        print(leave.code, file=sys.stderr)
    return 1
