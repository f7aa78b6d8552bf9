"""A virtual clock: when nothing else can happen, time jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

__all__ = ["VirtualClockLoop", "run_virtual"]

T = TypeVar("T")

_IO_WAIT: Final = 0.002  # real seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Polls for I/O and jumps to the next timer instead of waiting for it."""

    loop: VirtualClockLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout <= 0 or self.loop.busy_threads:
            ready: list[Any] = super().select(timeout)
            return ready
        # With sockets (more than the loop's own wake-up pipe), allow for data that
        # is still on its way through the kernel.
        ready = super().select(_IO_WAIT if len(self.get_map()) > 1 else 0)
        if not ready:
            self.loop.jump(timeout)
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """The stock event loop on virtual time.

    `time` starts at 0 and stands still while callbacks run or I/O is ready. Instead
    of waiting for a timer, the loop sets the clock to it. Sockets work as usual, but
    the peer should be in the same loop: another process takes real time, in which
    the clock may jump. While a thread of `run_in_executor` runs, the loop waits for
    it in real time.
    """

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self._now = 0.0
        self.busy_threads = 0
        super().__init__(selector)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Advance the clock by *seconds*."""
        self._now += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run *func* in a thread; the clock does not jump until it returns."""
        future = super().run_in_executor(executor, func, *args)
        self.busy_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *timeout: Any) -> None:
        """Join the threads of `run_in_executor`, in real time."""
        self.busy_threads += 1
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            self.busy_threads -= 1

    def _thread_done(self, _future: asyncio.Future[Any]) -> None:
        self.busy_threads -= 1


def run_virtual(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run *main* on a new `VirtualClockLoop` and return its result, as `asyncio.run` does.

    An hour's sleep takes no time::

        >>> import asyncio
        >>> run_virtual(asyncio.sleep(3600, "done"))
        'done'
    """
    with asyncio.Runner(debug=debug, loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
