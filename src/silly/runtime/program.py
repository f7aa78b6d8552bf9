"""Running a program until it is done or told to stop, and draining it.

A program is done when its main coroutine has returned and nothing keeps it running
(`silly._loop.live`): no listener, connection, UDP socket, forked task or pending timer.

SIGINT and SIGTERM drain the program: UDP sockets are closed, which ends the loops over
them; listeners stop accepting and give their handlers the grace period to finish, then
cancel them, then reset connections; forked tasks and the main coroutine are cancelled once
the handlers are done. A second signal ends the grace period at once; a duplicate within a
tenth of a second does not count (`silly._loop.signals.Debouncer`). All of this is a normal
end. Forked children have none of these handlers.

SIGUSR1 prints on standard error what every listener, connection and task is doing
(`silly.runtime.inspection`); the program continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
import types
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from silly import stdio
from silly._engine import engine
from silly._logs.logger import Logger
from silly._loop import reloading
from silly._loop.live import AFTER_CANCEL, INTERNAL_TASK, Live
from silly._loop.signals import ControllingTerminal, Debouncer, handling, interrupt_wait
from silly._values.arguments import seconds
from silly._values.units import counted
from silly.log import DroppingHandler
from silly.net import resolving
from silly.runtime import inspection
from silly.runtime.blocking import report_blocking
from silly.systemd import Service

__all__ = ["GRACE", "Overseer", "has_reported", "listed", "loop_factory", "run", "use_overseer"]

T = TypeVar("T")

logger = Logger("silly.runtime")

GRACE: Final = 5.0  # seconds
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_PASSES: Final = 3  # of the loop, for loops over datagram sockets to end
_LISTENING: Final = "listening on %s (%s engine); Ctrl-C or SIGTERM stops"


def run(
    main: Coroutine[Any, Any, T],
    *,
    grace: float = GRACE,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T | None:
    """Run *main* in a new event loop, then wait for what keeps the program running.

    Unlike `asyncio.run`, it waits, after *main* has returned, for listeners,
    connections, UDP sockets, forked tasks and pending timers; and SIGINT and SIGTERM drain the
    program (handlers may finish) instead of raising `KeyboardInterrupt`. A second
    signal ends the drain at once. The exit does not wait for name resolution that is in
    progress, even if a library started it (``loop.getaddrinfo``).

    Args:
        main: a coroutine.
        grace: seconds for handlers to finish after a signal.
        debug: asyncio's debug mode; None leaves it to ``PYTHONASYNCIODEBUG``.
        loop_factory: makes the event loop, such as ``uvloop.new_event_loop``; None:
            `silly.loop_factory`.

    Returns:
        The result of *main*; None if a signal ended it first.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.
        RuntimeError: an event loop is already running in this thread.
        BaseException: the exception of *main*, after everything was closed.
    """
    if not isinstance(main, Coroutine):
        hint = ": call it, as in silly.run(main())" if callable(main) else ""
        raise TypeError(f"main must be a coroutine, not {type(main).__name__}{hint}")
    try:
        seconds(grace, "grace")
        if _is_loop_running():
            raise RuntimeError(
                "silly.run() cannot be called while an event loop is running, as it is "
                "under `silly FILE.py`: write `await main()` at the top level instead"
            )
        stdio.reserve()
        with asyncio.Runner(
            debug=debug, loop_factory=loop_factory or engine.new_event_loop
        ) as runner:
            result: T | None = runner.run(_Program(main, grace).run())
            return result
    finally:
        main.close()


def loop_factory() -> asyncio.AbstractEventLoop:
    """Return a new event loop, the fastest that silly knows, as `run` uses it.

    ::

        with asyncio.Runner(loop_factory=silly.loop_factory) as runner:
            runner.run(main())

    On Linux it is asyncio's own loop with a selector of silly's: it serves connections
    while it waits, and passes control to the loop only when the loop has something to
    do. In every other loop (``asyncio.run``, uvloop) connections are served as well, in a
    callback of the loop. If an event loop policy prefers another kind of
    loop, such as uvloop's, that is returned.
    """
    return engine.new_event_loop()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# --------------------------------------------------------------------- overseer


class _Manager(Protocol):
    """The overseer or the service manager, which is notified of the program's state."""

    def running(
        self,
        *,
        started: bool,
        listening: bool,
        encrypted: Sequence[str],
        datagrams: Sequence[str],
    ) -> None:
        """The main coroutine waits or, if *started*, has returned.

        *encrypted* are the addresses of the listeners that speak TLS, *datagrams* those of
        UDP sockets.
        """

    def stopping(self, *, requested: bool) -> None:
        """The program is stopping, on request or by itself."""

    def ended(self) -> None:
        """Everything is closed."""


