"""``silly echo --http``: answers each request with what it was, like httpbin's ``/anything``.

===============  =====================================================================
path             answer
===============  =====================================================================
``/status/N``    status N (200 to 599), without a body
``/delay/S``     what was asked, after S seconds (60 at most)
``/stream/N``    N lines of JSON, one piece each (1000 at most)
``/bytes/N``     N random bytes (16 MiB at most)
``/sse/N``       N server-sent events, one each second (``/sse``: without end)
any other        what was asked: method, URL, header fields, query and body, as JSON
===============  =====================================================================
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

from silly.cli.echoing.impairment import Impairment, Pace
from silly.cli.echoing.log import Log
from silly.cli.echoing.meter import Meter, host
from silly.net import http
from silly.net.limits import Limits

__all__ = ["service"]

_MOST_DELAY: Final = 60.0  # seconds
_MOST_LINES: Final = 1000
_MOST_BYTES: Final = 16 * 1024 * 1024


def service(limits: Limits, impairment: Impairment, meter: Meter, log: Log) -> http.Service:
    """Return what serves connections in this mode; `http.Service.begin` must be called."""

    async def handle(request: http.Request) -> http.Response:
        try:
            response = await _answer(request)
        except http.HTTPError as error:
            response = http.Response(f"{error.text}\n", error.status, error.headers)
        if impairment.delay:
            await asyncio.sleep(impairment.delay)
        if impairment.drops():
            meter.dropped += 1
            request.conn.close()  # a stream cannot have holes
            await request.conn.wait_closed()
        elif impairment.max_rate:
            response.body = _paced(response.body, impairment.max_rate)
        meter.answers += 1
        log.say(f"{request.remote_addr} {request.method} {request.target} {response.status}")
        return response

    return http.Service(handle, limits, is_logged=False)


# ------------------------------------------------------------------------------- the answers


async def _answer(request: http.Request) -> http.Response:
    _, name, *rest = request.path.split("/")
    special = _SPECIAL.get(name)
    if special is None or len(rest) != 1:
        return _sse(request, "") if name == "sse" and not rest else await _anything(request)
    try:
        answer = special(request, rest[0])
        return answer if isinstance(answer, http.Response) else await answer
    except ValueError as error:
        raise http.HTTPError(400, str(error)) from None


async def _anything(request: http.Request) -> http.Response:
    return _as_json(await _described(request))


async def _described(request: http.Request) -> dict[str, Any]:
    """Return what was asked."""
    form, files, parsed, data = {}, {}, None, ""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        sent = await request.form()
        form = _by_name(sent.pairs)
        files = _by_name([(name, _text(await each.read())) for name, each in sent.files.pairs])
    else:
        body = await request.body()
        data = _text(body)
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            parsed = None
    scheme = "http" if request.tls is None else "https"
    target = request.target
    if target.startswith("/"):
        target = f"{scheme}://{request.headers.get('host', '')}{target}"
    return {
        "method": request.method,
        "url": target,
        "args": _by_name(request.query.pairs),
        "headers": {name.title(): value for name, value in request.headers.items()},
        "origin": host(request.remote_addr),
        "data": data,
        "form": form,
        "files": files,
        "json": parsed,
    }


async def _status(_request: http.Request, text: str) -> http.Response:
    status = int(text)
    fields = {"location": "/"} if status in (301, 302, 303, 307, 308) else {}
    return http.Response(b"", status, fields)


async def _delay(request: http.Request, text: str) -> http.Response:
    seconds = min(float(text), _MOST_DELAY)
    if not seconds >= 0:
        raise ValueError(f"{text} is not a time in seconds")
    await asyncio.sleep(seconds)
    return await _anything(request)


async def _stream(request: http.Request, text: str) -> http.Response:
    count = min(int(text), _MOST_LINES)
    described = await _described(request)
    lines = (json.dumps({"id": number, **described}) + "\n" for number in range(count))
    return http.Response(lines, content_type="application/json")


async def _bytes(_request: http.Request, text: str) -> http.Response:
    size = int(text)
    if not 0 <= size <= _MOST_BYTES:
        raise ValueError(f"{size} is more than {_MOST_BYTES} bytes, or less than none")
    return http.Response(os.urandom(size))


def _sse(_request: http.Request, text: str) -> http.Response:
    return http.events(_ticks(int(text) if text else None))


async def _ticks(count: int | None) -> AsyncIterator[str]:
    number = 0
    while count is None or number < count:
        if number:
            await asyncio.sleep(1)
        yield http.event(json.dumps({"id": number}), id=str(number), event="tick")
        number += 1


_SPECIAL: Final[
    dict[str, Callable[[http.Request, str], Awaitable[http.Response] | http.Response]]
] = {"status": _status, "delay": _delay, "stream": _stream, "bytes": _bytes, "sse": _sse}


def _as_json(value: Any) -> http.Response:
    return http.Response(f"{json.dumps(value, indent=2)}\n", content_type="application/json")


def _by_name(pairs: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Return the values by name: a list where there are several."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: each[0] if len(each) == 1 else each for name, each in found.items()}


def _text(data: bytes) -> str:
    """Return *data* as text; as a ``data:`` URL if it is none (RFC 2397)."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


async def _paced(body: Any, rate: float) -> AsyncIterator[bytes]:
    """Yield *body* no faster than *rate* bytes per second."""
    loop = asyncio.get_running_loop()
    pace = Pace(rate, loop.time())
    async with contextlib.aclosing(_pieces(body)) as pieces:
        async for data in pieces:
            for at in range(0, len(data), pace.piece):
                piece = data[at : at + pace.piece]
                yield piece
                if wait := pace.wait(len(piece), loop.time()):
                    await asyncio.sleep(wait)


async def _pieces(body: Any) -> AsyncGenerator[bytes, None]:
    if hasattr(body, "__aiter__"):
        async with contextlib.aclosing(body) as pieces:
            async for piece in pieces:
                yield _encoded(piece)
    else:
        for piece in (body,) if isinstance(body, str | bytes) else body:
            yield _encoded(piece)


def _encoded(piece: str | bytes) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece
