"""``silly echo --websocket``: sends each message of a WebSocket back, at any path."""

from __future__ import annotations

import asyncio

from silly.cli.echoing.impairment import Impairment, Pace
from silly.cli.echoing.log import Log
from silly.cli.echoing.meter import Meter
from silly.net import http, websocket
from silly.net.limits import Limits

__all__ = ["service"]


def service(limits: Limits, impairment: Impairment, meter: Meter, log: Log) -> http.Service:
    """Return what serves connections in this mode; `http.Service.begin` must be called."""

    async def handle(request: http.Request) -> None:
        ws = await websocket.accept(request)
        log.say(f"{request.remote_addr} opened {request.target}")
        loop = asyncio.get_running_loop()
        pace = Pace(impairment.max_rate, loop.time()) if impairment.max_rate else None
        try:
            async for message in ws:
                if impairment.delay:
                    await asyncio.sleep(impairment.delay)
                if impairment.drops():
                    meter.dropped += 1
                    ws.abort()  # a stream cannot have holes
                    break
                await ws.send(message)
                if pace is not None and (wait := pace.wait(len(message), loop.time())):
                    await asyncio.sleep(wait)
                meter.answers += 1
        finally:
            await ws.close(1000)
            reason = f" {ws.close_reason}" if ws.close_reason else ""
            log.say(f"{request.remote_addr} closed {ws.close_code}{reason}")

    return http.Service(handle, limits, is_logged=False)