class Overseer(_Manager, Protocol):
    """A supervisor: it started this process, and reports on the program in its place."""

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        main: asyncio.Task[Any],
        stop: Callable[[float | None], object],
    ) -> bool:
        """Oversee the program whose *main* runs in *loop*; return False to leave it alone.

        *stop* drains the program, with the grace that it is given if that is shorter than
        the program's (None: with the program's).
        """

    def has_reported(self, error: BaseException) -> bool:
        """Return whether *error* was reported already, so that the program need not do it."""


_overseer: Overseer | None = None


def use_overseer(overseer: Overseer | None) -> None:
    """Have *overseer* oversee this process's program, instead of systemd; None: no longer."""
    global _overseer  # noqa: PLW0603 - one per process
    _overseer = overseer


def has_reported(error: BaseException) -> bool:
    """Return whether the overseer, if there is one, has reported *error*."""
    return _overseer is not None and _overseer.has_reported(error)


# ---------------------------------------------------------------------- program


def listed(addrs: Sequence[str], encrypted: Collection[str]) -> str:
    """Return *addrs*, where a program listens, for people; those *encrypted* are marked."""
    return ", ".join(f"{addr} (TLS)" if addr in encrypted else addr for addr in addrs)


class _Program:
    """One run of a main coroutine, with its signal handling."""

    def __init__(self, main: Coroutine[Any, Any, Any], grace: float) -> None:
        self._main = main
        self._grace = grace
        self._signals = 0
        self._debouncer = Debouncer()
        self._is_stopping = False  # the loop has handled the first signal

    async def run(self) -> Any:
        self._loop = loop = asyncio.get_running_loop()
        self._live = Live.of(loop)
        # The exit must not wait for name resolution by libraries either.
        loop.getaddrinfo = resolving.getaddrinfo  # type: ignore[method-assign]
        self._signalled = asyncio.Event()
        if (current := asyncio.current_task()) is not None:
            current.set_name(f"{INTERNAL_TASK}program")
        main = loop.create_task(self._guard(), name="main")
        # The manager is notified last, while SIGUSR1 is still handled.
        watched = report_blocking(loop) if _is_script() else contextlib.nullcontext()
        with (
            watched,
            self._signals_caught(),
            _reporting(loop),
            self._overseen(main),
            self._reloading(),
        ):
            try:
                done = loop.create_task(self._until_done(main), name=f"{INTERNAL_TASK}waiting")
                signalled = loop.create_task(self._signalled.wait(), name=f"{INTERNAL_TASK}signals")
                await asyncio.wait((done, signalled), return_when=asyncio.FIRST_COMPLETED)
                signalled.cancel()
                if self._is_stopping or not done.done():
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
        # A task that raises SystemExit stops the loop at once, before anything is closed.
        try:
            return await self._main, None
        except (SystemExit, KeyboardInterrupt) as leave:
            return None, leave

    async def _until_done(self, main: asyncio.Task[Any]) -> None:
        await asyncio.wait((main,))
        if main.cancelled() or main.exception() is not None or main.result()[1] is not None:
            return
        self._report_running(started=True)
        await self._live.wait_empty()

    async def _drain(self, main: asyncio.Task[Any]) -> None:
        live = self._live
        if live.sockets:
            live.close_sockets()
            for _ in range(_PASSES):
                await asyncio.sleep(0)
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
        self._live.is_stopping = True
        self._manager.stopping(requested=False)
        await self._live.end(main)

    # ---------------------------------------------------------------- overseer

    @contextlib.contextmanager
    def _overseen(self, main: asyncio.Task[Any]) -> Iterator[None]:
        loop, live = self._loop, self._live
        if _overseer is not None and _overseer.attach(loop, main, self._stop):
            self._manager: _Manager = _overseer
        else:
            self._manager = Service(loop)

        def report() -> None:
            if not main.done():
                self._report_running(started=False)

        reported: weakref.WeakSet[Any] = weakref.WeakSet()

        def listens() -> None:
            report()
            new = [each for each in live.listeners if each not in reported]
            reported.update(new)
            for listener in new if _overseer is None else ():
                local = listener.local_addrs
                addrs = listed(local, local if listener.is_encrypted else ())
                _notify(_LISTENING, addrs, engine.NAME)
            bound = [each for each in live.sockets if each.is_bound and each not in reported]
            reported.update(bound)
            for sock in bound if _overseer is None else ():
                _notify(_LISTENING, f"{sock.local_addr} for UDP", engine.NAME)

        live.on_listening = lambda: loop.call_soon(listens)
        live.stop = self._stop
        loop.call_soon(report)  # after the first step of main
        try:
            yield
        finally:
            live.on_listening = live.stop = None
            self._manager.ended()

    def _report_running(self, *, started: bool) -> None:
        listeners = self._live.listeners
        encrypted = [addr for each in listeners if each.is_encrypted for addr in each.local_addrs]
        datagrams = [each.local_addr for each in self._live.sockets if each.is_bound]
        self._live.is_ready |= bool(started or listeners or datagrams)
        self._manager.running(
            started=started,
            listening=bool(listeners or datagrams),
            encrypted=encrypted,
            datagrams=datagrams,
        )

    def _stop(self, grace: float | None) -> None:
        """Drain as after a signal, with *grace* if it is shorter than the program's."""
        if grace is not None:
            self._grace = min(self._grace, grace)
        if not self._is_stopping or grace == 0:
            self._handle_stop()

    # ----------------------------------------------------------------- SIGHUP

    @contextlib.contextmanager
    def _reloading(self) -> Iterator[None]:
        """On SIGHUP, read again what can be, such as certificates.

        If there is nothing to read, the signal has its default action: it ends the program.
        So it does if the terminal was hung up.
        """
        number = getattr(signal, "SIGHUP", None)  # not on Windows
        is_main = threading.current_thread() is threading.main_thread()
        if number is None or not is_main or _overseer is not None:
            yield
            return
        loop, terminal = self._loop, ControllingTerminal()
        is_over = False

        def on_signal(_number: int, _frame: types.FrameType | None) -> None:
            if terminal.is_gone:  # pragma: no cover - the signal ends the program, uncounted
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            loop.call_soon_threadsafe(self._reload)

        with contextlib.ExitStack() as stack:

            def begin() -> None:
                # Not if the program handles or ignores it itself.
                if not is_over and signal.getsignal(number) is signal.SIG_DFL:
                    stack.enter_context(handling(loop, {number: on_signal}))

            reloading.watch(lambda: loop.call_soon_threadsafe(begin))
            try:
                yield
            finally:
                is_over = True
                reloading.watch(None)

    def _reload(self) -> None:
        service = self._manager if isinstance(self._manager, Service) else None
        if service is not None:
            service.reloading()
        try:
            if what := reloading.reload():
                _notify("SIGHUP: read again: %s", what, always=True)
        finally:
            if service is not None:
                service.ready()

    # ----------------------------------------------------------------- signals

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with handling(self._loop, dict.fromkeys(_SIGNALS, self._on_signal)):
            yield

    def _on_signal(self, number: int, _frame: types.FrameType | None) -> None:
        if not self._debouncer.is_new(number):
            return
        self._signals += 1
        if self._signals > 1 and not self._is_stopping:
            raise KeyboardInterrupt  # interrupt the code that blocks the loop
        self._loop.call_soon_threadsafe(self._handle_stop)
        interrupt_wait()

    def _handle_stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = self._live.is_stopping = True
            self._signalled.set()
            self._manager.stopping(requested=True)
            handlers = sum(listener.connections for listener in self._live.listeners)
            if handlers and self._grace and _overseer is None:
                _notify(
                    "stopping; waiting up to %s s for %s (again to stop now)",
                    f"{self._grace:g}",
                    counted(handlers, "connection"),
                    always=True,
                )
        else:
            self._grace = 0
            for listener in self._live.listeners:
                listener.close(0)


