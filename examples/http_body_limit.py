"""Refuses bodies above 1 MiB, however they are sent: ``silly examples/http_body_limit.py``."""

from silly.net import http
from silly.net.limits import Limits

routes = http.Router()


@routes.post("/upload")
async def upload(request: http.Request) -> http.Response:
    """Count the bytes of a body while it arrives."""
    size = 0
    async for piece in request:
        size += len(piece)
    return http.json({"bytes": size})


http.listen("127.0.0.1:8080", routes, limits=Limits(max_body_bytes=1024 * 1024))
