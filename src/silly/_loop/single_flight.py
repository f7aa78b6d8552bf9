"""Concurrent calls with equal arguments share one call.

A *flight* is one call of the function, in a task of its own, and those who wait for it. There is
never one that nobody waits for: the last of them to be cancelled takes the flight along.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, Final, Generic, ParamSpec, TypeVar

from silly._loop.registry import PerLoop

__all__ = ["SingleFlight", "single_flight"]

P = ParamSpec("P")
T = TypeVar("T")


def single_flight(fn: Callable[P, Awaitable[T]]) -> SingleFlight[P, T]:
    """Return a function that calls *fn* once for all concurrent calls with equal arguments.

    ::

        @task.single_flight
        async def load(user_id):
            return await database.get(user_id)

        user = await load(42)    # a hundred tasks do this at once: the database is asked once
        load.forget(42)          # who calls from now on gets what is there from now on

    Nothing is remembered: when a call has ended, the next one calls *fn* again.

    - **The result** is the same object for all. If *fn* raises, all get the same exception, and
      the next call tries again.
    - **A caller that is cancelled**, or runs into a timeout, leaves; the call goes on for the
      others. When the last one is cancelled, so is the call, and that caller waits until it has
      ended, as if it had called *fn* itself.
    - **A call from within itself** would wait for itself: it raises `RuntimeError`, also if
      other single flights lie between.
    - **Each event loop** has its own calls. They end with their callers; a loop that is
      closed takes its own along.

    Args:
        fn: a coroutine function. It runs in a task of its own, in the context
            (`contextvars`) of the first caller. Its arguments must be hashable. They are
            compared as the keys of a `dict` are, as they are written: ``load(1)`` and
            ``load(user_id=1)`` are two calls.

    Raises:
        TypeError: *fn* is not callable; or, when called, an argument is not hashable.
    """
    if not callable(fn):
        raise TypeError(f"fn must be a coroutine function, not {type(fn).__name__}")
    return SingleFlight(fn)


class SingleFlight(Generic[P, T]):
    """What `single_flight` returns: call it as the function that it was made of."""

    def __init__(self, fn: Callable[P, Awaitable[T]]) -> None:
        self._fn = fn
        functools.update_wrapper(self, fn)

    def __set_name__(self, owner: type, name: str) -> None:
        raise TypeError(
            f"single_flight() is for functions, not for methods such as {owner.__name__}.{name}: "
            f"write self.{name} = single_flight(self._{name}) in __init__"
        )

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the call in flight returns; if there is none, begin one."""
        flights = _flights.of(asyncio.get_running_loop())
        key = self._key(args, kwargs)
        flight = flights.get(key)
        if flight is None or flight.task.done():
            flight = _Flight(self._fn, args, kwargs)
            flights[key] = flight
            flight.task.add_done_callback(functools.partial(_ended, flights, key, flight))
        elif flight.waits_for(_current.get()):
            raise RuntimeError(f"{self._name}{_written(args, kwargs)} would wait for itself")
        result: T = await flight.join(functools.partial(_ended, flights, key, flight))
        return result

    def forget(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the next call with these arguments call the function again.

        For after a change: a call that is in flight may have seen what was before. It goes
        on for those who wait for it already. If there is none, nothing happens.
        """
        _flights.of(asyncio.get_running_loop()).pop(self._key(args, kwargs), None)

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        return self, args, frozenset(kwargs.items())

    @property
    def _name(self) -> str:
        return str(getattr(self._fn, "__qualname__", self._fn))


class _Flight:
    """One call, and how many wait for it."""

    __slots__ = ("callees", "task", "waiting")

    def __init__(
        self, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.waiting = 0
        self.callees: list[_Flight] = []  # what its own code waits for
        self.task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(
            self._call(fn, args, kwargs), name=f"single flight of {getattr(fn, '__name__', fn)}"
        )

    async def _call(
        self, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        _current.set(self)
        result = fn(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    async def join(self, abandon: Callable[[], object]) -> Any:
        """Wait for the call; the last to be cancelled calls *abandon* and cancels it."""
        caller = _current.get()
        self.waiting += 1
        if caller is not None:
            caller.callees.append(self)
        try:
            while not self.task.done():
                try:
                    await asyncio.wait((self.task,))
                except asyncio.CancelledError as error:
                    if self.waiting > 1 or self.task.done():
                        raise
                    abandon()  # first, so that nobody joins it any more
                    self.task.cancel(*error.args)
        finally:
            self.waiting -= 1
            if caller is not None:
                caller.callees.remove(self)
        return self.task.result()

    def waits_for(self, other: _Flight | None) -> bool:
        """Return whether this call can end only after *other* has."""
        if other is None or other.task.done():  # a task that it forked may outlive a call
            return False
        return any(each is other for each in self._chain())

    def _chain(self) -> Iterator[_Flight]:
        seen, left = set[_Flight](), [self]
        while left:
            flight = left.pop()
            if flight not in seen:
                seen.add(flight)
                left += flight.callees
                yield flight


def _ended(flights: dict[Hashable, _Flight], key: Hashable, flight: _Flight, *_: object) -> None:
    if flights.get(key) is flight:
        del flights[key]


def _written(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return f"({', '.join([*map(repr, args), *(f'{name}={kwargs[name]!r}' for name in kwargs)])})"


_flights: Final = PerLoop[dict[Hashable, _Flight]]("flights", lambda _loop: {})
_current: ContextVar[_Flight | None] = ContextVar("silly_flight", default=None)
