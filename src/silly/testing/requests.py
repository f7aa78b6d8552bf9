"""Requests to an HTTP handler, without a socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from silly.testing.memory import memory_pair

if TYPE_CHECKING:
    from silly.net.conn import Conn
    from silly.net.http import Handler, Reply
    from silly.net.limits import Limits

__all__ = ["ask"]

TIMEOUT: Final = 30.0  # seconds


async def ask(
    handler: Handler, method: str, url: str, *, limits: Limits | None = None, **options: Any
) -> Reply:
    """Send one request to *handler*, over a connection in memory; return the reply.

    ::

        reply = await testing.ask(routes, "POST", "/users", json={"name": "Alice"})
        assert reply.status == 201
        assert await reply.json() == {"id": 1, "name": "Alice"}

    All of HTTP takes part: what is sent is parsed, limits hold, an `HTTPError` is answered.
    The whole body has arrived when this returns. It needs the extra ``silly-net[http]``.

    Args:
        handler: what `silly.net.http.listen` is given: a function, or a `Router`.
        url: a path such as ``"/users?page=2"``, or a whole URL.
        limits: as for `silly.net.http.listen`; None: the defaults.
        options: those of `silly.net.http.Client.request`, such as ``params=``, ``headers=``,
            ``data=`` and ``json=``.

    Raises:
        Exception: what *handler* has raised, or its middleware or the making of the response,
            if that was no `HTTPError`; a server answers with 500.
        TimeoutError: the reply was not complete within 30 seconds (``timeout=``).
    """
    from silly.net.http import Client, Service  # noqa: PLC0415 - needs an extra
    from silly.net.limits import Limits  # noqa: PLC0415

    crashes: list[BaseException] = []
    serving: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()

    class InMemory(Client):
        async def _connect(self, origin: Any) -> Conn:  # noqa: ARG002 - there is one server
            ours, theirs = memory_pair()
            serving.append(loop.create_task(service(theirs)))
            return ours

    class Raising(Service):
        def log_crash(self, request: Any, error: BaseException) -> None:  # noqa: ARG002
            crashes.append(error)

    service = Raising(handler, limits or Limits())
    service.begin(loop, "memory")
    options.setdefault("timeout", TIMEOUT)
    try:
        async with InMemory(base_url="http://testserver", read_timeout=None) as client:
            return await client.request(method, url, **options)
    finally:
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        if crashes:
            raise crashes[0]
