"""A virtual clock: time passes only when nothing else can happen, and then at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

__all__ = ["VirtualClockLoop", "run_virtual"]

T = TypeVar("T")

_MOMENT: Final = 0.002  # real seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would wait for its next timer, look for I/O once, then jump."""

    loop: VirtualClockLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout <= 0 or self.loop.threads_at_work:
            ready: list[Any] = super().select(timeout)
            return ready
        # With sockets (more than the loop's own wake-up pipe), a moment for what
        # is on its way through the kernel.
        ready = super().select(_MOMENT if len(self.get_map()) > 1 else 0)
        if not ready:
            self.loop.jump(timeout)
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """The stock event loop on virtual time.

    `time` begins at 0 and stands still while callbacks run or I/O is ready. When
    the loop would wait for a timer, the clock jumps to it instead. Sockets work
    as always; but what another process does takes real time, in which the clock
    may jump: use it with peers in the same loop. While a thread of
    `run_in_executor` works, the loop waits for it in real time.
    """

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self._now = 0.0
        self.threads_at_work = 0
        super().__init__(selector)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Let *seconds* pass at once."""
        self._now += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run *func* in a thread; until it is done, the clock does not jump."""
        future = super().run_in_executor(executor, func, *args)
        self.threads_at_work += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *timeout: Any) -> None:
        """Join the threads of `run_in_executor`, in real time."""
        self.threads_at_work += 1
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            self.threads_at_work -= 1

    def _thread_done(self, _future: asyncio.Future[Any]) -> None:
        self.threads_at_work -= 1


def run_virtual(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run *main* on a new `VirtualClockLoop` and return its result, as `asyncio.run` does.

    An hour's sleep takes no time::

        >>> import asyncio
        >>> run_virtual(asyncio.sleep(3600, "done"))
        'done'
    """
    with asyncio.Runner(debug=debug, loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