def _is_script() -> bool:
    """Return whether the program is run by ``silly FILE.py``, which reports what it does."""
    return isinstance(logging.lastResort, DroppingHandler)


def _notify(message: str, *args: object, always: bool = False) -> None:
    """Report what the program does, in its log or on standard error, without blocking.

    If the program neither configures logging nor is run by ``silly FILE.py``, only
    messages with *always* are printed. Handlers of silly's loggers that only take warnings are
    no such configuration (`silly echo` has them).
    """
    last = logging.lastResort
    ours = logging.getLogger("silly.runtime")
    if logging.getLogger().handlers or (ours.hasHandlers() and ours.isEnabledFor(logging.INFO)):
        logger.info(message, *args)
    elif isinstance(last, DroppingHandler):
        if last.level <= logging.INFO:  # regardless of the loggers' levels
            last.handle(logging.LogRecord("silly", logging.INFO, "", 0, message, args, None))
    elif always:
        notice = DroppingHandler()
        notice.write(f"silly: {message % args}\n")
        notice.close()


@contextlib.contextmanager
def _reporting(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """On SIGUSR1, print a report of what the program is doing on standard error.

    The signal handler does it, not the loop: the report matters most when the loop is
    blocked.
    """
    number = getattr(signal, "SIGUSR1", None)  # not on Windows
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(number) is not signal.SIG_DFL:  # the program handles it itself
        yield
        return

    # Neither the log nor print(): the signal may have interrupted either, and the output
    # may not be read.
    output = stdio.Dropper(lambda: stdio.descriptor_of(sys.__stderr__), "reports")

    def report(_number: int, frame: types.FrameType | None) -> None:
        running = frame if asyncio.current_task(loop) is not None else None
        try:
            text = inspection.report(loop, running)
        except Exception:  # the signal may interrupt any code
            logger.exception("the report failed")
            return
        output.write(text.encode("utf-8", "backslashreplace"))
        loop.call_soon_threadsafe(output.retry_later)

    try:
        with handling(loop, {number: report}):
            yield
    finally:
        output.close()
