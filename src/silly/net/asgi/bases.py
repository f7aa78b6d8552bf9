"""What exchanges and their responses stand on.

The native engine has its own (plain.pyx), which take the most usual messages, and encode the most
usual responses, without `Exchange`. These here leave all to it. Which of them are used makes no
difference but for the time it takes.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable
from typing import Any

from silly.net.asgi.types import Application, Message, Scope
from silly.net.http import Request, Response
from silly.net.http.bases import Answer

__all__ = ["Caller", "Cycle", "RawAnswer"]


class Cycle:
    """Steps an application through one request; the base of `Exchange`.

    Awaiting it runs the application, in a context of its own, and returns what `_finished` does.

    Attributes:
        outcome: the response, once it is known; or the error that is to be answered.
        is_complete: nothing more of the response will come.
    """

    outcome: Response | Exception | None = None
    is_complete = False
    is_handed_over = False
    _is_running = False  # the application itself, not a task of its
    _is_over = False  # the response was sent, or the client is gone
    _has_received = False  # the application has called `receive`
    _response: Any = None
    _watching: asyncio.Task[None] | None = None  # whether the client has left
    _coroutine: Any = None

    def __init__(self, owner: Any, app: Application, request: Request, scope: Scope) -> None:
        self._owner = owner
        self._app = app
        self._request = request
        self.scope = scope

    def send(self, message: Message) -> Awaitable[None]:
        """Take a part of the response; wait until there is room for it."""
        return self._send(message)

    async def receive(self) -> Message:
        """Return the next piece of the body; then wait for the client to leave."""
        raise NotImplementedError

    async def _send(self, message: Message) -> None:
        raise NotImplementedError

    def _finished(self, error: BaseException | None) -> object:
        """Note that the application has returned, or failed with *error*."""
        raise NotImplementedError

    def _hand_over(self) -> None:
        """Let another task send the outcome: the application goes on in this one."""
        raise NotImplementedError

    # ----------------------------------------------------------------------- as awaitable

    def __await__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if self._coroutine is None:
            self._context = contextvars.copy_context()
            return self._step(self._start)
        return self._step(self._coroutine.send, None)

    def throw(self, *error: Any) -> Any:
        """Raise *error* where the application waits."""
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        """Close the application's coroutine."""
        if self._coroutine is not None:
            self._context.run(self._coroutine.close)

    def _start(self) -> Any:
        started = self._app(self.scope, self.receive, self.send)
        self._coroutine = started if asyncio.iscoroutine(started) else _await(started)
        return self._coroutine.send(None)

    def _step(self, step: Any, *arguments: Any) -> Any:
        self._is_running = True
        error: BaseException | None = None
        try:
            yielded = self._context.run(step, *arguments)
        except StopIteration:
            pass
        except BaseException as failed:  # noqa: BLE001 - `_finished` raises it, or logs it
            error = failed
        else:
            if self.outcome is not None and not self.is_handed_over:
                self._hand_over()
            return yielded
        finally:
            self._is_running = False
            del arguments
        try:
            result = self._finished(error)
        finally:
            error = None  # its traceback refers to this frame
        raise StopIteration(result)


async def _await(awaitable: Any) -> None:
    await awaitable


class RawAnswer(Answer):
    """A response whose header fields are those of the application; the base of `RawResponse`."""

    def __init__(self, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        self.body: Any = b""
        self.status = status
        self.fields = fields
        self.size: int | None = None  # what the application says of its body


class Caller:
    """Calls an application; the base of `ApplicationHandler`."""

    def __init__(self, app: Application, root_path: str, state: dict[str, Any]) -> None:
        self._app = app
        self._root_path = root_path
        self._state = state

    def __call__(self, request: Request) -> Awaitable[object]:
        """Return an awaitable of the application's response to *request*."""
        return self._call(request)

    def _call(self, request: Request) -> Awaitable[object]:
        raise NotImplementedError
