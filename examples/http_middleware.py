"""A log, and a bearer token for a part of a site: ``silly examples/http_middleware.py``."""

import hmac
import os
from time import perf_counter

from silly.net import http

TOKEN = os.environ.get("API_TOKEN", "secret")


def logged(handler: http.Handler) -> http.Handler:
    """Print each request, its status and its time."""

    async def handle(request: http.Request) -> http.Response:
        begun = perf_counter()
        response: http.Response = await handler(request)
        took = (perf_counter() - begun) * 1000
        print(f"{request.method} {request.target} {response.status} {took:.1f} ms", flush=True)
        return response

    return handle


def with_token(handler: http.Handler) -> http.Handler:
    """Let only those pass who know the token (RFC 6750)."""

    async def handle(request: http.Request) -> http.Response:
        sent = request.headers.get("authorization", "")
        if not hmac.compare_digest(sent.encode(), f"Bearer {TOKEN}".encode()):
            raise http.HTTPError(401, headers={"www-authenticate": "Bearer"})
        response: http.Response = await handler(request)
        return response

    return handle


site = http.Router()
site.use(logged)

api = http.Router()
api.use(with_token)
site.mount("/api", api)


@site.get("/")
async def home(request: http.Request) -> http.Response:
    """Answer anybody."""
    return http.Response("Welcome\n")


@api.get("/secrets")
async def secrets(request: http.Request) -> http.Response:
    """Answer those who know the token."""
    return http.json(["the answer is 42"])


http.listen("127.0.0.1:8080", site)
